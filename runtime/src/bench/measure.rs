//! Measures the launches of an entry on a device that has a clock, or has the simulator count their instructions.
//!
//! In: a loaded model and a [`Case`]. Out: times. Steps are measured in the order of the program, each many times:
//! what a step reads was written by those before it and stays valid, because values share memory only when their
//! lives do not overlap.
//!
//! ```text
//! cold   fill, launch, fill, launch, ...        the fill is larger than the L2 and drives everything out
//! warm   fill, fill, launch, launch, ...        the first launches are left out
//! ```
//!
//! In both the fills keep the device busy while the host gives it the launches: a launch that waits for the host
//! would be timed with the wait.

use std::time::{Duration, Instant};

use mcc_bundle::{DType, DimValues, Entry};

use super::cases::Case;
use super::machine::median;
use super::report::{Kind, Whole};
use crate::device::{Device, DeviceTime, Launch, SequenceKey, StreamId};
use crate::error::{DeviceError, RuntimeError};
use crate::model::Model;
use crate::synthetic;

/// Fills of this size drive out any L2 (50 MB, 60 MB), and take longer than the host needs for a launch.
pub(super) const FLUSH_BYTES: u64 = 256 << 20;
/// Launches of a warm batch; so many fit into the time of its fills.
const WARM_BATCH: usize = 16;
/// Fills before a warm batch.
const WARM_FILLS: usize = 3;
/// First launches of a warm batch, which are not warm.
const WARM_UP: usize = 2;
const REPETITIONS: std::ops::RangeInclusive<usize> = 10..=100;

/// An entry whose inputs are on the device.
pub(super) struct Ready<'m> {
    device: &'m mut dyn Device,
    /// Numbers of the steps that launch something, with their launches.
    pub steps: Vec<(usize, Launch<'m>)>,
    key: SequenceKey,
}

/// Sorted times of one launch.
pub(super) struct Times {
    /// Ascending, seconds.
    sorted: Vec<f64>,
}

impl Times {
    fn of(times: impl Iterator<Item = DeviceTime>) -> Self {
        let mut sorted: Vec<f64> = times.map(|time| time.duration.as_secs_f64()).collect();
        sorted.sort_by(f64::total_cmp);
        Self { sorted }
    }

    /// The time that this share of the repetitions did not exceed; 0 of none.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        let index = (share * last as f64).round() as usize;
        self.sorted.get(index).copied().unwrap_or(0.0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }
}

/// Writes the inputs of a case and makes its launches.
pub(super) fn ready<'m>(
    model: &'m mut Model,
    case: &Case,
    seed: u64,
) -> Result<Ready<'m>, RuntimeError> {
    let dims = &case.dims;
    model.check_dims(dims)?;
    model.commit_states(case.entry, dims)?;
    let entry = &model.manifest.entries[case.entry];
    let mut inputs = synthetic::inputs(&model.manifest, entry, dims, seed).ok_or_else(|| {
        RuntimeError::BadInput {
            entry: entry.name.clone(),
            name: String::new(),
            what: "an extent has no value".to_owned(),
        }
    })?;
    spread_groups(entry, &model.manifest.kernels, dims, &mut inputs);
    let inputs: Vec<(&str, &[u8])> = inputs
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    model.write_inputs(case.entry, dims, &inputs)?;
    let Model {
        device,
        manifest,
        functions,
        entries,
        ..
    } = model;
    let entry = &manifest.entries[case.entry];
    let prepared = &mut entries[case.entry].steps;
    for (step, prepared) in entry.steps.iter().zip(prepared.iter_mut()) {
        prepared
            .prepare(manifest, step, dims, device.as_ref())
            .map_err(|err| err.of(manifest, entry, step))?;
    }
    let mut steps = Vec::with_capacity(prepared.len());
    for (index, (step, prepared)) in entry.steps.iter().zip(prepared.iter()).enumerate() {
        if let Some((dims, params)) = prepared.launch() {
            let launch = Launch {
                function: functions[step.kernel.0 as usize],
                dims,
                params,
                label: &step.label,
            };
            steps.push((index, launch));
        }
    }
    Ok(Ready {
        device: device.as_mut(),
        steps,
        // The model counts its own sequences from 1 upwards.
        key: SequenceKey((1 << 63) | case.entry as u64),
    })
}

/// Groups of equal size, as published figures of grouped products have them.
fn spread_groups(
    entry: &Entry,
    kernels: &[mcc_bundle::Kernel],
    dims: &DimValues,
    inputs: &mut [(String, Vec<u8>)],
) {
    for port in &entry.inputs {
        // The views of a step whose kernel takes this port by that name, with their operands.
        let taken_as = |wanted: &str| {
            entry.steps.iter().find_map(|step| {
                let operands = &kernels[step.kernel.0 as usize].operands;
                let views: Vec<_> = operands.iter().zip(&step.operands).collect();
                let takes = views.iter().any(|(operand, view)| {
                    operand.name == wanted && !operand.written && view.buffer == port.buffer
                });
                takes.then_some(views)
            })
        };
        if port.ty.dtype != DType::I32 {
            continue;
        }
        let Some((_, bytes)) = inputs.iter_mut().find(|(name, _)| *name == port.name) else {
            continue;
        };
        if let Some(views) = taken_as("counts") {
            // All that the groups can hold: their capacity is the second axis of the rows.
            let rows = views.iter().find(|(operand, _)| operand.name == "a");
            let capacity = rows.and_then(|(_, view)| view.shape.get(1)?.resolve(dims));
            let count = i32::try_from(capacity.unwrap_or(0)).unwrap_or(i32::MAX);
            for bytes in bytes.chunks_exact_mut(4) {
                bytes.copy_from_slice(&count.to_le_bytes());
            }
        } else if taken_as("offsets").is_some() {
            // The last offset is the number of rows.
            let Some(rows) = bytes
                .last_chunk::<4>()
                .map(|last| i32::from_le_bytes(*last))
            else {
                continue;
            };
            let groups = (bytes.len() / 4).saturating_sub(1).max(1) as i64;
            for (group, offset) in bytes.chunks_exact_mut(4).enumerate() {
                let row = i64::from(rows) * group as i64 / groups;
                offset.copy_from_slice(&(row as i32).to_le_bytes());
            }
        }
    }
}

impl Ready<'_> {
    /// Runs every step once, in order, and waits; the launches' warp instructions where the device counts them.
    pub fn run_once(&mut self) -> Result<Vec<Option<u64>>, RuntimeError> {
        let mut counted = Vec::with_capacity(self.steps.len());
        for (_, launch) in &self.steps {
            counted.push(self.device.launch(StreamId::MAIN, launch)?.instructions);
        }
        self.device.synchronize()?;
        Ok(counted)
    }

    /// Cold and warm times of one of [`Self::steps`], spending about `seconds` on each. Timing is on.
    pub fn time(
        &mut self,
        index: usize,
        flush: u64,
        seconds: f64,
    ) -> Result<(Times, Times), RuntimeError> {
        let Some((_, launch)) = self.steps.get(index) else {
            return Ok((Times { sorted: vec![] }, Times { sorted: vec![] }));
        };
        let device = &mut *self.device;
        device.take_timings()?;
        let started = Instant::now();
        fill_and_launch(device, flush, launch)?;
        device.take_timings()?;
        let once = started.elapsed().as_secs_f64().max(1e-6);
        let repetitions = (seconds / once) as usize;
        let repetitions = repetitions.clamp(*REPETITIONS.start(), *REPETITIONS.end());

        for _ in 0..repetitions {
            fill_and_launch(device, flush, launch)?;
        }
        let cold = Times::of(device.take_timings()?.into_iter());

        let mut warm = Vec::with_capacity(repetitions);
        while warm.len() < repetitions {
            for _ in 0..WARM_FILLS {
                device.fill(flush, 0, FLUSH_BYTES)?;
            }
            for _ in 0..WARM_UP + WARM_BATCH.min(repetitions) {
                device.launch(StreamId::MAIN, launch)?;
            }
            let times = device.take_timings()?;
            if times.len() <= WARM_UP {
                break;
            }
            warm.extend(times.into_iter().skip(WARM_UP));
        }
        Ok((cold, Times::of(warm.into_iter())))
    }

    /// Host times of whole executions, spending about `seconds` on each way. Timing is off.
    pub fn whole(&mut self, kernels_s: f64, seconds: f64) -> Result<Whole, RuntimeError> {
        let launches: Vec<Launch<'_>> = self.steps.iter().map(|(_, launch)| *launch).collect();
        let (key, device) = (self.key, &mut *self.device);
        let mut ways = Vec::new();
        for graphs in [true, false] {
            device.set_graphs(graphs);
            ways.push(executions(device, key, &launches, seconds)?);
        }
        device.set_graphs(true);
        let [graph, stream] = [ways[0], ways[1]];
        Ok(Whole {
            kind: Kind::Measured,
            launches: launches.len(),
            kernels_s,
            graph_s: Some(graph.waited),
            stream_s: Some(stream.waited),
            graph_row_s: Some(graph.in_row),
            stream_row_s: Some(stream.in_row),
            graph_overhead_s: Some(graph.waited - kernels_s),
            stream_overhead_s: Some(stream.waited - kernels_s),
        })
    }
}

fn fill_and_launch(
    device: &mut dyn Device,
    flush: u64,
    launch: &Launch<'_>,
) -> Result<(), DeviceError> {
    device.fill(flush, 0, FLUSH_BYTES)?;
    device.launch(StreamId::MAIN, launch)?;
    Ok(())
}

#[derive(Clone, Copy)]
struct Executions {
    /// Median of those that were waited for one by one.
    waited: f64,
    /// Of each of many in a row.
    in_row: f64,
}

fn executions(
    device: &mut dyn Device,
    key: SequenceKey,
    launches: &[Launch<'_>],
    seconds: f64,
) -> Result<Executions, RuntimeError> {
    let once = |device: &mut dyn Device| {
        let run = device.launch_sequence(key, launches);
        run.map(drop).map_err(|err| err.source)
    };
    // A device may keep a sequence from its second execution on.
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let start = Instant::now();
        once(device)?;
        device.synchronize()?;
        slowest = start.elapsed();
    }
    let repetitions = (seconds / slowest.as_secs_f64().max(1e-6)) as usize;
    let repetitions = repetitions.clamp(*REPETITIONS.start(), *REPETITIONS.end());
    let mut times = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        let start = Instant::now();
        once(device)?;
        device.synchronize()?;
        times.push(start.elapsed());
    }
    let start = Instant::now();
    for _ in 0..repetitions {
        once(device)?;
    }
    device.synchronize()?;
    Ok(Executions {
        waited: median(times),
        in_row: start.elapsed().as_secs_f64() / repetitions as f64,
    })
}
