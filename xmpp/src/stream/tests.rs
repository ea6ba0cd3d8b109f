//! The stream from the peer's side: what it says, and what comes back.

mod bound;
mod header;
mod limits;
mod login;
mod properties;
mod refusals;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::jid::BareJid;
use crate::sasl::{Password, StoredCredentials};

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams' to='example.org' version='1.0'>";
/// `\0romeo\0secret`
const PLAIN: &str =
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHNlY3JldA==</auth>";
/// `\0romeo\0guess`
const PLAIN_GUESS: &str =
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAGd1ZXNz</auth>";
const BIND: &str = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
    <resource>orchard</resource></bind></iq>";
const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
const ENABLE: &str = "<enable xmlns='urn:xmpp:sm:3'/>";

fn domain(text: &str) -> BareJid {
    BareJid::parse(text).unwrap()
}

fn config() -> StreamConfig {
    let domains = ServedDomains::new(&domain("example.org"))
        .serve(&domain("example.net"))
        .retire(&domain("gone.example"));
    StreamConfig::new(domains, [1; 32], NonZeroU32::new(16).unwrap())
}

fn credentials() -> StoredCredentials {
    let iterations = NonZeroU32::new(16).unwrap();
    StoredCredentials::derive(&Password::new("secret"), &[2; 32], iterations).unwrap()
}

/// A connection whose lookups are answered at once from a store with one account, `romeo` with `secret`.
struct Peer {
    core: StreamCore,
    now: Instant,
    /// Whether effects that wait for an answer get one.
    answers: bool,
    closed: Option<CloseReason>,
}

/// How far a test starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was sent.
    Start,
    /// The header was.
    Header,
    /// Authenticated, with the new header sent.
    Authenticated,
    /// Bound.
    Bound,
}

impl Peer {
    fn new(config: StreamConfig, transport: Transport) -> Peer {
        let now = Instant::now();
        Peer {
            core: StreamCore::new(Arc::new(config), transport, [3; 32], now),
            now,
            answers: true,
            closed: None,
        }
    }

    fn tls_at(stage: Stage) -> Peer {
        Peer::at(stage, config())
    }

    fn at(stage: Stage, config: StreamConfig) -> Peer {
        let mut peer = Peer::new(config, Transport::DirectTls);
        if stage != Stage::Start {
            peer.send(HEADER);
        }
        if matches!(stage, Stage::Authenticated | Stage::Bound) {
            peer.send(PLAIN);
            peer.send(HEADER);
        }
        if stage == Stage::Bound {
            peer.send(BIND);
            assert!(peer.core.jid().is_some());
        }
        assert_eq!(peer.closed, None);
        peer
    }

    /// Sends and returns all that comes out: bytes as they are, other effects in brackets.
    fn send(&mut self, xml: &str) -> String {
        self.send_bytes(xml.as_bytes())
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> String {
        self.core.push_bytes(bytes, self.now);
        self.drain()
    }

    fn tell(&mut self, event: StreamEvent) -> String {
        self.core.handle_event(event, self.now);
        self.drain()
    }

    fn wait(&mut self, time: Duration) -> String {
        self.now += time;
        self.core.handle_timeout(self.now);
        self.drain()
    }

    fn drain(&mut self) -> String {
        let mut out = String::new();
        while let Some(effect) = self.core.poll_effect() {
            assert_eq!(self.closed, None, "nothing follows Close");
            let (shown, answer) = self.show(effect);
            out.push_str(&shown);
            if let Some(event) = answer.filter(|_| self.answers) {
                self.core.handle_event(event, self.now);
            }
        }
        out
    }

    fn show(&mut self, effect: StreamEffect) -> (String, Option<StreamEvent>) {
        match effect {
            StreamEffect::Send(bytes) => (text(&bytes), None),
            StreamEffect::StartTls => ("[tls]".to_owned(), Some(StreamEvent::TlsEstablished)),
            StreamEffect::LookupCredentials { account } => {
                let found = (account.as_str() == "romeo@example.org").then(credentials);
                (
                    format!("[lookup {account}]"),
                    Some(StreamEvent::CredentialsFound(found)),
                )
            }
            StreamEffect::CheckPassword(check) => (
                "[check]".to_owned(),
                Some(StreamEvent::PasswordChecked(check.run())),
            ),
            StreamEffect::Authenticated { account } => (format!("[authenticated {account}]"), None),
            StreamEffect::Register { account, password } => {
                let shown = format!("[register {account} {}]", password.reveal());
                (shown, Some(StreamEvent::Registered))
            }
            StreamEffect::BindResource { account, requested } => {
                let resource = requested.unwrap_or_else(|| "generated".to_owned());
                let jid = account.with_resource(&resource).unwrap();
                (format!("[bind {resource}]"), Some(StreamEvent::Bound(jid)))
            }
            StreamEffect::Established(jid) => (format!("[established {jid}]"), None),
            StreamEffect::Stanza(document) => {
                let root = document.root();
                (format!("[stanza {} {}]", root.name(), root.text()), None)
            }
            StreamEffect::StanzaAnswered { reply } => {
                (format!("[answered {}]", text(&reply)), None)
            }
            StreamEffect::StreamManagement(nonza) => (format!("[{nonza:?}]"), None),
            StreamEffect::ClientState { active } => (format!("[active {active}]"), None),
            StreamEffect::Close { reason } => {
                self.closed = Some(reason);
                ("[close]".to_owned(), None)
            }
        }
    }

    /// The condition that the stream was closed with.
    fn error(&self) -> Option<StreamErrorCondition> {
        match &self.closed {
            Some(CloseReason::Error(error)) => Some(error.condition),
            _ => None,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn assert_contains(out: &str, part: &str) {
    assert!(out.contains(part), "{part}\nis not in\n{out}");
}

/// The stream error and the end of the stream, as they must stand on the wire.
fn assert_ends_with_error(out: &str, condition: &str) {
    assert_contains(
        out,
        &format!("<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"),
    );
    assert!(
        out.ends_with("</stream:error></stream:stream>[close]"),
        "{out}"
    );
}
