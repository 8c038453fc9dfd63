//! A pre-norm gated MLP with its residual: `x + down(silu(gate h) * up h)`, `h = rms_norm(x)`.
//!
//!     cargo run -p mcc-dsl --example 02_mlp

use mcc_dsl::layers::{Mlp, mlp};
use mcc_dsl::{DslErrors, Model, bf16, fp8_weight, tensor};

const HIDDEN: u64 = 256;
const INNER: u64 = 512;

fn main() -> Result<(), DslErrors> {
    let m = Model::new("mlp");
    let t = m.dim("T", 1..=256);
    let norm = m.param("norm", bf16((HIDDEN,)), tensor("norm.weight"));
    let weight = |kind: &str, n, k| {
        let stored = tensor(format!("{kind}_proj.weight"));
        m.param(kind, fp8_weight((n, k)), stored)
    };
    let w = Mlp {
        gate: weight("gate", INNER, HIDDEN),
        up: weight("up", INNER, HIDDEN),
        down: weight("down", HIDDEN, INNER),
    };

    m.entry("forward", |e| {
        let x = e.input("x", bf16((&t, HIDDEN)));
        let h = x.rms_norm(&norm, 1e-6);
        e.output("y", &(x + mlp(&h, &w)));
    });

    print!("{}", m.finish()?);
    Ok(())
}
