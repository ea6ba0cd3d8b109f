//! What operators see of a node and its pool.

use std::sync::Arc;
use std::time::Instant;

use cluster::gossip::shell::Gossiper;
use cluster::gossip::{GossipKey, GossipValue, Liveness};
use cluster::node_id::{Group, NodeId, PartitionId};
use cluster::raft::{GroupStatus, Groups};
use cluster::transport::{Lane, Transport};
use cluster::version::VersionRange;
use serde::Serialize;
use storage::process::ProcessUsage;

use super::Member;
use crate::fabric::{Fabric, PartitionPlace};
use crate::isolation::Standing;
use crate::metrics::{Readings, VersionReadings};

/// A node's view of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolStatus {
    /// The pool.
    pub pool: String,
    /// The node that tells this.
    pub node: u64,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its build.
    pub version: String,
    /// The versions of the pool that its build supports.
    pub supports: VersionRange,
    /// The version that the pool is at, as far as it has heard.
    pub pool_version: u16,
    /// Since when, in seconds.
    pub uptime_seconds: u64,
    /// Bound sessions on this node.
    pub sessions: usize,
    /// The members.
    pub members: Vec<MemberStatus>,
    /// The partitions.
    pub partitions: Vec<PartitionStatus>,
}

/// A member as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// Its cluster port.
    pub address: String,
    /// Whether this node is connected to it (itself included).
    pub connected: bool,
    /// By the gossip: `alive`, `suspect` or `dead`.
    pub liveness: &'static str,
    /// How it stands to the quorum, by its own word ([`Standing::as_str`]); of others by the gossip, while they are heard of.
    pub standing: Option<&'static str>,
    /// The members that it has connections to, as it says.
    pub reaches: Vec<u64>,
    /// Through whom this node's frames go to it, where they don't go straight.
    pub relay: Option<u64>,
}

/// A partition as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    /// Its number.
    pub id: u16,
    /// Who owns it, as far as is known.
    pub owner: Option<u64>,
    /// Since which log index.
    pub epoch: Option<u64>,
    /// Who leads its group.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// Who votes.
    pub voters: Vec<u64>,
    /// The last index in this node's log.
    pub last_log: Option<u64>,
    /// What is known to be committed.
    pub committed: Option<u64>,
    /// What this node has applied.
    pub applied: Option<u64>,
    /// Whether this replica lost records and may not vote.
    pub quarantined: bool,
}

/// Whether a node can serve clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// The node hears of a majority of the pool.
    pub quorum: bool,
    /// It stops.
    pub stopping: bool,
    /// An operator wants it empty of sessions.
    pub draining: bool,
    /// Its log takes no entries: the disk is full.
    pub log_full: bool,
    /// Groups that have stopped on this node after an error of a store.
    pub groups_failed: u16,
    /// Partitions with a leader whose owner is known.
    pub partitions_owned: u16,
    /// All partitions.
    pub partitions: u16,
}

impl Readiness {
    /// Whether every partition can be served.
    pub fn is_ready(&self) -> bool {
        self.quorum
            && !self.stopping
            && !self.draining
            && !self.log_full
            && self.groups_failed == 0
            && self.partitions_owned == self.partitions
    }
}

pub(super) fn of(
    fabric: &Arc<Fabric>,
    groups: &Groups,
    transport: &Transport,
    gossip: &Gossiper,
    started: Instant,
) -> PoolStatus {
    let listed = fabric.members();
    let members = listed.iter().map(|member| {
        let is_self = member.id == fabric.node;
        let (told, reaches) = told(gossip, member.id);
        MemberStatus {
            id: member.id.0,
            address: member.address.clone(),
            connected: is_self || transport.connected(member.id, Lane::Route),
            liveness: match gossip.liveness(member.id) {
                _ if is_self => "alive",
                Liveness::Alive => "alive",
                Liveness::Suspect => "suspect",
                Liveness::Dead => "dead",
            },
            standing: if is_self {
                Some(fabric.standing.get())
            } else {
                told
            }
            .map(Standing::as_str),
            reaches,
            relay: fabric.relay(member.id).map(|relay| relay.0),
        }
    });
    let statuses = groups.status();
    let partitions = fabric.partitions.iter().filter_map(|place| {
        let status = statuses
            .iter()
            .find(|status| status.group == Group::of(place.id))?;
        let owner = fabric.owner(place.id);
        let (leader, voters) = led_and_voted(fabric, status, place.id);
        Some(PartitionStatus {
            id: place.id.0,
            owner: owner.map(|(owner, _)| owner.0),
            epoch: owner.map(|(_, epoch)| epoch.0),
            leader: leader.map(|leader| leader.0),
            term: status.term,
            voters: voters.iter().map(|voter| voter.0).collect(),
            last_log: status.last_log,
            committed: status.committed,
            applied: status.applied,
            // One that was given away is empty, and gives no vote because nobody asks for it.
            quarantined: status.quarantined && fabric.votes_in(place.id),
        })
    });
    // A lock of its own: the partitions' rows look there, too.
    let pool_version = fabric.meta.state().versions.pool();
    PoolStatus {
        pool: fabric.settings.pool_id.as_str().to_owned(),
        node: fabric.node.0,
        incarnation: fabric.incarnation.0,
        version: fabric.settings.build.name.clone(),
        supports: fabric.settings.build.supports,
        pool_version,
        uptime_seconds: started.elapsed().as_secs(),
        sessions: fabric.directory.len(),
        members: members.collect(),
        partitions: partitions.collect(),
    }
}

/// Who leads a partition's group and who votes in it. A node without a replica goes by the owner's word and the meta
/// group's: what its own log says is nothing, or old.
fn led_and_voted(
    fabric: &Fabric,
    status: &GroupStatus,
    partition: PartitionId,
) -> (Option<NodeId>, Vec<NodeId>) {
    if fabric.votes_in(partition) {
        return (status.leader, status.voters.clone());
    }
    let owner = fabric.owner(partition).map(|(owner, _)| owner);
    let state = fabric.meta.state();
    let row = state.placements.rows.get(&Group::of(partition));
    (owner, row.map(|row| row.voters.clone()).unwrap_or_default())
}

/// What a node says of itself, while it is heard of.
fn told(gossip: &Gossiper, node: NodeId) -> (Option<Standing>, Vec<u64>) {
    gossip.with_core(|core, now| {
        let view = core.view().get(&node);
        let Some(view) = view.filter(|view| view.liveness(now) == Liveness::Alive) else {
            return (None, Vec::new());
        };
        let standing = match view.get(GossipKey::Standing) {
            Some(GossipValue::Standing(number)) => Standing::from_u8(*number),
            _ => None,
        };
        let reaches = match view.get(GossipKey::Reaches) {
            Some(GossipValue::Reaches(nodes)) => nodes.iter().map(|node| node.0).collect(),
            _ => Vec::new(),
        };
        (standing, reaches)
    })
}

/// What the metrics show besides the counters.
pub(super) fn readings(
    fabric: &Arc<Fabric>,
    groups: &Groups,
    transport: &Transport,
    started: Instant,
) -> Readings {
    let is_ours = |place: &&PartitionPlace| {
        let owner = fabric.owner(place.id);
        owner.is_some_and(|(owner, _)| owner == fabric.node)
    };
    let is_connected =
        |member: &&Member| member.id != fabric.node && transport.connected(member.id, Lane::Route);
    Readings {
        log: groups.log_metrics(),
        transfers: groups.transfer_metrics(),
        partitions_owned: fabric.partitions.iter().filter(is_ours).count(),
        members_connected: fabric.members().iter().filter(is_connected).count(),
        quorum: is_in_touch(fabric.standing.get()),
        uptime_seconds: started.elapsed().as_secs(),
        usage: ProcessUsage::now(),
        versions: versions(fabric),
    }
}

fn versions(fabric: &Fabric) -> VersionReadings {
    let replicas = fabric.partitions.iter();
    let replicas = replicas.filter(|place| fabric.votes_in(place.id));
    let places: Vec<u32> = replicas.map(|place| place.replica.version()).collect();
    let state = fabric.meta.state();
    let pool = state.versions.pool();
    let behind = |version: &&u32| **version < u32::from(pool);
    let members = state.members.present().filter_map(|(node, _)| {
        let build = state.versions.builds.get(&node)?;
        let range = build.supports;
        Some((node.0, build.name.clone(), range.min, range.max))
    });
    VersionReadings {
        pool,
        partitions_behind: places.iter().filter(behind).count(),
        members: members.collect(),
    }
}

/// A node that stops still is; where it stands to the quorum is no longer told.
fn is_in_touch(standing: Standing) -> bool {
    matches!(
        standing,
        Standing::InTouch | Standing::Stopping | Standing::Draining
    )
}

pub(super) fn readiness(fabric: &Arc<Fabric>, groups: &Groups) -> Readiness {
    let statuses = groups.status();
    let failed = statuses
        .iter()
        .filter(|status| status.failed.is_some())
        .count();
    // Without a replica here the owner's word is all there is, and counts while the owner can be reached.
    let is_led = |id, owner| {
        let group = statuses.iter().find(|status| status.group == Group::of(id));
        if fabric.votes_in(id) {
            group.is_some_and(|status| status.leader.is_some())
        } else {
            fabric.reaches(owner)
        }
    };
    let owned = fabric
        .partitions
        .iter()
        .filter(|place| {
            let owner = fabric.owner(place.id);
            owner.is_some_and(|(owner, _)| is_led(place.id, owner))
        })
        .count();
    let standing = fabric.standing.get();
    Readiness {
        quorum: is_in_touch(standing),
        stopping: standing == Standing::Stopping,
        draining: standing == Standing::Draining,
        log_full: !groups.log_has_room(),
        groups_failed: u16::try_from(failed).unwrap_or(u16::MAX),
        partitions_owned: u16::try_from(owned).unwrap_or(u16::MAX),
        partitions: fabric.table.partitions(),
    }
}
