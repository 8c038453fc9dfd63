//! Runs the CTAs of one cluster on one host thread.
//!
//! In: an [`Env`] and the cluster's place in the grid. Out: memory, changed, or
//! the first fault. Warps run in turn, each until it waits, polls, or has used
//! its slice. When none can go on, copies in flight are completed, suspended
//! waits come back as after a time-out, and at last a dead-lock is reported.
//! When they only poll memory, others may have to run first: [`Group::advance`]
//! comes back, and can be called again, on another host thread as well.

use crate::error::{BlockedWarp, Deadlock, Exec, Fault, FaultKind, SimError, Trouble, trouble};
use crate::exec::Stop;
use crate::exec::state::{ClusterBarrier, Core, Counters, Cta, Env, Group, Wait};
use crate::launch::Completion;
use crate::memory::{RANK_SHIFT, SHARED_START};

/// Instructions that a warp may run before others get their turn.
const SLICE: u32 = 4096;
/// What shared memory holds before anything is written there: a NaN in every
/// format.
pub const POISON: u64 = u64::MAX;
/// Rounds in which suspended waits time out and nothing else happens.
const TIME_OUTS: u32 = 64;
/// Rounds in which all warps only poll, before others get the host thread.
const POLLS: u32 = 4;
/// Instructions of a group before others get the host thread.
pub const TURN: u64 = 1 << 22;

/// How far [`Group::advance`] came.
#[derive(Debug)]
pub enum Advance {
    /// The cluster has ended.
    Done(Counters),
    /// It could run on.
    Going,
    /// Its warps poll memory. `moved`: they have done something before.
    /// `stuck`: they will poll for ever if nobody else changes memory.
    Waits { moved: bool, stuck: bool },
}

/// What a group has seen of itself since something last changed.
#[derive(Debug, Default)]
pub struct Watch {
    quiet: u32,
    seen: u64,
    /// The warp that a turn was over at.
    resume: usize,
}

impl Group {
    fn reset(&mut self, env: &Env<'_>, cluster: u64) {
        let ranks: u32 = env.cluster.iter().product();
        let warps = env.threads().div_ceil(32);
        let size = env.shared_bytes() as usize;
        let stride = env.kernel.local_bytes;
        self.ctas.resize_with(ranks as usize, Cta::default);
        self.warps
            .resize_with((ranks * warps) as usize, Default::default);
        for (rank, cta) in self.ctas.iter_mut().enumerate() {
            cta.block = env.block_of(cluster, rank as u32);
            let g = env.grid.map(u64::from);
            let b = cta.block.map(u64::from);
            cta.linear = b[0] + g[0] * (b[1] + g[1] * b[2]);
            cta.shared.clear();
            // As on the device, nobody has cleared it.
            cta.shared.resize(size.div_ceil(8), POISON);
            cta.shared_len = size as u32;
            cta.local_stride = stride;
            cta.local.clear();
            cta.local
                .resize((stride as usize * warps as usize * 32).div_ceil(8), 0);
            cta.barriers = Default::default();
            cta.warps_alive = warps;
            cta.free_registers = 0;
        }
        for (i, w) in self.warps.iter_mut().enumerate() {
            w.reset(env.kernel, i / warps as usize, i as u32 % warps, env.block);
            w.registers = env.registers;
            if env.programmatic {
                w.early = w.alive;
            }
        }
        self.flight.copies.clear();
        self.flight.mmas.clear();
        self.flight.progress = 0;
        self.flight.cluster = cluster;
        self.flight.random = match env.completion {
            Completion::Random(seed) => {
                let cluster = (cluster + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let launch = env.cluster_id(0).rotate_left(20);
                seed ^ cluster ^ launch.wrapping_mul(0xd134_2543_de82_ef95)
            }
            _ => 1,
        };
        self.cluster = ClusterBarrier::default();
        self.stats = Counters::default();
        match env.check {
            Some(_) => self.check.get_or_insert_default().reset(env, cluster),
            None => self.check = None,
        }
        self.trace_cluster(env, cluster);
        self.watch = Watch::default();
    }

    fn core<'a>(&'a mut self, env: &'a Env<'a>, warp: usize) -> Core<'a> {
        Core {
            env,
            w: &mut self.warps[warp],
            ctas: &mut self.ctas,
            flight: &mut self.flight,
            cluster: &mut self.cluster,
            stats: &mut self.stats,
            mma: &mut self.mma,
            check: self.check.as_deref_mut(),
            trace: self.trace.as_deref_mut(),
        }
    }

    /// Prepares the group for a cluster.
    pub fn start(&mut self, env: &Env<'_>, cluster: u64) {
        self.reset(env, cluster);
    }

    /// Memory may have changed: what was polled in vain may be there now.
    pub fn look_again(&mut self) {
        self.watch.quiet = 0;
        self.warps.iter_mut().for_each(|w| w.look_again());
    }

    /// Warp instructions of the cluster so far.
    pub fn instructions(&self) -> u64 {
        self.stats.instructions
    }

    /// Whether a warp looks at the clock while it polls.
    pub fn looks_at_clock(&self) -> bool {
        self.warps.iter().any(|w| w.alive != 0 && w.spin.looked())
    }

    /// Runs the cluster until it ends, waits for others, or has had its turn of
    /// so many instructions.
    pub fn advance(&mut self, env: &Env<'_>, turn: u64) -> Result<Advance, SimError> {
        let (begun, first) = (self.flight.progress, self.stats.instructions);
        let mut polls = 0;
        loop {
            let mut round = Round::default();
            let (first_warp, slice) = self.order(env);
            let slice = slice.min(u32::try_from(turn).unwrap_or(u32::MAX));
            let first_warp = first_warp + std::mem::take(&mut self.watch.resume);
            for i in 0..self.warps.len() {
                let w = (first_warp + i) % self.warps.len();
                self.turn(env, w, slice, &mut round)
                    .map_err(|t| self.fault(env, w, *t))?;
                let over = turn < TURN && self.stats.instructions - first > turn;
                if over && round.ran && i + 1 < self.warps.len() {
                    // The others come first next time.
                    self.watch.resume = w + 1;
                    return Ok(Advance::Going);
                }
            }
            if let Some(limit) = env.limit
                && self.stats.instructions > limit
            {
                return Err(self.too_long(env, limit));
            }
            if self.flight.progress != self.watch.seen {
                self.watch.quiet = 0;
                self.watch.seen = self.flight.progress;
                polls = 0;
            }
            if matches!(env.completion, Completion::Random(_)) && self.flight.next_random() & 3 == 0
            {
                self.complete(env)?;
            }
            if round.ran {
                if self.stats.instructions - first > turn {
                    return Ok(Advance::Going);
                }
                continue;
            }
            if !round.alive {
                // What is still in flight ends with the kernel.
                while self.complete(env)? {}
                self.check_end(env)
                    .map_err(|(w, t)| self.fault(env, w, *t))?;
                return Ok(Advance::Done(self.stats));
            }
            if self.complete(env)? {
                continue;
            }
            let moved = self.flight.progress != begun;
            if round.polled && !self.cycles() {
                polls += 1;
                if polls < POLLS {
                    continue;
                }
                return Ok(Advance::Waits {
                    moved,
                    stuck: false,
                });
            }
            self.watch.quiet += 1;
            if self.watch.quiet <= TIME_OUTS && self.time_out(env) {
                continue;
            }
            if round.polled {
                return Ok(Advance::Waits { moved, stuck: true });
            }
            // Nobody outside can wake them.
            return Err(SimError::Deadlock(Box::new(Deadlock {
                kernel: env.kernel.name.clone(),
                waits: self.waits(env),
                not_started: 0,
            })));
        }
    }

    /// Whether no warp that can run does anything but poll for ever.
    fn cycles(&self) -> bool {
        let runs = |w: &crate::exec::state::Warp| w.frags.iter().any(|f| f.wait == Wait::Ready);
        self.warps
            .iter()
            .all(|w| w.alive == 0 || !runs(w) || w.cycles())
    }

    /// Who begins a round, and how far each may run: with random completion
    /// the order of warps is random, too.
    fn order(&mut self, env: &Env<'_>) -> (usize, u32) {
        if !matches!(env.completion, Completion::Random(_)) {
            return (0, SLICE);
        }
        let r = self.flight.next_random();
        let first = (r >> 32) as usize % self.warps.len().max(1);
        (first, SLICE >> (r % 9))
    }

    /// Gives one warp its turn.
    fn turn(&mut self, env: &Env<'_>, w: usize, slice: u32, round: &mut Round) -> Exec<()> {
        if self.warps[w].alive == 0 {
            return Ok(());
        }
        round.alive = true;
        let before = self.stats.instructions;
        self.trace_turn(w);
        let stop = self.core(env, w).run(slice)?;
        self.trace_turn_over(env);
        match stop {
            Stop::Poll => {
                round.polled = true;
                self.warps[w].polled(self.flight.progress);
            }
            Stop::Slice | Stop::Done => round.ran = true,
            Stop::Blocked => round.ran |= self.stats.instructions != before,
        }
        let waits = |g: &Group, wait: Wait| g.warps[w].frags.iter().any(|f| f.wait == wait);
        if waits(self, Wait::Warpgroup) {
            round.ran |= self.warpgroup(env, w)?;
        }
        if waits(self, Wait::WgmmaGroups) {
            round.ran |= self.drain_mmas(env.kernel, w)?;
        }
        Ok(())
    }

    fn complete(&mut self, env: &Env<'_>) -> Result<bool, SimError> {
        let Some(first) = self.flight.copies.front().map(|op| op.warp) else {
            return Ok(false);
        };
        let at = self.core(env, first).next_copy();
        let w = self.flight.copies.get(at).map_or(first, |op| op.warp);
        self.core(env, w)
            .complete_copy(at)
            .map_err(|t| self.fault(env, w, *t))?;
        Ok(true)
    }

    /// Lets every suspended wait come back with false. False if there is none.
    fn time_out(&mut self, env: &Env<'_>) -> bool {
        let mut any = false;
        for w in 0..self.warps.len() {
            for f in 0..self.warps[w].frags.len() {
                if matches!(self.warps[w].frags[f].wait, Wait::Mbar { .. }) {
                    self.core(env, w).time_out(f);
                    any = true;
                }
            }
        }
        any
    }

    /// More than `limit` instructions were executed, here or in the launch.
    pub fn too_long(&self, env: &Env<'_>, limit: u64) -> SimError {
        let w = self.warps.iter().position(|w| w.alive != 0).unwrap_or(0);
        self.fault(env, w, *trouble(None, FaultKind::InstructionLimit(limit)))
    }

    fn fault(&self, env: &Env<'_>, warp: usize, t: Trouble) -> SimError {
        let w = &self.warps[warp];
        let pc =
            t.pc.or_else(|| w.frags.get(w.current).map(|f| f.pc))
                .unwrap_or(0);
        let line = env.kernel.lines.get(pc as usize).copied().unwrap_or(0);
        SimError::Fault(Box::new(Fault {
            kernel: env.kernel.name.clone(),
            line,
            text: env.text(line),
            block: self.ctas[w.cta].block,
            warp: w.index,
            lane: t.lane,
            thread: t
                .lane
                .map(|l| std::array::from_fn(|d| w.tid[d][l as usize & 31])),
            kind: t.kind,
        }))
    }

    /// What every warp waits for.
    pub fn waits(&self, env: &Env<'_>) -> Vec<BlockedWarp> {
        let mut waits = Vec::new();
        for w in 0..self.warps.len() {
            for f in 0..self.warps[w].frags.len() {
                let frag = self.warps[w].frags[f];
                if frag.wait == Wait::Dead {
                    continue;
                }
                let reason = self.reason(frag.wait, self.warps[w].cta);
                let line = env.kernel.lines.get(frag.pc as usize).copied().unwrap_or(0);
                waits.push(BlockedWarp {
                    device: env.device,
                    block: self.ctas[self.warps[w].cta].block,
                    warp: self.warps[w].index,
                    lanes: frag.mask,
                    line,
                    text: env.text(line),
                    reason,
                });
            }
        }
        waits
    }

    fn reason(&self, wait: Wait, cta: usize) -> String {
        match wait {
            Wait::Ready | Wait::Dead => "polls without end".into(),
            Wait::Bar { id, .. } => {
                let b = self.ctas[cta].barriers[usize::from(id)];
                format!(
                    "waits at barrier {id}, where {} of {} threads are",
                    b.arrived, b.expected
                )
            }
            Wait::Mbar {
                cta: at,
                offset,
                parity,
                ..
            } => {
                let state = self.ctas[at as usize]
                    .shared_pair(offset)
                    .and_then(|w| crate::mbarrier::Mbarrier::from_word(w).ok());
                let rank = if at as usize == cta {
                    0
                } else {
                    (u64::from(at) + 1) << RANK_SHIFT
                };
                let address = rank | u64::from(offset);
                let now = state.map_or_else(String::new, |b| {
                    format!(
                        "; {} of {} arrivals and {} bytes are missing",
                        b.pending, b.expected, b.tx
                    )
                });
                format!(
                    "waits for the mbarrier at shared address {address:#x} (offset {}) to complete its phase of parity {}{now}",
                    offset - SHARED_START,
                    u8::from(parity)
                )
            }
            Wait::Registers { count } => {
                format!(
                    "waits for {count} registers a thread; the block has {} free",
                    self.ctas[cta].free_registers
                )
            }
            Wait::Cluster { .. } => {
                format!(
                    "waits at the cluster barrier, where {} warps are",
                    self.cluster.arrived
                )
            }
            Wait::Members { members } => format!("waits for lanes {members:#010x} of its warp"),
            Wait::Warpgroup => "waits for the other warps of its warpgroup".into(),
            Wait::WgmmaGroups => "waits for wgmma-groups".into(),
        }
    }
}

#[derive(Default)]
struct Round {
    alive: bool,
    ran: bool,
    polled: bool,
}
