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

/// 2^x: the integral part goes to the exponent, so that powers of two are
/// exact.
fn ex2(x: f32) -> f32 {
    if x.is_nan() {
        return f32::from_bits(0x7fff_ffff);
    }
    if x >= 128.0 {
        return f32::INFINITY;
    }
    if x < -150.0 {
        return 0.0;
    }
    let n = x.floor();
    let fraction = f64::from(x) - f64::from(n);
    ((fraction * LN_2).exp() * super::convert::pow2(n as i32)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

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
