//! The promotion experiment as an SVG: error against K, one line an interval, one panel a kind of data.
//!
//! In: points. Out: an SVG that needs nothing beside itself and is readable on light and on dark ground.

use std::fmt::Write;

use super::promotion::{Data, Point, interval_name};

/// Of a panel's plotting area.
const WIDTH: f64 = 330.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 64.0;
/// From one panel's left edge to the next one's.
const PITCH: f64 = WIDTH + 76.0;
/// Colours of lines, the longest interval first; readable on white and on black.
const COLOURS: [&str; 6] = [
    "#d1495b", "#e08a1e", "#b59b00", "#2a9d5c", "#2f7fd0", "#8a5fd3",
];

/// Linear in the logarithms of both axes.
struct Axes {
    k: (f64, f64),
    error: (f64, f64),
}

impl Axes {
    fn of(points: &[Point]) -> Option<Self> {
        let span = |values: &mut dyn Iterator<Item = f64>| {
            let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
                (l.min(v), h.max(v))
            });
            (low.is_finite() && high.is_finite()).then_some((low, high))
        };
        let k = span(&mut points.iter().map(|p| f64::from(p.k).log2()))?;
        let errors = points.iter().map(|p| p.error).filter(|e| *e > 0.0);
        let (low, high) = span(&mut errors.map(f64::log10))?;
        Some(Self {
            k: (k.0, k.1.max(k.0 + 1.0)),
            error: (low.floor(), high.ceil().max(low.floor() + 1.0)),
        })
    }

    fn x(&self, k: f64) -> f64 {
        (k.log2() - self.k.0) / (self.k.1 - self.k.0) * WIDTH
    }

    fn y(&self, error: f64) -> f64 {
        let share = (error.log10() - self.error.0) / (self.error.1 - self.error.0);
        HEIGHT - share * HEIGHT
    }
}

/// Draws the points; nothing where there are none.
#[must_use]
pub fn svg(points: &[Point]) -> Option<String> {
    let axes = Axes::of(points)?;
    let (width, height) = (LEFT + PITCH + WIDTH + 84.0, TOP + HEIGHT + 52.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\" \
         aria-label=\"Error of FP8 products against K, by promotion interval\">\n<style>\n\
         .ground{{fill:#fff}} text{{fill:#222}} .grid{{stroke:#ddd}} .axis{{stroke:#777;fill:none}}\n\
         @media (prefers-color-scheme:dark){{\n\
         .ground{{fill:#14171c}} text{{fill:#e6e6e6}} .grid{{stroke:#343a43}} .axis{{stroke:#8b929c}}\n}}\n</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">Error of FP8 products on Hopper's tensor cores, by promotion \
         interval</text>\n"
    );
    for (at, data) in [Data::Uniform, Data::Normal].into_iter().enumerate() {
        let of_data: Vec<&Point> = points.iter().filter(|p| p.data == data).collect();
        panel(&mut svg, &axes, data, &of_data, LEFT + PITCH * at as f64);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// Writing to a string does not fail.
macro_rules! put {
    ($svg:expr, $($text:tt)*) => { let _ = writeln!($svg, $($text)*); };
}

fn panel(svg: &mut String, axes: &Axes, data: Data, points: &[&Point], left: f64) {
    put!(svg, "<g transform=\"translate({left:.0} {TOP:.0})\">");
    put!(svg, "<text x=\"0\" y=\"-16\">{}</text>", data.measure());
    for decade in axes.error.0 as i32..=axes.error.1 as i32 {
        let y = axes.y(10_f64.powi(decade));
        put!(
            svg,
            "<line class=\"grid\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"-8\" y=\"{:.1}\" text-anchor=\"end\">10<tspan dy=\"-5\" font-size=\"9\">{decade}</tspan></text>",
            y + 4.0
        );
    }
    let mut ks: Vec<u32> = points.iter().map(|p| p.k).collect();
    ks.sort_unstable();
    ks.dedup();
    for k in ks.iter().filter(|k| k.is_power_of_two()) {
        let x = axes.x(f64::from(*k));
        put!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{HEIGHT}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{k}</text>",
            HEIGHT + 18.0
        );
    }
    put!(
        svg,
        "<rect class=\"axis\" x=\"0\" y=\"0\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">K</text>",
        WIDTH / 2.0,
        HEIGHT + 38.0
    );
    let mut intervals: Vec<u32> = points.iter().map(|p| p.promote).collect();
    // Longest first; none is longer than all.
    intervals.sort_unstable_by_key(|p| std::cmp::Reverse(p.wrapping_sub(1)));
    intervals.dedup();
    let mut labels = Vec::new();
    for (interval, colour) in intervals.iter().zip(COLOURS.iter().cycle()) {
        let mut line: Vec<(f64, f64)> = points
            .iter()
            .filter(|p| p.promote == *interval && p.error > 0.0)
            .map(|p| (axes.x(f64::from(p.k)), axes.y(p.error)))
            .collect();
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        let path: Vec<String> = line.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        put!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (x, y) in &line {
            put!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>"
            );
        }
        if let Some((_, y)) = line.last() {
            labels.push((*y, *colour, interval_name(*interval)));
        }
    }
    legend(svg, labels);
    put!(svg, "</g>");
}

/// Each line's interval at its right end, moved apart where lines end close to each other.
fn legend(svg: &mut String, mut labels: Vec<(f64, &str, String)>) {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut lowest = f64::NEG_INFINITY;
    for (y, colour, name) in labels {
        let y = y.max(lowest + 14.0);
        lowest = y;
        // The colour is a style, since the rule for text would win over an attribute.
        put!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" style=\"fill:{colour}\" font-weight=\"bold\">{name}</text>",
            WIDTH + 8.0,
            y + 4.0
        );
    }
}
