//! Version 2 of a partition's entries: each has a seal, the checksum that its owner took of it.
//!
//! The log's frames and TLS guard an entry where it lies and where it travels; the seal is from before the one and until
//! after the other, so that a bit that flips in a node's memory shows as an error, and not as a replica that differs.

use bytes::Bytes;
use messaging::command::Entry;
use serde::{Deserialize, Serialize};
use storage::codec::{self, CodecError, Record};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SealedEntry {
    /// CRC-32C of the entry's bytes.
    seal: u32,
    /// The entry, as in version 1.
    entry: Bytes,
}

impl Record for SealedEntry {
    const VERSION: u8 = 2;
    const NAME: &'static str = super::ENTRY_NAME;
}

pub(super) fn encode(entry: &Entry) -> Result<Bytes, CodecError> {
    let entry = Bytes::from(codec::row_bytes(entry)?);
    let seal = codec::checksum(&entry);
    let sealed = SealedEntry { seal, entry };
    codec::encode_frame(&sealed, codec::RECORD_BYTES_MAX).map(Bytes::from)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Entry, CodecError> {
    let sealed: SealedEntry = codec::decode_frame(bytes, codec::RECORD_BYTES_MAX)?;
    if codec::checksum(&sealed.entry) != sealed.seal {
        return Err(CodecError::Checksum {
            record: super::ENTRY_NAME,
        });
    }
    codec::body(&sealed.entry)
}

#[cfg(test)]
mod tests {
    use storage::codec::golden::Layout;

    use super::*;
    use crate::records::{decode_entry, encode_entry, version_of_entry};

    fn entry() -> Entry {
        Entry::OwnerBegin {
            node: 2,
            incarnation: 5,
            time_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn golden_bytes() {
        let layout = Layout {
            name: "partition-entry",
            version: 2,
            written: &encode_entry(entry(), 2).unwrap(),
        };
        let read = |bytes: Vec<u8>| decode_entry(&bytes).ok();
        storage::golden_layout!("../../tests/goldens/versions.txt", layout, &entry(), read);
    }

    #[test]
    fn both_versions_are_read_and_told_apart() {
        for version in [1, 2] {
            let written = encode_entry(entry(), version).unwrap();
            assert_eq!(version_of_entry(&written), version);
            assert_eq!(decode_entry(&written).unwrap(), entry());
        }
    }

    #[test]
    fn a_flipped_bit_breaks_the_seal() {
        let written = encode_entry(entry(), 2).unwrap();
        for bit in 8..written.len() * 8 {
            let mut damaged = written.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_entry(&damaged).is_err(), "bit {bit}");
        }
    }
}
