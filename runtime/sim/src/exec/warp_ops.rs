//! Warp-wide instructions: `shfl`, `vote`, `match`, `redux`, `elect`,
//! `bar.warp.sync` (PTX ISA 9.7.9.6, 9.7.13.9 to 9.7.13.13).
//!
//! Each names its members. When a member is in another fragment of the warp,
//! the fragment waits until that one comes to the same instruction.

use super::Next;
use super::alu::{Consts, alu32, lanes_bits, lanes32};
use super::state::{Core, Wait};
use crate::error::{Exec, FaultKind, trouble};
use crate::isa::{A32, Op, R, ShflMode, VoteMode};

impl Core<'_> {
    pub(crate) fn warp_op(
        &mut self,
        f: usize,
        op: &Op,
        active: u32,
        consts: Consts<'_>,
    ) -> Exec<Next> {
        let members_row = match *op {
            Op::Shfl { members, .. }
            | Op::Vote { members, .. }
            | Op::Match { members, .. }
            | Op::Redux { members, .. }
            | Op::Elect { members, .. }
            | Op::WarpSync { members } => Some(members),
            _ => None,
        };
        let mut members = active;
        if let Some(row) = members_row {
            let Some(m) = self.gather(f, row, active, consts)? else {
                return Ok(Next::Suspend);
            };
            members = m;
        }
        // `gather` may have merged lanes into the fragment.
        let active = if members_row.is_some() {
            active | (self.w.frags[f].mask & members)
        } else {
            active
        };
        match *op {
            Op::Shfl {
                mode,
                d,
                p,
                a,
                lane,
                clamp,
                ..
            } => {
                let (a, b) = (
                    self.w.regs.get32(consts, a),
                    self.w.regs.get32(consts, lane),
                );
                let c = self.w.regs.get32(consts, clamp);
                let (v, bits) = crate::simd::with(
                    #[inline(always)]
                    || {
                        // One loop for each mode, so that lanes need not tell them apart.
                        let source = |mode| lanes32(|l| shfl_source(mode, l as u32, b[l], c[l]));
                        let from = match mode {
                            ShflMode::Up => source(ShflMode::Up),
                            ShflMode::Down => source(ShflMode::Down),
                            ShflMode::Bfly => source(ShflMode::Bfly),
                            ShflMode::Idx => source(ShflMode::Idx),
                        };
                        let v = lanes32(|l| a[from[l] as usize & 31]);
                        (v, lanes_bits(|l| from[l] < 32))
                    },
                );
                self.w.regs.put32(d, &v, active);
                self.w.regs.put_pred(p, bits, active);
            }
            Op::Vote {
                mode, d, d32, a, ..
            } => {
                let votes = self.w.regs.pred(a) & members;
                let all = votes == members;
                match mode {
                    VoteMode::Ballot => self.w.regs.put32(d32, &[votes; 32], active),
                    VoteMode::All => self
                        .w
                        .regs
                        .put_pred(d, u32::from(all).wrapping_neg(), active),
                    VoteMode::Any => {
                        self.w
                            .regs
                            .put_pred(d, u32::from(votes != 0).wrapping_neg(), active)
                    }
                    VoteMode::Uni => {
                        self.w.regs.put_pred(
                            d,
                            u32::from(all || votes == 0).wrapping_neg(),
                            active,
                        );
                    }
                }
            }
            Op::Match { all, d, p, a, .. } => {
                let a = self.w.regs.get_wide(consts, a);
                let same = |l: usize| {
                    (0..32)
                        .filter(|&k| members >> k & 1 != 0 && a[k] == a[l])
                        .fold(0u32, |m, k| m | 1 << k)
                };
                let mut bits = 0;
                let v = lanes32(|l| {
                    let m = same(l);
                    if !all || m == members { m } else { 0 }
                });
                if all {
                    for (l, m) in v.iter().enumerate() {
                        bits |= u32::from(*m == members) << l;
                    }
                }
                self.w.regs.put32(d, &v, active);
                self.w.regs.put_pred(p, bits, active);
            }
            Op::Redux { f: fun, d, a, .. } => {
                let a = self.w.regs.get32(consts, a);
                let mut lanes = (0..32).filter(|&l| members >> l & 1 != 0);
                let first = lanes.next().map_or(0, |l| a[l]);
                let r = lanes.fold(first, |s, l| reduce(fun, s, a[l]));
                self.w.regs.put32(d, &[r; 32], active);
            }
            Op::Elect { d, p, .. } => {
                let leader = members.trailing_zeros() & 31;
                self.w.regs.put32(d, &[leader; 32], active);
                self.w.regs.put_pred(p, 1 << leader, active);
            }
            Op::WarpSync { .. } => self.check_warp_sync(members),
            Op::Activemask { d } => self.w.regs.put32(d, &[active; 32], active),
            _ => {}
        }
        Ok(Next::Step)
    }

    /// The members of a `.sync` instruction, once all of them are here.
    fn gather(&mut self, f: usize, row: R, active: u32, consts: Consts<'_>) -> Exec<Option<u32>> {
        let rows = self.w.regs.get32(consts, row);
        let lane = active.trailing_zeros() & 31;
        let members = rows[lane as usize];
        if active & !members != 0 {
            return Err(trouble(
                Some((active & !members).trailing_zeros()),
                FaultKind::Divergent {
                    of: "of its member mask",
                    active,
                    expected: members,
                },
            ));
        }
        let wanted = members & self.w.alive;
        if wanted & !active == 0 {
            return Ok(Some(wanted));
        }
        // Lanes that wait at the same place under the same join come along.
        let me = self.w.frags[f];
        let mut here = active;
        for g in 0..self.w.frags.len() {
            let other = self.w.frags[g];
            let waits = matches!(other.wait, Wait::Members { .. });
            if g != f && waits && other.pc == me.pc && other.join == me.join {
                here |= other.mask;
            }
        }
        if wanted & !here != 0 {
            self.w.frags[f].wait = Wait::Members { members };
            return Ok(None);
        }
        for g in 0..self.w.frags.len() {
            let other = self.w.frags[g];
            let waits = matches!(other.wait, Wait::Members { .. });
            if g != f && waits && other.pc == me.pc && other.join == me.join {
                self.w.frags[g].wait = Wait::Dead;
                self.w.frags[g].mask = 0;
                self.w.frags[f].mask |= other.mask;
            }
        }
        Ok(Some(wanted))
    }
}

/// PTX ISA 9.7.9.6: the source lane; outside of the segment the own lane plus
/// 32, which marks it.
#[inline(always)]
fn shfl_source(mode: ShflMode, lane: u32, b: u32, c: u32) -> u32 {
    let b = b & 31;
    let segment = c >> 8 & 31;
    let max = (lane & segment) | (c & 31 & !segment);
    let (j, inside) = match mode {
        ShflMode::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= max as i32),
        ShflMode::Down => (lane + b, lane + b <= max),
        ShflMode::Bfly => (lane ^ b, (lane ^ b) <= max),
        ShflMode::Idx => {
            let j = (lane & segment) | (b & !segment);
            (j, j <= max)
        }
    };
    if inside { j & 31 } else { lane + 32 }
}

fn reduce(f: A32, a: u32, b: u32) -> u32 {
    alu32(f, &[a; 32], &[b; 32], &[0; 32])[0]
}
