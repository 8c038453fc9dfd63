//! Multi-head latent attention (DeepSeek-V3 report, arXiv 2412.19437, section 2.1.1, equations 1 to 11).
//!
//! In: the normed rows of a step's tokens. Out: what attention adds to them, and the cache with the step's latents in
//! it. Keys and values of every head are computed from the cached latents, as the report writes it. The optimiser may
//! absorb these projections into the queries and outputs, so that all heads share one latent key; where a step has few
//! tokens this is far cheaper. Keys, values and latents are then rounded elsewhere, which the layer allows there and
//! nowhere else.

use mcc_ir::{Dim, Freedom};

use super::linear;
use crate::model::{Entry, Param, State};
use crate::tensor::{Attention, Tensor, attention, concat};

/// Parameters and cache of one layer.
#[derive(Debug, Clone)]
pub struct LatentAttention {
    /// The query projection.
    pub q: Query,
    /// `[latent + rope, D]`
    pub kv_a: Param,
    /// `[latent]`
    pub kv_a_norm: Param,
    /// `[H * (nope + v), latent]`: for each head the rows of its keys, then those of its values.
    pub kv_b: Param,
    /// `[D, H * v]`
    pub o: Param,
    /// `[C, latent + rope]`
    pub cache: State,
}

/// The query projection.
#[derive(Debug, Clone)]
pub enum Query {
    /// Through a low rank, with a norm between.
    LowRank {
        /// `[rank, D]`
        a: Param,
        /// `[rank]`
        norm: Param,
        /// `[H * (nope + rope), rank]`
        b: Param,
    },
    /// `[H * (nope + rope), D]`
    Full(Param),
}

/// Extents and constants that the layers of a model have in common.
#[derive(Debug, Clone)]
pub struct LatentShape {
    /// Tokens of a step.
    pub tokens: Dim,
    /// Positions so far.
    pub context: Dim,
    /// Query heads, `H`.
    pub heads: u64,
    /// Channels of a head's key without rotation.
    pub nope: u64,
    /// Rotated channels.
    pub rope: u64,
    /// Channels of a head's value.
    pub v: u64,
    /// Channels of the cached latent.
    pub latent: u64,
    /// Added to the mean of squares in the norms.
    pub eps: f32,
    /// Factor on the scores.
    pub scale: f32,
}

/// Where a step's tokens are, and how far that turns their keys.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// `[T]`
    pub positions: &'a Tensor,
    /// `[max context, rope / 2, 2]`
    pub table: &'a Param,
}

/// The layer: `[T, D]` to `[T, D]`; the cache is updated.
#[track_caller]
pub fn latent_attention(
    entry: &Entry,
    h: &Tensor,
    w: &LatentAttention,
    shape: &LatentShape,
    at: Rotation<'_>,
) -> Tensor {
    let LatentShape { heads, nope, v, .. } = *shape;
    let (q, q_rope) = &queries(h, &w.q, shape, at);
    let (latents, k_rope) = &cached_latents(entry, h, w, shape, at);
    let attend = || {
        let kv = linear(latents, &w.kv_b).reshape((&shape.context, heads, nope + v));
        attention(Attention {
            q,
            q_rope,
            k: &kv.slice(2, 0..nope),
            k_rope,
            v: &kv.slice(2, nope..nope + v),
            positions: at.positions,
            scale: shape.scale,
        })
    };
    let out = entry.allowing(Freedom::ALL, attend);
    linear(&out.reshape((&shape.tokens, heads * v)), &w.o)
}

/// `[T, H, nope]` and the rotated `[T, H, rope]`.
fn queries(h: &Tensor, w: &Query, shape: &LatentShape, at: Rotation<'_>) -> (Tensor, Tensor) {
    let LatentShape {
        heads,
        nope,
        rope,
        eps,
        ..
    } = *shape;
    let q = match w {
        Query::LowRank { a, norm, b } => linear(&linear(h, a).rms_norm(norm, eps), b),
        Query::Full(w) => linear(h, w),
    };
    let q = q.reshape((&shape.tokens, heads, nope + rope));
    let q = q.rope(at.positions, at.table, nope);
    (q.slice(2, 0..nope), q.slice(2, nope..nope + rope))
}

/// Adds this step's tokens to the cache and gives what it then holds of every token so far: its normed latent `[C,
/// latent]`, and one rotated key for all heads `[C, rope]`.
fn cached_latents(
    entry: &Entry,
    h: &Tensor,
    w: &LatentAttention,
    shape: &LatentShape,
    at: Rotation<'_>,
) -> (Tensor, Tensor) {
    let LatentShape {
        latent, rope, eps, ..
    } = *shape;
    let kv = linear(h, &w.kv_a);
    let normed = kv.slice(1, 0..latent).rms_norm(&w.kv_a_norm, eps);
    let row = concat(1, [&normed, &kv.slice(1, latent..latent + rope)]);
    let row = row.rope(at.positions, at.table, latent);
    let cache = w.cache.write(&row, at.positions);
    entry.update(&w.cache, &cache);
    (
        cache.slice(1, 0..latent),
        cache.slice(1, latent..latent + rope),
    )
}
