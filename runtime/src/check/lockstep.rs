//! One step at a time on two devices.
//!
//! In: an entry, a case, a seed. Out: comparisons in the report.
//! Holds: what a case touches is filled alike before it: inputs and caches with made-up values, the rest with a
//! byte that stands for a small number in every float type and for an index that is out of every range; after each
//! step the subject's memory is made equal to the reference's again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use mcc_bundle::{
    BufferKind, DType, DimValues, Entry, Manifest, Operand, Step, View, WeightParam, sha256_hex,
};

use super::agreement::Agreement;
use super::compare::compare;
use super::report::{CaseReport, CheckReport, Failure, FirstMismatch};
use crate::device::{Launch, StreamId};
use crate::error::{DeviceError, RuntimeError};
use crate::model::Model;
use crate::synthetic;

/// As BF16 and FP32 it is 0.0115, as E4M3 1.5, as an integer a thousand million.
const UNWRITTEN: u8 = 0x3c;

/// Weights are compared so many bytes at a time.
const PIECE_BYTES: u64 = 16 << 20;

/// Both devices, and what was found so far.
pub(super) struct Lockstep<'a> {
    reference: &'a mut Model,
    subject: &'a mut Model,
    agreements: &'a [Agreement],
    report: &'a mut CheckReport,
    manifest: Rc<Manifest>,
    /// Of what the repeated steps wrote so far.
    hashes: String,
}

/// Which step of which case.
struct Place<'d> {
    entry: usize,
    step: usize,
    dims: &'d DimValues,
    seed: u64,
}

/// A view that a step writes: where it lies on both devices.
struct Span<'a> {
    view: &'a View,
    operand: &'a Operand,
    reference: u64,
    subject: u64,
    bytes: u64,
}

impl<'a> Lockstep<'a> {
    pub fn new(
        reference: &'a mut Model,
        subject: &'a mut Model,
        agreements: &'a [Agreement],
        report: &'a mut CheckReport,
    ) -> Self {
        let manifest = Rc::new(reference.manifest().clone());
        Self {
            reference,
            subject,
            agreements,
            report,
            manifest,
            hashes: String::new(),
        }
    }

    /// Compares all weight buffers; whether both devices can still be used.
    pub fn weights(&mut self) -> bool {
        let mut differing = Vec::new();
        let mut compared = 0;
        let mut all = || -> Result<(), RuntimeError> {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for param in &self.manifest.params {
                for (index, bytes) in parts(param) {
                    let mut equal = true;
                    for at in (0..bytes).step_by(PIECE_BYTES as usize) {
                        let len = (bytes - at).min(PIECE_BYTES) as usize;
                        a.resize(len, 0);
                        b.resize(len, 0);
                        let (from, to) = (
                            self.reference.addresses[index],
                            self.subject.addresses[index],
                        );
                        self.reference.device.read(from + at, &mut a)?;
                        self.subject.device.read(to + at, &mut b)?;
                        equal &= a == b;
                        compared += len as u64;
                    }
                    if !equal {
                        differing.push(param.name.clone());
                    }
                }
            }
            Ok(())
        };
        let result = all();
        self.report.weights.bytes = compared;
        self.report.weights.differing = differing;
        if let Err(err) = &result {
            self.report.failures.push(Failure {
                case: CaseReport {
                    entry: "weights".to_owned(),
                    dims: DimValues::new(),
                    seed: 0,
                },
                error: err.to_string(),
            });
        }
        result.is_ok()
    }

    /// Notes a case that does not run.
    pub fn skip(&mut self, entry: &Entry, dims: &DimValues, seed: u64) {
        self.report.skipped.push(case_report(entry, dims, seed));
    }

    /// Runs a case; whether both devices can still be used.
    pub fn case(&mut self, entry: usize, dims: &DimValues, seed: u64, repeats: usize) -> bool {
        let case = case_report(&self.manifest.entries[entry], dims, seed);
        match self.run(entry, dims, seed, repeats) {
            Ok(()) => {
                self.report.cases.push(case);
                true
            }
            Err(err) => {
                let error = err.to_string();
                self.report.failures.push(Failure { case, error });
                // A lost device says so again.
                [&mut *self.reference, &mut *self.subject]
                    .into_iter()
                    .all(|model| model.device.synchronize().is_ok())
            }
        }
    }

    fn run(
        &mut self,
        index: usize,
        dims: &DimValues,
        seed: u64,
        repeats: usize,
    ) -> Result<(), RuntimeError> {
        let manifest = Rc::clone(&self.manifest);
        let entry = &manifest.entries[index];
        let inputs = synthetic::inputs(&manifest, entry, dims, seed).unwrap_or_default();
        let inputs: Vec<(&str, &[u8])> = inputs
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .collect();
        for model in [&mut *self.reference, &mut *self.subject] {
            model.check_dims(dims)?;
            model.commit_states(index, dims)?;
            model.prefill_memory(index, dims, seed)?;
            model.write_inputs(index, dims, &inputs)?;
        }
        for (nth, step) in entry.steps.iter().enumerate() {
            // The one that may run by itself first.
            let launched = self.subject.launch_step(index, nth, dims)?;
            self.reference.launch_step(index, nth, dims)?;
            self.subject.finish_step(entry, step)?;
            self.reference.finish_step(entry, step)?;
            if launched {
                let place = Place {
                    entry: index,
                    step: nth,
                    dims,
                    seed,
                };
                self.compare_step(&place, repeats)?;
            }
        }
        self.compare_rest(index, dims, seed)
    }

    /// Compares what a step wrote, after repeating it on the subject, and makes both devices equal again.
    fn compare_step(&mut self, place: &Place<'_>, repeats: usize) -> Result<(), RuntimeError> {
        let manifest = Rc::clone(&self.manifest);
        let entry = &manifest.entries[place.entry];
        let step = &entry.steps[place.step];
        let spans = self.written(&manifest, place);
        let mut found = Vec::with_capacity(spans.len());
        for span in &spans {
            found.push(read(self.subject, span.subject, span.bytes)?);
        }
        if repeats > 0 {
            self.repeat(place, &spans, &found, repeats)?;
        }
        let kernel = step.kernel.0 as usize;
        self.report.kernels[kernel].launches += 1;
        for (span, found) in spans.iter().zip(&found) {
            let reference = read(self.reference, span.reference, span.bytes)?;
            let extents = span.view.shape.iter().map(|dim| dim.resolve(place.dims));
            let extents = extents.collect::<Option<Vec<u64>>>().unwrap_or_default();
            let agreement = &self.agreements[kernel];
            let comparison = compare(span.view, &extents, &reference, found, agreement);
            self.report.kernels[kernel].add(comparison, |element| FirstMismatch {
                entry: entry.name.clone(),
                index_of_step: place.step,
                step: step.label.clone(),
                operand: span.operand.name.clone(),
                dims: place.dims.clone(),
                seed: place.seed,
                element,
            });
            if reference != *found || repeats > 0 {
                self.subject.device.write(span.subject, &reference)?;
            }
        }
        Ok(())
    }

    /// Runs a step again and again: nothing that it reads has changed, so that nothing that it writes may.
    fn repeat(
        &mut self,
        place: &Place<'_>,
        spans: &[Span<'_>],
        first: &[Vec<u8>],
        repeats: usize,
    ) -> Result<(), RuntimeError> {
        let manifest = Rc::clone(&self.manifest);
        let entry = &manifest.entries[place.entry];
        let step = &entry.steps[place.step];
        let mut changed = None;
        for n in 1..=repeats {
            self.subject
                .launch_step(place.entry, place.step, place.dims)?;
            self.subject.finish_step(entry, step)?;
            for (span, first) in spans.iter().zip(first) {
                let again = read(self.subject, span.subject, span.bytes)?;
                if again != *first && changed.is_none() {
                    changed = Some(n);
                }
            }
        }
        for bytes in first {
            self.hashes.push_str(&sha256_hex(bytes));
        }
        let report = self.report.repeat.get_or_insert_default();
        report.repeats = repeats;
        report.steps += 1;
        report.hash = sha256_hex(self.hashes.as_bytes());
        if let Some(n) = changed {
            report
                .differing
                .push((entry.name.clone(), step.label.clone(), n));
        }
        Ok(())
    }

    /// After all steps every byte of the case is compared once more: what differs now was written by a kernel that
    /// does not own it.
    fn compare_rest(
        &mut self,
        index: usize,
        dims: &DimValues,
        seed: u64,
    ) -> Result<(), RuntimeError> {
        let manifest = Rc::clone(&self.manifest);
        let (ours, theirs) = (
            self.reference.touched(index, dims),
            self.subject.touched(index, dims),
        );
        for ((id, ours), (_, theirs)) in ours.into_iter().zip(theirs) {
            let reference = read(self.reference, ours.start, ours.end - ours.start)?;
            let found = read(self.subject, theirs.start, theirs.end - theirs.start)?;
            let mut pairs = reference.iter().zip(&found);
            if let Some(at) = pairs.position(|(a, b)| a != b) {
                let entry = &manifest.entries[index];
                self.report.failures.push(Failure {
                    case: case_report(entry, dims, seed),
                    error: format!(
                        "byte {at} of buffer `{}` differs after the last step, and no step owns it",
                        manifest.buffers[id].name
                    ),
                });
            }
        }
        Ok(())
    }

    /// The views that a step writes.
    fn written<'m>(&self, manifest: &'m Manifest, place: &Place<'_>) -> Vec<Span<'m>> {
        let step = &manifest.entries[place.entry].steps[place.step];
        let operands = &manifest.kernels[step.kernel.0 as usize].operands;
        let ours = self.reference.entries[place.entry].steps[place.step].addresses();
        let theirs = self.subject.entries[place.entry].steps[place.step].addresses();
        let spans = step
            .operands
            .iter()
            .zip(operands)
            .zip(ours.iter().zip(theirs));
        spans
            .filter(|((_, operand), _)| operand.written)
            .map(|((view, operand), (reference, subject))| Span {
                view,
                operand,
                reference: *reference,
                subject: *subject,
                bytes: view.end(place.dims).map_or(0, |end| end - view.offset),
            })
            .collect()
    }
}

/// Buffers of a parameter with the bytes of its values. Buffers are longer, and what is behind the values is not
/// defined.
fn parts(param: &WeightParam) -> impl Iterator<Item = (usize, u64)> {
    let none = DimValues::new();
    let scales = param.ty.scale_extents(&none).unwrap_or_default();
    // Validation has bounded both by their buffers.
    let values = (param.data, param.ty.bytes(&none).unwrap_or(0));
    let scales = param
        .scales
        .map(|id| (id, scales.iter().product::<u64>() * DType::F32.bytes()));
    let parts = [Some(values), scales].into_iter().flatten();
    parts.map(|(id, bytes)| (id.0 as usize, bytes))
}

fn case_report(entry: &Entry, dims: &DimValues, seed: u64) -> CaseReport {
    CaseReport {
        entry: entry.name.clone(),
        dims: dims.clone(),
        seed,
    }
}

fn read(model: &mut Model, address: u64, bytes: u64) -> Result<Vec<u8>, RuntimeError> {
    // Views lie in buffers, which the device has allocated.
    let mut data = vec![0; bytes as usize];
    model.device.read(address, &mut data)?;
    Ok(data)
}

impl Model {
    /// Address ranges that the steps of an entry touch in buffers other than weights and inputs, by buffer.
    fn touched(&self, entry: usize, dims: &DimValues) -> BTreeMap<usize, Range<u64>> {
        let mut touched = BTreeMap::new();
        let steps = &self.manifest.entries[entry].steps;
        for (step, prepared) in steps.iter().zip(&self.entries[entry].steps) {
            for (view, &address) in step.operands.iter().zip(prepared.addresses()) {
                let index = view.buffer.0 as usize;
                let kind = self.manifest.buffers[index].kind;
                // Ranks' counters and addresses are their own.
                let kept = matches!(
                    kind,
                    BufferKind::Weight
                        | BufferKind::Input
                        | BufferKind::Exchange
                        | BufferKind::World { .. }
                );
                if kept {
                    continue;
                }
                let start = address - view.offset;
                let end = start + view.end(dims).unwrap_or(0);
                let range: &mut Range<u64> = touched.entry(index).or_insert(start..start);
                range.end = range.end.max(end);
            }
        }
        touched
    }

    /// Gives caches made-up content, as if tokens had been there before, and everything else that an entry touches
    /// the same bytes on every device.
    fn prefill_memory(
        &mut self,
        entry: usize,
        dims: &DimValues,
        seed: u64,
    ) -> Result<(), RuntimeError> {
        for (index, range) in self.touched(entry, dims) {
            let buffer = &self.manifest.buffers[index];
            let bytes = range.end - range.start;
            let mut views = self.entries[entry].states.iter();
            let state = views.find(|view| view.buffer.0 as usize == index);
            match state {
                Some(view) => {
                    let content = synthetic::state_bytes(view.dtype, &buffer.name, bytes, seed);
                    self.device.write(range.start, &content)?;
                }
                None => self.device.fill(range.start, UNWRITTEN, bytes)?,
            }
        }
        Ok(())
    }

    /// Begins a step; whether there was anything to launch.
    fn launch_step(
        &mut self,
        entry: usize,
        step: usize,
        dims: &DimValues,
    ) -> Result<bool, RuntimeError> {
        let (manifest, spec) = (&self.manifest, &self.manifest.entries[entry]);
        let prepared = &mut self.entries[entry].steps[step];
        let step = &spec.steps[step];
        prepared
            .prepare(manifest, step, dims, self.device.as_ref())
            .map_err(|err| err.of(manifest, spec, step))?;
        let Some((dims, params)) = prepared.launch() else {
            return Ok(false);
        };
        let launch = Launch {
            function: self.functions[step.kernel.0 as usize],
            dims,
            params,
            label: &step.label,
        };
        self.device
            .launch(StreamId::MAIN, &launch)
            .map_err(|source| failed(spec, step, source))?;
        Ok(true)
    }

    /// Waits for a step.
    fn finish_step(&mut self, entry: &Entry, step: &Step) -> Result<(), RuntimeError> {
        self.device
            .synchronize()
            .and_then(|()| self.device.take_timings())
            .map(drop)
            .map_err(|source| failed(entry, step, source))
    }
}

fn failed(entry: &Entry, step: &Step, source: DeviceError) -> RuntimeError {
    RuntimeError::Step {
        entry: entry.name.clone(),
        step: step.label.clone(),
        source,
    }
}
