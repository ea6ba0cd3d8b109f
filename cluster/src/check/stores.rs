//! Snapshots, state stores and the archive.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use messaging::state::State;
use storage::archive::{
    Archive, ArchiveError, ArchiveOptions, ArchiveRow, ArchiveView, PartitionId,
    Rows as ArchiveRows,
};
use storage::snapshot::SnapshotReader;
use storage::state_store::{
    BootId, Opened, StateHash, StateHasher, StateStore, StateStoreOptions, Table, engine_in,
    open_state_store,
};
use storage::working_copy::copy_folder;

use super::{Check, CheckError, CheckedReplica, Heads, sentence};
use crate::meta::backup::MetaRows;
use crate::node_id::Group;
use crate::raft::mark_place;
use crate::rebuild::group_of_store;
use crate::records::{StateRows, decode_archive_row};
use crate::replica_hash::ReplicaHash;

/// A cache for stores that are read once.
const CACHE_BYTES: u64 = 8 << 20;

/// Rows of the archive that are looked at together, and their bytes.
const ROWS: usize = 512;
const ROW_BYTES: usize = 4 << 20;

const SNAPSHOT_ADVICE: &str = "start the node: it sets the file aside and makes its state of an older one, of its store, or of \
     what another node sends";
const STORE_ADVICE: &str =
    "remove this folder: the store is made anew from the newest snapshot and the log";
const ARCHIVE_ADVICE: &str = "the node can't give these rows to who asks for them: take it out of the pool and let a new one join in \
     its place; a node alone: restore the pool from a backup";

/// Reads rows of a group's state, and forgets them in the end.
enum Rows {
    Meta(Box<MetaRows>),
    Partition(Box<State>),
}

impl Rows {
    fn of(group: Group) -> Rows {
        match group.partition() {
            None => Rows::Meta(Box::default()),
            Some(_) => Rows::Partition(Box::default()),
        }
    }

    /// What is wrong with a row, if anything.
    fn row(&mut self, table: Table, key: &[u8], value: &[u8]) -> Option<String> {
        let read = match self {
            Rows::Meta(rows) => rows.row(table, key, value).map(|()| true),
            Rows::Partition(state) => state.load(&StateRows, table.0, key, value),
        };
        match read {
            Ok(true) => None,
            Ok(false) => Some(format!("table {} is not known", table.0)),
            Err(error) => Some(format!("a row of table {} does not read: {error}", table.0)),
        }
    }
}

impl Check<'_> {
    pub(super) fn snapshots(&mut self) -> Result<(), CheckError> {
        let dir = self.folder.snapshots_dir();
        let io = |source| CheckError::Io {
            path: dir.clone(),
            source,
        };
        for (group, index, path) in storage::snapshot::list(&dir).map_err(io)? {
            let group = Group(group);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let place = format!("snapshots/{name}");
            match check_snapshot(&path, group, index) {
                Ok(rows) => {
                    self.heads_of(group, index, rows);
                    let reach = self.states.entry(group).or_default();
                    reach.snapshot = reach.snapshot.max(Some(index));
                }
                Err(what) => self.damage(place, what, SNAPSHOT_ADVICE),
            }
            self.checked.snapshots += 1;
            self.seen();
        }
        Ok(())
    }

    pub(super) fn stores(&mut self) -> Result<(), CheckError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| CheckError::Io { path, source }
        };
        let all = self.folder.stores().map_err(io(self.folder.path()))?;
        for number in all {
            let Some(group) = group_of_store(number) else {
                continue;
            };
            let dir = self.folder.state_dir(number);
            let place = format!("state/{number}, {group}");
            let copy = self.scratch.join(format!("state-{number}"));
            copy_folder(&dir, &copy).map_err(io(&dir))?;
            let Some(engine) = engine_in(&copy) else {
                let what = "its marker is gone or unknown: the store is made anew";
                self.note(place, what, "start the node");
                continue;
            };
            let options = StateStoreOptions {
                dir: copy.clone(),
                engine,
                cache_bytes: CACHE_BYTES,
                boot_id: BootId::current().map_err(io(&dir))?,
            };
            match open_state_store(&options) {
                Ok(opened) => match opened.opened {
                    Opened::Kept => self.store(place, group, opened.store),
                    Opened::Fresh => {}
                    Opened::Rebuild(reason) => {
                        let what = format!("it is made anew at the next start: {reason}");
                        self.note(place, what, "start the node");
                    }
                },
                Err(error) => self.damage(place, sentence(&error), STORE_ADVICE),
            }
            storage::working_copy::remove(&copy).map_err(io(&copy))?;
        }
        Ok(())
    }

    fn store(&mut self, place: String, group: Group, mut store: Box<dyn StateStore>) {
        let mut rows = Rows::of(group);
        let (mut wrong, mut seen) = (None, 0);
        let loaded = store.load(&mut |table, key, value| {
            seen += 1;
            if wrong.is_none() {
                wrong = rows.row(table, key, value);
            }
        });
        self.checked.state_rows += seen;
        self.seen();
        let wrong = loaded.err().map(|error| sentence(&error)).or(wrong);
        match (wrong, store.applied().map(|mark| mark_place(&mark))) {
            (Some(what), _) => self.damage(place, what, STORE_ADVICE),
            (None, Some(Ok((_, index)))) => {
                if let Rows::Partition(state) = &rows {
                    self.hashes.insert(group, (index, hash_of(state)));
                }
                self.heads_of(group, index, rows);
                self.states.entry(group).or_default().store = Some(index);
            }
            (None, Some(Err(error))) => self.damage(place, sentence(&error), STORE_ADVICE),
            (None, None) => {}
        }
    }

    pub(super) fn archive(&mut self) -> Result<(), CheckError> {
        let dir = self.folder.archive_dir();
        if !dir.is_dir() {
            self.damage("archive", "it is not there", ARCHIVE_ADVICE);
            return Ok(());
        }
        let copy = self.scratch.join("archive");
        copy_folder(&dir, &copy).map_err(|source| CheckError::Io { path: dir, source })?;
        let options = ArchiveOptions {
            cache_bytes: CACHE_BYTES,
            ..ArchiveOptions::default()
        };
        // Of what is damaged the engine panics at some places.
        let opened = catch_unwind(AssertUnwindSafe(|| Archive::open(&copy, &options)));
        let archive = match opened {
            Ok(Ok(archive)) => archive,
            Ok(Err(error)) => {
                self.damage("archive", sentence(&error), ARCHIVE_ADVICE);
                return Ok(());
            }
            Err(_) => {
                self.damage("archive", "it can't be opened", ARCHIVE_ADVICE);
                return Ok(());
            }
        };
        let view = archive.view();
        for partition in 0..u16::MAX {
            let read = catch_unwind(AssertUnwindSafe(|| self.rows(&view, partition)));
            let wrong = read.unwrap_or_else(|_| Some("it can't be read".to_owned()));
            if let Some(what) = wrong.or_else(|| self.missing(&view, partition)) {
                let place = format!("archive, partition {partition}");
                self.damage(place, what, ARCHIVE_ADVICE);
                continue;
            }
            if let Err(error) = self.replica(&view, partition) {
                let place = format!("archive, partition {partition}");
                self.damage(place, sentence(&error), ARCHIVE_ADVICE);
            }
        }
        Ok(())
    }

    /// Notes what a partition's replica holds, where state and archive are of the same entry: the last one of its log. After a
    /// crash the archive may be ahead.
    fn replica(&mut self, view: &ArchiveView, partition: u16) -> Result<(), ArchiveError> {
        let partition = crate::PartitionId(partition);
        let group = Group::of(partition);
        let last = self.logs.get(&group).and_then(|log| log.last);
        let Some((applied, state)) = self.hashes.remove(&group) else {
            return Ok(());
        };
        if last == Some(applied) {
            let archive = view.hash(PartitionId(partition.0), None)?;
            let hash = ReplicaHash {
                applied,
                state,
                archive,
            };
            self.replicas.push(CheckedReplica { partition, hash });
        }
        Ok(())
    }

    /// Keeps what a state says of users' logs, if it is the newest of its group so far.
    fn heads_of(&mut self, group: Group, index: u64, rows: Rows) {
        let Rows::Partition(state) = rows else {
            return;
        };
        let kept = self.heads.entry(group).or_default();
        if index < kept.index {
            return;
        }
        let logs = state.logs.iter().filter(|(_, log)| log.has_row_at_head());
        *kept = Heads {
            index,
            rows: logs
                .map(|(user, log)| (user.to_string(), log.head))
                .collect(),
        };
    }

    /// Users whose archive ends before the state says.
    fn missing(&self, view: &ArchiveView, partition: u16) -> Option<String> {
        let heads = self.heads.get(&Group::of(crate::PartitionId(partition)))?;
        let id = PartitionId(partition);
        let mut first = None;
        let mut missing = 0;
        for (user, head) in &heads.rows {
            match view.last_seq(id, user, ArchiveRows::All) {
                Ok(last) if last >= Some(*head) => {}
                Ok(_) => {
                    missing += 1;
                    first.get_or_insert((user, head));
                }
                Err(error) => return Some(sentence(&error)),
            }
        }
        let (user, head) = first?;
        Some(format!(
            "the newest rows of {missing} archives are missing, among them row {head} of {user}"
        ))
    }

    /// What is wrong with the rows of a partition, if anything: the first such thing.
    fn rows(&mut self, view: &ArchiveView, partition: u16) -> Option<String> {
        let mut after = None;
        loop {
            let behind = match &after {
                Some(position) => format!("behind {position:?}"),
                None => "at its beginning".to_owned(),
            };
            let page = view.rows(PartitionId(partition), after.as_ref(), ROWS, ROW_BYTES);
            let page = match page {
                Ok(page) => page,
                Err(error) => return Some(format!("{behind}: {}", sentence(&error))),
            };
            let last = page.last()?.position();
            if let Some(what) = page.iter().find_map(row_is_wrong) {
                return Some(what);
            }
            self.checked.archive_rows += page.len() as u64;
            self.seen();
            after = Some(last);
        }
    }
}

fn hash_of(state: &State) -> StateHash {
    let mut hasher = StateHasher::default();
    state.visit(&StateRows, &mut |table, key, value| {
        hasher.row(Table(table), key, value);
    });
    hasher.finish()
}

/// Reads a snapshot to its end; gives what is in it, or what is wrong with it.
fn check_snapshot(path: &Path, group: Group, index: u64) -> Result<Rows, String> {
    let said = |error| sentence(&error);
    let mut reader = SnapshotReader::open(path).map_err(said)?;
    let head = reader.snapshot().manifest.head.clone();
    if (head.group, head.index) != (group.0, index) {
        return Err("its name is not its own".to_owned());
    }
    match mark_place(&head.applied.0) {
        Ok((_, applied)) if applied == index => {}
        Ok(_) => return Err("its mark is not at its place".to_owned()),
        Err(error) => return Err(sentence(&error)),
    }
    let mut rows = Rows::of(group);
    for row in reader.by_ref() {
        let row = row.map_err(said)?;
        if let Some(what) = rows.row(row.table, &row.key, &row.value) {
            return Err(what);
        }
    }
    Ok(rows)
}

fn row_is_wrong(row: &ArchiveRow) -> Option<String> {
    let place = || format!("row {} of {}", row.seq, row.key);
    match decode_archive_row(&row.record) {
        Ok(read) if read.key.as_str() == &*row.key && read.seq == row.seq => None,
        Ok(_) => Some(format!("{} is another's", place())),
        Err(error) => Some(format!("{} does not read: {error}", place())),
    }
}
