//! Every tile that the GEMM kernels accept, and what it takes of an SM.
//!
//! In: a [`GemmProblem`]. Out: [`tiles`], still without ring depth and raster, which the time model fills in; the
//! shared memory and the registers of a tile; [`accepted`], the same rules as a question. Holds: each tile listed is
//! accepted, and a tile that is accepted compiles.
//!
//! ```text
//! plain     D = A B^T        wgmma's 64 rows are rows of D: 64, 128 (two consumer warpgroups), 256 (two waves each)
//! swapped   D^T = B A^T      wgmma's 64 rows are columns of D: 64, 128; its N, from 8 on, are rows of D
//! ```

use mcc_ir::kernel::{Epilogue, GemmForm, GemmTile, NO_PROMOTION, Share, scale_spans};
use mcc_ir::types::DType;

use super::GemmProblem;

/// Bytes of K a stage: the 128-byte swizzle span.
pub const STAGE_K_BYTES: u64 = 128;
/// Rows of `wgmma` (PTX ISA, "wgmma.mma_async").
pub const WGMMA_ROWS: u32 = 64;
/// Columns of `wgmma` at most.
const WGMMA_COLUMNS: u32 = 256;
/// Accumulator registers of a consumer thread. It has 232 or 240 (PTX ISA, "setmaxnreg"); addresses, scales and
/// descriptors take the rest.
pub const ACCUMULATORS: u32 = 192;
/// The same of a weight gradient, whose promotion holds a scale for each of its columns, too.
const GRADIENT_ACCUMULATORS: u32 = 160;
/// Columns of gate, and as many of up, of a tile that ends in SwiGLU: a scale group of the next product.
const SWIGLU_COLUMNS: u32 = 128;
/// Barriers, and what alignment leaves between the parts.
const SMEM_OVERHEAD: u64 = 1024;
/// The swizzle pattern repeats after so many bytes, so that tiles start at multiples of it.
const SWIZZLE_ATOM: u64 = 1024;
/// Threads of a warpgroup.
const WARPGROUP: u64 = 128;
/// TMA writes at multiples of so many bytes.
const TMA_ALIGN: u64 = 128;
/// Deepest ring: up to so many stages the kernels' loops over K are unrolled, so that a stage's address costs nothing.
pub const MAX_STAGES: u64 = 8;
/// Rows of the largest swapped tile that is offered. A swapped tile multiplies a scale for each of its rows into the
/// promotion; from here on that costs more than the idle rows of a plain tile of 64.
const SWAPPED_ROWS: u32 = 32;

/// The ways of a tile through the tensor cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Consumer warpgroups.
    pub consumers: u32,
    /// `wgmma` groups of a consumer in a K block, one after the other in the same accumulator.
    pub passes: u32,
    /// Columns of each.
    pub columns: u32,
}

impl Shape {
    /// Of a tile with that epilogue.
    #[must_use]
    pub fn of(tile: GemmTile, epilogue: Epilogue) -> Self {
        if tile.swap {
            return Self {
                consumers: tile.n / WGMMA_ROWS,
                passes: 1,
                columns: tile.m,
            };
        }
        let consumers = (tile.m / WGMMA_ROWS).clamp(1, 2);
        let (halves, columns) = match epilogue {
            Epilogue::SwigluQuantize { .. } => (2, tile.n / 2),
            _ => (1, tile.n),
        };
        Self {
            consumers,
            passes: tile.m / WGMMA_ROWS / consumers * halves,
            columns,
        }
    }
}

/// All tiles for a problem, with two stages.
#[must_use]
pub fn tiles(problem: &GemmProblem) -> Vec<GemmTile> {
    let mut tiles = Vec::new();
    let mut offer = |tile: GemmTile| {
        if accepted(problem, tile) {
            tiles.push(tile);
        }
    };
    for m in [64, 128, 256] {
        for n in (16..=WGMMA_COLUMNS).step_by(16) {
            for share in [Share::None, Share::A, Share::B] {
                offer(GemmTile {
                    share,
                    ..GemmTile::new(m, n, 2)
                });
            }
        }
    }
    for m in (8..=SWAPPED_ROWS).step_by(8) {
        for n in [64, 128] {
            for split_k in [1, 2, 4, 8] {
                offer(GemmTile {
                    swap: true,
                    split_k,
                    ..GemmTile::new(m, n, 2)
                });
            }
        }
    }
    tiles
}

/// Whether the kernels take this tile for this problem, ring depth and shared memory aside.
#[must_use]
pub fn accepted(problem: &GemmProblem, tile: GemmTile) -> bool {
    let swiglu = matches!(problem.epilogue, Epilogue::SwigluQuantize { .. });
    let shape = if tile.swap {
        matches!(tile.n, 64 | 128)
            && tile.m.is_multiple_of(8)
            && (8..=128).contains(&tile.m)
            && !swiglu
            // The rows and columns of a weight gradient are both many.
            && !matches!(problem.form, GemmForm::KGrouped { .. })
    } else if swiglu {
        matches!(tile.m, 64 | 128) && tile.n == 2 * SWIGLU_COLUMNS
    } else {
        matches!(tile.m, 64 | 128 | 256)
            && tile.n.is_multiple_of(16)
            && (16..=WGMMA_COLUMNS).contains(&tile.n)
    };
    let share = match tile.share {
        Share::None => true,
        // Both blocks of a cluster need a column tile.
        Share::A => !tile.swap && problem.n.div_ceil(tile.n.into()).is_multiple_of(2),
        Share::B => !tile.swap && problem.form == GemmForm::Dense,
    };
    let split = match tile.split_k {
        1 => true,
        // Each block of the cluster keeps a partial product for each of its K blocks.
        2 | 4 | 8 => {
            tile.swap
                && problem.input == DType::E4M3
                && problem.promote == 128
                && tile.share == Share::None
                && problem.k_blocks() >= u64::from(tile.split_k) * 2
        }
        _ => false,
    };
    let registers = match problem.form {
        GemmForm::KGrouped { .. } => GRADIENT_ACCUMULATORS,
        _ => ACCUMULATORS,
    };
    shape && share && split && accumulators(problem, tile) <= registers
}

/// Row tiles that are worked off together: the plain number first, so that it wins where nothing is gained.
pub const RASTERS: &[u32] = &[16, 8, 32];

/// FP32 registers of a consumer thread for sums: of all passes, and those of the tensor cores where a pass is
/// promoted.
#[must_use]
pub fn accumulators(problem: &GemmProblem, tile: GemmTile) -> u32 {
    let shape = Shape::of(tile, problem.epilogue);
    let pass = shape.columns / 2;
    let partial = if problem.input == DType::E4M3 {
        pass
    } else {
        0
    };
    shape.passes * pass + partial
}

/// Shared memory of one stage: both operand tiles and the scales that come with them.
#[must_use]
pub fn stage_bytes(problem: &GemmProblem, tile: GemmTile) -> u64 {
    let (m, n) = (u64::from(tile.m), u64::from(tile.n));
    let operands = m * STAGE_K_BYTES + (n * STAGE_K_BYTES).next_multiple_of(SWIZZLE_ATOM);
    let scales = |rows: u64| (rows * DType::F32.bytes()).next_multiple_of(TMA_ALIGN);
    match (problem.input, problem.form) {
        (DType::E4M3, GemmForm::KGrouped { .. }) => operands + scales(m) + scales(n),
        (DType::E4M3, _) => {
            let blocks = scale_blocks(problem, tile) * DType::F32.bytes();
            operands + (scales(m) + blocks).next_multiple_of(TMA_ALIGN)
        }
        _ => operands,
    }
}

/// So many stages, or one less where the kernel's loop then takes several K blocks a turn: rounds of the ring and tiles
/// need a common divisor for that. Three are too few to give one up.
#[must_use]
pub fn whole_turns(stages: u64, k_blocks: u64) -> u64 {
    let whole =
        |stages: u64| (2..=stages).any(|d| stages.is_multiple_of(d) && k_blocks.is_multiple_of(d));
    if stages > 3 && !whole(stages) && whole(stages - 1) {
        stages - 1
    } else {
        stages
    }
}

/// Scales of B that a tile may need in a K block.
fn scale_blocks(problem: &GemmProblem, tile: GemmTile) -> u64 {
    if matches!(problem.epilogue, Epilogue::SwigluQuantize { .. }) {
        return 2;
    }
    scale_spans(problem.n, tile.n.into())
}

/// Shared memory beside the ring: the product on its way out, the residual on its way in, partial products of a split
/// K, barriers.
#[must_use]
pub fn fixed_bytes(problem: &GemmProblem, tile: GemmTile) -> u64 {
    let elements = u64::from(tile.m) * u64::from(tile.n);
    let consumers = u64::from(Shape::of(tile, problem.epilogue).consumers);
    let product = match problem.epilogue {
        Epilogue::SwigluQuantize { .. } => elements / 2 * DType::E4M3.bytes(),
        _ => elements * problem.out.bytes(),
    };
    let staged = (product / consumers.max(1)).next_multiple_of(SWIZZLE_ATOM) * consumers;
    let residual = if problem.epilogue == Epilogue::Add {
        staged
    } else {
        0
    };
    let kept = match tile.split_k {
        0 | 1 => 0,
        split => {
            // A thread keeps its sums and a product of scales for every second one, and gets sums from a neighbour.
            let sums = u64::from(tile.m) / 2;
            let blocks = problem.k_blocks().div_ceil(split.into());
            (blocks * (sums + sums / 2) + sums) * consumers * WARPGROUP * DType::F32.bytes()
        }
    };
    staged + residual + kept + SMEM_OVERHEAD
}

impl GemmProblem {
    /// Whether partial sums leave the tensor cores on the way.
    #[must_use]
    pub fn promoted(&self) -> bool {
        self.input == DType::E4M3 && self.promote != NO_PROMOTION
    }

    /// Steps of 128 bytes of K of one product.
    #[must_use]
    pub fn k_blocks(&self) -> u64 {
        let k = match self.form {
            GemmForm::KGrouped { groups } => self.k.div_ceil(u64::from(groups).max(1)),
            _ => self.k,
        };
        (k * self.input.bytes()).div_ceil(STAGE_K_BYTES).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{dense, problem};
    use super::*;

    #[test]
    fn the_lists_follow_from_the_rules() {
        let fp8 = tiles(&dense(4096, 7168, 16384));
        let widest = |m: u32| {
            fp8.iter()
                .filter(|t| !t.swap && t.m == m)
                .map(|t| t.n)
                .max()
        };
        // Two FP32 sums an element: 192 registers a thread are 192 columns of 64 rows, 128 of 2 x 64.
        assert_eq!(
            [64, 128, 256].map(widest),
            [Some(192), Some(192), Some(128)]
        );
        let bf16 = tiles(&GemmProblem {
            input: DType::BF16,
            ..dense(4096, 7168, 16384)
        });
        let widest = |m: u32| {
            bf16.iter()
                .filter(|t| !t.swap && t.m == m)
                .map(|t| t.n)
                .max()
        };
        assert_eq!(
            [64, 128, 256].map(widest),
            [Some(256), Some(256), Some(192)]
        );
        assert!(bf16.iter().all(|t| t.split_k == 1));
        for tile in [(112, false, 1), (8, true, 8)] {
            let found = |t: &&GemmTile| {
                t.swap == tile.1
                    && t.split_k == tile.2
                    && (if tile.1 { t.m } else { t.n }) == tile.0
            };
            assert!(fp8.iter().find(found).is_some(), "{tile:?}");
        }
    }

    #[test]
    fn clusters_come_in_pairs_and_share_b_only_where_all_rows_do() {
        let grouped = problem(GemmForm::Grouped { groups: 8 }, 1024, 112 * 3, 512);
        assert!(tiles(&grouped).iter().all(|t| t.share != Share::B));
        let three = |t: &GemmTile| !t.swap && t.n == 112 && t.share == Share::A;
        assert!(!tiles(&grouped).iter().any(three));
        let four = problem(GemmForm::Grouped { groups: 8 }, 1024, 112 * 4, 512);
        assert!(tiles(&four).iter().any(three));
    }

    #[test]
    fn swiglu_has_gate_and_up_in_one_tile() {
        let problem = GemmProblem {
            epilogue: Epilogue::SwigluQuantize { weighted: false },
            out: DType::E4M3,
            ..dense(512, 4096, 7168)
        };
        let tiles = tiles(&problem);
        assert!(!tiles.is_empty());
        for tile in tiles {
            assert_eq!(tile.n, 256);
            assert!(tile.m <= 128);
            assert_eq!(accumulators(&problem, tile), 192);
            // The staged tile is codes of half of the columns.
            assert_eq!(
                fixed_bytes(&problem, tile),
                u64::from(tile.m) * 128 + SMEM_OVERHEAD
            );
        }
    }

    #[test]
    fn a_stage_holds_tiles_and_scales() {
        let tile = GemmTile::new(128, 112, 2);
        let plain = dense(4096, 7168, 512);
        // A tile that begins at column 112 ends in the second block of scales.
        assert_eq!(stage_bytes(&plain, tile), 128 * 128 + 112 * 128 + 512 + 128);
        let aligned = GemmTile::new(128, 128, 2);
        assert_eq!(scale_blocks(&plain, tile), 2);
        assert_eq!(scale_blocks(&plain, aligned), 1);
        let gradient = problem(GemmForm::KGrouped { groups: 4 }, 4096, 7168, 512);
        assert_eq!(
            stage_bytes(&gradient, tile),
            128 * 128 + 112 * 128 + 512 + 512
        );
        let bf16 = GemmProblem {
            input: DType::BF16,
            ..plain
        };
        assert_eq!(stage_bytes(&bf16, tile), 128 * 128 + 112 * 128);
    }
}
