//! The fast answer to a crash: leaders of a dead process are replaced in tens of milliseconds, not after a timeout.
//!
//! A dying process resets its connections. When that is seen and a fresh connection with handshake fails as well, each
//! survivor does this for every group that the dead node led as far as it knows:
//!
//! 1. It drops its own promise to that leader. `handle_transfer_leader` with the leader's vote and the dead node as the one
//!    to take over does exactly this: somebody else is named, so nothing else happens.
//! 2. It waits its turn: a rank among the survivors from their ids and the group, so that new leaders are spread and do
//!    not campaign against each other.
//! 3. It asks for pre-votes again and again while nobody else has won.
//!
//! It is safe because it only brings an election forward. A pre-vote passes only if a quorum has dropped its promise, so
//! one broken link deposes nobody, and the election itself is Raft's.

use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use tokio::time::{Instant, sleep};

use super::group::GroupNode;
use super::type_config::Vote;
use crate::node_id::{Group, NodeId};

/// Brings the election of one group forward.
pub(crate) async fn answer(node: Arc<GroupNode>, dead: NodeId) {
    let shared = &node.shared;
    let (vote, voters) = {
        let metrics = node.raft().server_metrics();
        let seen = metrics.borrow_watched();
        (
            seen.vote,
            seen.membership_config.voter_ids().collect::<Vec<_>>(),
        )
    };
    let Some(rank) = rank(shared.group, &voters, shared.node, dead) else {
        return;
    };
    if !vote.committed || vote.leader_id.voted_for != dead || shared.is_quarantined() {
        return;
    }
    let drop_promise = TransferLeaderRequest::new(vote, dead, None);
    if node
        .raft()
        .handle_transfer_leader(drop_promise)
        .await
        .is_err()
    {
        // The group has stopped on this node, which its status tells.
        return;
    }
    sleep(shared.settings.crash_rank_delay * rank).await;
    let give_up = Instant::now() + shared.settings.crash_give_up;
    while Instant::now() < give_up && is_led_by_the_dead(&node, vote) {
        if !is_electing(&node) && node.raft().trigger().elect(true).await.is_err() {
            return;
        }
        sleep(shared.settings.crash_retry).await;
    }
    tracing::info!(group = %shared.group, %dead, leader = ?node.metrics().current_leader, "answered a leader's crash");
}

fn is_led_by_the_dead(node: &GroupNode, vote: Vote) -> bool {
    node.vote() == vote
}

fn is_electing(node: &GroupNode) -> bool {
    node.raft().server_metrics().borrow_watched().state == ServerState::Candidate
}

/// How many survivors come before `node`; `None` if it is no voter. The group shifts the order.
fn rank(group: Group, voters: &[NodeId], node: NodeId, dead: NodeId) -> Option<u32> {
    let mut survivors: Vec<NodeId> = voters
        .iter()
        .copied()
        .filter(|voter| *voter != dead)
        .collect();
    survivors.sort_unstable();
    let place = survivors.iter().position(|survivor| *survivor == node)?;
    let shift = usize::try_from(group.0)
        .ok()?
        .checked_rem(survivors.len())?;
    u32::try_from((place + survivors.len() - shift) % survivors.len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn survivors_take_turns_by_group() {
        let voters = [NodeId(1), NodeId(2), NodeId(3)];
        let check = |group: u32, node: u64, expect: Option<u32>| {
            assert_eq!(
                rank(Group(group), &voters, NodeId(node), NodeId(2)),
                expect,
                "{group} {node}"
            );
        };
        check(0, 1, Some(0));
        check(0, 3, Some(1));
        check(1, 1, Some(1));
        check(1, 3, Some(0));
        check(0, 2, None);
        check(0, 9, None);
    }

    proptest! {
        #[test]
        fn ranks_are_a_permutation(group in 0u32..100, voters in proptest::collection::btree_set(1u64..50, 1..7)) {
            let voters: Vec<NodeId> = voters.into_iter().map(NodeId).collect();
            let dead = voters[0];
            let mut ranks: Vec<u32> =
                voters.iter().filter_map(|voter| rank(Group(group), &voters, *voter, dead)).collect();
            ranks.sort_unstable();
            prop_assert_eq!(ranks, (0..voters.len() as u32 - 1).collect::<Vec<_>>());
        }
    }
}
