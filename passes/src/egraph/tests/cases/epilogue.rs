//! Cases of `rules/epilogue.rs`.

use mcc_ir::graph::ValueId;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, ScaleBlock, Type};

use super::{Case, Side};

pub(super) const CASES: &[Case] = &[
    Case {
        rule: "fuse-matmul-add",
        left: |s| {
            let (op, x, w, r) = summed(s);
            let y = s.op(op, &[x, w]);
            vec![s.op(Op::Add, &[y, r])]
        },
        right: fused_sum,
    },
    Case {
        rule: "fuse-add-matmul",
        left: |s| {
            let (op, x, w, r) = summed(s);
            let y = s.op(op, &[x, w]);
            vec![s.op(Op::Add, &[r, y])]
        },
        right: fused_sum,
    },
    Case {
        rule: "fuse-matmul-swiglu",
        left: |s| {
            let (product, operands, _) = gated(s, false);
            let y = s.op(product, &operands);
            vec![s.op(Op::SwigluQuantize, &[y])]
        },
        right: |s| {
            let (_, operands, _) = gated(s, false);
            vec![s.op(Op::MatmulSwigluQuantize { promote: 64 }, &operands)]
        },
    },
    Case {
        rule: "fuse-matmul-swiglu-scale",
        left: |s| {
            let (product, operands, weights) = gated(s, false);
            weighted(s, product, &operands, weights)
        },
        right: |s| {
            let (_, mut operands, weights) = gated(s, false);
            operands.push(weights);
            vec![s.op(Op::MatmulSwigluScaleQuantize { promote: 64 }, &operands)]
        },
    },
    Case {
        rule: "fuse-grouped-matmul-swiglu",
        left: |s| {
            let (product, operands, _) = gated(s, true);
            let y = s.op(product, &operands);
            vec![s.op(Op::SwigluQuantize, &[y])]
        },
        right: |s| {
            let (_, operands, _) = gated(s, true);
            vec![s.op(Op::GroupedMatmulSwigluQuantize { promote: 64 }, &operands)]
        },
    },
    Case {
        rule: "fuse-grouped-matmul-swiglu-scale",
        left: |s| {
            let (product, operands, weights) = gated(s, true);
            weighted(s, product, &operands, weights)
        },
        right: |s| {
            let (_, mut operands, weights) = gated(s, true);
            operands.push(weights);
            let op = Op::GroupedMatmulSwigluScaleQuantize { promote: 64 };
            vec![s.op(op, &operands)]
        },
    },
];

/// A product of either kind of operand and either result, with its operands and what is added to it.
fn summed(s: &mut Side) -> (Op, ValueId, ValueId, ValueId) {
    let (n, k) = (s.between(1, 160), s.width());
    let out = [DType::BF16, DType::F32][s.pick(&[0, 1]) as usize];
    let (x, w) = if s.pick(&[0, 1]) == 0 {
        let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
        (x, s.bf16("w", [n, k]))
    } else {
        let shape = ["T".into(), Dim::Const(k)];
        let x = s.input("x", Type::scaled(shape, ScaleBlock::ACTIVATION));
        (x, s.input("w", Type::scaled([n, k], ScaleBlock::WEIGHT)))
    };
    let r = s.input("r", Type::new(out, ["T".into(), Dim::Const(n)]));
    (Op::Matmul { out, promote: 128 }, x, w, r)
}

fn fused_sum(s: &mut Side) -> Vec<ValueId> {
    let (op, x, w, r) = summed(s);
    let Op::Matmul { out, promote } = op else {
        panic!("{op} is no product")
    };
    vec![s.op(Op::MatmulAdd { out, promote }, &[x, w, r])]
}

/// A product whose columns are gate and up, with its operands and weights for its rows.
fn gated(s: &mut Side, grouped: bool) -> (Op, Vec<ValueId>, ValueId) {
    let (n, k) = (s.pick(&[256, 256, 256, 512]), s.between(1, 200));
    let (out, promote) = (DType::BF16, 64);
    if !grouped {
        let x = Type::scaled(["T".into(), Dim::Const(k)], ScaleBlock::ACTIVATION);
        let x = s.input("x", x);
        let w = s.input("w", Type::scaled([n, k], ScaleBlock::WEIGHT));
        let weights = s.input("weights", Type::new(DType::F32, ["T"]));
        return (Op::Matmul { out, promote }, vec![x, w], weights);
    }
    // `dispatch` gives offsets that cover the rows.
    let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
    let experts = s.ints("experts", ["T".into(), Dim::Const(2)], 3);
    let x = s.op(Op::Quantize, &[x]);
    let rows = s.ops(Op::Dispatch { n_experts: 3 }, &[x, experts]);
    let w = s.input("w", Type::scaled([3, n, k], ScaleBlock::WEIGHT));
    let shape = [Dim::sym("T").times(2).unwrap()];
    let weights = s.input("weights", Type::new(DType::F32, shape));
    (
        Op::GroupedMatmul { out, promote },
        vec![rows[0], w, rows[1]],
        weights,
    )
}

/// The routing weight between SwiGLU and quantisation.
fn weighted(s: &mut Side, product: Op, operands: &[ValueId], weights: ValueId) -> Vec<ValueId> {
    let y = s.op(product, operands);
    let y = s.op(Op::Swiglu, &[y]);
    let y = s.op(Op::ScaleRows, &[y, weights]);
    vec![s.op(Op::Quantize, &[y])]
}
