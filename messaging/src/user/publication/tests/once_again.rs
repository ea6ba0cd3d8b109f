//! What an owner may have taken with it: told to a node that attaches, and to nobody else.

use expect_test::expect;

use super::conversations::*;
use super::*;
use crate::effect::UserEffect;
use crate::user::roster::RosterItem;

const NURSE: &str = "nurse@capulet.lit";
const WATCHER: &str = "juliet@capulet.lit";

fn bounce(resource: &str) -> UserEffect {
    let to = format!("{USER}/{resource}");
    UserEffect::Bounce {
        session: full(&to),
        stanza: message(JULIET, &to, "error", ""),
    }
}

fn push(version: u64) -> UserEffect {
    UserEffect::RosterPush {
        contact: bare(NURSE),
        item: None,
        version,
    }
}

fn subscription(type_: &str) -> UserEffect {
    UserEffect::Subscription(Stanza {
        from: Some(jid(NURSE)),
        to: Some(jid(USER)),
        ..presence(type_, "")
    })
}

impl Stage {
    fn again(&mut self, node: Option<u64>, effects: Vec<UserEffect>) -> Vec<PublicationAction> {
        self.user.once_again(node, effects, &self.contacts)
    }
}

fn stage() -> Stage {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    let work = stage.available(2, "work", "");
    let flags = SessionFlags {
        roster: true,
        ..SessionFlags::default()
    };
    stage.flags(&home, flags);
    stage.flags(&work, flags);
    stage
}

#[test]
fn only_the_node_that_attached_is_told_again() {
    let mut stage = stage();
    let effects = vec![bounce("home"), push(7), push(8)];
    check(
        &stage.again(Some(1), effects.clone()),
        expect![[r#"
            home <- message error from juliet/balcony
            home <- iq set
            home <- iq set
        "#]],
    );
    check(
        &stage.again(Some(2), effects.clone()),
        expect![[r#"
            work <- iq set
            work <- iq set
        "#]],
    );
    check(&stage.again(Some(3), effects), expect![""]);
}

#[test]
fn what_no_longer_holds_is_not_told() {
    let mut stage = stage();
    let shown = || UserEffect::PresenceTo(bare(WATCHER));
    let hidden = || UserEffect::UnavailableTo(bare(WATCHER));
    let effects = || {
        vec![
            hidden(),
            shown(),
            subscription("subscribe"),
            subscription("subscribed"),
        ]
    };
    check(
        &stage.again(Some(1), effects()),
        expect![[r#"
            broadcast juliet presence from romeo/home
            home <- presence subscribed from nurse
        "#]],
    );
    stage.contacts.watchers.clear();
    stage.contacts.requests = vec![Stanza {
        from: Some(jid(NURSE)),
        ..presence("subscribe", "")
    }];
    check(
        &stage.again(Some(1), effects()),
        expect![[r#"
            broadcast juliet presence unavailable from romeo/home
            home <- presence subscribe from nurse
            home <- presence subscribed from nurse
        "#]],
    );
}

/// A handover between two changes of one item: the client must not be left with the former.
#[test]
fn a_push_that_a_later_one_has_overtaken_is_not_told() {
    let mut stage = stage();
    stage.contacts.versions = vec![(NURSE, 8)];
    let changed = |version| UserEffect::RosterPush {
        contact: bare(NURSE),
        item: Some(RosterItem {
            listed: true,
            version,
            ..RosterItem::default()
        }),
        version,
    };
    let told = stage.again(Some(1), vec![push(6), changed(7), changed(8)]);
    let versions: Vec<String> = told
        .iter()
        .filter_map(|action| match action {
            PublicationAction::Deliver { stanza, .. } => {
                let payload = String::from_utf8_lossy(&stanza.payload).into_owned();
                payload.split("ver='").nth(1).map(str::to_owned)
            }
            _ => None,
        })
        .collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
    assert!(versions[0].starts_with("8'"), "{versions:?}");
}

/// Blocked, unblocked and shown again within seconds: the block of then must not hide the user now.
#[test]
fn a_block_that_was_taken_back_hides_nobody_again() {
    let mut stage = stage();
    let block = || UserEffect::BlocklistPush {
        payload: Bytes::from_static(b"<block xmlns='urn:xmpp:blocking'/>"),
        blocked: vec![jid(WATCHER)],
        unblocked: Vec::new(),
    };
    let hides = |told: &[PublicationAction]| {
        told.iter()
            .any(|action| matches!(action, PublicationAction::Broadcast { .. }))
    };
    assert!(!hides(&stage.again(Some(1), vec![block()])));
    stage.contacts.blocked = vec![WATCHER];
    assert!(hides(&stage.again(Some(1), vec![block()])));
}

#[test]
fn sessions_of_a_removed_account_end_wherever_their_node_attaches() {
    let mut stage = stage();
    check(
        &stage.again(Some(1), vec![UserEffect::AccountRemoved]),
        expect![""],
    );
    stage.contacts.removed = true;
    check(
        &stage.again(Some(1), vec![UserEffect::AccountRemoved]),
        expect![[r#"
            expel home#1
        "#]],
    );
    let mut stage = Stage::new();
    stage.contacts.removed = true;
    let state = |number, resource| SessionState {
        key: key(1, number, resource),
        flags: SessionFlags::default(),
        presence: Some(presence("", "")),
        directed: Vec::new(),
        unacknowledged: Vec::new(),
        newest_row: 0,
        untold: false,
    };
    let states = vec![state(1, "home"), state(2, "work")];
    let attached = stage.user.attach(1, states, 10, &stage.contacts);
    check(
        &attached,
        expect![[r#"
            expel home#1
            expel work#2
        "#]],
    );
    assert_eq!(stage.user.sessions().count(), 0);
}

/// The contact is hidden, the owner dies, and so does the node of the session: nobody would ever say that it is gone.
#[test]
fn who_may_no_longer_look_sees_sessions_leave_that_nobody_brings_back() {
    let mut stage = Stage::new();
    stage.contacts.watchers.clear();
    stage
        .user
        .expected(vec![(full("romeo@montague.lit/home"), 1, 5)]);
    let hidden = || vec![UserEffect::UnavailableTo(bare(WATCHER))];
    check(
        &stage.again(None, hidden()),
        expect![[r#"
            broadcast juliet presence unavailable from romeo/home
        "#]],
    );
    check(&stage.again(Some(1), hidden()), expect![""]);
}

/// Its node was given up by this owner, which it met again by another way: what the client had got and acknowledged meanwhile, the
/// node could tell nobody.
#[test]
fn rows_that_a_given_up_session_had_do_not_come_again() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    for _ in 0..3 {
        stage.log(JULIET, USER);
    }
    stage.user.node_gone(1, &stage.contacts);
    let state = SessionState {
        presence: Some(Stanza {
            from: Some(Jid::from(&home.jid)),
            ..presence("", "")
        }),
        key: home.clone(),
        flags: SessionFlags::default(),
        directed: vec![],
        // The first is acknowledged, the second was read, the third was lost on its way.
        unacknowledged: vec![12],
        newest_row: 12,
        untold: false,
    };
    let attached = stage.user.attach(1, vec![state], 12, &stage.contacts);
    let attached = stage.commit(attached);
    check(
        &stage.read(&attached),
        expect![[r#"
        home <- message chat from juliet/balcony id (row 13)
    "#]],
    );
    check(
        &stage.acknowledge(&home, 12),
        expect![[r#"
        cursor 12
    "#]],
    );
    check(
        &stage.acknowledge(&home, 13),
        expect![[r#"
        cursor 13
    "#]],
    );
}
