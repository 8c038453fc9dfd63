//! Checkers: is every access ordered after those that it depends on, on any
//! Hopper GPU and in any schedule?
//!
//! In: what the interpreter is about to do. Out: nothing, or a [`Race`]. One
//! run is enough to find a race whatever the order in which things happen to be
//! done, as the checkers follow the edges that the program makes (vector
//! clocks), and not the values.
//!
//! ```text
//!   clock      what has happened, by slots for threads and engines
//!   know       what each warp knows, and how releases and acquires move that
//!   shadow     who touched which bytes last
//!   shared     the shadow of shared memory
//!   global     the same for global memory, across the blocks of a launch
//!   mbarriers  phases, and the loads that they stand for
//!   registers  accumulators and fragments of wgmma
//!   access     hooks: loads, stores, atomics
//!   barriers   hooks: barriers, fences, mbarriers
//!   engines    hooks: copies, tensor cores, the end of a block
//!   puts       hooks: what goes to other ranks by NVSHMEM
//!   launches   what ends with a launch, and what the next one begins with
//!   report     findings in words
//! ```
//!
//! Two rules keep out false alarms: where knowledge cannot be held exactly, more
//! is taken as known; and of a cell's accesses only so many are kept.

mod access;
mod barriers;
mod clock;
mod engines;
mod global;
mod know;
mod launches;
mod mbarriers;
mod puts;
mod registers;
mod report;
mod shadow;
mod shared;

pub use access::Access;
pub use engines::{Engine, Range};
pub use global::Initialised;
pub use launches::{LaunchCheck, Shape};
pub use puts::Carried;
pub use registers::Touch;
pub use report::{Other, Place, Race, Rule};

pub use clock::cluster_of;
use clock::{Edge, Slots};
use global::Vars;
use know::WarpKnow;
use mbarriers::Mbars;
use puts::WarpPuts;
use registers::Registers;
use shared::Shadows;

use crate::exec::state::{BARRIERS, Env};

/// Edges through a hardware barrier.
#[derive(Debug, Default)]
struct BarrierEdges {
    arrived: Edge,
    done: Edge,
}

impl BarrierEdges {
    fn complete(&mut self) {
        self.done.join(&self.arrived);
        self.arrived.clear();
    }

    fn clear(&mut self) {
        self.arrived.clear();
        self.done.clear();
    }
}

/// Bulk copies from shared memory of one lane that it may not have waited for.
#[derive(Debug, Clone, Copy)]
struct LastBulk {
    warp: u32,
    lane: u32,
    count: u32,
    pc: u32,
}

/// What is checked in one cluster.
#[derive(Debug, Default)]
pub struct Checker {
    /// Number of the cluster in the launch.
    cluster: u64,
    warps_per_cta: u32,
    slots: Slots,
    know: Vec<WarpKnow>,
    puts: Vec<WarpPuts>,
    registers: Vec<Registers>,
    shared: Shadows,
    mbars: Mbars,
    named: Vec<[BarrierEdges; BARRIERS]>,
    cluster_barrier: BarrierEdges,
    /// Releases through shared memory.
    vars: Vars,
    last_bulk: Vec<LastBulk>,
}

impl Checker {
    pub fn reset(&mut self, env: &Env<'_>, cluster: u64) {
        let ctas: u32 = env.cluster.iter().product();
        self.warps_per_cta = env.threads().div_ceil(32);
        self.cluster = env.cluster_id(cluster);
        self.slots = launches::slots(env.kernel, env.block, env.cluster);
        let warps = self.slots.warps as usize;
        let before = env.check.map(|c| c.begin(env.device)).unwrap_or_default();
        self.know.resize_with(warps, WarpKnow::default);
        for (w, k) in self.know.iter_mut().enumerate() {
            let w = w as u32;
            k.reset(self.slots.threads(w), self.slots.strong(w), &before);
        }
        self.puts.resize_with(warps, WarpPuts::default);
        self.puts.iter_mut().for_each(WarpPuts::reset);
        if !env.kernel.touch.is_empty() {
            self.registers.resize_with(warps, Registers::default);
            for r in &mut self.registers {
                r.reset(env.kernel.rows32);
            }
        }
        self.shared.reset(ctas as usize, env.shared_bytes());
        self.mbars.reset(self.slots.mbarriers());
        self.named.resize_with(ctas as usize, Default::default);
        for n in self.named.iter_mut().flatten() {
            n.clear();
        }
        self.cluster_barrier.clear();
        self.vars = Vars::default();
        self.last_bulk.clear();
    }
}
