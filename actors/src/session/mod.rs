//! One client's stream as an actor, from bind to its end.
//!
//! ```text
//!   socket ─► StreamCore ─► stanza ─► message | presence | iq ─► link or answer
//!                                                     outcome ─► settled: `h` rises
//!   deliveries ─► counted, kept until acknowledged ─► socket
//! ```
//!
//! Every stanza that comes in is *settled* exactly once: when its command was committed, its soft state taken, its answer
//! written, or when it was surely refused. What isn't settled within 10 s ends the stream without being counted.

mod archives;
mod count;
mod incoming;
mod io;
mod iq;
mod lanes;
mod message;
mod moving;
mod pending;
mod presence;
mod resumption;
mod sanitise;
mod shaping;
mod turn;
mod unmanaged;
mod waiting;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, SpawnHandle};
use bytes::{Bytes, BytesMut};
use cluster::link::protocol::Publish;
use messaging::command::Command;
use messaging::room::command::{RoomAction, RoomCommand};
use messaging::user::publication::{MoveRequest, SessionEvent, SessionFlags, SessionKey};
use tokio::io::{ReadHalf, WriteHalf};
use xmpp::client_state::{Offer, Quiet};
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::stream::{StreamCore, Transport};
use xmpp::stream_error::{StreamError, StreamErrorCondition};
use xmpp::stream_management::{Inbound, Outbound};

pub(crate) use io::LINGER_BYTES_MAX;
pub use moving::Adopted;
pub use resumption::{Granted, NewLine, ResumeRequest};
pub use waiting::WaitingBytes;

use crate::claim::Claim;
use crate::connections::Connection;
use crate::fabric::Fabric;
use crate::link::{Caller, Outcome, ToLink, tell};
use crate::listener::Wire;
use crate::mailbox::{SessionMailbox, Wake};
use archives::{Turns, WaitingQuery};
use lanes::Lanes;
use pending::{Handling, OpenRequests, PendingByTicket};
use resumption::{Resumption, Sent};
use shaping::Shaping;
use unmanaged::Unmanaged;

/// Everything but its socket that can come to a session.
pub enum ToSession {
    /// What became of something it asked.
    Outcome {
        /// Its own number for it.
        ticket: u64,
        /// What.
        outcome: Outcome,
    },
    /// A stanza for the client.
    Deliver {
        /// The stanza.
        bytes: Bytes,
        /// The row of the user's log it delivers.
        row: Option<u64>,
    },
    /// The session has entered a room, or has another nickname there.
    Entered {
        /// Which.
        room: BareJid,
        /// Its nickname.
        nick: String,
    },
    /// The session has left a room.
    Left(BareJid),
    /// The session takes itself for an occupant of a room that knows nothing of it.
    NotInside(BareJid),
    /// A client wants to go on with the session.
    Resume(Box<ResumeRequest>),
    /// Its connection.
    Reconnect(Box<NewLine>),
    /// Another node wants the session.
    Yield(Box<MoveRequest>),
    /// It is another node's, under this key.
    Release(SessionKey),
    /// Nobody wants it under this key any more.
    Stay(SessionKey),
    /// The log has so much of its count.
    Said(u64),
    /// Go on at another node: this one is to be emptied.
    Depart,
    /// End the stream.
    Kick(StreamErrorCondition),
    /// End the stream without a word, so that the client goes on at another node: this one can't serve it.
    Leave,
}

/// What a session begins with.
pub struct SessionParts {
    /// The node.
    pub fabric: Arc<Fabric>,
    /// The negotiated stream.
    pub core: StreamCore,
    /// Its socket.
    pub wire: Wire,
    /// Its place among the node's connections.
    pub connection: Connection,
    /// Its resource.
    pub claim: Claim,
    /// The generation of its account.
    pub account: u64,
    /// Where the client connects from.
    pub address: IpAddr,
}

/// One client's stream.
pub struct SessionActor {
    fabric: Arc<Fabric>,
    key: SessionKey,
    bare: BareJid,
    /// The generation of the account.
    account: u64,
    core: StreamCore,
    reader: Option<ReadHalf<Wire>>,
    writer: Option<WriteHalf<Wire>>,
    /// The read and the write under way.
    reading: Option<SpawnHandle>,
    write_task: Option<SpawnHandle>,
    out: BytesMut,
    /// Bytes handed to the socket and not yet taken by it.
    writing: usize,
    management: Option<Box<Management>>,
    /// Whether it outlives its connection.
    resumption: Option<Box<Resumption>>,
    pending: PendingByTicket,
    open: OpenRequests,
    /// The order of what it asks.
    lanes: Lanes<Handling>,
    archives: Option<Box<Turns<WaitingQuery>>>,
    /// `None`: it comes from a trusted network, and is read as fast as it sends.
    shaping: Option<Shaping>,
    next_ticket: u64,
    /// What waits while the client says that nobody looks at it (XEP-0352).
    quiet: Option<Box<Quiet>>,
    flags: SessionFlags,
    /// A presence was broadcast and not taken back.
    available: bool,
    /// Rooms the session is in, or has asked to enter.
    rooms: HashMap<BareJid, Stay>,
    /// Rows delivered to a client without stream management, waiting for the answer to a ping.
    unmanaged: Option<Box<Unmanaged>>,
    timer: Option<(Instant, SpawnHandle)>,
    /// As the directory has it.
    mailbox: Arc<SessionMailbox>,
    ending: Ending,
    /// The client has gone; when the session goes, whatever is still unsettled.
    leaves_by: Option<Instant>,
    /// Why it ends, for the log: the first reason counts.
    why: Option<&'static str>,
    address: IpAddr,
    began: Instant,
    said_goodbye: bool,
    /// A stop of the node waits for it.
    connection: Option<Connection>,
    /// As long as it is to go to another node, a stop waits for it without a connection, too.
    waits_to_leave: Option<Connection>,
}

/// A session's stay in a room, from its request to enter.
struct Stay {
    nick: String,
    /// The room has let it in.
    granted: bool,
}

/// XEP-0198, once it is enabled.
struct Management {
    inbound: Inbound,
    outbound: Outbound<Sent>,
}

/// How far a session's end has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It lives.
    No,
    /// The last bytes are being written.
    Flushing(Instant),
    /// They are out: the client is to close its connection. What it still sends is read and dropped, for a connection with
    /// unread bytes would be reset, and the last words with it.
    Lingering {
        until: Instant,
        /// Bytes that it may still send.
        left: usize,
    },
}

/// Bytes of answers to what a session had asked before it stopped being read, beyond what may be due to it.
const ANSWERS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How long a timer may be kept for which there is no reason any more.
const STALE_TIMER_MAX: Duration = Duration::from_secs(2);

/// Pieces taken before other sessions of the thread get their turn.
const PIECES_AT_ONCE: usize = 64;

/// How long the last bytes may take.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// How long what a client has sent may take after it is gone.
const LEAVE_MAX: Duration = Duration::from_secs(5);

impl SessionActor {
    /// Wakes that may wait; what they are for is in the [`SessionMailbox`].
    pub const MAILBOX: usize = 4;

    /// Starts the actor on the current arbiter.
    pub fn begin(parts: SessionParts) {
        let SessionParts {
            fabric,
            core,
            wire,
            connection,
            claim,
            account,
            address,
        } = parts;
        let (key, mailbox) = (claim.key().clone(), Arc::clone(claim.mailbox()));
        let Some(place) = claim.take_place() else {
            return tracing::error!(session = key.number, "a session without a place");
        };
        let (reader, writer) = tokio::io::split(wire);
        let trusted = fabric.settings.client.is_trusted(address);
        fabric.metrics.sessions.inc();
        fabric.metrics.logins.inc();
        place.run(SessionActor {
            core,
            reader: Some(reader),
            writer: Some(writer),
            shaping: (!trusted).then(Shaping::default),
            address,
            connection: Some(connection),
            ..SessionActor::unconnected(fabric, key, mailbox, account)
        });
    }

    /// A session without a connection, about to get one or to wait for it.
    fn unconnected(
        fabric: Arc<Fabric>,
        key: SessionKey,
        mailbox: Arc<SessionMailbox>,
        account: u64,
    ) -> SessionActor {
        let streams = Arc::clone(&fabric.streams);
        let mut core = StreamCore::new(streams, Transport::Plain, [0; 32], Instant::now());
        core.close_unfinished();
        SessionActor {
            bare: key.jid.bare(),
            fabric,
            account,
            core,
            reader: None,
            writer: None,
            reading: None,
            write_task: None,
            out: BytesMut::new(),
            writing: 0,
            management: None,
            resumption: None,
            pending: PendingByTicket::default(),
            open: OpenRequests::default(),
            lanes: Lanes::default(),
            archives: None,
            shaping: None,
            next_ticket: 1,
            quiet: None,
            flags: SessionFlags::default(),
            available: false,
            rooms: HashMap::new(),
            unmanaged: None,
            timer: None,
            mailbox,
            ending: Ending::No,
            leaves_by: None,
            why: None,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            began: Instant::now(),
            said_goodbye: false,
            connection: None,
            waits_to_leave: None,
            key,
        }
    }

    fn jid(&self) -> &FullJid {
        &self.key.jid
    }

    /// Writes a stanza of the server's own, counted as sent.
    fn send(&mut self, stanza: &Stanza, ctx: &mut Context<Self>) {
        let mut bytes = BytesMut::with_capacity(stanza.size_hint());
        stanza.write(&mut bytes);
        self.send_bytes(bytes.freeze(), None, ctx);
    }

    /// Writes a stanza, counted as sent; `row`: what it delivers.
    fn send_bytes(&mut self, bytes: Bytes, row: Option<u64>, ctx: &mut Context<Self>) {
        if self.ending != Ending::No || self.leaves_by.is_some() {
            return;
        }
        let detached = self.is_detached();
        if !detached {
            self.out.extend_from_slice(&bytes);
            self.fabric.metrics.stanzas_out.inc();
        }
        match &mut self.management {
            Some(management) => {
                let size = bytes.len();
                let bytes = match self.resumption {
                    Some(_) => bytes,
                    None => Bytes::new(),
                };
                let sent = Sent { row, bytes };
                match management.outbound.sent(sent, size, Instant::now()) {
                    Ok(_) if detached => {
                        management.outbound.disconnected();
                        self.waits_more(size);
                    }
                    Ok(true) => self
                        .out
                        .extend_from_slice(&xmpp::stream_management::request()),
                    Ok(false) => {}
                    // Only rooms send to it still: what does not fit is theirs, and its client enters them anew.
                    Err(_) if row.is_none() && self.is_released() => return self.park(ctx),
                    Err(_) => {
                        return self.end(
                            StreamError::new(StreamErrorCondition::ResourceConstraint),
                            ctx,
                        );
                    }
                }
            }
            None => {
                if let Some(row) = row {
                    self.unmanaged.get_or_insert_default().newest = row;
                    self.ping_unmanaged(ctx);
                }
            }
        }
        if self.to_write() > self.fabric.settings.client.outgoing_bytes_max + ANSWERS_BYTES_MAX {
            // What was delivered is bounded by the links, and what it asked by not being read: none of its answers leaves.
            self.fabric.metrics.slow_sessions.inc();
            self.out.clear();
            return self.end(
                StreamError::new(StreamErrorCondition::ResourceConstraint),
                ctx,
            );
        }
        self.flush(ctx);
    }

    /// Writes what others sent. While nobody looks at the client, what can wait does; what can't takes it along, so that
    /// nothing is overtaken.
    fn deliver(&mut self, bytes: Bytes, row: Option<u64>, ctx: &mut Context<Self>) {
        let bytes = match (&mut self.quiet, row) {
            (Some(quiet), None) => match quiet.offer(bytes) {
                Offer::Held => return,
                Offer::Passes(bytes) => bytes,
            },
            _ => bytes,
        };
        self.send_held(ctx);
        self.send_bytes(bytes, row, ctx);
    }

    /// Writes what waited for the client's attention.
    fn send_held(&mut self, ctx: &mut Context<Self>) {
        let held = self.quiet.as_mut().map(|quiet| quiet.release());
        for bytes in held.into_iter().flatten() {
            self.send_bytes(bytes, None, ctx);
        }
    }

    /// XEP-0352.
    fn client_state(&mut self, active: bool, ctx: &mut Context<Self>) {
        if active {
            self.send_held(ctx);
            self.quiet = None;
        } else {
            self.quiet.get_or_insert_default();
        }
    }

    fn acknowledged(&mut self, seq: u64) {
        let key = self.key.clone();
        self.tell_own(SessionEvent::Acknowledged { key, seq });
    }

    /// Tells the owner of the user's partition something that no stanza waits for.
    fn tell_own(&self, event: SessionEvent) {
        let publish = Box::new(Publish::Session(event));
        if let Some(link) = self.fabric.link_of(&self.bare) {
            tell(
                link,
                ToLink::Publish {
                    caller: None,
                    publish,
                },
            );
        }
    }

    /// Ends the stream with an error.
    fn end(&mut self, error: StreamError, ctx: &mut Context<Self>) {
        if self.leaves_by.is_some() {
            return self.close(ctx);
        }
        if self.ending == Ending::No {
            if self.is_detached() {
                self.because(error.condition.name());
                return self.close(ctx);
            }
            self.core.close(error);
            self.effects(ctx);
        }
    }

    /// Ends the stream without `</stream:stream>`: what it has not acknowledged is to be sent again.
    fn drop_stream(&mut self, ctx: &mut Context<Self>) {
        self.keep_count();
        if self.leaves_by.is_some() {
            return self.close(ctx);
        }
        if self.ending == Ending::No {
            if self.is_detached() {
                self.because("left without a word, to go on elsewhere");
                return self.close(ctx);
            }
            self.core.close_unfinished();
            self.effects(ctx);
        }
    }

    /// When something is due. At the end that is nothing but the end: the rest is not looked at any more.
    fn due(&mut self) -> Option<Instant> {
        if let Ending::Flushing(until) | Ending::Lingering { until, .. } = self.ending {
            return Some(until);
        }
        let core = self.core.poll_timeout();
        let managed = self.management.as_ref();
        let inbound = managed.and_then(|management| management.inbound.poll_timeout());
        let outbound = managed.and_then(|management| management.outbound.poll_timeout());
        let settle_within = self.fabric.settings.client.sm_inbound.settle_within;
        let pending = self.pending.values();
        let pending = pending.map(|pending| pending.deadline(settle_within)).min();
        let due = [
            core,
            inbound,
            outbound,
            pending,
            self.leaves_by,
            self.pause(),
            self.archives.as_ref().and_then(|archives| archives.due()),
            self.pong_due(),
            self.count_due(),
            self.resumption
                .as_ref()
                .and_then(|resumption| resumption.due()),
        ];
        due.into_iter().flatten().min()
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        match (self.due(), &self.timer) {
            (Some(due), Some((set, _))) if *set <= due => {}
            (Some(due), _) => {
                if let Some((_, handle)) = self.timer.take() {
                    ctx.cancel_future(handle);
                }
                let wait = due.saturating_duration_since(Instant::now());
                let handle = ctx.run_later(wait, |actor, ctx| {
                    actor.timer = None;
                    actor.timeout(ctx);
                });
                self.timer = Some((due, handle));
            }
            // Soon it goes by itself, and may be wanted again before; one for much later is no idle session's.
            (None, Some((set, handle))) if *set > Instant::now() + STALE_TIMER_MAX => {
                ctx.cancel_future(*handle);
                self.timer = None;
            }
            (None, _) => {}
        }
    }

    fn timeout(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        if let Ending::Flushing(until) | Ending::Lingering { until, .. } = self.ending {
            if until <= now {
                tracing::debug!(
                    session = self.key.number,
                    "the client did not take the end of its stream, or did not close its connection"
                );
                ctx.stop();
            }
            return self.set_timer(ctx);
        }
        if self.leaves_by.is_some() {
            self.refuse_overdue_archives(now, ctx);
            if self.leaves_by.is_some_and(|by| by <= now) {
                self.close(ctx);
            }
            return self.set_timer(ctx);
        }
        self.core.handle_timeout(now);
        self.refuse_overdue_archives(now, ctx);
        if self.pong_due().is_some_and(|due| due <= now) {
            return self.end(
                StreamError::new(StreamErrorCondition::ConnectionTimeout),
                ctx,
            );
        }
        if self.outcome_is_overdue(now) {
            return self.outcome_unknown(ctx);
        }
        if let Some(management) = &mut self.management {
            match management.outbound.handle_timeout(now) {
                xmpp::stream_management::OutboundTimeout::Nothing => {}
                xmpp::stream_management::OutboundTimeout::RequestAck => {
                    self.out
                        .extend_from_slice(&xmpp::stream_management::request());
                }
                xmpp::stream_management::OutboundTimeout::PeerSilent
                    if self.resumption.is_some() =>
                {
                    // It may come back on another network.
                    return self.detach(ctx);
                }
                xmpp::stream_management::OutboundTimeout::PeerSilent => {
                    return self.end(
                        StreamError::new(StreamErrorCondition::ConnectionTimeout),
                        ctx,
                    );
                }
            }
            self.acks();
        } else if self.pending.values().any(|pending| {
            pending.deadline(self.fabric.settings.client.sm_inbound.settle_within) <= now
        }) {
            return self.outcome_unknown(ctx);
        }
        if self.resumption_timeout(now, ctx) {
            return;
        }
        self.effects(ctx);
    }

    /// Which stream this is, for rooms: a goodbye ends this stay and no other's.
    fn stay(&self) -> (u64, u64, u64) {
        (self.key.node, self.fabric.incarnation.0, self.key.number)
    }

    /// Leaves all rooms, with this presence.
    fn leave_rooms(&mut self, presence: &Stanza) {
        let of = Some(self.stay());
        for room in self.rooms.keys() {
            let presence = Stanza {
                to: None,
                ..presence.clone()
            };
            let by = self.key.jid.clone();
            let action = RoomAction::Leave { presence, of };
            let command = Box::new(Command::Room(RoomCommand {
                room: room.clone(),
                by,
                account: self.account,
                action,
            }));
            if let Some(link) = self.fabric.link_of(room) {
                tell(
                    link,
                    ToLink::Propose {
                        caller: Caller::Nobody,
                        command,
                    },
                );
            }
        }
    }

    /// Notes why it ends.
    fn because(&mut self, why: &'static str) {
        self.why.get_or_insert(why);
    }

    /// Leaves rooms and tells the owner that the session is over; once.
    fn say_goodbye(&mut self) {
        // Also of one that is another node's by now, which says no goodbye.
        self.fabric
            .directory
            .release(&self.key.jid, self.key.number);
        if std::mem::replace(&mut self.said_goodbye, true) {
            return;
        }
        self.forget_count();
        let presence = unavailable(&self.key.jid);
        self.leave_rooms(&presence);
        let key = self.key.clone();
        self.tell_own(SessionEvent::Down {
            key,
            stanza: presence,
        });
    }
}

/// The unavailable presence of a session that is gone.
pub fn unavailable(jid: &FullJid) -> Stanza {
    let mut stanza = Stanza::new(StanzaKind::Presence);
    stanza.from = Some(Jid::from(jid.clone()));
    stanza.type_ = Some("unavailable".into());
    stanza
}

impl Actor for SessionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.fabric.connections.is_stopping() {
            // Too late to be told with the others.
            return self.depart(ctx);
        }
        if self.is_detached() {
            self.connection = None;
        }
        self.effects(ctx);
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.fabric.metrics.sessions.dec();
        self.say_goodbye();
        let (number, jid, address) = (self.key.number, self.jid(), self.address);
        let seconds = self.began.elapsed().as_secs();
        let why = self.why.unwrap_or("the node's thread ends");
        tracing::info!(session = number, %jid, %address, seconds, why, "session ended");
    }
}

impl Handler<Wake> for SessionActor {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        if let Some(condition) = self.mailbox.doomed()
            && !self.outlives(condition, ctx)
        {
            self.end(StreamError::new(condition), ctx);
        }
        if self.mailbox.is_to_depart() {
            self.depart(ctx);
        }
        self.say_count_in_time();
        for _ in 0..PIECES_AT_ONCE {
            if self.waits_for_acknowledgements() {
                // The next acknowledgement wakes it.
                return self.set_timer(ctx);
            }
            let Some(message) = self.mailbox.take() else {
                return self.set_timer(ctx);
            };
            self.piece(message, ctx);
        }
        self.set_timer(ctx);
        ctx.notify(Wake);
    }
}

impl SessionActor {
    /// Bytes that the socket has yet to take.
    fn to_write(&self) -> usize {
        self.out.len() + self.writing
    }

    /// Whether as much is sent and not acknowledged as may be (XEP-0198 §4): what comes waits, the client is not cut for it.
    ///
    /// But for a client that isn't read, because too much of what it sent has no outcome yet: its acknowledgements aren't
    /// read either, and the outcomes are among what waits.
    fn waits_for_acknowledgements(&self) -> bool {
        self.outbound_is_full()
            && !self.is_detached()
            && self.ending == Ending::No
            && self.leaves_by.is_none()
            && self.takes_stanzas()
    }

    fn outbound_is_full(&self) -> bool {
        let management = self.management.as_ref();
        management.is_some_and(|management| !management.outbound.has_room())
    }

    /// Goes on after an acknowledgement.
    fn go_on(&self, ctx: &mut Context<Self>) {
        if !self.waits_for_acknowledgements() {
            ctx.notify(Wake);
        }
    }

    /// Goes on when what has just come in fills all there is: no acknowledgement will be read until outcomes are.
    fn go_on_unread(&self, ctx: &mut Context<Self>) {
        if self.outbound_is_full() {
            self.go_on(ctx);
        }
    }

    fn piece(&mut self, message: ToSession, ctx: &mut Context<Self>) {
        match message {
            ToSession::Outcome { ticket, outcome } => self.outcome(ticket, outcome, ctx),
            ToSession::Deliver { .. } if self.overflows(ctx) => {}
            ToSession::Deliver { bytes, row } => self.deliver(bytes, row, ctx),
            ToSession::Entered { room, nick } => self.entered(room, nick),
            ToSession::Left(room) => {
                self.left_for_good(&room);
                self.advance_departure(ctx);
            }
            ToSession::NotInside(room) => self.not_inside(&room, ctx),
            ToSession::Resume(request) => self.asked_to_resume(*request, ctx),
            ToSession::Reconnect(line) => self.reconnect(*line, ctx),
            ToSession::Yield(to) => self.asked_to_yield(*to, ctx),
            ToSession::Release(to) => self.released(&to, ctx),
            ToSession::Stay(to) => self.stays(&to, ctx),
            ToSession::Said(handled) => self.said(handled, ctx),
            ToSession::Depart => self.depart(ctx),
            ToSession::Kick(condition) => self.end(StreamError::new(condition), ctx),
            ToSession::Leave if self.is_released() => {}
            ToSession::Leave => self.drop_stream(ctx),
        }
    }
}
