//! From graph to program: kernel selection, then the memory plan, then assembly.
//!
//! In: an optimised, verified [`Module`], the target and hints. Out: a [`Program`] that [`Program::verify`]
//! accepts, with the reports that explain it. Each stage checks what it made before the next one starts.

use std::collections::BTreeMap;

use mcc_ir::Module;
use mcc_ir::program::{Buffer, BufferId, BufferKind, Entry, Program};

use crate::error::PassError;
use crate::memory::{self, Lifetime, Plan};
use crate::select::{self, Choice, Draft, Options, Selection, Storage};
use crate::target::Target;

/// A program and why it looks as it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// What codegen and the runtime take.
    pub program: Program,
    /// Where temporaries live, and how far the arena is from the lower bound.
    pub memory: Plan,
    /// The heuristics' tables.
    pub choices: Vec<Choice>,
}

/// Lowers a module to a program.
///
/// # Errors
/// [`PassError::Unsupported`], [`PassError::TooLarge`] and [`PassError::Mesh`] are about the module; the others are bugs.
pub fn lower(module: &Module, target: &Target, options: &Options) -> Result<Program, PassError> {
    Ok(lower_explained(module, target, options)?.program)
}

/// Lowers a module and keeps the reports.
///
/// # Errors
/// As [`lower`].
pub fn lower_explained(
    module: &Module,
    target: &Target,
    options: &Options,
) -> Result<Lowered, PassError> {
    let selection = select::select(module, target, options)?;
    let lifetimes: Vec<(String, Vec<Lifetime>)> = selection
        .entries
        .iter()
        .map(|entry| (entry.name.clone(), lifetimes(entry, &selection)))
        .collect();
    let memory = memory::plan(&lifetimes)?;

    let Selection {
        buffers,
        params,
        kernels,
        entries,
        choices,
    } = selection;
    let program = Program {
        model: module.name.to_string(),
        target: target.name.clone(),
        mesh: module.mesh,
        dims: module.dims.clone(),
        buffers: buffers
            .into_iter()
            .zip(0..)
            .map(|(draft, id)| buffer(draft, BufferId(id), &memory))
            .collect(),
        arena_bytes: memory.arena_bytes,
        params,
        kernels,
        entries,
    };
    program.verify()?;
    fits(&program, target)?;
    Ok(Lowered {
        program,
        memory,
        choices,
    })
}

/// Refuses the program of one of several ranks that needs more memory than the target has. What comes from other ranks
/// has room for the most that can come, which grows with their number; nothing else about a mesh is as easily too much.
fn fits(program: &Program, target: &Target) -> Result<(), PassError> {
    let Some(mesh) = program.mesh.filter(|mesh| mesh.ranks() > 1) else {
        return Ok(());
    };
    let of = |kinds: &dyn Fn(BufferKind) -> bool| {
        let buffers = program.buffers.iter().filter(|buffer| kinds(buffer.kind));
        buffers.fold(0_u64, |sum, buffer| sum.saturating_add(buffer.bytes))
    };
    let weights = of(&|kind| kind == BufferKind::Weight);
    let exchange = of(&|kind| kind == BufferKind::Exchange);
    let states = of(&|kind| kind == BufferKind::State);
    let all = [weights, exchange, states, program.arena_bytes];
    let needed = all.into_iter().fold(0, u64::saturating_add);
    if needed <= target.hbm_bytes {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(PassError::Mesh {
        mesh,
        why: format!(
            "a rank needs {:.1} GiB, and `{}` has {:.1}: weights {:.1}, temporaries {:.1}, exchange {:.1}, caches {:.1}",
            gib(needed),
            target.name,
            gib(target.hbm_bytes),
            gib(weights),
            gib(program.arena_bytes),
            gib(exchange),
            gib(states)
        ),
        how: "lower the tokens of a step or the context, or the capacity for rows that come".into(),
    })
}

/// Lifetimes of an entry's temporaries: from the first launch that names one to the last.
fn lifetimes(entry: &Entry, selection: &Selection) -> Vec<Lifetime> {
    let mut lifetimes: BTreeMap<BufferId, Lifetime> = BTreeMap::new();
    for (index, step) in entry.steps.iter().enumerate() {
        for view in &step.operands {
            let Some(draft) = selection.buffers.get(view.buffer.0 as usize) else {
                continue;
            };
            if draft.storage == Storage::Temp {
                let new = Lifetime {
                    buffer: view.buffer,
                    bytes: draft.bytes,
                    first: index,
                    last: index,
                };
                lifetimes.entry(view.buffer).or_insert(new).last = index;
            }
        }
    }
    lifetimes.into_values().collect()
}

fn buffer(draft: Draft, id: BufferId, memory: &Plan) -> Buffer {
    let kind = match draft.storage {
        Storage::Weight => BufferKind::Weight,
        Storage::State => BufferKind::State,
        Storage::Input => BufferKind::Input,
        Storage::Output => BufferKind::Output,
        Storage::Exchange => BufferKind::Exchange,
        Storage::World { ranks } => BufferKind::World { ranks },
        // A temporary that no launch names has no place; its bytes are never touched.
        Storage::Temp => BufferKind::Temp {
            offset: memory.offsets.get(&id).copied().unwrap_or(0),
        },
    };
    Buffer {
        name: draft.name,
        kind,
        bytes: draft.bytes,
    }
}
