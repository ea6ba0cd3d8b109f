//! Conversations: who sends what, and what everybody receives.

use expect_test::{Expect, expect};

use crate::stage::{ROOM, Stage, full};
use messaging::query::Reply;
use messaging::room::command::RoomAction;
use messaging::room::query::{RoomQuery, answer};
use xmpp::stanza_error::Condition;

pub(crate) fn check(found: impl AsRef<str>, expect: Expect) {
    expect.assert_eq(found.as_ref());
}

#[test]
fn a_room_is_made_locked_and_configured() {
    let mut stage = Stage::default();
    check(
        stage.join("alice/pc", "alice"),
        expect![[r#"
        alice/pc < presence alice owner/moderator jid=alice/pc 110 170 201
        alice/pc < message den subject=""
    "#]],
    );
    // §7.2.10, §17.2: it doesn't exist for others, nor for messages.
    check(
        stage.join("bob/pc", "bob"),
        expect![[r#"
        bob/pc ! cancel item-not-found
    "#]],
    );
    check(
        stage.say("alice/pc", "hello?"),
        expect![[r#"
        alice/pc ! cancel item-not-found
    "#]],
    );
    check(stage.configure("alice/pc", &[]), expect![""]);
    check(
        stage.join("bob/pc", "bob"),
        expect![[r#"
        alice/pc < presence bob none/participant jid=bob/pc
        bob/pc < presence alice owner/moderator
        bob/pc < presence bob none/participant jid=bob/pc 110 170
        bob/pc < message den subject=""
    "#]],
    );
    check(
        stage.say("bob/pc", "hello"),
        expect![[r#"
        alice/pc < message bob body="hello" sid
        bob/pc < message bob body="hello" sid
    "#]],
    );
}

#[test]
fn a_new_room_goes_when_its_form_is_cancelled_or_its_owner_leaves() {
    let mut stage = Stage::default();
    stage.join("alice/pc", "alice");
    check(
        stage.owner("alice/pc", "<x xmlns='jabber:x:data' type='cancel'/>"),
        expect![[r#"
        alice/pc < presence unavailable alice none/none destroy 110
        den@rooms.example is gone
    "#]],
    );
    stage.join("alice/pc", "alice");
    check(
        stage.leave("alice/pc"),
        expect![[r#"
        alice/pc < presence unavailable alice none/none destroy 110
        den@rooms.example is gone
    "#]],
    );
    assert!(stage.state.rooms.is_empty() && stage.state.affiliations.is_empty());
}

#[test]
fn a_newcomer_gets_others_itself_history_subject_in_this_order() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    for n in 1..=3 {
        stage.say("bob/pc", &format!("message {n}"));
    }
    stage.message(
        "alice/pc",
        ROOM,
        "type='groupchat'",
        "<subject>Tea</subject>",
    );
    check(
        stage.join("carol/pc", "carol"),
        expect![[r#"
        alice/pc < presence carol none/participant jid=carol/pc
        bob/pc < presence carol none/participant
        carol/pc < presence alice owner/moderator
        carol/pc < presence bob none/participant
        carol/pc < presence carol none/participant jid=carol/pc 110 170
        carol/pc < message bob body="message 1" sid delayed
        carol/pc < message bob body="message 2" sid delayed
        carol/pc < message bob body="message 3" sid delayed
        carol/pc < message alice subject="Tea" delayed
    "#]],
    );
    stage.leave("carol/pc");
    check(
        stage.join_with("carol/pc", "carol", "<history maxstanzas='1'/>"),
        expect![[r#"
            alice/pc < presence carol none/participant jid=carol/pc
            bob/pc < presence carol none/participant
            carol/pc < presence alice owner/moderator
            carol/pc < presence bob none/participant
            carol/pc < presence carol none/participant jid=carol/pc 110 170
            carol/pc < message bob body="message 3" sid delayed
            carol/pc < message alice subject="Tea" delayed
        "#]],
    );
    stage.leave("carol/pc");
    check(
        stage.join_with("carol/pc", "carol", "<history maxchars='0'/>"),
        expect![[r#"
        alice/pc < presence carol none/participant jid=carol/pc
        bob/pc < presence carol none/participant
        carol/pc < presence alice owner/moderator
        carol/pc < presence bob none/participant
        carol/pc < presence carol none/participant jid=carol/pc 110 170
        carol/pc < message alice subject="Tea" delayed
    "#]],
    );
    stage.leave("carol/pc");
    check(
        stage.join_with(
            "carol/pc",
            "carol",
            "<history since='2100-01-01T00:00:00Z'/>",
        ),
        expect![[r#"
        alice/pc < presence carol none/participant jid=carol/pc
        bob/pc < presence carol none/participant
        carol/pc < presence alice owner/moderator
        carol/pc < presence bob none/participant
        carol/pc < presence carol none/participant jid=carol/pc 110 170
        carol/pc < message alice subject="Tea" delayed
    "#]],
    );
}

#[test]
fn what_may_stand_in_the_way_of_entering() {
    let mut stage = Stage::with_room(&[
        ("roomconfig_passwordprotectedroom", "1"),
        ("roomconfig_roomsecret", "sesame"),
        ("roomconfig_maxusers", "2"),
    ]);
    check(
        stage.join("bob/pc", "bob"),
        expect![[r#"
        bob/pc ! auth not-authorized
    "#]],
    );
    check(
        stage.join_with("bob/pc", "bob", "<password>open</password>"),
        expect![[r#"
        bob/pc ! auth not-authorized
    "#]],
    );
    check(
        stage.join_with("bob/pc", "alice", "<password>sesame</password>"),
        expect![[r#"
        bob/pc ! cancel conflict
    "#]],
    );
    check(
        stage.join_with("bob/pc", "\u{a0} ", "<password>sesame</password>"),
        expect![[r#"
            bob/pc ! modify jid-malformed
        "#]],
    );
    stage.join_with("bob/pc", "bob", "<password>sesame</password>");
    check(
        stage.join_with("carol/pc", "carol", "<password>sesame</password>"),
        expect![[r#"
        carol/pc ! wait service-unavailable
    "#]],
    );
    stage.admin(
        "alice/pc",
        "<item affiliation='admin' jid='carol@example.org'/>",
    );
    check(
        stage.join_with("carol/pc", "carol", "<password>sesame</password>"),
        expect![[r#"
        alice/pc < presence carol admin/moderator jid=carol/pc
        bob/pc < presence carol admin/moderator
        carol/pc < presence alice owner/moderator jid=alice/pc
        carol/pc < presence bob none/participant jid=bob/pc
        carol/pc < presence carol admin/moderator jid=carol/pc 110 170
        carol/pc < message den subject=""
    "#]],
    );
    stage.admin(
        "alice/pc",
        "<item affiliation='outcast' jid='dave@example.org'/>",
    );
    check(
        stage.join_with("dave/pc", "dave", "<password>sesame</password>"),
        expect![[r#"
        dave/pc ! auth forbidden
    "#]],
    );
    stage.configure(
        "alice/pc",
        &[
            ("roomconfig_membersonly", "1"),
            ("roomconfig_passwordprotectedroom", "0"),
        ],
    );
    check(
        stage.join("erin/pc", "erin"),
        expect![[r#"
        erin/pc ! auth registration-required
    "#]],
    );
}

#[test]
fn several_sessions_share_a_nickname() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    check(
        stage.join("bob/phone", "bob"),
        expect![[r#"
        bob/pc < presence bob none/participant jid=bob/phone 110
        alice/pc < presence bob none/participant jid=bob/phone
        bob/phone < presence alice owner/moderator
        bob/phone < presence bob none/participant jid=bob/phone 110 170
        bob/phone < message den subject=""
    "#]],
    );
    check(
        stage.say("bob/phone", "from the train"),
        expect![[r#"
        alice/pc < message bob body="from the train" sid
        bob/pc < message bob body="from the train" sid
        bob/phone < message bob body="from the train" sid
    "#]],
    );
    // The nickname stays as long as one of them does.
    check(
        stage.leave("bob/phone"),
        expect![[r#"
        bob/phone < presence unavailable bob none/none jid=bob/phone 110
        bob/pc < presence bob none/participant jid=bob/pc 110
        alice/pc < presence bob none/participant jid=bob/pc
    "#]],
    );
    stage.join("bob/phone", "bob");
    check(
        stage.admin(
            "alice/pc",
            "<item nick='bob' role='none'><reason>shush</reason></item>",
        ),
        expect![[r#"
        bob/pc < presence unavailable bob none/none jid=bob/pc actor="alice" reason="shush" 110 307
        bob/phone < presence unavailable bob none/none jid=bob/phone actor="alice" reason="shush" 110 307
        alice/pc < presence unavailable bob none/none jid=bob/phone actor="alice" reason="shush" 307
    "#]],
    );
}

#[test]
fn coming_back_gives_the_whole_answer_again() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    stage.homes.insert("bob/pc".into(), (2, 9));
    check(
        stage.join("bob/pc", "bob"),
        expect![[r#"
        bob/pc < presence alice owner/moderator
        bob/pc < presence bob none/participant jid=bob/pc 110 170
        bob/pc < message den subject=""
    "#]],
    );
    // Its old place is not removed from under it.
    let gone = RoomAction::RemoveUnclaimed {
        occupants: vec![(full("bob/pc"), 1, 1)],
    };
    let (_, effects) = stage.apply(&full("alice/pc"), gone);
    assert!(effects.is_empty());
    let gone = RoomAction::RemoveUnclaimed {
        occupants: vec![(full("bob/pc"), 2, 9)],
    };
    let (_, effects) = stage.apply(&full("alice/pc"), gone);
    let mut out = String::new();
    stage.show(&effects, &mut out);
    check(
        out,
        expect![[r#"
        bob/pc < presence unavailable bob none/none jid=bob/pc 110 333
        alice/pc < presence unavailable bob none/none jid=bob/pc 333
    "#]],
    );
}

#[test]
fn nicknames_and_presence_change() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    stage.join("bob/phone", "bob");
    let presence = |nick: &str, inside: &str| {
        format!("<presence xmlns='jabber:client' to='{ROOM}/{nick}'>{inside}</presence>")
    };
    check(
        stage.send("alice/pc", &presence("bob", "")),
        expect![[r#"
        alice/pc ! cancel conflict
    "#]],
    );
    check(
        stage.send("alice/pc", &presence("queen", "<status>tea</status>")),
        expect![[r#"
        alice/pc < presence unavailable alice owner/moderator jid=alice/pc nick=queen 110 303
        bob/pc < presence unavailable alice owner/moderator nick=queen 303
        bob/phone < presence unavailable alice owner/moderator nick=queen 303
        alice/pc < presence queen status="tea" owner/moderator jid=alice/pc 110
        bob/pc < presence queen status="tea" owner/moderator
        bob/phone < presence queen status="tea" owner/moderator
    "#]],
    );
    check(
        stage.send("bob/phone", &presence("bobby", "")),
        expect![[r#"
        bob/phone < presence unavailable bob none/participant jid=bob/phone nick=bobby 110 303
        bob/pc < presence bob none/participant jid=bob/pc 110
        alice/pc < presence bob none/participant jid=bob/pc
        bob/phone < presence bobby none/participant jid=bob/phone 110
        alice/pc < presence bobby none/participant jid=bob/phone
        bob/pc < presence bobby none/participant
    "#]],
    );
    let spoof = "<x xmlns='http://jabber.org/protocol/muc#user'><item affiliation='owner'/></x>\
                 <occupant-id xmlns='urn:xmpp:occupant-id:0' id='me'/><show>away</show>";
    check(
        stage.send("bob/pc", &presence("bob", spoof)),
        expect![[r#"
        bob/pc < presence bob +show none/participant jid=bob/pc 110
        alice/pc < presence bob +show none/participant jid=bob/pc
        bob/phone < presence bob +show none/participant
    "#]],
    );
    // §7.2.18: somebody who only thinks to be in.
    check(
        stage.send("carol/pc", &presence("carol", "")),
        expect![[r#"
        carol/pc < presence unavailable carol none/none 110 307 333
    "#]],
    );
    check(stage.leave("carol/pc"), expect![""]);
}

#[test]
fn subjects_and_who_may_set_them() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    check(
        stage.message(
            "bob/pc",
            ROOM,
            "type='groupchat'",
            "<subject>Mine</subject>",
        ),
        expect![[r#"
        bob/pc ! auth forbidden
    "#]],
    );
    check(
        stage.message(
            "alice/pc",
            ROOM,
            "type='groupchat'",
            "<subject>Ours</subject>",
        ),
        expect![[r#"
        alice/pc < message alice subject="Ours" sid
        bob/pc < message alice subject="Ours" sid
    "#]],
    );
    // §8.1: with a body it is a message.
    check(
        stage.message(
            "bob/pc",
            ROOM,
            "type='groupchat'",
            "<subject>Re</subject><body>x</body>",
        ),
        expect![[r#"
        alice/pc < message bob subject="Re" body="x" sid
        bob/pc < message bob subject="Re" body="x" sid
    "#]],
    );
    stage.configure("alice/pc", &[("roomconfig_changesubject", "1")]);
    check(
        stage.message("bob/pc", ROOM, "type='groupchat'", "<subject/>"),
        expect![[r#"
        alice/pc < message bob subject="" sid
        bob/pc < message bob subject="" sid
    "#]],
    );
    check(
        stage.join("carol/pc", "carol"),
        expect![[r#"
        alice/pc < presence carol none/participant jid=carol/pc
        bob/pc < presence carol none/participant
        carol/pc < presence alice owner/moderator
        carol/pc < presence bob none/participant
        carol/pc < presence carol none/participant jid=carol/pc 110 170
        carol/pc < message bob subject="Re" body="x" sid delayed
        carol/pc < message bob subject="" delayed
    "#]],
    );
}

#[test]
fn a_private_message_is_for_every_session_under_the_nickname() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    stage.join("bob/phone", "bob");
    let bob = format!("{ROOM}/bob");
    check(
        stage.message("alice/pc", &bob, "type='chat' id='p'", "<body>psst</body>"),
        expect![[r#"
        outbox: bob/- < message chat alice body="psst"
        outbox: also for bob@example.org/pc
        filed: alice/- < message chat alice/pc body="psst"
    "#]],
    );
}

#[test]
fn private_messages_are_filed_on_both_sides() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    let bob = format!("{ROOM}/bob");
    check(
        stage.message("alice/pc", &bob, "type='chat' id='p'", "<body>psst</body>"),
        expect![[r#"
        outbox: bob/- < message chat alice body="psst"
        filed: alice/- < message chat alice/pc body="psst"
    "#]],
    );
    check(
        stage.message(
            "alice/pc",
            &bob,
            "type='chat'",
            "<composing xmlns='http://jabber.org/protocol/chatstates'/>",
        ),
        expect![[r#"
        bob/pc < message chat alice +composing
    "#]],
    );
    check(
        stage.message("alice/pc", &bob, "type='groupchat'", "<body>psst</body>"),
        expect![[r#"
        alice/pc ! modify bad-request
    "#]],
    );
    check(
        stage.message(
            "alice/pc",
            &format!("{ROOM}/nobody"),
            "type='chat'",
            "<body>psst</body>",
        ),
        expect![[r#"
        alice/pc ! cancel item-not-found
    "#]],
    );
    check(
        stage.message("carol/pc", &bob, "type='chat'", "<body>psst</body>"),
        expect![[r#"
        carol/pc ! modify not-acceptable
    "#]],
    );
    stage.configure("alice/pc", &[("roomconfig_allowpm", "moderators")]);
    check(
        stage.message(
            "bob/pc",
            &format!("{ROOM}/alice"),
            "type='chat'",
            "<body>psst</body>",
        ),
        expect![[r#"
        bob/pc ! auth forbidden
    "#]],
    );
}

#[test]
fn a_retry_has_no_second_effect() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    let retry = "<body>once</body><origin-id xmlns='urn:xmpp:sid:0' id='o1'/>";
    check(
        stage.message("bob/pc", ROOM, "type='groupchat' id='m'", retry),
        expect![[r#"
        alice/pc < message bob body="once" +origin-id sid
        bob/pc < message bob body="once" +origin-id sid
    "#]],
    );
    check(
        stage.message("bob/pc", ROOM, "type='groupchat' id='m'", retry),
        expect![[r#"
        again: bob/pc < message bob body="once" +origin-id sid
    "#]],
    );
    let private = format!("{ROOM}/alice");
    check(
        stage.message("bob/pc", &private, "type='chat' id='m'", retry),
        expect![[r#"
        outbox: alice/- < message chat bob body="once" +origin-id
        filed: bob/- < message chat bob/pc body="once" +origin-id
    "#]],
    );
    check(
        stage.message("bob/pc", &private, "type='chat' id='m'", retry),
        expect![""],
    );
    stage.leave("bob/pc");
    check(
        stage.message("bob/pc", ROOM, "type='groupchat' id='m'", retry),
        expect![""],
    );
    // A room made again under the name knows nothing of it.
    stage.owner("alice/pc", "<destroy/>");
    stage.join("bob/pc", "bob");
    stage.configure("bob/pc", &[]);
    check(
        stage.message("bob/pc", ROOM, "type='groupchat' id='m'", retry),
        expect![[r#"
        bob/pc < message bob body="once" +origin-id sid
    "#]],
    );
}

#[test]
fn questions_about_a_room() {
    let mut stage = Stage::with_room(&[("roomconfig_roomname", "The den")]);
    stage.join("bob/pc", "bob");
    let get = |to: &str, inside: &str| {
        format!("<iq xmlns='jabber:client' to='{to}' type='get' id='q'>{inside}</iq>")
    };
    let info = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    check(
        stage.send("carol/pc", &get(ROOM, info)),
        expect![[r#"
            carol/pc = <query xmlns='http://jabber.org/protocol/disco#info'><identity category='conference' type='text' name='The den'/><feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/disco#items'/><feature var='urn:xmpp:mam:2'/><feature var='urn:xmpp:mam:2#extended'/><feature var='urn:xmpp:sid:0'/><feature var='http://jabber.org/protocol/muc'/><feature var='http://jabber.org/protocol/muc#request'/><feature var='http://jabber.org/protocol/muc#stable_id'/><feature var='http://jabber.org/protocol/muc#self-ping-optimization'/><feature var='urn:xmpp:occupant-id:0'/><feature var='muc_public'/><feature var='muc_open'/><feature var='muc_unmoderated'/><feature var='muc_semianonymous'/><feature var='muc_unsecured'/><feature var='muc_temporary'/><x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'><value>http://jabber.org/protocol/muc#roominfo</value></field><field var='muc#roominfo_description' type='text-single'><value/></field><field var='muc#roominfo_lang' type='text-single'><value/></field><field var='muc#roominfo_occupants' type='text-single'><value>2</value></field><field var='muc#maxhistoryfetch' type='text-single'><value>30</value></field><field var='muc#roominfo_subjectmod' type='boolean'><value>0</value></field><field var='muc#roomconfig_changesubject' type='boolean'><value>0</value></field><field var='muc#roomconfig_roomname' type='text-single'><value>The den</value></field><field var='muc#roominfo_subject' type='text-single'><value/></field></x></query>
        "#]],
    );
    let items = "<query xmlns='http://jabber.org/protocol/disco#items'/>";
    check(
        stage.send("carol/pc", &get(ROOM, items)),
        expect![[r#"
        carol/pc = <query xmlns='http://jabber.org/protocol/disco#items'/>
    "#]],
    );
    check(
        stage.send("bob/pc", &get(ROOM, items)),
        expect![[r#"
        bob/pc = <query xmlns='http://jabber.org/protocol/disco#items'><item jid='den@rooms.example/alice' name='alice'/><item jid='den@rooms.example/bob' name='bob'/></query>
    "#]],
    );
    let ping = "<ping xmlns='urn:xmpp:ping'/>";
    check(
        stage.send("bob/pc", &get(&format!("{ROOM}/bob"), ping)),
        expect![[r#"
        bob/pc = 
    "#]],
    );
    check(
        stage.send("bob/pc", &get(&format!("{ROOM}/alice"), ping)),
        expect![[r#"
        bob/pc = Occupant { session: FullJid(alice@example.org/pc), asker_nick: "bob" }
    "#]],
    );
    check(
        stage.send("carol/pc", &get(&format!("{ROOM}/carol"), ping)),
        expect![[r#"
        carol/pc ! modify not-acceptable
    "#]],
    );
    check(
        stage.list("bob/pc", "role='participant'"),
        expect![[r#"
        bob/pc ! auth forbidden
    "#]],
    );
    check(
        stage.list("alice/pc", "role='participant'"),
        expect![[r#"
        alice/pc = <query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='none' jid='bob@example.org/pc' nick='bob' role='participant'/></query>
    "#]],
    );
    let reserved = "<query xmlns='http://jabber.org/protocol/disco#info' node='x-roomuser-item'/>";
    check(
        stage.send("bob/pc", &get(ROOM, reserved)),
        expect![[r#"
        bob/pc = <query xmlns='http://jabber.org/protocol/disco#info' node='x-roomuser-item'/>
    "#]],
    );
    check(
        stage.send("bob/pc", &get("hall@rooms.example", info)),
        expect![[r#"
        bob/pc ! cancel item-not-found
    "#]],
    );
}

#[test]
fn a_refused_private_message_comes_back_through_the_room() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    let bob = format!("{ROOM}/bob");
    stage.message("alice/pc", &bob, "type='chat' id='p'", "<body>psst</body>");
    // Two entries wait: bob's copy and alice's own.
    let mut bounces = stage.refuse_outbox(Condition::ServiceUnavailable);
    bounces += &stage.refuse_outbox(Condition::ServiceUnavailable);
    check(
        bounces,
        expect![[r#"
        alice/pc < message error bob +error service-unavailable
    "#]],
    );
    assert!(stage.state.outbox.is_empty());
}

/// §6.6: who is not in the room may not ask an occupant what its client can do; anything else it is told differently.
#[test]
fn strangers_discover_no_occupants() {
    let mut stage = Stage::with_room(&[]);
    let mut ask = |payload: &str| {
        stage.send(
            "eve/pc",
            &format!(
                "<iq xmlns='jabber:client' type='get' id='q' to='{ROOM}/alice'>{payload}</iq>"
            ),
        )
    };
    let mut out = String::new();
    for payload in [
        "<query xmlns='http://jabber.org/protocol/disco#info'/>",
        "<query xmlns='http://jabber.org/protocol/disco#items'/>",
        "<query xmlns='jabber:iq:version'/>",
        "<ping xmlns='urn:xmpp:ping'/>",
    ] {
        out += &ask(payload);
    }
    check(
        out,
        expect![[r#"
        eve/pc ! modify bad-request
        eve/pc ! modify bad-request
        eve/pc ! modify not-acceptable
        eve/pc ! modify not-acceptable
    "#]],
    );
}

#[test]
fn the_list_of_rooms_shows_what_the_asker_may_know() {
    let mut stage = Stage::default();
    let list = |stage: &Stage, who: &str| {
        let query = RoomQuery::Rooms {
            asker: full(who).bare(),
        };
        match answer(&stage.state, &query) {
            Reply::Payload(items) => String::from_utf8_lossy(&items).into_owned(),
            other => panic!("{other:?}"),
        }
    };
    stage.join("alice/pc", "alice");
    check(list(&stage, "alice/pc"), expect![""]);
    stage.configure("alice/pc", &[("roomconfig_roomname", "A &amp; B")]);
    check(
        list(&stage, "bob/pc"),
        expect!["<item jid='den@rooms.example' name='A &amp; B'/>"],
    );
    stage.join("bob/pc", "bob");
    stage.configure("alice/pc", &[("roomconfig_publicroom", "0")]);
    check(
        list(&stage, "alice/pc"),
        expect!["<item jid='den@rooms.example' name='A &amp; B'/>"],
    );
    check(
        list(&stage, "bob/pc"),
        expect!["<item jid='den@rooms.example' name='A &amp; B'/>"],
    );
    check(list(&stage, "carol/pc"), expect![""]);
}
