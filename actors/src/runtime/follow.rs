//! Follows the meta group's word about members: connections, the own state, and a drain of this node.
//!
//! ```text
//!   meta ─► peers, member list                 Draining: leaderships go, at most 8 at a time; sessions go, at a set rate
//!        ─► own phase ─► standing, drain ────► nothing left ─► Drained is proposed
//!                     └► Removed: the node ends itself
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::meta::MetaEntry;
use cluster::meta::members::{MemberChange, MemberEntry, MemberPhase, MemberRow};
use cluster::node_id::{Group, NodeId};
use cluster::raft::GroupStatus;
use storage::data_dir::FolderId;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::meta_road::MetaRoad;
use super::{first_start, versions};
use crate::directory::Entry;
use crate::fabric::Fabric;
use crate::session::ToSession;

/// How often a node looks at its own state.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Leaderships that are handed over at a time.
const HAND_OVERS_MAX: usize = 8;

/// How long a leadership that was handed over may take to be gone before it is handed to another.
const HAND_OVER_AGAIN: Duration = Duration::from_secs(1);

/// How often this node's folder is shown to members that have not answered; a call takes less.
const SHOW_EVERY: Duration = Duration::from_secs(3);

/// Follows for as long as the node lives.
pub(super) struct Follower {
    fabric: Arc<Fabric>,
    road: MetaRoad,
    /// `true` once this node was removed from the pool.
    removed: watch::Sender<bool>,
    handed_over: Vec<(Group, Instant)>,
    /// Groups that this node has left, as far as the meta group knows.
    left: BTreeSet<Group>,
    /// Sessions that may be moved by now, as parts of one.
    allowance: f64,
    /// Numbers of sessions that were told to go and are not gone yet.
    told: BTreeSet<u64>,
    looked: Instant,
    /// This node's folder, if it has one that others can remember it by.
    folder: Option<FolderId>,
    /// Who has been shown it in this life.
    shown: Arc<Mutex<BTreeSet<NodeId>>>,
    /// When it was shown last.
    showed: Option<Instant>,
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
            handed_over: Vec::new(),
            left: BTreeSet::new(),
            allowance: 0.0,
            told: BTreeSet::new(),
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
        let meta = statuses.iter().find(|status| status.group == Group::META);
        let following = meta.map(|meta| meta.learners.clone()).unwrap_or_default();
        self.leave_groups();
        let own = {
            let state = self.fabric.meta.state();
            if self.fabric.member_list.follow(&state, &following) {
                let peers = self.fabric.member_list.peers();
                let peers = peers.iter().map(|peer| (peer.id, peer.address.clone()));
                self.fabric.transport.set_peers(&peers.collect::<Vec<_>>());
            }
            state.members.rows.get(&self.fabric.node).cloned()
        };
        self.show_folder();
        let since = std::mem::replace(&mut self.looked, Instant::now());
        let Some(own) = own else { return };
        if own.phase == MemberPhase::Removed && !self.removed.send_replace(true) {
            tracing::warn!("this node was removed from the pool; it ends");
        }
        self.fabric.standing.drain(!own.phase.serves());
        if own.phase.serves() {
            (self.allowance, self.handed_over) = (0.0, Vec::new());
            self.told.clear();
            return;
        }
        let leaders = self.hand_over(&statuses).await;
        let sessions = self.move_sessions(&own, since.elapsed());
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

    /// Hands over some of what this node leads; gives how much that is.
    async fn hand_over(&mut self, statuses: &[GroupStatus]) -> usize {
        let led: Vec<&GroupStatus> = statuses.iter().filter(|status| status.is_leader).collect();
        self.handed_over.retain(|(group, at)| {
            led.iter().any(|status| status.group == *group) && at.elapsed() < HAND_OVER_AGAIN
        });
        for status in &led {
            if self.handed_over.len() >= HAND_OVERS_MAX {
                break;
            }
            if self
                .handed_over
                .iter()
                .any(|(group, _)| *group == status.group)
            {
                continue;
            }
            let Some(heir) = self.heir(status) else {
                continue;
            };
            self.handed_over.push((status.group, Instant::now()));
            match self.road.groups.hand_over(status.group, heir).await {
                Ok(()) => {
                    tracing::info!(group = %status.group, to = %heir, "handing over: this node is drained")
                }
                Err(error) => {
                    tracing::warn!(group = %status.group, %error, "leadership was not handed over")
                }
            }
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

/// Sends one session's client to another node. Whether it was told; a mailbox that is full is tried again.
fn move_session(entry: &Entry) -> bool {
    entry.session.try_send(ToSession::Depart).is_ok()
}
