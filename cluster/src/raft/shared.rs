//! What the tasks of one group share beside openraft itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::counted_on::CountedOn;
use super::lock;
use super::log_store::GroupLog;
use super::machine::SnapshotHome;
use super::settings::RaftSettings;
use super::transfer::{Receiving, Source, Transfers};
use crate::node_id::{Group, NodeId};

/// No index is known yet.
const NONE: u64 = u64::MAX;

/// One group on this node, as its tasks see it.
pub(crate) struct GroupShared {
    pub(crate) group: Group,
    /// The group in a frame's partition field.
    pub(crate) wire_number: u16,
    pub(crate) node: NodeId,
    pub(crate) settings: Arc<RaftSettings>,
    pub(crate) log: GroupLog,
    /// Where the group's snapshots lie, if they can be sent and received.
    pub(crate) home: Option<SnapshotHome>,
    /// What all groups' transfers of the node share.
    pub(crate) transfers: Arc<Transfers>,
    /// The snapshots that are offered to members now.
    pub(crate) sending: Mutex<BTreeMap<NodeId, Arc<Source>>>,
    /// The identity of the last snapshot here that was read to its end.
    pub(crate) verified: Mutex<Option<[u8; 32]>>,
    /// The snapshot that is being received, or how the last one ended.
    pub(crate) receiving: Mutex<Option<Receiving>>,
    purge_floor: AtomicU64,
    quarantined: AtomicBool,
    /// The term of the vote found at the start of a quarantine; a leader of a later term was elected without us.
    quarantine_term: AtomicU64,
    learnt_commit: AtomicU64,
    /// Members that said they are quarantined; only a leader hears it.
    quarantined_members: Mutex<BTreeSet<NodeId>>,
    /// Whose entries or heartbeats were taken last, and when.
    leader_heard: Mutex<Option<(NodeId, Instant)>>,
    /// Whose disk a commit waits for, if this node leads.
    pub(super) counted_on: Mutex<CountedOn>,
}

impl GroupShared {
    pub(crate) fn new(
        group: Group,
        wire_number: u16,
        node: NodeId,
        settings: Arc<RaftSettings>,
        log: GroupLog,
        home: Option<SnapshotHome>,
        transfers: Arc<Transfers>,
    ) -> std::io::Result<GroupShared> {
        let quarantined = log.is_quarantined();
        let quarantine_term = log.vote()?.map_or(0, |vote| vote.term);
        Ok(GroupShared {
            group,
            wire_number,
            node,
            settings,
            log,
            home,
            transfers,
            sending: Mutex::default(),
            verified: Mutex::default(),
            receiving: Mutex::default(),
            purge_floor: AtomicU64::new(NONE),
            quarantined: AtomicBool::new(quarantined),
            quarantine_term: AtomicU64::new(quarantine_term),
            learnt_commit: AtomicU64::new(NONE),
            quarantined_members: Mutex::default(),
            leader_heard: Mutex::default(),
            counted_on: Mutex::new(CountedOn::new(group, node)),
        })
    }

    /// Up to where no member will need entries ([`super::status::GroupStatus::purge_floor`]). A leader knows it and passes it
    /// on, so that a follower purges nothing that it might have to send as the next leader.
    pub(crate) fn purge_floor(&self) -> Option<u64> {
        some(self.purge_floor.load(Ordering::Relaxed))
    }

    /// Never falls: who lagged too far once is sent a snapshot.
    pub(crate) fn learn_purge_floor(&self, index: u64) {
        raise(&self.purge_floor, index);
    }

    /// Whether this replica must not vote, see [`super::quarantine`].
    pub(crate) fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Acquire)
    }

    pub(crate) fn end_quarantine(&self) {
        self.quarantined.store(false, Ordering::Release);
    }

    /// The group's data was removed: it begins anew, and gives no vote until it has caught up. A leader that had this
    /// replica's vote had it when the replica knew all it was asked for, so any leader proves what it has committed.
    pub(crate) fn emptied(&self) {
        self.quarantine_term.store(0, Ordering::Relaxed);
        self.learnt_commit.store(NONE, Ordering::Relaxed);
        self.purge_floor.store(NONE, Ordering::Relaxed);
        lock(&self.sending).clear();
        *lock(&self.verified) = None;
        *lock(&self.receiving) = None;
        self.quarantined.store(true, Ordering::Release);
    }

    /// A member said whether it is quarantined.
    pub(crate) fn learn_quarantined(&self, member: NodeId, quarantined: bool) {
        let mut members = lock(&self.quarantined_members);
        if quarantined {
            members.insert(member);
        } else {
            members.remove(&member);
        }
    }

    /// Whether a member said that it is quarantined.
    pub(crate) fn is_member_quarantined(&self, member: NodeId) -> bool {
        lock(&self.quarantined_members).contains(&member)
    }

    /// A leader's entries or heartbeat were taken.
    pub(crate) fn hear_leader(&self, leader: NodeId) {
        *lock(&self.leader_heard) = Some((leader, Instant::now()));
    }

    /// Whom this node has followed within that time.
    pub(crate) fn leader_heard(&self, within: Duration) -> Option<NodeId> {
        let heard = *lock(&self.leader_heard);
        heard
            .filter(|(_, at)| at.elapsed() <= within)
            .map(|(leader, _)| leader)
    }

    /// Whether a leader of this term was surely elected without this replica's quarantined vote.
    pub(crate) fn is_elected_without_us(&self, term: u64) -> bool {
        term > self.quarantine_term.load(Ordering::Relaxed)
    }

    /// What a leader elected without us has committed.
    pub(crate) fn learnt_commit(&self) -> Option<u64> {
        some(self.learnt_commit.load(Ordering::Relaxed))
    }

    pub(crate) fn learn_commit(&self, index: u64) {
        raise(&self.learnt_commit, index);
    }
}

fn some(index: u64) -> Option<u64> {
    (index != NONE).then_some(index)
}

fn raise(cell: &AtomicU64, index: u64) {
    let higher = |now| (now == NONE || now < index).then_some(index);
    // An error means that it is that high already.
    cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, higher)
        .ok();
}
