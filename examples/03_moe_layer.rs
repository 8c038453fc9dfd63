//! Routed experts: each token passes the 2 of 8 experts that its router prefers.
//!
//!     cargo run -p mcc-dsl --example 03_moe_layer
//!
//! Tokens travel: `route` chooses, `dispatch` groups rows by expert, one grouped product runs all
//! experts, `combine` sums each token's results.

use mcc_dsl::{DslErrors, Model, Routing, bf16, concat_rows, f32, fp8_weight, stack, tensor};

const EXPERTS: u64 = 8;
const HIDDEN: u64 = 256;
const INNER: u64 = 128;

fn main() -> Result<(), DslErrors> {
    let m = Model::new("moe-layer");
    let t = m.dim("T", 1..=256);
    let router = m.param("router", bf16((EXPERTS, HIDDEN)), tensor("gate.weight"));
    let bias = m.param(
        "bias",
        f32((EXPERTS,)),
        tensor("gate.e_score_correction_bias"),
    );
    let expert = |e: u64, kind: &str| tensor(format!("experts.{e}.{kind}_proj.weight"));
    let gate_up = m.param(
        "gate_up",
        fp8_weight((EXPERTS, 2 * INNER, HIDDEN)),
        stack((0..EXPERTS).map(|e| concat_rows([expert(e, "gate"), expert(e, "up")]))),
    );
    let down = m.param(
        "down",
        fp8_weight((EXPERTS, HIDDEN, INNER)),
        stack((0..EXPERTS).map(|e| expert(e, "down"))),
    );

    m.entry("forward", |e| {
        let x = e.input("x", bf16((&t, HIDDEN)));
        let logits = x.matmul_f32(&router);
        let routing = Routing {
            top_k: 2,
            n_group: 2,
            topk_group: 1,
            scaling: 2.5,
            normalize: true,
        };
        let (experts, weights) = logits.route(&bias, routing);
        let (rows, offsets, slots) = x.dispatch(&experts, EXPERTS as u32);
        let hidden = rows.quantize().grouped_matmul(&gate_up, &offsets).swiglu();
        let y = hidden.quantize().grouped_matmul(&down, &offsets);
        e.output("y", &y.combine(&slots, &weights));
    });

    print!("{}", m.finish()?);
    Ok(())
}
