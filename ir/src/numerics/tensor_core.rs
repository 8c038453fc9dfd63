//! The sum of Hopper's FP8 tensor core, as a definition.
//!
//! In: 32 pairs of E4M3 codes and an accumulator. Out: the accumulator that `wgmma` leaves, to the
//! bit. [`super::product`] computes the same for many columns at once.
//!
//! The device simulator has its own, separately written version. The two are kept apart on purpose:
//! a shared mistake would go unseen.

use super::{WGMMA_K, e4m3_parts};

/// Exponent given to a zero term, below that of any value, so that it never decides the alignment.
pub(super) const ZERO_EXPONENT: i32 = -1000;
/// Fraction bits that a term keeps relative to the largest exponent of its sum.
pub(super) const ALIGN_BITS: i32 = 13;
/// Fraction bits of the product of two E4M3 significands.
const PRODUCT_BITS: i32 = 6;
/// What a sum with a NaN becomes.
pub(super) const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// One FP8 tensor-core sum: 32 products and the accumulator as 33 terms of a single aligned
/// addition.
///
/// Each term is cut toward zero to 13 fraction bits below the largest exponent among all terms,
/// where a product's exponent is the sum of its factors' exponents (not renormalised). The exact
/// sum of the cut terms is then cut toward zero to a 13-bit mantissa. Measured on an H100
/// for c = 0; for other c it is a published model (`docs/model.md`, "Tensor-core accumulation").
pub fn wgmma_e4m3(a: &[u8; WGMMA_K], b: &[u8; WGMMA_K], c: f32) -> f32 {
    let is_nan = |code: &u8| code & 0x7f == 0x7f;
    if c.is_nan() || a.iter().any(is_nan) || b.iter().any(is_nan) {
        return NAN;
    }
    if c.is_infinite() {
        return c;
    }
    let product = |(&x, &y): (&u8, &u8)| {
        let ((x_s, x_e), (y_s, y_e)) = (e4m3_parts(x), e4m3_parts(y));
        match x_s * y_s {
            0 => (0, ZERO_EXPONENT),
            s => (s, x_e + y_e),
        }
    };
    let products: [(i32, i32); WGMMA_K] = std::array::from_fn(|i| product((&a[i], &b[i])));
    let (c_s, c_e) = f32_parts(c);
    let e_max = products.iter().map(|(_, e)| *e).fold(c_e, i32::max);
    // In units of 2^(e_max - 13).
    let sum: i32 = products
        .iter()
        .map(|(s, e)| shift_right(s << (ALIGN_BITS - PRODUCT_BITS), e_max - e))
        .sum();
    let accumulator = shift_right(c_s, 23 - ALIGN_BITS + (e_max - c_e));
    truncated_f32(sum + accumulator, e_max - ALIGN_BITS)
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
