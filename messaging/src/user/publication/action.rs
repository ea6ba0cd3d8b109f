//! What the owner must do for a user.

use std::sync::Arc;

use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza::Stanza;

use super::session::SessionKey;

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
    /// End an older stream that held the same resource (`conflict`).
    Kick(SessionKey),
    /// End a stream whose account is gone (`not-authorized`).
    Expel(SessionKey),
}
