//! Random graphs of the ops that rules know: the optimised graph computes the same bits and costs no more.

use mcc_ir::eval::Rng;
use mcc_ir::graph::ValueId;
use mcc_ir::op::Op;
use mcc_ir::types::Dim;

use super::rules::build;
use super::{EPS, Side, assert_same, evaluate, module};
use crate::egraph::{Options, optimize};
use crate::target::Target;

const GRAPHS: u64 = 60;
const OPS: usize = 24;

/// An op with operands drawn from `values`; most draws do not type-check and are drawn again.
fn draw(
    rng: &mut Rng,
    values: &[ValueId],
    w: [ValueId; 2],
    experts: ValueId,
) -> (Op, Vec<ValueId>) {
    // Recent values more often, so that chains grow.
    let pick = |rng: &mut Rng| {
        let back = rng.below(values.len()).min(rng.below(values.len()));
        values[values.len() - 1 - back]
    };
    let x = pick(rng);
    let n = |rng: &mut Rng, of: &[u64]| of[rng.below(of.len())];
    match rng.below(12) {
        0 | 1 => (Op::Add, vec![x, pick(rng)]),
        2 | 3 => (Op::RmsNorm { eps: EPS }, vec![x, w[rng.below(2)]]),
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
        8 => (Op::Concat { axis: 1 }, vec![x, pick(rng)]),
        9 => {
            let shape = [[8, 128], [4, 256], [8, 256], [4, 128], [2, 256], [2, 512]][rng.below(6)];
            (
                Op::Reshape {
                    shape: shape.map(Dim::Const).to_vec(),
                },
                vec![x],
            )
        }
        10 => (Op::Swiglu, vec![x]),
        _ => (Op::Dispatch { n_experts: 6 }, vec![x, experts]),
    }
}

fn graph(s: &mut Side) -> Vec<ValueId> {
    let mut values = vec![
        s.bf16("x", [4, 256]),
        s.bf16("y", [4, 256]),
        s.bf16("z", [8, 128]),
    ];
    let w = [s.bf16("w", [256]), s.bf16("v", [128])];
    let experts = s.ints("experts", [4, 2], 6);
    let mut rng = Rng::new(s.rng.bits());
    let mut made = 0;
    while made < OPS {
        let (op, operands) = draw(&mut rng, &values, w, experts);
        if let Ok(results) = s.graph.add(op, &operands, None) {
            values.extend(results);
            made += 1;
        }
    }
    let unused =
        |value: &ValueId| s.graph.users(*value).is_empty() && !s.graph.def(*value).is_leaf();
    values.into_iter().filter(unused).collect()
}

#[test]
fn optimised_random_graphs_compute_the_same_bits_for_no_more() {
    let target = Target::load("h100").unwrap();
    let mut taken = std::collections::BTreeSet::new();
    for seed in 0..GRAPHS {
        let side = build("random", seed, graph);
        let module = module([side.graph.clone()]);
        let (after, report) = optimize(&module, &target, &Options::default()).unwrap();
        let report = &report.entries[0];
        assert!(
            report.after.nanoseconds <= report.before.nanoseconds,
            "seed {seed}"
        );
        taken.extend(report.rewrites.iter().map(|rewrite| rewrite.rule.clone()));
        let inputs = side.inputs(&mut Rng::new(seed), 1);
        let what = format!("seed {seed}\n{module}\n{after}");
        assert_same(
            &evaluate(&module, "random", &inputs),
            &evaluate(&after, "random", &inputs),
            &what,
        );
    }
    // The graphs are rich enough to mean something.
    for rule in [
        "fuse-add-norm",
        "fuse-add-norm-quantize",
        "fuse-norm-quantize",
        "fuse-swiglu-quantize",
        "quantize-dispatch",
        "reshape-reshape",
        "share-equal",
        "slice-whole",
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
    let module = module([side.graph]);
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
