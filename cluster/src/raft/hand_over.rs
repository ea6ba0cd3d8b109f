//! Leadership that goes from this node to another, in order.
//!
//! ```text
//!   rest (what was admitted is done) ─► transfer ─► another leads
//!     │                                    └── not in time: another successor is asked
//!     └── no successor is fit any more: it goes on here
//! ```
//!
//! Invariant: nothing is begun that nobody can end. A leader that has begun a transfer takes no entries any more, whatever
//! becomes of it (openraft has no way back), so it begins none before it has seen that the successor answers and is near. If
//! no successor takes over after all, the voters elect one by their timers: a transfer has freed them of their promise.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::timeout;

use super::error::GroupsError;
use super::group::{GroupNode, Leadership};
use crate::node_id::{Group, NodeId};

/// Leaderships that are handed over at a time, when a node gives up all it has: clients must not feel all groups at once.
pub const HAND_OVERS_MAX: usize = 8;

/// Successors that are asked, one after the other.
const SUCCESSORS_MAX: usize = 3;

/// What a group's users on this node do before it is handed over.
pub trait Retiring: Send + Sync {
    /// Admits nothing more, and returns when what was admitted is done, within a limit of its own.
    fn rest(&self, group: Group) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// It was not handed over: goes on.
    fn go_on(&self, group: Group);
}

/// Who is told of handovers, once somebody is.
pub(crate) type Retire = Arc<OnceLock<Arc<dyn Retiring>>>;

/// Hands a group over. Returns when somebody else leads it.
pub(crate) async fn hand_over(
    node: &GroupNode,
    retire: &Retire,
    to: NodeId,
) -> Result<(), GroupsError> {
    let group = node.shared.group;
    let within = node.shared.settings.election_min;
    let (mut successor, mut begun) = (Some(to), false);
    for _ in 0..SUCCESSORS_MAX {
        let Some(to) = successor else { break };
        match transfer(node, retire, to, within / 2).await? {
            Transfer::Done => return Ok(()),
            Transfer::NotFit if !begun => break,
            Transfer::NotFit => {}
            Transfer::NotTaken => begun = true,
        }
        successor = node.status().best_successor(Some(to), within);
    }
    Err(GroupsError::NotTakenOver { group, to })
}

/// What became of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// This node does not lead any more.
    Done,
    /// Nothing was begun: the successor is not fit any more.
    NotFit,
    /// It did not take over in time.
    NotTaken,
}

/// Asks one successor.
pub(crate) async fn transfer(
    node: &GroupNode,
    retire: &Retire,
    to: NodeId,
    within: Duration,
) -> Result<Transfer, GroupsError> {
    let group = node.shared.group;
    let mut leadership = node.leadership();
    let before = *leadership.borrow();
    if !before.is_self {
        return Ok(Transfer::Done);
    }
    if let Some(users) = retire.get() {
        users.rest(group).await;
    }
    if !node
        .status()
        .can_take_over(to, node.shared.settings.election_min)
    {
        if let Some(users) = retire.get() {
            users.go_on(group);
        }
        return Ok(Transfer::NotFit);
    }
    let transferred = node.raft().trigger().transfer_leader(to).await;
    transferred.map_err(|fatal| GroupsError::stopped(group, &fatal))?;
    let gone = |now: &Leadership| !now.is_self || now.term > before.term;
    // A group that has stopped is not led either.
    match timeout(within, leadership.wait_for(gone)).await {
        Ok(_) => Ok(Transfer::Done),
        Err(_) => Ok(Transfer::NotTaken),
    }
}
