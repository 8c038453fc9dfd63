//! Attention, over query rows (prefill) and over heads (decode).

use mcc_ir::eval::{Rng, Tensor};
use mcc_ir::kernel::{Attention, KernelConfig};
use mcc_ir::op::Op;
use mcc_ir::types::F32;

use super::{eval, i32s};
use crate::harness::{all_planes, assert_within, run};

/// A chunk of `tokens` queries at positions `first..`, which see everything up to themselves.
struct Case {
    tokens: usize,
    first: usize,
    /// Deviation of the scores: small ones average over keys, large ones pick single keys.
    sharpness: f32,
}

fn check(config: KernelConfig, case: &Case, seed: u64) {
    let (KernelConfig::AttentionPrefill(c) | KernelConfig::AttentionDecode(c)) = &config else {
        panic!("{config:?} is no attention");
    };
    let mut rng = Rng::new(seed);
    let (t, context) = (case.tokens, case.first + case.tokens);
    let [h, hk, dk, dr, dv] = [c.heads, c.kv_heads, c.dk, c.dr, c.dv].map(|n| n as usize);
    let name = format!("{t} tokens from {}, {c:?}, seed {seed}", case.first);
    let q = rng.bf16(&[t, h, dk], case.sharpness).expect("sizes");
    let q_rope = rng.bf16(&[t, h, dr], case.sharpness).expect("sizes");
    let k = rng.bf16(&[context, hk, dk], 1.0).expect("sizes");
    let k_rope = rng.bf16(&[context, dr], 1.0).expect("sizes");
    let v = rng.bf16(&[context, hk, dv], 1.0).expect("sizes");
    let positions = i32s((case.first..context).map(|p| p as i32));
    let op = Op::Attention {
        scale: F32::from(c.scale),
    };
    let want = eval(&op, &[&q, &q_rope, &k, &k_rope, &v, &positions]);
    let of = |f: fn(f32) -> f32| {
        let values = v
            .as_float()
            .expect("floats")
            .iter()
            .map(|x| f(*x))
            .collect();
        let changed = Tensor::bf16(v.shape(), values).expect("the same size");
        eval(&op, &[&q, &q_rope, &k, &k_rope, &changed, &positions])[0]
            .as_float()
            .expect("floats")
            .to_vec()
    };
    let (sums, squares) = (of(f32::abs), of(|x| x * x));
    let inputs = all_planes(&[&q, &q_rope, &k, &k_rope, &v, &positions]);
    let got = run(&config, &[("T", t), ("C", context)], inputs, seed)[0].floats();
    let want = want[0].as_float().expect("floats");

    // With probabilities p: each side rounds its weights to BF16, each by at most 2^-8 of it, the evaluator p
    // itself, the kernel e^(s - m): together at most 2^-7 * sum p |v|. Then both round the result, 2^-7 of it.
    // Scores (FP32 sums of up to 576 products, of size at most |s| around 2^6, times 2^-24 * 36 steps) shift
    // p by below 2^-12 and are covered by one eighth more.
    assert_within(&name, "out", &got, want, |i, w| {
        1.125 * 2f64.powi(-7) * f64::from(sums[i]) + 2f64.powi(-7) * w.abs() + 1e-30
    });

    // That bound would hide one wrongly masked key among hundreds. The roundings are independent of each
    // other, though: of either side at most sum p^2 v^2 * 2^-16 / 3 in the mean square for the weights, and
    // out^2 * 2^-16 / 3 for the result. With sum p^2 v^2 <= max p * sum p v^2 <= sum p v^2 the mean over all
    // outputs is below the one here by a wide margin unless single keys carry everything.
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / got.len() as f64;
    let error = mean(&mut got.iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)));
    let allowed = mean(
        &mut squares
            .iter()
            .zip(want)
            .map(|(s, w)| 2.0 * 2f64.powi(-16) / 3.0 * (f64::from(*s) + f64::from(*w).powi(2))),
    );
    assert!(
        error <= 1.5 * allowed,
        "{name}: mean square error {error}, allowed are {allowed}"
    );
}

fn attention(
    heads: u32,
    kv_heads: u32,
    dk: u32,
    dr: u32,
    dv: u32,
    tile_kv: u32,
    stages: u32,
) -> Attention {
    // Scores of deviation `sharpness`.
    let scale = ((dk + dr) as f32).sqrt().recip();
    Attention {
        heads,
        kv_heads,
        dk,
        dr,
        dv,
        scale,
        tile_kv,
        stages,
    }
}

#[test]
fn prefill_attention_is_within_the_rounding_of_its_weights() {
    let case = |tokens, first, sharpness| Case {
        tokens,
        first,
        sharpness,
    };
    let cases = [
        (attention(4, 4, 64, 64, 64, 64, 2), case(1, 0, 1.0)),
        (attention(4, 4, 64, 64, 64, 64, 2), case(77, 0, 1.0)),
        (attention(4, 4, 64, 64, 64, 64, 2), case(131, 66, 6.0)),
        (attention(2, 2, 128, 64, 128, 64, 2), case(40, 150, 1.0)),
        (attention(2, 2, 128, 64, 128, 128, 1), case(65, 64, 3.0)),
        (attention(3, 3, 40, 8, 24, 64, 2), case(70, 3, 1.0)),
        (attention(3, 1, 64, 32, 64, 64, 2), case(129, 127, 6.0)),
    ];
    for (i, (config, case)) in cases.into_iter().enumerate() {
        check(
            KernelConfig::AttentionPrefill(config),
            &case,
            700 + i as u64,
        );
    }
}

#[test]
fn decode_attention_is_within_the_rounding_of_its_weights() {
    let case = |tokens, first, sharpness| Case {
        tokens,
        first,
        sharpness,
    };
    let cases = [
        (attention(4, 1, 128, 64, 128, 64, 2), case(1, 0, 1.0)),
        (attention(4, 1, 128, 64, 128, 64, 2), case(1, 200, 1.0)),
        (attention(4, 1, 128, 64, 128, 64, 2), case(3, 62, 6.0)),
        (attention(70, 1, 512, 64, 512, 64, 1), case(1, 130, 1.0)),
        (attention(128, 1, 512, 64, 512, 64, 1), case(2, 63, 4.0)),
        (attention(5, 1, 72, 8, 264, 64, 2), case(2, 100, 1.0)),
    ];
    for (i, (config, case)) in cases.into_iter().enumerate() {
        check(KernelConfig::AttentionDecode(config), &case, 720 + i as u64);
    }
}
