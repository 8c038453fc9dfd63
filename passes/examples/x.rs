//! scratch
use mcc_dsl::models::deepseek_v3::*;
use mcc_passes::egraph::explain::*;
use mcc_passes::{egraph, target::Target};
fn main() {
    let c = Config {
        name: "deepseek-v3".into(),
        vocab_size: 129_280,
        hidden_size: 7168,
        num_hidden_layers: 61,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
        fp8_weights: true,
        num_attention_heads: 128,
        q_lora_rank: Some(1536),
        kv_lora_rank: 512,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 128,
        rope_theta: 10000.0,
        yarn: None,
        intermediate_size: 18432,
        first_k_dense_replace: 3,
        moe_layer_freq: 1,
        n_routed_experts: 256,
        n_shared_experts: 1,
        moe_intermediate_size: 2048,
        num_experts_per_tok: 8,
        n_group: 8,
        topk_group: 4,
        routed_scaling_factor: 2.5,
        norm_topk_prob: true,
        limits: Limits {
            max_step_tokens: 4096,
            max_context: 4096,
        },
    };
    let mut m = deepseek_v3(&c).unwrap();
    if std::env::args().nth(1).as_deref() == Some("mesh") {
        m.mesh = Some("nodes=4,gpus=8,ep=32".parse().unwrap());
    }
    let t = Target::load("h800").unwrap();
    let o = egraph::Options {
        usual: vec![
            mcc_passes::select::DimHint {
                entry: "decode".into(),
                dim: "T".into(),
                usual: 1,
            },
            mcc_passes::select::DimHint {
                entry: "decode".into(),
                dim: "R".into(),
                usual: 1,
            },
        ],
        ..Default::default()
    };
    let now = std::time::Instant::now();
    let e = explain(&m, &t, &o, &Question::default()).unwrap();
    eprintln!("{:?}", now.elapsed());
    println!("{e}");
    std::fs::write("/tmp/brief/x.html", html(&e)).unwrap();
    std::fs::write("/tmp/brief/x.dot", dot(&e)).unwrap();
    for r in [
        "quantize-dispatch",
        "fuse-swiglu-quantize",
        "quantize-reshape",
        "quantize-slice",
        "fuse-matmul-swiglu-scale",
    ] {
        let e = explain(
            &m,
            &t,
            &o,
            &Question {
                why_not: Some(r.into()),
                entry: Some("prefill".into()),
                ..Default::default()
            },
        )
        .unwrap();
        println!("=== {e}");
    }
    let now = std::time::Instant::now();
    println!("{}", table(&m, &t, &o).unwrap());
    eprintln!("{:?}", now.elapsed());
}
