//! Follows the meta group's word about members: connections, the own state, and a drain of this node.
//!
//! ```text
//!   meta ─► peers, member list                 Draining: leaderships go, at most 8 at a time, their owners finish first;
//!                                                        sessions go, at a set rate
//!        ─► own phase ─► standing, drain ────► nothing left ─► Drained is proposed
//!                     └► Removed: the node ends itself
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::meta::members::{MemberChange, MemberEntry, MemberPhase, MemberRow};
use cluster::meta::{MetaEntry, MetaReplica};
use cluster::node_id::{Group, NodeId};
use cluster::raft::{GroupStatus, Groups, HAND_OVERS_MAX};
use cluster::transport::Transport;
use storage::data_dir::FolderId;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::members::MemberList;
use super::meta_road::MetaRoad;
use super::{first_start, versions};
use crate::directory::Entry;
use crate::fabric::Fabric;
use crate::session::ToSession;

/// How often a node looks at its own state.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long after a leadership was not taken over it is handed over again.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(3);

/// How long sessions wait for what this node leads to go first.
const OWNERS_FIRST: Duration = Duration::from_secs(30);

/// How often this node's folder is shown to members that have not answered; a call takes less.
const SHOW_EVERY: Duration = Duration::from_secs(3);

/// Follows for as long as the node lives.
pub(super) struct Follower {
    fabric: Arc<Fabric>,
    road: MetaRoad,
    /// `true` once this node was removed from the pool.
    removed: watch::Sender<bool>,
    /// Groups that are being handed over.
    in_hand: Arc<Mutex<BTreeSet<Group>>>,
    /// Groups that this node has left, as far as the meta group knows.
    left: BTreeSet<Group>,
    /// Sessions that may be moved by now, as parts of one.
    allowance: f64,
    /// Numbers of sessions that were told to go and are not gone yet.
    told: BTreeSet<u64>,
    /// Since when this node has been handing over what it leads.
    leaving: Option<Instant>,
    looked: Instant,
    /// This node's folder, if it has one that others can remember it by.
    folder: Option<FolderId>,
    /// Who has been shown it in this life.
    shown: Arc<Mutex<BTreeSet<NodeId>>>,
    /// When it was shown last.
    showed: Option<Instant>,
}

/// Keeps connections with whom the meta group names.
fn follow_peers(
    meta: &MetaReplica,
    statuses: &[GroupStatus],
    members: &MemberList,
    transport: &Transport,
) {
    let group = statuses.iter().find(|status| status.group == Group::META);
    let following = group.map(|group| group.learners.clone());
    if members.follow(&meta.state(), &following.unwrap_or_default()) {
        let peers = members.peers();
        let peers = peers.iter().map(|peer| (peer.id, peer.address.clone()));
        transport.set_peers(&peers.collect::<Vec<_>>());
    }
}

/// While a node starts: a power cut may have taken from it who joined after its configuration was written, until its replica of
/// the meta group has caught up; and who leads its other groups may be one of those. Ends with the task.
pub(super) fn at_start(
    runtime: &Handle,
    (meta, members): (&Arc<MetaReplica>, &Arc<MemberList>),
    (groups, transport): (&Groups, &Transport),
) -> JoinHandle<()> {
    let (meta, members) = (Arc::clone(meta), Arc::clone(members));
    let (groups, transport) = (groups.clone(), transport.clone());
    runtime.spawn(async move {
        let mut applied = meta.applied();
        while applied.changed().await.is_ok() {
            follow_peers(&meta, &groups.status(), &members, &transport);
        }
    })
}

impl Follower {
    pub(super) fn new(
        fabric: Arc<Fabric>,
        road: MetaRoad,
        removed: watch::Sender<bool>,
    ) -> Follower {
        Follower {
            folder: fabric.settings.data.folder_id(),
            shown: Arc::default(),
            showed: None,
            fabric,
            road,
            removed,
            in_hand: Arc::default(),
            left: BTreeSet::new(),
            allowance: 0.0,
            told: BTreeSet::new(),
            leaving: None,
            looked: Instant::now(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut applied = self.fabric.meta.applied();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = applied.changed() => if changed.is_err() { return },
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        versions::follow(&self.fabric).await;
        let statuses = self.road.groups.status();
        self.leave_groups();
        let fabric = &self.fabric;
        follow_peers(
            &fabric.meta,
            &statuses,
            &fabric.member_list,
            &fabric.transport,
        );
        let own = {
            let state = fabric.meta.state();
            state.members.rows.get(&fabric.node).cloned()
        };
        self.show_folder();
        let since = std::mem::replace(&mut self.looked, Instant::now());
        let Some(own) = own else { return };
        if own.phase == MemberPhase::Removed && !self.removed.send_replace(true) {
            tracing::warn!("this node was removed from the pool; it ends");
        }
        self.fabric.standing.drain(!own.phase.serves());
        if own.phase.serves() {
            self.allowance = 0.0;
            self.told.clear();
            self.leaving = None;
            return;
        }
        let leaders = self.hand_over(&statuses);
        let leaving = *self.leaving.get_or_insert_with(Instant::now);
        // A group that nobody can take over now keeps no client here.
        let sessions = match leaders == 0 || leaving.elapsed() >= OWNERS_FIRST {
            true => self.move_sessions(&own, since.elapsed()),
            false => self.fabric.directory.len(),
        };
        if own.phase == MemberPhase::Draining && leaders == 0 && sessions == 0 {
            let entry = MemberEntry::Changed {
                node: self.fabric.node,
                expected: own.revision,
                change: MemberChange::Drained,
            };
            let decided = self
                .road
                .decide(&self.fabric.meta, MetaEntry::Members(entry));
            if let Err(error) = decided.await {
                tracing::debug!(%error, "the end of the drain was not noted yet");
            }
        }
    }

    /// Members that joined after this node began have not seen its folder: a pool may have begun with one node alone.
    fn show_folder(&mut self) {
        let Some(folder) = self.folder else { return };
        if self.showed.is_some_and(|at| at.elapsed() < SHOW_EVERY) {
            return;
        }
        self.showed = Some(Instant::now());
        let (own, peers) = (self.fabric.node, self.fabric.member_list.peers());
        let newcomers: Vec<NodeId> = {
            let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            let peers = peers.iter().map(|peer| peer.id);
            let new = |node: &NodeId| *node != own && !shown.contains(node);
            peers.filter(new).collect()
        };
        if newcomers.is_empty() {
            return;
        }
        let (fabric, shown) = (Arc::clone(&self.fabric), Arc::clone(&self.shown));
        tokio::spawn(async move {
            let heard = first_start::show(&fabric.transport, folder, newcomers).await;
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.extend(heard);
        });
    }

    /// What counts on this node no more is not to be led by it.
    fn leave_groups(&mut self) {
        let left: BTreeSet<Group> = {
            let state = self.fabric.meta.state();
            let partitions = state.placements.rows.iter();
            let left = partitions
                .filter(|(group, row)| **group != Group::META && !row.counts_on(self.fabric.node));
            left.map(|(group, _)| *group).collect()
        };
        for group in self.left.symmetric_difference(&left) {
            let stands = !left.contains(group);
            if let Err(error) = self.road.groups.stand_for_election(*group, stands) {
                tracing::debug!(%group, %error, "this node does not run a group");
            }
        }
        self.left = left;
    }

    /// Hands over some of what this node leads; gives how much that is. What is in hand comes to its end beside this task.
    fn hand_over(&self, statuses: &[GroupStatus]) -> usize {
        let led: Vec<&GroupStatus> = statuses.iter().filter(|status| status.is_leader).collect();
        for status in &led {
            let group = status.group;
            let Some(heir) = self.heir(status) else {
                continue;
            };
            {
                let mut in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
                if !begins(&mut in_hand, group) {
                    continue;
                }
            }
            let (groups, in_hand) = (self.road.groups.clone(), Arc::clone(&self.in_hand));
            tokio::spawn(async move {
                tracing::info!(%group, to = %heir, "handing over: this node is drained");
                if let Err(error) = groups.hand_over(group, heir).await {
                    tracing::warn!(%group, %error, "leadership was not handed over; tried again");
                    // Not at once: its owner serves meanwhile, and each try holds it up.
                    tokio::time::sleep(HAND_OVER_AGAIN).await;
                }
                let mut in_hand = in_hand.lock().unwrap_or_else(PoisonError::into_inner);
                in_hand.remove(&group);
            });
        }
        led.len()
    }

    /// A voter that serves and could take over at once; by turns, so that they are spread.
    fn heir(&self, status: &GroupStatus) -> Option<NodeId> {
        let state = self.fabric.meta.state();
        let serves = |node: &&NodeId| {
            let phase = state.members.phase(**node);
            **node != self.fabric.node && phase == Some(MemberPhase::Member)
        };
        let fit = status
            .voters
            .iter()
            .filter(serves)
            .filter(|node| self.road.groups.can_take_over(status, **node));
        let fit: Vec<NodeId> = fit.copied().collect();
        let turn = usize::try_from(status.group.0).unwrap_or_default();
        fit.get(turn.checked_rem(fit.len())?).copied()
    }

    /// Moves as many sessions as the time allows, oldest first; gives how many are left.
    fn move_sessions(&mut self, own: &MemberRow, elapsed: Duration) -> usize {
        let pace = match own.pace {
            0 => self.fabric.settings.drain_sessions_per_second.max(1),
            pace => pace,
        };
        let mut sessions = self.fabric.directory.all();
        sessions.sort_by_key(|entry| entry.number);
        // What was not used is not saved up.
        self.allowance = (self.allowance.min(1.0)) + elapsed.as_secs_f64() * f64::from(pace);
        let here: BTreeSet<u64> = sessions.iter().map(|entry| entry.number).collect();
        self.told.retain(|number| here.contains(number));
        let before = self.told.len();
        for entry in &sessions {
            if self.told.contains(&entry.number) {
                continue;
            }
            if self.allowance < 1.0 {
                break;
            }
            self.allowance -= 1.0;
            if move_session(entry) {
                self.told.insert(entry.number);
            }
        }
        if self.told.len() > before {
            tracing::debug!(
                moving = self.told.len(),
                left = sessions.len(),
                "sessions are moved"
            );
        }
        sessions.len()
    }
}

/// Whether a group's handover may begin now.
fn begins(in_hand: &mut BTreeSet<Group>, group: Group) -> bool {
    in_hand.len() < HAND_OVERS_MAX && in_hand.insert(group)
}

/// Sends one session's client to another node. Whether it was told; a mailbox that is full is tried again.
fn move_session(entry: &Entry) -> bool {
    entry.session.try_send(ToSession::Depart).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_groups_are_handed_over_at_a_time_and_each_once() {
        let mut in_hand = BTreeSet::new();
        assert!(begins(&mut in_hand, Group(1)));
        assert!(!begins(&mut in_hand, Group(1)));
        let begun = (2..30).filter(|group| begins(&mut in_hand, Group(*group)));
        assert_eq!(begun.count(), 7);
        in_hand.remove(&Group(5));
        assert!(begins(&mut in_hand, Group(20)));
        assert!(!begins(&mut in_hand, Group(21)));
    }
}
