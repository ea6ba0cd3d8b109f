//! Opening a stream (RFC 6120 §4.2–4.3, §4.7–4.8).

use super::*;

fn header(attributes: &str) -> String {
    format!(
        "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' {attributes}>"
    )
}

#[test]
fn every_bad_opening_gets_a_header_and_its_condition() {
    let check = |input: &[u8], condition: &str| {
        let mut peer = Peer::tls_at(Stage::Start);
        let out = peer.send_bytes(input);
        let shown = String::from_utf8_lossy(input);
        assert!(
            out.starts_with("<?xml version='1.0'?><stream:stream "),
            "{shown}: {out}"
        );
        assert_eq!(out.matches("<stream:stream ").count(), 1, "{shown}: {out}");
        assert!(!out.contains("<stream:features"), "{shown}: {out}");
        assert_ends_with_error(&out, condition);
        assert_eq!(
            peer.error().map(|condition| condition.name()),
            Some(condition)
        );
        assert_eq!(peer.send(HEADER), "", "a closed stream is deaf");
    };
    let checked =
        |attributes: &str, condition: &str| check(header(attributes).as_bytes(), condition);

    check(format!("<!DOCTYPE x>{HEADER}").as_bytes(), "restricted-xml");
    check(
        format!("<!-- hello -->{HEADER}").as_bytes(),
        "restricted-xml",
    );
    check(
        format!("<?php echo ?>{HEADER}").as_bytes(),
        "restricted-xml",
    );
    check(
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        "not-well-formed",
    );
    check(
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "not-well-formed",
    );
    check(b"<stream:stream <", "not-well-formed");
    check(
        b"<stream:stream to='example.org' version='1.0'>",
        "not-well-formed",
    );
    check(b"\xff\xfe<\0s\0", "unsupported-encoding");
    check(b"\xfe\xff\0<\0s", "unsupported-encoding");
    check(
        format!(
            "<?xml version='1.0' encoding='ISO-8859-1'?>{}",
            header("to='example.org' version='1.0'")
        )
        .as_bytes(),
        "unsupported-encoding",
    );
    check(b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='\xff' version='1.0'>", "unsupported-encoding");
    check(b"<stream:stream xmlns='jabber:client' xmlns:stream='urn:other' to='example.org' version='1.0'>", "invalid-namespace");
    check(b"<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' to='example.org' version='1.0'>", "invalid-namespace");
    check(b"<stream:stream xmlns='urn:unknown' xmlns:stream='http://etherx.jabber.org/streams' to='example.org' version='1.0'>", "invalid-namespace");
    check(b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' to='example.org' version='1.0'>", "invalid-namespace");
    check(b"<s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams' to='example.org' version='1.0'>", "bad-namespace-prefix");
    checked("version='1.0'", "improper-addressing");
    checked("to='elsewhere.example' version='1.0'", "host-unknown");
    checked("to='romeo@example.org' version='1.0'", "host-unknown");
    checked("to='@' version='1.0'", "host-unknown");
    checked("to='gone.example' version='1.0'", "host-gone");
    checked("to='example.org'", "unsupported-version");
    checked("to='example.org' version='0.9'", "unsupported-version");
    checked("to='example.org' version='1'", "unsupported-version");
    checked("to='example.org' version='one.zero'", "unsupported-version");
    checked("to='example.org' version=''", "unsupported-version");
    checked("to='example.org' version='1.0' from='@'", "invalid-from");
}

#[test]
fn a_good_opening_is_answered_with_header_and_features() {
    let check = |attributes: &str, expected: &str| {
        let mut peer = Peer::tls_at(Stage::Start);
        let out = peer.send(&header(attributes));
        assert_contains(&out, expected);
        assert_contains(&out, " version='1.0' ");
        assert_contains(&out, "<stream:features><mechanisms ");
        assert_eq!(peer.closed, None);
    };
    check("to='example.org' version='1.0'", " from='example.org' ");
    check("to='EXAMPLE.org' version='1.0'", " from='example.org' ");
    check("to='example.net' version='1.0'", " from='example.net' ");
    check("to='example.org' version='2.0'", " version='1.0' ");
    check("to='example.org' version='1.12'", " version='1.0' ");
    check(
        "to='example.org' version='1.0' from='Romeo@example.org/x'",
        " to='romeo@example.org' ",
    );
}

#[test]
fn a_header_is_read_in_any_pieces() {
    let mut whole = Peer::tls_at(Stage::Start);
    let mut bytewise = Peer::tls_at(Stage::Start);
    let expected = whole.send(HEADER);
    let out: String = HEADER
        .bytes()
        .map(|byte| bytewise.send_bytes(&[byte]))
        .collect();
    assert_eq!(out, expected);
}

#[test]
fn each_stream_has_its_own_id() {
    let id_of = |out: &str| {
        out.split(" id='")
            .nth(1)
            .unwrap()
            .split('\'')
            .next()
            .unwrap()
            .to_owned()
    };
    let mut peer = Peer::tls_at(Stage::Start);
    let first = id_of(&peer.send(HEADER));
    peer.send(PLAIN);
    let second = id_of(&peer.send(HEADER));
    assert!(first.len() >= 22 && first != second);
}

#[test]
fn the_language_of_the_header_is_kept() {
    let mut peer = Peer::tls_at(Stage::Start);
    peer.send(&header("to='example.org' version='1.0' xml:lang='it'"));
    assert_eq!(peer.core.lang(), Some("it"));
}

#[test]
fn the_domain_and_the_user_stay_after_authentication() {
    let check = |attributes: &str, condition: Option<&str>| {
        let mut peer = Peer::tls_at(Stage::Header);
        peer.send(PLAIN);
        let out = peer.send(&header(attributes));
        match condition {
            Some(condition) => assert_ends_with_error(&out, condition),
            None => assert_contains(&out, "<bind xmlns="),
        }
    };
    check("to='example.org' version='1.0'", None);
    check(
        "to='example.org' version='1.0' from='romeo@example.org/a'",
        None,
    );
    check("to='example.net' version='1.0'", Some("host-unknown"));
    check(
        "to='example.org' version='1.0' from='juliet@example.org'",
        Some("invalid-from"),
    );
}

#[test]
fn features_follow_the_stage_and_the_settings() {
    let mechanisms = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>\
        <mechanism>SCRAM-SHA-512</mechanism><mechanism>SCRAM-SHA-256</mechanism>\
        <mechanism>SCRAM-SHA-1</mechanism><mechanism>PLAIN</mechanism></mechanisms>";
    let check = |config: StreamConfig, transport: Transport, expected: &str| {
        let out = Peer::new(config, transport).send(HEADER);
        let features = out.split("<stream:features>").nth(1).unwrap();
        assert_eq!(features, format!("{expected}</stream:features>"));
    };
    let required = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>";
    check(config(), Transport::Plain, required);
    check(
        StreamConfig {
            registration: true,
            ..config()
        },
        Transport::Plain,
        required,
    );
    check(config(), Transport::DirectTls, mechanisms);
    check(
        StreamConfig {
            registration: true,
            ..config()
        },
        Transport::DirectTls,
        &format!("{mechanisms}<register xmlns='http://jabber.org/features/iq-register'/>"),
    );
    let optional = StreamConfig {
        tls_required: false,
        ..config()
    };
    check(
        optional.clone(),
        Transport::Plain,
        &format!(
            "{STARTTLS}{}",
            mechanisms.replace("<mechanism>PLAIN</mechanism>", "")
        ),
    );
    check(
        StreamConfig {
            allow_plaintext_auth: true,
            ..optional
        },
        Transport::Plain,
        &format!("{STARTTLS}{mechanisms}"),
    );
    let mut peer = Peer::tls_at(Stage::Header);
    peer.send(PLAIN);
    assert_contains(
        &peer.send(HEADER),
        "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/><sm xmlns='urn:xmpp:sm:3'/>\
         <ver xmlns='urn:xmpp:features:rosterver'/><sub xmlns='urn:xmpp:features:pre-approval'/>\
         <csi xmlns='urn:xmpp:csi:0'/><limits xmlns='urn:xmpp:stream-limits:0'>",
    );
}
