//! A client's stream as the server sees it (RFC 6120 §4–7), without socket, clock or randomness.
//!
//! [`StreamCore`] takes bytes, events and the time, and yields effects. It restarts after TLS and SASL, keeps
//! unauthenticated peers within narrow bounds, and ends the stream with the condition that each violation
//! gets. Once a resource is bound it goes on framing and checking, and hands the stanzas over.
//!
//! ```text
//!   bytes ──► push_bytes ─┐                     ┌─► Send, StartTls, Close        (the connection)
//!  events ──► handle_event├─► [ StreamCore ] ─► poll_effect ─► LookupCredentials, … (the stores)
//!    time ──► handle_timeout                    └─► Stanza, StreamManagement     (the session)
//! ```
//!
//! Elements are read lazily: `poll_effect` frames the next one only when all effects of the last are taken.
//! A caller that stops polling has thereby stopped reading, and bytes stay where they are.

mod authentication;
mod binding;
mod bound;
mod config;
mod effect;
pub mod features;
mod header;
mod signup;
mod state;

#[cfg(test)]
mod tests;

pub use config::{
    DomainState, NegotiationLimits, ServedDomains, StreamConfig, StreamManagementOffer, Transport,
};
pub use effect::{CloseReason, StreamEffect, StreamEvent};

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};

use crate::jid::FullJid;
use crate::ns;
use crate::sasl::ScramHash;
use crate::scan::{Document, Element, Frame, Framer};
use crate::stanza::Stanza;
use crate::stream_error::{StreamError, StreamErrorCondition};
use state::{HeaderExpected, State};

const STREAM_END: &[u8] = b"</stream:stream>";

/// The state machine of one client connection.
pub struct StreamCore {
    config: Arc<StreamConfig>,
    framer: Framer,
    state: State,
    encrypted: bool,
    /// Whether our header is out since the last (re)start; it precedes any error (RFC 6120 §4.9.1.2).
    header_sent: bool,
    /// Whether our `</stream:stream>` is out: nothing may follow it (RFC 6120 §4.4).
    ended: bool,
    /// Passwords that were wrong, on this stream.
    wrong_proofs: u32,
    /// The default language of the peer's stanzas (RFC 6120 §4.7.4).
    lang: Option<Box<str>>,
    effects: VecDeque<StreamEffect>,
    /// Dropped when a resource is bound.
    negotiation: Option<Box<Negotiation>>,
    /// The time last told.
    now: Instant,
}

/// What is only needed until a resource is bound.
struct Negotiation {
    seed: [u8; 32],
    nonces: u32,
    elements: u32,
    /// Bytes since the beginning, until authentication.
    bytes: usize,
    /// Bytes since an answer is waited for.
    bytes_waiting: usize,
    step_by: Instant,
    end_by: Instant,
}

impl StreamCore {
    /// A new connection. `seed` is fresh, secret randomness, from which stream ids and nonces are drawn.
    pub fn new(
        config: Arc<StreamConfig>,
        transport: Transport,
        seed: [u8; 32],
        now: Instant,
    ) -> StreamCore {
        let limits = &config.negotiation;
        let negotiation = Negotiation {
            seed,
            nonces: 0,
            elements: 0,
            bytes: 0,
            bytes_waiting: 0,
            step_by: now + limits.step,
            end_by: now + limits.total,
        };
        StreamCore {
            framer: Framer::new(config.limits_before_auth),
            state: State::HeaderExpected(HeaderExpected { account: None }),
            encrypted: transport == Transport::DirectTls,
            header_sent: false,
            ended: false,
            wrong_proofs: 0,
            lang: None,
            effects: VecDeque::new(),
            negotiation: Some(Box::new(negotiation)),
            now,
            config,
        }
    }

    /// Bytes came in, decrypted where there is TLS.
    pub fn push_bytes(&mut self, bytes: &[u8], now: Instant) {
        self.now = now;
        if matches!(self.state, State::TlsHandshake | State::Closed) {
            // Behind `<starttls/>` nothing in plain text is ever read, or an attacker in the middle could
            // have it taken for the client's own (RFC 6120 §5.4.3.3).
            return;
        }
        if !self.affords(bytes.len()) {
            self.state = self.fail(StreamErrorCondition::PolicyViolation);
            return;
        }
        self.framer.push(bytes);
    }

    /// The next thing to do. Call until `None` after every other call; not calling it is back pressure.
    pub fn poll_effect(&mut self) -> Option<StreamEffect> {
        loop {
            if let Some(effect) = self.effects.pop_front() {
                return Some(effect);
            }
            if !self.state.reads() {
                return None;
            }
            match self.framer.next() {
                Ok(Some(frame)) => self.on_frame(frame),
                Ok(None) => {
                    // Nothing to do until bytes come, which is nearly always: no room is kept meanwhile.
                    self.effects = VecDeque::new();
                    return None;
                }
                Err(error) => self.state = self.fail(error),
            }
        }
    }

    /// Whether the stream would read more now. If not, the socket can wait: an answer has to come first.
    pub fn wants_bytes(&self) -> bool {
        self.state.reads()
    }

    /// Something happened that the stream was waiting for. What it does not wait for, it ignores: the peer
    /// may have closed the stream meanwhile.
    pub fn handle_event(&mut self, event: StreamEvent, now: Instant) {
        self.now = now;
        if let Some(negotiation) = &mut self.negotiation {
            negotiation.bytes_waiting = 0;
            negotiation.step_by = now + self.config.negotiation.step;
        }
        self.state = match (self.take_state(), event) {
            (State::TlsHandshake, StreamEvent::TlsEstablished) => {
                self.encrypted = true;
                self.restart(HeaderExpected { account: None })
            }
            (State::Unauthenticated(state), event) => self.unauthenticated_event(state, event),
            (State::BindExpected(state), event) => self.bind_event(state, event),
            (state, _) => state,
        };
    }

    /// How many wrong passwords were tried on this stream.
    pub fn wrong_proofs(&self) -> u32 {
        self.wrong_proofs
    }

    /// When [`StreamCore::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match (&self.state, &self.negotiation) {
            (State::Closed | State::Bound(_), _) => None,
            (_, Some(negotiation)) => Some(negotiation.step_by.min(negotiation.end_by)),
            (_, None) => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        self.state = match self.take_state() {
            State::TlsHandshake => self.end(CloseReason::TlsTimeout),
            _ => self.fail(StreamErrorCondition::ConnectionTimeout),
        };
    }

    /// Ends the stream with an error, after our header if that is not out yet.
    pub fn close(&mut self, error: StreamError) {
        self.state = match self.take_state() {
            State::Closed => State::Closed,
            // Whoever is in the middle of a handshake reads no XML.
            State::TlsHandshake => self.end(CloseReason::Error(error)),
            _ => self.fail(error),
        };
    }

    /// Ends the connection but not the session: nothing is sent, above all no `</stream:stream>`, on which
    /// clients drop what they have not seen acknowledged. A last `<a/>` is the caller's to send before.
    pub fn close_unfinished(&mut self) {
        if !matches!(self.state, State::Closed) {
            self.state = self.end(CloseReason::Unfinished);
        }
    }

    /// The address of the client, once bound.
    pub fn jid(&self) -> Option<&FullJid> {
        match &self.state {
            State::Bound(bound) => Some(&bound.jid),
            _ => None,
        }
    }

    /// The default language for the client's stanzas, if it named one (RFC 6120 §4.7.4).
    pub fn lang(&self) -> Option<&str> {
        self.lang.as_deref()
    }

    /// Whether the bytes travel encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Whether the stream is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    fn on_frame(&mut self, frame: Frame) {
        if !self.admits_step() {
            self.state = self.fail(StreamErrorCondition::PolicyViolation);
            return;
        }
        self.state = match (self.take_state(), frame) {
            (State::HeaderExpected(state), Frame::Header(header)) => self.on_header(state, &header),
            // The framer yields a header exactly after a (re)start, and never a second one.
            (_, Frame::Header(_)) | (State::HeaderExpected(_), _) => {
                self.fail(StreamErrorCondition::NotWellFormed)
            }
            (_, Frame::Close) => {
                self.send_stream_end();
                self.end(CloseReason::ByPeer)
            }
            (state, Frame::Element(document)) => self.on_element(state, document),
        };
    }

    fn on_element(&mut self, state: State, document: Document) -> State {
        let root = document.root();
        if root.is("error", ns::STREAM) {
            self.send_stream_end();
            return self.end(CloseReason::PeerError);
        }
        // A stanza of another kind of stream, say between servers (RFC 6120 §4.8.3).
        if is_stanza_name(root.name()) && matches!(root.ns(), ns::SERVER | ns::COMPONENT_ACCEPT) {
            return self.fail(StreamErrorCondition::InvalidNamespace);
        }
        match state {
            State::Unauthenticated(state) => self.unauthenticated_element(state, root),
            State::BindExpected(state) => self.bind_element(state, root),
            State::Bound(state) => self.bound_element(state, document),
            state => state,
        }
    }

    /// Counts a complete step of an unbound stream; `false` if it is one too many.
    fn admits_step(&mut self) -> bool {
        let unauthenticated = self.is_unauthenticated();
        let Some(negotiation) = &mut self.negotiation else {
            return true;
        };
        negotiation.step_by = self.now + self.config.negotiation.step;
        negotiation.elements += 1;
        !unauthenticated || negotiation.elements <= self.config.negotiation.elements_max
    }

    /// Counts the bytes of an unbound stream; `false` if they are too many.
    fn affords(&mut self, bytes: usize) -> bool {
        let (reads, unauthenticated) = (self.state.reads(), self.is_unauthenticated());
        let Some(negotiation) = &mut self.negotiation else {
            return true;
        };
        if unauthenticated {
            negotiation.bytes = negotiation.bytes.saturating_add(bytes);
        }
        if !reads {
            negotiation.bytes_waiting = negotiation.bytes_waiting.saturating_add(bytes);
        }
        negotiation.bytes <= self.config.negotiation.bytes_max
            && negotiation.bytes_waiting <= self.config.limits_after_auth.stanza_bytes_max
    }

    fn is_unauthenticated(&self) -> bool {
        match &self.state {
            State::HeaderExpected(state) => state.account.is_none(),
            State::Unauthenticated(_) | State::TlsHandshake => true,
            State::BindExpected(_) | State::Bound(_) | State::Closed => false,
        }
    }

    /// The stream begins anew, and nothing of the old one is kept (RFC 6120 §4.3.3).
    fn restart(&mut self, next: HeaderExpected) -> State {
        let limits = match next.account {
            None => self.config.limits_before_auth,
            Some(_) => self.config.limits_after_auth,
        };
        self.framer.reset();
        self.framer.set_limits(limits);
        self.header_sent = false;
        State::HeaderExpected(next)
    }

    /// Drawn from the seed, so unpredictable and never the same twice.
    fn nonce(&mut self) -> String {
        let Some(negotiation) = &mut self.negotiation else {
            return String::new();
        };
        negotiation.nonces += 1;
        let drawn = ScramHash::Sha256.hmac(&negotiation.seed, &[&negotiation.nonces.to_be_bytes()]);
        URL_SAFE_NO_PAD.encode(drawn.get(..16).unwrap_or(&drawn))
    }

    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Closed)
    }

    fn effect(&mut self, effect: StreamEffect) {
        self.effects.push_back(effect);
    }

    fn send(&mut self, bytes: Bytes) {
        self.effect(StreamEffect::Send(bytes));
    }

    fn send_stream_end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.send(Bytes::from_static(STREAM_END));
        }
    }

    fn send_stanza(&mut self, stanza: &Stanza) {
        let bytes = stanza_bytes(stanza);
        self.send(bytes);
    }

    /// Tells the error and closes (RFC 6120 §4.9.1.1: stream errors are unrecoverable).
    fn fail(&mut self, error: impl Into<StreamError>) -> State {
        let error = error.into();
        self.send_header_if_due();
        if !self.ended {
            self.send(error.to_bytes());
        }
        self.send_stream_end();
        self.end(CloseReason::Error(error))
    }

    fn end(&mut self, reason: CloseReason) -> State {
        self.effect(StreamEffect::Close { reason });
        self.negotiation = None;
        State::Closed
    }
}

impl fmt::Debug for StreamCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamCore")
            .field("state", &self.state)
            .field("encrypted", &self.encrypted)
            .finish_non_exhaustive()
    }
}

fn stanza_bytes(stanza: &Stanza) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    stanza.write(&mut out);
    out.freeze()
}

fn is_stanza_name(name: &str) -> bool {
    matches!(name, "message" | "presence" | "iq")
}

fn is_stanza(element: Element<'_>) -> bool {
    is_stanza_name(element.name()) && element.ns() == ns::CLIENT
}
