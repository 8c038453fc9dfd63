//! Views: how `slice` and `reshape` become offsets and strides of a buffer.
//!
//! In: a [`View`] and what the op asks for. Out: the view of the same memory, or `None` when no strides
//! describe it. Nothing here moves data.

use mcc_ir::program::{BufferId, View};
use mcc_ir::{DType, Dim, NodeId, ValueId};

use super::Lowering;
use crate::error::PassError;

/// A value in memory: its elements and, when block-scaled, its scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// Elements; codes, when block-scaled.
    pub data: View,
    /// FP32 scales `[.., ceil(N/rows), ceil(K/cols)]`, when block-scaled.
    pub scales: Option<View>,
}

impl Lowering<'_> {
    /// `slice(x)`
    pub(super) fn slice(
        &mut self,
        node: NodeId,
        axis: usize,
        start: u64,
        len: u64,
    ) -> Result<(), PassError> {
        let x = self.operand(node, 0)?;
        let from = self.placed(x)?.clone();
        let scales = match (&from.scales, self.graph.ty(x).scale) {
            (Some(scales), Some(block)) => {
                let cut = match scales.shape.len() - axis {
                    1 => u64::from(block.cols),
                    2 => u64::from(block.rows),
                    _ => 1,
                };
                Some(slice(scales, axis, start / cut, len.div_ceil(cut)))
            }
            _ => None,
        };
        let data = slice(&from.data, axis, start, len);
        self.place_view(node, x, data, scales)
    }

    /// `reshape(x)`
    pub(super) fn reshape(&mut self, node: NodeId, shape: &[Dim]) -> Result<(), PassError> {
        let x = self.operand(node, 0)?;
        let from = self.placed(x)?.clone();
        let scale_shape = self.graph.ty(ValueId { node, result: 0 }).scale_shape();
        let scales = from
            .scales
            .as_ref()
            .map(|s| scale_shape.and_then(|shape| reshape(s, &shape)));
        let data = reshape(&from.data, shape);
        self.place_view(node, x, data, scales)
    }

    fn place_view(
        &mut self,
        node: NodeId,
        x: ValueId,
        data: Option<View>,
        scales: Option<Option<View>>,
    ) -> Result<(), PassError> {
        let placed = match (data, scales) {
            (Some(data), None) => Placed { data, scales: None },
            (Some(data), Some(Some(scales))) => Placed {
                data,
                scales: Some(scales),
            },
            _ => {
                let strides = self.placed(x)?.data.strides.clone();
                return Err(self.unsupported(
                    node,
                    x,
                    format!(
                        "it has the strides {strides:?}, under which no view has the new shape"
                    ),
                    "views never copy: reshape before the slice, or slice another axis",
                ));
            }
        };
        self.place(ValueId { node, result: 0 }, placed);
        Ok(())
    }
}

/// Row-major strides without gaps; `None` when an inner extent is not constant or on overflow.
pub fn dense_strides(shape: &[Dim]) -> Option<Vec<u64>> {
    let mut strides = vec![1_u64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].checked_mul(shape[axis].as_const()?)?;
    }
    Some(strides)
}

/// The whole of a buffer, row-major without gaps.
pub fn dense(buffer: BufferId, dtype: DType, shape: &[Dim]) -> Option<View> {
    Some(View {
        buffer,
        offset: 0,
        dtype,
        shape: shape.to_vec(),
        strides: dense_strides(shape)?,
    })
}

/// Indices `start..start + len` of one axis.
pub fn slice(view: &View, axis: usize, start: u64, len: u64) -> Option<View> {
    let skipped = start
        .checked_mul(*view.strides.get(axis)?)?
        .checked_mul(view.dtype.bytes())?;
    let mut out = view.clone();
    out.offset = out.offset.checked_add(skipped)?;
    out.shape[axis] = Dim::Const(len);
    Some(out)
}

/// The same elements in row-major order under another shape.
///
/// Walks both shapes from the outermost axis and matches the smallest groups of axes with equally many
/// elements. Within a group the old axes must be one run of memory, which the new axes then divide:
///
/// ```text
/// old  [T, 4, 192]  strides [768, 192, 1]      groups {T} {4, 192}
/// new  [T, 768]     strides [768, 1]                  {T} {768}
/// ```
pub fn reshape(view: &View, shape: &[Dim]) -> Option<View> {
    let single = |dim: &Dim| *dim == Dim::Const(1);
    // Axes of extent 1 hold no information; the new ones get their strides at the end.
    let mut old = view
        .shape
        .iter()
        .zip(&view.strides)
        .filter(|(dim, _)| !single(dim));
    let mut new = (0..shape.len()).filter(|axis| !single(&shape[*axis]));
    let mut strides = vec![None; shape.len()];
    while let Some(axis) = new.next() {
        let (first, first_stride) = old.next()?;
        let (mut old_count, mut run_stride) = (Count::of(first), *first_stride);
        let (mut new_count, mut axes) = (Count::of(&shape[axis]), vec![axis]);
        while old_count != new_count {
            if old_count.divides(&new_count) {
                let (dim, stride) = old.next()?;
                if run_stride != stride.checked_mul(dim.as_const()?)? {
                    return None;
                }
                run_stride = *stride;
                old_count.times(dim)?;
            } else {
                let axis = new.next()?;
                new_count.times(&shape[axis])?;
                axes.push(axis);
            }
        }
        let mut stride = run_stride;
        for (i, axis) in axes.iter().enumerate().rev() {
            strides[*axis] = Some(stride);
            if i > 0 {
                stride = stride.checked_mul(shape[*axis].as_const()?)?;
            }
        }
    }
    if old.next().is_some() {
        return None;
    }
    Some(View {
        shape: shape.to_vec(),
        strides: fill_single_axes(shape, &strides)?,
        ..view.clone()
    })
}

/// All leading axes merged into one: `[M, W]`, as row-wise kernels want it.
pub fn rows(view: &View) -> Option<View> {
    if view.shape.len() == 2 {
        return Some(view.clone());
    }
    let (last, leading) = view.shape.split_last()?;
    reshape(view, &[product(leading)?, last.clone()])
}

/// Product of extents when it is one dim: constants times at most one named dim.
pub fn product(dims: &[Dim]) -> Option<Dim> {
    dims.iter()
        .try_fold(Dim::Const(1), |product, dim| match (&product, dim) {
            (_, Dim::Const(n)) => product.times(*n),
            (Dim::Const(n), dim) => dim.times(*n),
            _ => None,
        })
}

/// Whether the view is its buffer from the start, row-major without gaps.
pub fn is_dense_whole(view: &View) -> bool {
    view.offset == 0
        && dense_strides(&view.shape).is_some_and(|dense| {
            let axes = view.shape.iter().zip(view.strides.iter().zip(&dense));
            axes.into_iter()
                .all(|(dim, (stride, dense))| stride == dense || *dim == Dim::Const(1))
        })
}

/// An axis of extent 1 takes the stride of its outer neighbour, or what a dense one would have: tensor maps
/// want a valid stride even where it is never multiplied by anything.
fn fill_single_axes(shape: &[Dim], strides: &[Option<u64>]) -> Option<Vec<u64>> {
    let mut filled: Vec<u64> = Vec::with_capacity(shape.len());
    for (axis, stride) in strides.iter().enumerate() {
        let innermost = axis + 1 == shape.len();
        filled.push(match (stride, filled.last()) {
            (Some(stride), _) => *stride,
            (None, _) if innermost => 1,
            (None, Some(outer)) => *outer,
            (None, None) => {
                let inner = (axis + 1..shape.len()).find_map(|i| Some((strides[i]?, &shape[i])));
                inner.map_or(Some(1), |(stride, dim)| {
                    stride.checked_mul(dim.as_const().unwrap_or(1))
                })?
            }
        });
    }
    Some(filled)
}

/// A number of elements: a constant times a product of named dims, sorted.
#[derive(Clone, PartialEq, Eq)]
struct Count<'a> {
    factor: u64,
    names: Vec<&'a str>,
}

impl<'a> Count<'a> {
    fn of(dim: &'a Dim) -> Self {
        match dim {
            Dim::Const(n) => Self {
                factor: *n,
                names: Vec::new(),
            },
            Dim::Sym { factor, name } => Self {
                factor: *factor,
                names: vec![name.as_str()],
            },
        }
    }

    fn times(&mut self, dim: &'a Dim) -> Option<()> {
        let other = Self::of(dim);
        self.factor = self.factor.checked_mul(other.factor)?;
        self.names.extend(other.names);
        self.names.sort_unstable();
        Some(())
    }

    /// Whether the group of old axes must grow to reach `other`, rather than that of the new axes.
    fn divides(&self, other: &Self) -> bool {
        if self.names == other.names {
            return self.factor < other.factor;
        }
        self.names.len() < other.names.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(shape: &[Dim], strides: &[u64]) -> View {
        View {
            buffer: BufferId(0),
            offset: 0,
            dtype: DType::BF16,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        }
    }

    fn dims<const N: usize>(text: [&str; N]) -> Vec<Dim> {
        text.iter()
            .map(|t| t.parse::<u64>().map_or_else(|_| Dim::from(*t), Dim::Const))
            .collect()
    }

    #[test]
    fn heads_merge_and_split() {
        let merged = view(&dims(["T", "768"]), &[768, 1]);
        let split = reshape(&merged, &dims(["T", "4", "192"])).unwrap();
        assert_eq!(split.strides, [768, 192, 1]);
        assert_eq!(reshape(&split, &merged.shape).unwrap(), merged);
    }

    #[test]
    fn a_named_axis_absorbs_constants() {
        let x = view(&dims(["T", "4", "128"]), &[512, 128, 1]);
        let flat = rows(&x).unwrap();
        assert_eq!(
            flat.shape,
            [
                Dim::Sym {
                    factor: 4,
                    name: "T".into()
                },
                Dim::Const(128)
            ]
        );
        assert_eq!(flat.strides, [128, 1]);
        assert_eq!(reshape(&flat, &x.shape).unwrap(), x);
    }

    #[test]
    fn a_sliced_head_does_not_merge_with_the_others() {
        let x = view(&dims(["T", "4", "192"]), &[768, 192, 1]);
        let part = slice(&x, 2, 128, 64).unwrap();
        assert_eq!(
            (part.offset, part.strides.as_slice()),
            (256, [768, 192, 1].as_slice())
        );
        assert_eq!(reshape(&part, &dims(["T", "256"])), None);
        // Rows still merge, because 4 * 192 = 768.
        assert_eq!(rows(&part).unwrap().strides, [192, 1]);
    }

    #[test]
    fn an_axis_of_one_takes_its_neighbours_stride() {
        let cache = slice(&view(&dims(["C", "192"]), &[192, 1]), 1, 0, 128).unwrap();
        let latent = reshape(&cache, &dims(["C", "1", "128"])).unwrap();
        assert_eq!(latent.strides, [192, 192, 1]);
        assert_eq!(reshape(&latent, &dims(["C", "128"])).unwrap(), cache);
        let outer = reshape(&cache, &dims(["1", "C", "128"])).unwrap();
        assert_eq!(outer.strides, [192, 192, 1]);
    }

    #[test]
    fn padded_rows_do_not_flatten() {
        let padded = view(&dims(["T", "100"]), &[104, 1]);
        assert_eq!(rows(&padded).unwrap(), padded);
        assert!(reshape(&padded, &dims(["T", "4", "25"])).is_some());
        assert!(!is_dense_whole(&padded));
        let scalar_rows = view(&dims(["T", "2"]), &[8, 1]);
        assert_eq!(
            reshape(
                &scalar_rows,
                &[Dim::Sym {
                    factor: 2,
                    name: "T".into()
                }]
            ),
            None
        );
    }

    #[test]
    fn dense_views_are_recognised_whatever_stride_an_axis_of_one_has() {
        assert!(is_dense_whole(&view(
            &dims(["T", "1", "64"]),
            &[64, 999, 1]
        )));
        assert!(!is_dense_whole(
            &slice(&view(&dims(["T", "64"]), &[64, 1]), 1, 0, 32).unwrap()
        ));
    }
}
