//! Matrix products: dense, over heads, over experts, and weight gradients.
//!
//! Block-scaled products are exact to the bit ([`crate::numerics`]). BF16 products, whose order of
//! sums is not defined, are computed in `f64` and rounded once, so that a kernel may differ by its own
//! FP32 error followed by one rounding.

use super::dense::{float, int, width};
use super::error::{EvalError, indices};
use super::tensor::Tensor;
use crate::numerics::{self, BLOCK, BlockScaledGemm, RowScaledGemm, round_bf16_f64};
use crate::types::{DType, ScaleBlock};

/// Rounds an accumulator to the result type.
fn finish(out: DType, shape: &[usize], acc: Vec<f32>) -> Result<Tensor, EvalError> {
    Ok(if out == DType::F32 {
        Tensor::f32(shape, acc)?
    } else {
        Tensor::bf16(shape, acc)?
    })
}

/// `x [m, k] * w [n, k]^T` of rows held as floats, in `f64`, rounded once to `out`.
fn float_product(x: &[f32], w: &[f32], k: usize, out: DType) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(&x, &y)| f64::from(x) * f64::from(y))
            .sum::<f64>()
    };
    let round = |v: f64| {
        if out == DType::F32 {
            v as f32
        } else {
            round_bf16_f64(v)
        }
    };
    x.chunks_exact(k.max(1))
        .flat_map(|row| {
            w.chunks_exact(k.max(1))
                .map(move |col| round(dot(row, col)))
        })
        .collect()
}

/// One expert's or the only product, of either kind of operand; `[rows, n]` before shaping.
fn product(
    op: &'static str,
    x: &Tensor,
    w: &Tensor,
    out: DType,
    promote: u32,
) -> Result<Vec<f32>, EvalError> {
    let (n, k) = (w.shape()[w.shape().len() - 2], width(w));
    let (Some(a), Some(b)) = (x.as_scaled(), w.as_scaled()) else {
        return Ok(float_product(float(op, x)?, float(op, w)?, k, out));
    };
    let group = numerics::scale_group(promote, k).and_then(|group| u32::try_from(group).ok());
    let (rows, cols) = (BLOCK as u32, group.unwrap_or_default());
    if a.block != (ScaleBlock { rows: 1, cols }) || b.block != (ScaleBlock { rows, cols }) {
        let why = format!(
            "expected scales 1x{cols} and {rows}x{cols}, got {} and {}",
            a.block, b.block
        );
        return Err(EvalError::operands(op, why));
    }
    let gemm = BlockScaledGemm {
        n,
        k,
        a: &a.codes,
        a_scales: &a.scales,
        b: &b.codes,
        b_scales: &b.scales,
        promote,
    };
    numerics::gemm_block_scaled(&gemm).map_err(|source| EvalError::Numerics { op, source })
}

/// `x [M, K] * w [N, K]^T`.
pub(super) fn matmul(
    x: &Tensor,
    w: &Tensor,
    out: DType,
    promote: u32,
) -> Result<Tensor, EvalError> {
    finish(
        out,
        &[x.shape()[0], w.shape()[0]],
        product("matmul", x, w, out, promote)?,
    )
}

/// `x [M, H, K] * w [H, N, K]^T`, head by head.
pub(super) fn batched_matmul(x: &Tensor, w: &Tensor, out: DType) -> Result<Tensor, EvalError> {
    let op = "batched_matmul";
    let ([m, heads, k], n) = ([x.shape()[0], x.shape()[1], x.shape()[2]], w.shape()[1]);
    let (x, w) = (float(op, x)?, float(op, w)?);
    let mut acc = Vec::with_capacity(m * heads * n);
    for (i, row) in x.chunks_exact(k.max(1)).enumerate() {
        acc.extend(float_product(
            row,
            &w[(i % heads) * n * k..][..n * k],
            k,
            out,
        ));
    }
    finish(out, &[m, heads, n], acc)
}

/// Rows `offsets[e]..offsets[e + 1]` of `x [R, K]` times `w[e] [N, K]^T`; the rows behind the last offset are zero.
pub(super) fn grouped_matmul(
    x: &Tensor,
    w: &Tensor,
    offsets: &Tensor,
    out: DType,
    promote: u32,
) -> Result<Tensor, EvalError> {
    let op = "grouped_matmul";
    let (rows, [experts, n, k]) = (x.shape()[0], [w.shape()[0], w.shape()[1], w.shape()[2]]);
    let offsets = indices(op, "offset", int(op, offsets)?, rows + 1)?;
    if offsets.first() != Some(&0) || !offsets.is_sorted() {
        return Err(EvalError::operands(
            op,
            format!("offsets must rise from 0, got {offsets:?}"),
        ));
    }
    let mut acc = Vec::with_capacity(rows * n);
    for e in 0..experts {
        let group = x.rows(offsets[e], offsets[e + 1] - offsets[e]);
        let weight = w.rows(e, 1).and_then(|w| w.reshaped(&[n, k]));
        let (Some(group), Some(weight)) = (group, weight) else {
            return Err(cut(op));
        };
        acc.extend(product(op, &group, &weight, out, promote)?);
    }
    acc.resize(rows * n, 0.0);
    finish(out, &[rows, n], acc)
}

/// The first `counts[e]` rows of `x[e] [C, K]` times `w[e] [N, K]^T`; the other rows are zero.
pub(super) fn masked_matmul(
    x: &Tensor,
    w: &Tensor,
    counts: &Tensor,
    out: DType,
    promote: u32,
) -> Result<Tensor, EvalError> {
    let op = "masked_matmul";
    let ([rows, k], [experts, n]) = ([x.shape()[1], width(x)], [w.shape()[0], w.shape()[1]]);
    let counts = indices(op, "count", int(op, counts)?, rows + 1)?;
    let mut acc = Vec::with_capacity(experts * rows * n);
    for (e, &count) in counts.iter().enumerate() {
        let matrix = |t: &Tensor, rows| t.rows(e, 1).and_then(|t| t.reshaped(&[rows, k]));
        let used = matrix(x, rows).and_then(|x| x.rows(0, count));
        let (Some(used), Some(weight)) = (used, matrix(w, n)) else {
            return Err(cut(op));
        };
        acc.extend(product(op, &used, &weight, out, promote)?);
        acc.resize((e + 1) * rows * n, 0.0);
    }
    finish(out, &[experts, rows, n], acc)
}

/// `acc[e] + x [M, K] * y [N, K]^T` over the `offsets[e]..offsets[e + 1]` of K.
pub(super) fn weight_grad(
    x: &Tensor,
    y: &Tensor,
    offsets: &Tensor,
    acc: &Tensor,
    promote: u32,
) -> Result<Tensor, EvalError> {
    let op = "weight_grad";
    let (k, n) = (width(x), y.shape()[0]);
    let offsets = indices(op, "offset", int(op, offsets)?, k + 1)?;
    if !offsets.is_sorted() {
        return Err(EvalError::operands(
            op,
            format!("offsets must rise, got {offsets:?}"),
        ));
    }
    let mut out = float(op, acc)?.to_vec();
    let per_expert = (x.shape()[0] * n).max(1);
    for (sums, part) in out.chunks_exact_mut(per_expert).zip(offsets.windows(2)) {
        let part = part[0]..part[1];
        if part.is_empty() {
            continue;
        }
        let gradient = match (x.as_scaled(), y.as_scaled()) {
            (Some(a), Some(b)) => numerics::gemm_row_scaled(&RowScaledGemm {
                k,
                a: &a.codes,
                a_scales: &a.scales,
                b: &b.codes,
                b_scales: &b.scales,
                part,
                promote,
            })
            .map_err(|source| EvalError::Numerics { op, source })?,
            _ => {
                let columns = |t| -> Result<Vec<f32>, EvalError> {
                    let rows = float(op, t)?.chunks_exact(k.max(1));
                    Ok(rows.flat_map(|row| &row[part.clone()]).copied().collect())
                };
                float_product(&columns(x)?, &columns(y)?, part.len(), DType::F32)
            }
        };
        sums.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
    }
    Ok(Tensor::f32(acc.shape(), out)?)
}

fn cut(op: &str) -> EvalError {
    EvalError::operands(op, "a group does not start on a scale block")
}
