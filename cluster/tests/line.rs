//! Pools that are captured piece by piece while messages are on their way, at any moments.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::BTreeMap;

use cluster::backup::line::{LineError, Standing, find_line};
use cluster::raft::CommittedEntry;
use cluster::records::{decode_entry, encode_entry};
use messaging::apply::{PoolConstants, Surroundings, apply};
use messaging::archive::{ArchiveRecord, ArchiveRow};
use messaging::command::{Batch, Command, Entry, Proposal, SendMessage};
use messaging::effect::Effect;
use messaging::link_record::LinkOrigin;
use messaging::slot::{PartitionId, PartitionTable};
use messaging::state::State;
use proptest::prelude::*;
use xmpp::jid::BareJid;
use xmpp::sasl::StoredCredentials;
use xmpp::stanza::{Stanza, StanzaKind};

const PARTITIONS: u16 = 4;
const USERS: usize = 8;

/// One partition: its state, all its log, and its archive's rows.
struct Partition {
    state: State,
    surroundings: Surroundings,
    log: Vec<CommittedEntry>,
    rows: Vec<ArchiveRow>,
    epoch: u64,
    from_node: u64,
    from_owner: u64,
}

fn user(number: usize) -> BareJid {
    BareJid::parse(&format!("user-{number}@localhost")).unwrap()
}

impl Partition {
    fn new(partition: PartitionId, table: &PartitionTable) -> Partition {
        let surroundings = Surroundings {
            partition,
            table: table.clone(),
            pool: PoolConstants {
                id_key: [1; 16],
                domain: "localhost".into(),
                rooms_domain: "conference.localhost".into(),
                contacts_max: 5,
                occupants_max: 100,
                rooms_owned_max: 10,
            },
        };
        let mut new = Partition {
            state: State::default(),
            surroundings,
            log: Vec::new(),
            rows: Vec::new(),
            epoch: 1,
            from_node: 0,
            from_owner: 0,
        };
        new.append(Some(Entry::OwnerBegin {
            node: 1,
            incarnation: 1,
            time_ms: 1,
        }));
        new
    }

    fn append(&mut self, entry: Option<Entry>) {
        let index = self.log.len() as u64 + 1;
        self.log.push(CommittedEntry {
            index,
            term: 1,
            payload: entry.clone().map(|entry| encode_entry(entry, 1).unwrap()),
        });
        if let Some(entry) = entry {
            let effects = apply(&mut self.state, &self.surroundings, index, entry);
            self.keep(effects);
        }
    }

    fn keep(&mut self, effects: Vec<Effect>) {
        self.rows
            .extend(effects.into_iter().filter_map(|effect| match effect {
                Effect::Archive(row) => Some((*row).clone()),
                _ => None,
            }));
    }

    fn propose(&mut self, origin: LinkOrigin, sequence: u64, command: Command) {
        let incarnation = match origin {
            LinkOrigin::Owner => self.epoch,
            _ => u64::from(matches!(origin, LinkOrigin::Node(_))),
        };
        self.append(Some(Entry::Batch(Batch {
            epoch: self.epoch,
            time_ms: 2,
            proposals: vec![Proposal {
                origin,
                incarnation,
                sequence,
                command,
            }],
        })));
    }

    fn ask(&mut self, command: Command) {
        self.from_node += 1;
        self.propose(LinkOrigin::Node(1), self.from_node, command);
    }

    fn taken(&self, from: u16) -> u64 {
        let link = self.state.links.get(&LinkOrigin::Partition(from));
        link.map_or(0, |link| link.last)
    }
}

struct Pool(Vec<Partition>);

/// What may happen next.
#[derive(Clone, Debug)]
enum Step {
    /// One user writes to another.
    Send(usize, usize),
    /// A partition takes the next effect of another.
    Carry(u16, u16),
    /// A partition hears that its oldest effect on another was taken.
    Answer(u16, u16),
    /// An entry of Raft's own.
    Blank(u16),
    /// A partition is captured.
    Capture(u16),
}

impl Pool {
    fn new() -> Pool {
        let table = PartitionTable::even(PARTITIONS);
        let all = table.iter().map(|id| Partition::new(id, &table)).collect();
        let mut pool = Pool(all);
        for number in 0..USERS {
            pool.of(number).ask(Command::CreateAccount {
                user: user(number),
                credentials: StoredCredentials::default(),
            });
        }
        pool
    }

    fn of(&mut self, number: usize) -> &mut Partition {
        let partition = self.0[0].surroundings.table.partition_of(&user(number));
        &mut self.0[usize::from(partition.0)]
    }

    fn send(&mut self, from: usize, to: usize, body: usize) {
        let sender = user(from).with_resource("phone").unwrap();
        let stanza = Stanza {
            from: Some(sender.clone().into()),
            to: Some(user(to).into()),
            payload: format!("<body>{body}</body>").into(),
            ..Stanza::new(StanzaKind::Message)
        };
        self.of(from).ask(Command::SendMessage(SendMessage {
            sender,
            to: user(to).into(),
            origin_id: None,
            stanza,
            local: true,
            counted: None,
        }));
    }

    /// Gives whether there was something to carry.
    fn carry(&mut self, from: u16, to: u16) -> bool {
        let sequence = self.0[usize::from(to)].taken(from) + 1;
        let entry = self.0[usize::from(from)].state.outbox.get(&(to, sequence));
        let Some(command) = entry.map(|entry| entry.command.clone()) else {
            return false;
        };
        let origin = LinkOrigin::Partition(from);
        self.0[usize::from(to)].propose(origin, sequence, command);
        true
    }

    fn answer(&mut self, from: u16, to: u16) -> bool {
        let taken = self.0[usize::from(to)].taken(from);
        let source = &mut self.0[usize::from(from)];
        let is_next = |(target, sequence): &(u16, u64)| *target == to && *sequence <= taken;
        let waiting = source.state.outbox.iter().map(|(key, _)| *key);
        let oldest: Vec<_> = waiting.filter(is_next).take(1).collect();
        let Some((partition, sequence)) = oldest.first().copied() else {
            return false;
        };
        source.from_owner += 1;
        let command = Command::OutboxAnswered {
            partition,
            sequence,
            refused: None,
        };
        source.propose(LinkOrigin::Owner, source.from_owner, command);
        true
    }

    /// Until nothing is on its way.
    fn settle(&mut self) {
        let ways = || (0..PARTITIONS).flat_map(|from| (0..PARTITIONS).map(move |to| (from, to)));
        loop {
            let moved: Vec<bool> = ways()
                .map(|(from, to)| self.carry(from, to) | self.answer(from, to))
                .collect();
            if !moved.contains(&true) {
                return;
            }
        }
    }

    /// How often each message was filed by its sender, and by its recipient.
    fn copies(&self) -> BTreeMap<String, (usize, usize)> {
        let mut copies = BTreeMap::new();
        for row in self.0.iter().flat_map(|partition| &partition.rows) {
            let ArchiveRecord::Message(record) = &row.record else {
                continue;
            };
            let body = String::from_utf8_lossy(&record.stanza.payload).into_owned();
            let (sent, received): &mut (usize, usize) = copies.entry(body).or_default();
            *(if record.sent { sent } else { received }) += 1;
        }
        copies
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let partition = 0..PARTITIONS;
    let way = (partition.clone(), partition.clone());
    let step = prop_oneof![
        // A message to oneself is one row only.
        4 => (0..USERS, 1..USERS).prop_map(|(from, apart)| Step::Send(from, (from + apart) % USERS)),
        4 => way.clone().prop_map(|(from, to)| Step::Carry(from, to)),
        3 => way.prop_map(|(from, to)| Step::Answer(from, to)),
        1 => partition.clone().prop_map(Step::Blank),
        1 => partition.prop_map(Step::Capture),
    ];
    proptest::collection::vec(step, 0..150)
}

/// Runs a pool, capturing on the way; what was not captured is at the end.
fn run(steps: Vec<Step>) -> (Pool, Vec<(State, u64)>) {
    let mut pool = Pool::new();
    let mut captures: BTreeMap<u16, (State, u64)> = BTreeMap::new();
    let captured = |pool: &Pool, partition: u16| {
        let found = &pool.0[usize::from(partition)];
        (found.state.clone(), found.log.len() as u64)
    };
    for (body, step) in steps.into_iter().enumerate() {
        match step {
            Step::Send(from, to) => pool.send(from, to, body),
            Step::Carry(from, to) => drop(pool.carry(from, to)),
            Step::Answer(from, to) => drop(pool.answer(from, to)),
            Step::Blank(partition) => pool.0[usize::from(partition)].append(None),
            Step::Capture(partition) => {
                let capture = captured(&pool, partition);
                captures.entry(partition).or_insert(capture);
            }
        }
    }
    for partition in 0..PARTITIONS {
        let capture = captured(&pool, partition);
        captures.entry(partition).or_insert(capture);
    }
    let captures = captures.into_values().collect();
    (pool, captures)
}

type Entries = std::vec::IntoIter<Result<CommittedEntry, LineError>>;

fn standings(pool: &Pool, captures: Vec<(State, u64)>) -> Vec<Standing<Entries>> {
    let all = pool.0.iter().zip(captures);
    let standing = |(partition, (state, index)): (&Partition, (State, u64))| {
        let behind = partition.log.iter().filter(|entry| entry.index > index);
        let entries: Vec<_> = behind.cloned().map(Ok).collect();
        Standing {
            state,
            index,
            entries: entries.into_iter(),
            surroundings: partition.surroundings.clone(),
        }
    };
    all.map(standing).collect()
}

/// The pool as it was at a line, and what it knows of itself.
fn pool_at(pool: &Pool, line: &[u64]) -> Pool {
    let table = pool.0[0].surroundings.table.clone();
    let mut again = Pool(table.iter().map(|id| Partition::new(id, &table)).collect());
    for ((partition, new), upto) in pool.0.iter().zip(&mut again.0).zip(line) {
        // The first is the owner's beginning.
        for entry in partition
            .log
            .iter()
            .skip(1)
            .take_while(|entry| entry.index <= *upto)
        {
            let entry = entry.payload.as_ref();
            new.append(entry.map(|payload| decode_entry(payload).unwrap()));
        }
        let owner = new.state.links.get(&LinkOrigin::Owner);
        new.from_owner = owner.map_or(0, |link| link.last);
    }
    again
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However the captures lie: at the line, and after all that is on its way has come, each message has both its copies.
    #[test]
    fn nothing_is_half_there(steps in steps()) {
        let (pool, captures) = run(steps);
        let before: Vec<u64> = captures.iter().map(|(_, index)| *index).collect();
        let mut standings = standings(&pool, captures);
        let line = find_line(&mut standings).unwrap();
        for ((partition, begin), index) in pool.0.iter().zip(&before).zip(&line) {
            prop_assert!((*begin..=partition.log.len() as u64).contains(index));
        }
        let mut founded = pool_at(&pool, &line);
        for (standing, partition) in standings.iter().zip(&founded.0) {
            let (here, there) = (&standing.state, &partition.state);
            prop_assert!(here.logs.iter().eq(there.logs.iter()), "replayed alike");
            prop_assert!(here.outbox_next.iter().eq(there.outbox_next.iter()), "replayed alike");
        }
        founded.settle();
        for (body, copies) in founded.copies() {
            prop_assert_eq!(copies, (1, 1), "{}", body);
        }
    }

    /// Where nothing is behind the captures they may not agree, and then it is said, not guessed.
    #[test]
    fn captures_alone_agree_or_are_refused(steps in steps()) {
        let (pool, captures) = run(steps);
        let line: Vec<u64> = captures.iter().map(|(_, index)| *index).collect();
        let mut standings = standings(&pool, captures);
        for standing in &mut standings {
            standing.entries = Vec::new().into_iter();
        }
        match find_line(&mut standings) {
            Ok(found) => {
                prop_assert_eq!(&found, &line);
                let mut founded = pool_at(&pool, &line);
                founded.settle();
                for (body, copies) in founded.copies() {
                    prop_assert_eq!(copies, (1, 1), "{}", body);
                }
            }
            Err(LineError::Short { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

/// The sender is captured before it sends, the recipient after it has received.
fn torn() -> (Pool, Vec<(State, u64)>) {
    let mut other = Pool::new();
    let place = |pool: &Pool, number| {
        let table = &pool.0[0].surroundings.table;
        table.partition_of(&user(number)).0
    };
    let far = (1..USERS).find(|number| place(&other, *number) != place(&other, 0));
    let far = far.unwrap();
    let (from, to) = (place(&other, 0), place(&other, far));
    let captured = |pool: &Pool, partition: u16| {
        let found = &pool.0[usize::from(partition)];
        (found.state.clone(), found.log.len() as u64)
    };
    let before: Vec<_> = (0..PARTITIONS).map(|id| captured(&other, id)).collect();
    other.send(0, far, 1);
    assert!(other.carry(from, to));
    let captures = before
        .into_iter()
        .zip(0..)
        .map(|(before, id)| match id == to {
            true => captured(&other, id),
            false => before,
        });
    let captures = captures.collect();
    (other, captures)
}

#[test]
fn a_gap_in_the_entries_is_named() {
    let (pool, captures) = torn();
    let mut whole = standings(&pool, captures.clone());
    let line = find_line(&mut whole).unwrap();
    assert!(
        line.iter()
            .zip(&captures)
            .any(|(line, (_, index))| line > index)
    );
    let mut damaged = standings(&pool, captures);
    for standing in &mut damaged {
        let mut entries: Vec<_> = standing.entries.by_ref().collect();
        if let Some(Ok(first)) = entries.first_mut() {
            first.index += 1;
        }
        standing.entries = entries.into_iter();
    }
    let found = find_line(&mut damaged);
    assert!(matches!(found, Err(LineError::Gap { .. })), "{found:?}");
}

#[test]
fn an_entry_that_does_not_read_is_named() {
    let (pool, captures) = torn();
    let mut damaged = standings(&pool, captures);
    for standing in &mut damaged {
        let mut entries: Vec<_> = standing.entries.by_ref().collect();
        if let Some(Ok(first)) = entries.first_mut() {
            first.payload = Some("nonsense".into());
        }
        standing.entries = entries.into_iter();
    }
    let found = find_line(&mut damaged);
    assert!(matches!(found, Err(LineError::Entry { .. })), "{found:?}");
}
