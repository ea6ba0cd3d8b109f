//! Nodes that are emptied while people use them, and sessions that go from one to another.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::client::{Client, authenticated};
use chaos_tests::peer::{Peer, message};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use chaos_tests::wait::until;
use xmpp::ns;

const LIMIT: Duration = Duration::from_secs(60);

/// A user whose owner is another node than this one.
async fn user_owned_elsewhere(pool: &Pool, than: u64) -> Result<String> {
    for number in 0..64 {
        let user = format!("juliet{number}");
        let owner = pool.owner_of(&format!("{user}@{DOMAIN}"), than).await?;
        if owner.is_some_and(|owner| owner != than) {
            return Ok(user);
        }
    }
    bail!("every user is owned by node {than}")
}

/// Waits until a node stands still: on a busy machine its threads may run on for a moment.
async fn frozen(pool: &Pool, node: u64) -> Result<()> {
    let tasks = format!("/proc/{}/task", pool.pid(node)?);
    until("the node stands still", LIMIT, async || {
        let stands = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
            let (_, state) = stat.rsplit_once(") ")?;
            Some(state.starts_with('T'))
        };
        let mut tasks = std::fs::read_dir(&tasks).ok()?;
        tasks.all(|task| stands(task) == Some(true)).then_some(())
    })
    .await
}

/// The node that has a session stands still: nobody can say whether it can be resumed. The client hears so in time, and not
/// that there is none; when the node goes on, its next try has the session.
async fn answered_in_time() -> Result<()> {
    let settings = PoolSettings::nodes(3).set("stream_management", "settle_within", "1 s");
    let pool = Pool::start(&settings).await?;
    pool.owners_settled().await?;
    let user = user_owned_elsewhere(&pool, 1).await?;
    pool.add_users([user.as_str(), "romeo"]).await?;
    let mut juliet = Peer::begin(&pool.login(1, &user)).await?;
    juliet.send("<presence/>".into()).await?;
    let own = juliet.jid.clone();
    juliet
        .find("the own presence", |_, came| {
            came.root().attr("from").as_deref() == Some(own.as_str())
        })
        .await?;
    juliet.wire = None;
    let mut romeo = Client::connect(&pool.login(2, "romeo")).await?;
    let login = pool.login(3, &user);
    let mut wire = authenticated(&login).await?;

    pool.pause(1)?;
    frozen(&pool, 1).await?;
    let (id, h) = (&juliet.id, juliet.handled);
    let resume = format!(
        "<resume xmlns='{}' previd='{id}' h='{h}'/>",
        ns::STREAM_MANAGEMENT
    );
    wire.send(resume.as_bytes()).await?;
    let answer = wire.element("the answer to <resume/>").await?;
    pool.resume(1)?;
    let unknown =
        answer.root().name() == "error" && answer.source().contains("resource-constraint");
    ensure!(unknown, "{}", answer.source());

    romeo
        .send(&message(&format!("{user}@{DOMAIN}"), "chat", "meanwhile"))
        .await?;
    let refused = until("the session is resumed", LIMIT, async || {
        match juliet.resume(&login).await {
            Ok(()) => Some(None),
            Err(error) => {
                let error = format!("{error:#}");
                error.contains("<failed").then_some(Some(error))
            }
        }
    })
    .await?;
    ensure!(refused.is_none(), "{refused:?}");
    juliet
        .find("the message", |peer, _| peer.bodies == ["meanwhile"])
        .await?;
    let adopted = pool.node(3).control.counter("sessions_adopted").await;
    ensure!(adopted.context("the session came here")? >= 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_a_session_is_answered_in_time() {
    answered_in_time()
        .await
        .expect("the session outlives a try that came too early");
}
