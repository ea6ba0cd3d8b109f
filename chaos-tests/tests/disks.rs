//! A disk that fills: its node refuses early and keeps what it has promised, the others go on, and space is enough to
//! make it well again. With nothing at all left, it ends and says why, rather than living on half dead.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::checker::Dose;
use chaos_tests::disk::SmallDisk;
use chaos_tests::enclave;
use chaos_tests::pool::{Pool, PoolSettings};
use chaos_tests::trial::{RECOVERY, Trial};
use chaos_tests::wait::until;

/// The size of each node's disk, and what its node keeps free.
const DISK_BYTES: u64 = 384 << 20;
const RESERVE: u64 = 48 << 20;
const RESERVE_TEXT: &str = "48 MiB";

/// What `muster --help` says of a full disk.
const DATA_EXIT: i32 = 5;

/// How long until a node has noticed.
const NOTICED: Duration = Duration::from_secs(30);

/// Waits until a node's log has this sentence.
async fn said(pool: &Pool, node: u64, sentence: &str) -> Result<()> {
    until(sentence, NOTICED, async || {
        pool.node(node).log_end().contains(sentence).then_some(())
    })
    .await
}

fn ended_for_its_disk(pool: &Pool, node: u64, ended: ExitStatus) -> Result<()> {
    let log = pool.node(node).log_end();
    ensure!(
        ended.code() == Some(DATA_EXIT),
        "node {node}: {ended}\n{log}"
    );
    ensure!(
        log.contains("the disk of ") && log.contains(" is full ("),
        "the reason is not named:\n{log}"
    );
    Ok(())
}

/// Less than the reserve is left: nothing fails, and nobody has to start anything again.
async fn nearly_full(trial: &mut Trial, node: u64, disk: &SmallDisk) -> Result<()> {
    trial.fault(format!("the disk of node {node} is nearly full"));
    trial.crowd.node_dies(node);
    disk.fill_to(RESERVE - (4 << 20))?;
    said(&trial.pool, node, "the disk is nearly full").await?;
    trial.acks_at_target(200, RECOVERY).await?;
    disk.empty()?;
    trial.mended();
    let emptied = Instant::now();
    said(&trial.pool, node, "the disk has room again").await?;
    trial.caught_up(node).await?;
    println!(
        "serves again {} ms after there was space",
        emptied.elapsed().as_millis()
    );
    ensure!(
        trial.pool.ended(node).is_none(),
        "node {node} ended though its reserve was there"
    );
    trial.crowd.node_lives(node);
    trial.crowd.all_in(RECOVERY).await?;
    trial.healed();
    Ok(())
}

/// Nothing is left: the node ends, can't start, and starts again when there is space.
async fn full(trial: &mut Trial, node: u64, disk: &SmallDisk) -> Result<()> {
    trial.fault(format!("the disk of node {node} is full"));
    trial.crowd.node_dies(node);
    disk.fill_to(0)?;
    trial.acks_at_target(200, RECOVERY).await?;
    // Where nothing was under way when the last byte went, nothing has failed.
    match trial.pool.ended(node) {
        Some(ended) => ended_for_its_disk(&trial.pool, node, ended)?,
        None => trial.pool.kill(node)?,
    }
    trial.pool.spawn(node)?;
    let pool = &mut trial.pool;
    let ended = until("the end of a start without space", NOTICED, async || {
        pool.ended(node)
    });
    let ended = ended.await?;
    ended_for_its_disk(&trial.pool, node, ended)?;
    disk.empty()?;
    trial.bring_back(node).await
}

async fn disks_fill() -> Result<()> {
    let settings = PoolSettings::nodes(3).set("storage", "disk_free_bytes_min", RESERVE_TEXT);
    let mut pool = Pool::prepare(&settings)?;
    let disks = pool
        .ids()
        .into_iter()
        .map(|node| Ok((node, SmallDisk::over(&pool.data_dir(node), DISK_BYTES)?)))
        .collect::<Result<Vec<_>>>()?;
    pool.start_all()?;
    pool.all_ready().await?;
    let mut trial = Trial::over(pool).await?;
    let node = trial.living_owner().await?;
    let disk = disks.iter().find(|(of, _)| *of == node);
    let (_, disk) = disk.context("every node has a disk")?;
    nearly_full(&mut trial, node, disk).await?;
    let node = trial.living_owner().await?;
    let disk = disks.iter().find(|(of, _)| *of == node);
    let (_, disk) = disk.context("every node has a disk")?;
    full(&mut trial, node, disk).await?;
    let least = Dose {
        faults: 2,
        acked_during_faults: 400,
        kinds_acked: 4,
        moves: 0,
        suppressed: 2,
        received: 2000,
        readings: 48,
        direct: 50,
        in_flight: 6,
        ..Dose::default()
    };
    trial.judge("disk full", least).await
}

#[test]
fn a_full_disk_stops_one_node_only() {
    enclave::run("a_full_disk_stops_one_node_only", disks_fill());
}
