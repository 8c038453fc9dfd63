//! Graphs: order, uses, replacement, dead code, equality, expansions.

use std::collections::HashSet;

use mcc_ir::graph::{ReplaceError, Use};
use mcc_ir::{F32, Graph, Module, Op, SourceLoc, ValueId, verify};

use crate::sample::EVERYTHING;

fn input(g: &mut Graph, name: &str, ty: &str) -> ValueId {
    g.input(name, ty.parse().unwrap()).unwrap()
}

fn add(g: &mut Graph, a: ValueId, b: ValueId) -> ValueId {
    g.add1(Op::Add, &[a, b], None).unwrap()
}

/// x -> a = x + y -> b = a + a
fn small() -> (Graph, [ValueId; 4]) {
    let mut g = Graph::new("e");
    let x = input(&mut g, "x", "bf16[T, 8]");
    let y = input(&mut g, "y", "bf16[T, 8]");
    let a = add(&mut g, x, y);
    let b = add(&mut g, a, a);
    g.output("b", b);
    (g, [x, y, a, b])
}

#[test]
fn operands_and_users_keep_their_order() {
    let (g, [x, y, a, b]) = small();
    assert_eq!(g.operands(a.node), [x, y]);
    assert_eq!(g.operands(b.node), [a, a]);
    assert_eq!(
        g.users(a),
        [
            Use {
                node: b.node,
                operand: 0
            },
            Use {
                node: b.node,
                operand: 1
            }
        ]
    );
    assert_eq!(g.users(b), []);
    assert_eq!(g.ty(b).to_string(), "bf16[T, 8]");
    assert_eq!(*g.def(b), Op::Add);
}

#[test]
fn users_tell_results_apart() {
    let mut g = Graph::new("e");
    let x = input(&mut g, "x", "bf16[T, 8]");
    let w = input(&mut g, "w", "bf16[8]");
    let v = g
        .add(
            Op::RmsNormQuantize {
                eps: F32::new(1e-6),
            },
            &[x, w],
            None,
        )
        .unwrap();
    let d = g.add1(Op::Dequantize, &[v[1]], None).unwrap();
    assert_eq!(g.users(v[0]), []);
    assert_eq!(
        g.users(v[1]),
        [Use {
            node: d.node,
            operand: 0
        }]
    );
}

#[test]
fn topological_order_puts_every_node_after_its_operands() {
    let module: Module = EVERYTHING.parse().unwrap();
    for g in &module.entries {
        let order = g.topo();
        assert_eq!(order.len(), g.len());
        let mut seen = HashSet::new();
        for id in order {
            assert!(g.operands(id).iter().all(|v| seen.contains(&v.node)));
            seen.insert(id);
        }
    }
}

#[test]
fn replacing_uses_covers_ops_and_outputs() {
    let (mut g, [x, y, a, b]) = small();
    g.replace_all_uses(a, y).unwrap();
    assert_eq!(g.operands(b.node), [y, y]);
    assert_eq!(g.users(a), []);
    g.replace_all_uses(b, x).unwrap();
    assert_eq!(g.outputs, [("b".into(), x)]);
    assert_eq!(g.dead_code_eliminate(), 2);
    assert_eq!(g.len(), 2, "inputs stay");
}

#[test]
fn replacement_refuses_cycles_types_and_strangers() {
    let (mut g, [x, _, a, b]) = small();
    assert_eq!(
        g.replace_all_uses(a, b),
        Err(ReplaceError::Cycle { old: a, new: b })
    );
    assert_eq!(
        g.replace_all_uses(x, b),
        Err(ReplaceError::Cycle { old: x, new: b })
    );
    let z = input(&mut g, "z", "bf16[C, 8]");
    assert!(matches!(
        g.replace_all_uses(a, z),
        Err(ReplaceError::Type { .. })
    ));
    let stranger = ValueId {
        node: a.node,
        result: 1,
    };
    assert_eq!(
        g.replace_all_uses(stranger, x),
        Err(ReplaceError::Unknown { value: stranger })
    );
    assert!(g.add(Op::Quantize, &[stranger], None).is_err());
}

#[test]
fn a_replacement_made_later_still_prints_in_order() {
    let (mut g, [x, y, a, _]) = small();
    // The new op is younger than the op that will read it.
    let c = add(&mut g, y, x);
    g.replace_all_uses(a, c).unwrap();
    g.dead_code_eliminate();
    assert_eq!(
        g.to_string(),
        "entry @e(x: bf16[T, 8], y: bf16[T, 8]) {\n  %0 = add %y, %x : bf16[T, 8]\n  %1 = add %0, %0 : bf16[T, 8]\n  return b = %1\n}\n"
    );
    let text = format!("mir 1 model \"m\" dim T: 1..=2 {g}");
    assert_eq!(text.parse::<Module>().unwrap().entries[0], g);
}

#[test]
fn dead_code_goes_and_live_code_stays() {
    let mut module: Module = EVERYTHING.parse().unwrap();
    let g = module.entry_mut("everything").unwrap();
    let before = g.len();
    g.outputs.retain(|(name, _)| &**name == "next");
    let removed = g.dead_code_eliminate();
    assert_eq!(g.len(), before - removed);
    let left: HashSet<_> = g.topo().into_iter().map(|n| g.op(n).mnemonic()).collect();
    assert!(
        left.contains("sample")
            && left.contains("mla_cache_write")
            && !left.contains("cache_write")
    );
    assert_eq!(g.dead_code_eliminate(), 0);
    assert_eq!(verify(&module), Ok(()));
}

#[test]
fn equality_ignores_locations_and_ids_but_nothing_else() {
    let (g, _) = small();
    let mut same = Graph::new("e");
    let x = input(&mut same, "x", "bf16[T, 8]");
    let y = input(&mut same, "y", "bf16[T, 8]");
    let dead = add(&mut same, y, y);
    let loc = SourceLoc {
        file: "f.rs".into(),
        line: 1,
        column: 2,
    };
    let a = same.add1(Op::Add, &[x, y], Some(loc)).unwrap();
    let b = add(&mut same, a, a);
    same.output("b", b);
    assert_ne!(same, g, "an op more");
    same.replace_all_uses(dead, a).unwrap();
    same.dead_code_eliminate();
    assert_eq!(same, g);

    let (mut other, [x, y, ..]) = small();
    other.outputs[0].1 = x;
    assert_ne!(other, g, "another output");
    let (mut other, [_, _, a, _]) = small();
    other.replace_all_uses(x, y).unwrap();
    assert_ne!(other, g, "another operand");
    assert_eq!(other.operands(a.node), [y, y]);
}

#[test]
fn fused_ops_expand_to_plain_ops_of_the_same_types() {
    let module: Module = EVERYTHING.parse().unwrap();
    let mut g = module.entries[0].clone();
    let mut expanded = 0;
    for id in g.topo() {
        let op = g.op(id).clone();
        let operands = g.operands(id);
        let before = g.len();
        let Some(values) = op.expand(&mut g, &operands, None).unwrap() else {
            assert!(!op.is_fused());
            continue;
        };
        expanded += 1;
        assert_eq!(
            values.iter().map(|v| g.ty(*v).clone()).collect::<Vec<_>>(),
            g.node(id).results,
            "{op}"
        );
        for (old, new) in g.results(id).collect::<Vec<_>>().into_iter().zip(values) {
            g.replace_all_uses(old, new).unwrap();
        }
        assert!(g.len() > before);
    }
    assert_eq!(expanded, 14);
    g.dead_code_eliminate();
    assert!(g.topo().into_iter().all(|n| !g.op(n).is_fused()));
}
