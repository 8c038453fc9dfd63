//! Saturation: applies rules until nothing new is equal, and remembers which rule made which node.
//!
//! In comes the e-graph of an entry; out comes the same with every node that the rules reach. Caps count nodes and
//! rounds, never time, and matches are taken in the order of rules and class numbers: the same graph always
//! saturates to the same e-graph.

use std::collections::HashMap;

use egg::{Language, Searcher, Subst};

use super::analysis::Data;
use super::language::{EGraph, Node};
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
    rules: &[Compiled],
    caps: Caps,
) -> Result<History, String> {
    let mut history = History::default();
    graph.rebuild();
    while history.rounds < caps.rounds {
        history.rounds += 1;
        // All matches of a round are found before the first is applied, so that the order of rules does not
        // decide what a round sees.
        let mut found = Vec::new();
        for rule in rules {
            let mut matches = rule.searcher.search(graph);
            matches.sort_by_key(|m| m.eclass);
            for subst in matches.into_iter().flat_map(|m| m.substs) {
                let matched = matched_ops(graph, rule, &subst);
                found.push((rule, subst, matched));
            }
        }
        let mut changed = false;
        for (rule, subst, matched) in found {
            if graph.total_size() >= caps.nodes {
                graph.rebuild();
                return Ok(history);
            }
            changed |= apply(graph, rule, subst, matched, &mut history)?;
        }
        graph.rebuild();
        if !changed {
            history.saturated = true;
            break;
        }
    }
    Ok(history)
}

/// The ops of the left side, its root last. The e-graph is clean here, so each of them is found.
fn matched_ops(graph: &EGraph, rule: &Compiled, subst: &Subst) -> Vec<Node> {
    let mut ops = Vec::new();
    instantiate(&rule.searcher.ast, subst, |node| {
        if matches!(node, Node::Op(..)) {
            ops.push(node.clone());
        }
        graph.lookup(node)
    });
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
    let mut made = Vec::new();
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
        if a != b || matches!(a, Data::Ill(_)) {
            return Err(format!("rule `{}` equates {a:?} and {b:?}", rule.rule.name));
        }
        changed |= graph.union(left, right);
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
        });
    }
    Ok(makes || changed)
}
