//! What readers share with the meta group's machine: the state, what became of recent entries, and news of changes.
//!
//! Who proposes an entry learns its index; what `apply` made of it is asked for here ([`MetaReplica::verdict`]), on the node
//! that proposed it. Verdicts are of recent entries and are in memory only: after a restart, look at the state.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::MetaState;
use super::access::Access;
use crate::node_id::NodeId;

/// What an entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaAnswer {
    /// It is so now, or was so already.
    Done,
    /// A member has this id.
    Member(NodeId),
}

/// Why an entry changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct MetaRefusal {
    /// For programs: kebab-case, never changed.
    pub code: &'static str,
    /// For people.
    pub sentence: String,
}

impl MetaRefusal {
    /// With a code and a sentence.
    pub fn new(code: &'static str, sentence: impl Into<String>) -> MetaRefusal {
        MetaRefusal {
            code,
            sentence: sentence.into(),
        }
    }
}

/// What became of an entry.
pub type Verdict = Result<MetaAnswer, MetaRefusal>;

/// So many verdicts are kept; who proposes looks within a moment.
const VERDICTS_MAX: usize = 256;

/// The meta group's replica as its readers see it.
#[derive(Debug)]
pub struct MetaReplica {
    state: Mutex<MetaState>,
    access: Mutex<Access>,
    verdicts: Mutex<VecDeque<(u64, Verdict)>>,
    applied: watch::Sender<u64>,
}

impl Default for MetaReplica {
    fn default() -> MetaReplica {
        MetaReplica {
            state: Mutex::default(),
            access: Mutex::default(),
            verdicts: Mutex::default(),
            applied: watch::channel(0).0,
        }
    }
}

impl MetaReplica {
    /// What was decided, as far as this node has heard. Hold it briefly: the apply task waits.
    pub fn state(&self) -> MutexGuard<'_, MetaState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tokens, operators and the audit log, as far as this node has heard. Hold it briefly: the apply task waits.
    pub fn access(&self) -> MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log index up to which this replica has applied, now and whenever it rises; 0 before the first in this life.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// What became of the entry at this index; `None` if it is not applied yet, or too long ago.
    pub fn verdict(&self, index: u64) -> Option<Verdict> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let found = verdicts.iter().rev().find(|(at, _)| *at == index);
        found.map(|(_, verdict)| verdict.clone())
    }

    pub(super) fn judged(&self, index: u64, verdict: Verdict) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() == VERDICTS_MAX {
            verdicts.pop_front();
        }
        verdicts.push_back((index, verdict));
    }

    /// After the state and its verdicts: whoever wakes finds both.
    pub(super) fn tell(&self, index: u64) {
        self.applied.send_replace(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_kept_for_a_while() {
        let replica = MetaReplica::default();
        for index in 1..=VERDICTS_MAX as u64 + 1 {
            replica.judged(index, Ok(MetaAnswer::Member(NodeId(index))));
        }
        assert_eq!(replica.verdict(1), None);
        assert_eq!(replica.verdict(2), Some(Ok(MetaAnswer::Member(NodeId(2)))));
        assert_eq!(replica.verdict(999), None);
    }
}
