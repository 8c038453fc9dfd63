//! Whole graphs: what the optimiser makes of a DeepSeek-V3-architecture model, that the result computes the same
//! bits, and that it is the same text each time.

use std::collections::BTreeMap;

use mcc_dsl::models::deepseek_v3::{Config, Limits, deepseek_v3};
use mcc_ir::eval::{self, Rng, Step, Tensor, Values};
use mcc_ir::graph::{SourceLoc, ValueId};
use mcc_ir::module::Module;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, ScaleBlock, Type};

use super::cases::build;
use super::{EPS, Side, assert_same, evaluate, module};
use crate::egraph::{Options, Report, RuleClass, optimize, optimize_with, rules};
use crate::select::DimHint;
use crate::target::Target;

/// The shape of the trained checkpoint, with fewer words.
fn tiny() -> Config {
    Config {
        name: "tiny-v3".into(),
        vocab_size: 96,
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

/// The published model.
fn full() -> Config {
    Config::v3(Limits {
        max_step_tokens: 4096,
        max_context: 16_384,
    })
}

/// As builds do it: a decode step has one token.
fn options() -> Options {
    let usual = ["T", "R"].map(|dim| DimHint {
        entry: "decode".into(),
        dim: dim.into(),
        usual: 1,
    });
    Options {
        usual: usual.into(),
        ..Options::default()
    }
}

/// The same with exact rules alone, whatever the author allows.
fn exact() -> Options {
    Options {
        classes: vec![RuleClass::Exact],
        ..options()
    }
}

fn optimized(module: &Module) -> (Module, Report) {
    optimize(module, &Target::load("h800").unwrap(), &options()).unwrap()
}

/// How many there are of each op, one a line.
fn counts(report: &Report, entry: usize) -> String {
    let by_op = &report.entries[entry].after.by_op;
    by_op
        .iter()
        .map(|(op, count)| format!("{op} {count}\n"))
        .collect()
}

/// Four layers, of which three are routed. The two products of the layer's input are one, and so are gate and up. Every
/// norm but the last is fused with the cast that follows it. A sum goes to the op before it: those behind the 4
/// attentions and the dense MLP to products; the 3 of shared and routed experts to the way back from the experts, or, in
/// `decode`, to the shared expert's product. The residual sums behind those have neither before them; 2 go to the norm
/// that follows, and the last one, with nothing behind it but a gather, stays. The norms
/// without a sum are those 5, 4 of the low-rank query, and the first. Every SwiGLU goes to its product. Casts that stay
/// by themselves are those of the attention's output and, in `prefill`, of the cached latents, which `decode` reads as
/// they are: there the 4 attentions have absorbed the projections.
#[test]
fn the_tiny_model_is_fused_as_far_as_the_rules_go() {
    let (_, report) = optimized(&deepseek_v3(&tiny()).unwrap());
    let expected = "add 1\nadd_rms_norm_quantize 2\nattention 4\ncombine_add 3\ndispatch 3\ngather 2\n\
                    grouped_matmul 3\ngrouped_matmul_swiglu_quantize 3\nmatmul 19\nmatmul_add 5\n\
                    matmul_swiglu_quantize 4\nmla_cache_write 4\nquantize 8\nreshape 12\nrms_norm 1\n\
                    rms_norm_quantize 10\nrope 4\nroute 3\nsample 1\nslice 32\n";
    assert_eq!(counts(&report, 0), expected);
    let expected = "add 1\nadd_rms_norm_quantize 2\nattention 4\nbatched_matmul 8\ncombine 3\ndispatch 3\n\
                    gather 2\ngrouped_matmul 3\ngrouped_matmul_swiglu_quantize 3\nmatmul 12\nmatmul_add 8\n\
                    matmul_swiglu_quantize 4\nmla_cache_write 4\nquantize 4\nreshape 12\nrms_norm 1\n\
                    rms_norm_quantize 10\nrope 4\nroute 3\nsample 1\nslice 24\n";
    assert_eq!(counts(&report, 1), expected);
    for entry in &report.entries {
        assert!(entry.saturated);
        assert!(entry.after.bytes < entry.before.bytes);
        assert!(entry.after.nanoseconds < entry.before.nanoseconds);
        // The routed layers, and only those.
        let rule = entry
            .rewrites
            .iter()
            .find(|rewrite| rewrite.rule == "quantize-dispatch")
            .unwrap();
        assert_eq!(
            (rule.count, &rule.layers[..]),
            (
                3,
                &["layers.1", "layers.2", "layers.3"].map(str::to_owned)[..]
            )
        );
    }
}

#[test]
fn dispatched_rows_are_quantised_before_they_are_copied() {
    let (module, _) = optimized(&deepseek_v3(&tiny()).unwrap());
    for entry in &module.entries {
        for id in entry
            .topo()
            .into_iter()
            .filter(|id| matches!(entry.op(*id), Op::Dispatch { .. }))
        {
            let x = entry.operands(id)[0];
            // The norm before it, with its cast; the attention's product took the residual sum.
            assert!(
                matches!(entry.def(x), Op::RmsNormQuantize { .. }),
                "{}",
                entry.def(x)
            );
            assert_eq!(x.result, 1);
        }
    }
}

/// Random tensors of a checkpoint, small enough that sums stay finite over the layers; the same for a name each time.
fn checkpoint(config: &Config, name: &str) -> Tensor {
    let c = config;
    let (d, heads) = (c.hidden_size, c.num_attention_heads);
    let (rank, latent, rope) = (c.q_lora_rank.unwrap(), c.kv_lora_rank, c.qk_rope_head_dim);
    let inner = if name.contains("experts") {
        c.moe_intermediate_size
    } else {
        c.intermediate_size
    };
    let kind = name.trim_end_matches(".weight").rsplit('.').next().unwrap();
    let (shape, fp8) = match kind {
        "embed_tokens" | "lm_head" => (vec![c.vocab_size, d], false),
        "q_a_layernorm" => (vec![rank], false),
        "kv_a_layernorm" => (vec![latent], false),
        "gate" => (vec![c.n_routed_experts, d], false),
        "e_score_correction_bias" => (vec![c.n_routed_experts], false),
        "q_a_proj" => (vec![rank, d], true),
        "q_b_proj" => (vec![heads * (c.qk_nope_head_dim + rope), rank], true),
        "kv_a_proj_with_mqa" => (vec![latent + rope, d], true),
        "kv_b_proj" => (
            vec![heads * (c.qk_nope_head_dim + c.v_head_dim), latent],
            true,
        ),
        "o_proj" => (vec![d, heads * c.v_head_dim], true),
        "gate_proj" | "up_proj" => (vec![inner, d], true),
        "down_proj" => (vec![d, inner], true),
        norm => {
            assert!(norm.ends_with("norm"), "{name}");
            (vec![d], false)
        }
    };
    let shape: Vec<usize> = shape.into_iter().map(|n| n as usize).collect();
    // FNV-1a: another seed for each name.
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut rng = Rng::new(seed);
    let tensor = match kind {
        "e_score_correction_bias" => rng.f32(&shape, 0.5),
        _ if fp8 => rng.weight(&shape, 0.1),
        _ => rng.bf16(&shape, 0.5),
    };
    tensor.unwrap()
}

/// A module's parameters from that checkpoint.
fn parameters(config: &Config, module: &Module) -> Values {
    let lookup = |name: &str| Some(checkpoint(config, name));
    let params = module.params.iter().map(|param| {
        let tensor = eval::materialize(&param.source, &lookup).unwrap();
        (param.name.clone(), tensor)
    });
    params.collect()
}

/// A prompt, then one token after it: outputs of both steps, and the caches.
fn generate(module: &Module, params: &Values) -> Values {
    let mut states = eval::new_states(module);
    let mut all = Values::new();
    for (entry, first, tokens) in [("prefill", 0, 6), ("decode", 6, 1)] {
        let ints = |values: Vec<i32>| Tensor::i32(&[values.len()], values).unwrap();
        let float = |value: f32| Tensor::f32(&[1], vec![value]).unwrap();
        let inputs = [
            (
                "tokens",
                ints((0..tokens).map(|t| (first + t) * 13 % 96).collect()),
            ),
            ("positions", ints((first..first + tokens).collect())),
            ("rows", ints(vec![tokens - 1])),
            ("temperature", float(0.8)),
            ("top_p", float(0.9)),
            ("uniform", float(0.3)),
        ];
        let inputs: Values = inputs
            .into_iter()
            .map(|(name, tensor)| (name.into(), tensor))
            .collect();
        let dims = BTreeMap::from([("C".into(), (first + tokens) as u64)]);
        let outputs = eval::run(
            Step {
                module,
                entry,
                dims: &dims,
                inputs: &inputs,
                params,
            },
            &mut states,
        )
        .unwrap();
        all.extend(
            outputs
                .into_iter()
                .map(|(name, tensor)| (format!("{entry}.{name}").into(), tensor)),
        );
    }
    all.extend(states);
    all
}

#[test]
fn the_tiny_model_computes_the_same_bits_before_and_after() {
    let before = deepseek_v3(&tiny()).unwrap();
    let (after, _) = optimize(&before, &Target::load("h800").unwrap(), &exact()).unwrap();
    let (a, b) = (
        generate(&before, &parameters(&tiny(), &before)),
        generate(&after, &parameters(&tiny(), &after)),
    );
    assert!(
        a["prefill.logits"]
            .as_float()
            .unwrap()
            .iter()
            .all(|logit| logit.is_finite())
    );
    assert_same(&a, &b, "tiny model");
}

#[test]
fn the_result_is_the_same_each_time_and_stays_as_it_is() {
    let module = deepseek_v3(&tiny()).unwrap();
    let (once, report) = optimized(&module);
    // In another thread, after egg has interned names in another order.
    let again = std::thread::spawn(move || {
        "(swiglu ?zz)"
            .parse::<egg::Pattern<crate::egraph::language::Node>>()
            .unwrap();
        optimized(&module)
    });
    let (again, report_again) = again.join().unwrap();
    assert_eq!(once.to_string(), again.to_string());
    assert_eq!(report.to_string(), report_again.to_string());
    assert_eq!(optimized(&once).0.to_string(), once.to_string());
}

/// 61 layers, 58 of them routed; the numbers follow as for the tiny model.
#[test]
fn the_published_model_saturates_below_its_caps() {
    let (module, report) = optimized(&deepseek_v3(&full()).unwrap());
    for entry in &report.entries {
        assert!(
            entry.saturated && entry.rounds <= 4,
            "{} rounds",
            entry.rounds
        );
        // Nothing is cheaper, and of 61 layers few parts are not like another one.
        assert_eq!(entry.proof.open, [""; 0]);
        assert_eq!(
            entry.proof.gap(entry.proof.chosen),
            Some(0),
            "{}",
            entry.proof
        );
        assert!(
            entry.proof.parts > 200 && entry.proof.distinct <= 20,
            "{}",
            entry.proof
        );
        let count = |op| entry.after.by_op.get(op).copied().unwrap_or(0);
        // Products took the sums behind 61 attentions and 3 dense MLPs, and those of shared and routed experts.
        assert_eq!(count("matmul_add"), 61 + 3 + 58);
        assert_eq!(count("add_rms_norm_quantize"), 58 - 1);
        assert_eq!(count("rms_norm_quantize"), 61 + 1 + 61 + 3);
        assert_eq!(count("matmul_swiglu_quantize"), 61);
        assert_eq!(count("grouped_matmul_swiglu_quantize"), 58);
        assert_eq!(count("mla_cache_write"), 61);
        let left = ["concat", "cache_write", "swiglu", "swiglu_quantize"];
        assert_eq!(left.map(count), [0; 4]);
    }
    let of = |name: &str, at: usize| report.entries[at].after.by_op.get(name).copied();
    assert_eq!(
        (of("quantize", 0), of("quantize", 1)),
        (Some(2 * 61), Some(61))
    );
    // One source graph: many tokens of a step share keys and values of every head, one token reads latents.
    assert_eq!(
        (of("batched_matmul", 0), of("batched_matmul", 1)),
        (None, Some(2 * 61))
    );
    let times = |rule: &str, at: usize| {
        let rewrites = &report.entries[at].rewrites;
        rewrites
            .iter()
            .find(|rewrite| rewrite.rule == rule)
            .map(|rewrite| rewrite.count)
    };
    assert_eq!(
        (times("absorb-fp8", 0), times("absorb-fp8", 1)),
        (None, Some(61))
    );
    // q_a with kv_a, and gate with up outside of routed experts; those of routed experts.
    for entry in 0..2 {
        assert_eq!(times("merge-matmul", entry), Some(2 * 61));
        assert_eq!(times("concat-grouped-matmul", entry), Some(58));
    }
    let joined = |param: &mcc_ir::Param| param.name.contains("_and_");
    assert_eq!(
        module.params.iter().filter(|param| joined(param)).count(),
        61 + 61 + 58
    );
    assert_eq!(module.entries.len(), 2);
}

/// A dense and a routed layer of the published model, as a person can read them. That they are right is what the tests
/// of rules and of whole models show; this says what they are.
#[test]
fn layers_of_the_published_model() {
    let two = Config {
        num_hidden_layers: 2,
        first_k_dense_replace: 1,
        ..full()
    };
    let (module, _) = optimized(&deepseek_v3(&two).unwrap());
    let joined = module
        .params
        .iter()
        .filter(|param| !param.name.contains("experts"));
    let params: Vec<String> = joined
        .map(|param| format!("param @{}: {} = {}\n", param.name, param.ty, param.source))
        .collect();
    let entries: Vec<String> = module.entries.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(
        "layers",
        format!("{}\n{}", params.concat(), entries.join("\n"))
    );
}

fn casts(s: &mut Side) -> Vec<ValueId> {
    let x = s.bf16("x", ["T".into(), Dim::Const(256)]);
    let w = s.bf16("w", [256]);
    let y = s.op(Op::RmsNorm { eps: EPS }, &[x, w]);
    vec![s.op(Op::Quantize, &[y]), s.op(Op::Quantize, &[y])]
}

#[test]
fn one_cast_serves_several_users_and_an_unused_result_is_free() {
    let side = build("casts", 0, casts);
    let module = module([&side]);
    let (after, report) = optimized(&module);
    let entry = &report.entries[0];
    assert_eq!(counts(&report, 0), "rms_norm_quantize 1\n");
    assert_eq!(after.entries[0].outputs[0].1, after.entries[0].outputs[1].1);
    // 8 tokens: x and w are read, codes and scales written, but not the bf16 norm.
    assert_eq!(
        entry.after.bytes,
        8 * 256 * 2 + 256 * 2 + 8 * 256 + 8 * 2 * 4
    );
    // Before, the norm is written and read twice, and two casts are written.
    assert_eq!(
        entry.before.bytes,
        8 * 256 * 2 * 4 + 256 * 2 + 2 * (8 * 256 + 8 * 2 * 4)
    );
    let shared = entry
        .rewrites
        .iter()
        .find(|rewrite| rewrite.rule == "share-equal")
        .unwrap();
    assert_eq!(shared.count, 1);
}

#[test]
fn a_sum_that_only_the_norm_reads_is_not_written() {
    let side = build("sum", 0, |s| {
        let x = s.bf16("x", ["T".into(), Dim::Const(256)]);
        let r = s.bf16("r", ["T".into(), Dim::Const(256)]);
        let w = s.bf16("w", [256]);
        let sum = s.op(Op::Add, &[x, r]);
        vec![s.op(Op::RmsNorm { eps: EPS }, &[sum, w])]
    });
    let (_, report) = optimized(&module([&side]));
    assert_eq!(counts(&report, 0), "add_rms_norm 1\n");
    assert_eq!(report.entries[0].after.bytes, 3 * 8 * 256 * 2 + 256 * 2);
}

/// With every exact rule, whether or not builds use it.
fn with_all_rules(module: &Module) -> (Module, Report) {
    let target = Target::load("h800").unwrap();
    optimize_with(rules::all(), module, &target, &exact()).unwrap()
}

#[test]
fn a_product_takes_the_sum_and_leaves_the_norm_its_cast() {
    let side = build("residual", 0, |s| {
        let shape = ["T".into(), Dim::Const(512)];
        let x = s.input("x", Type::scaled(shape, ScaleBlock::ACTIVATION));
        let w = s.input("w", Type::scaled([256, 512], ScaleBlock::WEIGHT));
        let r = s.bf16("r", ["T".into(), Dim::Const(256)]);
        let norm = s.bf16("norm", [256]);
        let (out, promote) = (DType::BF16, 128);
        let y = s.op(Op::Matmul { out, promote }, &[x, w]);
        let sum = s.op(Op::Add, &[r, y]);
        let y = s.op(Op::RmsNorm { eps: EPS }, &[sum, norm]);
        vec![s.op(Op::Quantize, &[y]), sum]
    });
    let (_, report) = with_all_rules(&module([&side]));
    assert_eq!(counts(&report, 0), "matmul_add 1\nrms_norm_quantize 1\n");
    // The product's own way to memory and back is gone: operands, residual, the sum written and read, codes.
    let (sum, product) = (8 * 256 * 2, 8 * 512 + 8 * 4 * 4 + 256 * 512 + 2 * 4 * 4);
    assert_eq!(
        report.entries[0].after.bytes,
        product + sum + 2 * sum + 256 * 2 + 8 * 256 + 8 * 2 * 4
    );
}

#[test]
fn a_product_that_others_read_is_not_computed_twice() {
    let side = build("shared", 0, |s| {
        let shape = ["T".into(), Dim::Const(512)];
        let x = s.input("x", Type::scaled(shape, ScaleBlock::ACTIVATION));
        let w = s.input("w", Type::scaled([256, 512], ScaleBlock::WEIGHT));
        let (out, promote) = (DType::BF16, 128);
        let y = s.op(Op::Matmul { out, promote }, &[x, w]);
        let q = s.op(Op::Swiglu, &[y]);
        vec![s.op(Op::Quantize, &[q]), y]
    });
    let (_, report) = with_all_rules(&module([&side]));
    assert_eq!(counts(&report, 0), "matmul 1\nswiglu_quantize 1\n");
}

/// Four layers, three of them routed, each with a shared expert: 4 + 3 gated products, all of them fused. The outputs
/// of the 4 attentions and the one dense MLP go into the residual stream, and the first shared expert's product meets
/// the routed experts' sum.
#[test]
fn epilogues_fuse_every_gate_and_residual_of_the_tiny_model() {
    let original = deepseek_v3(&tiny()).unwrap();
    let (module, report) = with_all_rules(&original);
    for entry in &report.entries {
        let of = |op: &str| entry.after.by_op.get(op).copied().unwrap_or(0);
        assert_eq!(of("swiglu_quantize") + of("swiglu"), 0, "{:?}", entry.after);
        assert_eq!(of("matmul_swiglu_quantize"), 4);
        assert_eq!(of("grouped_matmul_swiglu_quantize"), 3);
        assert_eq!(
            of("matmul_add") + of("combine_add"),
            8,
            "{:?}",
            entry.after.by_op
        );
    }
    assert_same(
        &generate(&original, &parameters(&tiny(), &original)),
        &generate(&module, &parameters(&tiny(), &module)),
        "fused with epilogues",
    );
}

/// Quantising all of a wide value to use a narrow part of it would move more bytes, so the cast stays behind
/// the slice; with both halves in use, one cast of the whole is cheaper than two.
#[test]
fn costs_decide_on_which_side_of_a_slice_a_cast_is() {
    fn halves(s: &mut Side, used: &[u64]) -> Vec<ValueId> {
        let x = s.bf16("x", ["T".into(), Dim::Const(512)]);
        let cut = |s: &mut Side, start| {
            let half = s.slice(x, 1, start, 256);
            s.op(Op::Quantize, &[half])
        };
        used.iter().map(|start| cut(s, *start)).collect()
    }
    let one = module([&build("one", 0, |s| halves(s, &[256]))]);
    assert_eq!(counts(&optimized(&one).1, 0), "quantize 1\nslice 1\n");
    let (after, _) = optimized(&one);
    let root = after.entries[0].outputs[0].1;
    assert_eq!(*after.entries[0].def(root), Op::Quantize);
    let both = module([&build("both", 0, |s| halves(s, &[0, 256]))]);
    assert_eq!(counts(&optimized(&both).1, 0), "quantize 1\nslice 2\n");
}

/// A reshape of scales that lie group-major would be a copy, so it is no gain to quantise before it.
#[test]
fn a_cast_stays_behind_a_reshape_that_changes_its_rows() {
    let side = build("heads", 0, |s| {
        let x = s.bf16("x", ["T".into(), Dim::Const(4), Dim::Const(128)]);
        let x = s.reshape(x, ["T".into(), Dim::Const(512)]);
        vec![s.op(Op::Quantize, &[x])]
    });
    let (after, _) = optimized(&module([&side]));
    let root = after.entries[0].outputs[0].1;
    assert_eq!(*after.entries[0].def(root), Op::Quantize);
}

#[test]
fn new_ops_keep_the_source_line_of_what_they_replace() {
    let mut graph = mcc_ir::Graph::new("lines");
    let at = |line| {
        Some(SourceLoc {
            file: "model.rs".into(),
            line,
            column: 5,
        })
    };
    let x = graph.input("x", "bf16[T, 512]".parse().unwrap()).unwrap();
    let y = graph.add1(Op::Swiglu, &[x], at(3)).unwrap();
    let q = graph.add1(Op::Quantize, &[y], at(4)).unwrap();
    graph.output("q", q);
    let (after, _) = optimized(&super::module_of([graph]));
    let entry = &after.entries[0];
    let root = entry.outputs[0].1;
    assert_eq!(*entry.def(root), Op::SwigluQuantize);
    assert_eq!(entry.node(root.node).loc, at(4));
}

/// Each round composes neighbouring slices, so a long chain outgrows any cap; the result is still right.
#[test]
fn caps_end_a_saturation_that_would_grow_without_end() {
    let width = 900;
    let side = build("chain", 0, |s| {
        let mut x = s.bf16("x", ["T".into(), Dim::Const(900)]);
        for taken in 1..800 {
            x = s.slice(x, 1, 1, 900 - taken);
        }
        vec![x]
    });
    let module = module([&side]);
    let (after, report) = optimized(&module);
    assert!(!report.entries[0].saturated);
    assert!(report.entries[0].after.ops < report.entries[0].before.ops);
    let inputs = side.inputs(&mut Rng::new(1), 2);
    assert_eq!(inputs["x"].shape(), [2, width]);
    assert_same(
        &evaluate(&module, "chain", &inputs, &Values::new()),
        &evaluate(&after, "chain", &inputs, &Values::new()),
        "chain",
    );

    let none = Options {
        max_rounds: 0,
        ..Options::default()
    };
    let (same, _) = optimize(&module, &Target::load("h800").unwrap(), &none).unwrap();
    assert_eq!(same.to_string(), module.to_string());
}

/// What is left after fusion is what there are kernels for.
#[test]
fn optimised_models_lower_to_programs() {
    let target = Target::load("h800").unwrap();
    for config in [tiny(), full()] {
        let (module, report) = optimized(&deepseek_v3(&config).unwrap());
        let program = crate::lower(&module, &target, &crate::select::Options::default())
            .unwrap_or_else(|error| panic!("{}: {error}", config.name));
        for (entry, report) in program.entries.iter().zip(&report.entries) {
            assert_eq!(
                entry.steps.len() as u64,
                report.after.launches,
                "{}, {}",
                config.name,
                entry.name
            );
        }
    }
}
