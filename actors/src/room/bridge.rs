//! Brings a node up to date whose cursor lies below the floor of a room's log.
//!
//! Archived messages are shown one by one to those who stayed; then one delivery tells where the events led that are gone,
//! and moves the cursor to the floor, from where the rows go on ([`super::catch_up`]). Where even that can't be known, the
//! node's occupants are taken out (status 333), so that their clients join again: they are told, and nothing is hidden.

use std::sync::Arc;

use actix::Context;
use cluster::link::protocol::{Delivery, DeliveryItem, Down, OccupantNote, Place};
use messaging::archive::ArchiveRow;
use messaging::command::Command;
use messaging::room::command::{HistoryRequest, RoomAction, RoomCommand};
use messaging::room::effect::Welcome;
use messaging::room::render::{Bridge, Rendering};
use storage::archive::{Order, Rows};
use xmpp::jid::FullJid;

use super::catch_up::{CatchUp, PAGE_ROWS};
use super::{RoomActor, alone, item};
use crate::owner::{FromKey, ToOwner};
use crate::services::archive::rows_between;

impl RoomActor {
    /// Shows the messages below the floor, page by page, then what else happened there; then goes on with `rows`, the
    /// first page above it.
    pub(super) fn bridge(
        &mut self,
        catch_up: CatchUp,
        rows: Vec<Arc<ArchiveRow>>,
        ctx: &mut Context<Self>,
    ) {
        let (record, home) = (
            &catch_up.scene.record,
            (catch_up.node.0, catch_up.incarnation),
        );
        let bridge = self.renderer.bridge(
            (&self.room, record),
            &catch_up.began_with,
            &catch_up.scene.departed,
            catch_up.cursor,
            home,
        );
        self.bridge_messages(catch_up, bridge, rows, ctx);
    }

    fn bridge_messages(
        &mut self,
        mut catch_up: CatchUp,
        bridge: Bridge,
        rows: Vec<Arc<ArchiveRow>>,
        ctx: &mut Context<Self>,
    ) {
        let (replica, room) = (Arc::clone(self.replica()), self.room.clone());
        let (after, upto) = (catch_up.cursor, catch_up.scene.record.depth.floor);
        let order = Order::OldestFirst;
        let read = move || {
            rows_between(
                &replica,
                &room,
                Rows::Messages,
                after,
                upto,
                order,
                PAGE_ROWS,
            )
        };
        self.read(false, read, ctx, move |actor, read, ctx| match read {
            Ok(messages) if messages.is_empty() => {
                if actor.bridged(&mut catch_up, &bridge) {
                    actor.show(catch_up, rows, ctx);
                }
            }
            Ok(messages) => {
                if actor.show_messages(&mut catch_up, &bridge.stayed, &messages) {
                    actor.bridge_messages(catch_up, bridge, rows, ctx);
                }
            }
            Err(error) => actor.unread(catch_up.node, &error),
        });
    }

    /// `false`: a frame did not leave.
    fn show_messages(
        &self,
        catch_up: &mut CatchUp,
        stayed: &[FullJid],
        messages: &[Arc<ArchiveRow>],
    ) -> bool {
        messages.iter().all(|row| {
            let stanza = self.renderer.message(row).filter(|_| !stayed.is_empty());
            let items = stanza
                .map(|stanza| item(Rendering::new(&stanza, stayed.to_vec())))
                .into_iter()
                .collect();
            self.bridge_frame(catch_up, row.seq, items, Vec::new())
        })
    }

    /// The difference, and answers to joins that nobody has seen.
    fn bridged(&self, catch_up: &mut CatchUp, bridge: &Bridge) -> bool {
        let occupants = Arc::clone(&catch_up.began_with);
        let mut items: Vec<DeliveryItem> = bridge.renderings.iter().cloned().map(item).collect();
        for row in &bridge.joins {
            let Some(newcomer) = row.newcomer() else {
                continue;
            };
            let welcome = Welcome {
                room: catch_up.scene.record.clone(),
                history: HistoryRequest::default(),
            };
            let stanzas = self.welcome(row, &welcome, &occupants);
            items.extend(stanzas.iter().map(|stanza| alone(newcomer, stanza)));
        }
        let ours = occupants
            .iter()
            .filter(|o| (o.node, o.incarnation) == (catch_up.node.0, catch_up.incarnation));
        let notes = ours
            .map(|occupant| OccupantNote {
                session: occupant.jid.clone(),
                inside: true,
                nick: occupant.nick.clone(),
            })
            .collect();
        let floor = catch_up.scene.record.depth.floor;
        self.bridge_frame(catch_up, floor, items, notes)
    }

    fn bridge_frame(
        &self,
        catch_up: &mut CatchUp,
        seq: u64,
        items: Vec<DeliveryItem>,
        notes: Vec<OccupantNote>,
    ) -> bool {
        let previous = std::mem::replace(&mut catch_up.cursor, seq);
        let delivery = Delivery {
            key: self.room.clone(),
            place: Some(Place {
                previous: (previous > 0).then_some(previous),
                seq,
            }),
            items,
            notes,
        };
        self.down(catch_up.node, &Down::Deliver(delivery))
    }

    /// Too much is gone: the node's occupants leave, for a technical reason, and see the room anew when they come back.
    pub(super) fn begin_anew(&mut self, catch_up: CatchUp) {
        let node = catch_up.node;
        let ours = catch_up
            .scene
            .occupants
            .iter()
            .filter(|occupant| occupant.node == node.0);
        let occupants: Vec<(FullJid, u64, u64)> = ours
            .map(|occupant| (occupant.jid.clone(), occupant.node, occupant.incarnation))
            .collect();
        if let Some((by, _, _)) = occupants.first().cloned() {
            tracing::warn!(room = %self.room, %node, "a node has missed too much of a room: its occupants join again");
            let command = RoomCommand {
                room: self.room.clone(),
                by,
                account: 0,
                action: RoomAction::RemoveUnclaimed { occupants },
            };
            let propose = FromKey::Propose(Box::new(Command::Room(command)));
            let told = self
                .fabric
                .actors(self.partition)
                .is_some_and(|actors| actors.owner.try_send(ToOwner::FromKey(propose)).is_ok());
            if !told {
                self.fabric.metrics.mailboxes_full.inc();
                return self.lost(node);
            }
        }
        self.shown(&catch_up);
    }
}
