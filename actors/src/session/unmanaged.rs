//! Deliveries to a client without stream management: a ping behind them tells that they arrived.

use std::time::Instant;

use actix::Context;
use bytes::Bytes;
use xmpp::jid::Jid;
use xmpp::stanza::{Stanza, StanzaKind};

use super::SessionActor;

/// What was delivered, and what was asked.
#[derive(Default)]
pub(super) struct Unmanaged {
    /// The row sent last.
    pub(super) newest: u64,
    asked: Option<(u64, u64)>,
    pub(super) asked_at: Option<Instant>,
    pings: u64,
}

impl SessionActor {
    /// A ping behind what was delivered; its answer says that all before it has arrived.
    pub(super) fn ping_unmanaged(&mut self, ctx: &mut Context<Self>) {
        let unmanaged = self.unmanaged.get_or_insert_default();
        if unmanaged.asked.is_some() {
            return;
        }
        unmanaged.pings += 1;
        unmanaged.asked = Some((unmanaged.pings, unmanaged.newest));
        unmanaged.asked_at = Some(Instant::now());
        let mut ping = Stanza::new(StanzaKind::Iq);
        ping.type_ = Some("get".into());
        ping.id = Some(format!("delivered-{}", unmanaged.pings).into());
        ping.from = Some(Jid::from(self.bare.to_domain()));
        ping.to = Some(Jid::from(self.key.jid.clone()));
        ping.payload = Bytes::from_static(b"<ping xmlns='urn:xmpp:ping'/>");
        self.send(&ping, ctx);
    }

    /// When a client that answers no ping counts as gone.
    pub(super) fn pong_due(&self) -> Option<Instant> {
        let within = self.fabric.settings.client.sm_outbound.answer_within;
        let asked_at = self.unmanaged.as_ref()?.asked_at?;
        Some(asked_at + within)
    }

    /// The answer to such a ping; `true` if it was one.
    pub(super) fn pong_unmanaged(&mut self, stanza: &Stanza, ctx: &mut Context<Self>) -> bool {
        let Some(unmanaged) = &mut self.unmanaged else {
            return false;
        };
        let Some((number, upto)) = unmanaged.asked else {
            return false;
        };
        // The ping came from the server; whoever answers somebody else must be let through.
        if stanza.to.as_ref().is_some_and(|to| !to.is_domain()) {
            return false;
        }
        let Some(id) = stanza.id.as_deref() else {
            return false;
        };
        if id.strip_prefix("delivered-").and_then(|n| n.parse().ok()) != Some(number) {
            return false;
        }
        (unmanaged.asked, unmanaged.asked_at) = (None, None);
        let is_behind = unmanaged.newest != upto;
        self.acknowledged(upto);
        if is_behind {
            self.ping_unmanaged(ctx);
        }
        true
    }
}
