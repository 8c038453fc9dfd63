//! The functions of the CUDA driver that the device calls, found at run time.
//!
//! In: the driver's library. Out: a table with one typed pointer a function, or the name of the first one that the
//! driver lacks. Holds: every type is compared with cudarc's binding when this file is compiled; the library is
//! never unloaded, so the pointers stay good.
//!
//! The calls go through this table and not through cudarc's own functions for two reasons. Those return a Rust
//! `enum`: an error number that only a newer driver knows would be undefined behaviour. And they panic where the
//! driver has no such function; here that is an error which says that the driver is too old.

use core::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    self, CUDA_KERNEL_NODE_PARAMS, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent,
    CUfunction, CUfunction_attribute, CUgraph, CUgraphEdgeData, CUgraphExec, CUgraphNode,
    CUjit_option, CUlaunchConfig, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationProp, CUmemGenericAllocationHandle, CUmodule, CUstream, CUstreamCaptureMode,
    CUstreamCaptureStatus, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill,
    CUtensorMapInterleave, CUtensorMapL2promotion, CUtensorMapSwizzle,
};
use libloading::Library;

use super::failure::{Failure, call};
use crate::error::DeviceError;

/// Oldest CUDA version of a driver that has all of the functions below, as the driver writes it.
pub(super) const NEEDED_VERSION: i32 = 12040;

/// File of the driver.
#[cfg(not(windows))]
const LIBRARY: &str = "libcuda.so.1";
/// File of the driver.
#[cfg(windows)]
const LIBRARY: &str = "nvcuda.dll";

/// Declares the table: the function's name is that of the symbol, and its type that of the binding but for the
/// result, which is the number. Those after `numbers` take a `CUresult`, too, which is a number here.
macro_rules! functions {
    ({ $($name:ident($($arg:ident: $ty:ty),* $(,)?);)* }
     numbers { $($number:ident($($number_arg:ident: $number_ty:ty),* $(,)?);)* }) => {
        /// The driver's functions; the result of each is a `CUresult`.
        #[allow(non_snake_case, reason = "the fields are named as the driver's functions")]
        pub(super) struct Api {
            $(pub $name: unsafe extern "C" fn($($arg: $ty),*) -> c_uint,)*
            $(pub $number: unsafe extern "C" fn($($number_arg: $number_ty),*) -> c_uint,)*
        }

        impl Api {
            /// Looks every function up; the error is the name of the first that is missing.
            fn find(library: &Library) -> Result<Self, &'static str> {
                $(const _: unsafe fn($($ty),*) -> sys::CUresult = sys::$name;)*
                Ok(Self {
                    // SAFETY: the types are those of cuda.h, as the lines above compare; a C enum of positive
                    // values is passed and returned like an unsigned int.
                    $($name: unsafe {
                        let name = concat!(stringify!($name), "\0").as_bytes();
                        let found = library.get::<unsafe extern "C" fn($($ty),*) -> c_uint>(name);
                        *found.map_err(|_| stringify!($name))?
                    },)*
                    // SAFETY: as above.
                    $($number: unsafe {
                        let name = concat!(stringify!($number), "\0").as_bytes();
                        let found =
                            library.get::<unsafe extern "C" fn($($number_ty),*) -> c_uint>(name);
                        *found.map_err(|_| stringify!($number))?
                    },)*
                })
            }
        }
    };
}

functions! {
    {
    cuInit(flags: c_uint);
    cuDriverGetVersion(version: *mut c_int);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice);
    cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice);
    cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    cuCtxSetCurrent(context: CUcontext);
    cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int);

    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
    cuMemFree_v2(address: CUdeviceptr);
    cuMemHostAlloc(host: *mut *mut c_void, bytes: usize, flags: c_uint);
    cuMemFreeHost(host: *mut c_void);
    cuMemHostGetDevicePointer_v2(address: *mut CUdeviceptr, host: *mut c_void, flags: c_uint);
    cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemsetD8Async(address: CUdeviceptr, byte: u8, bytes: usize, stream: CUstream);

    cuMemGetAllocationGranularity(
        bytes: *mut usize,
        properties: *const CUmemAllocationProp,
        option: CUmemAllocationGranularity_flags,
    );
    cuMemAddressReserve(
        address: *mut CUdeviceptr,
        bytes: usize,
        alignment: usize,
        wanted: CUdeviceptr,
        flags: c_ulonglong,
    );
    cuMemAddressFree(address: CUdeviceptr, bytes: usize);
    cuMemCreate(
        memory: *mut CUmemGenericAllocationHandle,
        bytes: usize,
        properties: *const CUmemAllocationProp,
        flags: c_ulonglong,
    );
    cuMemRelease(memory: CUmemGenericAllocationHandle);
    cuMemMap(
        address: CUdeviceptr,
        bytes: usize,
        offset: usize,
        memory: CUmemGenericAllocationHandle,
        flags: c_ulonglong,
    );
    cuMemUnmap(address: CUdeviceptr, bytes: usize);
    cuMemSetAccess(
        address: CUdeviceptr,
        bytes: usize,
        access: *const CUmemAccessDesc,
        count: usize,
    );

    cuModuleLoadDataEx(
        module: *mut CUmodule,
        image: *const c_void,
        count: c_uint,
        options: *mut CUjit_option,
        values: *mut *mut c_void,
    );
    cuModuleUnload(module: CUmodule);
    cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuModuleGetGlobal_v2(
        address: *mut CUdeviceptr,
        bytes: *mut usize,
        module: CUmodule,
        name: *const c_char,
    );
    cuFuncGetParamInfo(function: CUfunction, index: usize, offset: *mut usize, size: *mut usize);
    cuFuncGetAttribute(value: *mut c_int, attribute: CUfunction_attribute, function: CUfunction);
    cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: c_int);
    cuTensorMapEncodeTiled(
        map: *mut CUtensorMap,
        dtype: CUtensorMapDataType,
        rank: u32,
        address: *mut c_void,
        dims: *const u64,
        strides: *const u64,
        box_dims: *const u32,
        element_strides: *const u32,
        interleave: CUtensorMapInterleave,
        swizzle: CUtensorMapSwizzle,
        promotion: CUtensorMapL2promotion,
        fill: CUtensorMapFloatOOBfill,
    );
    cuLaunchKernelEx(
        config: *const CUlaunchConfig,
        function: CUfunction,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    );

    cuStreamCreateWithPriority(stream: *mut CUstream, flags: c_uint, priority: c_int);
    cuStreamDestroy_v2(stream: CUstream);
    cuStreamQuery(stream: CUstream);
    cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
    cuEventCreate(event: *mut CUevent, flags: c_uint);
    cuEventDestroy_v2(event: CUevent);
    cuEventRecord(event: CUevent, stream: CUstream);
    cuEventQuery(event: CUevent);
    cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent);

    cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
    cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    cuStreamGetCaptureInfo_v3(
        stream: CUstream,
        status: *mut CUstreamCaptureStatus,
        id: *mut u64,
        graph: *mut CUgraph,
        dependencies: *mut *const CUgraphNode,
        edges: *mut *const CUgraphEdgeData,
        count: *mut usize,
    );
    cuGraphInstantiateWithFlags(exec: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
    cuGraphExecKernelNodeSetParams_v2(
        exec: CUgraphExec,
        node: CUgraphNode,
        params: *const CUDA_KERNEL_NODE_PARAMS,
    );
    cuGraphLaunch(exec: CUgraphExec, stream: CUstream);
    cuGraphExecDestroy(exec: CUgraphExec);
    cuGraphDestroy(graph: CUgraph);
    }
    numbers {
    cuGetErrorName(error: c_uint, name: *mut *const c_char);
    cuGetErrorString(error: c_uint, text: *mut *const c_char);
    }
}

impl Api {
    /// The driver of this machine.
    ///
    /// # Errors
    /// When there is none, or it lacks a function.
    pub fn get() -> Result<&'static Self, DeviceError> {
        static API: OnceLock<Api> = OnceLock::new();
        if let Some(api) = API.get() {
            return Ok(api);
        }
        // A driver that could not be used is looked for again the next time.
        let api = Self::load()?;
        Ok(API.get_or_init(|| api))
    }

    fn load() -> Result<Self, DeviceError> {
        // SAFETY: the driver's initialisers are made to run in any process that asks for CUDA.
        let library = unsafe { Library::new(LIBRARY) }.map_err(|err| not_loaded(LIBRARY, &err))?;
        let found = Self::find(&library);
        let version = match found {
            Ok(_) => None,
            Err(_) => library_version(&library),
        };
        // The driver starts threads and exit handlers of its own: it stays loaded whatever comes.
        core::mem::forget(library);
        found.map_err(|name| too_old(version, format!("it has no function `{name}`")))
    }

    /// The driver's CUDA version; may be asked before the driver is initialised.
    pub fn version(&self) -> Result<i32, Failure> {
        let mut version = 0;
        // SAFETY: writes one int.
        unsafe { call!(self, cuDriverGetVersion(&raw mut version)) }?;
        Ok(version)
    }
}

/// The error of a driver of this version.
pub(super) fn too_old(version: Option<i32>, why: String) -> DeviceError {
    DeviceError::DriverTooOld {
        found: version.map_or_else(|| "an unknown version".to_owned(), version_text),
        needed: version_text(NEEDED_VERSION),
        why: why.into(),
    }
}

/// A library that is not there, or one that the system's loader refuses.
fn not_loaded(name: &str, err: &libloading::Error) -> DeviceError {
    // The loader's own words are the error's source.
    let message = core::error::Error::source(err).map_or(err.to_string(), ToString::to_string);
    // The loader speaks of the file itself when it is not there, and of others when one that it needs is missing.
    let missing = format!("{name}: cannot open shared object file");
    if cfg!(windows) || message.contains(&missing) {
        return DeviceError::NoDriver;
    }
    DeviceError::Driver {
        call: "dlopen",
        code: 0,
        name: name.to_owned(),
        message: format!(
            "{message}; the installation of the driver is damaged, or for another system"
        ),
    }
}

/// The CUDA version of a driver that lacks functions.
fn library_version(library: &Library) -> Option<i32> {
    type Version = unsafe extern "C" fn(*mut c_int) -> c_uint;
    // SAFETY: the type of `cuDriverGetVersion` has been the same in every version.
    let function = unsafe { library.get::<Version>(b"cuDriverGetVersion\0") }.ok()?;
    let mut version = 0;
    // SAFETY: it writes one int and needs no initialisation.
    let result = unsafe { function(&raw mut version) };
    (result == 0).then_some(version)
}

/// `12040` as `12.4`.
pub(super) fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_cuda_writes_them() {
        assert_eq!(version_text(12040), "12.4");
        assert_eq!(version_text(13010), "13.1");
    }

    #[test]
    fn a_missing_file_is_no_driver() {
        let name = "libmcc-there-is-none.so.1";
        // SAFETY: there is no such library, so nothing of it runs.
        let err = unsafe { Library::new(name) }.expect_err("none");
        assert!(matches!(not_loaded(name, &err), DeviceError::NoDriver));
        // Another file that the driver needs is missing: the driver is there.
        let err = not_loaded("libcuda.so.1", &err);
        assert!(
            matches!(err, DeviceError::Driver { call: "dlopen", .. }),
            "{err}"
        );
    }
}
