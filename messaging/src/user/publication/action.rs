//! What the owner must do for a user.

use std::sync::Arc;

use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza::Stanza;

use super::moving::MoveRequest;
use super::session::{SessionKey, SessionState};

/// What the owner must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicationAction {
    /// Send a stanza to sessions (one serialisation for all of them; `to` differs). `row`: it is this row of the user's
    /// log: its acknowledgement moves the cursor.
    Deliver {
        /// To which.
        sessions: Vec<SessionKey>,
        /// What; `to` as is when set, else each session's JID.
        stanza: Arc<Stanza>,
        /// The row.
        row: Option<u64>,
    },
    /// Tell every node that has a session of the user the log's new position.
    Position {
        /// The nodes.
        nodes: Vec<u64>,
        /// The row before.
        previous: u64,
        /// The newest row.
        seq: u64,
    },
    /// Presence for contacts (their owners pass it on to their available sessions).
    Broadcast {
        /// To whom.
        contacts: Vec<BareJid>,
        /// What; without `to`.
        stanza: Arc<Stanza>,
    },
    /// Ask contacts for their presence (RFC 6121 §4.3).
    Probe {
        /// Whom.
        contacts: Vec<BareJid>,
    },
    /// A stanza for anybody (directed presence, answers, errors): routed by its `to`.
    Route(Stanza),
    /// Read every row between the two from the archive and hand them to [`super::Publication::offline_rows`], or say
    /// [`super::Publication::rows_unavailable`]. At most one read a session is under way.
    ReadRows {
        /// For which session.
        session: SessionKey,
        /// Rows after this one.
        after: u64,
        /// Up to this one, which is included.
        upto: u64,
    },
    /// Propose that the delivery cursor moves here (the shell gathers these for up to 5 s).
    AdvanceCursor(u64),
    /// Propose, lazily, that sessions are up or down.
    NoteSessions {
        /// Up.
        up: Vec<SessionKey>,
        /// Down.
        down: Vec<FullJid>,
    },
    /// Ask a session's node to give it up.
    Yield {
        /// Which session.
        session: SessionKey,
        /// To whom.
        to: MoveRequest,
    },
    /// A session's node has it no longer: what was delivered to it so far is to be handed over.
    Release {
        /// As it was.
        session: SessionKey,
        /// As it is.
        to: SessionKey,
    },
    /// A session's node keeps it after all.
    Stay {
        /// Which.
        session: SessionKey,
        /// Who wanted it.
        to: SessionKey,
    },
    /// Tell a node that the session it asked for is its own.
    Moved {
        /// Its number for the question.
        ask: u64,
        /// The session, under its new key.
        state: Box<SessionState>,
    },
    /// Tell a node that it does not get a session.
    MoveRefused {
        /// What the key would have been.
        to: SessionKey,
        /// Its number for the question.
        ask: u64,
        /// Whether there is such a session isn't known yet.
        for_now: bool,
    },
    /// End an older stream that held the same resource (`conflict`).
    Kick(SessionKey),
    /// End a stream whose account is gone (`not-authorized`).
    Expel(SessionKey),
}
