//! A machine's disk, as its Raft log sees it: what was not synced when the power goes is lost, by sectors and in any order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use storage::log::LogDisk;

use crate::trace::Trace;

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// A sector that was written and not synced: what was there before.
type Before = Vec<u8>;

struct State {
    random: SmallRng,
    /// File, by the order in which they were first written, and sector.
    unsynced: BTreeMap<(usize, u64), Before>,
    /// Inodes in that order: they themselves are another time others.
    inodes: Vec<u64>,
    files: BTreeMap<usize, PathBuf>,
    /// The machine is losing its power: nothing is synced any more.
    dying: bool,
    /// How long an fdatasync takes at most.
    slow: Duration,
    trace: Arc<Trace>,
}

impl State {
    fn number(&mut self, inode: u64) -> usize {
        let known = self.inodes.iter().position(|known| *known == inode);
        known.unwrap_or_else(|| {
            self.inodes.push(inode);
            self.inodes.len() - 1
        })
    }
}

/// The disk; clones are the same.
#[derive(Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
    /// Planted: an fdatasync that does nothing.
    lies: bool,
}

/// An fdatasync takes up to so long on a disk in good health.
pub const HEALTHY: Duration = Duration::from_millis(2);

impl Disk {
    /// A disk whose accidents are a seed's.
    pub fn new(seed: u64, lies: bool, trace: Arc<Trace>) -> Disk {
        let state = State {
            random: SmallRng::seed_from_u64(seed),
            unsynced: BTreeMap::new(),
            inodes: Vec::new(),
            files: BTreeMap::new(),
            dying: false,
            slow: HEALTHY,
            trace,
        };
        Disk {
            state: Arc::new(Mutex::new(state)),
            lies,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the next fdatasync takes.
    pub fn latency(&self) -> Duration {
        let mut state = self.state();
        let most = state.slow.as_micros() as u64;
        Duration::from_micros(state.random.random_range(most / 4..=most))
    }

    /// From now on an fdatasync takes up to so long.
    pub fn set_slow(&self, slow: Duration) {
        self.state().slow = slow;
    }

    /// The power goes now; what is being written may or may not arrive.
    pub fn die(&self) {
        self.state().dying = true;
    }

    /// The process is dead and the power is gone: takes from the files what was not synced, or leaves it, by chance. Gives how
    /// many sectors were lost.
    pub fn cut_power(&self) -> io::Result<usize> {
        let mut state = self.state();
        let state = &mut *state;
        state.dying = false;
        state.slow = HEALTHY;
        // All, none, or each for itself.
        let share = match state.random.random_range(0..4) {
            0 => 0,
            1 => 100,
            _ => state.random.random_range(1..100),
        };
        let mut lost = 0;
        for ((file, sector), before) in std::mem::take(&mut state.unsynced) {
            if state.random.random_range(0..100) >= share {
                continue;
            }
            let Some(path) = state.files.get(&file) else {
                continue;
            };
            let file = File::options().write(true).open(path)?;
            file.write_all_at(&before, sector * SECTOR)?;
            lost += 1;
        }
        state.files.clear();
        Ok(lost)
    }

    /// The process is dead, the machine is not: what was written is there.
    pub fn process_died(&self) {
        self.state().slow = HEALTHY;
    }

    /// A number for another accident of this machine.
    pub fn chance(&self, upto: usize) -> usize {
        self.state().random.random_range(0..=upto)
    }
}

impl LogDisk for Disk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let number = state.number(file.metadata()?.ino());
        let end = offset + bytes.len() as u64;
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            if let std::collections::btree_map::Entry::Vacant(entry) =
                state.unsynced.entry((number, sector))
            {
                let mut before = vec![0; SECTOR as usize];
                let length = file.read_at(&mut before, sector * SECTOR)?;
                before.truncate(length);
                entry.insert(before);
            }
        }
        state.trace.add(&[offset, bytes.len() as u64], bytes);
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut state = self.state();
        if state.dying {
            return Err(io::Error::other("the power is gone"));
        }
        if !self.lies {
            let number = state.number(file.metadata()?.ino());
            state.unsynced.retain(|(of, _), _| *of != number);
        }
        Ok(())
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

impl Disk {
    /// Notes where the files with unsynced writes are, before they are closed for good.
    pub fn remember(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let number = state.number(entry.metadata()?.ino());
            state.files.insert(number, entry.path());
        }
        Ok(())
    }
}
