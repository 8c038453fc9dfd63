//! Mixture of experts: `route`, `dispatch`, `combine`.
//!
//! `dispatch` becomes two kernels: `moe_plan` sorts the (token, slot) pairs by expert, `expand` copies rows. The
//! plan depends on the chosen experts alone, so that all dispatches of one routing share it:
//!
//! ```text
//! experts ── moe_plan ──► offsets, slots, row_token
//! x, row_token ── expand ──► rows
//! ```

use mcc_ir::kernel::{Combine, Expand, KernelConfig, MoePlan, Route};
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

    /// `combine(y, slots, weights)`
    pub(super) fn combine(&mut self, node: NodeId) -> Result<(), PassError> {
        let mut args = vec![
            self.whole(node, 0)?,
            self.whole(node, 1)?,
            self.whole(node, 2)?,
        ];
        let width = self.width(node, args[0].value)?;
        let top_k = self.width(node, args[1].value)?;
        args.extend(self.out_rows(node, 0)?);
        self.launch(node, KernelConfig::Combine(Combine { width, top_k }), args)
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
