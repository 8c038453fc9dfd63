//! A pre-norm gated MLP with its residual: `x + down(silu(gate h) * up h)`, `h = rms_norm(x)`.
//!
//!     cargo run -p mcc-dsl --example 02_mlp

use mcc_dsl::layers::mlp;
use mcc_dsl::{DslErrors, Model, bf16, concat_rows, fp8_weight, tensor};

const HIDDEN: u64 = 256;
const INNER: u64 = 512;

fn main() -> Result<(), DslErrors> {
    let m = Model::new("mlp");
    let t = m.dim("T", 1..=256);
    let norm = m.param("norm", bf16((HIDDEN,)), tensor("norm.weight"));
    // One product computes gate and up: their rows lie below each other.
    let gate_up = m.param(
        "gate_up",
        fp8_weight((2 * INNER, HIDDEN)),
        concat_rows([tensor("gate_proj.weight"), tensor("up_proj.weight")]),
    );
    let down = m.param(
        "down",
        fp8_weight((HIDDEN, INNER)),
        tensor("down_proj.weight"),
    );

    m.entry("forward", |e| {
        let x = e.input("x", bf16((&t, HIDDEN)));
        let h = x.rms_norm(&norm, 1e-6);
        e.output("y", &(x + mlp(&h, &gate_up, &down)));
    });

    print!("{}", m.finish()?);
    Ok(())
}
