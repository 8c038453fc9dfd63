//! Row-wise kernels: gather, add, scale_rows, the norms, quantize, swiglu, rope, sample.
//!
//! Leading axes merge into one, so that `[T, H, W]` runs as `T*H` rows. Results of a fused op that nothing reads
//! are switched off in the config: the kernel then neither computes nor stores them.

use mcc_ir::kernel::{
    Add, Gather, KernelConfig, Quantize, RmsNorm, Rope, Sample, ScaleRows, Swiglu,
};
use mcc_ir::{NodeId, Op, ScaleBlock, ValueId};

use super::Lowering;
use super::pool::Layouts;
use super::view;
use crate::error::PassError;

impl Lowering<'_> {
    /// `gather(table, index)`
    pub(super) fn gather(&mut self, node: NodeId) -> Result<(), PassError> {
        let mut args = vec![self.whole(node, 0)?];
        let table = args[0].value;
        let quant = match self.graph.ty(table).scale {
            None => false,
            Some(ScaleBlock::ACTIVATION) => true,
            Some(_) => {
                let why = "its rows share scales with other rows";
                let bf16 = "gather from the BF16 value, and quantise the rows taken";
                return Err(self.unsupported(node, table, why, bf16));
            }
        };
        if quant {
            args.push(self.scales(node, 0)?);
        }
        args.push(self.whole(node, 1)?);
        let width = self.width(node, table)?;
        args.extend(self.out_rows(node, 0)?);
        self.launch(node, KernelConfig::Gather(Gather { width, quant }), args)
    }

    /// `add(a, b)`
    pub(super) fn add(&mut self, node: NodeId) -> Result<(), PassError> {
        let mut args = vec![self.rows(node, 0)?, self.rows(node, 1)?];
        let width = self.width(node, args[0].value)?;
        args.extend(self.out_rows(node, 0)?);
        self.launch(node, KernelConfig::Add(Add { width }), args)
    }

    /// `scale_rows(x, s)`
    pub(super) fn scale_rows(&mut self, node: NodeId) -> Result<(), PassError> {
        let mut args = vec![self.rows(node, 0)?];
        let mut factors = self.whole(node, 1)?;
        // One for each row, whatever axes the rows have.
        if let [rows, _] = &args[0].view.shape[..]
            && let Some(view) = view::reshape(&factors.view, std::slice::from_ref(rows))
        {
            factors.view = view;
        }
        args.push(factors);
        let width = self.width(node, args[0].value)?;
        args.extend(self.out_rows(node, 0)?);
        self.launch(node, KernelConfig::ScaleRows(ScaleRows { width }), args)
    }

    /// `rms_norm(x, w)`, `rms_norm_quantize(x, w)`, `add_rms_norm(x, r, w)`, `add_rms_norm_quantize(x, r, w)`
    pub(super) fn rms_norm(&mut self, node: NodeId, eps: f32) -> Result<(), PassError> {
        // Which result is which: (sum, norm, codes).
        let (sum, norm, codes) = match self.graph.op(node) {
            Op::RmsNormQuantize { .. } => (None, Some(0), Some(1)),
            Op::AddRmsNorm { .. } => (Some(0), Some(1), None),
            Op::AddRmsNormQuantize { .. } => (Some(0), Some(1), Some(2)),
            _ => (None, Some(0), None),
        };
        let used =
            |result: Option<usize>| result.filter(|&result| self.is_used(ValueId { node, result }));
        let written = [used(sum), used(norm), used(codes)];
        if written == [None; 3] {
            return Ok(());
        }
        let residual = sum.is_some();
        let x = self.rows(node, 0)?;
        let config = RmsNorm {
            width: self.width(node, x.value)?,
            eps,
            residual,
            emit_sum: written[0].is_some(),
            emit_norm: written[1].is_some(),
            emit_quant: written[2].is_some(),
        };
        let mut args = vec![x];
        if residual {
            args.push(self.rows(node, 1)?);
        }
        args.push(self.whole(node, 1 + usize::from(residual))?);
        for result in written.into_iter().flatten() {
            args.extend(self.out_rows(node, result)?);
        }
        self.launch(node, KernelConfig::RmsNorm(config), args)
    }

    /// `quantize(x)`
    pub(super) fn quantize(&mut self, node: NodeId) -> Result<(), PassError> {
        let mut args = vec![self.rows(node, 0)?];
        let width = self.width(node, args[0].value)?;
        args.extend(self.out_rows(node, 0)?);
        self.launch(node, KernelConfig::Quantize(Quantize { width }), args)
    }

    /// `swiglu(x)`, `swiglu_quantize(x)`
    pub(super) fn swiglu(&mut self, node: NodeId, quant: bool) -> Result<(), PassError> {
        let mut args = vec![self.rows(node, 0)?];
        let width = self.width(node, ValueId { node, result: 0 })?;
        args.extend(self.out_rows(node, 0)?);
        self.launch(node, KernelConfig::Swiglu(Swiglu { width, quant }), args)
    }

    /// `rope(x, positions, table)`; `x[T, D]` runs as one head.
    pub(super) fn rope(&mut self, node: NodeId, start: u64) -> Result<(), PassError> {
        let mut x = self.whole(node, 0)?;
        let (positions, table) = (self.whole(node, 1)?, self.whole(node, 2)?);
        let mut out = self.out(node, 0, Layouts::Dense)?;
        let width = self.width(node, x.value)?;
        let heads = if self.graph.ty(x.value).rank() == 3 {
            self.extent(node, x.value, 1)?
        } else {
            1
        };
        for arg in [&mut x, &mut out]
            .into_iter()
            .filter(|arg| arg.view.shape.len() == 2)
        {
            let mut shape = arg.view.shape.clone();
            shape.insert(1, mcc_ir::Dim::Const(1));
            if let Some(view) = view::reshape(&arg.view, &shape) {
                arg.view = view;
            }
        }
        let config = Rope {
            heads,
            width,
            // The op's rule keeps `start` below the width, which fits.
            start: u32::try_from(start).unwrap_or(width),
            dim: self.extent(node, table.value, 1)?.saturating_mul(2),
        };
        self.launch(
            node,
            KernelConfig::Rope(config),
            vec![x, positions, table, out],
        )
    }

    /// `sample(logits, temperature, top_p, uniform)`
    pub(super) fn sample(&mut self, node: NodeId) -> Result<(), PassError> {
        let logits = self.rows(node, 0)?;
        let vocab = self.width(node, logits.value)?;
        let mut args = vec![
            logits,
            self.whole(node, 1)?,
            self.whole(node, 2)?,
            self.whole(node, 3)?,
        ];
        args.push(self.out(node, 0, Layouts::Dense)?);
        self.launch(node, KernelConfig::Sample(Sample { vocab }), args)
    }
}
