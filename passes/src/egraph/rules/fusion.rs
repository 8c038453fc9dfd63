//! Rules that replace neighbouring ops by the fused op that is defined as their expansion.
//!
//! ```text
//! sum = add(x, r)                 sum, y, q = add_rms_norm_quantize(x, r, w)
//! y   = rms_norm(sum, w)      ->
//! q   = quantize(y)
//! ```
//!
//! A fused op means its expansion, with every rounding of it (op table), so each equation here is exact by
//! definition. Its first left side is the last op of the expansion; the further equations say that the values on
//! the way are the fused op's other results, so that their other users need not compute them again. A fused
//! result that nobody uses is not written, and not paid for.

use super::{Match, always, holds, rules};

rules! {
    /// y, q = rms_norm_quantize(x, w).
    "fuse-norm-quantize" Exact
        "(quantize (rms_norm ?eps ?x ?w))"
     => "(proj1 (rms_norm_quantize ?eps ?x ?w))",
        "(rms_norm ?eps ?x ?w)"
     => "(proj0 (rms_norm_quantize ?eps ?x ?w))"                            if always;

    /// sum, y = add_rms_norm(x, r, w).
    "fuse-add-norm" Exact
        "(rms_norm ?eps (add ?x ?r) ?w)"
     => "(proj1 (add_rms_norm ?eps ?x ?r ?w))",
        "(add ?x ?r)"
     => "(proj0 (add_rms_norm ?eps ?x ?r ?w))"                              if always;

    /// sum, y, q = add_rms_norm_quantize(x, r, w), where the first two are those of add_rms_norm.
    "fuse-add-norm-quantize" Exact
        "(quantize (proj1 (add_rms_norm ?eps ?x ?r ?w)))"
     => "(proj2 (add_rms_norm_quantize ?eps ?x ?r ?w))",
        "(proj1 (add_rms_norm ?eps ?x ?r ?w))"
     => "(proj1 (add_rms_norm_quantize ?eps ?x ?r ?w))",
        "(proj0 (add_rms_norm ?eps ?x ?r ?w))"
     => "(proj0 (add_rms_norm_quantize ?eps ?x ?r ?w))"                     if always;

    /// q = swiglu_quantize(x).
    "fuse-swiglu-quantize" Exact
        "(quantize (swiglu ?x))"
     => "(swiglu_quantize ?x)"                                              if always;

    /// The cached row of MLA: dc latent channels normed, the dr after them as they are, rotated from channel dc on.
    /// Binding ?positions, ?kv and ?dc in several places makes sure that they are the same ones.
    "fuse-mla-cache-write" Exact
        "(cache_write ?cache (rope ?dc (concat 1 (rms_norm ?eps (slice 1 0 ?dc ?kv) ?w) (slice 1 ?dc ?dr ?kv)) ?positions ?table) ?positions)"
     => "(mla_cache_write ?eps ?cache ?kv ?w ?positions ?table)"            if covers_row;
}

/// The two slices are all of `kv`.
fn covers_row(m: &mut Match<'_>) -> Option<()> {
    let width = m.ty("?kv")?.shape.get(1)?.as_const()?;
    holds(m.int("?dc")?.checked_add(m.int("?dr")?)? == width)
}
