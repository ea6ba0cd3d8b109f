//! How far a stream has come. Each state owns exactly what is known by then, and a handler consumes the state
//! it was called in: what would come too early has no value to be called on.
//!
//! ```text
//!  HeaderExpected ──► Unauthenticated ──► TlsHandshake ──► HeaderExpected (encrypted)
//!        ▲                  │ SASL success
//!        └── Authenticated ◄┘
//!  HeaderExpected ──► BindExpected ──► Bound ──► Closed
//! ```

use crate::jid::{BareJid, FullJid};
use crate::sasl::plain::PlainMessage;
use crate::sasl::{ClientFirst, Mechanism, ProofExpected, ScramHash};
use crate::stanza::Stanza;

#[derive(Debug)]
pub(super) enum State {
    /// A stream header must come.
    HeaderExpected(HeaderExpected),
    /// The header came and nobody is authenticated.
    Unauthenticated(Unauthenticated),
    /// `<proceed/>` was sent; what comes is not ours to read.
    TlsHandshake,
    /// The account is known, its session is not.
    BindExpected(BindExpected),
    /// Stanzas flow.
    Bound(Bound),
    /// Nothing is read or written any more.
    Closed,
}

impl State {
    /// Whether another element may be read, or an answer has to come first.
    pub(super) fn reads(&self) -> bool {
        match self {
            State::HeaderExpected(_) | State::Bound(_) => true,
            State::Unauthenticated(state) => matches!(
                state.step,
                AuthStep::Idle | AuthStep::InitialResponse(_) | AuthStep::Proof { .. }
            ),
            State::BindExpected(state) => matches!(state.step, BindStep::Idle),
            State::TlsHandshake | State::Closed => false,
        }
    }
}

/// What a new header starts.
#[derive(Debug)]
pub(super) struct HeaderExpected {
    /// The account, if this is the restart after SASL.
    pub(super) account: Option<BareJid>,
}

#[derive(Debug)]
pub(super) struct Unauthenticated {
    /// The domain that the header named: served, prepared.
    pub(super) domain: BareJid,
    pub(super) step: AuthStep,
}

/// Where an authentication or registration stands.
#[derive(Debug)]
pub(super) enum AuthStep {
    /// None is under way.
    Idle,
    /// `<auth/>` came without data and was answered with an empty challenge.
    InitialResponse(Mechanism),
    /// What is stored about the account is being looked up.
    Lookup(Lookup),
    /// The SCRAM challenge is out.
    Proof {
        account: BareJid,
        expected: Box<ProofExpected>,
    },
    /// A password is being compared.
    PasswordCheck(BareJid),
    /// An account is being made; the iq is to be answered.
    Registration(Box<Stanza>),
}

/// Who was looked up, and what for.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) account: BareJid,
    pub(super) message: InitialMessage,
}

/// The first message of a mechanism.
#[derive(Debug)]
pub(super) enum InitialMessage {
    Scram(ScramHash, Box<ClientFirst>),
    Plain(Box<PlainMessage>),
}

#[derive(Debug)]
pub(super) struct BindExpected {
    pub(super) account: BareJid,
    pub(super) step: BindStep,
}

/// Where a bind stands.
#[derive(Debug)]
pub(super) enum BindStep {
    /// None is under way.
    Idle,
    /// A resource is being claimed; the iq is to be answered.
    Binding(Box<Stanza>),
    /// A session is being fetched.
    Resuming {
        /// The id that the client named.
        previd: String,
    },
}

#[derive(Debug)]
pub(super) struct Bound {
    pub(super) jid: FullJid,
    /// Whether `<enable/>` has come, or the session was resumed.
    pub(super) stream_management: bool,
}
