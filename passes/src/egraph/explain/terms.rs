//! Text of classes and nodes, with the author's names: `%12` is the value that the printed entry calls so.

use std::collections::HashMap;

use egg::Id;
use mcc_ir::graph::{Graph, NodeId, ValueId};
use mcc_ir::op::Op;

use crate::egraph::Work;
use crate::egraph::analysis::Data;
use crate::egraph::language::{EGraph, Node};

/// How deep a value without a name is spelled out.
const DEPTH: usize = 3;

/// Names of an entry's values.
pub(super) struct Terms<'a> {
    work: &'a Work,
    names: HashMap<Id, String>,
}

impl<'a> Terms<'a> {
    pub(super) fn new(entry: &Graph, work: &'a Work) -> Terms<'a> {
        let numbers = numbers(entry);
        let mut names: HashMap<Id, (usize, String)> = HashMap::new();
        for (value, class) in &work.imported.values {
            let class = work.imported.graph.find(*class);
            // Of several values that are equal, the author's first; a leaf before all.
            let named = match numbers.get(value) {
                Some(number) => (number + 1, format!("%{number}")),
                None => (0, entry.def(*value).to_string()),
            };
            names
                .entry(class)
                .and_modify(|known| {
                    if named < *known {
                        known.clone_from(&named);
                    }
                })
                .or_insert(named);
        }
        let names = names.into_iter().map(|(class, (_, name))| (class, name));
        Terms {
            work,
            names: names.collect(),
        }
    }

    fn graph(&self) -> &EGraph {
        &self.work.imported.graph
    }

    /// The author's name of a class's value.
    pub(super) fn name(&self, class: Id) -> Option<&str> {
        self.names
            .get(&self.graph().find(class))
            .map(String::as_str)
    }

    /// A class's value: its name, or what computes it.
    pub(super) fn class(&self, class: Id) -> String {
        self.class_to(class, DEPTH)
    }

    fn class_to(&self, class: Id, depth: usize) -> String {
        let class = self.graph().find(class);
        if let Some(name) = self.names.get(&class) {
            return name.clone();
        }
        let chosen = self.work.selection.node(class);
        let node = chosen.or_else(|| self.graph()[class].nodes.first());
        match node {
            Some(node) if depth > 0 => format!("({})", self.node_to(node, depth - 1)),
            _ => "(..)".to_owned(),
        }
    }

    /// A node with its operands' names: `add_rms_norm %3, %7, @norm {eps = 1e-6}`.
    pub(super) fn node(&self, node: &Node) -> String {
        self.node_to(node, DEPTH)
    }

    fn node_to(&self, node: &Node, depth: usize) -> String {
        if let Node::Proj(result, [tuple]) = node {
            let tuple = self.graph().find(*tuple);
            let chosen = self.work.selection.node(tuple);
            let of = chosen.or_else(|| self.graph()[tuple].nodes.first());
            let of = of.map_or_else(|| "(..)".to_owned(), |of| self.node_to(of, depth));
            return format!("result {result} of {of}");
        }
        let Some((op, operands)) = node.to_op(self.graph()) else {
            return node.to_string();
        };
        let operands: Vec<String> = operands
            .iter()
            .map(|operand| self.class_to(*operand, depth))
            .collect();
        spelled(&op, &operands)
    }

    /// Nodes that belong together, each with what it computes and after those that it reads. Values that the author has no
    /// name for are called `%a`, `%b`, ..
    pub(super) fn lines(&self, nodes: &[Node]) -> Vec<String> {
        let graph = self.graph();
        let reads = |node: &Node, class: Id| {
            let results = match &graph[class].data {
                Data::Tuple(types) => types.len(),
                _ => 0,
            };
            let operands = node.to_op(graph).map(|(_, operands)| operands);
            let mut operands = operands.into_iter().flatten();
            operands.any(|operand| {
                let operand = graph.find(operand);
                // Of a tuple it reads a result.
                let result = |result| graph.lookup(Node::Proj(result, [class]));
                operand == class || (0..results).any(|at| result(at) == Some(operand))
            })
        };
        let mut left: Vec<(Option<Id>, &Node)> = nodes
            .iter()
            .map(|node| (graph.lookup(node.clone()).map(|id| graph.find(id)), node))
            .collect();
        let mut named = Terms {
            work: self.work,
            names: self.names.clone(),
        };
        let mut lines = Vec::new();
        let mut letters = 'a'..='z';
        while !left.is_empty() {
            // The first that reads none of the others; where they all do, the first.
            let next = left.iter().position(|(own, node)| {
                let mut others = left.iter().filter(|(class, _)| class != own);
                !others.any(|(class, _)| class.is_some_and(|class| reads(node, class)))
            });
            let (class, node) = left.remove(next.unwrap_or(0));
            if let Some(class) = class
                && graph[class].data.ty().is_some()
                && !named.names.contains_key(&class)
                && let Some(letter) = letters.next()
            {
                named.names.insert(class, format!("%{letter}"));
            }
            lines.push(named.line(node));
        }
        lines
    }

    /// A node with what it computes: `%8, %9 = add_rms_norm %3, %7, @norm {eps = 1e-6}`; `_` for a result without a name.
    pub(super) fn line(&self, node: &Node) -> String {
        let graph = self.graph();
        let Some(class) = graph.lookup(node.clone()) else {
            return self.node(node);
        };
        let name = |class: Option<Id>| match class.and_then(|class| self.name(class)) {
            Some(name) => name.to_owned(),
            None => "_".to_owned(),
        };
        let results: Vec<String> = match &graph[class].data {
            Data::Tuple(types) => (0..types.len())
                .map(|result| name(graph.lookup(Node::Proj(result, [class]))))
                .collect(),
            _ => vec![name(Some(class))],
        };
        format!("{} = {}", results.join(", "), self.node(node))
    }
}

/// `add_rms_norm %3, %7, @norm {eps = 1e-6}`
fn spelled(op: &Op, operands: &[String]) -> String {
    if op.is_leaf() {
        return op.to_string();
    }
    let text = op.to_string();
    let attrs = text.strip_prefix(op.mnemonic()).unwrap_or_default();
    let mut out = op.mnemonic().to_owned();
    for (at, operand) in operands.iter().enumerate() {
        out.push_str(if at == 0 { " " } else { ", " });
        out.push_str(operand);
    }
    out + attrs
}

/// The number of each result of an op in the printed entry.
fn numbers(entry: &Graph) -> HashMap<ValueId, usize> {
    let ops = entry
        .topo()
        .into_iter()
        .filter(|id| !entry.op(*id).is_leaf());
    let values = ops.flat_map(|id| entry.results(id));
    values
        .enumerate()
        .map(|(number, value)| (value, number))
        .collect()
}

/// The line of each op in the printed entry.
pub(super) fn lines(entry: &Graph) -> Vec<(NodeId, String)> {
    let text = entry.to_string();
    let ops = entry
        .topo()
        .into_iter()
        .filter(|id| !entry.op(*id).is_leaf());
    // The first line is the entry's head, and each op has a line of its own.
    let lines = text.lines().skip(1).map(|line| line.trim().to_owned());
    ops.zip(lines).collect()
}
