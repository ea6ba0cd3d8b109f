//! Sessions whose connections are lost (XEP-0198 §5): resumed exactly, on any node, as long as one has them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::client::{Client, Login, authenticated};
use chaos_tests::pool::{Pool, PoolSettings, ROOMS};
use chaos_tests::wire::Wire;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use xmpp::ns;
use xmpp::scan::{Document, Frame};

const LIMIT: Duration = Duration::from_secs(20);

/// A resumption that took longer is told of.
const SLOW: Duration = Duration::from_secs(2);

/// A client that keeps what was not acknowledged and sends it again, and nothing else: no origin-ids, so that a stanza that
/// is counted wrongly shows as lost or doubled.
struct Peer {
    wire: Option<Wire>,
    id: String,
    jid: String,
    handled: u32,
    sent: u32,
    acked: u32,
    unacked: VecDeque<String>,
    bodies: Vec<String>,
}

/// What comes next.
enum Came {
    Stanza(Document),
    Other(Document),
    End,
}

impl Peer {
    async fn begin(login: &Login) -> Result<Peer> {
        let mut peer = Peer {
            wire: Some(authenticated(login).await?),
            id: String::new(),
            jid: String::new(),
            handled: 0,
            sent: 0,
            acked: 0,
            unacked: VecDeque::new(),
            bodies: Vec::new(),
        };
        peer.bind().await?;
        Ok(peer)
    }

    async fn bind(&mut self) -> Result<()> {
        let bind = format!("<iq type='set' id='bind'><bind xmlns='{}'/></iq>", ns::BIND);
        self.wire()?.send(bind.as_bytes()).await?;
        let answer = self.wire()?.element("the answer to bind").await?;
        let bound = answer.root().child("bind", ns::BIND);
        let jid = bound.and_then(|bind| bind.child("jid", ns::BIND));
        self.jid = jid.context("no resource")?.text().into_owned();
        let enable = format!("<enable xmlns='{}' resume='true'/>", ns::STREAM_MANAGEMENT);
        self.wire()?.send(enable.as_bytes()).await?;
        let enabled = self.wire()?.element("<enabled/>").await?;
        let id = enabled.root().attr("id").context("not resumable")?;
        self.id = id.into_owned();
        (self.handled, self.sent, self.acked) = (0, 0, 0);
        Ok(())
    }

    fn wire(&mut self) -> Result<&mut Wire> {
        self.wire.as_mut().context("not connected")
    }

    /// Sends a stanza; what a connection that is going does with it shows at the resumption.
    async fn send(&mut self, stanza: String) -> Result<()> {
        self.sent += 1;
        let sent = self.wire()?.send(stanza.as_bytes()).await;
        self.unacked.push_back(stanza);
        sent
    }

    fn acknowledged(&mut self, h: u32) -> Result<()> {
        ensure!(
            (self.acked..=self.sent).contains(&h),
            "{}: h={h}, where {} were acknowledged and {} sent",
            self.jid,
            self.acked,
            self.sent
        );
        self.unacked.drain(..(h - self.acked) as usize);
        self.acked = h;
        Ok(())
    }

    async fn next(&mut self) -> Result<Came> {
        let Some(frame) = self.wire()?.next().await? else {
            return Ok(Came::End);
        };
        let document = match frame {
            Frame::Element(document) => document,
            Frame::Header(_) => bail!("a header"),
            Frame::Close => bail!("the end of the stream"),
        };
        let root = document.root();
        match (root.ns(), root.name()) {
            (ns::STREAM_MANAGEMENT, "r") => {
                let h = self.handled;
                let ack = format!("<a xmlns='{}' h='{h}'/>", ns::STREAM_MANAGEMENT);
                self.wire()?.send(ack.as_bytes()).await?;
                Ok(Came::Other(document))
            }
            (ns::STREAM_MANAGEMENT, "a") => {
                let h = root.attr("h").context("no h")?.parse()?;
                self.acknowledged(h)?;
                Ok(Came::Other(document))
            }
            (ns::CLIENT, _) => {
                self.handled += 1;
                if let Some(body) = root.child("body", ns::CLIENT) {
                    self.bodies.push(body.text().into_owned());
                }
                Ok(Came::Stanza(document))
            }
            _ => Ok(Came::Other(document)),
        }
    }

    /// Reads until something fits.
    async fn find(
        &mut self,
        what: &str,
        fits: impl Fn(&Peer, &Document) -> bool,
    ) -> Result<Document> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let came = timeout(left, self.next()).await;
            match came.with_context(|| format!("{}: no {what}", self.jid))?? {
                Came::Stanza(document) | Came::Other(document) if fits(self, &document) => {
                    return Ok(document);
                }
                Came::Stanza(_) | Came::Other(_) => {}
                Came::End => bail!("{}: the end of the socket before {what}", self.jid),
            }
        }
    }

    /// Asks for the session; gives the answer.
    async fn ask(&mut self, login: &Login) -> Result<Document> {
        let mut wire = authenticated(login).await?;
        let (id, h) = (&self.id, self.handled);
        let resume = format!(
            "<resume xmlns='{}' previd='{id}' h='{h}'/>",
            ns::STREAM_MANAGEMENT
        );
        wire.send(resume.as_bytes()).await?;
        let answer = wire.element("the answer to <resume/>").await?;
        self.wire = Some(wire);
        Ok(answer)
    }

    /// Resumes the session and sends again what the server has not handled.
    async fn resume(&mut self, login: &Login) -> Result<()> {
        let began = Instant::now();
        let answer = self.ask(login).await?;
        let took = began.elapsed();
        if took > SLOW {
            println!("{}: resumed after {took:?}", self.jid);
        }
        ensure!(
            answer.root().name() == "resumed",
            "{} was not resumed: {}",
            self.jid,
            answer.source()
        );
        let h = answer.root().attr("h").context("no h")?.parse()?;
        self.acknowledged(h)?;
        for stanza in self.unacked.clone() {
            self.wire()?.send(stanza.as_bytes()).await?;
        }
        Ok(())
    }
}

fn message(to: &str, kind: &str, body: &str) -> String {
    format!("<message to='{to}' type='{kind}'><body>{body}</body></message>")
}

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
        loop {
            // `next` complains about the end of the stream.
            match timeout(LIMIT, juliet.next()).await?? {
                Came::End => break,
                Came::Other(last) => println!("{}", last.source()),
                Came::Stanza(_) => {}
            }
        }
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

/// One of many: writes to its neighbour and to the room, loses its connection at any moment, and resumes anywhere.
async fn wander(pool: &Pool, at: usize, seed: u64, together: &Barrier) -> Result<(Peer, usize)> {
    let mut dice = Dice(seed.wrapping_mul(at as u64 * 2 + 3) | 1);
    let user = format!("peer{at}");
    let neighbour = format!("peer{}@localhost", (at + 1) % PEERS);
    let room = format!("den@{ROOMS}");
    let mut peer = Peer::begin(&pool.login(1 + dice.roll(3), &user)).await?;
    peer.send("<presence/>".into()).await?;
    peer.send(format!("<presence to='{room}/{user}'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>"))
        .await?;
    peer.find("subject", |_, stanza| {
        stanza.root().child("subject", ns::CLIENT).is_some()
    })
    .await?;
    together.wait().await;
    let mut resumptions = 0;
    for round in 0..ROUNDS {
        for number in 0..dice.roll(6) {
            let to = if dice.roll(2) == 0 {
                (&neighbour, "chat")
            } else {
                (&room, "groupchat")
            };
            let body = format!("{} {at} {round}-{number}", to.1);
            // What a dying connection makes of it shows later.
            if peer.send(message(to.0, to.1, &body)).await.is_err() {
                break;
            }
        }
        let until = Instant::now() + Duration::from_millis(dice.roll(40));
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left, peer.next()).await {
                Ok(Ok(Came::Stanza(_) | Came::Other(_))) => {}
                Ok(Ok(Came::End)) | Ok(Err(_)) | Err(_) => break,
            }
        }
        if dice.roll(3) > 0 {
            peer.wire = None;
            peer.resume(&pool.login(1 + dice.roll(3), &user)).await?;
            resumptions += 1;
        }
    }
    Ok((peer, resumptions))
}

async fn wanderers(seed: u64) -> Result<()> {
    let pool = Arc::new(Pool::start(&PoolSettings::nodes(3)).await?);
    pool.owners_settled().await?;
    let users: Vec<String> = (0..PEERS).map(|at| format!("peer{at}")).collect();
    pool.add_users(users.iter().map(String::as_str)).await?;
    let mut host = Client::connect(&pool.login(1, "peer0")).await?;
    let room = format!("den@{ROOMS}");
    host.send(&format!(
        "<presence to='{room}/host'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
    ))
    .await?;
    host.iq_ok("set", Some(&room), "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query>")
        .await?;
    let together = Arc::new(Barrier::new(PEERS));
    let mut running = JoinSet::new();
    for at in 0..PEERS {
        let (pool, together) = (Arc::clone(&pool), Arc::clone(&together));
        running.spawn(async move {
            wander(&pool, at, seed, &together)
                .await
                .with_context(|| format!("peer{at}"))
        });
    }
    let mut peers = Vec::new();
    let mut resumptions = 0;
    for came in running.join_all().await {
        let (peer, more) = came?;
        resumptions += more;
        peers.push(peer);
    }
    peers.sort_by(|a, b| a.jid.cmp(&b.jid));
    // All that was sent is acknowledged, and what comes last has come.
    for (at, peer) in peers.iter_mut().enumerate() {
        peer.send(message(&room, "groupchat", &format!("end {at}")))
            .await?;
    }
    for peer in &mut peers {
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
    judge(&peers)?;
    println!("{resumptions} resumptions, seed {seed}");
    ensure!(resumptions >= 50, "only {resumptions} resumptions");
    Ok(())
}

/// Everybody in the room has seen the same, and neighbours what was written to them: once, and each writer's in order.
fn judge(peers: &[Peer]) -> Result<()> {
    let room = |peer: &Peer| -> Vec<String> {
        let said = peer
            .bodies
            .iter()
            .filter(|body| body.starts_with("groupchat"));
        said.cloned().collect()
    };
    let first = peers.first().map(room).unwrap_or_default();
    ensure!(first.len() > PEERS, "hardly anything was said");
    for peer in peers {
        ensure!(room(peer) == first, "{} has seen something else", peer.jid);
        let mut count: BTreeMap<&String, usize> = BTreeMap::new();
        peer.bodies
            .iter()
            .for_each(|body| *count.entry(body).or_default() += 1);
        let doubled: Vec<_> = count.iter().filter(|(_, count)| **count > 1).collect();
        ensure!(doubled.is_empty(), "{} got twice {doubled:?}", peer.jid);
        for at in 0..PEERS {
            for kind in ["chat", "groupchat"] {
                let begin = format!("{kind} {at} ");
                let from: Vec<(usize, usize)> = peer
                    .bodies
                    .iter()
                    .filter_map(|body| body.strip_prefix(&begin)?.split_once('-'))
                    .map(|(round, number)| Ok((round.parse()?, number.parse()?)))
                    .collect::<Result<_>>()?;
                ensure!(
                    from.is_sorted(),
                    "{}: {kind} of {at} out of order",
                    peer.jid
                );
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_however_often_connections_are() {
    let seed = std::env::var("MUSTER_SEED");
    let seed = seed.ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("MUSTER_SEED={seed}");
    wanderers(seed).await.expect("what was sent came once");
}
