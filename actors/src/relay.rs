//! One hop of relay: frames of the ROUTE lane between two nodes that don't meet, by way of a third that meets both.
//!
//! ```text
//!   A ── asked, to B ──► C ── carried, from A ──► B takes it as if A had sent it
//!     ◄── not carried ──┘ (B is not reached, or too much waits for it)
//! ```
//!
//! Invariant: a frame is carried at most once. What is marked as carried is for its receiver and is never sent on, and
//! only members' frames are carried. What waits for B's connection is bounded, so that what others send by way of C
//! can't crowd out what C has to say. A frame that is lost on the way is missed like any other: by its number.

use bytes::Bytes;
use cluster::link::protocol::RouteKind;
use cluster::node_id::{Epoch, NodeId, PartitionId};
use cluster::transport::{Frame, Lane, SendError, Transport};

/// Please carry this on to the node that `sequence` names.
const ASKED: u8 = 0b0001_0000;

/// This comes from the node that `sequence` names.
const CARRIED: u8 = 0b0010_0000;

/// The kind of the frame that says: the node that `sequence` names could not be reached. Its body is the lost frame's kind.
pub(crate) const NOT_CARRIED: u8 = 17;

/// The most bytes that may wait for a connection before nothing is carried on it: half of what it takes.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Where a frame that has arrived belongs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// Here; it comes from this node.
    Here(NodeId),
    /// To this node, by one hop.
    On(NodeId),
    /// Nowhere: no member made it so.
    Nowhere,
}

/// Where a frame belongs that `from` has sent us.
pub(crate) fn road(
    own: NodeId,
    from: NodeId,
    frame: &Frame,
    is_member: impl Fn(NodeId) -> bool,
) -> Road {
    let named = NodeId(frame.sequence);
    let is_other = is_member(named) && named != own && named != from;
    match frame.flags & (ASKED | CARRIED) {
        0 => Road::Here(from),
        ASKED if is_other => Road::On(named),
        CARRIED if is_other => Road::Here(named),
        _ => Road::Nowhere,
    }
}

/// The frame that asks a relay to carry this one on.
pub(crate) fn asking(mut frame: Frame, to: NodeId) -> Frame {
    frame.flags |= ASKED;
    frame.sequence = to.0;
    frame
}

/// Carries a frame on, or says that it can't.
///
/// # Errors
/// When not even that could be said: the frame is lost, and whoever waits for it finds out.
pub(crate) fn carry(
    transport: &Transport,
    from: NodeId,
    to: NodeId,
    mut frame: Frame,
) -> Result<(), SendError> {
    let refusal = Frame {
        kind: NOT_CARRIED,
        sequence: to.0,
        body: Bytes::copy_from_slice(&[frame.kind]),
        partition: frame.partition,
        epoch: frame.epoch,
        flags: 0,
    };
    // What we said to ourselves we say ourselves.
    (frame.flags, frame.sequence) = if from == transport.node() {
        (0, 0)
    } else {
        (CARRIED, from.0)
    };
    let waits = transport.queued_bytes(to, Lane::Route);
    if waits <= WAITING_BYTES_MAX && transport.send(to, Lane::Route, frame).is_ok() {
        return Ok(());
    }
    transport.send(from, Lane::Route, refusal)
}

/// What a relay could not carry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotCarried {
    pub(crate) to: NodeId,
    pub(crate) kind: Option<RouteKind>,
    pub(crate) partition: PartitionId,
    pub(crate) epoch: Epoch,
}

/// What a [`NOT_CARRIED`] frame says.
pub(crate) fn not_carried(frame: &Frame) -> NotCarried {
    NotCarried {
        to: NodeId(frame.sequence),
        kind: frame.body.first().copied().and_then(RouteKind::from_u8),
        partition: frame.partition,
        epoch: frame.epoch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_hop_between_members() {
        let (own, from) = (NodeId(3), NodeId(1));
        let check = |flags: u8, named: u64, expect: Road| {
            let frame = Frame {
                flags,
                sequence: named,
                ..Frame::new(1, Bytes::new())
            };
            let is_member = |node: NodeId| (1..=4).contains(&node.0);
            let road = road(own, from, &frame, is_member);
            assert_eq!(road, expect, "{flags:#b} {named}");
        };
        check(0, 0, Road::Here(from));
        check(0, 2, Road::Here(from));
        // Asked for a third node; not for ourselves, its sender, or a stranger.
        check(ASKED, 2, Road::On(NodeId(2)));
        for named in [0, 1, 3, 9] {
            check(ASKED, named, Road::Nowhere);
            check(CARRIED, named, Road::Nowhere);
        }
        // What was carried stays here, whatever else it claims.
        check(CARRIED, 2, Road::Here(NodeId(2)));
        check(ASKED | CARRIED, 2, Road::Nowhere);
    }

    #[test]
    fn asking_keeps_all_but_the_number() {
        let frame = Frame {
            partition: PartitionId(5),
            epoch: Epoch(77),
            ..Frame::new(2, Bytes::from_static(b"body"))
        };
        let asked = asking(frame.clone(), NodeId(2));
        assert_eq!(
            road(NodeId(3), NodeId(1), &asked, |_| true),
            Road::On(NodeId(2))
        );
        let back = Frame {
            flags: 0,
            sequence: 0,
            ..asked
        };
        assert_eq!(back, frame);
    }
}
