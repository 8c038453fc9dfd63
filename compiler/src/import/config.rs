//! `config.json` of `DeepseekV3ForCausalLM`, in its old (`rope_scaling`) and new (`rope_parameters`) forms.
//!
//! A value that would change what the model computes, and that this compiler does not build, is an error; a
//! field that it has never heard of is reported, since nobody can say whether it matters.

use mcc_dsl::models::deepseek_v3::{Config, Limits};
use mcc_ir::Yarn;
use serde_json::{Value, json};

use super::fields::Fields;

const ARCHITECTURE: &str = "DeepseekV3ForCausalLM";
/// Layers, experts and the like: far above any model, far below overflow.
const MAX_TOKEN_ID: u64 = i32::MAX as u64;

/// The config as read.
#[derive(Clone, Debug)]
pub struct HfConfig {
    /// The architecture, without the limits of a build.
    model: Config,
    /// Longest context.
    pub max_position_embeddings: u64,
    /// Begins a text.
    pub bos: Option<i32>,
    /// Each ends a text.
    pub eos: Vec<i32>,
    /// Fields that this compiler does not know.
    pub unknown_fields: Vec<String>,
}

impl HfConfig {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// A message that names the field, its value and what is supported.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
        let object = value.as_object().ok_or("not a JSON object")?;
        let f = Fields::new("", object);
        check_architecture(&f)?;

        let heads = f.u64("num_attention_heads")?;
        f.only("num_key_value_heads", &json!(heads))?;
        f.only("hidden_act", &json!("silu"))?;
        f.only("attention_bias", &json!(false))?;
        f.only("mlp_bias", &json!(false))?;
        f.only("rope_interleave", &json!(true))?;
        f.only("scoring_func", &json!("sigmoid"))?;
        f.only("topk_method", &json!("noaux_tc"))?;
        let nope = f.u64("qk_nope_head_dim")?;
        let rope = f.u64("qk_rope_head_dim")?;
        f.only("qk_head_dim", &json!(nope + rope))?;

        let max_position_embeddings = f.u64("max_position_embeddings")?;
        let (rope_theta, yarn) = rotary(&f, max_position_embeddings)?;
        let quantised = quantisation(&f)?;
        let experts = f.opt_u64("n_routed_experts")?.unwrap_or(0);
        let small = |v: Option<u64>, name: &str| {
            u32::try_from(v.unwrap_or(1))
                .map_err(|_| format!("`{name}` is {}; it must be below 2^32", v.unwrap_or(1)))
        };
        let model = Config {
            name: String::new(),
            vocab_size: f.u64("vocab_size")?,
            hidden_size: f.u64("hidden_size")?,
            num_hidden_layers: f.u64("num_hidden_layers")?,
            rms_norm_eps: f.f64("rms_norm_eps")? as f32,
            tie_word_embeddings: f.opt_bool("tie_word_embeddings")?.unwrap_or(false),
            fp8_weights: quantised,
            promote: None,
            num_attention_heads: heads,
            q_lora_rank: f.opt_u64("q_lora_rank")?,
            kv_lora_rank: f.u64("kv_lora_rank")?,
            qk_nope_head_dim: nope,
            qk_rope_head_dim: rope,
            v_head_dim: f.u64("v_head_dim")?,
            rope_theta,
            yarn,
            intermediate_size: f.u64("intermediate_size")?,
            first_k_dense_replace: f.opt_u64("first_k_dense_replace")?.unwrap_or(0),
            moe_layer_freq: f.opt_u64("moe_layer_freq")?.unwrap_or(1),
            n_routed_experts: experts,
            n_shared_experts: f.opt_u64("n_shared_experts")?.unwrap_or(0),
            moe_intermediate_size: f.opt_u64("moe_intermediate_size")?.unwrap_or(0),
            num_experts_per_tok: small(f.opt_u64("num_experts_per_tok")?, "num_experts_per_tok")?,
            n_group: small(f.opt_u64("n_group")?, "n_group")?,
            topk_group: small(f.opt_u64("topk_group")?, "topk_group")?,
            routed_scaling_factor: f.opt_f64("routed_scaling_factor")?.unwrap_or(1.0) as f32,
            norm_topk_prob: f.opt_bool("norm_topk_prob")?.unwrap_or(true),
            limits: Limits {
                max_step_tokens: 1,
                max_context: 1,
            },
        };
        let bos = token_ids(&f, "bos_token_id")?.first().copied();
        let eos = token_ids(&f, "eos_token_id")?;
        // Training, loading and bookkeeping; the multi-token-prediction module is not part of this graph.
        f.harmless(&[
            "_name_or_path",
            "attention_dropout",
            "auto_map",
            "aux_loss_alpha",
            "dtype",
            "ep_size",
            "head_dim",
            "initializer_range",
            "num_nextn_predict_layers",
            "pad_token_id",
            "pretraining_tp",
            "seq_aux",
            "torch_dtype",
            "transformers_version",
            "use_cache",
            "output_router_logits",
            "router_aux_loss_coef",
        ]);
        Ok(Self {
            model,
            max_position_embeddings,
            bos,
            eos,
            unknown_fields: f.unknown(),
        })
    }

    /// The architecture under a name and with a build's limits.
    #[must_use]
    pub fn model(&self, name: &str, limits: Limits, promote: Option<u32>) -> Config {
        Config {
            name: name.to_owned(),
            limits,
            promote,
            ..self.model.clone()
        }
    }
}

fn check_architecture(f: &Fields<'_>) -> Result<(), String> {
    let supported = format!("supported is {ARCHITECTURE}");
    let named: Vec<&str> = f
        .get("architectures")
        .and_then(Value::as_array)
        .map(|a| a.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let kind = f.opt_str("model_type")?;
    match (named.as_slice(), kind) {
        ([ARCHITECTURE], None | Some("deepseek_v3")) | ([], Some("deepseek_v3")) => Ok(()),
        ([], None) => Err(format!(
            "neither `architectures` nor `model_type` is there; {supported}"
        )),
        (names, kind) => Err(format!(
            "`architectures` is {names:?} and `model_type` {}; {supported} (model_type deepseek_v3)",
            kind.map_or("absent".to_owned(), |k| format!("{k:?}"))
        )),
    }
}

/// Base of the frequencies and context extension, from either form.
fn rotary(f: &Fields<'_>, max_positions: u64) -> Result<(f64, Option<Yarn>), String> {
    let old_theta = f.opt_f64("rope_theta")?;
    let old = f.opt_object("rope_scaling")?;
    let new = f.opt_object("rope_parameters")?;
    let theta_in_new = match &new {
        Some(new) => new.opt_f64("rope_theta")?,
        None => None,
    };
    let theta = theta_in_new.or(old_theta).unwrap_or(10_000.0);
    // The new form wins: transformers writes it, and keeps the old one only when it read it.
    let Some(s) = new.or(old) else {
        return Ok((theta, None));
    };
    let kind = s
        .opt_str("rope_type")?
        .or(s.opt_str("type")?)
        .unwrap_or("default");
    s.harmless(&["rope_theta"]);
    let yarn = match kind {
        "default" => None,
        "yarn" => {
            s.only("attention_factor", &Value::Null)?;
            s.only("truncate", &json!(true))?;
            // Without mscale_all_dim the softmax scale stays, and the table carries the whole factor.
            let all = s.opt_f64("mscale_all_dim")?.unwrap_or(0.0);
            let mscale = s.opt_f64("mscale")?;
            Some(Yarn {
                factor: s.f64("factor")?,
                original: s
                    .opt_f64("original_max_position_embeddings")?
                    .unwrap_or(max_positions as f64),
                beta_fast: s.opt_f64("beta_fast")?.unwrap_or(32.0),
                beta_slow: s.opt_f64("beta_slow")?.unwrap_or(1.0),
                mscale: if all == 0.0 {
                    1.0
                } else {
                    mscale.unwrap_or(1.0)
                },
                mscale_all_dim: all,
            })
        }
        other => {
            return Err(format!(
                "rope type `{other}` is not supported; supported are `default` and `yarn`"
            ));
        }
    };
    if let Some(field) = s.unknown().first() {
        return Err(format!(
            "`{field}` is not known; it may change the positions' meaning"
        ));
    }
    Ok((theta, yarn))
}

/// Whether linear layers are FP8 with 128x128 blocks.
fn quantisation(f: &Fields<'_>) -> Result<bool, String> {
    let Some(q) = f.opt_object("quantization_config")? else {
        return Ok(false);
    };
    match q.opt_str("quant_method")? {
        Some("fp8") => {}
        other => {
            return Err(format!(
                "`quantization_config.quant_method` is {}; supported is \"fp8\" with 128x128 blocks, or no quantisation",
                other.map_or("absent".to_owned(), |o| format!("{o:?}"))
            ));
        }
    }
    q.only("fmt", &json!("e4m3"))?;
    q.only("activation_scheme", &json!("dynamic"))?;
    // Power-of-two scales of activations would round differently.
    q.only("scale_fmt", &json!("float"))?;
    q.only("modules_to_not_convert", &Value::Null)?;
    match q.get("weight_block_size") {
        Some(v) if *v == json!([128, 128]) => {}
        other => {
            return Err(format!(
                "`quantization_config.weight_block_size` is {}; supported is [128,128]",
                other.map_or("absent".to_owned(), ToString::to_string)
            ));
        }
    }
    if let Some(field) = q.unknown().first() {
        return Err(format!(
            "`{field}` is not known; it may change what the weights mean"
        ));
    }
    Ok(true)
}

/// One id, a list of them, or none.
fn token_ids(f: &Fields<'_>, name: &'static str) -> Result<Vec<i32>, String> {
    let one = |v: &Value| {
        v.as_u64()
            .filter(|id| *id <= MAX_TOKEN_ID)
            .and_then(|id| i32::try_from(id).ok())
            .ok_or_else(|| format!("`{name}` holds {v}, which is no token id"))
    };
    match f.get(name) {
        None => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(one).collect(),
        Some(v) => Ok(vec![one(v)?]),
    }
}
