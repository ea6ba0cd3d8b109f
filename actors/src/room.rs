//! A chat room at its owner: fans events out, brings nodes up to date, passes on what isn't filed.
//!
//! The room's truth is the replicated state; this actor holds only which nodes read along. An event goes to every
//! attached node that has an occupant, as one frame whatever the number of recipients, with the place of the event in the
//! room's log, so that a node notices a hole and attaches again.

mod bridge;
mod catch_up;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use actix::{Actor, ActorContext, Context, Handler, Message};
use bytes::BytesMut;
use cluster::link::protocol::{Delivery, DeliveryItem, Down, OccupantNote, Place};
use cluster::machine::Replica;
use cluster::node_id::{Epoch, NodeId, PartitionId};
use messaging::archive::{ArchiveRecord, ArchiveRow};
use messaging::effect::RoomDelivery;
use messaging::room::effect::{RoomEffect, Welcome};
use messaging::room::event::RoomEvent;
use messaging::room::parse::{RoomRequest, Sender, parse};
use messaging::room::passing::pass;
use messaging::room::render::{Renderer, Rendering, departed, history_rows_max};
use messaging::room::state::{Occupant, RoomRecord};
use messaging::room::views::OccupantView;
use messaging::state::State;
use messaging::user::archive_page::row_bytes;
use storage::archive::{Order, Rows};
use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza::Stanza;

use crate::fabric::Fabric;
use crate::mailbox::{Backlog, Weighed};
use crate::owner::{FromKey, ToOwner};
use crate::services::archive::rows_between;

/// Everything that can wake the actor.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToRoom {
    /// A defect.
    #[cfg(test)]
    Panic,
    /// Something has happened, in log order.
    Effect(RoomEffect),
    /// A node has occupants and has seen the log up to its cursor.
    Attach {
        /// The node.
        node: NodeId,
        /// The newest row it has seen.
        cursor: u64,
        /// Its sessions that believe they are in.
        occupants: Vec<FullJid>,
        /// The room as of the newest row whose effect this actor has been given; `None`: no such room.
        scene: Option<Box<RoomScene>>,
    },
    /// Deliveries of the last seconds, for sessions of a node that has attached.
    Again {
        /// The node.
        node: NodeId,
        /// The deliveries, in log order.
        deliveries: Vec<RoomDelivery>,
    },
    /// A node without occupants here is attached to the partition.
    NodeAttached(NodeId),
    /// A node is no longer attached.
    NodeGone(NodeId),
    /// A stanza of an occupant that isn't filed.
    Stanza {
        /// The occupant's node.
        from: NodeId,
        /// The occupant's session.
        by: FullJid,
        /// The stanza.
        stanza: Stanza,
    },
    /// The reign is over.
    End,
}

impl Weighed for ToRoom {
    fn bytes(&self) -> usize {
        match self {
            ToRoom::Effect(RoomEffect::Event { row, .. }) => row_bytes(row),
            ToRoom::Effect(RoomEffect::Deliver { stanza, .. }) | ToRoom::Stanza { stanza, .. } => {
                stanza.size_hint()
            }
            ToRoom::Again { deliveries, .. } => {
                let stanzas = deliveries.iter();
                stanzas.map(|delivery| delivery.stanza.size_hint()).sum()
            }
            ToRoom::Attach { occupants, .. } => occupants.len() * 64,
            ToRoom::Effect(RoomEffect::ReflectAgain { .. })
            | ToRoom::NodeAttached(_)
            | ToRoom::NodeGone(_)
            | ToRoom::End => 0,
            #[cfg(test)]
            ToRoom::Panic => 0,
        }
    }
}

/// A room at one moment: its record and who is in it belong together.
pub struct RoomScene {
    record: RoomRecord,
    occupants: OccupantView,
    /// Nicknames given up by events that are gone from the log and that a node has not seen.
    departed: Vec<String>,
}

impl RoomScene {
    /// The room as the state shows it, for a node that has seen the log up to `cursor`.
    pub fn of(state: &State, room: &BareJid, cursor: u64) -> Option<Box<RoomScene>> {
        let record = state.rooms.get(room)?.clone();
        let occupants = state.room_views.peek(&state.occupants, room);
        let departed = departed(state, room, &record.depth, cursor);
        Some(Box::new(RoomScene {
            record,
            occupants,
            departed,
        }))
    }
}

/// A chat room at its owner.
pub struct RoomActor {
    fabric: Arc<Fabric>,
    partition: PartitionId,
    epoch: Epoch,
    room: BareJid,
    renderer: Renderer,
    attached: HashSet<NodeId>,
    /// Attached nodes that read this room's log.
    reading: HashSet<NodeId>,
    backlog: Arc<Backlog>,
}

impl RoomActor {
    /// Pieces of work that may wait.
    pub const MAILBOX: usize = 16_384;
    /// Bytes of stanzas in them.
    pub const MAILBOX_BYTES: usize = 32 * 1024 * 1024;

    /// `attached`: the nodes attached so far. `backlog`: what waits in the mailbox.
    pub fn new(
        fabric: Arc<Fabric>,
        (partition, epoch): (PartitionId, Epoch),
        room: BareJid,
        attached: HashSet<NodeId>,
        backlog: Arc<Backlog>,
    ) -> RoomActor {
        let renderer = Renderer::new(&fabric.settings.constants.id_key);
        let reading = HashSet::new();
        let mut actor = RoomActor {
            fabric,
            partition,
            epoch,
            room,
            renderer,
            attached,
            reading,
            backlog,
        };
        actor.find_readers();
        actor
    }

    /// Attached nodes with occupants have had every event so far: the owner starts this actor with the first event after.
    fn find_readers(&mut self) {
        let fabric = Arc::clone(&self.fabric);
        let state = fabric.partitions[usize::from(self.partition.0)]
            .replica
            .state();
        for occupant in state.room_views.peek(&state.occupants, &self.room).iter() {
            let node = NodeId(occupant.node);
            if self.attached.contains(&node) {
                self.reading.insert(node);
            }
        }
    }

    fn replica(&self) -> &Arc<Replica> {
        &self.fabric.partitions[usize::from(self.partition.0)].replica
    }

    /// `false`: it did not leave.
    fn down(&self, to: NodeId, down: &Down) -> bool {
        let sent = self
            .fabric
            .send_down(to, self.partition, self.epoch, down)
            .inspect_err(|error| {
                tracing::debug!(%error, %to, "a room's frame did not leave; the node attaches again");
                self.lost(to);
            });
        sent.is_ok()
    }

    /// A node has missed something: the owner makes it attach again.
    fn lost(&self, node: NodeId) {
        if let Some(actors) = self.fabric.actors(self.partition)
            && actors
                .owner
                .try_send(ToOwner::FromKey(FromKey::Lost(node)))
                .is_err()
        {
            self.fabric.metrics.mailboxes_full.inc();
        }
    }

    fn effect(&mut self, effect: RoomEffect) {
        match effect {
            RoomEffect::Event {
                previous,
                row,
                occupants,
                non_anonymous,
                welcome,
            } => {
                let renderings = self.renderer.event(&row, &occupants, non_anonymous);
                let welcome = welcome.map(|welcome| self.welcome(&row, &welcome, &occupants));
                self.event(
                    previous,
                    &row,
                    &occupants,
                    renderings,
                    welcome.unwrap_or_default(),
                );
            }
            RoomEffect::Deliver { to, stanza } => {
                for node in self.nodes_of(&to) {
                    self.deliver_alone(node, &to, &stanza);
                }
            }
            RoomEffect::ReflectAgain { to, seq } => self.reflect_again(&to, seq),
        }
    }

    /// Where an occupant's session is. Of somebody who is not in nobody knows: whichever node has the session delivers.
    fn nodes_of(&self, session: &FullJid) -> Vec<NodeId> {
        let state = self.replica().state();
        let occupant = state.occupants.get(&(self.room.clone(), session.clone()));
        match occupant {
            Some(occupant) => vec![NodeId(occupant.node)],
            None => self.attached.iter().copied().collect(),
        }
    }

    fn again(&self, node: NodeId, deliveries: &[RoomDelivery]) {
        for RoomDelivery { to, stanza } in deliveries {
            if self.nodes_of(to).contains(&node) {
                self.deliver_alone(node, to, stanza);
            }
        }
    }

    /// History before the join, then the frame for the newcomer.
    fn welcome(
        &self,
        row: &ArchiveRow,
        welcome: &Welcome,
        occupants: &[Arc<Occupant>],
    ) -> Vec<Stanza> {
        let limit = history_rows_max(welcome) as usize;
        let history = match limit {
            0 => Ok(Vec::new()),
            limit => {
                let before = row.seq.saturating_sub(1);
                rows_between(
                    self.replica(),
                    &self.room,
                    Rows::Messages,
                    0,
                    before,
                    Order::NewestFirst,
                    limit,
                )
            }
        };
        let mut history = history.unwrap_or_else(|error| {
            tracing::error!(%error, "a room's history could not be read");
            Vec::new()
        });
        history.reverse();
        self.renderer.welcome(row, welcome, occupants, &history)
    }

    /// One frame for every node that reads along.
    fn event(
        &mut self,
        previous: u64,
        row: &ArchiveRow,
        occupants: &[Arc<Occupant>],
        renderings: Vec<Rendering>,
        welcome: Vec<Stanza>,
    ) {
        let ArchiveRecord::Room(event) = &row.record else {
            return;
        };
        let leavers = leavers(event);
        let mut frames: BTreeMap<NodeId, Vec<DeliveryItem>> = BTreeMap::new();
        if let Some(node) = moved_from(event) {
            // Its session there has heard all that it was to hear.
            frames.entry(node).or_default();
        }
        for occupant in occupants
            .iter()
            .map(Arc::as_ref)
            .chain(leavers.iter().copied())
        {
            frames.entry(NodeId(occupant.node)).or_default();
        }
        for rendering in renderings {
            for (node, item) in by_node(rendering, occupants, &leavers) {
                frames.entry(node).or_default().push(item);
            }
        }
        if let RoomEvent::Joined { occupant, .. } = event {
            let items = frames.entry(NodeId(occupant.node)).or_default();
            items.extend(welcome.iter().map(|stanza| alone(&occupant.jid, stanza)));
        }
        self.fabric.metrics.room_events.inc();
        for (node, items) in frames
            .into_iter()
            .filter(|(node, _)| self.attached.contains(node))
        {
            let previous = (!self.reading.insert(node)).then_some(previous);
            let place = Some(Place {
                previous,
                seq: row.seq,
            });
            let notes = notes(event, node);
            let recipients: usize = items.iter().map(|item| item.targets.len()).sum();
            self.fabric
                .metrics
                .room_deliveries
                .inc_by(recipients as u64);
            self.down(
                node,
                &Down::Deliver(Delivery {
                    key: self.room.clone(),
                    place,
                    items,
                    notes,
                }),
            );
        }
        let left = leavers.iter().map(|leaver| NodeId(leaver.node));
        for node in left.chain(moved_from(event)) {
            if !occupants.iter().any(|occupant| occupant.node == node.0) {
                self.reading.remove(&node);
            }
        }
    }

    fn deliver_alone(&self, node: NodeId, to: &FullJid, stanza: &Stanza) {
        if self.attached.contains(&node) {
            let items = vec![alone(to, stanza)];
            self.down(
                node,
                &Down::Deliver(Delivery {
                    key: self.room.clone(),
                    place: None,
                    items,
                    notes: Vec::new(),
                }),
            );
        }
    }

    fn reflect_again(&self, to: &FullJid, seq: u64) {
        let replica = self.replica();
        // Of all rows: what the archive doesn't show was reflected, too.
        let found = rows_between(
            replica,
            &self.room,
            Rows::All,
            seq.saturating_sub(1),
            seq,
            Order::OldestFirst,
            1,
        );
        let row = match found {
            Ok(rows) => rows.into_iter().next(),
            Err(error) => {
                return tracing::error!(%error, "a row could not be read for its second reflection");
            }
        };
        let occupant = replica
            .state()
            .occupants
            .get(&(self.room.clone(), to.clone()))
            .cloned();
        let stanza = row.and_then(|row| self.renderer.message(&row));
        if let (Some(occupant), Some(stanza)) = (occupant, stanza) {
            self.deliver_alone(NodeId(occupant.node), to, &stanza);
        }
    }

    /// Sessions that take themselves for occupants are not in the room: their node tells them, under the nickname that
    /// they believe to have.
    fn desynchronized(&self, node: NodeId, sessions: &[FullJid]) {
        if sessions.is_empty() {
            return;
        }
        let gone = |jid: &FullJid| OccupantNote {
            session: jid.clone(),
            inside: false,
            nick: String::new(),
        };
        self.down(
            node,
            &Down::Deliver(Delivery {
                key: self.room.clone(),
                place: None,
                items: Vec::new(),
                notes: sessions.iter().map(gone).collect(),
            }),
        );
    }

    /// What isn't filed: judged by the state as it is.
    fn pass(&self, from: NodeId, by: &FullJid, stanza: &Stanza) {
        let sender = Sender {
            jid: by.clone(),
            node: from.0,
            incarnation: 0,
            session: 0,
        };
        let passing = match parse(stanza, &sender) {
            Ok(RoomRequest::Passing(passing)) => passing,
            _ => return,
        };
        let (renderings, occupants) = {
            let state = self.replica().state();
            let renderings = pass(&state, &self.renderer, &self.room, by, &passing);
            (
                renderings,
                state.room_views.peek(&state.occupants, &self.room),
            )
        };
        match renderings {
            Ok(renderings) => {
                for rendering in renderings {
                    for (node, item) in by_node(rendering, &occupants, &[]) {
                        if self.attached.contains(&node) {
                            let (key, items) = (self.room.clone(), vec![item]);
                            self.down(
                                node,
                                &Down::Deliver(Delivery {
                                    key,
                                    place: None,
                                    items,
                                    notes: Vec::new(),
                                }),
                            );
                        }
                    }
                }
            }
            Err(refusal) => {
                if let Some(reply) = refusal.to_stanza_error().reply_to(stanza) {
                    self.deliver_alone(from, by, &reply);
                }
            }
        }
    }
}

/// Who is out of the room by an event.
fn leavers(event: &RoomEvent) -> Vec<&Occupant> {
    match event {
        RoomEvent::Left { occupant, .. } => vec![occupant],
        RoomEvent::Destroyed { occupants, .. } => occupants.iter().collect(),
        _ => Vec::new(),
    }
}

/// The node that had a session which has gone on at another one.
fn moved_from(event: &RoomEvent) -> Option<NodeId> {
    match event {
        RoomEvent::Moved { from, .. } => Some(NodeId(from.0)),
        _ => None,
    }
}

/// Which of a node's sessions are in or out by an event.
fn notes(event: &RoomEvent, node: NodeId) -> Vec<OccupantNote> {
    let note = |occupant: &Occupant, inside| OccupantNote {
        session: occupant.jid.clone(),
        inside,
        nick: if inside {
            occupant.nick.clone()
        } else {
            String::new()
        },
    };
    match event {
        RoomEvent::Joined { occupant, .. } | RoomEvent::Renamed { occupant, .. }
            if occupant.node == node.0 =>
        {
            vec![note(occupant, true)]
        }
        RoomEvent::Moved { occupant, .. } if occupant.node == node.0 => {
            vec![note(occupant, true)]
        }
        RoomEvent::Moved { occupant, .. } if moved_from(event) == Some(node) => {
            vec![note(occupant, false)]
        }
        RoomEvent::Left { .. } | RoomEvent::Destroyed { .. } => {
            let gone = leavers(event)
                .into_iter()
                .filter(|occupant| occupant.node == node.0);
            gone.map(|occupant| note(occupant, false)).collect()
        }
        _ => Vec::new(),
    }
}

fn item(rendering: Rendering) -> DeliveryItem {
    let targets = rendering.targets.into_iter().map(|jid| (jid, 0)).collect();
    DeliveryItem {
        head: rendering.head,
        tail: Some(rendering.tail),
        targets,
        row: None,
    }
}

/// One stanza for one session.
pub(crate) fn alone(to: &FullJid, stanza: &Stanza) -> DeliveryItem {
    let mut head = BytesMut::with_capacity(stanza.size_hint());
    stanza.write_to(to.as_str(), &mut head);
    DeliveryItem {
        head: head.freeze(),
        tail: None,
        targets: vec![(to.clone(), 0)],
        row: None,
    }
}

/// A rendering's recipients by their nodes. `occupants` are in the order of their JIDs.
fn by_node(
    rendering: Rendering,
    occupants: &[Arc<Occupant>],
    leavers: &[&Occupant],
) -> Vec<(NodeId, DeliveryItem)> {
    let Rendering {
        head,
        tail,
        targets,
    } = rendering;
    let mut nodes: Vec<(NodeId, DeliveryItem)> = Vec::new();
    for target in targets {
        let inside = occupants
            .binary_search_by(|occupant| occupant.jid.cmp(&target))
            .ok();
        let node = match inside.and_then(|at| occupants.get(at)) {
            Some(occupant) => occupant.node,
            None => match leavers.iter().find(|occupant| occupant.jid == target) {
                Some(occupant) => occupant.node,
                None => continue,
            },
        };
        let node = NodeId(node);
        match nodes.iter_mut().find(|(known, _)| *known == node) {
            Some((_, item)) => item.targets.push((target, 0)),
            None => {
                let item = DeliveryItem {
                    head: head.clone(),
                    tail: Some(tail.clone()),
                    targets: vec![(target, 0)],
                    row: None,
                };
                nodes.push((node, item));
            }
        }
    }
    nodes
}

impl Actor for RoomActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(Self::MAILBOX);
    }
}

impl Handler<ToRoom> for RoomActor {
    type Result = ();

    fn handle(&mut self, message: ToRoom, ctx: &mut Self::Context) {
        self.backlog.take(message.bytes());
        match message {
            ToRoom::Effect(effect) => self.effect(effect),
            ToRoom::Attach {
                node,
                cursor,
                occupants,
                scene,
            } => self.attach(node, cursor, occupants, scene, ctx),
            ToRoom::Again { node, deliveries } => self.again(node, &deliveries),
            ToRoom::NodeAttached(node) => {
                self.attached.insert(node);
            }
            ToRoom::NodeGone(node) => {
                self.attached.remove(&node);
                self.reading.remove(&node);
            }
            ToRoom::Stanza { from, by, stanza } => self.pass(from, &by, &stanza),
            ToRoom::End => ctx.stop(),
            #[cfg(test)]
            ToRoom::Panic => panic!("made to panic"),
        }
    }
}
