//! Reading a snapshot.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::{Buf, Bytes};
use sha2::{Digest, Sha256};

use super::block::{
    self, BLOCK_HEAD_BYTES, BlockKind, CUT_SHORT, END_BYTES, MAGIC, cut_short, read_block,
};
use super::{Manifest, Snapshot, SnapshotError, SnapshotHead, read_head};
use crate::state_store::Table;

/// A row of a snapshot.
#[derive(Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Its table.
    pub table: Table,
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

impl std::fmt::Debug for SnapshotRow {
    /// Without key and value: rows hold what users wrote.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotRow")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// Reads the rows of a snapshot, in order. **What it gave counts only once it ended with `None`**: then the end was reached
/// and the hash was right. After an error it gives nothing more.
pub struct SnapshotReader {
    snapshot: Snapshot,
    file: BufReader<File>,
    /// The rows of the block under way.
    block: Bytes,
    blocks: u64,
    rows: u64,
    hasher: Sha256,
    ended: bool,
}

impl SnapshotReader {
    /// Opens a snapshot and checks its head and its end.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`], [`SnapshotError::Version`], [`SnapshotError::Io`].
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let mut file = BufReader::new(File::open(path)?);
        let file_bytes = file.get_ref().metadata()?.len();
        let (rows, bytes, digest) = read_end(&mut file, file_bytes)?;
        file.seek(SeekFrom::Start(0))?;
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic).map_err(cut_short)?;
        if magic != MAGIC {
            return Err(SnapshotError::Damaged("it is no snapshot"));
        }
        let head = read_head_block(&mut file)?;
        let snapshot = Snapshot {
            path: path.to_owned(),
            file_bytes,
            manifest: Manifest {
                head,
                rows,
                bytes,
                digest,
            },
        };
        Ok(SnapshotReader {
            snapshot,
            file,
            block: Bytes::new(),
            blocks: 1,
            rows: 0,
            hasher: Sha256::new(),
            ended: false,
        })
    }

    /// What is being read.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn next_row(&mut self) -> Result<Option<SnapshotRow>, SnapshotError> {
        while self.block.is_empty() {
            let mut payload = Vec::new();
            match read_block(&mut self.file, self.blocks, &mut payload)? {
                BlockKind::Rows => self.hasher.update(&payload),
                BlockKind::End => return self.end().map(|()| None),
                BlockKind::Head => return Err(SnapshotError::Damaged("it has two heads")),
            }
            self.blocks += 1;
            self.block = Bytes::from(payload);
        }
        self.rows += 1;
        let damaged = || SnapshotError::Damaged("a row does not fit its block");
        let block = &mut self.block;
        if block.len() < block::ROW_HEAD_BYTES {
            return Err(damaged());
        }
        let table = Table(block.get_u8());
        let (key, value) = (block.get_u32_le() as usize, block.get_u32_le() as usize);
        if key
            .checked_add(value)
            .is_none_or(|bytes| bytes > block.len())
        {
            return Err(damaged());
        }
        let key = block.split_to(key);
        let value = block.split_to(value);
        Ok(Some(SnapshotRow { table, key, value }))
    }

    fn end(&mut self) -> Result<(), SnapshotError> {
        let digest: [u8; 32] = self.hasher.finalize_reset().into();
        let manifest = &self.snapshot.manifest;
        let at_end = self.file.stream_position()? == self.snapshot.file_bytes;
        if digest != manifest.digest || self.rows != manifest.rows || !at_end {
            return Err(SnapshotError::Damaged("its end does not match its rows"));
        }
        Ok(())
    }
}

impl Iterator for SnapshotReader {
    type Item = Result<SnapshotRow, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.next_row().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

/// Reads a snapshot of this group to its end: only then it is known to be whole.
///
/// # Errors
/// [`SnapshotError::Damaged`], [`SnapshotError::Version`], [`SnapshotError::Io`].
pub fn verify(path: &Path, group: u32) -> Result<Snapshot, SnapshotError> {
    let mut reader = SnapshotReader::open(path)?;
    if reader.snapshot().manifest.head.group != group {
        return Err(SnapshotError::Damaged("it is another group's"));
    }
    for row in reader.by_ref() {
        row?;
    }
    Ok(reader.snapshot().clone())
}

/// How much of the beginning of a file may be the beginning of a snapshot: all of it, if each of its whole blocks is right,
/// else the blocks before the first damaged one.
pub(super) fn sound_bytes(path: &Path) -> std::io::Result<u64> {
    let mut file = BufReader::new(File::open(path)?);
    let file_bytes = file.get_ref().metadata()?.len();
    let mut magic = [0; MAGIC.len()];
    match file.read_exact(&mut magic).map_err(cut_short) {
        Ok(()) if magic == MAGIC => {}
        Err(SnapshotError::Io(error)) => return Err(error),
        _ => return Ok(0),
    }
    let mut payload = Vec::new();
    for number in 0.. {
        let sound = file.stream_position()?;
        match read_block(&mut file, number, &mut payload) {
            Ok(_) => {}
            Err(SnapshotError::Damaged(CUT_SHORT)) => return Ok(file_bytes),
            Err(SnapshotError::Io(error)) => return Err(error),
            Err(_) => return Ok(sound),
        }
    }
    Ok(file_bytes)
}

fn read_head_block(file: &mut impl Read) -> Result<SnapshotHead, SnapshotError> {
    let mut payload = Vec::new();
    match read_block(file, 0, &mut payload)? {
        BlockKind::Head => read_head(&payload),
        _ => Err(SnapshotError::Damaged("it has no head")),
    }
}

/// The last block: rows, bytes and digest. Its length is fixed, so it is found from the end of the file.
fn read_end(
    file: &mut (impl Read + Seek),
    file_bytes: u64,
) -> Result<(u64, u64, [u8; 32]), SnapshotError> {
    let damaged = || SnapshotError::Damaged(CUT_SHORT);
    let at = file_bytes
        .checked_sub((BLOCK_HEAD_BYTES + END_BYTES) as u64)
        .ok_or_else(damaged)?;
    file.seek(SeekFrom::Start(at))?;
    let mut payload = Vec::new();
    // Whatever else stands there is damage, not something to read.
    let kind = read_block(file, u64::MAX, &mut payload)?;
    if kind != BlockKind::End {
        return Err(damaged());
    }
    let (rows, rest) = payload.split_first_chunk().ok_or_else(damaged)?;
    let (bytes, digest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let digest = digest.try_into().map_err(|_| damaged())?;
    Ok((
        u64::from_le_bytes(*rows),
        u64::from_le_bytes(*bytes),
        digest,
    ))
}
