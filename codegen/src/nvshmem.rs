//! NVSHMEM's device functions, linked into the kernels that call them.
//!
//! In: a kernel's LLVM IR, and the library as NVIDIA ships it, LLVM bitcode (`libnvshmem_device_sm_90.bc`). Out: PTX that
//! calls nothing that it does not hold. The functions stay functions; what a kernel does not reach is dropped; the library's variables
//! (`nvshmemi_device_state_d` and its like) keep their names, as the host library fills them when the module is loaded
//! (`nvshmemx_cumodule_init`).
//!
//! The PTX without the library stays the kernel's text: snapshots and the simulator see what codegen meant, and the
//! simulator has these functions of its own.

use std::path::Path;
use std::sync::Arc;

use inkwell::OptimizationLevel;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::{Linkage, Module};
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{CodeModel, FileType, RelocMode, Target, TargetTriple};

use crate::lower::{GPU, TRIPLE};

/// PTX ISA version that the library's own inline assembly needs (`fence.release`, `ld.mmio`).
const PTX_FEATURE: &str = "+ptx88";
/// Everything that other modules may name begins like this.
const PREFIX: &str = "nvshmem";

/// The device library.
#[derive(Clone, Debug)]
pub struct Nvshmem {
    bitcode: Arc<[u8]>,
}

impl Nvshmem {
    /// Reads it from a file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(Self::from_bitcode(std::fs::read(path)?))
    }

    /// Takes it as bytes. They are parsed when a kernel is linked.
    #[must_use]
    pub fn from_bitcode(bitcode: Vec<u8>) -> Self {
        Self {
            bitcode: bitcode.into(),
        }
    }

    /// PTX of a kernel's module with all that it calls, or what LLVM says.
    pub(crate) fn link<'c>(
        &self,
        kernel: &str,
        module: &Module<'c>,
        context: &'c Context,
    ) -> Result<String, String> {
        let triple = TargetTriple::create(TRIPLE);
        let machine = Target::from_triple(&triple)
            .map_err(|e| e.to_string())?
            .create_target_machine(
                &triple,
                GPU,
                PTX_FEATURE,
                OptimizationLevel::Aggressive,
                RelocMode::Default,
                CodeModel::Default,
            )
            .ok_or("no target machine")?;
        let buffer = MemoryBuffer::create_from_memory_range_copy(&self.bitcode, PREFIX);
        let library =
            Module::parse_bitcode_from_buffer(&buffer, context).map_err(|e| e.to_string())?;
        library.set_triple(&triple);
        library.set_data_layout(&machine.get_target_data().get_data_layout());
        let whole = module.clone();
        whole.link_in_module(library).map_err(|e| e.to_string())?;
        for function in whole.get_functions() {
            // The library is for `sm_90`, the kernel for `sm_90a`: one module has one target.
            for attribute in ["target-cpu", "target-features"] {
                function.remove_string_attribute(AttributeLoc::Function, attribute);
            }
            let name = function.get_name().to_bytes();
            if name == kernel.as_bytes() || function.count_basic_blocks() == 0 {
                continue;
            }
            function.set_linkage(Linkage::Internal);
            if name.starts_with(PREFIX.as_bytes()) {
                // Thousands of instructions at each call would take the registers of all warps of the block.
                let kind = Attribute::get_named_enum_kind_id;
                function.remove_enum_attribute(AttributeLoc::Function, kind("alwaysinline"));
                let noinline = context.create_enum_attribute(kind("noinline"), 0);
                function.add_attribute(AttributeLoc::Function, noinline);
            }
        }
        whole
            .run_passes(
                "globaldce,default<O3>",
                &machine,
                PassBuilderOptions::create(),
            )
            .map_err(|e| e.to_string())?;
        let ptx = machine
            .write_to_memory_buffer(&whole, FileType::Assembly)
            .map_err(|e| e.to_string())?;
        let ptx = String::from_utf8_lossy(ptx.as_slice());
        Ok(ptx.trim_end_matches('\0').to_owned())
    }
}

/// Whether a module calls functions of the library.
pub(crate) fn is_called(module: &Module<'_>) -> bool {
    module.get_functions().any(|f| {
        f.count_basic_blocks() == 0 && f.get_name().to_bytes().starts_with(PREFIX.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module as text.
    fn parse<'c>(context: &'c Context, text: &str) -> Module<'c> {
        let buffer = MemoryBuffer::create_from_memory_range_copy(text.as_bytes(), "text");
        context
            .create_module_from_ir(buffer)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn what_a_kernel_reaches_comes_with_it() {
        crate::lower::initialize();
        let context = Context::create();
        let library = parse(
            &context,
            r#"
            @nvshmemi_device_state_d = addrspace(4) externally_initialized constant i64 0
            @llvm.compiler.used = appending global [1 x ptr] [ptr addrspacecast (ptr addrspace(4) @nvshmemi_device_state_d to ptr)]
            define void @nvshmemx_signal_op(ptr %at, i64 %value, i32 %op, i32 %pe) #0 {
              %state = load i64, ptr addrspace(4) @nvshmemi_device_state_d
              %to = getelementptr i8, ptr %at, i64 %state
              store i64 %value, ptr %to
              ret void
            }
            define void @nvshmem_barrier_all() { ret void }
            attributes #0 = { alwaysinline "target-cpu"="sm_90" "target-features"="+ptx88,+sm_90" }
            "#,
        );
        let kernel = parse(
            &context,
            "
            declare void @nvshmemx_signal_op(ptr, i64, i32, i32)
            define ptx_kernel void @k(ptr %at) {
              call void @nvshmemx_signal_op(ptr %at, i64 7, i32 9, i32 1)
              ret void
            }
            ",
        );
        assert!(is_called(&kernel) && !is_called(&library));
        let bitcode = library.write_bitcode_to_memory();
        let nvshmem = Nvshmem::from_bitcode(bitcode.as_slice().to_vec());
        let link = || {
            nvshmem
                .link("k", &kernel, &context)
                .unwrap_or_else(|e| panic!("{e}"))
        };
        let ptx = link();
        assert!(ptx.contains(".visible .entry k("), "{ptx}");
        assert!(
            ptx.contains(".target sm_90a") && !ptx.contains(".extern"),
            "{ptx}"
        );
        assert!(ptx.contains(".func nvshmemx_signal_op"), "{ptx}");
        // The state is the host's to fill; functions that nobody calls are gone.
        assert!(
            ptx.contains(".const .align 8 .u64 nvshmemi_device_state_d"),
            "{ptx}"
        );
        assert!(!ptx.contains("nvshmem_barrier_all"), "{ptx}");
        assert_eq!(ptx, link());
        // The kernel itself still calls what it does not have.
        assert!(is_called(&kernel));
        assert!(
            Nvshmem::from_bitcode(vec![1, 2, 3])
                .link("k", &kernel, &context)
                .is_err()
        );
    }
}
