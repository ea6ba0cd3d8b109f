//! The bytes of what a partition's log, archive and state store hold, through `storage::codec`.

use bytes::Bytes;
use messaging::archive::ArchiveRow;
use messaging::command::Entry;
use messaging::table::RowCodec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError, Record};

/// An entry of a partition's log.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredEntry(Entry);

impl Record for StoredEntry {
    const VERSION: u8 = 1;
    const NAME: &'static str = "partition entry";
}

/// A row of the archive.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredRow(ArchiveRow);

impl Record for StoredRow {
    const VERSION: u8 = 1;
    const NAME: &'static str = "archive row";
}

/// The bytes of an entry, to be proposed.
///
/// # Errors
/// When it is larger than a record may be.
pub fn encode_entry(entry: Entry) -> Result<Bytes, CodecError> {
    codec::encode_frame(&StoredEntry(entry), codec::RECORD_BYTES_MAX).map(Bytes::from)
}

/// The entry in these bytes. The log guards its frames with checksums, so there is none here.
///
/// # Errors
/// When they are none.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    codec::decode_frame::<StoredEntry>(bytes, codec::RECORD_BYTES_MAX).map(|entry| entry.0)
}

/// The bytes of an archive row.
///
/// # Errors
/// When it is larger than a record may be.
pub fn encode_archive_row(row: &ArchiveRow) -> Result<Bytes, CodecError> {
    codec::encode(&StoredRow(row.clone())).map(Bytes::from)
}

/// The archive row in these bytes.
///
/// # Errors
/// When they are none, or damaged.
pub fn decode_archive_row(bytes: &[u8]) -> Result<ArchiveRow, CodecError> {
    codec::decode::<StoredRow>(bytes).map(|row| row.0)
}

/// The layout of rows of the replicated state.
#[derive(Clone, Copy, Debug, Default)]
pub struct StateRows;

impl RowCodec for StateRows {
    type Error = CodecError;

    fn encode<T: Serialize>(&self, row: &T) -> Vec<u8> {
        codec::row_bytes(row).expect("rows of the state are plain structs, which always serialise")
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CodecError> {
        codec::body(bytes)
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
