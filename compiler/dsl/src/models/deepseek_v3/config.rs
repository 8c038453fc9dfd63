//! The architecture: the published config's fields, what they must satisfy, and what follows from
//! them.

use std::panic::Location;

use mcc_ir::Yarn;
use mcc_ir::numerics::softmax_scale;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::error::{DslError, DslErrors, source_loc};

/// Fields of the published `config.json` that shape the model, with the names used there, and this
/// build's limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the model.
    pub name: String,
    /// Tokens in the vocabulary.
    pub vocab_size: u64,
    /// Channels of the residual stream.
    pub hidden_size: u64,
    /// Layers.
    pub num_hidden_layers: u64,
    /// Added to the mean of squares in every norm.
    pub rms_norm_eps: f32,
    /// Whether the head is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Whether linear layers hold FP8 weights with 128x128 block scales, else BF16.
    pub fp8_weights: bool,
    /// Promotion interval of FP8 products; `None` for 128.
    #[serde(default)]
    pub promote: Option<u32>,

    /// Query heads.
    pub num_attention_heads: u64,
    /// Rank of the query projection; `None` for a plain one.
    pub q_lora_rank: Option<u64>,
    /// Channels of the cached latent.
    pub kv_lora_rank: u64,
    /// Channels of a head's key without rotation.
    pub qk_nope_head_dim: u64,
    /// Rotated channels.
    pub qk_rope_head_dim: u64,
    /// Channels of a head's value.
    pub v_head_dim: u64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Context extension.
    #[serde(default)]
    pub yarn: Option<Yarn>,

    /// Inner width of a dense layer's MLP.
    pub intermediate_size: u64,
    /// The first layers are dense.
    pub first_k_dense_replace: u64,
    /// From there on every so many layers have experts.
    pub moe_layer_freq: u64,
    /// Routed experts; 0 makes every layer dense.
    pub n_routed_experts: u64,
    /// Experts that every token passes; together they are one MLP.
    pub n_shared_experts: u64,
    /// Inner width of an expert.
    pub moe_intermediate_size: u64,
    /// Routed experts a token.
    pub num_experts_per_tok: u32,
    /// Groups of neighbouring experts.
    pub n_group: u32,
    /// Groups that a token's experts may come from.
    pub topk_group: u32,
    /// Factor on the experts' weights.
    pub routed_scaling_factor: f32,
    /// Whether a token's expert weights are divided by their sum.
    pub norm_topk_prob: bool,

    /// Sizes that buffers are planned for.
    pub limits: Limits,
}

/// Largest extents of the dims that are open until run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Tokens of one step.
    pub max_step_tokens: u64,
    /// Positions of the cache.
    pub max_context: u64,
}

/// A config that no module can be built for; the fault of whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A field that must be at least one.
    #[error("config: `{0}` must be at least 1")]
    Zero(&'static str),
    /// Gate and up share a matrix of FP8 blocks, so that gate must end with a block.
    #[error(
        "config: `{field}` makes a gate of {rows} rows, which is not a multiple of 128: gate and up cannot be joined \
         under block scales"
    )]
    PartialGate {
        /// The field.
        field: &'static str,
        /// Rows of the gate.
        rows: u64,
    },
    /// Rotation turns pairs of channels.
    #[error("config: `qk_rope_head_dim` is {0}, which is odd; rotation turns pairs of channels")]
    OddRope(u64),
    /// More experts than 32-bit expert numbers, or a size whose product overflows.
    #[error("config: `{field}` is {value}, more than the supported {max}")]
    TooLarge {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The largest supported value.
        max: u64,
    },
}

/// Above every published size by far, and small enough that products of three fit in 64 bits.
const MAX_SIZE: u64 = 1 << 20;

impl Config {
    /// The published model of 671 billion parameters (`deepseek-ai/DeepSeek-V3`, `config.json`).
    #[must_use]
    pub fn v3(limits: Limits) -> Config {
        Config {
            name: "deepseek-v3".to_owned(),
            vocab_size: 129_280,
            hidden_size: 7168,
            num_hidden_layers: 61,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            fp8_weights: true,
            promote: None,
            num_attention_heads: 128,
            q_lora_rank: Some(1536),
            kv_lora_rank: 512,
            qk_nope_head_dim: 128,
            qk_rope_head_dim: 64,
            v_head_dim: 128,
            rope_theta: 10_000.0,
            yarn: Some(Yarn {
                factor: 40.0,
                original: 4096.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                mscale: 1.0,
                mscale_all_dim: 1.0,
            }),
            intermediate_size: 18_432,
            first_k_dense_replace: 3,
            moe_layer_freq: 1,
            n_routed_experts: 256,
            n_shared_experts: 1,
            moe_intermediate_size: 2048,
            num_experts_per_tok: 8,
            n_group: 8,
            topk_group: 4,
            routed_scaling_factor: 2.5,
            norm_topk_prob: true,
            limits,
        }
    }

    /// Softmax scale of attention with the YaRN correction (`docs/model.md`, "RoPE and YaRN").
    pub fn softmax_scale(&self) -> f32 {
        softmax_scale(
            self.qk_nope_head_dim + self.qk_rope_head_dim,
            self.yarn.as_ref(),
        ) as f32
    }

    /// Whether a layer has routed experts.
    pub fn is_moe(&self, layer: u64) -> bool {
        self.n_routed_experts > 0
            && layer >= self.first_k_dense_replace
            && layer.is_multiple_of(self.moe_layer_freq.max(1))
    }

    /// Everything that the ops' own rules cannot say in the words of the config.
    #[track_caller]
    pub(super) fn check(&self) -> Result<(), DslErrors> {
        let at = source_loc(Location::caller());
        let mut errors = Vec::new();
        let any_moe = (0..self.num_hidden_layers.min(MAX_SIZE)).any(|i| self.is_moe(i));
        let any_dense = (0..self.num_hidden_layers.min(MAX_SIZE)).any(|i| !self.is_moe(i));
        let sizes = [
            ("vocab_size", self.vocab_size, true),
            ("hidden_size", self.hidden_size, true),
            ("num_hidden_layers", self.num_hidden_layers, true),
            ("num_attention_heads", self.num_attention_heads, true),
            ("q_lora_rank", self.q_lora_rank.unwrap_or(1), true),
            ("kv_lora_rank", self.kv_lora_rank, true),
            ("qk_nope_head_dim", self.qk_nope_head_dim, true),
            ("qk_rope_head_dim", self.qk_rope_head_dim, true),
            ("v_head_dim", self.v_head_dim, true),
            ("intermediate_size", self.intermediate_size, any_dense),
            ("moe_layer_freq", self.moe_layer_freq, any_moe),
            ("moe_intermediate_size", self.moe_intermediate_size, any_moe),
            ("n_routed_experts", self.n_routed_experts, false),
            ("n_shared_experts", self.n_shared_experts, false),
            ("limits.max_step_tokens", self.limits.max_step_tokens, true),
            ("limits.max_context", self.limits.max_context, true),
        ];
        for (field, value, used) in sizes {
            if used && value == 0 {
                errors.push(ConfigError::Zero(field));
            }
            if value > MAX_SIZE {
                errors.push(ConfigError::TooLarge {
                    field,
                    value,
                    max: MAX_SIZE,
                });
            }
        }
        if self.qk_rope_head_dim % 2 == 1 {
            errors.push(ConfigError::OddRope(self.qk_rope_head_dim));
        }
        let gates = [
            ("intermediate_size", self.intermediate_size, any_dense),
            ("moe_intermediate_size", self.moe_intermediate_size, any_moe),
        ];
        for (field, rows, used) in gates {
            if self.fp8_weights && used && !rows.is_multiple_of(128) {
                errors.push(ConfigError::PartialGate { field, rows });
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let told = |e: ConfigError| DslError {
            at: Some(at.clone()),
            mistake: e.into(),
        };
        Err(DslErrors(errors.into_iter().map(told).collect()))
    }
}
