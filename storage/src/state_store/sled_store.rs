//! The state store on sled 0.34, fenced in.
//!
//! sled is used for what it is good at here: small rows, one writer, atomic batches, no background flush. What it is not
//! trusted with: durability after a power cut (see [`opening`](super::opening)), and never panicking: each call into it is
//! caught, and after the first failure the store refuses everything and the next opening rebuilds it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::opening::StoreDir;
use super::rows::{RowCutter, RowJoiner, own_rows_start};
use super::{Opened, StateBatch, StateStore, StateStoreError, StateStoreOptions, VisitRow};

/// How long an opening waits for sled's own lock: its background threads drop a closed store's file late.
const LOCK_WAIT: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Rows removed in one batch by a wipe.
const WIPE_ROWS: usize = 4096;

/// A [`StateStore`] on sled.
pub struct SledStateStore {
    dir: StoreDir,
    /// `None` after a failure.
    db: Option<sled::Db>,
    cutter: RowCutter,
    /// Whether the cutter knows the long values: only a load shows them all.
    loaded: bool,
    applied: Option<Bytes>,
}

impl SledStateStore {
    /// Opens or makes the store of this folder.
    ///
    /// # Errors
    /// As [`open_state_store`](super::open_state_store).
    pub fn open(options: &StateStoreOptions) -> Result<(Self, Opened), StateStoreError> {
        let dir = StoreDir::new(options);
        dir.open(|engine_dir| {
            let db = open_waiting(engine_dir, options.cache_bytes)?;
            let mut store = SledStateStore {
                dir: dir.clone(),
                db: Some(db),
                cutter: RowCutter::default(),
                loaded: false,
                applied: None,
            };
            let start = own_rows_start();
            store.applied = store.join_rows(&start, &mut |_, _, _| {})?;
            store.loaded = store.guarded(|db| Ok(db.first()?.is_none()))?;
            Ok(store)
        })
    }

    /// Feeds all rows from `start` on through a joiner and returns the applied mark.
    fn join_rows(
        &mut self,
        start: &[u8],
        visit: &mut VisitRow<'_>,
    ) -> Result<Option<Bytes>, StateStoreError> {
        let mut cutter = std::mem::take(&mut self.cutter);
        let joined = self.guarded(|db| {
            let mut joiner = RowJoiner::new(&mut cutter);
            for row in db.range(start.to_vec()..) {
                let (key, row) = row?;
                joiner.feed(&key, &row, visit)?;
            }
            joiner.finish()
        });
        self.cutter = cutter;
        joined
    }

    /// Calls into sled; a panic or error makes the store unusable, and doubtful for the next opening.
    fn guarded<T>(
        &mut self,
        call: impl FnOnce(&sled::Db) -> Result<T, StateStoreError>,
    ) -> Result<T, StateStoreError> {
        let db = self.db.as_ref().ok_or(StateStoreError::Failed)?;
        let error = match catch_unwind(AssertUnwindSafe(|| call(db))) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(panic) => StateStoreError::Panicked(panic_text(panic.as_ref())),
        };
        tracing::error!(%error, "a state store failed and will be rebuilt");
        if let Err(error) = self.dir.mark_doubtful() {
            tracing::error!(%error, "the marker of a failed state store cannot be removed");
        }
        let db = self.db.take();
        // After a panic inside it, sled may panic again while it is dropped.
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!("sled panicked while a failed state store was dropped");
        }
        Err(error)
    }

    /// Learns which values are long, if no load did.
    fn learn(&mut self) -> Result<(), StateStoreError> {
        if !self.loaded {
            self.load(&mut |_, _, _| {})?;
        }
        Ok(())
    }
}

impl StateStore for SledStateStore {
    fn load(&mut self, visit: &mut VisitRow<'_>) -> Result<(), StateStoreError> {
        self.applied = self.join_rows(&[], visit)?;
        self.loaded = true;
        Ok(())
    }

    fn write(&mut self, batch: StateBatch) -> Result<(), StateStoreError> {
        batch.validate()?;
        self.learn()?;
        let mut changes = sled::Batch::default();
        for (key, row) in self.cutter.cut(&batch) {
            match row {
                Some(row) => changes.insert(key, row),
                None => changes.remove(key),
            }
        }
        self.guarded(|db| Ok(db.apply_batch(changes)?))?;
        if let Some(mark) = batch.applied() {
            self.applied = Some(mark.0.clone());
        }
        Ok(())
    }

    fn applied(&self) -> Option<Bytes> {
        self.applied.clone()
    }

    fn flush(&mut self) -> Result<(), StateStoreError> {
        self.guarded(|db| Ok(db.flush().map(drop)?))
    }

    fn wipe(&mut self) -> Result<(), StateStoreError> {
        self.applied = None;
        // The own rows go first: from then on the rest counts as an unfinished fill.
        for start in [own_rows_start(), Vec::new()] {
            self.guarded(|db| {
                loop {
                    let mut removals = sled::Batch::default();
                    let mut rows = 0;
                    for key in db.range(start.clone()..).keys().take(WIPE_ROWS) {
                        removals.remove(key?);
                        rows += 1;
                    }
                    if rows == 0 {
                        return Ok(());
                    }
                    db.apply_batch(removals)?;
                }
            })?;
        }
        self.cutter.clear();
        self.loaded = true;
        Ok(())
    }

    fn close(mut self: Box<Self>) -> Result<(), StateStoreError> {
        self.flush()?;
        let dir = self.dir.clone();
        catch_unwind(AssertUnwindSafe(|| drop(self)))
            .map_err(|panic| StateStoreError::Panicked(panic_text(panic.as_ref())))?;
        Ok(dir.mark_clean()?)
    }
}

impl From<sled::Error> for StateStoreError {
    fn from(error: sled::Error) -> Self {
        StateStoreError::Engine(Box::new(error))
    }
}

/// Opens sled, waiting a moment for its lock.
fn open_waiting(engine_dir: &Path, cache_bytes: u64) -> Result<sled::Db, StateStoreError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let config = sled::Config::new()
            .path(engine_dir)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|panic| StateStoreError::Panicked(panic_text(panic.as_ref())))?;
        match opened {
            Ok(db) => return Ok(db),
            Err(error) if !is_lock(&error) => return Err(error.into()),
            Err(_) if Instant::now() >= deadline => return Err(StateStoreError::Locked),
            Err(_) => thread::sleep(LOCK_PAUSE),
        }
    }
}

/// sled has no error of its own for its lock, only this text.
fn is_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock"))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{AppliedMark, BootId, Engine, RebuildReason, Table};
    use super::*;

    #[test]
    fn a_panic_inside_sled_costs_the_store_and_not_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let boot_id = BootId::from_text("boot-1");
        let options = StateStoreOptions {
            dir: dir.path().to_owned(),
            engine: Engine::Sled,
            cache_bytes: 1 << 20,
            boot_id,
        };
        let (mut store, _) = SledStateStore::open(&options).unwrap();
        let mut batch = StateBatch::new();
        batch.put(Table(1), "key", "value");
        batch.mark(AppliedMark(Bytes::from_static(b"mark")));
        store.write(batch.clone()).unwrap();
        let panicked = store.guarded::<()>(|_| panic!("as sled does"));
        assert!(matches!(panicked, Err(StateStoreError::Panicked(text)) if text == "as sled does"));
        assert!(matches!(store.write(batch), Err(StateStoreError::Failed)));
        assert!(matches!(store.flush(), Err(StateStoreError::Failed)));
        drop(store);
        let (store, opened) = SledStateStore::open(&options).unwrap();
        assert_eq!(opened, Opened::Rebuild(RebuildReason::MarkerUnknown));
        assert_eq!(store.applied(), None);
    }
}
