//! The meaning of one op: from operand tensors to result tensors.
//!
//! Operands are checked with the op's own typing rule before any arithmetic, so that the routines
//! behind can rely on shapes; what the data itself can get wrong (an index out of range) they check
//! themselves.

use super::attention::{Attention, attention};
use super::error::EvalError;
use super::routing::{self, Gate};
use super::tensor::Tensor;
use super::{Dims, dense, eval_graph, exchange, layout, product, resolve};
use crate::graph::Graph;
use crate::op::Op;
use crate::types::{Dim, Type};

/// Evaluates one op on tensors, on one rank; `dims` gives extents for named dims in its attributes.
///
/// # Errors
/// When the op's typing rule refuses the operands, or an index in their data is out of range.
pub fn eval_op(op: &Op, operands: &[&Tensor], dims: &Dims) -> Result<Vec<Tensor>, EvalError> {
    let results = eval_op_on_ranks(op, &[operands.to_vec()], &[dims])?;
    Ok(results.into_iter().next().unwrap_or_default())
}

/// Evaluates one op on all ranks of an expert group, each with operands and extents of its own: the results of each
/// rank.
///
/// # Errors
/// As [`eval_op`], and when there are more or fewer ranks than the op goes over. With more than one rank the error
/// names the one at fault.
pub fn eval_op_on_ranks(
    op: &Op,
    operands: &[Vec<&Tensor>],
    dims: &[&Dims],
) -> Result<Vec<Vec<Tensor>>, EvalError> {
    let alone = operands.len() == 1;
    let blame = |rank: usize| move |e: EvalError| if alone { e } else { e.on_rank(rank) };
    if op.expert_group(0).is_some() {
        for (rank, operands) in operands.iter().enumerate() {
            let types: Vec<Type> = operands.iter().map(|t| t.ty()).collect();
            op.infer(&types).map_err(|e| blame(rank)(e.into()))?;
        }
        if let Some(results) = exchange::eval(op, operands)? {
            return Ok(results);
        }
    }
    let of_ranks = operands.iter().zip(dims).enumerate();
    of_ranks
        .map(|(rank, (operands, dims))| eval_alone(op, operands, dims, rank).map_err(blame(rank)))
        .collect()
}

/// An op that a rank does by itself.
fn eval_alone(
    op: &Op,
    operands: &[&Tensor],
    dims: &Dims,
    rank: usize,
) -> Result<Vec<Tensor>, EvalError> {
    let types: Vec<Type> = operands.iter().map(|t| t.ty()).collect();
    let concrete = concrete(op, dims)?;
    concrete.infer(&types)?;
    if op.is_fused() {
        return eval_expansion(op, operands, dims);
    }
    let misfit = || EvalError::Layout {
        op: op.mnemonic(),
        got: list(&types),
    };
    let result = match (&concrete, operands) {
        (Op::Gather, &[table, index]) => routing::gather(table, index)?,
        (Op::Add, &[a, b]) => dense::add(a, b)?,
        (Op::RmsNorm { eps }, &[x, w]) => dense::rms_norm(x, w, eps.get())?,
        (Op::Quantize, &[x]) => dense::quantize(x)?,
        (Op::QuantizeWide { group }, &[x]) => dense::quantize_wide(x, *group)?,
        (Op::QuantizePow2, &[x]) => dense::quantize_pow2(x)?,
        (Op::ScaleRows, &[x, s]) => dense::scale_rows(x, s)?,
        (Op::Dequantize, &[x]) => dense::dequantize(x)?,
        (Op::Matmul { out, promote }, &[x, w]) => product::matmul(x, w, *out, *promote)?,
        (Op::BatchedMatmul { out }, &[x, w]) => product::batched_matmul(x, w, *out)?,
        (Op::GroupedMatmul { out, promote }, &[x, w, offsets]) => {
            product::grouped_matmul(x, w, offsets, *out, *promote)?
        }
        (Op::MaskedMatmul { out, promote }, &[x, w, counts]) => {
            product::masked_matmul(x, w, counts, *out, *promote)?
        }
        (Op::WeightGrad { promote }, &[x, y, offsets, acc]) => {
            product::weight_grad(x, y, offsets, acc, *promote)?
        }
        (Op::Swiglu, &[x]) => dense::swiglu(x)?,
        (Op::Rope { start }, &[x, positions, table]) => {
            dense::rope(x, positions, table, *start as usize)?
        }
        (Op::Slice { axis, start, len }, &[x]) => {
            layout::slice(x, *axis, *start as usize, *len as usize).ok_or_else(misfit)?
        }
        (Op::Concat { axis }, xs) => layout::concat(xs, *axis).ok_or_else(misfit)?,
        (Op::Reshape { shape }, &[x]) => x.reshaped(&resolve(shape, dims)?).ok_or_else(misfit)?,
        (Op::Transpose { a, b }, &[x]) => layout::swap_axes(x, *a, *b).ok_or_else(misfit)?,
        (Op::Expand { axis, len }, &[x]) => {
            let copies = vec![x; usize::try_from(*len).map_err(|_| misfit())?];
            layout::concat(&copies, *axis).ok_or_else(misfit)?
        }
        (Op::CacheWrite, &[cache, x, positions]) => routing::cache_write(cache, x, positions)?,
        (Op::Attention { scale }, &[q, q_rope, k, k_rope, v, positions]) => {
            attention(&Attention {
                q,
                q_rope,
                k,
                k_rope,
                v,
                positions,
                scale: scale.get(),
            })?
        }
        (
            Op::Route {
                top_k,
                n_group,
                topk_group,
                scaling,
                normalize,
            },
            &[logits, bias],
        ) => {
            let gate = Gate {
                top_k: *top_k as usize,
                n_group: *n_group as usize,
                topk_group: *topk_group as usize,
                scaling: scaling.get(),
                normalize: *normalize,
            };
            return Ok(routing::route(logits, bias, &gate)?.into());
        }
        (Op::Dispatch { n_experts }, &[x, experts]) => {
            return Ok(routing::dispatch(x, experts, *n_experts as usize)?.into());
        }
        (Op::AppendExpert { expert, weight }, &[experts, weights]) => {
            let results = routing::append_expert(experts, weights, *expert, weight.get())?;
            return Ok(results.into());
        }
        (Op::RowWeights, &[slots, weights]) => routing::row_weights(slots, weights)?,
        (Op::CombineSum, &[y, slots]) => routing::combine_sum(y, slots)?,
        (Op::Combine, &[y, slots, weights]) => routing::combine(y, slots, weights)?,
        (Op::Replica, &[experts, table, copies]) => {
            exchange::replica(rank, experts, table, copies)?
        }
        (Op::CountExperts, &[load, experts]) => exchange::count_experts(load, experts)?,
        (Op::Sample, &[logits, temperature, top_p, uniform]) => {
            routing::sample(logits, temperature, top_p, uniform)?
        }
        // Inference has refused any other number of operands, and fused ops went through their
        // expansion.
        _ => return Err(misfit()),
    };
    Ok(vec![result])
}

/// The op with the extents of this evaluation in place of named dims.
fn concrete(op: &Op, dims: &Dims) -> Result<Op, EvalError> {
    Ok(match op {
        Op::Reshape { shape } => {
            let shape = resolve(shape, dims)?
                .into_iter()
                .map(|n| Dim::Const(n as u64))
                .collect();
            Op::Reshape { shape }
        }
        other => other.clone(),
    })
}

/// A fused op by way of the plain ops that define it.
fn eval_expansion(op: &Op, operands: &[&Tensor], dims: &Dims) -> Result<Vec<Tensor>, EvalError> {
    let mut graph = Graph::new(op.mnemonic());
    let mut inputs = Vec::with_capacity(operands.len());
    for (i, operand) in operands.iter().enumerate() {
        let added = graph.value_at_run_time(format!("{i}").into(), operand.ty());
        inputs.push(added.map_err(|e| EvalError::operands(op.mnemonic(), e.to_string()))?);
    }
    let results = op.expand(&mut graph, &inputs, None)?.unwrap_or_default();
    let leaf = |leaf: &Op| {
        let operand = match leaf {
            Op::Input { name } => name.parse().ok().and_then(|i: usize| operands.get(i)),
            _ => None,
        };
        operand
            .map(|t| std::borrow::Cow::Borrowed(*t))
            .ok_or_else(|| {
                EvalError::operands(
                    op.mnemonic(),
                    "its expansion reads something that is no operand",
                )
            })
    };
    let mut ranks = eval_graph(&graph, &[dims], &|_, op| leaf(op), &mut |_, _, _| {})?;
    let mut values = ranks.pop().unwrap_or_default();
    Ok(results
        .iter()
        .filter_map(|v| values.remove(v))
        .map(std::borrow::Cow::into_owned)
        .collect())
}

fn list(types: &[Type]) -> String {
    types
        .iter()
        .map(Type::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
