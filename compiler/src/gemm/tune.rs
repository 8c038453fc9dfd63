//! The tuning database, filled: a bundle of candidates to measure, and entries from what was measured.
//!
//! In: problems. Out: a bundle with an entry of one launch for each of the best candidates of each problem, named
//! `<problem>.<place>`. Then, in: the report of a benchmark of that bundle on a GPU. Out: the database with the
//! fastest tile of each problem. Holds: predictions never become entries.

use mcc_bundle::{Bundle, TokenizerInfo};
use mcc_codegen::Codegen;
use mcc_ir::kernel::{GemmForm, OperandSpec};
use mcc_ir::program::{
    Buffer, BufferId, BufferKind, Entry, Kernel, KernelId, Port, Program, Step, View,
};
use mcc_ir::types::{Dim, Type};
use mcc_passes::heuristics::gemm::calibrate::Measurement;
use mcc_passes::heuristics::gemm::{Database, GemmProblem, choose};
use mcc_passes::target::Target;
use mcc_runtime::bench::Report;

use super::predict::{nanoseconds, tile_of};
use super::problems::Named;
use crate::error::Error;
use crate::pack::pack;
use crate::ptxas::Ptxas;
use crate::source::Source;
use crate::stages::Built;

/// What of a database a report changed.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Problems that have a measured winner, with its place among the candidates of the model and its time.
    pub winners: Vec<(String, usize, u64)>,
    /// Entries of the report whose kernel this compiler does not know.
    pub unknown: Vec<String>,
    /// All times, to fit the model to.
    pub measured: Vec<Measurement>,
}

/// The bundle to measure: the best `candidates` tiles of each problem.
///
/// # Errors
/// When a kernel does not compile.
pub fn bundle(
    problems: &[Named],
    target: &Target,
    candidates: usize,
    cubins: bool,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Bundle, Error> {
    let program = program(problems, target, candidates)?;
    let codegen = Codegen::new();
    let mut kernels = Vec::new();
    for (done, kernel) in program.kernels.iter().enumerate() {
        progress(&kernel.name, done, program.kernels.len());
        kernels.push(codegen.compile(kernel)?);
    }
    let assembled = match Ptxas::find().filter(|_| cubins) {
        Some(ptxas) => ptxas.assemble(&kernels, &target.arch)?,
        None => kernels.iter().map(|_| None).collect(),
    };
    let source = Source {
        module: mcc_ir::Module::default(),
        tokenizer: None,
        special: TokenizerInfo::default(),
        warnings: Vec::new(),
        checkpoint: None,
    };
    let built = Built {
        target: target.clone(),
        graph: mcc_ir::Module::default(),
        report: None,
        program: Some(program),
        kernels,
        assembled,
        times: Vec::new(),
    };
    pack(&source, &built)
}

/// One entry a candidate; the candidates of a problem share their operands.
fn program(problems: &[Named], target: &Target, candidates: usize) -> Result<Program, Error> {
    let mut program = Program {
        model: "tune".into(),
        target: target.name.clone(),
        dims: Vec::new(),
        buffers: Vec::new(),
        mesh: None,
        arena_bytes: 0,
        params: Vec::new(),
        kernels: Vec::new(),
        entries: Vec::new(),
    };
    for named in problems {
        let choice = choose(named.problem, target);
        let mut operands: Option<(Vec<Port>, Vec<Port>, Vec<View>)> = None;
        for (place, candidate) in choice.candidates.iter().take(candidates).enumerate() {
            let config = named.problem.config(candidate.tile).ok_or_else(|| {
                Error::Usage(format!("{}: an extent is 2^32 or more", named.name))
            })?;
            // Operands do not depend on the tile.
            let (inputs, outputs, views) = operands
                .get_or_insert_with(|| ports(&mut program.buffers, named, &config.operand_specs()))
                .clone();
            let kernel = KernelId(index(program.kernels.len()));
            let name = config.name();
            let known = program.kernels.iter().position(|k| k.name == name);
            let kernel = known.map_or(kernel, |at| KernelId(index(at)));
            if known.is_none() {
                program.kernels.push(Kernel {
                    name: name.clone(),
                    config,
                });
            }
            program.entries.push(Entry {
                name: format!("{}.{place}", named.name),
                inputs,
                outputs,
                steps: vec![Step {
                    kernel,
                    label: name,
                    operands: views,
                }],
            });
        }
    }
    program
        .verify()
        .map_err(|e| Error::Manifest(e.to_string()))?;
    Ok(program)
}

fn index(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Buffers, ports and views of a problem's operands.
fn ports(
    buffers: &mut Vec<Buffer>,
    named: &Named,
    specs: &[OperandSpec],
) -> (Vec<Port>, Vec<Port>, Vec<View>) {
    let (mut inputs, mut outputs, mut views) = (Vec::new(), Vec::new(), Vec::new());
    for spec in specs {
        let (shape, strides) = layout(&named.problem, spec);
        let last: u64 = shape
            .iter()
            .zip(&strides)
            .map(|(n, s)| n.saturating_sub(1) * s)
            .sum();
        let element = spec.decl.dtype.bytes();
        let elements = last + 1;
        let buffer = BufferId(index(buffers.len()));
        let name = format!("{}_{}", named.name, spec.decl.name);
        let port = Port {
            name: name.clone(),
            ty: Type::new(spec.decl.dtype, [elements]),
            buffer,
        };
        let kind = if spec.decl.written {
            outputs.push(port);
            BufferKind::Output
        } else {
            inputs.push(port);
            BufferKind::Input
        };
        buffers.push(Buffer {
            name,
            kind,
            bytes: (elements * element).next_multiple_of(256),
        });
        views.push(View {
            buffer,
            offset: 0,
            dtype: spec.decl.dtype,
            shape: shape.into_iter().map(Dim::Const).collect(),
            strides,
        });
    }
    (inputs, outputs, views)
}

/// Extents and strides of an operand without more gaps than its kernel asks for.
fn layout(problem: &GemmProblem, spec: &OperandSpec) -> (Vec<u64>, Vec<u64>) {
    let value = |name: &str| match (name, problem.form) {
        ("M", GemmForm::Masked { groups }) => problem.rows.div_ceil(u64::from(groups).max(1)),
        ("M", _) => problem.rows,
        ("KB", _) => problem.k.div_ceil(128),
        _ => problem.k,
    };
    let shape = spec.extents_with(value);
    let strides = spec.tight_strides(&shape);
    (shape, strides)
}

/// Enters the fastest measured tile of each problem.
#[must_use]
pub fn record(
    database: &mut Database,
    problems: &[Named],
    report: &Report,
    target: &Target,
    source: &str,
) -> Changes {
    let mut changes = Changes::default();
    for named in problems {
        let mut best: Option<(usize, Measurement)> = None;
        for entry in &report.entries {
            let place = entry
                .entry
                .strip_prefix(&named.name)
                .and_then(|rest| rest.strip_prefix('.'))
                .and_then(|place| place.parse::<usize>().ok());
            let (Some(place), [step]) = (place, &entry.steps[..]) else {
                continue;
            };
            let Some(tile) = tile_of(&named.problem, &step.kernel, target) else {
                changes.unknown.push(entry.entry.clone());
                continue;
            };
            let measured = Measurement {
                problem: named.problem,
                tile,
                ns: nanoseconds(step.cold.seconds),
            };
            changes.measured.push(measured);
            if best.is_none_or(|(_, b)| measured.ns < b.ns) {
                best = Some((place, measured));
            }
        }
        if let Some((place, m)) = best {
            database.record(&named.problem, m.tile, m.ns, source);
            changes.winners.push((named.name.clone(), place, m.ns));
        }
    }
    changes
}
