//! Addresses apart from memory (CUDA driver API, Virtual Memory Management).
//!
//! ```text
//!   cuMemAddressReserve  addresses, nothing behind them
//!   cuMemCreate          memory, no address
//!   cuMemMap             brings both together
//!   cuMemSetAccess       from here on copies and kernels may touch it
//! ```
//!
//! Bytes live in the reservation; when its place is needed by others they move into the physical object, so that
//! memory that is unmapped here and mapped there takes its bytes along. One piece of memory at two places at once
//! is not supported: the program under test does not need it.

use std::ffi::{c_uint, c_ulonglong};
use std::ops::Range;

use crate::abi::{CUresult, DevicePtr, MemAccessDesc, MemAllocationProp, MemLocation};
use crate::codes::{self, Answer};
use crate::state::{Driver, RELEASE, UNCAPTURED, call, given, put};

/// Granularity of an H100, the minimal one and the recommended.
const GRANULARITY: u64 = 2 << 20;

/// From `cuMemAddressReserve`.
pub struct Reservation {
    bytes: u64,
}

/// From `cuMemCreate`.
pub struct Physical {
    pub bytes: u64,
    /// Whether `cuMemRelease` was not called yet. Mapped memory outlives it.
    pub held: bool,
    /// Where it is mapped.
    mapped: Option<u64>,
    /// Its bytes while it is not mapped.
    content: Content,
}

/// Bytes of memory that is not mapped.
enum Content {
    /// It never was.
    Fresh,
    /// Still where it was mapped last; nothing else was mapped there since.
    Left(u64),
    /// Saved when something else was.
    Saved(Vec<u8>),
}

/// From `cuMemMap`.
pub struct Mapping {
    bytes: u64,
    physical: u64,
    /// Whether `cuMemSetAccess` has let the device in.
    accessible: bool,
}

fn check_location(location: MemLocation) -> Answer {
    // CU_MEM_LOCATION_TYPE_DEVICE, the one device.
    if location.kind == 1 && location.id == 0 {
        Ok(())
    } else {
        Err(codes::INVALID_VALUE)
    }
}

/// # Safety
/// `prop` is null, which is refused, or points to one.
unsafe fn check_prop(prop: *const MemAllocationProp) -> Answer {
    given(prop)?;
    // SAFETY: by the caller's promise.
    let prop = unsafe { prop.read() };
    // CU_MEM_ALLOCATION_TYPE_PINNED, not to be shared, no compression.
    if prop.kind != 1 || prop.handle_types != 0 || prop.alloc_flags != [0; 8] {
        return Err(codes::INVALID_VALUE);
    }
    check_location(prop.location)
}

fn whole(bytes: usize) -> Answer<u64> {
    let bytes = bytes as u64;
    if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) {
        return Err(codes::INVALID_VALUE);
    }
    Ok(bytes)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAllocationGranularity(
    out: *mut usize,
    prop: *const MemAllocationProp,
    option: c_uint,
) -> CUresult {
    call(c"cuMemGetAllocationGranularity", UNCAPTURED, |_| {
        // SAFETY: the caller's, as documented.
        unsafe { check_prop(prop) }?;
        if option > 1 {
            return Err(codes::INVALID_VALUE);
        }
        // SAFETY: the caller's place for the result.
        unsafe { put(out, GRANULARITY as usize) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressReserve(
    out: *mut DevicePtr,
    bytes: usize,
    alignment: usize,
    _hint: DevicePtr,
    flags: c_ulonglong,
) -> CUresult {
    call(c"cuMemAddressReserve", UNCAPTURED, |d| {
        given(out)?;
        let bytes = whole(bytes)?;
        if flags != 0 || (alignment != 0 && !alignment.is_power_of_two()) {
            return Err(codes::INVALID_VALUE);
        }
        let align = (alignment as u64).max(GRANULARITY);
        let at = d.gpu().reserve(bytes, align);
        let at = at.map_err(|_| codes::OUT_OF_MEMORY)?;
        d.reservations.insert(at, Reservation { bytes });
        // SAFETY: the caller's place for the result.
        unsafe { put(out, at) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressFree(at: DevicePtr, bytes: usize) -> CUresult {
    call(c"cuMemAddressFree", RELEASE, |d| {
        let known = d.reservations.get(&at).ok_or(codes::INVALID_VALUE)?;
        let end = at + known.bytes;
        if known.bytes != bytes as u64 || d.mappings.range(at..end).next().is_some() {
            return Err(codes::INVALID_VALUE);
        }
        d.save_left(&(at..end))?;
        d.reservations.remove(&at);
        d.gpu().unreserve(at).map_err(|_| codes::UNKNOWN)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemCreate(
    out: *mut u64,
    bytes: usize,
    prop: *const MemAllocationProp,
    flags: c_ulonglong,
) -> CUresult {
    call(c"cuMemCreate", UNCAPTURED, |d| {
        given(out)?;
        // SAFETY: the caller's, as documented.
        unsafe { check_prop(prop) }?;
        let bytes = whole(bytes)?;
        if flags != 0 {
            return Err(codes::INVALID_VALUE);
        }
        d.room_for(bytes)?;
        let handle = d.fresh() as u64;
        let physical = Physical {
            bytes,
            held: true,
            mapped: None,
            content: Content::Fresh,
        };
        d.physical.insert(handle, physical);
        // SAFETY: the caller's place for the result.
        unsafe { put(out, handle) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRelease(handle: u64) -> CUresult {
    call(c"cuMemRelease", RELEASE, |d| {
        let known = d.physical.get_mut(&handle).filter(|p| p.held);
        known.ok_or(codes::INVALID_VALUE)?.held = false;
        d.drop_unused(handle);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemMap(
    at: DevicePtr,
    bytes: usize,
    offset: usize,
    handle: u64,
    flags: c_ulonglong,
) -> CUresult {
    call(c"cuMemMap", UNCAPTURED, |d| {
        let bytes = whole(bytes)?;
        let range = d.reserved(at, bytes)?;
        let free = d.mappings_in(&range).is_empty();
        let physical = d.physical.get(&handle).filter(|p| p.held);
        let physical = physical.ok_or(codes::INVALID_VALUE)?;
        if flags != 0 || offset != 0 || !free || bytes != physical.bytes {
            return Err(codes::INVALID_VALUE);
        }
        if physical.mapped.is_some() {
            return Err(codes::NOT_SUPPORTED);
        }
        d.bring(handle, at, bytes)?;
        let mapping = Mapping {
            bytes,
            physical: handle,
            accessible: false,
        };
        d.mappings.insert(at, mapping);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemUnmap(at: DevicePtr, bytes: usize) -> CUresult {
    call(c"cuMemUnmap", RELEASE, |d| {
        let range = d.reserved(at, whole(bytes)?)?;
        for start in d.covering(&range)? {
            d.unmap(start)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemSetAccess(
    at: DevicePtr,
    bytes: usize,
    descs: *const MemAccessDesc,
    count: usize,
) -> CUresult {
    call(c"cuMemSetAccess", UNCAPTURED, |d| {
        given(descs)?;
        let range = d.reserved(at, whole(bytes)?)?;
        if count != 1 {
            return Err(codes::INVALID_VALUE);
        }
        // SAFETY: the caller passes `count` of them.
        let desc = unsafe { descs.read() };
        check_location(desc.location)?;
        // CU_MEM_ACCESS_FLAGS_PROT_NONE and _READWRITE; the simulator has no read-only memory.
        let accessible = match desc.flags {
            0 => false,
            3 => true,
            1 => return Err(codes::NOT_SUPPORTED),
            _ => return Err(codes::INVALID_VALUE),
        };
        let gpu = d.gpu();
        for start in d.covering(&range)? {
            let Some(mapping) = d.mappings.get_mut(&start) else {
                continue;
            };
            let change = match (mapping.accessible, accessible) {
                (false, true) => gpu.map(start, mapping.bytes),
                (true, false) => gpu.unmap(start, mapping.bytes),
                _ => Ok(()),
            };
            change.map_err(|_| codes::UNKNOWN)?;
            mapping.accessible = accessible;
        }
        Ok(())
    })
}

impl Driver {
    /// Refuses addresses that are not whole granules inside of one reservation.
    fn reserved(&self, at: u64, bytes: u64) -> Answer<Range<u64>> {
        let end = at.checked_add(bytes).ok_or(codes::INVALID_VALUE)?;
        let found = self.reservations.range(..=at).next_back();
        let inside = found.is_some_and(|(start, r)| end <= start + r.bytes);
        if !inside || !at.is_multiple_of(GRANULARITY) {
            return Err(codes::INVALID_VALUE);
        }
        Ok(at..end)
    }

    /// Starts of the mappings that touch a range.
    fn mappings_in(&self, range: &Range<u64>) -> Vec<u64> {
        let below = self.mappings.range(..range.end);
        let touching = below.filter(|(at, m)| *at + m.bytes > range.start);
        touching.map(|(&at, _)| at).collect()
    }

    /// Starts of the mappings that are the range, whole ones and all of it.
    fn covering(&self, range: &Range<u64>) -> Answer<Vec<u64>> {
        let found = self.mappings_in(range);
        let mut at = range.start;
        for start in &found {
            if *start != at {
                return Err(codes::INVALID_VALUE);
            }
            at += self.mappings[start].bytes;
        }
        if at == range.end {
            Ok(found)
        } else {
            Err(codes::INVALID_VALUE)
        }
    }

    /// Puts the bytes of physical memory where it is to be mapped.
    fn bring(&mut self, handle: u64, at: u64, bytes: u64) -> Answer {
        let gpu = self.gpu();
        let host = |at| gpu.reserved(at, bytes).ok_or(codes::UNKNOWN);
        let to = host(at)?;
        let Some(physical) = self.physical.get_mut(&handle) else {
            return Err(codes::INVALID_VALUE);
        };
        physical.mapped = Some(at);
        let content = std::mem::replace(&mut physical.content, Content::Fresh);
        let len = bytes as usize;
        if !matches!(content, Content::Left(from) if from == at) {
            self.save_left(&(at..at + bytes))?;
        }
        match (content, self.settings.poison) {
            // SAFETY: the reservation has `len` bytes at `to`.
            (Content::Fresh, Some(byte)) => unsafe { std::ptr::write_bytes(to, byte, len) },
            (Content::Fresh, None) => {}
            (Content::Left(from), _) => {
                // SAFETY: both lie in reservations; whole granules are the same or apart.
                unsafe { std::ptr::copy(host(from)?, to, len) };
            }
            // SAFETY: as many bytes were saved.
            (Content::Saved(from), _) => unsafe {
                std::ptr::copy_nonoverlapping(from.as_ptr(), to, len.min(from.len()));
            },
        }
        Ok(())
    }

    /// Saves bytes that were left in a range that is about to be used, or to go.
    fn save_left(&mut self, range: &Range<u64>) -> Answer {
        let gpu = self.gpu();
        for physical in self.physical.values_mut().filter(|p| p.held) {
            if let Content::Left(at) = physical.content
                && at < range.end
                && range.start < at + physical.bytes
            {
                let host = gpu.reserved(at, physical.bytes).ok_or(codes::UNKNOWN)?;
                let len = physical.bytes as usize;
                // SAFETY: the reservation has as many bytes there.
                let bytes = unsafe { std::slice::from_raw_parts(host, len) };
                physical.content = Content::Saved(bytes.to_vec());
            }
        }
        Ok(())
    }

    fn unmap(&mut self, start: u64) -> Answer {
        let Some(mapping) = self.mappings.remove(&start) else {
            return Err(codes::INVALID_VALUE);
        };
        let gpu = self.gpu();
        if mapping.accessible {
            gpu.unmap(start, mapping.bytes)
                .map_err(|_| codes::UNKNOWN)?;
        }
        if let Some(physical) = self.physical.get_mut(&mapping.physical) {
            physical.mapped = None;
            physical.content = Content::Left(start);
        }
        self.drop_unused(mapping.physical);
        Ok(())
    }

    /// Memory goes back when nobody holds it and nothing maps it.
    fn drop_unused(&mut self, handle: u64) {
        let unused = |p: &Physical| !p.held && p.mapped.is_none();
        if self.physical.get(&handle).is_some_and(unused) {
            self.physical.remove(&handle);
        }
    }
}
