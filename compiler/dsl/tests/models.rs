//! The models that the DSL builds: published sizes, variants of the architecture, and the examples.

use std::process::Command;

use mcc_dsl::models::deepseek_v3::{Config, Limits, deepseek_v3};
use mcc_dsl::{
    DType, Dim, Freedom, Model, Module, NO_PROMOTION, Product, bf16, f32, fp8_weight, i32, layers,
    stack, tensor,
};
use mcc_ir::{ParamSource, parse};

/// The published DeepSeek-V3 671B.
fn v3() -> Config {
    Config::v3(Limits {
        max_step_tokens: 4096,
        max_context: 163_840,
    })
}

/// V3 with few layers and experts, so that text stays small.
fn trimmed() -> Config {
    Config {
        num_hidden_layers: 5,
        n_routed_experts: 16,
        ..v3()
    }
}

fn build(config: &Config) -> Module {
    deepseek_v3(config).unwrap_or_else(|e| panic!("{e}"))
}

fn elements(module: &Module, keep: impl Fn(&str) -> bool) -> u64 {
    let size = |p: &mcc_ir::Param| p.ty.shape.iter().filter_map(Dim::as_const).product::<u64>();
    module
        .params
        .iter()
        .filter(|p| keep(&p.name))
        .map(size)
        .sum()
}

/// Checkpoint tensors that a recipe reads.
fn sources(source: &ParamSource, names: &mut Vec<String>) {
    match source {
        ParamSource::Tensor(name) => names.push(name.clone()),
        ParamSource::Concat(parts)
        | ParamSource::Stack(parts)
        | ParamSource::Experts { parts, .. } => {
            parts.iter().for_each(|part| sources(part, names));
        }
        ParamSource::Dequant(inner) | ParamSource::Transpose(inner) => sources(inner, names),
        ParamSource::HeadRows { src, .. } => sources(src, names),
        ParamSource::RopeTable { .. } => {}
    }
}

#[test]
fn the_published_model_has_671_billion_parameters() {
    let module = build(&v3());
    // Copies for absorption and the generated table are not the checkpoint's.
    let total = elements(&module, |name| name != "rope_table");
    assert!((671.0e9..671.1e9).contains(&(total as f64)), "{total}");
    // One MLA layer: 7168*1536 + 1536*24576 (queries) + 7168*576 + 512*32768 (keys and values)
    // + 16384*7168 (output) = 187.1 M.
    let mla = elements(&module, |name| name.starts_with("layers.7.self_attn."));
    assert!((187.0e6..187.2e6).contains(&(mla as f64)), "{mla}");

    let mut names = Vec::new();
    module
        .params
        .iter()
        .for_each(|p| sources(&p.source, &mut names));
    names.sort();
    names.dedup();
    // Embedding, norm and head; per layer 2 + 7 norms and projections; dense 3; MoE 2 + 3 + 256 *
    // 3.
    assert_eq!(names.len(), 3 + 61 * 9 + 3 * 3 + 58 * (5 + 768));
    for expected in [
        "lm_head.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.60.mlp.experts.255.down_proj.weight",
        "model.layers.3.mlp.gate.e_score_correction_bias",
        "model.layers.3.self_attn.kv_a_proj_with_mqa.weight",
    ] {
        assert!(
            names.binary_search(&expected.to_owned()).is_ok(),
            "{expected}"
        );
    }
}

#[test]
fn entries_keep_the_contract_of_the_runtime() {
    let module = build(&trimmed());
    let text = |e: &mcc_ir::Graph| {
        let inputs: Vec<String> = e
            .inputs()
            .map(|(name, v)| format!("{name}: {}", e.ty(v)))
            .collect();
        let outputs: Vec<String> = e
            .outputs
            .iter()
            .map(|(name, v)| format!("{name}: {}", e.ty(*v)))
            .collect();
        (inputs.join(", "), outputs.join(", "))
    };
    let inputs = "tokens: i32[T], positions: i32[T], rows: i32[R], temperature: f32[R], top_p: f32[R], uniform: f32[R]";
    let outputs = "logits: f32[R, 129280], next: i32[R]";
    assert_eq!(module.entries.len(), 2);
    for name in ["prefill", "decode"] {
        let entry = module.entry(name).expect("an entry");
        assert_eq!(
            text(entry),
            (inputs.to_owned(), outputs.to_owned()),
            "{name}"
        );
        let updated: Vec<&str> = entry
            .updates
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        let caches: Vec<String> = (0..5).map(|i| format!("layers.{i}.cache")).collect();
        assert_eq!(updated, caches, "{name}");
        let heads_of_keys = entry
            .topo()
            .into_iter()
            .filter(|n| entry.op(*n).mnemonic() == "attention")
            .map(|n| {
                let k = entry.operands(n)[2];
                entry.ty(k).shape[1].clone()
            });
        // Keys of every head in both: where one latent key for all of them is better, the optimiser finds it.
        assert_eq!(
            heads_of_keys.collect::<Vec<_>>(),
            vec![Dim::Const(128); 5],
            "{name}"
        );
    }
    let cache = module.state("layers.4.cache").expect("a state");
    assert_eq!(cache.ty.to_string(), "bf16[C, 576]");
}

#[test]
fn text_of_a_model_parses_back_to_the_same_model() {
    let module = build(&trimmed());
    let text = module.to_string();
    let back = parse::module(&text, "trimmed.mir").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(back, module);
    assert_eq!(back.to_string(), text);
}

#[test]
fn variants_of_the_architecture_build() {
    let count = |module: &Module, op: &str| {
        let entry = module.entry("prefill").expect("an entry");
        entry
            .topo()
            .into_iter()
            .filter(|n| entry.op(*n).mnemonic() == op)
            .count()
    };
    let plain = build(&trimmed());
    assert_eq!(count(&plain, "route"), 2, "layers 3 and 4");
    assert!(plain.param("layers.0.self_attn.q_a_proj").is_some());

    let full_q = build(&Config {
        q_lora_rank: None,
        ..trimmed()
    });
    assert!(full_q.param("layers.0.self_attn.q_a_proj").is_none());
    let q = full_q
        .param("layers.0.self_attn.q_proj")
        .expect("a plain projection");
    assert_eq!(q.ty.to_string(), "e4m3[24576, 7168]/f32[128x128]");

    let tied = build(&Config {
        tie_word_embeddings: true,
        ..trimmed()
    });
    assert!(tied.param("lm_head").is_none());

    let every_other = build(&Config {
        moe_layer_freq: 2,
        first_k_dense_replace: 1,
        ..trimmed()
    });
    assert_eq!(count(&every_other, "route"), 2, "layers 2 and 4");

    let no_shared = build(&Config {
        n_shared_experts: 0,
        ..trimmed()
    });
    assert!(
        no_shared
            .params
            .iter()
            .all(|p| !p.name.contains("shared_experts"))
    );
    let two_shared = build(&Config {
        n_shared_experts: 2,
        ..trimmed()
    });
    let down = two_shared
        .param("layers.3.mlp.shared_experts.down_proj")
        .expect("shared experts");
    assert_eq!(
        down.ty.to_string(),
        "e4m3[7168, 4096]/f32[128x128]",
        "one MLP of both"
    );

    let dense = build(&Config {
        n_routed_experts: 0,
        ..trimmed()
    });
    assert_eq!(count(&dense, "route"), 0);

    let in_bf16 = build(&Config {
        fp8_weights: false,
        ..trimmed()
    });
    assert!(in_bf16.params.iter().all(|p| p.ty.dtype != DType::E4M3));
    assert_eq!(count(&in_bf16, "quantize"), 0);
}

#[test]
fn examples_print_modules() {
    for name in ["01_linear", "02_mlp", "03_moe_layer", "04_deepseek_v3"] {
        // The tests' own cargo, which has built the example already.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["run", "--quiet", "--package", "mcc-dsl", "--example", name])
            .output()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let module = parse::module(&text, name).unwrap_or_else(|e| panic!("{e}"));
        mcc_ir::verify(&module).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert_eq!(module.to_string(), text, "{name}");
    }
}

#[test]
fn an_author_chooses_the_interval_of_each_product() {
    let m = Model::new("products");
    let t = m.dim("T", 1..=64);
    let w = m.param("w", fp8_weight((64, 256)), tensor("w"));
    let plain = m.param("plain", bf16((32, 256)), tensor("plain"));
    let experts = m.param(
        "experts",
        fp8_weight((2, 64, 256)),
        stack([tensor("0"), tensor("1")]),
    );
    let gradient = m.state("gradient", f32((2, 64, 48)));
    m.entry("forward", |e| {
        let x = e.input("x", bf16((&t, 256)));
        let held = e.input("held", bf16((2, 16, 256)));
        let (counts, offsets) = (e.input("counts", i32((2,))), e.input("offsets", i32((3,))));
        let product = |interval| Product {
            promote: Some(interval),
            ..Product::default()
        };
        let f32_out = Product {
            out: DType::F32,
            ..product(32)
        };
        e.output("a", &layers::linear_as(&x, &w, f32_out));
        e.output("b", &layers::linear(&x, &w));
        let grouped = layers::grouped_linear_as(&x, &experts, &offsets, product(64));
        e.output("c", &grouped.scale_rows(&e.input("weights", f32((&t,)))));
        e.output("d", &held.quantize().masked_matmul(&experts, &counts));
        e.output("e", &x.matmul_as(&plain, product(NO_PROMOTION)));
        e.output("f", &x.quantize_wide(512).dequantize());
    });
    m.entry("backward", |e| {
        let (x, y) = (e.input("x", bf16((64, 300))), e.input("y", bf16((48, 300))));
        let offsets = e.input("offsets", i32((3,)));
        let sum = gradient.add_weight_grad(&x.quantize(), &y.quantize(), &offsets);
        e.update(&gradient, &sum);
    });
    let text = m.finish().expect("no mistake").to_string();
    for line in [
        "matmul %0, @w {out = f32, promote = 32} : f32[T, 64]",
        "matmul %2, @w {out = bf16, promote = 128} : bf16[T, 64]",
        "@experts, %offsets {out = bf16, promote = 64} : bf16[T, 64]",
        "@experts, %counts {out = bf16, promote = 128} : bf16[2, 16, 64]",
        "matmul %x, @plain {out = bf16, promote = none} : bf16[T, 32]",
        "quantize_wide %x {group = 512} : e4m3[T, 256]/f32[1x512]",
        "%offsets, @gradient {promote = 128} : f32[2, 64, 48]",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

/// The author's word to the optimiser, of a model, an entry, a part of an entry, and single ops.
#[test]
fn freedom_and_pins_are_in_the_text() {
    let m = Model::new("marked");
    m.allow(Freedom::REASSOCIATE);
    let t = m.dim("T", 1..=8);
    let w = m.param("w", bf16((256,)), tensor("w"));
    m.entry("loose", |e| {
        e.allow(Freedom::ALL);
        let x = e.input("x", bf16((&t, 256)));
        let y = e.allowing(Freedom::EXACT, || {
            let y = x.rms_norm(&w, 1e-6).keep();
            e.allowing(Freedom::REASSOCIATE, || y.plus(&x))
        });
        let q = y
            .quantize()
            .never("quantize-dispatch")
            .never("fuse-norm-quantize");
        e.output("q", &q);
    });
    let module = m.finish().unwrap();
    let text = module.to_string();
    let expected = r#"allow reassociate
dim T: 1..=8
param @w: bf16[256] = tensor("w")

entry @loose(x: bf16[T, 256]) allow reassociate, round {
  %0 = rms_norm %x, @w {eps = 1e-6} : bf16[T, 256] allow(exact) keep
  %1 = add %0, %x : bf16[T, 256] allow(reassociate)
  %2 = quantize %1 : e4m3[T, 256]/f32[1x128] never("fuse-norm-quantize", "quantize-dispatch")
"#;
    assert!(text.contains(expected), "{text}");
    assert_eq!(parse::module(&text, "").unwrap(), module);
    let entry = &module.entries[0];
    let allowed: Vec<Freedom> = entry
        .topo()
        .into_iter()
        .filter(|id| !entry.op(*id).is_leaf())
        .map(|id| module.freedom(entry, id))
        .collect();
    assert_eq!(
        allowed,
        [Freedom::EXACT, Freedom::REASSOCIATE, Freedom::ALL]
    );
}
