//! A client's stream from its first byte: no session without authentication, one end, in any pieces the same.
#![no_main]

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fuzz::{Choices, cut};
use libfuzzer_sys::fuzz_target;
use xmpp::jid::BareJid;
use xmpp::sasl::{Password, PasswordVerdict, StoredCredentials};
use xmpp::stream::{
    CloseReason, ServedDomains, StreamConfig, StreamCore, StreamEffect, StreamEvent,
    StreamManagementOffer, Transport,
};

const ITERATIONS: NonZeroU32 = NonZeroU32::new(2).unwrap();

fn credentials() -> StoredCredentials {
    static STORED: OnceLock<StoredCredentials> = OnceLock::new();
    let derive = || StoredCredentials::derive(&Password::new("secret"), &[2; 32], ITERATIONS);
    STORED
        .get_or_init(|| derive().expect("a good password"))
        .clone()
}

fn config(choices: u8) -> StreamConfig {
    let domain = BareJid::parse("example.org").expect("a domain");
    let is = |bit: u8| choices & 1 << bit != 0;
    StreamConfig {
        tls_offered: is(0),
        tls_required: is(0) && is(1),
        allow_plaintext_auth: is(2),
        registration: is(3),
        stream_management: StreamManagementOffer::Resumable,
        ..StreamConfig::new(ServedDomains::new(&domain), [1; 32], ITERATIONS)
    }
}

/// A connection whose questions are answered at once, from a store with one account: `romeo` with `secret`.
struct Peer {
    core: StreamCore,
    now: Instant,
    out: Vec<u8>,
    /// What happened, but for what was sent.
    said: Vec<String>,
    password_was_right: bool,
    authenticated: bool,
    bound: bool,
    closed: Option<CloseReason>,
}

impl Peer {
    fn new(choices: u8, now: Instant) -> Peer {
        let transport = match choices & 0x80 {
            0 => Transport::Plain,
            _ => Transport::DirectTls,
        };
        Peer {
            core: StreamCore::new(Arc::new(config(choices)), transport, [3; 32], now),
            now,
            out: Vec::new(),
            said: Vec::new(),
            password_was_right: false,
            authenticated: false,
            bound: false,
            closed: None,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.core.push_bytes(bytes, self.now);
        self.drain();
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.core.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            assert!(self.closed.is_none(), "behind the end: {effect:?}");
            if let Some(event) = self.carry_out(effect) {
                self.core.handle_event(event, self.now);
            }
        }
        assert_eq!(self.closed.is_some(), self.core.is_closed());
    }

    fn carry_out(&mut self, effect: StreamEffect) -> Option<StreamEvent> {
        self.note(&effect);
        match effect {
            StreamEffect::Send(bytes) => {
                self.out.extend_from_slice(&bytes);
                None
            }
            StreamEffect::StartTls => Some(StreamEvent::TlsEstablished),
            StreamEffect::LookupCredentials { account } => {
                let found = (account.as_str() == "romeo@example.org").then(credentials);
                Some(StreamEvent::CredentialsFound(found))
            }
            StreamEffect::CheckPassword(check) => {
                let verdict = check.run();
                self.password_was_right |= verdict == PasswordVerdict::Right;
                Some(StreamEvent::PasswordChecked(verdict))
            }
            StreamEffect::Authenticated { account } => {
                assert_eq!(account.as_str(), "romeo@example.org");
                // Nobody finds the proof of SCRAM by chance: it was the password.
                assert!(self.password_was_right, "let in without a password");
                self.authenticated = true;
                None
            }
            StreamEffect::Register { .. } => Some(StreamEvent::Registered),
            StreamEffect::BindResource { account, requested } => {
                assert!(self.authenticated);
                let resource = requested.unwrap_or_else(|| "generated".to_owned());
                let jid = account
                    .with_resource(&resource)
                    .expect("a resource that was checked");
                Some(StreamEvent::Bound(jid))
            }
            StreamEffect::Established(_) => {
                assert!(self.authenticated);
                self.bound = true;
                None
            }
            StreamEffect::Stanza(_) | StreamEffect::ClientState { .. } => {
                assert!(self.bound, "a stanza before a session");
                None
            }
            StreamEffect::StanzaAnswered { .. } => None,
            StreamEffect::StreamManagement(_) => {
                assert!(self.authenticated);
                None
            }
            StreamEffect::Close { reason } => {
                self.closed = Some(reason);
                None
            }
        }
    }

    fn note(&mut self, effect: &StreamEffect) {
        if !matches!(effect, StreamEffect::Send(_)) {
            self.said.push(format!("{effect:?}"));
        }
    }
}

/// What an unauthenticated stream may cost beyond four times its own bytes: header, error, end.
const OWED: usize = 400;

fuzz_target!(|data: &[u8]| {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let began = *BEGAN.get_or_init(Instant::now);
    let mut choices = Choices(data);
    let (settings, lengths) = (choices.byte(), choices.bytes(3));
    let bytes = choices.0;
    let mut whole = Peer::new(settings, began);
    whole.push(bytes);
    let text = String::from_utf8(whole.out.clone()).expect("the server writes UTF-8");
    assert!(text.matches("</stream:stream>").count() <= 1, "{text}");
    assert!(
        text.is_empty() || text.starts_with("<?xml version='1.0'?><stream:stream "),
        "{text}"
    );
    if !whole.authenticated {
        assert!(
            whole.out.len() <= 4 * bytes.len() + OWED,
            "{} bytes for {}",
            whole.out.len(),
            bytes.len()
        );
    }
    let mut pieces = Peer::new(settings, began);
    cut(bytes, lengths)
        .into_iter()
        .for_each(|piece| pieces.push(piece));
    // What stands behind `<starttls/>` in one piece with it is never read; and bytes are counted piece by piece.
    let cut_matters =
        whole.said.iter().any(|said| said.starts_with("StartTls")) || bytes.len() > 8 << 10;
    if !cut_matters {
        assert_eq!(whole.said, pieces.said);
        assert_eq!(text.as_bytes(), pieces.out);
    }
    pieces.wait(Duration::from_secs(200));
    if !pieces.bound {
        assert!(pieces.core.is_closed(), "nobody waits for ever");
    }
});
