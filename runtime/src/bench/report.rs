//! What a benchmark found, as JSON and as a table.
//!
//! Holds: every time says whether it was measured or predicted, in both forms; rows of two reports with the same
//! entry, dims and step number are about the same launch, so that predictions can be laid beside measurements.

use std::collections::BTreeMap;
use std::fmt;

use mcc_bundle::Unit;
use serde::{Deserialize, Serialize};

use super::predict::Bound;

/// Version of the report's fields.
pub const REPORT_VERSION: u32 = 1;

/// Where a number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A clock.
    Measured,
    /// The model of [`super::predict`] and figures of the data sheet.
    Prediction,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Measured => "measured",
            Self::Prediction => "prediction",
        })
    }
}

/// All that one call found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// Of all times in it.
    pub kind: Kind,
    /// Name of the device.
    pub device: String,
    /// CUDA version of its driver; empty where there is none.
    pub driver: String,
    /// Its SMs.
    pub sms: u32,
    /// Target that the bundle was compiled for; empty without a bundle.
    pub target: String,
    /// Name of the bundle's model; empty without a bundle.
    pub model: String,
    /// What the machine can do at most.
    pub machine: Option<Machine>,
    /// By entry and dims.
    pub entries: Vec<EntryReport>,
    /// Entries that could not be measured.
    pub failures: Vec<Failure>,
}

/// An entry that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its name.
    pub entry: String,
    /// Why.
    pub error: String,
}

/// Limits of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Of these numbers.
    pub kind: Kind,
    /// Bytes a second that a copy inside of device memory reads and writes, together.
    pub copy_bytes_per_s: f64,
    /// Dense FP8 products with FP32 accumulators, operations a second.
    pub fp8_flops: f64,
    /// Dense BF16 products with FP32 accumulators, operations a second.
    pub bf16_flops: f64,
    /// Seconds from one empty kernel to the next, launched one by one.
    pub launch_s: f64,
    /// The same inside of a sequence that the device may keep as a graph.
    pub sequence_launch_s: Option<f64>,
    /// Seconds that the host waits for one empty kernel.
    pub round_trip_s: Option<f64>,
}

/// One entry under one choice of dims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryReport {
    /// Name of the entry.
    pub entry: String,
    /// Values of the named dims that it depends on.
    pub dims: BTreeMap<String, u64>,
    /// Its launches in order; empty grids are left out.
    pub steps: Vec<StepReport>,
    /// All of it.
    pub whole: Whole,
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Number of the step in its entry.
    pub step: usize,
    /// What it computes.
    pub label: String,
    /// Its kernel.
    pub kernel: String,
    /// The kernel's family.
    pub family: String,
    /// Whether the entry is in the bundle for this step's sake.
    pub subject: bool,
    /// Blocks, x y z.
    pub grid: [u64; 3],
    /// Threads a block.
    pub block: u32,
    /// Blocks that fit an SM at once.
    pub blocks_per_sm: u64,
    /// Rounds in which the SMs take up the blocks.
    pub waves: u64,
    /// Which peak the operations are held against.
    pub unit: Unit,
    /// Operations of the tensor cores.
    pub flops: u64,
    /// Bytes that must move at the least.
    pub bytes: u64,
    /// Warp instructions, where the simulator has counted them.
    pub instructions: Option<u64>,
    /// With nothing of its operands in the L2.
    pub cold: Figures,
    /// Straight after itself.
    pub warm: Figures,
}

/// One time and what follows from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Of these numbers.
    pub kind: Kind,
    /// The median of the repetitions, or the prediction.
    pub seconds: f64,
    /// The fastest repetition.
    pub fastest_s: Option<f64>,
    /// Ninety of a hundred repetitions were faster.
    pub p90_s: Option<f64>,
    /// Repetitions; 0 of a prediction.
    pub repetitions: usize,
    /// Tensor-core operations a second.
    pub flops_per_s: Option<f64>,
    /// Bytes that must move, a second.
    pub bytes_per_s: f64,
    /// The time that the machine's limits allow for the launch's work, divided by this time.
    pub fraction: f64,
    /// What holds it up: of a prediction its longest term, of a measurement the nearer of the machine's limits.
    pub bound: Bound,
}

/// An entry from its first launch to its last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Whole {
    /// Of these numbers.
    pub kind: Kind,
    /// Launches.
    pub launches: usize,
    /// Sum of the launches' times, warm.
    pub kernels_s: f64,
    /// Host time of an execution that is waited for, as a kept sequence (a graph).
    pub graph_s: Option<f64>,
    /// The same, launched one by one.
    pub stream_s: Option<f64>,
    /// Host time of each of many executions in a row, as kept sequences.
    pub graph_row_s: Option<f64>,
    /// The same, launched one by one.
    pub stream_row_s: Option<f64>,
    /// What sequences cost beside their kernels: `graph_s - kernels_s`.
    pub graph_overhead_s: Option<f64>,
    /// `stream_s - kernels_s`.
    pub stream_overhead_s: Option<f64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.model.is_empty() {
            write!(f, "{} for {} on ", self.model, self.target)?;
        }
        write!(f, "{}, {} SMs", self.device, self.sms)?;
        if !self.driver.is_empty() {
            write!(f, ", driver {}", self.driver)?;
        }
        writeln!(f)?;
        if self.kind == Kind::Prediction {
            writeln!(
                f,
                "PREDICTION: there is no GPU here, and no time below was measured. They are what the work of each \
                 launch takes at the figures of the data sheet."
            )?;
        }
        if let Some(machine) = &self.machine {
            writeln!(f, "{machine}")?;
        }
        for entry in &self.entries {
            write!(f, "\n{entry}")?;
        }
        for failure in &self.failures {
            writeln!(f, "\nFAILED {}: {}", failure.entry, failure.error)?;
        }
        Ok(())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "limits ({}): copy {:.0} GB/s, FP8 {:.0} TFLOP/s, BF16 {:.0} TFLOP/s, launch {}",
            self.kind,
            self.copy_bytes_per_s / 1e9,
            self.fp8_flops / 1e12,
            self.bf16_flops / 1e12,
            time(self.launch_s),
        )?;
        if let Some(seconds) = self.sequence_launch_s {
            write!(f, ", in a sequence {}", time(seconds))?;
        }
        if let Some(seconds) = self.round_trip_s {
            write!(f, ", round trip {}", time(seconds))?;
        }
        Ok(())
    }
}

impl fmt::Display for EntryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(|(k, v)| format!("{k}={v}")).collect();
        writeln!(f, "{} {}", self.entry, dims.join(" "))?;
        writeln!(
            f,
            "  {:>10} {:>9} {:>9} {:>8} {:>8} {:>6} {:<7} {:>8} {:>5}  kernel",
            "", "cold", "warm", "TFLOP/s", "GB/s", "of max", "bound", "blocks", "waves"
        )?;
        for step in &self.steps {
            let cold = &step.cold;
            let flops = cold
                .flops_per_s
                .map_or_else(|| "–".to_owned(), |flops| format!("{:.1}", flops / 1e12));
            let bound = format!("{:?}", cold.bound).to_lowercase();
            writeln!(
                f,
                "{} {:>10} {:>9} {:>9} {flops:>8} {:>8.0} {:>5.0}% {bound:<7} {:>8} {:>5}  {}",
                if step.subject { ">" } else { " " },
                cold.kind,
                time(cold.seconds),
                time(step.warm.seconds),
                cold.bytes_per_s / 1e9,
                100.0 * cold.fraction,
                step.grid.iter().product::<u64>(),
                step.waves,
                step.kernel
            )?;
        }
        let whole = &self.whole;
        write!(
            f,
            "  {:>10} {} launches, kernels {}",
            whole.kind,
            whole.launches,
            time(whole.kernels_s)
        )?;
        let more = [
            ("with a graph", whole.graph_s),
            ("without", whole.stream_s),
            ("in a row with graphs", whole.graph_row_s),
            ("without", whole.stream_row_s),
            ("overhead with a graph", whole.graph_overhead_s),
            ("without", whole.stream_overhead_s),
        ];
        for (name, seconds) in more {
            if let Some(seconds) = seconds {
                write!(f, ", {name} {}", time(seconds))?;
            }
        }
        writeln!(f)
    }
}

/// Seconds for people.
fn time(seconds: f64) -> String {
    match seconds {
        s if s.abs() < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s.abs() < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}
