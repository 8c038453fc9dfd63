//! Arithmetic on dense values, by hand and against naive formulations.

use super::*;
use crate::numerics::{rope_table, round_bf16, wgmma_e4m3};
use crate::types::ScaleBlock;

#[test]
fn add_rounds_once() {
    // 1 + 2^-8 is a tie between BF16 neighbours and goes to the even one.
    let sum = eval1(
        Op::Add,
        &[&bf16(&[2], &[1.0, 3.0]), &bf16(&[2], &[0.00390625, 0.5])],
    );
    assert_eq!(sum, bf16(&[2], &[1.0, 3.5]));
    // FP32 sums are not rounded to BF16.
    let sum = eval1(Op::Add, &[&f32s(&[1], &[1.0]), &f32s(&[1], &[1.0 / 256.0])]);
    assert_eq!(sum, f32s(&[1], &[1.0 + 1.0 / 256.0]));
}

#[test]
fn rms_norm_of_a_row() {
    // mean of squares of (3, 4, 0, 0) is 25/4, its root 2.5.
    let x = bf16(&[2, 4], &[3.0, 4.0, 0.0, 0.0, -2.0, 2.0, 2.0, 2.0]);
    let w = bf16(&[4], &[1.0, 2.0, 1.0, 1.0]);
    let y = eval1(Op::RmsNorm { eps: eps(0.0) }, &[&x, &w]);
    assert_eq!(y, bf16(&[2, 4], &[1.2, 3.2, 0.0, 0.0, -1.0, 2.0, 1.0, 1.0]));
    // eps keeps a zero row finite.
    let zero = bf16(&[1, 4], &[0.0; 4]);
    assert_eq!(eval1(Op::RmsNorm { eps: eps(1e-6) }, &[&zero, &w]), zero);
}

#[test]
fn quantize_then_dequantize_keeps_three_bits() {
    let mut rng = Rng::new(1);
    let x = ok(rng.bf16(&[3, 200], 2.0));
    let q = eval1(Op::Quantize, &[&x]);
    assert_eq!(q.ty().to_string(), "e4m3[3, 200]/f32[1x128]");
    assert_eq!(q.as_scaled().map(|s| s.scales.len()), Some(6));
    let back = eval1(Op::Dequantize, &[&q]);
    let scales = &q.as_scaled().expect("quantised").scales;
    for (i, (a, b)) in x.to_f64().iter().zip(back.to_f64()).enumerate() {
        // Half a unit of four significant bits, or half of the smallest code; then half a BF16
        // unit.
        let scale = f64::from(scales[i / 200 * 2 + i % 200 / 128]);
        let bound = (a.abs() / 16.0).max(scale / 1024.0) + a.abs() / 200.0;
        assert!((a - b).abs() <= bound, "{a} became {b}");
    }
}

#[test]
fn scales_may_be_powers_of_two() {
    // amax / 448 is exactly 1, a little more, a little less; without it the 1/64 counts, 2^-14.8 of 448.
    for (amax, scale) in [
        (448.0, 1.0),
        (450.0, 2.0),
        (446.0, 1.0),
        (224.0, 0.5),
        (0.0, 2f32.powi(-14)),
    ] {
        let q = eval1(Op::QuantizePow2, &[&bf16(&[1, 2], &[amax, -1.0 / 64.0])]);
        let scaled = q.as_scaled().expect("quantised");
        assert_eq!(scaled.scales, [scale], "{amax}");
    }
    // 225 is between the codes of 224 and 240 and goes to 224, which half the scale can hold: codes change, values
    // do not.
    let q = eval1(Op::QuantizePow2, &[&bf16(&[1, 2], &[225.0, 3.0])]);
    let back = eval1(Op::Dequantize, &[&q]);
    let again = eval1(Op::QuantizePow2, &[&back]);
    assert_ne!(q, again);
    assert_eq!(back, eval1(Op::Dequantize, &[&again]));
    assert_eq!(back, bf16(&[1, 2], &[224.0, 3.0]));
}

#[test]
fn weights_dequantise_block_by_block() {
    // Blocks of [130, 200]: 2 x 2, edges partial; two matrices.
    let (rows, cols) = (130, 200);
    let scales: Vec<f32> = (0..8).map(|i| (i + 1) as f32).collect();
    let w = ok(Tensor::scaled(
        &[2, rows, cols],
        vec![0x38; 2 * rows * cols],
        scales,
        ScaleBlock::WEIGHT,
    ));
    let values = eval1(Op::Dequantize, &[&w]).to_f64();
    for (m, r, c) in [
        (0, 0, 0),
        (0, 5, 199),
        (0, 129, 0),
        (1, 128, 128),
        (1, 127, 127),
    ] {
        let expected = (m * 4 + r / 128 * 2 + c / 128 + 1) as f64;
        assert_eq!(
            values[(m * rows + r) * cols + c],
            expected,
            "[{m}, {r}, {c}]"
        );
    }
}

#[test]
fn swiglu_gates_the_right_half() {
    let x = bf16(&[1, 4], &[0.0, 1.0, 5.0, 3.0]);
    // silu(0) = 0; silu(1) = 1 / (1 + e^-1) = 0.7310586.
    assert_eq!(
        eval1(Op::Swiglu, &[&x]),
        bf16(&[1, 2], &[0.0, 3.0 * 0.731_058_6])
    );
    let far = bf16(&[1, 2], &[-1000.0, 1.0]);
    assert_eq!(
        eval1(Op::Swiglu, &[&far]).to_f64()[0].abs(),
        0.0,
        "no NaN far out"
    );
}

#[test]
fn rope_rotates_pairs_from_start_and_copies_the_rest() {
    // A quarter turn at position 1, none at position 0.
    let table = f32s(&[2, 1, 2], &[1.0, 0.0, 0.0, 1.0]);
    let x = bf16(
        &[2, 2, 3],
        &[9.0, 1.0, 2.0, 8.0, 3.0, 4.0, 7.0, 5.0, 6.0, 6.0, 1.0, 0.0],
    );
    let y = eval1(Op::Rope { start: 1 }, &[&x, &i32s(&[2], &[1, 0]), &table]);
    let turned = [9.0, -2.0, 1.0, 8.0, -4.0, 3.0, 7.0, 5.0, 6.0, 6.0, 1.0, 0.0];
    assert_eq!(y, bf16(&[2, 2, 3], &turned));
    let flat = eval1(
        Op::Rope { start: 0 },
        &[&bf16(&[1, 2], &[1.0, 2.0]), &i32s(&[1], &[1]), &table],
    );
    assert_eq!(flat, bf16(&[1, 2], &[-2.0, 1.0]));
    assert_eq!(
        refuse(Op::Rope { start: 1 }, &[&x, &i32s(&[2], &[2, 0]), &table]),
        "`rope`: position 2 is outside of 0..2"
    );
}

#[test]
fn rope_keeps_dot_products_of_equal_distance() {
    let mut rng = Rng::new(2);
    let table = f32s(&[64, 32, 2], &rope_table(64, 10000.0, 64, None));
    let (a, b) = (ok(rng.bf16(&[1, 64], 1.0)), ok(rng.bf16(&[1, 64], 1.0)));
    let at =
        |x: &Tensor, p: i32| eval1(Op::Rope { start: 0 }, &[x, &i32s(&[1], &[p]), &table]).to_f64();
    let dot = |p: i32, q: i32| {
        at(&a, p)
            .iter()
            .zip(at(&b, q))
            .map(|(x, y)| x * y)
            .sum::<f64>()
    };
    // 64 products of two values each off by 2^-9 relative.
    assert!((dot(40, 33) - dot(17, 10)).abs() < 64.0 * 2.0 / 512.0);
    assert!((dot(40, 33) - dot(40, 10)).abs() > 0.01, "distance matters");
}

#[test]
fn bf16_matmul_by_hand_and_in_other_orders() {
    let x = bf16(&[2, 3], &[1.0, 2.0, 3.0, 0.5, 0.0, -1.0]);
    let w = bf16(&[2, 3], &[1.0, 1.0, 1.0, 2.0, 0.0, -2.0]);
    assert_eq!(
        eval1(F32_OUT, &[&x, &w]),
        f32s(&[2, 2], &[6.0, -4.0, -0.5, 3.0])
    );
    let mut rng = Rng::new(3);
    let (m, h, n, k) = (3, 2, 5, 70);
    let (x, w) = (ok(rng.bf16(&[m, h, k], 1.0)), ok(rng.bf16(&[h, n, k], 1.0)));
    let y = eval1(Op::BatchedMatmul { out: DType::F32 }, &[&x, &w]).to_f64();
    let (x, w) = (x.to_f64(), w.to_f64());
    for (i, got) in y.iter().enumerate() {
        let (row, head, col) = (i / n / h, i / n % h, i % n);
        let naive: f64 = (0..k)
            .rev()
            .map(|j| x[(row * h + head) * k + j] * w[(head * n + col) * k + j])
            .sum();
        assert!(
            (got - naive).abs() <= naive.abs() * 2f64.powi(-23) + 1e-12,
            "{got} is not {naive}"
        );
    }
}

#[test]
fn block_scaled_matmul_is_the_promoted_sum() {
    let mut rng = Rng::new(4);
    let (m, n, k) = (2, 130, 160);
    let (x, w) = (
        ok(rng.activation(&[m, k], 1.0)),
        ok(rng.weight(&[n, k], 0.1)),
    );
    let y = eval1(F32_OUT, &[&x, &w]);
    let (a, b) = (
        x.as_scaled().expect("scaled"),
        w.as_scaled().expect("scaled"),
    );
    let pick =
        |codes: &[u8], row: usize, at: usize| std::array::from_fn(|i| codes[row * k + at + i]);
    for row in 0..m {
        for col in 0..n {
            let mut acc = 0f32;
            for kb in 0..2 {
                let p = (kb * 128..(kb * 128 + 128).min(k))
                    .step_by(32)
                    .fold(0f32, |p, at| {
                        wgmma_e4m3(&pick(&a.codes, row, at), &pick(&b.codes, col, at), p)
                    });
                acc = (a.scales[row * 2 + kb] * b.scales[col / 128 * 2 + kb]).mul_add(p, acc);
            }
            assert_eq!(
                y.as_float().map(|y| y[row * n + col].to_bits()),
                Some(acc.to_bits())
            );
        }
    }
    let rounded = eval1(
        Op::Matmul {
            out: DType::BF16,
            promote: 128,
        },
        &[&x, &w],
    );
    let expected: Vec<f32> = y
        .as_float()
        .unwrap_or_default()
        .iter()
        .map(|v| round_bf16(*v))
        .collect();
    assert_eq!(rounded, bf16(&[m, n], &expected));
    // Close to the real product: three bits were lost before it, few in it.
    let (x, w) = (x.to_f64(), w.to_f64());
    for (i, got) in y.to_f64().iter().enumerate() {
        let term = |j: usize| x[i / n * k + j] * w[i % n * k + j];
        let (exact, size) = (0..k)
            .map(term)
            .fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
        assert!((got - exact).abs() <= size * 2e-3, "{got} is not {exact}");
    }
}

#[test]
fn grouped_matmul_gives_each_row_its_experts_weight() {
    let mut rng = Rng::new(5);
    let (n, k, experts) = (48, 256, 5);
    let op = Op::GroupedMatmul {
        out: DType::F32,
        promote: 128,
    };
    let w = ok(rng.weight(&[experts, n, k], 1.0));
    // Empty experts at both ends and in the middle; then one expert with everything.
    for offsets in [[0, 0, 3, 3, 7, 7], [0, 0, 0, 7, 7, 7], [0, 2, 4, 5, 6, 7]] {
        let x = ok(rng.activation(&[7, k], 1.0));
        let y = eval1(op.clone(), &[&x, &w, &i32s(&[experts + 1], &offsets)]);
        for row in 0..7 {
            let e = (0..experts)
                .find(|e| (offsets[*e]..offsets[e + 1]).contains(&(row as i32)))
                .expect("covered");
            let one = w
                .rows(e, 1)
                .and_then(|w| w.reshaped(&[n, k]))
                .expect("a matrix");
            let alone = eval1(F32_OUT, &[&x.rows(row, 1).expect("a row"), &one]);
            assert_eq!(y.rows(row, 1), Some(alone), "row {row} of expert {e}");
        }
    }
    let x = ok(rng.activation(&[7, k], 1.0));
    // Rows behind the last offset: none of their numbers matter.
    let some = eval1(op.clone(), &[&x, &w, &i32s(&[6], &[0, 1, 1, 2, 4, 4])]);
    let few = x.rows(0, 4).expect("rows");
    let all = eval1(op.clone(), &[&few, &w, &i32s(&[6], &[0, 1, 1, 2, 4, 4])]);
    assert_eq!(some.rows(0, 4), Some(all));
    assert_eq!(some.rows(4, 3), Some(f32s(&[3, n], &vec![0.0; 3 * n])));
    let bad = refuse(op.clone(), &[&x, &w, &i32s(&[6], &[0, 3, 2, 7, 7, 7])]);
    assert_eq!(
        bad,
        "`grouped_matmul`: offsets must rise from 0, got [0, 3, 2, 7, 7, 7]"
    );
    assert!(refuse(op, &[&x, &w, &i32s(&[6], &[0, 0, 0, 0, 0, 9])]).contains("offset 9"));
}

#[test]
fn fused_ops_equal_their_parts() {
    let mut rng = Rng::new(12);
    let (x, r) = (ok(rng.bf16(&[3, 200], 1.0)), ok(rng.bf16(&[3, 200], 1.0)));
    let w = ok(rng.bf16(&[200], 1.0));
    let e = eps(1e-6);
    let sum = eval1(Op::Add, &[&x, &r]);
    let y = eval1(Op::RmsNorm { eps: e }, &[&sum, &w]);
    let q = eval1(Op::Quantize, &[&y]);
    assert_eq!(
        eval(Op::AddRmsNormQuantize { eps: e }, &[&x, &r, &w]),
        [sum.clone(), y.clone(), q.clone()]
    );
    assert_eq!(
        eval(Op::AddRmsNorm { eps: e }, &[&x, &r, &w]),
        [sum.clone(), y.clone()]
    );
    assert_eq!(eval(Op::RmsNormQuantize { eps: e }, &[&sum, &w]), [y, q]);
    let gated = eval1(Op::Quantize, &[&eval1(Op::Swiglu, &[&x])]);
    assert_eq!(eval(Op::SwigluQuantize, &[&x]), [gated]);
}

#[test]
fn mla_cache_write_norms_the_latent_and_turns_the_key() {
    let table = f32s(&[2, 1, 2], &[1.0, 0.0, 0.0, 1.0]);
    let kv = bf16(&[1, 4], &[3.0, -3.0, 1.0, 2.0]);
    let cache = bf16(&[2, 4], &[0.5; 8]);
    let w = bf16(&[2], &[1.0, 2.0]);
    let out = eval(
        Op::MlaCacheWrite { eps: eps(0.0) },
        &[&cache, &kv, &w, &i32s(&[1], &[1]), &table],
    );
    assert_eq!(
        out,
        [bf16(&[2, 4], &[0.5, 0.5, 0.5, 0.5, 1.0, -2.0, -2.0, 1.0])]
    );
}
