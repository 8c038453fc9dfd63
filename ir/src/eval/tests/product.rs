//! Products over experts, weight gradients, longer scale groups, and the ops fused around a product.

use super::*;
use crate::kernel::NO_PROMOTION;
use crate::numerics::{e4m3_value, round_bf16, wgmma_e4m3};
use crate::types::ScaleBlock;

fn floats(x: &Tensor) -> &[f32] {
    x.as_float().expect("floats")
}

#[test]
fn a_masked_product_is_each_experts_product_over_its_first_rows() {
    let mut rng = Rng::new(21);
    let (experts, rows, n, k) = (4, 5, 40, 200);
    let op = Op::MaskedMatmul {
        out: DType::F32,
        promote: 64,
    };
    let alone = Op::Matmul {
        out: DType::F32,
        promote: 64,
    };
    let counts = [0, 5, 1, 3];
    for scaled in [true, false] {
        let (x, w) = if scaled {
            (
                ok(rng.activation(&[experts, rows, k], 1.0)),
                ok(rng.weight(&[experts, n, k], 1.0)),
            )
        } else {
            (
                ok(rng.bf16(&[experts, rows, k], 1.0)),
                ok(rng.bf16(&[experts, n, k], 1.0)),
            )
        };
        let y = eval1(op.clone(), &[&x, &w, &i32s(&[experts], &counts)]);
        assert_eq!(y.shape(), [experts, rows, n]);
        let matrix = |t: &Tensor, e: usize, rows: usize| {
            t.rows(e, 1)
                .and_then(|t| t.reshaped(&[rows, k]))
                .expect("a matrix")
        };
        for (e, &count) in counts.iter().enumerate() {
            let whole = eval1(alone.clone(), &[&matrix(&x, e, rows), &matrix(&w, e, n)]);
            let got = &floats(&y)[e * rows * n..][..rows * n];
            let used = count as usize * n;
            assert_eq!(got[..used], floats(&whole)[..used], "expert {e}");
            assert!(got[used..].iter().all(|v| *v == 0.0), "expert {e}");
        }
        let bad = refuse(op.clone(), &[&x, &w, &i32s(&[experts], &[0, 6, 0, 0])]);
        assert_eq!(bad, "`masked_matmul`: count 6 is outside of 0..6");
    }
}

#[test]
fn a_weight_gradient_keeps_the_blocks_of_all_of_k() {
    let mut rng = Rng::new(22);
    let (m, n, k) = (3, 11, 400);
    let (x, y) = (
        ok(rng.activation(&[m, k], 1.0)),
        ok(rng.activation(&[n, k], 1.0)),
    );
    // Inside one block, empty, over two cuts, whole blocks, up to the partial end; nobody owns 0..5.
    let offsets = [5, 30, 30, 130, 384, 400];
    let acc = ok(rng.f32(&[5, m, n], 1.0));
    for promote in [32, 64, 128] {
        let op = Op::WeightGrad { promote };
        let out = eval1(op, &[&x, &y, &i32s(&[6], &offsets), &acc]);
        let (a, b) = (
            x.as_scaled().expect("scaled"),
            y.as_scaled().expect("scaled"),
        );
        for (e, part) in offsets.windows(2).enumerate() {
            let part = part[0] as usize..part[1] as usize;
            for (row, col) in (0..m).flat_map(|row| (0..n).map(move |col| (row, col))) {
                // Written out from the statement: every interval of K, with the codes of others as zero. Intervals
                // without a code of this expert add zero, and can stay.
                let mut sum = 0f32;
                for start in (0..512).step_by(promote as usize) {
                    let mut p = 0f32;
                    for at in (start..start + promote as usize).step_by(32) {
                        let pick = |codes: &[u8], row: usize| {
                            std::array::from_fn(|i| {
                                let at = at + i;
                                if part.contains(&at) {
                                    codes[row * k + at]
                                } else {
                                    0
                                }
                            })
                        };
                        p = wgmma_e4m3(&pick(&a.codes, row), &pick(&b.codes, col), p);
                    }
                    let block = start / 128;
                    let scales = a.scales[row * 4 + block] * b.scales[col * 4 + block];
                    sum = scales.mul_add(p, sum);
                }
                let at = (e * m + row) * n + col;
                let want = floats(&acc)[at] + sum;
                assert_eq!(
                    floats(&out)[at].to_bits(),
                    want.to_bits(),
                    "{promote}: {e} {row} {col}"
                );
            }
        }
    }
}

#[test]
fn a_weight_gradient_of_bf16_sums_its_part_of_k() {
    let x = bf16(&[2, 5], &[1., 2., 3., 4., 5., -1., 0.5, 2., 0., 1.]);
    let y = bf16(&[1, 5], &[1., 10., 100., 1000., 1024.]);
    let acc = f32s(&[2, 2, 1], &[0.5, 0.25, -0.0, 7.0]);
    let op = Op::WeightGrad { promote: 128 };
    let out = eval1(op.clone(), &[&x, &y, &i32s(&[3], &[1, 4, 4]), &acc]);
    assert_eq!(out, f32s(&[2, 2, 1], &[4320.5, 205.25, -0.0, 7.0]));
    // An expert without tokens keeps what it had, the sign of a zero included.
    assert!(floats(&out)[2].is_sign_negative());
    let bad = refuse(op.clone(), &[&x, &y, &i32s(&[3], &[1, 4, 2]), &acc]);
    assert_eq!(bad, "`weight_grad`: offsets must rise, got [1, 4, 2]");
    let bad = refuse(op, &[&x, &y, &i32s(&[3], &[1, 4, 6]), &acc]);
    assert_eq!(bad, "`weight_grad`: offset 6 is outside of 0..6");
}

#[test]
fn long_groups_share_a_scale_and_stay_in_the_tensor_core() {
    let mut rng = Rng::new(23);
    let (m, n, k) = (2, 9, 640);
    let rows = ok(rng.bf16(&[m, k], 1.0));
    let weights = ok(rng.f32(&[n, k], 1.0));
    for promote in [256, 512, NO_PROMOTION] {
        let group = if promote == NO_PROMOTION {
            k
        } else {
            promote as usize
        };
        let x = eval1(Op::QuantizeWide { group: promote }, &[&rows]);
        let block = |rows| ScaleBlock {
            rows,
            cols: group as u32,
        };
        let a = x.as_scaled().expect("scaled");
        assert_eq!((a.block, a.scales.len()), (block(1), m * k.div_ceil(group)));
        for (at, code) in a.codes.iter().enumerate() {
            let (row, start) = (at / k, at % k / group * group);
            let members = &floats(&rows)[row * k + start..row * k + (start + group).min(k)];
            let amax = members.iter().fold(1e-4f32, |m, v| m.max(v.abs()));
            let scale = amax / 448.0;
            assert_eq!(a.scales[row * k.div_ceil(group) + start / group], scale);
            // Half a step of the code's binade, the smallest of which is 2^-9 of the scale.
            let (value, got) = (floats(&rows)[at], e4m3_value(*code) * scale);
            assert!((value - got).abs() <= (value.abs() / 16.0).max(scale / 1024.0) * 1.0001);
        }
        let w = ok(Tensor::quantized_blocks(
            &[n, k],
            floats(&weights),
            block(128),
        ));
        let b = w.as_scaled().expect("scaled");
        let out = DType::F32;
        let y = eval1(Op::Matmul { out, promote }, &[&x, &w]);
        for (row, col) in (0..m).flat_map(|row| (0..n).map(move |col| (row, col))) {
            let mut acc = 0f32;
            for (at, start) in (0..k).step_by(group).enumerate() {
                let pick = |codes: &[u8], row: usize, at: usize| {
                    std::array::from_fn(|i| codes[row * k + at + i])
                };
                let p = (start..(start + group).min(k))
                    .step_by(32)
                    .fold(0f32, |p, at| {
                        wgmma_e4m3(&pick(&a.codes, row, at), &pick(&b.codes, col, at), p)
                    });
                let groups = k.div_ceil(group);
                acc = (a.scales[row * groups + at] * b.scales[at]).mul_add(p, acc);
            }
            assert_eq!(
                floats(&y)[row * n + col].to_bits(),
                acc.to_bits(),
                "{promote}"
            );
        }
    }
}

#[test]
fn weights_of_rows_round_once() {
    // 1 + 2^-7 is BF16; its square needs one more bit and lies on a tie, which goes to even.
    let x = bf16(&[2, 2], &[1.0 + 1.0 / 128.0, 3.0, -1.0, 0.5]);
    let y = eval1(Op::ScaleRows, &[&x, &f32s(&[2], &[1.0 + 1.0 / 128.0, 0.3])]);
    let third = |v: f32| round_bf16(v * 0.3);
    assert_eq!(
        y,
        bf16(&[2, 2], &[1.015625, 3.03125, third(-1.0), third(0.5)])
    );
}

#[test]
fn products_with_epilogues_are_their_parts() {
    let mut rng = Rng::new(24);
    let (rows, n, k) = (6, 256, 200);
    let out = DType::BF16;
    let (x, weights) = (
        ok(rng.activation(&[rows, k], 1.0)),
        ok(rng.f32(&[rows], 1.0)),
    );
    let (w, experts) = (
        ok(rng.weight(&[n, k], 0.1)),
        ok(rng.weight(&[2, n, k], 0.1)),
    );
    let (r, offsets) = (ok(rng.bf16(&[rows, n], 1.0)), i32s(&[3], &[0, 4, 6]));
    let promote = 128;
    let product = eval1(Op::Matmul { out, promote }, &[&x, &w]);
    assert_eq!(
        eval1(Op::MatmulAdd { out, promote }, &[&x, &w, &r]),
        eval1(Op::Add, &[&product, &r])
    );
    let grouped = eval1(
        Op::GroupedMatmul { out, promote },
        &[&x, &experts, &offsets],
    );
    let (plain, weighted) = (
        |y: &Tensor| eval1(Op::SwigluQuantize, &[y]),
        |y: &Tensor| {
            let y = eval1(Op::Swiglu, &[y]);
            eval1(Op::Quantize, &[&eval1(Op::ScaleRows, &[&y, &weights])])
        },
    );
    for (op, operands, want) in [
        (
            Op::MatmulSwigluQuantize { promote },
            vec![&x, &w],
            plain(&product),
        ),
        (
            Op::MatmulSwigluScaleQuantize { promote },
            vec![&x, &w, &weights],
            weighted(&product),
        ),
        (
            Op::GroupedMatmulSwigluQuantize { promote },
            vec![&x, &experts, &offsets],
            plain(&grouped),
        ),
        (
            Op::GroupedMatmulSwigluScaleQuantize { promote },
            vec![&x, &experts, &offsets, &weights],
            weighted(&grouped),
        ),
    ] {
        assert_eq!(eval1(op.clone(), &operands), want, "{op}");
    }
}
