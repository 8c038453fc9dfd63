//! What mbarriers pass on.
//!
//! An mbarrier is a slot whose count is the number of its completed phases: a
//! TMA load is over at the phase that its bytes helped to complete. Threads'
//! arrivals are kept until the phase completes; who sees it complete knows what
//! they told (PTX ISA, "mbarrier", phases and the default `.release` and
//! `.acquire` semantics).

use super::clock::Edge;

#[derive(Debug)]
pub struct Mbar {
    pub cta: u32,
    pub offset: u32,
    pub slot: u32,
    /// Completed phases.
    pub phases: u32,
    /// Arrivals of the current phase.
    pending: Edge,
    /// Arrivals of an instruction that come after those that complete it.
    late: Edge,
    /// Arrivals of the completed ones.
    pub done: Edge,
    pub live: bool,
    /// Where it was initialised.
    pub init_pc: u32,
    /// By whom and when: slot, lane and tick.
    pub init: (u32, u32, u32),
    /// A fence has made the initialisation visible to other proxies and CTAs.
    pub init_fenced: bool,
    /// The last load that signals it, and the phases that are complete when it
    /// is over.
    pub last_load: Option<(u32, u32)>,
}

impl Mbar {
    pub fn arrive(&mut self, edge: &Edge) {
        self.pending.join(edge);
    }

    /// An arrival that will count in the next phase.
    pub fn arrive_late(&mut self, edge: &Edge) {
        self.late.join(edge);
    }

    pub fn phase_completed(&mut self) {
        self.phases += 1;
        self.done.join(&self.pending);
        self.pending = std::mem::take(&mut self.late);
    }
}

#[derive(Debug, Default)]
pub struct Mbars {
    list: Vec<Mbar>,
    first_slot: u32,
}

impl Mbars {
    pub fn reset(&mut self, first_slot: u32) {
        self.list.clear();
        self.first_slot = first_slot;
    }

    pub fn find(&self, cta: u32, offset: u32) -> Option<&Mbar> {
        let mut live = self.list.iter().filter(|m| m.live);
        live.find(|m| m.offset == offset && m.cta == cta)
    }

    pub fn find_mut(&mut self, cta: u32, offset: u32) -> Option<&mut Mbar> {
        let mut live = self.list.iter_mut().filter(|m| m.live);
        live.find(|m| m.offset == offset && m.cta == cta)
    }

    /// A new object gets a slot of its own: what is known of an earlier one at
    /// its place says nothing of it.
    pub fn init(&mut self, cta: u32, offset: u32, pc: u32, init: (u32, u32, u32)) {
        self.list.push(Mbar {
            cta,
            offset,
            slot: self.first_slot + self.list.len() as u32,
            phases: 0,
            pending: Edge::default(),
            late: Edge::default(),
            done: Edge::default(),
            live: true,
            init_pc: pc,
            init,
            init_fenced: false,
            last_load: None,
        });
    }

    pub fn of_slot(&self, slot: u32) -> Option<&Mbar> {
        self.list.get(slot.checked_sub(self.first_slot)? as usize)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Mbar> {
        self.list.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Mbar> {
        self.list.iter_mut()
    }
}
