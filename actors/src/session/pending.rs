//! Stanzas that wait for their outcome, and what is said when it comes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use bytes::Bytes;
use cluster::link::protocol::{AskReply, Publish};
use cluster::node_id::PartitionId;
use messaging::command::{Answer, Command};
use messaging::query::{Query, Reply};
use messaging::user::publication::SessionEvent;
use messaging::user::streams::Counted;
use xmpp::jid::BareJid;
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::stanza_error::StanzaError;
use xmpp::stream_management::StanzaNumber;

use super::SessionActor;
use super::lanes::{Class, Lane};
use crate::link::{Caller, Outcome, ToLink};
use crate::negotiation::unavailable_now;

/// A stanza whose outcome is awaited.
pub(super) struct Pending {
    unsettled: Unsettled,
    /// Its head, without payload: whom to answer.
    head: Stanza,
    since: Instant,
    /// Over which link it was asked.
    partition: PartitionId,
}

/// What is awaited, by ticket. Tickets are the session's own: no seed is needed to keep them apart.
pub(super) type PendingByTicket = HashMap<u64, Pending, BuildHasherDefault<DefaultHasher>>;

/// Requests of one session that may wait on one link. A link's window is shared by all sessions of the node: whoever has
/// so much of it asks no more until some of it is decided.
const OPEN_PER_LINK_MAX: u16 = 128;

/// Requests of one session that are asked by tasks of their own.
const TASKS_MAX: u16 = 16;

/// What a session waits for, by link.
#[derive(Default)]
pub(super) struct OpenRequests {
    links: Vec<(PartitionId, u16)>,
    tasks: u16,
}

impl OpenRequests {
    /// Whether another stanza may be asked.
    pub(super) fn has_room(&self) -> bool {
        self.tasks < TASKS_MAX && self.links.iter().all(|(_, open)| *open < OPEN_PER_LINK_MAX)
    }

    /// Whether nothing is asked.
    pub(super) fn is_idle(&self) -> bool {
        self.tasks == 0 && self.links.is_empty()
    }

    fn opened(&mut self, partition: PartitionId) {
        match self.links.iter_mut().find(|(link, _)| *link == partition) {
            Some((_, open)) => *open += 1,
            None => self.links.push((partition, 1)),
        }
    }

    fn closed(&mut self, partition: PartitionId) {
        if let Some(at) = self.links.iter().position(|(link, _)| *link == partition) {
            self.links[at].1 -= 1;
            if self.links[at].1 == 0 {
                self.links.swap_remove(at);
            }
        }
        if self.links.is_empty() {
            // An idle session holds nothing.
            self.links = Vec::new();
        }
    }
}

impl Pending {
    /// When the stream has to go if the outcome is still unknown. Questions have their own, slightly shorter one.
    pub(super) fn deadline(&self, settle_within: Duration) -> Instant {
        self.since + settle_within + Duration::from_secs(1)
    }
}

/// What waits for a stanza's outcome.
pub(super) struct Unsettled {
    /// Its count, where stream management counts.
    pub(super) number: Option<StanzaNumber>,
    /// Its lane, if it has an order.
    pub(super) lane: Option<Lane>,
    /// What its own command says of the session's count.
    pub(super) counted: Option<Counted>,
}

impl Unsettled {
    /// Of a stanza without an order.
    pub(super) fn outside(number: Option<StanzaNumber>) -> Unsettled {
        Unsettled {
            number,
            lane: None,
            counted: None,
        }
    }
}

/// A stanza being handled: settled exactly once, by [`SessionActor::settle`] or through a ticket.
pub(super) struct Handling {
    pub(super) unsettled: Unsettled,
    /// How it takes effect; [`Class::Asked`] where it has no order.
    pub(super) class: Class,
    pub(super) stanza: Stanza,
}

impl Handling {
    /// What answers it, once what it asks is on its way.
    fn into_pending(self, partition: PartitionId) -> Pending {
        Pending {
            unsettled: self.unsettled,
            head: Stanza {
                payload: Bytes::new(),
                ..self.stanza
            },
            since: Instant::now(),
            partition,
        }
    }
}

impl SessionActor {
    /// The stanza's outcome is final.
    pub(super) fn settle(&mut self, unsettled: Unsettled) {
        let Unsettled { number, lane, .. } = unsettled;
        if let (Some(management), Some(number)) = (&mut self.management, number) {
            management.inbound.settle(number);
        }
        if let Some(lane) = lane {
            self.lanes.settled(&lane);
        }
    }

    /// Writes acknowledgements that are due.
    pub(super) fn acks(&mut self) {
        if self.is_detached() {
            return;
        }
        if let Some(management) = &mut self.management {
            while let Some(h) = management.inbound.poll_ack() {
                self.out.extend_from_slice(&xmpp::stream_management::ack(h));
            }
        }
    }

    /// Refuses a stanza: surely not done.
    pub(super) fn refuse(
        &mut self,
        handling: Handling,
        error: &StanzaError,
        ctx: &mut Context<Self>,
    ) {
        if let Some(reply) = error.reply_to(&handling.stanza) {
            self.send(&reply, ctx);
        }
        self.settle(handling.unsettled);
    }

    /// Answers an iq.
    pub(super) fn answer(&mut self, handling: Handling, payload: Bytes, ctx: &mut Context<Self>) {
        let reply = Stanza::result_of(&handling.stanza, payload);
        self.send(&reply, ctx);
        self.settle(handling.unsettled);
    }

    /// Puts something on its way; the ticket under which its outcome comes, or `None` if it was refused.
    fn pass(
        &mut self,
        key: &BareJid,
        handling: Handling,
        ctx: &mut Context<Self>,
        make: impl FnOnce(Caller) -> ToLink,
    ) -> Option<u64> {
        // By the address that all share: a clone would have a slot of its own, and the limit would not hold.
        let fabric = Arc::clone(&self.fabric);
        let Some(link) = fabric.link_of(key) else {
            self.refuse(handling, &unavailable_now(), ctx);
            return None;
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let session = Arc::clone(&self.mailbox);
        let caller = Caller::Session { session, ticket };
        if link.try_send(make(caller)).is_err() {
            self.fabric.metrics.links_full.inc();
            self.room_answered(&handling.stanza, true);
            self.refuse(handling, &unavailable_now(), ctx);
            return None;
        }
        let partition = fabric.partition_of(key);
        self.open.opened(partition);
        self.pending
            .insert(ticket, handling.into_pending(partition));
        Some(ticket)
    }

    /// Whether an outcome is awaited of something that was sent to a room.
    pub(super) fn waits_for(&self, room: &BareJid) -> bool {
        let to = |pending: &Pending| pending.head.to.as_ref().map(xmpp::jid::Jid::bare);
        self.pending
            .values()
            .any(|pending| to(pending).as_ref() == Some(room))
    }

    fn forget(&mut self, ticket: u64) -> Option<Pending> {
        let pending = self.pending.remove(&ticket)?;
        self.archive_answered(ticket);
        self.open.closed(pending.partition);
        Some(pending)
    }

    /// Runs what takes more than one question in a task of its own, and goes on with what came of it.
    pub(super) fn in_task<T: 'static>(
        &mut self,
        task: impl Future<Output = T> + 'static,
        ctx: &mut Context<Self>,
        then: impl FnOnce(&mut Self, T, &mut Context<Self>) + 'static,
    ) {
        self.open.tasks += 1;
        let task = task.into_actor(self).map(move |value, actor, ctx| {
            actor.open.tasks -= 1;
            then(actor, value, ctx);
            actor.effects(ctx);
        });
        ctx.spawn(task);
    }

    /// Proposes a command on a key; the stanza is settled by its answer.
    pub(super) fn propose(
        &mut self,
        key: &BareJid,
        handling: Handling,
        command: Command,
        ctx: &mut Context<Self>,
    ) {
        #[cfg(feature = "bug-dedup-skipped-on-resume")]
        let command = crate::planted::unrecognised(command);
        self.pass(key, handling, ctx, |caller| ToLink::Propose {
            caller,
            command: Box::new(command),
        });
    }

    /// Publishes soft state; the stanza is settled when the owner took it.
    pub(super) fn publish(
        &mut self,
        key: &BareJid,
        handling: Handling,
        publish: Publish,
        ctx: &mut Context<Self>,
    ) {
        self.pass(key, handling, ctx, |caller| ToLink::Publish {
            caller: Some(caller),
            publish: Box::new(publish),
        });
    }

    /// Sends somebody a stanza without durability, by the own owner, who knows whom the user blocks and what was sent
    /// before; the stanza is settled when that owner took it.
    pub(super) fn send_soft(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        let event = SessionEvent::Sends {
            key: self.key.clone(),
            stanza: handling.stanza.clone(),
        };
        let own = self.bare.clone();
        self.publish(&own, handling, Publish::Session(event), ctx);
    }

    /// Asks the owner of a key; the stanza is settled by the answer.
    pub(super) fn query(
        &mut self,
        key: &BareJid,
        handling: Handling,
        mut query: Query,
        ctx: &mut Context<Self>,
    ) {
        if let Query::Archive(query) = &mut query {
            let page_max = self.fabric.settings.client.archive_page_max;
            query.max = query.max.min(page_max);
        }
        if matches!(query, Query::Archive(_)) {
            return self.archive_query(key, handling, query, ctx);
        }
        self.ask(key, handling, query, ctx);
    }

    /// Asks at once; the ticket under which the answer comes.
    pub(super) fn ask(
        &mut self,
        key: &BareJid,
        handling: Handling,
        query: Query,
        ctx: &mut Context<Self>,
    ) -> Option<u64> {
        self.pass(key, handling, ctx, |caller| ToLink::Ask {
            caller,
            query: Box::new(query),
        })
    }

    /// What became of something that was asked.
    pub(super) fn outcome(&mut self, ticket: u64, outcome: Outcome, ctx: &mut Context<Self>) {
        let Some(pending) = self.forget(ticket) else {
            return;
        };
        let handling = Handling {
            unsettled: pending.unsettled,
            class: Class::Asked,
            stanza: pending.head,
        };
        if self.pending.is_empty() {
            // A session is idle nearly all its life: the login's requests should not take room for ever.
            self.pending = PendingByTicket::default();
        }
        match outcome {
            Outcome::Answered(Answer::Done { .. }) => {
                self.counts(&handling.unsettled);
                self.room_answered(&handling.stanza, false);
                self.done(handling, Bytes::new(), ctx);
            }
            Outcome::Answered(Answer::Reply(payload)) => self.done(handling, payload, ctx),
            Outcome::Answered(Answer::Refused(error)) => {
                self.room_answered(&handling.stanza, true);
                self.refuse(handling, &error, ctx);
            }
            Outcome::Taken => self.settle(handling.unsettled),
            Outcome::Replied(AskReply::Reply(reply)) => self.replied(handling, reply, ctx),
            Outcome::Replied(AskReply::Refused(error)) => self.refuse(handling, &error, ctx),
            Outcome::Replied(AskReply::Bound | AskReply::Moved(_)) => {
                self.settle(handling.unsettled);
            }
            Outcome::Full | Outcome::NotDone => {
                self.room_answered(&handling.stanza, true);
                self.refuse(handling, &unavailable_now(), ctx);
            }
            Outcome::Unknown => {
                return self.outcome_unknown(ctx);
            }
        }
        self.effects(ctx);
    }

    /// Never answered with an error, which clients would show as final: the stream goes, the stanza uncounted.
    pub(super) fn outcome_unknown(&mut self, ctx: &mut Context<Self>) {
        tracing::info!(
            session = self.key.number,
            "the outcome of a stanza is unknown; the stream is dropped"
        );
        self.drop_stream(ctx);
    }

    fn done(&mut self, handling: Handling, payload: Bytes, ctx: &mut Context<Self>) {
        if handling.stanza.kind == StanzaKind::Iq && handling.stanza.is_request() {
            self.answer(handling, payload, ctx);
        } else {
            self.settle(handling.unsettled);
        }
    }

    pub(super) fn replied(&mut self, handling: Handling, reply: Reply, ctx: &mut Context<Self>) {
        match reply {
            Reply::Payload(payload) => self.answer(handling, payload, ctx),
            Reply::Page { messages, fin } => {
                for message in messages {
                    self.send_bytes(message, None, ctx);
                }
                self.answer(handling, fin, ctx);
            }
            Reply::Refused(error) => self.refuse(handling, &error, ctx),
            Reply::Occupant {
                session,
                asker_nick,
            } => self.forward_to_occupant(handling, &session, &asker_nick, ctx),
            Reply::Credentials(_)
            | Reply::Jids(_)
            | Reply::ArchiveAllowed { .. }
            | Reply::Handled(_) => {
                tracing::error!("a question was answered with what nobody asked for");
                self.refuse(
                    handling,
                    &StanzaError::new(xmpp::stanza_error::Condition::InternalServerError),
                    ctx,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_session_leaves_room_on_a_link_for_the_others() {
        let (here, there) = (PartitionId(3), PartitionId(4));
        let mut open = OpenRequests::default();
        for _ in 0..OPEN_PER_LINK_MAX {
            assert!(open.has_room());
            open.opened(here);
            open.opened(there);
        }
        assert!(!open.has_room());
        open.closed(here);
        assert!(!open.has_room(), "the other link is full as well");
        open.closed(there);
        assert!(open.has_room());
        for _ in 1..OPEN_PER_LINK_MAX {
            open.closed(here);
            open.closed(there);
        }
        assert_eq!(open.links.capacity(), 0);
        open.tasks = TASKS_MAX;
        assert!(!open.has_room());
    }
}
