//! `wgmma` (PTX ISA 9.7.15.5) through PTX: every published H100 vector, and
//! for each combination of types random and extreme tiles against the model
//! of `docs/model.md` written a second time, with exact sums.

use std::path::Path;

use mcc_sim::numerics::wgmma::{Element, Tile, fused_sum};
use mcc_sim::{Completion, LaunchConfig};

use super::common::{Arg, HEADER, download_u32, gpu, launch, load, upload, upload_u32};
use super::exact::{BF16, E4M3, E5M2, F16, F32, Format, Mode, Number, Rounder, Sum, TF32, Value};
use super::lanes::Random;

/// Rows of A, and columns of B in these tests.
const M: usize = 64;
/// Bytes of K of one instruction.
const K_BYTES: usize = 32;

#[derive(Clone, Copy)]
struct Operand {
    name: &'static str,
    bytes: usize,
    format: Format,
    element: Element,
}

const fn operand(name: &'static str, format: Format, element: Element) -> Operand {
    Operand {
        name,
        bytes: element.bytes(),
        format,
        element,
    }
}

const OE4M3: Operand = operand("e4m3", E4M3, Element::E4m3);
const OE5M2: Operand = operand("e5m2", E5M2, Element::E5m2);
const OF16: Operand = operand("f16", F16, Element::F16);
const OBF16: Operand = operand("bf16", BF16, Element::Bf16);
const OTF32: Operand = operand("tf32", TF32, Element::Tf32);

/// Every combination of floating-point types of PTX ISA 9.7.15.5; the flag
/// says that accumulators are FP16.
const TYPES: [(Operand, Operand, bool); 12] = [
    (OE4M3, OE4M3, false),
    (OE4M3, OE5M2, false),
    (OE5M2, OE4M3, false),
    (OE5M2, OE5M2, false),
    (OF16, OF16, false),
    (OBF16, OBF16, false),
    (OTF32, OTF32, false),
    (OE4M3, OE4M3, true),
    (OE4M3, OE5M2, true),
    (OE5M2, OE4M3, true),
    (OE5M2, OE5M2, true),
    (OF16, OF16, true),
];

/// Where byte `byte` of row `row` lies without swizzle: core matrices of 8
/// rows by 16 bytes, the two of a row of matrices beside each other.
fn place(row: usize, byte: usize) -> usize {
    (row / 8 * 2 + byte / 16) * 128 + row % 8 * 16 + byte % 16
}

/// A kernel in which each block multiplies one 64x64 tile.
fn ptx(a: Operand, b: Operand, half: bool) -> String {
    let registers = if half { 16 } else { 32 };
    let list = |prefix: &str| {
        let all: Vec<String> = (0..registers).map(|i| format!("%{prefix}{i}")).collect();
        all.join(", ")
    };
    let mut t = format!(
        "{HEADER}.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc) {{\n\
         .reg .pred %p;\n.reg .b32 %r<8>, %d<{registers}>;\n.reg .b64 %rd<8>;\n\
         mov.u32 %r0, %tid.x;\nmov.u32 %r1, %ctaid.x;\nmov.u32 %r2, smem;\n\
         shl.b32 %r3, %r0, 4;\nadd.s32 %r3, %r3, %r2;\n"
    );
    // 128 threads copy 16 bytes each of A, then of B: 2048 bytes.
    for (name, at) in [("pa", 0), ("pb", 2048)] {
        t += &format!(
            "ld.param.u64 %rd0, [{name}];\nmul.wide.u32 %rd1, %r1, 2048;\nadd.s64 %rd0, %rd0, %rd1;\n\
             mul.wide.u32 %rd1, %r0, 16;\nadd.s64 %rd0, %rd0, %rd1;\n\
             ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd0];\n\
             st.shared.v4.b32 [%r3+{at}], {{%r4, %r5, %r6, %r7}};\n"
        );
    }
    t += &format!(
        "ld.param.u64 %rd2, [pc];\nmul.wide.u32 %rd1, %r1, {};\nadd.s64 %rd2, %rd2, %rd1;\n\
         mul.wide.u32 %rd1, %r0, 4;\nadd.s64 %rd2, %rd2, %rd1;\n",
        registers * 512
    );
    for i in 0..registers {
        t += &format!("ld.global.b32 %d{i}, [%rd2+{}];\n", i * 512);
    }
    // Descriptors (PTX ISA 9.7.15.5.1.2): address, leading offset 128, stride 256.
    t += "fence.proxy.async.shared::cta;\nbar.sync 0;\n\
          shr.u32 %r3, %r2, 4;\ncvt.u64.u32 %rd3, %r3;\n\
          add.s64 %rd3, %rd3, 0x0000001000080000;\nadd.s64 %rd4, %rd3, 128;\n\
          setp.eq.b32 %p, %r0, %r0;\nwgmma.fence.sync.aligned;\n";
    let flags = if a.bytes == 2 { ", 0, 0" } else { "" };
    t += &format!(
        "wgmma.mma_async.sync.aligned.m64n64k{}.{}.{}.{} {{{}}}, %rd3, %rd4, %p, 1, 1{flags};\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n",
        K_BYTES / a.bytes,
        if half { "f16" } else { "f32" },
        a.name,
        b.name,
        list("d")
    );
    for i in 0..registers {
        t += &format!("st.global.b32 [%rd2+{}], %d{i};\n", i * 512);
    }
    t + "ret;\n}\n"
}

/// Operands `[row][32 bytes]`, accumulators `[row][column]` as codes.
struct Case {
    a: Vec<u8>,
    b: Vec<u8>,
    c: Vec<u32>,
}

/// Where a result lies: its register's index in thread order, and its half
/// (PTX ISA 9.7.15.5.1, fragment of D).
fn fragment(row: usize, column: usize, half: bool) -> (usize, usize) {
    let thread = row / 16 * 32 + row % 8 * 4 + column % 8 / 2;
    let pair = column / 8 * 2 + row % 16 / 8;
    if half {
        (pair * 128 + thread, column % 2)
    } else {
        ((2 * pair + column % 2) * 128 + thread, 0)
    }
}

/// All tiles through the device, one block each.
fn run(a: Operand, b: Operand, half: bool, cases: &[Case]) -> Vec<Vec<u32>> {
    let words = if half { 2048 } else { 4096 };
    let (mut ai, mut bi) = (vec![0; 2048 * cases.len()], vec![0; 2048 * cases.len()]);
    let mut ci = vec![0u32; words * cases.len()];
    for (t, case) in cases.iter().enumerate() {
        for row in 0..M {
            for byte in 0..K_BYTES {
                let at = t * 2048 + place(row, byte);
                ai[at] = case.a[row * K_BYTES + byte];
                bi[at] = case.b[row * K_BYTES + byte];
            }
            for column in 0..M {
                let (at, upper) = fragment(row, column, half);
                ci[t * words + at] |= case.c[row * M + column] << (16 * upper);
            }
        }
    }
    // Late: accumulators hold NaN until they are waited for.
    let gpu = gpu(Completion::Late);
    let m = load(&gpu, &ptx(a, b, half));
    let c_at = upload_u32(&gpu, &ci);
    let args = [
        Arg::U64(upload(&gpu, &ai)),
        Arg::U64(upload(&gpu, &bi)),
        Arg::U64(c_at),
    ];
    let cfg = LaunchConfig {
        dynamic_smem: 4096,
        ..LaunchConfig::new(cases.len() as u32, 128)
    };
    launch(&gpu, &m, &cfg, &args).expect("no fault");
    let out = download_u32(&gpu, c_at, ci.len());
    let read = |t: usize, i: usize| {
        let (at, upper) = fragment(i / M, i % M, half);
        let word = out[t * words + at];
        if half {
            word >> (16 * upper) & 0xffff
        } else {
            word
        }
    };
    (0..cases.len())
        .map(|t| (0..M * M).map(|i| read(t, i)).collect())
        .collect()
}

/// A term of the sum: its exact value and the exponent by which it is aligned.
/// Subnormals have the least exponent of their format; zeros have none.
fn aligned(format: Format, code: u64) -> Option<(Number, i32)> {
    let Value::Finite(n) = format.value(code) else {
        return None;
    };
    let stored = (code & (format.sign() - 1)) >> format.man_bits;
    let bias = (1 << (format.exp_bits - 1)) - 1;
    Some((n, stored.max(1) as i32 - bias))
}

/// The model of docs/model.md, "Tensor-core accumulation", step by step.
fn model(a: Operand, b: Operand, half: bool, av: &[u64], bv: &[u64], c: u64) -> u32 {
    let f = if a.bytes == 1 { 13 } else { 25 };
    let acc = if half { F16 } else { F32 };
    let nan = acc.nan as u32;
    // Infinities and NaN first.
    let mut infinite: Option<bool> = None;
    let mut meet = |v: Value| match v {
        Value::Nan => true,
        Value::Infinite(n) => infinite.replace(n).is_some_and(|m| m != n),
        Value::Finite(_) => false,
    };
    let mut is_nan = meet(acc.value(c));
    for (&x, &y) in av.iter().zip(bv) {
        is_nan |= meet(super::exact::mul(a.format.value(x), b.format.value(y)));
    }
    if is_nan {
        return nan;
    }
    if let Some(negative) = infinite {
        let sign = if negative { acc.sign() } else { 0 };
        return (sign | (acc.max_finite() + 1)) as u32;
    }
    // Step 1: exact products and their exponents.
    let mut terms: Vec<(Number, i32)> = av
        .iter()
        .zip(bv)
        .filter_map(|(&x, &y)| {
            let ((x, xe), (y, ye)) = (aligned(a.format, x)?, aligned(b.format, y)?);
            let n = Number::new(
                x.negative != y.negative,
                x.magnitude * y.magnitude,
                x.exponent + y.exponent,
            );
            Some((n, xe + ye))
        })
        .chain(aligned(acc, c))
        .collect();
    terms.retain(|(n, _)| !n.is_zero());
    // Step 2.
    let Some(top) = terms.iter().map(|&(_, e)| e).max() else {
        return 0;
    };
    // Steps 3 and 4.
    let unit = top - f;
    let mut sum = Sum::default();
    for (n, _) in terms {
        let cut = if n.exponent >= unit {
            n
        } else {
            let by = (unit - n.exponent) as u32;
            Number::new(n.negative, n.magnitude.checked_shr(by).unwrap_or(0), unit)
        };
        sum.add(cut);
    }
    let n = sum.number();
    if n.is_zero() {
        return 0;
    }
    // Step 5.
    if half {
        let code = Rounder::new(F16, Mode::Even, false).round(Value::Finite(n)) as u32;
        return if code == 0x8000 { 0 } else { code };
    }
    let sign = if n.negative { 1 << 31 } else { 0 };
    let beyond = Number::new(false, 1, 128);
    if n.compare(beyond) != std::cmp::Ordering::Less {
        return sign | 0x7f80_0000;
    }
    let (narrow, gap) = if a.bytes == 1 {
        (
            Format {
                man_bits: 13,
                ..F32
            },
            10,
        )
    } else {
        (F32, 0)
    };
    let magnitude = Number {
        negative: false,
        ..n
    };
    let code = Rounder::new(narrow, Mode::Zero, false).round(Value::Finite(magnitude)) as u32;
    if code == 0 { 0 } else { sign | code << gap }
}

/// Codes of a row in the order of K; TF32 without its ignored bits.
fn codes(o: Operand, bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(o.bytes)
        .map(|c| {
            let v = c.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b));
            if o.bytes == 4 { v >> 13 } else { v }
        })
        .collect()
}

/// Element codes of one temper: how a tile's exponents lie.
fn code(o: Operand, random: &mut Random, temper: usize) -> u32 {
    let f = o.format;
    let r = random.next();
    let bias = (1i64 << (f.exp_bits - 1)) - 1;
    let top = (1i64 << f.exp_bits) - 1 - i64::from(f.ieee);
    let exponent = match temper % 6 {
        // All that there is, with infinities and NaN.
        0 => return mask(o, r as u32),
        // Close to one.
        1 => bias + (r >> 8) as i64 % 4 - 2,
        // The whole range; infinities do not hide the rest.
        2 => (r >> 8) as i64 % (top + 1),
        // Subnormals, and the least normal numbers.
        3 => (r >> 8) as i64 % 3,
        // The largest.
        4 => top - (r >> 8) as i64 % 3,
        // Near the adder's last bits: half of the terms 12 bits below.
        _ => bias + if r >> 8 & 1 == 0 { 0 } else { -6 } + (r >> 9) as i64 % 3,
    };
    if r >> 40 & 15 == 0 {
        return (((r >> 44 & 1) * f.sign()) as u32) << if o.bytes == 4 { 13 } else { 0 };
    }
    let fraction = (r >> 16) & ((1 << f.man_bits) - 1);
    let magnitude = (exponent.clamp(0, top) as u64) << f.man_bits | fraction;
    let code = magnitude.min(f.max_finite()) | ((r >> 45 & 1) * f.sign());
    if o.bytes == 4 {
        // The low bits are rubbish that must not matter.
        (code as u32) << 13 | (r >> 46) as u32 & 0x1fff
    } else {
        code as u32
    }
}

fn mask(o: Operand, v: u32) -> u32 {
    v & (u32::MAX >> (32 - 8 * o.bytes))
}

fn random_case(a: Operand, b: Operand, half: bool, random: &mut Random, temper: usize) -> Case {
    let mut side = |o: Operand| -> Vec<u8> {
        (0..M * K_BYTES / o.bytes)
            .flat_map(|_| {
                code(o, random, temper)
                    .to_le_bytes()
                    .into_iter()
                    .take(o.bytes)
            })
            .collect()
    };
    let (a_codes, b_codes) = (side(a), side(b));
    let acc = if half { F16 } else { F32 };
    let bias = (1i64 << (acc.exp_bits - 1)) - 1;
    let c = (0..M * M)
        .map(|_| {
            let r = random.next();
            let any = (r >> 20) & (2 * acc.sign() - 1);
            let c = match (r % 4, temper % 6) {
                (0, _) => 0,
                (1, 0 | 3) => any,
                _ => {
                    let e = (bias + (r >> 4) as i64 % 24 - 12).max(0) as u64;
                    any & (acc.sign() | ((1 << acc.man_bits) - 1)) | e << acc.man_bits
                }
            };
            c as u32
        })
        .collect();
    Case {
        a: a_codes,
        b: b_codes,
        c,
    }
}

#[test]
fn random_tiles_equal_the_model_written_twice() {
    let mut random = Random(11);
    let mut compared = 0;
    for (a, b, half) in TYPES {
        let cases: Vec<Case> = (0..6)
            .map(|temper| random_case(a, b, half, &mut random, temper))
            .collect();
        for (case, got) in cases.iter().zip(run(a, b, half, &cases)) {
            let rows = |o, side: &[u8]| -> Vec<Vec<u64>> {
                side.chunks_exact(K_BYTES).map(|r| codes(o, r)).collect()
            };
            let (av, bv) = (rows(a, &case.a), rows(b, &case.b));
            for (i, &got) in got.iter().enumerate() {
                let c = u64::from(case.c[i]);
                let want = model(a, b, half, &av[i / M], &bv[i % M], c);
                assert_eq!(
                    got,
                    want,
                    "{}.{}, half {half}: {got:08x}, model {want:08x}\n a {:x?}\n b {:x?}\n c {c:08x}",
                    a.name,
                    b.name,
                    av[i / M],
                    bv[i % M]
                );
                compared += 1;
            }
        }
    }
    println!("{compared} results of wgmma equal the exact model");
}

/// A line of a published file: the operands' bytes, C and D.
fn line(text: &str, width: usize) -> (Vec<u8>, Vec<u8>, u32, u32) {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let bytes = |hex: &str| -> Vec<u8> {
        let all: Vec<u8> = (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex"))
            .collect();
        // Digits are big-endian, memory is not.
        all.chunks_exact(width)
            .flat_map(|c| c.iter().rev().copied())
            .collect()
    };
    let word = |hex: &str| u32::from_str_radix(hex, 16).expect("hex");
    (
        bytes(fields[0]),
        bytes(fields[1]),
        word(fields[2]),
        word(fields[3]),
    )
}

/// Results measured on an H100, which lie beside the project and are not part
/// of it: every line through `wgmma`, through the arithmetic function and
/// through the exact model. Where a file is absent the test says so.
#[test]
fn published_h100_results_through_wgmma() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let files = [
        ("h100_wgmma_e4m3_k32.txt", OE4M3),
        ("h100_wgmma_e5m2_k32.txt", OE5M2),
        ("h100_mma_bf16_k16.txt", OBF16),
        ("h100_mma_fp16_k16.txt", OF16),
    ];
    for (name, o) in files {
        let Ok(text) = std::fs::read_to_string(dir.join(name)) else {
            println!("skipped: {name} is not present beside the project");
            continue;
        };
        let lines: Vec<_> = text
            .lines()
            .filter(|l| !l.trim().is_empty())
            .map(|l| line(l, o.bytes))
            .collect();
        // 64 lines a tile: line i is row i of A and of B, its result on the
        // diagonal; each file whole in one launch.
        let cases: Vec<Case> = lines
            .chunks(M)
            .map(|part| {
                let mut case = Case {
                    a: vec![0; M * K_BYTES],
                    b: vec![0; M * K_BYTES],
                    c: vec![0; M * M],
                };
                for (i, (a, b, c, _)) in part.iter().enumerate() {
                    case.a[i * K_BYTES..(i + 1) * K_BYTES].copy_from_slice(a);
                    case.b[i * K_BYTES..(i + 1) * K_BYTES].copy_from_slice(b);
                    case.c[i * M + i] = *c;
                }
                case
            })
            .collect();
        let results = run(o, o, false, &cases);
        let (mut at, mut bt) = (Tile::default(), Tile::default());
        for (i, (a, b, c, d)) in lines.iter().enumerate() {
            let device = results[i / M][i % M * M + i % M];
            assert_eq!(device, *d, "{name}, line {}: wgmma in PTX", i + 1);
            at.load(o.element, a, 1, false);
            bt.load(o.element, b, 1, false);
            let ((av, ae), (bv, be)) = (at.row(0), bt.row(0));
            let function = fused_sum(o.element.precision(), av, ae, bv, be, f32::from_bits(*c));
            assert_eq!(function.to_bits(), *d, "{name}, line {}: function", i + 1);
            let twice = model(o, o, false, &codes(o, a), &codes(o, b), u64::from(*c));
            assert_eq!(twice, *d, "{name}, line {}: exact model", i + 1);
        }
        assert!(lines.len() > 1000, "{name} holds {} lines", lines.len());
        println!("{name}: {} lines agree", lines.len());
    }
}
