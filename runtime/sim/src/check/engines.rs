//! Hooks of what runs beside the threads: bulk and `cp.async` copies, the
//! tensor cores; and of the end of a block, which must outlive them.

use super::Checker;
use super::LastBulk;
use super::access::Memory;
use super::global::cells;
use super::know::Reader;
use super::registers::Misuse;
use super::report::{Place, Race, Rule, finding};
use super::shadow::{CELL, IN_FLIGHT, Stamp};
use crate::error::{Exec, Trouble};
use crate::exec::state::{Core, Env, Group};
use crate::exec::sync::lanes;
use crate::isa::{MatrixA, R, Space, Wgmma};

/// The engine that makes an access for a thread.
#[derive(Debug, Clone, Copy)]
pub enum Engine {
    /// A bulk load that signals the mbarrier at a shared address.
    BulkLoad { mbar: u64 },
    /// The side of a bulk store that reads shared memory.
    BulkRead,
    /// The side of a bulk store or reduction that writes global memory.
    BulkWrite { reduces: bool },
    /// `cp.async`, which keeps to the generic proxy (PTX ISA, "cp.async").
    CpAsync,
}

/// A range of memory that an engine touches.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub space: Space,
    pub address: u64,
    pub len: u64,
    pub writes: bool,
}

/// Calls a function for the place of each 16 bytes that an instruction reads.
pub type Units<'a> = &'a mut dyn FnMut(&mut dyn FnMut(u32));

impl Core<'_> {
    /// An engine begins to touch a range, for `lane`.
    pub fn check_engine(&mut self, engine: Engine, range: Range, lane: u32) -> Exec<()> {
        let (warp, pc) = (self.warp_id(), self.pc());
        let Some((memory, at)) = self.memory_at(range.space, range.address) else {
            return Ok(());
        };
        let mbar = match engine {
            Engine::BulkLoad { mbar } => self.memory_at(Space::Shared, mbar),
            _ => None,
        };
        let groups = (
            self.w.bulk_groups[lane as usize] + 1,
            self.w.cp_groups[lane as usize] + 1,
        );
        let Some(ck) = self.check.as_deref_mut() else {
            return Ok(());
        };
        let mut stamp = ck.thread_stamp(warp, pc);
        stamp.lanes = 1 << lane;
        stamp.writes = range.writes;
        stamp.global = memory == Memory::Global;
        stamp.proxied = !matches!(engine, Engine::CpAsync);
        let id = warp as u32;
        match engine {
            Engine::BulkLoad { .. } => {
                let Some((Memory::Shared(cta), offset)) = mbar else {
                    return Ok(());
                };
                let Some(m) = ck.mbars.find_mut(cta, offset as u32) else {
                    return Ok(());
                };
                stamp.lanes = 1;
                stamp.slot = m.slot;
                // What is read is over with the phase; what is written, when
                // the bytes have come.
                stamp.count = if range.writes {
                    IN_FLIGHT
                } else {
                    m.phases + 1
                };
                m.last_load = Some((pc, IN_FLIGHT));
            }
            Engine::BulkRead => {
                (stamp.slot, stamp.count) = (ck.slots.bulk_read(id), groups.0);
                ck.note_bulk(id, lane, groups.0, pc);
            }
            Engine::BulkWrite { reduces } => {
                (stamp.slot, stamp.count) = (ck.slots.bulk_done(id), groups.0);
                // PTX ISA, "cp.reduce.async.bulk": relaxed, of gpu scope.
                stamp.strong = reduces.then_some(crate::isa::Scope::Gpu);
            }
            Engine::CpAsync => (stamp.slot, stamp.count) = (ck.slots.cp_async(id), groups.1),
        }
        let own = ck.know[warp].slots();
        let Some(part) = ck.know[warp].part(lane) else {
            return Ok(());
        };
        // The engine begins after what its thread has done so far.
        let reader = Reader::engine(ck.cluster, &part.know, own, lane);
        let uses = matches!(memory, Memory::Shared(_)) && !range.writes;
        let found = cells(at, range.len).find_map(|(cell, bytes)| {
            let one = Stamp { bytes, ..stamp };
            let done = ck.shared.access(self.env, memory, cell, one, &reader, uses);
            done.err().map(|c| (c, one, cell))
        });
        let Some((c, one, cell)) = found else {
            return Ok(());
        };
        let mut t = ck.conflict(self.env, c, &one, memory.name(), cell, None);
        t.lane = Some(lane);
        Err(t)
    }

    /// The bytes of a bulk load have come; before its mbarrier hears of it.
    pub fn check_load_done(&mut self, to: u64, len: u64, mbar: u64, pc: u32) {
        let (Some((Memory::Shared(cta), at)), Some((Memory::Shared(bar_cta), offset))) = (
            self.memory_at(Space::Shared, to),
            self.memory_at(Space::Shared, mbar),
        ) else {
            return;
        };
        let Some(ck) = self.check.as_deref_mut() else {
            return;
        };
        let Some(m) = ck.mbars.find_mut(bar_cta, offset as u32) else {
            return;
        };
        let (slot, count) = (m.slot, m.phases + 1);
        m.last_load = Some((pc, count));
        for (cell, _) in cells(at, len) {
            if let Some(c) = ck.shared.cell(cta, cell) {
                c.complete(slot, pc, count);
            }
        }
    }

    /// `cp.async.bulk.wait_group`: all but the newest `pending` groups of each
    /// lane are over, or at least read.
    pub fn check_bulk_wait(&mut self, active: u32, pending: u32, read: bool) {
        let warp = self.warp_id();
        let groups = &self.w.bulk_groups;
        let Some(ck) = self.check.as_deref_mut() else {
            return;
        };
        let (reads, done) = (
            ck.slots.bulk_read(warp as u32),
            ck.slots.bulk_done(warp as u32),
        );
        for l in lanes(active) {
            let over = groups[l as usize].saturating_sub(pending);
            if over == 0 {
                continue;
            }
            ck.know[warp].learn(1 << l, reads, 1 << l, over);
            if !read {
                ck.know[warp].learn(1 << l, done, 1 << l, over);
            }
        }
    }

    /// `cp.async.wait_group`, or `wait_all`.
    pub fn check_cp_wait(&mut self, active: u32, pending: u32, all: bool) {
        let warp = self.warp_id();
        let groups = &self.w.cp_groups;
        let Some(ck) = self.check.as_deref_mut() else {
            return;
        };
        let slot = ck.slots.cp_async(warp as u32);
        // Lanes with equal counts learn at once.
        let mut rest = active;
        while rest != 0 {
            let first = groups[rest.trailing_zeros() as usize];
            let same = lanes(rest)
                .filter(|&l| groups[l as usize] == first)
                .fold(0, |m, l| m | 1 << l);
            rest &= !same;
            let over = if all {
                first + 1
            } else {
                first.saturating_sub(pending)
            };
            // Each lane waits for its own copies only: others' rows are raised
            // lane by lane where lanes know different things.
            if over > 0 {
                ck.know[warp].learn_own(same, slot, over);
            }
        }
    }

    /// `cp.async.mbarrier.arrive`: the lane's copies so far are told of when it
    /// takes effect.
    pub fn check_cp_arrive(&mut self, mbar: u64, warp: usize, lane: u32, groups: u32) {
        let Some((Memory::Shared(cta), at)) = self.memory_at(Space::Shared, mbar) else {
            return;
        };
        if let Some(ck) = self.check.as_deref_mut() {
            let slot = ck.slots.cp_async(warp as u32);
            let mut edge = super::clock::Edge::default();
            edge.view.happened.raise(slot, 1 << lane, groups + 1);
            if let Some(m) = ck.mbars.find_mut(cta, at as u32) {
                m.arrive(&edge);
            }
        }
    }

    /// An instruction that may read or write registers of `wgmma`.
    pub fn check_touch(&mut self, pc: u32) -> Exec<()> {
        let kernel = self.env.kernel;
        let Some(&t) = kernel.touch.get(pc as usize) else {
            return Ok(());
        };
        if t == 0 {
            return Ok(());
        }
        let warp = self.warp_id();
        let Some(ck) = self.check.as_deref_mut() else {
            return Ok(());
        };
        let touch = &kernel.touches[t as usize - 1];
        match ck.registers[warp].touch(touch, pc) {
            Ok(()) => Ok(()),
            Err(m) => Err(ck.misuse(self.env, m, pc)),
        }
    }

    pub fn check_wgmma_fence(&mut self) {
        let warp = self.warp_id();
        if let Some(ck) = self.check.as_deref_mut()
            && let Some(r) = ck.registers.get_mut(warp)
        {
            r.fence();
        }
    }

    /// The last warp of a block has ended: all that other blocks of the cluster
    /// did to its shared memory must be over.
    pub fn check_block_end(&mut self) -> Exec<()> {
        let rank = self.w.cta;
        let Some(ck) = self.check.as_deref_mut() else {
            return Ok(());
        };
        if ck.shared.len() < 2 {
            return Ok(());
        }
        let per_cta = ck.warps_per_cta as usize;
        let own = &ck.know[rank * per_cta..(rank + 1) * per_cta];
        let left = ck.shared.cells(rank).enumerate().find_map(|(i, c)| {
            let stamps = c.of_others(rank as u8);
            let open = stamps.into_iter().find(|s| {
                let mut parts = own.iter().flat_map(|w| &w.parts);
                !parts.any(|p| {
                    let clock = &p.know.edge.view.happened;
                    clock.covers(s.slot, s.lanes, s.count)
                })
            });
            open.map(|s| (i, s))
        });
        let Some((cell, stamp)) = left else {
            return Ok(());
        };
        let race = Race {
            rule: Rule::EndsEarly,
            place: Some(Place {
                space: "shared",
                address: CELL * cell as u64 + u64::from(stamp.bytes.trailing_zeros()),
                bytes: stamp.bytes.count_ones(),
            }),
            does: "belongs to a block that ends".into(),
            other: Some(ck.other(self.env, stamp.pc, ck.who(self.env, &stamp))),
            missing: "another block of the cluster may still be at it: barrier.cluster is missing before the end".into(),
        };
        Err(finding(None, None, race))
    }

    /// Lanes end.
    pub fn check_exit(&mut self, active: u32) -> Exec<()> {
        let warp = self.warp_id();
        let Some(ck) = self.check.as_deref_mut() else {
            return Ok(());
        };
        for b in &ck.last_bulk {
            if b.warp != warp as u32 || active >> b.lane & 1 == 0 {
                continue;
            }
            let slot = ck.slots.bulk_read(b.warp);
            let known = ck.know[warp].part(b.lane).is_some_and(|p| {
                let clock = &p.know.edge.view.happened;
                clock.covers(slot, 1 << b.lane, b.count)
            });
            if !known {
                let race = Race {
                    rule: Rule::EndsEarly,
                    place: None,
                    does: "the thread ends".into(),
                    other: Some(ck.other(self.env, b.pc, "a bulk copy from shared memory".into())),
                    missing: "cp.async.bulk.wait_group.read is missing: the copy may still read shared memory, which goes to another block".into(),
                };
                return Err(finding(Some(b.lane), None, race));
            }
        }
        Ok(())
    }
}

impl Group {
    /// `wgmma.mma_async` of the warpgroup that begins at warp `base`.
    #[allow(clippy::too_many_arguments)] // One product.
    pub fn check_wgmma(
        &mut self,
        env: &Env<'_>,
        inst: &Wgmma,
        base: usize,
        pc: u32,
        group: u32,
        adds: bool,
        units: Units<'_>,
    ) -> Exec<()> {
        let cta = self.warps[base].cta as u32;
        let Some(ck) = self.check.as_deref_mut() else {
            return Ok(());
        };
        let a: &[R] = match &inst.a {
            MatrixA::Registers(list) => list,
            MatrixA::Descriptor(_) => &[],
        };
        for w in base..base + 4 {
            if let Err(m) = ck.registers[w].product(&inst.d, a, adds, pc, group) {
                return Err(ck.misuse(env, m, pc));
            }
        }
        let mut stamp = ck.thread_stamp(base, pc);
        (stamp.slot, stamp.count) = (ck.slots.tensor_core(base as u32), group + 1);
        (stamp.lanes, stamp.proxied, stamp.bytes) = (1, true, u16::MAX);
        let found = {
            let knows = ck.know[base..base + 4].iter();
            let parts = knows.flat_map(|w| w.parts.iter().map(|p| &p.know));
            let reader = Reader::all(ck.cluster, parts);
            let mut found = None;
            units(&mut |at: u32| {
                let cell = u64::from(at) / CELL;
                if let Some(c) = ck.shared.cell(cta, cell)
                    && found.is_none()
                    && let Err(e) = c.access(stamp, &reader, true)
                {
                    found = Some((e, cell));
                }
            });
            found
        };
        match found {
            Some((c, cell)) => Err(ck.conflict(env, c, &stamp, "shared", cell, Some(pc))),
            None => Ok(()),
        }
    }

    /// A warp's wgmma-groups below `upto` are done.
    pub fn check_wgmma_wait(&mut self, warp: usize, upto: u32) {
        if let Some(ck) = self.check.as_deref_mut() {
            let slot = ck.slots.tensor_core(warp as u32);
            if upto > 0 {
                ck.know[warp].learn(u32::MAX, slot, 1, upto);
            }
            if let Some(r) = ck.registers.get_mut(warp) {
                r.wait(upto);
            }
        }
    }

    /// The cluster has ended: was everything waited for that writes into its
    /// memory, and did the bytes add up?
    pub fn check_end(&mut self, env: &Env<'_>) -> Result<(), (usize, Box<Trouble>)> {
        let Some(ck) = self.check.as_deref() else {
            return Ok(());
        };
        for m in ck.mbars.iter().filter(|m| m.live) {
            let word = self.ctas[m.cta as usize].shared_pair(m.offset);
            let tx = word
                .and_then(|w| crate::mbarrier::Mbarrier::from_word(w).ok())
                .map_or(0, |b| b.tx);
            let warp = (m.cta * ck.warps_per_cta) as usize;
            let place = Some(Place {
                space: "shared",
                address: m.offset.into(),
                bytes: 8,
            });
            if tx != 0 {
                let race = Race {
                    rule: Rule::TransactionBytes,
                    place,
                    does: format!(
                        "ends as an mbarrier that {}",
                        if tx > 0 {
                            format!("still expects {tx} bytes")
                        } else {
                            format!("got {} bytes more than it expected", -tx)
                        }
                    ),
                    other: None,
                    missing: "the bytes of expect_tx and of the copies must be equal in each phase"
                        .into(),
                };
                return Err((warp, finding(None, Some(m.init_pc), race)));
            }
            let Some((pc, count)) = m.last_load else {
                continue;
            };
            let seen = ck.know.iter().any(|w| {
                let mut parts = w.parts.iter();
                parts.any(|p| p.know.edge.view.happened.covers(m.slot, 1, count))
            });
            if !seen {
                let race = Race {
                    rule: Rule::EndsEarly,
                    place,
                    does: "is the mbarrier of a bulk load that no thread has waited for when its block ends".into(),
                    other: Some(ck.other(env, pc, "the load".into())),
                    missing: "it may write into shared memory that belongs to another block by then: wait for its phase".into(),
                };
                return Err((warp, finding(None, Some(pc), race)));
            }
        }
        Ok(())
    }
}

impl Checker {
    fn note_bulk(&mut self, warp: u32, lane: u32, count: u32, pc: u32) {
        let same = |b: &&mut LastBulk| b.warp == warp && b.lane == lane;
        match self.last_bulk.iter_mut().find(same) {
            Some(b) => (b.count, b.pc) = (count, pc),
            None => self.last_bulk.push(LastBulk {
                warp,
                lane,
                count,
                pc,
            }),
        }
    }

    fn misuse(&self, env: &Env<'_>, m: Misuse, pc: u32) -> Box<Trouble> {
        let (rule, does, other, missing) = match m {
            Misuse::NoFence { pc: None } => (
                Rule::WgmmaFence,
                "registers are used by wgmma",
                None,
                "wgmma.fence comes before the first wgmma.mma_async of a kernel",
            ),
            Misuse::NoFence { pc: Some(at) } => (
                Rule::WgmmaFence,
                "registers are used by wgmma",
                Some(self.other(env, at, "one was written".into())),
                "wgmma.fence is missing in between",
            ),
            Misuse::Unwritten => (
                Rule::Uninitialised,
                "registers are read by wgmma",
                None,
                "nothing has written them: zero the accumulators, or let scale-d be false",
            ),
            Misuse::InFlight { pc: at, written } => (
                Rule::WgmmaInFlight,
                if written {
                    "a register is written"
                } else {
                    "an accumulator is read"
                },
                Some(self.other(env, at, "it was given to wgmma".into())),
                "wgmma.wait_group for its group is missing in between",
            ),
        };
        let race = Race {
            rule,
            place: None,
            does: does.into(),
            other,
            missing: missing.into(),
        };
        finding(None, Some(pc), race)
    }
}
