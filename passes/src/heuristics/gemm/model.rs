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

mod cycles;
mod traffic;
mod work;

use mcc_ir::kernel::{GemmTile, Share};
use serde::{Deserialize, Serialize};

use super::GemmProblem;
use super::candidates::{
    MAX_STAGES, RASTERS, Shape, accepted, fixed_bytes, stage_bytes, whole_turns,
};
use crate::target::Target;
use cycles::{Cycles, split_cycles};
pub(super) use traffic::least_bytes;
use traffic::{hbm_bytes, keeps};
use work::Work;

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

#[cfg(test)]
mod tests {
    use mcc_ir::kernel::GemmForm;
    use mcc_ir::types::DType;

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
