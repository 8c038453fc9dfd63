//! The store of an accumulator fragment straight from registers, where a kernel's output is too little to be staged.

use mcc_ir::types::DType;

use crate::emit::{F32, Global, I32, Kernel, Val};

/// Bytes of a tile's row: the span of the 128-byte swizzle, whatever the element type.
pub(crate) const ROW_BYTES: u32 = 128;

/// Rows and first columns that this thread holds of a 64-row accumulator fragment (see `emit::wgmma`).
#[derive(Clone, Copy)]
pub(crate) struct Fragment<'k> {
    /// Row of registers 0 and 1 of each group of four; the others are 8 rows below.
    pub row: Val<'k, I32>,
    /// Column of register 0.
    pub column: Val<'k, I32>,
}

impl<'k> Fragment<'k> {
    /// For thread `thread` of a warpgroup.
    pub fn new(thread: Val<'k, I32>) -> Self {
        let lane = thread & 31;
        Self {
            row: thread.ushr(5) * 16 + lane.ushr(2),
            column: (lane & 3) * 2,
        }
    }
}

/// Where a fragment goes.
pub(crate) struct Store<'k> {
    /// Address of element (0, 0) of the output.
    pub base: Global<'k>,
    /// Elements from one row to the next.
    pub stride: Val<'k, I32>,
    /// `BF16` or `F32`.
    pub dtype: DType,
    /// Columns of the output, a multiple of 8.
    pub columns: u32,
}

impl<'k> Store<'k> {
    /// Stores `values`, the fragment of a tile whose first column is `n0`; rows at or behind `row_end` and
    /// columns at or behind the output's are left out.
    pub fn fragment(
        &self,
        k: &'k Kernel,
        values: &[Val<'k, F32>],
        fragment: Fragment<'k>,
        row0: Val<'k, I32>,
        row_end: Val<'k, I32>,
        n0: Val<'k, I32>,
    ) {
        let bytes = if self.dtype == DType::F32 { 4 } else { 2 };
        for half in 0..2usize {
            let row = row0 + fragment.row + half as i32 * 8;
            k.if_(row.lt(row_end), || {
                let line = self.base.at((row.to_i64() * self.stride.to_i64()
                    + (n0 + fragment.column).to_i64())
                    * i64::from(bytes));
                for (j, chunk) in values.chunks_exact(4).enumerate() {
                    let (x, y) = (chunk[2 * half], chunk[2 * half + 1]);
                    let store = || {
                        let at = line.offset(j as u32 * 8 * bytes);
                        if self.dtype == DType::F32 {
                            at.store_vec([x, y]);
                        } else {
                            at.store(k.pack_bf16x2(x, y));
                        }
                    };
                    // Columns come in blocks of 8, which are inside or outside as a whole.
                    if self.columns.is_multiple_of(values.len() as u32 * 2) {
                        store();
                    } else {
                        k.if_((n0 + j as i32 * 8).lt(self.columns.cast_signed()), store);
                    }
                }
            });
        }
    }
}
