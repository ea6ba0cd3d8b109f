//! Writing a snapshot.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::block::{self, BLOCK_BYTES, BlockKind, MAGIC, write_block};
use super::{
    Manifest, Snapshot, SnapshotError, SnapshotHead, file_path, head_bytes, remove_older, verify,
};
use crate::durable::{self, TEMPORARY_SUFFIX};
use crate::state_store::{KEY_BYTES_MAX, Table, VALUE_BYTES_MAX};

/// Writes one snapshot. Dropped before [`finish`](Self::finish), it leaves nothing.
pub struct SnapshotWriter {
    dir: PathBuf,
    head: SnapshotHead,
    /// `None` once it is finished.
    temporary: Option<PathBuf>,
    file: BufWriter<File>,
    block: Vec<u8>,
    blocks: u64,
    rows: u64,
    bytes: u64,
    hasher: Sha256,
}

impl SnapshotWriter {
    /// Starts a snapshot in this folder, which is made if it is missing.
    ///
    /// # Errors
    /// [`SnapshotError::TooLong`] for the applied mark, [`SnapshotError::Io`].
    pub fn create(dir: &Path, head: SnapshotHead) -> Result<Self, SnapshotError> {
        if head.applied.0.len() > VALUE_BYTES_MAX {
            return Err(SnapshotError::TooLong);
        }
        fs::create_dir_all(dir)?;
        let mut temporary = file_path(dir, head.group, head.index).into_os_string();
        temporary.push(TEMPORARY_SUFFIX);
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        let mut writer = SnapshotWriter {
            dir: dir.to_owned(),
            temporary: Some(temporary),
            file: BufWriter::new(file),
            block: Vec::with_capacity(BLOCK_BYTES),
            blocks: 0,
            rows: 0,
            bytes: 0,
            hasher: Sha256::new(),
            head,
        };
        writer.file.write_all(&MAGIC)?;
        writer.write(BlockKind::Head, &head_bytes(&writer.head))?;
        Ok(writer)
    }

    /// Adds a row. Rows come in the state store's order, so that the digests of replicas can be compared.
    ///
    /// # Errors
    /// [`SnapshotError::TooLong`], [`SnapshotError::Io`].
    pub fn row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Err(SnapshotError::TooLong);
        }
        let length = |bytes: &[u8]| {
            u32::try_from(bytes.len())
                .map(u32::to_le_bytes)
                .map_err(|_| SnapshotError::TooLong)
        };
        let (key_length, value_length) = (length(key)?, length(value)?);
        self.block.push(table.0);
        self.block.extend_from_slice(&key_length);
        self.block.extend_from_slice(&value_length);
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.rows += 1;
        self.bytes += (key.len() + value.len()) as u64;
        if self.block.len() >= BLOCK_BYTES {
            self.close_block()?;
        }
        Ok(())
    }

    /// Makes the snapshot durable, reads it back, and gives it its name, durable too; then the group's older ones go. So a
    /// crash at any point leaves at least one whole snapshot under its name, if there was one.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; the snapshot then does not count.
    pub fn finish(mut self) -> Result<Snapshot, SnapshotError> {
        self.close_block()?;
        let digest: [u8; 32] = self.hasher.finalize_reset().into();
        let mut end = Vec::with_capacity(block::END_BYTES);
        end.extend_from_slice(&self.rows.to_le_bytes());
        end.extend_from_slice(&self.bytes.to_le_bytes());
        end.extend_from_slice(&digest);
        self.write(BlockKind::End, &end)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        let file_bytes = self.file.get_ref().metadata()?.len();
        let path = file_path(&self.dir, self.head.group, self.head.index);
        if let Some(temporary) = &self.temporary {
            verify(temporary, self.head.group)?;
            fs::rename(temporary, &path)?;
        }
        self.temporary = None;
        durable::sync_dir(&self.dir)?;
        remove_older(&self.dir, self.head.group, self.head.index)?;
        let manifest = Manifest {
            head: self.head.clone(),
            rows: self.rows,
            bytes: self.bytes,
            digest,
        };
        Ok(Snapshot {
            path,
            file_bytes,
            manifest,
        })
    }

    fn close_block(&mut self) -> Result<(), SnapshotError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let mut block = std::mem::take(&mut self.block);
        self.hasher.update(&block);
        self.write(BlockKind::Rows, &block)?;
        block.clear();
        // A block that held a giant row is not kept at its size.
        block.shrink_to(2 * BLOCK_BYTES);
        self.block = block;
        Ok(())
    }

    fn write(&mut self, kind: BlockKind, payload: &[u8]) -> Result<(), SnapshotError> {
        write_block(&mut self.file, self.blocks, kind, payload)?;
        self.blocks += 1;
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        let Some(temporary) = &self.temporary else {
            return;
        };
        if let Err(error) = fs::remove_file(temporary) {
            tracing::warn!(path = %temporary.display(), %error, "an unfinished snapshot cannot be removed");
        }
    }
}
