//! Snapshots: what is written is read, and no damage passes.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use storage::codec::golden::Layout;
use storage::snapshot::{
    Snapshot, SnapshotError, SnapshotHead, SnapshotReader, SnapshotReceiver, SnapshotSource,
    SnapshotWriter, adopt, discard_received, latest,
};
use storage::state_store::{AppliedMark, KEY_BYTES_MAX, Table, VALUE_BYTES_MAX};

type Row = (u8, Vec<u8>, Vec<u8>);

fn head(group: u32, index: u64) -> SnapshotHead {
    SnapshotHead {
        group,
        index,
        applied: AppliedMark(Bytes::from(format!("mark {index}"))),
    }
}

fn write(dir: &Path, head: SnapshotHead, rows: &[Row]) -> Snapshot {
    let mut writer = SnapshotWriter::create(dir, head).unwrap();
    for (table, key, value) in rows {
        writer.row(Table(*table), key, value).unwrap();
    }
    writer.finish().unwrap()
}

fn read(path: &Path) -> Result<Vec<Row>, SnapshotError> {
    SnapshotReader::open(path)?
        .map(|row| row.map(|row| (row.table.0, row.key.to_vec(), row.value.to_vec())))
        .collect()
}

fn some_rows(count: u32, value_bytes: usize) -> Vec<Row> {
    (0..count)
        .map(|number| {
            (
                1,
                number.to_be_bytes().to_vec(),
                vec![number as u8; value_bytes],
            )
        })
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn rows_of_all_sizes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    for (number, rows) in [
        vec![],
        vec![(0, vec![], vec![])],
        some_rows(10_000, 100),
        vec![
            (1, vec![7; KEY_BYTES_MAX], vec![8; VALUE_BYTES_MAX]),
            (2, vec![1], vec![2]),
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let snapshot = write(dir.path(), head(1, number as u64), &rows);
        assert_eq!(read(&snapshot.path).unwrap(), rows);
        assert_eq!(snapshot.manifest.rows, rows.len() as u64);
        assert_eq!(latest(dir.path(), 1).unwrap(), Some(snapshot));
    }
}

#[test]
fn golden_bytes_of_a_file() {
    const NAME: &str = "group-16909060-00000000000000000515.snapshot";
    let head = head(0x0102_0304, 0x0203);
    let rows = vec![
        (1, b"key".to_vec(), b"value".to_vec()),
        (254, vec![], vec![]),
    ];
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), head.clone(), &rows);
    let layout = Layout {
        name: "snapshot",
        version: 1,
        written: &fs::read(dir.path().join(NAME)).unwrap(),
    };
    let reread = |bytes: Vec<u8>| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), bytes).unwrap();
        let found = latest(dir.path(), head.group).unwrap()?;
        Some((found.manifest.head, read(&found.path).ok()?))
    };
    let value = (head.clone(), rows);
    storage::golden_layout!("goldens/snapshot.txt", layout, &value, reread);
}

#[test]
fn the_newest_of_each_group_stays() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(latest(&dir.path().join("none"), 1).unwrap(), None);
    write(dir.path(), head(1, 5), &some_rows(3, 1));
    write(dir.path(), head(12, 5), &some_rows(3, 1));
    write(dir.path(), head(1, 40), &some_rows(4, 1));
    assert_eq!(
        latest(dir.path(), 1).unwrap().unwrap().manifest.head,
        head(1, 40)
    );
    assert_eq!(
        latest(dir.path(), 12).unwrap().unwrap().manifest.head,
        head(12, 5)
    );
    assert_eq!(latest(dir.path(), 2).unwrap(), None);
    assert_eq!(names(dir.path()).len(), 2);
}

#[test]
fn an_unfinished_snapshot_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = SnapshotWriter::create(dir.path(), head(1, 5)).unwrap();
    writer.row(Table(1), b"key", b"value").unwrap();
    assert!(matches!(
        writer.row(Table(1), &[0; KEY_BYTES_MAX + 1], b""),
        Err(SnapshotError::TooLong)
    ));
    assert_eq!(latest(dir.path(), 1).unwrap(), None);
    drop(writer);
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn every_flip_and_every_cut_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = write(dir.path(), head(1, 5), &some_rows(6, 20));
    let whole = fs::read(&snapshot.path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&snapshot.path, damaged).unwrap();
        assert!(read(&snapshot.path).is_err(), "flipped at {at}");
        fs::write(&snapshot.path, &whole[..at]).unwrap();
        assert!(read(&snapshot.path).is_err(), "cut at {at}");
        assert_eq!(latest(dir.path(), 1).unwrap(), None);
    }
    fs::write(&snapshot.path, [&whole[..], b"x"].concat()).unwrap();
    assert!(read(&snapshot.path).is_err(), "with a byte more");
}

/// Blocks that are right by themselves but lost, doubled or swapped.
#[test]
fn blocks_out_of_order_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = write(dir.path(), head(1, 5), &some_rows(4, 256 * 1024));
    let whole = fs::read(&snapshot.path).unwrap();
    let mut blocks = Vec::new();
    let mut at = 8;
    while at < whole.len() {
        let length = 9 + u32::from_le_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
        blocks.push(&whole[at..at + length]);
        at += length;
    }
    assert_eq!(blocks.len(), 6, "head, four blocks of rows, end");
    for order in [
        &[0, 1, 2, 3, 5][..],
        &[0, 2, 1, 3, 4, 5],
        &[0, 1, 1, 2, 3, 4, 5],
        &[1, 2, 3, 4, 5],
        &[0, 5],
    ] {
        let blocks: Vec<u8> = order
            .iter()
            .flat_map(|number: &usize| blocks[*number].to_vec())
            .collect();
        fs::write(&snapshot.path, [&whole[..8], &blocks].concat()).unwrap();
        assert!(
            matches!(read(&snapshot.path), Err(SnapshotError::Damaged(_))),
            "{order:?}"
        );
    }
}

#[test]
fn a_damaged_newest_gives_way_to_an_older_one() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = write(dir.path(), head(1, 5), &some_rows(3, 1));
    let new = write(elsewhere.path(), head(1, 9), &some_rows(3, 1));
    let bytes = fs::read(&new.path).unwrap();
    fs::write(
        dir.path().join(new.path.file_name().unwrap()),
        &bytes[..bytes.len() - 1],
    )
    .unwrap();
    assert_eq!(latest(dir.path(), 1).unwrap(), Some(old));
}

#[test]
fn the_digest_tells_states_apart() {
    let dir = tempfile::tempdir().unwrap();
    let digest = |group, rows: &[Row]| write(dir.path(), head(group, 1), rows).manifest.digest;
    assert_eq!(
        digest(1, &some_rows(5000, 90)),
        digest(2, &some_rows(5000, 90))
    );
    assert_ne!(
        digest(1, &some_rows(5000, 90)),
        digest(2, &some_rows(4999, 90))
    );
    assert_ne!(
        digest(1, &[(1, vec![1, 2], vec![])]),
        digest(2, &[(1, vec![1], vec![2])])
    );
}

#[test]
fn a_transfer_goes_on_where_it_broke() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let snapshot = write(from.path(), head(1, 5), &some_rows(3000, 100));
    let source = SnapshotSource::open(&snapshot.path).unwrap();
    // A newer snapshot removes the file that is being sent.
    write(from.path(), head(1, 6), &[]);
    let digest = source.snapshot().manifest.digest;
    SnapshotReceiver::open(to.path(), 1, &[9; 32])
        .unwrap()
        .chunk(0, b"another transfer")
        .unwrap();
    let mut receiver = SnapshotReceiver::open(to.path(), 1, &digest).unwrap();
    for turn in 0.. {
        if turn % 3 == 2 {
            drop(receiver);
            receiver = SnapshotReceiver::open(to.path(), 1, &digest).unwrap();
        }
        let offset = receiver.received();
        let chunk = source.chunk(offset, 20_000).unwrap();
        if chunk.is_empty() {
            break;
        }
        receiver.chunk(offset, &chunk).unwrap();
        receiver.chunk(offset, &chunk[..chunk.len() / 2]).unwrap();
        let far = receiver.received() + 1;
        assert!(matches!(
            receiver.chunk(far, &chunk),
            Err(SnapshotError::Gap { .. })
        ));
    }
    let received = receiver.finish().unwrap();
    assert_eq!(received.manifest, source.snapshot().manifest);
    assert_eq!(latest(to.path(), 1).unwrap(), None, "it does not count yet");
    write(to.path(), head(1, 4), &[]);
    fs::write(
        received.path.with_extension("keys"),
        b"of the same transfer",
    )
    .unwrap();
    assert!(matches!(
        adopt(&received.path, 2),
        Err(SnapshotError::Damaged(_))
    ));
    let adopted = adopt(&received.path, 1).unwrap();
    assert_eq!(read(&adopted.path).unwrap(), some_rows(3000, 100));
    assert_eq!(latest(to.path(), 1).unwrap(), Some(adopted));
    assert_eq!(names(to.path()).len(), 1);
}

/// A crash may leave the end of a file torn, and a disk may flip what it holds: only what lies behind that comes again.
#[test]
fn a_transfer_goes_on_in_front_of_the_damage() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let snapshot = write(from.path(), head(1, 5), &some_rows(20_000, 100));
    let bytes = fs::read(&snapshot.path).unwrap();
    let part = SnapshotReceiver::open(to.path(), 1, &[1; 32])
        .unwrap()
        .path()
        .to_owned();
    let check = |there: &[u8], least: usize, most: usize| {
        fs::write(&part, there).unwrap();
        let mut receiver = SnapshotReceiver::open(to.path(), 1, &[1; 32]).unwrap();
        let offset = receiver.received() as usize;
        assert!(
            (least..=most).contains(&offset),
            "{offset} of {}",
            there.len()
        );
        receiver.chunk(offset as u64, &bytes[offset..]).unwrap();
        assert_eq!(receiver.finish().unwrap().manifest, snapshot.manifest);
    };
    let block = 300_000;
    check(&[], 0, 0);
    check(&bytes[..5], 0, 5);
    check(&bytes[..700_000], 700_000, 700_000);
    check(&bytes, bytes.len(), bytes.len());
    check(b"something else altogether", 0, 0);
    let flipped = |at: usize, end: usize| {
        let mut flipped = bytes[..end].to_vec();
        flipped[at] ^= 1;
        flipped
    };
    check(&flipped(3, 700_000), 0, 0);
    check(&flipped(600_000, 1_500_000), 600_000 - block, 600_000);
    check(
        &[&bytes[..600_000], &[0; 600_000][..]].concat(),
        600_000 - block,
        600_000,
    );

    // Damage that is found at the end only.
    fs::write(&part, &bytes[..600_000]).unwrap();
    let mut receiver = SnapshotReceiver::open(to.path(), 1, &[1; 32]).unwrap();
    let late = flipped(1_000_000, bytes.len());
    receiver.chunk(600_000, &late[600_000..]).unwrap();
    assert!(matches!(receiver.finish(), Err(SnapshotError::Damaged(_))));
    let receiver = SnapshotReceiver::open(to.path(), 1, &[1; 32]).unwrap();
    assert!((1_000_000 - block as u64..=1_000_000).contains(&receiver.received()));
    discard_received(to.path(), 1).unwrap();
    assert_eq!(names(to.path()), Vec::<String>::new());
}

#[test]
fn a_transfer_of_something_else_starts_anew() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let snapshot = write(from.path(), head(1, 5), &some_rows(30, 100));
    let mut receiver = SnapshotReceiver::open(to.path(), 2, &[1; 32]).unwrap();
    receiver
        .chunk(0, &fs::read(&snapshot.path).unwrap())
        .unwrap();
    assert!(
        matches!(receiver.finish(), Err(SnapshotError::Damaged(_))),
        "another group's"
    );
    let receiver = SnapshotReceiver::open(to.path(), 2, &[1; 32]).unwrap();
    assert_eq!(receiver.received(), 0);
    discard_received(to.path(), 2).unwrap();
    let mut bytes = fs::read(&snapshot.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mut receiver = SnapshotReceiver::open(to.path(), 1, &[1; 32]).unwrap();
    receiver.chunk(0, &bytes).unwrap();
    assert!(matches!(receiver.finish(), Err(SnapshotError::Damaged(_))));
    assert_eq!(latest(to.path(), 1).unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_file_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), magic: bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, [if magic { &b"MUSTSNAP"[..] } else { &[] }, &bytes].concat()).unwrap();
        prop_assert!(read(&path).is_err());
    }
}
