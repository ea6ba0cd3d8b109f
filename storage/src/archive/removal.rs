//! Removing rows: expiry, the end of a room, trimming events, dropping a partition.
//!
//! Removals go through the rows in chunks, oldest first, and take each row's index entry along. One that is cut short by a
//! crash is done again by the log's replay.

use std::collections::HashMap;

use super::layout::{self, key_prefix, row_key};
use super::{Archive, ArchiveError, Inner, PartitionId, RowKind};

/// Rows removed in one batch.
const CHUNK_ROWS: usize = 1024;

/// Keys whose trimming is remembered, at most. Forgetting costs time only.
const TRIMMED_KEYS_MAX: usize = 65_536;

/// What reads must know about removals.
#[derive(Debug, Default)]
pub(super) struct Removals {
    under_way: u32,
    ended: u64,
    /// Per key, up to where its events were trimmed: a later trim starts there, and not among the remains of removed rows.
    trimmed: HashMap<Vec<u8>, u64>,
}

impl Removals {
    /// How many removals there were; `None` while one is under way.
    pub(super) fn generation(&self) -> Option<u64> {
        (self.under_way == 0).then_some(self.ended)
    }
}

/// A removal under way; while it lives, no count is kept.
pub(super) struct Removal<'a>(&'a Inner);

impl<'a> Removal<'a> {
    fn begin(inner: &'a Inner) -> Self {
        inner.removals().under_way += 1;
        Removal(inner)
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        let mut removals = self.0.removals();
        removals.under_way -= 1;
        removals.ended += 1;
    }
}

impl Archive {
    /// Removes a key's rows of both kinds up to a sequence, that one included. Returns how many there were.
    ///
    /// # Errors
    /// As [`append`](Archive::append); some rows may be gone.
    pub fn purge(&self, partition: PartitionId, key: &str, upto: u64) -> Result<u64, ArchiveError> {
        let _removal = self.begin_removal(partition, key)?;
        let (start, end) = (row_key(partition, key, 0)?, row_key(partition, key, upto)?);
        let messages = self.remove_rows(partition, RowKind::Message, start.clone(), &end)?;
        Ok(messages + self.remove_rows(partition, RowKind::Event, start, &end)?)
    }

    /// Removes all rows of a key. Returns how many there were.
    ///
    /// # Errors
    /// As [`purge`](Archive::purge).
    pub fn delete_key(&self, partition: PartitionId, key: &str) -> Result<u64, ArchiveError> {
        let removed = self.purge(partition, key, u64::MAX)?;
        self.inner
            .removals()
            .trimmed
            .remove(&key_prefix(partition, key)?);
        Ok(removed)
    }

    /// Removes a key's events up to a sequence, that one included; messages stay. Returns how many there were. Call it when a
    /// hundred may go, not for each.
    ///
    /// # Errors
    /// As [`purge`](Archive::purge).
    pub fn trim_events(
        &self,
        partition: PartitionId,
        key: &str,
        upto: u64,
    ) -> Result<u64, ArchiveError> {
        let prefix = key_prefix(partition, key)?;
        let floor = self.inner.removals().trimmed.get(&prefix).copied();
        let start = floor.map_or(0, |floor| floor.saturating_add(1));
        if start > upto {
            return Ok(0);
        }
        let (start, end) = (
            row_key(partition, key, start)?,
            row_key(partition, key, upto)?,
        );
        let removed = self.remove_rows(partition, RowKind::Event, start, &end)?;
        let mut removals = self.inner.removals();
        if removals.trimmed.len() >= TRIMMED_KEYS_MAX {
            removals.trimmed.clear();
        }
        removals.trimmed.insert(prefix, upto);
        Ok(removed)
    }

    /// Removes all rows of a partition, for a replica that leaves or is filled anew.
    ///
    /// # Errors
    /// As [`purge`](Archive::purge).
    pub fn drop_partition(&self, partition: PartitionId) -> Result<(), ArchiveError> {
        let _removal = Removal::begin(&self.inner);
        let prefix = layout::partition_prefix(partition);
        self.inner
            .removals()
            .trimmed
            .retain(|key, _| !key.starts_with(&prefix));
        // Counts first: without rows they would be wrong.
        for keyspace in [
            &self.inner.counts,
            &self.inner.messages,
            &self.inner.events,
            &self.inner.peers,
        ] {
            let mut start = prefix.to_vec();
            loop {
                let rows = match layout::partition_end(partition) {
                    Some(end) => keyspace.range(start.clone()..end.to_vec()),
                    None => keyspace.range(start.clone()..),
                };
                let mut batch = self.inner.db.batch();
                for guard in rows.take(CHUNK_ROWS) {
                    let key = guard.key()?;
                    start = key.to_vec();
                    batch.remove(keyspace, key);
                }
                if batch.is_empty() {
                    break;
                }
                batch.commit()?;
            }
        }
        Ok(())
    }

    /// An append below a trim's end (a replay) makes the next trim look from the start.
    pub(super) fn forget_trim(&self, prefix: &[u8], seq: u64) {
        let mut removals = self.inner.removals();
        if removals
            .trimmed
            .get(prefix)
            .is_some_and(|floor| seq <= *floor)
        {
            removals.trimmed.remove(prefix);
        }
    }

    /// Forgets the key's count, before the first row goes, so that a crash in between leaves no wrong one.
    pub(super) fn begin_removal(
        &self,
        partition: PartitionId,
        key: &str,
    ) -> Result<Removal<'_>, ArchiveError> {
        let prefix = key_prefix(partition, key)?;
        let removal = Removal::begin(&self.inner);
        self.inner.counts.remove(prefix)?;
        Ok(removal)
    }

    /// Removes the rows between two keys, both included, with their index entries.
    pub(super) fn remove_rows(
        &self,
        partition: PartitionId,
        kind: RowKind,
        mut start: Vec<u8>,
        end: &[u8],
    ) -> Result<u64, ArchiveError> {
        let keyspace = self.inner.keyspace(kind);
        let mut removed = 0;
        loop {
            let mut batch = self.inner.db.batch();
            let mut rows = 0;
            for guard in keyspace
                .range(start.clone()..=end.to_vec())
                .take(CHUNK_ROWS)
            {
                let (key, value) = guard.into_inner()?;
                if let Some(peer) = layout::read_row_value(value)?.peer {
                    let (name, seq) = layout::read_row_key(&key)?;
                    batch.remove(
                        &self.inner.peers,
                        layout::peer_key(partition, &name, &peer, seq)?,
                    );
                }
                start = key.to_vec();
                batch.remove(keyspace, key);
                rows += 1;
            }
            if rows == 0 {
                return Ok(removed);
            }
            batch.commit()?;
            removed += rows;
        }
    }
}
