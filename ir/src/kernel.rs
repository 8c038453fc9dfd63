//! Kernel families: for each one the config that names every choice, and its operands in order.
//!
//! Kernel selection (`mcc-passes`) fills in a config; codegen turns it into PTX; both read the operand
//! table here, so that neither knows the other. What a family computes is the graph op named in its doc.
//! Shapes in the docs are those of the operands' views; `M` and other capitals are run-time extents.

mod name;
mod operands;

use serde::{Deserialize, Serialize};

pub use self::operands::{Extent, Layout, OperandSpec};
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
    /// Row gather.
    Gather(Gather),
    /// Sigmoid gate with group-limited top-k.
    Route(Route),
    /// Counts, offsets and slots of a routing.
    MoePlan(MoePlan),
    /// Copies token rows to their experts' rows.
    Expand(Expand),
    /// Weighted sum of expert rows back to tokens.
    Combine(Combine),
    /// Greedy or nucleus sampling.
    Sample(Sample),
}

/// `matmul` and `grouped_matmul` of block-scaled operands: `D = A B^T`, promoted every `promote` of K
/// (`docs/model.md`, "Promoted accumulation").
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GemmFp8 {
    /// Columns of D.
    pub n: u32,
    /// Depth; a partial last block of 128 is allowed when a multiple of 16.
    pub k: u32,
    /// Experts for the grouped form, `None` for dense.
    pub groups: Option<u32>,
    /// `BF16` or `F32`.
    pub out: DType,
    /// Rows a tile: 64 or 128 (one or two consumer warpgroups).
    pub tile_m: u32,
    /// Columns a tile: a multiple of 8 up to 256 that divides 128 or is a multiple of it.
    pub tile_n: u32,
    /// Depth of the TMA ring.
    pub stages: u32,
    /// Promotion interval in K elements.
    pub promote: u32,
}

/// `matmul`, `batched_matmul` and `grouped_matmul` of BF16 operands with FP32 accumulation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GemmBf16 {
    /// Columns of D.
    pub n: u32,
    /// Depth, a multiple of 8.
    pub k: u32,
    /// Heads for the batched form, else `None`.
    pub batch: Option<u32>,
    /// Experts for the grouped form, else `None`; never together with `batch`.
    pub groups: Option<u32>,
    /// `BF16` or `F32`.
    pub out: DType,
    /// Rows a tile: 64 or 128.
    pub tile_m: u32,
    /// Columns a tile, a multiple of 8 up to 256.
    pub tile_n: u32,
    /// Depth of the TMA ring; K advances by 64 a stage.
    pub stages: u32,
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

/// `gather`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gather {
    /// Row width.
    pub width: u32,
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

/// `combine`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Combine {
    /// Row width.
    pub width: u32,
    /// Experts a token.
    pub top_k: u32,
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

impl KernelConfig {
    /// The operands of this kernel, in the order of its launch views.
    #[must_use]
    pub fn operands(&self) -> Vec<OperandDecl> {
        use DType::{BF16, E4M3, F32, I32};
        match self {
            // a [M,K], a_scales [M,K/128] (MN-major), b [N,K] or [E,N,K], b_scales [(E,)N/128,K/128], (offsets [E+1]), d [M,N]
            Self::GemmFp8(c) => {
                let b_rank = if c.groups.is_some() { 3 } else { 2 };
                let mut v = vec![
                    read("a", E4M3, 2),
                    read("a_scales", F32, 2),
                    read("b", E4M3, b_rank),
                    read("b_scales", F32, b_rank),
                ];
                if c.groups.is_some() {
                    v.push(read("offsets", I32, 1));
                }
                v.push(write("d", c.out, 2));
                v
            }
            // a [M,K] or [M,H,K], b [N,K], [H,N,K] or [E,N,K], (offsets [E+1]), d [M,N] or [M,H,N]
            Self::GemmBf16(c) => {
                let rank = if c.batch.is_some() { 3 } else { 2 };
                let b_rank = if c.groups.is_some() { 3 } else { rank };
                let mut v = vec![read("a", BF16, rank), read("b", BF16, b_rank)];
                if c.groups.is_some() {
                    v.push(read("offsets", I32, 1));
                }
                v.push(write("d", c.out, rank));
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
                v.push(read("weight", BF16, 1));
                if c.emit_sum {
                    v.push(write("sum", BF16, 2));
                }
                if c.emit_norm {
                    v.push(write("norm", BF16, 2));
                }
                if c.emit_quant {
                    v.push(write("codes", E4M3, 2));
                    v.push(write("scales", F32, 2));
                }
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
            // table [N,W], index [R], out [R,W]
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
            // y [k*T,W], slots [T,k], weights [T,k], out [T,W]
            Self::Combine(_) => vec![
                read("y", BF16, 2),
                read("slots", I32, 2),
                read("weights", F32, 2),
                write("out", BF16, 2),
            ],
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
