//! Numbers the parameters of a pointer-based kernel: operand order in, launch parameters out.

use mcc_ir::program::Param;

use super::row::{CHUNK, QuantRow, bf16_at};
use crate::emit::{Global, I32, Kernel, Val};

/// Parameters collected in operand order; the returned handles are parameter positions.
#[derive(Default)]
pub(crate) struct Params {
    /// For the launch.
    pub list: Vec<Param>,
    operands: usize,
}

/// A matrix operand: pointer and row stride.
#[derive(Clone, Copy)]
pub(crate) struct MatrixArg {
    pub pointer: usize,
    pub stride: usize,
}

/// The scales of an activation: pointer and stride between groups.
#[derive(Clone, Copy)]
pub(crate) struct ScalesArg {
    pub pointer: usize,
    pub stride: usize,
}

impl Params {
    fn push(&mut self, p: Param) -> usize {
        self.list.push(p);
        self.list.len() - 1
    }

    fn operand(&mut self) -> usize {
        self.operands += 1;
        self.operands - 1
    }

    /// The next operand is contiguous, or of one axis: its pointer.
    pub fn pointer(&mut self) -> usize {
        let operand = self.operand();
        self.push(Param::Pointer { operand })
    }

    /// The next operand is a matrix with a row stride.
    pub fn matrix(&mut self) -> MatrixArg {
        let operand = self.operand();
        MatrixArg {
            pointer: self.push(Param::Pointer { operand }),
            stride: self.push(Param::Stride { operand, axis: 0 }),
        }
    }

    /// The next operand holds activation scales `[M, groups]`, MN-major.
    pub fn scales(&mut self) -> ScalesArg {
        let operand = self.operand();
        ScalesArg {
            pointer: self.push(Param::Pointer { operand }),
            stride: self.push(Param::Stride { operand, axis: 1 }),
        }
    }

    /// The run-time extent of an axis of operand `operand`.
    pub fn extent(&mut self, operand: usize, axis: usize) -> usize {
        self.push(Param::Extent { operand, axis })
    }

    /// The stride of an axis of operand `operand`.
    pub fn stride(&mut self, operand: usize, axis: usize) -> usize {
        self.push(Param::Stride { operand, axis })
    }
}

/// Address of a chunk of row `row` of a BF16 matrix.
pub(crate) fn chunk_at<'k>(
    k: &'k Kernel,
    m: MatrixArg,
    row: Val<'k, I32>,
    chunk: Val<'k, I32>,
) -> Global<'k> {
    bf16_at(
        k.arg_global(m.pointer),
        row,
        k.arg_i32(m.stride),
        chunk * CHUNK,
    )
}

impl<'k> QuantRow<'k> {
    /// Row `row` of a quantised matrix.
    pub fn of(k: &'k Kernel, codes: MatrixArg, scales: ScalesArg, row: Val<'k, I32>) -> Self {
        Self {
            codes: k
                .arg_global(codes.pointer)
                .at(row.to_i64() * k.arg_i32(codes.stride).to_i64()),
            scales: k.arg_global(scales.pointer).index(row, 4),
            scale_stride: k.arg_i32(scales.stride),
        }
    }
}
