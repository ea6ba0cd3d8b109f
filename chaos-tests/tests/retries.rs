//! A client that never heard what became of its messages sends them again under their origin-ids (XEP-0359), to a pool
//! that has them: each has one row and one delivery, whoever owns the logs by then.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use chaos_tests::client::{Client, Incoming, Login, authenticated};
use chaos_tests::load::read_archive;
use chaos_tests::people::online;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, ROOMS};
use chaos_tests::trial::RECOVERY;
use chaos_tests::wait::until;
use xmpp::ns;
use xmpp::scan::Document;

/// Messages to the room, and as many to the other user.
const MESSAGES: usize = 60;

fn yard() -> String {
    format!("yard@{ROOMS}")
}

fn to_room(body: &str) -> String {
    message("groupchat", &yard(), body)
}

fn to_bob(body: &str) -> String {
    message("chat", &format!("bob@{DOMAIN}"), body)
}

fn message(kind: &str, to: &str, body: &str) -> String {
    format!(
        "<message type='{kind}' to='{to}' id='{body}'><body>{body}</body><origin-id xmlns='{}' id='{body}'/></message>",
        ns::STANZA_ID
    )
}

/// All that is sent twice, in order.
fn all() -> Vec<(String, String)> {
    let both = |number| {
        let (room, user) = (format!("room-{number}"), format!("user-{number}"));
        [
            (room.clone(), to_room(&room)),
            (user.clone(), to_bob(&user)),
        ]
    };
    (0..MESSAGES).flat_map(both).collect()
}

fn bodies(prefix: &str) -> Vec<String> {
    let named = (0..MESSAGES).map(|number| format!("{prefix}-{number}"));
    named.chain([format!("{prefix}-last")]).collect()
}

fn join(nick: &str) -> String {
    format!(
        "<presence to='{}/{nick}'><x xmlns='{}'><history maxstanzas='0'/></x></presence>",
        yard(),
        ns::MUC
    )
}

async fn enter(client: &mut Client, nick: &str) -> Result<()> {
    client.send(&join(nick)).await?;
    let subject = |came: &Document| came.root().child("subject", ns::CLIENT).map(drop);
    client.find("the end of the join", RECOVERY, subject).await
}

fn body_of(came: &Document) -> Option<String> {
    Some(came.root().child("body", ns::CLIENT)?.text().into_owned())
}

/// The bodies that come up to the last of both kinds.
async fn received(client: &mut Client, last: [&str; 2]) -> Result<Vec<String>> {
    let mut came = Vec::new();
    client
        .find("the last messages", RECOVERY, |document| {
            came.extend(body_of(document));
            let both = last.iter().all(|last| came.iter().any(|body| body == last));
            both.then_some(())
        })
        .await?;
    Ok(came)
}

/// Alice's first stream: it sends everything and reads nothing of what comes of it.
async fn unheard(login: &Login) -> Result<chaos_tests::wire::Wire> {
    let mut wire = authenticated(login).await?;
    let bind = format!("<iq type='set' id='b'><bind xmlns='{}'/></iq>", ns::BIND);
    wire.send(format!("{bind}{}", join("alice")).as_bytes())
        .await?;
    let row: String = all().into_iter().map(|(_, message)| message).collect();
    wire.send(row.as_bytes()).await?;
    Ok(wire)
}

/// Sends everything again, and one more of each kind; returns when the room has reflected all of its messages and all of
/// them are acknowledged: a retry is answered like the first time, or its client would try for ever.
async fn retry(alice: &mut Client) -> Result<()> {
    for (_, message) in all() {
        alice.send(&message).await?;
    }
    alice.send(&to_room("room-last")).await?;
    alice.send(&to_bob("user-last")).await?;
    alice.send_raw("<r xmlns='urn:xmpp:sm:3'/>").await?;
    let (mut reflected, mut acked, sent) = (Vec::new(), 0, alice.sent());
    while acked < sent || reflected.len() <= MESSAGES {
        match alice.next(RECOVERY).await? {
            Incoming::Acked(h) => acked = h,
            Incoming::Element(came) => reflected.extend(body_of(&came)),
            Incoming::Closed(why) => anyhow::bail!("the stream ended: {why}"),
        }
    }
    reflected.sort();
    let mut expected = bodies("room");
    expected.sort();
    ensure!(reflected == expected, "reflected: {reflected:?}");
    Ok(())
}

async fn archived(client: &mut Client, archive: &str, prefix: &str) -> Result<()> {
    for forward in [true, false] {
        let rows = read_archive(client, archive, forward).await?;
        let rows: Vec<String> = rows.into_iter().map(|(body, _)| body).collect();
        ensure!(rows == bodies(prefix), "the archive of {archive}: {rows:?}");
    }
    Ok(())
}

async fn story() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users(["alice", "bob", "host"]).await?;
    pool.owners_settled().await?;
    // Alice's node owns the room, and dies with what it remembers.
    let owner = pool.owner_of(&yard(), 1).await?.unwrap_or(1);
    let others: Vec<u64> = pool.ids().into_iter().filter(|id| *id != owner).collect();
    let (elsewhere, bobs) = (others[0], others[1]);
    let mut host = Client::connect(&pool.login(bobs, "host")).await?;
    enter(&mut host, "host").await?;
    let instant = format!(
        "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'/></query>",
        ns::MUC_OWNER
    );
    host.iq_ok("set", Some(&yard()), &instant).await?;
    let mut bob = online(&pool.login(bobs, "bob")).await?;
    enter(&mut bob, "bob").await?;

    let wire = unheard(&pool.login(owner, "alice")).await?;
    let last = [
        format!("room-{}", MESSAGES - 1),
        format!("user-{}", MESSAGES - 1),
    ];
    let first = received(&mut bob, [&last[0], &last[1]]).await?;
    ensure!(first.len() == 2 * MESSAGES, "the first time: {first:?}");
    // What bob has is committed; alice has not even looked.
    pool.kill(owner)?;
    drop(wire);

    let login = Login {
        stream_management: true,
        ..pool.login(elsewhere, "alice")
    };
    let mut alice = Client::connect(&login).await?;
    enter(&mut alice, "alice").await?;
    retry(&mut alice).await?;
    let again = received(&mut bob, ["room-last", "user-last"]).await?;
    ensure!(again.len() == 2, "delivered once more: {again:?}");
    archived(&mut alice, &yard(), "room").await?;
    archived(&mut alice, &format!("alice@{DOMAIN}"), "user").await?;
    archived(&mut bob, &format!("bob@{DOMAIN}"), "user").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_is_there_once() {
    story().await.expect("no doubles");
}

/// More than the messages of one sender that are remembered by their origin-ids.
const MANY: usize = 1_100;

/// A node that stands still for longer counts its clients' streams for over.
const FOR_LONG: Duration = Duration::from_secs(12);

/// What a node was sent right before it stood still has been sent again elsewhere when it goes on, and takes no effect any more,
/// however much was said meanwhile.
async fn said_to_a_frozen_node() -> Result<()> {
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.owners_settled().await?;
    pool.add_users(["alice", "bob"]).await?;
    let at = |node| Login {
        stream_management: true,
        ..pool.login(node, "alice")
    };
    let mut frozen = Client::connect(&at(3)).await?;
    pool.freeze(3).await?;
    let since = Instant::now();
    frozen.send(&to_bob("once")).await?;
    frozen
        .send_raw(&format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT))
        .await?;
    let mut alice = Client::connect(&at(1)).await?;
    alice.send(&to_bob("once")).await?;
    for number in 0..MANY {
        alice.send(&to_bob(&format!("more-{number}"))).await?;
    }
    acknowledged(&mut alice).await?;
    until("it has stood still for long", RECOVERY, async || {
        (since.elapsed() > FOR_LONG).then_some(())
    })
    .await?;
    pool.resume(3)?;
    // Whatever it makes of that: it has read it then.
    loop {
        match frozen.next(RECOVERY).await? {
            Incoming::Closed(_) => break,
            Incoming::Acked(h) if h >= frozen.sent() => bail!("acknowledged up to {h}"),
            Incoming::Acked(_) | Incoming::Element(_) => {}
        }
    }
    alice.send(&to_bob("last")).await?;
    acknowledged(&mut alice).await?;
    for (user, node) in [("alice", 3), ("bob", 3)] {
        let mut reader = Client::connect(&pool.login(node, user)).await?;
        let rows = read_archive(&mut reader, &format!("{user}@{DOMAIN}"), true).await?;
        let once = rows.iter().filter(|(body, _)| body == "once").count();
        ensure!(
            once == 1 && rows.len() == MANY + 2,
            "{user} has {} rows, {once} of them the one",
            rows.len()
        );
    }
    Ok(())
}

/// Waits until all that a client has sent is acknowledged.
async fn acknowledged(client: &mut Client) -> Result<()> {
    let sent = client.sent();
    client
        .send_raw(&format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT))
        .await?;
    loop {
        match client.next(RECOVERY).await? {
            Incoming::Acked(h) if h == sent => return Ok(()),
            Incoming::Closed(why) => bail!("the stream ended: {why}"),
            Incoming::Acked(_) | Incoming::Element(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_was_sent_before_it_stood_still_takes_no_effect_later() {
    said_to_a_frozen_node().await.expect("it is there once");
}
