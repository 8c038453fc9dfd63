//! `rms_norm`: `y = x / sqrt(mean(x²) + eps) * w`, with an optional residual before and quantisation behind.
//!
//! Meaning: `rms_norm`, `add_rms_norm`, `rms_norm_quantize`, `add_rms_norm_quantize`. The residual sum is
//! rounded to BF16 before it is normed and quantisation sees the BF16 result, as the plain ops would. The
//! mean of squares is summed in FP32 by a butterfly over lanes: its order is not the reference's.

use mcc_ir::kernel::RmsNorm;

use super::row::{QuantRow, RowShape, bf16_at, block_sum, load8, pack8, round8};
use super::{Family, Params};
use crate::emit::pipeline::SmemMap;
use crate::emit::{F32, Kernel, Val};
use crate::error::CodegenError;

/// Checks the config and builds the family.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn family<'a>(name: &str, c: &'a RmsNorm) -> Result<Family<'a>, CodegenError> {
    let shape = RowShape::new(name, c.width)?;
    let mut p = Params::default();
    let x = p.matrix();
    let residual = c.residual.then(|| p.matrix());
    let weight = p.pointer();
    let sum = c.emit_sum.then(|| p.matrix());
    let norm = c.emit_norm.then(|| p.matrix());
    let quant = c.emit_quant.then(|| (p.matrix(), p.scales()));
    let mut smem = SmemMap::default();
    let scratch = smem.reserve(4 * shape.threads / 32, 4);
    let launch = shape.launch(0, smem, p.list);

    let body = move |k: &Kernel| {
        let row = k.block_x();
        let at = |m: super::MatrixArg, i: u32| {
            bf16_at(
                k.arg_global(m.pointer),
                row,
                k.arg_i32(m.stride),
                shape.chunk(k, i) * 8,
            )
        };
        let zero = k.f32(0.0);
        let mut values: Vec<[Val<'_, F32>; 8]> = Vec::new();
        let mut squares = zero;
        for i in 0..shape.chunks() {
            let chunk = shape.chunk(k, i);
            let v = [zero; 8].map(|z| k.var(z));
            shape.inside(k, i, chunk, || {
                let mut x8 = load8(at(x, i));
                if let Some(r) = residual {
                    let r8 = load8(at(r, i));
                    x8 = round8(k, &std::array::from_fn(|j| x8[j] + r8[j]));
                }
                if let Some(s) = sum {
                    at(s, i).store_vec(pack8(k, &x8));
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
        if norm.is_none() && quant.is_none() {
            return;
        }
        let total = block_sum(k, shape.threads, k.smem().offset(scratch), squares);
        let inverse = k.f32(1.0) / (total / c.width as f32 + c.eps).sqrt();
        for (i, v) in values.iter().enumerate() {
            let i = i as u32;
            let chunk = shape.chunk(k, i);
            let y = [zero; 8].map(|z| k.var(z));
            shape.inside(k, i, chunk, || {
                let w = load8(k.arg_global(weight).index(chunk, 16));
                let packed = pack8(k, &std::array::from_fn(|j| v[j] * inverse * w[j]));
                if let Some(n) = norm {
                    at(n, i).store_vec(packed);
                }
                let pairs = packed.map(Val::unpack_bf16x2);
                for (j, y) in y.iter().enumerate() {
                    y.set(pairs[j / 2][j % 2]);
                }
            });
            if let Some((codes, scales)) = quant {
                QuantRow::of(k, codes, scales, row).store(k, shape, i, &y.map(|y| y.get()));
            }
        }
    };
    Ok(Family::new(launch, body))
}
