//! Matrix products: block-scaled bit for bit, BF16 within the tensor core's accumulation error.

use mcc_ir::eval::{Rng, Tensor};
use mcc_ir::kernel::{Epilogue, GemmBf16, GemmForm, GemmFp8, GemmTile, KernelConfig};
use mcc_ir::op::Op;
use mcc_ir::types::DType;

use super::{eval, i32s, pick};
use crate::harness::{all_planes, assert_same, assert_within, planes, run};

fn dense(m: usize, c: GemmFp8, seed: u64) {
    let case = format!("m {m}, {c:?}, seed {seed}");
    let mut rng = Rng::new(seed);
    let (n, k) = (c.n as usize, c.k as usize);
    let deviation = pick(&mut rng, &[0.01, 1.0, 30.0]);
    let x = rng.activation(&[m, k], deviation).expect("sizes");
    let w = rng.weight(&[n, k], 0.05).expect("sizes");
    let op = Op::Matmul {
        out: c.out,
        promote: c.promote,
    };
    let want = eval(&op, &[&x, &w]);
    let got = run(
        &KernelConfig::GemmFp8(c),
        &[("M", m)],
        all_planes(&[&x, &w]),
        seed,
    );
    assert_same(&case, "d", &got[0], &planes(&want[0])[0]);
}

fn fp8(n: u32, k: u32, tile_m: u32, tile_n: u32, stages: u32) -> GemmFp8 {
    GemmFp8 {
        n,
        k,
        form: GemmForm::Dense,
        epilogue: Epilogue::Store,
        out: DType::BF16,
        promote: 128,
        tile: GemmTile::new(tile_m, tile_n, stages),
    }
}

#[test]
fn block_scaled_products_are_exact_to_the_bit() {
    // One row; tails of K (192, 576, 144), of N and of M; one and two consumers; more tiles than SMs.
    let shapes = [
        (1, fp8(64, 128, 64, 64, 4)),
        (7, fp8(200, 192, 64, 128, 3)),
        (65, fp8(72, 576, 64, 32, 2)),
        (130, fp8(136, 384, 128, 64, 4)),
        (129, fp8(8, 16, 128, 8, 1)),
        (64, fp8(320, 256, 128, 128, 2)),
        (200, fp8(120, 144, 128, 16, 5)),
    ];
    for (seed, (m, config)) in shapes.into_iter().enumerate() {
        dense(m, config, seed as u64);
    }
}

#[test]
fn promotion_intervals_and_fp32_results_are_exact_to_the_bit() {
    for (seed, promote) in [32, 64, 128].into_iter().enumerate() {
        let config = GemmFp8 {
            promote,
            out: DType::F32,
            ..fp8(72, 320, 64, 64, 2)
        };
        dense(33, config, 100 + seed as u64);
    }
}

#[test]
fn random_block_scaled_products_are_exact_to_the_bit() {
    for seed in 200..206 {
        let mut rng = Rng::new(seed);
        let m = 1 + rng.below(150);
        let config = GemmFp8 {
            out: pick(&mut rng, &[DType::BF16, DType::F32]),
            ..fp8(
                8 * (1 + rng.below(32) as u32),
                16 * (1 + rng.below(30) as u32),
                pick(&mut rng, &[64, 128]),
                pick(&mut rng, &[8, 16, 32, 64, 128]),
                1 + rng.below(4) as u32,
            )
        };
        dense(m, config, seed);
    }
}

#[test]
fn grouped_products_are_exact_to_the_bit_whatever_the_routing() {
    // Rows of each expert: none at all, all in one, whole tiles, one row each, ragged.
    let routings: [&[usize]; 6] = [
        &[0, 0, 5, 0],
        &[0, 70, 0, 0, 0],
        &[64, 0, 128, 64],
        &[1, 1, 1, 1, 1, 1, 1, 1],
        &[3, 65, 0, 17, 130, 0, 1, 0],
        &[9],
    ];
    for (seed, rows) in routings.into_iter().enumerate() {
        let seed = 300 + seed as u64;
        let mut rng = Rng::new(seed);
        let (n, k) = pick(&mut rng, &[(72, 192), (256, 128), (128, 320)]);
        let config = GemmFp8 {
            form: GemmForm::Grouped {
                groups: rows.len() as u32,
            },
            ..fp8(
                n,
                k,
                pick(&mut rng, &[64, 128]),
                pick(&mut rng, &[32, 64, 128]),
                3,
            )
        };
        let case = format!("rows {rows:?}, {config:?}, seed {seed}");
        let total: usize = rows.iter().sum();
        let ends = rows.iter().scan(0, |end, n| {
            *end += *n as i32;
            Some(*end)
        });
        let offsets = i32s(std::iter::once(0).chain(ends));
        let x = rng.activation(&[total, k as usize], 1.0).expect("sizes");
        let w = rng
            .weight(&[rows.len(), n as usize, k as usize], 0.05)
            .expect("sizes");
        let op = Op::GroupedMatmul {
            out: DType::BF16,
            promote: 128,
        };
        let want = eval(&op, &[&x, &w, &offsets]);
        let inputs = all_planes(&[&x, &w, &offsets]);
        let got = run(
            &KernelConfig::GemmFp8(config),
            &[("M", total)],
            inputs,
            seed,
        );
        assert_same(&case, "d", &got[0], &planes(&want[0])[0]);
    }
}

/// Sums of absolute products, which errors of accumulation are a share of.
fn magnitudes(operands: &[&Tensor], op: &Op) -> Vec<f32> {
    let absolute: Vec<Tensor> = operands
        .iter()
        .map(|t| match t.as_float() {
            Some(v) => {
                Tensor::bf16(t.shape(), v.iter().map(|v| v.abs()).collect()).expect("the same size")
            }
            // The groups' offsets.
            None => (*t).clone(),
        })
        .collect();
    let absolute: Vec<&Tensor> = absolute.iter().collect();
    eval(op, &absolute)[0].as_float().expect("floats").to_vec()
}

/// A BF16 product against the evaluator.
///
/// The tensor core adds 16 products and the accumulator at a time: it cuts each of the 17 addends off at 2^-25
/// of the largest, and the sum at FP32 precision, 2^-23. Over `K / 16` steps, no partial sum being larger than
/// the sum of absolute products `S`, that is at most `(17 * 2^-25 + 2^-23) * ceil(K / 16) * S` < `2^-20 * steps *
/// S`. Both sides then round to the result type, each by at most 2^-24 or 2^-8 of the value.
fn bf16(m: usize, c: GemmBf16, seed: u64) {
    let case = format!("m {m}, {c:?}, seed {seed}");
    let mut rng = Rng::new(seed);
    let (n, k, out) = (c.n as usize, c.k as usize, c.out);
    let promote = 128;
    let (x, w, op) = match c.form {
        GemmForm::Batched { heads } => {
            let h = heads as usize;
            (vec![m, h, k], vec![h, n, k], Op::BatchedMatmul { out })
        }
        GemmForm::Grouped { groups } => {
            let w = vec![groups as usize, n, k];
            (vec![m, k], w, Op::GroupedMatmul { out, promote })
        }
        _ => (vec![m, k], vec![n, k], Op::Matmul { out, promote }),
    };
    let x = rng.bf16(&x, 1.0).expect("sizes");
    let w = rng.bf16(&w, 1.0).expect("sizes");
    // Random cuts between the groups: some are empty.
    let offsets = c.form.groups().map(|e| {
        let mut cuts: Vec<i32> = (1..e).map(|_| rng.below(m + 1) as i32).collect();
        cuts.extend([0, m as i32]);
        cuts.sort_unstable();
        Tensor::i32(&[e as usize + 1], cuts).expect("sizes")
    });
    let mut operands = vec![&x, &w];
    operands.extend(&offsets);
    let want = eval(&op, &operands);
    let sums = magnitudes(&operands, &op);
    let got = run(
        &KernelConfig::GemmBf16(c),
        &[("M", m)],
        all_planes(&operands),
        seed,
    );
    let rounding = if out == DType::F32 {
        2f64.powi(-23)
    } else {
        2f64.powi(-7)
    };
    let steps = k.div_ceil(16) as f64;
    assert_within(
        &case,
        "d",
        &got[0].floats(),
        want[0].as_float().expect("floats"),
        |i, w| 2f64.powi(-20) * steps * f64::from(sums[i]) * 1.01 + rounding * w.abs(),
    );
}

#[test]
fn bf16_products_are_within_the_accumulation_error() {
    let base = GemmBf16 {
        n: 64,
        k: 64,
        form: GemmForm::Dense,
        epilogue: Epilogue::Store,
        out: DType::F32,
        tile: GemmTile::new(64, 64, 4),
    };
    let c = |n, k, tile_m, tile_n, stages| GemmBf16 {
        n,
        k,
        tile: GemmTile::new(tile_m, tile_n, stages),
        ..base.clone()
    };
    let shapes = [
        (1, c(16, 256, 64, 16, 4)),
        (5, c(200, 72, 64, 128, 2)),
        (131, c(72, 192, 128, 32, 3)),
        (67, c(264, 8, 64, 256, 1)),
        (200, c(40, 136, 128, 24, 2)),
        (
            9,
            GemmBf16 {
                form: GemmForm::Batched { heads: 4 },
                out: DType::BF16,
                ..c(128, 64, 64, 128, 4)
            },
        ),
        (
            1,
            GemmBf16 {
                form: GemmForm::Batched { heads: 3 },
                out: DType::BF16,
                ..c(64, 136, 64, 64, 2)
            },
        ),
        (
            70,
            GemmBf16 {
                form: GemmForm::Batched { heads: 2 },
                ..c(24, 40, 64, 16, 2)
            },
        ),
        (
            1,
            GemmBf16 {
                form: GemmForm::Grouped { groups: 5 },
                ..c(64, 72, 64, 32, 2)
            },
        ),
        (
            150,
            GemmBf16 {
                form: GemmForm::Grouped { groups: 40 },
                out: DType::BF16,
                ..c(72, 136, 64, 64, 3)
            },
        ),
        (
            300,
            GemmBf16 {
                form: GemmForm::Grouped { groups: 3 },
                ..c(40, 64, 128, 16, 4)
            },
        ),
    ];
    for (seed, (m, config)) in shapes.into_iter().enumerate() {
        bf16(m, config, 400 + seed as u64);
    }
}
