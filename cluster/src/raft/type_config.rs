//! openraft's type parameters as Muster chooses them, and the conversions between its types and our records.
//!
//! Leader ids are the standard kind: one leader a term, so that an entry's id is (term, index) and the log stores
//! nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use openraft::alias::{LogIdOf, StoredMembershipOf, VoteOf};
use openraft::vote::{RaftLeaderId, leader_id_std};
use openraft::{EmptyNode, EntryPayload, OptionalSend};
use tokio::sync::oneshot;

use super::record::{EntryRecord, LogIdRecord, MarkRecord, MembershipRecord, VoteRecord};
use crate::node_id::NodeId;

/// What an entry carries for the machine. Opaque here, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Carries a write's outcome to whoever submitted it; nobody listening any more is no error. The budget its bytes
/// took is given back when it is answered or dropped.
pub(crate) struct Answer<T> {
    pub(crate) to: oneshot::Sender<T>,
    pub(crate) budget: super::submission::Budget,
}

impl<T: Send + 'static> openraft::raft::responder::Responder<TypeConfig, T> for Answer<T> {
    fn on_complete(self, result: T) {
        drop(self.budget);
        // The caller may have stopped waiting: the outcome is of no use to anybody then.
        drop(self.to.send(result));
    }
}

/// Muster's choice of openraft's types. Written out because openraft's macro can't take a responder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Command;
    type R = ();
    type NodeId = NodeId;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = super::runtime::Runtime;
    type Responder<T>
        = Answer<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<NodeId, EmptyNode>;

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> VoteRecord {
        VoteRecord {
            term: vote.leader_id.term,
            node: vote.leader_id.voted_for.0,
            committed: vote.committed,
        }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Vote {
        let leader_id = leader_id_std::LeaderId::new(record.term, NodeId(record.node));
        Vote {
            leader_id,
            committed: record.committed,
        }
    }
}

impl From<&LogId> for LogIdRecord {
    fn from(id: &LogId) -> LogIdRecord {
        LogIdRecord {
            term: id.leader_id.term,
            index: id.index,
        }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> LogId {
        LogId::new(
            leader_id_std::CommittedLeaderId::new(record.term),
            record.index,
        )
    }
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> MembershipRecord {
        let sets = membership.get_joint_config().iter();
        MembershipRecord {
            voters: sets
                .map(|set| set.iter().map(|node| node.0).collect())
                .collect(),
            members: membership.nodes().map(|(node, _)| node.0).collect(),
        }
    }
}

impl From<&MembershipRecord> for Membership {
    fn from(record: &MembershipRecord) -> Membership {
        let sets = record.voters.iter();
        let voters: Vec<BTreeSet<NodeId>> = sets
            .map(|set| set.iter().copied().map(NodeId).collect())
            .collect();
        Membership::new_with_defaults(voters, record.members.iter().copied().map(NodeId))
    }
}

impl From<&Entry> for EntryRecord {
    fn from(entry: &Entry) -> EntryRecord {
        match &entry.payload {
            EntryPayload::Blank => EntryRecord::Blank,
            EntryPayload::Normal(command) => EntryRecord::Command(command.0.clone()),
            EntryPayload::Membership(membership) => EntryRecord::Membership(membership.into()),
        }
    }
}

/// The entry of a stored or received record.
pub(crate) fn entry(id: LogIdRecord, record: EntryRecord) -> Entry {
    let payload = match record {
        EntryRecord::Blank => EntryPayload::Blank,
        EntryRecord::Command(bytes) => EntryPayload::Normal(Command(bytes)),
        EntryRecord::Membership(membership) => EntryPayload::Membership((&membership).into()),
    };
    Entry {
        log_id: id.into(),
        payload,
    }
}

/// The mark of a machine that has applied up to `applied`.
pub(crate) fn mark(applied: &LogId, membership: &StoredMembership) -> MarkRecord {
    MarkRecord {
        applied: applied.into(),
        membership_at: membership.log_id().as_ref().map(LogIdRecord::from),
        membership: membership.membership().into(),
    }
}

/// What a mark says.
pub(crate) fn unmark(record: &MarkRecord) -> (LogId, StoredMembership) {
    let membership = StoredMembership::new(
        record.membership_at.map(LogId::from),
        (&record.membership).into(),
    );
    (record.applied.into(), membership)
}

/// All members as openraft wants them for a first membership.
pub(crate) fn members(nodes: &[NodeId]) -> BTreeMap<NodeId, EmptyNode> {
    nodes.iter().map(|node| (*node, EmptyNode::new())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_and_openraft_types_map_both_ways(
            term: u64, index: u64, node: u64, committed: bool,
            sets in proptest::collection::vec(proptest::collection::btree_set(0u64..50, 1..5), 1..3),
            learners in proptest::collection::btree_set(0u64..50, 0..5),
        ) {
            let vote = VoteRecord { term, node, committed };
            prop_assert_eq!(VoteRecord::from(&Vote::from(vote)), vote);
            let id = LogIdRecord { term, index };
            prop_assert_eq!(LogIdRecord::from(&LogId::from(id)), id);
            let mut members: BTreeSet<u64> = learners;
            sets.iter().for_each(|set| members.extend(set));
            let membership = MembershipRecord {
                voters: sets.iter().map(|set| set.iter().copied().collect()).collect(),
                members: members.into_iter().collect(),
            };
            let record = EntryRecord::Membership(membership.clone());
            prop_assert_eq!(EntryRecord::from(&entry(id, record.clone())), record);
            let marked = MarkRecord { applied: id, membership_at: Some(id), membership };
            let (applied, stored) = unmark(&marked);
            prop_assert_eq!(mark(&applied, &stored), marked);
        }
    }
}
