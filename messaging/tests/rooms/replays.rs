//! A node that lost its owner gets exactly what its occupants would have got.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use expect_test::expect;
use messaging::archive::ArchiveRow;
use messaging::command::Answer;
use messaging::effect::Effect;
use messaging::room::command::{HistoryRequest, RoomAction};
use messaging::room::effect::{RoomEffect, Welcome};
use messaging::room::render::{ReplayStep, before, replay};
use messaging::room::state::RoomRecord;
use messaging::room::views::OccupantView;

use crate::stage::{ROOM, Stage, bare};

/// The same replay with so many rows a page, each from who was in at its end.
fn in_pages(
    rows: &[Arc<ArchiveRow>],
    now: &OccupantView,
    page: usize,
    node: u64,
) -> Vec<ReplayStep> {
    let mut occupants = Arc::clone(now);
    let mut pages = Vec::new();
    for rows in rows.rchunks(page.max(1)) {
        let was = before(rows, &occupants);
        pages.push(replay(rows, &occupants, node, 1));
        occupants = was;
    }
    pages.into_iter().rev().flatten().collect()
}

fn assert_same(found: &[ReplayStep], expected: &[ReplayStep]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.row.seq, expected.row.seq);
        assert_eq!(found.occupants, expected.occupants, "at {}", found.row.seq);
        assert_eq!(found.welcome, expected.welcome);
    }
}

/// What node 2 gets by a replay of everything after `cursor`.
fn replayed(stage: &mut Stage, cursor: u64) -> String {
    replayed_for(stage, cursor, 2)
}

fn replayed_for(stage: &mut Stage, cursor: u64, node: u64) -> String {
    let rows: Vec<_> = stage
        .archive
        .range(cursor + 1..)
        .map(|(_, row)| row.clone())
        .collect();
    let room = bare(ROOM);
    let record: RoomRecord = stage.state.rooms.get(&room).unwrap().clone();
    let now = stage.state.room_views.of(&stage.state.occupants, &room);
    let mut out = String::new();
    let steps = replay(&rows, &now, node, 1);
    for pages in [1, 2, 3, rows.len()] {
        assert_same(&in_pages(&rows, &now, pages, node), &steps);
    }
    for step in steps {
        let renderings =
            stage
                .renderer
                .event(&step.row, &step.occupants, record.config.non_anonymous);
        stage.show_renderings(&step.for_node(renderings), &mut out);
        if step.welcome.is_some() {
            let welcome = Welcome {
                room: record.clone(),
                history: HistoryRequest::default(),
            };
            stage.show_welcome(&step.row, &welcome, &step.occupants, &mut out);
        }
    }
    out
}

#[test]
fn each_occupant_gets_what_came_after_its_join_and_before_its_leaving() {
    let mut stage = Stage::with_room(&[]);
    for who in ["bob/pc", "carol/pc", "dave/pc"] {
        stage.homes.insert(who.into(), (2, 1));
    }
    stage.join("bob/pc", "bob");
    stage.join("dave/pc", "dave");
    let cursor = stage.state.rooms.get(&bare(ROOM)).unwrap().head;
    stage.say("alice/pc", "one");
    stage.leave("dave/pc");
    stage.say("alice/pc", "two");
    stage.join("carol/pc", "carol");
    stage.say("alice/pc", "three");
    let found = replayed(&mut stage, cursor);
    expect![[r#"
        bob/pc < message alice body="one" sid
        dave/pc < message alice body="one" sid
        dave/pc < presence unavailable dave none/none jid=dave/pc 110
        bob/pc < presence unavailable dave none/none
        bob/pc < message alice body="two" sid
        bob/pc < presence carol none/participant
        carol/pc < presence alice owner/moderator
        carol/pc < presence bob none/participant
        carol/pc < presence carol none/participant jid=carol/pc 110 170
        carol/pc < message alice body="one" sid delayed
        carol/pc < message alice body="two" sid delayed
        carol/pc < message den subject=""
        bob/pc < message alice body="three" sid
        carol/pc < message alice body="three" sid
    "#]]
    .assert_eq(&found);
}

/// The replay of a long conversation is what the live fan-out gave to the node, line by line.
#[test]
fn a_replay_is_what_was_sent_live() {
    let mut stage = Stage::with_room(&[]);
    stage.homes.insert("bob/pc".into(), (2, 1));
    stage.homes.insert("carol/pc".into(), (2, 1));
    stage.join("bob/pc", "bob");
    let cursor = stage.state.rooms.get(&bare(ROOM)).unwrap().head;
    let ours: BTreeSet<&str> = ["bob/pc", "carol/pc"].into();
    let mut live = String::new();
    let mut note = |lines: String| {
        for line in lines
            .lines()
            .filter(|line| ours.iter().any(|who| line.starts_with(who)))
        {
            writeln!(live, "{line}").unwrap();
        }
    };
    note(stage.say("alice/pc", "one"));
    note(stage.join("carol/pc", "carol"));
    note(stage.say("bob/pc", "two"));
    note(stage.join("alice/phone", "alice"));
    note(stage.leave("alice/phone"));
    note(stage.send(
        "carol/pc",
        &format!("<presence xmlns='jabber:client' to='{ROOM}/cc'/>"),
    ));
    note(stage.admin("alice/pc", "<item nick='cc' role='none'/>"));
    note(stage.say("alice/pc", "three"));
    assert_eq!(replayed(&mut stage, cursor), live);
}

/// A session that goes on at another node: what comes before its move is for the one, what comes after it for the other,
/// and nobody is shown the move.
#[test]
fn a_session_that_has_moved_gets_each_row_at_one_node() {
    let mut stage = Stage::with_room(&[]);
    stage.homes.insert("bob/pc".into(), (2, 1));
    stage.join("bob/pc", "bob");
    let cursor = stage.state.rooms.get(&bare(ROOM)).unwrap().head;
    stage.say("alice/pc", "one");
    let (room, bob) = (bare(ROOM), crate::stage::full("bob/pc"));
    let stay = |stage: &Stage| {
        let occupant = stage.state.occupants.get(&(room.clone(), bob.clone()));
        let occupant = occupant.unwrap();
        (occupant.node, occupant.incarnation, occupant.session)
    };
    let from = stay(&stage);
    let to = (3, 1, 99);
    // Another stream's stay does not move.
    let action = RoomAction::Move { from: to, to };
    let (answer, effects) = stage.apply(&bob, action);
    assert_eq!((answer, effects.len()), (Answer::Done { seq: 0 }, 0));
    let (answer, effects) = stage.apply(&bob, RoomAction::Move { from, to });
    let mut shown = String::new();
    stage.show(&effects, &mut shown);
    assert_eq!(shown, "");
    let Answer::Done { seq: moved } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(stay(&stage), to);
    stage.say("alice/pc", "two");
    expect![[r#"
        bob/pc < message alice body="one" sid
    "#]]
    .assert_eq(&replayed(&mut stage, cursor));
    let expected = expect![[r#"
        bob/pc < message alice body="two" sid
    "#]];
    expected.assert_eq(&replayed_for(&mut stage, cursor, 3));
    expected.assert_eq(&replayed_for(&mut stage, moved - 1, 3));
    // A goodbye for the stream that it was ends nothing.
    let presence = xmpp::stanza::Stanza::new(xmpp::stanza::StanzaKind::Presence);
    let of = Some(from);
    let leave = RoomAction::Leave { presence, of };
    assert_eq!(stage.apply(&bob, leave).0, Answer::Done { seq: 0 });
    assert_eq!(stay(&stage), to);
}

#[test]
fn previous_and_this_are_without_holes() {
    let mut stage = Stage::with_room(&[]);
    let mut last = stage.state.rooms.get(&bare(ROOM)).unwrap().head;
    for body in ["one", "two", "three"] {
        let stanza = xmpp::stanza::Stanza::new(xmpp::stanza::StanzaKind::Message);
        let action = RoomAction::Message {
            stanza: xmpp::stanza::Stanza {
                payload: format!("<body>{body}</body>").into(),
                ..stanza
            },
            origin_id: None,
            changes_subject: false,
        };
        let (_, effects) = stage.apply(&crate::stage::full("alice/pc"), action);
        let Some(Effect::Room(_, RoomEffect::Event { previous, row, .. })) = effects.get(1) else {
            panic!()
        };
        assert!(matches!(effects.first(), Some(Effect::Archive(_))));
        assert_eq!((*previous, row.seq), (last, last + 1));
        last = row.seq;
    }
}
