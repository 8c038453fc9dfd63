//! Shared by the matrix families: the persistent walk over output tiles, and the store of a fragment.

use mcc_ir::program::Expr;
use mcc_ir::types::DType;

use crate::emit::{F32, Global, I32, Kernel, Val};

/// One output tile.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'k> {
    /// First row.
    pub row: Val<'k, I32>,
    /// Rows from here on belong to another group or to nobody.
    pub row_end: Val<'k, I32>,
    /// Index of the column tile.
    pub n_tile: Val<'k, I32>,
    /// Expert or head; 0 in the dense form.
    pub group: Val<'k, I32>,
}

/// How the tiles of a launch are enumerated. Producer and consumers walk alike.
#[derive(Clone, Copy)]
pub(crate) enum Walk<'k> {
    /// `rows` rows, `batch` independent products.
    Dense { rows: Val<'k, I32>, batch: u32 },
    /// Rows `offsets[g]..offsets[g + 1]` are group g; tiles never cross groups.
    Grouped { offsets: Global<'k>, groups: u32 },
}

/// Tile extents of a walk.
#[derive(Clone, Copy)]
pub(crate) struct TileShape {
    /// Rows a tile.
    pub m: u32,
    /// Column tiles of the output.
    pub n_tiles: u32,
}

impl Walk<'_> {
    /// Blocks to launch: one a tile, at most one an SM (every kernel of these families fills an SM's
    /// shared memory), the rest is walked. `rows` is operand 0's axis 0.
    pub fn grid(shape: TileShape, groups: Option<u32>, batch: Option<u32>) -> Expr {
        let m_tiles = Expr::CeilDiv(Box::new(Expr::Extent { operand: 0, axis: 0 }), u64::from(shape.m));
        // Each group ends in at most one partial tile.
        let m_tiles = match groups {
            Some(g) => Expr::Add(vec![m_tiles, Expr::Const(u64::from(g))]),
            None => m_tiles,
        };
        let columns = u64::from(shape.n_tiles) * u64::from(batch.unwrap_or(1));
        Expr::Min(vec![Expr::Sms, Expr::Mul(vec![m_tiles, Expr::Const(columns)])])
    }
}

impl<'k> Walk<'k> {
    /// Calls `body` for every tile of this block. Row tiles run fastest, so that blocks that work at the
    /// same time share columns of B in L2.
    pub fn for_each(self, k: &'k Kernel, shape: TileShape, body: impl FnOnce(Tile<'k>)) {
        match self {
            Self::Dense { rows, batch } => {
                let m_tiles = (rows + (shape.m - 1)).udiv(shape.m);
                let per_batch = m_tiles * shape.n_tiles;
                let total = per_batch * batch;
                k.for_(k.block_x(), total, k.grid_x(), |t| {
                    let (group, rest) = if batch == 1 {
                        (k.i32(0), t)
                    } else {
                        let g = t.udiv(per_batch);
                        (g, t - g * per_batch)
                    };
                    let n_tile = rest.udiv(m_tiles);
                    let row = (rest - n_tile * m_tiles) * shape.m;
                    body(Tile { row, row_end: rows, n_tile, group });
                });
            }
            Self::Grouped { offsets, groups } => {
                // The walk keeps the current group, its rows and the number of tiles before it.
                let tile = k.var(k.block_x());
                let group = k.var(k.i32(0));
                let before = k.var(k.i32(0));
                let begin = k.var(offsets.load::<I32>());
                let end = k.var(offsets.offset(4).load::<I32>());
                let tiles = |b: Val<'k, I32>, e: Val<'k, I32>| (e - b + (shape.m - 1)).udiv(shape.m) * shape.n_tiles;
                let find = || {
                    k.while_(
                        || {
                            let here = tiles(begin.get(), end.get());
                            group.get().lt(groups.cast_signed()) & tile.get().ge(before.get() + here)
                        },
                        || {
                            before.update(|b| b + tiles(begin.get(), end.get()));
                            group.update(|g| g + 1);
                            // Behind the last group the walk ends; its offset is never read.
                            let next = group.get().min(groups.cast_signed() - 1);
                            begin.set(offsets.index(next, 4).load());
                            end.set(offsets.index(next + 1, 4).load());
                        },
                    );
                };
                k.while_(
                    || {
                        find();
                        group.get().lt(groups.cast_signed())
                    },
                    || {
                        let m_tiles = (end.get() - begin.get() + (shape.m - 1)).udiv(shape.m);
                        let rest = tile.get() - before.get();
                        let n_tile = rest.udiv(m_tiles);
                        let row = begin.get() + (rest - n_tile * m_tiles) * shape.m;
                        body(Tile { row, row_end: end.get(), n_tile, group: group.get() });
                        tile.update(|t| t + k.grid_x());
                    },
                );
            }
        }
    }
}

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
        Self { row: thread.ushr(5) * 16 + lane.ushr(2), column: (lane & 3) * 2 }
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
                let line = self.base.at((row.to_i64() * self.stride.to_i64() + (n0 + fragment.column).to_i64()) * i64::from(bytes));
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
