//! Pulling a snapshot: the file, the list of the archive's keys, the rows that are missing here. Each answer is checked and on
//! its way to the disk before the next question. What a broken connection cut off is asked for again, for as long as the
//! snapshot is offered.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use storage::archive::{
    Archive, ArchiveError, ArchiveRow, KeyList, KeyListError, KeyListWriter, MissingRows, Order,
    PartitionId, key_list_path,
};
use storage::codec::{Record, decode, encode};
use storage::snapshot::{SnapshotError, SnapshotReceiver};
use tokio::time::sleep;

use super::record::{
    FileQuery, FileReply, KeysQuery, KeysReply, Offer, ProgressRecord, RangeRecord, RowsQuery,
    RowsReply, SentRow,
};
use super::send::RANGES_MAX;
use super::{count, kind};
use crate::node_id::{self, NodeId};
use crate::raft::failure::sentence;
use crate::raft::group::GroupNode;
use crate::raft::lock;
use crate::raft::machine::{SnapshotHome, away};
use crate::transport::{Frame, Lane};

/// How long an answer may take: the sender may have to wait until its rate allows it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two tries of a question.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// Questions in a row without an answer; then the transfer ends, makes room for others, and goes on where it was when it is
/// offered anew.
const UNANSWERED_MAX: u32 = 3;

/// Why a snapshot was not received.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    #[error("it is no longer offered")]
    Lapsed,
    #[error("its sender leads no more")]
    Rejected,
    #[error("its sender does not answer")]
    Unanswered,
    #[error("the disk has no room")]
    NoRoom,
    #[error("its sender does not keep to the protocol: {0}")]
    Nonsense(&'static str),
    #[error("the file does not do")]
    Snapshot(#[from] SnapshotError),
    #[error("the archive does not take it")]
    Archive(#[from] ArchiveError),
    #[error("the archive's keys can't be kept")]
    Keys(#[from] KeyListError),
    #[error("the group has stopped: {0}")]
    Stopped(String),
}

/// Removes all that was received for a group. What can't be removed takes room, and no more.
pub(super) fn discard(node: &GroupNode) {
    let Some(home) = &node.shared.home else {
        return;
    };
    if let Err(error) = storage::snapshot::discard_received(&home.folder, node.shared.group.0) {
        tracing::warn!(group = %node.shared.group, %error, "what was received can't be removed");
    }
}

/// One transfer.
pub(super) struct Pull<'a> {
    pub(super) node: &'a GroupNode,
    pub(super) from: NodeId,
    pub(super) offer: &'a Offer,
    pub(super) progress: &'a Mutex<ProgressRecord>,
    /// Whether it is still offered, and this is the transfer that takes the offer up.
    pub(super) is_wanted: &'a (dyn Fn() -> bool + Send + Sync),
}

impl Pull<'_> {
    /// Gives where the file lies that is to be installed. All that belongs to it is on disk for good then.
    pub(super) async fn run(&self) -> Result<PathBuf, PullError> {
        let home = self.node.shared.home.as_ref();
        let home = home.ok_or(PullError::Nonsense("an offer nobody asked for"))?;
        let received = self.file(home).await.inspect_err(|error| {
            // After a failed write or sync nothing is certain about what is on disk.
            if matches!(error, PullError::Snapshot(SnapshotError::Io(_))) {
                discard(self.node);
            }
        })?;
        if let (Some((archive, partition)), true) = (&home.archive, self.offer.has_archive) {
            let list = key_list_path(&received);
            self.keys(&list, *partition).await?;
            self.rows(&list, archive, *partition).await?;
            self.sync(archive)?;
        } else if self.offer.has_archive != home.archive.is_some() {
            return Err(PullError::Nonsense("another kind of group"));
        }
        Ok(received)
    }

    fn sync(&self, archive: &Archive) -> Result<(), PullError> {
        away(|| archive.sync()).map_err(|error| {
            // Never tried again: the process ends.
            let shared = &self.node.shared;
            shared
                .settings
                .on_failure
                .tell(shared.group, &sentence(&error));
            error.into()
        })
    }

    /// Asks until there is an answer, nobody offers any more, or it went unanswered too often.
    async fn ask<Q: Record, A: Record>(&self, kind: u8, query: &Q) -> Result<A, PullError> {
        let shared = &self.node.shared;
        let unsayable = |_| PullError::Nonsense("a question that can't be asked");
        let body = bytes::Bytes::from(encode(query).map_err(unsayable)?);
        for _ in 0..UNANSWERED_MAX {
            if !(self.is_wanted)() {
                return Err(PullError::Lapsed);
            }
            if shared.log.disk_is_low() {
                return Err(PullError::NoRoom);
            }
            let mut frame = Frame::new(kind, body.clone());
            frame.partition = node_id::PartitionId(shared.wire_number);
            let call = self
                .node
                .transport
                .call(self.from, Lane::Bulk, frame, ANSWER_TIMEOUT);
            match call.await {
                Ok(reply) => {
                    count(&shared.transfers.bytes_received, reply.body.len());
                    return decode(&reply.body).map_err(|error| {
                        tracing::debug!(group = %shared.group, %error, "an answer does not read");
                        PullError::Nonsense("an answer that does not read")
                    });
                }
                Err(error) => {
                    tracing::debug!(group = %shared.group, from = %self.from, %error, "a question is asked again");
                    sleep(TRY_AGAIN).await;
                }
            }
        }
        Err(PullError::Unanswered)
    }

    fn note(&self, change: impl FnOnce(&mut ProgressRecord)) {
        change(&mut lock(self.progress));
    }

    /// The file, from where an earlier try left it.
    async fn file(&self, home: &SnapshotHome) -> Result<PathBuf, PullError> {
        let (group, id) = (self.node.shared.group.0, self.offer.id);
        let total = self.offer.file_bytes;
        let mut receiver = away(|| SnapshotReceiver::open(&home.folder, group, &id))?;
        if receiver.received() > total {
            discard(self.node);
            receiver = away(|| SnapshotReceiver::open(&home.folder, group, &id))?;
        }
        if receiver.received() > 0 {
            tracing::info!(group = %self.node.shared.group, have = receiver.received(), of = total, "an earlier transfer goes on");
        }
        self.note(|progress| progress.bytes = receiver.received());
        while receiver.received() < total {
            let offset = receiver.received();
            let reply: FileReply = self.ask(kind::FILE, &FileQuery { id, offset }).await?;
            let is_right = reply.offset == offset
                && !reply.bytes.is_empty()
                && reply.bytes.len() as u64 <= total - offset;
            if !is_right {
                return Err(PullError::Nonsense("another part of the file"));
            }
            away(|| receiver.chunk(offset, &reply.bytes))?;
            self.note(|progress| progress.bytes = receiver.received());
        }
        let snapshot = away(|| receiver.finish())?;
        if snapshot.manifest.head.applied.0 != self.offer.mark {
            discard(self.node);
            return Err(PullError::Nonsense("another snapshot"));
        }
        Ok(snapshot.path)
    }

    /// The list of the archive's keys.
    async fn keys(&self, path: &Path, partition: PartitionId) -> Result<(), PullError> {
        let mut writer: Option<KeyListWriter> = None;
        let mut after = None;
        loop {
            let query = KeysQuery {
                id: self.offer.id,
                after: after.clone(),
            };
            let reply: KeysReply = self.ask(kind::KEYS, &query).await?;
            if reply.keys.is_empty() && !reply.ended {
                return Err(PullError::Nonsense("no keys, but more to come"));
            }
            let list = match &mut writer {
                Some(list) => list,
                None => writer.insert(KeyListWriter::create(path, partition, reply.applied)?),
            };
            away(|| {
                let mut keys = reply.keys.into_iter();
                keys.try_for_each(|sent| list.push(sent.into()))
            })?;
            after = list.last().map(|key| key.as_ref().to_owned());
            if reply.ended {
                break;
            }
        }
        if let Some(list) = writer {
            let keys = away(|| list.finish())?;
            self.note(|progress| (progress.keys, progress.keys_total) = (0, keys));
        }
        Ok(())
    }

    /// The rows that are missing here, of all keys in the list.
    async fn rows(
        &self,
        list: &Path,
        archive: &Archive,
        partition: PartitionId,
    ) -> Result<(), PullError> {
        let mut list = KeyList::open(list, partition)?;
        let mut missing: VecDeque<MissingRows> = VecDeque::new();
        loop {
            let looked = away(|| look(&mut list, archive, partition, &mut missing))?;
            self.note(|progress| progress.keys += looked);
            if missing.is_empty() {
                return Ok(());
            }
            let ranges = missing.iter().take(RANGES_MAX).map(RangeRecord::from);
            let query = RowsQuery {
                id: self.offer.id,
                ranges: ranges.collect(),
            };
            let reply: RowsReply = self.ask(kind::ROWS, &query).await?;
            let rows = take(&mut missing, reply)?;
            // In one batch, so that a crash leaves no hole.
            away(|| archive.append(partition, &rows))?;
            count(&self.node.shared.transfers.rows_received, rows.len());
            self.note(|progress| progress.rows += rows.len() as u64);
        }
    }
}

/// Looks what is missing of the next keys, until there is enough to ask for. Gives how many keys it went through.
fn look(
    list: &mut KeyList,
    archive: &Archive,
    partition: PartitionId,
    missing: &mut VecDeque<MissingRows>,
) -> Result<u64, PullError> {
    let view = archive.view();
    let mut looked = 0;
    while missing.len() < RANGES_MAX {
        let Some(listed) = list.next() else { break };
        missing.extend(view.missing(partition, &listed?)?);
        looked += 1;
    }
    Ok(looked)
}

/// The rows of an answer, each held against what was asked for; what is complete is no longer missing.
fn take(
    missing: &mut VecDeque<MissingRows>,
    reply: RowsReply,
) -> Result<Vec<ArchiveRow>, PullError> {
    let asked = missing.len().min(RANGES_MAX);
    let answered = reply.ranges.len();
    let has_part = reply.ranges.last().is_some_and(|rows| !rows.is_empty());
    if answered == 0 || answered > asked || !(reply.ended || has_part) {
        return Err(PullError::Nonsense("an answer without an end"));
    }
    let mut taken = Vec::new();
    for (place, rows) in (1..).zip(reply.ranges) {
        let Some(range) = missing.front_mut() else {
            break;
        };
        take_range(range, rows, &mut taken)?;
        if place < answered || reply.ended {
            missing.pop_front();
        }
    }
    Ok(taken)
}

fn take_range(
    range: &mut MissingRows,
    rows: Vec<SentRow>,
    taken: &mut Vec<ArchiveRow>,
) -> Result<(), PullError> {
    for row in rows {
        let is_behind = match range.order {
            Order::OldestFirst => range.after.is_none_or(|after| row.seq > after),
            Order::NewestFirst => range.before.is_none_or(|before| row.seq < before),
        };
        if !is_behind || !range.holds(row.seq) {
            return Err(PullError::Nonsense("rows nobody asked for"));
        }
        let seq = row.seq;
        taken.push(row.of(range));
        range.go_on_behind(seq);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use storage::archive::RowKind;

    use super::*;

    fn range(key: &str, after: u64, before: u64, order: Order) -> MissingRows {
        MissingRows {
            key: Arc::from(key),
            kind: RowKind::Message,
            after: Some(after),
            before: Some(before),
            order,
        }
    }

    fn rows(seqs: &[u64]) -> Vec<SentRow> {
        let row = |seq: &u64| SentRow {
            seq: *seq,
            time: 1,
            peer: None,
            record: Bytes::from_static(b"row"),
        };
        seqs.iter().map(row).collect()
    }

    /// Asks for a@x 4..10, then b@x 9..3 backwards; gives what is taken and what is missing still.
    fn taken(ranges: &[&[u64]], ended: bool) -> Option<(usize, Vec<(u64, u64)>)> {
        let asked = [
            range("a@x", 3, 10, Order::OldestFirst),
            range("b@x", 2, 10, Order::NewestFirst),
        ];
        let mut missing = VecDeque::from(asked);
        let reply = RowsReply {
            ranges: ranges.iter().map(|seqs| rows(seqs)).collect(),
            ended,
        };
        let taken = take(&mut missing, reply).ok()?;
        let bounds = |range: &MissingRows| Some((range.after?, range.before?));
        Some((taken.len(), missing.iter().filter_map(bounds).collect()))
    }

    #[test]
    fn answers_are_held_against_what_was_asked_for() {
        let (a, b) = ((3, 10), (2, 10));
        assert_eq!(taken(&[&[4, 5, 9], &[9, 4]], true), Some((5, vec![])));
        assert_eq!(taken(&[&[]], true), Some((0, vec![b])));
        assert_eq!(taken(&[&[4, 5]], false), Some((2, vec![(5, 10), b])));
        assert_eq!(taken(&[&[], &[9]], false), Some((1, vec![(2, 9)])));
        assert_eq!(taken(&[&[4], &[]], true), Some((1, vec![])));
        assert_ne!(a, b);
        for (nonsense, ended) in [
            (&[][..], true),
            (&[&[][..]][..], false),
            (&[&[3]], true),
            (&[&[10]], true),
            (&[&[5, 5]], true),
            (&[&[5, 4]], true),
            (&[&[], &[4, 9]], true),
            (&[&[], &[2]], true),
            (&[&[], &[], &[]], true),
        ] {
            assert_eq!(taken(nonsense, ended), None, "{nonsense:?} {ended}");
        }
    }
}
