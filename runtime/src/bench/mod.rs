//! Benchmarks: every launch of an entry, the entry as a whole, and what the machine can do at most.
//!
//! In: a bundle, and what to measure of it. Out: a [`Report`], as JSON and as a table.
//! Holds: on a device with a clock every time is measured; on the simulated one every time is a prediction and says
//! so, because the time that a simulator takes says nothing about a GPU. `mccrt bench` and `mcc bench` are this
//! module behind the same flags.
//!
//! ```text
//! manifest ─► cases ─┬─► measure ──────────────────────────┐
//!                    └─► predict ◄─ instruction counts      ├─► report
//!                        where the simulator ran the launch │
//! device ──────────────► machine (probes): copy, products ──┘
//! ```

mod cases;
mod flags;
mod machine;
mod measure;
mod predict;
mod probes;
mod report;

use mcc_bundle::{Hardware, Manifest, Unit};

pub use cases::Case;
pub use flags::BenchFlags;
pub use predict::{Bound, LaunchFacts, Prediction};
pub use report::{
    EntryReport, Failure, Figures, Kind, Machine, REPORT_VERSION, Report, StepReport, Whole,
};

use crate::device::DeviceProps;
use crate::error::{DeviceError, RuntimeError};
use crate::model::Model;
use measure::{FLUSH_BYTES, Times};

/// How to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BenchOptions {
    /// Of the inputs.
    pub seed: u64,
    /// Seconds to spend on one number, about.
    pub seconds: f64,
    /// Entries up to so many operations and bytes together are run by the simulator, which counts their
    /// instructions for the prediction.
    pub simulate_below: u64,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            seconds: 0.05,
            simulate_below: 0,
        }
    }
}

/// The cases of a bundle: entries whose name contains `only`, at `dims` where these are given.
///
/// # Errors
/// When no entry has such a name, or a dim is out of its bounds.
pub fn cases(
    manifest: &Manifest,
    only: Option<&str>,
    dims: &mcc_bundle::DimValues,
) -> Result<Vec<Case>, RuntimeError> {
    cases::cases(manifest, only, dims)
}

/// Whether times of this device are those of hardware.
#[must_use]
pub fn has_clock(props: &DeviceProps) -> bool {
    !props.driver.is_empty()
}

/// What a machine can do at most.
///
/// # Errors
/// When the device fails.
pub fn machine(device: &mut dyn crate::Device) -> Result<Machine, RuntimeError> {
    machine::measure(device)
}

/// The data sheet's figures in place of [`machine`], where there is nothing to measure.
#[must_use]
pub fn nominal(hardware: &Hardware) -> Machine {
    machine::nominal(hardware)
}

/// Predicts a case from the manifest alone; `instructions` holds the counted warp instructions of each step.
///
/// # Errors
/// When an extent has no value.
pub fn predict(
    manifest: &Manifest,
    case: &Case,
    instructions: &[Option<u64>],
) -> Result<EntryReport, RuntimeError> {
    let entry = &manifest.entries[case.entry];
    let (hardware, sms) = (&manifest.target.hardware, manifest.target.sms);
    let limits = machine::nominal(hardware);
    let mut steps = Vec::new();
    for (index, step) in entry.steps.iter().enumerate() {
        let Some(facts) = LaunchFacts::of(manifest, step, &case.dims, sms)? else {
            continue;
        };
        let kernel = &manifest.kernels[step.kernel.0 as usize];
        let counted = instructions.get(index).copied().flatten();
        let figures = |warm| {
            let prediction = facts.predict(kernel, hardware, sms, warm, counted);
            figures(&facts, &limits, prediction.seconds, Some(prediction.bound))
        };
        let (cold, warm) = (figures(false), figures(true));
        steps.push(row(manifest, case, index, &facts, sms, counted, cold, warm));
    }
    let whole = Whole {
        kind: Kind::Prediction,
        launches: steps.len(),
        kernels_s: steps.iter().map(|step| step.warm.seconds).sum(),
        graph_s: None,
        stream_s: None,
        graph_row_s: None,
        stream_row_s: None,
        graph_overhead_s: None,
        stream_overhead_s: None,
    };
    Ok(entry_report(manifest, case, steps, whole))
}

/// Has the simulator count the warp instructions of each step of a case.
///
/// # Errors
/// When a launch fails.
pub fn count(
    model: &mut Model,
    case: &Case,
    options: &BenchOptions,
) -> Result<Vec<Option<u64>>, RuntimeError> {
    let steps = model.manifest.entries[case.entry].steps.len();
    let mut ready = measure::ready(model, case, options.seed)?;
    let mut counts = vec![None; steps];
    let counted = ready.run_once()?;
    for ((index, _), count) in ready.steps.iter().zip(counted) {
        counts[*index] = count;
    }
    Ok(counts)
}

/// Measures a case on a model's device, which has a clock. `limits` are the machine's, measured or of the data sheet.
///
/// # Errors
/// When a launch fails.
pub fn measure(
    model: &mut Model,
    case: &Case,
    options: &BenchOptions,
    limits: &Machine,
) -> Result<EntryReport, RuntimeError> {
    let flush = model.device.alloc(FLUSH_BYTES, "the cache flush")?;
    let report = measure_with(model, case, options, limits, flush);
    let freed = model.device.free(flush);
    let report = report?;
    freed?;
    Ok(report)
}

fn measure_with(
    model: &mut Model,
    case: &Case,
    options: &BenchOptions,
    limits: &Machine,
    flush: u64,
) -> Result<EntryReport, RuntimeError> {
    let sms = model.device.props().sms;
    model.device.set_timing(true)?;
    let mut ready = measure::ready(model, case, options.seed)?;
    ready.run_once()?;
    let mut times = Vec::with_capacity(ready.steps.len());
    for place in 0..ready.steps.len() {
        let (cold, warm) = ready.time(place, flush, options.seconds)?;
        times.push((ready.steps[place].0, cold, warm));
    }
    model.device.set_timing(false)?;
    let kernels_s = times.iter().map(|(.., warm)| warm.quantile(0.5)).sum();
    let whole = measure::ready(model, case, options.seed)?.whole(kernels_s, options.seconds)?;
    let manifest = &model.manifest;
    let entry = &manifest.entries[case.entry];
    let mut steps = Vec::with_capacity(times.len());
    for (index, cold, warm) in times {
        let facts = LaunchFacts::of(manifest, &entry.steps[index], &case.dims, sms)?;
        let Some(facts) = facts else { continue };
        let figures = |times: &Times| Figures {
            kind: Kind::Measured,
            fastest_s: Some(times.quantile(0.0)),
            p90_s: Some(times.quantile(0.9)),
            repetitions: times.len(),
            ..figures(&facts, limits, times.quantile(0.5), None)
        };
        let (cold, warm) = (figures(&cold), figures(&warm));
        steps.push(row(manifest, case, index, &facts, sms, None, cold, warm));
    }
    Ok(entry_report(manifest, case, steps, whole))
}

/// What follows from a time. Without a given bound, the limit that is nearer.
fn figures(facts: &LaunchFacts, limits: &Machine, seconds: f64, bound: Option<Bound>) -> Figures {
    let rate = |amount: u64| {
        if seconds > 0.0 {
            amount as f64 / seconds
        } else {
            0.0
        }
    };
    let least = |amount: u64, limit: f64| {
        if limit > 0.0 {
            amount as f64 / limit
        } else {
            0.0
        }
    };
    let tensor = match facts.unit {
        Unit::None => 0.0,
        Unit::Fp8 => least(facts.flops, limits.fp8_flops),
        Unit::Bf16 => least(facts.flops, limits.bf16_flops),
    };
    let memory = least(facts.bytes, limits.copy_bytes_per_s);
    let nearer = if tensor > memory {
        Bound::Tensor
    } else {
        Bound::Memory
    };
    Figures {
        kind: Kind::Prediction,
        seconds,
        fastest_s: None,
        p90_s: None,
        repetitions: 0,
        flops_per_s: (facts.unit != Unit::None).then(|| rate(facts.flops)),
        bytes_per_s: rate(facts.bytes),
        fraction: if seconds > 0.0 {
            tensor.max(memory) / seconds
        } else {
            0.0
        },
        bound: bound.unwrap_or(nearer),
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one row, which both kinds of report make alike"
)]
fn row(
    manifest: &Manifest,
    case: &Case,
    index: usize,
    facts: &LaunchFacts,
    sms: u32,
    instructions: Option<u64>,
    cold: Figures,
    warm: Figures,
) -> StepReport {
    let step = &manifest.entries[case.entry].steps[index];
    let kernel = &manifest.kernels[step.kernel.0 as usize];
    StepReport {
        step: index,
        label: step.label.clone(),
        kernel: kernel.name.clone(),
        family: kernel.family.clone(),
        subject: case.subject.as_ref() == Some(&kernel.family),
        grid: facts.grid,
        block: kernel.launch.block,
        blocks_per_sm: facts.blocks_per_sm,
        waves: facts.waves(sms),
        unit: facts.unit,
        flops: facts.flops,
        bytes: facts.bytes,
        instructions,
        cold,
        warm,
    }
}

fn entry_report(
    manifest: &Manifest,
    case: &Case,
    steps: Vec<StepReport>,
    whole: Whole,
) -> EntryReport {
    EntryReport {
        entry: manifest.entries[case.entry].name.clone(),
        dims: case.used.clone(),
        steps,
        whole,
    }
}

/// Whether a failure of one case leaves the device fit for the next.
fn goes_on(err: &RuntimeError) -> bool {
    let device = match err {
        RuntimeError::Device(device) | RuntimeError::Step { source: device, .. } => device,
        _ => return true,
    };
    matches!(
        device,
        DeviceError::OutOfMemory { .. } | DeviceError::TensorMap(_)
    )
}
