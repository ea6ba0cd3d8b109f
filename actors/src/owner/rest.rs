//! An owner that is about to hand its partition over: it admits nothing more, and finishes what it has.
//!
//! ```text
//!   Rest ─► frames wait ─► all batches are committed ─► their effects are told ─► it rests ─► another leads, the reign ends
//!                └──────────────────── GoOn, or still its own after RESTS_MAX: they are taken ──┘
//! ```
//!
//! So what was admitted has its answer before the next owner begins, and nothing is on its way to a log that takes no more.
//!
//! Invariant: what waits here was admitted by nobody. A link says it again to the owner that it attaches to next, an outbox
//! sends again; soft stanzas, which nobody would repeat, are handed on when the reign ends. What finds no room is missed, and
//! its node attaches again.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use actix::{AsyncContext, Context};
use cluster::link::protocol::{Across, Up};
use cluster::node_id::{Epoch, NodeId};
use messaging::command::Command;
use tokio::sync::oneshot;

use super::held_back::bytes_of;
use super::{OwnerActor, Reign};

/// How long it may rest before it goes on by itself: more than a handover takes.
const RESTS_MAX: Duration = Duration::from_secs(4);

/// How often it looks whether all is done. A commit takes a millisecond or more.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Frames that wait at most. The links' windows bound their bytes.
const WAITING_MAX: usize = 16_384;

/// Bytes that wait of other owners, who have no windows.
const ACROSS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A frame that waits.
pub(super) enum Waiting {
    /// Of a node.
    Up {
        /// Who sent it.
        from: NodeId,
        /// Which epoch it is meant for.
        epoch: Epoch,
        /// What.
        up: Box<Up>,
    },
    /// Of another owner.
    Across {
        /// Who sent it.
        from: NodeId,
        /// What.
        across: Box<Across>,
    },
}

/// An owner's rest.
pub(super) struct Rest {
    until: Instant,
    /// Whoever waits until all is done; empty once they were told.
    told_when_done: Vec<oneshot::Sender<()>>,
    is_done: bool,
    waiting: VecDeque<Waiting>,
    /// Of other owners.
    across_bytes: usize,
    /// Nodes of which a frame found no room.
    missed: BTreeSet<NodeId>,
}

impl Rest {
    fn new(until: Instant) -> Rest {
        Rest {
            until,
            told_when_done: Vec::new(),
            is_done: false,
            waiting: VecDeque::new(),
            across_bytes: 0,
            missed: BTreeSet::new(),
        }
    }

    /// Whether all that was admitted is done: nothing is proposed any more.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Keeps a frame. Outboxes send again by themselves.
    pub(super) fn wait(&mut self, frame: Waiting) {
        let bytes = match &frame {
            Waiting::Across { across, .. } => bytes_of(across),
            Waiting::Up { .. } => 0,
        };
        let all = self.across_bytes.saturating_add(bytes);
        if self.waiting.len() < WAITING_MAX && all <= ACROSS_BYTES_MAX {
            self.across_bytes = all;
            return self.waiting.push_back(frame);
        }
        if let Waiting::Up { from, .. } = frame {
            self.missed.insert(from);
        }
    }

    /// What came from other owners, for the end of the reign.
    pub(super) fn into_words(self) -> impl Iterator<Item = Across> {
        self.waiting.into_iter().filter_map(|frame| match frame {
            Waiting::Across { across, .. } => Some(*across),
            Waiting::Up { .. } => None,
        })
    }
}

impl OwnerActor {
    /// The partition is about to be handed over. Without a reign there is nothing to finish.
    pub(super) fn rest(&mut self, done: oneshot::Sender<()>, ctx: &mut Context<Self>) {
        let now = Instant::now();
        // Nobody waits for it any more.
        if done.is_closed() {
            return;
        }
        let rest = self.reign.as_mut().and_then(|reign| reign.rest.as_mut());
        if let Some(rest) = rest.filter(|rest| rest.is_done) {
            // What came since then was not proposed, and is not before it goes on.
            rest.until = now + RESTS_MAX;
            let _ = done.send(());
            return;
        }
        self.propose_cursors();
        if let Some(reign) = self.reign.as_mut().filter(|reign| reign.rest.is_none()) {
            // The ends of what was sent go with the last batch, so that the next owner does not send it again.
            reign.outbox.settle();
        }
        self.run_reign(ctx);
        let Some(reign) = &mut self.reign else { return };
        let rest = reign.rest.get_or_insert_with(|| Rest::new(now + RESTS_MAX));
        rest.until = now + RESTS_MAX;
        rest.told_when_done.push(done);
        self.look_whether_done(ctx);
    }

    /// Delivery cursors that were gathered go into the log.
    pub(super) fn propose_cursors(&mut self) {
        let Some(reign) = &mut self.reign else { return };
        reign.cursors_due = None;
        for (user, delivered) in std::mem::take(&mut reign.cursors) {
            self.propose_own(Command::AdvanceCursor { user, delivered });
        }
    }

    fn look_whether_done(&mut self, ctx: &mut Context<Self>) {
        self.catch_up(ctx, |_| ());
        self.run_reign(ctx);
        let Some(reign) = &mut self.reign else { return };
        let is_done = is_done(reign);
        let Some(rest) = &mut reign.rest else { return };
        if is_done {
            rest.is_done = true;
            for done in rest.told_when_done.drain(..) {
                // Whoever did not wait so long hands over all the same.
                let _ = done.send(());
            }
        } else {
            ctx.run_later(LOOK_EVERY, |actor, ctx| {
                actor.survive(ctx, Self::look_whether_done);
            });
        }
    }

    /// Takes what waits, and goes on as owner.
    pub(super) fn go_on(&mut self, ctx: &mut Context<Self>) {
        let rest = self.reign.as_mut().and_then(|reign| reign.rest.take());
        let Some(rest) = rest else { return };
        tracing::debug!(partition = %self.partition, "the partition was not handed over");
        for frame in rest.waiting {
            match frame {
                Waiting::Up { from, epoch, up } => self.up(from, epoch, *up, ctx),
                Waiting::Across { from, across } => self.across(from, *across, ctx),
            }
        }
        for node in rest.missed {
            self.detach(node);
        }
        self.run_reign(ctx);
    }

    /// A rest that nobody has ended.
    pub(super) fn end_rest(&mut self, now: Instant, ctx: &mut Context<Self>) {
        let rest = self.reign.as_ref().and_then(|reign| reign.rest.as_ref());
        if rest.is_some_and(|rest| rest.until <= now) {
            self.go_on(ctx);
        }
    }
}

/// Whether all batches are committed and all effects are told, by rooms and publications too.
fn is_done(reign: &Reign) -> bool {
    let rooms = reign.rooms.values();
    let publications = reign.publications.values();
    reign.batcher.waiting() == 0
        && reign.batcher.in_flight() == 0
        && reign.refused.is_none()
        && !reign.raising
        && rooms.into_iter().all(|room| room.is_idle())
        && publications.into_iter().all(|one| one.is_idle())
}
