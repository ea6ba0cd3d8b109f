//! Every bound of `muster.toml` at a value of its own that is no default: what is just within it passes, what is just
//! beyond does not. So a setting that is not read, or read for another, is found. Those that are not here are in
//! `limits.rs`, `settings.rs`, `streams.rs` and `logins.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::client::{Client, Incoming, Login, authenticated, features};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings};
use chaos_tests::wait::{PROMPT, until};
use chaos_tests::wire::Wire;
use tokio::time::timeout;
use xmpp::ns;
use xmpp::scan::{Document, Limits};

/// How long a stream is watched that is to say nothing: twice what the default of `request_within` lets pass.
const SILENCE: Duration = Duration::from_secs(1);

const BEFORE_AUTH: Limits = Limits {
    stanza_bytes_max: 3_000,
    depth_max: 6,
    elements_max: 13,
    attributes_max: 11,
    namespaces_max: 7,
};

const AFTER_AUTH: Limits = Limits {
    stanza_bytes_max: 12_000,
    depth_max: 9,
    elements_max: 29,
    attributes_max: 17,
    namespaces_max: 19,
};

const NEGOTIATION_ELEMENTS_MAX: usize = 9;
const NEGOTIATION_BYTES_MAX: usize = 5_000;
const WRONG_PROOFS_MAX: usize = 5;
const RESOURCES_MAX: usize = 13;
const THREADS: usize = 5;
const PROBE_AFTER_SECONDS: u64 = 77;
const UNACKED_MAX: usize = 7;
const UNACKED_BYTES_MAX: usize = 20_000;
const REQUEST_AFTER: usize = 5;

fn count(number: usize) -> i64 {
    i64::try_from(number).expect("settings are small")
}

fn bytes(number: usize) -> String {
    format!("{number} B")
}

fn set_limits(settings: PoolSettings, section: &'static str, limits: Limits) -> PoolSettings {
    settings
        .set(section, "stanza_bytes_max", bytes(limits.stanza_bytes_max))
        .set(section, "depth_max", count(limits.depth_max))
        .set(section, "elements_max", count(limits.elements_max))
        .set(section, "attributes_max", count(limits.attributes_max))
        .set(section, "namespaces_max", count(limits.namespaces_max))
}

fn unusual() -> PoolSettings {
    let settings = set_limits(PoolSettings::nodes(1), "limits_before_auth", BEFORE_AUTH);
    set_limits(settings, "limits_after_auth", AFTER_AUTH)
        .set(
            "negotiation",
            "elements_max",
            count(NEGOTIATION_ELEMENTS_MAX),
        )
        .set("negotiation", "bytes_max", bytes(NEGOTIATION_BYTES_MAX))
        .set("negotiation", "wrong_proofs_max", count(WRONG_PROOFS_MAX))
        .set("clients", "resources_max", count(RESOURCES_MAX))
        .set("clients", "threads", count(THREADS))
        .set("clients", "probe_after", format!("{PROBE_AFTER_SECONDS} s"))
        .set("stream_management", "unacked_max", count(UNACKED_MAX))
        .set(
            "stream_management",
            "unacked_bytes_max",
            bytes(UNACKED_BYTES_MAX),
        )
        .set("stream_management", "request_after", count(REQUEST_AFTER))
        .set("stream_management", "request_within", "1 h")
}

/// A message of exactly so many bytes.
fn sized(bytes: usize) -> String {
    let (head, tail) = (format!("<message to='a@{DOMAIN}/b'><a>"), "</a></message>");
    format!(
        "{head}{}{tail}",
        "x".repeat(bytes - head.len() - tail.len())
    )
}

fn nested(depth: usize) -> String {
    let inner = depth - 1;
    format!(
        "<message to='a@{DOMAIN}/b'>{}{}</message>",
        "<a>".repeat(inner),
        "</a>".repeat(inner)
    )
}

fn with_elements(count: usize) -> String {
    format!(
        "<message to='a@{DOMAIN}/b'>{}</message>",
        "<a/>".repeat(count - 1)
    )
}

fn with_attributes(count: usize) -> String {
    let attributes: String = (0..count).map(|n| format!(" a{n}='1'")).collect();
    format!("<message to='a@{DOMAIN}/b'><a{attributes}/></message>")
}

/// One a child, since a declaration is an attribute as well.
fn with_namespaces(count: usize) -> String {
    format!(
        "<message to='a@{DOMAIN}/b'>{}</message>",
        "<a xmlns='u'/>".repeat(count)
    )
}

/// What each bound of an element is called, what just keeps it and every other, and what is one more.
fn probes(limits: Limits) -> [(&'static str, [String; 2]); 5] {
    let pair = |make: fn(usize) -> String, max: usize| [make(max), make(max + 1)];
    [
        ("bytes", pair(sized, limits.stanza_bytes_max)),
        ("depth", pair(nested, limits.depth_max)),
        ("elements", pair(with_elements, limits.elements_max)),
        ("attributes", pair(with_attributes, limits.attributes_max)),
        ("namespaces", pair(with_namespaces, limits.namespaces_max)),
    ]
}

fn condition_of(document: &Document) -> Option<String> {
    let root = document.root();
    let error = root.is("error", ns::STREAM);
    let condition = root
        .children()
        .find(|child| child.ns() == ns::STREAM_ERROR)?;
    error.then(|| condition.name().to_owned())
}

/// A stream before authentication.
async fn opened(address: SocketAddr) -> Result<Wire> {
    let mut wire = Wire::plain(address).await?;
    features(&mut wire, DOMAIN).await?;
    Ok(wire)
}

/// Sends something and takes the condition with which the stream ends.
async fn ends(wire: &mut Wire, text: &str) -> Result<String> {
    wire.send(text.as_bytes()).await?;
    let came = wire.element("the end").await?;
    condition_of(&came).with_context(|| format!("no stream error: {}", came.source()))
}

/// A stanza that is within all bounds is only too early.
async fn elements_before_authentication(pool: &Pool) -> Result<()> {
    for (name, [within, beyond]) in probes(BEFORE_AUTH) {
        for (stanza, condition) in [(within, "not-authorized"), (beyond, "policy-violation")] {
            let mut wire = opened(pool.node(1).clients).await?;
            let ended = ends(&mut wire, &stanza).await.context(name)?;
            ensure!(
                ended == condition,
                "{name} before authentication: {ended}, not {condition}"
            );
        }
    }
    Ok(())
}

async fn stanzas_after_authentication(pool: &Pool) -> Result<()> {
    for (name, [within, beyond]) in probes(AFTER_AUTH) {
        let mut client = Client::connect(&pool.login(1, name)).await?;
        client.send(&within).await?;
        let ping = "<ping xmlns='urn:xmpp:ping'/>";
        client.iq_ok("get", None, ping).await.context(name)?;
        client.send(&beyond).await?;
        let ended = client.find("the end", PROMPT, condition_of).await;
        let ended = ended.with_context(|| format!("{name} after authentication"))?;
        ensure!(
            ended == "policy-violation",
            "{name} after authentication: {ended}"
        );
    }
    Ok(())
}

/// An attempt with a mechanism that there is not; it is answered, and counts as no guess.
const NO_MECHANISM: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='NONE'/>";

/// `\0romeo\0wrong` in base 64.
const WRONG_PROOF: &str =
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHdyb25n</auth>";

/// So many answered failures, and then the end.
async fn failures(address: SocketAddr, request: &str, answered: usize) -> Result<Wire> {
    let mut wire = opened(address).await?;
    for number in 1..=answered {
        wire.send(request.as_bytes()).await?;
        let came = wire.element("a failure").await?;
        ensure!(
            came.root().is("failure", ns::SASL),
            "answer {number}: {}",
            came.source()
        );
    }
    Ok(wire)
}

async fn negotiations(pool: &Pool) -> Result<()> {
    let address = pool.node(1).clients;
    // The stream's header is one of the elements.
    let mut wire = failures(address, NO_MECHANISM, NEGOTIATION_ELEMENTS_MAX - 1).await?;
    let ended = ends(&mut wire, NO_MECHANISM)
        .await
        .context("one element more")?;
    ensure!(ended == "policy-violation", "elements: {ended}");
    // The last one is answered as well.
    let mut wire = failures(address, WRONG_PROOF, WRONG_PROOFS_MAX).await?;
    let ended = ends(&mut wire, "").await.context("the last wrong proof")?;
    ensure!(ended == "policy-violation", "wrong proofs: {ended}");
    let header = format!(
        "<stream:stream to='{DOMAIN}' version='1.0' xmlns='{}' xmlns:stream='{}'>",
        ns::CLIENT,
        ns::STREAM
    );
    let tail = "<message/>";
    for (total, condition) in [
        (NEGOTIATION_BYTES_MAX, "not-authorized"),
        (NEGOTIATION_BYTES_MAX + 1, "policy-violation"),
    ] {
        let spaces = " ".repeat(total - header.len() - tail.len());
        let mut wire = Wire::plain(address).await?;
        wire.send(format!("{header}{spaces}{tail}").as_bytes())
            .await?;
        let answer = String::from_utf8_lossy(&wire.rest(PROMPT).await?).into_owned();
        ensure!(
            answer.contains(&format!("<{condition}")),
            "{total} bytes: {answer}"
        );
    }
    Ok(())
}

async fn resources(pool: &Pool) -> Result<()> {
    let mut sessions = Vec::new();
    for number in 1..=RESOURCES_MAX {
        let session = Client::connect(&pool.login(1, "juliet")).await;
        sessions.push(session.with_context(|| format!("session {number}"))?);
    }
    let refused = Client::connect(&pool.login(1, "juliet")).await.err();
    let refused = format!("{:#}", refused.context("one session more")?);
    ensure!(refused.contains("<resource-constraint"), "{refused}");
    Ok(())
}

/// A bound stream that reads and acknowledges only when it is told to: no task does it meanwhile.
struct Passive {
    wire: Wire,
    /// Elements in the order in which they came: stanzas by their id, requests as `r`.
    came: Vec<String>,
}

impl Passive {
    async fn bound(login: &Login) -> Result<Passive> {
        let mut wire = authenticated(login).await?;
        let bind = format!(
            "<iq type='set' id='b'><bind xmlns='{}'><resource>here</resource></bind></iq>",
            ns::BIND
        );
        wire.send(bind.as_bytes()).await?;
        wire.element("the resource").await?;
        let came = Vec::new();
        Ok(Passive { wire, came })
    }

    /// The same with stream management.
    async fn managed(login: &Login) -> Result<Passive> {
        let mut passive = Passive::bound(login).await?;
        let enable = format!("<enable xmlns='{}'/>", ns::STREAM_MANAGEMENT);
        passive.wire.send(enable.as_bytes()).await?;
        let enabled = passive.wire.element("<enabled/>").await?;
        ensure!(enabled.root().name() == "enabled", "{}", enabled.source());
        Ok(passive)
    }

    /// Takes what comes up to the stanza with this id.
    async fn upto(&mut self, id: &str) -> Result<()> {
        loop {
            let came = self.wire.element(id).await;
            let came = came.with_context(|| format!("behind {:?}", self.came))?;
            let root = came.root();
            let name = root.attr("id").map(|id| id.into_owned());
            let is_it = name.as_deref() == Some(id);
            self.came
                .push(name.unwrap_or_else(|| root.name().to_owned()));
            if is_it {
                return Ok(());
            }
        }
    }

    /// Asks something: its answer waits for no acknowledgement.
    async fn ping(&mut self) -> Result<()> {
        let ping =
            format!("<iq type='get' id='ping' to='{DOMAIN}'><ping xmlns='urn:xmpp:ping'/></iq>");
        self.wire.send(ping.as_bytes()).await?;
        self.upto("ping").await
    }

    /// The first stanza after a pause brings a request with it, and the next one is an hour away.
    async fn is_asked_once(&mut self, pool: &Pool, user: &str) -> Result<()> {
        write_to(pool, user, 1, 1).await?;
        self.upto("m1").await?;
        let request = self.wire.element("<r/>").await?;
        ensure!(
            self.came == ["m1"] && request.root().name() == "r",
            "{:?}, {}",
            self.came,
            request.source()
        );
        self.came.clear();
        self.acknowledge(1).await?;
        // The answer comes when that has been read.
        let request = format!("<r xmlns='{}'/>", ns::STREAM_MANAGEMENT);
        self.wire.send(request.as_bytes()).await?;
        let answer = self.wire.element("<a/>").await?;
        ensure!(answer.root().name() == "a", "{}", answer.source());
        Ok(())
    }

    async fn acknowledge(&mut self, h: usize) -> Result<()> {
        let ack = format!("<a xmlns='{}' h='{h}'/>", ns::STREAM_MANAGEMENT);
        self.wire.send(ack.as_bytes()).await
    }
}

/// Sends messages of about so many bytes to a session, in order; returns when all are with the session's node.
async fn write_to(pool: &Pool, session: &str, messages: usize, size: usize) -> Result<()> {
    let mut sender = Client::connect(&pool.login(1, "sender")).await?;
    // To oneself, behind the others: what goes to the same node over the same roads has arrived before.
    let own = sender.jid().to_string();
    let body = "x".repeat(size);
    for number in 1..=messages {
        let to = format!("{session}@{DOMAIN}/here");
        let message = format!(
            "<message type='headline' to='{to}' id='m{number}'><body>{body}</body></message>"
        );
        sender.send(&message).await?;
    }
    sender
        .send(&format!(
            "<message type='headline' to='{own}' id='all'><body>a</body></message>"
        ))
        .await?;
    let is_last =
        |came: &Document| (came.root().attr("id").as_deref() == Some("all")).then_some(());
    sender.find("the last", PROMPT, is_last).await?;
    sender.close().await
}

async fn acknowledgements(pool: &Pool) -> Result<()> {
    // So many stanzas are out; the request stands behind the fifth.
    let mut reader = Passive::managed(&pool.login(1, "stanzas")).await?;
    reader.is_asked_once(pool, "stanzas").await?;
    write_to(pool, "stanzas", UNACKED_MAX + 2, 1).await?;
    reader.upto(&format!("m{UNACKED_MAX}")).await?;
    reader.ping().await?;
    let expected = ["m1", "m2", "m3", "m4", "m5", "r", "m6", "m7", "ping"];
    ensure!(reader.came == expected, "{:?}", reader.came);
    reader.acknowledge(1 + UNACKED_MAX + 1).await?;
    reader.upto(&format!("m{}", UNACKED_MAX + 2)).await?;

    // What goes beyond the bytes is the last that goes.
    let mut reader = Passive::managed(&pool.login(1, "volume")).await?;
    reader.is_asked_once(pool, "volume").await?;
    write_to(pool, "volume", 4, 9_000).await?;
    reader.upto("m3").await?;
    reader.ping().await?;
    ensure!(
        reader.came == ["m1", "m2", "m3", "ping"],
        "{:?}",
        reader.came
    );
    // Fewer than those after which an acknowledgement is asked for: nobody asks.
    let silent = timeout(SILENCE, reader.wire.next()).await;
    ensure!(silent.is_err(), "{silent:?} came within an hour");
    reader.acknowledge(1 + 4).await?;
    reader.upto("m4").await
}

/// Threads of a node whose names begin so.
fn threads_of(pid: u32, name: &str) -> Result<usize> {
    let mut found = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let of_thread = std::fs::read_to_string(thread?.path().join("comm"))?;
        found += usize::from(of_thread.trim_end().starts_with(name));
    }
    Ok(found)
}

/// When the kernel will ask what is at the other end of each connection to an address, in hundredths of a second, from
/// what `/proc/net/tcp` says.
fn probes_due(table: &str, at: SocketAddr) -> Vec<u64> {
    let SocketAddr::V4(at) = at else {
        return Vec::new();
    };
    let local = format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(at.ip().octets()),
        at.port()
    );
    let due = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, of, _, state, _, timer, ..] = fields[..] else {
            return None;
        };
        // Established, and the timer is that of keepalives.
        let hex = timer
            .strip_prefix("02:")
            .filter(|_| of == local && state == "01")?;
        u64::from_str_radix(hex, 16).ok()
    };
    table.lines().filter_map(due).collect()
}

async fn machine(pool: &Pool) -> Result<()> {
    // One more serves the control port.
    let threads = threads_of(pool.pid(1)?, "actix-rt")?;
    ensure!(threads == THREADS + 1, "{threads} threads");
    let address = pool.node(1).clients;
    let _silent = opened(address).await?;
    let due = until("a connection is to be probed", PROMPT, async || {
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        probes_due(&table, address).into_iter().max()
    });
    let (due, longest) = (due.await?, 100 * PROBE_AFTER_SECONDS);
    ensure!(
        due <= longest && due > longest / 2,
        "asked after {due}, not {longest}"
    );
    Ok(())
}

async fn table() -> Result<()> {
    let pool = Pool::start(&unusual()).await?;
    let of_probes = probes(AFTER_AUTH).map(|(name, _)| name);
    let others = ["romeo", "juliet", "sender", "stanzas", "volume"];
    pool.add_users(of_probes.into_iter().chain(others)).await?;
    elements_before_authentication(&pool).await?;
    stanzas_after_authentication(&pool).await?;
    negotiations(&pool).await?;
    resources(&pool).await?;
    acknowledgements(&pool).await?;
    machine(&pool).await
}

/// `[limits_before_auth]`, `[limits_after_auth]`, `[negotiation]`, and what `[clients]` and `[stream_management]` bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bound_holds_where_it_was_set() {
    table().await.expect("the bounds that were set");
}

async fn negotiation_times() -> Result<()> {
    let settings = PoolSettings::nodes(1)
        .set("negotiation", "step", "2 s")
        .set("negotiation", "total", "3 s")
        .set("negotiation", "elements_max", i64::from(u32::MAX))
        .set("negotiation", "bytes_max", "1 GiB");
    let pool = Pool::start(&settings).await?;
    let address = pool.node(1).clients;
    let silent = async {
        let ended = ends(&mut opened(address).await?, "").await?;
        ensure!(ended == "connection-timeout", "a silent stream: {ended}");
        anyhow::Ok(())
    };
    // Never silent for a step, and never done.
    let busy = async {
        let mut wire = opened(address).await?;
        loop {
            wire.send(NO_MECHANISM.as_bytes()).await?;
            let came = wire.element("a failure or the end").await?;
            if let Some(ended) = condition_of(&came) {
                ensure!(ended == "connection-timeout", "a busy stream: {ended}");
                return anyhow::Ok(());
            }
        }
    };
    timeout(PROMPT, async { tokio::try_join!(silent, busy) })
        .await
        .context("a stream goes on")??;
    Ok(())
}

/// `[negotiation] step` and `total`: who says nothing has less time than who never comes to an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_has_its_time() {
    negotiation_times().await.expect("times that were set");
}

const UNSETTLED_MAX: usize = 6;
const ARCHIVE_QUERIES_MAX: usize = 3;

/// Shorter than the default of `settle_within`.
const SETTLED: Duration = Duration::from_secs(8);

/// Sends so many messages that can't be committed, a request behind the first, and at last what ends every stream that is
/// read; gives what came.
async fn unsettled(pool: &Pool, user: &str, messages: usize) -> Result<Vec<String>> {
    let login = Login {
        stream_management: true,
        ..pool.login(1, user)
    };
    let mut client = Client::connect(&login).await?;
    freeze(pool)?;
    for number in 0..messages {
        let message =
            format!("<message type='chat' to='a@{DOMAIN}'><body>{number}</body></message>");
        client.send(&message).await?;
        if number == 0 {
            client.send_raw("<r xmlns='urn:xmpp:sm:3'/>").await?;
        }
    }
    client.send_raw("<unknown xmlns='urn:unknown'/>").await?;
    let mut came = Vec::new();
    loop {
        match client.next(SETTLED).await? {
            Incoming::Acked(h) => came.push(format!("h={h}")),
            Incoming::Element(element) => {
                came.push(condition_of(&element).unwrap_or_else(|| element.source().to_owned()));
            }
            Incoming::Closed(why) => {
                came.push(why);
                break;
            }
        }
    }
    wake(pool)?;
    Ok(came)
}

/// All nodes but the first stand still: nothing is decided.
fn freeze(pool: &Pool) -> Result<()> {
    pool.pause(2)?;
    pool.pause(3)
}

fn wake(pool: &Pool) -> Result<()> {
    pool.resume(2)?;
    pool.resume(3)
}

/// The archive queries of which it is said that they have waited too long.
async fn overdue_queries(pool: &Pool) -> Result<()> {
    let mut client = Client::connect(&pool.login(1, "queries")).await?;
    freeze(pool)?;
    let query = |number| {
        format!(
            "<iq type='set' id='q{number}'><query xmlns='{}'/></iq>",
            ns::MAM
        )
    };
    let row: String = (1..=2 * ARCHIVE_QUERIES_MAX).map(query).collect();
    client.send_raw(&row).await?;
    let mut refused = Vec::new();
    let expected: Vec<String> = (ARCHIVE_QUERIES_MAX + 1..=2 * ARCHIVE_QUERIES_MAX)
        .map(|number| format!("q{number}"))
        .collect();
    while refused.len() < expected.len() {
        let came = client.next_element(SETTLED).await?;
        let root = came.root();
        let is_error = root.name() == "iq" && root.attr("type").as_deref() == Some("error");
        if !is_error {
            bail!("{}, after {refused:?} were refused", came.source());
        }
        refused.extend(root.attr("id").map(|id| id.into_owned()));
    }
    wake(pool)?;
    ensure!(refused == expected, "refused: {refused:?}");
    Ok(())
}

async fn undecided() -> Result<()> {
    let settings = PoolSettings::nodes(3)
        .set("clients", "archive_queries_max", count(ARCHIVE_QUERIES_MAX))
        .set("stream_management", "unsettled_max", count(UNSETTLED_MAX))
        .set("stream_management", "answer_within", "1 h")
        .set("stream_management", "settle_within", "2 s");
    let mut pool = Pool::start(&settings).await?;
    pool.add_users(["reads", "waits", "queries"]).await?;
    let read = unsettled(&pool, "reads", UNSETTLED_MAX - 1).await?;
    ensure!(
        read == ["unsupported-stanza-type", "end of stream"],
        "one less: {read:?}"
    );
    pool.all_ready().await?;
    let unread = unsettled(&pool, "waits", UNSETTLED_MAX).await?;
    ensure!(unread == ["end of socket"], "as many as may be: {unread:?}");
    pool.all_ready().await?;
    overdue_queries(&pool).await
}

/// `[stream_management] unsettled_max`, `answer_within`, `settle_within` and `[clients] archive_queries_max`, in a pool that
/// decides nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_undecided_is_bounded() {
    undecided().await.expect("bounds of what is undecided");
}

/// Stanzas of 40 KiB: more than the sockets and the default of `outgoing_bytes_max` hold together.
const DUE: usize = 512;

/// How long these may take on a busy machine.
const DUE_WITHIN: Duration = Duration::from_secs(30);

async fn outgoing() -> Result<()> {
    let settings = PoolSettings::nodes(1).set("clients", "outgoing_bytes_max", "48 MiB");
    let pool = Pool::start(&settings).await?;
    pool.add_users(["sender", "idle"]).await?;
    let mut idle = Passive::bound(&pool.login(1, "idle")).await?;
    let mut sender = Client::connect(&pool.login(1, "sender")).await?;
    let body = "x".repeat(40 << 10);
    for number in 1..=DUE {
        let to = format!("idle@{DOMAIN}/here");
        let message =
            format!("<message type='chat' to='{to}' id='m{number}'><body>{body}</body></message>");
        sender.send(&message).await?;
    }
    let control = &pool.node(1).control;
    until("all is due to the client", DUE_WITHIN, async || {
        let sent = control.counter("stanzas_sent").await.ok()?;
        (sent >= DUE as u64).then_some(())
    })
    .await?;
    ensure!(
        control.counter("slow_sessions").await? == 0,
        "it counts as slow"
    );
    idle.upto(&format!("m{DUE}")).await?;
    // Without stream management it was asked by a ping as well.
    idle.came.retain(|id| id.starts_with('m'));
    let all: Vec<String> = (1..=DUE).map(|number| format!("m{number}")).collect();
    ensure!(idle.came == all, "{:?}", idle.came);
    sender.close().await
}

/// `[clients] outgoing_bytes_max`: what may be due to a client that does not read waits for it. `limits.rs` has the other
/// side, with less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_much_as_was_set_may_be_due_to_a_client() {
    outgoing().await.expect("all that was due");
}
