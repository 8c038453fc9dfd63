//! The approximate instructions (PTX ISA 9.7.3 and 9.7.4) within the bounds
//! that the ISA states, and its tables of special inputs.
//!
//! The judge is `f64`: the host's functions are off by 2^-52 or so, and the
//! bounds are above 2^-24.

use super::exact::{BF16, F16, F32, Format, Value};
use super::lanes::{Lanes, Random, f32_patterns};

/// How far a result may lie from the exact value.
#[derive(Clone, Copy)]
enum Bound {
    /// In units of the last place of the correctly rounded result.
    Ulps(f64),
    /// Relative to the exact value, as a power of two.
    Relative(f64),
    /// Absolute, as a power of two.
    Absolute(f64),
    /// `lg2`: absolute between 1/2 and 2, relative elsewhere.
    Logarithm(f64),
    /// `sin` and `cos`: absolute up to 2 pi, and up to 100 pi; no bound beyond.
    Angle(f64, f64),
}

struct Approximate {
    name: &'static str,
    format: Format,
    exact: fn(f64) -> f64,
    bound: Bound,
}

const fn of(
    name: &'static str,
    format: Format,
    exact: fn(f64) -> f64,
    bound: Bound,
) -> Approximate {
    Approximate {
        name,
        format,
        exact,
        bound,
    }
}

const ALL: [Approximate; 20] = [
    of("rcp.approx.f32", F32, |x| 1.0 / x, Bound::Ulps(1.0)),
    of("rcp.approx.ftz.f32", F32, |x| 1.0 / x, Bound::Ulps(1.0)),
    of("sqrt.approx.f32", F32, f64::sqrt, Bound::Relative(-23.0)),
    of(
        "sqrt.approx.ftz.f32",
        F32,
        f64::sqrt,
        Bound::Relative(-23.0),
    ),
    of(
        "rsqrt.approx.f32",
        F32,
        |x| 1.0 / x.sqrt(),
        Bound::Relative(-22.9),
    ),
    of(
        "rsqrt.approx.ftz.f32",
        F32,
        |x| 1.0 / x.sqrt(),
        Bound::Relative(-22.9),
    ),
    of("sin.approx.f32", F32, f64::sin, Bound::Angle(-20.5, -14.7)),
    of(
        "sin.approx.ftz.f32",
        F32,
        f64::sin,
        Bound::Angle(-20.5, -14.7),
    ),
    of("cos.approx.f32", F32, f64::cos, Bound::Angle(-20.5, -14.7)),
    of(
        "cos.approx.ftz.f32",
        F32,
        f64::cos,
        Bound::Angle(-20.5, -14.7),
    ),
    of("lg2.approx.f32", F32, f64::log2, Bound::Logarithm(-22.0)),
    of(
        "lg2.approx.ftz.f32",
        F32,
        f64::log2,
        Bound::Logarithm(-22.0),
    ),
    of("ex2.approx.f32", F32, f64::exp2, Bound::Ulps(2.0)),
    of("ex2.approx.ftz.f32", F32, f64::exp2, Bound::Ulps(2.0)),
    of("tanh.approx.f32", F32, f64::tanh, Bound::Relative(-11.0)),
    of("ex2.approx.f16", F16, f64::exp2, Bound::Relative(-9.9)),
    of(
        "ex2.approx.ftz.bf16",
        BF16,
        f64::exp2,
        Bound::Relative(-7.0),
    ),
    of("tanh.approx.f16", F16, f64::tanh, Bound::Absolute(-10.987)),
    of("tanh.approx.bf16", BF16, f64::tanh, Bound::Absolute(-8.0)),
    of("tanh.approx.bf16", BF16, f64::tanh, Bound::Relative(-7.0)),
];

/// The value of a code in `f64`, which holds it exactly.
fn float(f: Format, code: u64) -> f64 {
    match f.value(code) {
        Value::Nan => f64::NAN,
        Value::Infinite(n) => {
            if n {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }
        }
        Value::Finite(n) => {
            let v = n.magnitude as f64 * 2f64.powi(n.exponent);
            if n.negative { -v } else { v }
        }
    }
}

impl Approximate {
    /// Whether `got` is a result that the ISA allows for `code`.
    fn allows(&self, code: u64, got: u64) -> bool {
        let f = self.format;
        let ftz = self.name.contains(".ftz");
        let x = float(f, if ftz { f.flush(code) } else { code });
        let exact = (self.exact)(x);
        if exact.is_nan() {
            return got == f.nan;
        }
        let largest = float(f, f.max_finite());
        let y = float(f, got);
        if exact.is_infinite() || exact == 0.0 {
            return y == exact && y.is_sign_negative() == exact.is_sign_negative();
        }
        // Smallest normal number and spacing of subnormals.
        let normal = 2f64.powi(2 - (1 << (f.exp_bits - 1)));
        let step = normal * 2f64.powi(-(f.man_bits as i32));
        if ftz && exact.abs() < normal {
            return y == 0.0 || y.abs() == normal;
        }
        // One rounding to the format is always allowed.
        let ulp = (2f64.powi(exact.abs().log2().floor() as i32 - f.man_bits as i32)).max(step);
        let error = (y - exact).abs();
        if y.is_infinite() {
            return exact.abs() > largest - 2.0 * ulp;
        }
        let rounding = if exact.abs() < normal {
            step / 2.0
        } else {
            0.0
        };
        let allowed = match self.bound {
            Bound::Ulps(n) => (n + 0.5) * ulp,
            Bound::Relative(log) => exact.abs() * log.exp2(),
            Bound::Absolute(log) => log.exp2(),
            Bound::Logarithm(log) if (0.5..=2.0).contains(&x) => log.exp2(),
            Bound::Logarithm(log) => exact.abs() * log.exp2(),
            Bound::Angle(near, far) => match x.abs() / std::f64::consts::PI {
                ..=2.0 => near.exp2(),
                ..=100.0 => far.exp2(),
                _ => return y.abs() <= 1.0,
            },
        };
        error <= allowed.max(rounding)
    }

    fn check(&self, inputs: &[[u64; 3]]) {
        let bits = 1 + (self.format.exp_bits + self.format.man_bits) as usize;
        let lanes = Lanes::new(&format!("{} {{d}}, {{x}}", self.name), bits, &[bits]);
        for (&[x, ..], got) in inputs.iter().zip(lanes.run(inputs)) {
            assert!(
                self.allows(x, got),
                "{} of {x:#x} ({:e}) gives {got:#x} ({:e})",
                self.name,
                float(self.format, x),
                float(self.format, got)
            );
        }
    }
}

#[test]
fn within_the_documented_bounds() {
    let mut random = Random(61);
    let mut f32s: Vec<[u64; 3]> = f32_patterns()
        .iter()
        .step_by(5)
        .map(|&x| [x, 0, 0])
        .collect();
    // Where the functions have their interesting values: 2^-8 to 2^8.
    f32s.extend((0..100_000).map(|_| {
        let r = random.next();
        [(r & 0x807f_ffff) | (119 + (r >> 40) % 16) << 23, 0, 0]
    }));
    let halves: Vec<[u64; 3]> = (0..1 << 16).map(|x| [x, 0, 0]).collect();
    for a in &ALL {
        a.check(if a.format == F32 { &f32s } else { &halves });
    }
}

#[test]
#[ignore = "all 2^32 operands of every instruction take minutes each"]
fn within_the_documented_bounds_for_all_operands() {
    for a in ALL.iter().filter(|a| a.format == F32) {
        let step = 1u64 << 20;
        for from in (0..1u64 << 32).step_by(step as usize) {
            let inputs: Vec<[u64; 3]> = (from..from + step).map(|x| [x, 0, 0]).collect();
            a.check(&inputs);
        }
        println!("{}: 2^32 operands", a.name);
    }
}

/// PTX ISA 9.7.3.8: `div.approx` within 2 ulp for divisors from 2^-126 to
/// 2^126, zero or NaN above; `div.full` within 2 ulp.
#[test]
fn divisions() {
    let mut random = Random(67);
    let inputs: Vec<[u64; 3]> = (0..200_000).map(|_| random.floats(8, 23)).collect();
    for name in ["div.approx.f32", "div.full.f32"] {
        let lanes = Lanes::new(&format!("{name} {{d}}, {{x}}, {{y}}"), 32, &[32, 32]);
        for (&[x, y, _], got) in inputs.iter().zip(lanes.run(&inputs)) {
            let [a, b, d] = [x, y, got].map(|c| float(F32, c));
            let large = b.is_finite() && b.abs() > 2f64.powi(126);
            if name == "div.approx.f32" && large {
                let zero = a * 0f64.copysign(b);
                assert!(
                    d == zero || (d.is_nan() && zero.is_nan()),
                    "{a:e} / {b:e} gives {d:e}"
                );
                continue;
            }
            let exact = a / b;
            let right = if exact.is_nan() {
                got == F32.nan
            } else if exact.is_infinite() || exact == 0.0 {
                d == exact
            } else {
                let ulp = 2f64.powi((exact.abs().log2().floor() as i32).max(-126) - 23);
                (d - exact).abs() <= 2.0 * ulp
                    || (d.is_infinite() && exact.abs() >= 2f64.powi(128) - 4.0 * ulp)
            };
            assert!(right, "{name}: {a:e} / {b:e} gives {d:e}");
        }
    }
}
