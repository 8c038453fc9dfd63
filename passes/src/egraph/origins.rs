//! Where nodes come from: the author's graph, or a rule, and through which rules.
//!
//! A node that a rule made stands in for the root of what the rule matched. Following roots back ends at a node
//! of the author, which gives the new node its source location and its layer in reports.

use std::collections::{BTreeSet, HashMap};

use mcc_ir::graph::NodeId;

use super::convert::{Imported, Original};
use super::extract::Selection;
use super::language::{EGraph, Node};
use super::rules::RuleClass;
use super::saturate::{History, canonical};

/// Where each node of a saturated e-graph comes from.
pub(super) struct Origins<'a> {
    graph: &'a EGraph,
    /// The author's nodes.
    nodes: &'a [(Node, NodeId)],
    originals: &'a HashMap<Node, Original>,
    makers: HashMap<Node, usize>,
    history: &'a History,
}

/// A rewrite that the result depends on.
pub(super) struct Taken {
    /// Its place in the history.
    pub(super) step: usize,
    pub(super) rule: &'static str,
    pub(super) class: RuleClass,
    /// The author's node that it was applied to.
    pub(super) at: Option<NodeId>,
}

impl<'a> Origins<'a> {
    pub(super) fn new(
        imported: &'a Imported,
        originals: &'a HashMap<Node, Original>,
        history: &'a History,
    ) -> Origins<'a> {
        let makers = history.makers(&imported.graph);
        Origins {
            graph: &imported.graph,
            nodes: &imported.nodes,
            originals,
            makers,
            history,
        }
    }

    /// The author's node that a canonical node is, or stands in for.
    pub(super) fn author(&self, node: &Node) -> Option<NodeId> {
        let mut node = node.clone();
        // What a step matched was there before the step, so steps only go down.
        let mut step = self.history.steps.len();
        loop {
            if let Some(original) = self.originals.get(&node) {
                return Some(original.id);
            }
            let maker = self
                .makers
                .get(&node)
                .copied()
                .filter(|maker| *maker < step)?;
            step = maker;
            node = canonical(self.graph, self.history.steps[maker].matched.last()?);
        }
    }

    /// Every rewrite that the selection rests on, directly or through the nodes that a later one matched.
    pub(super) fn taken(&self, selection: &Selection) -> Vec<Taken> {
        let mut taken = BTreeSet::new();
        let mut stack: Vec<usize> = Vec::new();
        for node in selection.nodes() {
            if !self.originals.contains_key(node) {
                stack.extend(self.makers.get(node));
            }
        }
        for (at, step) in self
            .history
            .steps
            .iter()
            .enumerate()
            .filter(|(_, step)| !step.makes)
        {
            // Equal values found: taken where the author's op gave way to the other one.
            let Some(root) = step.matched.last().map(|root| canonical(self.graph, root)) else {
                continue;
            };
            let chosen = self
                .graph
                .lookup(root.clone())
                .and_then(|class| selection.node(class));
            if self.originals.contains_key(&root) && chosen.is_some_and(|chosen| *chosen != root) {
                stack.push(at);
            }
        }
        while let Some(step) = stack.pop() {
            if !taken.insert(step) {
                continue;
            }
            for node in &self.history.steps[step].matched {
                let node = canonical(self.graph, node);
                if !self.originals.contains_key(&node) {
                    stack.extend(self.makers.get(&node).filter(|maker| **maker < step));
                }
            }
        }
        let steps = taken.into_iter().map(|at| (at, &self.history.steps[at]));
        let at = |root: &Node| self.author(&canonical(self.graph, root));
        steps
            .map(|(number, step)| Taken {
                step: number,
                rule: step.rule.name,
                class: step.rule.class,
                at: step.matched.last().and_then(at),
            })
            .collect()
    }

    /// The step that made a canonical node, if the author did not write it.
    pub(super) fn maker(&self, node: &Node) -> Option<usize> {
        let written = self.originals.contains_key(node);
        self.makers.get(node).copied().filter(|_| !written)
    }

    /// The nodes that a step made first, in the order of their text.
    pub(super) fn made(&self, step: usize) -> Vec<&Node> {
        let made = self.makers.iter().filter(|(_, maker)| **maker == step);
        let mut made: Vec<&Node> = made.map(|(node, _)| node).collect();
        made.sort_unstable();
        made
    }

    /// The author's ops that compute the same as an older one, and thus went away.
    pub(super) fn duplicates(&self) -> impl Iterator<Item = NodeId> {
        let first = |node: &Node| {
            let original = self.originals.get(&canonical(self.graph, node));
            original.map(|original| original.id)
        };
        self.nodes
            .iter()
            .filter(move |(node, id)| matches!(node, Node::Op(..)) && first(node) != Some(*id))
            .map(|(_, id)| *id)
    }
}
