//! The bytes of what a partition's log, archive and state store hold, through `storage::codec`.

use bytes::Bytes;
use messaging::archive::ArchiveRow;
use messaging::command::Entry;
use messaging::table::RowCodec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError, Record};

#[cfg(any(test, feature = "next-version"))]
mod sealed;

const ENTRY_NAME: &str = "partition entry";

/// An entry of a partition's log, as of version 1.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredEntry(Entry);

impl Record for StoredEntry {
    const VERSION: u8 = 1;
    const NAME: &'static str = ENTRY_NAME;
}

/// A row of the archive.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StoredRow(ArchiveRow);

impl Record for StoredRow {
    const VERSION: u8 = 1;
    const NAME: &'static str = "archive row";
}

/// The bytes of an entry, to be proposed to a partition that is at this version
/// ([`messaging::state::PartitionRecord::version`]): all who read its log can read them.
///
/// # Errors
/// When it is larger than a record may be.
pub fn encode_entry(entry: Entry, version: u32) -> Result<Bytes, CodecError> {
    #[cfg(any(test, feature = "next-version"))]
    if version >= 2 {
        return sealed::encode(&entry);
    }
    let _ = version;
    codec::encode_frame(&StoredEntry(entry), codec::RECORD_BYTES_MAX).map(Bytes::from)
}

/// The entry in these bytes, of any version that this build supports. The log guards its frames with checksums, so that
/// of version 1 has none of its own.
///
/// # Errors
/// When they are none.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    #[cfg(any(test, feature = "next-version"))]
    if version_of_entry(bytes) == 2 {
        return sealed::decode(bytes);
    }
    codec::decode_frame::<StoredEntry>(bytes, codec::RECORD_BYTES_MAX).map(|entry| entry.0)
}

/// The version that a partition must be at for an entry to be written like these bytes.
pub fn version_of_entry(bytes: &[u8]) -> u32 {
    // The layouts of entries have had the numbers of the versions that brought them.
    bytes.first().copied().map_or(0, u32::from)
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
