//! What nvcc makes of CUDA's math library and intrinsics, and of control flow.
//!
//! Errors are counted in units of the last place; the bounds are twice those of
//! the CUDA C++ Programming Guide, "Mathematical Functions", or more where the
//! reference itself is not exact.

use half::{bf16, f16};
use mcc_sim::LaunchConfig;

use super::common::{Arg, download_f32, download_u32, upload, upload_f32, upload_u32};
use super::{Random, e4m3, on_every_device};

const MATH: &str = include_str!("cuda_math.ptx");

/// Sum of the series; right to some 1e-16 e^(x^2).
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Stirling's series twelve places on, and back by the recurrence.
fn ln_gamma(x: f64) -> f64 {
    let back: f64 = (0..12).map(|i| (x + f64::from(i)).ln()).sum();
    let z = x + 12.0;
    let series = 1.0 / (12.0 * z) - 1.0 / (360.0 * z.powi(3)) + 1.0 / (1260.0 * z.powi(5));
    (z - 0.5) * z.ln() - z + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - back
}

/// The IEEE remainder.
fn remainder(x: f64, y: f64) -> f64 {
    x - (x / y).round_ties_even() * y
}

/// Name, the exact value for (x, y), units of the last place, and an absolute
/// error that counts as none, for functions that pass through zero.
type Case = (&'static str, fn(f64, f64) -> f64, f64, f64);

const FLOATS: [Case; 40] = [
    ("sin", |x, _| x.sin(), 4.0, 1e-7),
    ("cos", |x, _| x.cos(), 4.0, 1e-7),
    (
        "sin of a large number",
        |x, _| f64::from(x as f32 * 1e6).sin(),
        4.0,
        1e-7,
    ),
    ("tan", |_, y| y.tan(), 8.0, 1e-7),
    ("asin", |_, y| (y / 4.0).asin(), 4.0, 1e-7),
    ("acos", |_, y| (y / 4.0).acos(), 4.0, 1e-7),
    ("atan", |_, y| y.atan(), 4.0, 0.0),
    ("atan2", |x, y| y.atan2(x), 6.0, 0.0),
    ("sinh", |_, y| y.sinh(), 6.0, 0.0),
    ("cosh", |_, y| y.cosh(), 4.0, 0.0),
    ("tanh", |_, y| y.tanh(), 4.0, 0.0),
    ("exp", |_, y| y.exp(), 4.0, 0.0),
    ("exp2", |_, y| y.exp2(), 4.0, 0.0),
    ("exp10", |_, y| 10f64.powf(y), 4.0, 0.0),
    ("expm1", |_, y| y.exp_m1(), 4.0, 0.0),
    ("log", |x, _| x.ln(), 2.0, 1e-7),
    ("log2", |x, _| x.log2(), 2.0, 1e-7),
    ("log10", |x, _| x.log10(), 4.0, 1e-7),
    ("log1p", |x, _| x.ln_1p(), 4.0, 0.0),
    ("pow", |x, y| x.powf(y), 8.0, 0.0),
    ("sqrt", |x, _| x.sqrt(), 0.5, 0.0),
    ("rsqrt", |x, _| x.sqrt().recip(), 4.0, 0.0),
    ("cbrt", |_, y| y.cbrt(), 2.0, 0.0),
    ("hypot", |x, y| x.hypot(y), 6.0, 0.0),
    ("erf", |_, y| erf(y), 4.0, 0.0),
    ("erfc", |x, _| 1.0 - erf(x / 4.0), 8.0, 0.0),
    ("lgamma", |x, _| ln_gamma(x), 12.0, 1e-6),
    ("tgamma", |x, _| ln_gamma(x).exp(), 10.0, 0.0),
    ("fmod", |x, _| x % f64::from(0.7f32), 0.0, 0.0),
    ("remainder", |_, y| remainder(y, 0.7f32.into()), 0.0, 0.0),
    ("floor", |_, y| y.floor(), 0.0, 0.0),
    ("ceil", |_, y| y.ceil(), 0.0, 0.0),
    ("rint", |_, y| y.round_ties_even(), 0.0, 0.0),
    ("round", |_, y| y.round(), 0.0, 0.0),
    ("trunc", |_, y| y.trunc(), 0.0, 0.0),
    ("ldexp", |_, y| y * 32.0, 0.0, 0.0),
    ("logb", |x, _| x.log2().floor(), 0.0, 0.0),
    ("copysign", |x, y| x.copysign(y), 0.0, 0.0),
    ("division", |x, y| x / y, 0.5, 0.0),
    ("fma", |x, y| x * y + 1.5, 0.5, 1e-14),
];

const DOUBLES: [Case; 14] = [
    ("sin", |x, _| x.sin(), 4.0, 1e-16),
    ("cos of a large number", |x, _| (x * 1e6).cos(), 4.0, 1e-16),
    ("exp", |_, y| y.exp(), 2.0, 0.0),
    ("log", |x, _| x.ln(), 2.0, 1e-16),
    ("pow", |x, y| x.powf(y), 4.0, 0.0),
    ("sqrt", |x, _| x.sqrt(), 0.0, 0.0),
    ("rsqrt", |x, _| x.sqrt().recip(), 3.0, 0.0),
    ("tanh", |_, y| y.tanh(), 4.0, 0.0),
    ("erf", |_, y| erf(y / 4.0), 10.0, 0.0),
    ("atan2", |x, y| y.atan2(x), 4.0, 0.0),
    ("fmod", |x, _| x % 0.7, 0.0, 0.0),
    ("division", |x, y| x / y, 0.0, 0.0),
    ("cbrt", |_, y| y.cbrt(), 2.0, 0.0),
    ("fma", |x, y| x.mul_add(y, 1.5), 0.0, 0.0),
];

fn judge(what: &str, case: &Case, [x, y]: [f64; 2], got: f64, unit: f64) {
    let (name, f, units, absolute) = case;
    let want = f(x, y);
    let limit = want.abs() * unit * units + absolute;
    assert!(
        (got - want).abs() <= limit,
        "{what}: {name} of ({x}, {y}) is {got:e}, not {want:e} within {units} units"
    );
}

#[test]
fn single_precision_functions() {
    let mut r = Random(20);
    let n = 256;
    let x: Vec<f32> = (0..n).map(|_| 4.0 * r.unit() + 4.001).collect();
    let y: Vec<f32> = (0..n).map(|_| 4.0 * r.unit()).collect();
    on_every_device("cuda_math", MATH, |d| {
        let out = d.alloc(4 * n * FLOATS.len());
        let args = [
            Arg::U64(out),
            Arg::U64(upload_f32(d.gpu, &x)),
            Arg::U64(upload_f32(d.gpu, &y)),
        ];
        d.launch("floats", &LaunchConfig::new(2, 128), &args);
        let got = download_f32(d.gpu, out, n * FLOATS.len());
        for (i, row) in got.chunks_exact(FLOATS.len()).enumerate() {
            for (case, &g) in FLOATS.iter().zip(row) {
                // The last place of the least number with the same exponent.
                judge(
                    &d.what,
                    case,
                    [x[i].into(), y[i].into()],
                    g.into(),
                    2f64.powi(-23),
                );
            }
        }
    });
}

#[test]
fn double_precision_functions() {
    let mut r = Random(21);
    let n = 128;
    let x: Vec<f64> = (0..n)
        .map(|_| 4.0 * f64::from(r.unit()) + 4.001 + f64::from(r.unit()) * 1e-9)
        .collect();
    let y: Vec<f64> = (0..n).map(|_| 4.0 * f64::from(r.unit())).collect();
    let bytes = |v: &[f64]| -> Vec<u8> { v.iter().flat_map(|x| x.to_le_bytes()).collect() };
    on_every_device("cuda_math", MATH, |d| {
        let out = d.alloc(8 * n * DOUBLES.len());
        let args = [
            Arg::U64(out),
            Arg::U64(upload(d.gpu, &bytes(&x))),
            Arg::U64(upload(d.gpu, &bytes(&y))),
        ];
        d.launch("doubles", &LaunchConfig::new(1, 128), &args);
        let got = d.download_u64(out, n * DOUBLES.len());
        for (i, row) in got.chunks_exact(DOUBLES.len()).enumerate() {
            for (case, &g) in DOUBLES.iter().zip(row) {
                judge(&d.what, case, [x[i], y[i]], f64::from_bits(g), f64::EPSILON);
            }
        }
    });
}

/// The finite code that is nearest; of two the even one. What is beyond the
/// largest becomes it.
fn nearest_code(value: f64, codes: u8, decode: impl Fn(u8) -> f64) -> u32 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let distance = |c: u8| (decode(c) - value.abs()).abs();
    let best = (0..=codes).min_by(|&a, &b| {
        let even = (a % 2).cmp(&(b % 2));
        distance(a).total_cmp(&distance(b)).then(even)
    });
    u32::from(best.unwrap_or(0) | sign)
}

fn half(code: u32) -> f16 {
    f16::from_bits(code as u16)
}

fn bytes_of(v: u32) -> [i64; 4] {
    v.to_le_bytes().map(i64::from)
}

/// What each intrinsic gives, in the order of the source.
fn integer_results(x: u32, y: u32) -> [u32; 30] {
    let wide = u64::from(x) << 32 | u64::from(y);
    let (sx, sy) = (x as i32, y as i32);
    let pair = u64::from(y) << 32 | u64::from(x);
    let (h, g) = (half(x & 0xbbff), half(y & 0xbbff));
    let (hf, gf) = (h.to_f64(), g.to_f64());
    let pack = |low: f16, high: f16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    let fma = |a: f64, b: f64, c: f64| f16::from_f64(a.mul_add(b, c));
    let square_sum = |v: f64| f16::from_f64(v + f16::from_f64(v * v).to_f64());
    let (p, q) = (bf16::from_f32(h.to_f32()), bf16::from_f32(g.to_f32()));
    let signed = |v: u32| bytes_of(v).map(|b| i64::from(b as u8 as i8));
    let dot = |a: [i64; 4], b: [i64; 4]| -> i64 { a.iter().zip(b).map(|(x, y)| x * y).sum() };
    let e5m2 = |c: u8| half(u32::from(c) << 8).to_f64();
    let mantissa = f32::from_bits(x & 0x007f_ffff | 0x4500_0000);
    // Towards zero: what does not fit into 24 bits is cut off.
    let cut = x & !(u32::MAX.checked_shr(24 + x.leading_zeros()).unwrap_or(0));
    let funnel = pair >> (y % 64).min(32);
    let [x0, x1, x2, x3] = x.to_le_bytes();
    let [y0, y1, y2, y3] = y.to_le_bytes();
    let all = [x0, x1, x2, x3, y0, y1, y2, y3];
    let add4 = [
        x0.wrapping_add(y0),
        x1.wrapping_add(y1),
        x2.wrapping_add(y2),
        x3.wrapping_add(y3),
    ];
    let max2 =
        |shift: u32| u32::from(((x >> shift) as i16).max((y >> shift) as i16) as u16) << shift;
    let first_set = |v: u64| if v == 0 { 0 } else { v.trailing_zeros() + 1 };
    [
        x / (y | 1),
        sx.wrapping_div((y >> 8 | 1) as i32) as u32,
        x % 1000,
        (wide / u64::from(x | 1)) as u32,
        (wide as i64).wrapping_rem(i64::from(sy | 1)) as u32,
        ((u64::from(x) * u64::from(y)) >> 32) as u32,
        ((i64::from(sx) * i64::from(sy)) >> 32) as u32,
        ((u128::from(wide) * u128::from(wide ^ 0x5555)) >> 64) as u32,
        x.count_ones() + wide.count_ones(),
        (x >> 5).leading_zeros() * 100 + (wide >> 40).leading_zeros(),
        first_set((x << 3).into()) * 100 + first_set(wide << 35),
        x.reverse_bits(),
        u32::from_le_bytes([all[1], all[5], all[3], all[7]]),
        (pair << (y % 32) >> 32) as u32,
        funnel as u32,
        sx.abs_diff(sy).wrapping_add(7),
        ((i64::from(sx) + i64::from(sy)) >> 1) as u32,
        (dot(signed(x), signed(y)) - 5) as u32,
        (dot(bytes_of(x), bytes_of(y)) + 5) as u32,
        u32::from_le_bytes(add4),
        max2(0) | max2(16),
        mantissa.round_ties_even() as u32,
        (x as f32) as u32,
        (cut as f32).to_bits(),
        pack(fma(hf, gf, hf), f16::from_f64(hf * gf)),
        pack(square_sum(hf), square_sum(gf)),
        u32::from(bf16::from_f64(p.to_f64() + q.to_f64()).to_bits())
            | u32::from(if p < q { q } else { p }.to_bits()) << 16,
        nearest_code(hf * 100.0, 0x7e, e4m3) | nearest_code(gf * 100.0, 0x7b, e5m2) << 8,
        u32::from(f16::from_f64(e4m3((x & 0x77) as u8)).to_bits()),
        u32::from(x < y) + 2 * u32::from(sx < sy) + 4 * u32::from(h < g),
    ]
}

#[test]
fn integer_half_and_fp8_intrinsics() {
    let mut r = Random(22);
    let special = [
        0,
        1,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x0080_8080,
        0xff00_ff00,
        0x1234_5678,
    ];
    let mut x: Vec<u32> = (0..192).map(|_| r.next() >> r.below(32)).collect();
    let mut y: Vec<u32> = (0..192).map(|_| r.next() >> r.below(32)).collect();
    for a in special {
        for b in special {
            x.push(a);
            y.push(b);
        }
    }
    on_every_device("cuda_math", MATH, |d| {
        let out = d.alloc(4 * x.len() * 30);
        let args = [
            Arg::U64(out),
            Arg::U64(upload_u32(d.gpu, &x)),
            Arg::U64(upload_u32(d.gpu, &y)),
        ];
        d.launch("integers", &LaunchConfig::new(2, x.len() as u32 / 2), &args);
        let got = download_u32(d.gpu, out, x.len() * 30);
        for (i, row) in got.chunks_exact(30).enumerate() {
            let want = integer_results(x[i], y[i]);
            for (n, (g, w)) in row.iter().zip(want).enumerate() {
                assert_eq!(
                    *g, w,
                    "{}: result {n} of ({:#x}, {:#x}) is {g:#x}, not {w:#x}",
                    d.what, x[i], y[i]
                );
            }
        }
    });
}

/// The kernel's two results for one input.
fn control_results(v: u32) -> [u32; 2] {
    let first = match v % 9 {
        0 => v.wrapping_add(1),
        1 => v.wrapping_mul(3),
        2 => v ^ 0xff,
        3 => {
            let (mut a, mut b) = (v, 360_360);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        }
        4 => v.count_ones(),
        5 => {
            let (mut n, mut sum, mut depth) = (v % 1000 + 1, 0u64, 0);
            while n != 1 && depth <= 300 {
                sum += u64::from(n);
                depth += 1;
                if depth > 300 {
                    break;
                }
                n = if n.is_multiple_of(2) {
                    n / 2
                } else {
                    3 * n + 1
                };
            }
            sum as u32 ^ depth
        }
        // One case falls through to the next and is overwritten there.
        6 | 7 => v.wrapping_sub(7),
        _ => !v,
    };
    let mut s = v;
    let mut a: Vec<u32> = (0..16)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            s >> 24
        })
        .collect();
    a.sort_unstable();
    let digest = a.iter().zip(0u32..).fold(0u32, |d, (&e, k)| {
        d.wrapping_mul(31).wrapping_add(e.wrapping_mul(k + v % 3))
    });
    [first, digest.wrapping_add(a[v as usize % 16])]
}

#[test]
fn control_flow() {
    let mut r = Random(23);
    let x: Vec<u32> = (0..300).map(|_| r.next() >> r.below(24)).collect();
    let want: Vec<u32> = x.iter().flat_map(|&v| control_results(v)).collect();
    on_every_device("cuda_control", include_str!("cuda_control.ptx"), |d| {
        let out = d.alloc(4 * want.len());
        let args = [
            Arg::U64(out),
            Arg::U64(upload_u32(d.gpu, &x)),
            Arg::U32(x.len() as u32),
        ];
        d.launch("control", &LaunchConfig::new(3, 128), &args);
        assert_eq!(download_u32(d.gpu, out, want.len()), want, "{}", d.what);
    });
}
