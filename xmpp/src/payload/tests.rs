//! Payloads: each is read from what the specifications show, written back, and refused without what must be there.

use bytes::Bytes;

use super::*;
use crate::blocking::{self, BlockingRequest};
use crate::caps::{Caps, verification};
use crate::carbons::{self, CarbonsRequest, Direction};
use crate::data_form::{DataForm, Field, FieldType, FormType};
use crate::delay::Delay;
use crate::disco::{DiscoInfo, DiscoItems};
use crate::forward::Forwarded;
use crate::hints::Hints;
use crate::jid::{BareJid, FullJid};
use crate::mam::{ArchiveQuery, Fin};
use crate::muc::{Item, Join, Mediated, OwnerRequest, parse_admin_query};
use crate::ns;
use crate::roster::{RosterChange, RosterItem};
use crate::rsm::{PageRequest, PageResult};
use crate::scan::{Document, Limits};
use crate::stanza::Stanza;
use crate::stanza_id::{StanzaId, is_stanza_id_by, origin_id};
use crate::timestamp::Timestamp;
use crate::write::XmlWriter;

fn document(text: &str) -> Document {
    Document::parse(Bytes::copy_from_slice(text.as_bytes()), &Limits::AFTER_AUTH)
        .expect("test input is well-formed")
}

fn written(write: impl FnOnce(&mut XmlWriter)) -> String {
    let mut writer = XmlWriter::new(ns::CLIENT);
    write(&mut writer);
    String::from_utf8(writer.finish().to_vec()).expect("payloads are UTF-8")
}

/// Reads a canonical payload and writes it back unchanged.
#[track_caller]
fn round_trip<T>(
    text: &str,
    parse: impl FnOnce(Element<'_>) -> Result<T, PayloadError>,
    write: impl FnOnce(&T, &mut XmlWriter),
) -> T {
    let value = parse(document(text).root()).expect("a valid payload");
    assert_eq!(written(|writer| write(&value, writer)), text);
    value
}

#[track_caller]
fn refuse<T>(
    text: &str,
    parse: impl FnOnce(Element<'_>) -> Result<T, PayloadError>,
    expect: Condition,
) {
    let refused = parse(document(text).root())
        .map(|_| ())
        .map_err(|error| error.condition);
    assert_eq!(refused, Err(expect), "{text}");
}

#[test]
fn pages() {
    let request = |text: &str| round_trip(text, PageRequest::parse, PageRequest::write);
    request("<set xmlns='http://jabber.org/protocol/rsm'><max>10</max></set>");
    request("<set xmlns='http://jabber.org/protocol/rsm'><max>10</max><after>a&lt;b</after></set>");
    request(
        "<set xmlns='http://jabber.org/protocol/rsm'><before></before></set>"
            .replace("<before></before>", "<before/>")
            .as_str(),
    );
    request("<set xmlns='http://jabber.org/protocol/rsm'><max>0</max><before>x</before></set>");
    request("<set xmlns='http://jabber.org/protocol/rsm'><index>371</index></set>");
    let parse = |text: &str| PageRequest::parse(document(text).root());
    let huge = parse("<set xmlns='http://jabber.org/protocol/rsm'><max>99999999999</max></set>");
    assert_eq!(huge.map(|request| request.max), Ok(Some(u32::MAX)));
    for bad in [
        "<max>x</max>",
        "<max>-1</max>",
        "<index/>",
        "<after>a</after><before>b</before>",
        "<after>a</after><index>1</index>",
    ] {
        refuse(
            &format!("<set xmlns='http://jabber.org/protocol/rsm'>{bad}</set>"),
            PageRequest::parse,
            Condition::BadRequest,
        );
    }
    let result = |text: &str| round_trip(text, PageResult::parse, PageResult::write);
    result(
        "<set xmlns='http://jabber.org/protocol/rsm'><first index='0'>a</first><last>b</last><count>800</count></set>",
    );
    result("<set xmlns='http://jabber.org/protocol/rsm'><count>0</count></set>");
}

#[test]
fn forms() {
    let form = round_trip(
        "<x xmlns='jabber:x:data' type='form'><title>T</title><instructions>I</instructions>\
         <field type='hidden' var='FORM_TYPE'><value>urn:x</value></field>\
         <field type='boolean' var='b' label='B'><required/><value>1</value></field>\
         <field type='list-single' var='l'><option label='One'><value>1</value></option></field>\
         <field type='fixed'><value>text</value></field></x>",
        DataForm::parse,
        DataForm::write,
    );
    assert_eq!(form.form_type(), Some("urn:x"));
    assert_eq!(form.field("b").map(Field::as_bool), Some(Ok(true)));
    assert!(form.field("c").is_none() && form.expect_submission("urn:x").is_err());
    let submit =
        DataForm::new(FormType::Submit, "urn:x").with(Field::new(FieldType::JidSingle, "j", "@"));
    assert_eq!(submit.expect_submission("urn:x"), Ok(()));
    assert!(submit.field("j").expect("the field").as_jid().is_err());
    assert!(
        !format!(
            "{:?}",
            submit.with(Field::new(FieldType::TextPrivate, "p", "secret"))
        )
        .contains("secret")
    );
    refuse(
        "<x xmlns='jabber:x:data'/>",
        DataForm::parse,
        Condition::BadRequest,
    );
    refuse(
        "<x xmlns='jabber:x:data' type='y'/>",
        DataForm::parse,
        Condition::BadRequest,
    );
    refuse(
        "<x xmlns='jabber:x:data' type='submit'><field/></x>",
        DataForm::parse,
        Condition::BadRequest,
    );
}

#[test]
fn discovery() {
    round_trip(
        "<query xmlns='http://jabber.org/protocol/disco#info' node='n'><identity category='a' type='b' xml:lang='en' name='c'/>\
         <feature var='f'/><x xmlns='jabber:x:data' type='result'><field type='hidden' var='FORM_TYPE'><value>u</value></field></x></query>",
        DiscoInfo::parse,
        DiscoInfo::write,
    );
    round_trip(
        "<query xmlns='http://jabber.org/protocol/disco#items'><item jid='a@b' node='n' name='m'/><item jid='c'/></query>",
        DiscoItems::parse,
        DiscoItems::write,
    );
    let info = |inner: &str| {
        format!("<query xmlns='http://jabber.org/protocol/disco#info'>{inner}</query>")
    };
    for bad in [
        "<identity type='b'/>",
        "<identity category='a'/>",
        "<feature/>",
    ] {
        refuse(&info(bad), DiscoInfo::parse, Condition::BadRequest);
    }
    let items = |inner: &str| {
        format!("<query xmlns='http://jabber.org/protocol/disco#items'>{inner}</query>")
    };
    refuse(&items("<item/>"), DiscoItems::parse, Condition::BadRequest);
    refuse(
        &items("<item jid='@'/>"),
        DiscoItems::parse,
        Condition::JidMalformed,
    );
}

/// XEP-0115 §5.2 and §5.3.
#[test]
fn capabilities() {
    let simple = "<query xmlns='http://jabber.org/protocol/disco#info'><identity category='client' name='Exodus 0.9.1' type='pc'/>\
        <feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/disco#items'/>\
        <feature var='http://jabber.org/protocol/muc'/><feature var='http://jabber.org/protocol/caps'/></query>";
    let info = DiscoInfo::parse(document(simple).root()).expect("the example");
    assert_eq!(verification(&info), "QgayPKawpkPSDYmwT/WM94uAlu0=");
    let complex = "<query xmlns='http://jabber.org/protocol/disco#info'>\
        <identity xml:lang='en' category='client' name='Psi 0.11' type='pc'/><identity xml:lang='el' category='client' name='Ψ 0.11' type='pc'/>\
        <feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/>\
        <feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/>\
        <x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'><value>urn:xmpp:dataforms:softwareinfo</value></field>\
        <field var='ip_version' type='text-multi'><value>ipv4</value><value>ipv6</value></field><field var='os'><value>Mac</value></field>\
        <field var='os_version'><value>10.5.1</value></field><field var='software'><value>Psi</value></field>\
        <field var='software_version'><value>0.11</value></field></x></query>";
    let info = DiscoInfo::parse(document(complex).root()).expect("the example");
    assert_eq!(verification(&info), "q07IKJEyjvHSyhy//CH0CxmKi8w=");
    round_trip(
        "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:x' ver='y='/>",
        Caps::parse,
        Caps::write,
    );
    for bad in ["node='n' ver='v'", "hash='h' ver='v'", "hash='h' node='n'"] {
        refuse(
            &format!("<c xmlns='http://jabber.org/protocol/caps' {bad}/>"),
            Caps::parse,
            Condition::BadRequest,
        );
    }
}

#[test]
fn rosters() {
    round_trip(
        "<item xmlns='jabber:iq:roster' jid='a@b' name='n' subscription='both' ask='subscribe' approved='true'><group>g</group></item>",
        RosterItem::parse,
        RosterItem::write,
    );
    let change = |inner: &str| format!("<query xmlns='jabber:iq:roster'>{inner}</query>");
    let parsed = RosterChange::parse(
        document(&change(
            "<item jid='A@b/c' name='' subscription='both'><group>g</group></item>",
        ))
        .root(),
    );
    let parsed = parsed.expect("a change");
    assert_eq!(
        (
            parsed.jid.as_str(),
            parsed.name,
            parsed.remove,
            parsed.groups.len()
        ),
        ("a@b", None, false, 1)
    );
    for (bad, condition) in [
        ("", Condition::BadRequest),
        ("<item jid='a@b'/><item jid='c@d'/>", Condition::BadRequest),
        ("<item/>", Condition::BadRequest),
        ("<item jid='@'/>", Condition::JidMalformed),
        (
            "<item jid='a@b'><group>g</group><group>g</group></item>",
            Condition::BadRequest,
        ),
        ("<item jid='a@b'><group/></item>", Condition::NotAcceptable),
    ] {
        refuse(&change(bad), RosterChange::parse, condition);
    }
}

#[test]
fn blocking() {
    let jids = |names: &[&str]| {
        names
            .iter()
            .map(|name| Jid::parse(name).expect("a JID"))
            .collect::<Vec<_>>()
    };
    let parse = |text: &str| BlockingRequest::parse(document(text).root());
    assert_eq!(
        parse("<blocklist xmlns='urn:xmpp:blocking'/>"),
        Ok(BlockingRequest::List)
    );
    assert_eq!(
        parse("<unblock xmlns='urn:xmpp:blocking'/>"),
        Ok(BlockingRequest::Unblock(vec![]))
    );
    let text = "<block xmlns='urn:xmpp:blocking'><item jid='a@b'/><item jid='c/d'/></block>";
    assert_eq!(
        parse(text),
        Ok(BlockingRequest::Block(jids(&["a@b", "c/d"])))
    );
    assert_eq!(
        written(|writer| blocking::write("block", &jids(&["a@b", "c/d"]), writer)),
        text
    );
    refuse(
        "<block xmlns='urn:xmpp:blocking'/>",
        BlockingRequest::parse,
        Condition::BadRequest,
    );
    refuse(
        "<block xmlns='urn:xmpp:blocking'><item/></block>",
        BlockingRequest::parse,
        Condition::BadRequest,
    );
    refuse(
        "<x xmlns='urn:xmpp:blocking'/>",
        BlockingRequest::parse,
        Condition::FeatureNotImplemented,
    );
}

#[test]
fn forwarding_and_carbons() -> Result<(), crate::jid::JidError> {
    let text = "<forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' from='x' stamp='2026-11-22T17:00:00.000Z'/>\
                <message xmlns='jabber:client' from='a@b/c' type='chat' to='d@e'><body>hi</body></message></forwarded>";
    let forwarded = round_trip(text, Forwarded::parse, Forwarded::write);
    refuse(
        "<forwarded xmlns='urn:xmpp:forward:0'/>",
        Forwarded::parse,
        Condition::BadRequest,
    );
    refuse(
        "<delay xmlns='urn:xmpp:delay'/>",
        Delay::parse,
        Condition::BadRequest,
    );
    refuse(
        "<delay xmlns='urn:xmpp:delay' stamp='now'/>",
        Delay::parse,
        Condition::BadRequest,
    );

    let copy = carbons::copy(
        Direction::Sent,
        &forwarded.stanza,
        &BareJid::parse("a@b")?,
        &FullJid::parse("a@b/x")?,
    );
    assert_eq!(
        copy.payload,
        "<sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='a@b/c' \
         type='chat' to='d@e'><body>hi</body></message></forwarded></sent>"
    );
    assert_eq!(
        (copy.type_.as_deref(), copy.from.as_ref().map(Jid::as_str)),
        (Some("chat"), Some("a@b"))
    );
    assert!(
        copy.payload_document()
            .expect("own bytes")
            .roots()
            .any(|element| carbons::is_wrapper(&element))
    );
    let request = |text: &str| CarbonsRequest::parse(document(text).root());
    assert_eq!(
        request("<enable xmlns='urn:xmpp:carbons:2'/>"),
        Some(CarbonsRequest::Enable)
    );
    assert_eq!(request("<enable xmlns='other'/>"), None);
    assert!(carbons::is_private(
        &document("<private xmlns='urn:xmpp:carbons:2'/>").root()
    ));
    Ok(())
}

#[test]
fn hints_and_ids() {
    let message = document(
        "<message><body>x</body><no-copy xmlns='urn:xmpp:hints'/><store xmlns='urn:xmpp:hints'/><no-store xmlns='other'/>\
         <stanza-id xmlns='urn:xmpp:sid:0' id='1' by='a@b'/><stanza-id xmlns='urn:xmpp:sid:0' id='2' by='A@B'/>\
         <stanza-id xmlns='urn:xmpp:sid:0' id='3' by='@'/><stanza-id xmlns='urn:xmpp:sid:0' id='4' by='c@d'/>\
         <stanza-id xmlns='urn:xmpp:sid:0' id='5'/><origin-id xmlns='urn:xmpp:sid:0' id='o'/></message>",
    );
    let hints = Hints::of(message.root().children());
    assert_eq!(
        hints,
        Hints {
            store: true,
            no_copy: true,
            ..Hints::default()
        }
    );
    assert_eq!(
        message.root().children().find_map(origin_id).as_deref(),
        Some("o")
    );
    let mut stanza = Stanza::from_element(&message.root()).expect("a message");
    stanza
        .retain_payload(|child| !is_stanza_id_by(child, "a@b"))
        .expect("own bytes");
    let left = stanza.payload_document().expect("own bytes");
    let ids: Vec<_> = left
        .roots()
        .filter_map(|child| StanzaId::parse(child).ok())
        .map(|id| id.id)
        .collect();
    assert_eq!(
        ids,
        ["4", "o"]
            .iter()
            .take(1)
            .map(|id| (*id).to_owned())
            .collect::<Vec<_>>()
    );
    let before = stanza.payload.clone();
    stanza.retain_payload(|_| true).expect("own bytes");
    stanza.append_payload(b"<x/>");
    assert_eq!(stanza.payload, [&before[..], b"<x/>"].concat());
    refuse(
        "<stanza-id xmlns='urn:xmpp:sid:0' id='1'/>",
        StanzaId::parse,
        Condition::BadRequest,
    );
    refuse(
        "<stanza-id xmlns='urn:xmpp:sid:0' by='a'/>",
        StanzaId::parse,
        Condition::BadRequest,
    );
}

#[test]
fn archive_queries() {
    let field = |var: &str, values: &str| format!("<field var='{var}'>{values}</field>");
    let query = |fields: &str| {
        format!(
            "<query xmlns='urn:xmpp:mam:2' queryid='q'><x xmlns='jabber:x:data' type='submit'>\
             <field var='FORM_TYPE'><value>urn:xmpp:mam:2</value></field>{fields}</x>\
             <set xmlns='http://jabber.org/protocol/rsm'><max>10</max><before/></set><flip-page/></query>"
        )
    };
    let all = [
        field("with", "<value>A@b</value>"),
        field("start", "<value>2010-06-07T00:00:00Z</value>"),
        field("end", "<value>2010-07-07T13:23:54Z</value>"),
        field("before-id", "<value>x</value>"),
        field("after-id", "<value>y</value>"),
        field("ids", "<value>1</value><value>2</value>"),
        field(crate::mam::FULL_TEXT_FIELD, "<value>words</value>"),
        field("include-groupchat", "<value>true</value>"),
    ];
    let parsed = ArchiveQuery::parse(document(&query(&all.concat())).root()).expect("a query");
    assert_eq!(parsed.with.as_ref().map(Jid::as_str), Some("a@b"));
    assert_eq!(parsed.start, Timestamp::parse("2010-06-07T00:00:00Z").ok());
    assert_eq!(
        (
            parsed.before_id.as_deref(),
            parsed.after_id.as_deref(),
            parsed.ids.len()
        ),
        (Some("x"), Some("y"), 2)
    );
    assert_eq!(
        (
            parsed.full_text.as_deref(),
            parsed.include_groupchat,
            parsed.flip_page
        ),
        (Some("words"), Some(true), true)
    );
    assert_eq!(
        parsed.page,
        PageRequest {
            max: Some(10),
            page: crate::rsm::Page::Last
        }
    );
    assert!(!format!("{parsed:?}").contains("words"));
    assert!(ArchiveQuery::parse(document("<query xmlns='urn:xmpp:mam:2'/>").root()).is_ok());
    for (bad, condition) in [
        (field("with", "<value>@</value>"), Condition::JidMalformed),
        (field("with", ""), Condition::JidMalformed),
        (
            field("start", "<value>yesterday</value>"),
            Condition::BadRequest,
        ),
        (field("unknown", ""), Condition::FeatureNotImplemented),
        (
            field("include-groupchat", "<value>maybe</value>"),
            Condition::NotAcceptable,
        ),
        (
            field("ids", &"<value>1</value>".repeat(257)),
            Condition::PolicyViolation,
        ),
        ("<field/>".to_owned(), Condition::BadRequest),
    ] {
        refuse(&query(&bad), ArchiveQuery::parse, condition);
    }
    let other_form =
        "<query xmlns='urn:xmpp:mam:2'><x xmlns='jabber:x:data' type='submit'/></query>";
    refuse(other_form, ArchiveQuery::parse, Condition::BadRequest);
}

#[test]
fn archive_answers() {
    round_trip(
        "<fin xmlns='urn:xmpp:mam:2' complete='true' stable='false'><set xmlns='http://jabber.org/protocol/rsm'><count>0</count></set></fin>",
        Fin::parse,
        Fin::write,
    );
    refuse(
        "<fin xmlns='urn:xmpp:mam:2' complete='perhaps'/>",
        Fin::parse,
        Condition::BadRequest,
    );
    let stanza =
        Stanza::from_element(&document("<message to='a@b'><body>x</body></message>").root())
            .expect("a message");
    assert_eq!(
        crate::mam::write_result("7", Some("q"), Timestamp::from_millis(0), &stanza),
        "<result xmlns='urn:xmpp:mam:2' queryid='q' id='7'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' \
         stamp='1970-01-01T00:00:00.000Z'/><message xmlns='jabber:client' to='a@b'><body>x</body></message></forwarded></result>"
    );
}

#[test]
fn rooms() {
    let join = |inner: &str| format!("<x xmlns='http://jabber.org/protocol/muc'>{inner}</x>");
    let parsed = Join::parse(
        document(&join(
            "<password>p</password><history maxstanzas='0' seconds='5'/>",
        ))
        .root(),
    )
    .expect("a join");
    assert_eq!(
        (
            parsed.password.as_deref(),
            parsed.history.stanzas_max,
            parsed.history.seconds
        ),
        (Some("p"), Some(0), Some(5))
    );
    for bad in [
        "<history maxstanzas='x'/>",
        "<history since='y'/>",
        "<history maxchars='-1'/>",
    ] {
        refuse(&join(bad), Join::parse, Condition::BadRequest);
    }
    let admin = "<query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='outcast' jid='a@b'><actor nick='n'/><reason>r</reason></item>\
                 <item role='none' nick='n'><actor jid='c@d'/></item></query>";
    round_trip(admin, parse_admin_query, |items, writer| {
        crate::muc::write_admin_query(items, writer)
    });
    for bad in ["<item affiliation='king'/>", "<item role='king'/>"] {
        refuse(
            &format!("<query xmlns='http://jabber.org/protocol/muc#admin'>{bad}</query>"),
            parse_admin_query,
            Condition::BadRequest,
        );
    }
    let item = Item {
        role: Some(crate::muc::RoleName::None),
        ..Item::default()
    };
    assert_eq!(
        written(|writer| crate::muc::write_user(Some(&item), &[110, 333], writer)),
        "<x xmlns='http://jabber.org/protocol/muc#user'><item role='none'/><status code='110'/><status code='333'/></x>"
    );
    let owner = |inner: &str| {
        OwnerRequest::parse(
            document(&format!(
                "<query xmlns='http://jabber.org/protocol/muc#owner'>{inner}</query>"
            ))
            .root(),
        )
    };
    assert_eq!(owner(""), Ok(OwnerRequest::Configure(None)));
    assert!(matches!(
        owner("<x xmlns='jabber:x:data' type='submit'/>"),
        Ok(OwnerRequest::Configure(Some(_)))
    ));
    let destroy = owner("<destroy jid='a@b'><password>p</password><reason>r</reason></destroy>");
    let Ok(OwnerRequest::Destroy(destroy)) = destroy else {
        panic!("a destruction: {destroy:?}")
    };
    assert_eq!(
        written(|writer| destroy.write(writer)),
        "<destroy jid='a@b'><password>p</password><reason>r</reason></destroy>"
    );
    assert_eq!(
        owner("<destroy jid='@'/>").map_err(|error| error.condition),
        Err(Condition::JidMalformed)
    );
    let user = |inner: &str| {
        Mediated::parse(
            document(&format!(
                "<x xmlns='http://jabber.org/protocol/muc#user'>{inner}</x>"
            ))
            .root(),
        )
    };
    assert_eq!(user("<item/>"), Ok(vec![]));
    let invited = user(
        "<invite to='a@b'><reason>r</reason><continue thread='t'/></invite><decline to='c@d'/>",
    )
    .expect("two");
    assert_eq!(invited.len(), 2);
    assert_eq!(
        user("<invite/>").map_err(|error| error.condition),
        Err(Condition::BadRequest)
    );
    assert_eq!(
        user("<decline to=''/>").map_err(|error| error.condition),
        Err(Condition::JidMalformed)
    );
}
