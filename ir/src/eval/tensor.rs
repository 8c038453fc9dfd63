//! Concrete values: a shape of numbers and data that is already rounded to its element type.
//!
//! BF16 data is held as `f32` values that BF16 represents exactly; block-scaled data as codes and
//! scales, both row-major. Every constructor checks lengths and rounds, so that a [`Tensor`] is
//! always well-formed.

use std::fmt;

use crate::numerics::{self, bf16_value, e4m3_value, round_bf16};
use crate::types::{DType, Dim, ScaleBlock, Type};

/// A value of the evaluator.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

/// The numbers of a [`Tensor`], row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Any `f32`.
    F32(Vec<f32>),
    /// `f32` values on the BF16 grid.
    Bf16(Vec<f32>),
    /// Integers.
    I32(Vec<i32>),
    /// E4M3 codes and the scales of their blocks.
    Scaled(Scaled),
}

/// Codes and scales of a block-scaled value.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaled {
    /// One code per element.
    pub codes: Vec<u8>,
    /// `[.., ceil(rows / block.rows), ceil(cols / block.cols)]`.
    pub scales: Vec<f32>,
    /// What one scale covers of the last two axes.
    pub block: ScaleBlock,
}

/// Data whose length does not fit the shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} of a tensor of shape {shape:?}: expected {expected}, got {got}")]
pub struct TensorError {
    /// `elements`, `scales` or `axes`.
    pub what: &'static str,
    /// The shape asked for.
    pub shape: Vec<usize>,
    /// How many it needs.
    pub expected: usize,
    /// How many came.
    pub got: usize,
}

impl Tensor {
    /// FP32 data.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Result<Tensor, TensorError> {
        check("elements", shape, shape.iter().product(), data.len())?;
        Ok(Tensor {
            shape: shape.to_vec(),
            data: Data::F32(data),
        })
    }

    /// BF16 data, rounded here when it is not on the grid yet.
    pub fn bf16(shape: &[usize], mut data: Vec<f32>) -> Result<Tensor, TensorError> {
        check("elements", shape, shape.iter().product(), data.len())?;
        data.iter_mut().for_each(|v| *v = round_bf16(*v));
        Ok(Tensor {
            shape: shape.to_vec(),
            data: Data::Bf16(data),
        })
    }

    /// BF16 data from its bits.
    pub fn bf16_bits(shape: &[usize], bits: &[u16]) -> Result<Tensor, TensorError> {
        Tensor::bf16(shape, bits.iter().map(|b| bf16_value(*b)).collect())
    }

    /// Integer data.
    pub fn i32(shape: &[usize], data: Vec<i32>) -> Result<Tensor, TensorError> {
        check("elements", shape, shape.iter().product(), data.len())?;
        Ok(Tensor {
            shape: shape.to_vec(),
            data: Data::I32(data),
        })
    }

    /// Block-scaled data; scales as [`scale_shape`] says.
    pub fn scaled(
        shape: &[usize],
        codes: Vec<u8>,
        scales: Vec<f32>,
        block: ScaleBlock,
    ) -> Result<Tensor, TensorError> {
        let axes = if block.rows > 1 { 2 } else { 1 };
        if shape.len() < axes {
            check("axes", shape, axes, shape.len())?;
        }
        check("elements", shape, shape.iter().product(), codes.len())?;
        check(
            "scales",
            shape,
            scale_shape(shape, block).iter().product(),
            scales.len(),
        )?;
        Ok(Tensor {
            shape: shape.to_vec(),
            data: Data::Scaled(Scaled {
                codes,
                scales,
                block,
            }),
        })
    }

    /// Quantises the last axis in groups of 128 (`docs/model.md`, "E4M3 block quantisation").
    pub fn quantized(shape: &[usize], data: &[f32]) -> Result<Tensor, TensorError> {
        let width = shape.last().copied().unwrap_or(0);
        let q = numerics::quantize_rows(data, width);
        Tensor::scaled(shape, q.codes, q.scales, ScaleBlock::ACTIVATION)
    }

    /// Quantises each matrix of the last two axes in 128x128 blocks, as checkpoints store weights.
    pub fn quantized_weight(shape: &[usize], data: &[f32]) -> Result<Tensor, TensorError> {
        Tensor::quantized_blocks(shape, data, ScaleBlock::WEIGHT)
    }

    /// Quantises each matrix of the last two axes in such blocks.
    pub fn quantized_blocks(
        shape: &[usize],
        data: &[f32],
        block: ScaleBlock,
    ) -> Result<Tensor, TensorError> {
        let (rows, cols) = match *shape {
            [.., rows, cols] => (rows, cols),
            [cols] if block.rows == 1 => (1, cols),
            _ => {
                return Err(TensorError {
                    what: "axes",
                    shape: shape.to_vec(),
                    expected: 2,
                    got: shape.len(),
                });
            }
        };
        check("elements", shape, shape.iter().product(), data.len())?;
        let (block_rows, block_cols) = (block.rows as usize, block.cols as usize);
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for matrix in data.chunks_exact((rows * cols).max(1)) {
            let q = numerics::quantize_blocks(matrix, rows, cols, block_rows, block_cols);
            codes.extend(q.codes);
            scales.extend(q.scales);
        }
        Tensor::scaled(shape, codes, scales, block)
    }

    /// Zeros of a type: scales are those of an all-zero group.
    pub fn zeros(dtype: DType, shape: &[usize], block: Option<ScaleBlock>) -> Tensor {
        let n = shape.iter().product();
        let data = match (dtype, block) {
            (DType::F32, _) => Data::F32(vec![0.0; n]),
            (DType::BF16, _) => Data::Bf16(vec![0.0; n]),
            (DType::I32, _) => Data::I32(vec![0; n]),
            (DType::E4M3, block) => {
                let block = block.unwrap_or(ScaleBlock::ACTIVATION);
                let scales =
                    vec![numerics::block_scale(0.0); scale_shape(shape, block).iter().product()];
                Data::Scaled(Scaled {
                    codes: vec![0; n],
                    scales,
                    block,
                })
            }
        };
        Tensor {
            shape: shape.to_vec(),
            data,
        }
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The data itself.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            Data::F32(_) => DType::F32,
            Data::Bf16(_) => DType::BF16,
            Data::I32(_) => DType::I32,
            Data::Scaled(_) => DType::E4M3,
        }
    }

    /// The type with constant dims.
    pub fn ty(&self) -> Type {
        let shape = self.shape.iter().map(|&d| Dim::Const(d as u64)).collect();
        let scale = self.as_scaled().map(|s| s.block);
        Type {
            dtype: self.dtype(),
            shape,
            scale,
        }
    }

    /// FP32 or BF16 data as `f32`.
    pub fn as_float(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(v) | Data::Bf16(v) => Some(v),
            _ => None,
        }
    }

    /// Integer data.
    pub fn as_i32(&self) -> Option<&[i32]> {
        match &self.data {
            Data::I32(v) => Some(v),
            _ => None,
        }
    }

    /// Block-scaled data.
    pub fn as_scaled(&self) -> Option<&Scaled> {
        match &self.data {
            Data::Scaled(s) => Some(s),
            _ => None,
        }
    }

    /// Every element as the number it stands for, whatever its type (block-scaled: `code * scale`,
    /// exact).
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            Data::F32(v) | Data::Bf16(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::I32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Data::Scaled(s) => {
                let scale = |i| f64::from(s.scales[scale_index(&self.shape, s.block, i)]);
                s.codes
                    .iter()
                    .enumerate()
                    .map(|(i, &c)| f64::from(e4m3_value(c)) * scale(i))
                    .collect()
            }
        }
    }

    /// Rows `start..start + len` of axis 0.
    ///
    /// Only whole scale blocks can be cut off in front when axis 0 is one of the scaled ones.
    pub fn rows(&self, start: usize, len: usize) -> Option<Tensor> {
        let parts = super::layout::slice(self, 0, start, len)?;
        Some(parts)
    }

    /// The same data seen with another shape of as many elements, and as many scales in the same
    /// order.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Tensor> {
        let same = shape.iter().product::<usize>() == self.shape.iter().product::<usize>();
        let scales_fit = self.as_scaled().is_none_or(|s| {
            let count = |shape: &[usize]| scale_shape(shape, s.block).iter().product::<usize>();
            !shape.is_empty() && count(shape) == count(&self.shape)
        });
        (same && scales_fit).then(|| Tensor {
            shape: shape.to_vec(),
            data: self.data.clone(),
        })
    }
}

/// Shape of the scales over a value of `shape`.
pub fn scale_shape(shape: &[usize], block: ScaleBlock) -> Vec<usize> {
    let mut out = shape.to_vec();
    let rank = out.len();
    if let Some(cols) = out.last_mut() {
        *cols = cols.div_ceil(block.cols.max(1) as usize);
    }
    if rank >= 2 {
        out[rank - 2] = out[rank - 2].div_ceil(block.rows.max(1) as usize);
    }
    out
}

/// Index of the scale that covers element `i` of a value of `shape`.
fn scale_index(shape: &[usize], block: ScaleBlock, i: usize) -> usize {
    let cols = shape.last().copied().unwrap_or(1);
    let rows = shape.iter().rev().nth(1).copied().unwrap_or(1);
    let (grid_rows, grid_cols) = (
        rows.div_ceil(block.rows as usize),
        cols.div_ceil(block.cols as usize),
    );
    let (col, row, matrix) = (i % cols, i / cols % rows, i / cols / rows);
    (matrix * grid_rows + row / block.rows as usize) * grid_cols + col / block.cols as usize
}

fn check(
    what: &'static str,
    shape: &[usize],
    expected: usize,
    got: usize,
) -> Result<(), TensorError> {
    if expected == got {
        return Ok(());
    }
    Err(TensorError {
        what,
        shape: shape.to_vec(),
        expected,
        got,
    })
}

impl fmt::Display for Tensor {
    /// The type and the first few numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [", self.ty())?;
        let values = self.to_f64();
        for (i, v) in values.iter().take(8).enumerate() {
            write!(f, "{}{v}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str(if values.len() > 8 { ", ..]" } else { "]" })
    }
}
