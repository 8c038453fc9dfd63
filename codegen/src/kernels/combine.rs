//! `combine`: experts' rows back to their tokens, with what follows: a residual, a norm, its quantisation.
//!
//! Meaning: `combine`, `combine_sum`, `combine_add`, `combine_add_rms_norm_quantize`. FP32 sums in slot order, rounded
//! once; the sum with the residual is rounded again, as the plain ops would. Bit for bit up to the norm, whose mean of
//! squares has an order of its own (`rms_norm.rs`).

use mcc_ir::kernel::Combine;

use super::params::chunk_at;
use super::rms_norm::Norm;
use super::row::{RowShape, load8, pack8, round8};
use super::{Family, MatrixArg, Params};
use crate::emit::pipeline::SmemMap;
use crate::emit::{F32, I32, Kernel, Val};
use crate::error::CodegenError;

/// Checks the config and builds the family.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn family<'a>(name: &str, c: &'a Combine) -> Result<Family<'a>, CodegenError> {
    let shape = RowShape::new(name, c.width)?;
    let mut p = Params::default();
    let mut smem = SmemMap::default();
    let y = p.matrix();
    let slots = p.pointer();
    let rows = Rows {
        top_k: c.top_k,
        y,
        slots,
        weights: c.weighted.then(|| p.pointer()),
        residual: c.residual.then(|| p.matrix()),
    };
    let norm = c
        .norm
        .map(|normed| Norm::new(normed, shape, &mut p, &mut smem));
    let out = norm.is_none().then(|| p.matrix());
    let body = move |k: &Kernel| {
        let token = k.block_x();
        if let Some(out) = out {
            for i in 0..shape.chunks() {
                let chunk = shape.chunk(k, i);
                shape.inside(k, i, chunk, || {
                    let sum = rows.sum(k, token, chunk);
                    chunk_at(k, out, token, chunk).store_vec(pack8(k, &sum));
                });
            }
        }
        if let Some(norm) = &norm {
            norm.emit(k, token, |chunk| round8(k, &rows.sum(k, token, chunk)));
        }
    };
    // The rows written are the tokens that have slots.
    Ok(Family::new(shape.launch(1, smem, p.list), body))
}

/// What a token's row is made of.
struct Rows {
    top_k: u32,
    y: MatrixArg,
    slots: usize,
    weights: Option<usize>,
    residual: Option<MatrixArg>,
}

impl Rows {
    /// A chunk of the token's row before its last rounding.
    fn sum<'k>(
        &self,
        k: &'k Kernel,
        token: Val<'k, I32>,
        chunk: Val<'k, I32>,
    ) -> [Val<'k, F32>; 8] {
        let mut acc = [k.f32(0.0); 8];
        for slot in 0..self.top_k {
            let pair = token * self.top_k + slot;
            let row = k.arg_global(self.slots).index(pair, 4).load::<I32>();
            let weight = self
                .weights
                .map(|w| k.arg_global(w).index(pair, 4).load::<F32>());
            let v = load8(chunk_at(k, self.y, row, chunk));
            acc = std::array::from_fn(|j| match weight {
                Some(weight) => weight.fma(v[j], acc[j]),
                None => acc[j] + v[j],
            });
        }
        let Some(residual) = self.residual else {
            return acc;
        };
        let (x, r) = (round8(k, &acc), load8(chunk_at(k, residual, token, chunk)));
        std::array::from_fn(|j| x[j] + r[j])
    }
}
