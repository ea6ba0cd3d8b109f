//! The blocks of a snapshot file.

use std::io::{self, Read, Write};

use super::SnapshotError;
use crate::state_store::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// The first bytes of the file.
pub(super) const MAGIC: [u8; 8] = *b"MUSTSNAP";

/// The version in the head.
pub(super) const VERSION: u8 = 1;

/// A rows block is closed when it holds this much.
pub(super) const BLOCK_BYTES: usize = 256 * 1024;

/// The most bytes of a payload: a full block and one row more.
const PAYLOAD_BYTES_MAX: usize = BLOCK_BYTES + ROW_HEAD_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// Table and lengths in front of a row.
pub(super) const ROW_HEAD_BYTES: usize = 1 + 4 + 4;

/// Length, checksum and kind in front of a payload.
pub(super) const BLOCK_HEAD_BYTES: usize = 4 + 4 + 1;

/// The payload of the end block.
pub(super) const END_BYTES: usize = 8 + 8 + 32;

/// What is wrong with a file that ends in the middle of a block.
pub(super) const CUT_SHORT: &str = "it is cut short";

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    Head = 1,
    Rows = 2,
    End = 3,
}

/// Writes a block under its number.
pub(super) fn write_block(
    file: &mut impl Write,
    number: u64,
    kind: BlockKind,
    payload: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&block_checksum(number, kind as u8, payload).to_le_bytes())?;
    file.write_all(&[kind as u8])?;
    file.write_all(payload)
}

/// Reads the next block, which must be the one of this number, into `payload`.
pub(super) fn read_block(
    file: &mut impl Read,
    number: u64,
    payload: &mut Vec<u8>,
) -> Result<BlockKind, SnapshotError> {
    let mut head = [0; BLOCK_HEAD_BYTES];
    file.read_exact(&mut head).map_err(cut_short)?;
    let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(SnapshotError::Damaged("a block is too long"));
    }
    // Grows with what is read, so that a damaged length reserves nothing.
    payload.clear();
    file.by_ref().take(length as u64).read_to_end(payload)?;
    if payload.len() < length {
        return Err(SnapshotError::Damaged(CUT_SHORT));
    }
    if u32::from_le_bytes([c0, c1, c2, c3]) != block_checksum(number, kind, payload) {
        return Err(SnapshotError::Damaged(
            "the checksum of a block does not match",
        ));
    }
    match kind {
        1 => Ok(BlockKind::Head),
        2 => Ok(BlockKind::Rows),
        3 => Ok(BlockKind::End),
        _ => Err(SnapshotError::Damaged("a block is of no kind")),
    }
}

/// The end of a file is damage here, other errors are the disk's.
pub(super) fn cut_short(error: io::Error) -> SnapshotError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Damaged(CUT_SHORT),
        _ => SnapshotError::Io(error),
    }
}

/// The number is part of it, so that blocks cannot be swapped, lost or doubled. The end block counts as number `u64::MAX`, as
/// it is also read on its own.
fn block_checksum(number: u64, kind: u8, payload: &[u8]) -> u32 {
    let number = if kind == BlockKind::End as u8 {
        u64::MAX
    } else {
        number
    };
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &[kind]);
    crc32c::crc32c_append(checksum, payload)
}
