//! A state store in memory, for simulation: its "disk" outlives it and can lose what was not flushed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{StateBatch, StateStore, StateStoreError, Table, VisitRow};

#[derive(Debug, Clone, Default)]
struct Contents {
    rows: BTreeMap<(Table, Bytes), Bytes>,
    applied: Option<Bytes>,
}

#[derive(Debug, Default)]
struct Disk {
    now: Contents,
    flushed: Contents,
}

/// What a [`MemoryStateStore`] writes to. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A crash: the contents go back to the last flush, as far as a store may.
    pub fn lose_unflushed(&self) {
        let mut disk = self.lock();
        disk.now = disk.flushed.clone();
    }

    /// Nothing panics under this lock, and if something did, every batch is applied whole: so a poisoned lock is no reason
    /// to stop.
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`StateStore`] on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryStateStore {
    disk: MemoryDisk,
}

impl MemoryStateStore {
    /// The store on this disk, with what is there.
    #[must_use]
    pub fn open(disk: &MemoryDisk) -> Self {
        MemoryStateStore { disk: disk.clone() }
    }
}

impl StateStore for MemoryStateStore {
    fn load(&mut self, visit: &mut VisitRow<'_>) -> Result<(), StateStoreError> {
        // Cloned (bytes are shared), so that the visitor may look at the disk.
        let rows = self.disk.lock().now.rows.clone();
        for ((table, key), value) in &rows {
            visit(*table, key, value);
        }
        Ok(())
    }

    fn write(&mut self, batch: StateBatch) -> Result<(), StateStoreError> {
        batch.validate()?;
        let mut disk = self.disk.lock();
        for (table, key, value) in batch.changes() {
            let row = (table, key.clone());
            match value {
                Some(value) => drop(disk.now.rows.insert(row, value.clone())),
                None => drop(disk.now.rows.remove(&row)),
            }
        }
        if let Some(mark) = batch.applied() {
            disk.now.applied = Some(mark.0.clone());
        }
        Ok(())
    }

    fn applied(&self) -> Option<Bytes> {
        self.disk.lock().now.applied.clone()
    }

    fn flush(&mut self) -> Result<(), StateStoreError> {
        let mut disk = self.disk.lock();
        disk.flushed = disk.now.clone();
        Ok(())
    }

    fn wipe(&mut self) -> Result<(), StateStoreError> {
        let mut disk = self.disk.lock();
        disk.now = Contents::default();
        Ok(())
    }

    fn close(mut self: Box<Self>) -> Result<(), StateStoreError> {
        self.flush()
    }
}
