//! A session that outlives its connection (XEP-0198 §5).
//!
//! ```text
//!   connected ── connection lost ──► detached ── resume time over, too much waits, conflict ──► ends as any session
//!       ▲ ▲                             │
//!       │ └──── Reconnect ── promised ◄─┤ Resume, and all that came is settled
//!       └─ conflict for the old stream ─┘
//! ```
//!
//! Detached, the session stays what it was to everybody else: it is bound, shows its presence, is in its rooms; what is
//! delivered to it waits in the queue of what is not acknowledged. What of that is too much ends it.
//!
//! Invariants: the count that a client is told at its resumption is of stanzas whose outcome is certain, and none is
//! without an outcome, so that what the client sends again is exactly what was not handled; and the log has it, for the client
//! will forget what it covers, and the next node may die. What it is sent again is exactly what it has not acknowledged, in order. The session has one connection at most, and is taken over by one.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use actix::{AsyncContext, Context};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use xmpp::stream::StreamCore;
use xmpp::stream_error::{StreamError, StreamErrorCondition};
use xmpp::stream_management::{Resumable, ResumptionId};

use super::count::Said;
use super::moving::Departure;
use super::shaping::Shaping;
use super::waiting::Share;
use super::{Ending, FLUSH_MAX, SessionActor, Wake};
use crate::connections::Connection;
use crate::isolation::Standing;
use crate::listener::Wire;

/// How long a connection to which the session was promised may take to come.
const PROMISED_FOR: Duration = Duration::from_secs(10);

/// How often a session whose time is over looks whether whoever asked for it still waits.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);

/// By what and for how long a session may be resumed.
pub(super) struct Resumption {
    pub(super) id: ResumptionId,
    /// How long it waits without a connection.
    pub(super) within: Duration,
    /// It has no connection; then it ends.
    detached: Option<Instant>,
    /// What its last connection brought and was not looked at is sent again by the client: it is not looked at any more.
    deaf: bool,
    taking: Taking,
    /// What waits for it while it has no connection.
    share: Option<Share>,
    /// On its way to another node.
    pub(super) departure: Option<Departure>,
    /// It is to go to any other node, when its count is covered so far that the last `<a/>` says all that is done by now, or at the
    /// latest then.
    pub(super) departs: Option<(Instant, u64)>,
    /// It is to go to any other node; one has to ask for it until then, and so many were told to.
    pub(super) leaves: Option<(Instant, u8)>,
    /// What the log knows of its count.
    pub(super) said: Said,
}

/// Whether somebody is about to take the session over.
enum Taking {
    Nobody,
    /// Waits until all is settled, to be told the count.
    Asked(oneshot::Sender<Granted>),
    /// Was told the count; the connection of this ticket comes until then.
    Promised {
        until: Instant,
        ticket: u64,
    },
}

/// Whether a client gets the session. Where nothing is said the session is gone, or never came: that is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// It does.
    Session {
        /// The count of its stanzas that are handled (`h`).
        handled: u32,
        /// What its connection has to show.
        ticket: u64,
    },
    /// The session is about to be on another node, and no longer here.
    Elsewhere,
    /// It is not the session that was meant, or it ends.
    Refused,
}

/// A client that has proved to be the session's user wants it.
pub struct ResumeRequest {
    /// What it was told when it enabled stream management.
    pub id: ResumptionId,
    /// Told whether it gets the session.
    pub granted: oneshot::Sender<Granted>,
}

/// The connection of a client to which the session was promised.
pub struct NewLine {
    /// The negotiated stream; `<resumed/>` is written.
    pub core: StreamCore,
    /// Its socket.
    pub wire: Wire,
    /// Its place among the node's connections.
    pub connection: Connection,
    /// Where the client connects from.
    pub address: IpAddr,
    /// How many of the session's stanzas the client has (XEP-0198 §5).
    pub h: u32,
    /// See [`Granted`].
    pub ticket: u64,
}

impl Resumption {
    fn new(id: ResumptionId, within: Duration) -> Resumption {
        Resumption {
            id,
            within,
            detached: None,
            deaf: false,
            taking: Taking::Nobody,
            share: None,
            departure: None,
            departs: None,
            leaves: None,
            said: Said::nothing(),
        }
    }

    /// Of a session that another node has handed over: it has no connection yet, and waits until then.
    pub(super) fn adopted(id: ResumptionId, within: Duration, until: Instant) -> Resumption {
        Resumption {
            detached: Some(until),
            deaf: true,
            said: Said::elsewhere(),
            ..Resumption::new(id, within)
        }
    }

    /// Whether it was promised to a connection that has yet to come.
    pub(super) fn is_promised(&self) -> bool {
        matches!(self.taking, Taking::Promised { until, .. } if until > Instant::now())
    }

    /// Whether it is another node's by now.
    pub(super) fn departure_is_released(&self) -> bool {
        self.departure.as_ref().is_some_and(Departure::is_released)
    }

    /// Whether its client is about to take it over here.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.taking, Taking::Asked(_)) || self.is_promised()
    }

    /// Whoever waits for it here does not get it; what its connection still brings is not looked at.
    pub(super) fn let_go(&mut self) {
        let taking = std::mem::replace(&mut self.taking, Taking::Nobody);
        if let Taking::Asked(granted) = taking {
            // Whoever is gone need not be told.
            let _ = granted.send(Granted::Elsewhere);
        }
        self.deaf = true;
    }

    /// When something is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let departure = self.departure.as_ref();
        let waits = match self.taking {
            Taking::Promised { until, .. } => Some(until),
            _ if departure.is_some() => None,
            // As long as outcomes may take, and somebody waits for them.
            Taking::Asked(_) => self
                .detached
                .map(|until| until.max(Instant::now() + LOOKED_AT_EVERY)),
            Taking::Nobody => self.detached,
        };
        let departs = departure.and_then(Departure::due);
        let leaves = self.leaves.filter(|_| departure.is_none());
        let leaves = leaves.map(|(until, _)| until);
        let goes = self.departs.map(|(until, _)| until);
        [waits, departs, leaves, goes].into_iter().flatten().min()
    }
}

impl SessionActor {
    /// Stream management is enabled: whether and for how long the session may be resumed. `max`: the client's preference.
    pub(super) fn offer_resumption(&mut self, max: Option<Duration>) -> Option<Resumable> {
        let within = self.fabric.settings.client.resume_within;
        let within = max.map_or(within, |max| max.min(within));
        if within.as_secs() == 0 {
            return None;
        }
        let id = self.fabric.resumption_ids.make(self.jid(), rand::random());
        let offer = Resumable {
            id: id.text().to_owned(),
            max: within,
            location: self.fabric.location(),
        };
        self.resumption = Some(Box::new(Resumption::new(id, within)));
        if let Some(management) = &mut self.management {
            management.inbound.keep();
        }
        Some(offer)
    }

    /// Whether the session has no connection and waits for one.
    pub(super) fn is_detached(&self) -> bool {
        let resumption = self.resumption.as_ref();
        resumption.is_some_and(|resumption| resumption.detached.is_some())
    }

    /// Whether what the connection has brought so far is all that is heard of it.
    pub(super) fn is_deaf(&self) -> bool {
        let resumption = self.resumption.as_ref();
        resumption.is_some_and(|resumption| resumption.deaf)
    }

    /// The connection is gone without the stream's end (XEP-0198 §7): the session waits, if it may be resumed.
    pub(super) fn lost(&mut self, why: &'static str, ctx: &mut Context<Self>) {
        let waits = self.resumption.is_some()
            && self.ending == Ending::No
            && self.leaves_by.is_none()
            && !self.core.is_closed();
        if waits {
            return self.detach(ctx);
        }
        self.because(why);
        self.leave(ctx);
    }

    /// Goes on without a connection. What the last one has brought is still done.
    pub(super) fn detach(&mut self, ctx: &mut Context<Self>) {
        // What waited for somebody to look waits with all else from now on, in its order.
        self.send_held(ctx);
        self.quiet = None;
        self.cut_line(ctx);
        let Some(resumption) = &mut self.resumption else {
            return;
        };
        resumption
            .detached
            .get_or_insert(Instant::now() + resumption.within);
        if let Some(management) = &mut self.management {
            management.inbound.reconnected();
            management.outbound.disconnected();
        }
        self.takes_share();
        self.fabric.metrics.sessions_detached.inc();
        tracing::debug!(session = self.key.number, "session detached");
        // What waited for an acknowledgement need not wait any more.
        ctx.notify(Wake);
        self.effects(ctx);
    }

    /// What is not acknowledged waits from now on.
    pub(super) fn takes_share(&mut self) {
        let (all, max) = (
            &self.fabric.waiting_bytes,
            self.fabric.settings.client.detached_bytes_max,
        );
        if let (Some(resumption), Some(management)) = (&mut self.resumption, &self.management) {
            let bytes = management.outbound.unacked_bytes();
            resumption.share = Some(Share::new(all, bytes, max));
        }
    }

    /// More waits.
    pub(super) fn waits_more(&mut self, bytes: usize) {
        let resumption = self.resumption.as_mut();
        if let Some(share) = resumption.and_then(|resumption| resumption.share.as_mut()) {
            share.grow(bytes);
        }
    }

    fn is_too_much(&self) -> bool {
        let share = self.resumption.as_ref();
        let share = share.and_then(|resumption| resumption.share.as_ref());
        self.outbound_is_full() || share.is_some_and(Share::is_too_much)
    }

    /// Drops the connection and all that was on its way there: what of it counts is kept until it is acknowledged.
    fn cut_line(&mut self, ctx: &mut Context<Self>) {
        let tasks = [self.reading.take(), self.write_task.take()];
        for task in tasks.into_iter().flatten() {
            ctx.cancel_future(task);
        }
        (self.reader, self.writer, self.connection) = (None, None, None);
        self.out.clear();
        self.writing = 0;
        self.mailbox.unwritten(0);
        self.mailbox.offers(0);
    }

    /// What came needs more room than a session without a connection has: it ends, its rows wait in the log.
    pub(super) fn overflows(&mut self, ctx: &mut Context<Self>) -> bool {
        let overflows = self.is_detached() && self.is_too_much() && !self.is_released();
        if overflows {
            self.because("too much waited for a client without a connection");
            self.close(ctx);
        }
        overflows
    }

    /// The time without a connection, or that of a promise, may be over; `true`: the session ends with it.
    pub(super) fn resumption_timeout(&mut self, now: Instant, ctx: &mut Context<Self>) -> bool {
        let Some(resumption) = &mut self.resumption else {
            return false;
        };
        if matches!(resumption.taking, Taking::Promised { until, .. } if until <= now) {
            resumption.taking = Taking::Nobody;
        }
        if matches!(&resumption.taking, Taking::Asked(granted) if granted.is_closed()) {
            resumption.taking = Taking::Nobody;
        }
        if self.departure_timeout(now, ctx) {
            return true;
        }
        let Some(resumption) = &self.resumption else {
            return false;
        };
        if resumption.departure.is_some() {
            return false;
        }
        let over = resumption.detached.is_some_and(|until| until <= now);
        let ends = over && matches!(resumption.taking, Taking::Nobody);
        if ends {
            self.because("not resumed in time");
            self.close(ctx);
        }
        ends
    }

    /// A client wants to take the session over. The stream that it had ends, if it is still there.
    pub(super) fn asked_to_resume(&mut self, request: ResumeRequest, ctx: &mut Context<Self>) {
        let ending = self.ending != Ending::No || self.leaves_by.is_some();
        let meant = self.resumption.as_mut();
        let Some(resumption) = meant.filter(|resumption| {
            // A closed stream without a connection to lose is one whose client has said goodbye.
            let is_over = ending || self.core.is_closed() && !resumption.deaf;
            !is_over && resumption.id == request.id
        }) else {
            // Whoever is gone need not be told, here and below.
            let _ = request.granted.send(Granted::Refused);
            return;
        };
        let released = resumption.departure.as_ref();
        if released.is_some_and(Departure::is_released) {
            let _ = request.granted.send(Granted::Elsewhere);
            return;
        }
        // A later one takes the place of an earlier one, which hears that it does not get the session, or whose connection is
        // not taken any more.
        let earlier = std::mem::replace(&mut resumption.taking, Taking::Asked(request.granted));
        if let Taking::Asked(earlier) = earlier {
            let _ = earlier.send(Granted::Refused);
        }
        resumption.deaf = true;
        if !self.is_detached() {
            self.tell_of_conflict(ctx);
            self.detach(ctx);
        }
        self.promise(ctx);
    }

    /// XEP-0198 §5: the old stream, which the server still took for open, ends with `conflict`. Nothing waits for that.
    pub(super) fn tell_of_conflict(&mut self, ctx: &mut Context<Self>) {
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        if let Some(reading) = self.reading.take() {
            ctx.cancel_future(reading);
        }
        let mut last = StreamError::new(StreamErrorCondition::Conflict)
            .to_bytes()
            .to_vec();
        last.extend_from_slice(b"</stream:stream>");
        actix_rt::spawn(async move {
            let written = async {
                writer.write_all(&last).await?;
                writer.shutdown().await
            };
            if !matches!(tokio::time::timeout(FLUSH_MAX, written).await, Ok(Ok(()))) {
                tracing::debug!("a stream that was resumed elsewhere did not take its end");
            }
        });
    }

    /// Tells whoever waits for the session its count, once that is exact.
    pub(super) fn promise(&mut self, ctx: &mut Context<Self>) {
        self.say_count();
        let handled = self.management.as_ref();
        let handled = handled.and_then(|management| management.inbound.handled());
        let (Some(handled), Some(resumption)) = (handled, &mut self.resumption) else {
            return;
        };
        if !matches!(resumption.taking, Taking::Asked(_)) || resumption.departure.is_some() {
            return;
        }
        let until = Instant::now() + PROMISED_FOR;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let promised = Taking::Promised { until, ticket };
        let taking = std::mem::replace(&mut resumption.taking, promised);
        let handled = handled as u32;
        if let Taking::Asked(granted) = taking
            && granted.send(Granted::Session { handled, ticket }).is_err()
        {
            // It has gone meanwhile.
            resumption.taking = Taking::Nobody;
        }
        self.set_timer(ctx);
    }

    /// The connection to which the session was promised: what the client does not have goes there first.
    pub(super) fn reconnect(&mut self, line: NewLine, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let (Some(resumption), Some(management)) = (&mut self.resumption, &mut self.management)
        else {
            return;
        };
        let is_promised =
            matches!(resumption.taking, Taking::Promised { ticket, .. } if ticket == line.ticket);
        if !is_promised || self.ending != Ending::No {
            // Too late: the connection ends unfinished, and the client tries again.
            return;
        }
        if resumption.departure.is_some() {
            // Its client has turned to another node since.
            resumption.taking = Taking::Nobody;
            return self.advance_departure(ctx);
        }
        (resumption.taking, resumption.detached, resumption.deaf) = (Taking::Nobody, None, false);
        (resumption.leaves, resumption.share) = (None, None);
        let (reader, writer) = tokio::io::split(line.wire);
        (self.reader, self.writer) = (Some(reader), Some(writer));
        (self.core, self.connection) = (line.core, Some(line.connection));
        self.address = line.address;
        // All that came before is settled.
        self.mailbox.connected_after(self.fabric.standstill.times());
        let trusted = self.fabric.settings.client.is_trusted(line.address);
        self.shaping = (!trusted).then(Shaping::default);
        management.inbound.reconnected();
        let acked = management
            .outbound
            .acked(line.h, now)
            .map(|sent| sent.filter_map(|sent| sent.row).last());
        let acked = match acked {
            Ok(acked) => acked,
            Err(error) => return self.end(StreamError::from(error), ctx),
        };
        for sent in management.outbound.unacked() {
            self.out.extend_from_slice(&sent.bytes);
        }
        management.outbound.reconnected(now);
        if let Some(row) = acked {
            self.acknowledged(row);
        }
        self.fabric.metrics.sessions_resumed.inc();
        tracing::debug!(session = self.key.number, address = %self.address, "session resumed");
        ctx.notify(Wake);
        self.effects(ctx);
        let is_draining = self.fabric.standing.get() == Standing::Draining;
        if is_draining || self.fabric.connections.is_stopping() {
            // It was told to leave while this connection was on its way, and is told only once.
            self.depart(ctx);
        }
    }
}

/// A stanza that is sent and not acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// The row of the user's log that it delivers.
    pub(super) row: Option<u64>,
    /// To be sent again; empty where the session can't be resumed.
    pub(super) bytes: Bytes,
}
