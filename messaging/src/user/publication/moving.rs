//! Sessions that move to another node, because their client resumes there (XEP-0198 §5) or their node is to be emptied.
//!
//! ```text
//!   new node                        owner                          old node
//!   Ask::Resume ──────────────────► ask_move ──── Yield ─────────► settles all that its client sent
//!                                   yielded  ◄─── Yields ──────────┘   (behind all else that it had to say)
//!   Moved (flags, presence, …) ◄─── switch ────── Release ───────► rooms, then what is unacknowledged
//! ```
//!
//! Invariants: a session has one key, and whoever holds the key gets what is delivered. The key changes at one place of the
//! owner's word to the old node: what was delivered before [`Release`](PublicationAction::Release) is part of what the old
//! node hands over, what comes after it goes to the new node. What the old node had to say of the session has come before
//! that. Of two who want a session the later one gets it from the earlier one. A node to which no client has come gets it
//! only while it leaves ([`ResumptionToken::unasked`]).

use serde::{Deserialize, Serialize};

use super::{Actions, Publication, PublicationAction, SessionKey, SessionState};

/// The id by which a session is resumed, on its way between nodes. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumptionToken(pub String);

impl std::fmt::Debug for ResumptionToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumptionToken(…)")
    }
}

/// Behind a token of a node to which no client has come. No id has it: they are base64url.
const UNASKED: char = '~';

impl ResumptionToken {
    /// Of a node to which the session's client has come.
    pub fn asked(id: &str) -> ResumptionToken {
        ResumptionToken(id.to_owned())
    }

    /// Of a node that was told to take a session in. Its word may be late, with the client long at home elsewhere, so a session
    /// that does not leave the node where it is does not yield to it. A node that does not know the mark finds no such id, and
    /// keeps its session.
    pub fn unasked(id: &str) -> ResumptionToken {
        ResumptionToken(format!("{id}{UNASKED}"))
    }

    /// The id, and whether a client asked for its session.
    pub fn read(&self) -> (&str, bool) {
        match self.0.strip_suffix(UNASKED) {
            Some(id) => (id, false),
            None => (&self.0, true),
        }
    }
}

/// A node that wants a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRequest {
    /// What the session's key will be there; the address says which session.
    pub key: SessionKey,
    /// The life that the node is in.
    pub incarnation: u64,
    /// By what the session is known, and whether its client wants it.
    pub token: ResumptionToken,
}

/// A request, and the number under which the node waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mover {
    pub(super) request: MoveRequest,
    pub(super) ask: u64,
}

/// Where a session was, and what that node has to hand over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MovedFrom {
    key: SessionKey,
    /// The newest row that the session was offered there.
    offered: u64,
    /// The last of the rows that it was sent there and had not acknowledged: an older one may have been sent last.
    last_sent: Option<u64>,
}

impl MovedFrom {
    /// Whether this is what the node says of the session that was there.
    pub(super) fn is(&self, state: &SessionState) -> bool {
        self.key == state.key
    }

    /// Whether all that the session was sent there has arrived: its connection may have broken with rows unread. What was
    /// sent comes in order, so the last of it tells.
    pub(super) fn has_all(&self, state: &SessionState) -> bool {
        let has = |row: u64| state.unacknowledged.contains(&row);
        state.newest_row >= self.offered && self.last_sent.is_none_or(has)
    }
}

/// Who may want one session at once: the node to which it is sent, and the one to which its client has come meanwhile.
const MOVERS_MAX: usize = 2;

/// Sessions that are wanted before their node has attached.
const EARLY_MAX: usize = 16;

impl Publication {
    /// A node wants a session. It is answered by [`PublicationAction::Moved`] or [`PublicationAction::MoveRefused`].
    /// `gathered`: every node that can be reached has attached. Until then a session that isn't known may be on one of them.
    pub fn ask_move(
        &mut self,
        request: MoveRequest,
        ask: u64,
        gathered: bool,
    ) -> Vec<PublicationAction> {
        let mut out = Vec::new();
        let mover = Mover { request, ask };
        let jid = &mover.request.key.jid;
        let is_expected = self.expected.iter().any(|expected| expected.jid == *jid);
        match self.find_jid(jid.as_str()) {
            Some(index) => self.want(index, mover, &mut out),
            None if is_expected && self.early_movers.len() < EARLY_MAX => {
                self.early_movers
                    .retain(|other| other.request.key != mover.request.key);
                self.early_movers.push(mover);
            }
            None => out.push(PublicationAction::MoveRefused {
                to: mover.request.key,
                ask,
                for_now: !gathered || is_expected,
            }),
        }
        out
    }

    fn want(&mut self, index: usize, mover: Mover, out: &mut Actions) {
        let session = &mut self.sessions[index];
        if session.key == mover.request.key {
            // It is there already: the answer was lost.
            return self.tell_moved(index, mover.ask, out);
        }
        if session.key.node == mover.request.key.node {
            // The node has looked for it before it asked.
            return refuse(mover, out);
        }
        let is_same = |other: &Mover| other.request.key == mover.request.key;
        match session.movers.iter().position(is_same) {
            Some(known) => session.movers[known] = mover,
            None => {
                if session.movers.len() >= MOVERS_MAX
                    && let Some(last) = session.movers.pop()
                {
                    refuse(last, out);
                }
                session.movers.push(mover);
            }
        }
        if session.movers.len() == 1 {
            self.ask_to_yield(index, out);
        }
    }

    /// Asks a session's node to give it up to the first who wants it, if anybody does.
    pub(super) fn ask_to_yield(&self, index: usize, out: &mut Actions) {
        let session = &self.sessions[index];
        if let Some(mover) = session.movers.first() {
            out.push(PublicationAction::Yield {
                session: session.key.clone(),
                to: mover.request.clone(),
            });
        }
    }

    /// A session's node has nothing more to say of it: it is the other one's from here on.
    pub(super) fn yielded(&mut self, key: &SessionKey, to: &SessionKey, out: &mut Actions) {
        let Some(index) = self.find(key) else {
            // Moved before, and the word was lost.
            if self.find(to).is_some() {
                out.push(release(key, to));
            }
            return;
        };
        let first = self.sessions[index].movers.first();
        if first.is_none_or(|mover| mover.request.key != *to) {
            // Whoever wanted it has given up.
            out.push(PublicationAction::Stay {
                session: key.clone(),
                to: to.clone(),
            });
            return self.ask_to_yield(index, out);
        }
        let session = &mut self.sessions[index];
        let mover = session.movers.remove(0);
        session.movers.trim();
        session.key = mover.request.key;
        session.moved_from = Some(Box::new(MovedFrom {
            key: key.clone(),
            offered: session.reader.offered,
            last_sent: session.reader.sent.back().copied(),
        }));
        // A read under way is the old key's: it is asked for anew.
        session.reader.give_up_reading();
        out.push(release(key, to));
        self.tell_moved(index, mover.ask, out);
        if self.sessions[index].noted {
            let up = vec![self.sessions[index].key.clone()];
            out.push(PublicationAction::NoteSessions {
                up,
                down: Vec::new(),
            });
        }
        self.ask_to_yield(index, out);
    }

    /// A session's node doesn't give it up: it is not the one that is meant, or is resumed there.
    pub(super) fn stays(&mut self, key: &SessionKey, to: &SessionKey, out: &mut Actions) {
        if let Some(index) = self.find(key) {
            self.give_up(index, to, out);
        }
    }

    /// Whoever wanted a session under this key does not any more; `false`: nobody did.
    pub(super) fn is_given_up(&mut self, key: &SessionKey, out: &mut Actions) -> bool {
        self.early_movers.retain(|mover| mover.request.key != *key);
        self.early_movers.trim();
        let wants = |mover: &Mover| mover.request.key == *key;
        let wanted = |session: &super::Session| session.movers.iter().any(wants);
        let Some(index) = self.sessions.iter().position(wanted) else {
            return false;
        };
        self.give_up(index, key, out);
        true
    }

    fn give_up(&mut self, index: usize, to: &SessionKey, out: &mut Actions) {
        let movers = &mut self.sessions[index].movers;
        let Some(at) = movers.iter().position(|mover| mover.request.key == *to) else {
            return;
        };
        refuse(movers.remove(at), out);
        movers.trim();
        if at == 0 {
            self.ask_to_yield(index, out);
        }
    }

    /// A node is gone: what it wanted is not wanted any more.
    pub(super) fn mover_gone(&mut self, node: u64, out: &mut Actions) {
        let gone = |mover: &Mover| mover.request.key.node == node;
        self.early_movers.retain(|mover| !gone(mover));
        self.early_movers.trim();
        for index in 0..self.sessions.len() {
            let movers = &mut self.sessions[index].movers;
            let first_goes = movers.first().is_some_and(gone);
            movers.retain(|mover| !gone(mover));
            movers.trim();
            if first_goes {
                // Whoever comes after it has not been named to the session's node yet.
                self.ask_to_yield(index, out);
            }
        }
    }

    /// A session has come of which early ones may have asked; or none that is expected is left.
    pub(super) fn settle_early_movers(&mut self, out: &mut Actions) {
        for mover in self.early_movers.take() {
            let MoveRequest { key, .. } = &mover.request;
            match self.find_jid(key.jid.as_str()) {
                Some(index) => self.want(index, mover, out),
                None if self.expected.iter().any(|expected| expected.jid == key.jid) => {
                    self.early_movers.push(mover);
                }
                None => refuse(mover, out),
            }
        }
    }

    fn tell_moved(&self, index: usize, ask: u64, out: &mut Actions) {
        let session = &self.sessions[index];
        out.push(PublicationAction::Position {
            nodes: vec![session.key.node],
            previous: 0,
            seq: self.position(),
        });
        let state = SessionState {
            key: session.key.clone(),
            flags: session.flags,
            presence: session.presence.clone(),
            directed: session.directed.iter().cloned().collect(),
            unacknowledged: session.reader.sent.iter().copied().collect(),
            newest_row: session.reader.offered,
            untold: false,
        };
        out.push(PublicationAction::Moved {
            ask,
            state: Box::new(state),
        });
    }
}

pub(super) fn refuse(mover: Mover, out: &mut Actions) {
    out.push(PublicationAction::MoveRefused {
        to: mover.request.key,
        ask: mover.ask,
        for_now: false,
    });
}

fn release(key: &SessionKey, to: &SessionKey) -> PublicationAction {
    PublicationAction::Release {
        session: key.clone(),
        to: to.clone(),
    }
}
