//! One user who is online, at the owner of the user's partition: the shell around [`messaging::user::publication`].
//!
//! Rows of the log and the log's position travel in one frame a node, so that a node notices a hole and attaches again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::SendError;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message};
use bytes::BytesMut;
use cluster::link::protocol::{
    Across, AskReply, Behind, Delivery, DeliveryItem, Down, Moving, Place,
};
use cluster::machine::Replica;
use cluster::node_id::{Epoch, NodeId, PartitionId};
use messaging::effect::{EffectMark, UserEffect};
use messaging::user::publication::{
    MoveRequest, Publication, PublicationAction, SessionEvent, SessionKey, SessionState,
};
use storage::archive::{Order, Rows};
use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza::Stanza;
use xmpp::stanza_error::{Condition, StanzaError};
use xmpp::stream_error::StreamErrorCondition;

use crate::fabric::Fabric;
use crate::mailbox::{Backlog, Weighed};
use crate::owner::{FromKey, ToOwner};
use crate::services::archive::rows_between;

/// Everything that can wake the actor.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToPublication {
    /// A defect.
    #[cfg(test)]
    Panic,
    /// Something was committed, in log order.
    Effect(EffectMark, UserEffect),
    /// A session wants its resource; `head`: the newest row whose effect this actor has been given.
    Bind {
        /// Its node.
        from: NodeId,
        /// The node's number for the question.
        request: u64,
        /// The session.
        key: SessionKey,
        /// See above.
        head: u64,
    },
    /// A session is to go on at another node; `head`: as for [`ToPublication::Bind`].
    Move {
        /// That node's number for the question.
        ask: u64,
        /// Which session.
        request: MoveRequest,
        /// See above.
        head: u64,
        /// Whether every node that can be reached has attached.
        gathered: bool,
    },
    /// A node has these sessions of the user.
    Attach {
        /// The node.
        node: NodeId,
        /// The sessions.
        sessions: Vec<SessionState>,
        /// The newest row the node has seen pass.
        cursor: u64,
        /// The newest row whose effect this actor has been given.
        head: u64,
    },
    /// Effects of the last seconds, for sessions of a node that has attached; `None`: for those that are expected.
    Again {
        /// The node.
        node: Option<NodeId>,
        /// The effects, in log order.
        effects: Vec<(EffectMark, UserEffect)>,
    },
    /// A node is gone, or attached without sessions of the user.
    NodeWithout(NodeId),
    /// Something happened to a session.
    Session(SessionEvent),
    /// A stanza without durability for the user.
    Stanza(Stanza),
    /// A contact's presence.
    PresenceIn(Arc<Stanza>),
    /// Somebody asks for the user's presence.
    Probe(BareJid),
    /// Sessions that the log says were up.
    Expected(Vec<(FullJid, u64, u64)>),
    /// The reign is over.
    End,
}

impl Weighed for ToPublication {
    fn bytes(&self) -> usize {
        match self {
            ToPublication::Effect(_, effect) => effect.size_hint(),
            ToPublication::Again { effects, .. } => {
                effects.iter().map(|(_, effect)| effect.size_hint()).sum()
            }
            ToPublication::Session(
                SessionEvent::Presence { stanza, .. }
                | SessionEvent::Directed { stanza, .. }
                | SessionEvent::Sends { stanza, .. }
                | SessionEvent::Down { stanza, .. },
            )
            | ToPublication::Stanza(stanza) => stanza.size_hint(),
            ToPublication::PresenceIn(stanza) => stanza.size_hint(),
            ToPublication::Attach { sessions, .. } => sessions.iter().map(state_bytes).sum(),
            ToPublication::Expected(sessions) => sessions.len() * 64,
            ToPublication::Session(_)
            | ToPublication::Bind { .. }
            | ToPublication::Move { .. }
            | ToPublication::NodeWithout(_)
            | ToPublication::Probe(_)
            | ToPublication::End => 0,
            #[cfg(test)]
            ToPublication::Panic => 0,
        }
    }
}

/// `for_now`: the node may ask again, and tells nobody that there is no such session.
fn move_refused(for_now: bool) -> AskReply {
    let condition = match for_now {
        true => Condition::RecipientUnavailable,
        false => Condition::ItemNotFound,
    };
    AskReply::Refused(Box::new(StanzaError::new(condition)))
}

fn state_bytes(state: &SessionState) -> usize {
    let presence = state.presence.as_ref().map_or(0, Stanza::size_hint);
    presence + state.directed.len() * 64 + state.unacknowledged.len() * 8
}

/// Something that needs the publication but not a session may keep it so long. Nobody asks while there are sessions, which is
/// nearly always: no timer for each user who is online.
const IDLE_CHECK: Duration = Duration::from_secs(15);

/// How long after rows could not be read, or the owner had no room, it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// One user who is online.
pub struct PublicationActor {
    fabric: Arc<Fabric>,
    partition: PartitionId,
    epoch: Epoch,
    user: BareJid,
    core: Option<Publication>,
    /// Rows could not be read: they are asked for again.
    unread: bool,
    /// What the owner had no room for: who is up or down. Others are shown a session only once that is in the log.
    unsaid: Option<Box<Unsaid>>,
    /// Either is due to be tried again.
    tries_again: bool,
    /// Whether there is something left to do is due to be looked at.
    looks_whether_idle: bool,
    /// Messages of the owner handled so far.
    handled: u64,
    backlog: Arc<Backlog>,
}

/// What is to be said to the owner, in order.
#[derive(Default)]
struct Unsaid {
    words: VecDeque<FromKey>,
}

impl PublicationActor {
    /// Pieces of work that may wait.
    pub const MAILBOX: usize = 8_192;
    /// Bytes of stanzas in them.
    pub const MAILBOX_BYTES: usize = 16 * 1024 * 1024;

    /// For a user. `backlog`: what waits in the mailbox.
    pub fn new(
        fabric: Arc<Fabric>,
        partition: PartitionId,
        epoch: Epoch,
        user: BareJid,
        backlog: Arc<Backlog>,
    ) -> PublicationActor {
        PublicationActor {
            fabric,
            partition,
            epoch,
            user,
            core: None,
            unread: false,
            unsaid: None,
            tries_again: false,
            looks_whether_idle: false,
            handled: 0,
            backlog,
        }
    }

    fn replica(&self) -> Arc<Replica> {
        Arc::clone(&self.fabric.partitions[usize::from(self.partition.0)].replica)
    }

    /// The core; one that begins now stands at `head`.
    fn core(&mut self, head: u64) -> &mut Publication {
        let (user, settings) = (&self.user, &self.fabric.publications);
        self.core
            .get_or_insert_with(|| Publication::new(user.clone(), head, Arc::clone(settings)))
    }

    /// Where the log stands by the state; only for work that no row depends on.
    fn head_now(&self) -> u64 {
        self.replica()
            .state()
            .logs
            .get(&self.user)
            .map(|log| log.head)
            .unwrap_or_default()
    }

    fn started_core(&mut self) -> &mut Publication {
        let head = match self.core {
            Some(_) => 0,
            None => self.head_now(),
        };
        self.core(head)
    }

    fn handle_message(&mut self, message: ToPublication) {
        let replica = self.replica();
        let actions = match message {
            ToPublication::Effect(mark, effect) => return self.effect(mark, effect, &replica),
            ToPublication::Bind {
                from,
                request,
                key,
                head,
            } => return self.bind(from, request, key, head),
            ToPublication::Move {
                ask,
                request,
                head,
                gathered,
            } => self.core(head).ask_move(request, ask, gathered),
            ToPublication::Attach {
                node,
                sessions,
                cursor,
                head,
            } => {
                let state = replica.state();
                self.core(head).attach(node.0, sessions, cursor, &*state)
            }
            ToPublication::Again { node, effects } => return self.again(node, effects),
            ToPublication::NodeWithout(node) => {
                self.started_core();
                let state = replica.state();
                self.started_core().node_gone(node.0, &*state)
            }
            ToPublication::Session(event) => return self.session(event),
            ToPublication::Stanza(stanza) => {
                self.started_core();
                let state = replica.state();
                self.started_core().route(stanza, &*state)
            }
            ToPublication::PresenceIn(stanza) => {
                self.started_core();
                let state = replica.state();
                self.started_core().presence_in(&stanza, &*state)
            }
            ToPublication::Probe(asker) => {
                self.started_core();
                let state = replica.state();
                self.started_core().probe(&asker, &*state)
            }
            ToPublication::Expected(sessions) => {
                self.started_core().expected(sessions);
                Vec::new()
            }
            ToPublication::End => Vec::new(),
            #[cfg(test)]
            ToPublication::Panic => panic!("made to panic"),
        };
        self.act(actions);
    }

    fn session(&mut self, event: SessionEvent) {
        self.started_core();
        let ends = matches!(event, SessionEvent::Down { .. });
        let replica = self.replica();
        let actions = {
            let state = replica.state();
            self.started_core().event(event, &*state)
        };
        self.act(actions);
        if ends {
            self.to_own(FromKey::CommitCursor(self.user.clone()));
        }
    }

    fn again(&mut self, node: Option<NodeId>, effects: Vec<(EffectMark, UserEffect)>) {
        let (node, replica) = (node.map(|node| node.0), self.replica());
        for (mark, effect) in effects {
            self.started_core();
            let actions = {
                let state = replica.state();
                let core = self.started_core();
                core.once_again(node, vec![effect], &*state)
            };
            self.act_on(Some(mark), actions);
        }
    }

    fn effect(&mut self, mark: EffectMark, effect: UserEffect, replica: &Replica) {
        let Some(core) = &mut self.core else { return };
        match effect {
            UserEffect::Logged {
                previous,
                row,
                also,
                ..
            } => {
                let actions = core.logged(previous, &row, &also, &replica.ids);
                self.act(actions);
            }
            effect @ UserEffect::Noted(_) => {
                let actions = core.once(effect, &*replica.state());
                self.act(actions);
            }
            effect => {
                let actions = core.once(effect, &*replica.state());
                self.act_on(Some(mark), actions);
            }
        }
    }

    fn bind(&mut self, from: NodeId, request: u64, key: SessionKey, head: u64) {
        let replica = self.replica();
        let bound = {
            let state = replica.state();
            match state.accounts.contains(&self.user) {
                true => self.core(head).bind(key, &*state),
                // Removed since it authenticated.
                false => Err(Box::new(StanzaError::new(Condition::NotAuthorized))),
            }
        };
        let reply = match bound {
            Ok(actions) => {
                self.act(actions);
                AskReply::Bound
            }
            Err(error) => AskReply::Refused(error),
        };
        self.down(from, &Down::Reply { request, reply });
    }

    fn down(&self, to: NodeId, down: &Down) {
        if let Err(error) = self.fabric.send_down(to, self.partition, self.epoch, down) {
            tracing::debug!(%error, %to, "a publication's frame did not leave; the node attaches again");
            let lost = ToOwner::FromKey(FromKey::Lost(to));
            if let Some(actors) = self.fabric.actors(self.partition)
                && actors.owner.try_send(lost).is_err()
            {
                self.fabric.metrics.mailboxes_full.inc();
            }
        }
    }

    fn kick(&self, session: SessionKey, condition: StreamErrorCondition) {
        let node = NodeId(session.node);
        self.down(node, &Down::Kick { session, condition });
    }

    /// Does what the core wants.
    fn act(&mut self, actions: Vec<PublicationAction>) {
        self.act_on(None, actions);
    }

    /// Does what the core wants; reads of the archive feed it again. `mark`: of the effect it follows from, where that may
    /// be told again.
    fn act_on(&mut self, mark: Option<EffectMark>, actions: Vec<PublicationAction>) {
        let mut work = std::collections::VecDeque::from(actions);
        let mut rows = RowFrames::default();
        while let Some(action) = work.pop_front() {
            match action {
                PublicationAction::Deliver {
                    sessions,
                    stanza,
                    row,
                } => rows.add(sessions, &stanza, row),
                PublicationAction::Position {
                    nodes,
                    previous,
                    seq,
                } => {
                    if previous == seq {
                        // Nothing has come since: a node that has seen this place would leave out what comes with it.
                        self.deliver_all(mark, &mut rows);
                    }
                    let place = Place {
                        previous: (previous > 0).then_some(previous),
                        seq,
                    };
                    for node in nodes {
                        let items = rows.take(node);
                        self.deliver(NodeId(node), Some(place), items);
                    }
                }
                PublicationAction::ReadRows {
                    session,
                    after,
                    upto,
                } => {
                    // What was to be delivered before the rows goes first.
                    self.deliver_all(mark, &mut rows);
                    let more = self.read_rows(&session, after, upto);
                    for action in more.into_iter().rev() {
                        work.push_front(action);
                    }
                }
                PublicationAction::Release { session, to } => {
                    // What was to be delivered before goes before.
                    self.deliver_all(mark, &mut rows);
                    self.tell_moving(session.node, Moving::Release { session, to });
                }
                PublicationAction::NoteSessions { up, down } => {
                    let unsaid = self.unsaid.get_or_insert_default();
                    unsaid.words.push_back(FromKey::NoteSessions { up, down });
                    self.say();
                }
                other => self.act_elsewhere(other),
            }
        }
        self.deliver_all(mark, &mut rows);
    }

    fn deliver_all(&self, mark: Option<EffectMark>, rows: &mut RowFrames) {
        for (node, items) in std::mem::take(&mut rows.nodes) {
            match mark {
                Some(mark) => self.tell(NodeId(node), mark, items),
                None => self.deliver(NodeId(node), None, items),
            }
        }
    }

    fn tell(&self, node: NodeId, mark: EffectMark, items: Vec<DeliveryItem>) {
        let delivery = Delivery {
            key: self.user.clone(),
            place: None,
            items,
            notes: Vec::new(),
        };
        self.down(node, &Down::Told { mark, delivery });
    }

    fn deliver(&self, node: NodeId, place: Option<Place>, items: Vec<DeliveryItem>) {
        let key = self.user.clone();
        match place {
            Some(place) if items.is_empty() => {
                let previous = place.previous.unwrap_or_default();
                self.down(
                    node,
                    &Down::Position {
                        key,
                        previous,
                        seq: place.seq,
                    },
                );
            }
            _ => self.down(
                node,
                &Down::Deliver(Delivery {
                    key,
                    place,
                    items,
                    notes: Vec::new(),
                }),
            ),
        }
    }

    fn read_rows(&mut self, session: &SessionKey, after: u64, upto: u64) -> Vec<PublicationAction> {
        let replica = self.replica();
        let found = rows_between(
            &replica,
            &self.user,
            Rows::Messages,
            after,
            upto,
            Order::OldestFirst,
            usize::MAX,
        );
        let Some(core) = &mut self.core else {
            return Vec::new();
        };
        let found = found.and_then(|rows| {
            let mut end = upto;
            if rows.is_empty() {
                let next = rows_between(
                    &replica,
                    &self.user,
                    Rows::Messages,
                    upto,
                    u64::MAX,
                    Order::OldestFirst,
                    1,
                )?;
                let next = next.first().map(|row| row.seq);
                end = core.past_gap(session, (after, upto), next);
            }
            Ok((rows, end))
        });
        match found {
            Ok((rows, end)) => core.offline_rows(session, after, end, &rows, &replica.ids),
            Err(error) => {
                tracing::error!(%error, "a user's log could not be read");
                core.rows_unavailable(session);
                self.unread = true;
                Vec::new()
            }
        }
    }

    fn act_elsewhere(&self, action: PublicationAction) {
        match action {
            PublicationAction::Broadcast { contacts, stanza } => {
                for (partition, targets) in self.by_partition(contacts) {
                    let across = Across::Presence {
                        targets,
                        stanza: Stanza::clone(&stanza),
                        behind: self.behind(partition),
                    };
                    self.to_owner_of(partition, &across);
                }
            }
            PublicationAction::Probe { contacts } => {
                for (partition, targets) in self.by_partition(contacts) {
                    self.to_owner_of(
                        partition,
                        &Across::Probe {
                            from: self.user.clone(),
                            targets,
                        },
                    );
                }
            }
            PublicationAction::Route(stanza) => {
                if let Some(to) = stanza.to.as_ref().map(|to| to.bare())
                    && to.domain() == self.fabric.settings.constants.domain
                {
                    let partition = self.fabric.partition_of(&to);
                    let behind = self.behind(partition);
                    self.to_owner_of(partition, &Across::Stanza { stanza, behind });
                }
            }
            PublicationAction::AdvanceCursor(delivered) => {
                self.to_own(FromKey::AdvanceCursor {
                    user: self.user.clone(),
                    delivered,
                });
            }
            PublicationAction::Kick(session) => self.kick(session, StreamErrorCondition::Conflict),
            PublicationAction::Expel(session) => {
                self.kick(session, StreamErrorCondition::NotAuthorized);
            }
            PublicationAction::Yield { session, to } => {
                self.tell_moving(session.node, Moving::Yield { session, to });
            }
            PublicationAction::Stay { session, to } => {
                self.tell_moving(session.node, Moving::Stay { session, to });
            }
            PublicationAction::Moved { ask, state } => {
                let node = NodeId(state.key.node);
                let (request, reply) = (ask, AskReply::Moved(state));
                self.down(node, &Down::Reply { request, reply });
            }
            PublicationAction::MoveRefused { to, ask, for_now } => {
                let reply = move_refused(for_now);
                let request = ask;
                self.down(NodeId(to.node), &Down::Reply { request, reply });
            }
            PublicationAction::Release { .. }
            | PublicationAction::NoteSessions { .. }
            | PublicationAction::Deliver { .. }
            | PublicationAction::Position { .. }
            | PublicationAction::ReadRows { .. } => {}
        }
    }

    fn tell_moving(&self, node: u64, moving: Moving) {
        self.down(NodeId(node), &Down::Moving(moving));
    }

    /// What soft state for this partition must not overtake. By the state, which may be ahead of the effects: the entry
    /// leaves with the next of them, or with those of the next owner.
    fn behind(&self, to: PartitionId) -> Option<Behind> {
        let replica = self.replica();
        let sequence = replica.state().newest_outbox(to.0)?;
        Some(Behind {
            from: self.partition,
            sequence,
        })
    }

    fn by_partition(&self, users: Vec<BareJid>) -> BTreeMap<PartitionId, Vec<BareJid>> {
        let mut partitions: BTreeMap<PartitionId, Vec<BareJid>> = BTreeMap::new();
        for user in users {
            partitions
                .entry(self.fabric.partition_of(&user))
                .or_default()
                .push(user);
        }
        partitions
    }

    fn to_owner_of(&self, partition: PartitionId, across: &Across) {
        if let Err(error) = self.fabric.send_to_owner(partition, across) {
            // The next owner is told.
            tracing::debug!(%error, "soft state did not leave");
        }
    }

    fn to_own(&self, request: FromKey) {
        let Some(actors) = self.fabric.actors(self.partition) else {
            return;
        };
        if actors.owner.try_send(ToOwner::FromKey(request)).is_err() {
            self.fabric.metrics.mailboxes_full.inc();
        }
    }

    /// Tells the owner what it has not been told, in its order, as far as there is room.
    fn say(&mut self) {
        let Some(actors) = self.fabric.actors(self.partition) else {
            return;
        };
        while let Some(unsaid) = &mut self.unsaid
            && let Some(request) = unsaid.words.pop_front()
        {
            let sent = actors.owner.try_send(ToOwner::FromKey(request));
            if let Err(SendError::Full(ToOwner::FromKey(request))) = sent {
                self.fabric.metrics.mailboxes_full.inc();
                unsaid.words.push_front(request);
                return;
            }
        }
        // There are as many of these as users who are online.
        self.unsaid = None;
    }

    /// After a failure, once.
    fn plan_to_try_again(&mut self, ctx: &mut Context<Self>) {
        let due = std::mem::take(&mut self.unread) || self.unsaid.is_some();
        if due && !std::mem::replace(&mut self.tries_again, true) {
            ctx.run_later(TRY_AGAIN, |actor, ctx| {
                actor.tries_again = false;
                actor.say();
                if let Some(core) = &mut actor.core {
                    let actions = core.read_again();
                    actor.act(actions);
                }
                actor.plan_to_try_again(ctx);
            });
        }
    }

    /// Without sessions it ends before long; what a session that has ended leaves behind may take a moment to be in the log.
    fn plan_to_end(&mut self, ctx: &mut Context<Self>) {
        let core = self.core.as_ref();
        let has_sessions = core.is_some_and(|core| core.sessions().next().is_some());
        if has_sessions || std::mem::replace(&mut self.looks_whether_idle, true) {
            return;
        }
        ctx.run_later(IDLE_CHECK, |actor, ctx| {
            actor.looks_whether_idle = false;
            actor.end_if_idle(ctx);
            actor.plan_to_end(ctx);
        });
    }

    fn end_if_idle(&mut self, ctx: &mut Context<Self>) {
        let replica = self.replica();
        let idle = match &self.core {
            Some(core) => core.is_idle(&*replica.state()),
            None => true,
        };
        if idle {
            // The owner knows whether anything is on its way here: only then it says that it ends.
            self.to_own(FromKey::Idle {
                user: self.user.clone(),
                publication: ctx.address(),
                handled: self.handled,
            });
        }
    }
}

/// What a row (with its carbons) means for each node, until its place is known.
#[derive(Default)]
struct RowFrames {
    nodes: BTreeMap<u64, Vec<DeliveryItem>>,
}

impl RowFrames {
    fn add(&mut self, sessions: Vec<SessionKey>, stanza: &Stanza, row: Option<u64>) {
        let mut nodes: BTreeMap<u64, Vec<(FullJid, u64)>> = BTreeMap::new();
        for session in sessions {
            nodes
                .entry(session.node)
                .or_default()
                .push((session.jid, session.number));
        }
        let (head, tail) = match &stanza.to {
            Some(_) => {
                let mut bytes = BytesMut::with_capacity(stanza.size_hint());
                stanza.write(&mut bytes);
                (bytes.freeze(), None)
            }
            None => {
                let template = stanza.split();
                (template.before().clone(), Some(template.after().clone()))
            }
        };
        for (node, targets) in nodes {
            let item = DeliveryItem {
                head: head.clone(),
                tail: tail.clone(),
                targets,
                row,
            };
            self.nodes.entry(node).or_default().push(item);
        }
    }

    fn take(&mut self, node: u64) -> Vec<DeliveryItem> {
        self.nodes.remove(&node).unwrap_or_default()
    }
}

impl Actor for PublicationActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(Self::MAILBOX);
        self.plan_to_end(ctx);
    }
}

impl Handler<ToPublication> for PublicationActor {
    type Result = ();

    fn handle(&mut self, message: ToPublication, ctx: &mut Self::Context) {
        self.handled += 1;
        self.backlog.take(message.bytes());
        match message {
            ToPublication::End => ctx.stop(),
            message => {
                self.handle_message(message);
                self.plan_to_try_again(ctx);
                self.plan_to_end(ctx);
            }
        }
    }
}
