//! Expansions: what each fused op of the table means, written in plain ops.
//!
//! The evaluator runs these, and fusion rules are right when both of their sides evaluate alike.

use crate::graph::{Graph, ReplaceError, SourceLoc, ValueId};
use crate::op::{Op, TypeError};
use crate::types::DType;
use thiserror::Error;

impl Op {
    /// Adds the plain ops that this fused op stands for; their values are the op's results, in order. `None` for
    /// an op that is not fused.
    ///
    /// # Errors
    /// When the operands do not fit the op.
    pub fn expand(
        &self,
        graph: &mut Graph,
        operands: &[ValueId],
        loc: Option<&SourceLoc>,
    ) -> Result<Option<Vec<ValueId>>, TypeError> {
        if !self.is_fused() {
            return Ok(None);
        }
        // Inference first: afterwards the number of operands is known to be right.
        let types: Vec<_> = operands
            .iter()
            .filter_map(|v| graph.get(*v).cloned())
            .collect();
        self.infer(&types)?;
        let mut add = |op: Op, operands: &[ValueId]| graph.add1(op, operands, loc.cloned());
        // SwiGLU takes BF16.
        let out = DType::BF16;
        let product = |promote| Self::Matmul { out, promote };
        let grouped_product = |promote| Self::GroupedMatmul { out, promote };
        let masked_product = |promote| Self::MaskedMatmul { out, promote };
        let results = match (self, operands) {
            (Self::RmsNormQuantize { eps }, &[x, w]) => {
                let y = add(Self::RmsNorm { eps: *eps }, &[x, w])?;
                vec![y, add(Self::Quantize, &[y])?]
            }
            (Self::AddRmsNorm { eps }, &[x, r, w]) => {
                let sum = add(Self::Add, &[x, r])?;
                vec![sum, add(Self::RmsNorm { eps: *eps }, &[sum, w])?]
            }
            (Self::AddRmsNormQuantize { eps }, &[x, r, w]) => {
                let sum = add(Self::Add, &[x, r])?;
                let y = add(Self::RmsNorm { eps: *eps }, &[sum, w])?;
                vec![sum, y, add(Self::Quantize, &[y])?]
            }
            (Self::CombineAdd, &[y, slots, weights, r]) => {
                let y = add(Self::Combine, &[y, slots, weights])?;
                vec![add(Self::Add, &[y, r])?]
            }
            (Self::CombineAddRmsNormQuantize { eps }, &[y, slots, weights, r, w]) => {
                let y = add(Self::Combine, &[y, slots, weights])?;
                let sum = add(Self::Add, &[y, r])?;
                let y = add(Self::RmsNorm { eps: *eps }, &[sum, w])?;
                vec![sum, y, add(Self::Quantize, &[y])?]
            }
            (Self::SwigluQuantize, &[x]) => {
                let y = add(Self::Swiglu, &[x])?;
                vec![add(Self::Quantize, &[y])?]
            }
            (Self::MatmulAdd { out, promote }, &[x, w, r]) => {
                let (out, promote) = (*out, *promote);
                let product = add(Self::Matmul { out, promote }, &[x, w])?;
                vec![add(Self::Add, &[product, r])?]
            }
            (Self::MatmulSwigluQuantize { promote }, &[x, w]) => {
                let y = add(product(*promote), &[x, w])?;
                let y = add(Self::Swiglu, &[y])?;
                vec![add(Self::Quantize, &[y])?]
            }
            (Self::MatmulSwigluScaleQuantize { promote }, &[x, w, s]) => {
                let y = add(product(*promote), &[x, w])?;
                let y = add(Self::Swiglu, &[y])?;
                let y = add(Self::ScaleRows, &[y, s])?;
                vec![add(Self::Quantize, &[y])?]
            }
            (Self::GroupedMatmulSwigluQuantize { promote }, &[x, w, offsets]) => {
                let y = add(grouped_product(*promote), &[x, w, offsets])?;
                let y = add(Self::Swiglu, &[y])?;
                vec![add(Self::Quantize, &[y])?]
            }
            (Self::GroupedMatmulSwigluScaleQuantize { promote }, &[x, w, offsets, s]) => {
                let y = add(grouped_product(*promote), &[x, w, offsets])?;
                let y = add(Self::Swiglu, &[y])?;
                let y = add(Self::ScaleRows, &[y, s])?;
                vec![add(Self::Quantize, &[y])?]
            }
            (Self::MaskedMatmulSwigluQuantize { promote }, &[x, w, counts]) => {
                let y = add(masked_product(*promote), &[x, w, counts])?;
                let y = add(Self::Swiglu, &[y])?;
                vec![add(Self::Quantize, &[y])?]
            }
            (Self::MaskedMatmulSwigluScaleQuantize { promote }, &[x, w, counts, s]) => {
                let y = add(masked_product(*promote), &[x, w, counts])?;
                let y = add(Self::Swiglu, &[y])?;
                let y = add(Self::ScaleRows, &[y, s])?;
                vec![add(Self::Quantize, &[y])?]
            }
            (Self::MlaCacheWrite { eps }, &[cache, kv, w, positions, table]) => {
                // Inference made sure that both are constants, and latent < width.
                let latent = types[2].shape[0].as_const().unwrap_or_default();
                let width = types[1].shape[1].as_const().unwrap_or_default();
                let low = add(
                    Self::Slice {
                        axis: 1,
                        start: 0,
                        len: latent,
                    },
                    &[kv],
                )?;
                let high = add(
                    Self::Slice {
                        axis: 1,
                        start: latent,
                        len: width - latent,
                    },
                    &[kv],
                )?;
                let low = add(Self::RmsNorm { eps: *eps }, &[low, w])?;
                let row = add(Self::Concat { axis: 1 }, &[low, high])?;
                let row = add(Self::Rope { start: latent }, &[row, positions, table])?;
                vec![add(Self::CacheWrite, &[cache, row, positions])?]
            }
            _ => return Ok(None),
        };
        Ok(Some(results))
    }
}

/// A graph that has no expansion: one that was not verified.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExpandError {
    /// A fused op does not fit its operands.
    #[error(transparent)]
    Op(#[from] TypeError),
    /// Its expansion does not give what the op gives.
    #[error(transparent)]
    Result(#[from] ReplaceError),
}

impl Graph {
    /// The same graph with every fused op replaced by its expansion.
    ///
    /// # Errors
    /// None for a verified graph.
    pub fn in_plain_ops(&self) -> Result<Graph, ExpandError> {
        let mut graph = self.clone();
        for node in graph.topo() {
            let (op, operands) = (graph.op(node).clone(), graph.operands(node));
            let Some(plain) = op.expand(&mut graph, &operands, None)? else {
                continue;
            };
            let results: Vec<ValueId> = graph.results(node).collect();
            for (old, new) in results.into_iter().zip(plain) {
                graph.replace_all_uses(old, new)?;
            }
        }
        graph.dead_code_eliminate();
        Ok(graph)
    }
}
