//! A rolling upgrade under load: the released build beside one that supports a second version, as long as it takes.
//!
//! ```text
//!   nodes 1 2 3    R R R ─► N R R ─► N N R (2 was killed) ─► N R R (back) ─► N R N ─► N N N ─► finalised ─► R refused
//! ```
//!
//! Nothing is written as of version 2 before it is finalised, and all is read by whoever is there; nothing is lost or doubled.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use chaos_tests::checker::Dose;
use chaos_tests::pool::{Pool, Program, loopback_addresses, run};
use chaos_tests::trial::{RECOVERY, Trial};
use chaos_tests::wait::until;
use serde_json::Value;

/// How a build that does not fit ends.
const SKEWED: i32 = 11;

/// How `muster ctl` and `muster join` end when the pool refuses.
const REFUSED: i32 = 7;

const BATCHES: &str = "version_batches";
const FRAMES: &str = "version_frames";

/// Runs `muster ctl cluster …` at a node.
fn cluster(pool: &Pool, via: u64, words: &[&str]) -> Result<Output> {
    let config = &pool.node(via).config;
    let config = config.to_str().context("test folders have plain names")?;
    let fixed = ["ctl", "--json", "--config", config, "cluster"];
    run(&[&fixed, words].concat())
}

/// What `muster ctl cluster version` shows.
fn versions(pool: &Pool, via: u64) -> Result<Value> {
    let output = cluster(pool, via, &["version"])?;
    ensure!(output.status.success(), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What a node has counted of a version.
async fn written(pool: &Pool, node: u64, what: &str, version: u64) -> Result<u64> {
    let metrics = pool.node(node).control.ok("GET", "/metrics", None).await?;
    let name = format!("muster_{what}_total{{version=\"{version}\"}} ");
    let line = metrics
        .body
        .lines()
        .find_map(|line| line.strip_prefix(&name));
    line.map_or(Ok(0), |count| Ok(count.trim().parse()?))
}

/// Asks for a finalisation that is refused, and gives the sentence.
fn refused(pool: &Pool, via: u64, words: &[&str]) -> Result<String> {
    let output = cluster(pool, via, words)?;
    ensure!(output.status.code() == Some(REFUSED), "{output:?}");
    let refusal: Value = serde_json::from_slice(&output.stderr)?;
    ensure!(refusal["code"] == "version-skew", "{refusal}");
    let sentence = refusal["message"].as_str();
    Ok(sentence.context("a refusal has a sentence")?.to_owned())
}

/// A node goes away, by its operator or by force, and comes back with a program.
async fn restart(trial: &mut Trial, node: u64, with: Program, killed: bool) -> Result<()> {
    trial.crowd.node_dies(node);
    trial.fault(format!("node {node} becomes {with:?}, killed: {killed}"));
    match killed {
        true => trial.pool.kill(node)?,
        false => trial.pool.stop(node).await?,
    }
    trial.pool.install(node, with);
    trial.crowd.acks(20, RECOVERY).await?;
    trial.bring_back(node).await
}

/// Until here nobody has written what the released build does not read.
async fn nothing_is_new(pool: &Pool) -> Result<()> {
    let mut batches = 0;
    for node in pool.running() {
        for what in [BATCHES, FRAMES] {
            let new = written(pool, node, what, 2).await?;
            ensure!(
                new == 0,
                "node {node} has written {new} {what} of version 2"
            );
        }
        batches += written(pool, node, BATCHES, 1).await?;
    }
    ensure!(batches > 0, "nobody has written anything");
    Ok(())
}

/// Each running node goes by version 2, and so do all of its replicas.
async fn all_are_at_2(pool: &Pool) -> Result<()> {
    until("every partition is at version 2", RECOVERY, async || {
        for node in pool.running() {
            let seen = versions(pool, node).ok()?;
            let partitions = seen["partitions"].as_array()?;
            let are = partitions.iter().all(|row| row["version"] == 2);
            if seen["version"] != 2 || partitions.is_empty() || !are {
                return None;
            }
        }
        Some(())
    })
    .await
}

/// The released and the next build side by side, there and back, until all nodes run the next.
async fn side_by_side(trial: &mut Trial) -> Result<()> {
    use Program::{Next, Released};
    restart(trial, 1, Next, false).await?;
    let sentence = refused(&trial.pool, 1, &["finalize", "--yes"])?;
    ensure!(
        sentence.contains("node 2") && sentence.contains("node 3") && !sentence.contains("node 1"),
        "{sentence}"
    );
    restart(trial, 2, Next, true).await?;
    restart(trial, 2, Released, false).await?;
    restart(trial, 3, Next, false).await?;
    let sentence = refused(&trial.pool, 2, &["finalize", "--dry-run"])?;
    ensure!(sentence.contains("node 2"), "{sentence}");
    restart(trial, 2, Next, false).await?;
    let planned = cluster(&trial.pool, 3, &["finalize", "--dry-run"])?;
    let plan: Value = serde_json::from_slice(&planned.stdout)?;
    ensure!(plan["from"] == 1 && plan["to"] == 2, "{plan}");
    nothing_is_new(&trial.pool).await
}

/// The version is finalised while a node is away that ran the next build last; then its operator starts the old one.
async fn finalised_without(trial: &mut Trial, away: u64) -> Result<()> {
    trial.crowd.node_dies(away);
    trial.fault(format!("node {away} is away, and version 2 is finalised"));
    trial.pool.stop(away).await?;
    for _ in 0..2 {
        let done = cluster(&trial.pool, 1, &["finalize", "--yes"])?;
        ensure!(done.status.success(), "{done:?}");
    }
    all_are_at_2(&trial.pool).await?;
    trial.crowd.acks(40, RECOVERY).await?;
    for what in [BATCHES, FRAMES] {
        let mut new = 0;
        for node in trial.pool.running() {
            new += written(&trial.pool, node, what, 2).await?;
        }
        println!("FIGURES {what} of version 2: {new}");
        ensure!(new > 0, "nobody has written {what} of version 2");
    }
    trial.pool.install(away, Program::Released);
    trial.pool.spawn(away)?;
    let ended = until("the old build ends", RECOVERY, async || {
        trial.pool.ended(away)
    })
    .await?;
    ensure!(
        ended.code() == Some(SKEWED),
        "the old build ended with {ended}"
    );
    let log = trial.pool.node(away).log()?;
    let mut lines = log.lines();
    let said = lines.rfind(|line| line.contains("which supports versions 1 to 1"));
    let said = said.with_context(|| log.clone())?;
    println!("FIGURES the old build says: {said}");
    trial.pool.install(away, Program::Next);
    trial.bring_back(away).await?;
    all_are_at_2(&trial.pool).await
}

/// A machine with the old build is not let in, and its token stays good.
async fn old_is_not_let_in(pool: &Pool) -> Result<()> {
    let token = pool.join_token(1).await?;
    let folder = pool.root().join("late");
    let folder = folder.to_str().context("test folders have plain names")?;
    let bind = loopback_addresses(1)?.remove(0).to_string();
    let output = run(&["join", "--token", &token, "--dir", folder, "--bind", &bind])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(REFUSED), "{output:?}");
    ensure!(said.contains("the pool is at version 2"), "{said}");
    ensure!(said.contains("too old"), "{said}");
    let tokens = pool.node(1).control.ok("GET", "/v1/tokens", None).await?;
    let state = &tokens.json()?["tokens"][0]["state"];
    ensure!(*state == "open", "the token is {state}");
    Ok(())
}

async fn upgrade() -> Result<()> {
    let mut trial = Trial::start().await?;
    side_by_side(&mut trial).await?;
    finalised_without(&mut trial, 3).await?;
    old_is_not_let_in(&trial.pool).await?;
    let owner = trial.living_owner().await?;
    restart(&mut trial, owner, Program::Next, true).await?;
    let least = Dose {
        faults: 7,
        acked_during_faults: 150,
        kinds_acked: 6,
        moves: 20,
        suppressed: 5,
        received: 500,
        readings: 48,
        direct: 50,
        in_flight: 6,
        ..Dose::default()
    };
    trial.judge("rolling upgrade", least).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_builds_share_a_pool_until_the_version_is_finalised() {
    upgrade().await.expect("nothing is lost on the way");
}
