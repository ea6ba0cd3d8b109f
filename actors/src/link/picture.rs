//! A node's picture of its sessions and occupants of one partition: what its next attachment says.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use cluster::link::protocol::{AttachPart, AttachRoom, AttachUser};
use messaging::user::publication::{
    PublicationSettings, SessionEvent, SessionKey, SessionState, directed_has_room,
};
use xmpp::jid::{BareJid, FullJid, Jid};

/// What an owner took so shortly before its end, or before another one was attached to, it may not have told: it may have noted it
/// in the log, and died or stood still. A node that is silent is noticed after five to six seconds, its successor stands after two.
const UNTOLD_FOR: Duration = Duration::from_secs(8);

/// For how long after that an owner is asked to tell it: the first one may be lost, too.
const TOLD_AGAIN_FOR: Duration = Duration::from_secs(15);

/// Changes of presence that are remembered for it.
const CHANGES_MAX: usize = 16_384;

/// For how long after an attachment rows may come that its owner did not know to be given: longer than it takes to answer.
const CROSSING_FOR: Duration = Duration::from_secs(10);

/// The sessions and occupants that a node has of one partition.
#[derive(Debug, Default)]
pub(super) struct Picture {
    users: HashMap<BareJid, Vec<SessionState>>,
    rooms: HashMap<BareJid, HashSet<FullJid>>,
    untold: Untold,
    crossing: Crossing,
}

/// Rows, by the session's number, that sessions were given since the last attachment said what they have: they were on their
/// way when it left, so that its owner took them for lost and sends them once more.
#[derive(Debug, Default)]
struct Crossing {
    until: Option<Instant>,
    given: HashSet<(u64, u64)>,
}

impl Crossing {
    fn begin(&mut self, now: Instant) {
        self.until = Some(now + CROSSING_FOR);
        self.given.clear();
    }

    /// Whether a session is given a row for the first time, as far as that is remembered.
    fn is_first(&mut self, session: u64, row: u64, now: Instant) -> bool {
        if self.until.is_some_and(|until| now < until) {
            return self.given.insert((session, row));
        }
        if self.until.take().is_some() {
            self.given = HashSet::new();
        }
        true
    }
}

/// Sessions, by number, whose presence an owner that was lost may not have told anybody.
#[derive(Debug, Default)]
struct Untold {
    /// Changes of the last seconds, oldest first.
    changes: VecDeque<(Instant, u64)>,
    /// Since when, because of a loss.
    since: HashMap<u64, Instant>,
}

impl Untold {
    fn changed(&mut self, session: u64, now: Instant) {
        self.changes.push_back((now, session));
        let is_old = |(at, _): &(Instant, u64)| *at + UNTOLD_FOR < now;
        while self.changes.len() > CHANGES_MAX || self.changes.front().is_some_and(is_old) {
            self.changes.pop_front();
        }
    }

    fn owner_lost(&mut self, now: Instant) {
        self.forget(now);
        // Whoever was asked to tell these is gone as well.
        self.since.values_mut().for_each(|since| *since = now);
        let changes = std::mem::take(&mut self.changes).into_iter();
        let young = changes.filter(|(at, _)| *at + UNTOLD_FOR >= now);
        self.since.extend(young.map(|(_, session)| (session, now)));
    }

    /// Those whose owner was lost; and those that an owner who has handed over had no time to tell, as it tells nobody of a
    /// session before the log has it.
    fn sessions(&self, now: Instant) -> HashSet<u64> {
        let young = self
            .changes
            .iter()
            .filter(|(at, _)| *at + UNTOLD_FOR >= now);
        let young = young.map(|(_, session)| *session);
        self.since.keys().copied().chain(young).collect()
    }

    fn forget(&mut self, now: Instant) {
        self.since.retain(|_, since| *since + TOLD_AGAIN_FOR >= now);
    }
}

impl Picture {
    /// The owner has granted a resource.
    pub(super) fn bound(&mut self, key: SessionKey) {
        let sessions = self.users.entry(key.jid.bare()).or_default();
        sessions.retain(|session| session.key.jid != key.jid);
        // Mostly the only one: no room for four.
        sessions.reserve_exact(1);
        sessions.push(SessionState {
            key,
            flags: Default::default(),
            presence: None,
            directed: Vec::new(),
            unacknowledged: Vec::new(),
            newest_row: 0,
            untold: false,
        });
    }

    /// A session of another node is this node's now.
    pub(super) fn adopted(&mut self, state: SessionState) {
        let sessions = self.users.entry(state.key.jid.bare()).or_default();
        sessions.retain(|session| session.key.jid != state.key.jid);
        sessions.push(state);
    }

    /// A session is sent a row of its user's log; `false`: it has it already.
    pub(super) fn sent(
        &mut self,
        user: &BareJid,
        session: &FullJid,
        row: u64,
        now: Instant,
    ) -> bool {
        let mut sessions = self.users.get_mut(user).into_iter().flatten();
        let Some(session) = sessions.find(|state| state.key.jid == *session) else {
            return true;
        };
        let first = self.crossing.is_first(session.key.number, row, now);
        if first {
            session.unacknowledged.push(row);
            session.newest_row = session.newest_row.max(row);
        }
        first
    }

    /// Something happened to a session; `true`: it was its user's last one.
    pub(super) fn note(&mut self, event: &SessionEvent) -> bool {
        if matches!(
            event,
            SessionEvent::Sends { .. }
                | SessionEvent::Yields { .. }
                | SessionEvent::Stays { .. }
                | SessionEvent::Leaves { .. }
        ) {
            return false;
        }
        let key = event.key();
        let bare = key.jid.bare();
        let Some(sessions) = self.users.get_mut(&bare) else {
            return false;
        };
        let Some(index) = sessions.iter().position(|session| session.key == *key) else {
            return false;
        };
        let session = &mut sessions[index];
        match event {
            SessionEvent::Sends { .. }
            | SessionEvent::Yields { .. }
            | SessionEvent::Stays { .. }
            | SessionEvent::Leaves { .. } => {}
            SessionEvent::Flags { flags, .. } => session.flags = *flags,
            SessionEvent::Presence { stanza, .. } => {
                let unavailable = stanza.type_.as_deref() == Some("unavailable");
                session.presence = (!unavailable).then(|| stanza.clone());
            }
            SessionEvent::Directed { stanza, .. } => {
                if let Some(to) = stanza.to.clone() {
                    let gone = stanza.type_.as_deref() == Some("unavailable");
                    note_directed(&mut session.directed, to, gone);
                }
            }
            SessionEvent::Acknowledged { seq, .. } => {
                // In the order of sending: an older row may have been sent after newer ones.
                let unacknowledged = &mut session.unacknowledged;
                if let Some(upto) = unacknowledged.iter().position(|row| row == seq) {
                    unacknowledged.drain(..=upto);
                }
            }
            SessionEvent::Down { .. } => {
                sessions.swap_remove(index);
                if sessions.is_empty() {
                    self.users.remove(&bare);
                    return true;
                }
            }
        }
        false
    }

    /// A session is in a room now.
    pub(super) fn entered(&mut self, room: &BareJid, session: FullJid) {
        self.rooms.entry(room.clone()).or_default().insert(session);
    }

    /// A session is in a room no longer; `true`: nobody of the node is.
    pub(super) fn left(&mut self, room: &BareJid, session: &FullJid) -> bool {
        let Some(occupants) = self.rooms.get_mut(room) else {
            return true;
        };
        occupants.remove(session);
        let empty = occupants.is_empty();
        if empty {
            self.rooms.remove(room);
        }
        empty
    }

    /// A session's presence goes to the owner now.
    pub(super) fn presence_changed(&mut self, session: &SessionKey, now: Instant) {
        self.untold.changed(session.number, now);
    }

    /// The connection to the owner is gone, perhaps with what it was about to tell.
    pub(super) fn owner_lost(&mut self, now: Instant) {
        self.untold.owner_lost(now);
    }

    /// All of it; how far each log was read is filled in elsewhere.
    pub(super) fn snapshot(&mut self, now: Instant) -> (Vec<AttachUser>, Vec<AttachRoom>) {
        self.untold.forget(now);
        self.crossing.begin(now);
        let untold = self.untold.sessions(now);
        let state = |session: &SessionState| SessionState {
            untold: untold.contains(&session.key.number),
            ..session.clone()
        };
        let users = self.users.iter().map(|(user, sessions)| AttachUser {
            user: user.clone(),
            cursor: 0,
            sessions: sessions.iter().map(state).collect(),
        });
        let rooms = self.rooms.iter().map(|(room, occupants)| AttachRoom {
            room: room.clone(),
            cursor: 0,
            occupants: occupants.iter().cloned().collect(),
        });
        (users.collect(), rooms.collect())
    }

    /// The sessions.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &SessionKey> {
        let sessions = self.users.values().flatten();
        sessions.map(|session| &session.key)
    }

    /// Forgets a user or room; gives the sessions that it had.
    pub(super) fn leave_out(&mut self, key: &BareJid) -> Vec<FullJid> {
        let occupants = self.rooms.remove(key).into_iter().flatten();
        let sessions = self.users.remove(key).into_iter().flatten();
        occupants
            .chain(sessions.map(|session| session.key.jid))
            .collect()
    }
}

/// Whom a session has sent directed presence, within the bounds that the owner has, too: it refuses what is beyond.
fn note_directed(directed: &mut Vec<Jid>, to: Jid, gone: bool) {
    let directed_max = PublicationSettings::default().directed_max;
    if gone {
        directed.retain(|jid| *jid != to);
    } else if !directed.contains(&to) && directed_has_room(directed.iter(), &to, directed_max) {
        directed.push(to);
    }
}

/// The user or room that takes the most bytes of an attachment.
pub(super) fn largest(part: &AttachPart) -> Option<BareJid> {
    let users = part.users.iter().map(|user| (user_bytes(user), &user.user));
    let rooms = part.rooms.iter().map(|room| (room_bytes(room), &room.room));
    let largest = users.chain(rooms).max_by_key(|(bytes, _)| *bytes);
    largest.map(|(_, key)| key.clone())
}

fn user_bytes(user: &AttachUser) -> usize {
    let session = |session: &SessionState| {
        let presence = session
            .presence
            .as_ref()
            .map_or(0, |presence| presence.size_hint());
        let directed: usize = session.directed.iter().map(|jid| jid.as_str().len()).sum();
        presence + directed + session.unacknowledged.len() * 8
    };
    user.sessions.iter().map(session).sum()
}

fn room_bytes(room: &AttachRoom) -> usize {
    room.occupants.iter().map(|jid| jid.as_str().len()).sum()
}

#[cfg(test)]
mod tests {
    use xmpp::stanza::{Stanza, StanzaKind};

    use super::*;

    fn state(number: u64, directed: usize) -> SessionState {
        let to = |n: usize| Jid::parse(&format!("friend{n}@localhost")).unwrap();
        SessionState {
            key: SessionKey {
                node: 1,
                number,
                jid: FullJid::parse(&format!("romeo@localhost/{number}")).unwrap(),
            },
            flags: Default::default(),
            presence: None,
            directed: (0..directed).map(to).collect(),
            unacknowledged: Vec::new(),
            newest_row: 0,
            untold: false,
        }
    }

    #[test]
    fn directed_presence_is_noted_within_bounds() {
        let mut directed = Vec::new();
        let jid = |n: usize| Jid::parse(&format!("friend{n}@localhost")).unwrap();
        for n in 0..100_000 {
            note_directed(&mut directed, jid(n % 5_000), false);
        }
        assert_eq!(directed.len(), 1_000);
        note_directed(&mut directed, jid(7), true);
        assert!(!directed.contains(&jid(7)));
        note_directed(&mut directed, jid(4_000), false);
        assert!(directed.contains(&jid(4_000)));
    }

    #[test]
    fn the_largest_of_an_attachment_is_found() {
        let bare = |text: &str| BareJid::parse(text).unwrap();
        let check = |users: &[(&str, usize)], rooms: &[(&str, usize)], expect: Option<&str>| {
            let user = |(name, directed): &(&str, usize)| AttachUser {
                user: bare(name),
                cursor: 0,
                sessions: vec![state(1, 1), state(2, *directed)],
            };
            let occupant = |n| FullJid::parse(&format!("friend{n}@localhost/x")).unwrap();
            let room = |(name, occupants): &(&str, usize)| AttachRoom {
                room: bare(name),
                cursor: 0,
                occupants: (0..*occupants).map(occupant).collect(),
            };
            let part = AttachPart {
                users: users.iter().map(user).collect(),
                rooms: rooms.iter().map(room).collect(),
                ..AttachPart::default()
            };
            assert_eq!(largest(&part), expect.map(bare));
        };
        check(&[], &[], None);
        check(
            &[("a@localhost", 3), ("b@localhost", 9)],
            &[("r@rooms", 5)],
            Some("b@localhost"),
        );
        check(
            &[("a@localhost", 3), ("b@localhost", 9)],
            &[("r@rooms", 50)],
            Some("r@rooms"),
        );
    }

    #[test]
    fn what_sessions_said_is_what_an_attachment_says() {
        let mut picture = Picture::default();
        let (key, other) = (state(1, 0).key, state(2, 0).key);
        picture.bound(key.clone());
        picture.bound(other.clone());
        let stanza = |type_: &'static str| Stanza {
            type_: Some(type_).filter(|said| !said.is_empty()).map(Into::into),
            ..Stanza::new(StanzaKind::Presence)
        };
        let presence = |type_| SessionEvent::Presence {
            key: key.clone(),
            stanza: stanza(type_),
        };
        let of = |picture: &mut Picture| {
            let (users, _) = picture.snapshot(Instant::now());
            let sessions = users.into_iter().flat_map(|user| user.sessions);
            sessions.into_iter().find(|state| state.key.number == 1)
        };
        assert!(!picture.note(&presence("")));
        assert!(of(&mut picture).unwrap().presence.is_some());
        picture.note(&presence("unavailable"));
        assert!(of(&mut picture).unwrap().presence.is_none());
        for row in [5, 7, 6] {
            picture.sent(&key.jid.bare(), &key.jid, row, Instant::now());
        }
        let acknowledged = |seq| SessionEvent::Acknowledged {
            key: key.clone(),
            seq,
        };
        picture.note(&acknowledged(7));
        assert_eq!(of(&mut picture).unwrap().unacknowledged, [6]);
        assert_eq!(of(&mut picture).unwrap().newest_row, 7);
        let down = |key: &SessionKey| SessionEvent::Down {
            key: key.clone(),
            stanza: stanza("unavailable"),
        };
        assert!(!picture.note(&down(&other)));
        assert!(picture.note(&down(&key)), "the user's last session");
        assert!(!picture.note(&down(&key)), "known no longer");
        assert!(picture.snapshot(Instant::now()).0.is_empty());
    }

    #[test]
    fn a_row_that_crossed_an_attachment_is_given_once() {
        let start = Instant::now();
        let mut picture = Picture::default();
        let (one, two) = (state(1, 0).key, state(2, 0).key);
        picture.bound(one.clone());
        picture.bound(two.clone());
        let sent = |picture: &mut Picture, key: &SessionKey, row, seconds| {
            let now = start + Duration::from_secs(seconds);
            picture.sent(&key.jid.bare(), &key.jid, row, now)
        };
        assert!(sent(&mut picture, &one, 5, 0));
        picture.snapshot(start);
        assert!(sent(&mut picture, &one, 6, 1));
        picture.note(&SessionEvent::Acknowledged {
            key: one.clone(),
            seq: 6,
        });
        assert!(!sent(&mut picture, &one, 6, 2), "acknowledged or not");
        assert!(sent(&mut picture, &two, 6, 2));
        assert!(sent(&mut picture, &one, 4, 2), "an older one that waited");
        let (users, _) = picture.snapshot(start + Duration::from_secs(3));
        let of_one = users[0].sessions.iter().find(|state| state.key == one);
        assert_eq!(
            of_one.map(|state| &state.unacknowledged[..]),
            Some(&[4][..])
        );
        sent(&mut picture, &one, 7, 20);
        assert!(picture.crossing.given.is_empty(), "nothing is kept");
    }

    #[test]
    fn what_changed_right_before_its_owner_was_lost_is_said_to_be_untold() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut picture = Picture::default();
        for number in 1..=3 {
            picture.bound(state(number, 0).key);
        }
        let untold = |picture: &mut Picture, seconds| {
            let (users, _) = picture.snapshot(at(seconds));
            let sessions = users.into_iter().flat_map(|user| user.sessions);
            let untold = sessions.filter(|session| session.untold);
            let mut untold: Vec<u64> = untold.map(|session| session.key.number).collect();
            untold.sort_unstable();
            untold
        };
        picture.presence_changed(&state(1, 0).key, at(0));
        picture.presence_changed(&state(2, 0).key, at(4));
        assert_eq!(untold(&mut picture, 10), [2], "not told yet, perhaps");
        assert!(untold(&mut picture, 13).is_empty(), "its owner lives");
        picture.owner_lost(at(9));
        assert_eq!(untold(&mut picture, 13), [2]);
        // The next owner is lost before it can tell.
        picture.presence_changed(&state(3, 0).key, at(17));
        picture.owner_lost(at(18));
        assert_eq!(untold(&mut picture, 19), [2, 3]);
        assert!(untold(&mut picture, 34).is_empty());
        for n in 0..40_000 {
            picture.presence_changed(&state(n, 0).key, at(40));
        }
        assert_eq!(picture.untold.changes.len(), CHANGES_MAX);
    }

    #[test]
    fn a_room_is_read_while_somebody_is_in() {
        let mut picture = Picture::default();
        let room = BareJid::parse("den@rooms").unwrap();
        let (one, two) = (state(1, 0).key.jid, state(2, 0).key.jid);
        picture.entered(&room, one.clone());
        picture.entered(&room, two.clone());
        assert!(!picture.left(&room, &one));
        assert_eq!(picture.leave_out(&room), std::slice::from_ref(&two));
        assert!(picture.left(&room, &two));
    }
}
