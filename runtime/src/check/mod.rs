//! Whether two devices compute the same with the same bundle, step by step.
//!
//! ```text
//! cases      sizes to try                 agreement   how far a kernel must agree, read off its PTX
//! lockstep   one step on both devices     compare     what both wrote, byte by byte
//! report     counts, for people and programs
//! ```
//!
//! In: one bundle on two devices with the same weights. Out: [`CheckReport`].
//! Holds: before each step both devices have equal bytes in everything that it touches, so that a difference is
//! that step's own; every operand that a kernel writes is compared, and so is the memory around it.

mod agreement;
mod cases;
mod compare;
mod lockstep;
mod report;

use std::time::{Duration, Instant};

use mcc_bundle::{DimValues, Entry};

pub use agreement::Agreement;
pub use cases::cases;
pub use compare::Element;
pub use report::{
    CaseReport, CheckReport, DeviceReport, Failure, FirstMismatch, KernelReport, RepeatReport,
    TokensReport, WeightsReport,
};

use crate::error::RuntimeError;
use crate::model::Model;
use crate::sampling::{Sampling, SplitMix64};
use crate::session::LogitRows;
use crate::text::{GenerateOptions, generate};
use lockstep::Lockstep;

/// What to check.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Seeds of inputs: each case runs once with each.
    pub seeds: Vec<u64>,
    /// Entries to check; all when empty.
    pub entries: Vec<String>,
    /// Sizes to check; [`cases`] when empty.
    pub dims: Vec<DimValues>,
    /// How often the subject repeats each step of an entry's first case; its outputs may not change.
    pub repeats: usize,
    /// Tokens that both generate greedily, where the bundle is a text model; 0 leaves it out.
    pub tokens: usize,
    /// No case begins after so much time.
    pub limit: Option<Duration>,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            seeds: vec![0],
            entries: Vec::new(),
            dims: Vec::new(),
            repeats: 0,
            tokens: 16,
            limit: None,
        }
    }
}

/// Compares `subject` with `reference`; both have loaded the same bundle and the same weights. `agreements` says for
/// each kernel of the manifest how far they must agree; `progress` sees each case before it begins.
///
/// What differs and what fails on a device is in the report.
///
/// # Errors
/// When there is no such entry, or the dims asked for are out of their bounds.
pub fn check(
    reference: &mut Model,
    subject: &mut Model,
    agreements: &[Agreement],
    options: &CheckOptions,
    progress: &mut dyn FnMut(&Entry, &DimValues, u64),
) -> Result<CheckReport, RuntimeError> {
    let began = Instant::now();
    let manifest = reference.manifest().clone();
    let entries = chosen(&manifest.entries, &options.entries)?;
    for dims in &options.dims {
        reference.check_dims(dims)?;
    }
    let mut report = CheckReport::new(reference, subject, agreements);
    let late = || options.limit.is_some_and(|limit| began.elapsed() >= limit);

    let mut lockstep = Lockstep::new(reference, subject, agreements, &mut report);
    let mut usable = lockstep.weights();
    let entries: Vec<_> = entries
        .into_iter()
        .map(|(index, entry)| {
            let sizes = if options.dims.is_empty() {
                cases(&manifest, entry)
            } else {
                options.dims.clone()
            };
            (index, entry, sizes)
        })
        .collect();
    // The first case of every entry before the second of any: what a limit leaves out is the least telling.
    let most = entries.iter().map(|(_, _, sizes)| sizes.len()).max();
    for nth in 0..most.unwrap_or(0) {
        for (index, entry, sizes) in &entries {
            let Some(dims) = sizes.get(nth) else { continue };
            for &seed in &options.seeds {
                if late() || !usable {
                    lockstep.skip(entry, dims, seed);
                    continue;
                }
                progress(entry, dims, seed);
                let first = nth == 0 && options.seeds.first() == Some(&seed);
                let repeats = if first { options.repeats } else { 0 };
                usable = lockstep.case(*index, dims, seed, repeats);
            }
        }
    }
    if options.tokens > 0 && usable && !late() {
        let seed = options.seeds.first().copied().unwrap_or(0);
        report.tokens = tokens(reference, subject, options.tokens, seed);
    }
    report.seconds = began.elapsed().as_secs_f64();
    report.judge();
    Ok(report)
}

/// The entries asked for, with their indices.
fn chosen<'m>(
    entries: &'m [Entry],
    names: &[String],
) -> Result<Vec<(usize, &'m Entry)>, RuntimeError> {
    if let Some(name) = names
        .iter()
        .find(|name| !entries.iter().any(|entry| entry.name == **name))
    {
        let known: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        return Err(RuntimeError::NoEntry {
            name: name.clone(),
            known: known.join(", "),
        });
    }
    let all = entries.iter().enumerate();
    Ok(all
        .filter(|(_, entry)| names.is_empty() || names.contains(&entry.name))
        .collect())
}

/// The whole model: both continue one prompt greedily. `None` where the bundle is not a text model.
fn tokens(
    reference: &mut Model,
    subject: &mut Model,
    max_tokens: usize,
    seed: u64,
) -> Option<TokensReport> {
    let session = reference.session().ok()?;
    let random = SplitMix64::new(seed);
    // Longer than one tile of rows, so that the prompt needs more than one step where chunks are small.
    let length = session
        .context()
        .saturating_sub(max_tokens as u64)
        .clamp(1, 70);
    let prompt: Vec<i32> = (0..length)
        .map(|n| (random.bits(n) % session.vocab()) as i32)
        .collect();
    let options = GenerateOptions {
        max_tokens,
        chunk: None,
        sampling: Sampling::default(),
        eos: Vec::new(),
        prompt_logits: LogitRows::Last,
    };
    let run = |model: &mut Model| -> Result<Vec<i32>, String> {
        let mut session = model.session().map_err(|err| err.to_string())?;
        generate(&mut session, &prompt, &options, &mut |_| ())
            .map(|generation| generation.tokens)
            .map_err(|err| err.to_string())
    };
    Some(TokensReport::new(
        prompt.clone(),
        run(reference),
        run(subject),
    ))
}
