//! Messages on their way in. RFC 6121 §5, §8.

use actix::Context;
use messaging::command::{Command, SendMessage};
use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::stanza::{MessageType, Stanza};
use xmpp::stanza_error::{Condition, StanzaError};

use super::SessionActor;
use super::lanes::Class;
use super::pending::Handling;

impl SessionActor {
    pub(super) fn message(&mut self, mut handling: Handling, ctx: &mut Context<Self>) {
        // RFC 6120 §10.3.1: without `to` it is for the own account.
        let to = handling
            .stanza
            .to
            .get_or_insert_with(|| Jid::from(self.bare.clone()))
            .clone();
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
            // The server itself has nobody who reads.
            return self.refuse(
                handling,
                &StanzaError::new(Condition::ServiceUnavailable),
                ctx,
            );
        }
        if handling.stanza.message_type() == MessageType::Groupchat {
            // RFC 6121 §8.5.2.1.1, §8.5.3.2.1: a user is no room.
            return self.refuse(
                handling,
                &StanzaError::new(Condition::ServiceUnavailable),
                ctx,
            );
        }
        if let Err(error) = self.may_write_to(&to) {
            return self.refuse(handling, &error, ctx);
        }
        if handling.class == Class::Proposed {
            let command = SendMessage {
                sender: self.key.jid.clone(),
                to,
                origin_id: origin_id(&handling.stanza),
                stanza: handling.stanza.clone(),
                local: true,
                counted: self.rides(&mut handling.unsettled),
            };
            let own = self.bare.clone();
            return self.propose(&own, handling, Command::SendMessage(command), ctx);
        }
        self.send_soft(handling, ctx);
    }
}

/// XEP-0359's origin-id: how a client's retry is recognised.
pub(super) fn origin_id(stanza: &Stanza) -> Option<String> {
    let payload = stanza.payload_document().ok()?;
    let element = payload
        .roots()
        .find(|element| element.is("origin-id", ns::STANZA_ID))?;
    element
        .attr("id")
        .map(|id| id.into_owned())
        .filter(|id| !id.is_empty() && id.len() <= 1_023)
}
