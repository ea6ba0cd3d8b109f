//! Nodes that are killed after their snapshots: the log is purged by then, and the state stores are older than that.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
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

/// Returns when each node has written snapshots since the call, under load all the while.
async fn new_snapshots(trial: &Trial) -> Result<()> {
    for node in trial.pool.ids() {
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
