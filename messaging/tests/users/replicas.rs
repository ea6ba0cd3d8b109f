//! P16: the same log makes the same rows on every replica, and stored rows make the same state again.

use messaging::apply::apply;
use messaging::command::Command;
use messaging::state::State;
use proptest::prelude::*;
use xmpp::jid::Jid;

use super::pool::{
    Json, Partition, Pool, credentials, message, partition_id, presence, rows, session, user,
};

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// One step: a command of a user, or outboxes are carried, or a new owner begins.
#[derive(Clone, Debug)]
enum Step {
    Ask(&'static str, Box<Command>),
    Settle(bool),
    BeginOwner(usize),
    Wait(u64),
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMES[..])
}

fn pair() -> impl Strategy<Value = (&'static str, &'static str)> {
    (name(), name())
}

fn command() -> impl Strategy<Value = (&'static str, Command)> {
    let subscription =
        prop::sample::select(&["subscribe", "subscribed", "unsubscribe", "unsubscribed"][..]);
    prop_oneof![
        2 => name().prop_map(|name| (name, Command::CreateAccount { user: user(name), credentials: credentials() })),
        1 => name().prop_map(|name| (name, Command::RemoveAccount { user: user(name) })),
        8 => (pair(), subscription).prop_map(|((from, to), type_)| (from, presence(type_, from, to))),
        6 => (pair(), prop::option::of(0u8..4)).prop_map(|((from, to), id)| {
            (from, message(from, to, "hi", id.map(|id| id.to_string()).as_deref()))
        }),
        2 => (pair(), 0u8..3).prop_map(|((name, contact), group)| {
            let groups = vec![group.to_string()];
            (name, Command::SetContact { user: user(name), contact: user(contact), name: None, groups })
        }),
        1 => pair().prop_map(|(name, contact)| {
            (name, Command::RemoveContact { user: user(name), contact: user(contact) })
        }),
        1 => pair().prop_map(|(name, other)| {
            (name, Command::Block { user: user(name), items: vec![Jid::from(user(other))] })
        }),
        1 => name().prop_map(|name| (name, Command::Unblock { user: user(name), items: vec![] })),
        1 => (name(), 0u64..100_000).prop_map(|(name, delivered)| {
            (name, Command::AdvanceCursor { user: user(name), delivered })
        }),
        1 => name().prop_map(|name| {
            (name, Command::NoteSessions { up: vec![(session(name), 1, 1)], down: vec![] })
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => command().prop_map(|(name, command)| Step::Ask(name, Box::new(command))),
        3 => any::<bool>().prop_map(Step::Settle),
        1 => (0usize..16).prop_map(Step::BeginOwner),
        1 => (0u64..50_000_000).prop_map(Step::Wait),
    ]
}

fn run(steps: Vec<Step>) -> Pool {
    let mut pool = Pool::new();
    for step in steps {
        match step {
            Step::Ask(name, command) => drop(pool.ask(*command, name)),
            Step::Settle(again) => pool.settle(again),
            Step::BeginOwner(partition) => pool.begin_owner(partition),
            Step::Wait(ms) => pool.time_ms += ms,
        }
    }
    pool.settle(true);
    pool
}

/// Replays a log, storing changes every few entries, and gives the state as loaded from what was stored.
fn replay(pool: &Pool, index: usize, partition: &Partition, checkpoint: usize) -> (State, State) {
    let surroundings = &pool.surroundings[index];
    assert_eq!(surroundings.partition, partition_id(index));
    let mut state = State::default();
    let mut stored = std::collections::BTreeMap::new();
    for (count, (at, entry)) in partition.log.iter().enumerate() {
        apply(&mut state, surroundings, *at, entry.clone());
        if count % checkpoint == 0 || count + 1 == partition.log.len() {
            for change in state.drain_changes(&Json) {
                let key = (change.table, change.key);
                match change.value {
                    Some(value) => drop(stored.insert(key, value)),
                    None => drop(stored.remove(&key)),
                }
            }
        }
    }
    let mut loaded = State::default();
    for ((table, key), value) in &stored {
        assert!(loaded.load(&Json, *table, key, value).unwrap());
    }
    (state, loaded)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn replicas_agree(steps in prop::collection::vec(step(), 1..60), checkpoint in 1usize..8) {
        let pool = run(steps);
        for (index, partition) in pool.partitions.iter().enumerate() {
            let (state, loaded) = replay(&pool, index, partition, checkpoint);
            prop_assert_eq!(rows(&partition.state), rows(&state));
            prop_assert_eq!(rows(&state), rows(&loaded));
        }
    }

    /// P15 in small: whatever was asked, the two sides of a subscription agree. Each stanza arrives before the next is
    /// sent: those that cross on the way may leave the sides apart (in XMPP as such), and the next `subscribe` mends it.
    #[test]
    fn both_sides_of_a_subscription_agree(steps in prop::collection::vec(step(), 1..80)) {
        // A block swallows requests on purpose, and an account that is made again has forgotten its side.
        let forgets = |step: &Step| matches!(step, Step::Ask(_, command)
            if matches!(**command, Command::Block { .. } | Command::RemoveAccount { .. }));
        let mut kept: Vec<Step> = NAMES
            .map(|name| Command::CreateAccount { user: user(name), credentials: credentials() })
            .into_iter()
            .zip(NAMES)
            .map(|(command, name)| Step::Ask(name, Box::new(command)))
            .collect();
        for step in steps.into_iter().filter(|step| !forgets(step)) {
            kept.extend([step, Step::Settle(false)]);
        }
        let pool = run(kept);
        for one in NAMES {
            for other in NAMES {
                let item = |a: &str, b: &str| {
                    pool.state(a).roster.get(&(user(a), user(b))).cloned().unwrap_or_default()
                };
                let (mine, theirs) = (item(one, other), item(other, one));
                prop_assert_eq!(mine.to, theirs.from, "{} → {}", one, other);
                prop_assert_eq!(mine.pending_out, theirs.pending_in.is_some(), "{} asks {}", one, other);
            }
        }
    }

    #[test]
    fn sequences_rise_and_rows_are_never_filed_twice(steps in prop::collection::vec(step(), 1..80)) {
        let pool = run(steps);
        let mut last = std::collections::BTreeMap::new();
        for row in &pool.archive {
            let before = last.insert(row.key.clone(), row.seq);
            prop_assert!(before.is_none_or(|before| before < row.seq));
        }
    }
}
