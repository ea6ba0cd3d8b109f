//! One user who is online, as the owner of the user's partition sees it: sessions, their presence, what each was
//! sent and has not acknowledged. Soft state: a new owner rebuilds it from what the nodes say when they attach.
//!
//! ```text
//!  events of the nodes  ─┐
//!  effects of apply     ─┼─► Publication ─► actions: deliver, broadcast, probe, move the cursor
//!  stanzas of others    ─┘
//! ```
//!
//! - [`session`]: what nodes say of sessions; how far each has read the user's log.
//! - [`lifecycle`]: sessions come, go, attach, vanish with their node, or are expected by the log.
//! - [`moving`]: sessions that go on at another node.
//! - [`presence`]: RFC 6121 §4, own sessions and contacts.
//! - [`rows`]: rows of the log to sessions, offline delivery, carbons; [`unsettled`]: what isn't acknowledged.
//! - [`routing`]: everything that is in no log.
//! - [`once`]: what was committed and no row shows, told and told again.
//! - [`seldom`]: collections that take no room while they are empty.

mod action;
mod contacts;
mod lifecycle;
mod moving;
mod once;
mod presence;
mod routing;
mod rows;
mod seldom;
mod session;
mod unsettled;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza::Stanza;

pub use action::PublicationAction;
pub use contacts::{Contacts, Row};
pub use moving::{MoveRequest, ResumptionToken};
pub use session::{SessionEvent, SessionFlags, SessionKey, SessionState, directed_has_room};

use moving::Mover;
use seldom::Seldom;
use session::Session;
use unsettled::Unsettled;

/// Limits of one user's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicationSettings {
    /// Sessions a user may have at once.
    pub resources_max: usize,
    /// Rows that one session may have been sent without acknowledging them; further rows wait in the log.
    pub unacknowledged_max: usize,
    /// Rows asked of the archive at once.
    pub read_rows_max: u64,
    /// Bytes of stanzas that one read gives a session; the next read waits until the client has them.
    pub read_bytes_max: usize,
    /// New rows that wait in memory while a session reads older ones; further rows are read, too.
    pub held_rows_max: usize,
    /// Probes that wait for sessions that are expected.
    pub held_probes_max: usize,
    /// Whom one session may have sent directed presence.
    pub directed_max: usize,
}

impl Default for PublicationSettings {
    fn default() -> Self {
        PublicationSettings {
            resources_max: 10,
            unacknowledged_max: 1_024,
            read_rows_max: 256,
            read_bytes_max: 1024 * 1024,
            held_rows_max: 64,
            held_probes_max: 1_024,
            directed_max: 1_000,
        }
    }
}

/// One user who is online. See the module docs.
#[derive(Debug)]
pub struct Publication {
    user: BareJid,
    settings: Arc<PublicationSettings>,
    /// In the order in which they were bound or attached.
    sessions: Vec<Session>,
    session_ids: u32,
    unsettled: Unsettled,
    /// Sessions that the log says were up and whose node has neither attached nor died.
    expected: Seldom<Vec<Expected>>,
    /// Sessions whose node was given up, and may come back with what they have.
    given_up: Seldom<Vec<GivenUp>>,
    /// Who wants sessions that are expected.
    early_movers: Seldom<Vec<Mover>>,
    /// Pushes sent so far.
    pushes: u32,
    /// Who asked for the user's presence meanwhile.
    held_probes: Seldom<BTreeSet<BareJid>>,
}

/// A session that an earlier owner said was up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    jid: FullJid,
    node: u64,
}

/// A session whose node this owner did not reach for long.
#[derive(Clone, Debug)]
struct GivenUp {
    key: SessionKey,
    /// The rows that it was sent and had not acknowledged, in the order of sending.
    sent: Vec<u64>,
}

/// How many of them are remembered of a user: more than there may be sessions.
const GIVEN_UP_MAX: usize = 16;

/// What a method asks to be done, in order.
type Actions = Vec<PublicationAction>;

impl Publication {
    /// A user without sessions. `position`: the head of the user's log as of which effects will follow.
    pub fn new(
        user: BareJid,
        position: u64,
        settings: impl Into<Arc<PublicationSettings>>,
    ) -> Publication {
        Publication {
            user,
            settings: settings.into(),
            sessions: Vec::new(),
            session_ids: 0,
            unsettled: Unsettled::new(position),
            expected: Seldom::default(),
            given_up: Seldom::default(),
            early_movers: Seldom::default(),
            pushes: 0,
            held_probes: Seldom::default(),
        }
    }

    /// Whose it is.
    pub fn user(&self) -> &BareJid {
        &self.user
    }

    /// The newest row that it was told of.
    pub fn position(&self) -> u64 {
        self.unsettled.position()
    }

    /// The sessions, available or not.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionKey> {
        self.sessions.iter().map(|session| &session.key)
    }

    /// Nodes that have a session of the user, in order.
    pub fn nodes(&self) -> Vec<u64> {
        let nodes: BTreeSet<u64> = self
            .sessions
            .iter()
            .map(|session| session.key.node)
            .collect();
        nodes.into_iter().collect()
    }

    /// Whether nothing would be lost by forgetting it: no session, nobody expected, the cursor committed.
    pub fn is_idle(&self, contacts: &dyn Contacts) -> bool {
        let committed = || contacts.positions(&self.user).0;
        self.sessions.is_empty()
            && self.expected.is_empty()
            && self.held_probes.is_empty()
            && self
                .unsettled
                .cursor()
                .is_none_or(|cursor| cursor <= committed())
    }

    /// Something happened to a session. Events of sessions that are unknown (ended, replaced) are ignored, except that
    /// what they sent goes out, and that contacts hear of the end of one whose owner died before the log knew of it.
    pub fn event(
        &mut self,
        event: SessionEvent,
        contacts: &dyn Contacts,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        if let SessionEvent::Sends { key, stanza } = event {
            self.sends(key, stanza, contacts, &mut out);
            return out;
        }
        let Some(index) = self.find(event.key()) else {
            match event {
                SessionEvent::Down { key, .. } if self.is_given_up(&key, &mut out) => {}
                SessionEvent::Down { key, stanza } => {
                    self.unknown_ended(&key, stanza, contacts, &mut out);
                }
                SessionEvent::Yields { key, to } => self.yielded(&key, &to, &mut out),
                _ => {}
            }
            return out;
        };
        match event {
            SessionEvent::Flags { flags, .. } => self.sessions[index].flags = flags,
            SessionEvent::Presence { stanza, .. } => {
                self.broadcast_presence(index, stanza, contacts, &mut out);
            }
            SessionEvent::Directed { stanza, .. } => {
                self.directed_presence(index, stanza, contacts, &mut out);
            }
            SessionEvent::Acknowledged { seq, .. } => self.acknowledged(index, seq),
            SessionEvent::Down { stanza, .. } => self.remove(index, stanza, contacts, &mut out),
            SessionEvent::Yields { key, to } => self.yielded(&key, &to, &mut out),
            SessionEvent::Stays { key, to } => self.stays(&key, &to, &mut out),
            // Above, and by whoever knows the other nodes.
            SessionEvent::Sends { .. } | SessionEvent::Leaves { .. } => {}
        }
        self.finish(&mut out);
        out
    }

    fn find(&self, key: &SessionKey) -> Option<usize> {
        self.sessions.iter().position(|session| session.key == *key)
    }

    fn find_jid(&self, jid: &str) -> Option<usize> {
        let mut sessions = self.sessions.iter();
        sessions.position(|session| session.key.jid.as_str() == jid)
    }

    fn add(&mut self, key: SessionKey, reader: session::Reader) -> usize {
        self.session_ids += 1;
        // Nearly all users have one session, and a vector's first growth is to four.
        self.sessions.reserve_exact(1);
        self.sessions
            .push(Session::new(u64::from(self.session_ids), key, reader));
        self.sessions.len() - 1
    }

    /// The keys of sessions that are available.
    fn available(&self) -> Vec<SessionKey> {
        self.keys(Session::is_available)
    }

    fn keys(&self, wanted: impl Fn(&Session) -> bool) -> Vec<SessionKey> {
        let sessions = self.sessions.iter().filter(|session| wanted(session));
        sessions.map(|session| session.key.clone()).collect()
    }
}

/// Adds a delivery, unless it is for nobody.
fn deliver(sessions: Vec<SessionKey>, stanza: &Arc<Stanza>, row: Option<u64>, out: &mut Actions) {
    if !sessions.is_empty() {
        let stanza = Arc::clone(stanza);
        out.push(PublicationAction::Deliver {
            sessions,
            stanza,
            row,
        });
    }
}
