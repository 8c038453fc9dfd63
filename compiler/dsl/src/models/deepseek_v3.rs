//! DeepSeek-V3, to be read beside the technical report (arXiv 2412.19437).
//!
//! In: the fields of the published `config.json` and two limits. Out: a module with the entries `prefill` and `decode`, which
//! share parameters (named after the checkpoint, recipes over its tensors) and one cache per layer.
//!
//! Both entries run any number of tokens over the whole cached context. They differ in multi-head latent attention
//! (report section 2.1.1): `prefill` expands the cached latents to keys and values per head, `decode` absorbs those
//! projections into the queries and outputs, so that all heads share one latent key.
//!
//! Dims: `T` tokens of this step, `C` positions so far (the last position + 1), `R` rows that need logits.

mod config;
mod weights;

use mcc_ir::{Dim, Module};

pub use config::{Config, ConfigError, Limits};
use weights::{Ffn, Layer, Mla, Weights};

use crate::error::DslErrors;
use crate::layers::{linear, mlp, routed_experts};
use crate::model::{Entry, Model};
use crate::tensor::{Attention, Tensor, attention, concat};
use crate::types::{f32, i32};

/// The model of that architecture.
///
/// # Errors
/// When the config describes something that cannot be built, with all reasons.
#[track_caller]
pub fn deepseek_v3(config: &Config) -> Result<Module, DslErrors> {
    config.check()?;
    let m = Model::new(&config.name);
    let t = m.dim("T", 1..=config.limits.max_step_tokens);
    let c = m.dim("C", 1..=config.limits.max_context);
    let r = m.dim("R", 1..=config.limits.max_step_tokens);
    let w = Weights::declare(&m, config, &c);
    for (name, form) in [
        ("prefill", MlaForm::Expanded),
        ("decode", MlaForm::Absorbed),
    ] {
        m.entry(name, |e| transformer(e, config, &w, form, &t, &r));
    }
    m.finish()
}

/// How attention reads the latent cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MlaForm {
    /// Keys and values of every head are computed from the latents.
    Expanded,
    /// Queries go into latent space, outputs come back from it.
    Absorbed,
}

fn transformer(e: &Entry, config: &Config, w: &Weights, form: MlaForm, t: &Dim, r: &Dim) {
    let tokens = e.input("tokens", i32((t,)));
    let positions = e.input("positions", i32((t,)));
    let rows = e.input("rows", i32((r,)));
    let [temperature, top_p, uniform] =
        &["temperature", "top_p", "uniform"].map(|name| e.input(name, f32((r,))));

    let mut x = w.embed.gather(&tokens);
    for layer in &w.layers {
        let h = x.rms_norm(&layer.input_norm, config.rms_norm_eps);
        x = x + mla(e, config, w, &layer.mla, form, &h, &positions);
        let h = x.rms_norm(&layer.post_attention_norm, config.rms_norm_eps);
        x = x + feed_forward(layer, &h);
    }

    let last = x.gather(&rows).rms_norm(&w.norm, config.rms_norm_eps);
    let logits = last.matmul_f32(&w.head);
    e.output("logits", &logits);
    e.output("next", &logits.sample(temperature, top_p, uniform));
}

/// Multi-head latent attention (report section 2.1.1, equations 1 to 11).
fn mla(
    e: &Entry,
    config: &Config,
    w: &Weights,
    layer: &Mla,
    form: MlaForm,
    h: &Tensor,
    positions: &Tensor,
) -> Tensor {
    let Config {
        kv_lora_rank: latent_dim,
        qk_nope_head_dim: nope,
        qk_rope_head_dim: rope,
        v_head_dim,
        ..
    } = *config;
    let (heads, eps) = (config.num_attention_heads, config.rms_norm_eps);
    let t = Dim::sym("T");
    let c = Dim::sym("C");

    // Queries, through a low rank unless the model has none: [T, H, nope + rope].
    let q = match &layer.q {
        weights::Query::LowRank { a, norm, b } => linear(&linear(h, a).rms_norm(norm, eps), b),
        weights::Query::Full(w) => linear(h, w),
    };
    let q = q
        .reshape((&t, heads, nope + rope))
        .rope(positions, &w.rope_table, nope);
    let q_nope = q.slice(2, 0..nope);
    let q_rope = q.slice(2, nope..nope + rope);

    // What the cache keeps of a token: its normed latent and one rotated key for all heads.
    let kv = linear(h, &layer.kv_a);
    let latent = kv.slice(1, 0..latent_dim).rms_norm(&layer.kv_a_norm, eps);
    let row = concat(1, [&latent, &kv.slice(1, latent_dim..latent_dim + rope)]);
    let cache = layer
        .cache
        .write(&row.rope(positions, &w.rope_table, latent_dim), positions);
    e.update(&layer.cache, &cache);
    let latents = cache.slice(1, 0..latent_dim);
    let k_rope = &cache.slice(1, latent_dim..latent_dim + rope);

    let (q_rope, scale) = (&q_rope, config.softmax_scale());
    let out = match form {
        MlaForm::Expanded => {
            let kv = linear(&latents, &layer.kv_b).reshape((&c, heads, nope + v_head_dim));
            let (k, v) = (&kv.slice(2, 0..nope), &kv.slice(2, nope..nope + v_head_dim));
            attention(Attention {
                q: &q_nope,
                q_rope,
                k,
                k_rope,
                v,
                positions,
                scale,
            })
        }
        MlaForm::Absorbed => {
            let q = &q_nope.batched_matmul(&layer.absorbed_k);
            let shared = &latents.reshape((&c, 1, latent_dim));
            let out = attention(Attention {
                q,
                q_rope,
                k: shared,
                k_rope,
                v: shared,
                positions,
                scale,
            });
            out.batched_matmul(&layer.absorbed_v)
        }
    };
    linear(&out.reshape((&t, heads * v_head_dim)), &layer.o)
}

/// A dense MLP, or shared plus routed experts (report section 2.1.2, equation 12).
fn feed_forward(layer: &Layer, h: &Tensor) -> Tensor {
    match &layer.ffn {
        Ffn::Dense { gate_up, down } => mlp(h, gate_up, down),
        Ffn::Moe {
            shared: None,
            routed,
        } => routed_experts(h, routed),
        Ffn::Moe {
            shared: Some((gate_up, down)),
            routed,
        } => mlp(h, gate_up, down) + routed_experts(h, routed),
    }
}
