//! Matrix products: `matmul`, `grouped_matmul`, `masked_matmul`, `batched_matmul`, the ops fused around them, and
//! `weight_grad`.
//!
//! Block-scaled operands take the FP8 kernel, BF16 operands the BF16 kernel; the op says which form it is and what
//! becomes of the sums. Operands of the op and of the kernel stand in one order, so that all of them go one way:
//!
//! ```text
//! op       x            w            (offsets, counts)  (residual, row weights)  ->  out
//! kernel   a, a_scales, b, b_scales, (offsets, counts), (residual, row weights), d, (d_scales)
//! ```
//!
//! Tiles come from [`crate::heuristics::gemm`].

use mcc_ir::kernel::{Epilogue, GemmForm, GemmTile};
use mcc_ir::{DType, NodeId, ValueId};

use super::pool::Layouts;
use super::view::Placed;
use super::{Arg, Lowering};
use crate::error::PassError;
use crate::heuristics::gemm::{self, GemmProblem};

/// Columns that the SwiGLU epilogue works off together: one scale group of its result.
const SWIGLU_COLUMNS: u32 = 128;

impl Lowering<'_> {
    /// The form of `grouped_matmul(x, w, offsets)` and of the ops that are one with it.
    pub(super) fn grouped(&self, node: NodeId) -> Result<GemmForm, PassError> {
        let groups = self.experts(node)?;
        Ok(GemmForm::Grouped { groups })
    }

    /// The form of `masked_matmul(x, w, counts)` and of the ops that are one with it.
    pub(super) fn masked(&self, node: NodeId) -> Result<GemmForm, PassError> {
        let groups = self.experts(node)?;
        Ok(GemmForm::Masked { groups })
    }

    /// `batched_matmul(x, w)`
    pub(super) fn batched_matmul(&mut self, node: NodeId, out: DType) -> Result<(), PassError> {
        let heads = self.experts(node)?;
        let form = GemmForm::Batched { heads };
        self.product(node, form, Epilogue::Store, out, 128)
    }

    /// SwiGLU and quantisation of a product: `matmul_swiglu_quantize(x, w)` and the like.
    pub(super) fn gated_matmul(
        &mut self,
        node: NodeId,
        weighted: bool,
        promote: u32,
    ) -> Result<(), PassError> {
        let (x, w) = (self.operand(node, 0)?, self.operand(node, 1)?);
        if self.graph.ty(x).dtype != DType::E4M3 {
            return Err(self.unsupported(
                node,
                x,
                "no kernel quantises the SwiGLU of a BF16 product",
                "quantize `x` and the weights, or write the product and `swiglu_quantize` apart",
            ));
        }
        let columns = self.graph.ty(w).rank() - 2;
        if !self
            .extent(node, w, columns)?
            .is_multiple_of(2 * SWIGLU_COLUMNS)
        {
            return Err(self.unsupported(
                node,
                w,
                format!("SwiGLU leaves a width that is no multiple of {SWIGLU_COLUMNS}"),
                "write the product and `swiglu_quantize` apart",
            ));
        }
        // Rows of activations and weights without experts, with rows of experts in turn, or with room for each.
        let form = match (self.graph.ty(x).rank(), self.graph.ty(w).rank()) {
            (_, 2) => GemmForm::Dense,
            (2, _) => self.grouped(node)?,
            _ => self.masked(node)?,
        };
        let epilogue = Epilogue::SwigluQuantize { weighted };
        self.product(node, form, epilogue, DType::E4M3, promote)
    }

    /// `weight_grad(x, y, offsets, acc)`: the result is `acc`, added to in place.
    pub(super) fn weight_grad(&mut self, node: NodeId, promote: u32) -> Result<(), PassError> {
        let (x, y) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let acc = self.whole(node, 3)?;
        if !self.pool.is_state(&acc.view) {
            return Err(self.unsupported(
                node,
                acc.value,
                "it is added to in place, and only a whole state can be",
                "accumulate into a state of the model",
            ));
        }
        let groups = self.extent(node, acc.value, 0)?;
        let problem = GemmProblem {
            epilogue: Epilogue::Accumulate,
            promote,
            ..GemmProblem::new(
                self.graph.ty(x).dtype,
                DType::F32,
                GemmForm::KGrouped { groups },
                self.extent(node, x, 0)?.into(),
                self.extent(node, y, 0)?.into(),
                self.usual_extent(x, 1)?,
            )
        };
        let mut args = self.factors(node)?;
        args.push(self.whole(node, 2)?);
        let result = ValueId { node, result: 0 };
        self.place(
            result,
            Placed {
                data: acc.view.clone(),
                scales: None,
            },
        );
        args.push(Arg {
            view: acc.view,
            value: result,
        });
        self.launch_product(node, problem, args)
    }

    /// Matrices on the right: experts or heads.
    fn experts(&self, node: NodeId) -> Result<u32, PassError> {
        let w = self.operand(node, 1)?;
        self.extent(node, w, 0)
    }

    /// A product and what is fused around it: operands in the order of the module doc.
    pub(super) fn product(
        &mut self,
        node: NodeId,
        form: GemmForm,
        epilogue: Epilogue,
        out: DType,
        promote: u32,
    ) -> Result<(), PassError> {
        let (x, w) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let columns = self.graph.ty(w).rank() - 2;
        let (n, k) = (
            self.extent(node, w, columns)?,
            self.extent(node, w, columns + 1)?,
        );
        let rows = match form {
            // The leading axes of `x[M, H, K]` count the heads too.
            GemmForm::Batched { heads } => self.usual_rows(x)? / u64::from(heads).max(1),
            _ => self.usual_rows(x)?,
        };
        let problem = GemmProblem {
            epilogue,
            promote,
            ..GemmProblem::new(self.graph.ty(x).dtype, out, form, rows, n.into(), k.into())
        };
        let mut args = self.factors(node)?;
        for index in 2..self.graph.operands(node).len() {
            args.push(self.whole(node, index)?);
        }
        let value = ValueId { node, result: 0 };
        let result = self.result(node, 0, Layouts::Rows)?;
        let views = [Some(result.data), result.scales];
        args.extend(views.into_iter().flatten().map(|view| Arg { view, value }));
        self.launch_product(node, problem, args)
    }

    /// The first two operands, each followed by its scales if it has any.
    fn factors(&self, node: NodeId) -> Result<Vec<Arg>, PassError> {
        let mut args = Vec::with_capacity(4);
        for index in 0..2 {
            let value = self.operand(node, index)?;
            args.push(self.whole(node, index)?);
            if self.graph.ty(value).scale.is_some() {
                let view = self.scales_of(value)?.clone();
                args.push(Arg { view, value });
            }
        }
        Ok(args)
    }

    fn launch_product(
        &mut self,
        node: NodeId,
        problem: GemmProblem,
        args: Vec<Arg>,
    ) -> Result<(), PassError> {
        let tile = self.tile(node, problem)?;
        let config = problem.config(tile).ok_or_else(|| PassError::Internal {
            pass: "select",
            what: format!("{problem:?} has an extent that no kernel has"),
        })?;
        self.launch(node, config, args)
    }

    fn tile(&mut self, node: NodeId, problem: GemmProblem) -> Result<GemmTile, PassError> {
        let choice = gemm::choose(problem, self.target);
        self.explain(node, choice.to_string());
        choice.best().ok_or_else(|| {
            self.unsupported(
                node,
                ValueId { node, result: 0 },
                format!(
                    "no tile of the kernels fits it and the {} bytes of shared memory of `{}`",
                    self.target.smem_bytes, self.target.name
                ),
                "use a target with more shared memory, or write what follows the product as an op of its own",
            )
        })
    }
}
