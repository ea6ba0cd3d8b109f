//! Snapshots on their way to members whose entries are purged: offered by a leader, pulled by the receiver, over the BULK lane.
//!
//! ```text
//!  leader                                             receiver
//!  openraft ─► full_snapshot ─► send: offer ────────► receive: one task a group
//!                                │  (again and again, │ file ranges, ≤ 1 MiB        ─┐ pull
//!                                │   a sign of life)  │ the keys of the archive       │ (each a call; on disk
//!                                ▼                    │ rows that are missing here   ─┘  before the next)
//!                              Source ◄───── asks ────┘
//!                                │ token bucket       ▼ openraft's install ─► Machine::install ─► log purged
//!                                ▼
//!  "installed" ◄──────────────── the answer to the next offer
//! ```
//!
//! The state travels as the file of the leader's newest snapshot, named by its content, so that a broken connection, a restart of
//! the receiver or another sender of the same file goes on where it was. Of the archive travel only the rows that the receiver
//! lacks ([`storage::archive::MissingRows`]); they are put where they belong at once, which is why there is nothing to remember.
//! They may be of later entries than the snapshot: those entries come, and put the same rows again.
//!
//! Invariants: no message is longer than a frame and a row, and nothing is in memory but one of them a transfer. What arrives is
//! checked before it is used, and nonsense ends the transfer, not the node. Nothing of a transfer counts before the machine has
//! installed it, and until then the replica is what it was. A node sends and receives few at once; others wait. What is sent in
//! a second is limited for the whole node.

mod bucket;
mod pull;
mod receive;
mod record;
mod send;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storage::codec::{Record, encode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::bucket::Bucket;
pub(crate) use self::receive::{Receiving, tidy};
use self::record::ProgressRecord;
pub(crate) use self::send::{Client, Source};
use super::group::GroupNode;
use super::lock;
use super::settings::RaftSettings;
use crate::node_id::NodeId;
use crate::transport::{Frame, Reply};

/// What a frame of the BULK lane asks.
pub(crate) mod kind {
    pub(crate) const OFFER: u8 = 1;
    pub(crate) const FILE: u8 = 2;
    pub(crate) const KEYS: u8 = 3;
    pub(crate) const ROWS: u8 = 4;
}

/// What one message carries, but for the end of its last row: with the longest row it still fits the lane.
pub(crate) const FRAME_BYTES: usize = (1 << 20) - (64 << 10);

/// The smallest message that a slow rate leads to.
const FRAME_BYTES_LEAST: usize = 16 << 10;

/// How often a leader repeats its offer, which is also how often it hears of the progress.
const OFFER_EVERY: Duration = Duration::from_millis(250);

/// How long either side goes on without a sign of the other.
const LAPSE: Duration = Duration::from_secs(10);

/// A transfer, for operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransferStatus {
    /// The other node.
    pub peer: NodeId,
    /// The last entry in the snapshot.
    pub index: u64,
    /// Bytes of the state's file that the receiver has.
    pub bytes: u64,
    /// Bytes of the state's file.
    pub bytes_total: u64,
    /// Keys of the archive that were looked through.
    pub keys: u64,
    /// Keys of the archive; 0 while they are not known, and without an archive.
    pub keys_total: u64,
    /// Rows of the archive that were sent.
    pub rows: u64,
}

impl TransferStatus {
    fn new(peer: NodeId, progress: &ProgressRecord) -> TransferStatus {
        TransferStatus {
            peer,
            index: progress.index,
            bytes: progress.bytes,
            bytes_total: progress.bytes_total,
            keys: progress.keys,
            keys_total: progress.keys_total,
            rows: progress.rows,
        }
    }

    /// How much is done, in thousandths: the file counts one half, the archive the other.
    pub fn permille(&self) -> u16 {
        let half = |done: u64, of: u64| {
            let part = u128::from(done.min(of)) * 500 / u128::from(of.max(1));
            u16::try_from(part).unwrap_or(500)
        };
        half(self.bytes, self.bytes_total) + half(self.keys, self.keys_total)
    }
}

/// Counts of a node's transfers since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TransferMetrics {
    /// Bytes sent to other nodes.
    pub bytes_sent: u64,
    /// Bytes received from other nodes.
    pub bytes_received: u64,
    /// Rows of the archive received.
    pub rows_received: u64,
    /// Snapshots installed.
    pub installed: u64,
    /// Transfers to this node that were given up.
    pub failed: u64,
    /// Transfers to other nodes under way.
    pub sending: u64,
    /// Transfers to this node under way.
    pub receiving: u64,
}

/// What all groups' transfers of a node share.
pub(crate) struct Transfers {
    began: Instant,
    bucket: Mutex<Bucket>,
    frame_bytes: usize,
    transfers_max: usize,
    sending: Arc<Semaphore>,
    receiving: Arc<Semaphore>,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    rows_received: AtomicU64,
    installed: AtomicU64,
    failed: AtomicU64,
}

impl Transfers {
    pub(crate) fn new(settings: &RaftSettings) -> Transfers {
        let rate = settings.snapshot_bytes_per_second.max(1);
        let transfers_max = settings.snapshot_transfers_max.max(1);
        // At least four messages a second, so that a slow rate is no long silence.
        let frame_bytes = usize::try_from(rate / 4).unwrap_or(FRAME_BYTES);
        Transfers {
            began: Instant::now(),
            bucket: Mutex::new(Bucket::new(rate)),
            frame_bytes: frame_bytes.clamp(FRAME_BYTES_LEAST, FRAME_BYTES),
            transfers_max,
            sending: Arc::new(Semaphore::new(transfers_max)),
            receiving: Arc::new(Semaphore::new(transfers_max)),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            rows_received: AtomicU64::new(0),
            installed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    pub(crate) fn metrics(&self) -> TransferMetrics {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let under_way = |permits: &Semaphore| {
            let taken = self
                .transfers_max
                .saturating_sub(permits.available_permits());
            u64::try_from(taken).unwrap_or(u64::MAX)
        };
        TransferMetrics {
            bytes_sent: read(&self.bytes_sent),
            bytes_received: read(&self.bytes_received),
            rows_received: read(&self.rows_received),
            installed: read(&self.installed),
            failed: read(&self.failed),
            sending: under_way(&self.sending),
            receiving: under_way(&self.receiving),
        }
    }

    /// Returns when so many bytes may be sent.
    pub(crate) async fn may_send(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let wait = lock(&self.bucket).take(self.began.elapsed(), bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Answers one frame of the BULK lane; what is malformed or about a transfer that is over is dropped unanswered.
pub(crate) async fn serve(node: Arc<GroupNode>, from: NodeId, frame: Frame, reply: Reply) {
    let answer = match frame.kind {
        kind::OFFER => receive::answer_offer(&node, from, &frame.body),
        kind::FILE | kind::KEYS | kind::ROWS => send::answer_ask(&node, from, &frame).await,
        other => {
            tracing::debug!(group = %node.shared.group, %from, kind = other, "an unknown kind of bulk request");
            None
        }
    };
    let Some(body) = answer else { return };
    let answer = Frame {
        kind: frame.kind,
        partition: frame.partition,
        body: body.into(),
        ..Frame::default()
    };
    if let Err(error) = reply.send(answer) {
        tracing::debug!(group = %node.shared.group, %from, %error, "a bulk answer was not sent");
    }
}

fn encoded<T: Record>(answer: &T) -> Option<Vec<u8>> {
    encode(answer)
        .inspect_err(|error| tracing::warn!(%error, "a bulk answer does not encode"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_goes_from_nothing_to_all() {
        let check = |bytes, keys, keys_total, expect| {
            let status = TransferStatus {
                peer: NodeId(1),
                index: 5,
                bytes,
                bytes_total: 1000,
                keys,
                keys_total,
                rows: 0,
            };
            assert_eq!(status.permille(), expect, "{bytes} {keys}/{keys_total}");
        };
        check(0, 0, 0, 0);
        check(500, 0, 0, 250);
        check(1000, 0, 10, 500);
        check(1000, 5, 10, 750);
        check(1000, 10, 10, 1000);
        check(u64::MAX, u64::MAX, 10, 1000);
    }
}
