//! A snapshot on its way to another replica: the file in chunks, resumable after a broken connection and a crash.
//!
//! The receiver tells how many bytes it has, the sender goes on from there. What is there is held against its blocks'
//! checksums whenever a transfer begins or goes on, so damage costs the bytes behind it and no more. **A received file is no
//! snapshot**: it lies under a name of its own until [`adopt`] gives it the group's, which is the one step that makes it count.
//!
//! ```text
//!  SnapshotReceiver::open ─► chunk … chunk ─► finish: whole and durable ─► adopt: renamed, the older ones go
//! ```

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::reader::sound_bytes;
use super::{Snapshot, SnapshotError, SnapshotReader, file_path, remove_older, verify};
use crate::durable;

/// What is received is made durable whenever so much has come.
const SYNC_BYTES: u64 = 8 << 20;

/// The sending side. It keeps the file readable even if a newer snapshot removes it meanwhile.
pub struct SnapshotSource {
    snapshot: Snapshot,
    file: File,
}

impl SnapshotSource {
    /// Opens a snapshot to send. Read it to its end before ([`verify`]): a receiver can't tell what was damaged before it was
    /// sent.
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
    group: u32,
    path: PathBuf,
    file: File,
    received: u64,
    synced: u64,
}

impl SnapshotReceiver {
    /// Starts receiving under a name that tells transfers apart, or goes on with one of that name. `transfer` must stand for
    /// the bytes of one file: chunks of two files in one would be found out only at the end.
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
        let stem = format!("{}{name}", received_prefix(group));
        // One transfer a group: what is left of another is given up.
        discard_but(dir, group, Some(&stem))?;
        let path = dir.join(format!("{stem}{}", durable::TEMPORARY_SUFFIX));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        let received = sound_bytes(&path)?;
        file.set_len(received)?;
        Ok(SnapshotReceiver {
            group,
            path,
            file,
            received,
            synced: received,
        })
    }

    /// How many bytes are there: where the sender goes on.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Where the file is. What belongs to the same transfer may lie beside it, under a longer name with the same beginning.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
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
        if self.received - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.received;
        }
        Ok(())
    }

    /// Makes the file durable and reads it to its end. It does not count yet: see [`adopt`].
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] gives up what lies behind the damage: another [`open`](Self::open) goes on before it.
    pub fn finish(self) -> Result<Snapshot, SnapshotError> {
        self.file.sync_all()?;
        match verify(&self.path, self.group) {
            Ok(snapshot) => Ok(snapshot),
            Err(SnapshotError::Io(error)) => Err(error.into()),
            Err(error) => {
                let sound = sound_bytes(&self.path)?;
                // Whole blocks that make no snapshot of this group, or more than one: nothing of it is of use.
                let kept = if sound < self.received { sound } else { 0 };
                self.file.set_len(kept)?;
                Err(error)
            }
        }
    }
}

/// Makes a received file, that [`SnapshotReceiver::finish`] has found whole, the group's snapshot; then the older ones go, and
/// what else was received for the group. A crash before leaves all as it was, and one behind it leaves the new snapshot.
///
/// # Errors
/// [`SnapshotError::Damaged`] if it is another group's, [`SnapshotError::Io`].
pub fn adopt(received: &Path, group: u32) -> Result<Snapshot, SnapshotError> {
    let snapshot = SnapshotReader::open(received)?.snapshot().clone();
    let head = &snapshot.manifest.head;
    let dir = received.parent().filter(|_| head.group == group);
    let dir = dir.ok_or(SnapshotError::Damaged("it is another group's"))?;
    let path = file_path(dir, group, head.index);
    fs::rename(received, &path)?;
    durable::sync_dir(dir)?;
    remove_older(dir, group, head.index)?;
    discard_received(dir, group)?;
    Ok(Snapshot { path, ..snapshot })
}

/// Removes what was received for a group and not adopted. That there is no folder is fine.
///
/// # Errors
/// Those of the disk.
pub fn discard_received(dir: &Path, group: u32) -> std::io::Result<()> {
    discard_but(dir, group, None)
}

/// The beginning of the names of all that is received for a group.
fn received_prefix(group: u32) -> String {
    format!("group-{group}-received-")
}

fn discard_but(dir: &Path, group: u32, kept: Option<&str>) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let prefix = received_prefix(group);
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let is_kept = kept.is_some_and(|stem| name.starts_with(stem.as_bytes()));
        if name.starts_with(prefix.as_bytes()) && !is_kept {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
