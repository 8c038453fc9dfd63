//! Ops that move data without computing: slice, concat, reshape, gather, cache write, transpose.
//!
//! All are written once over an array of any element and its shape; a block-scaled value moves as
//! two arrays, its codes and its scales, whose axes are cut in step. `None` means that the cut does
//! not fall between scale blocks.

use super::tensor::{Data, Scaled, Tensor, scale_shape};
use crate::types::ScaleBlock;

/// Part of an axis of length `len` from `start`, cut out of every outer index.
fn slice_array<T: Copy>(
    data: &[T],
    shape: &[usize],
    axis: usize,
    start: usize,
    len: usize,
) -> Vec<T> {
    let inner: usize = shape[axis + 1..].iter().product();
    let whole = shape[axis] * inner;
    let parts = data.chunks_exact(whole.max(1));
    parts
        .map(|outer| &outer[start * inner..(start + len) * inner])
        .collect::<Vec<_>>()
        .concat()
}

/// Extents of a scale block along `axis` of a value of rank `rank`.
fn block_extent(block: ScaleBlock, rank: usize, axis: usize) -> usize {
    let extent = match rank - axis {
        1 => block.cols,
        2 => block.rows,
        _ => 1,
    };
    extent.max(1) as usize
}

/// `x[.., start..start + len, ..]` on `axis`; `None` when out of range or inside a scale block.
pub(super) fn slice(x: &Tensor, axis: usize, start: usize, len: usize) -> Option<Tensor> {
    let shape = x.shape();
    let extent = *shape.get(axis)?;
    if start.checked_add(len)? > extent {
        return None;
    }
    let mut out = shape.to_vec();
    out[axis] = len;
    let cut = |v: &[f32]| slice_array(v, shape, axis, start, len);
    match x.data() {
        Data::F32(v) => Tensor::f32(&out, cut(v)),
        Data::Bf16(v) => Tensor::bf16(&out, cut(v)),
        Data::I32(v) => Tensor::i32(&out, slice_array(v, shape, axis, start, len)),
        Data::Scaled(s) => {
            let unit = block_extent(s.block, shape.len(), axis);
            if !start.is_multiple_of(unit) || (!len.is_multiple_of(unit) && start + len != extent) {
                return None;
            }
            let scales = slice_array(
                &s.scales,
                &scale_shape(shape, s.block),
                axis,
                start / unit,
                len.div_ceil(unit),
            );
            Tensor::scaled(
                &out,
                slice_array(&s.codes, shape, axis, start, len),
                scales,
                s.block,
            )
        }
    }
    .ok()
}

/// Interleaves the outer indices of several arrays that differ only along `axis`.
fn concat_arrays<T: Copy>(parts: &[(&[T], Vec<usize>)], axis: usize) -> Vec<T> {
    let outer = parts
        .first()
        .map_or(0, |(_, shape)| shape[..axis].iter().product());
    let mut out = Vec::with_capacity(parts.iter().map(|(data, _)| data.len()).sum());
    for i in 0..outer {
        for (data, shape) in parts {
            let width: usize = shape[axis..].iter().product();
            out.extend_from_slice(&data[i * width..(i + 1) * width]);
        }
    }
    out
}

/// Joins values of one element type along `axis`; `None` when they do not fit together.
pub(super) fn concat(xs: &[&Tensor], axis: usize) -> Option<Tensor> {
    let first = xs.first()?;
    let mut out = first.shape().to_vec();
    *out.get_mut(axis)? = xs
        .iter()
        .map(|x| x.shape().get(axis).copied().unwrap_or(0))
        .sum();
    let same_elsewhere = |x: &&Tensor| {
        x.shape().len() == out.len() && (0..out.len()).all(|a| a == axis || x.shape()[a] == out[a])
    };
    if !xs.iter().all(same_elsewhere) {
        return None;
    }
    let floats = |pick: fn(&Data) -> Option<&Vec<f32>>| -> Option<Vec<f32>> {
        let parts: Option<Vec<_>> = xs
            .iter()
            .map(|x| Some((pick(x.data())?.as_slice(), x.shape().to_vec())))
            .collect();
        Some(concat_arrays(&parts?, axis))
    };
    match first.data() {
        Data::F32(_) => Tensor::f32(
            &out,
            floats(|d| if let Data::F32(v) = d { Some(v) } else { None })?,
        ),
        Data::Bf16(_) => Tensor::bf16(
            &out,
            floats(|d| if let Data::Bf16(v) = d { Some(v) } else { None })?,
        ),
        Data::I32(_) => {
            let parts: Option<Vec<_>> = xs
                .iter()
                .map(|x| Some((x.as_i32()?, x.shape().to_vec())))
                .collect();
            Tensor::i32(&out, concat_arrays(&parts?, axis))
        }
        Data::Scaled(Scaled { block, .. }) => {
            let unit = block_extent(*block, out.len(), axis);
            let all_but_last = &xs[..xs.len() - 1];
            if all_but_last
                .iter()
                .any(|x| !x.shape()[axis].is_multiple_of(unit))
            {
                return None;
            }
            let scaled: Option<Vec<&Scaled>> = xs
                .iter()
                .map(|x| x.as_scaled().filter(|s| s.block == *block))
                .collect();
            let scaled = scaled?;
            let codes: Vec<_> = xs
                .iter()
                .zip(&scaled)
                .map(|(x, s)| (s.codes.as_slice(), x.shape().to_vec()))
                .collect();
            let scales: Vec<_> = xs
                .iter()
                .zip(&scaled)
                .map(|(x, s)| (s.scales.as_slice(), scale_shape(x.shape(), *block)))
                .collect();
            Tensor::scaled(
                &out,
                concat_arrays(&codes, axis),
                concat_arrays(&scales, axis),
                *block,
            )
        }
    }
    .ok()
}

/// Rows of axis 0 in the order of `index`, all in range; `None` when one is not, or scales span
/// rows.
pub(super) fn take_rows(x: &Tensor, index: &[usize]) -> Option<Tensor> {
    let (&rows, rest) = x.shape().split_first()?;
    let mut out = vec![index.len()];
    out.extend_from_slice(rest);
    fn pick<T: Copy>(data: &[T], rows: usize, index: &[usize]) -> Option<Vec<T>> {
        // Without rows every index is out of range.
        let width = data.len().checked_div(rows).unwrap_or(1);
        let row = |&i: &usize| data.get(i * width..(i + 1) * width);
        Some(index.iter().map(row).collect::<Option<Vec<_>>>()?.concat())
    }
    match x.data() {
        Data::F32(v) => Tensor::f32(&out, pick(v, rows, index)?),
        Data::Bf16(v) => Tensor::bf16(&out, pick(v, rows, index)?),
        Data::I32(v) => Tensor::i32(&out, pick(v, rows, index)?),
        Data::Scaled(s) => {
            if block_extent(s.block, x.shape().len(), 0) != 1 {
                return None;
            }
            Tensor::scaled(
                &out,
                pick(&s.codes, rows, index)?,
                pick(&s.scales, rows, index)?,
                s.block,
            )
        }
    }
    .ok()
}

/// Swaps the last two axes.
pub(super) fn transpose(x: &Tensor) -> Option<Tensor> {
    let rank = x.shape().len();
    swap_axes(x, rank.checked_sub(2)?, rank.checked_sub(1)?)
}

/// The elements of `data` in the order that they have after axes `a < b` changed places.
fn swap_array<T: Copy>(data: &[T], shape: &[usize], a: usize, b: usize) -> Vec<T> {
    // As five axes: before, a, between, b, after.
    let extent = |axes: std::ops::Range<usize>| shape[axes].iter().product::<usize>();
    let (before, between, after) = (extent(0..a), extent(a + 1..b), extent(b + 1..shape.len()));
    let mut out = Vec::with_capacity(data.len());
    for outer in 0..before {
        for j in 0..shape[b] {
            for middle in 0..between {
                for i in 0..shape[a] {
                    let row = ((outer * shape[a] + i) * between + middle) * shape[b] + j;
                    out.extend_from_slice(&data[row * after..(row + 1) * after]);
                }
            }
        }
    }
    out
}

/// Swaps two axes; `None` when one is missing. Scale blocks turn with the last two; where another axis changes places
/// with one of these, blocks must not run along either.
pub(super) fn swap_axes(x: &Tensor, a: usize, b: usize) -> Option<Tensor> {
    let shape = x.shape();
    let rank = shape.len();
    if a.max(b) >= rank {
        return None;
    }
    let (a, b) = (a.min(b), a.max(b));
    if a == b {
        return Some(x.clone());
    }
    let mut out = shape.to_vec();
    out.swap(a, b);
    match x.data() {
        Data::F32(v) => Tensor::f32(&out, swap_array(v, shape, a, b)),
        Data::Bf16(v) => Tensor::bf16(&out, swap_array(v, shape, a, b)),
        Data::I32(v) => Tensor::i32(&out, swap_array(v, shape, a, b)),
        Data::Scaled(s) => {
            let block = if a + 2 == rank {
                ScaleBlock {
                    rows: s.block.cols,
                    cols: s.block.rows,
                }
            } else {
                s.block
            };
            let along = |axis| block_extent(s.block, rank, axis);
            if a + 2 != rank && along(a) != along(b) {
                return None;
            }
            Tensor::scaled(
                &out,
                swap_array(&s.codes, shape, a, b),
                swap_array(&s.scales, &scale_shape(shape, s.block), a, b),
                block,
            )
        }
    }
    .ok()
}
