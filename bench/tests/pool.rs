//! `muster-bench` against pools of Muster that it starts: what it plays comes to its end, and nothing is void.
//!
//! The server is the released binary, as in the tests of `chaos-tests`; build it first.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The one beside this test's own folder.
fn server() -> PathBuf {
    if let Some(path) = std::env::var_os("MUSTER_BINARY") {
        return PathBuf::from(path);
    }
    let own = std::env::current_exe().expect("a test is a program");
    let folder = own.parent().and_then(Path::parent);
    folder
        .expect("it lies in target/release/deps")
        .join("muster")
}

/// Runs something, small, and gives its rows.
fn rows(words: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_muster-bench"))
        .args(words.split(' '))
        .args(["--json", "--seconds", "2"])
        .arg("--binary")
        .arg(server())
        .arg("--dir")
        .arg(dir.path())
        .output()
        .expect("it can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    report["rows"].as_array().expect("rows").clone()
}

fn figure(row: &Value, name: &str) -> f64 {
    let figures = row["figures"].as_array().expect("figures");
    let found = figures.iter().find(|figure| figure["name"] == name);
    let value = found.and_then(|figure| figure["value"].as_f64());
    value.unwrap_or_else(|| panic!("no {name} in {row}"))
}

/// These scenarios and no others, and nothing of them is void.
fn sound(rows: &[Value], expect: &[&str]) {
    let names = rows.iter().filter_map(|row| row["scenario"].as_str());
    assert_eq!(names.collect::<Vec<&str>>(), expect);
    for row in rows {
        assert_eq!(row["void"], false, "{row}");
    }
}

#[test]
fn archives_are_read_and_users_come_and_go() {
    let rows = rows(
        "pool --nodes 1 --only archive,churn --idle-settle 1 --logins 100 --archived-messages 230",
    );
    sound(&rows, &["churn", "archive"]);
    let [churn, archive] = rows.as_slice() else {
        panic!("two rows");
    };
    assert_eq!(figure(churn, "rounds"), 100.0);
    assert!(figure(archive, "forwards") > 0.0 && figure(archive, "backwards") > 0.0);
    assert_eq!(figure(archive, "others' rows"), 0.0);
    assert!(
        archive["percentiles"]
            .as_array()
            .is_some_and(|curve| curve.len() > 3)
    );
}

/// Eighty users, 43 rooms, three nodes, all of it once.
#[test]
fn a_small_lync_pool_loses_nothing() {
    let rows = rows("lync --scale 0.001 --paced-seconds 0 --settle 0 --large-room-max 12");
    let scenarios = [
        "founding", "login", "memory", "entering", "load", "chat", "presence", "posts",
    ];
    sound(&rows, &scenarios);
    let [founding, login, .., load, chat, presence, _] = rows.as_slice() else {
        panic!("eight rows");
    };
    assert!(figure(founding, "rate") > 0.0 && figure(login, "generator CPU") >= 0.0);
    assert!(figure(load, "deliveries") > 0.0 && figure(presence, "deliveries") > 0.0);
    for name in ["lost", "doubled"] {
        assert_eq!(figure(chat, name), 0.0, "{chat}");
    }
}
