//! The gate, the way to the experts and back, and sampling.

use super::*;
use crate::numerics::round_bf16;

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
    // A nucleus of 0.6 keeps 4 and 2; of 0.5 or less only 4; the tied pair comes or stays away
    // together.
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

#[test]
fn a_shared_expert_is_one_more_slot() {
    let (experts, weights) = (
        i32s(&[2, 2], &[0, 1, 1, 0]),
        f32s(&[2, 2], &[0.25, 0.5, 0.75, 1.5]),
    );
    let op = Op::AppendExpert {
        expert: 2,
        weight: eps(1.0),
    };
    let all = eval(op, &[&experts, &weights]);
    assert_eq!(all[0], i32s(&[2, 3], &[0, 1, 2, 1, 0, 2]));
    assert_eq!(all[1], f32s(&[2, 3], &[0.25, 0.5, 1.0, 0.75, 1.5, 1.0]));
}

#[test]
fn rows_may_carry_their_weights() {
    let slots = i32s(&[2, 2], &[2, 0, 1, 3]);
    let weights = f32s(&[2, 2], &[0.5, 2.0, 1.0, -1.0]);
    assert_eq!(
        eval1(Op::RowWeights, &[&slots, &weights]),
        f32s(&[4], &[2.0, 1.0, 0.5, -1.0])
    );
    let y = bf16(&[4, 1], &[1.0, 2.0, 4.0, 8.0]);
    assert_eq!(
        eval1(Op::CombineSum, &[&y, &slots]),
        bf16(&[2, 1], &[5.0, 10.0])
    );
    assert_eq!(
        eval1(Op::Combine, &[&y, &slots, &weights]),
        bf16(&[2, 1], &[4.0, -6.0])
    );
}
