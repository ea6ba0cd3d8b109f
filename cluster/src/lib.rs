//! cluster
//!
//! - [`node_id`]: the identifiers of nodes, partitions, epochs and Raft groups.
//! - [`transport`]: frames and calls between nodes over mutual TLS, four lanes a peer.
//! - [`raft`]: the Raft groups of a node; the only place that knows openraft.
//! - [`gossip`]: hints every node tells about itself; never authority.

pub mod gossip;
pub mod node_id;
pub mod raft;
pub mod transport;

pub use node_id::{Epoch, Group, Incarnation, NodeId, PartitionId, PoolId};
