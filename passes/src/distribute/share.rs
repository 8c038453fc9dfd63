//! A rank's share of the experts' parameters.
//!
//! Which layer a parameter is of is counted over the entries: the routings of an entry stand in the order of its
//! layers, and one that reads a parameter which an earlier entry read is the same layer.

use std::collections::BTreeMap;

use mcc_ir::{Dim, Graph, Mesh, Module, Name, Op, Param, ParamSource, Type, ValueId};

use super::routing::{Routing, Routings};
use crate::error::PassError;

/// The parameters that ranks hold shares of.
pub(super) struct Shares<'a> {
    module: &'a Module,
    mesh: Mesh,
    /// Layers met so far.
    layers: u64,
    shares: BTreeMap<Name, Param>,
    layer_of: BTreeMap<Name, u64>,
}

impl<'a> Shares<'a> {
    pub(super) fn new(module: &'a Module, mesh: Mesh) -> Self {
        Self {
            module,
            mesh,
            layers: 0,
            shares: BTreeMap::new(),
            layer_of: BTreeMap::new(),
        }
    }

    /// Takes in the parameters of an entry's routings, and refuses other uses of them.
    pub(super) fn visit(&mut self, graph: &Graph, routings: &Routings) -> Result<(), PassError> {
        for routing in &routings.all {
            let ep = self.mesh.ep;
            if !routing.n_experts.is_multiple_of(ep) {
                return Err(PassError::Mesh {
                    mesh: self.mesh,
                    why: format!(
                        "{} experts do not divide over ep = {ep} ranks",
                        routing.n_experts
                    ),
                    how: format!("choose an ep that divides {}", routing.n_experts),
                });
            }
            let known = routing.params.iter().find_map(|p| self.layer_of.get(p));
            let layer = known.copied().unwrap_or(self.layers);
            self.layers = self.layers.max(layer + 1);
            for name in &routing.params {
                self.layer_of.insert(name.clone(), layer);
                let share = self.share(graph, routing, name, layer)?;
                self.shares.insert(name.clone(), share);
            }
        }
        self.check_uses(graph, routings)
    }

    /// The share of a parameter, if ranks hold shares of it.
    pub(super) fn get(&self, name: &str) -> Option<&Param> {
        self.shares.get(name)
    }

    /// Puts shares in place of whole parameters.
    pub(super) fn apply(&self, result: &mut Module) {
        for param in &mut result.params {
            if let Some(share) = self.get(&param.name) {
                *param = share.clone();
            }
        }
    }

    fn share(
        &self,
        graph: &Graph,
        routing: &Routing,
        name: &Name,
        layer: u64,
    ) -> Result<Param, PassError> {
        let param = self.module.param(name).ok_or_else(|| PassError::Internal {
            pass: "distribute",
            what: format!("the parameter `{name}` is not declared"),
        })?;
        let slots = u64::from(routing.n_experts / self.mesh.ep);
        let source = share_of(&param.source, layer, slots).ok_or_else(|| {
            PassError::unsupported(
                graph,
                routing.node,
                ValueId {
                    node: routing.node,
                    result: 0,
                },
                format!("the experts of `@{name}` are not told apart by its recipe"),
                "make the parameter by `stack(..)` of one recipe for each expert",
            )
        })?;
        let mut shape = param.ty.shape.clone();
        if let Some(experts) = shape.first_mut() {
            *experts = Dim::Const(slots);
        }
        Ok(Param {
            name: name.clone(),
            ty: Type {
                shape,
                ..param.ty.clone()
            },
            source,
        })
    }

    /// A shared parameter is read by products over experts' rows alone: no rank has the rest of it.
    fn check_uses(&self, graph: &Graph, routings: &Routings) -> Result<(), PassError> {
        for node in graph.topo() {
            let operands = graph.operands(node);
            for (i, value) in operands.iter().enumerate() {
                let Op::Param { name } = graph.op(value.node) else {
                    continue;
                };
                let of_experts = i == 1
                    && operands
                        .get(2)
                        .is_some_and(|offsets| routings.whose(*offsets, 1).is_some());
                if self.get(name).is_some() && !of_experts {
                    return Err(PassError::unsupported(
                        graph,
                        node,
                        *value,
                        "each rank holds a share of it, and this op reads all of it",
                        "read it in products over the rows of a dispatch alone",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The recipe of a share: of a stack, or of a step that works on each expert by itself over one.
fn share_of(source: &ParamSource, layer: u64, slots: u64) -> Option<ParamSource> {
    Some(match source {
        ParamSource::Stack(parts) => ParamSource::Experts {
            layer,
            slots,
            parts: parts.clone(),
        },
        ParamSource::Dequant(inner) => {
            ParamSource::Dequant(Box::new(share_of(inner, layer, slots)?))
        }
        // The last two axes, of which experts are none where there is another one.
        ParamSource::Transpose(inner) => {
            ParamSource::Transpose(Box::new(share_of(inner, layer, slots)?))
        }
        _ => return None,
    })
}
