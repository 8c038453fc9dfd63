//! Drawings of a choice: Graphviz, and a page that needs nothing but a browser.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::text::sums;
use super::{Drawn, Explanation, Kind};

/// The classes of each kind of layer as a Graphviz digraph: a box for each class, with its nodes; the chosen ones are
/// filled, and their operands' edges solid.
#[must_use]
pub fn dot(explanation: &Explanation) -> String {
    let mut out = String::from("digraph choice {\n  rankdir = BT\n  node [shape = plain]\n");
    for (at, entry) in explanation.entries.iter().enumerate() {
        for (number, kind) in entry.kinds.iter().enumerate() {
            let prefix = format!("e{at}k{number}");
            let title = format!("{}, {}", entry.report.entry, kind.layers);
            let _ = writeln!(out, "  subgraph \"cluster_{prefix}\" {{");
            let _ = writeln!(out, "    label = \"{}\"", escaped(&title));
            for drawn in &kind.picture {
                let _ = writeln!(
                    out,
                    "    \"{prefix}c{}\" [label = <{}>]",
                    drawn.class,
                    rows(drawn)
                );
            }
            for (from, to, chosen) in edges(kind) {
                let style = if chosen { "solid" } else { "dotted" };
                let _ = writeln!(
                    out,
                    "    \"{prefix}c{to}\" -> \"{prefix}c{from}\" [style = {style}]"
                );
            }
            out.push_str("  }\n");
        }
    }
    out.push_str("}\n");
    out
}

/// A class as a table of Graphviz: its name, then its nodes.
fn rows(drawn: &Drawn) -> String {
    let mut out = String::from("<table border=\"0\" cellborder=\"1\" cellspacing=\"0\">");
    let _ = write!(out, "<tr><td><i>{}</i></td></tr>", escaped(title(drawn)));
    for (text, chosen, _) in &drawn.nodes {
        let color = if *chosen {
            " bgcolor=\"palegreen\""
        } else {
            ""
        };
        let _ = write!(out, "<tr><td{color}>{}</td></tr>", escaped(text));
    }
    out + "</table>"
}

fn title(drawn: &Drawn) -> &str {
    match (drawn.given, &*drawn.name) {
        (true, "") => "given",
        (false, "") => "several results",
        (_, name) => name,
    }
}

/// Edges from a class to one that it reads, and whether a chosen node does.
fn edges(kind: &Kind) -> Vec<(usize, usize, bool)> {
    let mut edges: HashMap<(usize, usize), bool> = HashMap::new();
    for drawn in &kind.picture {
        for (_, chosen, reads) in &drawn.nodes {
            for of in reads {
                *edges.entry((drawn.class, *of)).or_default() |= chosen;
            }
        }
    }
    let mut edges: Vec<_> = edges
        .into_iter()
        .map(|((from, to), chosen)| (from, to, chosen))
        .collect();
    edges.sort_unstable();
    edges
}

/// What HTML, SVG and Graphviz's labels read as a character of their own.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1b1f24}\
h1,h2,h3{line-height:1.2}table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}\
th{font-weight:600;border-bottom:1px solid #ccc}td.n{text-align:right;white-space:nowrap}pre,code{font:12px/1.4 ui-monospace,monospace}\
pre{background:#f6f8fa;padding:.7rem;overflow:auto}details{margin:.6rem 0}summary{cursor:pointer;font-weight:600}\
.columns{display:grid;grid-template-columns:1fr 1fr;gap:1rem}.scroll{overflow:auto;border:1px solid #ddd}\
svg text{font:11px ui-monospace,monospace}.made{color:#1a7f37}.muted{color:#666}";

/// A page with everything that the text says, and each kind of layer as a picture.
#[must_use]
pub fn html(explanation: &Explanation) -> String {
    let mut out = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>mcc explain</title>");
    let _ = write!(
        out,
        "<style>{STYLE}</style></head><body><h1>What was chosen, and why</h1>"
    );
    let mesh = match explanation.mesh {
        Some(mesh) => format!("mesh {mesh}"),
        None => "one rank".to_owned(),
    };
    let _ = write!(
        out,
        "<p>Costs of {}, {mesh}.</p>",
        escaped(&explanation.target)
    );
    for entry in &explanation.entries {
        let _ = write!(out, "<h2>{}</h2>", escaped(&entry.report.entry));
        let (a, b) = (&entry.report.before, &entry.report.after);
        out.push_str("<table><tr><th></th><th>as written</th><th>as chosen</th></tr>");
        for (name, a, b) in [
            ("ops", a.ops as u64, b.ops as u64),
            ("launches", a.launches, b.launches),
            ("bytes of global memory", a.bytes, b.bytes),
            ("bytes over NVLink", a.nvlink_bytes, b.nvlink_bytes),
            ("bytes over InfiniBand", a.ib_bytes, b.ib_bytes),
            ("nanoseconds", a.nanoseconds, b.nanoseconds),
        ] {
            let _ = write!(
                out,
                "<tr><td>{name}</td><td class=n>{a}</td><td class=n>{b}</td></tr>"
            );
        }
        let _ = write!(
            out,
            "</table><p>{}</p>",
            escaped(&entry.report.proof.to_string())
        );
        for kind in &entry.kinds {
            page_of(&mut out, kind);
        }
    }
    out + "</body></html>\n"
}

fn page_of(out: &mut String, kind: &Kind) {
    let _ = write!(out, "<h3>{}</h3>", escaped(&kind.layers));
    let _ = write!(
        out,
        "<p>{} alike, shown is {}. As written {}; as chosen {}.</p>",
        kind.count,
        escaped(&kind.shown),
        sums(&kind.written),
        sums(&kind.chosen)
    );
    out.push_str("<table><tr><th>rewrite</th><th>before</th><th>after</th><th>saves</th></tr>");
    for rewrite in &kind.rewrites {
        let lines = |lines: &[String]| {
            let lines: Vec<String> = lines.iter().map(|line| escaped(line)).collect();
            lines.join("<br>")
        };
        let _ = write!(
            out,
            "<tr><td>{}<br><span class=muted>{}</span></td><td><code>{}</code></td><td><code class=made>{}</code></td>\
             <td>{}</td></tr>",
            escaped(&rewrite.rule),
            rewrite.class,
            lines(&rewrite.before),
            lines(&rewrite.after),
            sums(&rewrite.saved)
        );
    }
    out.push_str("</table><details><summary>What lost, and what it takes more</summary><table>");
    out.push_str("<tr><th>value</th><th>instead</th><th>found by</th><th>chosen</th><th>takes more</th></tr>");
    for lost in &kind.alternatives {
        let _ = write!(
            out,
            "<tr><td><code>{}</code></td><td><code>{}</code></td><td>{}</td><td><code>{}</code></td><td>{}</td></tr>",
            escaped(&lost.value),
            escaped(&lost.node),
            lost.rule.as_deref().unwrap_or("as written"),
            escaped(&lost.chosen),
            lost.more
                .as_ref()
                .map_or_else(|| "impossible".to_owned(), sums)
        );
    }
    out.push_str(
        "</table></details><details><summary>Graph before and after</summary><div class=columns>",
    );
    for lines in [&kind.before, &kind.after] {
        let _ = write!(out, "<pre>{}</pre>", escaped(&lines.join("\n")));
    }
    out.push_str("</div></details><details open><summary>The e-graph: what could compute each value</summary>");
    let _ = write!(out, "<div class=scroll>{}</div></details>", picture(kind));
}

/// Pixels of a class's box.
const WIDTH: usize = 190;
const LINE: usize = 16;
const GAP: (usize, usize) = (24, 40);

/// The classes in rows, each below what it reads; leaves that are parameters are left out.
fn picture(kind: &Kind) -> String {
    let by_class: HashMap<usize, &Drawn> = kind.picture.iter().map(|of| (of.class, of)).collect();
    let is_drawn = |class: &usize| {
        by_class
            .get(class)
            .is_some_and(|of| !(of.given && (of.name.is_empty() || of.name.starts_with('@'))))
    };
    let ranks = ranks(kind);
    let mut rows: Vec<Vec<&Drawn>> = Vec::new();
    for drawn in kind.picture.iter().filter(|of| is_drawn(&of.class)) {
        let rank = ranks.get(&drawn.class).copied().unwrap_or(0);
        if rows.len() <= rank {
            rows.resize_with(rank + 1, Vec::new);
        }
        rows[rank].push(drawn);
    }
    rows.retain(|row| !row.is_empty());
    let height = |drawn: &Drawn| (1 + drawn.nodes.len()) * LINE + 8;
    let mut places: HashMap<usize, (usize, usize)> = HashMap::new();
    let mut y = 16;
    for row in &rows {
        for (column, drawn) in row.iter().enumerate() {
            places.insert(drawn.class, (16 + column * (WIDTH + GAP.0), y));
        }
        y += row.iter().map(|of| height(of)).max().unwrap_or(0) + GAP.1;
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = 32 + columns * (WIDTH + GAP.0);
    let mut out =
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{y}\">");
    for (from, to, chosen) in edges(kind) {
        let (Some((x1, y1)), Some((x2, y2))) = (places.get(&to), places.get(&from)) else {
            continue;
        };
        let Some(below) = by_class.get(&to) else {
            continue;
        };
        let (x1, y1, x2) = (x1 + WIDTH / 2, y1 + height(below), x2 + WIDTH / 2);
        let middle = (y1 + y2) / 2;
        let stroke = if chosen {
            "stroke=\"#1a7f37\" stroke-width=\"1.6\""
        } else {
            "stroke=\"#bbb\" stroke-dasharray=\"3 3\""
        };
        let _ = write!(
            out,
            "<path d=\"M{x1} {y1}C{x1} {middle} {x2} {middle} {x2} {y2}\" fill=\"none\" {stroke}/>"
        );
    }
    for (class, (x, y)) in sorted(&places) {
        let Some(drawn) = by_class.get(&class) else {
            continue;
        };
        let stroke = if drawn.given { "#999" } else { "#444" };
        let _ = write!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{}\" rx=\"4\" fill=\"#fff\" stroke=\"{stroke}\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"#666\">{}</text>",
            height(drawn),
            x + 8,
            y + LINE - 2,
            escaped(title(drawn))
        );
        for (at, (text, chosen, _)) in drawn.nodes.iter().enumerate() {
            let top = y + (at + 1) * LINE + 2;
            if *chosen {
                let _ = write!(
                    out,
                    "<rect x=\"{}\" y=\"{top}\" width=\"{}\" height=\"{LINE}\" fill=\"#d2f4d9\"/>",
                    x + 2,
                    WIDTH - 4
                );
            }
            let fill = if *chosen { "#0a3d17" } else { "#888" };
            let _ = write!(
                out,
                "<text x=\"{}\" y=\"{}\" fill=\"{fill}\">{}</text>",
                x + 8,
                top + LINE - 4,
                escaped(text)
            );
        }
    }
    out + "</svg>"
}

fn sorted(places: &HashMap<usize, (usize, usize)>) -> Vec<(usize, (usize, usize))> {
    let mut all: Vec<_> = places.iter().map(|(class, at)| (*class, *at)).collect();
    all.sort_unstable();
    all
}

/// How far below its operands each class is drawn: one row more than the lowest that any of its nodes reads, cycles aside.
fn ranks(kind: &Kind) -> HashMap<usize, usize> {
    let mut ranks: HashMap<usize, usize> = HashMap::new();
    let edges = edges(kind);
    // Each round moves classes down by at least a row, or ends; a cycle would go on for ever.
    for _ in 0..kind.picture.len().min(64) {
        let mut moved = false;
        for (from, to, _) in &edges {
            let below = ranks.get(to).copied().unwrap_or(0) + 1;
            let rank = ranks.entry(*from).or_default();
            if *rank < below {
                *rank = below;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    ranks
}
