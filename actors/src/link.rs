//! The node's end of the link to one partition's owner, as an actor.
//!
//! It carries what sessions ask up and what the owner sends down, keeps the node's picture of its sessions and occupants
//! for the next attachment, and hands stanzas to sessions. The rules (numbers, resends, cursors) are in
//! [`cluster::link::origin`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::prelude::SendError;
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, SpawnHandle};
use bytes::{Bytes, BytesMut};
use cluster::link::origin::{LinkAction, LinkFailure, LinkOrigin, LinkSettings};
use cluster::link::protocol::{
    Ask, AskReply, AttachPart, AttachRoom, AttachUser, Delivery, DeliveryItem, Down, Publish, Up,
};
use cluster::node_id::{Epoch, NodeId, PartitionId};
use messaging::command::{Answer, Command};
use messaging::query::Query;
use messaging::user::publication::{
    PublicationSettings, SessionEvent, SessionKey, SessionState, directed_has_room,
};
use tokio::sync::oneshot;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stream_error::StreamErrorCondition;

use crate::directory::Entry;
use crate::fabric::{Fabric, FabricError};
use crate::mailbox::SessionMailbox;
use crate::session::{SessionActor, ToSession, unavailable};
use crate::supervision::{RestartBudget, survive};

/// Everything that can wake the actor.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToLink {
    /// A defect.
    #[cfg(test)]
    Panic,
    /// A durable command.
    Propose {
        /// Who wants to know.
        caller: Caller,
        /// What is asked.
        command: Box<Command>,
    },
    /// Soft state.
    Publish {
        /// Who wants to know, if anybody.
        caller: Option<Caller>,
        /// What is said.
        publish: Box<Publish>,
    },
    /// A question.
    Ask {
        /// Who wants to know.
        caller: Caller,
        /// The question.
        query: Box<Query>,
    },
    /// A stream wants its resource.
    Bind {
        /// Who wants to know.
        caller: Caller,
        /// The session that it will be.
        key: SessionKey,
        /// The session's mailbox.
        mailbox: Arc<SessionMailbox>,
    },
    /// A frame of the owner.
    Frame {
        /// Who sent it.
        from: NodeId,
        /// In which epoch.
        epoch: Epoch,
        /// What.
        down: Box<Down>,
    },
    /// A hint.
    OwnerIs {
        /// The owner.
        owner: NodeId,
        /// Since.
        epoch: Epoch,
    },
    /// The ROUTE lane to a node is there, perhaps anew.
    PeerUp(NodeId),
    /// It is gone.
    PeerDown(NodeId),
}

/// Who gets an outcome.
pub enum Caller {
    /// A session, which numbered its request.
    Session {
        /// Its mailbox.
        session: Addr<SessionActor>,
        /// Its number for the request.
        ticket: u64,
    },
    /// A task that waits.
    Task(oneshot::Sender<Outcome>),
    /// Nobody: a session that is gone says goodbye.
    Nobody,
}

/// Tells a link something that must not be lost, waiting in the background while its mailbox is full. Bounded by the
/// number of sessions, each of which says goodbye once.
pub fn tell(link: &Addr<LinkActor>, message: ToLink) {
    if let Err(SendError::Full(message)) = link.try_send(message) {
        let link = link.clone();
        actix_rt::spawn(async move {
            if link.send(message).await.is_err() {
                tracing::error!("a link's actor is gone");
            }
        });
    }
}

/// What the link hands back: who asked, and which resource was asked for if one was.
pub struct Token {
    caller: Caller,
    bind: Option<Box<Binding>>,
}

/// A resource that was asked for.
struct Binding {
    key: SessionKey,
    mailbox: Arc<SessionMailbox>,
}

impl From<Caller> for Token {
    fn from(caller: Caller) -> Token {
        Token { caller, bind: None }
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A command was decided.
    Answered(Answer),
    /// Soft state was taken by the owner.
    Taken,
    /// A question was answered.
    Replied(AskReply),
    /// The link is full: surely not done.
    Full,
    /// Nobody could be asked in time: surely not done.
    NotDone,
    /// It may or may not have been done.
    Unknown,
}

impl Caller {
    fn tell(self, outcome: Outcome) {
        match self {
            Caller::Session { session, ticket } => {
                // A session whose mailbox is full doesn't read its outcomes: it is closing or about to be closed.
                if session
                    .try_send(ToSession::Outcome { ticket, outcome })
                    .is_err()
                {
                    tracing::debug!(ticket, "an outcome found no session");
                }
            }
            Caller::Task(sender) => drop(sender.send(outcome)),
            Caller::Nobody => {}
        }
    }
}

#[derive(Default)]
struct LocalUser {
    sessions: Vec<SessionState>,
}

/// How often the link looks who owns its partition: a hint may have been missed.
const HINT_EVERY: Duration = Duration::from_millis(500);

/// The node's end of one link.
pub struct LinkActor {
    fabric: Arc<Fabric>,
    core: LinkOrigin<Token>,
    users: HashMap<BareJid, LocalUser>,
    rooms: HashMap<BareJid, HashSet<FullJid>>,
    timer: Option<(Instant, SpawnHandle)>,
    /// Goodbyes of sessions that are gone, which nobody would repeat: they wait for room in the link.
    farewells: VecDeque<Command>,
    panics: RestartBudget,
}

impl LinkActor {
    /// Pieces of work that may wait.
    pub const MAILBOX: usize = 8_192;

    /// For a partition.
    pub fn new(fabric: Arc<Fabric>, partition: PartitionId) -> LinkActor {
        let core = LinkOrigin::new(
            partition,
            fabric.node,
            fabric.incarnation,
            LinkSettings::default(),
        );
        LinkActor {
            fabric,
            core,
            users: HashMap::new(),
            rooms: HashMap::new(),
            timer: None,
            farewells: VecDeque::new(),
            panics: RestartBudget::default(),
        }
    }

    fn partition(&self) -> PartitionId {
        self.core.partition()
    }

    /// Does what the core wants and sets its timer.
    fn run(&mut self, ctx: &mut Context<Self>) {
        self.attach_if_missed();
        self.say_farewells();
        while let Some(action) = self.core.poll_action() {
            self.act(action);
        }
        self.set_timer(ctx);
    }

    /// A frame found no place in the mailbox: only a new attachment brings what was in it.
    fn attach_if_missed(&mut self) {
        let place = &self.fabric.partitions[usize::from(self.core.partition().0)];
        if place.link_missed.swap(false, Ordering::AcqRel)
            && let Some((owner, _)) = self.core.attached()
        {
            self.core.peer_up(owner, Instant::now());
        }
    }

    fn say_farewells(&mut self) {
        while let Some(command) = self.farewells.pop_front() {
            if self
                .core
                .propose(Caller::Nobody.into(), command.clone(), Instant::now())
                .is_err()
            {
                self.farewells.push_front(command);
                break;
            }
        }
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        let due = self.core.poll_timeout();
        match (due, &self.timer) {
            (Some(due), Some((set, _))) if *set <= due => {}
            (Some(due), _) => {
                if let Some((_, handle)) = self.timer.take() {
                    ctx.cancel_future(handle);
                }
                let wait = due.saturating_duration_since(Instant::now());
                let handle = ctx.run_later(wait, |actor, ctx| {
                    actor.timer = None;
                    actor.survive(ctx, |actor, ctx| {
                        actor.core.handle_timeout(Instant::now());
                        actor.run(ctx);
                    });
                });
                self.timer = Some((due, handle));
            }
            (None, _) => {}
        }
    }

    /// Does a piece of work. After a panic the node attaches again, so that the owner brings what was lost with it; the
    /// link itself must live on, since the numbers of its proposals are what the owner knows this node's life by.
    fn survive(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut Self, &mut Context<Self>),
    ) {
        if survive(|| work(self, ctx)).is_some() {
            return;
        }
        let now = Instant::now();
        tracing::error!(partition = %self.partition(), "a link's actor panicked; the node attaches again");
        self.fabric.metrics.panics.inc();
        if !self.panics.spend(now) {
            // Its state can't be made anew within this life of the node: a new life can.
            tracing::error!(partition = %self.partition(), "a link keeps panicking; the process ends");
            std::process::abort();
        }
        self.attach_again(ctx);
    }

    /// After a panic. A second one in the middle of it is beyond mending within this life of the node.
    fn attach_again(&mut self, ctx: &mut Context<Self>) {
        let attached = survive(|| {
            if let Some((owner, _)) = self.fabric.owner(self.partition()) {
                self.core.peer_down(owner);
                self.core.peer_up(owner, Instant::now());
            }
            self.run(ctx);
        });
        if attached.is_none() {
            tracing::error!("a link panicked while it attached after a panic; the process ends");
            std::process::abort();
        }
    }

    fn act(&mut self, action: LinkAction<Token>) {
        match action {
            LinkAction::Send { to, epoch, up } => {
                let sent = self.fabric.send_up(to, self.partition(), epoch, &up);
                if let (Err(FabricError::Codec(error)), Up::Attach(part)) = (&sent, &up) {
                    self.leave_out_largest(part, error);
                }
                if let Err(error) = sent {
                    tracing::debug!(%error, partition = %self.partition(), "a frame did not leave");
                    self.core.peer_down(to);
                }
            }
            LinkAction::NeedSnapshot => {
                let (users, rooms) = self.snapshot();
                self.core.snapshot(users, rooms, Instant::now());
            }
            LinkAction::Answered { token, answer } => token.caller.tell(Outcome::Answered(answer)),
            LinkAction::Taken { token } => token.caller.tell(Outcome::Taken),
            LinkAction::Replied { token, reply } => self.replied(token, reply),
            LinkAction::Failed { token, failure } => token.caller.tell(match failure {
                LinkFailure::Timeout | LinkFailure::NotTaken => Outcome::NotDone,
                LinkFailure::Unknown => Outcome::Unknown,
            }),
            LinkAction::Deliver(delivery) => self.deliver(delivery),
            LinkAction::Kick { session, condition } => {
                if let Some(entry) = self.fabric.directory.find(&session.jid, session.number) {
                    end_session(&entry, condition);
                }
            }
        }
    }

    fn replied(&mut self, token: Token, reply: AskReply) {
        if let Some(binding) = token.bind
            && reply == AskReply::Bound
        {
            if matches!(&token.caller, Caller::Task(asker) if asker.is_closed()) {
                // Whoever asked is gone, and has given back what was not granted yet.
                return self.give_back(binding.key);
            }
            self.bound(*binding);
        }
        token.caller.tell(Outcome::Replied(reply));
    }

    /// The owner has granted a resource: in the directory before anything that the owner says behind it.
    fn bound(&mut self, binding: Binding) {
        let Binding { key, mailbox } = binding;
        let user = self.users.entry(key.jid.bare()).or_default();
        user.sessions.retain(|session| session.key.jid != key.jid);
        user.sessions.push(SessionState {
            key: key.clone(),
            flags: Default::default(),
            presence: None,
            directed: Vec::new(),
            unacknowledged: Vec::new(),
            newest_row: 0,
        });
        let entry = Entry {
            number: key.number,
            session: mailbox,
        };
        let older = self.fabric.directory.claim(key.jid, entry);
        if let Some(older) = older.filter(|older| older.number != key.number) {
            // RFC 6120 §7.7.2.2. The owner has said so, too, if its word got here.
            end_session(&older, StreamErrorCondition::Conflict);
        }
    }

    fn give_back(&mut self, key: SessionKey) {
        let stanza = unavailable(&key.jid);
        let down = Publish::Session(SessionEvent::Down { key, stanza });
        if self.core.publish(None, down, Instant::now()).is_err() {
            tracing::debug!("a resource is given back with the next attachment");
        }
    }

    fn receive(&mut self, message: ToLink, ctx: &mut Context<Self>) {
        let now = Instant::now();
        match message {
            ToLink::Propose { caller, command } => {
                if matches!(caller, Caller::Nobody) {
                    self.farewells.push_back(*command);
                } else if let Err((token, _full)) = self.core.propose(caller.into(), *command, now)
                {
                    token.caller.tell(Outcome::Full);
                }
            }
            ToLink::Publish { caller, publish } => {
                if let Publish::Session(event) = &*publish {
                    self.note_event(event);
                }
                if let Err((Some(token), _full)) =
                    self.core.publish(caller.map(Token::from), *publish, now)
                {
                    token.caller.tell(Outcome::Full);
                }
            }
            ToLink::Ask { caller, query } => self.ask(Token::from(caller), Ask::Query(*query), now),
            ToLink::Bind {
                caller,
                key,
                mailbox,
            } => {
                let ask = Ask::Bind(key.clone());
                let bind = Some(Box::new(Binding { key, mailbox }));
                self.ask(Token { caller, bind }, ask, now);
            }
            ToLink::Frame { from, epoch, down } => self.core.handle(from, epoch, *down, now),
            ToLink::OwnerIs { owner, epoch } => self.core.owner_is(owner, epoch, now),
            ToLink::PeerUp(node) => self.core.peer_up(node, now),
            ToLink::PeerDown(node) => self.core.peer_down(node),
            #[cfg(test)]
            ToLink::Panic => panic!("made to panic"),
        }
        self.run(ctx);
    }

    fn ask(&mut self, token: Token, ask: Ask, now: Instant) {
        if let Err((token, _full)) = self.core.ask(token, ask, now) {
            token.caller.tell(Outcome::Full);
        }
    }

    fn snapshot(&self) -> (Vec<AttachUser>, Vec<AttachRoom>) {
        let users = self.users.iter().map(|(user, local)| AttachUser {
            user: user.clone(),
            cursor: 0,
            sessions: local.sessions.clone(),
        });
        let rooms = self.rooms.iter().map(|(room, occupants)| AttachRoom {
            room: room.clone(),
            cursor: 0,
            occupants: occupants.iter().cloned().collect(),
        });
        (users.collect(), rooms.collect())
    }

    /// An attachment fits no frame: bounds elsewhere should have kept it small. Whoever takes the most of it has to begin
    /// anew, or no session of the node would ever be attached again.
    fn leave_out_largest(&mut self, part: &AttachPart, error: &storage::codec::CodecError) {
        let Some(largest) = largest(part) else {
            return tracing::error!(%error, "an attachment without users and rooms could not be encoded");
        };
        tracing::error!(%error, partition = %self.partition(), key = %largest, "too much to attach; its sessions end");
        let mut sessions: Vec<FullJid> =
            self.rooms.remove(&largest).into_iter().flatten().collect();
        if let Some(user) = self.users.remove(&largest) {
            sessions.extend(user.sessions.into_iter().map(|session| session.key.jid));
        }
        self.core.forget(&largest);
        for entry in sessions
            .iter()
            .filter_map(|jid| self.fabric.directory.find(jid, 0))
        {
            end_session(&entry, StreamErrorCondition::PolicyViolation);
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        for item in &delivery.items {
            self.deliver_item(&delivery.key, item);
        }
        for note in delivery.notes {
            let session = self.fabric.directory.find(&note.session, 0);
            let occupants = self.rooms.entry(delivery.key.clone()).or_default();
            if note.inside {
                occupants.insert(note.session);
            } else {
                occupants.remove(&note.session);
                if occupants.is_empty() {
                    self.rooms.remove(&delivery.key);
                    self.core.forget(&delivery.key);
                }
            }
            if let Some(entry) = session {
                let room = delivery.key.clone();
                let told = entry.session.try_send(ToSession::Room {
                    room,
                    inside: note.inside.then_some(note.nick),
                });
                if told.is_err() {
                    // Gone, or not reading: it must not live on with a wrong picture of where it is.
                    end_session(&entry, StreamErrorCondition::ResourceConstraint);
                }
            }
        }
    }

    fn deliver_item(&mut self, key: &BareJid, item: &DeliveryItem) {
        for (target, number) in &item.targets {
            let Some(entry) = self.fabric.directory.find(target, *number) else {
                continue;
            };
            if let Some(row) = item.row {
                self.note_row(key, target, row);
            }
            let bytes = match &item.tail {
                None => item.head.clone(),
                Some(tail) => addressed(&item.head, target, tail),
            };
            let full = entry
                .session
                .try_send(ToSession::Deliver {
                    bytes,
                    row: item.row,
                })
                .is_err();
            if full {
                // A slow client: its rows wait in the log, and its stream ends.
                self.fabric.metrics.slow_sessions.inc();
                end_session(&entry, StreamErrorCondition::ResourceConstraint);
                self.fabric.directory.release(target, entry.number);
            }
        }
    }

    fn note_row(&mut self, user: &BareJid, session: &FullJid, row: u64) {
        if let Some(local) = self.users.get_mut(user)
            && let Some(session) = local
                .sessions
                .iter_mut()
                .find(|state| state.key.jid == *session)
        {
            session.unacknowledged.push(row);
            session.newest_row = session.newest_row.max(row);
        }
    }

    /// Keeps the node's picture of a session up to date as its own words pass by.
    fn note_event(&mut self, event: &SessionEvent) {
        let key = event.key();
        let bare = key.jid.bare();
        let Some(user) = self.users.get_mut(&bare) else {
            return;
        };
        let Some(index) = user.sessions.iter().position(|session| session.key == *key) else {
            return;
        };
        match event {
            SessionEvent::Flags { flags, .. } => user.sessions[index].flags = *flags,
            SessionEvent::Presence { stanza, .. } => {
                let unavailable = stanza.type_.as_deref() == Some("unavailable");
                user.sessions[index].presence = (!unavailable).then(|| stanza.clone());
            }
            SessionEvent::Directed { stanza, .. } => {
                let Some(to) = stanza.to.clone() else { return };
                let gone = stanza.type_.as_deref() == Some("unavailable");
                note_directed(&mut user.sessions[index].directed, to, gone);
            }
            SessionEvent::Acknowledged { seq, .. } => {
                // In the order of sending: an older row may have been sent after newer ones.
                let unacknowledged = &mut user.sessions[index].unacknowledged;
                if let Some(upto) = unacknowledged.iter().position(|row| row == seq) {
                    unacknowledged.drain(..=upto);
                }
            }
            SessionEvent::Down { .. } => {
                user.sessions.swap_remove(index);
                if user.sessions.is_empty() {
                    self.users.remove(&bare);
                    self.core.forget(&bare);
                }
            }
        }
    }
}

fn end_session(entry: &Entry, condition: StreamErrorCondition) {
    if entry.session.try_send(ToSession::Kick(condition)).is_err() {
        tracing::debug!("a session was gone before it could be told to end");
    }
}

/// Whom a session has sent directed presence, within the bounds that the owner has, too: it refuses what is beyond.
fn note_directed(directed: &mut Vec<Jid>, to: Jid, gone: bool) {
    let directed_max = PublicationSettings::default().directed_max;
    if gone {
        directed.retain(|jid| *jid != to);
    } else if !directed.contains(&to) && directed_has_room(directed.iter(), &to, directed_max) {
        directed.push(to);
    }
}

/// The user or room that takes the most bytes of an attachment.
fn largest(part: &AttachPart) -> Option<BareJid> {
    let users = part.users.iter().map(|user| (user_bytes(user), &user.user));
    let rooms = part.rooms.iter().map(|room| (room_bytes(room), &room.room));
    let largest = users.chain(rooms).max_by_key(|(bytes, _)| *bytes);
    largest.map(|(_, key)| key.clone())
}

fn user_bytes(user: &AttachUser) -> usize {
    let session = |session: &SessionState| {
        let presence = session
            .presence
            .as_ref()
            .map_or(0, |presence| presence.size_hint());
        let directed: usize = session.directed.iter().map(|jid| jid.as_str().len()).sum();
        presence + directed + session.unacknowledged.len() * 8
    };
    user.sessions.iter().map(session).sum()
}

fn room_bytes(room: &AttachRoom) -> usize {
    room.occupants.iter().map(|jid| jid.as_str().len()).sum()
}

fn addressed(head: &Bytes, target: &FullJid, tail: &Bytes) -> Bytes {
    let to = target.as_str();
    let mut bytes = BytesMut::with_capacity(head.len() + to.len() + tail.len());
    bytes.extend_from_slice(head);
    xmpp::write::escape_attribute(to, &mut bytes);
    bytes.extend_from_slice(tail);
    bytes.freeze()
}

impl Actor for LinkActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(Self::MAILBOX);
        if let Some((owner, epoch)) = self.fabric.owner(self.partition()) {
            self.core.owner_is(owner, epoch, Instant::now());
        }
        ctx.run_interval(HINT_EVERY, |actor, ctx| {
            actor.survive(ctx, |actor, ctx| {
                if let Some((owner, epoch)) = actor.fabric.owner(actor.partition()) {
                    actor.core.owner_is(owner, epoch, Instant::now());
                    actor.run(ctx);
                }
            });
        });
        self.survive(ctx, Self::run);
    }
}

impl Handler<ToLink> for LinkActor {
    type Result = ();

    fn handle(&mut self, message: ToLink, ctx: &mut Self::Context) {
        self.survive(ctx, |actor, ctx| actor.receive(message, ctx));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(number: u64, directed: usize) -> SessionState {
        let to = |n: usize| Jid::parse(&format!("friend{n}@localhost")).unwrap();
        SessionState {
            key: SessionKey {
                node: 1,
                number,
                jid: FullJid::parse(&format!("romeo@localhost/{number}")).unwrap(),
            },
            flags: Default::default(),
            presence: None,
            directed: (0..directed).map(to).collect(),
            unacknowledged: Vec::new(),
            newest_row: 0,
        }
    }

    #[test]
    fn directed_presence_is_noted_within_bounds() {
        let mut directed = Vec::new();
        let jid = |n: usize| Jid::parse(&format!("friend{n}@localhost")).unwrap();
        for n in 0..100_000 {
            note_directed(&mut directed, jid(n % 5_000), false);
        }
        assert_eq!(directed.len(), 1_000);
        note_directed(&mut directed, jid(7), true);
        assert!(!directed.contains(&jid(7)));
        note_directed(&mut directed, jid(4_000), false);
        assert!(directed.contains(&jid(4_000)));
    }

    #[test]
    fn the_largest_of_an_attachment_is_found() {
        let bare = |text: &str| BareJid::parse(text).unwrap();
        let check = |users: &[(&str, usize)], rooms: &[(&str, usize)], expect: Option<&str>| {
            let user = |(name, directed): &(&str, usize)| AttachUser {
                user: bare(name),
                cursor: 0,
                sessions: vec![state(1, 1), state(2, *directed)],
            };
            let occupant = |n| FullJid::parse(&format!("friend{n}@localhost/x")).unwrap();
            let room = |(name, occupants): &(&str, usize)| AttachRoom {
                room: bare(name),
                cursor: 0,
                occupants: (0..*occupants).map(occupant).collect(),
            };
            let part = AttachPart {
                users: users.iter().map(user).collect(),
                rooms: rooms.iter().map(room).collect(),
                ..AttachPart::default()
            };
            assert_eq!(largest(&part), expect.map(bare));
        };
        check(&[], &[], None);
        check(
            &[("a@localhost", 3), ("b@localhost", 9)],
            &[("r@rooms", 5)],
            Some("b@localhost"),
        );
        check(
            &[("a@localhost", 3), ("b@localhost", 9)],
            &[("r@rooms", 50)],
            Some("r@rooms"),
        );
    }
}
