//! A bundle on a device: buffers allocated, kernels loaded, entries ready to execute.
//!
//! In: a bundle and a device. Out: executions of an entry, from input bytes to output bytes.
//! Holds: the manifest was validated, so indices into it are in range; addresses are final from loading on.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcc_bundle::{BufferId, BufferKind, Bundle, DimValues, Entry, Manifest, Port, Step, View};
use mcc_place::Placement;

use crate::device::{
    Device, FunctionId, Launch, ModuleImage, PlanBuffer, SequenceError, SequenceKey,
};
use crate::error::RuntimeError;
use crate::launch::{PreparedStep, check_params};
use crate::session::Session;
use crate::stats::{Stats, StatsReport};
use crate::trace::{Trace, TracedLaunch};
use crate::turns::Turn;
use crate::weights::{self, Checkpoint, LoadProgress, Share};

/// A loaded model.
pub struct Model {
    pub(crate) device: Box<dyn Device>,
    pub(crate) manifest: Manifest,
    /// Of each buffer; temporaries have theirs in the arena.
    pub(crate) addresses: Vec<u64>,
    pub(crate) functions: Vec<FunctionId>,
    /// In the order of the manifest.
    pub(crate) entries: Vec<PreparedEntry>,
    /// Bytes of each buffer that are backed by memory, for the states.
    pub(crate) committed: Vec<u64>,
    /// Sequences of launches that were made so far.
    sequences: u64,
    pub(crate) weights_loaded: bool,
    pub(crate) stats: Stats,
    /// When [`Self::load`] began.
    born: Instant,
    /// When loading weights began.
    pub(crate) weights_began: Option<Instant>,
    trace: Option<Trace>,
    /// Its part in steps that ranks take together.
    turn: Option<Turn>,
}

/// An entry whose addresses are known.
pub(crate) struct PreparedEntry {
    pub steps: Vec<PreparedStep>,
    /// Which steps launch something, and the sequence of these launches: other dims may leave out other steps.
    sequences: Vec<(Vec<bool>, SequenceKey)>,
    /// Views of states: how far the caches must reach for a step's dims.
    pub states: Vec<View>,
}

/// Device memory of a model, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    /// Parameters and their scales.
    pub weights: u64,
    /// KV caches at their longest; a device commits their memory as they grow.
    pub states: u64,
    /// Inputs and outputs.
    pub ports: u64,
    /// What ranks write into each other's memory.
    pub exchange: u64,
    /// The temporaries' arena.
    pub arena: u64,
    /// What the temporaries would take if none shared memory.
    pub temporaries: u64,
}

impl MemoryPlan {
    /// Bytes that temporaries do not take because they share memory.
    #[must_use]
    pub fn sharing_saved(&self) -> u64 {
        self.temporaries.saturating_sub(self.arena)
    }

    /// Sums up the buffers of a manifest.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        let mut plan = Self {
            arena: manifest.arena_bytes,
            ..Self::default()
        };
        for buffer in &manifest.buffers {
            let sum = match buffer.kind {
                BufferKind::Weight => &mut plan.weights,
                BufferKind::State => &mut plan.states,
                BufferKind::Input | BufferKind::Output | BufferKind::World { .. } => {
                    &mut plan.ports
                }
                BufferKind::Exchange => &mut plan.exchange,
                BufferKind::Temp { .. } => &mut plan.temporaries,
            };
            // Temporaries may overlap without end; a hostile manifest cannot make the sum wrap.
            *sum = sum.saturating_add(buffer.bytes);
        }
        plan
    }
}

impl Model {
    /// Allocates the buffers and loads the kernels of a bundle.
    ///
    /// # Errors
    /// When the bundle contradicts itself, is for another device, or the device refuses.
    pub fn load(mut device: Box<dyn Device>, bundle: Bundle) -> Result<Self, RuntimeError> {
        let start = Instant::now();
        let Bundle {
            manifest,
            ptx,
            cubins,
            ..
        } = bundle;
        manifest.validate()?;
        let props = device.props();
        if props.arch != manifest.target.arch {
            return Err(RuntimeError::WrongTarget {
                needed: manifest.target.arch.clone(),
                device: props.name.clone(),
                found: props.arch.clone(),
            });
        }
        let (addresses, arena) = place(&manifest, device.as_mut())?;
        let mut functions = Vec::with_capacity(manifest.kernels.len());
        for ((kernel, ptx), cubin) in manifest.kernels.iter().zip(&ptx).zip(&cubins) {
            let image = ModuleImage {
                kernel: &kernel.name,
                ptx,
                cubin: cubin.as_deref(),
            };
            let function = device.load_module(&image)?;
            check_params(kernel, &device.param_layout(function)?)?;
            functions.push(function);
        }
        if functions.len() != manifest.kernels.len() {
            return Err(mcc_bundle::BundleError::MissingSection {
                section: "ptx".to_owned(),
            }
            .into());
        }
        let entries = manifest
            .entries
            .iter()
            .map(|entry| PreparedEntry {
                steps: entry
                    .steps
                    .iter()
                    .map(|step| PreparedStep::new(&manifest, step, &addresses, arena))
                    .collect(),
                sequences: Vec::new(),
                states: state_views(&manifest, entry),
            })
            .collect();
        // Times of a device that runs what it is given at once cost nothing.
        if !device.props().asynchronous {
            device.set_timing(true)?;
        }
        let weights_loaded = manifest.params.is_empty();
        let stats = Stats {
            load: start.elapsed(),
            ..Stats::default()
        };
        Ok(Self {
            device,
            committed: vec![0; manifest.buffers.len()],
            manifest,
            addresses,
            functions,
            entries,
            sequences: 0,
            weights_loaded,
            stats,
            born: start,
            weights_began: None,
            trace: None,
            turn: None,
        })
    }

    /// Takes every step of its sessions together with other ranks.
    pub(crate) fn join(&mut self, turn: Turn) {
        self.turn = Some(turn);
    }

    /// Which entry is to be executed next, when this rank wants `wanted`; the same, where there are no other ranks.
    pub(crate) fn agree(&self, wanted: Option<&str>) -> Option<String> {
        let Some(turn) = &self.turn else {
            return wanted.map(str::to_owned);
        };
        let entries = &self.manifest.entries;
        let index = wanted.and_then(|name| entries.iter().position(|e| e.name == name));
        Some(entries.get(turn.agree(index)?)?.name.clone())
    }

    /// Fills the weight buffers from a Hugging Face checkpoint directory.
    ///
    /// # Errors
    /// When a tensor is missing, damaged, or not of the type that the bundle wants.
    pub fn load_weights(
        &mut self,
        dir: impl AsRef<Path>,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<(), RuntimeError> {
        self.load_checkpoint(&Checkpoint::open(dir)?, progress)
    }

    /// The same from an open checkpoint.
    ///
    /// # Errors
    /// As [`Self::load_weights`].
    pub fn load_checkpoint(
        &mut self,
        checkpoint: &Checkpoint,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<(), RuntimeError> {
        self.load_share(checkpoint, &Share::default(), progress)
    }

    /// What rank `rank` of all ranks that run the bundle holds of the experts, by a placement if there is one.
    #[must_use]
    pub fn share_of(&self, rank: usize, placement: Option<Arc<Placement>>) -> Share {
        let group = self.manifest.mesh.map_or(1, |mesh| mesh.ep.max(1));
        let rank = u32::try_from(rank % group as usize).unwrap_or_default();
        Share::new(rank, placement)
    }

    /// The same on one rank of several: of the experts only those of its share.
    ///
    /// # Errors
    /// As [`Self::load_weights`], and when the placement does not fit the bundle.
    pub fn load_share(
        &mut self,
        checkpoint: &Checkpoint,
        share: &Share,
        progress: &mut dyn FnMut(LoadProgress<'_>),
    ) -> Result<(), RuntimeError> {
        let start = Instant::now();
        let addresses = &self.addresses;
        let address = |id: BufferId| addresses[id.0 as usize];
        let device = self.device.as_mut();
        let mut write = |at: u64, bytes: &[u8]| device.write(at, bytes);
        self.stats.weight_bytes = weights::load(
            &self.manifest,
            &address,
            &mut write,
            checkpoint,
            share,
            progress,
        )?;
        self.stats.weights = start.elapsed();
        self.weights_began = Some(start);
        self.weights_loaded = true;
        Ok(())
    }

    /// Begins a sequence: empty caches, no tokens.
    ///
    /// # Errors
    /// When the bundle is not a text model, or its weights are not loaded.
    pub fn session(&mut self) -> Result<Session<'_>, RuntimeError> {
        Session::new(self)
    }

    /// What the bundle says.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Device memory by use.
    #[must_use]
    pub fn memory_plan(&self) -> MemoryPlan {
        MemoryPlan::of(&self.manifest)
    }

    /// Times and counts so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Times, counts and memory, to print.
    #[must_use]
    pub fn stats_report(&self) -> StatsReport<'_> {
        StatsReport {
            stats: &self.stats,
            memory: self.memory_plan(),
            states_committed: self.committed.iter().sum(),
        }
    }

    /// Begins a time line of everything from the loading on. Device times come from launches that are timed one by
    /// one, so that sequences are not kept as graphs meanwhile.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn start_trace(&mut self) -> Result<(), RuntimeError> {
        self.device.set_timing(true)?;
        let mut trace = Trace::new(self.born, &self.device.props().name);
        let kernels = self.manifest.kernels.len();
        let load = serde_json::json!({ "model": self.manifest.model, "kernels": kernels });
        trace.span("load", self.born, self.born + self.stats.load, load);
        if let Some(began) = self.weights_began {
            let bytes = serde_json::json!({ "bytes": self.stats.weight_bytes });
            trace.span("weights", began, began + self.stats.weights, bytes);
        }
        self.trace = Some(trace);
        Ok(())
    }

    /// Ends the time line of [`Self::start_trace`].
    ///
    /// # Errors
    /// When the device is lost.
    pub fn take_trace(&mut self) -> Result<Option<Trace>, RuntimeError> {
        if self.trace.is_some() && self.device.props().asynchronous {
            self.device.set_timing(false)?;
        }
        Ok(self.trace.take())
    }

    /// Forgets the times of steps and kernels; those of loading stay.
    pub fn reset_stats(&mut self) {
        self.stats.phases.clear();
        self.stats.kernels.clear();
    }

    /// Zeroes all states.
    pub(crate) fn clear_states(&mut self) -> Result<(), RuntimeError> {
        // Memory that was never committed is zero when it is.
        for (&bytes, &address) in self.committed.iter().zip(&self.addresses) {
            if bytes > 0 {
                self.device.fill(address, 0, bytes)?;
            }
        }
        Ok(())
    }

    /// Executes an entry: writes all inputs, launches all steps, and reads the outputs asked for, in that order.
    ///
    /// `tokens` counts for the statistics only.
    ///
    /// # Errors
    /// When a dim or an input does not fit the manifest, or the device fails.
    pub fn execute(
        &mut self,
        entry: &str,
        dims: &DimValues,
        inputs: &[(&str, &[u8])],
        outputs: &[&str],
        tokens: u64,
    ) -> Result<Vec<Vec<u8>>, RuntimeError> {
        let start = Instant::now();
        if !self.weights_loaded {
            return Err(RuntimeError::NoWeights);
        }
        let index = self
            .manifest
            .entries
            .iter()
            .position(|known| known.name == entry)
            .ok_or_else(|| {
                let known: Vec<&str> = self
                    .manifest
                    .entries
                    .iter()
                    .map(|entry| entry.name.as_str())
                    .collect();
                RuntimeError::NoEntry {
                    name: entry.to_owned(),
                    known: known.join(", "),
                }
            })?;
        self.check_dims(dims)?;
        self.commit_states(index, dims)?;
        self.write_inputs(index, dims, inputs)?;
        let written = Instant::now();
        self.run_steps(index, dims)?;
        let ran = Instant::now();
        let read = self.read_outputs(index, dims, outputs)?;

        let wall = start.elapsed();
        let phase = self.stats.phases.entry(entry.to_owned()).or_default();
        phase.record(tokens, wall);
        if let Some(trace) = &mut self.trace {
            let none = serde_json::Value::Null;
            trace.span(entry, start, start + wall, serde_json::json!(dims));
            trace.span("inputs", start, written, none.clone());
            trace.span("steps", written, ran, none.clone());
            trace.span("outputs", ran, start + wall, none);
        }
        Ok(read)
    }

    pub(crate) fn check_dims(&self, dims: &DimValues) -> Result<(), RuntimeError> {
        for decl in &self.manifest.dims {
            let value = dims.get(&decl.name);
            if !value.is_some_and(|value| (decl.min..=decl.max).contains(value)) {
                return Err(RuntimeError::DimOutOfRange {
                    name: decl.name.clone(),
                    found: value.map_or_else(|| "missing".to_owned(), u64::to_string),
                    min: decl.min,
                    max: decl.max,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn write_inputs(
        &mut self,
        entry: usize,
        dims: &DimValues,
        inputs: &[(&str, &[u8])],
    ) -> Result<(), RuntimeError> {
        let entry = &self.manifest.entries[entry];
        let bad = |name: &str, what: String| RuntimeError::BadInput {
            entry: entry.name.clone(),
            name: name.to_owned(),
            what,
        };
        let by_name: BTreeMap<&str, &[u8]> = inputs.iter().copied().collect();
        let mut pieces = Vec::with_capacity(entry.inputs.len());
        for (name, _) in inputs {
            if !entry.inputs.iter().any(|port| port.name == *name) {
                return Err(bad(name, "the entry has no such input".to_owned()));
            }
        }
        for port in &entry.inputs {
            let bytes = by_name
                .get(port.name.as_str())
                .ok_or_else(|| bad(&port.name, "it was not given".to_owned()))?;
            let expected = port.ty.bytes(dims);
            if expected != Some(bytes.len() as u64) {
                let what = format!("{} bytes were given for {}", bytes.len(), port.ty);
                return Err(bad(&port.name, what));
            }
            pieces.push((self.addresses[port.buffer.0 as usize], *bytes));
        }
        self.device.write_many(&pieces)?;
        Ok(())
    }

    /// Backs the states with memory as far as a step with these dims reaches.
    pub(crate) fn commit_states(
        &mut self,
        index: usize,
        dims: &DimValues,
    ) -> Result<(), RuntimeError> {
        for view in &self.entries[index].states {
            let buffer = view.buffer.0 as usize;
            // Validation has bounded every view by its buffer.
            let bytes = view
                .end(dims)
                .unwrap_or(self.manifest.buffers[buffer].bytes);
            if bytes > self.committed[buffer] {
                let address = self.addresses[buffer];
                self.device.commit(address, bytes)?;
                self.committed[buffer] = self.device.committed(address)?;
            }
        }
        Ok(())
    }

    fn run_steps(&mut self, index: usize, dims: &DimValues) -> Result<(), RuntimeError> {
        let manifest = &self.manifest;
        let entry = &manifest.entries[index];
        let prepared = &mut self.entries[index];
        let kernel_of = |step: &Step| step.kernel.0 as usize;
        let failed = |step: &Step, source| RuntimeError::Step {
            entry: entry.name.clone(),
            step: step.label.clone(),
            source,
        };
        for (step, prepared) in entry.steps.iter().zip(&mut prepared.steps) {
            prepared
                .prepare(manifest, step, dims, self.device.as_ref())
                .map_err(|err| err.of(manifest, entry, step))?;
        }
        let mut launches = Vec::with_capacity(entry.steps.len());
        let mut launched = Vec::with_capacity(entry.steps.len());
        for (step, prepared) in entry.steps.iter().zip(&prepared.steps) {
            if let Some((dims, params)) = prepared.launch() {
                launches.push(Launch {
                    function: self.functions[kernel_of(step)],
                    dims,
                    params,
                    label: &step.label,
                });
                launched.push(step);
            } else {
                let name = &manifest.kernels[kernel_of(step)].name;
                self.stats.count(name, |kernel| kernel.skipped += 1);
            }
        }
        let active = || prepared.steps.iter().map(|step| step.launch().is_some());
        let known = prepared
            .sequences
            .iter()
            .find(|(mask, _)| mask.iter().copied().eq(active()));
        let key = match known {
            Some((_, key)) => *key,
            None => {
                self.sequences += 1;
                let key = SequenceKey(self.sequences);
                prepared.sequences.push((active().collect(), key));
                key
            }
        };
        let issued = Instant::now();
        self.device.push_range(&entry.name);
        let run = self.device.launch_sequence(key, &launches);
        let run = run.and_then(|reports| {
            self.device
                .synchronize()
                .and_then(|()| self.device.take_timings())
                .map(|times| (reports, times))
                .map_err(|source| SequenceError {
                    index: None,
                    source,
                })
        });
        self.device.pop_range();
        let (reports, times) =
            run.map_err(
                |err| match err.index.and_then(|index| launched.get(index)) {
                    Some(step) => failed(step, err.source),
                    None => err.source.into(),
                },
            )?;
        for (i, (step, report)) in launched.iter().zip(&reports).enumerate() {
            let name = &manifest.kernels[kernel_of(step)].name;
            self.stats.count(name, |kernel| {
                kernel.launches += 1;
                kernel.time += times.get(i).map_or(Duration::ZERO, |time| time.duration);
                kernel.instructions += report.instructions.unwrap_or(0);
            });
        }
        if let Some(trace) = &mut self.trace {
            let all = launches.iter().zip(&launched).zip(&reports).zip(&times);
            let traced = all.map(|(((launch, step), report), time)| TracedLaunch {
                launch: *launch,
                kernel: &manifest.kernels[kernel_of(step)].name,
                report: *report,
                time: *time,
            });
            trace.launches(&entry.name, issued, traced);
        }
        Ok(())
    }

    fn read_outputs(
        &mut self,
        entry: usize,
        dims: &DimValues,
        outputs: &[&str],
    ) -> Result<Vec<Vec<u8>>, RuntimeError> {
        let entry = &self.manifest.entries[entry];
        let mut read = Vec::with_capacity(outputs.len());
        for name in outputs {
            let port: Option<&Port> = entry.outputs.iter().find(|port| port.name == *name);
            let bytes = port.and_then(|port| Some((port, port.ty.bytes(dims)?)));
            let Some((port, bytes)) = bytes else {
                let known: Vec<&str> = entry
                    .outputs
                    .iter()
                    .map(|port| port.name.as_str())
                    .collect();
                return Err(RuntimeError::NoEntry {
                    name: format!("{}.{name}", entry.name),
                    known: known.join(", "),
                });
            };
            // Validation has bounded the output by its buffer, which the device has allocated.
            let mut data = vec![0; bytes as usize];
            self.device
                .read(self.addresses[port.buffer.0 as usize], &mut data)?;
            read.push(data);
        }
        Ok(read)
    }

    /// Host time of loading, of modules and weights.
    #[must_use]
    pub fn load_time(&self) -> Duration {
        self.stats.load + self.stats.weights
    }
}

/// Allocates the buffers: weights, ports and the temporaries' arena as one plan; states as reservations that grow.
fn place(manifest: &Manifest, device: &mut dyn Device) -> Result<(Vec<u64>, u64), RuntimeError> {
    let plan = MemoryPlan::of(manifest);
    let needed = plan
        .weights
        .saturating_add(plan.ports)
        .saturating_add(plan.exchange)
        .saturating_add(plan.arena);
    let memory = device.memory()?;
    if needed > memory.free {
        return Err(RuntimeError::DoesNotFit {
            needed,
            free: memory.free,
            total: memory.total,
            plan: plan.to_string(),
        });
    }
    let mut planned = Vec::new();
    for buffer in &manifest.buffers {
        let apart = matches!(
            buffer.kind,
            BufferKind::Temp { .. } | BufferKind::State | BufferKind::Exchange
        );
        if !apart {
            planned.push(PlanBuffer {
                what: &buffer.name,
                bytes: buffer.bytes,
            });
        }
    }
    if manifest.arena_bytes > 0 {
        planned.push(PlanBuffer {
            what: "temporaries",
            bytes: manifest.arena_bytes,
        });
    }
    let mut placed = device.alloc_plan(&planned)?.into_iter();
    let mut addresses = Vec::with_capacity(manifest.buffers.len());
    for buffer in &manifest.buffers {
        addresses.push(match buffer.kind {
            BufferKind::Temp { .. } => 0,
            BufferKind::State => device.reserve(buffer.bytes, &buffer.name)?,
            BufferKind::Exchange => device.alloc_symmetric(buffer.bytes, &buffer.name)?,
            _ => placed.next().unwrap_or_default(),
        });
    }
    fill_worlds(manifest, &addresses, device)?;
    Ok((addresses, placed.next().unwrap_or_default()))
}

/// Tells kernels which rank this is, and where the others' exchange buffers are mapped.
fn fill_worlds(
    manifest: &Manifest,
    addresses: &[u64],
    device: &mut dyn Device,
) -> Result<(), RuntimeError> {
    let of_kind = |kind| manifest.buffers.iter().position(|b| b.kind == kind);
    for (buffer, &address) in manifest.buffers.iter().zip(addresses) {
        let BufferKind::World { ranks: group } = buffer.kind else {
            continue;
        };
        let exchange = of_kind(BufferKind::Exchange).ok_or(RuntimeError::NoExchange)?;
        let place = device.place_in_world(addresses[exchange])?;
        if !place.peers.len().is_multiple_of(group as usize) {
            return Err(RuntimeError::WrongRanks {
                group,
                ranks: place.peers.len(),
            });
        }
        // Ranks of a group are neighbours.
        let first = place.rank / group * group;
        let mut bytes: Vec<u8> = [place.rank - first, group, first, 0]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        for peer in &place.peers[first as usize..(first + group) as usize] {
            bytes.extend(peer.to_le_bytes());
        }
        device.write(address, &bytes)?;
    }
    Ok(())
}

/// The views of states in an entry's steps.
fn state_views(manifest: &Manifest, entry: &Entry) -> Vec<View> {
    let mut views: Vec<View> = entry
        .steps
        .iter()
        .flat_map(|step| &step.operands)
        .filter(|view| manifest.buffers[view.buffer.0 as usize].kind == BufferKind::State)
        .cloned()
        .collect();
    let key = |view: &View| (view.buffer, view.offset);
    views.sort_by_key(key);
    views.dedup();
    views
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "weights {}, inputs and outputs {}, temporaries {}, caches up to {} bytes",
            self.weights, self.ports, self.arena, self.states
        )
    }
}
