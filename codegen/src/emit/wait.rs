//! Waits for barriers that end: a kernel that would wait for ever tells the host where, and fails.
//!
//! In: a barrier, the parity to wait for, and which kind of wait it is. Out: code whose fast path is one
//! `try_wait` and a branch that is predicted not to be taken. Behind the branch the wait goes on by the clock;
//! after [`WAIT_LIMIT_NS`] the thread stores a status and traps.
//!
//! The host gives the status a place through the module's global `mcc_status`, which holds the device address of
//! 16 bytes that the host can read, or 0 for nowhere:
//!
//! ```text
//! word 0    0x4D43 << 48 | site << 32 | linear index of the block
//! word 1    nanoseconds waited << 16 | linear index of the thread in its block
//!
//! Sites of [`super::system::PeerSite`] have the rank that was waited for in the upper half of the block's 32 bits.
//! ```

use super::asm::{Arrivals, Barrier};
use super::{I32, Kernel, Val};

/// After so many nanoseconds a wait has failed: no wait of a healthy kernel comes near, and a host that looks at
/// a stuck GPU still gets its answer soon.
pub const WAIT_LIMIT_NS: i64 = 10_000_000_000;

/// Name of the global through which the host says where a status goes.
pub const STATUS_SYMBOL: &str = "mcc_status";

/// Marks word 0 of a status: "MC".
pub(super) const STATUS_MARK: u32 = 0x4D43;

/// What a thread waits for, as the status names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Data that should arrive.
    Full = 1,
    /// A stage that should be freed.
    Empty = 2,
}

impl Kernel {
    /// Waits until the phase of parity `parity` has completed.
    pub fn mbarrier_wait<'k>(
        &'k self,
        barrier: Barrier<'k>,
        parity: Val<'k, I32>,
        who: Arrivals,
        site: Site,
    ) {
        let late = !self.mbarrier_try_wait(barrier, parity, who);
        self.if_(late.unlikely(), || {
            let start = self.global_timer();
            self.while_(
                || !self.mbarrier_try_wait(barrier, parity, who),
                || {
                    let waited = self.global_timer() - start;
                    self.if_(waited.gt(WAIT_LIMIT_NS).unlikely(), || {
                        self.uses_status.set(true);
                        self.report_and_trap(
                            STATUS_SYMBOL,
                            STATUS_MARK << 16 | site as u32,
                            waited,
                        );
                    });
                },
            );
        });
    }
}
