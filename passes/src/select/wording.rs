//! Names for people: labels of steps, and what errors say about ops and values.

use mcc_ir::{NodeId, Op, ParamSource, ValueId};

use super::{Choice, Lowering};
use crate::error::{self, PassError};

impl Lowering<'_> {
    /// Keeps the table of a heuristic for `mcc explain`.
    pub(super) fn explain(&mut self, node: NodeId, table: String) {
        let (entry, step) = (self.graph.name.to_string(), self.label(node));
        self.choices.push(Choice { entry, step, table });
    }

    /// `layers.1.q_a matmul` for an op with a parameter, `layers.1 attention` for those after it.
    pub(super) fn label(&self, node: NodeId) -> String {
        let place = self.own_param(node).unwrap_or_else(|| self.scope.clone());
        let op = self.graph.op(node).mnemonic();
        if place.is_empty() {
            op.to_owned()
        } else {
            format!("{place} {op}")
        }
    }

    /// Remembers which part of the model this op belongs to.
    pub(super) fn enter_scope(&mut self, node: NodeId) {
        if self.graph.op(node).is_leaf() {
            return;
        }
        if let Some(param) = self.own_param(node) {
            self.scope = param
                .rsplit_once('.')
                .map_or(String::new(), |(scope, _)| scope.to_owned());
        }
    }

    /// The first parameter or state among the operands. The rotary table belongs to no part of the model.
    fn own_param(&self, node: NodeId) -> Option<String> {
        self.graph.operands(node).into_iter().find_map(|value| {
            let name = match self.graph.op(value.node) {
                Op::Param { name } | Op::State { name } => name,
                _ => return None,
            };
            let source = self.module.param(name).map(|param| &param.source);
            (!matches!(source, Some(ParamSource::RopeTable { .. }))).then(|| name.to_string())
        })
    }

    /// A value with its type.
    pub(super) fn describe(&self, value: ValueId) -> String {
        error::describe(self.graph, value)
    }

    /// The error that no kernel computes `node` as asked, because of `value`.
    pub(super) fn unsupported(
        &self,
        node: NodeId,
        value: ValueId,
        why: impl Into<String>,
        supported: impl Into<String>,
    ) -> PassError {
        PassError::unsupported(self.graph, node, value, why, supported)
    }

    /// The error that there is no kernel for `node` at all.
    pub(super) fn no_kernel(&self, node: NodeId, why: &str, supported: &str) -> PassError {
        self.unsupported(node, ValueId { node, result: 0 }, why, supported)
    }
}
