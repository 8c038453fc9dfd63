//! How long one kernel takes to compile: to PTX by mcc alone, and to a cubin with ptxas.
//!
//! In: kernels, how often, an assembler. Out: a [`Row`] for each kernel, and the stages' shares over all of them; for
//! peers on the same machine, theirs. Holds: wall-clock times are those of this process with nothing of its own beside
//! it; processor times leave out what other processes took, where the system tells (Linux).

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mcc_codegen::Codegen;
use mcc_ir::program::Kernel;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ptxas::Ptxas;

/// What others were measured at on a machine without other work: seconds to a cubin.
pub const GIVEN: [(&str, f64); 2] = [
    ("Triton, the same tile", 0.6),
    ("nvcc, DeepGEMM's kernel (of which ptxas 0.35)", 4.7),
];

/// Durations of one thing, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The longest.
    pub max: f64,
}

impl Spread {
    /// Of these seconds; zeros of none.
    #[must_use]
    pub fn of(seconds: &[f64]) -> Self {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: sorted.get(sorted.len() / 2).copied().unwrap_or(0.0),
            max: sorted.last().copied().unwrap_or(0.0),
        }
    }
}

/// One kernel's times.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The kernel.
    pub name: String,
    /// Config to PTX, on the wall clock.
    pub ptx: Spread,
    /// Processor time of the same.
    pub ptx_processor: Option<Spread>,
    /// Config to cubin, on the wall clock.
    pub cubin: Option<Spread>,
    /// Processor time of ptxas; the system counts in hundredths of a second.
    pub ptxas_processor: Option<Spread>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// In the order of the kernels.
    pub rows: Vec<Row>,
    /// Making the code generator, which a build does once.
    pub start_s: f64,
    /// Shortest time of each stage, summed over the kernels.
    pub stages: Vec<(&'static str, f64)>,
}

/// Compiles each kernel `runs` times.
///
/// # Errors
/// The first kernel's that does not compile or assemble.
pub fn measure(
    kernels: &[Kernel],
    runs: usize,
    ptxas: Option<&Ptxas>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Measured, Error> {
    let start = Instant::now();
    let codegen = Codegen::new();
    let start_s = start.elapsed().as_secs_f64();
    // The first compilation of a process registers passes and targets.
    if let Some(kernel) = kernels.first() {
        codegen.compile(kernel)?;
    }
    let mut measured = Measured {
        rows: Vec::new(),
        start_s,
        stages: Vec::new(),
    };
    for (at, kernel) in kernels.iter().enumerate() {
        progress(at, kernels.len());
        let (mut ptx, mut ptx_processor) = (Vec::new(), Vec::new());
        let (mut cubin, mut ptxas_processor) = (Vec::new(), Vec::new());
        let mut shortest: Vec<(&'static str, Duration)> = Vec::new();
        for _ in 0..runs.max(1) {
            let (start, processor) = (Instant::now(), thread_seconds());
            let code = codegen.compile(kernel)?;
            ptx.push(start.elapsed().as_secs_f64());
            ptx_processor.extend(since(processor, thread_seconds()));
            if let Some(ptxas) = ptxas {
                let processor = children_seconds();
                ptxas.report(&code, "sm_90a")?;
                cubin.push(start.elapsed().as_secs_f64());
                ptxas_processor.extend(since(processor, children_seconds()));
            }
            if shortest.is_empty() {
                shortest = code.times;
            } else {
                for ((_, least), (_, time)) in shortest.iter_mut().zip(code.times) {
                    *least = time.min(*least);
                }
            }
        }
        for (stage, time) in shortest {
            let seconds = time.as_secs_f64();
            match measured.stages.iter_mut().find(|(s, _)| *s == stage) {
                Some((_, sum)) => *sum += seconds,
                None => measured.stages.push((stage, seconds)),
            }
        }
        let some = |seconds: Vec<f64>| (!seconds.is_empty()).then(|| Spread::of(&seconds));
        measured.rows.push(Row {
            name: kernel.name.clone(),
            ptx: Spread::of(&ptx),
            ptx_processor: some(ptx_processor),
            cubin: some(cubin),
            ptxas_processor: some(ptxas_processor),
        });
    }
    Ok(measured)
}

fn since(start: Option<f64>, end: Option<f64>) -> Option<f64> {
    Some(end? - start?)
}

/// Processor time of this thread: the first number of `schedstat`, in nanoseconds (Linux, sched-stats).
fn thread_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let ns: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(ns * 1e-9)
}

/// Processor time of the child processes that have ended: `cutime` and `cstime`, fields 16 and 17 of `stat`, in
/// hundredths of a second (proc_pid_stat(5)).
fn children_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, field 2, is in brackets and may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(13);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) * 1e-2)
}

/// What `bench/peers/triton_compile.py` prints; seconds of each run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Triton {
    /// Its version.
    pub triton: String,
    /// Rows, columns, warps and stages of the tile.
    pub tile: Vec<u32>,
    /// To PTX.
    pub ptx_s: Vec<f64>,
    /// To a cubin.
    pub cubin_s: Vec<f64>,
    /// Processor time to a cubin, of ptxas too.
    pub processor_s: Vec<f64>,
}

/// Compiles Triton's kernel of the same product with this Python.
///
/// # Errors
/// [`Error::Peer`] when there is no Triton in it, or it fails.
pub fn triton(python: &Path, runs: usize) -> Result<Triton, Error> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/peers/triton_compile.py");
    let fail = |why: String| Error::Peer {
        peer: python.to_owned(),
        why,
    };
    let output = Command::new(python)
        .arg(&script)
        .args(["--runs", &runs.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fail(format!("it did not start: {e}")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.trim().lines().last().unwrap_or("it said nothing");
        return Err(fail(format!("{}: {last}", output.status)));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|e| fail(format!("its output is no report: {e}")))
}

/// The times as text.
#[must_use]
pub fn table(measured: &Measured, triton: Option<&Triton>) -> String {
    let names = measured.rows.iter().map(|r| r.name.len());
    let width = names.max().unwrap_or(0).max(30);
    let ms = |s: f64| format!("{:>6.0}", s * 1e3);
    let spread = |s: Option<Spread>| {
        s.map_or_else(
            || format!("{:>6} {:>6}", "–", "–"),
            |s| format!("{} {}", ms(s.median), ms(s.max)),
        )
    };
    let mut text = format!(
        "milliseconds\n{:width$} | {:^13} | {:^13} | {:^13} | {:^13}\n",
        "", "to PTX", "… processor", "to cubin", "ptxas, proc."
    );
    let head = format!("{:>6} {:>6}", "median", "max");
    text.push_str(&format!(
        "{:width$} | {head} | {head} | {head} | {head}\n",
        "kernel"
    ));
    for row in &measured.rows {
        text.push_str(&format!(
            "{:width$} | {} | {} | {} | {}\n",
            row.name,
            spread(Some(row.ptx)),
            spread(row.ptx_processor),
            spread(row.cubin),
            spread(row.ptxas_processor)
        ));
    }
    let over = |get: &dyn Fn(&Row) -> Option<Spread>| {
        let all: Vec<f64> = measured
            .rows
            .iter()
            .filter_map(get)
            .map(|s| s.median)
            .collect();
        (!all.is_empty()).then(|| Spread::of(&all))
    };
    text.push_str(&format!(
        "{:width$} | {} | {} | {} | {}\n",
        "all kernels, of their medians",
        spread(over(&|r| Some(r.ptx))),
        spread(over(&|r| r.ptx_processor)),
        spread(over(&|r| r.cubin)),
        spread(over(&|r| r.ptxas_processor))
    ));
    if let Some(t) = triton {
        let name = format!("Triton {}, tile {:?}", t.triton, t.tile);
        text.push_str(&format!(
            "{name:width$} | {} | {:>13} | {} | to cubin, processor {}\n",
            spread(Some(Spread::of(&t.ptx_s))),
            "",
            spread(Some(Spread::of(&t.cubin_s))),
            spread(Some(Spread::of(&t.processor_s))),
        ));
    }
    for (name, seconds) in GIVEN {
        text.push_str(&format!(
            "{:width$} to cubin {} on an idle machine\n",
            name,
            ms(seconds)
        ));
    }
    let sum: f64 = measured.stages.iter().map(|(_, s)| s).sum();
    let count = measured.rows.len().max(1) as f64;
    text.push_str(&format!(
        "to PTX by stage, shortest of the runs, mean over the kernels; the code generator starts in {:.0} ms\n",
        measured.start_s * 1e3
    ));
    // Stages that did nothing: texts on the way are printed for those who ask for them.
    let shown = |seconds: f64| seconds / count * 1e3 >= 0.05;
    for (stage, seconds) in measured.stages.iter().filter(|(_, s)| shown(*s)) {
        text.push_str(&format!(
            "  {stage:14} {:>6.1} ms {:>3.0} %\n",
            seconds / count * 1e3,
            seconds / sum * 100.0
        ));
    }
    text
}
