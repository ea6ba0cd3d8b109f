//! Nodes that are emptied while people use them, and sessions that go from one to another.
//!
//! What is measured is printed on lines that begin with `FIGURES`; nothing is judged by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::client::{Client, Incoming, Login, Security, authenticated};
use chaos_tests::load::read_archive;
use chaos_tests::peer::{Came, Peer, message};
use chaos_tests::people::online;
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use chaos_tests::wait::until;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};
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

    pool.freeze(1).await?;
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

/// Who gets what probers write; never logged in.
const SINK: &str = "sink@localhost";

/// Writes one message after the other, each behind the acknowledgement of the one before.
struct Prober {
    client: Client,
    key: String,
    bodies: Vec<String>,
}

impl Prober {
    async fn begin(login: &Login) -> Result<Prober> {
        let mut login = login.clone();
        login.stream_management = true;
        let client = Client::connect(&login).await?;
        let key = client.jid().bare().to_string();
        Ok(Prober {
            client,
            key,
            bodies: Vec::new(),
        })
    }

    /// Until it is told to end; gives the longest time that an acknowledgement took in each phase.
    async fn run(
        mut self,
        phase: watch::Receiver<usize>,
    ) -> Result<(Prober, BTreeMap<usize, Duration>)> {
        let mut longest = BTreeMap::new();
        loop {
            let now = *phase.borrow();
            if now == END {
                return Ok((self, longest));
            }
            let body = format!("{now}-{}", self.bodies.len());
            let stanza = message(SINK, "chat", &body);
            self.bodies.push(body);
            let began = Instant::now();
            self.client.send(&stanza).await?;
            let request = format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT);
            self.client.send_raw(&request).await?;
            self.acked().await.with_context(|| self.key.clone())?;
            let took = longest.entry(now).or_insert(Duration::ZERO);
            *took = began.elapsed().max(*took);
        }
    }

    async fn acked(&mut self) -> Result<()> {
        loop {
            match self.client.next(LIMIT).await? {
                Incoming::Acked(h) if h >= self.client.sent() => return Ok(()),
                Incoming::Acked(_) => {}
                Incoming::Element(came) => {
                    let kind = came.root().attr("type");
                    ensure!(kind.as_deref() != Some("error"), "{}", came.source());
                }
                Incoming::Closed(why) => bail!("the stream ended: {why}"),
            }
        }
    }
}

/// The phase in which probers end.
const END: usize = usize::MAX;
const PROBERS: usize = 16;

async fn owners_of(pool: &Pool, keys: &[String]) -> Result<Vec<Option<u64>>> {
    let mut owners = Vec::new();
    for key in keys {
        owners.push(pool.owner_of(key, 1).await?);
    }
    Ok(owners)
}

/// Nodes are drained, one after the other, while users write whose owners they have: each message is acknowledged on the stream
/// it was sent on, and archived once and in its order.
async fn handed_over_under_load() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.owners_settled().await?;
    let users: Vec<String> = (0..PROBERS).map(|at| format!("prober{at}")).collect();
    pool.add_users(users.iter().map(String::as_str).chain(["sink"]))
        .await?;
    let (told, phase) = watch::channel(0);
    let mut running = JoinSet::new();
    let mut keys = Vec::new();
    for user in &users {
        let prober = Prober::begin(&pool.login(1, user)).await?;
        keys.push(prober.key.clone());
        running.spawn(prober.run(phase.clone()));
    }
    // Which keys changed their owner in which phase.
    let mut moved: Vec<(usize, usize)> = Vec::new();
    for (phase, node) in (1..).zip([2, 3, 2, 3]) {
        let before = owners_of(&pool, &keys).await?;
        told.send_replace(phase);
        until("the drain is granted", LIMIT, async || {
            pool.operate(1, node, "drain", &json!({})).await.ok()
        })
        .await?;
        pool.member_is(node, "drained", 1).await?;
        let after = until("every key has an owner that serves", LIMIT, async || {
            let owners = owners_of(&pool, &keys).await.ok()?;
            let serves = |owner: &Option<u64>| owner.is_some_and(|owner| owner != node);
            owners.iter().all(serves).then_some(owners)
        })
        .await?;
        let places = before.iter().zip(&after).enumerate();
        moved.extend(
            places
                .filter(|(_, (a, b))| a != b)
                .map(|(at, _)| (phase, at)),
        );
        told.send_replace(0);
        pool.operate(1, node, "undrain", &json!({})).await?;
        pool.ready(node).await?;
    }
    told.send_replace(END);
    let mut gaps = Vec::new();
    while let Some(ended) = running.join_next().await {
        let (mut prober, longest) = ended??;
        let at = keys.iter().position(|key| *key == prober.key);
        let at = at.context("a prober has a key")?;
        let own = moved.iter().filter(|(_, key)| *key == at);
        gaps.extend(own.filter_map(|(phase, _)| longest.get(phase).copied()));
        let key = prober.key.clone();
        let archive = read_archive(&mut prober.client, &key, true).await?;
        let archived: Vec<String> = archive.into_iter().map(|(body, _)| body).collect();
        ensure!(
            archived == prober.bodies,
            "{key} sent {} messages, and the archive has {}",
            prober.bodies.len(),
            archived.len()
        );
    }
    ensure!(
        moved.len() >= PROBERS / 2,
        "only {} keys moved",
        moved.len()
    );
    gaps.sort_unstable();
    let at = |percent: usize| gaps.get((gaps.len() - 1) * percent / 100);
    println!(
        "FIGURES longest wait for an acknowledgement while its owner was handed over: p50 {:?}, p99 {:?}, {} handovers",
        at(50).context("no gap")?,
        at(99).context("no gap")?,
        gaps.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_are_handed_over_without_a_loss() {
    handed_over_under_load()
        .await
        .expect("nobody notices but by waiting");
}

const SESSIONS_OF_A_USER: usize = 10;
/// Of each user's sessions so many can't be resumed.
const PLAIN: usize = 3;

/// Logins and resumptions under way at once.
const AT_ONCE: usize = 32;

/// How many users have sessions that are drained, all over TLS: of 300 sessions, or as many as `MUSTER_DRAIN_SESSIONS` says.
fn drained() -> Result<usize> {
    let sessions = std::env::var("MUSTER_DRAIN_SESSIONS").ok();
    let sessions: usize = sessions.map_or(Ok(300), |sessions| sessions.parse())?;
    Ok(sessions.div_ceil(SESSIONS_OF_A_USER))
}

/// How a user logs in there.
fn secured(pool: &Pool, node: u64, user: &str) -> Login {
    Login {
        security: Security::DirectTls,
        address: pool.node(node).clients_tls,
        ..pool.login(node, user)
    }
}

/// Tells the nodes where clients reach them.
async fn pool_with_addresses() -> Result<Pool> {
    let mut pool = Pool::prepare(&PoolSettings::nodes(3))?;
    for node in pool.ids() {
        let address = pool.node(node).clients.to_string();
        pool.set(node, "clients", "address", address)?;
    }
    pool.start_all()?;
    pool.all_ready().await?;
    Ok(pool)
}

/// A session that can't be resumed: its stream ends with another node's address, where its client logs in.
async fn sent_elsewhere(mut client: Client, hosts: &BTreeMap<String, u64>) -> Result<u64> {
    loop {
        let came = match client.next(DRAINED_WITHIN).await? {
            Incoming::Element(came) => came,
            Incoming::Closed(why) => bail!("no word of where to go: {why}"),
            Incoming::Acked(_) => continue,
        };
        let root = came.root();
        if root.name() == "error" && root.ns() == ns::STREAM {
            let host = root.child("see-other-host", ns::STREAM_ERROR);
            let host = host.with_context(|| came.source().to_owned())?;
            let node = hosts.get(&*host.text());
            return node.copied().with_context(|| came.source().to_owned());
        }
    }
}

/// The last that comes is `<a/>`, with all that was sent; the connection ends, and TLS with it, but the stream does not.
async fn ends_with_an_acknowledgement(peer: &mut Peer) -> Result<()> {
    let mut last = String::new();
    // Both `next` and TLS complain about ends that are none.
    loop {
        last = match timeout(DRAINED_WITHIN, peer.next()).await?? {
            Came::End => break,
            Came::Other(came) | Came::Stanza(came) => came.source().to_owned(),
        }
    }
    let h = peer.sent;
    ensure!(
        last.starts_with("<a ") && last.contains(&format!("h='{h}'")),
        "{} sent {h} stanzas, and hears at last {last:?}",
        peer.jid
    );
    Ok(())
}

/// How many sessions a node that is drained still has, and how many partitions it leads.
async fn left(pool: &Pool, node: u64) -> Option<(usize, u64)> {
    let control = &pool.node(node).control;
    let told = control.ok("GET", "/v1/progress", None).await.ok()?;
    let told = told.json().ok()?;
    let sessions = told["sessions_left"].as_u64()?;
    Some((sessions.try_into().ok()?, told["leaders_left"].as_u64()?))
}

/// A session that can: its connection ends without the end of the stream, and it goes on at any other node with all that was
/// sent to it, once and in its order. Gives how long it was without a connection.
async fn taken_along(
    mut peer: Peer,
    logins: [Login; 2],
    expected: usize,
    turns: Arc<Semaphore>,
) -> Result<Duration> {
    ends_with_an_acknowledgement(&mut peer).await?;
    let (began, mut tries) = (Instant::now(), 0);
    until("the session is resumed", DRAINED_WITHIN, async || {
        let _turn = turns.acquire().await.ok()?;
        tries += 1;
        match peer.resume(&logins[tries % 2]).await {
            Ok(()) => Some(Ok(())),
            // While it is on its way clients are told to try again; it is not gone.
            Err(error) => format!("{error:#}")
                .contains("<failed")
                .then_some(Err(error)),
        }
    })
    .await??;
    let away = began.elapsed();
    let bodies: Vec<String> = (0..expected).map(|number| number.to_string()).collect();
    while peer.bodies.len() < expected {
        let came = timeout(DRAINED_WITHIN, peer.next()).await??;
        ensure!(
            !matches!(came, Came::End),
            "{} has lost its stream",
            peer.jid
        );
    }
    ensure!(peer.bodies == bodies, "{} got {:?}", peer.jid, peer.bodies);
    Ok(away)
}

const MESSAGES: usize = 5;

/// How long a drain of thousands of sessions may take on a busy machine.
const DRAINED_WITHIN: Duration = Duration::from_secs(600);

/// One of a crowd.
enum Member {
    Plain(Client),
    Resumable(Box<Peer>, String),
}

/// Everybody logs in on node 3.
async fn crowd(pool: &Pool, users: &[String]) -> Result<Vec<Member>> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut coming = JoinSet::new();
    for user in users {
        for at in 0..SESSIONS_OF_A_USER {
            let (login, user) = (secured(pool, 3, user), user.clone());
            let turns = Arc::clone(&turns);
            coming.spawn(async move {
                let _turn = turns.acquire().await?;
                if at < PLAIN {
                    return anyhow::Ok(Member::Plain(Client::connect(&login).await?));
                }
                Ok(Member::Resumable(
                    Box::new(Peer::begin(&login).await?),
                    user,
                ))
            });
        }
    }
    coming.join_all().await.into_iter().collect()
}

async fn drained_with_sessions() -> Result<()> {
    let users = drained()?;
    let pool = pool_with_addresses().await?;
    let users: Vec<String> = (0..users).map(|at| format!("user{at}")).collect();
    pool.add_users(users.iter().map(String::as_str).chain(["writer"]))
        .await?;
    let own = pool.node(3).clients.to_string();
    let hosts: BTreeMap<String, u64> = [1, 2]
        .map(|node| (pool.node(node).clients.to_string(), node))
        .into();
    let crowd = crowd(&pool, &users).await?;
    let mut writer = Client::connect(&pool.login(1, "writer")).await?;
    let (mut moving, mut leaving) = (JoinSet::new(), JoinSet::new());
    let (turns, mut targets) = (Arc::new(Semaphore::new(AT_ONCE)), Vec::new());
    for member in crowd {
        match member {
            Member::Plain(client) => {
                let hosts = hosts.clone();
                leaving.spawn(async move { sent_elsewhere(client, &hosts).await });
            }
            Member::Resumable(peer, user) => {
                ensure!(
                    peer.location.as_ref() == Some(&own),
                    "it is found best where it is"
                );
                targets.push(peer.jid.clone());
                let logins = [1, 2].map(|node| secured(&pool, node, &user));
                moving.spawn_local(taken_along(*peer, logins, MESSAGES, Arc::clone(&turns)));
            }
        }
    }
    let began = Instant::now();
    let pace = json!({ "sessions_per_second": 300 });
    until("the drain is granted", LIMIT, async || {
        pool.operate(1, 3, "drain", &pace).await.ok()
    })
    .await?;
    for number in 0..MESSAGES {
        for target in &targets {
            writer
                .send(&message(target, "chat", &number.to_string()))
                .await?;
        }
    }
    let (all, mut steps) = (targets.len() + leaving.len(), Vec::new());
    until("node 3 is drained", DRAINED_WITHIN, async || {
        steps.extend(left(&pool, 3).await);
        let seen = pool.operations(1).await.ok()?;
        (seen["members"][2]["state"] == json!("drained")).then_some(())
    })
    .await?;
    // What others lead is heard of a moment later than it is so.
    let going = steps
        .iter()
        .filter(|(sessions, _)| *sessions < all * 9 / 10);
    let leaders: Vec<u64> = going.map(|(_, leaders)| *leaders).collect();
    ensure!(
        !leaders.is_empty() && leaders.iter().all(|leaders| *leaders == 0),
        "what a node leads goes before its sessions: {steps:?}"
    );
    let took = began.elapsed();
    let mut away = Vec::new();
    while let Some(moved) = moving.join_next().await {
        away.push(moved??);
    }
    let mut nodes = Vec::new();
    while let Some(left) = leaving.join_next().await {
        nodes.push(left??);
    }
    away.sort_unstable();
    let at = |percent: usize| away.get((away.len().max(1) - 1) * percent / 100);
    println!(
        "FIGURES drain of {} sessions, over TLS: {took:?}; {} resumed of {}, without a connection for p50 {:?}, p99 {:?}; {} sent to \
         another node; 0 lost, 0 doubled of {} messages",
        targets.len() + nodes.len(),
        away.len(),
        targets.len(),
        at(50),
        at(99),
        nodes.len(),
        targets.len() * MESSAGES
    );
    // By turns.
    ensure!(nodes.contains(&1) && nodes.contains(&2), "{nodes:?}");
    let told = nodes.first().context("somebody was told where to go")?;
    online(&pool.login(*told, "user0")).await?.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_many_sessions_is_drained() {
    // On one thread: the compiler can't tell that what they do may change threads.
    LocalSet::new()
        .run_until(drained_with_sessions())
        .await
        .expect("every session goes on elsewhere");
}

/// The others could not carry what a node has: its drain is refused, unless that is meant.
async fn refused_for_capacity() -> Result<()> {
    let settings = PoolSettings::nodes(3).set("clients", "sessions_max", 4);
    let pool = Pool::start(&settings).await?;
    pool.add_users(["alice", "bob"]).await?;
    let mut all = Vec::new();
    for node in [1, 2, 3] {
        for _ in 0..3 {
            all.push(online(&pool.login(node, "alice")).await?);
        }
    }
    all.push(online(&pool.login(3, "bob")).await?);
    ensure!(
        Client::connect(&pool.login(3, "bob")).await.is_err(),
        "a node has as many sessions as it may"
    );
    // Ten sessions, where two nodes may have eight.
    for what in ["drain?dry_run=true", "remove?dry_run=true"] {
        until("it is known what each node has", LIMIT, async || {
            let word = pool.refused(1, 3, what, &json!({})).await.ok()?;
            (word == "capacity-would-be-exceeded").then_some(())
        })
        .await?;
    }
    for what in ["drain", "remove"] {
        let word = pool.refused(2, 3, what, &json!({})).await?;
        ensure!(word == "capacity-would-be-exceeded", "{what}: {word}");
    }
    pool.operate(1, 3, "drain?over_capacity=true&dry_run=true", &json!({}))
        .await?;
    pool.operate(1, 3, "drain?over_capacity=true", &json!({}))
        .await?;
    pool.member_is(3, "drained", 1).await?;
    let audit = pool.node(1).control.ok("GET", "/v1/audit", None).await?;
    ensure!(
        audit.body.contains("node 3, over capacity"),
        "who did it is not written down: {}",
        audit.body
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_others_cannot_carry_is_not_drained() {
    refused_for_capacity()
        .await
        .expect("the operator is told in time");
}

/// The partitions in which a node has a vote, and those of which its replica holds something.
async fn held(pool: &Pool, node: u64) -> Option<(Vec<u64>, Vec<u64>)> {
    let status = pool.status(node).await.ok()?;
    let rows = status["partitions"].as_array()?;
    let ids = |fits: &dyn Fn(&Value) -> bool| {
        let rows = rows.iter().filter(|row| fits(row));
        rows.filter_map(|row| row["id"].as_u64())
            .collect::<Vec<_>>()
    };
    let votes = |row: &Value| {
        let voters = row["voters"].as_array();
        voters.is_some_and(|voters| voters.contains(&json!(node)))
    };
    let holds = |row: &Value| !row["applied"].is_null() || !row["last_log"].is_null();
    Some((ids(&votes), ids(&holds)))
}

/// Each node holds what it has a vote in and nothing else, on its disk either.
async fn only_what_counts_is_held(pool: &Pool) -> Result<()> {
    for node in pool.running() {
        let what = format!("node {node} holds what counts on it");
        let (votes, _) = until(&what, LIMIT, async || {
            let (votes, holds) = held(pool, node).await?;
            (votes == holds).then_some((votes, holds))
        })
        .await?;
        let snapshots = std::fs::read_dir(pool.data_dir(node).join("snapshots"))?;
        for file in snapshots {
            let name = file?.file_name().to_string_lossy().into_owned();
            let group = name
                .split('-')
                .nth(1)
                .and_then(|group| group.parse::<u64>().ok());
            let counts = group.is_none_or(|group| group == 0 || votes.contains(&(group - 1)));
            ensure!(counts, "node {node} has {name}");
        }
    }
    Ok(())
}

async fn given_away() -> Result<()> {
    let settings = PoolSettings::nodes(4)
        .beginning_with(3)
        .set("raft", "snapshot_interval", "2 s");
    let mut pool = Pool::start(&settings).await?;
    let users: Vec<String> = (0..PROBERS).map(|at| format!("user{at}")).collect();
    pool.add_users(users.iter().map(String::as_str).chain(["sink"]))
        .await?;
    for user in &users {
        let mut prober = Prober::begin(&pool.login(1, user)).await?;
        let stanza = message(SINK, "chat", "kept");
        prober.client.send(&stanza).await?;
        let request = format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT);
        prober.client.send_raw(&request).await?;
        prober.acked().await?;
    }
    pool.let_in(4, 1).await?;
    pool.placed(3, 1).await?;
    // What is begun when a node dies is finished when it is back.
    pool.kill(2)?;
    pool.spawn(2)?;
    pool.ready(2).await?;
    only_what_counts_is_held(&pool).await?;
    let before = pool.replicas_agree().await?;
    // They come back, to replicas that begin empty.
    pool.operate(1, 4, "remove", &json!({})).await?;
    pool.member_is(4, "removed", 1).await?;
    until("the removed node has ended", LIMIT, async || pool.ended(4)).await?;
    pool.placed(3, 1).await?;
    let after = pool.replicas_agree().await?;
    ensure!(
        after.archive_rows >= before.archive_rows,
        "{before:?} {after:?}"
    );
    for user in &users {
        let mut reader = online(&pool.login(2, user)).await?;
        let key = format!("{user}@{DOMAIN}");
        let archive = read_archive(&mut reader, &key, true).await?;
        let bodies: Vec<&str> = archive.iter().map(|(body, _)| body.as_str()).collect();
        ensure!(bodies == ["kept"], "{user}: {bodies:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_away_is_removed_and_may_come_back() {
    given_away()
        .await
        .expect("a replica is where it counts, and nowhere else");
}
