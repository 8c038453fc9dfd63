//! Rules that quantise behind a movement of data rather than before it.
//!
//! ```text
//! q = reshape(quantize(x), [T, 4 * 128])     ->  q = quantize(reshape(x, [T, 4 * 128]))
//! ```
//!
//! The rules of `quantize.rs` read from right to left. Kernels write scales as products read them, group by group
//! (`[K/128, M]`): a movement of quantised rows then moves scales as well, and where it is none of rows it is a copy.
//! The type rules of `reshape`, `slice` and `concat` let a quantised value through only where its scale groups stay
//! whole, so every match is legal.

use super::{always, rules};

rules! {
    /// reshape(quantize(x)) = quantize(reshape(x)).
    "reshape-before-quantize" Exact
        "(reshape ?shape (quantize ?x))"
     => "(quantize (reshape ?shape ?x))"                                    if always;

    /// quantize(x)[s..s+l] = quantize(x[s..s+l]).
    "slice-before-quantize" Exact
        "(slice ?axis ?s ?len (quantize ?x))"
     => "(quantize (slice ?axis ?s ?len ?x))"                               if always;

    /// quantize(x) ++ quantize(y) = quantize(x ++ y).
    "concat-before-quantize" Exact
        "(concat ?axis (quantize ?x) (quantize ?y))"
     => "(quantize (concat ?axis ?x ?y))"                                   if always;
}
