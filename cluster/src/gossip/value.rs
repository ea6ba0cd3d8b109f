//! What a node tells about itself: keys and their values.

use super::Capacity;
use crate::node_id::{Epoch, NodeId, PartitionId};

/// Longest address that is told: a domain name and a port.
pub const ADDRESS_BYTES_MAX: usize = 261;

/// What a node tells about itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GossipKey {
    /// Who owns this partition, as far as the teller knows.
    Owner(PartitionId),
    /// Which nodes the teller has connections to.
    Reaches,
    /// How busy the teller is.
    Load,
    /// How the teller stands to the quorum.
    Standing,
    /// What the teller has and can take.
    Capacity,
    /// Where clients reach the teller.
    ClientAddress,
}

/// The value of a [`GossipKey`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GossipValue {
    /// The owner and its epoch.
    Owner(NodeId, Epoch),
    /// The nodes reached, in ascending order.
    Reaches(Vec<NodeId>),
    /// Load in a unit of the teller's choice, comparable between nodes.
    Load(u32),
    /// The standing, in numbers of the teller's layer above.
    Standing(u8),
    /// What it has and can take.
    Capacity(Capacity),
    /// An address, `host:port`; at most [`ADDRESS_BYTES_MAX`].
    Address(String),
    /// The teller has nothing to say about this key any more.
    Withdrawn,
}
