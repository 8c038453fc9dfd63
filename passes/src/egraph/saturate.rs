//! Saturation: applies rules until nothing new is equal, and remembers which rule made which node.
//!
//! In comes the e-graph of an entry; out comes the same with every node that the rules reach. Caps count nodes and
//! rounds, never time, and matches are taken in the order of rules and class numbers: the same graph always
//! saturates to the same e-graph. Matches that the author has forbidden are none (`pins.rs`).

use std::collections::HashMap;

use egg::{Id, Language, Subst};

use super::language::{EGraph, Node};
use super::pins::Pins;
use super::rules::{Compiled, Match, Rule, instantiate};

/// Limits of saturation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    /// E-nodes, attributes included.
    pub(super) nodes: usize,
    /// Rounds over all rules.
    pub(super) rounds: usize,
}

/// One application of a rule that changed the e-graph.
#[derive(Debug)]
pub(super) struct Step {
    /// The rule.
    pub(super) rule: &'static Rule,
    /// Ops that the left side matched, its root last.
    pub(super) matched: Vec<Node>,
    /// Whether it made a node; otherwise it found two nodes equal that were there.
    pub(super) makes: bool,
    /// The classes of its left sides.
    pub(super) merged: Vec<Id>,
}

/// What saturation did.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Rounds over all rules.
    pub(super) rounds: usize,
    /// Whether the rules had nothing left to add; false when a cap was reached first.
    pub(super) saturated: bool,
    /// Every application that made a node or merged two classes.
    pub(super) steps: Vec<Step>,
    /// The nodes made, and the step that made each, in order.
    made: Vec<(Node, usize)>,
}

impl History {
    /// Which step made a node first, by canonical node.
    pub(super) fn makers(&self, graph: &EGraph) -> HashMap<Node, usize> {
        let mut makers = HashMap::new();
        for (node, step) in &self.made {
            makers.entry(canonical(graph, node)).or_insert(*step);
        }
        makers
    }
}

/// The node with its children's present class numbers.
pub(super) fn canonical(graph: &EGraph, node: &Node) -> Node {
    node.clone().map_children(|id| graph.find(id))
}

/// Applies the rules until they add nothing or a cap is reached.
///
/// # Errors
/// A rule whose sides have different types, as a sentence: a bug of the rule.
pub(super) fn saturate(
    graph: &mut EGraph,
    rules: &[&Compiled],
    pins: &mut Pins,
    caps: Caps,
) -> Result<History, String> {
    let mut history = History::default();
    graph.rebuild();
    while history.rounds < caps.rounds {
        history.rounds += 1;
        // All matches of a round are found before the first is applied, so that the order of rules does not
        // decide what a round sees.
        let mut found = Vec::new();
        pins.rebuild(graph);
        for rule in rules {
            for subst in rule.search(graph) {
                let matched = matched_ops(graph, rule, &subst);
                if let Some(pin) = pins.allow(rule.rule, &matched) {
                    found.push((rule, subst, matched, pin));
                }
            }
        }
        let mut changed = false;
        for (rule, subst, matched, pin) in found {
            if graph.total_size() >= caps.nodes {
                graph.rebuild();
                return Ok(history);
            }
            let made = history.made.len();
            changed |= apply(graph, rule, subst, matched, &mut history)?;
            for (node, _) in &history.made[made..] {
                pins.made(node.clone(), &pin);
            }
        }
        graph.rebuild();
        if !changed {
            history.saturated = true;
            break;
        }
    }
    Ok(history)
}

/// The ops of the left sides, the root of the last one at the end. The e-graph is clean here, so each of them is
/// found.
fn matched_ops(graph: &EGraph, rule: &Compiled, subst: &Subst) -> Vec<Node> {
    let mut ops = Vec::new();
    for pattern in rule.searched() {
        instantiate(pattern, subst, |node| {
            if matches!(node, Node::Op(..)) {
                ops.push(node.clone());
            }
            graph.lookup(node)
        });
    }
    ops
}

/// Makes both sides of each equation equal; whether that changed anything.
fn apply(
    graph: &mut EGraph,
    rule: &Compiled,
    mut subst: Subst,
    matched: Vec<Node>,
    history: &mut History,
) -> Result<bool, String> {
    if (rule.rule.when)(&mut Match {
        graph,
        subst: &mut subst,
    })
    .is_none()
    {
        return Ok(false);
    }
    let mut changed = false;
    let (mut made, mut merged) = (Vec::new(), Vec::new());
    for (left, right) in &rule.equations {
        let mut side = |pattern| {
            instantiate(pattern, &subst, |node| {
                let size = graph.total_size();
                let id = graph.add(node.clone());
                if graph.total_size() > size && matches!(node, Node::Op(..)) {
                    made.push(node);
                }
                Some(id)
            })
        };
        let (Some(left), Some(right)) = (side(left), side(right)) else {
            return Err(format!(
                "rule `{}` uses a variable that nothing binds",
                rule.rule.name
            ));
        };
        let (a, b) = (&graph[left].data, &graph[right].data);
        if !a.agrees(b) {
            return Err(format!("rule `{}` equates {a:?} and {b:?}", rule.rule.name));
        }
        changed |= graph.union(left, right);
        merged.push(left);
    }
    let makes = !made.is_empty();
    if makes || changed {
        let step = history.steps.len();
        history
            .made
            .extend(made.into_iter().map(|node| (node, step)));
        history.steps.push(Step {
            rule: rule.rule,
            matched,
            makes,
            merged,
        });
    }
    Ok(makes || changed)
}
