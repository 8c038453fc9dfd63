//! One step of an entry on all ranks of an expert group, op by op.
//!
//! In: one module, and for each rank the inputs, parameters, states and extents that are its own. Out: the outputs of
//! each rank. Every op is evaluated on all ranks before the next one, so that a dispatch sees what every rank sends.

use std::borrow::Cow;

use super::error::EvalError;
use super::tensor::Tensor;
use super::{
    After, Dims, Step, Values, bind_dims, current_states, eval_graph, expect_type, find, named,
    with_leading_rows,
};
use crate::graph::Graph;
use crate::module::Module;
use crate::op::Op;

/// What is a rank's own; see [`run_ranks`].
#[derive(Debug)]
pub struct Rank<'a> {
    /// Extents of named dims; those that an input's shape gives may be left out.
    pub dims: &'a Dims,
    /// Every input of the entry.
    pub inputs: &'a Values,
    /// At least the parameters that the entry reads.
    pub params: &'a Values,
    /// Every state that the entry reads or writes; updated in place.
    pub states: &'a mut Values,
}

/// Runs an entry once on all ranks of an expert group, numbered as they come; [`super::run`] on one rank says what a
/// step is.
///
/// # Errors
/// The first thing that is wrong; with more than one rank it names the rank. No state has changed then.
pub fn run_ranks(
    module: &Module,
    entry: &str,
    ranks: &mut [Rank<'_>],
) -> Result<Vec<Values>, EvalError> {
    run_ranks_with(module, entry, ranks, &mut |_, _, _| {})
}

/// [`run_ranks`]; `after` is shown each op of each rank.
pub(super) fn run_ranks_with(
    module: &Module,
    entry: &str,
    ranks: &mut [Rank<'_>],
    after: &mut After<'_>,
) -> Result<Vec<Values>, EvalError> {
    let graph = module
        .entry(entry)
        .ok_or_else(|| EvalError::UnknownEntry(entry.into()))?;
    let alone = ranks.len() == 1;
    let blame = |rank: usize| move |e: EvalError| if alone { e } else { e.on_rank(rank) };

    let (mut dims, mut current) = (Vec::new(), Vec::new());
    for (number, rank) in ranks.iter().enumerate() {
        let step = rank.step(module, entry);
        let bound = rank_dims(&step, graph).map_err(blame(number))?;
        current.push(current_states(&step, rank.states, &bound).map_err(blame(number))?);
        dims.push(bound);
    }

    let leaf = |number: usize, op: &Op| -> Result<Cow<'_, Tensor>, EvalError> {
        let rank = &ranks[number];
        match op {
            Op::Input { name } => find("input", name, rank.inputs).map(Cow::Borrowed),
            Op::State { name } => find("state", name, &current[number]).map(Cow::Borrowed),
            Op::Param { name } => {
                let tensor = find("parameter", name, rank.params)?;
                if let Some(param) = module.param(name) {
                    expect_type("parameter", name, &param.ty, tensor, &dims[number])?;
                }
                Ok(Cow::Borrowed(tensor))
            }
            other => Err(EvalError::operands(other.mnemonic(), "is no leaf")),
        }
    };
    let dims_of_ranks: Vec<&Dims> = dims.iter().collect();
    let leaf = |number: usize, op: &Op| leaf(number, op).map_err(blame(number));
    let values = eval_graph(graph, &dims_of_ranks, &leaf, after)?;

    let mut outputs = Vec::with_capacity(ranks.len());
    let mut updates = Vec::with_capacity(ranks.len());
    for (number, (rank, values)) in ranks.iter().zip(&values).enumerate() {
        outputs.push(named(&graph.outputs, values).into_iter().collect());
        let new = named(&graph.updates, values)
            .into_iter()
            .map(|(name, new)| {
                let whole = with_leading_rows(find("state", &name, rank.states)?, new)?;
                Ok((name, whole))
            });
        let new = new.collect::<Result<Values, EvalError>>();
        updates.push(new.map_err(blame(number))?);
    }
    drop(values);
    for (rank, updates) in ranks.iter_mut().zip(updates) {
        rank.states.extend(updates);
    }
    Ok(outputs)
}

impl<'a> Rank<'a> {
    fn step(&self, module: &'a Module, entry: &'a str) -> Step<'a> {
        Step {
            module,
            entry,
            dims: self.dims,
            inputs: self.inputs,
            params: self.params,
        }
    }
}

/// The extents of a rank's step, whose inputs are all there and of their types.
fn rank_dims(step: &Step<'_>, graph: &Graph) -> Result<Dims, EvalError> {
    let dims = bind_dims(step, graph)?;
    for name in step.inputs.keys() {
        if !graph.inputs().any(|(n, _)| n == name) {
            return Err(EvalError::Unknown {
                kind: "input",
                name: name.clone(),
            });
        }
    }
    for (name, value) in graph.inputs() {
        let tensor = find("input", name, step.inputs)?;
        expect_type("input", name, graph.ty(value), tensor, &dims)?;
    }
    Ok(dims)
}
