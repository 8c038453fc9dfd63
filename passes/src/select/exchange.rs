//! Dispatch and combine between ranks.
//!
//! The kernels take the routing that `moe_plan` sorted over the experts of all ranks, a range of the `Exchange` buffer,
//! and the `World` buffer. One hop is two launches, between which other work can run:
//!
//! ```text
//! experts ── moe_plan ──► offsets_all, slots
//! x, experts, weights, offsets_all, slots ── two_hop_dispatch ──► rows, offsets, row_weights, record
//! x, experts, weights, offsets_all, slots ── direct_dispatch_send   receive ──► rows, counts, row_weights, record
//! y, row_weights, experts, record ── two_hop_combine ──► out
//! y, counts, record, offsets_all ── direct_combine_send   experts, weights ── receive ──► out
//! ```

use mcc_ir::exchange::{DirectCombine, DirectDispatch, ExpertGroup, TwoHopCombine, TwoHopDispatch};
use mcc_ir::kernel::KernelConfig;
use mcc_ir::{DType, NodeId, ValueId};

use super::moe::Planned;
use super::pool::Layouts;
use super::{Arg, Lowering};
use crate::error::PassError;

/// (token, slot) pairs that a block of a one-hop kernel works on at a time: one for each warp.
const PAIRS_OF_A_BLOCK: u64 = 8;

impl Lowering<'_> {
    /// `dispatch_two_hop(x, experts, weights)`
    pub(super) fn dispatch_two_hop(
        &mut self,
        node: NodeId,
        capacity: u32,
        channels: u32,
    ) -> Result<(), PassError> {
        let group = self.group(node)?;
        let x = self.operand(node, 0)?;
        let config = KernelConfig::TwoHopDispatch(TwoHopDispatch {
            group,
            width: self.width(node, x)?,
            quant: self.graph.ty(x).dtype == DType::E4M3,
            capacity,
            channels,
        });
        let mut args = self.sent(node, &group)?;
        args.extend(self.meeting(node, &config)?);
        args.extend(self.out_rows(node, 0)?);
        for result in 1..4 {
            args.push(self.out(node, result, Layouts::Dense)?);
        }
        self.launch(node, config, args)
    }

    /// `combine_two_hop(y, experts, weights, record)`
    pub(super) fn combine_two_hop(
        &mut self,
        node: NodeId,
        capacity: u32,
        channels: u32,
        weighted: bool,
    ) -> Result<(), PassError> {
        let group = self.group(node)?;
        let y = self.whole(node, 0)?;
        let config = KernelConfig::TwoHopCombine(TwoHopCombine {
            group,
            width: self.width(node, y.value)?,
            weighted,
            capacity,
            channels,
        });
        // The weights at the experts came with the rows.
        let mut args = vec![y, self.of_dispatch(node, 2)?];
        args.extend([self.whole(node, 1)?, self.whole(node, 3)?]);
        args.extend(self.meeting(node, &config)?);
        args.extend(self.out_rows(node, 0)?);
        self.launch(node, config, args)
    }

    /// `dispatch_direct(x, experts, weights)`
    pub(super) fn dispatch_direct(&mut self, node: NodeId) -> Result<(), PassError> {
        let group = self.group(node)?;
        let x = self.operand(node, 0)?;
        let config = DirectDispatch {
            group,
            width: self.width(node, x)?,
            quant: self.graph.ty(x).dtype == DType::E4M3,
            blocks: self.blocks(&group),
        };
        let send = KernelConfig::DirectDispatchSend(config);
        let mut args = self.sent(node, &group)?;
        args.extend(self.meeting(node, &send)?);
        self.launch(node, send, args)?;

        let receive = KernelConfig::DirectDispatchReceive(config);
        let mut args = Vec::from(self.meeting(node, &receive)?);
        let value = ValueId { node, result: 0 };
        let rows = self.result(node, 0, Layouts::Rows)?;
        let views = [Some(rows.data), rows.scales];
        args.extend(views.into_iter().flatten().map(|view| Arg { view, value }));
        for result in 1..4 {
            args.push(self.out(node, result, Layouts::Dense)?);
        }
        self.launch(node, receive, args)
    }

    /// `combine_direct(y, experts, weights, record)`
    pub(super) fn combine_direct(&mut self, node: NodeId, weighted: bool) -> Result<(), PassError> {
        let group = self.group(node)?;
        let y = self.whole(node, 0)?;
        let config = DirectCombine {
            group,
            width: self.width(node, y.value)?,
            weighted,
            blocks: self.blocks(&group),
        };
        let send = KernelConfig::DirectCombineSend(config);
        let planned = self.plan_of_all(node, &group)?;
        let experts = self.operand(node, 1)?;
        let mut args = vec![y, self.of_dispatch(node, 1)?, self.whole(node, 3)?];
        args.push(Arg {
            view: planned.offsets.data,
            value: experts,
        });
        args.extend(self.meeting(node, &send)?);
        self.launch(node, send, args)?;

        let receive = KernelConfig::DirectCombineReceive(config);
        let mut args = vec![self.whole(node, 1)?, self.whole(node, 2)?];
        args.extend(self.meeting(node, &receive)?);
        args.extend(self.out_rows(node, 0)?);
        self.launch(node, receive, args)
    }

    /// Who takes part in the exchange of a node.
    fn group(&self, node: NodeId) -> Result<ExpertGroup, PassError> {
        let experts = self.operand(node, 1)?;
        let group = self.graph.op(node).expert_group(self.width(node, experts)?);
        group.ok_or_else(|| PassError::Internal {
            pass: "select",
            what: format!("`{}` is no op between ranks", self.graph.op(node)),
        })
    }

    /// What a rank sends: rows, experts, weights, and the plan of its (token, slot) pairs.
    fn sent(&mut self, node: NodeId, group: &ExpertGroup) -> Result<Vec<Arg>, PassError> {
        let (x, experts) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let planned = self.plan_of_all(node, group)?;
        let mut args = vec![self.rows(node, 0)?];
        if self.graph.ty(x).scale.is_some() {
            args.push(self.scales(node, 0)?);
        }
        args.extend([self.whole(node, 1)?, self.whole(node, 2)?]);
        let plan = [planned.offsets, planned.slots];
        args.extend(plan.map(|placed| Arg {
            view: placed.data,
            value: experts,
        }));
        Ok(args)
    }

    /// The plan of operand 1 over the experts of all ranks.
    fn plan_of_all(&mut self, node: NodeId, group: &ExpertGroup) -> Result<Planned, PassError> {
        let experts = self.operand(node, 1)?;
        self.plan_for(node, experts, group.experts, group.top_k)
    }

    /// The kernel's range of the `Exchange` buffer, and the `World` buffer.
    fn meeting(&mut self, node: NodeId, config: &KernelConfig) -> Result<[Arg; 2], PassError> {
        let range = config.exchange().ok_or_else(|| PassError::Internal {
            pass: "select",
            what: format!("`{}` meets no other rank", config.family()),
        })?;
        let value = ValueId { node, result: 0 };
        let views = [self.pool.exchange(range)?, self.pool.world(range.group())?];
        Ok(views.map(|view| Arg { view, value }))
    }

    /// A result of the dispatch that left the record, operand 3.
    fn of_dispatch(&self, node: NodeId, result: usize) -> Result<Arg, PassError> {
        let record = self.operand(node, 3)?;
        let value = ValueId {
            node: record.node,
            result,
        };
        if self.graph.op(record.node).expert_group(0).is_none() {
            return Err(self.unsupported(
                node,
                record,
                "it is no record of a dispatch",
                "hand over the last result of the dispatch whose rows come back",
            ));
        }
        let view = self.placed(value)?.data.clone();
        Ok(Arg { view, value })
    }

    /// Blocks of a one-hop kernel: a warp for each pair, at most a block for each SM.
    fn blocks(&self, group: &ExpertGroup) -> u32 {
        let pairs = u64::from(group.tokens) * u64::from(group.top_k);
        let blocks = pairs.div_ceil(PAIRS_OF_A_BLOCK);
        u32::try_from(blocks).map_or(self.target.sms, |blocks| blocks.clamp(1, self.target.sms))
    }
}
