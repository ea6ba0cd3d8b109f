//! Sessions that go on at another node.

use expect_test::{Expect, expect};

use super::conversations::Stage;
use super::*;

fn request(node: u64, number: u64) -> MoveRequest {
    MoveRequest {
        key: key(node, number, "phone"),
        incarnation: 5,
        token: ResumptionToken("token".to_owned()),
    }
}

fn check(actions: Vec<PublicationAction>, expect: Expect) {
    expect.assert_eq(&show(&actions));
}

impl Stage {
    fn ask(&mut self, node: u64, number: u64) -> Vec<PublicationAction> {
        self.user.ask_move(request(node, number), number, true)
    }

    fn yields(&mut self, from: (u64, u64), to: (u64, u64)) -> Vec<PublicationAction> {
        let event = SessionEvent::Yields {
            key: key(from.0, from.1, "phone"),
            to: key(to.0, to.1, "phone"),
        };
        self.user.event(event, &self.contacts)
    }

    /// Available on node 1, with a row that is not acknowledged.
    fn with_phone() -> Stage {
        let mut stage = Stage::new();
        let phone = key(1, 1, "phone");
        stage.bind(&phone);
        let flags = SessionFlags {
            carbons: true,
            ..SessionFlags::default()
        };
        stage.flags(&phone, flags);
        stage.presence(&phone, "", "");
        stage.log("juliet@capulet.lit/balcony", USER);
        stage
    }
}

/// What nodes of other builds are told, too.
#[test]
fn a_token_says_whether_a_client_asked() {
    assert_eq!(ResumptionToken::asked("id-_").read(), ("id-_", true));
    let unasked = ResumptionToken::unasked("id-_");
    assert_eq!(
        (unasked.0.as_str(), unasked.read()),
        ("id-_~", ("id-_", false))
    );
}

#[test]
fn a_session_moves_and_nobody_notices() {
    let mut stage = Stage::with_phone();
    check(
        stage.ask(2, 7),
        expect![[r#"
            yield phone#1 to 2#7
        "#]],
    );
    // Until the old node has said all, what comes goes there.
    check(
        stage.log("juliet@capulet.lit/balcony", USER),
        expect![[r#"
            phone <- message chat from juliet/balcony id (row 12)
            position [1] 11..12
        "#]],
    );
    check(
        stage.yields((1, 1), (2, 7)),
        expect![[r#"
            release phone#1 to 2#7
            position [2] 0..12
            moved phone#7 presence carbons unacknowledged [11, 12] newest 12
            note +phone
        "#]],
    );
    check(
        stage.log("juliet@capulet.lit/balcony", USER),
        expect![[r#"
            phone <- message chat from juliet/balcony id (row 13)
            position [2] 12..13
        "#]],
    );
    // The new node acknowledges what the old one had sent.
    check(
        stage.acknowledge(&key(2, 7, "phone"), 12),
        expect![[r#"
            cursor 12
        "#]],
    );
    // Whatever the old node still says of it is of no session.
    check(stage.acknowledge(&key(1, 1, "phone"), 13), expect![[""]]);
    check(stage.down(&key(1, 1, "phone")), expect![[""]]);
}

#[test]
fn words_that_are_lost_are_said_again() {
    let mut stage = Stage::with_phone();
    stage.ask(2, 7);
    // The new node attached anew, and asks again.
    check(
        stage.ask(2, 7),
        expect![[r#"
            yield phone#1 to 2#7
        "#]],
    );
    stage.yields((1, 1), (2, 7));
    check(
        stage.ask(2, 7),
        expect![[r#"
            position [2] 0..11
            moved phone#7 presence carbons unacknowledged [11] newest 11
        "#]],
    );
    check(
        stage.yields((1, 1), (2, 7)),
        expect![[r#"
            release phone#1 to 2#7
        "#]],
    );
}

#[test]
fn who_asks_for_what_is_not_there_is_refused() {
    let mut stage = Stage::new();
    check(
        stage.ask(2, 7),
        expect![[r#"
            refuse 2#7
        "#]],
    );
    // A node that has it may not have attached yet.
    check(
        stage.user.ask_move(request(2, 7), 7, false),
        expect![[r#"
            refuse 2#7 for now
        "#]],
    );
    let mut stage = Stage::with_phone();
    // Its own node has looked for it before it asked.
    check(
        stage.ask(1, 7),
        expect![[r#"
            refuse 1#7
        "#]],
    );
    stage.ask(2, 7);
    let stays = SessionEvent::Stays {
        key: key(1, 1, "phone"),
        to: key(2, 7, "phone"),
    };
    check(
        stage.user.event(stays, &stage.contacts),
        expect![[r#"
            refuse 2#7
        "#]],
    );
    stage.ask(2, 8);
    // The session ends, whoever wants it.
    check(
        stage.down(&key(1, 1, "phone")),
        expect![[r#"
            refuse 2#8
            broadcast juliet presence unavailable from romeo/phone
            note -phone
        "#]],
    );
}

#[test]
fn of_two_who_want_it_the_later_one_gets_it_from_the_earlier_one() {
    let mut stage = Stage::with_phone();
    stage.ask(2, 7);
    check(stage.ask(3, 8), expect![[""]]);
    // A third takes the place of the second.
    check(
        stage.ask(4, 9),
        expect![[r#"
            refuse 3#8
        "#]],
    );
    check(
        stage.yields((1, 1), (2, 7)),
        expect![[r#"
            release phone#1 to 2#7
            position [2] 0..11
            moved phone#7 presence carbons unacknowledged [11] newest 11
            note +phone
            yield phone#7 to 4#9
        "#]],
    );
    check(
        stage.yields((2, 7), (4, 9)),
        expect![[r#"
            release phone#7 to 4#9
            position [4] 0..11
            moved phone#9 presence carbons unacknowledged [11] newest 11
            note +phone
        "#]],
    );
}

#[test]
fn who_gives_up_is_not_given_it() {
    let mut stage = Stage::with_phone();
    stage.ask(2, 7);
    stage.ask(3, 8);
    check(
        stage.down(&key(2, 7, "phone")),
        expect![[r#"
            refuse 2#7
            yield phone#1 to 3#8
        "#]],
    );
    // The old node had said it to the first already.
    check(
        stage.yields((1, 1), (2, 7)),
        expect![[r#"
            stay phone#1 of 2#7
            yield phone#1 to 3#8
        "#]],
    );
    stage.ask(2, 9);
    check(
        stage.user.node_gone(3, &stage.contacts),
        expect![[r#"
            yield phone#1 to 2#9
        "#]],
    );
    stage.user.node_gone(2, &stage.contacts);
    check(
        stage.yields((1, 1), (3, 8)),
        expect![[r#"
            stay phone#1 of 3#8
        "#]],
    );
}

#[test]
fn what_was_lost_with_the_word_that_it_has_moved_is_not_settled() {
    // What the node has of rows 11 and 12; row 11 may have been sent after row 12, as one that another session left behind.
    for (unacknowledged, newest_row, has_all) in [
        (vec![11, 12], 12, true),
        (vec![11], 11, false),
        (vec![11], 12, false),
        (vec![], 0, false),
    ] {
        let mut stage = Stage::with_phone();
        stage.log("juliet@capulet.lit/balcony", USER);
        stage.ask(2, 7);
        stage.yields((1, 1), (2, 7));
        let state = SessionState {
            key: key(1, 1, "phone"),
            flags: SessionFlags::default(),
            presence: None,
            directed: Vec::new(),
            unacknowledged,
            newest_row,
            untold: false,
        };
        let attached = stage.user.attach(1, vec![state], 11, &stage.contacts);
        let ends = |key: SessionKey| attached.contains(&PublicationAction::Kick(key));
        let ended = (ends(key(1, 1, "phone")), ends(key(2, 7, "phone")));
        assert_eq!(ended, (!has_all, !has_all), "{attached:?}");
        assert_eq!(show(&attached).contains("release phone#1 to 2#7"), has_all);
        assert_eq!(stage.user.sessions().count(), usize::from(has_all));
        // The new node has not got more than the old one had.
        let acknowledged = stage.acknowledge(&key(2, 7, "phone"), 12);
        let settled = acknowledged.contains(&PublicationAction::AdvanceCursor(12));
        assert_eq!(settled, has_all, "{acknowledged:?}");
    }
}

#[test]
fn a_new_owner_asks_again_and_tells_an_old_node_that_it_has_moved() {
    let mut stage = Stage::with_phone();
    stage.ask(2, 7);
    stage.yields((1, 1), (2, 7));
    let state = SessionState {
        key: key(1, 1, "phone"),
        flags: SessionFlags::default(),
        presence: None,
        directed: Vec::new(),
        unacknowledged: vec![11],
        newest_row: 11,
        untold: false,
    };
    check(
        stage
            .user
            .attach(1, vec![state.clone()], 11, &stage.contacts),
        expect![[r#"
            release phone#1 to 2#7
            position [1] 11..11
        "#]],
    );
    // An owner that only the log has told of the session: who asks too early waits for its node.
    let mut stage = Stage::new();
    stage
        .user
        .expected(vec![(full(&format!("{USER}/phone")), 1, 1)]);
    check(stage.ask(2, 7), expect![[""]]);
    stage.contacts.head = 11;
    let attached = stage.user.attach(1, vec![state], 10, &stage.contacts);
    assert!(
        show(&attached).contains("yield phone#1 to 2#7"),
        "{attached:?}"
    );
    let mut stage = Stage::new();
    stage
        .user
        .expected(vec![(full(&format!("{USER}/phone")), 1, 1)]);
    stage.ask(2, 7);
    let gone = stage.user.node_gone(1, &stage.contacts);
    assert!(show(&gone).contains("refuse 2#7"), "{gone:?}");
}
