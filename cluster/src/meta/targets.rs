//! Who votes in each group, and who shall: what the meta group has decided, and what the groups report.
//!
//! ```text
//!   meta's leader ── Target ──► row.target ──► the group's leader: learner, caught up, joint change ── Reached ──► row.voters
//! ```
//!
//! Invariants: at most [`CHANGING_MAX`] groups change at a time. A target shares a voter with what was reached before, and
//! with the target before it, so that somebody can hand over. The row says what was decided and
//! reported; who really votes is in the group's own log, and its leader goes by that. A target that is given up for another may
//! be reached all the same: until the group reports, it counts on its nodes, too.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::members::{MemberPhase, Members};
use super::replica::{MetaAnswer, MetaRefusal, Verdict};
use crate::node_id::{Group, NodeId};

/// Groups whose voters change at a time.
pub const CHANGING_MAX: usize = 2;

/// A group's voters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRow {
    /// Who votes, by the last report; in the order of their ids.
    pub voters: Vec<NodeId>,
    /// Who shall vote; in the order of their ids.
    pub target: Vec<NodeId>,
    /// Who was to vote by targets that were given up since the last report, and may vote by now; in the order of their ids.
    pub given_up: Vec<NodeId>,
    /// Log index of the entry that changed it last.
    pub revision: u64,
}

impl PlacementRow {
    /// Whether the target is not reached yet.
    pub fn is_changing(&self) -> bool {
        self.voters != self.target || !self.given_up.is_empty()
    }

    /// Whether the group counts on a node, now or at the end of its change.
    pub fn counts_on(&self, node: NodeId) -> bool {
        let may_vote = [&self.voters, &self.target, &self.given_up];
        may_vote.iter().any(|nodes| nodes.contains(&node))
    }

    /// Another target, whatever the group has done about the one before.
    fn aim(&mut self, target: Vec<NodeId>) {
        if self.is_changing() && self.target != target {
            self.given_up.append(&mut self.target);
            self.given_up.sort_unstable();
            self.given_up.dedup();
        }
        self.target = target;
    }

    /// The target is reached.
    pub(super) fn reach(&mut self) {
        self.voters.clone_from(&self.target);
        self.given_up.clear();
    }
}

/// An entry about the voters of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlacementEntry {
    /// These shall vote.
    Target {
        /// The group.
        group: Group,
        /// The revision of its row that this was decided on.
        expected: u64,
        /// The voters.
        voters: Vec<NodeId>,
    },
    /// The target is reached.
    Reached {
        /// The group.
        group: Group,
        /// The revision of the row with the target.
        expected: u64,
    },
}

/// The voters of all groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placements {
    /// By group.
    pub rows: BTreeMap<Group, PlacementRow>,
}

impl Placements {
    /// Whether any group counts on a node.
    pub fn count_on(&self, node: NodeId) -> bool {
        self.rows.values().any(|row| row.counts_on(node))
    }

    /// The groups whose voters change now.
    pub fn changing(&self) -> impl Iterator<Item = Group> + '_ {
        let rows = self.rows.iter().filter(|(_, row)| row.is_changing());
        rows.map(|(group, _)| *group)
    }

    pub(super) fn seed(&mut self, index: u64, voters: Vec<Vec<NodeId>>) {
        for (group, voters) in (0..).map(Group).zip(voters) {
            let row = PlacementRow {
                target: voters.clone(),
                voters,
                given_up: Vec::new(),
                revision: index,
            };
            self.rows.insert(group, row);
        }
    }

    /// Judges an entry and does what it says.
    pub(super) fn apply(
        &mut self,
        members: &Members,
        index: u64,
        entry: PlacementEntry,
    ) -> Verdict {
        let (group, expected) = match &entry {
            PlacementEntry::Target {
                group, expected, ..
            }
            | PlacementEntry::Reached { group, expected } => (*group, *expected),
        };
        let changing = self.changing().filter(|other| *other != group).count();
        let unknown = || MetaRefusal::new("unknown-group", format!("the pool has no {group}"));
        let row = self.rows.get_mut(&group).ok_or_else(unknown)?;
        if row.revision != expected {
            let sentence = format!("the voters of {group} have changed meanwhile");
            return Err(MetaRefusal::new("overtaken", sentence));
        }
        match entry {
            PlacementEntry::Target { voters, .. } => {
                let voters: BTreeSet<NodeId> = voters.into_iter().collect();
                let voters: Vec<NodeId> = voters.into_iter().collect();
                row.judge(members, group, &voters)?;
                if changing >= CHANGING_MAX {
                    let sentence = format!("{CHANGING_MAX} other groups change their voters");
                    return Err(MetaRefusal::new("busy", sentence));
                }
                row.aim(voters);
            }
            PlacementEntry::Reached { .. } => row.reach(),
        }
        row.revision = index;
        Ok(MetaAnswer::Done)
    }
}

impl PlacementRow {
    fn judge(&self, members: &Members, group: Group, target: &[NodeId]) -> Result<(), MetaRefusal> {
        let invalid = |sentence: String| Err(MetaRefusal::new("invalid-target", sentence));
        // A change that is under way may have got to either.
        for before in [&self.voters, &self.target] {
            if !target.iter().any(|node| before.contains(node)) {
                return invalid(format!("no voter of {group} would stay"));
            }
        }
        let is_member = |node: &NodeId| {
            let phase = members.phase(*node);
            phase.is_some_and(|phase| phase != MemberPhase::Removed)
        };
        match target.iter().find(|node| !is_member(node)) {
            Some(node) => invalid(format!("{node} is no member")),
            None => Ok(()),
        }
    }
}
