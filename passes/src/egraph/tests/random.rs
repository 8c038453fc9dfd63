//! Random well-typed graphs of the ops that rules know: the optimised graph computes the same bits and costs no more.
//! Where the graph allows other roundings it computes the same reals, within the roundings of both (`ball.rs`).

use std::collections::BTreeSet;

use mcc_ir::eval::{Rng, Values};
use mcc_ir::graph::ValueId;
use mcc_ir::marks::Freedom;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, ScaleBlock, Type};

use super::cases::build;
use super::{EPS, Side, assert_same, ball, derived, evaluate, module};
use crate::egraph::{Options, optimize};
use crate::target::Target;

const GRAPHS: u64 = 2000;
const OPS: usize = 24;

/// What operands are drawn from beside the values made so far.
struct Leaves {
    /// Weights of norms over 256 and 128 channels.
    norms: [ValueId; 2],
    /// Weights of products, `[N, 256]`, in FP8 and BF16.
    weights: Vec<ValueId>,
    /// Of 4 tokens 2 experts each, with weights.
    experts: [ValueId; 2],
    /// Rows, the first or the second.
    index: ValueId,
}

/// An op with operands drawn from `values`; most draws do not type-check and are drawn again.
fn draw(rng: &mut Rng, values: &[ValueId], leaves: &Leaves) -> (Op, Vec<ValueId>) {
    // Recent values more often, so that chains grow.
    let pick = |rng: &mut Rng| {
        let back = rng.below(values.len()).min(rng.below(values.len()));
        values[values.len() - 1 - back]
    };
    let x = pick(rng);
    let n = |rng: &mut Rng, of: &[u64]| of[rng.below(of.len())];
    match rng.below(20) {
        0 | 1 => (Op::Add, vec![x, pick(rng)]),
        2 | 3 => (
            Op::RmsNorm { eps: EPS },
            vec![x, leaves.norms[rng.below(2)]],
        ),
        4..=6 => (Op::Quantize, vec![x]),
        7 => {
            let (start, len) = (n(rng, &[0, 64, 128]), n(rng, &[64, 128, 256]));
            (
                Op::Slice {
                    axis: 1,
                    start,
                    len,
                },
                vec![x],
            )
        }
        8 | 9 => (Op::Concat { axis: 1 }, vec![x, pick(rng)]),
        10 => {
            let shape: &[u64] = [
                &[8, 128][..],
                &[4, 256],
                &[8, 256],
                &[4, 128],
                &[2, 256],
                &[2, 512],
                &[4, 2, 128],
                &[2, 4, 128],
                &[4, 1, 256],
            ][rng.below(9)];
            let shape = shape.iter().copied().map(Dim::Const).collect();
            (Op::Reshape { shape }, vec![x])
        }
        11 => (Op::Swiglu, vec![x]),
        12 => (Op::Dispatch { n_experts: 6 }, vec![x, leaves.experts[0]]),
        13 => (Op::Combine, vec![x, pick(rng), leaves.experts[1]]),
        14 => (Op::Gather, vec![x, leaves.index]),
        15 => (
            Op::Transpose {
                a: rng.below(2),
                b: rng.below(2),
            },
            vec![x],
        ),
        16 => (
            Op::Expand {
                axis: 1,
                len: n(rng, &[1, 2]),
            },
            vec![x],
        ),
        _ => {
            let (out, promote) = (DType::BF16, 128);
            let w = leaves.weights[rng.below(leaves.weights.len())];
            // Older values too, so that products share one.
            let x = values[rng.below(values.len())];
            (Op::Matmul { out, promote }, vec![x, w])
        }
    }
}

fn graph(s: &mut Side) -> Vec<ValueId> {
    let mut values = vec![
        s.bf16("x", [4, 256]),
        s.bf16("y", [4, 256]),
        s.bf16("z", [8, 128]),
    ];
    let fp8 = |n: u64| Type::scaled([n, 256], ScaleBlock::WEIGHT);
    let leaves = Leaves {
        norms: [s.bf16("w", [256]), s.bf16("v", [128])],
        weights: vec![
            s.param("a", fp8(128)),
            s.param("b", fp8(256)),
            s.param("c", fp8(64)),
            s.param("d", Type::new(DType::BF16, [64u64, 256])),
            s.param("e", Type::new(DType::BF16, [192u64, 256])),
        ],
        experts: [
            s.ints("experts", [4, 2], 6),
            s.input("gates", Type::new(DType::F32, [4u64, 2])),
        ],
        index: s.ints("index", [4], 2),
    };
    let mut rng = Rng::new(s.rng.bits());
    let mut made = 0;
    while made < OPS {
        let (op, operands) = draw(&mut rng, &values, &leaves);
        // Nothing grows without end.
        let small = |s: &Side, value: &ValueId| {
            let extents = s.graph.ty(*value).shape.iter().filter_map(Dim::as_const);
            s.graph.def(*value).is_leaf() || extents.product::<u64>() <= 4096
        };
        // Indices are 0 and 1.
        let rows = s.graph.ty(operands[0]).shape[0].as_const();
        let has_rows = op != Op::Gather || rows.is_some_and(|rows| rows > 1);
        if has_rows
            && operands.iter().all(|value| small(s, value))
            && let Ok(results) = s.graph.add(op, &operands, None)
        {
            values.extend(results);
            made += 1;
        }
    }
    let unused =
        |value: &ValueId| s.graph.users(*value).is_empty() && !s.graph.def(*value).is_leaf();
    values.into_iter().filter(unused).collect()
}

/// Optimises the graph of a seed and compares both; the rules taken.
fn check(seed: u64, target: &Target) -> BTreeSet<String> {
    let side = build("random", seed, graph);
    let mut before = module([&side]);
    if seed % 2 == 1 {
        before.allow = Freedom::ALL;
    }
    let options = Options {
        // Integer programs take most of the time, and choose among the same graphs.
        effort: (seed % 16 < 2).then(Default::default),
        ..Options::default()
    };
    let (after, report) = optimize(&before, target, &options).unwrap();
    let report = &report.entries[0];
    assert!(
        report.after.nanoseconds <= report.before.nanoseconds,
        "seed {seed}"
    );
    let mut rng = Rng::new(seed);
    let (inputs, params) = (side.inputs(&mut rng, 1), side.params(&mut rng));
    let all = derived(&after, &before, &params);
    let a = evaluate(&before, "random", &inputs, &params);
    let b = evaluate(&after, "random", &inputs, &all);
    let what = format!("seed {seed}\n{before}\n{after}");
    if before.allow == Freedom::EXACT {
        assert_same(&a, &b, &what);
    } else {
        let x = ball::outputs(&before.entries[0], &inputs, &params, 1);
        let y = ball::outputs(&after.entries[0], &inputs, &all, 1);
        let floats = |values: &Values| -> Vec<Vec<f64>> {
            let names = before.entries[0]
                .outputs
                .iter()
                .map(|(name, _)| &values[name]);
            let floats = names.filter(|value| value.as_i32().is_none());
            floats.map(mcc_ir::eval::Tensor::to_f64).collect()
        };
        let (a, b) = (floats(&a), floats(&b));
        assert!(a.len() == x.len() && b.len() == y.len());
        for at in 0..a.len() {
            for i in 0..a[at].len() {
                let (x, y) = ((x[at].v[i], x[at].e[i]), (y[at].v[i], y[at].e[i]));
                let tiny = 1e-9 * (x.0.abs() + x.1) + f64::MIN_POSITIVE;
                assert!((x.0 - y.0).abs() <= tiny, "{what}: {x:?} and {y:?}");
                assert!((a[at][i] - b[at][i]).abs() <= x.1 + y.1 + tiny, "{what}");
            }
        }
    }
    let rewrites = report.rewrites.iter();
    rewrites.map(|rewrite| rewrite.rule.clone()).collect()
}

#[test]
fn optimised_random_graphs_compute_the_same_for_no_more() {
    let target = Target::load("h100").unwrap();
    let half = |first: u64| {
        let seeds = (first..GRAPHS).step_by(2);
        let taken = seeds.flat_map(|seed| check(seed, &target));
        taken.collect::<BTreeSet<String>>()
    };
    let mut taken = BTreeSet::new();
    std::thread::scope(|scope| {
        let odd = scope.spawn(|| half(1));
        taken.extend(half(0));
        taken.extend(odd.join().unwrap());
    });
    // The graphs are rich enough to mean something.
    for rule in [
        "add-left-bf16",
        "concat-matmul",
        "fuse-add-matmul",
        "fuse-add-norm",
        "fuse-add-norm-quantize",
        "fuse-matmul-add",
        "fuse-norm-quantize",
        "fuse-swiglu-quantize",
        "merge-matmul",
        "quantize-dispatch",
        "reshape-reshape",
        "share-equal",
        "slice-whole",
        "transpose-same",
    ] {
        assert!(
            taken.contains(rule),
            "no random graph takes `{rule}`: {taken:?}"
        );
    }
}

/// Merged classes hold nodes that read themselves; those are never chosen.
#[test]
fn ops_that_change_nothing_disappear() {
    let side = build("nothing", 0, |s| {
        let x = s.bf16("x", ["T".into(), Dim::Const(256)]);
        let whole = s.slice(x, 1, 0, 256);
        let there = s.reshape(whole, ["T".into(), Dim::Const(2), Dim::Const(128)]);
        vec![s.reshape(there, ["T".into(), Dim::Const(256)])]
    });
    let module = module([&side]);
    let (after, report) =
        optimize(&module, &Target::load("h200").unwrap(), &Options::default()).unwrap();
    assert_eq!(report.entries[0].after.ops, 0);
    assert!(
        after.entries[0]
            .def(after.entries[0].outputs[0].1)
            .is_leaf()
    );
    let rules: Vec<_> = report.entries[0]
        .rewrites
        .iter()
        .map(|rewrite| rewrite.rule.as_str())
        .collect();
    assert!(rules.contains(&"slice-whole"), "{rules:?}");
}
