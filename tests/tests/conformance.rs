//! Every kernel family against the reference evaluator, on random operands.
//!
//! Each case names its seed and shape when it fails. Where an op's order of operations is defined, results are
//! compared bit for bit; elsewhere within a bound that the comment beside it derives.
//!
//! BF16 has 8 significant bits: rounding errs by at most 2^-8 of the value. FP32 rounding errs by at most
//! 2^-24 of it. PTX ISA: `ex2.approx.f32` errs by at most 2^-22 of the result; division, square root, products
//! and sums in these kernels are rounded to nearest.

mod attention;
mod gemm;
mod moe;
mod rows;
mod sample;

use mcc_ir::eval::{Dims, Rng, Tensor, eval_op};
use mcc_ir::op::Op;

/// The evaluator's results.
fn eval(op: &Op, operands: &[&Tensor]) -> Vec<Tensor> {
    eval_op(op, operands, &Dims::new()).unwrap_or_else(|e| panic!("{}: {e}", op.mnemonic()))
}

/// One of several.
fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len())]
}

fn i32s(values: impl IntoIterator<Item = i32>) -> Tensor {
    let values: Vec<i32> = values.into_iter().collect();
    Tensor::i32(&[values.len()], values).expect("one axis")
}
