//! Partitions of a pool that is made of another's backup.

use messaging::archive::ArchiveIds;
use messaging::command::Command;
use messaging::effect::Effect;
use messaging::founding::{Founding, INDEXES_APART, found};
use messaging::link_record::LinkOrigin;
use messaging::room::command::{FormFields, RoomAction};
use messaging::user::log::UserLog;
use xmpp::jid::BareJid;

use super::accounts::{in_room, join};
use super::pool::{Pool, message, session, user};

fn room(name: &str) -> BareJid {
    BareJid::parse(&format!("{name}@conference.localhost")).unwrap()
}

/// Two users who have written to each other; one of them has a session and is in two rooms, of which one is persistent.
fn busy() -> Pool {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    pool.done(message("alice", "bob", "hi", None), "alice");
    pool.settle(false);
    let state = pool.state("alice");
    let account = state.accounts.get(&user("alice")).unwrap().generation;
    for (name, persistent) in [("kept", "1"), ("passing", "0")] {
        pool.done_in(name, in_room(name, "alice", account, join("al")));
        let fields = FormFields(vec![(
            "muc#roomconfig_persistentroom".into(),
            vec![persistent.into()],
        )]);
        let configure = RoomAction::Configure { fields };
        pool.done_in(name, in_room(name, "alice", account, configure));
    }
    let up = vec![(session("alice"), 1, 1)];
    let down = Vec::new();
    pool.done(Command::NoteSessions { up, down }, "alice");
    pool
}

/// Every partition founded; gives the effects on archives.
fn founded(pool: &mut Pool) -> (Vec<u64>, usize) {
    let (mut indexes, mut rows) = (Vec::new(), 0);
    for (partition, surroundings) in pool.partitions.iter_mut().zip(&pool.surroundings) {
        let founding = Founding {
            index: partition.index,
            node: 1,
            time_ms: 5_000,
        };
        let (effects, index) = found(&mut partition.state, surroundings, founding);
        assert!(index > partition.index + INDEXES_APART);
        indexes.push(index);
        let is_row = |effect: &&Effect| matches!(effect, Effect::Archive(_));
        rows += effects.iter().filter(is_row).count();
    }
    (indexes, rows)
}

#[test]
fn what_belonged_to_the_old_nodes_is_gone_and_the_rest_stays() {
    let mut pool = busy();
    founded(&mut pool);
    for partition in &pool.partitions {
        let state = &partition.state;
        assert!(state.online.is_empty() && state.occupants.is_empty());
        let of_node = |origin: &LinkOrigin| matches!(origin, LinkOrigin::Node(_));
        assert!(!state.links.iter().any(|(origin, _)| of_node(origin)));
    }
    assert!(pool.room_state("kept").rooms.contains(&room("kept")));
    assert!(!pool.room_state("passing").rooms.contains(&room("passing")));
    let (kept, state) = (room("kept"), pool.room_state("kept"));
    assert_eq!(state.affiliations.rows_of(&kept).count(), 1);
    assert!(pool.state("alice").accounts.contains(&user("alice")));
}

#[test]
fn no_number_is_used_again() {
    let mut pool = busy();
    let ids = ArchiveIds::new(&[1; 16]);
    let heads = |pool: &Pool| -> Vec<UserLog> {
        let names = ["alice", "bob"];
        let log = |name| pool.state(name).logs.get(&user(name)).unwrap().clone();
        names.map(log).into()
    };
    let before = heads(&pool);
    // What waited for Bob waits, what Alice has seen does not come again.
    let waited: Vec<bool> = before.iter().map(|log| log.delivered < log.head).collect();
    let room_head = pool
        .room_state("kept")
        .rooms
        .get(&room("kept"))
        .unwrap()
        .head;
    let (indexes, _) = founded(&mut pool);
    let least = indexes.iter().min().unwrap() * 4_096;
    for ((old, new), waited) in before.iter().zip(heads(&pool)).zip(waited) {
        assert!(new.head >= least && new.roster_version >= least);
        match waited {
            true => assert_eq!(new.delivered, old.delivered),
            false => assert_eq!(new.delivered, new.head),
        }
        assert!(!new.has_row_at_head());
    }
    let kept = pool.room_state("kept").rooms.get(&room("kept")).unwrap();
    assert!(kept.head >= least && kept.head > room_head);
    let alice = user("alice");
    assert_ne!(ids.id(&alice, before[0].head), ids.id(&alice, least));
}

#[test]
fn who_left_is_told_to_the_archive() {
    let mut pool = busy();
    let (_, rows) = founded(&mut pool);
    assert!(rows >= 1, "the occupant of the room that stays has left it");
}
