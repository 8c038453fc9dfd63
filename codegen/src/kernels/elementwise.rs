//! Row-wise families without reductions over the row: `quantize`, `swiglu`, `add`, `gather`.
//!
//! Meaning: the ops of the same names; `swiglu` with `quant` is `swiglu_quantize`. All are bit for bit but
//! for `swiglu`, whose exponential is `ex2.approx`.

use mcc_ir::kernel::{Add, Gather, Quantize, Swiglu};

use super::params::MatrixArg;
use super::row::{self, CHUNK, QuantRow, RowShape, bf16_at, load8, pack8, round8};
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

fn row_of<'k>(
    k: &'k Kernel,
    m: MatrixArg,
    row: Val<'k, I32>,
    chunk: Val<'k, I32>,
) -> crate::emit::Global<'k> {
    bf16_at(
        k.arg_global(m.pointer),
        row,
        k.arg_i32(m.stride),
        chunk * CHUNK,
    )
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
            |chunk| load8(row_of(k, x, row, chunk)),
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
                let gate = load8(row_of(k, x, row, chunk));
                let up = load8(row_of(k, x, row, chunk + c.width / CHUNK));
                let y = std::array::from_fn(|j| row::swiglu(k, gate[j], up[j]));
                round8(k, &y)
            },
            |i, v| match scales {
                Some(scales) => QuantRow::of(k, out, scales, row).store(k, shape, i, &v),
                None => {
                    let chunk = shape.chunk(k, i);
                    shape.inside(k, i, chunk, || {
                        row_of(k, out, row, chunk).store_vec(pack8(k, &v))
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
                    load8(row_of(k, a, row, chunk)),
                    load8(row_of(k, b, row, chunk)),
                );
                row_of(k, out, row, chunk)
                    .store_vec(pack8(k, &std::array::from_fn(|j| x[j] + y[j])));
            });
        }
    };
    Ok(Family::new(
        shape.launch(0, SmemMap::default(), p.list),
        body,
    ))
}

/// `gather`: rows of a table.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn gather<'a>(name: &str, c: &'a Gather) -> Result<Family<'a>, CodegenError> {
    let shape = RowShape::new(name, c.width)?;
    let mut p = Params::default();
    let (table, index, out) = (p.matrix(), p.pointer(), p.matrix());
    let body = move |k: &Kernel| {
        let row = k.block_x();
        let source = k.arg_global(index).index(row, 4).load::<I32>();
        for i in 0..shape.chunks() {
            let chunk = shape.chunk(k, i);
            shape.inside(k, i, chunk, || {
                let v: [Val<'_, I32>; 4] = row_of(k, table, source, chunk).load_vec();
                row_of(k, out, row, chunk).store_vec(v);
            });
        }
    };
    // The rows written are the indices', operand 1.
    Ok(Family::new(
        shape.launch(1, SmemMap::default(), p.list),
        body,
    ))
}
