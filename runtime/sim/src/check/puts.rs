//! Hooks of puts and signals to other ranks.
//!
//! In: a put as it is issued, a fence, a quiet; a signal as it arrives. A put
//! begins after what its lane knows. It is over, what it writes and what it
//! reads, for whoever has seen its signal, or that of a later put to the same
//! rank behind a fence: what has arrived has been read. For its own warp it is
//! over after `nvshmem_quiet`, too. A signal carries what its lane knows as a
//! release of system scope would.
//!
//! Of a warp's puts each 32nd has the same slot, and is known of with the later
//! ones of that slot.

use std::collections::BTreeMap;

use super::Checker;
use super::access::Memory;
use super::clock::Edge;
use super::global::{Told, cells};
use super::know::Reader;
use super::launches::LaunchCheck;
use super::shadow::Stamp;
use crate::error::{Exec, Trouble};
use crate::exec::state::{Core, Env};
use crate::isa::Scope;
use crate::network::{Data, Signal};

/// Slots of a warp's puts.
const SLOTS: u32 = 32;

/// What a signal hands to whoever sees it.
#[derive(Debug, Clone)]
pub struct Carried(Told);

/// The puts of one warp.
#[derive(Debug, Clone, Default)]
pub struct WarpPuts {
    sent: u32,
    /// Puts that a quiet has waited for.
    over: u32,
    /// By rank: counts of the slots of puts to there, so far, and before the
    /// last fence.
    to: BTreeMap<u32, [u32; SLOTS as usize]>,
    fenced: BTreeMap<u32, [u32; SLOTS as usize]>,
}

impl WarpPuts {
    pub fn reset(&mut self) {
        *self = WarpPuts::default();
    }

    /// Whether the warp has not waited for all of its puts.
    pub fn loose(&self) -> bool {
        self.over != self.sent
    }
}

impl Core<'_> {
    /// `lane` sends something to rank `to`; what its signal carries.
    pub fn check_put(
        &mut self,
        lane: u32,
        to: u32,
        data: Option<Data>,
        signal: Option<&Signal>,
    ) -> Exec<Option<Carried>> {
        let (warp, pc) = (self.warp_id(), self.pc());
        let Some(ck) = self.check.as_deref_mut() else {
            return Ok(None);
        };
        let id = warp as u32;
        let number = ck.puts[warp].sent;
        ck.puts[warp].sent += 1;
        let (slot, count) = (number % SLOTS, number / SLOTS + 1);
        let base = Stamp {
            global: true,
            put: true,
            ..ck.thread_stamp(warp, pc)
        };
        let writes = Stamp {
            slot: ck.slots.put(id),
            lanes: 1 << slot,
            count,
            writes: true,
            ..base
        };
        if let Some(data) = data {
            let reads = Stamp {
                slot: ck.slots.put_source(id),
                lanes: 1 << slot,
                count,
                ..base
            };
            ck.put_range(self.env, warp, lane, data.source, data.bytes, reads, to)?;
            ck.put_range(self.env, warp, lane, data.target, data.bytes, writes, to)?;
        }
        let row = ck.puts[warp].to.entry(to).or_default();
        row[slot as usize] = count;
        let Some(signal) = signal else {
            return Ok(None);
        };
        let strong = Stamp {
            strong: Some(Scope::Sys),
            ..writes
        };
        ck.put_range(self.env, warp, lane, signal.address, 8, strong, to)?;
        let mut edge = ck.know[warp].release(1 << lane);
        for first in [ck.slots.put(id), ck.slots.put_source(id)] {
            edge.view.happened.raise(first, 1 << slot, count);
            if let Some(fenced) = ck.puts[warp].fenced.get(&to) {
                raise(&mut edge, first, fenced);
            }
        }
        Ok(Some(Carried(Told {
            cluster: ck.cluster,
            rank: 0,
            scope: Scope::Sys,
            edge,
        })))
    }

    /// `nvshmem_fence`.
    pub fn check_put_fence(&mut self) {
        let warp = self.warp_id();
        if let Some(ck) = self.check.as_deref_mut() {
            let puts = &mut ck.puts[warp];
            puts.fenced = puts.to.clone();
        }
    }

    /// `nvshmem_quiet`.
    pub fn check_put_quiet(&mut self, active: u32) {
        let warp = self.warp_id();
        let Some(ck) = self.check.as_deref_mut() else {
            return;
        };
        let puts = &mut ck.puts[warp];
        puts.over = puts.sent;
        let (first, source) = (ck.slots.put(warp as u32), ck.slots.put_source(warp as u32));
        for row in puts.to.values() {
            for (l, &count) in row.iter().enumerate().filter(|(_, c)| **c > 0) {
                ck.know[warp].learn(active, first, 1 << l, count);
                ck.know[warp].learn(active, source, 1 << l, count);
            }
        }
    }
}

fn raise(edge: &mut Edge, first: u32, row: &[u32; SLOTS as usize]) {
    for (l, &count) in row.iter().enumerate().filter(|(_, c)| **c > 0) {
        edge.view.happened.raise(first, 1 << l, count);
    }
}

impl Checker {
    /// A put to rank `to` touches a range.
    #[allow(clippy::too_many_arguments)] // One access.
    fn put_range(
        &mut self,
        env: &Env<'_>,
        warp: usize,
        lane: u32,
        address: u64,
        len: u64,
        stamp: Stamp,
        to: u32,
    ) -> Result<(), Box<Trouble>> {
        let own = self.know[warp].slots();
        let Some(part) = self.know[warp].part(lane) else {
            return Ok(());
        };
        // It arrives after those to the same rank before the last fence.
        let behind = self.puts[warp].fenced.get(&to).map(|row| {
            let mut know = part.know.clone();
            raise(&mut know.edge, self.slots.put(warp as u32), row);
            know
        });
        let know = behind.as_ref().unwrap_or(&part.know);
        let reader = Reader::engine(self.cluster, know, own, lane);
        let found = cells(address, len).find_map(|(cell, bytes)| {
            let one = Stamp { bytes, ..stamp };
            let done = self
                .shared
                .access(env, Memory::Global, cell, one, &reader, !one.writes);
            done.err().map(|c| (c, one, cell))
        });
        let Some((conflict, one, cell)) = found else {
            return Ok(());
        };
        let mut t = self.conflict(env, conflict, &one, "global", cell, None);
        t.lane = Some(lane);
        Err(t)
    }
}

impl LaunchCheck<'_> {
    /// A signal arrives at `address`.
    pub fn signal(&self, address: u64, adds: bool, carried: Carried) {
        self.vars.write(address, adds, Some(carried.0));
    }
}
