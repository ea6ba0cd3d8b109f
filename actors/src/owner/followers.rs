//! Soft state that must not overtake what its sender did before, at the owner it is for.
//!
//! ```text
//!   sender's owner ── OutboxPropose 7 ──► log ─────► effects of 7 ─► publication
//!                  ── Stanza behind 7 ──► Followers ─ effects of 7 ─► publication
//! ```
//!
//! RFC 6120 §10.1: stanzas are delivered in the order in which they came. A message goes through the log of two partitions,
//! a chat state through none; so soft state names the newest entry of its sender's outbox that had no answer when it left,
//! and waits here until that entry's effects were told. It waits between the effects of that entry and the next one's, so
//! what was sent later comes later.
//!
//! What waits is bounded in number, bytes and time: an entry may need long to come, and a chat state is not worth that.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use cluster::link::protocol::{Across, Behind};
use cluster::node_id::PartitionId;

use super::OwnerActor;
use super::held_back::bytes_of;

/// How long soft state waits for an entry: as long as a partition may take to have a new owner.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// Words that wait at most.
const WORDS_MAX: usize = 8_192;

/// Bytes of them.
const WORDS_BYTES_MAX: usize = 16 * 1024 * 1024;

struct Follower {
    sequence: u64,
    due: Instant,
    across: Across,
}

/// What waits, by the partition it came from, in the order in which it came.
#[derive(Default)]
pub(super) struct Followers {
    ways: BTreeMap<PartitionId, VecDeque<Follower>>,
    words: usize,
    bytes: usize,
}

impl Followers {
    /// Keeps a word until the entry it follows was told; `told`: the newest that was. Gives back what may go on now, in
    /// order: the word itself if it need not wait, or, without room, all that came on the same way.
    fn enter(&mut self, behind: Behind, across: Across, told: u64, now: Instant) -> Vec<Across> {
        let sequence = behind.sequence;
        if sequence <= told {
            return vec![across];
        }
        let bytes = bytes_of(&across);
        if self.words >= WORDS_MAX || self.bytes + bytes > WORDS_BYTES_MAX {
            let mut all = self.take_while(behind.from, |_| true);
            all.push(across);
            return all;
        }
        self.words += 1;
        self.bytes += bytes;
        self.ways
            .entry(behind.from)
            .or_default()
            .push_back(Follower {
                sequence,
                due: now + WAIT_MAX,
                across,
            });
        Vec::new()
    }

    /// Entries of a partition up to this one were told.
    fn told(&mut self, from: PartitionId, upto: u64) -> Vec<Across> {
        self.take_while(from, |follower| follower.sequence <= upto)
    }

    /// What has waited too long.
    fn overdue(&mut self, now: Instant) -> Vec<Across> {
        let ways: Vec<PartitionId> = self.ways.keys().copied().collect();
        let overdue = |from| self.take_while(from, |follower| follower.due <= now);
        ways.into_iter().flat_map(overdue).collect()
    }

    /// Everything that waits: the reign is over.
    pub(super) fn release(&mut self) -> Vec<Across> {
        let ways: Vec<PartitionId> = self.ways.keys().copied().collect();
        let all = |from| self.take_while(from, |_| true);
        ways.into_iter().flat_map(all).collect()
    }

    fn take_while(&mut self, from: PartitionId, goes: impl Fn(&Follower) -> bool) -> Vec<Across> {
        let mut out = Vec::new();
        let Some(way) = self.ways.get_mut(&from) else {
            return out;
        };
        while let Some(follower) = way.pop_front_if(|follower| goes(follower)) {
            self.words -= 1;
            self.bytes -= bytes_of(&follower.across);
            out.push(follower.across);
        }
        if way.is_empty() {
            self.ways.remove(&from);
        }
        out
    }
}

impl OwnerActor {
    /// Soft state for users of this partition, not before what it follows.
    pub(super) fn soft_behind(&mut self, behind: Option<Behind>, across: Across) {
        let (Some(behind), Some(reign)) = (behind, &mut self.reign) else {
            return self.soft(across);
        };
        let told = reign.target.told_of_outbox(behind.from);
        let go = reign.followers.enter(behind, across, told, Instant::now());
        self.all_soft(go);
    }

    /// The effects of an entry of this partition's outbox were told.
    pub(super) fn outbox_was_told(&mut self, from: PartitionId) {
        let Some(reign) = &mut self.reign else { return };
        let told = reign.target.told_of_outbox(from);
        let go = reign.followers.told(from, told);
        self.all_soft(go);
    }

    /// What waited too long goes on.
    pub(super) fn let_followers_go(&mut self, now: Instant) {
        let Some(reign) = &mut self.reign else { return };
        let go = reign.followers.overdue(now);
        self.all_soft(go);
    }

    fn all_soft(&mut self, words: Vec<Across>) {
        for across in words {
            self.soft(across);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use xmpp::stanza::{Stanza, StanzaKind};

    use super::*;

    fn word(name: &str, bytes: usize) -> Across {
        Across::Stanza {
            stanza: Stanza {
                id: Some(name.into()),
                payload: Bytes::from(vec![b' '; bytes]),
                ..Stanza::new(StanzaKind::Message)
            },
            behind: None,
        }
    }

    fn names(words: Vec<Across>) -> String {
        let name = |word: &Across| match word {
            Across::Stanza { stanza, .. } => stanza.id.as_deref().unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        words.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    fn behind(from: u16, sequence: u64) -> Behind {
        let from = PartitionId(from);
        Behind { from, sequence }
    }

    #[test]
    fn a_word_waits_for_the_entry_it_follows_and_for_no_later_one() {
        let now = Instant::now();
        let mut followers = Followers::default();
        let mut enter = |from, sequence, name: &str, told| {
            names(followers.enter(behind(from, sequence), word(name, 1), told, now))
        };
        assert_eq!(enter(1, 3, "done", 3), "done");
        assert_eq!(enter(1, 5, "a", 3), "");
        assert_eq!(enter(1, 5, "b", 3), "");
        assert_eq!(enter(1, 6, "c", 3), "");
        assert_eq!(enter(2, 1, "elsewhere", 0), "");
        assert_eq!(names(followers.told(PartitionId(1), 4)), "");
        assert_eq!(names(followers.told(PartitionId(1), 5)), "a b");
        assert_eq!(names(followers.told(PartitionId(1), 6)), "c");
        assert_eq!(names(followers.told(PartitionId(2), 9)), "elsewhere");
        assert!(followers.ways.is_empty());
        assert_eq!((followers.words, followers.bytes), (0, 0));
    }

    #[test]
    fn an_entry_that_does_not_come_is_not_awaited_for_ever() {
        let now = Instant::now();
        let mut followers = Followers::default();
        assert!(
            followers
                .enter(behind(1, 1), word("a", 1), 0, now)
                .is_empty()
        );
        assert!(followers.overdue(now).is_empty());
        assert_eq!(names(followers.overdue(now + WAIT_MAX)), "a");
    }

    #[test]
    fn without_room_nothing_is_dropped_or_overtaken() {
        let now = Instant::now();
        let mut followers = Followers::default();
        for n in 0..16 {
            let word = word(&n.to_string(), 1_000_000);
            assert!(followers.enter(behind(1, 1), word, 0, now).is_empty());
        }
        let all = followers.enter(behind(1, 1), word("16", 1_000_000), 0, now);
        let expect: Vec<String> = (0..=16).map(|n| n.to_string()).collect();
        assert_eq!(names(all), expect.join(" "));
        for _ in 0..WORDS_MAX {
            assert!(
                followers
                    .enter(behind(2, 1), word("x", 1), 0, now)
                    .is_empty()
            );
        }
        assert_eq!(
            followers.enter(behind(2, 1), word("x", 1), 0, now).len(),
            WORDS_MAX + 1
        );
    }
}
