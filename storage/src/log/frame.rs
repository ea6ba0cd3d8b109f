//! The frame codec: how one record of the log looks on disk. Pure.
//!
//! ```text
//!  0 crc32c u32 | 4 tag u32 | 8 body length u32 | 12 kind u8, zeroes
//! 16 number u64 | 24 sequence u64  | 32 group u32      | 36 place in its write u32 | 40 body … | zeroes to a multiple of 8
//! ```
//!
//! The checksum is seeded with the segment's salt and covers everything behind it, so a frame left over from an earlier use
//! of a recycled segment never passes; the tag comes from the salt too, so no payload can look like a frame. `number` counts all frames of the log, `sequence` those of one group: a hole in the
//! first says that something was lost, a hole in the second says whose. `number - place` is the first frame of the write
//! the frame belongs to; every frame before that was on disk when this one was written (see [`Meta::synced_before`]).

use super::GroupId;

/// Bytes in front of a frame's body.
pub(super) const FRAME_HEADER_BYTES: usize = 40;
/// Frames start at multiples of this, which bounds the search behind a damaged one.
pub(super) const FRAME_ALIGN: usize = 8;
/// The pseudo-group of frames that belong to the log itself.
pub(super) const NODE: GroupId = GroupId(u32::MAX);
/// Bytes an entry takes on disk besides its payload, at most.
pub(super) const ENTRY_OVERHEAD: usize = FRAME_HEADER_BYTES + 16 + FRAME_ALIGN;

/// Where a frame stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// Position among all frames of the log.
    pub(super) number: u64,
    /// All frames below this number had been fdatasynced before this one was written.
    pub(super) synced_before: u64,
    /// Whose frame it is.
    pub(super) group: GroupId,
    /// Position among the frames of its group.
    pub(super) sequence: u64,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// An entry appended behind the last one.
    Entry {
        index: u64,
        term: u64,
        payload: &'a [u8],
    },
    /// An entry that already is in the log, moved here so that its old segment can be freed.
    Copy {
        index: u64,
        term: u64,
        payload: &'a [u8],
    },
    Vote(&'a [u8]),
    Committed(&'a [u8]),
    /// Entries behind `after` (all, if none) are gone.
    Truncate {
        after: Option<u64>,
    },
    /// Entries up to `upto` are gone; `purged` is the caller's name for that point.
    Purge {
        upto: u64,
        purged: &'a [u8],
    },
    /// A group's whole state but its entries, repeated at each segment's head.
    GroupHead(GroupHead<'a>),
    /// First frame of a segment; `groups` heads follow it.
    NodeHead {
        groups: u32,
        suspect_unknown: bool,
    },
    /// Written behind a finished fdatasync, as evidence of it.
    Mark,
    /// Last frame of a segment that has a successor.
    Seal {
        next: u32,
    },
    Quarantine {
        on: bool,
    },
    /// The group is gone from this node.
    DropGroup,
    /// A damaged log has been rewritten completely, earlier segments are void.
    RewriteEnd,
}

/// The state of a group at a segment's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupHead<'a> {
    /// Index of the first entry that is not purged, present or not.
    pub(super) first: u64,
    /// One more than the last entry's index; equals `first` when there is none.
    pub(super) next: u64,
    pub(super) quarantined: bool,
    pub(super) vote: Option<&'a [u8]>,
    pub(super) committed: Option<&'a [u8]>,
    pub(super) purged: Option<&'a [u8]>,
}

/// A frame that passed its checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) meta: Meta,
    pub(super) record: Record<'a>,
    /// Bytes it takes on disk, padding included.
    pub(super) bytes: usize,
}

/// What makes a segment's frames its own: its id and its salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    tag: u32,
    seed: u32,
}

impl Stamp {
    pub(super) fn new(segment: u32, salt: u64) -> Self {
        let salt = (salt ^ u64::from(segment)).to_le_bytes();
        let seed = crc32c::crc32c(&salt);
        Self {
            tag: crc32c::crc32c_append(seed, &salt),
            seed,
        }
    }

    /// Appends the frame to `buffer` and returns the bytes added.
    pub(super) fn encode(&self, buffer: &mut Vec<u8>, meta: Meta, record: &Record<'_>) -> usize {
        let start = buffer.len();
        let place = u32::try_from(meta.number - meta.synced_before)
            .expect("a write holds fewer than 2^32 frames");
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend_from_slice(&self.tag.to_le_bytes());
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend_from_slice(&[record.kind(), 0, 0, 0]);
        buffer.extend_from_slice(&meta.number.to_le_bytes());
        buffer.extend_from_slice(&meta.sequence.to_le_bytes());
        buffer.extend_from_slice(&meta.group.0.to_le_bytes());
        buffer.extend_from_slice(&place.to_le_bytes());
        record.encode_body(buffer);
        let body = buffer.len() - start - FRAME_HEADER_BYTES;
        let length = u32::try_from(body).expect("records are limited far below 4 GiB");
        buffer[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(self.seed, &buffer[start + 4..]);
        buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        buffer.resize(start + frame_bytes(body), 0);
        buffer.len() - start
    }

    /// The frame that starts at `bytes`' beginning, if a valid one does.
    pub(super) fn decode<'a>(&self, bytes: &'a [u8]) -> Option<Frame<'a>> {
        let mut header = Reader(bytes.get(..FRAME_HEADER_BYTES)?);
        let crc = header.u32()?;
        if header.u32()? != self.tag {
            return None;
        }
        let body_bytes = usize::try_from(header.u32()?).ok()?;
        let [kind, 0, 0, 0] = header.u32()?.to_le_bytes() else {
            return None;
        };
        let number = header.u64()?;
        let sequence = header.u64()?;
        let group = GroupId(header.u32()?);
        let place = header.u32()?;
        let end = FRAME_HEADER_BYTES.checked_add(body_bytes)?;
        // The padding too must be there, or the frame was cut off and its place could not be read.
        let bytes = bytes.get(..end.checked_next_multiple_of(FRAME_ALIGN)?)?;
        if crc32c::crc32c_append(self.seed, bytes.get(4..end)?) != crc {
            return None;
        }
        let record = Record::decode(kind, bytes.get(FRAME_HEADER_BYTES..end)?)?;
        let synced_before = number.checked_sub(u64::from(place))?;
        let bytes = bytes.len();
        Some(Frame {
            meta: Meta {
                number,
                synced_before,
                group,
                sequence,
            },
            record,
            bytes,
        })
    }
}

/// Bytes on disk of a frame whose body has `body` bytes.
pub(super) fn frame_bytes(body: usize) -> usize {
    (FRAME_HEADER_BYTES + body).next_multiple_of(FRAME_ALIGN)
}

impl<'a> Record<'a> {
    fn kind(&self) -> u8 {
        match self {
            Self::Entry { .. } => 1,
            Self::Copy { .. } => 2,
            Self::Vote(_) => 3,
            Self::Committed(_) => 4,
            Self::Truncate { .. } => 5,
            Self::Purge { .. } => 6,
            Self::GroupHead(_) => 7,
            Self::NodeHead { .. } => 8,
            Self::Mark => 9,
            Self::Seal { .. } => 10,
            Self::Quarantine { .. } => 11,
            Self::DropGroup => 12,
            Self::RewriteEnd => 13,
        }
    }

    /// Bytes this record's frame takes on disk.
    pub(super) fn bytes(&self) -> usize {
        frame_bytes(match self {
            Self::Entry { payload, .. } | Self::Copy { payload, .. } => 16 + payload.len(),
            Self::Vote(bytes) | Self::Committed(bytes) => bytes.len(),
            Self::Truncate { .. } => 9,
            Self::Purge { purged, .. } => 8 + purged.len(),
            Self::GroupHead(head) => {
                let opaque = [head.vote, head.committed, head.purged];
                17 + opaque
                    .iter()
                    .map(|bytes| 5 + bytes.map_or(0, <[u8]>::len))
                    .sum::<usize>()
            }
            Self::NodeHead { .. } => 5,
            Self::Mark | Self::DropGroup | Self::RewriteEnd => 0,
            Self::Seal { .. } => 4,
            Self::Quarantine { .. } => 1,
        })
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry {
                index,
                term,
                payload,
            }
            | Self::Copy {
                index,
                term,
                payload,
            } => {
                out.extend_from_slice(&index.to_le_bytes());
                out.extend_from_slice(&term.to_le_bytes());
                out.extend_from_slice(payload);
            }
            Self::Vote(bytes) | Self::Committed(bytes) => out.extend_from_slice(bytes),
            Self::Truncate { after } => {
                out.push(u8::from(after.is_some()));
                out.extend_from_slice(&after.unwrap_or(0).to_le_bytes());
            }
            Self::Purge { upto, purged } => {
                out.extend_from_slice(&upto.to_le_bytes());
                out.extend_from_slice(purged);
            }
            Self::GroupHead(head) => {
                out.extend_from_slice(&head.first.to_le_bytes());
                out.extend_from_slice(&head.next.to_le_bytes());
                out.push(u8::from(head.quarantined));
                for bytes in [head.vote, head.committed, head.purged] {
                    let length = u32::try_from(bytes.map_or(0, <[u8]>::len))
                        .expect("opaque records are limited");
                    out.push(u8::from(bytes.is_some()));
                    out.extend_from_slice(&length.to_le_bytes());
                    out.extend_from_slice(bytes.unwrap_or(&[]));
                }
            }
            Self::NodeHead {
                groups,
                suspect_unknown,
            } => {
                out.extend_from_slice(&groups.to_le_bytes());
                out.push(u8::from(*suspect_unknown));
            }
            Self::Mark | Self::DropGroup | Self::RewriteEnd => {}
            Self::Seal { next } => out.extend_from_slice(&next.to_le_bytes()),
            Self::Quarantine { on } => out.push(u8::from(*on)),
        }
    }

    fn decode(kind: u8, body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(body);
        let record = match kind {
            1 => Self::Entry {
                index: reader.u64()?,
                term: reader.u64()?,
                payload: reader.rest(),
            },
            2 => Self::Copy {
                index: reader.u64()?,
                term: reader.u64()?,
                payload: reader.rest(),
            },
            3 => Self::Vote(reader.rest()),
            4 => Self::Committed(reader.rest()),
            5 => {
                let some = reader.flag()?;
                let index = reader.u64()?;
                Self::Truncate {
                    after: some.then_some(index),
                }
            }
            6 => Self::Purge {
                upto: reader.u64()?,
                purged: reader.rest(),
            },
            7 => Self::GroupHead(GroupHead {
                first: reader.u64()?,
                next: reader.u64()?,
                quarantined: reader.flag()?,
                vote: reader.opaque()?,
                committed: reader.opaque()?,
                purged: reader.opaque()?,
            }),
            8 => Self::NodeHead {
                groups: reader.u32()?,
                suspect_unknown: reader.flag()?,
            },
            9 => Self::Mark,
            10 => Self::Seal {
                next: reader.u32()?,
            },
            11 => Self::Quarantine { on: reader.flag()? },
            12 => Self::DropGroup,
            13 => Self::RewriteEnd,
            _ => return None,
        };
        reader.0.is_empty().then_some(record)
    }
}

/// Reads little-endian fields off the front of a slice.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(bytes)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn flag(&mut self) -> Option<bool> {
        match self.take(1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn opaque(&mut self) -> Option<Option<&'a [u8]>> {
        let some = self.flag()?;
        let length = usize::try_from(self.u32()?).ok()?;
        let bytes = self.take(length)?;
        Some(some.then_some(bytes))
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::golden::Layout;

    fn meta(number: u64, place: u64) -> Meta {
        Meta {
            number,
            synced_before: number - place,
            group: GroupId(7),
            sequence: 3,
        }
    }

    #[track_caller]
    fn check(record: Record<'_>) {
        let stamp = Stamp::new(9, 0x1234_5678_9abc_def0);
        let mut buffer = vec![0xee; 8];
        let bytes = stamp.encode(&mut buffer, meta(40, 4), &record);
        assert_eq!(bytes, record.bytes());
        assert_eq!(bytes % FRAME_ALIGN, 0);
        let frame = stamp
            .decode(&buffer[8..])
            .expect("what was encoded decodes");
        assert_eq!(
            frame,
            Frame {
                meta: meta(40, 4),
                record,
                bytes
            }
        );
        for other in [Stamp::new(10, 0x1234_5678_9abc_def0), Stamp::new(9, 1)] {
            assert_eq!(
                other.decode(&buffer[8..]),
                None,
                "a frame is valid only under its own segment's stamp"
            );
        }
        for bit in 0..(FRAME_HEADER_BYTES * 8) {
            let mut flipped = buffer[8..].to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(stamp.decode(&flipped), None, "bit {bit}");
        }
    }

    /// Records of every kind, under the names of their golden lines.
    fn samples() -> Vec<(&'static str, Record<'static>)> {
        let (index, term, payload) = (0x0102_0304_0506_0708, 0x1112, &b"payload"[..]);
        let head = GroupHead {
            first: 0x0102_0304_0506_0708,
            next: u64::MAX,
            quarantined: true,
            vote: Some(b"v"),
            committed: None,
            purged: Some(b""),
        };
        let entry = |index, term, payload| Record::Entry {
            index,
            term,
            payload,
        };
        let copy = Record::Copy {
            index,
            term,
            payload,
        };
        let purge = Record::Purge {
            upto: 7,
            purged: b"id",
        };
        let node_head = Record::NodeHead {
            groups: 0x0102_0304,
            suspect_unknown: true,
        };
        vec![
            ("frame-entry", entry(index, term, payload)),
            ("frame-entry-empty", entry(0, 0, b"")),
            ("frame-copy", copy),
            ("frame-vote", Record::Vote(b"vote")),
            ("frame-committed", Record::Committed(b"mark")),
            ("frame-committed-empty", Record::Committed(b"")),
            ("frame-truncate-all", Record::Truncate { after: None }),
            ("frame-truncate", Record::Truncate { after: Some(258) }),
            ("frame-purge", purge),
            ("frame-group-head", Record::GroupHead(head)),
            ("frame-node-head", node_head),
            ("frame-mark", Record::Mark),
            ("frame-seal", Record::Seal { next: 0x0102 }),
            ("frame-quarantine", Record::Quarantine { on: true }),
            ("frame-quarantine-off", Record::Quarantine { on: false }),
            ("frame-drop-group", Record::DropGroup),
            ("frame-rewrite-end", Record::RewriteEnd),
        ]
    }

    /// A new kind does not compile without having been added here; add it to [`samples`] then.
    fn is_sampled(record: &Record<'_>) {
        match record {
            Record::Entry { .. }
            | Record::Copy { .. }
            | Record::Vote(_)
            | Record::Committed(_)
            | Record::Truncate { .. }
            | Record::Purge { .. }
            | Record::GroupHead(_)
            | Record::NodeHead { .. }
            | Record::Mark
            | Record::Seal { .. }
            | Record::Quarantine { .. }
            | Record::DropGroup
            | Record::RewriteEnd => {}
        }
    }

    #[test]
    fn every_record_survives_the_round_trip() {
        for (_, record) in samples() {
            check(record);
        }
    }

    #[test]
    fn golden_bytes_of_frames() {
        let stamp = Stamp::new(9, 0x1234_5678_9abc_def0);
        let meta = Meta {
            number: 0x2122_2324_2526_2728,
            synced_before: 0x2122_2324_2526_2724,
            group: GroupId(0x3132_3334),
            sequence: 0x4142_4344_4546_4748,
        };
        for (name, record) in samples() {
            is_sampled(&record);
            let mut written = Vec::new();
            let bytes = stamp.encode(&mut written, meta, &record);
            let frame = Frame {
                meta,
                record,
                bytes,
            };
            let layout = Layout {
                name,
                version: 1,
                written: &written,
            };
            crate::golden_layout!("../../tests/goldens/log.txt", layout, &frame, |bytes| {
                stamp.decode(bytes.leak())
            });
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..16) {
            let stamp = Stamp::new(1, 1);
            let mut framed = bytes.clone();
            if framed.len() >= 16 {
                framed[4..8].copy_from_slice(&stamp.tag.to_le_bytes());
                framed[12..16].copy_from_slice(&[kind, 0, 0, 0]);
            }
            prop_assert_eq!(stamp.decode(&framed), None);
            if let Some(record) = Record::decode(kind, &bytes) {
                let mut again = Vec::new();
                record.encode_body(&mut again);
                prop_assert_eq!(Record::decode(kind, &again), Some(record));
            }
        }
    }
}
