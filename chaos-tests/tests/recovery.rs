//! How long a node takes to have what the others have: one that was away, and a new one in the place of one whose disk is lost.
//! With `MUSTER_RECOVERY_MIB=1024` the figures of docs/operations.md are taken; without, a few MiB show that it is right.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{Client, Incoming, Login};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use chaos_tests::wait::until;
use serde_json::json;
use tokio::task::JoinSet;
use xmpp::ns;

/// Writers; their archives lie in many partitions.
const WRITERS: usize = 32;

/// The text of a message.
const BODY_BYTES: usize = 1024;

/// Messages of a writer that are not acknowledged.
const AT_ONCE: u32 = 64;

/// How long writing or catching up may take; a bound for what hangs.
const LIMIT: Duration = Duration::from_secs(3600);

fn writer(number: usize) -> String {
    format!("writer-{number}")
}

/// How much is written each time, of texts.
fn mebibytes() -> Result<usize> {
    match std::env::var("MUSTER_RECOVERY_MIB") {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(2),
    }
}

/// Writes messages of which each lies in two archives; ends when all are acknowledged.
async fn write(login: Login, number: usize, count: u32) -> Result<()> {
    let mut client = Client::connect(&login).await?;
    let to = format!("{}@{DOMAIN}", writer((number + 1) % WRITERS));
    let body = "m".repeat(BODY_BYTES);
    let message = format!("<message type='chat' to='{to}'><body>{body}</body></message>");
    let before = client.sent();
    let mut acked = before;
    while acked < before + count {
        while client.sent() < before + count && client.sent() - acked < AT_ONCE {
            client.send(&message).await?;
        }
        client
            .send_raw(&format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT))
            .await?;
        acked = loop {
            match client.next(LIMIT).await? {
                Incoming::Acked(h) => break h,
                Incoming::Element(_) => {}
                Incoming::Closed(why) => anyhow::bail!("a writer's stream ended: {why}"),
            }
        };
    }
    client.close().await
}

async fn write_all(pool: &Pool, mebibytes: usize) -> Result<Duration> {
    let began = Instant::now();
    let each = u32::try_from((mebibytes << 20) / BODY_BYTES / WRITERS)?;
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let mut login = pool.login(1 + (number % 2) as u64, &writer(number));
        login.stream_management = true;
        writers.spawn(write(login, number, each));
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(began.elapsed())
}

/// Waits until every voter of every partition has applied as much.
async fn even(pool: &Pool) -> Result<()> {
    until("all nodes have all", LIMIT, async || {
        let mut applied = Vec::new();
        for node in pool.running() {
            let status = pool.status(node).await.ok()?;
            for row in status["partitions"].as_array()? {
                let voters = row["voters"].as_array()?;
                if voters.contains(&json!(node)) {
                    let quarantined = row["quarantined"].as_bool()?;
                    applied.push((row["id"].as_u64()?, row["applied"].as_u64()?, quarantined));
                }
            }
        }
        applied.sort_unstable();
        let same = |two: &[(u64, u64, bool)]| two[0].0 != two[1].0 || two[0].1 == two[1].1;
        let is_even = applied.windows(2).all(same) && !applied.iter().any(|row| row.2);
        is_even.then_some(())
    })
    .await
}

fn bytes_of(folder: &Path) -> Result<u64> {
    let (mut bytes, mut folders) = (0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            // Files of a folder that is in use come and go.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            match metadata.is_dir() {
                true => folders.push(entry.path()),
                false => bytes += metadata.len(),
            }
        }
    }
    Ok(bytes)
}

fn figure(what: &str, took: Duration, mebibytes: f64) {
    println!(
        "{what}: {:.1} s, {mebibytes:.0} MiB, {:.1} s/GiB",
        took.as_secs_f64(),
        took.as_secs_f64() / mebibytes * 1024.0
    );
}

async fn recover() -> Result<()> {
    let mebibytes = mebibytes()?;
    let settings = PoolSettings::nodes(4).beginning_with(3);
    let mut pool = Pool::start(&settings).await?;
    let names: Vec<String> = (0..WRITERS).map(writer).collect();
    pool.add_users(names.iter().map(String::as_str)).await?;
    let took = write_all(&pool, mebibytes).await?;
    figure("written to three nodes", took, mebibytes as f64);
    even(&pool).await?;

    pool.kill(3)?;
    write_all(&pool, mebibytes).await?;
    let began = Instant::now();
    pool.spawn(3)?;
    pool.ready(3).await?;
    let serves = began.elapsed();
    even(&pool).await?;
    let took = began.elapsed();
    println!(
        "a node that was away serves after {:.1} s",
        serves.as_secs_f64()
    );
    figure("… and has the texts it missed", took, mebibytes as f64);
    let agreement = pool.replicas_agree().await?;
    let rows = 2 * 2 * ((mebibytes << 20) / BODY_BYTES) as u64;
    ensure!(agreement.archive_rows >= rows, "{agreement:?} of {rows}");

    // Its disk is lost: another one comes in its place.
    let lost = bytes_of(&pool.data_dir(3))?;
    pool.kill(3)?;
    std::fs::remove_dir_all(pool.data_dir(3))?;
    let began = Instant::now();
    pool.let_in(4, 1).await?;
    let how = json!({ "with": 4 });
    until("the replacement is granted", LIMIT, async || {
        pool.operate(1, 3, "replace", &how).await.ok()
    })
    .await?;
    let placed = pool.placed(3, 1).await?;
    ensure!(
        placed.contains(&(4, 17)) && placed.contains(&(3, 0)),
        "{placed:?}"
    );
    even(&pool).await?;
    figure(
        "a node is replaced",
        began.elapsed(),
        lost as f64 / f64::from(1 << 20),
    );
    let again = pool.replicas_agree().await?;
    ensure!(again.archive_rows == agreement.archive_rows, "{again:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_has_again_what_the_others_have() {
    recover()
        .await
        .context("recovery")
        .expect("everything is on three disks again");
}
