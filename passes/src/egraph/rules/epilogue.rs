//! Rules that hand what follows a matrix product to the kernel that has the product's sums in registers.
//!
//! ```text
//! y = matmul(x, w)                           y = grouped_matmul(x, w, offsets)
//! h = add(y, r)      ->  h = matmul_add(..)  q = swiglu_quantize(y)             ->  q = grouped_matmul_swiglu_quantize(..)
//! ```
//!
//! The fused ops are defined as these expansions, with every rounding of them, so the equations are exact. What is
//! gained is the product's way to memory and back, and a launch; a product that others read as well is computed once
//! and stays as it is, which the costs see.

use mcc_ir::types::DType;

use super::{Match, always, holds, rules};

/// Columns of the gate that have a scale together; a kernel has the gate's and up's of a group in one tile.
const GROUP: u64 = 128;

rules! {
    /// add(matmul(x, w), r) = matmul_add(x, w, r).
    "fuse-matmul-add" Exact
        "(add (matmul ?out ?promote ?x ?w) ?r)"
     => "(matmul_add ?out ?promote ?x ?w ?r)"                               if always;

    /// add(r, matmul(x, w)) = matmul_add(x, w, r): an f32 sum of two does not depend on their order.
    "fuse-add-matmul" Exact
        "(add ?r (matmul ?out ?promote ?x ?w))"
     => "(matmul_add ?out ?promote ?x ?w ?r)"                               if always;

    /// swiglu_quantize(matmul(x, w)) = matmul_swiglu_quantize(x, w). SwiGLU takes BF16, so ?out is BF16.
    "fuse-matmul-swiglu" Exact
        "(swiglu_quantize (matmul ?out ?promote ?x ?w))"
     => "(matmul_swiglu_quantize ?promote ?x ?w)"                           if whole_groups;

    /// quantize(scale_rows(swiglu(matmul(x, w)), s)) = matmul_swiglu_scale_quantize(x, w, s).
    "fuse-matmul-swiglu-scale" Exact
        "(quantize (scale_rows (swiglu (matmul ?out ?promote ?x ?w)) ?s))"
     => "(matmul_swiglu_scale_quantize ?promote ?x ?w ?s)"                  if whole_groups;

    /// swiglu_quantize(grouped_matmul(x, w, o)) = grouped_matmul_swiglu_quantize(x, w, o).
    "fuse-grouped-matmul-swiglu" Exact
        "(swiglu_quantize (grouped_matmul ?out ?promote ?x ?w ?offsets))"
     => "(grouped_matmul_swiglu_quantize ?promote ?x ?w ?offsets)"          if whole_groups;

    /// quantize(scale_rows(swiglu(grouped_matmul(x, w, o)), s)) = grouped_matmul_swiglu_scale_quantize(x, w, o, s).
    "fuse-grouped-matmul-swiglu-scale" Exact
        "(quantize (scale_rows (swiglu (grouped_matmul ?out ?promote ?x ?w ?offsets)) ?s))"
     => "(grouped_matmul_swiglu_scale_quantize ?promote ?x ?w ?offsets ?s)" if whole_groups;
}

/// Kernels exist for block-scaled operands, and where gate and up both are whole scale groups.
fn whole_groups(m: &mut Match<'_>) -> Option<()> {
    let (x, w) = (m.ty("?x")?, m.ty("?w")?);
    let columns = w.shape.get(w.rank().checked_sub(2)?)?.as_const()?;
    holds(x.dtype == DType::E4M3 && columns.is_multiple_of(2 * GROUP))
}
