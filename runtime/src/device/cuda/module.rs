//! Kernels: machine code where the driver takes it, PTX otherwise.
//!
//! In: a bundle's cubin and PTX. Out: a function with the places of its parameters and what it needs.
//! Holds: the cubin is tried first, since it is what `ptxas` was seen to make; a driver that does not take it (it is
//! older than the tools that made it, or drives another GPU) compiles the PTX; which of both runs, and why, is known.

use core::ffi::{c_int, c_void};
use std::ffi::CString;

use cudarc::driver::sys::{CUfunction, CUfunction_attribute as Attribute, CUjit_option, CUmodule};

use super::CudaDevice;
use super::context::Context;
use super::failure::{
    Failure, INVALID_IMAGE, INVALID_SOURCE, INVALID_VALUE, NO_BINARY_FOR_GPU, NOT_FOUND,
    NOT_SUPPORTED, OUT_OF_MEMORY, UNSUPPORTED_PTX_VERSION, call,
};
use super::handles::Owned;
use super::image::Cubin;
use super::status::VARIABLE;
use crate::device::{CodeSource, FunctionId, FunctionInfo, Launch, ModuleImage, ParamSlot};
use crate::error::DeviceError;

/// Shared memory that a block has without asking for more (CUDA programming guide, compute capability 9.0).
const PLAIN_SHARED_BYTES: u32 = 48 << 10;

/// Blocks of a cluster that every GPU with clusters takes (same place).
const PORTABLE_CLUSTER: u64 = 8;

/// Room for what the driver's compiler says.
const LOG_BYTES: usize = 8 << 10;

/// A loaded kernel.
pub(super) struct Function {
    raw: CUfunction,
    name: String,
    slots: Vec<ParamSlot>,
    /// End of the last parameter.
    param_bytes: usize,
    info: FunctionInfo,
    /// Dynamic shared memory that it may be launched with, so far.
    dynamic_bytes: u32,
    /// Whether it may be launched with clusters that not every GPU takes.
    large_clusters: bool,
    _module: Owned<CUmodule>,
}

impl Function {
    pub const fn raw(&self) -> CUfunction {
        self.raw
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn slots(&self) -> &[ParamSlot] {
        &self.slots
    }

    pub const fn param_bytes(&self) -> usize {
        self.param_bytes
    }

    pub const fn info(&self) -> &FunctionInfo {
        &self.info
    }
}

impl CudaDevice {
    pub(super) fn function(&self, function: FunctionId) -> Result<&Function, DeviceError> {
        let known = self.functions.get(function.0);
        known.ok_or_else(|| DeviceError::NoKernel {
            kernel: format!("number {}", function.0),
        })
    }

    pub(super) fn load(&mut self, image: &ModuleImage<'_>) -> Result<FunctionId, DeviceError> {
        let no_kernel = || DeviceError::NoKernel {
            kernel: image.kernel.to_owned(),
        };
        let name = CString::new(image.kernel).map_err(|_| no_kernel())?;
        let (module, code) = self.load_code(image)?;
        let raw = module
            .function(&name)
            .map_err(|failure| match failure.code {
                NOT_FOUND => no_kernel(),
                _ => self.failed(failure),
            })?;
        let slots = slots(&self.context, raw).map_err(|failure| self.failed(failure))?;
        let attribute = |attribute| {
            attribute_of(&self.context, raw, attribute).map_err(|failure| self.failed(failure))
        };
        let info = FunctionInfo {
            code,
            registers: attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            local_bytes: attribute(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            static_shared_bytes: attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            max_threads: attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        };
        // An SM changes its split between L1 and shared memory only while it is empty: kernels that want different
        // splits cannot overlap. All ask for the same (CUDA programming guide, "Shared Memory", preferred carve-out).
        let carveout = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        self.set_attribute(raw, carveout, 100)
            .map_err(|failure| self.failed(failure))?;
        self.connect_status(&module)?;
        self.functions.push(Function {
            raw,
            name: image.kernel.to_owned(),
            param_bytes: slots
                .iter()
                .map(|slot| slot.offset + slot.size)
                .max()
                .unwrap_or(0),
            slots,
            dynamic_bytes: PLAIN_SHARED_BYTES.saturating_sub(info.static_shared_bytes),
            info,
            large_clusters: false,
            _module: module,
        });
        Ok(FunctionId(self.functions.len() - 1))
    }

    /// Loads the cubin, or else the PTX.
    fn load_code(
        &mut self,
        image: &ModuleImage<'_>,
    ) -> Result<(Owned<CUmodule>, CodeSource), DeviceError> {
        let refused = match image.cubin.map(Cubin::new) {
            None => "the bundle has no cubin".to_owned(),
            Some(Err(damage)) => format!("the cubin is damaged: {damage}"),
            Some(Ok(cubin)) => {
                // SAFETY: `Cubin` has checked that the file's sizes lie inside of it.
                let loaded = unsafe { self.load_image(cubin.as_ptr()) };
                match loaded {
                    Ok(module) => return Ok((module, CodeSource::Cubin)),
                    Err((failure, log)) if asks_for_ptx(failure.code) => {
                        format!("the cubin: {}{log}", failure.text(self.context.api()))
                    }
                    Err((failure, log)) => {
                        return Err(self.not_loaded(image, failure, "the cubin: ", &log));
                    }
                }
            }
        };
        let Ok(ptx) = CString::new(image.ptx) else {
            return Err(DeviceError::Module {
                kernel: image.kernel.to_owned(),
                message: format!("{refused}; the PTX has a zero in its text"),
            });
        };
        // SAFETY: PTX ends with the zero of the C string.
        let loaded = unsafe { self.load_image(ptx.as_ptr().cast()) };
        match loaded {
            Ok(module) => Ok((module, CodeSource::Ptx { why: refused })),
            Err((failure, log)) => {
                let before = format!("{refused}; the PTX: ");
                Err(self.not_loaded(image, failure, &before, &log))
            }
        }
    }

    /// Loads an image; a failure comes with what the driver's compiler said, which begins with `: ` or is empty.
    ///
    /// # Safety
    /// As [`Owned::<CUmodule>::load`].
    unsafe fn load_image(
        &self,
        image: *const c_void,
    ) -> Result<Owned<CUmodule>, (Failure, String)> {
        let mut log = vec![0_u8; LOG_BYTES];
        let mut options = [
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // A number is passed in place of a pointer; one byte stays for the zero at the end.
        let mut values = [
            log.as_mut_ptr().cast(),
            core::ptr::without_provenance_mut(LOG_BYTES - 1),
        ];
        // SAFETY: the caller vouches for the image; the buffer is longer than the size that is passed.
        let loaded =
            unsafe { Owned::<CUmodule>::load(&self.context, image, &mut options, &mut values) };
        loaded.map_err(|failure| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(0);
            let said = String::from_utf8_lossy(&log[..end]);
            let said = said.trim();
            let log = if said.is_empty() {
                String::new()
            } else {
                format!(": {said}")
            };
            (failure, log)
        })
    }

    /// The error of code that does not load.
    fn not_loaded(
        &self,
        image: &ModuleImage<'_>,
        failure: Failure,
        before: &str,
        log: &str,
    ) -> DeviceError {
        if failure.is_sticky() {
            return self.failed(failure);
        }
        if failure.code == OUT_OF_MEMORY {
            let bytes = image.cubin.map_or(image.ptx.len(), <[u8]>::len) as u64;
            return self.no_memory(
                failure,
                bytes,
                &format!("the code of kernel `{}`", image.kernel),
            );
        }
        DeviceError::Module {
            kernel: image.kernel.to_owned(),
            message: format!("{before}{}{log}", failure.text(self.context.api())),
        }
    }

    /// Tells a module where its kernel may say that it gave up. A module without the variable has no such kernel.
    fn connect_status(&mut self, module: &Owned<CUmodule>) -> Result<(), DeviceError> {
        let (variable, bytes) = match module.global(VARIABLE) {
            Ok(found) => found,
            Err(failure) if failure.code == NOT_FOUND => return Ok(()),
            Err(failure) => return Err(self.failed(failure)),
        };
        let words = self.status.address(self.functions.len()).to_ne_bytes();
        if bytes != words.len() {
            // Another variable of that name: not ours to write.
            return Ok(());
        }
        self.upload_small(&[(variable, &words)], 2 * words.len())?;
        // Other streams are not ordered after the copy.
        let drained = self.drain_main();
        if drained.is_err() {
            // The module goes with this error, and the copy may still be under way into it.
            let _ = self.drain_main();
        }
        drained
    }

    /// Allows a kernel what this launch needs beyond the usual.
    pub(super) fn allow(&mut self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        let function = self.function(launch.function)?;
        let raw = function.raw;
        let dynamic = launch.dims.smem_bytes;
        let blocks: u64 = launch
            .dims
            .cluster
            .iter()
            .map(|&blocks| u64::from(blocks))
            .product();
        let more_memory = dynamic > function.dynamic_bytes;
        let larger_cluster = blocks > PORTABLE_CLUSTER && !function.large_clusters;
        if more_memory {
            let bytes = c_int::try_from(dynamic).unwrap_or(c_int::MAX);
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            self.set_attribute(raw, attribute, bytes)
                .map_err(|failure| self.refused(failure, launch))?;
            self.functions[launch.function.0].dynamic_bytes = dynamic;
        }
        if larger_cluster {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            self.set_attribute(raw, attribute, 1)
                .map_err(|failure| self.refused(failure, launch))?;
            self.functions[launch.function.0].large_clusters = true;
        }
        Ok(())
    }

    fn set_attribute(
        &self,
        function: CUfunction,
        attribute: Attribute,
        value: c_int,
    ) -> Result<(), Failure> {
        // SAFETY: the function's module is loaded as long as the device lives.
        unsafe {
            call!(
                self.context.api(),
                cuFuncSetAttribute(function, attribute, value)
            )
        }
    }
}

/// Answers to a cubin after which its PTX is worth a try: the driver does not know this code, or its tools.
const fn asks_for_ptx(code: u32) -> bool {
    matches!(
        code,
        INVALID_IMAGE
            | NO_BINARY_FOR_GPU
            | UNSUPPORTED_PTX_VERSION
            | INVALID_SOURCE
            | NOT_SUPPORTED
    )
}

/// Places of the parameters, asked for until the driver says that there is no such parameter.
fn slots(context: &Context, function: CUfunction) -> Result<Vec<ParamSlot>, Failure> {
    let mut slots = Vec::new();
    loop {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function's module is loaded; writes two sizes.
        let asked = unsafe {
            call!(
                context.api(),
                cuFuncGetParamInfo(function, slots.len(), &raw mut offset, &raw mut size)
            )
        };
        match asked {
            Ok(()) => slots.push(ParamSlot { offset, size }),
            Err(failure) if failure.code == INVALID_VALUE => return Ok(slots),
            Err(failure) => return Err(failure),
        }
    }
}

fn attribute_of(
    context: &Context,
    function: CUfunction,
    attribute: Attribute,
) -> Result<u32, Failure> {
    let mut value: c_int = 0;
    // SAFETY: the function's module is loaded; writes one int.
    unsafe {
        call!(
            context.api(),
            cuFuncGetAttribute(&raw mut value, attribute, function)
        )
    }?;
    Ok(value.max(0).cast_unsigned())
}
