//! Stanzas that are in no log: they go to the sessions that are there, or come back as an error.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{PresenceType, Stanza, StanzaKind};
use xmpp::stanza_error::{Condition, StanzaError};

use super::lifecycle::unavailable;
use super::presence::broadcast;
use super::{Actions, Contacts, Publication, PublicationAction, SessionKey, deliver};
use crate::refusal;
use crate::user::delivery::{self, CarbonDirection, Delivery, Resource};
use crate::user::roster::{RosterItem, push_payload};

impl Publication {
    /// A stanza without durability of one of the user's sessions. XEP-0191 §3.2: none to somebody who is blocked; who
    /// sends an error or a result is not told (RFC 6120 §8.2.3, §8.3.1).
    pub(super) fn sends(
        &self,
        key: SessionKey,
        stanza: Stanza,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let Some(to) = &stanza.to else { return };
        if !contacts.blocks(&self.user, to) {
            self.copy_sent(&key, &stanza, out);
            return out.push(PublicationAction::Route(stanza));
        }
        if let Some(error) = refusal::blocked().reply_to(&stanza) {
            deliver(vec![key], &Arc::new(error), None, out);
        }
    }

    /// XEP-0280 §8: the user's other sessions see what one of them sends, chat states and receipts too. What the user sends
    /// to itself they receive anyway.
    fn copy_sent(&self, sender: &SessionKey, stanza: &Stanza, out: &mut Actions) {
        let to_oneself = || stanza.to.as_ref().is_some_and(|to| self.is_own(to));
        if stanza.kind != StanzaKind::Message || to_oneself() {
            return;
        }
        let copied = self.keys(|session| session.flags.carbons && session.key != *sender);
        if !copied.is_empty() && delivery::carbon_eligible(stanza, CarbonDirection::Sent) {
            let copy = delivery::carbon(stanza, CarbonDirection::Sent, &self.user);
            deliver(copied, &Arc::new(copy), None, out);
        }
    }

    /// Whether this is the account's address or that of one of its sessions.
    pub(super) fn is_own(&self, jid: &Jid) -> bool {
        jid.bare_str() == self.user.as_str()
    }

    /// A stanza without durability for the user: by its `to`, as in RFC 6121 §8.5. XEP-0191 §3.2: from somebody who is
    /// blocked as if nobody were there.
    pub fn route(&mut self, stanza: Stanza, contacts: &dyn Contacts) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        let to = stanza.to.clone().unwrap_or_else(|| Jid::from(&self.user));
        let blocked = stanza
            .from
            .as_ref()
            .is_some_and(|from| contacts.blocks(&self.user, from));
        let resources = self.resources();
        let delivery = match blocked {
            true => delivery::route(&stanza, &to, false, &[], false),
            false => delivery::route(&stanza, &to, contacts.exists(&self.user), &resources, false),
        };
        match delivery {
            Delivery::Sessions(indices) if self.is_hidden(&stanza, &indices, contacts) => {
                refuse(Condition::ServiceUnavailable, &stanza, &mut out);
            }
            Delivery::Sessions(indices) => self.deliver_soft(&indices, stanza, &mut out),
            Delivery::Error(condition) => refuse(condition, &stanza, &mut out),
            Delivery::Offline if !delivery::may_be_lost(&stanza) => {
                refuse(Condition::ServiceUnavailable, &stanza, &mut out);
            }
            // What reaches this place was not for the server to answer: an iq that nobody knows.
            Delivery::Server if stanza.is_request() => {
                refuse(Condition::ServiceUnavailable, &stanza, &mut out);
            }
            Delivery::Server if stanza.presence_type() == PresenceType::Probe => {
                self.client_probe(&stanza, &to, contacts, &mut out);
            }
            Delivery::Server | Delivery::Offline | Delivery::Drop => {}
        }
        out
    }

    /// RFC 6121 §8.5.3.1: a request goes to a session only from somebody who may know that the session is there, by a
    /// subscription or by directed presence; to others it looks as if nobody were there.
    ///
    /// Rooms, which are of another domain, pass on what occupants ask each other: the user showed itself to the room.
    fn is_hidden(&self, stanza: &Stanza, indices: &[usize], contacts: &dyn Contacts) -> bool {
        let Some(asker) = stanza.from.as_ref().filter(|_| stanza.is_request()) else {
            return false;
        };
        let shown = || {
            let mut sessions = indices.iter().filter_map(|index| self.sessions.get(*index));
            sessions.any(|session| session.is_shown_to(asker))
        };
        asker.domain() == self.user.domain()
            && !contacts.may_see(&self.user, &asker.bare())
            && !shown()
    }

    /// `to` stays as the sender wrote it (RFC 6120 §8.1.1.1, RFC 6121 §8.5.2.1).
    fn deliver_soft(&self, indices: &[usize], stanza: Stanza, out: &mut Actions) {
        let key = |index: &usize| self.sessions.get(*index).map(|session| session.key.clone());
        let taken: Vec<_> = indices.iter().filter_map(key).collect();
        let copied = match stanza.kind {
            StanzaKind::Message => self.keys(|session| {
                let sender = stanza.from.as_ref().map(Jid::as_str);
                session.flags.carbons
                    && !taken.contains(&session.key)
                    && sender != Some(session.key.jid.as_str())
            }),
            StanzaKind::Presence | StanzaKind::Iq => Vec::new(),
        };
        if !copied.is_empty() && delivery::carbon_eligible(&stanza, CarbonDirection::Received) {
            let copy = delivery::carbon(&stanza, CarbonDirection::Received, &self.user);
            deliver(copied, &Arc::new(copy), None, out);
        }
        deliver(taken, &Arc::new(stanza), None, out);
    }

    pub(super) fn resources(&self) -> Vec<Resource<'_>> {
        let sessions = self.sessions.iter();
        sessions
            .map(|session| Resource {
                name: session.key.jid.resource(),
                priority: session.priority(),
            })
            .collect()
    }

    /// RFC 6121 §2.1.6: to the sessions that asked for the roster.
    pub fn roster_push(
        &self,
        contact: &BareJid,
        item: Option<&RosterItem>,
        version: u64,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        let push = push(
            format!("roster-{version}"),
            push_payload(contact, item, version),
        );
        deliver(
            self.keys(|session| session.flags.roster),
            &push,
            None,
            &mut out,
        );
        out
    }

    /// XEP-0191 §3.2–3.4: a push to the sessions that asked for the list. Who is newly blocked sees the user leave, who
    /// no longer is sees the user as before, if either may see the user at all, and is seen again by the user.
    pub fn blocklist_push(
        &mut self,
        payload: Bytes,
        blocked: &[Jid],
        unblocked: &[Jid],
        contacts: &dyn Contacts,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        let push = push(format!("blocklist-{}", self.next_push()), payload);
        deliver(
            self.keys(|session| session.flags.blocklist),
            &push,
            None,
            &mut out,
        );
        let subscribers = contacts.subscribers(&self.user);
        for jid in blocked {
            self.hide_from(jid, &subscribers, &mut out);
        }
        // What contacts said of themselves while they were blocked was dropped: they are asked again.
        for contact in contacts.watched(&self.user) {
            if unblocked.iter().any(|jid| covers(jid, &contact)) {
                out.extend(self.probe_to(&contact, contacts));
            }
        }
        for jid in unblocked {
            for contact in subscribers.iter().filter(|contact| covers(jid, contact)) {
                let told = self.presence_to(contact, contacts);
                out.extend(told);
            }
        }
        out
    }

    fn hide_from(&mut self, jid: &Jid, subscribers: &[BareJid], out: &mut Actions) {
        let hidden: Vec<BareJid> = subscribers
            .iter()
            .filter(|contact| covers(jid, contact))
            .cloned()
            .collect();
        self.held_probes.retain(|asker| !covers(jid, asker));
        self.held_probes.trim();
        for expected in self.expected.iter().filter(|_| jid.resource().is_none()) {
            let stanza = Arc::new(unavailable(&expected.jid));
            broadcast(hidden.clone(), &stanza, out);
        }
        for session in &mut self.sessions {
            let stanza = unavailable(&session.key.jid);
            if session.is_available() && jid.resource().is_some() && !hidden.is_empty() {
                // Only one resource of the contact is blocked.
                let to = Some(jid.clone());
                out.push(PublicationAction::Route(Stanza {
                    to,
                    ..stanza.clone()
                }));
            } else if session.is_available() {
                broadcast(hidden.clone(), &Arc::new(stanza.clone()), out);
            }
            let directed = session.directed.take();
            let (gone, left): (BTreeSet<Jid>, BTreeSet<Jid>) = directed
                .into_iter()
                .partition(|to| to == jid || (jid.resource().is_none() && covers(jid, &to.bare())));
            session.directed = left.into();
            let told = |to: &Jid| session.presence.is_some() && hidden.contains(&to.bare());
            for to in gone.into_iter().filter(|to| !told(to)) {
                let to = Some(to);
                out.push(PublicationAction::Route(Stanza {
                    to,
                    ..stanza.clone()
                }));
            }
        }
    }

    /// An error for one of the user's sessions; if it has gone, the error is dropped (RFC 6121 §8.5.3.2.1).
    pub fn bounce(&self, session: &FullJid, stanza: Stanza) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        if let Some(index) = self.find_jid(session.as_str()) {
            deliver(
                vec![self.sessions[index].key.clone()],
                &Arc::new(stanza),
                None,
                &mut out,
            );
        }
        out
    }

    /// Pushes need ids that differ within a stream.
    fn next_push(&mut self) -> u64 {
        self.pushes += 1;
        u64::from(self.pushes)
    }
}

/// Whether an entry of a blocklist names this contact or its domain, or one of its resources. XEP-0191 §5.
fn covers(jid: &Jid, contact: &BareJid) -> bool {
    match jid.local() {
        Some(_) => jid.bare() == *contact,
        None => jid.is_domain() && jid.domain() == contact.domain(),
    }
}

fn refuse(condition: Condition, stanza: &Stanza, out: &mut Actions) {
    if let Some(error) = StanzaError::new(condition).reply_to(stanza)
        && error.to.is_some()
    {
        out.push(PublicationAction::Route(error));
    }
}

/// An iq set of the server's own, to be addressed to each session.
fn push(id: String, payload: Bytes) -> Arc<Stanza> {
    Arc::new(Stanza {
        id: Some(id.into()),
        type_: Some("set".into()),
        payload,
        ..Stanza::new(StanzaKind::Iq)
    })
}
