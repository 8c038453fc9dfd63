//! Rows by index: `gather`, and `expand`, the half of `dispatch` that copies rows to their experts.
//!
//! Meaning: `gather`, and the rows of `dispatch`; bit for bit. Rows are BF16, or E4M3 codes with their scales. One block
//! copies one row in 16-byte vectors.

use mcc_ir::kernel::{Expand, Gather};

use super::row::rows_launch;
use super::{Family, MatrixArg, Params, ScalesArg, unsupported};
use crate::emit::pipeline::SmemMap;
use crate::emit::{F32, I32, Kernel, Val};
use crate::error::CodegenError;

/// Channels that share a scale.
const GROUP: u32 = 128;
/// Bytes that a thread moves at a time.
const VECTOR: u32 = 16;
/// Most threads that share a row.
const MAX_THREADS: u32 = 256;

/// `gather`: the rows of a table that an index names.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn gather<'a>(name: &str, c: &'a Gather) -> Result<Family<'a>, CodegenError> {
    take(name, c.width, c.quant)
}

/// `expand`: the row of each (token, slot) pair.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn expand<'a>(name: &str, c: &'a Expand) -> Result<Family<'a>, CodegenError> {
    take(name, c.width, c.quant)
}

/// Operands: the rows taken from, and their scales if `quant`; which row to take; the rows written, and their scales.
fn take<'a>(name: &str, width: u32, quant: bool) -> Result<Family<'a>, CodegenError> {
    let element = if quant { 1 } else { 2 };
    let bytes = width * element;
    if bytes == 0 || !bytes.is_multiple_of(VECTOR) {
        return Err(unsupported(
            name,
            format!("rows of {bytes} bytes"),
            "a multiple of 16 bytes",
        ));
    }
    let mut p = Params::default();
    let from = p.matrix();
    let from_scales = quant.then(|| p.scales());
    let index_operand = if quant { 2 } else { 1 };
    let index = p.pointer();
    let to = p.matrix();
    let to_scales = quant.then(|| p.scales());
    let vectors = bytes / VECTOR;
    let threads = vectors.next_multiple_of(32).min(MAX_THREADS);
    // The rows written are as many as the index has.
    let launch = rows_launch(threads, index_operand, SmemMap::default(), p.list);
    Ok(Family::new(launch, move |k| {
        copy_row(
            k,
            &Copy {
                index,
                from,
                to,
                element,
                vectors,
                threads,
            },
        );
        if let (Some(from), Some(to)) = (from_scales, to_scales) {
            copy_scales(k, index, from, to, width.div_ceil(GROUP), threads);
        }
    }))
}

/// Parameters of [`copy_row`].
struct Copy {
    index: usize,
    from: MatrixArg,
    to: MatrixArg,
    /// Bytes of an element.
    element: u32,
    /// 16-byte vectors of a row.
    vectors: u32,
    threads: u32,
}

fn copy_row<'k>(k: &'k Kernel, c: &Copy) {
    let row = k.block_x();
    let source = k.arg_global(c.index).index(row, 4).load::<I32>();
    let line = |m: MatrixArg, row: Val<'k, I32>| {
        k.arg_global(m.pointer)
            .at(row.to_i64() * k.arg_i32(m.stride).to_i64() * i64::from(c.element))
    };
    let (from, to) = (line(c.from, source), line(c.to, row));
    k.for_(k.tid(), c.vectors, c.threads, |i| {
        let v: [Val<'k, I32>; 4] = from.index(i, VECTOR).load_vec();
        to.index(i, VECTOR).store_vec(v);
    });
}

fn copy_scales<'k>(
    k: &'k Kernel,
    index: usize,
    from: ScalesArg,
    to: ScalesArg,
    groups: u32,
    threads: u32,
) {
    let row = k.block_x();
    let source = k.arg_global(index).index(row, 4).load::<I32>();
    k.for_(k.tid(), groups, threads, |g| {
        let at = |m: ScalesArg, row: Val<'k, I32>| {
            let index = g.to_i64() * k.arg_i32(m.stride).to_i64() + row.to_i64();
            k.arg_global(m.pointer).at(index * 4)
        };
        at(to, row).store(at(from, source).load::<F32>());
    });
}
