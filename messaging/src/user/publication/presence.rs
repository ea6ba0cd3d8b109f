//! Presence: RFC 6121 §4, told to contacts, to the user's own sessions, and to whom it was directed.

use std::sync::Arc;

use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{PresenceType, Stanza, StanzaKind};
use xmpp::stanza_error::{Condition, StanzaError};

use super::lifecycle::unavailable;
use super::session::{Session, directed_has_room};
use super::{Actions, Contacts, Publication, PublicationAction, SessionKey, deliver};
use crate::refusal;
use crate::user::subscription::SubscriptionType;

impl Publication {
    /// RFC 6121 §4.2, §4.4, §4.5.
    pub(super) fn broadcast_presence(
        &mut self,
        index: usize,
        mut stanza: Stanza,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let session = &self.sessions[index];
        stanza.from = Some(Jid::from(&session.key.jid));
        stanza.to = None;
        match stanza.presence_type() {
            PresenceType::Available => self.becomes_available(index, stanza, contacts, out),
            PresenceType::Unavailable => {
                let before = session.clone();
                let session = &mut self.sessions[index];
                session.set_presence(None);
                session.directed.take();
                session.noted = false;
                if before.is_available() {
                    // §4.5.2: also to the session that became unavailable.
                    deliver(
                        vec![before.key.clone()],
                        &Arc::new(stanza.clone()),
                        None,
                        out,
                    );
                }
                self.end_presence(&before, stanza, contacts, out);
                self.note_down(&before, out);
                self.offer_waiting(None);
            }
            // Not broadcast presence: the session's node sends it another way.
            _ => {}
        }
    }

    fn becomes_available(
        &mut self,
        index: usize,
        stanza: Stanza,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        self.begin(contacts);
        let session = &mut self.sessions[index];
        let (key, was_eligible) = (session.key.clone(), session.is_eligible());
        let initial = session.set_presence(Some(stanza)).is_none();
        let is_eligible = session.is_eligible();
        self.note_if_available(index, out);
        self.tell_presence(index, contacts, out);
        if initial {
            self.tell_of_others(&key, contacts, out);
        }
        match (was_eligible, is_eligible) {
            (false, true) => self.becomes_eligible(index),
            (true, false) => self.offer_waiting(None),
            _ => {}
        }
    }

    /// Tells contacts and the user's own sessions what a session's presence is; before the log has the session, itself alone.
    pub(super) fn tell_presence(&self, index: usize, contacts: &dyn Contacts, out: &mut Actions) {
        let session = &self.sessions[index];
        let Some(presence) = &session.presence else {
            return;
        };
        let stanza = Arc::new(presence.clone());
        // §4.2.2, §4.4.2: one's own sessions see each other and themselves.
        let own = match session.shown() {
            Some(_) => {
                broadcast(contacts.watchers(&self.user), &stanza, out);
                self.available()
            }
            None => vec![session.key.clone()],
        };
        deliver(own, &stanza, None, out);
    }

    /// Tells those who could not be told before the log had the session.
    pub(super) fn tell_others(&self, index: usize, contacts: &dyn Contacts, out: &mut Actions) {
        let session = &self.sessions[index];
        let Some(presence) = session.shown() else {
            return;
        };
        let stanza = Arc::new(presence.clone());
        broadcast(contacts.watchers(&self.user), &stanza, out);
        let others = self.keys(|other| other.is_available() && other.id != session.id);
        deliver(others, &stanza, None, out);
    }

    /// Tells a session what it can't know yet: the presence of the user's other sessions, that of contacts, who are asked for
    /// it (§4.3.1), and requests, which are shown until they are answered (§3.1.3).
    pub(super) fn tell_of_others(
        &self,
        key: &SessionKey,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        for session in self.sessions.iter().filter(|session| session.key != *key) {
            if let Some(presence) = session.shown() {
                deliver(vec![key.clone()], &Arc::new(presence.clone()), None, out);
            }
        }
        probe(contacts.watched(&self.user), out);
        for request in contacts.requests(&self.user) {
            deliver(vec![key.clone()], &Arc::new(request), None, out);
        }
    }

    /// What the node of a known session says of its presence after an interruption.
    pub(super) fn correct_presence(
        &mut self,
        index: usize,
        presence: Option<Stanza>,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let session = &self.sessions[index];
        let stanza = match presence {
            Some(presence) if session.presence.as_ref() != Some(&presence) => presence,
            None if session.is_available() => unavailable(&session.key.jid),
            _ => return,
        };
        // Who was sent directed presence is what the node says, whether or not the session is available.
        let directed = session.directed.clone();
        self.broadcast_presence(index, stanza, contacts, out);
        self.sessions[index].directed = directed;
    }

    /// Tells everybody who was told of a session's presence that it is over. RFC 6121 §4.5.2, §4.6.3.
    pub(super) fn end_presence(
        &self,
        session: &Session,
        mut stanza: Stanza,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        stanza.from = Some(Jid::from(&session.key.jid));
        stanza.to = None;
        let watchers = match session.is_available() {
            true => self.tell_unavailable(stanza.clone(), contacts, out),
            false => Vec::new(),
        };
        // Contacts and the user's own sessions have heard it.
        let told =
            |to: &Jid| session.is_available() && (self.is_own(to) || watchers.contains(&to.bare()));
        for to in session.directed.iter() {
            if !told(to) && !contacts.blocks(&self.user, to) {
                let to = Some(to.clone());
                out.push(PublicationAction::Route(Stanza {
                    to,
                    ..stanza.clone()
                }));
            }
        }
    }

    /// Tells contacts and available sessions; gives the contacts.
    pub(super) fn tell_unavailable(
        &self,
        stanza: Stanza,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) -> Vec<BareJid> {
        let stanza = Arc::new(stanza);
        let watchers = contacts.watchers(&self.user);
        broadcast(watchers.clone(), &stanza, out);
        deliver(self.available(), &stanza, None, out);
        watchers
    }

    /// RFC 6121 §4.6.
    pub(super) fn directed_presence(
        &mut self,
        index: usize,
        mut stanza: Stanza,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let session = &mut self.sessions[index];
        let Some(to) = stanza.to.clone() else { return };
        stanza.from = Some(Jid::from(&session.key.jid));
        let available = stanza.presence_type() == PresenceType::Available;
        let refusal = if contacts.blocks(&self.user, &to) {
            Some(refusal::blocked())
        } else if available
            && !session.directed.contains(&to)
            && !directed_has_room(session.directed.iter(), &to, self.settings.directed_max)
        {
            Some(StanzaError::new(Condition::ResourceConstraint))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            if let Some(error) = refusal.reply_to(&stanza) {
                deliver(vec![session.key.clone()], &Arc::new(error), None, out);
            }
            return;
        }
        match stanza.presence_type() {
            PresenceType::Available => {
                session.directed.insert(to);
            }
            PresenceType::Unavailable => {
                session.directed.remove(&to);
                session.directed.trim();
            }
            // Not directed presence: it changes nothing here.
            _ => {}
        }
        out.push(PublicationAction::Route(stanza));
    }

    /// Presence of a contact, for the sessions that are available. XEP-0191 §3.2: none of somebody who is blocked.
    pub fn presence_in(
        &self,
        stanza: &Arc<Stanza>,
        contacts: &dyn Contacts,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        let blocked = stanza
            .from
            .as_ref()
            .is_some_and(|from| contacts.blocks(&self.user, from));
        if !blocked {
            // §4.2.3: to the account, as the contact's server addressed it, whichever session gets it.
            let stanza = Arc::new(Stanza {
                to: Some(Jid::from(&self.user)),
                ..Stanza::clone(stanza)
            });
            deliver(self.available(), &stanza, None, &mut out);
        }
        out
    }

    /// Somebody asks for the user's presence. RFC 6121 §4.3.2, and §4.6.6 for whom it was directed to.
    ///
    /// Who may not see the user gets no `unsubscribed` (a SHOULD of §4.3.2): both sides of a subscription are committed,
    /// so there is none to correct, and silence is what an account that does not exist gives (§8.5.1).
    pub fn probe(&mut self, asker: &BareJid, contacts: &dyn Contacts) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        if contacts.blocks(&self.user, &Jid::from(asker)) {
            return out;
        }
        if !contacts.may_see(&self.user, asker) {
            for session in &self.sessions {
                let told = session.directed.iter().filter(|to| to.bare() == *asker);
                out.extend(told.map(|to| mere_presence(session, to)));
            }
            return out;
        }
        if !self.expected.is_empty() {
            self.hold_probe(asker);
            return out;
        }
        if !self.tell_current(asker, &mut out) {
            // §4.3.2: no session is available.
            let stanza = Stanza {
                from: Some(Jid::from(&self.user)),
                type_: Some("unavailable".into()),
                ..Stanza::new(StanzaKind::Presence)
            };
            broadcast(vec![asker.clone()], &Arc::new(stanza), &mut out);
        }
        out
    }

    /// A probe that a client sent (§4.3). To a full JID: of no other session, and only that it is there (§4.3.2).
    pub(super) fn client_probe(
        &mut self,
        probe: &Stanza,
        to: &Jid,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let Some(asker) = &probe.from else { return };
        if to.is_bare() {
            out.extend(self.probe(&asker.bare(), contacts));
            return;
        }
        let Some(session) = self
            .find_jid(to.as_str())
            .map(|index| &self.sessions[index])
        else {
            return;
        };
        let subscribed = session.shown().is_some() && contacts.may_see(&self.user, &asker.bare());
        if subscribed || session.is_shown_to(asker) {
            out.push(mere_presence(session, asker));
        }
    }

    fn hold_probe(&mut self, asker: &BareJid) {
        // Beyond the limit an asker learns the presence by the next change.
        if self.held_probes.len() < self.settings.held_probes_max {
            self.held_probes.insert(asker.clone());
        }
    }

    pub(super) fn answer_held_probes(&mut self, contacts: &dyn Contacts, out: &mut Actions) {
        for asker in self.held_probes.take() {
            let answer = self.probe(&asker, contacts);
            out.extend(answer);
        }
    }

    /// Tells a contact the presence of each available session; gives whether there is any. What may not be shown yet the
    /// contact is told in a moment, with all others.
    fn tell_current(&self, contact: &BareJid, out: &mut Actions) -> bool {
        for session in &self.sessions {
            if let Some(presence) = session.shown() {
                broadcast(vec![contact.clone()], &Arc::new(presence.clone()), out);
            }
        }
        self.sessions.iter().any(Session::is_available)
    }

    /// The contact may now see the user. RFC 6121 §3.1.5. Told late, after the contact's partition has answered: what was
    /// granted may have been taken back meanwhile.
    pub fn presence_to(
        &mut self,
        contact: &BareJid,
        contacts: &dyn Contacts,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        let hidden = contacts.blocks(&self.user, &Jid::from(contact));
        if !hidden && contacts.may_see(&self.user, contact) {
            self.tell_current(contact, &mut out);
            if !self.expected.is_empty() {
                self.hold_probe(contact);
            }
        }
        out
    }

    /// The contact may no longer see the user. RFC 6121 §3.2.3, §3.3.3.
    pub fn unavailable_to(
        &mut self,
        contact: &BareJid,
        contacts: &dyn Contacts,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        self.held_probes.remove(contact);
        self.held_probes.trim();
        if contacts.blocks(&self.user, &Jid::from(contact)) {
            return out;
        }
        for jid in self.shown_to_contacts() {
            let stanza = Arc::new(unavailable(jid));
            broadcast(vec![contact.clone()], &stanza, &mut out);
        }
        out
    }

    /// Sessions that contacts may have been shown: those that are available, and those an earlier owner said were up.
    pub(super) fn shown_to_contacts(&self) -> impl Iterator<Item = &FullJid> {
        let sessions = self.sessions.iter();
        let available = sessions.filter(|session| session.is_available());
        let known = available.map(|session| &session.key.jid);
        known.chain(self.expected.iter().map(|expected| &expected.jid))
    }

    /// The user may now see the contact: it is asked, if anybody is there to look. RFC 6121 §3.1.6.
    pub fn probe_to(&self, contact: &BareJid, contacts: &dyn Contacts) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        let looks = self.sessions.iter().any(Session::is_available);
        if looks && !contacts.blocks(&self.user, &Jid::from(contact)) {
            probe(vec![contact.clone()], &mut out);
        }
        out
    }

    /// A subscription stanza for the user: requests to available sessions (RFC 6121 §3.1.3; the others see them when
    /// they become available), the rest to those that asked for the roster (§3.1.6, §3.2.3, §3.3.3).
    pub fn subscription(&self, stanza: Stanza) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        let sessions = match SubscriptionType::of(&stanza) {
            Some(SubscriptionType::Subscribe) => self.available(),
            _ => self.keys(|session| session.flags.roster),
        };
        deliver(sessions, &Arc::new(stanza), None, &mut out);
        out
    }
}

/// That a session is there, and nothing else. RFC 6121 §4.6.6.
fn mere_presence(session: &Session, to: &Jid) -> PublicationAction {
    PublicationAction::Route(Stanza {
        from: Some(Jid::from(&session.key.jid)),
        to: Some(to.clone()),
        ..Stanza::new(StanzaKind::Presence)
    })
}

pub(super) fn broadcast(contacts: Vec<BareJid>, stanza: &Arc<Stanza>, out: &mut Actions) {
    if !contacts.is_empty() {
        let stanza = Arc::clone(stanza);
        out.push(PublicationAction::Broadcast { contacts, stanza });
    }
}

fn probe(contacts: Vec<BareJid>, out: &mut Actions) {
    if !contacts.is_empty() {
        out.push(PublicationAction::Probe { contacts });
    }
}
