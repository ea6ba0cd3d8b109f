//! cluster
//!
//! - [`node_id`]: the identifiers of nodes, partitions, epochs and Raft groups.
//! - [`transport`]: frames and calls between nodes over mutual TLS, four lanes a peer.
//! - [`gossip`]: hints every node tells about itself; never authority.

pub mod gossip;
pub mod node_id;
pub mod transport;

pub use node_id::{Epoch, Group, Incarnation, NodeId, PartitionId, PoolId};
