//! Number formats and accumulation rules that the graph's meaning is stated in.
//!
//! In: plain `f32` values, E4M3 codes, scales. Out: the exact bits that a correct kernel must
//! produce wherever the order of operations is defined. Nothing here knows about graphs or tensors;
//! `eval` builds on it.
//!
//! Contents, top down: BF16 and E4M3 conversion, block quantisation, rotary tables with YaRN, and the
//! softmax scale. `tensor_core` has the sum of Hopper's FP8 tensor core, `product` the promoted
//! products built from it.

mod product;
mod tensor_core;

use thiserror::Error;

pub use self::product::{
    BlockScaledGemm, Promotion, RowScaledGemm, gemm_block_scaled, gemm_row_scaled, gemm_unscaled,
    scale_group,
};
pub use self::tensor_core::wgmma_e4m3;
use crate::module::Yarn;

/// Largest finite E4M3 magnitude.
pub const E4M3_MAX: f32 = 448.0;
/// Code of E4M3's (positive) NaN.
pub const E4M3_NAN: u8 = 0x7f;
/// Smallest absolute maximum that a quantisation group is scaled by: an all-zero group gets a
/// finite scale.
pub const AMAX_FLOOR: f32 = 1e-4;
/// Values that share one scale along K, and the edge of a weight block.
pub const BLOCK: usize = 128;
/// Depth of one FP8 tensor-core instruction (wgmma m64nNk32).
pub const WGMMA_K: usize = 32;

/// Why a numeric routine refused its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NumericsError {
    /// A slice does not have the length that the stated extents need.
    #[error("{what}: expected {expected} elements, got {got}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Elements that the extents need.
        expected: usize,
        /// Elements that came.
        got: usize,
    },
    /// No product has such an interval.
    #[error("promotion interval {0} is not 32, 64, 128, 256, 512 or none")]
    Promotion(u32),
    /// The interval cannot be applied to a product whose scales change every 128 of K.
    #[error(
        "promotion interval {0} is not 32, 64 or 128: scales of a weight gradient change every 128 of K"
    )]
    GradientPromotion(u32),
}

// ---------------------------------------------------------------------------------------------- BF16

/// Rounds to BF16, ties to even; NaN becomes the canonical 0x7fff (PTX ISA, `cvt.rn.bf16.f32`).
pub fn bf16_bits(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let bits = x.to_bits();
    let lsb = (bits >> 16) & 1;
    // The carry out of the mantissa increments the exponent, and out of the largest exponent makes
    // infinity.
    ((bits + 0x7fff + lsb) >> 16) as u16
}

/// Widens BF16, which is exact.
pub fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The BF16 value nearest to `x`, as `f32`.
pub fn round_bf16(x: f32) -> f32 {
    bf16_value(bf16_bits(x))
}

/// The BF16 value nearest to a double, rounded once: through `f32` with sticky bits kept by
/// round-to-odd.
///
/// Rounding a double first to `f32` and then to BF16 can be off by one BF16 unit when the first
/// rounding lands on a tie. Round-to-odd as the intermediate step avoids that (it keeps "not exact"
/// in the last bit).
pub fn round_bf16_f64(x: f64) -> f32 {
    let near = x as f32;
    let exact = f64::from(near) == x;
    if exact || !near.is_finite() || near.to_bits() & 1 == 1 {
        return round_bf16(near);
    }
    // `near` is even and inexact: the odd neighbour on x's side stands for x.
    let bits = near.to_bits();
    let away_from_zero = x.abs() > f64::from(near).abs();
    let odd = match (away_from_zero, bits & 0x7fff_ffff) {
        (true, _) => bits + 1,
        // x underflowed to zero from either side: any tiny value of its sign rounds to zero as
        // well.
        (false, 0) => bits,
        (false, _) => bits - 1,
    };
    round_bf16(f32::from_bits(odd))
}

// ---------------------------------------------------------------------------------------------- E4M3

/// Value of an E4M3 code: bias 7, no infinities, 0x7f and 0xff are NaN.
pub fn e4m3_value(code: u8) -> f32 {
    if code & 0x7f == 0x7f {
        return f32::NAN;
    }
    let (significand, exponent) = e4m3_parts(code);
    significand as f32 * 2f32.powi(exponent - 3)
}

/// Signed significand in eighths (|s| < 16) and exponent of a non-NaN code; subnormals keep
/// exponent -6.
fn e4m3_parts(code: u8) -> (i32, i32) {
    let mantissa = i32::from(code & 7);
    let biased = i32::from((code >> 3) & 15);
    let (magnitude, exponent) = if biased == 0 {
        (mantissa, -6)
    } else {
        (8 + mantissa, biased - 7)
    };
    (
        if code & 0x80 == 0 {
            magnitude
        } else {
            -magnitude
        },
        exponent,
    )
}

/// Rounds to E4M3, ties to even, saturating at +-448; NaN becomes 0x7f
/// (`cvt.rn.satfinite.e4m3x2.f32`).
pub fn e4m3_encode(x: f32) -> u8 {
    if x.is_nan() {
        return E4M3_NAN;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let a = x.abs();
    let magnitude = if a >= E4M3_MAX {
        0x7e
    } else if a < 0.015_625 {
        // Below 2^-6 codes are multiples of 2^-9; eight of them is the code of the smallest normal.
        (a * 512.0).round_ties_even() as u8
    } else {
        let bits = a.to_bits();
        let rounded = (bits + 0x7_ffff + ((bits >> 20) & 1)) >> 20;
        // Exponent bias 127 -> 7 in a number whose exponent field starts at bit 3.
        (rounded - ((127 - 7) << 3)) as u8
    };
    sign | magnitude
}

/// Scale of a group with absolute maximum `amax`: `max(amax, 1e-4) / 448`, a true division.
pub fn block_scale(amax: f32) -> f32 {
    amax.max(AMAX_FLOOR) / E4M3_MAX
}

/// Rows in E4M3 with one scale for every group of channels of a row (the last group may be partial).
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedRows {
    /// `[rows, width]`, row-major.
    pub codes: Vec<u8>,
    /// `[rows, ceil(width / group)]`, row-major.
    pub scales: Vec<f32>,
}

/// Quantises `[rows, width]`: per 1x128 group `s = max(amax, 1e-4) / 448`, `q = e4m3(x / s)`, both
/// true divisions.
///
/// Published kernels differ here in the last bit (multiplying with a reciprocal instead); this is
/// the variant of DeepSeek-V3's own inference code.
pub fn quantize_rows(x: &[f32], width: usize) -> QuantizedRows {
    quantize_groups(x, width, BLOCK)
}

/// [`quantize_rows`] with groups of that many channels.
pub fn quantize_groups(x: &[f32], width: usize, group: usize) -> QuantizedRows {
    quantize_groups_by(x, width, group, block_scale)
}

/// [`quantize_rows`] with the scale rounded up to a power of two.
pub fn quantize_rows_pow2(x: &[f32], width: usize) -> QuantizedRows {
    quantize_groups_by(x, width, BLOCK, |amax| round_up_pow2(block_scale(amax)))
}

/// The least power of two that is not below `x`, which is positive and normal: `2^ceil(log2 x)` without a logarithm.
fn round_up_pow2(x: f32) -> f32 {
    const MANTISSA: u32 = (1 << 23) - 1;
    f32::from_bits((x.to_bits() + MANTISSA) & !MANTISSA)
}

fn quantize_groups_by(
    x: &[f32],
    width: usize,
    group: usize,
    scale_of: impl Fn(f32) -> f32,
) -> QuantizedRows {
    let group = group.max(1);
    let groups = width.div_ceil(group);
    let rows = x.len().checked_div(width).unwrap_or(0);
    let mut codes = Vec::with_capacity(x.len());
    let mut scales = Vec::with_capacity(rows * groups);
    for row in x.chunks_exact(width.max(1)) {
        for group in row.chunks(group) {
            let amax = group.iter().fold(0f32, |m, v| m.max(v.abs()));
            let scale = scale_of(amax);
            scales.push(scale);
            codes.extend(group.iter().map(|&v| e4m3_encode(v / scale)));
        }
    }
    QuantizedRows { codes, scales }
}

/// Quantises one `[rows, cols]` matrix in blocks of `block_rows` x `block_cols` (partial at the
/// edges); checkpoints store weights in blocks of 128x128.
pub fn quantize_blocks(
    x: &[f32],
    rows: usize,
    cols: usize,
    block_rows: usize,
    block_cols: usize,
) -> QuantizedRows {
    let (block_rows, block_cols) = (block_rows.max(1), block_cols.max(1));
    let grid = cols.div_ceil(block_cols);
    let block = |i: usize| (i / cols / block_rows) * grid + (i % cols) / block_cols;
    let mut scales = vec![0f32; rows.div_ceil(block_rows) * grid];
    for (i, v) in x.iter().enumerate().take(rows * cols) {
        let s = &mut scales[block(i)];
        *s = s.max(v.abs());
    }
    scales.iter_mut().for_each(|s| *s = block_scale(*s));
    QuantizedRows {
        codes: (0..rows * cols)
            .map(|i| e4m3_encode(x[i] / scales[block(i)]))
            .collect(),
        scales,
    }
}

/// `bf16(code * scale)` for one matrix whose scales cover `block_rows` x `block_cols` blocks.
///
/// The product is rounded to `f32` first and to BF16 second, as the published conversion script
/// does.
pub fn dequantize_blocks(
    codes: &[u8],
    scales: &[f32],
    cols: usize,
    block_rows: usize,
    block_cols: usize,
) -> Result<Vec<f32>, NumericsError> {
    let rows = codes.len().checked_div(cols).unwrap_or(0);
    let grid = cols.div_ceil(block_cols);
    check_len("codes", rows * cols, codes.len())?;
    check_len("scales", rows.div_ceil(block_rows) * grid, scales.len())?;
    let value = |i: usize| {
        let scale = scales[(i / cols / block_rows) * grid + (i % cols) / block_cols];
        round_bf16(e4m3_value(codes[i]) * scale)
    };
    Ok((0..codes.len()).map(value).collect())
}

fn check_len(what: &'static str, expected: usize, got: usize) -> Result<(), NumericsError> {
    if expected == got {
        Ok(())
    } else {
        Err(NumericsError::Length {
            what,
            expected,
            got,
        })
    }
}

// --------------------------------------------------------------------------------------- RoPE and YaRN

/// `0.1 * mscale * ln(factor) + 1`, or 1 where the context is not extended.
pub fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

/// Rotary frequencies of `dim / 2` channel pairs, in `f64`.
pub fn rope_inv_freq(dim: u64, theta: f64, yarn: Option<&Yarn>) -> Vec<f64> {
    let d = dim as f64;
    let plain = (0..dim / 2).map(|i| theta.powf(-((2 * i) as f64) / d));
    let Some(y) = yarn else {
        return plain.collect();
    };
    // The channel whose pair turns `rotations` times over the original context.
    let channel = |rotations: f64| {
        d * (y.original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
    };
    let low = channel(y.beta_fast).floor().max(0.0);
    let high = channel(y.beta_slow).ceil().min(d - 1.0);
    // Equal bounds would divide by zero; the published code widens them by the same amount.
    let width = if high == low { 0.001 } else { high - low };
    plain
        .enumerate()
        .map(|(i, f)| {
            let ramp = ((i as f64 - low) / width).clamp(0.0, 1.0);
            f * (1.0 - ramp) + f / y.factor * ramp
        })
        .collect()
}

/// The rotary table `[positions, dim / 2, 2]` of (cos, sin), times the YaRN multiplier, rounded to
/// `f32` once.
pub fn rope_table(dim: u64, theta: f64, positions: u64, yarn: Option<&Yarn>) -> Vec<f32> {
    let inv_freq = rope_inv_freq(dim, theta, yarn);
    let multiplier = yarn.map_or(1.0, |y| {
        yarn_mscale(y.factor, y.mscale) / yarn_mscale(y.factor, y.mscale_all_dim)
    });
    (0..positions)
        .flat_map(|position| inv_freq.iter().map(move |f| position as f64 * f))
        .flat_map(|angle| {
            [
                (angle.cos() * multiplier) as f32,
                (angle.sin() * multiplier) as f32,
            ]
        })
        .collect()
}

/// Softmax scale of attention over `qk_dim` channels: `qk_dim^-1/2`, times the squared YaRN
/// correction.
pub fn softmax_scale(qk_dim: u64, yarn: Option<&Yarn>) -> f64 {
    let m = yarn.map_or(1.0, |y| yarn_mscale(y.factor, y.mscale_all_dim));
    m * m / (qk_dim as f64).sqrt()
}

#[cfg(test)]
mod tests;
