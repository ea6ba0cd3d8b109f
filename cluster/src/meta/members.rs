//! The members of the pool: who they are, where, and at which point of their membership.
//!
//! ```text
//!           Added            caught up            operator             no leader, no session
//!   (none) ──────► Joining ───────────► Member ───────────► Draining ───────────► Drained
//!                     │                    ▲                    │                    │ to leave
//!                     │                    └───── undrain ──────┴────────────────────┤
//!                     └──────────────────── leaves, or died ───────────────────────► Leaving ──► Removed
//! ```
//!
//! Invariants: an id is given out once, for ever: removed members stay as tombstones, and the next id only grows. A change
//! names the revision of the row that it was decided on, so that retries and races change nothing twice. At most one member
//! drains or leaves at a time. A member is removed only when no group counts on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::replica::{MetaAnswer, MetaRefusal, Verdict};
use super::targets::Placements;
use crate::node_id::NodeId;

/// Members that a pool may have at once; more are another pool's matter.
pub const MEMBERS_MAX: usize = 64;

/// A point of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MemberPhase {
    /// Let in; it has not yet caught up with the meta group.
    Joining,
    /// Holds replicas, leads groups, serves clients.
    Member,
    /// Gives up what it leads and its sessions; keeps its replicas.
    Draining,
    /// Leads nothing and serves nobody; keeps its replicas.
    Drained,
    /// Its replicas move to others.
    Leaving,
    /// No longer a member. Its id is never used again.
    Removed,
}

impl MemberPhase {
    /// The word for operators.
    pub fn as_str(self) -> &'static str {
        match self {
            MemberPhase::Joining => "joining",
            MemberPhase::Member => "member",
            MemberPhase::Draining => "draining",
            MemberPhase::Drained => "drained",
            MemberPhase::Leaving => "leaving",
            MemberPhase::Removed => "removed",
        }
    }

    /// Whether replicas may stay on it.
    pub fn keeps_replicas(self) -> bool {
        matches!(
            self,
            MemberPhase::Member | MemberPhase::Draining | MemberPhase::Drained
        )
    }

    /// Whether it may lead groups and take logins.
    pub fn serves(self) -> bool {
        matches!(self, MemberPhase::Joining | MemberPhase::Member)
    }

    /// Whether an operation on it is under way that must be the only one.
    fn is_under_way(self) -> bool {
        matches!(self, MemberPhase::Draining | MemberPhase::Leaving)
    }
}

/// Names an addition, so that the same asked for twice is one member.
pub type AdditionId = [u8; 16];

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// Where the others reach its cluster port, `host:port`.
    pub address: String,
    /// How far it has come.
    pub phase: MemberPhase,
    /// Log index of the entry that changed it last.
    pub revision: u64,
    /// By which it was added; zeroes if it was there from the beginning.
    pub addition: AdditionId,
    /// Once drained it leaves.
    pub leaves: bool,
    /// Who gets its replicas, if that was said.
    pub heir: Option<NodeId>,
    /// Sessions a second that a drain moves; 0: as the node is set.
    pub pace: u32,
}

/// A member of a pool that is new, or from before members were in the meta group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstMember {
    /// Its id.
    pub node: NodeId,
    /// Where the others reach it.
    pub address: String,
}

/// What changes about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// It has caught up.
    Joined,
    /// An operator wants it empty of leaders and sessions.
    Drain {
        /// Sessions a second; 0: as the node is set.
        pace: u32,
        /// And then to leave.
        leaves: bool,
        /// Who gets its replicas when it leaves.
        heir: Option<NodeId>,
    },
    /// An operator takes that back.
    Undrain,
    /// It leads nothing and has no sessions.
    Drained,
    /// Its replicas are to move: it is drained, or dead.
    Leave {
        /// Who gets them.
        heir: Option<NodeId>,
    },
    /// No group counts on it any more.
    Removed,
}

/// An entry about members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberEntry {
    /// Who was there from the beginning, and the first voters of each group, meta first. It counts if no member is known.
    Seeded {
        /// The members.
        members: Vec<FirstMember>,
        /// By group number.
        voters: Vec<Vec<NodeId>>,
    },
    /// Somebody is let in, under the next id.
    Added {
        /// Where the others reach it.
        address: String,
        /// Which addition this is.
        addition: AdditionId,
    },
    /// A member changes.
    Changed {
        /// Which.
        node: NodeId,
        /// The revision of its row that this was decided on.
        expected: u64,
        /// What changes.
        change: MemberChange,
    },
}

/// All members there ever were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// By id, those that were removed too.
    pub rows: BTreeMap<NodeId, MemberRow>,
}

impl Members {
    /// A member's point, also of one that was removed.
    pub fn phase(&self, node: NodeId) -> Option<MemberPhase> {
        self.rows.get(&node).map(|row| row.phase)
    }

    /// Those that are not removed, by id.
    pub fn present(&self) -> impl Iterator<Item = (NodeId, &MemberRow)> {
        let present = self.rows.iter();
        let present = present.filter(|(_, row)| row.phase != MemberPhase::Removed);
        present.map(|(node, row)| (*node, row))
    }

    /// The id that the next one gets: ids of tombstones count.
    pub fn next_id(&self) -> NodeId {
        let last = self.rows.last_key_value().map_or(0, |(node, _)| node.0);
        NodeId(last.saturating_add(1))
    }

    /// Judges an entry and does what it says.
    pub(super) fn apply(
        &mut self,
        placements: &mut Placements,
        index: u64,
        entry: MemberEntry,
    ) -> Verdict {
        match entry {
            MemberEntry::Seeded { members, voters } => {
                if self.rows.is_empty() {
                    placements.seed(index, voters);
                    for FirstMember { node, address } in members {
                        self.rows.insert(node, MemberRow::first(address, index));
                    }
                }
                Ok(MetaAnswer::Done)
            }
            MemberEntry::Added { address, addition } => self.add(index, address, addition),
            MemberEntry::Changed {
                node,
                expected,
                change,
            } => {
                let before = self.judge(placements, node, expected, change)?;
                let Some(row) = self.rows.get_mut(&node) else {
                    return Err(unknown(node));
                };
                if before {
                    row.change(index, change);
                }
                Ok(MetaAnswer::Done)
            }
        }
    }

    fn add(&mut self, index: u64, address: String, addition: AdditionId) -> Verdict {
        if self.rows.is_empty() {
            return Err(MetaRefusal::new(
                "not-ready",
                "the pool has not yet noted its first members; try again in a moment",
            ));
        }
        let same = self.rows.iter().find(|(_, row)| row.addition == addition);
        if let Some((node, row)) = same {
            return match row.phase {
                MemberPhase::Removed => Err(MetaRefusal::new(
                    "removed",
                    format!("{node}, which this addition made, was removed since"),
                )),
                _ => Ok(MetaAnswer::Member(*node)),
            };
        }
        if let Some((node, _)) = self.present().find(|(_, row)| row.address == address) {
            return Err(MetaRefusal::new(
                "address-in-use",
                format!("{address} is the address of {node}"),
            ));
        }
        if self.present().count() >= MEMBERS_MAX {
            return Err(MetaRefusal::new(
                "capacity",
                format!("a pool has at most {MEMBERS_MAX} members"),
            ));
        }
        let node = self.next_id();
        let row = MemberRow {
            phase: MemberPhase::Joining,
            addition,
            ..MemberRow::first(address, index)
        };
        self.rows.insert(node, row);
        Ok(MetaAnswer::Member(node))
    }

    /// Whether a change may be made; `false`: it is so already.
    pub fn judge(
        &self,
        placements: &Placements,
        node: NodeId,
        expected: u64,
        change: MemberChange,
    ) -> Result<bool, MetaRefusal> {
        let row = self.rows.get(&node).ok_or_else(|| unknown(node))?;
        if row.phase == MemberPhase::Removed {
            return match change {
                MemberChange::Removed => Ok(false),
                _ => Err(MetaRefusal::new("removed", format!("{node} was removed"))),
            };
        }
        if row.is_so(change) {
            return Ok(false);
        }
        if row.revision != expected {
            return Err(MetaRefusal::new(
                "overtaken",
                format!("{node} has changed meanwhile; look again"),
            ));
        }
        self.judge_phase(placements, node, row, change)?;
        Ok(true)
    }

    fn judge_phase(
        &self,
        placements: &Placements,
        node: NodeId,
        row: &MemberRow,
        change: MemberChange,
    ) -> Result<(), MetaRefusal> {
        use MemberPhase::{Drained, Draining, Joining, Leaving, Member, Removed};
        let fits = match change {
            MemberChange::Joined => row.phase == Joining,
            MemberChange::Drain { leaves, .. } => {
                self.refuse_another(node)?;
                self.refuse_last(node)?;
                matches!(row.phase, Member | Draining) || (leaves && row.phase == Drained)
            }
            MemberChange::Undrain => matches!(row.phase, Draining | Drained | Leaving),
            MemberChange::Drained => row.phase == Draining,
            MemberChange::Leave { .. } => {
                self.refuse_another(node)?;
                self.refuse_last(node)?;
                matches!(row.phase, Joining | Member | Draining | Drained)
            }
            MemberChange::Removed => {
                if placements.count_on(node) {
                    return Err(MetaRefusal::new(
                        "still-holds-replicas",
                        format!("groups still count on {node}"),
                    ));
                }
                row.phase == Leaving
            }
        };
        let phase = row.phase.as_str();
        let wrong = || MetaRefusal::new("wrong-state", format!("{node} is {phase}"));
        debug_assert!(row.phase != Removed, "a tombstone was judged before");
        fits.then_some(()).ok_or_else(wrong)
    }

    /// One drain, and one leaving, at a time. Who is drained in order to leave is still on its way: what it waits for would
    /// be refused because of the other, for ever.
    fn refuse_another(&self, node: NodeId) -> Result<(), MetaRefusal> {
        let is_under_way = |row: &MemberRow| {
            row.phase.is_under_way() || (row.phase == MemberPhase::Drained && row.leaves)
        };
        let mut others = self.present().filter(|(other, _)| *other != node);
        match others.find(|(_, row)| is_under_way(row)) {
            None => Ok(()),
            Some((other, row)) => Err(MetaRefusal::new(
                "another-drain",
                format!("{other} is {}; one at a time", row.phase.as_str()),
            )),
        }
    }

    /// Somebody has to lead.
    fn refuse_last(&self, node: NodeId) -> Result<(), MetaRefusal> {
        let mut others = self.present().filter(|(other, _)| *other != node);
        match others.any(|(_, row)| row.phase == MemberPhase::Member) {
            true => Ok(()),
            false => Err(MetaRefusal::new(
                "last-node",
                format!("no other member could take over what {node} does"),
            )),
        }
    }
}

fn unknown(node: NodeId) -> MetaRefusal {
    MetaRefusal::new("unknown-node", format!("the pool has no {node}"))
}

impl MemberRow {
    fn first(address: String, index: u64) -> MemberRow {
        MemberRow {
            address,
            phase: MemberPhase::Member,
            revision: index,
            addition: AdditionId::default(),
            leaves: false,
            heir: None,
            pace: 0,
        }
    }

    /// Whether a change would change nothing. The same with another pace or heir is another change.
    fn is_so(&self, change: MemberChange) -> bool {
        use MemberPhase::{Drained, Draining, Leaving, Member};
        let is_heir = |heir: Option<NodeId>| heir.is_none() || heir == self.heir;
        match change {
            MemberChange::Joined | MemberChange::Undrain => self.phase == Member,
            MemberChange::Drain { pace, leaves, heir } => match self.phase {
                Draining => (self.leaves || !leaves) && is_heir(heir) && pace == self.pace,
                // What is drained has no pace any more.
                Drained => (self.leaves || !leaves) && is_heir(heir),
                Leaving => is_heir(heir),
                _ => false,
            },
            MemberChange::Drained => matches!(self.phase, Drained | Leaving),
            MemberChange::Leave { heir } => self.phase == Leaving && is_heir(heir),
            MemberChange::Removed => false,
        }
    }

    fn change(&mut self, index: u64, change: MemberChange) {
        self.revision = index;
        match change {
            MemberChange::Joined => self.phase = MemberPhase::Member,
            MemberChange::Drain { pace, leaves, heir } => {
                if self.phase == MemberPhase::Member {
                    self.phase = MemberPhase::Draining;
                }
                // A drain with another pace does not take back that the node is to leave: an undrain does.
                self.leaves |= leaves;
                (self.pace, self.heir) = (pace, heir.or(self.heir));
            }
            MemberChange::Undrain => {
                self.phase = MemberPhase::Member;
                (self.pace, self.leaves, self.heir) = (0, false, None);
            }
            MemberChange::Drained => self.phase = MemberPhase::Drained,
            MemberChange::Leave { heir } => {
                self.phase = MemberPhase::Leaving;
                self.leaves = true;
                self.heir = heir.or(self.heir);
            }
            MemberChange::Removed => self.phase = MemberPhase::Removed,
        }
    }
}

#[cfg(test)]
mod tests;
