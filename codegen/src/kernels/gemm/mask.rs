//! The ends of a K-grouped product's groups.
//!
//! K blocks lie on one grid for all groups, so that scales need no layout of their own. Of a block that two groups
//! share, each counts only its part: the consumers overwrite the rest of the stage with zeros before they multiply.
//!
//! ```text
//! stage      rows of A, then of B, 128 bytes each; 16-byte unit u of row r lies at unit u ^ (r % 8)
//! thread t   rows t, t + threads, ..
//! ```

use mcc_ir::kernel::GemmForm;

use super::plan::ROW_BYTES;
use super::sums::Consumer;
use super::walk::Tile;
use crate::emit::{I32, Val};
use crate::kernels::roles::WARPGROUP;

/// The named barrier of all consumers. 1 and 2 are the warpgroups'.
const CONSUMERS: i32 = 3;

impl<'k> Consumer<'k> {
    /// Elements of K that belong to a tile's group, where K blocks may have others too.
    pub(super) fn ends(&self, tile: Tile<'k>) -> Option<(Val<'k, I32>, Val<'k, I32>)> {
        let grouped = matches!(self.gemm.plan.form, GemmForm::KGrouped { .. });
        grouped.then(|| self.gemm.k_bounds(tile))
    }

    /// Clears what of the stage at the position lies outside of `ends`.
    pub(super) fn mask(&self, ends: Option<(Val<'k, I32>, Val<'k, I32>)>, block: Val<'k, I32>) {
        let (k, gemm, plan) = (self.gemm.k, &self.gemm, &self.gemm.plan);
        let Some((begin, end)) = ends else {
            return;
        };
        let unit = (ROW_BYTES / plan.block_k()).cast_signed();
        let first = block * plan.block_k();
        // Bytes `from..to` of each row stay.
        let row = ROW_BYTES.cast_signed();
        let from = ((begin - first) * unit).max(0);
        let to = ((end - first) * unit).min(row);
        k.if_((from.gt(0) | to.lt(row)).unlikely(), || {
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
