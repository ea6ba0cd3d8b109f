//! Logins against a server that only knows its lines.

use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::processes::Processes;
use crate::sasl::SaltedPasswords;
use crate::target::Security;

const HEADER: &str = "<?xml version='1.0'?><stream:stream from='localhost' id='1' version='1.0' \
     xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
const MECHANISMS: &str = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
     <mechanism>SCRAM-SHA-512</mechanism><mechanism>PLAIN</mechanism></mechanisms></stream:features>";
const BOUND_FEATURES: &str = "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>\
     <sm xmlns='urn:xmpp:sm:3'/></stream:features>";
const SUCCESS: &str = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>";
const BOUND: &str = "<iq type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
     <jid>u0@localhost/r</jid></bind></iq>";

/// Whenever what has come holds the first text, the second is said; then the next line's turn comes.
async fn server(lines: Vec<(&'static str, String)>) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut heard = String::new();
        let mut buffer = [0; 1024];
        for (expected, answer) in lines {
            while !heard.contains(expected) {
                let read = socket.read(&mut buffer).await.unwrap();
                assert!(read > 0, "{expected} never came: {heard}");
                heard.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
            let end = heard.find(expected).unwrap() + expected.len();
            heard.drain(..end);
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    Target {
        nodes: vec![node],
        domain: "localhost".to_owned(),
        rooms_domain: "conference.localhost".to_owned(),
        security: Security::Plain,
        tls: None,
        mechanism: None,
        user_prefix: "u".to_owned(),
        users: None,
        many_sources: false,
        password: "p".to_owned(),
        register: true,
        registered: AtomicUsize::new(0),
        logins_at_once: 1,
        processes: Processes::default(),
        salted_passwords: SaltedPasswords::default(),
    }
}

fn up_to_bound() -> Vec<(&'static str, String)> {
    vec![
        ("version='1.0' xmlns", format!("{HEADER}{MECHANISMS}")),
        ("AHUwAHA=</auth>", SUCCESS.to_owned()),
        ("version='1.0' xmlns", format!("{HEADER}{BOUND_FEATURES}")),
        ("</iq>", BOUND.to_owned()),
    ]
}

#[tokio::test]
async fn a_login_goes_as_far_as_is_wanted() {
    let mut lines = up_to_bound();
    let item = |jid, subscription| format!("<item jid='{jid}' subscription='{subscription}'/>");
    let roster = format!(
        "<r xmlns='urn:xmpp:sm:3'/><message from='x@localhost'/><iq type='result' id='roster'>\
         <query xmlns='jabber:iq:roster'>{}{}</query></iq>",
        item("a@localhost", "both"),
        item("b@localhost", "from")
    );
    let presences = "<presence from='a@localhost/x'/><presence from='u0@localhost/r'/>";
    lines.extend([
        (
            "<enable xmlns='urn:xmpp:sm:3'/>",
            "<enabled xmlns='urn:xmpp:sm:3'/>".to_owned(),
        ),
        ("jabber:iq:roster'/></iq>", roster),
        ("<a xmlns='urn:xmpp:sm:3' h='0'/>", String::new()),
        ("<presence/>", presences.to_owned()),
    ]);
    let target = server(lines).await;
    let options = LoginOptions {
        stream_management: true,
        available: true,
    };
    let login = log_in(&target, 0, options).await.unwrap();
    assert_eq!(login.jid, "u0@localhost/r");
    assert_eq!(
        (login.sent, login.received),
        (2, Some(4)),
        "stanzas since <enabled/>"
    );
    assert_eq!(login.contacts, ["a@localhost"]);

    let login = log_in(&server(up_to_bound()).await, 0, LoginOptions::default())
        .await
        .unwrap();
    assert_eq!((login.sent, login.received), (0, None));
}

#[tokio::test]
async fn a_login_that_fails_says_why() {
    let check = |lines: Vec<(&'static str, String)>, stream_management, expect: &'static str| async move {
        let options = LoginOptions {
            stream_management,
            available: false,
        };
        let error = log_in(&server(lines).await, 0, options)
            .await
            .err()
            .unwrap();
        assert!(format!("{error:#}").contains(expect), "{error:#}");
    };
    let opening = "version='1.0' xmlns";
    let error =
        "<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>";
    check(
        vec![(opening, format!("{HEADER}{error}"))],
        false,
        "host-unknown",
    )
    .await;
    check(
        vec![(opening, String::new())],
        false,
        "closed the connection",
    )
    .await;
    check(
        vec![(opening, "HTTP/1.1 400\r\n".to_owned())],
        false,
        "not XML",
    )
    .await;
    check(
        vec![(opening, format!("{HEADER}</stream:stream>"))],
        false,
        "ended the stream",
    )
    .await;
    let nothing = format!("{HEADER}<stream:features/>");
    check(vec![(opening, nothing)], false, "no authentication").await;
    let mut refused = up_to_bound();
    refused.truncate(1);
    refused.push((
        "</auth>",
        "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>".to_owned(),
    ));
    check(refused, false, "authentication failed").await;
    let mut without = up_to_bound();
    without.push(("<enable", "<failed xmlns='urn:xmpp:sm:3'/>".to_owned()));
    check(without, true, "not enabled").await;
}

#[tokio::test]
async fn an_account_that_exists_is_as_good_as_a_new_one() {
    let check = |answer: &'static str, good: bool| async move {
        let lines = vec![
            ("version='1.0' xmlns", format!("{HEADER}{MECHANISMS}")),
            (
                "<username>u0</username><password>p</password></query></iq>",
                answer.to_owned(),
            ),
            ("</stream:stream>", String::new()),
        ];
        assert_eq!(
            register(&server(lines).await, 0).await.is_ok(),
            good,
            "{answer}"
        );
    };
    check("<iq type='result' id='register'/>", true).await;
    let error = "<iq type='error' id='register'><error type='cancel'><conflict \
         xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>";
    check(error, true).await;
    check(
        "<iq type='error' id='register'><error type='cancel'/></iq>",
        false,
    )
    .await;
}
