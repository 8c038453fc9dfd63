//! Tiles and stages of matrix products.
//!
//! In: a [`GemmProblem`] and the target. Out: a [`GemmChoice`]: every candidate with its estimated cycles,
//! and the cheapest. The estimate is a roofline for each tile (tensor cores, shared memory, second-level
//! cache) times the waves of tiles over the SMs, and never less than the time that device memory needs:
//!
//! ```text
//! block  = max(tensor + promotion, shared memory, L2 share)     128 bytes of K of one tile
//! tile   = blocks * block + fill + store
//! cycles = max(waves * tile, bytes / memory bandwidth)
//! ```
//!
//! Few rows (decode) make waves and wasted rows decide: small tiles win. Many rows make the block decide:
//! two consumer warpgroups hide promotion (arXiv 2412.19437, section 3.3.2), so large tiles win.

use std::cmp::Reverse;
use std::fmt;

use mcc_ir::kernel::GemmTile;
use mcc_ir::types::DType;

use crate::target::Target;

/// A product to choose tiles for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmProblem {
    /// Element type of both factors: E4M3 (block-scaled) or BF16.
    pub input: DType,
    /// Element type of the product.
    pub out: DType,
    /// Rows to expect in one launch; for a grouped product, of all groups together.
    pub rows: u64,
    /// Columns.
    pub n: u64,
    /// Depth.
    pub k: u64,
    /// Matrices on the right: 1, or experts that share the rows.
    pub groups: u64,
    /// Heads: independent products of `rows` rows each; 1 for none.
    pub batch: u64,
}

/// One tile that was considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmCandidate {
    /// The tile.
    pub tile: GemmTile,
    /// Tiles of the whole product.
    pub tiles: u64,
    /// Rounds in which the SMs work them off.
    pub waves: u64,
    /// Shared memory for ring, scales and staged product.
    pub smem_bytes: u64,
    /// Estimated time.
    pub cycles: u64,
}

/// All candidates, cheapest first, so that the choice can be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GemmChoice {
    /// What was asked.
    pub problem: GemmProblem,
    /// Tiles that fit the target; never empty.
    pub candidates: Vec<GemmCandidate>,
}

/// Columns a tile. Each divides 128, so that one weight scale of 128x128 covers a column tile, and
/// at 128 the two FP32 accumulators of the promoted FP8 product (`128 / 2` registers each) still fit beside
/// two consumer warpgroups.
const TILE_N: [u32; 4] = [16, 32, 64, 128];
/// One or two consumer warpgroups of 64 rows, the height of `wgmma` (PTX ISA, "wgmma.mma_async").
const TILE_M: [u32; 2] = [64, 128];
/// Bytes of K a stage: the 128-byte swizzle span.
const STAGE_K_BYTES: u64 = 128;
/// Deeper rings than this hide no more latency.
const MAX_STAGES: u64 = 8;
/// From the first TMA request of a tile to its data, in cycles; an order of magnitude.
const LATENCY: u64 = 1000;
/// The same when all SMs read at once: the ring holds the loads of this time.
const LOADED_LATENCY: u64 = 2000;
/// Bytes that an SM reads of its shared memory in a cycle (32 banks of 4 bytes).
const SMEM_BYTES_PER_CYCLE: u64 = 128;
/// Bytes of the second-level cache that one SM gets in a cycle when all read, an order of magnitude.
const L2_BYTES_PER_CYCLE: u64 = 40;
/// FP32 operations of an SM in a cycle, for the promotion.
const FMA_PER_CYCLE: u64 = 128;
/// Barriers, tile bookkeeping and the alignment of the ring to 1024 bytes.
const SMEM_OVERHEAD: u64 = 4096;

/// Scores all tiles for a problem.
#[must_use]
pub fn choose(problem: GemmProblem, target: &Target) -> GemmChoice {
    let mut candidates: Vec<GemmCandidate> = TILE_M
        .iter()
        .flat_map(|&m| TILE_N.iter().map(move |&n| (m, n)))
        .filter_map(|(m, n)| candidate(&problem, target, m, n))
        .collect();
    // At equal time prefer the wider tile, which reads less: the estimate is blind below its own grain.
    candidates.sort_by_key(|c| (c.cycles, Reverse(c.tile.n), c.tile.m));
    GemmChoice {
        problem,
        candidates,
    }
}

impl GemmChoice {
    /// The cheapest tile; `None` when the target has too little shared memory for any.
    #[must_use]
    pub fn best(&self) -> Option<GemmTile> {
        self.candidates.first().map(|c| c.tile)
    }
}

fn candidate(
    problem: &GemmProblem,
    target: &Target,
    tile_m: u32,
    tile_n: u32,
) -> Option<GemmCandidate> {
    let (m, n) = (u64::from(tile_m), u64::from(tile_n));
    let element = problem.input.bytes();
    let blocks = (problem.k * element).div_ceil(STAGE_K_BYTES).max(1);
    let tiles = row_tiles(problem, m) * problem.n.div_ceil(n) * problem.batch;
    let waves = tiles.div_ceil(u64::from(target.sms).max(1));

    // Dense FP8 runs at 4096 multiply-adds an SM and cycle, BF16 at half that: equal bytes take equal time.
    let per_cycle = target.fp8_flops / 2 / (u64::from(target.sms) * target.clock_hz).max(1);
    let tensor = (m * n * STAGE_K_BYTES).div_ceil(per_cycle.max(1));
    let promote = if problem.input == DType::E4M3 {
        m * n / FMA_PER_CYCLE
    } else {
        0
    };
    // One warpgroup alternates between tensor cores and promotion, two overlap them.
    let compute = if tile_m > 64 {
        tensor.max(promote)
    } else {
        tensor + promote
    };
    // Each warpgroup reads its own rows of A and all of B.
    let shared = (m + n * (m / 64)) * STAGE_K_BYTES / SMEM_BYTES_PER_CYCLE;
    let cache = (m + n) * STAGE_K_BYTES / L2_BYTES_PER_CYCLE;
    let block = compute.max(shared).max(cache);

    let stage_bytes = (m + n) * STAGE_K_BYTES + m * DType::F32.bytes();
    let staged_product = m * n * problem.out.bytes();
    let fit =
        u64::from(target.smem_bytes).checked_sub(SMEM_OVERHEAD + staged_product)? / stage_bytes;
    let wanted = (LOADED_LATENCY.div_ceil(block) + 1)
        .min(MAX_STAGES)
        .min(blocks.max(2));
    let stages = wanted.max(2);
    if fit < 2 {
        return None;
    }
    let stages = stages.min(fit);

    let store = staged_product.div_ceil(L2_BYTES_PER_CYCLE);
    let busy = waves * (blocks * block + LATENCY + store);
    let bytes =
        problem.n * problem.k * element * problem.groups.min(problem.rows.max(1)) * problem.batch
            + problem.rows
                * problem.batch
                * (problem.k * element + problem.n * problem.out.bytes());
    let memory = bytes / (target.hbm_bytes_per_s / target.clock_hz.max(1)).max(1);
    Some(GemmCandidate {
        tile: GemmTile::new(tile_m, tile_n, u32::try_from(stages).ok()?),
        tiles,
        waves,
        smem_bytes: SMEM_OVERHEAD + staged_product + stages * stage_bytes,
        cycles: busy.max(memory),
    })
}

/// Row tiles, when the rows spread evenly over the groups.
fn row_tiles(problem: &GemmProblem, tile_m: u64) -> u64 {
    let rows = problem.rows.max(1);
    let busy_groups = problem.groups.clamp(1, rows);
    busy_groups * rows.div_ceil(busy_groups).div_ceil(tile_m)
}

impl fmt::Display for GemmChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.problem;
        writeln!(
            f,
            "{} product: {} rows, n {}, k {}, groups {}, batch {}, out {}",
            p.input, p.rows, p.n, p.k, p.groups, p.batch, p.out
        )?;
        writeln!(f, "  tile     stages   tiles   waves    smem      cycles")?;
        for (i, c) in self.candidates.iter().enumerate() {
            writeln!(
                f,
                "{} {:>3}x{:<3} {:>7} {:>7} {:>7} {:>7} {:>11}",
                if i == 0 { '>' } else { ' ' },
                c.tile.m,
                c.tile.n,
                c.tile.stages,
                c.tiles,
                c.waves,
                c.smem_bytes,
                c.cycles
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(rows: u64, n: u64, k: u64) -> GemmProblem {
        GemmProblem {
            input: DType::E4M3,
            out: DType::BF16,
            rows,
            n,
            k,
            groups: 1,
            batch: 1,
        }
    }

    fn target() -> Target {
        Target::load("h100").unwrap()
    }

    #[test]
    fn few_rows_take_one_warpgroup_and_narrow_tiles() {
        let best = choose(problem(8, 1536, 7168), &target()).best().unwrap();
        assert_eq!(best.m, 64);
        // 1536 / 16 = 96 tiles still run in one wave; 128 columns a tile would leave 120 SMs idle.
        assert!(best.n <= 32, "{best:?}");
    }

    #[test]
    fn many_rows_take_two_warpgroups_and_wide_tiles() {
        let best = choose(problem(4096, 7168, 16384), &target())
            .best()
            .unwrap();
        assert_eq!((best.m, best.n), (128, 128));
    }

    #[test]
    fn many_groups_with_few_rows_each_stay_small() {
        let grouped = GemmProblem {
            groups: 256,
            ..problem(1024, 4096, 7168)
        };
        assert_eq!(choose(grouped, &target()).best().unwrap().m, 64);
    }

    #[test]
    fn every_candidate_fits_shared_memory_and_the_ring_has_two_stages() {
        let target = target();
        for out in [DType::BF16, DType::F32] {
            for k in [16, 128, 256, 7168] {
                let choice = choose(
                    GemmProblem {
                        out,
                        ..problem(300, 576, k)
                    },
                    &target,
                );
                assert_eq!(choice.candidates.len(), TILE_M.len() * TILE_N.len());
                for c in &choice.candidates {
                    assert!(c.smem_bytes <= u64::from(target.smem_bytes), "{c:?}");
                    assert!((2..=8).contains(&c.tile.stages), "{c:?}");
                }
            }
        }
    }

    #[test]
    fn too_little_shared_memory_leaves_no_candidate() {
        let target = Target {
            smem_bytes: 16 << 10,
            ..target()
        };
        assert_eq!(choose(problem(64, 128, 128), &target).best(), None);
    }

    #[test]
    fn the_table_marks_the_choice() {
        let choice = choose(problem(64, 128, 128), &target());
        let text = choice.to_string();
        let marked: Vec<&str> = text.lines().filter(|l| l.starts_with('>')).collect();
        let best = choice.best().unwrap();
        assert_eq!(marked.len(), 1);
        assert!(
            marked[0].contains(&format!("{}x{}", best.m, best.n)),
            "{text}"
        );
    }
}
