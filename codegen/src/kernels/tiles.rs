//! Shared by the GEMM families: the ring of operand tiles, the persistent walk over output tiles, and the
//! store of a fragment.

use mcc_ir::program::Expr;
use mcc_ir::types::DType;

use super::roles::Roles;
use crate::emit::pipeline::{Position, Ring, RingLayout, SmemMap};
use crate::emit::{B1, F32, Global, I32, I64, Kernel, Shared, TensorMapArg, Val, Var};

/// Bytes of a tile's row: the span of the 128-byte swizzle, whatever the element type.
pub(crate) const ROW_BYTES: u32 = 128;

/// Shared memory of a GEMM: stages of an A tile and a B tile, both swizzled, then the ring's barriers.
#[derive(Clone, Copy)]
pub(crate) struct Stages {
    /// Bytes from one stage to the next.
    pub bytes: u32,
    /// Where B begins in a stage.
    pub b_offset: u32,
    /// Bytes that a stage's copies bring: the whole boxes, also where they lie outside of the tensors.
    pub copied: u32,
    /// The barriers.
    pub ring: RingLayout,
    /// Bytes of it all.
    pub total: u32,
}

impl Stages {
    /// For tiles of `tile_m` and `tile_n` rows of 128 bytes.
    pub fn new(tile_m: u32, tile_n: u32, stages: u32) -> Self {
        let a = tile_m * ROW_BYTES;
        // The swizzle pattern repeats every 1024 bytes, so tiles start at multiples of that.
        let bytes = a + (tile_n * ROW_BYTES).next_multiple_of(1024);
        let mut map = SmemMap::default();
        map.reserve(bytes * stages, 1024);
        let ring = RingLayout::reserve(&mut map, stages);
        Self {
            bytes,
            b_offset: a,
            copied: (tile_m + tile_n) * ROW_BYTES,
            ring,
            total: map.bytes(),
        }
    }

    /// The kernel's prologue; `maps` are the positions of its tensor maps.
    pub fn prepare(self, k: &Kernel, consumers: u32, maps: &[usize]) {
        Roles {
            consumers,
            maps,
            rings: &[Ring::new(k, k.smem(), self.ring)],
        }
        .prepare(k);
    }

    /// The stage at a position.
    pub fn at<'k>(&self, k: &'k Kernel, position: Position<'k>) -> Shared<'k> {
        k.smem().at(position.stage() * self.bytes)
    }

    /// Descriptors of the 64 A rows of consumer `consumer` and of B, `depth` bytes into K.
    pub fn descriptors<'k>(
        &self,
        k: &'k Kernel,
        position: Position<'k>,
        consumer: Val<'k, I32>,
        depth: u32,
    ) -> (Val<'k, I64>, Val<'k, I64>) {
        let stage = self.at(k, position);
        let a = stage.at(consumer * (64 * ROW_BYTES)).offset(depth);
        let b = stage.offset(self.b_offset + depth);
        (k.descriptor_128b(a, 0, 1024), k.descriptor_128b(b, 0, 1024))
    }
}

/// Which axes the operands have besides rows and K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A `[M, K]`, B `[N, K]`.
    Dense,
    /// A `[M, H, K]`, B `[H, N, K]`.
    Batched,
    /// A `[M, K]`, B `[E, N, K]`.
    Grouped,
}

impl Form {
    /// Boxes of the tensor maps of A and B, innermost axis first.
    pub fn boxes(self, block_k: u32, tile_m: u32, tile_n: u32) -> (Vec<u32>, Vec<u32>) {
        match self {
            Self::Dense => (vec![block_k, tile_m], vec![block_k, tile_n]),
            Self::Batched => (vec![block_k, 1, tile_m], vec![block_k, tile_n, 1]),
            Self::Grouped => (vec![block_k, tile_m], vec![block_k, tile_n, 1]),
        }
    }
}

/// The producer's side of a GEMM: fills the ring with the operand tiles of every output tile.
pub(crate) struct Producer<'k> {
    /// Tensor maps.
    pub a: TensorMapArg<'k>,
    pub b: TensorMapArg<'k>,
    pub stages: Stages,
    pub ring: Ring<'k>,
    pub form: Form,
    /// K elements of a stage, and stages of a tile.
    pub block_k: u32,
    pub k_blocks: u32,
    /// Columns of a tile.
    pub tile_n: u32,
}

impl<'k> Producer<'k> {
    /// The warp walks together; the leader waits and issues.
    pub fn run(&self, k: &'k Kernel, walk: Walk<'k>, shape: TileShape, leader: Val<'k, B1>) {
        let position = self.ring.producer();
        walk.for_each(k, shape, |tile| {
            let column = tile.n_tile * self.tile_n;
            k.if_(leader, || {
                k.for_(0, self.k_blocks, 1, |block| {
                    self.ring.acquire(position, self.stages.copied);
                    let full = self.ring.full(position);
                    let to_a = self.stages.at(k, position);
                    let to_b = to_a.offset(self.stages.b_offset);
                    let depth = block * self.block_k;
                    let (from_a, from_b) = match self.form {
                        Form::Dense => (vec![depth, tile.row], vec![depth, column]),
                        Form::Batched => {
                            let a = vec![depth, tile.group, tile.row];
                            (a, vec![depth, column, tile.group])
                        }
                        Form::Grouped => (vec![depth, tile.row], vec![depth, column, tile.group]),
                    };
                    k.tma_load(to_a, self.a, &from_a, full);
                    k.tma_load(to_b, self.b, &from_b, full);
                    position.advance();
                });
            });
            k.sync_warp();
        });
    }
}

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

impl TileShape {
    /// Consumer warpgroups: 64 rows each.
    pub const fn consumers(self) -> u32 {
        self.m / 64
    }
}

impl Walk<'_> {
    /// Blocks to launch: one a tile, at most one an SM; the rest is walked. `rows` is operand 0's axis 0.
    pub fn grid(shape: TileShape, groups: Option<u32>, batch: Option<u32>) -> Expr {
        let m_tiles = Expr::CeilDiv(
            Box::new(Expr::Extent {
                operand: 0,
                axis: 0,
            }),
            u64::from(shape.m),
        );
        // Each group that has rows ends in at most one partial tile, and no tile is without a row.
        let rows = || Expr::Extent {
            operand: 0,
            axis: 0,
        };
        let m_tiles = match groups {
            Some(g) => {
                let partial = Expr::Min(vec![Expr::Const(u64::from(g)), rows()]);
                Expr::Min(vec![rows(), Expr::Add(vec![m_tiles, partial])])
            }
            None => m_tiles,
        };
        let columns = u64::from(shape.n_tiles) * u64::from(batch.unwrap_or(1));
        Expr::Min(vec![
            Expr::Sms,
            Expr::Mul(vec![m_tiles, Expr::Const(columns)]),
        ])
    }
}

impl<'k> Walk<'k> {
    /// Calls `body` for every tile of this block; whole warps walk together. Row tiles run fastest, so that blocks that work at the
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
                    body(Tile {
                        row,
                        row_end: rows,
                        n_tile,
                        group,
                    });
                });
            }
            Self::Grouped { offsets, groups } => {
                let search = GroupSearch::new(k, offsets, groups, shape);
                let tile = k.var(k.block_x());
                k.while_(
                    || search.find(tile.get()),
                    || {
                        let (begin, end) = (search.begin.get(), search.end.get());
                        let m_tiles = (end - begin + (shape.m - 1)).udiv(shape.m);
                        let rest = tile.get() - search.first_tile.get();
                        let n_tile = rest.udiv(m_tiles);
                        let row = begin + (rest - n_tile * m_tiles) * shape.m;
                        body(Tile {
                            row,
                            row_end: end,
                            n_tile,
                            group: search.group.get(),
                        });
                        tile.update(|t| t + k.grid_x());
                    },
                );
            }
        }
    }
}

/// Finds the group of a tile, 32 groups at a time: lane l counts the tiles of group `base + l`, a prefix sum
/// over the lanes says where each group's tiles begin. Tiles are asked for in increasing order.
struct GroupSearch<'k> {
    k: &'k Kernel,
    offsets: Global<'k>,
    groups: u32,
    shape: TileShape,
    /// First of the 32 groups in view, and the tiles before it.
    base: Var<'k, I32>,
    before: Var<'k, I32>,
    /// The group found, its rows and its first tile.
    group: Var<'k, I32>,
    begin: Var<'k, I32>,
    end: Var<'k, I32>,
    first_tile: Var<'k, I32>,
}

impl<'k> GroupSearch<'k> {
    fn new(k: &'k Kernel, offsets: Global<'k>, groups: u32, shape: TileShape) -> Self {
        let zero = || k.var(k.i32(0));
        Self {
            k,
            offsets,
            groups,
            shape,
            base: zero(),
            before: zero(),
            group: zero(),
            begin: zero(),
            end: zero(),
            first_tile: zero(),
        }
    }

    /// Whether `tile` exists; its group is then in the fields. All lanes of the warp call it together.
    fn find(&self, tile: Val<'k, I32>) -> Val<'k, B1> {
        let k = self.k;
        let lane = k.lane();
        let groups = self.groups.cast_signed();
        let searching = k.var(k.i32(1));
        let found = k.var(k.i32(0));
        k.while_(
            || searching.get().ne(0) & self.base.get().lt(groups),
            || {
                // Lanes behind the last group see an empty one.
                let group = self.base.get() + lane;
                let begin = self.offsets.index(group.min(groups), 4).load::<I32>();
                let end = self.offsets.index((group + 1).min(groups), 4).load::<I32>();
                let tiles =
                    (end - begin + (self.shape.m - 1)).udiv(self.shape.m) * self.shape.n_tiles;
                let mut upto = tiles;
                for distance in [1u32, 2, 4, 8, 16] {
                    let left = k.shfl_up(upto, distance);
                    upto = lane.ge(distance.cast_signed()).select(upto + left, upto);
                }
                let last = self.before.get() + upto;
                let votes = k.ballot(last.gt(tile));
                k.if_else(
                    votes.eq(0),
                    || {
                        // The inclusive prefix of the last lane is the sum of all.
                        self.before.set(k.shfl_idx(last, k.i32(31)));
                        self.base.update(|b| b + 32);
                    },
                    || {
                        // The first lane that voted: the number of zeros below the lowest bit.
                        let winner = k.popc((votes & (k.i32(0) - votes)) - 1);
                        self.group.set(self.base.get() + winner);
                        self.begin.set(k.shfl_idx(begin, winner));
                        self.end.set(k.shfl_idx(end, winner));
                        self.first_tile.set(k.shfl_idx(last - tiles, winner));
                        searching.set(k.i32(0));
                        found.set(k.i32(1));
                    },
                );
            },
        );
        found.get().ne(0)
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
