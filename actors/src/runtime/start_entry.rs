//! A node's start entry in the meta log: its index is the node's incarnation.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::meta::{MetaEntry, MetaState};
use cluster::node_id::{Group, Incarnation, NodeId};
use cluster::raft::Groups;
use cluster::transport::{Frame, Lane, Reply, Transport};

use super::{Settings, StartError, no_quorum};

/// The kind of frames on the ROUTE lane that ask the meta group's leader to propose an entry.
pub(super) const FRAME_KIND: u8 = 16;

const TRY_EVERY: Duration = Duration::from_millis(100);
const CALL_MAX: Duration = Duration::from_secs(2);

/// Commits the start entry, after checking that this is the pool that it was made as.
pub(super) async fn begin(
    settings: &Settings,
    groups: &Groups,
    transport: &Transport,
    meta: &Arc<Mutex<MetaState>>,
) -> Result<Incarnation, StartError> {
    let deadline = Instant::now() + settings.quorum_wait;
    let digest = settings.pool_digest;
    propose_until(
        settings,
        groups,
        transport,
        MetaEntry::PoolCreated { digest },
        deadline,
    )
    .await?;
    let index = propose_until(
        settings,
        groups,
        transport,
        MetaEntry::NodeStarted {
            node: settings.node,
        },
        deadline,
    )
    .await?;
    // The entry may have been committed by another node's log first: it counts once it is applied here.
    while Instant::now() < deadline {
        {
            let state = meta.lock().unwrap_or_else(PoisonError::into_inner);
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

async fn propose_until(
    settings: &Settings,
    groups: &Groups,
    transport: &Transport,
    entry: MetaEntry,
    deadline: Instant,
) -> Result<u64, StartError> {
    let Ok(payload) = entry.encode() else {
        return Err(no_quorum(settings));
    };
    while Instant::now() < deadline {
        if let Some(index) = propose(settings.node, groups, transport, payload.clone()).await {
            return Ok(index);
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
    Err(no_quorum(settings))
}

/// Proposes here if this node leads the meta group, else asks the leader; `None`: try again.
async fn propose(
    own: NodeId,
    groups: &Groups,
    transport: &Transport,
    payload: Bytes,
) -> Option<u64> {
    let meta = groups.handle(Group::META)?;
    let leadership = *meta.leadership().borrow();
    if leadership.is_self {
        return tokio::time::timeout(CALL_MAX, meta.submit(payload))
            .await
            .ok()?
            .ok();
    }
    let leader = leadership.leader.filter(|leader| *leader != own)?;
    let answer = transport
        .call(
            leader,
            Lane::Route,
            Frame::new(FRAME_KIND, payload),
            CALL_MAX,
        )
        .await
        .ok()?;
    let index: [u8; 8] = answer.body.as_ref().try_into().ok()?;
    Some(u64::from_le_bytes(index)).filter(|index| *index > 0)
}

/// Whether a node may have this entry proposed: nobody begins another's life, which would end the one before.
fn may_propose(from: NodeId, entry: &MetaEntry) -> bool {
    match entry {
        MetaEntry::NodeStarted { node } => *node == from,
        // The first one counts; a node with another one ends its start.
        MetaEntry::PoolCreated { .. } => true,
    }
}

/// Proposes for another node, if this one leads the meta group.
pub(super) fn serve(groups: &Groups, from: NodeId, frame: &Frame, reply: Reply) {
    match MetaEntry::decode(&frame.body) {
        Ok(entry) if may_propose(from, &entry) => {}
        Ok(_) => return tracing::warn!(%from, "a node wants to begin another's life; refused"),
        Err(error) => return tracing::warn!(%from, %error, "a start entry does not read"),
    }
    let Some(meta) = groups.handle(Group::META) else {
        return;
    };
    let submission = meta.submit(frame.body.clone());
    tokio::spawn(async move {
        let index = submission.await.unwrap_or(0);
        let body = Bytes::copy_from_slice(&index.to_le_bytes());
        if let Err(error) = reply.send(Frame::new(FRAME_KIND, body)) {
            tracing::debug!(?error, "a starting node was gone before it was answered");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_begins_no_life_but_its_own() {
        let check = |from, entry, expect| {
            assert_eq!(
                may_propose(NodeId(from), &entry),
                expect,
                "{from}: {entry:?}"
            );
        };
        let started = |node| MetaEntry::NodeStarted { node: NodeId(node) };
        check(1, started(1), true);
        check(1, started(2), false);
        check(2, started(1), false);
        check(2, MetaEntry::PoolCreated { digest: [7; 32] }, true);
    }
}
