//! What a check found, as JSON for programs and as text for people.
//!
//! Holds: a report that says `passed` has compared at least one element, and nothing in it was out of bounds.

use std::fmt;

use mcc_bundle::DimValues;
use serde::Serialize;

use super::agreement::Agreement;
use super::compare::{Comparison, Element};
use crate::model::Model;

/// What a check found.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// Name of the model.
    pub model: String,
    /// The device that says what is right.
    pub reference: DeviceReport,
    /// The device that is checked.
    pub subject: DeviceReport,
    /// Whether everything that ran agreed as far as it must.
    pub passed: bool,
    /// Whether every case ran and every kernel was launched.
    pub complete: bool,
    /// Time of the whole check.
    pub seconds: f64,
    /// Weight buffers as they arrived.
    pub weights: WeightsReport,
    /// Each kernel of the bundle, in its order.
    pub kernels: Vec<KernelReport>,
    /// Cases that ran.
    pub cases: Vec<CaseReport>,
    /// Cases that were left out, because time was up or a device was lost.
    pub skipped: Vec<CaseReport>,
    /// Steps that were repeated.
    pub repeat: Option<RepeatReport>,
    /// What both generated, where the bundle is a text model.
    pub tokens: Option<TokensReport>,
    /// Steps that did not run on one of the devices.
    pub failures: Vec<Failure>,
}

/// A device.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceReport {
    /// Its name.
    pub name: String,
    /// Its SMs.
    pub sms: u32,
    /// Its driver; empty for a simulated one.
    pub driver: String,
}

/// Weight buffers on both devices.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WeightsReport {
    /// Bytes compared.
    pub bytes: u64,
    /// Parameters that differ.
    pub differing: Vec<String>,
}

/// Launches of one kernel, all together.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    /// Its name.
    pub kernel: String,
    /// Its family.
    pub family: String,
    /// How far devices must agree, and why.
    pub agreement: Agreement,
    /// Launches compared.
    pub launches: u64,
    /// Elements compared.
    pub elements: u64,
    /// Elements whose bits differ.
    pub mismatches: u64,
    /// Elements that differ by more than they may, those outside of the kernel's operands included.
    pub outside: u64,
    /// Largest distance in units in the last place.
    pub max_ulp: u64,
    /// Largest difference, relative to the largest magnitude of its row.
    pub max_error: f64,
    /// The first mismatch that is out of bounds, else the first.
    pub first: Option<FirstMismatch>,
}

/// Where devices differ first.
#[derive(Clone, Debug, Serialize)]
pub struct FirstMismatch {
    /// Name of the entry.
    pub entry: String,
    /// Number of the step in the entry.
    pub index_of_step: usize,
    /// Label of the step.
    pub step: String,
    /// Name of the operand.
    pub operand: String,
    /// The case.
    pub dims: DimValues,
    /// Of its inputs.
    pub seed: u64,
    /// What is there.
    pub element: Element,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// Name of the entry.
    pub entry: String,
    /// Values of the named dims.
    pub dims: DimValues,
    /// Of its inputs.
    pub seed: u64,
}

/// Steps that were repeated on the subject.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RepeatReport {
    /// How often each step ran again.
    pub repeats: usize,
    /// Steps that were repeated.
    pub steps: u64,
    /// SHA-256 of all that they wrote, in their order.
    pub hash: String,
    /// Steps whose output changed: entry, label, and the repetition, from 1.
    pub differing: Vec<(String, String, usize)>,
}

/// What both devices generated.
#[derive(Clone, Debug, Serialize)]
pub struct TokensReport {
    /// What they were given.
    pub prompt: Vec<i32>,
    /// Of the reference, or why there is none.
    pub reference: Result<Vec<i32>, String>,
    /// Of the subject, or why there is none.
    pub subject: Result<Vec<i32>, String>,
    /// Whether both are there and the same.
    pub equal: bool,
    /// Where they part.
    pub first_difference: Option<usize>,
}

/// A step that did not run.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The case.
    pub case: CaseReport,
    /// What the device said; it names the step.
    pub error: String,
}

impl CheckReport {
    pub(super) fn new(reference: &Model, subject: &Model, agreements: &[Agreement]) -> Self {
        let device = |model: &Model| {
            let props = model.device.props();
            DeviceReport {
                name: props.name.clone(),
                sms: props.sms,
                driver: props.driver.clone(),
            }
        };
        let kernels = reference.manifest().kernels.iter().zip(agreements);
        let kernels = kernels.map(|(kernel, agreement)| KernelReport {
            kernel: kernel.name.clone(),
            family: kernel.family.clone(),
            agreement: agreement.clone(),
            launches: 0,
            elements: 0,
            mismatches: 0,
            outside: 0,
            max_ulp: 0,
            max_error: 0.0,
            first: None,
        });
        Self {
            model: reference.manifest().model.clone(),
            reference: device(reference),
            subject: device(subject),
            passed: false,
            complete: false,
            seconds: 0.0,
            weights: WeightsReport::default(),
            kernels: kernels.collect(),
            cases: Vec::new(),
            skipped: Vec::new(),
            repeat: None,
            tokens: None,
            failures: Vec::new(),
        }
    }

    /// Elements compared.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.kernels.iter().map(|kernel| kernel.elements).sum()
    }

    /// Kernels that no case launched.
    fn untested(&self) -> impl Iterator<Item = &KernelReport> {
        self.kernels.iter().filter(|kernel| kernel.launches == 0)
    }

    /// Sets [`Self::passed`] and [`Self::complete`].
    pub(super) fn judge(&mut self) {
        self.complete = self.skipped.is_empty() && self.untested().next().is_none();
        self.passed = self.elements() > 0
            && self.weights.differing.is_empty()
            && self.kernels.iter().all(|kernel| kernel.outside == 0)
            && self.failures.is_empty()
            && self.tokens.as_ref().is_none_or(|tokens| tokens.equal)
            && self
                .repeat
                .as_ref()
                .is_none_or(|repeat| repeat.differing.is_empty());
    }
}

impl KernelReport {
    pub(super) fn add(
        &mut self,
        comparison: Comparison,
        place: impl FnOnce(Element) -> FirstMismatch,
    ) {
        self.elements += comparison.elements;
        self.mismatches += comparison.mismatches;
        self.outside += comparison.outside + comparison.strays;
        self.max_ulp = self.max_ulp.max(comparison.max_ulp);
        self.max_error = self.max_error.max(comparison.max_error);
        let kept = self.first.as_ref().map(|first| first.element.outside);
        if let Some(element) = comparison.first
            && (kept.is_none() || kept == Some(false) && element.outside)
        {
            self.first = Some(place(element));
        }
    }
}

impl TokensReport {
    pub(super) fn new(
        prompt: Vec<i32>,
        reference: Result<Vec<i32>, String>,
        subject: Result<Vec<i32>, String>,
    ) -> Self {
        let both = reference.as_ref().ok().zip(subject.as_ref().ok());
        let first_difference = both.and_then(|(a, b)| {
            let longer = a.len().max(b.len());
            (0..longer).find(|&i| a.get(i) != b.get(i))
        });
        Self {
            prompt,
            equal: both.is_some() && first_difference.is_none(),
            first_difference,
            reference,
            subject,
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |device: &DeviceReport| format!("{} with {} SMs", device.name, device.sms);
        writeln!(
            f,
            "{}: {} against {}",
            self.model,
            of(&self.subject),
            of(&self.reference)
        )?;
        if !self.weights.differing.is_empty() {
            writeln!(
                f,
                "weights that differ: {}",
                self.weights.differing.join(", ")
            )?;
        }
        writeln!(
            f,
            "launches     elements  differ  faults  max ulp  max error  must agree  kernel"
        )?;
        for kernel in &self.kernels {
            let must = match &kernel.agreement {
                Agreement::Exact => "bit for bit".to_owned(),
                Agreement::Within { relative, .. } => format!("to {relative:.1e}"),
            };
            writeln!(
                f,
                "{:>8} {:>12} {:>7} {:>7} {:>8} {:>10.1e}  {must:11} {}",
                kernel.launches,
                kernel.elements,
                kernel.mismatches,
                kernel.outside,
                kernel.max_ulp,
                kernel.max_error,
                kernel.kernel
            )?;
        }
        for kernel in &self.kernels {
            if let Some(first) = &kernel.first {
                writeln!(f, "{}: {first}", kernel.kernel)?;
            }
        }
        for failure in &self.failures {
            writeln!(f, "{}: {}", failure.case, failure.error)?;
        }
        if let Some(repeat) = &self.repeat {
            write!(
                f,
                "{} steps repeated {} times: ",
                repeat.steps, repeat.repeats
            )?;
            if repeat.differing.is_empty() {
                writeln!(f, "one result, sha256 {}", repeat.hash)?;
            } else {
                writeln!(f, "{} results changed", repeat.differing.len())?;
                for (entry, step, n) in &repeat.differing {
                    writeln!(f, "  {entry}: {step}, repetition {n}")?;
                }
            }
        }
        if let Some(tokens) = &self.tokens {
            writeln!(f, "{tokens}")?;
        }
        for case in &self.skipped {
            writeln!(f, "not run: {case}")?;
        }
        let untested: Vec<&str> = self
            .untested()
            .map(|kernel| kernel.kernel.as_str())
            .collect();
        if !untested.is_empty() {
            writeln!(f, "never launched: {}", untested.join(", "))?;
        }
        let verdict = match (self.passed, self.complete) {
            (false, _) => "FAILED",
            (true, false) => "passed, incomplete",
            (true, true) => "passed",
        };
        writeln!(
            f,
            "{verdict}: {} cases, {} elements, {:.1} s",
            self.cases.len(),
            self.elements(),
            self.seconds
        )
    }
}

impl fmt::Display for FirstMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = &self.element;
        write!(
            f,
            "first {} in step {} `{}` of {}, seed {}, `{}`{:?}: {} ({}), the reference has {} ({})",
            if element.outside {
                "fault"
            } else {
                "difference"
            },
            self.index_of_step,
            self.step,
            Case(&self.entry, &self.dims),
            self.seed,
            self.operand,
            element.index,
            element.found,
            element.found_bits,
            element.reference,
            element.reference_bits
        )
    }
}

impl fmt::Display for TokensReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.reference, &self.subject, self.first_difference) {
            (Err(err), _, _) => write!(f, "tokens: the reference failed: {err}"),
            (_, Err(err), _) => write!(f, "tokens: {err}"),
            (Ok(tokens), _, None) => write!(f, "tokens: {} equal ones", tokens.len()),
            (Ok(a), Ok(b), Some(n)) => write!(
                f,
                "tokens: token {n} is {:?}, the reference has {:?}",
                b.get(n),
                a.get(n)
            ),
        }
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, seed {}", Case(&self.entry, &self.dims), self.seed)
    }
}

/// `prefill(C=65, R=1, T=65)`.
struct Case<'a>(&'a str, &'a DimValues);

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.1.iter().map(|(n, v)| format!("{n}={v}")).collect();
        write!(f, "{}({})", self.0, dims.join(", "))
    }
}
