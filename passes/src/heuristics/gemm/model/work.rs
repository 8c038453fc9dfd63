//! How the tiles of a launch are shared out among SMs.

use mcc_ir::kernel::{GemmForm, GemmTile, Share};
use mcc_ir::types::DType;

use super::super::GemmProblem;
use super::super::candidates::STAGE_K_BYTES;
use super::Spread;
use super::traffic::Traffic;
use crate::target::Target;

/// Tiles of a launch, who works them off, and what they move.
pub(super) struct Work {
    /// Rows of all products.
    pub(super) rows: u64,
    /// Products with an own B: heads, groups that have rows.
    pub(super) products: u64,
    /// Row tiles of all products; of a cluster along M with those that are there for the pair only.
    pub(super) row_tiles: u64,
    pub(super) column_tiles: u64,
    pub(super) tiles: u64,
    pub(super) waves: u64,
    pub(super) busy_sms: u64,
    /// From the L2 for a K block.
    pub(super) block_bytes: u64,
    /// To the L2 (and from it, where the product is added to) for a tile.
    pub(super) tile_bytes: u64,
    /// Every operand once, the product once.
    pub(super) least_bytes: u64,
}

impl Work {
    pub(super) fn of(
        problem: &GemmProblem,
        tile: GemmTile,
        target: &Target,
        spread: Spread<'_>,
    ) -> Self {
        let m = u64::from(tile.m);
        let pair = if tile.share == Share::B { 2 } else { 1 };
        let tiles_of = |rows: u64| rows.div_ceil(m).next_multiple_of(pair);
        let (rows, products, row_tiles) = match (problem.form, spread) {
            (GemmForm::Grouped { .. } | GemmForm::Masked { .. }, Spread::Groups(groups)) => (
                groups.iter().sum(),
                groups.iter().filter(|rows| **rows > 0).count() as u64,
                groups.iter().map(|&rows| tiles_of(rows)).sum(),
            ),
            (GemmForm::Grouped { groups } | GemmForm::Masked { groups }, _) => {
                let rows = problem.rows.max(1);
                let busy = u64::from(groups).clamp(1, rows);
                let mean = rows.div_ceil(busy);
                let off = match spread {
                    Spread::Random if groups > 1 => mean.isqrt().min(mean - 1),
                    _ => 0,
                };
                let above = busy / 2;
                let tiles = above * tiles_of(mean + off) + (busy - above) * tiles_of(mean - off);
                (rows, busy, tiles)
            }
            (GemmForm::KGrouped { groups: count } | GemmForm::Batched { heads: count }, _) => {
                let (rows, count) = (problem.rows.max(1), u64::from(count).max(1));
                (rows * count, count, count * tiles_of(rows))
            }
            (GemmForm::Dense, _) => {
                let rows = problem.rows.max(1);
                (rows, 1, tiles_of(rows))
            }
        };
        let column_tiles = problem.n.div_ceil(tile.n.into());
        let tiles = row_tiles * column_tiles;
        let sms = u64::from(target.sms).max(1);
        let (waves, busy_sms) = if tile.split_k > 1 {
            let clusters = clusters(sms, tile.split_k.into());
            let split = u64::from(tile.split_k);
            (tiles.div_ceil(clusters), tiles.min(clusters) * split)
        } else if tile.share == Share::None {
            (tiles.div_ceil(sms), tiles.min(sms))
        } else {
            let clusters = clusters(sms, 2);
            let pairs = tiles.div_ceil(2);
            (pairs.div_ceil(clusters), pairs.min(clusters) * 2)
        };

        // Rows of a tile that lie outside of the tensor are not read.
        let mean_rows = rows.div_ceil(row_tiles.max(1)).min(m);
        let (mut a, mut b) = (mean_rows * STAGE_K_BYTES, u64::from(tile.n) * STAGE_K_BYTES);
        match tile.share {
            Share::None => {}
            Share::A => a = a.div_ceil(2),
            Share::B => b = b.div_ceil(2),
        }
        let scales = if problem.input == DType::E4M3 {
            mean_rows * DType::F32.bytes()
        } else {
            0
        };
        let traffic = Traffic::of(problem);
        let d = rows * traffic.row_out;
        Self {
            rows,
            products,
            row_tiles,
            column_tiles,
            tiles,
            waves,
            busy_sms,
            block_bytes: a + b + scales,
            tile_bytes: mean_rows * u64::from(tile.n) * traffic.row_out / problem.n.max(1),
            least_bytes: traffic.a(rows) + products * traffic.product_b + d,
        }
    }
}

/// Clusters of that many blocks that run at once. SMs come in groups (GPCs) of 16 or 18, and a cluster does not
/// leave its group; 132 SMs are taken as eight groups of 16, and two SMs in some.
pub(super) fn clusters(sms: u64, blocks: u64) -> u64 {
    const GPC: u64 = 16;
    if blocks <= 2 {
        return (sms / blocks.max(1)).max(1);
    }
    (sms / GPC * (GPC / blocks)).max(1)
}
