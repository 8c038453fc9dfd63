//! What one SM does for a K block and at the end of a tile, unit by unit.

use mcc_ir::kernel::{Epilogue, GemmForm, GemmTile};

use super::super::GemmProblem;
use super::super::candidates::{STAGE_K_BYTES, Shape, WGMMA_ROWS};
use super::Params;
use crate::target::Target;

/// Cycles that a K block takes on each unit, and the end of a tile.
pub(super) struct Cycles {
    pub(super) tensor: u64,
    pub(super) shared: u64,
    pub(super) chain: u64,
    pub(super) issue: u64,
    pub(super) epilogue: u64,
}

impl Cycles {
    pub(super) fn of(
        problem: &GemmProblem,
        tile: GemmTile,
        target: &Target,
        params: &Params,
        shape: Shape,
    ) -> Self {
        let (m, n) = (u64::from(tile.m), u64::from(tile.n));
        let columns = u64::from(shape.columns);
        let consumers = u64::from(shape.consumers);
        let passes = u64::from(shape.passes);
        let rows = u64::from(WGMMA_ROWS);

        // Dense FP8 runs at 4096 multiply-adds an SM and cycle, BF16 at half that: equal bytes take equal time.
        let sms = u64::from(target.sms).max(1);
        let rate = (target.fp8_flops / 2 / sms)
            .div_ceil(target.clock_hz.max(1))
            .max(1);
        let wgmma = (rows * columns * STAGE_K_BYTES * 100).div_ceil(rate * params.tensor_percent);
        let tensor = wgmma * consumers * passes;
        // Each pass reads its rows of A and all of its columns of B; TMA has written both.
        let bytes_per_cycle = params.shared_bytes_per_cycle.max(1);
        let read = ((rows + columns) * STAGE_K_BYTES).div_ceil(bytes_per_cycle);
        let written = ((m + n) * STAGE_K_BYTES).div_ceil(bytes_per_cycle);
        let shared = read * consumers * passes + written;

        let sums = columns / 2;
        // Four warps of a warpgroup have a scheduler each: an instruction of all its threads is one issue slot.
        let promotion = promotion_slots(problem, tile, sums);
        // Each K block is waited for, and each promotion inside of it.
        let waits = match problem.promote {
            promote @ (32 | 64) if problem.promoted() => 128 / u64::from(promote),
            _ => 1,
        } * params.wait_cycles;
        let other = params.block_instructions;
        let chain = passes * (wgmma.max(read) + waits + promotion) + other;
        let issue = consumers * (passes * promotion + other);

        let staged = match problem.epilogue {
            Epilogue::SwigluQuantize { .. } => m * n / 2,
            _ => m * n * problem.out.bytes(),
        };
        let per_sum = match problem.epilogue {
            Epilogue::Store | Epilogue::Accumulate => 1,
            Epilogue::Add => 2,
            // Every second sum is an element: a gate and an up.
            Epilogue::SwigluQuantize { weighted } => {
                (params.swiglu_instructions + u64::from(weighted)).div_ceil(2)
            }
        };
        let epilogue = params.tile_cycles
            + consumers * passes * sums * per_sum
            + staged.div_ceil(bytes_per_cycle);
        Self {
            tensor,
            shared,
            chain,
            issue,
            epilogue,
        }
    }
}

/// Issue slots of one pass's promotion in a K block: an FFMA a sum and interval, and where scales differ from column
/// to column of the accumulator, reading and multiplying them.
pub(super) fn promotion_slots(problem: &GemmProblem, tile: GemmTile, sums: u64) -> u64 {
    if !problem.promoted() {
        return 0;
    }
    let scales = match problem.form {
        // A product of scales for each element.
        GemmForm::KGrouped { .. } => sums + sums / 4,
        // One for each pair of rows, which a thread has for every second sum: read in pairs, multiplied one by one.
        _ if tile.swap => sums / 2 + sums / 4,
        _ => 0,
    };
    (sums * 128).div_ceil(u64::from(problem.promote)) + scales
}

/// What a split K adds to a tile: each block but the first has kept its partial products, and one after the other
/// promotes them into the sums that it got from the one before. The last has the tile.
pub(super) fn split_cycles(
    problem: &GemmProblem,
    tile: GemmTile,
    params: &Params,
    k_blocks: u64,
) -> u64 {
    let later = u64::from(tile.split_k.max(1)) - 1;
    let sums = u64::from(tile.m) / 2;
    let consumers = u64::from(Shape::of(tile, problem.epilogue).consumers);
    // Of each kept sum: it, half a product of scales, and the FMA.
    let promotion = consumers * (5 * sums).div_ceil(2) + params.wait_cycles;
    later * (k_blocks * promotion + params.hop_cycles)
}
