//! What all tasks of one transport share: who we are, our peers, who has connected, and the stop signal.
//!
//! The locks are `std::sync` ones, held for a look-up and never over an await. Only a slot's `turn` is held
//! while the handler runs; no method of `Transport` takes it, so handlers may call the transport.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, watch};

use crate::node_id::{Incarnation, NodeId, PoolId};
use crate::transport::calls::Reply;
use crate::transport::config::{TransportConfig, TransportLimits};
use crate::transport::error::{SendError, TransportError};
use crate::transport::event::{DownReason, FrameHandler, PeerEvent};
use crate::transport::frame::{Frame, Lane};
use crate::transport::hello::Identity;
use crate::transport::peer::{Outgoing, Peer};
use crate::transport::queue::Queue;
use crate::transport::tls::{ClusterTls, TlsContext};
use crate::version::VersionRange;

const EVENTS_KEPT: usize = 1024;

/// Each task holds one; when all are dropped, nothing runs any more.
pub(crate) type Alive = mpsc::Sender<()>;

pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) pool: PoolId,
    pub(crate) limits: TransportLimits,
    pub(crate) events: broadcast::Sender<PeerEvent>,
    pub(crate) runtime: Handle,
    route_runtimes: Vec<Handle>,
    pub(crate) peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
    pub(crate) own_lanes: [Arc<Outgoing>; 4],
    protocol: VersionRange,
    /// Below this version nothing is spoken any more.
    floor: AtomicU16,
    incarnation: AtomicU64,
    handler: Arc<dyn FrameHandler>,
    tls: RwLock<Arc<TlsContext>>,
    slots: Mutex<HashMap<(NodeId, Lane), Arc<Slot>>>,
    incarnations: Mutex<HashMap<NodeId, Incarnation>>,
    generation: AtomicU64,
    stop: watch::Sender<bool>,
    alive: Mutex<Option<Alive>>,
    all_ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

/// The place of one (node, lane)'s incoming connection; outlives the connections that take it in turn.
#[derive(Default)]
pub(crate) struct Slot {
    /// The generation whose frames may be delivered. Held while the handler runs, so that a frame of a
    /// replaced connection never comes after its successor's `Up`.
    pub(crate) turn: Mutex<Option<u64>>,
    /// Where that connection's replies are queued.
    pub(crate) queue: Mutex<Option<Arc<Queue>>>,
    /// What both ends of it have agreed to speak.
    pub(crate) protocol: AtomicU16,
}

impl Shared {
    pub(crate) fn new(
        config: TransportConfig,
        handler: Arc<dyn FrameHandler>,
    ) -> Result<(Arc<Shared>, Alive), TransportError> {
        config.limits.check()?;
        if config.protocol.agree(config.protocol).is_none() {
            return Err(TransportError::Limits(
                "the lowest protocol version is above the highest",
            ));
        }
        let tls = TlsContext::new(&config.tls, config.node, &config.pool_id)?;
        let (alive, all_ended) = mpsc::channel(1);
        let spoken = config.protocol.max;
        let own_lane = |lane| Arc::new(Outgoing::new(&config.limits, lane, (0, spoken)));
        let own_lanes = Lane::ALL.map(own_lane);
        let shared = Shared {
            node: config.node,
            pool: config.pool_id,
            events: broadcast::channel(EVENTS_KEPT).0,
            runtime: Handle::current(),
            route_runtimes: config.route_runtimes,
            peers: RwLock::default(),
            own_lanes,
            protocol: config.protocol,
            floor: AtomicU16::new(config.protocol.min),
            incarnation: AtomicU64::new(config.incarnation.0),
            handler,
            tls: RwLock::new(Arc::new(tls)),
            slots: Mutex::default(),
            incarnations: Mutex::default(),
            generation: AtomicU64::new(1),
            stop: watch::channel(false).0,
            alive: Mutex::new(Some(alive.clone())),
            all_ended: tokio::sync::Mutex::new(all_ended),
            limits: config.limits,
        };
        Ok((Arc::new(shared), alive))
    }

    /// Where the tasks of a lane to a peer run, or to ourselves.
    pub(crate) fn runtime_of(&self, node: NodeId, lane: Lane) -> &Handle {
        let turn = usize::try_from(node.0).unwrap_or_default();
        let turn = turn.checked_rem(self.route_runtimes.len());
        let chosen = turn.and_then(|turn| self.route_runtimes.get(turn));
        chosen
            .filter(|_| lane == Lane::Route)
            .unwrap_or(&self.runtime)
    }

    /// What we say about ourselves in a hello now.
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            node: self.node,
            pool: self.pool.clone(),
            incarnation: Incarnation(self.incarnation.load(Ordering::SeqCst)),
            protocol: self.protocol.from(self.floor.load(Ordering::SeqCst)),
        }
    }

    pub(crate) fn tls(&self) -> Arc<TlsContext> {
        self.tls
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn reload_tls(&self, tls: &ClusterTls) -> Result<(), TransportError> {
        let context = Arc::new(TlsContext::new(tls, self.node, &self.pool)?);
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = context;
        Ok(())
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&node)
            .cloned()
    }

    /// The connection that frames for `to` go out on.
    pub(crate) fn outgoing(&self, to: NodeId, lane: Lane) -> Result<Arc<Outgoing>, SendError> {
        if to == self.node {
            return Ok(self.own_lanes[lane.index()].clone());
        }
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let peer = peers.get(&to).ok_or(SendError::NoPeer(to))?;
        peer.outgoing(lane).ok_or(SendError::Disconnected)
    }

    pub(crate) fn slot(&self, node: NodeId, lane: Lane) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry((node, lane)).or_default().clone()
    }

    /// Ends the incoming connections that `which` picks.
    pub(crate) fn finish_incoming(&self, reason: DownReason, which: impl Fn(NodeId, Lane) -> bool) {
        let slots: Vec<_> = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots
                .iter()
                .map(|(key, slot)| (*key, slot.clone()))
                .collect()
        };
        for ((node, lane), slot) in slots {
            if which(node, lane) {
                slot.finish(reason);
            }
        }
    }

    pub(crate) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        // A handler that panics refuses: nobody becomes a member by a bug.
        catch_unwind(AssertUnwindSafe(|| self.handler.is_member(node))).unwrap_or(false)
    }

    /// A try to connect has ended: whether the peer takes us for no member.
    pub(crate) fn tell_stranger(&self, peer: NodeId, refused: bool) {
        let told = catch_unwind(AssertUnwindSafe(|| self.handler.on_stranger(peer, refused)));
        if told.is_err() {
            tracing::error!(%peer, "a refusal's handler panicked");
        }
    }

    /// Remembers the highest incarnation seen of a node; `false` if `incarnation` is of an earlier life.
    /// Zero, a starting node that doesn't know its own yet, passes.
    pub(crate) fn note_incarnation(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let mut seen = self
            .incarnations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let highest = seen.entry(node).or_default();
        if incarnation != Incarnation(0) && incarnation < *highest {
            return false;
        }
        *highest = incarnation.max(*highest);
        true
    }

    /// Hands a frame to the handler. A panic there costs the connection, whose end the layer above
    /// handles anyway, and not the task of anything else.
    pub(crate) fn deliver(
        &self,
        from: NodeId,
        lane: Lane,
        frame: Frame,
        reply: Option<Reply>,
    ) -> Result<(), DownReason> {
        catch_unwind(AssertUnwindSafe(|| {
            self.handler.on_frame(from, lane, frame, reply)
        }))
        .map_err(|_| {
            tracing::error!(%from, %lane, "a frame's handler panicked; the connection is closed");
            DownReason::Local
        })
    }

    /// Tells the handler and the subscribers.
    pub(crate) fn emit(&self, event: PeerEvent) {
        tracing::debug!(?event, "cluster connection");
        if catch_unwind(AssertUnwindSafe(|| self.handler.on_peer(event))).is_err() {
            tracing::error!(?event, "the handler of a connection's event panicked");
        }
        // It fails only when nobody has subscribed.
        drop(self.events.send(event));
    }

    /// A try to connect has ended: what the peer speaks, if it speaks nothing that we do.
    pub(crate) fn tell_skew(&self, peer: NodeId, theirs: Option<VersionRange>) {
        let told = catch_unwind(AssertUnwindSafe(|| self.handler.on_skew(peer, theirs)));
        if told.is_err() {
            tracing::error!(%peer, "the handler of a version skew panicked");
        }
    }

    /// Whether a connection on which this version was agreed may stay.
    pub(crate) fn speaks(&self, protocol: u16) -> bool {
        protocol >= self.floor.load(Ordering::SeqCst)
    }

    /// From now on nothing older is spoken; connections on which something older was agreed end.
    pub(crate) fn speak_from(&self, version: u16) {
        if self.floor.fetch_max(version, Ordering::SeqCst) >= version {
            return;
        }
        let peers: Vec<_> = {
            let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
            peers.values().cloned().collect()
        };
        for peer in peers {
            for lane in Lane::ALL {
                if let Some(outgoing) = peer.outgoing(lane)
                    && !self.speaks(outgoing.protocol)
                {
                    outgoing.queue.finish(DownReason::Local);
                }
            }
        }
        let slots: Vec<_> = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.values().cloned().collect()
        };
        for slot in slots {
            if !self.speaks(slot.protocol.load(Ordering::SeqCst)) {
                slot.finish(DownReason::Local);
            }
        }
    }

    pub(crate) fn set_incarnation(&self, incarnation: Incarnation) {
        let before = self.incarnation.swap(incarnation.0, Ordering::SeqCst);
        if before == incarnation.0 {
            return;
        }
        let peers: Vec<_> = self
            .peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        for peer in peers {
            for lane in Lane::ALL
                .into_iter()
                .filter(|lane| tells_incarnation(*lane))
            {
                peer.finish(lane, DownReason::Local);
            }
        }
        self.finish_incoming(DownReason::Local, |_, lane| tells_incarnation(lane));
    }

    /// Whether a connection whose hello said `told` has been overtaken by [`Shared::set_incarnation`].
    pub(crate) fn is_outdated(&self, lane: Lane, told: Incarnation) -> bool {
        tells_incarnation(lane) && told.0 != self.incarnation.load(Ordering::SeqCst)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Ends when the transport stops.
    pub(crate) async fn stopping(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives in `self`, so the wait ends only by the signal.
        drop(stop.wait_for(|stop| *stop).await);
    }

    /// A token for a new task; `None` once the transport stops.
    pub(crate) fn alive(&self) -> Option<Alive> {
        self.alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) async fn shutdown(&self) {
        self.stop.send_replace(true);
        drop(
            self.alive
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let peers: Vec<_> = self
            .peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        for peer in peers {
            peer.stop(DownReason::Local);
        }
        self.finish_incoming(DownReason::Local, |_, _| true);
        for own in &self.own_lanes {
            own.queue.finish(DownReason::Local);
        }
        // No message ever comes: this waits until every task has dropped its token.
        let _ = self.all_ended.lock().await.recv().await;
    }
}

impl Slot {
    pub(crate) fn finish(&self, reason: DownReason) {
        let queue = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(queue) = queue {
            queue.finish(reason);
        }
    }
}

/// Lanes whose peers act on our incarnation; Raft and bulk transfers don't.
fn tells_incarnation(lane: Lane) -> bool {
    matches!(lane, Lane::Route | Lane::Gossip)
}
