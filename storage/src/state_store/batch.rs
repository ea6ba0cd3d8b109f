//! A batch: the row changes of some applied log entries, and the mark that they were applied.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::StateStoreError;

/// The most bytes of a key.
pub const KEY_BYTES_MAX: usize = 8 * 1024;

/// The most bytes of a value. Values over 1 KiB are stored as several rows, so most should be far smaller.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A kind of rows. `Table(255)` is the store's own and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub u8);

/// The table of the store's own rows.
pub(super) const OWN_TABLE: Table = Table(u8::MAX);

/// How far the log was applied, in the caller's own bytes: log id and membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedMark(pub Bytes);

/// Row changes that take effect together. The last change of a row counts, so a batch may collect those of many entries.
#[derive(Clone, Default)]
pub struct StateBatch {
    changes: BTreeMap<(Table, Bytes), Option<Bytes>>,
    applied: Option<AppliedMark>,
}

impl StateBatch {
    /// A batch that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a row.
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.insert((table, key.into()), Some(value.into()));
    }

    /// Removes a row; that there is none is fine.
    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.changes.insert((table, key.into()), None);
    }

    /// Sets the applied mark. Without one the store's mark stays, which only the filling of a wiped store wants: its last
    /// batch sets the mark, and a store that has rows but no mark is rebuilt.
    pub fn mark(&mut self, applied: AppliedMark) {
        self.applied = Some(applied);
    }

    /// How many rows it changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether it changes no row (it may still move the mark).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes in (table, key) order; `None` removes.
    pub fn changes(&self) -> impl Iterator<Item = (Table, &Bytes, Option<&Bytes>)> {
        self.changes
            .iter()
            .map(|((table, key), value)| (*table, key, value.as_ref()))
    }

    /// The applied mark, if it sets one.
    #[must_use]
    pub fn applied(&self) -> Option<&AppliedMark> {
        self.applied.as_ref()
    }

    /// Refuses what no backend could store, before any of it is stored.
    pub(super) fn validate(&self) -> Result<(), StateStoreError> {
        let within = |what, bytes, limit| match bytes > limit {
            true => Err(StateStoreError::TooLong { what, bytes, limit }),
            false => Ok(()),
        };
        for (table, key, value) in self.changes() {
            within(
                "table number",
                usize::from(table.0),
                usize::from(OWN_TABLE.0) - 1,
            )?;
            within("key", key.len(), KEY_BYTES_MAX)?;
            within("value", value.map_or(0, Bytes::len), VALUE_BYTES_MAX)?;
        }
        within(
            "applied mark",
            self.applied.as_ref().map_or(0, |mark| mark.0.len()),
            VALUE_BYTES_MAX,
        )
    }
}

impl std::fmt::Debug for StateBatch {
    /// Counts only: rows hold what users wrote.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateBatch")
            .field("changes", &self.changes.len())
            .field("applied", &self.applied.is_some())
            .finish()
    }
}
