//! Tells the others what this node has and can take, and where clients reach it; and reads what they tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::gossip::shell::Gossiper;
use cluster::gossip::{GossipKey, GossipValue};
use cluster::meta::capacity::Capacity;
use cluster::node_id::NodeId;
use cluster::raft::Groups;
use tokio::time::MissedTickBehavior;

use crate::fabric::Fabric;

/// How often figures are told.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// How often the disk is looked at: it walks the folders.
const DISK_EVERY: Duration = Duration::from_secs(10);

/// Sizes are told in steps of this, or each of them would be news all the time.
const STEP_BYTES: u64 = 1 << 20;

/// What the disk has and holds, as last looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Disk {
    data_bytes: u64,
    free_bytes: u64,
}

/// Tells for as long as the node lives.
pub(super) async fn tell(fabric: Arc<Fabric>, groups: Groups, gossip: Arc<Gossiper>) {
    let mut ticks = tokio::time::interval(TOLD_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut disk = Disk::default();
    let mut looked: Option<Instant> = None;
    loop {
        ticks.tick().await;
        if looked.is_none_or(|at| at.elapsed() >= DISK_EVERY) {
            disk = look_at_disk(&fabric).await.unwrap_or(disk);
            looked = Some(Instant::now());
        }
        let figures = own(&fabric, &groups, disk);
        let address = fabric.settings.client.address.clone();
        let address = address.map_or(GossipValue::Withdrawn, GossipValue::Address);
        let told = [
            (GossipKey::Capacity, GossipValue::Capacity(figures)),
            (GossipKey::ClientAddress, address),
        ];
        for (key, value) in told {
            if let Err(error) = gossip.set(key, value) {
                tracing::debug!(?error, ?key, "the gossip is full");
            }
        }
    }
}

async fn look_at_disk(fabric: &Fabric) -> Option<Disk> {
    let data = Arc::clone(&fabric.settings.data);
    let look = move || {
        Ok::<_, std::io::Error>(Disk {
            data_bytes: data.replica_bytes()?,
            free_bytes: data.free_bytes()?,
        })
    };
    let looked = crate::threads::spawn_blocking(look).await.ok()?;
    looked
        .inspect_err(|error| tracing::debug!(%error, "the data folder could not be looked at"))
        .ok()
}

fn own(fabric: &Fabric, groups: &Groups, disk: Disk) -> Capacity {
    let memory = (fabric.settings.memory)();
    let statuses = groups.status();
    let votes = statuses
        .iter()
        .filter(|status| status.voters.contains(&fabric.node));
    let steps = |bytes: u64| bytes.next_multiple_of(STEP_BYTES);
    Capacity {
        sessions: fabric.directory.len() as u64,
        sessions_max: fabric.settings.client.sessions_max,
        data_bytes: steps(disk.data_bytes),
        replicas: votes.count() as u64,
        // What is kept free for what is committed is nobody's.
        disk_free_bytes: steps(
            disk.free_bytes
                .saturating_sub(fabric.settings.storage.log.disk_free_bytes_min),
        ),
        memory_bytes: steps(memory.used_bytes),
        memory_free_bytes: steps(memory.free_bytes),
    }
}

/// What each node has told.
pub(super) fn told(gossip: &Gossiper) -> BTreeMap<NodeId, Capacity> {
    gossip.with_core(|core, _| {
        let nodes = core.view().iter();
        nodes
            .filter_map(|(node, view)| match view.get(GossipKey::Capacity) {
                Some(GossipValue::Capacity(figures)) => Some((*node, *figures)),
                _ => None,
            })
            .collect()
    })
}
