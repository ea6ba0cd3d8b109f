//! Every cell of RFC 6121 §8.5, and which messages are filed and copied.

use bytes::Bytes;

use super::*;

fn stanza(kind: StanzaKind, type_: &str) -> Stanza {
    Stanza {
        type_: (!type_.is_empty()).then(|| type_.into()),
        ..Stanza::new(kind)
    }
}

fn show(delivery: Delivery) -> String {
    match delivery {
        Delivery::Sessions(sessions) => format!("{sessions:?}"),
        Delivery::Error(condition) => format!("{condition:?}"),
        other => format!("{other:?}"),
    }
}

const BARE: &str = "romeo@montague.lit";
const HOME: &str = "romeo@montague.lit/home";
const GONE: &str = "romeo@montague.lit/gone";

/// `home` is connected only, `phone` has a negative priority, `work` 0 and `desk` 5.
fn resources(priorities: &[Option<i8>]) -> Vec<Resource<'static>> {
    let names = ["home", "phone", "work", "desk"];
    let all = names.into_iter().zip(priorities);
    all.map(|(name, &priority)| Resource { name, priority })
        .collect()
}

const NONE: &[Option<i8>] = &[];
const CONNECTED: &[Option<i8>] = &[None];
const NEGATIVE: &[Option<i8>] = &[None, Some(-1)];
const ONE: &[Option<i8>] = &[None, Some(-1), Some(0)];
const TWO: &[Option<i8>] = &[None, Some(-1), Some(0), Some(5)];

fn check(kind: StanzaKind, type_: &str, rows: &[(&str, &[Option<i8>], &str)]) {
    for (to, priorities, expect) in rows {
        let to_jid = Jid::parse(to).unwrap();
        let delivery = route(
            &stanza(kind, type_),
            &to_jid,
            true,
            &resources(priorities),
            false,
        );
        assert_eq!(show(delivery), *expect, "{type_} to {to}, {priorities:?}");
    }
}

#[test]
fn messages_of_a_conversation() {
    let rows: &[(&str, &[Option<i8>], &str)] = &[
        // §8.5.2.1.1
        (BARE, TWO, "[2, 3]"),
        (BARE, ONE, "[2]"),
        (BARE, NEGATIVE, "Offline"),
        // §8.5.2.2.1
        (BARE, CONNECTED, "Offline"),
        (BARE, NONE, "Offline"),
        // §8.5.3.1
        (HOME, TWO, "[0]"),
        (HOME, CONNECTED, "[0]"),
        ("romeo@montague.lit/phone", TWO, "[1]"),
    ];
    check(StanzaKind::Message, "chat", rows);
    check(StanzaKind::Message, "normal", rows);
    check(StanzaKind::Message, "", rows);
    check(StanzaKind::Message, "unheard-of", rows);
    // §8.5.3.2.1
    check(
        StanzaKind::Message,
        "chat",
        &[
            (GONE, TWO, "[2, 3]"),
            (GONE, NEGATIVE, "Offline"),
            (GONE, NONE, "Offline"),
        ],
    );
    check(
        StanzaKind::Message,
        "normal",
        &[
            (GONE, TWO, "ServiceUnavailable"),
            (GONE, NONE, "ServiceUnavailable"),
        ],
    );
}

#[test]
fn a_filed_message_is_never_refused() {
    let to = Jid::parse(GONE).unwrap();
    let check = |priorities: &[Option<i8>], expect: &str| {
        let message = stanza(StanzaKind::Message, "normal");
        let delivery = route(&message, &to, true, &resources(priorities), true);
        assert_eq!(show(delivery), expect);
    };
    check(TWO, "[2, 3]");
    check(NEGATIVE, "Offline");
    check(NONE, "Offline");
}

#[test]
fn other_messages() {
    check(
        StanzaKind::Message,
        "groupchat",
        &[
            (BARE, TWO, "ServiceUnavailable"),
            (BARE, NONE, "ServiceUnavailable"),
            (HOME, TWO, "[0]"),
            (GONE, TWO, "ServiceUnavailable"),
        ],
    );
    check(
        StanzaKind::Message,
        "headline",
        &[
            (BARE, TWO, "[2, 3]"),
            (BARE, NEGATIVE, "Drop"),
            (BARE, NONE, "Drop"),
            (HOME, TWO, "[0]"),
            (GONE, TWO, "Drop"),
        ],
    );
    check(
        StanzaKind::Message,
        "error",
        &[
            (BARE, TWO, "Drop"),
            (BARE, NONE, "Drop"),
            (HOME, TWO, "[0]"),
            (GONE, TWO, "Drop"),
        ],
    );
}

/// A cell of table 1 that allows what is done: stored offline (O), bounced (E), silently ignored (S), delivered to the
/// addressed or only session (D), to the most available ones (M) or to all that aren't negative (A).
fn letters(delivery: &Delivery, full_match: bool, non_negative: &[usize]) -> &'static str {
    match delivery {
        Delivery::Offline => "O",
        Delivery::Error(Condition::ServiceUnavailable) => "E",
        Delivery::Drop => "S",
        Delivery::Sessions(sessions) if full_match && sessions.len() == 1 => "D",
        // All of them are the most available ones: see `route`.
        Delivery::Sessions(sessions) if sessions == non_negative && sessions.len() > 1 => "MA",
        Delivery::Sessions(sessions) if sessions == non_negative => "D",
        _ => "not in the table",
    }
}

/// RFC 6121 §8.5.4, table 1, row by row: condition, address; normal, chat, groupchat, headline.
#[test]
fn table_1_of_message_delivery_rules() {
    const MATCH: &str = "romeo@montague.lit/desk";
    let check = |exists, priorities: &[Option<i8>], to: &str, cells: [&str; 4]| {
        let all = resources(priorities);
        let eligible = all.iter().enumerate().filter(|(_, one)| one.is_eligible());
        let non_negative: Vec<usize> = eligible.map(|(index, _)| index).collect();
        let to_jid = Jid::parse(to).unwrap();
        for (type_, cell) in ["normal", "chat", "groupchat", "headline"]
            .into_iter()
            .zip(cells)
        {
            let message = stanza(StanzaKind::Message, type_);
            let delivery = route(&message, &to_jid, exists, &all, false);
            let done = letters(&delivery, to == MATCH, &non_negative);
            let allowed = cell.split('/').any(|letter| done.contains(letter));
            assert!(
                allowed,
                "{type_} to {to}, {priorities:?}: {done}, not {cell}"
            );
        }
    };
    // Account does not exist.
    check(false, NONE, BARE, ["S/E", "S/E", "E", "S"]);
    check(false, NONE, GONE, ["S/E", "S/E", "S/E", "S/E"]);
    // Account exists, but no active resources.
    check(true, NONE, BARE, ["O/E", "O/E", "E", "S"]);
    check(true, NONE, GONE, ["S/E", "O/E", "S/E", "S/E"]);
    // 1+ negative resources but zero non-negative resources.
    let negative = [None, None, None, Some(-1)];
    check(true, &negative, BARE, ["O/E", "O/E", "E", "S"]);
    check(true, &negative, MATCH, ["D", "D", "D", "D"]);
    check(true, &negative, GONE, ["S/E", "O/E", "S/E", "S/E"]);
    // 1 non-negative resource.
    let one = [None, None, Some(-1), Some(0)];
    check(true, &one, BARE, ["D", "D", "E", "D"]);
    check(true, &one, MATCH, ["D", "D", "D", "D"]);
    check(true, &one, GONE, ["S/E", "D", "S/E", "S/E"]);
    // 1+ non-negative resources.
    check(true, TWO, BARE, ["M/A", "M/A", "E", "A"]);
    check(true, TWO, MATCH, ["D", "D/A", "D", "D"]);
    check(true, TWO, GONE, ["S/E", "M/A", "S/E", "S/E"]);
}

#[test]
fn presence() {
    for type_ in ["", "unavailable"] {
        check(
            StanzaKind::Presence,
            type_,
            &[
                (BARE, TWO, "[1, 2, 3]"),
                (BARE, NEGATIVE, "[1]"),
                (BARE, CONNECTED, "Drop"),
                (BARE, NONE, "Drop"),
                (HOME, TWO, "[0]"),
                (GONE, TWO, "Drop"),
            ],
        );
    }
    for type_ in [
        "subscribe",
        "subscribed",
        "unsubscribe",
        "unsubscribed",
        "probe",
    ] {
        check(
            StanzaKind::Presence,
            type_,
            &[
                (BARE, TWO, "Server"),
                (BARE, NONE, "Server"),
                (HOME, TWO, "Server"),
                (GONE, TWO, "Server"),
            ],
        );
    }
    check(
        StanzaKind::Presence,
        "error",
        &[(BARE, TWO, "Drop"), (HOME, TWO, "[0]"), (GONE, TWO, "Drop")],
    );
}

#[test]
fn iqs() {
    for type_ in ["get", "set"] {
        check(
            StanzaKind::Iq,
            type_,
            &[
                (BARE, TWO, "Server"),
                (BARE, NONE, "Server"),
                (HOME, TWO, "[0]"),
                (GONE, TWO, "ServiceUnavailable"),
                (GONE, NONE, "ServiceUnavailable"),
            ],
        );
    }
    for type_ in ["result", "error"] {
        check(
            StanzaKind::Iq,
            type_,
            &[
                (HOME, TWO, "[0]"),
                (GONE, TWO, "Drop"),
                (GONE, NONE, "Drop"),
            ],
        );
    }
}

#[test]
fn nobody_is_there() {
    let check = |kind: StanzaKind, type_: &str, expect: &str| {
        for to in [BARE, HOME] {
            let to = Jid::parse(to).unwrap();
            let delivery = route(&stanza(kind, type_), &to, false, &[], false);
            assert_eq!(show(delivery), expect, "{type_}");
        }
    };
    check(StanzaKind::Message, "chat", "ServiceUnavailable");
    check(StanzaKind::Message, "groupchat", "ServiceUnavailable");
    check(StanzaKind::Message, "headline", "Drop");
    check(StanzaKind::Message, "error", "Drop");
    check(StanzaKind::Presence, "", "Drop");
    check(StanzaKind::Presence, "subscribe", "Drop");
    check(StanzaKind::Presence, "probe", "Drop");
    check(StanzaKind::Iq, "get", "ServiceUnavailable");
    check(StanzaKind::Iq, "set", "ServiceUnavailable");
    check(StanzaKind::Iq, "result", "Drop");
    check(StanzaKind::Iq, "error", "Drop");
}

fn message(type_: &str, payload: &'static str) -> Stanza {
    Stanza {
        payload: Bytes::from_static(payload.as_bytes()),
        ..stanza(StanzaKind::Message, type_)
    }
}

#[test]
fn what_nobody_misses() {
    let check = |payload: &'static str, expect: bool| {
        assert_eq!(may_be_lost(&message("", payload)), expect, "{payload}");
    };
    check("", false);
    check("<x xmlns='jabber:x:data' type='form'/>", false);
    check(
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
        true,
    );
    check("<received xmlns='urn:xmpp:receipts' id='1'/>", true);
    check("<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", true);
    check("<body>hi</body><no-store xmlns='urn:xmpp:hints'/>", true);
    check(
        "<a xmlns='u'/><no-permanent-store xmlns='urn:xmpp:hints'/>",
        true,
    );
    check("<a xmlns='u'/><no-copy xmlns='urn:xmpp:hints'/>", false);
}

#[test]
fn what_is_filed() {
    let check = |type_: &str, payload: &'static str, expect: bool| {
        assert_eq!(
            is_durable(&message(type_, payload)),
            expect,
            "{type_} {payload}"
        );
    };
    const BODY: &str = "<body>hi</body>";
    check("chat", BODY, true);
    check("normal", BODY, true);
    check("", BODY, true);
    check("groupchat", BODY, true);
    check("headline", BODY, false);
    check("error", BODY, false);
    check("chat", "", false);
    check(
        "chat",
        "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
        false,
    );
    check("chat", "<body xmlns='urn:other'>hi</body>", false);
    check("", "<x xmlns='jabber:x:conference' jid='den@rooms'/>", true);
    check(
        "chat",
        "<body>hi</body><no-store xmlns='urn:xmpp:hints'/>",
        false,
    );
    check(
        "chat",
        "<no-permanent-store xmlns='urn:xmpp:hints'/><body>hi</body>",
        false,
    );
    check(
        "chat",
        "<body>hi</body><no-copy xmlns='urn:xmpp:hints'/>",
        true,
    );
    check(
        "chat",
        "<received xmlns='urn:xmpp:receipts' id='1'/><store xmlns='urn:xmpp:hints'/>",
        true,
    );
    check(
        "",
        "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/><store xmlns='urn:xmpp:hints'/>",
        true,
    );
    check(
        "chat",
        "<received xmlns='urn:xmpp:receipts' id='1'/>",
        false,
    );
    check(
        "chat",
        "<store xmlns='urn:xmpp:hints'/><no-store xmlns='urn:xmpp:hints'/>",
        false,
    );
    check(
        "chat",
        "<encrypted xmlns='eu.siacs.conversations.axolotl'/><body>I sent you an OMEMO message</body>",
        true,
    );
    let presence = Stanza {
        kind: StanzaKind::Presence,
        ..message("", BODY)
    };
    assert!(!is_durable(&presence));
}

#[test]
fn what_is_copied() {
    use CarbonDirection::{Received, Sent};
    let check = |type_: &str, payload: &'static str, received: bool, sent: bool| {
        let message = message(type_, payload);
        assert_eq!(
            carbon_eligible(&message, Received),
            received,
            "{type_} {payload}"
        );
        assert_eq!(carbon_eligible(&message, Sent), sent, "{type_} {payload}");
    };
    const BODY: &str = "<body>hi</body>";
    const ROOM: &str = "<body>hi</body><x xmlns='http://jabber.org/protocol/muc#user'/>";
    check("chat", BODY, true, true);
    check("chat", "", true, true);
    check("normal", BODY, true, true);
    check("normal", "<subject>hi</subject>", false, false);
    check(
        "",
        "<received xmlns='urn:xmpp:receipts' id='1'/>",
        true,
        true,
    );
    check(
        "",
        "<active xmlns='http://jabber.org/protocol/chatstates'/>",
        true,
        true,
    );
    check(
        "",
        "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>",
        true,
        true,
    );
    check("groupchat", BODY, false, false);
    check("headline", BODY, false, false);
    check("error", "<error type='cancel'/>", false, false);
    check("error", "<body>hi</body><error type='cancel'/>", true, true);
    check(
        "chat",
        "<body>hi</body><private xmlns='urn:xmpp:carbons:2'/>",
        false,
        false,
    );
    check(
        "chat",
        "<body>hi</body><no-copy xmlns='urn:xmpp:hints'/>",
        false,
        false,
    );
    check("chat", ROOM, false, true);
    check(
        "",
        "<x xmlns='jabber:x:conference' jid='den@rooms.lit'/>",
        true,
        true,
    );
    check(
        "",
        "<x xmlns='http://jabber.org/protocol/muc#user'><invite from='a@b'/></x>",
        true,
        true,
    );
}

#[test]
fn copies_are_wrapped() {
    let message = Stanza {
        from: Some(Jid::parse("juliet@capulet.lit/balcony").unwrap()),
        to: Some(Jid::parse(HOME).unwrap()),
        id: Some("a'1".into()),
        lang: Some("it".into()),
        ..message("chat", "<body>hi</body>")
    };
    let user = BareJid::parse(BARE).unwrap();
    let copy = carbon(&message, CarbonDirection::Received, &user);
    assert_eq!(copy.from, Some(Jid::from(&user)));
    assert_eq!(copy.to, None);
    assert_eq!(copy.type_.as_deref(), Some("chat"));
    assert_eq!(
        std::str::from_utf8(&copy.payload).unwrap(),
        "<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>\
         <message xmlns='jabber:client' from='juliet@capulet.lit/balcony' to='romeo@montague.lit/home' \
         id='a&apos;1' type='chat' xml:lang='it'><body>hi</body></message></forwarded></received>"
    );
    let copy = carbon(&message, CarbonDirection::Sent, &user);
    assert!(
        copy.payload
            .starts_with(b"<sent xmlns='urn:xmpp:carbons:2'>")
    );
}
