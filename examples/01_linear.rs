//! One FP8 linear layer, printed as graph IR: the smallest model there is.
//!
//!     cargo run -p mcc-dsl --example 01_linear
//!
//! `mcc build examples/01_linear.rs` runs this program and compiles what it prints.

use mcc_dsl::{DslErrors, Model, bf16, fp8_weight, tensor};

fn main() -> Result<(), DslErrors> {
    let m = Model::new("linear");
    let t = m.dim("T", 1..=256);
    let w = m.param("proj", fp8_weight((512, 256)), tensor("proj.weight"));

    m.entry("forward", |e| {
        let x = e.input("x", bf16((&t, 256)));
        e.output("y", &x.quantize().matmul(&w));
    });

    print!("{}", m.finish()?);
    Ok(())
}
