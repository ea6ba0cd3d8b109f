//! Bytes in, stream error out: every row of what RFC 6120 says about bad input, over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use chaos_tests::client::{
    Client, Hash, Incoming, Login, Mechanism, Security, authenticated, feature_names, features,
};
use chaos_tests::pool::{Pool, PoolSettings};
use chaos_tests::wire::Wire;
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(15);

const NS: &str = "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'";

/// A pool of one node that does not wait long for a client's own end of stream.
async fn pool() -> Pool {
    let settings = PoolSettings::nodes(1)
        .set("negotiation", "close", "500 ms")
        .set("clients", "retired_domains", vec!["old.example"]);
    let pool = Pool::start(&settings).await.expect("the pool starts");
    pool.add_users(["romeo"]).await.expect("an account");
    pool
}

fn header() -> String {
    format!("<?xml version='1.0'?><stream:stream to='localhost' version='1.0' {NS}>")
}

/// What a row sends.
enum Input {
    /// Bytes instead of a stream header.
    Raw(Vec<u8>),
    /// Text behind a good header.
    After(String),
}

fn raw(text: impl Into<Vec<u8>>) -> Input {
    Input::Raw(text.into())
}

fn after(text: impl Into<String>) -> Input {
    Input::After(text.into())
}

fn nested(depth: usize) -> String {
    format!(
        "<message>{}{}</message>",
        "<a>".repeat(depth),
        "</a>".repeat(depth)
    )
}

fn with_attributes(count: usize) -> String {
    let attributes: String = (0..count).map(|n| format!(" a{n}='1'")).collect();
    format!("<message{attributes}/>")
}

fn with_namespaces(count: usize) -> String {
    let declared: String = (0..count).map(|n| format!(" xmlns:a{n}='u'")).collect();
    format!("<message{declared}/>")
}

/// The answer to a header comes first, then the condition, then the end of stream and socket.
fn judge(answer: &str, condition: &str) -> Result<()> {
    ensure!(
        answer.contains("<stream:stream"),
        "no response header: {answer}"
    );
    let error = format!("<{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'");
    ensure!(answer.contains(&error), "no {condition}: {answer}");
    ensure!(
        answer.contains("<stream:error"),
        "no stream error: {answer}"
    );
    ensure!(
        answer.trim_end().ends_with("</stream:stream>"),
        "no end of stream: {answer}"
    );
    let header_at = answer.find("<stream:stream");
    ensure!(
        header_at < answer.find("<stream:error"),
        "the error came before the header: {answer}"
    );
    Ok(())
}

async fn row(address: SocketAddr, input: Input, condition: &str) -> Result<()> {
    let bytes = match input {
        Input::Raw(bytes) => bytes,
        Input::After(text) => [header().as_bytes(), text.as_bytes()].concat(),
    };
    let mut wire = Wire::plain(address).await?;
    wire.send(&bytes).await?;
    let answer = wire.rest(LIMIT).await?;
    judge(&String::from_utf8_lossy(&answer), condition)
}

/// The rows of bad input before authentication.
fn rows() -> Vec<(&'static str, Input, &'static str)> {
    let head = |attributes: &str| raw(format!("<stream:stream {attributes}>"));
    let utf16: Vec<u8> = header().encode_utf16().flat_map(u16::to_le_bytes).collect();
    vec![
        (
            "document type",
            raw(format!("<!DOCTYPE a>{}", header())),
            "restricted-xml",
        ),
        ("comment", after("<!-- a -->"), "restricted-xml"),
        (
            "comment in a stanza",
            after("<iq><!-- a --></iq>"),
            "restricted-xml",
        ),
        (
            "processing instruction",
            after("<?php a?>"),
            "restricted-xml",
        ),
        (
            "undefined entity",
            after("<message><body>&auml;</body></message>"),
            "restricted-xml",
        ),
        ("mismatched tag", after("<message></iq>"), "not-well-formed"),
        ("unbound prefix", after("<a:b/>"), "not-well-formed"),
        (
            "duplicate attribute",
            after("<message id='1' id='2'/>"),
            "not-well-formed",
        ),
        (
            "duplicate attribute by namespace",
            after("<message xmlns:a='u' xmlns:b='u' a:x='1' b:x='2'/>"),
            "not-well-formed",
        ),
        (
            "bare <",
            after("<message><body>1 < 2</body></message>"),
            "not-well-formed",
        ),
        (
            "NUL",
            after("<message><body>\0</body></message>"),
            "not-well-formed",
        ),
        (
            "illegal character reference",
            after("<message><body>&#0;</body></message>"),
            "not-well-formed",
        ),
        (
            "HTTP",
            raw("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            "not-well-formed",
        ),
        (
            "TLS",
            raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
            "not-well-formed",
        ),
        (
            "invalid UTF-8",
            raw([header().as_bytes(), b"<message><body>\xff\xfe</body>"].concat()),
            "unsupported-encoding",
        ),
        (
            "overlong UTF-8",
            raw([header().as_bytes(), b"<message><body>\xc0\xaf</body>"].concat()),
            "unsupported-encoding",
        ),
        (
            "surrogates",
            raw([header().as_bytes(), b"<message><body>\xed\xa0\x80</body>"].concat()),
            "unsupported-encoding",
        ),
        ("UTF-16", raw(utf16), "unsupported-encoding"),
        (
            "ISO-8859-1",
            raw(format!(
                "<?xml version='1.0' encoding='ISO-8859-1'?><stream:stream to='localhost' version='1.0' {NS}>"
            )),
            "unsupported-encoding",
        ),
        (
            "wrong stream namespace",
            head("to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='urn:wrong'"),
            "invalid-namespace",
        ),
        (
            "server namespace",
            head(
                "to='localhost' version='1.0' xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'",
            ),
            "invalid-namespace",
        ),
        (
            "unknown default namespace",
            head(
                "to='localhost' version='1.0' xmlns='urn:wrong' xmlns:stream='http://etherx.jabber.org/streams'",
            ),
            "invalid-namespace",
        ),
        (
            "another prefix",
            raw(
                "<s:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'>",
            ),
            "bad-namespace-prefix",
        ),
        ("text at stream level", after("hello"), "bad-format"),
        (
            "no to",
            head(&format!("version='1.0' {NS}")),
            "improper-addressing",
        ),
        (
            "unserved host",
            head(&format!("to='example.org' version='1.0' {NS}")),
            "host-unknown",
        ),
        (
            "retired host",
            head(&format!("to='old.example' version='1.0' {NS}")),
            "host-gone",
        ),
        (
            "presence before authentication",
            after("<presence/>"),
            "not-authorized",
        ),
        (
            "message before authentication",
            after("<message to='a@localhost'/>"),
            "not-authorized",
        ),
        (
            "iq before authentication",
            after("<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>"),
            "not-authorized",
        ),
        (
            "unknown element",
            after("<a xmlns='urn:unknown'/>"),
            "unsupported-stanza-type",
        ),
        (
            "too large",
            after(format!("<message><body>{}", "x".repeat(10_000))),
            "policy-violation",
        ),
        ("too deep", after(nested(10)), "policy-violation"),
        (
            "too many elements",
            after(format!("<message>{}</message>", "<a/>".repeat(40))),
            "policy-violation",
        ),
        (
            "too many attributes",
            after(with_attributes(20)),
            "policy-violation",
        ),
        (
            "too many namespaces",
            after(with_namespaces(10)),
            "policy-violation",
        ),
        (
            "no version",
            head(&format!("to='localhost' {NS}")),
            "unsupported-version",
        ),
        (
            "version 0.9",
            head(&format!("to='localhost' version='0.9' {NS}")),
            "unsupported-version",
        ),
        (
            "version garbage",
            head(&format!("to='localhost' version='x' {NS}")),
            "unsupported-version",
        ),
    ]
}

/// An attempt with a wrong password; `\0romeo\0wrong` in base 64.
const WRONG_PROOF: &str =
    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHdyb25n</auth>";

const NO_MECHANISM: &str = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='NONE'/>";

/// What a stream may cost before authentication: bytes, elements, wrong proofs, time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_before_authentication() {
    let settings = PoolSettings::nodes(1)
        .set("negotiation", "close", "500 ms")
        .set("negotiation", "step", "1 s");
    let pool = Pool::start(&settings).await.expect("the pool starts");
    pool.add_users(["romeo"]).await.expect("an account");
    let address = pool.node(1).clients;
    let check = async |name: &str, text: String, condition: &str| {
        let result = row(address, after(text), condition).await;
        result.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    };
    check(
        "white space without end",
        " ".repeat(40_000),
        "policy-violation",
    )
    .await;
    check(
        "requests without end",
        NO_MECHANISM.repeat(40),
        "policy-violation",
    )
    .await;
    check(
        "three wrong proofs",
        WRONG_PROOF.repeat(3),
        "policy-violation",
    )
    .await;
    check("silence", String::new(), "connection-timeout").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_before_authentication() {
    let pool = pool().await;
    let address = pool.node(1).clients;
    let mut running = JoinSet::new();
    for (name, input, condition) in rows() {
        running.spawn(async move {
            row(address, input, condition)
                .await
                .err()
                .map(|error| format!("{name}: {error:#}"))
        });
    }
    let failures: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_after_authentication() {
    let pool = pool().await;
    let check = async |name: &str, input: String, condition: &str| {
        let mut client = Client::connect(&pool.login(1, "romeo"))
            .await
            .expect("a client");
        client.send_raw(&input).await.expect("it is sent");
        let error = client
            .next_element(LIMIT)
            .await
            .unwrap_or_else(|e| panic!("{name}: {e:#}"));
        let namespace = "urn:ietf:params:xml:ns:xmpp-streams";
        assert!(
            error.root().child(condition, namespace).is_some(),
            "{name}: {}",
            error.source()
        );
        let end = client
            .next(LIMIT)
            .await
            .unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert!(matches!(end, Incoming::Closed(_)), "{name}: {end:?}");
    };
    let body = |len: usize| {
        format!(
            "<message to='romeo@localhost'><body>{}</body></message>",
            "x".repeat(len)
        )
    };
    check("too large", body(300_000), "policy-violation").await;
    check("too deep", nested(70), "policy-violation").await;
    let many = format!("<message>{}</message>", "<a/>".repeat(5000));
    check("too many elements", many, "policy-violation").await;
    check(
        "too many attributes",
        with_attributes(70),
        "policy-violation",
    )
    .await;
    check(
        "too many namespaces",
        with_namespaces(40),
        "policy-violation",
    )
    .await;
    check("comment", "<!-- a -->".into(), "restricted-xml").await;
    let entity = "<message to='romeo@localhost'><body>&auml;</body></message>";
    check("undefined entity", entity.into(), "restricted-xml").await;
    let unknown = "<a xmlns='urn:unknown'/>";
    check("unknown element", unknown.into(), "unsupported-stanza-type").await;
    check("mismatched tag", "<message></iq>".into(), "not-well-formed").await;
    check("text", "hello".into(), "bad-format").await;
    let forged = "<message from='juliet@localhost' to='romeo@localhost'/>";
    check("forged sender", forged.into(), "invalid-from").await;
    check(
        "server stanza",
        "<message xmlns='jabber:server'/>".into(),
        "invalid-namespace",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stanzas_before_bind() {
    let pool = pool().await;
    let login = pool.login(1, "romeo");
    let mut wire = authenticated(&login).await.expect("authenticated");
    wire.send(b"<message to='juliet@localhost'><body>a</body></message>")
        .await
        .expect("sent");
    let answer = wire.rest(LIMIT).await.expect("the end");
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.contains("<not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'"),
        "{answer}"
    );

    // To the server: an error, and the stream lives on to bind.
    let mut wire = authenticated(&login).await.expect("authenticated");
    wire.send(b"<iq type='get' id='1' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
        .await
        .expect("sent");
    let text = wire.element("an answer").await.expect("it comes");
    let text = text.source();
    assert!(
        text.starts_with("<iq ") && text.contains("type='error'"),
        "{text}"
    );
    wire.send(b"<iq type='set' id='2'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
        .await
        .expect("sent");
    let text = wire.element("the bound address").await.expect("it comes");
    let text = text.source();
    assert!(text.contains("romeo@localhost/"), "{text}");

    // XEP-0198 §3: enabling before bind is an unexpected request.
    let mut wire = authenticated(&login).await.expect("authenticated");
    wire.send(b"<enable xmlns='urn:xmpp:sm:3'/>")
        .await
        .expect("sent");
    let text = wire.element("an answer").await.expect("it comes");
    let text = text.source();
    assert!(text.contains("unexpected-request"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_log_in() {
    let pool = pool().await;
    let mechanisms = [
        Mechanism::Plain,
        Mechanism::Scram(Hash::Sha1),
        Mechanism::Scram(Hash::Sha256),
        Mechanism::Scram(Hash::Sha512),
    ];
    for security in [Security::StartTls, Security::DirectTls, Security::Plain] {
        for mechanism in mechanisms {
            let node = pool.node(1);
            let address = if security == Security::DirectTls {
                node.clients_tls
            } else {
                node.clients
            };
            let good = Login {
                address,
                security,
                mechanism,
                stream_management: true,
                ..pool.login(1, "romeo")
            };
            let client = Client::connect(&good).await;
            let client =
                client.unwrap_or_else(|error| panic!("{security:?} {mechanism:?}: {error:#}"));
            assert_eq!(client.jid().bare().as_str(), "romeo@localhost");
            client.close().await.expect("the server ends the stream");
            for (user, secret) in [("romeo", "wrong"), ("nobody", "romeo-password")] {
                let bad = Login {
                    user: user.into(),
                    password: secret.into(),
                    ..good.clone()
                };
                let error = Client::connect(&bad).await.err().expect("refused");
                assert!(
                    format!("{error:#}").contains("not-authorized"),
                    "{user}: {error:#}"
                );
            }
        }
    }
}

/// What is offered when: nothing but TLS before TLS, passwords only under it, the rest after authentication.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn features_at_each_step() {
    let settings = PoolSettings::nodes(1)
        .set("clients", "tls_required", true)
        .set("clients", "allow_plaintext_auth", false);
    let pool = Pool::start(&settings).await.expect("the pool starts");
    pool.add_users(["romeo"]).await.expect("an account");
    let names =
        |found: Vec<(String, String)>| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let node = pool.node(1);
    let mut wire = Wire::plain(node.clients).await.expect("connected");
    let plain = features(&mut wire, "localhost").await.expect("features");
    assert_eq!(names(feature_names(&plain)), ["starttls"]);
    assert!(plain.source().contains("<required/>"), "{}", plain.source());
    // A password before TLS is refused whatever it is.
    wire.send(b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHJvbWVvAHJvbWVvLXBhc3N3b3Jk</auth>").await.expect("sent");
    let text = wire.element("a refusal").await.expect("it comes");
    let text = text.source();
    assert!(!text.contains("success"), "{text}");

    let mut wire = Wire::direct_tls(node.clients_tls, "localhost", &pool.tls())
        .await
        .expect("TLS");
    let secured = features(&mut wire, "localhost").await.expect("features");
    assert!(
        secured
            .source()
            .contains("<mechanism>SCRAM-SHA-512</mechanism>"),
        "{}",
        secured.source()
    );
    assert!(!names(feature_names(&secured)).contains(&"starttls".to_owned()));
    assert!(!names(feature_names(&secured)).contains(&"register".to_owned()));

    let login = Login {
        address: node.clients_tls,
        security: Security::DirectTls,
        ..pool.login(1, "romeo")
    };
    let client = Client::connect(&login).await.expect("logged in");
    client.close().await.expect("closed");
    let insecure = Login {
        security: Security::Plain,
        ..pool.login(1, "romeo")
    };
    Client::connect(&insecure)
        .await
        .err()
        .expect("no login without TLS");
}

/// XEP-0077, where the operator allows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_where_it_is_on() {
    let settings = PoolSettings::nodes(1).set("clients", "registration", true);
    let pool = Pool::start(&settings).await.expect("the pool starts");
    let address = pool.node(1).clients;
    let register = async |user: &str| {
        let mut wire = Wire::plain(address).await.expect("connected");
        let found = features(&mut wire, "localhost").await.expect("features");
        assert!(
            found
                .source()
                .contains("http://jabber.org/features/iq-register"),
            "{}",
            found.source()
        );
        let request = format!(
            "<iq type='set' id='1' to='localhost'><query xmlns='jabber:iq:register'><username>{user}</username>\
             <password>{user}-password</password></query></iq>"
        );
        wire.send(request.as_bytes()).await.expect("sent");
        wire.element("the answer")
            .await
            .expect("an answer")
            .root()
            .attr("type")
            .map(|kind| kind.into_owned())
    };
    assert_eq!(register("benvolio").await.as_deref(), Some("result"));
    assert_eq!(
        register("benvolio").await.as_deref(),
        Some("error"),
        "a name is given once"
    );
    let client = Client::connect(&pool.login(1, "benvolio"))
        .await
        .expect("the account works");
    client.close().await.expect("closed");
}
