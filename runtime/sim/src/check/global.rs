//! The shadow of global memory: shared by all blocks that run together.
//!
//! In: accesses of any worker. Pages of 4 KiB are made when they are first
//! touched and dropped when all have ended; which bytes have ever been
//! written outlives it, in [`Initialised`]. What a release wrote, and where, is
//! kept for the acquires of other blocks ([`Vars`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::clock::Edge;
use super::know::Reader;
use super::shadow::{CELL, Cell, Conflict, Stamp};
use crate::isa::Scope;

const PAGE_SHIFT: u32 = 12;
const CELLS: usize = (1 << PAGE_SHIFT) / CELL as usize;
const SHARDS: usize = 64;

type Bits = Box<[u16; CELLS]>;
type Page = Box<[Cell]>;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic elsewhere left is still a table.
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn shard(page: u64) -> usize {
    (page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % SHARDS
}

fn sharded<T: Default>() -> Box<[T]> {
    (0..SHARDS).map(|_| T::default()).collect()
}

/// Bytes of global memory that the host or a kernel has written.
#[derive(Debug)]
pub struct Initialised {
    pages: Box<[Mutex<HashMap<u64, Bits>>]>,
    /// Ranges that count as written: memory of the host.
    whole: Mutex<Vec<(u64, u64)>>,
}

impl Default for Initialised {
    fn default() -> Initialised {
        Initialised {
            pages: sharded(),
            whole: Mutex::default(),
        }
    }
}

impl Initialised {
    pub fn mark(&self, address: u64, len: u64) {
        for (cell, bits) in cells(address, len) {
            let (page, index) = split(cell);
            let mut pages = lock(&self.pages[shard(page)]);
            let known = pages.entry(page).or_insert_with(|| Box::new([0; CELLS]));
            known[index] |= bits;
        }
    }

    pub fn mark_whole(&self, address: u64, len: u64) {
        lock(&self.whole).push((address, address.saturating_add(len)));
    }

    fn page(&self, page: u64) -> Page {
        let mut cells: Page = vec![Cell::default(); CELLS].into();
        let start = page << PAGE_SHIFT;
        let whole = lock(&self.whole)
            .iter()
            .any(|&(from, to)| from <= start && start < to);
        if whole {
            cells.iter_mut().for_each(|c| c.initialise(u16::MAX));
        } else if let Some(bits) = lock(&self.pages[shard(page)]).get(&page) {
            for (cell, &b) in cells.iter_mut().zip(bits.iter()) {
                cell.initialise(b);
            }
        }
        cells
    }

    fn keep(&self, page: u64, cells: &Page) {
        if cells.iter().all(|c| c.written() == 0) {
            return;
        }
        let mut pages = lock(&self.pages[shard(page)]);
        let known = pages.entry(page).or_insert_with(|| Box::new([0; CELLS]));
        for (bits, cell) in known.iter_mut().zip(cells.iter()) {
            *bits |= cell.written();
        }
    }
}

/// The page of a cell, and the index in it.
fn split(cell: u64) -> (u64, usize) {
    (cell / CELLS as u64, (cell % CELLS as u64) as usize)
}

/// The cells of a range, and which of their bytes it has.
pub fn cells(address: u64, len: u64) -> impl Iterator<Item = (u64, u16)> {
    let end = address.saturating_add(len);
    let mut at = address;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let low = at % CELL;
        let n = (CELL - low).min(end - at);
        let bits = (((1u32 << n) - 1) << low) as u16;
        let cell = at / CELL;
        at += n;
        Some((cell, bits))
    })
}

/// A release that others may acquire from.
#[derive(Debug, Clone)]
pub struct Told {
    pub cluster: u64,
    pub rank: u8,
    pub scope: Scope,
    pub edge: Edge,
}

/// Releases by the address that they wrote.
#[derive(Debug, Default)]
pub struct Vars {
    any: AtomicBool,
    told: Mutex<HashMap<u64, Vec<Told>>>,
}

impl Vars {
    /// A write of a strong kind. A read-modify-write goes on with the release
    /// sequence of the value that it reads; a plain one ends it.
    pub fn write(&self, address: u64, modifies: bool, told: Option<Told>) {
        if told.is_none() && (modifies || !self.any.load(Ordering::Acquire)) {
            return;
        }
        let mut all = lock(&self.told);
        let list = all.entry(address).or_default();
        if !modifies {
            list.clear();
        }
        if let Some(told) = told {
            self.any.store(true, Ordering::Release);
            let same = |t: &&mut Told| {
                t.cluster == told.cluster && t.rank == told.rank && t.scope == told.scope
            };
            match list.iter_mut().find(same) {
                Some(t) => t.edge.join(&told.edge),
                None => list.push(told),
            }
        }
    }

    /// The releases that a strong read of `address` sees.
    pub fn read(&self, address: u64) -> Vec<Told> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        lock(&self.told).get(&address).cloned().unwrap_or_default()
    }
}

/// The shadow of global memory for as long as launches run.
#[derive(Debug)]
pub struct Pages<'a> {
    pages: Box<[Mutex<HashMap<u64, Page>>]>,
    initialised: &'a Initialised,
}

impl<'a> Pages<'a> {
    pub fn new(initialised: &'a Initialised) -> Pages<'a> {
        Pages {
            pages: sharded(),
            initialised,
        }
    }

    /// Checks and records the accesses of the bytes `stamp.bytes` of one cell.
    pub fn access(
        &self,
        cell: u64,
        stamp: Stamp,
        reader: &Reader<'_>,
        uses: bool,
    ) -> Result<(), Conflict> {
        let (page, index) = split(cell);
        let mut pages = lock(&self.pages[shard(page)]);
        let cells = pages
            .entry(page)
            .or_insert_with(|| self.initialised.page(page));
        cells[index].access(stamp, reader, uses)
    }
}

impl Drop for Pages<'_> {
    fn drop(&mut self) {
        for pages in &self.pages {
            for (&page, cells) in lock(pages).iter() {
                self.initialised.keep(page, cells);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_cells_and_pages() {
        let got: Vec<_> = cells(4090, 12).collect();
        assert_eq!((split(255), split(256)), ((0, 255), (1, 0)));
        assert_eq!(got, [(255, 0xfc00), (256, 0x3f)]);
        assert_eq!(cells(32, 0).count(), 0);
        assert_eq!(cells(0, 4096).map(|c| c.1).max(), Some(u16::MAX));
    }

    #[test]
    fn written_bytes_outlive_the_launch() {
        let known = Initialised::default();
        known.mark(100, 4);
        let page = known.page(0);
        assert_eq!(page[6].written(), 0xf0);
        known.mark_whole(1 << 20, 4096);
        assert_eq!(known.page(256)[9].written(), u16::MAX);
    }
}
