//! Number formats and accumulation rules that the graph's meaning is stated in.
//!
//! In: plain `f32` values, E4M3 codes, scales. Out: the exact bits that a correct kernel must
//! produce wherever the order of operations is defined. Nothing here knows about graphs or tensors;
//! `eval` builds on it.
//!
//! Contents, top down: BF16 and E4M3 conversion, block quantisation, the Hopper FP8 tensor-core sum
//! and the promoted product built from it, rotary tables with YaRN, and the softmax scale.
//!
//! The device simulator has its own, separately written version of the tensor-core sum. The two are
//! kept apart on purpose: a shared mistake would go unseen.

use thiserror::Error;

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
    /// The interval cannot be applied to a product whose scales change every 128 of K.
    #[error(
        "promotion interval {0} is not 32, 64 or 128: scales of a block-scaled product change every 128 of K"
    )]
    Promotion(u32),
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

/// Rows in E4M3 with one scale for every 128 channels of a row (the last group may be partial).
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedRows {
    /// `[rows, width]`, row-major.
    pub codes: Vec<u8>,
    /// `[rows, ceil(width / 128)]`, row-major.
    pub scales: Vec<f32>,
}

/// Quantises `[rows, width]`: per 1x128 group `s = max(amax, 1e-4) / 448`, `q = e4m3(x / s)`, both
/// true divisions.
///
/// Published kernels differ here in the last bit (multiplying with a reciprocal instead); this is
/// the variant of DeepSeek-V3's own inference code.
pub fn quantize_rows(x: &[f32], width: usize) -> QuantizedRows {
    let groups = width.div_ceil(BLOCK);
    let rows = x.len().checked_div(width).unwrap_or(0);
    let mut codes = Vec::with_capacity(x.len());
    let mut scales = Vec::with_capacity(rows * groups);
    for row in x.chunks_exact(width.max(1)) {
        for group in row.chunks(BLOCK) {
            let amax = group.iter().fold(0f32, |m, v| m.max(v.abs()));
            let scale = block_scale(amax);
            scales.push(scale);
            codes.extend(group.iter().map(|&v| e4m3_encode(v / scale)));
        }
    }
    QuantizedRows { codes, scales }
}

/// Quantises one `[rows, cols]` matrix in 128x128 blocks (partial blocks at the edges), as
/// checkpoints store weights.
pub fn quantize_blocks(x: &[f32], rows: usize, cols: usize) -> QuantizedRows {
    let grid = cols.div_ceil(BLOCK);
    let mut scales = vec![0f32; rows.div_ceil(BLOCK) * grid];
    for r in 0..rows {
        for c in 0..cols {
            let s = &mut scales[(r / BLOCK) * grid + c / BLOCK];
            *s = s.max(x[r * cols + c].abs());
        }
    }
    scales.iter_mut().for_each(|s| *s = block_scale(*s));
    let code =
        |i: usize| e4m3_encode(x[i] / scales[(i / cols / BLOCK) * grid + (i % cols) / BLOCK]);
    QuantizedRows {
        codes: (0..rows * cols).map(code).collect(),
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

// ------------------------------------------------------------------------- Hopper FP8 tensor-core sum

/// Exponent given to a zero term, below that of any value, so that it never decides the alignment.
const ZERO_EXPONENT: i32 = -1000;
/// Fraction bits that a term keeps relative to the largest exponent of its sum.
const ALIGN_BITS: i32 = 13;

/// E4M3 codes taken apart once, ready for many sums: structure of arrays, zero padded to a multiple
/// of 32.
struct Parts {
    value: Vec<f32>,
    /// Of the significand in [1, 2), or of the format's smallest normals for subnormals.
    exponent: Vec<i16>,
    /// Padded length of a row.
    stride: usize,
    /// For every 32 values: is there a NaN?
    nan: Vec<bool>,
    /// For every 32 values: is there one that is not zero?
    live: Vec<bool>,
}

impl Parts {
    fn new(codes: &[u8], width: usize) -> Parts {
        let table: [(f32, i16); 256] = std::array::from_fn(|code| match code as u8 {
            0 | 0x80 | 0x7f | 0xff => (0.0, ZERO_EXPONENT as i16),
            code => (e4m3_value(code), e4m3_parts(code).1 as i16),
        });
        let stride = width.next_multiple_of(WGMMA_K);
        let rows = codes.len().checked_div(width).unwrap_or(0);
        let mut parts = Parts {
            value: vec![0.0; rows * stride],
            exponent: vec![ZERO_EXPONENT as i16; rows * stride],
            stride,
            nan: vec![false; rows * stride / WGMMA_K],
            live: vec![false; rows * stride / WGMMA_K],
        };
        for (r, row) in codes.chunks_exact(width.max(1)).enumerate() {
            for (c, &code) in row.iter().enumerate() {
                let at = r * stride + c;
                (parts.value[at], parts.exponent[at]) = table[usize::from(code)];
                parts.nan[at / WGMMA_K] |= code & 0x7f == 0x7f;
                parts.live[at / WGMMA_K] |= code & 0x7f != 0;
            }
        }
        parts
    }
}

/// One FP8 tensor-core sum: 32 products and the accumulator as 33 terms of a single aligned
/// addition.
///
/// Each term is cut toward zero to 13 fraction bits below the largest exponent among all terms,
/// where a product's exponent is the sum of its factors' exponents (not renormalised). The exact
/// sum of the cut terms is then cut toward zero to a 13-bit mantissa. Measured on an H100
/// for c = 0; for other c it is a published model (`docs/model.md`, "Tensor-core accumulation").
pub fn wgmma_e4m3(a: &[u8; WGMMA_K], b: &[u8; WGMMA_K], c: f32) -> f32 {
    sum_block(&Parts::new(a, WGMMA_K), 0, &Parts::new(b, WGMMA_K), 0, c)
}

/// [`wgmma_e4m3`] on rows already taken apart; `a_at` and `b_at` are multiples of 32.
fn sum_block(a: &Parts, a_at: usize, b: &Parts, b_at: usize, c: f32) -> f32 {
    if c.is_nan() || a.nan[a_at / WGMMA_K] || b.nan[b_at / WGMMA_K] {
        return f32::from_bits(0x7fff_ffff);
    }
    if c.is_infinite() {
        return c;
    }
    let (a_v, b_v) = (&a.value[a_at..][..WGMMA_K], &b.value[b_at..][..WGMMA_K]);
    let (a_e, b_e) = (
        &a.exponent[a_at..][..WGMMA_K],
        &b.exponent[b_at..][..WGMMA_K],
    );
    let (c_s, c_e) = f32_parts(c);

    let products_max = a_e
        .iter()
        .zip(b_e)
        .map(|(a, b)| a + b)
        .fold(i16::MIN, i16::max);
    let e_max = c_e.max(i32::from(products_max));
    // Terms in units of 2^(e_max - 13). A product has eight bits, so that it and its scaling are
    // exact and the conversion to an integer is the one truncation. A factor beyond f32 occurs with
    // zero products only.
    let unit = pow2((ALIGN_BITS - e_max).min(127));
    let products: i32 = a_v
        .iter()
        .zip(b_v)
        .map(|(a, b)| (a * b * unit) as i32)
        .sum();
    let accumulator = shift_right(c_s, 23 - ALIGN_BITS + (e_max - c_e));
    truncated_f32(products + accumulator, e_max - ALIGN_BITS)
}

/// A power of two in `f32`'s normal range.
fn pow2(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << 23)
}

/// Signed 24-bit significand and exponent of a finite `f32`; zero has [`ZERO_EXPONENT`].
fn f32_parts(x: f32) -> (i32, i32) {
    let bits = x.to_bits();
    let biased = ((bits >> 23) & 0xff) as i32;
    let mantissa = (bits & 0x7f_ffff) as i32;
    let (magnitude, exponent) = match (biased, mantissa) {
        (0, 0) => (0, ZERO_EXPONENT),
        (0, m) => (m, -126),
        (e, m) => (m | 0x80_0000, e - 127),
    };
    (
        if x.is_sign_negative() {
            -magnitude
        } else {
            magnitude
        },
        exponent,
    )
}

/// Shift right toward zero by any non-negative amount.
fn shift_right(x: i32, by: i32) -> i32 {
    (x.abs() >> by.clamp(0, 31)) * x.signum()
}

/// `units * 2^exponent` as `f32` whose mantissa is cut toward zero to 13 bits; zero is positive.
fn truncated_f32(units: i32, exponent: i32) -> f32 {
    if units == 0 {
        return 0.0;
    }
    let magnitude = units.unsigned_abs();
    let top = 31 - magnitude.leading_zeros() as i32;
    // A double holds the value exactly; cutting 13 bits below the leading one leaves at most 14
    // bits, so that the conversion to f32 is exact but for results below f32's normal range, cut on
    // the grid of its subnormals.
    let dropped = (top - ALIGN_BITS)
        .max((-126 - ALIGN_BITS) - exponent)
        .clamp(0, 31);
    let kept = (magnitude >> dropped) << dropped;
    let value = f64::from(kept) * f64::from_bits(((1023 + exponent) as u64) << 52);
    (if units < 0 { -value } else { value }) as f32
}

/// How often the partial sum of the tensor core is added into an FP32 accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promotion {
    /// Every so many of K (a positive multiple of 32).
    Every(u32),
    /// Never: the tensor core's accumulator runs over all of K.
    Never,
}

/// Unscaled FP8 product `a [m, k] * b [n, k]^T`, accumulated on the tensor core and promoted as
/// told.
///
/// It isolates the accumulation error; models use [`gemm_block_scaled`].
pub fn gemm_unscaled(a: &[u8], b: &[u8], k: usize, promotion: Promotion) -> Vec<f32> {
    let interval = match promotion {
        Promotion::Every(interval) => (interval as usize).next_multiple_of(WGMMA_K).max(WGMMA_K),
        Promotion::Never => k.next_multiple_of(WGMMA_K).max(WGMMA_K),
    };
    product(
        &Parts::new(a, k),
        &Parts::new(b, k),
        k,
        interval,
        |_, _, _| 1.0,
    )
}

/// Operands of a block-scaled FP8 product `D[m, n] = A[m, k] B[n, k]^T`, all row-major.
#[derive(Debug, Clone, Copy)]
pub struct BlockScaledGemm<'a> {
    /// Columns of D.
    pub n: usize,
    /// Depth; the last block of 128 may be partial and counts as zero padded.
    pub k: usize,
    /// `[m, k]` codes.
    pub a: &'a [u8],
    /// `[m, ceil(k / 128)]`: one scale per 128 of a row.
    pub a_scales: &'a [f32],
    /// `[n, k]` codes.
    pub b: &'a [u8],
    /// `[ceil(n / 128), ceil(k / 128)]`: one scale per 128x128 block.
    pub b_scales: &'a [f32],
    /// Promotion interval: 32, 64 or 128.
    pub promote: u32,
}

/// The product of `docs/model.md`, "Promoted accumulation": `[m, n]` in FP32 before the final rounding.
///
/// Every `promote` of K a fresh tensor-core sum `p` is added with one FMA:
/// `acc = fma(fl(a_scale * b_scale), p, acc)`, in K order.
pub fn gemm_block_scaled(g: &BlockScaledGemm<'_>) -> Result<Vec<f32>, NumericsError> {
    if !matches!(g.promote, 32 | 64 | 128) {
        return Err(NumericsError::Promotion(g.promote));
    }
    let m = g.a.len().checked_div(g.k).unwrap_or(0);
    let k_blocks = g.k.div_ceil(BLOCK);
    check_len("a", m * g.k, g.a.len())?;
    check_len("a_scales", m * k_blocks, g.a_scales.len())?;
    check_len("b", g.n * g.k, g.b.len())?;
    check_len("b_scales", g.n.div_ceil(BLOCK) * k_blocks, g.b_scales.len())?;
    let scale = |row: usize, col: usize, k_at: usize| {
        g.a_scales[row * k_blocks + k_at / BLOCK]
            * g.b_scales[(col / BLOCK) * k_blocks + k_at / BLOCK]
    };
    Ok(product(
        &Parts::new(g.a, g.k),
        &Parts::new(g.b, g.k),
        g.k,
        g.promote as usize,
        scale,
    ))
}

/// `acc = fma(scale(row, col, k), p, acc)` over intervals of K.
fn product(
    a: &Parts,
    b: &Parts,
    k: usize,
    interval: usize,
    scale: impl Fn(usize, usize, usize) -> f32,
) -> Vec<f32> {
    let rows = |p: &Parts| p.value.len().checked_div(p.stride).unwrap_or(0);
    let (m, n) = (rows(a), rows(b));
    let mut out = Vec::with_capacity(m * n);
    for row in 0..m {
        for col in 0..n {
            let mut acc = 0f32;
            for start in (0..k).step_by(interval) {
                let mut p = 0f32;
                for at in (start..(start + interval).min(k)).step_by(WGMMA_K) {
                    let (a_at, b_at) = (row * a.stride + at, col * b.stride + at);
                    let (a_block, b_block) = (a_at / WGMMA_K, b_at / WGMMA_K);
                    // With only zero products the sum returns p, whose mantissa is already cut.
                    if (a.live[a_block] && b.live[b_block]) || a.nan[a_block] || b.nan[b_block] {
                        p = sum_block(a, a_at, b, b_at, p);
                    }
                }
                acc = scale(row, col, start).mul_add(p, acc);
            }
            out.push(acc);
        }
    }
    out
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
