//! The `.approx` functions of PTX ISA 9.7.3.
//!
//! Each is computed in `f64` and rounded to `f32` once. That lies inside the
//! error bound that PTX states for each of them, but it is not bit for bit
//! what the special function unit gives: the unit's tables are not published.
//! `.ftz` is applied by the caller to inputs and result.

use std::f64::consts::{LN_2, LOG2_E};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approx {
    Sin,
    Cos,
    Tanh,
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
}

pub fn approx_f32(f: Approx, x: f32) -> f32 {
    let v = f64::from(x);
    let r = match f {
        Approx::Sin => v.sin(),
        Approx::Cos => v.cos(),
        Approx::Tanh => v.tanh(),
        Approx::Ex2 => return ex2(x),
        Approx::Lg2 => v.ln() * LOG2_E,
        Approx::Rcp => 1.0 / v,
        Approx::Rsqrt => 1.0 / v.sqrt(),
        Approx::Sqrt => v.sqrt(),
    };
    if r.is_nan() {
        f32::from_bits(0x7fff_ffff)
    } else {
        r as f32
    }
}

/// Taylor coefficients of 2^f = e^(f ln 2), highest first: ln(2)^i / i!.
/// For |f| <= 1/2 what is left out is below 2^-52.
const EXP2: [f64; 13] = {
    let mut c = [1.0; 13];
    let mut i = 1;
    while i < 13 {
        c[12 - i] = c[13 - i] * LN_2 / i as f64;
        i += 1;
    }
    c
};

/// 2^52: the numbers from here on are integers.
const INTEGERS: f64 = 4_503_599_627_370_496.0;

/// 2^x without branches, so that the compiler can do many at once. The
/// integral part goes to the exponent: powers of two are exact.
#[inline(always)]
pub fn ex2(x: f32) -> f32 {
    // Outside, the result is infinite or zero anyway; NaN becomes a number
    // for the moment.
    let bounded = if x > -160.0 {
        if x < 140.0 { x } else { 140.0 }
    } else {
        -160.0
    };
    let n = bounded.round_ties_even();
    let f = f64::from(bounded) - f64::from(n);
    let mut p = EXP2[0];
    for &c in &EXP2[1..] {
        p = p.mul_add(f, c);
    }
    // 2^52 + n + 1023 has that integer in its low bits; n lies in -160..=140.
    let exponent = (f64::from(n) + (INTEGERS + 1023.0)).to_bits();
    let r = (p * f64::from_bits(exponent << 52)) as f32;
    if x.is_nan() {
        f32::from_bits(0x7fff_ffff)
    } else {
        r
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_correctly_rounded_almost_always() {
        let mut off = 0;
        for i in 0..200_000u32 {
            let x = -150.0 + i as f32 * 0.00139;
            let (got, want) = (ex2(x), f64::from(x).exp2() as f32);
            assert!(
                (i64::from(got.to_bits()) - i64::from(want.to_bits())).abs() <= 1,
                "{x}: {got} {want}"
            );
            off += u32::from(got.to_bits() != want.to_bits());
        }
        assert!(off <= 2, "{off} of 200000 differ");
        assert!(
            ex2(f32::NAN).is_nan()
                && ex2(f32::INFINITY) == f32::INFINITY
                && ex2(128.0) == f32::INFINITY
        );
    }

    #[test]
    fn powers_of_two_and_edges() {
        assert_eq!(approx_f32(Approx::Ex2, -149.0).to_bits(), 1);
        assert_eq!(approx_f32(Approx::Ex2, 10.0), 1024.0);
        assert_eq!(approx_f32(Approx::Ex2, f32::NEG_INFINITY), 0.0);
        assert_eq!(approx_f32(Approx::Lg2, 8.0), 3.0);
        assert_eq!(approx_f32(Approx::Lg2, 0.0), f32::NEG_INFINITY);
        assert_eq!(approx_f32(Approx::Rsqrt, 4.0), 0.5);
        assert_eq!(approx_f32(Approx::Rcp, -0.0), f32::NEG_INFINITY);
        assert_eq!(approx_f32(Approx::Rsqrt, -1.0).to_bits(), 0x7fff_ffff);
        assert_eq!(approx_f32(Approx::Tanh, f32::INFINITY), 1.0);
    }
}
