//! Kinds of layers, and what was chosen in each.

use std::collections::{BTreeMap, HashMap, HashSet};

use egg::Id;
use mcc_ir::graph::{Graph, NodeId};

use super::terms::{self, Terms};
use super::{Alternative, Applied, Drawn, Kind, Sends};
use crate::egraph::Work;
use crate::egraph::cost::{Copies, CostModel, Sums};
use crate::egraph::extract::{self, Effort, Problem};
use crate::egraph::language::Node;
use crate::egraph::origins::{Origins, Taken};
use crate::egraph::report::{self, Layer};

/// The name of what is in no layer.
const OUTSIDE: &str = "outside of layers";

/// Names of an entry's layers.
pub(super) fn names(entry: &Graph) -> Vec<String> {
    let mut layers: Vec<Layer> = report::layers(entry).into_values().collect();
    layers.sort_unstable();
    layers.dedup();
    layers.iter().map(Layer::to_string).collect()
}

/// Kinds of an entry's layers by their ops as written: all of them, and the one in the middle.
pub(super) fn kinds_of(entry: &Graph) -> Vec<(String, String)> {
    let layers = report::layers(entry);
    let mut ops: BTreeMap<&Layer, Vec<String>> = BTreeMap::new();
    for id in entry
        .topo()
        .into_iter()
        .filter(|id| !entry.op(*id).is_leaf())
    {
        if let Some(layer) = layers.get(&id) {
            ops.entry(layer).or_default().push(signature(entry, id));
        }
    }
    let mut kinds: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for (layer, ops) in ops {
        match kinds.iter_mut().find(|(known, _)| *known == ops) {
            Some((_, layers)) => layers.push(layer.to_string()),
            None => kinds.push((ops, vec![layer.to_string()])),
        }
    }
    let shown = |layers: Vec<String>| (report::ranges(&layers), layers[layers.len() / 2].clone());
    kinds.into_iter().map(|(_, layers)| shown(layers)).collect()
}

/// An op with its types, without the names of leaves.
fn signature(graph: &Graph, id: NodeId) -> String {
    let types: Vec<String> = graph
        .node(id)
        .results
        .iter()
        .map(ToString::to_string)
        .collect();
    format!("{} : {}", graph.op(id), types.join(", "))
}

/// An optimised entry, as explanations see it.
pub(super) struct View<'a> {
    pub(super) entry: &'a Graph,
    pub(super) work: &'a Work,
    pub(super) origins: &'a Origins<'a>,
    model: &'a CostModel<'a>,
    pub(super) terms: Terms<'a>,
    pub(super) taken: Vec<Taken>,
    /// The layer of each op of the author.
    layers: HashMap<NodeId, Layer>,
    /// The layer of each class with an op.
    of_class: HashMap<Id, Option<Layer>>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        entry: &'a Graph,
        work: &'a Work,
        origins: &'a Origins<'a>,
        model: &'a CostModel<'a>,
    ) -> View<'a> {
        let layers = report::layers(entry);
        let mut of_class = HashMap::new();
        for class in work.problem.classes() {
            // The author's own node, or what a rule put in the place of one of his.
            let nodes = || work.problem.nodes(class);
            let own = nodes().find(|node| work.originals.contains_key(*node));
            let author = own
                .or_else(|| nodes().next())
                .and_then(|node| origins.author(node));
            if let Some(author) = author.filter(|_| !work.problem.is_leaf(class)) {
                of_class.insert(class, layers.get(&author).cloned());
            }
        }
        View {
            entry,
            work,
            origins,
            model,
            terms: Terms::new(entry, work),
            taken: origins.taken(&work.selection),
            layers,
            of_class,
        }
    }

    /// The layer that a class is of; outer `None` for leaves.
    pub(super) fn layer_of(&self, class: Id) -> Option<&Option<Layer>> {
        self.of_class.get(&class)
    }

    /// The part of the problem that decides about a layer.
    pub(super) fn window(&self, layer: Option<&Layer>) -> Problem {
        let problem = &self.work.problem;
        problem.window(|class| {
            let of = self.of_class.get(&class);
            of.is_some_and(|of| of.as_ref() == layer)
        })
    }

    /// Layers that are alike, by their ops before and after.
    pub(super) fn groups(&self) -> Vec<Vec<Option<Layer>>> {
        let mut signatures: BTreeMap<Option<Layer>, Vec<String>> = BTreeMap::new();
        let after = report::layers(&self.work.result);
        for (graph, layers) in [(self.entry, &self.layers), (&self.work.result, &after)] {
            for id in graph
                .topo()
                .into_iter()
                .filter(|id| !graph.op(*id).is_leaf())
            {
                let of = signatures.entry(layers.get(&id).cloned()).or_default();
                of.push(signature(graph, id));
            }
            for of in signatures.values_mut() {
                of.push("then".to_owned());
            }
        }
        let outside = signatures.remove(&None);
        let mut groups: Vec<(Vec<String>, Vec<Option<Layer>>)> = Vec::new();
        for (layer, signature) in signatures {
            match groups.iter_mut().find(|(known, _)| *known == signature) {
                Some((_, layers)) => layers.push(layer),
                None => groups.push((signature, vec![layer])),
            }
        }
        let mut groups: Vec<_> = groups.into_iter().map(|(_, layers)| layers).collect();
        groups.extend(outside.map(|_| vec![None]));
        groups
    }

    /// What was chosen in each kind of layer, or in that of one layer.
    pub(super) fn kinds(&self, only: Option<&str>) -> Result<Vec<Kind>, String> {
        let named = |layer: &Option<Layer>| match layer {
            Some(layer) => layer.to_string(),
            None => OUTSIDE.to_owned(),
        };
        let mut kinds = Vec::new();
        for group in self.groups() {
            let shown = match only {
                None => &group[group.len() / 2],
                Some(name) => match group.iter().find(|layer| named(layer) == name) {
                    Some(layer) => layer,
                    None => continue,
                },
            };
            let all: Vec<String> = group.iter().flatten().map(Layer::to_string).collect();
            let layers = match &group[..] {
                [None] => OUTSIDE.to_owned(),
                _ => report::ranges(&all),
            };
            kinds.push(self.kind(shown.as_ref(), layers, group.len(), named(shown))?);
        }
        Ok(kinds)
    }

    fn kind(
        &self,
        layer: Option<&Layer>,
        layers: String,
        count: usize,
        shown: String,
    ) -> Result<Kind, String> {
        let window = self.window(layer);
        let here = |at: Option<NodeId>| at.is_some_and(|at| self.layers.get(&at) == layer);
        let after = report::layers(&self.work.result);
        let text = |graph: &Graph, layers: &HashMap<NodeId, Layer>| -> Vec<String> {
            let lines = terms::lines(graph).into_iter();
            let lines = lines.filter(|(id, _)| layers.get(id) == layer);
            lines.map(|(_, line)| line).collect()
        };
        // Rewrites of the neighbours are there from the start: what they save is theirs.
        let makes = |taken: &Taken| self.origins.made(taken.step).into_iter().cloned();
        let (mine, others): (Vec<&Taken>, Vec<&Taken>) =
            self.taken.iter().partition(|taken| here(taken.at));
        let mut allowed: HashSet<Node> = others.into_iter().flat_map(makes).collect();
        let graph = &self.work.imported.graph;
        let mut rewrites = Vec::new();
        for taken in mine {
            // Nothing changes but the parts that its nodes are in.
            let made: Vec<Id> = makes(taken).filter_map(|node| graph.lookup(node)).collect();
            let parts = window.window(|class| made.iter().any(|id| graph.find(*id) == class));
            let best = |allowed: &HashSet<Node>| {
                let restricted = parts.restricted(|node| {
                    // What no rule made may be chosen: the author's, and projections.
                    allowed.contains(node) || self.origins.maker(node).is_none()
                });
                let selection = extract::extract(&restricted, Some(&Effort::default()))?;
                Ok::<_, String>(parts.sums(&selection))
            };
            let before = best(&allowed)?;
            allowed.extend(makes(taken));
            let saved = before - best(&allowed)?;
            let step = &self.work.history.steps[taken.step];
            let matched = step.matched.iter();
            let matched = matched.map(|node| self.canonical(node));
            rewrites.push(Applied {
                rule: taken.rule.to_owned(),
                class: taken.class,
                at: taken
                    .at
                    .and_then(|at| self.entry.node(at).loc.as_ref())
                    .map(ToString::to_string),
                before: matched.map(|node| self.terms.line(&node)).collect(),
                after: self.terms.lines(&makes(taken).collect::<Vec<_>>()),
                saved,
            });
        }
        let duplicates = self.origins.duplicates().filter(|id| here(Some(*id)));
        let lines: HashMap<NodeId, String> = terms::lines(self.entry).into_iter().collect();
        Ok(Kind {
            layers,
            count,
            shown,
            before: text(self.entry, &self.layers),
            after: text(&self.work.result, &after),
            written: self.sums(self.entry, &self.layers, layer),
            chosen: self.sums(&self.work.result, &after, layer),
            sends: self.sends(layer, &after),
            duplicates: duplicates
                .filter_map(|id| lines.get(&id).cloned())
                .collect(),
            rewrites,
            alternatives: self.alternatives(layer, &window),
            picture: self.picture(&window),
        })
    }

    /// What a layer's own ops launch and move.
    fn sums(&self, graph: &Graph, layers: &HashMap<NodeId, Layer>, layer: Option<&Layer>) -> Sums {
        let mut sums = Sums::default();
        for (id, cost, used) in self.model.of_graph(graph) {
            if layers.get(&id) == layer {
                sums.add(&cost, |result| used[result]);
            }
        }
        sums
    }

    /// Ops of a layer that send rows, as chosen beside as written.
    fn sends(&self, layer: Option<&Layer>, after: &HashMap<NodeId, Layer>) -> Vec<Sends> {
        let of = |graph: &Graph, layers: &HashMap<NodeId, Layer>| -> Vec<_> {
            let ops = graph
                .topo()
                .into_iter()
                .filter(|id| layers.get(id) == layer);
            ops.filter_map(|id| {
                let operands = graph.operands(id);
                let types: Vec<_> = operands.iter().map(|value| graph.ty(*value)).collect();
                let sent = self.model.sent(graph.op(id), &types)?;
                Some((graph.op(id).mnemonic(), sent))
            })
            .filter(|(_, sent)| sent.copies.nvlink + sent.copies.ib > 0)
            .collect()
        };
        // There is one way there and one back, in this order, whatever they are fused with.
        let written = of(self.entry, &self.layers);
        let chosen = of(&self.work.result, after).into_iter().enumerate();
        chosen
            .map(|(at, (op, sent))| Sends {
                op: op.to_owned(),
                row_bytes: (
                    written.get(at).map_or(0, |(_, sent)| sent.row_bytes),
                    sent.row_bytes,
                ),
                nvlink_copies: Copies::thousandths(sent.copies.nvlink),
                ib_copies: Copies::thousandths(sent.copies.ib),
            })
            .collect()
    }

    /// Nodes of the layer's values that were not chosen.
    fn alternatives(&self, layer: Option<&Layer>, window: &Problem) -> Vec<Alternative> {
        let mut all = Vec::new();
        for class in window.classes() {
            let of = self.of_class.get(&class);
            let Some(chosen) = self.work.selection.node(class) else {
                continue;
            };
            if of.is_none_or(|of| of.as_ref() != layer) {
                continue;
            }
            for node in window.nodes(class).filter(|node| *node != chosen) {
                all.push(Alternative {
                    value: self.terms.class(class),
                    chosen: self.terms.node(chosen),
                    node: self.terms.node(node),
                    rule: self.rule_of(node),
                    more: self.more(window, class, node),
                });
            }
        }
        all.sort_by_key(|lost| lost.more.map_or(i128::MAX, |more| more.time));
        all
    }

    /// What the best choice with that node takes more than the choice; `None` where it would read itself.
    pub(super) fn more(&self, window: &Problem, class: Id, node: &Node) -> Option<Sums> {
        let parts = window.window(|id| id == class);
        let forced = parts.forced(class, node)?;
        let selection = extract::extract(&forced, Some(&Effort::default())).ok()?;
        Some(parts.sums(&selection) - parts.sums(&self.work.selection))
    }

    /// The rule that found a node; a result is found with its tuple.
    pub(super) fn rule_of(&self, node: &Node) -> Option<String> {
        let maker = match node {
            Node::Proj(_, [tuple]) => {
                let mut nodes = self
                    .work
                    .problem
                    .nodes(self.work.imported.graph.find(*tuple));
                nodes.find_map(|node| self.origins.maker(node))
            }
            node => self.origins.maker(node),
        };
        maker.map(|step| self.work.history.steps[step].rule.name.to_owned())
    }

    pub(super) fn canonical(&self, node: &Node) -> Node {
        crate::egraph::saturate::canonical(&self.work.imported.graph, node)
    }

    fn picture(&self, window: &Problem) -> Vec<Drawn> {
        let graph = &self.work.imported.graph;
        let drawn = window.classes().map(|class| {
            let given = window.is_leaf(class);
            let chosen = self.work.selection.node(class);
            let nodes = window.nodes(class).filter(|_| !given).map(|node| {
                let operands = match node {
                    Node::Proj(_, [tuple]) => vec![*tuple],
                    node => node
                        .to_op(graph)
                        .map_or_else(Vec::new, |(_, operands)| operands),
                };
                let reads = operands.iter().map(|id| usize::from(graph.find(*id)));
                let text = match node {
                    Node::Proj(result, _) => format!("result {result}"),
                    Node::Op(mnemonic, _) => (*mnemonic).to_owned(),
                    node => self.terms.node(node),
                };
                (text, chosen == Some(node), reads.collect())
            });
            Drawn {
                class: usize::from(class),
                name: self.terms.name(class).unwrap_or_default().to_owned(),
                given,
                nodes: nodes.collect(),
            }
        });
        drawn.collect()
    }
}
