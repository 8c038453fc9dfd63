//! Launches in order on each of several devices, all at once.
//!
//! In: a queue of launches for each device (a stream). Out: for each queue what
//! its launches did, or why it ended early; the others go on then. A launch
//! begins when the one before it in its queue has ended. With
//! [`Completion::Random`] the seed also draws which device runs ahead and which
//! falls behind; with one host thread everything is the same at every run.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Completion, Gpu, Launch, LaunchStats};
use crate::check::{LaunchCheck, Shape};
use crate::error::SimError;
use crate::exec::registers;
use crate::exec::state::Env;
use crate::network::Network;
use crate::resident::{self, Death, Failure, Job, Line, Schedule};
use crate::trace::Taken;

/// Launches of fewer warp instructions run on the calling thread.
const SMALL: u64 = 2000;

/// Launches of one device, which run one after the other.
#[derive(Clone, Default)]
pub struct Queue<'a> {
    pub launches: Vec<Launch<'a>>,
    /// Where the device is to fail.
    pub dies: Option<Death>,
}

/// Why a queue ended early.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("launch {launch} of the queue, at {time} ns: {source}")]
pub struct QueueError {
    /// Index of the launch.
    pub launch: usize,
    /// `%globaltimer` of the device, in nanoseconds.
    pub time: u64,
    pub source: SimError,
}

/// Runs queues of several devices at once, each to its end: their kernels may
/// wait for each other. What fails ends its own queue; those that wait for it
/// go on until their own time limit, or are dead-locked. Time jumps when
/// nothing else can go on, so that limits of many seconds are reached at once.
/// Host threads are those of the first device.
///
/// # Errors
/// When a launch is refused, two queues are of one device, or devices do not
/// belong together; then nothing has run.
#[allow(clippy::type_complexity)] // One result for each queue.
pub fn launch_queues(
    queues: &[Queue<'_>],
) -> Result<Vec<Result<Vec<LaunchStats>, QueueError>>, SimError> {
    let ways = Ways {
        lines: queues.iter().map(|q| &q.launches[..]).collect(),
        dies: queues.iter().map(|q| q.dies).collect(),
        together: false,
        paced: true,
    };
    let mut devices: Vec<*const Gpu> = Vec::new();
    for line in &ways.lines {
        let Some(first) = line.first() else { continue };
        let one = |l: &Launch<'_>| std::ptr::eq(l.gpu, first.gpu);
        if !line.iter().all(one) || devices.contains(&std::ptr::from_ref(first.gpu)) {
            return Err(SimError::Launch {
                kernel: first.kernel.into(),
                message: "a queue is of one device, and a device has one queue".into(),
            });
        }
        devices.push(first.gpu);
    }
    let mut first = 0;
    let mut all = Vec::new();
    for (ended, queue) in run(&ways)?.into_iter().zip(queues) {
        all.push(match ended.failure {
            None => Ok(ended.stats),
            Some(f) => Err(QueueError {
                launch: f.job - first,
                time: f.time,
                source: f.error,
            }),
        });
        first += queue.launches.len();
    }
    Ok(all)
}

/// What is to run, and how.
pub(super) struct Ways<'a> {
    pub lines: Vec<&'a [Launch<'a>]>,
    pub dies: Vec<Option<Death>>,
    /// The first failure ends everything.
    pub together: bool,
    /// Random completion draws who runs next.
    pub paced: bool,
}

/// What became of one queue.
pub(super) struct Ended {
    pub stats: Vec<LaunchStats>,
    pub failure: Option<Failure>,
}

pub(super) fn run(ways: &Ways<'_>) -> Result<Vec<Ended>, SimError> {
    let launches: Vec<&Launch<'_>> = ways.lines.iter().copied().flatten().collect();
    let Some(leader) = launches.first().map(|l| l.gpu) else {
        let none = |_: &&[Launch<'_>]| Ended {
            stats: Vec::new(),
            failure: None,
        };
        return Ok(ways.lines.iter().map(none).collect());
    };
    let mut prepared = Vec::new();
    for l in &launches {
        let k = l.module.kernel(l.kernel)?;
        let refused = |message| SimError::Launch {
            kernel: k.name.clone(),
            message,
        };
        l.gpu.check(k, &l.config, l.params).map_err(refused)?;
        if !l.gpu.memory.is_peer(&leader.memory) {
            return Err(refused(
                "devices that are launched together must be peers (`Gpu::peer`), or of one `World`"
                    .into(),
            ));
        }
        // Parameters are read as words, two at a time at most.
        let mut words = vec![0u32; l.params.len().next_multiple_of(8) / 4];
        bytemuck::cast_slice_mut(&mut words)[..l.params.len()].copy_from_slice(l.params);
        prepared.push((k, words, l.gpu.memory.view()));
    }
    // Devices that run together share what is known of memory.
    let known = launches.iter().find_map(|l| l.gpu.initialised.as_deref());
    let mut kernels = prepared.iter().map(|(k, ..)| *k);
    let mut shape_of = |l| kernels.next().map(|k| shape(k, l));
    let lines = ways.lines.iter();
    let shapes: Vec<Vec<Shape<'_>>> = lines
        .map(|line| line.iter().filter_map(&mut shape_of).collect())
        .collect();
    let shadow = known.map(|known| LaunchCheck::new(known, shapes));
    let network = leader
        .fabric
        .as_ref()
        .map(|f| Network::new(f, shadow.as_ref(), leader.config.completion));
    let jumped = AtomicU64::new(0);
    let (mut jobs, mut lines) = (Vec::new(), Vec::new());
    for (device, (line, &dies)) in ways.lines.iter().zip(&ways.dies).enumerate() {
        let first = jobs.len();
        for (launch, l) in line.iter().enumerate() {
            let (k, words, view) = &prepared[jobs.len()];
            let (gpu, cfg) = (l.gpu, &l.config);
            let env = Env {
                kernel: k,
                table: view,
                params: words,
                grid: cfg.grid,
                block: cfg.block,
                cluster: cfg.cluster,
                dynamic_smem: cfg.dynamic_smem,
                completion: gpu.config.completion,
                sms: gpu.config.sms.max(1),
                registers: registers::at_launch(
                    k,
                    cfg.block.iter().product(),
                    gpu.config.regs_per_sm,
                ),
                device,
                launch,
                rank: gpu.memory.owner(),
                programmatic: cfg.programmatic,
                started: AtomicU64::new(gpu.clock.load(Ordering::Relaxed)),
                jumped: &jumped,
                limit: gpu.config.instruction_limit,
                trace: gpu.config.trace,
                lines: &l.module.inner.lines,
                check: shadow.as_ref().filter(|_| gpu.config.check),
                network: network.as_ref(),
            };
            let clusters = (0..3)
                .map(|d| u64::from(cfg.grid[d] / cfg.cluster[d]))
                .product();
            jobs.push(Job {
                room: resident::room(&env, gpu.config.regs_per_sm),
                env,
                clusters,
                limit: gpu.config.launch_limit,
                idle: &gpu.groups,
                traces: Taken::default(),
            });
        }
        lines.push(Line {
            jobs: first..jobs.len(),
            dies,
        });
    }
    let seed = match leader.config.completion {
        Completion::Random(seed) if ways.paced => Some(seed),
        _ => None,
    };
    let schedule = Schedule::new(
        &jobs,
        &lines,
        ways.together,
        network.as_ref(),
        &jumped,
        seed,
    );
    work(&schedule, &jobs, leader.pool.as_ref());
    let outcomes = schedule.end();
    for (l, job) in launches.iter().zip(&mut jobs) {
        let traces = std::mem::take(&mut job.traces);
        l.gpu.traces.keep(&job.env, job.clusters, traces);
    }
    let mut all = Vec::new();
    for ((outcome, line), launches) in outcomes.into_iter().zip(&lines).zip(&ways.lines) {
        if let Some(l) = launches.first() {
            let jumped = jumped.load(Ordering::Relaxed);
            l.gpu.clock.fetch_add(jumped, Ordering::Relaxed);
        }
        let ran = match &outcome.failure {
            Some(f) => line.jobs.start..f.job,
            None => line.jobs.clone(),
        };
        let mut stats = Vec::new();
        for (index, c) in ran.zip(&outcome.counters) {
            let (l, job) = (launches[index - line.jobs.start], &jobs[index]);
            l.gpu.clock.fetch_add(c.instructions, Ordering::Relaxed);
            // A tensor-core product weighs as many instructions.
            let cost = (c.instructions + 1000 * c.wgmma) / job.clusters;
            job.env.kernel.cost.store(cost.max(1), Ordering::Relaxed);
            stats.push(LaunchStats {
                ctas: l.config.grid.iter().map(|&g| u64::from(g)).product(),
                warp_instructions: c.instructions,
                wgmma: c.wgmma,
                wgmma_macs: c.wgmma_macs,
                bulk_bytes: c.bulk_bytes,
            });
        }
        all.push(Ended {
            stats,
            failure: outcome.failure,
        });
    }
    Ok(all)
}

fn shape<'a>(kernel: &'a crate::isa::Kernel, l: &Launch<'a>) -> Shape<'a> {
    Shape {
        kernel,
        lines: &l.module.inner.lines,
        grid: l.config.grid,
        block: l.config.block,
        cluster: l.config.cluster,
    }
}

/// Runs a schedule, on as many host threads as pay.
fn work(schedule: &Schedule<'_>, jobs: &[Job<'_>], pool: Option<&rayon::ThreadPool>) {
    let threads = match pool {
        Some(p) => p.current_num_threads(),
        None => rayon::current_num_threads(),
    };
    let clusters = jobs.iter().fold(0u64, |n, j| n.saturating_add(j.clusters));
    let mut workers = threads.min(usize::try_from(clusters).unwrap_or(usize::MAX));
    let costs = jobs.iter().map(|j| {
        let cost = j.env.kernel.cost.load(Ordering::Relaxed);
        (cost != 0).then(|| cost.saturating_mul(j.clusters))
    });
    let known: Option<u64> = costs.sum();
    if known.is_some_and(|cost| cost < SMALL) {
        workers = 1;
    }
    if workers <= 1 {
        return schedule.work();
    }
    let all = || {
        rayon::scope(|s| {
            for _ in 1..workers {
                s.spawn(|_| schedule.work());
            }
            schedule.work();
        });
    };
    match pool {
        Some(p) => p.install(all),
        None => all(),
    }
}
