//! What goes wrong at the start is one sentence on standard error and a documented exit code.

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use chaos_tests::pool::{Pool, PoolSettings, run};

/// The documented codes.
const CONFIG: i32 = 3;
const PORT: i32 = 4;
const DATA: i32 = 5;
const NO_QUORUM: i32 = 6;

fn start(config: &Path) -> Output {
    run(&["run", "--config", config.to_str().expect("a plain path")]).expect("the binary runs")
}

fn check_config(config: &Path) -> Output {
    run(&["check-config", config.to_str().expect("a plain path")]).expect("the binary runs")
}

/// The last line of standard error is the sentence; it holds every one of `words`.
fn check(output: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let sentence = text.lines().rfind(|line| line.starts_with("muster: "));
    let sentence = sentence.unwrap_or_else(|| panic!("no sentence: {text}"));
    for word in words {
        assert!(sentence.contains(word), "{word:?} is missing: {sentence}");
    }
}

fn pool() -> Pool {
    Pool::prepare(&PoolSettings::nodes(1)).expect("a pool's folder")
}

/// At once, not when the others have been waited for.
#[test]
fn a_port_in_use() {
    let pool = Pool::prepare(&PoolSettings::nodes(3)).expect("a pool's folder");
    let node = pool.node(1);
    let cluster = pool.cluster_address(1).expect("an address");
    for address in [
        node.clients,
        node.clients_tls,
        cluster,
        node.control.address,
    ] {
        let _taken = TcpListener::bind(address).expect("the port is free");
        check(
            &start(&node.config),
            PORT,
            &[&address.to_string(), "in use"],
        );
    }
}

#[test]
fn a_missing_certificate() {
    let pool = pool();
    let node = pool.node(1);
    std::fs::remove_file(node.config.with_file_name("clients.pem")).expect("it was there");
    check(
        &start(&node.config),
        CONFIG,
        &["muster.toml", "[clients] certificate", "clients.pem"],
    );
}

#[test]
fn a_data_folder_of_another_pool() {
    let (pool, other) = (pool(), pool());
    let folder = |pool: &Pool| pool.node(1).config.with_file_name("data");
    std::fs::remove_dir_all(folder(&pool)).expect("it was there");
    std::fs::rename(folder(&other), folder(&pool)).expect("it moves");
    let config = &pool.node(1).config;
    check(&start(config), DATA, &["data", "pool"]);
    check(&check_config(config), DATA, &["data", "pool"]);
}

#[test]
fn a_token_that_is_too_short() {
    let pool = pool();
    let config = &pool.node(1).config;
    let token = pool.data_dir(1).join("control.token");
    std::fs::write(token, "short\n").expect("written");
    for output in [start(config), check_config(config)] {
        check(&output, CONFIG, &["control.token", "32 to 256"]);
    }
}

#[test]
fn a_lost_disk() {
    let pool = pool();
    let config = &pool.node(1).config;
    std::fs::remove_dir_all(pool.data_dir(1)).expect("it was there");
    check(&start(config), DATA, &["data", "--new-data"]);
    let checked = check_config(config);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(
        checked.status.success() && said.contains("--new-data"),
        "{said}"
    );
    assert!(!pool.data_dir(1).exists(), "nothing was made");
}

/// A node that forgot its votes would vote twice; one that forgot its archive would show holes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_or_an_archive_that_is_gone() {
    let mut pool = pool();
    pool.start_all().expect("it starts");
    pool.all_ready().await.expect("it serves");
    pool.stop(1).await.expect("it stops");
    for folder in ["log", "archive"] {
        let folder = pool.data_dir(1).join(folder);
        let elsewhere = folder.with_extension("elsewhere");
        std::fs::rename(&folder, &elsewhere).expect("it moves");
        let place = folder.display().to_string();
        check(
            &start(&pool.node(1).config),
            DATA,
            &[&place, "has run before"],
        );
        std::fs::remove_dir_all(&folder).expect("it was made anew, empty");
        std::fs::rename(&elsewhere, &folder).expect("it moves back");
    }
    pool.start_all().expect("it starts");
    pool.all_ready().await.expect("it serves again");
}

/// It used to vote anew with the folder that had been made for it, and forgot what it had acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_as_it_was_before_the_first_start() {
    let settings = PoolSettings::nodes(3).set("cluster", "quorum_wait", "20 s");
    let mut pool = Pool::prepare(&settings).expect("a pool's folder");
    let data = pool.data_dir(3);
    let (made, used) = (data.with_extension("made"), data.with_extension("used"));
    copy(&data, &made);
    pool.start_all().expect("they start");
    pool.all_ready().await.expect("they serve");
    pool.stop(3).await.expect("it stops");
    std::fs::rename(&data, &used).expect("it moves");
    copy(&made, &data);
    // Not even if it tries again: what it has asked under stands in its folder now.
    for _ in 0..2 {
        check(
            &start(&pool.node(3).config),
            DATA,
            &["has seen node 3 begin", "put the old folder back"],
        );
    }
    std::fs::remove_dir_all(&data).expect("it was there");
    std::fs::rename(&used, &data).expect("it moves back");
    pool.spawn(3).expect("it starts");
    pool.all_ready().await.expect("it serves again");
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status();
    assert!(copied.expect("cp runs").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_with_one_node_away() {
    let settings = PoolSettings::nodes(3).set("cluster", "quorum_wait", "2 s");
    let mut pool = Pool::prepare(&settings).expect("a pool's folder");
    pool.spawn(1).expect("it starts");
    let node_3 = pool.cluster_address(3).expect("an address").to_string();
    check(
        &start(&pool.node(2).config),
        NO_QUORUM,
        &["starts for the first time", "node 3", &node_3],
    );
}

#[test]
fn an_unknown_key() {
    let pool = pool();
    let config = &pool.node(1).config;
    let text = std::fs::read_to_string(config).expect("a file");
    let text = text.replace("[clients]", "[clients]\nresource_max = 3");
    std::fs::write(config, text).expect("written");
    check(
        &start(config),
        CONFIG,
        &["muster.toml", "resource_max", "resources_max"],
    );
}

#[test]
fn a_wrong_value() {
    let settings = PoolSettings::nodes(1).set("clients", "resources_max", "many");
    let pool = Pool::prepare(&settings).expect("a pool's folder");
    check(
        &start(&pool.node(1).config),
        CONFIG,
        &["muster.toml", "resources_max", "whole number"],
    );
}

#[test]
fn no_quorum() {
    let settings = PoolSettings::nodes(3).set("cluster", "quorum_wait", "2 s");
    let pool = Pool::prepare(&settings).expect("a pool's folder");
    check(&start(&pool.node(1).config), NO_QUORUM, &["quorum"]);
}
