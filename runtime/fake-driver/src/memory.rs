//! Device memory and pinned host memory (CUDA driver API, Memory Management).
//!
//! Holds: addresses are never used again, so that whatever touches freed memory is found; fresh memory holds the
//! poison byte, not zeros.

use std::ffi::{c_uint, c_void};

use crate::abi::{CUresult, DevicePtr};
use crate::codes::{self, Answer};
use crate::state::{CONTEXT, Driver, RELEASE_UNCAPTURED, UNCAPTURED, call, given, put};

/// From `cuMemAlloc`.
pub struct Allocation {
    pub bytes: u64,
}

/// From `cuMemHostAlloc`.
pub struct Pinned {
    pub bytes: usize,
    /// Where kernels find it.
    pub device: DevicePtr,
    /// Whether the device pointer may be asked for.
    pub mapped: bool,
}

/// The driver gives memory out in units of this many bytes.
const UNIT: u64 = 512;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    call(c"cuMemGetInfo_v2", CONTEXT, |d| {
        given(free)?;
        let used = d.memory_used();
        // SAFETY: the caller's places for the results.
        unsafe {
            put(total, d.settings.memory as usize)?;
            put(free, d.settings.memory.saturating_sub(used) as usize)
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(out: *mut DevicePtr, bytes: usize) -> CUresult {
    call(c"cuMemAlloc_v2", UNCAPTURED, |d| {
        given(out)?;
        if bytes == 0 {
            return Err(codes::INVALID_VALUE);
        }
        let bytes = bytes as u64;
        d.room_for(bytes)?;
        let gpu = d.gpu();
        let at = gpu.alloc(bytes, 256).map_err(|_| codes::OUT_OF_MEMORY)?;
        if let Some(byte) = d.settings.poison {
            gpu.fill(at, byte, bytes).map_err(|_| codes::UNKNOWN)?;
        }
        d.memory.insert(at, Allocation { bytes });
        // SAFETY: the caller's place for the result.
        unsafe { put(out, at) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(at: DevicePtr) -> CUresult {
    call(c"cuMemFree_v2", RELEASE_UNCAPTURED, |d| {
        let known = d.memory.remove(&at).ok_or(codes::INVALID_VALUE)?;
        d.complain_of_work("memory", at, known.bytes);
        d.gpu().free(at).map_err(|_| codes::UNKNOWN)
    })
}

/// `CU_MEMHOSTALLOC_PORTABLE`, `_DEVICEMAP` and `_WRITECOMBINED`.
const HOST_FLAGS: c_uint = 7;
const DEVICEMAP: c_uint = 2;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(
    out: *mut *mut c_void,
    bytes: usize,
    flags: c_uint,
) -> CUresult {
    call(c"cuMemHostAlloc", UNCAPTURED, |d| {
        given(out)?;
        if bytes == 0 || flags & !HOST_FLAGS != 0 {
            return Err(codes::INVALID_VALUE);
        }
        let (device, host) = d
            .gpu()
            .alloc_host(bytes as u64)
            .map_err(|_| codes::OUT_OF_MEMORY)?;
        if let Some(byte) = d.settings.poison {
            // SAFETY: the host address is valid for as many bytes.
            unsafe { std::ptr::write_bytes(host, byte, bytes) };
        }
        let pinned = Pinned {
            bytes,
            device,
            mapped: flags & DEVICEMAP != 0,
        };
        d.pinned.insert(host as usize, pinned);
        // SAFETY: the caller's place for the result.
        unsafe { put(out, host.cast()) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(host: *mut c_void) -> CUresult {
    call(c"cuMemFreeHost", RELEASE_UNCAPTURED, |d| {
        let known = d.pinned.remove(&(host as usize));
        let known = known.ok_or(codes::INVALID_VALUE)?;
        d.complain_of_work("pinned memory", known.device, known.bytes as u64);
        d.gpu().free(known.device).map_err(|_| codes::UNKNOWN)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(
    out: *mut DevicePtr,
    host: *mut c_void,
    flags: c_uint,
) -> CUresult {
    call(c"cuMemHostGetDevicePointer_v2", CONTEXT, |d| {
        let (start, pinned) = d.pinned_at(host as usize, 1).ok_or(codes::INVALID_VALUE)?;
        if flags != 0 || !pinned.mapped {
            return Err(codes::INVALID_VALUE);
        }
        let at = pinned.device + (host as usize - start) as u64;
        // SAFETY: the caller's place for the result.
        unsafe { put(out, at) }
    })
}

impl Driver {
    /// Device memory in use: allocations, and physical memory that is held or mapped.
    fn memory_used(&self) -> u64 {
        let allocated: u64 = self
            .memory
            .values()
            .map(|a| a.bytes.next_multiple_of(UNIT))
            .sum();
        allocated + self.physical.values().map(|p| p.bytes).sum::<u64>()
    }

    /// Refuses what does not fit.
    pub fn room_for(&self, bytes: u64) -> Answer {
        let bytes = bytes
            .checked_next_multiple_of(UNIT)
            .ok_or(codes::OUT_OF_MEMORY)?;
        let after = self.memory_used().checked_add(bytes);
        if after.is_some_and(|after| after <= self.settings.memory) {
            Ok(())
        } else {
            Err(codes::OUT_OF_MEMORY)
        }
    }

    /// The pinned allocation in which these bytes of the host lie, and its start.
    pub fn pinned_at(&self, host: usize, bytes: usize) -> Option<(usize, &Pinned)> {
        let (&start, pinned) = self.pinned.range(..=host).next_back()?;
        let end = host.checked_add(bytes)?;
        (end <= start + pinned.bytes && host < start + pinned.bytes.max(1))
            .then_some((start, pinned))
    }

    /// Hardware's driver waits before it frees memory, or it does not: nothing says so. This one does not, and
    /// says what is wrong. Kernels' parameters are opaque, so any kernel counts.
    fn complain_of_work(&mut self, what: &str, at: u64, bytes: u64) {
        let touching = self
            .streams
            .values()
            .filter(|s| s.hung || s.queue.iter().any(|work| work.may_touch(at, bytes)))
            .count();
        if touching > 0 && self.sticky.is_none() {
            self.complain(format!(
                "{bytes} bytes of {what} at {at:#x} were freed while {touching} streams had work that may use them"
            ));
        }
    }
}
