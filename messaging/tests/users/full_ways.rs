//! Ways of the outbox that hold all that they may, because the partition at their other end answers nothing.

use bytes::Bytes;
use messaging::apply::apply;
use messaging::command::{Answer, Batch, Command, Entry, Proposal, ReceiveMessage};
use messaging::link_record::LinkOrigin;
use messaging::outbox::{OnAnswer, OutboxEntry, WAY_BYTES_MAX, WAY_ENTRIES_MAX};
use messaging::room::command::{Invitee, RoomAction};
use messaging::room::state::Affiliation;
use messaging::state::State;
use xmpp::jid::Jid;
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::stanza_error::{Condition, StanzaErrorType};

use super::accounts::{configure, in_room, join, make_affiliated};
use super::pool::{Json, Pool, message, partition_id, presence, rows, session, set_contact, user};

const LINKS: u8 = 1;

/// What waits for whom: a command that changes nothing.
fn entry(target: &str, command: Command) -> OutboxEntry {
    OutboxEntry {
        target: user(target),
        command,
        on_answer: OnAnswer::Nothing,
    }
}

/// Puts so many entries on the way from one partition to another.
fn fill(pool: &mut Pool, from: usize, to: usize, entries: usize) {
    let state = &mut pool.partitions[from].state;
    for _ in 0..entries {
        state.push_outbox(partition_id(to), entry("nobody", Command::Nothing));
    }
}

/// Everything but the record of the node's proposals, which holds the refusal.
fn rows_but_links(state: &State) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    let mut rows = rows(state);
    rows.retain(|(table, _, _)| *table != LINKS);
    rows
}

#[track_caller]
fn check_told_to_wait(answer: &Answer) {
    let Answer::Refused(error) = answer else {
        panic!("not refused: {answer:?}");
    };
    assert_eq!(error.condition, Condition::ResourceConstraint);
    assert_eq!(error.kind, StanzaErrorType::Wait);
}

/// A command that is refused, and leaves no trace.
#[track_caller]
fn check_refused(pool: &mut Pool, command: Command, name: &str) {
    let partition = pool.partition_of(name);
    pool.shown();
    let (before, filed) = (
        rows_but_links(&pool.partitions[partition].state),
        pool.archive.len(),
    );
    check_told_to_wait(&pool.ask(command, name));
    assert_eq!(rows_but_links(&pool.partitions[partition].state), before);
    assert_eq!(pool.archive.len(), filed);
    assert_eq!(pool.shown(), Vec::<String>::new());
}

/// P20 of the properties: while a partition had no owner, what waited for it grew without end on every node.
#[test]
fn a_way_to_a_partition_without_answers_takes_no_more_than_it_may() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    let (alices, bobs) = (pool.partition_of("alice"), pool.partition_of("bob"));
    fill(&mut pool, alices, bobs, WAY_ENTRIES_MAX - 1);
    // One more has room.
    pool.done(message("alice", "bob", "first", Some("o1")), "alice");
    check_refused(
        &mut pool,
        message("alice", "bob", "second", Some("o2")),
        "alice",
    );
    check_refused(&mut pool, presence("subscribe", "alice", "bob"), "alice");
    // What was committed stays committed: a retry gets the first answer, and no entry of its own.
    let first = pool.archive[0].seq;
    let retry = message("alice", "bob", "first", Some("o1"));
    assert_eq!(pool.done(retry, "alice"), first);
    // What opens no entry there is done.
    pool.done(message("alice", "alice", "note", None), "alice");
    pool.done(message("bob", "alice", "hi", None), "bob");
    set_contact(&mut pool, "alice", "bob");

    assert!(pool.settle_one(false), "the way's oldest entry");
    // The refused one is sent again, and is now the first of its kind.
    pool.done(message("alice", "bob", "second", Some("o2")), "alice");
    check_refused(&mut pool, message("alice", "bob", "third", None), "alice");
}

#[test]
fn the_sender_of_a_stanza_that_found_no_room_is_told_to_wait() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    let (alices, bobs) = (pool.partition_of("alice"), pool.partition_of("bob"));
    fill(&mut pool, alices, bobs, WAY_ENTRIES_MAX);
    let Answer::Refused(error) = pool.ask(message("alice", "bob", "m1", None), "alice") else {
        panic!("not refused");
    };
    let stanza = Stanza {
        from: Some(session("alice").into()),
        to: Some(user("bob").into()),
        id: Some("m1".into()),
        ..Stanza::new(StanzaKind::Message)
    };
    let reply = error.reply_to(&stanza).unwrap();
    assert_eq!(reply.type_.as_deref(), Some("error"));
    assert_eq!(reply.to, Some(session("alice").into()));
    assert_eq!(
        std::str::from_utf8(&reply.payload).unwrap(),
        "<error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
         <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>too much waits for the recipient already</text></error>"
    );
}

#[test]
fn few_large_entries_fill_a_way_too() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    let (alices, bobs) = (pool.partition_of("alice"), pool.partition_of("bob"));
    let size = 256 * 1024;
    let large = Command::ReceiveMessage(ReceiveMessage {
        user: user("bob"),
        stanza: Stanza {
            payload: Bytes::from(vec![b' '; size]),
            ..Stanza::new(StanzaKind::Message)
        },
        also: Vec::new(),
        sender: user("alice"),
        time_ms: 0,
    });
    for _ in 0..WAY_BYTES_MAX / size {
        pool.done(message("alice", "bob", "still room", None), "alice");
        let state = &mut pool.partitions[alices].state;
        state.push_outbox(partition_id(bobs), entry("bob", large.clone()));
    }
    check_told_to_wait(&pool.ask(message("alice", "bob", "late", None), "alice"));
    // A small one and a large one.
    assert!(pool.settle_one(false) && pool.settle_one(false));
    pool.done(message("alice", "bob", "now", None), "alice");
}

/// Neither the count nor the bytes are stored: a replica that has started anew judges as one that has not.
#[test]
fn a_replica_that_loads_its_state_judges_alike() {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    let (alices, bobs) = (pool.partition_of("alice"), pool.partition_of("bob"));
    fill(&mut pool, alices, bobs, WAY_ENTRIES_MAX - 1);
    let mut loaded = State::default();
    for (table, key, value) in rows(&pool.partitions[alices].state) {
        assert!(loaded.load(&Json, table, &key, &value).unwrap());
    }
    let epoch = loaded.record().epoch;
    let sequence = loaded.links.get(&LinkOrigin::Node(1)).unwrap().last;
    for state in [&mut pool.partitions[alices].state, &mut loaded] {
        let proposals = (1..=2).map(|number| Proposal {
            origin: LinkOrigin::Node(1),
            incarnation: 1,
            sequence: sequence + number,
            command: message("alice", "bob", "hi", None),
        });
        let batch = Entry::Batch(Batch {
            epoch,
            time_ms: 2_000,
            proposals: proposals.collect(),
        });
        apply(state, &pool.surroundings[alices], 100, batch);
        let link = state.links.get(&LinkOrigin::Node(1)).unwrap();
        assert!(matches!(
            link.answer(sequence + 1),
            Some(Answer::Done { .. })
        ));
        check_told_to_wait(link.answer(sequence + 2).unwrap());
    }
    assert_eq!(rows(&pool.partitions[alices].state), rows(&loaded));
}

#[test]
fn a_contact_is_removed_when_it_can_be_told() {
    let mut pool = super::pool::friends();
    set_contact(&mut pool, "alice", "carol");
    pool.settle(false);
    let (alices, bobs) = (pool.partition_of("alice"), pool.partition_of("bob"));
    let remove = |contact: &str| Command::RemoveContact {
        user: user("alice"),
        contact: user(contact),
    };
    // It takes two entries, one for each way.
    fill(&mut pool, alices, bobs, WAY_ENTRIES_MAX - 1);
    check_refused(&mut pool, remove("bob"), "alice");
    assert_eq!(pool.subscription("alice", "bob"), "both");
    // Of carol nobody needs to be told.
    pool.done(remove("carol"), "alice");
    assert!(pool.settle_one(false));
    pool.done(remove("bob"), "alice");
    pool.settle(false);
    assert_eq!(pool.subscription("bob", "alice"), "none");
}

#[test]
fn an_account_is_removed_however_much_waits() {
    let mut pool = super::pool::friends();
    let alices = pool.partition_of("alice");
    for to in ["alice", "bob"] {
        let to = pool.partition_of(to);
        fill(&mut pool, alices, to, WAY_ENTRIES_MAX);
    }
    let waiting = pool.state("alice").outbox.len();
    pool.done(
        Command::RemoveAccount {
            user: user("alice"),
        },
        "alice",
    );
    // The contact is told of both ways, and every partition of the end.
    let told = pool.state("alice").outbox.len() - waiting;
    assert_eq!(told, pool.partitions.len() + 2);
}

/// What a room sends on behalf of its occupants.
fn of_room(pool: &mut Pool, action: RoomAction) -> Answer {
    pool.ask_room("den", in_room("den", "alice", 1, action))
}

fn whisper() -> RoomAction {
    RoomAction::PrivateMessage {
        nick: "bob".into(),
        stanza: Stanza {
            payload: Bytes::from_static(b"<body>psst</body>"),
            ..Stanza::new(StanzaKind::Message)
        },
        origin_id: Some("o1".into()),
    }
}

fn invite(names: &[&str]) -> RoomAction {
    let invitees = names.iter().map(|name| Invitee {
        jid: Jid::from(user(name)),
        reason: None,
        continued: None,
    });
    RoomAction::Invite {
        invitees: invitees.collect(),
        id: None,
    }
}

/// A room for members with alice as its owner and bob in it, and a way from it that has no room.
fn room_with_full_way(to: &str) -> Pool {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    let by = |name: &str, action: RoomAction| in_room("den", name, 1, action);
    pool.done_in("den", by("alice", join("alice")));
    let fields = [("muc#roomconfig_membersonly", "1")];
    pool.done_in("den", by("alice", configure(&fields)));
    let member = make_affiliated(Affiliation::Member, "bob");
    pool.done_in("den", by("alice", member));
    pool.done_in("den", by("bob", join("bob")));
    pool.settle(false);
    let (from, to) = (pool.partition_of_room("den"), pool.partition_of(to));
    fill(&mut pool, from, to, WAY_ENTRIES_MAX);
    pool
}

#[track_caller]
fn check_refused_in_room(pool: &mut Pool, action: RoomAction) {
    let before = rows_but_links(pool.room_state("den"));
    check_told_to_wait(&of_room(pool, action));
    assert_eq!(rows_but_links(pool.room_state("den")), before);
}

#[test]
fn a_private_message_needs_room_on_the_ways_to_both_archives() {
    for to in ["alice", "bob"] {
        let mut pool = room_with_full_way(to);
        check_refused_in_room(&mut pool, whisper());
        assert!(pool.settle_one(false));
        assert!(matches!(of_room(&mut pool, whisper()), Answer::Done { .. }));
        // The retry of what was done needs no room.
        assert!(matches!(of_room(&mut pool, whisper()), Answer::Done { .. }));
    }
}

#[test]
fn of_invitations_and_new_members_all_are_told_or_nothing_is_done() {
    let mut pool = room_with_full_way("carol");
    assert_ne!(pool.partition_of("carol"), pool.partition_of("dora"));
    check_refused_in_room(&mut pool, invite(&["dora", "carol"]));
    check_refused_in_room(&mut pool, make_affiliated(Affiliation::Member, "carol"));
    // A ban is told to nobody outside.
    let ban = make_affiliated(Affiliation::Outcast, "carol");
    assert!(matches!(of_room(&mut pool, ban), Answer::Done { .. }));
    let lift = make_affiliated(Affiliation::None, "carol");
    assert!(matches!(of_room(&mut pool, lift), Answer::Done { .. }));
    assert!(pool.settle_one(false));
    // Two need two places.
    check_refused_in_room(&mut pool, invite(&["carol", "carol"]));
    let one = invite(&["dora", "carol"]);
    assert!(matches!(of_room(&mut pool, one), Answer::Done { .. }));
}
