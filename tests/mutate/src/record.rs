//! Launches of a bundle's kernels, recorded while the bundle's own check runs them.
//!
//! In: a bundle. Out: a [`Subject`] for every kernel that was launched.
//! Holds: a recorded region is the bytes of the operands' views and nothing beyond, so that what strays from its
//! operand faults; two launches of one kernel that differ in nothing but addresses are recorded once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use mcc_bundle::{Bundle, DimValues, Entry, Manifest, MapAxes, Param};
use mcc_runtime::{Agreement, CheckOptions, DeviceOptions, Launch, Model, SimDevice, cases, check};
use mcc_sim::{Gpu, LaunchConfig, TensorMap};

use crate::Error;
use crate::subject::{Case, Pointer, Region, Subject};

/// Launches of one kernel that are kept.
const LAUNCHES: usize = 16;

/// What is recorded.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// Entries; all when empty.
    pub entries: Vec<String>,
    /// Which of the sizes that [`mcc_runtime::cases`] has for an entry.
    pub cases: Vec<usize>,
    /// Tokens of a context that the last of them is run with once more, so that a ring over its tiles turns.
    pub context: Option<u64>,
    /// SMs of the devices, one after the other. With few, blocks that stay work through several tiles each, and
    /// rings of stages turn.
    pub sms: Vec<u32>,
    /// Seeds of inputs.
    pub seeds: Vec<u64>,
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            // One row in a long context, a tile of rows, a tile and one in a long context.
            cases: vec![0, 3, 4],
            // Six tiles of 64.
            context: Some(330),
            sms: vec![1, 3],
            seeds: vec![0],
        }
    }
}

/// What the observer knows and collects.
struct State {
    manifest: Manifest,
    /// The case that runs now.
    now: Option<(Entry, DimValues, u64)>,
    /// By kernel.
    cases: Vec<Vec<Case>>,
    failure: Option<String>,
}

/// Runs a bundle with made-up weights and inputs, and records its launches.
///
/// # Errors
/// When the bundle does not load or a kernel fails.
pub fn record(bundle: &Bundle, options: &RecordOptions) -> Result<Vec<Subject>, Error> {
    let state = Rc::new(RefCell::new(State {
        manifest: bundle.manifest.clone(),
        now: None,
        cases: vec![Vec::new(); bundle.manifest.kernels.len()],
        failure: None,
    }));
    for &sms in &options.sms {
        on_device(bundle, options, sms, &state)?;
    }
    let mut state = state.borrow_mut();
    let recorded = std::mem::take(&mut state.cases);
    let kernels = bundle
        .manifest
        .kernels
        .iter()
        .zip(&bundle.ptx)
        .zip(recorded);
    kernels
        .filter(|(_, cases)| !cases.is_empty())
        .map(|((kernel, ptx), cases)| Subject::new(&kernel.name, ptx, cases))
        .collect()
}

/// Records what a device with so many SMs launches.
fn on_device(
    bundle: &Bundle,
    options: &RecordOptions,
    sms: u32,
    state: &Rc<RefCell<State>>,
) -> Result<(), Error> {
    let device_options = DeviceOptions {
        sms,
        ..DeviceOptions::default()
    };
    let mut watched = SimDevice::new(&device_options);
    let observer = Rc::clone(state);
    watched.observe(Box::new(move |gpu, launch| {
        let mut state = observer.borrow_mut();
        if let Err(message) = state.launch(gpu, launch, sms) {
            state.failure.get_or_insert(message);
        }
    }));
    let mut reference = Model::load(Box::new(watched), bundle.clone())?;
    let mut subject = Model::load(Box::new(SimDevice::new(&device_options)), bundle.clone())?;
    for model in [&mut reference, &mut subject] {
        model.load_synthetic(0, &mut |_| ())?;
    }
    let agreements: Vec<Agreement> = bundle
        .ptx
        .iter()
        .map(|ptx| Agreement::of(ptx, true))
        .collect();
    let entries = bundle.manifest.entries.iter();
    let entries =
        entries.filter(|e| options.entries.is_empty() || options.entries.contains(&e.name));
    for entry in entries {
        let sizes = cases(&bundle.manifest, entry);
        let mut dims: Vec<DimValues> = options
            .cases
            .iter()
            .filter_map(|&n| sizes.get(n).cloned())
            .collect();
        if let (Some(tokens), Some(last)) = (options.context, dims.last().cloned()) {
            let context = |name: &str| bundle.manifest.dim(name).filter(|_| name.starts_with('C'));
            let long = last.into_iter().map(|(name, n)| {
                let grown = context(&name).map_or(n, |dim| n.max(tokens.clamp(dim.min, dim.max)));
                (name, grown)
            });
            dims.push(long.collect());
            dims.dedup();
        }
        let checked = CheckOptions {
            seeds: options.seeds.clone(),
            entries: vec![entry.name.clone()],
            dims,
            tokens: 0,
            ..CheckOptions::default()
        };
        let mut now = |entry: &Entry, dims: &DimValues, seed| {
            state.borrow_mut().now = Some((entry.clone(), dims.clone(), seed));
        };
        let report = check(
            &mut reference,
            &mut subject,
            &agreements,
            &checked,
            &mut now,
        )?;
        if let Some(failure) = report.failures.first() {
            return Err(Error::Record(failure.error.clone()));
        }
    }
    match state.borrow_mut().failure.take() {
        Some(message) => Err(Error::Record(message)),
        None => Ok(()),
    }
}

impl State {
    fn launch(&mut self, gpu: &Gpu, launch: &Launch<'_>, sms: u32) -> Result<(), String> {
        let Some((entry, dims, seed)) = &self.now else {
            return Ok(());
        };
        // Functions are numbered as they are loaded, which is the manifest's order.
        let index = launch.function.0;
        let kernel = &self.manifest.kernels[index];
        if self.cases[index].len() >= LAUNCHES {
            return Ok(());
        }
        let steps = entry.steps.iter();
        let mut steps = steps.filter(|s| s.kernel.0 as usize == index && s.label == launch.label);
        let step = steps
            .next()
            .ok_or_else(|| format!("launch `{}` is of no step", launch.label))?;
        let (offsets, _) = kernel.launch.param_offsets();
        // Where each operand lies; a kernel may take an operand by address, by tensor map, or both.
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut found: Vec<(usize, bool, u64, u64)> = Vec::new();
        for (param, &at) in kernel.launch.params.iter().zip(&offsets) {
            let (address, before) = match param {
                Param::Pointer { .. } => {
                    let bytes = launch.params[at..at + 8].try_into();
                    let bytes = bytes.map_err(|_| "eight bytes are not eight bytes")?;
                    (u64::from_le_bytes(bytes), 0)
                }
                Param::TensorMap { axes, .. } => {
                    let bytes = launch.params[at..at + 128].try_into();
                    let bytes: [u8; 128] = bytes.map_err(|_| "a tensor map is cut off")?;
                    let map = TensorMap::decode(&bytes)?;
                    // A ragged map begins a box before its view.
                    let before = match axes {
                        MapAxes::Ragged => map.dims[1] * map.strides[0],
                        MapAxes::Rows | MapAxes::Columns => 0,
                    };
                    (map.global_address + before, before)
                }
                Param::Extent { .. } | Param::Stride { .. } => continue,
            };
            let view = &step.operands[param.operand()];
            let end = view.end(dims).ok_or("a view without a size")?;
            // An empty operand still has an address.
            let bytes = (end - view.offset).max(1);
            ranges.push(address..address + bytes);
            let map = matches!(param, Param::TensorMap { .. });
            found.push((at, map, address, before));
        }
        let places = merged(ranges);
        let mut regions = Vec::with_capacity(places.len());
        for place in &places {
            let mut bytes = vec![0; (place.end - place.start) as usize];
            gpu.read(place.start, &mut bytes)
                .map_err(|err| err.to_string())?;
            regions.push(Region {
                bytes,
                align: 1 << place.start.trailing_zeros().min(8),
            });
        }
        let pointers = found
            .into_iter()
            .filter_map(|(at, map, address, before)| {
                let region = places.iter().position(|place| place.contains(&address))?;
                Some(Pointer {
                    at,
                    map,
                    region,
                    offset: (address - places[region].start).cast_signed() - before.cast_signed(),
                })
            })
            .collect();
        let shape: BTreeMap<&String, &u64> = dims.iter().collect();
        let shape: Vec<String> = shape.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let case = Case {
            label: format!("{} {} sms={sms} seed {seed}", entry.name, shape.join(" ")),
            config: LaunchConfig {
                grid: launch.dims.grid,
                block: [launch.dims.block, 1, 1],
                cluster: launch.dims.cluster,
                dynamic_smem: launch.dims.smem_bytes,
                programmatic: launch.dims.programmatic,
            },
            params: launch.params.to_vec(),
            regions,
            pointers,
            sms,
        };
        let known = self.cases[index].iter().filter(|c| c.alike(&case)).count();
        if known == 0 {
            self.cases[index].push(case);
        }
        Ok(())
    }
}

impl Case {
    /// Whether another launch differs in addresses and contents alone.
    fn alike(&self, other: &Self) -> bool {
        let shape = |case: &Self| {
            let mut params = case.params.clone();
            for p in &case.pointers {
                // In a tensor map the address stands behind eight other bytes.
                let at = if p.map { p.at + 8 } else { p.at };
                params[at..at + 8].fill(0);
            }
            params
        };
        let seed = |case: &Self| case.label.rsplit(' ').next().map(str::to_owned);
        self.config == other.config && seed(self) == seed(other) && shape(self) == shape(other)
    }
}

/// Ranges in order, those that overlap as one.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|r| (r.start, r.end));
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}
