//! Arithmetic on dense values: sums, norms, activations, rotary embedding and matrix products.
//!
//! Where an op's order of operations is defined (quantise, block-scaled products, add, rope) the
//! result is exact to the bit. Where it is not (norms, SwiGLU, BF16 products) the value is computed
//! in `f64` and rounded once, so that a kernel may differ by its own FP32 error followed by one
//! rounding: at most one unit of the result's format where the FP32 error is far below half a unit.

use super::error::EvalError;
use super::tensor::{Data, Scaled, Tensor, scale_shape};
use crate::numerics::{self, BLOCK, BlockScaledGemm, round_bf16_f64};
use crate::types::{DType, ScaleBlock};

/// FP32 or BF16 data of an operand.
pub(super) fn float<'a>(op: &str, x: &'a Tensor) -> Result<&'a [f32], EvalError> {
    x.as_float()
        .ok_or_else(|| EvalError::operands(op, format!("expected bf16 or f32, got {}", x.ty())))
}

/// I32 data of an operand.
pub(super) fn int<'a>(op: &str, x: &'a Tensor) -> Result<&'a [i32], EvalError> {
    x.as_i32()
        .ok_or_else(|| EvalError::operands(op, format!("expected i32, got {}", x.ty())))
}

fn scaled<'a>(op: &str, x: &'a Tensor) -> Result<&'a Scaled, EvalError> {
    x.as_scaled().ok_or_else(|| {
        EvalError::operands(op, format!("expected block-scaled e4m3, got {}", x.ty()))
    })
}

/// Extent of the last axis, at least 1.
pub(super) fn width(x: &Tensor) -> usize {
    x.shape().last().copied().unwrap_or(1).max(1)
}

/// `a + b` in FP32, rounded once.
pub(super) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor, EvalError> {
    let sum = float("add", a)?
        .iter()
        .zip(float("add", b)?)
        .map(|(x, y)| x + y)
        .collect();
    Ok(match a.data() {
        Data::F32(_) => Tensor::f32(a.shape(), sum)?,
        _ => Tensor::bf16(a.shape(), sum)?,
    })
}

/// `x * rsqrt(mean(x^2) + eps) * w` over the last axis.
pub(super) fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor, EvalError> {
    let w = float("rms_norm", w)?;
    let mut out = Vec::with_capacity(x.shape().iter().product());
    for row in float("rms_norm", x)?.chunks_exact(width(x)) {
        let squares: f64 = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let inverse = 1.0 / (squares / row.len() as f64 + f64::from(eps)).sqrt();
        out.extend(
            row.iter()
                .zip(w)
                .map(|(&v, &w)| round_bf16_f64(f64::from(v) * inverse * f64::from(w))),
        );
    }
    Ok(Tensor::bf16(x.shape(), out)?)
}

/// E4M3 with a scale per 128 of the last axis.
pub(super) fn quantize(x: &Tensor) -> Result<Tensor, EvalError> {
    Ok(Tensor::quantized(x.shape(), float("quantize", x)?)?)
}

/// `bf16(code * scale)`.
pub(super) fn dequantize(x: &Tensor) -> Result<Tensor, EvalError> {
    let s = scaled("dequantize", x)?;
    let (cols, rows) = (
        width(x),
        x.shape().iter().rev().nth(1).copied().unwrap_or(1),
    );
    let grid: usize = scale_shape(&[rows, cols], s.block).iter().product();
    let mut out = Vec::with_capacity(s.codes.len());
    for (codes, scales) in s
        .codes
        .chunks_exact((rows * cols).max(1))
        .zip(s.scales.chunks_exact(grid.max(1)))
    {
        let (block_rows, block_cols) = (s.block.rows as usize, s.block.cols as usize);
        let values = numerics::dequantize_blocks(codes, scales, cols, block_rows, block_cols);
        out.extend(values.map_err(|source| EvalError::Numerics {
            op: "dequantize",
            source,
        })?);
    }
    Ok(Tensor::bf16(x.shape(), out)?)
}

/// `silu(left half) * right half`.
pub(super) fn swiglu(x: &Tensor) -> Result<Tensor, EvalError> {
    let half = width(x) / 2;
    let mut out = Vec::with_capacity(x.shape().iter().product::<usize>() / 2);
    for row in float("swiglu", x)?.chunks_exact(width(x)) {
        let (gate, up) = row.split_at(half);
        out.extend(gate.iter().zip(up).map(|(&g, &u)| {
            let g = f64::from(g);
            round_bf16_f64(g / (1.0 + (-g).exp()) * f64::from(u))
        }));
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = half;
    }
    Ok(Tensor::bf16(&shape, out)?)
}

/// Rotates interleaved pairs of channels from `start` on by the angles of each row's position.
///
/// `x0' = x0 cos - x1 sin`, `x1' = x0 sin + x1 cos`: FP32 products and sum, each rounded (no FMA),
/// then one rounding to BF16. With three axes all heads of a token turn alike.
pub(super) fn rope(
    x: &Tensor,
    positions: &Tensor,
    table: &Tensor,
    start: usize,
) -> Result<Tensor, EvalError> {
    let (angles, limit) = (float("rope", table)?, table.shape()[0]);
    let pairs = table.shape()[1];
    let positions = super::error::indices("rope", "position", int("rope", positions)?, limit)?;
    let mut out = float("rope", x)?.to_vec();
    let per_token = out.len() / positions.len().max(1);
    for (token, position) in out.chunks_exact_mut(per_token.max(1)).zip(positions) {
        let row = &angles[position * pairs * 2..][..pairs * 2];
        for head in token.chunks_exact_mut(width(x)) {
            for (pair, turn) in head[start..start + 2 * pairs]
                .chunks_exact_mut(2)
                .zip(row.chunks_exact(2))
            {
                let ([x0, x1], [cos, sin]) = ([pair[0], pair[1]], [turn[0], turn[1]]);
                pair[0] = x0 * cos - x1 * sin;
                pair[1] = x0 * sin + x1 * cos;
            }
        }
    }
    Ok(Tensor::bf16(x.shape(), out)?)
}

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
    if a.block != ScaleBlock::ACTIVATION || b.block != ScaleBlock::WEIGHT {
        let why = format!(
            "expected scales 1x{BLOCK} and {BLOCK}x{BLOCK}, got {} and {}",
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

/// Rows `offsets[e]..offsets[e + 1]` of `x [R, K]` times `w[e] [N, K]^T`.
pub(super) fn grouped_matmul(
    x: &Tensor,
    w: &Tensor,
    offsets: &Tensor,
    out: DType,
    promote: u32,
) -> Result<Tensor, EvalError> {
    let op = "grouped_matmul";
    let (rows, [experts, n, k]) = (x.shape()[0], [w.shape()[0], w.shape()[1], w.shape()[2]]);
    let offsets = super::error::indices(op, "offset", int(op, offsets)?, rows + 1)?;
    let covers =
        offsets.first() == Some(&0) && offsets.last() == Some(&rows) && offsets.is_sorted();
    if !covers {
        return Err(EvalError::operands(
            op,
            format!("offsets must rise from 0 to {rows}, got {offsets:?}"),
        ));
    }
    let inside = || EvalError::operands(op, "a group does not start on a scale block".to_owned());
    let mut acc = Vec::with_capacity(rows * n);
    for e in 0..experts {
        let group = x
            .rows(offsets[e], offsets[e + 1] - offsets[e])
            .ok_or_else(inside)?;
        let weight = w
            .rows(e, 1)
            .and_then(|w| w.reshaped(&[n, k]))
            .ok_or_else(inside)?;
        acc.extend(product(op, &group, &weight, out, promote)?);
    }
    finish(out, &[rows, n], acc)
}
