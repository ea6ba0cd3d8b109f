//! One cost over growing numbers, as SVG inside a page. The cost's scale begins at nothing, so that what looks flat is flat.

use std::fmt::Write;

use crate::compare::plot::{Caption, WIDTH, escaped, open};
use crate::report::number;

const HEIGHT: f64 = 260.0;
const TOP: f64 = 16.0;
const FLOOR: f64 = 216.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 40.0;

/// A point: how many, and what it costs.
pub(crate) type Spot = (u64, f64);

/// The drawing. Numbers stand by powers of ten, time as it goes.
pub(crate) fn line(caption: &Caption<'_>, spots: &[Spot], unit: &str, is_time: bool) -> String {
    let place = |at: u64| match is_time {
        true => at as f64,
        false => (at.max(1) as f64).log10(),
    };
    let all = || spots.iter().map(|(at, _)| place(*at));
    let (least, most) = (
        all().fold(f64::INFINITY, f64::min),
        all().fold(0.0, f64::max),
    );
    let span = if most > least { most - least } else { 1.0 };
    let least = if least.is_finite() { least } else { 0.0 };
    let x = |at: u64| LEFT + (place(at) - least) / span * (WIDTH - LEFT - RIGHT);
    let greatest = spots.iter().map(|(_, cost)| *cost).fold(0.0, f64::max);
    let top = if greatest > 0.0 { greatest * 1.2 } else { 1.0 };
    let y = |cost: f64| FLOOR - cost.max(0.0) / top * (FLOOR - TOP);
    let mut out = String::new();
    open(caption, HEIGHT, &mut out);
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        // Writing into a String does not fail.
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{0:.1}\" x2=\"{1:.1}\" y2=\"{0:.1}\"/>\
             <text class=\"note\" x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{4}</text>",
            y(top * share),
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(top * share) + 4.0,
            number(top * share)
        );
    }
    let points = spots
        .iter()
        .map(|(at, cost)| format!("{:.1},{:.1}", x(*at), y(*cost)));
    let points: Vec<String> = points.collect();
    let _ = writeln!(
        out,
        "<polyline class=\"c\" points=\"{}\"/>",
        points.join(" ")
    );
    for (at, cost) in spots {
        let _ = writeln!(
            out,
            "<circle class=\"c\" cx=\"{0:.1}\" cy=\"{1:.1}\" r=\"4\"/>\
             <text class=\"value\" x=\"{0:.1}\" y=\"{2:.1}\" text-anchor=\"middle\">{3}</text>\
             <text class=\"note\" x=\"{0:.1}\" y=\"{4:.1}\" text-anchor=\"middle\">{5}</text>",
            x(*at),
            y(*cost),
            y(*cost) - 9.0,
            number(*cost),
            FLOOR + 18.0,
            thousands(*at)
        );
    }
    let _ = writeln!(
        out,
        "<text class=\"note\" x=\"{LEFT}\" y=\"{:.1}\">{}</text></svg>",
        HEIGHT - 8.0,
        escaped(unit)
    );
    out
}

/// `10,000`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_easily() {
        let check = |number, expect: &str| assert_eq!(thousands(number), expect);
        check(0, "0");
        check(999, "999");
        check(1_000, "1,000");
        check(10_000_000, "10,000,000");
    }

    #[test]
    fn a_flat_cost_is_a_flat_line() {
        let caption = Caption {
            id: "a",
            title: "a",
            description: "a",
        };
        let drawn = line(&caption, &[(1, 5.0), (10, 5.0), (100, 5.0)], "ms", false);
        let points = drawn
            .split("points=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        let points: Vec<&str> = points.unwrap().split(' ').collect();
        let levels: Vec<&str> = points
            .iter()
            .filter_map(|point| point.split(',').nth(1))
            .collect();
        assert_eq!(levels.len(), 3);
        assert!(levels.iter().all(|level| *level == levels[0]), "{drawn}");
        assert!(
            points[0].starts_with("70.0,") && points[2].starts_with("600.0,"),
            "{drawn}"
        );
        // Nothing to draw, and one point, are no trouble.
        for spots in [&[][..], &[(0, 0.0)]] {
            assert!(!line(&caption, spots, "ms", true).contains("NaN"));
        }
    }
}
