//! Rooms and publications that have panicked: replaced, brought up to date, and left alone when it happens too often.

use std::time::Instant;

use actix::Addr;
use cluster::link::protocol::{AskReply, Down};
use cluster::node_id::NodeId;
use xmpp::jid::{BareJid, FullJid};
use xmpp::stanza_error::{Condition, StanzaError};

use super::OwnerActor;
use crate::publication::{PublicationActor, ToPublication};

impl OwnerActor {
    /// Replaces what is dead, and serves those again whose time to rest is over.
    pub(super) fn look_for_casualties(&mut self, now: Instant) {
        let Some(reign) = &self.reign else { return };
        let rooms = reign.rooms.iter().filter(|(_, actor)| !actor.is_alive());
        let rooms: Vec<BareJid> = rooms.map(|(room, _)| room.clone()).collect();
        let users = reign
            .publications
            .iter()
            .filter(|(_, actor)| !actor.is_alive());
        let users: Vec<BareJid> = users.map(|(user, _)| user.clone()).collect();
        for room in rooms {
            self.bury_room(&room);
        }
        for user in users {
            self.bury_publication(&user);
        }
        if self.casualties.release(now) {
            self.reattach_all();
        }
    }

    /// Takes a dead room out: the nodes attach again to a new one, and hear what they missed.
    pub(super) fn bury_room(&mut self, room: &BareJid) {
        let Some(reign) = &mut self.reign else { return };
        if reign.rooms.get(room).is_none_or(|actor| actor.is_alive()) {
            return;
        }
        reign.rooms.remove(room);
        self.mourn_key(room, "a room's actor panicked");
    }

    /// Takes a dead publication out: the nodes attach its sessions again to a new one.
    pub(super) fn bury_publication(&mut self, user: &BareJid) {
        let Some(reign) = &mut self.reign else { return };
        if reign
            .publications
            .get(user)
            .is_none_or(|actor| actor.is_alive())
        {
            return;
        }
        reign.publications.remove(user);
        let mourned: Vec<_> = reign.mourned.iter().copied().collect();
        self.mourn_key(user, "a user's publication panicked");
        let expected = self.expected_sessions(user);
        if !expected.is_empty() && !self.casualties.is_barred(user) {
            // Sessions that don't come back must be told as gone, as at the begin of a reign.
            self.tell_publication(user, true, ToPublication::Expected(expected));
            for node in mourned {
                self.tell_publication(user, false, ToPublication::NodeWithout(node));
            }
        }
    }

    fn mourn_key(&mut self, key: &BareJid, what: &str) {
        self.fabric.metrics.panics.inc();
        self.casualties.fell(key, Instant::now());
        let barred = self.casualties.is_barred(key);
        tracing::error!(partition = %self.partition, %key, barred, what);
        self.reattach_all();
    }

    fn expected_sessions(&self, user: &BareJid) -> Vec<(FullJid, u64, u64)> {
        let state = self.place().replica.state();
        let online = state.online.iter().filter(|(jid, _)| jid.bare() == *user);
        online
            .map(|(jid, online)| (jid.clone(), online.node, online.incarnation))
            .collect()
    }

    /// A user who is left alone for a while: whoever waits for an answer gets one.
    pub(super) fn refuse(&mut self, message: ToPublication) {
        let (from, request) = match message {
            ToPublication::Bind { from, request, .. } => (from, request),
            ToPublication::Move { ask, request, .. } => (NodeId(request.key.node), ask),
            _ => return,
        };
        let error = StanzaError::new(Condition::InternalServerError);
        let reply = AskReply::Refused(Box::new(error));
        self.down(from, &Down::Reply { request, reply });
    }

    /// Ends a publication that has nothing left to do, unless something is on its way to it.
    pub(super) fn end_idle(
        &mut self,
        user: &BareJid,
        publication: &Addr<PublicationActor>,
        handled: u64,
    ) {
        let Some(reign) = &mut self.reign else { return };
        let known = reign.publications.get(user);
        if !known.is_some_and(|known| known.has_done_all(publication, handled)) {
            return;
        }
        if let Some(ended) = reign.publications.remove(user)
            && ended.try_send(ToPublication::End).is_err()
        {
            tracing::debug!("an idle publication was gone before it was ended");
        }
    }
}
