//! Who touched which bytes last: the shadow of shared and of global memory.
//!
//! Memory is shadowed in cells of 16 bytes, the unit of TMA and of matrix
//! descriptors. A cell keeps a stamp for every access that a later one could
//! conflict with: the last writes of its bytes and the reads since. Two
//! accesses conflict when they share bytes, one of them writes, and neither is
//! known to have happened when the other begins (FastTrack: Flanagan and
//! Freund, 2009). Strong accesses (`.relaxed` and up, atomics) do not conflict
//! with each other when the scope of each takes in the other's thread (PTX ISA,
//! memory consistency model, "Morally strong operations").

use smallvec::SmallVec;

use super::clock::scope_of;
use super::know::Reader;
use crate::isa::Scope;

/// Bytes of a cell.
pub const CELL: u64 = 16;
/// The count of an asynchronous operation that has not completed.
pub const IN_FLIGHT: u32 = u32::MAX;
/// More accesses than this of one cell are forgotten, the oldest first.
const MOST: usize = 64;

/// One access of (a part of) a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The cluster, by its number in the launch.
    pub cluster: u64,
    /// Slot of lane 0, and the count at which it is over.
    pub slot: u32,
    pub count: u32,
    pub lanes: u32,
    pub pc: u32,
    /// Bytes of the cell.
    pub bytes: u16,
    /// When not 0, each of the lanes in turn has so many of the bytes; else
    /// every lane has all of them.
    pub chunk: u8,
    pub writes: bool,
    /// It goes through the asynchronous proxy.
    pub proxied: bool,
    /// In global memory, not in shared.
    pub global: bool,
    /// It is a put to another rank, which may outlive its launch.
    pub put: bool,
    /// A write of what the bytes held before.
    pub silent: bool,
    /// The CTA's rank in the cluster.
    pub rank: u8,
    pub strong: Option<Scope>,
}

impl Stamp {
    /// The lanes that have some of these bytes.
    fn lanes_of(&self, bytes: u16) -> u32 {
        let shared = self.bytes & bytes;
        if shared == 0 {
            return 0;
        }
        if self.chunk == 0 {
            return self.lanes;
        }
        let first = self.bytes.trailing_zeros();
        let chunk = u32::from(self.chunk);
        let low = (shared.trailing_zeros() - first) / chunk;
        let high = (15 - shared.leading_zeros() - first) / chunk;
        let run = (u32::MAX >> (31 - (high - low))) << low;
        run << self.lanes.trailing_zeros()
    }

    /// The bytes that one of the lanes has.
    fn bytes_of(&self, lane: u32) -> u16 {
        if self.chunk == 0 {
            return self.bytes;
        }
        let chunk = u32::from(self.chunk);
        let at = self.bytes.trailing_zeros() + (lane - self.lanes.trailing_zeros()) * chunk;
        (((1u32 << chunk) - 1) << at) as u16
    }

    /// Takes in the next lane of a warp's access, which has `bits`, if one
    /// stamp can hold both.
    pub fn extend(&mut self, lane: u32, bits: u16, len: u8) -> bool {
        if self.chunk == 0 && self.bytes == bits {
            self.lanes |= 1 << lane;
            return true;
        }
        let single = self.lanes.is_power_of_two();
        let next_lane = 32 - self.lanes.leading_zeros() == lane;
        let next_bytes = 16 - self.bytes.leading_zeros() == bits.trailing_zeros();
        let joins = (single || self.chunk == len) && next_lane && next_bytes;
        if joins {
            self.lanes |= 1 << lane;
            self.bytes |= bits;
            self.chunk = len;
        }
        joins
    }

    /// The part of one lane.
    pub fn of_lane(&self, lane: u32) -> Stamp {
        Stamp {
            lanes: 1 << lane,
            bytes: self.bytes_of(lane),
            chunk: 0,
            ..*self
        }
    }

    /// Two strong accesses whose scopes take in each other.
    fn morally_strong(&self, other: &Stamp) -> bool {
        let (Some(a), Some(b)) = (self.strong, other.strong) else {
            return false;
        };
        let needed = scope_of((self.cluster, self.rank), (other.cluster, other.rank));
        a >= needed && b >= needed
    }
}

/// What is wrong between an access and an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// Nothing orders them.
    Unordered(Stamp),
    /// They are ordered, but a write through the generic proxy was not passed
    /// on to the asynchronous one.
    Unfenced(Stamp),
    /// Bytes that nothing has written are read.
    Unwritten,
    /// They belong to an mbarrier, which only its own instructions may touch.
    Barrier,
}

/// 16 bytes of memory.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// The run that it was used in: cells of earlier ones are empty.
    run: u32,
    /// Bytes that have been written in this run.
    written: u16,
    /// Bytes of a live mbarrier.
    barrier: u16,
    stamps: SmallVec<[Stamp; 3]>,
}

impl Cell {
    /// Empties the cell if it is of an earlier run.
    #[inline(always)]
    pub fn of_run(&mut self, run: u32) -> &mut Cell {
        if self.run != run {
            self.run = run;
            self.written = 0;
            self.barrier = 0;
            self.stamps.clear();
        }
        self
    }

    /// Bytes that hold what was written before the run.
    pub fn initialise(&mut self, bytes: u16) {
        self.written |= bytes;
    }

    /// Bytes become those of an mbarrier, or are it no longer.
    pub fn set_barrier(&mut self, bytes: u16, live: bool) {
        self.barrier = if live {
            self.barrier | bytes
        } else {
            self.barrier & !bytes
        };
    }

    /// Accesses by other CTAs of the cluster than this one.
    pub fn of_others(&self, rank: u8) -> SmallVec<[Stamp; 3]> {
        let others = self.stamps.iter().filter(|s| s.rank != rank);
        others.copied().collect()
    }

    pub fn written(&self) -> u16 {
        self.written
    }

    /// Checks an access against earlier ones and records it. `uses` says that
    /// its bytes must have been written.
    pub fn access(&mut self, new: Stamp, reader: &Reader<'_>, uses: bool) -> Result<(), Conflict> {
        // The same lanes at the same place once more: most accesses of loops.
        if let [old] = self.stamps[..]
            && old == new
        {
            return Ok(());
        }
        if self.barrier & new.bytes != 0 {
            return Err(Conflict::Barrier);
        }
        if uses && self.written & new.bytes != new.bytes {
            return Err(Conflict::Unwritten);
        }
        for old in &self.stamps {
            if old.bytes & new.bytes == 0 || !(old.writes || new.writes) {
                continue;
            }
            // Lanes of one store to one place: one of them wins.
            let one = old.cluster == new.cluster && old.slot == new.slot;
            if one && old.pc == new.pc && old.count == new.count && old.writes {
                continue;
            }
            if old.morally_strong(&new) {
                continue;
            }
            // Several threads may write one value, in whatever order.
            if new.silent && old.writes && !old.proxied {
                continue;
            }
            if !ordered(old, &new, reader) {
                return Err(Conflict::Unordered(*old));
            }
            // A read that is over needs no fence before the bytes change.
            if new.proxied && !old.proxied && old.writes && !fenced(old, &new, reader) {
                return Err(Conflict::Unfenced(*old));
            }
        }
        self.record(new, reader);
        Ok(())
    }

    fn record(&mut self, new: Stamp, reader: &Reader<'_>) {
        self.stamps.retain(|old| {
            let inside = old.bytes & !new.bytes == 0;
            let replaced = inside && (new.writes || !old.writes) && ordered(old, &new, reader);
            !replaced
        });
        if new.writes {
            self.written |= new.bytes;
        }
        if self.stamps.len() >= MOST {
            self.stamps.remove(0);
        }
        self.stamps.push(new);
    }

    /// An operation in flight has completed at `count`.
    pub fn complete(&mut self, slot: u32, pc: u32, count: u32) {
        for s in &mut self.stamps {
            if s.slot == slot && s.count == IN_FLIGHT && s.pc == pc {
                s.count = count;
            }
        }
    }
}

/// Whether `old` is over for all lanes of `new`.
fn ordered(old: &Stamp, new: &Stamp, reader: &Reader<'_>) -> bool {
    if old.count == IN_FLIGHT {
        return false;
    }
    if old.cluster != new.cluster {
        let lanes = old.lanes_of(new.bytes);
        return reader.knows(old, lanes, |v| &v.happened);
    }
    let mut lanes = old.lanes_of(new.bytes);
    if reader.owns(old.slot) {
        // A lane's own accesses come in program order.
        if old.lanes == new.lanes && old.bytes == new.bytes && old.chunk == new.chunk {
            let apart = old.chunk != 0 || old.lanes.is_power_of_two();
            if apart {
                return true;
            }
        }
        if let Some(lane) = reader.lane {
            lanes &= !(1 << lane);
            return reader.knows(old, lanes, |v| &v.happened);
        }
        let mut others = 0;
        let mut rest = new.lanes;
        while rest != 0 {
            let lane = rest.trailing_zeros();
            rest &= rest - 1;
            others |= old.lanes_of(new.bytes_of(lane)) & !(1 << lane);
        }
        lanes = others;
    }
    reader.knows(old, lanes, |v| &v.happened)
}

fn fenced(old: &Stamp, new: &Stamp, reader: &Reader<'_>) -> bool {
    let space = usize::from(new.global);
    reader.knows(old, old.lanes_of(new.bytes), |v| &v.fenced[space])
}

#[cfg(test)]
mod tests {
    use super::super::know::{Know, Reader};
    use super::*;

    fn stamp(slot: u32, lane: u32, bytes: u16, writes: bool) -> Stamp {
        Stamp {
            cluster: 0,
            slot,
            count: 1,
            lanes: 1 << lane,
            pc: 7,
            bytes,
            chunk: 0,
            writes,
            proxied: false,
            put: false,
            silent: false,
            global: false,
            rank: 0,
            strong: None,
        }
    }

    fn reader(know: &Know, own: u32) -> Reader<'_> {
        Reader::one(0, know, Some([own, 1000 + own]))
    }

    #[test]
    fn two_threads_need_an_edge_and_bytes_in_common() {
        let (mut cell, mut view) = (Cell::default(), Know::default());
        let write = stamp(0, 3, 0xf, true);
        assert_eq!(cell.access(write, &reader(&view, 0), false), Ok(()));
        // The lane itself, another lane of the warp, another warp.
        let mut own = stamp(0, 3, 0xf, false);
        own.pc = 8;
        assert_eq!(cell.access(own, &reader(&view, 0), false), Ok(()));
        let mut other = stamp(0, 4, 0xf, false);
        other.pc = 8;
        let clash = cell.clone().access(other, &reader(&view, 0), false);
        assert!(matches!(clash, Err(Conflict::Unordered(s)) if s.lanes == 8));
        let far = stamp(32, 0, 0x3, true);
        assert!(cell.clone().access(far, &reader(&view, 32), false).is_err());
        // Other bytes of the cell are another matter.
        let beside = stamp(32, 0, 0xf0, true);
        assert_eq!(
            cell.clone().access(beside, &reader(&view, 32), false),
            Ok(())
        );
        view.edge.view.happened.raise(0, 1 << 3, 1);
        assert_eq!(cell.access(far, &reader(&view, 32), false), Ok(()));
    }

    #[test]
    fn a_write_reaches_the_asynchronous_proxy_through_its_fence() {
        let (mut cell, mut view) = (Cell::default(), Know::default());
        let write = stamp(0, 0, 0xffff, true);
        assert_eq!(cell.access(write, &reader(&view, 0), false), Ok(()));
        let mut load = stamp(0, 0, 0xffff, false);
        load.proxied = true;
        load.pc = 9;
        let got = cell.access(load, &reader(&view, 0), false);
        assert_eq!(got, Err(Conflict::Unfenced(write)));
        view.edge.view.fenced[0].raise(0, 1, 1);
        assert_eq!(cell.access(load, &reader(&view, 0), false), Ok(()));
    }

    #[test]
    fn unwritten_bytes_may_not_be_read() {
        let (mut cell, view) = (Cell::default(), Know::default());
        let r = reader(&view, 0);
        assert_eq!(cell.access(stamp(0, 0, 0xff, true), &r, false), Ok(()));
        let wide = stamp(0, 0, 0xfff, false);
        assert_eq!(cell.access(wide, &r, true), Err(Conflict::Unwritten));
        assert_eq!(cell.access(wide, &r, false), Ok(()));
        assert_eq!(cell.of_run(1).written(), 0);
    }

    #[test]
    fn lanes_side_by_side_share_a_stamp() {
        let (mut cell, view) = (Cell::default(), Know::default());
        let mut row = stamp(0, 0, 0xffff, true);
        (row.lanes, row.chunk) = (0b1111_0000, 4);
        assert_eq!(row.lanes_of(0x00f0), 0b10_0000);
        assert_eq!(row.lanes_of(0x0ff0), 0b110_0000);
        assert_eq!(row.bytes_of(5), 0x00f0);
        assert_eq!(cell.access(row, &reader(&view, 0), false), Ok(()));
        // Each lane may read back its own bytes, and no other's.
        let mut back = row;
        (back.writes, back.pc) = (false, 8);
        assert_eq!(cell.clone().access(back, &reader(&view, 0), false), Ok(()));
        let mut one = stamp(0, 5, 0x00f0, false);
        one.pc = 8;
        assert_eq!(cell.clone().access(one, &reader(&view, 0), false), Ok(()));
        one.bytes = 0x000f;
        assert!(cell.access(one, &reader(&view, 0), false).is_err());
    }

    #[test]
    fn atomics_conflict_only_with_what_is_outside_of_their_scope() {
        let (mut cell, view) = (Cell::default(), Know::default());
        let mut a = stamp(0, 0, 0xf, true);
        a.strong = Some(Scope::Cta);
        assert_eq!(cell.access(a, &reader(&view, 0), false), Ok(()));
        let mut b = a;
        (b.slot, b.rank) = (32, 0);
        assert_eq!(cell.clone().access(b, &reader(&view, 32), false), Ok(()));
        b.rank = 1;
        b.strong = Some(Scope::Gpu);
        assert!(cell.access(b, &reader(&view, 32), false).is_err());
    }
}
