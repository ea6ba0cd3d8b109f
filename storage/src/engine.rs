//! The key-value engine below the archive and one of the state stores: fjall; in a simulation, its like in memory.

#[cfg(feature = "simulation")]
pub(crate) mod memory;

#[cfg(not(feature = "simulation"))]
pub(crate) use fjall::config::BlockSizePolicy;
#[cfg(not(feature = "simulation"))]
pub(crate) use fjall::{
    AbstractTree, Database, Guard, Iter, Keyspace, KeyspaceCreateOptions, PersistMode, Readable,
    Snapshot,
};

#[cfg(feature = "simulation")]
pub(crate) use memory::{
    AbstractTree, BlockSizePolicy, Database, Guard, Iter, Keyspace, KeyspaceCreateOptions,
    PersistMode, Readable, Snapshot,
};
