//! Brings a node from its cursor to where the room's actor stands.
//!
//! However much it missed, it is shown every row that is left: first the rows are read backwards, page by page, to learn who was in at
//! each page's end, then forwards to show them. So at most one page of rows is in memory. The room waits meanwhile, so
//! that nothing overtakes what is shown, and the disk is read elsewhere, since other rooms share the thread. A node for
//! which a frame did not leave attaches again, from wherever it is by then. What is no longer in the log is bridged first
//! (`bridge.rs`).

use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use cluster::link::protocol::{Delivery, DeliveryItem, Down, Place};
use cluster::machine::Replica;
use cluster::node_id::NodeId;
use messaging::archive::{ArchiveRecord, ArchiveRow};
use messaging::room::command::HistoryRequest;
use messaging::room::effect::Welcome;
use messaging::room::render::{ReplayStep, before, replay};
use messaging::room::views::OccupantView;
use storage::archive::{Order, Rows};
use xmpp::jid::{BareJid, FullJid};

use super::{RoomActor, RoomScene, alone, item, leavers, notes};
use crate::services::archive::{ReadError, rows_between};

/// Rows of a page.
pub(super) const PAGE_ROWS: usize = 500;

/// Rows that are read on the actor's own thread: about as long as a page of an archive takes.
const READ_AT_ONCE: u64 = 64;

/// Some of what a node missed.
pub(super) struct Missed {
    /// The rows come after this one.
    after: u64,
    /// The last of them.
    upto: u64,
    /// Who was in the room after the last of them.
    occupants: OccupantView,
}

/// A node on its way to the head.
pub(super) struct CatchUp {
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    /// What it has been shown.
    pub(super) cursor: u64,
    /// Its sessions that believe to be in and are not, unless a row says that they left.
    pub(super) strangers: Vec<FullJid>,
    pub(super) scene: RoomScene,
    /// What is still to be shown: the next page last.
    missed: Vec<Missed>,
    /// Who was in the room before that.
    pub(super) began_with: OccupantView,
}

impl RoomActor {
    /// Brings a node from its cursor to where this actor stands; from there on it reads along.
    pub(super) fn attach(
        &mut self,
        node: NodeId,
        cursor: u64,
        believing: Vec<FullJid>,
        scene: Option<Box<RoomScene>>,
        ctx: &mut Context<Self>,
    ) {
        let Some(scene) = scene else {
            self.attached.insert(node);
            // The room is gone, and so is what told of it.
            self.reading.remove(&node);
            return self.desynchronized(node, &believing);
        };
        let now = Arc::clone(&scene.occupants);
        let incarnation = now
            .iter()
            .filter(|occupant| occupant.node == node.0)
            .map(|occupant| occupant.incarnation)
            .max();
        let mut strangers = believing;
        strangers.retain(|jid| !now.iter().any(|occupant| occupant.jid == *jid));
        let (head, floor) = (scene.record.head, scene.record.depth.floor);
        let bridgeable = scene.record.depth.can_be_bridged_from(cursor);
        let catch_up = CatchUp {
            node,
            incarnation: incarnation.unwrap_or_default(),
            cursor,
            strangers,
            scene: *scene,
            missed: Vec::new(),
            began_with: Arc::clone(&now),
        };
        if cursor < floor && !bridgeable {
            self.attached.insert(node);
            return self.begin_anew(catch_up);
        }
        let (replica, room) = (Arc::clone(self.replica()), self.room.clone());
        let from = cursor.max(floor);
        let at_once = head.saturating_sub(from) <= READ_AT_ONCE;
        let read = move || missed(&replica, &room, from, head, now);
        self.read(at_once, read, ctx, move |actor, read, ctx| match read {
            Ok(_) if !actor.has_all_after(from) => actor.lost(node),
            Ok((missed, rows, began_with)) => {
                let mut catch_up = catch_up;
                catch_up.missed = missed;
                if catch_up.incarnation == 0 {
                    // All its sessions have left or moved meanwhile; they are shown what came before that.
                    let before = began_with.iter().filter(|occupant| occupant.node == node.0);
                    let before = before.map(|occupant| occupant.incarnation).max();
                    catch_up.incarnation = before.unwrap_or_default();
                }
                catch_up.began_with = began_with;
                actor.attached.insert(node);
                if cursor < floor {
                    return actor.bridge(catch_up, rows, ctx);
                }
                actor.show(catch_up, rows, ctx);
            }
            Err(error) => actor.unread(node, &error),
        });
    }

    /// Whether the log still had every row after this one when it was read just now: entries are applied meanwhile, and may
    /// have trimmed it. Then the node attaches again, and is brought over the new floor.
    fn has_all_after(&self, seq: u64) -> bool {
        let state = self.replica().state();
        let record = state.rooms.get(&self.room);
        record.is_none_or(|record| record.depth.floor <= seq)
    }

    /// Reads, elsewhere if it takes long, and goes on with what was read before anything else.
    pub(super) fn read<T: Send + 'static>(
        &mut self,
        at_once: bool,
        read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, Result<T, ReadError>, &mut Context<Self>) + 'static,
    ) {
        if at_once {
            return then(self, read(), ctx);
        }
        let read = crate::threads::spawn_blocking(read).into_actor(self);
        ctx.wait(read.map(move |rows, actor, ctx| {
            let rows = rows.unwrap_or_else(|error| Err(ReadError::Task(error)));
            then(actor, rows, ctx);
        }));
    }

    pub(super) fn unread(&self, node: NodeId, error: &ReadError) {
        tracing::error!(%error, "a room's log could not be read for a node; it attaches again");
        self.lost(node);
    }

    /// Shows the next page, whose rows these are, and goes on with the one after it.
    pub(super) fn show(
        &mut self,
        mut catch_up: CatchUp,
        rows: Vec<Arc<ArchiveRow>>,
        ctx: &mut Context<Self>,
    ) {
        let node = catch_up.node;
        if let Some(page) = catch_up.missed.pop() {
            let steps = replay(&rows, &page.occupants, node.0, catch_up.incarnation);
            if !self.show_steps(&mut catch_up, steps) {
                return;
            }
            catch_up.strangers.retain(|jid| !left_in(&rows, jid));
        }
        let Some(next) = catch_up.missed.last() else {
            return self.shown(&catch_up);
        };
        let (after, upto) = (next.after, next.upto);
        let (replica, room) = (Arc::clone(self.replica()), self.room.clone());
        let read = move || page(&replica, &room, after, upto);
        self.read(false, read, ctx, move |actor, read, ctx| match read {
            Ok(_) if !actor.has_all_after(after) => actor.lost(node),
            Ok(rows) => actor.show(catch_up, rows, ctx),
            Err(error) => actor.unread(node, &error),
        });
    }

    /// All was shown.
    pub(super) fn shown(&mut self, catch_up: &CatchUp) {
        let (node, previous) = (catch_up.node, catch_up.cursor);
        let head = catch_up.scene.record.head;
        if previous < head {
            let key = self.room.clone();
            let seq = head;
            self.down(node, &Down::Position { key, previous, seq });
        }
        self.reading.insert(node);
        self.desynchronized(node, &catch_up.strangers);
    }

    /// Shows a node some of what it missed; `false`: a frame did not leave.
    fn show_steps(&self, catch_up: &mut CatchUp, steps: Vec<ReplayStep>) -> bool {
        let record = &catch_up.scene.record;
        for step in steps {
            let ArchiveRecord::Room(event) = &step.row.record else {
                continue;
            };
            let non_anonymous = record.config.non_anonymous;
            let renderings = step.for_node(self.renderer.event(
                &step.row,
                &step.occupants,
                non_anonymous,
            ));
            let mut items: Vec<DeliveryItem> = renderings.into_iter().map(item).collect();
            if let Some(newcomer) = &step.welcome {
                let welcome = Welcome {
                    room: record.clone(),
                    history: HistoryRequest::default(),
                };
                let stanzas = self.welcome(&step.row, &welcome, &step.occupants);
                items.extend(stanzas.iter().map(|stanza| alone(newcomer, stanza)));
            }
            let previous = std::mem::replace(&mut catch_up.cursor, step.row.seq);
            let delivery = Delivery {
                key: self.room.clone(),
                place: Some(Place {
                    previous: (previous > 0).then_some(previous),
                    seq: step.row.seq,
                }),
                items,
                notes: notes(event, catch_up.node),
            };
            if !self.down(catch_up.node, &Down::Deliver(delivery)) {
                return false;
            }
        }
        true
    }
}

/// The newest rows of a span that make a page, oldest first. Blocks on the disk.
fn page(
    replica: &Replica,
    room: &BareJid,
    after: u64,
    upto: u64,
) -> Result<Vec<Arc<ArchiveRow>>, ReadError> {
    let order = Order::NewestFirst;
    let mut rows = rows_between(replica, room, Rows::All, after, upto, order, PAGE_ROWS)?;
    rows.reverse();
    Ok(rows)
}

/// Pages, the oldest last; the rows of that one; and who was in before them.
type AllMissed = (Vec<Missed>, Vec<Arc<ArchiveRow>>, OccupantView);

/// What a node has missed after its cursor.
/// Blocks on the disk.
fn missed(
    replica: &Replica,
    room: &BareJid,
    cursor: u64,
    head: u64,
    now: OccupantView,
) -> Result<AllMissed, ReadError> {
    let mut pages = Vec::new();
    let mut oldest = Vec::new();
    let (mut upto, mut occupants) = (head, now);
    while upto > cursor {
        let rows = page(replica, room, cursor, upto)?;
        let Some(first) = rows.first().map(|row| row.seq) else {
            break;
        };
        let was = before(&rows, &occupants);
        let after = first.saturating_sub(1);
        pages.push(Missed {
            after,
            upto,
            occupants: std::mem::replace(&mut occupants, was),
        });
        oldest = rows;
        upto = after;
    }
    Ok((pages, oldest, occupants))
}

/// Whether somebody is out of the room by one of these rows.
fn left_in(rows: &[Arc<ArchiveRow>], jid: &FullJid) -> bool {
    rows.iter().any(|row| match &row.record {
        ArchiveRecord::Room(event) => leavers(event).iter().any(|occupant| occupant.jid == *jid),
        ArchiveRecord::Message(_) => false,
    })
}
