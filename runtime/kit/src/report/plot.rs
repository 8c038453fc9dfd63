//! Bar charts as SVG text.
//!
//! In: rows of benchmarks. Out: an SVG of one bar a row, or nothing where no row has the number. Holds: predictions
//! are hatched and say so; the reference (a peer's speed, a measured limit) is the line at 1.

use std::fmt::Write;

use super::rows::Row;

const LABEL: f64 = 250.0;
const WIDTH: f64 = 420.0;
const LINE: f64 = 17.0;
const TOP: f64 = 46.0;

/// Our speed over that of the fastest peer.
#[must_use]
pub fn peers_plot(rows: &[Row]) -> Option<String> {
    let bars: Vec<Bar> = rows
        .iter()
        .filter_map(|row| {
            let peer = row.peer.as_ref()?;
            Some(Bar {
                label: &row.entry,
                value: row.speed_up()?,
                note: peer.name.clone(),
                prediction: row.prediction,
            })
        })
        .collect();
    chart(
        "speed over the fastest peer's, cold L2 (1 = as fast)",
        &bars,
    )
}

/// Our throughput over what was measured of the machine.
#[must_use]
pub fn limits_plot(rows: &[Row]) -> Option<String> {
    let bars: Vec<Bar> = rows
        .iter()
        .filter_map(|row| {
            let (value, limit) = row.of_limit?;
            Some(Bar {
                label: &row.entry,
                value,
                note: limit.name().to_owned(),
                prediction: row.prediction,
            })
        })
        .collect();
    chart(
        "fraction of the measured limit, of predictions the data sheet's (1 = the limit)",
        &bars,
    )
}

struct Bar<'a> {
    label: &'a str,
    value: f64,
    note: String,
    prediction: bool,
}

fn chart(title: &str, bars: &[Bar<'_>]) -> Option<String> {
    if bars.is_empty() {
        return None;
    }
    let most = bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
    let scale = WIDTH / (most * 1.05);
    let (width, height) = (LABEL + WIDTH + 190.0, TOP + LINE * bars.len() as f64 + 14.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <defs><pattern id=\"hatch\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><rect width=\"5\" height=\"5\" fill=\"#dde5ee\"/>\
         <rect width=\"2\" height=\"5\" fill=\"#7c93ad\"/></pattern></defs>\n\
         <text x=\"8\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(title)
    );
    for (index, bar) in bars.iter().enumerate() {
        let y = TOP + LINE * index as f64;
        let fill = match (bar.prediction, bar.value >= 1.0) {
            (true, _) => "url(#hatch)",
            (false, true) => "#2f6f4f",
            (false, false) => "#3f6da3",
        };
        let note = if bar.prediction {
            format!("{} (prediction)", bar.note)
        } else {
            bar.note.clone()
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABEL:.0}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.2} {}</text>",
            LABEL - 6.0,
            y + 11.0,
            escaped(bar.label),
            y + 1.0,
            (bar.value * scale).max(0.5),
            LINE - 4.0,
            LABEL + bar.value * scale + 5.0,
            y + 11.0,
            bar.value,
            escaped(&note),
        );
    }
    let x = LABEL + scale;
    let _ = writeln!(
        svg,
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#b03030\"/>\n</svg>",
        TOP - 6.0,
        height - 8.0
    );
    Some(svg)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
