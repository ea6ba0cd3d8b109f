//! Where replicas should be: a pure planner from members, voters and who is alive to the next targets.
//!
//! Rules, in this order of urgency:
//! 1. What a leaving member holds moves away, to its heir if it has one.
//! 2. A group with fewer voters than it could have gets more, one with too many gives some up.
//! 3. Replicas move from who holds most to who holds fewest, unless the difference is one: that is even enough.
//!
//! Invariants: no target without a quorum of live voters, of the old set and of the new; a target shares a live voter with
//! the old set; a member that drains keeps what it holds and is given nothing; the same input gives the same output; what
//! was planned, once reached, plans nothing more.

use std::collections::{BTreeMap, BTreeSet};

use super::members::{MemberPhase, Members};
use super::targets::{CHANGING_MAX, Placements};
use crate::node_id::{Group, NodeId};

/// Voters of a partition, where there are as many members.
pub const REPLICAS: usize = 3;

/// Voters of the meta group, at most.
pub const META_VOTERS_MAX: usize = 5;

/// A group's next voters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The group.
    pub group: Group,
    /// Who votes now.
    pub from: Vec<NodeId>,
    /// Who shall.
    pub to: Vec<NodeId>,
}

/// What the planner looks at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The members.
    pub members: &'a Members,
    /// Who votes where.
    pub placements: &'a Placements,
    /// Members that are there now.
    pub alive: &'a BTreeSet<NodeId>,
}

/// The first voters of a new pool's groups, meta first: each partition has the next members by turns.
pub fn initial(members: &BTreeSet<NodeId>, groups: u32) -> Vec<Vec<NodeId>> {
    let members: Vec<NodeId> = members.iter().copied().collect();
    (0..groups)
        .map(|group| {
            let replicas = replicas(Group(group), members.len());
            let turn = match group {
                0 => 0,
                partition => partition as usize - 1,
            };
            let mut voters: Vec<NodeId> = (0..replicas)
                .filter_map(|next| members.get((turn + next) % members.len().max(1)).copied())
                .collect();
            voters.sort_unstable();
            voters
        })
        .collect()
}

/// How many voters a group has if so many members may vote. Meta has an odd number where it can choose.
fn replicas(group: Group, members: usize) -> usize {
    if group != Group::META {
        return members.min(REPLICAS);
    }
    match members {
        0..=3 => members,
        4 => 3,
        _ => META_VOTERS_MAX,
    }
}

/// The groups to change next, as many as may change beside those that do.
pub fn next_moves(view: View<'_>) -> Vec<Move> {
    let mut plan = Planning::new(view);
    let room = CHANGING_MAX.saturating_sub(view.placements.changing().count());
    let mut moves = plan.redirections();
    let room = room + moves.len();
    while moves.len() < room {
        let Some(next) = plan.next() else { break };
        plan.take(&next);
        moves.push(next);
    }
    moves
}

/// All moves up to where nothing more is to do, as if each were reached at once: what an operation will do.
pub fn all_moves(view: View<'_>) -> Vec<Move> {
    /// Far more than there are replicas in a pool of the largest size; the planner converges long before.
    const MOVES_MAX: usize = 1024;
    let mut placements = view.placements.clone();
    for row in placements.rows.values_mut() {
        row.reach();
    }
    let mut moves = Vec::new();
    while moves.len() < MOVES_MAX {
        let now = View {
            placements: &placements,
            ..view
        };
        let Some(next) = Planning::new(now).next() else {
            break;
        };
        if let Some(row) = placements.rows.get_mut(&next.group) {
            row.voters.clone_from(&next.to);
            row.target.clone_from(&next.to);
        }
        moves.push(next);
    }
    moves
}

/// A group that still counts on a node when all has moved that can: while it does, the node can't go.
pub fn stuck_on(view: View<'_>, node: NodeId) -> Option<Group> {
    let mut ends: BTreeMap<Group, Vec<NodeId>> = BTreeMap::new();
    for (group, row) in &view.placements.rows {
        ends.insert(*group, row.target.clone());
    }
    for next in all_moves(view) {
        ends.insert(next.group, next.to);
    }
    let mut ends = ends.into_iter();
    let stuck = ends.find(|(_, voters)| voters.contains(&node));
    stuck.map(|(group, _)| group)
}

/// Whether a group could work on without a node: it keeps a quorum of live voters, and one that may lead.
pub fn survives_without(view: View<'_>, group: Group, node: NodeId) -> bool {
    let Some(row) = view.placements.rows.get(&group) else {
        return true;
    };
    let rest: Vec<NodeId> = row
        .voters
        .iter()
        .copied()
        .filter(|voter| *voter != node && view.alive.contains(voter))
        .collect();
    let may_lead = |voter: &NodeId| view.members.phase(*voter) == Some(MemberPhase::Member);
    rest.len() > row.voters.len() / 2 && rest.iter().any(may_lead)
}

struct Planning<'a> {
    view: View<'a>,
    /// Partitions that count on each member, with what was planned since.
    load: BTreeMap<NodeId, usize>,
    /// Groups that change already.
    taken: BTreeSet<Group>,
}

impl<'a> Planning<'a> {
    fn new(view: View<'a>) -> Planning<'a> {
        let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (node, _) in view.members.present() {
            load.insert(node, 0);
        }
        let partitions = view.placements.rows.iter();
        for (_, row) in partitions.filter(|(group, _)| **group != Group::META) {
            for node in &row.target {
                *load.entry(*node).or_default() += 1;
            }
        }
        Planning {
            view,
            load,
            taken: view.placements.changing().collect(),
        }
    }

    /// New targets for groups on their way to one that is no good any more: it names a member that leaves.
    fn redirections(&self) -> Vec<Move> {
        let rows = self.view.placements.rows.iter();
        let changing = rows.filter(|(_, row)| row.is_changing());
        changing
            .filter_map(|(group, row)| {
                let next = self.repair(*group, &row.target)?;
                let spoilt = row.target.iter().any(|node| !self.keeps(*node));
                // The change may have got to either set of voters.
                let stays = |node: &NodeId| row.voters.contains(node) && self.is_alive(*node);
                (spoilt && self.has_quorum(&row.voters) && next.to.iter().any(stays))
                    .then_some(next)
            })
            .collect()
    }

    fn next(&self) -> Option<Move> {
        let free = || {
            let rows = self.view.placements.rows.iter();
            rows.filter(|(group, _)| !self.taken.contains(group))
        };
        let leaving = free().filter(|(_, row)| {
            let mut voters = row.voters.iter();
            voters.any(|voter| !self.keeps(*voter))
        });
        let rest = free().filter(|(_, row)| row.voters.iter().all(|voter| self.keeps(*voter)));
        let mut repairs = leaving.chain(rest);
        repairs
            .find_map(|(group, row)| self.repair(*group, &row.voters))
            .or_else(|| self.balance())
    }

    fn take(&mut self, next: &Move) {
        self.taken.insert(next.group);
        if next.group == Group::META {
            return;
        }
        for node in &next.from {
            if let Some(load) = self.load.get_mut(node) {
                *load = load.saturating_sub(1);
            }
        }
        for node in &next.to {
            *self.load.entry(*node).or_default() += 1;
        }
    }

    fn phase(&self, node: NodeId) -> Option<MemberPhase> {
        self.view.members.phase(node)
    }

    fn keeps(&self, node: NodeId) -> bool {
        self.phase(node).is_some_and(MemberPhase::keeps_replicas)
    }

    fn is_alive(&self, node: NodeId) -> bool {
        self.view.alive.contains(&node)
    }

    /// Members that may be given replicas.
    fn takers(&self) -> impl Iterator<Item = NodeId> + '_ {
        let present = self.view.members.present();
        let takers = present.filter(|(_, row)| row.phase == MemberPhase::Member);
        takers.map(|(node, _)| node)
    }

    fn load(&self, node: NodeId) -> usize {
        self.load.get(&node).copied().unwrap_or_default()
    }

    /// A group with the right number of voters, all of whom stay; `None` if it has them, or can't get them now.
    fn repair(&self, group: Group, voters: &[NodeId]) -> Option<Move> {
        let mut to: Vec<NodeId> = voters
            .iter()
            .copied()
            .filter(|node| self.keeps(*node))
            .collect();
        let usable: BTreeSet<NodeId> = self.takers().chain(to.iter().copied()).collect();
        let wanted = replicas(group, usable.len());
        // Who is dead stays where the number fits: it is expected back.
        while to.len() > wanted {
            let most = |node: &&NodeId| (!self.is_alive(**node), self.load(**node), **node);
            let gives = to.iter().max_by_key(most).copied()?;
            to.retain(|node| *node != gives);
        }
        let heirs = voters.iter().filter(|node| !self.keeps(**node));
        let heirs: Vec<NodeId> = heirs
            .filter_map(|node| self.view.members.rows.get(node)?.heir)
            .collect();
        while to.len() < wanted {
            let takers = self
                .takers()
                .filter(|node| !to.contains(node) && self.is_alive(*node));
            let turn = |node: NodeId| node.0.wrapping_add(u64::from(group.0)) % 64;
            let fewest =
                |node: &NodeId| (!heirs.contains(node), self.load(*node), turn(*node), *node);
            let Some(takes) = takers.min_by_key(fewest) else {
                break;
            };
            to.push(takes);
        }
        self.checked(group, voters, to)
    }

    /// One replica from who holds most to who holds fewest.
    fn balance(&self) -> Option<Move> {
        let takers = self.takers().filter(|node| self.is_alive(*node));
        let takes = takers.min_by_key(|node| (self.load(*node), *node))?;
        let mut givers: Vec<NodeId> = self
            .takers()
            .filter(|node| self.load(*node) > self.load(takes) + 1)
            .collect();
        givers.sort_by_key(|node| (std::cmp::Reverse(self.load(*node)), *node));
        givers.into_iter().find_map(|gives| {
            let rows = self.view.placements.rows.iter();
            let mut movable = rows.filter(|(group, row)| {
                **group != Group::META
                    && !self.taken.contains(group)
                    && row.voters.contains(&gives)
                    && !row.voters.contains(&takes)
            });
            movable.find_map(|(group, row)| {
                let kept = row.voters.iter().copied().filter(|node| *node != gives);
                self.checked(*group, &row.voters, kept.chain([takes]).collect())
            })
        })
    }

    /// A change that is one, and that a quorum of live voters can carry from beginning to end.
    fn checked(&self, group: Group, from: &[NodeId], mut to: Vec<NodeId>) -> Option<Move> {
        to.sort_unstable();
        let mut to = if to == from || to.is_empty() {
            return None;
        } else {
            to
        };
        if !to
            .iter()
            .any(|node| from.contains(node) && self.is_alive(*node))
        {
            // Somebody has to hand over: the old voters stay until the new ones are there.
            to.extend(from.iter().copied().filter(|node| self.is_alive(*node)));
            to.sort_unstable();
            to.dedup();
            if to == from {
                return None;
            }
        }
        (self.has_quorum(from) && self.has_quorum(&to)).then(|| Move {
            group,
            from: from.to_vec(),
            to,
        })
    }

    fn has_quorum(&self, voters: &[NodeId]) -> bool {
        let alive = voters.iter().filter(|node| self.is_alive(**node)).count();
        alive > voters.len() / 2
    }
}

#[cfg(test)]
mod tests;
