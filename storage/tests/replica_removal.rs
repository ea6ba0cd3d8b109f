//! What a replica leaves in the data folder goes, and nothing else; what was begun is noted until it is done.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy.toml's exception doesn't reach"
)]

use std::fs;
use std::path::Path;

use storage::data_dir::DataDir;

const BYTES: usize = 64 << 10;

fn write(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![7; BYTES]).unwrap();
}

#[test]
fn a_replicas_data_goes_and_that_of_others_stays() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataDir::open(folder.path(), "pool", 1).unwrap();
    let snapshot = |name: &str| data.snapshots_dir().join(name);
    let of = |partition: u32, group: u32| {
        vec![
            data.state_dir(partition).join("rows"),
            data.state_dir(partition).join("more/rows"),
            snapshot(&format!("group-{group}-00000000000000000007.snapshot")),
            snapshot(&format!("group-{group}-received-abc")),
        ]
    };
    let (goes, stays) = (of(3, 4), [of(4, 5), of(40, 41)].concat());
    goes.iter().chain(&stays).for_each(|path| write(path));
    let before = data.replica_bytes().unwrap();
    assert!(data.noted_removals().unwrap().is_empty());
    data.note_removal(3).unwrap();
    assert_eq!(data.noted_removals().unwrap(), [3]);
    drop(data);

    // After a crash the note is there.
    let data = DataDir::open(folder.path(), "pool", 1).unwrap();
    assert_eq!(data.noted_removals().unwrap(), [3]);
    data.remove_replica(3, 4).unwrap();
    assert!(data.noted_removals().unwrap().is_empty());
    assert!(goes.iter().all(|path| !path.exists()), "{goes:?}");
    assert!(stays.iter().all(|path| path.exists()), "{stays:?}");
    let after = data.replica_bytes().unwrap();
    assert!(before - after >= 4 * BYTES as u64, "{before} {after}");
    // And again, where nothing is left.
    data.remove_replica(3, 4).unwrap();
}
