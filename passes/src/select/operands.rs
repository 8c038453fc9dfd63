//! Operands and results: from values of the graph to the views that a kernel takes.
//!
//! What every family file builds on. [`Lowering::launch`] checks each view against the kernel's
//! [`mcc_ir::kernel::OperandSpec`], so that a family only says which operand goes where.

use mcc_ir::kernel::KernelConfig;
use mcc_ir::program::{Step, View};
use mcc_ir::{Dim, NodeId, ValueId};

use super::Lowering;
use super::pool::Layouts;
use super::view::{self, Placed};
use crate::error::PassError;

/// An operand on its way to a kernel: the view, and the value it came from for errors.
pub(super) struct Arg {
    pub view: View,
    pub value: ValueId,
}

impl Lowering<'_> {
    /// Operand number `index` of a node.
    pub(super) fn operand(&self, node: NodeId, index: usize) -> Result<ValueId, PassError> {
        self.graph
            .operands(node)
            .get(index)
            .copied()
            .ok_or_else(|| PassError::Internal {
                pass: "select",
                what: format!("`{}` has no operand {index}", self.graph.op(node)),
            })
    }

    /// Where a value lives.
    pub(super) fn placed(&self, value: ValueId) -> Result<&Placed, PassError> {
        self.values.get(&value).ok_or_else(|| PassError::Internal {
            pass: "select",
            what: format!("{} is used before it is placed", self.describe(value)),
        })
    }

    /// Says where a value lives.
    pub(super) fn place(&mut self, value: ValueId, placed: Placed) {
        self.values.insert(value, placed);
    }

    /// An operand as it is.
    pub(super) fn whole(&self, node: NodeId, index: usize) -> Result<Arg, PassError> {
        let value = self.operand(node, index)?;
        Ok(Arg {
            view: self.placed(value)?.data.clone(),
            value,
        })
    }

    /// An operand as `[M, W]`.
    pub(super) fn rows(&self, node: NodeId, index: usize) -> Result<Arg, PassError> {
        let value = self.operand(node, index)?;
        let view = self.merged(node, value, &self.placed(value)?.data)?;
        Ok(Arg { view, value })
    }

    /// The scales of an operand as `[M, ceil(K/128)]`.
    pub(super) fn scales(&self, node: NodeId, index: usize) -> Result<Arg, PassError> {
        let value = self.operand(node, index)?;
        Ok(Arg {
            view: self.merged(node, value, self.scales_of(value)?)?,
            value,
        })
    }

    /// The scales of a block-scaled value, as they lie.
    pub(super) fn scales_of(&self, value: ValueId) -> Result<&View, PassError> {
        self.placed(value)?
            .scales
            .as_ref()
            .ok_or_else(|| PassError::Internal {
                pass: "select",
                what: format!("{} has no scales", self.describe(value)),
            })
    }

    fn merged(&self, node: NodeId, value: ValueId, view: &View) -> Result<View, PassError> {
        view::rows(view).ok_or_else(|| {
            let why = format!(
                "its leading axes have the strides {:?} and do not merge into rows",
                view.strides
            );
            self.unsupported(
                node,
                value,
                why,
                "views never copy: let another op produce these rows",
            )
        })
    }

    /// Makes room for a result: in an output buffer, or in a new temporary.
    pub(super) fn result(
        &mut self,
        node: NodeId,
        result: usize,
        layout: Layouts,
    ) -> Result<Placed, PassError> {
        let value = ValueId { node, result };
        let ty = self.graph.ty(value);
        let row = self.graph.op(node).row();
        let part = row
            .and_then(|row| row.results.get(result))
            .map_or("result", |decl| decl.name);
        let name = format!("{}: {} {part}", self.graph.name, self.label(node));
        let placed = match self.outputs.get(&value) {
            Some(buffer) => Placed {
                data: self.pool.view_of(*buffer, ty)?,
                scales: None,
            },
            None => self.pool.temp(&name, ty, layout)?,
        };
        self.place(value, placed.clone());
        Ok(placed)
    }

    /// A result that a kernel writes as it is.
    pub(super) fn out(
        &mut self,
        node: NodeId,
        result: usize,
        layout: Layouts,
    ) -> Result<Arg, PassError> {
        let view = self.result(node, result, layout)?.data;
        Ok(Arg {
            view,
            value: ValueId { node, result },
        })
    }

    /// A result that a kernel writes as `[M, W]`, and its scales if it has any.
    pub(super) fn out_rows(&mut self, node: NodeId, result: usize) -> Result<Vec<Arg>, PassError> {
        let placed = self.result(node, result, Layouts::Rows)?;
        let value = ValueId { node, result };
        let mut args = vec![Arg {
            view: self.merged(node, value, &placed.data)?,
            value,
        }];
        if let Some(scales) = &placed.scales {
            args.push(Arg {
                view: self.merged(node, value, scales)?,
                value,
            });
        }
        Ok(args)
    }

    /// Whether an op, an update or an output reads the value.
    pub(super) fn is_used(&self, value: ValueId) -> bool {
        let named = self
            .graph
            .updates
            .iter()
            .chain(&self.graph.outputs)
            .any(|(_, v)| *v == value);
        named || !self.graph.users(value).is_empty()
    }

    /// A constant extent that a config holds.
    pub(super) fn extent(
        &self,
        node: NodeId,
        value: ValueId,
        axis: usize,
    ) -> Result<u32, PassError> {
        let extent = self.graph.ty(value).shape.get(axis).and_then(Dim::as_const);
        extent.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| {
            let why = format!("kernels are made for one extent of its axis {axis}, below 2^32");
            self.unsupported(node, value, why, "use a constant dim")
        })
    }

    /// The innermost extent.
    pub(super) fn width(&self, node: NodeId, value: ValueId) -> Result<u32, PassError> {
        self.extent(node, value, self.graph.ty(value).rank().saturating_sub(1))
    }

    /// Rows to expect of a value in this entry: its leading axes with the hints, at most the upper bounds.
    pub(super) fn usual_rows(&self, value: ValueId) -> Result<u64, PassError> {
        let leading = self.graph.ty(value).rank().saturating_sub(1);
        (0..leading).try_fold(1_u64, |rows, axis| {
            let rows = rows.checked_mul(self.usual_extent(value, axis)?);
            rows.ok_or_else(|| PassError::TooLarge {
                what: self.describe(value),
            })
        })
    }

    /// The extent to expect of an axis in this entry: with the hints, at most the upper bound.
    pub(super) fn usual_extent(&self, value: ValueId, axis: usize) -> Result<u64, PassError> {
        let dim = self.graph.ty(value).shape.get(axis);
        let usual = |name: &str| {
            let max = self.module.dim(name)?.max;
            let entry = self.graph.name.as_str();
            let hint = self
                .options
                .hints
                .iter()
                .find(|h| h.entry == entry && h.dim == name);
            Some(hint.map_or(max, |h| h.usual.min(max)))
        };
        dim.and_then(|dim| dim.resolve(usual))
            .ok_or_else(|| PassError::TooLarge {
                what: self.describe(value),
            })
    }

    /// Adds a launch after checking that the kernel can take each operand.
    pub(super) fn launch(
        &mut self,
        node: NodeId,
        config: KernelConfig,
        args: Vec<Arg>,
    ) -> Result<(), PassError> {
        let specs = config.operand_specs();
        if specs.len() != args.len() {
            return Err(PassError::Internal {
                pass: "select",
                what: format!(
                    "`{}` got {} operands, takes {}",
                    config.name(),
                    args.len(),
                    specs.len()
                ),
            });
        }
        for (spec, arg) in specs.iter().zip(&args) {
            spec.check_view(&arg.view).map_err(|why| {
                let why = format!(
                    "as operand `{}` of `{}`: {why}",
                    spec.decl.name,
                    config.family()
                );
                self.unsupported(
                    node,
                    arg.value,
                    why,
                    "views never copy: let another op produce it in that form",
                )
            })?;
        }
        let kernel = self.pool.kernel(config);
        let label = self.label(node);
        self.steps.push(Step {
            kernel,
            label,
            operands: args.into_iter().map(|a| a.view).collect(),
        });
        Ok(())
    }
}
