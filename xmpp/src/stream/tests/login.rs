//! TLS, SASL and registration (RFC 6120 §5–6, XEP-0077).

use std::io::Cursor;

use base64::engine::general_purpose::STANDARD as BASE64;
use rsasl::prelude::{Mechname, SASLClient, SASLConfig};

use super::*;
use crate::sasl::Mechanism;

const SASL: &str = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";

fn auth(mechanism: &str, message: &str) -> String {
    format!(
        "<auth {SASL} mechanism='{mechanism}'>{}</auth>",
        BASE64.encode(message)
    )
}

fn failure(condition: &str) -> String {
    format!("<failure {SASL}><{condition}/></failure>")
}

#[test]
fn a_whole_login_over_starttls() {
    let mut peer = Peer::new(config(), Transport::Plain);
    peer.send(HEADER);
    assert_eq!(
        peer.send(STARTTLS),
        "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>[tls]"
    );
    assert!(peer.core.is_encrypted());
    assert_contains(&peer.send(HEADER), "<mechanism>PLAIN</mechanism>");
    assert_eq!(
        peer.send(PLAIN),
        format!(
            "[lookup romeo@example.org][check]<success {SASL}/>[authenticated romeo@example.org]"
        ),
    );
    assert_contains(&peer.send(HEADER), "<bind xmlns=");
    assert_eq!(
        peer.send(BIND),
        "[bind orchard]<iq type='result' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
         <jid>romeo@example.org/orchard</jid></bind></iq>[established romeo@example.org/orchard]"
            .replace("<iq type='result' id='b'>", "<iq id='b' type='result'>")
    );
    assert_eq!(peer.core.poll_timeout(), None);
}

#[test]
fn an_independent_client_logs_in_by_scram() {
    for mechanism in Mechanism::ALL {
        let mut peer = Peer::tls_at(Stage::Header);
        let account = SASLConfig::with_credentials(None, "romeo".into(), "secret".into()).unwrap();
        let offered = Mechname::parse(mechanism.name().as_bytes()).unwrap();
        let mut client = SASLClient::new(account)
            .start_suggested(&[offered])
            .unwrap();
        let mut answer = |challenge: Option<&str>| {
            let challenge = challenge.map(|text| BASE64.decode(text).unwrap());
            let mut out = Cursor::new(Vec::new());
            client.step(challenge.as_deref(), &mut out).unwrap();
            BASE64.encode(out.into_inner())
        };
        let first = answer(None);
        let mut out = peer.send(&format!(
            "<auth {SASL} mechanism='{}'>{first}</auth>",
            mechanism.name()
        ));
        if let Some((_, challenge)) = out.split_once(&format!("<challenge {SASL}>")) {
            let proof = answer(challenge.strip_suffix("</challenge>"));
            out = peer.send(&format!("<response {SASL}>{proof}</response>"));
            let server_final = out.split_once(&format!("<success {SASL}>")).unwrap().1;
            answer(server_final.split_once('<').map(|(data, _)| data));
        }
        assert_contains(&out, "[authenticated romeo@example.org]");
    }
}

#[test]
fn what_stands_behind_starttls_is_never_read() {
    let mut peer = Peer::new(config(), Transport::Plain);
    peer.send(HEADER);
    peer.answers = false;
    let injected = format!("{STARTTLS}{HEADER}{PLAIN}");
    assert_eq!(
        peer.send(&injected),
        "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>[tls]"
    );
    assert!(!peer.core.wants_bytes());
    assert_eq!(peer.send(HEADER), "");
    assert_eq!(peer.tell(StreamEvent::TlsEstablished), "");
    let out = peer.send(HEADER);
    assert_eq!(out.matches("<stream:features>").count(), 1);
}

#[test]
fn starttls_where_it_is_not_offered_ends_the_stream() {
    let failure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>[close]";
    assert_eq!(Peer::tls_at(Stage::Header).send(STARTTLS), failure);
    let config = StreamConfig {
        tls_offered: false,
        tls_required: false,
        ..config()
    };
    let mut peer = Peer::new(config, Transport::Plain);
    peer.send(HEADER);
    assert_eq!(peer.send(STARTTLS), failure);
}

#[test]
fn each_bad_request_gets_its_failure_and_may_be_repeated() {
    let check = |transport: Transport, config: StreamConfig, input: &str, condition: &str| {
        let mut peer = Peer::new(config, transport);
        peer.send(HEADER);
        for _ in 0..5 {
            assert_eq!(peer.send(input), failure(condition), "{input}");
        }
    };
    let tls =
        |input: &str, condition: &str| check(Transport::DirectTls, config(), input, condition);
    tls(&auth("GSSAPI", "x"), "invalid-mechanism");
    tls(&auth("SCRAM-SHA-1-PLUS", "x"), "invalid-mechanism");
    tls(&format!("<auth {SASL}/>"), "invalid-mechanism");
    tls(
        &format!("<auth {SASL} mechanism='PLAIN'>*</auth>"),
        "incorrect-encoding",
    );
    tls(
        &format!("<auth {SASL} mechanism='PLAIN'>=</auth>"),
        "malformed-request",
    );
    tls(
        &format!("<auth {SASL} mechanism='PLAIN'><x/></auth>"),
        "malformed-request",
    );
    tls(&auth("PLAIN", "romeo"), "malformed-request");
    tls(
        &auth("PLAIN", "juliet@example.org\0romeo\0secret"),
        "invalid-authzid",
    );
    tls(
        &auth("PLAIN", "romeo@example.org/x\0romeo\0secret"),
        "invalid-authzid",
    );
    tls(&auth("PLAIN", "romeo\0romeo\0secret"), "invalid-authzid");
    tls(
        &auth("PLAIN", "\0romeo@example.org\0secret"),
        "not-authorized",
    );
    tls(&auth("PLAIN", "\0a b\0secret"), "not-authorized");
    tls(
        &auth("SCRAM-SHA-1", "p=tls-unique,,n=romeo,r=abcdefgh"),
        "malformed-request",
    );
    tls(
        &auth("SCRAM-SHA-1", "n,a=juliet@example.org,n=romeo,r=abcdefgh"),
        "invalid-authzid",
    );
    tls(
        &format!("<response {SASL}>AAAA</response>"),
        "malformed-request",
    );
    tls(&format!("<abort {SASL}/>"), "aborted");
    let optional = || StreamConfig {
        tls_required: false,
        ..config()
    };
    check(Transport::Plain, optional(), PLAIN, "encryption-required");
    check(
        Transport::Plain,
        config(),
        &auth("SCRAM-SHA-1", "n,,n=romeo,r=abcdefgh"),
        "encryption-required",
    );
    let scram_only = StreamConfig {
        mechanisms: vec![Mechanism::ScramSha256],
        ..config()
    };
    check(Transport::DirectTls, scram_only, PLAIN, "invalid-mechanism");
}

#[test]
fn acting_expressly_as_oneself_is_allowed() {
    let out = Peer::tls_at(Stage::Header).send(&auth("PLAIN", "ROMEO@example.org\0romeo\0secret"));
    assert_contains(&out, "[authenticated romeo@example.org]");
}

#[test]
fn an_initial_response_may_come_later() {
    let mut peer = Peer::tls_at(Stage::Header);
    assert_eq!(
        peer.send(&format!("<auth {SASL} mechanism='PLAIN'/>")),
        format!("<challenge {SASL}/>")
    );
    let out = peer.send(&format!("<response {SASL}>AHJvbWVvAHNlY3JldA==</response>"));
    assert_contains(&out, "[authenticated romeo@example.org]");
}

#[test]
fn the_third_wrong_proof_closes_the_stream() {
    let mut peer = Peer::tls_at(Stage::Header);
    let refused = format!(
        "[lookup romeo@example.org][check]{}",
        failure("not-authorized")
    );
    assert_eq!(peer.send(PLAIN_GUESS), refused);
    peer.send(&format!("<abort {SASL}/>"));
    assert_eq!(peer.send(PLAIN_GUESS), refused);
    let out = peer.send(PLAIN_GUESS);
    assert!(out.starts_with(&refused));
    assert_ends_with_error(&out, "policy-violation");
}

#[test]
fn a_wrong_scram_proof_counts_and_a_second_use_of_a_challenge_is_impossible() {
    let mut peer = Peer::tls_at(Stage::Header);
    for attempt in 1..=3 {
        let out = peer.send(&auth("SCRAM-SHA-1", "n,,n=romeo,r=abcdefgh"));
        let challenge = out.split_once(&format!("<challenge {SASL}>")).unwrap().1;
        let challenge = BASE64
            .decode(challenge.strip_suffix("</challenge>").unwrap())
            .unwrap();
        let nonce = String::from_utf8(challenge)
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .to_owned();
        let proof = format!("c=biws,{nonce},p={}", BASE64.encode([0; 20]));
        let response = format!("<response {SASL}>{}</response>", BASE64.encode(&proof));
        let out = peer.send(&response);
        assert_contains(&out, &failure("not-authorized"));
        if attempt < 3 {
            assert_eq!(peer.send(&response), failure("malformed-request"));
        } else {
            assert_ends_with_error(&out, "policy-violation");
        }
    }
}

#[test]
fn an_unknown_user_looks_like_a_known_one() {
    let challenge = |user: &str| {
        let mut peer = Peer::tls_at(Stage::Header);
        let out = peer.send(&auth("SCRAM-SHA-256", &format!("n,,n={user},r=abcdefgh")));
        let data = out
            .split_once(&format!("<challenge {SASL}>"))
            .unwrap()
            .1
            .to_owned();
        let data = BASE64
            .decode(data.strip_suffix("</challenge>").unwrap())
            .unwrap();
        text(&data)
    };
    let (known, unknown) = (challenge("romeo"), challenge("nobody"));
    assert_eq!(known.len(), unknown.len());
    assert_eq!(
        unknown,
        challenge("nobody"),
        "same seed, so all of it is the same"
    );
    let wrong = auth("PLAIN", "\0nobody\0secret");
    let out = Peer::tls_at(Stage::Header).send(&wrong);
    assert_eq!(
        out,
        format!(
            "[lookup nobody@example.org][check]{}",
            failure("not-authorized")
        )
    );
}

#[test]
fn a_store_that_cannot_tell_costs_no_try() {
    let mut peer = Peer::tls_at(Stage::Header);
    peer.answers = false;
    for _ in 0..4 {
        peer.send(PLAIN);
        let refused =
            StreamEvent::CredentialsRefused(crate::sasl::SaslCondition::TemporaryAuthFailure);
        assert_eq!(peer.tell(refused), failure("temporary-auth-failure"));
    }
}

#[test]
fn an_answer_nobody_waits_for_is_ignored() {
    let mut peer = Peer::tls_at(Stage::Header);
    assert_eq!(
        peer.tell(StreamEvent::CredentialsFound(Some(credentials()))),
        ""
    );
    assert_eq!(
        peer.tell(StreamEvent::PasswordChecked(
            crate::sasl::PasswordVerdict::Right
        )),
        ""
    );
    assert_eq!(peer.tell(StreamEvent::TlsEstablished), "");
    assert_contains(&peer.send(PLAIN), "[authenticated romeo@example.org]");
}

#[test]
fn nothing_is_read_while_an_answer_is_waited_for() {
    let mut peer = Peer::tls_at(Stage::Header);
    peer.answers = false;
    assert_eq!(peer.send(PLAIN), "[lookup romeo@example.org]");
    assert!(!peer.core.wants_bytes());
    assert_eq!(peer.send("<message/>"), "");
    let out = peer.tell(StreamEvent::CredentialsFound(None));
    assert_eq!(out, "[check]");
    let out = peer.tell(StreamEvent::PasswordChecked(
        crate::sasl::PasswordVerdict::Wrong,
    ));
    assert_contains(&out, &failure("not-authorized"));
    assert_ends_with_error(&out, "not-authorized");
}

fn register(type_: &str, content: &str) -> String {
    format!("<iq type='{type_}' id='r'><query xmlns='jabber:iq:register'>{content}</query></iq>")
}

#[test]
fn an_account_can_be_made_where_that_is_allowed() {
    let mut peer = Peer::at(
        Stage::Header,
        StreamConfig {
            registration: true,
            ..config()
        },
    );
    let fields = peer.send(&register("get", ""));
    assert_contains(&fields, "<username/><password/></query></iq>");
    let submit = "<username>Benvolio</username><password>x y</password>";
    let out = peer.send(&register("set", submit));
    assert_eq!(
        out,
        "[register benvolio@example.org x y]<iq id='r' type='result'/>"
    );
    peer.answers = false;
    peer.send(&register("set", submit));
    let conflict = crate::stanza_error::StanzaError::new(crate::stanza_error::Condition::Conflict);
    let out = peer.tell(StreamEvent::RegistrationRefused(conflict));
    assert_contains(&out, "<conflict ");
    assert!(!out.contains("x y"), "the password is not sent back");
    let check = |peer: &mut Peer, content: &str, condition: &str| {
        let out = peer.send(&register("set", content));
        assert_contains(&out, "type='error'");
        assert_contains(&out, &format!("<{condition} "));
    };
    check(&mut peer, "<username>a</username>", "not-acceptable");
    check(
        &mut peer,
        "<username>a b</username><password>x</password>",
        "jid-malformed",
    );
    check(&mut peer, "<remove/>", "unexpected-request");
    assert_ends_with_error(
        &peer.send("<iq type='get' id='v'><query xmlns='jabber:iq:version'/></iq>"),
        "not-authorized",
    );
}
