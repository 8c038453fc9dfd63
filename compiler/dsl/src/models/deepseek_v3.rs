//! DeepSeek-V3, to be read beside the technical report (arXiv 2412.19437).
//!
//! In: the fields of the published `config.json` and two limits. Out: a module with the entries
//! `prefill` and `decode`, which share parameters (named after the checkpoint, recipes over its
//! tensors) and one cache per layer.
//!
//! Both entries run any number of tokens over the whole cached context, and are written alike. What
//! differs is what is usual: many tokens in `prefill`, one in `decode`. Multi-head latent attention
//! (report section 2.1.1) is written as the report does: keys and values of every head are computed
//! from the cached latents. The optimiser may absorb these projections into the queries and outputs,
//! so that all heads share one latent key; in `decode` this is far cheaper. Keys, values and latents
//! are then rounded elsewhere, which the model allows there and nowhere else.
//!
//! Dims: `T` tokens of this step, `C` positions so far (the last position + 1), `R` rows that need
//! logits.

mod config;
mod weights;

use mcc_ir::{Dim, Freedom, Module};

pub use config::{Config, ConfigError, Limits};
use weights::{Ffn, Query, Weights};

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
    if let Some(interval) = config.promote {
        m.promote(interval);
    }
    let t = m.dim("T", 1..=config.limits.max_step_tokens);
    let c = m.dim("C", 1..=config.limits.max_context);
    let r = m.dim("R", 1..=config.limits.max_step_tokens);
    let w = Weights::declare(&m, config, &c);
    for name in ["prefill", "decode"] {
        m.entry(name, |e| transformer(e, config, &w, &t, &r));
    }
    m.finish()
}

/// What every layer of one entry needs.
struct Pass<'a> {
    entry: &'a Entry,
    config: &'a Config,
    weights: &'a Weights,
    /// `[T]`
    positions: Tensor,
}

fn transformer(e: &Entry, config: &Config, w: &Weights, t: &Dim, r: &Dim) {
    let tokens = e.input("tokens", i32((t,)));
    let positions = e.input("positions", i32((t,)));
    let rows = e.input("rows", i32((r,)));
    let [temperature, top_p, uniform] =
        &["temperature", "top_p", "uniform"].map(|name| e.input(name, f32((r,))));
    let pass = Pass {
        entry: e,
        config,
        weights: w,
        positions,
    };
    let eps = config.rms_norm_eps;

    let mut x = w.embed.gather(&tokens);
    for layer in &w.layers {
        let h = x.rms_norm(&layer.input_norm, eps);
        x = x + pass.mla(&layer.mla, &h);
        let h = x.rms_norm(&layer.post_attention_norm, eps);
        x = x + feed_forward(&layer.ffn, &h);
    }
    let logits = x.gather(&rows).rms_norm(&w.norm, eps).matmul_f32(&w.head);

    e.output("logits", &logits);
    e.output("next", &logits.sample(temperature, top_p, uniform));
}

impl Pass<'_> {
    /// Multi-head latent attention (report section 2.1.1, equations 1 to 11): `[T, D]` to `[T, D]`.
    fn mla(&self, layer: &weights::Attention, h: &Tensor) -> Tensor {
        let Config {
            qk_nope_head_dim: nope,
            v_head_dim: dv,
            num_attention_heads: heads,
            ..
        } = *self.config;
        let (q, q_rope) = &self.queries(layer, h);
        let (latents, k_rope) = &self.cached_latents(layer, h);
        let attend = || {
            let kv = linear(latents, &layer.kv_b).reshape((&Dim::sym("C"), heads, nope + dv));
            attention(Attention {
                q,
                q_rope,
                k: &kv.slice(2, 0..nope),
                k_rope,
                v: &kv.slice(2, nope..nope + dv),
                positions: &self.positions,
                scale: self.config.softmax_scale(),
            })
        };
        let out = self.entry.allowing(Freedom::ALL, attend);
        linear(&out.reshape((&Dim::sym("T"), heads * dv)), &layer.o)
    }

    /// Queries through a low rank, unless the model has none: `[T, H, nope]` and the rotated `[T,
    /// H, rope]`.
    fn queries(&self, layer: &weights::Attention, h: &Tensor) -> (Tensor, Tensor) {
        let Config {
            qk_nope_head_dim: nope,
            qk_rope_head_dim: rope,
            ..
        } = *self.config;
        let q = match &layer.q {
            Query::LowRank { a, norm, b } => {
                linear(&linear(h, a).rms_norm(norm, self.config.rms_norm_eps), b)
            }
            Query::Full(w) => linear(h, w),
        };
        let q = q.reshape((&Dim::sym("T"), self.config.num_attention_heads, nope + rope));
        let q = q.rope(&self.positions, &self.weights.rope_table, nope);
        (q.slice(2, 0..nope), q.slice(2, nope..nope + rope))
    }

    /// Adds this step's tokens to the cache and gives what it then holds of every token so far: its
    /// normed latent `[C, latent]`, and one rotated key for all heads `[C, rope]`.
    fn cached_latents(&self, layer: &weights::Attention, h: &Tensor) -> (Tensor, Tensor) {
        let Config {
            kv_lora_rank: latent,
            qk_rope_head_dim: rope,
            rms_norm_eps: eps,
            ..
        } = *self.config;
        let kv = linear(h, &layer.kv_a);
        let normed = kv.slice(1, 0..latent).rms_norm(&layer.kv_a_norm, eps);
        let row = concat(1, [&normed, &kv.slice(1, latent..latent + rope)]);
        let row = row.rope(&self.positions, &self.weights.rope_table, latent);
        let cache = layer.cache.write(&row, &self.positions);
        self.entry.update(&layer.cache, &cache);
        (
            cache.slice(1, 0..latent),
            cache.slice(1, latent..latent + rope),
        )
    }
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
