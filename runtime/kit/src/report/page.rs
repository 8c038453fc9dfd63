//! The page: verdicts, the machine, what is wrong, the figures.
//!
//! In: results and their rows. Out: Markdown. Holds: what failed stands before what was fast.

use std::fmt::Write;

use serde_json::Value;

use super::conformance;
use super::read::{self, Whole, is_prediction};
use super::rows::{Row, ratios};
use super::{LIMITS_PLOT, PEERS_PLOT, limits_plot, peers_plot};
use crate::results::{Results, Verdict};

/// The whole page.
#[must_use]
pub fn page(results: &Results, rows: &[Row]) -> String {
    let mut page = Page::default();
    page.head(results);
    page.machine(results);
    page.steps(results);
    page.failures(results);
    page.conformance(results);
    page.limits(results);
    page.benchmarks(results, rows);
    page.products(rows);
    page.overhead(results);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(line.as_ref());
        self.0.push('\n');
    }

    fn section(&mut self, title: &str) {
        let _ = write!(self.0, "\n## {title}\n\n");
    }

    /// A column of numbers is aligned to the right.
    fn table(&mut self, columns: &[&str], rows: &[Vec<String>]) {
        self.line(format!("| {} |", columns.join(" | ")));
        let number = |cell: &String| {
            cell.is_empty() || cell == "–" || cell.starts_with(|c: char| c.is_ascii_digit())
        };
        let rule = |column| {
            let cells = || rows.iter().filter_map(move |row| row.get(column));
            if column > 0 && cells().all(number) {
                "--:"
            } else {
                "---"
            }
        };
        let rules: Vec<&str> = (0..columns.len()).map(rule).collect();
        self.line(format!("|{}|", rules.join("|")));
        for row in rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            self.line(format!("| {} |", cells.join(" | ")));
        }
    }

    fn head(&mut self, results: &Results) {
        let gpu = read::gpu(results);
        self.line(format!(
            "# {}, {}",
            gpu.as_deref().unwrap_or("no GPU"),
            results.started.get(..10).unwrap_or(&results.started)
        ));
        let count = |verdict| results.with(verdict).count();
        self.line(format!(
            "\nOf {} steps {} passed, {} failed, {} were skipped, in {:.0} s (budget {:.0} s). Commit {}.",
            results.steps.len(),
            count(Verdict::Passed),
            count(Verdict::Failed),
            count(Verdict::Skipped),
            results.seconds,
            results.budget_s,
            results.commit,
        ));
        if !results.complete {
            self.line("\n**The run was cut off: steps that are not listed were not reached.**");
        }
        if !read::on_gpu(results) {
            self.line("\n**No GPU was used: nothing on this page is a measurement of one.**");
        }
    }

    fn machine(&mut self, results: &Results) {
        let Some(facts) = results.step("facts").map(|step| &step.data) else {
            return;
        };
        self.section("Machine");
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| {
            if !value.is_empty() {
                rows.push(vec![name.to_owned(), value]);
            }
        };
        let text = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
        row("CPU", format!("{}, {} cores", text("cpu"), facts["cores"]));
        row(
            "memory",
            format!(
                "{:.0} GB",
                facts["memory_bytes"].as_f64().unwrap_or(0.0) / 1e9
            ),
        );
        row(
            "kernel, libc",
            format!("{}, {}", text("kernel"), text("libc")),
        );
        for gpu in facts["gpus"].as_array().into_iter().flatten() {
            let name = gpu["name"].as_str().unwrap_or("GPU");
            row(name, pairs(gpu, &["name"]));
        }
        row("python", pairs(&facts["python"], &[]));
        row("environment", pairs(&facts["environment"], &[]));
        let missing: Vec<&str> = facts["missing"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        row("not there", missing.join("; "));
        self.table(&["", ""], &rows);
    }

    fn steps(&mut self, results: &Results) {
        self.section("Steps");
        let rows: Vec<Vec<String>> = results
            .steps
            .iter()
            .map(|step| {
                vec![
                    format!("`{}`: {}", step.id, step.title),
                    step.verdict.word().to_owned(),
                    format!("{:.1}", step.seconds),
                    step.reason.clone().unwrap_or_default(),
                ]
            })
            .collect();
        self.table(&["step", "verdict", "s", "reason"], &rows);
    }

    fn failures(&mut self, results: &Results) {
        if results.with(Verdict::Failed).next().is_none() {
            return;
        }
        self.section("What failed");
        for step in results.with(Verdict::Failed) {
            self.line(format!("### `{}`\n", step.id));
            self.line(format!("`{}`\n", step.command));
            if !step.log.is_empty() {
                self.line(format!(
                    "```text\n{}\n```\n",
                    step.log.replace("```", "'''")
                ));
            }
        }
    }

    /// Counts of what was compared, and every name that did not agree.
    fn conformance(&mut self, results: &Results) {
        let mut rows = Vec::new();
        for step in &results.steps {
            rows.extend(conformance::rows(step));
        }
        if rows.is_empty() {
            return;
        }
        self.section("Conformance");
        self.table(&["what", "compared", "differ", "notes"], &rows);
    }

    fn limits(&mut self, results: &Results) {
        let ours = read::machine(results);
        let torch = read::torch_limits(results);
        if ours.is_none() && torch.is_empty() {
            return;
        }
        self.section("Limits of this machine");
        let prediction = ours
            .as_ref()
            .is_some_and(|machine| is_prediction(machine.kind.as_deref()));
        let mark = if prediction { " (prediction)" } else { "" };
        let row = |name: &str, ours: Option<f64>, torch: Option<&f64>, unit: f64, digits: usize| {
            let show = |value: Option<f64>| {
                value.map_or_else(|| "–".to_owned(), |v| format!("{:.digits$}", v / unit))
            };
            vec![
                name.to_owned(),
                format!("{}{mark}", show(ours)),
                show(torch.copied()),
            ]
        };
        let of = |get: fn(&read::Machine) -> Option<f64>| ours.as_ref().and_then(get);
        let rows = vec![
            row(
                "copy, read and written, GB/s",
                of(|m| m.copy_bytes_per_s),
                torch.get("copy"),
                1e9,
                0,
            ),
            row(
                "FP8 products, TFLOP/s",
                of(|m| m.fp8_flops),
                torch.get("fp8"),
                1e12,
                0,
            ),
            row(
                "BF16 products, TFLOP/s",
                of(|m| m.bf16_flops),
                torch.get("bf16"),
                1e12,
                0,
            ),
            row("launch after launch, µs", of(|m| m.launch_s), None, 1e-6, 2),
            row(
                "the same inside of a graph, µs",
                of(|m| m.sequence_launch_s),
                None,
                1e-6,
                2,
            ),
            row("launch and wait, µs", of(|m| m.round_trip_s), None, 1e-6, 2),
        ];
        self.table(&["", "mcc", "torch"], &rows);
    }

    fn benchmarks(&mut self, results: &Results, rows: &[Row]) {
        if rows.is_empty() && read::bench_failures(results).is_empty() {
            return;
        }
        self.section("Kernels");
        if rows.iter().any(|row| row.prediction) {
            self.line("Rows marked *prediction* were not measured: they are what the work takes at the figures of the data sheet, and their limits are its.\n");
        }
        self.line(
            "Medians. TFLOP/s, GB/s and the fraction of the measured limit are with a cold L2. The peer is the fastest \
             with a cold L2; speed is its time over ours, above 1 we are faster.\n",
        );
        let us = |seconds: Option<f64>| {
            seconds.map_or_else(|| "–".to_owned(), |s| format!("{:.1}", s * 1e6))
        };
        let times =
            |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.2}"));
        let cells = |row: &Row| {
            let rate = |work: f64, unit: f64, digits: usize| match row.cold.or(row.warm) {
                Some(seconds) if seconds > 0.0 && work > 0.0 => {
                    format!("{:.digits$}", work / seconds / unit)
                }
                _ => "–".to_owned(),
            };
            let mark = if row.prediction { " *prediction*" } else { "" };
            vec![
                format!("{}{mark}", row.entry),
                us(row.cold),
                us(row.warm),
                rate(row.flops, 1e12, 1),
                rate(row.bytes, 1e9, 0),
                row.of_limit.map_or_else(
                    || "–".to_owned(),
                    |(of, limit)| format!("{:.0} % {}", of * 100.0, limit.name()),
                ),
                row.peer
                    .as_ref()
                    .map_or_else(|| "–".to_owned(), |peer| peer.name.clone()),
                us(row.peer.as_ref().map(|peer| peer.cold)),
                us(row.peer.as_ref().map(|peer| peer.warm)),
                times(row.speed_up()),
                times(row.warm_speed_up()),
            ]
        };
        let lines: Vec<Vec<String>> = rows.iter().map(cells).collect();
        self.table(
            &[
                "entry",
                "cold µs",
                "warm µs",
                "TFLOP/s",
                "GB/s",
                "of limit",
                "peer",
                "its cold µs",
                "its warm µs",
                "speed cold",
                "speed warm",
            ],
            &lines,
        );
        let behind: Vec<&Vec<String>> = lines
            .iter()
            .filter(|row| row[9].parse::<f64>().is_ok_and(|v| v < 1.0))
            .collect();
        if !behind.is_empty() {
            let names: Vec<String> = behind
                .iter()
                .map(|row| format!("{} ({} of {})", row[0], row[9], row[6]))
                .collect();
            self.line(format!(
                "\nSlower than the fastest peer: {}.",
                names.join(", ")
            ));
        }
        for failure in read::bench_failures(results) {
            self.line(format!(
                "\n**{} was not measured: {}**",
                failure.entry, failure.error
            ));
        }
        let absent = read::absent_peers(results);
        if !absent.is_empty() {
            let reasons: Vec<String> = absent
                .iter()
                .map(|((peer, reason), rows)| format!("{peer}: {reason} ({rows} rows)"))
                .collect();
            self.line(format!("\nPeers that did not run: {}.", reasons.join("; ")));
        }
        let plots = [
            (PEERS_PLOT, "speed over the fastest peer", peers_plot(rows)),
            (LIMITS_PLOT, "fraction of the limit", limits_plot(rows)),
        ];
        for (file, title, plot) in plots {
            if plot.is_some() {
                self.line(format!("\n![{title}]({file})"));
            }
        }
    }

    /// Block-scaled products beside each peer, not the fastest only, with the mean over all shapes.
    fn products(&mut self, rows: &[Row]) {
        let all = ratios(rows);
        if all.is_empty() {
            return;
        }
        self.section("Block-scaled products beside each peer");
        self.line(
            "Ratio: the peer's time over ours, which is our speed over its, with a cold and with a warm L2; above 1 we \
             are faster. The mean is geometric, over the entries that the peer has been measured at.\n",
        );
        let show = |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), |r| format!("{r:.3}"));
        let columns: Vec<String> = all
            .iter()
            .flat_map(|r| [format!("{} cold", r.peer), format!("{} warm", r.peer)])
            .collect();
        let columns: Vec<&str> = std::iter::once("entry")
            .chain(columns.iter().map(String::as_str))
            .collect();
        let line = |name: &str, of: &dyn Fn(usize) -> (Option<f64>, Option<f64>)| {
            let ratios = (0..all.len()).flat_map(|peer| {
                let (cold, warm) = of(peer);
                [show(cold), show(warm)]
            });
            std::iter::once(name.to_owned())
                .chain(ratios)
                .collect::<Vec<String>>()
        };
        let entries = rows.iter().map(|row| row.entry.as_str());
        let known = entries.filter(|name| {
            let mut of_all = all.iter().flat_map(|ratios| &ratios.entries);
            of_all.any(|(entry, ..)| entry == name)
        });
        let mut lines: Vec<Vec<String>> = known
            .map(|name| {
                line(name, &|peer| {
                    let found = all[peer].entries.iter().find(|(entry, ..)| entry == name);
                    found.map_or((None, None), |(_, cold, warm)| (*cold, *warm))
                })
            })
            .collect();
        lines.push(line("geometric mean", &|peer| all[peer].means()));
        self.table(&columns, &lines);
    }

    fn overhead(&mut self, results: &Results) {
        let wholes = read::wholes(results);
        if wholes.is_empty() {
            return;
        }
        self.section("Steps of models, with and without graphs");
        let us = |seconds: Option<f64>| {
            seconds.map_or_else(|| "–".to_owned(), |s| format!("{:.1}", s * 1e6))
        };
        let cells = |(bundle, entry, whole): &(String, String, Whole)| {
            let mark = if is_prediction(whole.kind.as_deref()) {
                " *prediction*"
            } else {
                ""
            };
            vec![
                format!("{bundle}: {entry}{mark}"),
                whole
                    .launches
                    .map_or_else(|| "–".to_owned(), |launches| launches.to_string()),
                us(whole.kernels_s),
                us(whole.graph_s),
                us(whole.stream_s),
                us(whole.graph_overhead_s),
                us(whole.stream_overhead_s),
            ]
        };
        let rows: Vec<Vec<String>> = wholes.iter().map(cells).collect();
        self.table(
            &[
                "entry",
                "launches",
                "kernels µs",
                "graph µs",
                "stream µs",
                "overhead with graph µs",
                "without µs",
            ],
            &rows,
        );
    }
}

/// `name value` pairs of an object of texts.
fn pairs(object: &Value, without: &[&str]) -> String {
    let pairs: Vec<String> = object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !without.contains(&name.as_str()))
        .map(|(name, value)| format!("{name} {}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.join(", ")
}
