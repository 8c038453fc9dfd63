//! The evaluator against results worked out by hand and against naive formulations of each op.

use super::*;
use crate::numerics::{e4m3_value, rope_table, round_bf16, wgmma_e4m3};
use crate::types::{DType, F32, ScaleBlock};

/// A value that the tests construct correctly.
fn ok<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

fn bf16(shape: &[usize], data: &[f32]) -> Tensor {
    ok(Tensor::bf16(shape, data.to_vec()))
}

fn f32s(shape: &[usize], data: &[f32]) -> Tensor {
    ok(Tensor::f32(shape, data.to_vec()))
}

fn i32s(shape: &[usize], data: &[i32]) -> Tensor {
    ok(Tensor::i32(shape, data.to_vec()))
}

fn eval(op: Op, operands: &[&Tensor]) -> Vec<Tensor> {
    ok(eval_op(&op, operands, &Dims::new()))
}

fn eval1(op: Op, operands: &[&Tensor]) -> Tensor {
    eval(op, operands).remove(0)
}

fn refuse(op: Op, operands: &[&Tensor]) -> String {
    match eval_op(&op, operands, &Dims::new()) {
        Ok(values) => panic!("evaluated to {values:?}"),
        Err(e) => e.to_string(),
    }
}

fn eps(v: f32) -> F32 {
    F32::new(v)
}

const F32_OUT: Op = Op::Matmul {
    out: DType::F32,
    promote: 128,
};

// ------------------------------------------------------------------------------------------ dense ops

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
        // Half a unit of four significant bits, or half of the smallest code; then half a BF16 unit.
        let scale = f64::from(scales[i / 200 * 2 + i % 200 / 128]);
        let bound = (a.abs() / 16.0).max(scale / 1024.0) + a.abs() / 200.0;
        assert!((a - b).abs() <= bound, "{a} became {b}");
    }
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
    let bad = refuse(op.clone(), &[&x, &w, &i32s(&[6], &[0, 3, 2, 7, 7, 7])]);
    assert_eq!(
        bad,
        "`grouped_matmul`: offsets must rise from 0 to 7, got [0, 3, 2, 7, 7, 7]"
    );
    assert!(refuse(op, &[&x, &w, &i32s(&[6], &[0, 0, 0, 0, 0, 9])]).contains("offset 9"));
}

// ------------------------------------------------------------------------------------ data movement

#[test]
fn slice_and_concat_undo_each_other() {
    let mut rng = Rng::new(6);
    for x in [
        ok(rng.bf16(&[3, 4, 256], 1.0)),
        ok(rng.activation(&[3, 4, 256], 1.0)),
        ok(rng.weight(&[3, 256, 256], 1.0)),
    ] {
        for axis in 0..3 {
            let extent = x.shape()[axis] as u64;
            let unit = if axis == 2 || x.shape()[1] == 256 && axis == 1 {
                128
            } else {
                1
            };
            let part = |start, len| eval1(Op::Slice { axis, start, len }, &[&x]);
            let (low, high) = (part(0, unit), part(unit, extent - unit));
            assert_eq!(
                eval1(Op::Concat { axis }, &[&low, &high]),
                x,
                "axis {axis} of {}",
                x.ty()
            );
        }
    }
    let x = i32s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(
        eval1(
            Op::Slice {
                axis: 1,
                start: 1,
                len: 2
            },
            &[&x]
        ),
        i32s(&[2, 2], &[2, 3, 5, 6])
    );
    let q = ok(rng.activation(&[1, 256], 1.0));
    assert!(
        refuse(
            Op::Slice {
                axis: 1,
                start: 64,
                len: 128
            },
            &[&q]
        )
        .contains("multiple of 128")
    );
}

#[test]
fn reshape_resolves_named_dims_and_keeps_scales() {
    let mut rng = Rng::new(7);
    let q = ok(rng.activation(&[3, 512], 1.0));
    let dims = Dims::from([("T".into(), 3)]);
    let shape = vec![Dim::sym("T"), Dim::Const(4), Dim::Const(128)];
    let by_head = ok(eval_op(
        &Op::Reshape {
            shape: shape.clone(),
        },
        &[&q],
        &dims,
    ))
    .remove(0);
    assert_eq!(by_head.ty().to_string(), "e4m3[3, 4, 128]/f32[1x128]");
    assert_eq!(
        by_head.as_scaled(),
        q.as_scaled(),
        "codes and scales stay as they are"
    );
    let missing = eval_op(&Op::Reshape { shape }, &[&q], &Dims::new());
    assert_eq!(
        missing,
        Err(EvalError::Missing {
            kind: "dim",
            name: "T".into()
        })
    );
}

#[test]
fn gather_and_cache_write_move_whole_rows() {
    let table = bf16(&[3, 2], &[0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
    let rows = eval1(Op::Gather, &[&table, &i32s(&[4], &[2, 0, 2, 1])]);
    assert_eq!(
        rows,
        bf16(&[4, 2], &[20.0, 21.0, 0.0, 1.0, 20.0, 21.0, 10.0, 11.0])
    );
    assert_eq!(
        refuse(Op::Gather, &[&table, &i32s(&[1], &[-1])]),
        "`gather`: index -1 is outside of 0..3"
    );
    let x = bf16(&[2, 2], &[5.0, 6.0, 7.0, 8.0]);
    let cache = eval1(Op::CacheWrite, &[&table, &x, &i32s(&[2], &[2, 0])]);
    assert_eq!(cache, bf16(&[3, 2], &[7.0, 8.0, 10.0, 11.0, 5.0, 6.0]));
    assert!(refuse(Op::CacheWrite, &[&table, &x, &i32s(&[2], &[3, 0])]).contains("position 3"));
}

// ----------------------------------------------------------------------------------------- attention

#[test]
fn attention_sees_only_the_past() {
    // One head, zero queries: the mean of the visible values.
    let zeros = |shape: &[usize]| bf16(shape, &vec![0.0; shape.iter().product()]);
    let v = bf16(&[4, 1, 1], &[1.0, 3.0, 8.0, 100.0]);
    let (q, q_rope) = (zeros(&[3, 1, 2]), zeros(&[3, 1, 2]));
    let (k, k_rope) = (zeros(&[4, 1, 2]), zeros(&[4, 2]));
    let op = Op::Attention { scale: eps(1.0) };
    let out = eval1(
        op.clone(),
        &[&q, &q_rope, &k, &k_rope, &v, &i32s(&[3], &[0, 1, 3])],
    );
    assert_eq!(out, bf16(&[3, 1, 1], &[1.0, 2.0, 28.0]));
    assert!(
        refuse(op, &[&q, &q_rope, &k, &k_rope, &v, &i32s(&[3], &[0, 1, 4])]).contains("position 4")
    );
}

#[test]
fn attention_weights_follow_the_scores() {
    // Scores ln 3 and 0 from the unrotated part, then from the rotated one: weights 3/4 and 1/4.
    let ln3 = 3f32.ln();
    for (q, q_rope) in [(1.0, 0.0), (0.0, 1.0)] {
        let (q, q_rope) = (bf16(&[1, 1, 1], &[q]), bf16(&[1, 1, 1], &[q_rope]));
        let (k, k_rope) = (bf16(&[2, 1, 1], &[1.0, 0.0]), bf16(&[2, 1], &[1.0, 0.0]));
        let v = bf16(&[2, 1, 2], &[4.0, 0.0, 0.0, 8.0]);
        let op = Op::Attention { scale: eps(ln3) };
        let out = eval1(op, &[&q, &q_rope, &k, &k_rope, &v, &i32s(&[1], &[1])]);
        assert_eq!(out, bf16(&[1, 1, 2], &[3.0, 2.0]));
    }
}

/// The two forms of MLA compute the same function: keys and values expanded per head, or queries and outputs
/// moved into the latent space.
#[test]
fn absorbed_and_expanded_attention_agree() {
    let mut rng = Rng::new(8);
    let (t, c, h, dn, dr, dv, latent) = (3, 9, 2, 16, 8, 16, 32);
    let deviation = 0.25;
    let cache = ok(rng.bf16(&[c, latent], 1.0));
    let k_rope = ok(rng.bf16(&[c, dr], 1.0));
    let (q, q_rope) = (
        ok(rng.bf16(&[t, h, dn], 1.0)),
        ok(rng.bf16(&[t, h, dr], 1.0)),
    );
    let (wk, wv) = (
        ok(rng.bf16(&[h, dn, latent], deviation)),
        ok(rng.bf16(&[h, dv, latent], deviation)),
    );
    let positions = i32s(&[t], &[6, 7, 8]);
    let scale = eps(0.2);

    // [C, H, d] from [C, latent] and [H, d, latent].
    let expand = |w: &Tensor, d: usize| {
        let flat = w.reshaped(&[h * d, latent]).expect("two axes");
        let y = eval1(
            Op::Matmul {
                out: DType::BF16,
                promote: 128,
            },
            &[&cache, &flat],
        );
        y.reshaped(&[c, h, d]).expect("per head")
    };
    let (k, v) = (expand(&wk, dn), expand(&wv, dv));
    let expanded = eval1(
        Op::Attention { scale },
        &[&q, &q_rope, &k, &k_rope, &v, &positions],
    );

    let batched = Op::BatchedMatmul { out: DType::BF16 };
    let wk_t = layout::transpose(&wk).expect("three axes");
    let q_latent = eval1(batched.clone(), &[&q, &wk_t]);
    let shared = cache.reshaped(&[c, 1, latent]).expect("one head");
    let in_latent = eval1(
        Op::Attention { scale },
        &[&q_latent, &q_rope, &shared, &k_rope, &shared, &positions],
    );
    let absorbed = eval1(batched, &[&in_latent, &wv]);

    // Roundings to BF16 (relative 2^-9 each): of k or q' in scores of size up to `score`, which moves every weight by
    // that much, and of v, p, o' and o in the output, whose terms are bounded by `size`.
    let unit = 2f64.powi(-9);
    let abs_max = |x: &Tensor| x.to_f64().iter().fold(0f64, |m, v| m.max(v.abs()));
    let l1 = |x: &Tensor, d: usize| {
        x.to_f64()
            .chunks(d)
            .map(|r| r.iter().map(|v| v.abs()).sum::<f64>())
            .fold(0f64, f64::max)
    };
    let score = 0.2 * l1(&q, dn) * abs_max(&k).max(abs_max(&q_latent));
    let size = abs_max(&v) + latent as f64 * abs_max(&wv) * abs_max(&cache) / 4.0;
    let bound = unit * size * (2.0 * score + 4.0);
    let (a, b) = (expanded.to_f64(), absorbed.to_f64());
    let worst = a
        .iter()
        .zip(&b)
        .map(|(x, y)| (x - y).abs())
        .fold(0f64, f64::max);
    assert!(worst <= bound, "{worst} > {bound}");
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let difference: Vec<f64> = a.iter().zip(&b).map(|(x, y)| x - y).collect();
    assert!(
        norm(&difference) < 0.02 * norm(&a),
        "{} of {}",
        norm(&difference),
        norm(&a)
    );
}

// ------------------------------------------------------------------------------------------- routing

fn gate(top_k: u32, n_group: u32, topk_group: u32, normalize: bool) -> Op {
    Op::Route {
        top_k,
        n_group,
        topk_group,
        scaling: eps(2.0),
        normalize,
    }
}

#[test]
fn route_breaks_ties_by_lowest_index() {
    let flat = f32s(&[1, 8], &[0.0; 8]);
    let [experts, weights] = &eval(gate(3, 4, 2, true), &[&flat, &f32s(&[8], &[0.0; 8])])[..]
    else {
        panic!("two results");
    };
    assert_eq!(
        *experts,
        i32s(&[1, 3], &[0, 1, 2]),
        "groups 0 and 1, then experts in order"
    );
    // Equal scores: a third each, times the scaling.
    let third = 0.5f32 / (1e-20 + 0.5 + 0.5 + 0.5) * 2.0;
    assert_eq!(*weights, f32s(&[1, 3], &[third; 3]));
}

#[test]
fn route_limits_groups_and_leaves_the_bias_out_of_weights() {
    // Groups of two: (2, -9), (1, 1), (0, 0), (-9, 1.5). Sums of sigmoids: .88, 1.46, 1.0, .82.
    let logits = f32s(&[1, 8], &[2.0, -9.0, 1.0, 1.0, 0.0, 0.0, -9.0, 1.5]);
    let bias = f32s(&[8], &[0.0; 8]);
    let out = eval(gate(2, 4, 2, false), &[&logits, &bias]);
    let sigmoid = |x: f64| (1.0 / (1.0 + (-x).exp())) as f32;
    assert_eq!(
        out[0],
        i32s(&[1, 2], &[2, 3]),
        "the best expert of all is in a group that loses"
    );
    assert_eq!(out[1], f32s(&[1, 2], &[sigmoid(1.0) * 2.0; 2]));
    // A bias brings group 3 in and orders its expert first; its weight is its plain score.
    let mut biases = [0.0; 8];
    biases[7] = 1.0;
    let out = eval(gate(2, 4, 2, false), &[&logits, &f32s(&[8], &biases)]);
    assert_eq!(out[0], i32s(&[1, 2], &[7, 2]));
    assert_eq!(
        out[1],
        f32s(&[1, 2], &[sigmoid(1.5) * 2.0, sigmoid(1.0) * 2.0])
    );
}

#[test]
fn route_agrees_with_a_naive_selection() {
    let mut rng = Rng::new(9);
    let (t, e, groups, kept, k) = (20, 16, 4, 2, 4);
    let (logits, bias) = (ok(rng.f32(&[t, e], 1.0)), ok(rng.f32(&[e], 0.3)));
    let out = eval(
        gate(k as u32, groups as u32, kept as u32, true),
        &[&logits, &bias],
    );
    let (l, b) = (
        logits.as_float().unwrap_or_default(),
        bias.as_float().unwrap_or_default(),
    );
    let s = |t: usize, i: usize| (1.0 / (1.0 + (-f64::from(l[t * e + i])).exp())) as f32;
    for token in 0..t {
        // An expert is chosen iff fewer than k experts of kept groups beat it; likewise for groups.
        let z = |i: usize| s(token, i) + b[i];
        let group = |g: usize| {
            let pairs = (0..4).flat_map(|i| (0..i).map(move |j| (g * 4 + i, g * 4 + j)));
            pairs
                .map(|(i, j)| z(i) + z(j))
                .fold(f32::NEG_INFINITY, f32::max)
        };
        let alive = |g: usize| (0..groups).filter(|o| group(*o) > group(g)).count() < kept;
        let chosen = &out[0].as_i32().unwrap_or_default()[token * k..][..k];
        for i in 0..e {
            let beaten_by = (0..e).filter(|o| alive(o / 4) && z(*o) > z(i)).count();
            assert_eq!(
                chosen.contains(&(i as i32)),
                alive(i / 4) && beaten_by < k,
                "token {token} expert {i}"
            );
        }
        assert!(
            chosen
                .windows(2)
                .all(|w| z(w[0] as usize) >= z(w[1] as usize)),
            "descending"
        );
        let sum: f32 = out[1].as_float().unwrap_or_default()[token * k..][..k]
            .iter()
            .sum();
        assert!((sum - 2.0).abs() < 1e-5, "weights sum to the scaling");
    }
}

#[test]
fn dispatch_groups_rows_and_combine_brings_them_back() {
    // Token 0 to experts 2 and 0, token 1 to 2 and 3, token 2 to 0 and 2; expert 1 gets nothing.
    let x = bf16(&[3, 1], &[10.0, 20.0, 30.0]);
    let experts = i32s(&[3, 2], &[2, 0, 2, 3, 0, 2]);
    let out = eval(Op::Dispatch { n_experts: 4 }, &[&x, &experts]);
    assert_eq!(out[0], bf16(&[6, 1], &[10.0, 30.0, 10.0, 20.0, 30.0, 20.0]));
    assert_eq!(out[1], i32s(&[5], &[0, 2, 2, 5, 6]));
    assert_eq!(out[2], i32s(&[3, 2], &[2, 0, 3, 5, 1, 4]));
    let weights = f32s(&[3, 2], &[0.5, 0.25, 1.0, 0.0, 1.0, -1.0]);
    let sums = eval1(Op::Combine, &[&out[0], &out[2], &weights]);
    assert_eq!(sums, bf16(&[3, 1], &[7.5, 20.0, 0.0]));
    assert!(refuse(Op::Dispatch { n_experts: 3 }, &[&x, &experts]).contains("expert 3"));
    assert!(refuse(Op::Combine, &[&out[0], &i32s(&[3, 2], &[6; 6]), &weights]).contains("slot 6"));
}

#[test]
fn quantising_before_or_after_dispatch_is_the_same() {
    let mut rng = Rng::new(10);
    let (x, experts) = (
        ok(rng.bf16(&[5, 200], 1.0)),
        i32s(&[5, 2], &[0, 1, 1, 0, 1, 2, 2, 0, 1, 0]),
    );
    let op = Op::Dispatch { n_experts: 4 };
    let late = eval1(Op::Quantize, &[&eval1(op.clone(), &[&x, &experts])]);
    let early = eval1(op, &[&eval1(Op::Quantize, &[&x]), &experts]);
    assert_eq!(early, late);
}

#[test]
fn combine_sums_in_slot_order_with_fma() {
    let mut rng = Rng::new(11);
    let (y, w) = (ok(rng.bf16(&[8, 3], 1.0)), ok(rng.f32(&[2, 4], 1.0)));
    let slots = i32s(&[2, 4], &[7, 1, 2, 0, 3, 5, 4, 6]);
    let out = eval1(Op::Combine, &[&y, &slots, &w]);
    let (ys, ws, s) = (
        y.as_float().unwrap_or_default(),
        w.as_float().unwrap_or_default(),
        slots.to_f64(),
    );
    for (i, got) in out.as_float().unwrap_or_default().iter().enumerate() {
        let mut acc = 0f32;
        for slot in 0..4 {
            let at = i / 3 * 4 + slot;
            acc = f32::mul_add(ws[at], ys[s[at] as usize * 3 + i % 3], acc);
        }
        assert_eq!(*got, round_bf16(acc));
    }
}

// ------------------------------------------------------------------------------------------ sampling

fn draw(logits: &[f32], temperature: f32, top_p: f32, uniform: f32) -> i32 {
    let one = |v: f32| f32s(&[1], &[v]);
    let logits = f32s(&[1, logits.len()], logits);
    let token = eval1(
        Op::Sample,
        &[&logits, &one(temperature), &one(top_p), &one(uniform)],
    );
    token.as_i32().map_or(-1, |t| t[0])
}

#[test]
fn sample_follows_the_cumulative_mass() {
    assert_eq!(
        draw(&[1.0, 3.0, 3.0, 2.0], 0.0, 0.1, 0.9),
        1,
        "greedy, lowest index on ties"
    );
    // Masses 1, 2, 4, 1 over 8: borders at 1/8, 3/8, 7/8.
    let logits: Vec<f32> = [1f32, 2.0, 4.0, 1.0].iter().map(|m| m.ln()).collect();
    for (uniform, token) in [
        (0.0, 0),
        (0.12, 0),
        (0.13, 1),
        (0.37, 1),
        (0.38, 2),
        (0.87, 2),
        (0.88, 3),
        (0.9999, 3),
    ] {
        assert_eq!(draw(&logits, 1.0, 1.0, uniform), token, "uniform {uniform}");
    }
    // A nucleus of 0.6 keeps 4 and 2; of 0.5 or less only 4; the tied pair comes or stays away together.
    for (top_p, uniform, token) in [
        (0.6, 0.0, 1),
        (0.6, 0.34, 2),
        (0.4, 0.0, 2),
        (0.0, 0.99, 2),
        (0.8, 0.0, 0),
        (0.8, 0.99, 3),
    ] {
        assert_eq!(
            draw(&logits, 1.0, top_p, uniform),
            token,
            "top_p {top_p}, uniform {uniform}"
        );
    }
    // Temperature 0.5 squares the masses: 1, 4, 16, 1 over 22.
    assert_eq!(draw(&logits, 0.5, 1.0, 0.22), 1);
    assert_eq!(draw(&logits, 0.5, 1.0, 0.23), 2);
}

// ------------------------------------------------------------------------------------------ fused ops

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

// ------------------------------------------------------------------------------------- whole entries

const COUNTER: &str = r#"mir 1
model "counter"
dim T: 1..=4
dim C: 1..=8
param @w: bf16[2] = tensor("w")
state @cache: bf16[C, 2]
entry @step(x: bf16[T, 2], positions: i32[T]) {
  %0 = rms_norm %x, @w {eps = 0.0} : bf16[T, 2]
  %1 = cache_write @cache, %0, %positions : bf16[C, 2]
  update @cache = %1
  return y = %0, seen = %1
}
"#;

#[test]
fn an_entry_reads_and_updates_the_leading_rows_of_a_state() {
    let module = ok(crate::parse::module(COUNTER, "counter.mir"));
    let mut states = new_states(&module);
    assert_eq!(states["cache"].shape(), [8, 2]);
    let params = Values::from([("w".into(), bf16(&[2], &[1.0, 1.0]))]);
    let mut step = |x: &[f32], at: &[i32], context: u64| {
        let t = at.len();
        let inputs = Values::from([
            ("x".into(), bf16(&[t, 2], x)),
            ("positions".into(), i32s(&[t], at)),
        ]);
        let dims = Dims::from([("C".into(), context)]);
        run(
            Step {
                module: &module,
                entry: "step",
                dims: &dims,
                inputs: &inputs,
                params: &params,
            },
            &mut states,
        )
    };
    let first = ok(step(&[3.0, 3.0, -2.0, 2.0], &[0, 1], 2));
    assert_eq!(first["seen"], bf16(&[2, 2], &[1.0, 1.0, -1.0, 1.0]));
    let second = ok(step(&[5.0, -5.0], &[2], 3));
    assert_eq!(
        second["seen"],
        bf16(&[3, 2], &[1.0, 1.0, -1.0, 1.0, 1.0, -1.0]),
        "the first step is still there"
    );
    assert_eq!(second["y"], bf16(&[1, 2], &[1.0, -1.0]));

    let failed = step(&[1.0, 1.0], &[5], 4);
    assert!(
        matches!(failed, Err(EvalError::Range { value: 5, .. })),
        "{failed:?}"
    );
    let message = |r: Result<Values, EvalError>| r.err().map(|e| e.to_string());
    assert_eq!(
        message(step(&[0.0; 10], &[0; 5], 5)).as_deref(),
        Some("dim `T` is 5, expected 1..=4")
    );
    assert_eq!(
        message(step(&[0.0; 2], &[0], 9)).as_deref(),
        Some("dim `C` is 9, expected 1..=8")
    );
    assert_eq!(states["cache"].shape(), [8, 2]);
    assert_eq!(
        states["cache"].rows(3, 5),
        Some(bf16(&[5, 2], &[0.0; 10])),
        "failed steps wrote nothing"
    );
}

#[test]
fn wrong_values_are_named() {
    let module = ok(crate::parse::module(COUNTER, "counter.mir"));
    let good = Values::from([
        ("x".into(), bf16(&[1, 2], &[1.0; 2])),
        ("positions".into(), i32s(&[1], &[0])),
    ]);
    let params = Values::from([("w".into(), bf16(&[2], &[1.0, 1.0]))]);
    let attempt = |entry: &str, inputs: &Values, params: &Values| {
        let dims = Dims::from([("C".into(), 1)]);
        let step = Step {
            module: &module,
            entry,
            dims: &dims,
            inputs,
            params,
        };
        run(step, &mut new_states(&module))
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default()
    };
    assert_eq!(attempt("step", &good, &params), "");
    assert_eq!(
        attempt("stop", &good, &params),
        "the module has no entry `stop`"
    );
    assert_eq!(
        attempt("step", &good, &Values::new()),
        "no value was given for parameter `w`"
    );
    let f32_params = Values::from([("w".into(), f32s(&[2], &[1.0, 1.0]))]);
    assert_eq!(
        attempt("step", &good, &f32_params),
        "parameter `w`: expected bf16[2], got f32[2]"
    );
    let mut bad = good.clone();
    bad.insert("positions".into(), i32s(&[2], &[0, 0]));
    assert_eq!(
        attempt("step", &bad, &params),
        "dim `T` is 2, expected 1 as elsewhere"
    );
    let mut extra = good.clone();
    extra.insert("y".into(), i32s(&[1], &[0]));
    assert_eq!(
        attempt("step", &extra, &params),
        "the entry has no input `y`"
    );
    let mut short = good;
    short.remove("x");
    assert_eq!(
        attempt("step", &short, &params),
        "no value was given for input `x`"
    );
}

#[test]
fn ill_typed_operands_are_refused_by_the_ops_own_rule() {
    let (x, w) = (bf16(&[2, 4], &[0.0; 8]), bf16(&[3, 5], &[0.0; 15]));
    let rule = F32_OUT
        .infer(&[x.ty(), w.ty()])
        .expect_err("K differs")
        .to_string();
    assert_eq!(refuse(F32_OUT, &[&x, &w]), rule);
}

// --------------------------------------------------------------------------------------- parameters

#[test]
fn recipes_build_parameters_from_checkpoint_tensors() {
    use crate::module::ParamSource as Source;
    let mut rng = Rng::new(13);
    let (a, b) = (
        ok(rng.weight(&[256, 128], 1.0)),
        ok(rng.weight(&[192, 128], 1.0)),
    );
    let lookup = |name: &str| match name {
        "a" => Some(a.clone()),
        "b" => Some(b.clone()),
        _ => None,
    };
    let tensor = |name: &str| Source::Tensor(name.to_owned());
    let build = |source: &Source| ok(materialize(source, &lookup));

    let joined = build(&Source::Concat(vec![tensor("a"), tensor("b")]));
    assert_eq!(joined.ty().to_string(), "e4m3[448, 128]/f32[128x128]");
    assert_eq!(joined.rows(256, 192), Some(b.clone()));
    let stacked = build(&Source::Stack(vec![tensor("a"), tensor("a")]));
    assert_eq!(stacked.ty().to_string(), "e4m3[2, 256, 128]/f32[128x128]");
    let plain = build(&Source::Dequant(Box::new(tensor("a"))));
    assert_eq!(plain, eval1(Op::Dequantize, &[&a]));

    let heads = Source::HeadRows {
        src: Box::new(Source::Dequant(Box::new(tensor("b")))),
        heads: 4,
        start: 16,
        len: 32,
    };
    let rows = build(&heads);
    assert_eq!(rows.shape(), [4, 32, 128]);
    let value = |h: usize, r: usize, k: usize| {
        let s = b.as_scaled().expect("scaled");
        let row = h * 48 + 16 + r;
        round_bf16(e4m3_value(s.codes[row * 128 + k]) * s.scales[row / 128])
    };
    assert_eq!(
        rows.as_float().map(|v| v[(3 * 32 + 5) * 128 + 7]),
        Some(value(3, 5, 7))
    );
    let turned = build(&Source::Transpose(Box::new(heads)));
    assert_eq!(turned.shape(), [4, 128, 32]);
    assert_eq!(
        turned.as_float().map(|v| v[(3 * 128 + 7) * 32 + 5]),
        Some(value(3, 5, 7))
    );

    let table = build(&Source::RopeTable {
        dim: 4,
        theta: 100.0,
        positions: 3,
        yarn: None,
    });
    assert_eq!(table, f32s(&[3, 2, 2], &rope_table(4, 100.0, 3, None)));

    assert_eq!(
        materialize(&tensor("c"), &lookup),
        Err(MaterializeError::Missing("c".to_owned()))
    );
    let uneven = materialize(&Source::Concat(vec![tensor("b"), tensor("a")]), &lookup);
    let message = uneven.expect_err("192 rows end inside a block").to_string();
    assert!(
        message.starts_with("concat of e4m3[192, 128]/f32[128x128], e4m3[256, 128]"),
        "{message}"
    );
}
