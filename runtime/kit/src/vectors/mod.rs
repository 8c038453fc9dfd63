//! A probe of the tensor core and of the conversions, on any device, against the simulator's arithmetic.
//!
//! In: a device, a seed, counts. Out: a [`VectorReport`] and a [`ConversionReport`] that name every class of inputs
//! with its mismatches.
//! Holds: what runs on the device is real PTX (`wgmma`, `cvt`, ...), what it is compared with are functions of
//! `mcc_sim::numerics`; the same seed gives the same inputs everywhere.
//!
//! ```text
//!   class, seed ──▶ tile ──form──▶ images ──device──▶ results ─┐
//!                    └──────────── fused_sum ─────────────────▶ compare ──▶ report
//! ```

mod alternatives;
pub mod conversions;
mod form;
mod inputs;
mod probe;
mod published;
mod random;
mod report;
mod types;

use std::path::PathBuf;
use std::time::Instant;

use mcc_runtime::{Device, DeviceError};
use rayon::prelude::*;
use thiserror::Error;

pub use conversions::{ConversionOptions, ConversionReport};
pub use report::{
    AlternativeReport, ClassReport, FormCount, Mismatch, PublishedReport, TypeReport, VectorReport,
};
pub use types::{Accumulator, Types};

use alternatives::{Alternatives, Sample};
use form::Form;
use inputs::{Class, Tile};
use probe::Probe;

/// How much is compared.
#[derive(Clone, Debug)]
pub struct VectorOptions {
    /// Of the inputs.
    pub seed: u64,
    /// Results to compare for each combination of types, at least.
    pub results: u64,
    /// Folder with published vectors.
    pub published: Option<PathBuf>,
    /// Mismatches that are kept with their inputs, of each class.
    pub keep: usize,
}

impl Default for VectorOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            results: 1 << 20,
            published: None,
            keep: 4,
        }
    }
}

/// The device refused or failed a probe; a wrong result is not an error but part of the report.
#[derive(Clone, Debug, Error)]
#[error("{what}: {source}")]
pub struct VectorError {
    /// Which instruction and form.
    pub what: String,
    /// What the device said.
    pub source: DeviceError,
}

/// What the probe leaves out.
const NOT_MODELLED: [&str; 2] = [
    "wgmma on integers (s8, u8, b1)",
    "sparse wgmma (wgmma.mma_async.sp)",
];

/// Compares the device's tensor core with the arithmetic function.
///
/// # Errors
/// When the device refuses or fails a kernel. Wrong results are counted in the report.
pub fn run(device: &mut dyn Device, options: &VectorOptions) -> Result<VectorReport, VectorError> {
    let start = Instant::now();
    let types = Types::ALL
        .iter()
        .map(|&types| probe_types(device, types, options))
        .collect::<Result<Vec<_>, _>>()?;
    let published = published::run(device, options.published.as_deref(), options.keep)?;
    let lines = published.iter().map(|file| file.lines);
    let wrong_lines = published.iter().map(|file| file.mismatches);
    Ok(VectorReport {
        device: device.props().name.clone(),
        driver: device.props().driver.clone(),
        seed: options.seed,
        results: types.iter().map(|t| t.results).chain(lines).sum(),
        mismatches: types.iter().map(|t| t.mismatches).chain(wrong_lines).sum(),
        seconds: start.elapsed().as_secs_f64(),
        types,
        published,
        not_modelled: NOT_MODELLED.to_vec(),
    })
}

/// A tile to be made: its class and its number in it.
#[derive(Clone, Copy)]
struct Job {
    class: usize,
    number: u64,
}

/// Which tiles each form runs: forms in turn within a class, until the class has its share of the results. Classes
/// begin with different forms, so that few results still see all forms.
fn plan(types: Types, classes: &[Class], forms: &[Form], results: u64) -> Vec<Vec<Job>> {
    let share = results.div_ceil(classes.len() as u64);
    let mut jobs = vec![Vec::new(); forms.len()];
    for (class, kind) in classes.iter().enumerate() {
        let fitting: Vec<usize> = (0..forms.len()).filter(|&f| kind.takes(forms[f])).collect();
        debug_assert!(!fitting.is_empty(), "{kind:?} of {types:?}");
        let (mut done, mut number) = (0, 0);
        while done < share {
            let form = fitting[(class + number as usize) % fitting.len()];
            jobs[form].push(Job { class, number });
            done += forms[form].results() as u64;
            number += 1;
        }
    }
    jobs
}

fn probe_types(
    device: &mut dyn Device,
    types: Types,
    options: &VectorOptions,
) -> Result<TypeReport, VectorError> {
    let (classes, forms) = (Class::all(types), Form::all(types));
    let mut reports: Vec<ClassReport> = classes
        .iter()
        .map(|class| {
            let (name, what) = class.describe();
            ClassReport {
                class: name,
                what,
                results: 0,
                mismatches: 0,
                forms: Vec::new(),
                max_ulps: 0,
                first: Vec::new(),
            }
        })
        .collect();
    let mut alternatives = Alternatives::default();
    let jobs = plan(types, &classes, &forms, options.results);
    for (form, jobs) in forms.iter().zip(&jobs) {
        if jobs.is_empty() {
            continue;
        }
        let probe = Probe::load(device, types, *form)?;
        for batch in jobs.chunks(probe.batch()) {
            let tiles: Vec<Tile> = batch
                .par_iter()
                .map(|job| Tile::new(options.seed, types, *form, classes[job.class], job.number))
                .collect();
            let results = probe.run(device, &tiles)?;
            let found: Vec<Found> = (batch, &tiles, &results)
                .into_par_iter()
                .map(|(job, tile, results)| {
                    let by_bits = classes[job.class].nan_by_bits();
                    compare(&probe, tile, *job, results, by_bits, options.keep)
                })
                .collect();
            let samples = samples(batch, &tiles, &results, &found);
            if !samples.is_empty() {
                alternatives.add(types, *form, &samples);
            }
            let name = form.name(types);
            for (job, found) in batch.iter().zip(found) {
                found.count(&mut reports[job.class], &name, form.results(), options.keep);
            }
        }
    }
    Ok(TypeReport {
        instruction: form::instruction(types),
        results: reports.iter().map(|c| c.results).sum(),
        mismatches: reports.iter().map(|c| c.mismatches).sum(),
        classes: reports,
        alternatives: alternatives.nearest(),
    })
}

/// Places of mismatches that are kept of one tile.
const LISTED: usize = 64;
/// Tiles without mismatches that alternatives are tried on.
const AGREEING: usize = 4;

/// What alternatives are tried on: the first tile of each class with mismatches, and some without; nothing when
/// all agrees.
fn samples<'a>(
    jobs: &[Job],
    tiles: &'a [Tile],
    results: &'a [Vec<u32>],
    found: &[Found],
) -> Vec<Sample<'a>> {
    let mut classes = Vec::new();
    let mut agreeing = 0;
    let all = jobs.iter().zip(tiles).zip(results).zip(found);
    let samples = all.filter_map(|(((job, tile), results), found)| {
        let wanted = if found.mismatches == 0 {
            agreeing += 1;
            agreeing <= AGREEING
        } else if classes.contains(&job.class) {
            false
        } else {
            classes.push(job.class);
            true
        };
        wanted.then(|| Sample::new(tile, results, &found.at))
    });
    let samples = samples.collect();
    if classes.is_empty() {
        return Vec::new();
    }
    samples
}

/// Differences of one tile.
#[derive(Default)]
struct Found {
    mismatches: u64,
    /// Where the first of them are.
    at: Vec<usize>,
    max_ulps: u64,
    first: Vec<Mismatch>,
}

fn compare(
    probe: &Probe,
    tile: &Tile,
    job: Job,
    results: &[u32],
    nan_by_bits: bool,
    keep: usize,
) -> Found {
    let mut found = Found::default();
    for (i, (&device, &model)) in results.iter().zip(&probe.model(tile)).enumerate() {
        if probe.agrees(device, model, nan_by_bits) {
            continue;
        }
        found.mismatches += 1;
        if found.at.len() < LISTED {
            found.at.push(i);
        }
        found.max_ulps = found.max_ulps.max(probe.ulps(device, model).unwrap_or(0));
        if found.first.len() < keep {
            found
                .first
                .push(probe.describe(tile, job.number, i, device, model));
        }
    }
    found
}

impl Found {
    fn count(self, report: &mut ClassReport, form: &str, results: usize, keep: usize) {
        report.results += results as u64;
        if self.mismatches == 0 {
            return;
        }
        report.mismatches += self.mismatches;
        report.max_ulps = report.max_ulps.max(self.max_ulps);
        let room = keep.saturating_sub(report.first.len());
        report.first.extend(self.first.into_iter().take(room));
        match report.forms.iter_mut().find(|count| count.form == form) {
            Some(count) => count.mismatches += self.mismatches,
            None => report.forms.push(FormCount {
                form: form.to_owned(),
                mismatches: self.mismatches,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
