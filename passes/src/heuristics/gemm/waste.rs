//! Rows that a grouped product computes beyond those that it was asked for.
//!
//! In: experts, experts a token, tokens. Out: for made-up routings the rows that our tile computes, and those of groups
//! that are padded to 128 rows in memory, with the model's times of both. Holds: the same on every host; routings
//! are drawn by integer arithmetic from a seed.
//!
//! Our groups are not padded in memory: a group of `r` rows takes `ceil(r / tile)` tiles, and what is wasted is the rest
//! of its last one.

use mcc_ir::kernel::{GemmForm, GemmTile};
use serde::Serialize;

use super::{GemmProblem, Params, Spread, candidates, choose, estimate};
use crate::target::Target;

/// How tokens choose experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// All alike.
    Uniform,
    /// The expert of rank `r` with a weight of `1 / r` (Zipf).
    Skewed,
}

/// One routing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waste {
    /// How tokens chose.
    pub routing: Routing,
    /// Tokens.
    pub tokens: u64,
    /// Rows of all experts.
    pub rows: u64,
    /// Experts that have rows.
    pub busy: u64,
    /// The chosen tile.
    pub tile: GemmTile,
    /// Rows that it computes.
    pub computed: u64,
    /// Rows when each group is padded to [`PADDED`] rows.
    pub padded: u64,
    /// Predicted cycles with the chosen tile.
    pub cycles: u64,
    /// Predicted cycles of padded groups, with the fastest plain tile of that many rows.
    pub padded_cycles: u64,
}

/// Rows to which DeepGEMM pads each group of its contiguous layout.
pub const PADDED: u64 = 128;

/// The routed experts that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// How many.
    pub count: u32,
    /// Of which a token takes so many.
    pub top: u32,
}

/// Waste of both kinds of routing for each number of tokens; `problem` gives all but form and rows.
#[must_use]
pub fn table(
    problem: &GemmProblem,
    experts: Experts,
    tokens: &[u64],
    seed: u64,
    target: &Target,
) -> Vec<Waste> {
    let params = super::Database::embedded(&target.name)
        .calibration
        .unwrap_or_default();
    [Routing::Uniform, Routing::Skewed]
        .into_iter()
        .flat_map(|routing| tokens.iter().map(move |&tokens| (routing, tokens)))
        .filter_map(|(routing, tokens)| {
            let groups = route(routing, experts, tokens, seed);
            row(problem, routing, tokens, &groups, target, &params)
        })
        .collect()
}

fn row(
    problem: &GemmProblem,
    routing: Routing,
    tokens: u64,
    groups: &[u64],
    target: &Target,
    params: &Params,
) -> Option<Waste> {
    let rows = groups.iter().sum();
    let problem = GemmProblem {
        form: GemmForm::Grouped {
            groups: u32::try_from(groups.len()).ok()?,
        },
        rows,
        ..*problem
    };
    let tile = choose(problem, target).best()?;
    let time = |tile, groups: &[u64]| {
        estimate(&problem, tile, target, params, Spread::Groups(groups)).map(|e| e.cycles)
    };
    let padded: Vec<u64> = groups.iter().map(|r| r.next_multiple_of(PADDED)).collect();
    let plain = |tile: &GemmTile| !tile.swap && u64::from(tile.m) == PADDED;
    let padded_cycles = candidates::tiles(&problem)
        .into_iter()
        .filter(plain)
        .filter_map(|tile| time(tile, &padded))
        .min()?;
    Some(Waste {
        routing,
        tokens,
        rows,
        busy: groups.iter().filter(|rows| **rows > 0).count() as u64,
        tile,
        computed: groups
            .iter()
            .map(|r| r.next_multiple_of(tile.m.into()))
            .sum(),
        padded: padded.iter().sum(),
        cycles: time(tile, groups)?,
        padded_cycles,
    })
}

/// Rows of each expert: every token takes `top` different ones.
#[must_use]
pub fn route(routing: Routing, experts: Experts, tokens: u64, seed: u64) -> Vec<u64> {
    const ONE: u64 = 1 << 32;
    let count = experts.count as usize;
    let weights: Vec<u64> = (1..=u64::from(experts.count))
        .map(|rank| match routing {
            Routing::Uniform => ONE,
            Routing::Skewed => ONE / rank,
        })
        .collect();
    let mut state = seed;
    let mut rows = vec![0; count];
    let mut taken = vec![false; count];
    for _ in 0..tokens {
        taken.fill(false);
        let mut left: u64 = weights.iter().sum();
        for _ in 0..experts.top.min(experts.count) {
            let mut at = random(&mut state) % left.max(1);
            for (expert, weight) in weights.iter().enumerate() {
                if taken[expert] {
                    continue;
                }
                if at < *weight {
                    taken[expert] = true;
                    rows[expert] += 1;
                    left -= weight;
                    break;
                }
                at -= weight;
            }
        }
    }
    rows
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::tests::dense;
    use super::*;

    const V3: Experts = Experts { count: 256, top: 8 };

    #[test]
    fn tokens_take_different_experts_and_skew_shows() {
        for routing in [Routing::Uniform, Routing::Skewed] {
            let rows = route(routing, V3, 1, 7);
            assert_eq!(rows.iter().sum::<u64>(), 8);
            assert!(rows.iter().all(|r| *r <= 1));
            let all = route(routing, Experts { count: 8, top: 8 }, 5, 7);
            assert_eq!(all, [5; 8]);
        }
        let uniform = route(Routing::Uniform, V3, 4096, 7);
        // The mean is 128; six standard deviations of a binomial count are 68.
        assert!(uniform.iter().all(|r| r.abs_diff(128) < 68), "{uniform:?}");
        let skewed = route(Routing::Skewed, V3, 4096, 7);
        assert!(skewed[0] > 10 * skewed[255], "{skewed:?}");
    }

    #[test]
    fn tiles_waste_less_than_padding_and_never_less_than_nothing() {
        let target = Target::load("h100").unwrap();
        let rows = table(&dense(0, 4096, 7168), V3, &[1, 64, 1024, 4096], 1, &target);
        assert_eq!(rows.len(), 8);
        for w in rows {
            assert_eq!(w.rows, 8 * w.tokens);
            assert!(w.rows <= w.computed && w.computed <= w.padded, "{w:?}");
            // What is wasted is less than a tile for each expert.
            assert!(w.computed - w.rows < w.busy * u64::from(w.tile.m), "{w:?}");
        }
    }
}
