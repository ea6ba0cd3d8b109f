//! Raft groups, replicas, links, gossip and the transport between nodes.
//!
//! - [`node_id`]: the identifiers of nodes, partitions, epochs and Raft groups.
//! - [`transport`]: frames and calls between nodes over mutual TLS, four lanes a peer.
//! - [`raft`]: the Raft groups of a node; the only place that knows openraft.
//! - [`link`]: the one path between a node and the owner of a partition, exactly once and in order.
//! - [`machine`]: a partition's replica, moved forward by its log; [`effect_queue`]: its news for the owner;
//!   [`recent_effects`]: what the next owner tells once more; [`replica_hash`]: what replicas are compared by; [`rebuild`]: where its rows come from at a start.
//! - [`meta`]: members and their incarnations. [`records`]: the bytes of entries and rows.
//! - [`backup`]: backups, and new pools made of them. [`check`]: whether a stopped node's folder is whole.
//! - [`net`]: the sockets.
//! - [`version`]: what builds support, and what the pool is at.
//! - [`gossip`]: hints every node tells about itself; never authority. [`reach`]: what follows from who reaches whom.

pub mod backup;
pub mod check;
pub mod effect_queue;
pub mod gossip;
pub mod link;
pub mod machine;
pub mod meta;
pub mod net;
pub mod node_id;
pub mod raft;
pub mod reach;
pub mod rebuild;
pub mod recent_effects;
pub mod records;
pub mod replica_hash;
pub mod transport;
pub mod version;

pub use node_id::{Epoch, Group, Incarnation, NodeId, PartitionId, PoolId};
pub use version::{Build, VersionRange};
