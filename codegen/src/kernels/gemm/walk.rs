//! The persistent walk over output tiles. Producer and consumers walk alike.
//!
//! In: the plan and the run-time bounds. Out: for each of this block's tiles a [`Tile`]. A cluster takes one step of the
//! walk together: the step's tile is that of both blocks, widened along the axis in which they are neighbours.
//!
//! Within a group (or head, or the whole of a dense product) column tiles of `raster` row tiles each are worked off, row
//! tiles fastest, so that blocks that run at the same time share rows of A and columns of B in L2.

use mcc_ir::kernel::{GemmForm, Share};

use super::plan::Plan;
use crate::emit::{B1, Global, I32, Kernel, Val, Var};

/// One output tile.
#[derive(Clone, Copy)]
pub(super) struct Tile<'k> {
    /// First row; in the masked form, of the group's.
    pub row: Val<'k, I32>,
    /// Rows from here on belong to another group or to nobody.
    pub row_end: Val<'k, I32>,
    /// Index of the column tile.
    pub n_tile: Val<'k, I32>,
    /// Expert or head; 0 in the dense form.
    pub group: Val<'k, I32>,
}

/// A place in the walk of one group.
struct Step<'k> {
    m: Val<'k, I32>,
    n: Val<'k, I32>,
}

impl Plan {
    /// Calls `body` for every tile of this block; whole warps walk together.
    pub(super) fn for_each_tile<'k>(&self, k: &'k Kernel, body: impl FnOnce(Tile<'k>)) {
        let cluster = self.cluster();
        let (first, stride) = if cluster > 1 {
            (k.block_x().udiv(cluster), k.grid_x().udiv(cluster))
        } else {
            (k.block_x(), k.grid_x())
        };
        let rows = k.arg_i32(self.args.rows);
        let (m, columns) = (self.super_rows(), self.super_columns());
        match self.form {
            GemmForm::Dense | GemmForm::Batched { .. } | GemmForm::KGrouped { .. } => {
                let batch = match self.form {
                    GemmForm::Batched { heads } => heads,
                    GemmForm::KGrouped { groups } => groups,
                    _ => 1,
                };
                let m_tiles = (rows + (m - 1)).udiv(m);
                let per_batch = m_tiles * columns;
                k.for_(first, per_batch * batch, stride, |t| {
                    let (group, rest) = if batch == 1 {
                        (k.i32(0), t)
                    } else {
                        let g = t.udiv(per_batch);
                        (g, t - g * per_batch)
                    };
                    let step = self.step(rest, m_tiles);
                    body(self.tile(k, &step, k.i32(0), rows, group));
                });
            }
            GemmForm::Grouped { groups } | GemmForm::Masked { groups } => {
                let bounds = k.arg_global(self.args.bounds);
                let search = GroupSearch::new(k, bounds, groups, self);
                let tile = k.var(first);
                k.while_(
                    || search.find(tile.get()),
                    || {
                        let (begin, end) = (search.begin.get(), search.end.get());
                        let m_tiles = (end - begin + (m - 1)).udiv(m);
                        let step = self.step(tile.get() - search.first_tile.get(), m_tiles);
                        body(self.tile(k, &step, begin, end, search.group.get()));
                        tile.update(|t| t + stride);
                    },
                );
            }
        }
    }

    /// Where step `t` of a group of `m_tiles` row tiles is.
    fn step<'k>(&self, t: Val<'k, I32>, m_tiles: Val<'k, I32>) -> Step<'k> {
        let raster = self.tile.raster;
        let band = t.udiv(raster * self.super_columns());
        let first = band * raster;
        // The last band may have fewer rows.
        let height = (m_tiles - first).min(raster.cast_signed());
        let rest = t - first * self.super_columns();
        let n = rest.udiv(height);
        Step {
            m: first + rest - n * height,
            n,
        }
    }

    fn tile<'k>(
        &self,
        k: &'k Kernel,
        step: &Step<'k>,
        begin: Val<'k, I32>,
        row_end: Val<'k, I32>,
        group: Val<'k, I32>,
    ) -> Tile<'k> {
        let (row, n_tile) = (begin + step.m * self.super_rows(), step.n);
        let (row, n_tile) = match self.tile.share {
            Share::None => (row, n_tile),
            Share::A => (row, n_tile * 2 + k.cluster_rank()),
            Share::B => (row + k.cluster_rank() * self.tile.m, n_tile),
        };
        Tile {
            row,
            row_end,
            n_tile,
            group,
        }
    }
}

/// Finds the group of a tile, 32 groups at a time: lane l counts the tiles of group `base + l`, a prefix sum
/// over the lanes says where each group's tiles begin. Tiles are asked for in increasing order.
struct GroupSearch<'k> {
    k: &'k Kernel,
    /// Offsets, or counts in the masked form.
    bounds: Global<'k>,
    groups: u32,
    masked: bool,
    rows_a_tile: u32,
    columns: u32,
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
    fn new(k: &'k Kernel, bounds: Global<'k>, groups: u32, plan: &Plan) -> Self {
        let zero = || k.var(k.i32(0));
        Self {
            k,
            bounds,
            groups,
            masked: matches!(plan.form, GemmForm::Masked { .. }),
            rows_a_tile: plan.super_rows(),
            columns: plan.super_columns(),
            base: zero(),
            before: zero(),
            group: zero(),
            begin: zero(),
            end: zero(),
            first_tile: zero(),
        }
    }

    /// Rows `begin..end` of group `g`; lanes behind the last group see an empty one.
    fn rows_of(&self, g: Val<'k, I32>) -> (Val<'k, I32>, Val<'k, I32>) {
        let groups = self.groups.cast_signed();
        if self.masked {
            let count = self.bounds.index(g.min(groups - 1), 4).load::<I32>();
            let zero = self.k.i32(0);
            return (zero, g.lt(groups).select(count, zero));
        }
        let at = |g: Val<'k, I32>| self.bounds.index(g.min(groups), 4).load::<I32>();
        (at(g), at(g + 1))
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
                let (begin, end) = self.rows_of(self.base.get() + lane);
                let rows = self.rows_a_tile;
                let tiles = (end - begin + (rows - 1)).udiv(rows) * self.columns;
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
