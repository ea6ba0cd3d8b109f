//! Every script in node/tests/scenarios, played against one node and again with its clients spread over three.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use chaos_tests::client::Login;
use chaos_tests::pool::{Pool, PoolSettings};
use chaos_tests::scenario::{Scenario, Tag, run};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Scripts that play at once.
const AT_ONCE: usize = 6;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/tests/scenarios")
}

/// All scripts, or those whose name holds `MUSTER_SCENARIO`.
fn scenarios() -> Result<Vec<Scenario>> {
    let wanted = std::env::var("MUSTER_SCENARIO").unwrap_or_default();
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder())? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        if path.extension().is_some_and(|extension| extension == "scs") && name.contains(&wanted) {
            all.push(Scenario::parse(&name, &std::fs::read_to_string(&path)?)?);
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Makes the accounts of one run and plays it.
async fn play(pool: &Pool, scenario: &Scenario, number: usize) -> Result<()> {
    let tag = Tag::new(number);
    let local = |jid: &str| tag.name(jid.split('@').next().unwrap_or_default());
    let users: std::collections::BTreeSet<String> = scenario
        .clients
        .iter()
        .map(|client| local(&client.jid))
        .collect();
    pool.add_users(users.iter().map(String::as_str))
        .await
        .context("making the accounts")?;
    let ids = pool.ids();
    // Neighbours in the script sit on different nodes, and not always on the same.
    let login =
        |at: usize, user: &str| -> Login { pool.login(ids[(at + number) % ids.len()], user) };
    run(scenario, &tag, &login).await
}

async fn play_all(nodes: u16) {
    let scenarios = scenarios().expect("the scripts read");
    assert!(!scenarios.is_empty(), "there are scripts");
    let pool = Arc::new(
        Pool::start(&PoolSettings::nodes(nodes))
            .await
            .expect("the pool starts"),
    );
    // Scripts say exactly what comes; a handover may say some of it twice.
    pool.owners_settled().await.expect("owners are settled");
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    let count = scenarios.len();
    for (number, scenario) in scenarios.into_iter().enumerate() {
        let (pool, slots) = (Arc::clone(&pool), Arc::clone(&slots));
        playing.spawn(async move {
            let _slot = slots.acquire().await.expect("the semaphore lives");
            let result = play(&pool, &scenario, number).await;
            result.err().map(|error| (scenario.name, error))
        });
    }
    let mut failures: Vec<_> = playing.join_all().await.into_iter().flatten().collect();
    failures.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, error) in &failures {
        println!("\n== {name}, {nodes} node(s)\n{error:#}");
    }
    println!(
        "\n{} of {count} scenarios passed on {nodes} node(s)",
        count - failures.len()
    );
    let names: Vec<_> = failures.iter().map(|(name, _)| name.as_str()).collect();
    assert!(failures.is_empty(), "failed on {nodes} node(s): {names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenarios_on_one_node() {
    play_all(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenarios_over_three_nodes() {
    play_all(3).await;
}
