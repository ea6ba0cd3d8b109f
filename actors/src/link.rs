//! The node's end of the link to one partition's owner, as an actor.
//!
//! It carries what sessions ask up and what the owner sends down, keeps the node's picture of its sessions and occupants
//! for the next attachment, and hands stanzas to sessions. The rules (numbers, resends, cursors) are in
//! [`cluster::link::origin`].

mod moving;
mod notes;
mod pacing;
mod picture;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::prelude::SendError;
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, SpawnHandle};
use bytes::{Bytes, BytesMut};
use cluster::link::origin::{LinkAction, LinkFailure, LinkOrigin, LinkSettings};
use cluster::link::protocol::{
    Ask, AskReply, AttachPart, Delivery, DeliveryItem, Down, Publish, Up,
};
use cluster::node_id::{Epoch, NodeId, PartitionId};
use messaging::command::{Answer, Command};
use messaging::query::Query;
use messaging::user::publication::{MoveRequest, SessionEvent, SessionKey, SessionState};
use messaging::user::streams::StreamNote;
use tokio::sync::oneshot;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::scan::{Document, Limits};
use xmpp::stanza::Stanza;
use xmpp::stanza_error::{Condition, StanzaError};
use xmpp::stream_error::StreamErrorCondition;

use crate::directory::Entry;
use crate::fabric::{Fabric, FabricError};
use crate::mailbox::{SessionGone, SessionMailbox};
use crate::session::{ToSession, unavailable};
use crate::supervision::{RestartBudget, survive};
pub(crate) use notes::SESSIONS_WOKEN_EVERY;
use notes::{Note, Notes};
use picture::{Picture, largest};

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
    /// A session of another node is to go on here.
    Adopt {
        /// Who wants to know.
        caller: Caller,
        /// Which session, and what it will be here.
        request: MoveRequest,
        /// Its mailbox here.
        mailbox: Arc<SessionMailbox>,
    },
    /// A session's count, to be in the log.
    Note {
        /// Told when it is there, [`ToSession::Said`].
        session: Option<Arc<SessionMailbox>>,
        /// What it says.
        note: StreamNote,
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
        session: Arc<SessionMailbox>,
        /// Its number for the request.
        ticket: u64,
    },
    /// A task that waits.
    Task(oneshot::Sender<Outcome>),
    /// Nobody: a session that is gone says goodbye.
    Nobody,
    /// The link itself, for these sessions' counts.
    Notes(Vec<Note>),
}

impl Caller {
    /// Who it is, if it asks the same elsewhere when told that an outcome is unknown. Different while both wait.
    fn asks_anew(&self) -> Option<u64> {
        match self {
            Caller::Session { session, .. } => Some(Arc::as_ptr(session).addr() as u64),
            Caller::Task(_) | Caller::Nobody | Caller::Notes(_) => None,
        }
    }
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
    pub(crate) fn tell(self, outcome: Outcome) {
        match self {
            Caller::Session { session, ticket } => {
                // A session that takes nothing any more is closing or closed.
                if session
                    .try_send(ToSession::Outcome { ticket, outcome })
                    .is_err()
                {
                    tracing::debug!(ticket, "an outcome found no session");
                }
            }
            Caller::Task(sender) => drop(sender.send(outcome)),
            // The link looks after them itself.
            Caller::Nobody | Caller::Notes(_) => {}
        }
    }
}

/// How often the link looks who owns its partition: a hint may have been missed.
const HINT_EVERY: Duration = Duration::from_millis(500);

/// The node's end of one link.
pub struct LinkActor {
    fabric: Arc<Fabric>,
    core: LinkOrigin<Token>,
    picture: Picture,
    timer: Option<(Instant, SpawnHandle)>,
    /// Goodbyes of sessions that are gone, which nobody would repeat: they wait for room in the link.
    farewells: VecDeque<Command>,
    /// Counts of sessions that are to be in the log.
    notes: Notes,
    /// Sessions to which more is due than may be: the link waits for them.
    crowded: Vec<Arc<SessionMailbox>>,
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
            picture: Picture::default(),
            timer: None,
            farewells: VecDeque::new(),
            notes: Notes::default(),
            crowded: Vec::new(),
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
        self.pass_notes();
        while self.crowded.is_empty() {
            let Some(action) = self.core.poll_action() else {
                break;
            };
            self.act(action);
        }
        self.hold(ctx);
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
        let due = [self.core.poll_timeout(), self.notes.due()];
        let due = due.into_iter().flatten().min();
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
            self.notes.broke_down();
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
                if let (Err(FabricError::Codec(error)), Up::Attach(part)) = (&sent, &*up) {
                    self.leave_out_largest(part, error);
                }
                if let Err(error) = sent {
                    tracing::debug!(%error, partition = %self.partition(), "a frame did not leave");
                    self.peer_down(to);
                }
            }
            LinkAction::NeedSnapshot => {
                let now = Instant::now();
                let (users, rooms) = self.picture.snapshot(now);
                self.core.snapshot(users, rooms, now);
            }
            LinkAction::Answered { token, answer } => match token.caller {
                Caller::Notes(notes) => self.noted(notes, &answer),
                caller => caller.tell(Outcome::Answered(answer)),
            },
            LinkAction::Taken { token } => token.caller.tell(Outcome::Taken),
            LinkAction::Replied { token, reply } => self.replied(token, reply),
            LinkAction::Failed { token, failure } => match (token.caller, failure) {
                (Caller::Notes(notes), _) => self.notes.again(notes, Instant::now()),
                (caller, LinkFailure::Timeout | LinkFailure::NotTaken) => {
                    caller.tell(Outcome::NotDone);
                }
                (caller, LinkFailure::Unknown) => caller.tell(Outcome::Unknown),
            },
            LinkAction::Deliver(delivery) => self.deliver(delivery),
            LinkAction::Kick { session, condition } => {
                if let Some(entry) = self.fabric.directory.find(&session.jid, session.number) {
                    end_session(&entry, condition);
                }
            }
            LinkAction::Moving(moving) => self.moving(moving),
        }
    }

    fn replied(&mut self, token: Token, reply: AskReply) {
        if let Some(binding) = token.bind
            && matches!(reply, AskReply::Bound | AskReply::Moved(_))
        {
            if matches!(&token.caller, Caller::Task(asker) if asker.is_closed()) {
                // Whoever asked is gone, and has given back what was not granted yet.
                return self.give_back(binding.key);
            }
            self.bound(*binding);
            if let AskReply::Moved(state) = &reply {
                self.picture.adopted(SessionState::clone(state));
            }
        }
        let asker = match &token.caller {
            Caller::Session { session, .. } => Some(Arc::clone(session)),
            Caller::Task(_) | Caller::Nobody | Caller::Notes(_) => None,
        };
        token.caller.tell(Outcome::Replied(reply));
        if let Some(asker) = asker {
            self.note_crowded(&asker);
        }
    }

    /// The owner has granted a resource: in the directory before anything that the owner says behind it.
    fn bound(&mut self, binding: Binding) {
        let Binding { key, mailbox } = binding;
        self.picture.bound(key.clone());
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

    /// Whether a session asks whose client may have asked the same elsewhere long ago: the node has stood still since.
    fn is_late(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Session { session, .. } => !session.is_as_of(self.fabric.standstill.times()),
            Caller::Task(_) | Caller::Nobody | Caller::Notes(_) => false,
        }
    }

    fn receive(&mut self, message: ToLink, ctx: &mut Context<Self>) {
        let now = Instant::now();
        match message {
            ToLink::Propose { caller, command } => {
                if matches!(caller, Caller::Nobody) {
                    return self.farewells.push_back(*command);
                }
                if self.is_late(&caller) {
                    return caller.tell(Outcome::Unknown);
                }
                let by = caller.asks_anew();
                let proposed = self.core.propose_by(by, caller.into(), *command, now);
                if let Err((token, _full)) = proposed {
                    token.caller.tell(Outcome::Full);
                }
            }
            ToLink::Publish { caller, publish } => {
                self.publish(caller, *publish, now);
            }
            #[cfg(feature = "bug-follower-read")]
            ToLink::Ask { caller, query } if crate::planted::is_read_here(&query) => {
                crate::planted::read_here(
                    Arc::clone(&self.fabric),
                    self.partition(),
                    *query,
                    caller,
                );
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
            ToLink::Adopt {
                caller,
                request,
                mailbox,
            } => {
                let key = request.key.clone();
                let bind = Some(Box::new(Binding { key, mailbox }));
                self.ask(Token { caller, bind }, Ask::Resume(request), now);
            }
            ToLink::Note { session, note } => self.notes.add(Note { session, note }),
            ToLink::Frame { from, epoch, down } => self.core.handle(from, epoch, *down, now),
            ToLink::OwnerIs { owner, epoch } => self.core.owner_is(owner, epoch, now),
            ToLink::PeerUp(node) => self.core.peer_up(node, now),
            ToLink::PeerDown(node) => self.peer_down(node),
            #[cfg(test)]
            ToLink::Panic => panic!("made to panic"),
        }
        self.run(ctx);
    }

    fn peer_down(&mut self, node: NodeId) {
        if self.core.is_owner(node) {
            self.picture.owner_lost(Instant::now());
        }
        self.core.peer_down(node);
    }

    /// What a client is told is refused is not noted, or the next attachment would bring it all the same. What nobody is
    /// told of is noted in any case: the attachment has to bring it.
    fn publish(&mut self, caller: Option<Caller>, publish: Publish, now: Instant) {
        let event = match (&publish, &caller) {
            (Publish::Session(event), Some(_)) => Some(event.clone()),
            (Publish::Session(event), None) => {
                self.note_event(event);
                None
            }
            _ => None,
        };
        match self.core.publish(caller.map(Token::from), publish, now) {
            Err((Some(token), _full)) => token.caller.tell(Outcome::Full),
            Err((None, _full)) => {}
            Ok(()) => {
                if let Some(event) = event {
                    self.note_event(&event);
                }
            }
        }
    }

    fn ask(&mut self, token: Token, ask: Ask, now: Instant) {
        if let Err((token, _full)) = self.core.ask(token, ask, now) {
            token.caller.tell(Outcome::Full);
        }
    }

    /// An attachment fits no frame: bounds elsewhere should have kept it small. Whoever takes the most of it has to begin
    /// anew, or no session of the node would ever be attached again.
    fn leave_out_largest(&mut self, part: &AttachPart, error: &storage::codec::CodecError) {
        let Some(largest) = largest(part) else {
            return tracing::error!(%error, "an attachment without users and rooms could not be encoded");
        };
        tracing::error!(%error, partition = %self.partition(), key = %largest, "too much to attach; its sessions end");
        let sessions = self.picture.leave_out(&largest);
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
            if note.inside {
                self.picture.entered(&delivery.key, note.session);
            } else if self.picture.left(&delivery.key, &note.session) {
                self.core.forget(&delivery.key);
            }
            if let Some(entry) = session {
                let room = delivery.key.clone();
                let told = entry.session.try_send(match (note.inside, delivery.place) {
                    (true, _) => ToSession::Entered {
                        room,
                        nick: note.nick,
                    },
                    (false, Some(_)) => ToSession::Left(room),
                    (false, None) => ToSession::NotInside(room),
                });
                if told.is_err() {
                    tracing::debug!("a session was gone before it could be told where it is");
                }
            }
        }
    }

    fn deliver_item(&mut self, key: &BareJid, item: &DeliveryItem) {
        for (target, number) in &item.targets {
            let Some(entry) = self.fabric.directory.find(target, *number) else {
                self.answer_for_gone(item);
                continue;
            };
            if let Some(row) = item.row
                && !self.picture.sent(key, target, row, Instant::now())
            {
                continue;
            }
            let bytes = match &item.tail {
                None => item.head.clone(),
                Some(tail) => addressed(&item.head, target, tail),
            };
            let row = item.row;
            match entry.session.try_send(ToSession::Deliver { bytes, row }) {
                Ok(()) => self.note_crowded(&entry.session),
                Err(SessionGone) => self.answer_for_gone(item),
            }
        }
    }

    /// Keeps the node's picture of a session up to date as its own words pass by.
    fn note_event(&mut self, event: &SessionEvent) {
        if let SessionEvent::Presence { key, .. } = event {
            self.picture.presence_changed(key, Instant::now());
        }
        if self.picture.note(event) {
            self.core.forget(&event.key().jid.bare());
        }
    }

    /// RFC 6121 §8.5.3.2.3: who asks a session that has just gone is answered all the same, or would wait for ever.
    fn answer_for_gone(&self, item: &DeliveryItem) {
        if !item.head.starts_with(b"<iq") || item.tail.is_some() {
            return;
        }
        let Some(answer) = answer_for_gone(&item.head) else {
            return;
        };
        let asker = answer.to.as_ref().map(Jid::bare);
        let Some(link) = asker.and_then(|asker| self.fabric.link_of(&asker)) else {
            return;
        };
        let publish = Box::new(Publish::Stanza(answer));
        let answered = link.try_send(ToLink::Publish {
            caller: None,
            publish,
        });
        if answered.is_err() {
            self.fabric.metrics.mailboxes_full.inc();
        }
    }
}

fn answer_for_gone(iq: &Bytes) -> Option<Stanza> {
    let document = Document::parse(iq.clone(), &Limits::OWN).ok()?;
    let iq = Stanza::from_element(&document.root()).ok()?;
    iq.is_request()
        .then(|| StanzaError::new(Condition::ServiceUnavailable).reply_to(&iq))
        .flatten()
}

fn end_session(entry: &Entry, condition: StreamErrorCondition) {
    if entry.session.try_send(ToSession::Kick(condition)).is_err() {
        tracing::debug!("a session was gone before it could be told to end");
    }
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
                actor.wake_sessions();
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

    #[test]
    fn who_asks_a_session_that_has_gone_is_answered() {
        let check = |iq: &'static str, expect: Option<&str>| {
            let answer = answer_for_gone(&Bytes::from_static(iq.as_bytes()));
            let to = answer.as_ref().and_then(|answer| answer.to.as_ref());
            assert_eq!(to.map(Jid::as_str), expect, "{iq}");
            assert!(answer.is_none_or(|answer| answer.type_.as_deref() == Some("error")));
        };
        let get = "<iq type='get' id='1' from='a@localhost/x' to='b@localhost/y'><ping xmlns='urn:xmpp:ping'/></iq>";
        check(get, Some("a@localhost/x"));
        check(
            "<iq type='result' id='1' from='a@localhost/x' to='b@localhost/y'/>",
            None,
        );
        check(
            "<iq type='error' id='1' from='a@localhost/x' to='b@localhost/y'/>",
            None,
        );
        check("<iq type='get'", None);
    }
}
