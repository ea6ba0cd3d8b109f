//! The session's count in the log of its user's partition ([`messaging::user::streams`]), which outlives its node.
//!
//! ```text
//!   <enable/> ─► begins ─────────────────► answered: counted from here on
//!   a message of one's own partition ────► rides in its command, and its answer covers it
//!   <r/> behind anything else, resumption, a move, an hour ─► said ─► answered: covered, `<a/>`
//! ```
//!
//! Invariants: what the client is told is handled (`<a/>`, `<resumed/>`) is covered by answers of the log. Nothing rides before
//! the count has begun, and the count begins once. What rides and what is said goes over one link, in whose order the log
//! applies it and the link answers it: so the session, which adds it up by the log's rule as the answers come, never thinks
//! the log has more than it has.

use std::sync::Arc;
use std::time::Instant;

use actix::Context;
use messaging::user::streams::{Counted, Course, SAID_EVERY, StreamId, StreamNote};

use super::SessionActor;
use super::pending::Unsettled;
use super::resumption::Resumption;
use crate::link::{SESSIONS_WOKEN_EVERY, ToLink, tell};

/// What a session has said of its count.
pub(super) struct Said {
    /// It has begun.
    begun: bool,
    /// An answer is awaited until then. The link sends it again by itself, but for one that broke down in the middle of it.
    awaits: Option<Instant>,
    /// Since when nothing but its cover has held back an acknowledgement.
    wanted: Option<Instant>,
    /// When it is to be said again, whether or not it has changed: at the next of the link's ticks, so that an idle session needs
    /// no timer.
    again_at: Instant,
    /// Its client will ask for the session though it has ended here.
    outlasts: bool,
}

impl Said {
    /// Nothing.
    pub(super) fn nothing() -> Said {
        Said {
            begun: false,
            awaits: None,
            wanted: None,
            again_at: Instant::now() + SAID_EVERY.saturating_sub(SESSIONS_WOKEN_EVERY),
            outlasts: false,
        }
    }

    /// As another node has said it, and heard that the log has it.
    pub(super) fn elsewhere() -> Said {
        Said {
            begun: true,
            ..Said::nothing()
        }
    }

    /// Whether the log has it, so that what rides is counted.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    fn is_awaited(&self, now: Instant) -> bool {
        self.awaits.is_some_and(|until| now < until)
    }
}

impl Resumption {
    fn stream(&self) -> StreamId {
        StreamId(self.id.number())
    }
}

impl SessionActor {
    /// What a message of the user's own partition says of the count; kept with it until its answer.
    pub(super) fn rides(&self, unsettled: &mut Unsettled) -> Option<Counted> {
        let resumption = self.resumption.as_ref()?;
        let management = self.management.as_ref()?;
        let number = unsettled.number.filter(|_| resumption.said.begun)?;
        unsettled.counted = Some(Counted {
            stream: resumption.stream(),
            number: number.get(),
            handled: management.inbound.settled(),
        });
        unsettled.counted
    }

    /// A message is done, and with it what rode in its command.
    pub(super) fn counts(&mut self, unsettled: &Unsettled) {
        if let (Some(counted), Some(management)) = (&unsettled.counted, &mut self.management) {
            let covered = management.inbound.covered().unwrap_or_default();
            management.inbound.cover(counted.raises(covered));
        }
    }

    /// When something that was said of the count, or waits for it, is to be looked at.
    pub(super) fn count_due(&self) -> Option<Instant> {
        let resumption = self.resumption.as_ref()?;
        let goes = self.leaves_by.is_some() || resumption.departure_is_released();
        let said = (!goes).then_some(&resumption.said)?;
        let settle_within = self.fabric.settings.client.sm_inbound.settle_within;
        let given_up = said.wanted.map(|since| since + settle_within);
        [said.awaits, given_up].into_iter().flatten().min()
    }

    /// Says the count again if that is due; whenever the session is woken.
    pub(super) fn say_count_in_time(&mut self) {
        let said = self.resumption.as_ref().map(|resumption| &resumption.said);
        if said.is_some_and(|said| said.again_at <= Instant::now()) {
            self.say_count();
        }
    }

    /// Says the count where something waits for it to be covered.
    pub(super) fn say_count(&mut self) {
        let (Some(resumption), Some(management)) = (&mut self.resumption, &self.management) else {
            return;
        };
        let (now, inbound) = (Instant::now(), &management.inbound);
        let wanted = resumption.said.wanted.unwrap_or(now);
        resumption.said.wanted = inbound.wants_cover().then_some(wanted);
        // Without a connection the next thing that is told is the count at a resumption, here or elsewhere.
        let awaited = resumption.is_wanted() || resumption.departure.is_some();
        let departs = resumption.departs;
        let wanted = !resumption.said.begun
            || inbound.wants_cover()
            || awaited && inbound.is_settled_uncovered()
            || departs.is_some_and(|(_, upto)| inbound.covered() < Some(upto))
            || resumption.said.awaits.is_some()
            || resumption.said.again_at <= now;
        if resumption.said.is_awaited(now) || resumption.departure_is_released() || !wanted {
            return;
        }
        let course = match resumption.said.begun {
            true => Course::GoesOn,
            false => Course::Begins(u32::try_from(resumption.within.as_secs()).unwrap_or(u32::MAX)),
        };
        resumption.said.awaits = Some(now + self.fabric.settings.client.sm_inbound.settle_within);
        let note = StreamNote {
            user: self.bare.clone(),
            stream: resumption.stream(),
            handled: inbound.settled(),
            course,
        };
        if let Some(link) = self.fabric.link_of(&self.bare) {
            let session = Some(Arc::clone(&self.mailbox));
            tell(link, ToLink::Note { session, note });
        }
    }

    /// Whether an outcome is unknown for too long: that of a stanza, or whether the log has what is to be acknowledged.
    pub(super) fn outcome_is_overdue(&mut self, now: Instant) -> bool {
        let Some(management) = &mut self.management else {
            return false;
        };
        let settle_within = self.fabric.settings.client.sm_inbound.settle_within;
        let said = self.resumption.as_ref().map(|resumption| &resumption.said);
        let wanted = said.and_then(|said| said.wanted);
        let unheard = wanted.is_some_and(|since| since + settle_within <= now);
        management.inbound.handle_timeout(now).is_err()
            || unheard && management.inbound.wants_cover()
    }

    /// The log has so much of it.
    pub(super) fn said(&mut self, handled: u64, ctx: &mut Context<Self>) {
        if let (Some(resumption), Some(management)) = (&mut self.resumption, &mut self.management) {
            resumption.said = Said::elsewhere();
            management.inbound.cover(handled);
        }
        self.effects(ctx);
    }

    /// The stream ends so that its client asks for the session again, and is to hear what was done of what it said.
    pub(super) fn keep_count(&mut self) {
        if let Some(resumption) = &mut self.resumption {
            resumption.said.outlasts = true;
        }
    }

    /// Nobody will ask for it.
    pub(super) fn forget_count(&self) {
        let asked_for = |resumption: &&Resumption| !resumption.said.outlasts;
        let resumption = self.resumption.as_deref().filter(asked_for);
        let (Some(resumption), Some(link)) = (resumption, self.fabric.link_of(&self.bare)) else {
            return;
        };
        let note = StreamNote {
            user: self.bare.clone(),
            stream: resumption.stream(),
            handled: 0,
            course: Course::Ends,
        };
        let session = None;
        tell(link, ToLink::Note { session, note });
    }
}
