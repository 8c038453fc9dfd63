//! Which dispatches, weights and expert parameters of an entry belong together.
//!
//! In: an entry as the optimiser left it. Out: its dispatches whose rows are used, each with the weights of its
//! routing; those whose rows are not used stand for another of the same experts. An exchange takes the weights along
//! with the rows, so that each dispatch has weights, and one set of them.

use std::collections::BTreeMap;

use mcc_ir::{Dim, Graph, Module, Name, NodeId, Op, ValueId};

use super::bound;
use crate::error::PassError;

/// A dispatch of the plain graph.
pub(super) struct Routing {
    /// The op.
    pub node: NodeId,
    /// Rows that are sent.
    pub x: ValueId,
    /// Experts of each token.
    pub experts: ValueId,
    /// Their weights.
    pub weights: ValueId,
    /// Logical experts.
    pub n_experts: u32,
    /// Experts a token.
    pub top_k: u32,
    /// Parameters of the experts that read its rows.
    pub params: Vec<Name>,
}

/// All dispatches of an entry.
pub(super) struct Routings {
    /// In topological order.
    pub all: Vec<Routing>,
    /// Which of them each dispatch of the graph is.
    index: BTreeMap<NodeId, usize>,
    /// The extents of their tokens.
    tokens: Vec<Dim>,
}

impl Routings {
    pub(super) fn of(graph: &Graph) -> Result<Self, PassError> {
        let mut routings = Self {
            all: Vec::new(),
            index: BTreeMap::new(),
            tokens: Vec::new(),
        };
        let dispatches: Vec<(NodeId, u32)> = graph
            .topo()
            .into_iter()
            .filter_map(|node| match graph.op(node) {
                Op::Dispatch { n_experts } => Some((node, *n_experts)),
                _ => None,
            })
            .collect();
        let sends = |node: NodeId| !graph.users(ValueId { node, result: 0 }).is_empty();
        for &(node, n_experts) in dispatches.iter().filter(|(node, _)| sends(*node)) {
            let [x, experts] = graph.operands(node)[..] else {
                continue;
            };
            let same: Vec<NodeId> = dispatches
                .iter()
                .map(|(other, _)| *other)
                .filter(|other| *other == node || graph.operands(*other).get(1) == Some(&experts))
                .collect();
            let weights = weights(graph, node, &same)?;
            let top_k = graph.ty(experts).last().and_then(Dim::as_const);
            routings
                .tokens
                .extend(graph.ty(experts).shape.first().cloned());
            routings.all.push(Routing {
                node,
                x,
                experts,
                weights,
                n_experts,
                top_k: top_k
                    .and_then(|k| u32::try_from(k).ok())
                    .unwrap_or(u32::MAX),
                params: params(graph, &same),
            });
            let own = routings.all.len() - 1;
            routings.index.insert(node, own);
            for other in same {
                if !sends(other) {
                    routings.index.entry(other).or_insert(own);
                }
            }
        }
        Ok(routings)
    }

    /// The exchange whose offsets or slots a value is: `result` of a dispatch.
    pub(super) fn whose(&self, value: ValueId, result: usize) -> Option<usize> {
        let own = self.index.get(&value.node).copied();
        own.filter(|_| value.result == result)
    }

    pub(super) fn most_tokens(&self, module: &Module) -> u64 {
        self.tokens
            .iter()
            .map(|dim| bound(module, dim))
            .max()
            .unwrap_or(1)
    }
}

/// The weights that the combines of a routing use.
fn weights(graph: &Graph, node: NodeId, same: &[NodeId]) -> Result<ValueId, PassError> {
    let mut found: Option<ValueId> = None;
    for dispatch in same {
        for user in graph.users(ValueId {
            node: *dispatch,
            result: 2,
        }) {
            // `combine*(y, slots, weights, ..)` and `row_weights(slots, weights)`.
            let weights = match graph.op(user.node) {
                Op::CombineSum => None,
                _ => graph.operands(user.node).get(user.operand + 1).copied(),
            };
            match (found, weights) {
                (Some(one), Some(other)) if one != other => {
                    return Err(PassError::unsupported(
                        graph,
                        user.node,
                        other,
                        "rows take their weights along, and this routing has other ones elsewhere",
                        "use one set of weights for a choice of experts",
                    ));
                }
                _ => found = found.or(weights),
            }
        }
    }
    found.ok_or_else(|| {
        PassError::unsupported(
            graph,
            node,
            ValueId { node, result: 2 },
            "nothing weights the rows on their way back",
            "end the routed layer with `combine(y, slots, weights)`",
        )
    })
}

/// Parameters that are the weights of grouped products over the rows of a routing.
fn params(graph: &Graph, same: &[NodeId]) -> Vec<Name> {
    let mut names = Vec::new();
    for dispatch in same {
        for user in graph.users(ValueId {
            node: *dispatch,
            result: 1,
        }) {
            if let Some(w) = graph.operands(user.node).get(1)
                && let Op::Param { name } = graph.op(w.node)
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        }
    }
    names.sort();
    names
}
