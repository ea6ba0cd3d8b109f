//! The way from the log to the owner's actors: effects in log order, never dropped, never waited for.
//!
//! `apply` must not wait for an actor, and an effect must not be lost, so the queue itself has no limit; it is bounded
//! by what may be in the log unanswered (the links' windows and the batches in flight), since only proposals make
//! effects and an owner admits no more than that.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use messaging::effect::Effect;

use crate::node_id::Epoch;

/// What the owner's actor must know, in log order.
#[derive(Debug)]
pub enum OwnerNews {
    /// This node owns the partition: its `OwnerBegin` is applied.
    Began {
        /// The epoch.
        epoch: Epoch,
    },
    /// Another node does.
    Ended,
    /// Effects of one entry.
    Effects {
        /// Its log index.
        index: u64,
        /// The effects, in order.
        effects: Vec<Effect>,
    },
}

type Waker = Box<dyn Fn() + Send + Sync>;

/// A queue from the apply task to one actor.
#[derive(Default)]
pub struct EffectQueue {
    news: Mutex<VecDeque<OwnerNews>>,
    waker: Mutex<Option<Waker>>,
}

impl std::fmt::Debug for EffectQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EffectQueue")
            .field("waiting", &self.len())
            .finish()
    }
}

impl EffectQueue {
    /// Sets who is woken when the queue was empty and is no longer; wakes it at once if there is news already.
    pub fn set_waker(&self, waker: impl Fn() + Send + Sync + 'static) {
        let waiting = !self.is_empty();
        let mut slot = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting {
            waker();
        }
        *slot = Some(Box::new(waker));
    }

    /// Adds news; called from the apply task.
    pub fn push(&self, news: OwnerNews) {
        let was_empty = {
            let mut queue = self.news.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push_back(news);
            queue.len() == 1
        };
        if was_empty
            && let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner)
        {
            waker();
        }
    }

    /// Takes the oldest news.
    pub fn pop(&self) -> Option<OwnerNews> {
        self.news
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// How much waits.
    pub fn len(&self) -> usize {
        self.news
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
