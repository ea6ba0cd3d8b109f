//! What a group's log holds and where: the in-memory index, with a cache of the newest payloads. Pure.
//!
//! The index follows submissions, not writes: an entry is readable once appended, from the cache, and gets its place on
//! disk when its write ends. Bytes on disk that an operation made useless are counted as [`Released`] and only given back
//! when the operation's own record is durable, else a crash could find an entry wanted but its segment gone.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{GroupState, LogEntry};

/// Where an entry's frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u32,
    pub(super) offset: u32,
    /// Bytes of the frame, padding included.
    pub(super) bytes: u32,
}

/// Segment → entries and bytes in it that are no longer wanted.
pub(super) type Released = BTreeMap<u32, (u64, u64)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Waiting for the write of the submission with this ticket; its payload is in the cache.
    Pending(u64),
    Stored(Location),
    /// Known to exist from a segment's head, not seen (yet) while recovering.
    Missing,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    term: u64,
    place: Place,
}

/// One group's log.
#[derive(Debug, Default)]
pub(super) struct GroupIndex {
    first: u64,
    slots: VecDeque<Slot>,
    /// Payloads of the newest entries, without holes up to the last.
    cache: VecDeque<Bytes>,
    cache_bytes: usize,
    /// Bytes of the frames of all entries that have their place on disk.
    stored_bytes: u64,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    /// `committed` changed since it was last given to the writer.
    pub(super) committed_dirty: bool,
    pub(super) purged: Option<Bytes>,
    pub(super) quarantined: bool,
}

impl GroupIndex {
    pub(super) fn new(quarantined: bool) -> Self {
        Self {
            quarantined,
            ..Self::default()
        }
    }

    /// What is left when the group is dropped: of a quarantined one that, and what it has promised.
    pub(super) fn emptied(self) -> Option<Self> {
        self.quarantined.then(|| Self {
            vote: self.vote,
            ..Self::new(true)
        })
    }

    pub(super) fn state(&self) -> GroupState {
        GroupState {
            first_index: self.first,
            last: self.slots.back().map(|slot| (self.next() - 1, slot.term)),
            vote: self.vote.clone(),
            committed: self.committed.clone(),
            purged: self.purged.clone(),
            quarantined: self.quarantined,
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The index that the next append must have.
    pub(super) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    pub(super) fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    fn position(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.first)?)
            .ok()
            .filter(|position| *position < self.slots.len())
    }

    /// Appends entries whose contiguity was checked.
    pub(super) fn append(&mut self, entries: &[LogEntry], ticket: u64) {
        for entry in entries {
            debug_assert_eq!(
                entry.index,
                self.next(),
                "appends are checked before they reach the index"
            );
            self.slots.push_back(Slot {
                term: entry.term,
                place: Place::Pending(ticket),
            });
            self.cache_bytes += entry.payload.len();
            self.cache.push_back(entry.payload.clone());
        }
    }

    /// Appends an entry found on disk.
    pub(super) fn append_stored(&mut self, term: u64, location: Location) {
        self.stored_bytes += u64::from(location.bytes);
        self.slots.push_back(Slot {
            term,
            place: Place::Stored(location),
        });
    }

    /// Appends entries known only from a segment's head, up to before `next`.
    pub(super) fn append_missing(&mut self, next: u64) {
        while self.next() < next {
            self.slots.push_back(Slot {
                term: 0,
                place: Place::Missing,
            });
        }
    }

    /// Sets the index of the first entry of a log without entries.
    pub(super) fn begin_at(&mut self, first: u64) {
        debug_assert!(self.slots.is_empty(), "only an empty log can be moved");
        self.first = first;
    }

    /// Removes entries at and behind `next`.
    pub(super) fn truncate(&mut self, next: u64) -> Released {
        let keep = usize::try_from(next.saturating_sub(self.first))
            .unwrap_or(usize::MAX)
            .min(self.slots.len());
        let mut released = Released::new();
        for slot in self.slots.drain(keep..) {
            release(&mut released, slot.place);
            if let Some(payload) = self.cache.pop_back() {
                self.cache_bytes -= payload.len();
            }
        }
        self.stored_bytes -= bytes_of(&released);
        released
    }

    /// Removes entries up to `upto`; behind the last one, the log is empty and starts there.
    pub(super) fn purge(&mut self, upto: u64) -> Released {
        let mut released = Released::new();
        while self.first <= upto {
            let cached = self.cache.len() == self.slots.len();
            let Some(slot) = self.slots.pop_front() else {
                break;
            };
            release(&mut released, slot.place);
            if cached && let Some(payload) = self.cache.pop_front() {
                self.cache_bytes -= payload.len();
            }
            self.first += 1;
        }
        self.first = self.first.max(upto.saturating_add(1));
        self.stored_bytes -= bytes_of(&released);
        released
    }

    /// Tells where the entry submitted under `ticket` now is. False if it has been removed meanwhile.
    pub(super) fn place(&mut self, index: u64, ticket: u64, location: Location) -> bool {
        self.replace(index, Place::Pending(ticket), location)
    }

    /// Tells that the entry at `from` was copied. False if it has been removed meanwhile.
    pub(super) fn relocate(&mut self, index: u64, from: Location, to: Location) -> bool {
        self.replace(index, Place::Stored(from), to)
    }

    fn replace(&mut self, index: u64, expected: Place, location: Location) -> bool {
        let Some(position) = self.position(index) else {
            return false;
        };
        let slot = &mut self.slots[position];
        if slot.place != expected {
            return false;
        }
        if let Place::Stored(old) = slot.place {
            self.stored_bytes -= u64::from(old.bytes);
        }
        slot.place = Place::Stored(location);
        self.stored_bytes += u64::from(location.bytes);
        true
    }

    /// While recovering: an entry copied forward. Returns whether that index is in the log, and the place it had.
    pub(super) fn recover_copy(
        &mut self,
        index: u64,
        term: u64,
        to: Location,
    ) -> (bool, Option<Location>) {
        let Some(position) = self.position(index) else {
            return (false, None);
        };
        let slot = &mut self.slots[position];
        let old = match slot.place {
            Place::Stored(location) => Some(location),
            Place::Pending(_) | Place::Missing => None,
        };
        *slot = Slot {
            term,
            place: Place::Stored(to),
        };
        self.stored_bytes += u64::from(to.bytes);
        self.stored_bytes -= old.map_or(0, |old| u64::from(old.bytes));
        (true, old)
    }

    /// While recovering: the first index that should be there and is not.
    pub(super) fn first_missing(&self) -> Option<u64> {
        let position = self
            .slots
            .iter()
            .position(|slot| slot.place == Place::Missing)?;
        Some(self.first + position as u64)
    }

    /// Whether the entry `index` waits for the write of `ticket`.
    pub(super) fn is_pending(&self, index: u64, ticket: u64) -> bool {
        self.position(index)
            .is_some_and(|position| self.slots[position].place == Place::Pending(ticket))
    }

    /// Where `index` is stored.
    pub(super) fn location(&self, index: u64) -> Option<Location> {
        match self.slots[self.position(index)?].place {
            Place::Stored(location) => Some(location),
            Place::Pending(_) | Place::Missing => None,
        }
    }

    pub(super) fn term(&self, index: u64) -> Option<u64> {
        Some(self.slots[self.position(index)?].term)
    }

    /// The payload of `index`, if it is in the cache.
    pub(super) fn cached(&self, index: u64) -> Option<Bytes> {
        let position = self.position(index)?;
        let uncached = self.slots.len() - self.cache.len();
        self.cache.get(position.checked_sub(uncached)?).cloned()
    }

    /// Drops the oldest cached payload that is on disk; false if there is none.
    pub(super) fn evict(&mut self) -> bool {
        let uncached = self.slots.len() - self.cache.len();
        match self.slots.get(uncached) {
            Some(Slot {
                place: Place::Stored(_),
                ..
            }) => {}
            _ => return false,
        }
        let Some(payload) = self.cache.pop_front() else {
            return false;
        };
        self.cache_bytes -= payload.len();
        true
    }

    /// All entries stored in the segments that `wanted` accepts, in order.
    pub(super) fn stored_in(
        &self,
        wanted: impl Fn(u32) -> bool,
    ) -> impl Iterator<Item = (u64, Location)> {
        (self.first..)
            .zip(&self.slots)
            .filter_map(move |(index, slot)| match slot.place {
                Place::Stored(location) if wanted(location.segment) => Some((index, location)),
                _ => None,
            })
    }
}

fn bytes_of(released: &Released) -> u64 {
    released.values().map(|(_, bytes)| bytes).sum()
}

fn release(released: &mut Released, place: Place) {
    if let Place::Stored(location) = place {
        let (entries, bytes) = released.entry(location.segment).or_default();
        *entries += 1;
        *bytes += u64::from(location.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> LogEntry {
        LogEntry {
            index,
            term,
            payload: Bytes::from(format!("{index}/{term}")),
        }
    }

    fn at(offset: u32) -> Location {
        Location {
            segment: 1,
            offset,
            bytes: 64,
        }
    }

    fn four() -> GroupIndex {
        let mut index = GroupIndex::default();
        index.append(&[entry(0, 1), entry(1, 1)], 10);
        index.append(&[entry(2, 2), entry(3, 2)], 11);
        index
    }

    #[test]
    fn places_follow_the_ticket_not_the_index() {
        let mut index = four();
        assert!(index.truncate(2).is_empty(), "nothing was on disk yet");
        index.append(&[entry(2, 3)], 12);
        assert!(!index.place(2, 11, at(0)), "the entry of ticket 11 is gone");
        assert!(index.place(2, 12, at(64)));
        assert_eq!(index.location(2), Some(at(64)));
        assert_eq!(index.state().last, Some((2, 3)));
    }

    #[test]
    fn removal_releases_what_was_stored() {
        let mut index = four();
        for (position, ticket) in [10, 10, 11].into_iter().enumerate() {
            assert!(index.place(position as u64, ticket, at(64 * position as u32)));
        }
        assert_eq!(index.stored_bytes(), 3 * 64);
        assert_eq!(index.purge(0), Released::from([(1, (1, 64))]));
        assert_eq!(index.truncate(2), Released::from([(1, (1, 64))]));
        assert_eq!((index.first(), index.next()), (1, 2));
        assert_eq!(index.stored_bytes(), 64);
        assert_eq!(index.purge(9), Released::from([(1, (1, 64))]));
        assert_eq!(
            (index.first(), index.next(), index.state().last),
            (10, 10, None)
        );
        assert_eq!((index.cache_bytes(), index.stored_bytes()), (0, 0));
    }

    #[test]
    fn the_cache_keeps_what_is_not_on_disk() {
        let mut index = four();
        assert!(!index.evict());
        assert!(index.place(0, 10, at(0)));
        assert!(index.evict());
        assert!(!index.evict());
        assert_eq!(index.cached(0), None);
        assert_eq!(index.cached(1), Some(Bytes::from("1/1")));
        index.purge(1);
        assert_eq!(index.cached(2), Some(Bytes::from("2/2")));
        assert_eq!(index.cache_bytes(), 6);
    }
}
