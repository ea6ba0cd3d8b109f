//! What becomes of a panic: it costs one room, one user or one reign, and what is lost is replaced.
//!
//! ```text
//!   room, publication   dies with its state ─► its owner's next look finds it ─► nodes attach again to a new one
//!   owner, link         survives in place: the address stays, the state is given up or brought up to date
//!   an arbiter's thread is dead ─► the process ends, and other nodes take over at once
//! ```
//!
//! Each has a budget of restarts, so that a defect which one message wakes again and again can't keep a node busy.
//! actix's own `Supervisor` restarts actors that stop; a panic it does not survive.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::SendError;
use actix::{Actor, Addr, Handler, Message};
use xmpp::jid::BareJid;

use crate::fabric::Fabric;
use crate::mailbox::{Backlog, Weighed};

/// Restarts within [`BUDGET_TIME`] before a rest.
pub const RESTARTS_MAX: usize = 3;

/// The time that restarts are counted over, and how long a key that used them up is left alone.
pub const BUDGET_TIME: Duration = Duration::from_secs(60);

/// Does a piece of an actor's work; `None`: it panicked, and what it worked on may be half done.
pub fn survive<T>(work: impl FnOnce() -> T) -> Option<T> {
    // What the closure leaves behind is given up or made anew by whoever gets the `None`.
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// How often something may be restarted.
#[derive(Debug, Default)]
pub struct RestartBudget {
    restarts: VecDeque<Instant>,
}

impl RestartBudget {
    /// Counts a panic; `false`: there have been too many, and it must rest.
    pub fn spend(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.restarts.push_back(now);
        self.restarts.len() <= RESTARTS_MAX
    }

    fn forget(&mut self, now: Instant) {
        while self
            .restarts
            .front()
            .is_some_and(|at| now >= *at + BUDGET_TIME)
        {
            self.restarts.pop_front();
        }
    }
}

/// Keys whose actors have panicked lately, and those that are left alone for that.
#[derive(Debug, Default)]
pub struct Casualties {
    budgets: HashMap<BareJid, RestartBudget>,
    barred: HashMap<BareJid, Instant>,
}

impl Casualties {
    /// Counts a panic of a key's actor.
    pub fn fell(&mut self, key: &BareJid, now: Instant) {
        if !self.budgets.entry(key.clone()).or_default().spend(now) {
            self.barred.insert(key.clone(), now + BUDGET_TIME);
        }
    }

    /// Whether a key is to be left alone.
    pub fn is_barred(&self, key: &BareJid) -> bool {
        !self.barred.is_empty() && self.barred.contains_key(key)
    }

    /// Lets go what is over; `true` if a key may be served again, and must be brought up to date.
    pub fn release(&mut self, now: Instant) -> bool {
        self.budgets.retain(|_, budget| {
            budget.forget(now);
            !budget.restarts.is_empty()
        });
        let before = self.barred.len();
        self.barred.retain(|_, until| now < *until);
        self.barred.len() < before
    }
}

/// An actor below another one, which alone sends to it.
pub struct Ward<A: Actor> {
    /// Never cloned for sending: each clone has a slot of its own beyond the mailbox's limit.
    addr: Addr<A>,
    told: Cell<u64>,
    backlog: Arc<Backlog>,
    bytes_max: usize,
}

impl<A: Actor> Ward<A> {
    /// Nothing has been sent yet. `backlog`: shared with the actor, which takes off what it has in hand; at most
    /// `bytes_max` wait.
    pub fn new(addr: Addr<A>, backlog: Arc<Backlog>, bytes_max: usize) -> Ward<A> {
        Ward {
            addr,
            told: Cell::new(0),
            backlog,
            bytes_max,
        }
    }

    /// Sends, if there is room.
    ///
    /// # Errors
    /// The message, if the mailbox is full or the actor is dead.
    pub fn try_send<M>(&self, message: M) -> Result<(), SendError<M>>
    where
        A: Handler<M>,
        A::Context: actix::dev::ToEnvelope<A, M>,
        M: Message + Weighed + Send + 'static,
        M::Result: Send,
    {
        let bytes = message.bytes();
        // What weighs nothing passes: the end of an actor above all.
        if bytes > 0 && !self.backlog.add(bytes, self.bytes_max) {
            return Err(SendError::Full(message));
        }
        self.addr.try_send(message).inspect_err(|_| {
            self.backlog.take(bytes);
        })?;
        self.told.set(self.told.get() + 1);
        Ok(())
    }

    /// Whether it takes messages: it has not been ended, and not panicked.
    pub fn is_alive(&self) -> bool {
        self.addr.connected()
    }

    /// Whether it has in hand all that was sent to it and weighs something, or takes nothing any more.
    pub fn is_idle(&self) -> bool {
        self.backlog.is_empty() || !self.is_alive()
    }

    /// Whether it is this actor and has handled all that it was sent.
    pub fn has_done_all(&self, addr: &Addr<A>, handled: u64) -> bool {
        self.addr == *addr && self.told.get() == handled
    }
}

/// How often the partitions' actors are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Ends the process when a partition's actor is dead, which only the death of its thread can cause: other nodes take
/// the partitions over in a moment, while this one would hold them for ever. To be dropped before a graceful stop.
pub async fn watch(fabric: Arc<Fabric>) {
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    loop {
        ticks.tick().await;
        for place in &fabric.partitions {
            let Some(actors) = fabric.actors(place.id) else {
                continue;
            };
            if !actors.owner.connected() || !actors.link.connected() {
                tracing::error!(partition = %place.id, "a partition's actor is dead; the process ends");
                std::process::abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use actix::{ActorContext, Context};

    use super::*;

    fn key(name: &str) -> BareJid {
        BareJid::parse(&format!("{name}@localhost")).unwrap()
    }

    #[test]
    fn a_budget_is_spent_and_comes_back() {
        let start = Instant::now();
        let check = |seconds: &[u64], expect: &[bool]| {
            let mut budget = RestartBudget::default();
            let spent: Vec<bool> = seconds
                .iter()
                .map(|at| budget.spend(start + Duration::from_secs(*at)))
                .collect();
            assert_eq!(spent, expect, "{seconds:?}");
        };
        check(&[0], &[true]);
        check(&[0, 0, 0, 0], &[true, true, true, false]);
        check(&[0, 10, 20, 30, 40], &[true, true, true, false, false]);
        check(&[0, 10, 20, 60, 65], &[true, true, true, true, false]);
        check(&[0, 60, 120, 180, 240], &[true; 5]);
    }

    #[test]
    fn a_key_is_barred_alone_and_for_a_time() {
        let start = Instant::now();
        let (poisoned, other) = (key("poisoned"), key("other"));
        let mut casualties = Casualties::default();
        casualties.fell(&other, start);
        for _ in 0..RESTARTS_MAX {
            assert!(!casualties.is_barred(&poisoned));
            casualties.fell(&poisoned, start);
        }
        assert!(!casualties.is_barred(&poisoned));
        casualties.fell(&poisoned, start);
        assert!(casualties.is_barred(&poisoned));
        assert!(!casualties.is_barred(&other));
        assert!(!casualties.release(start + BUDGET_TIME - Duration::from_millis(1)));
        assert!(casualties.release(start + BUDGET_TIME));
        assert!(!casualties.is_barred(&poisoned));
        assert!(casualties.budgets.is_empty() && casualties.barred.is_empty());
    }

    #[derive(Message)]
    #[rtype(result = "u32")]
    enum Work {
        Count,
        Panic,
        PanicCaught,
        End,
    }

    impl Weighed for Work {
        fn bytes(&self) -> usize {
            match self {
                Work::Count => 60,
                Work::Panic | Work::PanicCaught | Work::End => 0,
            }
        }
    }

    fn ward_of(addr: &Addr<Worker>) -> Ward<Worker> {
        Ward::new(addr.clone(), Arc::default(), 100)
    }

    #[derive(Default)]
    struct Worker(u32);

    impl Actor for Worker {
        type Context = Context<Self>;
    }

    impl Handler<Work> for Worker {
        type Result = u32;

        fn handle(&mut self, work: Work, ctx: &mut Self::Context) -> u32 {
            match work {
                Work::Count => self.0 += 1,
                Work::Panic => panic!("made to panic"),
                Work::PanicCaught => {
                    if survive(|| panic!("made to panic")).is_none() {
                        self.0 = 100;
                    }
                }
                Work::End => ctx.stop(),
            }
            self.0
        }
    }

    #[actix::test]
    async fn a_ward_that_panics_is_dead_and_another_takes_its_place() {
        let addr = Worker::default().start();
        let ward = ward_of(&addr);
        assert_eq!(addr.send(Work::Count).await, Ok(1));
        assert!(ward.is_alive());
        assert!(addr.send(Work::Panic).await.is_err());
        assert!(!ward.is_alive());
        assert!(ward.try_send(Work::Count).is_err());
        let addr = Worker::default().start();
        let ward = ward_of(&addr);
        assert!(ward.is_alive());
        assert_eq!(addr.send(Work::Count).await, Ok(1));
    }

    #[actix::test]
    async fn an_actor_that_survives_keeps_its_address_and_its_mailbox() {
        let addr = Worker::default().start();
        let panicking = addr.send(Work::PanicCaught);
        let waiting = addr.send(Work::Count);
        assert_eq!(panicking.await, Ok(100));
        assert_eq!(waiting.await, Ok(101));
        assert!(addr.connected());
    }

    #[actix::test]
    async fn what_waits_for_a_ward_is_bounded_in_bytes() {
        let addr = Worker::default().start();
        let backlog: Arc<Backlog> = Arc::default();
        let ward = Ward::new(addr.clone(), Arc::clone(&backlog), 100);
        assert!(ward.try_send(Work::Count).is_ok());
        let refused = ward.try_send(Work::Count);
        assert!(matches!(refused, Err(SendError::Full(Work::Count))));
        assert!(ward.try_send(Work::PanicCaught).is_ok());
        // As the actor does when it has the message in hand.
        backlog.take(60);
        assert!(ward.try_send(Work::Count).is_ok());
        assert!(ward.try_send(Work::End).is_ok());
    }

    #[actix::test]
    async fn a_ward_has_done_all_only_when_nothing_is_on_its_way() {
        let addr = Worker::default().start();
        let ward = ward_of(&addr);
        assert!(ward.has_done_all(&addr, 0));
        ward.try_send(Work::Count).unwrap();
        assert!(!ward.has_done_all(&addr, 0));
        assert!(ward.has_done_all(&addr, 1));
        assert!(!ward.has_done_all(&Worker::default().start(), 1));
        assert_eq!(addr.send(Work::End).await, Ok(1));
        assert!(!ward.is_alive());
    }
}
