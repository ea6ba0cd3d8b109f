//! When `h` rises, when it is told, and what becomes of a stream whose outcome nobody knows (XEP-0198; the promise).

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::client::{Client, Incoming, Login};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use tokio::time::Instant;

const REQUEST: &str = "<r xmlns='urn:xmpp:sm:3'/>";

/// The next acknowledgement; whatever else comes must be no error.
async fn ack(client: &mut Client, limit: Duration) -> Result<u32> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match client.next(left).await.context("an acknowledgement")? {
            Incoming::Acked(h) => return Ok(h),
            Incoming::Closed(why) => bail!("the stream ended: {why}"),
            Incoming::Element(came) => ensure!(
                came.root().attr("type").as_deref() != Some("error"),
                "an error: {}",
                came.source()
            ),
        }
    }
}

/// Freezes all nodes but the first: nothing is committed, and nobody's connection ends.
fn freeze(pool: &Pool) -> Result<()> {
    pool.pause(2)?;
    pool.pause(3)
}

fn wake(pool: &Pool) -> Result<()> {
    pool.resume(2)?;
    pool.resume(3)
}

async fn answered_in_time(pool: &Pool, alice: &mut Client) -> Result<()> {
    let to_bob = format!("<message type='chat' to='bob@{DOMAIN}'><body>a</body></message>");
    let ping = format!("<iq type='get' id='p' to='{DOMAIN}'><ping xmlns='urn:xmpp:ping'/></iq>");
    alice.send(&ping).await?;
    alice.send_raw(REQUEST).await?;
    ensure!(
        ack(alice, Duration::from_secs(2)).await? == 1,
        "a ping is settled at once"
    );
    freeze(pool)?;
    let asked = Instant::now();
    alice.send(&to_bob).await?;
    alice.send_raw(REQUEST).await?;
    let h = ack(alice, Duration::from_secs(5)).await?;
    let took = asked.elapsed();
    ensure!(h == 1, "h is {h} though nothing was committed");
    // 250 ms, and some more for a busy machine.
    let waits = Duration::from_millis(240)..Duration::from_millis(1_500);
    ensure!(waits.contains(&took), "answered after {took:?}");
    // What is settled behind the message does not lift h over it.
    alice.send(&ping).await?;
    alice.send_raw(REQUEST).await?;
    let h = ack(alice, Duration::from_secs(5)).await?;
    ensure!(h == 1, "h is {h}, over what is not settled");
    wake(pool)?;
    // Nobody asks any more: it is told by itself.
    let h = ack(alice, Duration::from_secs(8)).await?;
    ensure!(h == 3, "h is {h} after the commit");
    Ok(())
}

async fn dropped_if_unknown(pool: &Pool, alice: &mut Client) -> Result<()> {
    freeze(pool)?;
    let sent = Instant::now();
    let to_bob = format!("<message type='chat' to='bob@{DOMAIN}'><body>b</body></message>");
    alice.send(&to_bob).await?;
    alice.send_raw(REQUEST).await?;
    let why = loop {
        match alice.next(Duration::from_secs(16)).await? {
            Incoming::Acked(h) => ensure!(h == 3, "h is {h} though nothing was committed"),
            Incoming::Closed(why) => break why,
            Incoming::Element(came) => bail!("{}", came.source()),
        }
    };
    let took = sent.elapsed();
    wake(pool)?;
    let settles = Duration::from_millis(9_500)..Duration::from_secs(13);
    ensure!(settles.contains(&took), "dropped after {took:?}");
    // `</stream:stream>` would make clients forget what is not acknowledged.
    ensure!(why == "end of socket", "{why}");
    Ok(())
}

async fn story() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users(["alice", "bob"]).await?;
    let login = Login {
        stream_management: true,
        ..pool.login(1, "alice")
    };
    let mut alice = Client::connect(&login).await?;
    answered_in_time(&pool, &mut alice).await?;
    dropped_if_unknown(&pool, &mut alice).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_are_prompt_and_never_too_high() {
    story().await.expect("the promise holds");
}
