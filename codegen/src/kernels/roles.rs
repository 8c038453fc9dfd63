//! The skeleton of every matrix kernel: one producer warp that issues TMA, consumer warpgroups that compute.
//!
//! ```text
//! thread 0          prefetches tensor maps, initialises the rings' barriers    } prologue
//! all               synchronise                                                }
//! all               wait for earlier launches (see `Family::emit`)
//! warpgroup 0       its first warp produces, the others are done
//! warpgroups 1..    consume
//! all               in a cluster: wait for each other, so that no block ends while another reaches into it
//! ```
//! With two consumer warpgroups the registers of a launch (168 a thread) are too few for a consumer, so the
//! producers give theirs back. With one there are enough, and taking more would only keep other blocks from
//! the SM.

use crate::emit::pipeline::Ring;
use crate::emit::{B1, Kernel, Val};

/// Threads of a warpgroup.
pub(crate) const WARPGROUP: u32 = 128;
/// Threads of a warp.
const WARP: i32 = 32;
/// Shared memory that one block may use on Hopper.
pub(crate) const SMEM_LIMIT: u32 = 232_448;
/// Registers of a producer thread: enough for addresses and loop counters (DeepGEMM uses the same).
const PRODUCER_REGISTERS: u32 = 40;
/// Registers of a thread of two consumer warpgroups: 128 x 40 + 256 x 232 fit into an SM's 65,536.
const CONSUMER_REGISTERS: u32 = 232;

/// What the roles share.
pub(crate) struct Roles<'a, 'k> {
    /// Consumer warpgroups, 1 or 2.
    pub consumers: u32,
    /// Blocks of a cluster.
    pub cluster: u32,
    /// Positions of the tensor map parameters.
    pub maps: &'a [usize],
    /// Rings between the producer and all consumers.
    pub rings: &'a [Ring<'k>],
    /// Initialises what other barriers there are; one thread.
    pub barriers: &'a dyn Fn(),
}

impl Roles<'_, '_> {
    /// Emits the prologue. Tensor maps are parameters, so that nothing here depends on an earlier launch.
    pub fn prepare(&self, k: &Kernel) {
        k.if_(k.tid().eq(0), || {
            for map in self.maps {
                k.prefetch_tensor_map(k.arg_tensor_map(*map));
            }
            for ring in self.rings {
                // One arrival a consumer warp.
                ring.init(self.consumers * 4);
            }
            (self.barriers)();
            k.fence_mbarrier_init();
        });
        if self.cluster > 1 {
            // No block may reach for another's barriers before they are there.
            k.sync_cluster();
        } else {
            k.sync_threads();
        }
    }
}

/// Emits the skeleton. `produce` runs in one whole warp and gets the predicate of the thread that is to wait
/// and to issue; it is the same thread in the whole kernel, so ring positions may live in its registers.
pub(crate) fn specialise<'k>(
    k: &'k Kernel,
    consumers: u32,
    cluster: u32,
    produce: impl FnOnce(Val<'k, B1>),
    consume: impl FnOnce(),
) {
    // Votes, where the thread's number would do: ptxas then knows that whole warps branch, and keeps what their lanes
    // have in common in uniform registers.
    let consumes = k.uniform(k.tid().ge(WARPGROUP.cast_signed()));
    let first_warp = k.uniform(k.tid().lt(WARP));
    let moves_registers = consumers > 1;
    k.if_else(
        consumes.eq(0),
        || {
            if moves_registers {
                k.setmaxnreg_dec(PRODUCER_REGISTERS);
            }
            k.if_(first_warp.ne(0), || produce(k.elect_one()));
        },
        || {
            if moves_registers {
                k.setmaxnreg_inc(CONSUMER_REGISTERS);
            }
            consume();
        },
    );
    if cluster > 1 {
        k.sync_cluster();
    }
}
