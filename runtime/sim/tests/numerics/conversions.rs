//! `cvt` (PTX ISA 9.7.9.22) in every form that the instruction table knows:
//! all codes of the narrow formats, and of `f32` every upper half with lower
//! halves on and beside all ties (all 2^32 when asked for).

use super::exact::{
    BF16, E4M3, E5M2, F16, F32, F64, Format, Mode, Number, Rounder, TF32, Value, integral,
};
use super::lanes::{Lanes, Random, f32_patterns};

/// A conversion between floats, of one element.
#[derive(Clone, Copy)]
struct Element {
    from: Format,
    to: Rounder,
    format: Format,
    relu: bool,
    ftz: bool,
    sat: bool,
}

impl Element {
    fn new(from: Format, to: Format, mode: Mode) -> Element {
        Element {
            from,
            to: Rounder::new(to, mode, false),
            format: to,
            relu: false,
            ftz: false,
            sat: false,
        }
    }

    fn convert(&mut self, code: u64) -> u64 {
        let code = if self.ftz && self.from == F32 {
            F32.flush(code)
        } else {
            code
        };
        let positive_zero = Value::Finite(Number::new(false, 0, 0));
        let mut v = self.from.value(code);
        let negative = match v {
            Value::Nan => false,
            Value::Infinite(n) => n,
            Value::Finite(n) => n.negative,
        };
        if self.relu && negative {
            v = positive_zero;
        }
        if self.sat {
            // NaN and what is below zero become +0.
            v = match v {
                Value::Nan => positive_zero,
                _ if negative => positive_zero,
                Value::Infinite(_) => super::exact::one(),
                Value::Finite(n) if n.compare(Number::from_int(1)).is_gt() => super::exact::one(),
                v => v,
            };
        }
        let code = self.to.round(v);
        if self.ftz && self.format == F32 {
            F32.flush(code)
        } else {
            code
        }
    }
}

/// A `cvt` whose result is made of up to two elements.
struct Form {
    name: String,
    instruction: String,
    result: usize,
    operands: Vec<usize>,
    /// Of the only or lower element, and of the upper one.
    element: Element,
    upper: Element,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    One,
    /// Two sources: the first goes to the upper half.
    Pair,
    /// A packed source with elements of so many bits.
    Packed(u32),
    /// The result's low 13 bits are zero.
    Tf32,
}

impl Form {
    /// What the result must be.
    fn want(&mut self, [x, y, _]: [u64; 3]) -> u64 {
        let half = self.result / 2;
        match self.shape {
            Shape::One => self.element.convert(x),
            Shape::Pair => self.upper.convert(x) << half | self.element.convert(y),
            Shape::Packed(bits) => {
                let (hi, lo) = (x >> bits, x & ((1 << bits) - 1));
                self.upper.convert(hi) << half | self.element.convert(lo)
            }
            // The NaN of a TF32 register has its low bits set.
            Shape::Tf32 => match self.element.convert(x) {
                v if v == TF32.nan => F32.nan,
                v => v << 13,
            },
        }
    }

    fn lanes(&self) -> Lanes {
        Lanes::new(&self.instruction, self.result, &self.operands)
    }

    fn check(&mut self, inputs: &[[u64; 3]]) {
        let lanes = self.lanes();
        let (name, format) = (self.name.clone(), self.element.format);
        // PTX does not say which NaN a widened NaN is.
        let widening = self.element.from.man_bits < format.man_bits && self.shape == Shape::One;
        lanes.compare(
            &name,
            inputs,
            |i| self.want(i),
            |got, want| widening && format.is_nan(got) && format.is_nan(want),
        );
    }
}

/// Conversions of `f32` to a narrower format.
fn narrowing() -> Vec<Form> {
    let mut all = Vec::new();
    let modes = |names: &[&str]| -> Vec<(&'static str, Mode)> {
        Mode::DIRECTED
            .into_iter()
            .chain([("rna", Mode::Away)])
            .filter(|(n, _)| names.contains(n))
            .collect()
    };
    let mut push = |to: &str, format, (rn, mode): (&str, Mode), flags: &str, shape, result| {
        let mut element = Element::new(F32, format, mode);
        element.to = Rounder::new(format, mode, flags.contains(".satfinite"));
        element.relu = flags.contains(".relu");
        element.ftz = flags.contains(".ftz");
        element.sat = flags.ends_with(".sat");
        // PTX has `.relu` before `.satfinite` but for FP8.
        let name = format!("cvt.{rn}{flags}.{to}.f32");
        let pair = shape == Shape::Pair;
        all.push(Form {
            instruction: format!("{name} {{d}}, {{x}}{}", if pair { ", {y}" } else { "" }),
            name,
            result,
            operands: vec![32; 1 + usize::from(pair)],
            element,
            upper: element,
            shape,
        });
    };
    for mode in modes(&["rn", "rz", "rm", "rp"]) {
        push("f16", F16, mode, "", Shape::One, 16);
        push("f16", F16, mode, ".ftz", Shape::One, 16);
        push("f16", F16, mode, ".sat", Shape::One, 16);
        push("bf16", BF16, mode, "", Shape::One, 16);
    }
    for mode in modes(&["rn", "rz"]) {
        for flags in [".relu", ".satfinite", ".relu.satfinite"] {
            push("f16", F16, mode, flags, Shape::One, 16);
            push("bf16", BF16, mode, flags, Shape::One, 16);
        }
        for flags in ["", ".relu", ".satfinite", ".relu.satfinite"] {
            push("f16x2", F16, mode, flags, Shape::Pair, 32);
            push("bf16x2", BF16, mode, flags, Shape::Pair, 32);
        }
        for flags in ["", ".relu"] {
            push("tf32", TF32, mode, flags, Shape::Tf32, 32);
        }
    }
    for mode in modes(&["rna"]) {
        for flags in ["", ".satfinite"] {
            push("tf32", TF32, mode, flags, Shape::Tf32, 32);
        }
    }
    for mode in modes(&["rn"]) {
        for flags in [".satfinite", ".satfinite.relu"] {
            push("e4m3x2", E4M3, mode, flags, Shape::Pair, 16);
            push("e5m2x2", E5M2, mode, flags, Shape::Pair, 16);
        }
    }
    all
}

#[test]
fn f32_to_narrow_formats_around_every_tie() {
    let patterns = f32_patterns();
    // The second operand of a pair walks the other way.
    let last = patterns.len() - 1;
    let inputs: Vec<[u64; 3]> = (0..=last)
        .map(|i| [patterns[i], patterns[last - i], 0])
        .collect();
    let forms = narrowing();
    println!("{} forms of cvt, {} inputs each", forms.len(), inputs.len());
    for mut form in forms {
        // Plain forms see all, those with flags every third.
        let plain = form.name.matches('.').count() == 3;
        if plain {
            form.check(&inputs);
        } else {
            let part: Vec<[u64; 3]> = inputs.iter().copied().step_by(3).collect();
            form.check(&part);
        }
    }
}

/// About half an hour on two cores, so not part of every run.
#[test]
#[ignore = "all 2^32 operands of every form take minutes each"]
fn f32_to_narrow_formats_for_all_operands() {
    for mut form in narrowing() {
        let lanes = form.lanes();
        let step = 1u64 << 20;
        for from in (0..1u64 << 32).step_by(step as usize) {
            let inputs: Vec<[u64; 3]> = (from..from + step)
                .map(|x| [x, x ^ 0x8000_0000, 0])
                .collect();
            let name = form.name.clone();
            lanes.compare(&name, &inputs, |i| form.want(i), |_, _| false);
        }
        println!("{}: 2^32 operands", form.name);
    }
}

#[test]
fn narrow_formats_for_all_codes() {
    let all16: Vec<[u64; 3]> = (0..1 << 16).map(|x| [x, 0, 0]).collect();
    // Each half of a pair sees every code.
    let halves: Vec<[u64; 3]> = (0..1u64 << 16)
        .map(|i| [((i * 40503) & 0xffff) << 16 | i, 0, 0])
        .collect();
    let form = |name: String, result, operand, element, shape| Form {
        instruction: format!("{name} {{d}}, {{x}}"),
        name,
        result,
        operands: vec![operand],
        element,
        upper: element,
        shape,
    };
    let names = [
        ("f16", F16, 16),
        ("bf16", BF16, 16),
        ("f32", F32, 32),
        ("f64", F64, 64),
    ];
    for (from_name, from, from_bits) in &names[..2] {
        for (to_name, to, bits) in names {
            if from_name == &to_name {
                continue;
            }
            // Only bf16 loses something; it has all modes.
            let modes: &[(&str, Mode)] = match to_name {
                "bf16" => &Mode::DIRECTED,
                _ => &[("rn", Mode::Even)],
            };
            for &(rn, mode) in modes {
                let exact = to_name == "f32" || (to_name == "f64" && *from_name == "f16");
                let dot = if exact {
                    String::new()
                } else {
                    format!(".{rn}")
                };
                form(
                    format!("cvt{dot}.{to_name}.{from_name}"),
                    bits,
                    *from_bits,
                    Element::new(*from, to, mode),
                    Shape::One,
                )
                .check(&all16);
            }
        }
    }
    for relu in [false, true] {
        let flag = if relu { ".relu" } else { "" };
        for (name, f8) in [("e4m3x2", E4M3), ("e5m2x2", E5M2)] {
            let mut element = Element::new(f8, F16, Mode::Even);
            element.relu = relu;
            form(
                format!("cvt.rn{flag}.f16x2.{name}"),
                32,
                16,
                element,
                Shape::Packed(8),
            )
            .check(&all16);
            let mut element = Element::new(F16, f8, Mode::Even);
            element.to = Rounder::new(f8, Mode::Even, true);
            element.relu = relu;
            form(
                format!("cvt.rn.satfinite{flag}.{name}.f16x2"),
                16,
                32,
                element,
                Shape::Packed(16),
            )
            .check(&halves);
        }
    }
}

/// `f64` operands that lie on, or one step beside, the ties of `to`.
fn f64_near(to: Format, random: &mut Random) -> Vec<[u64; 3]> {
    let mut exact = Rounder::new(F64, Mode::Even, false);
    let mut all = Vec::new();
    for i in 0..60_000u64 {
        let r = random.next();
        let code = match i % 4 {
            0 => r & to.sign().wrapping_sub(1),
            // Subnormals and the ends of the range.
            1 => r & ((1 << (to.man_bits + 1)) - 1),
            2 => to.max_finite() - (r & 3),
            _ => r % (to.max_finite() + 1),
        }
        .min(to.max_finite());
        let Value::Finite(n) = to.value(code) else {
            continue;
        };
        // The tie above the code, exactly.
        let tie = Number::new(r >> 63 == 1, n.magnitude * 2 + 1, n.exponent - 1);
        let bits = exact.round(Value::Finite(tie));
        for b in [bits, bits + 1, bits.wrapping_sub(1)] {
            all.push([b, 0, 0]);
        }
        all.push([random.f64s()[i as usize % 3], 0, 0]);
    }
    all
}

#[test]
fn between_f32_and_f64() {
    let mut random = Random(5);
    for (to_name, to, bits) in [("f32", F32, 32), ("f16", F16, 16), ("bf16", BF16, 16)] {
        let inputs = f64_near(to, &mut random);
        for (rn, mode) in Mode::DIRECTED {
            for flag in ["", ".ftz", ".sat"] {
                if (flag == ".ftz" && to_name != "f32") || (flag == ".sat" && to_name == "bf16") {
                    continue;
                }
                let mut element = Element::new(F64, to, mode);
                element.ftz = flag == ".ftz";
                element.sat = flag == ".sat";
                let name = format!("cvt.{rn}{flag}.{to_name}.f64");
                Form {
                    instruction: format!("{name} {{d}}, {{x}}"),
                    name,
                    result: bits,
                    operands: vec![64],
                    element,
                    upper: element,
                    shape: Shape::One,
                }
                .check(&inputs);
            }
        }
    }
    let patterns = f32_patterns();
    let inputs: Vec<[u64; 3]> = patterns.iter().step_by(5).map(|&x| [x, 0, 0]).collect();
    for ftz in ["", ".ftz"] {
        let mut element = Element::new(F32, F64, Mode::Even);
        element.ftz = ftz == ".ftz";
        let name = format!("cvt{ftz}.f64.f32");
        Form {
            instruction: format!("{name} {{d}}, {{x}}"),
            name,
            result: 64,
            operands: vec![32],
            element,
            upper: element,
            shape: Shape::One,
        }
        .check(&inputs);
    }
}

const INTEGERS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

/// Register bits for an integer type, and the pattern of a value in it:
/// narrow integers lie in wider registers with their sign (PTX ISA 9.4.1).
fn in_register(v: i128, bits: u32) -> (usize, u64) {
    let register = bits.max(32) as usize;
    (register, v as u64 & (u64::MAX >> (64 - register)))
}

fn limits(bits: u32, signed: bool) -> (i128, i128) {
    if signed {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

/// Floats around every integer limit, halves, and random ones.
fn floats_near_integers(format: Format, random: &mut Random) -> Vec<[u64; 3]> {
    let mut all = Vec::new();
    for bits in 0..66 {
        for (m, e) in [
            (1u128 << bits, 0),
            ((1 << bits) - 1, 0),
            ((1 << bits) + 1, -1),
        ] {
            let n = Value::Finite(Number::new(false, m, e));
            for mode in [Mode::Zero, Mode::Up] {
                let code = Rounder::new(format, mode, false).round(n);
                for c in [code.saturating_sub(1), code, code + 1] {
                    all.push([c, 0, 0]);
                    all.push([c | format.sign(), 0, 0]);
                }
            }
        }
    }
    // Integers and halves near zero and near the limits of bytes.
    for i in 0..1200i128 {
        let n = Number::new(i % 2 == 1, i.unsigned_abs(), -2);
        let code = Rounder::new(format, Mode::Even, false).round(Value::Finite(n));
        all.push([code, 0, 0]);
    }
    for _ in 0..20_000 {
        for v in random.floats(format.exp_bits, format.man_bits) {
            all.push([v, 0, 0]);
        }
    }
    all
}

#[test]
fn floats_to_integers() {
    let modes = [
        ("rni", Mode::Even),
        ("rzi", Mode::Zero),
        ("rmi", Mode::Down),
        ("rpi", Mode::Up),
    ];
    let mut random = Random(9);
    let floats = [
        ("f16", F16, 16),
        ("bf16", BF16, 16),
        ("f32", F32, 32),
        ("f64", F64, 64),
    ];
    for (from_name, from, width) in floats {
        let inputs = floats_near_integers(from, &mut random);
        for (name, bits, signed) in INTEGERS {
            for (rn, mode) in modes {
                for ftz in ["", ".ftz"] {
                    if ftz == ".ftz" && from_name != "f32" {
                        continue;
                    }
                    let text = format!("cvt.{rn}{ftz}.{name}.{from_name}");
                    let (register, _) = in_register(0, bits);
                    let want = |[x, ..]: [u64; 3]| {
                        let x = if ftz.is_empty() { x } else { from.flush(x) };
                        let (low, high) = limits(bits, signed);
                        let v = match from.value(x) {
                            // PTX ISA 9.7.9.22: zero, but for f64 sources and
                            // 64-bit results the pattern 1000...0.
                            Value::Nan if from_name == "f64" || bits == 64 => {
                                if signed {
                                    low
                                } else {
                                    1 << (bits - 1)
                                }
                            }
                            Value::Nan => 0,
                            Value::Infinite(n) => {
                                if n {
                                    low
                                } else {
                                    high
                                }
                            }
                            Value::Finite(n) => match integral(n, mode) {
                                Some(v) => v.clamp(low, high),
                                None => {
                                    if n.negative {
                                        low
                                    } else {
                                        high
                                    }
                                }
                            },
                        };
                        in_register(v, bits).1
                    };
                    Lanes::new(&format!("{text} {{d}}, {{x}}"), register, &[width]).compare(
                        &text,
                        &inputs,
                        want,
                        |_, _| false,
                    );
                }
            }
        }
    }
}

/// Integers at the limits of every type, near powers of two, and random ones.
fn integers(random: &mut Random) -> Vec<[u64; 3]> {
    let mut all = Vec::new();
    for bits in 0..64 {
        for d in 0..5u64 {
            let near = (1u64 << bits).wrapping_add(d).wrapping_sub(2);
            all.push([near, 0, 0]);
            all.push([near.wrapping_neg(), 0, 0]);
        }
        for low in 0..bits {
            // Two bits: ties of every significand.
            let tie = 1u64 << bits | 1 << low;
            all.extend([
                [tie, 0, 0],
                [tie - 1, 0, 0],
                [tie + 1, 0, 0],
                [tie.wrapping_neg(), 0, 0],
            ]);
        }
    }
    for _ in 0..20_000 {
        let r = random.next();
        all.push([random.next() >> (r & 63), 0, 0]);
    }
    all
}

/// The value of an integer operand.
fn integer(x: u64, bits: u32, signed: bool) -> i128 {
    let v = i128::from(x) & ((1 << bits) - 1);
    if signed && v >> (bits - 1) == 1 {
        v - (1 << bits)
    } else {
        v
    }
}

#[test]
fn integers_to_floats() {
    let inputs = integers(&mut Random(21));
    let floats = [
        ("f16", F16, 16),
        ("bf16", BF16, 16),
        ("f32", F32, 32),
        ("f64", F64, 64),
    ];
    for (to_name, to, width) in floats {
        for (name, bits, signed) in INTEGERS {
            for (rn, mode) in Mode::DIRECTED {
                for sat in ["", ".sat"] {
                    if sat == ".sat" && to_name == "bf16" {
                        continue;
                    }
                    let text = format!("cvt.{rn}{sat}.{to_name}.{name}");
                    let mut round = Rounder::new(to, mode, false);
                    let want = |[x, ..]: [u64; 3]| {
                        let v = integer(x, bits, signed);
                        let v = if sat.is_empty() { v } else { v.clamp(0, 1) };
                        round.round(Value::Finite(Number::from_int(v)))
                    };
                    let source = bits.max(16) as usize;
                    Lanes::new(&format!("{text} {{d}}, {{x}}"), width, &[source]).compare(
                        &text,
                        &inputs,
                        want,
                        |_, _| false,
                    );
                }
            }
        }
    }
}

#[test]
fn integers_to_integers() {
    let inputs = integers(&mut Random(22));
    for (from, from_bits, from_signed) in INTEGERS {
        for (to, bits, signed) in INTEGERS {
            for sat in ["", ".sat"] {
                let text = format!("cvt{sat}.{to}.{from}");
                let (low, high) = limits(bits, signed);
                let want = |[x, ..]: [u64; 3]| {
                    let v = integer(x, from_bits, from_signed);
                    let v = if sat.is_empty() {
                        integer(v as u64, bits, signed)
                    } else {
                        v.clamp(low, high)
                    };
                    in_register(v, bits).1
                };
                let source = from_bits.max(16) as usize;
                let (register, _) = in_register(0, bits);
                Lanes::new(&format!("{text} {{d}}, {{x}}"), register, &[source]).compare(
                    &text,
                    &inputs,
                    want,
                    |_, _| false,
                );
            }
        }
    }
}

#[test]
fn rounding_to_integral_floats() {
    let modes = [
        ("rni", Mode::Even),
        ("rzi", Mode::Zero),
        ("rmi", Mode::Down),
        ("rpi", Mode::Up),
    ];
    let mut random = Random(31);
    for (name, format, width) in [("f16", F16, 16), ("f32", F32, 32), ("f64", F64, 64)] {
        let inputs = floats_near_integers(format, &mut random);
        for (rn, mode) in modes {
            for flags in ["", ".ftz", ".sat"] {
                if flags == ".ftz" && name != "f32" {
                    continue;
                }
                let text = format!("cvt.{rn}{flags}.{name}.{name}");
                let mut element = Element::new(format, format, Mode::Even);
                element.ftz = flags == ".ftz";
                element.sat = flags == ".sat";
                let want = |[x, ..]: [u64; 3]| {
                    let x = if element.ftz { format.flush(x) } else { x };
                    let code = match format.value(x) {
                        Value::Finite(n) => match integral(n, mode) {
                            // An integral zero keeps its sign.
                            Some(v) => {
                                let whole = Number {
                                    negative: n.negative,
                                    ..Number::from_int(v)
                                };
                                Rounder::new(format, Mode::Even, false).round(Value::Finite(whole))
                            }
                            None => x,
                        },
                        _ => x,
                    };
                    element.convert(code)
                };
                Lanes::new(&format!("{text} {{d}}, {{x}}"), width, &[width]).compare(
                    &text,
                    &inputs,
                    want,
                    |got, want| format.is_nan(got) && format.is_nan(want),
                );
            }
        }
    }
}
