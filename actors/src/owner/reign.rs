//! One reign: from the `OwnerBegin` that this node committed to the next one's.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, AsyncContext, Context};
use cluster::link::batcher::{BatchSettings, Batcher};
use cluster::link::outbox::{OutboxAction, OutboxSender};
use cluster::link::protocol::Across;
use cluster::link::target::LinkTarget;
use cluster::node_id::{Epoch, NodeId, PartitionId};
use cluster::raft::SubmitError;
use messaging::command::Entry as LogEntry;
use messaging::effect::{Effect, EffectMark};
use messaging::link_record::LinkOrigin;
use xmpp::jid::{BareJid, FullJid};

use super::OwnerActor;
use super::batch::{FULL_MAX, Refused};
use super::claim_pace::ClaimPace;
use super::followers::Followers;
use super::held_back::HeldBack;
use super::rest::Rest;
use super::unclaimed::{Seen, Unclaimed};
use crate::mailbox::Backlog;
use crate::publication::{PublicationActor, ToPublication};
use crate::room::{RoomActor, ToRoom};
use crate::supervision::Ward;

/// The soft state of one reign.
pub(super) struct Reign {
    pub(super) epoch: Epoch,
    pub(super) target: LinkTarget,
    pub(super) batcher: Batcher,
    /// A batch that the log had no room for; nothing overtakes it.
    pub(super) refused: Option<Refused>,
    pub(super) outbox: OutboxSender,
    pub(super) rooms: HashMap<BareJid, Ward<RoomActor>>,
    pub(super) publications: HashMap<BareJid, Ward<PublicationActor>>,
    /// The owner's own proposals are numbered too.
    pub(super) own_sequence: u64,
    pub(super) cursors: BTreeMap<BareJid, u64>,
    pub(super) cursors_due: Option<Instant>,
    /// Users of an attachment under way, by node: who was named in it.
    pub(super) attaching: HashMap<NodeId, HashSet<BareJid>>,
    /// Rooms of an attachment under way, by node: cursor and occupants.
    pub(super) attaching_rooms: HashMap<NodeId, Seen>,
    /// Occupants that their node did not claim: removed at the given time.
    pub(super) unclaimed: Unclaimed,
    /// Nodes that have to attach again and could not be told yet.
    pub(super) reattach: HashSet<NodeId>,
    /// Since when each node that isn't attached has been so.
    pub(super) unattached: HashMap<NodeId, Instant>,
    /// Nodes whose death was told to the publications.
    pub(super) mourned: HashSet<NodeId>,
    /// A quorum is being asked whether this owner may say who is gone.
    pub(super) asks_who_is_gone: bool,
    /// Nodes that the log names as holding sessions; one may have been removed from the pool before this reign.
    pub(super) named: BTreeSet<NodeId>,
    pub(super) began: Instant,
    pub(super) held_back: HeldBack,
    pub(super) followers: Followers,
    /// The entry that brings the partition to the pool's version is on its way.
    pub(super) raising: bool,
    /// It is about to be handed over.
    pub(super) rest: Option<Rest>,
}

impl Reign {
    /// What the outbox wants next: nothing, while the owner rests.
    fn outbox_action(&mut self) -> Option<OutboxAction> {
        match self.rest {
            None => self.outbox.poll_action(),
            Some(_) => None,
        }
    }
}

/// What a reign begins with.
struct Heritage {
    target: LinkTarget,
    outbox: OutboxSender,
    /// Sessions that are in the log as online: address, node and its life.
    expected: BTreeMap<BareJid, Vec<(FullJid, u64, u64)>>,
    /// Nodes that hold sessions or occupants.
    named: BTreeSet<NodeId>,
}

impl OwnerActor {
    /// Leading isn't owning: the reign begins when this entry is applied.
    pub(super) fn claim(&mut self, ctx: &mut Context<Self>) {
        let time_ms = self.time_ms();
        let entry = LogEntry::OwnerBegin {
            node: self.fabric.node.0,
            incarnation: self.fabric.incarnation.0,
            time_ms,
        };
        let version = self.place().replica.version();
        let payload = match cluster::records::encode_entry(entry, version) {
            Ok(payload) => payload,
            Err(error) => return tracing::error!(%error, "the claim could not be encoded"),
        };
        let submission = self.place().group.submit(payload);
        let term = self.claimed_term;
        self.spawn(ctx, submission, move |actor, outcome, ctx| {
            if let Err(error) = outcome {
                match error {
                    SubmitError::Busy => actor.claim_was_refused(ctx),
                    _ => actor.claim_refused = None,
                }
                let wait = actor.claim_pace.refused(term);
                tracing::warn!(partition = %actor.partition, %error, ?wait, "the partition was not claimed; tried again");
                actor.claimed_term = 0;
                ctx.run_later(wait, |actor, ctx| {
                    actor.survive(ctx, Self::leadership);
                });
            }
        });
    }

    /// A leader without room for its claim keeps the partition from those that have it.
    fn claim_was_refused(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let since = *self.claim_refused.get_or_insert(now);
        if now >= since + FULL_MAX {
            self.claim_refused = Some(now);
            self.hand_over(ctx);
        }
    }

    pub(super) fn begin(&mut self, epoch: Epoch, ctx: &mut Context<Self>) {
        self.end("a new reign begins");
        self.claim_pace = ClaimPace::default();
        self.claim_refused = None;
        #[cfg(test)]
        {
            self.silent = false;
        }
        // A replica that is filled anew in this life applies this node's old claims once more.
        let leads = self.place().group.leadership().borrow().is_self;
        if self.stopping || !leads {
            return;
        }
        self.learn_of_oneself(epoch);
        let now = Instant::now();
        let Heritage {
            target,
            outbox,
            expected,
            named,
        } = self.heritage(epoch, now);
        self.reign = Some(Reign {
            epoch,
            target,
            batcher: Batcher::new(BatchSettings::default()),
            refused: None,
            outbox,
            rooms: HashMap::new(),
            publications: HashMap::new(),
            own_sequence: 0,
            cursors: BTreeMap::new(),
            cursors_due: None,
            attaching: HashMap::new(),
            attaching_rooms: HashMap::new(),
            unclaimed: Unclaimed::default(),
            reattach: HashSet::new(),
            unattached: HashMap::new(),
            mourned: HashSet::new(),
            asks_who_is_gone: false,
            named,
            began: now,
            held_back: HeldBack::default(),
            followers: Followers::default(),
            raising: false,
            rest: None,
        });
        tracing::info!(partition = %self.partition, %epoch, "owning");
        self.fabric.metrics.reigns.inc();
        let users: Vec<BareJid> = expected.keys().cloned().collect();
        for (user, sessions) in expected {
            self.tell_publication(&user, true, ToPublication::Expected(sessions));
        }
        self.tell_again_of_expected(users.iter());
        self.announce(epoch);
        self.raise(ctx);
    }

    /// What the log says at the beginning of a reign.
    fn heritage(&self, epoch: Epoch, now: Instant) -> Heritage {
        let fabric = Arc::clone(&self.fabric);
        let state = fabric.partitions[usize::from(self.partition.0)]
            .replica
            .state();
        let target = LinkTarget::begin(
            self.partition,
            epoch,
            state.links.iter().map(|(origin, link)| (*origin, link)),
        );
        let entries = state
            .outbox
            .iter()
            .map(|(key, entry)| (*key, entry.command.clone()));
        let mut outbox = OutboxSender::begin(self.partition, entries, now);
        for (partition, owner) in fabric.owners().into_iter().enumerate() {
            if let (Ok(partition), Some((owner, epoch))) = (u16::try_from(partition), owner) {
                outbox.owner_is(cluster::PartitionId(partition), owner, epoch, now);
            }
        }
        let mut expected: BTreeMap<BareJid, Vec<(FullJid, u64, u64)>> = BTreeMap::new();
        for (jid, online) in state.online.iter() {
            let sessions = expected.entry(jid.bare()).or_default();
            sessions.push((jid.clone(), online.node, online.incarnation));
        }
        let online = state.online.iter().map(|(_, online)| online.node);
        let occupants = state.occupants.iter().map(|(_, occupant)| occupant.node);
        let named = online.chain(occupants).map(NodeId).collect();
        Heritage {
            target,
            outbox,
            expected,
            named,
        }
    }

    /// This node's own actors hear of the owner as those of others do.
    fn learn_of_oneself(&self, epoch: Epoch) {
        // What waited on this node for an owner reaches the one that it has become.
        self.fabric
            .new_owner(self.partition, self.fabric.node, epoch);
        if let Some(actors) = self.fabric.actors(self.partition) {
            let owner = self.fabric.node;
            crate::link::tell(&actors.link, crate::link::ToLink::OwnerIs { owner, epoch });
        }
    }

    /// Tells every node, so that they attach at once instead of at the next gossip.
    fn announce(&mut self, epoch: Epoch) {
        for member in self.fabric.members().iter() {
            self.announce_to(member.id, epoch);
        }
    }

    /// Tells one node: it may have just started.
    pub(super) fn announce_to(&self, node: NodeId, epoch: Epoch) {
        let hint = Across::OwnerHint {
            owner: self.fabric.node,
            epoch,
        };
        if let Err(error) = self.fabric.send_across(node, self.partition, epoch, &hint) {
            tracing::debug!(%error, %node, "a node wasn't told of the new owner; gossip will");
        }
    }

    pub(super) fn end(&mut self, why: &str) {
        if let Some(mut reign) = self.reign.take() {
            let held = reign.held_back.release().into_iter();
            let held = held.chain(reign.followers.release());
            let waiting = reign.rest.take().into_iter().flat_map(Rest::into_words);
            for across in held.chain(waiting) {
                self.hand_on(across);
            }
            tracing::info!(partition = %self.partition, epoch = %reign.epoch, why, "no longer owning");
            for room in reign.rooms.into_values() {
                room.try_send(ToRoom::End).ok();
            }
            for publication in reign.publications.into_values() {
                publication.try_send(ToPublication::End).ok();
            }
        }
    }

    /// Executes one effect, in log order.
    pub(super) fn effect(&mut self, mark: EffectMark, effect: Effect, _ctx: &mut Context<Self>) {
        #[cfg(test)]
        if self.silent && effect.once().is_some() {
            return;
        }
        let Some(reign) = &mut self.reign else { return };
        match effect {
            Effect::Archive(_) | Effect::DropArchive { .. } | Effect::TrimEvents { .. } => {}
            Effect::Answer {
                origin: LinkOrigin::Owner,
                ..
            } => {}
            Effect::Answer {
                origin,
                incarnation,
                sequence,
                answer,
            } => {
                reign.target.answered(origin, incarnation, sequence, answer);
                if let LinkOrigin::Partition(from) = origin {
                    self.outbox_was_told(PartitionId(from));
                }
            }
            Effect::Outbox { key, entry } => {
                reign
                    .outbox
                    .push(key, entry.command.clone(), Instant::now())
            }
            Effect::User(user, effect) => {
                self.tell_publication(&user, false, ToPublication::Effect(mark, effect))
            }
            Effect::Room(room, effect) => self.tell_room(&room, ToRoom::Effect(effect)),
        }
    }

    /// Tells a user's publication something; `create`: even if there is none yet.
    pub(super) fn tell_publication(
        &mut self,
        user: &BareJid,
        create: bool,
        message: ToPublication,
    ) {
        self.bury_publication(user);
        if self.casualties.is_barred(user) {
            return self.refuse(message);
        }
        let Some(reign) = &mut self.reign else { return };
        let publication = match reign.publications.entry(user.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) if create => {
                let backlog = Arc::<Backlog>::default();
                let actor = PublicationActor::new(
                    Arc::clone(&self.fabric),
                    self.partition,
                    reign.epoch,
                    user.clone(),
                    Arc::clone(&backlog),
                );
                let bytes_max = PublicationActor::MAILBOX_BYTES;
                vacant.insert(Ward::new(actor.start(), backlog, bytes_max))
            }
            Entry::Vacant(_) => return,
        };
        if publication.try_send(message).is_err() {
            // What it missed shows as a hole at the nodes, which attach again; its state is rebuilt from that.
            tracing::warn!(partition = %self.partition, "a publication is too busy and starts anew");
            publication.try_send(ToPublication::End).ok();
            reign.publications.remove(user);
            self.reattach_all();
        }
    }

    /// Tells a room something, starting its actor if need be.
    pub(super) fn tell_room(&mut self, room: &BareJid, message: ToRoom) {
        self.bury_room(room);
        if self.casualties.is_barred(room) {
            return;
        }
        let Some(reign) = &mut self.reign else { return };
        let actor = match reign.rooms.entry(room.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let nodes = reign.target.attached_nodes().collect();
                let backlog = Arc::<Backlog>::default();
                let actor = RoomActor::new(
                    Arc::clone(&self.fabric),
                    (self.partition, reign.epoch),
                    room.clone(),
                    nodes,
                    Arc::clone(&backlog),
                );
                vacant.insert(Ward::new(actor.start(), backlog, RoomActor::MAILBOX_BYTES))
            }
        };
        if actor.try_send(message).is_err() {
            tracing::warn!(partition = %self.partition, "a room is too busy and starts anew");
            actor.try_send(ToRoom::End).ok();
            reign.rooms.remove(room);
            self.reattach_all();
        }
    }

    /// Asks every attached node to attach again: whatever was lost is brought anew.
    pub(super) fn reattach_all(&mut self) {
        let Some(reign) = &mut self.reign else { return };
        let nodes: Vec<NodeId> = reign.target.attached_nodes().collect();
        for node in nodes {
            self.detach(node);
        }
    }

    /// A node has missed something: nothing more goes to it until it has attached again.
    pub(super) fn detach(&mut self, node: NodeId) {
        let Some(reign) = &mut self.reign else { return };
        reign.target.node_gone(node);
        reign.reattach.insert(node);
        for room in reign.rooms.values() {
            if room.try_send(ToRoom::NodeGone(node)).is_err() {
                tracing::debug!("a room's actor is busy or gone; the attachment sets it right");
            }
        }
    }

    /// Tells nodes that they have to attach again, until it leaves.
    pub(super) fn ask_for_attachments(&mut self) {
        let Some(reign) = &mut self.reign else { return };
        let epoch = reign.epoch;
        for node in std::mem::take(&mut reign.reattach) {
            let reattach = cluster::link::protocol::Down::Reattach;
            if !reign.target.is_attached(node)
                && let Err(error) = self
                    .fabric
                    .send_down(node, self.partition, epoch, &reattach)
            {
                tracing::debug!(%error, %node, "a node could not be asked to attach again; tried again");
                reign.reattach.insert(node);
            }
        }
    }

    /// Does what the reign's cores want.
    pub(super) fn run_reign(&mut self, ctx: &mut Context<Self>) {
        loop {
            let Some(reign) = &mut self.reign else { return };
            if let Some(action) = reign.target.poll_action() {
                self.target_action(action, ctx);
            } else if let Some(action) = reign.outbox_action() {
                self.outbox_action(action);
            } else if reign.rest.is_none()
                && reign.batcher.waiting() > 0
                && reign.outbox.settled() > 0
            {
                reign.outbox.settle();
            } else if !self.submit_batch(ctx) {
                break;
            }
        }
        self.release_held_back();
        self.set_batch_timer(ctx);
    }
}
