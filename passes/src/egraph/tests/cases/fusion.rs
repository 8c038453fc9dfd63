//! Cases of `rules/fusion.rs`.

use mcc_ir::graph::ValueId;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, Type};

use super::{Case, EPS, Side};

pub(super) const CASES: &[Case] = &[
    Case {
        rule: "fuse-norm-quantize",
        left: |s| {
            let (x, _, w) = normed(s);
            let y = s.op(Op::RmsNorm { eps: EPS }, &[x, w]);
            vec![y, s.op(Op::Quantize, &[y])]
        },
        right: |s| {
            let (x, _, w) = normed(s);
            s.ops(Op::RmsNormQuantize { eps: EPS }, &[x, w])
        },
    },
    Case {
        rule: "fuse-add-norm",
        left: |s| {
            let (x, r, w) = normed(s);
            let sum = s.op(Op::Add, &[x, r]);
            vec![sum, s.op(Op::RmsNorm { eps: EPS }, &[sum, w])]
        },
        right: |s| {
            let (x, r, w) = normed(s);
            s.ops(Op::AddRmsNorm { eps: EPS }, &[x, r, w])
        },
    },
    Case {
        rule: "fuse-add-norm-quantize",
        left: |s| {
            let (x, r, w) = normed(s);
            let all = s.ops(Op::AddRmsNorm { eps: EPS }, &[x, r, w]);
            vec![all[0], all[1], s.op(Op::Quantize, &[all[1]])]
        },
        right: |s| {
            let (x, r, w) = normed(s);
            s.ops(Op::AddRmsNormQuantize { eps: EPS }, &[x, r, w])
        },
    },
    Case {
        rule: "fuse-swiglu-quantize",
        left: |s| {
            let k = s.width();
            let x = s.bf16("x", ["T".into(), Dim::Const(2 * k)]);
            let y = s.op(Op::Swiglu, &[x]);
            vec![s.op(Op::Quantize, &[y])]
        },
        right: |s| {
            let k = s.width();
            let x = s.bf16("x", ["T".into(), Dim::Const(2 * k)]);
            vec![s.op(Op::SwigluQuantize, &[x])]
        },
    },
    Case {
        rule: "fuse-mla-cache-write",
        left: |s| {
            let (operands @ [cache, kv, w, positions, table], dc, dr) = cached(s);
            assert_eq!(operands.len(), 5);
            let (low, high) = (s.slice(kv, 1, 0, dc), s.slice(kv, 1, dc, dr));
            let low = s.op(Op::RmsNorm { eps: EPS }, &[low, w]);
            let row = s.op(Op::Concat { axis: 1 }, &[low, high]);
            let row = s.op(Op::Rope { start: dc }, &[row, positions, table]);
            vec![s.op(Op::CacheWrite, &[cache, row, positions])]
        },
        right: |s| {
            let (operands, _, _) = cached(s);
            vec![s.op(Op::MlaCacheWrite { eps: EPS }, &operands)]
        },
    },
];

/// Two values and the weight of a norm over them.
fn normed(s: &mut Side) -> (ValueId, ValueId, ValueId) {
    let k = s.width();
    let shape = || ["T".into(), Dim::Const(k)];
    (s.bf16("x", shape()), s.bf16("r", shape()), s.bf16("w", [k]))
}

/// The operands of `mla_cache_write`, and its two widths.
fn cached(s: &mut Side) -> ([ValueId; 5], u64, u64) {
    let (dc, dr) = (s.between(1, 130), 2 * s.between(1, 6));
    let cache = s.bf16("cache", [12, dc + dr]);
    let kv = s.bf16("kv", ["T".into(), Dim::Const(dc + dr)]);
    let w = s.bf16("w", [dc]);
    let positions = s.ints("positions", ["T"], 12);
    let table = s.input("table", Type::new(DType::F32, [12, dr / 2, 2]));
    ([cache, kv, w, positions, table], dc, dr)
}
