//! Tensor handles: each method adds one op of the IR's table to the entry under construction.
//!
//! A handle is the number of a value in its entry's graph, or nothing after a mistake ("poisoned"):
//! ops on it add nothing and report nothing. Semantics of each op are those of its row in
//! `mcc_ir::op`.

use std::ops::{Add, Range};
use std::panic::Location;

use mcc_ir::{DType, Dim, F32, Op, Type, ValueId};

use crate::error::Mistake;
use crate::model::Entry;
use crate::types::IntoShape;

/// What an op can read: tensors, parameters and states.
pub trait Operand {
    /// Its value in the entry's graph; `None` when it is poisoned, or reported as out of place.
    #[doc(hidden)]
    fn value_in(&self, entry: &Entry, op: &'static str, at: &Location<'_>) -> Option<ValueId>;
}

/// A value of an entry.
#[derive(Debug, Clone)]
pub struct Tensor {
    entry: Entry,
    value: Option<ValueId>,
}

impl Operand for Tensor {
    fn value_in(&self, entry: &Entry, op: &'static str, at: &Location<'_>) -> Option<ValueId> {
        let value = self.value?;
        if self.entry.is(entry) {
            return Some(value);
        }
        entry.model().report(Mistake::ForeignTensor { op }, at);
        None
    }
}

/// Options of [`Tensor::route`] (`docs/model.md`, "Gate").
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    /// Experts a token.
    pub top_k: u32,
    /// Groups of neighbouring experts.
    pub n_group: u32,
    /// Groups that a token's experts may come from.
    pub topk_group: u32,
    /// Factor on the weights.
    pub scaling: f32,
    /// Whether weights are divided by their sum.
    pub normalize: bool,
}

/// Result and promotion of a product: [`Tensor::matmul_as`] and the like.
///
/// ```
/// # use mcc_dsl::{DType, Product};
/// let careful = Product { promote: Some(32), ..Product::default() };
/// let logits = Product { out: DType::F32, ..Product::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// `BF16` or `F32`.
    pub out: DType,
    /// Products of FP8 codes that the tensor core sums before the FP32 accumulator takes them: 32, 64 or 128; 256, 512
    /// or [`crate::NO_PROMOTION`] for operands with scale groups of that length ([`Tensor::quantize_wide`]). Smaller is more
    /// exact and slower (`docs/model.md`, "Promoted accumulation"). `None`: the model's ([`crate::Model::promote`]).
    pub promote: Option<u32>,
}

impl Default for Product {
    fn default() -> Self {
        Self {
            out: DType::BF16,
            promote: None,
        }
    }
}

/// Operands of [`attention`]; `Hk` is `H` or 1.
pub struct Attention<'a> {
    /// `[T, H, dk]`: the part of the queries without rotation.
    pub q: &'a Tensor,
    /// `[T, H, dr]`: the rotated part.
    pub q_rope: &'a Tensor,
    /// `[C, Hk, dk]`
    pub k: &'a Tensor,
    /// `[C, dr]`: one rotated key for all heads.
    pub k_rope: &'a Tensor,
    /// `[C, Hk, dv]`
    pub v: &'a Tensor,
    /// `[T]`: a query sees the keys up to its own position.
    pub positions: &'a Tensor,
    /// Factor on the scores.
    pub scale: f32,
}

/// Causal attention: `softmax(scale * (q.k + q_rope.k_rope)) v`, `[T, H, dv]`.
#[track_caller]
pub fn attention(a: Attention<'_>) -> Tensor {
    let op = Op::Attention {
        scale: F32::new(a.scale),
    };
    a.q.add_op(op, &[a.q, a.q_rope, a.k, a.k_rope, a.v, a.positions])
}

/// Joins tensors along an axis.
#[track_caller]
pub fn concat<const N: usize>(axis: usize, parts: [&Tensor; N]) -> Tensor {
    const { assert!(N > 0, "nothing to join") };
    let operands = parts.map(|part| part as &dyn Operand);
    parts[0].add_op(Op::Concat { axis }, &operands)
}

impl Tensor {
    pub(crate) fn new(entry: &Entry, value: ValueId) -> Tensor {
        Tensor {
            entry: entry.clone(),
            value: Some(value),
        }
    }

    pub(crate) fn poisoned(entry: &Entry) -> Tensor {
        Tensor {
            entry: entry.clone(),
            value: None,
        }
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    #[track_caller]
    fn add_op(&self, op: Op, operands: &[&dyn Operand]) -> Tensor {
        self.entry.add(op, operands, Location::caller()).remove(0)
    }

    /// Its type; `None` after a mistake.
    pub fn ty(&self) -> Option<Type> {
        self.entry
            .with_graph(|graph| graph.get(self.value?).cloned())?
    }

    /// Extent of an axis; `None` after a mistake or beyond the last axis.
    pub fn dim(&self, axis: usize) -> Option<Dim> {
        self.ty()?.shape.get(axis).cloned()
    }

    /// Pins the op that computes this tensor: it stays as written, and no rewrite rule looks through it. Of an input,
    /// a parameter or a state it says nothing.
    #[must_use]
    pub fn keep(self) -> Tensor {
        if let Some(value) = self.value {
            self.entry.mark(value, |marks| marks.keep = true);
        }
        self
    }

    /// Forbids a rewrite rule (`docs/rules.md`) for the op that computes this tensor. A name that no rule has is
    /// an error of the optimiser.
    #[must_use]
    pub fn never(self, rule: &str) -> Tensor {
        if let Some(value) = self.value {
            self.entry.mark(value, |marks| marks.never(rule));
        }
        self
    }

    /// Rows `index[r]` of this table.
    #[track_caller]
    pub fn gather(&self, index: &Tensor) -> Tensor {
        self.add_op(Op::Gather, &[self, index])
    }

    /// `x * rsqrt(mean(x^2) + eps) * w` over the last axis.
    #[track_caller]
    pub fn rms_norm(&self, w: &impl Operand, eps: f32) -> Tensor {
        self.add_op(Op::RmsNorm { eps: F32::new(eps) }, &[self, w])
    }

    /// To FP8 with a scale for each 128 channels of the last axis.
    #[track_caller]
    pub fn quantize(&self) -> Tensor {
        self.add_op(Op::Quantize, &[self])
    }

    /// To FP8 with a scale for each `group` channels of the last axis, 256 or 512, or one for all of it
    /// ([`crate::NO_PROMOTION`]).
    #[track_caller]
    pub fn quantize_wide(&self, group: u32) -> Tensor {
        self.add_op(Op::QuantizeWide { group }, &[self])
    }

    /// [`Tensor::quantize`] with scales that are powers of two.
    #[track_caller]
    pub fn quantize_pow2(&self) -> Tensor {
        self.add_op(Op::QuantizePow2, &[self])
    }

    /// Each row times its own weight.
    #[track_caller]
    pub fn scale_rows(&self, weights: &impl Operand) -> Tensor {
        self.add_op(Op::ScaleRows, &[self, weights])
    }

    /// From FP8 to BF16.
    #[track_caller]
    pub fn dequantize(&self) -> Tensor {
        self.add_op(Op::Dequantize, &[self])
    }

    /// `x [M, K] * w [N, K]^T` rounded to BF16.
    #[track_caller]
    pub fn matmul(&self, w: &impl Operand) -> Tensor {
        self.matmul_as(w, Product::default())
    }

    /// [`Tensor::matmul`] with another result type or promotion interval.
    #[track_caller]
    pub fn matmul_as(&self, w: &impl Operand, product: Product) -> Tensor {
        let (out, promote) = (product.out, self.entry.interval(product.promote));
        self.add_op(Op::Matmul { out, promote }, &[self, w])
    }

    /// [`Tensor::matmul`] with the FP32 accumulator as its result.
    #[track_caller]
    pub fn matmul_f32(&self, w: &impl Operand) -> Tensor {
        let out = DType::F32;
        self.matmul_as(
            w,
            Product {
                out,
                ..Product::default()
            },
        )
    }

    /// `x [M, H, K] * w [H, N, K]^T` for each head, rounded to BF16.
    #[track_caller]
    pub fn batched_matmul(&self, w: &impl Operand) -> Tensor {
        self.add_op(Op::BatchedMatmul { out: DType::BF16 }, &[self, w])
    }

    /// Rows `offsets[e]..offsets[e + 1]` times `w[e]`, rounded to BF16.
    #[track_caller]
    pub fn grouped_matmul(&self, w: &impl Operand, offsets: &Tensor) -> Tensor {
        self.grouped_matmul_as(w, offsets, Product::default())
    }

    /// [`Tensor::grouped_matmul`] with another result type or promotion interval.
    #[track_caller]
    pub fn grouped_matmul_as(
        &self,
        w: &impl Operand,
        offsets: &Tensor,
        product: Product,
    ) -> Tensor {
        let (out, promote) = (product.out, self.entry.interval(product.promote));
        self.add_op(Op::GroupedMatmul { out, promote }, &[self, w, offsets])
    }

    /// The first `counts[e]` rows of `x[e] [C, K]` times `w[e] [N, K]^T`, rounded to BF16; the other rows of the
    /// result have no meaning.
    #[track_caller]
    pub fn masked_matmul(&self, w: &impl Operand, counts: &Tensor) -> Tensor {
        self.masked_matmul_as(w, counts, Product::default())
    }

    /// [`Tensor::masked_matmul`] with another result type or promotion interval.
    #[track_caller]
    pub fn masked_matmul_as(&self, w: &impl Operand, counts: &Tensor, product: Product) -> Tensor {
        let (out, promote) = (product.out, self.entry.interval(product.promote));
        self.add_op(Op::MaskedMatmul { out, promote }, &[self, w, counts])
    }

    /// `silu(left half) * right half` of the last axis.
    #[track_caller]
    pub fn swiglu(&self) -> Tensor {
        self.add_op(Op::Swiglu, &[self])
    }

    /// Rotates the channels from `start` on by the angles of each token's position.
    #[track_caller]
    pub fn rope(&self, positions: &Tensor, table: &impl Operand, start: u64) -> Tensor {
        self.add_op(Op::Rope { start }, &[self, positions, table])
    }

    /// Indices `range` of an axis.
    #[track_caller]
    pub fn slice(&self, axis: usize, range: Range<u64>) -> Tensor {
        let Range { start, end } = range;
        let Some(len) = end.checked_sub(start).filter(|len| *len > 0) else {
            self.entry
                .model()
                .report(Mistake::EmptyRange { start, end }, Location::caller());
            return Tensor::poisoned(&self.entry);
        };
        self.add_op(Op::Slice { axis, start, len }, &[self])
    }

    /// The same elements under another shape.
    #[track_caller]
    pub fn reshape(&self, shape: impl IntoShape) -> Tensor {
        let shape = shape.into_shape();
        if !self.entry.model().knows_dims(&shape, Location::caller()) {
            return Tensor::poisoned(&self.entry);
        }
        self.add_op(Op::Reshape { shape }, &[self])
    }

    /// Axes `a` and `b` change places.
    #[track_caller]
    pub fn transpose(&self, a: usize, b: usize) -> Tensor {
        self.add_op(Op::Transpose { a, b }, &[self])
    }

    /// Repeats the only index of an axis `len` times.
    #[track_caller]
    pub fn expand(&self, axis: usize, len: u64) -> Tensor {
        self.add_op(Op::Expand { axis, len }, &[self])
    }

    /// Chooses each token's experts by its logits: `(experts [T, k], weights [T, k])`.
    #[track_caller]
    pub fn route(&self, bias: &impl Operand, routing: Routing) -> (Tensor, Tensor) {
        let Routing {
            top_k,
            n_group,
            topk_group,
            scaling,
            normalize,
        } = routing;
        let op = Op::Route {
            top_k,
            n_group,
            topk_group,
            scaling: F32::new(scaling),
            normalize,
        };
        let [experts, weights] = self.results(op, &[self, bias], Location::caller());
        (experts, weights)
    }

    /// Copies each token's row to each of its experts: `(rows [k*T, D], offsets [E + 1], slots [T,
    /// k])`.
    #[track_caller]
    pub fn dispatch(&self, experts: &Tensor, n_experts: u32) -> (Tensor, Tensor, Tensor) {
        let op = Op::Dispatch { n_experts };
        let [rows, offsets, slots] = self.results(op, &[self, experts], Location::caller());
        (rows, offsets, slots)
    }

    /// Weighted sum of each token's expert rows: the way back from [`Tensor::dispatch`].
    #[track_caller]
    pub fn combine(&self, slots: &Tensor, weights: &Tensor) -> Tensor {
        self.add_op(Op::Combine, &[self, slots, weights])
    }

    /// Draws one token for each row of logits.
    #[track_caller]
    pub fn sample(&self, temperature: &Tensor, top_p: &Tensor, uniform: &Tensor) -> Tensor {
        self.add_op(Op::Sample, &[self, temperature, top_p, uniform])
    }

    /// Sum with another tensor, a parameter or a state; `&a + &b` for two tensors.
    #[track_caller]
    pub fn plus(&self, other: &impl Operand) -> Tensor {
        self.add_op(Op::Add, &[self, other])
    }

    /// All results of an op with `N` of them.
    fn results<const N: usize>(
        &self,
        op: Op,
        operands: &[&dyn Operand],
        at: &Location<'_>,
    ) -> [Tensor; N] {
        let mut results = self.entry.add(op, operands, at).into_iter();
        std::array::from_fn(|_| {
            results
                .next()
                .unwrap_or_else(|| Tensor::poisoned(&self.entry))
        })
    }
}

macro_rules! sums {
    ($($left:ty, $right:ty;)*) => {$(
        impl Add<$right> for $left {
            type Output = Tensor;
            #[track_caller]
            fn add(self, other: $right) -> Tensor {
                Tensor::plus(&self, &other)
            }
        }
    )*};
}

sums! {
    Tensor, Tensor;
    Tensor, &Tensor;
    &Tensor, Tensor;
    &Tensor, &Tensor;
}

impl<O: Operand> Operand for &O {
    fn value_in(&self, entry: &Entry, op: &'static str, at: &Location<'_>) -> Option<ValueId> {
        (**self).value_in(entry, op, at)
    }
}
