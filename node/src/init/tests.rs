//! New pools: complete, secret where they should be, and never in the place of anything.

use std::os::unix::fs::PermissionsExt;

use clap::Parser;

use super::*;
use crate::certificate::Certified;
use crate::cli::{Cli, Command};

fn args(dir: &Path, more: &str) -> InitArgs {
    let line = format!("muster init --dir {} {more}", dir.display());
    match Cli::parse_from(line.split_whitespace()).command {
        Command::Init(args) => args,
        _ => panic!("{line}"),
    }
}

fn refusal(dir: &Path, more: &str) -> String {
    make(&args(dir, more)).unwrap_err().to_string()
}

#[test]
fn a_pool_is_made_once() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("run");
    make(&args(&dir, "--nodes 3")).unwrap();
    let before = fs::read(dir.join("node-2/pool.toml")).unwrap();
    let message = refusal(&dir, "--nodes 3");
    assert!(
        message.ends_with("holds a pool already: nothing was changed; choose another folder"),
        "{message}"
    );
    assert_eq!(fs::read(dir.join("node-2/pool.toml")).unwrap(), before);
    for node in ["node-1", "node-3"] {
        assert_eq!(fs::read(dir.join(node).join("pool.toml")).unwrap(), before);
    }
    let left: Vec<_> = fs::read_dir(parent.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn nothing_else_is_overwritten() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(refusal(&file, "").contains("is no folder"));
    assert!(refusal(parent.path(), "").contains("is not empty"));
    let empty = parent.path().join("empty");
    fs::create_dir(&empty).unwrap();
    make(&args(&empty, "--nodes 1")).unwrap();
    assert!(empty.join("node-1/muster.toml").is_file());
}

#[test]
fn only_the_owner_reads_secrets() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("run");
    make(&args(&dir, "--nodes 1")).unwrap();
    let check = |file: &str, mode| {
        let found = fs::metadata(dir.join(file)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{file}");
    };
    for secret in [
        "pool.toml",
        "cluster-key.pem",
        "clients-key.pem",
        "control-key.pem",
        "issuer-key.pem",
        "data/control.token",
    ] {
        check(&format!("node-1/{secret}"), 0o600);
    }
    check("ca/ca-key.pem", 0o600);
    check("node-1/data", 0o700);
    check("ca/ca.pem", 0o644);
    check("node-1/muster.toml", 0o644);
}

#[test]
fn what_makes_no_pool_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("run");
    let check = |more: &str, message: &str| {
        let found = refusal(&dir, more);
        assert!(found.ends_with(message), "{found}");
        assert!(fs::read_dir(parent.path()).unwrap().next().is_none());
    };
    check("--domain a@b", "--domain: \"a@b\" is no domain");
    check(
        "--rooms-domain localhost",
        "--rooms-domain: rooms need a domain of their own",
    );
    check(
        "--names chat.example.org,a/b",
        "--names: \"a/b\" is no name that a certificate can have",
    );
    check(
        "--bind 10.0.0.1,10.0.0.2",
        "--bind: 2 addresses for 3 nodes: give one, or one a node",
    );
    check(
        "--bind 0.0.0.0",
        "--bind: 0.0.0.0 is no address at which the other nodes reach a node",
    );
    check(
        "--domain 192.168.1.1",
        "--domain: \"conference.192.168.1.1\" is no name that a certificate can have",
    );
    check(
        "--control-bind 10.0.0.1,10.0.0.2",
        "--control-bind: 2 addresses for 3 nodes: give one, or one a node",
    );
}

/// Clients compare A-labels (RFC 6125 §6.4.2), whatever form the operator typed.
#[test]
fn certificates_name_domains_beyond_ascii() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("run");
    let args = args(
        &dir,
        "--nodes 1 --domain bücher.example --names *.büro.example",
    );
    make(&args).unwrap();
    let node = dir.join("node-1");
    let provider = rustls::crypto::ring::default_provider();
    let certified = Certified::load(
        &node.join("clients.pem"),
        &node.join("clients-key.pem"),
        &provider,
    )
    .unwrap();
    for name in [
        "bücher.example",
        "xn--bcher-kva.example",
        "conference.bücher.example",
        "post.büro.example",
        "localhost",
        "127.0.0.1",
    ] {
        certified.check_name(name).unwrap();
    }
    assert!(certified.check_name("other.example").is_err());
}

#[test]
fn ports_differ_where_addresses_do_not() {
    let parent = tempfile::tempdir().unwrap();
    let planned = |more: &str| plan(&args(parent.path(), more)).unwrap();
    let ports = |plan: &NodePlan| {
        [plan.clients, plan.clients_tls, plan.cluster, plan.control].map(|address| address.port())
    };
    for plan in planned("--nodes 3") {
        assert_eq!(ports(&plan), [5222, 5223, 7400, 7480]);
        assert_eq!(
            plan.clients.ip().to_string(),
            format!("127.0.0.{}", plan.id.0)
        );
    }
    let shared: Vec<_> = planned("--nodes 3 --bind 127.0.0.1")
        .iter()
        .map(ports)
        .collect();
    assert_eq!(
        shared,
        [
            [5222, 5223, 7400, 7480],
            [5232, 5233, 7410, 7490],
            [5242, 5243, 7420, 7500]
        ]
    );
}

#[test]
fn operators_are_served_on_the_loopback_unless_asked_for_elsewhere() {
    let parent = tempfile::tempdir().unwrap();
    let check = |more: &str, expect: [&str; 2]| {
        let found = plan(&args(parent.path(), &format!("--nodes 2 {more}"))).unwrap();
        let found: Vec<_> = found.iter().map(|plan| plan.control.to_string()).collect();
        assert_eq!(found, expect, "{more}");
    };
    check("", ["127.0.0.1:7480", "127.0.0.2:7480"]);
    check(
        "--bind 10.0.0.1,10.0.0.2",
        ["127.0.0.1:7480", "127.0.0.2:7480"],
    );
    check(
        "--bind 127.0.0.8,127.0.0.9",
        ["127.0.0.8:7480", "127.0.0.9:7480"],
    );
    check("--bind fd00::1,::1", ["127.0.0.1:7480", "[::1]:7480"]);
    check(
        "--bind 10.0.0.1,10.0.0.2 --control-bind 10.0.0.1,10.0.0.2",
        ["10.0.0.1:7480", "10.0.0.2:7480"],
    );
    check(
        "--bind 10.0.0.1,10.0.0.2 --control-bind 127.0.0.1",
        ["127.0.0.1:7480", "127.0.0.1:7490"],
    );
}

#[test]
fn taken_ports_are_left_alone() {
    let taken = TcpListener::bind("127.0.0.77:0").unwrap();
    let address = taken.local_addr().unwrap();
    let chosen = choose_port(&mut BTreeSet::new(), address.ip(), address.port(), true);
    match chosen {
        Ok(chosen) => assert!(chosen.port() > address.port()),
        // Ports from the very end of the range leave nothing to choose.
        Err(_) => assert!(address.port() > u16::MAX - 20),
    }
    let anyway = choose_port(&mut BTreeSet::new(), address.ip(), address.port(), false);
    assert_eq!(anyway.unwrap(), address);
}
