//! Rules about routed experts: where a routing weight is applied, the shared expert as one of the routed ones, and
//! what follows the way back from the experts.
//!
//! ```text
//! rows, offsets, slots = dispatch(x, experts)
//! y = grouped_matmul(quantize(h), down, offsets)             y = grouped_matmul(quantize(h * w[row]), down, offsets)
//! out = combine(y, slots, w)                             ->  out = combine_sum(y, slots)
//! ```
//!
//! Weights before the down projection ride along with SwiGLU and its quantisation, and the way back adds up rows
//! without reading weights; behind it they are multiplied into exact products. In real numbers both are the same; in
//! FP8 the rows are rounded at another scale.
//!
//! Rules name `dispatch` where the slots must be distinct: rows that two slots share can carry one weight only.

use mcc_ir::types::Dim;

use super::{Match, always, holds, rules};

rules! {
    /// sum_s w_s (W h_s) = sum_s W (w_s h_s).
    "weigh-before-down" Rounding
        "(combine (grouped_matmul bf16 ?promote (quantize ?h) ?down ?offsets) (proj2 (dispatch ?n ?x ?experts)) ?weights)"
     => "(combine_sum (grouped_matmul bf16 ?promote (quantize (scale_rows ?h (row_weights (proj2 (dispatch ?n ?x ?experts)) ?weights))) ?down ?offsets) (proj2 (dispatch ?n ?x ?experts)))"
                                                                            if always;

    /// The other way.
    "weigh-at-combine" Rounding
        "(combine_sum (grouped_matmul bf16 ?promote (quantize (scale_rows ?h (row_weights (proj2 (dispatch ?n ?x ?experts)) ?weights))) ?down ?offsets) (proj2 (dispatch ?n ?x ?experts)))"
     => "(combine (grouped_matmul bf16 ?promote (quantize ?h) ?down ?offsets) (proj2 (dispatch ?n ?x ?experts)) ?weights)"
                                                                            if always;

    /// shared(x) + combine(experts of x) = combine(experts of x and, for every token, the shared one with weight 1):
    /// one sum of f32, where there were two that were rounded.
    "shared-as-routed" Rounding
        "(add (matmul bf16 ?promote (quantize (swiglu (matmul bf16 ?promote (quantize ?x) ?sg))) ?sd) (combine (grouped_matmul bf16 ?promote (quantize (swiglu (grouped_matmul bf16 ?promote (quantize (proj0 (dispatch ?n ?x ?experts))) ?g (proj1 (dispatch ?n ?x ?experts))))) ?d (proj1 (dispatch ?n ?x ?experts))) (proj2 (dispatch ?n ?x ?experts)) ?weights))"
     => "(combine (grouped_matmul bf16 ?promote (quantize (swiglu (grouped_matmul bf16 ?promote (quantize (proj0 (dispatch ?all ?x (proj0 (append_expert ?n 1.0 ?experts ?weights))))) (concat 0 ?g (reshape ?gate_up ?sg)) (proj1 (dispatch ?all ?x (proj0 (append_expert ?n 1.0 ?experts ?weights))))))) (concat 0 ?d (reshape ?down ?sd)) (proj1 (dispatch ?all ?x (proj0 (append_expert ?n 1.0 ?experts ?weights))))) (proj2 (dispatch ?all ?x (proj0 (append_expert ?n 1.0 ?experts ?weights)))) (proj1 (append_expert ?n 1.0 ?experts ?weights)))"
                                                                            if is_an_expert;

    /// add(combine(y, slots, w), r) = combine_add(y, slots, w, r).
    "combine-add" Exact
        "(add (combine ?y ?slots ?weights) ?r)"
     => "(combine_add ?y ?slots ?weights ?r)"                               if always;

    /// add(r, combine(y, slots, w)) = combine_add(y, slots, w, r): an f32 sum of two does not depend on their order.
    "add-combine" Exact
        "(add ?r (combine ?y ?slots ?weights))"
     => "(combine_add ?y ?slots ?weights ?r)"                               if always;

    /// sum, y, q = combine_add_rms_norm_quantize(y, slots, w, r, norm).
    "combine-add-norm-quantize" Exact
        "(quantize (rms_norm ?eps (combine_add ?y ?slots ?weights ?r) ?norm))"
     => "(proj2 (combine_add_rms_norm_quantize ?eps ?y ?slots ?weights ?r ?norm))",
        "(rms_norm ?eps (combine_add ?y ?slots ?weights ?r) ?norm)"
     => "(proj1 (combine_add_rms_norm_quantize ?eps ?y ?slots ?weights ?r ?norm))",
        "(combine_add ?y ?slots ?weights ?r)"
     => "(proj0 (combine_add_rms_norm_quantize ?eps ?y ?slots ?weights ?r ?norm))"
                                                                            if always;
}

/// The shared expert is as wide as a routed one, and all of them are there when a step starts.
fn is_an_expert(m: &mut Match<'_>) -> Option<()> {
    for weight in ["?sg", "?sd", "?g", "?d"] {
        m.is_loaded(weight)?;
    }
    let ([rows, k], [out, inner]) = (m.extents("?sg")?, m.extents("?sd")?);
    let ([_, expert_rows, _], [_, _, expert_inner]) = (m.extents("?g")?, m.extents("?d")?);
    holds((rows, inner) == (expert_rows, expert_inner))?;
    let all = m.int("?n")?.checked_add(1)?;
    m.bind("?all", all)?;
    m.bind_shape("?gate_up", [1, rows, k].map(Dim::Const))?;
    m.bind_shape("?down", [1, out, inner].map(Dim::Const))
}
