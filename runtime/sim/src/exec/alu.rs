//! Register arithmetic: lanes of 32 values, no memory, no faults.
//!
//! In: the register file, an instruction and the mask of active lanes. Out:
//! the destination row, changed in active lanes only. Each operation computes
//! all lanes, which the compiler turns into vector code, and then blends.
//! The whole match is compiled for several instruction sets.

use crate::isa::{
    A32, A64, BoolOp, CONST, Cmp, CmpType, FULL, Inst, Op, P, PSrc, R, Row, Row32, Row64, Shift,
};
use crate::numerics::approx::{Approx, ex2};
use crate::numerics::convert::{bf16_to_f32, f16_to_f32};
use crate::numerics::rounding::{flush, max_f32, min_f32, saturate};

/// Registers of one warp.
#[derive(Debug, Default)]
pub struct Regs {
    pub r32: Vec<Row32>,
    pub r64: Vec<Row64>,
    pub preds: Vec<u32>,
}

/// Constants of the kernel, shared by all warps.
#[derive(Clone, Copy)]
pub struct Consts<'a> {
    pub c32: &'a [Row32],
    pub c64: &'a [Row64],
}

impl Regs {
    #[inline(always)]
    pub fn get32<'a>(&'a self, consts: Consts<'a>, r: R) -> &'a Row32 {
        if r & CONST != 0 {
            &consts.c32[usize::from(r & !CONST)]
        } else {
            &self.r32[usize::from(r)]
        }
    }

    #[inline(always)]
    pub fn get64<'a>(&'a self, consts: Consts<'a>, r: R) -> &'a Row64 {
        if r & CONST != 0 {
            &consts.c64[usize::from(r & !CONST)]
        } else {
            &self.r64[usize::from(r)]
        }
    }

    /// A row of either width, zero-extended.
    #[inline(always)]
    pub fn get_wide(&self, consts: Consts<'_>, r: Row) -> Row64 {
        match r {
            Row::R32(r) => self.get32(consts, r).map(u64::from),
            Row::R64(r) => *self.get64(consts, r),
        }
    }

    #[inline(always)]
    pub fn put32(&mut self, d: R, v: &Row32, mask: u32) {
        let row = &mut self.r32[usize::from(d)];
        if mask == FULL {
            *row = *v;
        } else {
            for l in 0..32 {
                row[l] = if mask >> l & 1 != 0 { v[l] } else { row[l] };
            }
        }
    }

    #[inline(always)]
    pub fn put64(&mut self, d: R, v: &Row64, mask: u32) {
        let row = &mut self.r64[usize::from(d)];
        if mask == FULL {
            *row = *v;
        } else {
            for l in 0..32 {
                row[l] = if mask >> l & 1 != 0 { v[l] } else { row[l] };
            }
        }
    }

    /// Writes a row of either width; a 32-bit one takes the low half.
    #[inline(always)]
    pub fn put_wide(&mut self, d: Row, v: &Row64, mask: u32) {
        match d {
            Row::R32(d) => self.put32(d, &v.map(|x| x as u32), mask),
            Row::R64(d) => self.put64(d, v, mask),
        }
    }

    #[inline(always)]
    pub fn pred(&self, p: PSrc) -> u32 {
        let bits = self.preds[usize::from(p.p)];
        if p.negated { !bits } else { bits }
    }

    #[inline(always)]
    pub fn put_pred(&mut self, d: P, bits: u32, mask: u32) {
        let p = &mut self.preds[usize::from(d)];
        *p = (*p & !mask) | (bits & mask);
    }
}

/// Runs register instructions up to the first of another kind; how many. The
/// first is a register instruction; those without an active lane count, too.
#[inline]
pub fn run(regs: &mut Regs, consts: Consts<'_>, code: &[Inst], mask: u32) -> u32 {
    crate::simd::with(
        #[inline(always)]
        || {
            let mut done = 0;
            for inst in code {
                let active = mask & regs.pred(inst.guard);
                if active != 0 && !step_any(regs, consts, &inst.op, active) {
                    break;
                }
                done += 1;
            }
            done.max(1)
        },
    )
}

/// Runs a register instruction; false when the instruction is not one.
#[inline(always)]
fn step_any(regs: &mut Regs, consts: Consts<'_>, op: &Op, mask: u32) -> bool {
    match *op {
        Op::Alu32 { f, d, a, b, c } => {
            let v = alu32(
                f,
                regs.get32(consts, a),
                regs.get32(consts, b),
                regs.get32(consts, c),
            );
            regs.put32(d, &v, mask);
        }
        Op::Alu16 {
            f,
            signed,
            d,
            a,
            b,
            c,
        } => {
            let extend = |x: &Row32| {
                if signed {
                    x.map(|v| v as u16 as i16 as i32 as u32)
                } else {
                    *x
                }
            };
            // Shift amounts are never negative.
            let shift = matches!(f, A32::Shl | A32::ShrS | A32::ShrU);
            let av = extend(regs.get32(consts, a));
            let bv = regs.get32(consts, b);
            let bv = if shift { *bv } else { extend(bv) };
            let cv = extend(regs.get32(consts, c));
            let v = alu32(f, &av, &bv, &cv).map(|x| x & 0xffff);
            regs.put32(d, &v, mask);
        }
        Op::AluF {
            f,
            ftz,
            sat,
            d,
            a,
            b,
            c,
        } => {
            let fl = |x: &Row32| {
                if ftz {
                    x.map(|v| flush(f32::from_bits(v)).to_bits())
                } else {
                    *x
                }
            };
            let (av, bv, cv) = (
                fl(regs.get32(consts, a)),
                fl(regs.get32(consts, b)),
                fl(regs.get32(consts, c)),
            );
            let mut v = fl(&alu32(f, &av, &bv, &cv));
            if sat {
                v = v.map(|x| saturate(f32::from_bits(x)).to_bits());
            }
            regs.put32(d, &v, mask);
        }
        Op::Approx {
            f: Approx::Ex2,
            ftz,
            d,
            a,
        } => {
            let fl = |x: f32| if ftz { flush(x) } else { x };
            let a = regs.get32(consts, a);
            let v = lanes32(|l| fl(ex2(fl(f32::from_bits(a[l])))).to_bits());
            regs.put32(d, &v, mask);
        }
        Op::Lop3 { lut, d, a, b, c } => {
            let v = lop3(
                lut,
                regs.get32(consts, a),
                regs.get32(consts, b),
                regs.get32(consts, c),
            );
            regs.put32(d, &v, mask);
        }
        Op::Alu64 { f, d, a, b, c } => {
            let v = alu64(
                f,
                regs.get64(consts, a),
                regs.get64(consts, b),
                regs.get64(consts, c),
            );
            regs.put64(d, &v, mask);
        }
        Op::Shift64 { f, d, a, b } => {
            let (a, b) = (regs.get64(consts, a), regs.get32(consts, b));
            let v = lanes64(|l| {
                let n = b[l].min(64);
                match f {
                    Shift::Left => a[l].checked_shl(n).unwrap_or(0),
                    Shift::RightU => a[l].checked_shr(n).unwrap_or(0),
                    Shift::RightS => ((a[l] as i64) >> n.min(63)) as u64,
                }
            });
            regs.put64(d, &v, mask);
        }
        Op::MulWide { signed, d, a, b, c } => {
            let (a, b, c) = (
                regs.get32(consts, a),
                regs.get32(consts, b),
                regs.get64(consts, c),
            );
            let v = if signed {
                lanes64(|l| {
                    (i64::from(a[l] as i32) * i64::from(b[l] as i32)).wrapping_add(c[l] as i64)
                        as u64
                })
            } else {
                lanes64(|l| (u64::from(a[l]) * u64::from(b[l])).wrapping_add(c[l]))
            };
            regs.put64(d, &v, mask);
        }
        Op::Pack64 { d, lo, hi } => {
            let (lo, hi) = (regs.get32(consts, lo), regs.get32(consts, hi));
            let v = lanes64(|l| u64::from(lo[l]) | u64::from(hi[l]) << 32);
            regs.put64(d, &v, mask);
        }
        Op::Setp {
            ty,
            cmp,
            ftz,
            join,
            d,
            q,
            a,
            b,
        } => {
            let bits = compare(regs, consts, ty, cmp, ftz, a, b);
            let (mut t, mut f) = (bits, !bits);
            if let Some((op, c)) = join {
                let c = regs.pred(c);
                (t, f) = (combine(op, t, c), combine(op, f, c));
            }
            regs.put_pred(d, t, mask);
            regs.put_pred(q, f, mask);
        }
        Op::Sel32 { d, a, b, p } => {
            let bits = regs.pred(p);
            let (a, b) = (regs.get32(consts, a), regs.get32(consts, b));
            let v = lanes32(|l| if bits >> l & 1 != 0 { a[l] } else { b[l] });
            regs.put32(d, &v, mask);
        }
        Op::Sel64 { d, a, b, p } => {
            let bits = regs.pred(p);
            let (a, b) = (regs.get64(consts, a), regs.get64(consts, b));
            let v = lanes64(|l| if bits >> l & 1 != 0 { a[l] } else { b[l] });
            regs.put64(d, &v, mask);
        }
        Op::Predicate { f, d, a, b } => {
            let bits = combine(f, regs.pred(a), regs.pred(b));
            regs.put_pred(d, bits, mask);
        }
        _ => return super::alu_rare::step(regs, consts, op, mask),
    }
    true
}

#[inline(always)]
pub fn lanes32(f: impl Fn(usize) -> u32) -> Row32 {
    let mut v = [0; 32];
    for (l, x) in v.iter_mut().enumerate() {
        *x = f(l);
    }
    v
}

#[inline(always)]
pub fn lanes64(f: impl Fn(usize) -> u64) -> Row64 {
    let mut v = [0; 32];
    for (l, x) in v.iter_mut().enumerate() {
        *x = f(l);
    }
    v
}

/// One bit a lane. Written so that the compiler makes a vector comparison of it.
#[inline(always)]
pub fn lanes_bits(f: impl Fn(usize) -> bool) -> u32 {
    let mut bits = 0;
    for l in 0..32 {
        bits |= if f(l) { 1 << l } else { 0 };
    }
    bits
}

fn combine(f: BoolOp, a: u32, b: u32) -> u32 {
    match f {
        BoolOp::And => a & b,
        BoolOp::Or => a | b,
        BoolOp::Xor => a ^ b,
    }
}

/// PTX ISA 9.7.8.6: the truth table, one bit for each combination.
#[inline(always)]
fn lop3(lut: u8, a: &Row32, b: &Row32, c: &Row32) -> Row32 {
    let term = |bit: u8| if lut >> bit & 1 != 0 { u32::MAX } else { 0 };
    let t: [u32; 8] = [
        term(0),
        term(1),
        term(2),
        term(3),
        term(4),
        term(5),
        term(6),
        term(7),
    ];
    lanes32(|l| {
        let (a, b, c) = (a[l], b[l], c[l]);
        // A tree of multiplexers: c chooses in pairs, then b, then a.
        let m = |x: u32, y: u32, s: u32| (x & !s) | (y & s);
        m(
            m(m(t[0], t[1], c), m(t[2], t[3], c), b),
            m(m(t[4], t[5], c), m(t[6], t[7], c), b),
            a,
        )
    })
}

#[inline(always)]
fn fl(x: u32) -> f32 {
    f32::from_bits(x)
}

/// A float result; any NaN becomes the device's canonical one.
#[inline(always)]
fn canon(x: f32) -> u32 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() }
}

#[inline(always)]
pub fn alu32(f: A32, a: &Row32, b: &Row32, c: &Row32) -> Row32 {
    use A32::*;
    macro_rules! map {
        (|$x:ident| $e:expr) => {
            lanes32(|l| {
                let $x = a[l];
                $e
            })
        };
        (|$x:ident, $y:ident| $e:expr) => {
            lanes32(|l| {
                let ($x, $y) = (a[l], b[l]);
                $e
            })
        };
        (|$x:ident, $y:ident, $z:ident| $e:expr) => {
            lanes32(|l| {
                let ($x, $y, $z) = (a[l], b[l], c[l]);
                $e
            })
        };
    }
    match f {
        Mov => *a,
        Add => map!(|x, y| x.wrapping_add(y)),
        Sub => map!(|x, y| x.wrapping_sub(y)),
        MulLo => map!(|x, y| x.wrapping_mul(y)),
        MulHiU => map!(|x, y| ((u64::from(x) * u64::from(y)) >> 32) as u32),
        MulHiS => map!(|x, y| ((i64::from(x as i32) * i64::from(y as i32)) >> 32) as u32),
        MadLo => map!(|x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        And => map!(|x, y| x & y),
        Or => map!(|x, y| x | y),
        Xor => map!(|x, y| x ^ y),
        Not => map!(|x| !x),
        Neg => map!(|x| x.wrapping_neg()),
        AbsS => map!(|x| (x as i32).wrapping_abs() as u32),
        MinS => map!(|x, y| (x as i32).min(y as i32) as u32),
        MinU => map!(|x, y| x.min(y)),
        MaxS => map!(|x, y| (x as i32).max(y as i32) as u32),
        MaxU => map!(|x, y| x.max(y)),
        MinRelu => map!(|x, y| (x as i32).min(y as i32).max(0) as u32),
        MaxRelu => map!(|x, y| (x as i32).max(y as i32).max(0) as u32),
        // Amounts of 32 and more clamp (PTX ISA 9.7.8.8).
        Shl => map!(|x, y| if y > 31 { 0 } else { x << (y & 31) }),
        ShrU => map!(|x, y| if y > 31 { 0 } else { x >> (y & 31) }),
        ShrS => map!(|x, y| ((x as i32) >> y.min(31)) as u32),
        Pack16 => map!(|x, y| (x & 0xffff) | y << 16),
        Low16 => map!(|x| x & 0xffff),
        High16 => map!(|x| x >> 16),
        FAdd => map!(|x, y| canon(fl(x) + fl(y))),
        FSub => map!(|x, y| canon(fl(x) - fl(y))),
        FMul => map!(|x, y| canon(fl(x) * fl(y))),
        FFma => map!(|x, y, z| canon(fl(x).mul_add(fl(y), fl(z)))),
        FDiv => map!(|x, y| canon(fl(x) / fl(y))),
        FSqrt => map!(|x| canon(fl(x).sqrt())),
        FRcp => map!(|x| canon(1.0 / fl(x))),
        FNeg => map!(|x| x ^ 0x8000_0000),
        FAbs => map!(|x| x & 0x7fff_ffff),
        Copysign => map!(|x, y| (y & 0x7fff_ffff) | (x & 0x8000_0000)),
        FMin => map!(|x, y| canon(min_f32(fl(x), fl(y), false))),
        FMax => map!(|x, y| canon(max_f32(fl(x), fl(y), false))),
        FMinNan => map!(|x, y| canon(min_f32(fl(x), fl(y), true))),
        FMaxNan => map!(|x, y| canon(max_f32(fl(x), fl(y), true))),
        Popc => map!(|x| x.count_ones()),
        Clz => map!(|x| x.leading_zeros()),
        Brev => map!(|x| x.reverse_bits()),
        _ => super::alu_rare::alu32(f, a, b, c),
    }
}

#[inline(always)]
fn alu64(f: A64, a: &Row64, b: &Row64, c: &Row64) -> Row64 {
    use A64::*;
    macro_rules! map {
        (|$x:ident| $e:expr) => {
            lanes64(|l| {
                let $x = a[l];
                $e
            })
        };
        (|$x:ident, $y:ident| $e:expr) => {
            lanes64(|l| {
                let ($x, $y) = (a[l], b[l]);
                $e
            })
        };
        (|$x:ident, $y:ident, $z:ident| $e:expr) => {
            lanes64(|l| {
                let ($x, $y, $z) = (a[l], b[l], c[l]);
                $e
            })
        };
    }
    match f {
        Mov => *a,
        Add => map!(|x, y| x.wrapping_add(y)),
        Sub => map!(|x, y| x.wrapping_sub(y)),
        MulLo => map!(|x, y| x.wrapping_mul(y)),
        MadLo => map!(|x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        And => map!(|x, y| x & y),
        Or => map!(|x, y| x | y),
        Xor => map!(|x, y| x ^ y),
        Not => map!(|x| !x),
        Neg => map!(|x| x.wrapping_neg()),
        MinS => map!(|x, y| (x as i64).min(y as i64) as u64),
        MinU => map!(|x, y| x.min(y)),
        MaxS => map!(|x, y| (x as i64).max(y as i64) as u64),
        MaxU => map!(|x, y| x.max(y)),
        DAdd => map!(|x, y| (f64::from_bits(x) + f64::from_bits(y)).to_bits()),
        DSub => map!(|x, y| (f64::from_bits(x) - f64::from_bits(y)).to_bits()),
        DMul => map!(|x, y| (f64::from_bits(x) * f64::from_bits(y)).to_bits()),
        DFma => map!(|x, y, z| {
            f64::from_bits(x)
                .mul_add(f64::from_bits(y), f64::from_bits(z))
                .to_bits()
        }),
        _ => super::alu_rare::alu64(f, a, b),
    }
}

#[inline(always)]
fn compare(regs: &Regs, consts: Consts<'_>, ty: CmpType, cmp: Cmp, ftz: bool, a: R, b: R) -> u32 {
    match ty {
        CmpType::U32 => ordered(cmp, regs.get32(consts, a), regs.get32(consts, b)),
        CmpType::S32 => {
            let (a, b) = (regs.get32(consts, a), regs.get32(consts, b));
            ordered(cmp, &a.map(|x| x as i32), &b.map(|x| x as i32))
        }
        CmpType::S16 => {
            let (a, b) = (regs.get32(consts, a), regs.get32(consts, b));
            ordered(
                cmp,
                &a.map(|x| x as u16 as i16),
                &b.map(|x| x as u16 as i16),
            )
        }
        CmpType::U64 => ordered(cmp, regs.get64(consts, a), regs.get64(consts, b)),
        CmpType::S64 => {
            let (a, b) = (regs.get64(consts, a), regs.get64(consts, b));
            ordered(cmp, &a.map(|x| x as i64), &b.map(|x| x as i64))
        }
        CmpType::F32 => {
            let (mut a, mut b) = (
                regs.get32(consts, a).map(f32::from_bits),
                regs.get32(consts, b).map(f32::from_bits),
            );
            if ftz {
                (a, b) = (a.map(flush), b.map(flush));
            }
            ordered(cmp, &a, &b)
        }
        CmpType::F16 => {
            let (a, b) = (regs.get32(consts, a), regs.get32(consts, b));
            ordered(
                cmp,
                &a.map(|x| f16_to_f32(x as u16)),
                &b.map(|x| f16_to_f32(x as u16)),
            )
        }
        CmpType::Bf16 => {
            let (a, b) = (regs.get32(consts, a), regs.get32(consts, b));
            ordered(
                cmp,
                &a.map(|x| bf16_to_f32(x as u16)),
                &b.map(|x| bf16_to_f32(x as u16)),
            )
        }
        CmpType::F64 => {
            let (a, b) = (regs.get64(consts, a), regs.get64(consts, b));
            ordered(cmp, &a.map(f64::from_bits), &b.map(f64::from_bits))
        }
    }
}

/// PTX ISA 9.3.1: the ordered comparisons are false with a NaN, the unordered
/// ones true. On integers only the first six occur.
#[inline(always)]
fn ordered<T: PartialOrd + Copy>(cmp: Cmp, a: &[T; 32], b: &[T; 32]) -> u32 {
    // A value is unordered with itself only when it is NaN.
    let nan = |l: usize| a[l].partial_cmp(&a[l]).is_none() || b[l].partial_cmp(&b[l]).is_none();
    match cmp {
        Cmp::Eq => lanes_bits(|l| a[l] == b[l]),
        Cmp::Ne => lanes_bits(|l| a[l] != b[l] && !nan(l)),
        Cmp::Lt => lanes_bits(|l| a[l] < b[l]),
        Cmp::Le => lanes_bits(|l| a[l] <= b[l]),
        Cmp::Gt => lanes_bits(|l| a[l] > b[l]),
        Cmp::Ge => lanes_bits(|l| a[l] >= b[l]),
        Cmp::Equ => lanes_bits(|l| a[l] == b[l] || nan(l)),
        Cmp::Neu => lanes_bits(|l| a[l] != b[l]),
        Cmp::Ltu => lanes_bits(|l| a[l] < b[l] || nan(l)),
        Cmp::Leu => lanes_bits(|l| a[l] <= b[l] || nan(l)),
        Cmp::Gtu => lanes_bits(|l| a[l] > b[l] || nan(l)),
        Cmp::Geu => lanes_bits(|l| a[l] >= b[l] || nan(l)),
        Cmp::Num => !lanes_bits(nan),
        Cmp::Nan => lanes_bits(nan),
    }
}
