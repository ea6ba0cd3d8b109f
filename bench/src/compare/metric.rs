//! The lines of the table: which figure of which part, under which name, and what Muster has to reach.

use crate::compare::{Comparison, Contender};
use crate::report::Row;
use crate::server::Kind;
use crate::suite::Part;

/// One line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) part: Part,
    /// The name of a figure in the part's row.
    pub(crate) figure: &'static str,
    /// Its name for people.
    pub(crate) label: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// What one node of Muster must reach, if that is set.
    pub(crate) budget: Option<f64>,
    /// The same for three nodes together.
    pub(crate) budget_three: Option<f64>,
    /// Whether it is worth a plot of bars.
    pub(crate) is_plotted: bool,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// A line without budget, whose figure should be low.
const fn line(part: Part, figure: &'static str, label: &'static str, unit: &'static str) -> Metric {
    Metric {
        part,
        figure,
        label,
        unit,
        better: Better::Lower,
        budget: None,
        budget_three: None,
        is_plotted: false,
    }
}

impl Metric {
    const fn plotted(mut self) -> Metric {
        self.is_plotted = true;
        self
    }

    const fn higher(mut self) -> Metric {
        self.better = Better::Higher;
        self
    }

    const fn budget(mut self, one: f64, three: f64) -> Metric {
        self.budget = Some(one);
        self.budget_three = Some(three);
        self
    }

    const fn budget_of_three(mut self, three: f64) -> Metric {
        self.budget_three = Some(three);
        self
    }
}

/// All lines, in the order of the table.
pub(crate) const METRICS: &[Metric] = &[
    line(Part::IdlePlain, "RSS", "idle session, plain", "KiB")
        .budget(6.0, 6.0)
        .plotted(),
    line(Part::IdlePlain, "PSS", "… PSS", "KiB"),
    line(Part::IdleTls, "RSS", "idle session, TLS", "KiB")
        .budget(16.0, 16.0)
        .plotted(),
    line(Part::IdleTls, "PSS", "… PSS", "KiB"),
    line(
        Part::LoginPlain,
        "CPU",
        "login, roster and presence, plain",
        "CPU ms",
    )
    .budget(0.3, 0.3)
    .plotted(),
    line(
        Part::LoginTls,
        "CPU",
        "login, roster and presence, TLS",
        "CPU ms",
    )
    .plotted(),
    line(Part::Churn, "CPU", "login and logout at 50/s", "CPU ms").plotted(),
    line(Part::Churn, "p99", "… login p99", "ms"),
    line(Part::Churn, "RSS growth", "… growth of RSS", "MiB"),
    line(
        Part::ChatOpen,
        "CPU",
        "chat 500/s, not archived",
        "CPU µs/msg",
    )
    .budget(75.0, 75.0)
    .plotted(),
    line(Part::ChatOpen, "above idle", "… above idle", "CPU µs/msg"),
    line(Part::ChatOpen, "p50", "… delivery p50", "ms"),
    line(Part::ChatOpen, "p99", "… delivery p99", "ms"),
    line(
        Part::ChatClosed,
        "CPU",
        "chat, closed loop, not archived",
        "CPU µs/msg",
    )
    .budget(20.0, 20.0)
    .plotted(),
    line(Part::ChatClosed, "rate", "… messages", "/s").higher(),
    line(
        Part::ChatArchived,
        "CPU",
        "chat 100/s, archived",
        "CPU µs/msg",
    )
    .budget_of_three(500.0)
    .plotted(),
    line(
        Part::ChatArchived,
        "above idle",
        "… above idle",
        "CPU µs/msg",
    ),
    line(Part::ChatArchived, "p50", "… delivery p50", "ms"),
    line(Part::ChatArchived, "p99", "… delivery p99", "ms"),
    line(Part::Room, "CPU", "rooms, 20 msg/s", "CPU µs/delivery")
        .budget(15.0, 20.0)
        .plotted(),
    line(Part::Room, "above idle", "… above idle", "CPU µs/delivery"),
    line(Part::Room, "p99", "… delivery p99", "ms"),
    line(Part::RoomBusy, "CPU", "rooms, 200 msg/s", "CPU µs/delivery").plotted(),
    line(Part::RoomBusy, "p99", "… delivery p99", "ms"),
    line(
        Part::Presence,
        "CPU",
        "presence, 50 changes/s",
        "CPU µs/delivery",
    )
    .budget(15.0, 15.0)
    .plotted(),
    line(
        Part::Presence,
        "above idle",
        "… above idle",
        "CPU µs/delivery",
    ),
    line(
        Part::Durable,
        "acknowledged",
        "acknowledged, closed loop",
        "/s",
    )
    .higher()
    .budget_of_three(15_000.0)
    .plotted(),
    line(Part::Durable, "CPU", "… CPU", "CPU µs/msg"),
    line(Part::DurableOpen, "p50", "acknowledged, 1,000/s, p50", "ms").plotted(),
    line(Part::DurableOpen, "p99", "… p99", "ms"),
    line(Part::Archive, "CPU", "archive page of 50", "CPU ms")
        .budget(0.3, 0.3)
        .plotted(),
    line(Part::Archive, "CPU forwards", "… forwards", "CPU ms"),
    line(Part::Archive, "CPU backwards", "… backwards", "CPU ms"),
    line(Part::Archive, "p99", "… p99", "ms"),
    line(
        Part::Failover,
        "gap p50",
        "a node killed: gap of its rooms, p50",
        "ms",
    )
    .budget_of_three(200.0)
    .plotted(),
    line(Part::Failover, "gap p99", "… p99", "ms").budget_of_three(1000.0),
    line(Part::ChatOpen, "CPU idle", "idle server", "% of a core"),
];

/// What a line says of one server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// It was not measured there.
    None,
    /// It was, but not all of the work was done.
    Void(String),
    Value(f64),
}

impl Metric {
    /// What it says of a server.
    pub(crate) fn cell(&self, contender: &Contender) -> Cell {
        let Some(row) = contender.row(self.part) else {
            return Cell::None;
        };
        self.cell_of(row)
    }

    fn cell_of(&self, row: &Row) -> Cell {
        match row.value(self.figure) {
            _ if row.void => Cell::Void(row.faults.list().join(", ")),
            Some(value) => Cell::Value(value),
            None => Cell::None,
        }
    }

    /// The value of a server of this kind, if it is worth something.
    pub(crate) fn value(&self, comparison: &Comparison, kind: Kind) -> Option<f64> {
        let of_kind = |contender: &&Contender| contender.kind == kind;
        match self.cell(comparison.contenders.iter().find(of_kind)?) {
            Cell::Value(value) => Some(value),
            Cell::None | Cell::Void(_) => None,
        }
    }

    /// One server's value in multiples of another's; `None` where either is missing or the ratio says nothing.
    pub(crate) fn ratio(&self, comparison: &Comparison, of: Kind, to: Kind) -> Option<f64> {
        let (of, to) = (self.value(comparison, of)?, self.value(comparison, to)?);
        (of > 0.0 && to > 0.0).then(|| of / to)
    }

    /// What a server must reach: only Muster must.
    pub(crate) fn budget_of(&self, kind: Kind) -> Option<f64> {
        match kind {
            Kind::Muster1 => self.budget,
            Kind::Muster3 => self.budget_three,
            Kind::Ejabberd | Kind::Prosody => None,
        }
    }

    /// Whether a value is within a budget.
    pub(crate) fn meets(&self, value: f64, budget: f64) -> bool {
        match self.better {
            Better::Lower => value <= budget,
            Better::Higher => value >= budget,
        }
    }

    /// The budget for people: `≤ 15`, or `≤ 15; 20 on 3 nodes`.
    pub(crate) fn budget_shown(&self) -> String {
        let sign = match self.better {
            Better::Lower => "≤",
            Better::Higher => "≥",
        };
        match (self.budget, self.budget_three) {
            (Some(one), Some(three)) if one == three => format!("{sign} {one}"),
            (Some(one), Some(three)) => format!("{sign} {one}; {three} on 3 nodes"),
            (Some(one), None) => format!("{sign} {one}"),
            (None, Some(three)) => format!("{sign} {three} on 3 nodes"),
            (None, None) => String::new(),
        }
    }
}

/// Lines that at least one server has something to say to.
pub(crate) fn lines(comparison: &Comparison) -> Vec<&'static Metric> {
    let says = |metric: &Metric, contender: &Contender| metric.cell(contender) != Cell::None;
    let is_said = |metric: &&Metric| comparison.contenders.iter().any(|one| says(metric, one));
    METRICS.iter().filter(is_said).collect()
}
