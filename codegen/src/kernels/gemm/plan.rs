//! A GEMM's config made concrete: the limits of the family, the geometry of a tile, shared memory, parameters, launch.
//!
//! In: a config. Out: a [`Plan`], which the kernel's parts read, and the launch. Holds afterwards: every limit that
//! the parts rely on has been checked.
//!
//! ```text
//! shared memory   stage s:   A [tile.m rows][128 bytes] | B [tile.n rows][128 bytes]    128-byte swizzle
//!                 scales s:  A's, one a row | B's, one a span or one a row              FP8 only
//!                 staging:   D as TMA wants it, one piece a consumer warpgroup
//!                 residual:  the same, filled by the producer                           epilogue `Add` only
//!                 barriers
//! ```

use mcc_ir::kernel::{
    Epilogue, GemmBf16, GemmForm, GemmFp8, GemmTile, KernelConfig, NO_PROMOTION, Share, scale_spans,
};
use mcc_ir::program::{Expr, MapAxes, Param};
use mcc_ir::types::DType;

use super::super::roles::{SMEM_LIMIT, WARPGROUP};
pub(super) use super::super::tiles::ROW_BYTES;
use super::super::{Launch, unsupported};
use super::spans::cuts;
use crate::emit::pipeline::{RingLayout, SmemMap};
use crate::error::CodegenError;

/// Elements of K and of N that share a weight scale, at least along K.
pub(super) const SCALE_BLOCK: u32 = 128;
/// Rows of `wgmma`.
pub(super) const WGMMA_ROWS: u32 = 64;
/// Accumulators and partial sums that fit a consumer thread beside the loop's other values.
const MAX_SUMS: u32 = 192;

/// What the tensor core multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// E4M3 codes with scales, promoted.
    Fp8 {
        /// Elements of K that the tensor core adds up; [`NO_PROMOTION`] for all.
        promote: u32,
        /// Elements of K that share a scale.
        group: u32,
    },
    /// BF16, added up in the tensor core.
    Bf16,
}

/// Positions of the kernel's parameters; 0 where the kernel has none of the kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Args {
    pub a: usize,
    pub b: usize,
    pub d: usize,
    pub a_scales: usize,
    /// A tensor map in the K-grouped form, else a pointer.
    pub b_scales: usize,
    /// Offsets or counts.
    pub bounds: usize,
    pub rows: usize,
    pub residual: usize,
    pub row_weights: usize,
    pub d_scales: usize,
    pub d_scales_stride: usize,
}

/// Where things lie in shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Smem {
    /// Bytes from one stage to the next.
    pub stage: u32,
    /// Where B begins in a stage.
    pub b: u32,
    /// Scales of stage 0, and bytes from one stage's to the next's.
    pub scales: u32,
    pub scales_stage: u32,
    /// Where B's scales begin among a stage's.
    pub b_scales: u32,
    pub ring: RingLayout,
    /// D of warpgroup 0, and bytes of one warpgroup's.
    pub staging: u32,
    pub piece: u32,
    pub residual: u32,
    pub residual_ring: RingLayout,
    /// Kept partial sums, and the sums that come from the block before (split K).
    pub kept: u32,
    pub incoming: u32,
    pub handover: u32,
    pub total: u32,
}

/// A GEMM with all that follows from its config.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub input: Input,
    pub form: GemmForm,
    pub epilogue: Epilogue,
    pub out: DType,
    pub n: u32,
    pub k: u32,
    pub tile: GemmTile,
    /// Consumer warpgroups, 1 or 2.
    pub consumers: u32,
    /// Products of 64 rows that a warpgroup makes of a stage: along its rows, and along the columns.
    pub waves_p: u32,
    pub waves_q: u32,
    /// Columns of a product.
    pub mma_n: u32,
    pub smem: Smem,
    pub args: Args,
}

impl Plan {
    pub fn fp8(name: &str, c: &GemmFp8) -> Result<(Self, Launch), CodegenError> {
        let input = Input::Fp8 {
            promote: c.promote,
            group: c.scale_group(),
        };
        if !matches!(c.promote, 32 | 64 | 128 | 256 | 512 | NO_PROMOTION) {
            return Err(unsupported(
                name,
                format!("promote = {}", c.promote),
                "32, 64, 128, 256, 512 or none",
            ));
        }
        Self::new(
            name,
            &KernelConfig::GemmFp8(c.clone()),
            input,
            (c.form, c.epilogue, c.out),
            (c.n, c.k),
            c.tile,
        )
    }

    pub fn bf16(name: &str, c: &GemmBf16) -> Result<(Self, Launch), CodegenError> {
        Self::new(
            name,
            &KernelConfig::GemmBf16(c.clone()),
            Input::Bf16,
            (c.form, c.epilogue, c.out),
            (c.n, c.k),
            c.tile,
        )
    }

    fn new(
        name: &str,
        config: &KernelConfig,
        input: Input,
        (form, epilogue, out): (GemmForm, Epilogue, DType),
        (n, k): (u32, u32),
        tile: GemmTile,
    ) -> Result<(Self, Launch), CodegenError> {
        let swiglu = matches!(epilogue, Epilogue::SwigluQuantize { .. });
        // The side of the tile that takes wgmma's rows, and the other.
        let (p, q) = if tile.swap {
            (tile.n, tile.m)
        } else {
            (tile.m, tile.n)
        };
        let consumers = if p == WGMMA_ROWS { 1 } else { 2 };
        let waves_q = if swiglu { 2 } else { 1 };
        let mut plan = Self {
            input,
            form,
            epilogue,
            out,
            n,
            k,
            tile,
            consumers,
            waves_p: (p / WGMMA_ROWS / consumers).max(1),
            waves_q,
            mma_n: q / waves_q,
            smem: Smem::EMPTY,
            args: Args::default(),
        };
        plan.check(name)?;
        plan.smem = plan.layout();
        if plan.smem.total > SMEM_LIMIT {
            return Err(unsupported(
                name,
                format!(
                    "{} stages take {} bytes of shared memory",
                    tile.stages, plan.smem.total
                ),
                "at most 232448 bytes",
            ));
        }
        let params = plan.params(config);
        let launch = Launch {
            grid: [plan.grid(), Expr::Const(1), Expr::Const(1)],
            block: WARPGROUP * (1 + consumers),
            cluster: plan.cluster(),
            smem_bytes: plan.smem.total,
            params,
        };
        Ok((plan, launch))
    }

    fn check(&self, name: &str) -> Result<(), CodegenError> {
        let t = self.tile;
        let need = |ok: bool, what: String, supported: &str| {
            if ok {
                Ok(())
            } else {
                Err(unsupported(name, what, supported))
            }
        };
        let fp8 = matches!(self.input, Input::Fp8 { .. });
        let k_grouped = self.is_k_grouped();
        need(
            self.n > 0 && self.n.is_multiple_of(if fp8 { 16 } else { 8 }),
            format!("n = {}", self.n),
            "a multiple of 16, of 8 for BF16 operands",
        )?;
        need(
            !(k_grouped && fp8) || self.promote_blocks() == Some(1),
            "a K-grouped product with long promotion intervals".to_owned(),
            "an interval of 32, 64 or 128",
        )?;
        let k_unit = if fp8 { 16 } else { 8 };
        need(
            k_grouped || self.k > 0 && self.k.is_multiple_of(k_unit),
            format!("k = {}", self.k),
            "a multiple of 16, of 8 for BF16 operands",
        )?;
        if t.swap {
            need(
                matches!(t.n, 64 | 128) && t.m.is_multiple_of(8) && (8..=128).contains(&t.m),
                format!("a swapped tile of {}x{}", t.m, t.n),
                "64 or 128 columns, rows a multiple of 8 up to 128",
            )?;
        } else {
            need(
                matches!(t.m, 64 | 128 | 256)
                    && t.n.is_multiple_of(16)
                    && (16..=256).contains(&t.n),
                format!("a tile of {}x{}", t.m, t.n),
                "64, 128 or 256 rows, columns a multiple of 16 up to 256",
            )?;
        }
        let partial = if fp8 { self.mma_n / 2 } else { 0 };
        let sums = self.waves_p * self.waves_q * self.mma_n / 2 + partial;
        need(
            sums <= MAX_SUMS,
            format!("{sums} sums a thread"),
            "at most 192: fewer rows or columns a tile",
        )?;
        need(
            (1..=64).contains(&t.stages) && t.raster > 0,
            format!("{} stages, raster {}", t.stages, t.raster),
            "1 to 64 stages, a raster of at least 1",
        )?;
        match self.epilogue {
            Epilogue::Store | Epilogue::Add => need(
                matches!(self.out, DType::BF16 | DType::F32) && !k_grouped,
                format!(
                    "{:?} with out = {:?} in {:?}",
                    self.epilogue, self.out, self.form
                ),
                "BF16 or F32; a K-grouped product accumulates",
            )?,
            Epilogue::Accumulate => need(
                self.out == DType::F32 && k_grouped,
                format!("Accumulate with out = {:?} in {:?}", self.out, self.form),
                "F32 in the K-grouped form",
            )?,
            Epilogue::SwigluQuantize { .. } => need(
                fp8 && self.out == DType::E4M3
                    && !t.swap
                    && t.n == 256
                    && t.m <= 128
                    && self.n.is_multiple_of(256)
                    && matches!(
                        self.form,
                        GemmForm::Dense | GemmForm::Grouped { .. } | GemmForm::Masked { .. }
                    ),
                format!(
                    "{:?} of {} columns on a {}x{} tile",
                    self.epilogue, self.n, t.m, t.n
                ),
                "FP8 operands, E4M3 out, n a multiple of 256, a 64x256 or 128x256 tile that is not swapped",
            )?,
        }
        need(
            !matches!(self.form, GemmForm::Batched { .. }) || !fp8,
            "a batched product of FP8 operands".to_owned(),
            "BF16 operands",
        )?;
        let share = match t.share {
            Share::None => true,
            Share::A => {
                self.n_tiles().is_multiple_of(2) && t.m.is_multiple_of(16) && t.split_k == 1
            }
            Share::B => {
                self.form == GemmForm::Dense
                    && t.n.is_multiple_of(16)
                    && t.split_k == 1
                    && !matches!(self.epilogue, Epilogue::SwigluQuantize { .. })
            }
        };
        need(
            share,
            format!(
                "{:?} shared by {:?} on {} column tiles",
                t.share,
                self.form,
                self.n_tiles()
            ),
            "A with an even number of column tiles, B in the dense form; at least 16 rows of it; no split K",
        )?;
        need(
            t.split_k == 1
                || matches!(t.split_k, 2 | 4 | 8)
                    && t.swap
                    && fp8
                    && !k_grouped
                    && self.promote_blocks() == Some(1)
                    && self.parts() == 1
                    && t.split_k <= self.k_blocks(),
            format!("split_k = {}", t.split_k),
            "1, or 2, 4 or 8 of swapped FP8 tiles with a promotion interval of 128",
        )
    }

    /// Elements of K of a stage.
    pub const fn block_k(&self) -> u32 {
        match self.input {
            Input::Fp8 { .. } => ROW_BYTES,
            Input::Bf16 => ROW_BYTES / 2,
        }
    }

    /// Stages of a tile, where K is fixed.
    pub const fn k_blocks(&self) -> u32 {
        self.k.div_ceil(self.block_k())
    }

    /// Scales along K of a row of A or of a row of blocks of B, where K is fixed.
    pub const fn scale_blocks(&self) -> u32 {
        match self.input {
            Input::Fp8 { group, .. } => self.k.div_ceil(group),
            Input::Bf16 => 0,
        }
    }

    /// Stages that share a scale; `None` for all.
    pub fn promote_blocks(&self) -> Option<u32> {
        match self.input {
            Input::Fp8 {
                promote: NO_PROMOTION,
                ..
            }
            | Input::Bf16 => None,
            Input::Fp8 { promote, .. } => Some(promote.max(SCALE_BLOCK) / SCALE_BLOCK),
        }
    }

    /// Promotions of a stage.
    pub fn parts(&self) -> u32 {
        match self.input {
            Input::Fp8 {
                promote: promote @ (32 | 64),
                ..
            } => SCALE_BLOCK / promote,
            Input::Fp8 { .. } | Input::Bf16 => 1,
        }
    }

    /// K blocks of a tile that one block of the cluster works on at most, where K is fixed.
    pub const fn own_k_blocks(&self) -> u32 {
        self.k_blocks().div_ceil(self.tile.split_k)
    }

    /// K blocks of a turn of the consumers' loop: what divides those of a tile, and a round of the ring where one can.
    /// Four at most; two where a block's code is long or stands several times; more where a round has no other divisor.
    pub fn turn(&self) -> u32 {
        let blocks = self.own_k_blocks();
        let varies = self.is_k_grouped() || blocks * self.tile.split_k > self.k_blocks();
        if varies {
            return 1;
        }
        let copies = self.cuts() * self.waves_p * self.waves_q;
        let turns: &[u32] = if copies == 1 {
            &[4, 3, 2, 5, 7]
        } else {
            &[2, 3, 5, 7]
        };
        let mut whole = turns.iter().filter(|turn| blocks.is_multiple_of(**turn));
        let in_one_round = |turn: &&u32| self.tile.stages.is_multiple_of(**turn);
        let found = whole.clone().find(in_one_round);
        *found
            .or_else(|| whole.find(|turn| **turn == 2))
            .unwrap_or(&1)
    }

    /// Ways in which tiles lie across scale blocks of B; each has a loop of its own.
    fn cuts(&self) -> u32 {
        let promoted = matches!(self.input, Input::Fp8 { .. });
        if self.has_one_span() || !promoted {
            1
        } else {
            cuts(self).len() as u32
        }
    }

    /// Whether the columns of a wave have one scale of B, or each its own.
    pub const fn has_one_span(&self) -> bool {
        self.tile.swap || self.waves_q == 2 || self.is_k_grouped()
    }

    /// Columns of D that a tile covers; a tile of gate and up columns makes half of them.
    pub const fn d_columns(&self) -> u32 {
        self.tile.n / self.waves_q
    }

    /// Column tiles.
    pub const fn n_tiles(&self) -> u32 {
        self.n.div_ceil(self.tile.n)
    }

    /// Blocks of a cluster.
    pub const fn cluster(&self) -> u32 {
        match self.tile.share {
            Share::None => self.tile.split_k,
            Share::A | Share::B => 2,
        }
    }

    /// Blocks whose consumers use one producer's loads.
    pub const fn sharing(&self) -> u32 {
        match self.tile.share {
            Share::None => 1,
            Share::A | Share::B => 2,
        }
    }

    /// Scale blocks of B that a tile may touch along N.
    pub fn spans(&self) -> u32 {
        if self.waves_q == 2 {
            return 2;
        }
        let spans = scale_spans(self.n.into(), self.tile.n.into());
        // LLVM reads three words as four.
        u32::try_from(if spans == 3 { 4 } else { spans }).unwrap_or(u32::MAX)
    }

    /// Rows and bytes a row of a warpgroup's piece of D.
    pub fn piece(&self) -> (u32, u32) {
        let bytes = u32::try_from(self.out.bytes()).unwrap_or(4);
        if self.tile.swap {
            (self.tile.m, WGMMA_ROWS * bytes)
        } else {
            (WGMMA_ROWS * self.waves_p, self.d_columns() * bytes)
        }
    }

    /// Bytes of a row that a store takes at once: the swizzle's span.
    pub fn span_bytes(&self) -> u32 {
        let (_, row) = self.piece();
        [128, 64, 32]
            .into_iter()
            .find(|s| row.is_multiple_of(*s))
            .unwrap_or(32)
    }

    /// Whether groups share K.
    pub const fn is_k_grouped(&self) -> bool {
        matches!(self.form, GemmForm::KGrouped { .. })
    }

    /// Whether a store must end where a group does.
    pub const fn ragged(&self) -> bool {
        matches!(
            self.form,
            GemmForm::Grouped { .. } | GemmForm::Masked { .. }
        )
    }

    fn layout(&self) -> Smem {
        let t = self.tile;
        let mut map = SmemMap::default();
        let b = t.m * ROW_BYTES;
        let stage = b + t.n * ROW_BYTES;
        map.reserve(stage * t.stages, 1024);
        let (rows, piece_row) = self.piece();
        let piece = (rows * piece_row).next_multiple_of(1024);
        let staging = map.reserve(piece * self.consumers, 1024);
        let residual = if self.epilogue == Epilogue::Add {
            map.reserve(piece * self.consumers, 1024)
        } else {
            0
        };
        let b_scales = (t.m * 4).next_multiple_of(128);
        let scales_stage = match (self.input, self.form) {
            (Input::Bf16, _) => 0,
            (_, GemmForm::KGrouped { .. }) => b_scales + (t.n * 4).next_multiple_of(128),
            // Tensor copies begin at multiples of 128 bytes.
            _ => (b_scales + self.spans() * 4).next_multiple_of(128),
        };
        let scales = map.reserve(scales_stage * t.stages, 128);
        let (kept, incoming) = if t.split_k > 1 {
            let threads = WARPGROUP * self.consumers;
            let blocks = self.own_k_blocks();
            let sums = self.mma_n / 2;
            // Partial sums, and the products of scales that two of them share.
            let kept = map.reserve(blocks * threads * (sums + sums / 2) * 4, 16);
            (kept, map.reserve(threads * sums * 4, 16))
        } else {
            (0, 0)
        };
        let ring = RingLayout::reserve(&mut map, t.stages);
        let residual_ring = RingLayout::reserve(&mut map, 1);
        let handover = map.reserve(16, 8);
        Smem {
            stage,
            b,
            scales,
            scales_stage,
            b_scales,
            ring,
            staging,
            piece,
            residual,
            residual_ring,
            kept,
            incoming,
            handover,
            total: map.bytes(),
        }
    }

    /// Numbers the parameters; the operands are those of the config's table.
    fn params(&mut self, config: &KernelConfig) -> Vec<Param> {
        let operands = config.operands();
        let operand = |name: &str| {
            operands
                .iter()
                .position(|o| o.name == name)
                .unwrap_or_else(|| unreachable!("`{name}` is no operand of {config:?}"))
        };
        let mut list = Vec::new();
        let mut push = |p: Param| {
            list.push(p);
            list.len() - 1
        };
        let map = |name: &str, box_dims: Vec<u32>, swizzle: u32, axes: MapAxes| Param::TensorMap {
            operand: operand(name),
            box_dims,
            swizzle,
            axes,
        };
        let t = self.tile;
        let a_rows = t.m / if t.share == Share::A { 2 } else { 1 };
        let b_rows = t.n / if t.share == Share::B { 2 } else { self.waves_q };
        let block_k = self.block_k();
        let (a_box, b_box) = match self.form {
            GemmForm::Dense | GemmForm::KGrouped { .. } => {
                (vec![block_k, a_rows], vec![block_k, b_rows])
            }
            GemmForm::Batched { .. } => (vec![block_k, 1, a_rows], vec![block_k, b_rows, 1]),
            GemmForm::Grouped { .. } => (vec![block_k, a_rows], vec![block_k, b_rows, 1]),
            GemmForm::Masked { .. } => (vec![block_k, a_rows, 1], vec![block_k, b_rows, 1]),
        };
        let mut args = Args {
            a: push(map("a", a_box, 128, MapAxes::Rows)),
            b: push(map("b", b_box, 128, MapAxes::Rows)),
            ..Args::default()
        };
        let (rows, row_bytes) = self.piece();
        let columns = self.span_bytes() / (row_bytes / self.piece_columns());
        let d_box = match self.form {
            GemmForm::Dense | GemmForm::Grouped { .. } => vec![columns, rows],
            GemmForm::Batched { .. } => vec![columns, 1, rows],
            GemmForm::Masked { .. } | GemmForm::KGrouped { .. } => vec![columns, rows, 1],
        };
        let d_axes = if self.ragged() {
            MapAxes::Ragged
        } else {
            MapAxes::Rows
        };
        args.d = push(map("d", d_box.clone(), self.span_bytes(), d_axes));
        if let Input::Fp8 { .. } = self.input {
            let masked = matches!(self.form, GemmForm::Masked { .. });
            let scales = |rows| [vec![rows, 1], vec![1; usize::from(masked)]].concat();
            args.a_scales = push(map("a_scales", scales(t.m), 0, MapAxes::Columns));
            args.b_scales = push(if self.is_k_grouped() {
                map("b_scales", scales(t.n), 0, MapAxes::Columns)
            } else {
                Param::Pointer {
                    operand: operand("b_scales"),
                }
            });
        }
        args.rows = push(Param::Extent {
            operand: 0,
            axis: usize::from(matches!(self.form, GemmForm::Masked { .. })),
        });
        match self.form {
            GemmForm::Grouped { .. } | GemmForm::KGrouped { .. } => {
                args.bounds = push(Param::Pointer {
                    operand: operand("offsets"),
                });
            }
            GemmForm::Masked { .. } => {
                args.bounds = push(Param::Pointer {
                    operand: operand("counts"),
                });
            }
            GemmForm::Dense | GemmForm::Batched { .. } => {}
        }
        match self.epilogue {
            Epilogue::Store | Epilogue::Accumulate => {}
            Epilogue::Add => {
                args.residual = push(map("residual", d_box, self.span_bytes(), MapAxes::Rows));
            }
            Epilogue::SwigluQuantize { weighted } => {
                if weighted {
                    args.row_weights = push(Param::Pointer {
                        operand: operand("row_weights"),
                    });
                }
                let scales = operand("d_scales");
                args.d_scales = push(Param::Pointer { operand: scales });
                let rank = operands[scales].rank;
                args.d_scales_stride = push(Param::Stride {
                    operand: scales,
                    axis: rank - 1,
                });
                if rank == 3 {
                    // The group's stride follows.
                    push(Param::Stride {
                        operand: scales,
                        axis: 0,
                    });
                }
            }
        }
        self.args = args;
        list
    }

    /// Columns of D in a warpgroup's piece.
    pub const fn piece_columns(&self) -> u32 {
        if self.tile.swap {
            WGMMA_ROWS
        } else {
            self.d_columns()
        }
    }

    /// Tensor maps to prefetch.
    pub fn maps(&self) -> Vec<usize> {
        let a = self.args;
        let mut maps = vec![a.a, a.b, a.d];
        if let Input::Fp8 { .. } = self.input {
            maps.push(a.a_scales);
            if self.is_k_grouped() {
                maps.push(a.b_scales);
            }
        }
        if self.epilogue == Epilogue::Add {
            maps.push(a.residual);
        }
        maps
    }

    /// Blocks to launch: a cluster for each tile (or pair of tiles that share an operand), at most as many as run at
    /// once; the rest is walked.
    fn grid(&self) -> Expr {
        let m = u64::from(self.tile.m);
        let rows = |axis| Expr::Extent { operand: 0, axis };
        let per_cluster = if self.tile.share == Share::B {
            2 * m
        } else {
            m
        };
        let tiles = |rows| Expr::CeilDiv(Box::new(rows), per_cluster);
        let m_tiles = match self.form {
            GemmForm::Dense | GemmForm::Batched { .. } => tiles(rows(0)),
            // Each group that has rows ends in at most one partial tile, and no tile is without a row.
            GemmForm::Grouped { groups } => {
                let partial = Expr::Min(vec![Expr::Const(u64::from(groups)), rows(0)]);
                Expr::Min(vec![rows(0), Expr::Add(vec![tiles(rows(0)), partial])])
            }
            GemmForm::Masked { groups } => {
                Expr::Mul(vec![tiles(rows(1)), Expr::Const(u64::from(groups))])
            }
            GemmForm::KGrouped { groups } => {
                Expr::Mul(vec![tiles(rows(0)), Expr::Const(u64::from(groups))])
            }
        };
        let batch = match self.form {
            GemmForm::Batched { heads } => u64::from(heads),
            _ => 1,
        };
        let columns = u64::from(self.super_columns()) * batch;
        let clusters = Expr::Mul(vec![m_tiles, Expr::Const(columns)]);
        match u64::from(self.cluster()) {
            1 => Expr::Min(vec![Expr::Sms, clusters]),
            blocks => {
                let fit = Expr::CeilDiv(Box::new(Expr::Sms), blocks);
                Expr::Mul(vec![Expr::Const(blocks), Expr::Min(vec![fit, clusters])])
            }
        }
    }

    /// Columns of tiles, two at a time where neighbours share A.
    pub const fn super_columns(&self) -> u32 {
        match self.tile.share {
            Share::A => self.n_tiles() / 2,
            Share::None | Share::B => self.n_tiles(),
        }
    }

    /// Rows of a cluster's tiles.
    pub const fn super_rows(&self) -> u32 {
        match self.tile.share {
            Share::B => 2 * self.tile.m,
            Share::None | Share::A => self.tile.m,
        }
    }
}

impl Smem {
    const EMPTY: Self = Self {
        stage: 0,
        b: 0,
        scales: 0,
        scales_stage: 0,
        b_scales: 0,
        ring: RingLayout::EMPTY,
        staging: 0,
        piece: 0,
        residual: 0,
        residual_ring: RingLayout::EMPTY,
        kept: 0,
        incoming: 0,
        handover: 0,
        total: 0,
    };
}
