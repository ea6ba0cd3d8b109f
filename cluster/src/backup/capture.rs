//! State and archive of a replica at one applied index, kept for a backup while the replica goes on.
//!
//! The state is written to a file under the lock that applying waits for, as long as a snapshot takes; the archive's view is
//! taken under the same lock. The file's name goes at once: what was captured ends with the [`Source`], whatever becomes of
//! the process.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use storage::archive::{ArchiveError, ArchiveView, PartitionId};
use storage::codec::{CodecError, encode};
use storage::snapshot::{SnapshotError, SnapshotHead, SnapshotSource, SnapshotWriter};
use storage::state_store::{AppliedMark, Table};

use super::block::{BackedUpRow, RowPlace, RowsBlock};
use crate::machine::Replica;
use crate::node_id::Group;
use crate::records::StateRows;

/// Rows of one answer at most.
const ROWS_AT_ONCE: usize = 4096;

/// Why a replica could not be captured, or what was captured not be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A snapshot was received just now, and the entries behind it are not applied yet.
    #[error("this replica is being filled: try again in a moment")]
    Filling,
    /// The state's file.
    #[error("the state could not be written or read")]
    Snapshot(#[from] SnapshotError),
    /// The archive.
    #[error("the archive could not be read")]
    Archive(#[from] ArchiveError),
    /// An answer does not encode.
    #[error("a part of the backup does not encode")]
    Codec(#[from] CodecError),
    /// The folder for the file.
    #[error("the folder for the state's file cannot be made or removed")]
    Io(#[from] std::io::Error),
}

/// What was captured.
pub struct Source {
    index: u64,
    state: SnapshotSource,
    archive: Option<(ArchiveView, PartitionId)>,
}

impl Source {
    /// The last entry that it has.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Bytes of the state's file.
    pub fn state_bytes(&self) -> u64 {
        self.state.snapshot().file_bytes
    }

    /// A part of the state's file; empty at its end.
    ///
    /// # Errors
    /// [`CaptureError::Snapshot`].
    pub fn state_part(&self, offset: u64, bytes_max: usize) -> Result<Bytes, CaptureError> {
        Ok(self.state.chunk(offset, bytes_max)?)
    }

    /// Rows behind a place, as the bytes of a [`RowsBlock`].
    ///
    /// # Errors
    /// [`CaptureError::Archive`], [`CaptureError::Codec`].
    pub fn rows(&self, after: Option<&RowPlace>, bytes_max: usize) -> Result<Bytes, CaptureError> {
        let Some((view, partition)) = &self.archive else {
            return Ok(Bytes::new());
        };
        let after = after.map(Into::into);
        let rows = view.rows(*partition, after.as_ref(), ROWS_AT_ONCE, bytes_max)?;
        // Fewer than asked for may also be a full answer: the next one is empty then.
        let block = RowsBlock {
            partition: partition.0,
            ended: rows.is_empty(),
            rows: rows.into_iter().map(BackedUpRow::from).collect(),
        };
        Ok(Bytes::from(encode(&block)?))
    }
}

/// Writes a state into a file of its own, gives it opened, and removes its name.
pub(crate) fn captured(
    scratch: &Path,
    group: Group,
    write: impl FnOnce(u64, &mut SnapshotWriter) -> Result<(), SnapshotError>,
    index: u64,
) -> Result<SnapshotSource, CaptureError> {
    let folder = scratch.join(format!("backup-{:032x}", rand::random::<u128>()));
    fs::create_dir_all(&folder)?;
    let head = SnapshotHead {
        group: group.0,
        index,
        applied: AppliedMark(Bytes::new()),
    };
    let write = || -> Result<SnapshotSource, CaptureError> {
        let mut writer = SnapshotWriter::create(&folder, head)?;
        write(index, &mut writer)?;
        Ok(SnapshotSource::open(&writer.finish()?.path)?)
    };
    let source = write();
    fs::remove_dir_all(&folder)?;
    source
}

impl Replica {
    /// Captures state and archive as they are. `scratch`: where the state's file is written. Blocks on the disk, and holds up
    /// applying while the state is written.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn capture(&self, scratch: &Path) -> Result<Source, CaptureError> {
        let group = Group::of(self.surroundings.partition);
        let partition = PartitionId(self.surroundings.partition.0);
        let state = self.state();
        if !self.is_archive_even() {
            return Err(CaptureError::Filling);
        }
        // Index, state and archive rows move together, under this lock.
        let index = self.applied_index();
        let view = self.archive.view();
        let mut state = Some(state);
        let write = |_, writer: &mut SnapshotWriter| {
            let mut result = Ok(());
            if let Some(state) = state.take() {
                state.visit(&StateRows, &mut |table, key, value| {
                    if result.is_ok() {
                        result = writer.row(Table(table), key, value);
                    }
                });
            }
            result
        };
        let state = captured(scratch, group, write, index)?;
        Ok(Source {
            index,
            state,
            archive: Some((view, partition)),
        })
    }
}

impl Source {
    /// Of a state without an archive.
    pub(crate) fn of_state(index: u64, state: SnapshotSource) -> Source {
        Source {
            index,
            state,
            archive: None,
        }
    }
}
