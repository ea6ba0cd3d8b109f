//! What a replica leaves behind when its archive fails.

use std::path::Path;
use std::time::{Duration, Instant};

use messaging::apply::PoolConstants;
use messaging::command::{Batch, Command, Proposal};
use messaging::link_record::LinkOrigin;
use messaging::room::command::{HistoryRequest, RoomAction, RoomCommand};
use messaging::slot::{PartitionId, PartitionTable};
use storage::archive::{ArchiveOptions, Order, Page, Rows};
use storage::state_store::{MemoryDisk, MemoryStateStore};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::sasl::StoredCredentials;
use xmpp::stanza::{Stanza, StanzaKind};

use super::*;
use crate::raft::mark_of;
use crate::records::encode_entry;

mod snapshots;
mod versions;

const ALICE: &str = "alice@localhost";

/// A partition whose process may end and start again: what is on its disks stays.
struct Place {
    disk: MemoryDisk,
    snapshots: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place {
            disk: MemoryDisk::new(),
            snapshots: tempfile::tempdir().unwrap(),
        }
    }

    /// Starts the partition with an archive; the state is stored at every chunk.
    fn start(&self, archive: &Archive) -> (Arc<Replica>, PartitionMachine) {
        self.try_start(archive, VersionRange { min: 1, max: 2 })
            .unwrap()
    }

    /// Starts it with a build that supports these versions.
    fn try_start(
        &self,
        archive: &Archive,
        supports: VersionRange,
    ) -> Result<(Arc<Replica>, PartitionMachine), MachineError> {
        let surroundings = Surroundings {
            partition: PartitionId(0),
            table: PartitionTable::even(1),
            pool: PoolConstants {
                id_key: [1; 16],
                domain: "localhost".to_owned(),
                rooms_domain: "rooms.localhost".to_owned(),
                contacts_max: 10,
                occupants_max: 10,
                rooms_owned_max: 10,
            },
        };
        let replica = Arc::new(Replica::new(surroundings, archive.clone()));
        let settings = MachineSettings {
            policy: CheckpointPolicy {
                entries_max: 1,
                bytes_max: 1,
            },
            snapshots: self.snapshots.path().to_owned(),
            node: NodeId(1),
            incarnation: Arc::default(),
            supports,
        };
        let store = Box::new(MemoryStateStore::open(&self.disk));
        let machine = PartitionMachine::load(Arc::clone(&replica), store, settings)?;
        Ok((replica, machine))
    }
}

fn archive(dir: &Path, memtable_bytes: u64) -> Archive {
    let options = ArchiveOptions {
        memtable_bytes,
        ..ArchiveOptions::default()
    };
    Archive::open(dir, &options).unwrap()
}

/// The log: an owner, an account, then messages for its archive.
fn entry(index: u64) -> CommittedEntry {
    let alice = BareJid::parse(ALICE).unwrap();
    let command = match index {
        2 => Command::CreateAccount {
            user: alice,
            credentials: StoredCredentials {
                sha1: None,
                sha256: None,
                sha512: None,
            },
        },
        _ => {
            let mut stanza = Stanza::new(StanzaKind::Message);
            stanza.to = Some(Jid::parse("hall@rooms.localhost/nick").unwrap());
            let body = format!("<body>{index} {}</body>", "long ".repeat(400));
            stanza.append_payload(body.as_bytes());
            Command::FileSent {
                user: alice,
                stanza,
            }
        }
    };
    let entry = match index {
        1 => Entry::OwnerBegin {
            node: 1,
            incarnation: 1,
            time_ms: 1,
        },
        _ => Entry::Batch(Batch {
            epoch: 1,
            time_ms: index,
            proposals: vec![Proposal {
                origin: LinkOrigin::Node(1),
                incarnation: 1,
                sequence: index - 1,
                command,
            }],
        }),
    };
    CommittedEntry {
        index,
        term: 1,
        payload: Some(encode_entry(entry, 1).unwrap()),
    }
}

fn apply_one(machine: &mut PartitionMachine, index: u64) -> Result<(), MachineError> {
    machine.apply(vec![entry(index)], mark_of(1, index))
}

fn rows(archive: &Archive) -> usize {
    let page = Page {
        after: None,
        before: None,
        order: Order::OldestFirst,
        limit: usize::MAX,
    };
    let partition = storage::archive::PartitionId(0);
    let rows = archive.range(partition, ALICE, Rows::All, &page).unwrap();
    rows.len()
}

/// A chunk whose rows the archive refused used to be in the state that was stored when the process ended, under the mark
/// of the chunk before: the next start took its commands for done, and their rows were never written.
#[test]
fn a_chunk_whose_archive_rows_are_refused_leaves_no_hole() {
    let place = Place::new();
    let (broken, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let failing = archive(broken.path(), 8 * 1024);
    let (replica, mut machine) = place.start(&failing);
    for index in 1..=3 {
        apply_one(&mut machine, index).unwrap();
    }
    // The engine can't write its next table any more, and from then on refuses everything.
    std::fs::remove_dir_all(broken.path()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut index = 3;
    loop {
        index += 1;
        match apply_one(&mut machine, index) {
            Ok(()) => assert!(Instant::now() < deadline, "the archive never fails"),
            Err(error) => break assert_eq!(error.what, "the archive takes no rows"),
        }
    }
    assert_eq!(machine.applied(), Some(mark_of(1, index - 1)));
    assert_eq!(replica.applied_index(), index - 1);
    assert!(replica.state.try_read().is_err(), "the state is shown");
    // Nothing goes on from there.
    assert!(apply_one(&mut machine, index + 1).is_err());
    assert!(machine.write_snapshot(mark_of(1, index)).is_err());
    drop(machine);

    // The disk is well again; the log has the entry.
    let archive = archive(whole.path(), 1 << 20);
    let (_, mut machine) = place.start(&archive);
    let mark = machine.applied().map(|mark| mark_place(&mark).unwrap().1);
    assert_eq!(mark, Some(index - 1));
    apply_one(&mut machine, index).unwrap();
    assert_eq!(rows(&archive), 1, "the entry's row is missing");
}

/// What a snapshot stands for is in the store as well, so that a killed process starts where the log does.
#[test]
fn a_snapshot_leaves_the_store_flushed_at_its_mark() {
    let place = Place::new();
    let folder = tempfile::tempdir().unwrap();
    let archive = archive(folder.path(), 1 << 20);
    let (_, mut machine) = place.start(&archive);
    machine.policy = CheckpointPolicy::default();
    for index in 1..=4 {
        apply_one(&mut machine, index).unwrap();
    }
    machine.write_snapshot(mark_of(1, 4)).unwrap();
    apply_one(&mut machine, 5).unwrap();
    // Killed: nothing is closed.
    std::mem::forget(machine);
    place.disk.lose_unflushed();
    let (_, machine) = place.start(&archive);
    assert_eq!(machine.applied(), Some(mark_of(1, 4)));
    let found = Machine::snapshot(&machine).map(|(mark, _)| mark);
    assert_eq!(found, Some(mark_of(1, 4)));
}

/// An owner and many accounts, then messages: rows for more than one portion of a hash.
fn many(accounts: u64) -> Vec<CommittedEntry> {
    let proposals = (1..=accounts).map(|number| Proposal {
        origin: LinkOrigin::Node(1),
        incarnation: 1,
        sequence: number,
        command: Command::CreateAccount {
            user: BareJid::parse(&format!("user-{number}@localhost")).unwrap(),
            credentials: StoredCredentials {
                sha1: None,
                sha256: None,
                sha512: None,
            },
        },
    });
    let batch = Entry::Batch(Batch {
        epoch: 1,
        time_ms: 2,
        proposals: proposals.collect(),
    });
    let batch = CommittedEntry {
        index: 2,
        term: 1,
        payload: Some(encode_entry(batch, 1).unwrap()),
    };
    vec![entry(1), batch]
}

fn apply_all(machine: &mut PartitionMachine, entries: &[CommittedEntry]) {
    let last = entries.last().unwrap().index;
    machine.apply(entries.to_vec(), mark_of(1, last)).unwrap();
}

/// P16: the hash depends on what was applied and on nothing else, not on chunks, portions or restarts.
#[test]
fn replicas_that_applied_the_same_have_the_same_hash() {
    let (one, other) = (Place::new(), Place::new());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = folders
        .each_ref()
        .map(|folder| archive(folder.path(), 1 << 20));
    let (replica, mut machine) = one.start(&first);
    let (twin, mut twins) = other.start(&second);
    assert_eq!(
        replica.hash().unwrap(),
        twin.hash().unwrap(),
        "both are empty"
    );
    let entries: Vec<_> = (1..=40).map(entry).collect();
    apply_all(&mut machine, &entries);
    entries
        .iter()
        .for_each(|entry| apply_all(&mut twins, std::slice::from_ref(entry)));
    let hash = replica.hash().unwrap();
    assert_eq!(hash, twin.hash().unwrap());
    assert_eq!((hash.applied, hash.archive.rows), (40, 38));

    // One is behind: another index, another hash.
    apply_one(&mut machine, 41).unwrap();
    let ahead = replica.hash().unwrap();
    assert_eq!(ahead.applied, 41);
    assert_ne!(
        (ahead.state.digest, ahead.archive.digest),
        (hash.state.digest, hash.archive.digest)
    );
    apply_one(&mut twins, 41).unwrap();
    assert_eq!(ahead, twin.hash().unwrap());

    // From its store it is the same, with no entry applied yet.
    drop(machine);
    let (replica, _machine) = one.start(&first);
    assert_eq!(replica.hash().unwrap(), ahead);

    // A row that differs shows, in the state as in the archive.
    let page = Page {
        after: None,
        before: None,
        order: Order::OldestFirst,
        limit: 1,
    };
    let partition = storage::archive::PartitionId(0);
    let mut row = second
        .range(partition, ALICE, Rows::All, &page)
        .unwrap()
        .remove(0);
    row.record = Bytes::from_static(b"another");
    second.append(partition, &[row]).unwrap();
    let archived = twin.hash().unwrap();
    assert_eq!(archived.state, ahead.state);
    assert_ne!(archived.archive, ahead.archive);
    assert_eq!(archived.archive.rows, ahead.archive.rows);
    let user = BareJid::parse("stranger@localhost").unwrap();
    twin.state
        .write()
        .unwrap()
        .logs
        .get_or_insert_with(&user, Default::default);
    assert_eq!(twin.hash().unwrap().state.rows, ahead.state.rows + 1);
}

#[test]
fn portions_of_a_large_state_are_hashed_as_a_whole() {
    let place = Place::new();
    let folder = tempfile::tempdir().unwrap();
    let (replica, mut machine) = place.start(&archive(folder.path(), 1 << 20));
    apply_all(&mut machine, &many(3000));
    let mut whole = storage::state_store::StateHasher::default();
    replica.state().visit(&StateRows, &mut |table, key, value| {
        whole.row(Table(table), key, value)
    });
    let hash = replica.hash().unwrap();
    assert!(hash.state.rows > 3000, "{hash:?}");
    assert_eq!(hash.state, whole.finish());
}

const DEN: &str = "den@rooms.localhost";

/// The log: an owner, a room, then presences of its one occupant.
fn room_entry(index: u64) -> CommittedEntry {
    let by = FullJid::parse("alice@localhost/pc").unwrap();
    let (nick, presence) = ("alice".to_owned(), Stanza::new(StanzaKind::Presence));
    let action = match index {
        2 => RoomAction::Join {
            nick,
            presence,
            password: None,
            history: HistoryRequest::default(),
            node: 1,
            incarnation: 1,
            session: 1,
        },
        _ => RoomAction::Presence { nick, presence },
    };
    let entry = match index {
        1 => Entry::OwnerBegin {
            node: 1,
            incarnation: 1,
            time_ms: 1,
        },
        _ => Entry::Batch(Batch {
            epoch: 1,
            time_ms: index,
            proposals: vec![Proposal {
                origin: LinkOrigin::Node(1),
                incarnation: 1,
                sequence: index - 1,
                command: Command::Room(RoomCommand {
                    room: BareJid::parse(DEN).unwrap(),
                    by,
                    account: 1,
                    action,
                }),
            }],
        }),
    };
    CommittedEntry {
        index,
        term: 1,
        payload: Some(encode_entry(entry, 1).unwrap()),
    }
}

fn apply_room(machine: &mut PartitionMachine, from: u64, upto: u64, chunk: u64) {
    let mut next = from;
    while next <= upto {
        let last = (next + chunk - 1).min(upto);
        let entries = (next..=last).map(room_entry).collect();
        machine.apply(entries, mark_of(1, last)).unwrap();
        next = last + 1;
    }
}

fn events(archive: &Archive) -> Vec<u64> {
    let page = Page {
        after: None,
        before: None,
        order: Order::OldestFirst,
        limit: usize::MAX,
    };
    let partition = storage::archive::PartitionId(0);
    let rows = archive.range(partition, DEN, Rows::Events, &page).unwrap();
    rows.iter().map(|row| row.seq).collect()
}

/// Whatever the size of its chunks, and when it was killed with an archive far ahead of its store: at the same applied
/// index every replica has the same events of a room, the newest 1,000 to 1,099.
#[test]
fn every_replica_trims_the_same_events() {
    const LAST: u64 = 3_456;
    let (one, other) = (Place::new(), Place::new());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let archives = folders.each_ref().map(|dir| archive(dir.path(), 1 << 20));
    let (_, mut machine) = one.start(&archives[0]);
    apply_room(&mut machine, 1, LAST, 1);
    let expected = events(&archives[0]);
    assert!(
        (1_000..1_100).contains(&expected.len()),
        "{}",
        expected.len()
    );

    let (_, mut machine) = other.start(&archives[1]);
    machine.policy = CheckpointPolicy {
        entries_max: u64::MAX,
        bytes_max: u64::MAX,
    };
    apply_room(&mut machine, 1, 500, 7);
    machine.write_snapshot(mark_of(1, 500)).unwrap();
    apply_room(&mut machine, 501, 3_000, 2_500);
    // Killed: the store is as of the snapshot, the archive has trimmed for 2,500 entries since.
    std::mem::forget(machine);
    other.disk.lose_unflushed();
    let (_, mut machine) = other.start(&archives[1]);
    assert_eq!(machine.applied(), Some(mark_of(1, 500)));
    apply_room(&mut machine, 501, LAST, 64);
    assert_eq!(events(&archives[1]), expected);
    let hash = |archive: &Archive| {
        let partition = storage::archive::PartitionId(0);
        archive.view().hash(partition, None).unwrap()
    };
    assert_eq!(hash(&archives[0]), hash(&archives[1]));
}
