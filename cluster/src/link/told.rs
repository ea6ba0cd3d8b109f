//! Which effects that stand in no row a node was told lately.
//!
//! An owner tells a node that attaches once more what it may have missed ([`crate::recent_effects`]). Most of it the node
//! has heard, from the owner before or over the connection before, and its clients must not hear it twice.
//!
//! Each effect has a mark, the same on every replica. Only what is known by its mark is left out: what was lost between two
//! others still comes.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use messaging::effect::EffectMark;

/// For how long a mark is known: longer than an owner tells an effect again.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// Marks that are known at most; of what is older the clients may be told a second time.
const KNOWN_MAX: usize = 16_384;

/// The effects of the last minute that this node was told.
#[derive(Default)]
pub(super) struct Told {
    order: VecDeque<(Instant, EffectMark)>,
    known: HashSet<EffectMark>,
}

impl Told {
    /// Whether this is told for the first time.
    pub(super) fn is_first(&mut self, mark: EffectMark, now: Instant) -> bool {
        while self.order.len() >= KNOWN_MAX
            || self
                .order
                .front()
                .is_some_and(|(told, _)| *told + KNOWN_FOR < now)
        {
            if let Some((_, oldest)) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        let first = self.known.insert(mark);
        if first {
            self.order.push_back((now, mark));
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_is_told_once_whatever_came_between() {
        let now = Instant::now();
        let mut told = Told::default();
        let mut first = |index, place| told.is_first(EffectMark::of(index, place), now);
        assert!(first(7, 0));
        assert!(first(9, 1));
        assert!(!first(7, 0));
        assert!(first(8, 0), "lost on the way at first");
        assert!(first(9, 0));
        assert!(!first(9, 1));
    }

    #[test]
    fn what_is_known_is_bounded_in_time_and_number() {
        let now = Instant::now();
        let mut told = Told::default();
        assert!(told.is_first(EffectMark::of(1, 0), now));
        assert!(!told.is_first(EffectMark::of(1, 0), now + KNOWN_FOR));
        let later = now + KNOWN_FOR + Duration::from_millis(1);
        assert!(told.is_first(EffectMark::of(1, 0), later));
        for place in 0..2 * KNOWN_MAX {
            told.is_first(EffectMark::of(2, place), later);
        }
        assert_eq!((told.order.len(), told.known.len()), (KNOWN_MAX, KNOWN_MAX));
    }
}
