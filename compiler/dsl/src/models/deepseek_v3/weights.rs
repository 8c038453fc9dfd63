//! The parameters and caches of the model, and how each parameter is made from checkpoint tensors.
//!
//! Parameter names are the checkpoint's without `model.` and `.weight`. Matrices that one kernel
//! reads together are joined while loading: gate with up, and each kind of expert matrix over all
//! experts.

use mcc_ir::{Dim, ParamSource, Type};

use super::config::Config;
use crate::layers::Experts;
use crate::model::{Model, Param, State};
use crate::tensor::Routing;
use crate::types::{bf16, concat_rows, dequant, f32, fp8_weight, stack, tensor};

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
    pub mla: Mla,
    pub post_attention_norm: Param,
    pub ffn: Ffn,
}

/// Multi-head latent attention.
pub(super) struct Mla {
    pub q: Query,
    /// `[latent + rope, D]`
    pub kv_a: Param,
    /// `[latent]`
    pub kv_a_norm: Param,
    /// `[H * (nope + v), latent]`: for each head the rows of its keys, then those of its values.
    pub kv_b: Param,
    /// `[H, latent, nope]`: the key rows of `kv_b`, transposed.
    pub absorbed_k: Param,
    /// `[H, v, latent]`: the value rows of `kv_b`.
    pub absorbed_v: Param,
    /// `[D, H * v]`
    pub o: Param,
    /// `[C, latent + rope]`
    pub cache: State,
}

/// The query projection.
pub(super) enum Query {
    LowRank { a: Param, norm: Param, b: Param },
    Full(Param),
}

/// The second half of a layer.
pub(super) enum Ffn {
    Dense {
        /// `[2 * I, D]`
        gate_up: Param,
        /// `[D, I]`
        down: Param,
    },
    Moe {
        /// Gate with up, and down, of the experts that every token passes.
        shared: Option<(Param, Param)>,
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

    fn mla(&self, c: &Dim) -> Mla {
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

        // Absorption multiplies in BF16, as DeepSeek's own inference code does.
        let kv_b = tensor(self.checkpoint("self_attn.kv_b_proj"));
        let kv_b = if config.fp8_weights {
            dequant(kv_b)
        } else {
            kv_b
        };
        let rows_of_heads = |start, len| ParamSource::HeadRows {
            src: Box::new(kv_b.clone()),
            heads,
            start,
            len,
        };
        let absorbed_k = ParamSource::Transpose(Box::new(rows_of_heads(0, nope)));
        let absorbed_v = rows_of_heads(nope, v);
        let absorbed =
            |half: &str, ty, source| self.param(&format!("self_attn.kv_b_proj.{half}"), ty, source);

        Mla {
            q,
            kv_a: self.linear("self_attn.kv_a_proj_with_mqa", latent + rope, d),
            kv_a_norm: self.norm("self_attn.kv_a_layernorm", latent),
            kv_b: self.linear("self_attn.kv_b_proj", heads * (nope + v), latent),
            absorbed_k: absorbed("absorbed_k", bf16((heads, latent, nope)), absorbed_k),
            absorbed_v: absorbed("absorbed_v", bf16((heads, v, latent)), absorbed_v),
            o: self.linear("self_attn.o_proj", d, heads * v),
            cache: self.m.state(&self.name("cache"), bf16((c, latent + rope))),
        }
    }

    fn dense(&self) -> Ffn {
        let (gate_up, down) = self.mlp("mlp", self.config.intermediate_size);
        Ffn::Dense { gate_up, down }
    }

    fn moe(&self) -> Ffn {
        let config = self.config;
        let (d, i, e) = (
            config.hidden_size,
            config.moe_intermediate_size,
            config.n_routed_experts,
        );
        let per_expert = |kind: &str| {
            (0..e)
                .map(move |x| format!("mlp.experts.{x}.{kind}"))
                .collect::<Vec<_>>()
        };
        let stored = |name: &String| tensor(self.checkpoint(name));
        let (gates, ups) = (per_expert("gate_proj"), per_expert("up_proj"));
        let gate_up = gates
            .iter()
            .zip(&ups)
            .map(|(gate, up)| concat_rows([stored(gate), stored(up)]));
        let down = per_expert("down_proj");
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
                gate_up: self.param(
                    "mlp.experts.gate_up_proj",
                    self.matrix(vec![e, 2 * i, d]),
                    stack(gate_up),
                ),
                down: self.param(
                    "mlp.experts.down_proj",
                    self.matrix(vec![e, d, i]),
                    stack(down.iter().map(stored)),
                ),
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

    /// Gate with up `[2 * inner, D]`, and down `[D, inner]`.
    fn mlp(&self, prefix: &str, inner: u64) -> (Param, Param) {
        let d = self.config.hidden_size;
        let halves = ["gate_proj", "up_proj"]
            .map(|half| tensor(self.checkpoint(&format!("{prefix}.{half}"))));
        let gate_up = self.param(
            &format!("{prefix}.gate_up_proj"),
            self.matrix(vec![2 * inner, d]),
            concat_rows(halves),
        );
        (
            gate_up,
            self.linear(&format!("{prefix}.down_proj"), d, inner),
        )
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
