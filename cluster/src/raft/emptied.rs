//! A replica that was given away: its data is removed, and it begins anew, empty, as a node that was never a member.
//!
//! ```text
//!   stopped ─► is it surely so? ─► noted ─► quarantined, log dropped ─► data removed ─► begun anew
//!                  └── in doubt ────────────────────────────────────────────────────────► begun anew, as it was
//! ```
//!
//! Invariants. Nothing is removed that a quorum may count on: whether the group counts on this node is asked when the replica
//! has stopped and can acknowledge nothing more, and the answer must be one that a quorum has given then. What was begun is
//! finished at the next start, before the replica acknowledges anything ([`Removal::note`]). A replica that has forgotten its
//! log gives no vote, and keeps the vote that it has given: else it could help a candidate that never had what was committed
//! with this replica's help, or a leader that others have left behind.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, Raft};
use storage::log::{GroupId, Log, LogError};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::error::{GroupsError, MachineError};
use super::group::GroupNode;
use super::machine::{Machine, Replica, away};
use super::network::Clients;
use crate::node_id::Group;

/// How long a replica may take to end.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What removing a replica's data takes, beside its log.
pub trait Removal: Send + Sync {
    /// Whether the group surely does not count on this node, by a quorum's word of now.
    fn is_sure(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;

    /// Notes on disk that the data is to be removed, so that the next start does it if this process does not.
    ///
    /// # Errors
    /// Those of the disk: nothing is removed.
    fn note(&self) -> Result<(), MachineError>;

    /// Removes all of it, and then the note. May be done again.
    ///
    /// # Errors
    /// Those of the disk.
    fn remove(&self) -> Result<(), MachineError>;

    /// Opens the group's machine, as at a start.
    ///
    /// # Errors
    /// As at a start.
    fn open(&self) -> Result<Box<dyn Machine>, MachineError>;
}

/// Forgets what a group's log holds but its vote: no vote is given from now on.
///
/// # Errors
/// Those of the log; then it may be so or not, and is to be done again.
pub async fn forget_log(log: &Log, group: Group) -> Result<(), LogError> {
    let group = GroupId(group.0);
    let (told, quarantined) = oneshot::channel();
    log.quarantine(group, move |result| drop(told.send(result)));
    quarantined.await.unwrap_or(Err(LogError::Closed))?;
    let (told, dropped) = oneshot::channel();
    log.drop_group(group, move |result| drop(told.send(result)));
    dropped.await.unwrap_or(Err(LogError::Closed))
}

/// Empties a group's replica; `false`: it was in doubt, and stays as it was.
pub(crate) async fn empty(
    node: &Arc<GroupNode>,
    config: &Arc<Config>,
    removal: &dyn Removal,
) -> Result<bool, GroupsError> {
    let group = node.shared.group;
    node.slot.close();
    stop(node).await?;
    let is_sure = removal.is_sure().await;
    if is_sure {
        away(|| removal.note()).map_err(|source| GroupsError::Machine { group, source })?;
        let forgotten = forget_log(node.shared.log.log(), group).await;
        forgotten.map_err(|source| GroupsError::Log { group, source })?;
        away(|| removal.remove()).map_err(|source| GroupsError::Machine { group, source })?;
        node.shared.emptied();
    }
    reopen(node, config, removal).await?;
    Ok(is_sure)
}

/// Ends the replica, its machine too.
async fn stop(node: &GroupNode) -> Result<(), GroupsError> {
    let group = node.shared.group;
    let stopped = |reason: String| GroupsError::Stopped { group, reason };
    let ended = node.raft().shutdown().await;
    ended.map_err(|error| stopped(error.to_string()))?;
    let deadline = Instant::now() + STOPPED_WITHIN;
    while node.slot.has_machine() {
        if Instant::now() >= deadline {
            return Err(stopped("its machine did not end".to_owned()));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn reopen(
    node: &GroupNode,
    config: &Arc<Config>,
    removal: &dyn Removal,
) -> Result<(), GroupsError> {
    let shared = &node.shared;
    let group = shared.group;
    let machine = away(|| removal.open());
    let machine = machine.map_err(|source| GroupsError::Machine { group, source })?;
    let unreadable = |error: std::io::Error| GroupsError::Stopped {
        group,
        reason: error.to_string(),
    };
    let purged = shared.log.last_purged().map_err(unreadable)?;
    let replica = Replica::new(group, machine, purged, shared.settings.on_failure.clone());
    let mut replica = replica.map_err(|source| GroupsError::Machine { group, source })?;
    replica.cover(shared.log.last()).map_err(unreadable)?;
    let alive = replica.alive();
    let clients = Clients {
        group: shared.clone(),
        transport: node.transport.clone(),
    };
    let config = may_elect(config, !shared.is_quarantined());
    let raft = Raft::new(shared.node, config, clients, shared.log.clone(), replica).await;
    let raft = raft.map_err(|fatal| GroupsError::stopped(group, &fatal))?;
    node.slot.replace(raft, alive);
    Ok(())
}

/// A quarantined replica does not campaign.
pub(crate) fn may_elect(config: &Arc<Config>, may: bool) -> Arc<Config> {
    if may {
        return config.clone();
    }
    Arc::new(Config {
        enable_elect: false,
        ..Config::clone(config)
    })
}
