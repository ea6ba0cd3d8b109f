//! What a group looks like from this node, for operators and for the tasks that move leaders.

use std::time::Duration;

use openraft::{Instant, RaftMetrics, ServerState};

use super::group::GroupNode;
use super::lock;
use super::shared::GroupShared;
use super::transfer::{Receiving, TransferStatus};
use super::type_config::TypeConfig;
use crate::node_id::{Group, NodeId};

/// One group as this node sees it.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: Group,
    /// The newest term heard of.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Whether this node leads.
    pub is_leader: bool,
    /// The voters; during a change those of both sets.
    pub voters: Vec<NodeId>,
    /// Whether the voters are changing: a joint change is under way.
    pub is_joint: bool,
    /// Whether these members are committed. A leader goes by its log's newest ones before that, and may lose them again.
    pub is_settled: bool,
    /// Members that only follow.
    pub learners: Vec<NodeId>,
    /// Index of the last entry in this node's log.
    pub last_log: Option<u64>,
    /// Up to where the pool is known to have committed.
    pub committed: Option<u64>,
    /// Up to where this node's machine has applied.
    pub applied: Option<u64>,
    /// Up to where the newest snapshot here goes.
    pub snapshot: Option<u64>,
    /// Up to where this node's log is purged.
    pub purged: Option<u64>,
    /// Up to where no member will be sent entries: it has them, or gets a snapshot.
    pub purge_floor: Option<u64>,
    /// Bytes that the group's log takes on this node's disk.
    pub log_bytes: u64,
    /// The snapshot that this node is being sent.
    pub receiving: Option<TransferStatus>,
    /// The snapshots that this node is sending, one a member.
    pub sending: Vec<TransferStatus>,
    /// The other members, when this node leads.
    pub followers: Vec<FollowerStatus>,
    /// When leading: how long ago what a quorum last acknowledged was sent. `None` if no quorum has yet.
    pub quorum_age: Option<Duration>,
    /// Whether this replica may have lost acknowledged records and therefore gives no vote.
    pub quarantined: bool,
    /// Payload bytes of submissions under way.
    pub submitted_bytes: usize,
    /// Why the group has stopped on this node, if it has.
    pub failed: Option<String>,
}

/// Another member as its leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FollowerStatus {
    /// The member.
    pub node: NodeId,
    /// Whether it votes.
    pub is_voter: bool,
    /// Up to where it has the log.
    pub matched: Option<u64>,
    /// Whether it said that it is quarantined, so that it can't take over.
    pub quarantined: bool,
    /// How long ago it last answered.
    pub heard: Option<Duration>,
}

impl GroupNode {
    pub(crate) fn status(&self) -> GroupStatus {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        GroupStatus {
            group: self.shared.group,
            term: metrics.current_term,
            leader: metrics.current_leader,
            is_leader: metrics.state == ServerState::Leader,
            voters: membership.voter_ids().collect(),
            is_joint: membership.get_joint_config().len() > 1,
            is_settled: metrics.committed_membership_config == metrics.membership_config,
            learners: membership.learner_ids().collect(),
            last_log: metrics.last_log_index,
            committed: metrics.cluster_committed.map(|id| id.index),
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            purge_floor: self.shared.purge_floor(),
            log_bytes: self.shared.log.stored_bytes(),
            receiving: lock(&self.shared.receiving)
                .as_ref()
                .and_then(Receiving::status),
            sending: lock(&self.shared.sending)
                .iter()
                .map(|(node, source)| source.status(*node))
                .collect(),
            followers: followers(&metrics, &self.shared),
            quorum_age: metrics.last_quorum_acked.map(|at| at.elapsed()),
            quarantined: self.shared.is_quarantined(),
            submitted_bytes: self.submitted_bytes(),
            failed: metrics
                .running_state
                .as_ref()
                .err()
                .filter(|_| !self.slot.is_closing())
                .map(ToString::to_string),
        }
    }
}

/// The other members of a group that this node leads.
fn followers(metrics: &RaftMetrics<TypeConfig>, shared: &GroupShared) -> Vec<FollowerStatus> {
    let Some(replication) = &metrics.replication else {
        return Vec::new();
    };
    let membership = metrics.membership_config.membership();
    let voters: Vec<NodeId> = membership.voter_ids().collect();
    let others = replication.iter().filter(|(node, _)| **node != metrics.id);
    others
        .map(|(node, matched)| FollowerStatus {
            node: *node,
            is_voter: voters.contains(node),
            matched: matched.map(|id| id.index),
            quarantined: shared.is_member_quarantined(*node),
            heard: metrics
                .heartbeat
                .as_ref()
                .and_then(|all| all.get(node).copied().flatten())
                .map(|at| at.elapsed()),
        })
        .collect()
}

/// A voter that may lag by this many entries can take over without a noticeable pause.
const LAG_MAX: u64 = 1000;

impl GroupStatus {
    /// The member that leadership of this group prefers, so that leaders are spread.
    pub fn preferred_leader(&self) -> Option<NodeId> {
        preferred_leader(self.group, &self.voters)
    }

    /// Whether `node` could take over now: a voter that answers and has nearly all of the log.
    pub(crate) fn can_take_over(&self, node: NodeId, heard_within: Duration) -> bool {
        self.followers
            .iter()
            .any(|follower| follower.node == node && self.is_fit(follower, heard_within))
    }

    /// How many entries a follower lacks; `None` if this node doesn't lead, or the follower has shown nothing yet.
    pub fn lag_of(&self, node: NodeId) -> Option<u64> {
        let follower = self.followers.iter().find(|follower| follower.node == node);
        let matched = follower?.matched?;
        Some(self.last_log.unwrap_or(0).saturating_sub(matched))
    }

    /// Whether a follower has the log up to here.
    pub(crate) fn has_upto(&self, node: NodeId, index: Option<u64>) -> bool {
        let mut followers = self.followers.iter();
        followers.any(|follower| follower.node == node && follower.matched >= index)
    }

    /// The voter, `except` one, that has most of the log among those that could take over.
    pub(crate) fn best_successor(
        &self,
        except: Option<NodeId>,
        heard_within: Duration,
    ) -> Option<NodeId> {
        let fit = self
            .followers
            .iter()
            .filter(|follower| self.is_fit(follower, heard_within));
        let others = fit.filter(|follower| Some(follower.node) != except);
        others
            .max_by_key(|follower| follower.matched)
            .map(|follower| follower.node)
    }

    fn is_fit(&self, follower: &FollowerStatus, heard_within: Duration) -> bool {
        let lag = self
            .last_log
            .unwrap_or(0)
            .saturating_sub(follower.matched.unwrap_or(0));
        let is_heard = follower.heard.is_some_and(|ago| ago <= heard_within);
        follower.is_voter
            && !follower.quarantined
            && follower.matched.is_some()
            && lag <= LAG_MAX
            && is_heard
    }
}

/// The voter that leadership of a group prefers: by turns, in the order of their ids.
pub(crate) fn preferred_leader(group: Group, voters: &[NodeId]) -> Option<NodeId> {
    let turn = usize::try_from(group.0).ok()?.checked_rem(voters.len())?;
    let mut voters = voters.to_vec();
    voters.sort_unstable();
    voters.get(turn).copied()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn status(matched: &[(u64, Option<u64>, Option<u64>)]) -> GroupStatus {
        GroupStatus {
            group: Group(4),
            term: 1,
            leader: Some(NodeId(1)),
            is_leader: true,
            voters: std::iter::once(NodeId(1))
                .chain(matched.iter().map(|(node, ..)| NodeId(*node)))
                .collect(),
            is_joint: false,
            is_settled: true,
            learners: Vec::new(),
            last_log: Some(5000),
            committed: Some(5000),
            applied: Some(5000),
            snapshot: None,
            purged: None,
            purge_floor: None,
            log_bytes: 0,
            receiving: None,
            sending: Vec::new(),
            followers: matched
                .iter()
                .map(|(node, matched, heard)| FollowerStatus {
                    node: NodeId(*node),
                    is_voter: true,
                    quarantined: *node == 66,
                    matched: *matched,
                    heard: heard.map(Duration::from_millis),
                })
                .collect(),
            quorum_age: None,
            quarantined: false,
            submitted_bytes: 0,
            failed: None,
        }
    }

    #[test]
    fn preferred_leaders_take_turns() {
        let voters = [NodeId(7), NodeId(2), NodeId(5)];
        let preferred: Vec<u64> = (0..5)
            .map(|g| preferred_leader(Group(g), &voters).unwrap().0)
            .collect();
        assert_eq!(preferred, [2, 5, 7, 2, 5]);
        assert_eq!(preferred_leader(Group(0), &[]), None);
    }

    #[test]
    fn a_successor_is_near_and_alive() {
        let check = |followers: &[(u64, Option<u64>, Option<u64>)],
                     except: Option<u64>,
                     expect: Option<u64>| {
            let best =
                status(followers).best_successor(except.map(NodeId), Duration::from_millis(500));
            assert_eq!(best, expect.map(NodeId), "{followers:?}");
        };
        check(
            &[(2, Some(4990), Some(10)), (3, Some(5000), Some(10))],
            None,
            Some(3),
        );
        check(
            &[(2, Some(4990), Some(10)), (3, Some(5000), Some(10))],
            Some(3),
            Some(2),
        );
        check(
            &[(2, Some(4990), Some(10)), (3, Some(5000), Some(900))],
            None,
            Some(2),
        );
        check(&[(2, Some(100), Some(10)), (3, None, Some(10))], None, None);
        check(&[(2, Some(5000), None)], None, None);
        check(&[(66, Some(5000), Some(10))], None, None);
        check(&[], None, None);
    }

    #[test]
    fn a_member_that_takes_nothing_is_told_from_one_that_does() {
        let status = status(&[(2, Some(4990), Some(10)), (3, None, Some(10))]);
        let check = |node, index, expect| {
            assert_eq!(
                status.has_upto(NodeId(node), index),
                expect,
                "{node} {index:?}"
            );
        };
        check(2, Some(4990), true);
        check(2, Some(4991), false);
        check(2, None, true);
        check(3, Some(1), false);
        check(4, None, false);
    }
}
