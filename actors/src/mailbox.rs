//! A session's mailbox as others see it: bounded, whoever holds how many of its addresses.
//!
//! actix gives every clone of an address a slot of its own, so a limit holds only for senders that share one address.
//! All who deliver to a session share this; bytes are counted besides pieces, since a delivery may be of any size.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::Addr;
use xmpp::stream_error::StreamErrorCondition;

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

/// The session's mailbox took nothing: too much waits in it, or the session is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session's mailbox is full")]
pub struct MailboxFull;

/// A session's mailbox, shared by all who deliver to it.
#[derive(Debug)]
pub struct SessionMailbox {
    addr: Addr<SessionActor>,
    backlog: Backlog,
    bytes_max: usize,
    /// Why the session has to end: it looks here whatever wakes it, so that no full mailbox keeps it alive.
    doomed: OnceLock<StreamErrorCondition>,
}

impl SessionMailbox {
    /// `bytes_max`: stanzas' bytes that may wait.
    pub fn new(addr: Addr<SessionActor>, bytes_max: usize) -> SessionMailbox {
        SessionMailbox {
            addr,
            backlog: Backlog::default(),
            bytes_max,
            doomed: OnceLock::new(),
        }
    }

    /// Sends without waiting. A session that is told to end hears of it even if its mailbox is full.
    ///
    /// # Errors
    /// When too much waits, or the session is gone.
    pub fn try_send(&self, message: ToSession) -> Result<(), MailboxFull> {
        if let ToSession::Kick(condition) = &message {
            // The first reason counts.
            let _ = self.doomed.set(*condition);
            // Full: what is in it wakes the session, which finds the reason.
            return match self.addr.try_send(message) {
                Ok(()) | Err(actix::dev::SendError::Full(_)) => Ok(()),
                Err(actix::dev::SendError::Closed(_)) => Err(MailboxFull),
            };
        }
        let bytes = bytes_of(&message);
        if self.doomed.get().is_some() || !self.backlog.add(bytes, self.bytes_max) {
            return Err(MailboxFull);
        }
        self.addr.try_send(message).map_err(|_| {
            self.backlog.take(bytes);
            MailboxFull
        })
    }

    /// The session has a message in hand; gives why it has to end, if it has to.
    pub(crate) fn taken(&self, message: &ToSession) -> Option<StreamErrorCondition> {
        self.backlog.take(bytes_of(message));
        self.doomed()
    }

    /// Why the session has to end, if it has to.
    pub fn doomed(&self) -> Option<StreamErrorCondition> {
        self.doomed.get().copied()
    }
}

/// What a message counts. Outcomes don't: each has its place from the moment it was asked for.
fn bytes_of(message: &ToSession) -> usize {
    match message {
        ToSession::Deliver { bytes, .. } => bytes.len(),
        ToSession::Outcome { .. }
        | ToSession::Entered { .. }
        | ToSession::Left(_)
        | ToSession::NotInside(_)
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
