//! The evaluator against results worked out by hand and against naive formulations of each op.

use super::*;
use crate::types::{DType, F32};

mod attention;
mod dense;
mod entries;
mod exchange;
mod layout;
mod product;
mod routing;

/// A value that the tests construct correctly.
fn ok<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

fn bf16(shape: &[usize], data: &[f32]) -> Tensor {
    ok(Tensor::bf16(shape, data.to_vec()))
}

fn f32s(shape: &[usize], data: &[f32]) -> Tensor {
    ok(Tensor::f32(shape, data.to_vec()))
}

fn i32s(shape: &[usize], data: &[i32]) -> Tensor {
    ok(Tensor::i32(shape, data.to_vec()))
}

fn eval(op: Op, operands: &[&Tensor]) -> Vec<Tensor> {
    ok(eval_op(&op, operands, &Dims::new()))
}

fn eval1(op: Op, operands: &[&Tensor]) -> Tensor {
    eval(op, operands).remove(0)
}

fn refuse(op: Op, operands: &[&Tensor]) -> String {
    match eval_op(&op, operands, &Dims::new()) {
        Ok(values) => panic!("evaluated to {values:?}"),
        Err(e) => e.to_string(),
    }
}

fn eps(v: f32) -> F32 {
    F32::new(v)
}

const F32_OUT: Op = Op::Matmul {
    out: DType::F32,
    promote: 128,
};
