//! Operators at a terminal: `muster ctl node` as they type it, with its bar, from the plan to the end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::Client;
use chaos_tests::people::online;
use chaos_tests::pool::{Pool, PoolSettings, binary};
use chaos_tests::terminal::Terminal;
use chaos_tests::wait::until;

const LIMIT: Duration = Duration::from_secs(60);

/// A terminal on which `muster ctl` runs at a node, and which says how that ended.
fn at_a_terminal(pool: &Pool, node: u64, words: &str) -> Result<Terminal> {
    let (binary, config) = (binary()?, pool.node(node).config.clone());
    let (binary, config) = (binary.to_str(), config.to_str());
    let (binary, config) = binary.zip(config).context("plain names")?;
    let line =
        format!("'{binary}' ctl --config '{config}' {words}; echo \"ended with $?\"; read -r _");
    Terminal::start(&[], &["sh", "-c", &line])
}

/// Runs it to its end, which is good, and gives what stands on the screen then.
async fn is_done(pool: &Pool, node: u64, words: &str) -> Result<String> {
    let terminal = at_a_terminal(pool, node, words)?;
    let screen = terminal.shows("ended with", LIMIT).await?;
    ensure!(screen.contains("ended with 0"), "{words}: {screen}");
    Ok(screen)
}

const FULL: &str = "[########################]";

/// Ten sessions of each of three users, at two a second.
async fn is_drained(pool: &Pool) -> Result<()> {
    let mut sessions: Vec<Client> = Vec::new();
    for user in ["alice", "bob", "carol"] {
        for _ in 0..10 {
            sessions.push(online(&pool.login(3, user)).await?);
        }
    }
    // A node that has just begun does not know yet who is there.
    until("the plan is shown", LIMIT, async || {
        is_done(pool, 1, "node drain 3 --dry-run").await.ok()
    })
    .await?;
    let words = "node drain 3 --yes --wait --sessions-per-second 2";
    // Any node shows how many are left, though it is not the one that is drained.
    let first = at_a_terminal(pool, 1, words)?;
    let screen = first.shows("sessions left", LIMIT).await?;
    ensure!(screen.contains("] node 3 draining"), "{screen}");
    first.shows("#-", LIMIT).await?;
    // The operator's machine dies in the middle of it; somebody says the same at another node.
    drop(first);
    let screen = is_done(pool, 2, words).await?;
    ensure!(screen.contains(FULL), "{screen}");
    let screen = is_done(pool, 2, "node list").await?;
    ensure!(screen.contains("drained"), "{screen}");
    drop(sessions);
    is_done(pool, 2, "node undrain 3").await?;
    pool.member_is(3, "member", 1).await?;
    online(&pool.login(3, "alice")).await?.close().await
}

async fn is_replaced_and_removed(pool: &mut Pool) -> Result<()> {
    pool.let_in(4, 2).await?;
    pool.placed(3, 1).await?;
    pool.kill(2)?;
    until("it is known that it is dead", LIMIT, async || {
        let seen = pool.operations(1).await.ok()?;
        (seen["members"][1]["alive"] == serde_json::json!(false)).then_some(())
    })
    .await?;
    let screen = is_done(pool, 1, "node replace 2 --with 4 --yes --wait").await?;
    ensure!(screen.contains(FULL), "{screen}");
    pool.member_is(2, "removed", 1).await?;
    // With two nodes left each partition is on both.
    let screen = is_done(pool, 4, "node remove 3 --yes --wait").await?;
    ensure!(screen.contains(FULL), "{screen}");
    pool.member_is(3, "removed", 4).await?;
    let placed = pool.placed(2, 4).await?;
    let left: Vec<_> = placed
        .iter()
        .filter(|(_, replicas)| *replicas > 0)
        .collect();
    ensure!(left == [&(1, 17), &(4, 17)], "{placed:?}");
    online(&pool.login(4, "alice")).await?.close().await
}

async fn at_the_terminal() -> Result<()> {
    let settings = PoolSettings::nodes(4).beginning_with(3);
    let mut pool = Pool::start(&settings).await?;
    pool.add_users(["alice", "bob", "carol"]).await?;
    is_drained(&pool).await?;
    is_replaced_and_removed(&mut pool).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_how_far_it_has_come() {
    at_the_terminal()
        .await
        .expect("each command comes to its end");
}
