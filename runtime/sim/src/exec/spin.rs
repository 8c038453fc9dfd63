//! Warps that poll: when they give way, and when they poll without end.
//!
//! A warp waits for others by reading memory again and again. It gives way
//! when it has read several times and nothing has come of it. Whether it would
//! go on so for ever can be proved: without a change of memory a warp is a
//! machine whose next state follows from its state, so that a state which
//! comes back comes back for ever. States are compared by a 64-bit hash;
//! Brent's method finds a cycle of any length. For a warp that polls in vain
//! `%globaltimer` stands still, so that one that looks at the clock comes back,
//! too; that it did is kept, as it will go on when time jumps. A warp that
//! counts its tries never comes back, and is not taken for dead.

use super::state::{Wait, Warp};

/// Reads of flags that may be in vain before the warp gives way.
const PATIENCE: u32 = 2;
/// Polls in vain before time stands still.
const STANDSTILL: u32 = 2;
/// Polls before states are compared.
const SUSPICION: u32 = 8;

/// What is known of a warp's polls since something last changed.
#[derive(Debug, Default)]
pub struct Spin {
    /// The group's progress when the counts began.
    progress: u64,
    /// Reads of flags, and turns that ended in a poll.
    reads: u32,
    polls: u32,
    /// A state of before, and at which poll it was taken.
    saved: (u64, u32),
    /// Until this poll the cycle is known to hold.
    holds_until: u32,
    /// The warp has looked at the clock, and what it sees while time stands
    /// still.
    looked: bool,
    time: Option<u64>,
}

impl Spin {
    fn since(&mut self, progress: u64) {
        if self.progress != progress {
            *self = Spin {
                progress,
                ..Spin::default()
            };
        }
    }
}

impl Spin {
    /// The warp looks at the clock, which says `now`.
    pub fn look_at_clock(&mut self, progress: u64, now: u64) {
        self.since(progress);
        self.looked = true;
        if self.polls >= STANDSTILL && self.time.is_none() {
            self.time = Some(now);
        }
    }

    /// The time that the warp sees, if it stands still.
    pub fn time(&self) -> Option<u64> {
        self.time
    }

    /// Whether the warp looks at the clock while it polls.
    pub fn looked(&self) -> bool {
        self.looked
    }
}

impl Warp {
    /// The warp reads what others may write to wake it; true when it should let
    /// others run.
    pub fn reads_flag(&mut self, progress: u64) -> bool {
        self.spin.since(progress);
        self.spin.reads = self.spin.reads.saturating_add(1);
        self.spin.reads > PATIENCE
    }

    /// The warp's turn has ended in a poll.
    pub fn polled(&mut self, progress: u64) {
        self.spin.since(progress);
        self.spin.polls = self.spin.polls.saturating_add(1);
        let n = self.spin.polls;
        if n < SUSPICION {
            return;
        }
        let state = self.state();
        let (saved, at) = self.spin.saved;
        if at != 0 && saved == state {
            self.spin.holds_until = n.saturating_add(n - at);
        }
        if n.is_power_of_two() {
            self.spin.saved = (state, n);
        }
    }

    /// Memory may have changed from outside.
    pub fn look_again(&mut self) {
        self.spin = Spin::default();
    }

    /// Whether the warp polls without end unless others change memory.
    pub fn cycles(&self) -> bool {
        self.spin.holds_until != 0 && self.spin.polls <= self.spin.holds_until
    }

    /// A hash of all that decides what the warp does next.
    fn state(&self) -> u64 {
        let mut h = Hash(0xcbf2_9ce4_8422_2325);
        for row in &self.regs.r32 {
            row.iter().for_each(|&v| h.add(v.into()));
        }
        for row in &self.regs.r64 {
            row.iter().for_each(|&v| h.add(v));
        }
        self.regs.preds.iter().for_each(|&v| h.add(v.into()));
        for f in self.frags.iter().filter(|f| f.wait != Wait::Dead) {
            h.add(u64::from(f.pc) << 32 | u64::from(f.mask));
            h.add(u64::from(f.wait == Wait::Ready) << 32 | u64::from(f.join));
        }
        for j in &self.joins {
            h.add(u64::from(j.arrived) << 32 | u64::from(j.pc));
        }
        h.add(self.turn as u64);
        h.0
    }
}

struct Hash(u64);

impl Hash {
    #[inline(always)]
    fn add(&mut self, v: u64) {
        // Rotating first keeps rows that exchange their values apart.
        let x = u128::from(self.0.rotate_left(5) ^ v) * 0x9e37_79b9_7f4a_7c15;
        self.0 = x as u64 ^ (x >> 64) as u64;
    }
}
