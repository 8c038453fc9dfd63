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

mod amount;
mod links;
mod work;

use std::collections::{BTreeMap, HashMap, HashSet};

use mcc_ir::graph::{Graph, NodeId};
use mcc_ir::mesh::Mesh;
use mcc_ir::module::Module;
use mcc_ir::op::Op;
use mcc_ir::types::{Dim, Name, ScaleBlock, Type};

use crate::select::DimHint;
use crate::target::Target;
use amount::femtoseconds;
pub use amount::{Bound, Sums};
pub(super) use amount::{Cost, Femtoseconds, OpCost, Write};
pub(super) use links::Copies;
use work::Work;

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

/// Rows that an op sends between ranks.
pub(super) struct Sent {
    /// Of one row with its scales: a token's bytes for each destination.
    pub(super) row_bytes: u64,
    /// Tokens of this rank.
    pub(super) tokens: u64,
    /// How often a token's row is sent.
    pub(super) copies: Copies,
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
mod tests;
