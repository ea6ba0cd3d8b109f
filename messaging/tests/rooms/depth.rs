//! How deep a room's log is kept, and what a node gets that has missed more than that.

use expect_test::expect;
use messaging::room::command::RoomAction;
use messaging::room::depth::{DEPARTURES_KEPT, EVENTS_KEPT};
use messaging::room::render::{Bridge, departed};
use messaging::room::state::RoomRecord;
use xmpp::stanza::{Stanza, StanzaKind};

use crate::stage::{ROOM, Stage, bare, full};

fn record(stage: &Stage) -> RoomRecord {
    stage.state.rooms.get(&bare(ROOM)).unwrap().clone()
}

fn head(stage: &Stage) -> u64 {
    record(stage).head
}

/// alice's presence changes so many times: events that no archive keeps.
fn changes(stage: &mut Stage, count: usize) {
    for _ in 0..count {
        let presence = Stanza::new(StanzaKind::Presence);
        let nick = "alice".to_owned();
        stage.apply(&full("alice/pc"), RoomAction::Presence { nick, presence });
    }
}

/// What bridges the way of node 2 from its cursor to the floor, with nothing above the floor.
fn bridge(stage: &Stage, cursor: u64) -> Bridge {
    let room = bare(ROOM);
    let record = record(stage);
    let occupants = stage.state.room_views.peek(&stage.state.occupants, &room);
    let departed = departed(&stage.state, &room, &record.depth, cursor);
    stage
        .renderer
        .bridge((&room, &record), &occupants, &departed, cursor, (2, 1))
}

/// 1,000 to 1,099 events stay, and every archived message.
#[test]
fn events_are_kept_a_thousand_deep_and_messages_for_good() {
    let mut stage = Stage::with_room(&[]);
    for round in 0..40 {
        stage.say("alice/pc", &round.to_string());
        changes(&mut stage, 77);
        let events = stage.archive.values().filter(|row| !row.is_message());
        let (kept, floor) = (events.count(), record(&stage).depth.floor);
        assert!(kept < EVENTS_KEPT + 100, "{kept}");
        assert!(floor == 0 || kept >= EVENTS_KEPT, "{kept}");
    }
    let messages = stage.archive.values().filter(|row| row.is_message());
    assert_eq!(messages.count(), 40);
    assert!(record(&stage).depth.floor > 0);
}

#[test]
fn a_node_that_missed_more_gets_the_difference() {
    let mut stage = Stage::with_room(&[("roomconfig_persistentroom", "1")]);
    for who in ["bob/pc", "dave/pc"] {
        stage.homes.insert(who.into(), (2, 1));
    }
    stage.join("bob/pc", "bob");
    stage.join("carol/pc", "carol");
    stage.join("erin/pc", "erin");
    let cursor = head(&stage);
    stage.leave("carol/pc");
    stage.join("frank/pc", "frank");
    stage.join("dave/pc", "dave");
    stage.send(
        "erin/pc",
        &format!("<presence xmlns='jabber:client' to='{ROOM}/e'/>"),
    );
    stage.leave("frank/pc");
    stage.join("frank/pc", "frank");
    stage.configure("alice/pc", &[("roomconfig_whois", "anyone")]);
    // All of that goes from the log.
    changes(&mut stage, EVENTS_KEPT + 200);
    let record = record(&stage);
    assert!(record.depth.floor > cursor && record.depth.can_be_bridged_from(cursor));

    let bridge = bridge(&stage, cursor);
    assert_eq!(bridge.stayed, [full("bob/pc")]);
    let mut out = String::new();
    stage.show_renderings(&bridge.renderings, &mut out);
    expect![[r#"
        bob/pc < presence unavailable carol none/none
        bob/pc < presence unavailable erin none/none
        bob/pc < presence unavailable frank none/none
        bob/pc < presence alice owner/moderator jid=alice/pc
        bob/pc < presence bob none/participant jid=bob/pc 110
        bob/pc < presence dave none/participant jid=dave/pc
        bob/pc < presence e none/participant jid=erin/pc
        bob/pc < presence frank none/participant jid=frank/pc
        bob/pc < message den 170 172 104
    "#]]
    .assert_eq(&out);
    // dave's join has never been answered: it is answered as of the floor.
    let joins: Vec<_> = bridge
        .joins
        .iter()
        .map(|row| row.newcomer().cloned())
        .collect();
    assert_eq!(joins, [Some(full("dave/pc"))]);
    assert!(
        bridge
            .joins
            .iter()
            .all(|row| row.seq == record.depth.floor + 1)
    );
}

/// Where nothing but presences went, nobody is told of departures or configurations.
#[test]
fn nothing_is_told_that_did_not_happen() {
    let mut stage = Stage::with_room(&[]);
    stage.homes.insert("bob/pc".into(), (2, 1));
    stage.join("bob/pc", "bob");
    stage.join("carol/pc", "carol");
    stage.leave("carol/pc");
    let cursor = head(&stage);
    changes(&mut stage, EVENTS_KEPT + 200);
    let mut out = String::new();
    stage.show_renderings(&bridge(&stage, cursor).renderings, &mut out);
    expect![[r#"
        bob/pc < presence alice owner/moderator
        bob/pc < presence bob none/participant jid=bob/pc 110
    "#]]
    .assert_eq(&out);
}

#[test]
fn what_no_archive_has_can_not_be_bridged() {
    let mut stage = Stage::with_room(&[("roomconfig_enablelogging", "0")]);
    let before = head(&stage);
    stage.say("alice/pc", "off the record");
    let after = head(&stage);
    changes(&mut stage, EVENTS_KEPT + 200);
    let depth = record(&stage).depth;
    assert!(!depth.can_be_bridged_from(before));
    assert!(depth.can_be_bridged_from(depth.messages_floor));
    assert!(after <= depth.messages_floor);
}

/// The newest departures are remembered; who has missed one that is forgotten begins anew.
#[test]
fn departures_are_bounded_and_go_with_the_room() {
    let mut stage = Stage::with_room(&[]);
    let start = head(&stage);
    for _ in 0..DEPARTURES_KEPT + 10 {
        stage.join("bob/pc", "bob");
        stage.leave("bob/pc");
    }
    let depth = record(&stage).depth;
    assert_eq!(stage.state.departures.len(), DEPARTURES_KEPT as usize);
    assert_eq!(depth.departures, DEPARTURES_KEPT);
    assert!(!depth.can_be_bridged_from(start));
    assert!(depth.can_be_bridged_from(depth.departures_floor));
    let room = bare(ROOM);
    let oldest = stage.state.departures.rows_of(&room).next();
    assert!(oldest.is_some_and(|(seq, _)| *seq > depth.departures_floor));
    stage.leave("alice/pc");
    assert!(stage.state.departures.is_empty());
}

/// The bridge leaves out who is on another node, or was in an earlier life of this one.
#[test]
fn only_the_node_s_own_occupants_are_told() {
    let mut stage = Stage::with_room(&[]);
    stage.homes.insert("bob/pc".into(), (2, 7));
    stage.join("bob/pc", "bob");
    let cursor = head(&stage);
    changes(&mut stage, EVENTS_KEPT + 200);
    assert_eq!(bridge(&stage, cursor), Bridge::default());
}
