//! Matrix products: `matmul`, `grouped_matmul`, `batched_matmul`.
//!
//! Block-scaled operands take the FP8 kernel, dense or grouped; BF16 operands take the BF16 kernel, dense,
//! batched over heads, or grouped. Tiles come from [`crate::heuristics::gemm`].

use mcc_ir::kernel::{Epilogue, GemmBf16, GemmForm, GemmFp8, GemmTile, KernelConfig};
use mcc_ir::{DType, NodeId, ValueId};

use super::Lowering;
use super::pool::Layouts;
use crate::error::PassError;
use crate::heuristics::gemm::{self, GemmProblem};

impl Lowering<'_> {
    /// `matmul(x, w)`
    pub(super) fn matmul(
        &mut self,
        node: NodeId,
        out: DType,
        promote: u32,
    ) -> Result<(), PassError> {
        let (x, w) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let (n, k) = (self.extent(node, w, 0)?, self.extent(node, w, 1)?);
        let input = self.graph.ty(x).dtype;
        let problem = GemmProblem {
            promote,
            ..GemmProblem::new(
                input,
                out,
                GemmForm::Dense,
                self.usual_rows(x)?,
                n.into(),
                k.into(),
            )
        };
        let tile = self.tile(node, problem)?;
        if input == DType::E4M3 {
            let config = GemmFp8 {
                n,
                k,
                form: GemmForm::Dense,
                epilogue: Epilogue::Store,
                out,
                promote,
                tile,
            };
            return self.fp8(node, config);
        }
        let config = GemmBf16 {
            n,
            k,
            form: GemmForm::Dense,
            epilogue: Epilogue::Store,
            out,
            tile,
        };
        let args = vec![
            self.whole(node, 0)?,
            self.whole(node, 1)?,
            self.out(node, 0, Layouts::Rows)?,
        ];
        self.launch(node, KernelConfig::GemmBf16(config), args)
    }

    /// `grouped_matmul(x, w, offsets)`
    pub(super) fn grouped_matmul(
        &mut self,
        node: NodeId,
        out: DType,
        promote: u32,
    ) -> Result<(), PassError> {
        let (x, w) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let input = self.graph.ty(x).dtype;
        let groups = self.extent(node, w, 0)?;
        let (n, k) = (self.extent(node, w, 1)?, self.extent(node, w, 2)?);
        let problem = GemmProblem {
            promote,
            ..GemmProblem::new(
                input,
                out,
                GemmForm::Grouped { groups },
                self.usual_rows(x)?,
                n.into(),
                k.into(),
            )
        };
        let tile = self.tile(node, problem)?;
        if input != DType::E4M3 {
            let config = GemmBf16 {
                n,
                k,
                form: GemmForm::Grouped { groups },
                epilogue: Epilogue::Store,
                out,
                tile,
            };
            let args = vec![
                self.whole(node, 0)?,
                self.whole(node, 1)?,
                self.whole(node, 2)?,
                self.out(node, 0, Layouts::Rows)?,
            ];
            return self.launch(node, KernelConfig::GemmBf16(config), args);
        }
        let config = GemmFp8 {
            n,
            k,
            form: GemmForm::Grouped { groups },
            epilogue: Epilogue::Store,
            out,
            promote,
            tile,
        };
        self.fp8(node, config)
    }

    /// `batched_matmul(x, w)`
    pub(super) fn batched_matmul(&mut self, node: NodeId, out: DType) -> Result<(), PassError> {
        let (x, w) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let heads = self.extent(node, w, 0)?;
        let (n, k) = (self.extent(node, w, 1)?, self.extent(node, w, 2)?);
        // The leading axes of `x[M, H, K]` count the heads too.
        let rows = self.usual_rows(x)? / u64::from(heads).max(1);
        let problem = GemmProblem::new(
            DType::BF16,
            out,
            GemmForm::Batched { heads },
            rows,
            n.into(),
            k.into(),
        );
        let tile = self.tile(node, problem)?;
        let config = GemmBf16 {
            n,
            k,
            form: GemmForm::Batched { heads },
            epilogue: Epilogue::Store,
            out,
            tile,
        };
        let args = vec![
            self.whole(node, 0)?,
            self.whole(node, 1)?,
            self.out(node, 0, Layouts::Rows)?,
        ];
        self.launch(node, KernelConfig::GemmBf16(config), args)
    }

    fn fp8(&mut self, node: NodeId, config: GemmFp8) -> Result<(), PassError> {
        let w = self.operand(node, 1)?;
        let w_scales = super::Arg {
            view: self.scales_of(w)?.clone(),
            value: w,
        };
        let mut args = vec![
            self.whole(node, 0)?,
            self.scales(node, 0)?,
            self.whole(node, 1)?,
            w_scales,
        ];
        if config.form.groups().is_some() {
            args.push(self.whole(node, 2)?);
        }
        args.push(self.out(node, 0, Layouts::Rows)?);
        self.launch(node, KernelConfig::GemmFp8(config), args)
    }

    fn tile(&mut self, node: NodeId, problem: GemmProblem) -> Result<GemmTile, PassError> {
        let choice = gemm::choose(problem, self.target);
        self.explain(node, choice.to_string());
        choice.best().ok_or_else(|| {
            self.unsupported(
                node,
                ValueId { node, result: 0 },
                format!(
                    "no tile fits the {} bytes of shared memory of `{}`",
                    self.target.smem_bytes, self.target.name
                ),
                "use a target with more shared memory",
            )
        })
    }
}
