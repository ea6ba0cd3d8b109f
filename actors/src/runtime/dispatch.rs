//! Frames and peer events of the transport, handed to whom they are for. Nothing here blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cluster::gossip::shell::Gossiper;
use cluster::gossip::{GossipKey, GossipValue};
use cluster::link::protocol::{Across, Down, RouteKind, Up};
use cluster::meta::MetaReplica;
use cluster::node_id::{Epoch, Group, NodeId, PartitionId};
use cluster::raft::Groups;
use cluster::reach::Reachability;
use cluster::transport::{Direction, Frame, FrameHandler, Lane, PeerEvent, Reply};
use cluster::version::VersionRange;
use storage::data_dir::DataDir;

use super::{MemberList, Settings};
use super::{StartError, backup, first_start, meta_road, reach, versions};
use crate::fabric::Fabric;
use crate::link::ToLink;
use crate::owner::ToOwner;
use crate::relay::{self, Road};

/// The transport's handler.
pub(super) struct Dispatcher {
    members: Arc<MemberList>,
    own: NodeId,
    data: Arc<DataDir>,
    gossip: Arc<Gossiper>,
    groups: OnceLock<Groups>,
    fabric: OnceLock<Arc<Fabric>>,
    /// Who said lately that this node is no member.
    strangers: Mutex<BTreeSet<NodeId>>,
    /// Who speaks no version that this node speaks, and what it does speak.
    skews: Mutex<BTreeMap<NodeId, VersionRange>>,
    /// The first node of the pool that has connected to this one.
    caller: OnceLock<NodeId>,
}

/// Whether a node that is no known member may send a Raft frame of this group, while this is the leader of meta.
fn may_tell_of_meta(from: NodeId, group: Group, leader: Option<NodeId>) -> bool {
    group == Group::META && leader.is_none_or(|leader| leader == from)
}

impl Dispatcher {
    pub(super) fn new(
        settings: &Settings,
        members: Arc<MemberList>,
        gossip: Arc<Gossiper>,
    ) -> Dispatcher {
        Dispatcher {
            members,
            own: settings.node,
            data: Arc::clone(&settings.data),
            gossip,
            groups: OnceLock::new(),
            fabric: OnceLock::new(),
            strangers: Mutex::default(),
            skews: Mutex::default(),
            caller: OnceLock::new(),
        }
    }

    /// A node of the pool that has connected to this one.
    pub(super) fn caller(&self) -> Option<NodeId> {
        self.caller.get().copied()
    }

    /// Whether more than half of the others speak no version in common with this node's build: then it has no pool to start in.
    /// One of them alone may be what is wrong.
    ///
    /// # Errors
    /// If so.
    pub(super) fn skew(&self, settings: &Settings) -> Result<(), StartError> {
        let skews = self.skews();
        let peers = self.members.peers();
        let others = peers.iter().filter(|peer| peer.id != self.own).count();
        match 2 * skews.len() > others {
            true => Err(versions::refused_by(&settings.build, &skews)),
            false => Ok(()),
        }
    }

    fn skews(&self) -> Vec<(NodeId, VersionRange)> {
        let skews = self.skews.lock().unwrap_or_else(PoisonError::into_inner);
        skews.iter().map(|(node, range)| (*node, *range)).collect()
    }

    /// A start without a quorum has a reason if others don't know this node, or never told it of the pool that it was to
    /// be added to.
    pub(super) fn explain(
        &self,
        settings: &Settings,
        meta: &MetaReplica,
        error: StartError,
    ) -> StartError {
        let skews = self.skews();
        if matches!(error, StartError::NoQuorum { .. }) && !skews.is_empty() {
            return versions::refused_by(&settings.build, &skews);
        }
        let strangers = self
            .strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_first = settings
            .members
            .iter()
            .any(|member| member.id == settings.node);
        let by = match strangers.len() {
            0 if is_first || meta.state().digest.is_some() => return error,
            0 => "nobody has told it of the pool".to_owned(),
            _ => {
                let by: Vec<String> = strangers.iter().map(NodeId::to_string).collect();
                format!("refused by {}", by.join(", "))
            }
        };
        match error {
            StartError::NoQuorum { waited, .. } => StartError::NotAMember {
                node: settings.node,
                waited,
                by,
            },
            error => error,
        }
    }

    pub(super) fn set_groups(&self, groups: Groups) {
        let _ = self.groups.set(groups);
    }

    pub(super) fn set_fabric(&self, fabric: Arc<Fabric>) {
        let _ = self.fabric.set(fabric);
    }

    /// Whether a frame of a node that this one does not know, and admits because it may have been added since, is for it
    /// to take: what tells of the addition, and no more. **While a leader of the meta group is heard of, only that one may
    /// speak for it:** who has stolen a node's issuer can make nodes, and would else depose every leader with a great term.
    fn takes_from_unknown(&self, from: NodeId, lane: Lane, frame: &Frame) -> bool {
        match lane {
            Lane::Bulk if frame.kind == cluster::backup::ask::FRAME_KIND => false,
            Lane::Raft | Lane::Bulk => {
                let groups = self.groups.get();
                let leader = groups.and_then(|groups| groups.living_leader(Group::META));
                may_tell_of_meta(from, Group(u32::from(frame.partition.0)), leader)
            }
            Lane::Route => matches!(frame.kind, meta_road::FRAME_KIND | first_start::FRAME_KIND),
            Lane::Gossip => false,
        }
    }

    fn route(&self, from: NodeId, frame: Frame, reply: Option<Reply>) {
        if frame.kind == meta_road::FRAME_KIND {
            if let (Some(groups), Some(reply)) = (self.groups.get(), reply) {
                let knows = self.members.knows(from);
                meta_road::serve(groups, (from, knows), &frame, reply);
            }
            return;
        }
        if frame.kind == first_start::FRAME_KIND {
            if let Some(reply) = reply {
                first_start::serve(&self.data, from, &frame, reply);
            }
            return;
        }
        // Before the actors are there nobody can take it: the sender tries again.
        let Some(fabric) = self.fabric.get() else {
            return;
        };
        let sender = from;
        let from = match relay::road(self.own, sender, &frame, |node| self.is_member(node)) {
            Road::Here(from) => from,
            Road::On(to) => return carry(fabric, sender, to, frame),
            Road::Nowhere => return tracing::warn!(%sender, "a frame came by no road of ours"),
        };
        if frame.kind == relay::NOT_CARRIED {
            return not_carried(fabric, &frame);
        }
        let (partition, epoch) = (frame.partition, frame.epoch);
        let is_first_hop = from == sender;
        let outcome = match RouteKind::from_u8(frame.kind) {
            Some(RouteKind::Up) => {
                Up::decode(&frame.body).map(|up| pass_up(fabric, from, partition, epoch, up))
            }
            Some(RouteKind::Down) => Down::decode_dated(&frame.body).map(|(down, said_ms)| {
                fabric.metrics.heard(said_ms.filter(|_| from != self.own));
                pass_down(fabric, from, partition, epoch, down);
            }),
            Some(RouteKind::Across) => Across::decode(&frame.body).map(|across| {
                match moved(fabric, from, partition, &across) {
                    Some(owner) if is_first_hop => carry(fabric, from, owner, frame),
                    Some(_) => {}
                    None => pass_across(fabric, from, partition, across),
                }
            }),
            None => return tracing::warn!(%from, kind = frame.kind, "a frame of an unknown kind"),
        };
        if let Err(error) = outcome {
            tracing::warn!(%from, %error, "a frame does not read");
        }
    }
}

fn pass_up(fabric: &Arc<Fabric>, from: NodeId, partition: PartitionId, epoch: Epoch, up: Up) {
    let Some(actors) = fabric.actors(partition) else {
        return;
    };
    if actors
        .owner
        .try_send(ToOwner::Up {
            from,
            epoch,
            up: Box::new(up),
        })
        .is_err()
    {
        // The hole is found by the next frame, and the node attaches again.
        fabric.metrics.mailboxes_full.inc();
    }
}

fn pass_down(fabric: &Arc<Fabric>, from: NodeId, partition: PartitionId, epoch: Epoch, down: Down) {
    let Some(actors) = fabric.actors(partition) else {
        return;
    };
    if actors
        .link
        .try_send(ToLink::Frame {
            from,
            epoch,
            down: Box::new(down),
        })
        .is_err()
    {
        fabric.metrics.mailboxes_full.inc();
        if let Some(place) = fabric.partitions.get(usize::from(partition.0)) {
            place.link_missed.store(true, Ordering::Release);
        }
    }
}

fn carry(fabric: &Arc<Fabric>, from: NodeId, to: NodeId, frame: Frame) {
    fabric.metrics.frames_relayed.inc();
    if let Err(error) = relay::carry(&fabric.transport, from, to, frame) {
        tracing::debug!(%error, %from, %to, "a frame was neither carried on nor refused");
    }
}

/// The sender was told that our relay lost one of our frames: whatever it belonged to begins anew. Outboxes have timers of
/// their own.
fn not_carried(fabric: &Arc<Fabric>, frame: &Frame) {
    let lost = relay::not_carried(frame);
    let Some(actors) = fabric.actors(lost.partition) else {
        return;
    };
    let told = match lost.kind {
        Some(RouteKind::Up) => actors.link.try_send(ToLink::PeerDown(lost.to)).is_ok(),
        Some(RouteKind::Down) => actors.owner.try_send(ToOwner::PeerDown(lost.to)).is_ok(),
        Some(RouteKind::Across) => {
            fabric.reached_again(lost.to);
            true
        }
        None => true,
    };
    if !told {
        fabric.metrics.mailboxes_full.inc();
    }
}

/// A frame for the owner of a partition that is another node: its sender is told who ("moved"). Gives the owner, so that
/// the frame can be sent on, once. Frames of links need no such detour: [`Down::NotOwner`] says the same, and a link
/// attaches to an owner before it says anything else.
fn moved(
    fabric: &Arc<Fabric>,
    from: NodeId,
    partition: PartitionId,
    across: &Across,
) -> Option<NodeId> {
    if matches!(across, Across::OwnerHint { .. }) {
        return None;
    }
    let (owner, epoch) = fabric
        .owner(partition)
        .filter(|(owner, _)| *owner != fabric.node)?;
    let hint = Across::OwnerHint { owner, epoch };
    // What we sent to ourselves was on its way when we heard of the new owner.
    if from != fabric.node
        && let Err(error) = fabric.send_across(from, partition, epoch, &hint)
    {
        tracing::debug!(%error, %from, "a sender was not told that the owner has moved; gossip will");
    }
    Some(owner).filter(|owner| *owner != from)
}

fn pass_across(fabric: &Arc<Fabric>, from: NodeId, partition: PartitionId, across: Across) {
    if let Across::OwnerHint { owner, epoch } = across {
        return owner_is(fabric, partition, owner, epoch);
    }
    let Some(actors) = fabric.actors(partition) else {
        return;
    };
    if actors
        .owner
        .try_send(ToOwner::Across {
            from,
            across: Box::new(across),
        })
        .is_err()
    {
        fabric.metrics.mailboxes_full.inc();
    }
}

/// A partition has an owner, by hearsay: links attach to it, outboxes go to it.
fn owner_is(fabric: &Arc<Fabric>, partition: PartitionId, owner: NodeId, epoch: Epoch) {
    if !fabric.new_owner(partition, owner, epoch) {
        return;
    }
    if let Some(actors) = fabric.actors(partition)
        && actors
            .link
            .try_send(ToLink::OwnerIs { owner, epoch })
            .is_err()
    {
        fabric.metrics.mailboxes_full.inc();
    }
    for place in &fabric.partitions {
        let Some(actors) = fabric.actors(place.id) else {
            continue;
        };
        if actors
            .owner
            .try_send(ToOwner::OwnerIs {
                partition,
                owner,
                epoch,
            })
            .is_err()
        {
            fabric.metrics.mailboxes_full.inc();
        }
    }
}

pub(super) fn tell_all(
    fabric: &Arc<Fabric>,
    link: impl Fn() -> ToLink,
    owner: impl Fn() -> ToOwner,
) {
    for place in &fabric.partitions {
        let Some(actors) = fabric.actors(place.id) else {
            continue;
        };
        if actors.link.try_send(link()).is_err() || actors.owner.try_send(owner()).is_err() {
            fabric.metrics.mailboxes_full.inc();
        }
    }
}

impl FrameHandler for Dispatcher {
    fn on_frame(&self, from: NodeId, lane: Lane, frame: Frame, reply: Option<Reply>) {
        // A node that was added speaks to itself before it has heard that it is a member.
        let is_known = from == self.own || self.members.knows(from);
        if !is_known && !self.takes_from_unknown(from, lane, &frame) {
            return tracing::debug!(%from, ?lane, "a frame of a node that is no known member is dropped");
        }
        match lane {
            Lane::Raft => {
                if let (Some(groups), Some(reply)) = (self.groups.get(), reply) {
                    groups.on_raft_frame(from, frame, reply);
                }
            }
            Lane::Route => self.route(from, frame, reply),
            Lane::Gossip => self.gossip.on_frame(from, &frame),
            Lane::Bulk if frame.kind == cluster::backup::ask::FRAME_KIND => {
                if let (Some(fabric), Some(reply)) = (self.fabric.get(), reply) {
                    backup::serve(fabric, frame, reply);
                }
            }
            Lane::Bulk => {
                if let (Some(groups), Some(reply)) = (self.groups.get(), reply) {
                    groups.on_bulk_frame(from, frame, reply);
                }
            }
        }
    }

    fn on_peer(&self, event: PeerEvent) {
        if let PeerEvent::Up { node, .. } = &event
            && event.direction() == Direction::Incoming
            && *node != self.own
        {
            // Only the first one counts.
            let _ = self.caller.set(*node);
        }
        if let PeerEvent::Down { node, reason, .. } = &event
            && reason.is_crash_sign()
            && let Some(groups) = self.groups.get()
        {
            groups.on_peer_lost(*node);
        }
        let Some(fabric) = self.fabric.get() else {
            return;
        };
        if event.lane() != Lane::Route
            || event.direction() != Direction::Outgoing
            || event.node() == self.own
        {
            return;
        }
        let node = event.node();
        match event {
            PeerEvent::Up { .. } => {
                tell_all(fabric, || ToLink::PeerUp(node), || ToOwner::PeerUp(node));
                fabric.reached_again(node);
            }
            PeerEvent::Down { .. } => tell_all(
                fabric,
                || ToLink::PeerDown(node),
                || ToOwner::PeerDown(node),
            ),
        }
    }

    fn on_stranger(&self, node: NodeId, refused: bool) {
        let mut strangers = self
            .strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if refused {
            strangers.insert(node);
        } else {
            strangers.remove(&node);
        }
    }

    fn on_skew(&self, node: NodeId, theirs: Option<VersionRange>) {
        let mut skews = self.skews.lock().unwrap_or_else(PoisonError::into_inner);
        match theirs {
            Some(range) => skews.insert(node, range),
            None => skews.remove(&node),
        };
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.members.admits(node)
    }
}

/// How often hints are exchanged with the gossip.
const HINTS_EVERY: Duration = Duration::from_millis(500);

/// Tells the gossip what this node owns and whom it reaches, and the fabric what others say.
pub(super) async fn spread_hints(fabric: Arc<Fabric>, groups: Groups, gossip: Arc<Gossiper>) {
    let mut ticks = tokio::time::interval(HINTS_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reachability = Reachability::new(fabric.node);
    loop {
        ticks.tick().await;
        reach::look(&fabric, &groups, &gossip, &mut reachability);
        fabric.forget_old_words();
        for place in &fabric.partitions {
            if let Some((owner, epoch)) = gossip.owner_hint(place.id) {
                owner_is(&fabric, place.id, owner, epoch);
            }
            if let Some((owner, epoch)) = fabric.owner(place.id)
                && owner == fabric.node
                && let Err(error) =
                    gossip.set(GossipKey::Owner(place.id), GossipValue::Owner(owner, epoch))
            {
                tracing::debug!(?error, "the gossip is full");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_node_deposes_no_living_leader() {
        let check = |group, leader: Option<u64>, expect| {
            let may = may_tell_of_meta(NodeId(9), Group(group), leader.map(NodeId));
            assert_eq!(may, expect, "{group} {leader:?}");
        };
        check(0, None, true);
        check(0, Some(9), true);
        check(0, Some(1), false);
        check(1, None, false);
        check(1, Some(9), false);
    }
}
