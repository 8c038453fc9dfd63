//! Causal attention: who sees what, how much it counts, and the two forms of MLA.

use super::*;

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

/// The two forms of MLA compute the same function: keys and values expanded per head, or queries
/// and outputs moved into the latent space.
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
    let wk_t = crate::eval::layout::transpose(&wk).expect("three axes");
    let q_latent = eval1(batched.clone(), &[&q, &wk_t]);
    let shared = cache.reshaped(&[c, 1, latent]).expect("one head");
    let in_latent = eval1(
        Op::Attention { scale },
        &[&q_latent, &q_rope, &shared, &k_rope, &shared, &positions],
    );
    let absorbed = eval1(batched, &[&in_latent, &wv]);

    // Roundings to BF16 (relative 2^-9 each): of k or q' in scores of size up to `score`, which
    // moves every weight by that much, and of v, p, o' and o in the output, whose terms are bounded
    // by `size`.
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
