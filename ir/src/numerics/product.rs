//! Promoted FP8 products: tensor-core sums over intervals of K, added up in FP32.
//!
//! In: codes and scales of two matrices. Out: the FP32 accumulators that a correct kernel has before
//! its final rounding, to the bit (`docs/model.md`, "Promoted accumulation").
//!
//! The sums are those of [`super::wgmma_e4m3`], some columns at a time and in floating point, where
//! every step is exact: conformance tests spend their time here. A test holds the two together.

use std::ops::Range;

use super::tensor_core::{ALIGN_BITS, NAN, ZERO_EXPONENT};
use super::{BLOCK, NumericsError, WGMMA_K, check_len, e4m3_parts, e4m3_value};
use crate::kernel::NO_PROMOTION;

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
    product(a, b, k, interval, |_, _, _| 1.0)
}

/// Elements of K that share a scale where the product is promoted every `promote` of K: 128, or the
/// interval when that is longer. `None` for an interval that no product has.
pub fn scale_group(promote: u32, k: usize) -> Option<usize> {
    match promote {
        32 | 64 | 128 => Some(BLOCK),
        256 | 512 => Some(promote as usize),
        NO_PROMOTION => Some(k.max(1)),
        _ => None,
    }
}

/// Operands of a block-scaled FP8 product `D[m, n] = A[m, k] B[n, k]^T`, all row-major.
///
/// `group` is [`scale_group`] of the interval.
#[derive(Debug, Clone, Copy)]
pub struct BlockScaledGemm<'a> {
    /// Columns of D.
    pub n: usize,
    /// Depth; the last group may be partial and counts as zero padded.
    pub k: usize,
    /// `[m, k]` codes.
    pub a: &'a [u8],
    /// `[m, ceil(k / group)]`: one scale per group of a row.
    pub a_scales: &'a [f32],
    /// `[n, k]` codes.
    pub b: &'a [u8],
    /// `[ceil(n / 128), ceil(k / group)]`: one scale for 128 rows of a group.
    pub b_scales: &'a [f32],
    /// Promotion interval: 32, 64, 128, 256, 512 or [`NO_PROMOTION`].
    pub promote: u32,
}

/// The product of `docs/model.md`, "Promoted accumulation": `[m, n]` in FP32 before the final rounding.
///
/// Every `promote` of K a fresh tensor-core sum `p` is added with one FMA:
/// `acc = fma(fl(a_scale * b_scale), p, acc)`, in K order.
///
/// # Errors
/// When the interval is none of those, or a slice has another length than the extents need.
pub fn gemm_block_scaled(g: &BlockScaledGemm<'_>) -> Result<Vec<f32>, NumericsError> {
    let group = scale_group(g.promote, g.k).ok_or(NumericsError::Promotion(g.promote))?;
    let interval = match g.promote {
        NO_PROMOTION => g.k.next_multiple_of(WGMMA_K).max(WGMMA_K),
        interval => interval as usize,
    };
    let m = g.a.len().checked_div(g.k).unwrap_or(0);
    let groups = g.k.div_ceil(group);
    check_len("a", m * g.k, g.a.len())?;
    check_len("a_scales", m * groups, g.a_scales.len())?;
    check_len("b", g.n * g.k, g.b.len())?;
    check_len("b_scales", g.n.div_ceil(BLOCK) * groups, g.b_scales.len())?;
    Ok(product(g.a, g.b, g.k, interval, |row, col, k_at| {
        let at = k_at / group;
        g.a_scales[row * groups + at] * g.b_scales[(col / BLOCK) * groups + at]
    }))
}

/// Operands of an FP8 product over a part of K, both with the scales of activations: one group of a
/// weight gradient.
#[derive(Debug, Clone)]
pub struct RowScaledGemm<'a> {
    /// Depth of the operands; the last block of 128 may be partial and counts as zero padded.
    pub k: usize,
    /// `[m, k]` codes.
    pub a: &'a [u8],
    /// `[m, ceil(k / 128)]`.
    pub a_scales: &'a [f32],
    /// `[n, k]` codes.
    pub b: &'a [u8],
    /// `[n, ceil(k / 128)]`.
    pub b_scales: &'a [f32],
    /// The part of K that is summed, below `k`; it need not start or end on a block.
    pub part: Range<usize>,
    /// Promotion interval: 32, 64 or 128.
    pub promote: u32,
}

/// `[m, n]` in FP32: [`gemm_block_scaled`] over the blocks that the part of K touches, where codes
/// outside of the part count as zero. Blocks and intervals lie where they lie in all of K.
///
/// # Errors
/// When the interval is none of those, or a slice has another length than the extents need.
pub fn gemm_row_scaled(g: &RowScaledGemm<'_>) -> Result<Vec<f32>, NumericsError> {
    if !matches!(g.promote, 32 | 64 | 128) {
        return Err(NumericsError::GradientPromotion(g.promote));
    }
    let rows = |codes: &[u8]| codes.len().checked_div(g.k).unwrap_or(0);
    let (m, n, blocks) = (rows(g.a), rows(g.b), g.k.div_ceil(BLOCK));
    check_len("a", m * g.k, g.a.len())?;
    check_len("a_scales", m * blocks, g.a_scales.len())?;
    check_len("b", n * g.k, g.b.len())?;
    check_len("b_scales", n * blocks, g.b_scales.len())?;
    let first = g.part.start / BLOCK;
    let touched = first * BLOCK
        ..g.part
            .end
            .next_multiple_of(BLOCK)
            .min(g.k)
            .max(first * BLOCK);
    let masked = |codes: &[u8]| -> Vec<u8> {
        let masked = codes.chunks_exact(g.k.max(1)).flat_map(|row| {
            let code = |k: usize| if g.part.contains(&k) { row[k] } else { 0 };
            touched.clone().map(code)
        });
        masked.collect()
    };
    let (a, b) = (masked(g.a), masked(g.b));
    if touched.is_empty() {
        return Ok(vec![0.0; m * n]);
    }
    let interval = g.promote as usize;
    Ok(product(
        &a,
        &b,
        touched.len(),
        interval,
        |row, col, k_at| {
            let block = first + k_at / BLOCK;
            g.a_scales[row * blocks + block] * g.b_scales[col * blocks + block]
        },
    ))
}

/// Columns that are summed side by side.
const LANES: usize = 16;
/// Adding it to a number below 2^22 and taking it away again rounds to an integer, ties to even.
const TO_INTEGER: f32 = 12_582_912.0;
/// Less than a half by so little that a number of eight significant bits, less this, rounds to its
/// integer part.
const NEARLY_HALF: f32 = 0.5 - 1.0 / 512.0;

/// Codes of some rows taken apart once, ready for many sums; `N` rows lie side by side at each K.
struct Parts<const N: usize> {
    value: Vec<[f32; N]>,
    /// Of the significand in [1, 2), or of the format's smallest normals for subnormals.
    exponent: Vec<[i16; N]>,
    /// For every 32 of K: which rows have a NaN there?
    nan: Vec<[bool; N]>,
}

impl<const N: usize> Parts<N> {
    /// Rows of `width` codes, at most `N` of them; zero padded to a multiple of 32 and to `N` rows.
    fn new(codes: &[u8], width: usize, table: &[(f32, i16); 256]) -> Self {
        let stride = width.next_multiple_of(WGMMA_K);
        let mut parts = Parts {
            value: vec![[0.0; N]; stride],
            exponent: vec![[ZERO_EXPONENT as i16; N]; stride],
            nan: vec![[false; N]; stride / WGMMA_K],
        };
        for (lane, row) in codes.chunks_exact(width.max(1)).enumerate() {
            for (k, &code) in row.iter().enumerate() {
                (parts.value[k][lane], parts.exponent[k][lane]) = table[usize::from(code)];
                parts.nan[k / WGMMA_K][lane] |= code & 0x7f == 0x7f;
            }
        }
        parts
    }
}

/// Value and exponent of every code; NaN counts as zero here and is looked after apart.
fn code_table() -> [(f32, i16); 256] {
    std::array::from_fn(|code| match code as u8 {
        0 | 0x80 | 0x7f | 0xff => (0.0, ZERO_EXPONENT as i16),
        code => (e4m3_value(code), e4m3_parts(code).1 as i16),
    })
}

/// [`product_by`] with the vector instructions of this processor. They give the same bits: nothing here is a
/// floating-point sum whose order a compiler may choose.
fn product(
    a: &[u8],
    b: &[u8],
    k: usize,
    interval: usize,
    scale: impl Fn(usize, usize, usize) -> f32,
) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(
            #[inline(always)]
            || product_by(a, b, k, interval, &scale),
        );
    }
    product_by(a, b, k, interval, &scale)
}

/// `acc = fma(scale(row, col, k), p, acc)` over intervals of K, a multiple of 32 each; `[m, n]`.
#[inline(always)]
fn product_by(
    a: &[u8],
    b: &[u8],
    k: usize,
    interval: usize,
    scale: &impl Fn(usize, usize, usize) -> f32,
) -> Vec<f32> {
    let rows = |codes: &[u8]| codes.len().checked_div(k).unwrap_or(0);
    let (m, n) = (rows(a), rows(b));
    let table = code_table();
    let a: Vec<Parts<1>> = a
        .chunks_exact(k.max(1))
        .map(|row| Parts::new(row, k, &table))
        .collect();
    let mut out = vec![0f32; m * n];
    for (group, columns) in b.chunks(LANES * k.max(1)).enumerate() {
        let columns = Parts::<LANES>::new(columns, k, &table);
        let first = group * LANES;
        for start in (0..k).step_by(interval) {
            let blocks = start / WGMMA_K..(start + interval).min(k).div_ceil(WGMMA_K);
            for (row, a) in a.iter().enumerate() {
                let mut p = [0f32; LANES];
                for block in blocks.clone() {
                    p = sums(a, &columns, block, p);
                }
                let live = &mut out[row * n + first..row * n + n.min(first + LANES)];
                for (lane, acc) in live.iter_mut().enumerate() {
                    *acc = scale(row, first + lane, start).mul_add(p[lane], *acc);
                }
            }
        }
    }
    out
}

/// [`super::wgmma_e4m3`] of a row and [`LANES`] columns over one 32 of K.
///
/// `c` is what such sums gave before: zero, NaN, or a normal number with a mantissa of 13 bits.
#[inline(always)]
fn sums(a: &Parts<1>, b: &Parts<LANES>, block: usize, c: [f32; LANES]) -> [f32; LANES] {
    let at = block * WGMMA_K..(block + 1) * WGMMA_K;
    let (a_v, a_e) = (&a.value[at.clone()], &a.exponent[at.clone()]);
    let (b_v, b_e) = (&b.value[at.clone()], &b.exponent[at]);

    let mut largest = [i16::MIN; LANES];
    for ([a], b) in a_e.iter().zip(b_e) {
        for lane in 0..LANES {
            largest[lane] = largest[lane].max(a.wrapping_add(b[lane]));
        }
    }
    // Terms are in units of 2^(e_max - 13): `to_units` is what to multiply with, `of_units` its inverse.
    let (mut to_units, mut of_units) = ([0f32; LANES], [0f32; LANES]);
    for lane in 0..LANES {
        // The exponent of a zero reads as -127 here, below that of any product.
        let c_e = ((c[lane].to_bits() >> 23) & 0xff) as i32 - 127;
        let e_max = i32::from(largest[lane]).max(c_e);
        // Without products and accumulator e_max is -127 and every term zero: any unit will do.
        let shift = (ALIGN_BITS - e_max).clamp(-126, 126);
        to_units[lane] = f32::from_bits(((127 + shift) as u32) << 23);
        of_units[lane] = f32::from_bits(((127 - shift) as u32) << 23);
    }
    let mut sum = [0f32; LANES];
    for ([a], b) in a_v.iter().zip(b_v) {
        for lane in 0..LANES {
            // Eight significant bits below 2^15: exact, and so is the sum of 32 of them.
            let term = a * b[lane] * to_units[lane];
            sum[lane] += (term - NEARLY_HALF.copysign(term)) + TO_INTEGER - TO_INTEGER;
        }
    }
    let mut out = [0f32; LANES];
    for lane in 0..LANES {
        // The accumulator has more bits than a product: rounded to nearest, and back by one if that was up.
        let term = c[lane] * to_units[lane];
        let near = term + TO_INTEGER - TO_INTEGER;
        let up = if near.abs() > term.abs() {
            1f32.copysign(term)
        } else {
            0.0
        };
        let total = sum[lane] + (near - up);
        // A zero sum is positive, whatever the signs of its terms.
        let cut = f32::from_bits(total.to_bits() & !((1 << (23 - ALIGN_BITS)) - 1)) + 0.0;
        let nan = c[lane].is_nan() | a.nan[block][0] | b.nan[block][lane];
        out[lane] = if nan { NAN } else { cut * of_units[lane] };
    }
    out
}
