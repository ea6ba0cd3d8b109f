//! Sessions come and go: bound, attached by their node after a change of owner, ended, gone with their node.

use std::collections::{BTreeSet, VecDeque};

use xmpp::jid::{FullJid, Jid};
use xmpp::stanza::{Stanza, StanzaKind};
use xmpp::stanza_error::{Condition, StanzaError};

use super::moving::refuse;
use super::session::{Reader, Session};
use super::{
    Actions, Contacts, Expected, GIVEN_UP_MAX, GivenUp, Publication, PublicationAction, SessionKey,
    SessionState,
};

impl Publication {
    /// RFC 6120 §7: a session wants its resource. An older session of the same full JID ends (§7.7.2.2); binding again
    /// what is bound changes nothing. Ends with the position at which the session begins: where it is the user's only one on
    /// its node, the node's reading begins there, too, whatever it saw pass before for sessions that are gone.
    ///
    /// # Errors
    /// `resource-constraint` where the user has as many sessions as may be (RFC 6120 §7.6.2.1).
    pub fn bind(
        &mut self,
        key: SessionKey,
        contacts: &dyn Contacts,
    ) -> Result<Vec<PublicationAction>, Box<StanzaError>> {
        let mut out = Vec::new();
        self.begin(contacts);
        // What another session of the node lacks must show as a hole.
        let mut previous = self.position();
        if self.find(&key).is_none() {
            let older = self.find_jid(key.jid.as_str());
            if older.is_none() && self.sessions.len() >= self.settings.resources_max {
                return Err(Box::new(StanzaError::new(Condition::ResourceConstraint)));
            }
            if let Some(older) = older {
                out.push(PublicationAction::Kick(self.sessions[older].key.clone()));
                self.remove(older, unavailable(&key.jid), contacts, &mut out);
            }
            self.expected_is_over(|expected| expected.jid == key.jid, contacts, &mut out);
            if !self.nodes().contains(&key.node) {
                previous = 0;
            }
            self.add(key.clone(), Reader::at(self.position()));
            self.finish(&mut out);
        }
        out.push(PublicationAction::Position {
            nodes: vec![key.node],
            previous,
            seq: self.position(),
        });
        Ok(out)
    }

    /// A node says which sessions of the user it has; what was known of its sessions is replaced.
    ///
    /// Contacts are told only of what differs from what was known; a session first learned of now is as it was before,
    /// if the log knew of it. Sessions of an account that is gone are ended.
    /// `cursor`: the newest row that the node has seen pass, 0: none. Rows after it are read and delivered.
    pub fn attach(
        &mut self,
        node: u64,
        states: Vec<SessionState>,
        cursor: u64,
        contacts: &dyn Contacts,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        if !contacts.exists(&self.user) {
            // Removed while nobody could tell the sessions.
            let keys = states.into_iter().map(|state| state.key);
            out.extend(keys.map(PublicationAction::Expel));
            return out;
        }
        self.begin(contacts);
        for key in self.keys(|session| session.key.node == node) {
            if !states.iter().any(|state| state.key == key)
                && let Some(index) = self.find(&key)
            {
                self.remove(index, unavailable(&key.jid), contacts, &mut out);
            }
        }
        let seen = if cursor == 0 {
            self.position()
        } else {
            cursor.min(self.position())
        };
        for state in states {
            // Two sessions of one address: this owner has bound the other one since.
            let other = self.find_jid(state.key.jid.as_str());
            if let Some(other) = other
                && self.sessions[other].key != state.key
            {
                self.attach_second(other, state, contacts, &mut out);
                continue;
            }
            self.attach_session(other, state, seen, contacts, &mut out);
        }
        let attached = |expected: &Expected| expected.node == node;
        self.expected_is_over(attached, contacts, &mut out);
        self.settle_early_movers(&mut out);
        self.offer_waiting(None);
        self.finish(&mut out);
        let (nodes, seq) = (vec![node], self.position());
        // Who has seen nothing begins here, unless rows pass on the way there: what is missing between must show.
        let previous = match cursor {
            0 => seq,
            cursor => cursor,
        };
        out.push(PublicationAction::Position {
            nodes,
            previous,
            seq,
        });
        out
    }

    /// A node says that it has a session whose address is another one's, or which has moved.
    fn attach_second(
        &mut self,
        other: usize,
        state: SessionState,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let to = self.sessions[other].key.clone();
        let moved_from = self.sessions[other].moved_from.as_ref();
        match moved_from.filter(|from| from.is(&state)) {
            // The word that it has moved was lost.
            Some(from) if from.has_all(&state) => out.push(PublicationAction::Release {
                session: state.key,
                to,
            }),
            // Rows were lost with it, which the new place takes for sent: its client would acknowledge what it never got.
            // It binds anew, and gets them from the log.
            Some(_) => {
                let stanza = unavailable(&to.jid);
                out.push(PublicationAction::Kick(state.key));
                out.push(PublicationAction::Kick(to));
                self.remove(other, stanza, contacts, out);
            }
            None => out.push(PublicationAction::Kick(state.key)),
        }
    }

    fn attach_session(
        &mut self,
        known: Option<usize>,
        state: SessionState,
        seen: u64,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let SessionState {
            key,
            flags,
            presence,
            directed,
            unacknowledged,
            newest_row,
            untold,
        } = state;
        let mut reader = Reader::at(seen);
        reader.newest_row = newest_row;
        reader.offered = newest_row;
        let index = match known {
            Some(index) => {
                let before = &self.sessions[index].reader;
                // Of this owner's own rows everything is known.
                reader.newest_row = before.newest_row;
                reader.bound_at = before.bound_at;
                // Of what came before it was bound it was given what waited, and missed nothing.
                let seen = seen.max(before.bound_at);
                reader.fresh_after = seen;
                let again_from = self.compare_rows(index, &unacknowledged, newest_row);
                reader.next = again_from.map_or(seen, |from| from.min(seen));
                index
            }
            None => {
                self.compare_with_given_up(&key, &unacknowledged, newest_row);
                self.add(key, reader.clone())
            }
        };
        for &row in &unacknowledged {
            self.unsettled.offer(row, self.sessions[index].id);
        }
        reader.sent = VecDeque::from(unacknowledged).into();
        let session = &mut self.sessions[index];
        session.flags = flags;
        session.directed = BTreeSet::from_iter(directed).into();
        session.reader = reader;
        match known {
            Some(_) => self.correct_presence(index, presence, contacts, out),
            None => {
                session.set_presence(presence);
                let jid = &session.key.jid;
                session.noted = self.expected.iter().any(|expected| expected.jid == *jid);
                self.tell_what_was_missed(index, untold, contacts, out);
            }
        }
        let session = &self.sessions[index];
        if session.is_eligible() && session.flags.archive_first {
            self.unsettled.settle_range(0, session.reader.bound_at);
        }
        // The question whether it yields may have been lost.
        self.ask_to_yield(index, out);
    }

    /// Of a session that an earlier owner had contacts know the presence, unless that owner died before it told them:
    /// what was never committed, and what changed right before, they may not know.
    fn tell_what_was_missed(
        &mut self,
        index: usize,
        untold: bool,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let session = &self.sessions[index];
        let (key, noted) = (session.key.clone(), session.noted);
        match session.is_available() {
            true if !noted || untold => {
                self.note_if_available(index, out);
                self.tell_presence(index, contacts, out);
                // Nor has anybody told it anything, while its node was given up or its owner died.
                self.tell_of_others(&key, contacts, out);
            }
            false if noted || untold => {
                // Committed as up, and no longer so: whether anybody was told isn't known.
                self.tell_unavailable(unavailable(&key.jid), contacts, out);
                self.note_down(&self.sessions[index], out);
                self.sessions[index].noted = false;
            }
            _ => {}
        }
    }

    /// Compares what a session was sent with what it says: what came before the newest row it got and isn't
    /// unacknowledged was acknowledged; what came after never arrived. Gives where reading begins again.
    fn compare_rows(
        &mut self,
        index: usize,
        unacknowledged: &[u64],
        newest_row: u64,
    ) -> Option<u64> {
        let session = &self.sessions[index];
        let (id, sent) = (session.id, VecDeque::clone(&session.reader.sent));
        let arrived = sent.iter().position(|row| *row == newest_row);
        let mut again_from: Option<u64> = None;
        for (place, row) in sent.into_iter().enumerate() {
            if unacknowledged.contains(&row) {
                continue;
            }
            if arrived.is_some_and(|arrived| place <= arrived) {
                self.unsettled.acknowledged(row);
            } else {
                self.unsettled.release(row, id);
                let before = row.saturating_sub(1);
                again_from = Some(again_from.map_or(before, |from| from.min(before)));
            }
        }
        again_from
    }

    /// A session comes back whose node was given up: what it got then and has acknowledged since, its node could tell nobody. It
    /// must not come again because it was taken for lost.
    fn compare_with_given_up(&mut self, key: &SessionKey, unacknowledged: &[u64], newest_row: u64) {
        let Some(at) = self
            .given_up
            .iter()
            .position(|given_up| given_up.key == *key)
        else {
            return;
        };
        let GivenUp { sent, .. } = self.given_up.swap_remove(at);
        self.given_up.trim();
        let arrived = sent.iter().position(|row| *row == newest_row);
        let arrived = sent.iter().take(arrived.map_or(0, |last| last + 1));
        for row in arrived.filter(|row| !unacknowledged.contains(row)) {
            self.unsettled.acknowledged(*row);
            self.unsettled.settle_range(*row, *row);
        }
    }

    fn note_given_up(&mut self, index: usize) {
        let session = &self.sessions[index];
        if session.reader.sent.is_empty() {
            return;
        }
        let (key, sent) = (session.key.clone(), session.reader.sent.iter().copied());
        let given_up = GivenUp {
            key,
            sent: sent.collect(),
        };
        if self.given_up.len() >= GIVEN_UP_MAX {
            self.given_up.remove(0);
        }
        self.given_up.push(given_up);
    }

    /// A node is certainly dead, or has attached without naming the user: its sessions end.
    pub fn node_gone(&mut self, node: u64, contacts: &dyn Contacts) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        for key in self.keys(|session| session.key.node == node) {
            if let Some(index) = self.find(&key) {
                self.note_given_up(index);
                self.remove(index, unavailable(&key.jid), contacts, &mut out);
            }
        }
        self.mover_gone(node, &mut out);
        self.expected_is_over(|expected| expected.node == node, contacts, &mut out);
        self.settle_early_movers(&mut out);
        self.finish(&mut out);
        out
    }

    /// The log says that these sessions (with node and incarnation) were up. Until their node attaches or is gone,
    /// nobody is told anything of the user, and rows that wait are not handed to other sessions.
    pub fn expected(&mut self, sessions: Vec<(FullJid, u64, u64)>) {
        for (jid, node, _) in sessions {
            let known = self.find_jid(jid.as_str()).is_some();
            if !known && !self.expected.iter().any(|expected| expected.jid == jid) {
                self.expected.push(Expected { jid, node });
            }
        }
    }

    /// Takes sessions off the list of those expected. Those that did not come are unavailable.
    pub(super) fn expected_is_over(
        &mut self,
        over: impl Fn(&Expected) -> bool,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let (gone, still): (Vec<_>, Vec<_>) = self
            .expected
            .take()
            .into_iter()
            .partition(|expected| over(expected));
        self.expected = still.into();
        if gone.is_empty() {
            return;
        }
        let mut down = Vec::new();
        for Expected { jid, .. } in gone {
            if self.find_jid(jid.as_str()).is_none() {
                self.tell_unavailable(unavailable(&jid), contacts, out);
                down.push(jid);
            }
        }
        if !down.is_empty() {
            out.push(PublicationAction::NoteSessions {
                up: Vec::new(),
                down,
            });
        }
        if self.expected.is_empty() {
            self.answer_held_probes(contacts, out);
            self.offer_waiting(None);
        }
    }

    /// Ends a session: contacts and own sessions learn of it, its rows go to another session or wait.
    pub(super) fn remove(
        &mut self,
        index: usize,
        stanza: Stanza,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let mut session = self.sessions.remove(index);
        for mover in session.movers.take() {
            refuse(mover, out);
        }
        self.end_presence(&session, stanza, contacts, out);
        for row in session.reader.sent.iter() {
            self.unsettled.release(*row, session.id);
        }
        self.note_down(&session, out);
        self.offer_waiting(None);
    }

    /// A session that this owner doesn't know has ended: an earlier owner may have shown it, and died before that was
    /// committed. Not where another stream has its address, or its node is still expected to say.
    pub(super) fn unknown_ended(
        &self,
        key: &SessionKey,
        mut stanza: Stanza,
        contacts: &dyn Contacts,
        out: &mut Actions,
    ) {
        let expected = self.expected.iter().any(|expected| expected.jid == key.jid);
        if contacts.exists(&self.user) && !expected && self.find_jid(key.jid.as_str()).is_none() {
            stanza.from = Some(Jid::from(&key.jid));
            self.tell_unavailable(stanza, contacts, out);
        }
    }

    pub(super) fn note_if_available(&mut self, index: usize, out: &mut Actions) {
        let session = &mut self.sessions[index];
        if session.is_available() && !session.noted {
            session.noted = true;
            session.notes_under_way += 1;
            let up = vec![session.key.clone()];
            out.push(PublicationAction::NoteSessions {
                up,
                down: Vec::new(),
            });
        }
    }

    /// [`crate::effect::UserEffect::Noted`]: who may see the session is told of it now.
    pub(super) fn noted(
        &mut self,
        session: &FullJid,
        contacts: &dyn Contacts,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        if let Some(index) = self.find_jid(session.as_str()) {
            let session = &mut self.sessions[index];
            // A session that has moved is noted again, and was shown before.
            let was_shown = session.notes_under_way == 0;
            session.notes_under_way = session.notes_under_way.saturating_sub(1);
            if !was_shown {
                self.tell_others(index, contacts, &mut out);
            }
        }
        out
    }

    pub(super) fn note_down(&self, session: &Session, out: &mut Actions) {
        if session.noted {
            let down = vec![session.key.jid.clone()];
            out.push(PublicationAction::NoteSessions {
                up: Vec::new(),
                down,
            });
        }
    }

    pub(super) fn begin(&mut self, contacts: &dyn Contacts) {
        if self.unsettled.cursor().is_none() {
            self.unsettled.begin(contacts.positions(&self.user).0);
        }
    }
}

/// The presence of a session that ended without a word.
pub(super) fn unavailable(jid: &FullJid) -> Stanza {
    Stanza {
        from: Some(jid.into()),
        type_: Some("unavailable".into()),
        ..Stanza::new(StanzaKind::Presence)
    }
}
