//! Routing: the gate, the plan, and the ways to the experts and back.

use mcc_ir::eval::{Rng, Tensor};
use mcc_ir::kernel::{
    AppendExpert, Combine, Expand, KernelConfig, MoePlan, Normed, Route, RowWeights,
};
use mcc_ir::op::Op;
use mcc_ir::types::F32;

use super::eval;
use super::rows::{assert_close_quantised, quantized};
use crate::harness::{
    Plane, all_planes, assert_neighbours, assert_same, assert_within, planes, run,
};

/// Token `t`'s experts, distinct, as a gate would choose them.
fn routing(rng: &mut Rng, tokens: usize, experts: usize, k: usize, pattern: &str) -> Tensor {
    let mut chosen = Vec::new();
    for _ in 0..tokens {
        let mut all: Vec<i32> = (0..experts as i32).collect();
        match pattern {
            // The same experts for everyone: the first one gets every token, most get none.
            "one" => {}
            // No token for the lower half.
            "upper" => {
                all.drain(..experts / 2);
                shuffle(rng, &mut all);
            }
            _ => shuffle(rng, &mut all),
        }
        chosen.extend(&all[..k]);
    }
    Tensor::i32(&[tokens, k], chosen).expect("sizes")
}

fn shuffle(rng: &mut Rng, v: &mut [i32]) {
    for i in (1..v.len()).rev() {
        v.swap(i, rng.below(i + 1));
    }
}

#[test]
fn plan_expand_and_combine_are_exact_to_the_bit() {
    // tokens, experts, top_k, width
    let shapes = [
        (1, 16, 4, 256, "random"),
        (5, 8, 1, 8, "random"),
        (33, 16, 4, 136, "upper"),
        (70, 16, 4, 256, "one"),
        (40, 256, 8, 128, "random"),
        (129, 3, 2, 64, "random"),
    ];
    for (i, (t, e, k, width, pattern)) in shapes.into_iter().enumerate() {
        let seed = 500 + i as u64;
        let case =
            format!("{t} tokens, {k} of {e} experts ({pattern}), width {width}, seed {seed}");
        let mut rng = Rng::new(seed);
        let experts = routing(&mut rng, t, e, k, pattern);
        let x = rng.bf16(&[t, width], 1.0).expect("sizes");
        let dispatch = Op::Dispatch {
            n_experts: e as u32,
        };
        let want = eval(&dispatch, &[&x, &experts]);

        let config = KernelConfig::MoePlan(MoePlan {
            experts: e as u32,
            top_k: k as u32,
        });
        let plan = run(&config, &[("T", t)], planes(&experts), seed);
        assert_same(&case, "offsets", &plan[0], &planes(&want[1])[0]);
        assert_same(&case, "slots", &plan[1], &planes(&want[2])[0]);

        let expand = |quant, tensor: &Tensor, want: &Tensor| {
            let config = KernelConfig::Expand(Expand {
                width: width as u32,
                top_k: k as u32,
                quant,
            });
            let mut inputs = planes(tensor);
            inputs.push(plan[2].clone());
            let got = run(&config, &[("T", t)], inputs, seed);
            for (got, want) in got.iter().zip(planes(want)) {
                assert_same(&case, "rows", got, &want);
            }
        };
        expand(false, &x, &want[0]);
        if width % 16 == 0 {
            let q = rng.activation(&[t, width], 1.0).expect("sizes");
            expand(true, &q, &eval(&dispatch, &[&q, &experts])[0]);
        }

        let weights = rng.f32(&[t, k], 0.5).expect("sizes");
        let slots = &want[2];
        let want = eval(&Op::RowWeights, &[slots, &weights]);
        let config = KernelConfig::RowWeights(RowWeights { top_k: k as u32 });
        let got = run(&config, &[("T", t)], all_planes(&[slots, &weights]), seed);
        assert_same(&case, "row weights", &got[0], &planes(&want[0])[0]);

        let y = rng.bf16(&[k * t, width], 1.0).expect("sizes");
        let r = rng.bf16(&[t, width], 1.0).expect("sizes");
        let combine = |weighted, residual| Combine {
            width: width as u32,
            top_k: k as u32,
            weighted,
            residual,
            norm: None,
        };
        let forms: [(Op, Combine, &[&Tensor]); 3] = [
            (Op::Combine, combine(true, false), &[&y, slots, &weights]),
            (Op::CombineSum, combine(false, false), &[&y, slots]),
            (
                Op::CombineAdd,
                combine(true, true),
                &[&y, slots, &weights, &r],
            ),
        ];
        for (op, config, operands) in forms {
            let want = eval(&op, operands);
            let config = KernelConfig::Combine(config);
            let got = run(&config, &[("T", t)], all_planes(operands), seed);
            assert_same(&case, op.mnemonic(), &got[0], &planes(&want[0])[0]);
        }
    }
}

/// The sum is exact; behind it is the norm of `rms_norm`, with its bound (`rows.rs`).
#[test]
fn a_combined_sum_is_normed_as_rows_are() {
    // tokens, top_k, width, which of sum, norm and codes are written
    let cases = [
        (1, 2, 128, [true, true, true]),
        (7, 8, 256, [true, false, true]),
        (3, 1, 200, [false, true, false]),
        (5, 4, 7168, [false, false, true]),
        (4, 3, 2304, [true, true, false]),
    ];
    for (i, (t, k, width, [emit_sum, emit_norm, emit_quant])) in cases.into_iter().enumerate() {
        let seed = 560 + i as u64;
        let mut rng = Rng::new(seed);
        let eps = 1e-6;
        let config = Combine {
            width: width as u32,
            top_k: k as u32,
            weighted: true,
            residual: true,
            norm: Some(Normed {
                eps,
                emit_sum,
                emit_norm,
                emit_quant,
            }),
        };
        let case = format!("{t} tokens, {config:?}, seed {seed}");
        let y = rng.bf16(&[k * t, width], 1.0).expect("sizes");
        let mut slots: Vec<i32> = (0..(k * t) as i32).collect();
        shuffle(&mut rng, &mut slots);
        let slots = Tensor::i32(&[t, k], slots).expect("sizes");
        let weights = rng.f32(&[t, k], 0.5).expect("sizes");
        let r = rng.bf16(&[t, width], 1.0).expect("sizes");
        let w = rng.bf16(&[width], 1.0).expect("sizes");
        let operands = [&y, &slots, &weights, &r, &w];
        let op = Op::CombineAddRmsNormQuantize {
            eps: F32::from(eps),
        };
        let want = eval(&op, &operands);
        let got = run(
            &KernelConfig::Combine(config),
            &[("T", t)],
            all_planes(&operands),
            seed,
        );
        let mut got = got.into_iter();
        let mut next = || got.next().expect("one for each written operand");
        if emit_sum {
            assert_same(&case, "sum", &next(), &planes(&want[0])[0]);
        }
        let norm = emit_norm.then(&mut next);
        if let Some(norm) = &norm {
            assert_neighbours(&case, "norm", norm, &planes(&want[1])[0]);
        }
        if emit_quant {
            let quant = [next(), next()];
            if let Some(norm) = &norm {
                let own = quantized(norm, t, width);
                assert_same(&case, "codes", &quant[0], &own[0]);
                assert_same(&case, "scales", &quant[1], &own[1]);
            }
            assert_close_quantised(&case, &quant, &planes(&want[2]));
        }
    }
}

#[test]
fn an_appended_expert_is_the_last_of_every_token() {
    for (seed, (t, k)) in [(1, 1), (3, 8), (130, 2), (64, 3)].into_iter().enumerate() {
        let mut rng = Rng::new(570 + seed as u64);
        let experts = rng.i32(&[t, k], 16).expect("sizes");
        let weights = rng.f32(&[t, k], 0.5).expect("sizes");
        let (expert, weight) = (16, 1.25);
        let op = Op::AppendExpert {
            expert,
            weight: F32::from(weight),
        };
        let want = eval(&op, &[&experts, &weights]);
        let config = KernelConfig::AppendExpert(AppendExpert {
            top_k: k as u32,
            expert,
            weight,
        });
        let inputs = all_planes(&[&experts, &weights]);
        let got = run(&config, &[("T", t)], inputs, seed as u64);
        let case = format!("{t} tokens, {k} experts");
        for ((got, want), what) in got.iter().zip(&want).zip(["experts", "weights"]) {
            assert_same(&case, what, got, &planes(want)[0]);
        }
    }
}

fn gate(experts: u32, top_k: u32, n_group: u32, topk_group: u32, normalize: bool) -> Route {
    Route {
        experts,
        top_k,
        n_group,
        topk_group,
        scaling: 2.5,
        normalize,
    }
}

fn route(config: &Route, logits: &Tensor, bias: &Tensor, seed: u64) -> (Vec<Plane>, Vec<Tensor>) {
    let op = Op::Route {
        top_k: config.top_k,
        n_group: config.n_group,
        topk_group: config.topk_group,
        scaling: F32::from(config.scaling),
        normalize: config.normalize,
    };
    let want = eval(&op, &[logits, bias]);
    let tokens = logits.shape()[0];
    let inputs = all_planes(&[logits, bias]);
    (
        run(
            &KernelConfig::Route(config.clone()),
            &[("T", tokens)],
            inputs,
            seed,
        ),
        want,
    )
}

/// Scores are sigmoids: the exponential errs by |x| * 2^-23 + 2^-22, the sum and the quotient by 2^-24 each. A
/// weight is a score over a sum of scores times a factor: twice that and `k` + 2 more roundings, below 2^-19 for
/// logits up to 8 and eight experts. The choice is the evaluator's as long as no two scores that decide it are
/// closer than that; random logits of these seeds are not.
#[test]
fn gates_choose_the_same_experts_with_the_same_weights() {
    let gates = [
        (7, gate(16, 4, 4, 2, true)),
        (1, gate(256, 8, 8, 4, true)),
        (20, gate(256, 8, 8, 4, false)),
        (9, gate(8, 2, 1, 1, true)),
        (5, gate(48, 6, 3, 1, true)),
        (3, gate(32, 4, 16, 8, true)),
    ];
    for (i, (tokens, config)) in gates.into_iter().enumerate() {
        let seed = 600 + i as u64;
        let case = format!("{tokens} tokens, {config:?}, seed {seed}");
        let mut rng = Rng::new(seed);
        let e = config.experts as usize;
        let logits = rng.f32(&[tokens, e], 1.3).expect("sizes");
        let bias = rng.f32(&[e], 0.1).expect("sizes");
        let (got, want) = route(&config, &logits, &bias, seed);
        assert_same(&case, "experts", &got[0], &planes(&want[0])[0]);
        let weights = want[1].as_float().expect("floats");
        assert_within(&case, "weights", &got[1].floats(), weights, |_, w| {
            2f64.powi(-19) * w.abs()
        });
    }
}

/// Equal logits give equal scores on both sides: only the order of ties is left, and it is defined.
#[test]
fn ties_go_to_the_lowest_index() {
    for (i, levels) in [1, 2, 3].into_iter().enumerate() {
        let seed = 620 + i as u64;
        let mut rng = Rng::new(seed);
        let config = gate(64, 6, 8, 3, true);
        // Few distinct values; powers of two apart, so that sums with the bias tie too.
        let logits: Vec<f32> = (0..10 * 64)
            .map(|_| rng.below(levels) as f32 - 1.0)
            .collect();
        let logits = Tensor::f32(&[10, 64], logits).expect("sizes");
        let bias = Tensor::f32(&[64], vec![0.0; 64]).expect("sizes");
        let (got, want) = route(&config, &logits, &bias, seed);
        assert_same(
            &format!("{levels} levels"),
            "experts",
            &got[0],
            &planes(&want[0])[0],
        );
    }
}

/// A token whose hidden state is no number must not make others' rows go astray: it gets valid experts, the
/// lowest that are left, like a token all of whose experts are ruled out by the bias.
#[test]
fn a_token_without_scores_still_gets_experts() {
    let config = gate(64, 6, 8, 3, true);
    let mut rng = Rng::new(640);
    let mut logits = rng
        .f32(&[4, 64], 1.3)
        .expect("sizes")
        .as_float()
        .expect("floats")
        .to_vec();
    logits[64..128].fill(f32::NAN);
    logits[3 * 64 + 5] = f32::NAN;
    let logits = Tensor::f32(&[4, 64], logits).expect("sizes");
    for (case, bias) in [("no bias", 0.0), ("all ruled out", f32::NEG_INFINITY)] {
        let bias = Tensor::f32(&[64], vec![bias; 64]).expect("sizes");
        let (got, want) = route(&config, &logits, &bias, 640);
        assert_same(case, "experts", &got[0], &planes(&want[0])[0]);
    }
}
