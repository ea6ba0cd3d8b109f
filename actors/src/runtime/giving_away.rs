//! Removes the data of replicas that this node has given away, so that the disk has its room back.
//!
//! ```text
//!   meta's word: no vote, now or soon ── for a while, and no leader is heard ─► a quorum confirms it ─► Groups::empty
//!   a note from before ─► at a start, before the replica acknowledges anything ─► the same
//! ```
//!
//! Invariant: what a group may count on is never removed. That it does not is the meta group's word, and of a node that is cut
//! off that word may be old: so an entry has to go through the meta group first, and its replica here has to say the same
//! after it, once more when the replica has stopped (`cluster`, `emptied`). A voter is added by meta's word alone, so what
//! was added after that has not been acknowledged by the replica that is removed.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use cluster::machine::Replica;
use cluster::meta::members::MemberPhase;
use cluster::meta::{MetaEntry, MetaReplica};
use cluster::node_id::{Group, PartitionId};
use cluster::raft::{GroupStatus, Machine, MachineError, Removal, forget_log};
use storage::archive::Archive;
use storage::data_dir::DataDir;
use storage::log::Log;
use tokio::time::{MissedTickBehavior, timeout};

use super::meta_road::MetaRoad;
use super::stores::Stores;
use super::{Settings, StartError, index};
use crate::fabric::Fabric;

/// How often a node looks for replicas that it has given away.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// For how long a replica must have been given away: what was on its way to it has come.
const GIVEN_FOR: Duration = Duration::from_secs(5);

/// How long this node may take to hear what the meta group has confirmed.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);

/// Looks for as long as the node lives, and removes one replica at a time.
pub(super) async fn run(fabric: Arc<Fabric>, road: MetaRoad) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The row's revision, and since when it is seen.
    let mut given: BTreeMap<Group, (u64, Instant)> = BTreeMap::new();
    loop {
        ticks.tick().await;
        let revisions = given_away(&fabric, &road.groups.status());
        let now = Instant::now();
        given.retain(|group, (revision, _)| revisions.get(group) == Some(revision));
        for (group, revision) in revisions {
            given.entry(group).or_insert((revision, now));
        }
        let due = given.iter().find(|(group, (_, since))| {
            since.elapsed() >= GIVEN_FOR && road.groups.living_leader(**group).is_none()
        });
        let Some((group, revision)) = due.map(|(group, (revision, _))| (*group, *revision)) else {
            continue;
        };
        given.remove(&group);
        remove(&fabric, &road, group, revision).await;
    }
}

/// The partitions that do not count on this node and of which it holds something; with the revision of their row.
fn given_away(fabric: &Fabric, statuses: &[GroupStatus]) -> BTreeMap<Group, u64> {
    let state = fabric.meta.state();
    let stays = state.members.phase(fabric.node).is_some_and(|phase| {
        // One that leaves ends soon, with all it has.
        matches!(
            phase,
            MemberPhase::Member | MemberPhase::Draining | MemberPhase::Drained
        )
    });
    let holds = |status: &&GroupStatus| {
        stays
            && status.group != Group::META
            && !status.is_leader
            && status.receiving.is_none()
            && status.failed.is_none()
            && (status.applied.is_some() || status.last_log.is_some())
    };
    let given = |status: &GroupStatus| {
        let row = state.placements.rows.get(&status.group)?;
        (!row.counts_on(fabric.node)).then_some((status.group, row.revision))
    };
    statuses.iter().filter(holds).filter_map(given).collect()
}

async fn remove(fabric: &Arc<Fabric>, road: &MetaRoad, group: Group, revision: u64) {
    let Some(partition) = group.partition() else {
        return;
    };
    let given = GivenAway {
        fabric: Arc::clone(fabric),
        road: road.clone(),
        partition,
        revision,
    };
    // It costs an entry, and spares a replica that is in doubt the restart.
    if !given.is_sure().await {
        return tracing::debug!(%group, "whether a replica was given away could not be confirmed");
    }
    match road.groups.empty(group, &given).await {
        Ok(true) => tracing::info!(%group, "the data of a replica that was given away is removed"),
        Ok(false) => {
            tracing::info!(%group, "a replica is in doubt and keeps its data");
            // Nobody wants it to lead, unless it counts again by now.
            let stands = {
                let state = fabric.meta.state();
                let row = state.placements.rows.get(&group);
                row.is_some_and(|row| row.counts_on(fabric.node))
            };
            if let Err(error) = road.groups.stand_for_election(group, stands) {
                tracing::debug!(%group, %error, "this node does not run a group");
            }
        }
        Err(error) => {
            tracing::error!(%group, %error, "a replica that was given away did not come back")
        }
    }
}

/// A replica that this node has given away.
struct GivenAway {
    fabric: Arc<Fabric>,
    road: MetaRoad,
    partition: PartitionId,
    /// Of its row, by which it was.
    revision: u64,
}

impl GivenAway {
    fn replica(&self) -> Option<&Arc<Replica>> {
        let place = self.fabric.partitions.get(index(self.partition));
        place.map(|place| &place.replica)
    }

    fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> MachineError {
        MachineError::caused("a replica's data could not be removed", error)
    }
}

impl Removal for GivenAway {
    fn is_sure(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move {
            // It changes nothing: the first one counts.
            let entry = MetaEntry::PoolCreated {
                digest: self.fabric.settings.pool_digest,
            };
            let Ok(payload) = entry.encode() else {
                return false;
            };
            let Ok(confirmed) = self.road.propose(payload).await else {
                return false;
            };
            is_so(&self.fabric.meta, confirmed, self.revision, |state| {
                let row = state.placements.rows.get(&Group::of(self.partition));
                row.filter(|row| !row.counts_on(self.fabric.node))
                    .map(|row| row.revision)
            })
            .await
        })
    }

    fn note(&self) -> Result<(), MachineError> {
        let noted = self
            .fabric
            .settings
            .data
            .note_removal(number(self.partition));
        noted.map_err(GivenAway::failed)
    }

    fn remove(&self) -> Result<(), MachineError> {
        let Some(replica) = self.replica() else {
            return Ok(());
        };
        remove_data(&self.fabric.settings.data, &replica.archive, self.partition)
    }

    fn open(&self) -> Result<Box<dyn Machine>, MachineError> {
        let replica = self
            .replica()
            .ok_or_else(|| MachineError::new("no such partition"))?;
        let incarnation = Arc::new(AtomicU64::new(self.fabric.incarnation.0));
        let meta = Arc::clone(&self.fabric.meta);
        let stores = Stores::new(&self.fabric.settings, incarnation, meta);
        stores.partition(self.partition, replica)
    }
}

/// Whether the row stands at this revision when the entry is applied here.
async fn is_so(
    meta: &MetaReplica,
    confirmed: u64,
    revision: u64,
    given: impl Fn(&cluster::meta::MetaState) -> Option<u64>,
) -> bool {
    let mut applied = meta.applied();
    let heard = applied.wait_for(|applied| *applied >= confirmed);
    let heard = timeout(CONFIRMED_WITHIN, heard).await;
    matches!(heard, Ok(Ok(_))) && given(&meta.state()) == Some(revision)
}

fn number(partition: PartitionId) -> u32 {
    u32::from(partition.0)
}

/// Removes what a replica holds beside its log, the note last.
fn remove_data(
    data: &DataDir,
    archive: &Archive,
    partition: PartitionId,
) -> Result<(), MachineError> {
    let of_archive = storage::archive::PartitionId(partition.0);
    archive
        .drop_partition(of_archive)
        .and_then(|()| archive.sync())
        .map_err(GivenAway::failed)?;
    data.remove_replica(number(partition), Group::of(partition).0)
        .map_err(GivenAway::failed)
}

/// At a start: what was begun before is finished, before any replica is opened.
pub(super) async fn finish(
    settings: &Settings,
    log: &Log,
    archive: &Archive,
) -> Result<(), StartError> {
    let failed = |group: Group, source: MachineError| {
        StartError::Groups(cluster::raft::GroupsError::Machine { group, source })
    };
    let noted = settings.data.noted_removals();
    let noted = noted.map_err(|error| failed(Group::META, GivenAway::failed(error)))?;
    for partition in noted
        .into_iter()
        .filter_map(|number| u16::try_from(number).ok())
    {
        let partition = PartitionId(partition);
        let group = Group::of(partition);
        tracing::info!(%group, "the data of a replica that was given away is removed");
        let forgotten = forget_log(log, group).await;
        forgotten.map_err(|error| failed(group, GivenAway::failed(error)))?;
        remove_data(&settings.data, archive, partition).map_err(|error| failed(group, error))?;
    }
    Ok(())
}
