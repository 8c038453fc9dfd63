//! Which clusters run when: residency, waiting for each other, dead-locks.
//!
//! In: the launches that run together, as queues, each on a device of its own:
//! a launch begins when the one before it in its queue has ended. Out: their
//! counters, or what ended each queue early. A device holds as many blocks as
//! its SMs have room for. A resident cluster whose warps only poll memory is
//! parked, and its host thread takes another, so that blocks may wait for each
//! other as on the device, on any number of host threads.
//!
//! `epoch` counts turns that changed something. A cluster that was stuck in an
//! epoch still is as long as the epoch lasts, and a turn that is under way may
//! end it; so all clusters are stuck when each was in this very epoch and no
//! turn is under way. Then, in this order: what other ranks have sent arrives;
//! where a stuck warp looks at the clock, time jumps ([`JUMP`]), so that waits
//! with a time limit reach it; and else it is a dead-lock. Only the host could
//! still write into mapped memory: it gets [`GRACE`].

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Deadlock, SimError};
use crate::exec::state::{Counters, Env, Group};
use crate::network::Network;
use crate::pace::Pace;
use crate::schedule::{Advance, TURN};
use crate::trace::Taken;

/// How long memory may stay unchanged before polling it is a dead-lock.
const GRACE: Duration = Duration::from_millis(100);
/// How long a thread that can do nothing waits for those that can.
const NAP: Duration = Duration::from_micros(20);
/// How far time jumps, in nanoseconds, and how often without anything coming
/// of it.
const JUMP: u64 = 4_000_000_000;
const MOST_JUMPS: u32 = 32;
/// Threads, blocks, and bytes of shared memory of an SM (CUDA C Programming
/// Guide, "Compute Capabilities", 9.0), and what the system takes of a block's.
const SM_THREADS: u64 = 2048;
const SM_BLOCKS: u64 = 32;
const SM_SHARED: u64 = 228 << 10;
const SYSTEM_SHARED: u64 = 1 << 10;

/// One launch.
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

/// The launches of one device.
pub struct Line {
    pub jobs: Range<usize>,
    pub dies: Option<Death>,
}

/// Where a queue ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Before its n-th launch, counted from 0.
    BeforeLaunch(usize),
    /// When it has executed so many warp instructions, or a few more.
    AfterInstructions(u64),
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
    line: usize,
    job: usize,
    cluster: u64,
    group: Group,
    /// The epoch in which it last looked at memory, and what it found: nothing
    /// to go on with, for ever if nobody changes memory.
    seen: u64,
    waits: bool,
    stuck: bool,
}

/// How far a queue is.
#[derive(Debug, Default)]
struct Progress {
    /// The launch that runs, or the end of the queue's.
    job: usize,
    /// Warp instructions so far.
    spent: u64,
    over: bool,
    failed: Option<Failure>,
}

/// Why a queue has ended early.
#[derive(Debug)]
pub struct Failure {
    pub job: usize,
    cluster: u64,
    /// `%globaltimer` of its device.
    pub time: u64,
    pub error: SimError,
}

/// What became of a queue: the counters of all its launches, as far as they
/// came.
#[derive(Debug)]
pub struct Outcome {
    pub counters: Vec<Counters>,
    pub failure: Option<Failure>,
}

#[derive(Default)]
struct Board {
    parked: VecDeque<Resident>,
    /// Of every job: clusters started, clusters resident, sums.
    started: Vec<u64>,
    resident: Vec<u64>,
    totals: Vec<Counters>,
    lines: Vec<Progress>,
    /// Turns under way.
    running: usize,
    /// Since when nothing has moved, and how often time has jumped since.
    still: Option<Instant>,
    jumps: u32,
    pace: Option<Pace>,
}

/// Runs all jobs to their end, on as many host threads as call [`Self::work`].
pub struct Schedule<'a> {
    jobs: &'a [Job<'a>],
    lines: &'a [Line],
    /// The first failure of a queue ends all of them.
    together: bool,
    network: Option<&'a Network<'a>>,
    /// How far the time of all devices has jumped, in nanoseconds.
    jumped: &'a AtomicU64,
    board: Mutex<Board>,
    epoch: AtomicU64,
    stop: AtomicBool,
}

/// What a host thread does next.
enum Next {
    Run(Box<Resident>, u64),
    /// All is done, or others do the rest.
    Leave,
}

impl<'a> Schedule<'a> {
    /// `seed` draws who runs next, and for how long.
    pub fn new(
        jobs: &'a [Job<'a>],
        lines: &'a [Line],
        together: bool,
        network: Option<&'a Network<'a>>,
        jumped: &'a AtomicU64,
        seed: Option<u64>,
    ) -> Schedule<'a> {
        let mut board = Board {
            started: vec![0; jobs.len()],
            resident: vec![0; jobs.len()],
            totals: vec![Counters::default(); jobs.len()],
            pace: seed.map(|s| Pace::new(s, lines.len())),
            ..Board::default()
        };
        for line in lines {
            board.lines.push(Progress {
                job: line.jobs.start,
                ..Progress::default()
            });
        }
        let schedule = Schedule {
            jobs,
            lines,
            together,
            network,
            jumped,
            board: Mutex::default(),
            epoch: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        for line in 0..lines.len() {
            schedule.enter(&mut board, line);
        }
        *schedule.lock() = board;
        schedule
    }

    /// What became of each queue.
    pub fn end(self) -> Vec<Outcome> {
        if let Some(network) = self.network {
            network.end();
        }
        let board = self
            .board
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let of = |line: &Line| board.totals[line.jobs.clone()].to_vec();
        let all = self.lines.iter().zip(board.lines);
        all.map(|(line, progress)| Outcome {
            counters: of(line),
            failure: progress.failed,
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // A panic elsewhere ends the launch anyway.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of one host thread.
    pub fn work(&self) {
        let mut waited = false;
        while let Next::Run(mut r, turn) = self.next(waited) {
            let job = &self.jobs[r.job];
            let epoch = self.epoch.load(Ordering::Acquire);
            if r.seen != epoch {
                r.group.look_again();
                r.seen = epoch;
            }
            let before = r.group.instructions();
            let result = r.group.advance(&job.env, turn);
            let spent = r.group.instructions() - before;
            let moved = !matches!(result, Ok(Advance::Waits { moved: false, .. }));
            if moved {
                self.epoch.fetch_add(1, Ordering::AcqRel);
            }
            waited = matches!(result, Ok(Advance::Waits { .. }));
            r.waits = !moved;
            r.stuck = matches!(result, Ok(Advance::Waits { stuck: true, .. })) && !moved;
            if matches!(result, Ok(Advance::Done(_)) | Err(_)) {
                job.traces.add(r.group.take_trace(&job.env));
            }
            let mut board = self.lock();
            board.running -= 1;
            board.lines[r.line].spent += spent;
            if moved {
                board.still = None;
                board.jumps = 0;
            }
            if board.lines[r.line].over {
                // The queue has failed meanwhile.
                continue;
            }
            match result {
                Ok(Advance::Done(c)) => {
                    board.totals[r.job].add(c);
                    board.resident[r.job] -= 1;
                    let sum = board.totals[r.job].instructions;
                    if let Some(limit) = job.limit.filter(|l| sum > *l) {
                        let error = r.group.too_long(&job.env, limit);
                        self.fail(&mut board, &r, error);
                    }
                    if let Some(check) = job.env.check {
                        r.group.check_cluster_ended(check, job.env.device);
                    }
                    let ended = board.started[r.job] == job.clusters && board.resident[r.job] == 0;
                    if self.is_spent(&board, r.line) {
                        self.kill(&mut board, r.line, r.cluster, c.instructions);
                    } else if ended && !board.lines[r.line].over {
                        self.job_ended(&mut board, r.line);
                    }
                    drop(board);
                    self.give_back(job, r.group);
                }
                Ok(_) => {
                    if self.is_spent(&board, r.line) {
                        let instructions = r.group.instructions();
                        self.kill(&mut board, r.line, r.cluster, instructions);
                    } else {
                        board.parked.push_back(*r);
                    }
                }
                Err(error) => self.fail(&mut board, &r, error),
            }
        }
    }

    /// Whether a queue has executed as much as it was to.
    fn is_spent(&self, board: &Board, line: usize) -> bool {
        match self.lines[line].dies {
            Some(Death::AfterInstructions(n)) => board.lines[line].spent >= n,
            _ => false,
        }
    }

    fn give_back(&self, job: &Job<'_>, group: Group) {
        if let Ok(mut idle) = job.idle.lock() {
            idle.push(group);
        }
    }

    /// A queue comes to its next launch: true when there is one.
    fn enter(&self, board: &mut Board, line: usize) {
        let at = board.lines[line].job;
        let jobs = &self.lines[line].jobs;
        if let Some(Death::BeforeLaunch(n)) = self.lines[line].dies
            && at == jobs.start + n
        {
            return self.kill(board, line, 0, 0);
        }
        board.lines[line].over = at == jobs.end;
    }

    /// All clusters of a queue's launch have ended.
    fn job_ended(&self, board: &mut Board, line: usize) {
        let at = board.lines[line].job;
        let env = &self.jobs[at].env;
        if let Some(check) = env.check {
            check.launch_ended(env.device, env.launch);
        }
        board.lines[line].job += 1;
        if self.lines[line].jobs.contains(&(at + 1)) {
            let ended = env.started.load(Ordering::Relaxed) + board.totals[at].instructions;
            self.jobs[at + 1]
                .env
                .started
                .store(ended, Ordering::Relaxed);
        }
        self.enter(board, line);
    }

    fn fail(&self, board: &mut Board, r: &Resident, error: SimError) {
        let at = (r.job, r.cluster, r.group.instructions());
        self.fail_at(board, r.line, at, error);
    }

    fn kill(&self, board: &mut Board, line: usize, cluster: u64, instructions: u64) {
        let at = (board.lines[line].job, cluster, instructions);
        let job = board.lines[line].job;
        let launch = job - self.lines[line].jobs.start;
        let error = SimError::Killed {
            launch,
            instructions: board.lines[line].spent,
        };
        self.fail_at(board, line, at, error);
    }

    /// Ends a queue, and all of them where one failure does: at a cluster of a
    /// launch that has executed so many instructions.
    fn fail_at(
        &self,
        board: &mut Board,
        line: usize,
        (job, cluster, instructions): (usize, u64, u64),
        error: SimError,
    ) {
        if self.together {
            self.stop.store(true, Ordering::Relaxed);
        }
        let env = self.jobs.get(job).map(|j| &j.env);
        let started = env.map_or(0, |e| e.started.load(Ordering::Relaxed));
        let time = started + self.jumped.load(Ordering::Relaxed) + instructions;
        let progress = &mut board.lines[line];
        progress.over = true;
        let first = match &progress.failed {
            Some(f) => (job, cluster) < (f.job, f.cluster),
            None => true,
        };
        if first {
            progress.failed = Some(Failure {
                job,
                cluster,
                time,
                error,
            });
        }
        let (gone, kept) = std::mem::take(&mut board.parked)
            .into_iter()
            .partition::<Vec<_>, _>(|r| r.line == line);
        board.parked = kept.into();
        for mut r in gone {
            let job = &self.jobs[r.job];
            job.traces.add(r.group.take_trace(&job.env));
        }
        if let (Some(network), Some(env)) = (self.network, env) {
            network.lose(env.rank);
        }
        board.still = None;
    }

    /// Launches with room for another cluster, and how many are resident.
    fn startable(&self, board: &Board) -> impl Iterator<Item = (usize, usize, u64)> {
        let lines = board.lines.iter().enumerate().filter(|(_, p)| !p.over);
        lines
            .map(|(line, p)| (line, p.job, board.resident[p.job]))
            .filter(|&(_, j, resident)| {
                board.started[j] < self.jobs[j].clusters && resident < self.jobs[j].room
            })
    }

    /// Whether launches are to come that no cluster of has started yet.
    fn more_to_come(&self, board: &Board) -> bool {
        let mut lines = board.lines.iter().zip(self.lines);
        lines.any(|(p, line)| !p.over && p.job + 1 < line.jobs.end)
    }

    /// Chooses.
    fn next(&self, waited: bool) -> Next {
        let mut board = self.lock();
        loop {
            if self.stop.load(Ordering::Relaxed) || board.lines.iter().all(|p| p.over) {
                return Next::Leave;
            }
            if self.network.is_some_and(|n| n.drift()) {
                self.epoch.fetch_add(1, Ordering::AcqRel);
            }
            let epoch = self.epoch.load(Ordering::Acquire);
            let new = self.startable(&board).next().is_some();
            let all = |of: &dyn Fn(&Resident) -> bool| board.parked.iter().all(of);
            if new || !all(&|r| r.waits && r.seen == epoch) {
                break;
            }
            if board.running > 0 {
                // Where all that is parked is stuck in this epoch, nothing but a turn under way can help: to run the
                // stuck ones beside it would only make two threads see each other at work for ever, and neither a
                // dead-lock.
                if !all(&|r| r.stuck) {
                    break;
                }
                if board.parked.is_empty() && !self.more_to_come(&board) {
                    return Next::Leave;
                }
                drop(board);
                std::thread::sleep(NAP);
                board = self.lock();
                continue;
            }
            if self.network.is_some_and(|n| n.settle()) {
                self.epoch.fetch_add(1, Ordering::AcqRel);
                board.still = None;
                continue;
            }
            if board.parked.is_empty() || !all(&|r| r.stuck) {
                break;
            }
            if board.jumps < MOST_JUMPS && board.parked.iter().any(|r| r.group.looks_at_clock()) {
                board.jumps += 1;
                self.jumped.fetch_add(JUMP, Ordering::Relaxed);
                self.epoch.fetch_add(1, Ordering::AcqRel);
                continue;
            }
            let since = *board.still.get_or_insert_with(Instant::now);
            if since.elapsed() > GRACE {
                self.deadlock(&mut board);
                continue;
            }
            break;
        }
        let picked = match board.pace.take() {
            Some(mut pace) => {
                let picked = self.draw(&board, &mut pace);
                board.pace = Some(pace);
                picked
            }
            None => self.in_turn(&board, waited).map(|p| (p, TURN)),
        };
        let Some((pick, turn)) = picked else {
            return Next::Leave;
        };
        board.running += 1;
        match pick {
            Pick::New(line, job) => {
                let cluster = board.started[job];
                board.started[job] += 1;
                board.resident[job] += 1;
                let turn = self.shortened(&board, line, turn);
                drop(board);
                Next::Run(self.begin(line, job, cluster), turn)
            }
            Pick::Parked(at) => {
                let Some(r) = board.parked.remove(at) else {
                    return Next::Leave;
                };
                let turn = self.shortened(&board, r.line, turn);
                let idle = r.stuck && r.seen == self.epoch.load(Ordering::Acquire);
                drop(board);
                if idle {
                    // Whoever changes what it waits for needs a processor.
                    std::thread::yield_now();
                }
                Next::Run(Box::new(r), turn)
            }
        }
    }

    /// A turn, cut where the queue is to die.
    fn shortened(&self, board: &Board, line: usize, turn: u64) -> u64 {
        match self.lines[line].dies {
            Some(Death::AfterInstructions(n)) => {
                turn.min(n.saturating_sub(board.lines[line].spent).max(1))
            }
            _ => turn,
        }
    }

    /// After a cluster that waits a new one, which it may wait for, of the
    /// launch that has the fewest resident; else the one that has waited
    /// longest.
    fn in_turn(&self, board: &Board, waited: bool) -> Option<Pick> {
        let new = self.startable(board).min_by_key(|&(.., resident)| resident);
        match new {
            Some((line, job, _)) if waited || board.parked.is_empty() => Some(Pick::New(line, job)),
            _ => (!board.parked.is_empty()).then_some(Pick::Parked(0)),
        }
    }

    /// Any, as the queues' paces have it.
    fn draw(&self, board: &Board, pace: &mut Pace) -> Option<(Pick, u64)> {
        let epoch = self.epoch.load(Ordering::Acquire);
        let mut choice: Vec<(Pick, usize, u64)> = Vec::new();
        for (line, job, _) in self.startable(board) {
            choice.push((Pick::New(line, job), line, 4));
        }
        for (i, r) in board.parked.iter().enumerate() {
            let current = r.seen == epoch;
            let weight = match (r.stuck && current, r.waits && current) {
                (true, _) => 0,
                (_, true) => 1,
                _ => 8,
            };
            choice.push((Pick::Parked(i), r.line, weight));
        }
        let weights = choice.iter().map(|&(_, line, weight)| (line, weight));
        let (at, turn) = pace.draw(weights)?;
        Some((choice[at].0, turn))
    }

    fn begin(&self, line: usize, job: usize, cluster: u64) -> Box<Resident> {
        let at = &self.jobs[job];
        let spare = at.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut group = spare.unwrap_or_default();
        group.start(&at.env, cluster);
        Box::new(Resident {
            line,
            job,
            cluster,
            group,
            seen: u64::MAX,
            waits: false,
            stuck: false,
        })
    }

    /// Ends all queues that are left: they wait for each other.
    fn deadlock(&self, board: &mut Board) {
        let mut all: Vec<Resident> = board.parked.drain(..).collect();
        all.sort_by_key(|r| (r.job, r.cluster));
        for r in &mut all {
            let job = &self.jobs[r.job];
            job.traces.add(r.group.take_trace(&job.env));
        }
        let waits: Vec<_> = all
            .iter()
            .flat_map(|r| r.group.waits(&self.jobs[r.job].env))
            .collect();
        let running = board.lines.iter().filter(|p| !p.over).map(|p| p.job);
        let not_started = running
            .map(|j| {
                let job = &self.jobs[j];
                let ranks: u64 = job.env.cluster.iter().map(|&c| u64::from(c)).product();
                (job.clusters - board.started[j]) * ranks
            })
            .sum();
        for line in 0..board.lines.len() {
            let job = board.lines[line].job;
            let Some(first) = all.iter().find(|r| r.line == line) else {
                continue;
            };
            let error = SimError::Deadlock(Box::new(Deadlock {
                kernel: self.jobs[job].env.kernel.name.clone(),
                waits: waits.clone(),
                not_started,
            }));
            let at = (job, first.cluster, first.group.instructions());
            self.fail_at(board, line, at, error);
        }
    }
}

/// A cluster to run: a new one of a queue's launch, or a parked one.
#[derive(Debug, Clone, Copy)]
enum Pick {
    New(usize, usize),
    Parked(usize),
}
