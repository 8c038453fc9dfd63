//! Runs the launches of a file, once for each schedule.
//!
//! In: PTX, a launch file, options. Out: a [`Report`]; or an [`InputError`]
//! when the kernel could not even start. Each schedule has a device of its
//! own, so that no run sees what another one left behind.

use std::path::Path;

use mcc_ptx::{Function, FunctionKind};
use mcc_sim::{
    Completion, Gpu, GpuConfig, LaunchConfig, LaunchTrace, Module, SimError, TraceLimits,
};

use crate::approx::approximations;
use crate::compare::{compare, difference};
use crate::data::{self, Budget, Data};
use crate::error::InputError;
use crate::file::{Launch, LaunchFile};
use crate::output;
use crate::pack::{Packer, Placed};
use crate::report::{Finding, LaunchReport, Report, Run};
use crate::timeline;

/// Which schedules of asynchronous work to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedules {
    One(Completion),
    /// The earliest, the latest, and random ones up to this number in all.
    Many(u32),
}

impl Schedules {
    fn list(self) -> Vec<Completion> {
        match self {
            Schedules::One(c) => vec![c],
            Schedules::Many(n) => [Completion::Early, Completion::Late]
                .into_iter()
                .chain((1..).map(Completion::Random))
                .take(n.max(1) as usize)
                .collect(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    /// Report races, missing fences and uses of what nothing has written.
    pub check: bool,
    pub schedules: Schedules,
    /// Host threads; 0 takes as many as there are.
    pub threads: usize,
    /// Bytes of all buffers together.
    pub memory_limit: u64,
    /// Warp instructions of a launch.
    pub instruction_limit: u64,
    /// Keep a time line of the first schedule.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            check: false,
            schedules: Schedules::One(Completion::Early),
            threads: 0,
            memory_limit: 8 << 30,
            instruction_limit: 20_000_000_000,
            trace: false,
        }
    }
}

/// Runs `file`, whose paths start from `dir`, and writes its outputs.
pub fn run(
    ptx: &str,
    file: &LaunchFile,
    dir: &Path,
    options: &Options,
) -> Result<Report, InputError> {
    let module = mcc_ptx::parse(ptx).map_err(|e| SimError::BadPtx {
        message: e.to_string(),
    })?;
    let kernels: Vec<&Function> = file
        .launches
        .iter()
        .map(|l| kernel(&module, l))
        .collect::<Result<_, _>>()?;
    let inputs = Inputs::load(file, dir, options)?;
    let mut report = Report {
        approximate: kernels
            .iter()
            .enumerate()
            .filter(|(i, k)| kernels[..*i].iter().all(|b| b.name != k.name))
            .flat_map(|(_, k)| approximations(&module, &k.name))
            .collect(),
        ..Report::default()
    };
    // Contents of all buffers after the first schedule that ran to its end.
    let mut first: Option<(String, Vec<Vec<u8>>)> = None;
    for completion in options.schedules.list() {
        let mut once = Once {
            ptx,
            file,
            kernels: &kernels,
            inputs: &inputs,
            options,
            notes: Vec::new(),
            timeline: (options.trace && report.runs.is_empty()).then(Vec::new),
        };
        let schedule = name(completion);
        let outcome = once.run(completion)?;
        if let Some(timeline) = once.timeline {
            once.notes.extend(timeline::notes(&timeline));
            report.timeline = timeline;
        }
        for note in once.notes {
            if !report.notes.contains(&note) {
                report.notes.push(note);
            }
        }
        let finding = match outcome {
            Ok(finished) => {
                match &first {
                    None => {
                        report.launches = finished.launches;
                        first = Some((schedule.clone(), finished.contents));
                    }
                    Some((other, before)) => {
                        let buffers = file.buffers.iter().zip(&inputs.data);
                        let contents = before.iter().zip(&finished.contents);
                        report.differences.extend(buffers.zip(contents).filter_map(
                            |((b, d), (x, y))| {
                                difference(&b.name, d.dtype, [other, &schedule], [x, y])
                            },
                        ));
                    }
                }
                None
            }
            Err(e) => Some(Finding::of(&e)),
        };
        report.runs.push(Run { schedule, finding });
    }
    if let Some((_, contents)) = &first {
        for (want, expected) in inputs.expected.iter().zip(&file.expected) {
            let name = &expected.want.name;
            let Some(i) = file.buffer(name) else { continue };
            let from = expected.offset as usize;
            let got = &contents[i][from..from + want.size as usize];
            report
                .expected
                .push(compare(name, got, want, expected.abs, expected.rel));
        }
        report.outputs = output::write(file, dir, &inputs.data, contents)?;
    }
    Ok(report)
}

pub fn name(completion: Completion) -> String {
    match completion {
        Completion::Early => "early".into(),
        Completion::Late => "late".into(),
        Completion::Random(seed) => format!("seed {seed}"),
    }
}

/// The kernel that a launch means.
fn kernel<'a>(module: &'a mcc_ptx::Module, launch: &Launch) -> Result<&'a Function, InputError> {
    let all: Vec<&Function> = module
        .functions()
        .filter(|f| f.kind == FunctionKind::Entry && f.body.is_some())
        .collect();
    let known = || {
        all.iter()
            .map(|f| f.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (&launch.kernel, &all[..]) {
        (Some(name), _) => all
            .iter()
            .find(|f| f.name == *name)
            .copied()
            .ok_or_else(|| {
                let message = match &all[..] {
                    [] => format!("the PTX has no kernel `{name}`, nor any other"),
                    _ => format!("the PTX has no kernel `{name}`; it has {}", known()),
                };
                InputError::field(format!("{}.kernel", launch.at), message)
            }),
        (None, [one]) => Ok(one),
        (None, []) => Err(InputError::field(&launch.at, "the PTX has no kernel")),
        (None, _) => Err(InputError::field(
            &launch.at,
            format!(
                "the PTX has several kernels; `kernel` says which: {}",
                known()
            ),
        )),
    }
}

/// What all schedules begin with.
struct Inputs {
    data: Vec<Data>,
    expected: Vec<Data>,
    memory: u64,
}

impl Inputs {
    fn load(file: &LaunchFile, dir: &Path, options: &Options) -> Result<Inputs, InputError> {
        let memory = file
            .device
            .memory
            .unwrap_or(u64::MAX)
            .min(options.memory_limit);
        let mut budget = Budget::new(memory);
        let data: Vec<Data> = file
            .buffers
            .iter()
            .map(|b| data::load(b, dir, None, &mut budget))
            .collect::<Result<_, _>>()?;
        let mut budget = Budget::new(memory);
        let mut expected = Vec::new();
        for e in &file.expected {
            let Some(buffer) = file.buffer(&e.want.name).map(|i| &data[i]) else {
                continue; // Refused when the launch file was read.
            };
            let want = data::load(&e.want, dir, Some((buffer, e.offset)), &mut budget)?;
            if e.offset
                .checked_add(want.size)
                .is_none_or(|end| end > buffer.size)
            {
                return Err(InputError::field(
                    &e.want.at,
                    format!(
                        "{} bytes from byte {} on are expected of buffer `{}`, which has {}",
                        want.size, e.offset, e.want.name, buffer.size
                    ),
                ));
            }
            expected.push(want);
        }
        Ok(Inputs {
            data,
            expected,
            memory,
        })
    }
}

struct Finished {
    launches: Vec<LaunchReport>,
    contents: Vec<Vec<u8>>,
}

/// One schedule.
struct Once<'a> {
    ptx: &'a str,
    file: &'a LaunchFile,
    kernels: &'a [&'a Function],
    inputs: &'a Inputs,
    options: &'a Options,
    notes: Vec<String>,
    /// Where it is asked for.
    timeline: Option<Vec<LaunchTrace>>,
}

impl Once<'_> {
    /// The inner error is what the kernel did wrong.
    fn run(&mut self, completion: Completion) -> Result<Result<Finished, SimError>, InputError> {
        let default = GpuConfig::default();
        let gpu = Gpu::new(GpuConfig {
            sms: self.file.device.sms.unwrap_or(default.sms),
            global_bytes: self.inputs.memory.saturating_add(1 << 20),
            threads: self.options.threads,
            completion,
            instruction_limit: Some(self.options.instruction_limit),
            launch_limit: Some(self.options.instruction_limit),
            check: self.options.check,
            trace: self.timeline.as_ref().map(|_| TraceLimits::default()),
            ..default
        });
        let module = gpu.load_module(self.ptx)?;
        let mut placed = Vec::new();
        for (buffer, data) in self.file.buffers.iter().zip(&self.inputs.data) {
            let at = |e: SimError| InputError::field(&buffer.at, e.to_string());
            let address = gpu.alloc(data.size, 256).map_err(at)?;
            if let Some(bytes) = &data.bytes {
                gpu.write(address, bytes).map_err(at)?;
            }
            placed.push(Placed {
                name: buffer.name.clone(),
                address,
                size: data.size,
            });
        }
        let mut launches = Vec::new();
        for (launch, kernel) in self.file.launches.iter().zip(self.kernels) {
            let config = config(launch, &module, &kernel.name, &gpu)?;
            let mut packer = Packer {
                gpu: &gpu,
                buffers: &placed,
                notes: Vec::new(),
            };
            let layout = module.param_layout(&kernel.name)?;
            let params = packer.pack(launch, &kernel.name, &kernel.params, &layout)?;
            self.notes.append(&mut packer.notes);
            let outcome = gpu.launch(&module, &kernel.name, &config, &params);
            if let Some(timeline) = &mut self.timeline {
                timeline.append(&mut gpu.take_traces());
            }
            match outcome {
                Ok(stats) => launches.push(LaunchReport {
                    kernel: kernel.name.clone(),
                    grid: config.grid,
                    cluster: config.cluster,
                    block: config.block,
                    static_shared: module.static_smem(&kernel.name)?,
                    dynamic_shared: config.dynamic_smem,
                    blocks: stats.ctas,
                    warp_instructions: stats.warp_instructions,
                    wgmma: stats.wgmma,
                    wgmma_multiply_adds: stats.wgmma_macs,
                    bulk_copy_bytes: stats.bulk_bytes,
                }),
                Err(SimError::Launch { message, .. }) => {
                    return Err(InputError::field(&launch.at, message));
                }
                Err(e) if is_finding(&e) => return Ok(Err(e)),
                Err(e) => return Err(e.into()),
            }
        }
        let mut contents = Vec::new();
        for (place, data) in placed.iter().zip(&self.inputs.data) {
            let mut bytes = vec![0; data.size as usize];
            gpu.read(place.address, &mut bytes)?;
            contents.push(bytes);
        }
        Ok(Ok(Finished { launches, contents }))
    }
}

/// Whether the kernel did it, not whoever handed it in.
fn is_finding(e: &SimError) -> bool {
    matches!(e, SimError::Fault(_) | SimError::Deadlock(_))
}

/// The launch as the device takes it. What the device would refuse is refused
/// here, with the field that is wrong.
fn config(
    launch: &Launch,
    module: &Module,
    kernel: &str,
    gpu: &Gpu,
) -> Result<LaunchConfig, InputError> {
    let at = |field: &str| format!("{}.{field}", launch.at);
    let demands = module.demands(kernel)?;
    let Some(block) = launch.block.or(demands.block) else {
        return Err(InputError::field(
            at("block"),
            format!(
                "the field is missing, and kernel `{kernel}` has no .reqntid that would say it"
            ),
        ));
    };
    let cluster = launch.cluster.or(demands.cluster).unwrap_or([1; 3]);
    let says = |what: &str, want: [u32; 3], got: [u32; 3]| {
        format!("{got:?}, but kernel `{kernel}` has {what} {want:?}")
    };
    if let Some(want) = demands.block.filter(|want| *want != block) {
        return Err(InputError::field(
            at("block"),
            says(".reqntid", want, block),
        ));
    }
    if let Some(want) = demands.cluster.filter(|want| *want != cluster) {
        let message = says(".reqnctapercluster", want, cluster);
        return Err(InputError::field(at("cluster"), message));
    }
    let threads: u64 = block.iter().map(|&b| u64::from(b)).product();
    let most = demands.max_threads.unwrap_or(1024).min(1024);
    if threads > most || block[2] > 64 {
        return Err(InputError::field(
            at("block"),
            format!(
                "{threads} threads, {} of them along z; kernel `{kernel}` takes {most}, and 64 along z",
                block[2]
            ),
        ));
    }
    if let Some(d) = (0..3).find(|&d| !launch.grid[d].is_multiple_of(cluster[d])) {
        return Err(InputError::field(
            at("grid"),
            format!(
                "{} blocks along {} are no multiple of the cluster's {}",
                launch.grid[d],
                ["x", "y", "z"][d],
                cluster[d]
            ),
        ));
    }
    let (fixed, limit) = (
        module.static_smem(kernel)?,
        gpu.config().smem_per_block_optin,
    );
    if u64::from(fixed) + u64::from(launch.shared) > u64::from(limit) {
        return Err(InputError::field(
            at("shared"),
            format!(
                "{} bytes, and {fixed} that the kernel declares, are more than the {limit} of a block",
                launch.shared
            ),
        ));
    }
    Ok(LaunchConfig {
        grid: launch.grid,
        block,
        cluster,
        dynamic_smem: launch.shared,
        programmatic: launch.programmatic,
    })
}
