//! The reference evaluator: what a graph means, in numbers.
//!
//! In: a verified [`Module`], the name of an entry, its inputs, parameters and states. Out: the
//! entry's outputs, with states updated in place. [`eval_op`] gives the meaning of a single op;
//! conformance tests hold every kernel against it.
//!
//! It is written to be read, not to be fast; sums are exact where a definition exists (see `dense`,
//! `numerics`). Fused ops have no meaning of their own here: they run through their expansion into
//! plain ops.

mod attention;
mod dense;
mod error;
mod exchange;
mod layout;
mod materialize;
mod ops;
mod product;
mod random;
mod ranks;
mod routing;
mod tensor;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

pub use error::EvalError;
pub use materialize::{MaterializeError, materialize, materialize_on_rank};
pub use ops::{eval_op, eval_op_on_ranks};
pub use random::Rng;
pub use ranks::{Rank, run_ranks};
pub use tensor::{Data, Scaled, Tensor, TensorError, scale_shape};

use crate::graph::{Graph, ValueId};
use crate::module::Module;
use crate::op::Op;
use crate::types::{Dim, Name, Type};

/// Tensors by name.
pub type Values = BTreeMap<Name, Tensor>;
/// Extents of named dims.
pub type Dims = BTreeMap<Name, u64>;

/// One step of an entry; see [`run`].
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The model.
    pub module: &'a Module,
    /// Name of the entry.
    pub entry: &'a str,
    /// Extents of named dims; those that an input's shape gives may be left out.
    pub dims: &'a Dims,
    /// Every input of the entry.
    pub inputs: &'a Values,
    /// At least the parameters that the entry reads.
    pub params: &'a Values,
}

/// Zeroed states of their largest extents.
pub fn new_states(module: &Module) -> Values {
    let largest = |name: &str| module.dim(name).map(|d| d.max);
    module
        .states
        .iter()
        .filter_map(|s| {
            let shape: Option<Vec<usize>> =
                s.ty.shape
                    .iter()
                    .map(|d| d.resolve(largest).map(|n| n as usize))
                    .collect();
            Some((
                s.name.clone(),
                Tensor::zeros(s.ty.dtype, &shape?, s.ty.scale),
            ))
        })
        .collect()
}

/// Runs an entry once.
///
/// A state tensor may be larger than the step needs along its first axis when that is a named dim:
/// the step reads and writes its leading rows, as a kernel does in a buffer of maximal size. On an
/// error no state has changed.
pub fn run(step: Step<'_>, states: &mut Values) -> Result<Values, EvalError> {
    run_with(step, states, &mut |_, _, _| {})
}

/// Is shown an op, its operands and its results, and may change the results before others read them.
pub type After<'a> = dyn FnMut(&Op, &[&Tensor], &mut [Tensor]) + 'a;

/// [`run`] with a look at each op behind it. A fused op is one op here; [`Graph::in_plain_ops`] has the ops that it
/// stands for.
///
/// # Errors
/// As [`run`]; and where `after` left results whose types are not the op's.
pub fn run_with(
    step: Step<'_>,
    states: &mut Values,
    after: &mut After<'_>,
) -> Result<Values, EvalError> {
    let mut ranks = [Rank {
        dims: step.dims,
        inputs: step.inputs,
        params: step.params,
        states,
    }];
    let outputs = ranks::run_ranks_with(step.module, step.entry, &mut ranks, after)?;
    Ok(outputs.into_iter().next().unwrap_or_default())
}

/// Values of named dims: those given, and those that follow from the shapes of inputs.
fn bind_dims(step: &Step<'_>, graph: &Graph) -> Result<Dims, EvalError> {
    let mut dims = step.dims.clone();
    if let Some(name) = dims.keys().find(|name| step.module.dim(name).is_none()) {
        return Err(EvalError::Unknown {
            kind: "dim",
            name: name.clone(),
        });
    }
    for (input, value) in graph.inputs() {
        let ty = graph.ty(value);
        let tensor = find("input", input, step.inputs)?;
        for (dim, &extent) in ty.shape.iter().zip(tensor.shape()) {
            let Dim::Sym { factor, name } = dim else {
                continue;
            };
            let extent = extent as u64;
            let value = *dims.entry(name.clone()).or_insert(extent / factor);
            if value * factor != extent {
                let expected = format!("{value} as elsewhere");
                return Err(EvalError::Dim {
                    name: name.clone(),
                    got: extent / factor,
                    expected,
                });
            }
        }
    }
    for decl in &step.module.dims {
        if let Some(&got) = dims
            .get(&decl.name)
            .filter(|v| !(decl.min..=decl.max).contains(v))
        {
            let expected = format!("{}..={}", decl.min, decl.max);
            return Err(EvalError::Dim {
                name: decl.name.clone(),
                got,
                expected,
            });
        }
    }
    Ok(dims)
}

/// The part of every state that the step sees.
fn current_states(step: &Step<'_>, states: &Values, dims: &Dims) -> Result<Values, EvalError> {
    let mut current = Values::new();
    for state in &step.module.states {
        // A state whose dims this entry leaves open is one that it does not read.
        let Ok(shape) = resolve(&state.ty.shape, dims) else {
            continue;
        };
        let whole = find("state", &state.name, states)?;
        let grows = matches!(state.ty.shape.first(), Some(Dim::Sym { .. }));
        let view = if grows {
            shape.first().and_then(|&n| whole.rows(0, n))
        } else {
            Some(whole.clone())
        };
        let view = view.unwrap_or_else(|| whole.clone());
        expect_type("state", &state.name, &state.ty, &view, dims)?;
        current.insert(state.name.clone(), view);
    }
    Ok(current)
}

/// `new` in place of the first rows of `old`.
fn with_leading_rows(old: &Tensor, new: Tensor) -> Result<Tensor, EvalError> {
    let (have, rows) = (old.shape()[0], new.shape()[0]);
    if have == rows {
        return Ok(new);
    }
    old.rows(rows, have - rows)
        .and_then(|rest| layout::concat(&[&new, &rest], 0))
        .ok_or_else(|| {
            EvalError::operands(
                "update",
                format!("cannot write {} into {}", new.ty(), old.ty()),
            )
        })
}

fn find<'a>(kind: &'static str, name: &Name, values: &'a Values) -> Result<&'a Tensor, EvalError> {
    values.get(name).ok_or_else(|| EvalError::Missing {
        kind,
        name: name.clone(),
    })
}

fn resolve(shape: &[Dim], dims: &Dims) -> Result<Vec<usize>, EvalError> {
    let one = |dim: &Dim| {
        let unknown = || match dim {
            Dim::Sym { name, .. } => EvalError::Missing {
                kind: "dim",
                name: name.clone(),
            },
            Dim::Const(n) => EvalError::Dim {
                name: "".into(),
                got: *n,
                expected: "an extent that fits".into(),
            },
        };
        dim.resolve(|name| dims.get(name).copied())
            .map(|n| n as usize)
            .ok_or_else(unknown)
    };
    shape.iter().map(one).collect()
}

fn expect_type(
    kind: &'static str,
    name: &Name,
    ty: &Type,
    tensor: &Tensor,
    dims: &Dims,
) -> Result<(), EvalError> {
    let got = tensor.ty();
    let shape: Vec<u64> = resolve(&ty.shape, dims)?
        .into_iter()
        .map(|n| n as u64)
        .collect();
    let want = Type {
        shape: shape.into_iter().map(Dim::Const).collect(),
        ..ty.clone()
    };
    if got == want {
        return Ok(());
    }
    Err(EvalError::WrongType {
        kind,
        name: name.clone(),
        expected: want.to_string(),
        got: got.to_string(),
    })
}

/// The tensors of named values, copied out.
fn named(
    list: &[(Name, ValueId)],
    values: &HashMap<ValueId, Cow<'_, Tensor>>,
) -> Vec<(Name, Tensor)> {
    list.iter()
        .filter_map(|(name, id)| Some((name.clone(), values.get(id)?.clone().into_owned())))
        .collect()
}

/// The value of an input, a parameter or a state.
type Leaf<'a> = Result<Cow<'a, Tensor>, EvalError>;

/// Every value of a graph on each rank, op by op; `leaf` gives a rank's inputs, parameters and states, `after` is shown
/// each op.
fn eval_graph<'a>(
    graph: &Graph,
    dims: &[&Dims],
    leaf: &dyn Fn(usize, &Op) -> Leaf<'a>,
    after: &mut After<'_>,
) -> Result<Vec<HashMap<ValueId, Cow<'a, Tensor>>>, EvalError> {
    let mut ranks: Vec<HashMap<ValueId, Cow<'a, Tensor>>> = vec![HashMap::new(); dims.len()];
    for node in graph.topo() {
        let op = graph.op(node);
        if op.is_leaf() {
            for (rank, values) in ranks.iter_mut().enumerate() {
                values.insert(ValueId { node, result: 0 }, leaf(rank, op)?);
            }
            continue;
        }
        let operands = graph.operands(node);
        let tensors: Vec<Vec<&Tensor>> = ranks
            .iter()
            .map(|values| operands.iter().filter_map(|v| values.get(v)))
            .map(|tensors| tensors.map(AsRef::as_ref).collect())
            .collect();
        let mut results = eval_op_on_ranks(op, &tensors, dims)?;
        for (operands, results) in tensors.iter().zip(&mut results) {
            after(op, operands, results);
        }
        for (values, results) in ranks.iter_mut().zip(results) {
            values.extend(graph.results(node).zip(results.into_iter().map(Cow::Owned)));
        }
    }
    Ok(ranks)
}

#[cfg(test)]
mod tests;
