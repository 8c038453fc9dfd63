//! Static quality of GEMM kernels: what ptxas says of them, and what their main loops execute per K block.
//!
//! In: kernels and an assembler. Out: a [`Row`] for each, with whatever breaks the bar in words. Holds: figures of the
//! main loop are those of one warpgroup and 128 elements of K, whatever the loop was unrolled by.
//!
//! The bar is DeepGEMM's own kernel for the block-scaled product (1D2D, tile 128x128x128, two math warpgroups, 6
//! stages, N = 4096, K = 7168) as nvcc 13.5 compiles it: see [`BASELINE`]. Others of the bar are for one wave, that is
//! for the accumulators of one `wgmma`; a warpgroup with two waves does the work of two. 128 elements of BF16 are two
//! stages of 128 bytes, and twice as many others are allowed; a promotion interval below 128 may take two more for each
//! further promotion, which open and close a product, a tile that lies across scale blocks of the weights two products
//! of scales for each further one, and a weight gradient a product of scales for each sum and a load for four of
//! them, since its columns have scales of their own. Others are not held against the bar where K has fewer than
//! four blocks: what is counted there is the beginning and the end of the loop.

use mcc_codegen::{Codegen, KernelCode};
use mcc_ir::kernel::{Epilogue, GemmForm, GemmTile, KernelConfig, NO_PROMOTION, scale_spans};
use mcc_ir::program::Kernel;
use serde::Serialize;

use super::sass::{Class, Listing, Loop};
use crate::error::Error;
use crate::ptxas::{Ptxas, Report, disassemble};

/// DeepGEMM's kernel for the same product.
pub const BASELINE: Baseline = Baseline {
    name: "DeepGEMM 1D2D 128x128x128, nvcc 13.5",
    registers: 168,
    stages: 6,
    tensor: 4.0,
    ffma: 64.0,
    others: 41.6,
};

/// K blocks of a tile below which there is no main loop to speak of.
const SHORT: u32 = 4;

/// Figures that a kernel is held against.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Baseline {
    /// Whose, and of which compiler.
    pub name: &'static str,
    /// Registers a thread at launch.
    pub registers: u32,
    /// Of its TMA ring.
    pub stages: u32,
    /// `QGMMA` a K block.
    pub tensor: f64,
    /// `FFMA` a K block.
    pub ffma: f64,
    /// All else a K block.
    pub others: f64,
}

/// Instructions of a consumer warpgroup per 128 elements of K.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PerBlock {
    /// Accumulators that the warpgroup works on in turn.
    pub waves: f64,
    /// `QGMMA` or `HGMMA`.
    pub tensor: f64,
    /// `FFMA`.
    pub ffma: f64,
    /// All else.
    pub others: f64,
    /// Of these: products of scales.
    pub fmul: f64,
    /// Integer and predicates.
    pub integer: f64,
    /// The uniform data path.
    pub uniform: f64,
    /// Loads and stores.
    pub memory: f64,
    /// Barriers and fences.
    pub sync: f64,
    /// Branches.
    pub branch: f64,
    /// K blocks in a turn of the loop.
    pub blocks: f64,
    /// K was short enough for the loop to vanish in the loop over tiles: the part between its first wait and its last
    /// product or promotion was counted.
    pub unrolled: bool,
}

/// One kernel's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The kernel.
    pub name: String,
    /// Registers a thread at launch.
    pub registers: u32,
    /// Bytes of registers spilled.
    pub spill_bytes: u32,
    /// What ptxas warns of.
    pub messages: Vec<String>,
    /// Dynamic shared memory.
    pub smem_bytes: u32,
    /// Depth of the TMA ring.
    pub stages: u32,
    /// Threads a block.
    pub threads: u32,
    /// The consumers' main loop.
    pub main: Option<PerBlock>,
    /// K is too short for others to be held against the bar.
    pub short: bool,
    /// The producer's instructions a stage.
    pub producer: Option<f64>,
    /// What breaks the bar, in words.
    pub breaks: Vec<String>,
}

/// A kernel's row, and the text of its main loop.
pub struct Inspected {
    /// Its figures.
    pub row: Row,
    /// SASS of a turn of the loop that was counted.
    pub main_loop: String,
}

/// Compiles, assembles and reads one kernel.
///
/// # Errors
/// [`Error::Codegen`], [`Error::Ptxas`] or [`Error::MissingTool`]; a kernel that breaks the bar is no error.
pub fn inspect(codegen: &Codegen, ptxas: &Ptxas, kernel: &Kernel) -> Result<Inspected, Error> {
    let code = codegen.compile(kernel)?;
    let (cubin, report) = ptxas.report(&code, "sm_90a")?;
    let listing = Listing::parse(&disassemble(&code.name, &cubin)?);
    Ok(judge(kernel, &code, &report, &listing))
}

/// Holds what was read against the bar.
#[must_use]
pub fn judge(kernel: &Kernel, code: &KernelCode, report: &Report, listing: &Listing) -> Inspected {
    let shape = Shape::of(&kernel.config, code.launch.block);
    let found = shape.and_then(|s| main_loop(listing, s));
    let (main, main_loop) = match found {
        Some((main, body)) => (Some(main), body.text()),
        None => (None, String::new()),
    };
    let resources = &report.resources;
    let mut breaks = report.warnings.clone();
    if resources.spill_bytes > 0 {
        breaks.push(format!(
            "{} bytes of registers spill",
            resources.spill_bytes
        ));
    }
    match (shape, &main) {
        (Some(shape), Some(main)) => breaks.extend(shape.complaints(main)),
        _ => breaks.push("no loop with wgmma was found".to_owned()),
    }
    let row = Row {
        name: kernel.name.clone(),
        registers: resources.registers,
        spill_bytes: resources.spill_bytes,
        messages: report.warnings.clone(),
        smem_bytes: code.launch.smem_bytes,
        stages: shape.map_or(0, |s| s.tile.stages),
        threads: code.launch.block,
        main,
        short: shape.is_some_and(|s| s.is_short()),
        producer: producer(listing),
        breaks,
    };
    Inspected { row, main_loop }
}

/// What of a config decides how much work a turn of the loop is.
#[derive(Clone, Copy)]
struct Shape {
    tile: GemmTile,
    consumers: u32,
    /// Elements of K that one `wgmma` takes.
    wgmma_k: u32,
    /// Promotions per 128 elements of K, of an FP8 product.
    promotions: Option<u32>,
    /// A block of K may be cut by the end of a group, and takes a longer way then.
    cut: bool,
    /// K blocks of a tile, where they are fixed.
    k_blocks: Option<u32>,
    /// Scale blocks of the weights that a tile lies across at most.
    spans: u64,
}

impl Shape {
    fn of(config: &KernelConfig, threads: u32) -> Option<Self> {
        let consumers = (threads / 128).saturating_sub(1).max(1);
        match config {
            KernelConfig::GemmFp8(c) => Some(Self {
                tile: c.tile,
                consumers,
                wgmma_k: 32,
                promotions: Some(match c.promote {
                    NO_PROMOTION => 1,
                    p => 128_u32.div_ceil(p),
                }),
                cut: matches!(c.form, GemmForm::KGrouped { .. }),
                k_blocks: k_blocks(c.form, c.k.div_ceil(128), c.tile),
                spans: match (c.form, c.epilogue) {
                    (GemmForm::KGrouped { .. }, _) | (_, Epilogue::SwigluQuantize { .. }) => 1,
                    _ => scale_spans(c.n.into(), c.tile.n.into()),
                },
            }),
            KernelConfig::GemmBf16(c) => Some(Self {
                tile: c.tile,
                consumers,
                wgmma_k: 16,
                promotions: None,
                cut: matches!(c.form, GemmForm::KGrouped { .. }),
                k_blocks: k_blocks(c.form, c.k.div_ceil(128), c.tile),
                spans: 1,
            }),
            _ => None,
        }
    }

    /// Accumulators of a warpgroup: its share of the tile over that of one `wgmma` of 64 x `n`.
    fn waves(&self, n: u32) -> f64 {
        f64::from(self.tile.m * self.tile.n) / f64::from(self.consumers * 64 * n)
    }

    fn is_short(&self) -> bool {
        self.k_blocks.is_some_and(|blocks| blocks < SHORT)
    }

    /// What of the main loop breaks the bar.
    fn complaints(&self, main: &PerBlock) -> Vec<String> {
        let mut all = Vec::new();
        // One for each element of the accumulators, which are spread over 128 threads.
        let elements = f64::from(self.tile.m * self.tile.n) / f64::from(self.consumers * 128);
        let ffma = elements * f64::from(self.promotions.unwrap_or(0));
        if main.ffma > ffma + 0.01 {
            all.push(format!("{:.1} FFMA a K block, {ffma} is enough", main.ffma));
        }
        let stages = if self.promotions.is_some() { 1.0 } else { 2.0 };
        // Each further promotion opens and closes a product.
        let further = 2.0 * f64::from(self.promotions.unwrap_or(1) - 1);
        let waves = main.waves.max(1.0);
        // A weight gradient has scales for columns, too: a product of scales for each sum, a load for four of them. Else
        // each further span has a product for each of a thread's two rows.
        let scales = if self.cut && self.promotions.is_some() {
            elements * 1.25
        } else {
            2.0 * (self.spans - 1) as f64 * waves
        };
        let others = (BASELINE.others * stages + further) * waves + scales;
        if main.others >= others && !self.is_short() {
            all.push(format!(
                "{:.1} other instructions a K block, the bar is below {others:.1}",
                main.others
            ));
        }
        all
    }
}

/// K blocks of a tile that one block of the cluster works on, where the form fixes them.
fn k_blocks(form: GemmForm, all: u32, tile: GemmTile) -> Option<u32> {
    (!matches!(form, GemmForm::KGrouped { .. })).then(|| all.div_ceil(tile.split_k))
}

/// The consumers' innermost loop, the one with the most other instructions where there are several.
fn main_loop(listing: &Listing, shape: Shape) -> Option<(PerBlock, Loop)> {
    let loops = ["QGMMA", "HGMMA"].map(|o| listing.innermost_loops(o));
    let counted = loops.into_iter().flatten().filter_map(|turns| {
        let body = if shape.cut { turns.shortest } else { turns.all };
        // A loop that converts and stores results is the loop over tiles.
        let stores = ["STG", "STSM", "F2F", "UTMAST", "UTMARED", "RED"];
        let unrolled = stores.iter().any(|o| body.opcodes(o) > 0);
        let body = if unrolled { body.main_part() } else { body };
        let n = columns(&body)?;
        let waves = shape.waves(n);
        let tensor = body.count(Class::Tensor) as f64;
        let blocks = tensor * f64::from(shape.wgmma_k) / 128.0 / waves;
        let per = |class| body.count(class) as f64 / blocks;
        let all = body.instructions.len() as f64 / blocks;
        let main = PerBlock {
            waves,
            tensor: per(Class::Tensor),
            ffma: per(Class::Ffma),
            others: all - per(Class::Tensor) - per(Class::Ffma),
            fmul: per(Class::Fmul),
            integer: per(Class::Integer) + per(Class::Rest),
            uniform: per(Class::Uniform),
            memory: per(Class::Memory),
            sync: per(Class::Sync),
            branch: per(Class::Branch),
            blocks,
            unrolled,
        };
        Some((main, body))
    });
    counted.max_by(|(a, _), (b, _)| a.others.total_cmp(&b.others))
}

/// Columns of the `wgmma` of a loop: `n` of `64x<n>x32` in the opcode.
fn columns(body: &Loop) -> Option<u32> {
    let tensor = body
        .instructions
        .iter()
        .find(|i| i.class() == Class::Tensor)?;
    let shape = tensor.opcode.split('.').nth(1)?;
    shape.split('x').nth(1)?.parse().ok()
}

/// Instructions of the producer for a stage: one announcement of bytes is one stage.
fn producer(listing: &Listing) -> Option<f64> {
    let loops = listing.innermost_loops("UTMALDG").into_iter();
    loops
        .map(|turns| {
            let body = turns.all;
            let stages = body.opcodes("SYNCS.ARRIVE").max(1);
            body.instructions.len() as f64 / stages as f64
        })
        .max_by(f64::total_cmp)
}

/// The table as text.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let width = rows
        .iter()
        .map(|r| r.name.len())
        .chain([BASELINE.name.len()])
        .max();
    let width = width.unwrap_or(0);
    let mut text = format!(
        "{:width$} {:>4} {:>5} {:>6} {:>3} | {:>5} {:>5} {:>6} | {:>4} {:>4} {:>4} {:>4} {:>4} {:>4} | {:>4}\n",
        "kernel",
        "regs",
        "spill",
        "smem",
        "st",
        "GMMA",
        "FFMA",
        "others",
        "fmul",
        "int",
        "uni",
        "mem",
        "sync",
        "bra",
        "prod"
    );
    for row in rows {
        let head = format!(
            "{:width$} {:>4} {:>5} {:>6} {:>3}",
            row.name, row.registers, row.spill_bytes, row.smem_bytes, row.stages
        );
        let main = row.main.map_or_else(String::new, |m| {
            format!(
                "{:>5.1} {:>5.1} {:>6.1} | {:>4.1} {:>4.1} {:>4.1} {:>4.1} {:>4.1} {:>4.1} |",
                m.tensor,
                m.ffma,
                m.others,
                m.fmul,
                m.integer,
                m.uniform,
                m.memory,
                m.sync,
                m.branch
            )
        });
        let producer = row
            .producer
            .map_or_else(String::new, |p| format!("{p:>4.1}"));
        let unrolled = row.main.is_some_and(|m| m.unrolled);
        let unrolled = if unrolled { " unrolled" } else { "" };
        let short = if row.short { " short K" } else { "" };
        text.push_str(&format!("{head} | {main} {producer}{unrolled}{short}\n"));
        for why in &row.breaks {
            text.push_str(&format!("{:width$}   breaks the bar: {why}\n", ""));
        }
    }
    let b = BASELINE;
    text.push_str(&format!(
        "{:width$} {:>4} {:>5} {:>6} {:>3} | {:>5.1} {:>5.1} {:>6.1} | (a wave)",
        b.name, b.registers, 0, "", b.stages, b.tensor, b.ffma, b.others
    ));
    text
}
