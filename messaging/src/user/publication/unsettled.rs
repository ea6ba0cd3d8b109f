//! The rows of a user's log that no session has acknowledged yet.
//!
//! Invariant: a row up to the log's position is *waiting* (nobody was offered it), *outstanding* (some session was sent
//! it and none has acknowledged it) or done. The delivery cursor lies before the first row that isn't done.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use super::seldom::Seldom;

/// Ranges of rows that wait, kept apart from each other.
const RANGES_MAX: usize = 4_096;

/// Rows that aren't done, and the cursor.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsettled {
    /// The newest row.
    position: u64,
    /// One more than the cursor as it was last told; `None`: not read from the state yet.
    behind_cursor: Option<NonZeroU64>,
    /// The position when the cursor was read: of rows up to here it isn't known whether they were acknowledged.
    unknown_upto: u64,
    /// Rows that were sent, with the ids of the sessions that have not acknowledged them.
    outstanding: Seldom<BTreeMap<u64, Vec<u64>>>,
    /// First and last rows of ranges that wait, in order, apart from each other. Rows that the user sent, or that don't
    /// exist, may lie within: they go when they are read.
    waiting: Seldom<Vec<(u64, u64)>>,
}

impl Unsettled {
    pub(super) fn new(position: u64) -> Unsettled {
        Unsettled {
            position,
            ..Unsettled::default()
        }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn cursor(&self) -> Option<u64> {
        self.behind_cursor.map(|behind| behind.get() - 1)
    }

    fn set_cursor(&mut self, cursor: u64) {
        self.behind_cursor = NonZeroU64::new(cursor.saturating_add(1));
    }

    /// Whether an earlier owner may have seen this row acknowledged.
    pub(super) fn is_of_earlier_owner(&self, seq: u64) -> bool {
        seq <= self.unknown_upto
    }

    /// The cursor as committed, read once.
    pub(super) fn begin(&mut self, delivered: u64) {
        if self.behind_cursor.is_some() {
            return;
        }
        self.set_cursor(delivered);
        self.unknown_upto = self.position;
        if delivered < self.position {
            self.wait_range(delivered.saturating_add(1), self.position);
        }
    }

    /// Rows up to here were added without being told.
    pub(super) fn missed(&mut self, upto: u64) {
        if upto > self.position {
            if self.behind_cursor.is_some() {
                self.wait_range(self.position + 1, upto);
            }
            self.position = upto;
        }
    }

    /// A received row was added to the log: it waits until a session is offered it.
    pub(super) fn received(&mut self, seq: u64) {
        self.position = seq;
        if self.behind_cursor.is_some() {
            self.wait_range(seq, seq);
        }
    }

    /// A row that the user sent was added: nothing is to be delivered.
    pub(super) fn sent(&mut self, seq: u64) {
        // Within a run of rows that wait it does no harm, and the run stays one range.
        let ends_there = |(_, last): &(u64, u64)| *last == self.position;
        if self.waiting.last().is_some_and(ends_there)
            && let Some((_, last)) = self.waiting.last_mut()
        {
            *last = seq;
        }
        self.position = seq;
    }

    pub(super) fn is_waiting(&self, seq: u64) -> bool {
        let index = self.waiting.partition_point(|(_, last)| *last < seq);
        self.waiting
            .get(index)
            .is_some_and(|(first, _)| *first <= seq)
    }

    pub(super) fn first_waiting(&self) -> Option<u64> {
        self.waiting.first().map(|(first, _)| *first)
    }

    /// Rows of a range need not wait: they don't exist, were acknowledged before, or need no delivery.
    pub(super) fn settle_range(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let begin = self.waiting.partition_point(|(_, end)| *end < first);
        let end = self.waiting.partition_point(|(start, _)| *start <= last);
        if begin >= end {
            return;
        }
        let mut left = Vec::new();
        for (start, stop) in self.waiting.drain(begin..end) {
            if start < first {
                left.push((start, first - 1));
            }
            if stop > last {
                left.push((last + 1, stop));
            }
        }
        self.waiting.splice(begin..begin, left);
        self.waiting.trim();
    }

    /// A session was sent this row. A row that is done stays done.
    pub(super) fn offer(&mut self, seq: u64, session: u64) {
        if self.is_waiting(seq) {
            self.settle_range(seq, seq);
            self.outstanding.insert(seq, vec![session]);
        } else if self.outstanding.contains_key(&seq)
            && let Some(holders) = self.outstanding.get_mut(&seq)
            && !holders.contains(&session)
        {
            holders.push(session);
        }
    }

    /// A session acknowledged this row: it is done.
    pub(super) fn acknowledged(&mut self, seq: u64) {
        self.outstanding.remove(&seq);
        self.outstanding.trim();
    }

    /// A session that was sent this row will not acknowledge it; a row without any other session waits.
    pub(super) fn release(&mut self, seq: u64, session: u64) {
        if !self.outstanding.contains_key(&seq) {
            return;
        }
        let Some(holders) = self.outstanding.get_mut(&seq) else {
            return;
        };
        holders.retain(|holder| *holder != session);
        if holders.is_empty() {
            self.outstanding.remove(&seq);
            self.wait_range(seq, seq);
        }
        self.outstanding.trim();
    }

    /// The cursor, if it has risen since the last call.
    pub(super) fn advance(&mut self) -> Option<u64> {
        let known = self.cursor()?;
        let first = self.outstanding.keys().next().copied();
        let first = match (first, self.first_waiting()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let cursor = first.map_or(self.position, |first| first.saturating_sub(1));
        if cursor <= known {
            return None;
        }
        self.set_cursor(cursor);
        Some(cursor)
    }

    fn wait_range(&mut self, first: u64, last: u64) {
        // Ranges that overlap or touch become one.
        let begin = self
            .waiting
            .partition_point(|(_, end)| end.saturating_add(1) < first);
        let end = self
            .waiting
            .partition_point(|(start, _)| *start <= last.saturating_add(1));
        let mut joined = (first, last);
        for (start, stop) in self.waiting.drain(begin..end.max(begin)) {
            joined = (joined.0.min(start), joined.1.max(stop));
        }
        self.waiting.insert(begin, joined);
        if self.waiting.len() > RANGES_MAX {
            self.join_first();
        }
    }

    /// Joins the first two ranges between which nothing is outstanding. What is done between them may be delivered a
    /// second time, to a session that did not get it: the price of a bound.
    fn join_first(&mut self) {
        let apart = self.waiting.windows(2).position(|pair| match pair {
            [(_, last), (first, _)] => self.outstanding.range(*last..*first).next().is_none(),
            _ => false,
        });
        let Some(index) = apart else { return };
        let (_, last) = self.waiting.remove(index + 1);
        if let Some(range) = self.waiting.get_mut(index) {
            range.1 = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_cursor_stays_before_what_is_not_acknowledged() {
        let mut rows = Unsettled::new(10);
        rows.begin(10);
        rows.received(11);
        rows.received(12);
        rows.sent(13);
        assert_eq!(rows.advance(), None);
        rows.offer(11, 1);
        rows.offer(12, 1);
        rows.offer(12, 2);
        rows.settle_range(13, 13);
        rows.acknowledged(12);
        assert_eq!(rows.advance(), None, "11 is outstanding");
        rows.release(11, 1);
        assert!(rows.is_waiting(11));
        rows.offer(11, 2);
        rows.acknowledged(11);
        assert_eq!(rows.advance(), Some(13));
        rows.offer(12, 3);
        assert_eq!(rows.advance(), None, "what is done stays done");
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(steps in prop::collection::vec((any::<bool>(), 1u64..40, 0u64..6), 0..60)) {
            let mut rows = Unsettled::new(0);
            let mut model = BTreeSet::new();
            for (wait, first, len) in steps {
                let last = first + len;
                if wait {
                    rows.wait_range(first, last);
                    model.extend(first..=last);
                } else {
                    rows.settle_range(first, last);
                    model.retain(|seq| !(first..=last).contains(seq));
                }
                for seq in 0..50 {
                    prop_assert_eq!(rows.is_waiting(seq), model.contains(&seq), "{}", seq);
                }
                prop_assert_eq!(rows.first_waiting(), model.first().copied());
                prop_assert!(rows.waiting.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            }
        }
    }
}
