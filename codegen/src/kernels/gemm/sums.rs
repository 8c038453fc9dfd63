//! The consumers: sums over K in registers.
//!
//! In: the ring's stages in order. Out: for each tile and wave (a product of 64 rows) the fragment of FP32 sums. A thread's
//! registers `4 j ..` of a fragment hold columns `8 j + 2 (lane % 4)` and the next of row `16 warp + lane / 4`, then the
//! same of the row 8 below (PTX ISA "Register Fragments and Shared Memory Matrix Layouts", wgmma's D).

use mcc_ir::kernel::GemmForm;

use super::Gemm;
use super::plan::{Input, ROW_BYTES, WGMMA_ROWS};
use super::spans::{Spans, for_each_cut};
use super::walk::Tile;
use crate::emit::pipeline::{Position, Release};
use crate::emit::wgmma::{Init, Major, Mma, MmaType, OperandA, OperandB, k_major_offsets};
use crate::emit::{F32, I32, Shared, Val, Var};
use crate::kernels::roles::WARPGROUP;

/// A consumer thread.
#[derive(Clone, Copy)]
pub(super) struct Consumer<'k> {
    pub gemm: Gemm<'k>,
    /// Its number in its warpgroup, its warp's there, and in its warp.
    pub thread: Val<'k, I32>,
    pub warp: Val<'k, I32>,
    pub lane: Val<'k, I32>,
    /// Its warpgroup among the consumers.
    pub group: Val<'k, I32>,
    pub release: Release<'k>,
    pub position: Position<'k>,
}

/// The scales that a stage's partial sums are multiplied by.
enum Scales<'k> {
    /// A's of the thread's two rows of each wave of rows, times B's of each span: `[wave][row][span]`.
    Rows(Vec<[Vec<Val<'k, F32>>; 2]>),
    /// A's of each pair of columns, times B's one: swapped.
    Columns(Vec<[Val<'k, F32>; 2]>),
    /// A's of the two rows of each wave, B's of each pair of columns: one product an element.
    Outer(Vec<[Val<'k, F32>; 2]>, Vec<[Val<'k, F32>; 2]>),
}

impl<'k> Scales<'k> {
    /// The factor of register `i` of wave `(p, q)`.
    fn factor(&self, spans: &Spans, (p, q): (usize, usize), i: usize) -> Val<'k, F32> {
        let (group, row, column) = (i / 4, i % 4 / 2, i % 2);
        match self {
            // Waves along the columns are gate and up, a span each.
            Self::Rows(s) if q > 0 => s[p][row][q],
            Self::Rows(s) => s[p][row][spans.of(group)],
            Self::Columns(s) => s[group][column],
            Self::Outer(rows, columns) => rows[p][row] * columns[group][column],
        }
    }
}

/// The sums of one tile: registers of each wave.
pub(super) type Sums<'k> = Vec<Vec<Var<'k, F32>>>;

impl<'k> Gemm<'k> {
    pub(super) fn consume(&self) {
        let (k, plan) = (self.k, self.plan);
        let thread = k.tid() & (WARPGROUP - 1).cast_signed();
        let lane = thread & 31;
        let me = Consumer {
            gemm: *self,
            thread,
            warp: thread.ushr(5),
            lane,
            // The same in a whole warpgroup, which ptxas cannot know.
            group: k.uniform(k.tid().ge(2 * WARPGROUP.cast_signed())),
            release: self.ring.releaser(lane),
            position: self.ring.consumer(),
        };
        let residual = self.residual_ring.consumer();
        let handover = k.var(k.i32(0));
        plan.for_each_tile(k, |tile| {
            let sums: Sums<'k> = (0..plan.waves_p * plan.waves_q)
                .map(|_| k.vars((plan.mma_n / 2) as usize, k.f32(0.0)))
                .collect();
            if plan.tile.split_k > 1 {
                me.split_sums(tile, &sums, handover);
            } else if plan.input == Input::Bf16 {
                me.bf16(tile, &sums);
            } else {
                me.fp8(tile, &sums);
            }
            // Where a thread's part of D lies is worked out when it is needed: the loop above wants the registers.
            me.again().finish(tile, &sums, residual);
        });
        me.drain();
    }
}

impl<'k> Consumer<'k> {
    /// The same thread, from scratch.
    fn again(&self) -> Self {
        let thread = self.gemm.k.tid_here() & (WARPGROUP - 1).cast_signed();
        Self {
            thread,
            warp: thread.ushr(5),
            lane: thread & 31,
            ..*self
        }
    }

    /// Waves of rows and of columns, in the order of the sums.
    fn waves(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (p, q) = (
            self.gemm.plan.waves_p as usize,
            self.gemm.plan.waves_q as usize,
        );
        (0..p).flat_map(move |p| (0..q).map(move |q| (p, q)))
    }

    fn fp8(&self, tile: Tile<'k>, sums: &Sums<'k>) {
        let (k, plan) = (self.gemm.k, &self.gemm.plan);
        let body = |spans: &Spans| match plan.promote_blocks() {
            Some(1) => self.promoted(tile, sums, spans),
            blocks => self.promoted_late(sums, spans, blocks.unwrap_or(plan.k_blocks())),
        };
        if plan.has_one_span() {
            body(&Spans::one());
        } else {
            for_each_cut(k, plan, tile.n_tile * plan.tile.n, &body);
        }
    }

    /// Calls `body` for each of these K blocks, with itself at the block's stage, filled. Several blocks a turn of the loop
    /// where tiles are whole multiples; where rounds of the ring are, too, the stages of a turn are known but for one
    /// number.
    pub(super) fn for_each_block(
        &self,
        (from, to): (Val<'k, I32>, Val<'k, I32>),
        body: impl Fn(&Self, Val<'k, I32>),
    ) {
        let (gemm, plan) = (&self.gemm, &self.gemm.plan);
        let turn = plan.turn();
        let in_one_round = plan.tile.stages.is_multiple_of(turn);
        // A loop of one or two turns stays a loop: in line with what comes after, it would want more registers than there are.
        let to = if plan.own_k_blocks() <= 2 * turn {
            gemm.k.opaque(to)
        } else {
            to
        };
        gemm.k.for_(from, to, turn, |block| {
            for i in 0..turn {
                let here = Self {
                    position: self.position.ahead(if in_one_round { i } else { 0 }),
                    ..*self
                };
                gemm.ring.wait(here.position);
                body(&here, block + i);
                if !in_one_round {
                    self.position.advance();
                }
            }
            if in_one_round {
                self.position.advance_by(turn);
            }
        });
    }

    /// Promotion at least once a stage.
    fn promoted(&self, tile: Tile<'k>, sums: &Sums<'k>, spans: &Spans) {
        let (k, plan) = (self.gemm.k, &self.gemm.plan);
        let ends = self.ends(tile);
        // Partial sums of all waves have the same registers: there are not enough for two.
        let shared = (sums.len() > 1).then(|| (k.vars(sums[0].len(), k.f32(0.0)), k.never()));
        let depth = ROW_BYTES / plan.parts();
        let last = (sums.len() - 1, plan.parts() - 1);
        self.for_each_block(self.gemm.k_range(tile), |me, block| {
            me.mask(ends, block);
            let scales = me.scales(spans);
            for (wave, at) in me.waves().enumerate() {
                for part in 0..plan.parts() {
                    let p = match &shared {
                        None => me.product(at, part * depth, depth, &Init::Zero),
                        Some((registers, never)) => {
                            let of: Vec<_> = registers.iter().map(|r| r.get()).collect();
                            let init = Init::Instead {
                                of: &of,
                                never: *never,
                            };
                            let p = me.product(at, part * depth, depth, &init);
                            for (register, p) in registers.iter().zip(&p) {
                                register.set(*p);
                            }
                            p
                        }
                    };
                    if (wave, part) == last {
                        // The stage has been read; the promotion works on registers.
                        me.leave();
                    }
                    for (i, (sum, p)) in sums[wave].iter().zip(p).enumerate() {
                        let s = scales.factor(spans, at, i);
                        sum.update(|sum| s.fma(p, sum));
                    }
                }
            }
        });
    }

    /// Promotion once in `blocks` stages, whose scales are the same.
    fn promoted_late(&self, sums: &Sums<'k>, spans: &Spans, blocks: u32) {
        let (k, gemm, plan) = (self.gemm.k, &self.gemm, &self.gemm.plan);
        let k_blocks = plan.k_blocks();
        k.for_(0, k_blocks.div_ceil(blocks), 1, |group| {
            let first = group * blocks;
            let partial: Sums<'k> = sums
                .iter()
                .map(|wave| k.vars(wave.len(), k.f32(0.0)))
                .collect();
            let scales: Vec<Vec<Var<'k, F32>>> = sums
                .iter()
                .map(|wave| k.vars(wave.len(), k.f32(0.0)))
                .collect();
            let to = (first + blocks).min(k_blocks.cast_signed());
            k.for_(first, to, 1, |_| {
                gemm.ring.wait(self.position);
                let read = self.scales(spans);
                for (wave, at) in self.waves().enumerate() {
                    let before: Vec<_> = partial[wave].iter().map(|p| p.get()).collect();
                    let p = self.product(at, 0, ROW_BYTES, &Init::Accumulate(&before));
                    if wave == sums.len() - 1 {
                        self.leave();
                    }
                    for (i, (var, p)) in partial[wave].iter().zip(p).enumerate() {
                        var.set(p);
                        scales[wave][i].set(read.factor(spans, at, i));
                    }
                }
                self.position.advance();
            });
            for ((sums, partial), scales) in sums.iter().zip(&partial).zip(&scales) {
                for ((sum, p), s) in sums.iter().zip(partial).zip(scales) {
                    sum.update(|sum| s.get().fma(p.get(), sum));
                }
            }
        });
    }

    fn bf16(&self, tile: Tile<'k>, sums: &Sums<'k>) {
        let ends = self.ends(tile);
        self.for_each_block(self.gemm.k_range(tile), |me, block| {
            me.mask(ends, block);
            for (wave, at) in me.waves().enumerate() {
                let before: Vec<_> = sums[wave].iter().map(|s| s.get()).collect();
                let after = me.product(at, 0, ROW_BYTES, &Init::Accumulate(&before));
                if wave == sums.len() - 1 {
                    me.leave();
                }
                for (sum, v) in sums[wave].iter().zip(after) {
                    sum.set(v);
                }
            }
        });
    }

    /// Leaves the stage at the position. One lane says so for its warp: all lanes' reads of scales come before.
    pub(super) fn leave(&self) {
        if self.gemm.plan.input != Input::Bf16 {
            self.gemm.k.sync_warp();
        }
        self.release.leave(self.position);
    }

    /// The product of wave `(p, q)` over `depth` bytes of K from `from` on, complete.
    pub(super) fn product(
        &self,
        (p, q): (usize, usize),
        from: u32,
        depth: u32,
        init: &Init<'_, 'k>,
    ) -> Vec<Val<'k, F32>> {
        let (k, plan) = (self.gemm.k, &self.gemm.plan);
        let (p_begin, q_begin) = if plan.tile.swap {
            (plan.smem.b, 0)
        } else {
            (0, plan.smem.b)
        };
        let p_row = p as u32 * WGMMA_ROWS * ROW_BYTES;
        let q_row = q as u32 * plan.mma_n * ROW_BYTES;
        let stage = k
            .descriptor_128b(k.smem(), 0, 1024)
            .times(self.position.stage(), plan.smem.stage);
        let rows = stage
            .times(self.group, plan.waves_p * WGMMA_ROWS * ROW_BYTES)
            .offset(p_begin + p_row + from);
        let columns = stage.offset(q_begin + q_row + from);
        let offsets = k_major_offsets(depth, 0);
        k.wgmma(
            Mma {
                ty: match plan.input {
                    Input::Fp8 { .. } => MmaType::E4m3,
                    Input::Bf16 => MmaType::Bf16,
                },
                n: plan.mma_n,
            },
            &OperandA::Shared {
                descriptor: rows,
                offsets: &offsets,
            },
            OperandB {
                descriptor: columns,
                offsets: &offsets,
                major: Major::K,
            },
            init,
        )
    }

    /// First row and column of this thread in a fragment.
    pub(super) fn fragment(&self) -> (Val<'k, I32>, Val<'k, I32>) {
        (self.warp * 16 + self.lane.ushr(2), (self.lane & 3) * 2)
    }

    /// Reads the scales of the stage at the position; before the stage is left.
    fn scales(&self, spans: &Spans) -> Scales<'k> {
        let plan = &self.gemm.plan;
        let slot = self.gemm.scales(self.position);
        let (row, column) = self.fragment();
        let of_rows = || -> Vec<[Val<'k, F32>; 2]> {
            let mine = slot.at((self.group * (plan.waves_p * WGMMA_ROWS) + row) * 4);
            (0..plan.waves_p)
                .map(|p| [0, 8].map(|d| mine.offset((p * WGMMA_ROWS + d) * 4).load::<F32>()))
                .collect()
        };
        let of_columns = |from: Shared<'k>| -> Vec<[Val<'k, F32>; 2]> {
            let mine = from.at(column * 4);
            (0..plan.mma_n / 8)
                .map(|j| mine.offset(j * 32).load_vec())
                .collect()
        };
        let of_b = slot.offset(plan.smem.b_scales);
        if let GemmForm::KGrouped { .. } = plan.form {
            return if plan.tile.swap {
                // Rows of the fragment are B's, columns A's; the product of two is the same either way.
                let mine = of_b.at((self.group * (plan.waves_p * WGMMA_ROWS) + row) * 4);
                let rows = (0..plan.waves_p)
                    .map(|p| [0, 8].map(|d| mine.offset((p * WGMMA_ROWS + d) * 4).load::<F32>()))
                    .collect();
                Scales::Outer(rows, of_columns(slot))
            } else {
                Scales::Outer(of_rows(), of_columns(of_b))
            };
        }
        if plan.tile.swap {
            let b = of_b.load::<F32>();
            return Scales::Columns(
                of_columns(slot)
                    .into_iter()
                    .map(|pair| pair.map(|a| a * b))
                    .collect(),
            );
        }
        let count = if plan.waves_q == 2 { 2 } else { spans.count() };
        let b: Vec<_> = (0..count)
            .map(|s| of_b.offset(s as u32 * 4).load::<F32>())
            .collect();
        Scales::Rows(
            of_rows()
                .into_iter()
                .map(|rows| rows.map(|a| b.iter().map(|b| a * *b).collect()))
                .collect(),
        )
    }

    /// The scales of the swapped form, for split K.
    pub(super) fn column_scales(&self) -> Vec<[Val<'k, F32>; 2]> {
        match self.scales(&Spans::one()) {
            Scales::Columns(s) => s,
            Scales::Rows(_) | Scales::Outer(..) => {
                unreachable!("the plan allows split K of swapped tiles only")
            }
        }
    }
}
