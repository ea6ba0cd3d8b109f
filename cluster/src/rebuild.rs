//! Opens a group's state store so that the log can be replayed behind it: never older than the newest snapshot.
//!
//! The log is purged up to a snapshot, while the store is written now and then and not synced, so a killed process leaves a
//! store that may be older than what the log still has. Whatever the store's own verdict, the marks decide:
//!
//! | store | its mark, against the newest snapshot | what is done |
//! |---|---|---|
//! | kept | the same or newer | kept |
//! | kept | older | wiped and filled from the snapshot |
//! | fresh or deleted | none | filled from the snapshot |
//! | any | no snapshot | as it is: the log has everything behind its mark, or the group refuses to start |
//!
//! A snapshot is read to its end before anything is wiped for it. One that is damaged is set aside, and the one before it
//! is tried. Whether the log really goes on behind the mark is checked when the group starts.

use std::path::Path;

use storage::snapshot::{Snapshot, SnapshotError, SnapshotReader};
use storage::state_store::{
    Opened, RebuildReason, StateBatch, StateStore, StateStoreOptions, open_state_store,
};

use crate::node_id::{Group, PartitionId};
use crate::raft::{MachineError, mark_place};

/// The meta group's store among those of the partitions.
const META_STORE: u32 = 65_535;

/// The number under which a group's store lies in a data folder.
#[must_use]
pub fn store_of(group: Group) -> u32 {
    match group.partition() {
        None => META_STORE,
        Some(partition) => u32::from(partition.0),
    }
}

/// The group whose store lies under a number.
#[must_use]
pub fn group_of_store(number: u32) -> Option<Group> {
    match number {
        META_STORE => Some(Group::META),
        _ => u16::try_from(number)
            .ok()
            .map(|partition| Group::of(PartitionId(partition))),
    }
}

/// How many rows go into a filled store at once.
const FILL_ROWS: usize = 1024;

/// Opens the store of a group by the rules of the module.
///
/// # Errors
/// When the store can't be opened or takes no rows, or the snapshots can't be read.
pub fn open_store(
    options: &StateStoreOptions,
    snapshots: &Path,
    group: Group,
) -> Result<Box<dyn StateStore>, MachineError> {
    let opened = open_state_store(options)
        .map_err(|error| MachineError::caused("a state store can't be opened", error))?;
    let mut store = opened.store;
    if let Opened::Rebuild(reason) = opened.opened {
        // A store is a checkpoint: after an unclean stop it is made anew. Only an engine's failure is worth a look.
        let what = "the state store is rebuilt from the snapshot and the log";
        match reason {
            RebuildReason::EngineFailed(_) => tracing::warn!(%group, %reason, "{what}"),
            _ => tracing::info!(%group, %reason, "{what}"),
        }
    }
    bring_up(&mut *store, snapshots, group)?;
    Ok(store)
}

/// Fills a store that is older than the newest whole snapshot. Gives the index of the snapshot it was filled from.
pub(crate) fn bring_up(
    store: &mut dyn StateStore,
    snapshots: &Path,
    group: Group,
) -> Result<Option<u64>, MachineError> {
    let unreadable = |error| MachineError::caused("the snapshots can't be read", error);
    // What is found here is what the log is purged up to soon.
    storage::snapshot::settle(snapshots).map_err(|error| unreadable(error.into()))?;
    let mark = store.applied().map(|mark| mark_place(&mark)).transpose()?;
    let applied = mark.map(|(_, index)| index);
    while let Some(snapshot) = storage::snapshot::latest(snapshots, group.0).map_err(unreadable)? {
        let index = snapshot.manifest.head.index;
        if applied.is_some_and(|applied| applied >= index) {
            break;
        }
        match storage::snapshot::verify(&snapshot.path, group.0) {
            Ok(_) => {
                tracing::info!(%group, ?applied, index, "the state store is filled from the snapshot");
                fill(store, &snapshot)?;
                return Ok(Some(index));
            }
            Err(SnapshotError::Io(error)) => return Err(unreadable(error.into())),
            Err(error) => {
                let aside = storage::snapshot::set_aside(&snapshot.path)
                    .map_err(|error| unreadable(error.into()))?;
                tracing::error!(%group, %error, path = %aside.display(), "a damaged snapshot is set aside");
            }
        }
    }
    Ok(None)
}

/// Replaces all that a store has by a snapshot. A crash half-way leaves a store without a mark, which is filled anew.
pub(crate) fn fill(store: &mut dyn StateStore, snapshot: &Snapshot) -> Result<(), MachineError> {
    let damaged = |error| MachineError::caused("a snapshot does not read", error);
    let refused = |error| MachineError::caused("the state store takes no rows", error);
    let reader = SnapshotReader::open(&snapshot.path).map_err(damaged)?;
    store.wipe().map_err(refused)?;
    let mut batch = StateBatch::new();
    for row in reader {
        let row = row.map_err(damaged)?;
        batch.put(row.table, row.key, row.value);
        if batch.len() >= FILL_ROWS {
            store.write(std::mem::take(&mut batch)).map_err(refused)?;
        }
    }
    batch.mark(snapshot.manifest.head.applied.clone());
    store.write(batch).map_err(refused)?;
    store.flush().map_err(refused)
}

#[cfg(test)]
mod tests;
