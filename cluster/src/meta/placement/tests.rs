//! The planner: tables, and properties over random pools and stories.

use proptest::prelude::*;

use super::*;
use crate::meta::members::MemberRow;
use crate::meta::targets::PlacementRow;

fn row(phase: MemberPhase) -> MemberRow {
    MemberRow {
        address: String::new(),
        phase,
        revision: 0,
        addition: [0; 16],
        leaves: false,
        heir: None,
        pace: 0,
    }
}

fn members(phases: &[(u64, MemberPhase)]) -> Members {
    let rows = phases.iter();
    Members {
        rows: rows
            .map(|(node, phase)| (NodeId(*node), row(*phase)))
            .collect(),
    }
}

fn nodes(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// Groups from 1 on with these voters.
fn placements(voters: &[&[u64]]) -> Placements {
    let rows = (1..).map(Group).zip(voters);
    let rows = rows.map(|(group, voters)| {
        let voters = nodes(voters);
        let row = PlacementRow {
            target: voters.clone(),
            voters,
            given_up: Vec::new(),
            revision: 0,
        };
        (group, row)
    });
    Placements {
        rows: rows.collect(),
    }
}

fn initially(ids: &[u64], groups: u32) -> Placements {
    let voters = initial(&ids.iter().copied().map(NodeId).collect(), groups);
    let mut placements = Placements::default();
    placements.seed(0, voters);
    placements
}

#[test]
fn a_new_pools_replicas_are_spread() {
    let check = |ids: &[u64], groups: u32, expect: &[&[u64]]| {
        let voters = initial(&ids.iter().copied().map(NodeId).collect(), groups);
        let expect: Vec<Vec<NodeId>> = expect.iter().map(|voters| nodes(voters)).collect();
        assert_eq!(voters, expect);
    };
    check(&[1], 3, &[&[1], &[1], &[1]]);
    check(&[1, 2], 2, &[&[1, 2], &[1, 2]]);
    check(&[1, 2, 3], 2, &[&[1, 2, 3], &[1, 2, 3]]);
    check(
        &[1, 2, 3, 4],
        4,
        &[&[1, 2, 3], &[1, 2, 3], &[2, 3, 4], &[1, 3, 4]],
    );
    check(&[1, 2, 3, 4, 5], 2, &[&[1, 2, 3, 4, 5], &[1, 2, 3]]);
    check(&[], 2, &[&[], &[]]);
}

/// The first move, as (group, voters), of a pool whose members are all alive but those in `dead`.
fn first(
    phases: &[(u64, MemberPhase)],
    voters: &[&[u64]],
    dead: &[u64],
) -> Option<(u32, Vec<u64>)> {
    let (members, placements) = (members(phases), placements(voters));
    let alive = members.present().map(|(node, _)| node);
    let alive = alive.filter(|node| !dead.contains(&node.0)).collect();
    let view = View {
        members: &members,
        placements: &placements,
        alive: &alive,
    };
    let moves = next_moves(view);
    let first = moves.first()?;
    Some((first.group.0, first.to.iter().map(|node| node.0).collect()))
}

#[test]
fn moves_by_urgency() {
    use MemberPhase::{Drained, Draining, Joining, Leaving, Member};
    let check = |phases: &[(u64, MemberPhase)],
                 voters: &[&[u64]],
                 dead: &[u64],
                 expect: Option<(u32, &[u64])>| {
        let expect = expect.map(|(group, voters)| (group, voters.to_vec()));
        assert_eq!(
            first(phases, voters, dead),
            expect,
            "{phases:?} {voters:?} {dead:?}"
        );
    };
    let three = [(1, Member), (2, Member), (3, Member)];
    check(&three, &[&[1, 2, 3]], &[], None);
    check(&three, &[&[1]], &[], Some((1, &[1, 2, 3])));
    check(&three, &[&[1]], &[2], Some((1, &[1, 3])));
    // Who joins is given nothing before it has caught up with the meta group.
    check(&[(1, Member), (2, Joining)], &[&[1]], &[], None);
    check(
        &[(1, Member), (2, Member)],
        &[&[1]],
        &[],
        Some((1, &[1, 2])),
    );
    // Who drains keeps what it has and is given nothing.
    check(
        &[(1, Member), (2, Member), (3, Drained)],
        &[&[1, 2, 3]],
        &[],
        None,
    );
    check(
        &[(1, Member), (2, Member), (3, Draining)],
        &[&[1, 2]],
        &[],
        None,
    );
    // Who is dead is expected back.
    check(
        &[(1, Member), (2, Member), (3, Member), (4, Member)],
        &[&[1, 2, 3]],
        &[3],
        None,
    );
    // Leaving comes first, even to a node that gets more than its share.
    let four = [(1, Member), (2, Member), (3, Member), (4, Leaving)];
    check(
        &four,
        &[&[1, 2, 3], &[1, 2], &[1, 2, 4]],
        &[],
        Some((3, &[1, 2, 3])),
    );
    check(&four, &[&[1, 2, 4]], &[4], Some((1, &[1, 2, 3])));
    check(&four, &[&[1, 2, 4]], &[2, 4], None);
    // Two of three are dead: nothing can be decided.
    check(&four, &[&[1, 2, 3]], &[2, 3], None);
    // A last voter is not replaced in one step.
    check(
        &[(1, Leaving), (2, Member)],
        &[&[1]],
        &[],
        Some((1, &[1, 2])),
    );
    check(
        &[(1, Leaving), (2, Member)],
        &[&[1, 2]],
        &[],
        Some((1, &[2])),
    );
    check(&[(1, Leaving), (2, Member)], &[&[1, 2]], &[1], None);
    // A difference of one is even enough.
    let even = [(1, Member), (2, Member), (3, Member), (4, Member)];
    check(&even, &[&[1, 2, 3], &[1, 2, 4]], &[], None);
    check(&even, &[&[1, 2, 3], &[1, 2, 3]], &[], Some((1, &[2, 3, 4])));
    check(&even, &[&[1, 2, 3, 4]], &[], Some((1, &[1, 2, 3])));
}

#[test]
fn a_group_works_on_without_a_node_if_somebody_may_lead() {
    use MemberPhase::{Drained, Member};
    let check = |phases: &[(u64, MemberPhase)], dead: &[u64], expect| {
        let (members, placements) = (members(phases), placements(&[&[1, 2, 3]]));
        let alive = members.present().map(|(node, _)| node);
        let alive = alive.filter(|node| !dead.contains(&node.0)).collect();
        let view = View {
            members: &members,
            placements: &placements,
            alive: &alive,
        };
        let survives = survives_without(view, Group(1), NodeId(3));
        assert_eq!(survives, expect, "{phases:?} {dead:?}");
    };
    let three = |one, two| [(1, one), (2, two), (3, Member), (4, Member)];
    check(&three(Member, Member), &[], true);
    check(&three(Member, Drained), &[], true);
    check(&three(Member, Drained), &[2], false);
    check(&three(Drained, Drained), &[], false);
}

#[test]
fn an_heir_gets_what_the_leaver_had() {
    use MemberPhase::{Leaving, Member};
    let mut members = members(&[
        (1, Member),
        (2, Member),
        (3, Leaving),
        (4, Member),
        (5, Member),
    ]);
    members.rows.get_mut(&NodeId(3)).unwrap().heir = Some(NodeId(5));
    let placements = placements(&[&[1, 2, 3], &[1, 2, 3], &[1, 2, 5]]);
    let alive = (1..=5).map(NodeId).collect();
    let moves = all_moves(View {
        members: &members,
        placements: &placements,
        alive: &alive,
    });
    assert_eq!(moves[0].to, nodes(&[1, 2, 5]));
    assert_eq!(moves[1].to, nodes(&[1, 2, 5]));
}

#[test]
fn a_target_that_names_a_leaver_is_given_up() {
    use MemberPhase::{Leaving, Member};
    let check = |phases: &[(u64, MemberPhase)], dead: &[u64], expect: &[&[u64]]| {
        let members = members(phases);
        let mut placements = placements(&[&[1, 2, 3], &[1, 2, 3]]);
        placements.rows.get_mut(&Group(1)).unwrap().target = nodes(&[1, 2, 4]);
        let alive = members.present().map(|(node, _)| node);
        let alive = alive.filter(|node| !dead.contains(&node.0)).collect();
        let moves = next_moves(View {
            members: &members,
            placements: &placements,
            alive: &alive,
        });
        let to: Vec<Vec<NodeId>> = moves.into_iter().map(|next| next.to).collect();
        let expect: Vec<Vec<NodeId>> = expect.iter().map(|voters| nodes(voters)).collect();
        assert_eq!(to, expect, "{phases:?} {dead:?}");
    };
    let four = |last| [(1, Member), (2, Member), (3, Member), (4, last)];
    // Who is away is waited for, and who is there is on its way.
    check(&four(Member), &[4], &[]);
    check(&four(Member), &[], &[]);
    check(&four(Leaving), &[4], &[&[1, 2, 3]]);
    check(&four(Leaving), &[], &[&[1, 2, 3]]);
    // Without a quorum of those that may vote by now, nothing.
    check(&four(Leaving), &[1, 4], &[]);
}

/// A pool that a story happens to; moves take effect one after the other, as the groups' leaders would do them.
struct Story {
    members: Members,
    placements: Placements,
    alive: BTreeSet<NodeId>,
}

impl Story {
    fn new(ids: &[u64], partitions: u32) -> Story {
        let all: Vec<(u64, MemberPhase)> =
            ids.iter().map(|id| (*id, MemberPhase::Member)).collect();
        Story {
            members: members(&all),
            placements: initially(ids, partitions + 1),
            alive: ids.iter().copied().map(NodeId).collect(),
        }
    }

    fn view(&self) -> View<'_> {
        View {
            members: &self.members,
            placements: &self.placements,
            alive: &self.alive,
        }
    }

    fn set(&mut self, node: u64, phase: MemberPhase) {
        self.members.rows.insert(NodeId(node), row(phase));
        self.alive.insert(NodeId(node));
    }

    /// Lets it settle; gives the number of moves.
    fn settle(&mut self) -> usize {
        let mut taken = 0;
        loop {
            let moves = next_moves(self.view());
            if moves.is_empty() {
                return taken;
            }
            assert!(moves.len() <= CHANGING_MAX);
            for next in moves {
                let quorum = |voters: &[NodeId]| {
                    voters
                        .iter()
                        .filter(|node| self.alive.contains(node))
                        .count()
                        > voters.len() / 2
                };
                assert!(quorum(&next.from) && quorum(&next.to), "{next:?}");
                let stays = |node: &NodeId| next.from.contains(node) && self.alive.contains(node);
                assert!(next.to.iter().any(stays), "{next:?}");
                let row = self.placements.rows.get_mut(&next.group).unwrap();
                assert_eq!(row.voters, next.from);
                row.voters.clone_from(&next.to);
                row.target = next.to;
                taken += 1;
                assert!(taken < 2_000, "it does not converge");
            }
        }
    }

    /// Everything is where it should be.
    fn judge(&self) {
        let usable: Vec<NodeId> = self
            .members
            .present()
            .filter(|(_, row)| row.phase.keeps_replicas())
            .map(|(node, _)| node)
            .collect();
        let mut load: BTreeMap<NodeId, usize> = usable.iter().map(|node| (*node, 0)).collect();
        for (group, row) in &self.placements.rows {
            assert_eq!(row.voters.len(), replicas(*group, usable.len()), "{group}");
            for voter in &row.voters {
                let load = load.get_mut(voter).expect("a voter that keeps replicas");
                *load += usize::from(*group != Group::META);
            }
        }
        let (least, most) = (load.values().min(), load.values().max());
        assert!(most.unwrap() - least.unwrap() <= 1, "{load:?}");
    }
}

#[test]
fn one_three_five_three_one() {
    let mut pool = Story::new(&[1], 16);
    assert_eq!(pool.settle(), 0);
    for node in [2, 3] {
        pool.set(node, MemberPhase::Member);
    }
    assert_eq!(pool.settle(), 17);
    pool.judge();
    for node in [4, 5] {
        pool.set(node, MemberPhase::Member);
    }
    // No more than the two new ones' shares: 2 × 9 or 10 of 48, and meta.
    assert!(pool.settle() <= 20);
    pool.judge();
    for node in [1, 3, 5, 2] {
        pool.set(node, MemberPhase::Leaving);
        pool.settle();
        pool.judge();
        assert!(!pool.placements.count_on(NodeId(node)));
        pool.set(node, MemberPhase::Removed);
        pool.alive.remove(&NodeId(node));
        assert_eq!(pool.settle(), 0);
    }
    assert!(
        pool.placements
            .rows
            .values()
            .all(|row| row.voters == [NodeId(4)])
    );
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Join(u64),
    Leave(u64),
    Drain(u64),
    Undrain(u64),
    Die(u64),
    Live(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let node = 1_u64..9;
    prop_oneof![
        node.clone().prop_map(Act::Join),
        node.clone().prop_map(Act::Leave),
        node.clone().prop_map(Act::Drain),
        node.clone().prop_map(Act::Undrain),
        node.clone().prop_map(Act::Die),
        node.prop_map(Act::Live),
    ]
}

proptest! {
    /// Whatever happens, each step keeps a quorum of live voters (asserted in `settle`), it ends, and a pool whose members
    /// live again is even.
    #[test]
    fn any_story_settles(start in 1_u64..6, acts in proptest::collection::vec(act(), 0..20), partitions in 1_u32..20) {
        let ids: Vec<u64> = (1..=start).collect();
        let mut pool = Story::new(&ids, partitions);
        for act in acts {
            let phase = |pool: &Story, node| pool.members.phase(NodeId(node));
            let serving = pool.members.present().filter(|(_, row)| row.phase == MemberPhase::Member).count();
            match act {
                Act::Join(node) if phase(&pool, node).is_none() => pool.set(node, MemberPhase::Member),
                Act::Leave(node) if phase(&pool, node).is_some_and(MemberPhase::keeps_replicas) && serving > 1 => {
                    pool.members.rows.get_mut(&NodeId(node)).unwrap().phase = MemberPhase::Leaving;
                }
                Act::Drain(node) if phase(&pool, node) == Some(MemberPhase::Member) && serving > 1 => {
                    pool.members.rows.get_mut(&NodeId(node)).unwrap().phase = MemberPhase::Drained;
                }
                Act::Undrain(node) if phase(&pool, node) == Some(MemberPhase::Drained) => {
                    pool.members.rows.get_mut(&NodeId(node)).unwrap().phase = MemberPhase::Member;
                }
                Act::Die(node) => { pool.alive.remove(&NodeId(node)); }
                Act::Live(node) if phase(&pool, node).is_some() => { pool.alive.insert(NodeId(node)); }
                _ => {}
            }
            pool.settle();
        }
        let present: Vec<NodeId> = pool.members.present().map(|(node, _)| node).collect();
        pool.alive.extend(present);
        for row in pool.members.rows.values_mut() {
            if row.phase == MemberPhase::Drained {
                row.phase = MemberPhase::Member;
            }
        }
        pool.settle();
        pool.judge();
        prop_assert_eq!(pool.settle(), 0);
        prop_assert!(all_moves(pool.view()).is_empty());
    }
}
