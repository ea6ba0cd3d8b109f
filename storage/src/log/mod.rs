//! The write-ahead log that all Raft groups of a node share.
//!
//! It stores opaque entries, votes and commit points by group, and calls back when they are on disk. One writer thread
//! drains what all groups have queued into one write and one fdatasync, so the cost of a sync is shared by whoever waits.
//!
//! ```text
//!  append, save_vote, truncate_after, purge         read, state
//!        │ contiguity and room checked                  ▲
//!        ▼                                              │
//!  queue (bounded by bytes) ──► index: group → entries, cache of the newest payloads
//!        │                                              ▲
//!        ▼ all that waits                               │ places
//!  writer: frames ──► one write ──► fdatasync ──► mark ─┴─► completions
//!        │ segment full                   ▲ spare segments
//!        ▼                                │
//!  next segment, heads of all groups    keeper: zero-fills new ones, recycles freed ones
//! ```
//!
//! What a start finds decides the group's fate. Frames behind the last fdatasync were acknowledged to nobody: the first
//! bad one ends the log. A bad frame in front of it is damage: every group that may have lost something is *quarantined*
//! (its replica must give no vote until it has caught up with a leader elected without it), and the log is rewritten.
//!
//! Files: `frame` (codec), `segment` (files), `index` (what is where), `replay` and `recovery` (start), `queue` (admission), `writer`,
//! `keeper`, `threads`.

mod frame;
mod index;
mod inspect;
mod keeper;
mod queue;
mod recovery;
mod replay;
mod segment;
mod threads;
mod writer;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::frame::{ENTRY_OVERHEAD, NODE};
pub use self::inspect::InspectedLog;
use self::queue::{Haste, OpKind, Shared};
pub use self::recovery::Recovered;
pub use self::replay::Damage;
use self::segment::HEADER_BYTES;
pub use self::segment::{LogDisk, SystemDisk};
#[cfg(feature = "simulation")]
pub use self::threads::{LogSteps, on_log_opened};

/// Longest vote, commit point or purge point.
pub const OPAQUE_BYTES_MAX: usize = 256;

/// A Raft group, as the log knows it. `u32::MAX` is the log's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One entry of a group's log.
#[derive(Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position; entries of a group have no holes.
    pub index: u64,
    /// The caller's ordering number; stored, not interpreted.
    pub term: u64,
    /// The caller's bytes. Kept in the cache as they are: a slice of a large buffer keeps that buffer alive.
    pub payload: Bytes,
}

impl fmt::Debug for LogEntry {
    /// Payloads hold messages, which never appear in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "LogEntry({}, term {}, {} bytes)",
            self.index,
            self.term,
            self.payload.len()
        )
    }
}

/// How a log is kept.
#[derive(Clone)]
pub struct LogOptions {
    /// Length of a segment file. Default 64 MiB; 8 KiB to 1 GiB. May differ from that of segments already there.
    pub segment_bytes: u64,
    /// Most that may wait to be written; further submissions block. Default 32 MiB.
    pub queue_bytes_max: usize,
    /// Most that is written with one fdatasync. Default 4 MiB.
    pub batch_bytes_max: usize,
    /// Least time from the start of one fdatasync to that of the next: what is submitted in between shares the next. A
    /// submission after a time of rest is never held up. Default 1 ms; zero: as fast as the disk is.
    pub sync_interval: Duration,
    /// Longest that entries which nobody waits for ([`Log::append_shared`]) wait for others to share their fdatasync. Default
    /// 25 ms; zero: they don't wait.
    pub share_within: Duration,
    /// Payloads kept in memory for reading, all groups together. Default 64 MiB.
    pub cache_bytes_max: usize,
    /// Most segment files, spare and reserve included; then the log is full. Default: as many as the disk holds. At least 3.
    pub segments_max: Option<usize>,
    /// Kept free for the other stores on that disk, which write what is committed: no new segment is made if less would
    /// remain, and no entries are wanted ([`Log::has_room`]) while less is free. Default 128 MiB.
    pub disk_free_bytes_min: u64,
    /// What is done about an error of a write or fdatasync. It is never retried: after a failed fdatasync nobody knows what
    /// is on disk, and the kernel forgets the failure. Default: log and abort the process.
    pub on_disk_error: fn(&io::Error) -> !,
    /// The disk.
    pub disk: Arc<dyn LogDisk>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            queue_bytes_max: 32 << 20,
            batch_bytes_max: 4 << 20,
            sync_interval: Duration::from_millis(1),
            share_within: Duration::from_millis(25),
            cache_bytes_max: 64 << 20,
            segments_max: None,
            disk_free_bytes_min: 128 << 20,
            on_disk_error: abort,
            disk: Arc::new(SystemDisk),
        }
    }
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions")
            .field("segment_bytes", &self.segment_bytes)
            .finish_non_exhaustive()
    }
}

impl LogOptions {
    fn validate(&self) -> Result<(), LogError> {
        if !(8 << 10..=1 << 30).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(4096)
        {
            return Err(LogError::Options(
                "segment_bytes must be a multiple of 4 KiB between 8 KiB and 1 GiB",
            ));
        }
        if self.segments_max.is_some_and(|most| most < 3) {
            return Err(LogError::Options("segments_max must be at least 3"));
        }
        if self.queue_bytes_max == 0 || self.batch_bytes_max == 0 || self.batch_bytes_max > 1 << 30
        {
            return Err(LogError::Options(
                "queue_bytes_max and batch_bytes_max must be positive, the latter at most 1 GiB",
            ));
        }
        Ok(())
    }

    /// Bytes of a segment that frames can use.
    fn capacity(&self) -> u64 {
        self.segment_bytes - HEADER_BYTES
    }

    /// Longest payload: a quarter of a segment, so that little is wasted where a segment ends.
    fn payload_bytes_max(&self) -> usize {
        usize::try_from(self.capacity() / 4).unwrap_or(usize::MAX) - ENTRY_OVERHEAD
    }

    /// How many groups' heads fit into half a segment, at their longest.
    fn groups_max(&self) -> usize {
        let head = ENTRY_OVERHEAD + 64 + 3 * OPAQUE_BYTES_MAX;
        (usize::try_from(self.capacity() / 2).unwrap_or(usize::MAX) / head).max(2)
    }
}

fn abort(error: &io::Error) -> ! {
    tracing::error!(%error, "the Raft log could not be written: stopping at once, what is on disk is unknown");
    std::process::abort()
}

/// Why the log refused.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process has the folder open.
    #[error("the log folder is in use by another process")]
    Locked,
    /// No room for entries. Votes, commit points, truncations and purges still work; entries do again when the disk or a
    /// purge gives room.
    #[error("the log is full: the disk has no room for another segment")]
    Full,
    /// The entries do not follow the group's last one. Nothing was written.
    #[error("group {group}: entry {found} does not follow, {expected} is expected")]
    NotContiguous {
        /// The group.
        group: GroupId,
        /// The index that had to come.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// A truncation that would take back a purge. Nothing was written.
    #[error("group {group}: entries behind {after} are purged up to before {first}")]
    TruncatesPurged {
        /// The group.
        group: GroupId,
        /// Entries behind this were to go.
        after: u64,
        /// The first entry that is not purged.
        first: u64,
    },
    /// A payload or opaque record longer than the limit. Nothing was written.
    #[error("{bytes} bytes are over the limit of {limit}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// The heads of so many groups would fill a segment.
    #[error("the log's segments are too small for more than {limit} groups")]
    TooManyGroups {
        /// The most that fit.
        limit: usize,
    },
    /// The log is closed, or its writer has died.
    #[error("the log is closed")]
    Closed,
    /// An entry on disk fails its checksum; its group is now quarantined.
    #[error("group {group}: entry {index} is damaged on disk")]
    Corrupt {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
    },
    /// An option makes no sense.
    #[error("{0}")]
    Options(&'static str),
    /// The operating system refused.
    #[error("the log could not {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

impl LogError {
    fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// A group as its submissions left it; what is not written yet is included.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Index of the first entry that is not purged; 0 for a new group.
    pub first_index: u64,
    /// Index and term of the last entry, if there is one.
    pub last: Option<(u64, u64)>,
    /// As last saved.
    pub vote: Option<Bytes>,
    /// As last saved. Gone after damage, since it may lie behind what is left of the log.
    pub committed: Option<Bytes>,
    /// As given with the last purge.
    pub purged: Option<Bytes>,
    /// Acknowledged records of this group may have been lost: no vote, no campaign, until it has caught up with a leader
    /// elected without it. Stays until [`Log::clear_quarantine`].
    pub quarantined: bool,
}

impl fmt::Debug for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "GroupState(first {}, last {:?}, vote {:?}, ",
            self.first_index, self.last, self.vote
        )?;
        write!(
            f,
            "committed {:?}, purged {:?}, quarantined {})",
            self.committed, self.purged, self.quarantined
        )
    }
}

/// Counters since the start, and gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogMetrics {
    /// Writes with their fdatasync.
    pub syncs: u64,
    /// Entries written.
    pub entries: u64,
    /// Entries copied forward so that an old segment could be freed.
    pub entries_copied: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Time spent in write and fdatasync, in microseconds.
    pub sync_micros: u64,
    /// Segments freed.
    pub segments_freed: u64,
    /// Appends refused because the log was full.
    pub refused_full: u64,
    /// Reads that the cache could not answer.
    pub reads_from_disk: u64,
    /// Gauge: segments in use.
    pub segments: usize,
    /// Gauge: spare segments, the reserve included.
    pub spares: usize,
    /// Gauge: bytes of entries that are wanted.
    pub live_bytes: u64,
    /// Gauge: bytes waiting to be written.
    pub queued_bytes: usize,
    /// Gauge: bytes in the cache.
    pub cache_bytes: usize,
    /// Gauge: bytes that are free on the log's file system, as last looked at.
    pub disk_free_bytes: u64,
    /// Gauge: no new segment can be made, or less than the reserve is free; entries are, or soon will be, refused.
    pub full: bool,
}

/// A node's log. Cloning gives another handle; the last one to go closes the log.
///
/// Callbacks run on the writer thread: they must be short and must not call back into the log.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    threads: Arc<threads::Threads>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

/// Whether there is a log in this folder, sound or not.
pub(crate) fn is_in(dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        if entry?
            .path()
            .extension()
            .is_some_and(|extension| extension == "segment")
        {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Log {
    /// Opens the log in `dir`, which is created if it isn't there. A damaged log is rewritten before this returns.
    pub fn open(dir: &Path, options: LogOptions) -> Result<(Self, Recovered), LogError> {
        options.validate()?;
        let (writer, recovered) = recovery::open(dir, options)?;
        let shared = writer.shared();
        let threads = Arc::new(threads::Threads::start(writer, dir)?);
        Ok((Self { shared, threads }, recovered))
    }

    /// Appends entries; they can be read at once. `done` is called when they are on disk, or at once with an error, and
    /// then nothing was appended. Blocks while the queue is full.
    pub fn append(
        &self,
        group: GroupId,
        entries: Vec<LogEntry>,
        done: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        self.shared
            .append(group, entries, Haste::Now, Box::new(done));
    }

    /// As [`append`](Self::append), for entries that nobody waits for: they wait up to [`LogOptions::share_within`] for
    /// something to share its fdatasync with.
    pub fn append_shared(
        &self,
        group: GroupId,
        entries: Vec<LogEntry>,
        done: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        self.shared
            .append(group, entries, Haste::Shares, Box::new(done));
    }

    /// Saves a group's vote. Written in the order of submission with the group's appends.
    pub fn save_vote(
        &self,
        group: GroupId,
        vote: Bytes,
        done: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        self.shared
            .submit(group, OpKind::Vote(vote), Box::new(done));
    }

    /// Saves how far a group has committed. Written together with whatever is written next, or at [`Log::close`]; of several,
    /// only the last. Longer than [`OPAQUE_BYTES_MAX`] is ignored with a warning.
    pub fn save_committed(&self, group: GroupId, committed: Bytes) {
        self.shared.save_committed(group, committed);
    }

    /// Removes entries behind `index`, or all, if none.
    pub fn truncate_after(
        &self,
        group: GroupId,
        index: Option<u64>,
        done: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        self.shared.submit(
            group,
            OpKind::Truncate {
                after: index,
                released: Default::default(),
            },
            Box::new(done),
        );
    }

    /// Removes entries up to `upto`; if that is behind the last entry, the log is empty and goes on at `upto + 1`. `purged` is
    /// handed out by [`Log::state`]. What is purged already stays purged.
    pub fn purge(
        &self,
        group: GroupId,
        upto: u64,
        purged: Bytes,
        done: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        self.shared.submit(
            group,
            OpKind::Purge {
                upto,
                purged,
                released: Default::default(),
            },
            Box::new(done),
        );
    }

    /// Tells that the group has caught up with a leader elected without it.
    pub fn clear_quarantine(
        &self,
        group: GroupId,
        done: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        self.shared
            .submit(group, OpKind::Quarantine(false), Box::new(done));
    }

    /// The group is to give no vote until it has caught up: its data is about to be removed.
    pub fn quarantine(
        &self,
        group: GroupId,
        done: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        self.shared
            .submit(group, OpKind::Quarantine(true), Box::new(done));
    }

    /// Removes everything of a group that left this node. Under the same id, a group may start anew. Of a [quarantined]
    /// group the quarantine and the vote stay: it has forgotten what it held, and must not help to elect a leader that never
    /// had it, nor follow one that others have left behind.
    ///
    /// [quarantined]: Log::quarantine
    pub fn drop_group(
        &self,
        group: GroupId,
        done: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        self.shared.submit(
            group,
            OpKind::Drop {
                released: Default::default(),
            },
            Box::new(done),
        );
    }

    /// The entries of `range` that are in the log, from its beginning and as many as fit into `max_bytes` of payload, at
    /// least one. What is neither purged nor behind the last entry is always there.
    pub fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, LogError> {
        self.shared.read(group, range, max_bytes)
    }

    /// The term of an entry, from memory.
    pub fn term(&self, group: GroupId, index: u64) -> Option<u64> {
        self.shared.lock().groups.get(&group)?.term(index)
    }

    /// A group's state; of a group never heard of, the default (quarantined, if the log lost records of unknown groups).
    pub fn state(&self, group: GroupId) -> GroupState {
        let inner = self.shared.lock();
        match inner.groups.get(&group) {
            Some(index) => index.state(),
            None => GroupState {
                quarantined: inner.suspect_unknown,
                ..GroupState::default()
            },
        }
    }

    /// Bytes that a group's entries take on disk, but for those still being written.
    pub fn stored_bytes(&self, group: GroupId) -> u64 {
        let inner = self.shared.lock();
        inner
            .groups
            .get(&group)
            .map_or(0, |index| index.stored_bytes())
    }

    /// All groups that have something in the log.
    pub fn groups(&self) -> Vec<GroupId> {
        self.shared.lock().groups.keys().copied().collect()
    }

    /// Whether entries of `bytes` payload in all are wanted now. Ask before proposing and before appending what another node
    /// sent: a refused append is an error to Raft. While less than the reserve is free the answer is no, though appends are
    /// still taken: what is under way comes to its end, and the reserve is for applying it.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.shared.has_room(bytes)
    }

    /// Whether less than [`LogOptions::disk_free_bytes_min`] is free: what can wait should not be written.
    pub fn disk_is_low(&self) -> bool {
        self.shared.lock().disk_low
    }

    /// How the log is doing.
    pub fn metrics(&self) -> LogMetrics {
        self.shared.metrics()
    }

    /// Writes what is queued, then stops. Later calls by other handles fail with [`LogError::Closed`].
    pub fn close(self) {
        self.threads.close();
    }
}
