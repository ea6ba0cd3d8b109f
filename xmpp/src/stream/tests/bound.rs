//! Binding, and the stream after it (RFC 6120 §7, §4.4; XEP-0198; XEP-0352).

use super::*;
use crate::stanza_error::{Condition, StanzaError};
use crate::stream_management::HandledCountTooHigh;

fn bind(resource: &str) -> String {
    format!(
        "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>{resource}</bind></iq>"
    )
}

#[test]
fn a_resource_is_asked_for_or_made_up() {
    let check = |resource: &str, expected: &str| {
        let out = Peer::tls_at(Stage::Authenticated).send(&bind(resource));
        assert_contains(&out, expected);
    };
    check("", "[established romeo@example.org/generated]");
    check("<resource/>", "[established romeo@example.org/generated]");
    check(
        "<resource>garden wall</resource>",
        "[established romeo@example.org/garden wall]",
    );
    check("<resource>&#x85;</resource>", "<bad-request ");
    check(
        &format!("<resource>{}</resource>", "x".repeat(1024)),
        "<bad-request ",
    );
}

#[test]
fn a_refused_bind_can_be_tried_again() {
    let mut peer = Peer::tls_at(Stage::Authenticated);
    peer.answers = false;
    peer.send(BIND);
    let out = peer.tell(StreamEvent::BindRefused(StanzaError::new(
        Condition::ResourceConstraint,
    )));
    assert_contains(&out, "<resource-constraint ");
    peer.answers = true;
    assert_contains(&peer.send(BIND), "[established");
}

#[test]
fn the_leftovers_of_old_clients_are_answered() {
    let session =
        "<iq type='set' id='s'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>";
    let result = "<iq id='s' type='result'/>";
    assert_eq!(Peer::tls_at(Stage::Authenticated).send(session), result);
    let mut peer = Peer::tls_at(Stage::Bound);
    assert_eq!(peer.send(session), format!("[answered {result}]"));
    let second = peer.send(BIND);
    assert_contains(&second, "[answered <iq ");
    assert_contains(&second, "<not-allowed ");
    let elsewhere = session.replace("<iq ", "<iq to='juliet@example.org' ");
    assert_eq!(peer.send(&elsewhere), "[stanza iq ]");
}

#[test]
fn stanzas_are_handed_over_in_order_and_only_when_asked_for() {
    let mut peer = Peer::tls_at(Stage::Bound);
    let input = "<message><body>1</body></message> <presence/>\n<iq type='get' id='1'/>";
    peer.core.push_bytes(input.as_bytes(), peer.now);
    let first = peer.core.poll_effect();
    assert!(
        matches!(first, Some(StreamEffect::Stanza(document)) if document.root().name() == "message")
    );
    assert_eq!(peer.drain(), "[stanza presence ][stanza iq ]");
}

#[test]
fn stream_management_comes_after_bind_and_once() {
    let failed = |condition: &str| {
        format!(
            "<failed xmlns='urn:xmpp:sm:3'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
        )
    };
    let unexpected = failed("unexpected-request");
    for stage in [Stage::Header, Stage::Authenticated] {
        assert_eq!(Peer::tls_at(stage).send(ENABLE), unexpected);
    }
    let mut peer = Peer::tls_at(Stage::Bound);
    assert_eq!(peer.send("<r xmlns='urn:xmpp:sm:3'/>"), unexpected);
    assert_eq!(peer.send("<a xmlns='urn:xmpp:sm:3' h='0'/>"), unexpected);
    assert_eq!(
        peer.send("<enable xmlns='urn:xmpp:sm:3' resume='maybe'/>"),
        failed("bad-request")
    );
    assert_eq!(peer.send(ENABLE), "[Enable { resume: false, max: None }]");
    assert_eq!(peer.send("<r xmlns='urn:xmpp:sm:3'/>"), "[Request]");
    assert_eq!(
        peer.send("<a xmlns='urn:xmpp:sm:3' h='3'/>"),
        "[Ack { h: 3 }]"
    );
    assert_eq!(
        peer.send("<resume xmlns='urn:xmpp:sm:3' h='3' previd='x'/>"),
        unexpected
    );
    let out = peer.send(ENABLE);
    assert!(out.starts_with(&unexpected));
    assert_ends_with_error(&out, "policy-violation");
}

#[test]
fn stream_management_that_is_switched_off_is_unknown() {
    let config = StreamConfig {
        stream_management: StreamManagementOffer::Off,
        ..config()
    };
    assert_ends_with_error(
        &Peer::at(Stage::Bound, config).send(ENABLE),
        "unsupported-stanza-type",
    );
}

#[test]
fn a_session_can_be_resumed_instead_of_bound() {
    let resume = "<resume xmlns='urn:xmpp:sm:3' h='3' previd='x'/>";
    let out = Peer::tls_at(Stage::Authenticated).send(resume);
    assert_contains(&out, "<feature-not-implemented ");

    let config = StreamConfig {
        stream_management: StreamManagementOffer::Resumable,
        ..config()
    };
    let mut peer = Peer::at(Stage::Authenticated, config);
    assert_eq!(peer.send(resume), "[Resume { previd: \"x\", h: 3 }]");
    let refused = StreamEvent::ResumeRefused {
        condition: Condition::ItemNotFound,
        h: Some(7),
    };
    assert_contains(
        &peer.tell(refused),
        "<failed xmlns='urn:xmpp:sm:3' h='7'><item-not-found ",
    );
    peer.send(resume);
    let jid = domain("romeo@example.org")
        .with_resource("orchard")
        .unwrap();
    assert_eq!(
        peer.tell(StreamEvent::Resumed { jid, h: 9 }),
        "<resumed xmlns='urn:xmpp:sm:3' previd='x' h='9'/>[established romeo@example.org/orchard]"
    );
    assert_eq!(peer.send("<r xmlns='urn:xmpp:sm:3'/>"), "[Request]");
}

#[test]
fn client_state_is_told() {
    let mut peer = Peer::tls_at(Stage::Bound);
    assert_eq!(
        peer.send("<inactive xmlns='urn:xmpp:csi:0'/>"),
        "[active false]"
    );
    assert_eq!(
        peer.send("<active xmlns='urn:xmpp:csi:0'/>"),
        "[active true]"
    );
}

#[test]
fn the_peer_closes_at_any_stage() {
    for stage in [Stage::Header, Stage::Authenticated, Stage::Bound] {
        let mut peer = Peer::tls_at(stage);
        assert_eq!(peer.send("</stream:stream>"), "</stream:stream>[close]");
        assert_eq!(peer.closed, Some(CloseReason::ByPeer));
    }
    let mut peer = Peer::tls_at(Stage::Bound);
    let error = "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>";
    assert_eq!(peer.send(error), "</stream:stream>[close]");
    assert_eq!(peer.closed, Some(CloseReason::PeerError));
}

#[test]
fn the_server_closes_with_an_error() {
    let check = |error: StreamError, condition: &str| {
        for stage in [
            Stage::Start,
            Stage::Header,
            Stage::Authenticated,
            Stage::Bound,
        ] {
            let mut peer = Peer::tls_at(stage);
            peer.core.close(error.clone());
            let out = peer.drain();
            assert_eq!(out.starts_with("<?xml"), stage == Stage::Start, "{out}");
            assert_contains(&out, &format!("<stream:error><{condition} xmlns="));
            assert!(
                out.ends_with("</stream:error></stream:stream>[close]"),
                "{out}"
            );
            peer.core.close(error.clone());
            assert_eq!(peer.drain(), "");
        }
    };
    check(StreamErrorCondition::Conflict.into(), "conflict");
    check(
        StreamErrorCondition::ConnectionTimeout.into(),
        "connection-timeout",
    );
    check(
        StreamErrorCondition::SystemShutdown.into(),
        "system-shutdown",
    );
    check(
        StreamErrorCondition::ResourceConstraint.into(),
        "resource-constraint",
    );
    check(
        HandledCountTooHigh {
            h: 10,
            send_count: 8,
        }
        .into(),
        "undefined-condition",
    );
}

#[test]
fn an_unfinished_stream_is_not_closed_in_xml() {
    let mut peer = Peer::tls_at(Stage::Bound);
    peer.core.close_unfinished();
    assert_eq!(peer.drain(), "[close]");
    assert_eq!(peer.closed, Some(CloseReason::Unfinished));
    assert!(peer.core.is_closed());
}

#[test]
fn an_idle_bound_stream_is_small() {
    let peer = Peer::tls_at(Stage::Bound);
    assert!(peer.core.negotiation.is_none());
    assert!(
        size_of::<StreamCore>() <= 640,
        "{}",
        size_of::<StreamCore>()
    );
    let queue = peer.core.effects.capacity() * size_of::<StreamEffect>();
    assert!(queue <= 1024, "{queue}");
}

#[test]
fn debug_output_shows_no_password() {
    let mut peer = Peer::at(
        Stage::Header,
        StreamConfig {
            registration: true,
            ..config()
        },
    );
    peer.answers = false;
    peer.send("<iq type='set' id='r'><query xmlns='jabber:iq:register'><username>a</username><password>opensesame</password></query></iq>");
    assert_contains(&format!("{:?}", peer.core), "Registration");
    assert!(!format!("{:?}", peer.core).contains("opensesame"));
    let mut peer = Peer::tls_at(Stage::Header);
    peer.answers = false;
    peer.core.push_bytes(PLAIN.as_bytes(), peer.now);
    let shown = format!("{:?}{:?}", peer.core.poll_effect(), peer.core);
    assert_contains(&shown, "romeo");
    assert!(!shown.contains("secret\""), "{shown}");
    let mut peer = Peer::tls_at(Stage::Bound);
    peer.core
        .push_bytes(b"<message><body>opensesame</body></message>", peer.now);
    assert!(!format!("{:?}", peer.core.poll_effect()).contains("opensesame"));
}
