//! What an op costs on a target: a roofline estimate at the upper bounds of the named dims.
//!
//! In: an op with its types. Out: kernel launches, bytes read and written, and the time for them. An op takes its
//! launches plus the longer of its memory time and its tensor-core time. Views (`slice`, `reshape`) take nothing;
//! a fused op takes its own traffic, not its expansion's. Integer arithmetic throughout: equal on every host.

use std::collections::HashMap;
use std::ops::{Add, AddAssign, Sub, SubAssign};

use mcc_ir::module::Module;
use mcc_ir::op::Op;
use mcc_ir::types::{DType, Dim, Name, ScaleBlock, Type};

use crate::target::Target;

/// Femtoseconds: a byte of HBM3 takes some 300. Wide enough for sums of any graph, which stay exact.
pub(super) type Femtoseconds = i128;

const FS_PER_S: u128 = 1_000_000_000_000_000;

/// Estimated cost; compared by time, then by number of ops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    pub(super) time: Femtoseconds,
    pub(super) ops: i128,
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            time: self.time + other.time,
            ops: self.ops + other.ops,
        }
    }
}

impl Sub for Cost {
    type Output = Cost;
    fn sub(self, other: Cost) -> Cost {
        Cost {
            time: self.time - other.time,
            ops: self.ops - other.ops,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        *self = *self + other;
    }
}

impl SubAssign for Cost {
    fn sub_assign(&mut self, other: Cost) {
        *self = *self - other;
    }
}

/// What one op moves and computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OpCost {
    /// Kernels that it becomes.
    pub(super) launches: u64,
    /// Bytes read.
    pub(super) reads: u64,
    /// Bytes written for each result; a result that nobody uses is not written.
    pub(super) writes: Vec<u64>,
    /// Time on the tensor cores.
    compute: Femtoseconds,
    /// Time for launches.
    overhead: Femtoseconds,
    /// Device memory bandwidth.
    bytes_per_s: u64,
}

impl OpCost {
    /// Bytes moved when only these results are used.
    pub(super) fn bytes(&self, used: impl Fn(usize) -> bool) -> u64 {
        let writes = self
            .writes
            .iter()
            .enumerate()
            .filter(|(result, _)| used(*result));
        writes.fold(self.reads, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Cost when only these results are used.
    pub(super) fn total(&self, used: impl Fn(usize) -> bool) -> Cost {
        let memory = femtoseconds(self.bytes(used), self.bytes_per_s);
        Cost {
            time: self.overhead + memory.max(self.compute),
            ops: 1,
        }
    }
}

/// Time for so many units at so many a second.
fn femtoseconds(amount: u64, per_s: u64) -> Femtoseconds {
    let time = u128::from(amount) * FS_PER_S / u128::from(per_s.max(1));
    i128::try_from(time).unwrap_or(i128::MAX)
}

/// Costs of a module's ops on a target.
pub(super) struct CostModel<'a> {
    target: &'a Target,
    /// Upper bounds of the named dims.
    bounds: HashMap<Name, u64>,
}

impl<'a> CostModel<'a> {
    pub(super) fn new(module: &Module, target: &'a Target) -> CostModel<'a> {
        let bounds = module
            .dims
            .iter()
            .map(|dim| (dim.name.clone(), dim.max))
            .collect();
        CostModel { target, bounds }
    }

    /// The cost of an op whose operands and results have these types.
    pub(super) fn of(&self, op: &Op, operands: &[Type], results: &[Type]) -> OpCost {
        let all: u64 = operands
            .iter()
            .fold(0, |sum, ty| sum.saturating_add(self.bytes(ty)));
        let reads = |from: &[usize]| {
            from.iter()
                .filter_map(|i| operands.get(*i))
                .fold(0u64, |sum, ty| sum.saturating_add(self.bytes(ty)))
        };
        let mut writes: Vec<u64> = results.iter().map(|ty| self.bytes(ty)).collect();
        let (launches, reads) = match op {
            Op::Input { .. } | Op::Param { .. } | Op::State { .. } | Op::Slice { .. } => {
                return self.free(results);
            }
            Op::Reshape { .. } if keeps_scale_layout(operands, results) => {
                return self.free(results);
            }
            // The rows taken, not the table.
            Op::Gather => (1, writes[0].saturating_add(reads(&[1]))),
            // In place: this step's rows are written, the others stay.
            Op::CacheWrite => {
                writes[0] = reads(&[1]);
                (1, reads(&[1, 2]))
            }
            Op::MlaCacheWrite { .. } => {
                writes[0] = reads(&[1]);
                (
                    1,
                    reads(&[1, 2, 3]).saturating_add(self.table_rows(operands, 3, 4)),
                )
            }
            Op::Rope { .. } => (
                1,
                reads(&[0, 1]).saturating_add(self.table_rows(operands, 1, 2)),
            ),
            // The plan over experts, then the copy of rows.
            Op::Dispatch { .. } => (2, all),
            _ => (1, all),
        };
        OpCost {
            launches,
            reads,
            writes,
            compute: self.compute(op, operands),
            overhead: femtoseconds(self.target.launch_ns * launches, 1_000_000_000),
            bytes_per_s: self.target.hbm_bytes_per_s,
        }
    }

    fn free(&self, results: &[Type]) -> OpCost {
        OpCost {
            writes: vec![0; results.len()],
            bytes_per_s: self.target.hbm_bytes_per_s,
            ..OpCost::default()
        }
    }

    /// Bytes of the rotary table's rows at `positions`.
    fn table_rows(&self, operands: &[Type], positions: usize, table: usize) -> u64 {
        let (Some(positions), Some(table)) = (operands.get(positions), operands.get(table)) else {
            return 0;
        };
        let row = table.with_shape(table.shape.iter().skip(1).cloned().collect());
        self.elements(&positions.shape)
            .saturating_mul(self.bytes(&row))
            .min(self.bytes(table))
    }

    /// Tensor-core time of a matrix op.
    fn compute(&self, op: &Op, operands: &[Type]) -> Femtoseconds {
        let elements = |i: usize| operands.get(i).map_or(0, |ty| self.elements(&ty.shape));
        let extent = |i: usize, axis: usize| {
            operands
                .get(i)
                .and_then(|ty| ty.shape.get(axis))
                .map_or(0, |dim| self.extent(dim))
        };
        // Multiply-adds: elements of the left operand times columns of the right one.
        let products = match op {
            Op::Matmul { .. }
            | Op::MatmulAdd { .. }
            | Op::MatmulSwigluQuantize { .. }
            | Op::MatmulSwigluScaleQuantize { .. }
            | Op::WeightGrad { .. } => elements(0).saturating_mul(extent(1, 0)),
            Op::BatchedMatmul { .. }
            | Op::GroupedMatmul { .. }
            | Op::GroupedMatmulSwigluQuantize { .. }
            | Op::GroupedMatmulSwigluScaleQuantize { .. }
            | Op::MaskedMatmul { .. } => elements(0).saturating_mul(extent(1, 1)),
            Op::Attention { .. } => {
                let channels = extent(0, 2)
                    .saturating_add(extent(1, 2))
                    .saturating_add(extent(4, 2));
                let scores = extent(0, 0)
                    .saturating_mul(extent(0, 1))
                    .saturating_mul(extent(2, 0));
                scores.saturating_mul(channels)
            }
            _ => return 0,
        };
        let fp8 = operands.first().is_some_and(|ty| ty.dtype == DType::E4M3);
        let flops = if fp8 {
            self.target.fp8_flops
        } else {
            self.target.bf16_flops
        };
        femtoseconds(products.saturating_mul(2), flops)
    }

    /// Bytes of a value, scales included.
    fn bytes(&self, ty: &Type) -> u64 {
        let codes = self.elements(&ty.shape).saturating_mul(ty.dtype.bytes());
        let Some(block) = ty.scale else { return codes };
        let rank = ty.rank();
        let blocks = ty
            .shape
            .iter()
            .enumerate()
            .fold(1u64, |product, (axis, dim)| {
                let extent = self.extent(dim);
                product.saturating_mul(match rank - axis {
                    1 => extent.div_ceil(u64::from(block.cols).max(1)),
                    2 => extent.div_ceil(u64::from(block.rows).max(1)),
                    _ => extent,
                })
            });
        codes.saturating_add(blocks.saturating_mul(4))
    }

    fn elements(&self, shape: &[Dim]) -> u64 {
        shape
            .iter()
            .fold(1, |product, dim| product.saturating_mul(self.extent(dim)))
    }

    /// The extent at the upper bound of its named dim.
    fn extent(&self, dim: &Dim) -> u64 {
        dim.resolve(|name| self.bounds.get(name).copied())
            .unwrap_or(u64::MAX)
    }
}

/// Whether the reshape is a view. The scales of activations lie group-major (`[K/128, M]`), so they stay where
/// they are only if rows keep their width; otherwise the reshape copies.
fn keeps_scale_layout(operands: &[Type], results: &[Type]) -> bool {
    match (operands, results) {
        ([from], [to]) => from.scale != Some(ScaleBlock::ACTIVATION) || from.last() == to.last(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(op: &Op, operands: &[&str]) -> OpCost {
        let mut module = Module::new("costs");
        module.add_dim("T", 1, 16).unwrap();
        module.add_dim("C", 1, 1 << 62).unwrap();
        let operands: Vec<Type> = operands.iter().map(|ty| ty.parse().unwrap()).collect();
        let results = op.infer(&operands).unwrap();
        CostModel::new(&module, &Target::load("h100").unwrap()).of(op, &operands, &results)
    }

    #[test]
    fn a_cache_write_moves_the_rows_of_the_step_alone() {
        let cost = of(&Op::CacheWrite, &["bf16[C, 192]", "bf16[T, 192]", "i32[T]"]);
        let rows = 16 * 192 * 2;
        assert_eq!((cost.reads, &cost.writes[..]), (rows + 16 * 4, &[rows][..]));
    }

    #[test]
    fn a_gather_reads_the_rows_that_it_takes() {
        let cost = of(&Op::Gather, &["bf16[1024, 256]", "i32[T]"]);
        assert_eq!(cost.reads, 16 * 256 * 2 + 16 * 4);
    }

    #[test]
    fn scales_count_and_partial_groups_count_whole() {
        let cost = of(&Op::Quantize, &["bf16[T, 300]"]);
        assert_eq!(cost.writes, [16 * 300 + 16 * 3 * 4]);
        let weights = of(&Op::Dequantize, &["e4m3[300, 200]/f32[128x128]"]);
        assert_eq!(weights.reads, 300 * 200 + 3 * 2 * 4);
    }

    #[test]
    fn a_view_is_free_and_a_reshape_that_moves_scales_is_not() {
        let shape = |dims: &[u64]| Op::Reshape {
            shape: dims.iter().map(|n| Dim::Const(*n)).collect(),
        };
        assert_eq!(of(&shape(&[4, 128]), &["bf16[512]"]).launches, 0);
        assert_eq!(
            of(&shape(&[8, 512]), &["e4m3[4, 2, 512]/f32[1x128]"]).launches,
            0
        );
        assert_eq!(
            of(&shape(&[4, 1024]), &["e4m3[4, 2, 512]/f32[1x128]"]).launches,
            1
        );
    }

    #[test]
    fn large_products_are_bound_by_the_tensor_cores_and_small_ones_by_memory() {
        let matmul = Op::Matmul {
            out: DType::BF16,
            promote: 128,
        };
        let large = of(&matmul, &["bf16[4096, 4096]", "bf16[4096, 4096]"]);
        assert!(large.compute > femtoseconds(large.bytes(|_| true), large.bytes_per_s));
        let small = of(&matmul, &["bf16[T, 4096]", "bf16[4096, 4096]"]);
        assert!(small.compute < femtoseconds(small.bytes(|_| true), small.bytes_per_s));
        // E4M3 runs at twice the rate.
        let fp8 = of(
            &matmul,
            &[
                "e4m3[4096, 4096]/f32[1x128]",
                "e4m3[4096, 4096]/f32[128x128]",
            ],
        );
        assert_eq!(fp8.compute, large.compute / 2);
    }

    #[test]
    fn extents_beyond_any_memory_saturate() {
        let cost = of(&Op::Add, &["bf16[C, 192]", "bf16[C, 192]"]);
        assert_eq!(cost.bytes(|_| true), u64::MAX);
        let time = cost.total(|_| true).time;
        assert_eq!(
            time,
            cost.overhead + femtoseconds(u64::MAX, cost.bytes_per_s)
        );
    }
}
