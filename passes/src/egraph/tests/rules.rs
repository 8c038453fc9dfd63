//! The proof of every rule, on 64 random shapes times 16 random values.
//!
//! Saturation with the rule alone makes both sides of its case equal; both sides then evaluate to the same bits, or,
//! where the rule is no exact one, to the same reals up to what the roundings of both sides allow (`ball.rs`). What was
//! checked is on record in `snapshots/`; a rule without a case, or with another class than its record says, fails.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use egg::Id;
use mcc_ir::eval::Rng;
use mcc_ir::types::{Dim, ScaleBlock, Type};

use super::cases::{Case, all, build};
use super::{Side, assert_same, ball, evaluate, module};
use crate::egraph::RuleClass;
use crate::egraph::convert::{Imported, import, import_into};
use crate::egraph::pins::Pins;
use crate::egraph::rules::{self, Compiled};
use crate::egraph::saturate::{Caps, History, saturate};

/// Random shapes for each rule.
const SHAPES: u64 = 64;
/// Random values for each shape.
const SEEDS: u64 = 16;

/// Saturates an entry with one rule, whatever its class.
pub(super) fn saturate_with(rule: &str, side: &Side) -> (Imported, History) {
    let rule = rules::all()
        .find(|row| row.name == rule)
        .unwrap_or_else(|| panic!("no rule `{rule}`"));
    let mut imported = import(&module([side]), &side.graph);
    let caps = Caps {
        nodes: 1000,
        rounds: 10,
    };
    let rules = [&Compiled::new(rule).unwrap()];
    let history = saturate(&mut imported.graph, &rules, &mut Pins::default(), caps).unwrap();
    assert!(history.saturated, "rule `{}` does not end", rule.name);
    (imported, history)
}

#[test]
fn every_rule_has_a_case() {
    let mut cases: Vec<_> = all().map(|case| case.rule).collect();
    let mut rules: Vec<_> = rules::all().map(|rule| rule.name).collect();
    cases.sort_unstable();
    rules.sort_unstable();
    assert_eq!(rules, cases);
}

#[test]
fn each_rule_alone_makes_its_two_sides_equal() {
    for case in all() {
        for seed in 0..SHAPES {
            let (left, right) = (
                build("left", seed, case.left),
                build("right", seed, case.right),
            );
            let classes =
                |imported: &Imported, side: &Side| -> Vec<Id> { imported.roots(&side.graph) };
            let apart = import(&module([&left]), &left.graph);
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

/// Evaluates both sides of a case on all shapes and values. For a rule that is not exact: the largest part of its bound
/// that was needed.
fn prove(case: &Case, class: RuleClass) -> f64 {
    let mut worst = 0f64;
    for shape in 0..SHAPES {
        let (left, right) = (
            build("left", shape, case.left),
            build("right", shape, case.right),
        );
        let both = module([&left, &right]);
        for seed in 0..SEEDS {
            let mut rng = Rng::new(shape * SEEDS + seed);
            let tokens = 1 + rng.below(4) as u64;
            let (inputs, params) = (left.inputs(&mut rng, tokens), left.params(&mut rng));
            let what = format!("{}, shape {shape}, seed {seed}", case.rule);
            let a = evaluate(&both, "left", &inputs, &params);
            let b = evaluate(&both, "right", &inputs, &params);
            if class == RuleClass::Exact {
                assert_same(&a, &b, &what);
                continue;
            }
            let in_reals =
                [&left, &right].map(|side| ball::outputs(&side.graph, &inputs, &params, tokens));
            for (at, (x, y)) in in_reals[0].iter().zip(&in_reals[1]).enumerate() {
                let name = format!("out{at}");
                let (a, b) = (a[&*name].to_f64(), b[&*name].to_f64());
                assert!(a.len() == x.v.len() && b.len() == y.v.len());
                for i in 0..a.len() {
                    // One real number, up to what `f64` makes of two orders of summing.
                    let tiny = 1e-9 * (x.v[i].abs() + x.e[i]);
                    assert!(
                        (x.v[i] - y.v[i]).abs() <= tiny,
                        "{what}: {} and {}",
                        x.v[i],
                        y.v[i]
                    );
                    assert!((a[i] - x.v[i]).abs() <= x.e[i] + tiny, "{what}: left");
                    assert!((b[i] - y.v[i]).abs() <= y.e[i] + tiny, "{what}: right");
                    worst = worst.max((a[i] - b[i]).abs() / (x.e[i] + y.e[i]));
                }
            }
        }
    }
    worst
}

#[test]
fn both_sides_of_each_rule_are_what_its_class_says() {
    let classes: BTreeMap<&str, RuleClass> =
        rules::all().map(|rule| (rule.name, rule.class)).collect();
    let cases: Vec<&Case> = all().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut proven = BTreeMap::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            proven.insert(case.rule, prove(case, classes[case.rule]));
        }
        proven
    };
    let proven: BTreeMap<&str, f64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join().unwrap());
        results.flatten().collect()
    });
    let mut record = format!("{SHAPES} shapes x {SEEDS} values\n");
    for (rule, worst) in &proven {
        let class = classes[rule];
        let result = match class {
            RuleClass::Exact => "same bits".to_owned(),
            // Rounded up, so that the record says nothing that was not so.
            _ => {
                let percent = (worst * 100.0).ceil();
                format!("the same reals; bits differ by {percent} % of the bound at most")
            }
        };
        writeln!(record, "{rule:34} {:13} {result}", format!("{class:?}")).unwrap();
    }
    insta::assert_snapshot!("proofs", record);
}

/// A rule that is not exact must not be called so: for each there are values for which its sides differ in bits.
#[test]
fn rules_of_the_other_classes_have_counterexamples() {
    for case in all() {
        let class = rules::all()
            .find(|rule| rule.name == case.rule)
            .unwrap()
            .class;
        if class == RuleClass::Exact {
            continue;
        }
        let differs = (0..SHAPES).any(|shape| {
            let (left, right) = (
                build("left", shape, case.left),
                build("right", shape, case.right),
            );
            let both = module([&left, &right]);
            let mut rng = Rng::new(shape);
            let (inputs, params) = (left.inputs(&mut rng, 3), left.params(&mut rng));
            let a = evaluate(&both, "left", &inputs, &params);
            let b = evaluate(&both, "right", &inputs, &params);
            a.iter()
                .zip(&b)
                .any(|((_, a), (_, b))| super::bits(a) != super::bits(b))
        });
        assert!(differs, "{} changes no bit", case.rule);
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
        let module = module([&s]);
        let mut rng = Rng::new(seed);
        let (inputs, params) = (s.inputs(&mut rng, 3), s.params(&mut rng));
        let results = evaluate(&module, "left", &inputs, &params);
        assert!(super::bits(&results["out0"]) == super::bits(&results["out1"]));
    }
}
