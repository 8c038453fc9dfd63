//! Which clusters run when: residency, waiting for each other, dead-locks.
//!
//! In: the launches that run together, each on a device of its own. Out: their
//! counters, or the first fault. A device holds as many blocks as its SMs have
//! room for. A resident cluster whose warps only poll memory is parked, and
//! its host thread takes another, so that blocks may wait for each other as on
//! the device, on any number of host threads. When every resident cluster of
//! every device polls for ever and no more have room to start, that is a
//! dead-lock.
//!
//! `epoch` counts turns that changed something. A cluster that was stuck in an
//! epoch still is as long as the epoch lasts, and a turn that is under way may
//! end it; so all clusters are stuck when each was in this very epoch and no
//! turn is under way. Only the host could still write into mapped memory: it
//! gets [`GRACE`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Deadlock, SimError};
use crate::exec::state::{Counters, Env, Group};
use crate::schedule::Advance;
use crate::trace::Taken;

/// How long memory may stay unchanged before polling it is a dead-lock.
const GRACE: Duration = Duration::from_millis(100);
/// How long a thread that can do nothing waits for those that can.
const TURN: Duration = Duration::from_micros(20);
/// Threads, blocks, and bytes of shared memory of an SM (CUDA C Programming
/// Guide, "Compute Capabilities", 9.0), and what the system takes of a block's.
const SM_THREADS: u64 = 2048;
const SM_BLOCKS: u64 = 32;
const SM_SHARED: u64 = 228 << 10;
const SYSTEM_SHARED: u64 = 1 << 10;

/// One kernel on one device.
pub struct Job<'a> {
    pub env: Env<'a>,
    pub clusters: u64,
    /// Clusters that the device has room for.
    pub room: u64,
    /// Warp instructions that all clusters may execute.
    pub limit: Option<u64>,
    /// State of finished clusters, for reuse.
    pub idle: &'a Mutex<Vec<Group>>,
    /// Time lines of clusters that have ended.
    pub traces: Taken,
}

/// Clusters of a launch that fit a device at once: at least one. Without
/// `.maxnreg` the registers of a thread are unknown, and do not count.
pub fn room(env: &Env<'_>, registers_of_sm: u32) -> u64 {
    let threads = u64::from(env.threads().next_multiple_of(32));
    let shared = u64::from(env.kernel.static_smem + env.dynamic_smem) + SYSTEM_SHARED;
    let mut blocks = SM_BLOCKS.min(SM_THREADS / threads).min(SM_SHARED / shared);
    if let Some(n) = env.kernel.max_registers {
        let taken = u64::from(n.next_multiple_of(8).max(8)) * threads;
        blocks = blocks.min(u64::from(registers_of_sm) / taken);
    }
    let ranks: u64 = env.cluster.iter().map(|&c| u64::from(c)).product();
    (blocks.max(1) * u64::from(env.sms) / ranks).max(1)
}

/// A cluster that has started and not ended.
struct Resident {
    job: usize,
    cluster: u64,
    group: Group,
    /// The epoch in which it last looked at memory, and whether it was stuck.
    seen: u64,
    stuck: bool,
}

#[derive(Default)]
struct Board {
    parked: VecDeque<Resident>,
    /// Of every job: clusters started, clusters resident, sums.
    started: Vec<u64>,
    resident: Vec<u64>,
    totals: Vec<Counters>,
    /// Turns under way.
    running: usize,
    /// Since when nothing has moved.
    still: Option<Instant>,
    failed: Option<(usize, u64, SimError)>,
}

/// Runs all jobs to their end, on as many host threads as call [`Self::work`].
pub struct Schedule<'a> {
    jobs: &'a [Job<'a>],
    board: Mutex<Board>,
    epoch: AtomicU64,
    stop: AtomicBool,
}

/// What a host thread does next.
enum Next {
    Run(Box<Resident>),
    /// All is done, or others do the rest.
    Leave,
}

impl<'a> Schedule<'a> {
    pub fn new(jobs: &'a [Job<'a>]) -> Schedule<'a> {
        Schedule {
            jobs,
            board: Mutex::new(Board {
                started: vec![0; jobs.len()],
                resident: vec![0; jobs.len()],
                totals: vec![Counters::default(); jobs.len()],
                ..Board::default()
            }),
            epoch: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Counters of all jobs, or the fault of the first cluster that has one.
    pub fn end(self) -> Result<Vec<Counters>, SimError> {
        let board = self
            .board
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match board.failed {
            Some((.., error)) => Err(error),
            None => Ok(board.totals),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // A panic elsewhere ends the launch anyway.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of one host thread.
    pub fn work(&self) {
        let mut waited = false;
        while let Next::Run(mut r) = self.next(waited) {
            let job = &self.jobs[r.job];
            let epoch = self.epoch.load(Ordering::Acquire);
            if r.seen != epoch {
                r.group.look_again();
                r.seen = epoch;
            }
            let result = r.group.advance(&job.env);
            let moved = !matches!(result, Ok(Advance::Waits { moved: false, .. }));
            if moved {
                self.epoch.fetch_add(1, Ordering::AcqRel);
            }
            r.stuck = matches!(
                result,
                Ok(Advance::Waits {
                    stuck: true,
                    moved: false
                })
            );
            waited = matches!(result, Ok(Advance::Waits { .. }));
            if matches!(result, Ok(Advance::Done(_)) | Err(_)) {
                job.traces.add(r.group.take_trace(&job.env));
            }
            let mut board = self.lock();
            board.running -= 1;
            if moved {
                board.still = None;
            }
            match result {
                Ok(Advance::Done(c)) => {
                    board.totals[r.job].add(c);
                    board.resident[r.job] -= 1;
                    let sum = board.totals[r.job].instructions;
                    if let Some(limit) = job.limit.filter(|l| sum > *l) {
                        let error = r.group.too_long(&job.env, limit);
                        self.fail(&mut board, r.job, r.cluster, error);
                    }
                    drop(board);
                    self.give_back(job, r.group);
                }
                Ok(_) => board.parked.push_back(*r),
                Err(error) => self.fail(&mut board, r.job, r.cluster, error),
            }
        }
    }

    fn give_back(&self, job: &Job<'_>, group: Group) {
        if let Ok(mut idle) = job.idle.lock() {
            idle.push(group);
        }
    }

    fn fail(&self, board: &mut Board, job: usize, cluster: u64, error: SimError) {
        self.stop.store(true, Ordering::Relaxed);
        let first = match &board.failed {
            Some((j, c, _)) => (job, cluster) < (*j, *c),
            None => true,
        };
        if first {
            board.failed = Some((job, cluster, error));
        }
    }

    /// The job with room for another cluster that has the fewest resident.
    fn startable(&self, board: &Board) -> Option<usize> {
        (0..self.jobs.len())
            .filter(|&j| {
                board.started[j] < self.jobs[j].clusters && board.resident[j] < self.jobs[j].room
            })
            .min_by_key(|&j| board.resident[j])
    }

    /// Chooses. After a cluster that waits a new one, which it may wait for;
    /// else the one that has waited longest.
    fn next(&self, waited: bool) -> Next {
        let mut board = self.lock();
        // Where all that is parked is stuck in this epoch, nothing but a turn under way can help: to run the stuck ones
        // beside it would only make two threads see each other at work for ever, and neither a dead-lock.
        while board.running > 0 && !board.parked.is_empty() {
            let epoch = self.epoch.load(Ordering::Acquire);
            let stuck = |r: &Resident| r.stuck && r.seen == epoch;
            if self.stop.load(Ordering::Relaxed)
                || self.startable(&board).is_some()
                || !board.parked.iter().all(stuck)
            {
                break;
            }
            drop(board);
            std::thread::sleep(TURN);
            board = self.lock();
        }
        if self.stop.load(Ordering::Relaxed) {
            return Next::Leave;
        }
        let new = self.startable(&board);
        if let Some(job) = new
            && (waited || board.parked.is_empty())
        {
            let cluster = board.started[job];
            board.started[job] += 1;
            board.resident[job] += 1;
            board.running += 1;
            drop(board);
            return self.begin(job, cluster);
        }
        let epoch = self.epoch.load(Ordering::Acquire);
        let stuck = |r: &Resident| r.stuck && r.seen == epoch;
        let wait = board.parked.front().is_some_and(stuck);
        if wait && new.is_none() && board.running == 0 && board.parked.iter().all(stuck) {
            let since = *board.still.get_or_insert_with(Instant::now);
            if since.elapsed() > GRACE {
                self.deadlock(&mut board);
                return Next::Leave;
            }
        }
        let Some(r) = board.parked.pop_front() else {
            return Next::Leave;
        };
        board.running += 1;
        drop(board);
        if wait {
            // Whoever changes what it waits for needs a processor.
            std::thread::yield_now();
        }
        Next::Run(Box::new(r))
    }

    fn begin(&self, job: usize, cluster: u64) -> Next {
        let at = &self.jobs[job];
        let spare = at.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut group = spare.unwrap_or_default();
        group.start(&at.env, cluster);
        Next::Run(Box::new(Resident {
            job,
            cluster,
            group,
            seen: u64::MAX,
            stuck: false,
        }))
    }

    fn deadlock(&self, board: &mut Board) {
        let mut all: Vec<Resident> = board.parked.drain(..).collect();
        all.sort_by_key(|r| (r.job, r.cluster));
        for r in &mut all {
            let job = &self.jobs[r.job];
            job.traces.add(r.group.take_trace(&job.env));
        }
        let Some(first) = all.first() else { return };
        let (job, cluster) = (first.job, first.cluster);
        let waits = all
            .iter()
            .flat_map(|r| r.group.waits(&self.jobs[r.job].env))
            .collect();
        let not_started = (0..self.jobs.len())
            .map(|j| {
                let ranks: u64 = self.jobs[j]
                    .env
                    .cluster
                    .iter()
                    .map(|&c| u64::from(c))
                    .product();
                (self.jobs[j].clusters - board.started[j]) * ranks
            })
            .sum();
        let error = SimError::Deadlock(Box::new(Deadlock {
            kernel: self.jobs[job].env.kernel.name.clone(),
            waits,
            not_started,
        }));
        self.fail(board, job, cluster, error);
    }
}
