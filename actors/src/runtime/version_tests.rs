//! A pool of one node comes to another version, and what is refused because of builds.

use cluster::meta::members::MemberPhase;
use cluster::meta::members::MemberRow;
use cluster::node_id::Incarnation;

use super::super::stage::{settings, until};
use super::super::{NewMember, Operation, start};
use super::*;

/// A build that supports versions up to this one.
fn build(max: u16) -> Build {
    Build {
        name: format!("to-{max}"),
        supports: VersionRange { min: 1, max },
    }
}

fn new_member(build: Build) -> NewMember {
    NewMember {
        address: "127.0.0.1:9".to_owned(),
        addition: [9; 16],
        build,
    }
}

/// A copy of a node's folder, as it was stopped: the test's process keeps the folder locked.
fn copied(folder: &std::path::Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let from = format!("{}/.", folder.display());
    let copying = std::process::Command::new("cp")
        .args(["-a", &from])
        .arg(copy.path())
        .status();
    assert!(copying.unwrap().success());
    copy
}

/// The finalised version reaches the folder, the transport and every partition's log, and stays over a restart; a build
/// that does not support it does not start, and is not let in.
#[actix::test]
async fn a_version_reaches_every_log_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let with = |folder: &tempfile::TempDir, build| Settings {
        build,
        ..settings(folder.path())
    };
    let node = start(with(&folder, build(2))).await.unwrap();
    until("the node is ready", || node.ready().is_ready()).await;
    until("it is a member", || node.versions().members.len() == 1).await;
    let before = node.versions();
    assert_eq!((before.version, before.newest), (1, 2));
    assert!(before.partitions.iter().all(|(_, version)| *version == 1));
    let old = new_member(build(1));
    node.plan(&Operation::Add(old.clone())).unwrap();
    let plan = Finalisation { from: 1, to: 2 };
    assert_eq!(node.plan_finalisation(None).unwrap(), plan);
    assert_eq!(node.versions().version, 1, "a plan changes nothing");
    assert_eq!(node.finalise(None).await.unwrap(), plan);
    assert_eq!(
        node.finalise(Some(2)).await.unwrap(),
        Finalisation { from: 2, to: 2 }
    );
    for (version, code) in [(1, "version-passed"), (3, SKEW)] {
        let planned = node.plan_finalisation(Some(version)).unwrap_err();
        let done = node.finalise(Some(version)).await.unwrap_err();
        assert_eq!((planned.code, done.code), (code, code), "{version}");
    }
    let all_are_there = || {
        let partitions = node.versions().partitions;
        partitions.len() == 2 && partitions.iter().all(|(_, version)| *version == 2)
    };
    until("every partition's log says so", all_are_there).await;
    assert_eq!(
        node.plan(&Operation::Add(old.clone())).unwrap_err().code,
        SKEW
    );
    assert_eq!(node.add_member(old).await.unwrap_err().code, SKEW);
    node.plan(&Operation::Add(new_member(build(2)))).unwrap();
    node.stop().await;
    drop(node);

    // From the folder alone, and, had that been lost, by the meta group's word.
    for noted in [true, false] {
        let folder = copied(folder.path());
        if !noted {
            std::fs::remove_file(folder.path().join("pool-version")).unwrap();
        }
        match start(with(&folder, build(1))).await {
            Err(StartError::VersionSkew(sentence)) => {
                assert!(sentence.contains("version 2"), "{sentence}");
                assert!(sentence.contains("too old"), "{sentence}");
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("it has started"),
        }
    }
    let folder = copied(folder.path());
    let node = start(with(&folder, build(3))).await.unwrap();
    until("the node is ready", || node.ready().is_ready()).await;
    let after = node.versions();
    assert_eq!((after.version, after.newest), (2, 3));
    assert!(after.partitions.iter().all(|(_, version)| *version == 2));
    until("the folder says so", || {
        storage::data_dir::pool_version_of(folder.path()).unwrap() == 2
    })
    .await;
    node.stop().await;
}

#[test]
fn who_would_take_over_must_fit() {
    let mut state = MetaState::default();
    for (node, max) in [(1, 2), (2, 2), (3, 1)] {
        let row = MemberRow {
            address: format!("host-{node}"),
            phase: MemberPhase::Member,
            revision: 1,
            addition: [0; 16],
            leaves: false,
            heir: None,
            pace: 0,
        };
        state.members.rows.insert(NodeId(node), row);
        state.starts.insert(NodeId(node), Incarnation(node));
        state.versions.builds.insert(NodeId(node), build(max));
    }
    refuse_unfit(&state, NodeId(1)).unwrap();
    // As it can't come to be by entries.
    state.versions.builds.insert(
        NodeId(3),
        Build {
            supports: VersionRange { min: 2, max: 2 },
            ..build(2)
        },
    );
    assert_eq!(refuse_unfit(&state, NodeId(1)).unwrap_err().code, SKEW);
    refuse_unfit(&state, NodeId(3)).expect("who goes need not fit");
}

#[test]
fn the_folder_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        build: build(2),
        ..settings(folder.path())
    };
    refuse_folder(&settings).unwrap();
    settings.data.note_pool_version(2).unwrap();
    refuse_folder(&settings).unwrap();
    settings.data.note_pool_version(3).unwrap();
    let error = refuse_folder(&settings).unwrap_err().to_string();
    assert!(error.contains("pool at version 3"), "{error}");
    assert!(
        error.contains("build to-2, which supports versions 1 to 2"),
        "{error}"
    );
}
