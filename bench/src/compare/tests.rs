//! The texts of a comparison that never was.

use std::borrow::Cow;

use expect_test::expect_file;

use super::*;
use crate::disk::Disk;
use crate::report::{Faults, Figure, Percentile};

fn row(scenario: &'static str, figures: &[(&'static str, f64)], latencies: &[f64]) -> Row {
    let mut row = Row::new(scenario, "a setup".to_owned());
    for (name, value) in figures {
        row.figures.push(Figure {
            name: Cow::Borrowed(name),
            value: *value,
            unit: Cow::Borrowed("µs"),
        });
    }
    let shares = [0.0, 0.5, 0.99, 1.0];
    let points = shares.into_iter().zip(latencies);
    row.percentiles = points
        .map(|(share, ms)| Percentile { share, ms: *ms })
        .collect();
    row.judged(Faults::default())
}

fn contender(kind: Kind, factor: f64) -> Contender {
    let chat = [
        ("CPU", 50.0 * factor),
        ("above idle", 40.0 * factor),
        ("p50", factor),
        ("p99", 3.0 * factor),
        ("CPU idle", 0.0),
    ];
    let latencies = [0.2, 1.0, 3.0, 9.0].map(|ms| ms * factor);
    let archive = row("archive", &[("CPU", 0.25 * factor)], &latencies);
    Contender {
        kind,
        description: format!("<{}> 1.0", kind.name()),
        measured: vec![
            Measured {
                part: Part::ChatOpen,
                row: row("chat", &chat, &latencies),
            },
            Measured {
                part: Part::Archive,
                row: archive,
            },
        ],
        failure: None,
    }
}

/// One void row, one server that failed, and figures on both sides of their budgets.
fn comparison() -> Comparison {
    let mut prosody = contender(Kind::Prosody, 4.0);
    if let Some(archive) = prosody.measured.get_mut(1) {
        archive.row = archive.row.clone().judged(Faults {
            not_delivered: 3,
            ..Faults::default()
        });
    }
    let mut three = contender(Kind::Muster3, 2.0);
    three.measured.truncate(1);
    three.failure = Some("it & its disk".to_owned());
    Comparison {
        machine: Machine {
            processor: "a CPU".to_owned(),
            cores: 2,
            memory_mib: 1024,
            kernel: "6.0".to_owned(),
            system: "Debian".to_owned(),
            load_before: 0.1,
            disk: Some(Disk {
                cpu_micros: 140.0,
                p50_micros: 170.0,
            }),
        },
        command: "muster-bench compare".to_owned(),
        began: "2026-11-30 12:00 UTC".to_owned(),
        seconds: 61,
        is_quick: false,
        security: "tls".to_owned(),
        scale: Scale::QUICK,
        contenders: vec![
            contender(Kind::Ejabberd, 3.0),
            prosody,
            contender(Kind::Muster1, 1.0),
            three,
        ],
    }
}

#[test]
fn as_markdown() {
    expect_file!["tests/table.md"].assert_eq(&markdown::document(&comparison()));
}

#[test]
fn for_a_terminal() {
    expect_file!["tests/terminal.txt"].assert_eq(&markdown::plain(&comparison()));
}

#[test]
fn as_a_page() {
    let page = html::page(&comparison());
    expect_file!["tests/page.html"].assert_eq(&page);
    // Whole by itself: nothing is loaded from anywhere.
    for word in [
        "http://", "https://", "<script", "<link", "url(", "@import", "src=",
    ] {
        assert!(!page.contains(word), "{word}");
    }
    // For those who do not see it, each plot has a title, a description and a table.
    let count = |word| page.matches(word).count();
    let plots = count("<svg");
    assert!(plots > 0);
    for word in ["role=\"img\"", "<title id=", "<desc id="] {
        assert_eq!(count(word), plots, "{word}");
    }
    assert_eq!(count("<table>"), plots + 1);
}

#[test]
fn an_empty_comparison_has_its_texts_too() {
    let mut empty = comparison();
    empty.contenders.clear();
    assert!(html::page(&empty).ends_with("</html>\n"));
    assert!(markdown::document(&empty).contains("| | unit | must reach |"));
    assert!(!markdown::plain(&empty).is_empty());
}

#[test]
fn what_is_saved_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.json");
    let output = OutputArgs {
        markdown: true,
        html: Some(dir.path().join("a.html")),
        save: Some(file.clone()),
        update: None,
    };
    let shown = comparison().shown(false, &output).unwrap();
    let again = Comparison::read(&file).unwrap();
    assert_eq!(again.shown(false, &output).unwrap(), shown);
    assert!(dir.path().join("a.html").is_file());
    std::fs::write(&file, "{}").unwrap();
    assert!(Comparison::read(&file).is_err());
}

#[test]
fn every_line_names_a_figure_once() {
    let mut seen = std::collections::BTreeSet::new();
    for metric in metric::METRICS {
        assert!(seen.insert((metric.part, metric.figure)), "{metric:?}");
    }
}

#[test]
fn figures_in_a_document_are_replaced() {
    let check = |document: &str, expect: Option<&str>| {
        let found = markdown::replaced(document, "new\n").ok();
        assert_eq!(found.as_deref(), expect, "{document}");
    };
    let good = "a\n<!-- figures -->\nold\n<!-- /figures -->\nb\n";
    let new = "a\n<!-- figures -->\n\nnew\n\n<!-- /figures -->\nb\n";
    check(good, Some(new));
    check(new, Some(new));
    check("a\n<!-- figures -->\nold\n", None);
    check("a\n<!-- /figures -->\n<!-- figures -->\n", None);
    check("", None);
}
