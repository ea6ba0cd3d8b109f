//! What a node has, as it tells the others.

/// What a node has and can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Its sessions, with and without a connection.
    pub sessions: u64,
    /// How many it may have.
    pub sessions_max: u64,
    /// What its replicas take on its disk: state, archive and snapshots.
    pub data_bytes: u64,
    /// How many replicas that is.
    pub replicas: u64,
    /// What its disk has free.
    pub disk_free_bytes: u64,
    /// What its process uses of memory.
    pub memory_bytes: u64,
    /// What its machine has free of memory.
    pub memory_free_bytes: u64,
}
