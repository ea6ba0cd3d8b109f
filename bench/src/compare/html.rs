//! The comparison as one page that needs nothing else: plots, tables beside them, and all that the figures are worth nothing
//! without. Light or dark as the reader's system is; readable without seeing it and without its colours.

use std::fmt::Write;

use crate::compare::markdown::{ratio_shown, ratios, voids};
use crate::compare::metric::{Cell, Metric, lines};
use crate::compare::plot::{Bar, Caption, Curve, bars, curves, escaped};
use crate::compare::{Comparison, Contender};
use crate::report::number;
use crate::server::Kind;
use crate::suite::Part;

/// The parts whose latencies are drawn, and what those are.
const LATENCIES: &[(Part, &str)] = &[
    (Part::LoginTls, "Login with TLS, roster and presence"),
    (Part::Churn, "Login at 50 a second"),
    (
        Part::ChatOpen,
        "Delivery of chat at 500 messages a second, not archived",
    ),
    (
        Part::ChatArchived,
        "Delivery of chat at 100 messages a second, archived",
    ),
    (Part::Room, "Delivery in rooms at 20 messages a second"),
    (Part::RoomBusy, "Delivery in rooms at 200 messages a second"),
    (
        Part::Presence,
        "Notification of presence at 50 changes a second",
    ),
    (
        Part::DurableOpen,
        "Acknowledgement at 1,000 messages a second",
    ),
    (Part::Archive, "A page of the archive"),
    (Part::Failover, "Delivery in rooms while nodes are killed"),
];

/// The look of pages.
pub(crate) const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#fff;--ink:#1c2430;--soft:#5b6675;--line:#d5dbe3;--a:#b4513a;--b:#7a6a1e;\
--c:#1f6fb2;--d:#10857a;--budget:#b3003c}\
@media(prefers-color-scheme:dark){:root{--ground:#12161c;--ink:#e6ebf2;--soft:#9aa7b8;--line:#313a47;--a:#ef8f76;\
--b:#d3bd5a;--c:#6db6f2;--d:#4fd0c0;--budget:#ff6d93}}\
body{background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:0 auto;\
padding:1rem}\
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.5rem}h3{font-size:1rem;margin:0 0 .5rem}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}\
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:left}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
.miss{font-weight:bold}.void{color:var(--budget)}\
.pair{display:flex;flex-wrap:wrap;gap:1rem 2rem;align-items:flex-start;margin:1.5rem 0}\
.pair figure{flex:2 1 28rem;margin:0;min-width:0}.pair .wide{flex:1 1 16rem}\
svg{width:100%;height:auto;display:block}svg text{fill:var(--ink);font:13px system-ui,sans-serif}\
svg .note{fill:var(--soft);font-size:11px}svg .name{font-size:12px}svg .grid{stroke:var(--line)}\
svg .budget{stroke:var(--budget);stroke-width:2;stroke-dasharray:5 3}\
svg polyline{fill:none;stroke-width:2.5;stroke-linejoin:round}\
rect.a{fill:var(--a)}rect.b{fill:var(--b)}rect.c{fill:var(--c)}rect.d{fill:var(--d)}\
polyline.a{stroke:var(--a);stroke-dasharray:2 3}polyline.b{stroke:var(--b);stroke-dasharray:8 4}\
polyline.c{stroke:var(--c)}polyline.d{stroke:var(--d);stroke-dasharray:12 3 2 3}\
code{font-size:.9em;overflow-wrap:anywhere}\
@media print{body{max-width:none}}";

/// The colour of a server.
fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Ejabberd => "a",
        Kind::Prosody => "b",
        Kind::Muster1 => "c",
        Kind::Muster3 => "d",
    }
}

/// The page.
pub(crate) fn page(comparison: &Comparison) -> String {
    let mut out = String::new();
    let title = "Muster beside its peers";
    // Writing into a String does not fail.
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    );
    facts(comparison, &mut out);
    out.push_str("<h2>All figures</h2>\n");
    table(comparison, &mut out);
    void_rows(comparison, &mut out);
    out.push_str("<h2>What a unit costs</h2>\n");
    for (at, metric) in lines(comparison).into_iter().enumerate() {
        if metric.is_plotted {
            bar_plot(comparison, metric, at, &mut out);
        }
    }
    out.push_str(
        "<h2>How long it takes</h2>\n<p>Counted from when a thing was due, not from when it was sent. A point says: so many \
         of all took no longer. Both scales are logarithmic.</p>\n",
    );
    for (at, (part, name)) in LATENCIES.iter().enumerate() {
        curve_plot(comparison, *part, name, at, &mut out);
    }
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn facts(comparison: &Comparison, out: &mut String) {
    let quick = match comparison.is_quick {
        true => " <strong>A quick run: it shows that all works, not what it costs.</strong>",
        false => "",
    };
    let _ = writeln!(
        out,
        "<p>One run of {} minutes, begun {}. One server at a time, with the same load in the same order; clients over {}, but \
         where a line says otherwise.{quick}</p>\n<dl>\n<dt>Machine</dt><dd>{}</dd>\n<dt>Command</dt><dd><code>{}</code></dd>",
        comparison.seconds.div_ceil(60),
        escaped(&comparison.began),
        escaped(&comparison.security),
        escaped(&comparison.machine.line()),
        escaped(&comparison.command),
    );
    for contender in &comparison.contenders {
        let (name, about) = (contender.kind.name(), escaped(&contender.description));
        let failure = contender.failure.as_deref().map(escaped);
        let failure = failure.map_or(String::new(), |failure| {
            format!(" <strong class=\"void\">It did not come to the end: {failure}</strong>")
        });
        let _ = writeln!(out, "<dt>{name}</dt><dd>{about}{failure}</dd>");
    }
    out.push_str("</dl>\n");
}

fn table(comparison: &Comparison, out: &mut String) {
    let (contenders, ratios) = (&comparison.contenders, ratios(comparison));
    let names = contenders.iter().map(|one| one.kind.name());
    out.push_str(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"All figures\"><table>\n<thead><tr>\
         <th scope=\"col\">What</th><th scope=\"col\">Unit</th><th scope=\"col\">Must reach</th>",
    );
    for name in names.chain(ratios.iter().map(|(_, _, name)| *name)) {
        let _ = write!(out, "<th scope=\"col\" class=\"n\">{name}</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for metric in lines(comparison) {
        let (label, unit, budget) = (metric.label, metric.unit, metric.budget_shown());
        let _ = write!(
            out,
            "<tr><th scope=\"row\">{label}</th><td>{unit}</td><td>{budget}</td>"
        );
        for contender in contenders {
            out.push_str(&cell(metric, contender));
        }
        for (of, to, _) in &ratios {
            let ratio = ratio_shown(metric.ratio(comparison, *of, *to));
            let _ = write!(out, "<td class=\"n\">{ratio}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n<p>In bold: what misses what must be reached. ÷: in multiples of the peer.</p>\n");
}

fn cell(metric: &Metric, contender: &Contender) -> String {
    match metric.cell(contender) {
        Cell::None => "<td class=\"n\">–</td>".to_owned(),
        Cell::Void(why) => {
            format!("<td class=\"n void\" title=\"{}\">void</td>", escaped(&why))
        }
        Cell::Value(value) => {
            let budget = metric.budget_of(contender.kind);
            match budget.is_some_and(|budget| !metric.meets(value, budget)) {
                true => format!("<td class=\"n miss\">{}</td>", number(value)),
                false => format!("<td class=\"n\">{}</td>", number(value)),
            }
        }
    }
}

fn void_rows(comparison: &Comparison, out: &mut String) {
    let voids = voids(comparison);
    if voids.is_empty() {
        out.push_str("<p>No row is void: nothing was lost, doubled or refused.</p>\n");
        return;
    }
    out.push_str("<p>Void, because not all of the work was done, or some of it twice:</p>\n<ul>\n");
    for void in voids {
        let _ = writeln!(out, "<li class=\"void\">{}</li>", escaped(&void));
    }
    out.push_str("</ul>\n");
}

/// A plot with its table beside it.
fn pair(title: &str, plot: &str, head: &str, rows: &[(String, String)], out: &mut String) {
    let _ = write!(
        out,
        "<section>\n<h3>{}</h3>\n<div class=\"pair\">\n<figure>{plot}</figure>\n<div class=\"wide\"><table>\n<thead><tr>\
         <th scope=\"col\">Server</th><th scope=\"col\" class=\"n\">{}</th></tr></thead>\n<tbody>\n",
        escaped(title),
        escaped(head)
    );
    for (name, value) in rows {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td></tr>",
            escaped(name),
            escaped(value)
        );
    }
    out.push_str("</tbody></table></div>\n</div>\n</section>\n");
}

fn bar_plot(comparison: &Comparison, metric: &Metric, at: usize, out: &mut String) {
    let measured = comparison.contenders.iter().filter_map(|contender| {
        let value = match metric.cell(contender) {
            Cell::None => return None,
            Cell::Void(_) => None,
            Cell::Value(value) => Some(value),
        };
        Some(Bar {
            name: contender.kind.name(),
            class: class(contender.kind),
            value,
        })
    });
    let measured: Vec<Bar<'_>> = measured.collect();
    let shown = |bar: &Bar<'_>| bar.value.map_or("void".to_owned(), number);
    let rows: Vec<(String, String)> = measured
        .iter()
        .map(|bar| (bar.name.to_owned(), shown(bar)))
        .collect();
    let title = format!(
        "{} ({})",
        metric.label.trim_start_matches("… "),
        metric.unit
    );
    let said: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let budget = metric.budget.or(metric.budget_three);
    let mut description = said.join("; ");
    if budget.is_some() {
        let _ = write!(description, ". Muster must reach {}", metric.budget_shown());
    }
    let caption = Caption {
        id: &format!("bars-{at}"),
        title: &title,
        description: &description,
    };
    pair(
        &title,
        &bars(&caption, &measured, budget),
        metric.unit,
        &rows,
        out,
    );
}

fn curve_plot(comparison: &Comparison, part: Part, name: &str, at: usize, out: &mut String) {
    let measured = comparison.contenders.iter().filter_map(|contender| {
        let row = contender.row(part).filter(|row| !row.void)?;
        (!row.percentiles.is_empty()).then(|| Curve {
            name: contender.kind.name(),
            class: class(contender.kind),
            points: &row.percentiles,
        })
    });
    let measured: Vec<Curve<'_>> = measured.collect();
    if measured.is_empty() {
        return;
    }
    let at_share = |curve: &Curve<'_>, share: f64| {
        let point = curve.points.iter().find(|point| point.share >= share);
        point.map_or("–".to_owned(), |point| number(point.ms))
    };
    let rows: Vec<(String, String)> = measured
        .iter()
        .map(|curve| {
            let shown = [0.5, 0.99, 1.0].map(|share| at_share(curve, share));
            (curve.name.to_owned(), shown.join(" / "))
        })
        .collect();
    let said: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let caption = Caption {
        id: &format!("curve-{at}"),
        title: name,
        description: &format!("Milliseconds, median / 99 % / maximum. {}", said.join("; ")),
    };
    let plot = curves(&caption, &measured);
    pair(name, &plot, "p50 / p99 / max, ms", &rows, out);
}
