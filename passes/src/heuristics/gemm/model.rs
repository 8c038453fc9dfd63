//! How long a GEMM with a given tile takes: a model of the SM, in whole cycles.
//!
//! In: a problem, a tile, the target, the [`Params`] of the model, and how rows spread over groups. Out: an
//! [`Estimate`] with every term. Holds: integer arithmetic only, so that equal inputs give an equal choice on every
//! host.
//!
//! ```text
//! block   one K block (128 bytes of K) of a tile, the longest of
//!           tensor    wgmma of all waves; wgmma m64nN of 128 bytes of K takes 2 N cycles
//!           shared    reads of A and B by each wave, writes by TMA, at 128 bytes a cycle
//!           chain     what one consumer does in a row: wgmma, wait, promotion, other instructions
//!           issue     the same instructions of all consumers, on the four schedulers
//!           ring      latency of a load under load, over the stages that hide it
//! tile    = max(K blocks * block + epilogue, l2)     l2: operands and product, multicast operands once a cluster
//! sm      = waves * tile                             waves: rounds of the persistent grid, tails included
//! hbm     = bytes / bandwidth                        operands that the L2 does not keep come again
//! time    = launch + fill + max(sm, hbm) + drain
//! ```
//!
//! A consumer alone adds promotion to tensor time (chain); two hide it from each other until tensor cores or
//! schedulers are full (arXiv 2412.19437, section 3.3.2).

use mcc_ir::kernel::{Epilogue, GemmForm, GemmTile, Share};
use mcc_ir::types::DType;
use serde::{Deserialize, Serialize};

use super::GemmProblem;
use super::candidates::{
    MAX_STAGES, RASTERS, STAGE_K_BYTES, Shape, WGMMA_ROWS, accepted, fixed_bytes, stage_bytes,
    whole_turns,
};
use crate::target::Target;

/// Figures of the model that no data sheet has. Measured times correct them ([`super::calibrate`]); until then each
/// is what its comment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Share of the tensor cores' rate that a kernel reaches which does nothing else. Assumption.
    pub tensor_percent: u64,
    /// Shared memory moves this much a cycle: 32 banks of 4 bytes (CUDA programming guide, "Shared Memory"). That
    /// TMA writes share it with the reads of `wgmma` is an assumption.
    pub shared_bytes_per_cycle: u64,
    /// The L2 delivers this much a cycle to all SMs: the figure of the A100's white paper; there is none for the
    /// H100. Plain loads were measured by others at 5.5 to 6 TB/s, but published GEMMs need more than 7 TB/s.
    pub l2_bytes_per_cycle: u64,
    /// What one SM takes of it at most.
    pub l2_port_bytes_per_cycle: u64,
    /// Share of the L2 that keeps operands for their next reading. Assumption.
    pub l2_keep_percent: u64,
    /// Share of the nominal bandwidth that a kernel gets: FlashMLA's authors measured 3,000 of 3,350 GB/s.
    pub hbm_percent: u64,
    /// From the end of the last `wgmma` to the first instruction that reads its sums. Assumption.
    pub wait_cycles: u64,
    /// Instructions of a consumer warp in a K block beside promotion: barriers, descriptors, scales. Static figures
    /// of kernels lie between 30 and 42 (`mcc gemm static`).
    pub block_instructions: u64,
    /// From the first request of a tile to its data in an idle machine, device memory included. Order of magnitude.
    pub fill_cycles: u64,
    /// The same when all SMs read: the ring has to hold the loads of this time. Order of magnitude.
    pub loaded_latency: u64,
    /// Of each tile beside its K blocks and the arithmetic of the epilogue: scales of B, barriers, the store's
    /// issue. Assumption.
    pub tile_cycles: u64,
    /// Added to each K block of a cluster, whose blocks wait for each other. Assumption.
    pub cluster_cycles: u64,
    /// From a block to its neighbour in a cluster: one hop of the sum of a split K. Assumption.
    pub hop_cycles: u64,
    /// Instructions for each element of a quantised SwiGLU. Assumption.
    pub swiglu_instructions: u64,
    /// Share of the shorter of SM and device-memory time that does not hide behind the longer. Assumption.
    pub exposed_percent: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            tensor_percent: 100,
            shared_bytes_per_cycle: 128,
            l2_bytes_per_cycle: 5120,
            l2_port_bytes_per_cycle: 64,
            l2_keep_percent: 75,
            hbm_percent: 90,
            wait_cycles: 40,
            block_instructions: 36,
            fill_cycles: 1000,
            loaded_latency: 1500,
            tile_cycles: 300,
            cluster_cycles: 8,
            hop_cycles: 1000,
            swiglu_instructions: 12,
            exposed_percent: 10,
        }
    }
}

/// How rows spread over the groups of a grouped product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread<'a> {
    /// As evenly as they go.
    Even,
    /// As independent choices of groups would have it: half of the groups a standard deviation (the root of the mean)
    /// above the mean, half below.
    Random,
    /// These, one number a group.
    Groups(&'a [u64]),
}

/// What takes longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// `wgmma`.
    Tensor,
    /// Shared memory.
    Shared,
    /// A consumer's own sequence: wait, promotion, barriers.
    Chain,
    /// The schedulers.
    Issue,
    /// Latency that the ring does not hide.
    Ring,
    /// From the L2 to the SMs.
    L2,
    /// Work at the end of each tile.
    Epilogue,
    /// Device memory.
    Hbm,
    /// Launch, first loads and last store.
    Launch,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Tensor => "tensor",
            Self::Shared => "shared",
            Self::Chain => "chain",
            Self::Issue => "issue",
            Self::Ring => "ring",
            Self::L2 => "l2",
            Self::Epilogue => "epilogue",
            Self::Hbm => "hbm",
            Self::Launch => "launch",
        })
    }
}

/// All terms of one tile, in cycles at the sustained clock where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// The tile, ring depth and raster filled in.
    pub tile: GemmTile,
    /// Shared memory of a block, bytes.
    pub smem_bytes: u64,
    /// Tiles of the product.
    pub tiles: u64,
    /// SMs that get one.
    pub busy_sms: u64,
    /// Tiles that the busiest SM works off.
    pub waves: u64,
    /// K blocks of a tile, of one block of a cluster that splits K.
    pub k_blocks: u64,
    /// `wgmma` of a K block.
    pub tensor: u64,
    /// Shared-memory traffic of a K block.
    pub shared: u64,
    /// A consumer's sequence in a K block.
    pub chain: u64,
    /// Instructions of a K block.
    pub issue: u64,
    /// Latency of a K block's loads that the ring leaves.
    pub ring: u64,
    /// The longest of these, with what a cluster adds.
    pub block: u64,
    /// End of a tile.
    pub epilogue: u64,
    /// L2 traffic of a tile.
    pub l2: u64,
    /// A tile.
    pub per_tile: u64,
    /// All tiles of the busiest SM.
    pub sm: u64,
    /// Bytes of device memory, when nothing is in the L2 at the start.
    pub hbm_bytes: u64,
    /// Their time.
    pub hbm: u64,
    /// Launch, first loads, last store.
    pub ends: u64,
    /// All of it, with nothing in the L2 at the start.
    pub cycles: u64,
    /// All of it, when what fits the L2 is there.
    pub warm_cycles: u64,
    /// The longest term.
    pub bound: Bound,
}

/// Time of `tile` for `problem`; `None` when the kernels do not take it, or not even two stages fit the target.
#[must_use]
pub fn estimate(
    problem: &GemmProblem,
    tile: GemmTile,
    target: &Target,
    params: &Params,
    spread: Spread<'_>,
) -> Option<Estimate> {
    if !accepted(problem, tile) {
        return None;
    }
    let work = Work::of(problem, tile, target, spread);
    let shape = Shape::of(tile, problem.epilogue);
    let cycles = Cycles::of(problem, tile, target, params, shape);

    let fit = u64::from(target.smem_bytes).checked_sub(fixed_bytes(problem, tile))?
        / stage_bytes(problem, tile);
    if fit < 2 {
        return None;
    }
    let k_blocks = problem.k_blocks().div_ceil(tile.split_k.max(1).into());
    let busy_block = cycles
        .tensor
        .max(cycles.shared)
        .max(cycles.chain)
        .max(cycles.issue);
    // A deeper ring hides nothing more. Where it leaves too little for the next launch to start early beside this one,
    // it may as well take all there is: latency varies.
    let wanted = (params.loaded_latency.div_ceil(busy_block.max(1)) + 1).max(4);
    let taken = fixed_bytes(problem, tile) + wanted * stage_bytes(problem, tile);
    let deep = if 2 * taken > u64::from(target.smem_bytes) {
        fit
    } else {
        wanted
    };
    let stages = deep
        .min(MAX_STAGES)
        .min(fit)
        // It may run ahead into the next tile.
        .min((2 * k_blocks).max(2));
    let stages = whole_turns(stages, k_blocks);
    let ring = params.loaded_latency / stages;
    let clustered = tile.share != Share::None;
    let block = busy_block.max(ring) + if clustered { params.cluster_cycles } else { 0 };

    // All SMs share the L2, and each has a port of its own.
    let from_l2 = |bytes: u64| {
        (bytes * work.busy_sms)
            .div_ceil(params.l2_bytes_per_cycle.max(1))
            .max(bytes.div_ceil(params.l2_port_bytes_per_cycle.max(1)))
    };
    let l2 = from_l2(k_blocks * work.block_bytes + work.tile_bytes);
    let epilogue = cycles.epilogue + split_cycles(problem, tile, params, k_blocks);
    let own = k_blocks * block + epilogue;
    let per_tile = own.max(l2);
    let sm = work.waves * per_tile;

    let raster = RASTERS
        .iter()
        .copied()
        .min_by_key(|&raster| hbm_bytes(problem, tile, raster, target, params, &work))?;
    let hbm_bytes = hbm_bytes(problem, tile, raster, target, params, &work);
    let hbm = time(
        hbm_bytes,
        target.hbm_bytes_per_s / 100 * params.hbm_percent,
        target,
    );
    let launch = time(target.launch_ns, 1_000_000_000, target);
    let drain = from_l2(work.tile_bytes);
    let ends = launch + params.fill_cycles + drain;
    let overlapped =
        |sm: u64, hbm: u64| sm.max(hbm) + sm.min(hbm) * params.exposed_percent / 100 + ends;
    let warm_hbm = if work.least_bytes <= keeps(target, params) {
        0
    } else {
        hbm
    };

    let bound = if ends > sm.max(hbm) {
        Bound::Launch
    } else if hbm > sm {
        Bound::Hbm
    } else if l2 > own {
        Bound::L2
    } else if epilogue > k_blocks * block {
        Bound::Epilogue
    } else {
        let terms = [
            (cycles.tensor, Bound::Tensor),
            (cycles.shared, Bound::Shared),
            (cycles.chain, Bound::Chain),
            (cycles.issue, Bound::Issue),
            (ring, Bound::Ring),
        ];
        // The first of equals: what cannot be helped before what can.
        let longest = terms.iter().map(|t| t.0).max()?;
        terms.iter().find(|t| t.0 == longest)?.1
    };
    Some(Estimate {
        tile: GemmTile {
            stages: u32::try_from(stages).ok()?,
            raster,
            ..tile
        },
        smem_bytes: fixed_bytes(problem, tile) + stages * stage_bytes(problem, tile),
        tiles: work.tiles,
        busy_sms: work.busy_sms,
        waves: work.waves,
        k_blocks,
        tensor: cycles.tensor,
        shared: cycles.shared,
        chain: cycles.chain,
        issue: cycles.issue,
        ring,
        block,
        epilogue,
        l2,
        per_tile,
        sm,
        hbm_bytes,
        hbm,
        ends,
        cycles: overlapped(sm, hbm),
        warm_cycles: overlapped(sm, warm_hbm),
        bound,
    })
}

/// `amount` at `rate` a second, in cycles.
fn time(amount: u64, rate: u64, target: &Target) -> u64 {
    let cycles = u128::from(amount) * u128::from(target.sustained_clock_hz);
    u64::try_from(cycles.div_ceil(u128::from(rate.max(1)))).unwrap_or(u64::MAX)
}

/// Every operand once, the product once; grouped weights only of groups that have rows.
pub(super) fn least_bytes(problem: &GemmProblem) -> u64 {
    let rows = problem.rows.max(1);
    let traffic = Traffic::of(problem);
    let (rows, products) = match problem.form {
        GemmForm::Grouped { groups } | GemmForm::Masked { groups } => {
            (rows, u64::from(groups).clamp(1, rows))
        }
        GemmForm::KGrouped { groups: count } | GemmForm::Batched { heads: count } => {
            (rows * u64::from(count), u64::from(count))
        }
        GemmForm::Dense => (rows, 1),
    };
    traffic.a(rows) + products * traffic.product_b + rows * traffic.row_out
}

fn keeps(target: &Target, params: &Params) -> u64 {
    target.l2_bytes / 100 * params.l2_keep_percent
}

/// Tiles of a launch, who works them off, and what they move.
struct Work {
    /// Rows of all products.
    rows: u64,
    /// Products with an own B: heads, groups that have rows.
    products: u64,
    /// Row tiles of all products; of a cluster along M with those that are there for the pair only.
    row_tiles: u64,
    column_tiles: u64,
    tiles: u64,
    waves: u64,
    busy_sms: u64,
    /// From the L2 for a K block.
    block_bytes: u64,
    /// To the L2 (and from it, where the product is added to) for a tile.
    tile_bytes: u64,
    /// Every operand once, the product once.
    least_bytes: u64,
}

impl Work {
    fn of(problem: &GemmProblem, tile: GemmTile, target: &Target, spread: Spread<'_>) -> Self {
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
fn clusters(sms: u64, blocks: u64) -> u64 {
    const GPC: u64 = 16;
    if blocks <= 2 {
        return (sms / blocks.max(1)).max(1);
    }
    (sms / GPC * (GPC / blocks)).max(1)
}

/// Bytes of operands and product.
struct Traffic {
    /// A row of A.
    row_a: u64,
    /// B of one product.
    product_b: u64,
    /// A row of the product: written, and read where it is added to.
    row_out: u64,
    /// Rows of A are shared by all products (weight gradients read other columns of them).
    k_grouped: Option<u64>,
}

impl Traffic {
    fn of(problem: &GemmProblem) -> Self {
        let (n, k) = (problem.n, problem.k);
        let scales = if problem.input == DType::E4M3 {
            k.div_ceil(128) * DType::F32.bytes()
        } else {
            0
        };
        let row_a = k * problem.input.bytes() + scales;
        let row_out = match problem.epilogue {
            Epilogue::Store => n * problem.out.bytes(),
            Epilogue::Add | Epilogue::Accumulate => 2 * n * problem.out.bytes(),
            Epilogue::SwigluQuantize { .. } => n / 2 + n.div_ceil(256) * DType::F32.bytes(),
        };
        let k_grouped = match problem.form {
            GemmForm::KGrouped { groups } => Some(u64::from(groups).max(1)),
            _ => None,
        };
        let product_b = n * row_a / k_grouped.unwrap_or(1);
        Self {
            row_a,
            product_b,
            row_out,
            k_grouped,
        }
    }

    /// A, for rows of all products.
    fn a(&self, rows: u64) -> u64 {
        rows * self.row_a / self.k_grouped.unwrap_or(1)
    }
}

/// Bytes of device memory when `raster` row tiles go together through the columns. Each such group of rows reads all
/// of B, unless B stays in the L2 beside the rows; and the rows are read in each wave, unless they stay.
fn hbm_bytes(
    problem: &GemmProblem,
    tile: GemmTile,
    raster: u32,
    target: &Target,
    params: &Params,
    work: &Work,
) -> u64 {
    let traffic = Traffic::of(problem);
    let row_tiles = work.row_tiles.div_ceil(work.products.max(1)).max(1);
    let together = row_tiles.min(raster.into());
    let a = traffic.a(work.rows);
    let a_together = traffic
        .a(together * u64::from(tile.m))
        .min(a / work.products.max(1));
    let columns_at_once = work
        .busy_sms
        .div_ceil(together)
        .clamp(1, work.column_tiles.max(1));
    let b_at_once = traffic.product_b / work.column_tiles.max(1) * columns_at_once;
    let keep = keeps(target, params);
    let b_readings = if a_together + traffic.product_b <= keep {
        1
    } else {
        row_tiles.div_ceil(together)
    };
    let a_readings = if a_together + b_at_once <= keep {
        1
    } else {
        work.column_tiles.div_ceil(columns_at_once)
    };
    a * a_readings + work.products * traffic.product_b * b_readings + work.rows * traffic.row_out
}

/// Cycles that a K block takes on each unit, and the end of a tile.
struct Cycles {
    tensor: u64,
    shared: u64,
    chain: u64,
    issue: u64,
    epilogue: u64,
}

impl Cycles {
    fn of(
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
fn promotion_slots(problem: &GemmProblem, tile: GemmTile, sums: u64) -> u64 {
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
fn split_cycles(problem: &GemmProblem, tile: GemmTile, params: &Params, k_blocks: u64) -> u64 {
    let later = u64::from(tile.split_k.max(1)) - 1;
    let sums = u64::from(tile.m) / 2;
    let consumers = u64::from(Shape::of(tile, problem.epilogue).consumers);
    // Of each kept sum: it, half a product of scales, and the FMA.
    let promotion = consumers * (5 * sums).div_ceil(2) + params.wait_cycles;
    later * (k_blocks * promotion + params.hop_cycles)
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tiles;
    use super::super::tests::{dense, problem};
    use super::*;

    fn h100() -> Target {
        Target::load("h100").unwrap()
    }

    fn of(problem: &GemmProblem, tile: GemmTile) -> Estimate {
        estimate(problem, tile, &h100(), &Params::default(), Spread::Even).unwrap()
    }

    #[test]
    fn terms_of_a_tile_can_be_worked_out_by_hand() {
        let e = of(&dense(4096, 4096, 7168), GemmTile::new(128, 128, 2));
        assert_eq!(e.k_blocks, 56);
        // 128 x 128 x 128 multiply-adds at 4096 a cycle.
        assert_eq!(e.tensor, 512);
        // Two waves read 64 + 128 rows of 128 bytes, TMA writes 128 + 128.
        assert_eq!(e.shared, 2 * 192 + 256);
        // wgmma, wait, 64 sums a thread, other instructions.
        assert_eq!(e.chain, 256 + 40 + 64 + 36);
        assert_eq!(e.issue, 2 * (64 + 36));
        assert_eq!((e.tiles, e.waves, e.busy_sms), (32 * 32, 8, 132));
    }

    #[test]
    fn one_consumer_adds_the_promotion_that_two_hide() {
        let problem = dense(4096, 4096, 7168);
        let one = of(&problem, GemmTile::new(64, 128, 2));
        assert_eq!(one.block, one.tensor + 40 + 64 + 36);
        let two = of(&problem, GemmTile::new(128, 128, 2));
        assert!(two.chain < two.tensor, "{two:?}");
    }

    #[test]
    fn a_shorter_interval_costs_and_none_is_free() {
        let with = |promote| {
            let problem = GemmProblem {
                promote,
                ..dense(4096, 4096, 7168)
            };
            of(&problem, GemmTile::new(64, 128, 2)).chain
        };
        let chains = [0, 512, 256, 128, 64, 32].map(with);
        assert!(chains.is_sorted(), "{chains:?}");
        assert_eq!(chains[0], 256 + 40 + 36);
    }

    #[test]
    fn more_rows_columns_or_depth_never_take_less_time() {
        let target = h100();
        let params = Params::default();
        let time = |p: &GemmProblem, tile| {
            estimate(p, tile, &target, &params, Spread::Even).map(|e| e.cycles)
        };
        for form in [
            GemmForm::Dense,
            GemmForm::Grouped { groups: 8 },
            GemmForm::Batched { heads: 4 },
        ] {
            let at = |rows, n, k| problem(form, rows, n, k);
            for tile in tiles(&at(64, 4096, 4096)) {
                for step in 0..12 {
                    let size = 1 << step;
                    // A tile that is not accepted at one of the sizes has no time there.
                    let less = |a: GemmProblem, b: GemmProblem| {
                        let times = [time(&a, tile), time(&b, tile)];
                        let grows = times.contains(&None) || times[0] <= times[1];
                        assert!(grows, "{tile:?} {a}: {times:?}");
                    };
                    less(at(size, 4096, 4096), at(2 * size, 4096, 4096));
                    less(at(96, 256 * size, 2048), at(96, 512 * size, 2048));
                    less(at(96, 2048, 256 * size), at(96, 2048, 512 * size));
                }
            }
        }
    }

    #[test]
    fn no_time_is_below_what_the_machine_allows() {
        let target = h100();
        for (rows, n, k) in [(1, 7168, 2048), (64, 24576, 1536), (4096, 7168, 16384)] {
            let problem = dense(rows, n, k);
            for tile in tiles(&problem) {
                let Some(e) = estimate(&problem, tile, &target, &Params::default(), Spread::Even)
                else {
                    continue;
                };
                let limit = problem.limit_cycles(&target);
                assert!(e.cycles >= limit, "{tile:?}: {} < {limit}", e.cycles);
            }
        }
    }

    #[test]
    fn groups_count_their_own_rows() {
        let problem = problem(GemmForm::Grouped { groups: 4 }, 256, 4096, 7168);
        let tile = GemmTile::new(64, 128, 2);
        let at = |groups: &[u64]| {
            estimate(
                &problem,
                tile,
                &h100(),
                &Params::default(),
                Spread::Groups(groups),
            )
            .unwrap()
            .tiles
        };
        assert_eq!(at(&[64, 64, 64, 64]), 4 * 32);
        assert_eq!(at(&[256, 0, 0, 0]), 4 * 32);
        assert_eq!(at(&[253, 1, 1, 1]), 7 * 32);
    }

    #[test]
    fn the_ring_fits_shared_memory() {
        let target = h100();
        for out in [DType::BF16, DType::F32] {
            for k in [16, 128, 256, 7168, 16384] {
                let problem = GemmProblem {
                    out,
                    ..dense(300, 576, k)
                };
                for tile in tiles(&problem) {
                    let e = estimate(&problem, tile, &target, &Params::default(), Spread::Even);
                    let Some(e) = e else { continue };
                    assert!(e.smem_bytes <= u64::from(target.smem_bytes), "{e:?}");
                    assert!(
                        (2..=MAX_STAGES).contains(&u64::from(e.tile.stages)),
                        "{e:?}"
                    );
                }
            }
        }
    }
}
