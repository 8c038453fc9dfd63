//! The shared-memory map, and the ring of stages between a TMA producer and its consumers.
//!
//! ```text
//! producer                         consumers
//!   wait empty[s]  ◄────────────────  arrive empty[s]   (one arrival a consumer warp)
//!   expect bytes, issue TMA
//!   ─────────────── full[s] ───────►  wait full[s], use the stage
//!   advance                           advance
//! ```
//! A stage's phase bit flips each time round. [`Position`] moves through [`Position::advance`] only. The
//! producer starts with the parity that a fresh barrier has already "completed", so it does not wait in the
//! first round.

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
    k: &'k Kernel,
}

/// Where one side of a ring stands.
#[derive(Clone, Copy)]
pub struct Position<'k> {
    stage: Var<'k, I32>,
    phase: Var<'k, I32>,
    stages: u32,
    k: &'k Kernel,
}

impl<'k> Position<'k> {
    /// The stage to use next.
    pub fn stage(self) -> Val<'k, I32> {
        self.stage.get()
    }

    /// Goes to the next stage; the phase flips at the end of a round.
    pub fn advance(self) {
        let next = self.stage.get() + 1;
        let wraps = next.eq(self.stages.cast_signed());
        self.stage.set(wraps.select(self.k.i32(0), next));
        let phase = self.phase.get();
        self.phase.set(wraps.select(phase ^ 1, phase));
    }
}

impl<'k> Ring<'k> {
    /// The ring at `layout`.
    pub fn new(k: &'k Kernel, smem: Shared<'k>, layout: RingLayout) -> Self {
        Self { layout, smem, k }
    }

    /// Initialises the barriers; one thread, before the block's first synchronisation.
    pub fn init(self, consumer_arrivals: u32) {
        for s in 0..self.layout.stages {
            self.k
                .mbarrier_init(self.smem.offset(self.layout.full + 8 * s), 1);
            self.k.mbarrier_init(
                self.smem.offset(self.layout.empty + 8 * s),
                consumer_arrivals,
            );
        }
    }

    /// The producer's start.
    pub fn producer(self) -> Position<'k> {
        self.position(1)
    }

    /// A consumer's start.
    pub fn consumer(self) -> Position<'k> {
        self.position(0)
    }

    fn position(self, phase: i64) -> Position<'k> {
        Position {
            stage: self.k.var(self.k.i32(0)),
            phase: self.k.var(self.k.i32(phase)),
            stages: self.layout.stages,
            k: self.k,
        }
    }

    /// The barrier on which this stage's copies complete.
    pub fn full(self, p: Position<'k>) -> Shared<'k> {
        self.smem.offset(self.layout.full).at(p.stage() * 8)
    }

    fn empty(self, p: Position<'k>) -> Shared<'k> {
        self.smem.offset(self.layout.empty).at(p.stage() * 8)
    }

    /// Producer: waits until every consumer has left the stage, then announces `bytes` of copies.
    pub fn acquire(self, p: Position<'k>, bytes: u32) {
        self.k
            .mbarrier_wait(self.empty(p), p.phase.get(), Site::Empty);
        self.k.mbarrier_arrive_expect_tx(self.full(p), bytes);
    }

    /// Consumer: waits until the stage's copies are there.
    pub fn wait(self, p: Position<'k>) {
        self.k
            .mbarrier_wait(self.full(p), p.phase.get(), Site::Full);
    }

    /// Consumer: one thread of each warp leaves the stage.
    pub fn release(self, p: Position<'k>) {
        self.k.mbarrier_arrive(self.empty(p));
    }
}
