//! Rules about multi-head latent attention (DeepSeek-V2 report, section 2.1.2): keys and values of every head from the
//! latents, or queries and outputs through the latent space.
//!
//! ```text
//! k, v = halves of matmul(latents, kv)                       latents are k and v of one head
//! out  = attention(q, k, v)                              ->  out = (attention(q Wk, latents, latents)) Wv
//! ```
//!
//! `q . (Wk c) = (q Wk) . c` and `sum_j p_j (Wv c_j) = Wv (sum_j p_j c_j)`: associativity. The expanded form rounds
//! keys, values and, with FP8 weights, the latents; the absorbed form rounds queries and the sum of latents, and
//! multiplies in BF16, as DeepSeek's inference code does. Absorbed, a step reads each latent once for all heads and
//! computes `latent / nope` times as much for each score: it wins where few tokens read a long cache.

use mcc_ir::types::Dim;

use super::{Match, always, holds, rules};

rules! {
    /// attention(q, k c, v c) = attention(q k, c, c) v, from FP8 weights.
    "absorb-fp8" Rounding
        "(attention ?scale ?q ?qr (slice 2 0 ?dk (reshape ?heads (matmul bf16 ?promote (quantize ?c) ?w))) ?kr (slice 2 ?dk ?dv (reshape ?heads (matmul bf16 ?promote (quantize ?c) ?w))) ?positions)"
     => "(batched_matmul bf16 (attention ?scale (batched_matmul bf16 ?q (transpose 1 2 (slice 1 0 ?dk (reshape ?rows (dequantize ?w))))) ?qr (reshape ?one ?c) ?kr (reshape ?one ?c) ?positions) (slice 1 ?dk ?dv (reshape ?rows (dequantize ?w))))"
                                                                            if is_latent;

    /// The same from BF16 weights.
    "absorb-bf16" Rounding
        "(attention ?scale ?q ?qr (slice 2 0 ?dk (reshape ?heads (matmul bf16 ?promote ?c ?w))) ?kr (slice 2 ?dk ?dv (reshape ?heads (matmul bf16 ?promote ?c ?w))) ?positions)"
     => "(batched_matmul bf16 (attention ?scale (batched_matmul bf16 ?q (transpose 1 2 (slice 1 0 ?dk (reshape ?rows ?w)))) ?qr (reshape ?one ?c) ?kr (reshape ?one ?c) ?positions) (slice 1 ?dk ?dv (reshape ?rows ?w)))"
                                                                            if is_latent_of_bf16;

    /// The other way, where the author wrote the absorbed form over rows of one matrix. Not of FP8 weights, which the
    /// expanded form would need in BF16: twice the memory, which costs do not see.
    "expand-latents" Rounding
        "(batched_matmul bf16 (attention ?scale (batched_matmul bf16 ?q (transpose 1 2 (slice 1 0 ?dk (reshape ?rows ?w)))) ?qr (reshape ?one ?c) ?kr (reshape ?one ?c) ?positions) (slice 1 ?dk ?dv (reshape ?rows ?w)))"
     => "(attention ?scale ?q ?qr (slice 2 0 ?dk (reshape ?heads (matmul bf16 128 ?c ?w))) ?kr (slice 2 ?dk ?dv (reshape ?heads (matmul bf16 128 ?c ?w))) ?positions)"
                                                                            if is_one_head;

    /// Every head reads the same keys and values: one head of them does.
    "attention-of-one-head" Exact
        "(attention ?scale ?q ?qr (expand 1 ?n ?k) ?kr (expand 1 ?n ?v) ?positions)"
     => "(attention ?scale ?q ?qr ?k ?kr ?v ?positions)"                    if always;
}

/// Rows of `?w` are those of each head's keys and then values, and they are there when a step starts.
fn is_latent(m: &mut Match<'_>) -> Option<()> {
    m.is_loaded("?w")?;
    let [_, latent] = m.extents("?w")?;
    let [c, heads, rows] = m.shape("?heads")? else {
        return None;
    };
    let (c, heads, rows) = (c.clone(), heads.as_const()?, rows.as_const()?);
    holds(m.int("?dk")?.checked_add(m.int("?dv")?)? == rows)?;
    m.bind_shape("?rows", [heads, rows, latent].map(Dim::Const))?;
    m.bind_shape("?one", [c, Dim::Const(1), Dim::Const(latent)])
}

fn is_latent_of_bf16(m: &mut Match<'_>) -> Option<()> {
    holds(m.ty("?w")?.scale.is_none())?;
    is_latent(m)
}

/// `?c` has a row for each position, and its one head is as wide as the row.
fn is_one_head(m: &mut Match<'_>) -> Option<()> {
    let ([c, latent], one) = (m.ty("?c")?.shape.as_slice(), m.shape("?one")?) else {
        return None;
    };
    let [heads, rows, _] = m.shape("?rows")? else {
        return None;
    };
    holds(one == [c.clone(), Dim::Const(1), latent.clone()] && m.ty("?w")?.rank() == 2)?;
    holds(m.node_of(m.id("?w")?, "dequantize").is_none())?;
    holds(m.int("?dk")?.checked_add(m.int("?dv")?)? == rows.as_const()?)?;
    let shape = [c.clone(), heads.clone(), rows.clone()];
    m.bind_shape("?heads", shape)
}
