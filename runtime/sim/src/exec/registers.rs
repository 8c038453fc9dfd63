//! `setmaxnreg` (PTX ISA 9.7.19.5): registers that warps give each other.
//!
//! A block has as many registers as its launch took: the count of a thread
//! times its threads. `dec` gives registers back to the block, `inc` waits
//! until the block has enough of them. Values live in rows of their own here,
//! so only the counts matter.

use super::Next;
use super::state::{Core, Wait};
use crate::error::{Exec, illegal};
use crate::isa::Kernel;

/// Threads of a warp.
const WARP: u32 = 32;
/// The most registers of a thread; one less has a name.
const MOST: u32 = 256;
const UNIT: u32 = 8;

/// Registers of a thread at the launch of a kernel. PTX does not tell what the
/// assembler takes; with `setmaxnreg` in the kernel it is what the directives
/// allow: `.maxnreg`, or all registers of the SM for `.minnctapersm` blocks.
pub fn at_launch(kernel: &Kernel, threads: u32, of_sm: u32) -> u32 {
    let blocks = kernel.min_blocks.unwrap_or(1).max(1);
    let threads = threads.next_multiple_of(WARP).max(1);
    let most = kernel
        .max_registers
        .unwrap_or(of_sm / blocks.saturating_mul(threads));
    (most.min(MOST) / UNIT * UNIT).max(UNIT)
}

impl Core<'_> {
    pub(crate) fn setmaxnreg(
        &mut self,
        f: usize,
        inc: bool,
        count: u32,
        active: u32,
    ) -> Exec<Next> {
        self.converged(active, "of the warp")?;
        let now = self.w.registers;
        // Without `.maxnreg` the count at the launch is a guess, and may be off in both directions.
        let known = self.env.kernel.max_registers.is_some();
        if inc {
            if count < now && known {
                return Err(illegal(format!(
                    "setmaxnreg.inc to {count} registers in a warp that has {now}"
                )));
            }
            self.w.frags[f].wait = Wait::Registers { count };
            if self.take_registers(f, count) {
                self.w.frags[f].pc -= 1;
                return Ok(Next::Step);
            }
            return Ok(Next::Suspend);
        }
        if count > now && known {
            return Err(illegal(format!(
                "setmaxnreg.dec to {count} registers in a warp that has {now}"
            )));
        }
        self.w.registers = count.min(now);
        self.ctas[self.w.cta].free_registers += now.saturating_sub(count) * WARP;
        self.flight.progress += 1;
        Ok(Next::Step)
    }

    /// Takes what a waiting warp lacks, if the block has it.
    pub fn take_registers(&mut self, f: usize, count: u32) -> bool {
        let lacks = count.saturating_sub(self.w.registers) * WARP;
        let cta = &mut self.ctas[self.w.cta];
        if cta.free_registers < lacks {
            return false;
        }
        cta.free_registers -= lacks;
        self.w.registers = count.max(self.w.registers);
        self.flight.progress += 1;
        self.resume(f);
        true
    }
}
