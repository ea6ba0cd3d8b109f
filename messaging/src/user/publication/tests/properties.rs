//! Random lives of a user: whatever nodes and owners do, no session gets a row twice, none is lost, the cursor stays
//! before what nobody acknowledged, and contacts end up seeing what is true.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::effect::UserEffect;

const RESOURCES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Copy, Debug)]
enum Step {
    Bind(usize, u64),
    Presence(usize, i8),
    Unavailable(usize),
    Carbons(usize),
    Down(usize),
    /// The first so many rows it has not acknowledged.
    Acknowledge(usize, usize),
    /// To the bare JID, or a resource.
    Received(Option<usize>),
    Sent(usize),
    /// The first read is answered, or fails.
    Read(bool),
    /// What the owner sends to a node is lost, until it attaches again.
    Cut(u64),
    Attach(u64),
    /// The owner dies; its successor knows what was committed.
    NewOwner,
    /// The owner takes a session's presence, or its absence, and dies before anybody is told.
    OwnerDies(usize, bool),
    NodeDies(u64),
    /// A session goes on at another node.
    Move(usize, u64),
}

fn step(owners_change: bool) -> impl Strategy<Value = Step> {
    let who = 0usize..3;
    let node = 1u64..4;
    let dies = move |who, goes| match owners_change {
        true => Step::OwnerDies(who, goes),
        false => Step::Read(true),
    };
    let owner = if owners_change {
        Step::NewOwner
    } else {
        Step::Read(true)
    };
    prop_oneof![
        4 => (who.clone(), node.clone()).prop_map(|(who, node)| Step::Bind(who, node)),
        5 => (who.clone(), prop_oneof![Just(-1i8), Just(0), Just(5)]).prop_map(|(who, level)| Step::Presence(who, level)),
        1 => who.clone().prop_map(Step::Unavailable),
        1 => who.clone().prop_map(Step::Carbons),
        2 => who.clone().prop_map(Step::Down),
        6 => (who.clone(), 1usize..5).prop_map(|(who, count)| Step::Acknowledge(who, count)),
        10 => prop::option::of(who.clone()).prop_map(Step::Received),
        2 => who.clone().prop_map(Step::Sent),
        1 => (who, any::<bool>()).prop_map(move |(who, goes)| dies(who, goes)),
        8 => prop::bool::weighted(0.9).prop_map(Step::Read),
        1 => node.clone().prop_map(Step::Cut),
        2 => node.clone().prop_map(Step::Attach),
        1 => Just(owner),
        1 => node.clone().prop_map(Step::NodeDies),
        2 => (0usize..3, node).prop_map(|(who, node)| Step::Move(who, node)),
    ]
}

/// A session as its node has it.
#[derive(Clone, Debug)]
struct Client {
    state: SessionState,
    /// Rows it got, ever.
    got: BTreeSet<u64>,
}

struct World {
    user: Publication,
    contacts: Contactbook,
    archive: BTreeMap<u64, Row>,
    clients: Vec<Client>,
    cursors: BTreeMap<u64, u64>,
    cut: BTreeSet<u64>,
    reads: VecDeque<(SessionKey, u64, u64)>,
    online: BTreeMap<FullJid, u64>,
    /// Proposed and not committed: who is up, and who is down.
    notes: VecDeque<(Vec<SessionKey>, Vec<FullJid>)>,
    numbers: u64,
    /// What Juliet was last told of each session.
    told: BTreeMap<String, bool>,
    acknowledged: BTreeSet<u64>,
    given: BTreeSet<u64>,
}

impl World {
    fn new() -> World {
        let contacts = Contactbook {
            watchers: vec!["juliet@capulet.lit"],
            ..Contactbook::default()
        };
        World {
            user: Publication::new(bare(USER), 0, World::settings()),
            contacts,
            archive: BTreeMap::new(),
            clients: Vec::new(),
            cursors: BTreeMap::new(),
            cut: BTreeSet::new(),
            reads: VecDeque::new(),
            online: BTreeMap::new(),
            notes: VecDeque::new(),
            numbers: 0,
            told: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            given: BTreeSet::new(),
        }
    }

    fn settings() -> PublicationSettings {
        PublicationSettings {
            unacknowledged_max: 6,
            read_rows_max: 3,
            // Two messages.
            read_bytes_max: 30,
            held_rows_max: 2,
            ..PublicationSettings::default()
        }
    }

    fn client(&self, who: usize) -> Option<usize> {
        let resource = RESOURCES[who];
        let named = |client: &Client| client.state.key.jid.resource() == resource;
        let index = self.clients.iter().position(named)?;
        (!self.cut.contains(&self.clients[index].state.key.node)).then_some(index)
    }

    fn execute(&mut self, actions: Vec<PublicationAction>) {
        for action in actions {
            match action {
                PublicationAction::Deliver {
                    sessions,
                    stanza: _,
                    row: Some(row),
                } => {
                    for session in sessions {
                        self.deliver(&session, row);
                    }
                }
                PublicationAction::Deliver { row: None, .. } | PublicationAction::Probe { .. } => {}
                PublicationAction::Position {
                    nodes,
                    previous,
                    seq,
                } => {
                    for node in nodes.into_iter().filter(|node| !self.cut.contains(node)) {
                        let cursor = self.cursors.entry(node).or_default();
                        assert!(
                            previous == 0 || previous == *cursor,
                            "a hole at node {node}"
                        );
                        *cursor = seq;
                    }
                }
                PublicationAction::Broadcast { stanza, .. } => {
                    let from = stanza.from.as_ref().unwrap();
                    let shown = stanza.type_.is_none();
                    let noted = from
                        .to_full()
                        .is_some_and(|jid| self.online.contains_key(&jid));
                    assert!(noted || !shown, "{from} was shown before the log had it");
                    self.told.insert(from.as_str().to_owned(), shown);
                }
                PublicationAction::Route(stanza) => panic!("{stanza:?}"),
                PublicationAction::ReadRows {
                    session,
                    after,
                    upto,
                } => {
                    assert!(after < upto && upto <= self.contacts.head);
                    self.reads.push_back((session, after, upto));
                }
                PublicationAction::AdvanceCursor(cursor) => {
                    assert!(cursor > self.contacts.delivered && cursor <= self.contacts.head);
                    self.contacts.delivered = cursor;
                }
                PublicationAction::NoteSessions { up, down } => self.notes.push_back((up, down)),
                PublicationAction::Expel(key) | PublicationAction::Kick(key) => {
                    self.clients.retain(|client| client.state.key != key);
                }
                PublicationAction::Moved { state, .. } => {
                    let same = |client: &&mut Client| client.state.key.jid == state.key.jid;
                    let client = self.clients.iter_mut().find(same).unwrap();
                    assert_eq!(client.state.unacknowledged, state.unacknowledged);
                    assert_eq!(client.state.presence.is_some(), state.presence.is_some());
                    client.state = *state;
                }
                PublicationAction::MoveRefused { to, .. } => panic!("{to:?}"),
                PublicationAction::Yield { .. }
                | PublicationAction::Release { .. }
                | PublicationAction::Stay { .. } => {}
            }
        }
    }

    fn deliver(&mut self, session: &SessionKey, row: u64) {
        if self.cut.contains(&session.node) {
            return;
        }
        let client = self
            .clients
            .iter_mut()
            .find(|client| client.state.key == *session);
        let client = client.expect("a session that is there");
        assert!(client.got.insert(row), "{session:?} got row {row} twice");
        client.state.unacknowledged.push(row);
        client.state.newest_row = client.state.newest_row.max(row);
        self.given.insert(row);
    }

    fn event(&mut self, event: SessionEvent) {
        let actions = self.user.event(event, &self.contacts);
        self.execute(actions);
    }

    /// What was proposed is committed.
    fn commit_notes(&mut self) {
        while let Some((up, down)) = self.notes.pop_front() {
            for jid in down {
                self.online.remove(&jid);
            }
            for key in up {
                self.online.insert(key.jid.clone(), key.node);
                let noted = UserEffect::Noted(key.jid);
                let actions = self.user.once(noted, &self.contacts);
                self.execute(actions);
            }
        }
    }

    fn commit_notes_now_and_then(&mut self, step: usize) {
        if step.is_multiple_of(3) {
            self.commit_notes();
        }
    }

    fn log(&mut self, from: &str, to: &str) {
        let previous = self.contacts.head;
        let row = row(previous + 1, from, to);
        self.contacts.head = row.seq;
        self.archive.insert(row.seq, Arc::clone(&row));
        let actions = self.user.logged(previous, &row, &[], &ids());
        assert_eq!(
            actions
                .iter()
                .filter(|action| matches!(action, PublicationAction::Position { .. }))
                .count(),
            1
        );
        assert!(matches!(
            actions.last(),
            Some(PublicationAction::Position { .. })
        ));
        self.execute(actions);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Bind(who, node) => self.bind(who, node),
            Step::Presence(who, level) => self.presence(who, level),
            Step::Unavailable(who) => {
                let Some(index) = self.client(who) else {
                    return;
                };
                let state = &mut self.clients[index].state;
                state.presence = None;
                let (key, stanza) = (state.key.clone(), presence("unavailable", ""));
                self.event(SessionEvent::Presence { key, stanza });
            }
            Step::Carbons(who) => {
                let Some(index) = self.client(who) else {
                    return;
                };
                let state = &mut self.clients[index].state;
                state.flags.carbons = true;
                let (key, flags) = (state.key.clone(), state.flags);
                self.event(SessionEvent::Flags { key, flags });
            }
            Step::Down(who) => {
                let Some(index) = self.client(who) else {
                    return;
                };
                let key = self.clients.remove(index).state.key;
                self.event(SessionEvent::Down {
                    key,
                    stanza: presence("unavailable", ""),
                });
            }
            Step::Acknowledge(who, count) => {
                if let Some(index) = self.client(who) {
                    self.acknowledge(index, count);
                }
            }
            Step::Received(who) => {
                let to = who.map_or(USER.to_owned(), |who| format!("{USER}/{}", RESOURCES[who]));
                self.log("juliet@capulet.lit/balcony", &to);
            }
            Step::Sent(who) => {
                self.log(&format!("{USER}/{}", RESOURCES[who]), "juliet@capulet.lit")
            }
            Step::Read(fine) => {
                self.read(fine);
            }
            Step::Cut(node) => {
                self.cut.insert(node);
            }
            Step::Attach(node) => self.attach(node),
            Step::Move(who, node) => self.move_to(who, node),
            Step::NewOwner => self.new_owner(),
            Step::OwnerDies(who, goes) => self.owner_dies(who, goes),
            Step::NodeDies(node) => {
                self.clients.retain(|client| client.state.key.node != node);
                self.cursors.remove(&node);
                self.cut.remove(&node);
                let actions = self.user.node_gone(node, &self.contacts);
                self.execute(actions);
            }
        }
    }

    fn move_to(&mut self, who: usize, node: u64) {
        let Some(index) = self.client(who) else {
            return;
        };
        let from = self.clients[index].state.key.clone();
        if from.node == node || self.cut.contains(&node) {
            return;
        }
        self.numbers += 1;
        let to = key(node, self.numbers, RESOURCES[who]);
        let request = MoveRequest {
            key: to.clone(),
            incarnation: 1,
            token: ResumptionToken(String::new()),
        };
        let actions = self.user.ask_move(request, self.numbers, true);
        self.execute(actions);
        self.event(SessionEvent::Yields { key: from, to });
        assert!(
            self.clients
                .iter()
                .any(|client| client.state.key.number == self.numbers)
        );
    }

    fn presence(&mut self, who: usize, level: i8) {
        let Some(index) = self.client(who) else {
            return;
        };
        let payload = match level {
            -1 => "<priority>-1</priority>",
            0 => "",
            _ => "<priority>5</priority>",
        };
        let state = &mut self.clients[index].state;
        let from = Some(Jid::from(&state.key.jid));
        let stanza = Stanza {
            from,
            ..presence("", payload)
        };
        state.presence = Some(stanza.clone());
        let key = state.key.clone();
        self.event(SessionEvent::Presence { key, stanza });
    }

    fn bind(&mut self, who: usize, node: u64) {
        if self.cut.contains(&node) {
            return;
        }
        self.numbers += 1;
        let key = key(node, self.numbers, RESOURCES[who]);
        let state = SessionState {
            key: key.clone(),
            flags: SessionFlags::default(),
            presence: None,
            directed: Vec::new(),
            unacknowledged: Vec::new(),
            newest_row: 0,
            untold: false,
        };
        let actions = self.user.bind(key, &self.contacts).unwrap();
        self.execute(actions);
        self.clients.push(Client {
            state,
            got: BTreeSet::new(),
        });
    }

    fn acknowledge(&mut self, index: usize, count: usize) {
        let state = &mut self.clients[index].state;
        let rows: Vec<u64> = state
            .unacknowledged
            .drain(..count.min(state.unacknowledged.len()))
            .collect();
        let (key, last) = (state.key.clone(), rows.last().copied());
        self.acknowledged.extend(rows);
        if let Some(seq) = last {
            self.event(SessionEvent::Acknowledged { key, seq });
        }
    }

    fn read(&mut self, fine: bool) -> bool {
        let Some((session, after, upto)) = self.reads.pop_front() else {
            return false;
        };
        if fine {
            let rows: Vec<Row> = self
                .archive
                .range(after + 1..=upto)
                .map(|(_, row)| Arc::clone(row))
                .collect();
            let actions = self.user.offline_rows(&session, after, upto, &rows, &ids());
            self.execute(actions);
        } else {
            self.user.rows_unavailable(&session);
        }
        true
    }

    fn attach(&mut self, node: u64) {
        self.cut.remove(&node);
        let states = self.clients.iter().map(|client| client.state.clone());
        let states: Vec<_> = states.filter(|state| state.key.node == node).collect();
        let cursor = if states.is_empty() {
            0
        } else {
            self.cursors.get(&node).copied().unwrap_or(0)
        };
        if cursor == 0 {
            // It begins where the log stands.
            self.cursors.insert(node, self.contacts.head);
        }
        let actions = self.user.attach(node, states, cursor, &self.contacts);
        self.execute(actions);
    }

    fn owner_dies(&mut self, who: usize, goes: bool) {
        let Some(index) = self.client(who) else {
            return;
        };
        let state = &mut self.clients[index].state;
        let shown = Stanza {
            from: Some(Jid::from(&state.key.jid)),
            ..presence("", "")
        };
        state.presence = (!goes).then_some(shown);
        state.untold = true;
        self.new_owner();
    }

    fn new_owner(&mut self) {
        self.reads.clear();
        // They died with the owner; nodes know whose presence is so young.
        let young = std::mem::take(&mut self.notes).into_iter();
        let young: Vec<SessionKey> = young.flat_map(|(up, _)| up).collect();
        for client in &mut self.clients {
            client.state.untold |= young.contains(&client.state.key);
        }
        self.user = Publication::new(bare(USER), self.contacts.head, World::settings());
        let online = self
            .online
            .iter()
            .map(|(jid, node)| (jid.clone(), *node, 1));
        self.user.expected(online.collect());
        for node in 1..4 {
            self.attach(node);
        }
        for client in &mut self.clients {
            client.state.untold = false;
        }
    }

    /// The cursor never passes a row that nobody acknowledged.
    fn check_cursor(&self) {
        let received =
            |row: &&Row| matches!(&row.record, ArchiveRecord::Message(message) if !message.sent);
        let lowest = self
            .archive
            .values()
            .filter(received)
            .map(|row| row.seq)
            .find(|seq| !self.acknowledged.contains(seq));
        if let Some(lowest) = lowest {
            assert!(
                self.contacts.delivered < lowest,
                "the cursor {} has passed {lowest}",
                self.contacts.delivered
            );
        }
    }

    /// Everything heals: nodes attach, one session at least takes messages, reads are answered, rows acknowledged.
    fn heal(&mut self) {
        for node in 1..4 {
            self.attach(node);
        }
        self.bind(0, 1);
        self.take(Step::Presence(0, 0));
        loop {
            self.commit_notes();
            while self.read(true) {}
            for index in 0..self.clients.len() {
                self.acknowledge(index, usize::MAX);
            }
            let actions = self.user.read_again();
            self.execute(actions);
            let idle = self
                .clients
                .iter()
                .all(|client| client.state.unacknowledged.is_empty());
            if self.reads.is_empty() && idle {
                return;
            }
        }
    }

    fn check_healed(&self) {
        assert_eq!(
            self.contacts.delivered, self.contacts.head,
            "{:?}",
            self.user
        );
        for client in &self.clients {
            let state = &client.state;
            let told = self
                .told
                .get(state.key.jid.as_str())
                .copied()
                .unwrap_or(false);
            assert_eq!(told, state.presence.is_some(), "{}", state.key.jid);
        }
        let there = |from: &str| {
            self.clients
                .iter()
                .any(|client| client.state.key.jid.as_str() == from)
        };
        for (from, available) in &self.told {
            assert!(!available || there(from), "{from} is a ghost");
        }
    }

    fn check_delivered(&self) {
        for row in self.archive.values() {
            let ArchiveRecord::Message(message) = &row.record else {
                continue;
            };
            assert!(
                message.sent || self.given.contains(&row.seq),
                "row {} was never delivered",
                row.seq
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn one_owner_delivers_everything_once(steps in prop::collection::vec(step(false), 1..120)) {
        let mut world = World::new();
        for (number, step) in steps.into_iter().enumerate() {
            world.take(step);
            world.check_cursor();
            world.commit_notes_now_and_then(number);
        }
        world.heal();
        world.check_cursor();
        world.check_healed();
        world.check_delivered();
    }

    #[test]
    fn owners_change_and_nothing_is_doubled(steps in prop::collection::vec(step(true), 1..120)) {
        let mut world = World::new();
        for (number, step) in steps.into_iter().enumerate() {
            world.take(step);
            world.commit_notes_now_and_then(number);
        }
        world.heal();
        world.check_healed();
    }
}
