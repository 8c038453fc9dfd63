//! `add`, `sub`, `mul`, `fma`, `div`, `rcp`, `sqrt` (PTX ISA 9.7.3) in every
//! rounding mode for `f32` and `f64`, half-precision arithmetic (PTX ISA
//! 9.7.4), and `min` and `max`: equal to exact arithmetic rounded once.

use super::exact::{
    BF16, F16, F32, F64, Format, Mode, Number, Rounder, Value, add, div, fma, mul, one, sqrt,
};
use super::lanes::{Lanes, Random};

/// Sources and the exact result.
type Meaning = fn([Value; 3], Mode) -> Value;

const OPERATIONS: [(&str, usize, Meaning); 7] = [
    ("add", 2, |[a, b, _], m| add(a, b, m)),
    ("sub", 2, |[a, b, _], m| add(a, b.negate(), m)),
    ("mul", 2, |[a, b, _], _| mul(a, b)),
    ("fma", 3, |[a, b, c], m| fma(a, b, c, m)),
    ("div", 2, |[a, b, _], _| div(a, b)),
    ("rcp", 1, |[a, ..], _| div(one(), a)),
    ("sqrt", 1, |[a, ..], _| sqrt(a)),
];

/// `.sat`: to [+0, 1], NaN to +0.
fn saturate(v: Value) -> Value {
    let zero = Value::Finite(Number::new(false, 0, 0));
    match v {
        Value::Nan | Value::Infinite(true) => zero,
        Value::Infinite(false) => one(),
        Value::Finite(n) if n.negative => zero,
        Value::Finite(n) if n.compare(Number::from_int(1)).is_gt() => one(),
        v => v,
    }
}

/// What a result must be: flushed, rounded, saturated as the flags say.
fn result(f: Format, flags: &str, codes: [u64; 3], mode: Mode, op: Meaning) -> u64 {
    let ftz = flags.contains(".ftz");
    let codes = if ftz {
        codes.map(|c| f.flush(c))
    } else {
        codes
    };
    let exact = op(codes.map(|c| f.value(c)), mode);
    let code = Rounder::new(f, mode, false).round(exact);
    let code = if ftz { f.flush(code) } else { code };
    if flags.contains(".sat") {
        return Rounder::new(f, Mode::Even, false).round(saturate(f.value(code)));
    }
    if flags.contains(".relu") && !f.is_nan(code) && code & f.sign() != 0 {
        return 0;
    }
    code
}

fn inputs(count: usize, seed: u64, f: Format) -> Vec<[u64; 3]> {
    let mut random = Random(seed);
    let mut all: Vec<[u64; 3]> = (0..count)
        .map(|_| random.floats(f.exp_bits, f.man_bits))
        .collect();
    // Every combination of the special values.
    let inf = f.max_finite() + 1;
    let positive = [0, 1, 1 << f.man_bits, inf - 1, inf, inf | 1, f.nan];
    let unit = ((1 << (f.exp_bits - 1)) - 1) << f.man_bits;
    let specials: Vec<u64> = positive
        .into_iter()
        .chain([unit])
        .flat_map(|c| [c, c | f.sign()])
        .collect();
    for &a in &specials {
        for &b in &specials {
            for &c in &specials {
                all.push([a, b, c]);
            }
        }
    }
    all
}

fn check(
    f: Format,
    bits: usize,
    name: &str,
    arity: usize,
    inputs: &[[u64; 3]],
    want: impl Fn([u64; 3]) -> u64,
) {
    let operands = [" {x}", " {x}, {y}", " {x}, {y}, {z}"][arity - 1];
    let lanes = Lanes::new(
        &format!("{name} {{d}},{operands}"),
        bits,
        &vec![bits; arity],
    );
    // NaN of `f32` and half precision have one pattern; PTX leaves that of
    // `f64` open.
    lanes.compare(name, inputs, want, |got, want| {
        f == F64 && f.is_nan(got) && f.is_nan(want)
    });
}

#[test]
fn f32_in_every_mode() {
    let inputs = inputs(30_000, 41, F32);
    for (op, arity, meaning) in OPERATIONS {
        for (rn, mode) in Mode::DIRECTED {
            for flags in ["", ".ftz", ".sat", ".ftz.sat"] {
                if flags.ends_with(".sat") && matches!(op, "div" | "rcp" | "sqrt") {
                    continue;
                }
                let name = format!("{op}.{rn}{flags}.f32");
                check(F32, 32, &name, arity, &inputs, |codes| {
                    result(F32, flags, codes, mode, meaning)
                });
            }
        }
    }
    println!("{} inputs of each instruction", inputs.len());
}

#[test]
fn f64_in_every_mode() {
    let inputs = inputs(40_000, 43, F64);
    for (op, arity, meaning) in OPERATIONS {
        for (rn, mode) in Mode::DIRECTED {
            let name = format!("{op}.{rn}.f64");
            check(F64, 64, &name, arity, &inputs, |codes| {
                result(F64, "", codes, mode, meaning)
            });
        }
    }
}

#[test]
fn half_precision() {
    for (ty, f) in [("f16", F16), ("bf16", BF16)] {
        let inputs = inputs(60_000, 47, f);
        for (op, arity, meaning) in &OPERATIONS[..4] {
            let flags: &[&str] = match (ty, *op) {
                ("f16", "fma") => &["", ".ftz", ".sat", ".ftz.sat", ".relu", ".ftz.relu"],
                ("f16", _) => &["", ".ftz", ".sat", ".ftz.sat"],
                (_, "fma") => &["", ".relu"],
                _ => &[""],
            };
            for flags in flags {
                let name = format!("{op}.rn{flags}.{ty}");
                check(f, 16, &name, *arity, &inputs, |codes| {
                    result(f, flags, codes, Mode::Even, *meaning)
                });
                // Pairs: the upper half takes the operands in another order.
                let pairs: Vec<[u64; 3]> = inputs
                    .iter()
                    .map(|&[a, b, c]| [c << 16 | a, a << 16 | b, b << 16 | c])
                    .collect();
                let name = format!("{op}.rn{flags}.{ty}x2");
                check(f, 32, &name, *arity, &pairs, |codes| {
                    let one = |c: [u64; 3]| result(f, flags, c, Mode::Even, *meaning);
                    one(codes.map(|c| c >> 16)) << 16 | one(codes.map(|c| c & 0xffff))
                });
            }
        }
    }
}

/// PTX ISA 9.7.3.11: a NaN loses against a number, unless `.NaN`; -0 is below
/// +0.
fn extreme(f: Format, a: u64, b: u64, largest: bool, nan: bool) -> u64 {
    match (f.is_nan(a), f.is_nan(b)) {
        (true, true) => return f.nan,
        (true, false) => return if nan { f.nan } else { b },
        (false, true) => return if nan { f.nan } else { a },
        _ => {}
    }
    // As integers that are in the order of the values.
    let order = |c: u64| {
        let magnitude = (c & (f.sign() - 1)) as i128;
        if c & f.sign() != 0 {
            -magnitude - 1
        } else {
            magnitude
        }
    };
    if (order(a) > order(b)) == largest {
        a
    } else {
        b
    }
}

#[test]
fn minimum_and_maximum() {
    for (ty, f, bits) in [
        ("f32", F32, 32),
        ("f64", F64, 64),
        ("f16", F16, 16),
        ("bf16", BF16, 16),
    ] {
        let inputs = inputs(20_000, 53, f);
        for (op, largest) in [("min", false), ("max", true)] {
            for flags in ["", ".NaN", ".ftz", ".ftz.NaN"] {
                let ftz = flags.starts_with(".ftz");
                if (ty == "f64" && !flags.is_empty()) || (ty == "bf16" && ftz) {
                    continue;
                }
                let name = format!("{op}{flags}.{ty}");
                check(f, bits, &name, 2, &inputs, |codes| {
                    let [a, b, _] = if ftz {
                        codes.map(|c| f.flush(c))
                    } else {
                        codes
                    };
                    extreme(f, a, b, largest, flags.ends_with(".NaN"))
                });
            }
        }
    }
}
