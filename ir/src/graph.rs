//! A graph: one entry point as typed SSA over a petgraph DAG.
//!
//! Nodes are ops with their result types; edges are uses (which result feeds which operand). Holds always:
//! result types are what the op's row infers, operands exist, there is no cycle. Every iteration order is
//! deterministic. Two graphs are equal when they compute the same ops in the same order, whatever their node
//! ids and source locations.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::fmt;

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use thiserror::Error;

use crate::marks::{Freedom, Marks};
use crate::module::{ModuleError, Param, State};
use crate::op::{Op, Place, TypeError};
use crate::types::{Name, Type};

/// Where the author wrote an op.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceLoc {
    /// Source file.
    pub file: Name,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
}

impl fmt::Display for SourceLoc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A node of one graph; stays valid while other nodes come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NodeIndex);

impl NodeId {
    /// A number that is unique in its graph, for tables on the side.
    #[must_use]
    pub fn index(self) -> usize {
        self.0.index()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.index())
    }
}

/// A value: one result of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId {
    /// The node that computes it.
    pub node: NodeId,
    /// Which of its results.
    pub result: usize,
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.result)
    }
}

/// An op in a graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// Types of its results.
    pub results: Vec<Type>,
    /// Where its author wrote it.
    pub loc: Option<SourceLoc>,
    /// What its author says to the optimiser.
    pub marks: Marks,
}

/// A use of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Use {
    /// The node that reads it.
    pub node: NodeId,
    /// At which operand.
    pub operand: usize,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    result: usize,
    operand: usize,
}

/// One entry point of a module.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// `prefill`, `decode`.
    pub name: Name,
    /// What the optimiser may do to ops that say nothing else; `None`: what the module says.
    pub allow: Option<Freedom>,
    /// New values of states, each at most once, applied when the entry ends.
    pub updates: Vec<(Name, ValueId)>,
    /// Named results.
    pub outputs: Vec<(Name, ValueId)>,
    inputs: Vec<ValueId>,
    leaves: BTreeMap<(LeafKind, Name), NodeId>,
    body: StableDiGraph<Node, Edge>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LeafKind {
    Input,
    Param,
    State,
}

/// A value cannot take another's place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplaceError {
    /// Their types differ.
    #[error("cannot replace a value of type {old} by one of type {new}")]
    Type {
        /// Type of the replaced value.
        old: Type,
        /// Type of its replacement.
        new: Type,
    },
    /// The replacement is computed from a use of the replaced value.
    #[error("cannot replace {old} by {new}, which is computed from it")]
    Cycle {
        /// The replaced value.
        old: ValueId,
        /// Its replacement.
        new: ValueId,
    },
    /// One of them is not in the graph.
    #[error("{value} is not a value of this graph")]
    Unknown {
        /// The value.
        value: ValueId,
    },
}

impl Graph {
    /// An entry without ops.
    pub fn new(name: impl Into<Name>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Adds an input after the ones before it.
    ///
    /// # Errors
    /// When the name is taken by another input, or the type is malformed.
    pub fn input(&mut self, name: impl Into<Name>, ty: Type) -> Result<ValueId, ModuleError> {
        let name = name.into();
        match ty.check() {
            Ok(()) => self.value_at_run_time(name, ty),
            Err(why) => Err(ModuleError::BadType { name, ty, why }),
        }
    }

    /// An input for one value, whose axes may be empty.
    pub(crate) fn value_at_run_time(
        &mut self,
        name: Name,
        ty: Type,
    ) -> Result<ValueId, ModuleError> {
        if self.leaves.contains_key(&(LeafKind::Input, name.clone())) {
            return Err(ModuleError::Duplicate {
                kind: "input",
                name,
            });
        }
        let value = self.leaf(LeafKind::Input, &name, &ty);
        self.inputs.push(value);
        Ok(value)
    }

    /// The value of a parameter; the same one each time.
    pub fn param(&mut self, param: &Param) -> ValueId {
        self.leaf(LeafKind::Param, &param.name, &param.ty)
    }

    /// The value that a state has when the entry starts; the same one each time.
    pub fn state(&mut self, state: &State) -> ValueId {
        self.leaf(LeafKind::State, &state.name, &state.ty)
    }

    fn leaf(&mut self, kind: LeafKind, name: &Name, ty: &Type) -> ValueId {
        let body = &mut self.body;
        let node = *self.leaves.entry((kind, name.clone())).or_insert_with(|| {
            let name = name.clone();
            let op = match kind {
                LeafKind::Input => Op::Input { name },
                LeafKind::Param => Op::Param { name },
                LeafKind::State => Op::State { name },
            };
            NodeId(body.add_node(Node {
                op,
                results: vec![ty.clone()],
                loc: None,
                marks: Marks::default(),
            }))
        });
        ValueId { node, result: 0 }
    }

    /// Adds an op; its result types are inferred.
    ///
    /// # Errors
    /// When the operands or attributes do not fit the op.
    pub fn add(
        &mut self,
        op: Op,
        operands: &[ValueId],
        loc: Option<SourceLoc>,
    ) -> Result<Vec<ValueId>, TypeError> {
        let mut types = Vec::with_capacity(operands.len());
        for (i, value) in operands.iter().enumerate() {
            types.push(self.get(*value).cloned().ok_or_else(|| {
                TypeError {
                    op: op.mnemonic(),
                    at: Place::Operand(
                        op.row()
                            .map_or_else(|| format!("#{i}"), |row| row.operand_name(i)),
                    ),
                    expected: "a value of this graph".into(),
                    got: value.to_string(),
                }
            })?);
        }
        let results = op.infer(&types)?;
        let count = results.len();
        let node = NodeId(self.body.add_node(Node {
            op,
            results,
            loc,
            marks: Marks::default(),
        }));
        for (operand, value) in operands.iter().enumerate() {
            self.body.add_edge(
                value.node.0,
                node.0,
                Edge {
                    result: value.result,
                    operand,
                },
            );
        }
        Ok((0..count).map(|result| ValueId { node, result }).collect())
    }

    /// Sets what the author says about an op.
    ///
    /// # Panics
    /// When the node is not in the graph.
    pub fn mark(&mut self, id: NodeId, marks: Marks) {
        self.body[id.0].marks = marks;
    }

    /// Adds an op and gives its first result.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn add1(
        &mut self,
        op: Op,
        operands: &[ValueId],
        loc: Option<SourceLoc>,
    ) -> Result<ValueId, TypeError> {
        Ok(self.add(op, operands, loc)?[0])
    }

    /// Names the new value of a state.
    pub fn update(&mut self, state: impl Into<Name>, value: ValueId) {
        self.updates.push((state.into(), value));
    }

    /// Names a result.
    pub fn output(&mut self, name: impl Into<Name>, value: ValueId) {
        self.outputs.push((name.into(), value));
    }

    /// Inputs in the order of their declaration.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (&Name, ValueId)> {
        self.inputs
            .iter()
            .map(|value| match &self.node(value.node).op {
                Op::Input { name } => (name, *value),
                op => unreachable!("inputs are made by Graph::input alone, not from {op}"),
            })
    }

    /// The node.
    ///
    /// # Panics
    /// When the id is of another graph, or the node was removed.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.body[id.0]
    }

    /// The op of a node.
    ///
    /// # Panics
    /// As [`Graph::node`].
    #[must_use]
    pub fn op(&self, id: NodeId) -> &Op {
        &self.body[id.0].op
    }

    /// The type of a value, if this graph has it.
    #[must_use]
    pub fn get(&self, value: ValueId) -> Option<&Type> {
        self.body
            .node_weight(value.node.0)?
            .results
            .get(value.result)
    }

    /// The type of a value.
    ///
    /// # Panics
    /// When the value is of another graph, or its node was removed.
    #[must_use]
    pub fn ty(&self, value: ValueId) -> &Type {
        &self.body[value.node.0].results[value.result]
    }

    /// The op that computes a value.
    ///
    /// # Panics
    /// As [`Graph::ty`].
    #[must_use]
    pub fn def(&self, value: ValueId) -> &Op {
        self.op(value.node)
    }

    /// All results of a node.
    ///
    /// # Panics
    /// As [`Graph::node`].
    pub fn results(&self, id: NodeId) -> impl ExactSizeIterator<Item = ValueId> + use<> {
        (0..self.node(id).results.len()).map(move |result| ValueId { node: id, result })
    }

    /// Operands of a node, in order.
    #[must_use]
    pub fn operands(&self, id: NodeId) -> Vec<ValueId> {
        let mut edges: Vec<_> = self
            .body
            .edges_directed(id.0, Incoming)
            .map(|e| {
                (
                    e.weight().operand,
                    ValueId {
                        node: NodeId(e.source()),
                        result: e.weight().result,
                    },
                )
            })
            .collect();
        edges.sort_unstable();
        edges.into_iter().map(|(_, value)| value).collect()
    }

    /// Uses of a value by ops (not by updates and outputs), in the order of node ids.
    #[must_use]
    pub fn users(&self, value: ValueId) -> Vec<Use> {
        let mut users: Vec<_> = self
            .body
            .edges_directed(value.node.0, Outgoing)
            .filter(|e| e.weight().result == value.result)
            .map(|e| Use {
                node: NodeId(e.target()),
                operand: e.weight().operand,
            })
            .collect();
        users.sort_unstable();
        users
    }

    /// Number of nodes, leaves included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.node_count()
    }

    /// Whether there is no node at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body.node_count() == 0
    }

    /// Every node after the nodes that it reads: inputs as declared, parameters and states by name, then ops by
    /// age as far as their operands allow.
    #[must_use]
    pub fn topo(&self) -> Vec<NodeId> {
        let mut order: Vec<NodeId> = self.inputs.iter().map(|v| v.node).collect();
        order.extend(
            self.leaves
                .iter()
                .filter(|((kind, _), _)| *kind != LeafKind::Input)
                .map(|(_, node)| *node),
        );
        let mut missing: HashMap<NodeIndex, usize> = HashMap::new();
        let mut ready = BinaryHeap::new();
        for node in self.body.node_indices() {
            if self.body[node].op.is_leaf() {
                continue;
            }
            let from_ops = self
                .body
                .edges_directed(node, Incoming)
                .filter(|e| !self.body[e.source()].op.is_leaf())
                .count();
            match from_ops {
                0 => ready.push(Reverse(node)),
                n => {
                    missing.insert(node, n);
                }
            }
        }
        while let Some(Reverse(node)) = ready.pop() {
            order.push(NodeId(node));
            for edge in self.body.edges_directed(node, Outgoing) {
                if let Some(n) = missing.get_mut(&edge.target()) {
                    *n -= 1;
                    if *n == 0 {
                        ready.push(Reverse(edge.target()));
                    }
                }
            }
        }
        order
    }

    /// Makes every use of `old`, by ops, updates and outputs, a use of `new`. The node of `old` stays.
    ///
    /// # Errors
    /// When their types differ, or `new` is computed from a use of `old`.
    pub fn replace_all_uses(&mut self, old: ValueId, new: ValueId) -> Result<(), ReplaceError> {
        let old_ty = self.get(old).ok_or(ReplaceError::Unknown { value: old })?;
        let new_ty = self.get(new).ok_or(ReplaceError::Unknown { value: new })?;
        if old_ty != new_ty {
            return Err(ReplaceError::Type {
                old: old_ty.clone(),
                new: new_ty.clone(),
            });
        }
        if old == new {
            return Ok(());
        }
        let users = self.users(old);
        let above = self.ancestors([new.node]);
        if users.iter().any(|user| above.contains(&user.node)) {
            return Err(ReplaceError::Cycle { old, new });
        }
        let edges: Vec<_> = self
            .body
            .edges_directed(old.node.0, Outgoing)
            .filter(|e| e.weight().result == old.result)
            .map(|e| (e.id(), e.target(), e.weight().operand))
            .collect();
        for (edge, target, operand) in edges {
            self.body.remove_edge(edge);
            self.body.add_edge(
                new.node.0,
                target,
                Edge {
                    result: new.result,
                    operand,
                },
            );
        }
        for (_, value) in self.updates.iter_mut().chain(&mut self.outputs) {
            if *value == old {
                *value = new;
            }
        }
        Ok(())
    }

    /// The nodes and everything that they are computed from.
    fn ancestors(&self, roots: impl IntoIterator<Item = NodeId>) -> HashSet<NodeId> {
        let mut seen = HashSet::new();
        let mut stack: Vec<NodeId> = roots.into_iter().collect();
        while let Some(node) = stack.pop() {
            if seen.insert(node) {
                stack.extend(self.body.neighbors_directed(node.0, Incoming).map(NodeId));
            }
        }
        seen
    }

    /// Removes every op, parameter and state that no update or output needs; inputs stay. Returns the number of
    /// removed nodes.
    pub fn dead_code_eliminate(&mut self) -> usize {
        let live = self.ancestors(
            self.updates
                .iter()
                .chain(&self.outputs)
                .map(|(_, v)| v.node),
        );
        let before = self.body.node_count();
        self.leaves
            .retain(|(kind, _), node| *kind == LeafKind::Input || live.contains(node));
        self.body.retain_nodes(|body, node| {
            live.contains(&NodeId(node)) || matches!(body[node].op, Op::Input { .. })
        });
        before - self.body.node_count()
    }
}

/// Structural: the same inputs, ops in topological order, updates and outputs; node ids, source locations and
/// unused parameters do not count.
impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        if (&self.name, self.allow) != (&other.name, other.allow)
            || self.inputs.len() != other.inputs.len()
        {
            return false;
        }
        let ops = |g: &Self| -> Vec<NodeId> {
            g.topo()
                .into_iter()
                .filter(|n| !g.op(*n).is_leaf())
                .collect()
        };
        let (ours, theirs) = (ops(self), ops(other));
        if ours.len() != theirs.len() {
            return false;
        }
        let twin: HashMap<NodeId, NodeId> =
            ours.iter().copied().zip(theirs.iter().copied()).collect();
        let same_value = |a: &ValueId, b: &ValueId| match twin.get(&a.node) {
            Some(node) => *node == b.node && a.result == b.result,
            None => {
                let (a, b) = (self.node(a.node), other.node(b.node));
                a.op == b.op && a.results == b.results
            }
        };
        let same_names = |a: &[(Name, ValueId)], b: &[(Name, ValueId)]| {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|((m, a), (n, b))| m == n && same_value(a, b))
        };
        self.inputs
            .iter()
            .zip(&other.inputs)
            .all(|(a, b)| same_value(a, b))
            && ours.iter().zip(&theirs).all(|(a, b)| {
                let (m, n) = (self.node(*a), other.node(*b));
                let (xs, ys) = (self.operands(*a), other.operands(*b));
                (&m.op, &m.marks, &m.results) == (&n.op, &n.marks, &n.results)
                    && xs.len() == ys.len()
                    && xs.iter().zip(&ys).all(|(x, y)| same_value(x, y))
            })
            && same_names(&self.updates, &other.updates)
            && same_names(&self.outputs, &other.outputs)
    }
}
