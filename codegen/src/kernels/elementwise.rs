//! Row-wise families without reductions over the row: `quantize`, `swiglu`, `add`, `scale_rows`.
//!
//! Meaning: the ops of the same names; `swiglu` with `quant` is `swiglu_quantize`. All are bit for bit but
//! for `swiglu`, whose exponential is `ex2.approx`.

use mcc_ir::kernel::{Add, Quantize, ScaleRows, Swiglu};

use super::params::chunk_at;
use super::row::{self, CHUNK, QuantRow, RowShape, load8, pack8, round8};
use super::{Family, Params};
use crate::emit::pipeline::SmemMap;
use crate::emit::{F32, I32, Kernel, Val};
use crate::error::CodegenError;

/// Emits `value` of each chunk of the row (zeros outside of it) and hands it to `finish`, in all threads.
fn each_chunk<'k>(
    k: &'k Kernel,
    shape: RowShape,
    value: impl Fn(Val<'k, I32>) -> [Val<'k, F32>; 8],
    finish: impl Fn(u32, [Val<'k, F32>; 8]),
) {
    for i in 0..shape.chunks() {
        let v = [k.f32(0.0); 8].map(|z| k.var(z));
        let chunk = shape.chunk(k, i);
        shape.inside(k, i, chunk, || {
            for (v, x) in v.iter().zip(value(chunk)) {
                v.set(x);
            }
        });
        finish(i, v.map(|v| v.get()));
    }
}

/// `quantize`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn quantize<'a>(name: &str, c: &'a Quantize) -> Result<Family<'a>, CodegenError> {
    let shape = RowShape::new(name, c.width)?;
    let mut p = Params::default();
    let (x, codes, scales) = (p.matrix(), p.matrix(), p.scales());
    let body = move |k: &Kernel| {
        let row = k.block_x();
        each_chunk(
            k,
            shape,
            |chunk| load8(chunk_at(k, x, row, chunk)),
            |i, v| QuantRow::of(k, codes, scales, row).store(k, shape, i, &v),
        );
    };
    Ok(Family::new(
        shape.launch(0, SmemMap::default(), p.list),
        body,
    ))
}

/// `swiglu`, `swiglu_quantize`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn swiglu<'a>(name: &str, c: &'a Swiglu) -> Result<Family<'a>, CodegenError> {
    let shape = RowShape::new(name, c.width)?;
    let mut p = Params::default();
    let x = p.matrix();
    let out = p.matrix();
    let scales = c.quant.then(|| p.scales());
    let body = move |k: &Kernel| {
        let row = k.block_x();
        each_chunk(
            k,
            shape,
            |chunk| {
                let gate = load8(chunk_at(k, x, row, chunk));
                let up = load8(chunk_at(k, x, row, chunk + c.width / CHUNK));
                let y = std::array::from_fn(|j| row::swiglu(k, gate[j], up[j]));
                round8(k, &y)
            },
            |i, v| match scales {
                Some(scales) => QuantRow::of(k, out, scales, row).store(k, shape, i, &v),
                None => {
                    let chunk = shape.chunk(k, i);
                    shape.inside(k, i, chunk, || {
                        chunk_at(k, out, row, chunk).store_vec(pack8(k, &v))
                    });
                }
            },
        );
    };
    Ok(Family::new(
        shape.launch(0, SmemMap::default(), p.list),
        body,
    ))
}

/// `add`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn add<'a>(name: &str, c: &'a Add) -> Result<Family<'a>, CodegenError> {
    let shape = RowShape::new(name, c.width)?;
    let mut p = Params::default();
    let (a, b, out) = (p.matrix(), p.matrix(), p.matrix());
    let body = move |k: &Kernel| {
        let row = k.block_x();
        for i in 0..shape.chunks() {
            let chunk = shape.chunk(k, i);
            shape.inside(k, i, chunk, || {
                let (x, y) = (
                    load8(chunk_at(k, a, row, chunk)),
                    load8(chunk_at(k, b, row, chunk)),
                );
                chunk_at(k, out, row, chunk)
                    .store_vec(pack8(k, &std::array::from_fn(|j| x[j] + y[j])));
            });
        }
    };
    Ok(Family::new(
        shape.launch(0, SmemMap::default(), p.list),
        body,
    ))
}

/// `scale_rows`.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn scale_rows<'a>(name: &str, c: &'a ScaleRows) -> Result<Family<'a>, CodegenError> {
    let shape = RowShape::new(name, c.width)?;
    let mut p = Params::default();
    let (x, factors, out) = (p.matrix(), p.pointer(), p.matrix());
    let body = move |k: &Kernel| {
        let row = k.block_x();
        let factor = k.arg_global(factors).index(row, 4).load::<F32>();
        for i in 0..shape.chunks() {
            let chunk = shape.chunk(k, i);
            shape.inside(k, i, chunk, || {
                let v = load8(chunk_at(k, x, row, chunk)).map(|v| v * factor);
                chunk_at(k, out, row, chunk).store_vec(pack8(k, &v));
            });
        }
    };
    Ok(Family::new(
        shape.launch(0, SmemMap::default(), p.list),
        body,
    ))
}
