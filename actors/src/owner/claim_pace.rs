//! How soon a leader tries again whose claim was refused.

use std::time::Duration;

/// How long after a claim that failed the next one waits at first: a leader that was just elected takes nothing for a moment.
const WAIT: Duration = Duration::from_millis(10);

/// And at most: a full log refuses for as long as it is full.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Longer from claim to claim, and short again in the next term: what refused a former leader says nothing of this one, and
/// all users of the partition wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ClaimPace {
    term: u64,
    refused: u32,
}

impl ClaimPace {
    /// A claim in this term has failed; gives how long to wait.
    pub(super) fn refused(&mut self, term: u64) -> Duration {
        if self.term != term {
            *self = ClaimPace { term, refused: 0 };
        }
        let wait = WAIT.saturating_mul(2_u32.saturating_pow(self.refused));
        self.refused = self.refused.saturating_add(1);
        wait.min(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_term_does_not_wait_for_what_refused_the_last_one() {
        let mut pace = ClaimPace::default();
        let mut refused = |term| pace.refused(term).as_millis();
        assert_eq!([3; 4].map(&mut refused), [10, 20, 40, 80]);
        assert_eq!([3; 100].map(&mut refused).last(), Some(&2_000));
        assert_eq!([4; 2].map(&mut refused), [10, 20]);
        assert_eq!(refused(9), 10);
    }
}
