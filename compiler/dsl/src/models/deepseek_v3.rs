//! DeepSeek-V3, to be read beside the technical report (arXiv 2412.19437).
//!
//! In: the fields of the published `config.json` and two limits. Out: a module with the entries
//! `prefill` and `decode`, which share parameters (named after the checkpoint, recipes over its
//! tensors) and one cache per layer.
//!
//! Both entries run any number of tokens over the whole cached context, and are written alike. What
//! differs is what is usual: many tokens in `prefill`, one in `decode`, for which the optimiser may
//! absorb projections of attention ([`latent_attention`]).
//!
//! Dims: `T` tokens of this step, `C` positions so far (the last position + 1), `R` rows that need
//! logits.

mod config;
mod weights;

use mcc_ir::{Dim, Module};

pub use config::{Config, ConfigError, Limits};
use weights::{Ffn, Weights};

use crate::error::DslErrors;
use crate::layers::{LatentShape, Rotation, latent_attention, mlp, routed_experts};
use crate::model::{Entry, Model};
use crate::tensor::Tensor;
use crate::types::{f32, i32};

/// The model of that architecture.
///
/// # Errors
/// When the config describes something that cannot be built, with all reasons.
#[track_caller]
pub fn deepseek_v3(config: &Config) -> Result<Module, DslErrors> {
    config.check()?;
    let m = Model::new(&config.name);
    if let Some(interval) = config.promote {
        m.promote(interval);
    }
    let t = m.dim("T", 1..=config.limits.max_step_tokens);
    let c = m.dim("C", 1..=config.limits.max_context);
    let r = m.dim("R", 1..=config.limits.max_step_tokens);
    let w = Weights::declare(&m, config, &c);
    for name in ["prefill", "decode"] {
        m.entry(name, |e| transformer(e, config, &w, [&t, &c, &r]));
    }
    m.finish()
}

fn transformer(e: &Entry, config: &Config, w: &Weights, [t, c, r]: [&Dim; 3]) {
    let tokens = e.input("tokens", i32((t,)));
    let positions = e.input("positions", i32((t,)));
    let rows = e.input("rows", i32((r,)));
    let [temperature, top_p, uniform] =
        &["temperature", "top_p", "uniform"].map(|name| e.input(name, f32((r,))));
    let shape = LatentShape {
        tokens: t.clone(),
        context: c.clone(),
        heads: config.num_attention_heads,
        nope: config.qk_nope_head_dim,
        rope: config.qk_rope_head_dim,
        v: config.v_head_dim,
        latent: config.kv_lora_rank,
        eps: config.rms_norm_eps,
        scale: config.softmax_scale(),
    };
    let at = Rotation {
        positions: &positions,
        table: &w.rope_table,
    };
    let eps = config.rms_norm_eps;

    let mut x = w.embed.gather(&tokens);
    for layer in &w.layers {
        let h = x.rms_norm(&layer.input_norm, eps);
        x = x + latent_attention(e, &h, &layer.mla, &shape, at);
        let h = x.rms_norm(&layer.post_attention_norm, eps);
        x = x + feed_forward(&layer.ffn, &h);
    }
    let logits = x.gather(&rows).rms_norm(&w.norm, eps).matmul_f32(&w.head);

    e.output("logits", &logits);
    e.output("next", &logits.sample(temperature, top_p, uniform));
}

/// A dense MLP, or shared plus routed experts (report section 2.1.2, equation 12).
fn feed_forward(ffn: &Ffn, h: &Tensor) -> Tensor {
    match ffn {
        Ffn::Dense(w) => mlp(h, w),
        Ffn::Moe {
            shared: None,
            routed,
        } => routed_experts(h, routed),
        Ffn::Moe {
            shared: Some(shared),
            routed,
        } => mlp(h, shared) + routed_experts(h, routed),
    }
}
