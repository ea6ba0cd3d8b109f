//! The writer thread: everything that is queued becomes one write and one fdatasync, then the callbacks run.
//!
//! It also turns to the next segment when one is full, repeating the state of all groups at its head, and copies entries
//! of lagging groups forward so that old segments can be freed: little by little, in the same writes.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::frame::{GroupHead, Meta, NODE, Record};
use super::index::{Location, Released};
use super::queue::{Done, Inner, LiveSegment, Op, OpKind, Shared, read_entry};
use super::segment::{HEADER_BYTES, Segment};
#[cfg(not(feature = "simulation"))]
use super::threads::EndOfWriter;
use super::{GroupId, LogEntry, LogError};

/// Kept free at a segment's end: a mark and a seal.
const TAIL_BYTES: u64 = 96;
/// Entries copied forward with one write, in bytes, at most this and an eighth of a segment.
const COPY_BYTES_MAX: u64 = 1 << 20;

/// A group as the frames written so far describe it.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// Sequence of its next frame.
    pub(super) sequence: u64,
    pub(super) first: u64,
    pub(super) next: u64,
    pub(super) quarantined: bool,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<Bytes>,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            sequence: 1,
            first: 0,
            next: 0,
            quarantined: false,
            vote: None,
            committed: None,
            purged: None,
        }
    }
}

/// Frames of the write being prepared, and what follows from its success.
#[derive(Default)]
struct Batch {
    frames: Vec<u8>,
    /// Everything before this frame is on disk; a mark right before the write is not.
    synced_before: u64,
    placed: Vec<(GroupId, u64, u64, Location)>,
    moved: Vec<(GroupId, u64, Location, Location)>,
    released: Vec<Released>,
    done: Vec<Done>,
    queued_bytes: usize,
    /// It holds the heads of the active segment.
    heads: bool,
}

/// What the writer does next.
#[derive(Default)]
struct Work {
    ops: Vec<Op>,
    committed: Vec<(GroupId, Bytes)>,
    copies: Vec<(GroupId, u64, u64, Location, Arc<Segment>)>,
    ended: bool,
}

/// Where a recovered log goes on.
pub(super) struct Position {
    pub(super) active: Arc<Segment>,
    pub(super) offset: u64,
    pub(super) number: u64,
    pub(super) node_sequence: u64,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    at: Position,
    pub(super) groups: BTreeMap<GroupId, Written>,
    /// Number of the first frame that is not known to be on disk: the last mark, or what comes next.
    unsynced: u64,
    /// Nonzero while a damaged log is rewritten.
    rewrite: u32,
    batch: Batch,
    /// Entries of the oldest segment still to be copied.
    copying: VecDeque<(GroupId, u64, Location)>,
    /// A segment with a damaged entry is not copied again.
    uncopyable: Option<u32>,
    /// When the last fdatasync began.
    synced_at: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        at: Position,
        groups: BTreeMap<GroupId, Written>,
    ) -> Self {
        let (batch, copying) = (Batch::default(), VecDeque::new());
        let unsynced = at.number;
        Self {
            shared,
            at,
            groups,
            unsynced,
            rewrite: 0,
            batch,
            copying,
            uncopyable: None,
            synced_at: None,
        }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Runs until the log is closed.
    #[cfg(not(feature = "simulation"))]
    pub(super) fn run(mut self) {
        let _end = EndOfWriter::new(self.shared());
        while self.turn() {}
    }

    /// Waits for something to do and writes it; `false`: the log is closed.
    pub(super) fn turn(&mut self) -> bool {
        let work = self.next_work();
        if work.ended {
            return false;
        }
        for op in work.ops {
            self.write_op(op);
        }
        for (group, committed) in work.committed {
            if self.push(group, &Record::Committed(&committed)).is_ok() {
                self.groups.entry(group).or_default().committed = Some(committed);
            }
        }
        for (group, index, term, from, segment) in work.copies {
            self.copy(group, index, term, from, &segment);
        }
        self.flush();
        true
    }

    /// Whether there is something to do.
    #[cfg(feature = "simulation")]
    pub(super) fn has_work(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let inner = shared.lock();
        if self.copying.is_empty() {
            self.plan_copies(&inner);
        }
        !inner.queue.is_empty() || !self.copying.is_empty()
    }

    /// Waits for something to do.
    fn next_work(&mut self) -> Work {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        loop {
            if self.copying.is_empty() {
                self.plan_copies(&inner);
            }
            let committed =
                inner.closing && inner.groups.values().any(|group| group.committed_dirty);
            let may_wait = inner.may_wait(&shared.options);
            // Driven step by step, it was waited for.
            let is_due =
                may_wait.is_some_and(|wait| wait.is_zero() || cfg!(feature = "simulation"));
            if is_due || committed || !self.copying.is_empty() {
                break;
            }
            if inner.closing {
                return Work {
                    ended: true,
                    ..Work::default()
                };
            }
            inner = match may_wait {
                None => shared
                    .work
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    let woken = shared.work.wait_timeout(inner, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        if let Some(pause) = self.pause(&inner) {
            // Not woken by what comes: that is what the pause is for.
            drop(inner);
            thread::sleep(pause);
            inner = shared.lock();
        }
        let mut work = Work::default();
        let mut bytes = 0;
        while bytes < shared.options.batch_bytes_max
            && let Some(op) = inner.queue.pop_front()
        {
            bytes += op.bytes;
            work.ops.push(op);
        }
        inner.taken();
        // A commit point may name an entry that is still queued, and must not be on disk before it.
        if inner.queue.is_empty() {
            for (group, index) in inner
                .groups
                .iter_mut()
                .filter(|(_, index)| index.committed_dirty)
            {
                index.committed_dirty = false;
                work.committed
                    .extend(index.committed.clone().map(|committed| (*group, committed)));
            }
        }
        self.next_copies(&inner, &mut work);
        work
    }

    /// How long to wait so that more submissions share the next fdatasync.
    fn pause(&self, inner: &Inner) -> Option<Duration> {
        if inner.closing || inner.queued_bytes >= self.shared.options.batch_bytes_max {
            return None;
        }
        let since = self.synced_at?.elapsed();
        let left = self.shared.options.sync_interval.checked_sub(since)?;
        (!left.is_zero()).then_some(left)
    }

    /// Decides whether the oldest segment's entries are to be copied forward, and lists them.
    fn plan_copies(&mut self, inner: &Inner) {
        let capacity = self.shared.options.capacity();
        let Some((&oldest, live)) = inner.segments.first_key_value() else {
            return;
        };
        if oldest == self.at.active.id()
            || self.uncopyable == Some(oldest)
            || inner.closing
            || live.entries == 0
        {
            return;
        }
        // More than half of what is in use is garbage; so each byte is copied about once on average.
        let used = inner.segments.len() as u64 * capacity;
        let wasteful = used > 2 * inner.live_bytes() + 3 * capacity;
        let pressed = inner.stalled
            && live.bytes <= capacity / 2
            && live.bytes + capacity / 16 <= inner.active_free;
        if wasteful || pressed {
            let groups = inner.groups.iter();
            self.copying = groups
                .flat_map(|(group, index)| {
                    index
                        .stored_in(|id| id == oldest)
                        .map(|(i, location)| (*group, i, location))
                })
                .collect();
        }
    }

    /// The next entries to copy. Checked under the lock that the queue was drained under, so that no record that was
    /// submitted before can remove them behind the copy's back.
    fn next_copies(&mut self, inner: &Inner, work: &mut Work) {
        let limit = COPY_BYTES_MAX.min(self.shared.options.capacity() / 8);
        let mut bytes = 0;
        while bytes < limit
            && let Some((group, i, from)) = self.copying.pop_front()
        {
            let Some(index) = inner
                .groups
                .get(&group)
                .filter(|index| index.location(i) == Some(from))
            else {
                continue;
            };
            let (Some(term), Some(live)) = (index.term(i), inner.segments.get(&from.segment))
            else {
                continue;
            };
            bytes += u64::from(from.bytes);
            work.copies
                .push((group, i, term, from, Arc::clone(&live.segment)));
        }
    }

    fn copy(
        &mut self,
        group: GroupId,
        index: u64,
        term: u64,
        from: Location,
        segment: &Arc<Segment>,
    ) {
        let payload = match read_entry(segment, group, index, from) {
            Ok(Some(payload)) => payload,
            Ok(None) => {
                self.uncopyable = Some(from.segment);
                self.copying.clear();
                let error = self.shared.corrupt(group, index);
                tracing::error!(%error, "a log segment stays until its group is purged");
                return;
            }
            Err(error) => (self.shared.options.on_disk_error)(&error),
        };
        // Without room it is tried again when there is some.
        if let Ok(to) = self.push(
            group,
            &Record::Copy {
                index,
                term,
                payload: &payload,
            },
        ) {
            self.batch.moved.push((group, index, from, to));
        }
    }

    fn write_op(&mut self, op: Op) {
        let Op {
            ticket,
            group,
            bytes,
            kind,
            done,
        } = op;
        self.batch.queued_bytes += bytes;
        let written = match kind {
            OpKind::Append(entries) => self.write_entries(group, ticket, &entries),
            OpKind::Vote(vote) => self.push(group, &Record::Vote(&vote)).map(|_| {
                self.groups.entry(group).or_default().vote = Some(vote);
            }),
            OpKind::Truncate { after, released } => {
                self.push(group, &Record::Truncate { after }).map(|_| {
                    let written = self.groups.entry(group).or_default();
                    let next = after.map_or(written.first, |after| after + 1);
                    written.next = written.next.min(next);
                    self.batch.released.push(released);
                })
            }
            OpKind::Purge {
                upto,
                purged,
                released,
            } => self
                .push(
                    group,
                    &Record::Purge {
                        upto,
                        purged: &purged,
                    },
                )
                .map(|_| {
                    let written = self.groups.entry(group).or_default();
                    written.first = upto.saturating_add(1);
                    written.next = written.next.max(written.first);
                    written.purged = Some(purged);
                    self.batch.released.push(released);
                }),
            OpKind::Quarantine(on) => self.push(group, &Record::Quarantine { on }).map(|_| {
                self.groups.entry(group).or_default().quarantined = on;
            }),
            OpKind::Drop { released } => self.push(group, &Record::DropGroup).map(|_| {
                let dropped = self.groups.remove(&group).unwrap_or_default();
                if dropped.quarantined {
                    let emptied = Written {
                        sequence: dropped.sequence,
                        quarantined: true,
                        vote: dropped.vote,
                        ..Written::default()
                    };
                    self.groups.insert(group, emptied);
                }
                self.batch.released.push(released);
            }),
            OpKind::Barrier => Ok(()),
        };
        match written {
            Ok(()) => self.batch.done.push(done),
            Err(error) => done(Err(error)),
        }
    }

    fn write_entries(
        &mut self,
        group: GroupId,
        ticket: u64,
        entries: &[LogEntry],
    ) -> Result<(), LogError> {
        for LogEntry {
            index,
            term,
            payload,
        } in entries
        {
            // The index was checked at submission; it differs only if an append before this one found no room after all.
            let expected = self.groups.get(&group).map_or(0, |written| written.next);
            let pushed = if expected == *index {
                self.push(
                    group,
                    &Record::Entry {
                        index: *index,
                        term: *term,
                        payload,
                    },
                )
            } else {
                Err(LogError::NotContiguous {
                    group,
                    expected,
                    found: *index,
                })
            };
            match pushed {
                Ok(location) => {
                    self.groups.entry(group).or_default().next = index + 1;
                    self.batch.placed.push((group, *index, ticket, location));
                }
                Err(error) => {
                    let mut inner = self.shared.lock();
                    if let Some(state) = inner
                        .groups
                        .get_mut(&group)
                        .filter(|state| state.is_pending(*index, ticket))
                    {
                        state.truncate(*index);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Adds a frame to the write being prepared; writes that out first where the frame no longer fits.
    fn push(&mut self, group: GroupId, record: &Record<'_>) -> Result<Location, LogError> {
        let end = self.at.offset + (self.batch.frames.len() + record.bytes()) as u64;
        if end + TAIL_BYTES > self.at.active.header.bytes {
            self.flush();
            self.rotate()?;
        } else if self.batch.frames.len() >= self.shared.options.batch_bytes_max {
            self.flush();
        }
        Ok(self.put(group, record))
    }

    fn put(&mut self, group: GroupId, record: &Record<'_>) -> Location {
        if self.batch.frames.is_empty() {
            self.batch.synced_before = self.unsynced;
        }
        let sequence = self.next_sequence(group);
        let meta = Meta {
            number: self.at.number,
            synced_before: self.batch.synced_before,
            group,
            sequence,
        };
        self.at.number += 1;
        let offset = self.at.offset + self.batch.frames.len() as u64;
        let bytes = self
            .at
            .active
            .header
            .stamp()
            .encode(&mut self.batch.frames, meta, record);
        let [offset, bytes] = [offset, bytes as u64]
            .map(|value| u32::try_from(value).expect("segments are at most 1 GiB"));
        Location {
            segment: self.at.active.id(),
            offset,
            bytes,
        }
    }

    fn next_sequence(&mut self, group: GroupId) -> u64 {
        let next = if group == NODE {
            &mut self.at.node_sequence
        } else {
            &mut self.groups.entry(group).or_default().sequence
        };
        *next += 1;
        *next - 1
    }

    /// Writes what is prepared, waits until it is on disk, and tells everybody.
    pub(super) fn flush(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        let started = Instant::now();
        if !batch.frames.is_empty() {
            self.synced_at = Some(started);
            #[cfg(feature = "bug-ack-before-fsync")]
            self.ack_before_fsync(&mut batch);
            let written = self
                .write_and_sync(&batch.frames)
                .and_then(|()| self.write_mark(batch.frames.len()));
            if let Err(error) = written {
                (self.shared.options.on_disk_error)(&error);
            }
        }
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.complete(&batch, micros);
        for done in batch.done.drain(..) {
            done(Ok(()));
        }
        batch.frames.clear();
        self.batch.frames = batch.frames;
    }

    /// [`planted::Bug::AckBeforeFsync`].
    #[cfg(feature = "bug-ack-before-fsync")]
    fn ack_before_fsync(&self, batch: &mut Batch) {
        let disk = &self.shared.dir.disk;
        if planted::acts(planted::Bug::AckBeforeFsync)
            && disk
                .write_at(&self.at.active.file, &batch.frames, self.at.offset)
                .is_ok()
        {
            batch.done.drain(..).for_each(|done| done(Ok(())));
        }
    }

    fn write_and_sync(&self, frames: &[u8]) -> io::Result<()> {
        self.shared
            .dir
            .disk
            .write_at(&self.at.active.file, frames, self.at.offset)?;
        self.shared.dir.disk.sync(&self.at.active.file)
    }

    /// Leaves evidence that the fdatasync ended: a later start can tell a bad frame in front of it from a torn write. Not
    /// synced itself; without it, the next write says the same.
    fn write_mark(&mut self, written: usize) -> io::Result<()> {
        self.at.offset += written as u64;
        self.unsynced = self.at.number;
        let mut mark = Vec::new();
        self.encode_alone(&mut mark, &Record::Mark);
        self.shared
            .dir
            .disk
            .write_at(&self.at.active.file, &mark, self.at.offset)?;
        self.at.offset += mark.len() as u64;
        Ok(())
    }

    fn encode_alone(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        let (number, sequence) = (self.at.number, self.next_sequence(NODE));
        self.at.number += 1;
        let meta = Meta {
            number,
            synced_before: number,
            group: NODE,
            sequence,
        };
        self.at.active.header.stamp().encode(out, meta, record);
    }

    fn complete(&mut self, batch: &Batch, micros: u64) {
        let active = self.at.active.id();
        let mut guard = self.shared.lock();
        let inner = &mut *guard;
        for (group, index, ticket, location) in &batch.placed {
            if inner
                .groups
                .get_mut(group)
                .is_some_and(|state| state.place(*index, *ticket, *location))
            {
                inner.occupy(*location);
            }
        }
        for (group, index, from, to) in &batch.moved {
            if inner
                .groups
                .get_mut(group)
                .is_some_and(|state| state.relocate(*index, *from, *to))
            {
                inner.occupy(*to);
                inner.release(&Released::from([(
                    from.segment,
                    (1, u64::from(from.bytes)),
                )]));
            }
        }
        for released in &batch.released {
            inner.release(released);
        }
        if let Some(live) = inner.segments.get_mut(&active) {
            live.heads_complete |= batch.heads;
        }
        inner.queued_bytes -= batch.queued_bytes;
        inner.active_free =
            (self.at.active.header.bytes - TAIL_BYTES).saturating_sub(self.at.offset);
        inner.metrics.syncs += u64::from(!batch.frames.is_empty());
        inner.metrics.entries += batch.placed.len() as u64;
        inner.metrics.entries_copied += batch.moved.len() as u64;
        inner.metrics.bytes += batch.frames.len() as u64;
        inner.metrics.sync_micros += micros;
        inner.evict(self.shared.options.cache_bytes_max);
        if self.rewrite == 0 && retire(inner) {
            self.shared.keep.notify_one();
        }
        self.shared.room.notify_all();
    }

    /// Turns to the next segment. The write being prepared must be empty; afterwards it holds the heads.
    pub(super) fn rotate(&mut self) -> Result<(), LogError> {
        let spare = self.shared.take_spare()?;
        let id = self.at.active.id() + 1;
        // The seal, which is written into the old segment, has the number in between.
        let activated = self
            .shared
            .dir
            .activate(spare, id, self.at.number + 1, self.rewrite);
        let mut seal = Vec::new();
        self.encode_alone(&mut seal, &Record::Seal { next: id });
        match activated.and_then(|next| self.write_and_sync(&seal).map(|()| next)) {
            Ok(next) => self.enter(Arc::new(next)),
            Err(error) => (self.shared.options.on_disk_error)(&error),
        }
        Ok(())
    }

    /// Makes `segment` the active one and prepares its heads.
    fn enter(&mut self, segment: Arc<Segment>) {
        self.unsynced = self.at.number;
        self.at.active = segment;
        self.at.offset = HEADER_BYTES;
        let suspect_unknown = {
            let mut inner = self.shared.lock();
            let live = LiveSegment {
                segment: Arc::clone(&self.at.active),
                entries: 0,
                bytes: 0,
                heads_complete: false,
            };
            inner.segments.insert(self.at.active.id(), live);
            inner.suspect_unknown
        };
        let groups: Vec<_> = self
            .groups
            .iter()
            .map(|(group, written)| (*group, written.clone()))
            .collect();
        let count = u32::try_from(groups.len()).expect("groups have u32 ids");
        self.put(
            NODE,
            &Record::NodeHead {
                groups: count,
                suspect_unknown,
            },
        );
        for (group, written) in groups {
            let head = GroupHead {
                first: written.first,
                next: written.next,
                quarantined: written.quarantined,
                vote: written.vote.as_deref(),
                committed: written.committed.as_deref(),
                purged: written.purged.as_deref(),
            };
            self.put(group, &Record::GroupHead(head));
        }
        self.batch.heads = true;
    }

    /// Writes the first segment's heads.
    pub(super) fn begin(&mut self, segment: Arc<Segment>) {
        self.enter(segment);
        self.flush();
    }

    /// Writes the first segment of a log of which nothing could be saved.
    pub(super) fn begin_rewritten(&mut self, segment: Arc<Segment>) -> Result<(), LogError> {
        self.enter(segment);
        self.push(NODE, &Record::RewriteEnd)?;
        self.flush();
        Ok(())
    }

    /// Writes the whole log anew, behind all segments there are. Whether it is complete is on disk before this returns.
    pub(super) fn rewrite(&mut self, last_id: u32) -> Result<(), LogError> {
        let id = last_id + 1;
        self.rewrite = id;
        let spare = self.shared.take_spare()?;
        let first = self.shared.dir.activate(spare, id, self.at.number, id);
        let old: Vec<_> = {
            let inner = self.shared.lock();
            let stored = inner.groups.iter().map(|(group, index)| {
                let stored = index.stored_in(|segment| segment < id);
                stored
                    .map(|(i, from)| (*group, i, index.term(i).unwrap_or(0), from))
                    .collect::<Vec<_>>()
            });
            stored.flatten().collect()
        };
        self.enter(Arc::new(
            first.map_err(LogError::io("begin to rewrite a damaged log"))?,
        ));
        for (group, index, term, from) in old {
            let segment = self
                .shared
                .lock()
                .segments
                .get(&from.segment)
                .map(|live| Arc::clone(&live.segment));
            let segment = segment.ok_or(LogError::Corrupt { group, index })?;
            let payload =
                read_entry(&segment, group, index, from).map_err(LogError::io("read an entry"))?;
            let payload = payload.ok_or(LogError::Corrupt { group, index })?;
            let to = self.push(
                group,
                &Record::Copy {
                    index,
                    term,
                    payload: &payload,
                },
            )?;
            self.batch.moved.push((group, index, from, to));
        }
        self.push(NODE, &Record::RewriteEnd)?;
        self.flush();
        self.rewrite = 0;
        Ok(())
    }

    /// Writes `frames`, found behind the last proven fdatasync, once more, and leaves a mark. What a failed fdatasync left
    /// in the page cache would otherwise count as stored.
    pub(super) fn prove(
        &mut self,
        segment: &Segment,
        offset: u64,
        frames: &[u8],
    ) -> io::Result<()> {
        self.shared
            .dir
            .disk
            .write_at(&segment.file, frames, offset)?;
        self.shared.dir.disk.sync(&segment.file)?;
        if segment.id() == self.at.active.id()
            && self.at.offset + TAIL_BYTES <= segment.header.bytes
        {
            self.write_mark(0)?;
        }
        Ok(())
    }
}

/// Hands segments that nobody needs to the keeper: the oldest ones without wanted entries, up to one whose heads repeat all
/// that they said besides.
fn retire(inner: &mut Inner) -> bool {
    let mut free = 0;
    for (position, live) in inner.segments.values().enumerate() {
        if live.heads_complete {
            free = position;
        }
        if live.entries > 0 {
            break;
        }
    }
    for _ in 0..free {
        if let Some((_, live)) = inner.segments.pop_first() {
            inner.retired.push_back(live.segment);
            inner.metrics.segments_freed += 1;
        }
    }
    free > 0
}

impl Shared {
    /// Takes a spare, the reserve if it must be.
    fn take_spare(&self) -> Result<super::segment::Spare, LogError> {
        let mut inner = self.lock();
        loop {
            if let Some(spare) = inner.spares.pop() {
                self.keep.notify_one();
                return Ok(spare);
            }
            if inner.stalled {
                return Err(LogError::Full);
            }
            self.keep.notify_one();
            inner = self.wait_for_room(inner);
        }
    }
}
