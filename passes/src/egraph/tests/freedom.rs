//! The author's word: what may be rounded elsewhere, which ops stay, which rules are not for them.

use mcc_ir::eval::{Rng, Scaled, Tensor};
use mcc_ir::graph::{SourceLoc, ValueId};
use mcc_ir::marks::{Freedom, Marks};
use mcc_ir::module::Module;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, ScaleBlock, Type};

use super::cases::{Sizes, absorbed, build, expanded};
use super::{EPS, Side, assert_same, ball, evaluate, module};
use crate::egraph::{Options, optimize};
use crate::target::Target;

fn optimized(module: &Module) -> Module {
    let target = Target::load("h100").unwrap();
    optimize(module, &target, &Options::default()).unwrap().0
}

fn count(module: &Module, mnemonic: &str) -> usize {
    let entry = &module.entries[0];
    let ops = entry.topo().into_iter().map(|id| entry.op(id).mnemonic());
    ops.filter(|op| *op == mnemonic).count()
}

fn keep() -> Marks {
    Marks {
        keep: true,
        ..Marks::default()
    }
}

fn never(rules: &[&str]) -> Marks {
    let mut marks = Marks::default();
    rules.iter().for_each(|rule| marks.never(*rule));
    marks
}

fn allow(freedom: Freedom) -> Marks {
    Marks {
        allow: Some(freedom),
        ..Marks::default()
    }
}

/// A cache long enough for few tokens to be cheaper absorbed.
const SIZES: Sizes = Sizes {
    heads: 4,
    channels: [64, 64, 64, 128],
    context: 256,
};

fn attention() -> Side {
    build("attention", 0, |s| expanded(s, SIZES, true))
}

/// How often rules of rounding were taken, with the marks that `mark` sets.
fn absorptions(mark: impl Fn(&mut Side), of_module: Freedom) -> usize {
    let mut side = attention();
    mark(&mut side);
    let mut module = module([&side]);
    module.allow = of_module;
    count(&optimized(&module), "batched_matmul")
}

#[test]
fn nothing_is_rounded_elsewhere_unless_the_author_says_so() {
    let ops = |side: &Side| -> Vec<_> {
        let ids = side.graph.topo().into_iter();
        ids.filter(|id| !side.graph.op(*id).is_leaf()).collect()
    };
    let nothing = |_: &mut Side| {};
    assert_eq!(absorptions(nothing, Freedom::EXACT), 0);
    assert_eq!(absorptions(nothing, Freedom::REASSOCIATE), 0);
    assert_eq!(absorptions(nothing, Freedom::ALL), 2);
    // The entry's word counts more than the module's, the op's more than both.
    let entry = |freedom| move |side: &mut Side| side.graph.allow = Some(freedom);
    assert_eq!(absorptions(entry(Freedom::EXACT), Freedom::ALL), 0);
    assert_eq!(absorptions(entry(Freedom::ALL), Freedom::EXACT), 2);
    let all = |side: &mut Side| {
        for id in ops(side) {
            side.graph.mark(id, allow(Freedom::ALL));
        }
    };
    assert_eq!(absorptions(all, Freedom::EXACT), 2);
    // One op of those that the rule looks at is enough to forbid it.
    for at in 0..ops(&attention()).len() {
        let one = |side: &mut Side| {
            let id = ops(side)[at];
            side.graph.mark(id, allow(Freedom::EXACT));
        };
        assert_eq!(absorptions(one, Freedom::ALL), 0, "op {at}");
    }
}

/// The same value written twice, once where it may be rounded elsewhere and once where it must not: the rule finds
/// them equal, and is not used.
#[test]
fn a_value_that_is_wanted_exactly_stays_exact() {
    let mut side = Side::new("both", 0);
    let one = expanded(&mut side, SIZES, true)[0];
    let loose: Vec<_> = side.graph.topo();
    let two = absorbed(&mut side, SIZES, true)[0];
    for id in loose {
        if !side.graph.op(id).is_leaf() {
            side.graph.mark(id, allow(Freedom::ALL));
        }
    }
    let side = side.finish(&[one, two]);
    let before = module([&side]);
    let after = optimized(&before);
    let mut rng = Rng::new(1);
    let (inputs, params) = (side.inputs(&mut rng, 2), side.params(&mut rng));
    let results = [
        evaluate(&before, "both", &inputs, &params),
        evaluate(
            &after,
            "both",
            &inputs,
            &super::derived(&after, &before, &params),
        ),
    ];
    assert_ne!(results[0]["out0"], results[0]["out1"]);
    assert_same(&results[0], &results[1], "both");
}

/// A graph that was given freedom computes the same reals within its roundings.
#[test]
fn extracted_graphs_stay_within_their_roundings() {
    for seed in 0..4 {
        let side = attention();
        let mut before = module([&side]);
        before.allow = Freedom::ALL;
        let after = optimized(&before);
        assert_eq!(count(&after, "batched_matmul"), 2, "seed {seed}");
        let mut rng = Rng::new(seed);
        let (inputs, mut params) = (side.inputs(&mut rng, 3), side.params(&mut rng));
        // Scales that are powers of two: then weights made BF16 while loading are the same reals.
        if let Some(w) = params.get_mut("w") {
            let Scaled {
                codes,
                scales,
                block,
            } = w.as_scaled().unwrap().clone();
            let scales = scales.iter().map(|scale| scale.log2().round().exp2());
            *w = Tensor::scaled(w.shape(), codes, scales.collect(), block).unwrap();
        }
        let all = super::derived(&after, &before, &params);
        let (a, b) = (
            evaluate(&before, "attention", &inputs, &params),
            evaluate(&after, "attention", &inputs, &all),
        );
        let x = ball::outputs(&before.entries[0], &inputs, &params, 3);
        let y = ball::outputs(&after.entries[0], &inputs, &all, 3);
        let (a, b) = (a["out0"].to_f64(), b["out0"].to_f64());
        assert_ne!(a, b);
        for i in 0..a.len() {
            assert!((x[0].v[i] - y[0].v[i]).abs() <= 1e-9 * (x[0].v[i].abs() + x[0].e[i]));
            assert!((a[i] - b[i]).abs() <= x[0].e[i] + y[0].e[i]);
        }
    }
}

/// `quantize(rms_norm(add(x, r)))`, with an output for each of the values that `outputs` names.
fn chain(marks: [Marks; 3]) -> Side {
    let mut s = Side::new("chain", 0);
    let [x, r] = ["x", "r"].map(|name| s.bf16(name, ["T".into(), Dim::Const(256)]));
    let w = s.bf16("w", [256]);
    let sum = s.op(Op::Add, &[x, r]);
    let norm = s.op(Op::RmsNorm { eps: EPS }, &[sum, w]);
    let q = s.op(Op::Quantize, &[norm]);
    for (value, marks) in [sum, norm, q].into_iter().zip(marks) {
        s.graph.mark(value.node, marks);
    }
    s.finish(&[q])
}

fn chain_ops(marks: [Marks; 3]) -> Vec<String> {
    let after = optimized(&module([&chain(marks)]));
    let entry = &after.entries[0];
    let ops = entry
        .topo()
        .into_iter()
        .filter(|id| !entry.op(*id).is_leaf());
    ops.map(|id| entry.op(id).mnemonic().to_owned()).collect()
}

#[test]
fn a_kept_op_stays_and_no_rule_looks_through_it() {
    let none = Marks::default;
    assert_eq!(
        chain_ops([none(), none(), none()]),
        ["add_rms_norm_quantize"]
    );
    assert_eq!(
        chain_ops([keep(), none(), none()]),
        ["add", "rms_norm_quantize"]
    );
    assert_eq!(
        chain_ops([none(), keep(), none()]),
        ["add", "rms_norm", "quantize"]
    );
    assert_eq!(
        chain_ops([none(), none(), keep()]),
        ["add_rms_norm", "quantize"]
    );
}

/// Also where another op makes the same value at no further cost.
#[test]
fn a_kept_op_computes_its_value_whatever_else_does() {
    let mut s = Side::new("twice", 0);
    let x = s.bf16("x", ["T".into(), Dim::Const(512)]);
    let kept = s.op(Op::Swiglu, &[x]);
    let kept = s.op(Op::Quantize, &[kept]);
    s.graph.mark(kept.node, keep());
    let other = s.op(Op::SwigluQuantize, &[x]);
    let slice = s.slice(x, 1, 0, 512);
    let same = s.op(Op::Swiglu, &[slice]);
    let same = s.op(Op::Quantize, &[same]);
    let s = s.finish(&[kept, other, same]);
    let after = optimized(&module([&s]));
    // The three values are found to be one, so the op that the author pinned makes it.
    assert_eq!((count(&after, "swiglu"), count(&after, "quantize")), (1, 1));
    assert_eq!(count(&after, "swiglu_quantize"), 0);
    let text = after.to_string();
    assert!(text.contains("f32[1x128] keep\n"), "{text}");
    assert_eq!(optimized(&after).to_string(), text);
}

#[test]
fn a_rule_is_not_used_where_it_is_forbidden_nor_on_what_came_of_it() {
    let none = Marks::default;
    let not = never(&["fuse-add-norm"]);
    assert_eq!(
        chain_ops([not.clone(), none(), none()]),
        ["add", "rms_norm_quantize"]
    );
    assert_eq!(
        chain_ops([none(), not.clone(), none()]),
        ["add", "rms_norm_quantize"]
    );
    // The cast is not among what that rule looks at.
    assert_eq!(chain_ops([none(), none(), not]), ["add_rms_norm_quantize"]);
    // The fused op is made of the sum: what was said of the sum holds for it.
    assert_eq!(
        chain_ops([
            never(&["fuse-add-norm-quantize", "fuse-norm-quantize"]),
            never(&["fuse-norm-quantize"]),
            none()
        ]),
        ["add_rms_norm", "quantize"]
    );
}

#[test]
fn a_name_that_no_rule_has_is_an_error_with_its_line() {
    let mut s = Side::new("line", 0);
    let x = s.bf16("x", ["T".into(), Dim::Const(256)]);
    let loc = SourceLoc {
        file: "model.rs".into(),
        line: 12,
        column: 9,
    };
    let q = s.graph.add1(Op::Quantize, &[x], Some(loc)).unwrap();
    s.graph.mark(q.node, never(&["fuse-norm-quantise"]));
    let s = s.finish(&[q]);
    let target = Target::load("h100").unwrap();
    let error = optimize(&module([&s]), &target, &Options::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "model.rs:12:9: there is no rewrite rule `fuse-norm-quantise`; did you mean `fuse-norm-quantize`? \
         docs/rules.md lists all"
    );
    let options = Options {
        without: vec!["slice".into()],
        ..Options::default()
    };
    let s = build("plain", 0, plain);
    let error = optimize(&module([&s]), &target, &options).unwrap_err();
    assert!(
        error.to_string().contains("no rewrite rule `slice`"),
        "{error}"
    );
}

fn plain(s: &mut Side) -> Vec<ValueId> {
    let shape = ["T".into(), Dim::Const(128)];
    let x = s.input("x", Type::scaled(shape, ScaleBlock::ACTIVATION));
    let w = s.input("w", Type::scaled([8, 128], ScaleBlock::WEIGHT));
    let (out, promote) = (DType::BF16, 128);
    vec![s.op(Op::Matmul { out, promote }, &[x, w])]
}
