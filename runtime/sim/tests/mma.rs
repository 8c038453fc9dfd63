//! `mma.sync`: where the elements of each fragment lie, and the arithmetic.
//!
//! The layouts are those of the PTX ISA, "Matrix fragments for mma.m...", one
//! entry a shape as it has them; results come from whole numbers, worked
//! examples, and vectors measured on an H100.

mod common;

use common::*;
use mcc_sim::{Completion, Gpu, LaunchConfig, SimError};

/// One form of the instruction.
#[derive(Clone, Copy)]
struct Form {
    shape: (usize, usize, usize),
    d: &'static str,
    a: &'static str,
    b: &'static str,
    satfinite: bool,
}

const fn form(
    shape: (usize, usize, usize),
    d: &'static str,
    a: &'static str,
    b: &'static str,
) -> Form {
    Form {
        shape,
        d,
        a,
        b,
        satfinite: false,
    }
}

const M16N8K8: (usize, usize, usize) = (16, 8, 8);
const M16N8K16: (usize, usize, usize) = (16, 8, 16);
const M16N8K32: (usize, usize, usize) = (16, 8, 32);

const FORMS: [Form; 30] = [
    form(M16N8K8, "f16", "f16", "f16"),
    form(M16N8K16, "f16", "f16", "f16"),
    form(M16N8K8, "f32", "f16", "f16"),
    form(M16N8K16, "f32", "f16", "f16"),
    form(M16N8K8, "f32", "bf16", "bf16"),
    form(M16N8K16, "f32", "bf16", "bf16"),
    form((16, 8, 4), "f32", "tf32", "tf32"),
    form(M16N8K8, "f32", "tf32", "tf32"),
    form(M16N8K16, "f32", "e4m3", "e4m3"),
    form(M16N8K32, "f32", "e4m3", "e4m3"),
    form(M16N8K32, "f32", "e4m3", "e5m2"),
    form(M16N8K32, "f32", "e5m2", "e4m3"),
    form(M16N8K32, "f32", "e5m2", "e5m2"),
    form(M16N8K16, "f16", "e4m3", "e5m2"),
    form(M16N8K32, "f16", "e4m3", "e5m2"),
    form((8, 8, 16), "s32", "s8", "s8"),
    form((8, 8, 16), "s32", "u8", "s8"),
    form((8, 8, 16), "s32", "s8", "u8"),
    form((8, 8, 16), "s32", "u8", "u8"),
    form(M16N8K16, "s32", "s8", "s8"),
    form(M16N8K16, "s32", "u8", "s8"),
    form(M16N8K16, "s32", "s8", "u8"),
    form(M16N8K32, "s32", "s8", "s8"),
    form(M16N8K32, "s32", "u8", "s8"),
    form(M16N8K32, "s32", "s8", "u8"),
    form(M16N8K32, "s32", "u8", "u8"),
    form((8, 8, 4), "f64", "f64", "f64"),
    form((16, 8, 4), "f64", "f64", "f64"),
    form(M16N8K8, "f64", "f64", "f64"),
    form(M16N8K16, "f64", "f64", "f64"),
];

fn bits(ty: &str) -> usize {
    match ty {
        "e4m3" | "e5m2" | "s8" | "u8" => 8,
        "f16" | "bf16" => 16,
        "f64" => 64,
        _ => 32,
    }
}

/// Row and column of element `i` of A in `lane`.
fn place_a(f: &Form, lane: usize, i: usize) -> (usize, usize) {
    let (g, t) = (lane / 4, lane % 4);
    let (m, _, k) = f.shape;
    match (bits(f.a), m, k) {
        (16, 16, 8) => (if i < 2 { g } else { g + 8 }, 2 * t + i % 2),
        (16, 16, 16) => (
            if i < 2 || (4..6).contains(&i) {
                g
            } else {
                g + 8
            },
            if i < 4 {
                2 * t + i % 2
            } else {
                2 * t + i % 2 + 8
            },
        ),
        (32 | 64, 16, 4) => ([g, g + 8][i], t),
        (32 | 64, 16, 8) => ([g, g + 8, g, g + 8][i], [t, t, t + 4, t + 4][i]),
        (8, 8, 16) => (g, 4 * t + i),
        (8, 16, 16) => (if i < 4 { g } else { g + 8 }, 4 * t + i % 4),
        (8, 16, 32) => (
            if i < 4 || (8..12).contains(&i) {
                g
            } else {
                g + 8
            },
            if i < 8 {
                4 * t + i % 4
            } else {
                4 * t + i % 4 + 16
            },
        ),
        (64, 8, 4) => (g, t),
        (64, 16, 16) => {
            let odd = i % 2;
            (g + 8 * odd, 2 * (i - odd) + t)
        }
        other => panic!("no such fragment: {other:?}"),
    }
}

/// Row (in K) and column of element `i` of B in `lane`.
fn place_b(f: &Form, lane: usize, i: usize) -> (usize, usize) {
    let (g, t) = (lane / 4, lane % 4);
    let row = match (bits(f.b), f.shape.2) {
        (16, 8) => 2 * t + i,
        (16, 16) => [2 * t, 2 * t + 1, 2 * t + 8, 2 * t + 9][i],
        (32 | 64, 4) => t,
        (32 | 64, 8) => [t, t + 4][i],
        (64, 16) => [t, t + 4, t + 8, t + 12][i],
        (8, 16) => 4 * t + i,
        (8, 32) => {
            if i < 4 {
                4 * t + i
            } else {
                4 * t + i % 4 + 16
            }
        }
        other => panic!("no such fragment: {other:?}"),
    };
    (row, g)
}

fn place_c(lane: usize, i: usize) -> (usize, usize) {
    let (g, t) = (lane / 4, lane % 4);
    (if i < 2 { g } else { g + 8 }, 2 * t + i % 2)
}

/// The matrices of one product as codes, row-major; B is `[k][n]`.
struct Matrices {
    a: Vec<u64>,
    b: Vec<u64>,
    c: Vec<u64>,
}

/// Words of a fragment of `elements` elements a lane: `[register][lane]`, a
/// 64-bit register being two of 32.
fn fragment(elements: usize, bits: usize, code: impl Fn(usize, usize) -> u64) -> Vec<u32> {
    let width = bits.max(32);
    let per = width / bits;
    let mut words = Vec::new();
    for r in 0..elements / per {
        for lane in 0..32 {
            let v = (0..per).fold(0, |v, e| v | code(lane, r * per + e) << (bits * e));
            words.push(v as u32);
            if width == 64 {
                words.push((v >> 32) as u32);
            }
        }
    }
    words
}

/// Runs one instruction a block over many products.
fn products(f: &Form, all: &[Matrices]) -> Vec<Vec<u64>> {
    let (m, n, k) = f.shape;
    let (wide, width) = if f.d == "f64" { ("f64", 8) } else { ("b32", 4) };
    let count = |elements: usize, ty: &str| elements * bits(ty) / 32 / (8 * width);
    let counts = [count(m * k, f.a), count(k * n, f.b), count(m * n, f.d)];
    let acc = match f.d {
        "f32" | "f64" => f.d,
        _ => "b32",
    };
    let names = |letter: &str, n: usize| -> String {
        let list: Vec<String> = (0..n).map(|i| format!("%{letter}{i}")).collect();
        format!("{{{}}}", list.join(", "))
    };
    let mut body = format!(
        ".reg .b64 %rd<4>; .reg .b32 %r<3>; .reg .{wide} %a<9>, %b<5>; .reg .{acc} %c<5>, %d<5>;
        ld.param.u64 %rd0, [in]; ld.param.u64 %rd1, [out];
        mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x;
        mad.wide.u32 %rd0, %r0, {width}, %rd0; mad.wide.u32 %rd0, %r1, {}, %rd0;
        mad.wide.u32 %rd1, %r0, {width}, %rd1; mad.wide.u32 %rd1, %r1, {}, %rd1;\n",
        32 * width * counts.iter().sum::<usize>(),
        32 * width * counts[2],
    );
    let mut at = 0;
    for (letter, n, ty) in [
        ("a", counts[0], wide),
        ("b", counts[1], wide),
        ("c", counts[2], acc),
    ] {
        for i in 0..n {
            body += &format!("ld.global.{ty} %{letter}{i}, [%rd0+{at}];\n");
            at += 32 * width;
        }
    }
    let shape = format!("m{m}n{n}k{k}");
    let sat = if f.satfinite { ".satfinite" } else { "" };
    body += &format!(
        "mma.sync.aligned.{shape}.row.col{sat}.{}.{}.{}.{} {}, {}, {}, {};\n",
        f.d,
        f.a,
        f.b,
        f.d,
        names("d", counts[2]),
        names("a", counts[0]),
        names("b", counts[1]),
        names("c", counts[2]),
    );
    for i in 0..counts[2] {
        body += &format!("st.global.{acc} [%rd1+{}], %d{i};\n", 32 * width * i);
    }
    let text = kernel(".param .u64 in, .param .u64 out", &(body + "ret;"))
        .replace(".version 8.6", ".version 8.7");
    let mut input = Vec::new();
    for x in all {
        let code = |v: &[u64], columns: usize, (row, col): (usize, usize)| v[row * columns + col];
        input.extend(fragment(m * k / 32, bits(f.a), |l, i| {
            code(&x.a, k, place_a(f, l, i))
        }));
        input.extend(fragment(k * n / 32, bits(f.b), |l, i| {
            code(&x.b, n, place_b(f, l, i))
        }));
        input.extend(fragment(m * n / 32, bits(f.d), |l, i| {
            code(&x.c, n, place_c(l, i))
        }));
    }
    let gpu = gpu(Completion::Early);
    let module = load(&gpu, &text);
    let words = 8 * width * counts[2];
    let (at, out) = (
        upload_u32(&gpu, &input),
        gpu.alloc((all.len() * words * 4) as u64, 256)
            .expect("memory"),
    );
    let args = [Arg::U64(at), Arg::U64(out)];
    launch(
        &gpu,
        &module,
        &LaunchConfig::new(all.len() as u32, 32),
        &args,
    )
    .unwrap_or_else(|e| panic!("{e}\n{text}"));
    let got = download_u32(&gpu, out, all.len() * words);
    got.chunks_exact(words)
        .map(|words| {
            let mut d = vec![0; m * n];
            for lane in 0..32 {
                for i in 0..m * n / 32 {
                    let (row, col) = place_c(lane, i);
                    let per = 8 * width / bits(f.d);
                    let (r, e) = (i / per, i % per);
                    let v = if width == 8 {
                        let at = 2 * (32 * r + lane);
                        u64::from(words[at]) | u64::from(words[at + 1]) << 32
                    } else {
                        let v = words[32 * r + lane] >> (bits(f.d) * e);
                        u64::from(if bits(f.d) == 16 { v & 0xffff } else { v })
                    };
                    d[row * n + col] = v;
                }
            }
            d
        })
        .collect()
}

/// The code of a whole number between -8 and 15 that the type can hold.
fn code(ty: &str, v: i64) -> u64 {
    let f16 = || u64::from(half::f16::from_f32(v as f32).to_bits());
    match ty {
        "f16" => f16(),
        "bf16" => u64::from(half::bf16::from_f32(v as f32).to_bits()),
        "tf32" | "f32" => u64::from((v as f32).to_bits()),
        "f64" => (v as f64).to_bits(),
        // E5M2 is the upper byte of FP16.
        "e5m2" => f16() >> 8,
        "e4m3" => {
            let magnitude = v.unsigned_abs();
            if magnitude == 0 {
                return 0;
            }
            let e = magnitude.ilog2();
            let fraction = (magnitude << 3 >> e) & 7;
            u64::from(v < 0) << 7 | u64::from(e + 7) << 3 | fraction
        }
        "s8" | "u8" => v as u64 & 0xff,
        _ => v as u32 as u64,
    }
}

struct Random(u64);

impl Random {
    fn between(&mut self, low: i64, high: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + ((self.0 >> 16) as i64).rem_euclid(high - low + 1)
    }
}

#[test]
fn every_form_multiplies_whole_numbers_exactly() {
    for (seed, f) in FORMS.iter().enumerate() {
        let (m, n, k) = f.shape;
        let mut r = Random(seed as u64 + 1);
        // E5M2 has two fraction bits, an FP16 sum must stay below 2048, and
        // unsigned operands use what their sign bit would be.
        let mut draw = |ty: &str, count: usize| -> Vec<i64> {
            let range = match ty {
                "u8" => (0, 255),
                "s8" => (-128, 127),
                "e5m2" => (-4, 4),
                _ => (-8, 8),
            };
            (0..count).map(|_| r.between(range.0, range.1)).collect()
        };
        let (a, b, c) = (draw(f.a, m * k), draw(f.b, k * n), draw(f.d, m * n));
        let codes = |v: &[i64], ty: &str| v.iter().map(|&x| code(ty, x)).collect::<Vec<u64>>();
        let input = Matrices {
            a: codes(&a, f.a),
            b: codes(&b, f.b),
            c: codes(&c, f.d),
        };
        let got = products(f, &[input]);
        for i in 0..m {
            for j in 0..n {
                let sum = (0..k).map(|t| a[i * k + t] * b[t * n + j]).sum::<i64>();
                let want = code(f.d, sum + c[i * n + j]);
                let what = format!("{}.{}.{}, {:?}, ({i}, {j})", f.d, f.a, f.b, f.shape);
                assert_eq!(got[0][i * n + j], want, "{what}");
            }
        }
    }
}

/// One product of row 0 of A and column 0 of B; the rest is zero.
fn dot(f: &Form, a: &[(usize, u64)], b: &[(usize, u64)], c: u64) -> u64 {
    let (m, n, k) = f.shape;
    let mut x = Matrices {
        a: vec![0; m * k],
        b: vec![0; k * n],
        c: vec![0; m * n],
    };
    a.iter().for_each(|&(t, v)| x.a[t] = v);
    b.iter().for_each(|&(t, v)| x.b[t * n] = v);
    x.c[0] = c;
    products(f, &[x])[0][0]
}

#[test]
fn a_sum_is_fused_and_cut_off() {
    // 2^24 + 3 needs 25 bits: truncated, not rounded.
    let f = form(M16N8K16, "f32", "f16", "f16");
    let (one, three) = (code("f16", 1), code("f16", 3));
    let big = u64::from((2f32.powi(24)).to_bits());
    let want = u64::from((2f32.powi(24) + 2.0).to_bits());
    assert_eq!(dot(&f, &[(9, one)], &[(9, three)], big), want);
    // Two products that cancel leave what is at least 2^-25 of them.
    let bf = form(M16N8K8, "f32", "bf16", "bf16");
    let p = |e: i32| u64::from(half::bf16::from_f32(2f32.powi(e)).to_bits());
    let pair = |small: i32| {
        let minus = p(10) | 0x8000;
        let sum = dot(
            &bf,
            &[(0, p(10)), (5, minus), (7, p(small))],
            &[(0, p(0)), (5, p(0)), (7, p(0))],
            0,
        );
        f32::from_bits(sum as u32)
    };
    assert_eq!((pair(-15), pair(-16)), (2f32.powi(-15), 0.0));
}

#[test]
fn fp16_sums_round_to_nearest() {
    let f = form(M16N8K16, "f16", "f16", "f16");
    let one = code("f16", 1);
    // 2051 lies between 2050 and 2052, whose last bit is even.
    let sum = dot(&f, &[(3, one)], &[(3, one)], code("f16", 2050));
    assert_eq!(sum, code("f16", 2052));
}

#[test]
fn fp8_is_two_fp16_products_and_an_addition() {
    let f = form(M16N8K32, "f32", "e5m2", "e5m2");
    let p = |e: i32| u64::from(half::f16::from_f32(2f32.powi(e)).to_bits() >> 8);
    let value = |a: &[(usize, u64)], c: f32| {
        let ones: Vec<(usize, u64)> = a.iter().map(|&(t, _)| (t, p(0))).collect();
        f32::from_bits(dot(&f, a, &ones, u64::from(c.to_bits())) as u32)
    };
    // C is added to the sum by an addition that rounds: 2^24 + 3.
    let c = 2f32.powi(24);
    assert_eq!(value(&[(0, p(1)), (1, p(0))], c), c + 4.0);
    // The elements 0 and 1 of each four are summed first, so that their terms
    // are gone before the others are aligned. 2^-13 is below 2^-25 of 2^15.
    let (big, minus, small) = (p(15), p(15) | 0x80, p(-13));
    assert_eq!(
        value(&[(0, big), (4, minus), (2, small)], 0.0),
        2f32.powi(-13)
    );
    assert_eq!(value(&[(0, big), (4, minus), (1, small)], 0.0), 0.0);
}

#[test]
fn integer_sums_wrap_or_saturate() {
    let f = form(M16N8K32, "s32", "u8", "u8");
    let saturating = Form {
        satfinite: true,
        ..f
    };
    let near = (i32::MAX - 100) as u32;
    let sum = |f: &Form| dot(f, &[(30, 255)], &[(30, 255)], near.into());
    assert_eq!(sum(&f), u64::from(near.wrapping_add(65025)));
    assert_eq!(sum(&saturating), i32::MAX as u64);
    let signed = Form {
        a: "s8",
        ..saturating
    };
    let low = (i32::MIN + 100) as u32;
    assert_eq!(
        dot(&signed, &[(0, 0x80)], &[(0, 255)], low.into()),
        u64::from(i32::MIN as u32)
    );
}

#[test]
fn double_precision_is_a_chain_of_fused_multiply_adds() {
    let f = form((8, 8, 4), "f64", "f64", "f64");
    let x = 1.0 + f64::EPSILON;
    // (1 + u)^2 - (1 + 2 u) = u^2, which no rounded product keeps.
    let c = -(1.0 + 2.0 * f64::EPSILON);
    let got = dot(&f, &[(2, x.to_bits())], &[(2, x.to_bits())], c.to_bits());
    assert_eq!(f64::from_bits(got), f64::EPSILON * f64::EPSILON);
}

#[test]
fn nan_and_infinity() {
    let f = form(M16N8K16, "f32", "bf16", "bf16");
    let (inf, one) = (0x7f80, 0x3f80);
    assert_eq!(dot(&f, &[(1, inf)], &[(1, one)], 0), 0x7f80_0000);
    // Infinity times zero.
    assert_eq!(dot(&f, &[(1, inf)], &[(1, 0)], 0), 0x7fff_ffff);
    let fp8 = form(M16N8K32, "f32", "e4m3", "e4m3");
    assert_eq!(dot(&fp8, &[(1, 0x7f)], &[(1, 0x38)], 0), 0x7fff_ffff);
}

/// Eight vectors go through one instruction: row i of A and column i of B are
/// the operands of vector i.
#[test]
fn vectors_measured_on_an_h100() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    for (file, ty) in [
        ("h100_mma_bf16_k16.txt", "bf16"),
        ("h100_mma_fp16_k16.txt", "f16"),
    ] {
        let Ok(text) = std::fs::read_to_string(dir.join(file)) else {
            println!("skipped: there is no {}", dir.join(file).display());
            continue;
        };
        let hex = |s: &str| u64::from_str_radix(s, 16).expect("hexadecimal");
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split(' ').collect()).collect();
        let codes = |s: &str| -> Vec<u64> { (0..16).map(|t| hex(&s[4 * t..4 * t + 4])).collect() };
        let input: Vec<Matrices> = lines
            .chunks(8)
            .map(|group| {
                let mut x = Matrices {
                    a: vec![0; 16 * 16],
                    b: vec![0; 16 * 8],
                    c: vec![0; 16 * 8],
                };
                for (i, line) in group.iter().enumerate() {
                    for (t, (a, b)) in codes(line[0]).into_iter().zip(codes(line[1])).enumerate() {
                        (x.a[i * 16 + t], x.b[t * 8 + i]) = (a, b);
                    }
                    x.c[i * 8 + i] = hex(line[2]);
                }
                x
            })
            .collect();
        let got = products(&form(M16N8K16, "f32", ty, ty), &input);
        for (n, line) in lines.iter().enumerate() {
            let d = got[n / 8][n % 8 * 8 + n % 8];
            assert_eq!(d, hex(line[3]), "{file}, line {}", n + 1);
        }
        assert_eq!(lines.len(), 3000);
    }
}

fn refused(gpu: &Gpu, line: &str) -> SimError {
    let body = format!(
        ".reg .b32 %r<20>; .reg .f32 %f<20>; .reg .b64 %rd<4>; .reg .pred %p; ld.param.u64 %rd0, [p];\n{line}\nret;"
    );
    match gpu.load_module(&kernel(".param .u64 p", &body)) {
        Ok(_) => panic!("not refused: {line}"),
        Err(e) => e,
    }
}

/// What the simulator cannot run is refused when the module is loaded, with the
/// instruction's name and its line.
#[test]
fn unknown_matrix_instructions_are_refused_before_the_launch() {
    let gpu = gpu(Completion::Early);
    let lines = [
        (
            "mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1, %r2, %r3}, {%r4, %r5, %r6, %r7}, {%f0, %f1, %f2, %f3}, %r8, 0;",
            "8:5: modifier `.sp` does not fit here in `mma`",
        ),
        (
            "wmma.load.a.sync.aligned.row.m16n16k16.f16 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%rd0];",
            "8:1: unknown instruction `wmma.load.a.sync",
        ),
        (
            "wgmma.mma_async.sync.aligned.m64n8k32.s32.s8.s8 {%r0, %r1, %r2, %r3}, %rd0, %rd0, %p;",
            "PTX line 8: `wgmma.mma_async.sync.aligned.m64n8k32.s32.s8.s8`: wgmma on integers is not supported",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1}, {%r4, %r5}, {%f0, %f1, %f2, %f3};",
            "PTX line 8: `mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32`: 2 registers of A instead of 4",
        ),
    ];
    for (line, name) in lines {
        let message = refused(&gpu, line).to_string();
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn half_a_warp_cannot_multiply() {
    let gpu = gpu(Completion::Early);
    let body = ".reg .b32 %r<4>; .reg .f32 %f<4>; .reg .pred %p;
        mov.u32 %r0, %tid.x; setp.lt.u32 %p, %r0, 16; @%p bra END;
        mov.b32 %f0, 0; mov.b32 %r1, 0;
        mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0, %f0, %f0, %f0}, {%r1, %r1}, {%r1}, {%f0, %f0, %f0, %f0};
        END: bar.warp.sync -1; ret;";
    let module = load(&gpu, &kernel("", body));
    let error = launch(&gpu, &module, &LaunchConfig::new(1, 32), &[]).expect_err("must fail");
    let SimError::Fault(fault) = &error else {
        panic!("not a fault: {error}");
    };
    assert!(
        matches!(
            fault.kind,
            mcc_sim::FaultKind::Divergent {
                active: 0xffff_0000,
                ..
            }
        ),
        "{error}"
    );
}
