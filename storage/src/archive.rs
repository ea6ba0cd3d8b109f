//! The archive: every message and room event of every key, as (key, sequence) → record, shared by a node's partitions.
//!
//! A key is a bare JID: a user or a room. Its rows are written once in rising sequence, read in pages from either end, and
//! removed from the old end. The archive lives in one fjall database with these keyspaces:
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `messages` | partition, key, sequence | time, peer, record |
//! | `events` (joins, parts, subjects, …: trimmed to the newest 1,000 a key) | the same | the same |
//! | `peers` (for XEP-0313 `with`) | partition, key, peer, sequence | kind of the row |
//! | `counts` (a cache) | partition, key | messages up to a sequence |
//!
//! Writes are idempotent, so that the log can be replayed over them, and not synced: [`Archive::sync`] is called before the
//! log is purged. A partition's rows can be listed, hashed and dropped. Reads see one state of the database if they go
//! through one [`ArchiveView`].
//!
//! All calls may block and are not for an async thread, but for [`Archive::append`] while [`Archive::is_pressed`] says no.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::{
    AbstractTree, BlockSizePolicy, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
};
use thiserror::Error;

mod copy;
mod digest;
mod layout;
mod removal;
mod row;
mod view;

pub use copy::{KeyList, KeyListError, KeyListWriter, MissingRows, key_list_path, remove_key_list};
pub use digest::PartitionHash;
pub use row::{ArchiveRow, KeyExtent, Order, Page, PartitionId, RowKind, RowPosition, Rows};
pub use view::ArchiveView;

use removal::Removals;

/// How the archive is opened.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// Cache of table blocks in bytes. Default: 64 MiB.
    pub cache_bytes: u64,
    /// New messages in memory before they are written as a table, in bytes; the other keyspaces get a quarter each.
    /// Default: 16 MiB.
    pub memtable_bytes: u64,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        ArchiveOptions {
            cache_bytes: 64 << 20,
            memtable_bytes: 16 << 20,
        }
    }
}

/// Half of what makes fjall hold up writers: four memtables or twenty tables that wait to be written or merged.
const SEALED_PRESSED: usize = 2;
const RUNS_PRESSED: usize = 10;

/// Handle of a node's archive. Clones are the same archive.
#[derive(Clone)]
pub struct Archive {
    inner: Arc<Inner>,
}

struct Inner {
    messages: Keyspace,
    events: Keyspace,
    peers: Keyspace,
    counts: Keyspace,
    removals: Mutex<Removals>,
    // Dropped last: the keyspaces belong to it.
    db: Database,
}

impl Archive {
    /// Opens or makes the archive in this folder.
    ///
    /// # Errors
    /// [`ArchiveError::Locked`] if another process has it, [`ArchiveError::Engine`] if it cannot be read or made.
    pub fn open(dir: &Path, options: &ArchiveOptions) -> Result<Self, ArchiveError> {
        let db = Database::builder(dir)
            .cache_size(options.cache_bytes)
            .open()?;
        let keyspace = |name: &str, memtable_bytes: u64, block_bytes: u32| {
            db.keyspace(name, || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(memtable_bytes)
                    .data_block_size_policy(BlockSizePolicy::all(block_bytes))
            })
        };
        // A page of 50 messages is about 16 KiB, so one or two blocks.
        let inner = Inner {
            messages: keyspace("messages", options.memtable_bytes, 16 * 1024)?,
            events: keyspace("events", options.memtable_bytes / 4, 8 * 1024)?,
            peers: keyspace("peers", options.memtable_bytes / 4, 4 * 1024)?,
            counts: keyspace("counts", options.memtable_bytes / 4, 4 * 1024)?,
            removals: Mutex::default(),
            db,
        };
        Ok(Archive {
            inner: Arc::new(inner),
        })
    }

    /// Writes rows, all or none. Not synced. A row that is there is replaced, which is how edits are written; its peer and
    /// time must stay.
    ///
    /// # Errors
    /// [`ArchiveError::BadName`] before anything is written.
    pub fn append(&self, partition: PartitionId, rows: &[ArchiveRow]) -> Result<(), ArchiveError> {
        let mut batch = self.inner.db.batch();
        for row in rows {
            let key = layout::row_key(partition, &row.key, row.seq)?;
            if let Some(peer) = &row.peer {
                let entry = layout::peer_key(partition, &row.key, peer, row.seq)?;
                batch.insert(&self.inner.peers, entry, [layout::kind_byte(row.kind)]);
            }
            batch.insert(self.inner.keyspace(row.kind), key, layout::row_value(row));
        }
        batch.commit()?;
        for row in rows.iter().filter(|row| row.kind == RowKind::Event) {
            self.forget_trim(&layout::key_prefix(partition, &row.key)?, row.seq);
        }
        Ok(())
    }

    /// Whether tables are written more slowly than rows come, so that an append may soon have to wait for the disk. While
    /// this is false an append touches memory and the page cache only.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        let written = [&self.inner.messages, &self.inner.events, &self.inner.peers];
        written.iter().any(|keyspace| {
            keyspace.tree.sealed_memtable_count() >= SEALED_PRESSED
                || keyspace.tree.l0_run_count() >= RUNS_PRESSED
        })
    }

    /// Makes everything appended and removed so far durable.
    ///
    /// # Errors
    /// [`ArchiveError::Engine`]. After it nothing is certain about what is on disk: the node stops, and never retries.
    pub fn sync(&self) -> Result<(), ArchiveError> {
        Ok(self.inner.db.persist(PersistMode::SyncAll)?)
    }

    /// The archive as it is now: later appends and removals are not seen. Holding one keeps removed rows on disk.
    #[must_use]
    pub fn view(&self) -> ArchiveView {
        ArchiveView::new(Arc::clone(&self.inner))
    }

    /// [`ArchiveView::range`] of now.
    ///
    /// # Errors
    /// As there.
    pub fn range(
        &self,
        partition: PartitionId,
        key: &str,
        rows: Rows,
        page: &Page,
    ) -> Result<Vec<ArchiveRow>, ArchiveError> {
        self.view().range(partition, key, rows, page)
    }

    /// [`ArchiveView::range_with`] of now.
    ///
    /// # Errors
    /// As there.
    pub fn range_with(
        &self,
        partition: PartitionId,
        key: &str,
        peer: &str,
        page: &Page,
    ) -> Result<Vec<ArchiveRow>, ArchiveError> {
        self.view().range_with(partition, key, peer, page)
    }

    /// [`ArchiveView::first_seq`] of now.
    ///
    /// # Errors
    /// As there.
    pub fn first_seq(
        &self,
        partition: PartitionId,
        key: &str,
        rows: Rows,
    ) -> Result<Option<u64>, ArchiveError> {
        self.view().first_seq(partition, key, rows)
    }

    /// [`ArchiveView::last_seq`] of now.
    ///
    /// # Errors
    /// As there.
    pub fn last_seq(
        &self,
        partition: PartitionId,
        key: &str,
        rows: Rows,
    ) -> Result<Option<u64>, ArchiveError> {
        self.view().last_seq(partition, key, rows)
    }

    /// [`ArchiveView::seq_at_or_after`] of now.
    ///
    /// # Errors
    /// As there.
    pub fn seq_at_or_after(
        &self,
        partition: PartitionId,
        key: &str,
        rows: Rows,
        time: u64,
    ) -> Result<Option<u64>, ArchiveError> {
        self.view().seq_at_or_after(partition, key, rows, time)
    }

    /// [`ArchiveView::count`] of now.
    ///
    /// # Errors
    /// As there.
    pub fn count(&self, partition: PartitionId, key: &str) -> Result<u64, ArchiveError> {
        self.view().count(partition, key)
    }

    /// [`ArchiveView::hash`] of now.
    ///
    /// # Errors
    /// As there.
    pub fn hash(
        &self,
        partition: PartitionId,
        seq_max: Option<u64>,
    ) -> Result<PartitionHash, ArchiveError> {
        self.view().hash(partition, seq_max)
    }
}

impl Inner {
    fn keyspace(&self, kind: RowKind) -> &Keyspace {
        match kind {
            RowKind::Message => &self.messages,
            RowKind::Event => &self.events,
        }
    }

    /// Nothing panics under this lock, and its content is right between any two statements.
    fn removals(&self) -> std::sync::MutexGuard<'_, Removals> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can go wrong with the archive.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// A key or peer that is not the text of a JID: empty, too long, or with a NUL.
    #[error("the name of an archive or of its peer is no JID")]
    BadName,
    /// Another process has the archive open.
    #[error("the archive is in use by another process")]
    Locked,
    /// A row is nonsense: the replica must be fetched anew.
    #[error("the archive is damaged: {0}")]
    Damaged(&'static str),
    /// The engine or the disk below it failed.
    #[error("the archive's engine failed")]
    Engine(#[source] Box<fjall::Error>),
}

impl From<fjall::Error> for ArchiveError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Locked => ArchiveError::Locked,
            error => ArchiveError::Engine(Box::new(error)),
        }
    }
}
