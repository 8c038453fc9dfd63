//! Cases of `rules/algebra.rs`.

use mcc_ir::graph::ValueId;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, ScaleBlock, Type};

use super::{Case, Side};

pub(super) const CASES: &[Case] = &[
    Case {
        rule: "merge-matmul",
        left: |s| {
            let (op, x, v, w, _) = sharing(s);
            vec![s.op(op.clone(), &[x, v]), s.op(op, &[x, w])]
        },
        right: |s| {
            let (op, x, v, w, [n, m]) = sharing(s);
            let both = s.op(Op::Concat { axis: 0 }, &[v, w]);
            let both = s.op(op, &[x, both]);
            vec![s.slice(both, 1, 0, n), s.slice(both, 1, n, m)]
        },
    },
    Case {
        rule: "concat-matmul",
        left: |s| {
            let (op, x, v, w, _) = sharing(s);
            let (v, w) = (s.op(op.clone(), &[x, v]), s.op(op, &[x, w]));
            vec![s.op(Op::Concat { axis: 1 }, &[v, w])]
        },
        right: |s| {
            let (op, x, v, w, _) = sharing(s);
            let both = s.op(Op::Concat { axis: 0 }, &[v, w]);
            vec![s.op(op, &[x, both])]
        },
    },
    Case {
        rule: "concat-grouped-matmul",
        left: |s| {
            let (op, x, [v, w], offsets) = sharing_by_expert(s);
            let (v, w) = (
                s.op(op.clone(), &[x, v, offsets]),
                s.op(op, &[x, w, offsets]),
            );
            vec![s.op(Op::Concat { axis: 1 }, &[v, w])]
        },
        right: |s| {
            let (op, x, [v, w], offsets) = sharing_by_expert(s);
            let both = s.op(Op::Concat { axis: 1 }, &[v, w]);
            vec![s.op(op, &[x, both, offsets])]
        },
    },
    Case {
        rule: "add-left-f32",
        left: |s| add_right(s, DType::F32),
        right: |s| add_left(s, DType::F32),
    },
    Case {
        rule: "add-left-bf16",
        left: |s| add_right(s, DType::BF16),
        right: |s| add_left(s, DType::BF16),
    },
];

/// A product and two parameters with the same input, and how many rows each has.
fn sharing(s: &mut Side) -> (Op, ValueId, ValueId, ValueId, [u64; 2]) {
    let k = s.width();
    let out = [DType::BF16, DType::F32][s.between(0, 1) as usize];
    let promote = s.pick(&[32, 64, 128]) as u32;
    let op = Op::Matmul { out, promote };
    let shape = ["T".into(), Dim::Const(k)];
    if s.between(0, 1) == 0 {
        let (n, m) = (s.between(1, 60), s.between(1, 60));
        let x = s.bf16("x", shape);
        let v = s.param("v", Type::new(DType::BF16, [n, k]));
        return (
            op,
            x,
            v,
            s.param("w", Type::new(DType::BF16, [m, k])),
            [n, m],
        );
    }
    let (n, m) = (128 * s.between(1, 2), s.between(1, 140));
    let x = s.input("x", Type::scaled(shape, ScaleBlock::ACTIVATION));
    let v = s.param("v", Type::scaled([n, k], ScaleBlock::WEIGHT));
    let w = s.param("w", Type::scaled([m, k], ScaleBlock::WEIGHT));
    (op, x, v, w, [n, m])
}

/// The same for three experts.
fn sharing_by_expert(s: &mut Side) -> (Op, ValueId, [ValueId; 2], ValueId) {
    let (k, m) = (s.between(1, 160), s.between(1, 60));
    let (out, promote) = (DType::BF16, 128);
    let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
    let experts = s.ints("experts", ["T".into(), Dim::Const(2)], 3);
    let x = s.op(Op::Quantize, &[x]);
    let rows = s.ops(Op::Dispatch { n_experts: 3 }, &[x, experts]);
    let weights = [("v", 128), ("w", m)]
        .map(|(name, n)| s.stack(name, Type::scaled([3, n, k], ScaleBlock::WEIGHT)));
    (
        Op::GroupedMatmul { out, promote },
        rows[0],
        weights,
        rows[1],
    )
}

fn addends(s: &mut Side, dtype: DType) -> [ValueId; 3] {
    let k = s.width();
    ["a", "b", "c"].map(|name| s.input(name, Type::new(dtype, ["T".into(), Dim::Const(k)])))
}

fn add_right(s: &mut Side, dtype: DType) -> Vec<ValueId> {
    let [a, b, c] = addends(s, dtype);
    let sum = s.op(Op::Add, &[b, c]);
    vec![s.op(Op::Add, &[a, sum])]
}

fn add_left(s: &mut Side, dtype: DType) -> Vec<ValueId> {
    let [a, b, c] = addends(s, dtype);
    let sum = s.op(Op::Add, &[a, b]);
    vec![s.op(Op::Add, &[sum, c])]
}
