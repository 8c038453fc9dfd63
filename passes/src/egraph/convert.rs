//! Graph to e-graph and back.
//!
//! In: an entry. [`import`] adds its ops in topological order; equal ops become one node, so one `quantize` of a
//! value serves all of its users from here on. Out: [`export`] writes the ops that extraction chose, in the order
//! in which the author wrote what they compute, with the author's source locations.

use std::collections::{HashMap, HashSet};

use egg::Id;
use mcc_ir::graph::{Graph, NodeId, SourceLoc, ValueId};
use mcc_ir::marks::Marks;
use mcc_ir::module::Module;
use mcc_ir::op::Op;

use super::analysis::Types;
use super::extract::Selection;
use super::language::{EGraph, Node};
use super::saturate::canonical;

/// An entry in the e-graph.
pub(super) struct Imported {
    /// The e-graph.
    pub(super) graph: EGraph,
    /// The class of each value.
    pub(super) values: HashMap<ValueId, Id>,
    /// Ops in topological order, each before the projections from it: the e-node, and the author's node.
    pub(super) nodes: Vec<(Node, NodeId)>,
}

/// A node of the author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Original {
    /// Larger than the ages of its operands.
    pub(super) age: usize,
    /// In the entry.
    pub(super) id: NodeId,
}

/// Adds an entry of a module to a new e-graph.
pub(super) fn import(module: &Module, entry: &Graph) -> Imported {
    import_into(EGraph::new(Types::of(module)), entry)
}

/// Adds an entry to an e-graph; its leaves are those of the same name there.
pub(super) fn import_into(mut graph: EGraph, entry: &Graph) -> Imported {
    let order = entry.topo();
    for id in order.iter().copied().filter(|id| entry.op(*id).is_leaf()) {
        graph
            .analysis
            .leaves
            .insert(entry.op(id).clone(), entry.node(id).results[0].clone());
    }
    let mut values = HashMap::new();
    let mut nodes = Vec::new();
    for id in order {
        let operands: Vec<Id> = entry
            .operands(id)
            .iter()
            .map(|value| values[value])
            .collect();
        let node = Node::of_op(&mut graph, entry.op(id), &operands);
        let class = graph.add(node.clone());
        nodes.push((node, id));
        let results = entry.results(id);
        if results.len() == 1 {
            values.extend(results.map(|value| (value, class)));
        } else {
            for value in results {
                let projection = Node::Proj(value.result, [class]);
                values.insert(value, graph.add(projection.clone()));
                nodes.push((projection, id));
            }
        }
    }
    graph.rebuild();
    Imported {
        graph,
        values,
        nodes,
    }
}

impl Imported {
    /// The classes of the values that the entry computes: new states, then outputs.
    pub(super) fn roots(&self, entry: &Graph) -> Vec<Id> {
        let named = entry.updates.iter().chain(&entry.outputs);
        named
            .map(|(_, value)| self.graph.find(self.values[value]))
            .collect()
    }

    /// The author's first node for each canonical e-node.
    pub(super) fn originals(&self) -> HashMap<Node, Original> {
        let mut originals = HashMap::new();
        for (age, (node, id)) in self.nodes.iter().enumerate() {
            let original = Original { age, id: *id };
            originals
                .entry(canonical(&self.graph, node))
                .or_insert(original);
        }
        originals
    }
}

/// Writes the selected ops as an entry.
///
/// # Errors
/// A selection that is incomplete or does not type-check, as a sentence: a bug of extraction.
pub(super) fn export(
    module: &Module,
    entry: &Graph,
    imported: &Imported,
    selection: &Selection,
    loc: impl Fn(&Node) -> Option<SourceLoc>,
    marks: impl Fn(&Node) -> Marks,
) -> Result<Graph, String> {
    let mut writer = Writer {
        module,
        imported,
        selection,
        loc,
        marks,
        out: Graph::new(&entry.name),
        done: HashMap::new(),
    };
    for (name, value) in entry.inputs() {
        let class = imported.graph.find(imported.values[&value]);
        let input = writer
            .out
            .input(name, entry.ty(value).clone())
            .map_err(|error| error.to_string())?;
        writer.done.insert(class, vec![input]);
    }
    // Following the author's order keeps the result close to the input, op by op.
    for (_, id) in &imported.nodes {
        for class in entry.results(*id).map(|value| imported.values[&value]) {
            writer.write(imported.graph.find(class))?;
        }
    }
    let named = |values: &[(mcc_ir::Name, ValueId)]| -> Result<Vec<_>, String> {
        let of = |value| writer.value(imported.graph.find(imported.values[value]));
        values
            .iter()
            .map(|(name, value)| Ok((name.clone(), of(value)?)))
            .collect()
    };
    let (updates, outputs) = (named(&entry.updates)?, named(&entry.outputs)?);
    let mut out = writer.out;
    (out.updates, out.outputs) = (updates, outputs);
    out.allow = entry.allow;
    out.dead_code_eliminate();
    Ok(out)
}

struct Writer<'a, L, M> {
    module: &'a Module,
    imported: &'a Imported,
    selection: &'a Selection,
    loc: L,
    marks: M,
    out: Graph,
    /// Results of the classes written so far; several for a tuple.
    done: HashMap<Id, Vec<ValueId>>,
}

impl<L: Fn(&Node) -> Option<SourceLoc>, M: Fn(&Node) -> Marks> Writer<'_, L, M> {
    /// Writes a class after the classes that its chosen node reads, if the class is selected.
    fn write(&mut self, class: Id) -> Result<(), String> {
        // A stack of our own: a chain of ops may be longer than the thread's stack allows.
        let mut stack = vec![class];
        let mut waiting = HashSet::new();
        while let Some(class) = stack.last().copied() {
            let Some(node) = self.selection.node(class) else {
                stack.pop();
                continue;
            };
            if self.done.contains_key(&class) {
                stack.pop();
                continue;
            }
            let graph = &self.imported.graph;
            let (op, operands) = match node {
                Node::Proj(_, [tuple]) => (None, vec![*tuple]),
                node => {
                    let (op, operands) = node
                        .to_op(graph)
                        .ok_or_else(|| format!("`{node}` was chosen as an op"))?;
                    (Some(op), operands)
                }
            };
            let missing: Vec<Id> = operands
                .iter()
                .map(|id| graph.find(*id))
                .filter(|id| !self.done.contains_key(id))
                .collect();
            if !missing.is_empty() {
                waiting.insert(class);
                if missing
                    .iter()
                    .any(|id| waiting.contains(id) || self.selection.node(*id).is_none())
                {
                    return Err(format!(
                        "`{node}` was chosen without its operands, or reads itself"
                    ));
                }
                stack.extend(missing.into_iter().rev());
                continue;
            }
            stack.pop();
            waiting.remove(&class);
            let results = match (op, node) {
                (None, Node::Proj(result, [tuple])) => {
                    let results = &self.done[&graph.find(*tuple)];
                    vec![
                        *results
                            .get(*result)
                            .ok_or_else(|| format!("no result {result} of a chosen tuple"))?,
                    ]
                }
                (Some(op), node) => {
                    let operands = operands
                        .iter()
                        .map(|id| self.value(graph.find(*id)))
                        .collect::<Result<Vec<_>, _>>()?;
                    let results = self.add(op, &operands, (self.loc)(node))?;
                    if let Some(value) = results.first() {
                        self.out.mark(value.node, (self.marks)(node));
                    }
                    results
                }
                (None, _) => Vec::new(),
            };
            self.done.insert(class, results);
        }
        Ok(())
    }

    fn add(
        &mut self,
        op: Op,
        operands: &[ValueId],
        loc: Option<SourceLoc>,
    ) -> Result<Vec<ValueId>, String> {
        match &op {
            Op::Param { name } => {
                let param = self
                    .module
                    .param(name)
                    .ok_or_else(|| format!("no parameter `{name}`"))?;
                Ok(vec![self.out.param(param)])
            }
            Op::State { name } => {
                let state = self
                    .module
                    .state(name)
                    .ok_or_else(|| format!("no state `{name}`"))?;
                Ok(vec![self.out.state(state)])
            }
            // Inputs are written first, in the order of the entry.
            Op::Input { name } => Err(format!("the entry has no input `{name}`")),
            _ => self
                .out
                .add(op, operands, loc)
                .map_err(|error| error.to_string()),
        }
    }

    fn value(&self, class: Id) -> Result<ValueId, String> {
        match self.done.get(&class).map(Vec::as_slice) {
            Some([value]) => Ok(*value),
            _ => Err(format!("class {class} was not written as one value")),
        }
    }
}
