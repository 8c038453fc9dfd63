//! The instructions that [`super::run`] tries, each with its meaning.
//!
//! In: bits of up to three operands. Out: the bits that the instruction must give, or for an approximate one the
//! exact value and the bound that the PTX ISA states.
//! Holds: exact instructions are those whose result the PTX ISA defines to the bit.

use mcc_sim::numerics::convert::{
    self, BF16, E4M3, E5M2, F16, F32, Format, Rounding, decode, encode, encode_tf32,
};
use mcc_sim::numerics::rounding::{flush, max_f32, min_f32};

/// One instruction.
pub(super) struct Op {
    /// As PTX spells it.
    pub name: &'static str,
    /// PTX statements from `%x`, `%y`, `%z` to `%d`, all `.b32`; `%hx`, `%hd` are `.b16`.
    pub body: &'static str,
    pub inputs: Inputs,
    pub meaning: Meaning,
}

/// What the operands are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inputs {
    /// All 16-bit patterns in x.
    All16,
    /// All 16-bit patterns in each half of x.
    AllHalves,
    /// FP32 numbers.
    F32,
    /// Integers.
    Int,
}

/// What the result must be.
pub(super) enum Meaning {
    Exact(fn(u32, u32, u32) -> u32),
    /// Exact, but the PTX ISA does not say which NaN comes of a NaN.
    Widening(fn(u32, u32, u32) -> u32),
    Approximate {
        value: fn(f64) -> f64,
        /// Subnormal operands and results count as zero.
        ftz: bool,
        bound: Bound,
    },
}

/// A documented bound of an approximate instruction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// Units of the last place, from the correctly rounded result.
    Ulps(u64),
    /// Relative, as a power of two.
    Relative(f64),
}

const NEAREST: Rounding = Rounding::NearestEven;

fn float(bits: u32) -> f64 {
    f64::from(f32::from_bits(bits))
}

/// NaN results have one pattern (PTX ISA 9.7.3).
fn canonical(x: f32) -> u32 {
    if x.is_nan() { F32.nan } else { x.to_bits() }
}

/// A pair of conversions; the first operand goes to the upper half.
fn pair(hi: u32, lo: u32, to: Format, shift: u32, satfinite: bool) -> u32 {
    let one = |bits| encode(float(bits), to, NEAREST, satfinite);
    one(hi) << shift | one(lo)
}

/// A packed conversion of codes.
fn packed(
    x: u32,
    from: Format,
    from_shift: u32,
    to: Format,
    to_shift: u32,
    satfinite: bool,
) -> u32 {
    let one = |code: u32| {
        let code = code & ((1 << from_shift) - 1);
        encode(decode(code, from), to, NEAREST, satfinite)
    };
    one(x >> from_shift) << to_shift | one(x)
}

fn to_s32(x: u32, rounding: Rounding) -> u32 {
    convert::to_int(float(x), rounding, 32, true) as u32
}

const fn exact(
    name: &'static str,
    body: &'static str,
    inputs: Inputs,
    meaning: fn(u32, u32, u32) -> u32,
) -> Op {
    Op {
        name,
        body,
        inputs,
        meaning: Meaning::Exact(meaning),
    }
}

const fn widening(name: &'static str, body: &'static str, meaning: fn(u32, u32, u32) -> u32) -> Op {
    Op {
        name,
        body,
        inputs: Inputs::All16,
        meaning: Meaning::Widening(meaning),
    }
}

const fn approximate(
    name: &'static str,
    body: &'static str,
    value: fn(f64) -> f64,
    ftz: bool,
    bound: Bound,
) -> Op {
    Op {
        name,
        body,
        inputs: Inputs::F32,
        meaning: Meaning::Approximate { value, ftz, bound },
    }
}

/// The instructions: conversions first, then arithmetic, then the approximate ones.
pub(super) const OPS: &[Op] = &[
    exact(
        "cvt.rn.satfinite.e4m3x2.f32",
        "cvt.rn.satfinite.e4m3x2.f32 %hd, %x, %y; cvt.u32.u16 %d, %hd;",
        Inputs::F32,
        |x, y, _| pair(x, y, E4M3, 8, true),
    ),
    exact(
        "cvt.rn.satfinite.e5m2x2.f32",
        "cvt.rn.satfinite.e5m2x2.f32 %hd, %x, %y; cvt.u32.u16 %d, %hd;",
        Inputs::F32,
        |x, y, _| pair(x, y, E5M2, 8, true),
    ),
    exact(
        "cvt.rn.bf16x2.f32",
        "cvt.rn.bf16x2.f32 %d, %x, %y;",
        Inputs::F32,
        |x, y, _| pair(x, y, BF16, 16, false),
    ),
    exact(
        "cvt.rn.f16x2.f32",
        "cvt.rn.f16x2.f32 %d, %x, %y;",
        Inputs::F32,
        |x, y, _| pair(x, y, F16, 16, false),
    ),
    exact(
        "cvt.rn.bf16.f32",
        "cvt.rn.bf16.f32 %hd, %x; cvt.u32.u16 %d, %hd;",
        Inputs::F32,
        |x, _, _| encode(float(x), BF16, NEAREST, false),
    ),
    exact(
        "cvt.rn.f16.f32",
        "cvt.rn.f16.f32 %hd, %x; cvt.u32.u16 %d, %hd;",
        Inputs::F32,
        |x, _, _| encode(float(x), F16, NEAREST, false),
    ),
    exact(
        "cvt.rna.tf32.f32",
        "cvt.rna.tf32.f32 %d, %x;",
        Inputs::F32,
        |x, _, _| encode_tf32(f32::from_bits(x), Rounding::NearestAway, false),
    ),
    exact(
        "cvt.rn.f16x2.e4m3x2",
        "cvt.u16.u32 %hx, %x; cvt.rn.f16x2.e4m3x2 %d, %hx;",
        Inputs::All16,
        |x, _, _| packed(x, E4M3, 8, F16, 16, false),
    ),
    exact(
        "cvt.rn.f16x2.e5m2x2",
        "cvt.u16.u32 %hx, %x; cvt.rn.f16x2.e5m2x2 %d, %hx;",
        Inputs::All16,
        |x, _, _| packed(x, E5M2, 8, F16, 16, false),
    ),
    exact(
        "cvt.rn.satfinite.e4m3x2.f16x2",
        "cvt.rn.satfinite.e4m3x2.f16x2 %hd, %x; cvt.u32.u16 %d, %hd;",
        Inputs::AllHalves,
        |x, _, _| packed16(x, E4M3),
    ),
    exact(
        "cvt.rn.satfinite.e5m2x2.f16x2",
        "cvt.rn.satfinite.e5m2x2.f16x2 %hd, %x; cvt.u32.u16 %d, %hd;",
        Inputs::AllHalves,
        |x, _, _| packed16(x, E5M2),
    ),
    widening(
        "cvt.f32.f16",
        "cvt.u16.u32 %hx, %x; cvt.f32.f16 %d, %hx;",
        |x, _, _| encode(decode(x, F16), F32, NEAREST, false),
    ),
    widening(
        "cvt.f32.bf16",
        "cvt.u16.u32 %hx, %x; cvt.f32.bf16 %d, %hx;",
        |x, _, _| x << 16,
    ),
    exact(
        "cvt.rzi.s32.f32",
        "cvt.rzi.s32.f32 %d, %x;",
        Inputs::F32,
        |x, _, _| to_s32(x, Rounding::Zero),
    ),
    exact(
        "cvt.rni.s32.f32",
        "cvt.rni.s32.f32 %d, %x;",
        Inputs::F32,
        |x, _, _| to_s32(x, NEAREST),
    ),
    exact(
        "cvt.rn.f32.s32",
        "cvt.rn.f32.s32 %d, %x;",
        Inputs::Int,
        |x, _, _| (x.cast_signed() as f32).to_bits(),
    ),
    exact(
        "cvt.rn.f32.u32",
        "cvt.rn.f32.u32 %d, %x;",
        Inputs::Int,
        |x, _, _| (x as f32).to_bits(),
    ),
    exact(
        "add.rn.f32",
        "add.rn.f32 %d, %x, %y;",
        Inputs::F32,
        |x, y, _| canonical(f32::from_bits(x) + f32::from_bits(y)),
    ),
    exact(
        "mul.rn.f32",
        "mul.rn.f32 %d, %x, %y;",
        Inputs::F32,
        |x, y, _| canonical(f32::from_bits(x) * f32::from_bits(y)),
    ),
    exact(
        "fma.rn.f32",
        "fma.rn.f32 %d, %x, %y, %z;",
        Inputs::F32,
        |x, y, z| {
            let [x, y, z] = [x, y, z].map(f32::from_bits);
            canonical(x.mul_add(y, z))
        },
    ),
    exact(
        "div.rn.f32",
        "div.rn.f32 %d, %x, %y;",
        Inputs::F32,
        |x, y, _| canonical(f32::from_bits(x) / f32::from_bits(y)),
    ),
    exact(
        "rcp.rn.f32",
        "rcp.rn.f32 %d, %x;",
        Inputs::F32,
        |x, _, _| canonical(1.0 / f32::from_bits(x)),
    ),
    exact(
        "sqrt.rn.f32",
        "sqrt.rn.f32 %d, %x;",
        Inputs::F32,
        |x, _, _| canonical(f32::from_bits(x).sqrt()),
    ),
    exact("max.f32", "max.f32 %d, %x, %y;", Inputs::F32, |x, y, _| {
        canonical(max_f32(f32::from_bits(x), f32::from_bits(y), false))
    }),
    exact("min.f32", "min.f32 %d, %x, %y;", Inputs::F32, |x, y, _| {
        canonical(min_f32(f32::from_bits(x), f32::from_bits(y), false))
    }),
    // Bounds: PTX ISA 9.7.3, `ex2`, `rcp`, `rsqrt`.
    approximate(
        "ex2.approx.ftz.f32",
        "ex2.approx.ftz.f32 %d, %x;",
        f64::exp2,
        true,
        Bound::Ulps(2),
    ),
    approximate(
        "ex2.approx.f32",
        "ex2.approx.f32 %d, %x;",
        f64::exp2,
        false,
        Bound::Ulps(2),
    ),
    approximate(
        "rcp.approx.ftz.f32",
        "rcp.approx.ftz.f32 %d, %x;",
        |x| 1.0 / x,
        true,
        Bound::Ulps(1),
    ),
    approximate(
        "rsqrt.approx.f32",
        "rsqrt.approx.f32 %d, %x;",
        |x| 1.0 / x.sqrt(),
        false,
        Bound::Relative(-22.9),
    ),
    approximate(
        "rsqrt.approx.ftz.f32",
        "rsqrt.approx.ftz.f32 %d, %x;",
        |x| 1.0 / x.sqrt(),
        true,
        Bound::Relative(-22.9),
    ),
];

fn packed16(x: u32, to: Format) -> u32 {
    packed_halves(x, F16, to)
}

/// Two 16-bit codes to two 8-bit ones.
fn packed_halves(x: u32, from: Format, to: Format) -> u32 {
    packed(x, from, 16, to, 8, true)
}

/// How far an approximate result is from the exact value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Error {
    /// From the correctly rounded result; 0 where that is no number and the device's is none of the same kind.
    pub ulps: u64,
    /// From the exact value; 0 where that is not a normal number.
    pub relative: f64,
    pub within: bool,
}

/// Judges a result of an approximate instruction.
pub(super) fn judge(value: fn(f64) -> f64, ftz: bool, bound: Bound, x: u32, device: u32) -> Error {
    let x = f32::from_bits(x);
    let exact = value(f64::from(if ftz { flush(x) } else { x }));
    let rounded = exact as f32;
    let rounded = if ftz { flush(rounded) } else { rounded };
    let got = f32::from_bits(device);
    let wrong = |within| Error {
        ulps: 0,
        relative: 0.0,
        within,
    };
    if rounded.is_nan() || got.is_nan() {
        return wrong(rounded.is_nan() && got.is_nan());
    }
    // Where flushing begins, a result may round to the least normal number or be flushed before.
    let least = f64::from(f32::MIN_POSITIVE);
    if ftz && (got == 0.0) != (rounded == 0.0) && (exact.abs() / least - 1.0).abs() < 1e-6 {
        return wrong(true);
    }
    let ulps = super::super::report::distance(device, rounded.to_bits(), 1 << 31);
    // Below the normal numbers a unit of the last place is a large part of the value.
    let relative = if !rounded.is_normal() || got.is_infinite() {
        0.0
    } else {
        ((f64::from(got) - exact) / exact).abs()
    };
    let within = match bound {
        Bound::Ulps(most) => ulps <= most,
        // Zeros, infinities and subnormal numbers are exact.
        Bound::Relative(_) if relative == 0.0 => ulps == 0,
        Bound::Relative(log) => relative <= log.exp2(),
    };
    Error {
        ulps,
        relative,
        within,
    }
}
