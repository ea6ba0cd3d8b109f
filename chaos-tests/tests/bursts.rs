//! Much at once: a client that reads is never ended for what its node brings or answers in one burst.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chaos_tests::client::{Client, Incoming};
use chaos_tests::pool::{Pool, PoolSettings, ROOMS};
use xmpp::ns;
use xmpp::scan::Document;

const LIMIT: Duration = Duration::from_secs(60);

async fn pool() -> Result<Pool> {
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users(["alice", "bob"]).await?;
    Ok(pool)
}

async fn enter(client: &mut Client, room: &str, nick: &str) -> Result<()> {
    let join = format!(
        "<presence to='{room}/{nick}'><x xmlns='{}'/></presence>",
        ns::MUC
    );
    client.send(&join).await?;
    client
        .find("the subject", LIMIT, subject_of)
        .await
        .map(drop)
}

fn subject_of(came: &Document) -> Option<String> {
    let root = came.root();
    root.child("subject", ns::CLIENT)?;
    Some(root.attr("from")?.into_owned())
}

/// The number in a room message's body.
fn number_of(came: &Document) -> Option<usize> {
    let body = came.root().child("body", ns::CLIENT)?;
    body.text().parse().ok()
}

/// Reads room messages up to the last one.
async fn numbers(client: &mut Client, last: usize) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let came = client.find("a room's message", LIMIT, number_of).await?;
        numbers.push(came);
    }
    Ok(numbers)
}

/// Says numbers, and reads them as fast as they come back.
async fn say(client: &mut Client, room: &str, numbers: std::ops::Range<usize>) -> Result<()> {
    const AT_ONCE: usize = 250;
    let mut next = numbers.start;
    while next < numbers.end {
        let upto = numbers.end.min(next + AT_ONCE);
        for number in next..upto {
            let message = format!(
                "<message type='groupchat' id='m{number}' to='{room}'><body>{number}</body></message>"
            );
            client.send(&message).await?;
        }
        self::numbers(client, upto - 1).await?;
        next = upto;
    }
    Ok(())
}

/// A node that was frozen brings all that it missed at once; `missed` is more than a page of the replay.
async fn catches_up(missed: usize) -> Result<()> {
    let pool = pool().await?;
    let room = format!("burst@{ROOMS}");
    let owner = pool.owner_of(&room, 1).await?;
    let mut others = pool.ids().into_iter().filter(|id| Some(*id) != owner);
    let (frozen, awake) = (others.next().unwrap_or(1), others.next().unwrap_or(2));
    let mut bob = Client::connect(&pool.login(awake, "bob")).await?;
    let mut alice = Client::connect(&pool.login(frozen, "alice")).await?;
    enter(&mut bob, &room, "Bob").await?;
    bob.iq_ok(
        "set",
        Some(&room),
        &format!(
            "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'/></query>",
            ns::MUC_OWNER
        ),
    )
    .await?;
    enter(&mut alice, &room, "Alice").await?;
    say(&mut bob, &room, 0..1).await?;
    ensure!(numbers(&mut alice, 0).await? == [0]);
    pool.pause(frozen)?;
    let said = say(&mut bob, &room, 1..missed).await;
    pool.resume(frozen)?;
    said?;
    let came = numbers(&mut alice, missed - 1).await?;
    let expected: Vec<usize> = (1..missed).collect();
    ensure!(
        came == expected,
        "{} of {missed} messages, in another order",
        came.len()
    );
    say(&mut bob, &room, missed..missed + 1).await?;
    ensure!(
        numbers(&mut alice, missed).await? == [missed],
        "and then one by one"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_woken_node_brings_thousands_of_messages_to_a_client_that_reads() {
    catches_up(3_000).await.expect("the test runs to its end");
}

/// Joins of so many rooms in one write.
async fn joins(rooms: usize) -> Result<()> {
    let pool = pool().await?;
    let mut alice = Client::connect(&pool.login(1, "alice")).await?;
    let mut all = String::new();
    for room in 0..rooms {
        write!(
            all,
            "<presence to='r{room}@{ROOMS}/Alice'><x xmlns='{}'/></presence>",
            ns::MUC
        )?;
    }
    let (mut alice_reads, begun) = (Vec::new(), Instant::now());
    // In parts that the sockets hold, or each side would wait for the other to read.
    for part in all
        .split_inclusive("</presence>")
        .collect::<Vec<_>>()
        .chunks(rooms / 4)
    {
        alice.send_raw(&part.concat()).await?;
    }
    while alice_reads.len() < rooms {
        ensure!(
            begun.elapsed() < 2 * LIMIT,
            "{} of {rooms} joins answered",
            alice_reads.len()
        );
        match alice.next(LIMIT).await? {
            Incoming::Element(came) => alice_reads.extend(answered(&came)),
            other => anyhow::bail!("after {} answers: {other:?}", alice_reads.len()),
        }
    }
    alice_reads.sort();
    alice_reads.dedup();
    ensure!(alice_reads.len() == rooms, "each once");
    Ok(())
}

/// The room by which a join was answered: with its subject, or with an error.
fn answered(came: &Document) -> Option<String> {
    let root = came.root();
    let refused = root.name() == "presence" && root.attr("type").as_deref() == Some("error");
    let from = subject_of(came)
        .or_else(|| refused.then(|| root.attr("from").map(|from| from.into_owned()))?)?;
    Some(from.split('/').next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_asks_for_thousands_of_rooms_is_answered_for_each() {
    joins(2_000).await.expect("the test runs to its end");
}
