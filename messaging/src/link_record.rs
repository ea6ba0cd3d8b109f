//! What the replicated state remembers of each origin of proposals, so that a resend has no second effect.
//!
//! Invariant: proposals of one origin are applied in the order of their sequence, each once, without holes. A resend
//! inside the window gets the answer it got first.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::command::Answer;

/// How many answers are kept for each origin: the window of a link.
pub const ANSWERS_MAX: usize = 1_024;

/// Who numbers proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LinkOrigin {
    /// A node, for its sessions.
    Node(u64),
    /// Another partition, for its outbox.
    Partition(u16),
    /// The partition's own owner (expiry, lazily committed sessions); numbered per epoch.
    Owner,
}

/// The last sequence of an origin and its last answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// The origin's incarnation (a node's), 0 for a partition, the epoch for the owner.
    pub incarnation: u64,
    /// The last applied sequence; the first is 1.
    pub last: u64,
    /// The answers to the last sequences, oldest first; the newest belongs to `last`.
    pub answers: VecDeque<Answer>,
}

/// What to do with a numbered proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Apply it: it is the next.
    Next,
    /// It was applied before; this was its answer (`None`: older than the window).
    Again(Option<Answer>),
    /// From an incarnation that has ended, or with a hole before it: neither applied nor answered.
    Refused,
}

impl LinkRecord {
    /// Judges a sequence; a newer incarnation starts again at 1.
    pub fn admit(&mut self, incarnation: u64, sequence: u64) -> Admission {
        if incarnation > self.incarnation {
            *self = LinkRecord {
                incarnation,
                last: 0,
                answers: VecDeque::new(),
            };
        }
        if incarnation < self.incarnation || sequence > self.last + 1 || sequence == 0 {
            return Admission::Refused;
        }
        if sequence == self.last + 1 {
            return Admission::Next;
        }
        Admission::Again(self.answer(sequence).cloned())
    }

    /// Records the answer to the next sequence.
    pub fn record(&mut self, answer: Answer) {
        self.last += 1;
        self.answers.push_back(answer);
        while self.answers.len() > ANSWERS_MAX {
            self.answers.pop_front();
        }
    }

    /// The answer given to this sequence, while it is in the window.
    pub fn answer(&self, sequence: u64) -> Option<&Answer> {
        let age = self.last.checked_sub(sequence)?;
        let index = (self.answers.len() as u64).checked_sub(age + 1)?;
        self.answers.get(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sequence_is_admitted_once_and_answered_alike_again() {
        let mut record = LinkRecord::default();
        for sequence in 1..=2_000u64 {
            assert_eq!(record.admit(7, sequence), Admission::Next);
            record.record(Answer::Done { seq: sequence });
        }
        assert_eq!(
            record.admit(7, 2_000),
            Admission::Again(Some(Answer::Done { seq: 2_000 }))
        );
        assert_eq!(
            record.admit(7, 977),
            Admission::Again(Some(Answer::Done { seq: 977 }))
        );
        assert_eq!(record.admit(7, 976), Admission::Again(None));
        assert_eq!(record.admit(7, 2_002), Admission::Refused);
        assert_eq!(record.admit(6, 2_001), Admission::Refused);
        assert_eq!(record.admit(8, 1), Admission::Next);
    }
}
