//! What a stream may cost before anybody is known (reliability: limits before authentication).

use super::*;

const S: Duration = Duration::from_secs(1);

#[test]
fn each_limit_before_authentication_holds() {
    let check = |input: &str| {
        let mut peer = Peer::tls_at(Stage::Header);
        assert_ends_with_error(&peer.send(input), "policy-violation");
    };
    let attributes: String = (0..17).map(|number| format!(" a{number}=''")).collect();
    check(&format!("<x>{}</x>", "y".repeat(8 << 10)));
    check(&format!("<x>{}", "y".repeat(9 << 10)));
    check(&"<x>".repeat(9));
    check(&format!("<x{attributes}/>"));
    check(&format!("<x>{}</x>", "<y/>".repeat(32)));
    check(&" ".repeat(33 << 10));
}

#[test]
fn the_thirty_third_element_is_one_too_many() {
    let mut peer = Peer::tls_at(Stage::Header);
    let abort = "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>";
    for _ in 1..32 {
        assert_contains(&peer.send(abort), "<aborted/>");
    }
    assert_ends_with_error(&peer.send(abort), "policy-violation");
}

#[test]
fn each_step_has_30_s_and_all_have_120() {
    let mut peer = Peer::tls_at(Stage::Start);
    assert_eq!(peer.wait(30 * S - Duration::from_millis(1)), "");
    let out = peer.wait(Duration::from_millis(1));
    assert!(out.starts_with("<?xml version='1.0'?><stream:stream "));
    assert_ends_with_error(&out, "connection-timeout");

    let mut peer = Peer::tls_at(Stage::Header);
    for _ in 0..4 {
        assert_eq!(peer.wait(29 * S), "");
        peer.send("<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>");
    }
    assert_ends_with_error(&peer.wait(4 * S), "connection-timeout");
}

#[test]
fn drops_of_a_header_do_not_win_time() {
    let mut peer = Peer::tls_at(Stage::Start);
    for byte in HEADER.bytes().take(29) {
        peer.now += S;
        assert_eq!(peer.send_bytes(&[byte]), "");
    }
    assert_ends_with_error(&peer.wait(S), "connection-timeout");
}

#[test]
fn a_handshake_that_takes_too_long_ends_in_silence() {
    let mut peer = Peer::new(config(), Transport::Plain);
    peer.answers = false;
    peer.send(HEADER);
    peer.send(STARTTLS);
    assert_eq!(peer.wait(30 * S), "[close]");
    assert_eq!(peer.closed, Some(CloseReason::TlsTimeout));
}

#[test]
fn an_unauthenticated_stream_gets_at_most_four_times_what_it_sent() {
    let sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
    let check = |transport: Transport, inputs: &[&str]| {
        let mut peer = Peer::new(
            StreamConfig {
                registration: true,
                ..config()
            },
            transport,
        );
        peer.answers = false;
        let (mut sent, mut got) = (0, 0);
        for input in inputs {
            sent += input.len();
            got += peer.send(input).len();
        }
        assert!(got <= 4 * sent, "{got} for {sent}: {inputs:?}");
    };
    check(Transport::Plain, &[HEADER]);
    check(Transport::DirectTls, &[HEADER]);
    check(Transport::Plain, &[HEADER, "<a/>"]);
    check(Transport::DirectTls, &[HEADER, "</stream:stream>"]);
    let abort = format!("<abort {sasl}/>");
    check(
        Transport::DirectTls,
        &[HEADER, &abort, &abort, &abort, &abort, &abort, "<"],
    );
    let fields = "<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>";
    check(
        Transport::DirectTls,
        &[HEADER, fields, fields, fields, fields],
    );
    check(
        Transport::DirectTls,
        &[HEADER, ENABLE, ENABLE, ENABLE, ENABLE],
    );
}

#[test]
fn limits_are_wider_after_authentication_but_there() {
    let mut peer = Peer::tls_at(Stage::Bound);
    let message = |size: usize| format!("<message><body>{}</body></message>", "x".repeat(size));
    assert!(
        peer.send(&message(200 << 10))
            .starts_with("[stanza message")
    );
    assert_ends_with_error(&peer.send(&message(257 << 10)), "policy-violation");
    assert_ends_with_error(
        &Peer::tls_at(Stage::Bound).send(&"<message>".repeat(65)),
        "policy-violation",
    );
}

#[test]
fn bytes_that_pile_up_while_a_bind_waits_are_bounded() {
    let mut peer = Peer::tls_at(Stage::Authenticated);
    peer.answers = false;
    peer.send(BIND);
    assert_eq!(peer.send(&" ".repeat(200 << 10)), "");
    assert_ends_with_error(&peer.send(&" ".repeat(200 << 10)), "policy-violation");
}
