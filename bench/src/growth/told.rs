//! Curves of growth as tables and as a page that needs nothing else.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::compare::html::STYLE;
use crate::compare::plot::{Caption, escaped};
use crate::growth::plot::{Spot, line, thousands};
use crate::growth::{Curve, Found};
use crate::machine::Machine;
use crate::report::number;

/// How curves are told.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct GrowthOutput {
    /// Write a page with plots here
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
    /// Write all that was found here, as JSON
    #[arg(long)]
    pub(crate) save: Option<PathBuf>,
}

/// A cost that is followed.
struct Series {
    label: &'static str,
    unit: &'static str,
    /// Whose figure it is.
    scenario: &'static str,
    figure: &'static str,
}

const fn series(
    label: &'static str,
    unit: &'static str,
    scenario: &'static str,
    figure: &'static str,
) -> Series {
    Series {
        label,
        unit,
        scenario,
        figure,
    }
}

const SERIES: [Series; 13] = [
    series("a message, archived", "CPU µs", "chat", "CPU"),
    series("… above idle", "CPU µs", "chat", "above idle"),
    series("… delivery p50", "ms", "chat", "p50"),
    series("… delivery p99", "ms", "chat", "p99"),
    series("the idle server", "% of a core", "chat", "CPU idle"),
    series("a page of 50", "CPU ms", "archive", "CPU"),
    series("… p99", "ms", "archive", "p99"),
    series("a delivery in a room", "CPU µs", "room", "CPU"),
    series("… above idle", "CPU µs", "room", "above idle"),
    series("… p99", "ms", "room", "p99"),
    series("an idle session", "KiB", "idle", "RSS"),
    series("the server's memory (RSS)", "MiB", "churn", "RSS after"),
    series("the server's memory (PSS)", "MiB", "churn", "PSS after"),
];

/// All that was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Growth {
    pub(crate) machine: Machine,
    /// The command that made it.
    pub(crate) command: String,
    /// What the server is.
    pub(crate) version: String,
    /// When it began, UTC.
    pub(crate) began: String,
    /// How long it took, in seconds.
    pub(crate) seconds: u64,
    /// How clients connected.
    pub(crate) security: String,
    /// Nodes of the pools, but in the curve of nodes.
    pub(crate) nodes: u64,
    pub(crate) curves: Vec<Found>,
}

/// A series of one curve.
struct Told<'a> {
    series: &'a Series,
    spots: Vec<Spot>,
}

impl Told<'_> {
    /// The last value in multiples of the first: 1 is flat.
    fn flatness(&self) -> Option<f64> {
        let ((_, first), (_, last)) = (self.spots.first()?, self.spots.last()?);
        (self.spots.len() > 1 && *first > 0.0).then(|| last / first)
    }

    fn value(&self, at: u64) -> String {
        let spot = self.spots.iter().find(|(spot, _)| *spot == at);
        spot.map_or("–".to_owned(), |(_, value)| number(*value))
    }

    fn flatness_shown(&self) -> String {
        self.flatness()
            .map_or("–".to_owned(), |ratio| format!("{ratio:.2}"))
    }
}

impl Found {
    /// The series that have something to say.
    fn told(&self) -> Vec<Told<'static>> {
        let told = SERIES.iter().map(|series| Told {
            series,
            spots: self.spots(series),
        });
        told.filter(|told| !told.spots.is_empty()).collect()
    }

    /// Void rows say nothing.
    fn spots(&self, series: &Series) -> Vec<Spot> {
        let spot = |point: &crate::growth::Point| {
            let mut rows = point.rows.iter();
            let row = rows.find(|row| row.scenario == series.scenario && !row.void)?;
            Some((point.at, row.value(series.figure)?))
        };
        self.points.iter().filter_map(spot).collect()
    }

    fn voids(&self) -> Vec<String> {
        let mut voids = Vec::new();
        for point in &self.points {
            for row in point.rows.iter().filter(|row| row.void) {
                voids.push(format!(
                    "at {}: {} ({}): {}",
                    thousands(point.at),
                    row.scenario,
                    row.setup,
                    row.faults.list().join(", ")
                ));
            }
        }
        voids.extend(
            self.failure
                .iter()
                .map(|failure| format!("it did not come to its end: {failure}")),
        );
        voids
    }

    fn title(&self) -> String {
        format!("Over {}", self.curve.name())
    }

    fn markdown(&self, out: &mut String) {
        // Writing into a String does not fail.
        let _ = write!(out, "### {}\n\n| | unit |", self.title());
        for point in &self.points {
            let _ = write!(out, " {} |", thousands(point.at));
        }
        out.push_str(" last ÷ first |\n|---|---|");
        for _ in 0..=self.points.len() {
            out.push_str("---:|");
        }
        out.push('\n');
        for told in self.told() {
            let _ = write!(out, "| {} | {} |", told.series.label, told.series.unit);
            for point in &self.points {
                let _ = write!(out, " {} |", told.value(point.at));
            }
            let _ = writeln!(out, " {} |", told.flatness_shown());
        }
        for void in self.voids() {
            let _ = writeln!(out, "\nVoid: {void}");
        }
        out.push('\n');
    }

    fn section(&self, out: &mut String) {
        let _ = writeln!(out, "<h2>{}</h2>", escaped(&self.title()));
        for void in self.voids() {
            let _ = writeln!(out, "<p class=\"void\">Void: {}</p>", escaped(&void));
        }
        for (at, told) in self.told().iter().enumerate() {
            self.plot(told, at, out);
        }
    }

    /// A plot with its table beside it.
    fn plot(&self, told: &Told<'_>, at: usize, out: &mut String) {
        let Series { label, unit, .. } = told.series;
        let said: Vec<String> = told
            .spots
            .iter()
            .map(|(at, value)| format!("{}: {}", thousands(*at), number(*value)))
            .collect();
        let id = format!("{:?}-{at}", self.curve).to_lowercase();
        let caption = Caption {
            id: &id,
            title: &format!("{label} ({unit})"),
            description: &format!(
                "{}. {}. Last in multiples of first: {}",
                self.title(),
                said.join("; "),
                told.flatness_shown()
            ),
        };
        let plot = line(&caption, &told.spots, unit, self.curve == Curve::Churn);
        let _ = write!(
            out,
            "<section>\n<h3>{}</h3>\n<div class=\"pair\">\n<figure>{plot}</figure>\n<div class=\"wide\"><table>\n<thead><tr>\
             <th scope=\"col\">{}</th><th scope=\"col\" class=\"n\">{}</th></tr></thead>\n<tbody>\n",
            escaped(caption.title),
            escaped(self.curve.name()),
            escaped(unit)
        );
        for (at, value) in &told.spots {
            let _ = writeln!(
                out,
                "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td></tr>",
                thousands(*at),
                number(*value)
            );
        }
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">last ÷ first</th><td class=\"n\">{}</td></tr>\n</tbody></table></div>\n</div>\n</section>",
            told.flatness_shown()
        );
    }
}

impl Growth {
    /// Writes the files that are asked for, and gives what is to be printed.
    pub(crate) fn shown(&self, json: bool, output: &GrowthOutput) -> anyhow::Result<String> {
        let text = format!("{}\n", serde_json::to_string_pretty(self)?);
        for (file, content) in [(&output.save, &text), (&output.html, &self.page())] {
            if let Some(file) = file {
                std::fs::write(file, content).with_context(|| format!("{}", file.display()))?;
            }
        }
        Ok(match json {
            true => text,
            false => self.markdown(),
        })
    }

    fn facts(&self) -> [(&'static str, String); 4] {
        let pools = format!(
            "{}; pools of {} node(s), but where nodes are counted; clients over {}",
            self.version, self.nodes, self.security
        );
        let run = format!("{}, {} minutes", self.began, self.seconds.div_ceil(60));
        [
            ("Machine", self.machine.line()),
            ("Server", pools),
            ("Run", run),
            ("Command", self.command.clone()),
        ]
    }

    /// Tables for a document, and for people as they are.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        for (name, value) in self.facts() {
            let _ = writeln!(out, "- {name}: {value}");
        }
        out.push('\n');
        for found in &self.curves {
            found.markdown(&mut out);
        }
        out
    }

    /// The page.
    pub(crate) fn page(&self) -> String {
        let title = "What becomes of Muster's costs where there is more";
        let mut out = String::new();
        let _ = write!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n\
             <style>{STYLE}circle.c{{fill:var(--c)}}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n<dl>\n"
        );
        for (name, value) in self.facts() {
            let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escaped(&value));
        }
        out.push_str("</dl>\n");
        for found in &self.curves {
            found.section(&mut out);
        }
        out.push_str("</main>\n</body>\n</html>\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growth::Point;
    use crate::report::{Faults, Row};

    fn point(at: u64, cpu: f64, lost: u64) -> Point {
        let mut chat = Row::new("chat", "a <setup>".to_owned());
        chat.figure("CPU", cpu, "µs/msg");
        let mut archive = Row::new("archive", "pages".to_owned());
        archive.figure("CPU", 0.2, "ms/page");
        let faults = Faults {
            not_delivered: lost,
            ..Faults::default()
        };
        let rows = vec![chat.judged(Faults::default()), archive.judged(faults)];
        Point { at, rows }
    }

    fn growth() -> Growth {
        Growth {
            machine: Machine::default(),
            command: "bench <growth>".to_owned(),
            version: "muster 0".to_owned(),
            began: "2026-01-01 00:00 UTC".to_owned(),
            seconds: 61,
            security: "plain".to_owned(),
            nodes: 1,
            curves: vec![Found {
                curve: Curve::Sessions,
                points: vec![point(1_000, 100.0, 0), point(10_000, 150.0, 2)],
                failure: Some("no <more>".to_owned()),
            }],
        }
    }

    #[test]
    fn curves_as_tables() {
        let text = growth().markdown();
        for expect in [
            "### Over sessions\n\n| | unit | 1,000 | 10,000 | last ÷ first |\n|---|---|---:|---:|---:|\n",
            "| a message, archived | CPU µs | 100 | 150 | 1.50 |\n",
            // A void row has no figure, and one point is no curve.
            "| a page of 50 | CPU ms | 0.200 | – | – |\n",
            "Void: at 10,000: archive (pages): 2 not delivered\n",
            "Void: it did not come to its end: no <more>\n",
        ] {
            assert!(text.contains(expect), "{expect} is not in {text}");
        }
    }

    #[test]
    fn curves_as_a_page() {
        let page = growth().page();
        let count = |word| page.matches(word).count();
        assert_eq!(count("<svg"), 2);
        // For those who do not see it, each plot has a title, a description and a table.
        for word in ["role=\"img\"", "<title id=", "<desc id=", "<table>"] {
            assert_eq!(count(word), 2, "{word}");
        }
        assert!(page.contains("no &lt;more&gt;") && !page.contains("<growth>"));
        // Whole by itself: nothing is loaded from anywhere.
        for word in ["http://", "https://", "<script", "<link", "url(", "src="] {
            assert!(!page.contains(word), "{word}");
        }
    }

    #[test]
    fn what_is_saved_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let output = GrowthOutput {
            html: Some(dir.path().join("a.html")),
            save: Some(dir.path().join("a.json")),
        };
        let shown = growth().shown(false, &output).unwrap();
        let text = std::fs::read_to_string(dir.path().join("a.json")).unwrap();
        let again: Growth = serde_json::from_str(&text).unwrap();
        assert_eq!(again.markdown(), shown);
        assert!(dir.path().join("a.html").is_file());
    }
}
