//! Tiles of matrix products: which of those that the kernels accept, and why.
//!
//! In: a [`GemmProblem`] and the target. Out: a [`GemmChoice`]: every candidate with its predicted time, and the one
//! to build. Holds: the choice depends on nothing else and is equal on every host.
//!
//! ```text
//! candidates   what the kernels accept ──┐
//! model        time of each ─────────────┼─► choice ──► table   for people
//! tuning       measured winners ─────────┘
//!                 └── calibrate: parameters of the model from measured times
//! waste        rows that grouped products compute in vain
//! ```
//!
//! A measured winner of the tuning database goes before the model's. Nothing is tuned at run time.

pub mod calibrate;
pub mod candidates;
pub mod model;
mod table;
pub mod tuning;
pub mod waste;

use std::cmp::Reverse;

use mcc_ir::kernel::{Epilogue, GemmBf16, GemmForm, GemmFp8, GemmTile, KernelConfig, Share};
use mcc_ir::types::DType;
use serde::Serialize;

pub use self::model::{Bound, Estimate, Params, Spread, estimate};
pub use self::table::how;
pub use self::tuning::{Database, Entry, Key, TuningError};
use crate::target::Target;

/// A product to choose tiles for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GemmProblem {
    /// Element type of both factors: E4M3 (block-scaled) or BF16.
    pub input: DType,
    /// Element type of the product.
    pub out: DType,
    /// Which product, with its groups or heads.
    pub form: GemmForm,
    /// What becomes of the sums.
    pub epilogue: Epilogue,
    /// Promotion interval of a block-scaled product.
    pub promote: u32,
    /// Rows to expect in one launch: of all groups of a grouped or masked product together, of each head or group
    /// in the other forms.
    pub rows: u64,
    /// Columns; of gate and up together where the epilogue is SwiGLU.
    pub n: u64,
    /// Depth; of all groups of a K-grouped product together.
    pub k: u64,
}

impl GemmProblem {
    /// A product that is stored as it is.
    #[must_use]
    pub const fn new(input: DType, out: DType, form: GemmForm, rows: u64, n: u64, k: u64) -> Self {
        Self {
            input,
            out,
            form,
            epilogue: Epilogue::Store,
            promote: 128,
            rows,
            n,
            k,
        }
    }

    /// Floating-point operations, two for each multiply-add.
    #[must_use]
    pub fn flops(&self) -> u64 {
        let heads = match self.form {
            GemmForm::Batched { heads } => u64::from(heads),
            _ => 1,
        };
        2 * self.rows * heads * self.n * self.k
    }

    /// Cycles that the data sheet allows: peak rate of the tensor cores, or bytes of device memory that have to move.
    #[must_use]
    pub fn limit_cycles(&self, target: &Target) -> u64 {
        let peak = match self.input {
            DType::E4M3 => target.fp8_flops,
            _ => target.bf16_flops,
        };
        let tensor = u128::from(self.flops()) * u128::from(target.clock_hz);
        let bytes = u128::from(model::least_bytes(self)) * u128::from(target.sustained_clock_hz);
        let cycles = (tensor / u128::from(peak.max(1)))
            .max(bytes / u128::from(target.hbm_bytes_per_s.max(1)));
        u64::try_from(cycles).unwrap_or(u64::MAX)
    }

    /// The kernel for this product with that tile; `None` when an extent is none of a kernel.
    #[must_use]
    pub fn config(&self, tile: GemmTile) -> Option<KernelConfig> {
        let (n, k) = (u32::try_from(self.n).ok()?, u32::try_from(self.k).ok()?);
        let (form, epilogue, out) = (self.form, self.epilogue, self.out);
        Some(match self.input {
            DType::E4M3 => KernelConfig::GemmFp8(GemmFp8 {
                n,
                k,
                form,
                epilogue,
                out,
                promote: self.promote,
                tile,
            }),
            _ => KernelConfig::GemmBf16(GemmBf16 {
                n,
                k,
                form,
                epilogue,
                out,
                tile,
            }),
        })
    }
}

/// All candidates, fastest first, so that the choice can be explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GemmChoice {
    /// What was asked.
    pub problem: GemmProblem,
    /// Name of the target.
    pub target: String,
    /// Cycles a second.
    pub clock_hz: u64,
    /// Tiles that fit the target; empty when its shared memory is too small for any.
    pub candidates: Vec<Estimate>,
    /// The tuning database's entry for this problem.
    pub tuned: Option<Entry>,
    /// Whether the kernels and the target take that entry's tile.
    pub tuned_fits: bool,
}

/// Scores all tiles for a problem, with the tuning database of the target.
#[must_use]
pub fn choose(problem: GemmProblem, target: &Target) -> GemmChoice {
    choose_with(problem, target, Database::embedded(&target.name))
}

/// Scores all tiles for a problem, with this tuning database.
#[must_use]
pub fn choose_with(problem: GemmProblem, target: &Target, database: &Database) -> GemmChoice {
    let params = database.calibration.unwrap_or_default();
    let time = |tile| estimate(&problem, tile, target, &params, Spread::Random);
    let mut candidates: Vec<Estimate> = candidates::tiles(&problem)
        .into_iter()
        .filter_map(time)
        .collect();
    candidates.sort_by_key(order);
    prefer_simple(&mut candidates);
    let tuned = database.entry(&problem).cloned();
    let tuned_fits = tuned.as_ref().is_some_and(|entry| {
        let tile = entry.tile;
        let bytes = candidates::fixed_bytes(&problem, tile)
            + u64::from(tile.stages) * candidates::stage_bytes(&problem, tile);
        candidates::accepted(&problem, tile)
            && tile.stages >= 2
            && tile.raster > 0
            && bytes <= u64::from(target.smem_bytes)
    });
    GemmChoice {
        problem,
        target: target.name.clone(),
        clock_hz: target.sustained_clock_hz,
        candidates,
        tuned,
        tuned_fits,
    }
}

impl GemmChoice {
    /// The measured winner, or the fastest tile of the model; `None` when the target has too little shared memory
    /// for any.
    #[must_use]
    pub fn best(&self) -> Option<GemmTile> {
        match &self.tuned {
            Some(entry) if self.tuned_fits => Some(entry.tile),
            _ => self.candidates.first().map(|c| c.tile),
        }
    }

    /// Microseconds of that many cycles.
    #[must_use]
    pub fn microseconds(&self, cycles: u64) -> f64 {
        cycles as f64 * 1e6 / self.clock_hz.max(1) as f64
    }
}

/// Puts the simplest of the candidates that take as long as the fastest first, and of those the one that computes the
/// least beside the product: the model is blind below a percent, a cluster waits for its slower block, and work in
/// vain takes power.
fn prefer_simple(sorted: &mut [Estimate]) {
    let Some(least) = sorted.first().map(|e| e.cycles) else {
        return;
    };
    let alike = sorted.partition_point(|e| e.cycles <= least + least / 100);
    // The first of equals, so that the faster one stays before the slower.
    let simplest = (0..alike).min_by_key(|&i| {
        let e = &sorted[i];
        let computed = e.tiles * u64::from(e.tile.m) * u64::from(e.tile.n);
        (effort(e.tile), computed, i)
    });
    if let Some(simplest) = simplest {
        sorted[..=simplest].rotate_right(1);
    }
}

/// How many blocks have to work together.
fn effort(tile: GemmTile) -> u32 {
    tile.split_k
        .max(if tile.share == Share::None { 1 } else { 2 })
}

/// Fastest first; at equal time what leaves the SMs more to spare, then what is simpler, then larger tiles, which
/// read less.
fn order(e: &Estimate) -> impl Ord + use<> {
    let tile = e.tile;
    (
        e.cycles,
        e.sm,
        tile.split_k,
        tile.share != Share::None,
        tile.swap,
        (
            Reverse(u64::from(tile.m) * u64::from(tile.n)),
            tile.m,
            tile.share,
            tile.raster,
        ),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn problem(form: GemmForm, rows: u64, n: u64, k: u64) -> GemmProblem {
        let (input, out, epilogue) = match form {
            GemmForm::Batched { .. } => (DType::BF16, DType::BF16, Epilogue::Store),
            GemmForm::KGrouped { .. } => (DType::E4M3, DType::F32, Epilogue::Accumulate),
            _ => (DType::E4M3, DType::BF16, Epilogue::Store),
        };
        GemmProblem {
            epilogue,
            ..GemmProblem::new(input, out, form, rows, n, k)
        }
    }

    pub(crate) fn dense(rows: u64, n: u64, k: u64) -> GemmProblem {
        problem(GemmForm::Dense, rows, n, k)
    }

    fn target() -> Target {
        Target::load("h100").unwrap()
    }

    fn best(problem: GemmProblem) -> GemmTile {
        choose(problem, &target()).best().unwrap()
    }

    /// Computed rows of one row tile and column.
    fn rows(tile: GemmTile) -> u32 {
        tile.m
    }

    #[test]
    fn few_rows_take_narrow_tiles_on_many_sms() {
        let choice = choose(dense(8, 1536, 7168), &target());
        let best = &choice.candidates[0];
        assert!(rows(best.tile) <= 64, "{best:?}");
        // 128 columns a tile would leave 120 SMs idle.
        assert!(best.busy_sms >= 48, "{best:?}");
    }

    #[test]
    fn many_rows_take_two_warpgroups_and_wide_tiles() {
        let best = best(dense(4096, 7168, 16384));
        assert!(best.m >= 128 && best.n >= 112, "{best:?}");
        assert!(!best.swap && best.split_k == 1, "{best:?}");
    }

    #[test]
    fn many_groups_with_few_rows_each_stay_small() {
        let best = best(problem(GemmForm::Grouped { groups: 256 }, 1024, 4096, 7168));
        assert!(rows(best) <= 64, "{best:?}");
    }

    #[test]
    fn every_form_has_a_tile() {
        let cases = [
            dense(1, 576, 7168),
            problem(GemmForm::Batched { heads: 128 }, 1, 512, 128),
            problem(GemmForm::Grouped { groups: 8 }, 32768, 4096, 7168),
            problem(GemmForm::Masked { groups: 4 }, 1024, 4096, 7168),
            problem(GemmForm::KGrouped { groups: 4 }, 4096, 7168, 16384),
            GemmProblem {
                epilogue: Epilogue::Add,
                ..dense(64, 7168, 2048)
            },
        ];
        for case in cases {
            let choice = choose(case, &target());
            assert!(choice.best().is_some(), "{case:?}");
            for e in &choice.candidates {
                assert!(candidates::accepted(&case, e.tile), "{e:?}");
            }
        }
    }

    #[test]
    fn equal_problems_get_equal_choices() {
        let case = problem(GemmForm::Grouped { groups: 8 }, 32768, 7168, 2048);
        let first = choose(case, &target());
        for _ in 0..3 {
            assert_eq!(choose(case, &target()), first);
        }
    }

    #[test]
    fn too_little_shared_memory_leaves_no_candidate() {
        let target = Target {
            smem_bytes: 8 << 10,
            ..target()
        };
        assert_eq!(choose(dense(64, 128, 128), &target).best(), None);
    }

    #[test]
    fn a_measured_winner_goes_before_the_model() {
        let case = dense(4096, 7168, 16384);
        let target = target();
        let tile = GemmTile::new(64, 32, 4);
        let mut database = Database::empty("h100");
        assert_ne!(choose_with(case, &target, &database).best(), Some(tile));
        database.record(&case, tile, 700_000, "a test");
        let choice = choose_with(case, &target, &database);
        assert_eq!(choice.best(), Some(tile));
        assert!(choice.to_string().contains("measured"), "{choice}");
        // The same bucket of rows, and no other.
        let near = GemmProblem { rows: 2049, ..case };
        assert_eq!(choose_with(near, &target, &database).best(), Some(tile));
        let far = GemmProblem { rows: 2048, ..case };
        assert_ne!(choose_with(far, &target, &database).best(), Some(tile));
    }

    #[test]
    fn a_measured_winner_that_no_longer_fits_is_left_and_said_so() {
        let case = dense(4096, 7168, 16384);
        let mut database = Database::empty("h100");
        database.record(&case, GemmTile::new(64, 32, 1000), 700_000, "a test");
        let choice = choose_with(case, &target(), &database);
        assert_eq!(choice.best(), Some(choice.candidates[0].tile));
        assert!(choice.to_string().contains("not used"), "{choice}");
    }
}
