//! The order of launches: topological, with in-place state writes after every read of the old value.
//!
//! In: a graph whose ops all run or are views. Out: its nodes in an order such that operands come first, and no
//! op reads a state through a value that was already overwritten. Ties keep the order of `Graph::topo`, so
//! equal graphs give equal programs. When no such order exists, the graph needs a copy of the state, which no
//! kernel makes: that is the author's error, named by the op that reads too late.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use mcc_ir::{Graph, NodeId, Op, ValueId};

/// An op reads the old value of a state but can only run after it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAfterWrite {
    /// The op that reads.
    pub reader: NodeId,
    /// The op that overwrites.
    pub writer: NodeId,
    /// The value that is gone.
    pub old: ValueId,
}

/// Orders the nodes of a graph.
pub fn order(graph: &Graph) -> Result<Vec<NodeId>, ReadAfterWrite> {
    let topo = graph.topo();
    let rank: BTreeMap<NodeId, usize> = topo
        .iter()
        .enumerate()
        .map(|(i, node)| (*node, i))
        .collect();
    let mut after: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
    let mut blockers: BTreeMap<NodeId, usize> = topo.iter().map(|node| (*node, 0)).collect();
    let mut edge = |before: NodeId, then: NodeId| {
        if after.entry(before).or_default().insert(then) {
            *blockers.entry(then).or_default() += 1;
        }
    };
    for &node in &topo {
        for operand in graph.operands(node) {
            edge(operand.node, node);
        }
    }
    let hazards = hazards(graph, &topo);
    for hazard in &hazards {
        edge(hazard.reader, hazard.writer);
    }

    let mut ready: BinaryHeap<Reverse<usize>> = topo
        .iter()
        .filter(|node| blockers[node] == 0)
        .map(|node| Reverse(rank[node]))
        .collect();
    let mut order = Vec::with_capacity(topo.len());
    while let Some(Reverse(next)) = ready.pop() {
        let node = topo[next];
        order.push(node);
        for then in after.get(&node).into_iter().flatten() {
            if let Some(left) = blockers.get_mut(then) {
                *left -= 1;
                if *left == 0 {
                    ready.push(Reverse(rank[then]));
                }
            }
        }
    }
    if order.len() == topo.len() {
        return Ok(order);
    }
    // The graph alone has no cycle, so a hazard closes it, and its two ends are stuck.
    let stuck = |node: NodeId| blockers.get(&node).is_some_and(|left| *left > 0);
    match hazards
        .into_iter()
        .find(|h| stuck(h.reader) && stuck(h.writer))
    {
        Some(hazard) => Err(hazard),
        None => Ok(topo),
    }
}

/// The operand that an op overwrites in place.
pub fn overwritten(graph: &Graph, node: NodeId) -> Option<ValueId> {
    match graph.op(node) {
        Op::CacheWrite | Op::MlaCacheWrite { .. } => graph.operands(node).first().copied(),
        Op::WeightGrad { .. } => graph.operands(node).get(3).copied(),
        _ => None,
    }
}

/// For each op that overwrites a value: the other ops that read its bytes, directly or through views.
fn hazards(graph: &Graph, topo: &[NodeId]) -> Vec<ReadAfterWrite> {
    let mut hazards = Vec::new();
    for &writer in topo {
        let Some(old) = overwritten(graph, writer) else {
            continue;
        };
        let mut aliases = vec![old];
        while let Some(alias) = aliases.pop() {
            for user in graph.users(alias) {
                if matches!(graph.op(user.node), Op::Slice { .. } | Op::Reshape { .. }) {
                    aliases.extend(graph.results(user.node));
                } else if user.node != writer {
                    hazards.push(ReadAfterWrite {
                        reader: user.node,
                        writer,
                        old,
                    });
                }
            }
        }
    }
    hazards
}
