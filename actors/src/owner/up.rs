//! Frames of nodes: attachments, proposals, soft state, questions.

use std::sync::Arc;

use actix::Context;
use cluster::link::protocol::{Across, Ask, Delivery, Down, Moving, Publish, Up};
use cluster::link::target::TargetAction;
use cluster::node_id::{Epoch, Incarnation, NodeId};
use messaging::link_record::LinkOrigin;
use messaging::user::publication::{ResumptionToken, SessionEvent, SessionKey};
use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza::Stanza;
use xmpp::stanza_error::{Condition, StanzaError};

use super::OwnerActor;
use crate::publication::ToPublication;
use crate::room::ToRoom;

impl OwnerActor {
    pub(super) fn up(&mut self, from: NodeId, epoch: Epoch, up: Up, _ctx: &mut Context<Self>) {
        let fabric = Arc::clone(&self.fabric);
        let Some(reign) = self.reign.as_mut().filter(|reign| reign.epoch == epoch) else {
            let hint = self
                .reign
                .as_ref()
                .map(|reign| (fabric.node, reign.epoch))
                .or_else(|| fabric.owner(self.partition));
            let hint = hint.filter(|(_, known)| *known > epoch);
            return self.tell_not_owner(from, epoch, hint);
        };
        // A node that proves to be a member says by itself which life it is in. This replica may have yet to hear of it.
        if let Up::Attach(part) = &up
            && !fabric.has_begun(from, Incarnation(part.incarnation))
        {
            tracing::debug!(partition = %self.partition, %from, incarnation = part.incarnation, "a node attaches in a life that is not known here");
            return self.tell_not_owner(from, epoch, None);
        }
        let replica = &fabric.partitions[usize::from(self.partition.0)].replica;
        let record = |origin: LinkOrigin| replica.state().links.get(&origin).cloned();
        reign.target.handle_up(from, up, &record);
    }

    /// The node tries again, there or here.
    fn tell_not_owner(&self, to: NodeId, epoch: Epoch, hint: Option<(NodeId, Epoch)>) {
        let down = Down::NotOwner { hint };
        if let Err(error) = self.fabric.send_down(to, self.partition, epoch, &down) {
            tracing::debug!(%error, %to, "a node could not be told that this is not the owner");
        }
    }

    pub(super) fn target_action(&mut self, action: TargetAction, ctx: &mut Context<Self>) {
        match action {
            TargetAction::Down { to, down } => self.down(to, &down),
            TargetAction::Across {
                to,
                partition,
                across,
            } => {
                let epoch = self
                    .fabric
                    .owner(partition)
                    .map(|(_, epoch)| epoch)
                    .unwrap_or_default();
                if let Err(error) = self.fabric.send_across(to, partition, epoch, &across) {
                    tracing::debug!(%error, %to, "an outbox was not answered; it asks again");
                }
            }
            TargetAction::Propose(proposal) => {
                if let Some(reign) = &mut self.reign {
                    reign.batcher.push(proposal, std::time::Instant::now());
                }
            }
            TargetAction::AttachUser { node, user } => self.attach_user(node, user, ctx),
            TargetAction::AttachRoom { node, room } => self.attach_room(node, room, ctx),
            TargetAction::AttachDone { node, incarnation } => {
                self.attach_done(node, incarnation, ctx)
            }
            TargetAction::Publish { from, publish } => self.publish(from, publish),
            TargetAction::Ask {
                from,
                request,
                ask: Ask::Bind(key),
            } => self.bind(from, request, key, ctx),
            // A node asks for itself alone.
            TargetAction::Ask {
                from,
                request,
                ask: Ask::Resume(wanted),
            } => {
                if wanted.key.node == from.0 {
                    self.resume(request, wanted, ctx);
                }
            }
            TargetAction::Ask {
                from,
                request,
                ask: Ask::Query(query),
            } => self.query(from, request, query),
        }
    }

    pub(super) fn down(&mut self, to: NodeId, down: &Down) {
        let Some(reign) = &self.reign else { return };
        if let Err(error) = self.fabric.send_down(to, self.partition, reign.epoch, down) {
            tracing::debug!(%error, %to, "a frame for a node did not leave; it attaches again");
            self.detach(to);
        }
    }

    fn publish(&mut self, from: NodeId, publish: Publish) {
        match publish {
            Publish::Session(SessionEvent::Leaves { key, token }) => {
                self.send_away(from, key, token);
            }
            Publish::Parked(part) => {
                let (to, moving) = (NodeId(part.to.node), Moving::Parked(part));
                self.down(to, &Down::Moving(moving));
            }
            Publish::Session(event) => {
                if let SessionEvent::Down { key, .. } = &event
                    && !self
                        .reign
                        .as_ref()
                        .is_some_and(|reign| reign.publications.contains_key(&key.jid.bare()))
                {
                    return;
                }
                let user = event.key().jid.bare();
                self.tell_publication(&user, true, ToPublication::Session(event));
            }
            Publish::Stanza(stanza) => self.soft(Across::Stanza {
                stanza,
                behind: None,
            }),
            Publish::RoomStanza { room, by, stanza } => {
                if !self.place().replica.state().rooms.contains(&room) {
                    return self.no_such_room(from, &room, &by, &stanza);
                }
                self.tell_room(&room, ToRoom::Stanza { from, by, stanza });
            }
        }
    }

    /// A node is to be emptied: another one is told to ask for its session.
    fn send_away(&mut self, from: NodeId, key: SessionKey, token: ResumptionToken) {
        let Some(reign) = &self.reign else { return };
        let others: Vec<NodeId> = reign
            .target
            .attached_nodes()
            .filter(|node| *node != from)
            .collect();
        // In turn: one that could not take it is not asked twice at once.
        self.sent_away = self.sent_away.wrapping_add(1);
        let chosen = self.sent_away.checked_rem(others.len());
        let chosen = chosen.and_then(|at| others.get(at));
        match chosen {
            Some(node) => {
                let jid = key.jid;
                self.down(*node, &Down::Moving(Moving::Adopt { jid, token }));
            }
            None => {
                let (session, to) = (key.clone(), key);
                self.down(from, &Down::Moving(Moving::Stay { session, to }));
            }
        }
    }

    /// No actor is made for a room that isn't there.
    fn no_such_room(&mut self, from: NodeId, room: &BareJid, by: &FullJid, stanza: &Stanza) {
        let Some(reply) = StanzaError::new(Condition::ItemNotFound).reply_to(stanza) else {
            return;
        };
        let items = vec![crate::room::alone(by, &reply)];
        let delivery = Delivery {
            key: room.clone(),
            place: None,
            items,
            notes: Vec::new(),
        };
        self.down(from, &Down::Deliver(delivery));
    }
}
