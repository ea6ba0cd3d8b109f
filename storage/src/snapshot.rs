//! Snapshots of a partition's state: one file with a manifest and the rows, written and read as a stream.
//!
//! A snapshot is what allows the log to be purged and what a rebuilt state store is filled from, so a damaged one must never
//! be taken for a whole one: each block has a checksum over its number, kind and bytes, and the end repeats how many rows
//! there were and their hash.
//!
//! ```text
//! file   magic 8 | head block | rows block … | end block
//! block  length u32 LE | crc32c u32 LE (over number u64 LE, kind, payload) | kind u8 | payload
//! head   version u8 | group u32 LE | index u64 LE | applied mark
//! rows   (table u8 | key length u32 LE | value length u32 LE | key | value) …
//! end    rows u64 LE | bytes of keys and values u64 LE | SHA-256 of all rows payloads
//! ```
//!
//! A file is written under a temporary name, fsynced, read back, renamed, and its directory fsynced; then the older ones go.
//! Names hold group and index, so that the newest is found without opening any. Memory: one block.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::durable;
use crate::state_store::AppliedMark;

mod block;
mod reader;
mod transfer;
mod writer;

pub use reader::{SnapshotReader, SnapshotRow, verify};
pub use transfer::{SnapshotReceiver, SnapshotSource, adopt, discard_received};
pub use writer::SnapshotWriter;

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The Raft group.
    pub group: u32,
    /// The index of the last applied entry; names the file and orders snapshots.
    pub index: u64,
    /// The applied mark of the state store at this point.
    pub applied: AppliedMark,
}

/// A whole snapshot: its head and what its end says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What it is of.
    pub head: SnapshotHead,
    /// How many rows it has.
    pub rows: u64,
    /// The bytes of all keys and values.
    pub bytes: u64,
    /// The hash of all rows in their order: equal for replicas in the same state.
    pub digest: [u8; 32],
}

/// A snapshot file whose head and end were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// Its head and end. The rows between are checked as they are read.
    pub manifest: Manifest,
}

impl Snapshot {
    /// Stands for the bytes of the file, which follow from its head and its rows: two replicas may have written the same.
    #[must_use]
    pub fn identity(&self) -> [u8; 32] {
        let manifest = &self.manifest;
        let mut hasher = Sha256::new();
        hasher.update(manifest.head.group.to_le_bytes());
        hasher.update(manifest.head.index.to_le_bytes());
        hasher.update(self.file_bytes.to_le_bytes());
        hasher.update(manifest.digest);
        hasher.update(&manifest.head.applied.0);
        hasher.finalize().into()
    }
}

/// What can go wrong with a snapshot.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The file is cut short, flipped or no snapshot: use another one or fetch it from a replica.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// A version that this binary cannot read.
    #[error("version {0} of a snapshot is not known here")]
    Version(u8),
    /// A row or applied mark over the limits of the state store.
    #[error("a row is too long for a snapshot")]
    TooLong,
    /// A chunk of a transfer does not continue what is there.
    #[error("a chunk at {offset} does not continue the {have} bytes received")]
    Gap {
        /// Where the chunk begins.
        offset: u64,
        /// How much is there: where to go on.
        have: u64,
    },
    /// The disk reports an error.
    #[error("a snapshot cannot be read or written")]
    Io(#[from] std::io::Error),
}

/// The newest snapshot of a group whose head and end are right, if there is one. Damaged ones are passed over with a warning:
/// the caller checks that its log goes on from the index it gets.
///
/// # Errors
/// [`SnapshotError::Io`] if the folder cannot be read; that it does not exist means none.
pub fn latest(dir: &Path, group: u32) -> Result<Option<Snapshot>, SnapshotError> {
    let mut found = files_of(dir, group)?;
    found.sort_unstable_by(|a, b| b.cmp(a));
    for (index, path) in found {
        match SnapshotReader::open(&path) {
            Ok(reader) if reader.snapshot().manifest.head.index == index => {
                return Ok(Some(reader.snapshot().clone()));
            }
            Ok(_) => {
                tracing::warn!(path = %path.display(), "a snapshot is passed over: its name is not its own")
            }
            Err(SnapshotError::Io(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a snapshot is passed over")
            }
        }
    }
    Ok(None)
}

/// Makes the names in the folder durable, for what a crash left between a renaming and its fsync: what is found there may
/// then be relied on. That there is no folder is fine.
///
/// # Errors
/// Those of the disk.
pub fn settle(dir: &Path) -> std::io::Result<()> {
    match durable::sync_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes a damaged snapshot out of the way, so that it no longer counts, and keeps it for whoever looks into the damage.
///
/// # Errors
/// Those of the disk.
pub fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(DAMAGED_SUFFIX);
    let aside = PathBuf::from(aside);
    std::fs::rename(path, &aside)?;
    path.parent().map_or(Ok(()), durable::sync_dir)?;
    Ok(aside)
}

/// The end of the name of a snapshot that no longer counts.
const DAMAGED_SUFFIX: &str = ".damaged";

/// Where the snapshot of a group at an index is.
fn file_path(dir: &Path, group: u32, index: u64) -> PathBuf {
    dir.join(format!("group-{group}-{index:020}.snapshot"))
}

/// The index and path of each snapshot of a group, damaged ones included.
/// All files that are named as snapshots: group, index and path, in this order; whether they are whole is not looked at.
///
/// # Errors
/// Those of the disk; that there is no folder means none.
pub fn list(dir: &Path) -> std::io::Result<Vec<(u32, u64, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let place = name.to_str().and_then(|name| {
            let name = name.strip_prefix("group-")?.strip_suffix(".snapshot")?;
            let (group, index) = name.split_once('-')?;
            Some((group.parse().ok()?, index.parse().ok()?))
        });
        found.extend(place.map(|(group, index)| (group, index, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

fn files_of(dir: &Path, group: u32) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let prefix = format!("group-{group}-");
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let index = name.to_str().and_then(|name| {
            name.strip_prefix(&prefix)?
                .strip_suffix(".snapshot")?
                .parse()
                .ok()
        });
        found.extend(index.map(|index| (index, entry.path())));
    }
    Ok(found)
}

/// Removes all snapshots of a group, and what was received of others. That there is no folder is fine.
///
/// # Errors
/// Those of the disk.
pub fn remove_all(dir: &Path, group: u32) -> std::io::Result<()> {
    remove_older(dir, group, u64::MAX)?;
    discard_received(dir, group)?;
    settle(dir)
}

/// Removes a group's snapshots older than an index.
fn remove_older(dir: &Path, group: u32, index: u64) -> std::io::Result<()> {
    for (older, path) in files_of(dir, group)? {
        if older < index {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The bytes of a head block.
fn head_bytes(head: &SnapshotHead) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(13 + head.applied.0.len());
    bytes.push(block::VERSION);
    bytes.extend_from_slice(&head.group.to_le_bytes());
    bytes.extend_from_slice(&head.index.to_le_bytes());
    bytes.extend_from_slice(&head.applied.0);
    bytes
}

/// The inverse of [`head_bytes`].
fn read_head(bytes: &[u8]) -> Result<SnapshotHead, SnapshotError> {
    let damaged = || SnapshotError::Damaged("its head is too short");
    let (&version, rest) = bytes.split_first().ok_or_else(damaged)?;
    if version != block::VERSION {
        return Err(SnapshotError::Version(version));
    }
    let (group, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let (index, applied) = rest.split_first_chunk().ok_or_else(damaged)?;
    Ok(SnapshotHead {
        group: u32::from_le_bytes(*group),
        index: u64::from_le_bytes(*index),
        applied: AppliedMark(Bytes::copy_from_slice(applied)),
    })
}
