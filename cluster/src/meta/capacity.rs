//! Whether the others could carry what a node has: asked before one is drained, removed or replaced.
//!
//! | what | the load | what the others can take |
//! |---|---|---|
//! | sessions | those of all, the node's included | their `sessions_max` together |
//! | memory | what their processes use, and [`SESSION_BYTES`] for each session that comes | that, and what their machines have free |
//! | disk | for each node its data, and what it gets of replicas | its data, and what its disk has free |
//!
//! More than [`USED_PERCENT_MAX`] of it is refused. Clients choose where they go, so of sessions and memory all others count
//! together; where replicas go is the planner's choice, so each disk counts for itself. Capacity are what nodes tell by gossip: a
//! node that has told none can take nothing, and what was told is a hint of some seconds ago. Nothing is unsafe if it was wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::members::{MemberPhase, Members};
use super::placement::Move;
pub use crate::gossip::Capacity;
use crate::node_id::NodeId;

/// More than this is not to be used of anything.
pub const USED_PERCENT_MAX: u64 = 80;

/// Memory that a session takes, with all that belongs to it: generously.
pub const SESSION_BYTES: u64 = 64 << 10;

/// What would be used too much, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CapacityExceeded(pub String);

/// Whether the others could carry what `node` has. `moves`: where its replicas go, if it is to leave.
///
/// # Errors
/// [`CapacityExceeded`].
pub fn judge(
    node: NodeId,
    members: &Members,
    alive: &BTreeSet<NodeId>,
    figures: &BTreeMap<NodeId, Capacity>,
    moves: &[Move],
) -> Result<(), CapacityExceeded> {
    // A node that is dead or drained has no sessions that would go anywhere.
    if alive.contains(&node) && members.phase(node).is_some_and(MemberPhase::serves) {
        judge_sessions(node, members, alive, figures)?;
    }
    judge_disks(figures, moves)
}

fn judge_sessions(
    node: NodeId,
    members: &Members,
    alive: &BTreeSet<NodeId>,
    figures: &BTreeMap<NodeId, Capacity>,
) -> Result<(), CapacityExceeded> {
    let others: Vec<Capacity> = members
        .present()
        .filter(|(other, row)| {
            *other != node && row.phase == MemberPhase::Member && alive.contains(other)
        })
        .map(|(other, _)| figures.get(&other).copied().unwrap_or_default())
        .collect();
    let sum = |of: fn(&Capacity) -> u64| others.iter().map(of).fold(0, u64::saturating_add);
    let coming = figures.get(&node).map_or(0, |figures| figures.sessions);
    let sessions = sum(|one| one.sessions).saturating_add(coming);
    let sessions_max = sum(|one| one.sessions_max);
    if is_too_much(sessions, sessions_max) {
        return Err(CapacityExceeded(format!(
            "without {node} the others would have {sessions} sessions, more than {USED_PERCENT_MAX} % of the {sessions_max} that they may have"
        )));
    }
    let used = sum(|one| one.memory_bytes);
    let memory = used.saturating_add(sum(|one| one.memory_free_bytes));
    let needed = coming.saturating_mul(SESSION_BYTES);
    if needed > 0 && is_too_much(used.saturating_add(needed), memory) {
        return Err(CapacityExceeded(format!(
            "the {coming} sessions of {node} would take {} MiB of memory, and the others would use more than {USED_PERCENT_MAX} % of what they have",
            needed >> 20
        )));
    }
    Ok(())
}

fn judge_disks(
    figures: &BTreeMap<NodeId, Capacity>,
    moves: &[Move],
) -> Result<(), CapacityExceeded> {
    // How large each replica is nobody tells: as large as they are on the node where they are largest.
    let mean = |one: &Capacity| one.data_bytes.checked_div(one.replicas);
    let replica = figures.values().filter_map(mean).max().unwrap_or(0);
    let mut gains: BTreeMap<NodeId, u64> = BTreeMap::new();
    for one in moves {
        for node in one.to.iter().filter(|node| !one.from.contains(node)) {
            *gains.entry(*node).or_default() += 1;
        }
    }
    for (node, replicas) in gains {
        let has = figures.get(&node).copied().unwrap_or_default();
        let needed = replica.saturating_mul(replicas);
        let room = has.data_bytes.saturating_add(has.disk_free_bytes);
        if is_too_much(has.data_bytes.saturating_add(needed), room) {
            return Err(CapacityExceeded(format!(
                "{node} would get {replicas} replicas of about {} MiB, and use more than {USED_PERCENT_MAX} % of the room on its disk",
                replica >> 20
            )));
        }
    }
    Ok(())
}

fn is_too_much(used: u64, room: u64) -> bool {
    u128::from(used) * 100 > u128::from(room) * u128::from(USED_PERCENT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::members::MemberRow;
    use crate::node_id::Group;

    const MIB: u64 = 1 << 20;

    fn members(ids: &[u64]) -> Members {
        let row = |id: &u64| {
            let row = MemberRow {
                address: format!("host-{id}"),
                phase: MemberPhase::Member,
                revision: 1,
                addition: [0; 16],
                leaves: false,
                heir: None,
                pace: 0,
            };
            (NodeId(*id), row)
        };
        Members {
            rows: ids.iter().map(row).collect(),
        }
    }

    /// 100 of 1,000 sessions, 16 replicas of 10 MiB, 1,000 MiB free of disk and of memory.
    fn plenty() -> Capacity {
        Capacity {
            sessions: 100,
            sessions_max: 1_000,
            data_bytes: 160 * MIB,
            replicas: 16,
            disk_free_bytes: 1_000 * MIB,
            memory_bytes: 100 * MIB,
            memory_free_bytes: 1_000 * MIB,
        }
    }

    fn gives(to: &[u64]) -> Vec<Move> {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let gives = |(group, to): (u32, &u64)| Move {
            group: Group(group),
            from: ids(&[1, 2, 3]),
            to: ids(&[1, 2, *to]),
        };
        (1..).zip(to).map(gives).collect()
    }

    /// Node 3 of four goes; what each of the others has.
    fn check(
        others: [Option<Capacity>; 3],
        of_three: Capacity,
        moves: &[Move],
        expect: Option<&str>,
    ) {
        let all = [1, 2, 4].map(NodeId).into_iter().zip(others);
        let mut figures: BTreeMap<NodeId, Capacity> = all
            .filter_map(|(node, figures)| Some((node, figures?)))
            .collect();
        figures.insert(NodeId(3), of_three);
        let alive = [1, 2, 3, 4].map(NodeId).into();
        let judged = judge(NodeId(3), &members(&[1, 2, 3, 4]), &alive, &figures, moves);
        let said = judged.err().map(|error| error.0).unwrap_or_default();
        match expect {
            None => assert_eq!(said, "", "{figures:?}"),
            Some(expect) => assert!(said.contains(expect), "{said}: {figures:?}"),
        }
    }

    fn with(change: impl Fn(&mut Capacity)) -> Capacity {
        let mut figures = plenty();
        change(&mut figures);
        figures
    }

    #[test]
    fn sessions_go_where_they_may() {
        let all = |figures| [Some(figures); 3];
        let sessions = |sessions| with(|one| one.sessions = sessions);
        check(all(plenty()), plenty(), &[], None);
        // 80 % of 3,000.
        check(all(sessions(700)), sessions(300), &[], None);
        check(
            all(sessions(700)),
            sessions(301),
            &[],
            Some("2401 sessions"),
        );
        // Of one nothing is known: it takes nothing.
        check(
            [Some(sessions(700)), Some(sessions(700)), None],
            sessions(200),
            &[],
            None,
        );
        check(
            [Some(sessions(700)), Some(sessions(700)), None],
            sessions(201),
            &[],
            Some("of the 2000"),
        );
        check([None; 3], sessions(1), &[], Some("of the 0"));
        // Where there is nothing to carry, nobody need say what they can.
        check([None; 3], sessions(0), &[], None);
    }

    #[test]
    fn who_is_away_takes_nothing() {
        let figures: BTreeMap<NodeId, Capacity> = [1, 2, 3]
            .map(|id| (NodeId(id), with(|one| one.sessions = 500)))
            .into();
        let check = |alive: &[u64], expect| {
            let alive = alive.iter().copied().map(NodeId).collect();
            let judged = judge(NodeId(3), &members(&[1, 2, 3]), &alive, &figures, &[]);
            assert_eq!(judged.is_ok(), expect, "{alive:?}");
        };
        check(&[1, 2, 3], true);
        check(&[1, 3], false);
    }

    /// Its clients have gone elsewhere already; replicas still need room.
    #[test]
    fn who_is_dead_or_drained_has_no_sessions_to_go() {
        let full = with(|one| one.sessions = 900);
        let figures: BTreeMap<NodeId, Capacity> = [1, 2, 3, 4].map(|id| (NodeId(id), full)).into();
        let judged = |alive: &[u64], phase, moves: &[Move]| {
            let alive = alive.iter().copied().map(NodeId).collect();
            let mut members = members(&[1, 2, 3, 4]);
            members.rows.get_mut(&NodeId(3)).unwrap().phase = phase;
            judge(NodeId(3), &members, &alive, &figures, moves).is_ok()
        };
        assert!(!judged(&[1, 2, 3, 4], MemberPhase::Member, &[]));
        assert!(judged(&[1, 2, 4], MemberPhase::Member, &[]));
        assert!(judged(&[1, 2, 3, 4], MemberPhase::Drained, &[]));
        let much = gives(&[4; 100]);
        assert!(!judged(&[1, 2, 4], MemberPhase::Member, &much));
        assert!(!judged(&[1, 2, 3, 4], MemberPhase::Drained, &much));
    }

    #[test]
    fn memory_is_needed_where_sessions_come() {
        let memory = |free| with(|one| one.memory_free_bytes = free * MIB);
        let sessions = |sessions| with(|one| one.sessions = sessions);
        // They use 300 MiB; of 400 MiB 80 % are 320: room for 20, and 100 sessions need 6.
        let tight = [Some(memory(0)), Some(memory(0)), Some(memory(100))];
        check(tight, sessions(100), &[], None);
        check(tight, sessions(400), &[], Some("25 MiB of memory"));
        let full = [Some(memory(0)); 3];
        check(full, sessions(1), &[], Some("of memory"));
        check(full, sessions(0), &[], None);
    }

    #[test]
    fn each_disk_counts_for_itself() {
        let free = |mib| with(|one| one.disk_free_bytes = mib * MIB);
        let all = |of_four| [Some(plenty()), Some(plenty()), of_four];
        check(all(Some(free(100))), plenty(), &gives(&[4; 4]), None);
        check(
            all(Some(free(100))),
            plenty(),
            &gives(&[4; 5]),
            Some("5 replicas of about 10 MiB"),
        );
        // The others have room, but it is the fourth that gets them.
        check(
            all(Some(free(0))),
            plenty(),
            &gives(&[4]),
            Some("node 4 would get 1 replicas"),
        );
        check(all(Some(free(0))), plenty(), &[], None);
        check(all(None), plenty(), &gives(&[4]), Some("1 replicas"));
    }
}
