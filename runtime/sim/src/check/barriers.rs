//! Hooks of barriers, fences and mbarriers: how knowledge goes from warp to
//! warp.

use super::Checker;
use super::access::Memory;
use super::report::{Place, Race, Rule, finding};
use super::shadow::CELL;
use crate::error::Exec;
use crate::exec::state::Core;
use crate::exec::sync::lanes;
use crate::isa::{FenceKind, Row64, Scope, Space};
use crate::memory::SHARED_START;

impl Core<'_> {
    pub fn check_fence(&mut self, kind: FenceKind, active: u32) {
        let warp = self.warp_id();
        let Some(ck) = self.check.as_deref_mut() else {
            return;
        };
        let know = &mut ck.know[warp];
        match kind {
            FenceKind::Thread(scope) => know.fence(active, scope),
            FenceKind::ProxyAsync { shared, global } => {
                know.proxy_fence(active, [shared, global]);
            }
            FenceKind::MbarrierInit => {
                for m in ck.mbars.iter_mut().filter(|m| m.live) {
                    let (slot, lane, tick) = m.init;
                    let own = slot == know.slot && active >> lane & 1 != 0;
                    let known = know.parts.iter().any(|p| {
                        let clock = &p.know.edge.view.happened;
                        p.lanes & active != 0 && clock.covers(slot, 1 << lane, tick)
                    });
                    m.init_fenced |= own || known;
                }
            }
            FenceKind::ProxyAlias | FenceKind::ProxyTensormap => {}
        }
    }

    /// `bar.warp.sync`.
    pub fn check_warp_sync(&mut self, members: u32) {
        let warp = self.warp_id();
        if let Some(ck) = self.check.as_deref_mut() {
            ck.know[warp].meet(members);
        }
    }

    /// The warp arrives at a named barrier.
    pub fn check_bar_arrive(&mut self, id: usize, active: u32) {
        let (warp, cta) = (self.warp_id(), self.w.cta);
        if let Some(ck) = self.check.as_deref_mut() {
            let edge = ck.know[warp].release(active);
            ck.named[cta][id].arrived.join(&edge);
        }
    }

    /// All have arrived at a named barrier.
    pub fn check_bar_done(&mut self, id: usize) {
        let cta = self.w.cta;
        if let Some(ck) = self.check.as_deref_mut() {
            ck.named[cta][id].complete();
        }
    }

    /// The warp goes on behind a named barrier.
    pub fn check_bar_leave(&mut self, id: usize, lanes: u32) {
        let (warp, cta) = (self.warp_id(), self.w.cta);
        if let Some(ck) = self.check.as_deref_mut() {
            ck.know[warp].settle(lanes, &ck.named[cta][id].done);
        }
    }

    pub fn check_cluster_arrive(&mut self, active: u32, release: bool) {
        let warp = self.warp_id();
        if let Some(ck) = self.check.as_deref_mut()
            && release
        {
            let edge = ck.know[warp].release(active);
            ck.cluster_barrier.arrived.join(&edge);
        }
    }

    pub fn check_cluster_done(&mut self) {
        if let Some(ck) = self.check.as_deref_mut() {
            ck.cluster_barrier.complete();
        }
    }

    pub fn check_cluster_leave(&mut self, lanes: u32) {
        let warp = self.warp_id();
        if let Some(ck) = self.check.as_deref_mut() {
            ck.know[warp].settle(lanes, &ck.cluster_barrier.done);
        }
    }

    pub fn check_mbar_init(&mut self, address: u64, lane: u32) -> Exec<()> {
        let (warp, pc) = (self.warp_id(), self.pc());
        let Some((memory @ Memory::Shared(cta), at)) = self.memory_at(Space::Shared, address)
        else {
            return Ok(());
        };
        let Some(ck) = self.check.as_deref_mut() else {
            return Ok(());
        };
        let offset = at as u32;
        if let Some(m) = ck.mbars.find(cta, offset) {
            let race = Race {
                rule: Rule::BarrierObject,
                place: Some(mbar_place(offset)),
                does: "is initialised as an mbarrier".into(),
                other: Some(ck.other(self.env, m.init_pc, "initialised".into())),
                missing: "mbarrier.inval comes before another use of its bytes".into(),
            };
            return Err(finding(Some(lane), None, race));
        }
        let mut stamp = ck.thread_stamp(warp, pc);
        stamp.lanes = 1 << lane;
        stamp.writes = true;
        stamp.bytes = (0xff << (at % CELL)) as u16;
        let init = (stamp.slot, lane, stamp.count);
        ck.thread_cell(self.env, warp, memory, at / CELL, stamp, false)?;
        ck.barrier_bytes(cta, offset, true);
        ck.mbars.init(cta, offset, pc, init);
        Ok(())
    }

    pub fn check_mbar_inval(&mut self, address: u64, lane: u32) -> Exec<()> {
        self.check_mbar_use(address, 1 << lane, false)?;
        let Some((Memory::Shared(cta), at)) = self.memory_at(Space::Shared, address) else {
            return Ok(());
        };
        if let Some(ck) = self.check.as_deref_mut() {
            ck.barrier_bytes(cta, at as u32, false);
            if let Some(m) = ck.mbars.find_mut(cta, at as u32) {
                m.live = false;
            }
        }
        Ok(())
    }

    /// An mbarrier is used by `lanes`, or by an engine for them.
    pub fn check_mbar_use(&mut self, address: u64, lanes: u32, engine: bool) -> Exec<()> {
        let warp = self.warp_id();
        let Some((Memory::Shared(cta), at)) = self.memory_at(Space::Shared, address) else {
            return Ok(());
        };
        let Some(ck) = self.check.as_deref_mut() else {
            return Ok(());
        };
        let Some(m) = ck.mbars.find(cta, at as u32) else {
            return Ok(());
        };
        let (slot, lane, tick) = m.init;
        let know = &ck.know[warp];
        let (mut known, mut fenced) = (true, m.init_fenced);
        for p in know.parts.iter().filter(|p| p.lanes & lanes != 0) {
            let own = slot == know.slot && p.lanes & lanes == 1 << lane;
            let view = &p.know.edge.view;
            known &= own || view.happened.covers(slot, 1 << lane, tick);
            fenced |= view.fenced[0].covers(slot, 1 << lane, tick);
        }
        // Remote arrivals find it through the cluster's release and acquire.
        let missing = if !known {
            "no barrier makes its initialisation visible to this thread"
        } else if engine && !fenced {
            "the asynchronous proxy may not see its initialisation: fence.mbarrier_init or fence.proxy.async is missing after it"
        } else {
            return Ok(());
        };
        let race = Race {
            rule: Rule::BarrierInit,
            place: Some(mbar_place(at as u32)),
            does: "is used as an mbarrier".into(),
            other: Some(ck.other(self.env, m.init_pc, format!("initialised by lane {lane}"))),
            missing: missing.into(),
        };
        Err(finding(Some(lanes.trailing_zeros()), None, race))
    }

    /// Lanes arrive at mbarriers; before the objects change.
    pub fn check_arrive(
        &mut self,
        addresses: &Row64,
        active: u32,
        release: bool,
        scope: Option<Scope>,
    ) -> Exec<()> {
        let warp = self.warp_id();
        let mut rest = active;
        while rest != 0 {
            let first = addresses[rest.trailing_zeros() as usize];
            let same = same_address(addresses, rest);
            rest &= !same;
            self.check_mbar_use(first, same, false)?;
            let Some((Memory::Shared(cta), at)) = self.memory_at(Space::Shared, first) else {
                continue;
            };
            // A scope that is written out and does not reach the barrier's CTA
            // makes no edge; without one, remote arrivals are taken to reach it.
            let remote = cta as usize != self.w.cta;
            let narrow = remote && scope == Some(Scope::Cta);
            if !release || narrow {
                continue;
            }
            // Lanes beyond those that complete the phase count in the next.
            let object = self.mbarrier_at(cta, at as u32);
            let room = object.map_or(32, |b| b.pending.max(1));
            let now = lanes(same).take(room as usize).fold(0, |m, l| m | 1 << l);
            if let Some(ck) = self.check.as_deref_mut()
                && let Some(m) = ck.mbars.find_mut(cta, at as u32)
            {
                m.arrive(&ck.know[warp].release(now));
                if now != same {
                    m.arrive_late(&ck.know[warp].release(same & !now));
                }
            }
        }
        Ok(())
    }

    /// The object at a place has completed a phase.
    pub fn check_phase(&mut self, address: u64) {
        let Some((Memory::Shared(cta), at)) = self.memory_at(Space::Shared, address) else {
            return;
        };
        if let Some(ck) = self.check.as_deref_mut()
            && let Some(m) = ck.mbars.find_mut(cta, at as u32)
        {
            m.phase_completed();
        }
    }

    /// Lanes look whether a phase is complete; for those in `done` it is.
    pub fn check_wait(
        &mut self,
        addresses: &Row64,
        active: u32,
        done: u32,
        acquire: bool,
    ) -> Exec<()> {
        let mut rest = active;
        while rest != 0 {
            let first = addresses[rest.trailing_zeros() as usize];
            let same = same_address(addresses, rest);
            rest &= !same;
            self.check_mbar_use(first, same, false)?;
            if let Some((Memory::Shared(cta), at)) = self.memory_at(Space::Shared, first)
                && same & done != 0
            {
                self.check_waited(cta, at as u32, same & done, acquire);
            }
        }
        Ok(())
    }

    /// Lanes have seen a phase complete.
    pub fn check_waited(&mut self, cta: u32, offset: u32, lanes: u32, acquire: bool) {
        let warp = self.warp_id();
        if let Some(ck) = self.check.as_deref_mut()
            && let Some(m) = ck.mbars.find(cta, offset)
        {
            let know = &mut ck.know[warp];
            if acquire {
                know.acquire(lanes, &m.done);
                know.learn(lanes, m.slot, 1, m.phases);
            } else {
                know.saw(lanes, &m.done);
            }
        }
    }
}

impl Checker {
    fn barrier_bytes(&mut self, cta: u32, offset: u32, live: bool) {
        let cell = u64::from(offset) / CELL;
        if let Some(c) = self.shared.cell(cta, cell) {
            c.set_barrier((0xff << (u64::from(offset) % CELL)) as u16, live);
        }
    }
}

/// Of `active`, the lanes that have the address of the first one.
fn same_address(addresses: &Row64, active: u32) -> u32 {
    let first = addresses[active.trailing_zeros() as usize & 31];
    lanes(active)
        .filter(|&l| addresses[l as usize] == first)
        .fold(0, |m, l| m | 1 << l)
}

fn mbar_place(offset: u32) -> Place {
    Place {
        space: "shared",
        address: offset.max(SHARED_START).into(),
        bytes: 8,
    }
}
