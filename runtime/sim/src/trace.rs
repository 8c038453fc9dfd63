//! A time line of warps, barriers and asynchronous engines.
//!
//! In: what the interpreter tells as it happens (the `trace_*` calls of
//! [`Core`] and [`Group`]), when [`GpuConfig::trace`] asks for it. Out: a
//! [`LaunchTrace`] for each launch, of as many events as its limits allow.
//!
//! Time is counted in warp instructions, and every warp has a clock of its own,
//! as if each ran on a processor of its own. Whoever waits goes on at the time
//! of the event that it waited for, if that is later than its own:
//!
//! ```text
//!   producer  ──run── arrive t=40 ──run──▶
//!                           │
//!   consumer  ──run── t=12 ·wait· t=40 ──run──▶
//! ```
//!
//! An asynchronous operation takes from its issue to the moment that the
//! schedule lets it take effect: nothing under [`Completion::Early`].
//!
//! [`GpuConfig::trace`]: crate::GpuConfig::trace
//! [`Completion::Early`]: crate::Completion::Early

use std::collections::HashMap;
use std::sync::Mutex;

use crate::exec::state::{Core, Env, Group, Wait};

/// How much a trace may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceLimits {
    /// Only the first clusters of a launch are traced.
    pub clusters: u64,
    /// Events of one cluster; later ones are only counted.
    pub events: usize,
}

impl Default for TraceLimits {
    fn default() -> TraceLimits {
        TraceLimits {
            clusters: 16,
            events: 50_000,
        }
    }
}

/// The traced clusters of one launch, in the order of the grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchTrace {
    pub kernel: String,
    pub clusters: Vec<ClusterTrace>,
    /// Clusters of the launch, traced or not.
    pub of: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTrace {
    pub cluster: u64,
    /// The blocks of the cluster, by rank.
    pub blocks: Vec<[u32; 3]>,
    /// When the last warp ended.
    pub end: u64,
    pub events: Vec<TraceEvent>,
    /// Events that the limit left out.
    pub lost: u64,
}

/// Something that took from one time to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// Rank of the block in its cluster.
    pub block: u32,
    pub from: u64,
    pub to: u64,
    /// Line of the PTX text: where a warp stopped, what issued an operation,
    /// or who completed a phase.
    pub line: u32,
    pub what: TraceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceKind {
    /// A warp executed instructions.
    Run { warp: u32 },
    /// A warp waited.
    Wait { warp: u32, wait: TraceWait },
    /// A phase of a barrier, from the end of the one before it.
    Phase { point: TracePoint, index: u64 },
    /// An asynchronous operation that `warp` issued.
    Async {
        warp: u32,
        engine: TraceEngine,
        bytes: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceWait {
    At(TracePoint),
    /// Lanes of the same warp.
    Lanes,
    /// The other warps of the warpgroup.
    Warpgroup,
    /// `wgmma.wait_group`.
    WgmmaGroups,
    /// `setmaxnreg.inc`.
    Registers,
}

/// Where threads meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TracePoint {
    /// `bar` and `barrier`, of the block with this rank.
    Named {
        block: u32,
        id: u8,
    },
    /// By its offset in the shared memory of the block with this rank.
    Mbarrier {
        block: u32,
        offset: u32,
    },
    Cluster,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TraceEngine {
    TensorLoad,
    TensorStore,
    TensorReduce,
    BulkLoad,
    BulkStore,
    BulkReduce,
    CpAsync,
    Wgmma,
}

/// The time lines of a device's launches.
#[derive(Debug, Default)]
pub(crate) struct Traces(Mutex<Vec<LaunchTrace>>);

/// Those of the clusters of one launch, in the order in which they ended.
#[derive(Debug, Default)]
pub(crate) struct Taken(Mutex<Vec<ClusterTrace>>);

impl Taken {
    pub fn add(&self, trace: Option<ClusterTrace>) {
        if let (Some(trace), Ok(mut all)) = (trace, self.0.lock()) {
            all.push(trace);
        }
    }
}

impl Traces {
    /// A launch of `of` clusters has ended.
    pub fn keep(&self, env: &Env<'_>, of: u64, clusters: Taken) {
        if env.trace.is_some()
            && let (Ok(mut clusters), Ok(mut all)) = (clusters.0.into_inner(), self.0.lock())
        {
            clusters.sort_by_key(|c| c.cluster);
            all.push(LaunchTrace {
                kernel: env.kernel.name.clone(),
                clusters,
                of,
            });
        }
    }

    pub fn take(&self) -> Vec<LaunchTrace> {
        let take = |mut t: std::sync::MutexGuard<'_, Vec<LaunchTrace>>| std::mem::take(&mut *t);
        self.0.lock().map_or_else(|_| Vec::new(), take)
    }
}

/// What one cluster did so far.
#[derive(Debug)]
pub(crate) struct Recorder {
    out: ClusterTrace,
    limit: usize,
    warps: Vec<Clock>,
    /// Warps of one block.
    per_block: u32,
    points: HashMap<TracePoint, Phase>,
    /// The warp whose turn it is, and the cluster's instructions when that
    /// began.
    turn: Option<(usize, u64)>,
}

/// A warp's time.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    /// At the begin of its turn, when it has one.
    time: u64,
    /// Since when it runs.
    since: u64,
    ended: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Phase {
    index: u64,
    /// When the phase before it ended.
    begun: u64,
    /// The latest arrival.
    latest: u64,
}

impl Recorder {
    /// A warp's clock when the cluster has executed so many instructions.
    fn local(&self, warp: usize, instructions: u64) -> u64 {
        let time = self.warps[warp].time;
        match self.turn {
            Some((w, start)) if w == warp => time + (instructions - start),
            _ => time,
        }
    }

    /// The time of what happens now: that of the warp whose turn it is. What
    /// happens when no warp can go on is later than all of them.
    fn now(&self, instructions: u64) -> u64 {
        match self.turn {
            Some((w, _)) => self.local(w, instructions),
            None => self.warps.iter().map(|c| c.time).max().unwrap_or(0),
        }
    }

    fn push(&mut self, event: TraceEvent) {
        // The lanes of one cp.async are one operation.
        if let (Some(last), TraceKind::Async { bytes, .. }) =
            (self.out.events.last_mut(), event.what)
            && let TraceKind::Async {
                warp,
                engine: engine @ TraceEngine::CpAsync,
                bytes: sum,
            } = last.what
        {
            let with = |bytes| TraceKind::Async {
                warp,
                engine,
                bytes,
            };
            let other = TraceEvent {
                what: with(bytes),
                ..last.clone()
            };
            if other == event {
                last.what = with(sum + bytes);
                return;
            }
        }
        if self.out.events.len() < self.limit {
            self.out.events.push(event);
        } else {
            self.out.lost += 1;
        }
    }

    fn block_and_warp(&self, warp: usize) -> (u32, u32) {
        (warp as u32 / self.per_block, warp as u32 % self.per_block)
    }

    /// Ends a stretch of a warp that ran to `to`.
    fn ran(&mut self, warp: usize, to: u64, line: u32) {
        let (block, index) = self.block_and_warp(warp);
        let from = std::mem::replace(&mut self.warps[warp].since, to);
        if to > from {
            self.push(TraceEvent {
                block,
                from,
                to,
                line,
                what: TraceKind::Run { warp: index },
            });
        }
    }

    /// A warp goes on, no earlier than at `to`.
    fn wait_until(&mut self, warp: usize, instructions: u64, to: u64, wait: TraceWait, line: u32) {
        let from = self.local(warp, instructions);
        if to <= from {
            return;
        }
        self.ran(warp, from, line);
        let (block, index) = self.block_and_warp(warp);
        self.push(TraceEvent {
            block,
            from,
            to,
            line,
            what: TraceKind::Wait { warp: index, wait },
        });
        self.warps[warp].time += to - from;
        self.warps[warp].since = to;
    }

    /// When the last phase of a barrier ended.
    fn completed(&self, point: TracePoint) -> u64 {
        self.points.get(&point).map_or(0, |p| p.begun)
    }

    fn arrival(&mut self, point: TracePoint, at: u64, completes: bool, line: u32) {
        let phase = self.points.entry(point).or_default();
        phase.latest = phase.latest.max(at).max(phase.begun);
        if !completes {
            return;
        }
        let done = *phase;
        *phase = Phase {
            index: done.index + 1,
            begun: done.latest,
            latest: done.latest,
        };
        let block = match point {
            TracePoint::Named { block, .. } | TracePoint::Mbarrier { block, .. } => block,
            TracePoint::Cluster => 0,
        };
        self.push(TraceEvent {
            block,
            from: done.begun,
            to: done.latest,
            line,
            what: TraceKind::Phase {
                point,
                index: done.index,
            },
        });
    }
}

/// What a wait is for, in the block with this rank.
fn trace_wait(wait: Wait, block: u32) -> Option<TraceWait> {
    Some(match wait {
        Wait::Ready | Wait::Dead => return None,
        Wait::Bar { id, .. } => TraceWait::At(TracePoint::Named { block, id }),
        Wait::Mbar { cta, offset, .. } => {
            TraceWait::At(TracePoint::Mbarrier { block: cta, offset })
        }
        Wait::Cluster { .. } => TraceWait::At(TracePoint::Cluster),
        Wait::Members { .. } => TraceWait::Lanes,
        Wait::Warpgroup => TraceWait::Warpgroup,
        Wait::WgmmaGroups => TraceWait::WgmmaGroups,
        Wait::Registers { .. } => TraceWait::Registers,
    })
}

impl Core<'_> {
    fn line(&self, pc: u32) -> u32 {
        self.env.kernel.lines.get(pc as usize).copied().unwrap_or(0)
    }

    fn trace_line(&self) -> u32 {
        self.w
            .frags
            .get(self.w.current)
            .map_or(0, |f| self.line(f.pc))
    }

    /// The fragment's wait is over.
    pub fn trace_wake(&mut self, f: usize) {
        if self.trace.is_some()
            && let Some(wait) = trace_wait(self.w.frags[f].wait, self.w.cta as u32)
        {
            self.trace_waited(wait, self.line(self.w.frags[f].pc));
        }
    }

    /// The warp found a barrier's phase complete.
    pub fn trace_passed(&mut self, point: TracePoint) {
        if self.trace.is_some() {
            self.trace_waited(TraceWait::At(point), self.trace_line());
        }
    }

    fn trace_waited(&mut self, wait: TraceWait, line: u32) {
        let instructions = self.stats.instructions;
        if let (Some(t), TraceWait::At(point)) = (self.trace.as_deref_mut(), wait)
            && let Some((warp, _)) = t.turn
        {
            let to = t.completed(point);
            t.wait_until(warp, instructions, to, wait, line);
        }
    }

    /// Somebody arrived at a barrier, and completed its phase or did not.
    pub fn trace_arrival(&mut self, point: TracePoint, completes: bool) {
        let line = self.trace_line();
        if let Some(t) = self.trace.as_deref_mut() {
            let now = t.now(self.stats.instructions);
            t.arrival(point, now, completes, line);
        }
    }

    /// The named barrier `id` of this block.
    pub fn trace_named(&self, id: u32) -> TracePoint {
        TracePoint::Named {
            block: self.w.cta as u32,
            id: id as u8,
        }
    }

    /// The mbarrier at a shared address.
    pub fn trace_mbarrier(&self, address: u64) -> TracePoint {
        TracePoint::Mbarrier {
            block: self.cta_of(address) as u32,
            offset: address as u32 & 0xff_ffff,
        }
    }

    /// A new mbarrier begins with its first phase.
    pub fn trace_init(&mut self, point: TracePoint) {
        if let Some(t) = self.trace.as_deref_mut() {
            let begun = t.now(self.stats.instructions);
            let latest = begun;
            t.points.insert(
                point,
                Phase {
                    index: 0,
                    begun,
                    latest,
                },
            );
        }
    }

    /// The time of an issue.
    pub fn trace_now(&self) -> u64 {
        let trace = self.trace.as_deref();
        trace.map_or(0, |t| t.now(self.stats.instructions))
    }

    /// An operation that was issued at `from` takes effect.
    pub fn trace_async(
        &mut self,
        engine: TraceEngine,
        warp: usize,
        pc: u32,
        from: u64,
        bytes: u64,
    ) {
        let line = self.line(pc);
        if let Some(t) = self.trace.as_deref_mut() {
            let to = t.now(self.stats.instructions).max(from);
            let (block, warp) = t.block_and_warp(warp);
            t.push(TraceEvent {
                block,
                from,
                to,
                line,
                what: TraceKind::Async {
                    warp,
                    engine,
                    bytes,
                },
            });
        }
    }
}

impl Group {
    /// Begins the trace of a cluster, if there is to be one.
    pub fn trace_cluster(&mut self, env: &Env<'_>, cluster: u64) {
        let limits = env.trace.filter(|l| cluster < l.clusters);
        self.trace = limits.map(|l| {
            Box::new(Recorder {
                out: ClusterTrace {
                    cluster,
                    blocks: self.ctas.iter().map(|c| c.block).collect(),
                    end: 0,
                    events: Vec::new(),
                    lost: 0,
                },
                limit: l.events,
                warps: vec![Clock::default(); self.warps.len()],
                per_block: env.threads().div_ceil(32),
                points: HashMap::new(),
                turn: None,
            })
        });
    }

    /// A warp's turn begins.
    pub fn trace_turn(&mut self, warp: usize) {
        if let Some(t) = self.trace.as_deref_mut() {
            t.turn = Some((warp, self.stats.instructions));
        }
    }

    /// The turn is over.
    pub fn trace_turn_over(&mut self, env: &Env<'_>) {
        let Some(t) = self.trace.as_deref_mut() else {
            return;
        };
        if let Some((warp, start)) = t.turn.take() {
            let clock = &mut t.warps[warp];
            clock.time += self.stats.instructions - start;
            let w = &self.warps[warp];
            if w.alive == 0 {
                clock.ended = true;
                let (to, pc) = (clock.time, w.frags.get(w.current).map_or(0, |f| f.pc));
                let line = env.kernel.lines.get(pc as usize).copied().unwrap_or(0);
                t.ran(warp, to, line);
            }
        }
    }

    /// The four warps from `base` on have met at a `wgmma`.
    pub fn trace_warpgroup(&mut self, base: usize, line: u32) -> u64 {
        let Some(t) = self.trace.as_deref_mut() else {
            return 0;
        };
        let to = (base..base + 4).map(|w| t.warps[w].time).max().unwrap_or(0);
        for w in base..base + 4 {
            t.wait_until(w, 0, to, TraceWait::Warpgroup, line);
        }
        to
    }

    /// A `wgmma` that was issued at `from` has written its accumulators.
    pub fn trace_wgmma(&mut self, base: usize, line: u32, from: u64) {
        let Some(t) = self.trace.as_deref_mut() else {
            return;
        };
        let to = (base..base + 4).map(|w| t.warps[w].time).max().unwrap_or(0);
        let (block, warp) = t.block_and_warp(base);
        t.push(TraceEvent {
            block,
            from,
            to: to.max(from),
            line,
            what: TraceKind::Async {
                warp,
                engine: TraceEngine::Wgmma,
                bytes: 0,
            },
        });
    }

    /// The cluster has ended, well or not: its trace.
    pub fn take_trace(&mut self, env: &Env<'_>) -> Option<ClusterTrace> {
        self.trace_turn_over(env);
        let mut t = self.trace.take()?;
        let end = t.warps.iter().map(|c| c.time).max().unwrap_or(0);
        // Warps that have not ended are stuck.
        for (i, w) in self.warps.iter().enumerate().take(t.warps.len()) {
            let Clock { time, ended, .. } = t.warps[i];
            if ended {
                continue;
            }
            let stuck = w
                .frags
                .iter()
                .find(|f| !matches!(f.wait, Wait::Ready | Wait::Dead));
            let line = |pc: u32| env.kernel.lines.get(pc as usize).copied().unwrap_or(0);
            let at = stuck.or(w.frags.get(w.current));
            let line = at.map_or(0, |f| line(f.pc));
            t.ran(i, time, line);
            if let Some(wait) = stuck.and_then(|f| trace_wait(f.wait, w.cta as u32)) {
                // Visible even when nobody did anything after it.
                t.wait_until(i, 0, end + 1, wait, line);
            }
        }
        t.out.end = end;
        Some(t.out)
    }
}
