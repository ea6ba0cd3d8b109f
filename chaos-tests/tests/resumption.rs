//! Sessions whose connections are lost (XEP-0198 §5): resumed exactly, on any node, as long as one has them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{Client, Login};
use chaos_tests::load::read_archive;
use chaos_tests::peer::{Came, Peer, message};
use chaos_tests::pool::{Pool, PoolSettings, ROOMS};
use tokio::sync::Barrier;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, interval, timeout};
use xmpp::ns;
use xmpp::scan::Document;

const LIMIT: Duration = Duration::from_secs(20);

/// How often a client tries to come back.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Romeo and Juliet, friends; Juliet's session can be resumed.
async fn friends(pool: &Pool, romeos: u64, juliets: u64) -> Result<(Client, Peer)> {
    pool.add_users(["romeo", "juliet"]).await?;
    let mut romeo = Client::connect(&pool.login(romeos, "romeo")).await?;
    let mut juliet = Peer::begin(&pool.login(juliets, "juliet")).await?;
    romeo.send("<presence/>").await?;
    romeo
        .send("<presence type='subscribe' to='juliet@localhost'/>")
        .await?;
    juliet.send("<presence/>".into()).await?;
    juliet
        .find("request", |_, stanza| {
            stanza.root().attr("type").as_deref() == Some("subscribe")
        })
        .await?;
    juliet
        .send("<presence type='subscribed' to='romeo@localhost'/>".into())
        .await?;
    let jid = juliet.jid.clone();
    romeo
        .find("juliet's presence", LIMIT, |stanza| {
            shows(stanza, &jid, None).then_some(())
        })
        .await?;
    Ok((romeo, juliet))
}

fn shows(stanza: &Document, from: &str, kind: Option<&str>) -> bool {
    let root = stanza.root();
    root.name() == "presence"
        && root.attr("from").as_deref() == Some(from)
        && root.attr("type").as_deref() == kind
}

async fn time_is_over() -> Result<()> {
    let settings = PoolSettings::nodes(1).set("stream_management", "resume_within", "1s");
    let pool = Pool::start(&settings).await?;
    let (mut romeo, mut juliet) = friends(&pool, 1, 1).await?;
    juliet.wire = None;
    let jid = juliet.jid.clone();
    romeo
        .find("juliet's end", LIMIT, |stanza| {
            shows(stanza, &jid, Some("unavailable")).then_some(())
        })
        .await?;
    romeo
        .send(&message("juliet@localhost", "chat", "later"))
        .await?;
    let answer = juliet.ask(&pool.login(1, "juliet")).await?;
    let gone = answer.root().is("failed", ns::STREAM_MANAGEMENT)
        && answer.source().contains("item-not-found");
    ensure!(gone, "{}", answer.source());
    // The same stream goes on with a new session, which gets what the old one did not.
    juliet.bind().await?;
    juliet.send("<presence/>".into()).await?;
    juliet
        .find("message", |peer, _| peer.bodies == ["later"])
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_when_nobody_comes_back_in_time() {
    time_is_over().await.expect("the session ends in its time");
}

/// A stop of the node moves the session; the client's stream is not ended, its connection is.
async fn stopped() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.owners_settled().await?;
    let (mut romeo, mut juliet) = friends(&pool, 2, 1).await?;
    let room = format!("den@{ROOMS}");
    juliet
        .send(format!(
            "<presence to='{room}/juliet'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
        ))
        .await?;
    juliet
        .send(format!("<iq type='set' id='c1' to='{room}'><query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>"))
        .await?;
    juliet
        .find("answer", |_, stanza| {
            stanza.root().attr("id").as_deref() == Some("c1")
        })
        .await?;
    let login = pool.login(3, "juliet");
    let stop = pool.stop(1);
    let ends = async {
        let mut last = String::new();
        loop {
            // `next` complains about the end of the stream.
            last = match timeout(LIMIT, juliet.next()).await?? {
                Came::End => break,
                Came::Other(came) | Came::Stanza(came) => came.source().to_owned(),
            }
        }
        let h = juliet.sent;
        ensure!(
            last.starts_with("<a ") && last.contains(&format!("h='{h}'")),
            "of {h} stanzas is said at last: {last:?}"
        );
        romeo
            .send(&message("juliet@localhost", "chat", "meanwhile"))
            .await?;
        juliet.resume(&login).await?;
        juliet
            .find("message", |peer, _| peer.bodies == ["meanwhile"])
            .await?;
        anyhow::Ok(())
    };
    let (stopped, ended) = tokio::join!(stop, ends);
    stopped?;
    ended?;
    juliet.send(message(&room, "groupchat", "still in")).await?;
    juliet
        .find("reflection", |peer, _| {
            peer.bodies.contains(&"still in".to_owned())
        })
        .await?;
    juliet
        .send(message("romeo@localhost", "chat", "seen?"))
        .await?;
    romeo
        .find("juliet's message", LIMIT, |stanza| {
            assert!(
                !shows(stanza, &juliet.jid, Some("unavailable")),
                "juliet was shown as gone"
            );
            (stanza.root().name() == "message").then_some(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_sends_its_sessions_away() {
    stopped().await.expect("the session goes on elsewhere");
}

/// Where a session whose node was stopped waits for its client, it is shown to those who come, until its time is over.
async fn moved_and_left() -> Result<()> {
    let settings = PoolSettings::nodes(3).set("stream_management", "resume_within", "15s");
    let mut pool = Pool::start(&settings).await?;
    pool.owners_settled().await?;
    let (mut romeo, juliet) = friends(&pool, 2, 1).await?;
    pool.stop(1).await?;
    let jid = juliet.jid.clone();
    let mut second = Client::connect(&pool.login(3, "romeo")).await?;
    second.send("<presence/>").await?;
    second
        .find("juliet, who is away", LIMIT, |stanza| {
            shows(stanza, &jid, None).then_some(())
        })
        .await?;
    for client in [&mut romeo, &mut second] {
        client
            .find("juliet's end", LIMIT, |stanza| {
                shows(stanza, &jid, Some("unavailable")).then_some(())
            })
            .await?;
    }
    let mut juliet = juliet;
    juliet.wire = None;
    let answer = juliet.ask(&pool.login(3, "juliet")).await?;
    let gone = answer.root().is("failed", ns::STREAM_MANAGEMENT)
        && answer.source().contains("item-not-found");
    ensure!(gone, "{}", answer.source());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_session_is_shown_until_its_time_is_over() {
    moved_and_left()
        .await
        .expect("it is shown, and then it is not");
}

/// With its node the session is gone; what it had not acknowledged comes to the next one.
async fn killed() -> Result<()> {
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    let (mut romeo, mut juliet) = friends(&pool, 2, 1).await?;
    pool.kill(1)?;
    romeo
        .send(&message("juliet@localhost", "chat", "are you there?"))
        .await?;
    let jid = juliet.jid.clone();
    romeo
        .find("juliet's end", LIMIT, |stanza| {
            shows(stanza, &jid, Some("unavailable")).then_some(())
        })
        .await?;
    let answer = juliet.ask(&pool.login(3, "juliet")).await?;
    ensure!(answer.root().name() == "failed", "{}", answer.source());
    juliet.bind().await?;
    juliet.send("<presence/>".into()).await?;
    juliet
        .find("message", |peer, _| peer.bodies == ["are you there?"])
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_dies_with_its_node() {
    killed().await.expect("the client begins anew");
}

const PEERS: usize = 8;
const ROUNDS: usize = 25;

/// What becomes of nodes while clients wander.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// Each is stopped and started again, one after the other.
    Stops,
    /// Each is killed instead.
    Kills,
}

/// A small generator, so that a run can be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What those who wander share.
struct Land {
    trouble: Trouble,
    seed: u64,
    /// Nodes that nobody is about to end.
    alive: Mutex<Vec<u64>>,
    /// The trouble is over.
    calm: AtomicBool,
    together: Barrier,
}

impl Land {
    fn some_node(&self, dice: &mut Dice) -> u64 {
        let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive[dice.roll(alive.len() as u64) as usize]
    }
}

struct Wanderer {
    peer: Peer,
    at: usize,
    user: String,
    logins: Vec<Login>,
    dice: Dice,
    /// What it has ever said in the room.
    said: Vec<String>,
    resumptions: usize,
    /// What a session that was lost has left, as far as the next one has not sent it.
    backlog: VecDeque<String>,
    /// Sessions that were lost.
    lost: usize,
}

impl Wanderer {
    fn room() -> String {
        format!("den@{ROOMS}")
    }

    fn login(&self, node: u64) -> &Login {
        &self.logins[node as usize - 1]
    }

    async fn enter(&mut self) -> Result<()> {
        let (room, user) = (Wanderer::room(), &self.user);
        let join = format!(
            "<presence to='{room}/{user}'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>"
        );
        self.peer.send("<presence/>".into()).await?;
        self.peer.send(join).await?;
        let is_subject =
            |_: &Peer, stanza: &Document| stanza.root().child("subject", ns::CLIENT).is_some();
        self.peer.find("subject", is_subject).await?;
        Ok(())
    }

    /// Says some things, to the neighbour or in the room.
    async fn talk(&mut self, round: usize) {
        let (room, neighbour) = (
            Wanderer::room(),
            format!("peer{}@localhost", (self.at + 1) % PEERS),
        );
        for number in 0..self.dice.roll(6) {
            let (to, kind) = match self.dice.roll(2) {
                0 => (&neighbour, "chat"),
                _ => (&room, "groupchat"),
            };
            let body = format!("{kind} {} {round}-{number}", self.at);
            if kind == "groupchat" {
                self.said.push(body.clone());
            }
            // What a dying connection makes of it shows later.
            if self.peer.send(message(to, kind, &body)).await.is_err() {
                self.peer.wire = None;
            }
        }
    }

    async fn listen(&mut self, within: Duration) {
        let until = Instant::now() + within;
        while self.peer.wire.is_some() {
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left, self.peer.next()).await {
                Ok(Ok(Came::Stanza(_) | Came::Other(_))) => {}
                Ok(Ok(Came::End) | Err(_)) => self.peer.wire = None,
                Err(_) => break,
            }
        }
    }

    /// Goes on with the session on any node; begins a new one where it was lost and may be.
    async fn come_back(&mut self, land: &Land) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let mut tries = interval(TRY_EVERY);
        loop {
            tries.tick().await;
            let node = land.some_node(&mut self.dice);
            let login = self.login(node).clone();
            match self.peer.resume(&login).await {
                Ok(()) => break,
                // Nothing but the death of its node costs a session.
                Err(error) if format!("{error:#}").contains("<failed") => match land.trouble {
                    Trouble::Kills => return self.begin_anew().await,
                    _ => return Err(error),
                },
                Err(error) if land.trouble == Trouble::None => return Err(error),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
        self.resumptions += 1;
        match self.backlog.is_empty() {
            true => Ok(()),
            false => self.catch_up().await,
        }
    }

    /// On the stream on which the session was not found. What nobody has acknowledged is sent again.
    async fn begin_anew(&mut self) -> Result<()> {
        self.lost += 1;
        let mut again = std::mem::take(&mut self.peer.unacked);
        again.retain(|stanza| stanza.starts_with("<message"));
        again.append(&mut self.backlog);
        self.backlog = again;
        self.peer.bind().await?;
        self.catch_up().await
    }

    async fn catch_up(&mut self) -> Result<()> {
        self.enter().await?;
        while let Some(stanza) = self.backlog.pop_front() {
            self.peer.send(stanza).await?;
        }
        Ok(())
    }

    async fn wander(mut self, land: &Land) -> Result<Wanderer> {
        self.enter().await?;
        land.together.wait().await;
        let mut round = 0;
        while round < ROUNDS || !land.calm.load(Ordering::Relaxed) {
            if self.backlog.is_empty() {
                self.talk(round).await;
            }
            let within = Duration::from_millis(self.dice.roll(40));
            self.listen(within).await;
            if self.peer.wire.is_none() || self.dice.roll(3) > 0 {
                self.peer.wire = None;
                // A session that is begun anew may lose its node as well.
                while self.peer.wire.is_none() {
                    if let Err(error) = self.come_back(land).await {
                        if land.trouble != Trouble::Kills || land.calm.load(Ordering::Relaxed) {
                            return Err(error);
                        }
                        self.peer.wire = None;
                    }
                }
            }
            round += 1;
        }
        Ok(self)
    }
}

/// Ends and starts each node.
async fn make_trouble(pool: &mut Pool, land: &Land) -> Result<()> {
    let set = |alive: Vec<u64>| {
        *land.alive.lock().unwrap_or_else(PoisonError::into_inner) = alive;
    };
    for node in pool.ids() {
        if land.trouble == Trouble::None {
            break;
        }
        set(pool
            .ids()
            .into_iter()
            .filter(|other| *other != node)
            .collect());
        match land.trouble {
            Trouble::Kills => pool.kill(node)?,
            _ => pool.stop(node).await?,
        }
        pool.spawn(node)?;
        pool.ready(node).await?;
        set(pool.ids());
    }
    land.calm.store(true, Ordering::Relaxed);
    Ok(())
}

/// On one thread: the compiler can't tell that what they do may change threads.
async fn wanderers(trouble: Trouble) -> Result<()> {
    LocalSet::new().run_until(wander_together(trouble)).await
}

async fn wander_together(trouble: Trouble) -> Result<()> {
    let seed = std::env::var("MUSTER_SEED");
    let seed = seed.ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("MUSTER_SEED={seed}");
    let mut pool = Pool::start(&PoolSettings::nodes(3)).await?;
    pool.owners_settled().await?;
    let users: Vec<String> = (0..PEERS).map(|at| format!("peer{at}")).collect();
    pool.add_users(users.iter().map(String::as_str)).await?;
    let room = Wanderer::room();
    let mut host = Client::connect(&pool.login(1, "peer0")).await?;
    host.send(&format!(
        "<presence to='{room}/host'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
    ))
    .await?;
    host.iq_ok("set", Some(&room), "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>http://jabber.org/protocol/muc#roomconfig</value></field><field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query>")
        .await?;
    host.close().await?;
    let land = Arc::new(Land {
        trouble,
        seed,
        alive: Mutex::new(pool.ids()),
        calm: AtomicBool::new(false),
        together: Barrier::new(PEERS + 1),
    });
    let mut running = JoinSet::new();
    for (at, user) in users.into_iter().enumerate() {
        let land = Arc::clone(&land);
        let logins: Vec<Login> = pool
            .ids()
            .into_iter()
            .map(|node| pool.login(node, &user))
            .collect();
        running.spawn_local(async move {
            let mut dice = Dice(land.seed.wrapping_mul(at as u64 * 2 + 3) | 1);
            let mut peer = Peer::begin(&logins[dice.roll(3) as usize]).await?;
            peer.origin_ids = land.trouble == Trouble::Kills;
            let (said, resumptions, lost) = (Vec::new(), 0, 0);
            let backlog = VecDeque::new();
            let wanderer = Wanderer {
                peer,
                at,
                user,
                logins,
                dice,
                said,
                resumptions,
                backlog,
                lost,
            };
            wanderer
                .wander(&land)
                .await
                .with_context(|| format!("peer{at}"))
        });
    }
    land.together.wait().await;
    make_trouble(&mut pool, &land).await?;
    let all = running.join_all().await.into_iter();
    let all = all.collect::<Result<Vec<_>>>();
    let mut all = all.inspect_err(|error| say_what_nodes_logged(&pool, &format!("{error:#}")))?;
    all.sort_by_key(|wanderer| wanderer.at);
    say_the_last(&mut all, &land).await?;
    let mut reader = Client::connect(&pool.login(2, "peer1")).await?;
    let archive = read_archive(&mut reader, &room, true).await?;
    judge(&all, archive.into_iter().map(|(body, _)| body).collect())?;
    let sum = |of: fn(&Wanderer) -> usize| all.iter().map(of).sum::<usize>();
    let (resumptions, lost) = (sum(|w| w.resumptions), sum(|w| w.lost));
    println!("{resumptions} resumptions, {lost} sessions lost, seed {seed}, {trouble:?}");
    ensure!(resumptions >= 50, "only {resumptions} resumptions");
    Ok(())
}

/// What the nodes' logs have of the one whose complaint this is.
fn say_what_nodes_logged(pool: &Pool, complaint: &str) {
    let user = complaint.split(':').next().unwrap_or_default();
    for node in pool.ids() {
        let log = pool.node(node).log().unwrap_or_default();
        let lines = log.lines().filter(|line| line.contains(user));
        lines.for_each(|line| println!("node {node}: {line}"));
    }
}

/// Everybody says a last word; when all have heard all of them, and all that was sent is acknowledged, it is over.
async fn say_the_last(all: &mut [Wanderer], land: &Land) -> Result<()> {
    let room = Wanderer::room();
    for wanderer in all.iter_mut() {
        if wanderer.peer.wire.is_none() {
            wanderer.come_back(land).await?;
        }
        let body = format!("end {}", wanderer.at);
        wanderer.said.push(body.clone());
        wanderer
            .peer
            .send(message(&room, "groupchat", &body))
            .await?;
    }
    for wanderer in all {
        let peer = &mut wanderer.peer;
        let ends = |peer: &Peer| {
            peer.bodies
                .iter()
                .filter(|body| body.starts_with("end"))
                .count()
        };
        peer.find("end of all", |peer, _| ends(peer) == PEERS)
            .await?;
        let request = format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT);
        peer.wire()?.send(request.as_bytes()).await?;
        peer.find("last acknowledgement", |peer, _| peer.acked == peer.sent)
            .await?;
    }
    Ok(())
}

/// The archive has what was said, once and each speaker's in order; whoever kept the session has heard exactly that, and
/// what the neighbour wrote once and in order.
fn judge(all: &[Wanderer], archive: Vec<String>) -> Result<()> {
    ensure!(archive.len() > PEERS, "hardly anything was said");
    for wanderer in all {
        let (at, jid) = (wanderer.at, &wanderer.peer.jid);
        let (begin, end) = (format!("groupchat {at} "), format!("end {at}"));
        let is_own = |body: &&String| body.starts_with(&begin) || **body == end;
        let own: Vec<&String> = archive.iter().filter(is_own).collect();
        let said: Vec<&String> = wanderer.said.iter().collect();
        ensure!(own == said, "{jid} said {said:?}, the archive has {own:?}");
        if wanderer.lost > 0 {
            continue;
        }
        let bodies = &wanderer.peer.bodies;
        let heard = bodies.iter().filter(|body| !body.starts_with("chat"));
        let heard: Vec<&String> = heard.collect();
        let expected: Vec<&String> = archive.iter().collect();
        ensure!(
            heard == expected,
            "{jid} heard {heard:?}, the archive has {expected:?}"
        );
        let read: Vec<(usize, usize)> = bodies
            .iter()
            .filter_map(|body| {
                body.strip_prefix("chat ")?
                    .split_once(' ')?
                    .1
                    .split_once('-')
            })
            .map(|(round, number)| Ok((round.parse()?, number.parse()?)))
            .collect::<Result<_>>()?;
        let rises = read.is_sorted_by(|a, b| a < b);
        ensure!(rises, "{jid} got of its neighbour {read:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_however_often_connections_are() {
    wanderers(Trouble::None)
        .await
        .expect("what was sent came once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_no_session() {
    wanderers(Trouble::Stops)
        .await
        .expect("what was sent came once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_die_cost_sessions_and_nothing_that_was_sent() {
    wanderers(Trouble::Kills)
        .await
        .expect("what was sent is archived once");
}
