//! How a link waits for sessions whose clients have yet to take what is due to them.
//!
//! A node that catches up, or a client that asks for much at once, brings more in a moment than a socket takes. The link
//! then delivers nothing until the sessions concerned have room again; what comes meanwhile waits in its own mailbox, and
//! what finds no place there is brought by the next attachment. Invariant: a session is ended as slow only if more was
//! due to it than may be, and its socket took nothing for [`STALL_TURNS`], or it has made links wait for
//! [`HOLD_TURNS`] without ever taking all that was due, or its account's sessions together have used up the turns that
//! an account has ([`crate::allowance`]). One client can't hold up a link for longer, and logging in again gives no more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use xmpp::stream_error::StreamErrorCondition;

use super::LinkActor;
use crate::mailbox::SessionMailbox;
use crate::session::ToSession;

/// How often a link looks. Turns are counted rather than time: a process that was stopped has given its clients no time.
const TURN: Duration = Duration::from_millis(10);

/// Turns in which a socket that is offered bytes may take none.
const STALL_TURNS: usize = 100;

/// Turns for which links may wait for a session in all, until nothing is due to it.
const HOLD_TURNS: usize = 300;

#[cfg(test)]
#[path = "pacing_account_tests.rs"]
mod account_tests;

/// A session that a link waits for.
struct Waited {
    mailbox: Arc<SessionMailbox>,
    taken: u64,
    stalled: usize,
}

/// What a turn has shown.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Wait,
    Go,
    Slow,
}

impl Waited {
    fn new(mailbox: Arc<SessionMailbox>) -> Waited {
        let taken = mailbox.taken();
        Waited {
            mailbox,
            taken,
            stalled: 0,
        }
    }

    fn turn(&mut self) -> Turn {
        if self.mailbox.doomed().is_some() || self.mailbox.has_room() {
            return Turn::Go;
        }
        let taken = self.mailbox.taken();
        if taken == self.taken && self.mailbox.is_offering() {
            self.stalled += 1;
        } else {
            self.stalled = 0;
        }
        self.taken = taken;
        if self.stalled >= STALL_TURNS || self.mailbox.hold() >= HOLD_TURNS {
            Turn::Slow
        } else {
            Turn::Wait
        }
    }
}

/// Waits until each has room; gives those that are slow. `has_turn`: whether its account has a turn left for it.
async fn wait_for(
    crowded: Vec<Arc<SessionMailbox>>,
    has_turn: impl Fn(&SessionMailbox) -> bool,
) -> Vec<Arc<SessionMailbox>> {
    let mut waited: Vec<Waited> = crowded.into_iter().map(Waited::new).collect();
    let mut slow = Vec::new();
    // The first turn is free: a client that reads is not cut for what others of its account have used up.
    let mut is_free = true;
    loop {
        waited.retain(|Waited { mailbox, .. }| {
            let is_over = mailbox.doomed().is_some() || mailbox.has_room();
            let waits = is_over || is_free || has_turn(mailbox);
            if !waits {
                slow.push(Arc::clone(mailbox));
            }
            waits
        });
        if waited.is_empty() {
            return slow;
        }
        is_free = false;
        tokio::time::sleep(TURN).await;
        waited.retain_mut(|waited| match waited.turn() {
            Turn::Wait => true,
            Turn::Go => false,
            Turn::Slow => {
                slow.push(Arc::clone(&waited.mailbox));
                false
            }
        });
    }
}

impl LinkActor {
    /// A session was sent something.
    pub(super) fn note_crowded(&mut self, mailbox: &Arc<SessionMailbox>) {
        if mailbox.is_crowded() && !self.crowded.iter().any(|known| Arc::ptr_eq(known, mailbox)) {
            self.crowded.push(Arc::clone(mailbox));
        }
    }

    /// Does nothing more until the sessions that are crowded have room.
    pub(super) fn hold(&mut self, ctx: &mut Context<Self>) {
        let crowded = std::mem::take(&mut self.crowded);
        if crowded.is_empty() {
            return;
        }
        let fabric = Arc::clone(&self.fabric);
        let has_turn = move |mailbox: &SessionMailbox| {
            let now = Instant::now();
            let account = mailbox.account();
            account.is_none_or(|account| fabric.allowances.wait(account, now))
        };
        let waited = wait_for(crowded, has_turn).into_actor(self);
        let waited = waited.map(|slow, actor, ctx| {
            actor.survive(ctx, |actor, ctx| {
                for mailbox in slow {
                    actor.cut(&mailbox);
                }
                actor.run(ctx);
            });
        });
        ctx.wait(waited);
    }

    /// Ends a slow client's stream; its rows wait in the log.
    fn cut(&self, mailbox: &SessionMailbox) {
        self.fabric.metrics.slow_sessions.inc();
        let condition = StreamErrorCondition::ResourceConstraint;
        if mailbox.try_send(ToSession::Kick(condition)).is_err() {
            tracing::debug!("a slow session was gone before it could be told to end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Turn::{Go, Slow, Wait};
    use super::*;
    use crate::session::SessionActor;

    /// What may be due to the session here; there is room again at half of it.
    const BYTES_MAX: usize = 1_000;

    /// What happens before a turn.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Nothing,
        /// So many bytes are offered to the socket.
        Offers(usize),
        /// The socket takes so many of them.
        Takes(usize),
        /// So many bytes are ready and not offered.
        Writes(usize),
        /// Other links wait for the session so often.
        Held(usize),
        /// The session is told to end.
        Kick,
    }

    use Step::{Held, Kick, Nothing, Offers, Takes, Writes};

    fn perform(step: Step, mailbox: &SessionMailbox) {
        match step {
            Nothing => {}
            Offers(bytes) => mailbox.offers(bytes),
            Takes(bytes) => mailbox.took(bytes),
            Writes(bytes) => mailbox.unwritten(bytes),
            Held(turns) => {
                for _ in 0..turns {
                    mailbox.hold();
                }
            }
            Kick => {
                let condition = StreamErrorCondition::ResourceConstraint;
                mailbox.try_send(ToSession::Kick(condition)).unwrap();
            }
        }
    }

    /// Steps, each with how often it is repeated and what the turn behind each of them shows.
    fn check(steps: &[(Step, usize, Turn)]) {
        let place: Context<SessionActor> = Context::new();
        let mailbox = Arc::new(SessionMailbox::new(place.address(), BYTES_MAX));
        let mut waited = Waited::new(Arc::clone(&mailbox));
        for (step, times, expect) in steps {
            for time in 1..=*times {
                perform(*step, &mailbox);
                assert_eq!(waited.turn(), *expect, "{step:?}, time {time} of {steps:?}");
            }
        }
    }

    #[test]
    fn a_link_waits_until_half_of_the_room_is_free() {
        check(&[(Nothing, 1, Go)]);
        check(&[(Offers(500), 1, Go)]);
        check(&[(Offers(501), 1, Wait), (Takes(1), 1, Go)]);
        check(&[(Writes(501), 1, Wait), (Writes(500), 1, Go)]);
        check(&[(Writes(300), 1, Go), (Offers(201), 1, Wait)]);
        check(&[
            (Offers(1_201), 1, Wait),
            (Takes(100), 7, Wait),
            (Takes(1), 1, Go),
        ]);
    }

    #[test]
    fn a_socket_that_takes_nothing_is_slow() {
        check(&[(Offers(900), STALL_TURNS - 1, Wait), (Nothing, 1, Slow)]);
        // One byte is enough to begin anew.
        check(&[
            (Offers(900), STALL_TURNS - 1, Wait),
            (Takes(1), 1, Wait),
            (Nothing, STALL_TURNS - 1, Wait),
            (Nothing, 1, Slow),
        ]);
        // So is a turn in which nothing is offered to it.
        check(&[
            (Writes(900), 1, Wait),
            (Offers(9), STALL_TURNS - 1, Wait),
            (Offers(0), 1, Wait),
            (Offers(9), STALL_TURNS - 1, Wait),
            (Nothing, 1, Slow),
        ]);
    }

    #[test]
    fn a_session_that_makes_links_wait_too_long_is_slow() {
        check(&[(Writes(900), HOLD_TURNS - 1, Wait), (Nothing, 1, Slow)]);
        check(&[
            (Offers(2_000), 1, Wait),
            (Takes(1), HOLD_TURNS - 2, Wait),
            (Takes(1), 1, Slow),
        ]);
        // All links together, however often there was room in between.
        check(&[
            (Offers(900), 1, Wait),
            (Held(HOLD_TURNS - 3), 1, Wait),
            (Takes(899), 1, Go),
            (Offers(900), 1, Slow),
        ]);
        // Where all was taken it begins anew.
        check(&[
            (Offers(900), 1, Wait),
            (Held(HOLD_TURNS - 3), 1, Wait),
            (Takes(900), 1, Go),
            (Writes(900), HOLD_TURNS - 1, Wait),
            (Nothing, 1, Slow),
        ]);
    }

    #[test]
    fn nobody_waits_for_a_session_that_has_to_end() {
        check(&[(Offers(900), 1, Wait), (Kick, 2, Go), (Nothing, 1, Go)]);
        check(&[(Offers(900), STALL_TURNS - 1, Wait), (Kick, 1, Go)]);
        check(&[(Writes(900), HOLD_TURNS - 1, Wait), (Kick, 1, Go)]);
    }
}
