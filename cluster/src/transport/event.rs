//! What the transport tells about its connections, and the trait through which it tells.

use crate::node_id::{Incarnation, NodeId};
use crate::transport::calls::Reply;
use crate::transport::frame::{Frame, Lane};
use crate::version::VersionRange;

/// Who opened a connection. Each node opens its own: what A asks B travels on A's, and so do B's replies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// We opened it: frames can be sent to the peer.
    Outgoing,
    /// The peer opened it: its frames will arrive.
    Incoming,
}

/// A connection began or ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    /// The connection is authenticated and ready. An outgoing one takes frames already while the handler
    /// hears of it. For an incoming one no frame of any earlier connection
    /// of this node and lane is delivered after this.
    Up {
        /// The peer.
        node: NodeId,
        /// The lane.
        lane: Lane,
        /// Who opened it.
        direction: Direction,
        /// The peer's process life, as it said in its hello.
        incarnation: Incarnation,
        /// Rises with every connection of this transport; tells a replaced connection from its successor.
        generation: u64,
        /// The protocol version both agreed on.
        protocol: u16,
    },
    /// The connection is over; calls in flight on it have failed and its queue is dropped.
    Down {
        /// The peer.
        node: NodeId,
        /// The lane.
        lane: Lane,
        /// Who opened it.
        direction: Direction,
        /// The generation its `Up` carried.
        generation: u64,
        /// Why it ended.
        reason: DownReason,
    },
}

impl PeerEvent {
    /// The peer the event is about.
    pub fn node(&self) -> NodeId {
        match self {
            PeerEvent::Up { node, .. } | PeerEvent::Down { node, .. } => *node,
        }
    }

    /// The lane the event is about.
    pub fn lane(&self) -> Lane {
        match self {
            PeerEvent::Up { lane, .. } | PeerEvent::Down { lane, .. } => *lane,
        }
    }

    /// Who opened the connection.
    pub fn direction(&self) -> Direction {
        match self {
            PeerEvent::Up { direction, .. } | PeerEvent::Down { direction, .. } => *direction,
        }
    }
}

/// Why a connection ended. [`DownReason::is_crash_sign`] picks those that suggest a dead process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DownReason {
    /// The peer's kernel reset it.
    Reset,
    /// The peer's end closed without a goodbye.
    Eof,
    /// No sign of life for too long.
    Timeout,
    /// The peer said goodbye: it stops on purpose.
    Goodbye,
    /// A newer connection of the same node and lane took its place.
    Replaced,
    /// The peer is no longer among the peers or members.
    Removed,
    /// We closed it: shutdown, or a new incarnation of our own.
    Local,
    /// The peer broke the protocol: an oversized frame, or a flag it may not set.
    Protocol,
    /// Any other input or output error.
    Io,
}

impl DownReason {
    /// Whether a dying process would look like this: worth a [`probe`](crate::transport::Transport::probe).
    pub fn is_crash_sign(self) -> bool {
        matches!(self, DownReason::Reset | DownReason::Eof)
    }
}

impl std::fmt::Display for DownReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DownReason::Reset => "reset",
            DownReason::Eof => "end of stream",
            DownReason::Timeout => "no sign of life",
            DownReason::Goodbye => "goodbye",
            DownReason::Replaced => "replaced",
            DownReason::Removed => "removed",
            DownReason::Local => "closed here",
            DownReason::Protocol => "protocol broken",
            DownReason::Io => "input or output error",
        })
    }
}

/// The layer above. Called from the transport's own tasks, so nothing here may block or wait; queue and
/// return. Calls for one (node, lane, direction) come in order and never overlap.
pub trait FrameHandler: Send + Sync + 'static {
    /// A frame arrived. `reply` is there when the sender waits for an answer; dropping it unanswered tells
    /// the sender at once that none will come.
    fn on_frame(&self, from: NodeId, lane: Lane, frame: Frame, reply: Option<Reply>);

    /// A connection began or ended.
    fn on_peer(&self, event: PeerEvent);

    /// Whether the node is a member of the pool; others are refused before any frame is read.
    fn is_member(&self, node: NodeId) -> bool;

    /// A try to connect to a peer has ended: whether it refused us because we are no member.
    fn on_stranger(&self, _peer: NodeId, _refused: bool) {}

    /// The same: the versions that the peer speaks, if it speaks none that we do.
    fn on_skew(&self, _peer: NodeId, _theirs: Option<VersionRange>) {}
}
