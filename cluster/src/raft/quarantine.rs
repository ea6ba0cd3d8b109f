//! Quarantine: a replica whose log may have lost acknowledged records gives no vote until it has caught up.
//!
//! Such a replica counts towards commits that it can no longer prove. If it voted, two damaged memories could elect a
//! leader without a committed entry. So it answers votes and pre-votes with no, takes no handover and doesn't campaign,
//! while it follows and is sent what it lacks. It is lifted when it has applied what a leader *elected without it* has
//! committed in that leader's own term: every voter of that election remembered, hence that leader has all that was ever
//! committed, and the commit in its own term says up to where that is at least.
//!
//! With a leader from before, which may have had this replica's vote, nothing is proven. The replica asks it to hand over
//! to the third voter. A group that this replica votes in alone, or with one other, has no such election, and its
//! quarantine never ends: a node that finds itself there does not start.

use openraft::errors::Fatal;
use storage::log::LogError;

use super::group::GroupNode;
use super::network::{kind, request};
use super::record::{LogIdRecord, ReelectQuery, ReelectReply, VoteRecord};
use super::shared::GroupShared;
use super::type_config::TypeConfig;
use crate::node_id::NodeId;

/// A leader's message told what it has committed.
pub(crate) fn learn_commit(shared: &GroupShared, vote: VoteRecord, committed: LogIdRecord) {
    let is_proof =
        vote.committed && shared.is_elected_without_us(vote.term) && committed.term == vote.term;
    if shared.is_quarantined() && is_proof && shared.learnt_commit().is_none() {
        shared.learn_commit(committed.index);
    }
}

/// Lifts the quarantine if the replica has caught up; otherwise asks a leader from before for an election.
pub(crate) async fn tend(node: &GroupNode) {
    let shared = &node.shared;
    if !shared.is_quarantined() {
        return;
    }
    let metrics = node.metrics();
    if let Some(commit) = shared.learnt_commit() {
        if metrics
            .last_applied
            .is_some_and(|applied| applied.index >= commit)
        {
            // The log has failed; that is told elsewhere.
            if let Err(error) = lift(node).await {
                tracing::warn!(group = %shared.group, %error, "the quarantine could not be lifted");
            }
        }
        return;
    }
    let vote = VoteRecord::from(&metrics.vote);
    let Some(leader) = metrics.current_leader else {
        return;
    };
    if shared.is_elected_without_us(vote.term) {
        // Its first commit of its own will tell.
        return;
    }
    let query = ReelectQuery { vote };
    let timeout = shared.settings.vote_timeout;
    let asked: Result<ReelectReply, _> = request(
        &node.transport,
        shared,
        leader,
        kind::REELECT,
        &query,
        timeout,
    )
    .await;
    match asked {
        Ok(reply) => {
            tracing::info!(group = %shared.group, %leader, accepted = reply.accepted, "asked for an election")
        }
        Err(error) => {
            tracing::debug!(group = %shared.group, %leader, %error, "asking for an election failed")
        }
    }
}

/// Lifts the quarantine, on disk first.
pub(crate) async fn lift(node: &GroupNode) -> Result<(), LogError> {
    let shared = &node.shared;
    shared.log.clear_quarantine().await?;
    shared.end_quarantine();
    node.raft().runtime_config().elect(true);
    tracing::info!(group = %shared.group, "the replica's quarantine is over");
    Ok(())
}

/// As leader: hands over to a voter other than `from`, if `vote` is ours and there is one.
pub(crate) async fn hand_over_for(
    node: &GroupNode,
    from: NodeId,
    vote: VoteRecord,
) -> Result<ReelectReply, Fatal<TypeConfig>> {
    let status = node.status();
    if !status.is_leader || VoteRecord::from(&node.vote()) != vote {
        return Ok(ReelectReply { accepted: false });
    }
    let Some(successor) = status.best_successor(Some(from), node.shared.settings.election_min)
    else {
        return Ok(ReelectReply { accepted: false });
    };
    tracing::info!(group = %node.shared.group, %from, to = %successor, "handing over for a quarantined replica");
    node.raft().trigger().transfer_leader(successor).await?;
    Ok(ReelectReply { accepted: true })
}
