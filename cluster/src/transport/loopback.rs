//! Frames to ourselves: handed over by a task of the lane, without encryption and without a socket.
//!
//! Never by whoever sends them: a sender may hold a lock that the receiver needs, and a node that waits for itself waits
//! for ever. Invariant: frames of a lane are handed over in the order in which they were queued, one at a time.

use std::sync::Arc;

use crate::transport::calls::Reply;
use crate::transport::event::{Direction, PeerEvent};
use crate::transport::frame::{Lane, flags};
use crate::transport::queue::Drained;
use crate::transport::shared::{Alive, Shared};

/// Frames handed over before other tasks run.
const BATCH_BYTES: usize = 64 * 1024;

/// Starts the tasks of the four lanes.
pub(crate) fn start(shared: &Arc<Shared>, alive: &Alive) {
    for lane in Lane::ALL {
        let task = run(shared.clone(), lane, alive.clone());
        shared.runtime_of(shared.node, lane).spawn(task);
    }
}

async fn run(shared: Arc<Shared>, lane: Lane, alive: Alive) {
    let own = shared.own_lanes[lane.index()].clone();
    let (node, generation) = (shared.node, own.generation);
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
    let mut batch = Vec::new();
    let reason = loop {
        if let Drained::End(reason) = own.queue.drain(&mut batch, BATCH_BYTES).await {
            break reason;
        }
        for mut frame in batch.drain(..) {
            let reply = (frame.flags & flags::REQUEST != 0)
                .then(|| Reply::local(own.calls.clone(), frame.sequence));
            frame.flags &= flags::APPLICATION;
            // A panic is logged there. This task has no successor that could take over, so it goes on.
            let _ = shared.deliver(node, lane, frame, reply);
        }
        tokio::task::yield_now().await;
    };
    own.end(reason);
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
