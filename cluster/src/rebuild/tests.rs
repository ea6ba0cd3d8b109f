//! Every state that a crash can leave the store and the snapshots in.

use std::fs;
use std::path::PathBuf;

use storage::snapshot::{SnapshotHead, SnapshotWriter, latest};
use storage::state_store::{AppliedMark, BootId, Engine, Table};

use super::*;
use crate::raft::mark_of;

const GROUP: Group = Group(3);

/// A group's folders.
struct Folder {
    dir: tempfile::TempDir,
    engine: Engine,
}

impl Folder {
    fn new(engine: Engine) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        Folder { dir, engine }
    }

    fn options(&self) -> StateStoreOptions {
        StateStoreOptions {
            dir: self.dir.path().join("state"),
            engine: self.engine,
            cache_bytes: 1 << 20,
            boot_id: BootId::from_text("boot-1"),
        }
    }

    fn snapshots(&self) -> PathBuf {
        self.dir.path().join("snapshots")
    }

    /// A store that applied up to `index` and whose process was killed.
    fn store_at(&self, index: u64) {
        let mut store = open_state_store(&self.options()).unwrap().store;
        let mut batch = StateBatch::new();
        batch.put(Table(1), "from", format!("store {index}"));
        batch.put(Table(1), "store only", "long ".repeat(1_000));
        batch.mark(AppliedMark(mark_of(1, index)));
        store.write(batch).unwrap();
        store.flush().unwrap();
    }

    fn snapshot_at(&self, index: u64) -> PathBuf {
        let head = SnapshotHead {
            group: GROUP.0,
            index,
            applied: AppliedMark(mark_of(1, index)),
        };
        let mut writer = SnapshotWriter::create(&self.snapshots(), head).unwrap();
        let value = format!("snapshot {index}");
        writer.row(Table(1), b"from", value.as_bytes()).unwrap();
        for number in 0..3_000_u32 {
            writer
                .row(Table(2), &number.to_be_bytes(), &[7; 100])
                .unwrap();
        }
        writer.finish().unwrap().path
    }

    /// What the store that is opened holds: where its rows are from, how many there are, and its mark's index.
    fn opened(&self) -> (Option<String>, usize, Option<u64>) {
        let mut store = open_store(&self.options(), &self.snapshots(), GROUP).unwrap();
        let (mut from, mut rows) = (None, 0);
        store
            .load(&mut |_, key, value| {
                rows += 1;
                if key == b"from" {
                    from = Some(String::from_utf8(value.to_vec()).unwrap());
                }
            })
            .unwrap();
        let mark = store.applied();
        (from, rows, mark.map(|mark| mark_place(&mark).unwrap().1))
    }

    fn is_from_store(&self, index: u64) {
        let from = format!("store {index}");
        assert_eq!(self.opened(), (Some(from), 2, Some(index)));
    }

    fn is_from_snapshot(&self, index: u64) {
        let from = format!("snapshot {index}");
        let expect = (Some(from), 3_001, Some(index));
        assert_eq!(self.opened(), expect);
        // And so it stays.
        assert_eq!(self.opened(), expect);
    }
}

const ENGINES: [Engine; 2] = [Engine::Sled, Engine::Fjall];

/// The log was purged up to the snapshot, and the store on disk is older: a killed process used to leave that, and the node
/// never started again.
#[test]
fn a_kept_store_that_is_older_than_the_snapshot_is_filled_from_it() {
    for engine in ENGINES {
        let folder = Folder::new(engine);
        folder.store_at(5);
        folder.snapshot_at(7);
        folder.is_from_snapshot(7);
    }
}

#[test]
fn a_kept_store_as_new_as_the_snapshot_or_newer_is_kept() {
    for engine in ENGINES {
        for index in [7, 9] {
            let folder = Folder::new(engine);
            folder.store_at(index);
            folder.snapshot_at(7);
            folder.is_from_store(index);
        }
    }
}

#[test]
fn a_fresh_store_is_filled_from_the_snapshot() {
    for engine in ENGINES {
        let folder = Folder::new(engine);
        folder.snapshot_at(7);
        folder.is_from_snapshot(7);
    }
}

#[test]
fn a_deleted_store_is_filled_from_the_snapshot_however_new_it_was() {
    for engine in ENGINES {
        for index in [5, 7, 9] {
            let folder = Folder::new(engine);
            folder.store_at(index);
            folder.snapshot_at(7);
            fs::remove_file(folder.dir.path().join("state/marker")).unwrap();
            folder.is_from_snapshot(7);
        }
    }
}

#[test]
fn without_a_snapshot_a_store_is_what_its_verdict_says() {
    for engine in ENGINES {
        let folder = Folder::new(engine);
        assert_eq!(folder.opened(), (None, 0, None));
        let folder = Folder::new(engine);
        folder.store_at(5);
        folder.is_from_store(5);
        fs::remove_file(folder.dir.path().join("state/marker")).unwrap();
        assert_eq!(folder.opened(), (None, 0, None));
    }
}

/// A flip between head and end is found only by reading: before the store is touched.
#[test]
fn a_damaged_snapshot_is_set_aside_and_the_store_is_not_touched_for_it() {
    for engine in ENGINES {
        let folder = Folder::new(engine);
        folder.store_at(5);
        let path = folder.snapshot_at(7);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        folder.is_from_store(5);
        assert!(!path.exists());
        assert_eq!(latest(&folder.snapshots(), GROUP.0).unwrap(), None);
        // The one before it, if it is there, is better than nothing.
        folder.snapshot_at(6);
        folder.is_from_snapshot(6);
    }
}
