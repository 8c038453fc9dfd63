//! `cvt` in all its forms (PTX ISA 9.7.9.22).
//!
//! Frequent pairs have their own line; the rest goes through `f64` or `i128`,
//! which hold every source value exactly.

use mcc_ptx::Type;

use super::alu::{Consts, Regs, lanes32, lanes64};
use crate::isa::{Cvt, Op, Row};
use crate::numerics::convert::{
    self, BF16, E4M3, E5M2, F16, F32, Format, Rounding, encode, f32_to_bf16, f32_to_f16,
    sign_extend, zero_extend,
};
use crate::numerics::rounding::flush;

pub fn step(regs: &mut Regs, consts: Consts<'_>, op: &Op, mask: u32) -> bool {
    match *op {
        Op::Cvt { cvt, d, a } => convert_row(regs, consts, cvt, d, a, mask),
        Op::CvtPair { cvt, d, hi, lo } => {
            let (hi, lo) = (regs.get32(consts, hi), regs.get32(consts, lo));
            let (fmt, shift) = pair_format(cvt.to);
            let v = lanes32(|l| {
                let one = |bits: u32| small(f32::from_bits(bits), fmt, cvt);
                one(lo[l]) | one(hi[l]) << shift
            });
            regs.put32(d, &v, mask);
        }
        Op::CvtPacked { cvt, d, a } => {
            let a = regs.get32(consts, a);
            let (from, from_shift) = pair_format(cvt.from);
            let (to, to_shift) = pair_format(cvt.to);
            let v = lanes32(|l| {
                let one = |code: u32| {
                    let code = code & ((1 << from_shift) - 1);
                    small(convert::decode(code, from) as f32, to, cvt)
                };
                one(a[l]) | one(a[l] >> from_shift) << to_shift
            });
            regs.put32(d, &v, mask);
        }
        _ => return false,
    }
    true
}

/// Format of one element of a packed pair, and where the upper one starts.
fn pair_format(ty: Type) -> (Format, u32) {
    match ty {
        Type::E4m3x2 => (E4M3, 8),
        Type::E5m2x2 => (E5M2, 8),
        Type::Bf16x2 => (BF16, 16),
        _ => (F16, 16),
    }
}

fn small(x: f32, fmt: Format, cvt: Cvt) -> u32 {
    let x = if cvt.relu && x < 0.0 { 0.0 } else { x };
    // `.relu` also turns -0 into +0.
    let x = if cvt.relu && x == 0.0 { 0.0 } else { x };
    encode(
        f64::from(x),
        fmt,
        cvt.rounding.unwrap_or(Rounding::NearestEven),
        cvt.satfinite,
    )
}

fn convert_row(regs: &mut Regs, consts: Consts<'_>, cvt: Cvt, d: Row, a: Row, mask: u32) {
    use Type::*;
    let plain = !cvt.sat && !cvt.ftz && !cvt.relu && !cvt.satfinite;
    let nearest = cvt.rounding == Some(Rounding::NearestEven) && !cvt.integral;
    if let (true, Row::R32(a), Row::R32(d)) = (plain, a, d) {
        let a = regs.get32(consts, a);
        let v = match (cvt.to, cvt.from) {
            (F32, S32) if nearest => Some(lanes32(|l| (a[l] as i32 as f32).to_bits())),
            (F32, U32) if nearest => Some(lanes32(|l| (a[l] as f32).to_bits())),
            (S32, F32) if cvt.rounding == Some(Rounding::Zero) => {
                Some(lanes32(|l| f32::from_bits(a[l]) as i32 as u32))
            }
            (U32, F32) if cvt.rounding == Some(Rounding::Zero) => {
                Some(lanes32(|l| f32::from_bits(a[l]) as u32))
            }
            (Bf16, F32) if nearest => Some(lanes32(|l| u32::from(f32_to_bf16(a[l])))),
            (F16, F32) if nearest => Some(lanes32(|l| u32::from(f32_to_f16(f32::from_bits(a[l]))))),
            (F32, Bf16) => Some(lanes32(|l| a[l] << 16)),
            (F32, F16) => Some(lanes32(|l| convert::f16_to_f32(a[l] as u16).to_bits())),
            _ => None,
        };
        if let Some(v) = v {
            regs.put32(d, &v, mask);
            return;
        }
    }
    let source = regs.get_wide(consts, a);
    let v = lanes64(|l| {
        if mask >> l & 1 == 0 {
            return 0;
        }
        let r = convert_one(cvt, source[l]);
        // A narrow integer in a wider register is extended by its sign
        // (PTX ISA 9.4.1). The decoder clears the upper half of a 16-bit one.
        let bits = cvt.to.bits();
        if cvt.to.is_signed() {
            sign_extend(r, bits)
        } else {
            zero_extend(r, bits)
        }
    });
    regs.put_wide(d, &v, mask);
}

fn convert_one(cvt: Cvt, raw: u64) -> u64 {
    let (to, from) = (cvt.to, cvt.from);
    match (to.is_float(), from.is_float()) {
        (false, false) => {
            if cvt.sat {
                convert::saturate_int(
                    raw,
                    from.is_signed(),
                    from.bits(),
                    to.bits(),
                    to.is_signed(),
                )
            } else if from.is_signed() {
                sign_extend(raw, from.bits())
            } else {
                zero_extend(raw, from.bits())
            }
        }
        (true, false) => {
            let value = if from.is_signed() {
                i128::from(sign_extend(raw, from.bits()) as i64)
            } else {
                i128::from(zero_extend(raw, from.bits()))
            };
            int_to_float(
                value,
                to,
                cvt.rounding.unwrap_or(Rounding::NearestEven),
                cvt.sat,
            )
        }
        (false, true) => {
            let x = read_float(raw, from, cvt.ftz);
            // PTX ISA 9.7.9.22: of an `f64` NaN the top bit alone is set, as in
            // 64-bit results; other NaN become zero.
            if x.is_nan() && from == Type::F64 {
                return 1 << (to.bits() - 1);
            }
            convert::to_int(
                x,
                cvt.rounding.unwrap_or(Rounding::Zero),
                to.bits(),
                to.is_signed(),
            )
        }
        (true, true) => float_to_float(cvt, raw),
    }
}

fn read_float(raw: u64, ty: Type, ftz: bool) -> f64 {
    match ty {
        Type::F64 => f64::from_bits(raw),
        Type::F16 => convert::decode(raw as u32 & 0xffff, F16),
        Type::Bf16 => convert::decode(raw as u32 & 0xffff, BF16),
        _ => {
            let x = f32::from_bits(raw as u32);
            f64::from(if ftz { flush(x) } else { x })
        }
    }
}

/// Integers of up to 64 bits do not fit an `f64`: what is shifted out is
/// folded into the last bit, so that the one rounding is right (round to odd).
fn int_to_float(v: i128, to: Type, rounding: Rounding, sat: bool) -> u64 {
    let v = if sat { v.clamp(0, 1) } else { v };
    if to == Type::F64 {
        return int_to_f64(v, rounding).to_bits();
    }
    let magnitude = v.unsigned_abs();
    let drop = (128 - magnitude.leading_zeros()).saturating_sub(52);
    let lost = magnitude & ((1u128 << drop) - 1) != 0;
    let kept = (magnitude >> drop) as u64 | u64::from(lost);
    let x = kept as f64 * convert::pow2(drop as i32) * if v < 0 { -1.0 } else { 1.0 };
    u64::from(encode(x, float_format(to), rounding, false))
}

/// The host rounds to nearest even; the other modes step from there.
fn int_to_f64(v: i128, rounding: Rounding) -> f64 {
    let near = v as f64;
    // At most 2^64: exact again.
    let back = near as i128;
    let toward = match rounding {
        Rounding::NearestEven | Rounding::NearestAway => return near,
        Rounding::Zero if v < 0 => Rounding::Up,
        Rounding::Zero => Rounding::Down,
        directed => directed,
    };
    if toward == Rounding::Up && back < v {
        near.next_up()
    } else if toward == Rounding::Down && back > v {
        near.next_down()
    } else {
        near
    }
}

fn float_format(ty: Type) -> Format {
    match ty {
        Type::F16 => F16,
        Type::Bf16 => BF16,
        _ => F32,
    }
}

fn float_to_float(cvt: Cvt, raw: u64) -> u64 {
    let mut x = read_float(raw, cvt.from, cvt.ftz);
    let rounding = cvt.rounding.unwrap_or(Rounding::NearestEven);
    if cvt.integral {
        x = convert::round_integral(x, rounding);
    }
    if cvt.relu && x <= 0.0 {
        x = 0.0;
    }
    if cvt.sat {
        x = if x.is_nan() {
            0.0
        } else {
            x.clamp(0.0, 1.0) + 0.0
        };
    }
    match cvt.to {
        Type::F64 => x.to_bits(),
        Type::Tf32 => u64::from(convert::encode_tf32(x as f32, rounding, cvt.satfinite)),
        to => {
            let code = encode(x, float_format(to), rounding, cvt.satfinite);
            if cvt.ftz && to == Type::F32 {
                u64::from(flush(f32::from_bits(code)).to_bits())
            } else {
                u64::from(code)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Cvt = Cvt {
        to: Type::F32,
        from: Type::F32,
        rounding: None,
        integral: false,
        ftz: false,
        sat: false,
        satfinite: false,
        relu: false,
    };

    #[test]
    fn large_integers_round_once() {
        // 2^63 + 2^39 is a tie in f32; one more breaks it upward.
        let tie = (1u64 << 63) + (1 << 39);
        let cvt = Cvt {
            from: Type::U64,
            rounding: Some(Rounding::NearestEven),
            ..PLAIN
        };
        assert_eq!(convert_one(cvt, tie) as u32, (tie as f32).to_bits());
        assert_eq!(
            convert_one(cvt, tie + 1) as u32,
            ((tie + 1) as f32).to_bits()
        );
        let down = Cvt {
            rounding: Some(Rounding::Zero),
            ..cvt
        };
        assert_eq!(
            f32::from_bits(convert_one(down, u64::MAX) as u32),
            18446742974197923840.0
        );
    }

    #[test]
    fn integers_and_floats() {
        let s = Cvt {
            to: Type::S8,
            from: Type::S32,
            sat: true,
            ..PLAIN
        };
        assert_eq!(convert_one(s, 1000), 127);
        let t = Cvt {
            to: Type::S32,
            from: Type::F32,
            rounding: Some(Rounding::Down),
            ..PLAIN
        };
        assert_eq!(convert_one(t, u64::from((-1.5f32).to_bits())) as i32, -2);
        let r = Cvt {
            rounding: Some(Rounding::NearestEven),
            integral: true,
            ..PLAIN
        };
        assert_eq!(
            f32::from_bits(convert_one(r, u64::from(2.5f32.to_bits())) as u32),
            2.0
        );
        let n = Cvt { sat: true, ..PLAIN };
        assert_eq!(convert_one(n, u64::from(f32::NAN.to_bits())), 0);
    }
}
