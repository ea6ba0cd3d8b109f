//! The missing-attribute matrix: what lacks something is refused, and nothing panics.

use bytes::Bytes;
use messaging::room::parse::{RoomRequest, Sender, parse};
use proptest::prelude::*;
use xmpp::scan::{Document, Limits};
use xmpp::stanza::Stanza;

use crate::stage::{ROOM, full};

fn parsed(xml: &str) -> Result<RoomRequest, &'static str> {
    let document = Document::parse(Bytes::from(xml.to_owned()), &Limits::AFTER_AUTH).unwrap();
    let stanza = Stanza::from_element(&document.root()).unwrap();
    let sender = Sender {
        jid: full("alice/pc"),
        node: 1,
        incarnation: 1,
        session: 1,
    };
    parse(&stanza, &sender).map_err(|refusal| refusal.to_stanza_error().condition.name())
}

fn check(xml: &str, expect: &'static str) {
    let xml = xml
        .replace("MUC", "http://jabber.org/protocol/muc")
        .replace("TO", ROOM);
    let found = match parsed(&xml) {
        Ok(RoomRequest::Action(action)) => format!("{action:?}")
            .split([' ', '{'])
            .next()
            .unwrap()
            .to_owned(),
        Ok(RoomRequest::Query(query)) => format!("{query:?}")
            .split([' ', '{'])
            .next()
            .unwrap()
            .to_owned(),
        Ok(RoomRequest::Passing(_)) => "passing".to_owned(),
        Ok(RoomRequest::Ignored) => "ignored".to_owned(),
        Ok(RoomRequest::Unhandled) => "unhandled".to_owned(),
        Err(condition) => condition.to_owned(),
    };
    assert_eq!(found, expect, "{xml}");
}

fn check_presence(rest: &str, expect: &'static str) {
    check(
        &format!("<presence xmlns='jabber:client' {rest}</presence>"),
        expect,
    );
}

fn check_message(rest: &str, expect: &'static str) {
    check(
        &format!("<message xmlns='jabber:client' {rest}</message>"),
        expect,
    );
}

fn check_iq(kind: &str, inside: &str, expect: &'static str) {
    check(
        &format!("<iq xmlns='jabber:client' to='TO' id='1' type='{kind}'>{inside}</iq>"),
        expect,
    );
}

#[test]
fn presences() {
    check_presence("to='TO/a'><x xmlns='MUC'/>", "Join");
    check_presence("to='TO'><x xmlns='MUC'/>", "jid-malformed");
    check_presence("to='TO/a'>", "Presence");
    check_presence("to='TO/a' type='unavailable'>", "Leave");
    check_presence("to='TO' type='unavailable'>", "Leave");
    check_presence("to='TO/a' type='probe'>", "ignored");
    check_presence("to='TO/a' type='error'>", "ignored");
    check_presence("to='TO/a' type='subscribe'>", "ignored");
    check_presence(
        "to='TO/a'><x xmlns='MUC'><history maxstanzas='x'/></x>",
        "bad-request",
    );
    check_presence(
        "to='TO/a'><x xmlns='MUC'><history seconds='-1'/></x>",
        "bad-request",
    );
    check_presence(
        "to='TO/a'><x xmlns='MUC'><history since='yesterday'/></x>",
        "bad-request",
    );
    check_presence(
        "to='TO/a'><x xmlns='MUC'><history since='2020-01-01T00:00:00Z' maxchars='9'/></x>",
        "Join",
    );
}

#[test]
fn messages() {
    let hints = "urn:xmpp:hints";
    check_message("to='TO' type='groupchat'><body>x</body>", "Message");
    check_message("to='TO' type='groupchat'><subject/>", "Message");
    check_message("to='TO' type='groupchat'><thread>t</thread>", "passing");
    check_message(
        &format!("to='TO' type='groupchat'><body>x</body><no-store xmlns='{hints}'/>"),
        "passing",
    );
    check_message(
        &format!("to='TO' type='groupchat'><store xmlns='{hints}'/>"),
        "Message",
    );
    check_message("to='TO/a' type='groupchat'><body>x</body>", "bad-request");
    check_message("to='TO/a' type='chat'><body>x</body>", "PrivateMessage");
    check_message("to='TO/a'><body>x</body>", "PrivateMessage");
    check_message("to='TO/a' type='error'><body>x</body>", "ignored");
    check_message("to='TO' type='error'>", "ignored");
    check_message("to='TO'><body>x</body>", "bad-request");
    check_message("to='TO' type='chat'>", "bad-request");
    check_message("to='TO'><x xmlns='MUC#user'/>", "bad-request");
    check_message("to='TO'><x xmlns='MUC#user'><invite/></x>", "bad-request");
    check_message(
        "to='TO'><x xmlns='MUC#user'><invite to='@'/></x>",
        "jid-malformed",
    );
    check_message(
        "to='TO'><x xmlns='MUC#user'><invite to='b@example.org'/></x>",
        "Invite",
    );
    check_message("to='TO'><x xmlns='MUC#user'><decline/></x>", "bad-request");
    check_message(
        "to='TO'><x xmlns='MUC#user'><decline to='b@example.org'/></x>",
        "Decline",
    );
    check_message("to='TO'><x xmlns='jabber:x:data'/>", "bad-request");
    check_message(
        "to='TO'><x xmlns='jabber:x:data' type='submit'/>",
        "bad-request",
    );
    let form = |fields: &str| {
        format!(
            "to='TO'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>MUC#request</value></field>{fields}</x>"
        )
    };
    check_message(&form(""), "bad-request");
    check_message(&form("<field var='muc#role'/>"), "bad-request");
    check_message(
        &form("<field var='muc#role'><value>participant</value></field>"),
        "RequestVoice",
    );
    check_message(
        &form("<field var='muc#request_allow'><value>1</value></field>"),
        "bad-request",
    );
    let grant = "<field var='muc#request_allow'><value>1</value></field><field var='muc#roomnick'><value>b</value></field>";
    check_message(&form(grant), "GrantVoice");
}

#[test]
fn iqs() {
    let admin = |inside: &str| format!("<query xmlns='MUC#admin'>{inside}</query>");
    check_iq("set", &admin(""), "bad-request");
    check_iq("set", &admin("<item/>"), "bad-request");
    check_iq("set", &admin("<item nick='b'/>"), "bad-request");
    check_iq("set", &admin("<item role='visitor'/>"), "bad-request");
    check_iq("set", &admin("<item role='king' nick='b'/>"), "bad-request");
    check_iq("set", &admin("<item role='visitor' nick='b'/>"), "Admin");
    check_iq("set", &admin("<item affiliation='member'/>"), "bad-request");
    check_iq(
        "set",
        &admin("<item affiliation='' jid='b@example.org'/>"),
        "bad-request",
    );
    check_iq(
        "set",
        &admin("<item affiliation='member' jid='@'/>"),
        "jid-malformed",
    );
    check_iq(
        "set",
        &admin("<item affiliation='member' jid='b@example.org'/>"),
        "Admin",
    );
    check_iq(
        "set",
        &admin("<item affiliation='member' role='visitor' nick='b' jid='b@example.org'/>"),
        "bad-request",
    );
    check_iq("get", &admin(""), "bad-request");
    check_iq("get", &admin("<item/>"), "bad-request");
    check_iq("get", &admin("<item affiliation='none'/>"), "bad-request");
    check_iq("get", &admin("<item role='none'/>"), "bad-request");
    check_iq(
        "get",
        &admin("<item affiliation='owner' role='visitor'/>"),
        "bad-request",
    );
    check_iq("get", &admin("<item affiliation='owner'/>"), "Affiliations");
    check_iq("get", &admin("<item role='visitor'/>"), "Roles");
    let owner = |inside: &str| format!("<query xmlns='MUC#owner'>{inside}</query>");
    check_iq("get", &owner(""), "ConfigurationForm");
    check_iq("set", &owner(""), "bad-request");
    check_iq("set", &owner("<x xmlns='jabber:x:data'/>"), "bad-request");
    check_iq(
        "set",
        &owner("<x xmlns='jabber:x:data' type='form'/>"),
        "bad-request",
    );
    check_iq(
        "set",
        &owner("<x xmlns='jabber:x:data' type='submit'/>"),
        "Configure",
    );
    check_iq(
        "set",
        &owner("<x xmlns='jabber:x:data' type='cancel'/>"),
        "CancelConfiguration",
    );
    let other = "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>other</value></field></x>";
    check_iq("set", &owner(other), "bad-request");
    check_iq("set", &owner("<destroy/>"), "Destroy");
    check_iq("set", &owner("<destroy jid='@'/>"), "jid-malformed");
    check_iq(
        "get",
        "<query xmlns='http://jabber.org/protocol/disco#info'/>",
        "Info",
    );
    check_iq(
        "get",
        "<query xmlns='http://jabber.org/protocol/disco#info' node='y'/>",
        "item-not-found",
    );
    check_iq(
        "get",
        "<query xmlns='http://jabber.org/protocol/disco#info' node='MUC#traffic'/>",
        "unhandled",
    );
    check_iq(
        "get",
        "<query xmlns='http://jabber.org/protocol/disco#items' node='y'/>",
        "item-not-found",
    );
    check_iq(
        "set",
        "<query xmlns='http://jabber.org/protocol/disco#info'/>",
        "unhandled",
    );
    check_iq("get", "<vCard xmlns='vcard-temp'/>", "unhandled");
    check_iq("result", "", "ignored");
    check(
        "<iq xmlns='jabber:client' to='TO/a' id='1' type='get'><ping xmlns='urn:xmpp:ping'/></iq>",
        "SelfPing",
    );
    check(
        "<iq xmlns='jabber:client' to='TO/a' id='1' type='get'><vCard xmlns='vcard-temp'/></iq>",
        "OccupantSession",
    );
    check(
        "<iq xmlns='jabber:client' to='TO/a' id='1' type='result'/>",
        "OccupantSession",
    );
}

#[test]
fn only_the_room_says_what_the_room_says() {
    let spoofed = format!(
        "<message xmlns='jabber:client' to='{ROOM}' type='groupchat' id='m'><body>x</body>\
         <stanza-id xmlns='urn:xmpp:sid:0' by='{ROOM}' id='1'/><stanza-id xmlns='urn:xmpp:sid:0' by='a@b' id='1'/>\
         <occupant-id xmlns='urn:xmpp:occupant-id:0' id='1'/><delay xmlns='urn:xmpp:delay' from='{ROOM}' stamp='x'/>\
         <x xmlns='http://jabber.org/protocol/muc#user'><status code='110'/></x><y xmlns='y'/></message>"
    );
    let Ok(RoomRequest::Action(messaging::room::command::RoomAction::Message { stanza, .. })) =
        parsed(&spoofed)
    else {
        panic!("a message");
    };
    let kept = "<body>x</body><stanza-id xmlns='urn:xmpp:sid:0' by='a@b' id='1'/><y xmlns='y'/>";
    assert_eq!(String::from_utf8_lossy(&stanza.payload), kept);
    assert_eq!(
        (stanza.from, stanza.to, stanza.id.as_deref()),
        (None, None, Some("m"))
    );
}

proptest! {
    /// Any nesting of the names that the parser knows is read or refused.
    #[test]
    fn nothing_panics(
        kind in prop::sample::select(vec!["message", "presence", "iq"]),
        type_ in prop::sample::select(vec!["get", "set", "result", "error", "groupchat", "chat", "unavailable", ""]),
        nick in prop::sample::select(vec!["", "/a"]),
        parts in prop::collection::vec((0..10usize, 0..12usize, 0..8usize), 0..6),
    ) {
        let spaces = ["", "#user", "#admin", "#owner"].map(|end| format!("http://jabber.org/protocol/muc{end}"));
        let names = ["x", "query", "item", "invite", "decline", "history", "destroy", "field", "value", "body", "continue", "ping"];
        let attrs = ["", "to='@'", "jid='a@b'", "affiliation='owner'", "role='none'", "nick=''", "type='submit'", "since='1'"];
        let mut inside = String::new();
        for (space, name, attr) in parts.into_iter().rev() {
            let space = spaces.get(space).map_or("jabber:x:data", String::as_str);
            inside = format!("<{0} xmlns='{space}' {1}>{inside}</{0}>", names[name], attrs[attr]);
        }
        let xml = format!("<{kind} xmlns='jabber:client' to='{ROOM}{nick}' type='{type_}' id='1'>{inside}</{kind}>");
        let document = Document::parse(Bytes::from(xml), &Limits::AFTER_AUTH).unwrap();
        if let Ok(stanza) = Stanza::from_element(&document.root()) {
            let sender = Sender { jid: full("alice/pc"), node: 1, incarnation: 1, session: 1 };
            let _: Result<RoomRequest, _> = parse(&stanza, &sender);
        }
    }
}
