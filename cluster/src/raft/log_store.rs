//! One group's view of the node's shared log, as openraft's log storage.
//!
//! Appends return at once and report through openraft's callback when they are on disk; votes are waited for. The log
//! keeps the order of submission of a group, so a vote never overtakes entries. The committed index rides along with
//! whatever is written next.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::Stream;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use storage::codec::{decode_frame, encode_frame};
use storage::log::{GroupId, Log, LogEntry, LogError, LogMetrics};
use tokio::sync::oneshot;

use super::lock;
use super::machine::away;
use super::record::{EntryRecord, LogIdRecord, VoteRecord};
use super::type_config::{Entry, LogId, TypeConfig, Vote, entry};
use crate::node_id::Group;

/// Votes and log ids are small; this is far above what they take.
pub(super) const SMALL_BYTES_MAX: u64 = 64;

/// Reads this close to the end of the log are answered from its memory and may be made on a runtime's thread; others
/// may wait for the disk.
const RECENT_ENTRIES: u64 = 1024;

/// A group's part of the log. Clones share it.
#[derive(Clone)]
pub(crate) struct GroupLog {
    log: Log,
    group: GroupId,
    read_bytes_max: usize,
    entry_bytes_max: u64,
    appended_bytes: Arc<AtomicU64>,
    /// The append that ends with this entry may share another one's fdatasync.
    shares: Arc<Mutex<Option<LogIdRecord>>>,
}

impl GroupLog {
    /// The part of `group`; reads give at most `read_bytes_max` bytes at once, or one entry of any length.
    pub(crate) fn new(
        log: Log,
        group: Group,
        read_bytes_max: usize,
        entry_bytes_max: usize,
    ) -> GroupLog {
        let entry_bytes_max = u64::try_from(entry_bytes_max).unwrap_or(u64::MAX);
        GroupLog {
            log,
            group: GroupId(group.0),
            read_bytes_max,
            entry_bytes_max,
            appended_bytes: Arc::default(),
            shares: Arc::default(),
        }
    }

    /// The append that ends with this entry, if it comes next, is one that nobody waits for.
    pub(super) fn shares(&self, last: Option<LogIdRecord>) {
        *lock(&self.shares) = last;
    }

    /// The log that all groups share.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Payload bytes appended since the start.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that the group's entries take on disk.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.log.stored_bytes(self.group)
    }

    /// Whether acknowledged records may have been lost.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.log.state(self.group).quarantined
    }

    /// Whether an append of so many bytes would be taken.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.log.has_room(bytes)
    }

    /// How the log that all groups share is doing.
    pub(crate) fn metrics(&self) -> LogMetrics {
        self.log.metrics()
    }

    /// Whether the disk has less free than what is committed may need.
    pub(crate) fn disk_is_low(&self) -> bool {
        self.log.disk_is_low()
    }

    /// The saved vote.
    pub(crate) fn vote(&self) -> io::Result<Option<VoteRecord>> {
        self.log
            .state(self.group)
            .vote
            .map(|bytes| decode_frame(&bytes, SMALL_BYTES_MAX).map_err(damaged))
            .transpose()
    }

    /// The last entry.
    pub(super) fn last(&self) -> Option<LogId> {
        let last = self.log.state(self.group).last;
        last.map(|(index, term)| LogId::from(LogIdRecord { term, index }))
    }

    /// Up to where the log is purged.
    pub(crate) fn last_purged(&self) -> io::Result<Option<LogId>> {
        self.purged(self.log.state(self.group).purged)
    }

    /// Lifts the quarantine, on disk.
    pub(crate) async fn clear_quarantine(&self) -> Result<(), LogError> {
        let (tx, rx) = oneshot::channel();
        self.log
            .clear_quarantine(self.group, move |result| drop(tx.send(result)));
        rx.await.unwrap_or(Err(LogError::Closed))
    }

    async fn written(
        &self,
        submit: impl FnOnce(&Log, Box<dyn FnOnce(Result<(), LogError>) + Send>),
    ) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        // Openraft drops the future only when the group stops; nobody needs the result then.
        submit(&self.log, Box::new(move |result| drop(tx.send(result))));
        rx.await
            .unwrap_or(Err(LogError::Closed))
            .map_err(io::Error::other)
    }

    /// Entries from the beginning of a range, as many as fit, at least one; what is purged is left out.
    pub(crate) fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let last = self
            .log
            .state(self.group)
            .last
            .map_or(0, |(index, _)| index);
        let read = || {
            self.log
                .read(self.group, range.clone(), bytes_max)
                .map_err(io::Error::other)
        };
        let stored = if range.start.saturating_add(RECENT_ENTRIES) > last {
            read()?
        } else {
            away(read)?
        };
        stored
            .into_iter()
            .map(|stored| self.decode(&stored))
            .collect()
    }

    fn decode(&self, stored: &LogEntry) -> io::Result<Entry> {
        let record: EntryRecord =
            decode_frame(&stored.payload, self.entry_bytes_max).map_err(damaged)?;
        Ok(entry(
            LogIdRecord {
                term: stored.term,
                index: stored.index,
            },
            record,
        ))
    }

    fn encode(&self, entry: &Entry) -> io::Result<LogEntry> {
        let payload = encode_frame(&EntryRecord::from(entry), self.entry_bytes_max)
            .map_err(io::Error::other)?;
        let LogIdRecord { term, index } = LogIdRecord::from(&entry.log_id);
        Ok(LogEntry {
            index,
            term,
            payload: Bytes::from(payload),
        })
    }

    fn purged(&self, bytes: Option<Bytes>) -> io::Result<Option<LogId>> {
        let record = bytes
            .map(|bytes| decode_frame::<LogIdRecord>(&bytes, SMALL_BYTES_MAX))
            .transpose();
        Ok(record.map_err(damaged)?.map(LogId::from))
    }
}

fn damaged(error: storage::codec::CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn small<T: storage::codec::Record>(record: &T) -> io::Result<Bytes> {
    encode_frame(record, SMALL_BYTES_MAX)
        .map(Bytes::from)
        .map_err(io::Error::other)
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(at) => *at,
        Bound::Excluded(at) => at.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(at) => at.saturating_add(1),
        Bound::Excluded(at) => *at,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for GroupLog {
    /// Reads by and by, so that a long stretch to apply is never in memory as a whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let state = (self.clone(), half_open(&range), Vec::new().into_iter());
        futures_util::stream::unfold(state, |(log, mut rest, mut ready)| async move {
            if let Some(entry) = ready.next() {
                return Some((Ok(entry), (log, rest, ready)));
            }
            if rest.is_empty() {
                return None;
            }
            match log.read(rest.clone(), log.read_bytes_max) {
                Ok(entries) => {
                    rest.start = rest.start.saturating_add(entries.len() as u64);
                    ready = entries.into_iter();
                    match ready.next() {
                        Some(entry) => Some((Ok(entry), (log, rest, ready))),
                        None => {
                            let gap =
                                io::Error::other(format!("the log has no entry {}", rest.start));
                            Some((Err(gap), (log, 0..0, ready)))
                        }
                    }
                }
                Err(error) => Some((Err(error), (log, 0..0, ready))),
            }
        })
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(half_open(&range), usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote()?.map(Vote::from))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, self.read_bytes_max)
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = GroupLog;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state(self.group);
        let purged = self.purged(state.purged)?;
        let last = state
            .last
            .map(|(index, term)| LogId::from(LogIdRecord { term, index }));
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last.or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> GroupLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = small(&VoteRecord::from(vote))?;
        self.written(|log, done| log.save_vote(self.group, bytes, done))
            .await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log
                .save_committed(self.group, small(&LogIdRecord::from(&committed))?);
        }
        Ok(())
    }

    /// Never behind the last entry: damage may have left less log than was once committed, and what is missing comes
    /// back from the leader.
    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let state = self.log.state(self.group);
        let purged = self.purged(state.purged)?;
        let last = state
            .last
            .map(|(index, term)| LogId::from(LogIdRecord { term, index }))
            .or(purged);
        let Some(bytes) = state.committed else {
            return Ok(None);
        };
        let committed =
            LogId::from(decode_frame::<LogIdRecord>(&bytes, SMALL_BYTES_MAX).map_err(damaged)?);
        Ok(last.map(|last| committed.min(last)))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries
            .into_iter()
            .map(|entry| self.encode(&entry))
            .collect::<io::Result<Vec<_>>>()?;
        let bytes = entries.iter().map(|entry| entry.payload.len() as u64).sum();
        self.appended_bytes.fetch_add(bytes, Ordering::Relaxed);
        let last = entries.last().map(|last| LogIdRecord {
            term: last.term,
            index: last.index,
        });
        let shares = lock(&self.shares).take();
        let done = move |result: Result<(), LogError>| {
            callback.io_completed(result.map_err(io::Error::other));
        };
        match shares.is_some() && shares == last {
            true => self.log.append_shared(self.group, entries, done),
            false => self.log.append(self.group, entries, done),
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let after = last_log_id.map(|id| id.index);
        self.written(|log, done| log.truncate_after(self.group, after, done))
            .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let purged = small(&LogIdRecord::from(&log_id))?;
        self.written(|log, done| log.purge(self.group, log_id.index, purged, done))
            .await
    }
}
