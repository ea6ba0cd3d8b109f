//! Backups that were made while the pool came to another version.

use cluster::backup::block::RowsBlock;
use cluster::records::{StateRows, encode_entry};
use cluster::version::VersionRange;
use messaging::command::Entry;
use messaging::link_record::{LinkOrigin, LinkRecord};
use messaging::state::PartitionRecord;
use storage::block_file::BlockFileWriter;
use storage::codec::encode;
use storage::state_store::Table;
use web::report::backup::BackupPool;

use super::*;
use crate::backup_files::{self, GroupFiles, Manifest};

/// The last entry of all captures.
const INDEX: u64 = 5;

fn build(max: u16) -> Build {
    Build {
        name: format!("to-{max}"),
        supports: VersionRange { min: 1, max },
    }
}

fn snapshot(dir: &Path, group: u32, rows: impl FnOnce(&mut dyn FnMut(Table, &[u8], &[u8]))) {
    let scratch = tempfile::tempdir().unwrap();
    let mut writer = new_snapshot(scratch.path(), Group(group), INDEX, NodeId(1)).unwrap();
    rows(&mut |table, key, value| writer.row(table, key, value).unwrap());
    let path = writer.finish().unwrap().path;
    std::fs::rename(path, dir.join(backup_files::name(group, Kind::State))).unwrap();
}

/// The meta group at a version, partition 0 at version 1, and partition 1 at what its state and its entries say.
fn backup(dir: &Path, meta: u16, partition: u32, entries: Vec<Vec<u8>>) -> Backup {
    backup_files::begin(dir).unwrap();
    let of = BackupPool {
        pool: "old".into(),
        version: "0".into(),
        domain: "localhost".into(),
        rooms_domain: "conference.localhost".into(),
        partitions: 2,
        contacts_max: 1000,
        occupants_max: 1000,
        rooms_owned_max: 100,
        id_key: "ab".repeat(16),
    };
    snapshot(dir, 0, |_| {});
    let rows = founding_rows(FoundingMeta {
        backup: &dir.join(backup_files::name(0, Kind::State)),
        digest: [0; 32],
        node: NodeId(1),
        address: "127.0.0.1:1".into(),
        groups: 3,
        index: INDEX,
        version: meta,
        record: Change {
            at_ms: 1,
            node: NodeId(1),
            who: "test".into(),
            from: "local".into(),
            action: "none".into(),
            target: String::new(),
        },
    });
    snapshot(dir, 0, |put| {
        for (table, key, value) in rows.unwrap() {
            put(table, &key, &value);
        }
    });
    for (number, behaviour) in [(0, 0), (1, partition)] {
        let mut state = State::default();
        let record = PartitionRecord {
            behaviour,
            ..PartitionRecord::default()
        };
        state.partition.insert((), record);
        if number == 0 && !entries.is_empty() {
            // It knows of something that the other one sends with its next entries.
            let link = LinkRecord {
                last: 1,
                ..LinkRecord::default()
            };
            state.links.insert(LinkOrigin::Partition(1), link);
        }
        let group = u32::from(number) + 1;
        snapshot(dir, group, |put| {
            state.visit(&StateRows, &mut |table, key, value| {
                put(Table(table), key, value)
            });
        });
        let rows = RowsBlock {
            partition: number,
            rows: Vec::new(),
            ended: true,
        };
        let log = EntriesBlock {
            partition: number,
            first: INDEX + 1,
            payloads: entries
                .iter()
                .cloned()
                .map(|entry| Some(entry.into()))
                .collect(),
        };
        for (kind, block) in [(Kind::Rows, encode(&rows)), (Kind::Entries, encode(&log))] {
            let path = dir.join(backup_files::name(group, kind));
            let mut file = BlockFileWriter::create(&path).unwrap();
            file.push(&block.unwrap()).unwrap();
            file.finish().unwrap();
        }
    }
    let groups = (0..=2).map(|group| GroupFiles {
        group,
        index: INDEX,
        upto: INDEX + entries.len() as u64,
        files: backup_files::names(group)
            .into_iter()
            .map(|name| backup_files::entry(dir, name).unwrap())
            .collect(),
    });
    let manifest = Manifest::new(("id".into(), 1, 2), of, groups.collect());
    backup_files::seal(dir, manifest).unwrap();
    Backup::open(dir).unwrap()
}

fn read(backup: &Backup, build: &Build) -> Result<Line, Failure> {
    line(backup, &new_pool(backup).unwrap(), build, &View::new())
}

/// The meta group was captured before the version was finalised, a partition after it had come to it.
#[test]
fn a_pool_is_at_the_version_of_its_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup(&dir.path().join("backup"), 1, 2, Vec::new());
    let line = read(&backup, &build(2)).unwrap();
    assert_eq!((line.version, &line.entries[..]), (2, &[INDEX, INDEX][..]));
    let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let plan = NodePlan {
        id: NodeId(1),
        clients: at(1),
        clients_tls: at(2),
        cluster: at(3),
        control: at(4),
    };
    let node = dir.path().join("node");
    std::fs::create_dir(&node).unwrap();
    let pool = new_pool(&backup).unwrap();
    fill(&backup, &pool, &line, (node.as_path(), &plan), &View::new()).unwrap();
    let data = node.join("data");
    assert_eq!(storage::data_dir::pool_version_of(&data).unwrap(), 2);
    let snapshots = std::fs::read_dir(data.join("snapshots")).unwrap();
    let meta = snapshots.map(|file| file.unwrap().path()).find(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("group-0-")
    });
    assert_eq!(pool_version(&meta.unwrap()).unwrap(), 2);
}

#[test]
fn a_pool_that_nobody_raised_stays_at_the_first_version() {
    let dir = tempfile::tempdir().unwrap();
    let backup = backup(&dir.path().join("backup"), 1, 0, Vec::new());
    assert_eq!(read(&backup, &build(2)).unwrap().version, 1);
}

#[test]
fn a_build_that_is_too_old_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let raised = encode_entry(Entry::Version { version: 2 }, 1).unwrap();
    // What an older build can't read.
    let sealed = vec![2, 0xff];
    let table = [
        ("meta", 2, 1, Vec::new()),
        ("partition", 1, 2, Vec::new()),
        ("entries", 1, 1, vec![raised.to_vec(), sealed]),
    ];
    for (name, meta, partition, entries) in table {
        let of_entries = !entries.is_empty();
        let backup = backup(&dir.path().join(name), meta, partition, entries);
        let refused = read(&backup, &build(1)).unwrap_err();
        assert_eq!(refused.exit, Exit::VersionSkew, "{name}: {refused}");
        let said = refused.to_string();
        assert!(
            said.contains("version 2") && said.contains("too old"),
            "{said}"
        );
        let newer = read(&backup, &build(2));
        match of_entries {
            // It is of that version, and no such entry all the same.
            true => assert_eq!(newer.unwrap_err().exit, Exit::Data),
            false => assert_eq!(newer.unwrap().version, 2),
        }
    }
}
