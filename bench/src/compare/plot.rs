//! Plots as SVG inside a page: bars of one figure, and curves of latencies. Colours are the page's CSS variables, so that one
//! drawing serves light and dark. Each has a title and a description; its figures stand in a table beside it as well.

use std::fmt::Write;

use crate::report::{Percentile, number};

/// Sides in the SVG's own units; pages scale them.
pub(crate) const WIDTH: f64 = 640.0;
const LEFT: f64 = 140.0;
const RIGHT: f64 = 108.0;

/// Text into XML.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// One bar.
pub(crate) struct Bar<'a> {
    pub(crate) name: &'a str,
    /// The CSS class of its colour.
    pub(crate) class: &'a str,
    /// `None`: void, which is said instead.
    pub(crate) value: Option<f64>,
}

/// What a plot is called, by sight and by ear. `id` is unique in its page.
pub(crate) struct Caption<'a> {
    pub(crate) id: &'a str,
    pub(crate) title: &'a str,
    pub(crate) description: &'a str,
}

/// Begins a drawing.
pub(crate) fn open(caption: &Caption<'_>, height: f64, out: &mut String) {
    let Caption {
        id,
        title,
        description,
    } = caption;
    // Writing into a String does not fail.
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"{id}-title {id}-desc\">\
         <title id=\"{id}-title\">{}</title><desc id=\"{id}-desc\">{}</desc>",
        escaped(title),
        escaped(description)
    );
}

/// Bars below each other, with a line at the budget if there is one.
pub(crate) fn bars(caption: &Caption<'_>, bars: &[Bar<'_>], budget: Option<f64>) -> String {
    const STEP: f64 = 30.0;
    const THICK: f64 = 18.0;
    const TOP: f64 = 8.0;
    let height = TOP + STEP * bars.len() as f64 + 22.0;
    let values = bars.iter().filter_map(|bar| bar.value);
    let greatest = values.chain(budget).fold(0.0, f64::max);
    let scale = match greatest > 0.0 {
        true => (WIDTH - LEFT - RIGHT) / greatest,
        false => 0.0,
    };
    let mut out = String::new();
    open(caption, height, &mut out);
    for (at, bar) in bars.iter().enumerate() {
        let top = TOP + STEP * at as f64;
        let middle = top + THICK / 2.0 + 5.0;
        let (value, length) = match bar.value {
            Some(value) => (number(value), (value.max(0.0) * scale).max(1.0)),
            None => ("void".to_owned(), 1.0),
        };
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{}\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{THICK}\" rx=\"2\"/>\
             <text class=\"value\" x=\"{:.1}\" y=\"{middle:.1}\">{value}</text>",
            LEFT - 8.0,
            escaped(bar.name),
            bar.class,
            LEFT + length + 6.0,
        );
    }
    if let Some(budget) = budget {
        let (x, bottom) = (LEFT + budget * scale, TOP + STEP * bars.len() as f64);
        // Beside the line, on the side where there is room.
        let (anchor, label) = match x > WIDTH / 2.0 {
            true => ("end", x - 4.0),
            false => ("start", x + 4.0),
        };
        let _ = writeln!(
            out,
            "<line class=\"budget\" x1=\"{x:.1}\" y1=\"2\" x2=\"{x:.1}\" y2=\"{:.1}\"/>\
             <text class=\"note\" x=\"{label:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">must reach {budget}</text>",
            bottom + 4.0,
            bottom + 14.0,
        );
    }
    out.push_str("</svg>\n");
    out
}

/// One server's latencies.
pub(crate) struct Curve<'a> {
    pub(crate) name: &'a str,
    /// The CSS class of its colour and dashes.
    pub(crate) class: &'a str,
    pub(crate) points: &'a [Percentile],
}

/// Where a share stands: as far from 100 % as it has nines.
fn nines(share: f64) -> f64 {
    -(1.0 - share).max(1e-4).log10()
}

/// The place of latencies in a plot: both scales logarithmic.
struct Scales {
    /// Powers of ten at the bottom and the top.
    least: f64,
    most: f64,
}

impl Scales {
    const HEIGHT: f64 = 300.0;
    const TOP: f64 = 12.0;
    const FLOOR: f64 = 264.0;
    const SIDE: f64 = 64.0;

    /// Wide enough for all of these.
    fn around(curves: &[Curve<'_>]) -> Scales {
        let points = || curves.iter().flat_map(|curve| curve.points);
        let all = || points().map(|point| point.ms.max(1e-3));
        let least = all().fold(f64::INFINITY, f64::min).log10().floor();
        let most = all().fold(1e-3, f64::max).log10().ceil();
        match least.is_finite() {
            true => Scales {
                least,
                most: most.max(least + 1.0),
            },
            false => Scales {
                least: 0.0,
                most: 1.0,
            },
        }
    }

    fn x(&self, share: f64) -> f64 {
        Self::SIDE + nines(share) / 4.0 * (WIDTH - Self::SIDE - RIGHT)
    }

    fn y(&self, ms: f64) -> f64 {
        let up = (ms.max(1e-3).log10() - self.least) / (self.most - self.least);
        Self::FLOOR - up * (Self::FLOOR - Self::TOP)
    }

    /// Where a curve ends.
    fn end(&self, curve: &Curve<'_>) -> f64 {
        let last = curve.points.last();
        last.map_or(Self::FLOOR, |point| self.y(point.ms))
    }

    fn grid(&self, out: &mut String) {
        const SHARES: [(f64, &str); 6] = [
            (0.0, "0 %"),
            (0.5, "50 %"),
            (0.9, "90 %"),
            (0.99, "99 %"),
            (0.999, "99.9 %"),
            (1.0, "max"),
        ];
        let (side, top, floor) = (Self::SIDE, Self::TOP, Self::FLOOR);
        let mut power = self.least;
        while power <= self.most {
            let ms = 10f64.powf(power);
            let level = self.y(ms);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{side}\" y1=\"{level:.1}\" x2=\"{:.1}\" y2=\"{level:.1}\"/>\
                 <text class=\"note\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} ms</text>",
                WIDTH - RIGHT,
                side - 6.0,
                level + 4.0,
                power_of_ten(power)
            );
            power += 1.0;
        }
        for (share, name) in SHARES {
            let at = self.x(share);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{floor:.1}\"/>\
                 <text class=\"note\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
                floor + 16.0
            );
        }
    }
}

/// `0.001` to `100000`, without what floating point makes of it.
fn power_of_ten(power: f64) -> String {
    let decimals = (-power).max(0.0) as usize;
    format!("{:.decimals$}", 10f64.powf(power))
}

/// Curves of latencies over percentiles.
pub(crate) fn curves(caption: &Caption<'_>, curves: &[Curve<'_>]) -> String {
    const LINE: f64 = 15.0;
    let scales = Scales::around(curves);
    let mut out = String::new();
    open(caption, Scales::HEIGHT, &mut out);
    scales.grid(&mut out);
    // Names stand at the curves' ends, pushed apart where they would lie on each other.
    let mut order: Vec<&Curve<'_>> = curves.iter().collect();
    order.sort_by(|one, other| scales.end(one).total_cmp(&scales.end(other)));
    let mut free = Scales::TOP;
    for curve in order {
        let point =
            |point: &Percentile| format!("{:.1},{:.1}", scales.x(point.share), scales.y(point.ms));
        let points: Vec<String> = curve.points.iter().map(point).collect();
        let level = scales.end(curve).max(free);
        free = level + LINE;
        let _ = writeln!(
            out,
            "<polyline class=\"{}\" points=\"{}\"/><text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            curve.class,
            points.join(" "),
            WIDTH - RIGHT + 6.0,
            level + 4.0,
            escaped(curve.name)
        );
    }
    out.push_str("</svg>\n");
    out
}
