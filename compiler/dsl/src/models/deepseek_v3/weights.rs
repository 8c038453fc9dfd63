//! The parameters and caches of the model, and how each parameter is made from checkpoint tensors.
//!
//! Parameter names are the checkpoint's without `model.` and `.weight`. Each kind of expert matrix is
//! one parameter over all experts. What else one kernel reads together, the compiler joins.

use mcc_ir::{Dim, ParamSource, Type};

use super::config::Config;
use crate::layers::{Experts, LatentAttention, Mlp, Query};
use crate::model::{Model, Param};
use crate::tensor::Routing;
use crate::types::{bf16, f32, fp8_weight, stack, tensor};

/// All of them.
pub(super) struct Weights {
    /// `[V, D]`
    pub embed: Param,
    /// `[max_context, rope / 2, 2]`
    pub rope_table: Param,
    pub layers: Vec<Layer>,
    /// `[D]`
    pub norm: Param,
    /// `[V, D]`
    pub head: Param,
}

/// One layer's.
pub(super) struct Layer {
    pub input_norm: Param,
    pub mla: LatentAttention,
    pub post_attention_norm: Param,
    pub ffn: Ffn,
}

/// The second half of a layer.
pub(super) enum Ffn {
    Dense(Mlp),
    Moe {
        /// The experts that every token passes, as one.
        shared: Option<Mlp>,
        routed: Experts,
    },
}

impl Weights {
    pub fn declare(m: &Model, config: &Config, c: &Dim) -> Weights {
        let (v, d) = (config.vocab_size, config.hidden_size);
        let embed = m.param(
            "embed_tokens",
            bf16((v, d)),
            tensor("model.embed_tokens.weight"),
        );
        let head = if config.tie_word_embeddings {
            embed.clone()
        } else {
            m.param("lm_head", bf16((v, d)), tensor("lm_head.weight"))
        };
        let rope = config.qk_rope_head_dim;
        let positions = config.limits.max_context;
        let table = ParamSource::RopeTable {
            dim: rope,
            theta: config.rope_theta,
            positions,
            yarn: config.yarn,
        };
        Weights {
            embed,
            rope_table: m.param("rope_table", f32((positions, rope / 2, 2)), table),
            layers: (0..config.num_hidden_layers)
                .map(|i| {
                    Scope {
                        m,
                        config,
                        layer: i,
                    }
                    .declare(c)
                })
                .collect(),
            norm: m.param("norm", bf16((d,)), tensor("model.norm.weight")),
            head,
        }
    }
}

/// Declares the parameters of one layer.
struct Scope<'a> {
    m: &'a Model,
    config: &'a Config,
    layer: u64,
}

impl Scope<'_> {
    fn declare(&self, c: &Dim) -> Layer {
        let d = self.config.hidden_size;
        Layer {
            input_norm: self.norm("input_layernorm", d),
            mla: self.mla(c),
            post_attention_norm: self.norm("post_attention_layernorm", d),
            ffn: if self.config.is_moe(self.layer) {
                self.moe()
            } else {
                self.dense()
            },
        }
    }

    fn mla(&self, c: &Dim) -> LatentAttention {
        let config = self.config;
        let (d, heads, latent) = (
            config.hidden_size,
            config.num_attention_heads,
            config.kv_lora_rank,
        );
        let (nope, rope, v) = (
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
        );
        let q_rows = heads * (nope + rope);
        let q = match config.q_lora_rank {
            Some(rank) => Query::LowRank {
                a: self.linear("self_attn.q_a_proj", rank, d),
                norm: self.norm("self_attn.q_a_layernorm", rank),
                b: self.linear("self_attn.q_b_proj", q_rows, rank),
            },
            None => Query::Full(self.linear("self_attn.q_proj", q_rows, d)),
        };

        LatentAttention {
            q,
            kv_a: self.linear("self_attn.kv_a_proj_with_mqa", latent + rope, d),
            kv_a_norm: self.norm("self_attn.kv_a_layernorm", latent),
            kv_b: self.linear("self_attn.kv_b_proj", heads * (nope + v), latent),
            o: self.linear("self_attn.o_proj", d, heads * v),
            cache: self.m.state(&self.name("cache"), bf16((c, latent + rope))),
        }
    }

    fn dense(&self) -> Ffn {
        Ffn::Dense(self.mlp("mlp", self.config.intermediate_size))
    }

    fn moe(&self) -> Ffn {
        let config = self.config;
        let (d, i, e) = (
            config.hidden_size,
            config.moe_intermediate_size,
            config.n_routed_experts,
        );
        let stacked = |kind: &str, n: u64, k: u64| {
            let stored =
                (0..e).map(|x| tensor(self.checkpoint(&format!("mlp.experts.{x}.{kind}"))));
            let name = format!("mlp.experts.{kind}");
            self.param(&name, self.matrix(vec![e, n, k]), stack(stored))
        };
        let bias = tensor(format!(
            "model.layers.{}.mlp.gate.e_score_correction_bias",
            self.layer
        ));
        Ffn::Moe {
            shared: (config.n_shared_experts > 0)
                .then(|| self.mlp("mlp.shared_experts", config.n_shared_experts * i)),
            routed: Experts {
                router: self.param(
                    "mlp.gate",
                    bf16((e, d)),
                    tensor(self.checkpoint("mlp.gate")),
                ),
                bias: self.param("mlp.gate.e_score_correction_bias", f32((e,)), bias),
                mlp: Mlp {
                    gate: stacked("gate_proj", i, d),
                    up: stacked("up_proj", i, d),
                    down: stacked("down_proj", d, i),
                },
                n_experts: e as u32,
                routing: Routing {
                    top_k: config.num_experts_per_tok,
                    n_group: config.n_group,
                    topk_group: config.topk_group,
                    scaling: config.routed_scaling_factor,
                    normalize: config.norm_topk_prob,
                },
            },
        }
    }

    fn mlp(&self, prefix: &str, inner: u64) -> Mlp {
        let d = self.config.hidden_size;
        let weight = |kind: &str, n, k| self.linear(&format!("{prefix}.{kind}"), n, k);
        Mlp {
            gate: weight("gate_proj", inner, d),
            up: weight("up_proj", inner, d),
            down: weight("down_proj", d, inner),
        }
    }

    fn linear(&self, name: &str, n: u64, k: u64) -> Param {
        self.param(name, self.matrix(vec![n, k]), tensor(self.checkpoint(name)))
    }

    fn norm(&self, name: &str, width: u64) -> Param {
        self.param(name, bf16((width,)), tensor(self.checkpoint(name)))
    }

    fn param(&self, name: &str, ty: Type, source: ParamSource) -> Param {
        self.m.param(&self.name(name), ty, source)
    }

    /// Type of linear weights of this model.
    fn matrix(&self, shape: Vec<u64>) -> Type {
        let shape: Vec<Dim> = shape.into_iter().map(Dim::Const).collect();
        if self.config.fp8_weights {
            fp8_weight(shape)
        } else {
            bf16(shape)
        }
    }

    fn name(&self, name: &str) -> String {
        format!("layers.{}.{name}", self.layer)
    }

    fn checkpoint(&self, name: &str) -> String {
        format!("model.layers.{}.{name}.weight", self.layer)
    }
}
