//! `gemm_fp8` and `gemm_bf16`: one family for dense, batched, grouped, masked and K-grouped products.
//!
//! Meaning: `matmul` and its relatives. Block-scaled operands are exact to the bit (`docs/model.md`, "Promoted
//! accumulation"): every `promote` elements of K the tensor core starts from zero; its partial sum `p` is promoted by
//! `acc = fma(fl(sa * sb), p, acc)` in FP32, in K order. BF16 operands are added up by the tensor core in K order
//! (`docs/model.md`, "Tensor-core accumulation", F = 25); the reference leaves the order open.
//!
//! ```text
//! warpgroup 0      producer: one thread keeps a ring of stages filled by TMA
//! warpgroups 1, 2  consumers: 64 or 128 rows each; wgmma, wait, promote, release; while one promotes, the other's
//!                  wgmma has the tensor core; D goes through shared memory and leaves by TMA while the next tile
//!                  is worked on
//! ```
//!
//! | file | what |
//! |---|---|
//! | `plan.rs` | limits, geometry, shared memory, parameters, launch |
//! | `walk.rs` | which tiles a block works on, in which order |
//! | `load.rs` | the producer |
//! | `sums.rs` | the consumers' loops over K |
//! | `spans.rs` | which columns of a tile have which weight scale |
//! | `mask.rs` | the ends of a K-grouped product's groups |
//! | `split.rs` | K split over a cluster, promoted in K order |
//! | `store.rs` | the sums' way to D: staging, epilogues, stores |
//!
//! Swapped tiles compute `d^T = b a^T`: rows of `wgmma` are columns of D, so that a tile may have as few rows as 8. The
//! files call the operand that gives `wgmma`'s rows P and the other Q.

mod load;
mod mask;
mod plan;
mod spans;
mod split;
mod store;
mod sums;
mod walk;

use mcc_ir::kernel::{GemmBf16, GemmFp8};

use self::plan::Plan;
use super::roles::{Roles, specialise};
use super::{Family, Launch};
use crate::emit::Kernel;
use crate::emit::pipeline::Ring;
use crate::error::CodegenError;

/// The family for block-scaled operands.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn fp8<'a>(name: &str, config: &GemmFp8) -> Result<Family<'a>, CodegenError> {
    Ok(family(Plan::fp8(name, config)?))
}

/// The family for BF16 operands.
///
/// # Errors
/// [`CodegenError::Unsupported`], naming the limit.
pub fn bf16<'a>(name: &str, config: &GemmBf16) -> Result<Family<'a>, CodegenError> {
    Ok(family(Plan::bf16(name, config)?))
}

fn family<'a>((plan, launch): (Plan, Launch)) -> Family<'a> {
    let body = move |k: &Kernel| {
        let gemm = Gemm::new(k, plan);
        specialise(
            k,
            plan.consumers,
            plan.cluster(),
            |leader| gemm.produce(leader),
            || gemm.consume(),
        );
    };
    Family::new(launch, body).with_prologue(move |k| Gemm::new(k, plan).prepare())
}

/// The parts that producer and consumers share.
#[derive(Clone, Copy)]
struct Gemm<'k> {
    k: &'k Kernel,
    plan: Plan,
    ring: Ring<'k>,
    residual_ring: Ring<'k>,
}

impl<'k> Gemm<'k> {
    fn new(k: &'k Kernel, plan: Plan) -> Self {
        Self {
            k,
            plan,
            ring: Ring::new(k, k.smem(), plan.smem.ring).shared_by(plan.sharing()),
            residual_ring: Ring::new(k, k.smem(), plan.smem.residual_ring),
        }
    }

    fn prepare(&self) {
        let (k, plan) = (self.k, self.plan);
        let rings = [self.ring, self.residual_ring];
        let residual = plan.epilogue == mcc_ir::kernel::Epilogue::Add;
        Roles {
            consumers: plan.consumers,
            cluster: plan.cluster(),
            maps: &plan.maps(),
            rings: if residual { &rings } else { &rings[..1] },
            barriers: &|| {
                if plan.tile.split_k > 1 {
                    self.init_handover();
                }
            },
        }
        .prepare(k);
    }
}
