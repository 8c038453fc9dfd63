//! MLIR → LLVM IR → PTX, in one process.
//!
//! In: a verified module of one kernel. Out: LLVM IR and PTX text for `sm_90a`. Same input, same bytes.

use std::ffi::c_void;

use inkwell::OptimizationLevel;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context as LlvmContext;
use inkwell::llvm_sys::core::{
    LLVMGetCalledValue, LLVMGetInlineAsmHasSideEffects, LLVMIsAInlineAsm,
};
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple,
};
use inkwell::values::{AsValueRef, CallSiteValue, InstructionOpcode};
use melior::Context;
use melior::dialect::DialectRegistry;
use melior::ir::Module;
use melior::pass::PassManager;
use melior::utility::{
    parse_pass_pipeline, register_all_dialects, register_all_llvm_translations, register_all_passes,
};

use crate::Clock;
use crate::error::CodegenError;
use crate::nvshmem::{self, Nvshmem};

/// PTX ISA version that the kernels need: `setmaxnreg`, wgmma and tensor copies are in 8.0.
const PTX_FEATURE: &str = "+ptx80";
pub(crate) const TRIPLE: &str = "nvptx64-nvidia-cuda";
pub(crate) const GPU: &str = "sm_90a";
const PIPELINE: &str = "builtin.module(convert-nvvm-to-llvm,convert-scf-to-cf,convert-arith-to-llvm,convert-cf-to-llvm,reconcile-unrealized-casts)";

/// What of LLVM's `O3` finds something to do in a kernel: one function without calls, whose loops the builder has
/// unrolled already. The whole of it takes three times as long, for machine code of the same instruction counts.
const OPTIMISER: &str = "function(sroa<modify-cfg>,early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>,simplifycfg,loop-mssa(loop-rotate,licm),loop(indvars,loop-deletion),sroa<modify-cfg>,gvn,loop-unroll<O3>,instcombine<no-verify-fixpoint>,simplifycfg)";

unsafe extern "C" {
    /// In libMLIRTargetLLVMIRExport and its C API; not part of mlir-sys.
    fn mlirTranslateModuleToLLVMIR(op: mlir_sys_op, context: *mut c_void) -> *mut c_void;
}

/// `MlirOperation`, by value.
#[allow(non_camel_case_types, reason = "named as in MLIR's C API")]
type mlir_sys_op = mlir_sys::MlirOperation;

/// Makes the MLIR context with everything that lowering needs.
#[must_use]
pub fn mlir_context() -> Context {
    let registry = DialectRegistry::new();
    register_all_dialects(&registry);
    let context = Context::new();
    context.append_dialect_registry(&registry);
    for dialect in ["arith", "scf", "cf", "llvm", "nvvm"] {
        context.get_or_load_dialect(dialect);
    }
    register_all_llvm_translations(&context);
    context.enable_multi_threading(false);
    context
}

/// What becomes of a module.
pub(crate) struct Lowered {
    /// LLVM IR after optimisation, where it was asked for.
    pub llvm: Option<String>,
    /// PTX as LLVM prints it.
    pub ptx: String,
    /// Whether it calls functions of NVSHMEM, and the PTX with them, where the library was at hand.
    pub calls_nvshmem: bool,
    pub linked: Option<String>,
}

/// Lowers a module of one kernel; `keep_llvm` asks for the text on the way.
///
/// # Errors
/// [`CodegenError::Bug`]: nothing that reaches this stage may fail.
pub(crate) fn lower(
    kernel: &str,
    context: &Context,
    module: &mut Module<'_>,
    keep_llvm: bool,
    nvshmem: Option<&Nvshmem>,
    clock: &mut Clock,
) -> Result<Lowered, CodegenError> {
    let bug = |stage, detail: String| CodegenError::Bug {
        kernel: kernel.to_owned(),
        stage,
        detail,
    };

    static PASSES: std::sync::Once = std::sync::Once::new();
    PASSES.call_once(register_all_passes);
    let manager = PassManager::new(context);
    // The module was verified when it was built; what a pass breaks is a bug that tests are for.
    manager.enable_verifier(cfg!(debug_assertions));
    parse_pass_pipeline(manager.as_operation_pass_manager(), PIPELINE)
        .map_err(|e| bug("the pass pipeline", e.to_string()))?;
    let mut diagnostics = String::new();
    let id = context.attach_diagnostic_handler(|d| {
        diagnostics.push_str(&d.to_string());
        diagnostics.push('\n');
        true
    });
    let ran = manager.run(module);
    context.detach_diagnostic_handler(id);
    ran.map_err(|e| {
        bug(
            "conversion to the LLVM dialect",
            format!("{e}\n{diagnostics}"),
        )
    })?;

    clock.lap("MLIR passes");
    let llvm_context = LlvmContext::create();
    // SAFETY: both libraries are linked from one LLVM; the module lives in `llvm_context`.
    let llvm = unsafe {
        let raw =
            mlirTranslateModuleToLLVMIR(module.as_operation().to_raw(), llvm_context.raw().cast());
        if raw.is_null() {
            return Err(bug("translation to LLVM IR", String::new()));
        }
        inkwell::module::Module::new(raw.cast())
    };
    mark_convergent(&llvm, &llvm_context);
    clock.lap("to LLVM IR");

    initialize();
    let triple = TargetTriple::create(TRIPLE);
    let target = Target::from_triple(&triple).map_err(|e| bug("target look-up", e.to_string()))?;
    let machine: TargetMachine = target
        .create_target_machine(
            &triple,
            GPU,
            PTX_FEATURE,
            OptimizationLevel::Aggressive,
            RelocMode::Default,
            CodeModel::Default,
        )
        .ok_or_else(|| bug("target machine", String::new()))?;
    llvm.set_triple(&triple);
    llvm.set_data_layout(&machine.get_target_data().get_data_layout());
    llvm.run_passes(OPTIMISER, &machine, PassBuilderOptions::create())
        .map_err(|e| bug("LLVM's optimiser", e.to_string()))?;
    clock.lap("LLVM passes");
    let ptx = machine
        .write_to_memory_buffer(&llvm, FileType::Assembly)
        .map_err(|e| bug("LLVM's PTX printer", e.to_string()))?;
    let ptx = String::from_utf8_lossy(ptx.as_slice())
        .trim_end_matches('\0')
        .to_owned();
    clock.lap("LLVM to PTX");
    let calls_nvshmem = nvshmem::is_called(&llvm);
    let linked = match nvshmem.filter(|_| calls_nvshmem) {
        Some(library) => {
            let linked = library.link(kernel, &llvm, &llvm_context);
            Some(linked.map_err(|e| bug("linking of NVSHMEM's device library", e))?)
        }
        None => None,
    };
    clock.lap("link NVSHMEM");
    let llvm = keep_llvm.then(|| llvm.print_to_string().to_string());
    Ok(Lowered {
        llvm,
        ptx,
        calls_nvshmem,
        linked,
    })
}

/// Makes LLVM's PTX back end known.
pub(crate) fn initialize() {
    Target::initialize_nvptx(&InitializationConfig::default());
}

/// Marks every inline block with side effects `convergent`: barriers and warpgroup instructions may not be
/// duplicated into or sunk under divergent branches, and MLIR has no way to say so.
fn mark_convergent(module: &inkwell::module::Module<'_>, context: &LlvmContext) {
    let convergent =
        context.create_enum_attribute(Attribute::get_named_enum_kind_id("convergent"), 0);
    for function in module.get_functions() {
        for block in function.get_basic_blocks() {
            for instruction in block.get_instructions() {
                if instruction.get_opcode() != InstructionOpcode::Call {
                    continue;
                }
                // SAFETY: the instruction is a call; the value that it calls lives as long as the module.
                let has_effects = unsafe {
                    let callee = LLVMGetCalledValue(instruction.as_value_ref());
                    !LLVMIsAInlineAsm(callee).is_null()
                        && LLVMGetInlineAsmHasSideEffects(callee) != 0
                };
                if !has_effects {
                    continue;
                }
                // SAFETY: the instruction is a call.
                let call = unsafe { CallSiteValue::new(instruction.as_value_ref()) };
                call.add_attribute(AttributeLoc::Function, convergent);
            }
        }
    }
}
