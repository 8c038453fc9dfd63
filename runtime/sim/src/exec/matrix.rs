//! `ldmatrix`, `stmatrix` and `movmatrix` (PTX ISA 9.7.14.5.15 to 17).
//!
//! An 8x8 matrix of 16-bit elements lies in eight rows of 16 bytes, whose
//! addresses come from eight lanes. Lane l holds row l / 4, columns 2 (l % 4)
//! and the next, in one register; `.trans` exchanges rows and columns.

use super::alu::Consts;
use super::state::Core;
use crate::error::Exec;
use crate::isa::{Addr, R, Row32, Space};
use crate::memory::{load, store};

impl Core<'_> {
    pub fn ldmatrix(
        &mut self,
        trans: bool,
        d: &[R],
        addr: Addr,
        active: u32,
        consts: Consts<'_>,
    ) -> Exec<()> {
        self.converged(active, "of the warp")?;
        let addrs = self.addresses(addr, active, consts);
        for (m, &d) in d.iter().enumerate() {
            let rows = self.matrix_rows(&addrs, m)?;
            let mut v = [0u32; 32];
            for (l, out) in v.iter_mut().enumerate() {
                for h in 0..2 {
                    let (r, c) = element(l, h, trans);
                    // SAFETY: 16 bytes were checked for every row.
                    let x = unsafe { load::<2>(rows[r].add(2 * c)) } as u32;
                    *out |= x << (16 * h);
                }
            }
            self.w.regs.put32(d, &v, active);
        }
        Ok(())
    }

    pub fn stmatrix(
        &mut self,
        trans: bool,
        a: &[R],
        addr: Addr,
        active: u32,
        consts: Consts<'_>,
    ) -> Exec<()> {
        self.converged(active, "of the warp")?;
        let addrs = self.addresses(addr, active, consts);
        for (m, &a) in a.iter().enumerate() {
            let rows = self.matrix_rows(&addrs, m)?;
            let v: &Row32 = self.w.regs.get32(consts, a);
            for (l, &x) in v.iter().enumerate() {
                for h in 0..2 {
                    let (r, c) = element(l, h, trans);
                    // SAFETY: as above.
                    unsafe { store::<2>(rows[r].add(2 * c), u64::from(x >> (16 * h))) };
                }
            }
        }
        Ok(())
    }

    fn matrix_rows(&mut self, addrs: &[u64; 32], m: usize) -> Exec<[*mut u8; 8]> {
        let mut rows = [std::ptr::null_mut(); 8];
        for (i, row) in rows.iter_mut().enumerate() {
            let lane = 8 * m + i;
            *row = self.pointer(Space::Shared, addrs[lane], 16, 16, lane as u32)?;
        }
        Ok(rows)
    }

    /// Transposes the 8x8 matrix that the warp holds in one register.
    pub fn movmatrix(&mut self, d: R, a: R, active: u32, consts: Consts<'_>) -> Exec<()> {
        self.converged(active, "of the warp")?;
        let a = *self.w.regs.get32(consts, a);
        let mut v = [0u32; 32];
        for (l, out) in v.iter_mut().enumerate() {
            for h in 0..2 {
                let (r, c) = element(l, h, true);
                let x = a[4 * r + c / 2] >> (16 * (c % 2)) & 0xffff;
                *out |= x << (16 * h);
            }
        }
        self.w.regs.put32(d, &v, active);
        Ok(())
    }
}

fn element(lane: usize, half: usize, trans: bool) -> (usize, usize) {
    let (r, c) = (lane / 4, 2 * (lane % 4) + half);
    if trans { (c, r) } else { (r, c) }
}
