//! Fits the model to measured times.
//!
//! In: measured times of problems with their tiles. Out: the [`Params`] that predict them best, in the sense of the
//! least squares of `ln(measured / predicted)`, and how far off the model was before and is after. Holds: few
//! figures are fitted, each inside of bounds outside of which it would mean something else.
//!
//! The search tries each figure a step up and a step down, keeps what helps, and halves the steps when nothing does.
//! Its result is written to the tuning database; no build runs it.

use super::{GemmProblem, Params, Spread, estimate};
use crate::target::Target;
use mcc_ir::kernel::GemmTile;

/// A measured time, nothing in the L2 at the start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// Of which problem.
    pub problem: GemmProblem,
    /// With which tile.
    pub tile: GemmTile,
    /// Nanoseconds.
    pub ns: u64,
}

/// Fitted figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// The figures.
    pub params: Params,
    /// Measurements that the model has a time for.
    pub used: usize,
    /// Root mean square of `ln(measured / predicted)` with the figures at the start.
    pub before: f64,
    /// With the fitted ones.
    pub after: f64,
}

/// A figure that is fitted, and its bounds.
struct Figure {
    of: fn(&mut Params) -> &mut u64,
    least: u64,
    most: u64,
}

const FIGURES: [Figure; 6] = [
    Figure {
        of: |p| &mut p.tensor_percent,
        least: 50,
        most: 120,
    },
    Figure {
        of: |p| &mut p.l2_bytes_per_cycle,
        least: 1000,
        most: 10_000,
    },
    Figure {
        of: |p| &mut p.hbm_percent,
        least: 50,
        most: 100,
    },
    Figure {
        of: |p| &mut p.wait_cycles,
        least: 0,
        most: 500,
    },
    Figure {
        of: |p| &mut p.fill_cycles,
        least: 0,
        most: 10_000,
    },
    Figure {
        of: |p| &mut p.tile_cycles,
        least: 0,
        most: 5_000,
    },
];
/// Parts of a figure's value, from coarse to fine.
const STEPS: [f64; 6] = [0.4, 0.2, 0.1, 0.05, 0.02, 0.01];

/// Fits the figures of `FIGURES`, from `start` on; `None` when no measurement is of a tile that the model knows.
#[must_use]
pub fn fit(measured: &[Measurement], target: &Target, start: Params) -> Option<Fit> {
    let (before, used) = error(measured, target, &start)?;
    let (mut params, mut least) = (start, before);
    for step in STEPS {
        loop {
            let mut better = false;
            for figure in &FIGURES {
                for direction in [1.0, -1.0] {
                    let mut trial = params;
                    let value = (figure.of)(&mut trial);
                    let moved = *value as f64 * (1.0 + direction * step);
                    // At least by one, so that small figures move at all.
                    let moved = if direction > 0.0 {
                        (moved as u64).max(*value + 1)
                    } else {
                        (moved as u64).min(value.saturating_sub(1))
                    };
                    *value = moved.clamp(figure.least, figure.most);
                    if trial == params {
                        continue;
                    }
                    if let Some((found, _)) = error(measured, target, &trial)
                        && found < least - 1e-9
                    {
                        (params, least, better) = (trial, found, true);
                    }
                }
            }
            if !better {
                break;
            }
        }
    }
    Some(Fit {
        params,
        used,
        before,
        after: least,
    })
}

/// Root mean square of the log ratios, and of how many.
fn error(measured: &[Measurement], target: &Target, params: &Params) -> Option<(f64, usize)> {
    let squares: Vec<f64> = measured
        .iter()
        .filter_map(|m| {
            let e = estimate(&m.problem, m.tile, target, params, Spread::Even)?;
            let predicted = e.cycles as f64 * 1e9 / target.sustained_clock_hz.max(1) as f64;
            let ratio = (m.ns.max(1) as f64 / predicted.max(1.0)).ln();
            Some(ratio * ratio)
        })
        .collect();
    let count = squares.len();
    (count > 0).then(|| ((squares.iter().sum::<f64>() / count as f64).sqrt(), count))
}

#[cfg(test)]
mod tests {
    use super::super::tests::dense;
    use super::*;

    /// Times that a machine with these figures would show.
    fn times(params: &Params, target: &Target) -> Vec<Measurement> {
        let problems = [
            (1, 7168, 2048),
            (64, 7168, 16384),
            (64, 2112, 7168),
            (4096, 7168, 16384),
            (4096, 32768, 512),
            (4096, 4096, 7168),
        ];
        let tiles = [(64, 32), (64, 128), (128, 128), (128, 160), (256, 128)];
        let mut all = Vec::new();
        for (rows, n, k) in problems {
            for (m, tile_n) in tiles {
                let (problem, tile) = (dense(rows, n, k), GemmTile::new(m, tile_n, 4));
                let e = estimate(&problem, tile, target, params, Spread::Even).unwrap();
                let ns = e.cycles * 1_000_000_000 / target.sustained_clock_hz;
                all.push(Measurement { problem, tile, ns });
            }
        }
        all
    }

    #[test]
    fn figures_of_a_machine_are_found_from_its_times() {
        let target = Target::load("h100").unwrap();
        let machine = Params {
            tensor_percent: 92,
            l2_bytes_per_cycle: 4000,
            hbm_percent: 84,
            fill_cycles: 1600,
            ..Params::default()
        };
        let measured = times(&machine, &target);
        let fit = fit(&measured, &target, Params::default()).unwrap();
        assert_eq!(fit.used, measured.len());
        assert!(fit.before > 0.05, "{fit:?}");
        // Not every figure shows in every time, so the times are held, not the figures: to one percent.
        assert!(fit.after < 0.01, "{fit:?}");
    }

    #[test]
    fn figures_that_are_right_stay() {
        let target = Target::load("h100").unwrap();
        let measured = times(&Params::default(), &target);
        let fit = fit(&measured, &target, Params::default()).unwrap();
        assert_eq!(fit.params, Params::default());
        assert_eq!(super::fit(&[], &target, Params::default()), None);
    }
}
