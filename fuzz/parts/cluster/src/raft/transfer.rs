//! What is said while a snapshot is sent: records with a checksum, which the fuzzer could not guess.

use storage::codec::{Record, decode, encode};

mod record;

/// Reads the bytes as the body of the record of this number: see [`super::read_twice`].
pub fn read_twice(number: u8, body: &[u8]) -> Option<[Vec<u8>; 2]> {
    match number % 8 {
        0 => twice::<record::Offer>(body),
        1 => twice::<record::OfferReply>(body),
        2 => twice::<record::FileQuery>(body),
        3 => twice::<record::FileReply>(body),
        4 => twice::<record::KeysQuery>(body),
        5 => twice::<record::KeysReply>(body),
        6 => twice::<record::RowsQuery>(body),
        _ => twice::<record::RowsReply>(body),
    }
}

fn twice<T: Record>(body: &[u8]) -> Option<[Vec<u8>; 2]> {
    let version = [T::VERSION];
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&version), body);
    let bytes = [&version[..], &checksum.to_le_bytes(), body].concat();
    let first: T = decode(&bytes).ok()?;
    let once = encode(&first).expect("what was read can be written");
    let second: T = decode(&once).expect("what was written can be read");
    let again = encode(&second).expect("what was read can be written");
    assert_eq!(once, bytes, "a record has one form");
    Some([once, again])
}
