//! Launches: on one device, or on several at once.
//!
//! In: a kernel, its grid and its parameters for each device. Out: what each
//! launch did, or the first fault. All of them run in one schedule, so that
//! they may wait for each other.

use std::sync::atomic::Ordering;

use super::{Gpu, LaunchConfig, LaunchStats, Module};
use crate::check::LaunchCheck;
use crate::error::SimError;
use crate::exec::registers;
use crate::exec::state::{Counters, Env};
use crate::resident::{self, Job, Schedule};
use crate::trace::Taken;

/// Launches of fewer warp instructions run on the calling thread.
const SMALL: u64 = 2000;

/// One kernel on one device, for [`launch_together`].
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    pub gpu: &'a Gpu,
    pub module: &'a Module,
    pub kernel: &'a str,
    pub config: LaunchConfig,
    pub params: &'a [u8],
}

/// Runs kernels on several devices at once, each to its end: they may wait for
/// each other, through memory of any device that is a [`Gpu::peer`] of theirs.
/// Host threads are those of the first device.
pub fn launch_together(launches: &[Launch<'_>]) -> Result<Vec<LaunchStats>, SimError> {
    let mut prepared = Vec::new();
    for l in launches {
        let k = l.module.kernel(l.kernel)?;
        let refused = |message| SimError::Launch {
            kernel: k.name.clone(),
            message,
        };
        l.gpu.check(k, &l.config, l.params).map_err(refused)?;
        if !l.gpu.memory.is_peer(&launches[0].gpu.memory) {
            return Err(refused(
                "devices that are launched together must be peers (`Gpu::peer`)".into(),
            ));
        }
        // Parameters are read as words, two at a time at most.
        let mut words = vec![0u32; l.params.len().next_multiple_of(8) / 4];
        bytemuck::cast_slice_mut(&mut words)[..l.params.len()].copy_from_slice(l.params);
        prepared.push((k, words, l.gpu.memory.view()));
    }
    // Devices that see one memory share what is known of it.
    let known = launches.iter().find_map(|l| l.gpu.initialised.as_deref());
    let shadow = known.map(LaunchCheck::new);
    let mut jobs = Vec::new();
    for (device, (l, (k, words, view))) in launches.iter().zip(&prepared).enumerate() {
        let (gpu, cfg) = (l.gpu, &l.config);
        let threads = cfg.block.iter().product();
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
            registers: registers::at_launch(k, threads, gpu.config.regs_per_sm),
            device,
            programmatic: cfg.programmatic,
            started: gpu.clock.load(Ordering::Relaxed),
            limit: gpu.config.instruction_limit,
            trace: gpu.config.trace,
            lines: &l.module.inner.lines,
            check: shadow.as_ref().filter(|_| gpu.config.check),
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
    let counters = run(&jobs, launches.first().and_then(|l| l.gpu.pool.as_ref()));
    for (l, job) in launches.iter().zip(&mut jobs) {
        let traces = std::mem::take(&mut job.traces);
        l.gpu.traces.keep(&job.env, job.clusters, traces);
    }
    let mut all = Vec::new();
    for ((l, job), c) in launches.iter().zip(&jobs).zip(counters?) {
        l.gpu.clock.fetch_add(c.instructions, Ordering::Relaxed);
        // A tensor-core product weighs as many instructions.
        let cost = (c.instructions + 1000 * c.wgmma) / job.clusters;
        job.env.kernel.cost.store(cost.max(1), Ordering::Relaxed);
        all.push(LaunchStats {
            ctas: l.config.grid.iter().map(|&g| u64::from(g)).product(),
            warp_instructions: c.instructions,
            wgmma: c.wgmma,
            wgmma_macs: c.wgmma_macs,
            bulk_bytes: c.bulk_bytes,
        });
    }
    Ok(all)
}

/// Runs all jobs, on as many host threads as pay.
fn run(jobs: &[Job<'_>], pool: Option<&rayon::ThreadPool>) -> Result<Vec<Counters>, SimError> {
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
    let schedule = Schedule::new(jobs);
    if workers <= 1 {
        schedule.work();
    } else {
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
    schedule.end()
}
