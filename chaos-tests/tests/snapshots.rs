//! Nodes that are killed after their snapshots: the log is purged by then, and the state stores are older than that. And nodes
//! that were away while the others purged what they lack: they are sent snapshots.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chaos_tests::checker::Dose;
use chaos_tests::edits::Editor;
use chaos_tests::pool::{Pool, PoolSettings};
use chaos_tests::trial::{RECOVERY, Trial};
use chaos_tests::wait::until;

/// How many groups' snapshots a kill waits for: each node writes one every half second.
const NEW_SNAPSHOTS: usize = 5;

fn snapshots(pool: &Pool, node: u64) -> BTreeSet<String> {
    let folder = pool.data_dir(node).join("snapshots");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| file.file_name().into_string().ok())
        .filter(|name| name.ends_with(".snapshot"))
        .collect()
}

/// Returns when each running node has written snapshots since the call, under load all the while.
async fn new_snapshots(trial: &Trial) -> Result<()> {
    for node in trial.pool.running() {
        let mut seen = snapshots(&trial.pool, node);
        let known = seen.len();
        until("the snapshots of a node", RECOVERY, async || {
            seen.extend(snapshots(&trial.pool, node));
            (seen.len() >= known + NEW_SNAPSHOTS).then_some(())
        })
        .await?;
    }
    Ok(())
}

/// One node, then all, several times: each starts again, quickly, with everything that was acknowledged.
async fn kill_after_snapshots() -> Result<()> {
    const OF_ONE: usize = 3;
    const OF_ALL: usize = 2;
    let settings = PoolSettings::nodes(3).set("raft", "snapshot_interval", "1 s");
    let mut trial = Trial::over(Pool::start(&settings).await?).await?;
    let mut longest = Duration::ZERO;
    for kill in 1..=OF_ONE {
        new_snapshots(&trial).await?;
        let owner = trial.living_owner().await?;
        trial.crowd.node_dies(owner);
        trial.fault(format!("kill {kill} after snapshots, of node {owner}"));
        trial.pool.kill(owner)?;
        trial.crowd.acks(40, RECOVERY).await?;
        trial.crowd.all_in(RECOVERY).await?;
        let started = Instant::now();
        trial.bring_back(owner).await?;
        longest = longest.max(started.elapsed());
    }
    let mut editor = Editor::start(&trial.pool).await?;
    let ids = trial.pool.ids();
    for (kill, node) in (1..=OF_ALL).zip(&ids) {
        trial.edit(&mut editor, *node).await?;
        new_snapshots(&trial).await?;
        // These are behind the snapshots, in the log alone.
        trial.edit(&mut editor, *node).await?;
        ids.iter().for_each(|id| trial.crowd.node_dies(*id));
        for id in &ids {
            trial.pool.kill(*id)?;
        }
        trial.fault(format!("kill {kill} after snapshots, of all nodes"));
        let started = Instant::now();
        trial.pool.start_all()?;
        trial.started_anew();
        trial.pool.all_ready().await?;
        longest = longest.max(started.elapsed());
        trial.read_edits(&editor).await?;
        ids.iter().for_each(|id| trial.crowd.node_lives(*id));
        trial.crowd.all_in(RECOVERY).await?;
        trial.healed();
    }
    println!(
        "back within {} ms after a kill behind snapshots",
        longest.as_millis()
    );
    let least = Dose {
        faults: OF_ONE + OF_ALL,
        acked_during_faults: 120,
        kinds_acked: 4,
        moves: 0,
        suppressed: 2,
        over_faults: 1,
        received: 500,
        readings: 48,
        direct: 50,
        in_flight: 6,
        values_read: 3 * OF_ALL,
        ..Dose::default()
    };
    trial.judge("kills behind snapshots", least).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_nodes_start_again_after_their_snapshots() {
    kill_after_snapshots()
        .await
        .expect("the test runs to its end");
}

/// In how many groups the leaders among these have given a member up.
fn given_up(trial: &Trial) -> usize {
    let said = |node: u64| trial.pool.node(node).log().unwrap_or_default();
    let lines = trial.pool.running().into_iter().map(said);
    lines
        .map(|log| log.matches("a member lags so far").count())
        .sum()
}

/// How often this sentence stands in a node's log.
fn times(trial: &Trial, node: u64, sentence: &str) -> usize {
    let log = trial.pool.node(node).log().unwrap_or_default();
    log.matches(sentence).count()
}

const INSTALLED: &str = "a snapshot was received and installed";

/// A node is away until the others have purged what it lacks. It is killed once more while it is being filled.
async fn fill_after_purges() -> Result<()> {
    const ROUNDS: usize = 2;
    let settings = PoolSettings::nodes(3)
        .set("raft", "snapshot_interval", "1 s")
        .set("raft", "log_keep_bytes", "8 KiB")
        .set("raft", "snapshot_bytes_per_second", "256 KiB");
    let mut trial = Trial::over(Pool::start(&settings).await?).await?;
    let mut longest = Duration::ZERO;
    for round in 1..=ROUNDS {
        let away = trial.living_owner().await?;
        let before = times(&trial, away, INSTALLED);
        trial.crowd.node_dies(away);
        trial.fault(format!("round {round}: node {away} is away for long"));
        trial.pool.kill(away)?;
        let known = given_up(&trial);
        until("the others keep no log for it", RECOVERY, async || {
            (given_up(&trial) >= known + 3).then_some(())
        })
        .await?;
        new_snapshots(&trial).await?;
        trial.crowd.acks(100, RECOVERY).await?;
        trial.pool.spawn(away)?;
        until("it is being filled", RECOVERY, async || {
            let begun = times(&trial, away, "a snapshot is being received");
            (begun > before).then_some(())
        })
        .await?;
        trial.pool.kill(away)?;
        let started = Instant::now();
        trial.bring_back(away).await?;
        longest = longest.max(started.elapsed());
        let filled = times(&trial, away, INSTALLED) - before;
        println!("round {round}: node {away} was filled in {filled} groups");
        ensure!(filled > 0, "no snapshot was installed on node {away}");
    }
    println!("filled and back within {} ms", longest.as_millis());
    let least = Dose {
        faults: ROUNDS,
        acked_during_faults: 200,
        kinds_acked: 4,
        moves: 0,
        suppressed: 2,
        received: 500,
        readings: 48,
        direct: 50,
        in_flight: 6,
        ..Dose::default()
    };
    trial.judge("filled after purges", least).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_is_filled_by_snapshots() {
    fill_after_purges().await.expect("the test runs to its end");
}
