//! Kernel families: for each one the config that names every choice, and its operands in order.
//!
//! Kernel selection (`mcc-passes`) fills in a config; codegen turns it into PTX; both read the operand
//! table here, so that neither knows the other. What a family computes is the graph op named in its doc.
//! Shapes in the docs are those of the operands' views; `M` and other capitals are run-time extents.

mod exchange;
mod name;
mod operands;

use serde::{Deserialize, Serialize};

pub use self::exchange::ExchangeRange;
use self::exchange::{EXCHANGE, ROUTING, payload};
pub use self::operands::{Extent, Layout, OperandSpec};
use crate::exchange::{DirectCombine, DirectDispatch, TwoHopCombine, TwoHopDispatch};
use crate::types::DType;

/// A kernel to generate: family and all of its choices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case")]
pub enum KernelConfig {
    /// Block-scaled FP8 product, dense or grouped.
    GemmFp8(GemmFp8),
    /// BF16 product, dense, batched over heads, or grouped.
    GemmBf16(GemmBf16),
    /// Causal attention for many query tokens.
    AttentionPrefill(Attention),
    /// Attention of few tokens whose heads share one latent key.
    AttentionDecode(Attention),
    /// RMSNorm with optional residual and quantisation.
    RmsNorm(RmsNorm),
    /// Stand-alone quantisation.
    Quantize(Quantize),
    /// SwiGLU with optional quantisation.
    Swiglu(Swiglu),
    /// Rotary embedding.
    Rope(Rope),
    /// Latent norm, rotary embedding and cache write in one.
    MlaCacheWrite(MlaCacheWrite),
    /// Elementwise sum.
    Add(Add),
    /// Rows times numbers.
    ScaleRows(ScaleRows),
    /// Row gather.
    Gather(Gather),
    /// Sigmoid gate with group-limited top-k.
    Route(Route),
    /// Counts, offsets and slots of a routing.
    MoePlan(MoePlan),
    /// Copies token rows to their experts' rows.
    Expand(Expand),
    /// Sum of expert rows back to tokens.
    Combine(Combine),
    /// The weight of each expert row.
    RowWeights(RowWeights),
    /// One more expert for every token.
    AppendExpert(AppendExpert),
    /// Dispatch in one hop, first half: rows on their way to their experts' ranks.
    DirectDispatchSend(DirectDispatch),
    /// Second half: rows that have come, packed for each expert.
    DirectDispatchReceive(DirectDispatch),
    /// Combine in one hop, first half: experts' rows on their way back.
    DirectCombineSend(DirectCombine),
    /// Second half: weighted sums of what has come back.
    DirectCombineReceive(DirectCombine),
    /// Dispatch in two hops.
    TwoHopDispatch(TwoHopDispatch),
    /// Combine in two hops.
    TwoHopCombine(TwoHopCombine),
    /// Greedy or nucleus sampling.
    Sample(Sample),
}

/// Products of block-scaled operands, promoted every `promote` of K (`docs/model.md`, "Promoted accumulation").
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GemmFp8 {
    /// Columns of D; with [`Epilogue::SwigluQuantize`] of the product, of which D has half.
    pub n: u32,
    /// Depth, a multiple of 16; the last scale group may be partial. Of no meaning in the form
    /// [`GemmForm::KGrouped`], where the depth is open until launch.
    pub k: u32,
    /// Which product.
    pub form: GemmForm,
    /// What becomes of the product's FP32 sums.
    pub epilogue: Epilogue,
    /// Element type of D: `BF16` or `F32`; `E4M3` with [`Epilogue::SwigluQuantize`].
    pub out: DType,
    /// Promotion interval in elements of K: 32, 64 or 128; or 256, 512 or [`NO_PROMOTION`], where the scale
    /// groups are that long.
    pub promote: u32,
    /// Tiles and how they are worked off.
    pub tile: GemmTile,
}

impl GemmFp8 {
    /// Elements of K that share a scale.
    #[must_use]
    pub const fn scale_group(&self) -> u32 {
        match self.promote {
            NO_PROMOTION => self.k,
            p if p > 128 => p,
            _ => 128,
        }
    }
}

/// The promotion interval of a product that stays in the tensor core for all of K.
pub const NO_PROMOTION: u32 = 0;

/// Products of BF16 operands with FP32 accumulation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GemmBf16 {
    /// Columns of D.
    pub n: u32,
    /// Depth, a multiple of 8.
    pub k: u32,
    /// Which product.
    pub form: GemmForm,
    /// What becomes of the product's FP32 sums.
    pub epilogue: Epilogue,
    /// `BF16` or `F32`.
    pub out: DType,
    /// Tiles and how they are worked off.
    pub tile: GemmTile,
}

/// Which of a family of products a GEMM is; `g` counts groups (experts), `h` heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GemmForm {
    /// `d[M, N] = a[M, K] b[N, K]^T`: `matmul`.
    Dense,
    /// `d[M, h, N] = a[M, h, K] b[h, N, K]^T`: `batched_matmul`, BF16 only.
    Batched {
        /// Heads.
        heads: u32,
    },
    /// Rows `offsets[g]..offsets[g + 1]` of `a[M, K]` by `b[g, N, K]`: `grouped_matmul`.
    Grouped {
        /// Experts.
        groups: u32,
    },
    /// The first `counts[g]` rows of `a[g, M, K]` by `b[g, N, K]`: `masked_matmul`. The other rows of `d[g, M, N]`
    /// are not written.
    Masked {
        /// Experts.
        groups: u32,
    },
    /// `d[g, M, N] += a[M, K] b[N, K]^T` over the `offsets[g]..offsets[g + 1]` of K: `weight_grad`.
    KGrouped {
        /// Experts.
        groups: u32,
    },
}

impl GemmForm {
    /// Experts, in the forms that have them.
    #[must_use]
    pub const fn groups(self) -> Option<u32> {
        match self {
            Self::Dense | Self::Batched { .. } => None,
            Self::Grouped { groups } | Self::Masked { groups } | Self::KGrouped { groups } => {
                Some(groups)
            }
        }
    }

    /// Axes of A, B and D.
    const fn ranks(self) -> (usize, usize, usize) {
        match self {
            Self::Dense => (2, 2, 2),
            Self::Batched { .. } | Self::Masked { .. } => (3, 3, 3),
            Self::Grouped { .. } => (2, 3, 2),
            Self::KGrouped { .. } => (2, 2, 3),
        }
    }

    /// What says which rows, or which of K, belong to which group.
    fn rows_operand(self) -> Option<OperandDecl> {
        match self {
            Self::Dense | Self::Batched { .. } => None,
            Self::Grouped { .. } | Self::KGrouped { .. } => Some(read("offsets", DType::I32, 1)),
            Self::Masked { .. } => Some(read("counts", DType::I32, 1)),
        }
    }
}

/// What a GEMM does with its FP32 sums `acc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Epilogue {
    /// `d = round(acc)`.
    Store,
    /// `d = round(round(acc) + residual)`: `matmul`, then `add`.
    Add,
    /// `d += acc` in FP32.
    Accumulate,
    /// The left half of the columns is the gate, the right half is up: `d = quantize(swiglu(bf16(acc)))`, codes and
    /// scales; FP8 only.
    SwigluQuantize {
        /// Multiplies each row by its routing weight between the two, rounding to BF16 once more.
        weighted: bool,
    },
}

impl Epilogue {
    /// What it reads besides the sums.
    fn inputs(self, out: DType, rank: usize) -> Option<OperandDecl> {
        match self {
            Self::Add => Some(read("residual", out, rank)),
            Self::SwigluQuantize { weighted: true } => {
                Some(read("row_weights", DType::F32, rank - 1))
            }
            Self::Store | Self::Accumulate | Self::SwigluQuantize { weighted: false } => None,
        }
    }
}

/// Tiles of a GEMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GemmTile {
    /// Rows of D. 64 for each consumer warpgroup, or 256 for two of them; a multiple of 8 when swapped.
    pub m: u32,
    /// Columns of the product. A multiple of 8; when swapped, what `m` is otherwise.
    pub n: u32,
    /// Depth of the TMA ring; K advances by 128 bytes a stage.
    pub stages: u32,
    /// Computes `d^T = b a^T`: columns of D take the 64 rows of `wgmma`, so that few rows of D waste nothing.
    pub swap: bool,
    /// Which operand tile the two blocks of a cluster share.
    pub share: Share,
    /// Blocks that share the K of a tile; the sums are promoted in K order all the same.
    pub split_k: u32,
    /// Row tiles that are worked off with a column tile before the next column tile.
    pub raster: u32,
}

impl GemmTile {
    /// A tile without the finer choices.
    #[must_use]
    pub const fn new(m: u32, n: u32, stages: u32) -> Self {
        Self {
            m,
            n,
            stages,
            swap: false,
            share: Share::None,
            split_k: 1,
            raster: 16,
        }
    }
}

/// Blocks of B's scales, 128 columns each, that tiles of `tile` of the `n` columns lie across at most.
#[must_use]
pub fn scale_spans(n: u64, tile: u64) -> u64 {
    // The first columns of tiles repeat within such a block after so many tiles at most.
    (0..n.div_ceil(tile.max(1)).min(SCALE_COLUMNS))
        .map(|i| (i * tile % SCALE_COLUMNS + tile).div_ceil(SCALE_COLUMNS))
        .max()
        .unwrap_or(1)
}

/// Columns of B that share a scale (arXiv 2412.19437, section 3.3.2).
const SCALE_COLUMNS: u64 = 128;

/// The operand tile that two blocks of a cluster load together (TMA multicast).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// No cluster.
    None,
    /// Neighbours in a row of tiles: same rows of A.
    A,
    /// Neighbours in a column of tiles: same rows of B.
    B,
}

/// `attention`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Query heads.
    pub heads: u32,
    /// Key heads: `heads` (expanded MLA) or 1 (absorbed MLA).
    pub kv_heads: u32,
    /// Channels of the unrotated key part.
    pub dk: u32,
    /// Channels of the rotated part, shared by all heads.
    pub dr: u32,
    /// Channels of the value.
    pub dv: u32,
    /// Softmax scale.
    pub scale: f32,
    /// Keys a tile.
    pub tile_kv: u32,
    /// Depth of the TMA ring over keys.
    pub stages: u32,
}

/// `rms_norm`, `add_rms_norm`, `rms_norm_quantize`, `add_rms_norm_quantize`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// Row width.
    pub width: u32,
    /// Added to the mean of squares.
    pub eps: f32,
    /// Adds a residual operand first.
    pub residual: bool,
    /// Writes the sum with the residual.
    pub emit_sum: bool,
    /// Writes the normed row in BF16.
    pub emit_norm: bool,
    /// Writes the normed row in E4M3 with 1x128 scales.
    pub emit_quant: bool,
}

impl RmsNorm {
    /// Its part behind the residual.
    #[must_use]
    pub const fn normed(&self) -> Normed {
        Normed {
            eps: self.eps,
            emit_sum: self.emit_sum,
            emit_norm: self.emit_norm,
            emit_quant: self.emit_quant,
        }
    }
}

/// A norm at the end of a kernel: of the rows that it has made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normed {
    /// Added to the mean of squares.
    pub eps: f32,
    /// Writes the rows before the norm.
    pub emit_sum: bool,
    /// Writes the normed rows in BF16.
    pub emit_norm: bool,
    /// Writes the normed rows in E4M3 with 1x128 scales.
    pub emit_quant: bool,
}

/// `quantize`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quantize {
    /// Row width.
    pub width: u32,
}

/// `swiglu`, `swiglu_quantize`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Swiglu {
    /// Output width; the input has twice that.
    pub width: u32,
    /// Writes E4M3 with 1x128 scales in place of BF16.
    pub quant: bool,
}

/// `rope`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rope {
    /// Heads a token.
    pub heads: u32,
    /// Channels a head.
    pub width: u32,
    /// First rotated channel.
    pub start: u32,
    /// Rotated channels.
    pub dim: u32,
}

/// `mla_cache_write`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MlaCacheWrite {
    /// Latent channels.
    pub latent: u32,
    /// Rotated channels.
    pub rope: u32,
    /// Of the latent norm.
    pub eps: f32,
}

/// `add`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Add {
    /// Row width.
    pub width: u32,
}

/// `scale_rows`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScaleRows {
    /// Row width.
    pub width: u32,
}

/// `gather`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gather {
    /// Row width.
    pub width: u32,
    /// Takes E4M3 codes and scales in place of BF16.
    pub quant: bool,
}

/// `route`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Routed experts.
    pub experts: u32,
    /// Experts a token.
    pub top_k: u32,
    /// Groups of consecutive experts.
    pub n_group: u32,
    /// Groups kept.
    pub topk_group: u32,
    /// Factor on the weights.
    pub scaling: f32,
    /// Weights divided by their sum.
    pub normalize: bool,
}

/// First half of `dispatch`: where each (token, slot) goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MoePlan {
    /// Routed experts.
    pub experts: u32,
    /// Experts a token.
    pub top_k: u32,
}

/// Second half of `dispatch`: copies rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Expand {
    /// Row width.
    pub width: u32,
    /// Experts a token.
    pub top_k: u32,
    /// Copies E4M3 codes and scales in place of BF16.
    pub quant: bool,
}

/// `combine`, `combine_sum`, `combine_add`, `combine_add_rms_norm_quantize`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Combine {
    /// Row width.
    pub width: u32,
    /// Experts a token.
    pub top_k: u32,
    /// Multiplies each row by its weight; else the rows carry theirs.
    pub weighted: bool,
    /// Adds a residual operand to the sum.
    pub residual: bool,
    /// Norms what that gives; else it is written as it is.
    pub norm: Option<Normed>,
}

/// `row_weights`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowWeights {
    /// Experts a token.
    pub top_k: u32,
}

/// `append_expert`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppendExpert {
    /// Experts a token has without it.
    pub top_k: u32,
    /// Its number.
    pub expert: u32,
    /// Its weight for every token.
    pub weight: f32,
}

/// `sample`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sample {
    /// Vocabulary.
    pub vocab: u32,
}

/// One operand of a kernel family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperandDecl {
    /// Name used in codegen, in errors and in the manifest.
    pub name: &'static str,
    /// Element type.
    pub dtype: DType,
    /// Axes of its view; scales of activations are `[M, ceil(K/128)]` with the stride of M equal to 1.
    pub rank: usize,
    /// Whether the kernel writes it.
    pub written: bool,
}

const fn read(name: &'static str, dtype: DType, rank: usize) -> OperandDecl {
    OperandDecl {
        name,
        dtype,
        rank,
        written: false,
    }
}

const fn write(name: &'static str, dtype: DType, rank: usize) -> OperandDecl {
    OperandDecl {
        name,
        dtype,
        rank,
        written: true,
    }
}

impl Normed {
    /// weight [W], (sum [M,W]), (norm [M,W]), (codes [M,W], scales [M,W/128])
    fn operands(self) -> Vec<OperandDecl> {
        let mut v = vec![read("weight", DType::BF16, 1)];
        if self.emit_sum {
            v.push(write("sum", DType::BF16, 2));
        }
        if self.emit_norm {
            v.push(write("norm", DType::BF16, 2));
        }
        if self.emit_quant {
            v.push(write("codes", DType::E4M3, 2));
            v.push(write("scales", DType::F32, 2));
        }
        v
    }
}

impl KernelConfig {
    /// The operands of this kernel, in the order of its launch views.
    #[must_use]
    pub fn operands(&self) -> Vec<OperandDecl> {
        use DType::{BF16, E4M3, F32, I32};
        match self {
            Self::GemmFp8(c) => {
                let (a_rank, b_rank, d_rank) = c.form.ranks();
                let mut v = vec![
                    read("a", E4M3, a_rank),
                    read("a_scales", F32, a_rank),
                    read("b", E4M3, b_rank),
                    read("b_scales", F32, b_rank),
                ];
                v.extend(c.form.rows_operand());
                v.extend(c.epilogue.inputs(c.out, d_rank));
                v.push(write("d", c.out, d_rank));
                if matches!(c.epilogue, Epilogue::SwigluQuantize { .. }) {
                    v.push(write("d_scales", F32, d_rank));
                }
                v
            }
            Self::GemmBf16(c) => {
                let (a_rank, b_rank, d_rank) = c.form.ranks();
                let mut v = vec![read("a", BF16, a_rank), read("b", BF16, b_rank)];
                v.extend(c.form.rows_operand());
                v.extend(c.epilogue.inputs(c.out, d_rank));
                v.push(write("d", c.out, d_rank));
                v
            }
            // q [T,H,dk], q_rope [T,H,dr], k [C,Hk,dk], k_rope [C,dr], v [C,Hk,dv], positions [T], out [T,H,dv]
            Self::AttentionPrefill(_) | Self::AttentionDecode(_) => vec![
                read("q", BF16, 3),
                read("q_rope", BF16, 3),
                read("k", BF16, 3),
                read("k_rope", BF16, 2),
                read("v", BF16, 3),
                read("positions", I32, 1),
                write("out", BF16, 3),
            ],
            // x [M,W], (residual [M,W]), weight [W], (sum [M,W]), (norm [M,W]), (codes [M,W], scales [M,W/128])
            Self::RmsNorm(c) => {
                let mut v = vec![read("x", BF16, 2)];
                if c.residual {
                    v.push(read("residual", BF16, 2));
                }
                v.extend(c.normed().operands());
                v
            }
            // x [M,W], codes [M,W], scales [M,W/128]
            Self::Quantize(_) => vec![
                read("x", BF16, 2),
                write("codes", E4M3, 2),
                write("scales", F32, 2),
            ],
            // x [M,2W], out [M,W] or codes and scales
            Self::Swiglu(c) => {
                let mut v = vec![read("x", BF16, 2)];
                if c.quant {
                    v.push(write("codes", E4M3, 2));
                    v.push(write("scales", F32, 2));
                } else {
                    v.push(write("out", BF16, 2));
                }
                v
            }
            // x [T,H,W], positions [T], table [P,dim/2,2], out [T,H,W]
            Self::Rope(_) => vec![
                read("x", BF16, 3),
                read("positions", I32, 1),
                read("table", F32, 3),
                write("out", BF16, 3),
            ],
            // kv [T,dc+dr], weight [dc], positions [T], table [P,dr/2,2], cache [C,dc+dr]
            Self::MlaCacheWrite(_) => vec![
                read("kv", BF16, 2),
                read("weight", BF16, 1),
                read("positions", I32, 1),
                read("table", F32, 3),
                write("cache", BF16, 2),
            ],
            Self::Add(_) => vec![
                read("a", BF16, 2),
                read("b", BF16, 2),
                write("out", BF16, 2),
            ],
            // x [M,W], factors [M], out [M,W]
            Self::ScaleRows(_) => vec![
                read("x", BF16, 2),
                read("factors", F32, 1),
                write("out", BF16, 2),
            ],
            // table [N,W] (or codes and scales), index [R], out [R,W] (or codes and scales)
            Self::Gather(c) if c.quant => vec![
                read("table_codes", E4M3, 2),
                read("table_scales", F32, 2),
                read("index", I32, 1),
                write("out_codes", E4M3, 2),
                write("out_scales", F32, 2),
            ],
            Self::Gather(_) => vec![
                read("table", BF16, 2),
                read("index", I32, 1),
                write("out", BF16, 2),
            ],
            // logits [T,E], bias [E], experts [T,k], weights [T,k]
            Self::Route(_) => vec![
                read("logits", F32, 2),
                read("bias", F32, 1),
                write("experts", I32, 2),
                write("weights", F32, 2),
            ],
            // experts [T,k], offsets [E+1], slots [T,k], row_token [k*T]
            Self::MoePlan(_) => vec![
                read("experts", I32, 2),
                write("offsets", I32, 1),
                write("slots", I32, 2),
                write("row_token", I32, 1),
            ],
            // x [T,W] (or codes and scales), row_token [k*T], out [k*T,W] (or codes and scales)
            Self::Expand(c) => {
                if c.quant {
                    vec![
                        read("codes", E4M3, 2),
                        read("scales", F32, 2),
                        read("row_token", I32, 1),
                        write("out_codes", E4M3, 2),
                        write("out_scales", F32, 2),
                    ]
                } else {
                    vec![
                        read("x", BF16, 2),
                        read("row_token", I32, 1),
                        write("out", BF16, 2),
                    ]
                }
            }
            // y [k*T,W], slots [T,k], (weights [T,k]), (residual [T,W]), then out [T,W], or what a norm reads and writes
            Self::Combine(c) => {
                let mut v = vec![read("y", BF16, 2), read("slots", I32, 2)];
                if c.weighted {
                    v.push(read("weights", F32, 2));
                }
                if c.residual {
                    v.push(read("residual", BF16, 2));
                }
                match c.norm {
                    Some(norm) => v.extend(norm.operands()),
                    None => v.push(write("out", BF16, 2)),
                }
                v
            }
            // slots [T,k], weights [T,k], row_weights [k*T]
            Self::RowWeights(_) => vec![
                read("slots", I32, 2),
                read("weights", F32, 2),
                write("row_weights", F32, 1),
            ],
            // experts [T,k], weights [T,k], and the same with a slot more
            Self::AppendExpert(_) => vec![
                read("experts", I32, 2),
                read("weights", F32, 2),
                write("all_experts", I32, 2),
                write("all_weights", F32, 2),
            ],
            // codes [T,W], scales [T,W/128] (or x [T,W]), experts [T,k], weights [T,k], offsets_all [E+1], slots [T,k],
            // exchange, world
            Self::DirectDispatchSend(c) => {
                let mut v = payload(c.quant, false, 2);
                v.extend(ROUTING);
                v.extend(EXCHANGE);
                v
            }
            // exchange, world, codes [L,C,W], scales [L,C,W/128] (or x [L,C,W]), counts [L], row_weights [L,C], record
            Self::DirectDispatchReceive(c) => {
                let mut v = EXCHANGE.to_vec();
                v.extend(payload(c.quant, true, 3));
                v.extend([
                    write("counts", I32, 1),
                    write("row_weights", F32, 2),
                    write("record", I32, 1),
                ]);
                v
            }
            // y [L,C,W], counts [L], record, offsets_all [E+1], exchange, world
            Self::DirectCombineSend(_) => {
                let mut v = vec![
                    read("y", BF16, 3),
                    read("counts", I32, 1),
                    read("record", I32, 1),
                    read("offsets_all", I32, 1),
                ];
                v.extend(EXCHANGE);
                v
            }
            // experts [T,k], weights [T,k], exchange, world, out [T,W]
            Self::DirectCombineReceive(_) => {
                let mut v = vec![read("experts", I32, 2), read("weights", F32, 2)];
                v.extend(EXCHANGE);
                v.push(write("out", BF16, 2));
                v
            }
            // codes [T,W], scales [T,W/128] (or x [T,W]), experts [T,k], weights [T,k], offsets_all [E+1], slots [T,k],
            // exchange, world, codes [R,W], scales [R,W/128] (or x [R,W]), offsets [L+1], row_weights [R], record
            Self::TwoHopDispatch(c) => {
                let mut v = payload(c.quant, false, 2);
                v.extend(ROUTING);
                v.extend(EXCHANGE);
                v.extend(payload(c.quant, true, 2));
                v.extend([
                    write("offsets", I32, 1),
                    write("row_weights", F32, 1),
                    write("record", I32, 1),
                ]);
                v
            }
            // y [R,W], row_weights [R], experts [T,k], record, exchange, world, out [T,W]
            Self::TwoHopCombine(_) => {
                let mut v = vec![
                    read("y", BF16, 2),
                    read("row_weights", F32, 1),
                    read("experts", I32, 2),
                    read("record", I32, 1),
                ];
                v.extend(EXCHANGE);
                v.push(write("out", BF16, 2));
                v
            }
            // logits [R,V], temperature [R], top_p [R], uniform [R], out [R]
            Self::Sample(_) => vec![
                read("logits", F32, 2),
                read("temperature", F32, 1),
                read("top_p", F32, 1),
                read("uniform", F32, 1),
                write("out", I32, 1),
            ],
        }
    }
}
