//! Presence on its way in. RFC 6121 §3, §4; XEP-0045.

use actix::Context;
use cluster::link::protocol::Publish;
use messaging::command::Command;
use messaging::room::command::{RoomAction, RoomCommand};
use messaging::room::parse::{RoomRequest, Sender, parse};
use messaging::room::query::RoomQuery;
use messaging::room::render::desynchronized;
use messaging::user::publication::SessionEvent;
use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::{PresenceType, Stanza, StanzaKind};
use xmpp::stanza_error::{Condition, StanzaError};

use super::pending::Handling;
use super::{SessionActor, Stay};

/// Bytes of a presence. It is kept for every session and occupant, sent to all of their contacts and to whoever joins,
/// and brought again with every attachment.
const PRESENCE_BYTES_MAX: usize = 16 * 1024;

impl SessionActor {
    pub(super) fn presence(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        if handling.stanza.size_hint() > PRESENCE_BYTES_MAX {
            let error = StanzaError::new(Condition::PolicyViolation)
                .with_text("The presence is too large.");
            return self.refuse(handling, &error, ctx);
        }
        if handling.stanza.presence_type() == PresenceType::Error && !handling.stanza.is_error() {
            // RFC 6121 §4.7.1: no such type.
            return self.refuse(handling, &StanzaError::new(Condition::BadRequest), ctx);
        }
        let Some(to) = handling.stanza.to.clone() else {
            return self.broadcast(handling, ctx);
        };
        let constants = &self.fabric.settings.constants;
        if to.domain() == constants.rooms_domain {
            return self.room_stanza(handling, to, ctx);
        }
        if to.domain() != constants.domain {
            return self.refuse(
                handling,
                &StanzaError::new(Condition::RemoteServerNotFound),
                ctx,
            );
        }
        if to.is_domain() {
            return self.settle(handling.unsettled);
        }
        match handling.stanza.presence_type() {
            PresenceType::Subscribe
            | PresenceType::Subscribed
            | PresenceType::Unsubscribe
            | PresenceType::Unsubscribed => self.subscription(handling, to, ctx),
            kind @ (PresenceType::Available | PresenceType::Unavailable) => {
                if kind == PresenceType::Available
                    && let Err(error) = self.may_write_to(&to)
                {
                    return self.refuse(handling, &error, ctx);
                }
                let event = SessionEvent::Directed {
                    key: self.key.clone(),
                    stanza: handling.stanza.clone(),
                };
                let own = self.bare.clone();
                self.publish(&own, handling, Publish::Session(event), ctx);
            }
            // RFC 6121 §4.3: clients need not probe, but may.
            PresenceType::Error | PresenceType::Probe => self.send_soft(handling, ctx),
        }
    }

    /// RFC 6121 §4.2, §4.4, §4.5.
    fn broadcast(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        match handling.stanza.presence_type() {
            PresenceType::Available => {
                if let Err(error) = priority(&handling.stanza) {
                    return self.refuse(handling, &error, ctx);
                }
                self.available = true;
            }
            PresenceType::Unavailable => {
                self.available = false;
                // XEP-0045 §7.14: who goes offline leaves its rooms.
                self.leave_rooms(&handling.stanza.clone());
            }
            _ => return self.refuse(handling, &StanzaError::new(Condition::BadRequest), ctx),
        }
        let event = SessionEvent::Presence {
            key: self.key.clone(),
            stanza: handling.stanza.clone(),
        };
        let own = self.bare.clone();
        self.publish(&own, handling, Publish::Session(event), ctx);
    }

    /// RFC 6121 §3: from the bare JID, to the bare JID.
    fn subscription(&mut self, mut handling: Handling, to: Jid, ctx: &mut Context<Self>) {
        if handling.stanza.presence_type() == PresenceType::Subscribe
            && let Err(error) = self.may_subscribe()
        {
            return self.refuse(handling, &error, ctx);
        }
        let contact = to.bare();
        let own = self.bare.clone();
        let mut stanza = handling.stanza.clone();
        stanza.from = Some(Jid::from(own.clone()));
        stanza.to = Some(Jid::from(contact.clone()));
        handling.stanza.payload = bytes::Bytes::new();
        let command = Command::SendSubscription {
            user: own.clone(),
            contact,
            stanza,
        };
        self.propose(&own, handling, command, ctx);
    }

    /// A message, presence or iq for a room or an occupant.
    pub(super) fn room_stanza(&mut self, handling: Handling, to: Jid, ctx: &mut Context<Self>) {
        if to.is_domain() {
            return self.rooms_service(handling, ctx);
        }
        let sender = Sender {
            jid: self.key.jid.clone(),
            node: self.fabric.node.0,
            incarnation: self.fabric.incarnation.0,
            session: self.key.number,
        };
        let room = to.bare();
        match parse(&handling.stanza, &sender) {
            Err(refusal) => self.refuse(handling, &refusal.to_stanza_error(), ctx),
            Ok(RoomRequest::Action(action)) => {
                if let Err(error) = self.may_act(&action) {
                    return self.refuse(handling, &error, ctx);
                }
                if let RoomAction::Join { nick, .. } = &action {
                    // From here on the goodbye follows the join on the same link, whenever the stream ends.
                    self.rooms.entry(room.clone()).or_insert_with(|| Stay {
                        nick: nick.clone(),
                        granted: false,
                    });
                }
                let command = RoomCommand {
                    room: room.clone(),
                    by: self.key.jid.clone(),
                    account: self.account,
                    action,
                };
                self.propose(&room, handling, Command::Room(command), ctx);
            }
            Ok(RoomRequest::Query(
                query @ (RoomQuery::OccupantSession { .. } | RoomQuery::SelfPing { .. }),
            )) => {
                // Perhaps for another occupant: the whole stanza must be there when the owner has said whose it is.
                self.occupant_iq(handling, room, query, ctx);
            }
            Ok(RoomRequest::Query(query)) => {
                self.query(&room, handling, messaging::query::Query::Room(query), ctx);
            }
            Ok(RoomRequest::Passing(_)) => {
                let stanza = handling.stanza.clone();
                let publish = Publish::RoomStanza {
                    room: room.clone(),
                    by: self.key.jid.clone(),
                    stanza,
                };
                self.publish(&room, handling, publish, ctx);
            }
            Ok(RoomRequest::Ignored) => self.settle(handling.unsettled),
            Ok(RoomRequest::Unhandled) => self.room_iq(handling, to, ctx),
        }
    }
}

impl SessionActor {
    /// What a room said to presence. Who was refused and has asked for nothing else has no stay there to say goodbye to.
    pub(super) fn room_answered(&mut self, head: &Stanza, refused: bool) {
        let room = match &head.to {
            Some(to) if head.kind == StanzaKind::Presence => to.bare(),
            _ => return,
        };
        let Some(stay) = self.rooms.get_mut(&room) else {
            return;
        };
        stay.granted |= !refused;
        if !stay.granted && !self.waits_for(&room) {
            self.rooms.remove(&room);
        }
    }

    /// XEP-0045 §7.2.18: the client learns that it isn't in the room, under the nickname it believes to have.
    pub(super) fn not_inside(&mut self, room: &BareJid, ctx: &mut Context<Self>) {
        if let Some(stay) = self.rooms.remove(room)
            && let Some(stanza) = desynchronized(room, &stay.nick, &self.key.jid)
        {
            self.send_held(ctx);
            self.send(&stanza, ctx);
        }
    }
}

/// RFC 6121 §4.7.2.3: an integer from -128 to 127.
fn priority(stanza: &Stanza) -> Result<i8, StanzaError> {
    let bad = || {
        StanzaError::new(Condition::BadRequest)
            .with_text("A priority is a number from -128 to 127.")
    };
    let payload = stanza.payload_document().map_err(|_| bad())?;
    match payload
        .roots()
        .find(|element| element.is("priority", xmpp::ns::CLIENT))
    {
        None => Ok(0),
        Some(element) => element.text().trim().parse().map_err(|_| bad()),
    }
}
