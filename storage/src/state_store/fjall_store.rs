//! The state store on fjall: the alternative to sled, one database a partition.

use std::path::Path;

use crate::engine::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use bytes::Bytes;

use super::opening::StoreDir;
use super::rows::{RowCutter, RowJoiner, own_rows_start};
use super::{Opened, StateBatch, StateStore, StateStoreError, StateStoreOptions, VisitRow};

/// The one keyspace.
const ROWS: &str = "rows";

/// Bytes of new rows in memory before they are written as a table: small, as there is one a partition.
const MEMTABLE_BYTES: u64 = 4 * 1024 * 1024;

/// Rows removed in one batch by a wipe.
const WIPE_ROWS: usize = 4096;

/// A [`StateStore`] on fjall.
pub struct FjallStateStore {
    dir: StoreDir,
    db: Database,
    rows: Keyspace,
    cutter: RowCutter,
    /// Whether the cutter knows the long values: only a load shows them all.
    loaded: bool,
    applied: Option<Bytes>,
    failed: bool,
}

impl FjallStateStore {
    /// Opens or makes the store of this folder.
    ///
    /// # Errors
    /// As [`open_state_store`](super::open_state_store).
    pub fn open(options: &StateStoreOptions) -> Result<(Self, Opened), StateStoreError> {
        let dir = StoreDir::new(options);
        dir.open(|engine_dir| {
            let (db, rows) = open_database(engine_dir, options.cache_bytes)?;
            let mut store = FjallStateStore {
                dir: dir.clone(),
                db,
                rows,
                cutter: RowCutter::default(),
                loaded: false,
                applied: None,
                failed: false,
            };
            store.applied = store.join_rows(&own_rows_start(), &mut |_, _, _| {})?;
            store.loaded = store.rows.is_empty()?;
            Ok(store)
        })
    }

    /// Feeds all rows from `start` on through a joiner and returns the applied mark.
    fn join_rows(
        &mut self,
        start: &[u8],
        visit: &mut VisitRow<'_>,
    ) -> Result<Option<Bytes>, StateStoreError> {
        let mut joiner = RowJoiner::new(&mut self.cutter);
        for row in self.rows.range(start..) {
            let (key, row) = row.into_inner()?;
            joiner.feed(&key, &row, visit)?;
        }
        joiner.finish()
    }

    /// Runs a call unless one failed before; a failure is remembered here and for the next opening.
    fn guarded<T>(
        &mut self,
        call: impl FnOnce(&mut Self) -> Result<T, StateStoreError>,
    ) -> Result<T, StateStoreError> {
        if self.failed {
            return Err(StateStoreError::Failed);
        }
        call(self).inspect_err(|error| {
            tracing::error!(%error, "a state store failed and will be rebuilt");
            self.failed = true;
            if let Err(error) = self.dir.mark_doubtful() {
                tracing::error!(%error, "the marker of a failed state store cannot be removed");
            }
        })
    }

    fn load_all(&mut self, visit: &mut VisitRow<'_>) -> Result<(), StateStoreError> {
        self.applied = self.join_rows(&[], visit)?;
        self.loaded = true;
        Ok(())
    }

    fn remove_from(&mut self, start: &[u8]) -> Result<(), StateStoreError> {
        loop {
            let mut removals = self.db.batch();
            for row in self.rows.range(start..).take(WIPE_ROWS) {
                removals.remove(&self.rows, row.key()?);
            }
            if removals.is_empty() {
                return Ok(());
            }
            removals.commit()?;
        }
    }
}

impl StateStore for FjallStateStore {
    fn load(&mut self, visit: &mut VisitRow<'_>) -> Result<(), StateStoreError> {
        self.guarded(|store| store.load_all(visit))
    }

    fn write(&mut self, batch: StateBatch) -> Result<(), StateStoreError> {
        batch.validate()?;
        self.guarded(|store| {
            if !store.loaded {
                store.load_all(&mut |_, _, _| {})?;
            }
            let mut changes = store.db.batch();
            for (key, row) in store.cutter.cut(&batch) {
                match row {
                    Some(row) => changes.insert(&store.rows, key, row),
                    None => changes.remove(&store.rows, key),
                }
            }
            changes.commit()?;
            if let Some(mark) = batch.applied() {
                store.applied = Some(mark.0.clone());
            }
            Ok(())
        })
    }

    fn applied(&self) -> Option<Bytes> {
        self.applied.clone()
    }

    fn flush(&mut self) -> Result<(), StateStoreError> {
        self.guarded(|store| Ok(store.db.persist(PersistMode::Buffer)?))
    }

    fn wipe(&mut self) -> Result<(), StateStoreError> {
        self.guarded(|store| {
            store.applied = None;
            // The own rows go first: from then on the rest counts as an unfinished fill.
            store.remove_from(&own_rows_start())?;
            store.remove_from(&[])?;
            store.cutter.clear();
            store.loaded = true;
            Ok(())
        })
    }

    fn close(mut self: Box<Self>) -> Result<(), StateStoreError> {
        self.guarded(|store| Ok(store.db.persist(PersistMode::SyncAll)?))?;
        let dir = self.dir.clone();
        drop(self);
        Ok(dir.mark_clean()?)
    }
}

impl From<fjall::Error> for StateStoreError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Locked => StateStoreError::Locked,
            error => StateStoreError::Engine(Box::new(error)),
        }
    }
}

fn open_database(
    engine_dir: &Path,
    cache_bytes: u64,
) -> Result<(Database, Keyspace), StateStoreError> {
    let db = Database::builder(engine_dir)
        .cache_size(cache_bytes)
        .worker_threads(1)
        .open()?;
    let rows = db.keyspace(ROWS, || {
        KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
    })?;
    Ok((db, rows))
}
