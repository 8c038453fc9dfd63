//! The accumulation model against published hardware results, against the
//! worked examples of the model, and every inner loop against the definition.

use std::path::Path as FilePath;

use super::super::convert::{E4M3, Rounding, decode, encode};
use super::*;

/// One dot product through [`mma`].
fn dot(element: Element, a: &[u8], b: &[u8], c: f32) -> f32 {
    let (mut at, mut bt) = (Tile::default(), Tile::default());
    at.load(element, a, 1, false);
    bt.load(element, b, 1, false);
    let mut out = [c];
    mma(element.precision(), &at, &mut bt, &mut out, 0);
    let (av, ae) = at.row(0);
    let (bv, be) = bt.row(0);
    let definition = fused_sum(element.precision(), av, ae, bv, be, c);
    assert_eq!(
        out[0].to_bits(),
        definition.to_bits(),
        "fast path differs from the definition"
    );
    out[0]
}

fn e4m3(pairs: &[(f64, f64)], c: f32) -> u32 {
    let (mut a, mut b) = ([0u8; 32], [0u8; 32]);
    for (i, &(x, y)) in pairs.iter().enumerate() {
        for (v, out) in [(x, &mut a[i]), (y, &mut b[i])] {
            *out = encode(v, E4M3, Rounding::NearestEven, true) as u8;
            assert_eq!(
                decode(u32::from(*out), E4M3),
                v,
                "the example must be exact"
            );
        }
    }
    dot(Element::E4m3, &a, &b, c).to_bits()
}

#[test]
fn worked_examples_of_the_fp8_model() {
    let p = |e: i32| 2f64.powi(e);
    assert_eq!(e4m3(&[(1.0, 1.0), (p(-6), p(-7))], 0.0), 0x3f80_0400);
    assert_eq!(e4m3(&[(1.0, 1.0), (p(-7), p(-7))], 0.0), 0x3f80_0000);
    assert_eq!(e4m3(&[(1.0, 1.0), (-p(-6), p(-7))], 0.0), 0x3f7f_f800);
    assert_eq!(e4m3(&[(1.75, 1.75), (p(-6), p(-7))], 0.0), 0x4044_0000);
    assert_eq!(e4m3(&[(1.75, 1.75), (p(-6), p(-6))], 0.0), 0x4044_0400);
    assert_eq!(
        e4m3(&[(1.0, 1.0), (-1.0, 1.0), (p(-6), p(-7))], 0.0),
        0x3900_0000
    );
    assert_eq!(e4m3(&[(1.0, 1.0), (-1.0, 1.0), (p(-7), p(-7))], 0.0), 0);
    assert_eq!(e4m3(&[], 1.0 + 2f32.powi(-14)), 0x3f80_0000);
    assert_eq!(e4m3(&[(1.0, 1.0)], 16384.0), 0x4680_0000);
    assert_eq!(e4m3(&[(1.0, 1.0)], 8192.0), 0x4600_0400);
    assert_eq!(e4m3(&[(1.0, 1.0); 32], 16383.0), 0x4680_3c00);
    assert_eq!(e4m3(&[(448.0, 1.0), (7.5, 1.0)], 0.0), 0x43e3_c000);
}

/// Worked by hand from the steps: F as with FP32, one rounding to nearest even at the end.
#[test]
fn fp16_accumulators() {
    let run = |element: Element, a: &[u8], b: &[u8], c: u16| {
        let (mut at, mut bt) = (Tile::default(), Tile::default());
        at.load(element, a, 1, false);
        bt.load(element, b, 1, false);
        let mut out = [c];
        mma_half(element.precision(), &at, &bt, &mut out);
        out[0]
    };
    let with = |codes: &[u8]| {
        let mut all = [0u8; 32];
        all[..codes.len()].copy_from_slice(codes);
        all
    };
    let e4m3 = |a: &[u8], b: &[u8], c| run(Element::E4m3, &with(a), &with(b), c);
    // 1 * 1, and 1 + 2^-11: a tie, to even; 1 + 2^-10 + 2^-11: the tie goes up.
    assert_eq!(e4m3(&[0x38], &[0x38], 0), 0x3c00);
    assert_eq!(e4m3(&[0x38, 0x08], &[0x38, 0x10], 0), 0x3c00);
    assert_eq!(e4m3(&[0x38, 0x08], &[0x38, 0x10], 0x1400), 0x3c02);
    // 2^-13 breaks the tie; 2^-15 is cut off before, as F is 13.
    assert_eq!(e4m3(&[0x38, 0x08, 0x08], &[0x38, 0x10, 0x01], 0), 0x3c00);
    assert_eq!(e4m3(&[0x38, 0x08, 0x08], &[0x38, 0x10, 0x04], 0), 0x3c01);
    // 448 * 448 is beyond FP16; NaN has one pattern; there is no -0.
    assert_eq!(e4m3(&[0x7e], &[0xfe], 0), 0xfc00);
    assert_eq!(e4m3(&[0x7f], &[0x38], 0), 0x7fff);
    assert_eq!(e4m3(&[], &[], 0x8000), 0);
    // FP16 operands keep 25 bits: 1 + 2^-11 + 2^-24 rounds up.
    let f16 = |a: &[u16], b: &[u16]| {
        let bytes = |v: &[u16]| with(&v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        run(Element::F16, &bytes(a), &bytes(b), 0)
    };
    assert_eq!(f16(&[0x3c00, 0x1000], &[0x3c00, 0x3c00]), 0x3c00);
    assert_eq!(
        f16(&[0x3c00, 0x1000, 0x0001], &[0x3c00, 0x3c00, 0x3c00]),
        0x3c01
    );
    // A subnormal accumulator stays.
    assert_eq!(f16(&[], &[]), 0);
    assert_eq!(run(Element::F16, &[0; 32], &[0; 32], 0x8001), 0x8001);
}

#[test]
fn nan_and_infinity() {
    let mut a = [0u8; 32];
    let one = [0x38u8; 32];
    a[3] = 0x7f;
    assert_eq!(dot(Element::E4m3, &a, &one, 0.0).to_bits(), NAN);
    assert_eq!(dot(Element::E4m3, &one, &one, f32::NAN).to_bits(), NAN);
    // E5M2 has infinities.
    a[3] = 0x7c;
    let ones = [0x3cu8; 32];
    assert_eq!(dot(Element::E5m2, &a, &ones, 0.0), f32::INFINITY);
    assert_eq!(
        dot(Element::E5m2, &a, &ones, f32::NEG_INFINITY).to_bits(),
        NAN
    );
    // An infinity times zero.
    assert_eq!(dot(Element::E5m2, &a, &[0; 32], 0.0).to_bits(), NAN);
    assert_eq!(dot(Element::E4m3, &[0; 32], &one, -0.0).to_bits(), 0);
    assert_eq!(
        dot(Element::Bf16, &[0; 32], &ones, f32::from_bits(5)).to_bits(),
        5
    );
}

/// Random tiles with zeros, subnormals, far exponents and NaN: all paths must
/// give the same bits as the definition.
#[test]
fn every_inner_loop_equals_the_definition() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let paths: Vec<Path> = Path::all().collect();
    let all = [
        Element::E4m3,
        Element::E5m2,
        Element::F16,
        Element::Bf16,
        Element::Tf32,
    ];
    for round in 0..60 {
        for element in all {
            // Few rows take another way than many.
            let (rows, n) = (if round % 2 == 0 { 5 } else { 3 }, 24);
            let mut codes = |rows: usize, narrow: bool| -> Vec<u8> {
                (0..rows * 32 / element.bytes())
                    .flat_map(|_| {
                        let r = next();
                        let mut v = r as u32;
                        // Some rounds keep to moderate exponents, so that the
                        // fast path is what runs.
                        if narrow {
                            v = match element {
                                Element::Bf16 => (v & 0x807f) | (110 + (v >> 7) % 30) << 7,
                                Element::Tf32 => (v & 0x807f_ffff) | (110 + (v >> 23) % 30) << 23,
                                Element::F16 => v & 0xbbff,
                                Element::E4m3 => v & 0xf7,
                                Element::E5m2 => v & 0xbf,
                            };
                        }
                        if r >> 60 < 3 {
                            v = 0;
                        }
                        v.to_le_bytes().into_iter().take(element.bytes())
                    })
                    .collect()
            };
            let narrow = round % 3 != 0;
            let (a, b) = (codes(rows, narrow), codes(n, narrow));
            let (mut at, mut bt) = (Tile::default(), Tile::default());
            at.load(element, &a, rows, round % 2 == 1);
            bt.load(element, &b, n, false);
            let c: Vec<f32> = (0..rows * n)
                .map(|_| {
                    let r = next() as u32;
                    match r % 5 {
                        0 => 0.0,
                        1 if !narrow => f32::from_bits(r),
                        _ => f32::from_bits((r & 0x807f_ffff) | (110 + (r >> 8) % 40) << 23),
                    }
                })
                .collect();
            let want: Vec<u32> = (0..rows * n)
                .map(|x| {
                    let ((av, ae), (bv, be)) = (at.row(x / n), bt.row(x % n));
                    fused_sum(element.precision(), av, ae, bv, be, c[x]).to_bits()
                })
                .collect();
            for &path in &paths {
                let mut out = c.clone();
                mma_with(path, element.precision(), &at, &mut bt, &mut out, 0);
                let got: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
                assert_eq!(got, want, "{element:?} on {path:?}");
            }
        }
    }
}

fn bytes_of(hex: &str, width: usize) -> Vec<u8> {
    (0..hex.len() / 2 / width)
        .flat_map(|i| {
            let digits = &hex[i * width * 2..(i + 1) * width * 2];
            let v = u32::from_str_radix(digits, 16).expect("hex");
            v.to_le_bytes().into_iter().take(width)
        })
        .collect()
}

/// Results measured on an H100. The files are not part of the project; where
/// they are absent this test says so and the examples above must do.
#[test]
fn published_h100_results() {
    let dir = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    let files = [
        ("h100_wgmma_e4m3_k32.txt", Element::E4m3),
        ("h100_wgmma_e5m2_k32.txt", Element::E5m2),
        ("h100_mma_bf16_k16.txt", Element::Bf16),
        ("h100_mma_fp16_k16.txt", Element::F16),
    ];
    for (name, element) in files {
        let Ok(text) = std::fs::read_to_string(dir.join(name)) else {
            eprintln!("skipped: {name} is not present beside the project");
            continue;
        };
        let mut lines = 0;
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let word = |s: &str| u32::from_str_radix(s, 16).expect("hex");
            let (a, b) = (
                bytes_of(fields[0], element.bytes()),
                bytes_of(fields[1], element.bytes()),
            );
            let d = dot(element, &a, &b, f32::from_bits(word(fields[2])));
            assert_eq!(d.to_bits(), word(fields[3]), "{name}: {line}");
            lines += 1;
        }
        assert!(lines > 1000, "{name} holds {lines} lines");
    }
}
