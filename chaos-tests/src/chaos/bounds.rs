//! What the reliability specification's fault table bounds, and how a run stands to it: pure.
//!
//! What is measured during a run is judged by percentiles over all of it. A row has two limits: what the specification
//! promises, and how much more is put down to the machine, which runs all nodes and all clients on a few cores. Between the
//! two a run is *slow*, which is told and is no failure; beyond the second it fails. A fault that was caused and of which
//! nothing was measured is *unknown*, and unknown fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Measure {
    /// How long others heard nothing new after a kill of the owner, in milliseconds.
    OwnerKilled,
    /// The same after a kill of another node.
    FollowerKilled,
    /// Streams of other nodes that ended during a kill of one.
    Disturbed,
    /// From the start of all nodes to an answered write over each of them, in milliseconds.
    AllKilled,
    /// How long others heard nothing new after a stop of the owner, in milliseconds.
    Stopped,
    /// How long a woken owner named itself the owner, in milliseconds.
    SteppedDown,
    /// How long the majority heard nothing new after a split, the owner being alone, in milliseconds.
    SplitFromOwner,
    /// The same, the owner being among two.
    SplitFromAnother,
    /// From the mend of a split until the node that was alone has caught up, in milliseconds.
    CaughtUp,
    /// From the mend of a pool in pieces to an answered write over each node, in milliseconds.
    Shattered,
    /// How long members heard nothing new after a one-way cut, or one between two of three, in milliseconds.
    HalfCut,
    /// Elections of one group in ten seconds of such a cut.
    HalfCutElections,
    /// Of a thousand messages that are acknowledged in a clean time, how many are while packets get lost.
    Goodput,
    /// Elections of one group in ten seconds of long delays.
    DelayElections,
    /// How long a room's messages took to be reflected over long roads, in milliseconds.
    DelayedCommit,
    /// Elections of one group in ten seconds while snapshots fill a thin link.
    ThinElections,
    /// Elections of one group in ten seconds of a slow disk.
    SlowDiskElections,
    /// Elections of one group in ten seconds of a slow processor.
    SlowNodeElections,
    /// By how many MiB a node's memory has grown with clients that ask for much and read nothing.
    SlowReadersMemory,
    /// How long others heard nothing new when such clients began, in milliseconds.
    SlowReaders,
    /// Streams of others that ended meanwhile.
    SlowReadersDisturbed,
    /// How long a session was without a connection while nodes were stopped and started in turn, in milliseconds.
    RestartResumed,
    /// Sessions that were not to be had again then.
    RestartLost,
    /// Messages that were refused then.
    RestartRefused,
    /// Streams that ended while all certificates were renewed.
    RenewalDisturbed,
    /// From a mend until a watcher is shown another one rightly, in milliseconds.
    Shown,
}

/// What of all that was measured is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// What so many percent did not exceed is at most this.
    AtMost(usize),
    /// The median is at least this.
    MedianAtLeast,
}

/// A bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    fault: &'static str,
    what: &'static str,
    measure: Measure,
    of: Of,
    /// What the specification promises.
    bound: u64,
    /// Where a run fails.
    fails_beyond: u64,
    unit: &'static str,
}

const fn row(
    fault: &'static str,
    what: &'static str,
    measure: Measure,
    of: Of,
    (bound, fails_beyond, unit): (u64, u64, &'static str),
) -> Row {
    Row {
        fault,
        what,
        measure,
        of,
        bound,
        fails_beyond,
        unit,
    }
}

/// Reliability specification, §2, as far as it bounds times and counts. Times have a factor of three for the machine; what
/// must not happen at all may happen once in a group.
pub(super) const TABLE: [Row; 27] = [
    row(
        "kill of the owner",
        "others hear nothing new, p50",
        Measure::OwnerKilled,
        Of::AtMost(50),
        (200, 600, "ms"),
    ),
    row(
        "kill of the owner",
        "others hear nothing new, p99",
        Measure::OwnerKilled,
        Of::AtMost(99),
        (1_000, 3_000, "ms"),
    ),
    row(
        "kill of another node",
        "others hear nothing new, p99",
        Measure::FollowerKilled,
        Of::AtMost(99),
        (1_000, 3_000, "ms"),
    ),
    row(
        "kill of one node",
        "streams of others that end",
        Measure::Disturbed,
        Of::AtMost(100),
        (0, 0, ""),
    ),
    row(
        "kill or power cut of all",
        "until a write over each node is answered",
        Measure::AllKilled,
        Of::AtMost(99),
        (15_000, 45_000, "ms"),
    ),
    row(
        "stop of the owner",
        "others hear nothing new, p99",
        Measure::Stopped,
        Of::AtMost(99),
        (3_000, 9_000, "ms"),
    ),
    row(
        "stop of the owner",
        "woken, it names itself the owner",
        Measure::SteppedDown,
        Of::AtMost(99),
        (1_000, 3_000, "ms"),
    ),
    row(
        "split, the owner alone",
        "the majority hears nothing new, p99",
        Measure::SplitFromOwner,
        Of::AtMost(99),
        (3_000, 9_000, "ms"),
    ),
    row(
        "split, the owner among two",
        "the majority hears nothing new, p99",
        Measure::SplitFromAnother,
        Of::AtMost(99),
        (3_000, 9_000, "ms"),
    ),
    row(
        "split 2/1",
        "mended, until all have caught up",
        Measure::CaughtUp,
        Of::AtMost(99),
        (10_000, 30_000, "ms"),
    ),
    row(
        "split 1/1/1",
        "mended, until a write over each node is answered",
        Measure::Shattered,
        Of::AtMost(99),
        (5_000, 15_000, "ms"),
    ),
    row(
        "one-way cut, ring",
        "anybody hears nothing new, p99",
        Measure::HalfCut,
        Of::AtMost(99),
        (5_000, 15_000, "ms"),
    ),
    row(
        "one-way cut, ring",
        "elections of a group in 10 s",
        Measure::HalfCutElections,
        Of::AtMost(99),
        (1, 3, ""),
    ),
    row(
        "loss 20 %",
        "acknowledged, of 1,000 in a clean time",
        Measure::Goodput,
        Of::MedianAtLeast,
        (250, 83, ""),
    ),
    row(
        "delay 75 ± 50 ms",
        "elections of a group in 10 s",
        Measure::DelayElections,
        Of::AtMost(99),
        (0, 1, ""),
    ),
    row(
        "delay 75 ± 50 ms",
        "until a room's message is reflected, p99",
        Measure::DelayedCommit,
        Of::AtMost(99),
        (600, 1_800, "ms"),
    ),
    row(
        "1 Mbit/s, snapshots",
        "elections of a group in 10 s",
        Measure::ThinElections,
        Of::AtMost(99),
        (1, 3, ""),
    ),
    row(
        "slow disk",
        "elections of a group in 10 s",
        Measure::SlowDiskElections,
        Of::AtMost(99),
        (1, 3, ""),
    ),
    row(
        "slow node, a tenth of a processor",
        "elections of a group in 10 s",
        Measure::SlowNodeElections,
        Of::AtMost(99),
        (1, 3, ""),
    ),
    row(
        "slow readers",
        "growth of the node's memory",
        Measure::SlowReadersMemory,
        Of::AtMost(100),
        (96, 160, "MiB"),
    ),
    row(
        "slow readers",
        "others hear nothing new, p99",
        Measure::SlowReaders,
        Of::AtMost(99),
        (1_000, 3_000, "ms"),
    ),
    row(
        "slow readers",
        "streams of others that end",
        Measure::SlowReadersDisturbed,
        Of::AtMost(100),
        (0, 0, ""),
    ),
    row(
        "rolling restart",
        "until a session has a connection again, p99",
        Measure::RestartResumed,
        Of::AtMost(99),
        (5_000, 15_000, "ms"),
    ),
    row(
        "rolling restart",
        "sessions that are lost",
        Measure::RestartLost,
        Of::AtMost(100),
        (0, 0, ""),
    ),
    row(
        "rolling restart",
        "messages that are refused",
        Measure::RestartRefused,
        Of::AtMost(100),
        (0, 0, ""),
    ),
    row(
        "certificates renewed",
        "streams that end",
        Measure::RenewalDisturbed,
        Of::AtMost(100),
        (0, 0, ""),
    ),
    // P14; that it is ten at most is the checker's to judge.
    row(
        "any, mended",
        "until a watcher is shown the truth, p99",
        Measure::Shown,
        Of::AtMost(99),
        (5_000, 10_000, "ms"),
    ),
];

/// How a run stands to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// As promised.
    Pass,
    /// Not as promised, and the machine may be why.
    Slow,
    /// Beyond what the machine explains.
    Fail,
    /// Nothing was measured.
    Unknown,
}

impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stand::Pass => "pass",
            Stand::Slow => "slow",
            Stand::Fail => "fail",
            Stand::Unknown => "unknown",
        })
    }
}

/// A row that was judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged {
    row: Row,
    samples: usize,
    /// What of them is judged; 0 if there are none.
    measured: u64,
    /// How it stands.
    pub(super) stand: Stand,
}

/// What was measured in a run.
#[derive(Debug, Default)]
pub(super) struct Measured {
    samples: BTreeMap<Measure, Vec<u64>>,
    /// How often it was measured; each time may give any number of samples.
    times: BTreeMap<Measure, usize>,
    owed: BTreeSet<Measure>,
}

/// What is told besides the verdicts: for how long others heard nothing, and after what.
const FIGURES: [(Measure, &str); 7] = [
    (Measure::OwnerKilled, "kill -9 of the owner"),
    (Measure::FollowerKilled, "kill -9 of another node"),
    (Measure::Stopped, "SIGSTOP of the owner"),
    (Measure::SplitFromOwner, "split, the owner alone"),
    (Measure::SplitFromAnother, "split, the owner among two"),
    (Measure::HalfCut, "one direction or one link cut"),
    (Measure::SlowReaders, "clients that read nothing"),
];

impl Measured {
    /// For operators.
    pub(super) fn figures(&self) -> Vec<String> {
        let line = |(measure, what): (Measure, &str)| {
            let mut sorted = self.samples.get(&measure)?.clone();
            sorted.sort_unstable();
            let [p50, p99, max] = [50, 99, 100].map(|percent| percentile(&sorted, percent));
            Some(format!(
                "FIGURES {what}, {} times: {} others heard nothing new for p50 {p50} ms, p99 {p99} ms, max {max} ms",
                self.times.get(&measure)?,
                sorted.len()
            ))
        };
        FIGURES.into_iter().filter_map(line).collect()
    }

    /// A fault is caused that has to be measured.
    pub(super) fn owes(&mut self, measure: Measure) {
        self.owed.insert(measure);
    }

    /// It was measured.
    pub(super) fn add(&mut self, measure: Measure, samples: impl IntoIterator<Item = u64>) {
        self.owes(measure);
        *self.times.entry(measure).or_default() += 1;
        self.samples.entry(measure).or_default().extend(samples);
    }

    /// All rows that the run had to do with.
    pub(super) fn judge(&self) -> Vec<Judged> {
        let rows = TABLE.into_iter();
        rows.filter(|row| self.owed.contains(&row.measure))
            .map(|row| {
                let samples = self.samples.get(&row.measure);
                row.judge(samples.map_or(&[][..], Vec::as_slice))
            })
            .collect()
    }
}

impl Row {
    fn judge(self, samples: &[u64]) -> Judged {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let measured = match self.of {
            Of::AtMost(percent) => percentile(&sorted, percent),
            Of::MedianAtLeast => percentile(&sorted, 50),
        };
        let holds = |limit: u64| match self.of {
            Of::AtMost(_) => measured <= limit,
            Of::MedianAtLeast => measured >= limit,
        };
        let stand = match (sorted.is_empty(), holds(self.bound)) {
            (true, _) => Stand::Unknown,
            (false, true) => Stand::Pass,
            (false, false) if holds(self.fails_beyond) => Stand::Slow,
            (false, false) => Stand::Fail,
        };
        Judged {
            row: self,
            samples: sorted.len(),
            measured,
            stand,
        }
    }
}

impl Judged {
    /// Whether it does not stand in the way of a pass.
    pub(super) fn passes(&self) -> bool {
        matches!(self.stand, Stand::Pass | Stand::Slow)
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let Row {
            fault,
            what,
            bound,
            fails_beyond,
            unit,
            ..
        } = self.row;
        json!({
            "fault": fault,
            "what": what,
            "measured": self.measured,
            "samples": self.samples,
            "bound": bound,
            "fails_beyond": fails_beyond,
            "unit": unit,
            "verdict": self.stand.to_string(),
        })
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row {
            fault,
            what,
            bound,
            fails_beyond,
            unit,
            of,
            ..
        } = self.row;
        let least = match of {
            Of::AtMost(_) => "at most",
            Of::MedianAtLeast => "at least",
        };
        write!(
            f,
            "{:<8} {fault}: {what}: {} {unit} ({} samples); {least} {bound}, fails beyond {fails_beyond}",
            self.stand.to_string(),
            self.measured,
            self.samples
        )
    }
}

/// The value that so many percent do not exceed.
pub(super) fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How the rows of a measure stand.
    fn stands(measure: Measure, samples: &[u64]) -> Vec<Stand> {
        let mut measured = Measured::default();
        measured.add(measure, samples.iter().copied());
        measured.judge().iter().map(|row| row.stand).collect()
    }

    #[test]
    fn rows_have_three_stands_and_nothing_measured_is_none() {
        use Stand::{Fail, Pass, Slow, Unknown};
        let check = |measure, samples: &[u64], expect: &[Stand]| {
            assert_eq!(stands(measure, samples), expect, "{measure:?} {samples:?}");
        };
        check(Measure::OwnerKilled, &[100, 150, 900], &[Pass, Pass]);
        check(Measure::OwnerKilled, &[100, 150, 1_700], &[Pass, Slow]);
        check(Measure::OwnerKilled, &[100, 350, 3_100], &[Slow, Fail]);
        check(Measure::OwnerKilled, &[700, 800, 900], &[Fail, Pass]);
        check(Measure::OwnerKilled, &[], &[Unknown, Unknown]);
        // One in a hundred is no reason.
        let mut many = vec![100; 199];
        many.push(60_000);
        check(Measure::OwnerKilled, &many, &[Pass, Pass]);
        check(Measure::Disturbed, &[0, 0], &[Pass]);
        check(Measure::Disturbed, &[0, 1], &[Fail]);
        check(Measure::DelayElections, &[0, 1], &[Slow]);
        // More is better.
        check(Measure::Goodput, &[100, 300, 800], &[Pass]);
        check(Measure::Goodput, &[100, 240, 800], &[Slow]);
        check(Measure::Goodput, &[10, 20], &[Fail]);
        assert!(Measured::default().judge().is_empty());
        let passes = |stand| {
            let judged = TABLE[0].judge(&[]);
            Judged { stand, ..judged }.passes()
        };
        assert_eq!(
            [Pass, Slow, Fail, Unknown].map(passes),
            [true, true, false, false]
        );
    }

    #[test]
    fn the_readme_has_the_same_table() {
        let readme = include_str!("../../README.md");
        for row in TABLE {
            let of = match row.of {
                Of::AtMost(_) => "≤",
                Of::MedianAtLeast => "≥",
            };
            let unit = match row.unit {
                "" => String::new(),
                unit => format!(" {unit}"),
            };
            let line = format!(
                "| {} | {} | {of} {}{unit} | {}{unit} |",
                row.fault, row.what, row.bound, row.fails_beyond
            );
            assert!(readme.contains(&line), "the README lacks: {line}");
        }
    }
}
