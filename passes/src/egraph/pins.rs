//! The author's word on ops, in the e-graph: which rules may look at which nodes.
//!
//! In: the marks of a graph. While rules are applied, [`Pins::allow`] says whether a rule may use a match, and nodes
//! that it makes inherit what was said about those that it matched: what is forbidden for an op is forbidden for what
//! became of it. An op that two others make is under the word of both.
//!
//! Freedom is that of all ops that a rule looks at. That is not enough by itself: a rule may find that the value it
//! changes the rounding of is also one that the author wrote elsewhere, where every bit counts. [`Pins::strained`]
//! finds the rules that did so; the caller saturates again without them.

use std::collections::{BTreeSet, HashMap};

use egg::Id;
use mcc_ir::graph::Graph;
use mcc_ir::marks::{Freedom, Marks};
use mcc_ir::module::Module;
use mcc_ir::types::Name;

use super::convert::Imported;
use super::language::{EGraph, Node};
use super::rules::Rule;
use super::saturate::{History, canonical};

/// What is said about one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    freedom: Freedom,
    keep: bool,
    never: BTreeSet<Name>,
}

impl Pin {
    /// Nothing is forbidden.
    fn free() -> Pin {
        Pin {
            freedom: Freedom::ALL,
            keep: false,
            never: BTreeSet::new(),
        }
    }

    /// What holds of a node that is under the word of both.
    fn and(&mut self, other: &Pin) {
        self.freedom = self.freedom.and(other.freedom);
        self.keep |= other.keep;
        self.never.extend(other.never.iter().cloned());
    }
}

/// What is said about the nodes of an e-graph.
#[derive(Debug, Default)]
pub(super) struct Pins {
    of: HashMap<Node, Pin>,
    /// The strictest freedom of the author's values, by the class that each had when it was added.
    values: Vec<(Id, Freedom)>,
}

impl Pins {
    /// What the author says, and where he says nothing the freedom of the entry.
    pub(super) fn new(module: &Module, entry: &Graph, imported: &Imported) -> Pins {
        let mut pins = Pins::default();
        for (node, id) in &imported.nodes {
            if entry.op(*id).is_leaf() {
                continue;
            }
            let (marks, freedom) = (&entry.node(*id).marks, module.freedom(entry, *id));
            let node = canonical(&imported.graph, node);
            if let Some(class) = imported.graph.lookup(node.clone()) {
                pins.values.push((class, freedom));
            }
            let pin = Pin {
                freedom,
                keep: marks.keep,
                never: marks.never.iter().cloned().collect(),
            };
            pins.pin(node, &pin);
        }
        pins
    }

    fn pin(&mut self, node: Node, pin: &Pin) {
        self.of
            .entry(node)
            .and_modify(|known| known.and(pin))
            .or_insert_with(|| pin.clone());
    }

    /// Writes nodes anew with the present class numbers; nodes that have become equal are under the word of each.
    pub(super) fn rebuild(&mut self, graph: &EGraph) {
        for (node, pin) in std::mem::take(&mut self.of) {
            self.pin(canonical(graph, &node), &pin);
        }
    }

    /// What the nodes that a rule makes of these are under; `None` where the rule may not use them.
    pub(super) fn allow(&self, rule: &Rule, matched: &[Node]) -> Option<Pin> {
        let mut all = Pin::free();
        for pin in matched.iter().filter_map(|node| self.of.get(node)) {
            all.and(pin);
        }
        let allowed = !all.keep
            && rule.class.is_allowed(all.freedom)
            && !all.never.iter().any(|name| *name == *rule.name);
        allowed.then_some(all)
    }

    /// A node that a rule made.
    pub(super) fn made(&mut self, node: Node, pin: &Pin) {
        self.of.entry(node).or_insert_with(|| pin.clone());
    }

    /// The author's word on a canonical node, or what it inherited, where an entry's ops have the freedom `default`.
    pub(super) fn marks(&self, node: &Node, default: Freedom) -> Marks {
        let Some(pin) = self.of.get(node) else {
            return Marks::default();
        };
        Marks {
            allow: (pin.freedom != default).then_some(pin.freedom),
            keep: pin.keep,
            never: pin.never.iter().cloned().collect(),
        }
    }

    /// Names of the rules that changed a value which the author wants as it is.
    pub(super) fn strained(&self, graph: &EGraph, history: &History) -> BTreeSet<&'static str> {
        let mut freedom: HashMap<Id, Freedom> = HashMap::new();
        for (class, of) in &self.values {
            let strictest = freedom.entry(graph.find(*class)).or_insert(Freedom::ALL);
            *strictest = strictest.and(*of);
        }
        let strained = history.steps.iter().filter(|step| {
            step.merged.iter().any(|class| {
                let allowed = freedom.get(&graph.find(*class));
                allowed.is_some_and(|freedom| !step.rule.class.is_allowed(*freedom))
            })
        });
        strained.map(|step| step.rule.name).collect()
    }

    /// Leaves classes that the author pinned only the op that he wrote.
    pub(super) fn keep(&mut self, graph: &mut EGraph) {
        self.rebuild(graph);
        let kept = |node: &Node| self.of.get(node).is_some_and(|pin| pin.keep);
        let canonical_nodes: HashMap<Id, Vec<Node>> = graph
            .classes()
            .map(|class| {
                let nodes = class.nodes.iter().map(|node| canonical(graph, node));
                (class.id, nodes.filter(kept).collect::<Vec<_>>())
            })
            .filter(|(_, kept)| !kept.is_empty())
            .collect();
        for (class, nodes) in canonical_nodes {
            graph[class].nodes = nodes;
        }
    }
}
