//! Inference rules: result types of each op from the types of its operands.
//!
//! In: operand types (each well formed by itself) and attributes. Out: result types, or a [`TypeError`] that
//! names the operand or attribute at fault. Dims are compared as written: `T` is not `C`, `4*T` is not `2*T`,
//! because their run-time values are open.

mod exchange;
mod product;
mod signature;

pub(crate) use exchange::*;
pub(crate) use product::*;
pub use signature::Signature;
pub(crate) use signature::names;

use crate::kernel::NO_PROMOTION;
use crate::op::TypeError;
use crate::types::DType::{BF16, E4M3, F32 as DF32, I32};
use crate::types::{Dim, F32, ScaleBlock, Type};

type Inferred = Result<Vec<Type>, TypeError>;

/// Elements along K that share a scale, unless a product says otherwise.
const GROUP: u64 = ScaleBlock::ACTIVATION.cols as u64;

pub(crate) fn gather(s: &Signature<'_>) -> Inferred {
    let table = s.ty(0);
    let [_, d] = s.movable_rows(0)?;
    let [r] = s.dims(1)?;
    Ok(vec![table.with_shape(vec![r.clone(), d.clone()])])
}

pub(crate) fn add(s: &Signature<'_>) -> Inferred {
    let a = s.ty(0);
    if !matches!(a.dtype, BF16 | DF32) {
        return Err(s.operand(0, s.form(0)));
    }
    if s.ty(1) != a {
        return Err(s.operand(1, format!("{a}, the type of `{}`", s.row.operand_name(0))));
    }
    Ok(vec![a.clone()])
}

/// `w[D]` over the last axis of operand `x`.
fn norm(s: &Signature<'_>, x: usize, w: usize, eps: F32) -> Result<Type, TypeError> {
    let (_, d) = s.bf16_rows(x)?;
    let [_] = s.dims(w)?;
    s.same(w, 0, "D", d)?;
    s.finite("eps", eps, 0.0)?;
    Ok(s.ty(x).clone())
}

fn quantized(ty: &Type) -> Type {
    Type {
        dtype: E4M3,
        scale: Some(ScaleBlock::ACTIVATION),
        ..ty.clone()
    }
}

pub(crate) fn rms_norm(s: &Signature<'_>, eps: F32) -> Inferred {
    Ok(vec![norm(s, 0, 1, eps)?])
}

pub(crate) fn quantize(s: &Signature<'_>) -> Inferred {
    s.bf16_rows(0)?;
    Ok(vec![quantized(s.ty(0))])
}

pub(crate) fn quantize_wide(s: &Signature<'_>, group: u32) -> Inferred {
    let (_, width) = s.bf16_rows(0)?;
    let cols = match group {
        256 | 512 => group,
        NO_PROMOTION => width
            .as_const()
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| {
                s.operand(
                    0,
                    "a constant last axis, since one scale is to cover all of it",
                )
            })?,
        _ => {
            return Err(s.attr(
                "group",
                "256, 512 or none (`quantize` has groups of 128)",
                group,
            ));
        }
    };
    Ok(vec![Type {
        scale: Some(ScaleBlock { rows: 1, cols }),
        ..quantized(s.ty(0))
    }])
}

/// `s` has one weight for each row of `x`.
fn row_weights(s: &Signature<'_>, weights: usize, rows: &[Dim]) -> Result<(), TypeError> {
    let ty = s.ty(weights);
    if ty.dtype == DF32 && ty.shape == rows {
        return Ok(());
    }
    Err(s.operand(
        weights,
        format!("{}, one for each row", Type::new(DF32, rows)),
    ))
}

pub(crate) fn scale_rows(s: &Signature<'_>) -> Inferred {
    let (rows, _) = s.bf16_rows(0)?;
    if rows.is_empty() {
        return Err(s.operand(0, "rows: at least two axes"));
    }
    row_weights(s, 1, rows)?;
    Ok(vec![s.ty(0).clone()])
}

pub(crate) fn dequantize(s: &Signature<'_>) -> Inferred {
    let x = s.ty(0);
    if x.dtype != E4M3 {
        return Err(s.operand(0, "a block-scaled e4m3 value"));
    }
    Ok(vec![Type::new(BF16, &x.shape)])
}

pub(crate) fn swiglu(s: &Signature<'_>) -> Inferred {
    let (rows, _) = s.bf16_rows(0)?;
    let width = s.constant(0, rows.len(), "2*I")?;
    if !width.is_multiple_of(2) {
        return Err(s.operand(0, "an even last axis: gate, then up"));
    }
    let shape = rows
        .iter()
        .cloned()
        .chain([Dim::Const(width / 2)])
        .collect();
    Ok(vec![s.ty(0).with_shape(shape)])
}

/// `positions` and `table` fit the tokens of `x`, and channels `start..start + dr` are in its last axis.
fn check_rope(
    s: &Signature<'_>,
    t: &Dim,
    width: u64,
    positions: usize,
    table: usize,
    start: u64,
) -> Result<(), TypeError> {
    let [_] = s.dims(positions)?;
    s.same(positions, 0, "T", t)?;
    let [_, _, _] = s.dims(table)?;
    s.same(table, 2, "(cos, sin)", &Dim::Const(2))?;
    let half = s.constant(table, 1, "dr/2")?;
    let end = half.checked_mul(2).and_then(|dr| dr.checked_add(start));
    if end.is_none_or(|end| end > width) {
        return Err(s.operand(
            table,
            format!(
                "at most {} rotated channels from {start} on",
                width.saturating_sub(start)
            ),
        ));
    }
    Ok(())
}

pub(crate) fn rope(s: &Signature<'_>, start: u64) -> Inferred {
    let x = s.ty(0);
    if x.dtype != BF16 || !matches!(x.rank(), 2 | 3) {
        return Err(s.operand(0, s.form(0)));
    }
    let width = s.constant(0, x.rank() - 1, "D")?;
    check_rope(s, &x.shape[0], width, 1, 2, start)?;
    Ok(vec![x.clone()])
}

/// The block extent along `axis`, 1 where scales do not care.
fn block_extent(ty: &Type, axis: usize) -> u64 {
    let block = ty.scale.unwrap_or(ScaleBlock { rows: 1, cols: 1 });
    match ty.rank() - axis {
        1 => u64::from(block.cols),
        2 => u64::from(block.rows),
        _ => 1,
    }
}

pub(crate) fn slice(s: &Signature<'_>, axis: usize, start: u64, len: u64) -> Inferred {
    let x = s.ty(0);
    if axis >= x.rank() {
        return Err(s.attr(
            "axis",
            format!("below {}, the number of axes of {x}", x.rank()),
            axis,
        ));
    }
    let extent = s.constant(0, axis, "to slice")?;
    let end = start
        .checked_add(len)
        .filter(|end| *end <= extent && len > 0);
    let Some(end) = end else {
        return Err(s.attr(
            "len",
            format!(
                "1 to {} from index {start} on",
                extent.saturating_sub(start)
            ),
            len,
        ));
    };
    // A scale must cover the same elements before and after, so cuts fall between blocks.
    let block = block_extent(x, axis);
    if !start.is_multiple_of(block) {
        return Err(s.attr(
            "start",
            format!("a multiple of {block}, the scale block of {x}"),
            start,
        ));
    }
    if !end.is_multiple_of(block) && end != extent {
        return Err(s.attr(
            "len",
            format!("a multiple of {block}, the scale block of {x}"),
            len,
        ));
    }
    let mut shape = x.shape.clone();
    shape[axis] = Dim::Const(len);
    Ok(vec![x.with_shape(shape)])
}

pub(crate) fn concat(s: &Signature<'_>, axis: usize) -> Inferred {
    let first = s.ty(0);
    if axis >= first.rank() {
        return Err(s.attr(
            "axis",
            format!("below {}, the number of axes of {first}", first.rank()),
            axis,
        ));
    }
    let mut total = first.shape[axis].clone();
    for i in 1..s.types.len() {
        let ty = s.ty(i);
        let mut shape = first.shape.clone();
        let fits = ty.rank() == first.rank() && {
            shape[axis] = ty.shape[axis].clone();
            first.with_shape(shape) == *ty
        };
        if !fits {
            return Err(s.operand(i, format!("{first} up to the extent of axis {axis}")));
        }
        let block = block_extent(first, axis);
        if !s.ty(i - 1).shape[axis].is_multiple_of(block) {
            let expected = format!(
                "a multiple of {block} on axis {axis}, the scale block, since more follows"
            );
            return Err(s.operand(i - 1, expected));
        }
        total = total.plus(&ty.shape[axis]).ok_or_else(|| {
            s.operand(
                i,
                format!("an extent on axis {axis} that {total} can be added to"),
            )
        })?;
    }
    let mut shape = first.shape.clone();
    shape[axis] = total;
    Ok(vec![first.with_shape(shape)])
}

/// Number of elements as a constant and the names that multiply it, sorted.
fn elements(shape: &[Dim]) -> Option<(u64, Vec<&str>)> {
    let mut factor: u64 = 1;
    let mut names = Vec::new();
    for dim in shape {
        match dim {
            Dim::Const(n) => factor = factor.checked_mul(*n)?,
            Dim::Sym { factor: n, name } => {
                factor = factor.checked_mul(*n)?;
                names.push(name.as_str());
            }
        }
    }
    names.sort_unstable();
    Some((factor, names))
}

pub(crate) fn reshape(s: &Signature<'_>, shape: &[Dim]) -> Inferred {
    let x = s.ty(0);
    let to = x.with_shape(shape.to_vec());
    to.check_at_run_time()
        .map_err(|why| s.attr("shape", format!("a well-formed type ({why})"), &to))?;
    let (before, after) = (elements(&x.shape), elements(shape));
    if before.is_none() || before != after {
        return Err(s.attr("shape", format!("as many elements as {x}"), &to));
    }
    if let Some(block) = x.scale {
        // Groups of `cols` neighbours stay the same when the last axis does, or when both are whole groups. With
        // blocks over rows the last axis must stay, and rows follow the same rule one axis further out.
        let same = |back: usize| {
            x.rank() >= back
                && to.rank() >= back
                && x.shape[x.rank() - back] == to.shape[to.rank() - back]
        };
        let whole = |back: usize, n: u32| {
            let n = u64::from(n);
            x.rank() >= back
                && to.rank() >= back
                && x.shape[x.rank() - back].is_multiple_of(n)
                && to.shape[to.rank() - back].is_multiple_of(n)
        };
        let legal = if block.rows == 1 {
            same(1) || whole(1, block.cols)
        } else {
            same(1) && (same(2) || whole(2, block.rows))
        };
        if !legal {
            return Err(s.attr(
                "shape",
                format!("a shape that keeps the {block} scale blocks of {x} together"),
                &to,
            ));
        }
    }
    Ok(vec![to])
}

/// Both are axes of operand 0.
fn axis_of(s: &Signature<'_>, name: &'static str, axis: usize) -> Result<(), TypeError> {
    let x = s.ty(0);
    if axis < x.rank() {
        return Ok(());
    }
    let expected = format!("below {}, the number of axes of {x}", x.rank());
    Err(s.attr(name, expected, axis))
}

pub(crate) fn transpose(s: &Signature<'_>, a: usize, b: usize) -> Inferred {
    let x = s.ty(0);
    axis_of(s, "a", a)?;
    axis_of(s, "b", b)?;
    if block_extent(x, a) != block_extent(x, b) {
        let expected =
            format!("an axis along which the scale blocks of {x} are as long as along axis {a}");
        return Err(s.attr("b", expected, b));
    }
    let mut shape = x.shape.clone();
    shape.swap(a, b);
    Ok(vec![x.with_shape(shape)])
}

pub(crate) fn expand(s: &Signature<'_>, axis: usize, len: u64) -> Inferred {
    let x = s.ty(0);
    axis_of(s, "axis", axis)?;
    if x.shape[axis] != Dim::Const(1) || block_extent(x, axis) != 1 {
        let expected =
            format!("an axis of extent 1 in {x}, and one along which no scale block runs");
        return Err(s.attr("axis", expected, axis));
    }
    if len == 0 {
        return Err(s.attr("len", "at least 1", len));
    }
    let mut shape = x.shape.clone();
    shape[axis] = Dim::Const(len);
    Ok(vec![x.with_shape(shape)])
}

pub(crate) fn cache_write(s: &Signature<'_>) -> Inferred {
    let [_, d] = s.dims(0)?;
    let [t, _] = s.dims(1)?;
    s.same(1, 1, "D", d)?;
    let [_] = s.dims(2)?;
    s.same(2, 0, "T", t)?;
    Ok(vec![s.ty(0).clone()])
}

pub(crate) fn attention(s: &Signature<'_>, scale: F32) -> Inferred {
    let [t, h, dk] = s.dims(0)?;
    let [_, _, dr] = s.dims(1)?;
    s.same(1, 0, "T", t)?;
    s.same(1, 1, "H", h)?;
    let [c, hk, _] = s.dims(2)?;
    if hk != h && *hk != Dim::Const(1) {
        return Err(s.operand(2, format!("{h} heads, or one, on axis 1")));
    }
    s.same(2, 2, "dk", dk)?;
    let [_, _] = s.dims(3)?;
    s.same(3, 0, "C", c)?;
    s.same(3, 1, "dr", dr)?;
    let [_, _, dv] = s.dims(4)?;
    s.same(4, 0, "C", c)?;
    s.same(4, 1, "Hk", hk)?;
    let [_] = s.dims(5)?;
    s.same(5, 0, "T", t)?;
    s.finite("scale", scale, f32::MIN)?;
    Ok(vec![Type::new(BF16, [t, h, dv])])
}

pub(crate) fn route(
    s: &Signature<'_>,
    top_k: u32,
    n_group: u32,
    topk_group: u32,
    scaling: F32,
) -> Inferred {
    let [t, e] = s.dims(0)?;
    let experts = s.constant(0, 1, "E")?;
    let [_] = s.dims(1)?;
    s.same(1, 0, "E", e)?;
    let groups = u64::from(n_group);
    // A group's score is the sum of its two largest, so it has at least two.
    if groups == 0 || !experts.is_multiple_of(groups) || experts / groups < 2 {
        return Err(s.attr(
            "n_group",
            format!("a divisor of {experts} experts that leaves at least 2 a group"),
            n_group,
        ));
    }
    if topk_group == 0 || topk_group > n_group {
        return Err(s.attr("topk_group", format!("1 to {n_group}"), topk_group));
    }
    let candidates = experts / groups * u64::from(topk_group);
    if top_k == 0 || u64::from(top_k) > candidates {
        return Err(s.attr(
            "top_k",
            format!("1 to {candidates}, the experts of {topk_group} group(s)"),
            top_k,
        ));
    }
    s.finite("scaling", scaling, f32::MIN)?;
    let shape = [t.clone(), Dim::Const(top_k.into())];
    Ok(vec![Type::new(I32, &shape), Type::new(DF32, &shape)])
}

pub(crate) fn dispatch(s: &Signature<'_>, n_experts: u32) -> Inferred {
    let x = s.ty(0);
    let [t, d] = s.movable_rows(0)?;
    let [_, _] = s.dims(1)?;
    s.same(1, 0, "T", t)?;
    let k = s.constant(1, 1, "k")?;
    if u64::from(n_experts) < k {
        return Err(s.attr(
            "n_experts",
            format!("at least {k}, the experts a token"),
            n_experts,
        ));
    }
    let rows = s.times(0, t, k)?;
    Ok(vec![
        x.with_shape(vec![rows, d.clone()]),
        Type::new(I32, [u64::from(n_experts) + 1]),
        s.ty(1).clone(),
    ])
}

pub(crate) fn append_expert(s: &Signature<'_>, weight: F32) -> Inferred {
    let [t, k] = s.dims(0)?;
    let [_, _] = s.dims(1)?;
    s.same(1, 0, "T", t)?;
    s.same(1, 1, "k", k)?;
    s.finite("weight", weight, f32::MIN)?;
    let slots = s.constant(0, 1, "k")?.checked_add(1);
    let slots = slots.ok_or_else(|| s.operand(0, "an extent k that 1 can be added to"))?;
    let shape = [t.clone(), Dim::Const(slots)];
    Ok(vec![Type::new(I32, &shape), Type::new(DF32, &shape)])
}

pub(crate) fn row_weights_of_slots(s: &Signature<'_>) -> Inferred {
    let [t, k] = s.dims(0)?;
    let rows = s.times(0, t, s.constant(0, 1, "k")?)?;
    let [_, _] = s.dims(1)?;
    s.same(1, 0, "T", t)?;
    s.same(1, 1, "k", k)?;
    Ok(vec![Type::new(DF32, [rows])])
}

pub(crate) fn combine_sum(s: &Signature<'_>) -> Inferred {
    let [_, d] = s.dims(0)?;
    let [t, _] = s.dims(1)?;
    let rows = s.times(1, t, s.constant(1, 1, "k")?)?;
    s.same(0, 0, "k*T", &rows)?;
    Ok(vec![Type::new(BF16, [t, d])])
}

pub(crate) fn combine(s: &Signature<'_>) -> Inferred {
    let [t, k] = s.dims(1)?;
    let types = combine_sum(s)?;
    let [_, _] = s.dims(2)?;
    s.same(2, 0, "T", t)?;
    s.same(2, 1, "k", k)?;
    Ok(types)
}

pub(crate) fn combine_add(s: &Signature<'_>) -> Inferred {
    let sum = combine(s)?;
    let [_, d] = s.dims(0)?;
    let [t, _] = s.dims(1)?;
    let [_, _] = s.dims(3)?;
    s.same(3, 0, "T", t)?;
    s.same(3, 1, "D", d)?;
    Ok(sum)
}

pub(crate) fn combine_add_rms_norm_quantize(s: &Signature<'_>, eps: F32) -> Inferred {
    combine_add(s)?;
    let y = norm(s, 3, 4, eps)?;
    let q = quantized(&y);
    Ok(vec![y.clone(), y, q])
}

pub(crate) fn sample(s: &Signature<'_>) -> Inferred {
    let [r, _] = s.dims(0)?;
    for i in 1..4 {
        let [_] = s.dims(i)?;
        s.same(i, 0, "R", r)?;
    }
    Ok(vec![Type::new(I32, [r])])
}

pub(crate) fn rms_norm_quantize(s: &Signature<'_>, eps: F32) -> Inferred {
    let y = norm(s, 0, 1, eps)?;
    let q = quantized(&y);
    Ok(vec![y, q])
}

pub(crate) fn add_rms_norm(s: &Signature<'_>, eps: F32) -> Inferred {
    s.bf16_rows(0)?;
    add(s)?;
    let y = norm(s, 0, 2, eps)?;
    Ok(vec![y.clone(), y])
}

pub(crate) fn add_rms_norm_quantize(s: &Signature<'_>, eps: F32) -> Inferred {
    let mut types = add_rms_norm(s, eps)?;
    types.push(quantized(s.ty(0)));
    Ok(types)
}

pub(crate) fn swiglu_quantize(s: &Signature<'_>) -> Inferred {
    Ok(swiglu(s)?.iter().map(quantized).collect())
}

pub(crate) fn mla_cache_write(s: &Signature<'_>, eps: F32) -> Inferred {
    let [_, d] = s.dims(0)?;
    let [t, _] = s.dims(1)?;
    s.same(1, 1, "dc + dr", d)?;
    let width = s.constant(1, 1, "dc + dr")?;
    let [_] = s.dims(2)?;
    let latent = s.constant(2, 0, "dc")?;
    if latent >= width {
        return Err(s.operand(
            2,
            format!("fewer than {width} channels, since rotated ones follow"),
        ));
    }
    check_rope(s, t, width, 3, 4, latent)?;
    // The table rotates all of the channels behind the latent.
    s.same(4, 1, "dr/2", &Dim::Const((width - latent) / 2))?;
    if !(width - latent).is_multiple_of(2) {
        return Err(s.operand(1, "an even number of rotated channels"));
    }
    s.finite("eps", eps, 0.0)?;
    Ok(vec![s.ty(0).clone()])
}
