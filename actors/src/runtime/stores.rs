//! Opens each group's state store by the rebuild rules and makes its machine.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use cluster::machine::{CheckpointPolicy, MachineSettings, PartitionMachine, Replica};
use cluster::meta::{MetaMachine, MetaReplica};
use cluster::node_id::{Group, NodeId, PartitionId};
use cluster::raft::{Machine, MachineError};
use cluster::rebuild::{open_store, store_of};
use cluster::version::VersionRange;
use storage::data_dir::DataDir;
use storage::state_store::{BootId, Engine, StateStore, StateStoreOptions};

use super::{Settings, index};

pub(super) struct Stores<'a> {
    data: &'a DataDir,
    engine: Engine,
    cache_bytes: u64,
    node: NodeId,
    incarnation: Arc<AtomicU64>,
    supports: VersionRange,
    meta: Arc<MetaReplica>,
}

impl<'a> Stores<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        incarnation: Arc<AtomicU64>,
        meta: Arc<MetaReplica>,
    ) -> Stores<'a> {
        let stores = u64::from(settings.partitions) + 1;
        Stores {
            data: &settings.data,
            engine: settings.storage.state_engine,
            cache_bytes: settings.storage.state_cache_bytes / stores,
            node: settings.node,
            incarnation,
            supports: settings.build.supports,
            meta,
        }
    }

    pub(super) fn machine(
        &self,
        group: Group,
        replicas: &[Arc<Replica>],
    ) -> Result<Box<dyn Machine>, MachineError> {
        match group.partition() {
            None => {
                let store = self.open(group)?;
                Ok(Box::new(MetaMachine::load(
                    store,
                    self.data.snapshots_dir(),
                    Arc::clone(&self.meta),
                )?))
            }
            Some(partition) => {
                let replica = replicas
                    .get(index(partition))
                    .ok_or_else(|| MachineError::new("no such partition"))?;
                self.partition(partition, replica)
            }
        }
    }

    /// The machine of a partition.
    pub(super) fn partition(
        &self,
        partition: PartitionId,
        replica: &Arc<Replica>,
    ) -> Result<Box<dyn Machine>, MachineError> {
        let store = self.open(Group::of(partition))?;
        let settings = MachineSettings {
            policy: CheckpointPolicy::default(),
            snapshots: self.data.snapshots_dir(),
            node: self.node,
            incarnation: Arc::clone(&self.incarnation),
            supports: self.supports,
        };
        let machine = PartitionMachine::load(Arc::clone(replica), store, settings)?;
        Ok(Box::new(machine))
    }

    /// Opens a group's store, never older than the group's newest snapshot; the log brings the rest.
    fn open(&self, group: Group) -> Result<Box<dyn StateStore>, MachineError> {
        let boot_id = BootId::current()
            .map_err(|error| MachineError::caused("the boot id can't be read", error))?;
        let options = StateStoreOptions {
            dir: self.data.state_dir(store_of(group)),
            engine: self.engine,
            cache_bytes: self.cache_bytes,
            boot_id,
        };
        open_store(&options, &self.data.snapshots_dir(), group)
    }
}
