//! The DeepSeek-V3 architecture from model to program, for the shapes of the tiny trained checkpoint and of the
//! published model: all ops find kernels, nothing runs that could be a view, and the arena is near its bound.

use std::collections::BTreeMap;

use mcc_dsl::models::deepseek_v3::{Config, Limits, deepseek_v3};
use mcc_ir::kernel::KernelConfig;
use mcc_ir::program::{BufferKind, Program};
use mcc_passes::lower::{Lowered, lower, lower_explained};
use mcc_passes::select::Options;
use mcc_passes::target::Target;
use mcc_passes::{PassError, egraph};

fn tiny() -> Config {
    Config {
        name: "tiny-v3".into(),
        vocab_size: 1024,
        hidden_size: 256,
        num_hidden_layers: 4,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
        fp8_weights: true,
        promote: None,
        num_attention_heads: 4,
        q_lora_rank: Some(128),
        kv_lora_rank: 128,
        qk_nope_head_dim: 64,
        qk_rope_head_dim: 64,
        v_head_dim: 64,
        rope_theta: 10000.0,
        yarn: None,
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
            max_step_tokens: 512,
            max_context: 1024,
        },
    }
}

fn published() -> Config {
    Config::v3(Limits {
        max_step_tokens: 4096,
        max_context: 16_384,
    })
}

fn compiled(config: &Config) -> Lowered {
    let target = Target::load("h800").unwrap();
    let module = deepseek_v3(config).unwrap();
    let options = Options::default();
    let usual = egraph::Options {
        usual: options.hints.clone(),
        ..egraph::Options::default()
    };
    let (module, _) = egraph::optimize(&module, &target, &usual).unwrap();
    lower_explained(&module, &target, &options).unwrap_or_else(|e| panic!("{e}"))
}

/// Launches of each family.
fn families(program: &Program, entry: &str) -> BTreeMap<&'static str, usize> {
    let entry = program.entries.iter().find(|e| e.name == entry).unwrap();
    let mut counts = BTreeMap::new();
    for step in &entry.steps {
        *counts
            .entry(program.kernels[step.kernel.0 as usize].config.family())
            .or_default() += 1;
    }
    counts
}

#[test]
fn the_tiny_model_lowers_to_the_launches_that_its_layers_need() {
    let lowered = compiled(&tiny());
    let program = &lowered.program;
    let (layers, dense, moe) = (4, 1, 3);
    for (entry, attention) in [
        ("prefill", "attention_prefill"),
        ("decode", "attention_decode"),
    ] {
        let counts = families(program, entry);
        assert_eq!(counts[attention], layers, "{counts:?}");
        assert_eq!(counts["mla_cache_write"], layers, "{counts:?}");
        assert_eq!(counts["rope"], layers, "{counts:?}");
        assert_eq!(
            (
                counts["route"],
                counts["moe_plan"],
                counts["expand"],
                counts["combine"]
            ),
            (moe, moe, moe, moe)
        );
        // Every norm quantises for the product behind it; what is left is the attention's result, and the
        // latents that prefill expands.
        let prefill = usize::from(entry == "prefill");
        assert_eq!(counts["quantize"], layers * (1 + prefill), "{counts:?}");
        // q_a with kv_a, q_b, o, gate with up and down, twice more for experts, and kv_b in prefill.
        assert_eq!(
            counts["gemm_fp8"],
            layers * (3 + prefill) + dense * 2 + moe * 4,
            "{counts:?}"
        );
        // Routers and head; decode absorbs kv_b into two products a layer.
        assert_eq!(
            counts["gemm_bf16"],
            moe + 1 + (1 - prefill) * 2 * layers,
            "{counts:?}"
        );
    }
    let states = program
        .buffers
        .iter()
        .filter(|b| b.kind == BufferKind::State)
        .count();
    assert_eq!(states, layers);
}

#[test]
fn layers_share_kernels() {
    let program = compiled(&tiny()).program;
    let launches: usize = program.entries.iter().map(|e| e.steps.len()).sum();
    assert!(
        program.kernels.len() * 3 < launches,
        "{} kernels for {launches} launches",
        program.kernels.len()
    );
}

#[test]
fn both_sizes_survive_the_text_form_and_stay_the_same() {
    for config in [tiny(), published()] {
        let program = compiled(&config).program;
        let json = program.to_json().unwrap();
        assert_eq!(Program::from_json(&json).unwrap(), program);
        assert_eq!(compiled(&config).program.to_json().unwrap(), json);
    }
}

#[test]
fn the_published_model_fits_its_arena_tightly() {
    let lowered = compiled(&published());
    for used in &lowered.memory.entries {
        // A tenth above the bytes alive at once, which no plan can beat.
        assert!(used.peak_bytes * 10 <= used.live_bytes * 11, "{used}");
        assert!(used.total_bytes > used.peak_bytes * 10, "{used}");
    }
}

#[test]
fn decode_takes_tiles_of_few_rows() {
    let program = compiled(&published()).program;
    let decode = program.entries.iter().find(|e| e.name == "decode").unwrap();
    for step in &decode.steps {
        let kernel = &program.kernels[step.kernel.0 as usize];
        let tile_m = match &kernel.config {
            KernelConfig::GemmFp8(c) => c.tile.m,
            KernelConfig::GemmBf16(c) => c.tile.m,
            _ => continue,
        };
        assert!(tile_m <= 64, "{} runs {}", step.label, kernel.name);
    }
}

#[test]
fn without_the_egraph_the_cache_write_is_refused_with_the_line_that_made_it() {
    let module = deepseek_v3(&tiny()).unwrap();
    let error = lower(&module, &Target::load("h800").unwrap(), &Options::default()).unwrap_err();
    let PassError::Unsupported(error) = error else {
        panic!("{error}")
    };
    assert!(error.op.starts_with("concat"), "{error}");
    assert!(error.supported.contains("mla_cache_write"), "{error}");
    assert!(
        error
            .loc
            .is_some_and(|loc| loc.file.ends_with("layers/mla.rs"))
    );
}

#[test]
fn a_module_for_several_ranks_is_refused_in_one_sentence_where_it_was_not_distributed() {
    let target = Target::load("h800").unwrap();
    let mut module = deepseek_v3(&tiny()).unwrap();
    module.mesh = Some("nodes=1,gpus=1,ep=1".parse().unwrap());
    let (one, _) = egraph::optimize(&module, &target, &egraph::Options::default()).unwrap();
    lower(&one, &target, &Options::default()).unwrap();
    module.mesh = Some("nodes=2,gpus=8,ep=16".parse().unwrap());
    let (many, _) = egraph::optimize(&module, &target, &egraph::Options::default()).unwrap();
    let error = lower(&many, &target, &Options::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the mesh nodes = 2, gpus = 8, ep = 16, tp = 1, dp = 16 does not fit the model: its experts are all on every \
         rank; spread them with `distribute` before kernels are selected"
    );
}
