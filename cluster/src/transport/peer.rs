//! Peers: the nodes we keep connections to, and what is open to each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::node_id::NodeId;
use crate::transport::calls::Calls;
use crate::transport::config::TransportLimits;
use crate::transport::dial;
use crate::transport::event::DownReason;
use crate::transport::frame::Lane;
use crate::transport::queue::Queue;
use crate::transport::shared::Shared;

/// One open connection to a peer, as senders see it.
pub(crate) struct Outgoing {
    pub(crate) queue: Arc<Queue>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) generation: u64,
    /// What both ends have agreed to speak.
    pub(crate) protocol: u16,
}

impl Outgoing {
    pub(crate) fn new(
        limits: &TransportLimits,
        lane: Lane,
        (generation, protocol): (u64, u16),
    ) -> Outgoing {
        let of_lane = limits.lane(lane);
        Outgoing {
            queue: Arc::new(Queue::new(of_lane.queue_bytes, of_lane.body_max)),
            calls: Arc::new(Calls::new(limits.calls_max)),
            generation,
            protocol,
        }
    }

    /// Ends it for all senders: the queue is dropped, then every waiting call fails.
    pub(crate) fn end(&self, reason: DownReason) {
        self.queue.close(reason);
        self.calls.lose_all();
    }
}

/// A node we keep connections to.
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    /// Set when the peer has just connected to us: then it is worth dialling now.
    pub(crate) wake: [Notify; 4],
    address: Mutex<String>,
    lanes: [Mutex<Option<Arc<Outgoing>>>; 4],
    stop: watch::Sender<Option<DownReason>>,
}

impl Peer {
    fn new(node: NodeId, address: String) -> Peer {
        Peer {
            node,
            wake: Default::default(),
            address: Mutex::new(address),
            lanes: Default::default(),
            stop: watch::channel(None).0,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn outgoing(&self, lane: Lane) -> Option<Arc<Outgoing>> {
        self.lanes[lane.index()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_outgoing(&self, lane: Lane, outgoing: Option<Arc<Outgoing>>) {
        *self.lanes[lane.index()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = outgoing;
    }

    /// Flushes and closes one lane; its dialler opens a new one.
    pub(crate) fn finish(&self, lane: Lane, reason: DownReason) {
        if let Some(outgoing) = self.outgoing(lane) {
            outgoing.queue.finish(reason);
        }
    }

    /// Flushes and closes all lanes for good.
    pub(crate) fn stop(&self, reason: DownReason) {
        self.stop.send_replace(Some(reason));
        for lane in Lane::ALL {
            self.finish(lane, reason);
        }
    }

    pub(crate) fn stopped(&self) -> Option<DownReason> {
        *self.stop.borrow()
    }

    /// Ends when the peer is dialled no more.
    pub(crate) async fn stopping(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives in `self`, so the wait ends only by the signal.
        drop(stop.wait_for(Option::is_some).await);
    }

    pub(crate) fn wake_diallers(&self) {
        for wake in &self.wake {
            wake.notify_one();
        }
    }
}

/// Starts dialling new peers, stops dialling those that are gone.
pub(crate) fn set_peers(shared: &Arc<Shared>, wanted: &[(NodeId, String)]) {
    let wanted: HashMap<NodeId, &String> = wanted
        .iter()
        .filter(|(node, _)| *node != shared.node)
        .map(|(node, address)| (*node, address))
        .collect();
    let mut gone = Vec::new();
    let mut new = Vec::new();
    {
        let mut peers = shared.peers.write().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that a shutdown either sees these peers or is seen here.
        let Some(alive) = shared.alive() else { return };
        peers.retain(|node, peer| {
            let keep = wanted.contains_key(node);
            if !keep {
                gone.push(peer.clone());
            }
            keep
        });
        for (node, address) in wanted {
            if let Some(peer) = peers.get(&node) {
                peer.address
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone_from(address);
            } else {
                let peer = Arc::new(Peer::new(node, address.clone()));
                peers.insert(node, peer.clone());
                new.push((peer, alive.clone()));
            }
        }
    }
    for peer in gone {
        peer.stop(DownReason::Removed);
    }
    for (peer, alive) in new {
        for lane in Lane::ALL {
            let task = dial::keep_connected(shared.clone(), peer.clone(), lane, alive.clone());
            shared.runtime_of(peer.node, lane).spawn(task);
        }
    }
    shared.finish_incoming(DownReason::Removed, |node, _| !shared.is_member(node));
}
