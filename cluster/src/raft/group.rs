//! One Raft group on this node: the handle others hold, and the tasks behind it.
//!
//! ```text
//!  submit ──► intake (bounded) ──► propose task ──► openraft ──► Submission
//!  read_barrier ──► waiting reads ──► barrier task: one ReadIndex round for all that wait ──► answers
//!  openraft's metrics ──► leadership task ──► watch::Receiver<Leadership>
//! ```

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal, ForwardToLeader, LinearizableReadError, RaftError,
};
use openraft::raft::responder::Responder;
use openraft::{EntryPayload, Instant as _, LinearizerOption, Raft, RaftMetrics, ServerState};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::error::{ReadError, SubmitError};
use super::lock;
use super::machine::{CommittedEntry, Replica};
use super::shared::GroupShared;
use super::slot::RaftSlot;
use super::submission::{Intake, Proposal, Submission};
use super::type_config::{Command, Entry, TypeConfig, Vote};
use crate::node_id::{Group, NodeId};
use crate::transport::Transport;

/// Who leads a group, as this node believes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    /// The leader, if one is known in this term.
    pub leader: Option<NodeId>,
    /// The newest term this node has heard of.
    pub term: u64,
    /// Whether this node is the leader. It has then not yet applied all that its predecessors committed.
    pub is_self: bool,
}

/// A group's parts on this node.
pub(crate) struct GroupNode {
    pub(crate) shared: Arc<GroupShared>,
    pub(crate) slot: Arc<RaftSlot>,
    pub(crate) transport: Transport,
    intake: Intake,
    reads: mpsc::Sender<WaitingRead>,
    leadership: watch::Receiver<Leadership>,
}

type WaitingRead = oneshot::Sender<Result<(), ReadError>>;

/// Proposals given to openraft in one go.
const PROPOSALS_AT_ONCE: usize = 256;

impl GroupNode {
    /// Starts the group's tasks on `runtime`.
    pub(crate) fn start(
        shared: Arc<GroupShared>,
        (raft, machine): (Raft<TypeConfig, Replica>, Weak<()>),
        transport: Transport,
        runtime: &Handle,
    ) -> Arc<GroupNode> {
        let settings = &shared.settings;
        let (intake, proposals) = Intake::new(
            settings.submissions_max,
            settings.payload_bytes_max,
            settings.submitted_bytes_max,
        );
        let (reads, waiting_reads) = mpsc::channel(settings.reads_max);
        let (told, leadership) = watch::channel(Leadership::default());
        let slot = Arc::new(RaftSlot::new(raft, machine));
        runtime.spawn(propose(slot.clone(), proposals));
        runtime.spawn(answer_reads(slot.clone(), shared.clone(), waiting_reads));
        runtime.spawn(tell_leadership(slot.clone(), shared.clone(), told));
        Arc::new(GroupNode {
            shared,
            slot,
            transport,
            intake,
            reads,
            leadership,
        })
    }

    pub(crate) fn raft(&self) -> Raft<TypeConfig, Replica> {
        self.slot.raft()
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    pub(crate) fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft().metrics().borrow_watched().clone()
    }

    /// See [`super::Groups::living_leader`].
    pub(crate) fn living_leader(&self) -> Option<NodeId> {
        let within = self.shared.settings.election_min;
        let metrics = self.metrics();
        let acked = metrics.last_quorum_acked.map(|at| at.elapsed());
        match metrics.state == ServerState::Leader {
            true => acked
                .is_some_and(|ago| ago <= within)
                .then_some(self.shared.node),
            false => self.shared.leader_heard(within),
        }
    }

    /// The vote this node has given or taken.
    pub(crate) fn vote(&self) -> Vote {
        self.raft().server_metrics().borrow_watched().vote
    }

    /// Why the group has stopped by itself; `None` also when it was told to stop.
    pub(crate) fn failure(&self) -> Option<String> {
        match self.metrics().running_state {
            Ok(()) | Err(Fatal::Stopped) => None,
            Err(fatal) => Some(fatal.to_string()),
        }
    }

    pub(crate) fn submitted_bytes(&self) -> usize {
        self.intake.bytes_waiting()
    }
}

/// A handle on one group. Clones share it.
#[derive(Clone)]
pub struct GroupHandle {
    pub(crate) node: Arc<GroupNode>,
}

impl GroupHandle {
    /// The group.
    pub fn group(&self) -> Group {
        self.node.shared.group
    }

    /// Proposes a payload. Two submissions of one caller enter the log in their order, if both do. Never waits: when too
    /// much is under way the submission is refused.
    pub fn submit(&self, payload: Bytes) -> Submission {
        if !self.node.shared.log.has_room(payload.len()) {
            return Submission::refused(SubmitError::Busy);
        }
        self.node.intake.submit(payload)
    }

    /// Asks the nearest voter that could take over to lead, because this node can't write. `false`: there is none, or this
    /// node doesn't lead.
    pub async fn hand_over(&self) -> bool {
        let status = self.node.status();
        let heard_within = self.node.shared.settings.election_min;
        let successor = status.best_successor(None, heard_within);
        let Some(successor) = successor.filter(|_| status.is_leader) else {
            return false;
        };
        match self.node.raft().trigger().transfer_leader(successor).await {
            Ok(()) => {
                tracing::warn!(group = %status.group, to = %successor, "handing over: this node can't write");
                true
            }
            Err(error) => {
                tracing::warn!(group = %status.group, %error, "leadership was not handed over");
                false
            }
        }
    }

    /// Returns when this node's machine has applied everything that was committed anywhere before the call, confirmed by
    /// a quorum (ReadIndex, never a lease). One round serves all reads that wait at its start.
    ///
    /// # Errors
    /// All of [`ReadError`]: then a read could show the past.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let (tx, rx) = oneshot::channel();
        self.node.reads.try_send(tx).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Busy,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        rx.await.unwrap_or(Err(ReadError::Stopped))
    }

    /// Committed entries behind an index up to another, as many as fit into so many bytes, at least one. May block on the disk.
    ///
    /// # Errors
    /// The log's; `NotFound` if the first of them is no longer in it, or not yet.
    pub fn entries(
        &self,
        after: u64,
        upto: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<CommittedEntry>> {
        let first = after.saturating_add(1);
        let range = first..upto.saturating_add(1);
        let found = self.node.shared.log.read(range, bytes_max)?;
        if found
            .first()
            .is_none_or(|entry| entry.log_id.index != first)
        {
            return Err(io::ErrorKind::NotFound.into());
        }
        let entry = |entry: Entry| CommittedEntry {
            index: entry.log_id.index,
            term: entry.log_id.leader_id.term,
            payload: match entry.payload {
                EntryPayload::Normal(command) => Some(command.0),
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            },
        };
        Ok(found.into_iter().map(entry).collect())
    }

    /// Returns when so many bytes may be sent besides snapshots: all that a node sends in bulk has one rate.
    pub async fn may_send(&self, bytes: usize) {
        self.node.shared.transfers.may_send(bytes).await;
    }

    /// Whether this node votes in the group, by the group's log as far as it is here.
    pub fn is_voter(&self) -> bool {
        let metrics = self.node.metrics();
        let membership = metrics.membership_config.membership();
        membership
            .voter_ids()
            .any(|voter| voter == self.node.shared.node)
    }

    /// The leader, as [`Groups::living_leader`](super::Groups::living_leader) has it.
    pub fn living_leader(&self) -> Option<NodeId> {
        self.node.living_leader()
    }

    /// Whether this node has applied all of which it knows that it is committed.
    pub fn has_applied_all(&self) -> bool {
        let metrics = self.node.metrics();
        metrics.last_applied >= metrics.cluster_committed
    }

    /// Who leads, now and whenever that changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.node.leadership()
    }
}

impl std::fmt::Debug for GroupHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GroupHandle({})", self.group())
    }
}

/// Hands proposals to openraft in their order.
async fn propose(slot: Arc<RaftSlot>, mut proposals: mpsc::Receiver<Proposal>) {
    let mut batch = Vec::with_capacity(PROPOSALS_AT_ONCE);
    while proposals.recv_many(&mut batch, PROPOSALS_AT_ONCE).await > 0 {
        for Proposal { payload, answer } in batch.drain(..) {
            let (generation, raft) = (slot.generation(), slot.raft());
            let written = raft.client_write_ff(Command(payload), Some(answer)).await;
            if written.is_err() && !slot.has_next(generation) {
                // The group has stopped. This one's outcome is unknown, for its answer is dropped; the rest was never
                // proposed.
                proposals.close();
                break;
            }
        }
        if proposals.is_closed() {
            break;
        }
    }
    let mut rest = batch;
    while let Some(proposal) = proposals.recv().await {
        rest.push(proposal);
    }
    for Proposal { answer, .. } in rest {
        answer.on_complete(Err(ClientWriteError::ForwardToLeader(
            ForwardToLeader::empty(),
        )));
    }
}

/// Runs one ReadIndex round after the other, each for all reads that wait at its start.
async fn answer_reads(
    slot: Arc<RaftSlot>,
    shared: Arc<GroupShared>,
    mut reads: mpsc::Receiver<WaitingRead>,
) {
    let mut waiting = Vec::new();
    while reads
        .recv_many(&mut waiting, shared.settings.reads_max)
        .await
        > 0
    {
        let outcome = read_index(&slot.raft(), &shared).await;
        for read in waiting.drain(..) {
            // A read that was given up wants no answer.
            read.send(outcome).ok();
        }
    }
}

async fn read_index(
    raft: &Raft<TypeConfig, Replica>,
    shared: &GroupShared,
) -> Result<(), ReadError> {
    // Zero age: only what a quorum acknowledges after this moment counts.
    let option = LinearizerOption::new(Some(std::time::Duration::ZERO), true)
        .with_wait_timeout(shared.settings.read_timeout);
    let linearizer = raft
        .get_read_linearizer(option)
        .await
        .map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                ReadError::NotLeader {
                    leader: forward.leader_id,
                }
            }
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadError::NoQuorum,
            RaftError::Fatal(_) => ReadError::Stopped,
        })?;
    match linearizer
        .try_await_ready(raft, Some(shared.settings.read_timeout))
        .await
    {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(ReadError::NoQuorum),
        Err(_) => Err(ReadError::Stopped),
    }
}

/// Follows openraft's metrics.
async fn tell_leadership(
    slot: Arc<RaftSlot>,
    shared: Arc<GroupShared>,
    told: watch::Sender<Leadership>,
) {
    loop {
        let generation = slot.generation();
        follow_leadership(&slot.raft(), &shared, &told).await;
        told.send_if_modified(|last| {
            let stopped = Leadership {
                leader: None,
                is_self: false,
                term: last.term,
            };
            std::mem::replace(last, stopped) != stopped
        });
        if !slot.has_next(generation) {
            break;
        }
        slot.next(generation).await;
    }
}

async fn follow_leadership(
    raft: &Raft<TypeConfig, Replica>,
    shared: &GroupShared,
    told: &watch::Sender<Leadership>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let now = {
            let seen = metrics.borrow_and_update();
            let voters = match seen
                .membership_config
                .membership()
                .get_joint_config()
                .as_slice()
            {
                [voters] => voters.clone(),
                _ => BTreeSet::new(),
            };
            lock(&shared.counted_on).learn_voters(voters);
            Leadership {
                leader: seen.current_leader,
                term: seen.vote.leader_id.term,
                is_self: seen.state == ServerState::Leader,
            }
        };
        told.send_if_modified(|before| std::mem::replace(before, now) != now);
        if metrics.changed().await.is_err() {
            break;
        }
    }
}
