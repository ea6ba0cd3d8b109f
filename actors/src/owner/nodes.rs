//! Nodes: what they attach, and what becomes of what a dead one held.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use actix::Context;
use cluster::link::protocol::{AttachRoom, AttachUser};
use cluster::node_id::NodeId;
use messaging::command::Command;
use messaging::room::command::{RoomAction, RoomCommand};
use messaging::user::publication::SessionKey;
use xmpp::jid::{BareJid, FullJid};

use super::batch::SUBMISSION_MAX;
use super::unclaimed::{held_by, judge};
use super::{FromKey, OwnerActor};
use crate::publication::ToPublication;
use crate::room::{RoomScene, ToRoom};

/// A node that is not there for so long is gone, and its sessions with it.
const NODE_GONE_AFTER: Duration = Duration::from_secs(4);

/// Occupants that nobody has claimed for so long leave the room (status 333).
const UNCLAIMED_AFTER: Duration = Duration::from_secs(60);

/// A tick that comes so much later than the one before tells that this process stood still.
const PAUSED_AFTER: Duration = Duration::from_secs(2);

/// Delivery cursors are committed this often.
const CURSORS_EVERY: Duration = Duration::from_secs(5);

impl OwnerActor {
    pub(super) fn attach_user(&mut self, node: NodeId, user: AttachUser, ctx: &mut Context<Self>) {
        let AttachUser {
            user,
            cursor,
            sessions,
        } = user;
        let head = self.catch_up(ctx, |state| {
            state
                .logs
                .get(&user)
                .map(|log| log.head)
                .unwrap_or_default()
        });
        if let Some(reign) = &mut self.reign {
            reign
                .attaching
                .entry(node)
                .or_default()
                .insert(user.clone());
        }
        self.tell_publication(
            &user,
            true,
            ToPublication::Attach {
                node,
                sessions,
                cursor,
                head,
            },
        );
    }

    pub(super) fn attach_room(&mut self, node: NodeId, room: AttachRoom, ctx: &mut Context<Self>) {
        let AttachRoom {
            room,
            cursor,
            occupants,
        } = room;
        let scene = self.catch_up(ctx, |state| RoomScene::of(state, &room, cursor));
        if let Some(reign) = &mut self.reign {
            let seen = (cursor, occupants.iter().cloned().collect());
            reign
                .attaching_rooms
                .entry(node)
                .or_default()
                .insert(room.clone(), seen);
        }
        self.tell_room(
            &room,
            ToRoom::Attach {
                node,
                cursor,
                occupants,
                scene,
            },
        );
    }

    pub(super) fn attach_done(&mut self, node: NodeId, incarnation: u64, ctx: &mut Context<Self>) {
        let held = self.catch_up(ctx, |state| held_by(state, node));
        let Some(reign) = &mut self.reign else { return };
        reign.mourned.remove(&node);
        let named = reign.attaching.remove(&node).unwrap_or_default();
        let seen = reign.attaching_rooms.remove(&node).unwrap_or_default();
        let due = Instant::now() + UNCLAIMED_AFTER;
        let judgement = judge(held, &seen, incarnation);
        for stay in &judgement.claimed {
            reign.unclaimed.claimed(stay);
        }
        for stay in judgement.unclaimed {
            reign.unclaimed.push(stay, due);
        }
        let rooms: Vec<_> = reign
            .rooms
            .keys()
            .filter(|room| !seen.contains_key(*room))
            .cloned()
            .collect();
        for room in rooms {
            self.tell_room(&room, ToRoom::NodeAttached(node));
        }
        for (room, cursor) in judgement.unseen {
            let scene = self.catch_up(ctx, |state| RoomScene::of(state, &room, cursor));
            let occupants = Vec::new();
            self.tell_room(
                &room,
                ToRoom::Attach {
                    node,
                    cursor,
                    occupants,
                    scene,
                },
            );
        }
        self.tell_node_is_without(node, &named);
        self.tell_again(node);
    }

    /// The users whom the node did not name have no session on it.
    fn tell_node_is_without(&mut self, node: NodeId, named: &HashSet<BareJid>) {
        let others: Vec<_> = match &self.reign {
            Some(reign) => reign
                .publications
                .keys()
                .filter(|user| !named.contains(*user))
                .cloned()
                .collect(),
            None => Vec::new(),
        };
        for user in others {
            self.tell_publication(&user, false, ToPublication::NodeWithout(node));
        }
    }

    pub(super) fn peer_down(&mut self, node: NodeId) {
        if let Some(reign) = &mut self.reign {
            reign.outbox.node_lost(node);
        }
        self.detach(node);
    }

    pub(super) fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        self.complete(ctx);
        self.news(ctx);
        self.hear_of_owners(now);
        if self
            .last_tick
            .replace(now)
            .is_some_and(|last| now > last + PAUSED_AFTER)
            && let Some(reign) = &mut self.reign
        {
            // This process stood still: nobody was away, it was.
            reign.unattached.clear();
        }
        self.mourn(now, ctx);
        self.remove_unclaimed(now);
        self.ask_for_attachments();
        self.catch_up(ctx, |_| ());
        self.raise(ctx);
        self.look_for_casualties(now);
        self.end_empty_rooms();
        let Some(reign) = &mut self.reign else { return };
        reign.outbox.handle_timeout(now);
        self.let_followers_go(now);
        let Some(reign) = &mut self.reign else { return };
        if reign.cursors_due.is_some_and(|due| due <= now) {
            self.propose_cursors();
        }
        self.end_rest(now, ctx);
        self.run_reign(ctx);
    }

    /// Outboxes go where the partitions' owners are, as far as they can be reached; a hint may have been missed.
    pub(super) fn hear_of_owners(&mut self, now: Instant) {
        let Some(reign) = &mut self.reign else { return };
        for (partition, owner) in self.fabric.owners().into_iter().enumerate() {
            if let (Ok(partition), Some((owner, epoch))) = (u16::try_from(partition), owner)
                && self.fabric.reaches(owner)
            {
                reign
                    .outbox
                    .owner_is(cluster::PartitionId(partition), owner, epoch, now);
            }
        }
    }

    /// Nodes that have been away long enough are gone, if a quorum says that this is the owner still: one that is cut off
    /// sees nobody either, and what it told of others' sessions would arrive when the network is mended, behind all that the
    /// owner after it has told. Their sessions end, their occupants have 60 s to come back.
    fn mourn(&mut self, now: Instant, ctx: &mut Context<Self>) {
        let Some(reign) = &mut self.reign else { return };
        let mut gone: Vec<NodeId> = Vec::new();
        // Whoever was a member once may hold something, as far as the log knows.
        let members = self.fabric.members();
        let mut nodes: BTreeSet<NodeId> = members.iter().map(|member| member.id).collect();
        nodes.extend(&reign.named);
        nodes.extend(reign.unattached.keys());
        nodes.extend(reign.target.attached_nodes());
        for node in nodes {
            if reign.target.is_attached(node) {
                reign.unattached.remove(&node);
                reign.named.insert(node);
                continue;
            }
            let since = *reign.unattached.entry(node).or_insert(now);
            if node != self.fabric.node
                && now >= since + NODE_GONE_AFTER
                && !reign.mourned.contains(&node)
            {
                gone.push(node);
            }
        }
        if gone.is_empty() || std::mem::replace(&mut reign.asks_who_is_gone, true) {
            return;
        }
        let epoch = reign.epoch;
        let group = self.place().group.clone();
        let confirmed = async move {
            let barrier = tokio::time::timeout(SUBMISSION_MAX, group.read_barrier());
            matches!(barrier.await, Ok(Ok(())))
        };
        self.spawn(ctx, confirmed, move |actor, confirmed, _| {
            if let Some(reign) = actor.reign.as_mut().filter(|reign| reign.epoch == epoch) {
                reign.asks_who_is_gone = false;
                match confirmed {
                    true => actor.are_gone(gone),
                    false => {
                        tracing::debug!(partition = %actor.partition, "nobody is given up without a quorum");
                    }
                }
            }
        });
    }

    /// A quorum has confirmed this owner; whoever has come back meanwhile is not gone.
    fn are_gone(&mut self, nodes: Vec<NodeId>) {
        let now = Instant::now();
        for node in nodes {
            let Some(reign) = &mut self.reign else { return };
            let since = reign.unattached.get(&node);
            let is_away = since.is_some_and(|since| now >= *since + NODE_GONE_AFTER);
            if is_away && !reign.target.is_attached(node) && reign.mourned.insert(node) {
                self.node_gone(node, now);
            }
        }
    }

    /// Rooms that are gone need no actor.
    fn end_empty_rooms(&mut self) {
        let Some(reign) = &mut self.reign else { return };
        let state = self.fabric.partitions[usize::from(self.partition.0)]
            .replica
            .state();
        reign.rooms.retain(|room, actor| {
            let stays = state.rooms.contains(room);
            if !stays && actor.try_send(ToRoom::End).is_err() {
                tracing::debug!("a room's actor was gone before it was ended");
            }
            stays
        });
    }

    fn node_gone(&mut self, node: NodeId, now: Instant) {
        let held = held_by(&self.place().replica.state(), node);
        let Some(reign) = &mut self.reign else { return };
        tracing::info!(partition = %self.partition, %node, "a node is gone; its sessions end");
        for stay in held {
            reign.unclaimed.push(stay, now + UNCLAIMED_AFTER);
        }
        for user in reign.publications.keys().cloned().collect::<Vec<_>>() {
            self.tell_publication(&user, false, ToPublication::NodeWithout(node));
        }
    }

    pub(super) fn remove_unclaimed(&mut self, now: Instant) {
        let Some(reign) = &mut self.reign else { return };
        let replica = &self.fabric.partitions[usize::from(self.partition.0)].replica;
        let due = {
            let state = replica.state();
            reign.unclaimed.take_due(now, |stay| stay.goes_on(&state))
        };
        for (room, stays) in due {
            let Some(by) = stays.first().map(|stay| stay.jid.clone()) else {
                continue;
            };
            let occupants = stays.into_iter();
            let occupants = occupants.map(|stay| (stay.jid, stay.node, stay.life));
            let action = RoomAction::RemoveUnclaimed {
                occupants: occupants.collect(),
            };
            self.propose_own(Command::Room(RoomCommand {
                room,
                by,
                account: 0,
                action,
            }));
        }
    }

    /// A later owner knows by it whom to expect, and in which life of the node.
    fn note_sessions(&mut self, up: Vec<SessionKey>, down: Vec<FullJid>) {
        let Some(reign) = &self.reign else { return };
        let life = |node: u64| reign.target.incarnation(NodeId(node)).unwrap_or_default();
        let up = up.into_iter();
        let up = up.map(|key| (key.jid, key.node, life(key.node))).collect();
        self.propose_own(Command::NoteSessions { up, down });
    }

    pub(super) fn asked_by_key(&mut self, request: FromKey, _ctx: &mut Context<Self>) {
        match request {
            FromKey::Propose(command) => self.propose_own(*command),
            FromKey::Lost(node) => self.detach(node),
            FromKey::NoteSessions { up, down } => self.note_sessions(up, down),
            FromKey::AdvanceCursor { user, delivered } => {
                let Some(reign) = &mut self.reign else { return };
                let cursor = reign.cursors.entry(user).or_default();
                *cursor = delivered.max(*cursor);
                reign
                    .cursors_due
                    .get_or_insert_with(|| Instant::now() + CURSORS_EVERY);
            }
            FromKey::CommitCursor(user) => {
                let Some(reign) = &mut self.reign else { return };
                if let Some(delivered) = reign.cursors.remove(&user) {
                    self.propose_own(Command::AdvanceCursor { user, delivered });
                }
            }
            FromKey::Idle {
                user,
                publication,
                handled,
            } => self.end_idle(&user, &publication, handled),
        }
    }
}
