//! Barriers: `bar` and `barrier` (PTX ISA 9.7.13.1 to 9.7.13.4),
//! `barrier.cluster`, and the `mbarrier` instructions (9.7.13.15).

use super::Next;
use super::alu::Consts;
use super::state::{Barrier, Core, Wait};
use crate::error::{Exec, FaultKind, illegal, trouble};
use crate::isa::{ArriveKind, BarRed, MbarArrive, MbarWait, Op, P, PSrc, R, Row, Row64, Space};
use crate::mbarrier::Mbarrier;
use crate::memory::{GLOBAL_BASE, SHARED_BASE, WINDOW};
use crate::trace::TracePoint;

impl Core<'_> {
    /// Tries to make a waiting fragment ready.
    pub fn try_wake(&mut self, f: usize) -> bool {
        let frag = self.w.frags[f];
        match frag.wait {
            Wait::Ready => true,
            Wait::Registers { count } => self.take_registers(f, count),
            Wait::Dead | Wait::Warpgroup | Wait::WgmmaGroups | Wait::Members { .. } => false,
            Wait::Bar {
                id,
                generation,
                red,
            } => {
                let b = &self.ctas[self.w.cta].barriers[usize::from(id)];
                if b.generation == generation {
                    return false;
                }
                if let Some((kind, p, d)) = red {
                    let (popc, and, or) = b.result;
                    match kind {
                        BarRed::Popc => self.w.regs.put32(d, &[popc; 32], frag.mask),
                        BarRed::And => {
                            self.w
                                .regs
                                .put_pred(p, u32::from(and).wrapping_neg(), frag.mask)
                        }
                        BarRed::Or => {
                            self.w
                                .regs
                                .put_pred(p, u32::from(or).wrapping_neg(), frag.mask)
                        }
                    }
                }
                self.check_bar_leave(usize::from(id), frag.mask);
                self.resume(f);
                true
            }
            Wait::Cluster { generation } => {
                if self.cluster.generation == generation {
                    return false;
                }
                self.check_cluster_leave(frag.mask);
                self.resume(f);
                true
            }
            Wait::Mbar {
                cta,
                offset,
                parity,
                d,
                acquire,
            } => {
                let Ok(b) = self.mbarrier_at(cta, offset) else {
                    return false;
                };
                if b.parity == parity {
                    return false;
                }
                self.w.regs.put_pred(d, u32::MAX, frag.mask);
                self.check_waited(cta, offset, frag.mask, acquire);
                self.resume(f);
                true
            }
        }
    }

    /// A suspended `try_wait` comes back with false, as after its time limit.
    pub fn time_out(&mut self, f: usize) {
        if let Wait::Mbar { d, .. } = self.w.frags[f].wait {
            let mask = self.w.frags[f].mask;
            self.w.regs.put_pred(d, 0, mask);
            self.resume(f);
        }
    }

    pub(super) fn resume(&mut self, f: usize) {
        self.trace_wake(f);
        self.w.frags[f].wait = Wait::Ready;
        self.w.frags[f].pc += 1;
    }

    /// All lanes that still run must be in the fragment.
    pub fn converged(&self, active: u32, of: &'static str) -> Exec<()> {
        if active == self.w.alive {
            return Ok(());
        }
        Err(trouble(
            Some(active.trailing_zeros()),
            FaultKind::Divergent {
                of,
                active,
                expected: self.w.alive,
            },
        ))
    }

    pub(crate) fn barrier_op(
        &mut self,
        f: usize,
        op: &Op,
        guard: PSrc,
        active: u32,
        consts: Consts<'_>,
    ) -> Exec<Next> {
        let _ = guard;
        self.converged(active, "of the warp")?;
        match *op {
            Op::Bar {
                id,
                count,
                arrive,
                red,
                a,
                d,
                d32,
                ..
            } => self.bar(
                f,
                id,
                count,
                arrive,
                red.map(|r| (r, a, d, d32)),
                active,
                consts,
            ),
            Op::ClusterArrive { release } => {
                if self.w.cluster_arrived.is_some() {
                    return Err(illegal("a second barrier.cluster.arrive before the wait"));
                }
                self.w.cluster_arrived = Some(self.cluster.generation);
                self.cluster.arrived += 1;
                self.check_cluster_arrive(active, release);
                self.trace_arrival(TracePoint::Cluster, false);
                self.settle_cluster();
                Ok(Next::Step)
            }
            _ => {
                let Some(generation) = self.w.cluster_arrived.take() else {
                    return Err(illegal("barrier.cluster.wait without an arrive"));
                };
                if self.cluster.generation != generation {
                    self.check_cluster_leave(active);
                    self.trace_passed(TracePoint::Cluster);
                    return Ok(Next::Step);
                }
                self.w.frags[f].wait = Wait::Cluster { generation };
                Ok(Next::Suspend)
            }
        }
    }

    fn settle_cluster(&mut self) {
        let alive: u32 = self.ctas.iter().map(|c| c.warps_alive).sum();
        if self.cluster.arrived >= alive && alive > 0 {
            self.cluster.arrived = 0;
            self.cluster.generation += 1;
            self.check_cluster_done();
            self.flight.progress += 1;
            self.trace_arrival(TracePoint::Cluster, true);
        }
    }

    #[allow(clippy::too_many_arguments)] // The operands of one instruction.
    fn bar(
        &mut self,
        f: usize,
        id: R,
        count: Option<R>,
        arrive: bool,
        red: Option<(BarRed, PSrc, P, R)>,
        active: u32,
        consts: Consts<'_>,
    ) -> Exec<Next> {
        let lane = active.trailing_zeros() as usize & 31;
        let id = self.w.regs.get32(consts, id)[lane];
        if id as usize >= super::state::BARRIERS {
            return Err(illegal(format!("barrier {id} of 16")));
        }
        let threads = self.env.threads().next_multiple_of(32);
        let count = count.map(|c| self.w.regs.get32(consts, c)[lane]);
        if let Some(n) = count
            && (n == 0 || n % 32 != 0 || n > threads)
        {
            return Err(illegal(format!(
                "barrier {id} for {n} threads: the count must be a multiple of 32 up to {threads}"
            )));
        }
        let votes = red.map(|(_, a, _, _)| self.w.regs.pred(a) & active);
        let cta = &mut self.ctas[self.w.cta];
        let alive = cta.warps_alive * 32;
        let b = &mut cta.barriers[id as usize];
        let expected = count.unwrap_or(alive);
        if b.expected != 0 && b.expected != expected {
            return Err(illegal(format!(
                "barrier {id} for {expected} threads, but others wait at it for {}",
                b.expected
            )));
        }
        if b.arrived == 0 {
            (b.popc, b.and, b.or) = (0, true, false);
        }
        b.expected = expected;
        b.all = count.is_none();
        b.arrived += 32;
        if let Some(v) = votes {
            b.popc += v.count_ones();
            b.and &= v == active;
            b.or |= v != 0;
        }
        let generation = b.generation;
        let all = b.arrived >= b.expected;
        if all {
            release(b);
            self.flight.progress += 1;
        }
        self.trace_arrival(self.trace_named(id), all);
        self.check_bar_arrive(id as usize, active);
        if all {
            self.check_bar_done(id as usize);
        }
        if arrive {
            return Ok(Next::Step);
        }
        self.w.frags[f].wait = Wait::Bar {
            id: id as u8,
            generation,
            red: red.map(|(k, _, d, d32)| (k, d, d32)),
        };
        // The last to come does not wait.
        if self.try_wake(f) {
            self.w.frags[f].pc -= 1;
            return Ok(Next::Step);
        }
        Ok(Next::Suspend)
    }

    /// A warp has ended: barriers for all threads count without it.
    pub fn warp_ended(&mut self) {
        let cta = &mut self.ctas[self.w.cta];
        cta.warps_alive -= 1;
        let alive = cta.warps_alive * 32;
        let mut done = 0u32;
        for (id, b) in cta.barriers.iter_mut().enumerate() {
            if b.expected != 0 && b.all {
                b.expected = alive;
                if b.arrived >= alive {
                    release(b);
                    done |= 1 << id;
                }
            }
        }
        for id in lanes(done) {
            self.check_bar_done(id as usize);
        }
        self.flight.progress += 1;
        self.settle_cluster();
    }

    /// The mbarrier object in a CTA's shared memory.
    pub fn mbarrier_at(&self, cta: u32, offset: u32) -> Result<Mbarrier, String> {
        let cta = self.ctas.get(cta as usize);
        let word = cta.and_then(|c| c.shared_pair(offset));
        Mbarrier::from_word(word.ok_or("outside of shared memory")?)
    }

    /// Changes the mbarrier at a shared address.
    pub fn edit_mbarrier(
        &mut self,
        address: u64,
        lane: u32,
        change: impl FnOnce(&mut Mbarrier) -> Result<(), String>,
    ) -> Exec<u64> {
        let place = self.place(Space::Shared, address, 8, 8, lane)?;
        let fault = |message| trouble(Some(lane), FaultKind::Mbarrier { address, message });
        let before = self.load(place, 8);
        let mut b = Mbarrier::from_word(before).map_err(fault)?;
        let parity = b.parity;
        change(&mut b).map_err(fault)?;
        if b.parity != parity {
            self.check_phase(address);
        }
        self.store(place, 8, b.to_word())?;
        self.flight.progress += 1;
        let completes = Mbarrier::state_parity(before) != b.parity;
        self.trace_arrival(self.trace_mbarrier(address), completes);
        Ok(before)
    }

    /// A shared or generic address as a shared one.
    pub fn shared_address(&self, space: Space, addr: u64, lane: u32) -> Exec<u64> {
        match space {
            Space::Shared => Ok(addr),
            _ if (SHARED_BASE..SHARED_BASE + WINDOW).contains(&addr) => Ok(addr - SHARED_BASE),
            _ => {
                let kind = if addr >= GLOBAL_BASE {
                    "a global"
                } else {
                    "not a shared"
                };
                let message = format!("{addr:#x} is {kind} address; shared memory is needed");
                Err(trouble(Some(lane), FaultKind::Illegal(message)))
            }
        }
    }

    fn shared_addresses(&self, space: Space, addrs: &Row64, active: u32) -> Exec<Row64> {
        let mut at = [0; 32];
        for l in lanes(active) {
            at[l as usize] = self.shared_address(space, addrs[l as usize], l)?;
        }
        Ok(at)
    }

    pub(crate) fn mbarrier_op(
        &mut self,
        f: usize,
        op: &Op,
        active: u32,
        consts: Consts<'_>,
    ) -> Exec<Next> {
        match op {
            Op::MbarInit { space, addr, count } => {
                let addrs = self.addresses(*addr, active, consts);
                let count = *self.w.regs.get32(consts, *count);
                for l in lanes(active) {
                    let address = self.shared_address(*space, addrs[l as usize], l)?;
                    let b = Mbarrier::init(count[l as usize]).map_err(|message| {
                        trouble(Some(l), FaultKind::Mbarrier { address, message })
                    })?;
                    let place = self.place(Space::Shared, address, 8, 8, l)?;
                    self.check_mbar_init(address, l)?;
                    self.store(place, 8, b.to_word())?;
                    self.trace_init(self.trace_mbarrier(address));
                }
                Ok(Next::Step)
            }
            Op::MbarInval { space, addr } => {
                let addrs = self.addresses(*addr, active, consts);
                for l in lanes(active) {
                    let address = self.shared_address(*space, addrs[l as usize], l)?;
                    self.edit_mbarrier(address, l, |_| Ok(()))?;
                    self.check_mbar_inval(address, l)?;
                    let place = self.place(Space::Shared, address, 8, 8, l)?;
                    self.store(place, 8, 0)?;
                }
                Ok(Next::Step)
            }
            Op::MbarArrive(a) => {
                self.mbar_arrive(a, active, consts)?;
                Ok(Next::Step)
            }
            Op::MbarWait(w) => self.mbar_wait(f, w, active, consts),
            Op::MbarPending { d, a } => {
                let a = *self.w.regs.get64(consts, *a);
                let v = a.map(|s| Mbarrier::from_word(s).map_or(0, |b| b.pending));
                self.w.regs.put32(*d, &v, active);
                Ok(Next::Step)
            }
            _ => Err(illegal("not an mbarrier instruction")),
        }
    }

    fn mbar_arrive(&mut self, a: &MbarArrive, active: u32, consts: Consts<'_>) -> Exec<()> {
        let addrs = self.addresses(a.addr, active, consts);
        let operand = *self.w.regs.get32(consts, a.operand);
        if self.check.is_some() {
            let at = self.shared_addresses(a.space, &addrs, active)?;
            self.check_arrive(&at, active, a.release, a.scope)?;
        }
        let mut states = [0; 32];
        for l in lanes(active) {
            let address = self.shared_address(a.space, addrs[l as usize], l)?;
            let n = operand[l as usize];
            states[l as usize] = self.edit_mbarrier(address, l, |b| match a.kind {
                ArriveKind::Plain => b.arrive(n),
                ArriveKind::Drop => b.arrive_drop(n),
                ArriveKind::ExpectTx => b.expect_tx(n).and_then(|()| b.arrive(1)),
                ArriveKind::DropExpectTx => b.expect_tx(n).and_then(|()| b.arrive_drop(1)),
                ArriveKind::OnlyExpect => b.expect_tx(n),
                ArriveKind::OnlyComplete => b.complete_tx(n),
            })?;
        }
        if let Some(d) = a.state {
            self.w.regs.put64(d, &states, active);
        }
        Ok(())
    }

    fn mbar_wait(&mut self, f: usize, w: &MbarWait, active: u32, consts: Consts<'_>) -> Exec<Next> {
        let addrs = self.addresses(w.addr, active, consts);
        let phase = self.w.regs.get_wide(consts, w.phase);
        let by_parity = matches!(w.phase, Row::R32(_));
        let mut done = 0;
        let mut first = None;
        for l in lanes(active) {
            let v = phase[l as usize];
            let parity = if by_parity {
                v & 1 == 1
            } else {
                Mbarrier::state_parity(v)
            };
            let address = self.shared_address(w.space, addrs[l as usize], l)?;
            self.place(Space::Shared, address, 8, 8, l)?;
            let (cta, offset) = (self.cta_of(address) as u32, address as u32 & 0xff_ffff);
            let b = self
                .mbarrier_at(cta, offset)
                .map_err(|message| trouble(Some(l), FaultKind::Mbarrier { address, message }))?;
            done |= u32::from(b.parity != parity) << l;
            let here = (cta, offset, parity);
            match first {
                None => first = Some((here, true)),
                Some((at, _)) if at != here => first = Some((at, false)),
                Some(_) => {}
            }
        }
        if self.check.is_some() {
            let at = self.shared_addresses(w.space, &addrs, active)?;
            self.check_wait(&at, active, done, w.acquire)?;
        }
        if done == active {
            self.w.regs.put_pred(w.d, done, active);
            if let Some(((block, offset, _), _)) = first {
                self.trace_passed(TracePoint::Mbarrier { block, offset });
            }
            return Ok(Next::Step);
        }
        // All lanes wait for one phase: suspend until it completes. A guarded
        // wait, or lanes with different barriers, poll instead.
        if let Some(((cta, offset, parity), true)) = first
            && w.suspend
            && done == 0
            && active == self.w.frags[f].mask
        {
            self.w.frags[f].wait = Wait::Mbar {
                cta,
                offset,
                parity,
                d: w.d,
                acquire: w.acquire,
            };
            return Ok(Next::Suspend);
        }
        self.w.regs.put_pred(w.d, done, active);
        Ok(Next::Poll)
    }
}

fn release(b: &mut Barrier) {
    b.result = (b.popc, b.and, b.or);
    b.generation += 1;
    b.arrived = 0;
    b.expected = 0;
}

/// The lanes of a mask, in order.
pub fn lanes(mut mask: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let l = mask.trailing_zeros();
        mask &= mask - 1;
        Some(l)
    })
}
