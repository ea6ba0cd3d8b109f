//! Two nodes that don't reach each other while both are alive: their clients go on, by a relay or under another owner.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chaos_tests::cable::{Cable, Forwarder};
use chaos_tests::client::Client;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, ROOMS};
use chaos_tests::wait::until;
use serde_json::json;
use xmpp::ns;

/// From the broken connection to the first accepted message; generous because tests share two cores. What it took is
/// printed.
const LIMIT: Duration = Duration::from_secs(30);

/// Messages said in the room while the connection is broken.
const SAID: usize = 40;

/// Users of many partitions.
fn users() -> impl Iterator<Item = String> {
    (0..40).map(|number| format!("user{number}"))
}

/// A pool whose nodes are joined by cables, one for each direction.
struct Wired {
    pool: Pool,
    cables: Vec<(u64, u64, Forwarder)>,
}

impl Wired {
    async fn start(nodes: u16) -> Result<Wired> {
        let mut pool = Pool::prepare(&PoolSettings::nodes(nodes))?;
        let mut cables = Vec::new();
        for from in pool.ids() {
            for to in pool.ids().into_iter().filter(|to| *to != from) {
                let near = std::net::SocketAddr::new(pool.node(from).clients.ip(), 0);
                let cable = Forwarder::start(near, pool.cluster_address(to)?).await?;
                pool.set_member(from, to, cable.address)?;
                cables.push((from, to, cable));
            }
        }
        pool.start_all()?;
        pool.all_ready().await?;
        pool.add_users(["alice", "bob", "carol"]).await?;
        let others = users().collect::<Vec<_>>();
        pool.add_users(others.iter().map(String::as_str)).await?;
        Ok(Wired { pool, cables })
    }

    fn set(&self, from: u64, to: u64, cable: Cable) {
        for (near, far, forwarder) in &self.cables {
            if (*near, *far) == (from, to) {
                forwarder.set(cable);
            }
        }
    }

    /// A room that this node owns, while nobody moves it.
    async fn room_owned_by(&self, owner: u64) -> Result<String> {
        let room = until("a room owned by the node", LIMIT, async || {
            for number in 0..64 {
                let room = format!("hall{number}@{ROOMS}");
                if self.pool.owner_of(&room, owner).await.ok()? == Some(owner) {
                    return Some(room);
                }
            }
            None
        });
        room.await
    }

    /// A user owned by this node, while nobody moves it.
    async fn user_owned_by(&self, owner: u64) -> Result<String> {
        let user = until("a user owned by the node", LIMIT, async || {
            for user in users() {
                let key = format!("{user}@{DOMAIN}");
                if self.pool.owner_of(&key, owner).await.ok()? == Some(owner) {
                    return Some(user);
                }
            }
            None
        });
        user.await
    }

    /// Through whom a node reaches another, as it says itself.
    async fn relay(&self, from: u64, to: u64) -> Option<u64> {
        let status = self.pool.status(from).await.ok()?;
        let members = status["members"].as_array()?;
        let member = members.iter().find(|member| member["id"] == json!(to))?;
        member["relay"].as_u64()
    }
}

async fn enter(client: &mut Client, room: &str, nick: &str, is_first: bool) -> Result<()> {
    let join = format!(
        "<presence to='{room}/{nick}'><x xmlns='{}'/></presence>",
        ns::MUC
    );
    client.send(&join).await?;
    let own = format!("{room}/{nick}");
    client
        .find("the own occupant", LIMIT, |came| {
            let root = came.root();
            let is_own = root.name() == "presence" && root.attr("from").as_deref() == Some(&own);
            is_own.then_some(())
        })
        .await?;
    if is_first {
        let form = format!(
            "<query xmlns='{}'><x xmlns='jabber:x:data' type='submit'/></query>",
            ns::MUC_OWNER
        );
        client.iq_ok("set", Some(room), &form).await?;
    }
    Ok(())
}

/// The next body said in the room, within the limit.
async fn hear(client: &mut Client) -> Result<String> {
    client
        .find("a message in the room", LIMIT, |came| {
            let root = came.root();
            let is_said =
                root.name() == "message" && root.attr("type").as_deref() == Some("groupchat");
            let body = root.child("body", ns::CLIENT).filter(|_| is_said)?;
            Some(body.text().to_string())
        })
        .await
}

/// Says one thing after the other, each when the one before has come back; gives the longest wait.
async fn talk(client: &mut Client, room: &str, name: &str) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for number in 0..SAID {
        let said = Instant::now();
        let body = format!("{name} {number}");
        client
            .send(&format!(
                "<message type='groupchat' id='{name}{number}' to='{room}'><body>{body}</body>\
                 <origin-id xmlns='urn:xmpp:sid:0' id='{name}{number}'/></message>"
            ))
            .await?;
        loop {
            let heard = hear(client).await?;
            if heard == body {
                break;
            }
            if heard.starts_with(name) {
                bail!("{name} heard {heard:?} in place of {body:?}");
            }
        }
        longest = longest.max(said.elapsed());
    }
    Ok(longest)
}

/// Everything that was said, once and in order.
async fn heard_all(client: &mut Client, name: &str) -> Result<()> {
    for number in 0..SAID {
        let heard = hear(client).await?;
        if heard != format!("{name} {number}") {
            bail!(
                "{} heard {heard:?} in place of {name} {number}",
                client.jid()
            );
        }
    }
    Ok(())
}

/// Alice is on the node that doesn't reach the room's owner, where bob is; carol is on a third.
async fn goes_on(wired: &Wired, cuts: &[(u64, u64, Cable)], title: &str) -> Result<()> {
    let room = wired.room_owned_by(2).await?;
    let mut clients = Vec::new();
    for (node, user) in [(1, "alice"), (2, "bob"), (3, "carol")] {
        let mut client = Client::connect(&wired.pool.login(node, user)).await?;
        enter(&mut client, &room, user, node == 1)
            .await
            .with_context(|| format!("{user} enters"))?;
        clients.push(client);
    }
    for (from, to, cable) in cuts {
        wired.set(*from, *to, *cable);
    }
    let longest = talk(&mut clients[0], &room, "alice").await?;
    println!(
        "{title}: the longest wait for a message was {} ms",
        longest.as_millis()
    );
    for client in &mut clients[1..] {
        heard_all(client, "alice").await?;
    }
    // And the other way: what bob says reaches alice.
    talk(&mut clients[1], &room, "bob").await?;
    heard_all(&mut clients[0], "bob").await?;
    heard_all(&mut clients[2], "bob").await
}

/// What a user of node 1's partitions writes to one of node 2's goes by way of their outbox, which takes the relay too.
async fn chat(wired: &Wired) -> Result<()> {
    let mut clients = Vec::new();
    for owner in [1, 2] {
        let user = wired.user_owned_by(owner).await?;
        let mut client = Client::connect(&wired.pool.login(3, &user)).await?;
        client.send("<presence/>").await?;
        clients.push(client);
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let id = format!("chat-{from}");
        let address = clients[to].jid().bare();
        clients[from]
            .send(&format!(
                "<message type='chat' id='{id}' to='{address}'><body>hello</body></message>"
            ))
            .await?;
        let comes = |came: &xmpp::scan::Document| {
            (came.root().attr("id").as_deref() == Some(&id)).then_some(())
        };
        clients[to].find(&id, LIMIT, comes).await?;
    }
    Ok(())
}

async fn three_nodes(cuts: &[(u64, u64, Cable)], title: &str) -> Result<()> {
    let wired = Wired::start(3).await?;
    goes_on(&wired, cuts, title).await?;
    // Nodes 1 and 2 don't meet, so in the end node 3 leads everything; whoever reaches all is the better owner.
    let room = format!("hall0@{ROOMS}");
    until("node 3 owns the room", LIMIT, async || {
        let owner = wired.pool.owner_of(&room, 1).await.ok()?;
        (owner == Some(3)).then_some(())
    })
    .await?;
    for (from, to, _) in cuts {
        wired.set(*from, *to, Cable::Whole);
    }
    until("the nodes meet again", LIMIT, async || {
        let relays = (wired.relay(1, 2).await, wired.relay(2, 1).await);
        (relays == (None, None)).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_between_two_nodes() {
    let cuts = [(1, 2, Cable::Cut), (2, 1, Cable::Cut)];
    let story = three_nodes(&cuts, "both directions cut");
    story.await.expect("the story ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_broken_one_way() {
    let story = three_nodes(&[(1, 2, Cable::Cut)], "towards the owner cut");
    story.await.expect("the story ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_broken_the_other_way() {
    let story = three_nodes(&[(2, 1, Cable::Cut)], "from the owner cut");
    story.await.expect("the story ends well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pulled_cable_between_two_nodes() {
    let cuts = [(1, 2, Cable::Silent), (2, 1, Cable::Silent)];
    let story = three_nodes(&cuts, "cable pulled");
    story.await.expect("the story ends well");
}

/// In this ring every node meets two others, so that no voter is better than the owner: frames go by one hop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_voter_reaches_more_frames_go_by_one_hop() {
    let story = async {
        let wired = Wired::start(4).await?;
        let cut = |(from, to)| (from, to, Cable::Cut);
        let cuts = [(1, 2), (2, 1), (3, 4), (4, 3)].map(cut);
        goes_on(&wired, &cuts, "a ring of four").await?;
        let relay = until("a relay from node 1 to node 2", LIMIT, async || {
            wired.relay(1, 2).await
        });
        let relay = relay.await?;
        if ![3, 4].contains(&relay) {
            bail!("node {relay} can't be a relay between 1 and 2");
        }
        chat(&wired).await
    };
    story.await.expect("the story ends well");
}

/// The figure is printed; the limit only says that it is a matter of seconds, not of the ten that logins take to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_lost_the_quorum_says_so_at_once() {
    let story = async {
        let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
        pool.kill(2)?;
        pool.kill(3)?;
        let killed = Instant::now();
        let control = pool.node(1).control.clone();
        let refusal = until("node 1 is not ready", Duration::from_secs(8), async || {
            let answer = control.request("GET", "/health/ready", None).await.ok()?;
            (answer.status == 503).then_some(answer)
        });
        let message = refusal.await?.json()?["message"].to_string();
        println!(
            "not ready {} ms after the kill: {message}",
            killed.elapsed().as_millis()
        );
        if !message.contains("no quorum") && !message.contains("no owner") {
            bail!("the sentence does not help: {message}");
        }
        let standing = until("the standing", Duration::from_secs(8), async || {
            let status = pool.status(1).await.ok()?;
            let standing = status["members"][0]["standing"].as_str()?.to_owned();
            (standing != "in-touch").then_some(standing)
        });
        let standing = standing.await?;
        if !["no-quorum", "no-logins"].contains(&standing.as_str()) {
            bail!("standing: {standing}");
        }
        pool.start_all()?;
        pool.all_ready().await?;
        let told = until("every node's standing", LIMIT, async || {
            let status = pool.status(1).await.ok()?;
            let members = status["members"].as_array()?;
            let all = members.iter().all(|member| {
                member["standing"] == json!("in-touch")
                    && member["reaches"]
                        .as_array()
                        .is_some_and(|nodes| nodes.len() == 2)
            });
            all.then_some(())
        });
        told.await
    };
    story.await.expect("the story ends well");
}
