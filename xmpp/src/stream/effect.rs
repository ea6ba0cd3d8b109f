//! What goes into a stream's state machine and what comes out of it.

use bytes::Bytes;

use crate::jid::{BareJid, FullJid};
use crate::sasl::{Password, PasswordCheck, PasswordVerdict, SaslCondition, StoredCredentials};
use crate::scan::Document;
use crate::stanza_error::{Condition, StanzaError};
use crate::stream_error::StreamError;
use crate::stream_management::Nonza;

/// Something has happened that the stream was waiting for.
#[derive(Debug)]
pub enum StreamEvent {
    /// The TLS handshake after [`StreamEffect::StartTls`] is done.
    TlsEstablished,
    /// Answers [`StreamEffect::LookupCredentials`]; `None`: no such account.
    CredentialsFound(Option<StoredCredentials>),
    /// Answers [`StreamEffect::LookupCredentials`] where the store cannot tell, or the account is disabled.
    CredentialsRefused(SaslCondition),
    /// Answers [`StreamEffect::CheckPassword`].
    PasswordChecked(PasswordVerdict),
    /// Answers [`StreamEffect::Register`]: the account exists now.
    Registered,
    /// Answers [`StreamEffect::Register`]: it does not.
    RegistrationRefused(StanzaError),
    /// Answers [`StreamEffect::BindResource`].
    Bound(FullJid),
    /// Answers [`StreamEffect::BindResource`].
    BindRefused(StanzaError),
    /// Answers a [`Nonza::Resume`]: the session is here now; `h` counts what it has handled.
    Resumed {
        /// The session's address.
        jid: FullJid,
        /// Handled stanzas of the client.
        h: u32,
    },
    /// Answers a [`Nonza::Resume`]: there is no such session; the client may bind.
    ResumeRefused {
        /// Usually item-not-found.
        condition: Condition,
        /// Handled stanzas of the lost session, if known; never too high.
        h: Option<u32>,
    },
}

/// What the connection must now do.
#[derive(Debug)]
pub enum StreamEffect {
    /// Write these bytes.
    Send(Bytes),
    /// Write what was to be sent, then take the server's part in a TLS handshake, then tell
    /// [`StreamEvent::TlsEstablished`]. Bytes read before are none of TLS's and must be thrown away.
    StartTls,
    /// Find what is stored about this account's password.
    LookupCredentials {
        /// The account the client claims to own.
        account: BareJid,
    },
    /// Run this where it blocks nobody.
    CheckPassword(Box<PasswordCheck>),
    /// The client has proved to own this account. A new header comes next.
    Authenticated {
        /// The account.
        account: BareJid,
    },
    /// Make an account (XEP-0077).
    Register {
        /// Its address.
        account: BareJid,
        /// Its password.
        password: Password,
    },
    /// Claim a resource of the account for this stream, making one up if none is asked for.
    BindResource {
        /// The account.
        account: BareJid,
        /// The prepared resource that the client would like.
        requested: Option<String>,
    },
    /// The stream is ready for stanzas.
    Established(FullJid),
    /// A stanza came in, its `from` checked to be absent or the client's own.
    Stanza(Document),
    /// The stream has answered a stanza itself. Both count where stream management counts.
    StanzaAnswered {
        /// A whole stanza: to be sent, and counted as sent.
        reply: Bytes,
    },
    /// Stream management: `Enable` comes once and after bind, `Request` and `Ack` after it; `Resume`
    /// comes instead of a bind and waits for an event.
    StreamManagement(Nonza),
    /// The client is looked at, or is not (XEP-0352).
    ClientState {
        /// Whether somebody looks.
        active: bool,
    },
    /// Write what was to be sent, then close the connection. Nothing follows.
    Close {
        /// Why.
        reason: CloseReason,
    },
}

/// Why a stream is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed it; the session ends (XEP-0198 §7).
    ByPeer,
    /// The peer reported an error and closed it.
    PeerError,
    /// We closed it and told why.
    Error(StreamError),
    /// The connection ends and the session goes on: no `</stream:stream>` was sent.
    Unfinished,
    /// The peer did not get on with TLS in time.
    TlsTimeout,
}
