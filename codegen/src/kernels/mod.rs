//! Kernel families, one a file: layout, shared-memory map, barriers, producer, consumers, epilogue.
//!
//! | file | families | graph ops |
//! |---|---|---|
//! | `gemm/` | `gemm_fp8`, `gemm_bf16` | `matmul` and its batched, grouped, masked and K-grouped relatives, with epilogues |
//! | `attention.rs` | `attention_prefill`, `attention_decode` | `attention` |
//! | `rms_norm.rs` | `rms_norm` | `rms_norm`, `add_rms_norm` and their quantising forms |
//! | `elementwise.rs` | `quantize`, `swiglu`, `add`, `scale_rows` | the same, `swiglu_quantize` |
//! | `rope.rs` | `rope`, `mla_cache_write` | the same |
//! | `ep/` | dispatch and combine over several ranks | `dispatch_direct`, `combine_direct`, `dispatch_two_hop`, `combine_two_hop` |
//! | `take.rs` | `gather`, `expand` | `gather`, the rows of `dispatch` |
//! | `moe.rs` | `moe_plan`, `row_weights`, `append_expert` | where `dispatch` puts rows, and the same |
//! | `combine.rs` | `combine` | the same, `combine_sum`, `combine_add` and its norm |
//! | `route.rs`, `sample.rs` | `route`, `sample` | the same |
//! | `row.rs`, `params.rs` | – | rows in chunks, quantisation of a row, numbering of parameters |
//! | `roles.rs` | – | prologue, and the producer and consumer skeleton, of the matrix families |
//! | `tiles.rs` | – | the store of a fragment from registers |

pub mod attention;
pub mod combine;
pub mod elementwise;
pub mod ep;
pub mod gemm;
pub mod moe;
mod params;
pub mod rms_norm;
mod roles;
pub mod rope;
pub mod route;
mod row;
pub mod sample;
pub mod take;
mod tiles;

use mcc_ir::kernel::KernelConfig;
use mcc_ir::program::{Expr, Kernel, LaunchSpec, Param, Work};

use crate::emit;
use crate::error::CodegenError;

pub(crate) use params::{MatrixArg, Params, ScalesArg};

/// What a family says of its launches; the rest of a launch spec is the same for all of them.
#[derive(Clone)]
pub struct Launch {
    /// Grid, x y z.
    pub grid: [Expr; 3],
    /// Threads a block.
    pub block: u32,
    /// Blocks of a cluster, along x; 1 for none.
    pub cluster: u32,
    /// Dynamic shared memory, bytes.
    pub smem_bytes: u32,
    /// Kernel parameters in order.
    pub params: Vec<Param>,
}

impl Launch {
    /// The whole spec, for a kernel of this config.
    #[must_use]
    pub fn spec(self, config: &KernelConfig) -> LaunchSpec {
        LaunchSpec {
            grid: self.grid,
            block: self.block,
            cluster: [self.cluster, 1, 1],
            smem_bytes: self.smem_bytes,
            params: self.params,
            // `Family::emit` makes every kernel wait.
            programmatic: true,
            work: Work::of(config),
        }
    }
}

/// What a family makes of a config.
pub struct Family<'a> {
    /// How the kernel is launched.
    pub launch: Launch,
    /// Emits what may run while earlier launches still do: nothing here touches global memory.
    pub prologue: Option<Emit<'a>>,
    /// Emits the kernel's body.
    pub body: Emit<'a>,
}

/// Emits a part of a kernel.
pub type Emit<'a> = Box<dyn FnOnce(&emit::Kernel) + 'a>;

impl<'a> Family<'a> {
    /// A kernel that begins with its body.
    pub(crate) fn new(launch: Launch, body: impl FnOnce(&emit::Kernel) + 'a) -> Self {
        Self {
            launch,
            prologue: None,
            body: Box::new(body),
        }
    }

    /// The same with something to do before its inputs are there.
    pub(crate) fn with_prologue(self, prologue: impl FnOnce(&emit::Kernel) + 'a) -> Self {
        Self {
            prologue: Some(Box::new(prologue)),
            ..self
        }
    }

    /// Emits the whole kernel.
    ///
    /// Every thread of every kernel waits for the launches before it, and only then touches global memory. The
    /// wait is for the launch right before and what it wrote; because that one has waited in its turn, all
    /// earlier ones have ended too. A kernel without a wait would end early and break the chain.
    ///
    /// The next launch may start its blocks as soon as all of this one's have got past their wait. Its prologue
    /// then overlaps with this body, and it finds its blocks in place when this launch ends. Letting it start
    /// before the wait would gain nothing: a block that waits keeps its registers and shared memory from blocks
    /// that could work.
    pub(crate) fn emit(self, k: &emit::Kernel) {
        if let Some(prologue) = self.prologue {
            prologue(k);
        }
        k.wait_for_earlier_launches();
        k.let_next_launch_start();
        (self.body)(k);
    }
}

/// Checks the config and finds its family.
///
/// # Errors
/// [`CodegenError::Unsupported`] when the config is outside of what the family does.
pub fn family(kernel: &Kernel) -> Result<Family<'_>, CodegenError> {
    match &kernel.config {
        KernelConfig::GemmFp8(c) => gemm::fp8(&kernel.name, c),
        KernelConfig::GemmBf16(c) => gemm::bf16(&kernel.name, c),
        KernelConfig::RmsNorm(c) => rms_norm::family(&kernel.name, c),
        KernelConfig::Quantize(c) => elementwise::quantize(&kernel.name, c),
        KernelConfig::Swiglu(c) => elementwise::swiglu(&kernel.name, c),
        KernelConfig::Add(c) => elementwise::add(&kernel.name, c),
        KernelConfig::ScaleRows(c) => elementwise::scale_rows(&kernel.name, c),
        KernelConfig::Gather(c) => take::gather(&kernel.name, c),
        KernelConfig::Rope(c) => rope::rope(&kernel.name, c),
        KernelConfig::MlaCacheWrite(c) => rope::mla_cache_write(&kernel.name, c),
        KernelConfig::MoePlan(c) => moe::plan(&kernel.name, c),
        KernelConfig::Expand(c) => take::expand(&kernel.name, c),
        KernelConfig::Combine(c) => combine::family(&kernel.name, c),
        KernelConfig::RowWeights(c) => moe::row_weights(&kernel.name, c),
        KernelConfig::AppendExpert(c) => moe::append_expert(&kernel.name, c),
        KernelConfig::Route(c) => route::family(&kernel.name, c),
        KernelConfig::Sample(c) => sample::family(&kernel.name, c),
        KernelConfig::DirectDispatchSend(c) => ep::direct::dispatch_send(&kernel.name, c),
        KernelConfig::DirectDispatchReceive(c) => ep::direct::dispatch_receive(&kernel.name, c),
        KernelConfig::DirectCombineSend(c) => ep::direct::combine_send(&kernel.name, c),
        KernelConfig::DirectCombineReceive(c) => ep::direct::combine_receive(&kernel.name, c),
        KernelConfig::TwoHopDispatch(c) => ep::two_hop::dispatch(&kernel.name, c),
        KernelConfig::TwoHopCombine(c) => ep::two_hop::combine(&kernel.name, c),
        KernelConfig::AttentionPrefill(c) => {
            attention::family(&kernel.name, c, attention::Rows::Queries)
        }
        KernelConfig::AttentionDecode(c) => {
            attention::family(&kernel.name, c, attention::Rows::Heads)
        }
    }
}

/// An [`CodegenError::Unsupported`] of `kernel`.
pub(crate) fn unsupported(kernel: &str, what: impl Into<String>, supported: &str) -> CodegenError {
    CodegenError::Unsupported {
        kernel: kernel.to_owned(),
        what: what.into(),
        supported: supported.to_owned(),
    }
}
