//! The sums' way to D.
//!
//! ```text
//! registers ─ epilogue ─► staging, one piece a warpgroup ─ TMA ─► D
//! ```
//! A warpgroup writes its piece in the layout that the tensor copy reads (parts of 128, 64 or 32 bytes a row, swizzled
//! alike), and one thread sends it off. The next tile's sums are made while it leaves; before the staging is written again
//! that thread waits until it has been read. Stores end where the tensor does, and in the ragged forms where
//! the group does ([`MapAxes::Ragged`](mcc_ir::program::MapAxes)).

use mcc_ir::kernel::{Epilogue, GemmForm};
use mcc_ir::types::DType;

use super::Gemm;
use super::plan::{ROW_BYTES, WGMMA_ROWS};
use super::sums::{Consumer, Sums};
use super::walk::Tile;
use crate::emit::bulk::StoreMode;
use crate::emit::pipeline::Position;
use crate::emit::{F32, I32, Shared, Val};
use crate::kernels::roles::WARPGROUP;
use crate::kernels::row::{self, AMAX_FLOOR, E4M3_MAX};

/// Bytes of a unit of the swizzle.
const UNIT: u32 = 16;

impl<'k> Gemm<'k> {
    /// First columns of the parts of a piece.
    pub(super) fn parts_of_piece(&self) -> impl Iterator<Item = u32> + use<> {
        let plan = &self.plan;
        let (_, row) = plan.piece();
        let columns = plan.piece_columns();
        let parts = row / plan.span_bytes();
        (0..parts).map(move |part| part * columns / parts)
    }

    /// First row and column in D of part `columns` of warpgroup `group`'s piece.
    pub(super) fn place_in_d(
        &self,
        tile: Tile<'k>,
        group: Val<'k, I32>,
        columns: u32,
    ) -> (Val<'k, I32>, Val<'k, I32>) {
        let plan = &self.plan;
        let column = tile.n_tile * plan.d_columns() + columns;
        if plan.tile.swap {
            (tile.row, column + group * WGMMA_ROWS)
        } else {
            (tile.row + group * (WGMMA_ROWS * plan.waves_p), column)
        }
    }

    /// Coordinates of a box of D that is not ragged.
    pub(super) fn d_coordinates(
        &self,
        tile: Tile<'k>,
        row: Val<'k, I32>,
        column: Val<'k, I32>,
    ) -> Vec<Val<'k, I32>> {
        match self.plan.form {
            GemmForm::Dense | GemmForm::Grouped { .. } => vec![column, row],
            GemmForm::Batched { .. } => vec![column, tile.group, row],
            GemmForm::Masked { .. } | GemmForm::KGrouped { .. } => vec![column, row, tile.group],
        }
    }
}

impl<'k> Consumer<'k> {
    /// Writes a tile's sums.
    pub(super) fn finish(&self, tile: Tile<'k>, sums: &Sums<'k>, residual: Position<'k>) {
        let (k, plan) = (self.gemm.k, &self.gemm.plan);
        let write = || {
            // The thread that sent the last tile off waits for its staging; the others for that thread.
            k.if_(self.thread.eq(0), || k.bulk_wait_read());
            self.sync_group();
            match plan.epilogue {
                Epilogue::Store | Epilogue::Accumulate => self.stage_sums(sums),
                Epilogue::Add => {
                    self.stage_sums(sums);
                    self.add_residual(residual);
                }
                Epilogue::SwigluQuantize { weighted } => self.swiglu(tile, sums, weighted),
            }
            k.fence_proxy_async();
            self.sync_group();
            k.if_(self.thread.eq(0), || self.send(tile));
        };
        if plan.tile.split_k > 1 {
            k.if_(self.gemm.has_sums(), write);
        } else if plan.is_k_grouped() {
            let (begin, end) = self.gemm.k_bounds(tile);
            // A group without elements adds nothing, not even a positive zero to a negative one.
            k.if_(end.gt(begin), write);
        } else {
            write();
        }
    }

    /// Waits until shared memory may go away.
    pub(super) fn drain(&self) {
        let k = self.gemm.k;
        k.if_(self.thread.eq(0), || k.bulk_wait_read());
    }

    fn sync_group(&self) {
        self.gemm.k.sync_named(self.group + 1, WARPGROUP);
    }

    /// This warpgroup's piece.
    fn piece(&self, base: u32) -> Shared<'k> {
        let at = self.group * self.gemm.plan.smem.piece;
        self.gemm.k.smem().offset(base).at(at)
    }

    /// The swizzle's unit `unit` of row `row`, both counted in a part: `unit ^ bits of the row's address above 128`.
    fn swizzled(&self, row: Val<'k, I32>, unit: Val<'k, I32>) -> Val<'k, I32> {
        let span = self.gemm.plan.span_bytes();
        let rows = ROW_BYTES / span;
        let row = if rows == 1 { row } else { row.udiv(rows) };
        unit ^ (row & (span / UNIT - 1).cast_signed())
    }

    fn stage_sums(&self, sums: &Sums<'k>) {
        let plan = &self.gemm.plan;
        for (wave, sums) in sums.iter().enumerate() {
            let values: Vec<_> = sums.iter().map(|s| s.get()).collect();
            match (plan.tile.swap, plan.out) {
                (false, DType::F32) => self.stage_f32(wave as u32, &values),
                (false, _) => self.stage_bf16(wave as u32, &values),
                (true, DType::F32) => self.stage_f32_swapped(&values),
                (true, _) => self.stage_bf16_swapped(&values),
            }
        }
    }

    /// Rows of the fragment are rows of D: four 8x8 matrices, two groups of columns, at a time.
    fn stage_bf16(&self, wave: u32, values: &[Val<'k, F32>]) {
        let (k, plan) = (self.gemm.k, &self.gemm.plan);
        let span = plan.span_bytes();
        let part = plan.piece().0 * span;
        // Lane 8 i + r addresses row r of matrix i: matrices 1 and 3 are 8 rows below, 2 and 3 a unit to the right.
        let row = self.warp * 16 + (self.lane & 15) + (wave * WGMMA_ROWS).cast_signed();
        let right = self.lane.ushr(4);
        let line = self.piece(plan.smem.staging).at(row * span);
        let units = span / UNIT;
        for (pair, v) in values.chunks(8).enumerate() {
            let first = pair as u32 * 2;
            let unit = self.swizzled(row, right | (first % units).cast_signed());
            let at = line.offset(first / units * part).at(unit * UNIT);
            let m: Vec<_> = v.chunks(2).map(|v| k.pack_bf16x2(v[0], v[1])).collect();
            k.stmatrix(at, &m, false);
        }
    }

    fn stage_f32(&self, wave: u32, values: &[Val<'k, F32>]) {
        let plan = &self.gemm.plan;
        let span = plan.span_bytes();
        let part = plan.piece().0 * span;
        let (row, _) = self.fragment();
        let units = span / UNIT;
        for half in 0..2u32 {
            let row = row + (wave * WGMMA_ROWS + half * 8).cast_signed();
            let line = self.piece(plan.smem.staging).at(row * span);
            for (j, v) in values.chunks(4).enumerate() {
                // A group of 8 columns is two units; a thread's two columns are half of one.
                let first = j as u32 * 2;
                let unit = (self.lane & 3).ushr(1) | (first % units).cast_signed();
                let at = line
                    .offset(first / units * part)
                    .at(self.swizzled(row, unit) * UNIT + (self.lane & 1) * 8);
                let h = half as usize * 2;
                at.store_vec([v[h], v[h + 1]]);
            }
        }
    }

    /// Columns of the fragment are rows of D: stored transposed, a row of 8 is a unit.
    fn stage_bf16_swapped(&self, values: &[Val<'k, F32>]) {
        let (k, plan) = (self.gemm.k, &self.gemm.plan);
        let piece = self.piece(plan.smem.staging);
        // Lane 8 i + r addresses row r of matrix i: matrices 1 and 3 are the next unit, 2 and 3 eight rows below.
        let unit = self.warp * 2 + (self.lane.ushr(3) & 1);
        for (pair, v) in values.chunks(8).enumerate() {
            let below = if v.len() == 8 {
                self.lane.ushr(4) * 8
            } else {
                k.i32(0)
            };
            let row = (self.lane & 7) + below + (pair * 16) as i32;
            let at = piece.at(row * ROW_BYTES + self.swizzled(row, unit) * UNIT);
            let m: Vec<_> = v.chunks(2).map(|v| k.pack_bf16x2(v[0], v[1])).collect();
            k.stmatrix(at, &m, true);
        }
    }

    fn stage_f32_swapped(&self, values: &[Val<'k, F32>]) {
        let plan = &self.gemm.plan;
        let (n, t) = self.fragment();
        let part = (plan.piece().0 * ROW_BYTES).cast_signed();
        for (j, v) in values.chunks(4).enumerate() {
            for (i, v) in v.iter().enumerate() {
                let n = n + (i as i32 / 2) * 8;
                let t = t + (8 * j + i % 2) as i32;
                // 32 columns of D a part, four a unit.
                let unit = self.swizzled(t, (n & 31).ushr(2));
                let at = n.ushr(5) * part + t * ROW_BYTES + unit * UNIT + (n & 3) * 4;
                self.piece(plan.smem.staging).at(at).store(*v);
            }
        }
    }

    /// Adds the residual to what is staged, in the staging's layout.
    fn add_residual(&self, position: Position<'k>) {
        let (k, plan) = (self.gemm.k, &self.gemm.plan);
        self.gemm.residual_ring.wait(position);
        self.sync_group();
        let (rows, row_bytes) = plan.piece();
        let (staged, residual) = (
            self.piece(plan.smem.staging),
            self.piece(plan.smem.residual),
        );
        k.for_(self.thread, rows * row_bytes / UNIT, WARPGROUP, |unit| {
            let (to, from) = (staged.at(unit * UNIT), residual.at(unit * UNIT));
            if plan.out == DType::F32 {
                let (x, y): ([Val<'k, F32>; 4], [Val<'k, F32>; 4]) =
                    (to.load_vec(), from.load_vec());
                to.store_vec::<F32, 4>(std::array::from_fn(|i| x[i] + y[i]));
            } else {
                let (x, y): ([Val<'k, I32>; 4], [Val<'k, I32>; 4]) =
                    (to.load_vec(), from.load_vec());
                to.store_vec::<I32, 4>(std::array::from_fn(|i| {
                    let (x, y) = (x[i].unpack_bf16x2(), y[i].unpack_bf16x2());
                    k.pack_bf16x2(x[0] + y[0], x[1] + y[1])
                }));
            }
        });
        // All lanes have read before one says so.
        k.sync_warp();
        self.gemm.residual_ring.releaser(self.lane).leave(position);
        position.advance();
    }

    /// `swiglu`, the row's weight, `quantize`: gate and up are the two waves, the tile's columns one scale group.
    fn swiglu(&self, tile: Tile<'k>, sums: &Sums<'k>, weighted: bool) {
        let (k, plan) = (self.gemm.k, &self.gemm.plan);
        let round = |x: Val<'k, F32>, y: Val<'k, F32>| k.pack_bf16x2(x, y).unpack_bf16x2();
        let (row, column) = self.fragment();
        let first = tile.row + self.group * WGMMA_ROWS;
        for half in 0..2usize {
            let local = row + half as i32 * 8;
            let in_d = first + local;
            // Rows behind the group's end are not stored; they read what is there.
            let inside = in_d.lt(tile.row_end);
            let weight = weighted.then(|| {
                let last = in_d.min(tile.row_end - 1);
                let rows = match plan.form {
                    GemmForm::Masked { .. } => tile.group * k.arg_i32(plan.args.rows) + last,
                    _ => last,
                };
                k.arg_global(plan.args.row_weights)
                    .index(rows, 4)
                    .load::<F32>()
            });
            let pairs: Vec<[Val<'k, F32>; 2]> = (0..sums[0].len() / 4)
                .map(|j| {
                    let at = |wave: usize, c: usize| sums[wave][4 * j + 2 * half + c].get();
                    let gate = round(at(0, 0), at(0, 1));
                    let up = round(at(1, 0), at(1, 1));
                    let [x, y] = [0, 1].map(|c| row::swiglu(k, gate[c], up[c]));
                    let [x, y] = round(x, y);
                    match weight {
                        Some(w) => round(x * w, y * w),
                        None => [x, y],
                    }
                })
                .collect();
            let amax = pairs
                .iter()
                .flatten()
                .map(|v| v.abs())
                .reduce(|a, b| a.fmax(b))
                .unwrap_or_else(|| k.f32(0.0));
            // A row of the fragment is in four lanes.
            let amax = k.reduce(amax, 4, |a, b| a.fmax(b)).fmax(AMAX_FLOOR);
            let scale = amax / E4M3_MAX;
            let line = self.piece(plan.smem.staging).at(local * ROW_BYTES);
            for (j, v) in pairs.iter().enumerate() {
                let codes = k.pack_e4m3x2(v[0] / scale, v[1] / scale);
                let unit = self.swizzled(local, k.i32(j as u32 / 2));
                let byte = column + (j as i32 % 2) * 8;
                line.at(unit * UNIT + byte).store(codes);
            }
            k.if_((self.lane & 3).eq(0) & inside, || {
                let stride = k.arg_i32(plan.args.d_scales_stride).to_i64();
                let mut at = tile.n_tile.to_i64() * stride + in_d.to_i64();
                if let GemmForm::Masked { .. } = plan.form {
                    let groups = k.arg_i32(plan.args.d_scales_stride + 1).to_i64();
                    at = at + tile.group.to_i64() * groups;
                }
                k.arg_global(plan.args.d_scales).at(at * 4).store(scale);
            });
        }
    }

    /// Sends the piece off; one thread.
    fn send(&self, tile: Tile<'k>) {
        let (k, gemm, plan) = (self.gemm.k, &self.gemm, &self.gemm.plan);
        let (rows, _) = plan.piece();
        let part = rows * plan.span_bytes();
        let map = k.arg_tensor_map(plan.args.d);
        let mode = match plan.epilogue {
            Epilogue::Accumulate => StoreMode::Add,
            _ => StoreMode::Write,
        };
        let all = |coordinates: &dyn Fn(Val<'k, I32>, Val<'k, I32>) -> Vec<Val<'k, I32>>| {
            for (i, columns) in gemm.parts_of_piece().enumerate() {
                let (row, column) = gemm.place_in_d(tile, self.group, columns);
                let from = self.piece(plan.smem.staging).offset(i as u32 * part);
                k.tma_store(map, &coordinates(row, column), from, mode);
            }
            k.bulk_commit();
        };
        if plan.ragged() {
            let (row, _) = gemm.place_in_d(tile, self.group, 0);
            let valid = (tile.row_end - row).min(rows.cast_signed());
            k.if_(valid.gt(0), || {
                all(&|row, column| {
                    let mut at = vec![column, k.i32(rows) - valid, row + valid];
                    if let GemmForm::Masked { .. } = plan.form {
                        at.push(tile.group);
                    }
                    at
                });
            });
        } else {
            all(&|row, column| gemm.d_coordinates(tile, row, column));
        }
    }
}
