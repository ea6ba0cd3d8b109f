//! A session that goes to another node, because its client has come there or this node is to be emptied.
//!
//! ```text
//!   Yield ─► settle all ─► Yields ─► (owner) ─► Release ─► rooms move ─► Left, each ─► parked, and gone
//!              └── nobody wants it any more, or nothing is heard: it stays as it was ──┘ (until Release)
//! ```
//!
//! Invariants: up to [`Release`](cluster::link::protocol::Moving::Release) it is this node's, and may stay; from there on
//! it is the other's, and nothing is said of it but what it has to hand over. That is handed over when nothing more can
//! come: what its user's owner sent came before the release, what each room sent before its move. A node to which its client
//! has not come gets it only while it leaves this one: that node may have been told so long ago that its client has resumed
//! the session here since.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{ActorContext, AsyncContext, Context};
use cluster::link::parked::{ParkedPart, ParkedSession, ParkedStanza};
use cluster::link::protocol::Publish;
use messaging::user::publication::{MoveRequest, ResumptionToken, SessionEvent, SessionKey};
use tokio::io::AsyncWriteExt;
use xmpp::jid::BareJid;
use xmpp::stream_error::{StreamError, StreamErrorCondition};
use xmpp::stream_management::{Inbound, Outbound, ResumptionId};

use super::resumption::{Resumption, Sent};
use super::{Ending, FLUSH_MAX, Management, SessionActor, Stay, unavailable};
use crate::adoption::move_stays;
use crate::connections::Connection;
use crate::fabric::Fabric;
use crate::link::{Caller, Outcome, ToLink};
use crate::mailbox::SessionMailbox;

/// How long the owner may take to say whose a session is.
const RELEASED_WITHIN: Duration = Duration::from_secs(12);

/// How long its rooms may take.
const ROOMS_WITHIN: Duration = Duration::from_secs(8);

/// How long the last `<a/>` waits for the count to be in the log.
const COVERED_WITHIN: Duration = Duration::from_secs(1);

/// How long another node may take to ask for a session that is to leave, and how many nodes are told to.
const ASKED_FOR_WITHIN: Duration = Duration::from_secs(2);
const NODES_TOLD: u8 = 3;

/// How long a session waits for its client at a node that took it in, at most: two minutes, as for a node that was emptied.
const TAKEN_IN_FOR: Duration = Duration::from_secs(120);

/// How long parts may wait for room in the link.
const PARTS_WITHIN: Duration = Duration::from_secs(10);

/// How far a session's way to another node has come.
pub(super) struct Departure {
    to: MoveRequest,
    stage: Stage,
}

enum Stage {
    /// What its client has sent is settled first, and the log has the count, which does not begin elsewhere.
    Settling,
    /// The owner was told; without an answer it stays.
    Yielded(Instant),
    /// It is the other node's. These rooms have still to say that it is there now.
    Released {
        awaiting: HashMap<BareJid, String>,
        /// These have; with its nickname there, as above.
        moved: HashMap<BareJid, String>,
        until: Instant,
    },
    /// It is on its way.
    Parking,
}

impl Departure {
    pub(super) fn is_released(&self) -> bool {
        matches!(self.stage, Stage::Released { .. } | Stage::Parking)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Yielded(until) | Stage::Released { until, .. } => Some(*until),
            Stage::Settling | Stage::Parking => None,
        }
    }
}

/// A session that another node has handed over.
pub struct Adopted {
    /// This node.
    pub fabric: Arc<Fabric>,
    /// The session, here.
    pub key: SessionKey,
    /// Its mailbox.
    pub mailbox: Arc<SessionMailbox>,
    /// What the other node knew of it.
    pub parked: ParkedSession,
    /// By what it is resumed.
    pub id: ResumptionId,
    /// A stop of the node waits until it has begun, and can go on elsewhere.
    pub place_at_stop: Connection,
}

impl SessionActor {
    /// Starts a session that has no connection yet, on the current arbiter.
    pub fn adopt(adopted: Adopted, place: Context<SessionActor>) {
        let Adopted {
            fabric,
            key,
            mailbox,
            parked,
            id,
            place_at_stop,
        } = adopted;
        let client = &fabric.settings.client;
        let sent = |stanza: ParkedStanza| {
            let size = stanza.bytes.len();
            let (row, bytes) = (stanza.row, stanza.bytes);
            (Sent { row, bytes }, size)
        };
        let unacked = parked.unacked.into_iter().map(sent).collect();
        let management = Management {
            inbound: Inbound::resumed(Arc::clone(&client.sm_inbound), parked.handled),
            outbound: Outbound::resumed(Arc::clone(&client.sm_outbound), parked.acked, unacked),
        };
        let within = Duration::from_secs(parked.within_s);
        let until = Instant::now() + within.min(TAKEN_IN_FOR);
        fabric.metrics.sessions.inc();
        let mut session = SessionActor::unconnected(fabric, key, mailbox, parked.account);
        session.management = Some(Box::new(management));
        session.resumption = Some(Box::new(Resumption::adopted(id, within, until)));
        session.connection = Some(place_at_stop);
        session.flags = parked.flags;
        session.available = parked.available;
        for (room, nick) in parked.rooms {
            session.entered(room, nick);
        }
        session.takes_share();
        place.run(session);
    }

    fn departure(&self) -> Option<&Departure> {
        self.resumption.as_ref()?.departure.as_ref()
    }

    /// Whether it is another node's by now.
    pub(super) fn is_released(&self) -> bool {
        self.departure().is_some_and(Departure::is_released)
    }

    /// Whether a node to which no client has come may have the session.
    fn may_be_taken_in(&self) -> bool {
        let leaves = |resumption: &Resumption| {
            resumption.leaves.is_some()
                || !self.fabric.standing.takes_logins()
                || self.fabric.connections.is_stopping()
        };
        let resumption = self.resumption.as_deref();
        self.is_detached()
            && resumption.is_some_and(|resumption| !resumption.is_wanted() && leaves(resumption))
    }

    /// Another node wants the session.
    pub(super) fn asked_to_yield(&mut self, to: MoveRequest, ctx: &mut Context<Self>) {
        let (id, by_client) = to.token.read();
        let wanted = self.fabric.resumption_ids.read(id);
        let begun = self.departure();
        let begun = begun.is_some_and(|departure| departure.to.key == to.key);
        let unwilling = !by_client && !begun && !self.may_be_taken_in();
        let ending = self.ending != Ending::No || self.leaves_by.is_some();
        let gone = self.core.is_closed() && !self.is_deaf();
        let Some(resumption) = self
            .resumption
            .as_mut()
            .filter(|resumption| wanted.as_ref() == Some(&resumption.id))
            .filter(|_| !ending && !gone && !unwilling)
        else {
            let (key, to) = (self.key.clone(), to.key);
            return self.tell_own(SessionEvent::Stays { key, to });
        };
        match &mut resumption.departure {
            Some(departure) if departure.is_released() => return,
            Some(departure) if departure.to.key == to.key => {
                if matches!(departure.stage, Stage::Yielded(_)) {
                    // A new owner asks, which has not heard the answer.
                    departure.stage = Stage::Settling;
                }
            }
            departure => {
                let stage = Stage::Settling;
                *departure = Some(Departure { to, stage });
            }
        }
        if !resumption.is_promised() {
            resumption.let_go();
        }
        if !self.is_detached() {
            self.tell_of_conflict(ctx);
            self.detach(ctx);
        }
        self.advance_departure(ctx);
    }

    /// Goes on with it, as far as that is possible now.
    pub(super) fn advance_departure(&mut self, ctx: &mut Context<Self>) {
        self.say_count();
        let settled = self.pending.is_empty() && self.lanes.is_idle() && self.open.is_idle();
        let handled = self.management.as_ref();
        let handled = handled.and_then(|management| management.inbound.handled());
        let Some(resumption) = &mut self.resumption else {
            return;
        };
        // A connection that it was promised to comes at once, or not at all.
        let settled = settled && !resumption.is_promised() && resumption.said.has_begun();
        let Some(departure) = &mut resumption.departure else {
            return;
        };
        match &departure.stage {
            Stage::Settling if settled && handled.is_some() => {
                departure.stage = Stage::Yielded(Instant::now() + RELEASED_WITHIN);
                let (key, to) = (self.key.clone(), departure.to.key.clone());
                self.tell_own(SessionEvent::Yields { key, to });
                self.set_timer(ctx);
            }
            Stage::Released { awaiting, .. } if awaiting.is_empty() => self.park(ctx),
            _ => {}
        }
    }

    /// The owner's word: it is the other node's.
    pub(super) fn released(&mut self, to: &SessionKey, ctx: &mut Context<Self>) {
        if self.is_released() {
            return;
        }
        let (from, by, account) = (self.stay(), self.key.jid.clone(), self.account);
        let resumption = self.resumption.as_mut();
        let Some((departure, resumption)) = resumption.and_then(|resumption| {
            let departure = resumption.departure.take();
            let departure = departure.filter(|departure| departure.to.key == *to)?;
            Some((departure, resumption))
        }) else {
            // It has given up waiting for this word; nothing that is for it comes here any more.
            self.because("moved");
            return self.drop_stream(ctx);
        };
        let rooms: Vec<BareJid> = self.rooms.keys().cloned().collect();
        let stays = self.rooms.iter();
        let stage = Stage::Released {
            awaiting: stays
                .map(|(room, stay)| (room.clone(), stay.nick.clone()))
                .collect(),
            moved: HashMap::new(),
            until: Instant::now() + ROOMS_WITHIN,
        };
        let home = (to.node, departure.to.incarnation, to.number);
        resumption.departure = Some(Departure { stage, ..departure });
        resumption.let_go();
        // The other one says it, when it comes to that.
        self.said_goodbye = true;
        let moved = move_stays(Arc::clone(&self.fabric), rooms, (by, account), (from, home));
        // Whatever becomes of this session, no room may keep it.
        let moved = actix_rt::spawn(moved);
        self.in_task(moved, ctx, |actor, elsewhere, ctx| {
            for room in elsewhere.unwrap_or_default() {
                actor.not_inside(&room, ctx);
                actor.left_for_good(&room);
                actor.is_not_in(&room);
            }
            actor.advance_departure(ctx);
        });
        self.set_timer(ctx);
    }

    /// A room will say nothing more to this node's session.
    pub(super) fn left_for_good(&mut self, room: &BareJid) {
        self.rooms.remove(room);
        if let Some(resumption) = &mut self.resumption
            && let Some(departure) = &mut resumption.departure
            && let Stage::Released {
                awaiting, moved, ..
            } = &mut departure.stage
            && let Some((room, nick)) = awaiting.remove_entry(room)
        {
            moved.insert(room, nick);
        }
    }

    /// It was not in a room that it was to be in at the other node.
    fn is_not_in(&mut self, room: &BareJid) {
        if let Some(resumption) = &mut self.resumption
            && let Some(departure) = &mut resumption.departure
            && let Stage::Released { moved, .. } = &mut departure.stage
        {
            moved.remove(room);
        }
    }

    /// Nobody wants it any more.
    pub(super) fn stays(&mut self, to: &SessionKey, ctx: &mut Context<Self>) {
        if let Some(resumption) = &mut self.resumption
            && let Some(departure) = &resumption.departure
            && !departure.is_released()
            && departure.to.key == *to
        {
            resumption.departure = None;
            self.promise(ctx);
        }
        if *to == self.key {
            // There is no other node.
            self.not_asked_for(ctx);
        }
    }

    /// Time may be over; `true`: the session ends with it.
    pub(super) fn departure_timeout(&mut self, now: Instant, ctx: &mut Context<Self>) -> bool {
        let leaves = self.resumption.as_ref();
        let leaves = leaves.and_then(|resumption| resumption.leaves);
        if let Some((until, told)) = leaves.filter(|_| self.departure().is_none())
            && until <= now
        {
            match told < NODES_TOLD {
                true => self.tell_that_it_leaves(told + 1),
                false => self.not_asked_for(ctx),
            }
            return self.ending != Ending::No;
        }
        let Some(departure) = self.departure() else {
            return false;
        };
        match &departure.stage {
            Stage::Yielded(until) if *until <= now => {
                let to = departure.to.key.clone();
                self.stays(&to, ctx);
            }
            Stage::Released { until, .. } if *until <= now => {
                tracing::debug!(
                    session = self.key.number,
                    "some rooms did not say that a session has moved"
                );
                self.park(ctx);
            }
            _ => self.advance_departure(ctx),
        }
        false
    }

    /// Hands over what only this node knows, and ends here.
    pub(super) fn park(&mut self, ctx: &mut Context<Self>) {
        let resumption = self.resumption.as_mut();
        let Some(departure) = resumption.and_then(|resumption| resumption.departure.as_mut())
        else {
            return;
        };
        let stage = std::mem::replace(&mut departure.stage, Stage::Parking);
        let Stage::Released {
            awaiting, moved, ..
        } = stage
        else {
            departure.stage = stage;
            return;
        };
        for room in awaiting.keys() {
            // It may be there, or not: so that its client enters it anew.
            self.not_inside(room, ctx);
        }
        self.hand_over(moved, ctx);
    }

    fn hand_over(&mut self, rooms: HashMap<BareJid, String>, ctx: &mut Context<Self>) {
        let (Some(management), Some(resumption)) = (&self.management, &self.resumption) else {
            return;
        };
        let (Some(handled), Some(departure)) =
            (management.inbound.handled(), &resumption.departure)
        else {
            // Whoever waits for it there gives up.
            return self.close(ctx);
        };
        let within_s = resumption.within.as_secs();
        let token = ResumptionToken(resumption.id.text().to_owned());
        let unacked = management.outbound.unacked().map(|sent| ParkedStanza {
            row: sent.row,
            bytes: sent.bytes.clone(),
        });
        let parked = ParkedSession {
            token,
            within_s,
            account: self.account,
            flags: self.flags,
            available: self.available,
            rooms: rooms.into_iter().collect(),
            handled,
            acked: management.outbound.acked_count(),
            unacked: unacked.collect(),
        };
        let parts = match parked.parts(&departure.to.key) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::info!(session = self.key.number, %error, "too much waits for a session to be moved");
                Vec::new()
            }
        };
        let sent = send_parts(Arc::clone(&self.fabric), self.bare.clone(), parts);
        self.in_task(sent, ctx, |actor, (), ctx| {
            actor.because("moved to another node");
            let (jid, number) = (&actor.key.jid, actor.key.number);
            actor.fabric.directory.release(jid, number);
            actor.waits_to_leave = None;
            ctx.stop();
        });
    }

    /// This node is to be emptied: the client goes on elsewhere, and its session with it.
    pub(super) fn depart(&mut self, ctx: &mut Context<Self>) {
        let alone = self.fabric.members().len() == 1;
        let ends = self.ending != Ending::No || self.leaves_by.is_some();
        let Some(resumption) = self.resumption.as_mut().filter(|_| !alone && !ends) else {
            return self.end(self.farewell(), ctx);
        };
        if resumption.leaves.is_some() || resumption.departs.is_some() {
            return;
        }
        let settled = self.management.as_ref();
        let settled = settled.map_or(0, |management| management.inbound.settled());
        resumption.departs = Some((Instant::now() + COVERED_WITHIN, settled));
        self.say_count();
        self.departs(ctx);
    }

    /// Goes on with that: ends the connection, when the last word on it is worth most.
    pub(super) fn departs(&mut self, ctx: &mut Context<Self>) {
        let detached = self.is_detached();
        let (Some(resumption), Some(management)) = (&mut self.resumption, &self.management) else {
            return;
        };
        if self.ending != Ending::No || self.leaves_by.is_some() {
            resumption.departs = None;
        }
        let Some((until, upto)) = resumption.departs else {
            return;
        };
        let covered = management.inbound.covered();
        let waits = covered.is_some_and(|covered| covered < upto) && Instant::now() < until;
        if waits && !detached {
            return self.set_timer(ctx);
        }
        resumption.departs = None;
        resumption.let_go();
        let connection = self.connection.take();
        self.waits_to_leave = connection.or_else(|| Some(self.fabric.connections.open()));
        if !self.is_detached() {
            self.close_unfinished(ctx);
            self.detach(ctx);
        }
        self.tell_that_it_leaves(1);
        self.set_timer(ctx);
    }

    /// Where a client goes on whose session can't: to a node that serves, if it is known where clients reach one (RFC 6120
    /// §4.9.3.19). Only a bound stream hears it, so it leads nobody astray who has not logged in here, and only what the pool's
    /// own nodes have in their configuration is told.
    fn farewell(&self) -> StreamError {
        match self.fabric.other_host(self.key.number) {
            Some(host) => StreamError::see_other_host(host),
            None => StreamError::new(StreamErrorCondition::SystemShutdown),
        }
    }

    /// The owner tells another node to ask for it, the next one each time.
    fn tell_that_it_leaves(&mut self, told: u8) {
        let Some(resumption) = &mut self.resumption else {
            return;
        };
        resumption.leaves = Some((Instant::now() + ASKED_FOR_WITHIN, told));
        let token = ResumptionToken(resumption.id.text().to_owned());
        let key = self.key.clone();
        self.tell_own(SessionEvent::Leaves { key, token });
    }

    /// A last `<a/>`, and the end of the connection but not of the stream, on which clients would drop what they have not
    /// seen acknowledged.
    fn close_unfinished(&mut self, ctx: &mut Context<Self>) {
        let Some(mut writer) = self.writer.take() else {
            return;
        };
        if let Some(reading) = self.reading.take() {
            ctx.cancel_future(reading);
        }
        let mut last = std::mem::take(&mut self.out);
        if let Some(management) = &self.management {
            let h = management.inbound.h();
            last.extend_from_slice(&xmpp::stream_management::ack(h));
        }
        actix_rt::spawn(async move {
            let written = async {
                writer.write_all(&last).await?;
                writer.shutdown().await
            };
            if !matches!(tokio::time::timeout(FLUSH_MAX, written).await, Ok(Ok(()))) {
                tracing::debug!("a client did not take the last acknowledgement");
            }
        });
    }

    /// No other node has asked for a session that is to leave.
    fn not_asked_for(&mut self, ctx: &mut Context<Self>) {
        if let Some(resumption) = &mut self.resumption {
            resumption.leaves = None;
        }
        self.waits_to_leave = None;
        if self.fabric.connections.is_stopping() {
            self.end(StreamError::new(StreamErrorCondition::SystemShutdown), ctx);
        }
    }

    /// Whether a word that would end it is not for it any more, because it is another node's.
    pub(super) fn outlives(
        &mut self,
        condition: StreamErrorCondition,
        ctx: &mut Context<Self>,
    ) -> bool {
        let yielded = match self.departure() {
            Some(departure) if departure.is_released() => return true,
            Some(departure) if matches!(departure.stage, Stage::Yielded(_)) => {
                departure.to.key.clone()
            }
            _ => return false,
        };
        // Of two sessions of one address the owner has found the other one first.
        let moved = condition == StreamErrorCondition::Conflict;
        if moved {
            self.released(&yielded, ctx);
            // The link has heard of no release that would say so.
            let (key, stanza) = (self.key.clone(), unavailable(&self.key.jid));
            self.tell_own(SessionEvent::Down { key, stanza });
        }
        moved
    }

    /// It is in a room, at this node.
    pub(super) fn entered(&mut self, room: BareJid, nick: String) {
        let granted = true;
        self.rooms.insert(room, Stay { nick, granted });
    }
}

/// Sends parts up, one after the other: links have room for others.
async fn send_parts(fabric: Arc<Fabric>, user: BareJid, parts: Vec<ParkedPart>) {
    let deadline = Instant::now() + PARTS_WITHIN;
    for part in parts {
        while !is_taken(&fabric, &user, &part).await {
            if Instant::now() >= deadline {
                return tracing::info!("a session could not be handed over in time");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn is_taken(fabric: &Fabric, user: &BareJid, part: &ParkedPart) -> bool {
    let Some(link) = fabric.link_of(user) else {
        return false;
    };
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let message = ToLink::Publish {
        caller: Some(Caller::Task(sender)),
        publish: Box::new(Publish::Parked(part.clone())),
    };
    // What may or may not have been taken may come twice.
    link.send(message).await.is_ok()
        && !matches!(
            receiver.await,
            Ok(Outcome::Full | Outcome::NotDone) | Err(_)
        )
}
