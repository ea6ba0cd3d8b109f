//! The Raft groups of a node: meta and the partitions, on one log and one transport. The only place that knows openraft.
//!
//! ```text
//!  GroupHandle::submit, read_barrier            Machine (one a group)
//!        │                                          ▲ apply, in log order
//!        ▼                                          │
//!  group: tasks ──► openraft core ──► machine: Replica
//!                     │      ▲ │
//!          log_store  │      │ └─► network ──► Transport, RAFT lane
//!             │       │      └──── inbound ◄── Groups::on_raft_frame
//!             │       │       transfer ◄─────► Groups::on_bulk_frame, BULK lane
//!             ▼       ▼
//!        storage::log (shared by all groups)
//!
//!  crash: brings elections forward   upkeep: snapshots, purges, spreading leaders   quarantine: damaged logs
//! ```
//!
//! Invariants: everything runs on a multi-thread runtime, its own or the transport's, never inside an actor's thread. Nothing of openraft's
//! layouts is stored or sent ([`record`]). Pre-vote is on and answered. Reads are ReadIndex, never a lease. A restarted
//! leader is elected anew. The log is purged only up to what is in a snapshot here and what no member is sent as entries; a
//! member that lags too far, or begins, is sent a snapshot.
//! A node runs all groups; those that it is no member of stay empty and wait, for they have no voters and so never campaign.

mod check;
mod counted_on;
mod crash;
mod emptied;
mod error;
mod failure;
mod founding;
mod group;
mod hand_over;
mod inbound;
mod kept;
mod log_store;
mod machine;
mod network;
mod notices;
mod quarantine;
mod record;
mod runtime;
mod settings;
mod shared;
mod slot;
mod status;
mod submission;
mod transfer;
mod type_config;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::{ChangeMembers, Config, EmptyNode, Raft};
use storage::log::{Log, LogMetrics};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::group::GroupNode;
use self::hand_over::{Retire, transfer};
use self::log_store::GroupLog;
use self::machine::Replica;
use self::network::Clients;
use self::shared::GroupShared;
use self::transfer::Transfers;
use self::type_config::TypeConfig;
use crate::node_id::{Group, NodeId};
use crate::transport::{Frame, Lane, Reply, Transport};

pub(crate) use check::{LogReach, check_group};
pub use emptied::{Removal, forget_log};
pub use error::{GroupsError, MachineError, ReadError, SubmitError};
pub use failure::OnFailure;
pub use founding::{found_log, founding_mark};
pub use group::{GroupHandle, Leadership};
pub use hand_over::{HAND_OVERS_MAX, Retiring};
#[cfg(test)]
pub(crate) use machine::mark_of;
pub use machine::{CommittedEntry, Machine, SnapshotFile, SnapshotHome, away, mark_place};
pub use settings::{GroupThreads, PAYLOAD_BYTES_LEAST, RaftSettings};
pub use status::{FollowerStatus, GroupStatus};
pub use submission::Submission;
pub use transfer::{TransferMetrics, TransferStatus};

/// Requests from other nodes that are worked on at once; further ones are dropped and tried again by their senders.
const INBOUND_MAX: usize = 4096;

/// The same of the BULK lane, where each may wait for the rate and hold a frame meanwhile.
const INBOUND_BULK_MAX: usize = 64;

/// How often a node that waits for its recovery looks whether snapshots are being received.
const RECOVERY_LOOK: Duration = Duration::from_millis(500);

/// How often a graceful stop looks whether leadership has gone.
const STEP_DOWN_POLL: Duration = Duration::from_millis(20);

/// How long a successor gets to take over before another is tried.
const STEP_DOWN_TRY: Duration = Duration::from_millis(400);

/// A handle on all groups of this node. Clones share it; when the last one goes, the groups stop as in a crash.
#[derive(Clone)]
pub struct Groups {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    settings: Arc<RaftSettings>,
    transport: Transport,
    groups: Vec<Arc<GroupNode>>,
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    inbound: Arc<Semaphore>,
    inbound_bulk: Arc<Semaphore>,
    transfers: Arc<Transfers>,
    crashes_in_hand: Arc<Mutex<HashSet<NodeId>>>,
    avoided: Avoided,
    /// Who is told of handovers.
    retire: Retire,
    config: Arc<Config>,
}

/// Nodes that leaderships are not spread to.
type Avoided = Arc<Mutex<BTreeSet<NodeId>>>;

impl Groups {
    /// Starts groups `0..count` from what log and machines hold. `machines` is called once for each, on the caller's
    /// thread; a machine that needs its log again is given it before this returns.
    ///
    /// A group that was never initialised waits for [`Groups::initialize`] or for a leader that adds this node.
    ///
    /// # Errors
    /// All but [`GroupsError::NoGroup`], [`GroupsError::NotLeader`] and [`GroupsError::Membership`].
    pub async fn start(
        settings: RaftSettings,
        node: NodeId,
        log: Log,
        transport: Transport,
        mut machines: impl FnMut(Group) -> Result<Box<dyn Machine>, MachineError>,
        count: u16,
    ) -> Result<Groups, GroupsError> {
        let config = Arc::new(settings.openraft()?);
        let settings = Arc::new(settings);
        // From here on an early return must not drop the runtime in place: that may not be done in an async task.
        let (runtime, handle) = threads(&settings.threads)?;
        let transfers = Arc::new(Transfers::new(&settings));
        let mut opening = Vec::new();
        for number in 0..count {
            let group = Group(u32::from(number));
            let machine =
                machines(group).map_err(|source| GroupsError::Machine { group, source })?;
            let opener = Opener {
                group,
                number,
                node,
                settings: settings.clone(),
                config: config.clone(),
                log: log.clone(),
                transport: transport.clone(),
                transfers: transfers.clone(),
            };
            opening.push((group, handle.spawn(opener.open(machine, handle.clone()))));
        }
        let mut groups = Vec::new();
        for (group, opened) in opening {
            let panicked = |error: tokio::task::JoinError| GroupsError::Stopped {
                group,
                reason: error.to_string(),
            };
            groups.push(opened.await.map_err(panicked)??);
        }
        let (avoided, retire) = (Avoided::default(), Retire::default());
        handle.spawn(upkeep::run(
            groups.clone(),
            settings.clone(),
            (avoided.clone(), retire.clone()),
        ));
        let inner = Inner {
            node,
            settings,
            transport,
            groups,
            runtime: Mutex::new(runtime.release()),
            handle,
            inbound: Arc::new(Semaphore::new(INBOUND_MAX)),
            inbound_bulk: Arc::new(Semaphore::new(INBOUND_BULK_MAX)),
            transfers,
            crashes_in_hand: Arc::default(),
            avoided,
            retire,
            config,
        };
        Ok(Groups {
            inner: Arc::new(inner),
        })
    }

    /// From now on a group's users on this node are told before it is handed over. Only the first ones count.
    pub fn tell_of_hand_overs(&self, users: Arc<dyn Retiring>) {
        if self.inner.retire.set(users).is_err() {
            tracing::error!("the users of the groups were set twice");
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// The groups this node runs.
    pub fn groups(&self) -> impl Iterator<Item = Group> + '_ {
        self.inner.groups.iter().map(|node| node.shared.group)
    }

    /// Gives a new group its first voters. Idempotent: a group that has any log or vote is left as it is.
    ///
    /// On a fresh pool each of `voters` may call it, with the same voters: the first entry is then the same everywhere,
    /// term 0 and index 0, and the first election decides. It must never be called with other voters on another node.
    ///
    /// # Errors
    /// [`GroupsError::NoGroup`], [`GroupsError::NotAVoter`] and [`GroupsError::Stopped`].
    pub async fn initialize(&self, group: Group, voters: &[NodeId]) -> Result<(), GroupsError> {
        let node = self.group(group)?.clone();
        if !voters.contains(&self.inner.node) {
            return Err(GroupsError::NotAVoter(self.inner.node));
        }
        match node.raft().initialize(type_config::members(voters)).await {
            // The preferred leader does not wait for its timer.
            Ok(()) if status::preferred_leader(group, voters) == Some(self.inner.node) => node
                .raft()
                .trigger()
                .elect(true)
                .await
                .map_err(|fatal| GroupsError::stopped(group, &fatal)),
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(_))) => {
                Err(GroupsError::NotAVoter(self.inner.node))
            }
            Err(RaftError::Fatal(fatal)) => Err(GroupsError::stopped(group, &fatal)),
        }
    }

    /// Returns when every group that `counts` says this node has a vote in has heard what the pool has committed and has
    /// applied it. Before that a node must not serve what it holds: it may be older than what it showed before its restart.
    ///
    /// `counts` is asked again while it waits: a vote may be gone that the node's own log still knows of.
    ///
    /// # Errors
    /// [`GroupsError::Timeout`] with the first group that isn't there within `limit`, and [`GroupsError::Stopped`]. The limit
    /// begins anew as long as snapshots are being received: they take as long as they take.
    pub async fn wait_for_recovery(
        &self,
        limit: Duration,
        counts: impl Fn(Group) -> bool,
    ) -> Result<(), GroupsError> {
        let mut deadline = Instant::now() + limit;
        for node in &self.inner.groups {
            let group = node.shared.group;
            while counts(group) {
                let rest = deadline.saturating_duration_since(Instant::now());
                let slice = Some(rest.min(RECOVERY_LOOK));
                if node.raft().wait_for_recovery(slice).await.is_ok() {
                    break;
                }
                if let Some(reason) = node.status().failed {
                    return Err(GroupsError::Stopped { group, reason });
                }
                if self.transfer_metrics().receiving > 0 {
                    deadline = Instant::now() + limit;
                } else if Instant::now() >= deadline {
                    return Err(GroupsError::Timeout { group });
                }
            }
        }
        Ok(())
    }

    /// The handle on one group; `None` if this node doesn't run it.
    pub fn handle(&self, group: Group) -> Option<GroupHandle> {
        self.group(group)
            .ok()
            .map(|node| GroupHandle { node: node.clone() })
    }

    /// Takes a frame of the RAFT lane. Never blocks.
    pub fn on_raft_frame(&self, from: NodeId, frame: Frame, reply: Reply) {
        let Ok(node) = self.group(Group(u32::from(frame.partition.0))) else {
            return;
        };
        // Dropping the reply tells the sender to try later.
        let Ok(permit) = self.inner.inbound.clone().try_acquire_owned() else {
            return;
        };
        let node = node.clone();
        self.inner.handle.spawn(async move {
            inbound::serve(node, from, frame, reply).await;
            drop(permit);
        });
    }

    /// Takes a frame of the BULK lane. Never blocks.
    pub fn on_bulk_frame(&self, from: NodeId, frame: Frame, reply: Reply) {
        let Ok(node) = self.group(Group(u32::from(frame.partition.0))) else {
            return;
        };
        let Ok(permit) = self.inner.inbound_bulk.clone().try_acquire_owned() else {
            return;
        };
        let node = node.clone();
        self.inner.handle.spawn(async move {
            transfer::serve(node, from, frame, reply).await;
            drop(permit);
        });
    }

    /// How the transfers of snapshots are doing; all groups share them.
    pub fn transfer_metrics(&self) -> TransferMetrics {
        self.inner.transfers.metrics()
    }

    /// A connection to `node` was reset or ended without a goodbye. If a probe finds nobody there, the elections of all
    /// groups it led are brought forward. Never blocks; calls while one is in hand do nothing.
    pub fn on_peer_lost(&self, node: NodeId) {
        if !lock(&self.inner.crashes_in_hand).insert(node) {
            return;
        }
        let (groups, transport) = (self.inner.groups.clone(), self.inner.transport.clone());
        let (limit, in_hand) = (
            self.inner.settings.crash_probe,
            self.inner.crashes_in_hand.clone(),
        );
        self.inner.handle.spawn(async move {
            let probe = timeout(limit, transport.probe(node, limit)).await;
            if matches!(probe, Ok(Ok(()))) {
                tracing::debug!(%node, "a connection was lost, but the node is there");
            } else {
                tracing::info!(%node, "a node has crashed");
                let answers = groups
                    .into_iter()
                    .map(|group| tokio::spawn(crash::answer(group, node)));
                for answered in answers.collect::<Vec<_>>() {
                    if let Err(error) = answered.await {
                        tracing::error!(%node, %error, "answering a crash failed");
                    }
                }
            }
            lock(&in_hand).remove(&node);
        });
    }

    /// Hands every group this node leads to its most caught-up other voter, [`HAND_OVERS_MAX`] at a time, and returns when all
    /// are gone, when nobody is there who could take any, or at the limit. Gives the groups it still leads: those without
    /// another voter that is fit.
    pub async fn step_down_all(&self, limit: Duration) -> Vec<Group> {
        let deadline = Instant::now() + limit;
        // Who was asked last, and whether that is under way.
        let mut asked: BTreeMap<Group, (NodeId, bool)> = BTreeMap::new();
        let mut under_way: JoinSet<Group> = JoinSet::new();
        loop {
            while let Some(ended) = under_way.try_join_next() {
                if let Some((_, is_under_way)) = ended.ok().and_then(|group| asked.get_mut(&group))
                {
                    *is_under_way = false;
                }
            }
            let mut led = Vec::new();
            let mut has_heirs = false;
            for node in &self.inner.groups {
                let mut status = node.status();
                if !status.is_leader {
                    continue;
                }
                led.push(status.group);
                // Who has said goodbye or lost its connection is no heir, however lately it answered.
                status
                    .followers
                    .retain(|follower| self.inner.transport.connected(follower.node, Lane::Raft));
                has_heirs |= !status.followers.is_empty();
                let before = asked.get(&status.group).copied();
                if before.is_some_and(|(_, is_under_way)| is_under_way)
                    || under_way.len() >= HAND_OVERS_MAX
                {
                    continue;
                }
                let except = before.map(|(successor, _)| successor);
                let heard_within = self.inner.settings.election_min;
                let best = status
                    .best_successor(except, heard_within)
                    .or(status.best_successor(None, heard_within));
                if let Some(successor) = best {
                    asked.insert(status.group, (successor, true));
                    let (node, retire) = (node.clone(), self.inner.retire.clone());
                    under_way.spawn(async move {
                        let asked = transfer(&node, &retire, successor, STEP_DOWN_TRY).await;
                        if let Err(error) = asked {
                            tracing::warn!(group = %node.shared.group, %error, "leadership was not handed over");
                        }
                        node.shared.group
                    });
                }
            }
            if led.is_empty() || !has_heirs || Instant::now() >= deadline {
                return led;
            }
            sleep(STEP_DOWN_POLL).await;
        }
    }

    /// Nodes that leaderships are not spread to, though it be their turn: who reaches few members serves few. What they
    /// lead stays with them.
    pub fn avoid(&self, nodes: BTreeSet<NodeId>) {
        *lock(&self.inner.avoided) = nodes;
    }

    /// Whether the log takes entries now; it doesn't when its disk is full.
    pub fn log_has_room(&self) -> bool {
        let room = self.inner.settings.append_bytes_max;
        self.inner
            .groups
            .iter()
            .all(|node| node.shared.log.has_room(room))
    }

    /// How the log is doing; all groups share it.
    pub fn log_metrics(&self) -> LogMetrics {
        let node = self.inner.groups.first();
        node.map(|node| node.shared.log.metrics())
            .unwrap_or_default()
    }

    /// Whether a group that this node leads could go to `node` at once: a voter that answers and has nearly all of the log.
    pub fn can_take_over(&self, status: &GroupStatus, node: NodeId) -> bool {
        status.is_leader && status.can_take_over(node, self.inner.settings.election_min)
    }

    /// The leader that this node follows and has heard of lately; itself, if it leads and a quorum has answered lately.
    /// `None`: there is none, or it is gone, and somebody else may have been elected.
    pub fn living_leader(&self, group: Group) -> Option<NodeId> {
        self.group(group).ok()?.living_leader()
    }

    /// Hands one group to another voter that [can take over](Groups::can_take_over), or to another one if it does not. Returns
    /// when somebody else leads.
    ///
    /// # Errors
    /// [`GroupsError::NotTakenOver`], [`GroupsError::NoGroup`] and [`GroupsError::Stopped`].
    pub async fn hand_over(&self, group: Group, to: NodeId) -> Result<(), GroupsError> {
        let node = self.group(group)?;
        hand_over::hand_over(node, &self.inner.retire, to).await
    }

    /// Removes the data of a replica that was given away; then it is as on a node that never was a member. `false`: it is in
    /// doubt whether it was given away, and all stays as it was.
    ///
    /// # Errors
    /// [`GroupsError::NoGroup`], and those of a start: then the group has stopped on this node.
    pub async fn empty(&self, group: Group, removal: &dyn Removal) -> Result<bool, GroupsError> {
        let node = self.group(group)?;
        let emptied = emptied::empty(node, &self.inner.config, removal).await;
        emptied.inspect_err(|error| {
            let on_failure = &self.inner.settings.on_failure;
            on_failure.tell(group, &error.to_string());
        })
    }

    /// Whether this node may stand for election in a group. A voter that was removed never hears of it, and would ask for
    /// votes for ever.
    ///
    /// # Errors
    /// [`GroupsError::NoGroup`].
    pub fn stand_for_election(&self, group: Group, stands: bool) -> Result<(), GroupsError> {
        let node = self.group(group)?;
        node.raft()
            .runtime_config()
            .elect(stands && !node.shared.is_quarantined());
        Ok(())
    }

    /// Adds a member that follows without a vote. To be asked of the leader.
    ///
    /// # Errors
    /// [`GroupsError::NotLeader`], [`GroupsError::Membership`], [`GroupsError::Stopped`] and [`GroupsError::NoGroup`].
    pub async fn add_learner(&self, group: Group, learner: NodeId) -> Result<(), GroupsError> {
        let node = self.group(group)?;
        let added = node
            .raft()
            .add_learner(learner, EmptyNode::new(), false)
            .await;
        added
            .map(drop)
            .map_err(|error| membership_error(group, error))
    }

    /// Makes these members the voters, by joint change; former voters follow on as learners (`keep`) or leave the group.
    /// To be asked of the leader, when those that are new have caught up. It ends a joint change that a leader before has
    /// begun.
    ///
    /// # Errors
    /// As [`Groups::add_learner`].
    pub async fn change_voters(
        &self,
        group: Group,
        voters: &[NodeId],
        keep: bool,
    ) -> Result<(), GroupsError> {
        let node = self.group(group)?;
        let voters: BTreeSet<NodeId> = voters.iter().copied().collect();
        let changed = node.raft().change_membership(voters, keep).await;
        changed
            .map(drop)
            .map_err(|error| membership_error(group, error))
    }

    /// Takes a member out of the group that only follows. To be asked of the leader.
    ///
    /// # Errors
    /// As [`Groups::add_learner`].
    pub async fn remove_learner(&self, group: Group, learner: NodeId) -> Result<(), GroupsError> {
        let node = self.group(group)?;
        let gone = ChangeMembers::RemoveNodes(BTreeSet::from([learner]));
        let changed = node.raft().change_membership(gone, true).await;
        changed
            .map(drop)
            .map_err(|error| membership_error(group, error))
    }

    /// What every group looks like from here.
    pub fn status(&self) -> Vec<GroupStatus> {
        self.inner.groups.iter().map(|node| node.status()).collect()
    }

    /// Stops the groups one by one. Leadership should have been handed over before.
    pub async fn shutdown(self) {
        for node in &self.inner.groups {
            if let Err(error) = node.raft().shutdown().await {
                tracing::warn!(group = %node.shared.group, %error, "a group did not stop cleanly");
            }
        }
        self.halt();
    }

    /// Stops at once, as a crash of the process would: nothing is handed over, nothing is answered. Groups that run on
    /// another's threads ([`GroupThreads::Of`]) go on until that runtime ends.
    pub fn halt(&self) {
        if let Some(runtime) = lock(&self.inner.runtime).take() {
            runtime.shutdown_background();
        }
    }

    fn group(&self, group: Group) -> Result<&Arc<GroupNode>, GroupsError> {
        let place = usize::try_from(group.0).ok();
        place
            .and_then(|place| self.inner.groups.get(place))
            .ok_or(GroupsError::NoGroup(group))
    }
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Groups({}, {} groups)",
            self.inner.node,
            self.inner.groups.len()
        )
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = lock(&self.runtime).take() {
            runtime.shutdown_background();
        }
    }
}

// What these mutexes guard is whole at any time, even after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A runtime that is never dropped in place, which would panic inside an async task.
struct Owned(Option<Runtime>);

/// Where the groups run, and the runtime if it is theirs.
fn threads(threads: &GroupThreads) -> Result<(Owned, Handle), GroupsError> {
    let count = match threads {
        GroupThreads::Of(handle) => return Ok((Owned(None), handle.clone())),
        GroupThreads::Own(count) => *count,
    };
    let runtime = Builder::new_multi_thread()
        .worker_threads(count)
        .thread_name("raft")
        .enable_all()
        .build()
        .map_err(GroupsError::Runtime)?;
    let handle = runtime.handle().clone();
    Ok((Owned(Some(runtime)), handle))
}

impl Owned {
    fn release(mut self) -> Option<Runtime> {
        self.0.take()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// All that opening one group needs.
struct Opener {
    group: Group,
    number: u16,
    node: NodeId,
    settings: Arc<RaftSettings>,
    config: Arc<Config>,
    log: Log,
    transport: Transport,
    transfers: Arc<Transfers>,
}

impl Opener {
    async fn open(
        self,
        machine: Box<dyn Machine>,
        runtime: Handle,
    ) -> Result<Arc<GroupNode>, GroupsError> {
        let Opener {
            group,
            number,
            node,
            settings,
            config,
            log,
            transport,
            transfers,
        } = self;
        let entry_bytes_max = settings.message_bytes_max();
        let log = GroupLog::new(log, group, settings.append_bytes_max, entry_bytes_max);
        let unreadable = |error: std::io::Error| GroupsError::Stopped {
            group,
            reason: error.to_string(),
        };
        let home = machine.snapshot_home();
        let shared = GroupShared::new(group, number, node, settings, log.clone(), home, transfers);
        let shared = Arc::new(shared.map_err(unreadable)?);
        let purged = log.last_purged().map_err(unreadable)?;
        let on_failure = shared.settings.on_failure.clone();
        let mut replica = Replica::new(group, machine, purged, on_failure)
            .map_err(|source| GroupsError::Machine { group, source })?;
        replica.cover(log.last()).map_err(unreadable)?;
        let clients = Clients {
            group: shared.clone(),
            transport: transport.clone(),
        };
        if shared.is_quarantined() {
            tracing::warn!(%group, "this group's log was damaged or given away: no vote until it has caught up");
        }
        let (config, alive) = (
            emptied::may_elect(&config, !shared.is_quarantined()),
            replica.alive(),
        );
        let raft: Raft<TypeConfig, Replica> = Raft::new(node, config, clients, log, replica)
            .await
            .map_err(|fatal| GroupsError::stopped(group, &fatal))?;
        Ok(GroupNode::start(shared, (raft, alive), transport, &runtime))
    }
}

fn membership_error(
    group: Group,
    error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
) -> GroupsError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => GroupsError::NotLeader {
            group,
            leader: forward.leader_id,
        },
        RaftError::APIError(error) => GroupsError::Membership {
            group,
            reason: error.to_string(),
        },
        RaftError::Fatal(fatal) => GroupsError::stopped(group, &fatal),
    }
}
