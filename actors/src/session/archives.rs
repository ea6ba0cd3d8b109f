//! Archive queries of one session: so many at once, the others in their order, and none for long.
//!
//! A client that comes back asks the archives of all its rooms in one breath, so a query too many waits rather than being
//! refused. Nothing else waits for it but what has its order behind it in its lane. What has waited too long, or is too
//! much to keep, is refused as surely not done.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use actix::Context;
use bytes::Bytes;
use messaging::query::Query;
use xmpp::jid::BareJid;

use super::SessionActor;
use super::pending::Handling;
use crate::negotiation::unavailable_now;

/// How long a query waits at most: no longer than half of what a stanza may stay unsettled.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Queries that may wait, and the bytes of their stanzas.
const WAITING_MAX: usize = 256;
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// What waits or is under way.
pub(super) struct Turns<T> {
    /// The tickets of those under way.
    open: Vec<u64>,
    waiting: VecDeque<(Instant, usize, T)>,
    bytes: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns {
            open: Vec::new(),
            waiting: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<T> Turns<T> {
    /// A query came that may wait until then; it is given back if there is no room for it.
    fn enter(&mut self, bytes: usize, query: T, until: Instant) -> Result<(), T> {
        if self.waiting.len() >= WAITING_MAX || self.bytes + bytes > WAITING_BYTES_MAX {
            return Err(query);
        }
        self.bytes += bytes;
        self.waiting.push_back((until, bytes, query));
        Ok(())
    }

    fn pop(&mut self) -> Option<T> {
        let (_, bytes, query) = self.waiting.pop_front()?;
        self.bytes -= bytes;
        if self.waiting.is_empty() {
            // An idle session holds nothing.
            self.waiting = VecDeque::new();
        }
        Some(query)
    }

    /// The next query, if its turn has come.
    fn next(&mut self, at_once_max: usize) -> Option<T> {
        if self.open.len() >= at_once_max {
            return None;
        }
        self.pop()
    }

    /// A query that has waited too long.
    fn overdue(&mut self, now: Instant) -> Option<T> {
        let (until, ..) = self.waiting.front()?;
        if *until <= now { self.pop() } else { None }
    }

    fn opened(&mut self, ticket: u64) {
        self.open.push(ticket);
    }

    /// Something was answered; perhaps one of these.
    fn closed(&mut self, ticket: u64) {
        self.open.retain(|open| *open != ticket);
        if self.open.is_empty() {
            self.open = Vec::new();
        }
    }

    fn is_idle(&self) -> bool {
        self.open.is_empty() && self.waiting.is_empty()
    }

    /// When [`SessionActor::refuse_overdue_archives`] wants to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(until, ..)| *until)
    }
}

/// A query that waits.
pub(super) struct WaitingQuery {
    key: BareJid,
    /// Without its payload.
    handling: Handling,
    query: Box<Query>,
}

impl SessionActor {
    /// Asks an archive, now or in its turn.
    pub(super) fn archive_query(
        &mut self,
        key: &BareJid,
        mut handling: Handling,
        query: Query,
        ctx: &mut Context<Self>,
    ) {
        let bytes = handling.stanza.size_hint();
        handling.stanza.payload = Bytes::new();
        let waiting = WaitingQuery {
            key: key.clone(),
            handling,
            query: Box::new(query),
        };
        let settle_within = self.fabric.settings.client.sm_inbound.settle_within;
        let until = Instant::now() + WAIT_MAX.min(settle_within / 2);
        let archives = self.archives.get_or_insert_default();
        match archives.enter(bytes, waiting, until) {
            Ok(()) => self.advance_archives(ctx),
            Err(waiting) => self.refuse(waiting.handling, &unavailable_now(), ctx),
        }
    }

    /// Asks what may be asked now.
    pub(super) fn advance_archives(&mut self, ctx: &mut Context<Self>) {
        let at_once_max = self.fabric.settings.client.archive_queries_max;
        while let Some(archives) = &mut self.archives
            && let Some(waiting) = archives.next(at_once_max)
        {
            let WaitingQuery {
                key,
                handling,
                query,
            } = waiting;
            if let Some(ticket) = self.ask(&key, handling, *query, ctx) {
                self.archives.get_or_insert_default().opened(ticket);
            }
        }
        self.forget_idle_archives();
    }

    /// Something was answered; perhaps a query.
    pub(super) fn archive_answered(&mut self, ticket: u64) {
        if let Some(archives) = &mut self.archives {
            archives.closed(ticket);
        }
        self.forget_idle_archives();
    }

    fn forget_idle_archives(&mut self) {
        self.archives.take_if(|archives| archives.is_idle());
    }

    /// Refuses what has waited too long.
    pub(super) fn refuse_overdue_archives(&mut self, now: Instant, ctx: &mut Context<Self>) {
        while let Some(archives) = &mut self.archives
            && let Some(waiting) = archives.overdue(now)
        {
            self.refuse(waiting.handling, &unavailable_now(), ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_at_once_and_the_others_in_their_order() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for query in 1..=7 {
            turns.enter(10, query, now).unwrap();
        }
        let mut out = Vec::new();
        let mut advance = |turns: &mut Turns<i32>| {
            while let Some(query) = turns.next(4) {
                turns.opened(query as u64);
                out.push(query);
            }
            out.len()
        };
        assert_eq!(advance(&mut turns), 4);
        turns.closed(99);
        assert_eq!(advance(&mut turns), 4, "that was none of them");
        turns.closed(2);
        assert_eq!(advance(&mut turns), 5);
        turns.closed(5);
        turns.closed(1);
        assert_eq!(advance(&mut turns), 7);
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 7]);
        for ticket in [3, 4, 6, 7] {
            turns.closed(ticket);
        }
        assert_eq!(
            (turns.open.capacity(), turns.waiting.capacity(), turns.bytes),
            (0, 0, 0)
        );
    }

    #[test]
    fn nothing_waits_for_long() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        assert_eq!(turns.due(), None);
        let (first, second) = (now + WAIT_MAX, now + 2 * WAIT_MAX);
        turns.enter(1, 'a', first).unwrap();
        turns.enter(1, 'b', second).unwrap();
        assert_eq!(turns.due(), Some(first));
        assert_eq!(turns.overdue(now), None);
        assert_eq!(turns.overdue(first), Some('a'));
        assert_eq!(turns.overdue(first), None);
        assert_eq!(turns.due(), Some(second));
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for query in 0..WAITING_MAX {
            assert_eq!(turns.enter(1, query, now), Ok(()));
        }
        assert_eq!(turns.enter(1, 7_777, now), Err(7_777));
        let mut turns = Turns::default();
        assert_eq!(turns.enter(WAITING_BYTES_MAX, 1, now), Ok(()));
        assert_eq!(turns.enter(1, 2, now), Err(2));
        assert_eq!(turns.next(1), Some(1));
        assert_eq!(turns.enter(1, 2, now), Ok(()));
    }
}
