//! Parameters from checkpoint tensors: the meaning of [`ParamSource`], for tests.
//!
//! The runtime has its own loader that streams; this one states what that must produce. A
//! checkpoint tensor arrives as one value: FP8 codes already joined with their `<name>_scale_inv`.

use thiserror::Error;

use super::dense::dequantize;
use super::layout::{concat, slice, transpose};
use super::tensor::Tensor;
use crate::module::ParamSource;
use crate::numerics::rope_table;

/// A recipe that the checkpoint at hand cannot satisfy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MaterializeError {
    /// The checkpoint lacks a tensor.
    #[error("the checkpoint has no tensor `{0}`")]
    Missing(String),
    /// Tensors that a step of the recipe cannot be applied to.
    #[error("{step} of {got}: {why}")]
    Step {
        /// The step's name in the text form.
        step: &'static str,
        /// Types of the values that came.
        got: String,
        /// What it needs.
        why: &'static str,
    },
}

/// Builds a parameter; `lookup` gives checkpoint tensors by name.
pub fn materialize(
    source: &ParamSource,
    lookup: &dyn Fn(&str) -> Option<Tensor>,
) -> Result<Tensor, MaterializeError> {
    materialize_on_rank(source, lookup, 0)
}

/// Builds a parameter for a rank of an expert group, without a placement.
pub fn materialize_on_rank(
    source: &ParamSource,
    lookup: &dyn Fn(&str) -> Option<Tensor>,
    rank: u64,
) -> Result<Tensor, MaterializeError> {
    let materialize = |source: &ParamSource| materialize_on_rank(source, lookup, rank);
    let all = |parts: &[ParamSource]| parts.iter().map(materialize).collect::<Result<Vec<_>, _>>();
    match source {
        ParamSource::Tensor(name) => {
            lookup(name).ok_or_else(|| MaterializeError::Missing(name.clone()))
        }
        ParamSource::Concat(parts) => join("concat", &all(parts)?),
        ParamSource::Stack(parts) => stack("stack", all(parts)?),
        ParamSource::Experts { slots, parts, .. } => {
            let held = (rank * slots..(rank + 1) * slots)
                .map(|slot| &parts[(slot % parts.len().max(1) as u64) as usize]);
            stack("experts", held.map(materialize).collect::<Result<_, _>>()?)
        }
        ParamSource::Dequant(inner) => {
            let t = materialize(inner)?;
            dequantize(&t).map_err(|_| fail("dequant", &[t], "needs a block-scaled value"))
        }
        ParamSource::HeadRows {
            src,
            heads,
            start,
            len,
        } => {
            let t = materialize(src)?;
            let (heads, start, len) = (*heads as usize, *start as usize, *len as usize);
            let rows = t.shape().first().copied().unwrap_or(0);
            let cut = (t.shape().len() == 2 && heads > 0 && rows.is_multiple_of(heads))
                .then(|| t.reshaped(&[heads, rows / heads, t.shape()[1]]))
                .flatten()
                .and_then(|by_head| slice(&by_head, 1, start, len));
            cut.ok_or_else(|| {
                fail(
                    "head_rows",
                    &[t],
                    "needs [heads * P, K] and rows on scale block borders",
                )
            })
        }
        ParamSource::Transpose(inner) => {
            let t = materialize(inner)?;
            transpose(&t).ok_or_else(|| fail("transpose", &[t], "needs at least two axes"))
        }
        ParamSource::RopeTable {
            dim,
            theta,
            positions,
            yarn,
        } => {
            let table = rope_table(*dim, *theta, *positions, yarn.as_ref());
            Tensor::f32(&[*positions as usize, *dim as usize / 2, 2], table)
                .map_err(|_| fail("rope_table", &[], "needs an even number of channels"))
        }
    }
}

fn stack(step: &'static str, parts: Vec<Tensor>) -> Result<Tensor, MaterializeError> {
    let with_axis = |t: Tensor| {
        let shape: Vec<usize> = std::iter::once(1)
            .chain(t.shape().iter().copied())
            .collect();
        t.reshaped(&shape)
            .ok_or_else(|| fail(step, &[t], "the scale blocks do not survive a new axis"))
    };
    let parts = parts
        .into_iter()
        .map(with_axis)
        .collect::<Result<Vec<_>, _>>()?;
    join(step, &parts)
}

fn join(step: &'static str, parts: &[Tensor]) -> Result<Tensor, MaterializeError> {
    let refs: Vec<&Tensor> = parts.iter().collect();
    concat(&refs, 0).ok_or_else(|| {
        fail(
            step,
            parts,
            "the parts differ in type, or end inside a scale block",
        )
    })
}

fn fail(step: &'static str, got: &[Tensor], why: &'static str) -> MaterializeError {
    let got = got
        .iter()
        .map(|t| t.ty().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    MaterializeError::Step { step, got, why }
}
