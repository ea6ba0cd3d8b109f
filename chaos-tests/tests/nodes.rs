//! What users of different nodes see of each other, and of a node that dies.

use std::time::{Duration, Instant};

use anyhow::Result;
use chaos_tests::client::{Client, Login};
use chaos_tests::people::{befriend, online, presence_of};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, ROOMS};
use chaos_tests::wait::until;
use xmpp::ns;
use xmpp::scan::Document;

/// A dead node's users must be shown offline by then.
const OFFLINE_WITHIN: Duration = Duration::from_secs(10);

const LIMIT: Duration = Duration::from_secs(15);

fn bare(user: &str) -> String {
    format!("{user}@{DOMAIN}")
}

fn body_of(document: &Document, body: &str) -> Option<()> {
    let found = document.root().child("body", ns::CLIENT)?;
    (found.text() == body).then_some(())
}

async fn pool_with(users: &[&str]) -> Result<Pool> {
    let pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.add_users(users.iter().copied()).await?;
    Ok(pool)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_different_nodes_chat_and_see_each_other() {
    let story = async {
        let pool = pool_with(&["alice", "bob", "carol"]).await?;
        let mut alice = online(&pool.login(1, "alice")).await?;
        let mut bob = online(&pool.login(2, "bob")).await?;
        befriend(&mut alice, &mut bob).await?;
        alice
            .send(&format!(
                "<message type='chat' to='{}'><body>hi bob</body></message>",
                bare("bob")
            ))
            .await?;
        bob.find("alice's message", LIMIT, |came| body_of(came, "hi bob"))
            .await?;
        let back = format!(
            "<message type='chat' to='{}'><body>hi alice</body></message>",
            alice.jid()
        );
        bob.send(&back).await?;
        alice
            .find("bob's message", LIMIT, |came| body_of(came, "hi alice"))
            .await?;

        let mut carol = online(&pool.login(3, "carol")).await?;
        let room = format!("hall@{ROOMS}");
        for (client, nick) in [
            (&mut alice, "Alice"),
            (&mut bob, "Bob"),
            (&mut carol, "Carol"),
        ] {
            client
                .send(&format!(
                    "<presence to='{room}/{nick}'><x xmlns='{}'/></presence>",
                    ns::MUC
                ))
                .await?;
            let own = format!("{room}/{nick}");
            client
                .find("the own occupant", LIMIT, |came| {
                    presence_of(came, &own, None)
                })
                .await?;
            if nick == "Alice" {
                let form = format!(
                    "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'/></query>",
                    ns::MUC_OWNER
                );
                client.iq_ok("set", Some(&room), &form).await?;
            }
        }
        carol
            .send(&format!(
                "<message type='groupchat' to='{room}'><body>hi all</body></message>"
            ))
            .await?;
        for client in [&mut alice, &mut bob, &mut carol] {
            client
                .find("carol's message", LIMIT, |came| body_of(came, "hi all"))
                .await?;
        }
        bob.close().await?;
        let bob_gone = bare("bob");
        alice
            .find("bob's end", LIMIT, |came| {
                presence_of(came, &bob_gone, Some("unavailable"))
            })
            .await?;
        anyhow::Ok(())
    };
    story.await.expect("the story ends well");
}

/// P14: presence converges, without the dead node's help and without a ghost when its user comes back elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_nodes_users_go_offline() {
    let story = async {
        let mut pool = pool_with(&["alice", "bob"]).await?;
        for dying in pool.ids() {
            let living = pool
                .ids()
                .into_iter()
                .find(|id| *id != dying)
                .unwrap_or(dying);
            let mut alice = online(&pool.login(living, "alice")).await?;
            let mut bob = online(&pool.login(dying, "bob")).await?;
            if dying == 1 {
                befriend(&mut alice, &mut bob).await?;
            }
            let bob_full = bob.jid().as_str().to_owned();
            if dying != 1 {
                alice
                    .find("bob", LIMIT, |came| presence_of(came, &bob_full, None))
                    .await?;
            }
            pool.kill(dying)?;
            let killed = Instant::now();
            let gone = alice.find("bob's end", OFFLINE_WITHIN, |came| {
                presence_of(came, &bob_full, Some("unavailable"))
            });
            gone.await?;
            println!(
                "shown offline {} ms after the kill",
                killed.elapsed().as_millis()
            );
            // The node stays dead, bob comes back on the other survivor.
            let other = pool
                .running()
                .into_iter()
                .find(|id| *id != living)
                .unwrap_or(living);
            let bob_again = online(&pool.login(other, "bob")).await?;
            let again = bob_again.jid().as_str().to_owned();
            alice
                .find("bob again", LIMIT, |came| presence_of(came, &again, None))
                .await?;
            bob_again.close().await?;
            alice.close().await?;
            pool.spawn(dying)?;
            pool.ready(dying).await?;
        }
        anyhow::Ok(())
    };
    story.await.expect("the story ends well");
}

/// A minority can't acknowledge anything, and a healed pool serves again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_acknowledged() {
    let story = async {
        let mut pool = pool_with(&["alice", "bob"]).await?;
        let login = Login {
            stream_management: true,
            ..pool.login(1, "alice")
        };
        let mut alice = Client::connect(&login).await?;
        pool.kill(2)?;
        pool.kill(3)?;
        let message = format!(
            "<message type='chat' id='lonely' to='{}'><body>lonely</body></message>",
            bare("bob")
        );
        alice.send(&message).await?;
        alice
            .send_raw(&format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT))
            .await?;
        // Within the time to settle: either an h that leaves it out, or the end of the stream; never an error.
        loop {
            match alice.next(Duration::from_secs(20)).await {
                Ok(chaos_tests::client::Incoming::Acked(h)) => {
                    anyhow::ensure!(h == 0, "acknowledged by a minority")
                }
                Ok(chaos_tests::client::Incoming::Closed(_)) => break,
                Ok(chaos_tests::client::Incoming::Element(came)) => {
                    anyhow::ensure!(
                        came.root().attr("type").as_deref() != Some("error"),
                        "{}",
                        came.source()
                    );
                }
                Err(error) => {
                    return Err(error.context("the stream of an unknown outcome ends after 10 s"));
                }
            }
        }
        pool.start_all()?;
        pool.all_ready().await?;
        let login = pool.login(1, "alice");
        until("alice logs in again", LIMIT, async || {
            Client::connect(&login).await.ok()
        })
        .await?;
        anyhow::Ok(())
    };
    story.await.expect("the story ends well");
}
