//! Streams that are over (RFC 6120 §4.4): the last words arrive whatever the client still sends, and a client that does not
//! close its connection is cut.

use std::time::Duration;

use anyhow::{Result, ensure};
use chaos_tests::client::authenticated;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use chaos_tests::wait::until;
use chaos_tests::wire::Wire;
use xmpp::ns;

const LIMIT: Duration = Duration::from_secs(20);

/// More than the server reads at once, and less than it drops before it cuts the connection.
const BEHIND_BYTES: usize = 400_000;

async fn pool() -> Result<Pool> {
    let settings = PoolSettings::nodes(1).set("negotiation", "close", "700 ms");
    let pool = Pool::start(&settings).await?;
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

async fn before_and_after_authentication() -> Result<()> {
    let pool = pool().await?;
    let mut early = Wire::plain(pool.node(1).clients).await?;
    let header = format!(
        "<stream:stream xmlns='{}' xmlns:stream='{}' to='{DOMAIN}' version='1.0'>",
        ns::CLIENT,
        ns::STREAM
    );
    early.send(header.as_bytes()).await?;
    break_off(&mut early).await?;
    is_cut(&mut early).await?;

    let mut bound = authenticated(&pool.login(1, "romeo")).await?;
    let bind = format!("<iq type='set' id='b'><bind xmlns='{}'/></iq>", ns::BIND);
    bound.send(bind.as_bytes()).await?;
    bound.element("the resource").await?;
    break_off(&mut bound).await?;
    is_cut(&mut bound).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_arrive_and_who_does_not_close_is_cut() {
    before_and_after_authentication()
        .await
        .expect("a clean end");
}
