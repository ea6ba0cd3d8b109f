//! Certificates change while the pool runs: whoever connects next sees the new ones, and nobody is disconnected.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{Client, Login, Security};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, run_ok};
use chaos_tests::wait::until;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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

    let metrics = pool.node(1).control.ok("GET", "/metrics", None).await?.body;
    for what in ["clients", "control", "cluster", "ca"] {
        let line =
            format!("muster_certificate_not_after_timestamp_seconds{{certificate=\"{what}\"}} ");
        let value = metrics.lines().find_map(|found| found.strip_prefix(&line));
        let value: i64 = value
            .with_context(|| format!("{what}: {metrics}"))?
            .parse()?;
        ensure!(value > 1_700_000_000, "{what}: {value}");
    }
    alice.close().await?;
    bob.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_and_nobody_is_disconnected() {
    rotation().await.expect("the story ends well");
}
