//! Linearizability of one register, as Porcupine searches it: is there an order of the calls, each at some time between
//! its beginning and its answer, in which every reading gives what was set last?
//!
//! A call of unknown outcome may have its effect at any time after it began, or never. The search remembers where it has
//! been (which calls are placed, and the value) and is bounded: what is not decided within the bound counts as broken.

use std::collections::BTreeSet;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect<'a> {
    /// Sets the value.
    Set(&'a str),
    /// Reads it; `None`: there was none.
    Get(Option<&'a str>),
}

/// A call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation<'a> {
    pub(super) began: u64,
    /// `None`: nobody knows whether and when.
    pub(super) ended: Option<u64>,
    pub(super) effect: Effect<'a>,
}

/// What the search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There is such an order.
    Order,
    /// There is none.
    None,
    /// The bound was reached before.
    Unfinished,
}

/// Places that the search looks at before it gives up.
pub(super) const PLACES_MAX: usize = 200_000;

/// A place of the search: which calls have happened, and the value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    happened: Vec<u64>,
    value: Option<&'a str>,
}

const BITS: usize = u64::BITS as usize;

impl Place<'_> {
    fn has(&self, call: usize) -> bool {
        let word = self.happened.get(call / BITS).copied().unwrap_or(0);
        word & (1 << (call % BITS)) != 0
    }

    fn with(&self, call: usize) -> Vec<u64> {
        let mut happened = self.happened.clone();
        if let Some(word) = happened.get_mut(call / BITS) {
            *word |= 1 << (call % BITS);
        }
        happened
    }
}

/// Looks for an order of the calls on a register that had no value.
pub(super) fn search(operations: &[Operation<'_>], places_max: usize) -> Found {
    let begin = Place {
        happened: vec![0; operations.len().div_ceil(BITS)],
        value: None,
    };
    let mut seen = BTreeSet::from([begin.clone()]);
    let mut open = vec![begin];
    let mut looked = 0;
    while let Some(place) = open.pop() {
        looked += 1;
        if looked > places_max {
            return Found::Unfinished;
        }
        let left = || (0..operations.len()).filter(|call| !place.has(*call));
        let left = || left().filter_map(|call| Some((call, operations.get(call)?)));
        // What ends first must happen before anything that begins later.
        let Some(first_end) = left().filter_map(|(_, call)| call.ended).min() else {
            return Found::Order;
        };
        let mut next: Vec<_> = left()
            .filter(|(_, call)| call.began <= first_end)
            .filter_map(|(at, call)| {
                let value = match call.effect {
                    Effect::Set(value) => Some(value),
                    Effect::Get(read) if read == place.value => read,
                    Effect::Get(_) => return None,
                };
                let happened = place.with(at);
                Some((call.ended, Place { happened, value }))
            })
            .collect();
        // The last is looked at first: what ends soon, and unknown ones at the end.
        next.sort_by_key(|(ended, _)| std::cmp::Reverse(ended.unwrap_or(u64::MAX)));
        for (_, place) in next {
            if seen.insert(place.clone()) {
                open.push(place);
            }
        }
    }
    Found::None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(began: u64, ended: u64, value: &str) -> Operation<'_> {
        Operation {
            began,
            ended: Some(ended),
            effect: Effect::Set(value),
        }
    }

    fn get(began: u64, ended: u64, value: &str) -> Operation<'_> {
        Operation {
            began,
            ended: Some(ended),
            effect: Effect::Get((!value.is_empty()).then_some(value)),
        }
    }

    fn unknown(began: u64, value: &str) -> Operation<'_> {
        Operation {
            began,
            ended: None,
            effect: Effect::Set(value),
        }
    }

    #[test]
    fn orders_are_found_where_there_are_some() {
        let check = |calls: &[Operation<'_>], found: Found| {
            assert_eq!(search(calls, PLACES_MAX), found, "{calls:?}");
        };
        check(&[], Found::Order);
        check(&[get(1, 2, "")], Found::Order);
        check(&[set(1, 2, "a"), get(3, 4, "a")], Found::Order);
        check(&[set(1, 2, "a"), get(3, 4, "")], Found::None);
        check(
            &[set(1, 2, "a"), set(3, 4, "b"), get(5, 6, "a")],
            Found::None,
        );
        // At the same time, either comes first; then all agree.
        let both = [set(1, 4, "a"), set(2, 5, "b")];
        check(&[both[0], both[1], get(6, 7, "a")], Found::Order);
        check(&[both[0], both[1], get(6, 7, "b")], Found::Order);
        check(
            &[both[0], both[1], get(6, 7, "a"), get(8, 9, "b")],
            Found::None,
        );
        // Read while it is set: old, then new, never back.
        let slow = set(10, 20, "b");
        check(
            &[set(1, 2, "a"), slow, get(11, 12, "a"), get(13, 14, "b")],
            Found::Order,
        );
        check(
            &[set(1, 2, "a"), slow, get(11, 12, "b"), get(13, 14, "a")],
            Found::None,
        );
        // Unknown: late, or never, but once.
        let lost = [set(1, 2, "a"), unknown(3, "b")];
        check(&[lost[0], lost[1], get(50, 51, "a")], Found::Order);
        check(
            &[lost[0], lost[1], get(50, 51, "a"), get(52, 53, "b")],
            Found::Order,
        );
        check(
            &[lost[0], lost[1], get(4, 5, "b"), get(52, 53, "a")],
            Found::None,
        );
        check(&[unknown(9, "b"), get(4, 5, "b")], Found::None);
    }

    #[test]
    fn the_search_is_bounded() {
        let calls: Vec<_> = (0..40).map(|_| unknown(1, "a")).collect();
        let calls = [calls, vec![get(2, 3, "b")]].concat();
        assert_eq!(search(&calls, 1_000), Found::Unfinished);
    }
}
