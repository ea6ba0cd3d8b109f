//! No vacuous pass: what a run of chaos must have met.

use std::collections::BTreeMap;

use super::Dose;
use super::index::Index;

/// What happened in a run, or must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Changes of the owner of a partition that faults aim at.
    pub leader_changes: usize,
    /// Splits with the leader of such a partition among those without a quorum.
    pub leader_in_minority: usize,
    /// Splits with it among the others.
    pub leader_in_majority: usize,
    /// Messages acknowledged while there was a fault.
    pub acked_during_faults: usize,
    /// Sessions resumed.
    pub resumptions: usize,
    /// Snapshots that nodes took over.
    pub snapshots_installed: usize,
    /// Messages sent again that had been committed: a duplicate was suppressed.
    pub suppressed: usize,
}

impl Coverage {
    /// What the reliability specification asks of each run.
    pub const FULL: Coverage = Coverage {
        leader_changes: 1,
        leader_in_minority: 1,
        leader_in_majority: 1,
        acked_during_faults: 500,
        resumptions: 50,
        snapshots_installed: 1,
        suppressed: 1,
    };

    pub(super) fn of(index: &Index<'_>, dose: &Dose) -> Coverage {
        let facts = &index.facts;
        let in_minority = |(minority, leader): &&(&[u64], u64)| minority.contains(leader);
        let leader_in_minority = facts.splits.iter().filter(in_minority).count();
        let mut reigns: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
        for owner in facts.owners.iter().filter(|owner| owner.targeted) {
            let of_partition = reigns.entry(owner.partition).or_default();
            of_partition.entry(owner.epoch).or_insert(owner.owner);
        }
        let changes = |owners: &BTreeMap<u64, u64>| {
            let owners: Vec<_> = owners.values().collect();
            owners.windows(2).filter(|pair| pair[0] != pair[1]).count()
        };
        Coverage {
            leader_changes: reigns.values().map(changes).sum(),
            leader_in_minority,
            leader_in_majority: facts.splits.len() - leader_in_minority,
            acked_during_faults: dose.acked_during_faults,
            resumptions: facts.resumptions.len(),
            snapshots_installed: facts.snapshots,
            suppressed: dose.suppressed,
        }
    }

    /// What is less than it must be, each by its name.
    pub fn lacks(&self, least: &Coverage) -> Vec<&'static str> {
        let pairs = [
            (
                "leader changes in a targeted group",
                self.leader_changes,
                least.leader_changes,
            ),
            (
                "the leader in the minority",
                self.leader_in_minority,
                least.leader_in_minority,
            ),
            (
                "the leader in the majority",
                self.leader_in_majority,
                least.leader_in_majority,
            ),
            (
                "messages acknowledged during faults",
                self.acked_during_faults,
                least.acked_during_faults,
            ),
            ("resumptions", self.resumptions, least.resumptions),
            (
                "snapshots installed",
                self.snapshots_installed,
                least.snapshots_installed,
            ),
            ("duplicates suppressed", self.suppressed, least.suppressed),
        ];
        let lacks = pairs.into_iter().filter(|(_, had, least)| had < least);
        lacks.map(|(what, _, _)| what).collect()
    }
}
