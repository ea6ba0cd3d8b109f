//! The state that submitters, readers, the writer and the keeper share, and the rules of admission.
//!
//! A submission is checked here, applied to the index and queued, under one lock; so order of submission is the order
//! on disk, and an append that is taken has room: it is counted against the active segment and the spares *besides the
//! reserve*, so that votes and truncations always find the reserve. A `std` mutex, as nothing blocks while holding it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
#[cfg(not(feature = "simulation"))]
use std::sync::Condvar;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::frame::{ENTRY_OVERHEAD, FRAME_HEADER_BYTES, Record};
use super::index::{GroupIndex, Location, Released};
use super::segment::{Segment, SegmentDir, Spare};
#[cfg(feature = "simulation")]
use super::threads::Condvar;
use super::{GroupId, LogEntry, LogError, LogMetrics, LogOptions, NODE, OPAQUE_BYTES_MAX};

/// Spares that entries may not use.
pub(super) const RESERVE: usize = 1;
/// Largest read from disk in one call, and largest hole read over to avoid another.
const READ_BYTES_MAX: u64 = 1 << 20;
const READ_HOLE_MAX: u64 = 16 << 10;

pub(super) type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// A submission on its way to the writer.
pub(super) struct Op {
    pub(super) ticket: u64,
    pub(super) group: GroupId,
    /// What it counts in the queue.
    pub(super) bytes: usize,
    pub(super) kind: OpKind,
    pub(super) done: Done,
}

pub(super) enum OpKind {
    Append(Vec<LogEntry>),
    Vote(Bytes),
    Truncate {
        after: Option<u64>,
        released: Released,
    },
    Purge {
        upto: u64,
        purged: Bytes,
        released: Released,
    },
    Quarantine(bool),
    Drop {
        released: Released,
    },
    /// Nothing to write, only its turn to wait for.
    Barrier,
}

impl OpKind {
    fn bytes(&self) -> usize {
        // Each submission may cause a mark of its own.
        let frame = match self {
            Self::Append(entries) => entries
                .iter()
                .map(|entry| entry.payload.len() + ENTRY_OVERHEAD)
                .sum(),
            Self::Vote(bytes) | Self::Purge { purged: bytes, .. } => bytes.len() + ENTRY_OVERHEAD,
            _ => ENTRY_OVERHEAD,
        };
        frame + FRAME_HEADER_BYTES
    }
}

/// How long a submission may wait for others to share its fdatasync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    /// Not at all.
    Now,
    /// For [`LogOptions::share_within`].
    Shares,
}

/// A segment in use, and how much of it is wanted.
pub(super) struct LiveSegment {
    pub(super) segment: Arc<Segment>,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// It repeats the state of all groups, so nothing in front of it is needed but entries.
    pub(super) heads_complete: bool,
}

pub(super) struct Inner {
    pub(super) groups: BTreeMap<GroupId, GroupIndex>,
    pub(super) queue: VecDeque<Op>,
    /// Queued and being written.
    pub(super) queued_bytes: usize,
    /// Since when there is something in the queue, all of which may wait for company.
    pub(super) waits_since: Option<Instant>,
    /// There is something in the queue that may not wait.
    pub(super) hurry: bool,
    pub(super) segments: BTreeMap<u32, LiveSegment>,
    /// Bytes left in the active segment.
    pub(super) active_free: u64,
    pub(super) spares: Vec<Spare>,
    /// How many spares the keeper shall provide, the reserve included.
    pub(super) spares_wanted: usize,
    /// The keeper could not make a segment: no room.
    pub(super) stalled: bool,
    /// Less is free than the other stores need for what is committed.
    pub(super) disk_low: bool,
    /// Freed segments that the keeper shall recycle, oldest first.
    pub(super) retired: VecDeque<Arc<Segment>>,
    /// Records of groups that are not known may have been lost.
    pub(super) suspect_unknown: bool,
    pub(super) tickets: u64,
    pub(super) closing: bool,
    /// The writer has ended.
    pub(super) dead: bool,
    pub(super) metrics: LogMetrics,
}

pub(super) struct Shared {
    pub(super) options: LogOptions,
    pub(super) dir: SegmentDir,
    inner: Mutex<Inner>,
    /// The writer has something to do.
    pub(super) work: Condvar,
    /// The queue got shorter, a spare was made or found impossible, the writer ended.
    pub(super) room: Condvar,
    /// The keeper has something to do.
    pub(super) keep: Condvar,
}

impl Inner {
    pub(super) fn live_bytes(&self) -> u64 {
        self.segments.values().map(|live| live.bytes).sum()
    }

    pub(super) fn release(&mut self, released: &Released) {
        for (segment, (entries, bytes)) in released {
            if let Some(live) = self.segments.get_mut(segment) {
                live.entries = live.entries.saturating_sub(*entries);
                live.bytes = live.bytes.saturating_sub(*bytes);
            }
        }
    }

    pub(super) fn occupy(&mut self, location: Location) {
        if let Some(live) = self.segments.get_mut(&location.segment) {
            live.entries += 1;
            live.bytes += u64::from(location.bytes);
        }
    }

    /// Something was queued; `true`: the writer has to hear of it.
    fn received(&mut self, haste: Haste) -> bool {
        match haste {
            Haste::Now => !std::mem::replace(&mut self.hurry, true),
            Haste::Shares if self.hurry || self.waits_since.is_some() => false,
            Haste::Shares => {
                self.waits_since = Some(Instant::now());
                true
            }
        }
    }

    /// The queue is being written.
    pub(super) fn taken(&mut self) {
        self.hurry = !self.queue.is_empty();
        self.waits_since = None;
    }

    /// How long the queue may still wait; `None`: there is nothing in it.
    pub(super) fn may_wait(&self, options: &LogOptions) -> Option<Duration> {
        if self.queue.is_empty() {
            return None;
        }
        let company = self.queued_bytes >= options.batch_bytes_max;
        let since = self.waits_since.filter(|_| !self.hurry && !self.closing);
        let waited = |since: Instant| match cfg!(feature = "simulation") {
            // Whoever drives the steps of a simulated log has another clock, and waits.
            true => Duration::ZERO,
            false => since.elapsed(),
        };
        let left = since
            .filter(|_| !company)
            .and_then(|since| options.share_within.checked_sub(waited(since)));
        Some(left.unwrap_or_default())
    }

    fn cache_bytes(&self) -> usize {
        self.groups.values().map(GroupIndex::cache_bytes).sum()
    }

    /// Drops cached payloads of the group that has most, until the limit is met or only unwritten ones are left.
    pub(super) fn evict(&mut self, limit: usize) {
        let mut excess = self.cache_bytes().saturating_sub(limit);
        while excess > 0 {
            let Some(largest) = self
                .groups
                .values_mut()
                .max_by_key(|group| group.cache_bytes())
            else {
                return;
            };
            let before = largest.cache_bytes();
            if !largest.evict() {
                return;
            }
            excess = excess.saturating_sub(before - largest.cache_bytes());
        }
    }
}

impl Shared {
    pub(super) fn new(options: LogOptions, dir: SegmentDir, inner: Inner) -> Self {
        let [work, room, keep] = [Condvar::new(), Condvar::new(), Condvar::new()];
        Self {
            options,
            dir,
            inner: Mutex::new(inner),
            work,
            room,
            keep,
        }
    }

    /// A panic while holding the lock can only be a failed assertion in the writer, after which `dead` is set.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for entries, in bytes, and the spares that another `need` bytes would take.
    fn admits(&self, inner: &Inner, need: usize) -> Result<(), usize> {
        let need = (inner.queued_bytes + need) as u64;
        let slack = self.options.capacity() / 16;
        // Without a reserve among the spares, the active segment is the reserve.
        if inner.spares.len() >= RESERVE && need + slack <= inner.active_free {
            return Ok(());
        }
        // Heads and what is wasted where a segment ends take at most half.
        let segments =
            usize::try_from(need.div_ceil(self.options.capacity() / 2)).unwrap_or(usize::MAX);
        let wanted = segments.saturating_add(RESERVE);
        if wanted <= inner.spares.len() {
            Ok(())
        } else {
            Err(wanted)
        }
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let inner = self.lock();
        !inner.closing
            && !inner.dead
            && !inner.disk_low
            && (!inner.stalled || self.admits(&inner, bytes + ENTRY_OVERHEAD).is_ok())
    }

    pub(super) fn append(&self, group: GroupId, entries: Vec<LogEntry>, haste: Haste, done: Done) {
        if entries.is_empty() {
            return self.submit(group, OpKind::Barrier, done);
        }
        let limit = self.options.payload_bytes_max();
        if let Some(large) = entries.iter().find(|entry| entry.payload.len() > limit) {
            return done(Err(LogError::TooLarge {
                bytes: large.payload.len(),
                limit,
            }));
        }
        self.queue(group, OpKind::Append(entries), haste, done);
    }

    pub(super) fn submit(&self, group: GroupId, kind: OpKind, done: Done) {
        self.queue(group, kind, Haste::Now, done);
    }

    fn queue(&self, group: GroupId, mut kind: OpKind, haste: Haste, done: Done) {
        if let Err(error) = check_opaque(&kind) {
            return done(Err(error));
        }
        let bytes = kind.bytes();
        let mut inner = match self.admit(&kind, bytes) {
            Ok(inner) => inner,
            Err(error) => return done(Err(error)),
        };
        if let Err(error) = self.apply(&mut inner, group, &mut kind) {
            drop(inner);
            return done(Err(error));
        }
        inner.tickets += 1;
        let ticket = inner.tickets;
        if let (OpKind::Append(entries), Some(index)) = (&kind, inner.groups.get_mut(&group)) {
            index.append(entries, ticket);
        }
        inner.queued_bytes += bytes;
        inner.queue.push_back(Op {
            ticket,
            group,
            bytes,
            kind,
            done,
        });
        let is_news = inner.received(haste) || inner.queued_bytes >= self.options.batch_bytes_max;
        drop(inner);
        if is_news {
            self.work.notify_one();
        }
    }

    /// Waits until the submission fits into the queue and, if it brings entries, onto the disk.
    fn admit(&self, kind: &OpKind, bytes: usize) -> Result<MutexGuard<'_, Inner>, LogError> {
        let mut inner = self.lock();
        loop {
            if inner.closing || inner.dead {
                return Err(LogError::Closed);
            }
            let queue_full =
                inner.queued_bytes > 0 && inner.queued_bytes + bytes > self.options.queue_bytes_max;
            let mut spares_short = false;
            if matches!(kind, OpKind::Append(_))
                && let Err(wanted) = self.admits(&inner, bytes)
            {
                spares_short = true;
                if inner.spares_wanted < wanted {
                    inner.spares_wanted = wanted;
                    self.keep.notify_one();
                }
                if inner.stalled {
                    inner.metrics.refused_full += 1;
                    return Err(LogError::Full);
                }
            }
            if !queue_full && !spares_short {
                return Ok(inner);
            }
            // Whoever stands here waits for what is queued.
            if !inner.queue.is_empty() && inner.received(Haste::Now) {
                self.work.notify_one();
            }
            inner = self.wait_for_room(inner);
        }
    }

    /// Waits until the queue is shorter, or there is another spare or certainly none.
    #[cfg(not(feature = "simulation"))]
    pub(super) fn wait_for_room<'a>(
        &'a self,
        inner: MutexGuard<'a, Inner>,
    ) -> MutexGuard<'a, Inner> {
        self.room
            .wait(inner)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// There is one thread: it makes the room that it lacks.
    #[cfg(feature = "simulation")]
    pub(super) fn wait_for_room<'a>(
        &'a self,
        inner: MutexGuard<'a, Inner>,
    ) -> MutexGuard<'a, Inner> {
        assert!(
            inner.queued_bytes <= self.options.queue_bytes_max / 2,
            "a simulated log has a queue that holds all that it is given between two steps"
        );
        drop(inner);
        super::keeper::chores(self);
        self.lock()
    }

    /// Checks a submission against the index and changes the index, but for an append's entries, which need the ticket.
    fn apply(&self, inner: &mut Inner, group: GroupId, kind: &mut OpKind) -> Result<(), LogError> {
        let limit = self.options.groups_max();
        let known = inner.groups.contains_key(&group);
        if group == NODE || (!known && inner.groups.len() >= limit) {
            return Err(LogError::TooManyGroups { limit });
        }
        let suspect = inner.suspect_unknown;
        let fresh = || GroupIndex::new(suspect);
        match kind {
            OpKind::Append(entries) => {
                let next = inner.groups.get(&group).map_or(0, GroupIndex::next);
                for (expected, entry) in (next..).zip(entries) {
                    let found = entry.index;
                    if found != expected {
                        return Err(LogError::NotContiguous {
                            group,
                            expected,
                            found,
                        });
                    }
                }
                inner.groups.entry(group).or_insert_with(fresh);
            }
            OpKind::Vote(vote) => {
                inner.groups.entry(group).or_insert_with(fresh).vote = Some(vote.clone())
            }
            OpKind::Truncate { after, released } => match inner.groups.get_mut(&group) {
                Some(index) => match truncate(index, group, *after)? {
                    Some(gone) => *released = gone,
                    None => *kind = OpKind::Barrier,
                },
                None => *kind = OpKind::Barrier,
            },
            OpKind::Purge {
                upto,
                purged,
                released,
            } => {
                let index = inner.groups.entry(group).or_insert_with(fresh);
                if *upto < index.first() {
                    *kind = OpKind::Barrier;
                } else {
                    *released = index.purge(*upto);
                    index.purged = Some(purged.clone());
                }
            }
            OpKind::Quarantine(on) => {
                inner.groups.entry(group).or_insert_with(fresh).quarantined = *on
            }
            OpKind::Drop { released } => match inner.groups.remove(&group) {
                Some(mut index) => {
                    *released = index.truncate(0);
                    if let Some(emptied) = index.emptied() {
                        inner.groups.insert(group, emptied);
                    }
                }
                None => *kind = OpKind::Barrier,
            },
            OpKind::Barrier => {}
        }
        Ok(())
    }

    pub(super) fn save_committed(&self, group: GroupId, committed: Bytes) {
        if committed.len() > OPAQUE_BYTES_MAX {
            tracing::warn!(%group, bytes = committed.len(), "a commit point over the limit was not saved");
            return;
        }
        // A group that has nothing in the log has nothing committed either.
        if let Some(index) = self.lock().groups.get_mut(&group)
            && index.committed.as_ref() != Some(&committed)
        {
            index.committed = Some(committed);
            index.committed_dirty = true;
        }
    }

    pub(super) fn metrics(&self) -> LogMetrics {
        let inner = self.lock();
        LogMetrics {
            segments: inner.segments.len(),
            spares: inner.spares.len(),
            live_bytes: inner.live_bytes(),
            queued_bytes: inner.queued_bytes,
            cache_bytes: inner.cache_bytes(),
            full: inner.stalled || inner.disk_low,
            ..inner.metrics
        }
    }

    pub(super) fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, LogError> {
        let (mut entries, wanted) = self.look_up(group, range, max_bytes);
        if wanted.is_empty() {
            return Ok(entries);
        }
        for run in runs(&wanted) {
            let first = &run[0];
            let end = run.last().map_or(0, |last| {
                u64::from(last.location.offset) + u64::from(last.location.bytes)
            });
            let bytes =
                usize::try_from(end - u64::from(first.location.offset)).unwrap_or(usize::MAX);
            let offset = u64::from(first.location.offset);
            let buffer = first
                .segment
                .read_at(offset, bytes)
                .map_err(LogError::io("read an entry"))?;
            let buffer = Bytes::from(buffer);
            for one in run {
                let at =
                    usize::try_from(u64::from(one.location.offset) - offset).unwrap_or(usize::MAX);
                match entry_in(&buffer, at, one, group) {
                    Some(payload) => entries[one.position].payload = payload,
                    None => return Err(self.corrupt(group, one.index)),
                }
            }
        }
        Ok(entries)
    }

    /// The entries of a read; the payloads that the cache lacks are empty and listed with their places. The listed segments
    /// are not recycled while the list lives.
    fn look_up(
        &self,
        group: GroupId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> (Vec<LogEntry>, Vec<Wanted>) {
        let mut inner = self.lock();
        let (mut entries, mut wanted, mut bytes) = (Vec::new(), Vec::<Wanted>::new(), 0usize);
        let Some(index) = inner.groups.get(&group) else {
            return (entries, wanted);
        };
        for i in range.start.max(index.first())..range.end.min(index.next()) {
            let Some(term) = index.term(i) else { break };
            let cached = index.cached(i);
            let (payload, found) = match (cached, index.location(i)) {
                (Some(payload), _) => (payload, None),
                (None, Some(location)) => (Bytes::new(), Some(location)),
                (None, None) => break,
            };
            bytes += found.map_or(payload.len(), |location| location.bytes as usize);
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            if let Some(location) = found {
                let Some(live) = inner.segments.get(&location.segment) else {
                    break;
                };
                let segment = Arc::clone(&live.segment);
                wanted.push(Wanted {
                    position: entries.len(),
                    index: i,
                    location,
                    segment,
                });
            }
            entries.push(LogEntry {
                index: i,
                term,
                payload,
            });
        }
        inner.metrics.reads_from_disk += u64::from(!wanted.is_empty());
        (entries, wanted)
    }

    /// An entry fails its checksum long after it was written: its group must not vote with what is left.
    pub(super) fn corrupt(&self, group: GroupId, index: u64) -> LogError {
        tracing::error!(%group, index, "a log entry is damaged on disk: the group is quarantined");
        let mut inner = self.lock();
        if let Some(state) = inner.groups.get_mut(&group)
            && !state.quarantined
        {
            state.quarantined = true;
            inner.tickets += 1;
            let (ticket, kind) = (inner.tickets, OpKind::Quarantine(true));
            let bytes = kind.bytes();
            inner.queued_bytes += bytes;
            inner.queue.push_back(Op {
                ticket,
                group,
                bytes,
                kind,
                done: Box::new(|_| ()),
            });
            inner.received(Haste::Now);
            self.work.notify_one();
        }
        LogError::Corrupt { group, index }
    }
}

/// Truncates a group's index; `None`: there was nothing to remove.
fn truncate(
    index: &mut GroupIndex,
    group: GroupId,
    after: Option<u64>,
) -> Result<Option<Released>, LogError> {
    let first = index.first();
    let next = after.map_or(first, |after| after.saturating_add(1));
    match after {
        Some(after) if next < first => Err(LogError::TruncatesPurged {
            group,
            after,
            first,
        }),
        _ if next >= index.next() => Ok(None),
        _ => Ok(Some(index.truncate(next))),
    }
}

fn check_opaque(kind: &OpKind) -> Result<(), LogError> {
    match kind {
        OpKind::Vote(bytes) | OpKind::Purge { purged: bytes, .. }
            if bytes.len() > OPAQUE_BYTES_MAX =>
        {
            Err(LogError::TooLarge {
                bytes: bytes.len(),
                limit: OPAQUE_BYTES_MAX,
            })
        }
        _ => Ok(()),
    }
}

/// An entry to be read from disk.
struct Wanted {
    position: usize,
    index: u64,
    location: Location,
    segment: Arc<Segment>,
}

/// Splits the list into stretches that one read each can get.
fn runs(wanted: &[Wanted]) -> impl Iterator<Item = &[Wanted]> {
    let mut start = 0;
    let mut first = 0u64;
    wanted.chunk_by(move |one, next| {
        if start == 0 {
            first = u64::from(one.location.offset);
            start = 1;
        }
        let end = u64::from(one.location.offset) + u64::from(one.location.bytes);
        let offset = u64::from(next.location.offset);
        let joins = one.location.segment == next.location.segment
            && (end..=end + READ_HOLE_MAX).contains(&offset)
            && offset + u64::from(next.location.bytes) - first <= READ_BYTES_MAX;
        if !joins {
            start = 0;
        }
        joins
    })
}

fn entry_in(buffer: &Bytes, at: usize, wanted: &Wanted, group: GroupId) -> Option<Bytes> {
    let frame = wanted
        .segment
        .header
        .stamp()
        .decode(buffer.get(at..at + wanted.location.bytes as usize)?)?;
    match frame.record {
        Record::Entry { index, payload, .. } | Record::Copy { index, payload, .. }
            if index == wanted.index && frame.meta.group == group =>
        {
            // A copy, so that a small entry does not keep the whole read alive.
            Some(Bytes::copy_from_slice(payload))
        }
        _ => None,
    }
}

/// Reads one entry's payload for copying forward.
pub(super) fn read_entry(
    segment: &Arc<Segment>,
    group: GroupId,
    index: u64,
    location: Location,
) -> std::io::Result<Option<Bytes>> {
    let buffer = Bytes::from(segment.read_at(u64::from(location.offset), location.bytes as usize)?);
    Ok(entry_in(
        &buffer,
        0,
        &Wanted {
            position: 0,
            index,
            location,
            segment: Arc::clone(segment),
        },
        group,
    ))
}
