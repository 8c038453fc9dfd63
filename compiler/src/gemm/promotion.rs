//! The promotion experiment: how far a product on FP8 tensor cores is from the exact one, against K and the interval
//! at which partial sums are promoted to FP32.
//!
//! In: values of K and intervals. Out: a [`Point`] for each, and kind of data. Every point is a run of the generated
//! `gemm_fp8` kernel of that interval on the simulated device, with scales of 1 and an FP32 result, against the
//! product in double precision. That product is exact: products of two E4M3 values are multiples of 2^-18 below 2^18,
//! so that 2^17 of them still add up within 53 bits. Holds: equal input gives equal points.

use mcc_codegen::Codegen;
use mcc_ir::eval::Rng;
use mcc_ir::kernel::{Epilogue, GemmForm, GemmFp8, GemmTile, KernelConfig, NO_PROMOTION};
use mcc_ir::numerics::{e4m3_encode, e4m3_value};
use mcc_ir::types::DType;
use serde::Serialize;

use super::one_kernel;
use crate::error::Error;

/// Rows and columns of a product.
pub const SIDE: usize = 48;
/// Intervals, the longest first.
pub const INTERVALS: [u32; 6] = [NO_PROMOTION, 512, 256, 128, 64, 32];

/// What the operands are drawn from; they are rounded to E4M3 without a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// Uniform in `[0, 1)`: all products have one sign, and what is cut off adds up.
    Uniform,
    /// Normal with deviation 1: the signs cancel.
    Normal,
}

impl Data {
    /// Which error is meant.
    #[must_use]
    pub const fn measure(self) -> &'static str {
        match self {
            Self::Uniform => "uniform [0, 1): median relative error",
            Self::Normal => "normal: largest error over rms of the result",
        }
    }
}

/// One measured error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Kind of data.
    pub data: Data,
    /// Depth.
    pub k: u32,
    /// Interval, 0 for none.
    pub promote: u32,
    /// [`Data::measure`] of it.
    pub error: f64,
    /// What the specification's table has here (`spec/deepseek-v3.md`, section 6.3).
    pub published: Option<f64>,
}

/// The published table: data, K, and the errors in the order of [`INTERVALS`].
const PUBLISHED: [(Data, u32, [f64; 6]); 3] = [
    (
        Data::Uniform,
        4096,
        [6.6e-2, 5.2e-3, 1.7e-3, 5.0e-4, 1.4e-4, 4.0e-5],
    ),
    (
        Data::Normal,
        4096,
        [1.2e-2, 2.3e-3, 8.5e-4, 4.9e-4, 2.9e-4, 1.7e-4],
    ),
    (
        Data::Uniform,
        16384,
        [2.5e-1, 5.2e-3, 1.7e-3, 5.0e-4, 1.4e-4, 4.0e-5],
    ),
];

fn published(data: Data, k: u32, promote: u32) -> Option<f64> {
    let (.., errors) = PUBLISHED
        .iter()
        .find(|(d, depth, _)| (*d, *depth) == (data, k))?;
    let at = INTERVALS.iter().position(|p| *p == promote)?;
    errors.get(at).copied()
}

/// Operands of a product of this depth, and the product.
struct Problem {
    data: Data,
    k: u32,
    a: Vec<u8>,
    b: Vec<u8>,
    exact: Vec<f64>,
}

impl Problem {
    fn new(data: Data, k: u32) -> Self {
        let mut rng = Rng::new(u64::from(k) << 1 | u64::from(data == Data::Normal));
        let mut draw = || {
            let value = |rng: &mut Rng| match data {
                Data::Uniform => rng.unit(),
                Data::Normal => rng.normal(),
            };
            (0..SIDE * k as usize)
                .map(|_| e4m3_encode(value(&mut rng)))
                .collect::<Vec<u8>>()
        };
        let (a, b) = (draw(), draw());
        let values = |codes: &[u8]| -> Vec<f64> {
            codes.iter().map(|c| f64::from(e4m3_value(*c))).collect()
        };
        let (left, right) = (values(&a), values(&b));
        let mut exact = Vec::with_capacity(SIDE * SIDE);
        for row in left.chunks_exact(k as usize) {
            for column in right.chunks_exact(k as usize) {
                exact.push(row.iter().zip(column).map(|(x, y)| x * y).sum());
            }
        }
        Self {
            data,
            k,
            a,
            b,
            exact,
        }
    }

    /// The kernel's product.
    fn run(&self, codegen: &Codegen, promote: u32) -> Result<Vec<f32>, Error> {
        let config = GemmFp8 {
            n: SIDE as u32,
            k: self.k,
            form: GemmForm::Dense,
            epilogue: Epilogue::Store,
            out: DType::F32,
            promote,
            tile: GemmTile::new(64, 16, 4),
        };
        let blocks = self.k.div_ceil(config.scale_group()) as usize;
        let ones = |count: usize| 1.0_f32.to_le_bytes().repeat(count);
        let (a_scales, b_scales) = (ones(SIDE * blocks), ones(blocks));
        let outputs = one_kernel::run(
            codegen,
            &KernelConfig::GemmFp8(config),
            &[("M", SIDE as u64)],
            &[&self.a, &a_scales, &self.b, &b_scales],
        )?;
        let bytes = outputs.first().map_or(&[][..], Vec::as_slice);
        let words = bytes.as_chunks::<4>().0.iter();
        Ok(words.map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn error(&self, found: &[f32]) -> f64 {
        let pairs = || found.iter().zip(&self.exact);
        match self.data {
            Data::Uniform => {
                let mut errors: Vec<f64> = pairs()
                    .map(|(f, e)| (f64::from(*f) - e).abs() / e.abs())
                    .collect();
                errors.sort_by(f64::total_cmp);
                let middle = errors.len() / 2;
                errors[middle - 1..=middle].iter().sum::<f64>() / 2.0
            }
            Data::Normal => {
                let most = pairs()
                    .map(|(f, e)| (f64::from(*f) - e).abs())
                    .fold(0.0, f64::max);
                let squares: f64 = self.exact.iter().map(|e| e * e).sum();
                most / (squares / self.exact.len() as f64).sqrt()
            }
        }
    }
}

/// Measures every kind of data at every depth and interval.
///
/// # Errors
/// [`Error::Usage`] for a depth that the experiment is not made for; else what a kernel's build or run says.
pub fn measure(
    ks: &[u32],
    intervals: &[u32],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Point>, Error> {
    for k in ks {
        if !k.is_multiple_of(128) || !(128..=131_072).contains(k) {
            return Err(Error::Usage(format!(
                "K = {k}: a depth is a multiple of 128 from 128 to 131072, up to which the reference is exact"
            )));
        }
    }
    let codegen = Codegen::new();
    let all = 2 * ks.len() * intervals.len();
    let mut points = Vec::with_capacity(all);
    for data in [Data::Uniform, Data::Normal] {
        for &k in ks {
            let problem = Problem::new(data, k);
            for &promote in intervals {
                progress(points.len(), all);
                let found = problem.run(&codegen, promote)?;
                if found.len() != problem.exact.len() {
                    return Err(Error::Manifest(format!(
                        "the kernel wrote {} of {} results",
                        found.len(),
                        problem.exact.len()
                    )));
                }
                points.push(Point {
                    data,
                    k,
                    promote,
                    error: problem.error(&found),
                    published: published(data, k, promote),
                });
            }
        }
    }
    Ok(points)
}

/// Name of an interval in tables and legends.
#[must_use]
pub fn interval_name(promote: u32) -> String {
    match promote {
        NO_PROMOTION => "none".to_owned(),
        p => p.to_string(),
    }
}

/// The points of these depths as text, beside what is published.
#[must_use]
pub fn table(points: &[Point], ks: &[u32]) -> String {
    let mut text = String::new();
    for data in [Data::Uniform, Data::Normal] {
        for &k in ks {
            text.push_str(&format!("K = {k}, {}\n", data.measure()));
            text.push_str("  promoted every   measured  published  ratio\n");
            let of_k = |p: &&Point| p.data == data && p.k == k;
            for point in points.iter().filter(of_k) {
                let published = point.published.map_or_else(
                    || format!("{:>9}  {:>5}", "–", "–"),
                    |p| format!("{p:>9.1e}  {:>5.2}", point.error / p),
                );
                text.push_str(&format!(
                    "  {:>14}  {:>9.2e}  {published}\n",
                    interval_name(point.promote),
                    point.error
                ));
            }
        }
    }
    text
}
