//! Who is who in a Lync pool, at any scale: users, sessions, contacts, rooms, and what each message is.
//!
//! Microsoft's figures for one pool: 80,000 people with 152,000 sessions and 50 contacts each; each in 12 small rooms of 30, in
//! 2 of 150 and in 2 of the 10 that have 16,000, which makes 33,077 rooms; 24 posts a second that make about 3,300
//! deliveries. Everybody has the mean number of contacts here, and everybody writes as much as everybody else.

use crate::scenario::presence::Circle;
use crate::scenario::room::Seating;

/// People of the whole pool.
const USERS: f64 = 80_000.0;
/// Sessions of the whole pool.
const SESSIONS: f64 = 152_000.0;
/// Messages between users, a second.
const CHAT_RATE: f64 = 417.0;
/// Changes of presence, a second.
const PRESENCE_RATE: f64 = 133.0;
/// Messages to rooms, a second.
const POST_RATE: f64 = 24.0;
/// Deliveries that a post makes, in the mean.
const DELIVERIES_A_POST: f64 = 3_300.0 / 24.0;
/// Contacts of each user.
const CONTACTS: usize = 50;
/// Fewer users have no 50 contacts.
const USERS_MIN: usize = 60;
/// Posts to rooms of middle size, of all.
const MIDDLE_SHARE: f64 = 0.2;
/// Posts to large rooms, at most: where rooms are scaled down, no share of them makes as many deliveries.
const LARGE_SHARE_MAX: f64 = 0.5;

/// The load, scaled.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) sessions: usize,
    pub(crate) circle: Circle,
    pub(crate) chat_rate: f64,
    pub(crate) presence_rate: f64,
    pub(crate) post_rate: f64,
    /// Small rooms, those of middle size, large ones.
    kinds: [Seating; 3],
    /// Posts to large rooms, of all.
    large_share: f64,
}

/// A room and what it is among its like.
struct Place {
    seating: Seating,
    room: usize,
    /// Seats of the rooms before.
    seats_before: usize,
}

impl Plan {
    /// At this scale; 1 is a whole pool.
    pub(crate) fn new(scale: f64, large_room_max: usize) -> Plan {
        let count = |whole: f64| (whole * scale).round() as usize;
        let users = count(USERS).max(USERS_MIN);
        let kind = |rooms: f64, occupants: usize| Seating {
            rooms: (rooms.round() as usize).max(1),
            occupants: occupants.min(users),
            sessions: users,
        };
        let people = users as f64;
        let large = (users / 5).min(large_room_max).max(1);
        let kinds = [
            kind(people * 12.0 / 30.0, 30),
            kind(people * 2.0 / 150.0, 150),
            kind(10.0, large),
        ];
        let [small, middle] = [30.0, 150.0];
        let without = MIDDLE_SHARE * middle + (1.0 - MIDDLE_SHARE) * small;
        let more = large as f64 - small;
        let large_share = match more > 0.0 {
            true => ((DELIVERIES_A_POST - without) / more).clamp(0.0, LARGE_SHARE_MAX),
            false => 0.0,
        };
        Plan {
            sessions: count(SESSIONS).clamp(users, 2 * users),
            circle: Circle {
                users,
                contacts: CONTACTS,
            },
            chat_rate: CHAT_RATE * scale,
            presence_rate: PRESENCE_RATE * scale,
            post_rate: POST_RATE * scale,
            kinds,
            large_share,
        }
    }

    /// Who has this session.
    pub(crate) fn user(&self, session: usize) -> usize {
        session % self.circle.users
    }

    /// Which of a user's sessions this is: 0 or 1.
    pub(crate) fn which(&self, session: usize) -> usize {
        session / self.circle.users
    }

    /// Whether a user has this session.
    pub(crate) fn has_session(&self, user: usize, which: usize) -> bool {
        user + which * self.circle.users < self.sessions
    }

    /// Who writes a message between users, and to whom: a contact.
    pub(crate) fn chat(&self, message: usize) -> (usize, usize) {
        let session = (mixed(message, 1) % self.sessions as u64) as usize;
        let slot = (mixed(message, 2) % self.circle.contacts as u64) as usize;
        (session, self.circle.contact(self.user(session), slot))
    }

    /// Whose presence changes. Everybody's turn comes before anybody's second.
    pub(crate) fn presence(&self, change: usize) -> usize {
        change % self.sessions
    }

    /// Places for a change of presence: two for each contact.
    pub(crate) fn watchers(&self) -> usize {
        2 * self.circle.contacts
    }

    /// Which of a change's places a session has, if it is a contact's.
    pub(crate) fn watcher(&self, change: usize, session: usize) -> Option<usize> {
        let (owner, watcher) = (self.user(self.presence(change)), self.user(session));
        let slot = self.circle.slot(owner, watcher)?;
        Some(2 * slot + self.which(session))
    }

    /// Whether there is a session in a change's place.
    pub(crate) fn has_watcher(&self, change: usize, place: usize) -> bool {
        let owner = self.user(self.presence(change));
        self.has_session(self.circle.contact(owner, place / 2), place % 2)
    }

    /// All rooms.
    pub(crate) fn rooms(&self) -> usize {
        self.kinds.iter().map(|kind| kind.rooms).sum()
    }

    /// Occupants of all rooms together.
    pub(crate) fn seats(&self) -> usize {
        let seats = self.kinds.iter().map(|kind| kind.rooms * kind.occupants);
        seats.sum()
    }

    fn place(&self, room: usize) -> Option<Place> {
        let (mut room, mut seats_before) = (room, 0);
        for seating in self.kinds {
            if room < seating.rooms {
                return Some(Place {
                    seating,
                    room,
                    seats_before,
                });
            }
            room -= seating.rooms;
            seats_before += seating.rooms * seating.occupants;
        }
        None
    }

    /// Occupants of a room.
    pub(crate) fn occupants(&self, room: usize) -> usize {
        self.place(room).map_or(0, |place| place.seating.occupants)
    }

    /// The greatest number of occupants of a room.
    pub(crate) fn occupants_max(&self) -> usize {
        self.kinds
            .iter()
            .map(|kind| kind.occupants)
            .fold(0, usize::max)
    }

    /// The session in a room's seat: its user's first.
    pub(crate) fn seated(&self, room: usize, occupant: usize) -> Option<usize> {
        let place = self.place(room)?;
        Some(place.seating.session(place.room, occupant))
    }

    /// The seat of a session in a room.
    pub(crate) fn occupant(&self, room: usize, session: usize) -> Option<usize> {
        let place = self.place(room).filter(|_| self.which(session) == 0)?;
        place.seating.occupant(place.room, session)
    }

    /// A seat's number among all.
    pub(crate) fn seat(&self, room: usize, occupant: usize) -> Option<usize> {
        let place = self.place(room)?;
        Some(place.seats_before + place.room * place.seating.occupants + occupant)
    }

    /// The room of a post, and which occupant writes.
    pub(crate) fn post(&self, post: usize) -> (usize, usize) {
        let [small, middle, large] = self.kinds;
        // 53 bits are a share between 0 and 1.
        let share = (mixed(post, 3) >> 11) as f64 / (1u64 << 53) as f64;
        let (before, kind) = if share < self.large_share {
            (small.rooms + middle.rooms, large)
        } else if share < self.large_share + MIDDLE_SHARE {
            (small.rooms, middle)
        } else {
            (0, small)
        };
        let room = (mixed(post, 4) % kind.rooms as u64) as usize;
        let occupant = (mixed(post, 5) % kind.occupants as u64) as usize;
        (before + room, occupant)
    }

    /// For people.
    pub(crate) fn rooms_shown(&self) -> String {
        let kinds = self
            .kinds
            .map(|kind| format!("{} × {}", kind.rooms, kind.occupants));
        format!("{} rooms ({})", self.rooms(), kinds.join(", "))
    }
}

/// A number that looks like chance and is always the same (SplitMix64).
fn mixed(number: usize, salt: u64) -> u64 {
    let mut z = (number as u64)
        .wrapping_add(salt << 48)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_pool_is_microsofts() {
        let plan = Plan::new(1.0, usize::MAX);
        assert_eq!((plan.circle.users, plan.sessions), (80_000, 152_000));
        assert_eq!(plan.rooms(), 33_077);
        assert_eq!(plan.occupants_max(), 16_000);
        assert_eq!(plan.seats(), 32_000 * 30 + 1_067 * 150 + 10 * 16_000);
        let deliveries: usize = (0..100_000)
            .map(|post| plan.occupants(plan.post(post).0))
            .sum();
        let mean = deliveries as f64 / 100_000.0;
        assert!((mean - DELIVERIES_A_POST).abs() < 15.0, "{mean}");
        assert_eq!(Plan::new(1.0, 1000).occupants_max(), 1000);
    }

    #[test]
    fn everybody_has_their_place_at_any_scale() {
        for (scale, large_max) in [(0.0001, 10), (0.01, usize::MAX), (0.05, 100), (0.37, 1000)] {
            let plan = Plan::new(scale, large_max);
            let users = plan.circle.users;
            assert!(plan.sessions >= users && plan.sessions <= 2 * users);
            assert!(plan.circle.contacts < users);
            let mut next_seat = 0;
            for room in 0..plan.rooms() {
                for occupant in 0..plan.occupants(room) {
                    let session = plan.seated(room, occupant).unwrap();
                    assert!(session < users);
                    assert_eq!(plan.occupant(room, session), Some(occupant));
                    assert_eq!(plan.seat(room, occupant), Some(next_seat));
                    next_seat += 1;
                }
                // Second sessions sit nowhere.
                assert_eq!(plan.occupant(room, users), None);
            }
            assert_eq!(next_seat, plan.seats());
            assert_eq!(plan.occupants(plan.rooms()), 0);
            assert_eq!(plan.seated(plan.rooms(), 0), None);
        }
    }

    #[test]
    fn messages_have_writers_and_readers() {
        let plan = Plan::new(0.01, usize::MAX);
        for message in 0..20 {
            let (session, to) = plan.chat(message);
            assert!(session < plan.sessions && to < plan.circle.users);
            assert!(plan.circle.slot(plan.user(session), to).is_some());
            let (room, occupant) = plan.post(message);
            assert!(room < plan.rooms() && occupant < plan.occupants(room));
            let watchers = (0..plan.sessions).filter_map(|one| plan.watcher(message, one));
            let watchers: std::collections::BTreeSet<usize> = watchers.collect();
            let places = 0..plan.watchers();
            let expect = places.filter(|place| plan.has_watcher(message, *place));
            assert!(watchers.into_iter().eq(expect), "{message}");
        }
    }
}
