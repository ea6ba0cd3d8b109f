//! Queries read, pages written.

use proptest::prelude::*;
use xmpp::scan::{Document, Limits};
use xmpp::stanza::StanzaKind;

use super::*;
use crate::archive::MessageRecord;

fn ids() -> ArchiveIds {
    ArchiveIds::new(&[3; 16])
}

/// The id of a row of [`key`]'s archive.
fn id(seq: u64) -> String {
    ids().id(&key(), seq)
}

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

fn key() -> BareJid {
    BareJid::parse("alice@localhost").unwrap()
}

fn read(xml: &str) -> Result<ArchiveQuery, StanzaError> {
    let document = Document::parse(Bytes::from(xml.to_owned()), &Limits::default()).unwrap();
    parse(
        document.root(),
        key(),
        FullJid::parse("alice@localhost/a").unwrap(),
        &ids(),
    )
}

fn query(inside: &str) -> Result<ArchiveQuery, StanzaError> {
    read(&format!(
        "<query xmlns='urn:xmpp:mam:2' queryid='q'>{inside}</query>"
    ))
}

fn form(fields: &[(&str, &str)]) -> String {
    let mut out = String::from(
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>urn:xmpp:mam:2</value></field>",
    );
    for (var, value) in fields {
        out.push_str(&format!(
            "<field var='{var}'><value>{value}</value></field>"
        ));
    }
    out + "</x>"
}

fn set(inside: &str) -> String {
    format!("<set xmlns='http://jabber.org/protocol/rsm'>{inside}</set>")
}

fn everything() -> ArchiveQuery {
    query("").unwrap()
}

#[test]
fn a_bare_query_asks_for_the_first_page() {
    let query = everything();
    assert_eq!(
        (query.max, query.backward, query.flip),
        (PAGE_ROWS_DEFAULT, false, false)
    );
    assert_eq!(query.query_id.as_deref(), Some("q"));
    assert_eq!(
        (query.after, query.before, query.named),
        (None, None, vec![])
    );
}

#[test]
fn filters_are_read() {
    let (five, nine) = (id(5), id(9));
    let fields = [
        ("with", "bob@localhost"),
        ("start", "1970-01-01T00:00:01Z"),
        ("end", "1970-01-01T01:00:02.5+01:00"),
        ("after-id", &five),
        ("before-id", &nine),
    ];
    let query =
        query(&(form(&fields) + &set("<max>99999999999999999999</max><before/>") + "<flip-page/>"))
            .unwrap();
    assert_eq!(query.with, Some(jid("bob@localhost")));
    assert_eq!((query.start_ms, query.end_ms), (Some(1_000), Some(2_500)));
    assert_eq!((query.after, query.before), (Some(5), Some(9)));
    assert_eq!(query.named, [5, 9]);
    assert_eq!(
        (query.max, query.backward, query.flip),
        (PAGE_ROWS_MAX, true, true)
    );
}

#[test]
fn bounds_of_form_and_set_both_hold() {
    let (five, seven) = (id(5), id(7));
    let query =
        query(&(form(&[("after-id", &seven)]) + &set(&format!("<after>{five}</after>")))).unwrap();
    assert_eq!(query.after, Some(7));
    assert_eq!(query.named, [7, 5]);
}

#[test]
fn what_is_wrong_is_refused() {
    let check = |inside: String, expect: Condition| {
        assert_eq!(
            query(&inside).map_err(|error| error.condition),
            Err(expect),
            "{inside}"
        );
    };
    check(form(&[("colour", "red")]), Condition::FeatureNotImplemented);
    check(
        "<x xmlns='jabber:x:data'><field var='colour'/></x>".into(),
        Condition::FeatureNotImplemented,
    );
    check(
        form(&[("include-groupchat", "true")]),
        Condition::FeatureNotImplemented,
    );
    check(form(&[("with", "@")]), Condition::BadRequest);
    check(form(&[("start", "yesterday")]), Condition::BadRequest);
    check(form(&[("after-id", "nonsense")]), Condition::ItemNotFound);
    check(form(&[("ids", "")]), Condition::ItemNotFound);
    check(
        "<x xmlns='jabber:x:data'><field/></x>".into(),
        Condition::BadRequest,
    );
    check("<x xmlns='jabber:x:data'/>".into(), Condition::BadRequest);
    check(
        "<x xmlns='jabber:x:data'><field var='FORM_TYPE'><value>urn:xmpp:mam:1</value></field></x>"
            .into(),
        Condition::BadRequest,
    );
    check(set("<after>nonsense</after>"), Condition::ItemNotFound);
    check(set("<before>nonsense</before>"), Condition::ItemNotFound);
    check(set("<max>many</max>"), Condition::BadRequest);
    check(set("<index>3</index>"), Condition::FeatureNotImplemented);
    let node = read("<query xmlns='urn:xmpp:mam:2' node='n'/>");
    assert_eq!(
        node.map_err(|error| error.condition),
        Err(Condition::ItemNotFound)
    );
}

fn row(seq: u64, from: &str, to: &str) -> ArchiveRow {
    let sent = from.starts_with("alice");
    let stanza = Stanza {
        from: Some(jid(from)),
        to: Some(jid(to)),
        id: Some("m".into()),
        type_: Some("chat".into()),
        payload: Bytes::from_static(b"<body>hi</body>"),
        ..Stanza::new(StanzaKind::Message)
    };
    let peer = jid(if sent { to } else { from });
    let record = ArchiveRecord::Message(MessageRecord {
        sent,
        peer,
        sender: None,
        stanza,
    });
    ArchiveRow {
        key: key(),
        seq,
        time_ms: seq * 1_000,
        record,
    }
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn parts(reply: Reply) -> (Vec<Bytes>, Bytes) {
    match reply {
        Reply::Page { messages, fin } => (messages, fin),
        other => panic!("not a page: {other:?}"),
    }
}

#[test]
fn peers_match_bare_or_full() {
    let check = |with: &str, row: &ArchiveRow, expect: bool| {
        let query = ArchiveQuery {
            with: Some(jid(with)),
            ..everything()
        };
        assert_eq!(matches(&query, row, false), expect, "{with}");
    };
    let received = row(1, "bob@localhost/b", "alice@localhost");
    check("bob@localhost", &received, true);
    check("bob@localhost/b", &received, true);
    check("bob@localhost/c", &received, false);
    check("carol@localhost", &received, false);
    // XEP-0313 §4.1.1: with one's own JID only what one sent to oneself.
    check("alice@localhost", &received, false);
    check(
        "alice@localhost",
        &row(1, "alice@localhost/a", "alice@localhost"),
        true,
    );
}

#[test]
fn every_bound_holds() {
    let row = row(5, "bob@localhost/b", "alice@localhost");
    let check = |query: ArchiveQuery, expect: bool| {
        assert_eq!(matches(&query, &row, false), expect, "{query:?}")
    };
    check(everything(), true);
    check(
        ArchiveQuery {
            after: Some(5),
            ..everything()
        },
        false,
    );
    check(
        ArchiveQuery {
            after: Some(4),
            before: Some(6),
            ..everything()
        },
        true,
    );
    check(
        ArchiveQuery {
            before: Some(5),
            ..everything()
        },
        false,
    );
    check(
        ArchiveQuery {
            start_ms: Some(5_000),
            end_ms: Some(5_000),
            ..everything()
        },
        true,
    );
    check(
        ArchiveQuery {
            start_ms: Some(5_001),
            ..everything()
        },
        false,
    );
    check(
        ArchiveQuery {
            end_ms: Some(4_999),
            ..everything()
        },
        false,
    );
    check(
        ArchiveQuery {
            ids: vec![1, 5],
            ..everything()
        },
        true,
    );
    check(
        ArchiveQuery {
            ids: vec![1, 6],
            ..everything()
        },
        false,
    );
}

#[test]
fn results_carry_the_message_as_it_was() {
    let row = row(5, "bob@localhost/b", "alice@localhost");
    let (messages, fin) = parts(page(&everything(), vec![row], Some(1), false, &ids()));
    let id = id(5);
    let expect = format!(
        "<message from='alice@localhost' to='alice@localhost/a'><result xmlns='urn:xmpp:mam:2' queryid='q' id='{id}'>\
         <forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='1970-01-01T00:00:05.000Z'/>\
         <message xmlns='jabber:client' from='bob@localhost/b' to='alice@localhost' id='m' type='chat'>\
         <body>hi</body></message></forwarded></result></message>"
    );
    assert_eq!(messages.iter().map(text).collect::<Vec<_>>(), [expect]);
    assert_eq!(
        text(&fin),
        format!(
            "<fin xmlns='urn:xmpp:mam:2' complete='true'><set xmlns='http://jabber.org/protocol/rsm'>\
             <first>{id}</first><last>{id}</last><count>1</count></set></fin>"
        )
    );
}

#[test]
fn an_empty_page_is_complete_and_names_nothing() {
    let (messages, fin) = parts(page(&everything(), vec![], Some(0), false, &ids()));
    assert_eq!(messages, Vec::<Bytes>::new());
    let expect = "<fin xmlns='urn:xmpp:mam:2' complete='true'><set xmlns='http://jabber.org/protocol/rsm'>\
                  <count>0</count></set></fin>";
    assert_eq!(text(&fin), expect);
    let counted = ArchiveQuery {
        max: 0,
        ..everything()
    };
    let one = vec![row(1, "bob@localhost/b", "alice@localhost")];
    let (messages, fin) = parts(page(&counted, one, None, false, &ids()));
    assert_eq!(messages.len(), 0);
    assert_eq!(
        text(&fin),
        "<fin xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'/></fin>"
    );
}

/// What the shell does, over rows 1..=`count`.
fn ask(query: &ArchiveQuery, count: u64) -> (Vec<u64>, bool) {
    let rows = (1..=count).map(|seq| row(seq, "bob@localhost/b", "alice@localhost"));
    let mut found: Vec<ArchiveRow> = rows.filter(|row| matches(query, row, false)).collect();
    if query.backward {
        found.reverse();
    }
    found.truncate(rows_wanted(query));
    let (messages, fin) = parts(page(query, found, None, false, &ids()));
    let seqs = messages.iter().map(|message| {
        let document = Document::parse(message.clone(), &Limits::default()).unwrap();
        let result = document.root().child("result", ns::MAM).unwrap();
        ids().seq(&key(), &result.attr("id").unwrap()).unwrap()
    });
    (seqs.collect(), text(&fin).contains("complete='true'"))
}

#[test]
fn pages_are_chronological_unless_flipped() {
    let page = |max, backward, flip| {
        ask(
            &ArchiveQuery {
                max,
                backward,
                flip,
                ..everything()
            },
            5,
        )
    };
    assert_eq!(page(2, false, false), (vec![1, 2], false));
    assert_eq!(page(2, true, false), (vec![4, 5], false));
    assert_eq!(page(2, true, true), (vec![5, 4], false));
    assert_eq!(page(5, false, true), (vec![5, 4, 3, 2, 1], true));
    assert_eq!(page(6, true, false), (vec![1, 2, 3, 4, 5], true));
}

/// Rows whose messages have these payload bytes, read as the shell does: until they fill a page.
fn check_bytes(sizes: &[usize], max: u32, backward: bool, expect: &[u64], complete: bool) {
    let query = ArchiveQuery {
        max,
        backward,
        ..everything()
    };
    let mut rows: Vec<ArchiveRow> = (1..)
        .zip(sizes)
        .map(|(seq, size)| {
            let mut row = row(seq, "bob@localhost/b", "alice@localhost");
            if let ArchiveRecord::Message(message) = &mut row.record {
                message.stanza.payload = format!("<body>{}</body>", "x".repeat(*size)).into();
            }
            row
        })
        .collect();
    if backward {
        rows.reverse();
    }
    let mut bytes = 0;
    rows.truncate(rows_wanted(&query));
    let full = rows.iter().position(|row| {
        bytes += row_bytes(row);
        bytes >= PAGE_BYTES_MAX
    });
    rows.truncate(full.map_or(rows.len(), |last| last + 1));
    let (messages, fin) = parts(page(&query, rows, None, false, &ids()));
    let seqs: Vec<u64> = messages
        .iter()
        .map(|message| {
            let limits = Limits {
                stanza_bytes_max: usize::MAX,
                ..Limits::default()
            };
            let document = Document::parse(message.clone(), &limits).unwrap();
            let result = document.root().child("result", ns::MAM).unwrap();
            ids().seq(&key(), &result.attr("id").unwrap()).unwrap()
        })
        .collect();
    assert_eq!(seqs, expect);
    let fin = text(&fin);
    assert_eq!(fin.contains("complete='true'"), complete, "{fin}");
    assert!(fin.contains(&format!("<last>{}</last>", id(*expect.last().unwrap()))));
}

#[test]
fn a_page_is_bounded_in_bytes() {
    check_bytes(&[10; 5], 50, false, &[1, 2, 3, 4, 5], true);
    check_bytes(&[400_000; 5], 50, false, &[1, 2], false);
    check_bytes(&[400_000; 5], 50, true, &[4, 5], false);
    check_bytes(&[400_000; 2], 50, false, &[1, 2], true);
    check_bytes(&[400_000; 5], 1, false, &[1], false);
    check_bytes(&[2_000_000, 10], 50, false, &[1], false);
    check_bytes(&[10, 2_000_000, 10], 50, false, &[1], false);
}

proptest! {
    /// P8: any page size and direction gives the same list.
    #[test]
    fn walking_gives_every_row_once(count in 0u64..40, max in 1u32..12, backward: bool) {
        let mut seen = Vec::new();
        let mut query = ArchiveQuery { max, backward, ..everything() };
        loop {
            let (page, complete) = ask(&query, count);
            if backward {
                query.before = page.first().copied();
                seen.splice(0..0, page);
            } else {
                query.after = page.last().copied();
                seen.extend(page);
            }
            if complete {
                break;
            }
        }
        prop_assert_eq!(seen, (1..=count).collect::<Vec<_>>());
    }

    #[test]
    fn times_come_back(ms in 0u64..253_402_300_800_000) {
        prop_assert_eq!(parse_time(&stamp(ms)).ok(), Some(ms));
    }
}

#[test]
fn rooms_show_occupants_and_to_those_who_may_know_real_jids() {
    let room = BareJid::parse("den@conference.localhost").unwrap();
    let event = RoomEvent::Message {
        sender: FullJid::parse("bob@localhost/b").unwrap(),
        nick: "Bob".into(),
        occupant_id: "o".into(),
        stanza: Stanza {
            type_: Some("groupchat".into()),
            ..Stanza::new(StanzaKind::Message)
        },
        archived: true,
    };
    let row = ArchiveRow {
        key: room.clone(),
        seq: 1,
        time_ms: 0,
        record: ArchiveRecord::Room(event),
    };
    let query = ArchiveQuery {
        key: room,
        query_id: None,
        ..everything()
    };
    let shown = |real_jids| {
        let (messages, _) = parts(page(&query, vec![row.clone()], None, real_jids, &ids()));
        let text = text(&messages[0]).to_owned();
        text[text.find("<message xmlns").unwrap()..text.find("</message>").unwrap()].to_owned()
    };
    let anonymous = "<message xmlns='jabber:client' from='den@conference.localhost/Bob' type='groupchat'>\
                     <occupant-id xmlns='urn:xmpp:occupant-id:0' id='o'/>";
    let item = "<x xmlns='http://jabber.org/protocol/muc#user'><item jid='bob@localhost/b'/></x>";
    assert_eq!(shown(false), anonymous);
    assert_eq!(shown(true), format!("{anonymous}{item}"));
    // §4.1.1: by the real JID only for who may know it.
    let check = |with: &str, expect: [bool; 2]| {
        let query = ArchiveQuery {
            with: Some(jid(with)),
            ..query.clone()
        };
        let found = [false, true].map(|real_jids| matches(&query, &row, real_jids));
        assert_eq!(found, expect, "{with}");
    };
    check("den@conference.localhost/Bob", [true, true]);
    check("den@conference.localhost", [true, true]);
    check("den@conference.localhost/Eve", [false, false]);
    check("bob@localhost", [false, true]);
    check("bob@localhost/b", [false, true]);
    check("bob@localhost/c", [false, false]);
    check("eve@localhost", [false, false]);
}

#[test]
fn metadata_names_both_ends() {
    let (oldest, newest) = (
        row(1, "bob@localhost/b", "alice@localhost"),
        row(9, "bob@localhost/b", "alice@localhost"),
    );
    assert_eq!(
        text(&metadata_payload(None, None, &ids())),
        "<metadata xmlns='urn:xmpp:mam:2'/>"
    );
    let (first, last) = (id(1), id(9));
    assert_eq!(
        text(&metadata_payload(Some(&oldest), Some(&newest), &ids())),
        format!(
            "<metadata xmlns='urn:xmpp:mam:2'><start id='{first}' timestamp='1970-01-01T00:00:01.000Z'/>\
             <end id='{last}' timestamp='1970-01-01T00:00:09.000Z'/></metadata>"
        )
    );
}

#[test]
fn the_form_lists_every_field_that_is_read() {
    let form = form_payload();
    let document = Document::parse(form, &Limits::default()).unwrap();
    let form = document.root().child("x", ns::DATA_FORM).unwrap();
    let vars: Vec<String> = form
        .children()
        .filter_map(|field| field.attr("var"))
        .map(|var| var.into())
        .collect();
    assert_eq!(
        vars,
        [
            "FORM_TYPE",
            "with",
            "start",
            "end",
            "before-id",
            "after-id",
            "ids"
        ]
    );
}
