//! Conversations between users of different partitions.

use messaging::command::{Answer, Command};
use messaging::query::Query;
use xmpp::jid::Jid;

use super::pool::{Pool, block, friends, message, payload, presence, session, set_contact, user};

#[test]
fn two_users_subscribe_to_each_other() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    assert_ne!(pool.partition_of("alice"), pool.partition_of("bob"));
    pool.done(presence("subscribe", "alice", "bob"), "alice");
    assert_eq!(pool.shown(), ["alice: roster bob@localhost none asking"]);
    pool.settle(true);
    assert_eq!(pool.shown(), ["bob: subscribe from alice@localhost"]);
    assert_eq!(pool.subscription("bob", "alice"), "none asked unlisted");
    pool.done(presence("subscribed", "bob", "alice"), "bob");
    assert_eq!(pool.shown(), ["bob: roster alice@localhost from"]);
    pool.settle(true);
    assert_eq!(
        pool.shown(),
        [
            "alice: subscribed from bob@localhost",
            "alice: roster bob@localhost to",
            "bob: presence to alice@localhost",
        ]
    );
    pool.done(presence("subscribe", "bob", "alice"), "bob");
    pool.settle(false);
    pool.done(presence("subscribed", "alice", "bob"), "alice");
    pool.settle(false);
    assert_eq!(pool.subscription("alice", "bob"), "both");
    assert_eq!(pool.subscription("bob", "alice"), "both");
}

/// RFC 6121 §3.1.5: presence overtook `subscribed` when it was told at once.
#[test]
fn presence_waits_until_the_contact_was_told_of_the_subscription() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    pool.done(presence("subscribe", "alice", "bob"), "alice");
    pool.settle(false);
    pool.shown();
    pool.done(presence("subscribed", "bob", "alice"), "bob");
    assert_eq!(pool.shown(), ["bob: roster alice@localhost from"]);
    // The owner of bob's partition changes before the answer has come: the next one sends the entry again.
    pool.begin_owner(pool.partition_of("bob"));
    pool.settle(true);
    assert_eq!(
        pool.shown(),
        [
            "alice: subscribed from bob@localhost",
            "alice: roster bob@localhost to",
            "bob: presence to alice@localhost",
        ]
    );
    pool.settle(true);
    assert_eq!(pool.shown(), Vec::<String>::new(), "told once");
}

#[test]
fn a_request_is_denied() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    pool.done(presence("subscribe", "alice", "bob"), "alice");
    pool.settle(false);
    pool.shown();
    pool.done(presence("unsubscribed", "bob", "alice"), "bob");
    pool.settle(false);
    assert_eq!(
        pool.shown(),
        [
            "alice: unsubscribed from bob@localhost",
            "alice: roster bob@localhost none"
        ]
    );
    assert_eq!(pool.subscription("bob", "alice"), "absent");
    assert_eq!(pool.subscription("alice", "bob"), "none");
}

#[test]
fn an_approval_before_the_request_answers_it() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    pool.done(presence("subscribed", "bob", "alice"), "bob");
    pool.settle(false);
    assert_eq!(pool.shown(), ["bob: roster alice@localhost none approved"]);
    pool.done(presence("subscribe", "alice", "bob"), "alice");
    pool.settle(false);
    assert_eq!(
        pool.shown(),
        [
            "alice: roster bob@localhost none asking",
            "bob: roster alice@localhost from approved",
            "alice: subscribed from bob@localhost",
            "alice: roster bob@localhost to",
            "bob: presence to alice@localhost",
        ]
    );
}

#[test]
fn a_subscription_that_cannot_be_is_refused_or_ignored() {
    let mut pool = Pool::with_users(&["alice"]);
    pool.done(presence("subscribe", "alice", "nobody"), "alice");
    pool.settle(false);
    assert_eq!(pool.shown(), ["alice: roster nobody@localhost none asking"]);
    let mut refused = |command| pool.refused(command, "alice");
    assert_eq!(
        refused(presence("subscribe", "alice", "x@elsewhere.example")),
        "RemoteServerNotFound"
    );
    assert_eq!(
        refused(presence("subscribe", "alice", "den@conference.localhost")),
        "ServiceUnavailable"
    );
    assert_eq!(
        refused(presence("subscribe", "alice", "alice")),
        "NotAllowed"
    );
    assert_eq!(refused(presence("probe", "alice", "bob")), "BadRequest");
    pool.done(block("alice", &["eve@localhost"]), "alice");
    assert_eq!(
        pool.refused(presence("subscribe", "alice", "eve"), "alice"),
        "NotAcceptable"
    );
}

#[test]
fn unsubscribing_hides_presence_and_both_rosters_agree() {
    let mut pool = friends();
    pool.done(presence("unsubscribe", "alice", "bob"), "alice");
    pool.settle(true);
    assert_eq!(
        pool.shown(),
        [
            "alice: roster bob@localhost from",
            "bob: unsubscribe from alice@localhost",
            "bob: roster alice@localhost to",
            "bob: unavailable to alice@localhost",
        ]
    );
    pool.done(presence("unsubscribed", "alice", "bob"), "alice");
    pool.settle(true);
    assert_eq!(
        pool.shown(),
        [
            "alice: unavailable to bob@localhost",
            "alice: roster bob@localhost none",
            "bob: unsubscribed from alice@localhost",
            "bob: roster alice@localhost none",
        ]
    );
}

#[test]
fn removing_a_contact_ends_both_ways() {
    let mut pool = friends();
    pool.done(
        Command::RemoveContact {
            user: user("alice"),
            contact: user("bob"),
        },
        "alice",
    );
    pool.settle(true);
    assert_eq!(
        pool.shown(),
        [
            "alice: roster without bob@localhost",
            "alice: unavailable to bob@localhost",
            "bob: unsubscribe from alice@localhost",
            "bob: roster alice@localhost to",
            "bob: unavailable to alice@localhost",
            "bob: unsubscribed from alice@localhost",
            "bob: roster alice@localhost none",
        ]
    );
    let again = Command::RemoveContact {
        user: user("alice"),
        contact: user("bob"),
    };
    assert_eq!(pool.refused(again, "alice"), "ItemNotFound");
}

#[test]
fn roster_errors_of_section_2_3_3() {
    let mut pool = Pool::with_users(&["alice"]);
    let mut check = |contact: &str, name: Option<String>, groups: &[&str], expect: &str| {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        let command = Command::SetContact {
            user: user("alice"),
            contact: user(contact),
            name,
            groups,
        };
        assert_eq!(pool.refused(command, "alice"), expect);
    };
    check("alice", None, &[], "NotAllowed");
    check("bob", Some("x".repeat(1_024)), &[], "NotAcceptable");
    check("bob", None, &[""], "NotAcceptable");
    check("bob", None, &[&"x".repeat(1_024)], "NotAcceptable");
    check("bob", None, &["a", "b", "a"], "BadRequest");
    for name in ["b", "c", "d", "e", "f"] {
        set_contact(&mut pool, "alice", name);
    }
    let sixth = Command::SetContact {
        user: user("alice"),
        contact: user("g"),
        name: None,
        groups: vec![],
    };
    assert_eq!(pool.refused(sixth, "alice"), "ResourceConstraint");
    assert_eq!(
        pool.refused(presence("subscribe", "alice", "g"), "alice"),
        "ResourceConstraint"
    );
    set_contact(&mut pool, "alice", "f");
}

#[test]
fn a_roster_is_shown_with_its_version_or_not_at_all() {
    let mut pool = Pool::with_users(&["alice"]);
    let groups = vec!["Friends & Family".to_owned()];
    let name = Some("Bob".to_owned());
    pool.done(
        Command::SetContact {
            user: user("alice"),
            contact: user("bob"),
            name,
            groups,
        },
        "alice",
    );
    let version = pool
        .state("alice")
        .logs
        .get(&user("alice"))
        .unwrap()
        .roster_version;
    let roster = |version: Option<String>| {
        payload(
            pool.state("alice"),
            &Query::Roster {
                user: user("alice"),
                version,
            },
        )
    };
    let item = "<item jid='bob@localhost' name='Bob' subscription='none'><group>Friends &amp; Family</group></item>";
    assert_eq!(
        roster(None),
        format!("<query xmlns='jabber:iq:roster'>{item}</query>")
    );
    let with_version = format!("<query xmlns='jabber:iq:roster' ver='{version}'>{item}</query>");
    assert_eq!(roster(Some(String::new())), with_version);
    assert_eq!(roster(Some("7".into())), with_version);
    assert_eq!(roster(Some(version.to_string())), "");
    let nobody = Query::Roster {
        user: user("nobody"),
        version: None,
    };
    assert_eq!(payload(pool.state("nobody"), &nobody), "ItemNotFound");
}

#[test]
fn a_message_is_filed_on_both_sides() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    let seq = pool.done(message("alice", "bob", "hi", Some("o1")), "alice");
    assert_eq!(
        pool.state("alice").logs.get(&user("alice")).unwrap().head,
        seq
    );
    assert_eq!(pool.shown(), ["alice: logged to bob@localhost: hi"]);
    pool.settle(true);
    assert_eq!(pool.shown(), ["bob: logged from alice@localhost/phone: hi"]);
    assert_eq!(pool.archived("bob"), ["from alice@localhost/phone: hi"]);
    assert!(
        pool.partitions
            .iter()
            .all(|partition| partition.state.outbox.is_empty())
    );
}

#[test]
fn a_retry_has_no_second_effect() {
    let mut pool = Pool::with_users(&["alice", "bob", "carol"]);
    let first = pool.done(message("alice", "bob", "hi", Some("o1")), "alice");
    pool.settle(false);
    pool.shown();
    pool.time_ms += 60_000;
    assert_eq!(
        pool.done(message("alice", "bob", "hi", Some("o1")), "alice"),
        first
    );
    pool.done(block("alice", &["bob@localhost"]), "alice");
    pool.shown();
    // The retry of what was sent is answered as it was, although a new message would now be refused.
    assert_eq!(
        pool.done(message("alice", "bob", "hi", Some("o1")), "alice"),
        first
    );
    assert_eq!(pool.shown(), Vec::<String>::new());
    assert!(
        pool.done(message("alice", "carol", "hi", Some("o1")), "alice") > first,
        "another target"
    );
    pool.done(
        Command::Unblock {
            user: user("alice"),
            items: vec![],
        },
        "alice",
    );
    pool.time_ms += 24 * 3_600_000;
    assert_eq!(
        pool.done(message("alice", "bob", "hi", Some("o1")), "alice"),
        first,
        "a day later, among the newest 256"
    );
    for other in 0..256 {
        let id = format!("other {other}");
        pool.done(message("alice", "carol", "hi", Some(&id)), "alice");
    }
    assert!(
        pool.done(message("alice", "bob", "hi", Some("o1")), "alice") > first,
        "a day later, and no longer among them"
    );
}

#[test]
fn a_message_to_oneself_is_one_row_to_be_delivered() {
    let mut pool = Pool::with_users(&["alice"]);
    pool.done(message("alice", "alice", "note", None), "alice");
    pool.settle(false);
    assert_eq!(pool.archived("alice"), ["from alice@localhost: note"]);
}

#[test]
fn what_cannot_arrive_is_refused_or_bounces() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    assert_eq!(
        pool.refused(message("alice", "x@elsewhere.example", "hi", None), "alice"),
        "RemoteServerNotFound"
    );
    assert_eq!(
        pool.refused(message("nobody", "bob", "hi", None), "nobody"),
        "NotAuthorized"
    );
    pool.done(message("alice", "nobody", "hi", None), "alice");
    pool.shown();
    pool.settle(true);
    let shown = pool.shown();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(
        shown[0].starts_with("alice: bounce to alice@localhost/phone: "),
        "{shown:?}"
    );
    assert!(shown[0].contains("service-unavailable"), "{shown:?}");
    pool.done(block("bob", &["alice@localhost"]), "bob");
    pool.done(message("alice", "bob", "hi", None), "alice");
    pool.shown();
    pool.settle(true);
    assert_eq!(pool.shown(), shown, "a block looks like no account");
    assert_eq!(pool.archived("bob"), Vec::<String>::new());
}

#[test]
fn a_bounce_names_the_stanza_and_its_addresses() {
    let mut pool = Pool::with_users(&["alice"]);
    pool.done(message("alice", "nobody", "m1", None), "alice");
    let partition = pool.partition_of("alice");
    let (_, entry) = pool.partitions[partition]
        .state
        .outbox
        .iter()
        .next()
        .unwrap();
    let messaging::outbox::OnAnswer::Bounce { sender, stanza } = &entry.on_answer else {
        panic!("a message bounces");
    };
    assert_eq!(sender, &session("alice"));
    assert_eq!(
        (stanza.id.as_deref(), stanza.payload.len()),
        (Some("m1"), 0)
    );
    assert_eq!(
        stanza.to.as_ref().map(Jid::as_str),
        Some("nobody@localhost")
    );
}

#[test]
fn blocking_stops_both_ways_and_is_pushed() {
    let mut pool = friends();
    pool.done(
        block("bob", &["alice@localhost", "eve@evil.example"]),
        "bob",
    );
    assert_eq!(
        pool.shown(),
        [
            "bob: <block xmlns='urn:xmpp:blocking'><item jid='alice@localhost'/><item jid='eve@evil.example'/></block> \
          hides from 2, shows to 0"
        ]
    );
    let list = payload(pool.state("bob"), &Query::Blocklist { user: user("bob") });
    assert_eq!(
        list,
        "<blocklist xmlns='urn:xmpp:blocking'><item jid='alice@localhost'/><item jid='eve@evil.example'/></blocklist>"
    );
    match pool.ask(message("bob", "alice", "hi", None), "bob") {
        Answer::Refused(error) => {
            assert_eq!(
                format!("{:?} {:?}", error.kind, error.condition),
                "Cancel NotAcceptable"
            );
            let app = error.app.expect("an application condition");
            assert_eq!(
                (&*app.name, &*app.ns),
                ("blocked", "urn:xmpp:blocking:errors")
            );
        }
        other => panic!("not refused: {other:?}"),
    }
    // Requests from the blocked are dropped; that a subscription ended is noted, without a word to the contact.
    pool.done(presence("unsubscribe", "alice", "bob"), "alice");
    pool.done(presence("subscribe", "alice", "bob"), "alice");
    pool.shown();
    pool.settle(false);
    assert_eq!(pool.shown(), ["bob: roster alice@localhost to"]);
    assert_eq!(pool.refused(block("bob", &[]), "bob"), "BadRequest");
    pool.done(
        Command::Unblock {
            user: user("bob"),
            items: vec![],
        },
        "bob",
    );
    assert_eq!(
        pool.shown(),
        ["bob: <unblock xmlns='urn:xmpp:blocking'/> hides from 0, shows to 2"]
    );
    pool.done(message("alice", "bob", "hi", None), "alice");
    pool.settle(false);
    assert_eq!(pool.archived("bob"), ["from alice@localhost/phone: hi"]);
}
