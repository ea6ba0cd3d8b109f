//! What this crate uses of fjall, in memory, with fjall's promise about power cuts: of the batches behind the last
//! [`PersistMode::SyncAll`] a prefix is left, and each is there whole or not at all.
//!
//! What a folder holds outlives its handles, as files do; [`cut_power`] takes away what was not synced. Without threads, so
//! that a simulation is the same each time.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fjall::Slice;

type Rows = BTreeMap<Vec<u8>, Slice>;

/// All keyspaces at one moment.
#[derive(Clone, Default)]
struct State(BTreeMap<String, Rows>);

/// Keyspace, key, and the new value; `None` removes it.
type Change = (String, Vec<u8>, Option<Slice>);

impl State {
    fn apply(&mut self, batch: &[Change]) {
        for (keyspace, key, value) in batch {
            let rows = self.0.entry(keyspace.clone()).or_default();
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
    }
}

/// A folder's content.
#[derive(Default)]
struct Folder {
    now: Arc<State>,
    synced: Arc<State>,
    /// What came since.
    unsynced: Vec<Vec<Change>>,
}

impl Folder {
    fn commit(&mut self, batch: Vec<Change>) {
        Arc::make_mut(&mut self.now).apply(&batch);
        self.unsynced.push(batch);
    }

    fn sync(&mut self) {
        self.synced = Arc::clone(&self.now);
        self.unsynced.clear();
    }
}

type Shared = Arc<Mutex<Folder>>;

static FOLDERS: Mutex<BTreeMap<PathBuf, Shared>> = Mutex::new(BTreeMap::new());

fn folders() -> MutexGuard<'static, BTreeMap<PathBuf, Shared>> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn locked(folder: &Shared) -> MutexGuard<'_, Folder> {
    folder.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts the power of the machine whose folders lie below `below`: of each, `keep` says how many of so many batches that were
/// not synced are left. Handles from before reach nothing any more.
pub(crate) fn cut_power(below: &Path, mut keep: impl FnMut(usize) -> usize) {
    for (_, shared) in folders()
        .iter_mut()
        .filter(|(path, _)| path.starts_with(below))
    {
        let mut after = {
            let folder = locked(shared);
            let mut state = State::clone(&folder.synced);
            let kept = keep(folder.unsynced.len());
            for batch in folder.unsynced.iter().take(kept) {
                state.apply(batch);
            }
            Folder {
                now: Arc::new(state),
                ..Folder::default()
            }
        };
        after.sync();
        *shared = Arc::new(Mutex::new(after));
    }
}

/// How a database is opened.
pub(crate) struct Builder(PathBuf);

impl Builder {
    pub(crate) fn cache_size(self, _bytes: u64) -> Builder {
        self
    }

    pub(crate) fn worker_threads(self, _threads: usize) -> Builder {
        self
    }

    pub(crate) fn open(self) -> fjall::Result<Database> {
        if !self.0.exists() {
            folders().remove(&self.0);
            std::fs::create_dir_all(&self.0).map_err(fjall::Error::Io)?;
        }
        let folder = Arc::clone(folders().entry(self.0).or_default());
        Ok(Database { folder })
    }
}

pub(crate) struct Database {
    folder: Shared,
}

impl Database {
    pub(crate) fn builder(dir: impl AsRef<Path>) -> Builder {
        Builder(dir.as_ref().to_owned())
    }

    pub(crate) fn keyspace(
        &self,
        name: &str,
        _options: impl FnOnce() -> KeyspaceCreateOptions,
    ) -> fjall::Result<Keyspace> {
        Ok(Keyspace {
            folder: Arc::clone(&self.folder),
            name: name.to_owned(),
            tree: Tree,
        })
    }

    pub(crate) fn batch(&self) -> Batch {
        Batch {
            folder: Arc::clone(&self.folder),
            changes: Vec::new(),
        }
    }

    pub(crate) fn persist(&self, mode: PersistMode) -> fjall::Result<()> {
        if matches!(mode, PersistMode::SyncAll) {
            locked(&self.folder).sync();
        }
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot(Arc::clone(&locked(&self.folder).now))
    }
}

pub(crate) enum PersistMode {
    Buffer,
    SyncAll,
}

#[derive(Default)]
pub(crate) struct KeyspaceCreateOptions;

impl KeyspaceCreateOptions {
    pub(crate) fn max_memtable_size(self, _bytes: u64) -> Self {
        self
    }

    pub(crate) fn data_block_size_policy(self, _policy: BlockSizePolicy) -> Self {
        self
    }
}

pub(crate) struct BlockSizePolicy;

impl BlockSizePolicy {
    pub(crate) fn all(_bytes: u32) -> BlockSizePolicy {
        BlockSizePolicy
    }
}

/// Nothing is ever written as a table here.
pub(crate) struct Tree;

pub(crate) trait AbstractTree {
    fn sealed_memtable_count(&self) -> usize {
        0
    }

    fn l0_run_count(&self) -> usize {
        0
    }
}

impl AbstractTree for Tree {}

pub(crate) struct Keyspace {
    folder: Shared,
    name: String,
    pub(crate) tree: Tree,
}

impl Keyspace {
    fn rows(&self) -> Snapshot {
        Snapshot(Arc::clone(&locked(&self.folder).now))
    }

    pub(crate) fn range<K: AsRef<[u8]>, R: RangeBounds<K>>(&self, range: R) -> Iter {
        self.rows().range(self, range)
    }

    pub(crate) fn is_empty(&self) -> fjall::Result<bool> {
        let state = self.rows().0;
        Ok(state.0.get(&self.name).is_none_or(BTreeMap::is_empty))
    }

    pub(crate) fn insert(
        &self,
        key: impl Into<Slice>,
        value: impl Into<Slice>,
    ) -> fjall::Result<()> {
        let change = (self.name.clone(), key.into().to_vec(), Some(value.into()));
        locked(&self.folder).commit(vec![change]);
        Ok(())
    }

    pub(crate) fn remove(&self, key: impl Into<Slice>) -> fjall::Result<()> {
        let change = (self.name.clone(), key.into().to_vec(), None);
        locked(&self.folder).commit(vec![change]);
        Ok(())
    }
}

pub(crate) struct Batch {
    folder: Shared,
    changes: Vec<Change>,
}

impl Batch {
    pub(crate) fn insert(
        &mut self,
        keyspace: &Keyspace,
        key: impl Into<Slice>,
        value: impl Into<Slice>,
    ) {
        let change = (
            keyspace.name.clone(),
            key.into().to_vec(),
            Some(value.into()),
        );
        self.changes.push(change);
    }

    pub(crate) fn remove(&mut self, keyspace: &Keyspace, key: impl Into<Slice>) {
        self.changes
            .push((keyspace.name.clone(), key.into().to_vec(), None));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn commit(self) -> fjall::Result<()> {
        if !self.changes.is_empty() {
            locked(&self.folder).commit(self.changes);
        }
        Ok(())
    }
}

pub(crate) struct Snapshot(Arc<State>);

pub(crate) trait Readable {
    fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> fjall::Result<Option<Slice>>;

    fn range<K: AsRef<[u8]>, R: RangeBounds<K>>(&self, keyspace: &Keyspace, range: R) -> Iter;
}

impl Readable for Snapshot {
    fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> fjall::Result<Option<Slice>> {
        let rows = self.0.0.get(&keyspace.name);
        Ok(rows.and_then(|rows| rows.get(key.as_ref())).cloned())
    }

    fn range<K: AsRef<[u8]>, R: RangeBounds<K>>(&self, keyspace: &Keyspace, range: R) -> Iter {
        let bounds = (
            range.start_bound().map(|key| key.as_ref().to_vec()),
            range.end_bound().map(|key| key.as_ref().to_vec()),
        );
        let Some(rows) = self.0.0.get(&keyspace.name) else {
            return Iter(VecDeque::new());
        };
        let row = |(key, value): (&Vec<u8>, &Slice)| (Slice::from(key.as_slice()), value.clone());
        Iter(rows.range(bounds).map(row).collect())
    }
}

pub(crate) struct Iter(VecDeque<(Slice, Slice)>);

impl Iterator for Iter {
    type Item = Guard;

    fn next(&mut self) -> Option<Guard> {
        self.0.pop_front().map(Guard)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Guard> {
        self.0.pop_back().map(Guard)
    }
}

pub(crate) struct Guard((Slice, Slice));

impl Guard {
    pub(crate) fn key(self) -> fjall::Result<Slice> {
        Ok(self.0.0)
    }

    pub(crate) fn into_inner(self) -> fjall::Result<(Slice, Slice)> {
        Ok(self.0)
    }
}
