//! Asynchronous copies: `cp.async`, `cp.async.bulk` and their tensor and
//! reducing forms (PTX ISA 9.7.9.25).
//!
//! In: an instruction and the lanes that issue it. Out: an [`AsyncOp`], which
//! is performed at once, or when a thread waits for it, or in between, as
//! [`Completion`] says: a program must be right under each of them.

use mcc_ptx::Type;

use super::alu::Consts;
use super::reach::{self, Home, Place};
use super::state::Core;
use super::sync::lanes;
use crate::error::{Exec, FaultKind, illegal, trouble};
use crate::isa::{Addr, AtomOp, Bulk, BulkKind, CpAsync, Op, R, Space};
use crate::launch::Completion;
use crate::memory::RANK_SHIFT;
use crate::memory::cells;
use crate::tma::{Direction, Tile, TileError};
use crate::trace::TraceEngine;

/// A copy in flight.
#[derive(Debug, Clone)]
pub struct AsyncOp {
    /// The warp (index in the group) and lane that issued it, and where.
    pub warp: usize,
    pub lane: u32,
    pub pc: u32,
    /// Ordinal of the bulk or `cp.async` group that it belongs to.
    pub group: Option<(GroupKind, u32)>,
    /// The time of its issue, for the trace.
    issued: u64,
    work: Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    Bulk,
    CpAsync,
}

#[derive(Debug, Clone)]
pub(super) enum Work {
    LoadTensor {
        tile: Tile,
        coords: [i32; 5],
        to: Targets,
    },
    Load {
        src: u64,
        src_space: Space,
        bytes: u32,
        to: Targets,
    },
    StoreTensor {
        tile: Tile,
        coords: [i32; 5],
        src: u64,
        reduce: Option<AtomOp>,
    },
    Store {
        src: u64,
        dst: u64,
        bytes: u32,
        reduce: Option<(AtomOp, Type)>,
    },
    CpAsync {
        src: u64,
        dst: u64,
        bytes: u32,
        read: u32,
    },
    CpArrive {
        mbar: u64,
        /// Groups of `cp.async` that the lane had committed.
        groups: u32,
    },
}

impl Work {
    /// The global memory that it touches, if it does: where that begins.
    fn global(&self) -> Option<(Space, u64)> {
        match self {
            Work::LoadTensor { tile, .. } | Work::StoreTensor { tile, .. } => {
                Some((Space::Global, tile.base))
            }
            Work::Load {
                src_space: Space::Shared,
                ..
            }
            | Work::CpArrive { .. } => None,
            Work::Load { src, src_space, .. } => Some((*src_space, *src)),
            Work::Store { dst, .. } => Some((Space::Global, *dst)),
            Work::CpAsync { src, .. } => Some((Space::Global, *src)),
        }
    }
}

/// For the trace: who does the work, and how many bytes it moves. An arrival
/// is seen at its mbarrier.
impl Work {
    fn engine(&self) -> Option<(TraceEngine, u64)> {
        Some(match self {
            Work::LoadTensor { tile, .. } => (TraceEngine::TensorLoad, tile.bytes()),
            Work::StoreTensor { tile, reduce, .. } => match reduce {
                None => (TraceEngine::TensorStore, tile.bytes()),
                Some(_) => (TraceEngine::TensorReduce, tile.bytes()),
            },
            Work::Load { bytes, .. } => (TraceEngine::BulkLoad, (*bytes).into()),
            Work::Store { bytes, reduce, .. } => match reduce {
                None => (TraceEngine::BulkStore, (*bytes).into()),
                Some(_) => (TraceEngine::BulkReduce, (*bytes).into()),
            },
            Work::CpAsync { bytes, .. } => (TraceEngine::CpAsync, (*bytes).into()),
            Work::CpArrive { .. } => return None,
        })
    }
}

/// Where a load lands: a shared address and an mbarrier, in one or more CTAs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targets {
    dst: u64,
    mbar: u64,
    /// CTAs of a multicast; 0 takes the one in the address.
    ctas: u32,
}

impl Targets {
    pub(super) fn each(self) -> impl Iterator<Item = (u64, u64)> {
        let low = |a: u64| a & ((1 << RANK_SHIFT) - 1);
        let one = (self.ctas == 0).then_some((self.dst, self.mbar));
        one.into_iter().chain(lanes(self.ctas).map(move |rank| {
            let base = (u64::from(rank) + 1) << RANK_SHIFT;
            (base | low(self.dst), base | low(self.mbar))
        }))
    }
}

impl<'a> Core<'a> {
    pub fn copy_op(&mut self, op: &Op, active: u32, consts: Consts<'_>) -> Exec<()> {
        match op {
            Op::Bulk(b) => {
                for lane in lanes(active) {
                    self.bulk(b, lane, consts)?;
                }
            }
            Op::BulkCommit => lanes(active).for_each(|l| self.w.bulk_groups[l as usize] += 1),
            Op::BulkWait { pending, read } => {
                let upto = self.w.bulk_groups.clone();
                self.complete_groups(GroupKind::Bulk, active, &upto, *pending, false)?;
                self.check_bulk_wait(active, *pending, *read);
            }
            Op::CpAsync(c) => self.cp_async(c, active, consts)?,
            Op::CpAsyncCommit => lanes(active).for_each(|l| self.w.cp_groups[l as usize] += 1),
            Op::CpAsyncWait { pending, all } => {
                let upto = self.w.cp_groups.clone();
                self.complete_groups(GroupKind::CpAsync, active, &upto, *pending, *all)?;
                self.check_cp_wait(active, *pending, *all);
            }
            Op::CpAsyncArrive { noinc, space, addr } => {
                let addrs = self.addresses(*addr, active, consts);
                for l in lanes(active) {
                    let mbar = self.shared_address(*space, addrs[l as usize], l)?;
                    self.check_mbar_use(mbar, 1 << l, false)?;
                    if !*noinc {
                        // The arrival to come is pending from now on.
                        self.edit_mbarrier(mbar, l, |b| {
                            b.pending += 1;
                            Ok(())
                        })?;
                    }
                    let groups = self.w.cp_groups[l as usize];
                    self.issue(l, None, Work::CpArrive { mbar, groups })?;
                }
            }
            Op::TensormapCheck { addr, space } => {
                let addrs = self.addresses(*addr, active, consts);
                let lane = active.trailing_zeros() & 31;
                self.tensor_map(*space, addrs[lane as usize], lane)?;
            }
            _ => return Err(illegal("not a copy")),
        }
        Ok(())
    }

    fn one(&self, addr: Addr, lane: u32, consts: Consts<'_>) -> u64 {
        self.addresses(addr, 1 << lane, consts)[lane as usize]
    }

    fn value(&self, r: R, lane: u32, consts: Consts<'_>) -> u32 {
        self.w.regs.get32(consts, r)[lane as usize]
    }

    /// Reads the 128 bytes of a tensor map.
    fn tensor_map(&mut self, space: Space, addr: u64, lane: u32) -> Exec<Tile> {
        let place = self.place(space, addr, 128, 64, lane)?;
        let mut bytes = [0u8; 128];
        self.read(place, &mut bytes);
        Tile::decode(&bytes).map_err(|m| trouble(Some(lane), FaultKind::TensorMap(m)))
    }

    fn bulk(&mut self, b: &Bulk, lane: u32, consts: Consts<'_>) -> Exec<()> {
        let shared = self.one(b.shared, lane, consts);
        let aligned = |address: u64, align: u64, space: &'static str| {
            if address.is_multiple_of(align) {
                return Ok(());
            }
            Err(trouble(
                Some(lane),
                FaultKind::Misaligned {
                    space,
                    address,
                    align,
                },
            ))
        };
        let sized = |bytes: u32| {
            if bytes.is_multiple_of(16) {
                return Ok(());
            }
            let message = format!("a bulk copy of {bytes} bytes, which is not a multiple of 16");
            Err(trouble(Some(lane), FaultKind::Illegal(message)))
        };
        let targets = |core: &Self| Targets {
            dst: shared,
            mbar: b.mbar.map_or(0, |m| core.one(m, lane, consts)),
            ctas: b
                .multicast
                .map_or(0, |m| core.value(m, lane, consts) & 0xffff),
        };
        let work = match &b.kind {
            BulkKind::LoadTensor { map, coords } => {
                aligned(shared, 128, "shared")?;
                let (tile, coords) = self.tile(*map, coords, lane, consts)?;
                Work::LoadTensor {
                    tile,
                    coords,
                    to: targets(self),
                }
            }
            BulkKind::StoreTensor {
                map,
                coords,
                reduce,
            } => {
                aligned(shared, 128, "shared")?;
                let (tile, coords) = self.tile(*map, coords, lane, consts)?;
                Work::StoreTensor {
                    tile,
                    coords,
                    src: shared,
                    reduce: *reduce,
                }
            }
            BulkKind::Load {
                src,
                src_space,
                bytes,
            } => {
                let (src, bytes) = (
                    self.one(*src, lane, consts),
                    self.value(*bytes, lane, consts),
                );
                aligned(shared, 16, "shared")?;
                aligned(src, 16, reach::name(*src_space))?;
                sized(bytes)?;
                Work::Load {
                    src,
                    src_space: *src_space,
                    bytes,
                    to: targets(self),
                }
            }
            BulkKind::Store { dst, bytes, reduce } => {
                let (dst, bytes) = (
                    self.one(*dst, lane, consts),
                    self.value(*bytes, lane, consts),
                );
                aligned(shared, 16, "shared")?;
                aligned(dst, 16, "global")?;
                sized(bytes)?;
                Work::Store {
                    src: shared,
                    dst,
                    bytes,
                    reduce: *reduce,
                }
            }
        };
        // A multicast to CTAs that are not there is a fault of its issuer.
        if let Some(m) = b.multicast {
            let mask = self.value(m, lane, consts) & 0xffff;
            if mask == 0 || mask >> self.ctas.len() != 0 {
                return Err(illegal(format!(
                    "multicast to CTAs {mask:#06x} of a cluster of {}",
                    self.ctas.len()
                )));
            }
        }
        let group = matches!(work, Work::StoreTensor { .. } | Work::Store { .. })
            .then(|| (GroupKind::Bulk, self.w.bulk_groups[lane as usize]));
        self.issue(lane, group, work)
    }

    fn tile(
        &mut self,
        map: Addr,
        coords: &[R],
        lane: u32,
        consts: Consts<'_>,
    ) -> Exec<(Tile, [i32; 5])> {
        let addr = self.one(map, lane, consts);
        let tile = self.tensor_map(Space::Generic, addr, lane)?;
        if tile.rank != coords.len() {
            let message = format!(
                "{} coordinates for a map of rank {}",
                coords.len(),
                tile.rank
            );
            return Err(trouble(Some(lane), FaultKind::TensorMap(message)));
        }
        let mut at = [0; 5];
        for (x, &c) in at.iter_mut().zip(coords) {
            *x = self.value(c, lane, consts) as i32;
        }
        Ok((tile, at))
    }

    fn cp_async(&mut self, c: &CpAsync, active: u32, consts: Consts<'_>) -> Exec<()> {
        let (dst, src) = (
            self.addresses(c.dst, active, consts),
            self.addresses(c.src, active, consts),
        );
        let ignore = c.ignore.map_or(0, |p| self.w.regs.pred(p));
        for l in lanes(active) {
            let read = c
                .src_bytes
                .map_or(u32::from(c.bytes), |r| self.value(r, l, consts));
            if read > u32::from(c.bytes) {
                return Err(trouble(
                    Some(l),
                    FaultKind::Illegal(format!("cp.async reads {read} of {} bytes", c.bytes)),
                ));
            }
            let read = if ignore >> l & 1 != 0 { 0 } else { read };
            let work = Work::CpAsync {
                src: src[l as usize],
                dst: dst[l as usize],
                bytes: c.bytes.into(),
                read,
            };
            let group = (GroupKind::CpAsync, self.w.cp_groups[l as usize]);
            self.issue(l, Some(group), work)?;
        }
        Ok(())
    }

    fn issue(&mut self, lane: u32, group: Option<(GroupKind, u32)>, work: Work) -> Exec<()> {
        if self.w.early >> lane & 1 != 0
            && let Some((space, address)) = work.global()
        {
            return Err(self.early_access(space, address, lane));
        }
        if self.check.is_some() {
            self.check_issue(&work, lane)?;
        }
        let pc = self.w.frags[self.w.current].pc;
        let warp = self.w.cta * self.env.threads().div_ceil(32) as usize + self.w.index as usize;
        let op = AsyncOp {
            warp,
            lane,
            pc,
            group,
            issued: self.trace_now(),
            work,
        };
        let now = match self.env.completion {
            Completion::Early => true,
            Completion::Late => false,
            Completion::Random(_) => self.flight.next_random() & 1 == 0,
        };
        // An arrival stands for the copies before it.
        let waits = matches!(op.work, Work::CpArrive { .. }) && self.copies_pending(warp, lane);
        if now && !waits {
            return self.perform(&op);
        }
        self.poison(&op.work, lane)?;
        self.flight.copies.push_back(op);
        Ok(())
    }

    /// Until a load is over, nobody may read where it lands: what lies there is
    /// made useless.
    fn poison(&mut self, work: &Work, lane: u32) -> Exec<()> {
        let (to, len) = match work {
            Work::LoadTensor { tile, to, .. } => (*to, tile.bytes()),
            Work::Load { to, bytes, .. } => (*to, u64::from(*bytes)),
            _ => return Ok(()),
        };
        for (dst, _) in to.each() {
            let place = self.place(Space::Shared, dst, len, 16, lane)?;
            if let Home::Shared(cta) = place.home {
                self.ctas[cta].shared_bytes_mut()[place.at..][..len as usize].fill(0xff);
            }
        }
        Ok(())
    }

    fn copies_pending(&self, warp: usize, lane: u32) -> bool {
        self.flight
            .copies
            .iter()
            .any(|o| o.warp == warp && o.lane == lane && matches!(o.work, Work::CpAsync { .. }))
    }

    /// Performs all copies of the lanes' groups but the last `pending`.
    fn complete_groups(
        &mut self,
        kind: GroupKind,
        active: u32,
        upto: &[u32],
        pending: u32,
        all: bool,
    ) -> Exec<()> {
        if self.flight.copies.is_empty() {
            return Ok(());
        }
        let warp = self.w.cta * self.env.threads().div_ceil(32) as usize + self.w.index as usize;
        let mut rest = std::mem::take(&mut self.flight.copies);
        while let Some(op) = rest.pop_front() {
            let due = op.warp == warp
                && active >> op.lane & 1 != 0
                && op.group.is_some_and(|(k, g)| {
                    k == kind && (all || g < upto[op.lane as usize].saturating_sub(pending))
                });
            if due {
                self.perform(&op)?;
            } else {
                self.flight.copies.push_back(op);
            }
        }
        Ok(())
    }

    /// Moves the data and signals completion.
    pub fn perform(&mut self, op: &AsyncOp) -> Exec<()> {
        self.perform_work(op).map_err(|mut t| {
            t.lane = Some(op.lane);
            t.pc = Some(op.pc);
            t
        })
    }

    fn perform_work(&mut self, op: &AsyncOp) -> Exec<()> {
        let lane = op.lane;
        self.flight.progress += 1;
        if let Some((engine, bytes)) = op.work.engine() {
            self.trace_async(engine, op.warp, op.pc, op.issued, bytes);
        }
        match &op.work {
            Work::LoadTensor { tile, coords, to } => {
                self.stats.bulk_bytes += tile.bytes();
                for (dst, mbar) in to.each() {
                    self.transfer(tile, coords, dst, lane, Direction::Load)?;
                    self.check_load_done(dst, tile.bytes(), mbar, op.pc);
                    self.edit_mbarrier(mbar, lane, |b| b.complete_tx(tile.bytes() as u32))?;
                }
            }
            Work::StoreTensor {
                tile,
                coords,
                src,
                reduce,
            } => {
                self.stats.bulk_bytes += tile.bytes();
                self.count_copy(tile.base, tile.bytes());
                let direction = reduce.map_or(Direction::Store, Direction::Reduce);
                self.transfer(tile, coords, *src, lane, direction)?;
            }
            Work::Load {
                src,
                src_space,
                bytes,
                to,
            } => {
                let len = u64::from(*bytes);
                self.stats.bulk_bytes += len;
                let from = self.place(*src_space, *src, len, 16, lane)?;
                for (dst, mbar) in to.each() {
                    let p = self.place(Space::Shared, dst, len, 16, lane)?;
                    self.copy(from, p, *bytes as usize)?;
                    self.check_load_done(dst, len, mbar, op.pc);
                    self.edit_mbarrier(mbar, lane, |b| b.complete_tx(*bytes))?;
                }
            }
            Work::Store {
                src,
                dst,
                bytes,
                reduce,
            } => {
                let len = u64::from(*bytes);
                self.stats.bulk_bytes += len;
                let from = self.place(Space::Shared, *src, len, 16, lane)?;
                let to = self.place(Space::Global, *dst, len, 16, lane)?;
                self.count_copy(*dst, len);
                match reduce {
                    None => self.copy(from, to, *bytes as usize)?,
                    Some((op, ty)) => {
                        let size = ty.bytes() as u8;
                        for at in (0..*bytes as usize).step_by(usize::from(size)) {
                            let v = self.load(from.add(at), size);
                            self.update(to.add(at), *op, *ty, v, 0)?;
                        }
                    }
                }
            }
            Work::CpAsync {
                src,
                dst,
                bytes,
                read,
            } => {
                let len = u64::from(*bytes);
                let to = self.place(Space::Shared, *dst, len, len, lane)?;
                let mut data = [0; 16];
                if *read > 0 {
                    let from = self.place(Space::Global, *src, (*read).into(), len, lane)?;
                    self.read(from, &mut data[..*read as usize]);
                }
                self.write(to, &data[..*bytes as usize])?;
            }
            Work::CpArrive { mbar, groups } => {
                self.check_cp_arrive(*mbar, op.warp, lane, *groups);
                self.edit_mbarrier(*mbar, lane, |b| b.arrive(1))?;
            }
        }
        Ok(())
    }

    /// Moves a tile between global memory and the shared address `at`.
    fn transfer(
        &mut self,
        tile: &Tile,
        coords: &[i32; 5],
        at: u64,
        lane: u32,
        direction: Direction,
    ) -> Exec<()> {
        let place = self.place(Space::Shared, at, tile.footprint(), 128, lane)?;
        let Home::Shared(cta) = place.home else {
            return Err(illegal("a tile lies in shared memory"));
        };
        let shared =
            &mut self.ctas[cta].shared_bytes_mut()[place.at..][..tile.footprint() as usize];
        tile.transfer(self.env.table, coords, shared, at as u32, direction)
            .map_err(tile_fault)
    }

    /// Copies bytes of which both ranges were checked; they may overlap.
    fn copy(&mut self, from: Place<'a>, to: Place<'a>, bytes: usize) -> Exec<()> {
        match (from.home, to.home) {
            (Home::Global(cells), Home::Shared(cta)) => {
                let to = &mut self.ctas[cta].shared_bytes_mut()[to.at..][..bytes];
                cells::read(cells, from.at, to);
            }
            (Home::Shared(cta), Home::Global(cells)) => {
                let from = &self.ctas[cta].shared_bytes()[from.at..][..bytes];
                cells::write(cells, to.at, from);
            }
            _ => {
                let mut data = vec![0; bytes];
                self.read(from, &mut data);
                self.write(to, &data)?;
            }
        }
        Ok(())
    }

    /// Which copy in flight comes next: the oldest, or any.
    pub fn next_copy(&mut self) -> usize {
        let count = self.flight.copies.len().max(1);
        let at = match self.env.completion {
            Completion::Random(_) => (self.flight.next_random() >> 8) as usize % count,
            _ => 0,
        };
        match self.flight.copies.get(at) {
            Some(op)
                if matches!(op.work, Work::CpArrive { .. })
                    && self.copies_pending(op.warp, op.lane) =>
            {
                0
            }
            _ => at,
        }
    }

    /// Performs a copy that is in flight and of this warp: an address without a
    /// rank is of its block.
    pub fn complete_copy(&mut self, at: usize) -> Exec<()> {
        match self.flight.copies.remove(at) {
            Some(op) => self.perform(&op),
            None => Ok(()),
        }
    }
}

fn tile_fault(e: TileError) -> Box<crate::error::Trouble> {
    let kind = match e {
        TileError::Global {
            address,
            bytes,
            hint,
        } => FaultKind::OutOfBounds {
            space: "global",
            address,
            bytes,
            hint,
        },
        TileError::Map(m) => FaultKind::TensorMap(m),
    };
    trouble(None, kind)
}
