//! Register instructions that hot loops seldom contain: divisions, bit fields,
//! directed rounding, half precision, approximations and conversions.
//!
//! Same contract as [`super::alu`]; kept apart so that the common operations
//! stay small.

use super::alu::{Consts, Regs, lanes_bits, lanes32, lanes64};
use crate::isa::{A32, A64, Count64, HalfOp, Op, RndOp, Row, Row32, Row64};
use crate::numerics::approx::{Approx, approx_f32};
use crate::numerics::convert::{self, BF16, Format, Rounding};
use crate::numerics::double;
use crate::numerics::rounding::{
    add_f32, add_small, div_f32, flush, fma_f32, fma_small, max_f32, min_f32, mul_f32, saturate,
    sqrt_f32,
};

pub fn step(regs: &mut Regs, consts: Consts<'_>, op: &Op, mask: u32) -> bool {
    match *op {
        Op::Rnd {
            f,
            mode,
            ftz,
            sat,
            d,
            a,
            b,
            c,
        } => {
            let (a, b, c) = (
                regs.get32(consts, a),
                regs.get32(consts, b),
                regs.get32(consts, c),
            );
            let v = lanes32(|l| rounded(f, mode, ftz, sat, a[l], b[l], c[l]));
            regs.put32(d, &v, mask);
        }
        Op::Rnd64 {
            f,
            mode,
            d,
            a,
            b,
            c,
        } => {
            let (a, b, c) = (
                regs.get64(consts, a),
                regs.get64(consts, b),
                regs.get64(consts, c),
            );
            let v = lanes64(|l| {
                let [a, b, c] = [a[l], b[l], c[l]].map(f64::from_bits);
                rounded64(f, mode, a, b, c).to_bits()
            });
            regs.put64(d, &v, mask);
        }
        Op::Approx { f, ftz, d, a } => {
            let a = regs.get32(consts, a);
            let mut v = [0; 32];
            for l in (0..32).filter(|l| mask >> l & 1 != 0) {
                let x = f32::from_bits(a[l]);
                // The approximate functions treat subnormals as zero in either
                // case, except for rcp, sqrt and rsqrt without `.ftz`.
                let r = approx_f32(f, if ftz { flush(x) } else { x });
                v[l] = if ftz { flush(r) } else { r }.to_bits();
            }
            regs.put32(d, &v, mask);
        }
        Op::Half {
            f,
            bf16,
            pair,
            ftz,
            sat,
            relu,
            d,
            a,
            b,
            c,
        } => {
            let h = Half {
                f,
                bf16,
                ftz,
                sat,
                relu,
            };
            let (a, b, c) = (
                regs.get32(consts, a),
                regs.get32(consts, b),
                regs.get32(consts, c),
            );
            let v = lanes32(|l| {
                let low = h.run(a[l] as u16, b[l] as u16, c[l] as u16);
                if !pair {
                    return low;
                }
                low | h.run(
                    (a[l] >> 16) as u16,
                    (b[l] >> 16) as u16,
                    (c[l] >> 16) as u16,
                ) << 16
            });
            regs.put32(d, &v, mask);
        }
        Op::Bfi { d, a, b, pos, len } => {
            let (a, b) = (regs.get32(consts, a), regs.get32(consts, b));
            let (pos, len) = (regs.get32(consts, pos), regs.get32(consts, len));
            let v = lanes32(|l| bfi(a[l].into(), b[l].into(), pos[l], len[l], 32) as u32);
            regs.put32(d, &v, mask);
        }
        Op::Bfi64 { d, a, b, pos, len } => {
            let (a, b) = (regs.get64(consts, a), regs.get64(consts, b));
            let (pos, len) = (regs.get32(consts, pos), regs.get32(consts, len));
            let v = lanes64(|l| bfi(a[l], b[l], pos[l], len[l], 64));
            regs.put64(d, &v, mask);
        }
        Op::Bfe64 { signed, d, a, b, c } => {
            let (a, b, c) = (
                regs.get64(consts, a),
                regs.get32(consts, b),
                regs.get32(consts, c),
            );
            let v = lanes64(|l| bfe(a[l], b[l], c[l], 64, signed));
            regs.put64(d, &v, mask);
        }
        Op::Count64 { f, d, a } => {
            let a = regs.get64(consts, a);
            let v = lanes32(|l| count64(f, a[l]));
            regs.put32(d, &v, mask);
        }
        Op::Testp { finite, d, a } => {
            let v = regs.get_wide(consts, a);
            let wide = matches!(a, Row::R64(_));
            let bits = lanes_bits(|l| {
                let x = if wide {
                    f64::from_bits(v[l])
                } else {
                    f64::from(f32::from_bits(v[l] as u32))
                };
                let sub = if wide {
                    x.is_subnormal()
                } else {
                    f32::from_bits(v[l] as u32).is_subnormal()
                };
                match finite {
                    0 => x.is_finite(),
                    1 => x.is_infinite(),
                    2 => !x.is_nan(),
                    3 => x.is_nan(),
                    4 => x.is_finite() && x != 0.0 && !sub,
                    _ => sub,
                }
            });
            regs.put_pred(d, bits, mask);
        }
        _ => return super::cvt::step(regs, consts, op, mask),
    }
    true
}

fn rounded(f: RndOp, mode: Rounding, ftz: bool, sat: bool, a: u32, b: u32, c: u32) -> u32 {
    let fl = |x: u32| {
        let v = f32::from_bits(x);
        if ftz { flush(v) } else { v }
    };
    let (a, b, c) = (fl(a), fl(b), fl(c));
    let r = match f {
        RndOp::Add => add_f32(a, b, mode),
        RndOp::Sub => add_f32(a, -b, mode),
        RndOp::Mul => mul_f32(a, b, mode),
        RndOp::Fma => fma_f32(a, b, c, mode),
        RndOp::Div => div_f32(a, b, mode),
        RndOp::Sqrt => sqrt_f32(a, mode),
        RndOp::Rcp => div_f32(1.0, a, mode),
        RndOp::DivApprox => div_approx(a, b),
    };
    let r = if ftz { flush(r) } else { r };
    if sat { saturate(r) } else { r }.to_bits()
}

/// PTX ISA 9.7.3.8: for a divisor above 2^126 the reciprocal counts as zero.
fn div_approx(a: f32, b: f32) -> f32 {
    const LARGE: f32 = f32::from_bits((126 + 127) << 23);
    if b.is_finite() && b.abs() > LARGE {
        return mul_f32(a, 0f32.copysign(b), Rounding::NearestEven);
    }
    div_f32(a, b, Rounding::NearestEven)
}

fn rounded64(f: RndOp, mode: Rounding, a: f64, b: f64, c: f64) -> f64 {
    match f {
        RndOp::Add => double::add(a, b, mode),
        RndOp::Sub => double::add(a, -b, mode),
        RndOp::Mul => double::mul(a, b, mode),
        RndOp::Fma => double::fma(a, b, c, mode),
        RndOp::Div | RndOp::DivApprox => double::div(a, b, mode),
        RndOp::Sqrt => double::sqrt(a, mode),
        RndOp::Rcp => double::div(1.0, a, mode),
    }
}

struct Half {
    f: HalfOp,
    bf16: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
}

impl Half {
    fn run(&self, a: u16, b: u16, c: u16) -> u32 {
        let fmt: Format = if self.bf16 { BF16 } else { convert::F16 };
        match self.f {
            HalfOp::Neg => return u32::from(a ^ 0x8000),
            HalfOp::Abs => return u32::from(a & 0x7fff),
            _ => {}
        }
        let read = |x: u16| {
            let v = convert::decode(u32::from(x), fmt);
            let least = convert::pow2(1 - fmt.bias);
            if self.ftz && v.abs() < least {
                0f64.copysign(v)
            } else {
                v
            }
        };
        let (x, y, z) = (read(a), read(b), read(c));
        let minmax = |f: fn(f32, f32, bool) -> f32, nan: bool| {
            // Exact in `f32`; the result is one of the operands.
            convert::encode(
                f64::from(f(x as f32, y as f32, nan)),
                fmt,
                Rounding::NearestEven,
                false,
            )
        };
        let approx = |f: Approx| {
            let r = approx_f32(f, x as f32);
            convert::encode(f64::from(r), fmt, Rounding::NearestEven, false)
        };
        let mut r = match self.f {
            HalfOp::Add => add_small(x, y, fmt),
            HalfOp::Sub => add_small(x, -y, fmt),
            HalfOp::Mul => convert::encode(x * y, fmt, Rounding::NearestEven, false),
            HalfOp::Fma => fma_small(x, y, z, fmt),
            HalfOp::Min => minmax(min_f32, false),
            HalfOp::Max => minmax(max_f32, false),
            HalfOp::MinNan => minmax(min_f32, true),
            HalfOp::MaxNan => minmax(max_f32, true),
            HalfOp::Ex2 => approx(Approx::Ex2),
            HalfOp::Tanh => approx(Approx::Tanh),
            HalfOp::Neg | HalfOp::Abs => 0,
        };
        let v = convert::decode(r, fmt);
        if self.sat {
            r = convert::encode(
                f64::from(saturate(v as f32)),
                fmt,
                Rounding::NearestEven,
                false,
            );
        }
        if self.ftz && v != 0.0 && v.abs() < convert::pow2(1 - fmt.bias) {
            r &= 0x8000;
        }
        // `.relu`: negative becomes +0, NaN stays canonical.
        if self.relu && r & 0x8000 != 0 && !v.is_nan() {
            0
        } else {
            r
        }
    }
}

/// PTX ISA 9.7.1.20: inserts `len` bits of `a` into `b` at `pos`.
fn bfi(a: u64, b: u64, pos: u32, len: u32, bits: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= bits || len == 0 {
        return b;
    }
    let field = if len >= 64 { u64::MAX } else { (1 << len) - 1 } << pos;
    (b & !field) | ((a << pos) & field)
}

/// PTX ISA 9.7.1.19: extracts `len` bits at `pos`; past the end the sign bit
/// of the field, or of the value, repeats.
fn bfe(a: u64, pos: u32, len: u32, bits: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let sign_at = (pos + len - 1).min(bits - 1);
    let fill = signed && a >> sign_at & 1 == 1;
    let mut v = if pos >= bits { 0 } else { a >> pos };
    let have = len.min(bits.saturating_sub(pos));
    let keep = if have >= 64 {
        u64::MAX
    } else {
        (1u64 << have) - 1
    };
    v &= keep;
    if fill { v | !keep } else { v }
}

fn bfind(v: u64, bits: u32, signed: bool, shift: bool) -> u32 {
    let wide = if signed && v >> (bits - 1) & 1 == 1 {
        !v
    } else {
        v
    };
    let wide = convert::zero_extend(wide, bits);
    if wide == 0 {
        return u32::MAX;
    }
    let at = 63 - wide.leading_zeros();
    if shift { bits - 1 - at } else { at }
}

fn count64(f: Count64, v: u64) -> u32 {
    match f {
        Count64::Popc => v.count_ones(),
        Count64::Clz => v.leading_zeros(),
        Count64::BfindU => bfind(v, 64, false, false),
        Count64::BfindS => bfind(v, 64, true, false),
        Count64::BfindShiftU => bfind(v, 64, false, true),
        Count64::BfindShiftS => bfind(v, 64, true, true),
        Count64::Low => v as u32,
        Count64::High => (v >> 32) as u32,
    }
}

/// PTX ISA 9.7.9.7, default mode: each selector nibble picks a byte, or
/// repeats its sign.
fn prmt(a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(a) | u64::from(b) << 32;
    (0..4).fold(0, |r, i| {
        let sel = c >> (4 * i);
        let byte = (bytes >> (8 * (sel & 7))) as u8;
        let byte = if sel & 8 != 0 {
            ((byte as i8) >> 7) as u8
        } else {
            byte
        };
        r | u32::from(byte) << (8 * i)
    })
}

fn dp4a(a: u32, b: u32, c: u32, signed: bool) -> u32 {
    (0..4).fold(c, |s, i| {
        let (x, y) = ((a >> (8 * i)) as u8, (b >> (8 * i)) as u8);
        let p = if signed {
            i32::from(x as i8) * i32::from(y as i8)
        } else {
            i32::from(x) * i32::from(y)
        };
        s.wrapping_add(p as u32)
    })
}

/// The rest of [`super::alu::alu32`].
pub fn alu32(f: A32, a: &Row32, b: &Row32, c: &Row32) -> Row32 {
    lanes32(|l| {
        let (x, y, z) = (a[l], b[l], c[l]);
        let (sx, sy) = (x as i32, y as i32);
        match f {
            // The result of a division by zero is not defined by PTX; the
            // device gives all ones, and the dividend as remainder.
            A32::DivU => x.checked_div(y).unwrap_or(u32::MAX),
            A32::RemU => x.checked_rem(y).unwrap_or(x),
            A32::DivS => {
                if y == 0 {
                    u32::MAX
                } else {
                    sx.wrapping_div(sy) as u32
                }
            }
            A32::RemS => {
                if y == 0 {
                    x
                } else {
                    sx.wrapping_rem(sy) as u32
                }
            }
            A32::MadHiU => ((u64::from(x) * u64::from(y)) >> 32) as u32,
            A32::MadHiS => ((i64::from(sx) * i64::from(sy)) >> 32) as u32,
            A32::MulHi16 => (sx.wrapping_mul(sy) as u32) >> 16,
            A32::AddSat => sx.saturating_add(sy) as u32,
            A32::SubSat => sx.saturating_sub(sy) as u32,
            A32::Sad => sx.abs_diff(sy).wrapping_add(z),
            A32::SadU => x.abs_diff(y).wrapping_add(z),
            A32::Cnot => u32::from(x == 0),
            A32::BfindU => bfind(x.into(), 32, false, false),
            A32::BfindS => bfind(x.into(), 32, true, false),
            A32::BfindShiftU => bfind(x.into(), 32, false, true),
            A32::BfindShiftS => bfind(x.into(), 32, true, true),
            A32::BfeU => bfe(x.into(), y, z, 32, false) as u32,
            A32::BfeS => bfe(x.into(), y, z, 32, true) as u32,
            A32::Bmsk => {
                let (pos, len) = (x.min(32), y.min(32));
                ((((1u64 << len) - 1) << pos) & 0xffff_ffff) as u32
            }
            A32::Prmt => prmt(x, y, z),
            // shf: the operand is {b, a}, b the high word.
            A32::ShfLClamp | A32::ShfLWrap => {
                let n = if f == A32::ShfLClamp {
                    z.min(32)
                } else {
                    z & 31
                };
                (((u64::from(y) << 32 | u64::from(x)) << n) >> 32) as u32
            }
            A32::ShfRClamp | A32::ShfRWrap => {
                let n = if f == A32::ShfRClamp {
                    z.min(32)
                } else {
                    z & 31
                };
                ((u64::from(y) << 32 | u64::from(x)) >> n) as u32
            }
            A32::Slct => {
                if z as i32 >= 0 {
                    x
                } else {
                    y
                }
            }
            A32::Dp4aUU => dp4a(x, y, z, false),
            A32::Dp4aSS => dp4a(x, y, z, true),
            _ => 0,
        }
        .wrapping_add(if matches!(f, A32::MadHiS | A32::MadHiU) {
            z
        } else {
            0
        })
    })
}

/// The rest of [`super::alu`]'s 64-bit operations.
pub fn alu64(f: A64, a: &Row64, b: &Row64) -> Row64 {
    lanes64(|l| {
        let (x, y) = (a[l], b[l]);
        let (sx, sy) = (x as i64, y as i64);
        let (dx, dy) = (f64::from_bits(x), f64::from_bits(y));
        match f {
            A64::DivU => x.checked_div(y).unwrap_or(u64::MAX),
            A64::RemU => x.checked_rem(y).unwrap_or(x),
            A64::DivS => {
                if y == 0 {
                    u64::MAX
                } else {
                    sx.wrapping_div(sy) as u64
                }
            }
            A64::RemS => {
                if y == 0 {
                    x
                } else {
                    sx.wrapping_rem(sy) as u64
                }
            }
            A64::MulHiU => ((u128::from(x) * u128::from(y)) >> 64) as u64,
            A64::MulHiS => ((i128::from(sx) * i128::from(sy)) >> 64) as u64,
            A64::Cnot => u64::from(x == 0),
            A64::AbsS => sx.wrapping_abs() as u64,
            A64::Brev => x.reverse_bits(),
            A64::DDiv => (dx / dy).to_bits(),
            A64::DSqrt => dx.sqrt().to_bits(),
            A64::DRcp => (1.0 / dx).to_bits(),
            A64::DRsqrt => (1.0 / dx.sqrt()).to_bits(),
            A64::DRcpGross => double::gross(dx, |x| 1.0 / x).to_bits(),
            A64::DRsqrtGross => double::gross(dx, |x| 1.0 / x.sqrt()).to_bits(),
            A64::DMin => {
                if dx.is_nan() {
                    y
                } else if dy.is_nan() || dx < dy || (dx == dy && dx.is_sign_negative()) {
                    x
                } else {
                    y
                }
            }
            A64::DMax => {
                if dx.is_nan() {
                    y
                } else if dy.is_nan() || dx > dy || (dx == dy && dx.is_sign_positive()) {
                    x
                } else {
                    y
                }
            }
            A64::DNeg => x ^ 1 << 63,
            A64::DAbs => x & !(1 << 63),
            A64::DCopysign => (y & !(1 << 63)) | (x & 1 << 63),
            _ => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_fields() {
        assert_eq!(bfe(0xabcd_1234, 8, 8, 32, false), 0x12);
        assert_eq!(bfe(0x0000_8000, 8, 8, 32, true) as u32, 0xffff_ff80);
        assert_eq!(bfe(0x8000_0000, 28, 8, 32, true) as u32, 0xffff_fff8);
        assert_eq!(bfe(5, 0, 0, 32, true), 0);
        assert_eq!(bfi(0xff, 0, 4, 4, 32), 0xf0);
        assert_eq!(bfi(0xff, 7, 40, 4, 32), 7);
        assert_eq!(bfind(0, 32, false, false), u32::MAX);
        assert_eq!(bfind(0x10, 32, false, true), 27);
        assert_eq!(bfind(0xffff_fffe, 32, true, false), 0);
    }

    #[test]
    fn byte_permutes_and_funnel_shifts() {
        assert_eq!(prmt(0x3322_1100, 0x7766_5544, 0x7531), 0x7755_3311);
        assert_eq!(prmt(0x0000_0080, 0, 0x0008), 0x8080_80ff);
        let one = |f, x, y, z| alu32(f, &[x; 32], &[y; 32], &[z; 32])[3];
        assert_eq!(one(A32::ShfLWrap, 0x8000_0000, 1, 33), 3);
        assert_eq!(one(A32::ShfRClamp, 7, 0xabcd_0000, 40), 0xabcd_0000);
        assert_eq!(
            one(A32::DivS, i32::MIN as u32, u32::MAX, 0),
            i32::MIN as u32
        );
        assert_eq!(one(A32::Bmsk, 4, 8, 0), 0xff0);
        assert_eq!(one(A32::MadHiU, u32::MAX, 2, 5), 6);
    }
}
