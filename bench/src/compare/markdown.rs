//! The comparison as text: a Markdown table with everything that belongs to it, or less of it for a terminal.

use std::fmt::Write;

use anyhow::Context;

use crate::compare::metric::{Cell, Metric, lines};
use crate::compare::{Comparison, Contender};
use crate::report::number;
use crate::server::Kind;

/// Whose ratio to whom is shown.
pub(crate) const RATIOS: [(Kind, Kind, &str); 4] = [
    (Kind::Muster1, Kind::Ejabberd, "1 node ÷ ejabberd"),
    (Kind::Muster1, Kind::Prosody, "1 node ÷ Prosody"),
    (Kind::Muster3, Kind::Ejabberd, "3 nodes ÷ ejabberd"),
    (Kind::Muster3, Kind::Prosody, "3 nodes ÷ Prosody"),
];

/// The ratios whose servers were both there.
pub(crate) fn ratios(comparison: &Comparison) -> Vec<(Kind, Kind, &'static str)> {
    let is_there = |kind| comparison.contenders.iter().any(|one| one.kind == kind);
    let both = |(of, to, _): &(Kind, Kind, &str)| is_there(*of) && is_there(*to);
    RATIOS.into_iter().filter(both).collect()
}

/// A ratio for people.
pub(crate) fn ratio_shown(ratio: Option<f64>) -> String {
    match ratio {
        Some(ratio) => format!("{} ×", number(ratio)),
        None => "–".to_owned(),
    }
}

/// For a document.
pub(crate) fn document(comparison: &Comparison) -> String {
    let mut out = String::new();
    facts(comparison, "- ", &mut out);
    out.push('\n');
    table(comparison, &mut out);
    out.push_str(
        "\nBold: it misses what must be reached. ÷: Muster's figure in multiples of the peer's.\n",
    );
    let voids = voids(comparison);
    if !voids.is_empty() {
        out.push_str("\nVoid, because not all of the work was done, or some of it twice:\n\n");
    }
    for void in voids {
        let _ = writeln!(out, "- {void}");
    }
    out
}

/// A document with other figures between its marks, and all else as it was.
pub(crate) fn replaced(document: &str, figures: &str) -> anyhow::Result<String> {
    const BEGIN: &str = "<!-- figures -->\n";
    const END: &str = "<!-- /figures -->";
    let (before, rest) = document.split_once(BEGIN).context("no <!-- figures -->")?;
    let (_, after) = rest.split_once(END).context("no <!-- /figures -->")?;
    Ok(format!("{before}{BEGIN}\n{figures}\n{END}{after}"))
}

/// For a terminal: the same table, with the facts before it.
pub(crate) fn plain(comparison: &Comparison) -> String {
    let mut out = String::new();
    facts(comparison, "", &mut out);
    out.push('\n');
    let mut text = String::new();
    table(comparison, &mut text);
    out.push_str(&aligned(&text));
    for void in voids(comparison) {
        let _ = writeln!(out, "VOID: {void}");
    }
    out
}

/// What the figures are worth nothing without.
fn facts(comparison: &Comparison, bullet: &str, out: &mut String) {
    let kind = match comparison.is_quick {
        true => "a quick run, which shows that all works and not what it costs",
        false => "one run",
    };
    // Writing into a String does not fail.
    let _ = writeln!(
        out,
        "{bullet}{}, {kind} of {} min; clients over {}, but where a line says otherwise",
        comparison.began,
        comparison.seconds.div_ceil(60),
        comparison.security
    );
    let _ = writeln!(out, "{bullet}{}", comparison.machine.line());
    let _ = writeln!(out, "{bullet}`{}`", comparison.command);
    for contender in &comparison.contenders {
        let _ = writeln!(
            out,
            "{bullet}{}: {}",
            contender.kind.name(),
            contender.description
        );
        if let Some(failure) = &contender.failure {
            let name = contender.kind.name();
            let _ = writeln!(out, "{bullet}{name} did not come to the end: {failure}");
        }
    }
}

/// The lines with a figure for each server, and the ratios. Bold: what misses its budget.
fn table(comparison: &Comparison, out: &mut String) {
    let (contenders, ratios) = (&comparison.contenders, ratios(comparison));
    let names = contenders.iter().map(|one| one.kind.name());
    let heads = names.chain(ratios.iter().map(|(_, _, name)| *name));
    let heads: Vec<&str> = heads.collect();
    let _ = writeln!(out, "| | unit | must reach | {} |", heads.join(" | "));
    let _ = writeln!(out, "|---|---|---|{}", "---:|".repeat(heads.len()));
    for metric in lines(comparison) {
        let cells = contenders.iter().map(|one| cell(metric, one));
        let ratios = ratios
            .iter()
            .map(|(of, to, _)| ratio_shown(metric.ratio(comparison, *of, *to)));
        let cells: Vec<String> = cells.chain(ratios).collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            metric.label,
            metric.unit,
            metric.budget_shown(),
            cells.join(" | ")
        );
    }
}

/// A value; in bold one that misses its budget.
fn cell(metric: &Metric, contender: &Contender) -> String {
    match metric.cell(contender) {
        Cell::None => "–".to_owned(),
        Cell::Void(_) => "void".to_owned(),
        Cell::Value(value) => {
            let budget = metric.budget_of(contender.kind);
            match budget.is_some_and(|budget| !metric.meets(value, budget)) {
                true => format!("**{}**", number(value)),
                false => number(value),
            }
        }
    }
}

/// Each void row with what went wrong.
pub(crate) fn voids(comparison: &Comparison) -> Vec<String> {
    let mut voids = Vec::new();
    for contender in &comparison.contenders {
        for measured in contender
            .measured
            .iter()
            .filter(|measured| measured.row.void)
        {
            let row = &measured.row;
            let faults = row.faults.list().join(", ");
            let name = contender.kind.name();
            voids.push(format!(
                "{name}, {} ({}): {faults}",
                row.scenario, row.setup
            ));
        }
    }
    voids
}

/// A Markdown table with its columns below each other and without its marks.
fn aligned(table: &str) -> String {
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| !line.starts_with("|---"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        for ((column, cell), width) in row.iter().enumerate().zip(&widths) {
            // Words to the left, numbers to the right.
            let _ = match column {
                0..3 => write!(out, "{cell:<width$}  "),
                _ => write!(out, "{cell:>width$}  "),
            };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}
