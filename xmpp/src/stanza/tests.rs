//! Stanzas: reading, refusing, writing, answering.

use proptest::prelude::*;

use super::*;
use crate::stanza_error::StanzaErrorType;

fn parse(text: &str) -> Result<Stanza, StanzaParseError> {
    let document = Document::parse(Bytes::copy_from_slice(text.as_bytes()), &Limits::AFTER_AUTH)
        .expect("test input is well-formed");
    Stanza::from_element(&document.root())
}

fn written(stanza: &Stanza) -> String {
    let mut out = BytesMut::new();
    stanza.write(&mut out);
    String::from_utf8(out.to_vec()).expect("stanzas are UTF-8")
}

#[track_caller]
fn check(input: &str, expect: &str) {
    let stanza = parse(input).expect("a stanza");
    assert_eq!(written(&stanza), expect);
    assert_eq!(
        parse(expect),
        Ok(stanza),
        "what is written reads back the same"
    );
}

#[test]
fn reading_and_writing() {
    check("<message/>", "<message/>");
    check(
        "<message type='chat' to='B@x/R' id='&lt;1&apos;' xml:lang='de' from='a@x' other='dropped'> <body>hi</body> <x xmlns='y'/></message>",
        "<message from='a@x' id='&lt;1&apos;' type='chat' xml:lang='de' to='b@x/R'><body>hi</body><x xmlns='y'/></message>",
    );
    check(
        "<presence><show>away</show>text</presence>",
        "<presence><show>away</show></presence>",
    );
    check(
        "<c:iq xmlns:c='jabber:client' type='get' id='1'><p:ping xmlns:p='urn:xmpp:ping'/></c:iq>",
        "<iq id='1' type='get'><ping xmlns='urn:xmpp:ping'/></iq>",
    );
    check(
        "<message to='a@x/&apos;&lt;'/>",
        "<message to='a@x/&apos;&lt;'/>",
    );
}

#[test]
fn refusing() {
    assert_eq!(parse("<foo/>"), Err(StanzaParseError::NotAStanza));
    assert_eq!(
        parse("<message xmlns='jabber:server'/>"),
        Err(StanzaParseError::NotAStanza)
    );
    assert_eq!(
        parse("<message from='@'/>"),
        Err(StanzaParseError::MalformedFrom)
    );
    for (input, expect) in [
        (
            "<message to='@x' id='1'><body/></message>",
            "<message id='1' type='error'><error type='modify'><jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>",
        ),
        ("<message to='@x' type='error'/>", ""),
        (
            "<iq to='x' from='a@x' type='get' id='1'/>",
            "<iq from='x' id='1' type='error' to='a@x'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
        ),
        (
            "<iq type='set' id='1'><a/><b/></iq>",
            "<iq id='1' type='error'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
        ),
        (
            "<iq type='foo' id='1'><a/></iq>",
            "<iq id='1' type='error'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
        ),
        (
            "<iq id='1'><a/></iq>",
            "<iq id='1' type='error'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
        ),
        (
            "<iq type='get'><a/></iq>",
            "<iq type='error'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>",
        ),
        ("<iq type='result' id='1'><a/><b/></iq>", ""),
        ("<iq type='error'/>", ""),
    ] {
        let refused = parse(input).expect_err("a refusal");
        assert_eq!(
            refused.reply().as_ref().map_or(String::new(), written),
            expect,
            "{input}"
        );
    }
}

#[test]
fn types_have_defaults() {
    let of = |kind: &str, type_: &str| {
        parse(&format!("<{kind} id='1' type='{type_}'><x/></{kind}>")).expect("a stanza")
    };
    for (type_, expect) in [
        ("chat", MessageType::Chat),
        ("normal", MessageType::Normal),
        ("groupchat", MessageType::Groupchat),
        ("headline", MessageType::Headline),
        ("error", MessageType::Error),
        ("nonsense", MessageType::Normal),
    ] {
        assert_eq!(of("message", type_).message_type(), expect);
    }
    assert_eq!(
        Stanza::new(StanzaKind::Message).message_type(),
        MessageType::Normal
    );
    for (type_, expect) in [
        ("unavailable", PresenceType::Unavailable),
        ("subscribe", PresenceType::Subscribe),
        ("subscribed", PresenceType::Subscribed),
        ("unsubscribe", PresenceType::Unsubscribe),
        ("unsubscribed", PresenceType::Unsubscribed),
        ("probe", PresenceType::Probe),
        ("error", PresenceType::Error),
        ("invisible", PresenceType::Error),
    ] {
        assert_eq!(of("presence", type_).presence_type(), expect);
    }
    assert_eq!(
        Stanza::new(StanzaKind::Presence).presence_type(),
        PresenceType::Available
    );
    assert_eq!(of("iq", "get").iq_type(), IqType::Get);
    assert!(of("iq", "set").is_request() && !of("iq", "result").is_request());
}

#[test]
fn a_template_takes_another_recipient() {
    let stanza =
        parse("<message from='r@x/n' to='y' id='1' type='groupchat'><body>é</body></message>")
            .expect("a stanza");
    for stanza in [
        stanza.clone(),
        Stanza {
            payload: Bytes::new(),
            ..stanza
        },
    ] {
        let (mut spliced, mut direct) = (BytesMut::new(), BytesMut::new());
        stanza.split().write("a@b/'c'", &mut spliced);
        stanza.write_to("a@b/'c'", &mut direct);
        assert_eq!(spliced, direct);
        let readdressed = Stanza {
            to: Some(Jid::parse("a@b/'c'").expect("a JID")),
            ..stanza
        };
        assert_eq!(written(&readdressed).as_bytes(), spliced);
    }
}

#[test]
fn a_frame_of_its_own_declares_its_namespace() {
    let stanza = parse("<message to='y'><body>x</body></message>").expect("a stanza");
    let mut out = BytesMut::new();
    stanza.write_standalone(&mut out);
    assert_eq!(
        out,
        "<message xmlns='jabber:client' to='y'><body>x</body></message>"
    );
}

#[test]
fn errors_answer_with_the_default_type_of_rfc_6120() {
    use Condition as C;
    use StanzaErrorType::{Auth, Cancel, Modify, Wait};
    let table = [
        (C::BadRequest, Modify),
        (C::Conflict, Cancel),
        (C::FeatureNotImplemented, Cancel),
        (C::Forbidden, Auth),
        (C::Gone, Cancel),
        (C::InternalServerError, Cancel),
        (C::ItemNotFound, Cancel),
        (C::JidMalformed, Modify),
        (C::NotAcceptable, Modify),
        (C::NotAllowed, Cancel),
        (C::NotAuthorized, Auth),
        (C::PolicyViolation, Modify),
        (C::RecipientUnavailable, Wait),
        (C::Redirect, Modify),
        (C::RegistrationRequired, Auth),
        (C::RemoteServerNotFound, Cancel),
        (C::RemoteServerTimeout, Wait),
        (C::ResourceConstraint, Wait),
        (C::ServiceUnavailable, Cancel),
        (C::SubscriptionRequired, Auth),
        (C::UndefinedCondition, Cancel),
        (C::UnexpectedRequest, Wait),
    ];
    assert_eq!(table.map(|(condition, _)| condition), Condition::ALL);
    for (condition, kind) in table {
        let error = StanzaError::new(condition);
        assert_eq!(error.kind, kind, "{condition}");
        let mut writer = XmlWriter::new(ns::CLIENT);
        error.write(&mut writer);
        let expect = format!(
            "<error type='{kind}'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
        );
        assert_eq!(writer.finish(), expect);
    }
}

#[test]
fn errors_read_back() -> Result<(), crate::jid::JidError> {
    let full = StanzaError::new(Condition::Gone)
        .with_kind(StanzaErrorType::Modify)
        .with_text("a < b")
        .with_uri("xmpp:b@x")
        .with_app("moved", "urn:example:moved")
        .with_by(Jid::parse("x")?);
    for error in [full, StanzaError::new(Condition::Conflict)] {
        let mut writer = XmlWriter::new(ns::CLIENT);
        error.write(&mut writer);
        let document = Document::parse(writer.finish(), &Limits::AFTER_AUTH).expect("an element");
        assert_eq!(StanzaError::parse(document.root()), error);
    }
    let document = Document::parse(
        Bytes::from_static(b"<error type='x'><y/></error>"),
        &Limits::AFTER_AUTH,
    )
    .expect("an element");
    assert_eq!(
        StanzaError::parse(document.root()),
        StanzaError::new(Condition::UndefinedCondition)
    );
    Ok(())
}

#[test]
fn errors_are_never_answered_with_errors() {
    let error = StanzaError::new(Condition::ServiceUnavailable);
    for (input, answered) in [
        ("<message id='1'/>", true),
        ("<message id='1' type='error'/>", false),
        ("<presence type='error'/>", false),
        ("<presence/>", true),
        ("<iq id='1' type='get'><x/></iq>", true),
        ("<iq id='1' type='set'><x/></iq>", true),
        ("<iq id='1' type='result'/>", false),
        ("<iq id='1' type='error'/>", false),
    ] {
        assert_eq!(
            error.reply_to(&parse(input).expect("a stanza")).is_some(),
            answered,
            "{input}"
        );
    }
}

#[test]
fn debug_output_holds_no_body() {
    let stanza = parse("<message to='y'><body>secret</body></message>").expect("a stanza");
    assert!(
        !format!(
            "{stanza:?} {:?} {:?}",
            stanza.split(),
            stanza.payload_document()
        )
        .contains("secret")
    );
}

proptest! {
    #[test]
    fn any_id_and_resource_survive(id in "\\PC{0,10}", resource in "[ -~é\u{1F600}]{1,10}", lang in "[a-z'&<>\"]{0,5}") {
        let to = Jid::from_parts(Some("a"), "b", Some(&resource));
        let stanza = Stanza { to: to.ok(), id: Some(id.into()), lang: Some(lang.into()), ..Stanza::new(StanzaKind::Message) };
        prop_assert_eq!(parse(&written(&stanza)), Ok(stanza));
    }
}
