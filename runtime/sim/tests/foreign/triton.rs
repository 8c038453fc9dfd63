//! What Triton made: softmax, layer norm, attention on both kinds of matrix
//! instruction, and the block-scaled FP8 product.
//!
//! After a kernel's own arguments Triton passes two pointers to scratch memory,
//! which none of these kernels uses.

use half::{bf16, f16};

use super::common::{Arg, download_f32, upload, upload_f32};
use super::{Device, Random, ScaledGemm, config, on_every_device, softmax_reference, to_f64};

pub fn with_scratch(args: &[Arg]) -> Vec<Arg> {
    let mut args = args.to_vec();
    args.extend([Arg::U64(0), Arg::U64(0)]);
    args
}

#[test]
fn softmax() {
    let (rows, columns, stride) = (5, 777, 784);
    let x = Random(3).units(rows * stride);
    let x: Vec<f32> = x.iter().map(|v| 12.0 * v).collect();
    let dense: Vec<f32> = x
        .chunks_exact(stride)
        .flat_map(|r| &r[..columns])
        .copied()
        .collect();
    let want = softmax_reference(&dense, columns);
    on_every_device("triton_softmax", include_str!("triton_softmax.ptx"), |d| {
        let at = upload_f32(d.gpu, &x);
        let out = upload_f32(d.gpu, &vec![-1.0; rows * stride]);
        let args = [
            Arg::U64(out),
            Arg::U64(at),
            Arg::U32(stride as u32),
            Arg::U32(columns as u32),
        ];
        d.launch(
            "softmax",
            &config([rows as u32, 1], 128, 16),
            &with_scratch(&args),
        );
        let all = download_f32(d.gpu, out, rows * stride);
        let got: Vec<f32> = all
            .chunks_exact(stride)
            .flat_map(|r| &r[..columns])
            .copied()
            .collect();
        // The exponent goes up to 24 log2(e) = 35 with a relative error of
        // 2^-23, of which 35 * 2^-23 * ln 2 arrives in the result.
        d.close(&to_f64(&got), &want, |w| w * 4e-6);
        let gap = all.chunks_exact(stride).flat_map(|r| &r[columns..]);
        assert!(gap.clone().count() > 0 && gap.clone().all(|&v| v == -1.0));
    });
}

#[test]
fn layer_norm() {
    let (rows, columns) = (6, 600);
    let mut r = Random(4);
    let x: Vec<f16> = (0..rows * columns)
        .map(|_| f16::from_f32(3.0 * r.unit() + 1.0))
        .collect();
    let (weight, bias) = (r.units(columns), r.units(columns));
    let eps = 1e-5f32;
    let (mut want, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new());
    for row in x.chunks_exact(columns) {
        let v: Vec<f64> = row.iter().map(|x| x.to_f64()).collect();
        let mean = v.iter().sum::<f64>() / columns as f64;
        let variance = v.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / columns as f64;
        let rstd = 1.0 / (variance + f64::from(eps)).sqrt();
        for (i, x) in v.iter().enumerate() {
            want.push((x - mean) * rstd * f64::from(weight[i]) + f64::from(bias[i]));
        }
        means.push(mean);
        rstds.push(rstd);
    }
    let codes: Vec<u16> = x.iter().map(|v| v.to_bits()).collect();
    let ptx = include_str!("triton_layer_norm.ptx");
    on_every_device("triton_layer_norm", ptx, |d| {
        let (out, mean, rstd) = (
            d.alloc(2 * rows * columns),
            d.alloc(4 * rows),
            d.alloc(4 * rows),
        );
        let args = [
            Arg::U64(out),
            Arg::U64(mean),
            Arg::U64(rstd),
            Arg::U64(d.upload_u16(&codes)),
            Arg::U64(upload_f32(d.gpu, &weight)),
            Arg::U64(upload_f32(d.gpu, &bias)),
            Arg::U32(columns as u32),
            Arg::U32(eps.to_bits()),
        ];
        d.launch(
            "layer_norm",
            &config([rows as u32, 1], 128, 512),
            &with_scratch(&args),
        );
        let got: Vec<f64> = d
            .download_u16(out, rows * columns)
            .iter()
            .map(|&c| f16::from_bits(c).to_f64())
            .collect();
        // FP16 rounds by 2^-11; FP32 sums of 600 terms add far less.
        d.close(&got, &want, |w| w.abs() / 2000.0 + 1e-5);
        d.close(&to_f64(&download_f32(d.gpu, mean, rows)), &means, |_| 1e-5);
        d.close(&to_f64(&download_f32(d.gpu, rstd, rows)), &rstds, |_| 1e-5);
    });
}

/// Causal attention in `f64` over FP16 inputs, and the base-2 logarithm of each
/// row's sum of exponentials.
fn attention_reference(
    [q, k, v]: [&[f16]; 3],
    [heads, length, dim]: [usize; 3],
    scale: f64,
) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for h in 0..heads {
        let row = |x: &[f16], i: usize| -> Vec<f64> {
            let at = (h * length + i) * dim;
            x[at..at + dim].iter().map(|v| v.to_f64()).collect()
        };
        for i in 0..length {
            let query = row(q, i);
            let scores: Vec<f64> = (0..=i)
                .map(|j| query.iter().zip(row(k, j)).map(|(a, b)| a * b).sum::<f64>() * scale)
                .collect();
            let total: f64 = scores.iter().map(|s| s.exp()).sum();
            let mut sum = vec![0.0; dim];
            for (j, s) in scores.iter().enumerate() {
                for (o, x) in sum.iter_mut().zip(row(v, j)) {
                    *o += s.exp() / total * x;
                }
            }
            out.extend(sum);
            lse.push(total.log2());
        }
    }
    (out, lse)
}

fn attention(name: &str, ptx: &str, block_m: usize, threads: u32, dynamic_smem: u32) -> u64 {
    // A length that no tile divides.
    let shape @ [heads, length, dim] = [2usize, 150, 64];
    let mut r = Random(5);
    let mut draw = |scale: f32| -> Vec<f16> {
        (0..heads * length * dim)
            .map(|_| f16::from_f32(scale * r.unit()))
            .collect()
    };
    let (q, k, v) = (draw(4.0), draw(1.0), draw(1.0));
    let scale = 0.125;
    let (want, want_lse) = attention_reference([&q, &k, &v], shape, scale);
    let bits = |x: &[f16]| -> Vec<u16> { x.iter().map(|v| v.to_bits()).collect() };
    let products = std::cell::Cell::new(0);
    on_every_device(name, ptx, |d: &Device<'_>| {
        let (out, lse) = (d.alloc(2 * want.len()), d.alloc(4 * want_lse.len()));
        let args = [
            Arg::U64(out),
            Arg::U64(lse),
            Arg::U64(d.upload_u16(&bits(&q))),
            Arg::U64(d.upload_u16(&bits(&k))),
            Arg::U64(d.upload_u16(&bits(&v))),
            Arg::U32(length as u32),
            Arg::U32((scale as f32).to_bits()),
        ];
        let grid = [length.div_ceil(block_m) as u32, heads as u32];
        let stats = d.launch(
            "attention",
            &config(grid, threads, dynamic_smem),
            &with_scratch(&args),
        );
        products.set(stats.wgmma);
        let got: Vec<f64> = d
            .download_u16(out, want.len())
            .iter()
            .map(|&c| f16::from_bits(c).to_f64())
            .collect();
        // Probabilities and results are rounded to FP16, each by 2^-11 of a
        // value of at most one.
        d.close(&got, &want, |_| 1e-3);
        d.close(
            &to_f64(&download_f32(d.gpu, lse, want_lse.len())),
            &want_lse,
            |_| 1e-4,
        );
    });
    products.get()
}

#[test]
fn attention_on_wgmma() {
    let ptx = include_str!("triton_attention.ptx");
    assert!(attention("triton_attention", ptx, 64, 128, 40960) > 0);
}

#[test]
fn attention_on_mma_sync() {
    let ptx = include_str!("triton_attention_mma.ptx");
    assert!(ptx.contains("mma.sync.aligned.m16n8k16"));
    assert_eq!(attention("triton_attention_mma", ptx, 32, 64, 22528), 0);
}

#[test]
fn block_scaled_fp8_gemm() {
    let ptx = include_str!("triton_fp8_gemm.ptx");
    for exact in [true, false] {
        let g = ScaledGemm::new(100, 192, 384, exact);
        on_every_device("triton_fp8_gemm", ptx, |d| {
            let out = d.alloc(2 * g.m * g.n);
            let args = [
                Arg::U64(out),
                Arg::U64(upload(d.gpu, &g.a)),
                Arg::U64(upload_f32(d.gpu, &g.a_scale)),
                Arg::U64(upload(d.gpu, &g.b)),
                Arg::U64(upload_f32(d.gpu, &g.b_scale)),
                Arg::U32(g.m as u32),
                Arg::U32(g.n as u32),
                Arg::U32(g.k as u32),
            ];
            let grid = [g.m.div_ceil(64) as u32, (g.n / 64) as u32];
            let stats = d.launch("fp8_gemm", &config(grid, 128, 49152), &with_scratch(&args));
            assert!(stats.wgmma > 0);
            let got: Vec<f64> = d
                .download_u16(out, g.m * g.n)
                .iter()
                .map(|&c| bf16::from_bits(c).to_f64())
                .collect();
            // BF16 keeps eight bits and rounds the rest.
            g.check(d, &got, exact, 1.0 / 256.0);
        });
    }
}
