//! The data folder of a node: whose it is, that one process has it, and what lies where.
//!
//! ```text
//! <data folder>/
//!   identity             pool, node, when made: text, versioned
//!   begun                there was a log and an archive; whether the others have admitted this folder
//!   first-starts/<node>  the folder with which another node began
//!   pool-version         the version that the pool was at, if it is not the first
//!   lock                 locked while a process has the folder
//!   log/                 the write-ahead log of all groups
//!   archive/             messages and events
//!   state/<partition>/   the state stores
//!   snapshots/           of all groups
//!   scratch/             what is of no use to the next start
//! ```
//!
//! A folder belongs to one node of one pool for ever: a node that started on another's folder would vote twice. So would
//! one that started without its log, and one without its archive would show holes; each may lie on a disk of its own that
//! is not there one day. Once both have been there, a start without one of them is refused.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;

use crate::durable;
use crate::log::{LogDisk, SystemDisk};
use crate::snapshot;

mod first_start;
mod held;
mod pool_version;

pub use first_start::{Beginning, FolderId, answers_needed};
pub use held::HeldFolder;
pub use pool_version::pool_version_of;

const IDENTITY_FILE: &str = "identity";
const BEGUN_FILE: &str = "begun";
const LOCK_FILE: &str = "lock";
const LOG_DIR: &str = "log";
const ARCHIVE_DIR: &str = "archive";
const STATE_DIR: &str = "state";
const SNAPSHOTS_DIR: &str = "snapshots";
const SCRATCH_DIR: &str = "scratch";
const REMOVAL_PREFIX: &str = "removing-";

/// The version of the folder's arrangement.
const VERSION: u32 = 1;

/// What a simulated disk has left, whatever is on it.
const SIMULATED_FREE_BYTES: u64 = 1 << 40;

/// The longest pool id.
const POOL_ID_BYTES_MAX: usize = 255;

/// Whose folder it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The pool.
    pub pool_id: String,
    /// The node; ids are never used again.
    pub node_id: u64,
    /// When the folder was made, in seconds of Unix time.
    pub created: u64,
}

impl Identity {
    /// Whether the folder is this node's.
    ///
    /// # Errors
    /// [`DataDirError::OtherPool`] and [`DataDirError::OtherNode`].
    pub fn check(&self, path: &Path, pool_id: &str, node_id: u64) -> Result<(), DataDirError> {
        if self.pool_id != pool_id {
            return Err(DataDirError::OtherPool {
                path: path.to_owned(),
                found: self.pool_id.clone(),
                expected: pool_id.to_owned(),
            });
        }
        if self.node_id != node_id {
            return Err(DataDirError::OtherNode {
                path: path.to_owned(),
                found: self.node_id,
                expected: node_id,
            });
        }
        Ok(())
    }
}

/// A node's data folder, locked for this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    identity: Identity,
    is_new: bool,
    /// Held while it is looked up whether another node has begun before.
    admitting: Mutex<()>,
    /// The lock is the open file's.
    _lock: File,
}

impl DataDir {
    /// Opens the folder of this node, or makes one where there is nothing.
    ///
    /// # Errors
    /// All variants of [`DataDirError`]; each says what to do in its text.
    pub fn open(path: &Path, pool_id: &str, node_id: u64) -> Result<Self, DataDirError> {
        if pool_id.is_empty()
            || pool_id.len() > POOL_ID_BYTES_MAX
            || pool_id.contains(char::is_control)
        {
            return Err(DataDirError::BadPoolId);
        }
        let at = |source| DataDirError::Io {
            path: path.to_owned(),
            source,
        };
        // Only the server may read what users wrote.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(at)?;
        let lock = lock(path)?;
        let found = find_identity(path)?;
        let is_new = found.is_none();
        let identity = match found {
            Some(identity) => identity,
            None => make_identity(path, pool_id, node_id).map_err(at)?,
        };
        identity.check(path, pool_id, node_id)?;
        for dir in [LOG_DIR, ARCHIVE_DIR, STATE_DIR, SNAPSHOTS_DIR] {
            fs::create_dir_all(path.join(dir)).map_err(at)?;
        }
        if path.join(BEGUN_FILE).try_exists().map_err(at)? {
            nothing_is_lost(path)?;
        }
        durable::remove_tree(&path.join(SCRATCH_DIR)).map_err(at)?;
        durable::sync_dir(path).map_err(at)?;
        Ok(DataDir {
            path: path.to_owned(),
            identity,
            is_new,
            admitting: Mutex::new(()),
            _lock: lock,
        })
    }

    /// Reads whose folder it is without opening it: a node learns its own id from its folder. `None` if there is nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn identity_of(path: &Path) -> Result<Option<Identity>, DataDirError> {
        match path.try_exists() {
            Ok(true) => find_identity(path),
            Ok(false) => Ok(None),
            Err(source) => Err(DataDirError::Io {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Whether this opening made the folder. A member of the pool whose folder is new has lost its disk: it may not come back
    /// under its id.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whose folder it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
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

    /// The folder of a partition's state store.
    #[must_use]
    pub fn state_dir(&self, partition: u32) -> PathBuf {
        self.path.join(STATE_DIR).join(partition.to_string())
    }

    /// The folder of all snapshots.
    #[must_use]
    pub fn snapshots_dir(&self) -> PathBuf {
        self.path.join(SNAPSHOTS_DIR)
    }

    /// A folder for what this process needs for a while; it need not be there, and the next opening empties it.
    #[must_use]
    pub fn scratch_dir(&self) -> PathBuf {
        self.path.join(SCRATCH_DIR)
    }

    fn removal_note(&self, partition: u32) -> PathBuf {
        self.path.join(format!("{REMOVAL_PREFIX}{partition}"))
    }

    /// Notes that the data of a partition's replica is about to be removed: the next start does it if this process does not.
    ///
    /// # Errors
    /// Those of the disk; then it may be noted or not.
    pub fn note_removal(&self, partition: u32) -> io::Result<()> {
        durable::replace_file(&self.removal_note(partition), b"")
    }

    /// The partitions whose data was about to be removed.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn noted_removals(&self) -> io::Result<Vec<u32>> {
        let mut noted = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(REMOVAL_PREFIX));
            noted.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        Ok(noted)
    }

    /// Removes snapshots and state store of a partition's replica, which is not open, and then the note. `group`: as its
    /// snapshots name it. What is not there is fine, so it may be done again.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn remove_replica(&self, partition: u32, group: u32) -> io::Result<()> {
        snapshot::remove_all(&self.snapshots_dir(), group)?;
        durable::remove_tree(&self.state_dir(partition))?;
        durable::sync_dir(&self.path.join(STATE_DIR))?;
        match fs::remove_file(self.removal_note(partition)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        durable::sync_dir(&self.path)
    }

    /// Bytes that archive, state stores and snapshots take on the disk. Files that come and go meanwhile may be left out.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn replica_bytes(&self) -> io::Result<u64> {
        let mut folders = vec![
            self.archive_dir(),
            self.path.join(STATE_DIR),
            self.snapshots_dir(),
        ];
        let mut bytes = 0;
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                    // Preallocated files take what they have of the disk, not their length.
                    Ok(metadata) => bytes += metadata.blocks() * 512,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(bytes)
    }

    /// Bytes that are free on the disk of the archive, which has most.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn free_bytes(&self) -> io::Result<u64> {
        if cfg!(feature = "simulation") {
            // What the machine has that plays many seeds at a time is no business of any of them.
            return Ok(SIMULATED_FREE_BYTES);
        }
        SystemDisk.free_bytes(&self.archive_dir())
    }
}

/// Why a data folder cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// The pool id is empty, too long or has control characters.
    #[error("a pool id is 1 to {POOL_ID_BYTES_MAX} bytes without control characters")]
    BadPoolId,
    /// Another process has it.
    #[error("the data folder {} is in use by another process: stop that one first", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// It is another pool's.
    #[error("the data folder {} belongs to pool {found:?}, not to {expected:?}: give this node a folder of its own", path.display())]
    OtherPool {
        /// The folder.
        path: PathBuf,
        /// Its pool.
        found: String,
        /// This node's pool.
        expected: String,
    },
    /// It is another node's.
    #[error("the data folder {} belongs to node {found}, not to node {expected}: give this node a folder of its own", path.display())]
    OtherNode {
        /// The folder.
        path: PathBuf,
        /// Its node.
        found: u64,
        /// This node.
        expected: u64,
    },
    /// There are files in it that are not a node's.
    #[error("the folder {} holds other files and no identity: give the node an empty folder", path.display())]
    NotADataDir {
        /// The folder.
        path: PathBuf,
    },
    /// A newer version made it.
    #[error("the data folder {} is of version {version}, this program knows up to {VERSION}: use the newer program", path.display())]
    Version {
        /// The folder.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The identity file does not read.
    #[error("the identity file of the data folder {} is damaged: restore it or start this node anew under a new id", path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
    },
    /// What is known of a first start does not read.
    #[error("{} is damaged: restore it; if that can't be, the node must start anew under a new id", path.display())]
    DamagedMark {
        /// The file.
        path: PathBuf,
    },
    /// What the node had promised, or what it had stored, is gone.
    #[error(
        "{} is empty, and the node has run before: mount its disk, or restore it; if it is lost, the node must not come back under \
         its id, for it has forgotten what it promised",
        path.display()
    )]
    Lost {
        /// The folder that is empty.
        path: PathBuf,
    },
    /// The disk reports an error.
    #[error("the data folder {} cannot be used", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// The disk's error.
        #[source]
        source: io::Error,
    },
}

/// The log and the archive of a node that has run are there; how sound they are is theirs to say.
fn nothing_is_lost(path: &Path) -> Result<(), DataDirError> {
    let (log, archive) = (path.join(LOG_DIR), path.join(ARCHIVE_DIR));
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| DataDirError::Io { path, source }
    };
    if !crate::log::is_in(&log).map_err(at(&log))? {
        return Err(DataDirError::Lost { path: log });
    }
    for entry in fs::read_dir(&archive).map_err(at(&archive))? {
        // A file system's own, on a disk that was just made.
        if entry.map_err(at(&archive))?.file_name() != "lost+found" {
            return Ok(());
        }
    }
    Err(DataDirError::Lost { path: archive })
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(LOCK_FILE));
    let file = file.map_err(|source| DataDirError::Io {
        path: path.to_owned(),
        source,
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(DataDirError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The identity in a folder; `None` if the folder is empty but for what an opening makes before the identity.
fn find_identity(path: &Path) -> Result<Option<Identity>, DataDirError> {
    let at = |source| DataDirError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::read(path.join(IDENTITY_FILE)) {
        Ok(bytes) => match read_identity(&bytes) {
            Ok(identity) => Ok(Some(identity)),
            Err(Some(version)) => Err(DataDirError::Version {
                path: path.to_owned(),
                version,
            }),
            Err(None) => Err(DataDirError::Damaged {
                path: path.to_owned(),
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for entry in fs::read_dir(path).map_err(at)? {
                let name = entry.map_err(at)?.file_name();
                let ours = [LOCK_FILE, "lost+found"].iter().any(|ours| name == *ours)
                    || name.to_str()
                        == Some(&format!("{IDENTITY_FILE}{}", durable::TEMPORARY_SUFFIX));
                if !ours {
                    return Err(DataDirError::NotADataDir {
                        path: path.to_owned(),
                    });
                }
            }
            Ok(None)
        }
        Err(source) => Err(at(source)),
    }
}

/// Writes a new identity.
fn make_identity(path: &Path, pool_id: &str, node_id: u64) -> io::Result<Identity> {
    let created = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let identity = Identity {
        pool_id: pool_id.to_owned(),
        node_id,
        created,
    };
    durable::replace_file(
        &path.join(IDENTITY_FILE),
        identity_text(&identity).as_bytes(),
    )?;
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        durable::sync_dir(parent)?;
    }
    Ok(identity)
}

/// The identity file. Its last line is a checksum, as a flipped digit would be another node.
fn identity_text(identity: &Identity) -> String {
    let Identity {
        pool_id,
        node_id,
        created,
    } = identity;
    let text =
        format!("muster data {VERSION}\npool {pool_id}\nnode {node_id}\ncreated {created}\n");
    format!("{text}crc32c {:08x}\n", crc32c::crc32c(text.as_bytes()))
}

/// The inverse of [`identity_text`]; the error is the version, if that is what is unknown.
fn read_identity(bytes: &[u8]) -> Result<Identity, Option<u32>> {
    let text = str::from_utf8(bytes).map_err(|_| None)?;
    let version = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("muster data ")?.parse::<u32>().ok())
        .ok_or(None)?;
    if version != VERSION {
        return Err(Some(version));
    }
    let read = || {
        let mut lines = text.lines().skip(1);
        let pool_id = lines.next()?.strip_prefix("pool ")?.to_owned();
        let node_id = lines.next()?.strip_prefix("node ")?.parse().ok()?;
        let created = lines.next()?.strip_prefix("created ")?.parse().ok()?;
        let identity = Identity {
            pool_id,
            node_id,
            created,
        };
        // Checks the checksum and that nothing else is there.
        (identity_text(&identity) == text).then_some(identity)
    };
    read().ok_or(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(path: &Path, pool_id: &str, node_id: u64) -> String {
        DataDir::open(path, pool_id, node_id)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_folder_is_made_once_and_kept() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/data");
        assert_eq!(DataDir::identity_of(&path).unwrap(), None);
        let dir = DataDir::open(&path, "pool 1", 7).unwrap();
        assert!(dir.is_new());
        let identity = dir.identity().clone();
        assert!(
            dir.log_dir().is_dir() && dir.archive_dir().is_dir() && dir.snapshots_dir().is_dir()
        );
        assert!(dir.state_dir(12).ends_with("state/12"));
        drop(dir);
        let dir = DataDir::open(&path, "pool 1", 7).unwrap();
        assert!(!dir.is_new());
        assert_eq!(*dir.identity(), identity);
        assert_eq!(DataDir::identity_of(&path).unwrap(), Some(identity));
    }

    /// It used to start with an empty log where the log's disk was not mounted, and voted twice.
    #[test]
    fn a_node_that_has_run_does_not_start_without_its_log_or_archive() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path(), "pool", 7).unwrap();
        let (log, archive) = (dir.log_dir(), dir.archive_dir());
        drop(dir);
        // Before it has begun there is nothing to lose.
        let dir = DataDir::open(parent.path(), "pool", 7).unwrap();
        let (segment, table) = (log.join("00000001.segment"), archive.join("0.jnl"));
        fs::write(&segment, "x").unwrap();
        fs::write(log.join("1.spare"), "x").unwrap();
        fs::write(&table, "x").unwrap();
        dir.begin(FolderId([1; 16])).unwrap();
        drop(dir);
        drop(DataDir::open(parent.path(), "pool", 7).unwrap());
        for (gone, folder) in [(&segment, &log), (&table, &archive)] {
            let kept = fs::read(gone).unwrap();
            fs::remove_file(gone).unwrap();
            fs::create_dir_all(folder.join("lost+found")).unwrap();
            let said = refusal(parent.path(), "pool", 7);
            let expected = format!("{} is empty, and the node has run before", folder.display());
            assert!(said.contains(&expected), "{said}");
            fs::write(gone, kept).unwrap();
            drop(DataDir::open(parent.path(), "pool", 7).unwrap());
        }
        fs::remove_dir_all(&log).unwrap();
        assert!(refusal(parent.path(), "pool", 7).contains("has run before"));
    }

    #[test]
    fn other_folders_are_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path(), "one", 7).unwrap();
        assert!(refusal(dir.path(), "one", 7).contains("in use by another process"));
        drop(held);
        assert!(refusal(dir.path(), "two", 7).contains("belongs to pool \"one\", not to \"two\""));
        assert!(refusal(dir.path(), "one", 8).contains("belongs to node 7, not to node 8"));
        for pool_id in ["", "a\nb", &"x".repeat(256)] {
            assert!(refusal(dir.path(), pool_id, 7).contains("a pool id is"));
        }
        let identity = dir.path().join(IDENTITY_FILE);
        let text = fs::read_to_string(&identity).unwrap();
        fs::write(&identity, text.replace("data 1", "data 2")).unwrap();
        assert!(refusal(dir.path(), "one", 7).contains("is of version 2"));
        fs::write(&identity, text.replace("node 7", "node 8")).unwrap();
        assert!(refusal(dir.path(), "one", 8).contains("is damaged"));
        fs::remove_file(&identity).unwrap();
        assert!(refusal(dir.path(), "one", 7).contains("holds other files and no identity"));
    }

    #[test]
    fn every_flipped_bit_of_the_identity_is_seen() {
        let text = identity_text(&Identity {
            pool_id: "pool".into(),
            node_id: 3,
            created: 1_700_000_000,
        });
        assert!(read_identity(text.as_bytes()).is_ok());
        for at in 0..text.len() * 8 {
            let mut damaged = text.clone().into_bytes();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(read_identity(&damaged).is_err(), "bit {at}");
        }
    }

    proptest! {
        #[test]
        fn any_identity_file_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), head: bool) {
            let bytes = [if head { &b"muster data 1\npool a\nnode "[..] } else { &[] }, &bytes].concat();
            prop_assert!(read_identity(&bytes).is_err());
        }

        #[test]
        fn identities_come_back(pool_id in "[^\\p{Cc}]{1,50}", node_id: u64, created: u64) {
            let identity = Identity { pool_id, node_id, created };
            prop_assert_eq!(read_identity(identity_text(&identity).as_bytes()), Ok(identity));
        }
    }
}
