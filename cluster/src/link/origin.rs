//! The node's end of the link to one partition: numbers what sessions ask, and brings back what became of it.
//!
//! ```text
//!            owner_is (higher epoch), peer_up
//!   Detached ───────────► Snapshotting ── parts ──► Attaching ── Attached ──► Attached
//!      ▲                                                │ no answer              │ hole, Reattach, nothing moves
//!      └─────────────── peer_down, NotOwner ────────────┴────────────────────────┘ (attach again)
//! ```
//!
//! Invariants: a proposal that has left the node keeps its number and is sent again after every attachment until its
//! answer has come; once its caller was told that the outcome is unknown, it is sent as [`Command::Nothing`], for a caller
//! that asks anew would have it twice; answers reach callers in the order of the proposals; a row of a key's log is delivered once and
//! never after a hole. A higher epoch wins, a lower one is never listened to.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Instant;

use messaging::command::{Answer, Command};
use messaging::user::publication::{MoveRequest, SessionKey};
use xmpp::jid::BareJid;
use xmpp::stream_error::StreamErrorCondition;

use super::cursors::{Cursors, Reading};
use super::numbered::{Expired, Numbered};
use super::parts::attach_parts;
use super::protocol::{
    Ask, AskReply, AttachPart, AttachRoom, AttachUser, Delivery, Down, Moving, Place, Publish, Up,
};
pub use super::settings::LinkSettings;
use super::size::{COMMAND_BYTES_MAX, measure};
use super::told::Told;
use crate::node_id::{Epoch, Incarnation, NodeId, PartitionId};

/// The link takes nothing more now, or never something so large: surely not done. Callers push back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link to the partition's owner is full")]
pub struct LinkFull;

/// What the node's shell must do.
#[derive(Debug, PartialEq, Eq)]
pub enum LinkAction<T> {
    /// Send a frame to the owner; if it can't be queued, [`LinkOrigin::peer_down`] must be told.
    Send {
        /// The owner.
        to: NodeId,
        /// Its epoch, for the header.
        epoch: Epoch,
        /// The body.
        up: Box<Up>,
    },
    /// Call [`LinkOrigin::snapshot`] with the node's sessions and occupants of the partition as they are now.
    NeedSnapshot,
    /// A proposal was committed, with this outcome.
    Answered {
        /// The caller's.
        token: T,
        /// The outcome.
        answer: Answer,
    },
    /// A soft publication was taken by the owner.
    Taken {
        /// The caller's.
        token: T,
    },
    /// A question was answered.
    Replied {
        /// The caller's.
        token: T,
        /// The answer.
        reply: AskReply,
    },
    /// The time is over.
    Failed {
        /// The caller's.
        token: T,
        /// What is known.
        failure: LinkFailure,
    },
    /// Stanzas for sessions of the node.
    Deliver(Delivery),
    /// End a session's stream.
    Kick {
        /// Which.
        session: SessionKey,
        /// Why.
        condition: StreamErrorCondition,
    },
    /// A session is on its way from one node to another.
    Moving(Moving),
}

/// What is known of something that came to nothing in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFailure {
    /// A question without an answer, or a proposal that never left the node: surely not done.
    Timeout,
    /// A proposal or publication that has left the node: it may or may not be done, now or later.
    Unknown,
    /// A soft publication that never left the node: surely not taken.
    NotTaken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody to talk to; at `retry` the known owner is tried again.
    Detached { retry: Option<Instant> },
    /// [`LinkAction::NeedSnapshot`] is out.
    Snapshotting,
    /// The parts are out.
    Attaching { since: Instant },
    /// Frames flow.
    Attached { since: Instant },
}

struct Asked<T> {
    token: T,
    ask: Ask,
    bytes: u64,
    deadline: Instant,
}

/// The core of a node's end of the link; `T`: what the caller wants back with an outcome.
pub struct LinkOrigin<T> {
    partition: PartitionId,
    node: NodeId,
    incarnation: Incarnation,
    settings: LinkSettings,
    owner: Option<(NodeId, Epoch)>,
    phase: Phase,
    attempt: u64,
    attempted: Option<Instant>,
    progress: Option<Instant>,
    /// The newest `now` that was passed in, for [`LinkOrigin::peer_down`].
    now: Option<Instant>,
    proposals: Numbered<T, Command>,
    publishes: Numbered<T, Publish>,
    asks: BTreeMap<u64, Asked<T>>,
    asks_bytes: u64,
    asked: u64,
    /// A session's news found no room: only a new attachment can bring it.
    resync: bool,
    /// What stands in no row and was told lately.
    told: Told,
    cursors: Cursors,
    actions: VecDeque<LinkAction<T>>,
}

impl<T> std::fmt::Debug for LinkOrigin<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkOrigin")
            .field("partition", &self.partition)
            .field("node", &self.node)
            .field("owner", &self.owner)
            .field("phase", &self.phase)
            .field("proposals", &self.proposals.len())
            .field("publishes", &self.publishes.len())
            .field("asks", &self.asks.len())
            .finish_non_exhaustive()
    }
}

impl<T> LinkOrigin<T> {
    /// Without an owner yet.
    pub fn new(
        partition: PartitionId,
        node: NodeId,
        incarnation: Incarnation,
        settings: LinkSettings,
    ) -> Self {
        LinkOrigin {
            partition,
            node,
            incarnation,
            settings,
            owner: None,
            phase: Phase::Detached { retry: None },
            attempt: 0,
            attempted: None,
            progress: None,
            now: None,
            proposals: Numbered::new(),
            publishes: Numbered::new(),
            asks: BTreeMap::new(),
            asks_bytes: 0,
            asked: 0,
            resync: false,
            told: Told::default(),
            cursors: Cursors::default(),
            actions: VecDeque::new(),
        }
    }

    /// The partition at the other end.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The owner and its epoch while frames flow.
    pub fn attached(&self) -> Option<(NodeId, Epoch)> {
        self.owner
            .filter(|_| matches!(self.phase, Phase::Attached { .. }))
    }

    /// Admits a durable command of the node's own, which goes on however long it takes; its outcome is told by
    /// [`LinkAction::Answered`] or [`LinkAction::Failed`].
    ///
    /// # Errors
    /// [`LinkFull`] with the token: it has no number and is surely not done.
    pub fn propose(
        &mut self,
        token: T,
        command: Command,
        now: Instant,
    ) -> Result<(), (T, LinkFull)> {
        self.propose_by(None, token, command, now)
    }

    /// The same of somebody who asks anew elsewhere when told that an outcome is unknown: then this and all that the same
    /// one has asked since is withdrawn, and takes effect no more unless it has already.
    ///
    /// # Errors
    /// As [`LinkOrigin::propose`].
    pub fn propose_by(
        &mut self,
        by: Option<u64>,
        token: T,
        command: Command,
        now: Instant,
    ) -> Result<(), (T, LinkFull)> {
        let now = self.clock(now);
        let up = Up::Propose {
            incarnation: self.incarnation.0,
            sequence: 0,
            command,
        };
        let bytes = measure(&up);
        let Up::Propose { command, .. } = up else {
            return Err((token, LinkFull));
        };
        let window = self
            .settings
            .proposals_max
            .min(messaging::link_record::ANSWERS_MAX);
        if self.proposals.len() >= window || !self.has_room(bytes) {
            return Err((token, LinkFull));
        }
        let deadline = now + self.settings.deadline;
        self.proposals
            .push_by(by, Some(token), command, bytes, deadline);
        self.pump(now);
        Ok(())
    }

    /// Admits soft state; with a token [`LinkAction::Taken`] or [`LinkAction::Failed`] tells its outcome.
    ///
    /// # Errors
    /// [`LinkFull`] with the token: surely not taken. News of a session that nobody is told is refused is not lost by
    /// that: the next attachment brings it.
    pub fn publish(
        &mut self,
        token: Option<T>,
        publish: Publish,
        now: Instant,
    ) -> Result<(), (Option<T>, LinkFull)> {
        let now = self.clock(now);
        let up = Up::Publish { number: 0, publish };
        let bytes = measure(&up);
        let Up::Publish { publish, .. } = up else {
            return Err((token, LinkFull));
        };
        if self.publishes.len() >= self.settings.publishes_max || !self.has_room(bytes) {
            self.resync |= token.is_none() && matches!(publish, Publish::Session(_));
            return Err((token, LinkFull));
        }
        self.publishes
            .push(token, publish, bytes, now + self.settings.deadline);
        self.pump(now);
        Ok(())
    }

    /// Asks; [`LinkAction::Replied`] or [`LinkAction::Failed`] follows.
    ///
    /// # Errors
    /// [`LinkFull`] with the token.
    pub fn ask(&mut self, token: T, ask: Ask, now: Instant) -> Result<(), (T, LinkFull)> {
        let now = self.clock(now);
        match &ask {
            Ask::Bind(session) | Ask::Resume(MoveRequest { key: session, .. }) => {
                self.cursors.welcome(&session.jid.bare());
            }
            Ask::Query(_) => {}
        }
        let up = Up::Ask { request: 0, ask };
        let bytes = measure(&up);
        let Up::Ask { ask, .. } = up else {
            return Err((token, LinkFull));
        };
        if self.asks.len() >= self.settings.asks_max || !self.has_room(bytes) {
            return Err((token, LinkFull));
        }
        self.asked += 1;
        self.asks_bytes += bytes;
        let request = self.asked;
        if self.attached().is_some() {
            self.note_opening(now);
            self.send(Up::Ask {
                request,
                ask: ask.clone(),
            });
        }
        let deadline = now + self.settings.deadline;
        self.asks.insert(
            request,
            Asked {
                token,
                ask,
                bytes,
                deadline,
            },
        );
        Ok(())
    }

    fn has_room(&self, bytes: u64) -> bool {
        let waiting = self.proposals.bytes() + self.publishes.bytes() + self.asks_bytes;
        bytes <= COMMAND_BYTES_MAX && waiting + bytes <= self.settings.bytes_max
    }

    /// A hint of who owns the partition; a higher epoch than the known one wins and is attached to.
    pub fn owner_is(&mut self, owner: NodeId, epoch: Epoch, now: Instant) {
        let now = self.clock(now);
        if self.owner.is_none_or(|(_, known)| known < epoch) {
            self.owner = Some((owner, epoch));
            self.attach(now);
        }
    }

    /// The ROUTE connection to a node is there, perhaps anew: what was on its way may be lost.
    pub fn peer_up(&mut self, node: NodeId, now: Instant) {
        let now = self.clock(now);
        if self.is_owner(node) {
            self.attach(now);
        }
    }

    /// The ROUTE connection to a node is gone, or didn't take a frame.
    pub fn peer_down(&mut self, node: NodeId) {
        if self.is_owner(node) {
            let retry = self.now.map(|now| now + self.settings.retry_wait);
            self.detach(retry);
        }
    }

    /// Whether the partition's owner, as far as is known, is on this node.
    pub fn is_owner(&self, node: NodeId) -> bool {
        self.owner.is_some_and(|(owner, _)| owner == node)
    }

    /// The key has no session or occupant here any more.
    pub fn forget(&mut self, key: &BareJid) {
        self.cursors.forget(key);
    }

    /// The node's sessions and occupants of the partition; cursors are filled in here.
    pub fn snapshot(
        &mut self,
        mut users: Vec<AttachUser>,
        mut rooms: Vec<AttachRoom>,
        now: Instant,
    ) {
        let now = self.clock(now);
        if self.phase != Phase::Snapshotting {
            return;
        }
        let keys: HashSet<&BareJid> = users
            .iter()
            .map(|user| &user.user)
            .chain(rooms.iter().map(|room| &room.room))
            .collect();
        self.cursors.keep(&keys);
        for user in &mut users {
            user.cursor = self.cursors.get(&user.user);
        }
        for room in &mut rooms {
            room.cursor = self.cursors.get(&room.room);
        }
        let head = AttachPart {
            incarnation: self.incarnation.0,
            attempt: self.attempt,
            answered: self.proposals.first() - 1,
            taken: self.publishes.first() - 1,
            ..AttachPart::default()
        };
        self.resync = false;
        self.phase = Phase::Attaching { since: now };
        for part in attach_parts(&head, users, rooms) {
            self.send(Up::Attach(part));
        }
    }

    /// A frame from `from`, sent in `epoch`.
    pub fn handle(&mut self, from: NodeId, epoch: Epoch, down: Down, now: Instant) {
        let now = self.clock(now);
        if let Down::NotOwner { hint } = down {
            return self.not_owner(from, epoch, hint, now);
        }
        match self.owner {
            Some((owner, known)) if owner == from && known == epoch => {}
            Some((_, known)) if known >= epoch => return,
            // Nothing of a reign counts before the attachment to it.
            _ => return self.owner_is(from, epoch, now),
        }
        match down {
            Down::Attached {
                attempt,
                last_applied,
                answers,
            } => self.on_attached(attempt, last_applied, answers, now),
            Down::Answer { sequence, answer } => self.on_answer(sequence, answer, now),
            Down::Taken { number } => self.on_taken(number, now),
            Down::Deliver(delivery) => self.on_deliver(delivery, now),
            Down::Told { mark, delivery } => {
                if self.told.is_first(mark, now) {
                    self.on_deliver(delivery, now);
                }
            }
            Down::Position {
                key,
                previous: 0,
                seq,
            } => self.cursors.start(&key, seq),
            Down::Position { key, previous, seq } => {
                let place = Place {
                    previous: Some(previous),
                    seq,
                };
                self.read(&key, place, false, now);
            }
            Down::Reply { request, reply } => self.on_reply(request, reply, now),
            Down::Reattach => self.attach_again(now),
            Down::Kick { session, condition } => self
                .actions
                .push_back(LinkAction::Kick { session, condition }),
            Down::Moving(moving) => self.actions.push_back(LinkAction::Moving(moving)),
            Down::NotOwner { .. } => {}
        }
    }

    fn not_owner(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        hint: Option<(NodeId, Epoch)>,
        now: Instant,
    ) {
        if let Some((owner, epoch)) = hint {
            self.owner_is(owner, epoch, now);
        }
        // Of an earlier reign it says nothing about this one.
        let known = self.owner.is_some_and(|(_, known)| known <= epoch);
        if self.is_owner(from) && known && self.phase != Phase::Snapshotting {
            // It doesn't own the partition any more, or doesn't know yet that it does.
            self.detach(Some(now + self.settings.retry_wait));
        }
    }

    fn on_attached(
        &mut self,
        attempt: u64,
        last_applied: u64,
        answers: Vec<(u64, Answer)>,
        now: Instant,
    ) {
        if attempt != self.attempt || !matches!(self.phase, Phase::Attaching { .. }) {
            return;
        }
        for (sequence, answer) in answers {
            self.settle_unanswered(sequence.saturating_sub(1).min(last_applied));
            if sequence == self.proposals.first() {
                self.settle_proposal(answer);
            }
        }
        self.settle_unanswered(last_applied);
        self.phase = Phase::Attached { since: now };
        self.progress = Some(now);
        self.proposals.rewind();
        self.publishes.rewind();
        let asks: Vec<Up> = self
            .asks
            .iter()
            .map(|(request, asked)| Up::Ask {
                request: *request,
                ask: asked.ask.clone(),
            })
            .collect();
        asks.into_iter().for_each(|ask| self.send(ask));
        self.pump(now);
    }

    /// Numbers up to this one are applied, but their answers are no longer kept.
    fn settle_unanswered(&mut self, upto: u64) {
        while self.proposals.first() <= upto
            && let Some(token) = self.proposals.settle()
        {
            self.fail(token, LinkFailure::Unknown);
        }
    }

    fn on_answer(&mut self, sequence: u64, answer: Answer, now: Instant) {
        let first = self.proposals.first();
        if sequence == first {
            self.progress = Some(now);
            self.settle_proposal(answer);
        } else if sequence > first {
            // An answer before this one was lost; the attachment brings it.
            self.attach_again(now);
        }
    }

    fn settle_proposal(&mut self, answer: Answer) {
        if let Some(Some(token)) = self.proposals.settle() {
            self.actions
                .push_back(LinkAction::Answered { token, answer });
        }
    }

    fn on_taken(&mut self, number: u64, now: Instant) {
        while self.publishes.first() <= number
            && let Some(token) = self.publishes.settle()
        {
            self.progress = Some(now);
            if let Some(token) = token {
                self.actions.push_back(LinkAction::Taken { token });
            }
        }
        if self.resync && self.publishes.len() == 0 {
            self.attach_again(now);
        }
    }

    fn on_reply(&mut self, request: u64, reply: AskReply, now: Instant) {
        if let Some(asked) = self.asks.remove(&request) {
            self.progress = Some(now);
            self.asks_bytes -= asked.bytes;
            self.actions.push_back(LinkAction::Replied {
                token: asked.token,
                reply,
            });
        }
    }

    fn on_deliver(&mut self, delivery: Delivery, now: Instant) {
        let passes = match delivery.place {
            None => true,
            Some(place) => {
                let begins = delivery.notes.iter().any(|note| note.inside);
                self.read(&delivery.key, place, begins, now)
            }
        };
        if passes {
            self.actions.push_back(LinkAction::Deliver(delivery));
        }
    }

    /// Whether a row is next in its key's log; a hole leads to an attachment.
    fn read(&mut self, key: &BareJid, place: Place, begins: bool, now: Instant) -> bool {
        let reading = self.cursors.read(key, place, begins);
        // Just after an attachment what is missing may be on its way: the timer looks again.
        if reading == Reading::Hole && self.holes_due().is_some_and(|due| due <= now) {
            self.attach_again(now);
        }
        reading == Reading::Next
    }

    /// The next action.
    pub fn poll_action(&mut self) -> Option<LinkAction<T>> {
        self.actions.pop_front()
    }

    /// When [`LinkOrigin::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let asks = self.asks.first_key_value().map(|(_, asked)| asked.deadline);
        let phase = match self.phase {
            Phase::Detached { retry } => retry,
            Phase::Snapshotting => None,
            Phase::Attaching { since } => Some(since + self.settings.attach_wait),
            Phase::Attached { .. } => [self.stall_due(), self.holes_due()]
                .into_iter()
                .flatten()
                .min(),
        };
        [
            self.proposals.deadline(),
            self.publishes.deadline(),
            asks,
            phase,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.clock(now);
        self.expire(now);
        let overdue = match self.phase {
            Phase::Detached { retry } => retry,
            Phase::Snapshotting => None,
            Phase::Attaching { since } => Some(since + self.settings.attach_wait),
            Phase::Attached { .. } => [self.stall_due(), self.holes_due()]
                .into_iter()
                .flatten()
                .min(),
        };
        if overdue.is_some_and(|due| due <= now) {
            self.attach(now);
        }
    }

    fn stall_due(&self) -> Option<Instant> {
        let open = self.proposals.is_open() || self.publishes.is_open() || !self.asks.is_empty();
        self.progress
            .filter(|_| open)
            .map(|progress| progress + self.settings.stall_wait)
    }

    fn holes_due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Attached { since } if self.cursors.has_holes() => {
                Some(since + self.settings.hole_wait)
            }
            _ => None,
        }
    }

    fn expire(&mut self, now: Instant) {
        for Expired { token, sent } in self.proposals.expire(now, withdraw) {
            self.fail(
                token,
                if sent {
                    LinkFailure::Unknown
                } else {
                    LinkFailure::Timeout
                },
            );
        }
        for Expired { token, sent } in self.publishes.expire(now, |_| {}) {
            self.fail(
                token,
                if sent {
                    LinkFailure::Unknown
                } else {
                    LinkFailure::NotTaken
                },
            );
        }
        while let Some(oldest) = self.asks.first_entry()
            && oldest.get().deadline <= now
        {
            let asked = oldest.remove();
            self.asks_bytes -= asked.bytes;
            self.fail(Some(asked.token), LinkFailure::Timeout);
        }
    }

    fn fail(&mut self, token: Option<T>, failure: LinkFailure) {
        if let Some(token) = token {
            self.actions
                .push_back(LinkAction::Failed { token, failure });
        }
    }

    /// Attaches at once, unless it was tried just now.
    fn attach_again(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Attached { .. }) {
            return;
        }
        match self
            .attempted
            .map(|attempted| attempted + self.settings.attach_pause)
        {
            Some(due) if due > now => self.detach(Some(due)),
            _ => self.attach(now),
        }
    }

    fn attach(&mut self, now: Instant) {
        if self.owner.is_none() || self.phase == Phase::Snapshotting {
            return;
        }
        self.drop_unsent();
        self.attempt += 1;
        self.attempted = Some(now);
        self.phase = Phase::Snapshotting;
        self.actions.push_back(LinkAction::NeedSnapshot);
    }

    fn detach(&mut self, retry: Option<Instant>) {
        self.drop_unsent();
        self.actions
            .retain(|action| !matches!(action, LinkAction::NeedSnapshot));
        self.phase = Phase::Detached { retry };
    }

    /// Frames that wait for the shell go nowhere: all that counts is sent again after the attachment.
    fn drop_unsent(&mut self) {
        self.actions
            .retain(|action| !matches!(action, LinkAction::Send { .. }));
    }

    fn pump(&mut self, now: Instant) {
        if self.attached().is_none() {
            return;
        }
        // A process that stood still sends nothing whose time is over.
        self.expire(now);
        self.note_opening(now);
        while let Some((sequence, command)) = self.proposals.send_next() {
            let up = Up::Propose {
                incarnation: self.incarnation.0,
                sequence,
                command: command.clone(),
            };
            self.send(up);
        }
        while let Some((number, publish)) = self.publishes.send_next() {
            let up = Up::Publish {
                number,
                publish: publish.clone(),
            };
            self.send(up);
        }
    }

    /// While nothing is open nothing can move: the time without progress begins with the first that is.
    fn note_opening(&mut self, now: Instant) {
        if self.stall_due().is_none() {
            self.progress = Some(now);
        }
    }

    fn send(&mut self, up: Up) {
        if let Some((to, epoch)) = self.owner {
            let up = Box::new(up);
            self.actions.push_back(LinkAction::Send { to, epoch, up });
        }
    }

    /// The caller's clock, kept from falling so that deadlines stand in order.
    fn clock(&mut self, now: Instant) -> Instant {
        let now = self.now.map_or(now, |newest| newest.max(now));
        self.now = Some(now);
        now
    }
}

fn withdraw(command: &mut Command) {
    *command = Command::Nothing;
}

#[cfg(test)]
#[path = "origin_tests.rs"]
mod tests;
