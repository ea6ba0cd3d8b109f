//! Reads of the archive, all of one state of it.

use std::sync::Arc;

use crate::engine::{Guard, Iter, Readable, Snapshot};

use super::layout::{self, key_prefix, read_row, row_key, seq_of, with_seq};
use super::{
    ArchiveError, ArchiveRow, Inner, KeyExtent, Order, Page, PartitionId, RowKind, RowPosition,
    Rows,
};

/// A count that had to look at this many messages is remembered.
const COUNT_WORTH_KEEPING: u64 = 512;

/// The archive at one moment: what is appended or removed later is not seen.
pub struct ArchiveView {
    pub(super) inner: Arc<Inner>,
    pub(super) snapshot: Snapshot,
    /// How many removals there had been, or `None` if one was under way.
    removals: Option<u64>,
}

impl ArchiveView {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        // Before the snapshot: what is removed in between makes a count too old to keep, never wrong.
        let removals = inner.removals().generation();
        let snapshot = inner.db.snapshot();
        ArchiveView {
            inner,
            snapshot,
            removals,
        }
    }

    /// A page of a key's rows. Its cost depends on the page alone, not on how many rows there are.
    ///
    /// # Errors
    /// [`ArchiveError::BadName`], [`ArchiveError::Damaged`], [`ArchiveError::Engine`].
    pub fn range(
        &self,
        partition: PartitionId,
        key: &str,
        rows: Rows,
        page: &Page,
    ) -> Result<Vec<ArchiveRow>, ArchiveError> {
        let Some((first, last)) = page.bounds() else {
            return Ok(Vec::new());
        };
        let range = row_key(partition, key, first)?..=row_key(partition, key, last)?;
        let key: Arc<str> = Arc::from(key);
        let read = |kind: RowKind| {
            let key = Arc::clone(&key);
            let rows = self
                .snapshot
                .range(self.inner.keyspace(kind), range.clone());
            in_order(rows, page.order).map(move |guard| {
                let (row_key, value) = guard.into_inner()?;
                read_row(kind, Arc::clone(&key), seq_of(&row_key)?, value)
            })
        };
        match rows {
            Rows::Messages => read(RowKind::Message).take(page.limit).collect(),
            Rows::Events => read(RowKind::Event).take(page.limit).collect(),
            Rows::All => Merge::new(read(RowKind::Message), read(RowKind::Event), page.order)
                .take(page.limit)
                .collect(),
        }
    }

    /// A page of the rows of a key with this peer (XEP-0313 §4.1.1). It costs a look-up a row, however far the rows are apart.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn range_with(
        &self,
        partition: PartitionId,
        key: &str,
        peer: &str,
        page: &Page,
    ) -> Result<Vec<ArchiveRow>, ArchiveError> {
        let Some((first, last)) = page.bounds() else {
            return Ok(Vec::new());
        };
        let prefix = layout::peer_prefix(partition, key, peer)?;
        let range = with_seq(prefix.clone(), first)..=with_seq(prefix, last);
        let key: Arc<str> = Arc::from(key);
        let mut found = Vec::new();
        for entry in
            in_order(self.snapshot.range(&self.inner.peers, range), page.order).take(page.limit)
        {
            let (entry, kind) = entry.into_inner()?;
            let (kind, seq) = (layout::read_kind(&kind)?, seq_of(&entry)?);
            let value = self
                .snapshot
                .get(self.inner.keyspace(kind), row_key(partition, &key, seq)?)?;
            let value = value.ok_or(ArchiveError::Damaged("an index entry has no row"))?;
            found.push(read_row(kind, Arc::clone(&key), seq, value)?);
        }
        Ok(found)
    }

    /// The sequence of a key's oldest row.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn first_seq(
        &self,
        partition: PartitionId,
        key: &str,
        rows: Rows,
    ) -> Result<Option<u64>, ArchiveError> {
        let mut first = None;
        for kind in rows.kinds() {
            let range = row_key(partition, key, 0)?..=row_key(partition, key, u64::MAX)?;
            if let Some(guard) = self
                .snapshot
                .range(self.inner.keyspace(*kind), range)
                .next()
            {
                let seq = seq_of(&guard.key()?)?;
                first = Some(first.map_or(seq, |other: u64| other.min(seq)));
            }
        }
        Ok(first)
    }

    /// The sequence of a key's newest row.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn last_seq(
        &self,
        partition: PartitionId,
        key: &str,
        rows: Rows,
    ) -> Result<Option<u64>, ArchiveError> {
        let mut last = None;
        for kind in rows.kinds() {
            let range = row_key(partition, key, 0)?..=row_key(partition, key, u64::MAX)?;
            if let Some(guard) = self
                .snapshot
                .range(self.inner.keyspace(*kind), range)
                .next_back()
            {
                last = last.max(Some(seq_of(&guard.key()?)?));
            }
        }
        Ok(last)
    }

    /// The sequence of the first row of this time or later (XEP-0313 §4.1.2, `start` and `end`), by bisection: about
    /// log2(last − first sequence) look-ups, 24 among ten million rows.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn seq_at_or_after(
        &self,
        partition: PartitionId,
        key: &str,
        rows: Rows,
        time: u64,
    ) -> Result<Option<u64>, ArchiveError> {
        let mut found: Option<u64> = None;
        for kind in rows.kinds() {
            if let Some(seq) = self.bisect(partition, key, *kind, time)? {
                found = Some(found.map_or(seq, |other| other.min(seq)));
            }
        }
        Ok(found)
    }

    fn bisect(
        &self,
        partition: PartitionId,
        key: &str,
        kind: RowKind,
        time: u64,
    ) -> Result<Option<u64>, ArchiveError> {
        let keyspace = self.inner.keyspace(kind);
        let read = |guard: Option<Guard>| -> Result<Option<(u64, u64)>, ArchiveError> {
            let Some(guard) = guard else { return Ok(None) };
            let (key, value) = guard.into_inner()?;
            Ok(Some((seq_of(&key)?, layout::value_time(&value)?)))
        };
        let rows = |first, last| -> Result<_, ArchiveError> {
            Ok(self.snapshot.range(
                keyspace,
                row_key(partition, key, first)?..=row_key(partition, key, last)?,
            ))
        };
        let Some((newest, newest_time)) = read(rows(0, u64::MAX)?.next_back())? else {
            return Ok(None);
        };
        let Some((oldest, oldest_time)) = read(rows(0, newest)?.next())? else {
            return Ok(None);
        };
        if newest_time < time {
            return Ok(None);
        }
        if oldest_time >= time {
            return Ok(Some(oldest));
        }
        // Rows up to `early` are too early, those from `end` on are not, and `found` is the first of these.
        let (mut early, mut end, mut found) = (oldest, newest, newest);
        while early + 1 < end {
            let middle = early + (end - early) / 2;
            match read(rows(middle, end - 1)?.next())? {
                Some((seq, row_time)) if row_time < time => early = seq,
                Some((seq, _)) => (found, end) = (seq, middle),
                None => end = middle,
            }
        }
        Ok(Some(found))
    }

    /// How many messages a key has. The first count of a key looks at all of its messages (0.2 µs each); the result is kept,
    /// so that later ones look only at what came since. Removals make the next count a first one again.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn count(&self, partition: PartitionId, key: &str) -> Result<u64, ArchiveError> {
        let count_key = key_prefix(partition, key)?;
        let (mut upto, mut messages) = (None, 0);
        if let Some(value) = self.snapshot.get(&self.inner.counts, &count_key)? {
            let (kept_upto, kept) = layout::read_count(&value)?;
            (upto, messages) = (Some(kept_upto), kept);
        }
        let Some(first) = upto.map_or(Some(0), |upto| upto.checked_add(1)) else {
            return Ok(messages);
        };
        let range = row_key(partition, key, first)?..=row_key(partition, key, u64::MAX)?;
        let mut seen = 0;
        for guard in self.snapshot.range(&self.inner.messages, range) {
            upto = Some(seq_of(&guard.key()?)?);
            seen += 1;
        }
        messages += seen;
        if let (Some(upto), true) = (upto, seen >= COUNT_WORTH_KEEPING) {
            // Under the lock, so that no removal starts between the check and the write.
            let removals = self.inner.removals();
            if removals.generation().is_some() && removals.generation() == self.removals {
                self.inner
                    .counts
                    .insert(count_key, layout::count_value(upto, messages))?;
            }
        }
        Ok(messages)
    }

    /// The rows of a partition in the order of [`RowPosition`], from behind a position, until `limit` rows or `bytes_max`
    /// bytes of records are full; at least one row if any is left. For copying a partition.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn rows(
        &self,
        partition: PartitionId,
        after: Option<&RowPosition>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<ArchiveRow>, ArchiveError> {
        let (mut found, mut bytes) = (Vec::new(), 0_usize);
        let first_kind = after.map_or(RowKind::Message, |after| after.kind);
        for kind in [RowKind::Message, RowKind::Event]
            .into_iter()
            .filter(|kind| *kind >= first_kind)
        {
            let start = match after {
                Some(after) if after.kind == kind => {
                    // The key behind this one: nothing sorts between them.
                    let mut start = row_key(partition, &after.key, after.seq)?;
                    start.push(0);
                    start
                }
                _ => layout::partition_prefix(partition).to_vec(),
            };
            for guard in self.partition_range(kind, partition, start) {
                if found.len() >= limit || bytes >= bytes_max && !found.is_empty() {
                    return Ok(found);
                }
                let (row_key, value) = guard.into_inner()?;
                let (key, seq) = layout::read_row_key(&row_key)?;
                let row = read_row(kind, key, seq, value)?;
                bytes += row.record.len();
                found.push(row);
            }
        }
        Ok(found)
    }

    /// The keys of a partition that have rows, in order, from behind `after`. It costs a few look-ups a key, however many
    /// rows a key has.
    ///
    /// # Errors
    /// As [`range`](Self::range).
    pub fn keys(
        &self,
        partition: PartitionId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KeyExtent>, ArchiveError> {
        let mut found = Vec::new();
        let mut after: Option<Arc<str>> = after.map(Arc::from);
        while found.len() < limit {
            let start = match &after {
                Some(after) => {
                    let mut start = row_key(partition, after, u64::MAX)?;
                    start.push(0);
                    start
                }
                None => layout::partition_prefix(partition).to_vec(),
            };
            let mut next: Option<Arc<str>> = None;
            for kind in [RowKind::Message, RowKind::Event] {
                if let Some(guard) = self.partition_range(kind, partition, start.clone()).next() {
                    let (key, _) = layout::read_row_key(&guard.key()?)?;
                    next = Some(next.map_or(Arc::clone(&key), |other| other.min(key)));
                }
            }
            let Some(key) = next else { break };
            found.push(self.extent(partition, &key)?);
            after = Some(key);
        }
        Ok(found)
    }

    /// The rows of a kind and partition from `start` on.
    pub(super) fn partition_range(
        &self,
        kind: RowKind,
        partition: PartitionId,
        start: Vec<u8>,
    ) -> Iter {
        let keyspace = self.inner.keyspace(kind);
        match layout::partition_end(partition) {
            Some(end) => self.snapshot.range(keyspace, start..end.to_vec()),
            None => self.snapshot.range(keyspace, start..),
        }
    }
}

/// An iterator from the end that the order names.
fn in_order(mut rows: Iter, order: Order) -> impl Iterator<Item = Guard> {
    std::iter::from_fn(move || match order {
        Order::OldestFirst => rows.next(),
        Order::NewestFirst => rows.next_back(),
    })
}

/// Messages and events merged by sequence; after an error it ends.
struct Merge<A: Iterator, B: Iterator> {
    messages: std::iter::Peekable<A>,
    events: std::iter::Peekable<B>,
    order: Order,
}

impl<A, B> Merge<A, B>
where
    A: Iterator<Item = Result<ArchiveRow, ArchiveError>>,
    B: Iterator<Item = Result<ArchiveRow, ArchiveError>>,
{
    fn new(messages: A, events: B, order: Order) -> Self {
        Merge {
            messages: messages.peekable(),
            events: events.peekable(),
            order,
        }
    }
}

impl<A, B> Iterator for Merge<A, B>
where
    A: Iterator<Item = Result<ArchiveRow, ArchiveError>>,
    B: Iterator<Item = Result<ArchiveRow, ArchiveError>>,
{
    type Item = Result<ArchiveRow, ArchiveError>;

    fn next(&mut self) -> Option<Self::Item> {
        let message_first = match (self.messages.peek(), self.events.peek()) {
            (Some(Ok(message)), Some(Ok(event))) => match self.order {
                Order::OldestFirst => message.seq <= event.seq,
                Order::NewestFirst => message.seq >= event.seq,
            },
            // An error is passed on as soon as it is seen.
            (_, Some(Err(_))) | (None, _) => false,
            _ => true,
        };
        if message_first {
            self.messages.next()
        } else {
            self.events.next()
        }
    }
}
