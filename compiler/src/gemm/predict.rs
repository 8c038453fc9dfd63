//! Predicted times of GEMMs beside published and measured ones.
//!
//! In: problems, a target, and where there is one the report of a benchmark on a GPU. Out: [`Row`]s, and the model's
//! figures fitted to what was measured. Holds: only times of kind `measured` are taken as measured.

use std::fmt::Write as _;
use std::path::Path;

use mcc_ir::kernel::GemmTile;
use mcc_passes::heuristics::gemm::calibrate::{self, Fit, Measurement};
use mcc_passes::heuristics::gemm::candidates::{self, MAX_STAGES, RASTERS};
use mcc_passes::heuristics::gemm::{
    Bound, Database, Estimate, GemmProblem, Params, Spread, choose, estimate,
};
use mcc_passes::target::Target;
use mcc_runtime::bench::{Kind, Report, StepReport};
use serde::Serialize;

use super::problems::{Named, Published};
use crate::error::Error;

/// One GEMM with the tile that would be built for it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of its benchmark entry.
    pub name: String,
    /// The kernel that would be built.
    pub kernel: String,
    /// Its tile.
    pub tile: GemmTile,
    /// Predicted, nothing in the L2 at the start.
    pub cold_us: f64,
    /// Predicted, with what fits the L2 there.
    pub warm_us: f64,
    /// From the warm time.
    pub tflops: f64,
    /// What the data sheet allows.
    pub limit_us: f64,
    /// The longest term of the model.
    pub bound: Bound,
    /// What others published.
    pub published: Option<Published>,
    /// What was measured, of the kernel named there.
    pub measured: Option<Measured>,
}

/// A measured kernel.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Which.
    pub kernel: String,
    /// Median, nothing in the L2.
    pub cold_us: f64,
    /// Median, straight after itself.
    pub warm_us: f64,
    /// The model's cold time for this kernel; `None` for one that this compiler does not build.
    pub predicted_us: Option<f64>,
}

/// Predicts each problem; `report` is what was measured.
///
/// # Errors
/// [`Error::Usage`] when no tile fits.
pub fn rows(
    problems: &[Named],
    target: &Target,
    report: Option<&Report>,
) -> Result<Vec<Row>, Error> {
    problems
        .iter()
        .map(|named| row(named, target, report))
        .collect()
}

fn row(named: &Named, target: &Target, report: Option<&Report>) -> Result<Row, Error> {
    let problem = named.problem;
    let no_tile = || Error::Usage(format!("{}: no tile fits {}", named.name, target.name));
    let choice = choose(problem, target);
    let tile = choice.best().ok_or_else(no_tile)?;
    let even = time(&problem, tile, target, &params(target)).ok_or_else(no_tile)?;
    let us = |cycles| choice.microseconds(cycles);
    let measured = report
        .and_then(|report| subject(report, &named.name))
        .map(|step| Measured {
            kernel: step.kernel.clone(),
            cold_us: step.cold.seconds * 1e6,
            warm_us: step.warm.seconds * 1e6,
            predicted_us: tile_of(&problem, &step.kernel, target)
                .and_then(|tile| time(&problem, tile, target, &params(target)))
                .map(|e| us(e.cycles)),
        });
    let kernel = problem.config(tile).ok_or_else(no_tile)?.name();
    Ok(Row {
        name: named.name.clone(),
        kernel,
        tile,
        cold_us: us(even.cycles),
        warm_us: us(even.warm_cycles),
        tflops: problem.flops() as f64 / us(even.warm_cycles) / 1e6,
        limit_us: us(problem.limit_cycles(target)),
        bound: even.bound,
        published: named.published,
        measured,
    })
}

/// Groups of a benchmark are of equal size.
fn time(
    problem: &GemmProblem,
    tile: GemmTile,
    target: &Target,
    params: &Params,
) -> Option<Estimate> {
    estimate(problem, tile, target, params, Spread::Even)
}

/// The model's figures for a target.
#[must_use]
pub fn params(target: &Target) -> Params {
    Database::embedded(&target.name)
        .calibration
        .unwrap_or_default()
}

/// The step that an entry is about.
fn subject<'r>(report: &'r Report, name: &str) -> Option<&'r StepReport> {
    let entry = report.entries.iter().find(|e| e.entry == name)?;
    entry.steps.iter().find(|s| s.subject)
}

/// The tile of a kernel of this name for this problem.
#[must_use]
pub fn tile_of(problem: &GemmProblem, kernel: &str, target: &Target) -> Option<GemmTile> {
    let named = |tile: &GemmTile| problem.config(*tile).is_some_and(|c| c.name() == kernel);
    let stages = u32::try_from(MAX_STAGES).unwrap_or(u32::MAX);
    candidates::tiles(problem)
        .into_iter()
        // The name begins alike up to the number of stages, so most are told apart without trying them all.
        .flat_map(|tile| (2..=stages).map(move |stages| GemmTile { stages, ..tile }))
        .flat_map(|tile| {
            RASTERS
                .iter()
                .map(move |&raster| GemmTile { raster, ..tile })
        })
        .find(|tile| named(tile))
        .filter(|tile| time(problem, *tile, target, &params(target)).is_some())
}

/// Reads a report of `mcc bench --json` or `mccrt bench --json`.
///
/// # Errors
/// When it is none, holds predictions, or is of another target.
pub fn read_measured(path: &Path, target: &Target) -> Result<Report, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let refuse = |why: String| Error::Usage(format!("{}: {why}", path.display()));
    let report: Report = serde_json::from_str(&text)
        .map_err(|e| refuse(format!("not the JSON of a benchmark: {e}")))?;
    let predicted = report
        .entries
        .iter()
        .flat_map(|entry| &entry.steps)
        .any(|step| step.cold.kind != Kind::Measured);
    if report.kind != Kind::Measured || predicted {
        return Err(refuse(
            "its times are predictions; measure on a GPU, with --device cuda".to_owned(),
        ));
    }
    if report.target != target.name {
        return Err(refuse(format!(
            "it is of a bundle for {}, not for {} (--target)",
            report.target, target.name
        )));
    }
    Ok(report)
}

/// The measured times of these problems, of kernels that the model knows.
#[must_use]
pub fn measurements(problems: &[Named], report: &Report, target: &Target) -> Vec<Measurement> {
    problems
        .iter()
        .filter_map(|named| {
            let step = subject(report, &named.name)?;
            Some(Measurement {
                problem: named.problem,
                tile: tile_of(&named.problem, &step.kernel, target)?,
                ns: nanoseconds(step.cold.seconds),
            })
        })
        .collect()
}

/// Whole nanoseconds.
#[must_use]
pub fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).round().max(0.0) as u64
}

/// The figures that fit the measured times best.
#[must_use]
pub fn fitted(measured: &[Measurement], target: &Target) -> Option<Fit> {
    calibrate::fit(measured, target, params(target))
}

/// The table for people.
#[must_use]
pub fn table(rows: &[Row], target: &Target, source: &str) -> String {
    let mut text = format!(
        "PREDICTION for {} at {} MHz: no time but those under `measured` was measured. Published: {source}.\n\
         {:<32} {:<18} {:>9} {:>9} {:>7} {:>6}  {:<8} {:>11} {:>5}{}\n",
        target.name,
        target.sustained_clock_hz / 1_000_000,
        "",
        "tile",
        "cold us",
        "warm us",
        "TFLOP/s",
        "of max",
        "bound",
        "published",
        "ratio",
        if rows.iter().any(|r| r.measured.is_some()) {
            "   measured cold  of predicted"
        } else {
            ""
        },
    );
    for r in rows {
        let published = r.published.map_or_else(String::new, |p| {
            if p.least < p.most {
                format!("{:.0}–{:.0}", p.least, p.most)
            } else {
                format!("{:.0}", p.most)
            }
        });
        let ratio = r
            .published
            .map_or_else(String::new, |p| format!("{:.2}", r.tflops / p.most));
        let measured = r.measured.as_ref().map_or_else(String::new, |m| {
            let of = m
                .predicted_us
                .map_or_else(|| "–".to_owned(), |p| format!("{:.2}", m.cold_us / p));
            format!("   {:>13.1} {of:>13}", m.cold_us)
        });
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<32} {:<18} {:>9.1} {:>9.1} {:>7.0} {:>5.0}%  {:<8} {published:>11} {ratio:>5}{measured}",
            r.name,
            tile(r.tile),
            r.cold_us,
            r.warm_us,
            r.tflops,
            100.0 * r.limit_us / r.cold_us.max(1e-9),
            r.bound.to_string(),
        );
    }
    if let Some(mean) = mean_ratio(rows) {
        let _ = writeln!(
            text,
            "geometric mean of predicted (warm) over published: {mean:.2}"
        );
    }
    text
}

/// `128x160 share B`.
fn tile(t: GemmTile) -> String {
    let how = mcc_passes::heuristics::gemm::how(t);
    format!("{}x{} {how}", t.m, t.n).trim_end().to_owned()
}

/// Of predicted over published rates; `None` without any.
#[must_use]
pub fn mean_ratio(rows: &[Row]) -> Option<f64> {
    let logs: Vec<f64> = rows
        .iter()
        .filter_map(|r| r.published.map(|p| (r.tflops / p.most).ln()))
        .collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}
