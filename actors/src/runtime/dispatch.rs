//! Frames and peer events of the transport, handed to whom they are for. Nothing here blocks.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cluster::gossip::shell::Gossiper;
use cluster::gossip::{GossipKey, GossipValue};
use cluster::link::protocol::{Across, Down, RouteKind, Up};
use cluster::node_id::{Epoch, NodeId, PartitionId};
use cluster::raft::Groups;
use cluster::transport::{Direction, Frame, FrameHandler, Lane, PeerEvent, Reply};

use super::Settings;
use super::start_entry;
use crate::fabric::Fabric;
use crate::link::ToLink;
use crate::owner::ToOwner;

/// The transport's handler.
pub(super) struct Dispatcher {
    members: Vec<NodeId>,
    own: NodeId,
    gossip: Arc<Gossiper>,
    groups: OnceLock<Groups>,
    fabric: OnceLock<Arc<Fabric>>,
}

impl Dispatcher {
    pub(super) fn new(settings: &Settings, gossip: Arc<Gossiper>) -> Dispatcher {
        let members = settings.members.iter().map(|member| member.id).collect();
        Dispatcher {
            members,
            own: settings.node,
            gossip,
            groups: OnceLock::new(),
            fabric: OnceLock::new(),
        }
    }

    pub(super) fn set_groups(&self, groups: Groups) {
        let _ = self.groups.set(groups);
    }

    pub(super) fn set_fabric(&self, fabric: Arc<Fabric>) {
        let _ = self.fabric.set(fabric);
    }

    fn route(&self, from: NodeId, frame: Frame, reply: Option<Reply>) {
        if frame.kind == start_entry::FRAME_KIND {
            if let (Some(groups), Some(reply)) = (self.groups.get(), reply) {
                start_entry::serve(groups, from, &frame, reply);
            }
            return;
        }
        // Before the actors are there nobody can take it: the sender tries again.
        let Some(fabric) = self.fabric.get() else {
            return;
        };
        let (partition, epoch) = (frame.partition, frame.epoch);
        let outcome = match RouteKind::from_u8(frame.kind) {
            Some(RouteKind::Up) => {
                Up::decode(&frame.body).map(|up| pass_up(fabric, from, partition, epoch, up))
            }
            Some(RouteKind::Down) => Down::decode(&frame.body)
                .map(|down| pass_down(fabric, from, partition, epoch, down)),
            Some(RouteKind::Across) => Across::decode(&frame.body)
                .map(|across| pass_across(fabric, from, partition, across)),
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
    if !fabric.learn_owner(partition, owner, epoch) {
        return;
    }
    fabric.tell_new_owner(partition, owner, epoch);
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

fn tell_all(fabric: &Arc<Fabric>, link: impl Fn() -> ToLink, owner: impl Fn() -> ToOwner) {
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
        match lane {
            Lane::Raft => {
                if let (Some(groups), Some(reply)) = (self.groups.get(), reply) {
                    groups.on_raft_frame(from, frame, reply);
                }
            }
            Lane::Route => self.route(from, frame, reply),
            Lane::Gossip => self.gossip.on_frame(from, &frame),
            Lane::Bulk => tracing::debug!(%from, "nothing is sent on the bulk lane yet"),
        }
    }

    fn on_peer(&self, event: PeerEvent) {
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
                tell_all(fabric, || ToLink::PeerUp(node), || ToOwner::PeerUp(node))
            }
            PeerEvent::Down { .. } => tell_all(
                fabric,
                || ToLink::PeerDown(node),
                || ToOwner::PeerDown(node),
            ),
        }
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }
}

/// How often hints are exchanged with the gossip.
const HINTS_EVERY: Duration = Duration::from_millis(500);

/// Tells the gossip what this node owns, and the fabric what others say they own.
pub(super) async fn spread_hints(fabric: Arc<Fabric>, gossip: Arc<Gossiper>) {
    let mut ticks = tokio::time::interval(HINTS_EVERY);
    loop {
        ticks.tick().await;
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
