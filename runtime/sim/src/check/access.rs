//! Hooks of loads, stores, atomics, barriers and fences.

use super::Checker;
use super::clock::{Edge, scope_of};
use super::global::Told;
use super::know::{Reader, abroad};
use super::report::{Place, Race, Rule, finding};
use super::shadow::{CELL, Conflict, Stamp};
use crate::error::{Exec, Trouble};
use crate::exec::state::{Core, Env};
use crate::exec::sync::lanes;
use crate::isa::{FenceKind, Order, Row64, Scope, Space};
use crate::memory::{GLOBAL_BASE, SHARED_BASE, SHARED_START, WINDOW};

/// What an instruction does to the bytes at each lane's address.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    pub space: Space,
    /// Bytes of a lane, a power of two up to 16.
    pub len: u64,
    pub reads: bool,
    pub writes: bool,
    pub order: Order,
}

/// Memory that is shared between threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    Shared(u32),
    Global,
}

impl Checker {
    /// The stamp of a thread's plain access, without lanes and bytes.
    pub(super) fn thread_stamp(&self, warp: usize, pc: u32) -> Stamp {
        Stamp {
            cluster: self.cluster,
            slot: self.know[warp].slot,
            count: self.know[warp].tick,
            lanes: 0,
            pc,
            bytes: 0,
            chunk: 0,
            writes: false,
            proxied: false,
            silent: false,
            global: false,
            rank: (warp as u32 / self.warps_per_cta.max(1)) as u8,
            strong: None,
        }
    }

    /// One cell, as `reader` sees it.
    pub(super) fn cell(
        &mut self,
        env: &Env<'_>,
        memory: Memory,
        cell: u64,
        stamp: Stamp,
        reader: &Reader<'_>,
        uses: bool,
    ) -> Result<(), Conflict> {
        touch(
            &mut self.shared,
            self.run,
            env,
            memory,
            cell,
            stamp,
            reader,
            uses,
        )
    }

    /// A thread's access of a cell: what its lanes know may differ.
    fn thread_cell(
        &mut self,
        env: &Env<'_>,
        warp: usize,
        memory: Memory,
        cell: u64,
        stamp: Stamp,
        uses: bool,
    ) -> Result<(), Box<Trouble>> {
        let own = Some(self.know[warp].slots());
        let mut result = Ok(());
        for p in &self.know[warp].parts {
            if p.lanes & stamp.lanes == 0 {
                continue;
            }
            let reader = Reader::one(self.cluster, &p.know, own);
            let (shared, run) = (&mut self.shared, self.run);
            if p.lanes & stamp.lanes == stamp.lanes {
                result = touch(shared, run, env, memory, cell, stamp, &reader, uses)
                    .map_err(|c| (c, stamp));
                break;
            }
            for lane in lanes(p.lanes & stamp.lanes) {
                let one = stamp.of_lane(lane);
                result =
                    touch(shared, run, env, memory, cell, one, &reader, uses).map_err(|c| (c, one));
                if result.is_err() {
                    break;
                }
            }
            if result.is_err() {
                break;
            }
        }
        result.map_err(|(c, s)| self.conflict(env, c, &s, memory.name(), cell, None))
    }
}

impl Memory {
    pub(super) fn name(self) -> &'static str {
        match self {
            Memory::Shared(_) => "shared",
            Memory::Global => "global",
        }
    }
}

#[allow(clippy::too_many_arguments)] // Parts of a checker that are borrowed apart.
fn touch(
    shared: &mut [Vec<super::shadow::Cell>],
    run: u32,
    env: &Env<'_>,
    memory: Memory,
    cell: u64,
    stamp: Stamp,
    reader: &Reader<'_>,
    uses: bool,
) -> Result<(), Conflict> {
    match memory {
        Memory::Shared(cta) => {
            let cells = shared.get_mut(cta as usize);
            match cells.and_then(|c| c.get_mut(cell as usize)) {
                Some(c) => c.of_run(run).access(stamp, reader, uses),
                // Out of bounds: the access itself faults.
                None => Ok(()),
            }
        }
        Memory::Global => match env.check {
            Some(launch) => launch.access(cell, stamp, reader, uses),
            None => Ok(()),
        },
    }
}

impl Core<'_> {
    /// Index of the warp in the cluster.
    pub fn warp_id(&self) -> usize {
        self.w.cta * self.env.threads().div_ceil(32) as usize + self.w.index as usize
    }

    pub(super) fn pc(&self) -> u32 {
        self.w.frags[self.w.current].pc
    }

    /// Memory that other threads see, and the place in it.
    pub(super) fn memory_at(&self, space: Space, address: u64) -> Option<(Memory, u64)> {
        let shared = |a: u64| {
            let cta = self.cta_of(a) as u32;
            Some((Memory::Shared(cta), a & 0xff_ffff))
        };
        match space {
            Space::Shared => shared(address),
            Space::Global => Some((Memory::Global, address)),
            Space::Generic if address >= GLOBAL_BASE => Some((Memory::Global, address)),
            Space::Generic if (SHARED_BASE..SHARED_BASE + WINDOW).contains(&address) => {
                shared(address - SHARED_BASE)
            }
            _ => None,
        }
    }

    /// A load, store or atomic of the lanes in `mask`, of which `same` write
    /// what is there already.
    pub fn check_access(&mut self, a: Access, addrs: &Row64, mask: u32, same: u32) -> Exec<()> {
        let (warp, pc) = (self.warp_id(), self.pc());
        let Some(mut base) = self.check.as_deref().map(|c| c.thread_stamp(warp, pc)) else {
            return Ok(());
        };
        base.writes = a.writes;
        base.strong = a.order.scope;
        if a.writes
            && a.order.strong()
            && let Some(ck) = self.check.as_deref()
        {
            base.slot = ck.know[warp].strong;
        }
        let mut run: Option<(Memory, u64, Stamp)> = None;
        for l in lanes(mask) {
            let Some((memory, at)) = self.memory_at(a.space, addrs[l as usize]) else {
                continue;
            };
            let (cell, low) = (at / CELL, at % CELL);
            let bits = (((1u32 << a.len) - 1) << low) as u16;
            if let Some((m, c, s)) = &mut run
                && *m == memory
                && *c == cell
                && s.silent == (same >> l & 1 != 0)
                && s.extend(l, bits, a.len as u8)
            {
                continue;
            }
            let next = Stamp {
                lanes: 1 << l,
                bytes: bits,
                silent: same >> l & 1 != 0,
                global: memory == Memory::Global,
                ..base
            };
            if let Some((m, c, s)) = run.replace((memory, cell, next)) {
                self.check_cell(warp, m, c, s, a.reads)?;
            }
        }
        if let Some((m, c, s)) = run {
            self.check_cell(warp, m, c, s, a.reads)?;
        }
        if a.order.scope.is_some() {
            self.check_order(a, addrs, mask, warp);
        }
        Ok(())
    }

    fn check_cell(
        &mut self,
        warp: usize,
        memory: Memory,
        cell: u64,
        stamp: Stamp,
        uses: bool,
    ) -> Exec<()> {
        match self.check.as_deref_mut() {
            Some(ck) => ck.thread_cell(self.env, warp, memory, cell, stamp, uses),
            None => Ok(()),
        }
    }

    /// Releases and acquires of a strong access.
    fn check_order(&mut self, a: Access, addrs: &Row64, mask: u32, warp: usize) {
        let Some(scope) = a.order.scope else { return };
        for l in lanes(mask) {
            let Some((memory, at)) = self.memory_at(a.space, addrs[l as usize]) else {
                continue;
            };
            let Some(ck) = self.check.as_deref_mut() else {
                return;
            };
            if a.reads {
                ck.read_var(self.env, warp, l, memory, at, scope, a.order.acquire);
            }
            if a.writes {
                ck.write_var(self.env, warp, l, memory, at, scope, a);
            }
        }
    }
}

impl Checker {
    fn rank(&self, warp: usize) -> u8 {
        (warp as u32 / self.warps_per_cta.max(1)) as u8
    }

    #[allow(clippy::too_many_arguments)] // One access.
    fn read_var(
        &mut self,
        env: &Env<'_>,
        warp: usize,
        lane: u32,
        memory: Memory,
        at: u64,
        scope: Scope,
        acquire: bool,
    ) {
        let told = match (memory, env.check) {
            (Memory::Global, Some(launch)) => launch.vars.read(at),
            (Memory::Shared(cta), _) => self.vars.read(u64::from(cta) << 32 | at),
            _ => return,
        };
        for t in told {
            let needed = scope_of((t.cluster, t.rank), (self.cluster, self.rank(warp)));
            if t.scope < needed || scope < needed {
                continue;
            }
            let edge = if t.cluster == self.cluster {
                t.edge
            } else {
                self.home(abroad(&t.edge, t.cluster))
            };
            if acquire {
                self.know[warp].acquire(1 << lane, &edge);
            } else {
                self.know[warp].saw(1 << lane, &edge);
            }
        }
    }

    /// What others know of this cluster is knowledge of its own.
    fn home(&self, mut edge: Edge) -> Edge {
        let own = edge.far.as_deref().and_then(|f| f.get(&self.cluster));
        if let Some(view) = own.cloned() {
            edge.view.join(&view);
        }
        edge
    }

    #[allow(clippy::too_many_arguments)] // One access.
    fn write_var(
        &mut self,
        env: &Env<'_>,
        warp: usize,
        lane: u32,
        memory: Memory,
        at: u64,
        scope: Scope,
        a: Access,
    ) {
        let rank = self.rank(warp);
        let released = if a.order.release {
            Some((scope, self.know[warp].release(1 << lane)))
        } else {
            let fence = self.know[warp].fenced_write(lane);
            fence.map(|(s, e)| (s.min(scope), e))
        };
        let told = released.map(|(scope, edge)| Told {
            cluster: self.cluster,
            rank,
            scope,
            edge,
        });
        match (memory, env.check) {
            (Memory::Global, Some(launch)) => launch.vars.write(at, a.reads, told),
            (Memory::Shared(cta), _) => {
                self.vars.write(u64::from(cta) << 32 | at, a.reads, told);
            }
            _ => {}
        }
    }
}

/// Barriers, fences and mbarriers.
impl Core<'_> {
    pub fn check_fence(&mut self, kind: FenceKind, active: u32) {
        let (warp, cluster) = (self.warp_id(), self.w.cta);
        let _ = cluster;
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
        let own_cta = self.w.cta as u32;
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
        let _ = own_cta;
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
            let same = lanes(rest)
                .filter(|&l| addresses[l as usize] == first)
                .fold(0, |m, l| m | 1 << l);
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
        let run = self.run;
        let cells = self.shared.get_mut(cta as usize);
        let cell = u64::from(offset) / CELL;
        if let Some(c) = cells.and_then(|c| c.get_mut(cell as usize)) {
            let bits = (0xff << (u64::from(offset) % CELL)) as u16;
            c.of_run(run).set_barrier(bits, live);
        }
    }
}

fn mbar_place(offset: u32) -> Place {
    Place {
        space: "shared",
        address: offset.max(SHARED_START).into(),
        bytes: 8,
    }
}
