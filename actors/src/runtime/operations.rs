//! What operators do with the pool's members: let in, drain, take back, remove, replace; what that would do, and how far it is.
//!
//! Everything is decided by the meta group and done by the nodes themselves ([`super::reconcile`]): these calls return when
//! it is decided. What is asked twice is done once.

use std::collections::BTreeSet;

use cluster::meta::MetaAnswer;
use cluster::meta::MetaEntry;
use cluster::meta::MetaState;
use cluster::meta::capacity;
use cluster::meta::members::{AdditionId, MemberChange, MemberEntry, MemberPhase};
use cluster::meta::placement::{Move, View, all_moves, stuck_on, survives_without};
use cluster::node_id::{Group, NodeId};
use cluster::version::Build;
use serde::Serialize;

use super::NodeHandle;
use super::figures;
use super::meta_road::OperationError;
use super::reconcile::alive;
use super::versions::refuse_unfit;

/// A member as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberInfo {
    /// Its id.
    pub id: u64,
    /// Where the others reach it, `host:port`.
    pub address: String,
    /// `joining`, `member`, `draining`, `drained`, `leaving` or `removed`.
    pub state: &'static str,
    /// Whether it is to leave once it is drained.
    pub leaves: bool,
    /// Whether this node has connections to it and hears of it.
    pub alive: bool,
    /// Groups that it votes in, meta included.
    pub replicas: usize,
    /// Partitions that it owns, as far as is known.
    pub owns: usize,
    /// The build of its last start; `None`: it has never started, or its build did not say.
    pub build: Option<Build>,
}

/// A node that is to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Where the others reach its cluster port, `host:port`.
    pub address: String,
    /// A random name of this addition: asked for twice by the same, it is one member.
    pub addition: AdditionId,
    /// What it runs.
    pub build: Build,
}

/// How a node is drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainOptions {
    /// Sessions moved a second; `None`: as the node is set.
    pub sessions_per_second: Option<u32>,
    /// Though the others can't carry what it has, as far as is known.
    pub over_capacity: bool,
}

impl DrainOptions {
    fn change(self) -> MemberChange {
        MemberChange::Drain {
            pace: self.sessions_per_second.unwrap_or(0),
            leaves: false,
            heir: None,
        }
    }
}

/// How a node is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// The node is dead and will not come back: it is not waited for.
    pub force_dead: bool,
    /// Though the others can't carry what it has, as far as is known.
    pub over_capacity: bool,
}

/// What may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`NodeHandle::add_member`].
    Add(NewMember),
    /// [`NodeHandle::drain`].
    Drain(NodeId, DrainOptions),
    /// [`NodeHandle::undrain`].
    Undrain(NodeId),
    /// [`NodeHandle::remove`].
    Remove(NodeId, RemoveOptions),
    /// [`NodeHandle::replace`].
    Replace {
        /// Who goes.
        old: NodeId,
        /// Who gets its replicas.
        new: NodeId,
        /// Though the others can't carry what it has, as far as is known.
        over_capacity: bool,
    },
}

/// What an operation would do, step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In their order.
    pub steps: Vec<PlanStep>,
}

/// A step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum PlanStep {
    /// A node is let in under this id and catches up with the meta group.
    Join {
        /// Its id.
        node: u64,
    },
    /// A node hands over the groups that it leads.
    HandOver {
        /// Which node.
        node: u64,
        /// How many groups it could lead.
        groups: usize,
    },
    /// A node's sessions are moved.
    MoveSessions {
        /// Which node.
        node: u64,
    },
    /// A node serves again.
    Serve {
        /// Which node.
        node: u64,
    },
    /// A group changes its voters.
    MoveReplica {
        /// The group; 0 is meta, 1 + p is partition p.
        group: u32,
        /// Who votes now.
        from: Vec<u64>,
        /// Who shall.
        to: Vec<u64>,
    },
    /// A node is no longer a member.
    Remove {
        /// Which node.
        node: u64,
    },
}

/// How far what is under way has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Members that join, drain or leave, with the word for it.
    pub under_way: Vec<(u64, &'static str)>,
    /// Groups that have still to change their voters, those that change now included.
    pub groups_to_move: usize,
    /// Those that change now.
    pub groups_moving: usize,
    /// Entries that new voters of groups led here still lack.
    pub entries_behind: u64,
    /// Partitions owned by members that drain or leave.
    pub leaders_left: usize,
    /// Sessions on members that are being drained or leave, as they were last told; `None`: there is no such member, or nobody has
    /// told.
    pub sessions_left: Option<u64>,
}

impl Progress {
    /// Whether nothing is under way.
    pub fn is_done(&self) -> bool {
        self.under_way.is_empty() && self.groups_to_move == 0
    }
}

fn ids(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

/// Whether a node is on its way out of the pool, with this heir if one is named.
fn leaves_already(state: &MetaState, node: NodeId, heir: Option<NodeId>) -> bool {
    let row = state.members.rows.get(&node);
    row.is_some_and(|row| {
        let leaves = row.leaves || row.phase == MemberPhase::Leaving;
        leaves && (heir.is_none() || heir == row.heir)
    })
}

fn unknown(node: NodeId) -> OperationError {
    OperationError::new("unknown-node", format!("the pool has no {node}"))
}

impl NodeHandle {
    /// All members, those that were removed too.
    pub fn members(&self) -> Vec<MemberInfo> {
        let alive = alive(&self.inner.fabric);
        let owners = self.inner.fabric.owners();
        let state = self.inner.fabric.meta.state();
        let rows = state.members.rows.iter();
        rows.map(|(node, row)| MemberInfo {
            id: node.0,
            address: row.address.clone(),
            state: row.phase.as_str(),
            leaves: row.leaves,
            alive: alive.contains(node),
            replicas: replicas_of(&state, *node),
            owns: owned_by(&owners, *node),
            build: state.versions.builds.get(node).cloned(),
        })
        .collect()
    }

    /// Lets a node in, under the id that it gives; its certificate has to name that. It becomes a member when it has
    /// started and caught up.
    ///
    /// # Errors
    /// `address-in-use`, `capacity`, `not-ready`, `version-skew`, and those of all changes: `unavailable`, `outcome-unknown`.
    pub async fn add_member(&self, new: NewMember) -> Result<NodeId, OperationError> {
        let NewMember {
            address,
            addition,
            build,
        } = new;
        self.check_build(&build)?;
        let entry = MemberEntry::Added { address, addition };
        match self.decide(MetaEntry::Members(entry)).await? {
            MetaAnswer::Member(node) => Ok(node),
            MetaAnswer::Done => Err(OperationError::new(
                "outcome-unknown",
                "the node was let in, but its id was not told; look at the members",
            )),
        }
    }

    /// Empties a node of leaders and sessions; it keeps its replicas.
    ///
    /// # Errors
    /// `unknown-node`, `another-drain`, `last-node`, `version-skew`, `quorum-would-be-lost`, `capacity-would-be-exceeded`, and
    /// those of all changes.
    pub async fn drain(&self, node: NodeId, options: DrainOptions) -> Result<(), OperationError> {
        self.check_without(node)?;
        self.check_capacity(node, options.over_capacity, &[])?;
        self.change(node, options.change()).await
    }

    /// Takes a drain back, or a removal that is not done.
    ///
    /// # Errors
    /// `unknown-node`, `wrong-state`, and those of all changes.
    pub async fn undrain(&self, node: NodeId) -> Result<(), OperationError> {
        self.change(node, MemberChange::Undrain).await
    }

    /// Drains a node, moves its replicas to others and lets it go. A dead one is not waited for.
    ///
    /// # Errors
    /// As [`NodeHandle::drain`]; `is-alive` if a node is said to be dead and is not.
    pub async fn remove(&self, node: NodeId, options: RemoveOptions) -> Result<(), OperationError> {
        self.leave(node, options, None).await
    }

    /// Removes a node whose replicas go to another. A dead one is not waited for.
    ///
    /// # Errors
    /// As [`NodeHandle::remove`]; `same-node`, `not-caught-up` while the new one has not joined, `not-alive` if it is away.
    pub async fn replace(
        &self,
        old: NodeId,
        new: NodeId,
        over_capacity: bool,
    ) -> Result<(), OperationError> {
        self.check_heir(old, new)?;
        let options = RemoveOptions {
            force_dead: !alive(&self.inner.fabric).contains(&old),
            over_capacity,
        };
        self.leave(old, options, Some(new)).await
    }

    /// What an operation would do, if nothing else happens.
    ///
    /// # Errors
    /// Those with which it would be refused now.
    pub fn plan(&self, operation: &Operation) -> Result<Plan, OperationError> {
        let mut state = self.inner.fabric.meta.state().clone();
        let mut alive = alive(&self.inner.fabric);
        let mut steps = Vec::new();
        match operation {
            Operation::Add(new) => {
                self.check_build(&new.build)?;
                let node = state.members.next_id();
                state.try_add(&new.address, new.addition)?;
                alive.insert(node);
                steps.push(PlanStep::Join { node: node.0 });
            }
            Operation::Drain(node, options) => {
                self.check_without(*node)?;
                self.check_capacity(*node, options.over_capacity, &[])?;
                if state.try_change(*node, options.change())? {
                    steps.extend(drained(&state, *node));
                }
                return Ok(Plan { steps });
            }
            Operation::Undrain(node) => {
                if state.try_change(*node, MemberChange::Undrain)? {
                    steps.push(PlanStep::Serve { node: node.0 });
                }
            }
            Operation::Remove(node, options) => {
                steps.extend(self.goes(*node, *options, None, &mut state)?);
            }
            Operation::Replace {
                old,
                new,
                over_capacity,
            } => {
                self.check_heir(*old, *new)?;
                let options = RemoveOptions {
                    force_dead: !alive.contains(old),
                    over_capacity: *over_capacity,
                };
                steps.extend(self.goes(*old, options, Some(*new), &mut state)?);
            }
        }
        let moves = all_moves(View {
            members: &state.members,
            placements: &state.placements,
            alive: &alive,
        });
        steps.extend(moves.into_iter().map(|next| PlanStep::MoveReplica {
            group: next.group.0,
            from: ids(&next.from),
            to: ids(&next.to),
        }));
        if let Operation::Remove(node, _) | Operation::Replace { old: node, .. } = operation {
            steps.push(PlanStep::Remove { node: node.0 });
        }
        Ok(Plan { steps })
    }

    /// What comes before a node's replicas move when it leaves; it does so in `state`.
    fn goes(
        &self,
        node: NodeId,
        options: RemoveOptions,
        heir: Option<NodeId>,
        state: &mut MetaState,
    ) -> Result<Vec<PlanStep>, OperationError> {
        let change = self.check_leave(node, options, heir)?;
        state.try_change(node, change)?;
        let mut steps = Vec::new();
        if matches!(change, MemberChange::Drain { .. }) {
            steps.extend(drained(state, node));
        }
        state.try_leave(node, heir)?;
        Ok(steps)
    }

    /// How far what is under way has come, by this node's view. It changes with [`NodeHandle::meta_changes`] and in
    /// between: look again every second.
    pub fn progress(&self) -> Progress {
        let fabric = &self.inner.fabric;
        let owners = fabric.owners();
        let sessions = self.sessions_by_node();
        let statuses = self.inner.groups.status();
        let state = fabric.meta.state().clone();
        // What waits for a member that is away is still to be done.
        let alive = state.members.present().map(|(node, _)| node).collect();
        let mut progress = Progress::default();
        for (node, row) in state.members.present() {
            let settled = matches!(row.phase, MemberPhase::Member)
                || (row.phase == MemberPhase::Drained && !row.leaves);
            if !settled {
                progress.under_way.push((node.0, row.phase.as_str()));
            }
            if !row.phase.serves() {
                progress.leaders_left += owned_by(&owners, node);
                // Of one that is drained an old figure may be told still.
                if let Some(told) = sessions.get(&node.0).filter(|_| !settled) {
                    *progress.sessions_left.get_or_insert(0) += told;
                }
            }
        }
        let moving: BTreeSet<Group> = state.placements.changing().collect();
        let moves = all_moves(View {
            members: &state.members,
            placements: &state.placements,
            alive: &alive,
        });
        let planned: BTreeSet<Group> = moves.iter().map(|next| next.group).collect();
        progress.groups_moving = moving.len();
        progress.groups_to_move = moving.union(&planned).count();
        for status in statuses.iter().filter(|status| status.is_leader) {
            let Some(row) = state.placements.rows.get(&status.group) else {
                continue;
            };
            let new = row.target.iter().filter(|node| !row.voters.contains(node));
            let lacks = new.map(|node| {
                let all = status.last_log.unwrap_or(0);
                status.lag_of(*node).unwrap_or(all)
            });
            progress.entries_behind += lacks.sum::<u64>();
        }
        progress
    }

    /// Wakes whenever the meta group has decided something; the value is its log's index.
    pub fn meta_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.fabric.meta.applied()
    }

    async fn leave(
        &self,
        node: NodeId,
        options: RemoveOptions,
        heir: Option<NodeId>,
    ) -> Result<(), OperationError> {
        let change = self.check_leave(node, options, heir)?;
        self.change(node, change).await
    }

    /// Whether a node may leave, as far as this node can tell, and with which change that begins.
    fn check_leave(
        &self,
        node: NodeId,
        options: RemoveOptions,
        heir: Option<NodeId>,
    ) -> Result<MemberChange, OperationError> {
        let is_dead = options.force_dead;
        self.check_dead(node, is_dead)?;
        self.check_without(node)?;
        let state = self.inner.fabric.meta.state().clone();
        let phase = state.members.phase(node);
        let goes = leaves_already(&state, node, heir);
        let mut after = state;
        // What would be refused is refused by who decides. What goes already is only asked for again.
        if !goes && after.try_leave(node, heir).is_ok() {
            self.check_settles(node, &after)?;
            self.check_room(node, options.over_capacity, &after)?;
        }
        Ok(match is_dead || phase == Some(MemberPhase::Joining) {
            true => MemberChange::Leave { heir },
            false => MemberChange::Drain {
                pace: 0,
                leaves: true,
                heir,
            },
        })
    }

    /// Whether a node can take over what another has.
    fn check_heir(&self, old: NodeId, new: NodeId) -> Result<(), OperationError> {
        if old == new {
            return Err(OperationError::new(
                "same-node",
                format!("{old} can't take over from itself"),
            ));
        }
        let state = self.inner.fabric.meta.state().clone();
        if leaves_already(&state, old, Some(new)) {
            return Ok(());
        }
        match state.members.phase(new).ok_or_else(|| unknown(new))? {
            MemberPhase::Member if alive(&self.inner.fabric).contains(&new) => Ok(()),
            MemberPhase::Member => Err(OperationError::new(
                "not-alive",
                format!("{new} is away: it could take nothing over"),
            )),
            MemberPhase::Joining => Err(OperationError::new(
                "not-caught-up",
                format!("{new} has not joined yet; start it, and wait until it is a member"),
            )),
            phase => Err(OperationError::new(
                "wrong-state",
                format!("{new} is {}", phase.as_str()),
            )),
        }
    }

    /// Whether no group would count on a node any more, in the end; `after`: as if it left. What could not go on is not begun.
    fn check_settles(&self, node: NodeId, after: &MetaState) -> Result<(), OperationError> {
        let alive = alive(&self.inner.fabric);
        let stuck = stuck_on(
            View {
                members: &after.members,
                placements: &after.placements,
                alive: &alive,
            },
            node,
        );
        stuck.map_or(Ok(()), |group| {
            Err(OperationError::new(
                "quorum-would-be-lost",
                format!("{group} could not do without {node} now: too many of its voters are away"),
            ))
        })
    }

    /// Whether a node that is said to be dead may be. This comes before all else: where it is not so, it does not matter what
    /// would be lost without the node.
    fn check_dead(&self, node: NodeId, is_dead: bool) -> Result<(), OperationError> {
        if is_dead && alive(&self.inner.fabric).contains(&node) {
            return Err(OperationError::new(
                "is-alive",
                format!("{node} is alive: remove it without force, or stop it first"),
            ));
        }
        Ok(())
    }

    /// Whether every group could work on without a node.
    fn check_without(&self, node: NodeId) -> Result<(), OperationError> {
        let alive = alive(&self.inner.fabric);
        let state = self.inner.fabric.meta.state();
        let row = state.members.rows.get(&node).ok_or_else(|| unknown(node))?;
        if row.phase == MemberPhase::Removed || !row.phase.serves() {
            return Ok(());
        }
        let others = state.members.present();
        let mut others = others.filter(|(other, row)| *other != node && row.phase.serves());
        if others.next().is_none() {
            return Err(OperationError::new(
                "last-node",
                format!("no other member could take over what {node} does"),
            ));
        }
        refuse_unfit(&state, node)?;
        let view = View {
            members: &state.members,
            placements: &state.placements,
            alive: &alive,
        };
        let groups = state.placements.rows.iter();
        let mut counting = groups.filter(|(_, row)| row.voters.contains(&node));
        let lost = counting.find(|(group, row)| {
            // Two voters both count: the other one leads, as long as both are there.
            let of_two = row.voters.len() <= 2 && row.voters.iter().all(|v| alive.contains(v));
            !of_two && !survives_without(view, **group, node)
        });
        match lost {
            None => Ok(()),
            Some((group, _)) => Err(OperationError::new(
                "quorum-would-be-lost",
                format!(
                    "{group} would have no quorum without {node}: too many of its voters are away"
                ),
            )),
        }
    }

    /// Whether the others could carry what a node has that leaves; `after`: as if it did.
    fn check_room(
        &self,
        node: NodeId,
        over_capacity: bool,
        after: &MetaState,
    ) -> Result<(), OperationError> {
        let alive = alive(&self.inner.fabric);
        let moves = all_moves(View {
            members: &after.members,
            placements: &after.placements,
            alive: &alive,
        });
        self.check_capacity(node, over_capacity, &moves)
    }

    /// Whether the others could carry what a node has. What goes already is not asked about any more.
    fn check_capacity(
        &self,
        node: NodeId,
        over_capacity: bool,
        moves: &[Move],
    ) -> Result<(), OperationError> {
        let fabric = &self.inner.fabric;
        let alive = alive(fabric);
        let state = fabric.meta.state();
        let row = state.members.rows.get(&node);
        let leaves = row.is_none_or(|row| row.leaves || row.phase == MemberPhase::Leaving);
        if over_capacity || leaves {
            return Ok(());
        }
        let figures = figures::told(&fabric.gossip);
        capacity::judge(node, &state.members, &alive, &figures, moves).map_err(|exceeded| {
            let sentence = format!("{exceeded}; --over-capacity does it all the same");
            OperationError::new("capacity-would-be-exceeded", sentence)
        })
    }

    async fn change(&self, node: NodeId, change: MemberChange) -> Result<(), OperationError> {
        let expected = {
            let state = self.inner.fabric.meta.state();
            let row = state.members.rows.get(&node).ok_or_else(|| unknown(node))?;
            row.revision
        };
        let entry = MemberEntry::Changed {
            node,
            expected,
            change,
        };
        self.decide(MetaEntry::Members(entry)).await.map(drop)
    }

    pub(super) async fn decide(&self, entry: MetaEntry) -> Result<MetaAnswer, OperationError> {
        self.inner.road.decide(&self.inner.fabric.meta, entry).await
    }
}

fn replicas_of(state: &MetaState, node: NodeId) -> usize {
    let rows = state.placements.rows.values();
    rows.filter(|row| row.voters.contains(&node)).count()
}

fn owned_by(owners: &[Option<(NodeId, cluster::node_id::Epoch)>], node: NodeId) -> usize {
    let owners = owners.iter().flatten();
    owners.filter(|(owner, _)| *owner == node).count()
}

fn drained(state: &MetaState, node: NodeId) -> [PlanStep; 2] {
    [
        PlanStep::HandOver {
            node: node.0,
            groups: replicas_of(state, node),
        },
        PlanStep::MoveSessions { node: node.0 },
    ]
}

/// Tries on a copy of the state what an operation would do to it.
trait Rehearsal {
    fn try_add(&mut self, address: &str, addition: AdditionId) -> Result<(), OperationError>;
    fn try_phase(&mut self, node: NodeId, phase: MemberPhase) -> Result<(), OperationError>;
    /// Whether it changes anything.
    fn try_change(&mut self, node: NodeId, change: MemberChange) -> Result<bool, OperationError>;
    fn try_leave(&mut self, node: NodeId, heir: Option<NodeId>) -> Result<(), OperationError>;
}

impl Rehearsal for MetaState {
    fn try_add(&mut self, address: &str, addition: AdditionId) -> Result<(), OperationError> {
        let entry = MemberEntry::Added {
            address: address.to_owned(),
            addition,
        };
        match self.rehearse(MetaEntry::Members(entry))? {
            MetaAnswer::Member(node) => self.try_phase(node, MemberPhase::Member),
            MetaAnswer::Done => Ok(()),
        }
    }

    fn try_phase(&mut self, node: NodeId, phase: MemberPhase) -> Result<(), OperationError> {
        let row = self.members.rows.get_mut(&node);
        row.ok_or_else(|| unknown(node))?.phase = phase;
        Ok(())
    }

    fn try_change(&mut self, node: NodeId, change: MemberChange) -> Result<bool, OperationError> {
        let row = self.members.rows.get(&node).ok_or_else(|| unknown(node))?;
        let expected = row.revision;
        let entry = MemberEntry::Changed {
            node,
            expected,
            change,
        };
        self.rehearse(MetaEntry::Members(entry))?;
        let row = self.members.rows.get(&node).ok_or_else(|| unknown(node))?;
        Ok(row.revision != expected)
    }

    fn try_leave(&mut self, node: NodeId, heir: Option<NodeId>) -> Result<(), OperationError> {
        self.try_change(node, MemberChange::Leave { heir })
            .map(drop)
    }
}
