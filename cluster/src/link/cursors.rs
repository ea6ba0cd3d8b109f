//! Where a node stands in each key's log: what passes, what it has seen, what it misses.

use std::collections::{HashMap, HashSet, VecDeque};

use xmpp::jid::BareJid;

use super::protocol::Place;

/// How many keys without sessions are remembered, so that frames still on their way to them start no cursor.
const DEPARTED_MAX: usize = 128;

/// What a place in a log means for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is next.
    Next,
    /// It was seen.
    Again,
    /// Something before it is missing.
    Hole,
}

/// The cursors of one link.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    seen: HashMap<BareJid, u64>,
    /// The newest row that was heard of behind a hole.
    holes: HashMap<BareJid, u64>,
    departed: VecDeque<BareJid>,
}

impl Cursors {
    /// The newest row seen of a key; 0: none.
    pub(super) fn get(&self, key: &BareJid) -> u64 {
        self.seen.get(key).copied().unwrap_or(0)
    }

    /// Whether rows are missing.
    pub(super) fn has_holes(&self) -> bool {
        !self.holes.is_empty()
    }

    /// Judges a row and moves the cursor. `begins`: a session of the node is new to the key with this row.
    pub(super) fn read(&mut self, key: &BareJid, place: Place, begins: bool) -> Reading {
        match self.seen.get_mut(key) {
            None => {
                let begins = begins || place.previous.is_none_or(|previous| previous == 0);
                if begins || !self.departed.contains(key) {
                    self.departed.retain(|departed| departed != key);
                    self.seen.insert(key.clone(), place.seq);
                }
                Reading::Next
            }
            Some(seen) if place.seq <= *seen => Reading::Again,
            Some(seen) if place.previous.is_none_or(|previous| previous <= *seen) => {
                *seen = place.seq;
                self.close_hole(key, place.seq);
                Reading::Next
            }
            Some(_) => {
                let heard = self.holes.entry(key.clone()).or_default();
                *heard = place.seq.max(*heard);
                Reading::Hole
            }
        }
    }

    /// Starts a key's cursor: the log stands here, with nothing before it for the node. What it saw pass until then was for
    /// sessions that are gone, of this life of the node or the one before: they have no say in where it begins. An empty
    /// log (0) starts none, since 0 says "none" in an attachment.
    pub(super) fn start(&mut self, key: &BareJid, seq: u64) {
        if seq > 0 {
            self.welcome(key);
            let seen = self.seen.entry(key.clone()).or_default();
            *seen = seq.max(*seen);
            self.close_hole(key, seq);
        }
    }

    /// All that was heard of up to this row has come, or need not come.
    fn close_hole(&mut self, key: &BareJid, seq: u64) {
        if self.holes.get(key).is_some_and(|heard| *heard <= seq) {
            self.holes.remove(key);
        }
    }

    /// The key is about to have a session here.
    pub(super) fn welcome(&mut self, key: &BareJid) {
        self.departed.retain(|departed| departed != key);
    }

    /// The key has no session here any more.
    pub(super) fn forget(&mut self, key: &BareJid) {
        self.seen.remove(key);
        self.holes.remove(key);
        if !self.departed.contains(key) {
            self.departed.push_back(key.clone());
        }
        if self.departed.len() > DEPARTED_MAX {
            self.departed.pop_front();
        }
    }

    /// Only these keys have sessions here.
    pub(super) fn keep(&mut self, keys: &HashSet<&BareJid>) {
        self.seen.retain(|key, _| keys.contains(key));
        self.holes.retain(|key, _| keys.contains(key));
        self.departed.retain(|key| !keys.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Reading::{Again, Hole, Next};

    fn key(text: &str) -> BareJid {
        BareJid::parse(text).unwrap()
    }

    fn check(rows: &[(Option<u64>, u64, Reading)]) {
        let mut cursors = Cursors::default();
        let key = key("den@conference.localhost");
        for (previous, seq, expect) in rows {
            let place = Place {
                previous: *previous,
                seq: *seq,
            };
            assert_eq!(
                cursors.read(&key, place, false),
                *expect,
                "{place:?} of {rows:?}"
            );
        }
    }

    #[test]
    fn rows_pass_once_and_in_order() {
        check(&[
            (Some(6), 7, Next),
            (Some(7), 9, Next),
            (Some(7), 9, Again),
            (Some(9), 10, Next),
        ]);
        check(&[
            (None, 7, Next),
            (None, 7, Again),
            (None, 12, Next),
            (Some(7), 9, Again),
        ]);
        check(&[
            (Some(0), 7, Next),
            (Some(8), 9, Hole),
            (Some(7), 8, Next),
            (Some(8), 9, Next),
        ]);
        check(&[(Some(0), 7, Next), (Some(4), 8, Next)]);
    }

    #[test]
    fn a_hole_closes_when_all_that_was_heard_of_has_come() {
        let mut cursors = Cursors::default();
        let key = key("juliet@localhost");
        let mut read = |previous, seq| {
            let reading = cursors.read(
                &key,
                Place {
                    previous: Some(previous),
                    seq,
                },
                false,
            );
            (reading, cursors.has_holes())
        };
        assert_eq!(read(0, 1), (Next, false));
        assert_eq!(read(2, 3), (Hole, true));
        assert_eq!(read(3, 4), (Hole, true));
        assert_eq!(read(1, 3), (Next, true));
        assert_eq!(read(3, 4), (Next, false));
    }

    #[test]
    fn late_frames_start_no_cursor_for_a_key_that_left() {
        let mut cursors = Cursors::default();
        let key = key("juliet@localhost");
        let place = |previous, seq| Place {
            previous: Some(previous),
            seq,
        };
        cursors.start(&key, 5);
        cursors.forget(&key);
        assert_eq!(cursors.read(&key, place(5, 6), false), Next);
        assert_eq!(cursors.get(&key), 0);
        cursors.welcome(&key);
        assert_eq!(cursors.read(&key, place(8, 9), false), Next);
        cursors.start(&key, 4);
        assert_eq!(cursors.get(&key), 9);
    }

    /// A node that has just started is still sent what was for the sessions that it had before.
    #[test]
    fn a_cursor_starts_where_the_owner_says_whatever_passed_before() {
        let mut cursors = Cursors::default();
        let key = key("juliet@localhost");
        let place = |previous, seq| Place {
            previous: Some(previous),
            seq,
        };
        assert_eq!(cursors.read(&key, place(4, 5), false), Next);
        assert_eq!(cursors.read(&key, place(6, 7), false), Hole);
        cursors.start(&key, 9);
        assert_eq!((cursors.get(&key), cursors.has_holes()), (9, false));
        assert_eq!(cursors.read(&key, place(9, 10), false), Next);
        assert_eq!(cursors.read(&key, place(8, 9), false), Again);
    }

    #[test]
    fn keys_without_sessions_lose_their_cursors_with_an_attachment() {
        let mut cursors = Cursors::default();
        let (juliet, romeo) = (key("juliet@localhost"), key("romeo@localhost"));
        cursors.start(&juliet, 5);
        cursors.start(&romeo, 6);
        cursors.keep(&HashSet::from([&romeo]));
        assert_eq!((cursors.get(&juliet), cursors.get(&romeo)), (0, 6));
    }
}
