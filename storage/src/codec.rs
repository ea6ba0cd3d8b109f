//! The bytes of records: the only place that knows bincode.
//!
//! Everything that is stored or sent between nodes as a struct goes through here, so that the layout is fixed once:
//! fixed-width integers, little endian, a byte limit, no trailing bytes.
//!
//! ```text
//! stored record   version u8 | crc32c u32 | body        encode / decode
//! frame           version u8 | body                     encode_frame / decode_frame   (TLS already protects it)
//! ```
//!
//! A layout never changes under its version. A new version is a new struct; [`Record::upgrade`] reads the old ones, and
//! [`golden`] tests keep a sample of each version's bytes in the tree. Records hold no `HashMap`, `usize`, float or
//! recursion, and no sequence of zero-sized elements (its claimed length would cost time without costing bytes).

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

pub mod golden;

/// The most bytes of a stored record's body.
pub const RECORD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Version byte and checksum in front of a stored record's body.
const RECORD_HEAD_BYTES: usize = 1 + 4;

/// A struct with a version, whose bytes are stored or sent.
pub trait Record: Serialize + DeserializeOwned {
    /// The version that is written. It rises with every change of the layout.
    const VERSION: u8;
    /// The name in errors and golden files. It never changes.
    const NAME: &'static str;

    /// Reads the body of another version, usually with [`body`] into that version's struct.
    ///
    /// # Errors
    /// [`CodecError::Version`] for a version it does not know, which is all of them unless overridden.
    fn upgrade(version: u8, body: &[u8]) -> Result<Self, CodecError> {
        let _ = body;
        Err(CodecError::Version {
            record: Self::NAME,
            version,
        })
    }
}

/// Why bytes are not the record they should be, or a record cannot become bytes.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Fewer bytes than the head of a record.
    #[error("{record}: {bytes} bytes are too short for a record")]
    Truncated {
        /// [`Record::NAME`].
        record: &'static str,
        /// How many bytes there were.
        bytes: usize,
    },
    /// More bytes than the limit.
    #[error("{record}: {bytes} bytes are over the limit of {limit}")]
    TooLong {
        /// [`Record::NAME`].
        record: &'static str,
        /// How many bytes there were.
        bytes: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// The checksum does not match: the bytes were damaged at rest.
    #[error("{record}: the checksum does not match")]
    Checksum {
        /// [`Record::NAME`].
        record: &'static str,
    },
    /// A version that this binary cannot read; a newer one may.
    #[error("{record}: version {version} is not known to this build; a newer one wrote it")]
    Version {
        /// [`Record::NAME`].
        record: &'static str,
        /// The version found.
        version: u8,
    },
    /// The body is not the struct: wrong bytes, too few, or some left over.
    #[error("the body of a record does not decode")]
    Body(#[source] Box<bincode::ErrorKind>),
}

/// The one layout. Each call site names its limit, so that a length field can never ask for more memory than it.
fn layout(limit: u64) -> impl Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_little_endian()
        .with_limit(limit)
        .reject_trailing_bytes()
}

/// The bytes of a record to store.
///
/// # Errors
/// [`CodecError::TooLong`] over [`RECORD_BYTES_MAX`], [`CodecError::Body`] if a field refuses to be serialised.
pub fn encode<T: Record>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![T::VERSION, 0, 0, 0, 0];
    append_body(&mut bytes, value, RECORD_BYTES_MAX)?;
    let checksum = record_checksum(T::VERSION, &bytes[RECORD_HEAD_BYTES..]);
    bytes[1..RECORD_HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// The record of stored bytes, of this version or an older one.
///
/// # Errors
/// All variants of [`CodecError`]; the checksum is looked at before anything is decoded.
pub fn decode<T: Record>(bytes: &[u8]) -> Result<T, CodecError> {
    let Some((head, rest)) = bytes.split_first_chunk::<RECORD_HEAD_BYTES>() else {
        return Err(CodecError::Truncated {
            record: T::NAME,
            bytes: bytes.len(),
        });
    };
    let [version, checksum @ ..] = *head;
    within::<T>(rest.len(), RECORD_BYTES_MAX)?;
    if u32::from_le_bytes(checksum) != record_checksum(version, rest) {
        return Err(CodecError::Checksum { record: T::NAME });
    }
    read_body(version, rest, RECORD_BYTES_MAX)
}

/// The bytes of a record to send, at most `limit` bytes of body.
///
/// # Errors
/// As [`encode`].
pub fn encode_frame<T: Record>(value: &T, limit: u64) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::new();
    append_frame(&mut bytes, value, limit)?;
    Ok(bytes)
}

/// Like [`encode_frame`], behind what `bytes` already holds; on an error `bytes` is as it was.
///
/// # Errors
/// As [`encode`].
pub fn append_frame<T: Record>(
    bytes: &mut Vec<u8>,
    value: &T,
    limit: u64,
) -> Result<(), CodecError> {
    let start = bytes.len();
    bytes.push(T::VERSION);
    append_body(bytes, value, limit).inspect_err(|_| bytes.truncate(start))
}

/// The record of received bytes, at most `limit` bytes of body.
///
/// # Errors
/// All variants of [`CodecError`] but the checksum.
pub fn decode_frame<T: Record>(bytes: &[u8], limit: u64) -> Result<T, CodecError> {
    let Some((version, rest)) = bytes.split_first() else {
        return Err(CodecError::Truncated {
            record: T::NAME,
            bytes: 0,
        });
    };
    within::<T>(rest.len(), limit)?;
    read_body(*version, rest, limit)
}

/// The struct of an older version's body, for [`Record::upgrade`].
///
/// # Errors
/// [`CodecError::Body`].
pub fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    // The caller has held the bytes against its limit, and a body never needs more than the bytes that are there.
    layout(bytes.len() as u64)
        .deserialize(bytes)
        .map_err(CodecError::Body)
}

/// The bytes of a row of the replicated state: the body alone, since the table fixes its struct.
///
/// # Errors
/// [`CodecError::Body`] if a field refuses to be serialised.
pub fn row_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    layout(RECORD_BYTES_MAX)
        .serialize(value)
        .map_err(CodecError::Body)
}

/// CRC-32C of bytes.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

fn read_body<T: Record>(version: u8, bytes: &[u8], limit: u64) -> Result<T, CodecError> {
    if version != T::VERSION {
        return T::upgrade(version, bytes);
    }
    layout(limit).deserialize(bytes).map_err(CodecError::Body)
}

fn append_body<T: Record>(bytes: &mut Vec<u8>, value: &T, limit: u64) -> Result<(), CodecError> {
    let size = layout(u64::MAX)
        .serialized_size(value)
        .map_err(CodecError::Body)?;
    if size > limit {
        return Err(CodecError::TooLong {
            record: T::NAME,
            bytes: size,
            limit,
        });
    }
    bytes.reserve(usize::try_from(size).unwrap_or(0));
    layout(limit)
        .serialize_into(bytes, value)
        .map_err(CodecError::Body)
}

fn within<T: Record>(bytes: usize, limit: u64) -> Result<(), CodecError> {
    let bytes = bytes as u64;
    if bytes > limit {
        return Err(CodecError::TooLong {
            record: T::NAME,
            bytes,
            limit,
        });
    }
    Ok(())
}

/// The version is part of the checksum, so that a flipped version byte is damage and not an unknown version.
fn record_checksum(version: u8, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[version]), body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Contact {
        name: String,
        groups: Vec<String>,
        since: Option<u64>,
    }

    #[derive(Serialize, Deserialize)]
    struct ContactV1 {
        name: String,
    }

    impl Record for Contact {
        const VERSION: u8 = 2;
        const NAME: &'static str = "test-contact";

        fn upgrade(version: u8, bytes: &[u8]) -> Result<Self, CodecError> {
            match version {
                1 => Ok(Contact {
                    name: body::<ContactV1>(bytes)?.name,
                    groups: Vec::new(),
                    since: None,
                }),
                _ => Err(CodecError::Version {
                    record: Self::NAME,
                    version,
                }),
            }
        }
    }

    impl Record for ContactV1 {
        const VERSION: u8 = 1;
        const NAME: &'static str = "test-contact";
    }

    fn juliet() -> Contact {
        Contact {
            name: "juliet".into(),
            groups: vec!["friends".into(), "verona".into()],
            since: Some(7),
        }
    }

    #[test]
    fn records_and_frames_round_trip() {
        assert_eq!(
            decode::<Contact>(&encode(&juliet()).unwrap()).unwrap(),
            juliet()
        );
        assert_eq!(
            decode_frame::<Contact>(&encode_frame(&juliet(), 100).unwrap(), 100).unwrap(),
            juliet()
        );
    }

    #[test]
    fn older_versions_are_upgraded() {
        let old = ContactV1 {
            name: "romeo".into(),
        };
        let expect = Contact {
            name: "romeo".into(),
            groups: Vec::new(),
            since: None,
        };
        assert_eq!(decode::<Contact>(&encode(&old).unwrap()).unwrap(), expect);
        assert_eq!(
            decode_frame::<Contact>(&encode_frame(&old, 100).unwrap(), 100).unwrap(),
            expect
        );
    }

    #[test]
    fn newer_versions_are_refused_by_name() {
        let error = decode::<ContactV1>(&encode(&juliet()).unwrap())
            .err()
            .unwrap();
        assert!(
            matches!(
                error,
                CodecError::Version {
                    record: "test-contact",
                    version: 2
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let whole = encode(&juliet()).unwrap();
        for at in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(
                matches!(
                    decode::<Contact>(&damaged),
                    Err(CodecError::Checksum { .. })
                ),
                "bit {at}"
            );
        }
        for length in 0..whole.len() {
            assert!(
                decode::<Contact>(&whole[..length]).is_err(),
                "cut to {length}"
            );
        }
    }

    #[test]
    fn trailing_bytes_and_sizes_over_the_limit_are_refused() {
        let mut frame = encode_frame(&juliet(), 100).unwrap();
        frame.push(0);
        assert!(matches!(
            decode_frame::<Contact>(&frame, 100),
            Err(CodecError::Body(_))
        ));
        assert!(matches!(
            decode_frame::<Contact>(&frame, 10),
            Err(CodecError::TooLong { .. })
        ));
        let mut kept = vec![1, 2];
        assert!(matches!(
            append_frame(&mut kept, &juliet(), 10),
            Err(CodecError::TooLong { limit: 10, .. })
        ));
        assert_eq!(kept, [1, 2]);
    }

    #[test]
    fn a_claimed_length_reserves_no_memory() {
        // Version, then a string that claims 2^40 bytes: the error must come before the allocation.
        let mut frame = vec![2];
        frame.extend_from_slice(&(1_u64 << 40).to_le_bytes());
        assert!(matches!(
            decode_frame::<Contact>(&frame, 1 << 20),
            Err(CodecError::Body(_))
        ));
    }

    #[test]
    fn golden_bytes() {
        crate::golden!("../tests/goldens/codec.txt", &juliet());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Contact>(&bytes);
            let _ = decode_frame::<Contact>(&bytes, 256);
            // Behind a right checksum the body's decoder is reached.
            let mut sealed = vec![2];
            sealed.extend_from_slice(&record_checksum(2, &bytes).to_le_bytes());
            sealed.extend_from_slice(&bytes);
            let _ = decode::<Contact>(&sealed);
        }

        #[test]
        fn what_is_encoded_decodes(name in ".{0,40}", groups in proptest::collection::vec(".{0,20}", 0..5), since: Option<u64>) {
            let contact = Contact { name, groups, since };
            prop_assert_eq!(decode::<Contact>(&encode(&contact).unwrap()).unwrap(), contact);
        }
    }
}
