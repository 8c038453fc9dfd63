//! What an author reads after a mistake: the own source line, what was expected, what came; once.

use mcc_dsl::models::deepseek_v3::{Config, ConfigError, Limits, deepseek_v3};
use mcc_dsl::{DslErrors, Mistake, Model, bf16, f32, fp8_weight, i32, layers, tensor};

const FILE: &str = "compiler/dsl/tests/mistakes.rs";

/// The text of the only error.
fn only(result: Result<mcc_dsl::Module, DslErrors>) -> String {
    let errors = result.expect_err("there is a mistake");
    assert_eq!(errors.0.len(), 1, "one mistake, one message:\n{errors}");
    errors.to_string()
}

#[test]
fn a_shape_mistake_shows_the_authors_line_and_stays_alone() {
    let m = Model::new("wrong");
    let t = m.dim("T", 1..=8);
    let w = m.param("w", bf16((64, 128)), tensor("w"));
    let mut line = 0;
    m.entry("forward", |e| {
        let x = e.input("x", bf16((&t, 256)));
        line = line!() + 1;
        let y = x.matmul(&w);
        // Everything after the mistake is silent.
        let z = (&y + &x).swiglu().quantize().matmul(&w);
        e.output("z", &z.reshape((&t, 3, 7)));
    });
    let number = line.to_string();
    let gutter = " ".repeat(number.len());
    let expected = format!(
        "error: `matmul`, operand `w`: expected K = 256 on axis 1, got bf16[64, 128]\n  \
         --> {FILE}:{line}:19\n\
         {gutter} |\n\
         {number} |         let y = x.matmul(&w);\n\
         {gutter} |                   ^"
    );
    assert_eq!(only(m.finish()), expected);
}

#[test]
fn operators_and_layers_point_at_their_caller() {
    let m = Model::new("wrong");
    let t = m.dim("T", 1..=8);
    let w = m.param("w", fp8_weight((256, 512)), tensor("w"));
    let mut lines = (0, 0);
    m.entry("forward", |e| {
        let x = e.input("x", bf16((&t, 256)));
        let half = x.slice(1, 0..128);
        lines.0 = line!() + 1;
        let sum = &x + &half;
        e.output("sum", &sum);
        lines.1 = line!() + 1;
        let y = layers::linear(&x, &w);
        e.output("y", &y);
    });
    let errors = m.finish().expect_err("two mistakes");
    let at: Vec<_> = errors
        .0
        .iter()
        .filter_map(|e| e.at.as_ref())
        .map(|at| (at.line, at.column))
        .collect();
    assert_eq!(at, [(lines.0, 19), (lines.1, 17)], "{errors}");
    assert_eq!(
        errors.0[0].mistake.to_string(),
        "`add`, operand `b`: expected bf16[T, 256], the type of `a`, got bf16[T, 128]"
    );
    assert_eq!(
        errors.0[1].mistake.to_string(),
        "`matmul`, operand `w`: expected K = 256 on axis 1, got e4m3[256, 512]/f32[128x128]"
    );
}

#[test]
fn element_types_are_checked() {
    let m = Model::new("wrong");
    let w = m.param("w", fp8_weight((256, 256)), tensor("w"));
    m.entry("forward", |e| {
        let x = e.input("x", bf16((4, 256)));
        e.output("y", &x.matmul(&w));
    });
    let text = only(m.finish());
    assert!(
        text.starts_with("error: `matmul`, operand `w`: expected bf16[N, K]"),
        "{text}"
    );
}

#[test]
fn names_are_checked() {
    let m = Model::new("wrong");
    m.dim("T", 1..=8);
    m.dim("C", 1..=8);
    m.entry("forward", |e| {
        let x = e.input("x", bf16(("S", 256)));
        e.output("x", &x.quantize());
    });
    assert!(
        only(m.finish()).starts_with("error: no dim `S` is declared; declared: T, C\n  --> "),
        "an unknown dim"
    );

    let m = Model::new("wrong");
    m.param("w", bf16((4,)), tensor("a"));
    m.param("w", bf16((4,)), tensor("b"));
    assert!(
        only(m.finish()).starts_with("error: parameter `w` is declared twice\n  --> "),
        "a name taken"
    );

    let m = Model::new("wrong");
    let t = m.dim("T", 1..=8);
    m.entry("forward", |e| {
        e.input("x", bf16((&t, 2)));
        let x = e.input("x", bf16((&t, 2)));
        e.output("y", &x);
    });
    assert!(
        only(m.finish()).starts_with("error: input `x` is declared twice\n  --> "),
        "an input's name taken"
    );

    let m = Model::new("wrong");
    let empty = std::ops::RangeInclusive::new(9, 8);
    m.dim("T", empty);
    assert!(only(m.finish()).contains("empty range 9..=8"), "bounds");
}

#[test]
fn tensors_stay_in_their_entry_and_parameters_in_their_model() {
    let (m, other) = (Model::new("one"), Model::new("two"));
    let foreign = other.param("w", bf16((4, 4)), tensor("w"));
    let mut kept = None;
    m.entry("first", |e| {
        let x = e.input("x", bf16((2, 4)));
        e.output("y", &x);
        kept = Some(x);
    });
    let kept = kept.expect("set above");
    // After its entry there is nothing to add an op to.
    kept.quantize();
    m.entry("second", |e| {
        let x = e.input("x", bf16((2, 4)));
        e.output("sum", &(&x + &kept));
        e.output("y", &x.matmul(&foreign));
    });
    let errors = m.finish().expect_err("three mistakes");
    let mistakes: Vec<_> = errors.0.iter().map(|e| &e.mistake).collect();
    assert!(
        matches!(
            mistakes[..],
            [
                Mistake::ForeignTensor { op: "quantize" },
                Mistake::ForeignTensor { op: "add" },
                Mistake::ForeignParam { .. }
            ]
        ),
        "{errors}"
    );
}

#[test]
fn rules_of_whole_modules_come_from_the_verifier() {
    let m = Model::new("wrong");
    let t = m.dim("T", 1..=8);
    let c = m.dim("C", 1..=8);
    let cache = m.state("cache", bf16((&c, 4)));
    m.entry("forward", |e| {
        let x = e.input("x", bf16((&t, 4)));
        let positions = e.input("positions", i32((&t,)));
        let new = cache.write(&x, &positions);
        e.update(&cache, &new);
        e.update(&cache, &new);
        e.output("y", &new);
    });
    let errors = m.finish().expect_err("updated twice");
    assert!(
        errors
            .0
            .iter()
            .any(|e| matches!(e.mistake, Mistake::Rule(_))),
        "{errors}"
    );
    assert!(errors.to_string().contains("cache"), "{errors}");

    let m = Model::new("wrong");
    m.entry("forward", |e| {
        let x = e.input("x", f32((4,)));
        e.output("y", &x.slice(0, 3..3));
    });
    assert!(
        only(m.finish()).starts_with("error: `slice`: the range 3..3 is empty\n"),
        "a range"
    );
}

#[test]
fn a_config_that_cannot_be_built_says_which_field() {
    let config = Config {
        name: "v2-lite".to_owned(),
        vocab_size: 102_400,
        hidden_size: 2048,
        num_hidden_layers: 2,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
        fp8_weights: true,
        promote: None,
        num_attention_heads: 16,
        q_lora_rank: None,
        kv_lora_rank: 512,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 128,
        rope_theta: 10000.0,
        yarn: None,
        intermediate_size: 10944,
        first_k_dense_replace: 1,
        moe_layer_freq: 1,
        n_routed_experts: 64,
        n_shared_experts: 2,
        moe_intermediate_size: 1408,
        num_experts_per_tok: 6,
        n_group: 1,
        topk_group: 1,
        routed_scaling_factor: 1.0,
        norm_topk_prob: false,
        limits: Limits {
            max_step_tokens: 16,
            max_context: 64,
        },
    };
    let errors = deepseek_v3(&config).expect_err("10944 is 85.5 blocks");
    let gate = ConfigError::PartialGate {
        field: "intermediate_size",
        rows: 10944,
    };
    assert_eq!(errors.0.len(), 1, "1408 is 11 blocks: {errors}");
    assert_eq!(errors.0[0].mistake, Mistake::Config(gate));
    assert_eq!(
        errors.0[0].at.as_ref().map(|at| at.file.as_str()),
        Some(FILE),
        "the caller, not the library"
    );

    assert!(
        deepseek_v3(&Config {
            fp8_weights: false,
            ..config.clone()
        })
        .is_ok(),
        "BF16 has no blocks"
    );
    let wrong = Config {
        fp8_weights: false,
        hidden_size: 0,
        qk_rope_head_dim: 63,
        ..config
    };
    let errors = deepseek_v3(&wrong).expect_err("two fields");
    assert_eq!(errors.0.len(), 2, "{errors}");
}
