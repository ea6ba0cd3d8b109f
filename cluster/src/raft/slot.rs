//! A group's Raft on this node, which is another one after the group's data was given away ([`super::emptied`]).
//!
//! Whoever asks takes the one of this moment. Tasks that follow one to its end look here whether there is a next.

use std::sync::{PoisonError, RwLock, Weak};

use openraft::Raft;
use tokio::sync::watch;

use super::machine::Replica;
use super::type_config::TypeConfig;

type TheRaft = Raft<TypeConfig, Replica>;

/// See the module.
pub(crate) struct RaftSlot {
    /// It, and what lives as long as its machine.
    raft: RwLock<(TheRaft, Weak<()>)>,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    /// How often it was replaced.
    generation: u64,
    /// The one that is here ends, and another follows.
    is_closing: bool,
}

impl RaftSlot {
    pub(crate) fn new(raft: TheRaft, machine: Weak<()>) -> RaftSlot {
        let state = State {
            generation: 0,
            is_closing: false,
        };
        RaftSlot {
            raft: RwLock::new((raft, machine)),
            state: watch::Sender::new(state),
        }
    }

    /// The one of this moment.
    pub(crate) fn raft(&self) -> TheRaft {
        let raft = self.raft.read().unwrap_or_else(PoisonError::into_inner);
        raft.0.clone()
    }

    /// Whether its machine has not ended yet.
    pub(crate) fn has_machine(&self) -> bool {
        let raft = self.raft.read().unwrap_or_else(PoisonError::into_inner);
        raft.1.strong_count() > 0
    }

    /// Which one that is.
    pub(crate) fn generation(&self) -> u64 {
        self.state.borrow().generation
    }

    /// The one that is here is about to end, and another follows.
    pub(crate) fn close(&self) {
        self.state.send_modify(|state| state.is_closing = true);
    }

    /// Whether the one that is here ends, or has ended, and another follows.
    pub(crate) fn is_closing(&self) -> bool {
        self.state.borrow().is_closing
    }

    /// Another one from now on.
    pub(crate) fn replace(&self, raft: TheRaft, machine: Weak<()>) {
        let mut here = self.raft.write().unwrap_or_else(PoisonError::into_inner);
        *here = (raft, machine);
        drop(here);
        self.state.send_modify(|state| {
            state.generation += 1;
            state.is_closing = false;
        });
    }

    /// Whether one that has ended has a successor, now or soon.
    pub(crate) fn has_next(&self, generation: u64) -> bool {
        let state = *self.state.borrow();
        state.is_closing || state.generation > generation
    }

    /// Returns when there is a later one than this.
    pub(crate) async fn next(&self, generation: u64) {
        let mut state = self.state.subscribe();
        // The sender lives as long as this borrow.
        let _ = state.wait_for(|state| state.generation > generation).await;
    }
}
