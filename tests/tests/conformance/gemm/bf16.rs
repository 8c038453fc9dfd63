//! BF16 products within the tensor core's accumulation error.

use mcc_ir::eval::{Rng, Tensor};
use mcc_ir::kernel::{Epilogue, GemmBf16, GemmForm, GemmTile, KernelConfig, Share};
use mcc_ir::op::Op;
use mcc_ir::types::DType;

use crate::conformance::{eval, i32s};
use crate::harness::{all_planes, assert_within, run};

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
        GemmForm::Masked { groups } => {
            let g = groups as usize;
            (
                vec![g, m, k],
                vec![g, n, k],
                Op::MaskedMatmul { out, promote },
            )
        }
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
    let bounds = c.form.groups().map(|e| {
        if let GemmForm::Masked { .. } = c.form {
            return i32s((0..e).map(|_| rng.below(m + 1) as i32));
        }
        let mut cuts: Vec<i32> = (1..e).map(|_| rng.below(m + 1) as i32).collect();
        cuts.extend([0, m as i32]);
        cuts.sort_unstable();
        Tensor::i32(&[e as usize + 1], cuts).expect("sizes")
    });
    let mut operands = vec![&x, &w];
    operands.extend(&bounds);
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
        (200, c(40, 136, 128, 48, 2)),
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
            70,
            GemmBf16 {
                tile: GemmTile {
                    swap: true,
                    share: Share::B,
                    ..GemmTile::new(40, 128, 3)
                },
                ..c(272, 200, 64, 64, 3)
            },
        ),
        (
            33,
            GemmBf16 {
                form: GemmForm::Masked { groups: 5 },
                out: DType::BF16,
                tile: GemmTile {
                    share: Share::A,
                    ..GemmTile::new(256, 64, 2)
                },
                ..c(128, 144, 64, 64, 3)
            },
        ),
        (
            129,
            GemmBf16 {
                out: DType::BF16,
                tile: GemmTile {
                    share: Share::B,
                    ..GemmTile::new(128, 112, 4)
                },
                ..c(248, 512, 64, 64, 4)
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
