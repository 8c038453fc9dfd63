//! Initialisation, devices and primary contexts (CUDA driver API: Initialization, Device, Primary Context
//! Management).
//!
//! All contexts share one simulated device; what a program leaves behind when it releases its last context stays
//! counted, so that a test sees it.

use std::ffi::{c_char, c_int, c_uint};

use crate::abi::{CUresult, Handle};
use crate::codes::{self, Answer};
use crate::settings::Settings;
use crate::state::{CONTEXT, Driver, INIT, NOTHING, RELEASE_CONTEXT, call, given, put, put_if};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: c_uint) -> CUresult {
    call(c"cuInit", NOTHING, |d| {
        if flags != 0 {
            return Err(codes::INVALID_VALUE);
        }
        if d.settings.devices == 0 {
            return Err(codes::NO_DEVICE);
        }
        d.initialised = true;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    call(c"cuDriverGetVersion", NOTHING, |d| {
        // SAFETY: the caller's place for the result.
        unsafe { put(version, d.settings.version) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    call(c"cuDeviceGetCount", INIT, |d| {
        // SAFETY: the caller's place for the result.
        unsafe { put(count, d.settings.devices) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> CUresult {
    call(c"cuDeviceGet", INIT, |d| {
        d.device(ordinal)?;
        // SAFETY: the caller's place for the result.
        unsafe { put(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) -> CUresult {
    call(c"cuDeviceGetName", INIT, |d| {
        d.device(device)?;
        given(name)?;
        let room = usize::try_from(len).map_err(|_| codes::INVALID_VALUE)?;
        let room = room.checked_sub(1).ok_or(codes::INVALID_VALUE)?;
        let mut bytes: Vec<u8> = d.settings.name.bytes().take(room).collect();
        bytes.push(0);
        // SAFETY: the caller's place holds `len` bytes, and these are no more.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), name.cast(), bytes.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_uint,
    device: c_int,
) -> CUresult {
    call(c"cuDeviceGetAttribute", INIT, |d| {
        d.device(device)?;
        let known = device_attribute(&d.settings, attribute).ok_or(codes::INVALID_VALUE)?;
        // SAFETY: the caller's place for the result.
        unsafe { put(value, known) }
    })
}

/// What the settings do not say of an H100 SXM, by `CUdevice_attribute`.
const ATTRIBUTES: [(c_uint, c_int); 42] = [
    (1, 1024),          // MAX_THREADS_PER_BLOCK
    (2, 1024),          // MAX_BLOCK_DIM_X
    (3, 1024),          // MAX_BLOCK_DIM_Y
    (4, 64),            // MAX_BLOCK_DIM_Z
    (5, 2_147_483_647), // MAX_GRID_DIM_X
    (6, 65535),         // MAX_GRID_DIM_Y
    (7, 65535),         // MAX_GRID_DIM_Z
    (8, 49152),         // MAX_SHARED_MEMORY_PER_BLOCK
    (9, 65536),         // TOTAL_CONSTANT_MEMORY
    (10, 32),           // WARP_SIZE
    (12, 65536),        // MAX_REGISTERS_PER_BLOCK
    (13, 1_980_000),    // CLOCK_RATE, kHz
    (15, 1),            // GPU_OVERLAP
    (17, 0),            // KERNEL_EXEC_TIMEOUT
    (18, 0),            // INTEGRATED
    (19, 1),            // CAN_MAP_HOST_MEMORY
    (20, 0),            // COMPUTE_MODE: default
    (31, 1),            // CONCURRENT_KERNELS
    (32, 1),            // ECC_ENABLED
    (33, 27),           // PCI_BUS_ID
    (34, 0),            // PCI_DEVICE_ID
    (35, 0),            // TCC_DRIVER
    (36, 2_619_000),    // MEMORY_CLOCK_RATE, kHz
    (37, 5120),         // GLOBAL_MEMORY_BUS_WIDTH, bits
    (38, 52_428_800),   // L2_CACHE_SIZE
    (39, 2048),         // MAX_THREADS_PER_MULTIPROCESSOR
    (40, 3),            // ASYNC_ENGINE_COUNT
    (41, 1),            // UNIFIED_ADDRESSING
    (50, 0),            // PCI_DOMAIN_ID
    (78, 1),            // STREAM_PRIORITIES_SUPPORTED
    (81, 233_472),      // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    (82, 65536),        // MAX_REGISTERS_PER_MULTIPROCESSOR
    (83, 1),            // MANAGED_MEMORY
    (95, 1),            // COOPERATIVE_LAUNCH
    (97, 232_448),      // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    (102, 1),           // VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    (103, 1),           // HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
    (106, 32),          // MAX_BLOCKS_PER_MULTIPROCESSOR
    (111, 1024),        // RESERVED_SHARED_MEMORY_PER_BLOCK
    (115, 1),           // MEMORY_POOLS_SUPPORTED
    (120, 1),           // CLUSTER_LAUNCH
    (127, 1),           // TENSOR_MAP_ACCESS_SUPPORTED
];

/// An attribute that is not known is refused: the program under test asks for it, so it belongs here.
fn device_attribute(settings: &Settings, attribute: c_uint) -> Option<c_int> {
    match attribute {
        // MULTIPROCESSOR_COUNT, COMPUTE_CAPABILITY_MAJOR and _MINOR.
        16 => c_int::try_from(settings.sms).ok(),
        75 => Some(settings.cc.0),
        76 => Some(settings.cc.1),
        _ => {
            let row = ATTRIBUTES.iter().find(|row| row.0 == attribute);
            row.map(|row| row.1)
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> CUresult {
    call(c"cuDeviceTotalMem_v2", INIT, |d| {
        d.device(device)?;
        // SAFETY: the caller's place for the result.
        unsafe { put(bytes, d.settings.memory as usize) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(out: *mut Handle, device: c_int) -> CUresult {
    call(c"cuDevicePrimaryCtxRetain", INIT, |d| {
        d.device(device)?;
        given(out)?;
        let fresh = d.fresh();
        let context = d.contexts.entry(device).or_insert((fresh, 0));
        context.1 += 1;
        // SAFETY: the caller's place for the result.
        unsafe { put(out, context.0) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> CUresult {
    call(c"cuDevicePrimaryCtxRelease_v2", RELEASE_CONTEXT, |d| {
        d.device(device)?;
        let context = d.contexts.get_mut(&device);
        let context = context.ok_or(codes::INVALID_CONTEXT)?;
        context.1 -= 1;
        if context.1 == 0 {
            d.contexts.remove(&device);
            d.forget_work();
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: Handle) -> CUresult {
    call(c"cuCtxSetCurrent", INIT, |d| {
        if context != 0 && !d.is_context(context) {
            return Err(codes::INVALID_CONTEXT);
        }
        Driver::set_current(context);
        Ok(())
    })
}

/// Priorities of an H100: 0 is the least, -5 the greatest.
const PRIORITIES: (c_int, c_int) = (0, -5);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(
    least: *mut c_int,
    greatest: *mut c_int,
) -> CUresult {
    call(c"cuCtxGetStreamPriorityRange", CONTEXT, |_| {
        // SAFETY: the caller's places for the results, of which either may be null.
        unsafe {
            put_if(least, PRIORITIES.0);
            put_if(greatest, PRIORITIES.1);
        }
        Ok(())
    })
}

impl Driver {
    fn device(&self, ordinal: c_int) -> Answer {
        if (0..self.settings.devices).contains(&ordinal) {
            Ok(())
        } else {
            Err(codes::INVALID_DEVICE)
        }
    }

    /// What is queued when the last context goes never runs.
    fn forget_work(&mut self) {
        let queued = self
            .streams
            .values()
            .filter(|s| !s.queue.is_empty())
            .count();
        if queued > 0 && self.sticky.is_none() {
            self.complain(format!(
                "the context was released while {queued} streams had work"
            ));
        }
        for stream in self.streams.values_mut() {
            stream.queue.clear();
        }
        self.streams.retain(|_, stream| !stream.destroyed);
    }
}
