//! One user who is online, as the owner of the user's partition sees it: sessions, their presence, what each was
//! sent and has not acknowledged. Soft state: a new owner rebuilds it from what the nodes say when they attach.
//!
//! ```text
//!  events of the nodes  ─┐
//!  effects of apply     ─┼─► Publication ─► actions: deliver, broadcast, probe, move the cursor
//!  stanzas of others    ─┘
//! ```

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::Stanza;

use crate::archive::ArchiveRow;

/// A session, unmistakably: a resource may be bound again by another stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The node that holds the socket.
    pub node: u64,
    /// Unique on that node during its incarnation.
    pub number: u64,
    /// Its address.
    pub jid: FullJid,
}

/// What a session asked for besides messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFlags {
    /// XEP-0280 is on.
    pub carbons: bool,
    /// It asked for the roster: it gets pushes (RFC 6121 §2.1.6).
    pub roster: bool,
    /// It asked for the blocklist: it gets pushes (XEP-0191 §3.2).
    pub blocklist: bool,
    /// It asked its archive before its first presence: no offline rows for it.
    pub archive_first: bool,
}

/// A session as its node describes it on attaching.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Which.
    pub key: SessionKey,
    /// What it asked for.
    pub flags: SessionFlags,
    /// Its last broadcast presence; `None`: not available.
    pub presence: Option<Stanza>,
    /// Whom it sent directed presence (RFC 6121 §4.6), rooms excepted.
    pub directed: Vec<Jid>,
    /// Rows it was sent and has not acknowledged.
    pub unacknowledged: Vec<u64>,
}

/// What a node says of a user's session. Numbered and taken in order by the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionEvent {
    /// It asked for something.
    Flags {
        /// Which session.
        key: SessionKey,
        /// All its flags now.
        flags: SessionFlags,
    },
    /// Broadcast presence, available or unavailable (RFC 6121 §4.2, §4.4, §4.5); `from` is the full JID.
    Presence {
        /// Which session.
        key: SessionKey,
        /// The presence, without `to`.
        stanza: Stanza,
    },
    /// Directed presence (RFC 6121 §4.6).
    Directed {
        /// Which session.
        key: SessionKey,
        /// The presence, with `to`.
        stanza: Stanza,
    },
    /// It acknowledged every row up to this one.
    Acknowledged {
        /// Which session.
        key: SessionKey,
        /// The newest row that is acknowledged.
        seq: u64,
    },
    /// The stream has ended.
    Down {
        /// Which session.
        key: SessionKey,
        /// The unavailable presence to broadcast if it was available.
        stanza: Stanza,
    },
}

impl SessionEvent {
    /// Which session it is about.
    pub fn key(&self) -> &SessionKey {
        match self {
            SessionEvent::Flags { key, .. }
            | SessionEvent::Presence { key, .. }
            | SessionEvent::Directed { key, .. }
            | SessionEvent::Acknowledged { key, .. }
            | SessionEvent::Down { key, .. } => key,
        }
    }
}

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
    /// Read the rows after this one from the archive and hand them to [`Publication::offline_rows`].
    ReadRows {
        /// For which session.
        session: SessionKey,
        /// Rows after this.
        after: u64,
        /// Up to this.
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
}

/// What the publication needs of the replicated state, read at the moment of use.
pub trait Contacts {
    /// Contacts that may see the user (`from` or `both`), not blocked.
    fn watchers(&self, user: &BareJid) -> Vec<BareJid>;
    /// Contacts whom the user may see (`to` or `both`), not blocked.
    fn watched(&self, user: &BareJid) -> Vec<BareJid>;
    /// May `asker` see the user?
    fn may_see(&self, user: &BareJid, asker: &BareJid) -> bool;
    /// Does the user block this JID?
    fn blocks(&self, user: &BareJid, other: &Jid) -> bool;
    /// Subscription requests that wait for the user's answer, as stanzas (RFC 6121 §3.1.3: shown again at each log-in).
    fn requests(&self, user: &BareJid) -> Vec<Stanza>;
    /// The delivery cursor and the head of the user's log.
    fn positions(&self, user: &BareJid) -> (u64, u64);
}

/// A row as it was read back.
pub type Row = Arc<ArchiveRow>;
