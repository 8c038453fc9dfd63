//! Block-scaled products, every form, epilogue and tile: exact to the bit but for SwiGLU, whose exponential is the
//! GPU's.
//!
//! A configuration is drawn at random from all that the family takes, and run on several shapes: run-time rows (1 among
//! them), routings (groups of 0, 1, 63, 64, 65 and many rows), ordinary values and extreme ones.

use mcc_codegen::kernels::family;
use mcc_ir::eval::{Rng, Tensor};
use mcc_ir::kernel::{Epilogue, GemmForm, GemmFp8, GemmTile, KernelConfig, NO_PROMOTION, Share};
use mcc_ir::op::Op;
use mcc_ir::program::Kernel;
use mcc_ir::types::{DType, ScaleBlock};

use crate::conformance::{eval, i32s, pick};
use crate::harness::{Plane, all_planes, assert_same, planes, run};

/// Whether the family takes it.
fn accepted(config: &GemmFp8) -> bool {
    let config = KernelConfig::GemmFp8(config.clone());
    let kernel = Kernel {
        name: config.name(),
        config,
    };
    family(&kernel).is_ok()
}

/// A configuration of a form and an epilogue.
fn draw(rng: &mut Rng, form: GemmForm, epilogue: Epilogue) -> GemmFp8 {
    let swiglu = matches!(epilogue, Epilogue::SwigluQuantize { .. });
    let k_grouped = matches!(form, GemmForm::KGrouped { .. });
    loop {
        let swap = !swiglu && rng.below(3) == 0;
        let (m, n) = match (swiglu, swap) {
            (true, _) => (pick(rng, &[64, 128]), 256),
            (_, true) => (8 * (1 + rng.below(16) as u32), pick(rng, &[64, 128])),
            (_, false) => (pick(rng, &[64, 128, 256]), 16 * (1 + rng.below(16) as u32)),
        };
        let config = GemmFp8 {
            n: if swiglu {
                256 * (1 + rng.below(2) as u32)
            } else {
                pick(rng, &[16, 48, 128, 192, 256, 272, 384, 576, 640])
            },
            k: match k_grouped {
                true => 0,
                // Long sums now and then.
                false => pick(rng, &[16, 128, 192, 512, 576, 640, 1024, 1536, 7168, 16384]),
            },
            form,
            epilogue,
            out: match epilogue {
                Epilogue::SwigluQuantize { .. } => DType::E4M3,
                Epilogue::Accumulate => DType::F32,
                Epilogue::Store | Epilogue::Add => pick(rng, &[DType::BF16, DType::F32]),
            },
            promote: pick(rng, &[32, 64, 128, 128, 128, 128, 256, 512, NO_PROMOTION]),
            tile: GemmTile {
                m,
                n,
                stages: 1 + rng.below(8) as u32,
                swap,
                share: pick(rng, &[Share::None, Share::None, Share::A, Share::B]),
                split_k: pick(rng, &[1, 1, 2, 4, 8]),
                raster: pick(rng, &[1, 2, 8, 16]),
            },
        };
        // What groups times weights would take is time that more shapes need.
        let weights =
            u64::from(form.groups().unwrap_or(1)) * u64::from(config.n) * u64::from(config.k);
        if weights <= 4 << 20 && accepted(&config) {
            return config;
        }
    }
}

/// Rows of each group, or tokens of each in the K-grouped form.
fn routing(rng: &mut Rng, groups: usize, most: usize) -> Vec<usize> {
    (0..groups)
        .map(|_| pick(rng, &[0, 0, 1, 3, 63, 64, 65, 128, 130, 200]).min(most))
        .collect()
}

fn offsets(rows: &[usize]) -> Tensor {
    let ends = rows.iter().scan(0, |end, n| {
        *end += *n as i32;
        Some(*end)
    });
    i32s(std::iter::once(0).chain(ends))
}

/// Codes and scales: ordinary ones, or scales of all magnitudes with codes that hit subnormals and the largest
/// values. Products of two of the smallest scales are subnormal; none of the largest ones leads to an infinity, of
/// which differences would be NaNs.
fn scaled(rng: &mut Rng, shape: &[usize], block: ScaleBlock) -> Tensor {
    let extreme = rng.below(4) == 0;
    let deviation = pick(rng, &[0.01f32, 1.0, 30.0]);
    let count: usize = shape.iter().product();
    let codes = (0..count)
        .map(|_| {
            let code = if extreme {
                pick(
                    rng,
                    &[0x00u8, 0x80, 0x01, 0x07, 0x08, 0x7e, 0xfe, 0x81, 0x3c, 0xb1],
                )
            } else {
                // Any code of a magnitude near 1.
                (0x28 + rng.below(0x20) as u8) | (rng.below(2) as u8) << 7
            };
            debug_assert!(code & 0x7f != 0x7f, "no NaN");
            code
        })
        .collect();
    let rank = shape.len();
    let mut grid = shape.to_vec();
    grid[rank - 2] = grid[rank - 2].div_ceil(block.rows as usize);
    grid[rank - 1] = grid[rank - 1].div_ceil(block.cols as usize);
    let scales = (0..grid.iter().product())
        .map(|_| {
            let s = (1.0 + rng.below(1000) as f32 / 1000.0) * deviation / 448.0;
            if extreme {
                s * 2f32.powi(rng.below(92) as i32 - 62)
            } else {
                s
            }
        })
        .collect();
    Tensor::scaled(shape, codes, scales, block).expect("sizes")
}

/// Operands and op of one run; `m` is the run-time rows where the form has them.
struct Case {
    op: Op,
    operands: Vec<Tensor>,
    extents: Vec<(&'static str, usize)>,
}

fn case(rng: &mut Rng, c: &GemmFp8, m: usize) -> Case {
    let (n, k) = (c.n as usize, c.k as usize);
    let along = |rows| ScaleBlock {
        rows,
        cols: c.scale_group(),
    };
    let (out, promote) = (c.out, c.promote);
    let mut operands;
    let mut extents = vec![("M", m)];
    let op = match c.form {
        GemmForm::Dense => {
            operands = vec![
                scaled(rng, &[m, k], along(1)),
                scaled(rng, &[n, k], along(128)),
            ];
            match c.epilogue {
                Epilogue::Add => {
                    operands.push(match out {
                        DType::F32 => rng.f32(&[m, n], 1.0).expect("sizes"),
                        _ => rng.bf16(&[m, n], 1.0).expect("sizes"),
                    });
                    Op::MatmulAdd { out, promote }
                }
                Epilogue::SwigluQuantize { weighted: false } => {
                    Op::MatmulSwigluQuantize { promote }
                }
                Epilogue::SwigluQuantize { weighted: true } => {
                    operands.push(rng.f32(&[m], 1.0).expect("sizes"));
                    Op::MatmulSwigluScaleQuantize { promote }
                }
                _ => Op::Matmul { out, promote },
            }
        }
        GemmForm::Grouped { groups } => {
            let g = groups as usize;
            let mut rows = routing(rng, g, 200);
            // A launch without any row is no launch.
            rows[g / 2] = rows[g / 2].max(1);
            let total = rows.iter().sum();
            extents = vec![("M", total)];
            operands = vec![
                scaled(rng, &[total, k], along(1)),
                scaled(rng, &[g, n, k], along(128)),
                offsets(&rows),
            ];
            match c.epilogue {
                Epilogue::SwigluQuantize { weighted: false } => {
                    Op::GroupedMatmulSwigluQuantize { promote }
                }
                Epilogue::SwigluQuantize { weighted: true } => {
                    operands.push(rng.f32(&[total], 1.0).expect("sizes"));
                    Op::GroupedMatmulSwigluScaleQuantize { promote }
                }
                _ => Op::GroupedMatmul { out, promote },
            }
        }
        GemmForm::Masked { groups } => {
            let g = groups as usize;
            let counts = routing(rng, g, m);
            operands = vec![
                scaled(rng, &[g, m, k], along(1)),
                scaled(rng, &[g, n, k], along(128)),
                i32s(counts.iter().map(|c| *c as i32)),
            ];
            Op::MaskedMatmul { out, promote }
        }
        GemmForm::KGrouped { groups } => {
            let tokens = routing(rng, groups as usize, 200);
            let used: usize = tokens.iter().sum();
            // Tokens behind the last group belong to nobody.
            let k = (used + rng.below(3) * 50).next_multiple_of(128).max(128);
            extents.extend([("K", k), ("KB", k / 128)]);
            operands = vec![
                scaled(rng, &[m, k], ScaleBlock::ACTIVATION),
                scaled(rng, &[n, k], ScaleBlock::ACTIVATION),
                offsets(&tokens),
            ];
            Op::WeightGrad { promote }
        }
        GemmForm::Batched { .. } => unreachable!("not of FP8 operands"),
    };
    Case {
        op,
        operands,
        extents,
    }
}

fn check(c: &GemmFp8, m: usize, seed: u64) {
    let mut rng = Rng::new(seed);
    let case = case(&mut rng, c, m);
    let what = format!("{:?}, {c:?}, seed {seed}", case.extents);
    let operands: Vec<&Tensor> = case.operands.iter().collect();
    let inputs = all_planes(&operands);
    let got = run(
        &KernelConfig::GemmFp8(c.clone()),
        &case.extents,
        inputs,
        seed,
    );
    match c.epilogue {
        Epilogue::Accumulate => {
            let GemmForm::KGrouped { groups } = c.form else {
                unreachable!("the only form that accumulates")
            };
            // The harness runs such a kernel twice, from zeros.
            let size = [groups as usize, m, c.n as usize];
            let mut acc = Tensor::f32(&size, vec![0.0; size.iter().product()]).expect("sizes");
            for _ in 0..2 {
                let with: Vec<&Tensor> = operands.iter().copied().chain([&acc]).collect();
                acc = eval(&case.op, &with).remove(0);
            }
            assert_same(&what, "d", &got[0], &planes(&acc)[0]);
        }
        Epilogue::SwigluQuantize { .. } => {
            let want = planes(&eval(&case.op, &operands)[0]);
            close(&what, &got, &want);
        }
        Epilogue::Store | Epilogue::Add => {
            let want = planes(&eval(&case.op, &operands)[0]);
            assert_same(&what, "d", &got[0], &want[0]);
        }
    }
}

/// Codes and scales of a quantised SwiGLU. `ex2.approx` errs by 2^-22 and the quotient's roundings by less, so that a BF16
/// value may fall to the neighbour now and then, 2^-8 off; so may a scale whose largest value did, and a code of
/// which either did falls to its neighbour at most.
fn close(what: &str, got: &[Plane], want: &[Plane]) {
    let (Plane::F32(got_scales), Plane::F32(want_scales)) = (&got[1], &want[1]) else {
        panic!("{what}: scales are FP32");
    };
    for (i, (g, w)) in got_scales.iter().zip(want_scales).enumerate() {
        assert!(
            (g - w).abs() <= w.abs() * 2f32.powi(-7),
            "{what}: scale {i}: {g}, not {w}"
        );
    }
    // Codes of one sign are ordered as their values are.
    let rank = |c: u8| {
        let magnitude = i32::from(c & 0x7f);
        if c & 0x80 == 0 { magnitude } else { -magnitude }
    };
    let (got, want) = (got[0].codes(), want[0].codes());
    assert_eq!(got.len(), want.len(), "{what}");
    let mut off = 0;
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let distance = (rank(*g) - rank(*w)).abs();
        assert!(distance <= 1, "{what}: code {i}: {g:#x}, not {w:#x}");
        off += usize::from(distance != 0);
    }
    assert!(
        off * 50 <= got.len().max(50),
        "{what}: {off} of {} codes differ",
        got.len()
    );
}

/// Shapes of `configurations` drawn ones.
fn random(
    form: impl Fn(&mut Rng) -> GemmForm,
    epilogues: &[Epilogue],
    configurations: u64,
    base: u64,
) {
    for seed in base..base + configurations {
        let mut rng = Rng::new(seed);
        let form = form(&mut rng);
        let epilogue = pick(&mut rng, epilogues);
        let config = draw(&mut rng, form, epilogue);
        // Long sums have few rows: the time is in the multiply-adds.
        let most = if config.k > 2000 { 70 } else { 300 };
        for (i, m) in [1, 1 + rng.below(most), 1 + rng.below(most)]
            .into_iter()
            .enumerate()
        {
            check(&config, m, 1000 * seed + i as u64);
        }
    }
}

#[test]
fn dense_products_are_exact_to_the_bit() {
    random(|_| GemmForm::Dense, &[Epilogue::Store], 40, 100);
}

#[test]
fn a_residual_is_added_exactly() {
    random(|_| GemmForm::Dense, &[Epilogue::Add], 12, 200);
}

#[test]
fn grouped_products_are_exact_to_the_bit_whatever_the_routing() {
    let form = |rng: &mut Rng| GemmForm::Grouped {
        groups: pick(rng, &[1, 3, 8, 40]),
    };
    random(form, &[Epilogue::Store], 24, 300);
}

#[test]
fn masked_products_are_exact_to_the_bit_and_leave_other_rows_alone() {
    let form = |rng: &mut Rng| GemmForm::Masked {
        groups: pick(rng, &[1, 3, 6, 33]),
    };
    random(form, &[Epilogue::Store], 16, 400);
}

#[test]
fn weight_gradients_are_exact_to_the_bit_whatever_the_routing() {
    let form = |rng: &mut Rng| GemmForm::KGrouped {
        groups: pick(rng, &[1, 2, 5]),
    };
    random(form, &[Epilogue::Accumulate], 16, 500);
}

#[test]
fn swiglu_and_quantisation_are_the_epilogue_of_their_product() {
    let form = |rng: &mut Rng| match rng.below(2) {
        0 => GemmForm::Dense,
        _ => GemmForm::Grouped {
            groups: pick(rng, &[1, 4, 33]),
        },
    };
    let both = [false, true].map(|weighted| Epilogue::SwigluQuantize { weighted });
    random(form, &both, 8, 600);
}
