//! Frames to ourselves: handed over by a task of the lane, without encryption and without a socket.
//!
//! ```text
//!  send, call ──► queue ──► the lane's task: takes what is queued, hands it over, looks once more
//! ```
//!
//! Never by whoever sends them: a sender may hold a lock that the receiver needs, and a node that waits for itself waits
//! for ever. Invariants: frames of a lane are handed over in the order in which they were queued, one at a time; a frame
//! is never left behind, for the queue is looked at once more after the turn was given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::transport::calls::Reply;
use crate::transport::error::SendError;
use crate::transport::event::{Direction, PeerEvent};
use crate::transport::frame::{Frame, Lane, flags};
use crate::transport::peer::Outgoing;
use crate::transport::shared::{Alive, Shared};

/// Frames handed over before the queue is looked at once more.
const BATCH_BYTES: usize = 64 * 1024;

/// How often the task looks once more before it lets others run.
const ROUNDS: usize = 8;

/// A lane to ourselves.
pub(crate) struct OwnLane {
    pub(crate) outgoing: Arc<Outgoing>,
    /// Whether somebody hands over; before the lane is up and after its end nobody may.
    taken: AtomicBool,
}

impl OwnLane {
    pub(crate) fn new(outgoing: Outgoing) -> OwnLane {
        OwnLane {
            outgoing: Arc::new(outgoing),
            taken: AtomicBool::new(true),
        }
    }
}

/// Queues a frame that wants no reply.
pub(crate) fn send(shared: &Shared, lane: Lane, frame: Frame) -> Result<(), SendError> {
    shared.own_lanes[lane.index()].outgoing.queue.push(frame)
}

/// Hands over what is queued, if the turn is free.
fn hand_over(shared: &Shared, lane: Lane) {
    let own = &shared.own_lanes[lane.index()];
    let mut batch = Vec::new();
    for _ in 0..ROUNDS {
        if own.taken.swap(true, Ordering::AcqRel) {
            return;
        }
        own.outgoing.queue.take(&mut batch, BATCH_BYTES);
        for mut frame in batch.drain(..) {
            let reply = (frame.flags & flags::REQUEST != 0)
                .then(|| Reply::local(own.outgoing.calls.clone(), frame.sequence));
            frame.flags &= flags::APPLICATION;
            // A panic is logged there. This lane has no successor that could take over, so it goes on.
            let _ = shared.deliver(shared.node, lane, frame, reply);
        }
        own.taken.store(false, Ordering::Release);
        // The queue's lock puts this look behind the store: who found the turn taken has queued before it.
        if own.outgoing.queue.bytes() == 0 {
            return;
        }
    }
    own.outgoing.queue.notice();
}

/// Starts the tasks of the four lanes.
pub(crate) fn start(shared: &Arc<Shared>, alive: &Alive) {
    for lane in Lane::ALL {
        tokio::spawn(run(shared.clone(), lane, alive.clone()));
    }
}

/// Opens a lane, hands over what senders leave, and ends the lane.
async fn run(shared: Arc<Shared>, lane: Lane, alive: Alive) {
    let own = &shared.own_lanes[lane.index()];
    let (node, generation) = (shared.node, own.outgoing.generation);
    let identity = shared.identity();
    for direction in [Direction::Outgoing, Direction::Incoming] {
        shared.emit(PeerEvent::Up {
            node,
            lane,
            direction,
            incarnation: identity.incarnation,
            generation,
            protocol: identity.protocol.max,
        });
    }
    own.taken.store(false, Ordering::Release);
    let reason = loop {
        if let Some(reason) = own.outgoing.queue.noticed().await {
            break reason;
        }
        hand_over(&shared, lane);
        tokio::task::yield_now().await;
    };
    while own.taken.swap(true, Ordering::AcqRel) {
        tokio::task::yield_now().await;
    }
    own.outgoing.end(reason);
    for direction in [Direction::Outgoing, Direction::Incoming] {
        shared.emit(PeerEvent::Down {
            node,
            lane,
            direction,
            generation,
            reason,
        });
    }
    drop(alive);
}
