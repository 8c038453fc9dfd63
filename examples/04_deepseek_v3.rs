//! A whole DeepSeek-V3-architecture model, in the size of `examples/tiny-v3`.
//!
//!     cargo run -p mcc-dsl --example 04_deepseek_v3
//!
//! The model itself is `compiler/dsl/src/models/deepseek_v3.rs`; this is its config.

use mcc_dsl::models::deepseek_v3::{Config, Limits, deepseek_v3};
use mcc_dsl::{DslErrors, Yarn};

fn main() -> Result<(), DslErrors> {
    let config = Config {
        name: "tiny-v3".to_owned(),
        vocab_size: 1024,
        hidden_size: 256,
        num_hidden_layers: 4,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
        fp8_weights: true,
        promote: None,

        // Multi-head latent attention: 192 cached channels a token in place of 4 * (128 + 64).
        num_attention_heads: 4,
        q_lora_rank: Some(128),
        kv_lora_rank: 128,
        qk_nope_head_dim: 64,
        qk_rope_head_dim: 64,
        v_head_dim: 64,
        rope_theta: 10000.0,
        yarn: Some(Yarn {
            factor: 4.0,
            original: 256.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: 1.0,
            mscale_all_dim: 1.0,
        }),

        // One dense layer, then layers of 16 experts in 4 groups: every token passes the shared one
        // and 4 others.
        intermediate_size: 512,
        first_k_dense_replace: 1,
        moe_layer_freq: 1,
        n_routed_experts: 16,
        n_shared_experts: 1,
        moe_intermediate_size: 128,
        num_experts_per_tok: 4,
        n_group: 4,
        topk_group: 2,
        routed_scaling_factor: 2.5,
        norm_topk_prob: true,

        limits: Limits {
            max_step_tokens: 256,
            max_context: 1024,
        },
    };
    print!("{}", deepseek_v3(&config)?);
    Ok(())
}
