//! What is done in which order, for the situations of RFC 6121 and of a cluster.

use expect_test::{Expect, expect};

use super::*;
use crate::effect::UserEffect;

/// A user whose log has ten rows that are delivered, watched by Juliet, watching the nurse.
pub(super) struct Stage {
    pub(super) user: Publication,
    pub(super) contacts: Contactbook,
    pub(super) archive: BTreeMap<u64, Row>,
}

impl Stage {
    pub(super) fn new() -> Stage {
        let settings = PublicationSettings {
            resources_max: 3,
            ..PublicationSettings::default()
        };
        let contacts = Contactbook {
            watchers: vec!["juliet@capulet.lit"],
            watched: vec!["nurse@capulet.lit"],
            delivered: 10,
            head: 10,
            ..Contactbook::default()
        };
        Stage {
            user: Publication::new(bare(USER), 10, settings),
            contacts,
            archive: BTreeMap::new(),
        }
    }

    pub(super) fn bind(&mut self, key: &SessionKey) -> Vec<PublicationAction> {
        self.user.bind(key.clone(), &self.contacts).unwrap()
    }

    pub(super) fn presence(
        &mut self,
        key: &SessionKey,
        type_: &str,
        payload: &'static str,
    ) -> Vec<PublicationAction> {
        let stanza = presence(type_, payload);
        let key = key.clone();
        let actions = self
            .user
            .event(SessionEvent::Presence { key, stanza }, &self.contacts);
        self.commit(actions)
    }

    /// What is proposed about sessions is committed at once, with what follows.
    pub(super) fn commit(&mut self, mut actions: Vec<PublicationAction>) -> Vec<PublicationAction> {
        for session in noted(&actions) {
            let effect = UserEffect::Noted(session);
            actions.extend(self.user.once(effect, &self.contacts));
        }
        actions
    }

    pub(super) fn down(&mut self, key: &SessionKey) -> Vec<PublicationAction> {
        let stanza = presence("unavailable", "");
        let key = key.clone();
        self.user
            .event(SessionEvent::Down { key, stanza }, &self.contacts)
    }

    pub(super) fn acknowledge(&mut self, key: &SessionKey, seq: u64) -> Vec<PublicationAction> {
        let key = key.clone();
        self.user
            .event(SessionEvent::Acknowledged { key, seq }, &self.contacts)
    }

    pub(super) fn flags(&mut self, key: &SessionKey, flags: SessionFlags) {
        let key = key.clone();
        assert_eq!(
            self.user
                .event(SessionEvent::Flags { key, flags }, &self.contacts),
            []
        );
    }

    pub(super) fn log(&mut self, from: &str, to: &str) -> Vec<PublicationAction> {
        let previous = self.user.position();
        let row = row(previous + 1, from, to);
        self.archive.insert(row.seq, Arc::clone(&row));
        self.user.logged(previous, &row, &[], &ids())
    }

    /// A row for one session that others get, too.
    pub(super) fn log_also(
        &mut self,
        from: &str,
        to: &str,
        also: &[&str],
    ) -> Vec<PublicationAction> {
        let previous = self.user.position();
        let row = row(previous + 1, from, to);
        self.archive.insert(row.seq, Arc::clone(&row));
        let also: Vec<FullJid> = also
            .iter()
            .map(|jid| FullJid::parse(jid).unwrap())
            .collect();
        self.user.logged(previous, &row, &also, &ids())
    }

    /// Answers every read among the actions.
    pub(super) fn read(&mut self, actions: &[PublicationAction]) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        for action in actions {
            if let PublicationAction::ReadRows {
                session,
                after,
                upto,
            } = action
            {
                let rows: Vec<Row> = self
                    .archive
                    .range(after + 1..=*upto)
                    .map(|(_, row)| Arc::clone(row))
                    .collect();
                out.extend(
                    self.user
                        .offline_rows(session, *after, *upto, &rows, &ids()),
                );
            }
        }
        out
    }

    /// A session with this priority, its first words ignored.
    pub(super) fn available(
        &mut self,
        node: u64,
        resource: &str,
        payload: &'static str,
    ) -> SessionKey {
        let key = key(node, node, resource);
        self.bind(&key);
        self.presence(&key, "", payload);
        key
    }
}

pub(super) fn check(actions: &[PublicationAction], expect: Expect) {
    expect.assert_eq(&show(actions));
}

pub(super) const JULIET: &str = "juliet@capulet.lit/balcony";

#[test]
fn a_rooms_private_message_is_for_all_sessions_under_the_nickname() {
    let mut stage = Stage::new();
    let (_home, work) = (
        stage.available(1, "home", ""),
        stage.available(2, "work", ""),
    );
    let jid = |resource: &str| format!("{USER}/{resource}");
    let also = [jid("home"), jid("elsewhere")];
    let also: Vec<&str> = also.iter().map(String::as_str).collect();
    check(
        &stage.log_also("den@rooms.example/bob", &jid("work"), &also),
        expect![[r#"
            work <- message chat from den/bob id (row 11)
            home <- message chat from den/bob id (row 11)
            position [1, 2] 10..11
        "#]],
    );
    // The one that it is for has gone: who is there gets it once.
    stage.down(&work);
    check(
        &stage.log_also("den@rooms.example/bob", &jid("work"), &also),
        expect![[r#"
            home <- message chat from den/bob id (row 12)
            position [1] 11..12
        "#]],
    );
}

#[test]
fn a_session_logs_in_and_out() {
    let mut stage = Stage::new();
    stage.contacts.requests = vec![message("tybalt@capulet.lit", USER, "subscribe", "")];
    let (home, work) = (key(1, 1, "home"), key(2, 2, "work"));
    check(
        &stage.bind(&home),
        expect![[r#"
        position [1] 0..10
    "#]],
    );
    check(
        &stage.presence(&home, "", ""),
        expect![[r#"
            note +home
            home <- presence from romeo/home
            probe nurse
            home <- message subscribe from tybalt
            broadcast juliet presence from romeo/home
        "#]],
    );
    stage.contacts.requests.clear();
    stage.bind(&work);
    check(
        &stage.presence(&work, "", "<priority>-1</priority>"),
        expect![[r#"
            note +work
            work <- presence from romeo/work
            work <- presence from romeo/home
            probe nurse
            broadcast juliet presence from romeo/work
            home <- presence from romeo/work
        "#]],
    );
    check(
        &stage.presence(&work, "", "<show>away</show>"),
        expect![[r#"
        broadcast juliet presence from romeo/work
        home,work <- presence from romeo/work
    "#]],
    );
    check(
        &stage.presence(&home, "unavailable", ""),
        expect![[r#"
        home <- presence unavailable from romeo/home
        broadcast juliet presence unavailable from romeo/home
        work <- presence unavailable from romeo/home
        note -home
    "#]],
    );
    check(&stage.down(&home), expect![""]);
    check(
        &stage.down(&work),
        expect![[r#"
        broadcast juliet presence unavailable from romeo/work
        note -work
    "#]],
    );
    assert!(stage.user.is_idle(&stage.contacts));
}

#[test]
fn directed_presence_is_taken_back() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    let direct = |stage: &mut Stage, to: &str, type_: &str| {
        let stanza = Stanza {
            to: Some(jid(to)),
            ..presence(type_, "")
        };
        let key = home.clone();
        stage
            .user
            .event(SessionEvent::Directed { key, stanza }, &stage.contacts)
    };
    check(
        &direct(&mut stage, "mercutio@montague.lit", ""),
        expect![[r#"
        route mercutio@montague.lit presence from romeo/home
    "#]],
    );
    direct(&mut stage, "paris@verona.lit/x", "");
    direct(&mut stage, JULIET, "");
    direct(&mut stage, USER, "");
    check(
        &direct(&mut stage, "paris@verona.lit/x", "unavailable"),
        expect![[r#"
        route paris@verona.lit/x presence unavailable from romeo/home
    "#]],
    );
    // A stranger who was shown the presence may ask for it.
    check(
        &stage
            .user
            .probe(&bare("mercutio@montague.lit"), &stage.contacts),
        expect![[r#"
        route mercutio@montague.lit presence from romeo/home
    "#]],
    );
    stage.contacts.blocked = vec!["paris@verona.lit"];
    check(
        &direct(&mut stage, "paris@verona.lit/x", ""),
        expect![[r#"
        home <- presence error from paris/x not-acceptable
    "#]],
    );
    check(
        &stage.down(&home),
        expect![[r#"
        broadcast juliet presence unavailable from romeo/home
        route mercutio@montague.lit presence unavailable from romeo/home
        note -home
    "#]],
    );
}

#[test]
fn a_resource_bound_again_ends_the_older_stream() {
    let mut stage = Stage::new();
    let old = stage.available(1, "home", "");
    stage.log(JULIET, USER);
    let new = key(2, 7, "home");
    check(
        &stage.bind(&new),
        expect![[r#"
        kick home#1
        broadcast juliet presence unavailable from romeo/home
        note -home
        position [2] 0..11
    "#]],
    );
    check(
        &stage.bind(&new),
        expect![[r#"
        position [2] 11..11
    "#]],
    );
    check(&stage.down(&old), expect![""]);
    let actions = stage.presence(&new, "", "");
    check(
        &stage.read(&actions),
        expect![[r#"
        home <- message chat from juliet/balcony delayed id (row 11)
    "#]],
    );
    stage.available(3, "a", "");
    stage.available(3, "b", "");
    let refused = stage
        .user
        .bind(key(3, 9, "c"), &stage.contacts)
        .unwrap_err();
    assert_eq!(
        refused.condition,
        xmpp::stanza_error::Condition::ResourceConstraint
    );
}

#[test]
fn messages_find_their_sessions() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    let work = stage.available(2, "work", "");
    let bot = stage.available(2, "bot", "<priority>-1</priority>");
    check(
        &stage.log(JULIET, USER),
        expect![[r#"
        home,work <- message chat from juliet/balcony id (row 11)
        position [1, 2] 10..11
    "#]],
    );
    for session in [&work, &bot] {
        stage.flags(
            session,
            SessionFlags {
                carbons: true,
                ..SessionFlags::default()
            },
        );
    }
    check(
        &stage.log(JULIET, "romeo@montague.lit/home"),
        expect![[r#"
        home <- message chat from juliet/balcony id (row 12)
        work <- message chat from romeo copy-in id (row 12)
        bot <- message chat from romeo copy-in id
        position [1, 2] 11..12
    "#]],
    );
    check(
        &stage.log("romeo@montague.lit/home", JULIET),
        expect![[r#"
        work,bot <- message chat from romeo copy-out id
        position [1, 2] 12..13
    "#]],
    );
    check(
        &stage.log("romeo@montague.lit/work", JULIET),
        expect![[r#"
        bot <- message chat from romeo copy-out id
        position [1, 2] 13..14
    "#]],
    );
    check(
        &stage.acknowledge(&work, 11),
        expect![[r#"
        cursor 11
    "#]],
    );
    check(
        &stage.acknowledge(&home, 12),
        expect![[r#"
        cursor 14
    "#]],
    );
    check(
        &stage.log(JULIET, "romeo@montague.lit/gone"),
        expect![[r#"
        home,work <- message chat from juliet/balcony id (row 15)
        bot <- message chat from romeo copy-in id
        position [1, 2] 14..15
    "#]],
    );
}

#[test]
fn a_vanished_sessions_rows_go_to_another_or_wait() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    let work = stage.available(2, "work", "");
    stage.log(JULIET, "romeo@montague.lit/home");
    stage.log(JULIET, USER);
    let actions = stage.user.node_gone(1, &stage.contacts);
    check(
        &actions,
        expect![[r#"
        broadcast juliet presence unavailable from romeo/home
        work <- presence unavailable from romeo/home
        note -home
        read work 10..12
    "#]],
    );
    // What comes meanwhile does not overtake.
    check(
        &stage.log(JULIET, USER),
        expect![[r#"
        position [2] 12..13
    "#]],
    );
    check(
        &stage.read(&actions),
        expect![[r#"
        work <- message chat from juliet/balcony delayed id (row 11)
        work <- message chat from juliet/balcony id (row 13)
    "#]],
    );
    assert!(stage.user.find(&home).is_none());
    // In the order of sending: 12, 11, 13.
    check(&stage.acknowledge(&work, 12), expect![""]);
    check(
        &stage.down(&work),
        expect![[r#"
        broadcast juliet presence unavailable from romeo/work
        note -work
    "#]],
    );
    assert!(
        stage.user.is_idle(&stage.contacts),
        "the cursor has not moved"
    );
    let work = key(2, 9, "work");
    stage.bind(&work);
    let actions = stage.presence(&work, "", "<priority>-5</priority>");
    check(&stage.read(&actions), expect![""]);
    let actions = stage.presence(&work, "", "");
    check(
        &stage.read(&actions),
        expect![[r#"
        work <- message chat from juliet/balcony delayed id (row 11)
        work <- message chat from juliet/balcony delayed id (row 13)
    "#]],
    );
    check(
        &stage.acknowledge(&work, 13),
        expect![[r#"
        cursor 13
    "#]],
    );
    assert!(!stage.user.is_idle(&stage.contacts));
}

/// Its node stands before the place where it was bound: it has seen rows pass for a session of a life before.
#[test]
fn a_session_misses_nothing_of_what_came_before_it_was_bound() {
    let mut stage = Stage::new();
    let home = stage.available(1, "home", "");
    stage.log(JULIET, USER);
    stage.log(JULIET, USER);
    let work = key(2, 2, "work");
    check(
        &stage.bind(&work),
        expect![[r#"
        position [2] 0..12
    "#]],
    );
    let shown = presence("", "");
    stage.presence(&work, "", "");
    let actions = stage.down(&home);
    check(
        &stage.read(&actions),
        expect![[r#"
        work <- message chat from juliet/balcony delayed id (row 11)
        work <- message chat from juliet/balcony delayed id (row 12)
    "#]],
    );
    stage.acknowledge(&work, 12);
    stage.log(JULIET, USER);
    let state = SessionState {
        key: work.clone(),
        flags: SessionFlags::default(),
        presence: Some(Stanza {
            from: Some(Jid::from(&work.jid)),
            ..shown
        }),
        directed: vec![],
        unacknowledged: vec![],
        newest_row: 12,
        untold: false,
    };
    let actions = stage.user.attach(2, vec![state], 10, &stage.contacts);
    check(
        &stage.read(&actions),
        expect![[r#"
        work <- message chat from juliet/balcony id (row 13)
    "#]],
    );
}

#[test]
fn large_rows_that_waited_come_as_fast_as_they_are_acknowledged() {
    let mut stage = Stage::new();
    Arc::make_mut(&mut stage.user.settings).read_bytes_max = 30;
    for _ in 0..5 {
        stage.log(JULIET, USER);
    }
    let home = key(1, 1, "home");
    stage.bind(&home);
    let told = stage.presence(&home, "", "");
    let read = stage.read(&told);
    check(
        &read,
        expect![[r#"
            home <- message chat from juliet/balcony delayed id (row 11)
            home <- message chat from juliet/balcony delayed id (row 12)
        "#]],
    );
    check(&stage.acknowledge(&home, 11), expect![["cursor 11\n"]]);
    let told = stage.acknowledge(&home, 12);
    check(
        &told,
        expect![[r#"
            read home 12..15
            cursor 12
        "#]],
    );
    check(
        &stage.read(&told),
        expect![[r#"
            home <- message chat from juliet/balcony delayed id (row 13)
            home <- message chat from juliet/balcony delayed id (row 14)
        "#]],
    );
}

#[test]
fn who_reads_the_archive_first_gets_no_offline_rows() {
    let mut stage = Stage::new();
    stage.contacts.delivered = 7;
    let home = key(1, 1, "home");
    stage.bind(&home);
    stage.flags(
        &home,
        SessionFlags {
            archive_first: true,
            ..SessionFlags::default()
        },
    );
    stage.log(JULIET, USER);
    let actions = stage.presence(&home, "", "");
    check(
        &actions[actions.len() - 3..],
        expect![[r#"
            read home 10..11
            cursor 10
            broadcast juliet presence from romeo/home
        "#]],
    );
    check(
        &stage.read(&actions),
        expect![[r#"
        home <- message chat from juliet/balcony delayed id (row 11)
    "#]],
    );
}

#[test]
fn a_node_attaches_to_a_new_owner() {
    let mut stage = Stage::new();
    stage.contacts.delivered = 8;
    for seq in 9..=10 {
        stage.archive.insert(seq, row(seq, JULIET, USER));
    }
    let (home, work) = (key(1, 1, "home"), key(2, 2, "work"));
    stage
        .user
        .expected(vec![(home.jid.clone(), 1, 5), (work.jid.clone(), 2, 6)]);
    check(
        &stage
            .user
            .probe(&bare("juliet@capulet.lit"), &stage.contacts),
        expect![""],
    );
    let state = SessionState {
        key: home.clone(),
        flags: SessionFlags::default(),
        presence: Some(Stanza {
            from: Some(Jid::from(&home.jid)),
            ..presence("", "")
        }),
        directed: vec![],
        unacknowledged: vec![],
        newest_row: 9,
        untold: false,
    };
    // Row 9 was acknowledged, row 10 never left the old owner.
    let actions = stage
        .user
        .attach(1, vec![state.clone()], 9, &stage.contacts);
    check(
        &actions,
        expect![[r#"
        read home 9..10
        position [1] 9..10
    "#]],
    );
    check(
        &stage.read(&actions),
        expect![[r#"
        home <- message chat from juliet/balcony id (row 10)
    "#]],
    );
    let actions = stage.user.node_gone(2, &stage.contacts);
    check(
        &actions,
        expect![[r#"
        broadcast juliet presence unavailable from romeo/work
        home <- presence unavailable from romeo/work
        note -work
        broadcast juliet presence from romeo/home
        read home 8..10
    "#]],
    );
    check(
        &stage.read(&actions),
        expect![[r#"
        cursor 9
    "#]],
    );
    check(
        &stage.acknowledge(&home, 10),
        expect![[r#"
        cursor 10
    "#]],
    );
    let again = SessionState {
        newest_row: 10,
        ..state
    };
    check(
        &stage.user.attach(1, vec![again], 10, &stage.contacts),
        expect![[r#"
        position [1] 10..10
    "#]],
    );
    check(
        &stage.user.attach(1, vec![], 10, &stage.contacts),
        expect![[r#"
        broadcast juliet presence unavailable from romeo/home
        note -home
        position [1] 10..10
    "#]],
    );
}

/// Its node was cut off for a while: contacts saw it go, and what they said meanwhile did not reach it.
#[test]
fn a_session_that_was_given_up_learns_what_it_missed() {
    let mut stage = Stage::new();
    stage.contacts.watched = vec!["juliet@capulet.lit"];
    let home = stage.available(1, "home", "");
    stage.available(2, "work", "");
    stage.user.node_gone(1, &stage.contacts);
    let state = SessionState {
        presence: Some(Stanza {
            from: Some(Jid::from(&home.jid)),
            ..presence("", "")
        }),
        key: home,
        flags: SessionFlags::default(),
        directed: vec![],
        unacknowledged: vec![],
        newest_row: 0,
        untold: false,
    };
    let attached = stage.user.attach(1, vec![state], 0, &stage.contacts);
    check(
        &stage.commit(attached),
        expect![[r#"
            note +home
            home <- presence from romeo/home
            home <- presence from romeo/work
            probe juliet
            position [1] 10..10
            broadcast juliet presence from romeo/home
            work <- presence from romeo/home
        "#]],
    );
}

/// It was shown by an owner that died before the log knew of it, and ended before it could be attached.
#[test]
fn contacts_hear_of_the_end_of_a_session_that_no_owner_knows() {
    let mut stage = Stage::new();
    let gone = key(1, 7, "home");
    check(
        &stage.down(&gone),
        expect![[r#"
            broadcast juliet presence unavailable from romeo/home
        "#]],
    );
    // Another stream has the address, or may have it.
    let home = stage.available(1, "home", "");
    check(&stage.down(&gone), expect![""]);
    stage.down(&home);
    stage.user.expected(vec![(home.jid.clone(), 1, 5)]);
    check(&stage.down(&gone), expect![""]);
    stage.contacts.removed = true;
    stage.user.node_gone(1, &stage.contacts);
    check(&stage.down(&gone), expect![""]);
}

/// The owner took a presence and died: whom it told of it nobody knows. What is older than that contacts know.
#[test]
fn presence_that_an_owner_took_and_may_not_have_told_is_told_by_the_next() {
    let attached = |available: bool, untold: bool, noted: bool| {
        let mut stage = Stage::new();
        let home = key(1, 1, "home");
        if noted {
            stage.user.expected(vec![(home.jid.clone(), 1, 5)]);
        }
        let from = Some(Jid::from(&home.jid));
        let shown = Stanza {
            from,
            ..presence("", "")
        };
        let state = SessionState {
            key: home,
            flags: SessionFlags::default(),
            presence: available.then_some(shown),
            directed: vec![],
            unacknowledged: vec![],
            newest_row: 10,
            untold,
        };
        stage.user.attach(1, vec![state], 10, &stage.contacts)
    };
    check(
        &attached(true, false, true),
        expect![[r#"
            position [1] 10..10
        "#]],
    );
    check(
        &attached(true, true, true),
        expect![[r#"
            broadcast juliet presence from romeo/home
            home <- presence from romeo/home
            probe nurse
            position [1] 10..10
        "#]],
    );
    // It went offline, and the log does not know yet.
    for untold in [false, true] {
        check(
            &attached(false, untold, true),
            expect![[r#"
                broadcast juliet presence unavailable from romeo/home
                note -home
                position [1] 10..10
            "#]],
        );
    }
    check(
        &attached(false, true, false),
        expect![[r#"
            broadcast juliet presence unavailable from romeo/home
            position [1] 10..10
        "#]],
    );
    check(
        &attached(false, false, false),
        expect![[r#"
            position [1] 10..10
        "#]],
    );
}

pub(super) const TYPING: &str = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";
