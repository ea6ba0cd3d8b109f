//! Folders in memory, a disk that needs no time, and logs made from choices.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use storage::log::{GroupId, GroupState, Log, LogDisk, LogEntry, LogError, LogOptions};
use tempfile::TempDir;

use crate::Choices;

/// The smallest segments there are.
pub const SEGMENT_BYTES: u64 = 8 << 10;

/// Groups in a log.
pub const GROUPS: u32 = 3;

struct Quick;

impl LogDisk for Quick {
    fn sync(&self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

/// Small segments and no waiting.
pub fn options() -> LogOptions {
    LogOptions {
        segment_bytes: SEGMENT_BYTES,
        sync_interval: Duration::ZERO,
        segments_max: Some(64),
        disk_free_bytes_min: 0,
        on_disk_error: |error| panic!("{error}"),
        disk: Arc::new(Quick),
        ..LogOptions::default()
    }
}

/// A folder in memory, if there is such.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder can be made")
}

/// All that a group holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What the log says of it.
    pub state: GroupState,
    /// Its entries.
    pub entries: Vec<LogEntry>,
}

/// All that a log holds. Entries have no hole.
pub fn held(log: &Log) -> Vec<Held> {
    let of = |group| {
        let (state, entries) = (
            log.state(GroupId(group)),
            log.read(GroupId(group), 0..u64::MAX, usize::MAX),
        );
        let entries = entries.expect("entries are readable");
        let first = entries
            .first()
            .map_or(state.first_index, |entry| entry.index);
        assert_eq!(first, state.first_index);
        for (expected, entry) in (first..).zip(&entries) {
            assert_eq!(entry.index, expected, "a hole in group {group}");
        }
        let last = entries.last().map(|entry| (entry.index, entry.term));
        assert_eq!(last, state.last, "group {group}");
        Held { state, entries }
    };
    (0..GROUPS).map(of).collect()
}

/// The payload that an entry of this place has, and no other.
pub fn payload(group: u32, index: u64, term: u64, bytes: usize) -> Bytes {
    let seed = (u64::from(group) << 56 ^ index << 16 ^ term).to_le_bytes();
    seed.into_iter().cycle().take(bytes.max(8)).collect()
}

/// Whether an entry is one that [`payload`] made.
pub fn is_own(group: u32, entry: &LogEntry) -> bool {
    entry.payload == payload(group, entry.index, entry.term, entry.payload.len())
}

fn wait(call: impl FnOnce(Box<dyn FnOnce(Result<(), LogError>) + Send>)) -> Result<(), LogError> {
    let (tx, rx) = channel();
    call(Box::new(move |result| {
        // Nobody has gone: it is waited for.
        let _ = tx.send(result);
    }));
    rx.recv().expect("the callback runs")
}

/// Does to a log what the choices say, each of it acknowledged before the next.
pub fn write(log: &Log, choices: &mut Choices<'_>) {
    let steps = choices.below(24);
    for _ in 0..steps {
        let (what, group) = (choices.byte(), choices.below(GROUPS as usize) as u32);
        let state = log.state(GroupId(group));
        let next = state.last.map_or(state.first_index, |(last, _)| last + 1);
        let done = match what % 8 {
            0..=3 => {
                let (count, bytes) = (choices.below(12) as u64 + 1, choices.below(300));
                let term = u64::from(choices.byte()) + 1;
                let entry = |index| LogEntry {
                    index,
                    term,
                    payload: payload(group, index, term, bytes),
                };
                let entries = (next..next + count).map(entry).collect();
                wait(|done| log.append(GroupId(group), entries, done))
            }
            4 => {
                let vote = Bytes::copy_from_slice(choices.bytes(9));
                wait(|done| log.save_vote(GroupId(group), vote, done))
            }
            5 => {
                let after = next.checked_sub(choices.below(8) as u64 + 1);
                wait(|done| log.truncate_after(GroupId(group), after, done))
            }
            6 => {
                let upto = state.first_index + choices.below(12) as u64;
                let purged = Bytes::from(upto.to_string());
                wait(|done| log.purge(GroupId(group), upto, purged, done))
            }
            _ => {
                log.save_committed(GroupId(group), Bytes::from(next.to_string()));
                Ok(())
            }
        };
        match done {
            Ok(()) | Err(LogError::TruncatesPurged { .. } | LogError::Full) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The segments of a folder, oldest first.
pub fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("the folder is there");
    let paths = files.map(|file| file.expect("the file is there").path());
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "segment");
    let sorted: BTreeSet<PathBuf> = paths.filter(is_segment).collect();
    sorted.into_iter().collect()
}
