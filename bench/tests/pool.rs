//! `muster-bench pool` against a node of Muster: the scenarios run to their end and nothing is void.
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

/// Runs parts of the suite, small, and gives their rows.
fn rows(nodes: &str, parts: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_muster-bench"))
        .args(["pool", "--json", "--seconds", "2", "--idle-settle", "1"])
        .args(["--logins", "100", "--archived-messages", "230"])
        .args(["--nodes", nodes, "--only", parts])
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

#[test]
fn archives_are_read_and_users_come_and_go() {
    let rows = rows("1", "archive,churn");
    let names: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["scenario"].as_str())
        .collect();
    assert_eq!(names, ["churn", "archive"]);
    for row in &rows {
        assert_eq!(row["void"], false, "{row}");
    }
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
