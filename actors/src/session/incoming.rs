//! What the stream's core wants done, and stanzas on their way in.

use std::sync::Arc;
use std::time::Instant;

use actix::Context;
use xmpp::jid::Jid;
use xmpp::scan::Document;
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::stream::{CloseReason, StreamEffect};
use xmpp::stream_error::StreamError;
use xmpp::stream_management::{Inbound, Nonza, Outbound};

use super::lanes::Class;
use super::pending::{Handling, Unsettled};
use super::{Management, SessionActor};

/// Stanzas that may wait for their turn, and their bytes; then nothing is read until some of them went.
const WAITING_MAX: usize = 1_024;
const WAITING_BYTES_MAX: usize = 256 * 1024;

impl SessionActor {
    /// Whether another stanza may come in.
    pub(super) fn has_room(&self) -> bool {
        // Whoever doesn't take its answers asks no more; half, since deliveries have a share as well.
        let written = self.to_write() <= self.fabric.settings.client.outgoing_bytes_max / 2;
        written && self.paused_until().is_none() && self.takes_stanzas()
    }

    /// Whether what came in before leaves room for more: outcomes make it.
    ///
    /// What may not be asked yet waits in the lanes: behind it acknowledgements may come.
    pub(super) fn takes_stanzas(&self) -> bool {
        let managed = self
            .management
            .as_ref()
            .is_none_or(|management| management.inbound.has_room());
        let waiting = &self.lanes;
        managed && waiting.waiting() < WAITING_MAX && waiting.waiting_bytes() < WAITING_BYTES_MAX
    }

    /// Does what the core wants, then writes, reads on and sets the timer.
    pub(super) fn effects(&mut self, ctx: &mut Context<Self>) {
        // A stream that is over is always looked at: its end must not wait for what is unsettled.
        self.advance_archives(ctx);
        loop {
            // First what came first, as far as its links have room: they are everybody's.
            if self.open.has_room()
                && let Some(handling) = self.lanes.poll()
            {
                self.dispatch(handling, ctx);
                continue;
            }
            if self.is_deaf() || !self.core.is_closed() && !self.has_room() {
                break;
            }
            let Some(effect) = self.core.poll_effect() else {
                break;
            };
            match effect {
                StreamEffect::Send(_) if self.is_detached() => {}
                StreamEffect::Send(bytes) => self.out.extend_from_slice(&bytes),
                StreamEffect::Stanza(document) => self.stanza(&document, ctx),
                StreamEffect::StanzaAnswered { reply } => {
                    let number = self.count();
                    self.settle(Unsettled::outside(number));
                    self.send_bytes(reply, None, ctx);
                }
                StreamEffect::StreamManagement(nonza) => self.nonza(nonza, ctx),
                StreamEffect::ClientState { active } => self.client_state(active, ctx),
                StreamEffect::Close { reason } => {
                    let leaves = matches!(reason, CloseReason::ByPeer | CloseReason::PeerError);
                    self.because(why(&reason));
                    return match leaves && !self.is_detached() {
                        true => self.leave(ctx),
                        false => self.close(ctx),
                    };
                }
                StreamEffect::StartTls
                | StreamEffect::LookupCredentials { .. }
                | StreamEffect::CheckPassword(_)
                | StreamEffect::Authenticated { .. }
                | StreamEffect::Register { .. }
                | StreamEffect::BindResource { .. }
                | StreamEffect::Established(_) => {
                    tracing::error!("a bound stream wants to negotiate");
                }
            }
        }
        if self.has_left() {
            return self.close(ctx);
        }
        self.acks();
        self.say_count();
        self.departs(ctx);
        self.promise(ctx);
        self.advance_departure(ctx);
        self.flush(ctx);
        self.read(ctx);
        self.set_timer(ctx);
    }

    /// Counts a stanza that came in.
    fn count(&mut self) -> Option<xmpp::stream_management::StanzaNumber> {
        self.fabric.metrics.stanzas_in.inc();
        let now = Instant::now();
        self.stanza_came(now);
        // There is room: it was looked for before the core was asked.
        self.management
            .as_mut()
            .and_then(|management| management.inbound.receive(now).ok())
    }

    fn nonza(&mut self, nonza: Nonza, ctx: &mut Context<Self>) {
        match nonza {
            Nonza::Enable { resume, max } => {
                let client = &self.fabric.settings.client;
                self.management = Some(Box::new(Management {
                    inbound: Inbound::new(Arc::clone(&client.sm_inbound)),
                    outbound: Outbound::new(Arc::clone(&client.sm_outbound)),
                }));
                let offer = if resume {
                    self.offer_resumption(max)
                } else {
                    None
                };
                self.out
                    .extend_from_slice(&xmpp::stream_management::enabled(offer.as_ref()));
            }
            Nonza::Request => {
                if let Some(management) = &mut self.management {
                    management.inbound.request(Instant::now());
                }
            }
            Nonza::Ack { h } => {
                let Some(management) = &mut self.management else {
                    return;
                };
                let acked = management
                    .outbound
                    .acked(h, Instant::now())
                    .map(|sent| sent.filter_map(|sent| sent.row).last());
                match acked {
                    Ok(Some(seq)) => self.acknowledged(seq),
                    Ok(None) => {}
                    Err(error) => return self.end(StreamError::from(error), ctx),
                }
                self.go_on(ctx);
            }
            Nonza::Resume { .. } => {
                tracing::error!("a bound stream wants to be resumed");
            }
        }
    }

    fn stanza(&mut self, document: &Document, ctx: &mut Context<Self>) {
        let number = self.count();
        let root = document.root();
        let mut stanza = match Stanza::from_element(&root) {
            Ok(stanza) => stanza,
            Err(error) => {
                if let Some(reply) = error.reply() {
                    self.send(&reply, ctx);
                }
                return self.settle(Unsettled::outside(number));
            }
        };
        stanza.from = Some(Jid::from(self.jid().clone()));
        if stanza.lang.is_none() {
            stanza.lang = self.core.lang().map(Into::into);
        }
        let rooms = &self.fabric.settings.constants.rooms_domain;
        let to_room = stanza.to.as_ref().is_some_and(|to| to.domain() == rooms);
        if let Some(payload) = self.sanitised(&root, to_room) {
            stanza.payload = payload;
        }
        let turn = self.turn(&root, &stanza);
        let lane = turn.as_ref().map(|turn| turn.lane.clone());
        let handling = Handling {
            unsettled: Unsettled {
                lane,
                ..Unsettled::outside(number)
            },
            class: turn.as_ref().map_or(Class::Asked, |turn| turn.class),
            stanza,
        };
        let bytes = handling.stanza.size_hint();
        let goes = match turn {
            Some(turn) => self.lanes.enter(turn, bytes, handling),
            None => Some(handling),
        };
        match goes {
            Some(handling) if self.open.has_room() => self.dispatch(handling, ctx),
            Some(handling) => self.lanes.hold(bytes, handling),
            None => {}
        }
    }

    /// Does what a stanza says, now that its turn has come.
    fn dispatch(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        match handling.stanza.kind {
            StanzaKind::Message => self.message(handling, ctx),
            StanzaKind::Presence => self.presence(handling, ctx),
            StanzaKind::Iq => self.iq(handling, ctx),
        }
    }
}

/// A stream's end as the log calls it.
fn why(reason: &CloseReason) -> &'static str {
    match reason {
        CloseReason::ByPeer => "closed by the client",
        CloseReason::PeerError => "the client reported an error",
        CloseReason::Error(error) => error.condition.name(),
        CloseReason::Unfinished => "left without a word, to go on elsewhere",
        CloseReason::TlsTimeout => "no TLS in time",
    }
}
