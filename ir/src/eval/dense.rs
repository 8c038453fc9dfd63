//! Arithmetic on dense values: sums, norms, activations, rotary embedding.
//!
//! Where an op's order of operations is defined (quantise, add, rope) the result is exact to the bit.
//! Where it is not (norms, SwiGLU) the value is computed in `f64` and rounded once, so that a kernel may differ by its own FP32 error followed by one
//! rounding: at most one unit of the result's format where the FP32 error is far below half a unit.

use super::error::EvalError;
use super::tensor::{Data, Scaled, Tensor, scale_shape};
use crate::kernel::NO_PROMOTION;
use crate::numerics::{self, round_bf16_f64};
use crate::types::ScaleBlock;

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

/// E4M3 with a scale per `group` of the last axis, or one for all of it.
pub(super) fn quantize_wide(x: &Tensor, group: u32) -> Result<Tensor, EvalError> {
    let op = "quantize_wide";
    let cols = match group {
        NO_PROMOTION => u32::try_from(width(x))
            .map_err(|_| EvalError::operands(op, "the last axis has 2^32 elements or more"))?,
        group => group,
    };
    let q = numerics::quantize_groups(float(op, x)?, width(x), cols as usize);
    let block = ScaleBlock { rows: 1, cols };
    Ok(Tensor::scaled(x.shape(), q.codes, q.scales, block)?)
}

/// E4M3 with a power of two as scale per 128 of the last axis.
pub(super) fn quantize_pow2(x: &Tensor) -> Result<Tensor, EvalError> {
    let q = numerics::quantize_rows_pow2(float("quantize_pow2", x)?, width(x));
    let block = ScaleBlock::ACTIVATION;
    Ok(Tensor::scaled(x.shape(), q.codes, q.scales, block)?)
}

/// Each row times its weight in FP32, rounded once.
pub(super) fn scale_rows(x: &Tensor, s: &Tensor) -> Result<Tensor, EvalError> {
    let op = "scale_rows";
    let rows = float(op, x)?.chunks_exact(width(x)).zip(float(op, s)?);
    let out = rows.flat_map(|(row, s)| row.iter().map(move |v| v * s));
    Ok(Tensor::bf16(x.shape(), out.collect())?)
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
