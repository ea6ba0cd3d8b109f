//! Accounts: what is kept for one, who may see it, and what goes with it.

use messaging::command::{Answer, Command, Proposal};
use messaging::link_record::LinkOrigin;
use messaging::query::{Query, Reply, answer};
use messaging::room::command::{AdminItem, FormFields, HistoryRequest, RoomAction, RoomCommand};
use messaging::room::state::Affiliation;
use xmpp::stanza::{Stanza, StanzaKind};

use super::pool::{Pool, block, credentials, friends, jid, message, payload, session, user};

#[test]
fn accounts_are_made_once() {
    let mut pool = Pool::with_users(&["alice"]);
    let again = Command::CreateAccount {
        user: user("alice"),
        credentials: credentials(),
    };
    assert_eq!(pool.refused(again, "alice"), "Conflict");
    let nobody = Command::SetCredentials {
        user: user("nobody"),
        credentials: credentials(),
    };
    assert_eq!(pool.refused(nobody, "nobody"), "ItemNotFound");
}

#[test]
fn a_removed_account_leaves_nothing_behind() {
    let mut pool = friends();
    pool.done(message("alice", "bob", "hi", Some("o")), "alice");
    pool.done(block("alice", &["eve@localhost"]), "alice");
    pool.done(
        Command::SetPrivate {
            user: user("alice"),
            name: "{a:b}c".into(),
            element: "<c xmlns='a:b'/>".into(),
        },
        "alice",
    );
    pool.done(
        Command::SetVcard {
            user: user("alice"),
            element: "<vCard xmlns='vcard-temp'/>".into(),
        },
        "alice",
    );
    let head = pool.state("alice").logs.get(&user("alice")).unwrap().head;
    pool.shown();
    pool.done(
        Command::RemoveAccount {
            user: user("alice"),
        },
        "alice",
    );
    pool.settle(true);
    assert_eq!(
        pool.shown(),
        [
            "alice: unavailable to bob@localhost",
            "alice: account removed",
            "bob: logged from alice@localhost/phone: hi",
            "bob: unsubscribe from alice@localhost",
            "bob: roster alice@localhost to",
            "bob: unavailable to alice@localhost",
            "bob: unsubscribed from alice@localhost",
            "bob: roster alice@localhost none",
        ]
    );
    let state = pool.state("alice");
    assert_eq!(
        [
            state.accounts.len(),
            state.logs.len(),
            state.roster.len(),
            state.blocks.len(),
            state.sent_ids.len()
        ],
        [0; 5]
    );
    assert!(state.private.is_empty() && state.vcards.is_empty());
    assert_eq!(pool.archived("alice"), Vec::<String>::new());
    assert_eq!(
        pool.refused(
            Command::RemoveAccount {
                user: user("alice")
            },
            "alice"
        ),
        "ItemNotFound"
    );
    let create = Command::CreateAccount {
        user: user("alice"),
        credentials: credentials(),
    };
    pool.done(create, "alice");
    assert!(
        pool.state("alice").logs.get(&user("alice")).unwrap().head > head,
        "no sequence is used twice"
    );
}

/// A name in another partition than the room, and who acts there.
pub(crate) fn in_room(room: &str, by: &str, account: u64, action: RoomAction) -> Command {
    Command::Room(RoomCommand {
        room: jid_of(room),
        by: session(by),
        account,
        action,
    })
}

fn jid_of(room: &str) -> xmpp::jid::BareJid {
    xmpp::jid::BareJid::parse(&format!("{room}@conference.localhost")).unwrap()
}

pub(crate) fn join(nick: &str) -> RoomAction {
    RoomAction::Join {
        nick: nick.into(),
        presence: Stanza::new(StanzaKind::Presence),
        password: None,
        history: HistoryRequest::default(),
        node: 1,
        incarnation: 1,
        session: 1,
    }
}

pub(crate) fn make_affiliated(affiliation: Affiliation, name: &str) -> RoomAction {
    RoomAction::Admin {
        items: vec![AdminItem {
            nick: None,
            jid: Some(jid(&format!("{name}@localhost"))),
            role: None,
            affiliation: Some(affiliation),
            reason: None,
        }],
    }
}

pub(crate) fn configure(fields: &[(&str, &str)]) -> RoomAction {
    let fields = fields
        .iter()
        .map(|(var, value)| ((*var).to_owned(), vec![(*value).to_owned()]));
    RoomAction::Configure {
        fields: FormFields(fields.collect()),
    }
}

/// Whoever registers the name of a removed account finds nothing of it in any room: it owns none, is on no list and in none.
#[test]
fn a_removed_account_leaves_no_place_in_rooms() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    let generation = |pool: &Pool| {
        let accounts = &pool.state("alice").accounts;
        accounts
            .get(&user("alice"))
            .map(|account| account.generation)
    };
    let first = generation(&pool).unwrap();
    let persistent = [("muc#roomconfig_persistentroom", "1")];
    // Alone; among others and persistent; with an heir; listed by somebody else; not opened yet.
    for room in ["alone", "hall", "heirs"] {
        pool.done_in(room, in_room(room, "alice", first, join("A")));
        pool.done_in(
            room,
            in_room(
                room,
                "alice",
                first,
                configure(if room == "alone" { &[] } else { &persistent }),
            ),
        );
    }
    pool.done_in("hall", in_room("hall", "bob", 1, join("B")));
    let heir = make_affiliated(Affiliation::Admin, "bob");
    pool.done_in("heirs", in_room("heirs", "alice", first, heir));
    pool.done_in("bobs", in_room("bobs", "bob", 1, join("B")));
    pool.done_in(
        "bobs",
        in_room(
            "bobs",
            "bob",
            1,
            configure(&[("muc#roomconfig_membersonly", "1")]),
        ),
    );
    pool.done_in(
        "bobs",
        in_room(
            "bobs",
            "bob",
            1,
            make_affiliated(Affiliation::Admin, "alice"),
        ),
    );
    pool.done_in("new", in_room("new", "alice", first, join("A")));

    let (remove, create) = (
        Command::RemoveAccount {
            user: user("alice"),
        },
        || Command::CreateAccount {
            user: user("alice"),
            credentials: credentials(),
        },
    );
    pool.settle(false);
    pool.done(remove, "alice");
    assert_eq!(
        pool.refused(create(), "alice"),
        "ResourceConstraint",
        "the name is given while rooms remember its last bearer"
    );
    pool.settle(true);
    for partition in &pool.partitions {
        let state = &partition.state;
        let listed = |person: &str| {
            let listed = state.affiliations.iter();
            listed.filter(|((_, jid), _)| *jid == user(person)).count()
        };
        assert_eq!(listed("alice"), 0);
        assert!(
            !state
                .occupants
                .iter()
                .any(|((_, jid), _)| jid.bare() == user("alice"))
        );
        assert!(!state.rooms.contains(&jid_of("alone")) && !state.rooms.contains(&jid_of("new")));
    }
    let listed = |pool: &Pool, room: &str, person: &str| {
        let state = pool.room_state(room);
        assert!(state.rooms.contains(&jid_of(room)), "{room}");
        let listed = state.affiliations.get(&(jid_of(room), user(person)));
        listed.map(|listed| listed.affiliation)
    };
    assert_eq!(listed(&pool, "hall", "bob"), None, "bob was nothing there");
    assert_eq!(listed(&pool, "heirs", "bob"), Some(Affiliation::Owner));
    assert_eq!(listed(&pool, "bobs", "bob"), Some(Affiliation::Owner));

    // A session of the account that is gone still has something on its way; its goodbye is heard.
    let late = in_room("late", "alice", first, join("A"));
    assert_eq!(pool.refused_in("late", late), "NotAuthorized");
    let presence = Stanza::new(StanzaKind::Presence);
    let goodbye = RoomAction::Leave { presence, of: None };
    pool.done_in("late", in_room("late", "alice", first, goodbye));

    pool.done(create(), "alice");
    let second = generation(&pool).unwrap();
    assert!(second > first);
    let late = in_room("late", "alice", first, join("A"));
    assert_eq!(
        pool.refused_in("late", late),
        "NotAuthorized",
        "the old one's session"
    );
    let stranger = in_room("bobs", "alice", second, join("A"));
    assert_eq!(pool.refused_in("bobs", stranger), "RegistrationRequired");
    pool.done_in("hall", in_room("hall", "alice", second, join("A")));
    let inside = pool
        .room_state("hall")
        .occupants
        .get(&(jid_of("hall"), session("alice")));
    assert_eq!(inside.unwrap().affiliation, Affiliation::None);
}

#[test]
fn private_elements_and_vcards_come_back() {
    let mut pool = Pool::with_users(&["alice"]);
    let element =
        "<storage xmlns='storage:bookmarks'><conference jid='den@conference.localhost'/></storage>";
    let name = "{storage:bookmarks}storage";
    let set = |name: &str, element: &str| Command::SetPrivate {
        user: user("alice"),
        name: name.into(),
        element: bytes::Bytes::copy_from_slice(element.as_bytes()),
    };
    let get = |pool: &Pool| {
        let empty = "<storage xmlns='storage:bookmarks'/>".into();
        payload(
            pool.state("alice"),
            &Query::Private {
                user: user("alice"),
                name: name.into(),
                empty,
            },
        )
    };
    assert_eq!(
        get(&pool),
        "<query xmlns='jabber:iq:private'><storage xmlns='storage:bookmarks'/></query>"
    );
    pool.done(set(name, element), "alice");
    assert_eq!(
        get(&pool),
        format!("<query xmlns='jabber:iq:private'>{element}</query>")
    );
    assert_eq!(
        pool.refused(set("{jabber:client}x", "<x/>"), "alice"),
        "NotAcceptable"
    );
    assert_eq!(pool.refused(set("x", "<x/>"), "alice"), "NotAcceptable");
    assert_eq!(
        pool.refused(set("{a}b", &" ".repeat(1024 * 1024)), "alice"),
        "ResourceConstraint"
    );
    let vcard = |pool: &Pool| {
        payload(
            pool.state("alice"),
            &Query::Vcard {
                user: user("alice"),
                asker: jid("bob@localhost/phone"),
            },
        )
    };
    assert_eq!(vcard(&pool), "ItemNotFound");
    pool.done(
        Command::SetVcard {
            user: user("alice"),
            element: "<vCard xmlns='vcard-temp'/>".into(),
        },
        "alice",
    );
    assert_eq!(vcard(&pool), "<vCard xmlns='vcard-temp'/>");
    let large = Command::SetVcard {
        user: user("alice"),
        element: vec![b' '; 200_000].into(),
    };
    assert_eq!(pool.refused(large, "alice"), "NotAcceptable");
    pool.done(block("alice", &["bob@localhost"]), "alice");
    assert_eq!(vcard(&pool), "ServiceUnavailable");
}

/// XEP-0191 §3.2.
#[test]
fn who_is_blocked_gets_nothing_that_the_server_would_answer() {
    let mut pool = Pool::with_users(&["alice"]);
    pool.done(block("alice", &["bob@localhost", "evil.example"]), "alice");
    let check = |jid_: &str, expect: &str| {
        let query = Query::Blocks {
            user: user("alice"),
            jid: jid(jid_),
        };
        assert_eq!(payload(pool.state("alice"), &query), expect, "{jid_}");
    };
    check("bob@localhost", "NotAcceptable");
    check("eve@evil.example", "NotAcceptable");
    check("carol@localhost", "");
    check("alice@localhost", "");
}

#[test]
fn only_subscribers_see_that_an_account_is_there() {
    let mut pool = friends();
    let check = |pool: &Pool, name: &str, asker: &str, expect: &str| {
        let query = Query::AccountInfo {
            user: user(name),
            asker: jid(asker),
        };
        assert_eq!(
            payload(pool.state(name), &query),
            expect,
            "{asker} asks about {name}"
        );
    };
    check(&pool, "alice", "alice@localhost/phone", "");
    check(&pool, "alice", "bob@localhost/phone", "");
    check(&pool, "alice", "carol@localhost", "ServiceUnavailable");
    check(&pool, "nobody", "carol@localhost", "ServiceUnavailable");
    pool.done(block("alice", &["bob@localhost"]), "alice");
    check(&pool, "alice", "bob@localhost/phone", "ServiceUnavailable");
}

#[test]
fn an_archive_is_read_by_its_user_only() {
    let pool = Pool::with_users(&["alice", "bob"]);
    let ask = |key: &str, asker: &str| {
        let query = Query::ArchiveMetadata {
            key: user(key),
            asker: session(asker),
        };
        match answer(pool.state(key), &query) {
            Reply::ArchiveAllowed { real_jids } => format!("allowed {real_jids}"),
            Reply::Refused(error) => format!("{:?}", error.condition),
            other => panic!("unexpected: {other:?}"),
        }
    };
    assert_eq!(ask("alice", "alice"), "allowed false");
    assert_eq!(ask("alice", "bob"), "Forbidden");
    assert_eq!(ask("nobody", "bob"), "Forbidden");
    assert_eq!(ask("den@conference.localhost", "bob"), "ItemNotFound");
}

#[test]
fn accounts_are_listed_in_pages() {
    let names = ["alice", "bob", "carol", "dave", "erin"];
    let pool = Pool::with_users(&names);
    let mut listed = Vec::new();
    for partition in &pool.partitions {
        let mut after = None;
        loop {
            let Reply::Jids(page) = answer(&partition.state, &Query::Accounts { after, limit: 1 })
            else {
                panic!("not a list");
            };
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            listed.extend(page);
        }
    }
    listed.sort();
    assert_eq!(listed, names.map(user));
}

#[test]
fn a_cursor_moves_forward_within_the_log() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    let first = pool.done(message("alice", "alice", "1", None), "alice");
    let second = pool.done(message("alice", "alice", "2", None), "alice");
    let mut advance = |delivered| {
        pool.done(
            Command::AdvanceCursor {
                user: user("alice"),
                delivered,
            },
            "alice",
        );
        pool.state("alice")
            .logs
            .get(&user("alice"))
            .unwrap()
            .delivered
    };
    assert_eq!(advance(first), first);
    assert_eq!(advance(first - 1), first);
    assert_eq!(advance(u64::MAX), second);
}

#[test]
fn sessions_are_noted_for_the_next_owner() {
    let mut pool = Pool::with_users(&["alice"]);
    let note = |up: &[&str], down: &[&str]| Command::NoteSessions {
        up: up.iter().map(|name| (session(name), 1, 2)).collect(),
        down: down.iter().map(|name| session(name)).collect(),
    };
    pool.done(note(&["alice", "nobody"], &[]), "alice");
    assert_eq!(pool.state("alice").online.len(), 1);
    pool.done(note(&[], &["alice"]), "alice");
    assert!(pool.state("alice").online.is_empty());
}

#[test]
fn a_resend_after_a_change_of_owner_gets_the_true_answer() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    let seq = pool.done(message("alice", "bob", "hi", None), "alice");
    let partition = pool.partition_of("alice");
    let sequence = 2;
    pool.begin_owner(partition);
    let resend = Proposal {
        origin: LinkOrigin::Node(1),
        incarnation: 1,
        sequence,
        command: message("alice", "bob", "hi", None),
    };
    pool.shown();
    assert_eq!(pool.propose(partition, resend), Some(Answer::Done { seq }));
    assert_eq!(pool.shown(), Vec::<String>::new());
    pool.settle(true);
    assert_eq!(pool.archived("bob").len(), 1);
}

#[test]
fn debug_output_shows_nothing_that_users_wrote() {
    let pool = Pool::with_users(&["alice"]);
    let secret = "<c xmlns='a:b'>s3cret</c>";
    let private = Command::SetPrivate {
        user: user("alice"),
        name: "{a:b}c".into(),
        element: secret.into(),
    };
    let shown = [
        format!("{private:?}"),
        format!(
            "{:?}",
            Command::SetVcard {
                user: user("alice"),
                element: secret.into()
            }
        ),
        format!("{:?}", message("alice", "bob", "s3cret", None)),
        format!("{:?}", Reply::Payload(secret.into())),
        format!("{:?}", Answer::Reply(secret.into())),
    ];
    for text in &shown[..2] {
        assert!(text.contains("alice@localhost"), "{text}");
    }
    // The id of a message is the sender's own word for it; the body is not shown.
    assert!(!shown[2].contains("<body>"), "{}", shown[2]);
    assert!(
        [0, 1, 3, 4]
            .iter()
            .all(|&at: &usize| !shown[at].contains("s3cret")),
        "{shown:?}"
    );
    assert!(!format!("{:?}", pool.surroundings[0]).contains("id_key"));
}
