//! Causal attention over a cache, in the form that covers MLA expanded and absorbed.

use super::dense::{float, int};
use super::error::{EvalError, indices};
use super::tensor::Tensor;
use crate::numerics::{round_bf16, round_bf16_f64};

/// Operands of `attention`, as in the op table.
pub(super) struct Attention<'a> {
    /// `[T, H, dk]`
    pub q: &'a Tensor,
    /// `[T, H, dr]`
    pub q_rope: &'a Tensor,
    /// `[C, Hk, dk]`, `Hk` is `H` or 1
    pub k: &'a Tensor,
    /// `[C, dr]`, shared by all heads
    pub k_rope: &'a Tensor,
    /// `[C, Hk, dv]`
    pub v: &'a Tensor,
    /// `[T]`
    pub positions: &'a Tensor,
    /// Multiplies the scores.
    pub scale: f32,
}

/// `softmax(scale * (q.k + q_rope.k_rope)) v` over the keys `j <= positions[t]`.
///
/// Scores, softmax and the sum over values in `f64`; probabilities are rounded to BF16 before they
/// multiply values, and the result once. A kernel that rounds `exp(score - running max)` before
/// dividing differs by up to 2^-8 of the largest value in each output (each probability is off by
/// at most half a BF16 unit in either form).
pub(super) fn attention(a: &Attention<'_>) -> Result<Tensor, EvalError> {
    let op = "attention";
    let [tokens, heads, dk] = [a.q.shape()[0], a.q.shape()[1], a.q.shape()[2]];
    let (dr, context, kv_heads) = (a.k_rope.shape()[1], a.k.shape()[0], a.k.shape()[1]);
    let dv = a.v.shape()[2];
    let (q, q_rope, k) = (float(op, a.q)?, float(op, a.q_rope)?, float(op, a.k)?);
    let (k_rope, v) = (float(op, a.k_rope)?, float(op, a.v)?);
    let positions = indices(op, "position", int(op, a.positions)?, context)?;

    let mut out = Vec::with_capacity(tokens * heads * dv);
    for (t, &position) in positions.iter().enumerate() {
        for h in 0..heads {
            let kv_head = if kv_heads == 1 { 0 } else { h };
            let q = &q[(t * heads + h) * dk..][..dk];
            let q_rope = &q_rope[(t * heads + h) * dr..][..dr];
            let scores: Vec<f64> = (0..=position)
                .map(|j| {
                    let k = &k[(j * kv_heads + kv_head) * dk..][..dk];
                    f64::from(a.scale) * (dot(q, k) + dot(q_rope, &k_rope[j * dr..][..dr]))
                })
                .collect();
            let max = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sum = vec![0f64; dv];
            for (j, w) in weights.iter().enumerate() {
                let p = f64::from(round_bf16((w / total) as f32));
                let value = &v[(j * kv_heads + kv_head) * dv..][..dv];
                sum.iter_mut()
                    .zip(value)
                    .for_each(|(s, &v)| *s += p * f64::from(v));
            }
            out.extend(sum.into_iter().map(round_bf16_f64));
        }
    }
    Ok(Tensor::bf16(&[tokens, heads, dv], out)?)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| f64::from(x) * f64::from(y))
        .sum()
}
