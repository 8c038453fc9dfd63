//! What nvcc made: softmax, clusters with distributed shared memory, pipelines
//! of bulk copies, warp-wide operations, atomics, and two matrix products, of
//! the Ampere and of the Hopper kind.

use half::f16;
use mcc_sim::{LaunchConfig, Swizzle, TensorElem, TensorMap};

use super::common::{Arg, download_f32, download_u32, upload, upload_f32, upload_u32};
use super::{Random, ScaledGemm, config, on_every_device, softmax_reference, to_f64};

#[test]
fn softmax() {
    let (rows, columns) = (5, 777);
    let x: Vec<f32> = Random(3)
        .units(rows * columns)
        .iter()
        .map(|v| 12.0 * v)
        .collect();
    let want = softmax_reference(&x, columns);
    on_every_device("cuda_softmax", include_str!("cuda_softmax.ptx"), |d| {
        let out = d.alloc(4 * x.len());
        let at = upload_f32(d.gpu, &x);
        let args = [Arg::U64(out), Arg::U64(at), Arg::U32(columns as u32)];
        d.launch("softmax", &LaunchConfig::new(rows as u32, 256), &args);
        // expf errs by 2 units in the last place and the division by a half.
        d.close(&to_f64(&download_f32(d.gpu, out, x.len())), &want, |w| {
            w * 1e-6
        });
    });
}

#[test]
fn cluster_reduction_in_distributed_shared_memory() {
    let (clusters, per_cluster) = (3usize, 1000);
    let mut r = Random(8);
    let x: Vec<u32> = (0..clusters * per_cluster).map(|_| r.next()).collect();
    let sums: Vec<u64> = x
        .chunks_exact(per_cluster)
        .map(|c| c.iter().map(|&v| u64::from(v)).sum())
        .collect();
    let mut bins = vec![0u32; 64];
    x.iter().for_each(|v| bins[*v as usize % 64] += 1);
    let ptx = include_str!("cuda_cluster_reduce.ptx");
    on_every_device("cuda_cluster_reduce", ptx, |d| {
        let (out, counts) = (d.alloc(8 * clusters), d.zeros(4 * bins.len()));
        let args = [
            Arg::U64(out),
            Arg::U64(counts),
            Arg::U64(upload_u32(d.gpu, &x)),
            Arg::U32(per_cluster as u32),
        ];
        let cfg = LaunchConfig {
            cluster: [4, 1, 1],
            ..LaunchConfig::new(4 * clusters as u32, 128)
        };
        d.launch("cluster_reduce", &cfg, &args);
        assert_eq!(d.download_u64(out, clusters), sums, "{}", d.what);
        assert_eq!(download_u32(d.gpu, counts, bins.len()), bins, "{}", d.what);
    });
}

#[test]
fn pipeline_of_bulk_copies() {
    // Eleven chunks for two blocks: six and five, with three stages.
    let n = 11 * 512;
    let mut r = Random(9);
    let (x, y) = (r.units(n), r.units(n));
    let a = 1.75f32;
    let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| a.mul_add(*x, *y)).collect();
    let ptx = include_str!("cuda_bulk_pipeline.ptx");
    on_every_device("cuda_bulk_pipeline", ptx, |d| {
        let out = d.alloc(4 * n);
        let args = [
            Arg::U64(out),
            Arg::U64(upload_f32(d.gpu, &x)),
            Arg::U64(upload_f32(d.gpu, &y)),
            Arg::U32(a.to_bits()),
            Arg::U32(n as u32),
        ];
        let stats = d.launch("bulk_pipeline", &LaunchConfig::new(2, 128), &args);
        assert_eq!(stats.bulk_bytes, 3 * 4 * n as u64);
        assert_eq!(download_f32(d.gpu, out, n), want, "{}", d.what);
    });
}

#[test]
fn gemm_on_mma_sync() {
    let (m, n, k) = (128usize, 64, 160);
    let ptx = include_str!("cuda_mma_gemm.ptx");
    for exact in [true, false] {
        let mut r = Random(10);
        let mut draw = |count: usize| -> Vec<f16> {
            let mut one = || {
                if exact {
                    r.below(17) as f32 - 8.0
                } else {
                    r.unit()
                }
            };
            (0..count).map(|_| f16::from_f32(one())).collect()
        };
        let (a, b) = (draw(m * k), draw(k * n));
        let mut want = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let terms = (0..k).map(|t| a[i * k + t].to_f64() * b[t * n + j].to_f64());
                want.push(terms.sum::<f64>());
            }
        }
        let bits = |x: &[f16]| -> Vec<u16> { x.iter().map(|v| v.to_bits()).collect() };
        on_every_device("cuda_mma_gemm", ptx, |d| {
            let out = d.alloc(4 * m * n);
            let args = [
                Arg::U64(out),
                Arg::U64(d.upload_u16(&bits(&a))),
                Arg::U64(d.upload_u16(&bits(&b))),
                Arg::U32(m as u32),
                Arg::U32(n as u32),
                Arg::U32(k as u32),
            ];
            // Two stages of 64 x 40 and 32 x 72 halves.
            let smem = 2 * 2 * (64 * 40 + 32 * 72);
            let cfg = config([(n / 64) as u32, (m / 64) as u32], 128, smem);
            d.launch("mma_gemm", &cfg, &args);
            let got = to_f64(&download_f32(d.gpu, out, m * n));
            // Ten instructions, each of which cuts a sum of at most 160 to 24
            // bits and loses 17 terms' last places two bits below those.
            let limit = if exact {
                0.0
            } else {
                10.0 * 160.0 * 6.0 / f64::from(1 << 24)
            };
            d.close(&got, &want, |_| limit);
        });
    }
}

#[test]
fn block_scaled_fp8_gemm_on_tma_and_wgmma() {
    let ptx = include_str!("cuda_fp8_gemm.ptx");
    for exact in [true, false] {
        // Five blocks of K in three stages, so that stages are used again.
        let g = ScaledGemm::new(64, 192, 640, exact);
        on_every_device("cuda_fp8_gemm", ptx, |d| {
            let map = |data: &[u8], rows: usize| {
                let map = TensorMap {
                    elem: TensorElem::U8,
                    global_address: upload(d.gpu, data),
                    dims: vec![g.k as u64, rows as u64],
                    strides: vec![g.k as u64],
                    box_dims: vec![128, 64],
                    elem_strides: vec![1, 1],
                    swizzle: Swizzle::B128,
                    oob_nan: false,
                };
                Arg::Bytes(map.encode().expect("legal").to_vec())
            };
            let out = d.alloc(4 * g.m * g.n);
            let args = [
                Arg::U64(out),
                map(&g.a, g.m),
                map(&g.b, g.n),
                Arg::U64(upload_f32(d.gpu, &g.a_scale)),
                Arg::U64(upload_f32(d.gpu, &g.b_scale)),
                Arg::U32(g.n as u32),
                Arg::U32(g.k as u32),
            ];
            // Three stages of two tiles of 8 KB, and the barriers.
            let cfg = config(
                [(g.m / 64) as u32, (g.n / 64) as u32],
                160,
                3 * 16384 + 1024,
            );
            let stats = d.launch("fp8_gemm", &cfg, &args);
            assert_eq!(stats.wgmma_macs, (g.m * g.n * g.k) as u64);
            let got = to_f64(&download_f32(d.gpu, out, g.m * g.n));
            g.check(d, &got, exact, if exact { 0.0 } else { 1e-6 });
        });
    }
}

#[test]
fn warp_wide_operations() {
    let (blocks, threads) = (2u32, 96u32);
    let mut r = Random(11);
    let x: Vec<u32> = (0..blocks * threads).map(|_| r.below(1024)).collect();
    let mut want = Vec::new();
    for (w, warp) in x.chunks_exact(32).enumerate() {
        let ballot = |f: &dyn Fn(u32) -> bool| {
            (0..32)
                .filter(|&l| f(warp[l]))
                .fold(0u32, |m, l| m | 1 << l)
        };
        let even = ballot(&|v| v % 2 == 0);
        for (l, &v) in warp.iter().enumerate() {
            let mut o = [0u32; 16];
            o[0] = warp[v as usize % 32];
            // Segments of 16 lanes, and of 8.
            o[1] = if l % 16 >= 3 { warp[l - 3] } else { v };
            o[2] = if l % 8 + 5 < 8 { warp[l + 5] } else { v };
            o[3] = warp[l ^ 9];
            o[4] = warp[l ^ 1] ^ (32 * w + (l ^ 1)) as u32;
            o[5] = ballot(&|v| v % 3 == 0);
            let odd = ballot(&|v| v % 2 == 1);
            o[6] = u32::from(warp.iter().any(|v| v % 64 == 7))
                | u32::from(warp.iter().all(|&v| v < 1000)) << 1
                | u32::from(odd == 0 || odd == u32::MAX) << 2;
            o[7] = ballot(&|u| u % 4 == v % 4);
            // All values are below 1024.
            o[8] = u32::MAX ^ 1;
            o[9] = warp.iter().sum();
            o[10] = warp.iter().map(|&v| v as i32 - 500).min().unwrap_or(0) as u32;
            let all_bits = warp.iter().fold(0, |a, b| a ^ b);
            o[11] = warp.iter().copied().max().unwrap_or(0) ^ all_bits;
            if v % 2 == 0 {
                o[12] = even.count_ones();
                o[13] = even;
                o[14] = warp[even.trailing_zeros() as usize];
            } else {
                o[12] = 1000;
            }
            o[15] = warp[..=l].iter().sum();
            want.extend(o);
        }
    }
    on_every_device("cuda_warp_ops", include_str!("cuda_warp_ops.ptx"), |d| {
        let out = d.alloc(4 * want.len());
        let args = [Arg::U64(out), Arg::U64(upload_u32(d.gpu, &x))];
        d.launch("warp_ops", &LaunchConfig::new(blocks, threads), &args);
        let got = download_u32(d.gpu, out, want.len());
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            let (thread, word) = (i / 16, i % 16);
            assert_eq!(g, w, "{}: word {word} of thread {thread}", d.what);
        }
    });
}

#[test]
fn atomics_and_the_last_block() {
    let (blocks, n) = (7u32, 1500usize);
    let mut r = Random(12);
    let x: Vec<u32> = (0..n).map(|_| r.below(1 << 20)).collect();
    let mut bins = vec![0u32; 32];
    x.iter().for_each(|v| bins[*v as usize % 32] += 1);
    let wide = |f: &dyn Fn(u64) -> u64| -> Vec<u64> { x.iter().map(|&v| f(v.into())).collect() };
    let sum: u64 = wide(&|v| v).iter().sum();
    let odd = x.iter().filter(|v| *v % 2 == 1).count() as i32;
    // The fields of `Totals` in words.
    let start: [u32; 16] = {
        let mut t = [0; 16];
        t[1] = u32::MAX;
        t[3] = u32::MAX;
        let one = 2f64.powi(-800).to_bits();
        (t[14], t[15]) = (one as u32, (one >> 32) as u32);
        t
    };
    on_every_device("cuda_atomics", include_str!("cuda_atomics.ptx"), |d| {
        let (totals, counts) = (upload_u32(d.gpu, &start), d.zeros(4 * 32));
        let (partial, total) = (d.alloc(8 * blocks as usize), d.alloc(8));
        let args = [
            Arg::U64(totals),
            Arg::U64(counts),
            Arg::U64(partial),
            Arg::U64(total),
            Arg::U64(upload_u32(d.gpu, &x)),
            Arg::U32(n as u32),
        ];
        d.launch("atomics", &LaunchConfig::new(blocks, 64), &args);
        let t = download_u32(d.gpu, totals, 16);
        let what = &d.what;
        assert_eq!(
            t[0],
            x.iter().fold(0u32, |a, &v| a.wrapping_add(v)),
            "{what}: add"
        );
        assert_eq!(Some(t[1]), x.iter().copied().min(), "{what}: min");
        assert_eq!(Some(t[2]), x.iter().copied().max(), "{what}: max");
        assert_eq!(
            t[3],
            x.iter().fold(u32::MAX, |a, v| a & (v | 0xff00_ff00)),
            "{what}: and"
        );
        assert_eq!(
            t[4],
            x.iter().fold(0, |a, v| a | (v & 0x00ff_ff00)),
            "{what}: or"
        );
        assert_eq!(t[5], x.iter().fold(0, |a, v| a ^ v), "{what}: xor");
        assert_eq!(t[6], n as u32 % 100, "{what}: inc");
        assert!(t[7] >= 1 && t[7] <= n as u32, "{what}: exch");
        let words = d.download_u64(totals + 32, 2);
        assert_eq!(words[0], sum << 20, "{what}: 64-bit add");
        assert_eq!(
            Some(words[1]),
            wide(&|v| v << 30).into_iter().max(),
            "{what}: 64-bit max"
        );
        let small: u32 = x.iter().map(|v| v % 8).sum();
        assert_eq!(f32::from_bits(t[12]), small as f32, "{what}: float add");
        assert_eq!(
            Some(t[13] as i32),
            x.iter()
                .map(|&v| v as i32 - 1_000_000)
                .min()
                .map(|v| v.min(0))
        );
        let product = f64::from_bits(u64::from(t[14]) | u64::from(t[15]) << 32);
        assert_eq!(product, 2f64.powi(odd - 800), "{what}: compare and swap");
        assert_eq!(download_u32(d.gpu, counts, 32), bins, "{what}: histogram");
        assert_eq!(
            d.download_u64(total, 1),
            [sum],
            "{what}: the last block's sum"
        );
        let (finished, _) = d
            .module
            .global("finished")
            .expect("a variable of the module");
        assert_eq!(download_u32(d.gpu, finished, 1), [0]);
    });
}
