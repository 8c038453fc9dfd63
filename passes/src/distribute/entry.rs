//! One entry: every op again, on the values that its operands have become.
//!
//! Ops that know nothing of ranks stay as they are; those on rows of experts infer their types anew from rows that
//! other ranks sent. An op that cannot (its shape counts on the rows of one rank) is refused, by name.

use std::collections::{BTreeMap, BTreeSet};

use mcc_ir::exchange::ExpertGroup;
use mcc_ir::{Graph, Module, NodeId, Op, ValueId};

use super::Plan;
use super::routing::{Routing, Routings};
use super::share::Shares;
use crate::error::PassError;

/// Rows of two hops come in multiples of this: a tile of any product.
const CAPACITY_STEP: u64 = 128;

/// The entry that each rank runs.
pub(super) fn rewrite(
    module: &Module,
    old: &Graph,
    plan: &Plan,
    routings: &Routings,
    shares: &Shares<'_>,
) -> Result<Graph, PassError> {
    let mut new = Graph::new(old.name.clone());
    new.allow = old.allow;
    let mut rewrite = Rewrite {
        module,
        old,
        new,
        plan,
        routings,
        shares,
        values: BTreeMap::new(),
        sent: BTreeMap::new(),
    };
    for (name, value) in old.inputs() {
        let input = rewrite.new.input(name.clone(), old.ty(value).clone());
        let input = input.map_err(|e| internal(e.to_string()))?;
        rewrite.values.insert(value, input);
    }
    for node in order(old, routings)? {
        rewrite.node(node)?;
    }
    for (name, value) in &old.updates {
        let value = rewrite.same_type(*value)?;
        rewrite.new.update(name.clone(), value);
    }
    for (name, value) in &old.outputs {
        let value = rewrite.same_type(*value)?;
        rewrite.new.output(name.clone(), value);
    }
    rewrite.new.dead_code_eliminate();
    Ok(rewrite.new)
}

/// Topological, with the weights of a routing before its dispatch.
fn order(graph: &Graph, routings: &Routings) -> Result<Vec<NodeId>, PassError> {
    let weights: BTreeMap<NodeId, &Routing> = routings.all.iter().map(|r| (r.node, r)).collect();
    let (mut order, mut done, mut begun) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for root in graph.topo() {
        let mut stack = vec![root];
        while let Some(&node) = stack.last() {
            if done.contains(&node) {
                stack.pop();
                continue;
            }
            let needs = graph.operands(node).into_iter().map(|value| value.node);
            let routing = weights.get(&node);
            let needs = needs.chain(routing.map(|r| r.weights.node));
            let open: Vec<NodeId> = needs.filter(|need| !done.contains(need)).collect();
            if open.is_empty() {
                stack.pop();
                done.insert(node);
                order.push(node);
            } else if begun.insert(node) {
                stack.extend(open);
            } else {
                let value = routing.map_or(ValueId { node, result: 0 }, |r| r.weights);
                return Err(PassError::unsupported(
                    graph,
                    node,
                    value,
                    "rows take their weights along, and these are computed from what comes back",
                    "compute the weights from the router's scores",
                ));
            }
        }
    }
    Ok(order)
}

struct Rewrite<'a> {
    module: &'a Module,
    old: &'a Graph,
    new: Graph,
    plan: &'a Plan,
    routings: &'a Routings,
    shares: &'a Shares<'a>,
    /// What each value has become.
    values: BTreeMap<ValueId, ValueId>,
    /// Exchanges by number of their routing.
    sent: BTreeMap<usize, Sent>,
}

/// A dispatch between ranks, in the new graph.
#[derive(Clone, Copy)]
struct Sent {
    experts: ValueId,
    weights: ValueId,
    /// Of two hops.
    capacity: u32,
    group: ExpertGroup,
    row_weights: ValueId,
    record: ValueId,
}

impl Rewrite<'_> {
    fn node(&mut self, node: NodeId) -> Result<(), PassError> {
        match self.old.op(node) {
            Op::Input { .. } => Ok(()),
            Op::Param { name } => {
                let param = self.shares.get(name).or(self.module.param(name));
                let param = param.ok_or_else(|| internal(format!("no parameter `{name}`")))?;
                let value = self.new.param(param);
                self.becomes(node, &[value])
            }
            Op::State { name } => {
                let state = self.module.state(name);
                let state = state.ok_or_else(|| internal(format!("no state `{name}`")))?;
                let value = self.new.state(state);
                self.becomes(node, &[value])
            }
            Op::Dispatch { .. } => self.dispatch(node),
            Op::RowWeights => match self.slots_of(node, 0)? {
                Some(sent) => self.becomes(node, &[sent.row_weights]),
                None => self.copy(node),
            },
            Op::Combine => self.combine(node, true),
            Op::CombineSum => self.combine(node, false),
            Op::CombineAdd => {
                let Some(y) = self.combined(node, true)? else {
                    return self.copy(node);
                };
                let r = self.operand(node, 3)?;
                let sum = self.add(node, Op::Add, &[y, r])?;
                self.becomes(node, &sum)
            }
            Op::CombineAddRmsNormQuantize { eps } => {
                let Some(y) = self.combined(node, true)? else {
                    return self.copy(node);
                };
                let (r, w) = (self.operand(node, 3)?, self.operand(node, 4)?);
                let results = self.add(node, Op::AddRmsNormQuantize { eps: *eps }, &[y, r, w])?;
                self.becomes(node, &results)
            }
            _ => self.copy(node),
        }
    }

    /// The same op; a product over rows with room for each expert where these come so.
    fn copy(&mut self, node: NodeId) -> Result<(), PassError> {
        let operands = self.old.operands(node);
        let by_expert = operands
            .get(2)
            .is_some_and(|value| self.routings.whose(*value, 1).is_some());
        let op = match self.old.op(node) {
            Op::GroupedMatmul { out, promote } if by_expert && self.plan.direct => {
                Op::MaskedMatmul {
                    out: *out,
                    promote: *promote,
                }
            }
            Op::GroupedMatmulSwigluQuantize { promote } if by_expert && self.plan.direct => {
                Op::MaskedMatmulSwigluQuantize { promote: *promote }
            }
            Op::GroupedMatmulSwigluScaleQuantize { promote } if by_expert && self.plan.direct => {
                Op::MaskedMatmulSwigluScaleQuantize { promote: *promote }
            }
            op => op.clone(),
        };
        let operands = (0..operands.len())
            .map(|i| self.operand(node, i))
            .collect::<Result<Vec<_>, _>>()?;
        let results = self.add(node, op, &operands)?;
        self.becomes(node, &results)
    }

    fn dispatch(&mut self, node: NodeId) -> Result<(), PassError> {
        let routings = self.routings;
        let first = ValueId { node, result: 1 };
        let Some(number) = routings.whose(first, 1) else {
            // Nothing travels: its offsets and slots are those of the rank's own rows.
            return self.copy(node);
        };
        let routing = &routings.all[number];
        if routing.node != node {
            // Another one of the same experts sends rows; its offsets are those of this one.
            return Ok(());
        }
        let mesh = self.plan.mesh;
        let (n_experts, tokens) = (routing.n_experts, self.plan.tokens);
        let group = ExpertGroup {
            experts: n_experts,
            top_k: routing.top_k,
            nodes: mesh.expert_nodes(),
            gpus: mesh.expert_gpus(),
            tokens,
        };
        let capacity = self.capacity(node, &group)?;
        let [x, experts, weights] =
            [routing.x, routing.experts, routing.weights].map(|value| self.value(value));
        let (x, experts, weights) = (x?, experts?, weights?);
        let op = if self.plan.direct {
            Op::DispatchDirect {
                n_experts,
                nodes: group.nodes,
                gpus: group.gpus,
                tokens,
            }
        } else {
            Op::DispatchTwoHop {
                n_experts,
                nodes: group.nodes,
                gpus: group.gpus,
                tokens,
                capacity,
                channels: self.plan.channels,
            }
        };
        let results = self.add(node, op, &[x, experts, weights])?;
        let [rows, bounds, row_weights, record] = results[..] else {
            return Err(internal("a dispatch has four results"));
        };
        self.values.insert(ValueId { node, result: 0 }, rows);
        self.values.insert(first, bounds);
        self.sent.insert(
            number,
            Sent {
                experts,
                weights,
                capacity,
                group,
                row_weights,
                record,
            },
        );
        Ok(())
    }

    /// Rows that two hops have room for: what was asked for, at most what can come.
    fn capacity(&self, node: NodeId, group: &ExpertGroup) -> Result<u32, PassError> {
        let most = group.most_rows().next_multiple_of(CAPACITY_STEP);
        let rows = match self.plan.capacity {
            Some(asked) => most.min(u64::from(asked)),
            None => most,
        };
        u32::try_from(rows)
            .ok()
            .filter(|rows| i32::try_from(*rows).is_ok())
            .ok_or_else(|| {
                PassError::unsupported(
                    self.old,
                    node,
                    ValueId { node, result: 0 },
                    format!(
                        "{rows} rows can come to a rank: {} ranks of {} tokens",
                        group.ranks(),
                        group.tokens
                    ),
                    "lower the bound of the tokens, or set a capacity",
                )
            })
    }

    fn combine(&mut self, node: NodeId, weighted: bool) -> Result<(), PassError> {
        match self.combined(node, weighted)? {
            Some(sum) => self.becomes(node, &[sum]),
            None => self.copy(node),
        }
    }

    /// The way back of `combine*(y, slots, ..)`; `None` where nothing travelled.
    fn combined(&mut self, node: NodeId, weighted: bool) -> Result<Option<ValueId>, PassError> {
        let Some(sent) = self.slots_of(node, 1)? else {
            return Ok(None);
        };
        let ExpertGroup {
            experts: n_experts,
            nodes,
            gpus,
            tokens,
            ..
        } = sent.group;
        let op = if self.plan.direct {
            Op::CombineDirect {
                n_experts,
                nodes,
                gpus,
                tokens,
                weighted,
            }
        } else {
            Op::CombineTwoHop {
                n_experts,
                nodes,
                gpus,
                tokens,
                capacity: sent.capacity,
                channels: self.plan.channels,
                weighted,
            }
        };
        let y = self.operand(node, 0)?;
        let results = self.add(node, op, &[y, sent.experts, sent.weights, sent.record])?;
        Ok(results.first().copied())
    }

    /// The exchange whose slots operand `index` of a node is.
    fn slots_of(&self, node: NodeId, index: usize) -> Result<Option<Sent>, PassError> {
        let slots = self.old.operands(node).get(index).copied();
        let number = slots.and_then(|slots| self.routings.whose(slots, 2));
        match number.map(|number| self.sent.get(&number)) {
            None => Ok(None),
            Some(Some(sent)) => Ok(Some(*sent)),
            Some(None) => Err(internal("a way back comes before its way there")),
        }
    }

    fn operand(&self, node: NodeId, index: usize) -> Result<ValueId, PassError> {
        let value = self.old.operands(node).get(index).copied();
        let value = value.ok_or_else(|| internal(format!("no operand {index}")))?;
        self.value(value).map_err(|_| {
            PassError::unsupported(
                self.old,
                node,
                value,
                "rows are on the ranks of their experts, and have no place on this one",
                "bring them back with `combine` first",
            )
        })
    }

    /// What a value has become. Slots of an exchange become nothing; offsets are shared by dispatches of equal experts.
    fn value(&self, old: ValueId) -> Result<ValueId, PassError> {
        let shared = self.routings.whose(old, 1).map(|number| ValueId {
            node: self.routings.all[number].node,
            result: 1,
        });
        let found = self.values.get(&shared.unwrap_or(old)).copied();
        found.ok_or_else(|| internal(format!("{old} has become nothing")))
    }

    /// A value that leaves the entry, which is what it was before.
    fn same_type(&self, old: ValueId) -> Result<ValueId, PassError> {
        let new = self.value(old).ok();
        match new {
            Some(new) if self.new.ty(new) == self.old.ty(old) => Ok(new),
            _ => Err(PassError::unsupported(
                self.old,
                old.node,
                old,
                "it leaves the entry, and is spread over ranks",
                "give out what `combine` brings back",
            )),
        }
    }

    fn add(
        &mut self,
        node: NodeId,
        op: Op,
        operands: &[ValueId],
    ) -> Result<Vec<ValueId>, PassError> {
        let source = self.old.node(node);
        let marks = source.marks.clone();
        let results = self
            .new
            .add(op, operands, source.loc.clone())
            .map_err(|e| {
                PassError::unsupported(
                    self.old,
                    node,
                    ValueId { node, result: 0 },
                    format!("it does not take rows that come from other ranks ({e})"),
                    "between `dispatch` and `combine` use ops that take each row by itself",
                )
            })?;
        if let Some(value) = results.first() {
            self.new.mark(value.node, marks);
        }
        Ok(results)
    }

    fn becomes(&mut self, node: NodeId, new: &[ValueId]) -> Result<(), PassError> {
        for (old, new) in self.old.results(node).zip(new) {
            self.values.insert(old, *new);
        }
        Ok(())
    }
}

fn internal(what: impl Into<String>) -> PassError {
    PassError::Internal {
        pass: "distribute",
        what: what.into(),
    }
}
