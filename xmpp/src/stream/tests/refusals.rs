//! Bad input on an open stream: the condition that each gets, at every stage where it can come.

use super::*;

fn check(stages: &[Stage], input: &[u8], condition: &str) {
    for stage in stages {
        let mut peer = Peer::tls_at(*stage);
        let out = peer.send_bytes(input);
        let shown = String::from_utf8_lossy(input);
        assert_eq!(
            peer.error().map(|condition| condition.name()),
            Some(condition),
            "{shown} at {stage:?}"
        );
        assert_ends_with_error(&out, condition);
        assert!(!out.contains("<stream:stream "), "one header is enough");
    }
}

const ALL: &[Stage] = &[Stage::Header, Stage::Authenticated, Stage::Bound];

#[test]
fn what_the_scanner_refuses_ends_the_stream() {
    check(ALL, b"<!DOCTYPE x>", "restricted-xml");
    check(ALL, b"<!-- x -->", "restricted-xml");
    check(ALL, b"<?x y?>", "restricted-xml");
    check(
        ALL,
        b"<message><body>&eacute;</body></message>",
        "restricted-xml",
    );
    check(ALL, b"<message><!-- x --></message>", "restricted-xml");
    check(ALL, b"<message></presence>", "not-well-formed");
    check(ALL, b"<x:message/>", "not-well-formed");
    check(ALL, b"<message a='1' a='2'/>", "not-well-formed");
    check(
        ALL,
        b"<message xmlns:a='u' xmlns:b='u' a:x='1' b:x='2'/>",
        "not-well-formed",
    );
    check(
        ALL,
        b"<message><body>a < b</body></message>",
        "not-well-formed",
    );
    check(
        ALL,
        b"<message><body>\0</body></message>",
        "not-well-formed",
    );
    check(
        ALL,
        b"<message><body>&#0;</body></message>",
        "not-well-formed",
    );
    check(
        ALL,
        b"<message><body>\xc3\x28</body></message>",
        "unsupported-encoding",
    );
    check(
        ALL,
        b"<message><body>\xc0\xaf</body></message>",
        "unsupported-encoding",
    );
    check(
        ALL,
        b"<message><body>\xed\xa0\x80</body></message>",
        "unsupported-encoding",
    );
    check(ALL, b"hello", "bad-format");
}

#[test]
fn what_is_no_stanza_ends_the_stream() {
    check(ALL, b"<unknown/>", "unsupported-stanza-type");
    check(
        ALL,
        b"<unknown xmlns='urn:unknown'/>",
        "unsupported-stanza-type",
    );
    check(
        ALL,
        b"<message xmlns='urn:unknown'/>",
        "unsupported-stanza-type",
    );
    check(ALL, b"<stream:features/>", "unsupported-stanza-type");
    check(
        ALL,
        b"<message xmlns='jabber:server'/>",
        "invalid-namespace",
    );
    check(
        ALL,
        b"<enabled xmlns='urn:xmpp:sm:3'/>",
        "unsupported-stanza-type",
    );
    check(
        &[Stage::Authenticated, Stage::Bound],
        PLAIN.as_bytes(),
        "unsupported-stanza-type",
    );
    check(
        &[Stage::Authenticated, Stage::Bound],
        STARTTLS.as_bytes(),
        "unsupported-stanza-type",
    );
    check(&[Stage::Bound], b"<a xmlns='urn:xmpp:sm:3'/>", "bad-format");
}

#[test]
fn no_stanza_goes_before_authentication() {
    let before = &[Stage::Header];
    check(
        before,
        b"<message to='juliet@example.org'/>",
        "not-authorized",
    );
    check(before, b"<presence/>", "not-authorized");
    check(before, BIND.as_bytes(), "not-authorized");
    check(
        before,
        b"<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>",
        "not-authorized",
    );
}

#[test]
fn before_bind_only_the_server_and_the_account_may_be_addressed() {
    let unbound = &[Stage::Authenticated];
    check(
        unbound,
        b"<message to='juliet@example.org'/>",
        "not-authorized",
    );
    check(
        unbound,
        b"<iq to='romeo@example.org/x' type='get' id='1'/>",
        "not-authorized",
    );
    check(unbound, b"<presence to='example.net'/>", "not-authorized");
    check(unbound, b"<message to='@'/>", "not-authorized");
    check(
        unbound,
        b"<iq from='juliet@example.org' type='get' id='1'/>",
        "invalid-from",
    );
    let answered = |to: &str| {
        let mut peer = Peer::tls_at(Stage::Authenticated);
        let out = peer.send(&format!(
            "<iq{to} type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>"
        ));
        assert_contains(&out, "type='error'");
        assert_contains(&out, "<unexpected-request ");
        assert_contains(&peer.send(BIND), "[established");
    };
    answered("");
    answered(" to='example.org'");
    answered(" to='Romeo@example.org'");
    let mut peer = Peer::tls_at(Stage::Authenticated);
    assert_eq!(peer.send("<iq type='result' id='1'/>"), "");
    assert_eq!(peer.send("<message type='error'/>"), "");
}

#[test]
fn a_forged_sender_ends_the_stream() {
    let check = |from: &str, forged: bool| {
        let mut peer = Peer::tls_at(Stage::Bound);
        let out = peer.send(&format!("<message from='{from}'/>"));
        match forged {
            true => assert_ends_with_error(&out, "invalid-from"),
            false => assert_eq!(out, "[stanza message ]"),
        }
    };
    check("romeo@example.org", false);
    check("romeo@example.org/orchard", false);
    check("ROMEO@Example.ORG/orchard", false);
    check("romeo@example.org/balcony", true);
    check("romeo@example.org/Orchard", true);
    check("juliet@example.org", true);
    check("example.org", true);
    check("", true);
    check("@", true);
}
