//! How fast a client is read, and how many people and rooms it may turn to.
//!
//! Bytes and stanzas beyond their pace stay in the socket. Nothing else is done to the stream: what the client has to
//! answer (requests for acknowledgements, pings) may stand behind what is not read yet, so the time for it stands still
//! meanwhile.

use std::time::{Duration, Instant};

use messaging::room::command::RoomAction;
use xmpp::jid::Jid;
use xmpp::shaper::StreamShaper;
use xmpp::stanza_error::StanzaError;

use super::SessionActor;
use crate::allowance::too_fast;

/// What a client from a network that is not trusted has sent lately.
#[derive(Default)]
pub(super) struct Shaping {
    shaper: StreamShaper,
    /// The end of the last pause.
    paused_until: Option<Instant>,
}

impl Shaping {
    /// A pause up to then has begun, or goes on: how much longer it became.
    fn pauses(&mut self, until: Instant, now: Instant) -> Duration {
        let known = self.paused_until.unwrap_or(now).max(now);
        self.paused_until = Some(until.max(known));
        until.saturating_duration_since(known)
    }
}

impl SessionActor {
    pub(super) fn bytes_came(&mut self, count: usize, now: Instant) {
        if let Some(shaping) = &mut self.shaping {
            let paces = &self.fabric.settings.client.stream_paces;
            shaping.shaper.bytes(paces, count, now);
        }
    }

    pub(super) fn stanza_came(&mut self, now: Instant) {
        if let Some(shaping) = &mut self.shaping {
            let paces = &self.fabric.settings.client.stream_paces;
            shaping.shaper.stanza(paces, now);
        }
    }

    /// Until when the client is not read because it sent too fast.
    pub(super) fn paused_until(&self) -> Option<Instant> {
        let paces = &self.fabric.settings.client.stream_paces;
        let shaping = self.shaping.as_ref()?;
        shaping.shaper.reads_at(paces, Instant::now())
    }

    /// The same; what the client has to answer gets so much more time.
    pub(super) fn pause(&mut self) -> Option<Instant> {
        let until = self.paused_until()?;
        let longer = self.shaping.as_mut()?.pauses(until, Instant::now());
        if !longer.is_zero() {
            self.fabric.metrics.pauses.inc();
            if let Some(management) = &mut self.management {
                management.outbound.postpone(longer);
            }
            let unmanaged = self.unmanaged.as_mut();
            if let Some(asked_at) = unmanaged.and_then(|unmanaged| unmanaged.asked_at.as_mut()) {
                *asked_at += longer;
            }
        }
        Some(until)
    }

    /// Whether the user may write to somebody now.
    ///
    /// # Errors
    /// What the client is told otherwise.
    pub(super) fn may_write_to(&self, recipient: &Jid) -> Result<(), StanzaError> {
        let allowances = &self.fabric.allowances;
        let may = self.is_trusted() || allowances.write_to(&self.bare, recipient, Instant::now());
        self.unless_too_fast(may, "Too many new recipients")
    }

    /// Whether the user may request a subscription now.
    ///
    /// # Errors
    /// What the client is told otherwise.
    pub(super) fn may_subscribe(&self) -> Result<(), StanzaError> {
        let allowances = &self.fabric.allowances;
        let may = self.is_trusted() || allowances.subscribe(&self.bare, Instant::now());
        self.unless_too_fast(may, "Too many requests for subscriptions")
    }

    /// Whether the user may do this in a room now.
    ///
    /// # Errors
    /// What the client is told otherwise.
    pub(super) fn may_act(&self, action: &RoomAction) -> Result<(), StanzaError> {
        match action {
            RoomAction::Join { .. } => {
                let allowances = &self.fabric.allowances;
                let may = self.is_trusted() || allowances.join(&self.bare, Instant::now());
                self.unless_too_fast(may, "Too many rooms were entered")
            }
            RoomAction::Invite { invitees, .. } => invitees
                .iter()
                .try_for_each(|invitee| self.may_write_to(&invitee.jid)),
            _ => Ok(()),
        }
    }

    fn is_trusted(&self) -> bool {
        self.shaping.is_none()
    }

    fn unless_too_fast(&self, may: bool, what: &str) -> Result<(), StanzaError> {
        if may {
            return Ok(());
        }
        self.fabric.metrics.too_fast.inc();
        Err(too_fast(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses as they come, in ms: the time, the end, and how much longer it all became.
    #[test]
    fn each_moment_of_a_pause_counts_once() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut shaping = Shaping::default();
        let mut check = |now, until, longer| {
            let became = shaping.pauses(at(until), at(now));
            assert_eq!(became, Duration::from_millis(longer), "{now} to {until}");
        };
        check(0, 100, 100);
        check(50, 100, 0);
        check(60, 150, 50);
        check(150, 170, 20);
        check(900, 950, 50);
        check(910, 940, 0);
    }
}
