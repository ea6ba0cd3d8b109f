//! What entries about members and voters do, as tables.

use super::*;
use crate::meta::targets::PlacementEntry;
use crate::meta::{MetaEntry, MetaState};
use crate::node_id::Group;

/// A pool of members, with two groups that all of them vote in; each entry gets the next index.
struct Pool {
    state: MetaState,
    index: u64,
}

impl Pool {
    fn new(members: u64) -> Pool {
        let mut pool = Pool {
            state: MetaState::default(),
            index: 0,
        };
        let ids: Vec<NodeId> = (1..=members).map(NodeId).collect();
        let first = ids.iter().map(|node| FirstMember {
            node: *node,
            address: format!("host-{}", node.0),
        });
        let seeded = MemberEntry::Seeded {
            members: first.collect(),
            voters: vec![ids.clone(), ids],
        };
        pool.apply(MetaEntry::Members(seeded)).unwrap();
        pool
    }

    fn apply(&mut self, entry: MetaEntry) -> Verdict {
        self.index += 1;
        self.state.apply(self.index, entry)
    }

    fn add(&mut self, address: &str, addition: u8) -> Verdict {
        self.apply(MetaEntry::Members(MemberEntry::Added {
            address: address.to_owned(),
            addition: [addition; 16],
        }))
    }

    /// Changes a member as it is now; gives the refusal's code.
    fn change(&mut self, node: u64, change: MemberChange) -> Result<(), &'static str> {
        let row = self.state.members.rows.get(&NodeId(node));
        let expected = row.map_or(0, |row| row.revision);
        self.change_at(node, expected, change)
    }

    fn change_at(
        &mut self,
        node: u64,
        expected: u64,
        change: MemberChange,
    ) -> Result<(), &'static str> {
        let entry = MemberEntry::Changed {
            node: NodeId(node),
            expected,
            change,
        };
        let verdict = self.apply(MetaEntry::Members(entry));
        verdict.map(drop).map_err(|refusal| refusal.code)
    }

    fn phase(&self, node: u64) -> MemberPhase {
        self.state.members.phase(NodeId(node)).unwrap()
    }

    fn target(&mut self, group: u32, voters: &[u64]) -> Result<(), &'static str> {
        let group = Group(group);
        let row = self.state.placements.rows.get(&group);
        let expected = row.map_or(0, |row| row.revision);
        let voters = voters.iter().copied().map(NodeId).collect();
        let entry = PlacementEntry::Target {
            group,
            expected,
            voters,
        };
        let verdict = self.apply(MetaEntry::Placement(entry));
        verdict.map(drop).map_err(|refusal| refusal.code)
    }

    fn reached(&mut self, group: u32, expected: Option<u64>) -> Result<(), &'static str> {
        let group = Group(group);
        let now = self.state.placements.rows[&group].revision;
        let expected = expected.unwrap_or(now);
        let entry = PlacementEntry::Reached { group, expected };
        let verdict = self.apply(MetaEntry::Placement(entry));
        verdict.map(drop).map_err(|refusal| refusal.code)
    }
}

const DRAIN: MemberChange = MemberChange::Drain {
    pace: 0,
    leaves: false,
    heir: None,
};

const DRAIN_AND_LEAVE: MemberChange = MemberChange::Drain {
    pace: 0,
    leaves: true,
    heir: None,
};

const LEAVE: MemberChange = MemberChange::Leave { heir: None };

#[test]
fn the_first_members_are_noted_once() {
    let mut pool = Pool::new(2);
    let before = pool.state.clone();
    let again = MemberEntry::Seeded {
        members: vec![FirstMember {
            node: NodeId(9),
            address: "another".to_owned(),
        }],
        voters: Vec::new(),
    };
    pool.apply(MetaEntry::Members(again)).unwrap();
    assert_eq!(pool.state, before);
}

#[test]
fn ids_are_given_out_once_for_ever() {
    let mut pool = Pool::new(1);
    let member = |id| Ok(MetaAnswer::Member(NodeId(id)));
    assert_eq!(pool.add("a", 1), member(2));
    // The same asked for twice.
    assert_eq!(pool.add("a", 1), member(2));
    assert_eq!(pool.add("a", 2).unwrap_err().code, "address-in-use");
    assert_eq!(pool.change(2, LEAVE), Ok(()));
    assert_eq!(pool.change(2, MemberChange::Removed), Ok(()));
    assert_eq!(pool.add("a", 1).unwrap_err().code, "removed");
    assert_eq!(pool.add("a", 3), member(3), "a tombstone keeps its id");
    let mut full = Pool::new(MEMBERS_MAX as u64);
    assert_eq!(full.add("more", 1).unwrap_err().code, "capacity");
    let mut new = Pool {
        state: MetaState::default(),
        index: 0,
    };
    assert_eq!(new.add("early", 1).unwrap_err().code, "not-ready");
}

#[test]
fn a_member_from_its_beginning_to_its_end() {
    use MemberPhase::{Drained, Draining, Joining, Leaving, Member, Removed};
    let mut pool = Pool::new(3);
    pool.add("four", 4).unwrap();
    let steps = [
        (MemberChange::Joined, Ok(()), Member),
        (MemberChange::Joined, Ok(()), Member),
        (MemberChange::Drained, Err("wrong-state"), Member),
        (DRAIN, Ok(()), Draining),
        (DRAIN, Ok(()), Draining),
        (MemberChange::Undrain, Ok(()), Member),
        (DRAIN, Ok(()), Draining),
        (MemberChange::Drained, Ok(()), Drained),
        (MemberChange::Drained, Ok(()), Drained),
        (MemberChange::Removed, Err("wrong-state"), Drained),
        (DRAIN_AND_LEAVE, Ok(()), Drained),
        (LEAVE, Ok(()), Leaving),
        (MemberChange::Undrain, Ok(()), Member),
        (DRAIN_AND_LEAVE, Ok(()), Draining),
        (MemberChange::Drained, Ok(()), Drained),
        (LEAVE, Ok(()), Leaving),
        (LEAVE, Ok(()), Leaving),
        (MemberChange::Removed, Ok(()), Removed),
        (MemberChange::Removed, Ok(()), Removed),
        (MemberChange::Undrain, Err("removed"), Removed),
    ];
    assert_eq!(pool.phase(4), Joining);
    for (change, expect, phase) in steps {
        assert_eq!(pool.change(4, change), expect, "{change:?}");
        assert_eq!(pool.phase(4), phase, "{change:?}");
    }
    assert_eq!(pool.change(9, DRAIN), Err("unknown-node"));
}

#[test]
fn one_at_a_time_and_never_the_last() {
    let mut pool = Pool::new(3);
    pool.change(1, DRAIN).unwrap();
    assert_eq!(pool.change(2, DRAIN), Err("another-drain"));
    assert_eq!(pool.change(2, LEAVE), Err("another-drain"));
    pool.change(1, MemberChange::Drained).unwrap();
    pool.change(2, DRAIN).unwrap();
    pool.change(2, MemberChange::Drained).unwrap();
    assert_eq!(pool.change(3, DRAIN), Err("last-node"));
    assert_eq!(pool.change(3, LEAVE), Err("last-node"));
    let mut alone = Pool::new(1);
    assert_eq!(alone.change(1, DRAIN), Err("last-node"));
    // Who is drained in order to leave is on its way until it has left.
    let mut pool = Pool::new(3);
    pool.change(1, DRAIN_AND_LEAVE).unwrap();
    pool.change(1, MemberChange::Drained).unwrap();
    assert_eq!(pool.change(2, DRAIN), Err("another-drain"));
    assert_eq!(pool.change(2, DRAIN_AND_LEAVE), Err("another-drain"));
    pool.change(1, LEAVE).unwrap();
    assert_eq!(pool.phase(1), MemberPhase::Leaving);
}

#[test]
fn the_same_with_another_pace_or_heir_is_another_change() {
    let drain = |pace, leaves, heir: Option<u64>| MemberChange::Drain {
        pace,
        leaves,
        heir: heir.map(NodeId),
    };
    let leave = |heir: u64| MemberChange::Leave {
        heir: Some(NodeId(heir)),
    };
    let steps = [
        (drain(5, false, None), Ok(()), (5, false, None)),
        (drain(9, false, None), Ok(()), (9, false, None)),
        (drain(9, true, Some(2)), Ok(()), (9, true, Some(2))),
        (drain(9, true, Some(3)), Ok(()), (9, true, Some(3))),
        (drain(7, false, None), Ok(()), (7, true, Some(3))),
        (MemberChange::Drained, Ok(()), (7, true, Some(3))),
        (drain(0, true, Some(2)), Ok(()), (0, true, Some(2))),
        (leave(2), Ok(()), (0, true, Some(2))),
        (leave(2), Ok(()), (0, true, Some(2))),
        (leave(3), Err("wrong-state"), (0, true, Some(2))),
        (
            drain(0, true, Some(3)),
            Err("wrong-state"),
            (0, true, Some(2)),
        ),
        (drain(0, true, None), Ok(()), (0, true, Some(2))),
    ];
    let mut pool = Pool::new(3);
    for (change, expect, (pace, leaves, heir)) in steps {
        assert_eq!(pool.change(1, change), expect, "{change:?}");
        let row = &pool.state.members.rows[&NodeId(1)];
        let heir = heir.map(NodeId);
        assert_eq!(
            (row.pace, row.leaves, row.heir),
            (pace, leaves, heir),
            "{change:?}"
        );
    }
}

#[test]
fn what_was_decided_on_old_news_is_refused() {
    let mut pool = Pool::new(3);
    let old = pool.state.members.rows[&NodeId(2)].revision;
    pool.change(2, DRAIN).unwrap();
    pool.change(2, MemberChange::Undrain).unwrap();
    assert_eq!(pool.change_at(2, old, DRAIN), Err("overtaken"));
    // What is so already is no harm, whoever says it.
    assert_eq!(pool.change_at(2, old, MemberChange::Undrain), Ok(()));
    assert_eq!(pool.phase(2), MemberPhase::Member);
}

#[test]
fn nobody_goes_whom_a_group_counts_on() {
    let mut pool = Pool::new(3);
    pool.change(3, LEAVE).unwrap();
    let removed = MemberChange::Removed;
    assert_eq!(pool.change(3, removed), Err("still-holds-replicas"));
    for group in [0, 1] {
        pool.target(group, &[1, 2]).unwrap();
        assert_eq!(pool.change(3, removed), Err("still-holds-replicas"));
        pool.reached(group, None).unwrap();
    }
    assert_eq!(pool.change(3, removed), Ok(()));
    assert_eq!(pool.target(1, &[1, 2, 3]), Err("invalid-target"));
}

#[test]
fn targets_one_after_the_other() {
    let mut pool = Pool::new(4);
    assert_eq!(pool.target(7, &[1]), Err("unknown-group"));
    assert_eq!(pool.target(1, &[]), Err("invalid-target"));
    assert_eq!(pool.target(1, &[9]), Err("invalid-target"));
    assert_eq!(pool.target(1, &[1, 9]), Err("invalid-target"));
    pool.target(1, &[2, 1, 2]).unwrap();
    let row = &pool.state.placements.rows[&Group(1)];
    assert_eq!(row.target, [NodeId(1), NodeId(2)]);
    assert!(row.is_changing());
    let first = row.revision;
    // Another target before that is reached: a voter must stay whichever it got to.
    assert_eq!(pool.target(1, &[3, 4]), Err("invalid-target"));
    pool.target(1, &[2, 3]).unwrap();
    assert_eq!(pool.reached(1, Some(first)), Err("overtaken"));
    pool.reached(1, None).unwrap();
    let row = &pool.state.placements.rows[&Group(1)];
    assert_eq!(row.voters, [NodeId(2), NodeId(3)]);
    assert!(!row.is_changing());
}

/// A node that was let in and is to go again at once: the group may have got to the target that has it, though another one
/// was decided since. Found by simulation: the node went, and the group counted on it for ever.
#[test]
fn a_target_that_was_given_up_counts_until_the_group_reports() {
    let mut pool = Pool::new(4);
    pool.target(1, &[1, 2, 3]).unwrap();
    pool.reached(1, None).unwrap();
    pool.target(1, &[1, 3, 4]).unwrap();
    let overtaken = pool.state.placements.rows[&Group(1)].revision;
    pool.target(1, &[1, 2, 3]).unwrap();
    assert_eq!(pool.reached(1, Some(overtaken)), Err("overtaken"));
    let row = &pool.state.placements.rows[&Group(1)];
    assert_eq!(row.voters, row.target);
    assert!(row.is_changing() && row.counts_on(NodeId(4)));
    assert!(pool.state.placements.count_on(NodeId(4)));
    pool.target(1, &[1, 2]).unwrap();
    assert!(pool.state.placements.rows[&Group(1)].counts_on(NodeId(4)));
    pool.reached(1, None).unwrap();
    let row = &pool.state.placements.rows[&Group(1)];
    assert_eq!(row.voters, [NodeId(1), NodeId(2)]);
    assert!(!row.is_changing() && !row.counts_on(NodeId(4)) && row.given_up.is_empty());
}
