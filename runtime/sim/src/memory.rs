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
//!   0x7000_0000_0000 + g       global memory; of node n from n << 40 on
//! ```
//!
//! Every allocation starts on a 64 KiB page of its own and is followed by an
//! unmapped page, so that the page number finds the allocation at once and an
//! access beyond its end faults. Addresses are never reused: an access after
//! `free` faults as well. Of a reservation, what is not mapped faults.
//!
//! Device threads of several CTAs run on several host threads, so global memory
//! is made of atomic [`cells`].

pub(crate) mod cells;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use bytemuck::allocation::try_zeroed_slice_box;
use cells::Cells;

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
/// Addresses of one node: devices of other nodes have none of them mapped.
const NODE_SHIFT: u32 = 40;
const NO_ALLOCATION: u32 = u32::MAX;
const HOST_ALIGN: usize = 256;
/// Bytes of a cell.
const CELL: usize = 4;

/// Host memory behind device addresses.
#[derive(Debug)]
struct Backing {
    cells: Box<Cells>,
    /// The first cell that is used: its host address is a multiple of [`HOST_ALIGN`].
    first: usize,
    /// Bytes from there on.
    bytes: u64,
}

impl Backing {
    fn zeroed(bytes: u64) -> Result<Arc<Backing>, SimError> {
        let spare = HOST_ALIGN / CELL;
        let count = usize::try_from(bytes.div_ceil(CELL as u64))
            .ok()
            .and_then(|n| n.checked_add(spare))
            .ok_or_else(|| SimError::Memory(format!("{bytes} bytes are too many")))?;
        // Zeroed memory of a plain alignment comes untouched from the system; of a larger one it would be written,
        // and a reservation of many gigabytes with it. So align within.
        let cells: Box<Cells> = try_zeroed_slice_box(count)
            .map_err(|()| SimError::Memory(format!("the host has no {bytes} bytes left")))?;
        let address = cells.as_ptr().addr();
        let first = (address.next_multiple_of(HOST_ALIGN) - address) / CELL;
        Ok(Arc::new(Backing {
            cells,
            first,
            bytes,
        }))
    }

    /// The host address of a byte, for those outside who share the memory.
    fn host(&self, at: u64) -> *mut u8 {
        let cells = self.cells.as_ptr().cast_mut().cast::<u8>();
        cells.wrapping_add(self.first * CELL + at as usize)
    }
}

/// Addresses that kernels may touch: an allocation, or a mapped run of a
/// reservation. Its bytes live as long as a launch may use them.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub start: u64,
    pub len: u64,
    /// Of the first byte, in `backing`: whole cells.
    at: u64,
    backing: Arc<Backing>,
    /// The device whose memory it takes, if any.
    pub owner: Option<u32>,
}

/// A range of addresses, of which parts can be mapped.
#[derive(Debug, Clone)]
struct Reservation {
    start: u64,
    len: u64,
    backing: Arc<Backing>,
    /// Slots of the mapped runs. Neighbours are one run, so that an access may
    /// reach from one mapping into the next.
    runs: Vec<u32>,
}

impl Allocation {
    /// The cells from the first byte on.
    #[inline(always)]
    pub fn cells(&self) -> &Cells {
        let from = self.backing.first + self.at as usize / CELL;
        &self.backing.cells[from..from + (self.len as usize).div_ceil(CELL)]
    }

    /// The same bytes, but more or fewer of them.
    fn with_len(&self, len: u64) -> Allocation {
        Allocation {
            start: self.start,
            len,
            at: self.at,
            backing: Arc::clone(&self.backing),
            owner: self.owner,
        }
    }

    /// Bytes that it takes of a device's memory.
    fn taken(&self, owner: u32) -> u64 {
        if self.owner == Some(owner) {
            self.len
        } else {
            0
        }
    }
}

/// All allocations of a node, findable by page.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// The first address of the node.
    base: u64,
    pages: Vec<u32>,
    slots: Vec<Option<Arc<Allocation>>>,
    reservations: Vec<Reservation>,
}

impl Table {
    fn of_node(node: u32) -> Table {
        Table {
            base: GLOBAL_BASE + (u64::from(node) << NODE_SHIFT),
            pages: Vec::new(),
            slots: Vec::new(),
            reservations: Vec::new(),
        }
    }

    /// The cells of the allocation in which `len` bytes at a device address
    /// lie, and the offset of the first of the bytes.
    #[inline(always)]
    pub fn resolve(&self, addr: u64, len: u64) -> Option<(&Cells, usize)> {
        let a = self.find(addr)?;
        let offset = addr - a.start;
        // The page lookup guarantees addr >= start.
        if offset.checked_add(len)? > a.len {
            return None;
        }
        Some((a.cells(), offset as usize))
    }

    #[inline(always)]
    pub fn find(&self, addr: u64) -> Option<&Allocation> {
        let page = addr.checked_sub(self.base)? >> PAGE_SHIFT;
        let slot = *self.pages.get(usize::try_from(page).ok()?)?;
        self.slots.get(slot as usize)?.as_deref()
    }

    /// The next free address that is aligned to `align`, at least a page.
    fn next_address(&mut self, align: u64) -> u64 {
        let pages = (align >> PAGE_SHIFT).max(1) as usize;
        let base = (self.base >> PAGE_SHIFT) as usize;
        let first = (base + self.pages.len()).next_multiple_of(pages) - base;
        self.pages.resize(first, NO_ALLOCATION);
        self.base + ((first as u64) << PAGE_SHIFT)
    }

    /// Adds an allocation behind the last page.
    fn place(&mut self, start: u64, len: u64, backing: &Arc<Backing>, owner: Option<u32>) {
        let pages = len.div_ceil(1 << PAGE_SHIFT) as usize;
        self.pages
            .resize(self.pages.len() + pages, self.slots.len() as u32);
        self.slots.push(Some(Arc::new(Allocation {
            start,
            len,
            at: 0,
            backing: Arc::clone(backing),
            owner,
        })));
    }

    /// Bytes that all allocations take of a device's memory.
    fn used(&self, owner: u32) -> u64 {
        self.slots.iter().flatten().map(|a| a.taken(owner)).sum()
    }

    /// Changes how much of the newest allocation can be used.
    fn resize_last(&mut self, len: u64) {
        if let Some(Some(last)) = self.slots.last_mut() {
            *last = Arc::new(last.with_len(len));
        }
    }

    fn guard(&mut self) {
        self.pages.push(NO_ALLOCATION);
    }

    /// Makes a part of a reservation an allocation.
    fn attach(&mut self, r: &Reservation, start: u64, len: u64) -> u32 {
        let slot = self.slots.len() as u32;
        self.slots.push(Some(Arc::new(Allocation {
            start,
            len,
            at: start - r.start,
            backing: Arc::clone(&r.backing),
            owner: None,
        })));
        self.page_range(start, len).fill(slot);
        slot
    }

    fn clear(&mut self, slot: u32) {
        if let Some(a) = self.slots[slot as usize].take() {
            self.page_range(a.start, a.len).fill(NO_ALLOCATION);
        }
    }

    fn page_range(&mut self, start: u64, len: u64) -> &mut [u32] {
        let first = ((start - self.base) >> PAGE_SHIFT) as usize;
        let pages = len.div_ceil(1 << PAGE_SHIFT) as usize;
        &mut self.pages[first..first + pages]
    }

    /// Where an unmapped address lies, for error messages.
    pub fn describe(&self, addr: u64) -> String {
        let node_of = |a: u64| a.saturating_sub(GLOBAL_BASE) >> NODE_SHIFT;
        if addr >= GLOBAL_BASE && node_of(addr) != node_of(self.base) {
            return format!(": not mapped: node {} is another one", node_of(addr));
        }
        let nearest = self.slots.iter().flatten().min_by_key(|a| {
            if addr < a.start {
                a.start - addr
            } else {
                (addr - a.start).saturating_sub(a.len.saturating_sub(1))
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

fn new_table(node: u32) -> Arc<RwLock<Arc<Table>>> {
    Arc::new(RwLock::new(Arc::new(Table::of_node(node))))
}

/// The memory of a device, and the addresses that it shares with its peers.
#[derive(Debug)]
pub(crate) struct Memory {
    table: Arc<RwLock<Arc<Table>>>,
    /// Devices so far that run together with this one, on any node.
    devices: Arc<AtomicU32>,
    owner: u32,
    node: u32,
    capacity: u64,
}

impl Memory {
    pub fn new(capacity: u64) -> Memory {
        Memory {
            table: new_table(0),
            devices: Arc::new(AtomicU32::new(1)),
            owner: 0,
            node: 0,
            capacity,
        }
    }

    /// Memory of another device, at addresses of the same table.
    pub fn peer(&self, capacity: u64) -> Memory {
        Memory {
            table: Arc::clone(&self.table),
            devices: Arc::clone(&self.devices),
            owner: self.devices.fetch_add(1, Ordering::Relaxed),
            node: self.node,
            capacity,
        }
    }

    /// Memory of the first device of another node, whose addresses this one
    /// cannot touch.
    pub fn of_node(&self, node: u32, capacity: u64) -> Memory {
        Memory {
            table: new_table(node),
            devices: Arc::clone(&self.devices),
            owner: self.devices.fetch_add(1, Ordering::Relaxed),
            node,
            capacity,
        }
    }

    /// Whether the devices may run together.
    pub fn is_peer(&self, other: &Memory) -> bool {
        Arc::ptr_eq(&self.devices, &other.devices)
    }

    /// The number of the device among all that may run together.
    pub fn owner(&self) -> u32 {
        self.owner
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
            self.check_fits(bytes, t.used(self.owner))?;
            let backing = Backing::zeroed(len)?;
            let start = t.next_address(1 << PAGE_SHIFT);
            t.place(start, len, &backing, Some(self.owner));
            t.guard();
            Ok(start)
        })
    }

    /// Bytes of device memory in use, and bytes that there can be.
    pub fn used(&self) -> (u64, u64) {
        (self.view().used(self.owner), self.capacity)
    }

    fn check_fits(&self, bytes: u64, used: u64) -> Result<(), SimError> {
        if used.saturating_add(bytes) <= self.capacity {
            return Ok(());
        }
        Err(SimError::Memory(format!(
            "{bytes} bytes do not fit: {used} of {} are in use",
            self.capacity
        )))
    }

    /// An allocation that can grow to `bytes` bytes and has none as yet.
    pub fn alloc_growing(&self, bytes: u64) -> Result<u64, SimError> {
        let backing = Backing::zeroed(bytes)?;
        self.edit(|t| {
            let start = t.next_address(1 << PAGE_SHIFT);
            t.place(start, bytes.max(1), &backing, Some(self.owner));
            t.guard();
            t.resize_last(0);
            Ok(start)
        })
    }

    /// Makes the first `bytes` bytes of a growing allocation usable, if they
    /// are not. Bytes that were never usable are zero.
    pub fn grow(&self, addr: u64, bytes: u64) -> Result<(), SimError> {
        self.edit(|t| {
            let used = t.used(self.owner);
            let mut slots = t.slots.iter_mut().flatten();
            let slot = slots
                .find(|a| a.start == addr)
                .ok_or_else(|| SimError::Memory(format!("no allocation starts at {addr:#x}")))?;
            let most = slot.backing.bytes;
            if bytes > most {
                return Err(SimError::Memory(format!(
                    "{bytes} bytes of an allocation that grows to {most} were asked for"
                )));
            }
            let more = bytes.saturating_sub(slot.len);
            self.check_fits(more, used)?;
            if more > 0 {
                // Running launches keep their view of the old length.
                *slot = Arc::new(slot.with_len(bytes));
            }
            Ok(())
        })
    }

    /// Usable bytes of the allocation that starts at `addr`.
    pub fn size_of(&self, addr: u64) -> Result<u64, SimError> {
        let view = self.view();
        let found = view.find(addr).filter(|a| a.start == addr);
        found
            .map(|a| a.len)
            .ok_or_else(|| SimError::Memory(format!("no allocation starts at {addr:#x}")))
    }

    /// Zeroed memory of the host that kernels reach, too: its device address
    /// and its host address. It takes no device memory.
    pub fn alloc_host(&self, bytes: u64) -> Result<(u64, *mut u8), SimError> {
        let len = bytes.max(1);
        let backing = Backing::zeroed(len)?;
        self.edit(|t| {
            let start = t.next_address(1 << PAGE_SHIFT);
            t.place(start, len, &backing, None);
            t.guard();
            Ok((start, backing.host(0)))
        })
    }

    /// Addresses with nothing behind them, aligned to `align`, until parts of
    /// them are mapped.
    pub fn reserve(&self, bytes: u64, align: u64) -> Result<u64, SimError> {
        if bytes == 0 || !bytes.is_multiple_of(1 << PAGE_SHIFT) || !align.is_power_of_two() {
            return Err(SimError::Memory(format!(
                "{bytes} bytes at a multiple of {align} cannot be reserved: both are powers of two, the size a multiple of 65536"
            )));
        }
        let backing = Backing::zeroed(bytes)?;
        self.edit(|t| {
            let start = t.next_address(align.max(1 << PAGE_SHIFT));
            let pages = (bytes >> PAGE_SHIFT) as usize;
            t.pages.resize(t.pages.len() + pages, NO_ALLOCATION);
            t.guard();
            t.reservations.push(Reservation {
                start,
                len: bytes,
                backing,
                runs: Vec::new(),
            });
            Ok(start)
        })
    }

    /// Gives up a reservation and all that is mapped in it.
    pub fn unreserve(&self, addr: u64) -> Result<(), SimError> {
        self.edit(|t| {
            let at = t.reservations.iter().position(|r| r.start == addr);
            let at =
                at.ok_or_else(|| SimError::Memory(format!("no reservation starts at {addr:#x}")))?;
            let r = t.reservations.swap_remove(at);
            for slot in r.runs {
                t.clear(slot);
            }
            Ok(())
        })
    }

    /// Lets kernels and copies touch a part of a reservation.
    pub fn map(&self, addr: u64, len: u64) -> Result<(), SimError> {
        self.remap(addr, len, |runs, from, to| {
            if runs.iter().any(|&(a, b)| a < to && from < b) {
                return Err("a part of it is mapped");
            }
            runs.push((from, to));
            runs.sort_unstable();
            // Neighbours become one.
            runs.dedup_by(|next, run| {
                let touch = run.1 == next.0;
                run.1 = if touch { next.1 } else { run.1 };
                touch
            });
            Ok(())
        })
    }

    /// Takes it away again; the bytes stay what they are.
    pub fn unmap(&self, addr: u64, len: u64) -> Result<(), SimError> {
        self.remap(addr, len, |runs, from, to| {
            let at = runs.iter().position(|&(a, b)| a <= from && to <= b);
            let (a, b) = runs.swap_remove(at.ok_or("it is not mapped as a whole")?);
            runs.extend([(a, from), (to, b)].into_iter().filter(|(a, b)| a < b));
            runs.sort_unstable();
            Ok(())
        })
    }

    fn remap(
        &self,
        addr: u64,
        len: u64,
        change: impl FnOnce(&mut Vec<(u64, u64)>, u64, u64) -> Result<(), &'static str>,
    ) -> Result<(), SimError> {
        let wrong = |what: &str| {
            SimError::Memory(format!("{len} bytes at {addr:#x} cannot be mapped: {what}"))
        };
        let page = 1u64 << PAGE_SHIFT;
        let end = addr.checked_add(len).ok_or_else(|| wrong("too many"))?;
        if len == 0 || !addr.is_multiple_of(page) || !len.is_multiple_of(page) {
            return Err(wrong("they are no whole pages of 64 KiB"));
        }
        self.edit(|t| {
            let inside = |r: &Reservation| r.start <= addr && end <= r.start + r.len;
            let at = t.reservations.iter().position(inside);
            let at = at.ok_or_else(|| wrong("they are not reserved"))?;
            let r = t.reservations[at].clone();
            let slots = r.runs.iter().filter_map(|&s| t.slots[s as usize].as_ref());
            let mut runs: Vec<(u64, u64)> = slots.map(|a| (a.start, a.start + a.len)).collect();
            runs.sort_unstable();
            change(&mut runs, addr, end).map_err(wrong)?;
            for &slot in &r.runs {
                t.clear(slot);
            }
            t.reservations[at].runs = runs
                .iter()
                .map(|&(from, to)| t.attach(&r, from, to - from))
                .collect();
            Ok(())
        })
    }

    /// The host address of reserved bytes, mapped or not.
    pub fn reserved_host(&self, addr: u64, len: u64) -> Option<*mut u8> {
        let view = self.view();
        let inside = |r: &&Reservation| {
            r.start <= addr
                && addr
                    .checked_add(len)
                    .is_some_and(|end| end <= r.start + r.len)
        };
        let r = view.reservations.iter().find(inside)?;
        Some(r.backing.host(addr - r.start))
    }

    pub fn free(&self, addr: u64) -> Result<(), SimError> {
        self.edit(|t| {
            let inside = |r: &Reservation| (r.start..r.start + r.len).contains(&addr);
            let reserved = t.reservations.iter().any(inside);
            let mut slots = t.slots.iter_mut();
            match slots.find(|s| s.as_ref().is_some_and(|a| a.start == addr)) {
                // What is mapped in a reservation is no allocation.
                Some(slot) if !reserved => {
                    *slot = None;
                    Ok(())
                }
                _ => Err(SimError::Memory(format!(
                    "no allocation starts at {addr:#x}"
                ))),
            }
        })
    }

    /// Runs `f` on the cells around a range and the range's offset in them, or
    /// names what is wrong.
    pub fn with<T>(
        &self,
        addr: u64,
        len: u64,
        f: impl FnOnce(&Cells, usize) -> T,
    ) -> Result<T, SimError> {
        let view = self.view();
        match view.resolve(addr, len) {
            Some((cells, at)) => Ok(f(cells, at)),
            None => Err(SimError::Memory(format!(
                "{len} bytes at {addr:#x} are not allocated{}",
                view.describe(addr)
            ))),
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

    #[test]
    fn of_a_reservation_only_mapped_pages_can_be_touched() {
        let m = Memory::new(1 << 16);
        let page = 65536;
        let a = m.reserve(8 * page, 1 << 21).expect("addresses");
        assert!(a.is_multiple_of(1 << 21));
        assert!(m.view().resolve(a, 1).is_none());
        m.map(a + page, page).expect("reserved");
        m.map(a + 3 * page, page).expect("reserved");
        assert!(m.view().resolve(a + 2 * page - 1, 2).is_none());
        m.map(a + 2 * page, page).expect("reserved");
        // An access may reach over the seams.
        assert!(m.view().resolve(a + page, 3 * page).is_some());
        assert!(m.view().resolve(a + page, 3 * page + 1).is_none());
        assert!(m.map(a + 3 * page, 2 * page).is_err(), "mapped twice");
        assert!(m.unmap(a, 2 * page).is_err(), "not mapped as a whole");
        assert!(m.free(a + page).is_err(), "a run is no allocation");
        // What is unmapped keeps its bytes.
        m.with(a + 2 * page, 1, |c, at| cells::store::<1>(c, at, 7))
            .expect("mapped");
        m.unmap(a + 2 * page, page).expect("mapped");
        assert!(m.view().resolve(a + 2 * page - 1, 2).is_none());
        assert!(m.view().resolve(a + 3 * page, page).is_some());
        m.map(a + 2 * page, page).expect("free again");
        assert_eq!(m.with(a + 2 * page, 1, cells::load::<1>), Ok(7));
        // Reservations take no memory of the device, nor does the host's.
        let (h, host) = m.alloc_host(100).expect("host memory");
        let b = m.alloc(page, 1).expect("the whole device");
        let view = m.view();
        let (cells, at) = view.resolve(h, 100).expect("mapped");
        assert_eq!((cells.as_ptr().addr(), at), (host.addr(), 0));
        assert_eq!(host.addr() % HOST_ALIGN, 0);
        assert!(m.alloc(1, 1).is_err());
        m.unreserve(a).expect("reserved");
        assert!(m.view().resolve(a + page, 1).is_none() && m.view().resolve(b, 1).is_some());
        assert!(m.unreserve(a).is_err());
    }
}
