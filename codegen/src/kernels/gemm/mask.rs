//! The ends of a K-grouped product's groups.
//!
//! K blocks lie on one grid for all groups, so that scales need no layout of their own. Of a block that two groups
//! share, each counts only its part: the consumers overwrite the rest of the stage with zeros before they multiply.
//!
//! ```text
//! stage      rows of A, then of B, 128 bytes each; 16-byte unit u of row r lies at unit u ^ (r % 8)
//! thread t   rows t, t + threads, ..
//! ```

use super::plan::ROW_BYTES;
use super::sums::Consumer;
use super::walk::Tile;
use crate::emit::{I32, Val, Var};
use crate::kernels::roles::WARPGROUP;

/// The named barrier of all consumers. 1 and 2 are the warpgroups'.
const CONSUMERS: i32 = 3;

/// Where a tile's group ends along K.
#[derive(Clone, Copy)]
pub(super) struct Ends<'k> {
    /// Elements of K that belong to the group.
    begin: Val<'k, I32>,
    end: Val<'k, I32>,
    /// The next K block that others have a part of; -1 when there is none any more. Groups that begin or end inside of a
    /// block are found by one comparison a block.
    shared: Var<'k, I32>,
}

impl<'k> Consumer<'k> {
    /// The ends of a tile's group, where K blocks may have other groups' elements too.
    pub(super) fn ends(&self, tile: Tile<'k>) -> Option<Ends<'k>> {
        let (k, plan) = (self.gemm.k, &self.gemm.plan);
        if !plan.is_k_grouped() {
            return None;
        }
        let (begin, end) = self.gemm.k_bounds(tile);
        let first = begin.udiv(plan.block_k());
        let begins_inside = begin.gt(first * plan.block_k());
        let last = self.last_if_shared(end);
        Some(Ends {
            begin,
            end,
            shared: k.var(begins_inside.select(first, last)),
        })
    }

    /// The K block that `end` lies inside of; -1 when it lies between two.
    fn last_if_shared(&self, end: Val<'k, I32>) -> Val<'k, I32> {
        let block_k = self.gemm.plan.block_k();
        let last = end.udiv(block_k);
        end.gt(last * block_k).select(last, self.gemm.k.i32(-1))
    }

    /// Clears what of the stage at the position lies outside of `ends`.
    pub(super) fn mask(&self, ends: Option<Ends<'k>>, block: Val<'k, I32>) {
        let (k, gemm, plan) = (self.gemm.k, &self.gemm, &self.gemm.plan);
        let Some(Ends { begin, end, shared }) = ends else {
            return;
        };
        k.if_(block.eq(shared.get()).unlikely(), || {
            // A block in which the group both begins and ends is its only one.
            shared.set(self.last_if_shared(end));
            let unit = (ROW_BYTES / plan.block_k()).cast_signed();
            let first = block * plan.block_k();
            // Bytes `from..to` of each row stay.
            let from = ((begin - first) * unit).max(0);
            let to = ((end - first) * unit).min(ROW_BYTES.cast_signed());
            let threads = WARPGROUP * plan.consumers;
            let rows = plan.tile.m + plan.tile.n;
            let stage = gemm.stage(self.position);
            let me = self.group * WARPGROUP + self.thread;
            k.for_(me, rows, threads, |r| {
                let line = stage.at(r * ROW_BYTES);
                for u in 0..ROW_BYTES / 16 {
                    let at = line.at(((r & 7) ^ u) * 16);
                    let words: [Val<'k, I32>; 4] = at.load_vec();
                    let kept = std::array::from_fn(|w| {
                        let word = (16 * u + 4 * w as u32).cast_signed();
                        let behind = self.bytes_below(from - word) ^ -1;
                        words[w] & self.bytes_below(to - word) & behind
                    });
                    at.store_vec::<I32, 4>(kept);
                }
            });
            k.fence_proxy_async();
            k.sync_named(k.i32(CONSUMERS), threads);
        });
    }

    /// A word whose lowest `n` bytes are ones; all of them from 4 on, none up to 0.
    fn bytes_below(&self, n: Val<'k, I32>) -> Val<'k, I32> {
        let k = self.gemm.k;
        let some = (k.i32(1) << ((n.max(0).min(3)) * 8)) - 1;
        n.ge(4).select(k.i32(-1), some)
    }
}
