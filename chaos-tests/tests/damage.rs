//! A log that lost records where no other nodes can say which: the start says so, and goes on by the operator's word.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::client::Client;
use chaos_tests::pool::{Pool, PoolSettings, binary, run};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(20);

/// The documented codes.
const COMMAND_LINE: i32 = 2;
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

/// What a start says that ends, and its code.
fn refused(config: &str, more: &[&str]) -> Result<(i32, String)> {
    let output = run(&[&["run", "--config", config], more].concat())?;
    let said = String::from_utf8(output.stderr)?;
    Ok((output.status.code().context("killed")?, said))
}

/// Starts the node by the operator's word, waits until it serves, and stops it.
fn accept_loss(config: &str) -> Result<()> {
    let mut node = Command::new(binary()?)
        .args(["run", "--config", config, "--accept-loss"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let out = BufReader::new(node.stdout.take().context("a pipe")?);
    let ready = out
        .lines()
        .map_while(Result::ok)
        .any(|line| line.starts_with("ready:"));
    let pid = Pid::from_child(&node);
    kill_process(pid, Signal::TERM)?;
    ensure!(node.wait()?.success() && ready, "it did not serve");
    Ok(())
}

async fn write(alice: &mut Client, body: &str) -> Result<()> {
    let message = format!(
        "<message type='chat' to='bob@localhost' id='{body}'><body>{body}</body></message>"
    );
    alice.send(&message).await?;
    // The archive's answer comes after what was sent before.
    let query = "<query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'><max>0</max></set></query>";
    alice.iq_ok("set", None, query).await.map(drop)
}

/// How many messages Bob's archive has, by its own count.
async fn archived(pool: &Pool) -> Result<u32> {
    let mut bob = Client::connect(&pool.login(1, "bob")).await?;
    let query = "<query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'><max>100</max></set></query>";
    bob.send(&format!("<iq type='set' id='q'>{query}</iq>"))
        .await?;
    let mut rows = 0;
    loop {
        let came = bob.next_element(LIMIT).await?;
        match came.root().name() {
            "message" => rows += 1,
            _ => break,
        }
    }
    bob.close().await?;
    Ok(rows)
}

async fn damaged() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(1)).await?;
    pool.add_users(["alice", "bob"]).await?;
    let mut alice = Client::connect(&pool.login(1, "alice")).await?;
    for number in 0..20 {
        write(&mut alice, &format!("number {number} of the messages")).await?;
    }
    pool.kill(1)?;
    flip(&pool.data_dir(1).join("log"), b"number 17 of the messages")?;

    let config = pool.node(1).config.display().to_string();
    // Twice: that the log is whole again does not bring back what it has lost.
    for _ in 0..2 {
        let (code, said) = refused(&config, &[])?;
        ensure!(
            code == DATA && said.contains("--accept-loss"),
            "{code}: {said}"
        );
    }
    accept_loss(&config)?;
    pool.spawn(1)?;
    pool.all_ready().await?;
    let before = archived(&pool).await?;
    ensure!((1..=20).contains(&before), "{before} messages are left");
    let mut alice = Client::connect(&pool.login(1, "alice")).await?;
    write(&mut alice, "after the damage").await?;
    alice.close().await?;
    let after = archived(&pool).await?;
    ensure!(after == before + 1, "{after} messages, not {}", before + 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_goes_on_after_damage_by_the_operators_word_only() {
    damaged().await.expect("it goes on with what is left");
}

#[test]
fn loss_is_not_accepted_where_others_have_what_is_missing() {
    let pool = Pool::prepare(&PoolSettings::nodes(3)).expect("a pool's folder");
    let config = pool.node(1).config.display().to_string();
    let (code, said) = refused(&config, &["--accept-loss"]).expect("it runs");
    assert_eq!(code, COMMAND_LINE, "{said}");
    assert!(said.contains("start without it"), "{said}");
}
