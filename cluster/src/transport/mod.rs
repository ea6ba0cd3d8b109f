//! The transport between nodes: mutual TLS 1.3 over TCP, four lanes a peer, ordered frames and calls.
//!
//! Every ordered pair of nodes has its own connections: A opens four to B for what A sends, B's replies
//! return on them; B opens four more for its own. Each connection starts with TLS (`tls`), then a hello
//! both ways (`hello`), then frames (`frame`). What waits for a connection's writer is bounded in bytes;
//! a full or missing connection is an error at once, never a wait. While a lane is connected its frames
//! arrive in order; when the connection ends, what was queued is dropped and calls in flight end with
//! [`CallError::Lost`]. Layers above that need more (links) number their frames and resend.
//!
//! ```text
//!  send ──► queue ──► writer ══ TLS ══► reader ──► FrameHandler::on_frame
//!  call ──► queue ──► writer ══ TLS ══► reader ──► FrameHandler::on_frame + Reply
//!     ◄── calls ◄──── reader ◄═ TLS ═══ writer ◄── queue ◄────────────────────┘
//! ```
//!
//! Frames to the own node take the same handler without TCP ([`loopback`]). All tasks run on the runtime that
//! [`Transport::start`] was called on, or for the ROUTE lane on those of [`TransportConfig::route_runtimes`]; the other
//! methods may be called from any thread.

mod accept;
mod calls;
mod config;
mod connection;
mod control;
mod dial;
mod error;
mod event;
mod frame;
mod hello;
mod loopback;
mod peer;
mod queue;
mod shared;
mod socket;
mod tls;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

pub use calls::Reply;
pub use config::{LaneLimits, TransportConfig, TransportLimits};
pub use error::{CallError, ConnectError, ProbeError, SendError, TransportError};
pub use event::{Direction, DownReason, FrameHandler, PeerEvent};
pub use frame::{Frame, FrameTooLarge, HEADER_BYTES, Lane, flags};
pub use hello::{HelloError, Refusal};
pub use tls::{ClusterTls, certificate_name};

use crate::net::TcpListener;
use crate::node_id::{Incarnation, NodeId};
use shared::Shared;

/// A handle on the node's transport; clones share it. Dropping handles closes nothing:
/// [`Transport::shutdown`] does.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
    listening: SocketAddr,
}

impl Transport {
    /// Opens the cluster port and starts to accept members. Nobody is dialled before
    /// [`Transport::set_peers`].
    pub async fn start(
        config: TransportConfig,
        handler: Arc<dyn FrameHandler>,
    ) -> Result<Transport, TransportError> {
        let address = config.listen;
        let (shared, alive) = Shared::new(config, handler)?;
        let bind = |source| TransportError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let listening = listener.local_addr().map_err(bind)?;
        loopback::start(&shared, &alive);
        tokio::spawn(accept::accept_all(shared.clone(), listener, alive));
        Ok(Transport { shared, listening })
    }

    /// The address we listen on, with the port the system picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.listening
    }

    /// Our own id.
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// Replaces the set of nodes we keep connections to, each as `host:port`. Connections to nodes that are
    /// gone from it end, and so do those of nodes that [`FrameHandler::is_member`] no longer knows. A changed
    /// address is used from the next connection on. The own node is skipped.
    pub fn set_peers(&self, peers: &[(NodeId, String)]) {
        peer::set_peers(&self.shared, peers);
    }

    /// Queues a frame that wants no reply. `Ok` means queued: it arrives in order unless the connection ends.
    pub fn send(&self, to: NodeId, lane: Lane, mut frame: Frame) -> Result<(), SendError> {
        frame.flags &= flags::APPLICATION;
        self.shared.outgoing(to, lane)?.queue.push(frame)
    }

    /// Sends a request and waits for its reply; any number may be in flight up to
    /// [`TransportLimits::calls_max`]. Requests and one-way frames of a lane stay in order with each other.
    /// Dropping the future forgets the call, it does not recall the request.
    pub async fn call(
        &self,
        to: NodeId,
        lane: Lane,
        frame: Frame,
        timeout: Duration,
    ) -> Result<Frame, CallError> {
        let mut waiting = {
            let outgoing = self.shared.outgoing(to, lane)?;
            outgoing.calls.begin(&outgoing.queue, frame)?
        };
        match tokio::time::timeout(timeout, waiting.answer()).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Timeout(timeout)),
        }
    }

    /// Whether frames can be sent to the node on this lane now.
    pub fn connected(&self, to: NodeId, lane: Lane) -> bool {
        self.shared
            .outgoing(to, lane)
            .is_ok_and(|outgoing| outgoing.queue.is_open())
    }

    /// Bytes that wait for the lane's writer; zero when it is not connected.
    pub fn queued_bytes(&self, to: NodeId, lane: Lane) -> usize {
        self.shared
            .outgoing(to, lane)
            .map_or(0, |outgoing| outgoing.queue.bytes())
    }

    /// The same events as [`FrameHandler::on_peer`]. Who falls 1,024 events behind gets `Lagged` and should
    /// ask [`Transport::connected`] anew.
    pub fn subscribe(&self) -> broadcast::Receiver<PeerEvent> {
        self.shared.events.subscribe()
    }

    /// Opens a fresh connection, says hello and closes: is that node's process there? Used after a
    /// [crash sign](DownReason::is_crash_sign) to tell a dead process from a broken connection.
    pub async fn probe(&self, to: NodeId, timeout: Duration) -> Result<(), ProbeError> {
        dial::probe(&self.shared, to, timeout).await
    }

    /// Our incarnation became known (its start entry is committed). ROUTE and GOSSIP connect anew in both
    /// directions, since their hellos told the old one.
    pub fn set_incarnation(&self, incarnation: Incarnation) {
        self.shared.set_incarnation(incarnation);
    }

    /// The version agreed with a node on this lane, if it is connected: what both ends can read.
    pub fn protocol(&self, to: NodeId, lane: Lane) -> Option<u16> {
        let outgoing = self.shared.outgoing(to, lane).ok()?;
        Some(outgoing.protocol)
    }

    /// The pool has finalised a version: nothing older is spoken from now on, with anybody. Connections on which something
    /// older was agreed end.
    pub fn speak_from(&self, version: u16) {
        self.shared.speak_from(version);
    }

    /// Takes new certificates for every connection from now on; those that are open stay.
    pub fn reload_tls(&self, tls: &ClusterTls) -> Result<(), TransportError> {
        self.shared.reload_tls(tls)
    }

    /// Says goodbye on every connection after flushing what is queued (bounded by
    /// [`TransportLimits::linger`]), and closes the port.
    pub async fn shutdown(&self) {
        self.shared.shutdown().await;
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("node", &self.shared.node)
            .field("listening", &self.listening)
            .finish()
    }
}
