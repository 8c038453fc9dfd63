//! Layers as plain functions over tensors.
//!
//! Each adds ops and nothing else; a layer's parameters come in as arguments, declared by the model
//! that uses it. They say what is computed, one op for each equation: FP8 products quantise their input right before
//! use, gate and up are two products. Where several uses share an input, where a norm could quantise on its way out or
//! two products be one, the compiler's rewrite rules find it (`docs/rules.md`).

mod mla;

use mcc_ir::DType;

pub use mla::{LatentAttention, LatentShape, Query, Rotation, latent_attention};

use crate::model::Param;
use crate::tensor::{Product, Routing, Tensor, concat};

/// `x W^T`. An FP8 weight gets its input quantised, a BF16 weight takes it as it is.
#[track_caller]
pub fn linear(x: &Tensor, weight: &Param) -> Tensor {
    linear_as(x, weight, Product::default())
}

/// [`linear`] with another result type or promotion interval.
#[track_caller]
pub fn linear_as(x: &Tensor, weight: &Param, product: Product) -> Tensor {
    if is_fp8(weight) {
        x.quantize().matmul_as(weight, product)
    } else {
        x.matmul_as(weight, product)
    }
}

/// Parameters of a gated MLP, or of those of all routed experts, with an axis `E` in front.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// `[I, D]`
    pub gate: Param,
    /// `[I, D]`
    pub up: Param,
    /// `[D, I]`
    pub down: Param,
}

/// Gated MLP: `down(silu(gate x) * up x)`.
#[track_caller]
pub fn mlp(x: &Tensor, w: &Mlp) -> Tensor {
    let both = concat(1, [&linear(x, &w.gate), &linear(x, &w.up)]);
    linear(&both.swiglu(), &w.down)
}

/// Parameters of the routed experts of one layer.
#[derive(Debug, Clone)]
pub struct Experts {
    /// `[E, D]` in BF16.
    pub router: Param,
    /// `[E]` in FP32: moves the choice of experts, not their weights.
    pub bias: Param,
    /// `[E, I, D]` twice, and `[E, D, I]`.
    pub mlp: Mlp,
    /// Number of experts.
    pub n_experts: u32,
    /// How experts are chosen.
    pub routing: Routing,
}

/// Routed experts (DeepSeek-V3 report, section 2.1.2): each token's row goes to its `top_k` experts
/// and comes back as their weighted sum.
#[track_caller]
pub fn routed_experts(x: &Tensor, w: &Experts) -> Tensor {
    let logits = x.matmul_f32(&w.router);
    let (experts, weights) = logits.route(&w.bias, w.routing);
    let (rows, offsets, slots) = x.dispatch(&experts, w.n_experts);
    let [gate, up] = [&w.mlp.gate, &w.mlp.up].map(|half| grouped_linear(&rows, half, &offsets));
    let hidden = concat(1, [&gate, &up]).swiglu();
    let y = grouped_linear(&hidden, &w.mlp.down, &offsets);
    y.combine(&slots, &weights)
}

/// [`linear`] with each expert's own weight for its rows.
#[track_caller]
pub fn grouped_linear(x: &Tensor, weights: &Param, offsets: &Tensor) -> Tensor {
    grouped_linear_as(x, weights, offsets, Product::default())
}

/// [`grouped_linear`] with another result type or promotion interval.
#[track_caller]
pub fn grouped_linear_as(
    x: &Tensor,
    weights: &Param,
    offsets: &Tensor,
    product: Product,
) -> Tensor {
    if is_fp8(weights) {
        x.quantize().grouped_matmul_as(weights, offsets, product)
    } else {
        x.grouped_matmul_as(weights, offsets, product)
    }
}

fn is_fp8(weight: &Param) -> bool {
    weight.ty().is_some_and(|ty| ty.dtype == DType::E4M3)
}
