//! The start: from the files of the folder to a writer that goes on where the log ends.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use super::frame::Record;
use super::queue::{Inner, LiveSegment, RESERVE, Shared};
use super::replay::{Damage, Replay, ReplayedSegment, is_fragment, scan, synced};
use super::segment::{Found, HEADER_BYTES, Segment, SegmentDir, Spare};
use super::writer::{Position, Writer, Written};
use super::{GroupId, LogError, LogMetrics, LogOptions, keeper};

/// What a start found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// There was no log.
    pub fresh: bool,
    /// The groups in the log.
    pub groups: Vec<GroupId>,
    /// Those of them that are quarantined, since this start or an earlier one.
    pub quarantined: Vec<GroupId>,
    /// What was lost. The log has been rewritten without it, so the next start won't report it again.
    pub damage: Vec<Damage>,
    /// Records of groups that are not in the log may be lost: a group that is new to it is quarantined.
    pub suspect_unknown: bool,
    /// Valid frames behind a torn one that were dropped; they had been acknowledged to nobody.
    pub frames_dropped: u64,
}

/// Opens the folder and recovers what is in it.
pub(super) fn open(path: &Path, options: LogOptions) -> Result<(Writer, Recovered), LogError> {
    let dir = SegmentDir::open(path, options.segment_bytes, Arc::clone(&options.disk));
    let dir = dir
        .map_err(LogError::io("open its folder"))?
        .ok_or(LogError::Locked)?;
    let (found, mut spares) = dir.scan().map_err(LogError::io("list its folder"))?;
    let fresh = found.is_empty();
    let mut found = settle_rewrite(&dir, found, &mut spares)?;
    let mut replay = replay(&mut found)?;
    let damaged = replay.is_damaged() && !fresh;
    if !damaged {
        drop_unused_tail(&dir, &replay, &mut found, &mut spares)?;
    }
    let recovered = summary(&replay, fresh);
    let last_id = found.last().map_or(0, Found::id);
    let mut headless = Vec::new();
    let mut segments = Vec::new();
    for one in found {
        match one {
            Found::Segment(segment) => segments.push(Arc::new(segment)),
            Found::Headless { path, .. } => headless.push(path),
        }
    }
    let ends = std::mem::take(&mut replay.segments);
    let end = (replay.number, replay.node_sequence());
    let unproven = replay.unproven.clone();
    let (inner, written) = assemble(replay, &segments, &ends, spares);
    let shared = Arc::new(Shared::new(options, dir, inner));
    let mut writer = if fresh {
        begin(&shared)?
    } else if damaged {
        report(&recovered);
        rewrite(&shared, &segments, written, end, last_id)?
    } else {
        go_on(
            &shared,
            &segments,
            &ends,
            written,
            end,
            unproven,
            recovered.frames_dropped > 0,
        )?
    };
    for path in headless {
        shared
            .dir
            .remove_headless(&path)
            .map_err(LogError::io("remove a damaged segment"))?;
    }
    while shared.lock().spares.len() < RESERVE {
        // Without, the keeper will try again, and entries are refused meanwhile.
        let Ok(spare) = keeper::make(&shared) else {
            break;
        };
        shared.lock().spares.push(spare);
    }
    shared.lock().stalled = false;
    writer.flush();
    Ok((writer, recovered))
}

pub(super) fn summary(replay: &Replay, fresh: bool) -> Recovered {
    Recovered {
        fresh,
        groups: replay.groups.keys().copied().collect(),
        quarantined: replay
            .groups
            .iter()
            .filter(|(_, group)| group.index.quarantined)
            .map(|(id, _)| *id)
            .collect(),
        damage: replay.damage.clone(),
        suspect_unknown: replay.suspect_unknown,
        frames_dropped: replay.dropped,
    }
}

fn report(recovered: &Recovered) {
    for damage in &recovered.damage {
        let Damage {
            segment,
            offset,
            frames,
        } = damage;
        tracing::error!(
            segment,
            offset,
            frames,
            "the Raft log is damaged: acknowledged records are lost on this node"
        );
    }
    tracing::error!(groups = ?recovered.quarantined, "these groups are quarantined until they have caught up");
}

/// Whether a crash interrupted the rewriting of a damaged log.
pub(super) enum Rewrite {
    /// It did not.
    None(Vec<Found>),
    /// It did: what counts, and what is void, in the order in which it is to go.
    Interrupted { keep: Vec<Found>, void: Vec<Found> },
}

/// Looks at which of the segments count.
pub(super) fn rewriting(found: Vec<Found>) -> Result<Rewrite, LogError> {
    let rewrites = found.iter().map(|one| match one {
        Found::Segment(segment) => segment.header.rewrite,
        Found::Headless { .. } => 0,
    });
    let begin = rewrites.max().unwrap_or(0);
    let (old, new): (Vec<_>, Vec<_>) = found.into_iter().partition(|one| one.id() < begin);
    if old.is_empty() {
        return Ok(Rewrite::None(new));
    }
    let mut complete = false;
    for one in &new {
        let Found::Segment(segment) = one else {
            continue;
        };
        let bytes = segment.read_all().map_err(LogError::io("read a segment"))?;
        // Besides its end, anything that is not written during a rewriting shows that it ended.
        complete |= scan(&bytes, segment.header.stamp()).any(|(_, frame)| {
            use Record::{Copy, GroupHead, Mark, NodeHead, Seal};
            !matches!(
                frame.record,
                Copy { .. } | GroupHead(_) | Mark | NodeHead { .. } | Seal { .. }
            )
        });
    }
    // Newest first when taking back, so that the rewriting never looks like the whole log.
    let (keep, void) = match complete {
        true => (new, old),
        false => (old, new.into_iter().rev().collect()),
    };
    Ok(Rewrite::Interrupted { keep, void })
}

/// Finishes or takes back the rewriting of a damaged log that a crash interrupted.
fn settle_rewrite(
    dir: &SegmentDir,
    found: Vec<Found>,
    spares: &mut Vec<Spare>,
) -> Result<Vec<Found>, LogError> {
    let (keep, void) = match rewriting(found)? {
        Rewrite::None(found) => return Ok(found),
        Rewrite::Interrupted { keep, void } => (keep, void),
    };
    for one in void {
        match one {
            Found::Segment(segment) => {
                spares.extend(
                    dir.recycle(segment)
                        .map_err(LogError::io("recycle a segment"))?,
                );
            }
            Found::Headless { path, .. } => dir
                .remove_headless(&path)
                .map_err(LogError::io("remove a segment"))?,
        }
    }
    Ok(keep)
}

/// Replays all segments. Fragments at the front are taken out of `found`'s replay, but stay in it to be freed.
pub(super) fn replay(found: &mut [Found]) -> Result<Replay, LogError> {
    let read = |segment: &Segment| segment.read_all().map_err(LogError::io("read a segment"));
    let mut proven = 0;
    for one in found.iter().rev() {
        let Found::Segment(segment) = one else {
            continue;
        };
        if let Some(synced) = synced(&read(segment)?, segment.header.stamp()) {
            proven = synced;
            break;
        }
    }
    let mut replay: Option<Replay> = None;
    let mut front_unreadable = None;
    for (position, one) in found.iter().enumerate() {
        match one {
            Found::Headless { id, .. } => match &mut replay {
                Some(replay) => replay.unreadable(*id, 0),
                None => front_unreadable = Some(*id),
            },
            Found::Segment(segment) => {
                let bytes = read(segment)?;
                let stamp = segment.header.stamp();
                if replay.is_none() && position + 1 < found.len() && is_fragment(&bytes, stamp) {
                    continue;
                }
                let replay =
                    replay.get_or_insert_with(|| Replay::new(segment.header.first_number, proven));
                if let Some(id) = front_unreadable.take() {
                    replay.unreadable(id, 0);
                }
                replay.segment(segment.id(), &bytes, stamp, segment.header.bytes);
            }
        }
    }
    let mut replay = replay.unwrap_or_else(|| Replay::new(0, 0));
    if let Some(id) = front_unreadable {
        replay.unreadable(id, 0);
    }
    let nothing = replay
        .segments
        .values()
        .all(|segment| segment.accepted == 0);
    if nothing && found.last().is_some_and(|last| last.id() > 1) {
        // A segment gets its heads before the one in front of it is freed.
        replay.unreadable(found.last().map_or(0, Found::id), HEADER_BYTES);
    }
    replay.finish();
    Ok(replay)
}

/// Takes away a last segment that was made ready and not used: its predecessor has no seal and goes on.
fn drop_unused_tail(
    dir: &SegmentDir,
    replay: &Replay,
    found: &mut Vec<Found>,
    spares: &mut Vec<Spare>,
) -> Result<(), LogError> {
    while found.len() > 1
        && let [.., before, last] = &found[..]
        && replay
            .segments
            .get(&last.id())
            .is_some_and(|last| last.accepted == 0)
        && replay
            .segments
            .get(&before.id())
            .is_some_and(|before| before.sealed_for.is_none())
        && let Some(Found::Segment(segment)) = found.pop()
    {
        spares.extend(
            dir.recycle(segment)
                .map_err(LogError::io("recycle a segment"))?,
        );
    }
    Ok(())
}

/// The shared state and the writer's view of what was replayed.
fn assemble(
    replay: Replay,
    segments: &[Arc<Segment>],
    ends: &BTreeMap<u32, ReplayedSegment>,
    spares: Vec<Spare>,
) -> (Inner, BTreeMap<GroupId, Written>) {
    let live = segments.iter().map(|segment| {
        let heads_complete = ends
            .get(&segment.id())
            .is_some_and(|end| end.heads_complete);
        (
            segment.id(),
            LiveSegment {
                segment: Arc::clone(segment),
                entries: 0,
                bytes: 0,
                heads_complete,
            },
        )
    });
    let mut inner = Inner {
        groups: BTreeMap::new(),
        queue: VecDeque::new(),
        queued_bytes: 0,
        waits_since: None,
        hurry: false,
        segments: live.collect(),
        active_free: 0,
        spares,
        spares_wanted: keeper::SPARES_KEPT,
        // Nobody makes spares yet, so nobody may wait for one.
        stalled: true,
        disk_low: false,
        retired: VecDeque::new(),
        suspect_unknown: replay.suspect_unknown,
        tickets: 0,
        closing: false,
        dead: false,
        metrics: LogMetrics::default(),
    };
    let mut written = BTreeMap::new();
    for (id, group) in replay.groups {
        let index = group.index;
        for (_, location) in index.stored_in(|_| true) {
            inner.occupy(location);
        }
        let one = Written {
            sequence: group.sequence,
            first: index.first(),
            next: index.next(),
            quarantined: index.quarantined,
            vote: index.vote.clone(),
            committed: index.committed.clone(),
            purged: index.purged.clone(),
        };
        written.insert(id, one);
        inner.groups.insert(id, index);
    }
    (inner, written)
}

/// A new log.
fn begin(shared: &Arc<Shared>) -> Result<Writer, LogError> {
    let spare = shared.lock().spares.pop();
    let spare = match spare {
        Some(spare) => spare,
        None => keeper::make(shared).map_err(LogError::io("make its first segment"))?,
    };
    let segment = shared
        .dir
        .activate(spare, 1, 0, 0)
        .map_err(LogError::io("begin its first segment"))?;
    let spare = keeper::make(shared).map_err(LogError::io("make its reserve"))?;
    shared.lock().spares.push(spare);
    let active = Arc::new(segment);
    let at = Position {
        active: Arc::clone(&active),
        offset: HEADER_BYTES,
        number: 0,
        node_sequence: 1,
    };
    let mut writer = Writer::new(Arc::clone(shared), at, BTreeMap::new());
    writer.begin(active);
    Ok(writer)
}

/// A sound log: behind its last frame, or in a new segment where something is in the way.
fn go_on(
    shared: &Arc<Shared>,
    segments: &[Arc<Segment>],
    ends: &BTreeMap<u32, ReplayedSegment>,
    written: BTreeMap<GroupId, Written>,
    (number, node_sequence): (u64, u64),
    unproven: Option<(u32, std::ops::Range<u64>)>,
    residue: bool,
) -> Result<Writer, LogError> {
    let missing = || LogError::Io {
        action: "find its last segment",
        source: std::io::ErrorKind::NotFound.into(),
    };
    let active = segments.last().ok_or_else(missing)?;
    let end = ends.get(&active.id()).copied().unwrap_or_default();
    let offset = end.end.max(HEADER_BYTES);
    let at = Position {
        active: Arc::clone(active),
        offset,
        number,
        node_sequence,
    };
    let mut writer = Writer::new(Arc::clone(shared), at, written);
    if let Some((id, range)) = unproven
        && let Some(segment) = segments.iter().find(|segment| segment.id() == id)
    {
        let bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let frames = segment
            .read_at(range.start, bytes)
            .map_err(LogError::io("read its last frames"))?;
        if let Err(error) = writer.prove(segment, range.start, &frames) {
            (shared.options.on_disk_error)(&error);
        }
    }
    if residue || !end.heads_complete {
        if shared.lock().spares.is_empty() {
            let spare = keeper::make(shared).map_err(LogError::io("make a segment"))?;
            shared.lock().spares.push(spare);
        }
        writer.rotate()?;
    }
    writer.flush();
    Ok(writer)
}

/// A damaged log: what is left of it is written anew, then the old segments go.
fn rewrite(
    shared: &Arc<Shared>,
    segments: &[Arc<Segment>],
    written: BTreeMap<GroupId, Written>,
    (number, node_sequence): (u64, u64),
    last_id: u32,
) -> Result<Writer, LogError> {
    let live = shared.lock().live_bytes();
    let wanted = usize::try_from(live.div_ceil(shared.options.capacity() / 2))
        .unwrap_or(usize::MAX)
        .saturating_add(1);
    while shared.lock().spares.len() < wanted {
        let spare =
            keeper::make(shared).map_err(LogError::io("make room for rewriting a damaged log"))?;
        shared.lock().spares.push(spare);
    }
    let Some(last) = segments.last() else {
        // Not one segment can be read: a new log, whose groups are all suspected.
        let mut writer = begin_behind(shared, last_id)?;
        writer.flush();
        return Ok(writer);
    };
    let at = Position {
        active: Arc::clone(last),
        offset: HEADER_BYTES,
        number,
        node_sequence,
    };
    let mut writer = Writer::new(Arc::clone(shared), at, written);
    writer.rewrite(last_id)?;
    for old in segments {
        let mut inner = shared.lock();
        if inner.segments.remove(&old.id()).is_some() {
            inner.retired.push_back(Arc::clone(old));
        }
    }
    Ok(writer)
}

fn begin_behind(shared: &Arc<Shared>, last_id: u32) -> Result<Writer, LogError> {
    let missing = || LogError::Io {
        action: "make a segment",
        source: std::io::ErrorKind::StorageFull.into(),
    };
    let spare = shared.lock().spares.pop().ok_or_else(missing)?;
    let segment = shared
        .dir
        .activate(spare, last_id + 1, 0, last_id + 1)
        .map_err(LogError::io("begin a segment"))?;
    let active = Arc::new(segment);
    let at = Position {
        active: Arc::clone(&active),
        offset: HEADER_BYTES,
        number: 0,
        node_sequence: 1,
    };
    let mut writer = Writer::new(Arc::clone(shared), at, BTreeMap::new());
    writer.begin_rewritten(active)?;
    Ok(writer)
}
