//! Types of the driver API as C sees them.
//!
//! Enumerations are integers here: a caller may pass any, and the driver is to refuse it. Handles are integers,
//! too; they are looked up, never followed.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// `CUresult`.
pub type CUresult = c_uint;
/// `CUdeviceptr`.
pub type DevicePtr = u64;
/// `CUcontext`, `CUmodule`, `CUfunction`, `CUstream`, `CUevent`, `CUgraph`, `CUgraphNode`, `CUgraphExec`.
pub type Handle = usize;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_bytes: c_uint,
    pub stream: Handle,
    pub attrs: *const LaunchAttribute,
    pub num_attrs: c_uint,
}

/// `CUlaunchAttribute`; the value is a union of 64 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchAttribute {
    pub id: c_uint,
    pub pad: [c_char; 4],
    pub value: [u64; 8],
}

impl LaunchAttribute {
    /// The value's 32-bit words.
    pub fn words(&self) -> [u32; 16] {
        std::array::from_fn(|i| (self.value[i / 2] >> (32 * (i % 2))) as u32)
    }
}

/// `CUDA_KERNEL_NODE_PARAMS` (version 2).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KernelNodeParams {
    pub func: Handle,
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_bytes: c_uint,
    pub kernel_params: *const *const c_void,
    pub extra: *const *const c_void,
    pub kern: Handle,
    pub ctx: Handle,
}

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemLocation {
    pub kind: c_uint,
    pub id: c_int,
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemAllocationProp {
    pub kind: c_uint,
    pub handle_types: c_uint,
    pub location: MemLocation,
    pub win32: *const c_void,
    pub alloc_flags: [u8; 8],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemAccessDesc {
    pub location: MemLocation,
    pub flags: c_uint,
}

// Sizes of <cuda.h> for 64-bit Linux.
const _: () = assert!(size_of::<LaunchConfig>() == 56);
const _: () = assert!(size_of::<LaunchAttribute>() == 72);
const _: () = assert!(size_of::<KernelNodeParams>() == 72);
const _: () = assert!(size_of::<MemAllocationProp>() == 32);
const _: () = assert!(size_of::<MemAccessDesc>() == 12);
