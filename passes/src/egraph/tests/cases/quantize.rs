//! Cases of `rules/quantize.rs` and `rules/layout.rs`.

use mcc_ir::graph::ValueId;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, ScaleBlock, Type};

use super::{Case, Side};

pub(super) const CASES: &[Case] = &[
    Case {
        rule: "quantize-dispatch",
        left: |s| {
            let (x, experts) = dispatched(s);
            let all = s.ops(Op::Dispatch { n_experts: 6 }, &[x, experts]);
            vec![s.op(Op::Quantize, &[all[0]]), all[1], all[2]]
        },
        right: |s| {
            let (x, experts) = dispatched(s);
            let q = s.op(Op::Quantize, &[x]);
            s.ops(Op::Dispatch { n_experts: 6 }, &[q, experts])
        },
    },
    Case {
        rule: "quantize-reshape",
        left: |s| {
            let (x, shape) = reshaped(s);
            let x = s.reshape(x, shape);
            vec![s.op(Op::Quantize, &[x])]
        },
        right: |s| {
            let (x, shape) = reshaped(s);
            let q = s.op(Op::Quantize, &[x]);
            vec![s.reshape(q, shape)]
        },
    },
    Case {
        rule: "quantize-slice",
        left: |s| {
            let (x, [axis, start, len]) = sliced(s);
            let x = s.slice(x, axis as usize, start, len);
            vec![s.op(Op::Quantize, &[x])]
        },
        right: |s| {
            let (x, [axis, start, len]) = sliced(s);
            let q = s.op(Op::Quantize, &[x]);
            vec![s.slice(q, axis as usize, start, len)]
        },
    },
    Case {
        rule: "quantize-gather",
        left: |s| {
            let (table, index) = taken(s);
            let rows = s.op(Op::Gather, &[table, index]);
            vec![s.op(Op::Quantize, &[rows])]
        },
        right: |s| {
            let (table, index) = taken(s);
            let table = s.op(Op::Quantize, &[table]);
            vec![s.op(Op::Gather, &[table, index])]
        },
    },
    Case {
        rule: "quantize-concat",
        left: concat_first,
        right: quantize_first,
    },
    Case {
        rule: "quantize-transpose",
        left: |s| {
            let k = s.width();
            let x = s.bf16("x", ["T".into(), 3.into(), Dim::Const(k)]);
            let x = s.op(Op::Transpose { a: 0, b: 1 }, &[x]);
            vec![s.op(Op::Quantize, &[x])]
        },
        right: |s| {
            let k = s.width();
            let x = s.bf16("x", ["T".into(), 3.into(), Dim::Const(k)]);
            let x = s.op(Op::Quantize, &[x]);
            vec![s.op(Op::Transpose { a: 0, b: 1 }, &[x])]
        },
    },
    Case {
        rule: "quantize-expand",
        left: |s| {
            let (k, len) = (s.width(), s.between(1, 4));
            let x = s.bf16("x", ["T".into(), 1.into(), Dim::Const(k)]);
            let x = s.op(Op::Expand { axis: 1, len }, &[x]);
            vec![s.op(Op::Quantize, &[x])]
        },
        right: |s| {
            let (k, len) = (s.width(), s.between(1, 4));
            let x = s.bf16("x", ["T".into(), 1.into(), Dim::Const(k)]);
            let x = s.op(Op::Quantize, &[x]);
            vec![s.op(Op::Expand { axis: 1, len }, &[x])]
        },
    },
    Case {
        rule: "requantize-pow2",
        left: |s| {
            let q = quantized_twice(s);
            vec![s.op(Op::Dequantize, &[q])]
        },
        right: |s| {
            let q = quantized_once(s);
            vec![s.op(Op::Dequantize, &[q])]
        },
    },
    Case {
        rule: "requantize-pow2-matmul",
        left: |s| {
            let q = quantized_twice(s);
            product_of(s, q)
        },
        right: |s| {
            let q = quantized_once(s);
            product_of(s, q)
        },
    },
    Case {
        rule: "reshape-before-quantize",
        left: |s| {
            let (x, shape) = reshaped(s);
            let q = s.op(Op::Quantize, &[x]);
            vec![s.reshape(q, shape)]
        },
        right: |s| {
            let (x, shape) = reshaped(s);
            let x = s.reshape(x, shape);
            vec![s.op(Op::Quantize, &[x])]
        },
    },
    Case {
        rule: "slice-before-quantize",
        left: |s| {
            let (x, [axis, start, len]) = sliced(s);
            let q = s.op(Op::Quantize, &[x]);
            vec![s.slice(q, axis as usize, start, len)]
        },
        right: |s| {
            let (x, [axis, start, len]) = sliced(s);
            let x = s.slice(x, axis as usize, start, len);
            vec![s.op(Op::Quantize, &[x])]
        },
    },
    Case {
        rule: "concat-before-quantize",
        left: quantize_first,
        right: concat_first,
    },
];

/// `x[T, K]` and `experts[T, 3]` below 6.
fn dispatched(s: &mut Side) -> (ValueId, ValueId) {
    let k = s.width();
    let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
    (x, s.ints("experts", ["T".into(), Dim::Const(3)], 6))
}

/// A value and a shape that keeps its groups: by equal width, with a partial group, or by whole groups.
fn reshaped(s: &mut Side) -> (ValueId, Vec<Dim>) {
    let t = || Dim::sym("T");
    let (n, k) = (s.between(2, 4), s.width());
    let (parts, groups) = (s.between(2, 3), 128 * s.between(1, 2));
    match s.between(0, 2) {
        0 => (
            s.bf16("x", [t(), n.into(), k.into()]),
            vec![t().times(n).unwrap(), k.into()],
        ),
        1 => (
            s.bf16("x", [t(), parts.into(), groups.into()]),
            vec![t(), (parts * groups).into()],
        ),
        _ => (
            s.bf16("x", [t(), (parts * groups).into()]),
            vec![t(), parts.into(), groups.into()],
        ),
    }
}

/// A value and a cut between groups: axis, start, length.
fn sliced(s: &mut Side) -> (ValueId, [u64; 3]) {
    let k = s.width();
    let groups = k.div_ceil(128);
    let first = s.between(0, groups - 1);
    let behind = s.between(first + 1, groups);
    let rows = [s.between(0, 2), s.between(1, 3)];
    let x = s.bf16("x", [5, k]);
    if s.between(0, 1) == 0 {
        return (x, [0, rows[0], rows[1]]);
    }
    let (start, end) = (128 * first, (128 * behind).min(k));
    (x, [1, start, end - start])
}

/// A table and rows of it.
fn taken(s: &mut Side) -> (ValueId, ValueId) {
    let (n, k) = (s.between(1, 9), s.width());
    (s.bf16("table", [n, k]), s.ints("index", ["T"], n as usize))
}

/// Two values and the axis along which they are joined: of the last one the first value is whole groups.
fn joined(s: &mut Side) -> (ValueId, ValueId, usize) {
    let (k, groups) = (s.width(), 128 * s.between(1, 2));
    if s.between(0, 1) == 0 {
        let (n, m) = (s.between(1, 4), s.between(1, 4));
        return (s.bf16("x", [n, k]), s.bf16("y", [m, k]), 0);
    }
    (s.bf16("x", [3, groups]), s.bf16("y", [3, k]), 1)
}

fn concat_first(s: &mut Side) -> Vec<ValueId> {
    let (x, y, axis) = joined(s);
    let both = s.op(Op::Concat { axis }, &[x, y]);
    vec![s.op(Op::Quantize, &[both])]
}

fn quantize_first(s: &mut Side) -> Vec<ValueId> {
    let (x, y, axis) = joined(s);
    let (x, y) = (s.op(Op::Quantize, &[x]), s.op(Op::Quantize, &[y]));
    vec![s.op(Op::Concat { axis }, &[x, y])]
}

fn quantized_once(s: &mut Side) -> ValueId {
    let k = s.width();
    let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
    s.op(Op::QuantizePow2, &[x])
}

fn quantized_twice(s: &mut Side) -> ValueId {
    let q = quantized_once(s);
    let x = s.op(Op::Dequantize, &[q]);
    s.op(Op::QuantizePow2, &[x])
}

/// A product of a quantised value.
fn product_of(s: &mut Side, q: ValueId) -> Vec<ValueId> {
    let (n, k) = (s.between(1, 40), s.graph.ty(q).last().cloned().unwrap());
    let promote = s.pick(&[32, 64, 128]) as u32;
    let w = s.input("w", Type::scaled([Dim::Const(n), k], ScaleBlock::WEIGHT));
    let out = DType::F32;
    vec![s.op(Op::Matmul { out, promote }, &[q, w])]
}
