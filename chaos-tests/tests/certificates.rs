//! Certificates change while the pool runs: whoever connects next sees the new ones, and nobody is disconnected.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{Client, Login, Security};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, Towards, run_ok};
use chaos_tests::wait::until;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// How long before its end operators are warned of a certificate.
const WARNED: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A node looks at its files every ten seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// The certificate that a server shows now; trusted by the pool's CA.
async fn shown(address: SocketAddr, name: &str, pool: &Pool) -> Result<CertificateDer<'static>> {
    let connector = TlsConnector::from(pool.tls());
    let name = ServerName::try_from(name.to_owned())?;
    let socket = connector
        .connect(name, TcpStream::connect(address).await?)
        .await?;
    let chain = socket.get_ref().1.peer_certificates();
    let leaf = chain.and_then(|chain| chain.first());
    Ok(leaf.context("a certificate")?.clone().into_owned())
}

fn in_file(path: &Path) -> Result<CertificateDer<'static>> {
    Ok(CertificateDer::from_pem_file(path)?)
}

/// Waits until a node shows what its files hold, to clients and to operators.
async fn takes_its_files(pool: &Pool, node: u64) -> Result<()> {
    let folder = pool.root().join(format!("node-{node}"));
    let places = [
        ("clients.pem", pool.node(node).clients_tls),
        ("control.pem", pool.node(node).control.address),
    ];
    for (file, address) in places {
        let expected = in_file(&folder.join(file))?;
        let what = format!("node {node} shows {file}");
        until(&what, LIMIT, async || {
            let now = shown(address, DOMAIN, pool).await.ok()?;
            (now == expected).then_some(())
        })
        .await?;
    }
    Ok(())
}

/// When a certificate of node 1 ends, as its metrics have it.
async fn end_in_metrics(pool: &Pool, what: &str) -> Result<u64> {
    let metrics = pool.node(1).control.ok("GET", "/metrics", None).await?.body;
    let line = format!("muster_certificate_not_after_timestamp_seconds{{certificate=\"{what}\"}} ");
    let value = metrics.lines().find_map(|found| found.strip_prefix(&line));
    let value = value.with_context(|| format!("{what}: {metrics}"))?;
    Ok(value.parse()?)
}

async fn says(from: &mut Client, to: &mut Client, id: &str) -> Result<()> {
    let address = to.jid().bare();
    let message =
        format!("<message type='chat' id='{id}' to='{address}'><body>{id}</body></message>");
    from.send(&message).await?;
    let comes =
        |came: &xmpp::scan::Document| (came.root().attr("id").as_deref() == Some(id)).then_some(());
    to.find(id, LIMIT, comes).await
}

async fn rotation() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users(["alice", "bob"]).await?;
    let starttls = Login {
        security: Security::StartTls,
        ..pool.login(1, "alice")
    };
    let direct = Login {
        address: pool.node(2).clients_tls,
        security: Security::DirectTls,
        ..pool.login(2, "bob")
    };
    let mut alice = Client::connect(&starttls).await?;
    let mut bob = Client::connect(&direct).await?;
    for client in [&mut alice, &mut bob] {
        client.send("<presence/>").await?;
    }
    says(&mut alice, &mut bob, "before").await?;
    let before = shown(pool.node(1).clients_tls, DOMAIN, &pool).await?;

    let ca = pool.root().join("ca");
    for node in pool.ids() {
        let config = pool.node(node).config.display().to_string();
        run_ok(&[
            "renew",
            "--config",
            &config,
            "--ca",
            &ca.display().to_string(),
        ])?;
    }
    for node in pool.ids() {
        takes_its_files(&pool, node).await?;
    }
    ensure!(shown(pool.node(1).clients_tls, DOMAIN, &pool).await? != before);
    says(&mut alice, &mut bob, "after").await?;
    says(&mut bob, &mut alice, "back").await?;

    // Between nodes: the new certificates meet in a node that comes back.
    pool.stop(3).await?;
    pool.spawn(3)?;
    pool.ready(3).await?;
    says(&mut alice, &mut bob, "with all three").await?;

    // A file that is wrong changes nothing, and is named.
    let now = shown(pool.node(1).clients_tls, DOMAIN, &pool).await?;
    let file = pool.root().join("node-1/clients.pem");
    let good = std::fs::read(&file)?;
    std::fs::write(&file, "no certificate")?;
    pool.hangup(1)?;
    until("a word in the log", LIMIT, async || {
        let log = pool.node(1).log_end();
        log.contains("certificates were not read anew")
            .then_some(())
    })
    .await?;
    ensure!(shown(pool.node(1).clients_tls, DOMAIN, &pool).await? == now);
    std::fs::write(&file, good)?;
    takes_its_files(&pool, 1).await?;

    for what in ["clients", "control", "cluster", "issuer", "ca"] {
        let value = end_in_metrics(&pool, what).await?;
        ensure!(value > 1_700_000_000, "{what}: {value}");
    }
    alice.close().await?;
    bob.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_and_nobody_is_disconnected() {
    rotation().await.expect("the story ends well");
}

/// A node tells from its metrics when each certificate ends, and warns in its log of one that ends within two weeks, of no other.
async fn warned() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(1)).await?;
    for left in [WARNED + HOUR, WARNED - HOUR] {
        let end = pool.certify(1, Towards::Clients, left)?;
        pool.hangup(1)?;
        until("the metrics have its end", LIMIT, async || {
            let told = end_in_metrics(&pool, "clients").await.ok()?;
            (told == end).then_some(())
        })
        .await?;
    }
    let said = |words: &str| -> Option<Vec<String>> {
        let log = pool.node(1).log().ok()?;
        let lines = log.lines().filter(|line| line.contains(words));
        Some(lines.map(str::to_owned).collect())
    };
    let warnings = until("a warning in the log", LIMIT, async || {
        said("a certificate ends on").filter(|lines| !lines.is_empty())
    })
    .await?;
    // 13 days and 23 hours are left, and the rest of the files is good for long.
    let [warning] = &warnings[..] else {
        anyhow::bail!("one warning is due: {warnings:#?}");
    };
    for part in ["WARN", "node-1/clients.pem", "days=13", "replace it"] {
        ensure!(warning.contains(part), "no {part} in {warning}");
    }

    // A new one is good for long again.
    let (config, ca) = (pool.node(1).config.clone(), pool.root().join("ca"));
    let (config, ca) = (config.display().to_string(), ca.display().to_string());
    run_ok(&["renew", "--config", &config, "--ca", &ca])?;
    pool.hangup(1)?;
    let soon = SystemTime::now().duration_since(UNIX_EPOCH)? + 365 * DAY;
    until("the metrics have a late end", LIMIT, async || {
        let told = end_in_metrics(&pool, "clients").await.ok()?;
        (told > soon.as_secs()).then_some(())
    })
    .await?;
    let after = said("a certificate ends on").context("a log")?;
    ensure!(after == warnings, "warned again: {after:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_warns_two_weeks_before_a_certificate_ends() {
    warned().await.expect("the story ends well");
}
