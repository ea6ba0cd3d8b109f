//! Brings the pool to what the meta group has decided, step by step.
//!
//! ```text
//!   leader of meta:   members ─► planner ─► Target of a group          Joining ─► Member, Leaving ─► Removed
//!   leader of a group: Target ─► learner ─► caught up ─► (hand over) ─► joint change ─► Reached
//! ```
//!
//! Nothing is remembered here but what is in hand this moment: what is to be done follows from the meta group's state and
//! from each group's own membership, so whoever leads next goes on where the last one was. Every step may be done twice.
//!
//! Invariants: a voter is removed only by a change to a target all of whose new voters have caught up, and more than half
//! of all of whose voters answer; a leader that is not in the target hands over first. What is not committed is not done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::gossip::Liveness;
use cluster::meta::members::{FirstMember, MemberChange, MemberEntry, MemberPhase, MemberRow};
use cluster::meta::placement::{View, initial, next_moves};
use cluster::meta::targets::{PlacementEntry, PlacementRow};
use cluster::meta::{MetaEntry, MetaState};
use cluster::node_id::{Group, NodeId};
use cluster::raft::{GroupStatus, GroupsError};
use cluster::transport::Lane;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use super::meta_road::{MetaRoad, OperationError};
use crate::fabric::Fabric;

/// How often each node looks what is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A new voter may lack so many entries: it has them within the time of a commit.
const LAG_MAX: u64 = 256;

/// How long a step may take before it is tried again.
const STEP_MAX: Duration = Duration::from_secs(30);

/// How long a removed node is still told so.
const FAREWELL_MAX: Duration = Duration::from_secs(10);

/// The members that are there: this node has connections to them and hears of them.
pub(super) fn alive(fabric: &Fabric) -> BTreeSet<NodeId> {
    let members = fabric.members();
    let members = members.iter().map(|member| member.id);
    members
        .filter(|node| {
            *node == fabric.node
                || (fabric.transport.connected(*node, Lane::Raft)
                    && fabric.gossip.liveness(*node) == Liveness::Alive)
        })
        .collect()
}

/// What is in hand on this node.
pub(super) struct Reconciler {
    fabric: Arc<Fabric>,
    road: MetaRoad,
    /// Groups with a step under way.
    in_hand: Arc<Mutex<BTreeSet<Group>>>,
    /// A step has come to its end.
    stepped: Arc<Notify>,
    /// When this node saw that a member was removed.
    farewells: BTreeMap<NodeId, Instant>,
}

/// A step of a group to its target.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A member shall follow.
    AddLearner(NodeId),
    /// A voter that stays shall lead.
    HandOver(NodeId),
    /// These shall vote.
    ChangeVoters(Vec<NodeId>),
    /// A member shall not follow any more.
    RemoveLearner(NodeId),
    /// The target is reached.
    Report(u64),
}

/// What the next step of a group that this node leads is; `None`: nothing to do, or to wait for.
///
/// `reached`: whether there is a connection to a node. `stays`: who follows without a vote. `heirs`: who could lead at once.
/// `heard_within`: who has not answered for longer is not counted on.
fn next_step(
    status: &GroupStatus,
    row: &PlacementRow,
    own: NodeId,
    reached: impl Fn(NodeId) -> bool,
    stays: impl Fn(NodeId) -> bool,
    heirs: &[NodeId],
    heard_within: Duration,
) -> Option<Step> {
    let mut voters = status.voters.clone();
    voters.sort_unstable();
    let learners = &status.learners;
    if voters == row.target && !status.is_joint {
        let missing = |node: &&NodeId| !stays(**node);
        return match learners.iter().find(missing) {
            Some(node) => Some(Step::RemoveLearner(*node)),
            // A leader that is cut off sees its own word, and the others may decide otherwise.
            None if row.is_changing() && status.is_settled => Some(Step::Report(row.revision)),
            None => None,
        };
    }
    // Its voters are what was reached last, so the log knows of a target that this node has not heard of yet.
    if !row.is_changing() {
        return None;
    }
    let new: Vec<NodeId> = row
        .target
        .iter()
        .copied()
        .filter(|node| !voters.contains(node))
        .collect();
    let unknown = new.iter().find(|node| !learners.contains(node));
    if let Some(node) = unknown {
        return reached(*node).then_some(Step::AddLearner(*node));
    }
    let has_caught_up =
        |node: &NodeId| reached(*node) && status.lag_of(*node).is_some_and(|lag| lag <= LAG_MAX);
    // One that gives no vote yet, as one whose data was removed before, is no voter yet.
    let votes = |node: &NodeId| {
        let mut followers = status.followers.iter();
        !followers.any(|follower| follower.node == *node && follower.quarantined)
    };
    if !new.iter().all(|node| has_caught_up(node) && votes(node)) {
        return None;
    }
    if !row.target.contains(&own) {
        let stays = |node: &&NodeId| row.target.contains(node) && reached(**node);
        let heirs = heirs.iter().filter(stays);
        // The target and the old voters have one in common: it comes back, or another target comes.
        let heir = heirs.min_by_key(|node| status.lag_of(**node))?;
        return Some(Step::HandOver(*heir));
    }
    // Those who will decide alone have to be there: a change that nobody answers could not even be taken back.
    let is_heard = |node| is_heard(status, node, heard_within);
    let answers = |node: &&NodeId| **node == own || (has_caught_up(node) && is_heard(**node));
    let answering = row.target.iter().filter(answers).count();
    (answering > row.target.len() / 2).then(|| Step::ChangeVoters(row.target.clone()))
}

/// Whether a member has answered lately, and would give its vote.
fn is_heard(status: &GroupStatus, node: NodeId, within: Duration) -> bool {
    let mut followers = status.followers.iter();
    followers.any(|follower| {
        let lately = follower.heard.is_some_and(|ago| ago <= within);
        follower.node == node && !follower.quarantined && lately
    })
}

impl Reconciler {
    pub(super) fn new(fabric: Arc<Fabric>, road: MetaRoad) -> Reconciler {
        Reconciler {
            fabric,
            road,
            in_hand: Arc::default(),
            stepped: Arc::default(),
            farewells: BTreeMap::new(),
        }
    }

    /// Looks for as long as the node lives.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut applied = self.fabric.meta.applied();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stepped.notified() => {}
                changed = applied.changed() => if changed.is_err() { return },
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let state = self.fabric.meta.state().clone();
        let statuses = self.road.groups.status();
        if let Some(meta) = statuses.iter().find(|status| status.group == Group::META)
            && meta.is_leader
        {
            self.lead_meta(&state, meta).await;
        }
        for status in statuses.iter().filter(|status| status.is_leader) {
            if let Some(row) = state.placements.rows.get(&status.group) {
                self.step(&state, status, row);
            }
        }
    }

    async fn lead_meta(&mut self, state: &MetaState, meta: &GroupStatus) {
        if state.members.rows.is_empty() {
            return self.seed().await;
        }
        self.let_follow(state, meta).await;
        for (node, row) in state.members.present() {
            if let Some(change) = due_change(state, meta, node, row) {
                let entry = MemberEntry::Changed {
                    node,
                    expected: row.revision,
                    change,
                };
                tracing::info!(%node, ?change, "a member's state is due to change");
                if self.propose(MetaEntry::Members(entry)).await {
                    // The state has changed: look again.
                    return;
                }
                // Refused: what it waits for may be the planner's to do.
            }
        }
        let alive = alive(&self.fabric);
        let moves = next_moves(View {
            members: &state.members,
            placements: &state.placements,
            alive: &alive,
        });
        for next in moves {
            let Some(row) = state.placements.rows.get(&next.group) else {
                continue;
            };
            tracing::info!(group = %next.group, from = ?next.from, to = ?next.to, "voters are to change");
            let entry = PlacementEntry::Target {
                group: next.group,
                expected: row.revision,
                voters: next.to,
            };
            self.propose(MetaEntry::Placement(entry)).await;
        }
    }

    /// A pool that is new, or from before members were in the meta group: those of the configuration are the first. In one
    /// from before all of them vote in every group, which this node's own logs say; the planner makes that fewer.
    async fn seed(&self) {
        let settings = &self.fabric.settings;
        let nodes = settings.members.iter().map(|member| member.id).collect();
        let members = settings.members.iter().map(|member| FirstMember {
            node: member.id,
            address: member.address.clone(),
        });
        let mut members: Vec<FirstMember> = members.collect();
        members.sort_by_key(|member| member.node);
        let mut voters = initial(&nodes, u32::from(settings.partitions) + 1);
        for (group, status) in voters.iter_mut().zip(self.road.groups.status()) {
            if !status.voters.is_empty() {
                *group = status.voters;
                group.sort_unstable();
            }
        }
        let entry = MemberEntry::Seeded { members, voters };
        self.propose(MetaEntry::Members(entry)).await;
    }

    /// Every member follows the meta group; who was removed does for a moment, so that it is told.
    async fn let_follow(&mut self, state: &MetaState, meta: &GroupStatus) {
        let groups = &self.road.groups;
        let connected = |node| self.fabric.transport.connected(node, Lane::Raft);
        for (node, _) in state.members.present() {
            let follows = meta.voters.contains(&node) || meta.learners.contains(&node);
            if !follows && connected(node) {
                tracing::info!(%node, "a node is to follow the meta group");
                told(
                    Group::META,
                    limited(groups.add_learner(Group::META, node)).await,
                );
            }
        }
        for node in &meta.learners {
            if state.members.phase(*node) != Some(MemberPhase::Removed) {
                continue;
            }
            let since = *self.farewells.entry(*node).or_insert_with(Instant::now);
            if !connected(*node) || since.elapsed() > FAREWELL_MAX {
                told(
                    Group::META,
                    limited(groups.remove_learner(Group::META, *node)).await,
                );
            }
        }
    }

    /// One step of a group to its target, beside this task: a change waits for a quorum.
    fn step(&self, state: &MetaState, status: &GroupStatus, row: &PlacementRow) {
        let reached =
            |node| node == self.fabric.node || self.fabric.transport.connected(node, Lane::Raft);
        // Meta's learners have rules of their own.
        let stays = |node| status.group == Group::META || row.target.contains(&node);
        let own = self.fabric.node;
        let heirs = self.heirs(state, status);
        let heard_within = self.fabric.settings.raft.election_min;
        let step = next_step(status, row, own, reached, stays, &heirs, heard_within);
        let Some(step) = step else {
            return;
        };
        if !self.take_in_hand(status.group) {
            return;
        }
        let keep = status.group == Group::META;
        let (group, road, fabric) = (status.group, self.road.clone(), Arc::clone(&self.fabric));
        let (in_hand, stepped) = (Arc::clone(&self.in_hand), Arc::clone(&self.stepped));
        tokio::spawn(async move {
            tracing::info!(%group, ?step, "a step to new voters");
            take(&road, &fabric, group, step, keep).await;
            let mut in_hand = in_hand.lock().unwrap_or_else(PoisonError::into_inner);
            in_hand.remove(&group);
            stepped.notify_one();
        });
    }

    /// Voters that could lead at once. One that is drained would hand over again: it counts where there is no other.
    fn heirs(&self, state: &MetaState, status: &GroupStatus) -> Vec<NodeId> {
        let groups = &self.road.groups;
        let voters = status.voters.iter().copied();
        let fit: Vec<NodeId> = voters
            .filter(|node| groups.can_take_over(status, *node))
            .collect();
        let target = state.placements.rows.get(&status.group);
        let serves = |node: &NodeId| {
            let stays = target.is_some_and(|row| row.target.contains(node));
            stays && state.members.phase(*node) == Some(MemberPhase::Member)
        };
        let serving: Vec<NodeId> = fit.iter().copied().filter(serves).collect();
        if serving.is_empty() { fit } else { serving }
    }

    fn take_in_hand(&self, group: Group) -> bool {
        let mut in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        in_hand.insert(group)
    }

    /// Whether it was decided.
    async fn propose(&self, entry: MetaEntry) -> bool {
        let decided = self.road.decide(&self.fabric.meta, entry).await;
        if let Err(error) = &decided {
            log_refusal(error);
        }
        decided.is_ok()
    }
}

/// A refusal is nothing wrong: somebody was faster, and the next look sees what is so.
fn log_refusal(error: &OperationError) {
    tracing::debug!(code = error.code, %error, "the meta group did not take a proposal");
}

/// What follows by itself from a member's state.
fn due_change(
    state: &MetaState,
    meta: &GroupStatus,
    node: NodeId,
    row: &MemberRow,
) -> Option<MemberChange> {
    match row.phase {
        MemberPhase::Joining => {
            let has_caught_up = meta.lag_of(node).is_some_and(|lag| lag <= LAG_MAX);
            (has_caught_up && state.starts.contains_key(&node)).then_some(MemberChange::Joined)
        }
        MemberPhase::Drained if row.leaves => Some(MemberChange::Leave { heir: row.heir }),
        MemberPhase::Leaving => {
            let votes = !meta.is_settled || meta.voters.contains(&node);
            (!votes && !state.placements.count_on(node)).then_some(MemberChange::Removed)
        }
        _ => None,
    }
}

async fn take(road: &MetaRoad, fabric: &Fabric, group: Group, step: Step, keep: bool) {
    let groups = &road.groups;
    // It is only asked for: until the heir is elected the same step would be the next, at once and again and again.
    let is_asked_for = matches!(step, Step::HandOver(_));
    let done = match step {
        Step::AddLearner(node) => limited(groups.add_learner(group, node)).await,
        Step::RemoveLearner(node) => limited(groups.remove_learner(group, node)).await,
        Step::HandOver(node) => limited(groups.hand_over(group, node)).await,
        Step::ChangeVoters(voters) => limited(groups.change_voters(group, &voters, keep)).await,
        Step::Report(expected) => {
            let entry = PlacementEntry::Reached { group, expected };
            let reported = road.decide(&fabric.meta, MetaEntry::Placement(entry)).await;
            if let Err(error) = reported {
                log_refusal(&error);
            }
            return;
        }
    };
    if done.is_err() || is_asked_for {
        // Not at once: what stands in the way has to go first.
        tokio::time::sleep(LOOK_EVERY).await;
    }
    told(group, done);
}

/// A step that has no quorum waits for it in Raft; here it is tried again.
async fn limited(
    step: impl Future<Output = Result<(), GroupsError>>,
) -> Result<(), Option<GroupsError>> {
    match tokio::time::timeout(STEP_MAX, step).await {
        Ok(done) => done.map_err(Some),
        Err(_) => Err(None),
    }
}

fn told(group: Group, done: Result<(), Option<GroupsError>>) {
    match done {
        Ok(()) => {}
        Err(Some(error)) => tracing::info!(%group, %error, "a step was not taken; tried again"),
        Err(None) => tracing::warn!(%group, "a step has taken long and is looked at again"),
    }
}

#[cfg(test)]
mod tests {
    use cluster::raft::FollowerStatus;

    use super::*;

    const LATELY: Duration = Duration::from_secs(1);

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    /// A group with 1000 entries that node 1 leads; `matched`: how far the others are.
    fn group(
        voters: &[u64],
        learners: &[u64],
        is_joint: bool,
        matched: &[(u64, u64)],
    ) -> GroupStatus {
        let follower = |(node, matched): &(u64, u64)| FollowerStatus {
            node: NodeId(*node),
            is_voter: voters.contains(node),
            matched: Some(*matched),
            quarantined: false,
            heard: Some(Duration::ZERO),
        };
        GroupStatus {
            group: Group(1),
            term: 3,
            leader: Some(NodeId(1)),
            is_leader: true,
            voters: nodes(voters),
            is_joint,
            is_settled: true,
            learners: nodes(learners),
            last_log: Some(1_000),
            committed: Some(1_000),
            applied: Some(1_000),
            snapshot: None,
            purged: None,
            purge_floor: None,
            log_bytes: 0,
            receiving: None,
            sending: Vec::new(),
            followers: matched.iter().map(follower).collect(),
            quorum_age: None,
            quarantined: false,
            submitted_bytes: 0,
            failed: None,
        }
    }

    fn row(voters: &[u64], target: &[u64]) -> PlacementRow {
        PlacementRow {
            voters: nodes(voters),
            target: nodes(target),
            given_up: Vec::new(),
            revision: 7,
        }
    }

    /// The voters that answer; how far they are is [`Groups::can_take_over`]'s to say.
    fn voting(status: &GroupStatus) -> Vec<NodeId> {
        let fit = status.followers.iter().filter(|one| one.is_voter);
        let fit = fit.filter(|one| is_heard(status, one.node, LATELY));
        fit.map(|one| one.node).collect()
    }

    #[test]
    fn who_does_not_answer_is_not_counted_on() {
        let silent = |mut status: GroupStatus, node: u64, quarantined: bool| {
            let mut followers = status.followers.iter_mut();
            let one = followers.find(|one| one.node == NodeId(node)).unwrap();
            match quarantined {
                true => one.quarantined = true,
                false => one.heard = Some(Duration::from_secs(9)),
            }
            status
        };
        let check = |status: &GroupStatus, row: &PlacementRow, expect: Option<Step>| {
            let heirs = voting(status);
            let step = next_step(status, row, NodeId(1), |_| true, |_| true, &heirs, LATELY);
            assert_eq!(step, expect, "{status:?}");
        };
        let full = || group(&[1, 2, 3], &[], false, &[(2, 1_000), (3, 1_000)]);
        let shrink = Step::ChangeVoters(nodes(&[1, 2]));
        for quarantined in [true, false] {
            // One of two is no majority; who goes need not answer.
            let to = row(&[1, 2, 3], &[1, 2]);
            check(&full(), &to, Some(shrink.clone()));
            check(&silent(full(), 2, quarantined), &to, None);
            check(&silent(full(), 3, quarantined), &to, Some(shrink.clone()));
            // The heir is one that answers, or is waited for.
            let to = row(&[1, 2, 3], &[2, 3]);
            let only = silent(full(), 2, quarantined);
            check(&only, &to, Some(Step::HandOver(NodeId(3))));
            check(&silent(only, 3, quarantined), &to, None);
        }
        // A change that is not committed is not reported.
        let mut done = full();
        let to = row(&[1, 2], &[1, 2, 3]);
        check(&done, &to, Some(Step::Report(7)));
        done.is_settled = false;
        check(&done, &to, None);
    }

    #[test]
    fn steps_in_their_order() {
        let check = |status: GroupStatus, row: PlacementRow, away: &[u64], expect: Option<Step>| {
            let reached = |node: NodeId| !away.contains(&node.0);
            let stays = |node| row.target.contains(&node);
            let heirs: Vec<NodeId> = voting(&status);
            let step = next_step(&status, &row, NodeId(1), reached, stays, &heirs, LATELY);
            assert_eq!(step, expect, "{status:?} {row:?}");
        };
        let (n2, n3, n4) = (NodeId(2), NodeId(3), NodeId(4));
        // Nothing to do.
        check(
            group(&[1, 2], &[], false, &[]),
            row(&[1, 2], &[1, 2]),
            &[],
            None,
        );
        // One by one, those that can be reached.
        let to = || row(&[1], &[1, 2, 3]);
        check(
            group(&[1], &[], false, &[]),
            to(),
            &[],
            Some(Step::AddLearner(n2)),
        );
        check(
            group(&[1], &[2], false, &[]),
            to(),
            &[],
            Some(Step::AddLearner(n3)),
        );
        check(group(&[1], &[2], false, &[]), to(), &[3], None);
        // Not before all have caught up, and are there.
        let lags = group(&[1], &[2, 3], false, &[(2, 1_000), (3, 10)]);
        check(lags, to(), &[], None);
        check(group(&[1], &[2, 3], false, &[(2, 1_000)]), to(), &[], None);
        let ready = || group(&[1], &[2, 3], false, &[(2, 990), (3, 1_000)]);
        check(ready(), to(), &[2], None);
        // One that would give no vote is no voter yet, though it has caught up.
        let mut empty_before = ready();
        empty_before.followers[1].quarantined = true;
        check(empty_before, to(), &[], None);
        check(
            ready(),
            to(),
            &[],
            Some(Step::ChangeVoters(nodes(&[1, 2, 3]))),
        );
        // What a leader before began is brought to its end.
        let joint = group(&[1, 2, 3], &[], true, &[(2, 990), (3, 1_000)]);
        check(
            joint,
            to(),
            &[],
            Some(Step::ChangeVoters(nodes(&[1, 2, 3]))),
        );
        check(
            group(&[1, 2, 3], &[], false, &[]),
            to(),
            &[],
            Some(Step::Report(7)),
        );
        // A log that is ahead of what this node has heard of meta's word is not brought back to it.
        let ahead = || group(&[1, 2, 4], &[], false, &[(2, 1_000), (4, 1_000)]);
        check(ahead(), row(&[1, 2, 3], &[1, 2, 3]), &[], None);
        let joint = group(
            &[1, 2, 4],
            &[3],
            true,
            &[(2, 1_000), (3, 1_000), (4, 1_000)],
        );
        check(joint, row(&[1, 2, 3], &[1, 2, 3]), &[], None);
        // But where another target was given up for what had been reached before, the log may have got to that one.
        let back = || PlacementRow {
            given_up: nodes(&[1, 2, 4]),
            ..row(&[1, 2, 3], &[1, 2, 3])
        };
        let ahead = group(&[1, 2, 4], &[3], false, &[(2, 1_000), (3, 1_000)]);
        let there = Step::ChangeVoters(nodes(&[1, 2, 3]));
        check(ahead, back(), &[], Some(there));
        let stayed = group(&[1, 2, 3], &[], false, &[]);
        check(stayed, back(), &[], Some(Step::Report(7)));
        // The leader goes: somebody else leads first, who is near and stays.
        let goes = || row(&[1, 2, 3], &[2, 3, 4]);
        let status = group(&[1, 2, 3], &[4], false, &[(2, 700), (3, 999), (4, 1_000)]);
        check(status, goes(), &[], Some(Step::HandOver(n3)));
        let status = group(&[1, 2, 3], &[4], false, &[(2, 1_000), (3, 999), (4, 1_000)]);
        check(status, goes(), &[2], Some(Step::HandOver(n3)));
        // Learners of a target that was given up go.
        let status = group(&[1, 2, 3], &[4], false, &[]);
        check(
            status,
            row(&[1, 2, 3], &[1, 2, 3]),
            &[],
            Some(Step::RemoveLearner(n4)),
        );
    }
}
