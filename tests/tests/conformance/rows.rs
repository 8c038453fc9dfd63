//! Row-wise families: quantize, add, gather, swiglu, norms, rotary embedding, cache write.

use mcc_ir::eval::{Rng, Tensor};
use mcc_ir::kernel::{
    Add, Gather, KernelConfig, MlaCacheWrite, Quantize, RmsNorm, Rope, ScaleRows, Swiglu,
};
use mcc_ir::numerics::{bf16_value, e4m3_value, rope_table};
use mcc_ir::op::Op;
use mcc_ir::types::F32;

use super::{eval, i32s, pick};
use crate::harness::{
    Plane, all_planes, assert_neighbours, assert_same, assert_within, planes, run,
};

const WIDTHS: [usize; 6] = [8, 128, 136, 256, 200, 7168];

/// Rows of very different size: zeros, tiny, ordinary, huge.
fn rows(rng: &mut Rng, m: usize, width: usize) -> Tensor {
    let mut values = Vec::with_capacity(m * width);
    for _ in 0..m {
        let size = pick(rng, &[0.0, 1e-6, 0.02, 1.0, 1.0, 300.0, 1e6]);
        for i in 0..width {
            // Sizes also differ inside of a row, from one scale group to the next.
            let group = if (i / 128).is_multiple_of(3) {
                1.0
            } else {
                0.05
            };
            values.push(rng.normal() * size * group);
        }
    }
    Tensor::bf16(&[m, width], values).expect("sizes")
}

/// Rows whose norm and products stay far from the ends of the range.
fn ordinary(rng: &mut Rng, m: usize, width: usize) -> Tensor {
    let size = pick(rng, &[0.02, 1.0, 50.0]);
    rng.bf16(&[m, width], size).expect("sizes")
}

/// The quantisation of a kernel's own BF16 result.
pub(super) fn quantized(values: &Plane, m: usize, width: usize) -> Vec<Plane> {
    planes(&Tensor::quantized(&[m, width], &values.floats()).expect("sizes"))
}

#[test]
fn quantize_is_exact_to_the_bit() {
    for (seed, width) in WIDTHS.into_iter().enumerate() {
        let mut rng = Rng::new(seed as u64);
        let m = 1 + rng.below(9);
        let x = rows(&mut rng, m, width);
        let want = planes(&eval(&Op::Quantize, &[&x])[0]);
        let config = KernelConfig::Quantize(Quantize {
            width: width as u32,
        });
        let got = run(&config, &[("M", m)], planes(&x), seed as u64);
        let case = format!("{m} x {width}, seed {seed}");
        assert_same(&case, "scales", &got[1], &want[1]);
        assert_same(&case, "codes", &got[0], &want[0]);
    }
}

#[test]
fn add_gather_and_scale_rows_are_exact_to_the_bit() {
    for (seed, width) in WIDTHS.into_iter().enumerate() {
        let mut rng = Rng::new(10 + seed as u64);
        let m = 1 + rng.below(9);
        let case = format!("{m} x {width}, seed {seed}");
        let (a, b) = (rows(&mut rng, m, width), rows(&mut rng, m, width));
        let want = planes(&eval(&Op::Add, &[&a, &b])[0]);
        let config = KernelConfig::Add(Add {
            width: width as u32,
        });
        let got = run(&config, &[("M", m)], all_planes(&[&a, &b]), seed as u64);
        assert_same(&case, "sum", &got[0], &want[0]);

        let n = 1 + rng.below(20);
        let table = rows(&mut rng, n, width);
        let index = i32s((0..m).map(|_| rng.below(n) as i32));
        let want = planes(&eval(&Op::Gather, &[&table, &index])[0]);
        let gather = |table: &Tensor, quant| {
            let config = KernelConfig::Gather(Gather {
                width: width as u32,
                quant,
            });
            let inputs = all_planes(&[table, &index]);
            run(&config, &[("N", n), ("R", m)], inputs, seed as u64)
        };
        assert_same(&case, "rows", &gather(&table, false)[0], &want[0]);
        if width % 16 == 0 {
            let table = rng.activation(&[n, width], 1.0).expect("sizes");
            let want = planes(&eval(&Op::Gather, &[&table, &index])[0]);
            let got = gather(&table, true);
            assert_same(&case, "codes", &got[0], &want[0]);
            assert_same(&case, "scales", &got[1], &want[1]);
        }

        let factors = rng.f32(&[m], 0.5).expect("sizes");
        let want = planes(&eval(&Op::ScaleRows, &[&a, &factors])[0]);
        let config = KernelConfig::ScaleRows(ScaleRows {
            width: width as u32,
        });
        let got = run(
            &config,
            &[("M", m)],
            all_planes(&[&a, &factors]),
            seed as u64,
        );
        assert_same(&case, "scaled", &got[0], &want[0]);
    }
}

/// `silu(g) * u`: the exponent `-g` times log2(e) in FP32 errs by |g| * 2^-23, so does the exponential
/// relatively, and the five operations around it by 2^-24 each. For |g| up to 100 that is below 2^-15, far
/// below half a BF16 unit, so that both round to the same or to neighbouring values.
#[test]
fn swiglu_rounds_to_the_same_or_a_neighbour() {
    for (seed, width) in [8, 64, 128, 200, 2048].into_iter().enumerate() {
        let mut rng = Rng::new(20 + seed as u64);
        let m = 1 + rng.below(7);
        let case = format!("{m} x {width}, seed {seed}");
        let size = pick(&mut rng, &[0.1, 1.0, 8.0]);
        let x = rng.bf16(&[m, 2 * width], size).expect("sizes");
        let plain = KernelConfig::Swiglu(Swiglu {
            width: width as u32,
            quant: false,
        });
        let y = run(&plain, &[("M", m)], planes(&x), seed as u64);
        assert_neighbours(&case, "y", &y[0], &planes(&eval(&Op::Swiglu, &[&x])[0])[0]);

        // The quantising form quantises exactly what the plain one computes.
        let fused = KernelConfig::Swiglu(Swiglu {
            width: width as u32,
            quant: true,
        });
        let got = run(&fused, &[("M", m)], planes(&x), seed as u64);
        let own = quantized(&y[0], m, width);
        assert_same(&case, "codes", &got[0], &own[0]);
        assert_same(&case, "scales", &got[1], &own[1]);
        let want = planes(&eval(&Op::SwigluQuantize, &[&x])[0]);
        assert_close_quantised(&case, &got, &want);
    }
}

/// Quantised values whose inputs were BF16 neighbours.
///
/// The largest value of a group may be a neighbour, so scales differ by at most 2^-7 of themselves. A code's
/// argument then differs by at most 2^-7 from its value and 2^-7 from its scale, together below 2^-6, a quarter
/// of the smallest E4M3 step of 2^-4: the codes are equal or neighbours.
pub(super) fn assert_close_quantised(case: &str, got: &[Plane], want: &[Plane]) {
    let (got_scales, want_scales) = (got[1].floats(), want[1].floats());
    assert_within(case, "scales", &got_scales, &want_scales, |_, w| {
        2f64.powi(-7) * w.abs()
    });
    let order = |code: u8| {
        if code & 0x80 == 0 {
            i32::from(code)
        } else {
            -i32::from(code & 0x7f)
        }
    };
    for (i, (&g, &w)) in got[0].codes().iter().zip(want[0].codes()).enumerate() {
        assert!(
            (order(g) - order(w)).abs() <= 1,
            "{case}: code {i} is {}, expected {} or a neighbour",
            e4m3_value(g),
            e4m3_value(w)
        );
    }
}

/// `x * inverse * w`: a thread adds its squares in FP32, at most 128 of them, then come butterflies and the sum
/// over warps, 13 more; half of that relative error reaches the inverse root, which takes four operations, and
/// two products follow: below (141 / 2 + 6) * 2^-24 < 2^-17 of the value, far below half a BF16 unit.
#[test]
fn norms_round_to_the_same_or_a_neighbour() {
    let variants = [
        // residual, sum, norm, quant
        (false, false, true, false),
        (false, false, true, true),
        (false, false, false, true),
        (true, true, true, false),
        (true, true, true, true),
        (true, true, false, true),
    ];
    let widths = [8, 128, 200, 256, 1536, 7168];
    for (i, (residual, emit_sum, emit_norm, emit_quant)) in variants.into_iter().enumerate() {
        let seed = 30 + i as u64;
        let mut rng = Rng::new(seed);
        let (width, m) = (widths[i], 1 + rng.below(6));
        let eps = 1e-6;
        let config = RmsNorm {
            width: width as u32,
            eps,
            residual,
            emit_sum,
            emit_norm,
            emit_quant,
        };
        let case = format!("{m} rows, {config:?}, seed {seed}");
        let x = ordinary(&mut rng, m, width);
        let r = ordinary(&mut rng, m, width);
        let w = rng.bf16(&[width], 1.0).expect("sizes");
        let mut inputs = vec![&x];
        if residual {
            inputs.push(&r);
        }
        inputs.push(&w);
        let attr = F32::from(eps);
        let op = if residual {
            Op::AddRmsNorm { eps: attr }
        } else {
            Op::RmsNorm { eps: attr }
        };
        let want = eval(&op, &inputs);
        let mut got = run(
            &KernelConfig::RmsNorm(config),
            &[("M", m)],
            all_planes(&inputs),
            seed,
        )
        .into_iter();
        let mut next = || got.next().expect("one for each written operand");
        if emit_sum {
            assert_same(&case, "sum", &next(), &planes(&want[0])[0]);
        }
        let want_norm = want.last().expect("a norm");
        let norm = emit_norm.then(&mut next);
        if let Some(norm) = &norm {
            assert_neighbours(&case, "norm", norm, &planes(want_norm)[0]);
        }
        if emit_quant {
            let quant = [next(), next()];
            if let Some(norm) = &norm {
                let own = quantized(norm, m, width);
                assert_same(&case, "codes", &quant[0], &own[0]);
                assert_same(&case, "scales", &quant[1], &own[1]);
            }
            let want = planes(&eval(&Op::Quantize, &[want_norm])[0]);
            assert_close_quantised(&case, &quant, &want);
        }
    }
}

fn table(dim: usize, positions: usize) -> Tensor {
    let values = rope_table(dim as u64, 10_000.0, positions as u64, None);
    Tensor::f32(&[positions, dim / 2, 2], values).expect("sizes")
}

/// Random rows; every second pair of rotated channels `(a, b)` has `a cos - b sin` near zero, where the rounding of
/// each product shows in the result.
fn cancelling(
    rng: &mut Rng,
    shape: [usize; 3],
    start: usize,
    positions: &[i32],
    table: &Tensor,
) -> Tensor {
    let [_, heads, width] = shape;
    let pairs = table.shape()[1];
    let angles = table.as_float().expect("floats");
    let x = rng.bf16(&shape, 2.0).expect("sizes");
    let mut values = x.as_float().expect("floats").to_vec();
    for (row, channels) in values.chunks_exact_mut(width).enumerate() {
        let turn = &angles[positions[row / heads] as usize * pairs * 2..][..pairs * 2];
        for pair in (0..pairs).step_by(2) {
            let [cos, sin] = [turn[2 * pair], turn[2 * pair + 1]];
            // Position 0 turns by nothing.
            if sin != 0.0 {
                channels[start + 2 * pair + 1] = channels[start + 2 * pair] * cos / sin;
            }
        }
    }
    Tensor::bf16(&shape, values).expect("sizes")
}

#[test]
fn rope_is_exact_to_the_bit() {
    // heads, width, start, dim
    let shapes = [
        (4, 128, 64, 64),
        (1, 96, 0, 96),
        (3, 40, 8, 24),
        (128, 192, 128, 64),
    ];
    for (seed, (heads, width, start, dim)) in shapes.into_iter().enumerate() {
        let mut rng = Rng::new(40 + seed as u64);
        let (t, p) = (1 + rng.below(5), 40);
        let case = format!("{t} tokens, {heads} heads of {width}, {dim} from {start}, seed {seed}");
        let positions: Vec<i32> = (0..t).map(|_| rng.below(p) as i32).collect();
        let table = table(dim, p);
        let x = cancelling(&mut rng, [t, heads, width], start, &positions, &table);
        let positions = i32s(positions);
        let want = planes(
            &eval(
                &Op::Rope {
                    start: start as u64,
                },
                &[&x, &positions, &table],
            )[0],
        );
        let config = KernelConfig::Rope(Rope {
            heads: heads as u32,
            width: width as u32,
            start: start as u32,
            dim: dim as u32,
        });
        let inputs = all_planes(&[&x, &positions, &table]);
        let got = run(&config, &[("T", t), ("P", p)], inputs, seed as u64);
        assert_same(&case, "out", &got[0], &want[0]);
    }
}

#[test]
fn cache_rows_are_normed_rotated_and_written_where_they_belong() {
    for (seed, (latent, dim)) in [(128, 64), (512, 64), (72, 16)].into_iter().enumerate() {
        let mut rng = Rng::new(50 + seed as u64);
        // A chunk in the middle of the context: rows before and behind it stay as they are.
        let (t, c, p) = (1 + rng.below(6), 20, 24);
        let first = rng.below(c - t);
        let case = format!("{t} tokens from {first}, {latent} + {dim}, seed {seed}");
        let kv = rng.bf16(&[t, latent + dim], 1.0).expect("sizes");
        let w = rng.bf16(&[latent], 1.0).expect("sizes");
        let positions = i32s((first..first + t).map(|p| p as i32));
        let table = table(dim, p);
        // The device's cache starts as zeros, and so does this one.
        let cache = Tensor::bf16(&[c, latent + dim], vec![0.0; c * (latent + dim)]).expect("sizes");
        let eps = 1e-6;
        let op = Op::MlaCacheWrite {
            eps: F32::from(eps),
        };
        let want = planes(&eval(&op, &[&cache, &kv, &w, &positions, &table])[0]);
        let config = KernelConfig::MlaCacheWrite(MlaCacheWrite {
            latent: latent as u32,
            rope: dim as u32,
            eps,
        });
        let inputs = all_planes(&[&kv, &w, &positions, &table]);
        let got = run(
            &config,
            &[("T", t), ("C", c), ("P", p)],
            inputs,
            seed as u64,
        );
        // The norm's bound; the rotated part has a defined order.
        assert_neighbours(&case, "cache", &got[0], &want[0]);
        let (Plane::Bf16(got), Plane::Bf16(want)) = (&got[0], &want[0]) else {
            panic!("{case}: not bf16");
        };
        let width = latent + dim;
        for (row, (g, w)) in got.chunks(width).zip(want.chunks(width)).enumerate() {
            for channel in latent..width {
                assert_eq!(
                    g[channel],
                    w[channel],
                    "{case}: row {row}, channel {channel}: {} is not {}",
                    bf16_value(g[channel]),
                    bf16_value(w[channel])
                );
            }
        }
    }
}
