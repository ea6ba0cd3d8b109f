//! A node's start entry in the meta log: its index is the node's incarnation.

use std::time::{Duration, Instant};

use cluster::meta::members::MemberPhase;
use cluster::meta::{MetaEntry, MetaReplica};
use cluster::node_id::Incarnation;

use super::meta_road::MetaRoad;
use super::{Settings, StartError, no_quorum};

const TRY_EVERY: Duration = Duration::from_millis(100);

/// Commits the start entry, after checking that this is the pool that it was made as, and that the node is still in it.
pub(super) async fn begin(
    settings: &Settings,
    road: &MetaRoad,
    meta: &MetaReplica,
) -> Result<Incarnation, StartError> {
    let deadline = Instant::now() + settings.quorum_wait;
    let digest = settings.pool_digest;
    let created = MetaEntry::PoolCreated { digest };
    propose_until(settings, road, meta, created, deadline).await?;
    let started = MetaEntry::NodeStarted {
        node: settings.node,
    };
    let index = propose_until(settings, road, meta, started, deadline).await?;
    // The entry may have been committed by another node's log first: it counts once it is applied here.
    while Instant::now() < deadline {
        refuse_removed(settings, meta)?;
        {
            let state = meta.state();
            if state.digest.is_some_and(|known| known != digest) {
                return Err(StartError::OtherPool);
            }
            if state
                .starts
                .get(&settings.node)
                .is_some_and(|life| life.0 >= index)
            {
                return Ok(Incarnation(index));
            }
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
    Err(no_quorum(settings))
}

/// A node that was removed from the pool does not start again, as far as it has heard of it.
pub(super) fn refuse_removed(settings: &Settings, meta: &MetaReplica) -> Result<(), StartError> {
    match meta.state().members.phase(settings.node) {
        Some(MemberPhase::Removed) => Err(StartError::Removed(settings.node)),
        _ => Ok(()),
    }
}

async fn propose_until(
    settings: &Settings,
    road: &MetaRoad,
    meta: &MetaReplica,
    entry: MetaEntry,
    deadline: Instant,
) -> Result<u64, StartError> {
    let Ok(payload) = entry.encode() else {
        return Err(no_quorum(settings));
    };
    while Instant::now() < deadline {
        refuse_removed(settings, meta)?;
        if let Ok(index) = road.propose(payload.clone()).await {
            return Ok(index);
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
    Err(no_quorum(settings))
}
