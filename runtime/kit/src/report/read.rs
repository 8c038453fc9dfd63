//! What each step printed, as far as the page needs it.
//!
//! In: the `data` of steps. Out: typed rows. Holds: a field that is not there is left out, so that a page can be made
//! of the results of an older or newer kit; nothing is made up for it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::results::{Results, StepResult, Verdict};

/// Which peak a row's operations are held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// No tensor core.
    #[default]
    None,
    /// FP8 products.
    Fp8,
    /// BF16 products.
    Bf16,
}

/// One of our kernels in one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct OurRow {
    pub entry: String,
    pub cold: Option<f64>,
    pub warm: Option<f64>,
    pub flops: f64,
    pub bytes: f64,
    pub unit: Unit,
    pub prediction: bool,
}

/// One kernel of a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerRow {
    pub entry: String,
    pub peer: String,
    pub cold: f64,
    pub warm: f64,
}

/// Peaks by which fractions are taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    pub copy: Option<f64>,
    pub fp8: Option<f64>,
    pub bf16: Option<f64>,
}

/// `mccrt bench --json`.
#[derive(Deserialize)]
pub struct BenchReport {
    #[serde(default)]
    pub kind: Option<String>,
    #[serde(default)]
    pub machine: Option<Machine>,
    #[serde(default)]
    pub entries: Vec<BenchEntry>,
    #[serde(default)]
    pub failures: Vec<BenchFailure>,
}

/// An entry that could not be measured.
#[derive(Deserialize)]
pub struct BenchFailure {
    pub entry: String,
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Machine {
    #[serde(default)]
    pub kind: Option<String>,
    pub copy_bytes_per_s: Option<f64>,
    pub fp8_flops: Option<f64>,
    pub bf16_flops: Option<f64>,
    pub launch_s: Option<f64>,
    pub sequence_launch_s: Option<f64>,
    pub round_trip_s: Option<f64>,
}

#[derive(Deserialize)]
pub struct BenchEntry {
    pub entry: String,
    #[serde(default)]
    pub dims: BTreeMap<String, u64>,
    #[serde(default)]
    pub steps: Vec<BenchStep>,
    #[serde(default)]
    pub whole: Option<Whole>,
}

#[derive(Deserialize)]
pub struct BenchStep {
    #[serde(default)]
    pub subject: bool,
    #[serde(default)]
    pub unit: Unit,
    #[serde(default)]
    pub flops: f64,
    #[serde(default)]
    pub bytes: f64,
    pub cold: Option<Figures>,
    pub warm: Option<Figures>,
}

#[derive(Deserialize)]
pub struct Figures {
    #[serde(default)]
    pub kind: Option<String>,
    pub seconds: f64,
}

/// A whole entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Whole {
    #[serde(default)]
    pub kind: Option<String>,
    pub launches: Option<u64>,
    pub kernels_s: Option<f64>,
    pub graph_s: Option<f64>,
    pub stream_s: Option<f64>,
    pub graph_overhead_s: Option<f64>,
    pub stream_overhead_s: Option<f64>,
}

/// One line of a peer's script.
#[derive(Deserialize)]
struct PeerLine {
    entry: Option<String>,
    machine: Option<String>,
    peer: Option<String>,
    cold_s: Option<f64>,
    warm_s: Option<f64>,
    per_s: Option<f64>,
    skipped: Option<String>,
}

/// Whether a number of this kind was not measured.
pub fn is_prediction(kind: Option<&str>) -> bool {
    kind == Some("prediction")
}

/// The data of a step as `T`, when it is one.
pub fn data<T: DeserializeOwned>(step: &StepResult) -> Option<T> {
    T::deserialize(&step.data).ok()
}

/// Steps whose names begin so.
pub fn steps<'a>(results: &'a Results, prefix: &'a str) -> impl Iterator<Item = &'a StepResult> {
    results
        .steps
        .iter()
        .filter(move |step| step.id.starts_with(prefix))
}

/// Name of the GPU, when one was found.
pub fn gpu(results: &Results) -> Option<String> {
    let device = results.step("device")?;
    Some(device.data.pointer("/props/name")?.as_str()?.to_owned())
}

/// Whether a GPU, and not the simulated device, has run the kernels.
pub fn on_gpu(results: &Results) -> bool {
    results.step("device").is_some_and(|device| {
        let driver = device.data.pointer("/props/driver").and_then(Value::as_str);
        device.verdict == Verdict::Passed && driver.is_some_and(|driver| !driver.is_empty())
    })
}

/// The machine's limits as `mccrt bench --machine` has them.
pub fn machine(results: &Results) -> Option<Machine> {
    data::<BenchReport>(results.step("bench-machine")?)?.machine
}

/// What torch reaches: by `copy`, `fp8`, `bf16`.
pub fn torch_limits(results: &Results) -> BTreeMap<String, f64> {
    peer_lines(results)
        .filter_map(|line| Some((line.machine?, line.per_s?)))
        .collect()
}

/// Limits that times are held against: measured ones, ours first; for predictions the data sheet's.
pub fn limits(results: &Results, predicted: bool) -> Limits {
    let torch = torch_limits(results);
    let ours =
        machine(results).filter(|machine| predicted == is_prediction(machine.kind.as_deref()));
    let ours = ours.as_ref();
    let of = |ours: Option<f64>, name: &str| {
        ours.or_else(|| torch.get(name).copied().filter(|_| !predicted))
    };
    Limits {
        copy: of(ours.and_then(|machine| machine.copy_bytes_per_s), "copy"),
        fp8: of(ours.and_then(|machine| machine.fp8_flops), "fp8"),
        bf16: of(ours.and_then(|machine| machine.bf16_flops), "bf16"),
    }
}

/// The kernels that an entry is about, of every bundle.
pub fn ours(results: &Results) -> Vec<OurRow> {
    let mut rows = Vec::new();
    for report in benches(results) {
        for entry in report.entries {
            for step in entry.steps.into_iter().filter(|step| step.subject) {
                let kind = step.cold.as_ref().or(step.warm.as_ref());
                let kind = kind.and_then(|figures| figures.kind.as_deref());
                rows.push(OurRow {
                    entry: entry.entry.clone(),
                    prediction: is_prediction(kind.or(report.kind.as_deref())),
                    cold: step.cold.map(|figures| figures.seconds),
                    warm: step.warm.map(|figures| figures.seconds),
                    flops: step.flops,
                    bytes: step.bytes,
                    unit: step.unit,
                });
            }
        }
    }
    rows
}

/// Every entry of a text model as a whole: bundle, entry with its dims, times.
pub fn wholes(results: &Results) -> Vec<(String, String, Whole)> {
    let mut found = Vec::new();
    for step in steps(results, "bench-") {
        let Some(report) = data::<BenchReport>(step) else {
            continue;
        };
        let bundle = step.id.trim_start_matches("bench-").to_owned();
        for entry in report.entries {
            // An entry that is there for one kernel is a row of its own.
            if entry.steps.iter().any(|step| step.subject) {
                continue;
            }
            let dims: Vec<String> = entry.dims.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let name = format!("{} {}", entry.entry, dims.join(" "));
            found.extend(
                entry
                    .whole
                    .map(|whole| (bundle.clone(), name.trim().to_owned(), whole)),
            );
        }
    }
    found
}

/// Entries that failed, and why.
pub fn bench_failures(results: &Results) -> Vec<BenchFailure> {
    benches(results)
        .flat_map(|report| report.failures)
        .collect()
}

fn benches(results: &Results) -> impl Iterator<Item = BenchReport> {
    steps(results, "bench-").filter_map(data)
}

/// What peers have measured.
pub fn peers(results: &Results) -> Vec<PeerRow> {
    peer_lines(results)
        .filter_map(|line| {
            Some(PeerRow {
                entry: line.entry?,
                peer: line.peer?,
                cold: line.cold_s?,
                warm: line.warm_s?,
            })
        })
        .collect()
}

/// Why peers have not measured: reason, and how many rows it was.
pub fn absent_peers(results: &Results) -> BTreeMap<(String, String), usize> {
    let mut reasons = BTreeMap::new();
    for line in peer_lines(results) {
        let peer = line.peer.or(line.machine);
        if let (Some(peer), Some(reason)) = (peer, line.skipped) {
            *reasons.entry((peer, reason)).or_default() += 1;
        }
    }
    reasons
}

fn peer_lines(results: &Results) -> impl Iterator<Item = PeerLine> {
    let lines = |step: &StepResult| match &step.data {
        Value::Array(lines) => lines.clone(),
        Value::Null => Vec::new(),
        line => vec![line.clone()],
    };
    steps(results, "peers-")
        .flat_map(lines)
        .filter_map(|line| PeerLine::deserialize(line).ok())
}
