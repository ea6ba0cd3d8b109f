//! Keys and values as fjall holds them.
//!
//! ```text
//! row     partition u16 BE | key | 00 | seq u64 BE              →  version u8 | time u64 LE | peer length u16 LE | peer | record
//! peer    partition u16 BE | key | 00 | peer | 00 | seq u64 BE  →  kind u8
//! count   partition u16 BE | key | 00                           →  up to seq u64 LE | messages u64 LE
//! ```
//!
//! JIDs hold no NUL, so that one ends a name and keeps names in order. fjall's blocks have checksums, rows need none.

use std::sync::Arc;

use bytes::Bytes;

use super::{ArchiveError, ArchiveRow, PartitionId, RowKind};

/// The longest bare JID: 1,023 bytes a part and one `@` (RFC 7622 §3.1).
const NAME_BYTES_MAX: usize = 2047;

const VALUE_VERSION: u8 = 1;
const VALUE_HEAD_BYTES: usize = 1 + 8 + 2;

/// The start of all keys of a partition.
pub(super) fn partition_prefix(partition: PartitionId) -> [u8; 2] {
    partition.0.to_be_bytes()
}

/// The first key behind all of a partition's, or `None` behind the last.
pub(super) fn partition_end(partition: PartitionId) -> Option<[u8; 2]> {
    partition.0.checked_add(1).map(u16::to_be_bytes)
}

/// The start of all keys of a key's rows; also its count's key.
pub(super) fn key_prefix(partition: PartitionId, key: &str) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::with_capacity(2 + key.len() + 1 + 8);
    bytes.extend_from_slice(&partition_prefix(partition));
    push_name(&mut bytes, key)?;
    Ok(bytes)
}

/// The key of a row.
pub(super) fn row_key(
    partition: PartitionId,
    key: &str,
    seq: u64,
) -> Result<Vec<u8>, ArchiveError> {
    Ok(with_seq(key_prefix(partition, key)?, seq))
}

/// The start of all keys of a key's index entries.
pub(super) fn peer_prefix(
    partition: PartitionId,
    key: &str,
    peer: &str,
) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = key_prefix(partition, key)?;
    push_name(&mut bytes, peer)?;
    Ok(bytes)
}

/// The key of an index entry.
pub(super) fn peer_key(
    partition: PartitionId,
    key: &str,
    peer: &str,
    seq: u64,
) -> Result<Vec<u8>, ArchiveError> {
    Ok(with_seq(peer_prefix(partition, key, peer)?, seq))
}

/// A prefix with a sequence behind it.
pub(super) fn with_seq(mut prefix: Vec<u8>, seq: u64) -> Vec<u8> {
    prefix.extend_from_slice(&seq.to_be_bytes());
    prefix
}

/// The sequence at the end of a row's or index entry's key.
pub(super) fn seq_of(key: &[u8]) -> Result<u64, ArchiveError> {
    key.last_chunk()
        .map(|seq| u64::from_be_bytes(*seq))
        .ok_or(ArchiveError::Damaged("a row has no sequence"))
}

/// The name and the sequence of a row's key.
pub(super) fn read_row_key(key: &[u8]) -> Result<(Arc<str>, u64), ArchiveError> {
    let damaged = ArchiveError::Damaged("the key of a row is not ours");
    let Some((name, _)) = key.get(2..).and_then(|rest| rest.split_last_chunk::<8>()) else {
        return Err(damaged);
    };
    let Some(Ok(name)) = name.strip_suffix(&[0]).map(str::from_utf8) else {
        return Err(damaged);
    };
    Ok((Arc::from(name), seq_of(key)?))
}

/// The value of a row.
pub(super) fn row_value(row: &ArchiveRow) -> Vec<u8> {
    let peer = row.peer.as_deref().unwrap_or_default();
    let mut bytes = Vec::with_capacity(VALUE_HEAD_BYTES + peer.len() + row.record.len());
    bytes.push(VALUE_VERSION);
    bytes.extend_from_slice(&row.time.to_le_bytes());
    let peer_bytes =
        u16::try_from(peer.len()).expect("the peer's name was checked for its index entry");
    bytes.extend_from_slice(&peer_bytes.to_le_bytes());
    bytes.extend_from_slice(peer.as_bytes());
    bytes.extend_from_slice(&row.record);
    bytes
}

/// What a row's value holds.
pub(super) struct RowValue {
    pub(super) time: u64,
    pub(super) peer: Option<Arc<str>>,
    pub(super) record: Bytes,
}

/// The inverse of [`row_value`]; the record shares the block's memory.
pub(super) fn read_row_value(value: fjall::Slice) -> Result<RowValue, ArchiveError> {
    let damaged = || ArchiveError::Damaged("the value of a row is not ours");
    let value = Bytes::from(value);
    let time = value_time(&value)?;
    let peer_bytes = value
        .get(9..VALUE_HEAD_BYTES)
        .and_then(|bytes| bytes.first_chunk())
        .ok_or_else(damaged)?;
    let record_at = VALUE_HEAD_BYTES + usize::from(u16::from_le_bytes(*peer_bytes));
    let peer = value.get(VALUE_HEAD_BYTES..record_at).ok_or_else(damaged)?;
    let peer = match peer {
        [] => None,
        peer => Some(Arc::from(str::from_utf8(peer).map_err(|_| damaged())?)),
    };
    Ok(RowValue {
        time,
        peer,
        record: value.slice(record_at..),
    })
}

/// The time in a row's value.
pub(super) fn value_time(value: &[u8]) -> Result<u64, ArchiveError> {
    match value.split_first() {
        Some((&VALUE_VERSION, rest)) => rest.first_chunk().map(|time| u64::from_le_bytes(*time)),
        _ => None,
    }
    .ok_or(ArchiveError::Damaged("the value of a row is not ours"))
}

/// A row from its two halves.
pub(super) fn read_row(
    kind: RowKind,
    key: Arc<str>,
    seq: u64,
    value: fjall::Slice,
) -> Result<ArchiveRow, ArchiveError> {
    let RowValue { time, peer, record } = read_row_value(value)?;
    Ok(ArchiveRow {
        key,
        kind,
        seq,
        time,
        peer,
        record,
    })
}

/// The value of an index entry.
pub(super) fn kind_byte(kind: RowKind) -> u8 {
    match kind {
        RowKind::Message => 0,
        RowKind::Event => 1,
    }
}

/// The inverse of [`kind_byte`].
pub(super) fn read_kind(value: &[u8]) -> Result<RowKind, ArchiveError> {
    match value {
        [0] => Ok(RowKind::Message),
        [1] => Ok(RowKind::Event),
        _ => Err(ArchiveError::Damaged("an index entry is not ours")),
    }
}

/// The value of a count.
pub(super) fn count_value(upto: u64, messages: u64) -> Vec<u8> {
    [upto.to_le_bytes(), messages.to_le_bytes()].concat()
}

/// The inverse of [`count_value`].
pub(super) fn read_count(value: &[u8]) -> Result<(u64, u64), ArchiveError> {
    let read = || {
        let (upto, rest) = value.split_first_chunk()?;
        Some((
            u64::from_le_bytes(*upto),
            u64::from_le_bytes(rest.try_into().ok()?),
        ))
    };
    read().ok_or(ArchiveError::Damaged("a count is not ours"))
}

fn push_name(bytes: &mut Vec<u8>, name: &str) -> Result<(), ArchiveError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.as_bytes().contains(&0) {
        return Err(ArchiveError::BadName);
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use fjall::{Database, Keyspace, KeyspaceCreateOptions};

    use super::super::{Archive, ArchiveOptions, Order, Page, Rows};
    use super::*;

    const PARTITION: PartitionId = PartitionId(0x0102);
    const KEY: &str = "juliet@localhost";
    const ROMEO: &str = "romeo@localhost";

    /// What fjall holds of [`rows`], and of a count: keyspace, key, value. Lines of the current version may not change, and
    /// those of an older one stay beside them.
    const GOLDEN: [(&str, &[u8], &[u8]); 6] = [
        (
            "messages",
            b"\x01\x02juliet@localhost\0\x21\x22\x23\x24\x25\x26\x27\x28",
            b"\x01\x00\x68\xe5\xcf\x8b\x01\0\0\x0f\0romeo@localhosthello",
        ),
        (
            "events",
            b"\x01\x02juliet@localhost\0\x21\x22\x23\x24\x25\x26\x27\x29",
            b"\x01\x00\x68\xe5\xcf\x8b\x01\0\0\x0f\0romeo@localhostjoined",
        ),
        (
            "events",
            b"\x01\x02juliet@localhost\0\x21\x22\x23\x24\x25\x26\x27\x2a",
            b"\x01\x00\x68\xe5\xcf\x8b\x01\0\0\0\0parted",
        ),
        (
            "peers",
            b"\x01\x02juliet@localhost\0romeo@localhost\0\x21\x22\x23\x24\x25\x26\x27\x28",
            b"\0",
        ),
        (
            "peers",
            b"\x01\x02juliet@localhost\0romeo@localhost\0\x21\x22\x23\x24\x25\x26\x27\x29",
            b"\x01",
        ),
        (
            "counts",
            b"\x01\x02juliet@localhost\0",
            b"\x27\x27\x26\x25\x24\x23\x22\x21\x15\x16\0\0\0\0\0\0",
        ),
    ];

    fn rows() -> [ArchiveRow; 3] {
        let row = |kind, seq: u64, peer: Option<&str>, record: &'static str| ArchiveRow {
            key: Arc::from(KEY),
            kind,
            seq: 0x2122_2324_2526_2700 + seq,
            time: 1_700_000_000_000,
            peer: peer.map(Arc::from),
            record: Bytes::from(record),
        };
        [
            row(RowKind::Message, 0x28, Some(ROMEO), "hello"),
            row(RowKind::Event, 0x29, Some(ROMEO), "joined"),
            row(RowKind::Event, 0x2a, None, "parted"),
        ]
    }

    fn keyspaces(db: &Database) -> impl Iterator<Item = (&'static str, Keyspace)> {
        let open = |name| db.keyspace(name, KeyspaceCreateOptions::default).unwrap();
        ["messages", "events", "peers", "counts"]
            .map(|name| (name, open(name)))
            .into_iter()
    }

    #[test]
    fn golden_bytes_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path(), &ArchiveOptions::default()).unwrap();
        archive.append(PARTITION, &rows()).unwrap();
        archive.sync().unwrap();
        drop(archive);
        let db = Database::builder(dir.path()).open().unwrap();
        assert_eq!(db.keyspace_count(), 4);
        let mut found = Vec::new();
        for (name, keyspace) in keyspaces(&db) {
            found.extend(keyspace.iter().map(|guard| {
                let (key, value) = guard.into_inner().unwrap();
                (name, key.to_vec(), value.to_vec())
            }));
        }
        // A count is written only for a key with many messages.
        found.push((
            "counts",
            key_prefix(PARTITION, KEY).unwrap(),
            count_value(0x2122_2324_2526_2727, 0x1615),
        ));
        let golden = GOLDEN.map(|(name, key, value)| (name, key.to_vec(), value.to_vec()));
        assert_eq!(found, golden);
    }

    #[test]
    fn golden_bytes_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let db = Database::builder(dir.path()).open().unwrap();
        for (name, keyspace) in keyspaces(&db) {
            for (_, key, value) in GOLDEN.iter().filter(|(of, ..)| *of == name) {
                keyspace.insert(*key, *value).unwrap();
            }
        }
        drop(db);
        let archive = Archive::open(dir.path(), &ArchiveOptions::default()).unwrap();
        let page = Page {
            after: None,
            before: None,
            order: Order::OldestFirst,
            limit: 9,
        };
        let all = archive.range(PARTITION, KEY, Rows::All, &page).unwrap();
        assert_eq!(all, rows());
        let listed = archive.view().rows(PARTITION, None, 9, 999).unwrap();
        assert_eq!(listed, rows());
        let with = archive.range_with(PARTITION, KEY, ROMEO, &page).unwrap();
        assert_eq!(with, rows()[..2]);
        // The message behind the count is counted on top of it.
        assert_eq!(archive.count(PARTITION, KEY).unwrap(), 0x1616);
    }
}
