//! Raft's own records.

use storage::codec::{Record, decode_frame, encode_frame};

mod record;
pub mod transfer;

const BYTES_MAX: u64 = 16 << 20;

/// Reads the bytes as the record of this number, and what it reads once more: `None` if they are none, else both encodings.
pub fn read_twice(number: u8, bytes: &[u8]) -> Option<[Vec<u8>; 2]> {
    match number % 12 {
        0 => twice::<record::VoteRecord>(bytes),
        1 => twice::<record::LogIdRecord>(bytes),
        2 => twice::<record::EntryRecord>(bytes),
        3 => twice::<record::MarkRecord>(bytes),
        4 => twice::<record::AppendRequest>(bytes),
        5 => twice::<record::AppendReply>(bytes),
        6 => twice::<record::VoteQuery>(bytes),
        7 => twice::<record::VoteReply>(bytes),
        8 => twice::<record::TransferQuery>(bytes),
        9 => twice::<record::TransferReply>(bytes),
        10 => twice::<record::ReelectQuery>(bytes),
        _ => twice::<record::ReelectReply>(bytes),
    }
}

fn twice<T: Record>(bytes: &[u8]) -> Option<[Vec<u8>; 2]> {
    let first: T = decode_frame(bytes, BYTES_MAX).ok()?;
    let once = encode_frame(&first, BYTES_MAX).expect("what was read can be written");
    let second: T = decode_frame(&once, BYTES_MAX).expect("what was written can be read");
    let again = encode_frame(&second, BYTES_MAX).expect("what was read can be written");
    Some([once, again])
}
