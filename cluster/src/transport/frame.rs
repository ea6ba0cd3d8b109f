//! Frames: what one node says to another, and the fixed header in front of each.
//!
//! Pure: bytes in, headers out. The header stands before every body, big endian:
//!
//! ```text
//!  0        4      5       6           8       16         24
//!  | length | kind | flags | partition | epoch | sequence | body (length bytes)
//! ```
//!
//! `kind`, `partition`, `epoch`, `sequence` and the body belong to whoever sends; the transport reads only
//! the length and its own flags, and in a call uses `sequence` as the request's number.

use bytes::{BufMut, Bytes, BytesMut};

use crate::node_id::{Epoch, PartitionId};

/// Bytes of the header in front of every body.
pub const HEADER_BYTES: usize = 24;

/// One of the four connections to a peer. They are apart so that a snapshot can't delay a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Lane {
    /// Raft's own requests: heartbeats, appends, votes.
    Raft = 0,
    /// Links: proposals, deliveries, soft state.
    Route = 1,
    /// Snapshots and archive transfers.
    Bulk = 2,
    /// Gossip and the sign of life.
    Gossip = 3,
}

impl Lane {
    /// All lanes, in the order of their codes.
    pub const ALL: [Lane; 4] = [Lane::Raft, Lane::Route, Lane::Bulk, Lane::Gossip];

    /// The lane with this code on the wire.
    pub fn from_code(code: u8) -> Option<Lane> {
        Lane::ALL.get(usize::from(code)).copied()
    }

    /// The lane's code on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The lane's place in per-lane tables.
    pub(crate) fn index(self) -> usize {
        usize::from(self.code())
    }
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Lane::Raft => "raft",
            Lane::Route => "route",
            Lane::Bulk => "bulk",
            Lane::Gossip => "gossip",
        })
    }
}

/// Bits of the header's flags octet.
pub mod flags {
    /// The sender waits for a reply with the same sequence (set by the transport).
    pub const REQUEST: u8 = 0b0000_0001;
    /// The answer to the request with the same sequence (set by the transport).
    pub const REPLY: u8 = 0b0000_0010;
    /// A frame of the transport itself; `kind` is one of its own then.
    pub const CONTROL: u8 = 0b0000_0100;
    /// Bits that belong to the transport; what a caller sets there is cleared.
    pub const TRANSPORT: u8 = 0b0000_1111;
    /// Bits that callers may use as they like; they arrive as they were sent.
    pub const APPLICATION: u8 = 0b1111_0000;
}

/// One message between two nodes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// What the body is; the numbers belong to the layers above, one space per lane.
    pub kind: u8,
    /// Only [`flags::APPLICATION`] bits are the sender's; the others are cleared when sending.
    pub flags: u8,
    /// The partition the frame is about, or zero.
    pub partition: PartitionId,
    /// The epoch the sender believes in, or zero.
    pub epoch: Epoch,
    /// The sender's own number. In a call and its reply the transport uses this field, so what callers
    /// put there is lost.
    pub sequence: u64,
    /// The payload, opaque here.
    pub body: Bytes,
}

// Bodies hold messages and credentials: they are never printed.
impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("kind", &self.kind)
            .field("flags", &self.flags)
            .field("partition", &self.partition.0)
            .field("epoch", &self.epoch.0)
            .field("sequence", &self.sequence)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

impl Frame {
    /// A frame of this kind with this body, about nothing in particular.
    pub fn new(kind: u8, body: impl Into<Bytes>) -> Frame {
        Frame {
            kind,
            body: body.into(),
            ..Frame::default()
        }
    }

    /// Bytes it takes on the wire and in a queue's budget.
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// Writes the header; the body must be within its lane's limit.
    pub(crate) fn put_header(&self, out: &mut BytesMut) {
        // Lane limits are far below 4 GiB and checked before a frame is queued.
        out.put_u32(
            u32::try_from(self.body.len()).expect("a queued frame is within its lane's limit"),
        );
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_u16(self.partition.0);
        out.put_u64(self.epoch.0);
        out.put_u64(self.sequence);
    }
}

/// A header as read from the wire, its body not yet there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Bytes of body that follow.
    pub(crate) length: usize,
    kind: u8,
    flags: u8,
    partition: u16,
    epoch: u64,
    sequence: u64,
}

/// A peer announced a body larger than its lane allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("frame of {length} bytes, the lane allows {limit}")]
pub struct FrameTooLarge {
    /// The announced or attempted length.
    pub length: usize,
    /// The lane's limit.
    pub limit: usize,
}

impl Header {
    /// Reads a header and refuses a length above `body_max`, before anything is allocated for it.
    pub(crate) fn read(
        bytes: &[u8; HEADER_BYTES],
        body_max: usize,
    ) -> Result<Header, FrameTooLarge> {
        let [l0, l1, l2, l3, kind, flags, p0, p1, rest @ ..] = *bytes;
        let [
            e0,
            e1,
            e2,
            e3,
            e4,
            e5,
            e6,
            e7,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
        ] = rest;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if length > body_max {
            return Err(FrameTooLarge {
                length,
                limit: body_max,
            });
        }
        Ok(Header {
            length,
            kind,
            flags,
            partition: u16::from_be_bytes([p0, p1]),
            epoch: u64::from_be_bytes([e0, e1, e2, e3, e4, e5, e6, e7]),
            sequence: u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        })
    }

    /// The frame, once its body is there.
    pub(crate) fn with_body(self, body: Bytes) -> Frame {
        Frame {
            kind: self.kind,
            flags: self.flags,
            partition: PartitionId(self.partition),
            epoch: Epoch(self.epoch),
            sequence: self.sequence,
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use storage::codec::golden::Layout;

    proptest! {
        #[test]
        fn a_header_survives_the_wire(kind: u8, flags: u8, partition: u16, epoch: u64, sequence: u64, length in 0usize..2000) {
            let frame = Frame {
                kind, flags, partition: PartitionId(partition), epoch: Epoch(epoch), sequence,
                body: Bytes::from(vec![7; length]),
            };
            let mut out = BytesMut::new();
            frame.put_header(&mut out);
            let bytes: [u8; HEADER_BYTES] = out.as_ref().try_into().unwrap();
            let header = Header::read(&bytes, 2000).unwrap();
            prop_assert_eq!(header.length, length);
            prop_assert_eq!(header.with_body(frame.body.clone()), frame);
        }

        #[test]
        fn any_bytes_give_a_header_or_a_refusal(bytes: [u8; HEADER_BYTES], limit in 0usize..100_000) {
            match Header::read(&bytes, limit) {
                Ok(header) => prop_assert!(header.length <= limit),
                Err(refusal) => prop_assert!(refusal.length > limit),
            }
        }
    }

    #[test]
    fn golden_bytes_of_the_header() {
        let frame = Frame {
            kind: 1,
            flags: 0x12,
            partition: PartitionId(0x0304),
            epoch: Epoch(0x1112_1314_1516_1718),
            sequence: 0x2122_2324_2526_2728,
            body: Bytes::from(vec![7; 0x0001_0203]),
        };
        let mut written = BytesMut::new();
        frame.put_header(&mut written);
        let layout = Layout {
            name: "frame-header",
            version: 1,
            written: &written,
        };
        let read = |bytes: Vec<u8>| {
            let header = Header::read(bytes.first_chunk()?, usize::MAX).ok()?;
            assert_eq!(header.length, frame.body.len());
            Some(header.with_body(frame.body.clone()))
        };
        storage::golden_layout!("../../tests/goldens/wire.txt", layout, &frame, read);
    }

    #[test]
    fn bits_of_flags_stay() {
        use flags::{APPLICATION, CONTROL, REPLY, REQUEST, TRANSPORT};
        assert_eq!([REQUEST, REPLY, CONTROL], [1, 2, 4]);
        assert_eq!([TRANSPORT, APPLICATION], [0x0f, 0xf0]);
    }

    #[test]
    fn debug_never_shows_a_body() {
        let shown = format!("{:?}", Frame::new(1, "secret words"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn lanes_map_both_ways() {
        for lane in Lane::ALL {
            assert_eq!(Lane::from_code(lane.code()), Some(lane));
        }
        assert_eq!(Lane::from_code(4), None);
    }
}
