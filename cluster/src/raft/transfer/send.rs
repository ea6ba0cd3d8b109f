//! The leader's side: it offers its newest snapshot to a member until that has installed it, and answers what the member asks.

use std::path::Path;
use std::sync::{Arc, Mutex};

use storage::archive::{ArchiveError, ArchiveView, MissingRows, PartitionId, RowKind, Rows};
use storage::codec::{Record, decode, encode};
use storage::snapshot::{SnapshotError, SnapshotSource};
use tokio::time::{Instant, sleep};

use super::record::{
    FileQuery, FileReply, KeysQuery, KeysReply, Offer, OfferReply, ProgressRecord, RangeRecord,
    RowsQuery, RowsReply, SentExtent, SentRow,
};
use super::{LAPSE, OFFER_EVERY, TransferStatus, encoded, kind};
use crate::node_id::{self, Group, NodeId};
use crate::raft::error::MachineError;
use crate::raft::group::GroupNode;
use crate::raft::lock;
use crate::raft::machine::{SnapshotHome, away, mark_place};
use crate::raft::record::VoteRecord;
use crate::raft::shared::GroupShared;
use crate::transport::{CallError, Frame, Lane, Transport};

/// Keys of one answer.
const KEYS_AT_ONCE: usize = 4096;

/// Ranges of rows that one question may hold.
pub(super) const RANGES_MAX: usize = 1024;

/// Rows read at once: between two looks at how full the frame is.
const ROWS_AT_ONCE: usize = 16;

/// What is sent to one member. It stays readable whatever becomes of snapshot and archive meanwhile.
pub(crate) struct Source {
    id: [u8; 32],
    /// The last entry in the snapshot: the receiver needs the log behind it.
    index: u64,
    file: SnapshotSource,
    archive: Option<(ArchiveView, PartitionId)>,
    progress: Mutex<ProgressRecord>,
}

impl Source {
    /// Opens the snapshot in this file, which is read to its end before, once. One that is damaged is set aside.
    fn open(path: &Path, home: &SnapshotHome, group: &GroupShared) -> Result<Source, SendFailure> {
        let file = SnapshotSource::open(path)?;
        let id = file.snapshot().identity();
        if *lock(&group.verified) != Some(id) {
            verify(path, group.group)?;
            *lock(&group.verified) = Some(id);
        }
        // Behind the snapshot: the rows of all that is in it are there.
        let archive = home.archive.as_ref();
        let archive = archive.map(|(archive, partition)| (archive.view(), *partition));
        let (_, index) = mark_place(&file.snapshot().manifest.head.applied.0)?;
        Ok(Source {
            id,
            index,
            file,
            archive,
            progress: Mutex::default(),
        })
    }

    /// How far the receiver said it is.
    pub(crate) fn status(&self, peer: NodeId) -> TransferStatus {
        let progress = *lock(&self.progress);
        TransferStatus {
            index: self.index,
            bytes_total: self.file.snapshot().file_bytes,
            ..TransferStatus::new(peer, &progress)
        }
    }
}

fn verify(path: &Path, group: Group) -> Result<(), SendFailure> {
    let Err(error) = storage::snapshot::verify(path, group.0) else {
        return Ok(());
    };
    if !matches!(error, SnapshotError::Io(_)) {
        let aside = storage::snapshot::set_aside(path).map_err(SnapshotError::Io)?;
        tracing::error!(%group, path = %aside.display(), "a damaged snapshot is set aside");
    }
    Err(error.into())
}

/// Why a snapshot was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendFailure {
    #[error("this machine's snapshots are not sent")]
    NoHome,
    #[error("{0} is not connected")]
    NotConnected(NodeId),
    #[error("the snapshot can't be sent")]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the offer was not answered")]
    Unanswered(#[source] CallError),
    #[error("the answer to the offer is nonsense")]
    Nonsense,
    #[error("the receiver has too much to do, or no room")]
    Busy,
    #[error("the receiver could not take it")]
    Failed,
}

/// One group's way to send snapshots to one member.
pub(crate) struct Client<'a> {
    pub(crate) group: &'a GroupShared,
    pub(crate) transport: &'a Transport,
    pub(crate) target: NodeId,
}

/// Takes the source away when the transfer ends, however it ends.
struct Registered<'a> {
    client: &'a Client<'a>,
    source: Arc<Source>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut sending = lock(&self.client.group.sending);
        let is_ours = |source: &Arc<Source>| Arc::ptr_eq(source, &self.source);
        if sending.get(&self.client.target).is_some_and(is_ours) {
            sending.remove(&self.client.target);
        }
    }
}

impl Client<'_> {
    /// Offers the snapshot in this file until the member has it; gives the member's vote then. Dropped, it stops offering.
    pub(crate) async fn send(
        &self,
        vote: VoteRecord,
        path: &Path,
    ) -> Result<VoteRecord, SendFailure> {
        let (group, to) = (self.group.group, self.target);
        let home = self.group.home.as_ref().ok_or(SendFailure::NoHome)?;
        self.connected().await?;
        let permits = Arc::clone(&self.group.transfers.sending);
        // Never closed; without a permit it would only be one transfer more.
        let _permit = permits.acquire_owned().await.ok();
        let source = Arc::new(away(|| Source::open(path, home, self.group))?);
        let registered = Registered {
            client: self,
            source: Arc::clone(&source),
        };
        lock(&self.group.sending).insert(to, Arc::clone(&source));
        let offer = Offer {
            vote,
            id: source.id,
            mark: source.file.snapshot().manifest.head.applied.0.clone(),
            file_bytes: source.file.snapshot().file_bytes,
            has_archive: source.archive.is_some(),
        };
        let sent = self.offer(&source, &offer).await;
        drop(registered);
        let status = source.status(to);
        match &sent {
            Ok(_) => {
                tracing::info!(%group, %to, index = source.index, rows = status.rows, "a snapshot was sent");
            }
            Err(SendFailure::Busy) => {}
            Err(error) => {
                tracing::warn!(%group, %to, index = source.index, permille = status.permille(), %error, "a snapshot was not sent to its end");
            }
        }
        sent
    }

    /// Returns when the member is there. Openraft asks again at once, for each group, for as long as a member is away.
    async fn connected(&self) -> Result<(), SendFailure> {
        let began = Instant::now();
        while !self.transport.connected(self.target, Lane::Bulk) {
            if began.elapsed() >= LAPSE {
                return Err(SendFailure::NotConnected(self.target));
            }
            sleep(OFFER_EVERY).await;
        }
        Ok(())
    }

    /// Repeats the offer until it is fulfilled, refused, or unanswered for too long.
    async fn offer(&self, source: &Source, offer: &Offer) -> Result<VoteRecord, SendFailure> {
        let mut heard = Instant::now();
        let mut is_told = false;
        loop {
            match self.offer_once(offer).await {
                Ok(OfferReply::Receiving(progress)) => {
                    heard = Instant::now();
                    *lock(&source.progress) = progress;
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::info!(group = %self.group.group, to = %self.target, index = source.index, bytes = offer.file_bytes, "a snapshot is being sent");
                    }
                }
                Ok(OfferReply::Installed(vote)) => return Ok(vote),
                Ok(OfferReply::HigherVote(vote)) if is_higher(vote, offer.vote) => return Ok(vote),
                Ok(OfferReply::HigherVote(_)) => return Err(SendFailure::Nonsense),
                Ok(OfferReply::Busy) => return Err(SendFailure::Busy),
                Ok(OfferReply::Failed) => return Err(SendFailure::Failed),
                Err(SendFailure::Unanswered(_)) if heard.elapsed() < LAPSE => {}
                Err(error) => return Err(error),
            }
            sleep(OFFER_EVERY).await;
        }
    }

    async fn offer_once(&self, offer: &Offer) -> Result<OfferReply, SendFailure> {
        let mut frame = Frame::new(
            kind::OFFER,
            encode(offer).map_err(|_| SendFailure::Nonsense)?,
        );
        frame.partition = node_id::PartitionId(self.group.wire_number);
        let timeout = self.group.settings.vote_timeout;
        let reply = self.transport.call(self.target, Lane::Bulk, frame, timeout);
        let reply = reply.await.map_err(SendFailure::Unanswered)?;
        decode(&reply.body).map_err(|_| SendFailure::Nonsense)
    }
}

/// Whether a vote makes its giver refuse what was sent under another.
fn is_higher(vote: VoteRecord, than: VoteRecord) -> bool {
    (vote.term, vote.committed) > (than.term, than.committed)
}

/// Answers a question about what is being sent, when the rate allows it. `None`: nothing of the kind is being sent to this node.
pub(super) async fn answer_ask(node: &GroupNode, from: NodeId, frame: &Frame) -> Option<Vec<u8>> {
    let source = lock(&node.shared.sending).get(&from).cloned()?;
    let applied = node.metrics().last_applied.map_or(0, |id| id.index);
    let frame_bytes = node.shared.transfers.frame_bytes;
    let answer = away(|| match frame.kind {
        kind::FILE => source.file_part(&ask(frame)?, frame_bytes),
        kind::KEYS => source.keys(ask(frame)?, frame_bytes, applied),
        _ => source.rows(ask(frame)?, frame_bytes),
    });
    let body = answer
        .inspect_err(|failure| {
            tracing::debug!(group = %node.shared.group, %from, %failure, "a question about a snapshot is not answered");
        })
        .ok()?;
    node.shared.transfers.may_send(body.len()).await;
    Some(body)
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum AskFailure {
    #[error("it is nonsense")]
    Nonsense,
    #[error("it is about another snapshot")]
    Another,
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

fn ask<T: Record>(frame: &Frame) -> Result<T, AskFailure> {
    decode(&frame.body).map_err(|_| AskFailure::Nonsense)
}

impl Source {
    fn check(&self, id: &[u8; 32]) -> Result<(), AskFailure> {
        (*id == self.id).then_some(()).ok_or(AskFailure::Another)
    }

    fn file_part(&self, query: &FileQuery, bytes_max: usize) -> Result<Vec<u8>, AskFailure> {
        self.check(&query.id)?;
        let bytes = self.file.chunk(query.offset, bytes_max)?;
        let reply = FileReply {
            offset: query.offset,
            bytes,
        };
        encoded(&reply).ok_or(AskFailure::Nonsense)
    }

    fn keys(
        &self,
        query: KeysQuery,
        bytes_max: usize,
        applied: u64,
    ) -> Result<Vec<u8>, AskFailure> {
        self.check(&query.id)?;
        let (view, partition) = self.archive.as_ref().ok_or(AskFailure::Nonsense)?;
        // A key takes at least 42 bytes on the wire.
        let limit = (bytes_max / 42).clamp(1, KEYS_AT_ONCE);
        let found = view.keys(*partition, query.after.as_deref(), limit)?;
        let mut ended = found.len() < limit;
        let (mut keys, mut bytes) = (Vec::new(), 0);
        for extent in found {
            if bytes >= bytes_max {
                ended = false;
                break;
            }
            bytes += 42 + extent.key.len();
            keys.push(SentExtent::from(extent));
        }
        let reply = KeysReply {
            keys,
            ended,
            applied,
        };
        encoded(&reply).ok_or(AskFailure::Nonsense)
    }

    fn rows(&self, query: RowsQuery, bytes_max: usize) -> Result<Vec<u8>, AskFailure> {
        self.check(&query.id)?;
        if query.ranges.is_empty() || query.ranges.len() > RANGES_MAX {
            return Err(AskFailure::Nonsense);
        }
        let mut reply = RowsReply {
            ranges: Vec::new(),
            ended: true,
        };
        let mut room = bytes_max;
        for range in query.ranges {
            let (rows, ended) = self.range(range, &mut room)?;
            reply.ranges.push(rows);
            reply.ended = ended;
            if room == 0 {
                break;
            }
        }
        encoded(&reply).ok_or(AskFailure::Nonsense)
    }

    /// The rows of one range as far as there is room, at least one; and whether that is all of it.
    fn range(
        &self,
        range: RangeRecord,
        room: &mut usize,
    ) -> Result<(Vec<SentRow>, bool), AskFailure> {
        let (view, partition) = self.archive.as_ref().ok_or(AskFailure::Nonsense)?;
        let mut missing = MissingRows::from(range);
        let kinds = match missing.kind {
            RowKind::Message => Rows::Messages,
            RowKind::Event => Rows::Events,
        };
        let mut rows = Vec::new();
        loop {
            let page = missing.page(ROWS_AT_ONCE);
            let found = view.range(*partition, &missing.key, kinds, &page)?;
            let is_last_page = found.len() < ROWS_AT_ONCE;
            for row in found {
                if *room == 0 {
                    return Ok((rows, false));
                }
                missing.go_on_behind(row.seq);
                let row = SentRow::from(row);
                *room = room.saturating_sub(row.bytes());
                rows.push(row);
            }
            if is_last_page {
                *room = room.saturating_sub(16);
                return Ok((rows, true));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use storage::archive::{Archive, ArchiveOptions, ArchiveRow, Order};
    use storage::snapshot::{SnapshotHead, SnapshotWriter};
    use storage::state_store::{AppliedMark, Table};

    use super::*;
    use crate::raft::machine::mark_of;
    use crate::raft::transfer::FRAME_BYTES;

    const KEYS: [&str; 3] = ["a@x", "b@x", "c@x"];
    const ROWS: u64 = 100;
    const PARTITION: PartitionId = PartitionId(0);

    /// Three keys with a hundred messages of a kilobyte each.
    fn source() -> (Source, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(&dir.path().join("archive"), &ArchiveOptions::default());
        let archive = archive.unwrap();
        for key in KEYS {
            let row = |seq| ArchiveRow {
                key: Arc::from(key),
                kind: RowKind::Message,
                seq,
                time: seq,
                peer: None,
                record: Bytes::from(vec![7; 1000]),
            };
            let rows: Vec<ArchiveRow> = (1..=ROWS).map(row).collect();
            archive.append(PARTITION, &rows).unwrap();
        }
        let head = SnapshotHead {
            group: 1,
            index: 9,
            applied: AppliedMark(mark_of(1, 9)),
        };
        let mut writer = SnapshotWriter::create(dir.path(), head).unwrap();
        writer.row(Table(0), b"key", &[1; 500]).unwrap();
        let file = SnapshotSource::open(&writer.finish().unwrap().path).unwrap();
        let source = Source {
            id: file.snapshot().identity(),
            index: 9,
            file,
            archive: Some((archive.view(), PARTITION)),
            progress: Mutex::default(),
        };
        (source, dir)
    }

    fn missing(key: &str) -> MissingRows {
        MissingRows {
            key: Arc::from(key),
            kind: RowKind::Message,
            after: None,
            before: None,
            order: Order::OldestFirst,
        }
    }

    #[test]
    fn answers_are_as_long_as_a_frame_and_a_row() {
        const FRAME: usize = 10_000;
        let (source, _dir) = source();
        let mut asked: Vec<MissingRows> = KEYS.map(missing).into();
        let (mut seqs, mut answers) = (Vec::new(), 0);
        while !asked.is_empty() {
            let query = RowsQuery {
                id: source.id,
                ranges: asked.iter().map(RangeRecord::from).collect(),
            };
            let body = source.rows(query, FRAME).unwrap();
            assert!(body.len() <= FRAME + 1200, "{}", body.len());
            let reply: RowsReply = decode(&body).unwrap();
            answers += 1;
            let count = reply.ranges.len();
            for (place, rows) in (1..).zip(reply.ranges) {
                for row in &rows {
                    asked[0].go_on_behind(row.seq);
                    seqs.push(row.seq);
                }
                if place < count || reply.ended {
                    asked.remove(0);
                }
            }
        }
        assert!((30..40).contains(&answers), "{answers}");
        let expected: Vec<u64> = KEYS.iter().flat_map(|_| 1..=ROWS).collect();
        assert_eq!(seqs, expected);
    }

    #[test]
    fn keys_come_in_pages() {
        let (source, _dir) = source();
        let (mut after, mut keys) = (None, Vec::new());
        loop {
            let query = KeysQuery {
                id: source.id,
                after: after.clone(),
            };
            let reply: KeysReply = decode(&source.keys(query, 90, 12).unwrap()).unwrap();
            assert_eq!(reply.applied, 12);
            assert!(reply.keys.len() <= 2);
            keys.extend(reply.keys.into_iter().map(|sent| sent.key));
            after = keys.last().cloned();
            if reply.ended {
                break;
            }
        }
        assert_eq!(keys, KEYS);
    }

    #[test]
    fn nonsense_has_no_answer() {
        let (source, _dir) = source();
        let rows = |id, count| {
            let ranges = vec![RangeRecord::from(&missing("a@x")); count];
            source.rows(RowsQuery { id, ranges }, FRAME_BYTES).is_ok()
        };
        assert!(rows(source.id, RANGES_MAX));
        assert!(!rows(source.id, RANGES_MAX + 1));
        assert!(!rows(source.id, 0));
        assert!(!rows([9; 32], 1));
        let query = RowsQuery {
            id: source.id,
            ranges: vec![RangeRecord::from(&missing("no\0name"))],
        };
        assert!(source.rows(query, FRAME_BYTES).is_err());
        let file = |offset| {
            let query = FileQuery {
                id: source.id,
                offset,
            };
            let body = source.file_part(&query, FRAME_BYTES).unwrap();
            decode::<FileReply>(&body).unwrap().bytes.len()
        };
        assert!(file(0) > 500);
        assert_eq!(file(u64::MAX), 0);
    }

    #[test]
    fn only_a_higher_vote_ends_an_offer() {
        let vote = |term, committed| VoteRecord {
            term,
            node: 1,
            committed,
        };
        assert!(is_higher(vote(8, false), vote(7, true)));
        assert!(!is_higher(vote(7, true), vote(7, true)));
        assert!(!is_higher(vote(7, false), vote(7, true)));
        assert!(!is_higher(vote(6, true), vote(7, true)));
    }
}
