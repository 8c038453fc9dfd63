//! The producer: one thread that keeps the ring of operand tiles full, the scales beside them, and the residual.
//!
//! In: the tiles of the walk. Out: for each K block of each tile, in order, a stage with A, B and their scales. What lies
//! outside of the tensors arrives as zeros.
//!
//! Scales of A come by tensor copy, as do B's where they are a row's. The scales of 128x128 blocks are one number a
//! stage and span: the producer loads it a stage ahead and stores it beside the copies; consumers see it because
//! they wait for the producer's arrival.

use mcc_ir::kernel::{Epilogue, GemmForm, Share};

use super::Gemm;
use super::plan::{Input, ROW_BYTES, SCALE_BLOCK};
use super::walk::Tile;
use crate::emit::pipeline::Position;
use crate::emit::{B1, F32, Global, I32, Shared, Val, Var};

/// Bits of both blocks of a cluster.
const BOTH: u16 = 0b11;

impl<'k> Gemm<'k> {
    /// The warp walks together; the leader waits and issues.
    pub(super) fn produce(&self, leader: Val<'k, B1>) {
        let (k, plan) = (self.k, self.plan);
        let position = self.ring.producer();
        let residual = self.residual_ring.producer();
        plan.for_each_tile(k, |tile| {
            k.if_(leader, || {
                let (from, to) = self.k_range(tile);
                let b_scales = self.block_scales(tile, from);
                k.for_(from, to, 1, |block| {
                    self.ring.acquire(position);
                    if let Some(scales) = &b_scales {
                        scales.store(self, block, position);
                    }
                    self.ring.announce(position, self.copied());
                    self.load_operands(tile, block, position);
                    self.load_scales(tile, block, position);
                    position.advance();
                });
                if plan.epilogue == Epilogue::Add {
                    let load = || {
                        self.load_residual(tile, residual);
                        residual.advance();
                    };
                    if plan.tile.split_k > 1 {
                        k.if_(self.has_sums(), load);
                    } else {
                        load();
                    }
                }
            });
            k.sync_warp();
        });
    }

    /// K blocks `from..to` of a tile. In the K-grouped form they lie on the grid of all groups together.
    pub(super) fn k_range(&self, tile: Tile<'k>) -> (Val<'k, I32>, Val<'k, I32>) {
        let (k, plan) = (self.k, self.plan);
        if let GemmForm::KGrouped { .. } = plan.form {
            let (begin, end) = self.k_bounds(tile);
            let last = (end + (plan.block_k() - 1)).udiv(plan.block_k());
            let first = begin.udiv(plan.block_k());
            // A group without elements has no blocks, wherever it lies.
            return (first, end.gt(begin).select(last, first));
        }
        let (blocks, share) = (plan.k_blocks(), plan.own_k_blocks());
        if plan.tile.split_k == 1 {
            return (k.i32(0), k.i32(blocks));
        }
        let from = k.cluster_rank() * share;
        (from, (from + share).min(blocks.cast_signed()))
    }

    /// Elements of K that belong to a tile's group.
    pub(super) fn k_bounds(&self, tile: Tile<'k>) -> (Val<'k, I32>, Val<'k, I32>) {
        let offsets = self.k.arg_global(self.plan.args.bounds);
        let at = offsets.index(tile.group, 4);
        (at.load::<I32>(), at.offset(4).load::<I32>())
    }

    /// Bytes that a stage's copies bring, whole boxes also where they lie outside of the tensors.
    fn copied(&self) -> u32 {
        let plan = self.plan;
        let t = plan.tile;
        let scales = match (plan.input, plan.form) {
            (Input::Bf16, _) => 0,
            (_, GemmForm::KGrouped { .. }) => (t.m + t.n) * 4,
            _ => t.m * 4,
        };
        plan.smem.stage + scales
    }

    fn load_operands(&self, tile: Tile<'k>, block: Val<'k, I32>, position: Position<'k>) {
        let (k, plan) = (self.k, self.plan);
        let t = plan.tile;
        let (a, b) = (k.arg_tensor_map(plan.args.a), k.arg_tensor_map(plan.args.b));
        let full = self.ring.full(position);
        let to_a = self.stage(position);
        let to_b = to_a.offset(plan.smem.b);
        let depth = block * plan.block_k();
        let a_at = |row: Val<'k, I32>| match plan.form {
            GemmForm::Batched { .. } => vec![depth, tile.group, row],
            GemmForm::Masked { .. } => vec![depth, row, tile.group],
            _ => vec![depth, row],
        };
        let b_at = |row: Val<'k, I32>| match plan.form {
            GemmForm::Dense | GemmForm::KGrouped { .. } => vec![depth, row],
            _ => vec![depth, row, tile.group],
        };
        if t.share == Share::A {
            // Each block brings one half of the rows, to both.
            let half = k.cluster_rank() * (t.m / 2);
            let to = to_a.at(half * ROW_BYTES);
            k.tma_load_multicast(to, a, &a_at(tile.row + half), full, BOTH);
        } else {
            k.tma_load(to_a, a, &a_at(tile.row), full);
        }
        let column = tile.n_tile * t.n;
        if t.share == Share::B {
            let half = k.cluster_rank() * (t.n / 2);
            let to = to_b.at(half * ROW_BYTES);
            k.tma_load_multicast(to, b, &b_at(column + half), full, BOTH);
        } else if plan.waves_q == 2 {
            // Gate and up: columns of the left and of the right half.
            let gate = tile.n_tile * plan.mma_n;
            k.tma_load(to_b, b, &b_at(gate), full);
            let to_up = to_b.offset(plan.mma_n * ROW_BYTES);
            k.tma_load(to_up, b, &b_at(gate + plan.n / 2), full);
        } else {
            k.tma_load(to_b, b, &b_at(column), full);
        }
    }

    /// Scales that are a row's.
    fn load_scales(&self, tile: Tile<'k>, block: Val<'k, I32>, position: Position<'k>) {
        let (k, plan) = (self.k, self.plan);
        let Input::Fp8 { .. } = plan.input else {
            return;
        };
        let full = self.ring.full(position);
        let to = self.scales(position);
        let group = self.scale_index(block);
        let a = match plan.form {
            GemmForm::Masked { .. } => vec![tile.row, group, tile.group],
            _ => vec![tile.row, group],
        };
        k.tma_load(to, k.arg_tensor_map(plan.args.a_scales), &a, full);
        if let GemmForm::KGrouped { .. } = plan.form {
            let b = [tile.n_tile * plan.tile.n, group];
            let to = to.offset(plan.smem.b_scales);
            k.tma_load(to, k.arg_tensor_map(plan.args.b_scales), &b, full);
        }
    }

    /// The scale group of a K block.
    fn scale_index(&self, block: Val<'k, I32>) -> Val<'k, I32> {
        match self.plan.promote_blocks() {
            Some(1) => block,
            Some(blocks) => block.udiv(blocks),
            None => self.k.i32(0),
        }
    }

    /// The scales of B's blocks, where one covers 128 of N.
    fn block_scales(&self, tile: Tile<'k>, from: Val<'k, I32>) -> Option<BlockScales<'k>> {
        let (k, plan) = (self.k, self.plan);
        if plan.input == Input::Bf16 || plan.is_k_grouped() {
            return None;
        }
        let n_blocks = plan.n.div_ceil(SCALE_BLOCK);
        let scales = k.arg_global(plan.args.b_scales);
        let rows: Vec<_> = (0..plan.spans())
            .map(|span| {
                let block = if plan.waves_q == 2 {
                    tile.n_tile + span * (n_blocks / 2)
                } else {
                    let first = (tile.n_tile * plan.tile.n).ushr(7);
                    // A tile that ends inside of a span has none behind it.
                    (first + span).min((n_blocks - 1).cast_signed())
                };
                let row = tile.group * n_blocks + block;
                scales.index(row * plan.scale_blocks(), 4)
            })
            .collect();
        let next = rows
            .iter()
            .map(|row| k.var(row.index(self.scale_index(from), 4).load_nc::<F32>()))
            .collect();
        Some(BlockScales { rows, next })
    }

    fn load_residual(&self, tile: Tile<'k>, position: Position<'k>) {
        let (k, plan) = (self.k, self.plan);
        let map = k.arg_tensor_map(plan.args.residual);
        let (rows, row_bytes) = plan.piece();
        self.residual_ring.acquire(position);
        self.residual_ring
            .announce(position, rows * row_bytes * plan.consumers);
        let full = self.residual_ring.full(position);
        for consumer in 0..plan.consumers {
            let piece = k
                .smem()
                .offset(plan.smem.residual + consumer * plan.smem.piece);
            for (part, columns) in self.parts_of_piece().enumerate() {
                let place = self.place_in_d(tile, k.i32(consumer), columns);
                let bytes = rows * plan.span_bytes();
                let from = self.d_coordinates(tile, place.0, place.1);
                k.tma_load(piece.offset(part as u32 * bytes), map, &from, full);
            }
        }
    }

    /// The stage at a position.
    pub(super) fn stage(&self, position: Position<'k>) -> Shared<'k> {
        self.k.smem().at(position.stage() * self.plan.smem.stage)
    }

    /// The scales of the stage at a position.
    pub(super) fn scales(&self, position: Position<'k>) -> Shared<'k> {
        let at = position.stage() * self.plan.smem.scales_stage;
        self.k.smem().offset(self.plan.smem.scales).at(at)
    }
}

/// The scales of B's blocks, a stage ahead of the copies.
struct BlockScales<'k> {
    /// Scales along K of each span.
    rows: Vec<Global<'k>>,
    next: Vec<Var<'k, F32>>,
}

impl<'k> BlockScales<'k> {
    fn store(&self, gemm: &Gemm<'k>, block: Val<'k, I32>, position: Position<'k>) {
        let to = gemm.scales(position).offset(gemm.plan.smem.b_scales);
        let last = (gemm.plan.k_blocks() - 1).cast_signed();
        for (span, (row, next)) in self.rows.iter().zip(&self.next).enumerate() {
            to.offset(span as u32 * 4).store(next.get());
            let ahead = gemm.scale_index((block + 1).min(last));
            next.set(row.index(ahead, 4).load_nc::<F32>());
        }
    }
}
