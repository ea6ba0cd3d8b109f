//! A snapshot on its way to another replica: the file in chunks, resumable after a broken connection.
//!
//! The receiver tells how many bytes it has, the sender goes on from there. The chunks need no checksums of their own: the
//! whole file is checked before it counts.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Snapshot, SnapshotError, SnapshotReader, file_path, remove_older, verify};
use crate::durable;

/// The sending side. It keeps the file readable even if a newer snapshot removes it meanwhile.
pub struct SnapshotSource {
    snapshot: Snapshot,
    file: File,
}

impl SnapshotSource {
    /// Opens a snapshot to send.
    ///
    /// # Errors
    /// As [`SnapshotReader::open`].
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        let file = File::open(path)?;
        let snapshot = SnapshotReader::open(path)?.snapshot().clone();
        Ok(SnapshotSource { snapshot, file })
    }

    /// What is sent.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// At most `bytes_max` bytes from an offset; empty at the end.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn chunk(&self, offset: u64, bytes_max: usize) -> Result<Bytes, SnapshotError> {
        let left =
            usize::try_from(self.snapshot.file_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut chunk = vec![0; left.min(bytes_max)];
        self.file.read_exact_at(&mut chunk, offset)?;
        Ok(Bytes::from(chunk))
    }
}

/// The receiving side. Dropped, it keeps what it has for the next try.
pub struct SnapshotReceiver {
    dir: PathBuf,
    group: u32,
    temporary: PathBuf,
    file: File,
    received: u64,
}

impl SnapshotReceiver {
    /// Starts receiving under a name that tells transfers apart, or goes on with one of that name. `transfer` must stand for
    /// one file of one sender, such as its digest: chunks of two files in one would be found out only at the end.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn open(dir: &Path, group: u32, transfer: &[u8; 32]) -> Result<Self, SnapshotError> {
        fs::create_dir_all(dir)?;
        let name: String = transfer
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let prefix = format!("group-{group}-received-");
        let temporary = dir.join(format!("{prefix}{name}{}", durable::TEMPORARY_SUFFIX));
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // One transfer a group: what is left of another is given up.
            if entry.path() != temporary
                && entry
                    .file_name()
                    .as_encoded_bytes()
                    .starts_with(prefix.as_bytes())
            {
                fs::remove_file(entry.path())?;
            }
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&temporary)?;
        let received = file.metadata()?.len();
        Ok(SnapshotReceiver {
            dir: dir.to_owned(),
            group,
            temporary,
            file,
            received,
        })
    }

    /// How many bytes are there: where the sender goes on.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Adds a chunk. One that is there already is passed over.
    ///
    /// # Errors
    /// [`SnapshotError::Gap`] if bytes before it are missing, [`SnapshotError::Io`].
    pub fn chunk(&mut self, offset: u64, chunk: &[u8]) -> Result<(), SnapshotError> {
        let gap = SnapshotError::Gap {
            offset,
            have: self.received,
        };
        let Some(known) = self.received.checked_sub(offset) else {
            return Err(gap);
        };
        let Some(new) = usize::try_from(known)
            .ok()
            .and_then(|known| chunk.get(known..))
        else {
            return Ok(());
        };
        self.file.write_all_at(new, self.received)?;
        self.received += new.len() as u64;
        Ok(())
    }

    /// Checks the whole file and makes it the group's snapshot; then the older ones go.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] removes what was received, so that the next try starts anew.
    pub fn finish(self) -> Result<Snapshot, SnapshotError> {
        self.file.sync_all()?;
        let snapshot = match verify(&self.temporary, self.group) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                fs::remove_file(&self.temporary)?;
                return Err(error);
            }
        };
        let head = &snapshot.manifest.head;
        let path = file_path(&self.dir, head.group, head.index);
        fs::rename(&self.temporary, &path)?;
        durable::sync_dir(&self.dir)?;
        remove_older(&self.dir, head.group, head.index)?;
        Ok(Snapshot { path, ..snapshot })
    }
}
