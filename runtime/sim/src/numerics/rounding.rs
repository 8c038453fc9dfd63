//! `add`, `mul`, `fma`, `div`, `sqrt` with every rounding mode (PTX ISA 9.7.3),
//! and the half-precision arithmetic of PTX ISA 9.7.4.
//!
//! Each operation is first computed in `f64` *rounded to odd*: when bits are
//! lost, the last kept bit is set. A value so rounded with at least two spare
//! bits rounds to the narrow format as the exact one would, in every mode
//! (Boldo and Melquiond, 2008). `f64` has 53 bits and `f32` 24.

use super::convert::{Format, Rounding, encode};

/// Sum of two `f64`, rounded to odd.
pub fn add_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    if !s.is_finite() {
        return s;
    }
    // Knuth's two-sum: `err` is what `s` lost.
    let bb = s - a;
    let err = (a - (s - bb)) + (b - bb);
    to_odd(s, err)
}

/// Moves `s` to the odd neighbour on the side of its error.
fn to_odd(s: f64, err: f64) -> f64 {
    if err == 0.0 || s.to_bits() & 1 == 1 {
        return s;
    }
    let away = (err > 0.0) == (s > 0.0);
    f64::from_bits(if away {
        s.to_bits() + 1
    } else {
        s.to_bits() - 1
    })
}

/// `f64` to `f32` bits in the given mode; NaN is the canonical 0x7fffffff.
pub fn narrow(x: f64, rounding: Rounding) -> f32 {
    f32::from_bits(encode(x, super::convert::F32, rounding, false))
}

pub fn add_f32(a: f32, b: f32, rounding: Rounding) -> f32 {
    let exact = add_odd(f64::from(a), f64::from(b));
    // An exact zero of opposite signs is -0 only when rounding down.
    if exact == 0.0 && rounding == Rounding::Down && !(a.is_sign_positive() && b.is_sign_positive())
    {
        return -0.0;
    }
    narrow(exact, rounding)
}

pub fn mul_f32(a: f32, b: f32, rounding: Rounding) -> f32 {
    narrow(f64::from(a) * f64::from(b), rounding)
}

pub fn fma_f32(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let exact = add_odd(product, f64::from(c));
    if exact == 0.0
        && rounding == Rounding::Down
        && !(product.is_sign_positive() && c.is_sign_positive())
    {
        return -0.0;
    }
    narrow(exact, rounding)
}

pub fn div_f32(a: f32, b: f32, rounding: Rounding) -> f32 {
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    if !q.is_finite() || q == 0.0 {
        return narrow(q, rounding);
    }
    // The remainder of a quotient of 24-bit numbers is exact with one fma.
    let rem = (-q).mul_add(b, a);
    narrow(
        to_odd(
            q,
            if (rem > 0.0) == (b > 0.0) {
                rem.abs()
            } else {
                -rem.abs()
            },
        ),
        rounding,
    )
}

pub fn sqrt_f32(a: f32, rounding: Rounding) -> f32 {
    let x = f64::from(a);
    let r = x.sqrt();
    if !r.is_finite() || r == 0.0 {
        return narrow(r, rounding);
    }
    narrow(to_odd(r, (-r).mul_add(r, x)), rounding)
}

/// A 16-bit operation computed in `f64`, rounded to odd and then once to the
/// format. `product` is exact in `f64`: 22 bits at most.
pub fn fma_small(a: f64, b: f64, c: f64, fmt: Format) -> u32 {
    encode(add_odd(a * b, c), fmt, Rounding::NearestEven, false)
}

pub fn add_small(a: f64, b: f64, fmt: Format) -> u32 {
    encode(add_odd(a, b), fmt, Rounding::NearestEven, false)
}

/// Subnormals become zeros of the same sign, as `.ftz` asks.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.to_bits() & 0x7f80_0000 == 0 {
        f32::from_bits(x.to_bits() & 0x8000_0000)
    } else {
        x
    }
}

/// `.sat`: clamps to [0, 1]; NaN becomes +0.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    // The comparison is false for NaN.
    if x >= 0.0 { x.min(1.0) + 0.0 } else { 0.0 }
}

/// PTX `min`: a NaN operand loses, unless `.NaN`; -0 is below +0.
#[inline(always)]
pub fn min_f32(a: f32, b: f32, nan: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return nan_choice(a, b, nan);
    }
    if a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// PTX `max`, the mirror of [`min_f32`].
#[inline(always)]
pub fn max_f32(a: f32, b: f32, nan: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return nan_choice(a, b, nan);
    }
    if a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

fn nan_choice(a: f32, b: f32, nan: bool) -> f32 {
    let canonical = f32::from_bits(0x7fff_ffff);
    match (a.is_nan(), b.is_nan()) {
        (true, true) => canonical,
        _ if nan => canonical,
        (true, false) => b,
        _ => a,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> impl Iterator<Item = (f32, f32, f32)> {
        let mut state = 0x1234_5678_9abc_def1u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Exponents near each other, so that sums cancel and products meet.
            let bits = (state >> 20) as u32;
            f32::from_bits((bits & 0x807f_ffff) | (100 + (bits >> 23) % 50) << 23)
        };
        (0..200_000).map(move |_| (next(), next(), next()))
    }

    #[test]
    fn nearest_even_equals_the_host() {
        for (a, b, c) in samples() {
            let r = Rounding::NearestEven;
            assert_eq!(add_f32(a, b, r).to_bits(), (a + b).to_bits());
            assert_eq!(mul_f32(a, b, r).to_bits(), (a * b).to_bits());
            assert_eq!(div_f32(a, b, r).to_bits(), (a / b).to_bits());
            assert_eq!(fma_f32(a, b, c, r).to_bits(), a.mul_add(b, c).to_bits());
            assert_eq!(sqrt_f32(a.abs(), r).to_bits(), a.abs().sqrt().to_bits());
        }
    }

    #[test]
    fn directed_modes_bracket_the_exact_value() {
        for (a, b, c) in samples() {
            let ops: [(f32, f32, f32, f64); 2] = [
                (
                    mul_f32(a, b, Rounding::Down),
                    mul_f32(a, b, Rounding::Up),
                    mul_f32(a, b, Rounding::Zero),
                    f64::from(a) * f64::from(b),
                ),
                (
                    fma_f32(a, b, c, Rounding::Down),
                    fma_f32(a, b, c, Rounding::Up),
                    fma_f32(a, b, c, Rounding::Zero),
                    add_odd(f64::from(a) * f64::from(b), f64::from(c)),
                ),
            ];
            for (down, up, zero, exact) in ops {
                assert!(f64::from(down) <= exact && exact <= f64::from(up));
                assert_eq!(zero, if exact > 0.0 { down } else { up });
                if f64::from(down) != exact {
                    assert_eq!(up, down.next_up());
                }
            }
        }
    }

    #[test]
    fn minimum_and_maximum() {
        let nan = f32::NAN;
        assert_eq!(min_f32(nan, 1.0, false), 1.0);
        assert_eq!(max_f32(1.0, nan, true).to_bits(), 0x7fff_ffff);
        assert_eq!(min_f32(0.0, -0.0, false).to_bits(), (-0.0f32).to_bits());
        assert_eq!(max_f32(-0.0, 0.0, false).to_bits(), 0);
        assert_eq!(saturate(nan), 0.0);
        assert_eq!(saturate(-0.0).to_bits(), 0);
        assert_eq!(flush(f32::from_bits(0x8000_0001)).to_bits(), 0x8000_0000);
    }
}
