//! What many seeds showed together, and the least that it must be for a run to mean anything.
//!
//! A story's violations fail its seed at once. What a story may lack, a ban in the right moment or a split with the leader on one
//! side, all of them together must not: a promise that no seed showed to be kept is *unknown*, and unknown fails.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use chaos_tests::checker::{Promise, Verdict};

/// From so many seeds on, all together must show everything.
const ENOUGH: u64 = 50;

/// The promises that a simulation judges: all but P13, which is about logs and the uninvolved.
pub fn judged() -> impl Iterator<Item = Promise> {
    let all = Promise::ALL.into_iter();
    all.filter(|promise| *promise != Promise::NothingLeaks)
}

/// How much there was to judge of each promise: the words of a report that [`Sums::add`] reads.
pub fn of_each(verdict: &Verdict) -> String {
    let words = judged().map(|promise| {
        let times = verdict.judged.get(&promise).copied().unwrap_or(0);
        format!("{} {times}", word(promise))
    });
    words.collect::<Vec<_>>().join(" ")
}

fn word(promise: Promise) -> String {
    format!("P{}", promise.number())
}

/// The least that a hundred seeds must have shown.
const LEAST: [(&str, u64); 12] = [
    ("acked", 50_000),
    ("during-faults", 20_000),
    ("suppressed", 5_000),
    ("epochs", 500),
    ("faults", 250),
    ("steps-resumed", 400),
    ("resumptions", 1_000),
    ("leader-changes", 80),
    ("leader-in-minority", 8),
    ("leader-in-majority", 15),
    ("snapshots", 150),
    ("readings", 3_000),
];

/// What is no count, though it may look like one.
const NO_NUMBERS: [&str; 2] = ["seed", "trace"];

/// What many seeds showed together.
#[derive(Default)]
pub struct Sums {
    numbers: BTreeMap<String, u64>,
    kinds: BTreeMap<String, u64>,
}

impl Sums {
    /// Adds what a seed said.
    pub fn add(&mut self, said: &str) {
        let last = said.lines().last().unwrap_or_default();
        let (numbers, kinds) = last.split_once('(').unwrap_or((last, ""));
        let words: Vec<&str> = numbers.split_whitespace().collect();
        for pair in words.windows(2) {
            if let [name, number] = pair
                && !NO_NUMBERS.contains(name)
                && let Ok(number) = number.parse::<u64>()
            {
                *self.numbers.entry((*name).to_owned()).or_default() += number;
            }
        }
        for kind in kinds
            .trim_end_matches(')')
            .split(", ")
            .filter(|kind| !kind.is_empty())
        {
            *self.kinds.entry(kind.to_owned()).or_default() += 1;
        }
    }

    fn number(&self, name: &str) -> u64 {
        self.numbers.get(name).copied().unwrap_or(0)
    }

    /// Whether enough has happened for the verdict to mean anything. A few seeds need not show everything.
    pub fn require(&self, seeds: u64) -> Result<()> {
        if seeds < ENOUGH {
            return Ok(());
        }
        for (name, least) in LEAST {
            let had = self.number(name);
            ensure!(
                had * 100 >= least * seeds,
                "too little happened: {name} is {had}, a hundred seeds must have {least}"
            );
        }
        let unknown: Vec<_> = judged()
            .filter(|promise| self.number(&word(*promise)) == 0)
            .collect();
        ensure!(
            unknown.is_empty(),
            "nothing shows whether these were kept: {unknown:?}"
        );
        Ok(())
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, number) in &self.numbers {
            if judged().all(|promise| word(promise) != *name) {
                write!(f, "{name} {number}; ")?;
            }
        }
        write!(f, "faults by kind: {:?}; judged:", self.kinds)?;
        for promise in judged() {
            write!(f, " {} {}", word(promise), self.number(&word(promise)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fifty seeds say that show everything, but for one word.
    fn without(lacking: &str) -> Sums {
        let mut sums = Sums::default();
        let names = LEAST.iter().map(|(name, least)| (name.to_string(), *least));
        let promises = judged().map(|promise| (word(promise), 1));
        let words = names.chain(promises).filter(|(name, _)| name != lacking);
        let words: Vec<String> = words
            .map(|(name, number)| format!("{name} {number}"))
            .collect();
        sums.add(&format!("seed 1: {} (kill, split)", words.join(" ")));
        sums
    }

    #[test]
    fn what_is_unknown_fails() {
        without("").require(ENOUGH).expect("all is there");
        for lacking in [
            "snapshots",
            "readings",
            "leader-in-minority",
            "P9",
            "P11",
            "P12",
        ] {
            let sums = without(lacking);
            let said = sums.require(ENOUGH).expect_err(lacking).to_string();
            assert!(
                said.contains("must have") || said.contains("nothing shows"),
                "{said}"
            );
            sums.require(ENOUGH - 1).expect("few seeds show less");
        }
        assert_eq!(without("").kinds.get("split"), Some(&1));
    }
}
