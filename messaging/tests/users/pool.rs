//! A pool in memory: partitions that apply entries and carry each other's outbox entries; what was shown to users is
//! kept as lines of text.

use std::num::NonZeroU32;

use bytes::Bytes;
use messaging::apply::{PoolConstants, Surroundings, apply};
use messaging::archive::{ArchiveRecord, ArchiveRow, MessageRecord};
use messaging::command::{Answer, Batch, Command, Entry, Proposal, SendMessage};
use messaging::effect::{Effect, UserEffect};
use messaging::link_record::LinkOrigin;
use messaging::query::{Query, Reply, answer};
use messaging::slot::{PartitionId, PartitionTable};
use messaging::state::State;
use messaging::table::RowCodec;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::sasl::{DecoyKeys, StoredCredentials};
use xmpp::stanza::{Stanza, StanzaKind};

/// How many partitions the pool has; alice and bob live in different ones.
const PARTITIONS: u16 = 16;

/// Rows as JSON: enough to compare and to load again.
pub(crate) struct Json;

impl RowCodec for Json {
    type Error = serde_json::Error;

    fn encode<T: serde::Serialize>(&self, row: &T) -> Vec<u8> {
        serde_json::to_vec(row).unwrap()
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Self::Error> {
        serde_json::from_slice(bytes)
    }
}

/// Every row of a state, encoded.
pub(crate) fn rows(state: &State) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    state.visit(&Json, &mut |table, key, value| {
        rows.push((table, key.to_vec(), value.to_vec()))
    });
    rows
}

/// One partition with its log.
#[derive(Default)]
pub(crate) struct Partition {
    pub(crate) state: State,
    pub(crate) log: Vec<(u64, Entry)>,
    epoch: u64,
    pub(crate) index: u64,
    from_node: u64,
    from_owner: u64,
}

pub(crate) struct Pool {
    pub(crate) partitions: Vec<Partition>,
    pub(crate) surroundings: Vec<Surroundings>,
    pub(crate) archive: Vec<ArchiveRow>,
    pub(crate) time_ms: u64,
    lines: Vec<String>,
}

impl Pool {
    pub(crate) fn new() -> Pool {
        let table = PartitionTable::even(PARTITIONS);
        let constants = PoolConstants {
            id_key: [1; 16],
            domain: "localhost".into(),
            rooms_domain: "conference.localhost".into(),
            contacts_max: 5,
            occupants_max: 100,
            rooms_owned_max: 10,
        };
        let surroundings = table.iter().map(|partition| Surroundings {
            partition,
            table: table.clone(),
            pool: constants.clone(),
        });
        let mut pool = Pool {
            surroundings: surroundings.collect(),
            partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
            archive: Vec::new(),
            time_ms: 1_000,
            lines: Vec::new(),
        };
        for partition in 0..usize::from(PARTITIONS) {
            pool.begin_owner(partition);
        }
        pool
    }

    /// With accounts under these names.
    pub(crate) fn with_users(names: &[&str]) -> Pool {
        let mut pool = Pool::new();
        for name in names {
            pool.done(
                Command::CreateAccount {
                    user: user(name),
                    credentials: credentials(),
                },
                name,
            );
        }
        pool.lines.clear();
        pool
    }

    pub(crate) fn partition_of(&self, name: &str) -> usize {
        usize::from(self.surroundings[0].table.partition_of(&user(name)).0)
    }

    pub(crate) fn state(&self, name: &str) -> &State {
        &self.partitions[self.partition_of(name)].state
    }

    /// A new owner begins.
    pub(crate) fn begin_owner(&mut self, partition: usize) {
        let time_ms = self.time_ms;
        self.append(
            partition,
            Entry::OwnerBegin {
                node: 1,
                incarnation: 1,
                time_ms,
            },
        );
        self.partitions[partition].epoch = self.partitions[partition].index;
        self.partitions[partition].from_owner = 0;
    }

    /// The node begins to count anew: a restored partition knows no node.
    pub(crate) fn restart_node(&mut self, partition: usize) {
        self.partitions[partition].from_node = 0;
    }

    /// A command on this user's key by the one node of the pool.
    pub(crate) fn ask(&mut self, command: Command, name: &str) -> Answer {
        let partition = self.partition_of(name);
        let target = &mut self.partitions[partition];
        target.from_node += 1;
        let sequence = target.from_node;
        self.propose(
            partition,
            Proposal {
                origin: LinkOrigin::Node(1),
                incarnation: 1,
                sequence,
                command,
            },
        )
        .expect("the next sequence is answered")
    }

    /// The same, and it must be done; gives the row's sequence.
    pub(crate) fn done(&mut self, command: Command, name: &str) -> u64 {
        match self.ask(command, name) {
            Answer::Done { seq } => seq,
            other => panic!("not done: {other:?}"),
        }
    }

    /// The same, and it must be refused; gives the condition's name.
    pub(crate) fn refused(&mut self, command: Command, name: &str) -> String {
        match self.ask(command, name) {
            Answer::Refused(error) => format!("{:?}", error.condition),
            other => panic!("not refused: {other:?}"),
        }
    }

    pub(crate) fn partition_of_room(&self, room: &str) -> usize {
        let room = BareJid::parse(&format!("{room}@conference.localhost")).unwrap();
        usize::from(self.surroundings[0].table.partition_of(&room).0)
    }

    /// The state of a room's partition.
    pub(crate) fn room_state(&self, room: &str) -> &State {
        &self.partitions[self.partition_of_room(room)].state
    }

    /// A command on a room's key by the one node of the pool.
    pub(crate) fn ask_room(&mut self, room: &str, command: Command) -> Answer {
        let partition = self.partition_of_room(room);
        let target = &mut self.partitions[partition];
        target.from_node += 1;
        let proposal = Proposal {
            origin: LinkOrigin::Node(1),
            incarnation: 1,
            sequence: target.from_node,
            command,
        };
        self.propose(partition, proposal)
            .expect("the next sequence is answered")
    }

    /// The same, and it must be done.
    pub(crate) fn done_in(&mut self, room: &str, command: Command) {
        match self.ask_room(room, command) {
            Answer::Done { .. } => {}
            other => panic!("not done: {other:?}"),
        }
    }

    /// The same, and it must be refused; gives the condition's name.
    pub(crate) fn refused_in(&mut self, room: &str, command: Command) -> String {
        match self.ask_room(room, command) {
            Answer::Refused(error) => format!("{:?}", error.condition),
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Proposes and gives the answer, if there is one.
    pub(crate) fn propose(&mut self, partition: usize, proposal: Proposal) -> Option<Answer> {
        let (epoch, time_ms) = (self.partitions[partition].epoch, self.time_ms);
        self.append(
            partition,
            Entry::Batch(Batch {
                epoch,
                time_ms,
                proposals: vec![proposal],
            }),
        )
    }

    fn append(&mut self, partition: usize, entry: Entry) -> Option<Answer> {
        let target = &mut self.partitions[partition];
        target.index += 1;
        target.log.push((target.index, entry.clone()));
        let effects = apply(
            &mut target.state,
            &self.surroundings[partition],
            target.index,
            entry,
        );
        let mut answered = None;
        for effect in effects {
            match effect {
                Effect::Answer { answer, .. } => answered = Some(answer),
                Effect::Archive(row) => self.archive.push((*row).clone()),
                Effect::DropArchive { key, upto } => {
                    self.archive.retain(|row| row.key != key || row.seq > upto);
                }
                Effect::User(user, effect) => {
                    let name = user.local().unwrap_or("?").to_owned();
                    self.lines.push(format!("{name}: {}", line(&effect)));
                }
                Effect::Outbox { .. } | Effect::Room(..) | Effect::TrimEvents { .. } => {}
            }
        }
        answered
    }

    /// Carries outbox entries until none waits. `again`: each is sent twice, as after a lost answer.
    pub(crate) fn settle(&mut self, again: bool) {
        while self.settle_one(again) {}
    }

    /// Carries one outbox entry; `false`: none waits.
    pub(crate) fn settle_one(&mut self, again: bool) -> bool {
        let Some((partition, key, command)) = self.next_outbox() else {
            return false;
        };
        let from = LinkOrigin::Partition(partition as u16);
        let proposal = Proposal {
            origin: from,
            incarnation: 0,
            sequence: key.1,
            command,
        };
        let target = usize::from(key.0);
        let answer = self
            .propose(target, proposal.clone())
            .expect("the next of a way is answered");
        if again {
            assert_eq!(
                self.propose(target, proposal),
                Some(answer.clone()),
                "a resend gets the same answer"
            );
        }
        let refused = match answer {
            Answer::Refused(error) => Some(error),
            Answer::Done { .. } | Answer::Reply(_) => None,
        };
        let source = &mut self.partitions[partition];
        source.from_owner += 1;
        let answered = Proposal {
            origin: LinkOrigin::Owner,
            incarnation: source.epoch,
            sequence: source.from_owner,
            command: Command::OutboxAnswered {
                partition: key.0,
                sequence: key.1,
                refused,
            },
        };
        self.propose(partition, answered);
        true
    }

    fn next_outbox(&self) -> Option<(usize, (u16, u64), Command)> {
        self.partitions
            .iter()
            .enumerate()
            .find_map(|(partition, source)| {
                let (key, entry) = source.state.outbox.iter().next()?;
                Some((partition, *key, entry.command.clone()))
            })
    }

    /// What was shown since the last call.
    pub(crate) fn shown(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// The bodies in a user's archive, with their direction.
    pub(crate) fn archived(&self, name: &str) -> Vec<String> {
        let key = user(name);
        self.archive
            .iter()
            .filter(|row| row.key == key)
            .map(row_line)
            .collect()
    }

    pub(crate) fn subscription(&self, name: &str, contact: &str) -> String {
        match self.state(name).roster.get(&(user(name), user(contact))) {
            None => "absent".into(),
            Some(item) => {
                let mut text = item.subscription().to_owned();
                if item.pending_out {
                    text.push_str(" asking");
                }
                if item.pending_in.is_some() {
                    text.push_str(" asked");
                }
                if !item.listed {
                    text.push_str(" unlisted");
                }
                text
            }
        }
    }
}

fn row_line(row: &ArchiveRow) -> String {
    match &row.record {
        ArchiveRecord::Message(MessageRecord {
            sent, peer, stanza, ..
        }) => {
            let direction = if *sent { "to" } else { "from" };
            let payload = String::from_utf8_lossy(&stanza.payload);
            let body = payload
                .trim_start_matches("<body>")
                .trim_end_matches("</body>");
            format!("{direction} {peer}: {body}")
        }
        ArchiveRecord::Room(_) => "a room's event".into(),
    }
}

fn line(effect: &UserEffect) -> String {
    match effect {
        UserEffect::Logged { row, .. } => format!("logged {}", row_line(row)),
        UserEffect::RosterPush {
            contact,
            item: None,
            ..
        } => format!("roster without {contact}"),
        UserEffect::RosterPush {
            contact,
            item: Some(item),
            ..
        } => {
            let asking = if item.pending_out { " asking" } else { "" };
            let approved = if item.approved { " approved" } else { "" };
            format!("roster {contact} {}{asking}{approved}", item.subscription())
        }
        UserEffect::BlocklistPush {
            payload,
            blocked,
            unblocked,
        } => {
            let payload = String::from_utf8_lossy(payload);
            format!(
                "{payload} hides from {}, shows to {}",
                blocked.len(),
                unblocked.len()
            )
        }
        UserEffect::Subscription(stanza) => {
            let from = stanza.from.as_ref().map_or("", Jid::as_str);
            format!("{} from {from}", stanza.type_.as_deref().unwrap_or(""))
        }
        UserEffect::PresenceTo(contact) => format!("presence to {contact}"),
        UserEffect::UnavailableTo(contact) => format!("unavailable to {contact}"),
        UserEffect::Bounce { session, stanza } => {
            format!(
                "bounce to {session}: {}",
                String::from_utf8_lossy(&stanza.payload)
            )
        }
        UserEffect::Noted(session) => format!("noted {session}"),
        UserEffect::AccountRemoved => "account removed".into(),
    }
}

pub(crate) fn user(name: &str) -> BareJid {
    let text = if name.contains('@') {
        name.to_owned()
    } else {
        format!("{name}@localhost")
    };
    BareJid::parse(&text).unwrap()
}

pub(crate) fn session(name: &str) -> FullJid {
    user(name).with_resource("phone").unwrap()
}

pub(crate) fn credentials() -> StoredCredentials {
    DecoyKeys::new([0; 32], NonZeroU32::MIN).credentials("somebody")
}

pub(crate) fn message(from: &str, to: &str, body: &str, origin_id: Option<&str>) -> Command {
    let to: Jid = user(to).into();
    let stanza = Stanza {
        from: Some(session(from).into()),
        to: Some(to.clone()),
        id: Some(body.into()),
        type_: Some("chat".into()),
        payload: Bytes::from(format!("<body>{body}</body>")),
        ..Stanza::new(StanzaKind::Message)
    };
    let local = to.domain() == "localhost";
    Command::SendMessage(SendMessage {
        sender: session(from),
        to,
        origin_id: origin_id.map(Into::into),
        stanza,
        local,
        counted: None,
    })
}

pub(crate) fn presence(type_: &str, from: &str, to: &str) -> Command {
    let stanza = Stanza {
        type_: Some(type_.into()),
        ..Stanza::new(StanzaKind::Presence)
    };
    Command::SendSubscription {
        user: user(from),
        contact: user(to),
        stanza,
    }
}

pub(crate) fn partition_id(index: usize) -> PartitionId {
    PartitionId(index as u16)
}

pub(crate) fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

pub(crate) fn set_contact(pool: &mut Pool, name: &str, contact: &str) {
    pool.done(
        Command::SetContact {
            user: user(name),
            contact: user(contact),
            name: None,
            groups: vec![],
        },
        name,
    );
}

pub(crate) fn block(name: &str, items: &[&str]) -> Command {
    Command::Block {
        user: user(name),
        items: items.iter().map(|item| jid(item)).collect(),
    }
}

/// Alice and Bob, subscribed to each other.
pub(crate) fn friends() -> Pool {
    let mut pool = Pool::with_users(&["alice", "bob"]);
    for (from, to) in [("alice", "bob"), ("bob", "alice")] {
        pool.done(presence("subscribe", from, to), from);
        pool.settle(false);
        pool.done(presence("subscribed", to, from), to);
        pool.settle(false);
    }
    pool.shown();
    pool
}

pub(crate) fn payload(state: &State, query: &Query) -> String {
    match answer(state, query) {
        Reply::Payload(payload) => String::from_utf8(payload.to_vec()).unwrap(),
        Reply::Refused(error) => format!("{:?}", error.condition),
        other => panic!("not a payload: {other:?}"),
    }
}
