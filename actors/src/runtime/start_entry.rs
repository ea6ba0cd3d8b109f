//! A node's start entry in the meta log: its index is the node's incarnation.

use std::time::{Duration, Instant};

use cluster::meta::members::MemberPhase;
use cluster::meta::versions::VersionEntry;
use cluster::meta::{MetaEntry, MetaReplica};
use cluster::node_id::Incarnation;

use super::meta_road::MetaRoad;
use super::versions::refuse_skew;
use super::{Settings, StartError, no_quorum};

const TRY_EVERY: Duration = Duration::from_millis(100);

/// Commits the start entry, after checking that this is the pool that it was made as, and that the node is still in it.
/// `skew`: whether the others refuse this node because of its build.
pub(super) async fn begin(
    settings: &Settings,
    road: &MetaRoad,
    meta: &MetaReplica,
    skew: impl Fn() -> Result<(), StartError>,
) -> Result<Incarnation, StartError> {
    let deadline = Instant::now() + settings.quorum_wait;
    let digest = settings.pool_digest;
    let created = MetaEntry::PoolCreated { digest };
    let wait = Wait {
        settings,
        meta,
        skew,
        deadline,
    };
    wait.propose(road, created).await?;
    let started = MetaEntry::Version(VersionEntry::Started {
        node: settings.node,
        build: settings.build.clone(),
    });
    let index = wait.propose(road, started).await?;
    // The entry may have been committed by another node's log first: it counts once it is applied here.
    while Instant::now() < deadline {
        wait.refuse()?;
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
        // Somebody has finalised a version meanwhile that this build does not support.
        if let Some(Err(refusal)) = meta.verdict(index) {
            return Err(StartError::VersionSkew(refusal.sentence));
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

/// A start that waits for the meta group.
struct Wait<'a, F> {
    settings: &'a Settings,
    meta: &'a MetaReplica,
    skew: F,
    deadline: Instant,
}

impl<F: Fn() -> Result<(), StartError>> Wait<'_, F> {
    /// What ends the wait, as far as this node has heard.
    fn refuse(&self) -> Result<(), StartError> {
        refuse_removed(self.settings, self.meta)?;
        refuse_skew(self.settings, self.meta)?;
        (self.skew)()
    }

    async fn propose(&self, road: &MetaRoad, entry: MetaEntry) -> Result<u64, StartError> {
        let Ok(payload) = entry.encode() else {
            return Err(no_quorum(self.settings));
        };
        while Instant::now() < self.deadline {
            self.refuse()?;
            if let Ok(index) = road.propose(payload.clone()).await {
                return Ok(index);
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
        Err(no_quorum(self.settings))
    }
}
