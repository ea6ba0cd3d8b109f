//! A partition that comes to another version, by its log alone.

use super::*;

fn written(index: u64, entry: Entry, version: u32) -> CommittedEntry {
    CommittedEntry {
        index,
        term: 1,
        payload: Some(encode_entry(entry, version).unwrap()),
    }
}

fn raise(index: u64, to: u32) -> CommittedEntry {
    written(index, Entry::Version { version: to }, 1)
}

/// The entry at an index of the common story, written as of version 2.
fn sealed(index: u64) -> CommittedEntry {
    let plain = entry(index).payload.unwrap();
    let entry = crate::records::decode_entry(&plain).unwrap();
    written(index, entry, 2)
}

fn apply(machine: &mut PartitionMachine, entry: CommittedEntry) -> Result<(), MachineError> {
    let mark = mark_of(1, entry.index);
    machine.apply(vec![entry], mark)
}

#[test]
fn a_version_comes_by_the_log_and_stays() {
    let (place, folder) = (Place::new(), tempfile::tempdir().unwrap());
    let archive = archive(folder.path(), 1 << 20);
    let (replica, mut machine) = place.start(&archive);
    assert_eq!(replica.version(), 1);
    apply_one(&mut machine, 1).unwrap();
    apply_one(&mut machine, 2).unwrap();
    apply(&mut machine, raise(3, 2)).unwrap();
    assert_eq!(replica.version(), 2);
    apply(&mut machine, sealed(4)).unwrap();
    // Twice, late, and by an owner that did not know: it never falls, and what is written as of version 1 is read.
    apply(&mut machine, raise(5, 2)).unwrap();
    apply(&mut machine, raise(6, 1)).unwrap();
    apply_one(&mut machine, 7).unwrap();
    assert_eq!(replica.version(), 2);
    assert_eq!(replica.state().record().version(), 2);
    drop(machine);
    let (replica, mut machine) = place.start(&archive);
    assert_eq!(replica.version(), 2, "from the store");
    apply(&mut machine, sealed(8)).unwrap();
}

/// P16: replicas that read the same of both kinds are the same.
#[test]
fn how_an_entry_is_written_does_not_show() {
    let (one, other) = (Place::new(), Place::new());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = folders
        .each_ref()
        .map(|folder| archive(folder.path(), 1 << 20));
    let (replica, mut machine) = one.start(&first);
    let (twin, mut twins) = other.start(&second);
    for machine in [&mut machine, &mut twins] {
        apply(machine, raise(1, 2)).unwrap();
    }
    for index in 2..=20 {
        apply(&mut machine, entry(index)).unwrap();
        apply(&mut twins, sealed(index)).unwrap();
    }
    assert_eq!(replica.hash().unwrap(), twin.hash().unwrap());
}

#[test]
fn what_no_version_of_the_partition_allows_stops_the_replica() {
    let check = |entry: CommittedEntry, expect: &str| {
        let (place, folder) = (Place::new(), tempfile::tempdir().unwrap());
        let archive = archive(folder.path(), 1 << 20);
        let (replica, mut machine) = place.start(&archive);
        let error = apply(&mut machine, entry).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        assert_eq!(replica.version(), 1);
    };
    check(
        sealed(1),
        "written as of version 2, and the partition is at version 1",
    );
    check(
        raise(1, 3),
        "at version 3, and this build supports versions 1 to 2",
    );
}

#[test]
fn a_build_that_does_not_apply_the_version_does_not_load_it() {
    let (place, folder) = (Place::new(), tempfile::tempdir().unwrap());
    let archive = archive(folder.path(), 1 << 20);
    let (_, mut machine) = place.start(&archive);
    apply(&mut machine, raise(1, 2)).unwrap();
    drop(machine);
    let old = VersionRange { min: 1, max: 1 };
    let error = place.try_start(&archive, old).err().unwrap().to_string();
    assert!(error.contains("the partition is at version 2"), "{error}");
    place.start(&archive);
}
