//! Shared by the row-wise families: rows of BF16 in 16-byte chunks, and the quantisation of a row.
//!
//! One block works on one row. Chunk `c` of a row is elements `8c..8c + 8`; thread `t` holds chunks
//! `t, t + threads, …`. A scale group of 128 channels is 16 chunks, which lie in 16 neighbouring lanes.

use mcc_ir::program::{Expr, Param};

use super::{Launch, unsupported};
use crate::emit::pipeline::SmemMap;
use crate::emit::{F32, Global, I32, Kernel, Shared, Val};
use crate::error::CodegenError;

/// Elements of a chunk.
pub(crate) const CHUNK: u32 = 8;
/// Channels of a scale group.
const GROUP: u32 = 128;
/// Chunks of a scale group.
const GROUP_CHUNKS: u32 = GROUP / CHUNK;
/// Most threads that share a row.
const MAX_THREADS: u32 = 256;
/// Most chunks of a row that a thread keeps in registers (8 values each).
const MAX_CHUNKS: u32 = 16;
/// E4M3's largest value.
pub(crate) const E4M3_MAX: f32 = 448.0;
/// Smallest absolute maximum that a scale is made of: an all-zero group gets a finite one.
pub(crate) const AMAX_FLOOR: f32 = 1e-4;

/// How a row is shared out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowShape {
    /// Elements of the row.
    pub width: u32,
    /// Threads of the block, a multiple of 32.
    pub threads: u32,
}

impl RowShape {
    /// For rows of `width` elements.
    ///
    /// # Errors
    /// [`CodegenError::Unsupported`] when a row is no whole number of chunks or too wide for registers.
    pub fn new(kernel: &str, width: u32) -> Result<Self, CodegenError> {
        if width == 0 || !width.is_multiple_of(CHUNK) || width > CHUNK * MAX_THREADS * MAX_CHUNKS {
            return Err(unsupported(
                kernel,
                format!("rows of {width}"),
                "a multiple of 8 up to 32768",
            ));
        }
        let threads = (width / CHUNK).next_multiple_of(32).min(MAX_THREADS);
        Ok(Self { width, threads })
    }

    /// Chunks that each thread visits (the last may lie outside of the row).
    pub fn chunks(self) -> u32 {
        (self.width / CHUNK).div_ceil(self.threads)
    }

    /// Chunk number `i` of this thread.
    pub fn chunk<'k>(self, k: &'k Kernel, i: u32) -> Val<'k, I32> {
        k.tid() + i * self.threads
    }

    /// Whether chunk number `i` of every thread lies inside of the row.
    pub fn is_full(self, i: u32) -> bool {
        (i + 1) * self.threads * CHUNK <= self.width
    }

    /// Runs `body` where the chunk lies inside of the row.
    pub fn inside(self, k: &Kernel, i: u32, chunk: Val<'_, I32>, body: impl FnOnce()) {
        if self.is_full(i) {
            body();
        } else {
            k.if_(chunk.lt((self.width / CHUNK).cast_signed()), body);
        }
    }

    /// A launch of one block a row; the rows are axis 0 of operand `operand`.
    pub fn launch(self, operand: usize, smem: SmemMap, params: Vec<Param>) -> Launch {
        rows_launch(self.threads, operand, smem, params)
    }
}

/// A launch of one block for each index of axis 0 of operand `operand`.
pub(crate) fn rows_launch(
    threads: u32,
    operand: usize,
    smem: SmemMap,
    params: Vec<Param>,
) -> Launch {
    Launch {
        grid: [
            Expr::Extent { operand, axis: 0 },
            Expr::Const(1),
            Expr::Const(1),
        ],
        block: threads,
        cluster: 1,
        smem_bytes: smem.bytes(),
        params,
    }
}

/// Address of element `column` of row `row` of a BF16 matrix.
pub(crate) fn bf16_at<'k>(
    base: Global<'k>,
    row: Val<'k, I32>,
    stride: Val<'k, I32>,
    column: Val<'k, I32>,
) -> Global<'k> {
    base.at((row.to_i64() * stride.to_i64() + column.to_i64()) * 2)
}

/// Loads a chunk, widened (exact).
pub(crate) fn load8<'k>(at: Global<'k>) -> [Val<'k, F32>; 8] {
    let words: [Val<'k, I32>; 4] = at.load_vec();
    let pairs = words.map(Val::unpack_bf16x2);
    std::array::from_fn(|i| pairs[i / 2][i % 2])
}

/// Rounds a chunk to BF16 and packs it.
pub(crate) fn pack8<'k>(k: &'k Kernel, x: &[Val<'k, F32>; 8]) -> [Val<'k, I32>; 4] {
    std::array::from_fn(|i| k.pack_bf16x2(x[2 * i], x[2 * i + 1]))
}

/// A chunk's values rounded to BF16 and widened again.
pub(crate) fn round8<'k>(k: &'k Kernel, x: &[Val<'k, F32>; 8]) -> [Val<'k, F32>; 8] {
    let pairs = pack8(k, x).map(Val::unpack_bf16x2);
    std::array::from_fn(|i| pairs[i / 2][i % 2])
}

/// SwiGLU of one element: `silu(g) = g / (1 + e^-g)`; for very negative g the quotient is -0, as it should be.
pub(crate) fn swiglu<'k>(k: &'k Kernel, gate: Val<'k, F32>, up: Val<'k, F32>) -> Val<'k, F32> {
    gate / (k.exp(-gate) + 1.0) * up
}

/// Where a quantised row goes.
pub(crate) struct QuantRow<'k> {
    /// Address of the row's codes.
    pub codes: Global<'k>,
    /// Address of the row's scale of group 0.
    pub scales: Global<'k>,
    /// Elements from one group's scale to the next group's.
    pub scale_stride: Val<'k, I32>,
}

impl<'k> QuantRow<'k> {
    /// Quantises chunk number `i` of every thread (`docs/model.md`, "E4M3 block quantisation"): amax over the
    /// group, clamped; `s = amax / 448`; code of `x / s`, both true divisions. `x` holds BF16 values, zeros
    /// outside of the row. All threads of the block call it together.
    pub fn store(&self, k: &'k Kernel, shape: RowShape, i: u32, x: &[Val<'k, F32>; 8]) {
        let chunk = shape.chunk(k, i);
        let mut amax = x[0].abs();
        for v in &x[1..] {
            amax = amax.fmax(v.abs());
        }
        let amax = k
            .reduce(amax, GROUP_CHUNKS, |a, b| a.fmax(b))
            .fmax(AMAX_FLOOR);
        let scale = amax / E4M3_MAX;
        let y = x.map(|v| v / scale);
        shape.inside(k, i, chunk, || {
            let low = k.pack_e4m3x4([y[0], y[1], y[2], y[3]]);
            let high = k.pack_e4m3x4([y[4], y[5], y[6], y[7]]);
            self.codes.index(chunk, CHUNK).store_vec([low, high]);
            k.if_((chunk & (GROUP_CHUNKS - 1).cast_signed()).eq(0), || {
                let group = chunk.udiv(GROUP_CHUNKS);
                self.scales
                    .at(group.to_i64() * self.scale_stride.to_i64() * 4)
                    .store(scale);
            });
        });
    }
}

/// Sum over the block, in every thread; `scratch` has room for one FP32 a warp. All threads may read `scratch`
/// until the block's next barrier, so it serves one sum.
pub(crate) fn block_sum<'k>(
    k: &'k Kernel,
    threads: u32,
    scratch: Shared<'k>,
    x: Val<'k, F32>,
) -> Val<'k, F32> {
    let x = k.warp_sum(x);
    if threads == 32 {
        return x;
    }
    let warp = k.tid().ushr(5);
    k.if_(k.lane().eq(0), || scratch.at(warp * 4).store(x));
    k.sync_threads();
    let mut sum = scratch.load::<F32>();
    for w in 1..threads / 32 {
        sum = sum + scratch.offset(4 * w).load::<F32>();
    }
    sum
}
