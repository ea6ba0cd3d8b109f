//! Looks through a stopped node's folder: everything that a start relies on, and what only a later read would find.
//!
//! ```text
//! log        frames, checksums, no group's entries have a hole; every record and entry reads
//! snapshots  name, head, end and hash; every row reads
//! state      every row reads; the store or a snapshot reaches the log's beginning
//! archive    the engine reads every row, and each is what its place says; no user's log ends before its head
//! replicas   the hash of each partition's state and archive: those of several nodes at the same entry must be the same (P16)
//! ```
//!
//! Invariant: nothing in the folder is changed. Engines write when they are opened, so they get a copy of what they change.

mod replicas;
mod stores;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use storage::data_dir::HeldFolder;
use storage::log::{GroupId, InspectedLog, LogError};
use storage::state_store::StateHash;

use crate::node_id::Group;
use crate::raft::{LogReach, check_group};
pub use replicas::{CheckedReplica, compare};

/// What a node that begins again makes of a damaged log.
const LOG_ADVICE: &str = "keep a copy of the folder, then start the node: what it has lost it gets from the other nodes, and until \
     then it does not vote. A node alone in its pool refuses to start: restore the pool from a backup";
/// For a group that would not start.
const GROUP_ADVICE: &str = "the group would not start here: take the node out of the pool and let a new one join in its place; \
     a node alone: restore the pool from a backup";
/// For marks of the folder.
const FOLDER_ADVICE: &str = "mount the disk that is missing, or put the file back; what is lost for good: take the node out of \
     the pool and let a new one join in its place";

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing: the next start gets over it without loss.
    Note,
    /// Something that was written is not there any more.
    Damage,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where: a file, or a store and a place in it.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Segments of the log.
    pub segments: u64,
    /// Entries in it.
    pub entries: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Rows of state stores.
    pub state_rows: u64,
    /// Rows of the archive.
    pub archive_rows: u64,
}

/// Hears how a check goes.
pub trait CheckWatcher {
    /// Something was found.
    fn found(&mut self, finding: Finding);

    /// So much has been looked at.
    fn seen(&mut self, checked: &Checked);
}

/// Why a folder can't be looked through to the end. What is damaged is a [`Finding`].
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The log's files.
    #[error("the log can't be read")]
    Log(#[from] LogError),
    /// A file or folder.
    #[error("{} can't be read or copied", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// How far what a group's state is made of goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct StateReach {
    /// The store's mark.
    store: Option<u64>,
    /// The newest whole snapshot.
    snapshot: Option<u64>,
}

/// A check under way.
struct Check<'a> {
    folder: &'a HeldFolder,
    scratch: &'a Path,
    watcher: &'a mut dyn CheckWatcher,
    checked: Checked,
    logs: BTreeMap<Group, LogReach>,
    states: BTreeMap<Group, StateReach>,
    heads: BTreeMap<Group, Heads>,
    /// Of each store: up to which entry it goes, and the hash of its rows.
    hashes: BTreeMap<Group, (u64, StateHash)>,
    replicas: Vec<CheckedReplica>,
}

/// What a check has come to, besides its findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What was looked at.
    pub checked: Checked,
    /// The partitions of which all that the log has is in the state and the archive: what they hold.
    pub replicas: Vec<CheckedReplica>,
}

/// What the newest state of a partition knows of its users' logs.
#[derive(Default)]
struct Heads {
    /// Of which entry.
    index: u64,
    /// Each user whose archive has a last row, and its number.
    rows: Vec<(String, u64)>,
}

/// Looks through a folder. `scratch`: an empty folder for copies of the state stores and of the archive's newest rows.
///
/// # Errors
/// [`CheckError`], where it could not be looked at.
pub fn check_folder(
    folder: &HeldFolder,
    scratch: &Path,
    watcher: &mut dyn CheckWatcher,
) -> Result<Outcome, CheckError> {
    let mut check = Check {
        folder,
        scratch,
        watcher,
        checked: Checked::default(),
        logs: BTreeMap::new(),
        states: BTreeMap::new(),
        heads: BTreeMap::new(),
        hashes: BTreeMap::new(),
        replicas: Vec::new(),
    };
    check.marks();
    check.log()?;
    check.snapshots()?;
    check.stores()?;
    check.reach();
    check.archive()?;
    Ok(Outcome {
        checked: check.checked,
        replicas: check.replicas,
    })
}

impl Check<'_> {
    fn damage(&mut self, place: impl Into<String>, what: impl Into<String>, advice: &'static str) {
        self.watcher.found(Finding {
            severity: Severity::Damage,
            place: place.into(),
            what: what.into(),
            advice,
        });
    }

    fn note(&mut self, place: impl Into<String>, what: impl Into<String>, advice: &'static str) {
        self.watcher.found(Finding {
            severity: Severity::Note,
            place: place.into(),
            what: what.into(),
            advice,
        });
    }

    fn seen(&mut self) {
        self.watcher.seen(&self.checked);
    }

    fn marks(&mut self) {
        let mut lost = self.folder.lost();
        lost.extend(self.folder.identity().err());
        for error in lost {
            self.damage("folder", sentence(&error), FOLDER_ADVICE);
        }
    }

    fn log(&mut self) -> Result<(), CheckError> {
        let dir = self.folder.log_dir();
        if !dir.is_dir() {
            self.damage("log", "it is not there", LOG_ADVICE);
            return Ok(());
        }
        let log = InspectedLog::open(&dir)?;
        self.checked.segments = log.segments() as u64;
        self.seen();
        for path in log.headless() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let place = format!("log/{name}");
            self.damage(place, "its header does not read", LOG_ADVICE);
        }
        let recovered = log.recovered();
        for damage in &recovered.damage {
            let place = format!("log/{:08x}.segment, byte {}", damage.segment, damage.offset);
            let what = match damage.frames {
                0 => "records are lost from here on".to_owned(),
                frames => format!("{frames} records before this place are lost"),
            };
            self.damage(place, what, LOG_ADVICE);
        }
        let sound = recovered.damage.is_empty() && log.headless().is_empty();
        for (group, state) in log.groups() {
            let group = Group(group.0);
            let place = format!("log, {group}");
            if state.quarantined && sound {
                let what = "it lost records before, and does not vote until it has caught up";
                self.note(place.clone(), what, "start the node");
            } else if recovered.quarantined.contains(&GroupId(group.0)) {
                self.damage(place.clone(), "it may have lost records", LOG_ADVICE);
            }
            let mut nonsense = Vec::new();
            let (watcher, checked) = (&mut *self.watcher, &mut self.checked);
            let mut entries = |seen| {
                checked.entries += seen;
                watcher.seen(checked);
            };
            let mut tell = |what| nonsense.push(what);
            let reach = check_group(&log, group, &state, &mut tell, &mut entries)?;
            for what in nonsense {
                self.damage(place.clone(), what, LOG_ADVICE);
            }
            self.logs.insert(group, reach);
        }
        Ok(())
    }

    /// Whether each group's state can be brought to where its log goes on.
    fn reach(&mut self) {
        let groups: BTreeSet<Group> = self
            .logs
            .keys()
            .chain(self.states.keys())
            .copied()
            .collect();
        for group in groups {
            let log = self.logs.get(&group).copied().unwrap_or(LogReach {
                purged: None,
                last: None,
            });
            let state = self.states.get(&group).copied().unwrap_or_default();
            let begin = state.store.max(state.snapshot);
            let place = group.to_string();
            if log.purged > begin {
                let what = format!(
                    "its log is purged up to {}, and neither its store nor a snapshot goes as far",
                    log.purged.unwrap_or_default()
                );
                self.damage(place, what, GROUP_ADVICE);
            } else if log.last < begin {
                // Committed elsewhere, applied here, and not yet on this disk when the node ended.
                let what = format!(
                    "its state is at {}, its log ends before",
                    begin.unwrap_or_default()
                );
                self.note(place, what, "the other nodes have the rest: start the node");
            }
        }
    }
}

/// An error with its causes in one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
