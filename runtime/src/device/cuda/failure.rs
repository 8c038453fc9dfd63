//! What a call of the driver answers: a number, the errors that it stands for, and what to do about them.
//!
//! In: a `CUresult` with the name of the function. Out: nothing, or a [`Failure`], and the typed error of one.
//! Holds: numbers that only newer drivers know are treated like any other; their names come from the driver.
//! The numbers and their meanings are those of the CUDA driver API, "Data types used by CUDA driver", `CUresult`.

use core::ffi::{CStr, c_char, c_uint};

use super::symbols::Api;
use crate::error::DeviceError;

pub(super) const INVALID_VALUE: u32 = 1;
pub(super) const OUT_OF_MEMORY: u32 = 2;
pub(super) const NO_DEVICE: u32 = 100;
pub(super) const INVALID_IMAGE: u32 = 200;
pub(super) const NO_BINARY_FOR_GPU: u32 = 209;
pub(super) const UNSUPPORTED_PTX_VERSION: u32 = 222;
pub(super) const INVALID_SOURCE: u32 = 300;
pub(super) const NOT_FOUND: u32 = 500;
pub(super) const NOT_READY: u32 = 600;
pub(super) const NOT_SUPPORTED: u32 = 801;
pub(super) const GRAPH_EXEC_UPDATE_FAILURE: u32 = 910;

/// A call that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The driver's function.
    pub call: &'static str,
    /// Its answer.
    pub code: u32,
}

/// Calls a function of the table; to be used inside `unsafe`, as the call is.
macro_rules! call {
    ($api:expr, $name:ident($($arg:expr),* $(,)?)) => {
        $crate::device::cuda::failure::check(stringify!($name), ($api.$name)($($arg),*))
    };
}
pub(super) use call;

/// The answer of a call.
pub(super) const fn check(call: &'static str, code: c_uint) -> Result<(), Failure> {
    if code == 0 {
        return Ok(());
    }
    Err(Failure { call, code })
}

/// What an error number does to the context that it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// A kernel has failed; the context is lost.
    Kernel,
    /// The context is lost for another reason.
    Lost,
    /// The context goes on.
    None,
}

impl Failure {
    const fn effect(self) -> Effect {
        match self.code {
            // Illegal address, time-out of the watchdog, assertion, stack error, illegal instruction, misaligned
            // address, address space, program counter, launch failure, contained error, tensor memory leak.
            700 | 702 | 710 | 714..=719 | 721 | 722 => Effect::Kernel,
            // Deinitialised; uncorrectable error of the memory, of NVLink; context destroyed; external device;
            // unknown.
            4 | 214 | 220 | 709 | 911 | 999 => Effect::Lost,
            _ => Effect::None,
        }
    }

    /// Whether some kernel that was launched before this call has failed.
    pub const fn is_kernel_fault(self) -> bool {
        matches!(self.effect(), Effect::Kernel)
    }

    /// Whether every later call of the context will fail, too.
    pub const fn is_sticky(self) -> bool {
        !matches!(self.effect(), Effect::None)
    }

    /// What to do about it; begins with `; `, or is empty.
    const fn advice(self) -> &'static str {
        match self.code {
            INVALID_VALUE | 400 | 401 => {
                "; this is a bug of the runtime or of the compiler, please report it"
            }
            OUT_OF_MEMORY => "; free device memory, or use a smaller model or context",
            3 => "; the driver was not initialised, this is a bug of the runtime",
            34 => {
                "; this is the CUDA toolkit's stub of the driver: take its directory out of LD_LIBRARY_PATH"
            }
            46 => "; another process uses the GPU exclusively: wait for it, or ask for another GPU",
            NO_DEVICE => "; is a GPU installed, and visible (CUDA_VISIBLE_DEVICES)?",
            101 => "; there is no such GPU",
            INVALID_IMAGE | INVALID_SOURCE => {
                "; the kernel's code is damaged: build the bundle again"
            }
            214 => {
                "; the GPU's memory is faulty: see `nvidia-smi -q -d ECC`, reset or replace the GPU"
            }
            220 => "; an NVLink connection is faulty: see `nvidia-smi nvlink -e`",
            218 => "; the PTX is wrong, this is a bug of the compiler",
            221 => {
                "; the driver's PTX compiler (libnvidia-ptxjitcompiler.so) is missing: install the whole driver"
            }
            UNSUPPORTED_PTX_VERSION => "; the PTX is newer than the driver: update the driver",
            223 => "; the environment forbids it: unset CUDA_DISABLE_PTX_JIT",
            304 => "; an operating system call failed: are the files /dev/nvidia* accessible?",
            700 => "; a kernel used memory that is not there: run again under `compute-sanitizer`",
            701 => "; the launch needs more registers, threads or shared memory than an SM has",
            702 => "; the system's watchdog ended a kernel that took too long",
            719 => "; a kernel ended itself: it gave up waiting, or met a fault",
            802 => "; the system is not ready: is nvidia-fabricmanager running?",
            803 => {
                "; the driver's library and its kernel module differ: restart the machine after the update"
            }
            804 => {
                "; the driver's compatibility package does not go with this GPU: update the driver"
            }
            805..=810 => "; see the log of nvidia-cuda-mps-control",
            999 => "; see `dmesg` for messages of the driver (Xid)",
            _ => "",
        }
    }

    /// The name of the error, its text and what to do, as far as the driver knows it.
    fn words(self, api: &Api) -> (String, String) {
        let name = ask(self.code, api.cuGetErrorName);
        let text = ask(self.code, api.cuGetErrorString);
        (
            name.unwrap_or_else(|| "an error that the driver has no name for".to_owned()),
            format!("{}{}", text.unwrap_or_default(), self.advice()),
        )
    }

    /// Function, error and advice, for use inside another error.
    pub fn text(self, api: &Api) -> String {
        let (name, message) = self.words(api);
        format!("{} answered {name} ({}), {message}", self.call, self.code)
    }

    /// As an error of its own.
    pub fn error(self, api: &Api) -> DeviceError {
        let (name, message) = self.words(api);
        DeviceError::Driver {
            call: self.call,
            code: self.code,
            name,
            message,
        }
    }
}

/// The driver's name or text of an error.
fn ask(
    code: u32,
    function: unsafe extern "C" fn(c_uint, *mut *const c_char) -> c_uint,
) -> Option<String> {
    let mut text: *const c_char = core::ptr::null();
    // SAFETY: the function writes one pointer, and answers an error for numbers that it does not know.
    let answer = unsafe { function(code, &raw mut text) };
    if answer != 0 || text.is_null() {
        return None;
    }
    // SAFETY: the driver's texts end with a zero and live as long as the driver.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u32) -> Failure {
        Failure {
            call: "cuStreamQuery",
            code,
        }
    }

    #[test]
    fn success_is_no_failure() {
        assert_eq!(check("cuInit", 0), Ok(()));
        assert_eq!(check("cuStreamQuery", 700), Err(of(700)));
    }

    /// The numbers after which cuda.h says that the process must be ended, and some that leave the context usable.
    #[test]
    fn errors_of_kernels_lose_the_context() {
        for code in [700, 702, 714, 715, 716, 717, 718, 719, 721] {
            assert!(of(code).is_kernel_fault() && of(code).is_sticky(), "{code}");
        }
        for code in [214, 220, 709, 999] {
            assert!(
                !of(code).is_kernel_fault() && of(code).is_sticky(),
                "{code}"
            );
        }
        for code in [1, 2, 200, 209, 222, 500, 600, 701, 720, 801, 900, 910] {
            assert!(!of(code).is_sticky(), "{code}");
        }
    }

    #[test]
    fn an_unknown_number_has_a_text() {
        /// Knows 700 only.
        unsafe extern "C" fn name(code: c_uint, text: *mut *const c_char) -> c_uint {
            if code != 700 {
                return INVALID_VALUE;
            }
            // SAFETY: the caller passes a place for one pointer.
            unsafe { *text = c"CUDA_ERROR_ILLEGAL_ADDRESS".as_ptr() };
            0
        }
        assert_eq!(
            ask(700, name).as_deref(),
            Some("CUDA_ERROR_ILLEGAL_ADDRESS")
        );
        assert_eq!(ask(4711, name), None);
    }
}
