//! The identifiers that nodes, partitions and Raft groups go by.
//!
//! They are newtypes so that an epoch is never passed where a sequence was meant. All of them are plain
//! numbers on the wire and in the log.

use std::fmt;
use std::str::FromStr;

pub use messaging::slot::PartitionId;
use serde::{Deserialize, Serialize};

/// A member of the pool. Ids are given out by the meta group and never used twice, not even after a wipe.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u64);

/// The reign of one owner over a partition: the log index of its `OwnerBegin` entry. Zero means none yet.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// One life of a node's process: the meta log index of its start entry. Zero means not known yet, which is
/// how a starting node speaks Raft before its start entry is committed.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// A Raft group: 0 is meta, `1 + p` is partition `p`.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Group(pub u32);

impl Group {
    /// The group of members, the partition table, domains and policies.
    pub const META: Group = Group(0);

    /// The group that replicates `partition`.
    pub fn of(partition: PartitionId) -> Group {
        Group(1 + u32::from(partition.0))
    }

    /// The partition this group replicates; `None` for meta and for numbers no partition can have.
    pub fn partition(self) -> Option<PartitionId> {
        let number = self.0.checked_sub(1)?;
        u16::try_from(number).ok().map(PartitionId)
    }
}

impl From<PartitionId> for Group {
    fn from(partition: PartitionId) -> Group {
        Group::of(partition)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.0)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "incarnation {}", self.0)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition() {
            Some(partition) => write!(f, "group of {partition}"),
            None if *self == Group::META => f.write_str("group meta"),
            None => write!(f, "group {}", self.0),
        }
    }
}

/// The name of a pool. It is a label of the node certificates' names, hence 1 to 40 of `a-z`, `0-9` and
/// `-`, with no hyphen at either end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolId(String);

/// The text is no [`PoolId`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a pool id is 1 to 40 of a-z, 0-9 and inner hyphens, not {0:?}")]
pub struct PoolIdError(pub String);

impl PoolId {
    /// Longest pool id in bytes.
    pub const LENGTH_MAX: usize = 40;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PoolId {
    type Err = PoolIdError;

    fn from_str(text: &str) -> Result<PoolId, PoolIdError> {
        PoolId::try_from(text.to_owned())
    }
}

impl TryFrom<String> for PoolId {
    type Error = PoolIdError;

    fn try_from(text: String) -> Result<PoolId, PoolIdError> {
        let letters = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let hyphens = !text.starts_with('-') && !text.ends_with('-');
        if letters && hyphens && (1..=PoolId::LENGTH_MAX).contains(&text.len()) {
            Ok(PoolId(text))
        } else {
            Err(PoolIdError(text))
        }
    }
}

impl From<PoolId> for String {
    fn from(id: PoolId) -> String {
        id.0
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_partitions_map_both_ways() {
        assert_eq!(Group::META.partition(), None);
        assert_eq!(Group::of(PartitionId(0)), Group(1));
        assert_eq!(
            Group::of(PartitionId(u16::MAX)).partition(),
            Some(PartitionId(u16::MAX))
        );
        assert_eq!(Group(70_000).partition(), None);
        assert_eq!(Group::META.to_string(), "group meta");
        assert_eq!(Group(3).to_string(), "group of partition 2");
    }

    #[test]
    fn pool_ids_are_dns_labels() {
        for good in ["a", "pool-1", "0", &"x".repeat(40)] {
            assert!(good.parse::<PoolId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "ä", "a b", &"x".repeat(41)] {
            assert!(bad.parse::<PoolId>().is_err(), "{bad}");
        }
    }
}
