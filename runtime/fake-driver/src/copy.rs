//! Copies and fills (CUDA driver API, Memory Management; API synchronization behavior, Memcpy and Memset).
//!
//! Addresses are checked at the call and again when the work runs: memory may have been freed in between. Memory of
//! the host that is not pinned is read at the call when it is a source; when it is a destination, the call waits.

use std::ffi::{c_uchar, c_void};
use std::sync::Arc;

use crate::abi::{CUresult, DevicePtr, Handle};
use crate::codes::{self, Answer};
use crate::state::{CONTEXT, Driver, call, given};
use crate::stream::{Source, Work};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: DevicePtr,
    from: *const c_void,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    call(c"cuMemcpyHtoDAsync_v2", CONTEXT, |d| {
        d.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        given(from)?;
        d.touchable(to, bytes)?;
        let host = from as usize;
        let from = if d.pinned_at(host, bytes).is_some() {
            Source::Pinned(host)
        } else {
            d.not_capturing(stream)?;
            // SAFETY: the caller's source of `bytes` bytes.
            let data = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
            Source::Staged(Arc::from(data))
        };
        d.submit(stream, Work::Upload { to, from, bytes })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: DevicePtr,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    call(c"cuMemcpyDtoHAsync_v2", CONTEXT, |d| {
        d.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        given(to)?;
        d.touchable(from, bytes)?;
        let host = to as usize;
        if d.pinned_at(host, bytes).is_some() {
            let to = host;
            return d.submit(stream, Work::Download { to, from, bytes });
        }
        d.not_capturing(stream)?;
        d.finish(stream)?;
        // SAFETY: the caller's destination of `bytes` bytes.
        let data = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
        d.gpu().read(from, data).map_err(|_| codes::ILLEGAL_ADDRESS)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: DevicePtr,
    from: DevicePtr,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    call(c"cuMemcpyDtoDAsync_v2", CONTEXT, |d| {
        d.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        d.touchable(from, bytes)?;
        d.touchable(to, bytes)?;
        d.submit(stream, Work::Copy { to, from, bytes })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(
    to: DevicePtr,
    byte: c_uchar,
    bytes: usize,
    stream: Handle,
) -> CUresult {
    call(c"cuMemsetD8Async", CONTEXT, |d| {
        d.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        d.touchable(to, bytes)?;
        d.submit(stream, Work::Fill { to, byte, bytes })
    })
}

impl Driver {
    fn touchable(&mut self, at: DevicePtr, bytes: usize) -> Answer {
        if self.gpu().is_mapped(at, bytes as u64) {
            Ok(())
        } else {
            Err(codes::INVALID_VALUE)
        }
    }
}
