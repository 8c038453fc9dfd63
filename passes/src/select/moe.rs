//! Mixture of experts: `route`, `append_expert`, `dispatch`, `row_weights`, `combine` and its fused forms.
//!
//! `dispatch` becomes two kernels: `moe_plan` sorts the (token, slot) pairs by expert, `expand` copies rows. The
//! plan depends on the chosen experts alone, so that all dispatches of one routing share it:
//!
//! ```text
//! experts ── moe_plan ──► offsets, slots, row_token
//! x, row_token ── expand ──► rows
//! ```

use mcc_ir::kernel::{
    AppendExpert, Combine, Expand, KernelConfig, MoePlan, Normed, Route, RowWeights,
};
use mcc_ir::{DType, NodeId, Type, ValueId};

use super::pool::Layouts;
use super::view::Placed;
use super::{Arg, Lowering};
use crate::error::PassError;

/// What `moe_plan` wrote for a routing.
#[derive(Clone)]
pub(super) struct Planned {
    pub offsets: Placed,
    pub slots: Placed,
    row_token: Placed,
}

impl Lowering<'_> {
    /// `route(logits, bias)`
    pub(super) fn route(
        &mut self,
        node: NodeId,
        top_k: u32,
        n_group: u32,
        topk_group: u32,
        scaling: f32,
        normalize: bool,
    ) -> Result<(), PassError> {
        let mut args = vec![self.whole(node, 0)?, self.whole(node, 1)?];
        let experts = self.width(node, args[0].value)?;
        args.push(self.out(node, 0, Layouts::Dense)?);
        args.push(self.out(node, 1, Layouts::Dense)?);
        let config = Route {
            experts,
            top_k,
            n_group,
            topk_group,
            scaling,
            normalize,
        };
        self.launch(node, KernelConfig::Route(config), args)
    }

    /// `dispatch(x, experts)`
    pub(super) fn dispatch(&mut self, node: NodeId, n_experts: u32) -> Result<(), PassError> {
        let x = self.operand(node, 0)?;
        let experts = self.operand(node, 1)?;
        let top_k = self.width(node, experts)?;
        let planned = self.plan(node, experts, n_experts, top_k)?;

        if !self.is_used(ValueId { node, result: 0 }) {
            return Ok(());
        }
        let quant = self.graph.ty(x).dtype == DType::E4M3;
        let width = self.width(node, x)?;
        let mut args = vec![self.rows(node, 0)?];
        if quant {
            args.push(self.scales(node, 0)?);
        }
        args.push(Arg {
            view: planned.row_token.data,
            value: experts,
        });
        args.extend(self.out_rows(node, 0)?);
        self.launch(
            node,
            KernelConfig::Expand(Expand {
                width,
                top_k,
                quant,
            }),
            args,
        )
    }

    /// `combine(y, slots, weights)`, `combine_sum(y, slots)`, `combine_add(y, slots, weights, r)`
    pub(super) fn combine(
        &mut self,
        node: NodeId,
        weighted: bool,
        residual: bool,
    ) -> Result<(), PassError> {
        let (config, mut args) = self.combined(node, weighted, residual)?;
        args.extend(self.out_rows(node, 0)?);
        self.launch(node, KernelConfig::Combine(config), args)
    }

    /// `combine_add_rms_norm_quantize(y, slots, weights, r, w)`
    pub(super) fn combine_norm(&mut self, node: NodeId, eps: f32) -> Result<(), PassError> {
        // The results are the sum, the norm and its codes.
        let used = [0, 1, 2].map(|result| self.is_used(ValueId { node, result }));
        let [emit_sum, emit_norm, emit_quant] = used;
        if !emit_norm && !emit_quant {
            return match emit_sum {
                true => self.combine(node, true, true),
                false => Ok(()),
            };
        }
        let (mut config, mut args) = self.combined(node, true, true)?;
        config.norm = Some(Normed {
            eps,
            emit_sum,
            emit_norm,
            emit_quant,
        });
        args.push(self.whole(node, 4)?);
        for result in (0..3).filter(|result| used[*result]) {
            args.extend(self.out_rows(node, result)?);
        }
        self.launch(node, KernelConfig::Combine(config), args)
    }

    /// A sum of expert rows that is written as it is, and what it reads.
    fn combined(
        &self,
        node: NodeId,
        weighted: bool,
        residual: bool,
    ) -> Result<(Combine, Vec<Arg>), PassError> {
        let inputs = 2 + usize::from(weighted);
        let mut args = (0..inputs)
            .map(|operand| self.whole(node, operand))
            .collect::<Result<Vec<Arg>, _>>()?;
        if residual {
            args.push(self.rows(node, inputs)?);
        }
        let config = Combine {
            width: self.width(node, args[0].value)?,
            top_k: self.width(node, args[1].value)?,
            weighted,
            residual,
            norm: None,
        };
        Ok((config, args))
    }

    /// `row_weights(slots, weights)`
    pub(super) fn row_weights(&mut self, node: NodeId) -> Result<(), PassError> {
        let mut args = vec![self.whole(node, 0)?, self.whole(node, 1)?];
        let top_k = self.width(node, args[0].value)?;
        args.push(self.out(node, 0, Layouts::Dense)?);
        self.launch(node, KernelConfig::RowWeights(RowWeights { top_k }), args)
    }

    /// `append_expert(experts, weights)`
    pub(super) fn append_expert(
        &mut self,
        node: NodeId,
        expert: u32,
        weight: f32,
    ) -> Result<(), PassError> {
        let mut args = vec![self.whole(node, 0)?, self.whole(node, 1)?];
        let top_k = self.width(node, args[0].value)?;
        for result in 0..2 {
            args.push(self.out(node, result, Layouts::Dense)?);
        }
        let config = AppendExpert {
            top_k,
            expert,
            weight,
        };
        self.launch(node, KernelConfig::AppendExpert(config), args)
    }

    /// The plan of a routing: the one made before, or a new one when a result is an output of the entry.
    fn plan(
        &mut self,
        node: NodeId,
        experts: ValueId,
        n_experts: u32,
        top_k: u32,
    ) -> Result<Planned, PassError> {
        let (offsets, slots) = (ValueId { node, result: 1 }, ValueId { node, result: 2 });
        let to_output = [offsets, slots]
            .iter()
            .any(|value| self.outputs.contains_key(value));
        if let (false, Some(planned)) = (to_output, self.plans.get(&(experts, n_experts)).cloned())
        {
            self.place(offsets, planned.offsets.clone());
            self.place(slots, planned.slots.clone());
            return Ok(planned);
        }
        let results = (
            self.result(node, 1, Layouts::Dense)?,
            self.result(node, 2, Layouts::Dense)?,
        );
        self.plan_into(node, experts, n_experts, top_k, results)
    }

    /// The plan of a routing that is no result of an op: the one made before, or a new one.
    pub(super) fn plan_for(
        &mut self,
        node: NodeId,
        experts: ValueId,
        n_experts: u32,
        top_k: u32,
    ) -> Result<Planned, PassError> {
        if let Some(planned) = self.plans.get(&(experts, n_experts)) {
            return Ok(planned.clone());
        }
        let name = |part: &str| format!("{}: {} {part}", self.graph.name, self.label(node));
        let (offsets, slots) = (name("offsets_all"), name("slots"));
        let bounds = Type::new(DType::I32, [u64::from(n_experts) + 1]);
        let results = (
            self.pool.temp(&offsets, &bounds, Layouts::Dense)?,
            self.pool
                .temp(&slots, self.graph.ty(experts), Layouts::Dense)?,
        );
        self.plan_into(node, experts, n_experts, top_k, results)
    }

    /// Plans a routing; offsets and slots have their places.
    fn plan_into(
        &mut self,
        node: NodeId,
        experts: ValueId,
        n_experts: u32,
        top_k: u32,
        (offsets, slots): (Placed, Placed),
    ) -> Result<Planned, PassError> {
        let rows = self.graph.ty(experts).shape[0].times(top_k.into());
        let rows = rows.ok_or_else(|| PassError::TooLarge {
            what: self.describe(experts),
        })?;
        let name = format!("{}: {} row_token", self.graph.name, self.label(node));
        let row_token = self
            .pool
            .temp(&name, &Type::new(DType::I32, [rows]), Layouts::Dense)?;
        let planned = Planned {
            offsets,
            slots,
            row_token,
        };
        let mut views = vec![self.placed(experts)?.data.clone()];
        views
            .extend([&planned.offsets, &planned.slots, &planned.row_token].map(|p| p.data.clone()));
        let args = views.into_iter().map(|view| Arg {
            view,
            value: experts,
        });
        let config = MoePlan {
            experts: n_experts,
            top_k,
        };
        self.launch(node, KernelConfig::MoePlan(config), args.collect())?;
        self.plans.insert((experts, n_experts), planned.clone());
        Ok(planned)
    }
}
