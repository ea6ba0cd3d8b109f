//! The receiver's side: which offers are taken up, one transfer a group at a time, and what becomes of them.
//!
//! A leader repeats its offer; the first one starts a task that pulls, later ones are told how far that is, and the last one how
//! it ended. An offer by a later leader, or of a newer snapshot, takes the place of one that is being pulled, but not of one that
//! is being installed. When offers cease, so does the pulling; what is on disk stays for the next.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use openraft::SnapshotMeta;
use openraft::storage::Snapshot;
use storage::codec::decode;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::pull::{self, Pull, PullError};
use super::record::{Offer, OfferReply, ProgressRecord};
use super::{LAPSE, TransferStatus, count, encoded};
use crate::node_id::NodeId;
use crate::raft::group::GroupNode;
use crate::raft::lock;
use crate::raft::machine::{away, read_mark};
use crate::raft::record::{LogIdRecord, VoteRecord};
use crate::raft::type_config::{self, Vote};

/// A transfer to this node, of one group.
pub(crate) struct Receiving {
    id: [u8; 32],
    from: NodeId,
    vote: VoteRecord,
    /// When it was last offered.
    offered: Instant,
    stage: Stage,
    progress: Arc<Mutex<ProgressRecord>>,
    task: Option<AbortHandle>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Pulling,
    /// Openraft has it: the file must stay, whatever is offered.
    Installing,
    Ended(Option<VoteRecord>),
}

impl Receiving {
    /// How far it is; `None` when it has ended.
    pub(crate) fn status(&self) -> Option<TransferStatus> {
        let is_under_way = matches!(self.stage, Stage::Pulling | Stage::Installing);
        is_under_way.then(|| TransferStatus::new(self.from, &lock(&self.progress)))
    }

    fn is_of(&self, from: NodeId, offer: &Offer) -> bool {
        (self.id, self.from) == (offer.id, from)
    }
}

/// Answers an offer, and starts to pull what it offers if need be. Never waits.
pub(super) fn answer_offer(node: &Arc<GroupNode>, from: NodeId, body: &[u8]) -> Option<Vec<u8>> {
    let offer: Offer = decode(body)
        .inspect_err(|error| tracing::debug!(group = %node.shared.group, %from, %error, "an offer does not read"))
        .ok()?;
    // An offer speaks in the name of the node that its vote names.
    if offer.vote.node != from.0 || !offer.vote.committed {
        tracing::debug!(group = %node.shared.group, %from, "an offer speaks for another node");
        return None;
    }
    encoded(&take_up(node, from, offer))
}

fn take_up(node: &Arc<GroupNode>, from: NodeId, offer: Offer) -> OfferReply {
    let own = node.vote();
    if Vote::from(offer.vote) < own {
        return OfferReply::HigherVote(VoteRecord::from(&own));
    }
    let mut slot = lock(&node.shared.receiving);
    match slot.as_mut() {
        Some(current) if current.is_of(from, &offer) => {
            (current.vote, current.offered) = (offer.vote, Instant::now());
            let reply = match current.stage {
                Stage::Ended(Some(vote)) => OfferReply::Installed(vote),
                Stage::Ended(None) => OfferReply::Failed,
                Stage::Pulling | Stage::Installing => {
                    OfferReply::Receiving(*lock(&current.progress))
                }
            };
            if matches!(current.stage, Stage::Ended(_)) {
                *slot = None;
            }
            return reply;
        }
        Some(current) if current.stage == Stage::Installing => return OfferReply::Busy,
        Some(current) => {
            if let Some(task) = current.task.take() {
                task.abort();
            }
            *slot = None;
        }
        None => {}
    }
    let Some(index) = fitting_index(node, &offer) else {
        return OfferReply::Failed;
    };
    if node.shared.log.disk_is_low() {
        return OfferReply::Busy;
    }
    let Ok(permit) = Arc::clone(&node.shared.transfers.receiving).try_acquire_owned() else {
        return OfferReply::Busy;
    };
    let progress = ProgressRecord {
        index,
        bytes_total: offer.file_bytes,
        ..ProgressRecord::default()
    };
    let receiving = slot.insert(Receiving {
        id: offer.id,
        from,
        vote: offer.vote,
        offered: Instant::now(),
        stage: Stage::Pulling,
        progress: Arc::new(Mutex::new(progress)),
        task: None,
    });
    let task = Task {
        node: Arc::clone(node),
        from,
        offer,
        progress: Arc::clone(&receiving.progress),
    };
    receiving.task = Some(tokio::spawn(task.run(permit)).abort_handle());
    OfferReply::Receiving(progress)
}

/// The place of the snapshot, if it can be one of a leader with this vote. Openraft takes anything else for damage of its own.
fn fitting_index(node: &GroupNode, offer: &Offer) -> Option<u64> {
    node.shared.home.as_ref()?;
    let mark = read_mark(&offer.mark).ok()?;
    let metrics = node.metrics();
    let places = [metrics.last_applied, metrics.cluster_committed];
    let fits_log = places.iter().flatten().all(|known| {
        let known = LogIdRecord::from(known);
        mark.applied.term.cmp(&known.term) == mark.applied.index.cmp(&known.index)
            || mark.applied.term == known.term
    });
    let fits = mark.applied.term <= offer.vote.term && fits_log;
    if !fits {
        tracing::error!(group = %node.shared.group, index = mark.applied.index, "an offered snapshot contradicts the log");
    }
    fits.then_some(mark.applied.index)
}

struct Task {
    node: Arc<GroupNode>,
    from: NodeId,
    offer: Offer,
    progress: Arc<Mutex<ProgressRecord>>,
}

impl Task {
    async fn run(self, permit: OwnedSemaphorePermit) {
        let (group, from) = (self.node.shared.group, self.from);
        let index = lock(&self.progress).index;
        tracing::info!(%group, %from, index, bytes = self.offer.file_bytes, "a snapshot is being received");
        let outcome = self.receive().await;
        let transfers = &self.node.shared.transfers;
        let stage = match outcome {
            Ok(vote) => {
                let rows = lock(&self.progress).rows;
                tracing::info!(%group, %from, index, rows, "a snapshot was received and installed");
                count(&transfers.installed, 1);
                Stage::Ended(Some(vote))
            }
            Err(error) => {
                tracing::warn!(%group, %from, index, %error, cause = ?std::error::Error::source(&error), "a snapshot was not received");
                count(&transfers.failed, 1);
                Stage::Ended(None)
            }
        };
        self.with_current(|current| current.stage = stage);
        drop(permit);
    }

    async fn receive(&self) -> Result<VoteRecord, PullError> {
        let pull = Pull {
            node: &self.node,
            from: self.from,
            offer: &self.offer,
            progress: &self.progress,
            is_wanted: &|| {
                let is_wanted = |current: &mut Receiving| current.offered.elapsed() < LAPSE;
                self.with_current(is_wanted).unwrap_or(false)
            },
        };
        let received = pull.run().await?;
        self.install(received).await
    }

    /// Hands what was received to openraft. From the first moment on nothing else takes its place.
    async fn install(&self, received: PathBuf) -> Result<VoteRecord, PullError> {
        let vote = self.with_current(|current| {
            current.stage = Stage::Installing;
            current.vote
        });
        let vote = Vote::from(vote.ok_or(PullError::Lapsed)?);
        let mark = read_mark(&self.offer.mark).map_err(|_| PullError::Nonsense("its mark"))?;
        let (last, last_membership) = type_config::unmark(&mark);
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership,
        };
        let snapshot = Snapshot {
            meta,
            snapshot: received,
        };
        let installed = self.node.raft().install_full_snapshot(vote, snapshot).await;
        let response = installed.map_err(|fatal| PullError::Stopped(fatal.to_string()))?;
        if response.vote != vote {
            return Err(PullError::Rejected);
        }
        let applied = self.node.metrics().last_applied;
        if applied >= Some(last) {
            pull::discard(&self.node);
        }
        Ok(VoteRecord::from(&response.vote))
    }

    /// Works on this transfer's entry, if it is this transfer's still.
    fn with_current<T>(&self, work: impl FnOnce(&mut Receiving) -> T) -> Option<T> {
        let mut slot = lock(&self.node.shared.receiving);
        let current = slot.as_mut().filter(|current| {
            current.is_of(self.from, &self.offer) && Arc::ptr_eq(&current.progress, &self.progress)
        });
        current.map(work)
    }
}

/// Whether a transfer of the group is under way here.
pub(crate) fn is_under_way(node: &GroupNode) -> bool {
    let receiving = lock(&node.shared.receiving);
    receiving
        .as_ref()
        .is_some_and(|current| current.status().is_some())
}

/// Removes what an earlier transfer left, unless one is under way.
pub(crate) fn tidy(node: &GroupNode) {
    if !is_under_way(node) {
        away(|| pull::discard(node));
    }
}
