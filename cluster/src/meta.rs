//! The meta group: who is a member, and which life each node is in.
//!
//! Its log decides *incarnations*: a node that starts proposes [`MetaEntry::NodeStarted`], and the index of that entry is
//! its incarnation. A later start has a higher one, on every replica, whatever clocks say.
//!
//! The pool's description (partitions, domains, constants) is in every node's pool file; [`MetaEntry::PoolCreated`] records
//! its digest, so that a node with another description can't take part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError, Record};
use storage::snapshot::{SnapshotHead, SnapshotWriter};
use storage::state_store::{AppliedMark, StateBatch, StateStore, Table};

use crate::node_id::{Group, Incarnation, NodeId};
use crate::raft::{CommittedEntry, Machine, MachineError, SnapshotFile, SnapshotHome, mark_place};
use crate::rebuild;

/// One entry of the meta log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaEntry {
    /// The pool's description, by its digest; the first one counts.
    PoolCreated {
        /// SHA-256 over the description.
        digest: [u8; 32],
    },
    /// A node begins a new life; the entry's index is its incarnation.
    NodeStarted {
        /// Which.
        node: NodeId,
    },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredMetaEntry(MetaEntry);

impl Record for StoredMetaEntry {
    const VERSION: u8 = 1;
    const NAME: &'static str = "meta entry";
}

impl MetaEntry {
    /// Its bytes, to be proposed.
    ///
    /// # Errors
    /// Never for these entries, in practice.
    pub fn encode(self) -> Result<Bytes, CodecError> {
        codec::encode_frame(&StoredMetaEntry(self), codec::RECORD_BYTES_MAX).map(Bytes::from)
    }

    /// The entry in these bytes.
    ///
    /// # Errors
    /// When they are none.
    pub fn decode(bytes: &[u8]) -> Result<MetaEntry, CodecError> {
        codec::decode_frame::<StoredMetaEntry>(bytes, codec::RECORD_BYTES_MAX).map(|entry| entry.0)
    }
}

/// What the meta group has decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaState {
    /// The digest of the pool's description.
    pub digest: Option<[u8; 32]>,
    /// The last start of each node.
    pub starts: BTreeMap<NodeId, Incarnation>,
}

/// Table, key and value.
type StoredRow = (Table, Vec<u8>, Vec<u8>);

const DIGEST_TABLE: Table = Table(0);
const STARTS_TABLE: Table = Table(1);

/// The meta group's replica.
pub struct MetaMachine {
    state: Arc<Mutex<MetaState>>,
    store: Option<Box<dyn StateStore>>,
    mark: Option<Bytes>,
    snapshots: PathBuf,
}

impl MetaMachine {
    /// Loads what the store has; readers share `state`.
    ///
    /// # Errors
    /// When a row can't be read.
    pub fn load(
        mut store: Box<dyn StateStore>,
        snapshots: PathBuf,
        state: Arc<Mutex<MetaState>>,
    ) -> Result<MetaMachine, MachineError> {
        let loaded = load_state(&mut *store)?;
        *state.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
        let mark = store.applied();
        Ok(MetaMachine {
            state,
            store: Some(store),
            mark,
            snapshots,
        })
    }
}

/// The state whose rows a store holds.
fn load_state(store: &mut dyn StateStore) -> Result<MetaState, MachineError> {
    let mut loaded = MetaState::default();
    let mut failed = None;
    let load = store.load(&mut |table, key, value| {
        if let Err(error) = loaded.load_row(table, key, value) {
            failed = Some(error);
        }
    });
    load.map_err(|error| MachineError::caused("the meta store does not load", error))?;
    match failed {
        None => Ok(loaded),
        Some(error) => Err(MachineError::caused(
            "a row of the meta store does not read",
            error,
        )),
    }
}

impl MetaState {
    fn load_row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), CodecError> {
        match table {
            DIGEST_TABLE => self.digest = Some(codec::body(value)?),
            _ => {
                self.starts.insert(codec::body(key)?, codec::body(value)?);
            }
        }
        Ok(())
    }

    fn rows(&self) -> Result<Vec<StoredRow>, CodecError> {
        let mut rows = Vec::new();
        if let Some(digest) = &self.digest {
            rows.push((
                DIGEST_TABLE,
                codec::row_bytes(&())?,
                codec::row_bytes(digest)?,
            ));
        }
        for (node, incarnation) in &self.starts {
            rows.push((
                STARTS_TABLE,
                codec::row_bytes(node)?,
                codec::row_bytes(incarnation)?,
            ));
        }
        Ok(rows)
    }

    /// Whether this life of a node has begun, as far as this replica has heard. A life that a later one has followed counts:
    /// a start entry that was proposed twice may be followed by itself.
    pub fn has_begun(&self, node: NodeId, life: Incarnation) -> bool {
        self.starts.get(&node).is_some_and(|last| life <= *last)
    }

    fn apply(&mut self, index: u64, entry: MetaEntry) {
        match entry {
            MetaEntry::PoolCreated { digest } => {
                self.digest.get_or_insert(digest);
            }
            MetaEntry::NodeStarted { node } => {
                self.starts.insert(node, Incarnation(index));
            }
        }
    }
}

impl Machine for MetaMachine {
    fn applied(&self) -> Option<Bytes> {
        self.mark.clone()
    }

    fn apply(&mut self, entries: Vec<CommittedEntry>, mark: Bytes) -> Result<(), MachineError> {
        let rows = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            for CommittedEntry { index, payload, .. } in entries {
                let Some(payload) = payload else { continue };
                let entry = MetaEntry::decode(&payload)
                    .map_err(|error| MachineError::caused("a meta entry does not read", error))?;
                state.apply(index, entry);
            }
            state
                .rows()
                .map_err(|error| MachineError::caused("a meta row does not encode", error))?
        };
        // Few rows and few entries: all of them each time.
        let mut batch = StateBatch::new();
        for (table, key, value) in rows {
            batch.put(table, key, value);
        }
        batch.mark(AppliedMark(mark.clone()));
        if let Some(store) = &mut self.store {
            store
                .write(batch)
                .map_err(|error| MachineError::caused("the meta store takes no rows", error))?;
        }
        self.mark = Some(mark);
        Ok(())
    }

    fn write_snapshot(&mut self, mark: Bytes) -> Result<SnapshotFile, MachineError> {
        let failed = |error| MachineError::caused("a snapshot could not be written", error);
        let (_, index) = mark_place(&mark)?;
        let head = SnapshotHead {
            group: Group::META.0,
            index,
            applied: AppliedMark(mark),
        };
        let mut writer = SnapshotWriter::create(&self.snapshots, head).map_err(failed)?;
        let rows = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .rows();
        for (table, key, value) in
            rows.map_err(|error| MachineError::caused("a meta row does not encode", error))?
        {
            writer.row(table, &key, &value).map_err(failed)?;
        }
        let snapshot = writer.finish().map_err(failed)?;
        // So that the next start seldom finds a store older than the snapshot.
        if let Some(store) = &mut self.store {
            store
                .flush()
                .map_err(|error| MachineError::caused("the meta store can't be flushed", error))?;
        }
        Ok(SnapshotFile {
            path: snapshot.path,
            id: index.to_string(),
        })
    }

    fn snapshot(&self) -> Option<(Bytes, PathBuf)> {
        let found = storage::snapshot::latest(&self.snapshots, Group::META.0);
        let snapshot = found
            .inspect_err(|error| tracing::warn!(%error, "snapshots can't be listed"))
            .ok()??;
        Some((snapshot.manifest.head.applied.0, snapshot.path))
    }

    fn snapshot_home(&self) -> Option<SnapshotHome> {
        Some(SnapshotHome {
            folder: self.snapshots.clone(),
            archive: None,
        })
    }

    fn install(&mut self, received: &Path) -> Result<(), MachineError> {
        let failed = |error| MachineError::caused("a received snapshot can't be used", error);
        let snapshot = storage::snapshot::adopt(received, Group::META.0).map_err(failed)?;
        let Some(store) = &mut self.store else {
            return Err(MachineError::new("the meta store is closed"));
        };
        rebuild::fill(&mut **store, &snapshot)?;
        let loaded = load_state(&mut **store)?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
        self.mark = Some(snapshot.manifest.head.applied.0);
        Ok(())
    }
}

impl Drop for MetaMachine {
    fn drop(&mut self) {
        if let Some(store) = self.store.take()
            && let Err(error) = store.close()
        {
            tracing::warn!(%error, "the meta store did not close cleanly; the next start may rebuild it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All entries in one record, so that one golden line holds them.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Samples(Vec<StoredMetaEntry>);

    impl Record for Samples {
        const VERSION: u8 = StoredMetaEntry::VERSION;
        const NAME: &'static str = "meta-entries";
    }

    #[test]
    fn a_life_has_begun_when_its_entry_is_applied() {
        let mut state = MetaState::default();
        state.apply(7, MetaEntry::NodeStarted { node: NodeId(3) });
        let check = |state: &MetaState, node, life, expect| {
            assert_eq!(
                state.has_begun(NodeId(node), Incarnation(life)),
                expect,
                "{node}: {life}"
            );
        };
        check(&state, 3, 7, true);
        check(&state, 3, 8, false);
        check(&state, 3, u64::MAX, false);
        check(&state, 2, 7, false);
        state.apply(9, MetaEntry::NodeStarted { node: NodeId(3) });
        check(&state, 3, 8, true);
        check(&state, 3, 9, true);
        check(&state, 3, 10, false);
    }

    #[test]
    fn golden_bytes() {
        let entries = [
            MetaEntry::PoolCreated { digest: [7; 32] },
            MetaEntry::NodeStarted { node: NodeId(3) },
        ];
        let samples = Samples(entries.map(StoredMetaEntry).into());
        storage::golden!("../tests/goldens/partition.txt", &samples);
    }
}
