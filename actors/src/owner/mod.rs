//! The owner's end of a partition: one actor a partition, awake while this node owns it.
//!
//! ```text
//!  Up frames, outboxes ─► LinkTarget ─► Batcher ─► the log
//!  the log ─► effects ─► answers, rooms, publications, the outbox
//! ```
//!
//! A reign begins when `OwnerBegin` is applied (its index is the epoch) and ends when another's is, or when the group's
//! leadership is lost. All soft state belongs to the reign and goes with it; nodes bring it again when they attach.
//!
//! Invariant: whatever this actor reads from the state for others (heads of logs), it reads together with the news that
//! led there, and passes the news on first; so a reader never runs ahead of the effects ([`OwnerActor::catch_up`]).

mod across;
mod ask;
mod batch;
mod casualties;
mod claim_pace;
mod followers;
mod held_back;
mod nodes;
mod once_again;
mod raise;
mod reign;
mod rest;
mod unclaimed;
mod up;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, SpawnHandle};
use cluster::effect_queue::OwnerNews;
use cluster::link::protocol::{Across, Up};
use cluster::node_id::{Epoch, NodeId, PartitionId};
use futures_util::FutureExt;
use messaging::command::Command;
use messaging::effect::EffectMark;
use messaging::user::publication::SessionKey;
use tokio::sync::oneshot;
use xmpp::jid::{BareJid, FullJid};

use crate::fabric::{Fabric, PartitionPlace};
use crate::publication::PublicationActor;
use crate::supervision::{BUDGET_TIME, Casualties, RestartBudget, survive};
use claim_pace::ClaimPace;
use reign::Reign;
use rest::Waiting;

/// Everything that can wake the actor.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToOwner {
    /// A defect.
    #[cfg(test)]
    Panic,
    /// A defect of a room.
    #[cfg(test)]
    PanicRoom(BareJid),
    /// A defect of a user's publication.
    #[cfg(test)]
    PanicUser(BareJid),
    /// From here to the next reign nothing is told to anybody: what an owner leaves behind that dies at this moment.
    #[cfg(test)]
    FallSilent,
    /// Looks who is still unclaimed after this time, as if it had passed.
    #[cfg(test)]
    RemoveUnclaimedIn(Duration),
    /// The effect queue was empty and is no longer.
    News,
    /// The group's leadership has changed.
    Leadership,
    /// A future of the owner's has ended.
    Completed,
    /// A frame of a node.
    Up {
        /// Who sent it.
        from: NodeId,
        /// Which epoch it is meant for.
        epoch: Epoch,
        /// What.
        up: Box<Up>,
    },
    /// A frame of another owner.
    Across {
        /// Who sent it.
        from: NodeId,
        /// What.
        across: Box<Across>,
    },
    /// Somebody owns another partition now: entries for it go there.
    OwnerIs {
        /// Which partition.
        partition: PartitionId,
        /// Who.
        owner: NodeId,
        /// Since.
        epoch: Epoch,
    },
    /// The ROUTE lane to a node is there, perhaps anew.
    PeerUp(NodeId),
    /// It is gone.
    PeerDown(NodeId),
    /// A room or publication of this partition asks for something.
    FromKey(FromKey),
    /// The partition is about to be handed over: admit nothing more, and tell when what was admitted is done.
    Rest(oneshot::Sender<()>),
    /// It was not handed over.
    GoOn,
    /// The node stops: own nothing any more.
    Stop,
}

/// What rooms and publications ask of their partition's owner.
pub enum FromKey {
    /// Propose this, numbered as the owner's own.
    Propose(Box<Command>),
    /// Propose that sessions are up or down.
    NoteSessions {
        /// Up.
        up: Vec<SessionKey>,
        /// Down.
        down: Vec<FullJid>,
    },
    /// The delivery cursor of a user may move; gathered for a few seconds.
    AdvanceCursor {
        /// Whose.
        user: BareJid,
        /// To where.
        delivered: u64,
    },
    /// A session of the user has ended: what was gathered of its cursor is proposed now, or its next session would be given
    /// once more what this one took, if the owner changes meanwhile.
    CommitCursor(BareJid),
    /// A frame for this node did not leave: it has to attach again.
    Lost(NodeId),
    /// The publication has nothing left to do, if nothing is on its way to it: it ends when its owner says so.
    Idle {
        /// Whose.
        user: BareJid,
        /// Which actor it is.
        publication: Addr<PublicationActor>,
        /// How many messages it has handled.
        handled: u64,
    },
}

/// The owner's end of one partition.
pub struct OwnerActor {
    fabric: Arc<Fabric>,
    partition: PartitionId,
    reign: Option<Reign>,
    /// News taken from the queue and not yet passed on.
    news: VecDeque<OwnerNews>,
    /// The term in which an `OwnerBegin` was proposed last.
    claimed_term: u64,
    claim_pace: ClaimPace,
    /// Since when the log has refused claims for want of room.
    claim_refused: Option<Instant>,
    /// What is to be done with the results of futures that have ended.
    completions: Rc<RefCell<VecDeque<Completion>>>,
    batch_timer: Option<SpawnHandle>,
    #[cfg(test)]
    silent: bool,
    last_tick: Option<Instant>,
    stopping: bool,
    /// Sessions that other nodes were told to take in.
    sent_away: usize,
    /// Rooms and users whose actors have panicked lately.
    casualties: Casualties,
    /// Its own panics, and until when it takes no reign because of them.
    panics: RestartBudget,
    rests_until: Option<Instant>,
}

/// Done by the actor with what a future of its has brought.
type Completion = Box<dyn FnOnce(&mut OwnerActor, &mut Context<OwnerActor>)>;

/// Effects passed on before the actor lets others run.
const NEWS_AT_ONCE: usize = 64;

/// How often the owner looks at what has expired.
const TICK: Duration = Duration::from_millis(500);

impl OwnerActor {
    /// Pieces of work that may wait.
    pub const MAILBOX: usize = 8_192;

    /// For a partition.
    pub fn new(fabric: Arc<Fabric>, partition: PartitionId) -> OwnerActor {
        OwnerActor {
            fabric,
            partition,
            reign: None,
            news: VecDeque::new(),
            claimed_term: 0,
            claim_pace: ClaimPace::default(),
            claim_refused: None,
            completions: Rc::default(),
            batch_timer: None,
            #[cfg(test)]
            silent: false,
            last_tick: None,
            stopping: false,
            sent_away: usize::from(partition.0),
            casualties: Casualties::default(),
            panics: RestartBudget::default(),
            rests_until: None,
        }
    }

    fn place(&self) -> &PartitionPlace {
        &self.fabric.partitions[usize::from(self.partition.0)]
    }

    /// The time for an entry. While no other member's clock was heard of it is that of the entries before; the first of all
    /// has only the own clock to go by.
    fn time_ms(&self) -> u64 {
        let last = || self.place().replica.state().record().time_ms;
        match self.fabric.time_ms() {
            0 => match last() {
                0 => crate::runtime::now_ms(),
                last => last,
            },
            now => now,
        }
    }

    /// Takes all news there is, under the state's lock, so that the state shows nothing whose news we lack.
    fn take_news<T>(&mut self, read: impl FnOnce(&messaging::state::State) -> T) -> T {
        let fabric = Arc::clone(&self.fabric);
        let replica = &fabric.partitions[usize::from(self.partition.0)].replica;
        let state = replica.state();
        while let Some(news) = replica.news.pop() {
            self.news.push_back(news);
        }
        read(&state)
    }

    /// Passes on all news up to what `read` sees, then returns what it read.
    fn catch_up<T>(
        &mut self,
        ctx: &mut Context<Self>,
        read: impl FnOnce(&messaging::state::State) -> T,
    ) -> T {
        let value = self.take_news(read);
        while let Some(news) = self.news.pop_front() {
            self.pass_on(news, ctx);
        }
        value
    }

    fn news(&mut self, ctx: &mut Context<Self>) {
        self.take_news(|_| ());
        for _ in 0..NEWS_AT_ONCE {
            let Some(news) = self.news.pop_front() else {
                break;
            };
            self.pass_on(news, ctx);
        }
        if !self.news.is_empty() {
            // Others first: rooms and publications share this thread.
            ctx.run_later(Duration::ZERO, |actor, ctx| actor.survive(ctx, Self::news));
        }
        self.run_reign(ctx);
    }

    fn pass_on(&mut self, news: OwnerNews, ctx: &mut Context<Self>) {
        match news {
            OwnerNews::Began { epoch } => self.begin(epoch, ctx),
            OwnerNews::Ended => self.end("another node owns the partition"),
            OwnerNews::Effects { index, effects } => {
                for (place, effect) in effects.into_iter().enumerate() {
                    self.effect(EffectMark::of(index, place), effect, ctx);
                }
            }
        }
    }

    fn leadership(&mut self, ctx: &mut Context<Self>) {
        let leadership = *self.place().group.leadership().borrow();
        if !leadership.is_self {
            // What was committed before is still to be told: nobody else would.
            self.catch_up(ctx, |_| ());
            self.end("the leadership is lost");
            return;
        }
        let rests = self.rests_until.is_some_and(|until| Instant::now() < until);
        if leadership.term > self.claimed_term && !self.stopping && !rests {
            self.claimed_term = leadership.term;
            self.claim(ctx);
        }
    }

    fn watch_leadership(&self, ctx: &mut Context<Self>) {
        let mut leadership = self.place().group.leadership();
        let addr = ctx.address();
        actix_rt::spawn(async move {
            while leadership.changed().await.is_ok() {
                if addr.send(ToOwner::Leadership).await.is_err() {
                    break;
                }
            }
        });
    }

    /// Runs a future of the owner's on its thread and hands its result back.
    ///
    /// Not by `ctx.spawn`: actix polls every future of an actor whenever one of them or a message wakes it. There are never
    /// more than the batches on their way and the questions that the links let through.
    fn spawn<F, T>(
        &self,
        ctx: &mut Context<Self>,
        future: F,
        then: impl FnOnce(&mut Self, T, &mut Context<Self>) + 'static,
    ) where
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        let future = AssertUnwindSafe(future).catch_unwind();
        let (addr, completions) = (ctx.address(), Rc::clone(&self.completions));
        actix_rt::spawn(async move {
            let completion: Completion = match future.await {
                Ok(value) => Box::new(move |actor, ctx| then(actor, value, ctx)),
                Err(_) => Box::new(|actor, ctx| actor.fell(ctx)),
            };
            completions.borrow_mut().push_back(completion);
            // A full mailbox is being worked off, and each message in it begins with a look at what has ended.
            if addr.try_send(ToOwner::Completed).is_err() {
                tracing::trace!("the owner is busy; it sees by itself what has ended");
            }
        });
    }

    fn complete(&mut self, ctx: &mut Context<Self>) {
        loop {
            let next = self.completions.borrow_mut().pop_front();
            let Some(completion) = next else { break };
            self.survive(ctx, completion);
        }
    }

    /// Does a piece of work; a panic in it ends the reign, and another begins with what the log says.
    fn survive(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl FnOnce(&mut Self, &mut Context<Self>),
    ) {
        if survive(|| work(self, ctx)).is_none() {
            self.fell(ctx);
        }
    }

    fn fell(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        tracing::error!(partition = %self.partition, "the owner's actor panicked; its reign ends");
        self.fabric.metrics.panics.inc();
        self.end("the owner's actor panicked");
        self.claimed_term = 0;
        if self.panics.spend(now) {
            return self.survive(ctx, Self::leadership);
        }
        tracing::error!(partition = %self.partition, "too many panics; the partition rests on this node");
        self.rests_until = Some(now + BUDGET_TIME);
        ctx.run_later(BUDGET_TIME, |actor, ctx| {
            actor.survive(ctx, Self::leadership)
        });
    }

    /// The rest that a frame waits in; of another epoch it is answered at once.
    fn resting(&mut self, epoch: Option<Epoch>) -> Option<&mut rest::Rest> {
        let reign = self.reign.as_mut();
        let reign = reign.filter(|reign| epoch.is_none_or(|epoch| reign.epoch == epoch))?;
        reign.rest.as_mut()
    }

    fn receive(&mut self, message: ToOwner, ctx: &mut Context<Self>) {
        self.complete(ctx);
        match message {
            ToOwner::News => return self.news(ctx),
            ToOwner::Leadership => self.leadership(ctx),
            // Done before any message.
            ToOwner::Completed => {}
            ToOwner::Up { from, epoch, up } => match self.resting(Some(epoch)) {
                Some(rest) => rest.wait(Waiting::Up { from, epoch, up }),
                None => self.up(from, epoch, *up, ctx),
            },
            ToOwner::Across { from, across } => match self.resting(None) {
                Some(rest) => rest.wait(Waiting::Across { from, across }),
                None => self.across(from, *across, ctx),
            },
            ToOwner::OwnerIs {
                partition,
                owner,
                epoch,
            } => {
                if let Some(reign) = &mut self.reign {
                    reign
                        .outbox
                        .owner_is(partition, owner, epoch, Instant::now());
                }
            }
            ToOwner::PeerUp(node) => {
                self.hear_of_owners(Instant::now());
                if let Some(reign) = &mut self.reign {
                    let epoch = reign.epoch;
                    if !reign.target.is_attached(node) {
                        // It may not know that it no longer is.
                        reign.reattach.insert(node);
                    }
                    self.announce_to(node, epoch);
                }
            }
            ToOwner::PeerDown(node) => self.peer_down(node),
            ToOwner::FromKey(request) => self.asked_by_key(request, ctx),
            ToOwner::Rest(done) => self.rest(done, ctx),
            ToOwner::GoOn => self.go_on(ctx),
            ToOwner::Stop => {
                self.stopping = true;
                self.end("the node stops");
            }
            #[cfg(test)]
            ToOwner::FallSilent => self.silent = true,
            #[cfg(test)]
            ToOwner::RemoveUnclaimedIn(after) => self.remove_unclaimed(Instant::now() + after),
            #[cfg(test)]
            ToOwner::Panic => panic!("made to panic"),
            #[cfg(test)]
            ToOwner::PanicRoom(room) => self.tell_room(&room, crate::room::ToRoom::Panic),
            #[cfg(test)]
            ToOwner::PanicUser(user) => {
                self.tell_publication(&user, true, crate::publication::ToPublication::Panic)
            }
        }
        self.run_reign(ctx);
    }
}

impl Actor for OwnerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(Self::MAILBOX);
        let addr = ctx.address();
        self.place().replica.news.set_waker(move || {
            // A full mailbox is being worked off, and whatever it holds ends with a look at the news.
            if addr.try_send(ToOwner::News).is_err() {
                tracing::trace!("the owner is busy; it looks at its news by itself");
            }
        });
        self.watch_leadership(ctx);
        ctx.run_interval(TICK, |actor, ctx| actor.survive(ctx, Self::tick));
        self.survive(ctx, Self::leadership);
    }
}

impl Handler<ToOwner> for OwnerActor {
    type Result = ();

    fn handle(&mut self, message: ToOwner, ctx: &mut Self::Context) {
        self.survive(ctx, |actor, ctx| actor.receive(message, ctx));
    }
}
