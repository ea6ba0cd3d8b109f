//! What waits for a session, as others see it: one queue for all who send to it, in the order in which they sent.
//!
//! It takes whatever comes. Its bound is kept by those who deliver: a link whose session is *crowded* (more is due to the
//! client than may be) delivers nothing more until the client's socket has taken some of it, see
//! `link::pacing`. So what is due to a client is at most [`SessionMailbox::bytes_max`] and a frame of each link, and a
//! client that reads is never ended for what came in one burst: only one whose socket does not take what is due.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use actix::{Addr, Message};
use cluster::link::protocol::AskReply;
use messaging::query::Reply;
use xmpp::jid::BareJid;
use xmpp::stream_error::StreamErrorCondition;

use crate::link::Outcome;
use crate::session::{SessionActor, ToSession};

/// Bytes that wait for an actor, counted by those who send and by the actor.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: AtomicUsize,
}

impl Backlog {
    /// Counts bytes that are about to be sent; `false`: too many wait.
    pub fn add(&self, bytes: usize, max: usize) -> bool {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // What is larger than the limit by itself still passes alone.
        let fits = before == 0 || before.saturating_add(bytes) <= max;
        if !fits {
            self.take(bytes);
        }
        fits
    }

    /// Whether nothing waits that weighs something.
    pub fn is_empty(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == 0
    }

    /// Bytes have arrived, or were not sent after all.
    pub fn take(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A message that counts in its mailbox besides being one.
pub trait Weighed {
    /// About how many bytes it holds that somebody sent.
    fn bytes(&self) -> usize;
}

/// Something waits in the session's mailbox.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Wake;

/// The session takes nothing more: it is gone, or about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is gone")]
pub struct SessionGone;

#[derive(Default)]
struct Waiting {
    pieces: VecDeque<ToSession>,
    bytes: usize,
    /// The session knows that something waits.
    awake: bool,
    /// It is to go on at another node: said once, ahead of all that waits.
    departs: bool,
}

/// A session's mailbox, shared by all who deliver to it.
pub struct SessionMailbox {
    /// Whose session it is.
    account: Option<BareJid>,
    addr: Addr<SessionActor>,
    waiting: Mutex<Waiting>,
    /// As bytes due to a client are counted; below 4 GiB.
    bytes_max: u32,
    /// Bytes that the session has written and the socket has not been offered.
    unwritten: AtomicUsize,
    /// Bytes that were offered to the socket and not taken.
    offered: AtomicUsize,
    /// Bytes that the socket has taken, ever.
    taken: AtomicU64,
    /// How often links have waited for it since nothing was due.
    held: AtomicU32,
    /// How often the node had stood still when the session's connection began.
    standstills: AtomicU64,
    /// Why the session has to end: it looks here whatever wakes it.
    doomed: OnceLock<StreamErrorCondition>,
}

impl SessionMailbox {
    /// `bytes_max`: bytes that may be due to the client before links wait for it.
    pub fn new(addr: Addr<SessionActor>, bytes_max: usize) -> SessionMailbox {
        SessionMailbox {
            account: None,
            addr,
            waiting: Mutex::default(),
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            unwritten: AtomicUsize::new(0),
            offered: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            held: AtomicU32::new(0),
            standstills: AtomicU64::new(0),
            doomed: OnceLock::new(),
        }
    }

    /// Names the account: links wait only so long for all its sessions together.
    pub fn of(self, account: BareJid) -> SessionMailbox {
        SessionMailbox {
            account: Some(account),
            ..self
        }
    }

    /// The session has a connection since the node had stood still so often.
    pub fn connected_after(&self, standstills: u64) {
        self.standstills.store(standstills, Ordering::Release);
    }

    /// Whether the node has not stood still since: what the client sends may take effect.
    pub fn is_as_of(&self, standstills: u64) -> bool {
        self.standstills.load(Ordering::Acquire) == standstills
    }

    /// Whose session it is, if that was said.
    pub fn account(&self) -> Option<&BareJid> {
        self.account.as_ref()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends without waiting; a session that is told to end hears of it before all that waits.
    ///
    /// # Errors
    /// When the session is gone or was told to end.
    pub fn try_send(&self, message: ToSession) -> Result<(), SessionGone> {
        if let ToSession::Kick(condition) = &message {
            // The first reason counts.
            let _ = self.doomed.set(*condition);
            return self.wake();
        }
        if self.doomed.get().is_some() || !self.addr.connected() {
            return Err(SessionGone);
        }
        if matches!(message, ToSession::Depart) {
            self.waiting().departs = true;
            return self.wake();
        }
        let asleep = {
            let mut waiting = self.waiting();
            waiting.bytes += bytes_of(&message);
            waiting.pieces.push_back(message);
            !std::mem::replace(&mut waiting.awake, true)
        };
        if asleep { self.wake() } else { Ok(()) }
    }

    /// Makes the session look. A full mailbox of the actor's holds another [`Wake`].
    pub(crate) fn wake(&self) -> Result<(), SessionGone> {
        match self.addr.try_send(Wake) {
            Ok(()) | Err(actix::dev::SendError::Full(_)) => Ok(()),
            Err(actix::dev::SendError::Closed(_)) => Err(SessionGone),
        }
    }

    /// The next piece; after `None` the session is woken by the next one that comes.
    pub(crate) fn take(&self) -> Option<ToSession> {
        let mut waiting = self.waiting();
        let Some(message) = waiting.pieces.pop_front() else {
            waiting.awake = false;
            // An idle session holds nothing.
            waiting.pieces = VecDeque::new();
            return None;
        };
        waiting.bytes -= bytes_of(&message);
        Some(message)
    }

    /// Why the session has to end, if it has to.
    pub fn doomed(&self) -> Option<StreamErrorCondition> {
        self.doomed.get().copied()
    }

    /// Whether it was told to go on at another node since it was asked last.
    pub(crate) fn is_to_depart(&self) -> bool {
        std::mem::take(&mut self.waiting().departs)
    }

    /// So many bytes are ready for the socket.
    pub(crate) fn unwritten(&self, bytes: usize) {
        self.unwritten.store(bytes, Ordering::Relaxed);
    }

    /// So many bytes are offered to the socket, or none any more.
    pub(crate) fn offers(&self, bytes: usize) {
        self.offered.store(bytes, Ordering::Relaxed);
    }

    /// The socket has taken some of what was offered.
    pub(crate) fn took(&self, bytes: usize) {
        self.offered.fetch_sub(bytes, Ordering::Relaxed);
        self.taken.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.due() == 0 {
            self.held.store(0, Ordering::Relaxed);
        }
    }

    /// Bytes that the socket has taken, ever.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether the socket was offered bytes that it has not taken.
    pub fn is_offering(&self) -> bool {
        self.offered.load(Ordering::Relaxed) > 0
    }

    /// Bytes that the client's socket has yet to take.
    pub fn due(&self) -> usize {
        let offered = self.offered.load(Ordering::Relaxed);
        self.waiting().bytes + self.unwritten.load(Ordering::Relaxed) + offered
    }

    /// Whether more is due than may be.
    pub fn is_crowded(&self) -> bool {
        self.due() > self.bytes_max as usize
    }

    /// Whether enough has left for a link to go on.
    pub fn has_room(&self) -> bool {
        self.due() <= self.bytes_max as usize / 2
    }

    /// A link waits for it once more; gives how often that was since nothing was due.
    pub fn hold(&self) -> usize {
        self.held.fetch_add(1, Ordering::Relaxed) as usize + 1
    }
}

impl std::fmt::Debug for SessionMailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What waits is nobody's business.
        f.debug_struct("SessionMailbox")
            .field("due", &self.due())
            .field("doomed", &self.doomed)
            .finish_non_exhaustive()
    }
}

/// What a piece weighs beside its bytes.
const PIECE_BYTES: usize = 96;

/// What a message counts.
fn bytes_of(message: &ToSession) -> usize {
    PIECE_BYTES
        + match message {
            ToSession::Deliver { bytes, .. } => bytes.len(),
            ToSession::Outcome { outcome, .. } => match outcome {
                Outcome::Replied(AskReply::Reply(Reply::Page { messages, .. })) => {
                    messages.iter().map(bytes::Bytes::len).sum()
                }
                Outcome::Replied(AskReply::Reply(Reply::Payload(payload))) => payload.len(),
                _ => 0,
            },
            ToSession::Entered { .. }
            | ToSession::Left(_)
            | ToSession::NotInside(_)
            | ToSession::Resume(_)
            | ToSession::Reconnect(_)
            | ToSession::Yield(_)
            | ToSession::Release(_)
            | ToSession::Stay(_)
            | ToSession::Said(_)
            | ToSession::Depart
            | ToSession::Kick(_)
            | ToSession::Leave => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_is_bounded_in_bytes() {
        let backlog = Backlog::default();
        let add = |bytes, expect| assert_eq!(backlog.add(bytes, 100), expect, "{bytes} more");
        add(60, true);
        add(40, true);
        add(1, false);
        backlog.take(40);
        add(41, false);
        add(40, true);
        backlog.take(60);
        backlog.take(40);
        add(5_000, true);
        add(1, false);
        backlog.take(5_000);
        add(1, true);
    }
}
