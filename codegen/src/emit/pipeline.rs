//! The shared-memory map, and the ring of stages between a TMA producer and its consumers.
//!
//! ```text
//! producer                         consumers
//!   wait empty[s]  ◄────────────────  arrive empty[s]   (one arrival a consumer warp)
//!   expect bytes, issue TMA
//!   ─────────────── full[s] ───────►  wait full[s], use the stage
//!   advance                           advance
//! ```
//! In a cluster whose blocks load for each other, consumers of all of them leave a stage before any block's producer
//! fills it again: each empty barrier counts the warps of all blocks.
//!
//! A stage's phase bit flips each time round. [`Position`] moves through [`Position::advance`] only. The
//! producer starts with the parity that a fresh barrier has already "completed", so it does not wait in the
//! first round.

use super::asm::{Arrivals, Barrier};
use super::cluster::Remote;
use super::wait::Site;
use super::{I32, Kernel, Shared, Val, Var};

/// Lays out dynamic shared memory at build time.
#[derive(Debug, Default)]
pub struct SmemMap {
    bytes: u32,
}

impl SmemMap {
    /// Reserves `bytes` at the next multiple of `align`; returns the byte offset.
    pub fn reserve(&mut self, bytes: u32, align: u32) -> u32 {
        let offset = self.bytes.next_multiple_of(align);
        self.bytes = offset + bytes;
        offset
    }

    /// Bytes to ask for at launch: what was reserved, up to a multiple of 16. LLVM widens a load to a whole
    /// aligned vector where that costs nothing, so that the last one may reach behind what was asked for.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.bytes.next_multiple_of(16)
    }
}

/// Byte offsets of a ring's barriers.
#[derive(Clone, Copy, Debug)]
pub struct RingLayout {
    /// Number of stages.
    pub stages: u32,
    full: u32,
    empty: u32,
}

impl RingLayout {
    /// A ring without stages.
    pub const EMPTY: Self = Self {
        stages: 0,
        full: 0,
        empty: 0,
    };

    /// Reserves 16 bytes a stage.
    pub fn reserve(map: &mut SmemMap, stages: u32) -> Self {
        let full = map.reserve(8 * stages, 8);
        let empty = map.reserve(8 * stages, 8);
        Self {
            stages,
            full,
            empty,
        }
    }
}

/// A ring in a kernel.
#[derive(Clone, Copy)]
pub struct Ring<'k> {
    layout: RingLayout,
    smem: Shared<'k>,
    /// Address of the first full barrier, in a register. All other barriers' follow from it.
    base: Val<'k, I32>,
    /// Blocks whose consumers use what this block's producer loads.
    blocks: u32,
    k: &'k Kernel,
}

/// A consumer warp's way to say that it has left a stage.
#[derive(Clone, Copy)]
pub struct Release<'k> {
    ring: Ring<'k>,
    lane: Val<'k, I32>,
    /// From this block's full barriers to the empty ones of block `lane` of the cluster, where there is one.
    distance: Option<Val<'k, I32>>,
}

/// Where one side of a ring stands.
///
/// Of a ring whose stages are a power of two, as the number of stages used so far: its low bits are the stage, the next
/// one is the phase. Of any other as the two of them.
#[derive(Clone, Copy)]
pub struct Position<'k> {
    /// The stage, or the number of stages used so far.
    stage: Var<'k, I32>,
    phase: Option<Var<'k, I32>>,
    /// Stages that this is ahead of `stage`, in the same round.
    ahead: u32,
    stages: u32,
    k: &'k Kernel,
}

impl<'k> Position<'k> {
    /// The start of a ring of `stages`, in phase 0 or 1.
    fn start(k: &'k Kernel, stages: u32, phase: u32) -> Self {
        let (stage, phase) = if stages.is_power_of_two() {
            (k.i32(stages * phase), None)
        } else {
            (k.i32(0), Some(k.var(k.i32(phase))))
        };
        Self {
            stage: k.var(stage),
            phase,
            ahead: 0,
            stages,
            k,
        }
    }

    /// The stage to use next.
    pub fn stage(self) -> Val<'k, I32> {
        let stage = match self.phase {
            Some(_) => self.stage.get(),
            None => self.stage.get() & (self.stages - 1).cast_signed(),
        };
        match self.ahead {
            0 => stage,
            ahead => stage + ahead,
        }
    }

    /// The phase of that stage, 0 or 1.
    fn phase(self) -> Val<'k, I32> {
        match self.phase {
            Some(phase) => phase.get(),
            None => self.stage.get().ushr(self.stages.ilog2()) & 1,
        }
    }

    /// The position `stages` further, which must be in the same round.
    pub fn ahead(self, stages: u32) -> Self {
        Self {
            ahead: stages,
            ..self
        }
    }

    /// Goes to the next stage; the phase flips at the end of a round.
    pub fn advance(self) {
        self.advance_by(1);
    }

    /// Goes `stages` further, of which a round must be a multiple.
    pub fn advance_by(self, stages: u32) {
        debug_assert!(self.stages.is_multiple_of(stages));
        let next = self.stage.get() + stages;
        let Some(phase) = self.phase else {
            self.stage.set(next);
            return;
        };
        let wraps = next.eq(self.stages.cast_signed());
        self.stage.set(wraps.select(self.k.i32(0), next));
        phase.update(|phase| wraps.select(phase ^ 1, phase));
    }
}

impl<'k> Ring<'k> {
    /// The ring at `layout`.
    pub fn new(k: &'k Kernel, smem: Shared<'k>, layout: RingLayout) -> Self {
        Self {
            layout,
            smem,
            base: k.opaque(smem.offset(layout.full).address()),
            blocks: 1,
            k,
        }
    }

    /// The same for a cluster of `blocks` blocks that load for each other.
    pub fn shared_by(self, blocks: u32) -> Self {
        Self { blocks, ..self }
    }

    /// Initialises the barriers for `warps` consumer warps a block; one thread, before the first synchronisation.
    pub fn init(self, warps: u32) {
        for s in 0..self.layout.stages {
            self.k
                .mbarrier_init(self.smem.offset(self.layout.full + 8 * s), 1);
            self.k.mbarrier_init(
                self.smem.offset(self.layout.empty + 8 * s),
                warps * self.blocks,
            );
        }
    }

    /// The producer's start.
    pub fn producer(self) -> Position<'k> {
        Position::start(self.k, self.layout.stages, 1)
    }

    /// A consumer's start.
    pub fn consumer(self) -> Position<'k> {
        Position::start(self.k, self.layout.stages, 0)
    }

    /// The barrier on which this stage's copies complete.
    pub fn full(self, p: Position<'k>) -> Barrier<'k> {
        self.barrier(p, self.layout.full)
    }

    fn empty(self, p: Position<'k>) -> Barrier<'k> {
        self.barrier(p, self.layout.empty)
    }

    /// The stage's barrier among those that begin at `first`.
    fn barrier(self, p: Position<'k>, first: u32) -> Barrier<'k> {
        Barrier {
            base: self.base + p.stage() * 8,
            offset: first - self.layout.full,
        }
    }

    /// Producer: waits until every consumer has left the stage.
    pub fn acquire(self, p: Position<'k>) {
        let who = if self.blocks > 1 {
            Arrivals::Cluster
        } else {
            Arrivals::Block
        };
        self.k
            .mbarrier_wait(self.empty(p), p.phase(), who, Site::Empty);
    }

    /// Producer: announces `bytes` of copies. What it stored into the stage by itself before, consumers see too.
    pub fn announce(self, p: Position<'k>, bytes: u32) {
        self.k.mbarrier_arrive_expect_tx(self.full(p), bytes);
    }

    /// Consumer: waits until the stage's copies are there.
    pub fn wait(self, p: Position<'k>) {
        self.k
            .mbarrier_wait(self.full(p), p.phase(), Arrivals::Block, Site::Full);
    }

    /// A consumer warp's way to leave stages; `lane` is the thread's number in it.
    pub fn releaser(self, lane: Val<'k, I32>) -> Release<'k> {
        let empty = self.smem.offset(self.layout.empty);
        Release {
            ring: self,
            lane,
            // Lanes that no block belongs to have one too, of which they make no use.
            distance: (self.blocks > 1).then(|| {
                let rank = lane & (self.blocks - 1).cast_signed();
                let there = self.k.remote(empty, rank);
                self.k.opaque(there.distance_from(self.base))
            }),
        }
    }
}

impl<'k> Release<'k> {
    /// Leaves the stage; all lanes of the warp call it.
    pub fn leave(self, p: Position<'k>) {
        let k = self.ring.k;
        match self.distance {
            None => k.mbarrier_arrive_of_first(self.ring.empty(p), self.lane),
            Some(distance) => {
                let there = Remote::at_distance(self.ring.full(p).base, distance);
                k.mbarrier_leave_remote(there, self.lane, self.ring.blocks);
            }
        }
    }
}
