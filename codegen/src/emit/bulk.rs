//! Bulk asynchronous copies of tensors between global and shared memory (PTX ISA "Data Movement and Conversion
//! Instructions: Tensor copy").
//!
//! In: a tensor map, coordinates (element indices, innermost axis first) and shared memory. Loads complete on an
//! mbarrier; stores belong to the group that the issuing thread commits. What threads wrote into shared memory is
//! seen by a store after [`Kernel::fence_proxy_async`] and a barrier.

use super::asm::Barrier;
use super::{I32, Kernel, Shared, TensorMapArg, Val};

/// What a tensor store does with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// Replaces it.
    Write,
    /// Adds to it (`.add`), element by element in the map's type.
    Add,
}

impl Kernel {
    /// `prefetch.tensormap`.
    pub fn prefetch_tensor_map(&self, map: TensorMapArg<'_>) {
        self.effect("prefetch.tensormap [$0];", "l", &[map.raw]);
    }

    /// `cp.async.bulk.tensor` from global to shared memory; completes on `barrier` with the box's bytes.
    pub fn tma_load(
        &self,
        dst: Shared<'_>,
        map: TensorMapArg<'_>,
        coords: &[Val<'_, I32>],
        barrier: Barrier<'_>,
    ) {
        self.load(dst, map, coords, barrier, None);
    }

    /// The same into the shared memory of every block of the cluster whose bit of `blocks` is set: at the same
    /// place, completing on the barrier at the same place.
    pub fn tma_load_multicast(
        &self,
        dst: Shared<'_>,
        map: TensorMapArg<'_>,
        coords: &[Val<'_, I32>],
        barrier: Barrier<'_>,
        blocks: u16,
    ) {
        self.load(dst, map, coords, barrier, Some(blocks));
    }

    fn load(
        &self,
        dst: Shared<'_>,
        map: TensorMapArg<'_>,
        coords: &[Val<'_, I32>],
        barrier: Barrier<'_>,
        blocks: Option<u16>,
    ) {
        let rank = coords.len();
        let list = names(rank, 3);
        let (kind, mask) = match blocks {
            Some(mask) => (".multicast::cluster", format!(", mask;\n}}|{mask}")),
            None => ("", String::new()),
        };
        let copy = format!(
            "cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes{kind} [$0], [$1, {{{list}}}], [$2+{}]",
            barrier.offset
        );
        let text = match mask.split_once('|') {
            Some((end, mask)) => {
                format!("{{\n.reg .b16 mask;\nmov.b16 mask, {mask};\n{copy}{end}")
            }
            None => format!("{copy};"),
        };
        let constraints = format!("r,l,r{}", ",r".repeat(rank));
        let mut operands = vec![dst.address().raw, map.raw, barrier.base.raw];
        operands.extend(coords.iter().map(|c| c.raw));
        self.effect(&text, &constraints, &operands);
    }

    /// `cp.async.bulk.tensor` from shared to global memory, or `cp.reduce.async.bulk.tensor.add`.
    pub fn tma_store(
        &self,
        map: TensorMapArg<'_>,
        coords: &[Val<'_, I32>],
        src: Shared<'_>,
        mode: StoreMode,
    ) {
        let rank = coords.len();
        let list = names(rank, 2);
        let (op, add) = match mode {
            StoreMode::Write => ("cp.async", ""),
            StoreMode::Add => ("cp.reduce.async", ".add"),
        };
        let text = format!(
            "{op}.bulk.tensor.{rank}d.global.shared::cta{add}.tile.bulk_group [$0, {{{list}}}], [$1];"
        );
        let constraints = format!("l,r{}", ",r".repeat(rank));
        let mut operands = vec![map.raw, src.address().raw];
        operands.extend(coords.iter().map(|c| c.raw));
        self.effect(&text, &constraints, &operands);
    }

    /// `cp.async.bulk.commit_group`: this thread's stores since the last one are a group.
    pub fn bulk_commit(&self) {
        self.effect("cp.async.bulk.commit_group;", "", &[]);
    }

    /// `cp.async.bulk.wait_group.read 0`: until all of this thread's stores have read their shared memory.
    pub fn bulk_wait_read(&self) {
        self.effect("cp.async.bulk.wait_group.read 0;", "", &[]);
    }

    /// `fence.proxy.async.shared::cta`: orders this thread's accesses to shared memory with those of bulk copies and
    /// of `wgmma` (PTX ISA "Async proxy").
    pub fn fence_proxy_async(&self) {
        self.effect("fence.proxy.async.shared::cta;", "", &[]);
    }
}

/// `$first, …`: `rank` operands.
fn names(rank: usize, first: usize) -> String {
    let list: Vec<String> = (first..first + rank).map(|i| format!("${i}")).collect();
    list.join(", ")
}
