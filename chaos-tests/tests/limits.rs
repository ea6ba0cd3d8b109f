//! What one client, user or address may cost: paces, queues and balancers, over real sockets.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{
    Client, Incoming, Login, Security, authenticated, features, open_stream,
};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, ROOMS};
use chaos_tests::wait::{PROMPT, until};
use chaos_tests::wire::Wire;
use tokio::time::{Instant, timeout};
use xmpp::scan::Document;

/// How long paced clients may take: several times what they should.
const LIMIT: Duration = Duration::from_secs(30);

/// As a client that speaks for itself waits for nothing: long enough for an answer, had there been one.
const SILENCE: Duration = Duration::from_millis(500);

const NOBODY: [&str; 0] = [];

/// A pool of one node that trusts nobody.
fn strict() -> PoolSettings {
    PoolSettings::nodes(1).set("clients", "trusted_networks", NOBODY.to_vec())
}

async fn start(settings: &PoolSettings, users: &[&str]) -> Result<Pool> {
    let pool = Pool::start(settings).await?;
    pool.add_users(users.iter().copied()).await?;
    Ok(pool)
}

fn local(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

async fn counted(pool: &Pool, name: &str) -> Result<u64> {
    pool.node(1).control.counter(name).await
}

async fn managed(pool: &Pool, user: &str) -> Result<Client> {
    let login = Login {
        stream_management: true,
        ..pool.login(1, user)
    };
    Client::connect(&login).await
}

/// Waits until so many stanzas are acknowledged; nothing else may end it.
async fn acked(client: &mut Client, count: u32) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match client.next(left).await? {
            Incoming::Acked(h) if h >= count => return Ok(()),
            Incoming::Closed(why) => anyhow::bail!("the stream ended: {why}"),
            Incoming::Acked(_) | Incoming::Element(_) => {}
        }
    }
}

/// Sends so many messages of a size to oneself and asks for the acknowledgement of all; how long it takes.
async fn flood(client: &mut Client, count: u32, size: usize) -> Result<Duration> {
    let own = client.jid().bare();
    let began = Instant::now();
    let body = "x".repeat(size);
    for _ in 0..count {
        let message = format!("<message to='{own}' type='chat'><body>{body}</body></message>");
        client.send(&message).await?;
    }
    client.send_raw("<r xmlns='urn:xmpp:sm:3'/>").await?;
    acked(client, count).await?;
    Ok(began.elapsed())
}

async fn paced_stanzas() -> Result<()> {
    let settings =
        strict()
            .set("shaping", "stanzas_per_second", 30)
            .set("shaping", "stanzas_burst", 70);
    let pool = start(&settings, &["romeo", "juliet"]).await?;
    let mut romeo = managed(&pool, "romeo").await?;
    let took = flood(&mut romeo, 160, 1).await?;
    // 90 beyond the burst, 30 a second.
    ensure!(took >= Duration::from_millis(2_900), "{took:?}");
    ensure!(counted(&pool, "client_pauses").await? > 0, "no pause");
    // Another session has its own, and this one goes on.
    let mut juliet = managed(&pool, "juliet").await?;
    let took = flood(&mut juliet, 20, 1).await?;
    ensure!(took < Duration::from_secs(2), "{took:?}");
    romeo
        .iq_ok("get", Some(DOMAIN), "<ping xmlns='urn:xmpp:ping'/>")
        .await?;
    romeo.close().await?;
    juliet.close().await
}

/// What comes too fast stays in the socket; nothing is lost, and no stream ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stanzas_beyond_their_pace_are_read_later() {
    paced_stanzas().await.expect("paced stanzas");
}

async fn paced_bytes() -> Result<()> {
    // Each message comes back, and the server asks whether it arrived: the answers stand behind the flood.
    let settings = strict()
        .set("shaping", "bytes_per_second", "16 KiB")
        .set("shaping", "bytes_burst", "32 KiB")
        .set("stream_management", "acknowledge_within", "2 s")
        .set("stream_management", "request_within", "100 ms");
    let pool = start(&settings, &["romeo"]).await?;
    let mut romeo = managed(&pool, "romeo").await?;
    romeo.send("<presence/>").await?;
    let took = flood(&mut romeo, 13, 10_000).await?;
    // Six seconds beyond the burst: three times what the client has for its answers.
    ensure!(took >= Duration::from_secs(5), "{took:?}");
    romeo
        .iq_ok("get", Some(DOMAIN), "<ping xmlns='urn:xmpp:ping'/>")
        .await?;
    romeo.close().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_beyond_their_pace_are_read_later_and_answers_behind_them_are_no_silence() {
    paced_bytes().await.expect("paced bytes");
}

/// The type of a stanza, and whether it says to wait.
fn says_wait(came: &Document) -> bool {
    let Some(error) = came.root().child("error", "jabber:client") else {
        return false;
    };
    let condition = "urn:ietf:params:xml:ns:xmpp-stanzas";
    error.attr("type").as_deref() == Some("wait")
        && error.child("resource-constraint", condition).is_some()
}

/// Sends a stanza and says whether it was refused as too fast. A ping behind it tells that all is said.
async fn refused(client: &mut Client, stanza: &str) -> Result<bool> {
    client.send(stanza).await?;
    let id = client.next_id();
    let ping = format!("<iq type='get' id='{id}'><ping xmlns='urn:xmpp:ping'/></iq>");
    client.send(&ping).await?;
    let mut wait = false;
    client
        .find("the answer to the ping", PROMPT, |came| {
            let root = came.root();
            wait |= says_wait(came);
            (root.name() == "iq" && root.attr("id").as_deref() == Some(id.as_str())).then_some(())
        })
        .await?;
    Ok(wait)
}

async fn expect_refused(client: &mut Client, stanza: &str, expect: bool) -> Result<()> {
    let wait = refused(client, stanza).await?;
    ensure!(wait == expect, "refused: {wait}: {stanza}");
    Ok(())
}

/// The paces of a user and their bursts: joins, subscriptions, new recipients.
const OF_USERS: [(&str, &str); 3] = [
    ("joins_per_minute", "joins_burst"),
    ("subscriptions_per_minute", "subscriptions_burst"),
    ("new_recipients_per_minute", "new_recipients_burst"),
];

/// One a minute of each, after these bursts.
fn paced_by_user(mut settings: PoolSettings, bursts: [i64; 3]) -> PoolSettings {
    for ((pace, burst), at_once) in OF_USERS.into_iter().zip(bursts) {
        settings = settings
            .set("shaping", pace, 1)
            .set("shaping", burst, at_once);
    }
    settings
}

fn join(room: &str) -> String {
    format!(
        "<presence to='{room}@{ROOMS}/romeo'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
    )
}

fn subscribe(to: &str) -> String {
    format!("<presence type='subscribe' to='{to}@{DOMAIN}'/>")
}

fn write(to: &str) -> String {
    format!("<message to='{to}@{DOMAIN}'><body>hi</body></message>")
}

async fn paced_users() -> Result<()> {
    let settings = paced_by_user(strict(), [2, 3, 4]);
    let pool = start(&settings, &["romeo", "a", "b", "c", "d", "e", "f"]).await?;
    let mut romeo = Client::connect(&pool.login(1, "romeo")).await?;
    romeo.send("<presence/>").await?;
    for (number, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        expect_refused(&mut romeo, &join(name), number >= 2).await?;
        expect_refused(&mut romeo, &subscribe(name), number >= 3).await?;
        expect_refused(&mut romeo, &write(name), number >= 4).await?;
    }
    // Who was written to may be written to, and what is no message counts as well.
    expect_refused(&mut romeo, &write("a"), false).await?;
    expect_refused(&mut romeo, &format!("<presence to='e@{DOMAIN}/x'/>"), true).await?;
    let invite = format!(
        "<message to='a@{ROOMS}'><x xmlns='http://jabber.org/protocol/muc#user'><invite to='e@{DOMAIN}'/></x></message>"
    );
    expect_refused(&mut romeo, &invite, true).await?;
    romeo.close().await?;
    // A new session of the same user has no more.
    let mut romeo = Client::connect(&pool.login(1, "romeo")).await?;
    expect_refused(&mut romeo, &join("f"), true).await?;
    expect_refused(&mut romeo, &subscribe("f"), true).await?;
    expect_refused(&mut romeo, &write("f"), true).await?;
    ensure!(
        counted(&pool, "requests_too_fast").await? >= 8,
        "the counter"
    );
    // Another user has his own.
    let mut other = Client::connect(&pool.login(1, "a")).await?;
    expect_refused(&mut other, &write("f"), false).await?;
    other.close().await?;
    romeo.close().await
}

/// Joins, subscriptions and first messages beyond their pace are refused as surely not done; the stream lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_asks_of_too_many_is_refused_for_now() {
    paced_users().await.expect("paced users");
}

async fn one_pace_lifted() -> Result<()> {
    let settings = PoolSettings {
        nodes: 3,
        ..paced_by_user(strict(), [1, 1, 1])
    };
    let mut pool = Pool::prepare(&settings)?;
    for (node, (pace, _)) in (1..).zip(OF_USERS) {
        pool.set(node, "shaping", pace, 0)?;
    }
    pool.start_all()?;
    pool.all_ready().await?;
    pool.add_users(["user-1", "user-2", "user-3", "a", "b", "c"])
        .await?;
    for node in pool.ids() {
        let mut client = Client::connect(&pool.login(node, &format!("user-{node}"))).await?;
        client.send("<presence/>").await?;
        for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
            for (kind, stanza) in (1..).zip([join(name), subscribe(name), write(name)]) {
                let expect = number > 0 && kind != node;
                expect_refused(&mut client, &stanza, expect).await?;
            }
        }
        client.close().await?;
    }
    Ok(())
}

/// A pace of 0 is no bound, and each is a matter of its own: every node lifts another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lifted_pace_lifts_no_other() {
    one_pace_lifted().await.expect("paces by node");
}

/// Opens a stream and takes its features within a limit; `false`: nothing came.
async fn served(wire: &mut Wire, limit: Duration) -> Result<bool> {
    match timeout(limit, features(wire, DOMAIN)).await {
        Ok(features) => features.map(|_| true),
        Err(_) => Ok(false),
    }
}

async fn queue() -> Result<()> {
    let trusted = vec!["127.0.0.8/32"];
    let settings = strict()
        .set("clients", "trusted_networks", trusted)
        .set("clients", "unauthenticated_per_address_max", 2)
        .set("clients", "queued_max", 1)
        .set("clients", "queue_within", "3 s");
    let pool = start(&settings, &["romeo"]).await?;
    let (starttls, direct) = (pool.node(1).clients, pool.node(1).clients_tls);
    let from = async |last| Wire::plain_from(local(last), starttls).await;
    // One on each port: they count together.
    let _direct = Wire::plain_from(local(7), direct).await?;
    let mut first = from(7).await?;
    ensure!(served(&mut first, PROMPT).await?, "the first");
    let mut queued = from(7).await?;
    ensure!(!served(&mut queued, SILENCE).await?, "the third was served");
    // No room in the queue: closed at once. Others need none.
    let mut turned_away = from(7).await?;
    ensure!(turned_away.rest(PROMPT).await?.is_empty(), "words");
    ensure!(
        counted(&pool, "client_connections_refused").await? == 1,
        "the counter"
    );
    let mut other = from(9).await?;
    ensure!(served(&mut other, PROMPT).await?, "another address");
    let mut trusted = Vec::new();
    for _ in 0..5 {
        let mut wire = from(8).await?;
        ensure!(served(&mut wire, PROMPT).await?, "a trusted address");
        trusted.push(wire);
    }
    // A place is free: the one that waits gets it, and what it said before is answered.
    drop(first);
    queued.expect("a header", PROMPT).await?;
    let answer = queued.element("features").await?;
    ensure!(answer.source().contains("features"), "{}", answer.source());
    // Nobody waits for ever.
    let mut late = from(7).await?;
    let began = Instant::now();
    open_stream(&mut late, DOMAIN)
        .await
        .err()
        .context("no answer")?;
    let waited = began.elapsed();
    ensure!(
        waited >= Duration::from_secs(2) && waited < PROMPT,
        "{waited:?}"
    );
    // Who has logged in is counted no more.
    let login = pool.login(1, "romeo");
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(Client::connect(&login).await?);
    }
    Ok(())
}

/// Beyond its unauthenticated streams an address's connections wait for their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_one_address_queue() {
    queue().await.expect("a queue");
}

/// A header of version 2 for an IPv4 client.
fn proxied(client: [u8; 4]) -> Vec<u8> {
    let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&head[..], &client, &[127, 0, 0, 1], &[0xc0, 1, 0x14, 0x66]].concat()
}

async fn balancer() -> Result<()> {
    let settings = strict()
        .set("clients", "proxy_networks", vec!["127.0.0.7/32"])
        .set("clients", "trusted_networks", vec!["127.0.0.7/32"])
        .set("clients", "unauthenticated_per_address_max", 1)
        .set("negotiation", "step", "2 s");
    let pool = start(&settings, &["romeo"]).await?;
    let node = pool.node(1);
    let from = async |last| Wire::plain_from(local(last), node.clients).await;
    let behind = async |header: &[u8]| -> Result<Wire> {
        let mut wire = from(7).await?;
        wire.send(header).await?;
        Ok(wire)
    };
    // The address in the header counts, not that of the balancer, although that is trusted.
    let mut first = from(7).await?;
    for byte in proxied([192, 0, 2, 1]) {
        first.send(&[byte]).await?;
    }
    ensure!(served(&mut first, PROMPT).await?, "a header byte by byte");
    let mut second = behind(&proxied([192, 0, 2, 1])).await?;
    ensure!(!served(&mut second, SILENCE).await?, "the same client");
    let mut other = behind(b"PROXY TCP4 192.0.2.2 127.0.0.1 49153 5222\r\n").await?;
    ensure!(
        served(&mut other, PROMPT).await?,
        "another client, by version 1"
    );
    let mut sixth = behind(b"PROXY TCP6 2001:db8::1 ::1 49153 5222\r\n").await?;
    ensure!(served(&mut sixth, PROMPT).await?, "a client of IPv6");
    let mut check = behind(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await?;
    ensure!(served(&mut check, PROMPT).await?, "the balancer itself");
    // Without a header nobody comes in from there, and with one nobody from elsewhere.
    for bad in [
        &b"<?xml version='1.0'?>"[..],
        b"PROXY TCP4 192.0.2.1\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"PROXY",
        b"",
    ] {
        let answer = behind(bad).await?.rest(PROMPT).await?;
        ensure!(
            answer.is_empty(),
            "{}: {}",
            bad.escape_ascii(),
            answer.escape_ascii()
        );
    }
    ensure!(
        counted(&pool, "proxy_headers_bad").await? == 5,
        "the counter"
    );
    let mut elsewhere = from(9).await?;
    elsewhere.send(&proxied([192, 0, 2, 3])).await?;
    let answer = String::from_utf8_lossy(&elsewhere.rest(PROMPT).await?).into_owned();
    ensure!(answer.contains("<not-well-formed"), "{answer}");
    Ok(())
}

/// Whoever is behind a load balancer is known by the header before the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_says_whom_it_speaks_for() {
    balancer().await.expect("a balancer");
}

async fn plain_text() -> Result<()> {
    let settings = strict().set("clients", "proxy_networks", vec!["127.0.0.7/32"]);
    let pool = start(&settings, &["romeo"]).await?;
    let address = pool.node(1).clients;
    let offers = async |mut wire: Wire| -> Result<bool> {
        let offered = features(&mut wire, DOMAIN).await?;
        ensure!(
            offered.source().contains("SCRAM-SHA-1"),
            "{}",
            offered.source()
        );
        Ok(offered.source().contains(">PLAIN<"))
    };
    ensure!(offers(Wire::plain_from(local(9), address).await?).await?);
    let mut afar = Wire::plain_from(local(7), address).await?;
    afar.send(&proxied([192, 0, 2, 9])).await?;
    ensure!(!offers(afar).await?, "a password would cross a network");
    Ok(())
}

/// `allow_plaintext_auth` holds on the loopback only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_in_plain_text_crosses_no_network() {
    plain_text().await.expect("PLAIN is for the loopback");
}

async fn balancer_and_tls() -> Result<()> {
    let settings = strict().set("clients", "proxy_networks", vec!["127.0.0.7/32"]);
    let pool = start(&settings, &["romeo"]).await?;
    let node = pool.node(1);
    let login = Login {
        address: node.clients_tls,
        security: Security::DirectTls,
        ..pool.login(1, "romeo")
    };
    // The header stands before TLS, in the same packet as its beginning or not.
    let mut wire = Wire::plain_from(local(7), node.clients_tls).await?;
    wire.send(&proxied([192, 0, 2, 77])).await?;
    let wire = wire.into_tls(DOMAIN, &login.tls).await?;
    let client = Client::over(&login, wire).await?;
    client.close().await?;
    // The line of the session names the client.
    until("the line of the session", PROMPT, async || {
        let log = node.log().ok()?;
        let named =
            |line: &&str| line.contains("romeo@localhost/") && line.contains("address=192.0.2.77");
        log.lines().find(named).map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancers_header_stands_before_tls_and_the_log_names_the_client() {
    balancer_and_tls().await.expect("a balancer and TLS");
}

async fn archives() -> Result<()> {
    let settings = strict().set("clients", "archive_queries_max", 1);
    let pool = start(&settings, &["romeo"]).await?;
    let mut romeo = managed(&pool, "romeo").await?;
    flood(&mut romeo, 3, 1).await?;
    for number in 0..40 {
        let query = format!("<iq type='set' id='q{number}'><query xmlns='urn:xmpp:mam:2'/></iq>");
        romeo.send(&query).await?;
    }
    let mut answered = Vec::new();
    romeo
        .find("forty answers", LIMIT, |came| {
            let root = came.root();
            if root.name() == "iq" && root.child("fin", "urn:xmpp:mam:2").is_some() {
                answered.extend(root.attr("id").map(|id| id.into_owned()));
            }
            (answered.len() == 40).then_some(())
        })
        .await?;
    let expected: Vec<String> = (0..40).map(|number| format!("q{number}")).collect();
    ensure!(answered == expected, "{answered:?}");
    romeo.close().await
}

/// Asks for an account from an address of this machine.
async fn register(pool: &Pool, last: u8, user: &str) -> Result<Document> {
    let mut wire = Wire::plain_from(local(last), pool.node(1).clients).await?;
    features(&mut wire, DOMAIN).await?;
    let request = format!(
        "<iq type='set' id='1'><query xmlns='jabber:iq:register'><username>{user}</username>\
         <password>{user}-password</password></query></iq>"
    );
    wire.send(request.as_bytes()).await?;
    wire.element("the answer").await
}

fn is_done(answer: &Document) -> bool {
    answer.root().attr("type").as_deref() == Some("result")
}

async fn registrations() -> Result<()> {
    let settings = strict()
        .set("clients", "registration", true)
        .set("clients", "trusted_networks", vec!["127.0.0.8/32"])
        .set("clients", "registrations_per_address_max", 2);
    let pool = start(&settings, &[]).await?;
    let register = async |last, user: &str| register(&pool, last, user).await;
    ensure!(is_done(&register(7, "a").await?), "the first");
    // A name that is taken was an attempt as well: nobody tries out names.
    let taken = register(7, "a").await?;
    ensure!(!is_done(&taken) && !says_wait(&taken), "{}", taken.source());
    let third = register(7, "b").await?;
    ensure!(says_wait(&third), "{}", third.source());
    ensure!(is_done(&register(9, "b").await?), "another address");
    for user in ["c", "d", "e"] {
        ensure!(is_done(&register(8, user).await?), "a trusted address");
    }
    ensure!(
        counted(&pool, "registrations_refused").await? == 1,
        "the counter"
    );
    Ok(())
}

/// XEP-0077 §5: an address makes so many accounts, and then has to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_makes_few_accounts() {
    registrations().await.expect("registrations");
}

async fn registrations_again() -> Result<()> {
    let settings = strict()
        .set("clients", "registration", true)
        .set("clients", "registrations_per_address_max", 1)
        .set("clients", "registrations_within", "2 s");
    let pool = start(&settings, &[]).await?;
    ensure!(is_done(&register(&pool, 7, "a").await?), "the first");
    until("the next account", PROMPT, async || {
        is_done(&register(&pool, 7, "b").await.ok()?).then_some(())
    })
    .await
}

/// `registrations_within`: by default that would be an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_makes_another_account_in_its_time() {
    registrations_again().await.expect("another account");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_archive_queries_are_answered_one_after_the_other() {
    archives().await.expect("archives");
}

/// A client that reads nothing is cut when more is due to it than may be; others of its node get what is theirs meanwhile.
async fn slow_reader() -> Result<()> {
    const STANZAS: usize = 600;
    let settings = PoolSettings::nodes(1).set("clients", "outgoing_bytes_max", "512 KiB");
    let pool = start(&settings, &["romeo", "juliet", "nurse"]).await?;
    let mut idle = authenticated(&pool.login(1, "romeo")).await?;
    idle.send(
        b"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>stuck</resource></bind></iq>",
    )
    .await?;
    idle.element("the resource").await?;
    let mut juliet = Client::connect(&pool.login(1, "juliet")).await?;
    let mut nurse = Client::connect(&pool.login(1, "nurse")).await?;
    nurse.send("<presence/>").await?;
    // More than the sockets between them take. To a full address nothing is filed: it concerns this session alone.
    let words = "much ".repeat(8 * 1024);
    let much = format!(
        "<message type='headline' to='romeo@{DOMAIN}/stuck'><body>{words}</body></message>"
    );
    for number in 0..STANZAS {
        juliet.send(&much).await?;
        if number % 100 == 0 {
            let to = nurse.jid().bare();
            let id = format!("n{number}");
            juliet
                .send(&format!(
                    "<message type='chat' to='{to}' id='{id}'><body>hear</body></message>"
                ))
                .await?;
            let comes =
                |came: &Document| (came.root().attr("id").as_deref() == Some(&*id)).then_some(());
            nurse.find(&id, LIMIT, comes).await?;
        }
    }
    until("the slow client is cut", LIMIT, async || {
        (counted(&pool, "slow_sessions").await.ok()? == 1).then_some(())
    })
    .await?;
    // The others live on, and the one that was cut can come back.
    juliet
        .iq_ok("get", None, "<ping xmlns='urn:xmpp:ping'/>")
        .await?;
    nurse
        .iq_ok("get", None, "<ping xmlns='urn:xmpp:ping'/>")
        .await?;
    drop(idle);
    Client::connect(&pool.login(1, "romeo"))
        .await?
        .close()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cut_and_holds_up_nobody() {
    slow_reader().await.expect("a slow reader");
}
