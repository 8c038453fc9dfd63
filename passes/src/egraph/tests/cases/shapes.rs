//! Cases of `rules/shapes.rs`.

use mcc_ir::op::Op;
use mcc_ir::types::Dim;

use super::{Case, Side};

pub(super) const CASES: &[Case] = &[
    Case {
        rule: "slice-whole",
        left: |s| {
            let k = s.width();
            let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
            vec![s.slice(x, 1, 0, k)]
        },
        right: |s| {
            let k = s.width();
            vec![s.bf16("x", ["T".into(), Dim::Const(k)])]
        },
    },
    Case {
        rule: "slice-slice",
        left: |s| {
            let (a, b) = (s.between(0, 50), s.between(0, 20));
            let x = s.bf16("x", ["T".into(), Dim::Const(100)]);
            let middle = s.slice(x, 1, a, 50);
            vec![s.slice(middle, 1, b, 30)]
        },
        right: |s| {
            let (a, b) = (s.between(0, 50), s.between(0, 20));
            let x = s.bf16("x", ["T".into(), Dim::Const(100)]);
            vec![s.slice(x, 1, a + b, 30)]
        },
    },
    Case {
        rule: "slice-concat-first",
        left: |s| {
            let start = s.between(0, 10);
            let (a, b) = (s.bf16("a", [30, 4]), s.bf16("b", [20, 4]));
            let both = s.op(Op::Concat { axis: 0 }, &[a, b]);
            vec![s.slice(both, 0, start, 20)]
        },
        right: |s| {
            let start = s.between(0, 10);
            let (a, _) = (s.bf16("a", [30, 4]), s.bf16("b", [20, 4]));
            vec![s.slice(a, 0, start, 20)]
        },
    },
    Case {
        rule: "slice-concat-second",
        left: |s| {
            let start = s.between(0, 10);
            let (a, b) = (s.bf16("a", [30, 4]), s.bf16("b", [20, 4]));
            let both = s.op(Op::Concat { axis: 0 }, &[a, b]);
            vec![s.slice(both, 0, 30 + start, 10)]
        },
        right: |s| {
            let start = s.between(0, 10);
            let (_, b) = (s.bf16("a", [30, 4]), s.bf16("b", [20, 4]));
            vec![s.slice(b, 0, start, 10)]
        },
    },
    Case {
        rule: "concat-slices",
        left: |s| {
            let (start, l, m) = (s.between(0, 20), s.between(1, 40), s.between(1, 40));
            let x = s.bf16("x", ["T".into(), Dim::Const(100)]);
            let (a, b) = (s.slice(x, 1, start, l), s.slice(x, 1, start + l, m));
            vec![s.op(Op::Concat { axis: 1 }, &[a, b])]
        },
        right: |s| {
            let (start, l, m) = (s.between(0, 20), s.between(1, 40), s.between(1, 40));
            let x = s.bf16("x", ["T".into(), Dim::Const(100)]);
            vec![s.slice(x, 1, start, l + m)]
        },
    },
    Case {
        rule: "concat-one",
        left: |s| {
            let k = s.width();
            let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
            vec![s.op(Op::Concat { axis: 0 }, &[x])]
        },
        right: |s| {
            let k = s.width();
            vec![s.bf16("x", ["T".into(), Dim::Const(k)])]
        },
    },
    Case {
        rule: "reshape-same",
        left: |s| {
            let k = s.width();
            let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
            vec![s.reshape(x, ["T".into(), Dim::Const(k)])]
        },
        right: |s| {
            let k = s.width();
            vec![s.bf16("x", ["T".into(), Dim::Const(k)])]
        },
    },
    Case {
        rule: "reshape-reshape",
        left: |s| {
            let k = 4 * s.between(1, 75);
            let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
            let middle = s.reshape(x, ["T".into(), Dim::Const(k / 4), Dim::Const(4)]);
            vec![s.reshape(middle, ["T".into(), Dim::Const(2), Dim::Const(k / 2)])]
        },
        right: |s| {
            let k = 4 * s.between(1, 75);
            let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
            vec![s.reshape(x, ["T".into(), Dim::Const(2), Dim::Const(k / 2)])]
        },
    },
    Case {
        rule: "transpose-transpose",
        left: |s| {
            let (x, [a, b]) = turned(s);
            let x = s.op(Op::Transpose { a, b }, &[x]);
            vec![s.op(Op::Transpose { a, b }, &[x])]
        },
        right: |s| vec![turned(s).0],
    },
    Case {
        rule: "transpose-same",
        left: |s| {
            let (x, [a, _]) = turned(s);
            vec![s.op(Op::Transpose { a, b: a }, &[x])]
        },
        right: |s| vec![turned(s).0],
    },
    Case {
        rule: "expand-once",
        left: |s| {
            let k = s.width();
            let x = s.bf16("x", ["T".into(), 1.into(), Dim::Const(k)]);
            vec![s.op(Op::Expand { axis: 1, len: 1 }, &[x])]
        },
        right: |s| {
            let k = s.width();
            vec![s.bf16("x", ["T".into(), 1.into(), Dim::Const(k)])]
        },
    },
    Case {
        rule: "slice-expand",
        left: |s| {
            let (k, start, len) = (s.width(), s.between(0, 3), s.between(1, 4));
            let x = s.bf16("x", ["T".into(), 1.into(), Dim::Const(k)]);
            let x = s.op(Op::Expand { axis: 1, len: 8 }, &[x]);
            vec![s.slice(x, 1, start, len)]
        },
        right: |s| {
            let (k, _, len) = (s.width(), s.between(0, 3), s.between(1, 4));
            let x = s.bf16("x", ["T".into(), 1.into(), Dim::Const(k)]);
            vec![s.op(Op::Expand { axis: 1, len }, &[x])]
        },
    },
];

/// A value with three axes, and two of them.
fn turned(s: &mut Side) -> (mcc_ir::graph::ValueId, [usize; 2]) {
    let (n, k) = (s.between(1, 5), s.width());
    let axes = [[0, 1], [1, 2], [2, 0], [1, 0]][s.between(0, 3) as usize];
    (
        s.bf16("x", ["T".into(), Dim::Const(n), Dim::Const(k)]),
        axes,
    )
}
