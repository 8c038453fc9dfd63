//! Thread block clusters (PTX ISA "Cluster of Cooperative Thread Arrays"): the other blocks' shared memory and
//! barriers.

use super::{F32, I32, Kernel, Shared, Val};

/// An address in the shared memory of some block of the cluster (`shared::cluster`).
#[derive(Clone, Copy)]
pub struct Remote<'k>(Val<'k, I32>);

impl<'k> Remote<'k> {
    /// What is to be added to `local`, an address in this block's shared memory, to get this one.
    pub(super) fn distance_from(self, local: Val<'k, I32>) -> Val<'k, I32> {
        self.0 - local
    }

    /// The address at that distance from `local`.
    pub(super) fn at_distance(local: Val<'k, I32>, distance: Val<'k, I32>) -> Self {
        Self(local + distance)
    }

    /// The address `offset` bytes further.
    pub fn at(self, offset: Val<'k, I32>) -> Self {
        Self(self.0 + offset)
    }
}

impl Kernel {
    /// `%cluster_ctarank`: this block's number in its cluster.
    pub fn cluster_rank(&self) -> Val<'_, I32> {
        self.pure("mov.u32 $0, %cluster_ctarank;", "=r", &[])
    }

    /// `barrier.cluster.arrive.release` and `.wait.acquire`: all threads of all blocks of the cluster.
    pub fn sync_cluster(&self) {
        self.effect(
            "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;",
            "",
            &[],
        );
    }

    /// `mapa`: where `local` lies in block `rank` of the cluster.
    pub fn remote<'k>(&'k self, local: Shared<'k>, rank: Val<'k, I32>) -> Remote<'k> {
        let address = local.address();
        Remote(self.pure(
            "mapa.shared::cluster.u32 $0, $1, $2;",
            "=r,r,r",
            &[address.raw, rank.raw],
        ))
    }

    /// `mbarrier.arrive.release.cluster` on a barrier of any block of the cluster, by the threads whose number `lane` is 0:
    /// what they and their warp stored before, whoever waits in that scope sees.
    pub fn mbarrier_arrive_remote(&self, barrier: Remote<'_>, lane: Val<'_, I32>) {
        let text = "{\n.reg .pred first;\nsetp.eq.s32 first, $1, 0;\n@first mbarrier.arrive.release.cluster.shared::cluster.b64 _, [$0];\n}";
        self.effect(text, "r,r", &[barrier.0.raw, lane.raw]);
    }

    /// `mbarrier.arrive` on barriers of blocks of the cluster, by the threads whose number `lane` is below `lanes`, to say
    /// that they have read. There is nothing to be seen by others, so that the scope is the block's: a wider one costs a
    /// memory barrier of the whole GPU (`MEMBAR.ALL.GPU` in SASS).
    pub fn mbarrier_leave_remote(&self, barrier: Remote<'_>, lane: Val<'_, I32>, lanes: u32) {
        let text = format!(
            "{{\n.reg .pred some;\nsetp.lt.s32 some, $1, {lanes};\n@some mbarrier.arrive.shared::cluster.b64 _, [$0];\n}}"
        );
        self.effect(&text, "r,r", &[barrier.0.raw, lane.raw]);
    }

    /// `st.shared::cluster.f32`.
    pub fn store_remote(&self, to: Remote<'_>, value: Val<'_, F32>) {
        self.effect(
            "st.shared::cluster.f32 [$0], $1;",
            "r,f",
            &[to.0.raw, value.raw],
        );
    }
}
