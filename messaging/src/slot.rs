//! From a key (a bare JID, a user or a room) to its slot and partition.
//!
//! The hash must never change: it decides where data lives. FNV-1a over the prepared bare JID's text.

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

/// How many slots the key space is cut into; slots map to partitions.
pub const SLOTS: u16 = 16_384;

/// The most partitions a pool can be created with.
pub const PARTITIONS_MAX: u16 = 64;

/// One Raft group's share of the key space.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PartitionId(pub u16);

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "partition {}", self.0)
    }
}

/// The slot of a key.
pub fn slot(key: &BareJid) -> u16 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in key.as_str().bytes() {
        hash ^= u64::from(byte);
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    }
    // FNV's low bits are weak for short keys that differ in the last byte only: fold the high half in.
    let folded = hash ^ (hash >> 32);
    (folded % u64::from(SLOTS)) as u16
}

/// Which partition each slot belongs to. Slots may later be moved; a new pool spreads them evenly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTable {
    partitions: u16,
    slots: Vec<u16>,
}

impl PartitionTable {
    /// An even spread over `partitions` (clamped to 1..=64).
    pub fn even(partitions: u16) -> PartitionTable {
        let partitions = partitions.clamp(1, PARTITIONS_MAX);
        let slots = (0..SLOTS).map(|slot| slot % partitions).collect();
        PartitionTable { partitions, slots }
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// All partitions in order.
    pub fn iter(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.partitions).map(PartitionId)
    }

    /// The partition a key belongs to.
    pub fn partition_of(&self, key: &BareJid) -> PartitionId {
        let index = usize::from(slot(key));
        PartitionId(self.slots.get(index).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_never_changes() {
        let check = |jid: &str, expect: u16| {
            assert_eq!(slot(&BareJid::parse(jid).unwrap()), expect, "{jid}");
        };
        check("alice@localhost", 1_253);
        check("bob@localhost", 13_355);
        check("den@conference.localhost", 8_493);
    }

    #[test]
    fn an_even_table_spreads_users_evenly() {
        let table = PartitionTable::even(16);
        let mut counts = [0u32; 16];
        for n in 0..16_000 {
            let key = BareJid::parse(&format!("user{n}@example.org")).unwrap();
            counts[usize::from(table.partition_of(&key).0)] += 1;
        }
        assert!(
            counts.iter().all(|&count| (800..1200).contains(&count)),
            "{counts:?}"
        );
    }
}
