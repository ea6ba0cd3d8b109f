//! The console page in a real browser: headless Chromium, driven by `console/story.mjs`, against three nodes.
//!
//! `MUSTER_SCREENSHOTS=FOLDER` makes the pictures of the manual, which takes some minutes more.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::Client;
use chaos_tests::people::online;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use serde_json::{Value, json};
use tokio::time::interval;

/// How often each user says something, so that there is something to be seen.
const SAID_EVERY: Duration = Duration::from_millis(100);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("console")
}

/// Where Debian puts the browser.
const BROWSER: &str = "/usr/bin/chromium";

/// Makes an operator, and gives their token.
async fn operator(pool: &Pool, name: &str, role: &str) -> Result<String> {
    let body = json!({ "name": name, "role": role });
    let control = &pool.node(1).control;
    let made = control.ok("POST", "/v1/operators", Some(&body)).await?;
    let token = made.json()?["token"].as_str().map(str::to_owned);
    token.context("no token")
}

/// What the story is told, on its standard input: tokens are not seen in the list of processes.
async fn told(pool: &Pool) -> Result<Value> {
    let nodes = || pool.ids().into_iter().map(|id| pool.node(id));
    let addresses: Vec<String> = nodes()
        .map(|node| format!("https://{}", node.control.address))
        .collect();
    let certificates: Vec<PathBuf> = nodes()
        .map(|node| node.config.with_file_name("control.pem"))
        .collect();
    Ok(json!({
        "addresses": addresses,
        "certificates": certificates,
        "program": BROWSER,
        "pictures": std::env::var_os("MUSTER_SCREENSHOTS").map(PathBuf::from),
        "tokens": {
            "olga": operator(pool, "olga", "operator").await?,
            "sven": operator(pool, "sven", "support").await?,
            "anna": operator(pool, "anna", "auditor").await?,
        },
    }))
}

fn tell(told: &Value) -> Result<Output> {
    let mut child = Command::new("node")
        .arg(folder().join("story.mjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("node can't be run")?;
    let mut stdin = child.stdin.take().context("standard input")?;
    stdin.write_all(told.to_string().as_bytes())?;
    drop(stdin);
    Ok(child.wait_with_output()?)
}

/// A user who writes to another for ever, and reads what comes.
async fn chat(mut client: Client, to: &str) -> Result<()> {
    let mut ticks = interval(SAID_EVERY);
    let message =
        format!("<message type='chat' to='{to}@{DOMAIN}'><body>how is the pool?</body></message>");
    loop {
        tokio::select! {
            _ = ticks.tick() => client.send(&message).await?,
            came = client.next(Duration::from_secs(3600)) => drop(came?),
        }
    }
}

async fn story() -> Result<()> {
    let modules = folder().join("node_modules/playwright-core");
    ensure!(
        modules.exists() && Path::new(BROWSER).exists(),
        "the browser or what drives it is missing: scripts/setup-tests installs both"
    );
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users(["alice", "bob", "carol", "dave", "erin"])
        .await?;
    let alice = online(&pool.login(1, "alice")).await?;
    let bob = online(&pool.login(2, "bob")).await?;
    let mut on_node_three = Vec::new();
    for user in ["carol", "dave", "erin"] {
        on_node_three.push(online(&pool.login(3, user)).await?);
    }
    let told = told(&pool).await?;
    let ended = tokio::task::spawn_blocking(move || tell(&told));
    let output = tokio::select! {
        ended = ended => ended??,
        failed = chat(alice, "bob") => return failed,
        failed = chat(bob, "alice") => return failed,
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}\n{said}\n{errors}",
        output.status
    );
    ensure!(said.lines().last() == Some("done"), "{said}\n{errors}");
    drop(on_node_three);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_in_a_browser() {
    story().await.expect("the story ends well");
}
