//! Taking over another replica's snapshot, and where a crash on the way leaves a replica.

use std::fs;

use storage::archive::{KeyListWriter, PartitionId as ArchivePartition};
use storage::snapshot::{SnapshotReceiver, adopt, latest};

use super::*;
use crate::rebuild::bring_up;
use crate::replica_hash::ReplicaHashError;

const PARTITION: ArchivePartition = ArchivePartition(0);
const DUMPED: u64 = 40;
const LAST: u64 = 44;

fn group() -> Group {
    Group::of(PartitionId(0))
}

/// Messages of an account; it is removed on the way, and another has messages after that.
fn story(index: u64) -> CommittedEntry {
    let bob = || BareJid::parse("bob@localhost").unwrap();
    let command = match index {
        30 => Command::RemoveAccount {
            user: BareJid::parse(ALICE).unwrap(),
        },
        31 => Command::CreateAccount {
            user: bob(),
            credentials: StoredCredentials {
                sha1: None,
                sha256: None,
                sha512: None,
            },
        },
        32.. => {
            let mut stanza = Stanza::new(StanzaKind::Message);
            stanza.to = Some(Jid::parse("hall@rooms.localhost/nick").unwrap());
            stanza.append_payload(format!("<body>{index}</body>").as_bytes());
            let user = bob();
            Command::FileSent { user, stanza }
        }
        _ => return entry(index),
    };
    let batch = Entry::Batch(Batch {
        epoch: 1,
        time_ms: index,
        proposals: vec![Proposal {
            origin: LinkOrigin::Node(1),
            incarnation: 1,
            sequence: index - 1,
            command,
        }],
    });
    CommittedEntry {
        index,
        term: 1,
        payload: Some(encode_entry(batch, 1).unwrap()),
    }
}

fn apply_story(machine: &mut PartitionMachine, from: u64, upto: u64) {
    for index in from..=upto {
        machine
            .apply(vec![story(index)], mark_of(1, index))
            .unwrap();
    }
}

/// A replica on its disks.
struct Home {
    place: Place,
    archive: Archive,
    _folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        let folder = tempfile::tempdir().unwrap();
        Home {
            place: Place::new(),
            archive: archive(folder.path(), 1 << 20),
            _folder: folder,
        }
    }

    fn start(&self) -> (Arc<Replica>, PartitionMachine) {
        self.place.start(&self.archive)
    }

    fn snapshots(&self) -> &Path {
        self.place.snapshots.path()
    }

    fn index(machine: &PartitionMachine) -> u64 {
        mark_place(&machine.applied().unwrap()).unwrap().1
    }

    /// Receives all that belongs to the newest snapshot of another.
    fn receive(&self, from: &Home) -> PathBuf {
        let snapshot = latest(from.snapshots(), group().0).unwrap().unwrap();
        let identity = snapshot.identity();
        let mut receiver = SnapshotReceiver::open(self.snapshots(), group().0, &identity).unwrap();
        receiver
            .chunk(0, &fs::read(&snapshot.path).unwrap())
            .unwrap();
        let received = receiver.finish().unwrap().path;
        let path = key_list_path(&received);
        let mut list = KeyListWriter::create(&path, PARTITION, LAST).unwrap();
        for listed in from.archive.view().keys(PARTITION, None, 99).unwrap() {
            for missing in self.archive.view().missing(PARTITION, &listed).unwrap() {
                let page = missing.page(usize::MAX);
                let rows = from.archive.range(PARTITION, &listed.key, Rows::All, &page);
                self.archive.append(PARTITION, &rows.unwrap()).unwrap();
            }
            list.push(listed).unwrap();
        }
        list.finish().unwrap();
        received
    }
}

/// One that dumped at an entry and has gone on, and one that is far behind it.
fn source_and_target() -> (Home, Arc<Replica>, Home) {
    let (from, to) = (Home::new(), Home::new());
    let (source, mut machine) = from.start();
    apply_story(&mut machine, 1, DUMPED);
    machine.write_snapshot(mark_of(1, DUMPED)).unwrap();
    apply_story(&mut machine, DUMPED + 1, LAST);
    let (_, mut machine) = to.start();
    apply_story(&mut machine, 1, 10);
    machine.write_snapshot(mark_of(1, 10)).unwrap();
    (from, source, to)
}

fn names(home: &Home) -> Vec<String> {
    let files = fs::read_dir(home.snapshots()).unwrap();
    let name = |file: std::io::Result<fs::DirEntry>| file.unwrap().file_name().into_string();
    files.map(|file| name(file).unwrap()).collect()
}

#[test]
fn a_replica_that_takes_over_a_snapshot_is_like_its_source() {
    let (from, source, to) = source_and_target();
    let (replica, mut machine) = to.start();
    let received = to.receive(&from);
    assert_eq!(replica.applied_index(), 10, "nothing has changed yet");
    machine.install(&received).unwrap();
    assert_eq!(Home::index(&machine), DUMPED);
    assert_eq!(replica.applied_index(), DUMPED);
    assert_eq!(
        names(&to).len(),
        1,
        "only the snapshot is left: {:?}",
        names(&to)
    );
    // The archive has rows of later entries, until those are applied.
    assert!(matches!(replica.hash(), Err(ReplicaHashError::Moving)));
    apply_story(&mut machine, DUMPED + 1, LAST);
    let hash = replica.hash().unwrap();
    assert_eq!(hash, source.hash().unwrap());
    assert_eq!(hash.archive.rows, LAST - 31, "alice's rows are gone");
    // From its store, too.
    drop(machine);
    let (replica, _machine) = to.start();
    assert_eq!(replica.hash().unwrap(), source.hash().unwrap());
}

#[test]
fn a_crash_before_the_snapshot_counts_leaves_the_old_replica() {
    let (from, source, to) = source_and_target();
    to.receive(&from);
    // It got as far as the archive.
    let list = to.receive(&from);
    let list = KeyList::open(&key_list_path(&list), PARTITION).unwrap();
    to.archive.keep_listed(PARTITION, list).unwrap();
    let mut store = MemoryStateStore::open(&to.place.disk);
    assert_eq!(bring_up(&mut store, to.snapshots(), group()).unwrap(), None);
    let (replica, mut machine) = to.start();
    assert_eq!((Home::index(&machine), replica.applied_index()), (10, 10));
    // The log may bring it on after all: a leader that still has the entries.
    apply_story(&mut machine, 11, LAST);
    assert_eq!(replica.hash().unwrap(), source.hash().unwrap());
    drop(machine);

    // Or another transfer.
    let (_, _, other) = source_and_target();
    let received = other.receive(&from);
    std::mem::forget(other.start());
    let (replica, mut machine) = other.start();
    assert_eq!(other.receive(&from), received, "what is there is used");
    machine.install(&received).unwrap();
    apply_story(&mut machine, DUMPED + 1, LAST);
    assert_eq!(replica.hash().unwrap(), source.hash().unwrap());
}

#[test]
fn a_crash_after_the_snapshot_counts_leaves_the_new_replica() {
    let (from, source, to) = source_and_target();
    let received = to.receive(&from);
    let list = KeyList::open(&key_list_path(&received), PARTITION).unwrap();
    to.archive.keep_listed(PARTITION, list).unwrap();
    adopt(&received, group().0).unwrap();
    let mut store = MemoryStateStore::open(&to.place.disk);
    let filled = bring_up(&mut store, to.snapshots(), group()).unwrap();
    assert_eq!(filled, Some(DUMPED));
    let (replica, mut machine) = to.start();
    assert_eq!(Home::index(&machine), DUMPED);
    apply_story(&mut machine, DUMPED + 1, LAST);
    assert_eq!(replica.hash().unwrap(), source.hash().unwrap());
}

/// What can't be taken over stops the group; the next start finds the old replica.
#[test]
fn what_is_no_snapshot_changes_nothing() {
    let (from, _, to) = source_and_target();
    let received = to.receive(&from);
    fs::write(&received, b"something else").unwrap();
    let (replica, mut machine) = to.start();
    assert!(machine.install(&received).is_err());
    assert!(machine.install(&to.snapshots().join("nothing")).is_err());
    assert_eq!(replica.applied_index(), 10);
    drop(machine);
    let (_, machine) = to.start();
    assert_eq!(Home::index(&machine), 10);
}

/// It owned the partition when it fell behind: it does no longer, and what it would have told is not told.
#[test]
fn a_replica_that_takes_over_a_snapshot_owns_nothing() {
    let (from, _, _) = source_and_target();
    let to = Home::new();
    let (replica, mut machine) = to.start();
    machine.incarnation.store(1, Ordering::Release);
    apply_story(&mut machine, 1, 5);
    assert!(machine.reigning);
    machine.install(&to.receive(&from)).unwrap();
    assert!(!machine.reigning);
    let mut last = None;
    while let Some(news) = replica.news.pop() {
        last = Some(news);
    }
    assert!(matches!(last, Some(OwnerNews::Ended)), "{last:?}");
    let untold = replica.untold(u64::MAX / 2);
    assert!(untold.users.is_empty() && untold.rooms.is_empty());
}

/// It carries the version that the partition is at.
#[test]
fn a_snapshot_of_another_version_is_taken_over_by_builds_that_apply_it() {
    let from = Home::new();
    let (_, mut machine) = from.start();
    let raise = CommittedEntry {
        index: 1,
        term: 1,
        payload: Some(encode_entry(Entry::Version { version: 2 }, 1).unwrap()),
    };
    machine.apply(vec![raise], mark_of(1, 1)).unwrap();
    machine.write_snapshot(mark_of(1, 1)).unwrap();
    for (max, version) in [(1, 1), (2, 2)] {
        let to = Home::new();
        let received = to.receive(&from);
        let supports = VersionRange { min: 1, max };
        let (replica, mut machine) = to.place.try_start(&to.archive, supports).unwrap();
        assert_eq!(machine.install(&received).is_ok(), version == 2);
        assert_eq!(replica.version(), version);
    }
}
