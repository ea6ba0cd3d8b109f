//! Rooms outlive their nodes: kills under load, judged by the checker.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chaos_tests::checker::{Dose, Promise, check};
use chaos_tests::client::Client;
use chaos_tests::history::{Recorder, What};
use chaos_tests::load::{Crowd, gaps, read_archive, seats};
use chaos_tests::pool::{Pool, PoolSettings, ROOMS};
use chaos_tests::wait::until;
use serde_json::Value;

/// Who reads the archives at the end.
const READER: &str = "reader";

const ROOM_NAMES: [&str; 2] = ["yard", "tower"];

fn room(name: &str) -> String {
    format!("{name}@{ROOMS}")
}

/// How long anything may take after a fault before the test gives up.
const RECOVERY: Duration = Duration::from_secs(30);

/// The owner of a room as a running node sees it, once there is one that runs.
async fn living_owner(pool: &Pool, room: &str) -> Result<u64> {
    let via = *pool.running().first().context("a node runs")?;
    until("the room has an owner", RECOVERY, async || {
        let owner = pool.owner_of(room, via).await.ok().flatten()?;
        pool.running().contains(&owner).then_some(owner)
    })
    .await
}

/// Waits until a node has applied what the others know to be committed.
async fn caught_up(pool: &Pool, node: u64) -> Result<()> {
    let via = pool
        .running()
        .into_iter()
        .find(|id| *id != node)
        .context("another node runs")?;
    let committed = positions(&pool.status(via).await?, "committed");
    until("the node has caught up", RECOVERY, async || {
        let applied = positions(&pool.status(node).await.ok()?, "applied");
        let behind = committed
            .iter()
            .zip(&applied)
            .filter(|(goal, has)| has < goal)
            .count();
        (behind == 0 && applied.len() == committed.len()).then_some(())
    })
    .await
}

fn positions(status: &Value, key: &str) -> Vec<u64> {
    let partitions = status["partitions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    partitions
        .iter()
        .map(|row| row[key].as_u64().unwrap_or(0))
        .collect()
}

/// Reads every archive on every node, in both directions.
async fn read_archives(pool: &Pool, recorder: &Recorder) -> Result<()> {
    for node in pool.ids() {
        let mut client = Client::connect(&pool.login(node, READER)).await?;
        for name in ROOM_NAMES {
            for forward in [true, false] {
                let rows = read_archive(&mut client, &room(name), forward).await?;
                let direction = if forward { "forward" } else { "backward" };
                let reading = format!("node {node}, {direction}");
                recorder.record(What::Archive {
                    reading,
                    log: room(name),
                    rows,
                });
            }
        }
        client.close().await?;
    }
    Ok(())
}

/// Ends the talk, reads the archives, waits for the last deliveries, and judges.
async fn judge(pool: &Pool, crowd: Crowd, recorder: &Recorder, least: Dose) -> Result<()> {
    crowd.all_in(RECOVERY).await?;
    recorder.record(What::Healed);
    crowd.acks(20, RECOVERY).await?;
    crowd.fall_silent(RECOVERY).await?;
    read_archives(pool, recorder).await?;
    // What the archive has must still reach those who are in; the wait ends when nothing is owed to anybody.
    let settled = until(
        "nothing is owed to anybody",
        Duration::from_secs(10),
        async || (check(&recorder.events()).count(Promise::NoHoles) == 0).then_some(()),
    )
    .await;
    if let Err(error) = settled {
        println!("{error}");
    }
    let betrayed = crowd.end().await;
    let verdict = check(&recorder.events());
    println!("{verdict}");
    println!(
        "{}: {}",
        room("yard"),
        gaps(&recorder.events(), &room("yard"))
    );
    let path = std::env::temp_dir().join(format!("muster-history-{}.jsonl", std::process::id()));
    if let Err(why) = verdict.require(least) {
        recorder.save(&path)?;
        panic!("{why}\nthe history is in {}", path.display());
    }
    assert!(
        betrayed.is_empty(),
        "clients of living nodes suffered: {betrayed:#?}"
    );
    Ok(())
}

async fn start() -> Result<(Pool, Arc<Recorder>, Crowd)> {
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users([READER]).await?;
    let recorder = Arc::new(Recorder::default());
    let seats = seats(&ROOM_NAMES, &pool.ids());
    let crowd = Crowd::start(&pool, seats, Arc::clone(&recorder)).await?;
    crowd.acks(50, RECOVERY).await?;
    Ok((pool, recorder, crowd))
}

/// Twenty times: the node that owns the room dies, the others go on, it comes back and catches up.
async fn kill_the_owner_repeatedly() -> Result<()> {
    const KILLS: usize = 20;
    let (mut pool, recorder, crowd) = start().await?;
    for kill in 1..=KILLS {
        let owner = living_owner(&pool, &room("yard")).await?;
        crowd.node_dies(owner);
        recorder.record(What::Fault {
            what: format!("kill {kill}: node {owner}"),
        });
        pool.kill(owner)?;
        crowd
            .acks(40, RECOVERY)
            .await
            .with_context(|| format!("after kill {kill} of node {owner}"))?;
        crowd
            .all_in(RECOVERY)
            .await
            .with_context(|| format!("after kill {kill} of node {owner}"))?;
        pool.spawn(owner)?;
        pool.ready(owner).await?;
        caught_up(&pool, owner).await?;
        crowd.node_lives(owner);
        crowd.all_in(RECOVERY).await?;
    }
    let least = Dose {
        faults: KILLS,
        acked_during_faults: 500,
        received: 2000,
        readings: 12,
    };
    judge(&pool, crowd, &recorder, least).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_outlive_their_owner() {
    kill_the_owner_repeatedly()
        .await
        .expect("the test runs to its end");
}

/// All nodes at once, three times: what was acknowledged is there after the restart.
async fn kill_all_repeatedly() -> Result<()> {
    const KILLS: usize = 3;
    let (mut pool, recorder, crowd) = start().await?;
    for kill in 1..=KILLS {
        crowd.acks(60, RECOVERY).await?;
        let ids = pool.ids();
        ids.iter().for_each(|id| crowd.node_dies(*id));
        recorder.record(What::Fault {
            what: format!("kill {kill}: all nodes"),
        });
        for id in &ids {
            pool.kill(*id)?;
        }
        pool.start_all()?;
        pool.all_ready().await?;
        ids.iter().for_each(|id| crowd.node_lives(*id));
        crowd.all_in(RECOVERY).await?;
    }
    let least = Dose {
        faults: KILLS,
        acked_during_faults: 100,
        received: 500,
        readings: 12,
    };
    judge(&pool, crowd, &recorder, least).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_all_loses_nothing() {
    kill_all_repeatedly()
        .await
        .expect("the test runs to its end");
}
