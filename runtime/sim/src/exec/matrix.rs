//! `ldmatrix`, `stmatrix` and `movmatrix` (PTX ISA 9.7.14.5.15 to 17).
//!
//! An 8x8 matrix of 16-bit elements lies in eight rows of 16 bytes, whose
//! addresses come from eight lanes. Lane l holds row l / 4, columns 2 (l % 4)
//! and the next, in one register; `.trans` exchanges rows and columns.

use super::alu::Consts;
use super::reach::Place;
use super::state::Core;
use crate::check::Access;
use crate::error::Exec;
use crate::isa::{Addr, Order, R, Row32, Space};

impl<'a> Core<'a> {
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
        self.check_rows(&addrs, d.len(), false)?;
        for (m, &d) in d.iter().enumerate() {
            let mut rows = [[0u16; 8]; 8];
            for (row, place) in rows.iter_mut().zip(self.matrix_rows(&addrs, m)?) {
                self.read(place, bytemuck::bytes_of_mut(row));
            }
            let mut v = [0u32; 32];
            for (l, out) in v.iter_mut().enumerate() {
                for h in 0..2 {
                    let (r, c) = element(l, h, trans);
                    *out |= u32::from(rows[r][c]) << (16 * h);
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
        self.check_rows(&addrs, a.len(), true)?;
        for (m, &a) in a.iter().enumerate() {
            let places = self.matrix_rows(&addrs, m)?;
            let mut rows = [[0u16; 8]; 8];
            let v: &Row32 = self.w.regs.get32(consts, a);
            for (l, &x) in v.iter().enumerate() {
                for h in 0..2 {
                    let (r, c) = element(l, h, trans);
                    rows[r][c] = (x >> (16 * h)) as u16;
                }
            }
            for (row, place) in rows.iter().zip(places) {
                self.write(place, bytemuck::bytes_of(row))?;
            }
        }
        Ok(())
    }

    /// The rows of `matrices` matrices, whose addresses the first lanes have.
    fn check_rows(&mut self, addrs: &[u64; 32], matrices: usize, writes: bool) -> Exec<()> {
        if self.check.is_none() {
            return Ok(());
        }
        let access = Access {
            space: Space::Shared,
            len: 16,
            reads: !writes,
            writes,
            order: Order::WEAK,
        };
        let lanes = u32::MAX >> (32 - 8 * matrices.min(4));
        self.check_access(access, addrs, lanes, 0)
    }

    /// Where the eight rows of matrix `m` lie, 16 bytes each.
    fn matrix_rows(&mut self, addrs: &[u64; 32], m: usize) -> Exec<[Place<'a>; 8]> {
        let first = 8 * m;
        let mut rows = [self.place(Space::Shared, addrs[first], 16, 16, first as u32)?; 8];
        for (i, row) in rows.iter_mut().enumerate().skip(1) {
            let lane = first + i;
            *row = self.place(Space::Shared, addrs[lane], 16, 16, lane as u32)?;
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
