//! Whose disk a commit waits for.
//!
//! An entry is committed once a quorum has it on disk: of three voters the leader and one more. While that one is well the
//! fdatasync of the third decides nothing, so the third is told that its fdatasync may be shared with what comes next
//! ([`storage::log::Log::append_shared`]). Nothing counts before it is on disk, here as there.
//!
//! A follower that is counted on is one that answers: in time, without an error, and with all but the last entries. As soon as
//! too few do, nobody's fdatasync waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::node_id::{Group, NodeId};

/// Whose answer takes longer is not waited for alone.
const PATIENCE: Duration = Duration::from_millis(10);

/// Who lacks more entries than this is catching up, and its answers commit nothing.
const LAG_MAX: u64 = 256;

/// A follower, by its last answers.
#[derive(Debug, Clone, Copy)]
struct Follower {
    /// Since when it owes an answer.
    asked: Option<Instant>,
    /// Its last answer was none, or late.
    failed: bool,
    /// The index of the last entry that it has on disk.
    has: u64,
}

/// The followers of a group, as its leader sees them.
#[derive(Debug)]
pub(super) struct CountedOn {
    group: Group,
    me: NodeId,
    /// Empty while voters change.
    voters: BTreeSet<NodeId>,
    followers: BTreeMap<NodeId, Follower>,
}

impl CountedOn {
    pub(super) fn new(group: Group, me: NodeId) -> CountedOn {
        CountedOn {
            group,
            me,
            voters: BTreeSet::new(),
            followers: BTreeMap::new(),
        }
    }

    /// The group's voters; none while they change.
    pub(super) fn learn_voters(&mut self, voters: BTreeSet<NodeId>) {
        self.followers.retain(|node, _| voters.contains(node));
        self.voters = voters;
    }

    /// Entries are on their way to a follower.
    pub(super) fn asks(&mut self, follower: NodeId, now: Instant) {
        let unknown = Follower {
            asked: None,
            failed: true,
            has: 0,
        };
        self.followers.entry(follower).or_insert(unknown).asked = Some(now);
    }

    /// It has the entries up to an index on disk, as it was asked to, or did not answer that. Where it had leave to wait, how long
    /// it took says nothing of its disk.
    pub(super) fn answers(
        &mut self,
        follower: NodeId,
        has: Option<u64>,
        shared: bool,
        now: Instant,
    ) {
        if let Some(follower) = self.followers.get_mut(&follower) {
            let is_late = is_late(follower.asked.take(), now) && !shared;
            follower.failed = has.is_none() || is_late;
            follower.has = has.unwrap_or(follower.has);
        }
    }

    /// It did not answer a heartbeat, or not as one does that has what it said it has.
    pub(super) fn fails(&mut self, follower: NodeId) {
        if let Some(follower) = self.followers.get_mut(&follower) {
            follower.failed = true;
        }
    }

    /// Whether a follower's fdatasync of the entries from `first` on may wait for company.
    pub(super) fn may_share(&self, follower: NodeId, first: u64, now: Instant) -> bool {
        let quorum = self.voters.len() / 2 + 1;
        // This node's own fdatasync is under way.
        let wanted = quorum - usize::from(self.voters.contains(&self.me));
        let before = self
            .order()
            .take_while(|other| *other != follower)
            .filter(|other| self.is_well(*other, first, now))
            .count();
        self.voters.contains(&follower) && before >= wanted
    }

    /// The followers, those first that are counted on first. Groups begin with different ones, so that no disk has more to do.
    fn order(&self) -> impl Iterator<Item = NodeId> {
        let others = || self.voters.iter().copied().filter(|node| *node != self.me);
        let count = others().count();
        // Leaders of neighbouring groups are different nodes, each of which shall begin with each of the others.
        let turn = usize::try_from(self.group.0).unwrap_or_default() / self.voters.len().max(1);
        let begin = turn.checked_rem(count).unwrap_or_default();
        others().cycle().skip(begin).take(count)
    }

    fn is_well(&self, node: NodeId, first: u64, now: Instant) -> bool {
        self.followers.get(&node).is_some_and(|follower| {
            !follower.failed
                && !is_late(follower.asked, now)
                && follower.has.saturating_add(LAG_MAX) >= first
        })
    }
}

fn is_late(asked: Option<Instant>, now: Instant) -> bool {
    asked.is_some_and(|asked| now.saturating_duration_since(asked) > PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    /// A leader, node 1, whose followers have answered up to entry 100.
    fn well(group: u32, ids: &[u64]) -> (CountedOn, Instant) {
        let mut counted = CountedOn::new(Group(group), NodeId(1));
        let now = Instant::now();
        counted.learn_voters(voters(ids));
        for id in ids {
            counted.asks(NodeId(*id), now);
            counted.answers(NodeId(*id), Some(100), false, now);
        }
        (counted, now)
    }

    fn sharing(counted: &CountedOn, first: u64, now: Instant) -> Vec<u64> {
        let ids = (2..=6).filter(|id| counted.may_share(NodeId(*id), first, now));
        ids.collect()
    }

    #[test]
    fn a_quorum_never_waits_and_the_others_may() {
        let check = |group: u32, ids: &[u64], expect: &[u64]| {
            let (counted, now) = well(group, ids);
            assert_eq!(sharing(&counted, 101, now), expect, "{group} {ids:?}");
        };
        check(0, &[1], &[]);
        check(0, &[1, 2], &[]);
        check(0, &[1, 2, 3], &[3]);
        check(2, &[1, 2, 3], &[3]);
        check(3, &[1, 2, 3], &[2]);
        check(6, &[1, 2, 3], &[3]);
        check(0, &[1, 2, 3, 4], &[4]);
        check(0, &[1, 2, 3, 4, 5], &[4, 5]);
        check(5, &[1, 2, 3, 4, 5], &[2, 5]);
        // Not a voter itself, it has no fdatasync that counts.
        check(0, &[2, 3, 4], &[4]);
    }

    #[test]
    fn who_does_not_answer_is_not_counted_on() {
        let (mut counted, now) = well(0, &[1, 2, 3]);
        counted.asks(NodeId(2), now);
        assert_eq!(sharing(&counted, 101, now + PATIENCE), [3]);
        let late = now + PATIENCE + Duration::from_millis(1);
        assert!(sharing(&counted, 101, late).is_empty());
        // It stays so when the late answer comes, until one comes in time.
        counted.answers(NodeId(2), Some(101), false, late);
        assert!(sharing(&counted, 101, late).is_empty());
        counted.asks(NodeId(2), late);
        counted.answers(NodeId(2), Some(102), false, late);
        assert_eq!(sharing(&counted, 103, late), [3]);
        // It did not answer, or not to a heartbeat.
        counted.answers(NodeId(2), None, false, now);
        assert!(sharing(&counted, 101, now).is_empty());
        counted.asks(NodeId(2), now);
        counted.answers(NodeId(2), Some(100), false, now);
        assert_eq!(sharing(&counted, 101, now), [3]);
        counted.fails(NodeId(2));
        assert!(sharing(&counted, 101, now).is_empty());
        // Who had leave to wait is not late.
        counted.asks(NodeId(2), now);
        counted.answers(NodeId(2), Some(100), true, late);
        assert_eq!(sharing(&counted, 101, now), [3]);
        // It is catching up.
        assert_eq!(sharing(&counted, 100 + LAG_MAX, now), [3]);
        assert!(sharing(&counted, 101 + LAG_MAX, now).is_empty());
    }

    #[test]
    fn nobody_waits_while_voters_change_or_are_new() {
        let (mut counted, now) = well(0, &[1, 2, 3]);
        counted.learn_voters(BTreeSet::new());
        assert!(sharing(&counted, 101, now).is_empty());
        counted.learn_voters(voters(&[1, 2, 3]));
        assert!(
            sharing(&counted, 101, now).is_empty(),
            "nobody has answered"
        );
        // What a learner answers counts for nothing.
        let (mut counted, now) = well(0, &[1, 3, 4]);
        counted.asks(NodeId(2), now);
        counted.answers(NodeId(2), Some(100), false, now);
        assert_eq!(sharing(&counted, 101, now), [4]);
    }
}
