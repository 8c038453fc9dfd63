//! The address map and global memory.
//!
//! ```text
//!   generic address            what
//!   0x0000_0000_0000           nothing: null pointers fault
//!   0x0100_0000_0000 + s       shared memory: s = n << 24 | offset, where n is 0
//!                               for the executing CTA and rank + 1 for one of
//!                               its cluster
//!   0x0200_0000_0000 + l       local memory of the executing thread
//!   0x0300_0000_0000 + p       kernel parameters
//!   0x7000_0000_0000 + g       global memory
//! ```
//!
//! Every allocation starts on a 64 KiB page of its own and is followed by an
//! unmapped page, so that the page number finds the allocation at once and an
//! access beyond its end faults. Addresses are never reused: an access after
//! `free` faults as well.
//!
//! Device threads of several CTAs run on several host threads. Plain accesses
//! are relaxed atomics of their own width, so that a race in the simulated
//! program is a race there and nothing worse here; bulk copies move bytes.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::error::SimError;

pub const SHARED_BASE: u64 = 1 << 40;
pub const LOCAL_BASE: u64 = 2 << 40;
pub const PARAM_BASE: u64 = 3 << 40;
pub const GLOBAL_BASE: u64 = 0x7000_0000_0000;
/// Bytes of a window (shared, local, parameters).
pub const WINDOW: u64 = 1 << 32;
/// The CTA stands above the offset in a shared address.
pub const RANK_SHIFT: u32 = 24;
/// The first bytes of shared memory belong to the system, as on the device.
pub const SHARED_START: u32 = 1024;

const PAGE_SHIFT: u32 = 16;
const NO_ALLOCATION: u32 = u32::MAX;
const HOST_ALIGN: usize = 256;

/// One allocation; its bytes live as long as a launch may use them.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub start: u64,
    pub len: u64,
    host: *mut u8,
    layout: Layout,
}

// SAFETY: the bytes are only touched through raw pointers and atomics, and the
// pointer itself never changes.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `Memory::alloc`.
        unsafe { dealloc(self.host, self.layout) }
    }
}

impl Allocation {
    pub fn host(&self) -> *mut u8 {
        self.host
    }
}

/// All allocations, findable by page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pages: Vec<u32>,
    slots: Vec<Option<Arc<Allocation>>>,
}

impl Table {
    /// The host address of `len` bytes at a device address, when they lie in
    /// one allocation.
    #[inline(always)]
    pub fn resolve(&self, addr: u64, len: u64) -> Option<*mut u8> {
        let a = self.find(addr)?;
        let offset = addr - a.start;
        // The page lookup guarantees addr >= start.
        if offset.checked_add(len)? > a.len {
            return None;
        }
        // SAFETY: offset + len lies inside the allocation.
        Some(unsafe { a.host.add(offset as usize) })
    }

    #[inline(always)]
    pub fn find(&self, addr: u64) -> Option<&Allocation> {
        let page = addr.checked_sub(GLOBAL_BASE)? >> PAGE_SHIFT;
        let slot = *self.pages.get(usize::try_from(page).ok()?)?;
        self.slots.get(slot as usize)?.as_deref()
    }

    /// Where an unmapped address lies, for error messages.
    pub fn describe(&self, addr: u64) -> String {
        let nearest = self.slots.iter().flatten().min_by_key(|a| {
            if addr < a.start {
                a.start - addr
            } else {
                (addr - a.start).saturating_sub(a.len - 1)
            }
        });
        match nearest {
            Some(a) if addr >= a.start && addr - a.start < a.len => format!(
                ": only {} bytes of the allocation at {:#x} follow",
                a.len - (addr - a.start),
                a.start
            ),
            Some(a) if addr >= a.start => format!(
                ": {} bytes past the end of the allocation of {} bytes at {:#x}",
                addr - a.start - a.len,
                a.len,
                a.start
            ),
            Some(a) => format!(
                ": {} bytes before the allocation of {} bytes at {:#x}",
                a.start - addr,
                a.len,
                a.start
            ),
            None => String::new(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Memory {
    table: RwLock<Arc<Table>>,
    capacity: u64,
}

impl Memory {
    pub fn new(capacity: u64) -> Memory {
        Memory {
            table: RwLock::default(),
            capacity,
        }
    }

    /// A view that stays valid while a launch runs.
    pub fn view(&self) -> Arc<Table> {
        match self.table.read() {
            Ok(guard) => Arc::clone(&guard),
            // A panic elsewhere cannot leave the table half changed.
            Err(poisoned) => Arc::clone(&poisoned.into_inner()),
        }
    }

    fn edit<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        let mut guard = match self.table.write() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        };
        f(Arc::make_mut(&mut guard))
    }

    /// Zeroed bytes at an address aligned to `align`.
    pub fn alloc(&self, bytes: u64, align: u64) -> Result<u64, SimError> {
        if !align.is_power_of_two() || align > 1 << PAGE_SHIFT {
            return Err(SimError::Memory(format!(
                "alignment {align} is not a power of two up to 65536"
            )));
        }
        let len = bytes.max(1);
        self.edit(|t| {
            let used: u64 = t.slots.iter().flatten().map(|a| a.len).sum();
            if used.saturating_add(len) > self.capacity {
                return Err(SimError::Memory(format!(
                    "{bytes} bytes do not fit: {used} of {} are in use",
                    self.capacity
                )));
            }
            let layout = usize::try_from(len)
                .ok()
                .and_then(|n| Layout::from_size_align(n, HOST_ALIGN).ok())
                .ok_or_else(|| SimError::Memory(format!("{bytes} bytes are too many")))?;
            // SAFETY: the size is not zero.
            let host = unsafe { alloc_zeroed(layout) };
            if host.is_null() {
                return Err(SimError::Memory(format!(
                    "the host has no {bytes} bytes left"
                )));
            }
            let first = t.pages.len();
            let start = GLOBAL_BASE + ((first as u64) << PAGE_SHIFT);
            let pages = len.div_ceil(1 << PAGE_SHIFT) as usize;
            t.pages.resize(first + pages, t.slots.len() as u32);
            // The guard page.
            t.pages.push(NO_ALLOCATION);
            t.slots.push(Some(Arc::new(Allocation {
                start,
                len,
                host,
                layout,
            })));
            Ok(start)
        })
    }

    pub fn free(&self, addr: u64) -> Result<(), SimError> {
        self.edit(|t| {
            let slot = t
                .slots
                .iter_mut()
                .find(|s| s.as_ref().is_some_and(|a| a.start == addr));
            match slot {
                Some(slot) => {
                    *slot = None;
                    Ok(())
                }
                None => Err(SimError::Memory(format!(
                    "no allocation starts at {addr:#x}"
                ))),
            }
        })
    }

    /// Runs `f` on the host address of a range, or names what is wrong.
    pub fn with<T>(
        &self,
        addr: u64,
        len: u64,
        f: impl FnOnce(*mut u8) -> T,
    ) -> Result<T, SimError> {
        let view = self.view();
        match view.resolve(addr, len) {
            Some(host) => Ok(f(host)),
            None => Err(SimError::Memory(format!(
                "{len} bytes at {addr:#x} are not allocated{}",
                view.describe(addr)
            ))),
        }
    }
}

/// A relaxed load of 1, 2, 4 or 8 bytes.
///
/// # Safety
/// `p` is valid for `SIZE` bytes and aligned to them.
#[inline(always)]
pub(crate) unsafe fn load<const SIZE: usize>(p: *const u8) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe {
        match SIZE {
            1 => u64::from((*p.cast::<AtomicU8>()).load(Ordering::Relaxed)),
            2 => u64::from((*p.cast::<AtomicU16>()).load(Ordering::Relaxed)),
            4 => u64::from((*p.cast::<AtomicU32>()).load(Ordering::Relaxed)),
            _ => (*p.cast::<AtomicU64>()).load(Ordering::Relaxed),
        }
    }
}

/// A relaxed store of the low `SIZE` bytes.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(crate) unsafe fn store<const SIZE: usize>(p: *mut u8, v: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        match SIZE {
            1 => (*p.cast::<AtomicU8>()).store(v as u8, Ordering::Relaxed),
            2 => (*p.cast::<AtomicU16>()).store(v as u16, Ordering::Relaxed),
            4 => (*p.cast::<AtomicU32>()).store(v as u32, Ordering::Relaxed),
            _ => (*p.cast::<AtomicU64>()).store(v, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_apart_and_guarded() {
        let m = Memory::new(1 << 30);
        let a = m.alloc(65536, 256).expect("fits");
        let b = m.alloc(10, 16).expect("fits");
        assert!(b >= a + 2 * 65536);
        let v = m.view();
        assert!(v.resolve(a, 65536).is_some());
        assert!(v.resolve(a + 1, 65536).is_none());
        assert!(v.resolve(a + 65536, 1).is_none());
        assert!(v.resolve(b + 9, 1).is_some() && v.resolve(b + 10, 1).is_none());
        assert!(v.resolve(0, 1).is_none() && v.resolve(u64::MAX, 8).is_none());
        m.free(a).expect("allocated");
        // A running launch keeps its view; later ones fault.
        assert!(v.resolve(a, 1).is_some() && m.view().resolve(a, 1).is_none());
        assert!(m.free(a).is_err());
        assert!(m.alloc(1 << 31, 16).is_err());
        assert!(m.alloc(16, 3).is_err());
        let text = m.view().describe(b + 12);
        assert!(text.contains("2 bytes past the end"), "{text}");
    }
}
