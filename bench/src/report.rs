//! What a run found: rows of figures, as a table for people and as JSON for programs.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::machine::Machine;

/// One number.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: Cow<'static, str>,
    pub(crate) value: f64,
    pub(crate) unit: Cow<'static, str>,
}

/// A point of the curve of latencies: so many of all were no slower than this.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
pub(crate) struct Percentile {
    /// A share of all, 0 to 1.
    pub(crate) share: f64,
    /// Milliseconds.
    pub(crate) ms: f64,
}

/// The shares at which curves of latencies have points.
const SHARES: [f64; 13] = [
    0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999, 1.0,
];

/// What went wrong. Any of it makes the row void: figures of work that was not done say nothing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Messages that could not be handed to a session, because too many were waiting.
    pub(crate) not_sent: u64,
    /// Deliveries that did not come.
    pub(crate) not_delivered: u64,
    /// Deliveries that came more than once.
    pub(crate) doubled: u64,
    /// What was sent but not acknowledged in time, where acknowledgements are measured.
    pub(crate) not_acknowledged: u64,
    /// Error stanzas received.
    pub(crate) errors: u64,
    /// Sessions that the server ended.
    pub(crate) broken_sessions: u64,
    /// One of the errors.
    pub(crate) first_error: Option<String>,
}

impl Faults {
    /// Each kind with its count, for people.
    pub(crate) fn list(&self) -> Vec<String> {
        let kinds = [
            (self.not_sent, "not sent"),
            (self.not_delivered, "not delivered"),
            (self.doubled, "doubled"),
            (self.not_acknowledged, "not acknowledged"),
            (self.errors, "errors"),
            (self.broken_sessions, "sessions ended"),
        ];
        let some = kinds.iter().filter(|(count, _)| *count > 0);
        some.map(|(count, what)| format!("{count} {what}"))
            .chain(
                self.first_error
                    .iter()
                    .map(|error| format!("first error: {error}")),
            )
            .collect()
    }

    /// Adds another part's.
    pub(crate) fn add(&mut self, other: Faults) {
        self.not_sent += other.not_sent;
        self.not_delivered += other.not_delivered;
        self.doubled += other.doubled;
        self.not_acknowledged += other.not_acknowledged;
        self.errors += other.errors;
        self.broken_sessions += other.broken_sessions;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn any(&self) -> bool {
        *self != Faults::default()
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The scenario's name.
    pub(crate) scenario: Cow<'static, str>,
    /// Its parameters, for people.
    pub(crate) setup: String,
    /// The figures, the most important first.
    pub(crate) figures: Vec<Figure>,
    /// The latencies' curve; empty where none were measured.
    pub(crate) percentiles: Vec<Percentile>,
    /// What went wrong.
    pub(crate) faults: Faults,
    /// Whether the figures are worth nothing.
    pub(crate) void: bool,
}

impl Row {
    /// A row without figures.
    pub(crate) fn new(scenario: &'static str, setup: String) -> Row {
        Row {
            scenario: Cow::Borrowed(scenario),
            setup,
            figures: Vec::new(),
            percentiles: Vec::new(),
            faults: Faults::default(),
            void: false,
        }
    }

    /// Adds a figure.
    pub(crate) fn figure(
        &mut self,
        name: &'static str,
        value: f64,
        unit: &'static str,
    ) -> &mut Row {
        self.figures.push(Figure {
            name: Cow::Borrowed(name),
            value,
            unit: Cow::Borrowed(unit),
        });
        self
    }

    /// A figure's value.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.name == name)?;
        Some(figure.value)
    }

    /// Adds the percentiles of latencies, in milliseconds.
    pub(crate) fn latencies(&mut self, histogram: &Histogram) -> &mut Row {
        if histogram.len() > 0 {
            let ms = |latency: Duration| latency.as_secs_f64() * 1e3;
            self.figure("p50", ms(histogram.quantile(0.5)), "ms");
            self.figure("p99", ms(histogram.quantile(0.99)), "ms");
            self.figure("max", ms(histogram.max()), "ms");
            let point = |share| Percentile {
                share,
                ms: ms(histogram.quantile(share)),
            };
            self.percentiles = SHARES.into_iter().map(point).collect();
        }
        self
    }

    /// Adds what went wrong, and ends the row.
    pub(crate) fn judged(mut self, faults: Faults) -> Row {
        self.void = faults.any();
        self.faults = faults;
        self
    }
}

/// All of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The command that made it.
    pub(crate) command: String,
    /// What the server is, as far as that is known.
    pub(crate) server: String,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut out = format!(
            "machine  {}\nserver   {}\ncommand  {}\n\n",
            self.machine.line(),
            self.server,
            self.command
        );
        let width = |cells: &dyn Fn(&Row) -> usize| self.rows.iter().map(cells).max().unwrap_or(0);
        let (scenario, setup) = (
            width(&|row| row.scenario.len()),
            width(&|row| row.setup.chars().count()),
        );
        for row in &self.rows {
            let figures: Vec<String> = row.figures.iter().map(shown).collect();
            let void = if row.void {
                format!("VOID: {}; ", row.faults.list().join(", "))
            } else {
                String::new()
            };
            out.push_str(&format!(
                "{:scenario$}  {:setup$}  {void}{}\n",
                row.scenario,
                row.setup,
                figures.join(", ")
            ));
        }
        out
    }
}

/// A number with three digits that count.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        magnitude if magnitude < 1.0 => 3,
        magnitude if magnitude < 10.0 => 2,
        magnitude if magnitude < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

fn shown(figure: &Figure) -> String {
    format!("{} {} {}", figure.name, number(figure.value), figure.unit)
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        let check = |value, unit: &'static str, expect: &str| {
            assert_eq!(
                shown(&Figure {
                    name: Cow::Borrowed("n"),
                    value,
                    unit: Cow::Borrowed(unit)
                }),
                expect
            );
        };
        check(0.0, "ms", "n 0 ms");
        check(0.1234, "ms", "n 0.123 ms");
        check(1.234, "µs/msg", "n 1.23 µs/msg");
        check(12.34, "", "n 12.3");
        check(1234.5, "/s", "n 1234 /s");
    }

    #[test]
    fn a_row_with_faults_is_void_and_says_so() {
        let row = || Row::new("chat", "10 msg/s".to_owned());
        assert!(!row().judged(Faults::default()).void);
        let void = row().judged(Faults {
            doubled: 2,
            broken_sessions: 1,
            ..Faults::default()
        });
        assert!(void.void);
        let report = Report {
            machine: Machine::default(),
            command: String::new(),
            server: String::new(),
            rows: vec![void],
        };
        assert!(report.table().contains("VOID: 2 doubled, 1 sessions ended"));
    }
}
