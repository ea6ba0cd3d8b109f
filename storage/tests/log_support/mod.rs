//! What the log's tests share: a disk whose power can be cut, a model, and calls that wait for their callback.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use storage::log::{GroupId, GroupState, Log, LogDisk, LogEntry, LogError, LogOptions};

pub const SECTOR: usize = 512;

/// Small segments, and errors of the disk end the writer's thread instead of the process.
pub fn options(segment_bytes: u64) -> LogOptions {
    LogOptions {
        segment_bytes,
        disk_free_bytes_min: 0,
        on_disk_error: |error| panic!("planted: {error}"),
        ..LogOptions::default()
    }
}

/// A folder in memory, if there is such: tests that open a log thousands of times wait for no disk.
pub fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder can be made")
}

pub fn open(dir: &Path, options: LogOptions) -> Log {
    Log::open(dir, options).expect("the log opens").0
}

pub fn entry(index: u64, term: u64, bytes: usize) -> LogEntry {
    let seed = index.wrapping_mul(31).wrapping_add(term).to_le_bytes();
    LogEntry {
        index,
        term,
        payload: seed
            .into_iter()
            .cycle()
            .take(bytes)
            .collect::<Vec<_>>()
            .into(),
    }
}

pub fn entries(range: std::ops::Range<u64>, term: u64, bytes: usize) -> Vec<LogEntry> {
    range.map(|index| entry(index, term, bytes)).collect()
}

type Answer = Result<(), LogError>;

/// A callback and the end that learns of it.
pub fn ticket() -> (impl FnOnce(Answer) + Send + 'static, Receiver<Answer>) {
    let (tx, rx) = channel();
    let done = move |result| {
        // Who doesn't wait has dropped the other end.
        let _nobody_waits = tx.send(result);
    };
    (done, rx)
}

pub fn append(log: &Log, group: u32, entries: Vec<LogEntry>) -> Result<(), LogError> {
    let (done, rx) = ticket();
    log.append(GroupId(group), entries, done);
    rx.recv().expect("the callback runs")
}

pub fn vote(log: &Log, group: u32, vote: &str) {
    let (done, rx) = ticket();
    log.save_vote(GroupId(group), Bytes::from(vote.to_owned()), done);
    rx.recv()
        .expect("the callback runs")
        .expect("the vote is saved");
}

pub fn truncate(log: &Log, group: u32, after: Option<u64>) -> Result<(), LogError> {
    let (done, rx) = ticket();
    log.truncate_after(GroupId(group), after, done);
    rx.recv().expect("the callback runs")
}

pub fn purge(log: &Log, group: u32, upto: u64) {
    let (done, rx) = ticket();
    log.purge(
        GroupId(group),
        upto,
        Bytes::from(format!("purged {upto}")),
        done,
    );
    rx.recv()
        .expect("the callback runs")
        .expect("the purge is done");
}

/// All that a group holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub state: GroupState,
    pub entries: Vec<LogEntry>,
}

pub fn held(log: &Log, group: u32) -> Held {
    let entries = log
        .read(GroupId(group), 0..u64::MAX, usize::MAX)
        .expect("entries are readable");
    Held {
        state: log.state(GroupId(group)),
        entries,
    }
}

pub fn all_held(log: &Log, groups: u32) -> Vec<Held> {
    (0..groups).map(|group| held(log, group)).collect()
}

/// The entries are those from the first index to the last, without a hole.
#[track_caller]
pub fn check_whole(held: &Held) {
    let indexes: Vec<_> = held.entries.iter().map(|entry| entry.index).collect();
    let expected: Vec<_> = held
        .state
        .last
        .map(|(last, _)| (held.state.first_index..=last).collect())
        .unwrap_or_default();
    assert_eq!(indexes, expected);
    if let (Some((_, term)), Some(entry)) = (held.state.last, held.entries.last()) {
        assert_eq!(term, entry.term);
    }
}

/// Copies the log's files.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for file in std::fs::read_dir(from).expect("the folder is there") {
        let file = file.expect("the entry is there");
        if file.file_type().expect("the entry is there").is_file() {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("the file can be copied");
        }
    }
}

/// Waits until the log's other thread has nothing to do with the files, so that they can be copied as of one moment.
pub fn settle(log: &Log, dir: &Path) {
    for _ in 0..10_000_000 {
        let metrics = log.metrics();
        let count = |extension: &str| {
            let files = std::fs::read_dir(dir).expect("the folder is there");
            let of_kind = |file: &io::Result<std::fs::DirEntry>| {
                file.as_ref()
                    .is_ok_and(|file| file.path().extension().is_some_and(|is| is == extension))
            };
            files.filter(of_kind).count()
        };
        let counts = [count("segment"), count("spare"), count("making")];
        if (2..=4).contains(&metrics.spares) && counts == [metrics.segments, metrics.spares, 0] {
            return;
        }
        std::thread::yield_now();
    }
    panic!("the log's files don't settle: {:?}", log.metrics());
}

/// A disk that remembers what each sector held at the last sync, so that a power cut can take the rest back.
#[derive(Default)]
pub struct CuttableDisk {
    /// Inode → sector → its content when last synced.
    unsynced: Mutex<BTreeMap<u64, BTreeMap<u64, Vec<u8>>>>,
    pub fail_sync: std::sync::atomic::AtomicBool,
}

impl LogDisk for CuttableDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut unsynced = self.unsynced.lock().expect("no panic while locked");
        let sectors = unsynced.entry(file.metadata()?.ino()).or_default();
        for sector in offset / SECTOR as u64..=(offset + bytes.len() as u64).div_ceil(SECTOR as u64)
        {
            let mut old = vec![0; SECTOR];
            let read = file.read_at(&mut old, sector * SECTOR as u64)?;
            old.truncate(read);
            sectors.entry(sector).or_insert(old);
        }
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if self.fail_sync.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::other("fdatasync failed"));
        }
        self.unsynced
            .lock()
            .expect("no panic while locked")
            .remove(&file.metadata()?.ino());
        Ok(())
    }
}

impl CuttableDisk {
    pub fn options(self: &Arc<Self>, segment_bytes: u64) -> LogOptions {
        LogOptions {
            disk: Arc::clone(self) as Arc<dyn LogDisk>,
            ..options(segment_bytes)
        }
    }

    /// Copies the folder as a power cut would leave it: of what is not synced, each sector is there or not, as `keeps` says.
    pub fn cut(&self, from: &Path, to: &Path, mut keeps: impl FnMut() -> bool) {
        let unsynced = self.unsynced.lock().expect("no panic while locked");
        copy_dir(from, to);
        for file in std::fs::read_dir(from).expect("the folder is there") {
            let file = file.expect("the entry is there");
            if !file.file_type().expect("the entry is there").is_file() {
                continue;
            }
            let inode = file.metadata().expect("the file is there").ino();
            let Some(sectors) = unsynced.get(&inode) else {
                continue;
            };
            let copy = File::options()
                .write(true)
                .open(to.join(file.file_name()))
                .expect("the copy is there");
            for (sector, old) in sectors {
                if !keeps() {
                    copy.write_all_at(old, sector * SECTOR as u64)
                        .expect("the copy can be changed");
                }
            }
        }
    }
}
