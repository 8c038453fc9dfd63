//! What an op computes: products on the tensor cores, arithmetic and special functions on the CUDA cores.
//!
//! In: an op and the extents of its operands. Out: counts. Block-scaled products add their partial sums up on the CUDA
//! cores, one multiply-add of every sum for each promotion interval: with intervals of 128 that is a quarter of the
//! tensor cores' time, with intervals of 32 nearly all of it (arXiv 2412.19437, section 3.3.2).

use mcc_ir::op::Op;
use mcc_ir::types::DType;

/// Counts of one op.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Multiply-adds on the tensor cores.
    pub(super) products: u64,
    /// Whether they are of E4M3.
    pub(super) fp8: bool,
    /// Floating-point operations in FP32; a multiply-add is two.
    pub(super) flops: u64,
    /// Exponentials, reciprocals, roots.
    pub(super) special: u64,
}

/// Operations on each element, orders of magnitude: none of these ops is bound by them on any target so far.
const NORM: u64 = 5;
const QUANTIZE: u64 = 4;
const SWIGLU: u64 = 6;
/// Scale, maximum, difference, sum and rescaling of a score.
const SOFTMAX: u64 = 6;

impl Work {
    /// The work of `op`. `elements` of an operand, `extent` of an operand's axis, `written` elements of the first result.
    pub(super) fn of(
        op: &Op,
        dtype: Option<DType>,
        elements: impl Fn(usize) -> u64,
        extent: impl Fn(usize, usize) -> u64,
        written: u64,
    ) -> Work {
        let each = |flops: u64| Work {
            flops: elements(0).saturating_mul(flops),
            ..Work::default()
        };
        let gate = |quantize: u64| Work {
            flops: written.saturating_mul(SWIGLU + quantize),
            special: written.saturating_mul(2),
            ..Work::default()
        };
        let product = |columns: u64, promote: u32| {
            let products = elements(0).saturating_mul(columns);
            let fp8 = dtype == Some(DType::E4M3);
            let promotions = if fp8 {
                products / u64::from(promote).max(1)
            } else {
                0
            };
            Work {
                products,
                fp8,
                flops: promotions.saturating_mul(2),
                special: 0,
            }
        };
        match op {
            Op::Add | Op::Dequantize | Op::ScaleRows => each(1),
            Op::RmsNorm { .. } => each(NORM),
            Op::Quantize | Op::QuantizePow2 | Op::QuantizeWide { .. } => each(QUANTIZE),
            Op::RmsNormQuantize { .. } => each(NORM + QUANTIZE),
            Op::AddRmsNorm { .. } => each(1 + NORM),
            Op::AddRmsNormQuantize { .. } => each(1 + NORM + QUANTIZE),
            Op::Rope { .. } => each(3),
            Op::Combine | Op::CombineAdd => each(2),
            Op::CombineSum => each(1),
            Op::CombineAddRmsNormQuantize { .. } => each(2).and(Work {
                flops: written.saturating_mul(1 + NORM + QUANTIZE),
                ..Work::default()
            }),
            Op::Sample => Work {
                special: elements(0),
                ..each(4)
            },
            Op::Swiglu => gate(0),
            Op::SwigluQuantize => gate(QUANTIZE),
            Op::Matmul { promote, .. } => product(extent(1, 0), *promote),
            Op::MatmulAdd { promote, .. } => product(extent(1, 0), *promote).and(Work {
                flops: written,
                ..Work::default()
            }),
            Op::MatmulSwigluQuantize { promote } => {
                product(extent(1, 0), *promote).and(gate(QUANTIZE))
            }
            Op::MatmulSwigluScaleQuantize { promote } => {
                product(extent(1, 0), *promote).and(gate(1 + QUANTIZE))
            }
            Op::WeightGrad { promote } => product(extent(1, 0), *promote),
            Op::BatchedMatmul { .. } => product(extent(1, 1), 1),
            Op::GroupedMatmul { promote, .. } | Op::MaskedMatmul { promote, .. } => {
                product(extent(1, 1), *promote)
            }
            Op::GroupedMatmulSwigluQuantize { promote }
            | Op::MaskedMatmulSwigluQuantize { promote } => {
                product(extent(1, 1), *promote).and(gate(QUANTIZE))
            }
            Op::GroupedMatmulSwigluScaleQuantize { promote }
            | Op::MaskedMatmulSwigluScaleQuantize { promote } => {
                product(extent(1, 1), *promote).and(gate(1 + QUANTIZE))
            }
            // Every query against every position: which of them the mask hides is known at run time.
            Op::Attention { .. } => {
                let channels = extent(0, 2)
                    .saturating_add(extent(1, 2))
                    .saturating_add(extent(4, 2));
                let scores = extent(0, 0)
                    .saturating_mul(extent(0, 1))
                    .saturating_mul(extent(2, 0));
                Work {
                    products: scores.saturating_mul(channels),
                    fp8: false,
                    flops: scores.saturating_mul(SOFTMAX),
                    special: scores,
                }
            }
            _ => Work::default(),
        }
    }

    /// Both, where one follows the other in a kernel.
    fn and(self, other: Work) -> Work {
        Work {
            flops: self.flops.saturating_add(other.flops),
            special: self.special.saturating_add(other.special),
            ..self
        }
    }
}
