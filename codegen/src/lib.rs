//! Kernel families and their building blocks: MLIR (melior) → LLVM (inkwell) → PTX.
//!
//! In: a [`mcc_ir::program::Kernel`], that is a name and a config that names every choice.
//! Out: [`KernelCode`]: PTX for sm_90a and how to launch it. The kernel's meaning is the graph op's
//! evaluator; its choices come from the heuristics in `mcc-passes`; this crate is mechanism only.
//!
//! | where | what |
//! |---|---|
//! | [`emit`] | the typed builder in which kernels are written |
//! | [`kernels`] | one file a family |
//! | [`lower`] | MLIR → LLVM IR → PTX |
//! | [`nvshmem`] | NVSHMEM's device library, linked into kernels that call it |

pub mod emit;
pub mod error;
pub mod kernels;
pub mod lower;
pub mod nvshmem;

use mcc_ir::program::{Kernel, LaunchSpec};
use melior::ir::operation::{OperationLike, OperationPrintingFlags};

pub use error::CodegenError;

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct KernelCode {
    /// PTX entry name.
    pub name: String,
    /// What it was on the way, from [`Codegen::with_intermediates`].
    pub intermediate: Option<Intermediate>,
    /// PTX, in the printer's canonical form.
    pub ptx: String,
    /// Whether it calls functions of NVSHMEM, which are no part of [`Self::ptx`].
    pub calls_nvshmem: bool,
    /// PTX with these functions, from [`Codegen::with_nvshmem`]: for `ptxas` only.
    pub linked: Option<String>,
    /// Grid, block, shared memory and parameters.
    pub launch: LaunchSpec,
    /// How long each stage took.
    pub times: Times,
}

/// Texts of a kernel before it is PTX.
#[derive(Clone, Debug)]
pub struct Intermediate {
    /// MLIR as built, before conversion.
    pub mlir: String,
    /// LLVM IR after optimisation.
    pub llvm: String,
}

/// Names and durations of the stages of a compilation, in order.
pub type Times = Vec<(&'static str, std::time::Duration)>;

/// Generates kernels; holds the MLIR context.
pub struct Codegen {
    context: melior::Context,
    /// Whether intermediate texts are kept: printing them takes a fifth of a compilation.
    intermediates: bool,
    nvshmem: Option<nvshmem::Nvshmem>,
}

impl Default for Codegen {
    fn default() -> Self {
        Self::new()
    }
}

impl Codegen {
    /// Loads the dialects (some 10 ms).
    #[must_use]
    pub fn new() -> Self {
        Self {
            context: lower::mlir_context(),
            intermediates: false,
            nvshmem: None,
        }
    }

    /// The same, whose kernels also come with what they call of NVSHMEM linked in, where the library is at hand.
    #[must_use]
    pub fn with_nvshmem(self, nvshmem: Option<nvshmem::Nvshmem>) -> Self {
        Self { nvshmem, ..self }
    }

    /// The same, whose kernels come with their texts in MLIR and LLVM IR where `keep` says so.
    #[must_use]
    pub fn with_intermediates(self, keep: bool) -> Self {
        Self {
            intermediates: keep,
            ..self
        }
    }

    /// Compiles one kernel.
    ///
    /// # Errors
    /// [`CodegenError::Unsupported`] for a config that the family does not do, [`CodegenError::Bug`] otherwise.
    pub fn compile(&self, kernel: &Kernel) -> Result<KernelCode, CodegenError> {
        let mut clock = Clock::start();
        let family = kernels::family(kernel)?;
        let launch = family.launch.clone().spec(&kernel.config);
        let signature = emit::Signature {
            name: &kernel.name,
            threads: launch.block,
            params: &launch.params,
        };
        let mut module = emit::build(&self.context, &signature, |k| family.emit(k))?;
        clock.lap("build MLIR");
        let mlir = self.intermediates.then(|| {
            let operation = module.as_operation();
            operation
                .to_string_with_flags(OperationPrintingFlags::new())
                .unwrap_or_else(|_| operation.to_string())
        });
        clock.lap("print MLIR");
        let lowered = lower::lower(
            &kernel.name,
            &self.context,
            &mut module,
            self.intermediates,
            self.nvshmem.as_ref(),
            &mut clock,
        )?;
        clock.lap("print LLVM IR");
        let (intermediate, ptx) = (
            mlir.zip(lowered.llvm)
                .map(|(mlir, llvm)| Intermediate { mlir, llvm }),
            lowered.ptx,
        );
        // Every kernel that leaves here reads back: the simulator and the snapshots see one canonical form.
        let ptx = mcc_ptx::parse(&ptx).map_err(|e| CodegenError::Bug {
            kernel: kernel.name.clone(),
            stage: "reading of its PTX",
            detail: format!("{e}\n{ptx}"),
        })?;
        let ptx = ptx.to_string();
        clock.lap("read back PTX");
        Ok(KernelCode {
            name: kernel.name.clone(),
            intermediate,
            ptx,
            calls_nvshmem: lowered.calls_nvshmem,
            linked: lowered.linked,
            launch,
            times: clock.times,
        })
    }
}

/// Notes how long stages take.
struct Clock {
    last: std::time::Instant,
    times: Times,
}

impl Clock {
    fn start() -> Self {
        Self {
            last: std::time::Instant::now(),
            times: Times::new(),
        }
    }

    /// Ends a stage.
    fn lap(&mut self, stage: &'static str) {
        let now = std::time::Instant::now();
        self.times.push((stage, now - self.last));
        self.last = now;
    }
}

/// Version of the LLVM that this code generator was linked with: major, minor, patch.
#[must_use]
pub fn llvm_version() -> (u32, u32, u32) {
    inkwell::support::get_llvm_version()
}
