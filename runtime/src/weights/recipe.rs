//! Recipes over checkpoint tensors: checked against the headers first, then streamed.
//!
//! In: a [`ParamSource`] and a [`Checkpoint`]. Out: a [`Plan`] with the value's layout; and from the plan, the
//! bytes of the codes or of the scales, in order and in pieces.
//! Holds: a plan's layout and the number of bytes that it streams agree, whatever the files say; a tensor that
//! is passed on as stored goes from the mapped file to the device without a copy in between.

use std::borrow::Cow;

use mcc_bundle::{DType, ParamSource, Yarn};
use safetensors::Dtype;

use super::checkpoint::{Checkpoint, Stored};
use super::convert::{e4m3_table, push_bf16};
use super::rope;
use super::share::Share;
use crate::error::WeightError;

/// Rows and columns of weights that share a scale in DeepSeek-V3 checkpoints.
pub(crate) const WEIGHT_BLOCK: u64 = 128;

/// Bytes that are gathered before they are passed on.
const PIECE_BYTES: usize = 1 << 20;

/// What a recipe makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub dtype: DType,
    /// Row-major and contiguous.
    pub shape: Vec<u64>,
}

impl Layout {
    /// Codes with scales of 128 by 128 blocks.
    pub fn scaled(&self) -> bool {
        self.dtype == DType::E4m3
    }

    /// Extents of the scales.
    fn scale_shape(&self) -> Vec<u64> {
        let mut shape = self.shape.clone();
        for extent in shape.iter_mut().rev().take(2) {
            *extent = extent.div_ceil(WEIGHT_BLOCK);
        }
        shape
    }
}

/// Which of a value's two arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Data,
    Scales,
}

/// Takes the bytes of a value, piece by piece; a piece ends between two elements.
pub(crate) type Sink<'s> = dyn FnMut(&[u8]) -> Result<(), WeightError> + 's;

/// A recipe whose tensors were found and whose shapes fit.
pub(crate) struct Plan<'a> {
    pub layout: Layout,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Stored {
        data: &'a [u8],
        scales: &'a [u8],
    },
    /// `Concat` and `Stack`: one after the other.
    Sequence(Vec<Plan<'a>>),
    Dequant(Box<Plan<'a>>),
    HeadRows {
        src: Box<Plan<'a>>,
        heads: u64,
        start: u64,
        len: u64,
    },
    Transpose(Box<Plan<'a>>),
    RopeTable {
        dim: u64,
        theta: f64,
        positions: u64,
        yarn: Option<Yarn>,
    },
}

/// Checks a recipe against the checkpoint's headers, and takes of the experts those of a share. Without one all experts
/// are checked, and such a plan is not for loading.
pub(crate) fn plan<'a>(
    checkpoint: &'a Checkpoint,
    param: &str,
    source: &ParamSource,
    share: Option<&Share>,
) -> Result<Plan<'a>, WeightError> {
    let planner = Planner {
        checkpoint,
        param,
        share,
    };
    planner.plan(source)
}

struct Planner<'a, 'p> {
    checkpoint: &'a Checkpoint,
    param: &'p str,
    share: Option<&'p Share>,
}

impl<'a> Planner<'a, '_> {
    fn misfit(&self, what: String) -> WeightError {
        WeightError::Recipe {
            param: self.param.to_owned(),
            what,
        }
    }

    fn plan(&self, source: &ParamSource) -> Result<Plan<'a>, WeightError> {
        match source {
            ParamSource::Tensor(name) => self.tensor(name),
            ParamSource::Concat(parts) => self.concat(parts),
            ParamSource::Stack(parts) => self.stack(parts.iter()),
            ParamSource::Experts {
                layer,
                slots,
                parts,
            } => self.experts(*layer, *slots, parts),
            ParamSource::Dequant(src) => {
                let src = self.plan(src)?;
                if !src.layout.scaled() {
                    return Err(self.misfit(format!(
                        "{} values have no scales to apply",
                        src.layout.dtype
                    )));
                }
                let layout = Layout {
                    dtype: DType::Bf16,
                    shape: src.layout.shape.clone(),
                };
                Ok(Plan {
                    layout,
                    kind: Kind::Dequant(Box::new(src)),
                })
            }
            ParamSource::HeadRows {
                src,
                heads,
                start,
                len,
            } => self.head_rows(src, *heads, *start, *len),
            ParamSource::Transpose(src) => {
                let src = self.plan(src)?;
                let mut layout = src.layout.clone();
                let [.., rows, cols] = layout.shape.as_mut_slice() else {
                    return Err(self.misfit(format!(
                        "shape {:?} has no two axes to swap",
                        src.layout.shape
                    )));
                };
                std::mem::swap(rows, cols);
                Ok(Plan {
                    layout,
                    kind: Kind::Transpose(Box::new(src)),
                })
            }
            ParamSource::RopeTable {
                dim,
                theta,
                positions,
                yarn,
            } => Ok(Plan {
                layout: Layout {
                    dtype: DType::F32,
                    shape: vec![*positions, dim / 2, 2],
                },
                kind: Kind::RopeTable {
                    dim: *dim,
                    theta: *theta,
                    positions: *positions,
                    yarn: *yarn,
                },
            }),
        }
    }

    fn find(&self, name: &str) -> Result<Stored<'a>, WeightError> {
        self.checkpoint.tensor(name).ok_or_else(|| {
            let near = self.checkpoint.closest(name);
            WeightError::MissingTensor {
                name: name.to_owned(),
                param: self.param.to_owned(),
                searched: self.checkpoint.searched(),
                closest: if near.is_empty() {
                    String::new()
                } else {
                    format!("; closest: {}", near.join(", "))
                },
            }
        })
    }

    fn tensor(&self, name: &str) -> Result<Plan<'a>, WeightError> {
        let stored = self.find(name)?;
        let dtype = match stored.dtype {
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::Bf16,
            Dtype::F8_E4M3 => DType::E4m3,
            other => {
                return Err(WeightError::WrongDtype {
                    what: name.to_owned(),
                    file: stored.file.to_owned(),
                    expected: "F32, BF16 or F8_E4M3".to_owned(),
                    found: format!("{other:?}"),
                });
            }
        };
        let layout = Layout {
            dtype,
            shape: stored.shape.to_vec(),
        };
        let scales = if layout.scaled() {
            self.scales(name, &layout, stored)?
        } else {
            &[]
        };
        Ok(Plan {
            layout,
            kind: Kind::Stored {
                data: stored.data,
                scales,
            },
        })
    }

    fn scales(
        &self,
        name: &str,
        layout: &Layout,
        codes: Stored<'a>,
    ) -> Result<&'a [u8], WeightError> {
        if layout.shape.len() < 2 {
            return Err(self.misfit(format!(
                "`{name}` is FP8 of shape {:?}, expected a matrix",
                layout.shape
            )));
        }
        let scales_name = format!("{name}_scale_inv");
        let stored =
            self.checkpoint
                .tensor(&scales_name)
                .ok_or_else(|| WeightError::MissingScales {
                    name: name.to_owned(),
                    file: codes.file.to_owned(),
                })?;
        if stored.dtype != Dtype::F32 {
            return Err(WeightError::WrongDtype {
                what: scales_name,
                file: stored.file.to_owned(),
                expected: "F32".to_owned(),
                found: format!("{:?}", stored.dtype),
            });
        }
        let expected = layout.scale_shape();
        if stored.shape != expected {
            return Err(WeightError::WrongShape {
                what: scales_name,
                file: stored.file.to_owned(),
                expected: format!(
                    "{expected:?} (one scale for 128 by 128 values of {:?})",
                    layout.shape
                ),
                found: format!("{:?}", stored.shape),
            });
        }
        Ok(stored.data)
    }

    fn concat(&self, parts: &[ParamSource]) -> Result<Plan<'a>, WeightError> {
        let parts = parts
            .iter()
            .map(|part| self.plan(part))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(first) = parts.first() else {
            return Err(self.misfit("nothing to put together".to_owned()));
        };
        let mut layout = first.layout.clone();
        let mut rows = 0_u64;
        for (i, part) in parts.iter().enumerate() {
            let tail_fits = !part.layout.shape.is_empty()
                && part.layout.shape.get(1..) == layout.shape.get(1..);
            if part.layout.dtype != layout.dtype || !tail_fits {
                return Err(self.misfit(format!(
                    "cannot put {} {:?} under {} {:?}",
                    part.layout.dtype, part.layout.shape, layout.dtype, layout.shape
                )));
            }
            // A scale block must not reach from one part into the next.
            let splits_block =
                part.layout.shape.len() == 2 && !part.layout.shape[0].is_multiple_of(WEIGHT_BLOCK);
            if part.layout.scaled() && splits_block && i + 1 < parts.len() {
                return Err(self.misfit(format!(
                    "a block-scaled part of {} rows, which is no multiple of {WEIGHT_BLOCK}, is followed by another",
                    part.layout.shape[0]
                )));
            }
            rows = rows.saturating_add(part.layout.shape[0]);
        }
        layout.shape[0] = rows;
        Ok(Plan {
            layout,
            kind: Kind::Sequence(parts),
        })
    }

    /// Those of the share; all of them where there is none, as if they were as many as a rank holds.
    fn experts(
        &self,
        layer: u64,
        slots: u64,
        parts: &[ParamSource],
    ) -> Result<Plan<'a>, WeightError> {
        let Some(share) = self.share else {
            let mut plan = self.stack(parts.iter())?;
            plan.layout.shape[0] = slots;
            return Ok(plan);
        };
        let held = share.of_layer(layer, slots, parts.len());
        let held = held.map_err(|what| self.misfit(what))?;
        self.stack(held.into_iter().filter_map(|expert| parts.get(expert)))
    }

    fn stack<'s>(
        &self,
        parts: impl Iterator<Item = &'s ParamSource>,
    ) -> Result<Plan<'a>, WeightError> {
        let parts = parts
            .map(|part| self.plan(part))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(first) = parts.first() else {
            return Err(self.misfit("nothing to stack".to_owned()));
        };
        if let Some(other) = parts.iter().find(|part| part.layout != first.layout) {
            return Err(self.misfit(format!(
                "cannot stack {} {:?} on {} {:?}",
                other.layout.dtype, other.layout.shape, first.layout.dtype, first.layout.shape
            )));
        }
        let mut layout = first.layout.clone();
        layout.shape.insert(0, parts.len() as u64);
        Ok(Plan {
            layout,
            kind: Kind::Sequence(parts),
        })
    }

    fn head_rows(
        &self,
        src: &ParamSource,
        heads: u64,
        start: u64,
        len: u64,
    ) -> Result<Plan<'a>, WeightError> {
        let src = self.plan(src)?;
        let [rows, cols] = src.layout.shape[..] else {
            return Err(self.misfit(format!(
                "shape {:?} is not a matrix of heads",
                src.layout.shape
            )));
        };
        if src.layout.scaled() {
            return Err(self.misfit(
                "rows of a head of block-scaled values: dequantise them first".to_owned(),
            ));
        }
        let fits = heads > 0
            && rows.is_multiple_of(heads)
            && start
                .checked_add(len)
                .is_some_and(|end| end <= rows / heads);
        if !fits {
            return Err(self.misfit(format!(
                "{rows} rows have no rows {start}..+{len} in each of {heads} heads"
            )));
        }
        let layout = Layout {
            dtype: src.layout.dtype,
            shape: vec![heads, len, cols],
        };
        Ok(Plan {
            layout,
            kind: Kind::HeadRows {
                src: Box::new(src),
                heads,
                start,
                len,
            },
        })
    }
}

impl<'a> Plan<'a> {
    /// Streams the codes or the scales.
    pub fn emit(&self, part: Part, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        match &self.kind {
            Kind::Stored { data, scales } => sink(if part == Part::Data { data } else { scales }),
            Kind::Sequence(parts) => parts.iter().try_for_each(|plan| plan.emit(part, sink)),
            Kind::Dequant(src) => src.dequantise(sink),
            Kind::HeadRows {
                src,
                heads,
                start,
                len,
            } => {
                let bytes = src.collect(part)?;
                let (rows, cols) = (src.layout.shape[0] as usize, src.layout.shape[1] as usize);
                let row_bytes = cols * src.layout.dtype.bytes() as usize;
                let head_rows = rows / *heads as usize;
                (0..*heads as usize).try_for_each(|head| {
                    let first = (head * head_rows + *start as usize) * row_bytes;
                    sink(&bytes[first..first + *len as usize * row_bytes])
                })
            }
            Kind::Transpose(src) => src.transpose(part, sink),
            Kind::RopeTable {
                dim,
                theta,
                positions,
                yarn,
            } => rope::rows(*dim, *theta, *positions, yarn.as_ref(), sink),
        }
    }

    /// All bytes at once, without a copy where the file has them so.
    fn collect(&self, part: Part) -> Result<Cow<'a, [u8]>, WeightError> {
        if let Kind::Stored { data, scales } = &self.kind {
            return Ok(Cow::Borrowed(if part == Part::Data {
                data
            } else {
                scales
            }));
        }
        let mut bytes = Vec::new();
        self.emit(part, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(Cow::Owned(bytes))
    }

    /// `bf16(code * scale)` of every element of a block-scaled value.
    fn dequantise(&self, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let (codes, scales) = (self.collect(Part::Data)?, self.collect(Part::Scales)?);
        let scales: Vec<f32> = scales
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let (rows, cols) = matrix(&self.layout.shape);
        let block = WEIGHT_BLOCK as usize;
        let (scale_rows, scale_cols) = (rows.div_ceil(block), cols.div_ceil(block));
        let table = e4m3_table();
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        for (i, row) in codes.chunks_exact(cols.max(1)).enumerate() {
            // Rows of all matrices of a stack, one after the other.
            let scale_row = (i / rows) * scale_rows + (i % rows) / block;
            let row_scales = &scales[scale_row * scale_cols..][..scale_cols];
            for (codes, scale) in row.chunks(block).zip(row_scales) {
                for code in codes {
                    push_bf16(&mut piece, table[usize::from(*code)] * scale);
                }
            }
            if piece.len() >= PIECE_BYTES {
                sink(&piece)?;
                piece.clear();
            }
        }
        sink(&piece)
    }

    /// The last two axes of codes or scales swapped. Scale blocks are square, so both swap alike.
    fn transpose(&self, part: Part, sink: &mut Sink<'_>) -> Result<(), WeightError> {
        let bytes = self.collect(part)?;
        let (shape, element) = match part {
            Part::Data => (
                self.layout.shape.clone(),
                self.layout.dtype.bytes() as usize,
            ),
            Part::Scales => (self.layout.scale_shape(), 4),
        };
        let (rows, cols) = matrix(&shape);
        let mut piece = Vec::with_capacity(rows * element);
        for matrix in bytes.chunks_exact((rows * cols * element).max(1)) {
            for col in 0..cols {
                piece.clear();
                for row in 0..rows {
                    piece.extend_from_slice(&matrix[(row * cols + col) * element..][..element]);
                }
                sink(&piece)?;
            }
        }
        Ok(())
    }
}

/// The last two extents of a shape that has them.
fn matrix(shape: &[u64]) -> (usize, usize) {
    let [.., rows, cols] = shape else {
        return (1, shape.first().map_or(1, |&n| n as usize));
    };
    (*rows as usize, *cols as usize)
}
