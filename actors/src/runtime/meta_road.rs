//! The road to the meta group: an entry is proposed here if this node leads it, else by the node that does.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::meta::versions::VersionEntry;
use cluster::meta::{MetaAnswer, MetaEntry, MetaRefusal, MetaReplica};
use cluster::node_id::{Group, NodeId};
use cluster::raft::Groups;
use cluster::transport::{Frame, Lane, Reply, Transport};
use serde::Serialize;

/// The kind of frames on the ROUTE lane that ask the meta group's leader to propose an entry.
pub(super) const FRAME_KIND: u8 = 16;

const CALL_MAX: Duration = Duration::from_secs(2);
const TRY_EVERY: Duration = Duration::from_millis(100);

/// How long a change of the meta group may take; longer, and its outcome is unknown.
const DECIDED_MAX: Duration = Duration::from_secs(10);

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{sentence}")]
pub struct OperationError {
    /// For programs: kebab-case, never changed.
    pub code: &'static str,
    /// For people.
    pub sentence: String,
}

impl OperationError {
    /// With a code and a sentence.
    pub fn new(code: &'static str, sentence: impl Into<String>) -> OperationError {
        OperationError {
            code,
            sentence: sentence.into(),
        }
    }
}

impl From<MetaRefusal> for OperationError {
    fn from(refusal: MetaRefusal) -> OperationError {
        OperationError {
            code: refusal.code,
            sentence: refusal.sentence,
        }
    }
}

/// Why a proposal's index is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unheard {
    /// It reached nobody.
    NotSent,
    /// It may be committed or not.
    Sent,
}

/// What proposing needs.
#[derive(Clone)]
pub(crate) struct MetaRoad {
    pub(crate) node: NodeId,
    pub(crate) groups: Groups,
    pub(crate) transport: Transport,
}

impl MetaRoad {
    /// Proposes here if this node leads the meta group, else asks the leader. The index at which it was committed. Who does
    /// not hear it may try again with what does no harm twice.
    pub(crate) async fn propose(&self, payload: Bytes) -> Result<u64, Unheard> {
        let meta = self.groups.handle(Group::META).ok_or(Unheard::NotSent)?;
        let leadership = *meta.leadership().borrow();
        if leadership.is_self {
            let submitted = tokio::time::timeout(CALL_MAX, meta.submit(payload)).await;
            return match submitted {
                Ok(Ok(index)) => Ok(index),
                _ => Err(Unheard::Sent),
            };
        }
        let leader = leadership.leader.filter(|leader| *leader != self.node);
        let leader = leader.ok_or(Unheard::NotSent)?;
        let frame = Frame::new(FRAME_KIND, payload);
        let called = self.transport.call(leader, Lane::Route, frame, CALL_MAX);
        let answer = called.await.map_err(|_| Unheard::Sent)?;
        let index: Result<[u8; 8], _> = answer.body.as_ref().try_into();
        match index.map(u64::from_le_bytes) {
            Ok(index) if index > 0 => Ok(index),
            _ => Err(Unheard::Sent),
        }
    }

    /// Proposes an entry that does no harm twice, until it is decided, and gives what became of it.
    ///
    /// # Errors
    /// What `apply` refused; `unavailable` and `outcome-unknown` when there was no decision in time.
    pub(crate) async fn decide(
        &self,
        meta: &MetaReplica,
        entry: MetaEntry,
    ) -> Result<MetaAnswer, OperationError> {
        let payload = entry
            .encode()
            .map_err(|error| OperationError::new("too-large", error.to_string()))?;
        let deadline = Instant::now() + DECIDED_MAX;
        let mut sent = false;
        while Instant::now() < deadline {
            let index = match self.propose(payload.clone()).await {
                Ok(index) => index,
                Err(unheard) => {
                    sent |= unheard == Unheard::Sent;
                    tokio::time::sleep(TRY_EVERY).await;
                    continue;
                }
            };
            let mut applied = meta.applied();
            let heard = applied.wait_for(|applied| *applied >= index);
            let rest = deadline.saturating_duration_since(Instant::now());
            let heard = tokio::time::timeout(rest, heard).await.is_ok();
            return match meta.verdict(index) {
                Some(verdict) => Ok(verdict?),
                None if heard => Err(unknown("its outcome came too long ago")),
                None => Err(unknown("this node did not hear of the outcome in time")),
            };
        }
        if sent {
            return Err(unknown("the meta group did not answer in time"));
        }
        Err(OperationError::new(
            "unavailable",
            "not done: the meta group has no leader that this node reaches; try again",
        ))
    }
}

fn unknown(why: &str) -> OperationError {
    OperationError::new(
        "outcome-unknown",
        format!("{why}; look whether it was done"),
    )
}

/// Whether a node, which is known as a member or not, may have this entry proposed: nobody begins another's life, which
/// would end the one before.
fn may_propose((from, is_known): (NodeId, bool), entry: &MetaEntry) -> bool {
    match entry {
        MetaEntry::NodeStarted { node }
        | MetaEntry::Version(VersionEntry::Started { node, .. }) => *node == from,
        // The first one counts; a node with another one ends its start.
        MetaEntry::PoolCreated { .. } => true,
        // Any member may carry an operator's word, and report what it leads. `apply` judges it.
        MetaEntry::Members(_)
        | MetaEntry::Placement(_)
        | MetaEntry::Access(_)
        | MetaEntry::Version(VersionEntry::Finalised { .. }) => is_known,
    }
}

/// Proposes for another node, if this one leads the meta group.
pub(super) fn serve(
    groups: &Groups,
    (from, is_known): (NodeId, bool),
    frame: &Frame,
    reply: Reply,
) {
    match MetaEntry::decode(&frame.body) {
        Ok(entry) if may_propose((from, is_known), &entry) => {}
        Ok(_) => {
            return tracing::warn!(%from, "a proposal that is not this node's to make; refused");
        }
        Err(error) => return tracing::warn!(%from, %error, "a meta entry does not read"),
    }
    let Some(meta) = groups.handle(Group::META) else {
        return;
    };
    let submission = meta.submit(frame.body.clone());
    tokio::spawn(async move {
        let index = submission.await.unwrap_or(0);
        let body = Bytes::copy_from_slice(&index.to_le_bytes());
        if let Err(error) = reply.send(Frame::new(FRAME_KIND, body)) {
            tracing::debug!(?error, "a node was gone before its proposal was answered");
        }
    });
}

#[cfg(test)]
mod tests {
    use cluster::meta::targets::PlacementEntry;
    use cluster::version::Build;

    use super::*;

    #[test]
    fn a_node_begins_no_life_but_its_own() {
        let check = |from, entry, expect| {
            assert_eq!(
                may_propose((NodeId(from), false), &entry),
                expect,
                "{from}: {entry:?}"
            );
        };
        let untold = |node| MetaEntry::NodeStarted { node: NodeId(node) };
        let told = |node| {
            MetaEntry::Version(VersionEntry::Started {
                node: NodeId(node),
                build: Build::own(),
            })
        };
        for started in [untold, told] {
            check(1, started(1), true);
            check(1, started(2), false);
            check(2, started(1), false);
        }
        let finalised = MetaEntry::Version(VersionEntry::Finalised { version: 2 });
        check(2, finalised, false);
        check(2, MetaEntry::PoolCreated { digest: [7; 32] }, true);
        let reached = MetaEntry::Placement(PlacementEntry::Reached {
            group: Group(1),
            expected: 1,
        });
        check(2, reached.clone(), false);
        assert!(may_propose((NodeId(2), true), &reached));
    }
}
