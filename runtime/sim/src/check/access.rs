//! Hooks of loads, stores and atomics, and of what they release and acquire.

use super::Checker;
use super::clock::{Edge, scope_of};
use super::global::Told;
use super::know::{Reader, abroad};
use super::shadow::{CELL, Stamp};
use crate::error::{Exec, Trouble};
use crate::exec::state::{Core, Env};
use crate::exec::sync::lanes;
use crate::isa::{Order, Row64, Scope, Space};
use crate::memory::{GLOBAL_BASE, SHARED_BASE, WINDOW};

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
            put: false,
            silent: false,
            global: false,
            rank: self.rank(warp),
            strong: None,
        }
    }

    /// A thread's access of a cell: what its lanes know may differ.
    pub(super) fn thread_cell(
        &mut self,
        env: &Env<'_>,
        warp: usize,
        memory: Memory,
        cell: u64,
        stamp: Stamp,
        uses: bool,
    ) -> Result<(), Box<Trouble>> {
        let own = Some(self.know[warp].slots());
        let found = self.know[warp].parts.iter().find_map(|p| {
            let reader = Reader::one(self.cluster, &p.know, own);
            let inside = p.lanes & stamp.lanes;
            let mut one = |s: Stamp| {
                let done = self.shared.access(env, memory, cell, s, &reader, uses);
                done.err().map(|c| (c, s))
            };
            if inside == stamp.lanes {
                return one(stamp);
            }
            lanes(inside).find_map(|l| one(stamp.of_lane(l)))
        });
        match found {
            Some((c, s)) => Err(self.conflict(env, c, &s, memory.name(), cell, None)),
            None => Ok(()),
        }
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
        // Told before the bytes change: who sees them finds it told. What is
        // read is heard of after: see `check_seen`.
        if a.writes {
            self.check_order(a, addrs, mask, false);
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

    /// A strong load or atomic has its value: what it saw may acquire.
    pub fn check_seen(&mut self, a: Access, addrs: &Row64, mask: u32) {
        self.check_order(a, addrs, mask, true);
    }

    /// Acquires, when `seen`, or else releases of a strong access.
    fn check_order(&mut self, a: Access, addrs: &Row64, mask: u32, seen: bool) {
        let Some(scope) = a.order.scope else { return };
        let warp = self.warp_id();
        for l in lanes(mask) {
            let Some((memory, at)) = self.memory_at(a.space, addrs[l as usize]) else {
                continue;
            };
            let Some(ck) = self.check.as_deref_mut() else {
                return;
            };
            if seen {
                ck.read_var(self.env, warp, l, memory, at, scope, a.order.acquire);
            } else {
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
