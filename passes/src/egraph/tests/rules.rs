//! Every rule by itself: saturation with this rule alone makes the two sides of a case equal, and both sides
//! evaluate to the same bits on random shapes and values.

use egg::Id;
use mcc_ir::eval::Rng;
use mcc_ir::graph::ValueId;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, ScaleBlock, Type};

use super::{EPS, Side, assert_same, evaluate, module};
use crate::egraph::convert::{import, import_into};
use crate::egraph::rules::{self, Compiled};
use crate::egraph::saturate::{Caps, History, saturate};

/// Random shapes for each rule.
const SHAPES: u64 = 16;
/// Random values for each shape.
const SEEDS: u64 = 3;

type Build = fn(&mut Side) -> Vec<ValueId>;

/// A rule with a graph that it matches, and the graph that it says is equal.
struct Case {
    rule: &'static str,
    left: Build,
    right: Build,
}

/// Widths with whole and partial groups of 128.
const WIDTHS: &[u64] = &[8, 100, 128, 200, 256, 300];

const CASES: &[Case] = &[
    Case {
        rule: "slice-whole",
        left: |s| {
            let k = s.pick(WIDTHS);
            let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
            vec![s.slice(x, 1, 0, k)]
        },
        right: |s| {
            let k = s.pick(WIDTHS);
            vec![s.bf16("x", ["T".into(), Dim::Const(k)])]
        },
    },
    Case {
        rule: "slice-slice",
        left: |s| {
            let (a, b) = (s.pick(&[0, 3, 40]), s.pick(&[0, 7, 20]));
            let x = s.bf16("x", ["T".into(), Dim::Const(100)]);
            let middle = s.slice(x, 1, a, 50);
            vec![s.slice(middle, 1, b, 30)]
        },
        right: |s| {
            let (a, b) = (s.pick(&[0, 3, 40]), s.pick(&[0, 7, 20]));
            let x = s.bf16("x", ["T".into(), Dim::Const(100)]);
            vec![s.slice(x, 1, a + b, 30)]
        },
    },
    Case {
        rule: "slice-concat-first",
        left: |s| {
            let start = s.pick(&[0, 1, 10]);
            let (a, b) = (s.bf16("a", [30, 4]), s.bf16("b", [20, 4]));
            let both = s.op(Op::Concat { axis: 0 }, &[a, b]);
            vec![s.slice(both, 0, start, 20)]
        },
        right: |s| {
            let start = s.pick(&[0, 1, 10]);
            let (a, _) = (s.bf16("a", [30, 4]), s.bf16("b", [20, 4]));
            vec![s.slice(a, 0, start, 20)]
        },
    },
    Case {
        rule: "slice-concat-second",
        left: |s| {
            let start = s.pick(&[0, 1, 10]);
            let (a, b) = (s.bf16("a", [30, 4]), s.bf16("b", [20, 4]));
            let both = s.op(Op::Concat { axis: 0 }, &[a, b]);
            vec![s.slice(both, 0, 30 + start, 10)]
        },
        right: |s| {
            let start = s.pick(&[0, 1, 10]);
            let (_, b) = (s.bf16("a", [30, 4]), s.bf16("b", [20, 4]));
            vec![s.slice(b, 0, start, 10)]
        },
    },
    Case {
        rule: "concat-slices",
        left: |s| {
            let (start, l, m) = (s.pick(&[0, 5]), s.pick(&[1, 30]), s.pick(&[2, 40]));
            let x = s.bf16("x", ["T".into(), Dim::Const(100)]);
            let (a, b) = (s.slice(x, 1, start, l), s.slice(x, 1, start + l, m));
            vec![s.op(Op::Concat { axis: 1 }, &[a, b])]
        },
        right: |s| {
            let (start, l, m) = (s.pick(&[0, 5]), s.pick(&[1, 30]), s.pick(&[2, 40]));
            let x = s.bf16("x", ["T".into(), Dim::Const(100)]);
            vec![s.slice(x, 1, start, l + m)]
        },
    },
    Case {
        rule: "concat-one",
        left: |s| {
            let k = s.pick(WIDTHS);
            let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
            vec![s.op(Op::Concat { axis: 0 }, &[x])]
        },
        right: |s| {
            let k = s.pick(WIDTHS);
            vec![s.bf16("x", ["T".into(), Dim::Const(k)])]
        },
    },
    Case {
        rule: "reshape-same",
        left: |s| {
            let k = s.pick(WIDTHS);
            let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
            vec![s.reshape(x, ["T".into(), Dim::Const(k)])]
        },
        right: |s| {
            let k = s.pick(WIDTHS);
            vec![s.bf16("x", ["T".into(), Dim::Const(k)])]
        },
    },
    Case {
        rule: "reshape-reshape",
        left: |s| {
            let k = s.pick(WIDTHS);
            let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
            let middle = s.reshape(x, ["T".into(), Dim::Const(k / 4), Dim::Const(4)]);
            vec![s.reshape(middle, ["T".into(), Dim::Const(2), Dim::Const(k / 2)])]
        },
        right: |s| {
            let k = s.pick(WIDTHS);
            let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
            vec![s.reshape(x, ["T".into(), Dim::Const(2), Dim::Const(k / 2)])]
        },
    },
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
            let k = s.pick(WIDTHS);
            let x = s.bf16("x", ["T".into(), Dim::Const(2 * k)]);
            let y = s.op(Op::Swiglu, &[x]);
            vec![s.op(Op::Quantize, &[y])]
        },
        right: |s| {
            let k = s.pick(WIDTHS);
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
    let (n, k) = (s.pick(&[16, 100, 160]), s.pick(&[72, 128, 300]));
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
    let (n, k) = (s.pick(&[256, 512]), s.pick(&[64, 200]));
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

/// `x[T, K]` and `experts[T, 3]` below 6.
fn dispatched(s: &mut Side) -> (ValueId, ValueId) {
    let k = s.pick(WIDTHS);
    let x = s.bf16("x", ["T".into(), Dim::Const(k)]);
    (x, s.ints("experts", ["T".into(), Dim::Const(3)], 6))
}

/// A value and a shape that keeps its groups: by equal width, with a partial group, or by whole groups.
fn reshaped(s: &mut Side) -> (ValueId, Vec<Dim>) {
    let t = || Dim::sym("T");
    match s.pick(&[0, 1, 2]) {
        0 => (
            s.bf16("x", [t(), 2.into(), 200.into()]),
            vec![t().times(2).unwrap(), 200.into()],
        ),
        1 => (
            s.bf16("x", [t(), 3.into(), 128.into()]),
            vec![t(), 384.into()],
        ),
        _ => (
            s.bf16("x", [t(), 512.into()]),
            vec![t(), 2.into(), 256.into()],
        ),
    }
}

/// A value and a cut between groups: axis, start, length.
fn sliced(s: &mut Side) -> (ValueId, [u64; 3]) {
    let cut = [
        [0, 1, 3],
        [1, 0, 256],
        [1, 128, 128],
        [1, 128, 172],
        [1, 256, 44],
    ][s.pick(&[0, 1, 2, 3, 4]) as usize];
    (s.bf16("x", [5, 300]), cut)
}

/// Two values and the weight of a norm over them.
fn normed(s: &mut Side) -> (ValueId, ValueId, ValueId) {
    let k = s.pick(WIDTHS);
    let shape = || ["T".into(), Dim::Const(k)];
    (s.bf16("x", shape()), s.bf16("r", shape()), s.bf16("w", [k]))
}

/// The operands of `mla_cache_write`, and its two widths.
fn cached(s: &mut Side) -> ([ValueId; 5], u64, u64) {
    let (dc, dr) = (s.pick(&[16, 64, 128]), s.pick(&[4, 8]));
    let cache = s.bf16("cache", [12, dc + dr]);
    let kv = s.bf16("kv", ["T".into(), Dim::Const(dc + dr)]);
    let w = s.bf16("w", [dc]);
    let positions = s.ints("positions", ["T"], 12);
    let table = s.input("table", Type::new(DType::F32, [12, dr / 2, 2]));
    ([cache, kv, w, positions, table], dc, dr)
}

pub(super) fn build(name: &str, seed: u64, build: Build) -> Side {
    let mut side = Side::new(name, seed);
    let outputs = build(&mut side);
    side.finish(&outputs)
}

/// Saturates an entry with one rule.
pub(super) fn saturate_with(
    rule: &str,
    side: &Side,
) -> (crate::egraph::convert::Imported, History) {
    let rule = rules::all()
        .find(|row| row.name == rule)
        .unwrap_or_else(|| panic!("no rule `{rule}`"));
    let mut imported = import(&side.graph);
    let caps = Caps {
        nodes: 1000,
        rounds: 10,
    };
    let history = saturate(&mut imported.graph, &[Compiled::new(rule).unwrap()], caps).unwrap();
    assert!(history.saturated, "rule `{}` does not end", rule.name);
    (imported, history)
}

#[test]
fn every_rule_has_a_case() {
    let cases: Vec<_> = CASES.iter().map(|case| case.rule).collect();
    assert_eq!(
        rules::all().map(|rule| rule.name).collect::<Vec<_>>(),
        cases
    );
}

#[test]
fn each_rule_alone_makes_its_two_sides_equal() {
    for case in CASES {
        for seed in 0..SHAPES {
            let (left, right) = (
                build("left", seed, case.left),
                build("right", seed, case.right),
            );
            let classes = |imported: &crate::egraph::convert::Imported, side: &Side| -> Vec<Id> {
                imported.roots(&side.graph)
            };
            let apart = import(&left.graph);
            let before = classes(&apart, &left);
            let beside = import_into(apart.graph, &right.graph);
            assert_ne!(
                before,
                classes(&beside, &right),
                "{}: equal without the rule",
                case.rule
            );

            let (imported, _) = saturate_with(case.rule, &left);
            let rewritten = classes(&imported, &left);
            let beside = import_into(imported.graph, &right.graph);
            assert_eq!(
                rewritten,
                classes(&beside, &right),
                "{} does not fire, seed {seed}",
                case.rule
            );
        }
    }
}

#[test]
fn both_sides_of_each_rule_evaluate_to_the_same_bits() {
    for case in CASES {
        for shape in 0..SHAPES {
            let (left, right) = (
                build("left", shape, case.left),
                build("right", shape, case.right),
            );
            let module = module([left.graph.clone(), right.graph]);
            for seed in 0..SEEDS {
                let mut rng = Rng::new(shape * SEEDS + seed);
                let tokens = 1 + rng.below(8) as u64;
                let inputs = left.inputs(&mut rng, tokens);
                let what = format!("{}, shape {shape}, seed {seed}", case.rule);
                assert_same(
                    &evaluate(&module, "left", &inputs),
                    &evaluate(&module, "right", &inputs),
                    &what,
                );
            }
        }
    }
}

/// Shape rules on block-scaled values, whose scale groups must survive composed cuts.
#[test]
fn shape_rules_hold_for_block_scaled_values() {
    for seed in 0..SHAPES {
        let mut s = Side::new("left", seed);
        let (first, second) = (s.pick(&[0, 128]), s.pick(&[0, 128]));
        let x = s.input(
            "x",
            Type::scaled([Dim::sym("T"), Dim::Const(556)], ScaleBlock::ACTIVATION),
        );
        let cut = s.slice(x, 1, first, 556 - first);
        let cut = s.slice(cut, 1, second, 556 - first - second);
        let whole = s.slice(x, 1, first + second, 556 - first - second);
        let s = s.finish(&[cut, whole]);
        let (imported, _) = saturate_with("slice-slice", &s);
        let roots = imported.roots(&s.graph);
        assert_eq!(roots[0], roots[1]);
        let module = module([s.graph.clone()]);
        let mut results = evaluate(&module, "left", &s.inputs(&mut Rng::new(seed), 3));
        let (a, b) = (
            results.remove("out0").unwrap(),
            results.remove("out1").unwrap(),
        );
        assert!(super::bits(&a) == super::bits(&b));
    }
}
