//! Rows of the archive and the questions asked of it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// The number of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKind {
    /// A message that the archive shows (XEP-0313).
    Message,
    /// Anything else that members see: a join, a part, a subject.
    Event,
}

/// Which kinds of rows are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Messages only.
    Messages,
    /// Other events only.
    Events,
    /// Both, merged by sequence.
    All,
}

impl Rows {
    /// The kinds it stands for.
    pub(super) fn kinds(self) -> &'static [RowKind] {
        match self {
            Rows::Messages => &[RowKind::Message],
            Rows::Events => &[RowKind::Event],
            Rows::All => &[RowKind::Message, RowKind::Event],
        }
    }
}

/// A row of a key's archive.
#[derive(Clone, PartialEq, Eq)]
pub struct ArchiveRow {
    /// The bare JID whose archive it is in.
    pub key: Arc<str>,
    /// Its kind; a sequence is used by one kind only.
    pub kind: RowKind,
    /// Its place among all rows of the key.
    pub seq: u64,
    /// Unix time in milliseconds; never falls as the sequence rises.
    pub time: u64,
    /// The bare JID of the other side, in a user's archive (XEP-0313 §4.1.1, `with`).
    pub peer: Option<Arc<str>>,
    /// The caller's bytes.
    pub record: Bytes,
}

impl ArchiveRow {
    /// Where it stands in a listing of the partition.
    #[must_use]
    pub fn position(&self) -> RowPosition {
        RowPosition {
            kind: self.kind,
            key: Arc::clone(&self.key),
            seq: self.seq,
        }
    }
}

impl fmt::Debug for ArchiveRow {
    /// Without the record: it is what users wrote.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveRow")
            .field("key", &self.key)
            .field("kind", &self.kind)
            .field("seq", &self.seq)
            .field("time", &self.time)
            .field("record_bytes", &self.record.len())
            .finish_non_exhaustive()
    }
}

/// A place in a listing of a partition: messages before events, then by key, then by sequence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPosition {
    /// The row's kind.
    pub kind: RowKind,
    /// The row's key.
    pub key: Arc<str>,
    /// The row's sequence.
    pub seq: u64,
}

/// From which end a page is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Forward (XEP-0059 `after`).
    OldestFirst,
    /// Backward (XEP-0059 `before`).
    NewestFirst,
}

/// A page of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Only rows with a higher sequence.
    pub after: Option<u64>,
    /// Only rows with a lower sequence.
    pub before: Option<u64>,
    /// The order of the rows, and which ones remain when there are more than the limit.
    pub order: Order,
    /// The most rows.
    pub limit: usize,
}

impl Page {
    /// The sequences it may hold, both ends included; `None` if there are none.
    pub(super) fn bounds(&self) -> Option<(u64, u64)> {
        let first = self.after.map_or(Some(0), |after| after.checked_add(1))?;
        let last = self
            .before
            .map_or(Some(u64::MAX), |before| before.checked_sub(1))?;
        (first <= last && self.limit > 0).then_some((first, last))
    }
}

/// A key that has rows, with the first and last sequence of each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyExtent {
    /// The key.
    pub key: Arc<str>,
    /// First and last message.
    pub messages: Option<(u64, u64)>,
    /// First and last other event.
    pub events: Option<(u64, u64)>,
}
