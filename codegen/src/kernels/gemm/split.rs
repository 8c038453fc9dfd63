//! K split over the blocks of a cluster, with the sums promoted in K order all the same.
//!
//! What takes time with few rows is to bring the weights; promotion is cheap. So block `r` computes the tensor core's
//! partial sums of its share of K at once, and keeps them. Block 0 promotes as it goes; when it is done it hands its sums to
//! block 1, which promotes its kept partial sums onto them, and so on: the same chain of FMAs as without a split, so
//! the same bits. The last block has the tile.
//!
//! ```text
//! block 0   load, multiply, promote ─ sums ─►
//! block 1   load, multiply, keep ............ promote ─ sums ─►
//! block 2   load, multiply, keep .............................. promote, store
//! ```
//! A thread keeps what it will need itself: kept partial sums are `[block][register][thread]`, so that each access of a
//! warp is one row of banks. The sums travel from a thread to the same thread of the next block, whose barrier `full`
//! counts the warps that have written; barrier `free` of the sender counts those that have read.

use super::Gemm;
use super::plan::ROW_BYTES;
use super::sums::{Consumer, Sums};
use super::walk::Tile;
use crate::emit::asm::{Arrivals, Barrier};
use crate::emit::wait::Site;
use crate::emit::wgmma::Init;
use crate::emit::{B1, F32, I32, Shared, Val, Var};
use crate::kernels::roles::WARPGROUP;

/// Bytes from barrier `full` to barrier `free`.
const FREE: u32 = 8;

impl<'k> Consumer<'k> {
    /// The sums of a tile, complete in the cluster's last block; `phase` is the parity of tiles so far.
    pub(super) fn split_sums(&self, tile: Tile<'k>, sums: &Sums<'k>, phase: Var<'k, I32>) {
        let (k, gemm, plan) = (self.gemm.k, &self.gemm, &self.gemm.plan);
        let rank = k.cluster_rank();
        let sums = &sums[0];
        let (from, to) = gemm.k_range(tile);
        k.if_else(
            rank.eq(0),
            || {
                k.for_(from, to, 1, |_| {
                    self.multiply(|p, s| promote(sums, &p, &s));
                });
            },
            || {
                k.for_(from, to, 1, |block| {
                    let kept = self.kept(block - from);
                    self.multiply(|p, s| {
                        for (i, v) in p.iter().chain(s.as_flattened()).enumerate() {
                            kept.offset(self.register(i)).store(*v);
                        }
                    });
                });
                self.take(sums, phase.get());
                k.for_(from, to, 1, |block| {
                    let kept = self.kept(block - from);
                    let at = |i: usize| kept.offset(self.register(i)).load::<F32>();
                    let p: Vec<_> = (0..sums.len()).map(at).collect();
                    let s: Vec<[_; 2]> = (0..sums.len() / 4)
                        .map(|j| [0, 1].map(|c| at(sums.len() + 2 * j + c)))
                        .collect();
                    promote(sums, &p, &s);
                });
            },
        );
        let last = plan.tile.split_k - 1;
        k.if_(rank.lt(last.cast_signed()), || {
            self.hand_over(sums, rank + 1, phase.get());
        });
        phase.update(|p| p ^ 1);
    }

    /// The next stage's partial sums and scales.
    fn multiply(&self, then: impl FnOnce(Vec<Val<'k, F32>>, Vec<[Val<'k, F32>; 2]>)) {
        self.gemm.ring.wait(self.position);
        let scales = self.column_scales();
        let p = self.product((0, 0), 0, ROW_BYTES, &Init::Zero);
        self.leave();
        then(p, scales);
        self.position.advance();
    }

    /// This thread's first register of kept K block `block`.
    fn kept(&self, block: Val<'k, I32>) -> Shared<'k> {
        let plan = &self.gemm.plan;
        let registers = plan.mma_n / 2 + plan.mma_n / 4;
        let bytes = self.register(registers as usize);
        self.mine(plan.smem.kept).at(block * bytes)
    }

    /// This thread's first word of a place that has one a thread and register.
    fn mine(&self, at: u32) -> Shared<'k> {
        let thread = self.group * WARPGROUP + self.thread;
        self.gemm.k.smem().offset(at).at(thread * 4)
    }

    /// Bytes from a thread's register 0 to its register `i`.
    fn register(&self, i: usize) -> u32 {
        i as u32 * WARPGROUP * self.gemm.plan.consumers * 4
    }

    /// Waits for the sums of the block before, takes them and says so.
    fn take(&self, sums: &[Var<'k, F32>], phase: Val<'k, I32>) {
        let (k, smem) = (self.gemm.k, &self.gemm.plan.smem);
        let full = Barrier::new(k.smem(), smem.handover);
        k.mbarrier_wait(full, phase, Arrivals::Cluster, Site::Full);
        let from = self.mine(smem.incoming);
        for (i, sum) in sums.iter().enumerate() {
            sum.set(from.offset(self.register(i)).load::<F32>());
        }
        self.tell(smem.handover + FREE, k.cluster_rank() - 1);
    }

    /// Gives the sums to block `to`, when it has taken those of the tile before.
    fn hand_over(&self, sums: &[Var<'k, F32>], to: Val<'k, I32>, phase: Val<'k, I32>) {
        let (k, smem) = (self.gemm.k, &self.gemm.plan.smem);
        let free = Barrier::new(k.smem(), smem.handover + FREE);
        k.mbarrier_wait(free, phase ^ 1, Arrivals::Cluster, Site::Empty);
        let place = k.remote(self.mine(smem.incoming), to);
        for (i, sum) in sums.iter().enumerate() {
            let offset = k.i32(self.register(i));
            k.store_remote(place.at(offset), sum.get());
        }
        self.tell(smem.handover, to);
    }

    /// Arrives, once a warp, at the barrier at `barrier` of block `rank`.
    fn tell(&self, barrier: u32, rank: Val<'k, I32>) {
        let k = self.gemm.k;
        k.sync_warp();
        let there = k.remote(k.smem().offset(barrier), rank);
        k.mbarrier_arrive_remote(there, self.lane);
    }
}

impl<'k> Gemm<'k> {
    /// Whether this block gets the sums of the cluster's tile.
    pub(super) fn has_sums(&self) -> Val<'k, B1> {
        let last = self.plan.tile.split_k - 1;
        self.k.cluster_rank().eq(last.cast_signed())
    }

    /// Initialises the barriers of the hand-over; one thread.
    pub(super) fn init_handover(&self) {
        let (k, plan) = (self.k, &self.plan);
        for barrier in [0, FREE] {
            let at = k.smem().offset(plan.smem.handover + barrier);
            k.mbarrier_init(at, plan.consumers * WARPGROUP / 32);
        }
    }
}

/// `sum = fma(s, p, sum)`, register by register.
fn promote<'k>(sums: &[Var<'k, F32>], p: &[Val<'k, F32>], s: &[[Val<'k, F32>; 2]]) {
    for (i, (sum, p)) in sums.iter().zip(p).enumerate() {
        sum.update(|sum| s[i / 4][i % 2].fma(*p, sum));
    }
}
