//! The borders of an entry: inputs, outputs and state updates.
//!
//! Holds afterwards: a kernel result that an output names is written straight into the output's buffer, and
//! every state ends as its update says, written in place. What would need a copy is refused.

use mcc_ir::program::Port;
use mcc_ir::{Op, ValueId};

use super::pool::Storage;
use super::view::{self, Placed};
use super::{Lowering, schedule};
use crate::error::PassError;

impl Lowering<'_> {
    /// Places the inputs.
    pub(super) fn inputs(&mut self) -> Result<Vec<Port>, PassError> {
        let mut ports = Vec::new();
        for (name, value) in self.graph.inputs() {
            let ty = self.graph.ty(value);
            if ty.scale.is_some() {
                return Err(self.unsupported(
                    value.node,
                    value,
                    "it is an entry input",
                    "pass BF16 and quantize",
                ));
            }
            if ty.shape.iter().skip(1).any(|dim| dim.as_const().is_none()) {
                return Err(self.unsupported(
                    value.node,
                    value,
                    "an entry input lies row behind row without gaps, so only its outermost extent may be open",
                    "use a constant dim for the others",
                ));
            }
            let view = self.pool.port(&self.graph.name, name, ty, Storage::Input)?;
            ports.push(Port {
                name: name.to_string(),
                ty: ty.clone(),
                buffer: view.buffer,
            });
            self.values.insert(
                value,
                Placed {
                    data: view,
                    scales: None,
                },
            );
        }
        Ok(ports)
    }

    /// Makes the output buffers and remembers which kernel results go straight into them.
    pub(super) fn outputs(&mut self) -> Result<Vec<Port>, PassError> {
        let mut ports = Vec::new();
        for (name, value) in &self.graph.outputs {
            let ty = self.graph.ty(*value);
            let root = self.root(*value);
            let why = match self.graph.op(root.node) {
                _ if ty.scale.is_some() => Some("it is block-scaled, and an output has one buffer"),
                op if op.is_leaf() => Some("no kernel computes it, and there is none to copy it"),
                Op::Slice { .. } => {
                    Some("it is a part of another value, and no kernel copies it out")
                }
                Op::MlaCacheWrite { .. } | Op::WeightGrad { .. } => {
                    Some("it is a state, which is written in place")
                }
                _ => None,
            };
            if let Some(why) = why {
                let supported = "name a whole, unscaled result of an op";
                return Err(self.unsupported(
                    value.node,
                    *value,
                    format!("output `{name}`: {why}"),
                    supported,
                ));
            }
            let buffer = match self.outputs.get(&root) {
                Some(buffer) => *buffer,
                None => {
                    self.pool
                        .port(&self.graph.name, name, ty, Storage::Output)?
                        .buffer
                }
            };
            self.outputs.insert(root, buffer);
            ports.push(Port {
                name: name.to_string(),
                ty: ty.clone(),
                buffer,
            });
        }
        Ok(ports)
    }

    /// The value that a kernel writes: the one before all reshapes.
    fn root(&self, mut value: ValueId) -> ValueId {
        while let (Op::Reshape { .. }, Some(x)) = (
            self.graph.op(value.node),
            self.graph.operands(value.node).first(),
        ) {
            value = *x;
        }
        value
    }

    /// Every output was written without gaps into its buffer.
    pub(super) fn check_outputs(&self, ports: &[Port]) -> Result<(), PassError> {
        for (port, (name, value)) in ports.iter().zip(&self.graph.outputs) {
            let data = &self.placed(*value)?.data;
            if data.buffer != port.buffer || !view::is_dense_whole(data) {
                return Err(self.unsupported(
                    value.node,
                    *value,
                    format!("output `{name}`: its kernel cannot write it without gaps"),
                    "make its rows a multiple of 16 bytes",
                ));
            }
        }
        Ok(())
    }

    /// Every state ends as its update says, and no state changes without one.
    pub(super) fn check_updates(&self) -> Result<(), PassError> {
        for (state, value) in &self.graph.updates {
            let own = self.pool.state(state)?;
            if self.placed(*value)?.data != own {
                return Err(self.unsupported(
                    value.node,
                    *value,
                    format!("it becomes the state `{state}`, but was not written in place over it"),
                    "update a state with the `mla_cache_write` or the `weight_grad` of that state",
                ));
            }
        }
        for node in self.graph.topo() {
            if schedule::overwritten(self.graph, node).is_none() {
                continue;
            }
            let result = ValueId { node, result: 0 };
            let replaced = self
                .graph
                .users(result)
                .iter()
                .any(|user| schedule::overwritten(self.graph, user.node) == Some(result));
            if !replaced && !self.graph.updates.iter().any(|(_, value)| *value == result) {
                return Err(self.unsupported(
                    node,
                    result,
                    "it overwrites a state, but no update of the entry says so",
                    "add the update: without it the old value would have to be kept in a copy",
                ));
            }
        }
        Ok(())
    }
}
