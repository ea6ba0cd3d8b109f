//! What a stream may and may not do until it is bound, over real sockets: beyond bad input, which is in `streams.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chaos_tests::client::{Client, authenticated, feature_names, features};
use chaos_tests::pool::{DOMAIN, Pool, PoolSettings, password};
use chaos_tests::wait::PROMPT;
use chaos_tests::wire::Wire;
use xmpp::ns;
use xmpp::stream::features::{FEATURES, Place};

const SASL: &str = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";

async fn start(settings: &PoolSettings) -> Result<Pool> {
    let pool = Pool::start(settings).await?;
    pool.add_users(["romeo"]).await?;
    Ok(pool)
}

async fn send(wire: &mut Wire, text: &str) -> Result<()> {
    wire.send(text.as_bytes()).await
}

/// The answer to an `<auth/>` with this message.
async fn auth(wire: &mut Wire, mechanism: &str, message: &str) -> Result<String> {
    let message = BASE64.encode(message);
    send(
        wire,
        &format!("<auth {SASL} mechanism='{mechanism}'>{message}</auth>"),
    )
    .await?;
    Ok(wire.element("an answer").await?.source().to_owned())
}

/// A challenge of SCRAM-SHA-256 to this user: salt and iterations.
async fn challenge(pool: &Pool, node: u64, user: &str) -> Result<(String, String)> {
    let mut wire = Wire::plain(pool.node(node).clients).await?;
    features(&mut wire, DOMAIN).await?;
    let first = format!("n,,n={user},r=abcdefgh");
    send(
        &mut wire,
        &format!(
            "<auth {SASL} mechanism='SCRAM-SHA-256'>{}</auth>",
            BASE64.encode(first)
        ),
    )
    .await?;
    let answer = wire.element("a challenge").await?;
    let text = String::from_utf8(BASE64.decode(answer.root().text().as_bytes())?)?;
    let part = |name: &str| {
        let part = text.split(',').find_map(|part| part.strip_prefix(name));
        part.map(str::to_owned)
            .with_context(|| format!("no {name} in {text}"))
    };
    Ok((part("s=")?, part("i=")?))
}

async fn unknown_users() -> Result<()> {
    let pool = start(&PoolSettings::nodes(3)).await?;
    let mut salts = BTreeSet::new();
    for user in ["romeo", "nobody", "nemo"] {
        let seen = challenge(&pool, 1, user).await?;
        for node in [1, 2, 3] {
            let again = challenge(&pool, node, user).await?;
            ensure!(
                again == seen,
                "{user} on node {node}: {again:?}, not {seen:?}"
            );
        }
        ensure!(seen.1 == "4096", "{user}: {} iterations", seen.1);
        ensure!(
            seen.0.len() == challenge(&pool, 1, "romeo").await?.0.len(),
            "{user}"
        );
        ensure!(salts.insert(seen.0), "two users with one salt");
    }
    Ok(())
}

/// RFC 5802 §5.1: nobody learns from a challenge who has an account, on whichever node and how often he asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_user_is_challenged_like_a_known_one() {
    unknown_users().await.expect("challenges");
}

async fn refusals() -> Result<()> {
    let pool = start(&PoolSettings::nodes(1)).await?;
    let mut wire = Wire::plain(pool.node(1).clients).await?;
    features(&mut wire, DOMAIN).await?;
    let secret = password("romeo");
    for (mechanism, message, condition) in [
        (
            "PLAIN",
            format!("juliet@localhost\0romeo\0{secret}"),
            "invalid-authzid",
        ),
        (
            "PLAIN",
            format!("romeo\0romeo\0{secret}"),
            "invalid-authzid",
        ),
        (
            "SCRAM-SHA-1",
            "n,a=juliet@localhost,n=romeo,r=abcdefgh".to_owned(),
            "invalid-authzid",
        ),
        (
            "SCRAM-SHA-1-PLUS",
            "p=tls-exporter,,n=romeo,r=abcdefgh".to_owned(),
            "invalid-mechanism",
        ),
        (
            "SCRAM-SHA-1",
            "p=tls-exporter,,n=romeo,r=abcdefgh".to_owned(),
            "malformed-request",
        ),
        ("ANONYMOUS", String::new(), "invalid-mechanism"),
        ("PLAIN", "romeo".to_owned(), "malformed-request"),
    ] {
        let answer = auth(&mut wire, mechanism, &message).await?;
        ensure!(
            answer.contains(&format!("<{condition}")),
            "{mechanism}: {answer}"
        );
    }
    // None of these was a wrong proof: the stream still takes the right one.
    let answer = auth(
        &mut wire,
        "PLAIN",
        &format!("romeo@localhost\0romeo\0{secret}"),
    )
    .await?;
    ensure!(answer.contains("<success"), "{answer}");
    // The account belongs to its domain from here on, and to the user.
    wire.restart();
    let other = format!(
        "<stream:stream to='{DOMAIN}' from='juliet@{DOMAIN}' version='1.0' xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams'>"
    );
    send(&mut wire, &other).await?;
    let answer = String::from_utf8_lossy(&wire.rest(PROMPT).await?).into_owned();
    ensure!(answer.contains("<invalid-from"), "{answer}");
    Ok(())
}

/// RFC 6120 §6.3.8, §6.5: acting as another is not offered; each refusal says why, and the stream goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_logins_say_why_and_may_be_tried_again() {
    refusals().await.expect("refusals");
}

async fn injection() -> Result<()> {
    let settings = PoolSettings::nodes(1).set("negotiation", "step", "2 s");
    let pool = start(&settings).await?;
    let mut wire = Wire::plain(pool.node(1).clients).await?;
    features(&mut wire, DOMAIN).await?;
    let login = BASE64.encode(format!("\0romeo\0{}", password("romeo")));
    let injected = format!(
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\
         <auth {SASL} mechanism='PLAIN'>{login}</auth>"
    );
    send(&mut wire, &injected).await?;
    let answer = wire.element("an answer").await?;
    ensure!(answer.root().is("proceed", ns::TLS), "{}", answer.source());
    // Whatever stands behind is not taken for the client's: it is no handshake, and there is no success in it.
    let rest = wire.rest(PROMPT).await?;
    let rest = String::from_utf8_lossy(&rest);
    ensure!(!rest.contains("success"), "{rest}");
    Ok(())
}

/// RFC 6120 §5.4.3.3: an attacker in the middle can't have plain text taken for what comes under TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_behind_starttls_is_read_as_xml() {
    injection().await.expect("an injection");
}

async fn byte_by_byte() -> Result<()> {
    let pool = start(&PoolSettings::nodes(1)).await?;
    let mut wire = Wire::plain(pool.node(1).clients).await?;
    // A newer version is answered with ours; a declaration may stand at every start, white space between elements.
    let header = format!(
        "<?xml version='1.0'?><stream:stream to='{DOMAIN}' version='2.0' xmlns='jabber:client' \
         xmlns:stream='http://etherx.jabber.org/streams'>"
    );
    let login = BASE64.encode(format!("\0romeo\0{}", password("romeo")));
    let one_by_one = async |wire: &mut Wire, text: &str| -> Result<()> {
        for byte in text.bytes() {
            wire.send(&[byte]).await?;
        }
        Ok(())
    };
    one_by_one(&mut wire, &header).await?;
    wire.expect("a header", PROMPT).await?;
    wire.element("features").await?;
    one_by_one(
        &mut wire,
        &format!(" \n<auth {SASL} mechanism='PLAIN'>{login}</auth>"),
    )
    .await?;
    let answer = wire.element("success").await?;
    ensure!(answer.root().is("success", ns::SASL), "{}", answer.source());
    wire.restart();
    one_by_one(&mut wire, &header).await?;
    wire.expect("a header", PROMPT).await?;
    wire.element("features").await?;
    let requests = "\n<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq> \t\n \
                    <iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>";
    one_by_one(&mut wire, requests).await?;
    for id in ["b", "p"] {
        let answer = wire.element("a result").await?;
        let root = answer.root();
        ensure!(
            root.attr("id").as_deref() == Some(id)
                && root.attr("type").as_deref() == Some("result"),
            "{}",
            answer.source()
        );
    }
    Ok(())
}

/// RFC 6120 §4.7.5, §4.6.1, §11.5: how the bytes arrive makes no difference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_byte_by_byte() {
    byte_by_byte().await.expect("a login");
}

async fn silent_clients() -> Result<()> {
    let settings = PoolSettings::nodes(1).set("stream_management", "acknowledge_within", "1 s");
    let pool = start(&settings).await?;
    for enable in ["", "<enable xmlns='urn:xmpp:sm:3'/>"] {
        let mut wire = authenticated(&pool.login(1, "romeo")).await?;
        // What it is sent back, it does not acknowledge: neither by a count nor by the answer to a ping.
        let said = format!(
            "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>{enable}<presence/>\
             <message to='romeo@{DOMAIN}' type='chat'><body>a</body></message>"
        );
        send(&mut wire, &said).await?;
        let answer = String::from_utf8_lossy(&wire.rest(PROMPT).await?).into_owned();
        ensure!(answer.contains("<connection-timeout"), "{enable}: {answer}");
        ensure!(answer.ends_with("</stream:stream>"), "{answer}");
    }
    Ok(())
}

/// RFC 6120 §4.6.4: a peer that answers nothing is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_is_told_so() {
    silent_clients().await.expect("silent clients");
}

async fn advertised() -> Result<()> {
    let settings = PoolSettings::nodes(1).set("clients", "registration", true);
    let pool = start(&settings).await?;
    let mut wire = Wire::plain(pool.node(1).clients).await?;
    let before = features(&mut wire, DOMAIN).await?;
    let login = BASE64.encode(format!("\0romeo\0{}", password("romeo")));
    send(
        &mut wire,
        &format!("<auth {SASL} mechanism='PLAIN'>{login}</auth>"),
    )
    .await?;
    wire.element("success").await?;
    wire.restart();
    let after = features(&mut wire, DOMAIN).await?;
    let (before, after) = (feature_names(&before), feature_names(&after));
    let seen: Vec<String> = before
        .iter()
        .chain(&after)
        .map(|(_, ns)| ns.clone())
        .collect();
    let registered: Vec<&str> = FEATURES
        .iter()
        .filter(|feature| matches!(feature.advertised, [Place::Stream(_), ..]))
        .map(|feature| feature.namespace)
        .collect();
    // The registry's order is that in which they are written.
    ensure!(
        seen == registered,
        "{seen:?} are advertised, {registered:?} registered"
    );
    Ok(())
}

/// Streams advertise what the registry of features says, no more and no less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_advertise_the_registry() {
    advertised().await.expect("features");
}

async fn limits() -> Result<()> {
    let settings = PoolSettings::nodes(1).set("limits_after_auth", "stanza_bytes_max", "16 KiB");
    let pool = start(&settings).await?;
    let mut wire = Wire::plain(pool.node(1).clients).await?;
    features(&mut wire, DOMAIN).await?;
    let secret = password("romeo");
    auth(&mut wire, "PLAIN", &format!("\0romeo\0{secret}")).await?;
    wire.restart();
    let offered = features(&mut wire, DOMAIN).await?;
    let bytes_max = offered
        .root()
        .child("limits", ns::STREAM_LIMITS)
        .and_then(|limits| limits.child("max-bytes", ns::STREAM_LIMITS))
        .and_then(|max| max.text().parse::<usize>().ok())
        .context("no limit")?;
    ensure!(bytes_max == 16 << 10, "{bytes_max}");
    drop(wire);
    let message = |size: usize| {
        let (head, tail) = ("<message to='romeo@localhost'><body>", "</body></message>");
        format!("{head}{}{tail}", "x".repeat(size - head.len() - tail.len()))
    };
    let mut client = Client::connect(&pool.login(1, "romeo")).await?;
    client.send(&message(bytes_max)).await?;
    client
        .iq_ok("get", None, "<ping xmlns='urn:xmpp:ping'/>")
        .await?;
    client.send(&message(bytes_max + 1)).await?;
    client
        .find("the end", PROMPT, |came| {
            let error = came.root().child("policy-violation", ns::STREAM_ERROR);
            error.map(|_| ())
        })
        .await
}

/// XEP-0478: what is said of limits is what holds, to the byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_advertised_and_kept() {
    limits().await.expect("limits");
}

/// How long a step may take here; what waits longer is cut.
const STEP: Duration = Duration::from_secs(1);

async fn handshakes() -> Result<()> {
    let settings = PoolSettings::nodes(1).set("negotiation", "step", "1 s");
    let pool = start(&settings).await?;
    let node = pool.node(1);
    let began = tokio::time::Instant::now();
    // Nothing where TLS should begin, or a part of it: closed without a word that could be no TLS.
    for bytes in [&b""[..], b"\x16\x03\x01"] {
        let mut wire = Wire::plain(node.clients_tls).await?;
        wire.send(bytes).await?;
        ensure!(wire.rest(PROMPT).await?.is_empty(), "words before TLS");
    }
    ensure!(began.elapsed() >= 2 * STEP, "cut too early");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_do_not_go_on_are_cut() {
    handshakes().await.expect("handshakes");
}
