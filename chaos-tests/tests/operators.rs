//! What operators use: `muster ctl`, health and metrics, against a real pool.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{Client, Login};
use chaos_tests::pool::{Pool, PoolSettings, binary};
use serde_json::Value;

/// Runs `muster ctl` against a node, with a line on standard input.
fn ctl(pool: &Pool, node: u64, arguments: &[&str], input: &str) -> Result<Output> {
    let mut child = Command::new(binary()?)
        .args(["ctl", "--config"])
        .arg(&pool.node(node).config)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("standard input")?;
    // A command that reads nothing may have closed it.
    let _ = writeln!(stdin, "{input}");
    drop(stdin);
    Ok(child.wait_with_output()?)
}

/// The code and what was said.
fn said(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

async fn accounts() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    let user = "nurse@localhost";
    let run = |node: u64, arguments: &[&str], input: &str| {
        ctl(&pool, node, arguments, input).map(|output| said(&output))
    };
    let add = ["user", "add", user, "--password-stdin"];
    ensure!(run(1, &add, "nurse-password")?.0 == 0);
    let again = run(2, &add, "another")?;
    ensure!(
        again.0 == 7 && again.1.contains("already"),
        "a second account: {again:?}"
    );
    let list: Value = serde_json::from_str(&run(3, &["user", "list", "--json"], "")?.1)?;
    ensure!(list["users"] == serde_json::json!([user]), "{list}");

    Client::connect(&pool.login(2, "nurse"))
        .await?
        .close()
        .await?;
    ensure!(run(3, &["user", "password", user, "--password-stdin"], "new")?.0 == 0);
    let changed = Login {
        password: "new".to_owned(),
        ..pool.login(1, "nurse")
    };
    Client::connect(&changed).await?.close().await?;
    ensure!(
        Client::connect(&pool.login(1, "nurse")).await.is_err(),
        "the old password still works"
    );

    ensure!(run(1, &["user", "remove", user], "")?.0 == 0);
    ensure!(
        Client::connect(&changed).await.is_err(),
        "a removed account logs in"
    );
    let gone = run(1, &["user", "remove", user], "")?;
    ensure!(gone.0 == 7, "removed twice: {gone:?}");
    let bad = run(1, &["user", "add", "localhost", "--password-stdin"], "x")?;
    ensure!(bad.0 == 7, "a domain is no user: {bad:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_from_the_command_line() {
    accounts().await.expect("the story ends well");
}

/// What `/metrics` says.
struct Metrics(String);

impl Metrics {
    async fn of(pool: &Pool, node: u64) -> Result<Metrics> {
        let answer = pool.node(node).control.ok("GET", "/metrics", None);
        Ok(Metrics(answer.await?.body))
    }

    fn get(&self, name: &str) -> Result<f64> {
        let value = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(&format!("muster_{name} ")));
        let value = value.with_context(|| format!("no {name}: {}", self.0))?;
        Ok(value.parse()?)
    }
}

/// What operators need to see before something breaks.
async fn measured(pool: &Pool) -> Result<()> {
    let (mut owned, mut committed) = (0.0, 0.0);
    for id in pool.ids() {
        let metrics = Metrics::of(pool, id).await?;
        ensure!(metrics.get("quorum")? == 1.0, "{}", metrics.0);
        ensure!(metrics.get("members_connected")? == 2.0, "{}", metrics.0);
        ensure!(metrics.get("log_full")? == 0.0, "{}", metrics.0);
        ensure!(metrics.get("log_segments")? >= 1.0, "{}", metrics.0);
        ensure!(metrics.get("log_syncs_total")? >= 1.0, "{}", metrics.0);
        ensure!(
            metrics.get("log_sync_seconds_total")? > 0.0,
            "{}",
            metrics.0
        );
        let stat = rustix::fs::statvfs(pool.data_dir(id))?;
        let free = (stat.f_bavail * stat.f_frsize) as f64;
        let told = metrics.get("disk_free_bytes")?;
        // Others write to this disk, too.
        ensure!((told / free - 1.0).abs() < 0.5, "{told} and {free}");
        owned += metrics.get("partitions_owned")?;
        committed += metrics.get("commit_seconds_count")?;
    }
    ensure!(owned == 16.0, "{owned} partitions are owned");
    ensure!(committed >= 1.0, "no commit was measured");
    Ok(())
}

/// The names of metrics in a text.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("muster_"))
        .collect()
}

/// What the dashboard draws and the manual names is what a node tells.
fn are_told(metrics: &Metrics) -> Result<()> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dashboard = std::fs::read_to_string(project.join("packaging/grafana/muster.json"))?;
    let manual = std::fs::read_to_string(project.join("docs/operations.md"))?;
    let rows = manual.lines().filter(|line| line.starts_with("| `muster_"));
    let rows: String = rows.flat_map(|line| [line, "\n"]).collect();
    let of_histograms = |name: &str| metrics.0.contains(&format!("# TYPE {name} histogram"));
    let told = named(&metrics.0);
    for name in named(&dashboard).union(&named(&rows)) {
        ensure!(
            told.contains(name) || of_histograms(name),
            "no node tells {name}"
        );
    }
    ensure!(
        named(&dashboard).len() > 15 && named(&rows).len() > 15,
        "too few are named"
    );
    Ok(())
}

async fn reports() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    let control = pool.node(1).control.clone();
    let status: Value = serde_json::from_str(&said(&ctl(&pool, 1, &["status", "--json"], "")?).1)?;
    ensure!(
        status["members"].as_array().map(Vec::len) == Some(3),
        "{status}"
    );
    ensure!(
        status["partitions"].as_array().map(Vec::len) == Some(16),
        "{status}"
    );
    for path in ["/health/live", "/health/ready"] {
        ensure!(
            control.request("GET", path, None).await?.status == 200,
            "{path}"
        );
    }
    pool.add_users(["nurse"]).await?;
    measured(&pool).await?;
    are_told(&Metrics::of(&pool, 1).await?)?;
    let stranger = chaos_tests::control::ControlPort {
        token: "wrong".to_owned(),
        ..control.clone()
    };
    for path in ["/v1/status", "/v1/users", "/metrics"] {
        ensure!(
            stranger.request("GET", path, None).await?.status == 401,
            "{path} without the token"
        );
    }
    pool.kill(2)?;
    pool.kill(3)?;
    // Before that is certain, partitions have no owner.
    let unready = chaos_tests::wait::until(
        "node 1 is not ready, for want of a quorum",
        chaos_tests::pool::READY_LIMIT,
        async || {
            let answer = control.request("GET", "/health/ready", None).await.ok()?;
            (answer.status == 503 && answer.body.contains("quorum")).then_some(())
        },
    );
    unready.await?;
    let alone = Metrics::of(&pool, 1).await?;
    ensure!(alone.get("quorum")? == 0.0, "{}", alone.0);
    ensure!(
        control.request("GET", "/health/live", None).await?.status == 200,
        "it lives nevertheless"
    );
    pool.kill(1)?;
    let nobody = said(&ctl(&pool, 1, &["status"], "")?);
    ensure!(
        nobody.0 == 8 && nobody.1.contains("is the node running"),
        "{nobody:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_health_and_metrics() {
    reports().await.expect("the story ends well");
}

/// P16, as operators see it: one row a partition, the same on every node of a quiet pool.
async fn hashes() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users(["alice", "bob", "carol"]).await?;
    let agreement = pool.replicas_agree().await?;
    ensure!(
        agreement.partitions == 16 && agreement.state_rows >= 6,
        "{agreement:?}"
    );
    let rows = |node| -> Result<Vec<String>> {
        let (code, text) = said(&ctl(&pool, node, &["hashes"], "")?);
        ensure!(code == 0, "{text}");
        let mut lines = text.lines();
        let head = lines.next().unwrap_or_default();
        ensure!(head.starts_with("PARTITION  APPLIED  ROWS"), "{head}");
        Ok(lines.map(str::to_owned).collect())
    };
    let same = chaos_tests::wait::until(
        "all nodes show the same",
        chaos_tests::pool::READY_LIMIT,
        async || {
            let all: Result<Vec<Vec<String>>> = pool.ids().into_iter().map(rows).collect();
            match all {
                Ok(all) => all.windows(2).all(|two| two[0] == two[1]).then(|| Ok(all)),
                Err(error) => Some(Err(error)),
            }
        },
    );
    ensure!(same.await??[0].len() == 16, "a row a partition");
    let json: Value = serde_json::from_str(&said(&ctl(&pool, 1, &["hashes", "--json"], "")?).1)?;
    let digest = json["hashes"][0]["state"].as_str().unwrap_or_default();
    ensure!(digest.len() == 64, "{json}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_compared_from_the_command_line() {
    hashes().await.expect("the story ends well");
}
