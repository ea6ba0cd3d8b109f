//! Conversations about who may do what: voice, kicks, bans, lists, invitations, configuration, the end of a room.

use expect_test::expect;

use crate::conversations::check;
use crate::stage::{ROOM, Stage};
use xmpp::stanza_error::Condition;

#[test]
fn moderated_rooms_give_voice() {
    let mut stage = Stage::with_room(&[("roomconfig_moderatedroom", "1")]);
    stage.join("bob/pc", "bob");
    stage.join("carol/pc", "carol");
    check(
        stage.say("bob/pc", "may I?"),
        expect![[r#"
        bob/pc ! auth forbidden
    "#]],
    );
    let form = |fields: &str| {
        format!(
            "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#request</value></field>{fields}</x>"
        )
    };
    let field =
        |var: &str, value: &str| format!("<field var='{var}'><value>{value}</value></field>");
    check(
        stage.message("bob/pc", ROOM, "", &form(&field("muc#role", "participant"))),
        expect![[r#"
        alice/pc < message den +x
    "#]],
    );
    let grant = form(&(field("muc#roomnick", "bob") + &field("muc#request_allow", "true")));
    check(
        stage.message("carol/pc", ROOM, "", &grant),
        expect![[r#"
        carol/pc ! auth forbidden
    "#]],
    );
    check(
        stage.message("alice/pc", ROOM, "", &grant),
        expect![[r#"
        bob/pc < presence bob none/participant jid=bob/pc actor="alice" 110
        alice/pc < presence bob none/participant jid=bob/pc actor="alice"
        carol/pc < presence bob none/participant actor="alice"
    "#]],
    );
    check(
        stage.say("bob/pc", "thanks"),
        expect![[r#"
        alice/pc < message bob body="thanks" sid
        bob/pc < message bob body="thanks" sid
        carol/pc < message bob body="thanks" sid
    "#]],
    );
    check(
        stage.admin("alice/pc", "<item nick='bob' role='visitor'/>"),
        expect![[r#"
        bob/pc < presence bob none/visitor jid=bob/pc actor="alice" 110
        alice/pc < presence bob none/visitor jid=bob/pc actor="alice"
        carol/pc < presence bob none/visitor actor="alice"
    "#]],
    );
    check(
        stage.configure("alice/pc", &[("roomconfig_moderatedroom", "0")]),
        expect![[r#"
        alice/pc < message den 104
        bob/pc < message den 104
        carol/pc < message den 104
        bob/pc < presence bob none/participant jid=bob/pc actor="alice" 110
        alice/pc < presence bob none/participant jid=bob/pc actor="alice"
        carol/pc < presence bob none/participant actor="alice"
        carol/pc < presence carol none/participant jid=carol/pc actor="alice" 110
        alice/pc < presence carol none/participant jid=carol/pc actor="alice"
        bob/pc < presence carol none/participant actor="alice"
    "#]],
    );
}

#[test]
fn kicks_and_bans() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    stage.join("carol/pc", "carol");
    check(
        stage.admin("bob/pc", "<item nick='carol' role='none'/>"),
        expect![[r#"
        bob/pc ! auth forbidden
    "#]],
    );
    stage.admin("alice/pc", "<item nick='bob' role='moderator'/>");
    check(
        stage.admin("bob/pc", "<item nick='alice' role='none'/>"),
        expect![[r#"
        bob/pc ! cancel not-allowed
    "#]],
    );
    check(
        stage.admin(
            "bob/pc",
            "<item affiliation='outcast' jid='carol@example.org'/>",
        ),
        expect![[r#"
        bob/pc ! auth forbidden
    "#]],
    );
    check(
        stage.admin("alice/pc", "<item nick='alice' role='none'/>"),
        expect![[r#"
        alice/pc ! cancel conflict
    "#]],
    );
    check(
        stage.admin(
            "alice/pc",
            "<item affiliation='outcast' jid='alice@example.org'/>",
        ),
        expect![[r#"
        alice/pc ! cancel conflict
    "#]],
    );
    check(
        stage.admin(
            "alice/pc",
            "<item affiliation='outcast' jid='carol@example.org/pc'><reason>spam</reason></item>",
        ),
        expect![[r#"
            carol/pc < presence unavailable carol outcast/none jid=carol/pc actor="alice" reason="spam" 110 301
            alice/pc < presence unavailable carol outcast/none jid=carol/pc actor="alice" reason="spam" 301
            bob/pc < presence unavailable carol outcast/none jid=carol/pc actor="alice" reason="spam" 301
        "#]],
    );
    check(
        stage.join("carol/pc", "carol"),
        expect![[r#"
        carol/pc ! auth forbidden
    "#]],
    );
    check(
        stage.list("alice/pc", "affiliation='outcast'"),
        expect![[r#"
        alice/pc = <query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='outcast' jid='carol@example.org'><reason>spam</reason></item></query>
    "#]],
    );
    // A whole domain: bob goes, alice's own affiliation wins.
    check(
        stage.admin(
            "alice/pc",
            "<item affiliation='outcast' jid='example.org'/>",
        ),
        expect![[r#"
        bob/pc < presence unavailable bob outcast/none jid=bob/pc actor="alice" 110 301
        alice/pc < presence unavailable bob outcast/none jid=bob/pc actor="alice" 301
    "#]],
    );
    check(
        stage.join("dave/pc", "dave"),
        expect![[r#"
        dave/pc ! auth forbidden
    "#]],
    );
    check(
        stage.admin("alice/pc", "<item affiliation='none' jid='example.org'/>"),
        expect![""],
    );
    check(
        stage.join("dave/pc", "dave"),
        expect![[r#"
        alice/pc < presence dave none/participant jid=dave/pc
        dave/pc < presence alice owner/moderator
        dave/pc < presence dave none/participant jid=dave/pc 110 170
        dave/pc < message den subject=""
    "#]],
    );
}

#[test]
fn lists_are_changed_as_a_whole_or_not_at_all() {
    let mut stage = Stage::with_room(&[]);
    stage.admin(
        "alice/pc",
        "<item affiliation='admin' jid='bob@example.org'/>",
    );
    stage.join("bob/pc", "bob");
    check(
        stage.admin(
            "bob/pc",
            "<item affiliation='member' jid='carol@example.org'/><item affiliation='outcast' jid='alice@example.org'/>",
        ),
        expect![[r#"
            bob/pc ! cancel not-allowed
        "#]],
    );
    check(
        stage.list("bob/pc", "affiliation='member'"),
        expect![[r#"
        bob/pc = <query xmlns='http://jabber.org/protocol/muc#admin'/>
    "#]],
    );
    check(
        stage.list("bob/pc", "affiliation='owner'"),
        expect![[r#"
        bob/pc ! auth forbidden
    "#]],
    );
    // One list holds roles or affiliations.
    check(
        stage.admin(
            "alice/pc",
            "<item affiliation='member' jid='bob@example.org'/><item role='moderator' nick='bob'/>",
        ),
        expect![[r#"
            alice/pc ! modify bad-request
        "#]],
    );
    // §10.4: the last owner stays; handing over in one request is fine.
    check(
        stage.admin(
            "alice/pc",
            "<item affiliation='admin' jid='alice@example.org'/>",
        ),
        expect![[r#"
        alice/pc ! cancel conflict
    "#]],
    );
    check(
        stage.admin(
            "alice/pc",
            "<item affiliation='none' jid='alice@example.org'/><item affiliation='owner' jid='bob@example.org'/>",
        ),
        expect![[r#"
            alice/pc < presence alice none/participant jid=alice/pc actor="alice" 110
            bob/pc < presence alice none/participant jid=alice/pc actor="alice"
            bob/pc < presence bob owner/moderator jid=bob/pc actor="alice" 110
            alice/pc < presence bob owner/moderator actor="alice"
        "#]],
    );
    check(
        stage.admin(
            "alice/pc",
            "<item affiliation='owner' jid='alice@example.org'/>",
        ),
        expect![[r#"
        alice/pc ! auth forbidden
    "#]],
    );
}

#[test]
fn members_only_rooms() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    stage.admin(
        "alice/pc",
        "<item affiliation='member' jid='carol@example.org'/>",
    );
    stage.join("carol/pc", "carol");
    check(
        stage.configure("alice/pc", &[("roomconfig_membersonly", "1")]),
        expect![[r#"
        bob/pc < presence unavailable bob none/none jid=bob/pc actor="alice" 110 322
        alice/pc < presence unavailable bob none/none jid=bob/pc actor="alice" 322
        carol/pc < presence unavailable bob none/none actor="alice" 322
        alice/pc < message den 104
        carol/pc < message den 104
    "#]],
    );
    let invite = "<x xmlns='http://jabber.org/protocol/muc#user'><invite to='dave@example.org'><reason>tea</reason></invite></x>";
    check(
        stage.message("carol/pc", ROOM, "id='i'", invite),
        expect![[r#"
        carol/pc ! auth forbidden
    "#]],
    );
    check(
        stage.message("alice/pc", ROOM, "id='i'", invite),
        expect![[r#"
        alice/pc < message den member/none jid=dave
        outbox: dave/- < message den invite from=alice reason="tea"
    "#]],
    );
    check(
        stage.join("dave/pc", "dave"),
        expect![[r#"
        alice/pc < presence dave member/participant jid=dave/pc
        carol/pc < presence dave member/participant
        dave/pc < presence alice owner/moderator
        dave/pc < presence carol member/participant
        dave/pc < presence dave member/participant jid=dave/pc 110 170
        dave/pc < message den subject=""
    "#]],
    );
    check(
        stage.admin(
            "alice/pc",
            "<item affiliation='none' jid='carol@example.org'/>",
        ),
        expect![[r#"
        carol/pc < presence unavailable carol none/none jid=carol/pc actor="alice" 110 321
        alice/pc < presence unavailable carol none/none jid=carol/pc actor="alice" 321
        dave/pc < presence unavailable carol none/none actor="alice" 321
    "#]],
    );
    check(
        stage.admin(
            "alice/pc",
            "<item affiliation='member' jid='erin@example.org'/>",
        ),
        expect![[r#"
        outbox: erin/- < message den invite from=den
        alice/pc < message den member/none jid=erin
    "#]],
    );
}

#[test]
fn invitations_and_declining() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    let invite = |to: &str| {
        format!(
            "<x xmlns='http://jabber.org/protocol/muc#user'><invite to='{to}'><continue thread='t'/></invite></x>"
        )
    };
    check(
        stage.message("bob/pc", ROOM, "", &invite("carol@example.org")),
        expect![[r#"
        outbox: carol/- < message den invite from=bob continue=""
    "#]],
    );
    check(
        stage.message("carol/pc", ROOM, "", &invite("dave@example.org")),
        expect![[r#"
        carol/pc ! modify not-acceptable
    "#]],
    );
    check(
        stage.message("bob/pc", ROOM, "", &invite("carol@elsewhere.example")),
        expect![[r#"
        bob/pc ! cancel remote-server-not-found
    "#]],
    );
    let decline = "<x xmlns='http://jabber.org/protocol/muc#user'><decline to='bob@example.org'><reason>busy</reason></decline></x>";
    check(
        stage.message("carol/pc", ROOM, "", decline),
        expect![[r#"
        bob/pc < message den decline from=carol reason="busy"
    "#]],
    );
    // P12: who is banned says nothing through the room, this way neither.
    stage.admin(
        "alice/pc",
        "<item affiliation='outcast' jid='carol@example.org'/>",
    );
    check(
        stage.message("carol/pc", ROOM, "", decline),
        expect![[r#"
        carol/pc ! auth forbidden
    "#]],
    );
}

/// §7.8.2: the inviter learns that there is no such person; who blocks the room looks the same.
#[test]
fn an_invitation_to_nobody_comes_back() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    let invite =
        "<x xmlns='http://jabber.org/protocol/muc#user'><invite to='nobody@example.org'/></x>";
    stage.message("bob/pc", ROOM, "id='i'", invite);
    check(
        stage.refuse_outbox(Condition::ServiceUnavailable),
        expect![[r#"
        bob/pc < message error den +error item-not-found
    "#]],
    );
}

#[test]
fn configuration_changes_are_told() {
    let mut stage = Stage::with_room(&[]);
    stage.join("bob/pc", "bob");
    check(
        stage.configure("bob/pc", &[]),
        expect![[r#"
        bob/pc ! auth forbidden
    "#]],
    );
    check(
        stage.configure("alice/pc", &[("roomconfig_whois", "nonsense")]),
        expect![[r#"
        alice/pc ! modify not-acceptable
    "#]],
    );
    check(
        stage.configure(
            "alice/pc",
            &[
                ("roomconfig_whois", "anyone"),
                ("roomconfig_enablelogging", "0"),
                ("roomconfig_roomname", "Den"),
            ],
        ),
        expect![[r#"
            alice/pc < message den 171 172 104
            bob/pc < message den 171 172 104
        "#]],
    );
    check(
        stage.join("carol/pc", "carol"),
        expect![[r#"
        alice/pc < presence carol none/participant jid=carol/pc
        bob/pc < presence carol none/participant jid=carol/pc
        carol/pc < presence alice owner/moderator jid=alice/pc
        carol/pc < presence bob none/participant jid=bob/pc
        carol/pc < presence carol none/participant jid=carol/pc 110 100
        carol/pc < message den subject=""
    "#]],
    );
    check(
        stage.say("carol/pc", "off the record"),
        expect![[r#"
        alice/pc < message carol body="off the record"
        bob/pc < message carol body="off the record"
        carol/pc < message carol body="off the record"
    "#]],
    );
    check(stage.configure("alice/pc", &[]), expect![""]);
}

#[test]
fn rooms_end() {
    let mut stage = Stage::with_room(&[("roomconfig_persistentroom", "1")]);
    check(
        stage.leave("alice/pc"),
        expect![[r#"
        alice/pc < presence unavailable alice owner/none jid=alice/pc 110
    "#]],
    );
    check(
        stage.join("bob/pc", "bob"),
        expect![[r#"
        bob/pc < presence bob none/participant jid=bob/pc 110 170
        bob/pc < message den subject=""
    "#]],
    );
    check(
        stage.owner("bob/pc", "<destroy/>"),
        expect![[r#"
        bob/pc ! auth forbidden
    "#]],
    );
    check(
        stage.owner("alice/pc", "<destroy jid='hall@rooms.example'><reason>moved</reason><password>p</password></destroy>"),
        expect![[r#"
            bob/pc < presence unavailable bob none/none destroy jid=hall@rooms.example password="p" reason="moved" 110
            den@rooms.example is gone
        "#]],
    );
    // An owner outside takes persistence from an empty room.
    let mut stage = Stage::with_room(&[("roomconfig_persistentroom", "1")]);
    stage.leave("alice/pc");
    check(
        stage.configure("alice/pc", &[("roomconfig_persistentroom", "0")]),
        expect![[r#"
            den@rooms.example is gone
        "#]],
    );
    let mut stage = Stage::with_room(&[]);
    check(
        stage.leave("alice/pc"),
        expect![[r#"
        alice/pc < presence unavailable alice owner/none jid=alice/pc 110
        den@rooms.example is gone
    "#]],
    );
    assert!(stage.state.rooms.is_empty());
}
