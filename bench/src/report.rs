//! What a run found: rows of figures, as a table for people and as JSON for programs.

use std::time::Duration;

use serde::Serialize;

use crate::histogram::Histogram;
use crate::machine::Machine;

/// One number.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

/// What went wrong. Any of it makes the row void: figures of work that was not done say nothing.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
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
    fn list(&self) -> Vec<String> {
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

    fn any(&self) -> bool {
        *self != Faults::default()
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The scenario's name.
    pub(crate) scenario: &'static str,
    /// Its parameters, for people.
    pub(crate) setup: String,
    /// The figures, the most important first.
    pub(crate) figures: Vec<Figure>,
    /// What went wrong.
    pub(crate) faults: Faults,
    /// Whether the figures are worth nothing.
    pub(crate) void: bool,
}

impl Row {
    /// A row without figures.
    pub(crate) fn new(scenario: &'static str, setup: String) -> Row {
        Row {
            scenario,
            setup,
            figures: Vec::new(),
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
        self.figures.push(Figure { name, value, unit });
        self
    }

    /// Adds the percentiles of latencies, in milliseconds.
    pub(crate) fn latencies(&mut self, histogram: &Histogram) -> &mut Row {
        if histogram.len() > 0 {
            let ms = |latency: Duration| latency.as_secs_f64() * 1e3;
            self.figure("p50", ms(histogram.quantile(0.5)), "ms");
            self.figure("p99", ms(histogram.quantile(0.99)), "ms");
            self.figure("max", ms(histogram.max()), "ms");
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

fn shown(figure: &Figure) -> String {
    let value = figure.value;
    let digits = match value.abs() {
        0.0 => 0,
        magnitude if magnitude < 1.0 => 3,
        magnitude if magnitude < 10.0 => 2,
        magnitude if magnitude < 100.0 => 1,
        _ => 0,
    };
    format!("{} {value:.digits$} {}", figure.name, figure.unit)
        .trim_end()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        let check = |value, unit, expect: &str| {
            assert_eq!(
                shown(&Figure {
                    name: "n",
                    value,
                    unit
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
