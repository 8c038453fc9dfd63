//! Sampling: greedy, and from a nucleus.

use mcc_ir::eval::{Rng, Tensor};
use mcc_ir::kernel::{KernelConfig, Sample};
use mcc_ir::op::Op;

use super::{eval, pick};
use crate::harness::{all_planes, assert_same, planes, run};

fn column(values: Vec<f32>) -> Tensor {
    Tensor::f32(&[values.len()], values).expect("one axis")
}

fn sample(logits: &Tensor, [t, p, u]: [&Tensor; 3], seed: u64) -> Vec<i32> {
    let (rows, vocab) = (logits.shape()[0], logits.shape()[1] as u32);
    let inputs = all_planes(&[logits, t, p, u]);
    run(
        &KernelConfig::Sample(Sample { vocab }),
        &[("R", rows)],
        inputs,
        seed,
    )[0]
    .ints()
    .to_vec()
}

fn reference(logits: &Tensor, [t, p, u]: [&Tensor; 3]) -> Vec<i32> {
    eval(&Op::Sample, &[logits, t, p, u])[0]
        .as_i32()
        .expect("tokens")
        .to_vec()
}

#[test]
fn greedy_choice_is_exact_ties_too() {
    for (i, vocab) in [1, 7, 32, 1000, 1024, 5003].into_iter().enumerate() {
        let seed = 800 + i as u64;
        let mut rng = Rng::new(seed);
        let rows = 6;
        let mut values: Vec<f32> = (0..rows * vocab).map(|_| rng.normal()).collect();
        // Row 1: few distinct values, so that the largest is there many times. Row 2: all equal. Row 3: zeros
        // of both signs. Row 4: all very negative. Row 5: the largest is the last.
        let row = |r: usize| r * vocab..(r + 1) * vocab;
        values[row(1)].iter_mut().for_each(|v| *v = v.round());
        values[row(2)].fill(-2.5);
        values[row(3)]
            .iter_mut()
            .enumerate()
            .for_each(|(i, v)| *v = if i % 2 == 0 { -0.0 } else { 0.0 });
        values[row(4)].iter_mut().for_each(|v| *v -= 1e30);
        values[6 * vocab - 1] = 100.0;
        let logits = Tensor::f32(&[rows, vocab], values).expect("sizes");
        let arguments = [
            column(vec![0.0; rows]),
            column(vec![1.0; rows]),
            column(vec![0.5; rows]),
        ];
        let [t, p, u] = &arguments;
        let want = eval(&Op::Sample, &[&logits, t, p, u]);
        let config = KernelConfig::Sample(Sample {
            vocab: vocab as u32,
        });
        let got = run(
            &config,
            &[("R", rows)],
            all_planes(&[&logits, t, p, u]),
            seed,
        );
        assert_same(
            &format!("vocabulary {vocab}, seed {seed}"),
            "token",
            &got[0],
            &planes(&want[0])[0],
        );
    }
}

/// Masses are FP32 sums: up to `vocab / threads` terms a thread and 256 threads, each addition off by 2^-24 of
/// the total, and exponentials off by |l - max| / temperature * 2^-23 + 2^-22 of themselves, which weighs most
/// where they are largest and is below 2^-20 of the total. Draws and nuclei closer to a boundary than that
/// may fall to either side of it; all others must be the evaluator's.
#[test]
fn nucleus_draws_are_the_reference_but_for_boundaries() {
    let mut strict = 0;
    let mut all = 0;
    for (i, vocab) in [7, 1000, 1024, 5003].into_iter().enumerate() {
        let seed = 820 + i as u64;
        let mut rng = Rng::new(seed);
        let rows = 24;
        let logits = rng.f32(&[rows, vocab], 2.0).expect("sizes");
        let mut draw = |from: &[f32]| column((0..rows).map(|_| pick(&mut rng, from)).collect());
        let t = draw(&[0.3, 0.7, 1.0, 2.0, 0.0]);
        let p = draw(&[0.1, 0.5, 0.9, 0.99, 1.0]);
        let u = column((0..rows).map(|_| rng.unit()).collect());
        let got = sample(&logits, [&t, &p, &u], seed);
        let want = reference(&logits, [&t, &p, &u]);
        let epsilon = (vocab as f32 / 32.0 + 256.0) * 2f32.powi(-24) + 2f32.powi(-20);
        let shifted = |x: &Tensor, by: f32| {
            column(
                x.as_float()
                    .expect("floats")
                    .iter()
                    .map(|x| (x + by).clamp(0.0, 1.0))
                    .collect(),
            )
        };
        let mut allowed = vec![want.clone()];
        for dp in [-epsilon, 0.0, epsilon] {
            for du in [-epsilon, 0.0, epsilon] {
                allowed.push(reference(&logits, [&t, &shifted(&p, dp), &shifted(&u, du)]));
            }
        }
        for row in 0..rows {
            assert!(
                allowed.iter().any(|a| a[row] == got[row]),
                "vocabulary {vocab}, seed {seed}, row {row}: drew {}, expected {}",
                got[row],
                want[row]
            );
            strict += usize::from(got[row] == want[row]);
            all += 1;
        }
    }
    // Boundaries are rare: nearly every draw is the same.
    assert!(
        strict + 2 >= all,
        "{strict} of {all} draws are the reference's"
    );
}

/// Evenly spread draws meet every token in proportion to its probability: token `i` gets as many of `n` draws as
/// there are points `(j + 1/2) / n` in its interval, which is `n p_i` to within one, and one more for rounding.
#[test]
fn draws_follow_the_distribution() {
    let (n, vocab) = (512, 40);
    let mut rng = Rng::new(840);
    let row: Vec<f32> = (0..vocab).map(|_| rng.normal()).collect();
    let temperature = 0.8;
    let logits = Tensor::f32(&[n, vocab], row.repeat(n)).expect("sizes");
    let t = column(vec![temperature; n]);
    let u = column((0..n).map(|j| (j as f32 + 0.5) / n as f32).collect());
    let masses: Vec<f64> = row
        .iter()
        .map(|l| (f64::from(*l) / f64::from(temperature)).exp())
        .collect();
    let total: f64 = masses.iter().sum();
    for top_p in [1.0, 0.8] {
        let got = sample(&logits, [&t, &column(vec![top_p; n]), &u], 840);
        // The nucleus, from the definition.
        let kept: Vec<bool> = masses
            .iter()
            .map(|m| masses.iter().filter(|o| *o > m).sum::<f64>() < f64::from(top_p) * total)
            .collect();
        let kept_mass: f64 = masses
            .iter()
            .zip(&kept)
            .filter(|(_, k)| **k)
            .map(|(m, _)| m)
            .sum();
        assert!(
            top_p == 1.0 || kept.contains(&false),
            "a nucleus of {top_p} leaves tokens out"
        );
        for token in 0..vocab {
            let count = got.iter().filter(|g| **g == token as i32).count() as f64;
            let expected = if kept[token] {
                n as f64 * masses[token] / kept_mass
            } else {
                0.0
            };
            let slack = if kept[token] { 2.0 } else { 0.0 };
            assert!(
                (count - expected).abs() <= slack,
                "top_p {top_p}: token {token} was drawn {count} times, expected {expected}"
            );
        }
    }
}
