//! Iqs on their way in: answered here, asked of an owner, or passed to another session.

use actix::Context;
use cluster::link::protocol::Publish;
use messaging::command::Command;
use messaging::query::Query;
use messaging::user::publication::SessionEvent;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::scan::Document;
use xmpp::stanza::{IqType, Stanza};
use xmpp::stanza_error::{Condition, StanzaError};

use super::SessionActor;
use super::pending::Handling;
use crate::services::{self, Service};

impl SessionActor {
    pub(super) fn iq(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        if !handling.stanza.is_request() {
            return self.iq_response(handling, ctx);
        }
        let constants = &self.fabric.settings.constants;
        let to = handling.stanza.to.clone();
        match to {
            None => self.own_iq(handling, ctx),
            Some(to) if to.as_str() == self.bare.as_str() => self.own_iq(handling, ctx),
            Some(to) if to.domain() == constants.rooms_domain => {
                self.room_stanza(handling, to, ctx)
            }
            Some(to) if to.domain() != constants.domain => {
                self.refuse(
                    handling,
                    &StanzaError::new(Condition::RemoteServerNotFound),
                    ctx,
                );
            }
            Some(to) if to.is_domain() => self.server_iq(handling, ctx),
            Some(to) if to.is_bare() => self.account_iq(handling, to.bare(), ctx),
            Some(_) => self.send_soft(handling, ctx),
        }
    }

    /// Results and errors go to whoever asked; those to the server end here.
    fn iq_response(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        if self.pong_unmanaged(&handling.stanza, ctx) {
            return self.settle(handling.unsettled);
        }
        match handling.stanza.to.clone() {
            Some(to) if to.domain() == self.fabric.settings.constants.domain && !to.is_bare() => {
                self.send_soft(handling, ctx);
            }
            Some(to)
                if to.domain() == self.fabric.settings.constants.rooms_domain && !to.is_bare() =>
            {
                self.room_iq(handling, to, ctx);
            }
            _ => self.settle(handling.unsettled),
        }
    }

    /// To the own account, or without `to`. RFC 6120 §10.3.3.
    fn own_iq(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        let own = self.bare.clone();
        let Some(document) = self.payload(&handling) else {
            return self.bad(handling, ctx);
        };
        let Some(element) = document.roots().next() else {
            return self.bad(handling, ctx);
        };
        let set = handling.stanza.iq_type() == IqType::Set;
        let ids = &self.fabric.ids;
        match services::own(element, set, &own, self.jid(), ids) {
            Service::Command(command) => self.propose(&own, handling, *command, ctx),
            Service::Query(query) => {
                self.note_query(&query);
                self.query(&own, handling, *query, ctx);
            }
            Service::Answer(payload) => self.answer(handling, payload, ctx),
            Service::Carbons(on) => {
                self.flags.carbons = on;
                self.tell_flags();
                self.answer(handling, bytes::Bytes::new(), ctx);
            }
            Service::Refuse(error) => self.refuse(handling, &error, ctx),
            Service::Rooms | Service::IfSeen(_) => self.refuse(
                handling,
                &StanzaError::new(Condition::ServiceUnavailable),
                ctx,
            ),
            Service::Remove => self.remove_account(handling, ctx),
            Service::ChangePassword(password) => self.change_password(handling, password, ctx),
        }
    }

    /// What a session asks for tells what it wants to be told later.
    fn note_query(&mut self, query: &Query) {
        let before = self.flags;
        match query {
            Query::Roster { .. } => self.flags.roster = true,
            Query::Blocklist { .. } => self.flags.blocklist = true,
            Query::Archive(_) if !self.available => self.flags.archive_first = true,
            _ => {}
        }
        if self.flags != before {
            self.tell_flags();
        }
    }

    fn tell_flags(&self) {
        self.tell_own(SessionEvent::Flags {
            key: self.key.clone(),
            flags: self.flags,
        });
    }

    /// To the server.
    fn server_iq(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        let Some(document) = self.payload(&handling) else {
            return self.bad(handling, ctx);
        };
        let Some(element) = document.roots().next() else {
            return self.bad(handling, ctx);
        };
        let set = handling.stanza.iq_type() == IqType::Set;
        match services::server(element, set, &self.bare, &self.fabric) {
            Service::Answer(payload) => self.answer(handling, payload, ctx),
            Service::Refuse(error) => self.refuse(handling, &error, ctx),
            Service::ChangePassword(password) => self.change_password(handling, password, ctx),
            Service::Remove => self.remove_account(handling, ctx),
            _ => self.refuse(
                handling,
                &StanzaError::new(Condition::ServiceUnavailable),
                ctx,
            ),
        }
    }

    /// To another account's bare JID: the server answers for it. RFC 6121 §8.5.2.1.3.
    fn account_iq(&mut self, handling: Handling, account: BareJid, ctx: &mut Context<Self>) {
        let Some(document) = self.payload(&handling) else {
            return self.bad(handling, ctx);
        };
        let Some(element) = document.roots().next() else {
            return self.bad(handling, ctx);
        };
        let set = handling.stanza.iq_type() == IqType::Set;
        let service = services::account(element, set, &account, self.jid(), &self.fabric.ids);
        let (fabric, own) = (std::sync::Arc::clone(&self.fabric), self.jid().clone());
        let asked = async move { services::for_account(&fabric, &own, account, service).await };
        self.in_task(asked, ctx, move |actor, reply, ctx| match reply {
            Ok(reply) => actor.replied(handling, reply, ctx),
            Err(error) => actor.refuse(handling, &error, ctx),
        });
    }

    /// To the rooms' service itself.
    pub(super) fn rooms_service(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        if !handling.stanza.is_request() {
            if handling.stanza.kind == xmpp::stanza::StanzaKind::Message {
                return self.refuse(
                    handling,
                    &StanzaError::new(Condition::ServiceUnavailable),
                    ctx,
                );
            }
            return self.settle(handling.unsettled);
        }
        let Some(document) = self.payload(&handling) else {
            return self.bad(handling, ctx);
        };
        let Some(element) = document.roots().next() else {
            return self.bad(handling, ctx);
        };
        let set = handling.stanza.iq_type() == IqType::Set;
        match services::rooms(element, set) {
            Service::Answer(payload) => self.answer(handling, payload, ctx),
            Service::Rooms => self.list_rooms(handling, ctx),
            Service::Refuse(error) => self.refuse(handling, &error, ctx),
            _ => self.refuse(
                handling,
                &StanzaError::new(Condition::ServiceUnavailable),
                ctx,
            ),
        }
    }

    /// XEP-0045 §6.3: every partition has its share of the rooms.
    fn list_rooms(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        let fabric = std::sync::Arc::clone(&self.fabric);
        let asker = self.bare.clone();
        let asked = async move { services::disco::rooms(&fabric, asker).await };
        self.in_task(asked, ctx, move |actor, result, ctx| match result {
            Ok(payload) => actor.answer(handling, payload, ctx),
            Err(error) => actor.refuse(handling, &error, ctx),
        });
    }

    /// An iq to a room or occupant that XEP-0045 says nothing of: its archive, a ping, or something for the occupant.
    pub(super) fn room_iq(&mut self, handling: Handling, to: Jid, ctx: &mut Context<Self>) {
        let room = to.bare();
        if let Some(nick) = to.resource() {
            let query = messaging::room::query::RoomQuery::OccupantSession {
                room: room.clone(),
                asker: self.key.jid.clone(),
                nick: nick.to_owned(),
                discovery: false,
            };
            return self.occupant_iq(handling, room, query, ctx);
        }
        let Some(document) = self.payload(&handling) else {
            return self.bad(handling, ctx);
        };
        let Some(element) = document.roots().next() else {
            return self.bad(handling, ctx);
        };
        let set = handling.stanza.iq_type() == IqType::Set;
        match services::room(element, set, &room, self.jid(), &self.fabric.ids) {
            Service::Query(query) => self.query(&room, handling, *query, ctx),
            Service::Answer(payload) => self.answer(handling, payload, ctx),
            Service::Refuse(error) => self.refuse(handling, &error, ctx),
            _ => self.refuse(
                handling,
                &StanzaError::new(Condition::ServiceUnavailable),
                ctx,
            ),
        }
    }

    /// XEP-0045 §15.4: the whole stanza must be there when the owner has said whose it is.
    pub(super) fn occupant_iq(
        &mut self,
        handling: Handling,
        room: BareJid,
        query: messaging::room::query::RoomQuery,
        ctx: &mut Context<Self>,
    ) {
        let fabric = std::sync::Arc::clone(&self.fabric);
        let asked = async move { services::ask_query(&fabric, &room, Query::Room(query)).await };
        self.in_task(asked, ctx, move |actor, reply, ctx| match reply {
            Ok(reply) => actor.replied(handling, reply, ctx),
            Err(error) => actor.refuse(handling, &error, ctx),
        });
    }

    /// Passes an iq to the session behind a nickname, from the asker's own occupant JID.
    pub(super) fn forward_to_occupant(
        &mut self,
        handling: Handling,
        session: &FullJid,
        asker_nick: &str,
        ctx: &mut Context<Self>,
    ) {
        let room = handling.stanza.to.as_ref().map(Jid::bare);
        let Some(from) = room.and_then(|room| room.with_resource(asker_nick).ok()) else {
            return self.refuse(handling, &StanzaError::new(Condition::ItemNotFound), ctx);
        };
        let mut stanza: Stanza = handling.stanza.clone();
        stanza.from = Some(Jid::from(from));
        stanza.to = Some(Jid::from(session.clone()));
        let publish = Publish::Stanza(stanza);
        self.publish(&session.bare(), handling, publish, ctx);
    }

    fn change_password(
        &mut self,
        handling: Handling,
        password: xmpp::sasl::Password,
        ctx: &mut Context<Self>,
    ) {
        let fabric = std::sync::Arc::clone(&self.fabric);
        let user = self.bare.clone();
        let iterations = fabric.settings.client.scram_iterations;
        let set =
            async move { crate::control::set_password(&fabric, user, password, iterations).await };
        self.in_task(set, ctx, move |actor, result, ctx| match result {
            Ok(()) => actor.answer(handling, bytes::Bytes::new(), ctx),
            Err(error) => match error.refusal() {
                Some(error) => actor.refuse(handling, &error, ctx),
                None => actor.outcome_unknown(ctx),
            },
        });
    }

    fn remove_account(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        let user = self.bare.clone();
        self.propose(
            &user.clone(),
            handling,
            Command::RemoveAccount { user },
            ctx,
        );
    }

    fn payload(&self, handling: &Handling) -> Option<Document> {
        handling.stanza.payload_document().ok()
    }

    /// RFC 6120 §8.2.3: a get or set has exactly one child.
    fn bad(&mut self, handling: Handling, ctx: &mut Context<Self>) {
        self.refuse(handling, &StanzaError::new(Condition::BadRequest), ctx);
    }
}
