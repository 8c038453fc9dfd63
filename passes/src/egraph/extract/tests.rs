//! Tests of extraction on made-up problems: costs are given in nanoseconds, and small problems are solved by trying
//! every choice.

use egg::Id;
use mcc_ir::eval::Rng;
use mcc_ir::op::Op;

use super::problem::{Alt, AltKind, Class};
use super::{Effort, Problem, Selection, extract, greedy};
use crate::egraph::cost::{Cost, OpCost};
use crate::egraph::language::Node;

const NS: i128 = 1_000_000;

/// Nodes of each class: cost in nanoseconds, and the classes read. The first is the author's.
type Nodes<'a> = &'a [&'a [(u64, &'a [usize])]];

fn problem(nodes: Nodes<'_>, roots: &[usize]) -> Problem {
    let classes = nodes.iter().enumerate().map(|(at, alts)| {
        let alts = alts.iter().enumerate().map(|(number, (ns, operands))| Alt {
            node: Node::Leaf(Op::Input {
                name: format!("{at}.{number}").into(),
            }),
            kind: AltKind::Op {
                operands: operands.to_vec(),
                cost: OpCost::of_ns(*ns, 1),
            },
        });
        class(at, alts.collect(), 1)
    });
    Problem::of_classes(classes.collect(), roots)
}

fn class(at: usize, alts: Vec<Alt>, results: usize) -> Class {
    Class {
        id: Id::from(at),
        alts,
        results,
        original: Some(0),
        readers: Vec::new(),
    }
}

fn solve(problem: &Problem) -> Selection {
    extract(problem, Some(&Effort::default())).unwrap()
}

/// Six values; `own` computes one of them for 10, and three shared ones several at once:
///
/// ```text
/// p  24   1 2 3 4          greedy takes p, the first that helps: 24 + 10 + 10
/// q  16   1 2     5        to give it up costs more than q or r alone gain
/// r  16       3 4   6      best: q and r, 32
/// ```
const COVER: Nodes<'static> = &[
    &[(24, &[9])],
    &[(16, &[9])],
    &[(16, &[9])],
    &[(10, &[9]), (0, &[0]), (0, &[1])],
    &[(10, &[9]), (0, &[0]), (0, &[1])],
    &[(10, &[9]), (0, &[0]), (0, &[2])],
    &[(10, &[9]), (0, &[0]), (0, &[2])],
    &[(10, &[9]), (0, &[1])],
    &[(10, &[9]), (0, &[2])],
    &[(0, &[])],
];

#[test]
fn the_program_finds_what_no_single_move_leads_to() {
    let problem = problem(COVER, &[3, 4, 5, 6, 7, 8]);
    let greedy = problem.value(&greedy::choose(&problem).unwrap()).unwrap();
    assert_eq!(greedy.time, 44 * NS);
    let best = solve(&problem);
    assert_eq!(best.cost.time, 32 * NS);
    let proof = &best.proof;
    assert_eq!(
        (proof.greedy, proof.chosen, proof.bound),
        (44 * NS, 32 * NS, 32 * NS)
    );
    assert_eq!(
        (proof.gap(proof.greedy), proof.gap(proof.chosen)),
        (Some(375_000), Some(0))
    );
    assert_eq!(
        proof.to_string(),
        "greedy within 37.5000 % of the bound, the choice within 0.0000 %: 1 parts with a choice, 1 distinct"
    );
    let alone = extract(&problem, None).unwrap();
    assert_eq!((alone.cost.time, alone.proof.gap(44 * NS)), (44 * NS, None));
}

#[test]
fn equal_parts_are_solved_once() {
    // Three copies, each below the sum that the one before it makes.
    let mut classes: Vec<Vec<(u64, Vec<usize>)>> = vec![vec![(0, vec![])]];
    let mut input = 0;
    for _ in 0..3 {
        let first = classes.len();
        let at = |class: usize| if class == 9 { input } else { first + class };
        for alts in &COVER[..9] {
            let alts = alts
                .iter()
                .map(|(ns, operands)| (*ns, operands.iter().map(|operand| at(*operand)).collect()));
            classes.push(alts.collect());
        }
        input = classes.len();
        classes.push(vec![(5, (first + 3..first + 9).collect())]);
    }
    let classes: Vec<Vec<(u64, &[usize])>> = classes
        .iter()
        .map(|alts| alts.iter().map(|(ns, of)| (*ns, &of[..])).collect())
        .collect();
    let classes: Vec<&[(u64, &[usize])]> = classes.iter().map(Vec::as_slice).collect();
    let best = solve(&problem(&classes, &[input]));
    assert_eq!(best.cost.time, 3 * (32 + 5) * NS);
    assert_eq!((best.proof.parts, best.proof.distinct), (3, 1));
    assert_eq!(best.proof.bound, best.proof.chosen);
}

#[test]
fn values_that_could_be_computed_from_each_other_are_paid_for() {
    let two: Nodes<'_> = &[
        &[(10, &[3]), (0, &[1])],
        &[(12, &[3]), (0, &[2])],
        &[(14, &[3]), (0, &[0])],
        &[(0, &[])],
    ];
    let best = solve(&problem(two, &[0, 1, 2]));
    assert_eq!(best.cost.time, 10 * NS);
    assert_eq!(best.proof.bound, 10 * NS);
}

#[test]
fn a_limit_on_cycles_leaves_a_bound_and_the_greedy_choice() {
    let two: Nodes<'_> = &[
        &[(10, &[2]), (0, &[1])],
        &[(12, &[2]), (0, &[0])],
        &[(0, &[])],
    ];
    let effort = Effort {
        cuts: 0,
        ..Effort::default()
    };
    let left = extract(&problem(two, &[0, 1]), Some(&effort)).unwrap();
    // The first value alone can be had from the second; that the other way is better takes two moves.
    assert_eq!(left.cost.time, 12 * NS);
    assert_eq!(left.proof.open, ["stopped by the limit on cycles"]);
    assert!(left.proof.bound < 10 * NS);
}

#[test]
fn without_time_the_greedy_choice_stays_and_says_so() {
    let effort = Effort {
        guard: std::time::Duration::ZERO,
        ..Effort::default()
    };
    let left = extract(&problem(COVER, &[3, 4, 5, 6, 7, 8]), Some(&effort)).unwrap();
    assert_eq!(left.cost.time, 44 * NS);
    assert_eq!(left.proof.open, ["no time was left"]);
    assert!(
        left.proof
            .to_string()
            .ends_with("1 left open: no time was left")
    );
}

/// A random problem: later classes read earlier ones, and some could read later ones as well.
fn random(rng: &mut Rng) -> Problem {
    let count = 6 + rng.below(3);
    let mut classes: Vec<Class> = Vec::new();
    let op = |at: usize, number: usize, ns: u64, operands: Vec<usize>, results: usize| Alt {
        node: Node::Leaf(Op::Input {
            name: format!("{at}.{number}").into(),
        }),
        kind: AltKind::Op {
            operands,
            cost: OpCost::of_ns(ns, results),
        },
    };
    classes.push(class(0, vec![op(0, 0, 0, vec![], 1)], 1));
    while classes.len() < count {
        let at = classes.len();
        let before = |rng: &mut Rng| -> Vec<usize> {
            let values: Vec<usize> = (0..at).filter(|at| classes[*at].results == 1).collect();
            (0..1 + rng.below(2))
                .map(|_| values[rng.below(values.len())])
                .collect()
        };
        if rng.below(4) == 0 && at + 2 < count {
            let operands = before(rng);
            let ns = 1 + rng.below(20) as u64;
            classes.push(class(at, vec![op(at, 0, ns, operands, 2)], 2));
            for result in 0..2 {
                let of = at + 1 + result;
                let projection = Alt {
                    node: Node::Proj(result, [Id::from(at)]),
                    kind: AltKind::Projection { tuple: at, result },
                };
                let own = op(of, 0, 1 + rng.below(20) as u64, vec![0], 1);
                classes.push(class(of, vec![own, projection], 1));
            }
            continue;
        }
        let mut alts = Vec::new();
        for number in 0..2 + rng.below(2) {
            let mut operands = before(rng);
            if number > 0 && rng.below(3) == 0 {
                // Perhaps of a class that is not there, or of a tuple: dropped below.
                operands.push(rng.below(count));
            }
            alts.push(op(at, number, rng.below(20) as u64, operands, 1));
        }
        classes.push(class(at, alts, 1));
    }
    let values: Vec<bool> = classes.iter().map(|class| class.results == 1).collect();
    for class in &mut classes {
        for alt in &mut class.alts {
            if let AltKind::Op { operands, .. } = &mut alt.kind {
                operands.retain(|of| values.get(*of) == Some(&true));
            }
        }
    }
    let value = |rng: &mut Rng| loop {
        let at = rng.below(classes.len());
        if values[at] {
            return at;
        }
    };
    let roots = [value(rng), value(rng)];
    Problem::of_classes(classes, &roots)
}

/// The least cost of all choices, each tried.
fn least(problem: &Problem) -> Cost {
    let mut choice: Vec<Option<usize>> = vec![Some(0); problem.classes.len()];
    let mut least: Option<Cost> = None;
    loop {
        if let Some(value) = problem.value(&choice)
            && least.is_none_or(|least| value < least)
        {
            least = Some(value);
        }
        let next = (0..choice.len()).find(|class| {
            let alt = choice[*class].map_or(0, |alt| alt + 1);
            let wraps = alt == problem.classes[*class].alts.len();
            choice[*class] = Some(if wraps { 0 } else { alt });
            !wraps
        });
        if next.is_none() {
            return least.unwrap();
        }
    }
}

#[test]
fn small_problems_are_solved_as_if_every_choice_were_tried() {
    let mut rng = Rng::new(11);
    let mut better = 0;
    for case in 0..300 {
        let problem = random(&mut rng);
        let (best, least) = (solve(&problem), least(&problem));
        assert_eq!(best.cost.time, least.time, "case {case}");
        assert_eq!(best.proof.bound, least.time, "case {case}");
        better += usize::from(best.proof.chosen < best.proof.greedy);
    }
    // The programs have something to do.
    assert!(better > 0);
}
