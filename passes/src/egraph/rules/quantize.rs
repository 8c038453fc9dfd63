//! Rules that move `quantize` to where it is cheapest, or to where an equal one is already computed.
//!
//! ```text
//! rows, offsets, slots = dispatch(x, e)      q = quantize(x)
//! q = quantize(rows)                     ->  rows, offsets, slots = dispatch(q, e)
//! ```
//!
//! `quantize` maps each group of 128 neighbours of the last axis on its own (`docs/ops.md`). It therefore
//! commutes, bit for bit, with every op that moves groups as a whole. The last group of a row may be partial; a
//! partial group is another group than the whole one, so it must stay at the end of its row.
//!
//! Not here, since it does not hold: `quantize(dequantize(q)) = q`, because the largest code of a group need not be 448
//! and the scale is found anew from the rounded product. Of `quantize_pow2` it holds of the numbers, not of the codes.

use mcc_ir::types::ScaleBlock;

use super::{Match, always, holds, rules};

/// Neighbours of the last axis that share a scale.
const GROUP: u64 = ScaleBlock::ACTIVATION.cols as u64;

rules! {
    /// quantize(rows of x) = rows of quantize(x): dispatch copies whole rows. Where it puts them depends on the
    /// experts alone, so the offsets and slots of the two are equal as well.
    "quantize-dispatch" Exact
        "(quantize (proj0 (dispatch ?n ?x ?experts)))"
     => "(proj0 (dispatch ?n (quantize ?x) ?experts))",
        "(proj1 (dispatch ?n ?x ?experts))"
     => "(proj1 (dispatch ?n (quantize ?x) ?experts))",
        "(proj2 (dispatch ?n ?x ?experts))"
     => "(proj2 (dispatch ?n (quantize ?x) ?experts))"                      if always;

    /// quantize(reshape(x)) = reshape(quantize(x)): row-major order keeps neighbours, and the groups are the same
    /// ones when rows keep their width, or when both widths are whole groups.
    "quantize-reshape" Exact
        "(quantize (reshape ?shape ?x))"
     => "(reshape ?shape (quantize ?x))"                                    if keeps_groups;

    /// quantize(x[s..s+l]) = quantize(x)[s..s+l]: true of an outer axis, since rows stay whole; of the last axis
    /// when both cuts fall between groups.
    "quantize-slice" Exact
        "(quantize (slice ?axis ?s ?len ?x))"
     => "(slice ?axis ?s ?len (quantize ?x))"                               if cuts_between_groups;

    /// quantize(rows of a table) = rows of the quantised table.
    "quantize-gather" Exact
        "(quantize (gather ?table ?index))"
     => "(gather (quantize ?table) ?index)"                                 if always;

    /// quantize(x ++ y) = quantize(x) ++ quantize(y): true of an outer axis, since rows stay whole; of the last axis
    /// when the seam falls between groups.
    "quantize-concat" Exact
        "(quantize (concat ?axis ?x ?y))"
     => "(concat ?axis (quantize ?x) (quantize ?y))"                        if seam_between_groups;

    /// quantize(x turned) = quantize(x) turned, when the last axis stays where it is.
    "quantize-transpose" Exact
        "(quantize (transpose ?a ?b ?x))"
     => "(transpose ?a ?b (quantize ?x))"                                   if rows_stay_whole;

    /// quantize(x repeated) = quantize(x) repeated, along an outer axis.
    "quantize-expand" Exact
        "(quantize (expand ?axis ?len ?x))"
     => "(expand ?axis ?len (quantize ?x))"                                 if is_outer_axis;

    /// What quantize_pow2 made of x holds the numbers that come out, so quantising them again changes none: the largest
    /// code of a group is at least 224, and where it is just that the second scale is half of the first one and codes
    /// are doubled.
    "requantize-pow2" Exact
        "(dequantize (quantize_pow2 (dequantize (quantize_pow2 ?x))))"
     => "(dequantize (quantize_pow2 ?x))"                                   if always;

    /// The same below a product: twice the codes are twice the tensor core's sum, bit for bit, and half of the scale.
    "requantize-pow2-matmul" Exact
        "(matmul ?out ?promote (quantize_pow2 (dequantize (quantize_pow2 ?x))) ?w)"
     => "(matmul ?out ?promote (quantize_pow2 ?x) ?w)"                      if always;
}

/// Whether the attribute names an axis before the last one of the value.
fn outer_axis(m: &Match<'_>, value: &str, axis: &str) -> Option<bool> {
    Some(m.int(axis)?.checked_add(1)? < m.ty(value)?.rank() as u64)
}

fn is_outer_axis(m: &mut Match<'_>) -> Option<()> {
    holds(outer_axis(m, "?x", "?axis")?)
}

fn rows_stay_whole(m: &mut Match<'_>) -> Option<()> {
    holds(outer_axis(m, "?x", "?a")? && outer_axis(m, "?x", "?b")?)
}

fn seam_between_groups(m: &mut Match<'_>) -> Option<()> {
    holds(outer_axis(m, "?x", "?axis")? || m.ty("?x")?.last()?.is_multiple_of(GROUP))
}

fn keeps_groups(m: &mut Match<'_>) -> Option<()> {
    let (before, after) = (m.ty("?x")?.last()?, m.shape("?shape")?.last()?);
    holds(before == after || (before.is_multiple_of(GROUP) && after.is_multiple_of(GROUP)))
}

fn cuts_between_groups(m: &mut Match<'_>) -> Option<()> {
    let (axis, rank) = (m.int("?axis")?, m.ty("?x")?.rank() as u64);
    if axis + 1 < rank {
        return Some(());
    }
    let (start, extent) = (m.int("?s")?, m.extent("?x", "?axis")?);
    let end = start.checked_add(m.int("?len")?)?;
    holds(start.is_multiple_of(GROUP) && (end.is_multiple_of(GROUP) || end == extent))
}
