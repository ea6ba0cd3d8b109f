//! A new machine joins a pool by a one-time token, as its operator does it; who operates the pool, and what is written down.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chaos_tests::client::Client;
use chaos_tests::control::ControlPort;
use chaos_tests::pool::{Pool, PoolSettings, READY_LIMIT, binary};
use chaos_tests::wait::until;
use serde_json::{Value, json};
use tokio::time::timeout;

/// Runs the binary without a terminal; gives its code and what it said.
fn muster(args: &[&str]) -> Result<(i32, String)> {
    let output: Output = Command::new(binary()?)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok((output.status.code().unwrap_or(-1), text))
}

fn ctl(pool: &Pool, node: u64, args: &[&str]) -> Result<(i32, String)> {
    let config = pool.node(node).config.clone();
    let config = config.to_str().context("a plain name")?;
    muster(&[&["ctl", "--config", config], args].concat())
}

fn ctl_json(pool: &Pool, node: u64, args: &[&str]) -> Result<Value> {
    let (code, text) = ctl(pool, node, &[args, &["--json"]].concat())?;
    ensure!(code == 0, "{args:?}: {text}");
    Ok(serde_json::from_str(&text)?)
}

/// An address on the loopback next to a pool's own ones, which are a test's own.
fn beside(pool: &Pool, last: u8) -> Result<Ipv4Addr> {
    let std::net::IpAddr::V4(first) = pool.node(1).control.address.ip() else {
        anyhow::bail!("tests use IPv4");
    };
    let [a, b, c, _] = first.octets();
    Ok(Ipv4Addr::new(a, b, c, last))
}

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
}

fn node_states(report: &Value) -> Vec<(u64, &str)> {
    let nodes = report["nodes"].as_array().into_iter().flatten();
    nodes
        .filter_map(|node| Some((node["id"].as_u64()?, node["state"].as_str()?)))
        .collect()
}

/// `muster ctl node add`, which waits for the new machine and for what it gets.
struct Adding {
    process: Child,
    said: Option<ChildStdout>,
}

impl Adding {
    fn begin(pool: &Pool, via: u64, at: &str) -> Result<Adding> {
        let mut process = Command::new(binary()?)
            .args(["ctl", "--config"])
            .arg(&pool.node(via).config)
            .args(["node", "add", at, "--yes", "--wait", "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = process.stdout.take();
        Ok(Adding { process, said })
    }

    /// The next that it says.
    async fn says(&mut self) -> Result<Value> {
        let mut said = self.said.take().context("its output")?;
        let read = tokio::task::spawn_blocking(move || {
            let mut values = serde_json::Deserializer::from_reader(&mut said).into_iter();
            let value: Option<serde_json::Result<Value>> = values.next();
            (said, value)
        });
        let (said, value) = timeout(READY_LIMIT, read).await??;
        self.said = Some(said);
        Ok(value.context("it said no more")??)
    }

    async fn ends(mut self) -> Result<()> {
        let ended = until("it ends", READY_LIMIT, async || {
            self.process.try_wait().ok().flatten()
        })
        .await?;
        ensure!(ended.success(), "{ended}");
        Ok(())
    }
}

impl Drop for Adding {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn one_two_three() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(1)).await?;
    pool.add_users(["nurse", "doctor"]).await?;
    let token = ctl_json(&pool, 1, &["node", "token", "--ttl", "30m"])?;
    let token = token["token"].as_str().context("a token")?.to_owned();
    let (two, dir) = (beside(&pool, 2)?.to_string(), pool.root().join("node-2"));
    let place = dir.to_str().context("a plain name")?;
    let join = |token: &str, dir: &str| {
        muster(&[
            "join",
            "--token",
            token,
            "--dir",
            dir,
            "--bind",
            &two,
            "--control-bind",
            &two,
        ])
    };
    let (code, said) = join(&token, place)?;
    ensure!(code == 0 && said.contains("node 2 of the pool"), "{said}");
    for secret in [
        "pool.toml",
        "cluster-key.pem",
        "clients-key.pem",
        "control-key.pem",
        "issuer-key.pem",
        "data/control.token",
    ] {
        ensure!(mode(&dir.join(secret))? == 0o600, "{secret}");
    }
    ensure!(mode(&dir)? == 0o700, "the folder");
    ensure!(!dir.join("request.pem").exists(), "the request is left");
    let config = dir.join("muster.toml");
    let checked = muster(&["check-config", config.to_str().context("plain")?])?;
    ensure!(checked.0 == 0, "{checked:?}");

    // Once only; and nothing is overwritten.
    let again = join(&token, place)?;
    ensure!(
        again.0 == 1 && again.1.contains("is not empty"),
        "{again:?}"
    );
    let other = pool.root().join("other");
    let other_place = other.to_str().context("plain")?;
    let used = join(&token, other_place)?;
    ensure!(used.0 == 7 && used.1.contains("has been used"), "{used:?}");

    pool.adopt(2)?;
    let states = ctl_json(&pool, 1, &["node", "list"])?;
    ensure!(
        node_states(&states) == [(1, "member"), (2, "joining")],
        "{states}"
    );
    pool.spawn(2)?;
    pool.ready(2).await?;
    pool.member_is(2, "member", 1).await?;
    // The new node's own folder opens its control port, whose certificate no CA has signed.
    let states = ctl_json(&pool, 2, &["node", "list"])?;
    ensure!(
        node_states(&states) == [(1, "member"), (2, "member")],
        "{states}"
    );
    Client::connect(&pool.login(2, "nurse"))
        .await?
        .close()
        .await?;

    // What a third one would move is known beforehand, and that another member has an address.
    let three = format!("{}:7400", beside(&pool, 3)?);
    let plan = ctl_json(&pool, 1, &["node", "add", &three, "--dry-run"])?;
    let steps = plan["steps"].as_array().context("steps")?;
    ensure!(plan["node"] == 3 && plan["begun"] == false, "{plan}");
    ensure!(
        steps.len() == 18 && steps[0] == json!({ "step": "join", "node": 3 }),
        "{plan}"
    );
    let taken = pool.cluster_address(2)?.to_string();
    let (code, said) = ctl(&pool, 1, &["node", "add", &taken, "--dry-run"])?;
    ensure!(code == 7 && said.contains("is the address of"), "{said}");

    // A node that joined lets others join; an earlier folder of a machine that was refused is no obstacle.
    let mut adding = Adding::begin(&pool, 2, &three)?;
    let token = adding.says().await?;
    let token = token["token"].as_str().context("a token")?.to_owned();
    let id = pool.join_by(&token, beside(&pool, 3)?)?;
    let with = json!({ "with": id });
    let word = pool.refused(1, 1, "replace", &with).await?;
    ensure!(word == "not-caught-up", "it has not begun: {word}");
    ensure!(id == 3, "{id}");
    pool.spawn(3)?;
    pool.ready(3).await?;
    pool.member_is(3, "member", 2).await?;
    // Who lets it in is told when all is done.
    let told = adding.says().await?;
    ensure!(told["done"] == true, "{told}");
    adding.ends().await?;
    let placed = pool.placed(3, 1).await?;
    ensure!(placed == [(1, 17), (2, 17), (3, 17)], "{placed:?}");
    Client::connect(&pool.login(3, "doctor"))
        .await?
        .close()
        .await?;

    // It is all written down, and the same on every node.
    let log = ctl_json(&pool, 3, &["audit"])?;
    let records = log["records"].as_array().context("records")?;
    let seen: Vec<_> = records
        .iter()
        .filter(|record| record["action"] != "user.add")
        .map(|record| (record["action"].as_str(), record["outcome"].as_str()))
        .collect();
    let done = |action| (Some(action), Some("done"));
    let expect = [
        done("token.add"),
        done("node.join"),
        done("token.add"),
        done("node.join"),
        (Some("node.replace"), Some("not-caught-up")),
    ];
    ensure!(seen == expect, "{log}");
    ensure!(
        !log.to_string().contains("nurse-password"),
        "a password is in the log"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_one_becomes_one_of_three() {
    one_two_three().await.expect("the story ends well");
}

async fn refused_tokens() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(1)).await?;
    let stranger = Pool::start(&PoolSettings::nodes(1)).await?;
    let at = beside(&pool, 2)?.to_string();
    let dir = pool.root().join("new");
    let dir = dir.to_str().context("a plain name")?;
    let join = |token: &str, more: &[&str]| {
        let line = ["join", "--token", token, "--dir", dir, "--bind", &at];
        muster(&[&line, more].concat())
    };
    let (code, said) = join("muster-join-x", &[])?;
    ensure!(code == 2 && said.contains("no token"), "{said}");

    // Whoever is no node of the token's pool hears nothing of the token.
    let token = pool.join_token(1).await?;
    let elsewhere = stranger.node(1).control.address.to_string();
    let (code, said) = join(&token, &["--server", &elsewhere])?;
    ensure!(code == 8 && said.contains("no node of the pool"), "{said}");
    let nobody = format!("{at}:7480");
    let (code, said) = join(&token, &["--server", &nobody])?;
    ensure!(code == 8 && said.contains("is the node running"), "{said}");

    let issued = ctl_json(&pool, 1, &["node", "token"])?;
    let id = issued["id"].as_str().context("an id")?;
    ensure!(ctl(&pool, 1, &["node", "revoke", id])?.0 == 0);
    let (code, said) = join(issued["token"].as_str().context("a token")?, &[])?;
    ensure!(code == 7 && said.contains("was revoked"), "{said}");
    let unknown = ctl(&pool, 1, &["node", "revoke", "0123456789ab"])?;
    ensure!(
        unknown.0 == 7 && unknown.1.contains("no such token"),
        "{unknown:?}"
    );

    let short = ctl_json(&pool, 1, &["node", "token", "--ttl", "1s"])?;
    until("the token has expired", READY_LIMIT, async || {
        let tokens = ctl_json(&pool, 1, &["node", "tokens"]).ok()?;
        let mut tokens = tokens["tokens"].as_array()?.iter();
        let token = tokens.find(|token| token["id"] == short["id"])?;
        (token["state"] == "expired").then_some(())
    })
    .await?;
    let (code, said) = join(short["token"].as_str().context("a token")?, &[])?;
    ensure!(code == 7 && said.contains("has expired"), "{said}");

    // After all that the same folder joins with a good one.
    let (code, said) = join(&token, &[])?;
    ensure!(code == 0, "{said}");

    // A pool from before there were issuers says how to get one.
    std::fs::remove_file(pool.root().join("node-1/issuer.pem"))?;
    let none = ctl(&pool, 1, &["node", "token", "--json"])?;
    ensure!(none.0 == 7 && none.1.contains("muster renew"), "{none:?}");
    let report: Value = serde_json::from_str(&none.1)?;
    ensure!(report["code"] == "no-issuer", "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_let_nobody_in_say_why() {
    refused_tokens().await.expect("the story ends well");
}

/// The secret in a token, as the machine that joins sends it.
fn secret(token: &str) -> Result<String> {
    let coded = token.strip_prefix("muster-join-").context("a token")?;
    let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(coded)?)?;
    Ok(token["secret"].as_str().context("a secret")?.to_owned())
}

fn request() -> Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let request = rcgen::CertificateParams::default().serialize_request(&key)?;
    Ok(request.pem()?)
}

/// Answers get lost: the same request gets the same answer, and nobody else gets one.
async fn lost_answers() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(1)).await?;
    let secret = secret(&pool.join_token(1).await?)?;
    let (own, other) = (request()?, request()?);
    // What authorises the request is the token in it.
    let stranger = ControlPort {
        token: String::new(),
        ..pool.node(1).control.clone()
    };
    let address = format!("{}:7400", beside(&pool, 2)?);
    let join = async |request: &str, address: &str| {
        let body = json!({ "secret": secret, "request": request, "address": address });
        let answer = stranger.request("POST", "/v1/join", Some(&body)).await?;
        let report = answer.json()?;
        anyhow::Ok((answer.status, report))
    };
    let code = |(status, report): (u16, Value)| (status, report["code"].to_string());
    let refused = |status, code: &str| (status, format!("{code:?}"));
    // What could never be signed spends no token.
    let garbage = code(join("no request", &address).await?);
    ensure!(garbage == refused(422, "invalid"), "{garbage:?}");
    let nowhere = code(join(&own, "0.0.0.0:7400").await?);
    ensure!(nowhere == refused(422, "invalid"), "{nowhere:?}");
    let taken = pool.cluster_address(1)?.to_string();
    let taken = code(join(&own, &taken).await?);
    ensure!(taken == refused(409, "address-in-use"), "{taken:?}");

    let (status, first) = join(&own, &address).await?;
    ensure!(
        status == 200 && first["node"] == 2,
        "{status} {}",
        first["code"]
    );
    let (status, again) = join(&own, &address).await?;
    ensure!(status == 200, "{status} {}", again["code"]);
    for part in ["node", "pool", "ca", "issuer", "clients", "members"] {
        ensure!(first[part] == again[part], "{part} differs");
    }
    let members = pool.operations(1).await?;
    ensure!(
        members["members"].as_array().map(Vec::len) == Some(2),
        "{members}"
    );
    let used = code(join(&other, &address).await?);
    ensure!(used == refused(409, "token-used"), "{used:?}");
    let moved = format!("{}:7400", beside(&pool, 9)?);
    let moved = code(join(&own, &moved).await?);
    ensure!(moved == refused(409, "address-differs"), "{moved:?}");
    let tokens = ctl_json(&pool, 1, &["node", "tokens"])?;
    let token = &tokens["tokens"][0];
    ensure!(token["state"] == "spent" && token["node"] == 2, "{tokens}");
    let id = token["id"].as_str().context("an id")?;
    ensure!(ctl(&pool, 1, &["node", "revoke", id])?.0 == 0);
    let revoked = code(join(&own, &address).await?);
    ensure!(revoked == refused(409, "token-revoked"), "{revoked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_again_gets_the_same_answer() {
    lost_answers().await.expect("the story ends well");
}

async fn operators() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    let added = ctl_json(&pool, 1, &["operator", "add", "anna", "--role", "support"])?;
    let token = added["token"].as_str().context("a token")?.to_owned();
    let again = ctl(&pool, 2, &["operator", "add", "anna", "--role", "auditor"])?;
    ensure!(again.0 == 7 && again.1.contains("already"), "{again:?}");
    // At any node.
    let anna = ControlPort {
        token,
        ..pool.node(3).control.clone()
    };
    let user = json!({ "user": "bob@localhost", "password": "secret" });
    let status = until("node 3 has heard of her", READY_LIMIT, async || {
        let answer = anna.request("POST", "/v1/users", Some(&user)).await.ok()?;
        (answer.status != 401).then_some(answer.status)
    });
    ensure!(status.await? == 201, "support makes accounts");
    let denied = anna.request("GET", "/v1/audit", None).await?;
    ensure!(
        denied.status == 403 && denied.json()?["code"] == "forbidden",
        "{denied:?}"
    );
    let token = json!({ "ttl_s": 60 });
    let denied = anna.request("POST", "/v1/tokens", Some(&token)).await?;
    ensure!(denied.status == 403, "{denied:?}");

    // What takes a node away is not begun without a word.
    // A voter that was not heard of lately counts as away, and a pool that has just begun may not have heard of all.
    let plan = until("the plan is shown", READY_LIMIT, async || {
        ctl_json(&pool, 1, &["node", "drain", "3", "--dry-run"]).ok()
    });
    let plan = plan.await?;
    ensure!(plan["begun"] == false && plan["steps"].is_array(), "{plan}");
    let asked = ctl(&pool, 1, &["node", "drain", "3"])?;
    ensure!(asked.0 == 2 && asked.1.contains("--yes"), "{asked:?}");
    let none = ctl(&pool, 1, &["node", "drain", "9", "--yes"])?;
    ensure!(none.0 == 7 && none.1.contains("no such node"), "{none:?}");

    ensure!(ctl(&pool, 1, &["operator", "revoke", "anna"])?.0 == 0);
    until("node 3 has heard of that", READY_LIMIT, async || {
        let answer = anna.request("GET", "/v1/users", None).await.ok()?;
        (answer.status == 401).then_some(())
    })
    .await?;
    let page = pool.node(1).control.ok("GET", "/v1/audit?limit=2", None);
    let page = page.await?.json()?;
    let (records, before) = (
        page["records"].as_array().context("records")?,
        &page["previous"],
    );
    ensure!(records.len() == 2 && before.is_u64(), "{page}");
    let log = ctl_json(&pool, 1, &["audit", "--after", "0"])?;
    let seen: Vec<String> = (log["records"].as_array().into_iter().flatten())
        .map(|record| {
            format!(
                "{} {} {}",
                record["who"], record["action"], record["outcome"]
            )
        })
        .collect();
    let expect = [
        r#""root@node-1" "operator.add" "done""#,
        r#""root@node-2" "operator.add" "conflict""#,
        r#""anna" "user.add" "done""#,
        r#""root@node-1" "node.drain" "not-found""#,
        r#""root@node-1" "operator.revoke" "done""#,
    ];
    ensure!(seen == expect, "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_have_roles_and_leave_traces() {
    operators().await.expect("the story ends well");
}

/// What became of the newest change by the word of the audit log.
fn newest_in_audit(pool: &Pool) -> Result<(String, String)> {
    let log = ctl_json(pool, 1, &["audit"])?;
    let newest = log["records"].as_array().and_then(|records| records.last());
    let newest = newest.context("a record")?;
    let word = |key: &str| newest[key].as_str().map(str::to_owned);
    let found = word("action").zip(word("outcome"));
    found.with_context(|| newest.to_string())
}

/// A node whose issuer is no good lets nobody in, says why, and spends nothing for it. With a good one in its place it does.
async fn bad_issuers() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(1)).await?;
    let stranger = Pool::prepare(&PoolSettings::nodes(1))?;
    let token = pool.join_token(1).await?;
    let (folder, other) = (pool.root().join("node-1"), stranger.root().join("node-1"));
    let dir = pool.root().join("new");
    let (dir, at) = (
        dir.to_str().context("a plain name")?,
        beside(&pool, 2)?.to_string(),
    );
    let join = || muster(&["join", "--token", &token, "--dir", dir, "--bind", &at]);
    let files = ["issuer.pem", "issuer-key.pem"];
    let good = files.map(|file| std::fs::read(folder.join(file)));
    let replace = |from: &Path, file: &str| std::fs::copy(from.join(file), folder.join(file));
    // No certificate, another's key, and another pool's issuer as a whole.
    let steps: [(&dyn Fn() -> std::io::Result<()>, &str); 3] = [
        (
            &|| std::fs::write(folder.join("issuer.pem"), "none"),
            "no certificate in PEM form",
        ),
        (
            &|| replace(&other, "issuer.pem").map(drop),
            "does not belong to this certificate",
        ),
        (
            &|| replace(&other, "issuer-key.pem").map(drop),
            "none of the CA certificates in",
        ),
    ];
    for (spoil, words) in steps {
        spoil()?;
        let (code, said) = ctl(&pool, 1, &["node", "token", "--json"])?;
        ensure!(code == 7 && said.contains(words), "{words}: {said}");
        let report: Value = serde_json::from_str(&said)?;
        ensure!(report["code"] == "issuer-unusable", "{report}");
        let (action, outcome) = newest_in_audit(&pool)?;
        ensure!(
            (action.as_str(), outcome.as_str()) == ("token.add", "issuer-unusable"),
            "{action} {outcome}"
        );
        let (code, said) = join()?;
        ensure!(code == 7 && said.contains(words), "{words}: {said}");
    }
    for (file, bytes) in files.iter().zip(good) {
        std::fs::write(folder.join(file), bytes?)?;
    }
    let (code, said) = join()?;
    ensure!(code == 0, "the token is still good: {said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_bad_issuer_lets_nobody_in() {
    bad_issuers().await.expect("the story ends well");
}

/// Nobody is left to take over what the only node does: it is neither drained nor removed, and its operator is told.
async fn the_last_stays() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(1)).await?;
    pool.add_users(["nurse"]).await?;
    for (what, action) in [("drain", "node.drain"), ("remove", "node.remove")] {
        let (code, said) = ctl(&pool, 1, &["node", what, "1", "--yes", "--json"])?;
        let report: Value = serde_json::from_str(&said)?;
        ensure!(code == 7 && report["code"] == "last-node", "{what}: {said}");
        let words = "no other member could take over what node 1 does";
        ensure!(report["message"] == words, "{what}: {said}");
        let (found, outcome) = newest_in_audit(&pool)?;
        ensure!(
            (found.as_str(), outcome.as_str()) == (action, "last-node"),
            "{what}: {found} {outcome}"
        );
        let planned = format!("{what}?dry_run=true");
        let word = pool.refused(1, 1, &planned, &json!({})).await?;
        ensure!(word == "last-node", "{planned}: {word}");
    }
    let seen = pool.operations(1).await?;
    ensure!(seen["members"][0]["state"] == "member", "{seen}");
    let nurse = Client::connect(&pool.login(1, "nurse")).await?;
    nurse.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_node_is_neither_drained_nor_removed() {
    the_last_stays().await.expect("the operator is told why");
}
