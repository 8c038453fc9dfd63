//! Kernels that other compilers made: nvcc from CUDA C++, Triton from Python.
//!
//! `foreign/` has the sources and the PTX made of them (its README says how).
//! Each kernel runs under every order of asynchronous completion, with and
//! without the checks for races, and its results are held against a plain
//! computation in `f64` or in integers that knows nothing of the kernel.
//!
//! That the PTX is still what the compilers make is a test of xtask.

mod common;

#[path = "foreign/cuda.rs"]
mod cuda;
#[path = "foreign/math.rs"]
mod math;
#[path = "foreign/triton.rs"]
mod triton;
#[path = "foreign/triton_engines.rs"]
mod triton_engines;

use common::{ALL, Arg, launch_kernel};
use mcc_sim::{Gpu, GpuConfig, LaunchConfig, LaunchStats, Module, SimError};

/// Runs `case` on a fresh device for every order of completion, without and
/// with the checks.
fn on_every_device(name: &str, ptx: &str, case: impl Fn(&Device<'_>)) {
    on_devices(name, ptx, &[false, true], case);
}

/// Runs `case` for every order of completion, with the checks or without.
fn on_devices(name: &str, ptx: &str, checks: &[bool], case: impl Fn(&Device<'_>)) {
    for completion in ALL {
        for &check in checks {
            let gpu = Gpu::new(GpuConfig {
                completion,
                check,
                threads: 2,
                ..GpuConfig::default()
            });
            let module = gpu
                .load_module(ptx)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let what = format!("{name}, {completion:?}, check: {check}");
            case(&Device {
                gpu: &gpu,
                module: &module,
                what,
            });
        }
    }
}

/// A device with one foreign module on it.
struct Device<'a> {
    gpu: &'a Gpu,
    module: &'a Module,
    /// The case, for messages.
    what: String,
}

impl Device<'_> {
    fn launch(&self, kernel: &str, cfg: &LaunchConfig, args: &[Arg]) -> LaunchStats {
        self.try_launch(kernel, cfg, args)
            .unwrap_or_else(|e| panic!("{}: {e}", self.what))
    }

    fn try_launch(
        &self,
        kernel: &str,
        cfg: &LaunchConfig,
        args: &[Arg],
    ) -> Result<LaunchStats, SimError> {
        launch_kernel(self.gpu, self.module, kernel, cfg, args)
    }

    fn alloc(&self, bytes: usize) -> u64 {
        self.gpu.alloc(bytes as u64, 256).expect("memory")
    }

    /// Memory that a kernel adds to. What only [`Device::alloc`] has made holds
    /// nothing, as after `cudaMalloc`.
    fn zeros(&self, bytes: usize) -> u64 {
        common::upload(self.gpu, &vec![0; bytes])
    }

    fn upload_u16(&self, data: &[u16]) -> u64 {
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        common::upload(self.gpu, &bytes)
    }

    fn download_u16(&self, at: u64, len: usize) -> Vec<u16> {
        let bytes = common::download(self.gpu, at, 2 * len);
        let pairs = bytes.chunks_exact(2);
        pairs.map(|c| u16::from_le_bytes([c[0], c[1]])).collect()
    }

    fn download_u64(&self, at: u64, len: usize) -> Vec<u64> {
        let words = common::download_u32(self.gpu, at, 2 * len);
        let pairs = words.chunks_exact(2);
        pairs
            .map(|c| u64::from(c[0]) | u64::from(c[1]) << 32)
            .collect()
    }

    /// Fails on the first result farther from what it should be than
    /// `tolerance` says for it.
    fn close(&self, got: &[f64], want: &[f64], tolerance: impl Fn(f64) -> f64) {
        assert_eq!(got.len(), want.len());
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            let limit = tolerance(w);
            assert!(
                (g - w).abs() <= limit,
                "{}: result {i} is {g}, not {w} within {limit}",
                self.what
            );
        }
    }
}

fn config(grid: [u32; 2], block: u32, dynamic_smem: u32) -> LaunchConfig {
    LaunchConfig {
        grid: [grid[0], grid[1], 1],
        dynamic_smem,
        ..LaunchConfig::new(1, block)
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn below(&mut self, n: u32) -> u32 {
        self.next() % n
    }

    /// In [-1, 1), on a grid of 2^-23.
    fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

fn to_f64(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&x| f64::from(x)).collect()
}

/// Softmax of rows, for the kernels of both compilers.
fn softmax_reference(x: &[f32], columns: usize) -> Vec<f64> {
    x.chunks_exact(columns)
        .flat_map(|row| {
            let top = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            let e: Vec<f64> = row.iter().map(|&v| f64::from(v - top).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(move |v| v / sum)
        })
        .collect()
}

/// A block-scaled FP8 product: the operands' codes and scales, and the result.
struct ScaledGemm {
    m: usize,
    n: usize,
    k: usize,
    a: Vec<u8>,
    b: Vec<u8>,
    a_scale: Vec<f32>,
    b_scale: Vec<f32>,
    /// What comes out, and the sum of the terms' magnitudes.
    want: Vec<f64>,
    magnitude: Vec<f64>,
}

impl ScaledGemm {
    /// `exact` draws operands of which every partial sum is a small whole
    /// number, so that each way to add them up gives the same.
    fn new(m: usize, n: usize, k: usize, exact: bool) -> ScaledGemm {
        let mut r = Random(m as u64 * 7 + u64::from(exact));
        let code = |r: &mut Random| {
            if exact {
                // 0, 1, 2, -1, -2.
                [0x00, 0x38, 0x40, 0xb8, 0xc0][r.below(5) as usize]
            } else {
                // Any finite value below 16.
                (r.below(0x58) | r.below(2) << 7) as u8
            }
        };
        let scale = |r: &mut Random| {
            if exact {
                [0.5, 1.0, 2.0][r.below(3) as usize]
            } else {
                1.0 + r.unit() / 2.0
            }
        };
        let blocks = k / 128;
        let a: Vec<u8> = (0..m * k).map(|_| code(&mut r)).collect();
        let b: Vec<u8> = (0..n * k).map(|_| code(&mut r)).collect();
        let a_scale: Vec<f32> = (0..m * blocks).map(|_| scale(&mut r)).collect();
        let b_scale: Vec<f32> = (0..n.div_ceil(128) * blocks)
            .map(|_| scale(&mut r))
            .collect();
        let (mut want, mut magnitude) = (Vec::new(), Vec::new());
        for i in 0..m {
            for j in 0..n {
                let (mut sum, mut all) = (0.0, 0.0);
                for t in 0..k {
                    let s = f64::from(a_scale[i * blocks + t / 128])
                        * f64::from(b_scale[j / 128 * blocks + t / 128]);
                    let term = e4m3(a[i * k + t]) * e4m3(b[j * k + t]) * s;
                    sum += term;
                    all += term.abs();
                }
                want.push(sum);
                magnitude.push(all);
            }
        }
        ScaledGemm {
            m,
            n,
            k,
            a,
            b,
            a_scale,
            b_scale,
            want,
            magnitude,
        }
    }

    /// Holds a result against the reference. `rounding` is the relative error
    /// of the output's format.
    fn check(&self, device: &Device<'_>, got: &[f64], exact: bool, rounding: f64) {
        for (i, (&g, &w)) in got.iter().zip(&self.want).enumerate() {
            // The tensor core keeps 13 fraction bits of the largest of 33 terms
            // four times in each 128 of K, and each term loses less than one
            // unit: 33 * 2^-13 of a magnitude that the sum of all bounds.
            let sums = if exact {
                0.0
            } else {
                self.magnitude[i] * 33.0 / 8192.0
            };
            let limit = sums + w.abs() * rounding;
            assert!(
                (g - w).abs() <= limit,
                "{}: element {i} is {g}, not {w} within {limit}",
                device.what
            );
        }
        assert_eq!(got.len(), self.want.len());
    }
}

/// The value of an E4M3 code that is not a NaN (OCP 8-bit floating point).
fn e4m3(code: u8) -> f64 {
    let (e, f) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude = if e == 0 {
        f / 8.0 * 2f64.powi(-6)
    } else {
        (1.0 + f / 8.0) * 2f64.powi(e - 7)
    };
    if code & 0x80 != 0 {
        -magnitude
    } else {
        magnitude
    }
}
