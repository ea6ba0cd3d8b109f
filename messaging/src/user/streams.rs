//! How many of a session's stanzas are handled, as the log knows it: so that a client whose session died with its node is told
//! (XEP-0198 §5, `<failed h='…'/>`).
//!
//! ```text
//!  session ─► NoteStreams { begins } ─► a count in the user's row      (once a session)
//!          ─► SendMessage { counted } ─► the count rises with the message, in its entry and its row
//!          ─► NoteStreams { goes on } ─► the count rises, for all that is in no entry of this partition
//!          ◄─ the answer: so far `<a/>` may say
//! ```
//!
//! Invariants: a count never says more than is handled, since a session's own count is of what is settled and a message that
//! rides on it is settled by the same entry. A session writes no `<a/>` beyond what the log has answered to it, so a count
//! that the log has covers all that was acknowledged. A count is begun once and never again: one that was dropped, because
//! its user has too many or its session has ended, does not come back with less than was acknowledged meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

use crate::apply::Context;
use crate::command::Answer;
use crate::state::State;
use crate::user::log::UserLog;

/// Counts that a user may have; beyond that the one goes that was said least lately.
pub const STREAMS_MAX: usize = 16;

/// A session says its count at least so often, so that one of a session that is gone can be told from one of an idle session.
pub const SAID_EVERY: Duration = Duration::from_secs(3600);

/// A session's stream, whichever node has it: of the id by which it is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub u64);

/// What the log knows of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamCount {
    /// Which.
    pub stream: StreamId,
    /// So many of its client's stanzas are handled, at least.
    pub handled: u64,
    /// For how long its session waits for a connection, in seconds.
    pub within_s: u32,
    /// When it was said last, ms since 1970.
    pub said_ms: u64,
}

/// A message's place in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The stream.
    pub stream: StreamId,
    /// The message's own number, from 1.
    pub number: u64,
    /// How many were handled when it was proposed.
    pub handled: u64,
}

/// What a session says of its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamNote {
    /// Whose.
    pub user: BareJid,
    /// The stream.
    pub stream: StreamId,
    /// So many stanzas are handled.
    pub handled: u64,
    /// What becomes of the count.
    pub course: Course,
}

/// What becomes of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Course {
    /// It begins; its session may wait so many seconds for a connection.
    Begins(u32),
    /// It goes on, if there is one.
    GoesOn,
    /// Nobody will ask for it.
    Ends,
}

impl Counted {
    /// What a count is with this message done: the one rule, for the log and for the session that hears of it. `covered`: what
    /// it was before.
    pub fn raises(&self, covered: u64) -> u64 {
        let covered = covered.max(self.handled);
        match covered + 1 >= self.number {
            true => covered.max(self.number),
            false => covered,
        }
    }
}

impl StreamCount {
    /// Whether no session can be behind it any more: it would have said so, and a lost one's time is over.
    fn is_over(&self, now_ms: u64) -> bool {
        let silent = SAID_EVERY * 2 + Duration::from_secs(u64::from(self.within_s));
        let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
        now_ms > self.said_ms.saturating_add(silent_ms)
    }
}

/// Drops counts that nobody will ask for; called whenever the row is changed anyway.
pub(crate) fn drop_old(log: &mut UserLog, now_ms: u64) {
    if log.streams.iter().any(|count| count.is_over(now_ms)) {
        log.streams.retain(|count| !count.is_over(now_ms));
        log.streams.shrink_to_fit();
    }
}

/// A message of a stream is done.
pub(crate) fn count(state: &mut State, now_ms: u64, user: &BareJid, counted: &Counted) {
    let is_same = |count: &StreamCount| count.stream == counted.stream;
    let known = state.logs.get(user);
    if !known.is_some_and(|log| log.streams.iter().any(is_same)) {
        return;
    }
    let log = state.logs.get_mut(user);
    let count = log.and_then(|log| log.streams.iter_mut().find(|count| is_same(count)));
    if let Some(count) = count {
        count.handled = counted.raises(count.handled);
        count.said_ms = now_ms;
    }
}

/// [`crate::command::Command::NoteStreams`].
pub(crate) fn note(state: &mut State, ctx: &mut Context<'_>, notes: Vec<StreamNote>) -> Answer {
    for note in notes {
        note_one(state, ctx.time_ms, note);
    }
    Answer::Done { seq: 0 }
}

fn note_one(state: &mut State, now_ms: u64, note: StreamNote) {
    let is_same = |count: &StreamCount| count.stream == note.stream;
    let known = state.logs.get(&note.user);
    let at = known.and_then(|log| log.streams.iter().position(is_same));
    let begins = matches!(note.course, Course::Begins(_));
    // Of an account that is gone nothing is kept.
    let exists = known.is_some() && state.accounts.contains(&note.user);
    if at.is_none() && !(begins && exists) {
        return;
    }
    let Some(log) = state.logs.get_mut(&note.user) else {
        return;
    };
    match (at, note.course) {
        (Some(at), Course::Ends) => {
            log.streams.remove(at);
            log.streams.shrink_to_fit();
        }
        (Some(at), Course::Begins(_) | Course::GoesOn) => {
            if let Some(count) = log.streams.get_mut(at) {
                count.handled = count.handled.max(note.handled);
                count.said_ms = now_ms;
            }
        }
        (None, Course::Begins(within_s)) => {
            make_room(log);
            log.streams.reserve_exact(1);
            log.streams.push(StreamCount {
                stream: note.stream,
                handled: note.handled,
                within_s,
                said_ms: now_ms,
            });
        }
        (None, Course::GoesOn | Course::Ends) => {}
    }
    drop_old(log, now_ms);
}

fn make_room(log: &mut UserLog) {
    while log.streams.len() >= STREAMS_MAX {
        // They lie in the order in which they began.
        let counts = log.streams.iter().enumerate();
        let Some((oldest, _)) = counts.min_by_key(|(_, count)| count.said_ms) else {
            return;
        };
        log.streams.remove(oldest);
    }
}

/// How many of a stream's stanzas are handled, if the log knows of it.
pub fn handled(state: &State, user: &BareJid, stream: StreamId) -> Option<u64> {
    let log = state.logs.get(user)?;
    let mut counts = log.streams.iter();
    let count = counts.find(|count| count.stream == stream)?;
    Some(count.handled)
}

#[cfg(test)]
mod tests;
