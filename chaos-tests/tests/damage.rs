//! A log that lost records where no other nodes can say which: the start says so, every time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::client::Client;
use chaos_tests::pool::{Pool, PoolSettings, run};
use chaos_tests::wait::until;

const LIMIT: Duration = Duration::from_secs(20);

/// The documented code.
const DATA: i32 = 5;

/// Flips a bit of the first place in the log that holds `needle`.
fn flip(log: &Path, needle: &[u8]) -> Result<()> {
    for file in std::fs::read_dir(log)? {
        let path = file?.path();
        let mut bytes = std::fs::read(&path)?;
        let place = bytes.windows(needle.len()).position(|at| at == needle);
        if let Some(byte) = place.and_then(|at| bytes.get_mut(at)) {
            *byte ^= 1;
            return Ok(std::fs::write(&path, bytes)?);
        }
    }
    bail!("no file of the log holds it")
}

async fn damaged() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(1)).await?;
    pool.add_users(["alice"]).await?;
    let mut alice = Client::connect(&pool.login(1, "alice")).await?;
    for number in 0..20 {
        let name = format!("number {number} of the values");
        let value = format!("<query xmlns='jabber:iq:private'><v xmlns='urn:v'>{name}</v></query>");
        alice.iq_ok("set", None, &value).await?;
    }
    pool.kill(1)?;
    let data = pool.data_dir(1);
    let kept = data.with_extension("kept");
    copy(&data, &kept)?;
    flip(&data.join("log"), b"number 7 of the values")?;

    let config = pool.node(1).config.display().to_string();
    // Twice: that the log is whole again does not bring back what it has lost.
    for _ in 0..2 {
        let output = run(&["run", "--config", &config])?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(
            output.status.code() == Some(DATA) && said.contains("was damaged"),
            "{:?}: {said}",
            output.status
        );
    }
    // With what it had it goes on: with all of that, since groups that have lost nothing began a new term.
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&kept, &data)?;
    pool.spawn(1)?;
    pool.all_ready().await?;
    let read = "<query xmlns='jabber:iq:private'><v xmlns='urn:v'/></query>";
    until("the last value", LIMIT, async || {
        let mut alice = Client::connect(&pool.login(1, "alice")).await.ok()?;
        let answer = alice.iq_ok("get", None, read).await.ok()?;
        answer.source().contains("number 19 of").then_some(())
    })
    .await
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status();
    let copied = copied.context("cp runs")?;
    ensure!(copied.success(), "{copied}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_says_that_its_log_was_damaged() {
    damaged()
        .await
        .expect("it says so, and starts with what it had");
}
