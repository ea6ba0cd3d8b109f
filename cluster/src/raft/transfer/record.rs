//! What is said between the two sides of a transfer. Stored form (version and checksum), since it goes to the disk unread.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::archive::{ArchiveRow, KeyExtent, MissingRows, Order, RowKind};
use storage::codec::Record;

use crate::raft::record::VoteRecord;

/// A leader offers a snapshot, and says that it still does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) vote: VoteRecord,
    /// Stands for the bytes of the file.
    pub(super) id: [u8; 32],
    /// The snapshot's mark: its place in the log, and the members as of there.
    pub(super) mark: Bytes,
    pub(super) file_bytes: u64,
    /// Whether rows of the archive belong to it.
    pub(super) has_archive: bool,
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct ProgressRecord {
    pub(super) index: u64,
    pub(super) bytes: u64,
    pub(super) bytes_total: u64,
    pub(super) keys: u64,
    pub(super) keys_total: u64,
    pub(super) rows: u64,
}

/// The receiver's answer to an offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum OfferReply {
    /// It is being pulled.
    Receiving(ProgressRecord),
    /// It is installed, or was not needed any more. The receiver's vote then.
    Installed(VoteRecord),
    /// A later leader or candidate is known.
    HigherVote(VoteRecord),
    /// Too many transfers are under way, or the disk has no room.
    Busy,
    /// The transfer failed; another offer begins it anew.
    Failed,
}

/// Asks for a part of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileQuery {
    pub(super) id: [u8; 32],
    pub(super) offset: u64,
}

/// A part of the file, empty at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileReply {
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// Asks for keys of the archive behind one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeysQuery {
    pub(super) id: [u8; 32],
    pub(super) after: Option<String>,
}

/// Keys in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeysReply {
    pub(super) keys: Vec<SentExtent>,
    /// There are no more.
    pub(super) ended: bool,
    /// Up to where the sender had applied its log when it looked, or a little further.
    pub(super) applied: u64,
}

/// A key with the first and last sequence of each kind of its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SentExtent {
    pub(super) key: String,
    pub(super) messages: Option<(u64, u64)>,
    pub(super) events: Option<(u64, u64)>,
}

/// Asks for rows that are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RowsQuery {
    pub(super) id: [u8; 32],
    pub(super) ranges: Vec<RangeRecord>,
}

/// A stretch of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RangeRecord {
    pub(super) key: String,
    pub(super) is_event: bool,
    pub(super) after: Option<u64>,
    pub(super) before: Option<u64>,
    pub(super) newest_first: bool,
}

/// The rows of the first ranges asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RowsReply {
    pub(super) ranges: Vec<Vec<SentRow>>,
    /// Whether the last of these ranges is complete; the ones before it are.
    pub(super) ended: bool,
}

/// A row of a range.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SentRow {
    pub(super) seq: u64,
    pub(super) time: u64,
    pub(super) peer: Option<String>,
    pub(super) record: Bytes,
}

// Records hold messages: they are never printed.
impl std::fmt::Debug for SentRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SentRow({}, {} bytes)", self.seq, self.record.len())
    }
}

macro_rules! records {
    ($($record:ident $name:literal;)*) => {
        $(impl Record for $record {
            const VERSION: u8 = 1;
            const NAME: &'static str = $name;
        })*
    };
}

records! {
    Offer "snapshot-offer";
    OfferReply "snapshot-offer-reply";
    FileQuery "snapshot-file-query";
    FileReply "snapshot-file-reply";
    KeysQuery "snapshot-keys-query";
    KeysReply "snapshot-keys-reply";
    RowsQuery "snapshot-rows-query";
    RowsReply "snapshot-rows-reply";
}

impl From<KeyExtent> for SentExtent {
    fn from(extent: KeyExtent) -> SentExtent {
        SentExtent {
            key: extent.key.as_ref().to_owned(),
            messages: extent.messages,
            events: extent.events,
        }
    }
}

impl From<SentExtent> for KeyExtent {
    fn from(sent: SentExtent) -> KeyExtent {
        KeyExtent {
            key: Arc::from(sent.key),
            messages: sent.messages,
            events: sent.events,
        }
    }
}

impl From<&MissingRows> for RangeRecord {
    fn from(missing: &MissingRows) -> RangeRecord {
        RangeRecord {
            key: missing.key.as_ref().to_owned(),
            is_event: missing.kind == RowKind::Event,
            after: missing.after,
            before: missing.before,
            newest_first: missing.order == Order::NewestFirst,
        }
    }
}

impl From<RangeRecord> for MissingRows {
    fn from(range: RangeRecord) -> MissingRows {
        MissingRows {
            key: Arc::from(range.key),
            kind: if range.is_event {
                RowKind::Event
            } else {
                RowKind::Message
            },
            after: range.after,
            before: range.before,
            order: if range.newest_first {
                Order::NewestFirst
            } else {
                Order::OldestFirst
            },
        }
    }
}

impl From<ArchiveRow> for SentRow {
    fn from(row: ArchiveRow) -> SentRow {
        SentRow {
            seq: row.seq,
            time: row.time,
            peer: row.peer.as_deref().map(str::to_owned),
            record: row.record,
        }
    }
}

impl SentRow {
    /// About what it takes on the wire.
    pub(super) fn bytes(&self) -> usize {
        40 + self.peer.as_ref().map_or(0, String::len) + self.record.len()
    }

    /// The row of these missing ones.
    pub(super) fn of(self, missing: &MissingRows) -> ArchiveRow {
        ArchiveRow {
            key: Arc::clone(&missing.key),
            kind: missing.kind,
            seq: self.seq,
            time: self.time,
            peer: self.peer.map(Arc::from),
            record: self.record,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_layouts_are_fixed() {
        let vote = VoteRecord {
            term: 7,
            node: 2,
            committed: true,
        };
        storage::golden!(
            "../../../tests/goldens/transfer.txt",
            &Offer {
                vote,
                id: [5; 32],
                mark: Bytes::from_static(b"mark"),
                file_bytes: 0x0102,
                has_archive: true,
            }
        );
        let progress = ProgressRecord {
            index: 1,
            bytes: 2,
            bytes_total: 3,
            keys: 4,
            keys_total: 5,
            rows: 6,
        };
        storage::golden!(
            "../../../tests/goldens/transfer.txt",
            &OfferReply::Receiving(progress)
        );
        let file = FileQuery {
            id: [5; 32],
            offset: 9,
        };
        storage::golden!("../../../tests/goldens/transfer.txt", &file);
        let file = FileReply {
            offset: 9,
            bytes: Bytes::from_static(b"part"),
        };
        storage::golden!("../../../tests/goldens/transfer.txt", &file);
        let keys = KeysQuery {
            id: [5; 32],
            after: Some("a@x".to_owned()),
        };
        storage::golden!("../../../tests/goldens/transfer.txt", &keys);
        let keys = KeysReply {
            keys: vec![SentExtent {
                key: "b@x".to_owned(),
                messages: Some((1, 2)),
                events: None,
            }],
            ended: true,
            applied: 8,
        };
        storage::golden!("../../../tests/goldens/transfer.txt", &keys);
        let rows = RowsQuery {
            id: [5; 32],
            ranges: vec![RangeRecord {
                key: "b@x".to_owned(),
                is_event: true,
                after: Some(3),
                before: None,
                newest_first: false,
            }],
        };
        storage::golden!("../../../tests/goldens/transfer.txt", &rows);
        let rows = RowsReply {
            ranges: vec![vec![SentRow {
                seq: 1,
                time: 2,
                peer: Some("c@x".to_owned()),
                record: Bytes::from_static(b"row"),
            }]],
            ended: false,
        };
        storage::golden!("../../../tests/goldens/transfer.txt", &rows);
    }

    #[test]
    fn debug_never_shows_a_row() {
        let row = SentRow {
            seq: 4,
            time: 2,
            peer: None,
            record: Bytes::from_static(b"secret words"),
        };
        assert_eq!(format!("{row:?}"), "SentRow(4, 12 bytes)");
    }
}
