//! The meta group: who is a member, who votes where, and which life each node is in.
//!
//! [`members`]: the members and the rules of their coming and going. [`targets`]: the voters of each group. [`placement`]:
//! where replicas should be, a pure planner. [`capacity`]: whether the others could carry what a node has. [`replica`]: what
//! readers see. [`access`]: [`tokens`] of nodes that join, [`operators`], and the [`audit`] log of what they did.
//! [`versions`]: which builds the nodes run, and which version the pool is at.
//!
//! Its log decides *incarnations*: a node that starts proposes [`VersionEntry::Started`], and the index of that entry is
//! its incarnation. A later start has a higher one, on every replica, whatever clocks say.
//!
//! The pool's description (partitions, domains, constants) is in every node's pool file; [`MetaEntry::PoolCreated`] records
//! its digest, so that a node with another description can't take part.

pub mod access;
pub mod audit;
pub mod backup;
pub mod capacity;
pub mod members;
pub mod operators;
pub mod placement;
pub mod replica;
pub mod targets;
pub mod tokens;
pub mod versions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError, Record};
use storage::snapshot::{SnapshotHead, SnapshotWriter};
use storage::state_store::{AppliedMark, StateBatch, StateStore, Table};

use crate::node_id::{Group, Incarnation, NodeId};
use crate::raft::{CommittedEntry, Machine, MachineError, SnapshotFile, SnapshotHome, mark_place};
use crate::rebuild;
use crate::version::Build;
use access::{Access, AccessEntry, Changes};
use members::{MemberEntry, MemberRow, Members};
pub use replica::{MetaAnswer, MetaRefusal, MetaReplica, Verdict};
use targets::{PlacementEntry, PlacementRow, Placements};
use versions::{VersionEntry, Versions};

/// One entry of the meta log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaEntry {
    /// The pool's description, by its digest; the first one counts.
    PoolCreated {
        /// SHA-256 over the description.
        digest: [u8; 32],
    },
    /// A node begins a new life, with a build that did not say what it supports; the entry's index is its incarnation.
    NodeStarted {
        /// Which.
        node: NodeId,
    },
    /// Members come, change and go.
    Members(MemberEntry),
    /// Groups change their voters.
    Placement(PlacementEntry),
    /// Tokens, operators, the audit log.
    Access(AccessEntry),
    /// Builds and versions.
    Version(VersionEntry),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredMetaEntry(MetaEntry);

impl Record for StoredMetaEntry {
    const VERSION: u8 = 1;
    const NAME: &'static str = "meta entry";
}

/// A row of the members' table.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredMember(MemberRow);

impl Record for StoredMember {
    const VERSION: u8 = 1;
    const NAME: &'static str = "meta-member";
}

/// A row of the placements' table.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredPlacement(PlacementRow);

impl Record for StoredPlacement {
    const VERSION: u8 = 2;
    const NAME: &'static str = "meta-placement";

    fn upgrade(version: u8, body: &[u8]) -> Result<StoredPlacement, CodecError> {
        /// Version 1 forgot the targets that were given up.
        #[derive(Deserialize)]
        struct First {
            voters: Vec<NodeId>,
            target: Vec<NodeId>,
            revision: u64,
        }
        if version != 1 {
            let record = Self::NAME;
            return Err(CodecError::Version { record, version });
        }
        let First {
            voters,
            target,
            revision,
        } = codec::body(body)?;
        Ok(StoredPlacement(PlacementRow {
            voters,
            target,
            given_up: Vec::new(),
            revision,
        }))
    }
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
    /// All members there ever were. Empty in a pool that has only those of its nodes' configurations yet.
    pub members: Members,
    /// The voters of all groups.
    pub placements: Placements,
    /// The pool's version, and the nodes' builds.
    pub versions: Versions,
}

/// Table, key and value.
type StoredRow = (Table, Vec<u8>, Vec<u8>);

const DIGEST_TABLE: Table = Table(0);
const STARTS_TABLE: Table = Table(1);
const MEMBERS_TABLE: Table = Table(2);
const PLACEMENTS_TABLE: Table = Table(3);

/// The meta group's replica.
pub struct MetaMachine {
    shared: Arc<MetaReplica>,
    store: Option<Box<dyn StateStore>>,
    mark: Option<Bytes>,
    snapshots: PathBuf,
}

/// What a store's rows say.
fn load_state(store: &mut dyn StateStore) -> Result<(MetaState, Access), MachineError> {
    let (mut loaded, mut access) = (MetaState::default(), Access::default());
    let mut failed = None;
    let load = store.load(&mut |table, key, value| {
        let taken = access.load_row(table, key, value);
        let read = taken.and_then(|taken| match taken {
            true => Ok(()),
            false => loaded.load_row(table, key, value),
        });
        if let Err(error) = read {
            failed = Some(error);
        }
    });
    load.map_err(|error| MachineError::caused("the meta store does not load", error))?;
    match failed {
        None => Ok((loaded, access)),
        Some(error) => Err(MachineError::caused(
            "a row of the meta store does not read",
            error,
        )),
    }
}

impl MetaMachine {
    /// Loads what the store has, for the readers of `shared`.
    ///
    /// # Errors
    /// When a row can't be read.
    pub fn load(
        mut store: Box<dyn StateStore>,
        snapshots: PathBuf,
        shared: Arc<MetaReplica>,
    ) -> Result<MetaMachine, MachineError> {
        let (loaded, access) = load_state(&mut *store)?;
        *shared.state() = loaded;
        *shared.access() = access;
        let mark = store.applied();
        Ok(MetaMachine {
            shared,
            store: Some(store),
            mark,
            snapshots,
        })
    }
}

impl MetaState {
    fn load_row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), CodecError> {
        if self.versions.load_row(table, key, value)? {
            return Ok(());
        }
        match table {
            DIGEST_TABLE => self.digest = Some(codec::body(value)?),
            STARTS_TABLE => {
                self.starts.insert(codec::body(key)?, codec::body(value)?);
            }
            MEMBERS_TABLE => {
                let row: StoredMember = codec::decode(value)?;
                self.members.rows.insert(codec::body(key)?, row.0);
            }
            PLACEMENTS_TABLE => {
                let row: StoredPlacement = codec::decode(value)?;
                self.placements.rows.insert(codec::body(key)?, row.0);
            }
            // Of a later build; what it means is not known here.
            Table(_) => {}
        }
        Ok(())
    }

    fn rows(&self) -> Result<Vec<StoredRow>, CodecError> {
        let mut rows = self.versions.rows()?;
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
        for (node, row) in &self.members.rows {
            let value = codec::encode(&StoredMember(row.clone()))?;
            rows.push((MEMBERS_TABLE, codec::row_bytes(node)?, value));
        }
        for (group, row) in &self.placements.rows {
            let value = codec::encode(&StoredPlacement(row.clone()))?;
            rows.push((PLACEMENTS_TABLE, codec::row_bytes(group)?, value));
        }
        Ok(rows)
    }

    /// Whether this life of a node has begun, as far as this replica has heard. A life that a later one has followed counts:
    /// a start entry that was proposed twice may be followed by itself.
    pub fn has_begun(&self, node: NodeId, life: Incarnation) -> bool {
        self.starts.get(&node).is_some_and(|last| life <= *last)
    }

    /// Does to a copy of the state what an entry would do if it came next.
    ///
    /// # Errors
    /// What would be refused.
    pub fn rehearse(&mut self, entry: MetaEntry) -> Verdict {
        let members = self.members.rows.values().map(|row| row.revision);
        let placements = self.placements.rows.values().map(|row| row.revision);
        let last = members.chain(placements).max().unwrap_or_default();
        self.apply(last + 1, entry)
    }

    /// The only judge of an entry: what it refuses changes nothing.
    fn apply(&mut self, index: u64, entry: MetaEntry) -> Verdict {
        match entry {
            MetaEntry::PoolCreated { digest } => {
                self.digest.get_or_insert(digest);
                Ok(MetaAnswer::Done)
            }
            MetaEntry::NodeStarted { node } => self.start(index, node, None),
            MetaEntry::Version(VersionEntry::Started { node, build }) => {
                self.start(index, node, Some(build))
            }
            MetaEntry::Version(VersionEntry::Finalised { version }) => {
                self.versions.finalise(&self.members, &self.starts, version)
            }
            MetaEntry::Members(entry) => self.members.apply(&mut self.placements, index, entry),
            MetaEntry::Placement(entry) => self.placements.apply(&self.members, index, entry),
            // Another part of the state is concerned.
            MetaEntry::Access(_) => Ok(MetaAnswer::Done),
        }
    }

    fn start(&mut self, index: u64, node: NodeId, build: Option<Build>) -> Verdict {
        self.versions.start(node, build)?;
        self.starts.insert(node, Incarnation(index));
        Ok(MetaAnswer::Done)
    }
}

impl Machine for MetaMachine {
    fn applied(&self) -> Option<Bytes> {
        self.mark.clone()
    }

    fn apply(&mut self, entries: Vec<CommittedEntry>, mark: Bytes) -> Result<(), MachineError> {
        let mut applied = 0;
        let mut changes = Changes::default();
        let rows = {
            let mut state = self.shared.state();
            for CommittedEntry { index, payload, .. } in entries {
                applied = index;
                let Some(payload) = payload else { continue };
                let entry = MetaEntry::decode(&payload)
                    .map_err(|error| MachineError::caused("a meta entry does not read", error))?;
                let verdict = match entry {
                    MetaEntry::Access(entry) => self.shared.access().apply(entry, &mut changes),
                    entry => state.apply(index, entry),
                };
                self.shared.judged(index, verdict);
            }
            state
                .rows()
                .map_err(|error| MachineError::caused("a meta row does not encode", error))?
        };
        // Few rows and few entries: all of them each time. Of the audit log's many only those that change.
        let mut batch = StateBatch::new();
        for (table, key, value) in rows {
            batch.put(table, key, value);
        }
        changes
            .into(&mut batch)
            .map_err(|error| MachineError::caused("a meta row does not encode", error))?;
        batch.mark(AppliedMark(mark.clone()));
        if let Some(store) = &mut self.store {
            store
                .write(batch)
                .map_err(|error| MachineError::caused("the meta store takes no rows", error))?;
        }
        self.mark = Some(mark);
        self.shared.tell(applied);
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
        let rows = self.shared.state().rows().and_then(|mut rows| {
            rows.extend(self.shared.access().rows()?);
            Ok(rows)
        });
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
        let (loaded, access) = load_state(&mut **store)?;
        let mark = snapshot.manifest.head.applied.0;
        let (_, index) = mark_place(&mark)?;
        *self.shared.state() = loaded;
        *self.shared.access() = access;
        self.mark = Some(mark);
        self.shared.tell(index);
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
mod any_bytes;

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
        state
            .apply(7, MetaEntry::NodeStarted { node: NodeId(3) })
            .unwrap();
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
        state
            .apply(9, MetaEntry::NodeStarted { node: NodeId(3) })
            .unwrap();
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
        storage::golden!("../../tests/goldens/partition.txt", &samples);
    }

    /// The same for what is about members and voters.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct MemberSamples(Vec<StoredMetaEntry>);

    impl Record for MemberSamples {
        const VERSION: u8 = StoredMetaEntry::VERSION;
        const NAME: &'static str = "meta-member-entries";
    }

    #[test]
    fn golden_bytes_of_members_and_voters() {
        use members::{FirstMember, MemberChange, MemberPhase};
        let changed = |change| {
            MetaEntry::Members(MemberEntry::Changed {
                node: NodeId(4),
                expected: 9,
                change,
            })
        };
        let drain = MemberChange::Drain {
            pace: 100,
            leaves: true,
            heir: Some(NodeId(5)),
        };
        let entries = [
            MetaEntry::Members(MemberEntry::Seeded {
                members: vec![FirstMember {
                    node: NodeId(1),
                    address: "one:1".to_owned(),
                }],
                voters: vec![vec![NodeId(1)], vec![NodeId(1)]],
            }),
            MetaEntry::Members(MemberEntry::Added {
                address: "four:4".to_owned(),
                addition: [4; 16],
            }),
            changed(MemberChange::Joined),
            changed(drain),
            changed(MemberChange::Undrain),
            changed(MemberChange::Drained),
            changed(MemberChange::Leave { heir: None }),
            changed(MemberChange::Removed),
            MetaEntry::Placement(PlacementEntry::Target {
                group: Group(3),
                expected: 8,
                voters: vec![NodeId(1), NodeId(4)],
            }),
            MetaEntry::Placement(PlacementEntry::Reached {
                group: Group(3),
                expected: 10,
            }),
        ];
        let samples = MemberSamples(entries.map(StoredMetaEntry).into());
        storage::golden!("../../tests/goldens/members.txt", &samples);
        let phases = [
            MemberPhase::Joining,
            MemberPhase::Member,
            MemberPhase::Draining,
            MemberPhase::Drained,
            MemberPhase::Leaving,
            MemberPhase::Removed,
        ];
        // Each phase is its number, in this order.
        for (number, phase) in (0_u32..).zip(phases) {
            let bytes = codec::row_bytes(&phase).unwrap();
            assert_eq!(bytes, number.to_le_bytes(), "{phase:?}");
        }
        let member = StoredMember(MemberRow {
            address: "four:4".to_owned(),
            phase: MemberPhase::Draining,
            revision: 12,
            addition: [4; 16],
            leaves: true,
            heir: Some(NodeId(5)),
            pace: 100,
        });
        storage::golden!("../../tests/goldens/members.txt", &member);
        let placement = StoredPlacement(PlacementRow {
            voters: vec![NodeId(1)],
            target: vec![NodeId(1), NodeId(4)],
            given_up: Vec::new(),
            revision: 11,
        });
        storage::golden!("../../tests/goldens/members.txt", &placement);
    }

    /// The same for what is about versions.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct VersionSamples(Vec<StoredMetaEntry>);

    impl Record for VersionSamples {
        const VERSION: u8 = StoredMetaEntry::VERSION;
        const NAME: &'static str = "meta-version-entries";
    }

    #[test]
    fn golden_bytes_of_versions() {
        let build = Build {
            name: "1.2.3".to_owned(),
            supports: crate::VersionRange { min: 1, max: 2 },
        };
        let node = NodeId(3);
        let entries = [
            MetaEntry::Version(VersionEntry::Started { node, build }),
            MetaEntry::Version(VersionEntry::Finalised { version: 2 }),
        ];
        let samples = VersionSamples(entries.map(StoredMetaEntry).into());
        storage::golden!("../../tests/goldens/versions.txt", &samples);
    }

    #[test]
    fn what_the_store_gets_is_what_it_gives_back() {
        let mut state = MetaState::default();
        let entries = [
            MetaEntry::PoolCreated { digest: [7; 32] },
            MetaEntry::NodeStarted { node: NodeId(1) },
            MetaEntry::Members(MemberEntry::Seeded {
                members: vec![members::FirstMember {
                    node: NodeId(1),
                    address: "one:1".to_owned(),
                }],
                voters: vec![vec![NodeId(1)], vec![NodeId(1)]],
            }),
            MetaEntry::Members(MemberEntry::Added {
                address: "two:2".to_owned(),
                addition: [2; 16],
            }),
        ];
        for (index, entry) in (1..).zip(entries) {
            state.apply(index, entry).unwrap();
        }
        let mut loaded = MetaState::default();
        for (table, key, value) in state.rows().unwrap() {
            loaded.load_row(table, &key, &value).unwrap();
        }
        assert_eq!(loaded, state);
        assert_eq!(loaded.placements.rows.len(), 2);
    }
}
