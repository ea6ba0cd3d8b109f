//! Makes sense of segments' bytes: which frames count, what they add up to, and what is lost. Pure.
//!
//! Every frame says which frames had been synced before it was written. Let `synced` be the highest such claim of all valid
//! frames. A frame below it that is bad or absent was acknowledged and is lost: damage. The first bad frame at or above it
//! belongs to a write that never ended: the log ends there. Frame numbers tell how many frames are lost, the groups' own
//! sequences whose they were; who can't be cleared by a later frame is suspected.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::GroupId;
use super::frame::{FRAME_ALIGN, Frame, GroupHead, Meta, NODE, Record, Stamp};
use super::index::{GroupIndex, Location};
use super::segment::HEADER_BYTES;

/// Something that was on disk and is not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The segment it was noticed in.
    pub segment: u32,
    /// Near which byte of it.
    pub offset: u64,
    /// How many frames are lost, as far as known.
    pub frames: u64,
}

/// The valid frames of a segment and where they start; behind a bad one, the search goes on.
pub(super) fn scan(bytes: &[u8], stamp: Stamp) -> impl Iterator<Item = (u64, Frame<'_>)> {
    let mut at = usize::try_from(HEADER_BYTES).unwrap_or(usize::MAX);
    let mut sealed = false;
    std::iter::from_fn(move || {
        while !sealed && at < bytes.len() {
            let Some(frame) = stamp.decode(&bytes[at..]) else {
                at += FRAME_ALIGN;
                continue;
            };
            let start = at as u64;
            at += frame.bytes;
            // What stands behind a seal is from an earlier use, or was torn and given up.
            sealed = matches!(frame.record, Record::Seal { .. });
            return Some((start, frame));
        }
        None
    })
}

/// The highest claim of the segment's frames about what was synced, if it has any.
pub(super) fn synced(bytes: &[u8], stamp: Stamp) -> Option<u64> {
    scan(bytes, stamp)
        .map(|(_, frame)| frame.meta.synced_before)
        .max()
}

/// Whether the segment holds nothing but an incomplete head and a seal: a start began it, crashed, and the next went on
/// elsewhere. Such a segment may outlive those before it for a moment, and says nothing.
pub(super) fn is_fragment(bytes: &[u8], stamp: Stamp) -> bool {
    let (mut heads, mut wanted, mut sealed) = (0, u32::MAX, false);
    let mut number = None;
    for (_, frame) in scan(bytes, stamp) {
        if number.is_some_and(|number| frame.meta.number != number) {
            return false;
        }
        number = Some(frame.meta.number + 1);
        match frame.record {
            Record::NodeHead { groups, .. } => wanted = groups,
            Record::GroupHead(_) => heads += 1,
            Record::Mark => {}
            Record::Seal { .. } => sealed = true,
            _ => return false,
        }
    }
    sealed && heads < wanted
}

/// A group as replayed so far.
#[derive(Debug, Default)]
pub(super) struct ReplayedGroup {
    pub(super) index: GroupIndex,
    /// Sequence of its next frame.
    pub(super) sequence: u64,
    last_number: u64,
    /// It lost something.
    pub(super) touched: bool,
    /// Entries between the last and what follows are lost: what follows doesn't count, until a purge or a head passes it.
    broken: bool,
}

/// A segment as replayed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct ReplayedSegment {
    /// Where the next frame would stand.
    pub(super) end: u64,
    pub(super) accepted: u64,
    pub(super) heads_complete: bool,
    pub(super) sealed_for: Option<u32>,
}

/// The log as replayed so far.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) groups: BTreeMap<GroupId, ReplayedGroup>,
    pub(super) segments: BTreeMap<u32, ReplayedSegment>,
    pub(super) damage: Vec<Damage>,
    pub(super) suspect_unknown: bool,
    /// Number of the next frame.
    pub(super) number: u64,
    /// Sequence of the log's own next frame, once one was seen.
    node_next: Option<u64>,
    /// Where the frames begin that no later write vouches for.
    pub(super) unproven: Option<(u32, Range<u64>)>,
    /// Valid frames given up behind a torn one.
    pub(super) dropped: u64,
    synced: u64,
    ended: bool,
    missing: u64,
    accounted: u64,
    /// Everything lost was lost before this number.
    damage_before: u64,
    /// Frames of unknown number are lost at the end.
    tail_unknown: bool,
    heads_wanted: u32,
    first_segment: u32,
}

impl Replay {
    /// Replays a log whose first frame is `number` and of which everything before `synced` must be there.
    pub(super) fn new(number: u64, synced: u64) -> Self {
        Self {
            number,
            synced,
            ..Self::default()
        }
    }

    /// Notes a segment that can't be read, or not to its end.
    pub(super) fn unreadable(&mut self, segment: u32, offset: u64) {
        self.damage.push(Damage {
            segment,
            offset,
            frames: 0,
        });
        self.tail_unknown = true;
    }

    /// Replays a segment's bytes, of which there should be `length`.
    pub(super) fn segment(&mut self, id: u32, bytes: &[u8], stamp: Stamp, length: u64) {
        if self.segments.is_empty() {
            self.first_segment = id;
        }
        self.segments.insert(
            id,
            ReplayedSegment {
                end: HEADER_BYTES,
                ..ReplayedSegment::default()
            },
        );
        for (offset, frame) in scan(bytes, stamp) {
            self.frame(id, offset, frame);
        }
        let sealed = self
            .segments
            .get(&id)
            .is_some_and(|segment| segment.sealed_for.is_some());
        if (bytes.len() as u64) < length && !sealed {
            self.unreadable(id, bytes.len() as u64);
        }
    }

    fn frame(&mut self, id: u32, offset: u64, frame: Frame<'_>) {
        let Meta { number, .. } = frame.meta;
        if self.ended || number < self.number {
            self.dropped += 1;
            return;
        }
        let lost = number.min(self.synced).saturating_sub(self.number);
        if lost > 0 {
            self.damage.push(Damage {
                segment: id,
                offset,
                frames: lost,
            });
            self.missing += lost;
            self.damage_before = self.number + lost;
        }
        if number > self.synced.max(self.number) {
            // Its write, or that of a frame before it, never ended.
            self.number += lost;
            self.ended = true;
            self.dropped += 1;
            return;
        }
        self.tail_unknown = false;
        self.number = number + 1;
        let end = offset + frame.bytes as u64;
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.accepted += 1;
            segment.end = end;
        }
        if number >= self.synced {
            match &mut self.unproven {
                Some((segment, range)) if *segment == id => range.end = end,
                unproven => *unproven = Some((id, offset..end)),
            }
        }
        let location = Location {
            segment: id,
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            bytes: u32::try_from(frame.bytes).unwrap_or(u32::MAX),
        };
        if frame.meta.group == NODE {
            self.node_frame(id, frame.meta.sequence, &frame.record);
        } else {
            self.group_frame(location, frame.meta, &frame.record);
        }
    }

    fn node_frame(&mut self, id: u32, sequence: u64, record: &Record<'_>) {
        match self.node_next {
            Some(next) => self.accounted += sequence.saturating_sub(next),
            // The very first frame, a head of the log itself, is among the lost.
            None if !matches!(record, Record::NodeHead { .. }) => self.accounted += 1,
            None => {}
        }
        self.node_next = Some(sequence + 1);
        match record {
            Record::NodeHead {
                groups,
                suspect_unknown,
            } => {
                self.suspect_unknown = *suspect_unknown;
                self.heads_wanted = *groups;
                self.count_heads(id, 0);
            }
            Record::Seal { next } => {
                if let Some(segment) = self.segments.get_mut(&id) {
                    segment.sealed_for = Some(*next);
                }
            }
            _ => {}
        }
    }

    fn count_heads(&mut self, id: u32, seen: u32) {
        self.heads_wanted = self.heads_wanted.saturating_sub(seen);
        if self.heads_wanted == 0
            && let Some(segment) = self.segments.get_mut(&id)
        {
            segment.heads_complete = true;
        }
    }

    fn group_frame(&mut self, location: Location, meta: Meta, record: &Record<'_>) {
        let is_head = matches!(record, Record::GroupHead(_));
        let (known, in_first) = (
            self.groups.contains_key(&meta.group),
            location.segment == self.first_segment,
        );
        let suspect = self.suspect_unknown;
        let group = self.groups.entry(meta.group).or_default();
        if !known {
            group.index.quarantined = suspect;
            group.touched = meta.sequence != 1 && !(is_head && in_first);
            group.broken = group.touched;
        } else if meta.sequence != group.sequence {
            self.accounted += meta.sequence.saturating_sub(group.sequence);
            group.touched = true;
            if meta.sequence == 1 {
                // The record that the group was dropped is among the lost.
                group.index = GroupIndex::default();
            }
        }
        group.sequence = meta.sequence + 1;
        group.last_number = meta.number;
        if matches!(record, Record::DropGroup) {
            // What is lost before it may be that the group was put into quarantine.
            group.index.quarantined |= group.touched;
            match std::mem::take(&mut group.index).emptied() {
                Some(emptied) => (group.index, group.broken) = (emptied, false),
                None => drop(self.groups.remove(&meta.group)),
            }
            return;
        }
        group.apply(location, record);
        if is_head {
            self.count_heads(location.segment, 1);
        }
    }

    /// Draws the conclusions: who may have lost something, and what of each log can be used.
    pub(super) fn finish(&mut self) {
        let sealed_for = self
            .segments
            .last_key_value()
            .and_then(|(_, segment)| segment.sealed_for);
        if let Some(next) = sealed_for {
            // The successor was on disk before the seal.
            self.unreadable(next, 0);
        }
        let unaccounted = self.missing > self.accounted;
        self.suspect_unknown |= unaccounted || self.tail_unknown;
        for group in self.groups.values_mut() {
            group.touched |=
                self.tail_unknown || (unaccounted && group.last_number < self.damage_before);
            if let Some(missing) = group.index.first_missing() {
                group.index.truncate(missing);
                group.touched = true;
            }
            if group.touched {
                group.index.quarantined = true;
                group.index.committed = None;
            }
        }
    }

    /// Sequence of the log's own next frame.
    pub(super) fn node_sequence(&self) -> u64 {
        self.node_next.unwrap_or(1)
    }

    /// Whether the log is to be rewritten.
    pub(super) fn is_damaged(&self) -> bool {
        !self.damage.is_empty() || self.groups.values().any(|group| group.touched)
    }
}

impl ReplayedGroup {
    fn apply(&mut self, location: Location, record: &Record<'_>) {
        let index = &mut self.index;
        match record {
            Record::Entry { index: i, term, .. } => self.entry(*i, *term, location),
            Record::Copy { index: i, term, .. } => {
                let (known, _) = index.recover_copy(*i, *term, location);
                self.touched |= !known;
            }
            Record::Vote(vote) => index.vote = Some(Bytes::copy_from_slice(vote)),
            Record::Committed(committed) => {
                index.committed = Some(Bytes::copy_from_slice(committed))
            }
            Record::Truncate { after } => {
                let next = after.map_or(index.first(), |after| after.saturating_add(1));
                self.broken &= next > index.next();
                index.truncate(next);
            }
            Record::Purge { upto, purged } => {
                self.broken &= *upto < index.next();
                index.purge(*upto);
                index.purged = Some(Bytes::copy_from_slice(purged));
            }
            Record::GroupHead(head) => self.head(head),
            Record::Quarantine { on } => index.quarantined = *on,
            Record::NodeHead { .. }
            | Record::Mark
            | Record::Seal { .. }
            | Record::DropGroup
            | Record::RewriteEnd => {}
        }
    }

    fn entry(&mut self, i: u64, term: u64, location: Location) {
        if self.broken {
            return;
        }
        if i > self.index.next() || i < self.index.first() {
            (self.touched, self.broken) = (true, true);
            return;
        }
        if i < self.index.next() {
            // The truncation in between is lost.
            self.touched = true;
            self.index.truncate(i);
        }
        self.index.append_stored(term, location);
    }

    /// A head is the whole truth at its place but for the entries, which may be elsewhere.
    fn head(&mut self, head: &GroupHead<'_>) {
        let index = &mut self.index;
        if index.next() == index.first() && index.first() < head.first {
            index.begin_at(head.first);
        }
        if let Some(upto) = head
            .first
            .checked_sub(1)
            .filter(|upto| *upto >= index.first())
        {
            index.purge(upto);
        }
        index.truncate(head.next);
        index.append_missing(head.next);
        self.broken = false;
        let copy = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        index.vote = copy(head.vote);
        index.committed = copy(head.committed);
        index.purged = copy(head.purged);
        index.quarantined = head.quarantined;
    }
}
