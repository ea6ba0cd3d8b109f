//! The records in a backup's files.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storage::archive::{ArchiveRow, RowKind, RowPosition};
use storage::codec::Record;

use crate::raft::CommittedEntry;

/// Rows of a partition's archive, in the order of its listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsBlock {
    /// The partition.
    pub partition: u16,
    /// The rows.
    pub rows: Vec<BackedUpRow>,
    /// There are no more.
    pub ended: bool,
}

/// A row of the archive.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpRow {
    /// An event, else a message.
    pub is_event: bool,
    /// Whose archive.
    pub key: String,
    /// Its place there.
    pub seq: u64,
    /// When, in ms since 1970.
    pub time: u64,
    /// The other side.
    pub peer: Option<String>,
    /// The record's bytes.
    pub record: Bytes,
}

// Records hold messages: they are never printed.
impl std::fmt::Debug for BackedUpRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "BackedUpRow({}, {}, {} bytes)",
            self.key,
            self.seq,
            self.record.len()
        )
    }
}

impl From<ArchiveRow> for BackedUpRow {
    fn from(row: ArchiveRow) -> BackedUpRow {
        BackedUpRow {
            is_event: row.kind == RowKind::Event,
            key: row.key.as_ref().to_owned(),
            seq: row.seq,
            time: row.time,
            peer: row.peer.as_deref().map(str::to_owned),
            record: row.record,
        }
    }
}

impl From<BackedUpRow> for ArchiveRow {
    fn from(row: BackedUpRow) -> ArchiveRow {
        ArchiveRow {
            key: Arc::from(row.key),
            kind: kind(row.is_event),
            seq: row.seq,
            time: row.time,
            peer: row.peer.map(Arc::from),
            record: row.record,
        }
    }
}

fn kind(is_event: bool) -> RowKind {
    match is_event {
        true => RowKind::Event,
        false => RowKind::Message,
    }
}

/// A place in the listing of a partition's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowPlace {
    /// An event, else a message.
    pub is_event: bool,
    /// Whose archive.
    pub key: String,
    /// The place there.
    pub seq: u64,
}

impl From<&BackedUpRow> for RowPlace {
    fn from(row: &BackedUpRow) -> RowPlace {
        RowPlace {
            is_event: row.is_event,
            key: row.key.clone(),
            seq: row.seq,
        }
    }
}

impl From<&RowPlace> for RowPosition {
    fn from(place: &RowPlace) -> RowPosition {
        RowPosition {
            kind: kind(place.is_event),
            key: Arc::from(place.key.as_str()),
            seq: place.seq,
        }
    }
}

/// Committed entries of a partition's log, without holes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntriesBlock {
    /// The partition.
    pub partition: u16,
    /// The index of the first one.
    pub first: u64,
    /// What was proposed; nothing: an entry of Raft's own.
    pub payloads: Vec<Option<Bytes>>,
}

impl EntriesBlock {
    /// The entries with their places. Their terms are of the old pool, and no longer known.
    pub fn entries(self) -> impl Iterator<Item = CommittedEntry> {
        (self.first..)
            .zip(self.payloads)
            .map(|(index, payload)| CommittedEntry {
                index,
                term: 0,
                payload,
            })
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
    RowsBlock "backup-rows";
    EntriesBlock "backup-entries";
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::golden;

    #[test]
    fn golden_bytes() {
        let rows = RowsBlock {
            partition: 3,
            rows: vec![BackedUpRow {
                is_event: true,
                key: "den@conference.localhost".into(),
                seq: 8_193,
                time: 1_700_000_000_000,
                peer: Some("juliet@localhost".into()),
                record: Bytes::from_static(b"record"),
            }],
            ended: true,
        };
        golden!("../../tests/goldens/backup.txt", &rows);
        let entries = EntriesBlock {
            partition: 3,
            first: 17,
            payloads: vec![None, Some(Bytes::from_static(b"entry"))],
        };
        golden!("../../tests/goldens/backup.txt", &entries);
        let places: Vec<u64> = entries.entries().map(|entry| entry.index).collect();
        assert_eq!(places, [17, 18]);
    }
}
