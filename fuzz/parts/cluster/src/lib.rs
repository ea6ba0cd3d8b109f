//! Those files of the crate `cluster` that are fuzzed, without Raft, sockets and TLS: they would take longer to build than all
//! else.
#![allow(
    dead_code,
    unused_imports,
    reason = "the crate has uses that are not here"
)]

pub mod gossip;
pub mod link;
pub mod node_id;
pub mod raft;
pub mod records;
pub mod transport;
pub mod version;

pub use node_id::{Epoch, Group, Incarnation, NodeId, PartitionId, PoolId};
