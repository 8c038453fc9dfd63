//! What an op costs on a target and a mesh: a roofline at the extents that the named dims usually have.
//!
//! In: an op with its types. Out: kernel launches, bytes for each level of memory and each kind of link, and the time for
//! them. Integer arithmetic throughout: equal on every host.
//!
//! ```text
//! time = launches + the longest of
//!          hbm      what comes from device memory or is too large to stay in the L2
//!          l2       all bytes read and written
//!          tensor   products, at the clock that long matrix work settles at
//!          vector   FP32 arithmetic, promotion of FP8 sums among it
//!          special  exponentials, reciprocals, roots
//!          nvlink   rows sent inside of nodes                        links.rs
//!          ib       rows sent between nodes
//! ```
//!
//! Views (`slice`, `reshape`) take nothing; a fused op takes its own traffic, not its expansion's. The time is a lower
//! bound for kernels that reach every peak: good for comparing graphs, and for how far a schedule is from the best.

mod links;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Add, AddAssign, Sub, SubAssign};

use mcc_ir::graph::{Graph, NodeId};
use mcc_ir::mesh::Mesh;
use mcc_ir::module::Module;
use mcc_ir::op::Op;
use mcc_ir::types::{Dim, Name, ScaleBlock, Type};
use serde::Serialize;

use crate::select::DimHint;
use crate::target::Target;
pub(super) use links::Copies;
use work::Work;

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

/// An operand as costs see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand<'a> {
    /// Its type.
    pub(super) ty: &'a Type,
    /// Whether it lies in memory since before the entry, as parameters and states do, or in a view of such a value.
    pub(super) stored: bool,
    /// Whether an earlier operand is the same value: it is read once.
    pub(super) again: bool,
}

/// Whether a result is a stored value as its first operand is: a view of it, or the same memory written in place.
pub(super) fn keeps_store(op: &Op) -> bool {
    matches!(
        op,
        Op::Slice { .. } | Op::Reshape { .. } | Op::CacheWrite | Op::MlaCacheWrite { .. }
    )
}

/// What can bound an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Kernel launches.
    Launch,
    /// Device memory.
    Hbm,
    /// The second-level cache.
    L2,
    /// Tensor cores.
    Tensor,
    /// FP32 arithmetic.
    Vector,
    /// Special functions.
    Special,
    /// NVLink.
    Nvlink,
    /// InfiniBand.
    Ib,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Launch => "launch",
            Self::Hbm => "hbm",
            Self::L2 => "l2",
            Self::Tensor => "tensor",
            Self::Vector => "vector",
            Self::Special => "special",
            Self::Nvlink => "nvlink",
            Self::Ib => "ib",
        })
    }
}

/// Bytes of one result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) bytes: u64,
    /// Whether they go to device memory: too many to wait in the L2 for the op that reads them.
    pub(super) far: bool,
}

/// Rows that an op sends between ranks.
pub(super) struct Sent {
    /// Of one row with its scales: a token's bytes for each destination.
    pub(super) row_bytes: u64,
    /// Tokens of this rank.
    pub(super) tokens: u64,
    /// How often a token's row is sent.
    pub(super) copies: Copies,
}

/// What one op moves and computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OpCost {
    /// Kernels that it becomes.
    pub(super) launches: u64,
    /// Bytes read.
    pub(super) reads: u64,
    /// Those of them that come from device memory.
    pub(super) far_reads: u64,
    /// Bytes written for each result; a result that nobody uses is not written.
    pub(super) writes: Vec<Write>,
    /// Bytes that a rank sends inside of its node.
    pub(super) nvlink_bytes: u64,
    /// Bytes that a rank sends to other nodes.
    pub(super) ib_bytes: u64,
    /// Times that do not depend on which results are used.
    fixed: Vec<(Bound, Femtoseconds)>,
    /// Time for launches.
    overhead: Femtoseconds,
    hbm_bytes_per_s: u64,
    l2_bytes_per_s: u64,
}

impl OpCost {
    /// Bytes of global memory moved when only these results are used.
    pub(super) fn bytes(&self, used: impl Fn(usize) -> bool) -> u64 {
        self.sum(self.reads, |result, _| used(result))
    }

    /// Those of them that go from or to device memory.
    pub(super) fn far_bytes(&self, used: impl Fn(usize) -> bool) -> u64 {
        self.sum(self.far_reads, |result, write| write.far && used(result))
    }

    /// An op with that many results that takes so long, whichever of them are used, and a nanosecond for each of them
    /// that is, where there are several.
    #[cfg(test)]
    pub(super) fn of_ns(ns: u64, results: usize) -> OpCost {
        let bytes = if results > 1 { 1 } else { 0 };
        let write = Write { bytes, far: true };
        OpCost {
            writes: vec![write; results],
            overhead: i128::from(ns) * 1_000_000,
            hbm_bytes_per_s: 1_000_000_000,
            l2_bytes_per_s: 1_000_000_000,
            ..OpCost::default()
        }
    }

    fn sum(&self, reads: u64, of: impl Fn(usize, &Write) -> bool) -> u64 {
        let writes = self.writes.iter().enumerate();
        let of = writes.filter(|(result, write)| of(*result, write));
        of.fold(reads, |sum, (_, write)| sum.saturating_add(write.bytes))
    }

    /// What takes longest when only these results are used, and its time; launches go before.
    pub(super) fn longest(&self, used: impl Fn(usize) -> bool) -> (Bound, Femtoseconds) {
        let hbm = femtoseconds(self.far_bytes(&used), self.hbm_bytes_per_s);
        let l2 = femtoseconds(self.bytes(&used), self.l2_bytes_per_s);
        let mut longest = if l2 > hbm {
            (Bound::L2, l2)
        } else {
            (Bound::Hbm, hbm)
        };
        for (bound, time) in &self.fixed {
            if *time > longest.1 {
                longest = (*bound, *time);
            }
        }
        longest
    }

    /// What to blame for the op's time.
    pub(super) fn bound(&self, used: impl Fn(usize) -> bool) -> Bound {
        let (bound, time) = self.longest(used);
        if self.overhead > time {
            Bound::Launch
        } else {
            bound
        }
    }

    /// Cost when only these results are used.
    pub(super) fn total(&self, used: impl Fn(usize) -> bool) -> Cost {
        Cost {
            time: self.overhead + self.longest(used).1,
            ops: 1,
        }
    }
}

/// Launches, bytes and time of several ops together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Kernel launches.
    pub launches: i64,
    /// Bytes of global memory.
    pub bytes: i64,
    /// Bytes that a rank sends inside of its node.
    pub nvlink_bytes: i64,
    /// Bytes that a rank sends to other nodes.
    pub ib_bytes: i64,
    /// Femtoseconds.
    pub time: i128,
}

impl Sums {
    /// Adds an op of which these results are used.
    pub(super) fn add(&mut self, op: &OpCost, used: impl Fn(usize) -> bool) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.launches = self.launches.saturating_add(signed(op.launches));
        self.bytes = self.bytes.saturating_add(signed(op.bytes(&used)));
        self.nvlink_bytes = self.nvlink_bytes.saturating_add(signed(op.nvlink_bytes));
        self.ib_bytes = self.ib_bytes.saturating_add(signed(op.ib_bytes));
        self.time += op.total(used).time;
    }
}

impl Sub for Sums {
    type Output = Sums;
    fn sub(self, other: Sums) -> Sums {
        Sums {
            launches: self.launches - other.launches,
            bytes: self.bytes.saturating_sub(other.bytes),
            nvlink_bytes: self.nvlink_bytes.saturating_sub(other.nvlink_bytes),
            ib_bytes: self.ib_bytes.saturating_sub(other.ib_bytes),
            time: self.time - other.time,
        }
    }
}

/// Time for so many units at so many a second.
fn femtoseconds(amount: u64, per_s: u64) -> Femtoseconds {
    let time = u128::from(amount) * FS_PER_S / u128::from(per_s.max(1));
    i128::try_from(time).unwrap_or(i128::MAX)
}

/// Costs of an entry's ops on a target and the module's mesh.
pub(super) struct CostModel<'a> {
    target: &'a Target,
    mesh: Mesh,
    /// The extents at which costs are counted.
    extents: HashMap<Name, u64>,
}

impl<'a> CostModel<'a> {
    /// Costs at the usual extents of the entry's dims, or else at their upper bounds.
    pub(super) fn new(
        module: &Module,
        entry: &str,
        target: &'a Target,
        usual: &[DimHint],
    ) -> CostModel<'a> {
        let extents = module.dims.iter().map(|dim| {
            let hint = usual
                .iter()
                .find(|hint| hint.entry == entry && *hint.dim == *dim.name);
            let extent = hint.map_or(dim.max, |hint| hint.usual.clamp(dim.min, dim.max));
            (dim.name.clone(), extent)
        });
        CostModel {
            target,
            mesh: module.mesh.unwrap_or(Mesh::ONE),
            extents: extents.collect(),
        }
    }

    /// The extents at which costs are counted.
    pub(super) fn extents(&self) -> BTreeMap<String, u64> {
        let extents = self.extents.iter();
        extents
            .map(|(name, extent)| (name.to_string(), *extent))
            .collect()
    }

    /// The cost of each op of an entry, in topological order, leaves left out; with the results that are used.
    pub(super) fn of_graph(&self, entry: &Graph) -> Vec<(NodeId, OpCost, Vec<bool>)> {
        let named: HashSet<_> = entry
            .updates
            .iter()
            .chain(&entry.outputs)
            .map(|(_, value)| *value)
            .collect();
        let mut stored: HashSet<NodeId> = HashSet::new();
        let mut costs = Vec::new();
        for id in entry.topo() {
            let (op, values) = (entry.op(id), entry.operands(id));
            let first = values.first().map(|value| value.node);
            if op.is_leaf() || (keeps_store(op) && first.is_some_and(|id| stored.contains(&id))) {
                stored.insert(id);
            }
            if op.is_leaf() {
                continue;
            }
            let operands: Vec<Operand<'_>> = values
                .iter()
                .enumerate()
                .map(|(at, value)| Operand {
                    ty: entry.ty(*value),
                    stored: stored.contains(&value.node),
                    again: values[..at].contains(value),
                })
                .collect();
            let used: Vec<bool> = entry
                .results(id)
                .map(|value| named.contains(&value) || !entry.users(value).is_empty())
                .collect();
            costs.push((id, self.of(op, &operands, &entry.node(id).results), used));
        }
        costs
    }

    /// The cost of an op whose operands and results are these.
    pub(super) fn of(&self, op: &Op, operands: &[Operand<'_>], results: &[Type]) -> OpCost {
        if op.is_leaf() || is_view(op, operands, results) {
            return self.free(results);
        }
        let read = self.read(op, operands, results);
        let (mut reads, mut far_reads) = (0u64, 0u64);
        for (operand, bytes) in operands.iter().zip(read) {
            reads = reads.saturating_add(bytes);
            if operand.stored || self.is_far(self.bytes(operand.ty)) {
                far_reads = far_reads.saturating_add(bytes);
            }
        }
        let writes = results.iter().map(|ty| self.bytes(ty));
        let mut writes: Vec<Write> = writes
            .map(|bytes| Write {
                bytes,
                far: self.is_far(bytes),
            })
            .collect();
        // In place: this step's rows are written, the others stay.
        if let (Op::CacheWrite | Op::MlaCacheWrite { .. }, Some(rows)) = (op, operands.get(1)) {
            writes[0] = Write {
                bytes: self.bytes(rows.ty),
                far: true,
            };
        }
        let launches = match op {
            // The plan over experts, then the copy of rows.
            Op::Dispatch { .. } => 2,
            _ => 1,
        };
        let types: Vec<&Type> = operands.iter().map(|operand| operand.ty).collect();
        let sent = self.sent(op, &types);
        let bytes = |of: fn(&Copies) -> u64| {
            let bytes = |sent: &Sent| Copies::bytes(of(&sent.copies), sent.tokens, sent.row_bytes);
            sent.as_ref().map_or(0, bytes)
        };
        let (nvlink_bytes, ib_bytes) = (bytes(|copies| copies.nvlink), bytes(|copies| copies.ib));
        OpCost {
            launches,
            reads,
            far_reads,
            writes,
            nvlink_bytes,
            ib_bytes,
            fixed: self.fixed(op, operands, results, nvlink_bytes, ib_bytes),
            overhead: femtoseconds(self.target.launch_ns * launches, 1_000_000_000),
            hbm_bytes_per_s: self.target.hbm_bytes_per_s,
            l2_bytes_per_s: self.target.l2_bytes_per_s,
        }
    }

    /// The cost of something that no step does: a view, or work at load time.
    pub(super) fn free(&self, results: &[Type]) -> OpCost {
        OpCost {
            writes: vec![Write::default(); results.len()],
            hbm_bytes_per_s: self.target.hbm_bytes_per_s,
            l2_bytes_per_s: self.target.l2_bytes_per_s,
            ..OpCost::default()
        }
    }

    /// Whether a value of so many bytes does not stay in the L2 from the op that writes it to the one that reads it. Half
    /// of the cache is left for what these two read beside it.
    fn is_far(&self, bytes: u64) -> bool {
        bytes > self.target.l2_bytes / 2
    }

    /// Bytes read of each operand.
    fn read(&self, op: &Op, operands: &[Operand<'_>], results: &[Type]) -> Vec<u64> {
        let bytes = |at: usize| operands.get(at).map_or(0, |of| self.bytes(of.ty));
        let whole = operands.iter().map(|operand| match operand.again {
            true => 0,
            false => self.bytes(operand.ty),
        });
        let mut read: Vec<u64> = whole.collect();
        let mut set = |at: usize, bytes: u64| {
            if let Some(read) = read.get_mut(at) {
                *read = bytes;
            }
        };
        match op {
            // The rows taken, not the table.
            Op::Gather => set(0, results.first().map_or(0, |ty| self.bytes(ty))),
            // Rows are replaced, none is read.
            Op::CacheWrite => set(0, 0),
            Op::MlaCacheWrite { .. } => {
                set(0, 0);
                set(4, self.table_rows(operands, 3, 4));
            }
            Op::Rope { .. } => set(2, self.table_rows(operands, 1, 2)),
            // The weights of experts that are on this rank and have rows.
            Op::GroupedMatmul { .. }
            | Op::GroupedMatmulSwigluQuantize { .. }
            | Op::GroupedMatmulSwigluScaleQuantize { .. }
            | Op::MaskedMatmul { .. }
            | Op::MaskedMatmulSwigluQuantize { .. }
            | Op::MaskedMatmulSwigluScaleQuantize { .. } => {
                let first = |at: usize, axis: usize| {
                    let of: Option<&Operand<'_>> = operands.get(at);
                    of.and_then(|of| of.ty.shape.get(axis))
                        .map_or(0, |dim| self.extent(dim))
                };
                let experts = first(1, 0);
                let here = experts.div_ceil(u64::from(self.mesh.ep).max(1));
                let rows = if op.mnemonic().starts_with("masked_") {
                    u64::MAX
                } else {
                    first(0, 0)
                };
                set(1, bytes(1) / experts.max(1) * here.min(rows));
            }
            _ => {}
        }
        read
    }

    /// What an op sends between ranks; `None` for one that sends nothing on any mesh.
    pub(super) fn sent(&self, op: &Op, operands: &[&Type]) -> Option<Sent> {
        let to_experts = matches!(op, Op::Dispatch { .. });
        let to_tokens = matches!(
            op,
            Op::Combine | Op::CombineSum | Op::CombineAdd | Op::CombineAddRmsNormQuantize { .. }
        );
        if !to_experts && !to_tokens {
            return None;
        }
        let (rows, choices) = (operands.first()?, operands.get(1)?);
        let row = rows.with_shape(vec![Dim::Const(1), rows.last()?.clone()]);
        let [tokens, experts] = &choices.shape[..] else {
            return None;
        };
        Some(Sent {
            row_bytes: self.bytes(&row),
            tokens: self.extent(tokens),
            copies: Copies::of(&self.mesh, self.extent(experts)),
        })
    }

    /// Times that do not depend on which results are used.
    fn fixed(
        &self,
        op: &Op,
        operands: &[Operand<'_>],
        results: &[Type],
        nvlink_bytes: u64,
        ib_bytes: u64,
    ) -> Vec<(Bound, Femtoseconds)> {
        let target = self.target;
        let ty = |at: usize| operands.get(at).map(|operand| operand.ty);
        let work = Work::of(
            op,
            ty(0).map(|ty| ty.dtype),
            |at| ty(at).map_or(0, |ty| self.elements(&ty.shape)),
            |at, axis| {
                ty(at)
                    .and_then(|ty| ty.shape.get(axis))
                    .map_or(0, |dim| self.extent(dim))
            },
            results.first().map_or(0, |ty| self.elements(&ty.shape)),
        );
        let peak = if work.fp8 {
            target.fp8_flops
        } else {
            target.bf16_flops
        };
        let sustained = u128::from(peak) * u128::from(target.sustained_clock_hz)
            / u128::from(target.clock_hz.max(1));
        let sustained = u64::try_from(sustained).unwrap_or(u64::MAX);
        let times = [
            (
                Bound::Tensor,
                femtoseconds(work.products.saturating_mul(2), sustained),
            ),
            (Bound::Vector, femtoseconds(work.flops, target.f32_flops)),
            (
                Bound::Special,
                femtoseconds(work.special, target.special_per_s),
            ),
            // The data sheet's figure is of both directions together.
            (
                Bound::Nvlink,
                femtoseconds(nvlink_bytes, target.nvlink_bytes_per_s / 2),
            ),
            (Bound::Ib, femtoseconds(ib_bytes, target.ib_bytes_per_s)),
        ];
        times.into_iter().filter(|(_, time)| *time > 0).collect()
    }

    /// Bytes of the rotary table's rows at `positions`.
    fn table_rows(&self, operands: &[Operand<'_>], positions: usize, table: usize) -> u64 {
        let (Some(positions), Some(table)) = (operands.get(positions), operands.get(table)) else {
            return 0;
        };
        let row = table
            .ty
            .with_shape(table.ty.shape.iter().skip(1).cloned().collect());
        self.elements(&positions.ty.shape)
            .saturating_mul(self.bytes(&row))
            .min(self.bytes(table.ty))
    }

    /// Bytes of a value, scales included.
    pub(super) fn bytes(&self, ty: &Type) -> u64 {
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

    /// The extent at which costs are counted.
    fn extent(&self, dim: &Dim) -> u64 {
        dim.resolve(|name| self.extents.get(name).copied())
            .unwrap_or(u64::MAX)
    }
}

/// Whether the op moves nothing. The scales of activations lie group-major (`[K/128, M]`), so a reshape leaves them where
/// they are only if rows keep their width; otherwise it copies.
fn is_view(op: &Op, operands: &[Operand<'_>], results: &[Type]) -> bool {
    match (op, operands, results) {
        (Op::Slice { .. }, ..) => true,
        (Op::Reshape { .. }, [from], [to]) => {
            from.ty.scale != Some(ScaleBlock::ACTIVATION) || from.ty.last() == to.last()
        }
        (Op::Reshape { .. }, ..) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(mesh: Option<&str>, op: &Op, operands: &[&str], usual: &[DimHint]) -> OpCost {
        let mut module = Module::new("costs");
        module.mesh = mesh.map(|mesh| mesh.parse().unwrap());
        module.add_dim("T", 1, 16).unwrap();
        module.add_dim("C", 1, 1 << 62).unwrap();
        let types: Vec<Type> = operands.iter().map(|ty| ty.parse().unwrap()).collect();
        let results = op.infer(&types).unwrap();
        let operands: Vec<Operand<'_>> = types
            .iter()
            .map(|ty| Operand {
                ty,
                stored: false,
                again: false,
            })
            .collect();
        let target = Target::load("h100").unwrap();
        CostModel::new(&module, "e", &target, usual).of(op, &operands, &results)
    }

    fn of(op: &Op, operands: &[&str]) -> OpCost {
        on(None, op, operands, &[])
    }

    fn written(cost: &OpCost) -> Vec<u64> {
        cost.writes.iter().map(|write| write.bytes).collect()
    }

    fn time(cost: &OpCost, of: Bound) -> Femtoseconds {
        let found = cost.fixed.iter().find(|(bound, _)| *bound == of);
        found.map_or(0, |(_, time)| *time)
    }

    #[test]
    fn a_cache_write_moves_the_rows_of_the_step_alone() {
        let cost = of(&Op::CacheWrite, &["bf16[C, 192]", "bf16[T, 192]", "i32[T]"]);
        let rows = 16 * 192 * 2;
        assert_eq!((cost.reads, written(&cost)), (rows + 16 * 4, vec![rows]));
    }

    #[test]
    fn a_gather_reads_the_rows_that_it_takes() {
        let cost = of(&Op::Gather, &["bf16[1024, 256]", "i32[T]"]);
        assert_eq!(cost.reads, 16 * 256 * 2 + 16 * 4);
    }

    #[test]
    fn scales_count_and_partial_groups_count_whole() {
        let cost = of(&Op::Quantize, &["bf16[T, 300]"]);
        assert_eq!(written(&cost), [16 * 300 + 16 * 3 * 4]);
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
            out: mcc_ir::types::DType::BF16,
            promote: 128,
        };
        let large = of(&matmul, &["bf16[4096, 4096]", "bf16[4096, 4096]"]);
        assert_eq!(large.bound(|_| true), Bound::Tensor);
        let small = of(&matmul, &["bf16[T, 4096]", "bf16[4096, 4096]"]);
        assert_eq!(small.bound(|_| true), Bound::Hbm);
        // E4M3 runs at twice the rate, and promotes: a quarter of that at intervals of 128, nearly all at 32.
        let fp8 = |promote| {
            let op = Op::Matmul {
                out: mcc_ir::types::DType::BF16,
                promote,
            };
            of(
                &op,
                &[
                    "e4m3[4096, 4096]/f32[1x128]",
                    "e4m3[4096, 4096]/f32[128x128]",
                ],
            )
        };
        let (long, short) = (fp8(128), fp8(32));
        assert_eq!(time(&long, Bound::Tensor), time(&large, Bound::Tensor) / 2);
        assert_eq!(time(&short, Bound::Vector), time(&long, Bound::Vector) * 4);
        assert!(time(&long, Bound::Vector) * 4 < time(&long, Bound::Tensor));
        assert_eq!(time(&large, Bound::Vector), 0);
    }

    #[test]
    fn what_fits_the_l2_need_not_come_from_device_memory() {
        let small = of(&Op::Add, &["bf16[T, 4096]", "bf16[T, 4096]"]);
        assert_eq!(
            (small.far_bytes(|_| true), small.bytes(|_| true)),
            (0, 3 * 16 * 4096 * 2)
        );
        let large = of(&Op::Add, &["bf16[4096, 7168]", "bf16[4096, 7168]"]);
        assert_eq!(large.far_bytes(|_| true), large.bytes(|_| true));
        assert_eq!(large.bound(|_| true), Bound::Hbm);
    }

    #[test]
    fn an_operand_that_is_there_twice_is_read_once() {
        let ty: Type = "bf16[4096, 7168]".parse().unwrap();
        let operand = |again| Operand {
            ty: &ty,
            stored: false,
            again,
        };
        let target = Target::load("h100").unwrap();
        let model = CostModel::new(&Module::new("m"), "e", &target, &[]);
        let cost = model.of(
            &Op::Add,
            &[operand(false), operand(true)],
            std::slice::from_ref(&ty),
        );
        assert_eq!(cost.reads, 4096 * 7168 * 2);
    }

    /// A token's row in FP8 takes 7168 codes and 56 scales of 4 bytes: 7,392 bytes for each destination, and 14,336 in
    /// BF16, over each kind of link.
    #[test]
    fn rows_in_fp8_with_their_scales_halve_what_links_carry() {
        let mesh = Some("nodes=4,gpus=8,ep=32");
        let dispatch = Op::Dispatch { n_experts: 256 };
        let rows = |row: &str| on(mesh, &dispatch, &[row, "i32[T, 8]"], &[]);
        let (bf16, fp8) = (rows("bf16[T, 7168]"), rows("e4m3[T, 7168]/f32[1x128]"));
        let copies = Copies::of(&"nodes=4,gpus=8,ep=32".parse().unwrap(), 8);
        assert_eq!(fp8.ib_bytes, Copies::bytes(copies.ib, 16, 7168 + 224));
        assert_eq!(
            fp8.nvlink_bytes,
            Copies::bytes(copies.nvlink, 16, 7168 + 224)
        );
        assert_eq!(bf16.ib_bytes, Copies::bytes(copies.ib, 16, 14_336));
        assert_eq!(rows("bf16[T, 7168]").bound(|_| true), Bound::Ib);
        // One rank sends nothing.
        let one = of(&dispatch, &["bf16[T, 7168]", "i32[T, 8]"]);
        assert_eq!((one.ib_bytes, one.nvlink_bytes), (0, 0));
        // The way back is in BF16.
        let back = on(
            mesh,
            &Op::Combine,
            &["bf16[8*T, 7168]", "i32[T, 8]", "f32[T, 8]"],
            &[],
        );
        assert_eq!(back.ib_bytes, bf16.ib_bytes);
    }

    #[test]
    fn a_rank_reads_its_own_experts_and_of_them_those_with_rows() {
        let product = Op::GroupedMatmul {
            out: mcc_ir::types::DType::BF16,
            promote: 128,
        };
        let operands = [
            "e4m3[8*T, 128]/f32[1x128]",
            "e4m3[256, 128, 128]/f32[128x128]",
            "i32[257]",
        ];
        let rows = 8 * 16 * (128 + 4) + 257 * 4;
        let expert = 128 * 128 + 4;
        let one = |usual| DimHint {
            entry: "e".into(),
            dim: "T".into(),
            usual,
        };
        let reads = |mesh, hints: &[DimHint]| on(mesh, &product, &operands, hints).reads;
        assert_eq!(reads(None, &[]), rows + 128 * expert);
        assert_eq!(reads(Some("nodes=4,gpus=8,ep=32"), &[]), rows + 8 * expert);
        let single = 8 * (128 + 4) + 257 * 4;
        assert_eq!(reads(None, &[one(1)]), single + 8 * expert);
    }

    #[test]
    fn extents_beyond_any_memory_saturate() {
        let cost = of(&Op::Add, &["bf16[C, 192]", "bf16[C, 192]"]);
        assert_eq!(cost.bytes(|_| true), u64::MAX);
        let time = cost.total(|_| true).time;
        assert_eq!(
            time,
            cost.overhead + femtoseconds(u64::MAX, cost.hbm_bytes_per_s)
        );
    }
}
