//! `rms_norm`: `y = x / sqrt(mean(x²) + eps) * w`, with an optional residual before and quantisation behind.
//!
//! Meaning: `rms_norm`, `add_rms_norm`, `rms_norm_quantize`, `add_rms_norm_quantize`. The residual sum is
//! rounded to BF16 before it is normed and quantisation sees the BF16 result, as the plain ops would. The
//! mean of squares is summed in FP32 by a butterfly over lanes: its order is not the reference's.
//!
//! `Norm` is the part that other families end with, too.

use mcc_ir::kernel::{Normed, RmsNorm};

use super::params::chunk_at;
use super::row::{QuantRow, RowShape, block_sum, load8, pack8, round8};
use super::{Family, MatrixArg, Params, ScalesArg};
use crate::emit::pipeline::SmemMap;
use crate::emit::{F32, I32, Kernel, Val};
use crate::error::CodegenError;

/// Checks the config and builds the family.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn family<'a>(name: &str, c: &'a RmsNorm) -> Result<Family<'a>, CodegenError> {
    let shape = RowShape::new(name, c.width)?;
    let mut p = Params::default();
    let mut smem = SmemMap::default();
    let x = p.matrix();
    let residual = c.residual.then(|| p.matrix());
    let norm = Norm::new(c.normed(), shape, &mut p, &mut smem);
    let launch = shape.launch(0, smem, p.list);

    let body = move |k: &Kernel| {
        let row = k.block_x();
        norm.emit(k, row, |chunk| {
            let x8 = load8(chunk_at(k, x, row, chunk));
            match residual {
                Some(r) => {
                    let r8 = load8(chunk_at(k, r, row, chunk));
                    round8(k, &std::array::from_fn(|j| x8[j] + r8[j]))
                }
                None => x8,
            }
        });
    };
    Ok(Family::new(launch, body))
}

/// The norm of rows that a kernel has in registers, and where it goes.
pub(super) struct Norm {
    normed: Normed,
    shape: RowShape,
    weight: usize,
    sum: Option<MatrixArg>,
    norm: Option<MatrixArg>,
    quant: Option<(MatrixArg, ScalesArg)>,
    /// Shared memory for the sum over warps.
    scratch: u32,
}

impl Norm {
    /// Takes the next operands: the weight, then those written.
    pub fn new(normed: Normed, shape: RowShape, p: &mut Params, smem: &mut SmemMap) -> Self {
        Self {
            normed,
            shape,
            weight: p.pointer(),
            sum: normed.emit_sum.then(|| p.matrix()),
            norm: normed.emit_norm.then(|| p.matrix()),
            quant: normed.emit_quant.then(|| (p.matrix(), p.scales())),
            scratch: smem.reserve(4 * shape.threads / 32, 4),
        }
    }

    /// Norms row `row`, of which `value` has the BF16 values of a chunk. All threads of the block call it together.
    pub fn emit<'k>(
        &self,
        k: &'k Kernel,
        row: Val<'k, I32>,
        value: impl Fn(Val<'k, I32>) -> [Val<'k, F32>; 8],
    ) {
        let shape = self.shape;
        let at = |m: MatrixArg, chunk: Val<'k, I32>| chunk_at(k, m, row, chunk);
        let zero = k.f32(0.0);
        let mut values: Vec<[Val<'_, F32>; 8]> = Vec::new();
        let mut squares = zero;
        for i in 0..shape.chunks() {
            let chunk = shape.chunk(k, i);
            let v = [zero; 8].map(|z| k.var(z));
            shape.inside(k, i, chunk, || {
                let x8 = value(chunk);
                if let Some(s) = self.sum {
                    at(s, chunk).store_vec(pack8(k, &x8));
                }
                for (v, x) in v.iter().zip(x8) {
                    v.set(x);
                }
            });
            let v = v.map(|v| v.get());
            for x in v {
                squares = x.fma(x, squares);
            }
            values.push(v);
        }
        if self.norm.is_none() && self.quant.is_none() {
            return;
        }
        let total = block_sum(k, shape.threads, k.smem().offset(self.scratch), squares);
        let mean = total / shape.width as f32;
        let inverse = k.f32(1.0) / (mean + self.normed.eps).sqrt();
        for (i, v) in values.iter().enumerate() {
            let i = i as u32;
            let chunk = shape.chunk(k, i);
            let y = [zero; 8].map(|z| k.var(z));
            shape.inside(k, i, chunk, || {
                let w = load8(k.arg_global(self.weight).index(chunk, 16));
                let packed = pack8(k, &std::array::from_fn(|j| v[j] * inverse * w[j]));
                if let Some(n) = self.norm {
                    at(n, chunk).store_vec(packed);
                }
                let pairs = packed.map(Val::unpack_bf16x2);
                for (j, y) in y.iter().enumerate() {
                    y.set(pairs[j / 2][j % 2]);
                }
            });
            if let Some((codes, scales)) = self.quant {
                QuantRow::of(k, codes, scales, row).store(k, shape, i, &y.map(|y| y.get()));
            }
        }
    }
}
