//! The port over real sockets and real TLS, with accounts in memory behind it.

mod access;
mod accounts;
mod console;
mod openapi;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use xmpp::jid::BareJid;

use crate::backend::ControlBackend;
use crate::report::{PoolReport, Readiness};
use crate::{ControlServer, ControlSettings, ControlToken, ReservedPort};

use accounts::Accounts;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A port, and a client that trusts its certificate.
struct Port {
    address: SocketAddr,
    connector: TlsConnector,
    server: ControlServer,
}

/// What came back.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Port {
    fn start(backend: Accounts, health_open: bool, metrics_open: bool) -> Port {
        Port::with_console(backend, health_open, metrics_open, true)
    }

    fn with_console(
        backend: Accounts,
        health_open: bool,
        metrics_open: bool,
        console: bool,
    ) -> Port {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let chain = vec![own.cert.der().clone()];
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key.into())
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(chain[0].clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let settings = ControlSettings {
            tls,
            token: ControlToken::new(TOKEN).unwrap(),
            root: "root@node-1".to_owned(),
            health_open,
            metrics_open,
            console,
            connections_max: 16,
            body_bytes_max: 1024,
            request_timeout: Duration::from_secs(5),
        };
        let port = ReservedPort::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = ControlServer::start(port, settings, backend).unwrap();
        Port {
            address: server.address(),
            connector: TlsConnector::from(Arc::new(client)),
            server,
        }
    }

    /// All that comes back for these bytes until the server closes the connection.
    async fn raw(&self, bytes: &str) -> String {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = self.connector.connect(name, tcp).await.unwrap();
        let mut answer = Vec::new();
        // A server that has read enough closes, perhaps without TLS's own goodbye; what came before that counts.
        let _ = tls.write_all(bytes.as_bytes()).await;
        let _ = tls.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    /// One request on a connection of its own, `extra` being further header lines.
    async fn ask(&self, request: &str, extra: &str, body: &str) -> Reply {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = self.connector.connect(name, tcp).await.unwrap();
        let length = body.len();
        let head = format!(
            "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{extra}\r\n"
        );
        tls.write_all(head.as_bytes()).await.unwrap();
        tls.write_all(body.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // A server that closes without close_notify has still sent everything that its Content-Length says.
        let read = tls.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{read:?} {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply {
            status,
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    /// A request of an operator.
    async fn operate(&self, request: &str, body: &str) -> Reply {
        let extra = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
        self.ask(request, &extra, body).await
    }

    async fn check(&self, request: &str, body: &str, status: u16, code: &str) {
        let reply = self.operate(request, body).await;
        assert_eq!(reply.status, status, "{request} {}", reply.body);
        if code.is_empty() {
            assert!(status < 300);
        } else {
            assert_eq!(reply.json()["code"], code, "{request}");
            assert!(!reply.json()["message"].as_str().unwrap().is_empty());
        }
    }
}

#[actix_web::test]
async fn accounts_are_made_listed_changed_and_removed() {
    let accounts = Accounts::default();
    let port = Port::start(accounts.clone(), true, false);
    for name in ["dave", "alice", "carol", "bob", "ä b"] {
        let body = json!({ "user": format!("{name}@localhost"), "password": "secret" });
        port.check(
            "POST /v1/users",
            &body.to_string(),
            if name == "ä b" { 422 } else { 201 },
            if name == "ä b" { "invalid" } else { "" },
        )
        .await;
    }
    let made = port
        .operate(
            "POST /v1/users",
            r#"{"user":"Eve@LOCALHOST","password":"x"}"#,
        )
        .await;
    assert_eq!(made.json(), json!({ "user": "eve@localhost" }));
    assert!(
        made.head.contains("location: /v1/users/eve@localhost\r\n"),
        "{}",
        made.head
    );
    let page = port.operate("GET /v1/users?limit=2", "").await.json();
    assert_eq!(
        page,
        json!({ "users": ["alice@localhost", "bob@localhost"], "next": "bob@localhost" })
    );
    let page = port
        .operate("GET /v1/users?limit=3&after=bob@localhost", "")
        .await
        .json();
    assert_eq!(
        page,
        json!({ "users": ["carol@localhost", "dave@localhost", "eve@localhost"], "next": null })
    );
    port.check(
        "PUT /v1/users/alice@localhost/password",
        r#"{"password":"new"}"#,
        204,
        "",
    )
    .await;
    assert_eq!(
        accounts.users.lock().unwrap()[&BareJid::parse("alice@localhost").unwrap()],
        "new"
    );
    port.check("DELETE /v1/users/alice@localhost", "", 204, "")
        .await;
    port.check("DELETE /v1/users/alice@localhost", "", 404, "not-found")
        .await;
    port.check(
        "PUT /v1/users/alice@localhost/password",
        r#"{"password":"x"}"#,
        404,
        "not-found",
    )
    .await;
    port.server.stop().await;
}

#[actix_web::test]
async fn refusals_are_named() {
    let port = Port::start(Accounts::default(), true, false);
    let long = format!(
        r#"{{"user":"a@localhost","password":"{}"}}"#,
        "x".repeat(2000)
    );
    for (request, body, status, error) in [
        (
            "POST /v1/users",
            r#"{"user":"bob@localhost","password":"x"}"#,
            201,
            "",
        ),
        (
            "POST /v1/users",
            r#"{"user":"bob@localhost","password":"x"}"#,
            409,
            "conflict",
        ),
        (
            "POST /v1/users",
            r#"{"user":"slow@localhost","password":"x"}"#,
            504,
            "outcome-unknown",
        ),
        (
            "POST /v1/users",
            r#"{"user":"eve@localhost","password":""}"#,
            422,
            "invalid",
        ),
        (
            "POST /v1/users",
            r#"{"user":"localhost","password":"x"}"#,
            422,
            "invalid",
        ),
        (
            "POST /v1/users",
            r#"{"user":"a@localhost/r","password":"x"}"#,
            422,
            "invalid",
        ),
        (
            "POST /v1/users",
            r#"{"user":"a@localhost"}"#,
            400,
            "malformed",
        ),
        (
            "POST /v1/users",
            r#"{"user":"a@localhost","password":"x","admin":true}"#,
            400,
            "malformed",
        ),
        ("POST /v1/users", "{", 400, "malformed"),
        ("POST /v1/users", &long, 413, "too-large"),
        ("GET /v1/users?limit=0", "", 400, "malformed"),
        ("GET /v1/users?limit=1001", "", 400, "malformed"),
        ("GET /v1/users?limit=x", "", 400, "malformed"),
        ("GET /v1/users?page=2", "", 400, "malformed"),
        ("GET /v1/users?after=@", "", 422, "invalid"),
        ("PATCH /v1/users", "", 405, "method-not-allowed"),
        ("GET /v1/users/bob@localhost", "", 405, "method-not-allowed"),
        ("POST /v1/status", "", 405, "method-not-allowed"),
        ("GET /v1/nothing", "", 404, "no-such-path"),
        ("GET /v1/status/", "", 404, "no-such-path"),
        ("GET //v1/status", "", 404, "no-such-path"),
        ("GET /v1/x/../status", "", 404, "no-such-path"),
        ("GET /v1/%73tatus", "", 404, "no-such-path"),
        ("DELETE /v1/users/bob%40localhost", "", 404, "no-such-path"),
    ] {
        port.check(request, body, status, error).await;
    }
    let plain = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: text/plain\r\n");
    let reply = port
        .ask(
            "POST /v1/users",
            &plain,
            r#"{"user":"c@localhost","password":"x"}"#,
        )
        .await;
    assert_eq!(
        (reply.status, reply.json()["code"].as_str()),
        (415, Some("not-json"))
    );
    let reply = port
        .operate(
            "POST /v1/users",
            r#"{"user":"c@localhost","password":["hunter2"]}"#,
        )
        .await;
    assert!(reply.status == 400 && !reply.body.contains("hunter2"));
    port.server.stop().await;
}

#[actix_web::test]
async fn nothing_is_told_without_the_token() {
    let port = Port::start(
        Accounts {
            quorum: true,
            ..Accounts::default()
        },
        true,
        false,
    );
    let requests = [
        "GET /v1/status",
        "GET /v1/partitions",
        "GET /v1/users",
        "POST /v1/users",
        "PUT /v1/users/a@localhost/password",
        "DELETE /v1/users/a@localhost",
        "GET /metrics",
    ];
    let wrong = [
        String::new(),
        "Authorization: Bearer\r\n".to_owned(),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: Bearer {}\r\n", TOKEN.replace('0', "1")),
        format!("Authorization: Bearer {TOKEN}0\r\n"),
        format!("Authorization: Bearer x\r\nAuthorization: Bearer {TOKEN}\r\n"),
    ];
    for request in requests {
        for extra in &wrong {
            let reply = port.ask(request, extra, "").await;
            assert_eq!(reply.status, 401, "{request} {extra}");
            assert_eq!(reply.json()["code"], "unauthorized");
            assert!(reply.head.contains("www-authenticate: bearer"));
        }
    }
    port.server.stop().await;
}

#[actix_web::test]
async fn status_health_and_metrics() {
    let port = Port::start(
        Accounts {
            quorum: true,
            ..Accounts::default()
        },
        true,
        true,
    );
    let status = port.operate("GET /v1/status", "").await;
    let report: PoolReport = serde_json::from_str(&status.body).unwrap();
    assert_eq!(report, Accounts::default().report());
    for header in [
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "content-security-policy: default-src 'none'",
    ] {
        assert!(status.head.contains(header), "{}", status.head);
    }
    assert_eq!(
        port.operate("GET /v1/partitions", "").await.json()[0]["epoch"],
        5
    );
    assert_eq!(
        port.ask("GET /health/live", "", "").await.json(),
        json!({ "live": true })
    );
    assert_eq!(
        port.ask("GET /health/ready", "", "").await.json(),
        json!({ "ready": true })
    );
    let metrics = port.ask("GET /metrics", "", "").await;
    assert_eq!(
        (metrics.status, metrics.body.as_str()),
        (200, "muster_sessions 2\n# EOF\n")
    );
    assert!(
        metrics
            .head
            .contains("content-type: application/openmetrics-text")
    );
    let refused = port.ask("GET /v1/nothing", "", "").await;
    assert!(refused.head.contains("cache-control: no-store"));
    port.server.stop().await;
}

/// RFC 9110 §9.3.2: as GET, without the body; §15.5.6: what else a page answers to.
#[actix_web::test]
async fn heads_and_other_methods() {
    let port = Port::start(Accounts::default(), true, true);
    for (page, status) in [
        ("/health/live", 200),
        ("/health/ready", 503),
        ("/metrics", 200),
        ("/v1/status", 200),
        ("/v1/partitions", 200),
        ("/v1/users", 200),
    ] {
        let [get, head] = [
            port.operate(&format!("GET {page}"), "").await,
            port.operate(&format!("HEAD {page}"), "").await,
        ];
        assert_eq!((get.status, head.status), (status, status), "{page}");
        assert_eq!(head.body, "", "{page}");
        let length = format!("content-length: {}", get.body.len());
        assert!(head.head.contains(&length), "{page}: {}", head.head);
        for method in ["OPTIONS", "TRACE", "DELETE", "FROB"] {
            let reply = port.operate(&format!("{method} {page}"), "").await;
            assert_eq!(reply.status, 405, "{method} {page}");
            assert!(reply.head.contains("allow: get, head"), "{}", reply.head);
        }
    }
    port.server.stop().await;
}

/// What two readers could take for one request or two (RFC 9112 §11.2) gets one answer, a refusal, and the connection ends.
#[actix_web::test]
async fn requests_of_uncertain_length_are_refused() {
    let port = Port::start(Accounts::default(), true, true);
    let hidden = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for framing in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 0\r\nContent-Length: 45\r\n\r\n",
        "Content-Length: +0\r\n\r\n",
        "Content-Length: -1\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ] {
        let request = format!("POST /v1/users HTTP/1.1\r\nHost: localhost\r\n{framing}{hidden}");
        let answer = port.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{framing:?}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{framing:?}: {answer}"
        );
        assert!(!answer.contains("muster_sessions"), "{framing:?}: {answer}");
    }
    port.server.stop().await;
}

#[actix_web::test]
async fn a_replica_tells_what_it_holds() {
    let port = Port::start(Accounts::default(), true, false);
    let hash = port.operate("GET /v1/partitions/0/hash", "").await.json();
    let expect = json!({
        "partition": 0, "applied": 9, "state_rows": 4, "state": "a1", "archive_rows": 2, "archive": "b2"
    });
    assert_eq!(hash, expect);
    for (request, status, error) in [
        ("GET /v1/partitions/1/hash", 503, "unavailable"),
        ("GET /v1/partitions/2/hash", 404, "not-found"),
        ("GET /v1/partitions/70000/hash", 404, "no-such-path"),
        ("GET /v1/partitions/x/hash", 404, "no-such-path"),
        ("PUT /v1/partitions/0/hash", 405, "method-not-allowed"),
    ] {
        port.check(request, "", status, error).await;
    }
    let stranger = port.ask("GET /v1/partitions/0/hash", "", "").await;
    assert_eq!(stranger.status, 401);
    port.server.stop().await;
}

#[actix_web::test]
async fn a_node_that_cannot_serve_says_why() {
    let port = Port::start(Accounts::default(), false, false);
    assert_eq!(port.ask("GET /health/live", "", "").await.status, 401);
    let reply = port.operate("GET /health/ready", "").await;
    assert_eq!(
        (reply.status, reply.json()["code"].as_str()),
        (503, Some("not-ready"))
    );
    assert!(reply.body.contains("not in touch with a majority"));
    port.server.stop().await;
}

#[test]
fn readiness_in_words() {
    const READY: Readiness = Readiness {
        quorum: true,
        stopping: false,
        draining: false,
        log_full: false,
        groups_failed: 0,
        partitions_owned: 16,
        partitions: 16,
    };
    let check = |change: fn(&mut Readiness), says: Option<&str>| {
        let mut readiness = READY;
        change(&mut readiness);
        assert_eq!(readiness.refusal().as_deref(), says);
    };
    check(|_| (), None);
    check(
        |ready| ready.partitions_owned = 13,
        Some("3 of 16 partitions have no owner yet"),
    );
    check(
        |ready| ready.quorum = false,
        Some("no quorum: this node is not in touch with a majority of the pool"),
    );
    check(
        |ready| ready.draining = true,
        Some("this node is drained: it takes no sessions"),
    );
    check(
        |ready| ready.log_full = true,
        Some("the disk of the log is full: this node takes no changes until there is room"),
    );
    check(
        |ready| ready.groups_failed = 2,
        Some(
            "2 of this node's groups have stopped after an error of a store, which the log names: \
             mend it and restart this node",
        ),
    );
    // Of several causes the one that explains the others.
    check(
        |ready| (ready.stopping, ready.quorum, ready.partitions_owned) = (true, false, 0),
        Some("this node is stopping"),
    );
    check(
        |ready| (ready.quorum, ready.partitions_owned) = (false, 0),
        Some("no quorum: this node is not in touch with a majority of the pool"),
    );
}
