//! Counts of sessions on their way to the log ([`messaging::user::streams`]), gathered: one command for all that have waited.
//!
//! Invariant: a session's note is either waiting or in the one command that is under way; what is heard of neither answer nor
//! refusal goes again, for what it says holds all the same.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use messaging::command::{Answer, Command};
use messaging::user::streams::{Course, StreamId, StreamNote};

use super::{Caller, LinkActor};
use crate::mailbox::SessionMailbox;
use crate::session::ToSession;

/// The time between two commands, in the long run: each may cost an entry of the log.
const PAUSE: Duration = Duration::from_millis(50);

/// By how much a command may be early: so that some leave at once after a rest.
const AHEAD: Duration = Duration::from_millis(150);

/// Notes in one command.
const AT_ONCE: usize = 256;

/// Notes of sessions that have ended which may wait; beyond that their counts go in their time.
const ENDED_MAX: usize = 16_384;

/// How often the link wakes its sessions, for those that have to say their counts again though nothing has changed
/// ([`SAID_EVERY`](messaging::user::streams::SAID_EVERY)): idle sessions are many, and have no timer.
pub(crate) const SESSIONS_WOKEN_EVERY: Duration = Duration::from_secs(300);

/// A session's count, and who is told when it is in the log.
pub struct Note {
    pub(super) session: Option<Arc<SessionMailbox>>,
    pub(super) note: StreamNote,
}

/// What waits.
#[derive(Default)]
pub(super) struct Notes {
    waiting: BTreeMap<StreamId, Note>,
    /// The last that was passed on: it goes round, so that nobody waits for those who say much.
    last: Option<StreamId>,
    under_way: bool,
    /// When the next one is due, were all of them in time.
    next_at: Option<Instant>,
    /// When sessions are woken next.
    woken_at: Option<Instant>,
}

impl Notes {
    /// Adds what a session says.
    pub(super) fn add(&mut self, note: Note) {
        let is_full = note.session.is_none() && self.waiting.len() >= ENDED_MAX;
        let Some(known) = self.waiting.get_mut(&note.note.stream) else {
            if !is_full {
                self.waiting.insert(note.note.stream, note);
            }
            return;
        };
        known.note.handled = known.note.handled.max(note.note.handled);
        if note.session.is_some() {
            // It may have been away, and is another actor now.
            known.session.clone_from(&note.session);
        }
        if note.note.course == Course::Ends {
            *known = note;
        }
    }

    /// Nothing was heard of these, or there was no room: they go again, but for what was said of the same sessions since.
    pub(super) fn again(&mut self, notes: Vec<Note>, now: Instant) {
        self.under_way = false;
        self.next_at = Some(now + AHEAD + PAUSE);
        for note in notes {
            if !self.waiting.contains_key(&note.note.stream) {
                self.add(note);
            }
        }
    }

    /// When something is to be passed on.
    pub(super) fn due(&self) -> Option<Instant> {
        let goes = !self.waiting.is_empty() && !self.under_way;
        let next_at = self.next_at.filter(|_| goes)?;
        Some(next_at.checked_sub(AHEAD).unwrap_or(next_at))
    }

    /// The next command, if one is due.
    fn poll(&mut self, now: Instant) -> Option<Vec<Note>> {
        let waits = self.next_at.is_some_and(|at| now + AHEAD < at);
        if self.waiting.is_empty() || self.under_way || waits {
            return None;
        }
        let mut notes = Vec::new();
        while notes.len() < AT_ONCE
            && let Some(stream) = self.next()
            && let Some(note) = self.waiting.remove(&stream)
        {
            self.last = Some(stream);
            notes.push(note);
        }
        self.under_way = true;
        // A crowd is let through as fast as the log takes it.
        if self.waiting.is_empty() {
            let in_time = self.next_at.map_or(now, |at| at.max(now));
            self.next_at = Some(in_time + PAUSE);
        }
        Some(notes)
    }

    fn next(&self) -> Option<StreamId> {
        let last = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.waiting.range((last, Bound::Unbounded));
        let next = behind.next().or_else(|| self.waiting.first_key_value());
        next.map(|(stream, _)| *stream)
    }

    /// They are in the log: what has begun is not begun again, should it have gone meanwhile.
    fn done(&mut self, notes: &[Note]) {
        self.under_way = false;
        for note in notes {
            if let Some(known) = self.waiting.get_mut(&note.note.stream)
                && matches!(known.note.course, Course::Begins(_))
            {
                known.note.course = Course::GoesOn;
            }
        }
    }

    /// The link has lost the command that was under way, with all that it said; its sessions say it again.
    pub(super) fn broke_down(&mut self) {
        self.under_way = false;
    }
}

impl LinkActor {
    /// Proposes what waits, if its time has come.
    pub(super) fn pass_notes(&mut self) {
        let now = Instant::now();
        let Some(notes) = self.notes.poll(now) else {
            return;
        };
        let said = notes.iter().map(|note| note.note.clone()).collect();
        let command = Command::NoteStreams { notes: said };
        let caller = Caller::Notes(notes);
        if let Err((token, _full)) = self.core.propose(caller.into(), command, now)
            && let Caller::Notes(notes) = token.caller
        {
            // There is no room for them in the link.
            self.notes.again(notes, now);
        }
    }

    /// Wakes the sessions, if it is time: each says its count if that is due. Links of a node do so in turn.
    pub(super) fn wake_sessions(&mut self) {
        let (now, links) = (Instant::now(), self.fabric.partitions.len().max(1));
        let turn = u32::from(self.partition().0) + 1;
        let first = now + SESSIONS_WOKEN_EVERY * turn / u32::try_from(links).unwrap_or(u32::MAX);
        let woken_at = self.notes.woken_at.get_or_insert(first);
        if now < *woken_at {
            return;
        }
        *woken_at = now + SESSIONS_WOKEN_EVERY;
        for key in self.picture.sessions() {
            let entry = self.fabric.directory.find(&key.jid, key.number);
            if entry.is_some_and(|entry| entry.session.wake().is_err()) {
                tracing::debug!(
                    session = key.number,
                    "a session was gone before it was woken"
                );
            }
        }
    }

    /// The log has these.
    pub(super) fn noted(&mut self, notes: Vec<Note>, answer: &Answer) {
        if !matches!(answer, Answer::Done { .. }) {
            tracing::error!(?answer, "counts of sessions were not taken");
            return self.notes.again(notes, Instant::now());
        }
        self.notes.done(&notes);
        for Note { session, note } in notes {
            let Some(session) = session else { continue };
            if session.try_send(ToSession::Said(note.handled)).is_err() {
                tracing::debug!("a session was gone before its count was in the log");
            }
        }
        self.pass_notes();
    }
}

#[cfg(test)]
mod tests;
