//! Replicas of several nodes against each other: those that have applied the same entries hold the same rows.

use std::collections::BTreeMap;

use crate::PartitionId;
use crate::replica_hash::ReplicaHash;

use super::{Finding, Severity};

const ADVICE: &str = "one node's copy is wrong, where there are three the one that is unlike the two others: keep the folders and \
     report it; take that node out of the pool and let a new one join in its place";

/// A partition as a stopped node has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedReplica {
    /// Which one.
    pub partition: PartitionId,
    /// What it holds.
    pub hash: ReplicaHash,
}

/// Compares what several folders hold, each with its name. Gives how many partitions two of them at least have at the same
/// entry, and what differs there.
pub fn compare(folders: &[(String, Vec<CheckedReplica>)]) -> (usize, Vec<Finding>) {
    let mut known: BTreeMap<(PartitionId, u64), Vec<(&str, &ReplicaHash)>> = BTreeMap::new();
    for (name, replicas) in folders {
        for CheckedReplica { partition, hash } in replicas {
            let same = known.entry((*partition, hash.applied)).or_default();
            same.push((name, hash));
        }
    }
    known.retain(|_, replicas| replicas.len() > 1);
    let differs = |((partition, applied), replicas): (&(PartitionId, u64), &Vec<_>)| {
        let (first, rest) = replicas.split_first()?;
        let (other, hash): &(&str, &ReplicaHash) =
            rest.iter().find(|(_, hash)| *hash != first.1)?;
        Some(difference(*partition, *applied, *first, (other, hash)))
    };
    let found = known.iter().filter_map(differs).collect();
    (known.len(), found)
}

fn difference(
    partition: PartitionId,
    applied: u64,
    (one, first): (&str, &ReplicaHash),
    (other, second): (&str, &ReplicaHash),
) -> Finding {
    let mut parts = Vec::new();
    if first.state != second.state {
        let (rows, others) = (first.state.rows, second.state.rows);
        parts.push(format!("the state ({rows} and {others} rows)"));
    }
    if first.archive != second.archive {
        let (rows, others) = (first.archive.rows, second.archive.rows);
        parts.push(format!("the archive ({rows} and {others} rows)"));
    }
    let parts = parts.join(" and ");
    Finding {
        severity: Severity::Damage,
        place: format!("partition {}", partition.0),
        what: format!("{one} and {other} differ at entry {applied}, in {parts}"),
        advice: ADVICE,
    }
}

#[cfg(test)]
mod tests {
    use storage::archive::PartitionHash;
    use storage::state_store::StateHash;

    use super::*;

    fn replica(partition: u16, applied: u64, state: u8, archive: u8) -> CheckedReplica {
        CheckedReplica {
            partition: PartitionId(partition),
            hash: ReplicaHash {
                applied,
                state: StateHash {
                    rows: 3,
                    digest: [state; 32],
                },
                archive: PartitionHash {
                    rows: archive.into(),
                    digest: [archive; 32],
                },
            },
        }
    }

    #[test]
    fn replicas_at_the_same_entry_must_be_the_same() {
        let folder = |name: &str, replicas| (name.to_owned(), replicas);
        let check = |folders: &[(String, Vec<CheckedReplica>)], compared, expect: &[&str]| {
            let (number, found) = compare(folders);
            let found: Vec<_> = found
                .iter()
                .map(|finding| format!("{}: {}", finding.place, finding.what))
                .collect();
            assert_eq!(
                (number, found),
                (
                    compared,
                    expect.iter().map(|text| (*text).to_owned()).collect()
                )
            );
        };
        let one = || folder("a", vec![replica(0, 7, 1, 1), replica(1, 9, 1, 1)]);
        check(&[one()], 0, &[]);
        check(&[one(), folder("b", vec![replica(0, 8, 2, 2)])], 0, &[]);
        check(&[one(), folder("b", vec![replica(0, 7, 1, 1)])], 1, &[]);
        let third = folder("c", vec![replica(0, 7, 1, 1), replica(1, 9, 2, 1)]);
        check(
            &[one(), folder("b", vec![replica(0, 7, 1, 4)]), third],
            2,
            &[
                "partition 0: a and b differ at entry 7, in the archive (1 and 4 rows)",
                "partition 1: a and c differ at entry 9, in the state (3 and 3 rows)",
            ],
        );
    }
}
