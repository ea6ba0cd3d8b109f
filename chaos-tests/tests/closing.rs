//! Streams that are over (RFC 6120 §4.4): the last words arrive whatever the client still sends, and a client that does not
//! close its connection is cut.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::authenticated;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use chaos_tests::wait::until;
use chaos_tests::wire::Wire;
use xmpp::ns;

const LIMIT: Duration = Duration::from_secs(20);

/// More than the server reads at once, and less than it drops before it cuts the connection.
const BEHIND_BYTES: usize = 400_000;

/// Each node waits for another time, longer or shorter than by default.
async fn pool() -> Result<Pool> {
    let settings = PoolSettings::nodes(3).set("negotiation", "close", "1 h");
    let mut pool = Pool::prepare(&settings)?;
    pool.set(1, "negotiation", "close", "700 ms")?;
    pool.set(2, "negotiation", "close", "4 s")?;
    pool.start_all()?;
    pool.all_ready().await?;
    pool.add_users(["romeo"]).await?;
    Ok(pool)
}

/// The end of XML with a lot behind it. It is read only when all is sent: a reset would take the answer with it.
async fn break_off(wire: &mut Wire) -> Result<()> {
    let broken = format!("<a></b>{}", "x".repeat(BEHIND_BYTES));
    wire.send(broken.as_bytes()).await?;
    let said = String::from_utf8(wire.rest(LIMIT).await?)?;
    ensure!(
        said.contains("<not-well-formed") && said.ends_with("</stream:stream>"),
        "came: {said}"
    );
    Ok(())
}

/// Sends until the server does not take it any more.
async fn is_cut(wire: &mut Wire) -> Result<()> {
    until("the server cuts the connection", LIMIT, async || {
        wire.send(b" ").await.err().map(drop)
    })
    .await
}

/// A stream that is over before authentication.
async fn early(pool: &Pool, node: u64) -> Result<Wire> {
    let mut early = Wire::plain(pool.node(node).clients).await?;
    let header = format!(
        "<stream:stream xmlns='{}' xmlns:stream='{}' to='{DOMAIN}' version='1.0'>",
        ns::CLIENT,
        ns::STREAM
    );
    early.send(header.as_bytes()).await?;
    break_off(&mut early).await?;
    Ok(early)
}

/// A session's stream that is over.
async fn bound(pool: &Pool, node: u64) -> Result<Wire> {
    let mut bound = authenticated(&pool.login(node, "romeo")).await?;
    let bind = format!("<iq type='set' id='b'><bind xmlns='{}'/></iq>", ns::BIND);
    bound.send(bind.as_bytes()).await?;
    bound.element("the resource").await?;
    break_off(&mut bound).await?;
    Ok(bound)
}

/// Were they cut after one and the same time, the first would be first.
async fn in_their_turn() -> Result<()> {
    let pool = pool().await?;
    let mut kept = [early(&pool, 3).await?, bound(&pool, 3).await?];
    let mut later = [early(&pool, 2).await?, bound(&pool, 2).await?];
    let mut soon = [early(&pool, 1).await?, bound(&pool, 1).await?];
    for wire in soon.iter_mut().chain(&mut later) {
        is_cut(wire).await?;
    }
    for wire in &mut kept {
        wire.send(b" ").await.context("cut before its time")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_arrive_and_who_does_not_close_is_cut() {
    in_their_turn().await.expect("clean ends, each in its time");
}
