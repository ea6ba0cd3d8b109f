//! What is in no log: chat states, iqs, probes, blocks.

use expect_test::expect;

use super::conversations::*;
use super::*;

fn iq(to: &str, type_: &str) -> Stanza {
    Stanza {
        kind: StanzaKind::Iq,
        id: Some("1".into()),
        ..message(JULIET, to, type_, "<ping xmlns='urn:xmpp:ping'/>")
    }
}

#[test]
fn chat_states_go_to_who_is_there() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    stage.available(2, "work", "");
    stage.flags(
        &home,
        SessionFlags {
            carbons: true,
            ..SessionFlags::default()
        },
    );
    let route = |stage: &mut Stage, stanza: Stanza| stage.user.route(stanza, &stage.contacts);
    check(
        &route(&mut stage, message(JULIET, USER, "chat", TYPING)),
        expect![[r#"
        home,work <- message chat from juliet/balcony
    "#]],
    );
    check(
        &route(
            &mut stage,
            message(JULIET, "romeo@montague.lit/work", "chat", TYPING),
        ),
        expect![[r#"
        home <- message chat from romeo copy-in
        work <- message chat from juliet/balcony
    "#]],
    );
}

/// XEP-0280 §8: what is in no log is copied like what is.
#[test]
fn what_one_session_sends_the_others_see() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    let work = stage.available(2, "work", "");
    stage.available(3, "phone", "");
    for key in [&home, &work] {
        stage.flags(
            key,
            SessionFlags {
                carbons: true,
                ..SessionFlags::default()
            },
        );
    }
    let sends = |stage: &mut Stage, to: &str, type_: &str, payload: &'static str| {
        let stanza = message("romeo@montague.lit/home", to, type_, payload);
        let key = home.clone();
        stage
            .user
            .event(SessionEvent::Sends { key, stanza }, &stage.contacts)
    };
    const SEEN: &str = "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>";
    const PRIVATE: &str = "<composing xmlns='http://jabber.org/protocol/chatstates'/><private xmlns='urn:xmpp:carbons:2'/>";
    check(
        &sends(&mut stage, JULIET, "chat", TYPING),
        expect![[r#"
            work <- message chat from romeo copy-out
            route juliet@capulet.lit/balcony message chat from romeo/home
        "#]],
    );
    check(
        &sends(&mut stage, "juliet@capulet.lit", "", SEEN),
        expect![[r#"
            work <- message from romeo copy-out
            route juliet@capulet.lit message from romeo/home
        "#]],
    );
    // What is private, no instant message or for oneself isn't copied.
    check(
        &sends(&mut stage, JULIET, "chat", PRIVATE),
        expect![[r#"
            route juliet@capulet.lit/balcony message chat from romeo/home
        "#]],
    );
    check(
        &sends(&mut stage, JULIET, "headline", "<body>hi</body>"),
        expect![[r#"
            route juliet@capulet.lit/balcony message headline from romeo/home
        "#]],
    );
    check(
        &sends(&mut stage, USER, "chat", TYPING),
        expect![[r#"
            route romeo@montague.lit message chat from romeo/home
        "#]],
    );
    stage.contacts.blocked = vec!["juliet@capulet.lit"];
    check(
        &sends(&mut stage, JULIET, "chat", TYPING),
        expect![[r#"
            home <- message error from juliet/balcony not-acceptable
        "#]],
    );
}

/// RFC 6121 §8.5.2.2.1: stored or refused, but for what is about the moment.
#[test]
fn what_finds_nobody_and_is_not_filed_comes_back() {
    let mut stage = Stage::new();
    stage.available(1, "home", "<priority>-1</priority>");
    let route = |stage: &mut Stage, stanza: Stanza| stage.user.route(stanza, &stage.contacts);
    const FORM: &str = "<x xmlns='jabber:x:data' type='form'/>";
    for to in [USER, "romeo@montague.lit/gone"] {
        assert_ne!(route(&mut stage, message(JULIET, to, "chat", FORM)), []);
        assert_eq!(route(&mut stage, message(JULIET, to, "chat", TYPING)), []);
    }
    check(
        &route(&mut stage, message(JULIET, USER, "", FORM)),
        expect![[r#"
            route juliet@capulet.lit/balcony message error from romeo service-unavailable
        "#]],
    );
}

#[test]
fn requests_without_a_session_are_refused() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    stage.available(2, "work", "");
    stage.flags(
        &home,
        SessionFlags {
            carbons: true,
            ..SessionFlags::default()
        },
    );
    let route = |stage: &mut Stage, stanza: Stanza| stage.user.route(stanza, &stage.contacts);
    check(
        &route(&mut stage, iq("romeo@montague.lit/work", "get")),
        expect![[r#"
        work <- iq get from juliet/balcony
    "#]],
    );
    check(
        &route(&mut stage, iq("romeo@montague.lit/gone", "get")),
        expect![[r#"
        route juliet@capulet.lit/balcony iq error from romeo/gone service-unavailable
    "#]],
    );
    check(
        &route(&mut stage, iq(USER, "set")),
        expect![[r#"
        route juliet@capulet.lit/balcony iq error from romeo service-unavailable
    "#]],
    );
    check(
        &route(&mut stage, iq("romeo@montague.lit/gone", "result")),
        expect![""],
    );
    check(
        &route(&mut stage, message(JULIET, USER, "groupchat", "")),
        expect![[r#"
        route juliet@capulet.lit/balcony message error from romeo service-unavailable
    "#]],
    );
    check(
        &stage.user.bounce(
            &home.jid,
            message(JULIET, "romeo@montague.lit/home", "error", ""),
        ),
        expect![[r#"
        home <- message error from juliet/balcony
    "#]],
    );
    check(
        &stage.user.bounce(
            &full("romeo@montague.lit/gone"),
            message(JULIET, USER, "error", ""),
        ),
        expect![""],
    );
}

const STRANGER: &str = "mercutio@montague.lit/x";

fn from(sender: &str, to: &str, stanza: Stanza) -> Stanza {
    Stanza {
        from: Some(jid(sender)),
        to: Some(jid(to)),
        ..stanza
    }
}

/// RFC 6121 §8.5.3.1.
#[test]
fn requests_go_only_to_sessions_that_were_shown() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    stage.available(2, "work", "");
    let ask = |stage: &mut Stage, to: &str, expect: expect_test::Expect| {
        let request = from(STRANGER, to, iq(to, "get"));
        check(&stage.user.route(request, &stage.contacts), expect);
    };
    let refused = || {
        expect![[r#"
            route mercutio@montague.lit/x iq error from romeo/home service-unavailable
        "#]]
    };
    ask(&mut stage, "romeo@montague.lit/home", refused());
    let stanza = Stanza {
        to: Some(jid(STRANGER)),
        ..presence("", "")
    };
    let directed = SessionEvent::Directed { key: home, stanza };
    stage.user.event(directed, &stage.contacts);
    ask(
        &mut stage,
        "romeo@montague.lit/home",
        expect![[r#"
            home <- iq get from mercutio/x
        "#]],
    );
    // Only that one was shown.
    ask(
        &mut stage,
        "romeo@montague.lit/work",
        expect![[r#"
            route mercutio@montague.lit/x iq error from romeo/work service-unavailable
        "#]],
    );
    // Answers are for whoever asked, and one's own sessions may ask each other.
    for (sender, type_) in [(STRANGER, "result"), ("romeo@montague.lit/work", "get")] {
        let to = "romeo@montague.lit/work";
        let actions = stage
            .user
            .route(from(sender, to, iq(to, type_)), &stage.contacts);
        assert!(show(&actions).starts_with("work <- iq"), "{sender} {type_}");
    }
}

/// RFC 6121 §8.5.2.1.2, §8.5.3.1 and §8.5.3.2.2: it went to every session, whatever its address said.
#[test]
fn presence_for_one_session_goes_to_no_other() {
    let mut stage = Stage::new();
    stage.available(1, "home", "");
    stage.available(2, "work", "");
    let mut sent = |to: &str| {
        let stanza = from(STRANGER, to, presence("", ""));
        let actions = stage.user.route(stanza, &stage.contacts);
        for action in &actions {
            let PublicationAction::Deliver { stanza, .. } = action else {
                panic!("only delivered");
            };
            assert_eq!(stanza.to, Some(jid(to)), "the address stays");
        }
        show(&actions)
    };
    let (all, one) = (
        "home,work <- presence from mercutio/x\n",
        "work <- presence from mercutio/x\n",
    );
    assert_eq!(sent(USER), all);
    assert_eq!(sent("romeo@montague.lit/work"), one);
    assert_eq!(sent("romeo@montague.lit/gone"), "");
}

/// RFC 6121 §4.3.2 and §4.6.6.
#[test]
fn a_probe_for_one_session_learns_only_that_it_is_there() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "<show>dnd</show>");
    let work = stage.available(2, "work", "");
    let probe = |stage: &mut Stage, sender: &str, to: &str| {
        let stanza = from(sender, to, presence("probe", ""));
        stage.user.route(stanza, &stage.contacts)
    };
    let told = |actions: &[PublicationAction]| {
        let [PublicationAction::Route(stanza)] = actions else {
            panic!("one answer: {}", show(actions));
        };
        assert!(stanza.payload.is_empty(), "nothing but that it is there");
        show(actions)
    };
    assert_eq!(
        told(&probe(&mut stage, JULIET, "romeo@montague.lit/home")),
        "route juliet@capulet.lit/balcony presence from romeo/home\n"
    );
    check(
        &probe(&mut stage, JULIET, "romeo@montague.lit/gone"),
        expect![""],
    );
    check(
        &probe(&mut stage, STRANGER, "romeo@montague.lit/home"),
        expect![""],
    );
    check(
        &probe(&mut stage, JULIET, USER),
        expect![[r#"
            broadcast juliet presence from romeo/home
            broadcast juliet presence from romeo/work
        "#]],
    );
    let stanza = Stanza {
        to: Some(jid(STRANGER)),
        ..presence("", "<status>psst</status>")
    };
    let directed = SessionEvent::Directed { key: home, stanza };
    stage.user.event(directed, &stage.contacts);
    let answer = "route mercutio@montague.lit/x presence from romeo/home\n";
    assert_eq!(told(&probe(&mut stage, STRANGER, USER)), answer);
    assert_eq!(
        told(&probe(&mut stage, STRANGER, "romeo@montague.lit/home")),
        answer
    );
    check(&probe(&mut stage, STRANGER, work.jid.as_str()), expect![""]);
}

#[test]
fn who_is_blocked_finds_nobody() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    stage.available(2, "work", "");
    stage.flags(
        &home,
        SessionFlags {
            carbons: true,
            ..SessionFlags::default()
        },
    );
    let route = |stage: &mut Stage, stanza: Stanza| stage.user.route(stanza, &stage.contacts);
    stage.contacts.blocked = vec!["juliet@capulet.lit"];
    check(
        &route(&mut stage, iq("romeo@montague.lit/work", "get")),
        expect![[r#"
        route juliet@capulet.lit/balcony iq error from romeo/work service-unavailable
    "#]],
    );
    check(
        &route(&mut stage, message(JULIET, USER, "chat", TYPING)),
        expect![[r#"
        route juliet@capulet.lit/balcony message error from romeo service-unavailable
    "#]],
    );
    let from_juliet = Arc::new(Stanza {
        from: Some(jid(JULIET)),
        ..presence("", "")
    });
    check(
        &stage.user.presence_in(&from_juliet, &stage.contacts),
        expect![""],
    );
    check(
        &stage
            .user
            .probe(&bare("juliet@capulet.lit"), &stage.contacts),
        expect![""],
    );
}

#[test]
fn probes_and_changes_of_who_may_see() {
    let mut stage = Stage::new();
    let juliet = bare("juliet@capulet.lit");
    check(
        &stage.user.probe(&juliet, &stage.contacts),
        expect![[r#"
        broadcast juliet presence unavailable from romeo
    "#]],
    );
    check(
        &stage
            .user
            .probe(&bare("tybalt@capulet.lit"), &stage.contacts),
        expect![""],
    );
    check(&stage.user.probe_to(&juliet, &stage.contacts), expect![""]);
    let home = stage.available(1, "home", "");
    stage.flags(
        &home,
        SessionFlags {
            roster: true,
            blocklist: true,
            ..SessionFlags::default()
        },
    );
    check(
        &stage.user.probe(&juliet, &stage.contacts),
        expect![[r#"
        broadcast juliet presence from romeo/home
    "#]],
    );
    check(
        &stage.user.presence_to(&juliet, &stage.contacts),
        expect![[r#"
        broadcast juliet presence from romeo/home
    "#]],
    );
    check(
        &stage.user.unavailable_to(&juliet, &stage.contacts),
        expect![[r#"
        broadcast juliet presence unavailable from romeo/home
    "#]],
    );
    check(
        &stage.user.probe_to(&juliet, &stage.contacts),
        expect![[r#"
        probe juliet
    "#]],
    );
    check(
        &stage.user.roster_push(&juliet, None, 4),
        expect![[r#"
        home <- iq set
    "#]],
    );
    check(
        &stage
            .user
            .subscription(message(JULIET, USER, "subscribed", "")),
        expect![[r#"
        home <- message subscribed from juliet/balcony
    "#]],
    );
}

#[test]
fn blocking_hides_and_unblocking_shows() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    stage.flags(
        &home,
        SessionFlags {
            blocklist: true,
            ..SessionFlags::default()
        },
    );
    stage.contacts.blocked = vec!["juliet@capulet.lit"];
    let listed = [jid("juliet@capulet.lit"), jid("stranger@verona.lit")];
    check(
        &stage
            .user
            .blocklist_push(Bytes::new(), &listed, &[], &stage.contacts),
        expect![[r#"
        home <- iq set
        broadcast juliet presence unavailable from romeo/home
    "#]],
    );
    check(
        &stage.presence(&home, "", "<show>dnd</show>"),
        expect![[r#"
        home <- presence from romeo/home
    "#]],
    );
    stage.contacts.blocked.clear();
    stage.contacts.watched = vec!["juliet@capulet.lit"];
    check(
        &stage
            .user
            .blocklist_push(Bytes::new(), &[], &listed, &stage.contacts),
        expect![[r#"
        home <- iq set
        probe juliet
        broadcast juliet presence from romeo/home
    "#]],
    );
}

#[test]
fn nothing_goes_to_who_is_blocked() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    stage.contacts.blocked = vec!["juliet@capulet.lit"];
    let from = "romeo@montague.lit/home";
    let mut sends = |stanza: Stanza| {
        let key = home.clone();
        let event = SessionEvent::Sends { key, stanza };
        stage.user.event(event, &stage.contacts)
    };
    let iq = |type_: &str| Stanza {
        from: Some(jid(from)),
        ..iq(JULIET, type_)
    };
    for stanza in [
        message(from, JULIET, "chat", TYPING),
        message(from, "juliet@capulet.lit", "headline", "<body>hi</body>"),
        iq("get"),
        iq("set"),
    ] {
        let kind = stanza.kind.name();
        let actions = sends(stanza);
        let [
            PublicationAction::Deliver {
                sessions, stanza, ..
            },
        ] = actions.as_slice()
        else {
            panic!("{kind}: {}", show(&actions));
        };
        assert_eq!(sessions.as_slice(), std::slice::from_ref(&home));
        let payload = std::str::from_utf8(&stanza.payload).unwrap();
        assert!(payload.contains("<not-acceptable "), "{payload}");
        assert!(
            payload.contains("<blocked xmlns='urn:xmpp:blocking:errors'/>"),
            "{payload}"
        );
    }
    check(
        &sends(message(from, JULIET, "error", "<error/>")),
        expect![""],
    );
    check(&sends(iq("result")), expect![""]);
    check(&sends(iq("error")), expect![""]);
    check(
        &sends(message(from, "nurse@capulet.lit", "chat", TYPING)),
        expect![[r#"
            route nurse@capulet.lit message chat from romeo/home
        "#]],
    );
}

/// Its node has said goodbye for it, or the owner is new: what it had said before still goes out.
#[test]
fn what_an_unknown_session_sent_goes_out() {
    let mut stage = Stage::new();
    let stanza = message("romeo@montague.lit/gone", JULIET, "chat", TYPING);
    let key = key(1, 9, "gone");
    check(
        &stage
            .user
            .event(SessionEvent::Sends { key, stanza }, &stage.contacts),
        expect![[r#"
            route juliet@capulet.lit/balcony message chat from romeo/gone
        "#]],
    );
}
