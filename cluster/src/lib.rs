//! cluster

pub mod node_id;
pub mod transport;

pub use node_id::{Epoch, Group, Incarnation, NodeId, PartitionId, PoolId};
