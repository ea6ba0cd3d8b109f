//! One suite for all state stores: what `StateStore` promises, on every backend.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use storage::state_store::{
    AppliedMark, BootId, Engine, MemoryDisk, MemoryStateStore, Opened, OpenedStore, RebuildReason,
    StateBatch, StateStore, StateStoreError, StateStoreOptions, Table, VALUE_BYTES_MAX,
    open_state_store,
};

type Rows = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// A backend with a place that outlives its stores.
enum Backend {
    Memory(MemoryDisk),
    OnDisk(Engine, tempfile::TempDir),
}

impl Backend {
    fn all() -> Vec<Backend> {
        let dir = || tempfile::tempdir().unwrap();
        vec![
            Backend::Memory(MemoryDisk::new()),
            Backend::OnDisk(Engine::Sled, dir()),
            Backend::OnDisk(Engine::Fjall, dir()),
        ]
    }

    fn open(&self) -> Box<dyn StateStore> {
        match self {
            Backend::Memory(disk) => Box::new(MemoryStateStore::open(disk)),
            Backend::OnDisk(engine, dir) => open_on(dir.path(), *engine, "boot-1").store,
        }
    }

    fn name(&self) -> String {
        match self {
            Backend::Memory(_) => "Memory".to_owned(),
            Backend::OnDisk(engine, _) => format!("{engine:?}"),
        }
    }
}

fn open_on(dir: &Path, engine: Engine, boot: &str) -> OpenedStore {
    let boot_id = BootId::from_text(boot);
    open_state_store(&StateStoreOptions {
        dir: dir.to_owned(),
        engine,
        cache_bytes: 1 << 20,
        boot_id,
    })
    .unwrap()
}

fn rows(store: &mut dyn StateStore) -> Rows {
    let mut seen = Vec::new();
    store
        .load(&mut |table, key, value| seen.push(((table.0, key.to_vec()), value.to_vec())))
        .unwrap();
    assert!(
        seen.is_sorted_by(|a, b| a.0 < b.0),
        "rows come once, in (table, key) order"
    );
    seen.into_iter().collect()
}

fn batch(changes: &[(u8, &str, Option<Vec<u8>>)], mark: &str) -> StateBatch {
    let mut batch = StateBatch::new();
    for (table, key, value) in changes {
        match value {
            Some(value) => batch.put(Table(*table), key.as_bytes().to_vec(), value.clone()),
            None => batch.delete(Table(*table), key.as_bytes().to_vec()),
        }
    }
    if !mark.is_empty() {
        batch.mark(AppliedMark(Bytes::copy_from_slice(mark.as_bytes())));
    }
    batch
}

fn put(table: u8, key: &'static str, length: usize) -> (u8, &'static str, Option<Vec<u8>>) {
    (table, key, Some(vec![b'v'; length]))
}

#[test]
fn a_fresh_store_is_empty() {
    for backend in Backend::all() {
        let mut store = backend.open();
        assert_eq!(
            (rows(store.as_mut()).len(), store.applied()),
            (0, None),
            "{}",
            backend.name()
        );
    }
}

#[test]
fn rows_and_mark_survive_a_clean_stop_and_a_process_crash() {
    for backend in Backend::all() {
        for clean in [true, false] {
            let mut store = backend.open();
            store
                .write(batch(
                    &[put(1, "a", 3), put(1, "b", 5000), put(2, "", 0)],
                    "mark-1",
                ))
                .unwrap();
            store
                .write(batch(&[put(1, "b", 10), (2, "", None)], "mark-2"))
                .unwrap();
            let expect = rows(store.as_mut());
            assert_eq!(expect.len(), 2, "{}", backend.name());
            if clean {
                store.close().unwrap();
            } else {
                store.flush().unwrap();
                drop(store);
            }
            let mut store = backend.open();
            assert_eq!(store.applied().unwrap(), "mark-2", "{}", backend.name());
            assert_eq!(rows(store.as_mut()), expect, "{}", backend.name());
            store.wipe().unwrap();
        }
    }
}

#[test]
fn a_batch_without_a_mark_leaves_it_and_a_mark_alone_is_a_batch() {
    for backend in Backend::all() {
        let mut store = backend.open();
        store.write(batch(&[put(1, "a", 1)], "one")).unwrap();
        store.write(batch(&[put(1, "b", 1)], "")).unwrap();
        assert_eq!(store.applied().unwrap(), "one");
        store.write(batch(&[], &"long ".repeat(1000))).unwrap();
        assert_eq!(store.applied().unwrap().len(), 5000);
        store.close().unwrap();
        assert_eq!(
            backend.open().applied().unwrap().len(),
            5000,
            "{}",
            backend.name()
        );
    }
}

#[test]
fn what_is_too_long_is_refused_whole_and_the_store_lives() {
    for backend in Backend::all() {
        let mut store = backend.open();
        let too_long = [
            batch(&[put(1, "a", 1), put(1, "b", VALUE_BYTES_MAX + 1)], "mark"),
            batch(
                &[put(1, "a", 1), (1, "k".repeat(9000).as_str(), None)],
                "mark",
            ),
            batch(&[put(255, "a", 1)], "mark"),
        ];
        for refused in too_long {
            assert!(
                matches!(store.write(refused), Err(StateStoreError::TooLong { .. })),
                "{}",
                backend.name()
            );
        }
        assert_eq!((rows(store.as_mut()).len(), store.applied()), (0, None));
        store
            .write(batch(&[put(1, "a", VALUE_BYTES_MAX / 8)], "mark"))
            .unwrap();
        assert_eq!(rows(store.as_mut()).len(), 1);
    }
}

#[test]
fn a_wipe_leaves_nothing() {
    for backend in Backend::all() {
        let mut store = backend.open();
        store
            .write(batch(&[put(1, "a", 9000), put(254, "b", 1)], "mark"))
            .unwrap();
        store.wipe().unwrap();
        assert_eq!((rows(store.as_mut()).len(), store.applied()), (0, None));
        store.write(batch(&[put(3, "c", 1)], "again")).unwrap();
        store.close().unwrap();
        let mut store = backend.open();
        assert_eq!(
            (rows(store.as_mut()).len(), store.applied().unwrap()),
            (1, Bytes::from("again")),
            "{}",
            backend.name()
        );
    }
}

fn opened_after(engine: Engine, before: impl FnOnce(&Path), boot: &str) -> Opened {
    let dir = tempfile::tempdir().unwrap();
    let opened = open_on(dir.path(), engine, "boot-1");
    assert_eq!(opened.opened, Opened::Fresh);
    let mut store = opened.store;
    store.write(batch(&[put(1, "a", 10)], "mark")).unwrap();
    store.flush().unwrap();
    drop(store);
    before(dir.path());
    let OpenedStore { mut store, opened } = open_on(dir.path(), engine, boot);
    assert_eq!(
        rows(store.as_mut()).is_empty(),
        opened != Opened::Kept,
        "a rebuilt store is empty"
    );
    assert_eq!(store.applied().is_none(), opened != Opened::Kept);
    // Whatever it was, it works and is kept from now on.
    store.write(batch(&[put(1, "new", 10)], "new")).unwrap();
    store.close().unwrap();
    assert_eq!(open_on(dir.path(), engine, "boot-9").opened, Opened::Kept);
    opened
}

#[test]
fn a_stop_of_the_machine_rebuilds_the_store() {
    for engine in [Engine::Sled, Engine::Fjall] {
        assert_eq!(opened_after(engine, |_| {}, "boot-1"), Opened::Kept);
        assert_eq!(
            opened_after(engine, |_| {}, "boot-2"),
            Opened::Rebuild(RebuildReason::MachineStopped)
        );
    }
}

#[test]
fn a_store_without_marker_or_of_another_engine_is_rebuilt() {
    for engine in [Engine::Sled, Engine::Fjall] {
        let remove = |dir: &Path| std::fs::remove_file(dir.join("marker")).unwrap();
        assert_eq!(
            opened_after(engine, remove, "boot-1"),
            Opened::Rebuild(RebuildReason::MarkerUnknown)
        );
        let swap = |dir: &Path| std::fs::write(dir.join("marker"), "other clean\n").unwrap();
        assert_eq!(
            opened_after(engine, swap, "boot-1"),
            Opened::Rebuild(RebuildReason::MarkerUnknown)
        );
    }
}

/// Damage at every eighth of every file of the engine: the store is rebuilt, or kept as it was at its mark, and never wrong.
#[test]
fn damaged_files_never_give_wrong_rows() {
    for engine in [Engine::Sled, Engine::Fjall] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open_on(dir.path(), engine, "boot-1").store;
        for number in 0..50 {
            store
                .write(batch(
                    &[(1, &format!("key {number:02}"), Some(vec![number; 200]))],
                    &number.to_string(),
                ))
                .unwrap();
        }
        let expect = rows(store.as_mut());
        store.close().unwrap();
        for file in files(&dir.path().join("engine")) {
            let whole = std::fs::read(&file).unwrap();
            for eighth in 0..8 {
                let copy = tempfile::tempdir().unwrap();
                copy_tree(dir.path(), copy.path());
                let mut damaged = whole.clone();
                let at = damaged.len() * eighth / 8;
                let end = damaged.len().min(at + 64);
                damaged[at..end].iter_mut().for_each(|byte| *byte ^= 0x55);
                std::fs::write(
                    copy.path().join(file.strip_prefix(dir.path()).unwrap()),
                    damaged,
                )
                .unwrap();
                check_damaged(
                    copy.path(),
                    engine,
                    &expect,
                    &format!("{} at {at}", file.display()),
                );
            }
        }
    }
}

fn check_damaged(dir: &Path, engine: Engine, expect: &Rows, what: &str) {
    let boot_id = BootId::from_text("boot-1");
    let options = StateStoreOptions {
        dir: dir.to_owned(),
        engine,
        cache_bytes: 1 << 20,
        boot_id,
    };
    let OpenedStore { mut store, opened } = open_state_store(&options).unwrap();
    let mut seen = Rows::new();
    let loaded = store
        .load(&mut |table, key, value| drop(seen.insert((table.0, key.to_vec()), value.to_vec())));
    let mark = store.applied().map(|mark| {
        String::from_utf8(mark.to_vec())
            .unwrap()
            .parse::<usize>()
            .unwrap()
    });
    drop(store);
    match (opened, loaded) {
        (Opened::Kept, Ok(())) => {
            let rows = mark.unwrap() + 1;
            assert!(
                seen.iter().eq(expect.iter().take(rows)),
                "{what}: {} rows at mark {rows}",
                seen.len()
            );
        }
        (Opened::Kept, Err(_)) => {
            let again = open_state_store(&options).unwrap();
            assert!(
                matches!(again.opened, Opened::Rebuild(_)),
                "{what}: a failed store is rebuilt"
            );
        }
        (_, loaded) => {
            loaded.unwrap();
            assert!(seen.is_empty() && mark.is_none(), "{what}");
        }
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path)
            } else {
                found.push(path)
            }
        }
    }
    found
}

fn copy_tree(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}

#[test]
fn an_unfinished_fill_is_rebuilt() {
    for engine in [Engine::Sled, Engine::Fjall] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open_on(dir.path(), engine, "boot-1").store;
        store.write(batch(&[put(1, "a", 10)], "")).unwrap();
        store.close().unwrap();
        let opened = open_on(dir.path(), engine, "boot-1").opened;
        assert_eq!(opened, Opened::Rebuild(RebuildReason::NoMark));
    }
}

#[test]
fn an_open_store_is_not_deleted_under_its_user() {
    for engine in [Engine::Sled, Engine::Fjall] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open_on(dir.path(), engine, "boot-1").store;
        store.write(batch(&[put(1, "a", 10)], "mark")).unwrap();
        let boot_id = BootId::from_text("boot-1");
        let again = open_state_store(&StateStoreOptions {
            dir: dir.path().to_owned(),
            engine,
            cache_bytes: 1 << 20,
            boot_id,
        });
        assert!(matches!(again, Err(StateStoreError::Locked)), "{engine:?}");
        assert_eq!(rows(store.as_mut()).len(), 1);
    }
}

#[test]
fn memory_loses_what_was_not_flushed_when_told() {
    let disk = MemoryDisk::new();
    let mut store = MemoryStateStore::open(&disk);
    store.write(batch(&[put(1, "a", 1)], "one")).unwrap();
    store.flush().unwrap();
    store.write(batch(&[put(1, "b", 1)], "two")).unwrap();
    disk.lose_unflushed();
    let mut store = MemoryStateStore::open(&disk);
    assert_eq!(
        (rows(&mut store).len(), store.applied().unwrap()),
        (1, Bytes::from("one"))
    );
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<(u8, u8, Option<usize>)>),
    Wipe,
    Reopen { clean: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let change = (
        0..3_u8,
        0..12_u8,
        proptest::option::of(prop_oneof![0..40_usize, 1000..4000_usize]),
    );
    prop_oneof![
        8 => proptest::collection::vec(change, 0..8).prop_map(Step::Write),
        1 => Just(Step::Wipe),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Any sequence of writes, wipes and openings equals a map.
    #[test]
    fn stores_behave_like_a_map(steps in proptest::collection::vec(step(), 1..30)) {
        for backend in Backend::all() {
            let (mut store, mut model) = (backend.open(), Rows::new());
            for (number, step) in steps.iter().enumerate() {
                match step {
                    Step::Write(changes) => {
                        let mut batch = StateBatch::new();
                        for (table, key, length) in changes {
                            let row = (*table, vec![*key]);
                            match length {
                                Some(length) => {
                                    batch.put(Table(*table), vec![*key], vec![*key; *length]);
                                    model.insert(row, vec![*key; *length]);
                                }
                                None => {
                                    batch.delete(Table(*table), vec![*key]);
                                    model.remove(&row);
                                }
                            }
                        }
                        batch.mark(AppliedMark(number.to_string().into()));
                        store.write(batch).unwrap();
                        prop_assert_eq!(store.applied().unwrap(), number.to_string());
                    }
                    Step::Wipe => {
                        store.wipe().unwrap();
                        model.clear();
                    }
                    Step::Reopen { clean } => {
                        if *clean {
                            store.close().unwrap();
                        } else {
                            store.flush().unwrap();
                            drop(store);
                        }
                        store = backend.open();
                    }
                }
                prop_assert_eq!(&rows(store.as_mut()), &model, "{}", backend.name());
            }
        }
    }
}
