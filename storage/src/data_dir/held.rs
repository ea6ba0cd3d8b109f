//! The folder of a node that does not run, for who only looks: it is locked, and nothing in it is changed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::first_start::{damaged_memories, read_mark};
use super::{
    ARCHIVE_DIR, BEGUN_FILE, DataDirError, Identity, LOCK_FILE, LOG_DIR, SNAPSHOTS_DIR, STATE_DIR,
    find_identity, nothing_is_lost,
};

/// A folder that no node has while this lives.
#[derive(Debug)]
pub struct HeldFolder {
    path: PathBuf,
    /// A folder whose lock file is gone has nobody who holds it.
    _lock: Option<File>,
}

impl HeldFolder {
    /// Locks a folder.
    ///
    /// # Errors
    /// [`DataDirError::InUse`]; [`DataDirError::NotADataDir`] where there is neither an identity nor a log;
    /// [`DataDirError::Io`].
    pub fn hold(path: &Path) -> Result<HeldFolder, DataDirError> {
        let at = |source| DataDirError::Io {
            path: path.to_owned(),
            source,
        };
        fs::read_dir(path).map_err(at)?;
        let lock = match File::open(path.join(LOCK_FILE)) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => Some(lock),
                Err(TryLockError::WouldBlock) => {
                    return Err(DataDirError::InUse {
                        path: path.to_owned(),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(at(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(at(error)),
        };
        let held = HeldFolder {
            path: path.to_owned(),
            _lock: lock,
        };
        let has_log = held.log_dir().is_dir();
        match find_identity(path) {
            Ok(None) | Err(DataDirError::NotADataDir { .. }) if !has_log => {
                Err(DataDirError::NotADataDir {
                    path: path.to_owned(),
                })
            }
            _ => Ok(held),
        }
    }

    /// Whose folder it is.
    ///
    /// # Errors
    /// [`DataDirError::NotADataDir`] if its identity is gone, and what makes one unreadable.
    pub fn identity(&self) -> Result<Identity, DataDirError> {
        find_identity(&self.path)?.ok_or_else(|| DataDirError::NotADataDir {
            path: self.path.clone(),
        })
    }

    /// Why a node would not start here, by the folder's marks: log and archive are there once it has begun, and what is
    /// remembered of first starts reads.
    #[must_use]
    pub fn lost(&self) -> Vec<DataDirError> {
        let mut lost = Vec::new();
        let begun = self.path.join(BEGUN_FILE);
        match fs::read(&begun) {
            Ok(bytes) => {
                lost.extend(nothing_is_lost(&self.path).err());
                let read = str::from_utf8(&bytes).ok().and_then(read_mark);
                if read.is_none() {
                    lost.push(DataDirError::DamagedMark { path: begun });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => lost.push(DataDirError::Io {
                path: begun,
                source,
            }),
        }
        lost.extend(damaged_memories(&self.path));
        lost
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the write-ahead log.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.path.join(LOG_DIR)
    }

    /// The folder of the archive.
    #[must_use]
    pub fn archive_dir(&self) -> PathBuf {
        self.path.join(ARCHIVE_DIR)
    }

    /// The folder of a group's state store.
    #[must_use]
    pub fn state_dir(&self, group: u32) -> PathBuf {
        self.path.join(STATE_DIR).join(group.to_string())
    }

    /// The groups that have a state store, in order.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn stores(&self) -> io::Result<Vec<u32>> {
        let mut groups = Vec::new();
        let entries = match fs::read_dir(self.path.join(STATE_DIR)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(groups),
            entries => entries?,
        };
        for entry in entries {
            let name = entry?.file_name();
            groups.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        groups.sort_unstable();
        Ok(groups)
    }

    /// The folder of all snapshots.
    #[must_use]
    pub fn snapshots_dir(&self) -> PathBuf {
        self.path.join(SNAPSHOTS_DIR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::{DataDir, FolderId};

    #[test]
    fn a_folder_is_held_and_unchanged() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path(), "pool", 7).unwrap();
        let in_use = HeldFolder::hold(parent.path()).unwrap_err().to_string();
        assert!(in_use.contains("in use by another process"), "{in_use}");
        fs::write(dir.log_dir().join("00000001.segment"), "x").unwrap();
        fs::write(dir.archive_dir().join("0.jnl"), "x").unwrap();
        dir.begin(FolderId([1; 16])).unwrap();
        dir.admits(3, FolderId([3; 16])).unwrap();
        drop(dir);
        let held = HeldFolder::hold(parent.path()).unwrap();
        assert_eq!(held.identity().unwrap().node_id, 7);
        assert_eq!(held.lost().len(), 0);
        let refused = DataDir::open(parent.path(), "pool", 7).unwrap_err();
        assert!(refused.to_string().contains("in use"), "{refused}");
        drop(held);
        drop(DataDir::open(parent.path(), "pool", 7).unwrap());
    }

    #[test]
    fn what_is_lost_is_told() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path();
        let none = HeldFolder::hold(path).unwrap_err().to_string();
        assert!(none.contains("no identity"), "{none}");
        let dir = DataDir::open(path, "pool", 7).unwrap();
        let segment = dir.log_dir().join("00000001.segment");
        fs::write(&segment, "x").unwrap();
        fs::write(dir.archive_dir().join("0.jnl"), "x").unwrap();
        dir.begin(FolderId([1; 16])).unwrap();
        dir.admits(3, FolderId([3; 16])).unwrap();
        drop(dir);
        let said = |path: &Path| {
            let held = HeldFolder::hold(path).unwrap();
            let mut lost = held.lost();
            lost.extend(held.identity().err());
            lost.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(said(path), Vec::<String>::new());
        fs::remove_file(&segment).unwrap();
        let gone = said(path);
        assert!(gone.len() == 1 && gone[0].contains("is empty"), "{gone:?}");
        fs::write(path.join(BEGUN_FILE), "asking 1\n").unwrap();
        fs::write(path.join("first-starts/3"), "03").unwrap();
        fs::write(path.join("identity"), "muster data 1\n").unwrap();
        let all = said(path).join("\n");
        for what in [
            "begun is damaged",
            "first-starts/3 is damaged",
            "identity file",
        ] {
            assert!(all.contains(what), "{all}");
        }
    }
}
