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
//! A thread keeps what it will need itself, four words at once: `[block][word / 4][thread][word % 4]`. The sums travel from a thread to the same thread of the next block, whose barrier `full`
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
                self.for_each_block((from, to), |me, _| {
                    let (p, s) = me.multiply();
                    promote(sums, &p, &s);
                });
            },
            || {
                self.for_each_block((from, to), |me, block| {
                    let (p, s) = me.multiply();
                    let words: Vec<_> = p.iter().chain(s.as_flattened()).copied().collect();
                    me.keep(block - from, &words);
                });
                self.take(sums, phase.get());
                k.for_(from, to, 1, |block| {
                    let words = self.kept(block - from);
                    let (p, s) = words.split_at(sums.len());
                    promote(sums, p, s.as_chunks().0);
                });
            },
        );
        let last = plan.tile.split_k - 1;
        k.if_(rank.lt(last.cast_signed()), || {
            self.hand_over(sums, rank + 1, phase.get());
        });
        phase.update(|p| p ^ 1);
    }

    /// The partial sums and scales of the stage at the position, which is left.
    fn multiply(&self) -> (Vec<Val<'k, F32>>, Vec<[Val<'k, F32>; 2]>) {
        let scales = self.column_scales();
        let p = self.product((0, 0), 0, ROW_BYTES, &Init::Zero);
        self.leave();
        (p, scales)
    }

    /// Words that a thread keeps of a K block: partial sums, and the products of scales that two of them share.
    fn kept_words(&self) -> u32 {
        let plan = &self.gemm.plan;
        plan.mma_n / 2 + plan.mma_n / 4
    }

    /// Where this thread keeps its words of K block `block`: four at once, at the end perhaps two.
    fn places(&self, block: Val<'k, I32>) -> impl Iterator<Item = (usize, Shared<'k>)> {
        let (words, plan) = (self.kept_words(), &self.gemm.plan);
        let threads = WARPGROUP * plan.consumers;
        let begin = self.gemm.k.smem().offset(plan.smem.kept);
        let begin = begin.at(block * (words * threads * 4));
        let thread = self.group * WARPGROUP + self.thread;
        (0..words).step_by(4).map(move |first| {
            let width = (words - first).min(4);
            let place = begin.offset(first * threads * 4).at(thread * (width * 4));
            (width as usize, place)
        })
    }

    /// Keeps these words of K block `block`.
    fn keep(&self, block: Val<'k, I32>, mut words: &[Val<'k, F32>]) {
        for (width, place) in self.places(block) {
            let (now, later) = words.split_at(width);
            match *now {
                [a, b, c, d] => place.store_vec([a, b, c, d]),
                [a, b] => place.store_vec([a, b]),
                _ => unreachable!("a fragment has an even number of registers"),
            }
            words = later;
        }
    }

    /// The words kept of K block `block`.
    fn kept(&self, block: Val<'k, I32>) -> Vec<Val<'k, F32>> {
        let load = |(width, place): (usize, Shared<'k>)| match width {
            4 => place.load_vec::<F32, 4>().to_vec(),
            _ => place.load_vec::<F32, 2>().to_vec(),
        };
        self.places(block).flat_map(load).collect()
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
