//! The interpreter: runs one warp until it waits, yields or ends.
//!
//! A warp is a set of *fragments*: lanes that share a program counter. A
//! divergent branch splits a fragment in two and notes where both meet again,
//! the immediate post-dominator of the branch. A fragment that gets there
//! waits until the others have come (or exited), and they go on as one. A
//! fragment that waits for a barrier does not stop its siblings, so that one
//! lane may spin on an mbarrier while the others run ahead to the meeting
//! point.
//!
//! [`Core::run`] is the loop; register instructions are in [`alu`], memory in
//! [`mem`] and [`reach`], warp-wide ones in [`warp_ops`], barriers in [`sync`],
//! asynchronous copies in [`copy`] and tensor-core ones in [`wgmma`] and [`mma`].

pub mod alu;
mod alu_rare;
pub mod atom;
mod carry;
pub mod copy;
mod copy_ranges;
mod cvt;
mod map_edit;
mod matrix;
pub mod mem;
pub mod mma;
mod nvshmem;
mod peers;
pub mod reach;
pub mod registers;
pub mod special;
pub mod spin;
pub mod state;
pub mod sync;
pub mod warp_ops;
pub mod wgmma;

use crate::error::{Exec, FaultKind, illegal, trouble};
use crate::isa::{Op, PSrc};
use alu::Consts;
use state::{Core, Frag, Join, NO_JOIN, Wait};

/// Why [`Core::run`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// No fragment of the warp can run now.
    Blocked,
    /// The slice is used up.
    Slice,
    /// The warp polls something; others should run first.
    Poll,
    /// All threads have exited.
    Done,
}

/// What a control or memory instruction asks of the loop.
pub(crate) enum Next {
    Step,
    /// Leave the fragment as it is now (its wait state is set) at this `pc`.
    Suspend,
    /// As `Step`, then let others run.
    Poll,
}

impl Core<'_> {
    /// Runs the warp's ready fragments for at most `slice` instructions.
    pub fn run(&mut self, slice: u32) -> Exec<Stop> {
        // Instructions that may still run, and how many those were when they were last counted.
        let (mut left, mut counted) = (slice, slice);
        loop {
            let Some(f) = self.pick() else {
                return Ok(if self.w.alive == 0 {
                    Stop::Done
                } else {
                    Stop::Blocked
                });
            };
            self.w.current = f;
            let stop = if self.check.is_some() {
                self.run_fragment::<true>(f, &mut left, &mut counted)
            } else {
                self.run_fragment::<false>(f, &mut left, &mut counted)
            };
            self.count(left, &mut counted);
            match stop? {
                Some(stop) => {
                    // A fragment that polls must not keep its siblings from what it polls for.
                    self.w.turn = if f + 1 < self.w.frags.len() { f + 1 } else { 0 };
                    return Ok(stop);
                }
                None if left == 0 => return Ok(Stop::Slice),
                None => {}
            }
        }
    }

    fn count(&mut self, left: u32, counted: &mut u32) {
        self.stats.instructions += u64::from(*counted - left);
        *counted = left;
    }

    /// A fragment that can run. Polls of mbarriers are tried here.
    fn pick(&mut self) -> Option<usize> {
        let count = self.w.frags.len();
        let turn = self.w.turn;
        (0..count)
            .map(|i| {
                if turn + i < count {
                    turn + i
                } else {
                    turn + i - count
                }
            })
            .find(|&f| self.w.frags[f].wait == Wait::Ready || self.try_wake(f))
    }

    /// Runs one fragment until it waits or ends (`None`), or the warp must
    /// give way.
    fn run_fragment<const CHECK: bool>(
        &mut self,
        f: usize,
        left: &mut u32,
        counted: &mut u32,
    ) -> Exec<Option<Stop>> {
        let kernel = self.env.kernel;
        let consts = Consts {
            c32: &kernel.consts32,
            c64: &kernel.consts64,
        };
        let Frag {
            mut pc,
            mut mask,
            mut join_pc,
            ..
        } = self.w.frags[f];
        loop {
            if pc == join_pc {
                self.w.frags[f].mask = mask;
                if !self.arrive_at_join(f) {
                    return Ok(None);
                }
                Frag {
                    pc,
                    mask,
                    join_pc,
                    ..
                } = self.w.frags[f];
                continue;
            }
            if *left == 0 {
                self.w.frags[f].pc = pc;
                self.w.frags[f].mask = mask;
                return Ok(Some(Stop::Slice));
            }
            *left -= 1;
            let inst = &kernel.code[pc as usize];
            let active = mask & self.w.regs.pred(inst.guard);
            if active == 0 {
                pc += 1;
                continue;
            }
            if CHECK && !kernel.touch.is_empty() {
                self.w.frags[f].pc = pc;
                self.check_touch(pc)?;
            }
            match &inst.op {
                Op::Ld(ld) => {
                    self.w.frags[f].pc = pc;
                    self.ld(ld, active, consts)?;
                    pc += 1;
                    if ld.order.strong() && self.w.reads_flag(self.flight.progress) {
                        self.w.frags[f].pc = pc;
                        self.w.frags[f].mask = mask;
                        return Ok(Some(Stop::Poll));
                    }
                }
                Op::St(st) => {
                    self.w.frags[f].pc = pc;
                    self.st(st, active, consts)?;
                    pc += 1;
                }
                Op::Bra { target, join } => {
                    if active == mask {
                        pc = *target;
                        continue;
                    }
                    self.w.frags[f].mask = mask;
                    self.split(f, active, *target, *join);
                    Frag { mask, join_pc, .. } = self.w.frags[f];
                    pc += 1;
                }
                Op::Nop => pc += 1,
                Op::Exit => {
                    self.w.frags[f].mask = mask & !active;
                    self.w.frags[f].pc = pc;
                    let early = self.w.early & active;
                    if early != 0 {
                        let lane = early.trailing_zeros();
                        return Err(trouble(Some(lane), FaultKind::NoGridWait));
                    }
                    if CHECK {
                        self.check_exit(active)?;
                    }
                    self.exit(f, active);
                    if CHECK && self.ctas[self.w.cta].warps_alive == 0 {
                        self.check_block_end()?;
                    }
                    mask = self.w.frags[f].mask;
                    if mask == 0 {
                        return Ok(if self.w.alive == 0 {
                            Some(Stop::Done)
                        } else {
                            None
                        });
                    }
                    pc += 1;
                }
                op if alu_op(op) => {
                    // All that follow without a branch or a meeting point go at once, unless each is to be checked.
                    let mut most = if CHECK { 1 } else { *left as usize + 1 };
                    if join_pc > pc {
                        most = most.min((join_pc - pc) as usize);
                    }
                    let rest = &kernel.code[pc as usize..];
                    let code = &rest[..most.min(rest.len())];
                    let done = alu::run(&mut self.w.regs, consts, code, mask);
                    // This one is counted already.
                    *left -= done - 1;
                    pc += done;
                }
                op => {
                    self.w.frags[f].pc = pc;
                    self.w.frags[f].mask = mask;
                    // Some of these read the clock.
                    self.count(*left, counted);
                    match self.rare(f, op, inst.guard, active, consts)? {
                        Next::Step => {
                            Frag { mask, join_pc, .. } = self.w.frags[f];
                            pc = self.w.frags[f].pc + 1;
                        }
                        Next::Poll => {
                            self.w.frags[f].pc = pc + 1;
                            return Ok(Some(Stop::Poll));
                        }
                        Next::Suspend => return Ok(None),
                    }
                }
            }
        }
    }

    /// Everything that is neither arithmetic nor a plain access.
    fn rare(
        &mut self,
        f: usize,
        op: &Op,
        guard: PSrc,
        active: u32,
        consts: Consts<'_>,
    ) -> Exec<Next> {
        match op {
            Op::Trap => {
                return Err(trouble(Some(active.trailing_zeros()), FaultKind::Trap));
            }
            Op::Pause => return Ok(Next::Poll),
            Op::Special32 { d, s } => {
                self.look_at_clock(*s);
                let v = self.special(*s).map(|x| x as u32);
                self.w.regs.put32(*d, &v, active);
            }
            Op::Special64 { d, s } => {
                self.look_at_clock(*s);
                let v = self.special(*s);
                self.w.regs.put64(*d, &v, active);
            }
            Op::BrxIdx {
                index,
                targets,
                join,
            } => {
                return self.brx(f, *index, targets, *join, active, consts);
            }
            Op::Carry(c) => self.carry(c, active, consts),
            Op::MapReplace(m) => self.map_replace(m, active, consts)?,
            Op::MapCopy { to, from } => self.map_copy(*to, *from, active, consts)?,
            Op::Atom(a) => {
                let before = self.flight.progress;
                self.atom(a, active, consts)?;
                // What changes nothing is a look at a flag, too.
                if self.flight.progress == before && self.w.reads_flag(before) {
                    return Ok(Next::Poll);
                }
            }
            Op::Cvta { space, to, d, a } => self.cvta(*space, *to, *d, *a, active, consts)?,
            Op::Isspacep { space, d, a } => self.isspacep(*space, *d, *a, active, consts),
            Op::Mapa {
                generic,
                d,
                a,
                rank,
            } => {
                self.mapa(*generic, *d, *a, *rank, active, consts)?;
            }
            Op::Getctarank { generic, d, a } => {
                let a = self.w.regs.get_wide(consts, *a);
                let base = if *generic {
                    crate::memory::SHARED_BASE
                } else {
                    0
                };
                let v = a.map(|x| self.cta_of(x.wrapping_sub(base)) as u32);
                self.w.regs.put32(*d, &v, active);
            }
            Op::Shfl { .. }
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::Redux { .. }
            | Op::Activemask { .. }
            | Op::Elect { .. }
            | Op::WarpSync { .. } => return self.warp_op(f, op, active, consts),
            Op::Bar { .. } | Op::ClusterArrive { .. } | Op::ClusterWait => {
                return self.barrier_op(f, op, guard, active, consts);
            }
            // Other blocks run on other host threads.
            Op::Fence(kind) => {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                self.check_fence(*kind, active);
            }
            Op::Setmaxnreg { inc, count } => {
                return self.setmaxnreg(f, *inc, *count, active);
            }
            Op::GridWait => self.w.early &= !active,
            Op::MbarInit { .. }
            | Op::MbarInval { .. }
            | Op::MbarArrive(_)
            | Op::MbarWait(_)
            | Op::MbarPending { .. } => return self.mbarrier_op(f, op, active, consts),
            Op::CpAsync(_)
            | Op::CpAsyncCommit
            | Op::CpAsyncWait { .. }
            | Op::CpAsyncArrive { .. }
            | Op::Bulk(_)
            | Op::BulkCommit
            | Op::BulkWait { .. }
            | Op::TensormapCheck { .. } => self.copy_op(op, active, consts)?,
            Op::Wgmma(_) | Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. } => {
                return self.wgmma_op(f, op, active, consts);
            }
            Op::Ldmatrix { trans, d, addr } => self.ldmatrix(*trans, d, *addr, active, consts)?,
            Op::Stmatrix { trans, a, addr } => self.stmatrix(*trans, a, *addr, active, consts)?,
            Op::Movmatrix { d, a } => self.movmatrix(*d, *a, active, consts)?,
            Op::Mma(mma) => self.mma(mma, active, consts)?,
            Op::Nvshmem(call) => self.nvshmem(call, active)?,
            _ => return Err(illegal("an instruction without an executor")),
        }
        Ok(Next::Step)
    }

    /// Lanes in `taken` go to `target`, the others stay in the fragment.
    fn split(&mut self, f: usize, taken: u32, target: u32, join: u32) {
        let frag = self.w.frags[f];
        let (mut index, mut pc) = (frag.join, frag.join_pc);
        if join != NO_JOIN && join != pc {
            let new = Join {
                pc: join,
                expect: frag.mask,
                arrived: 0,
                parent: index,
                parent_pc: pc,
            };
            index = self.w.new_join(new);
            pc = join;
        }
        self.w.frags[f] = Frag {
            mask: frag.mask & !taken,
            join: index,
            join_pc: pc,
            ..frag
        };
        self.w.new_frag(Frag {
            pc: target,
            mask: taken,
            join: index,
            join_pc: pc,
            wait: Wait::Ready,
        });
    }

    fn brx(
        &mut self,
        f: usize,
        index: u16,
        targets: &[u32],
        join: u32,
        active: u32,
        consts: Consts<'_>,
    ) -> Exec<Next> {
        let index = *self.w.regs.get32(consts, index);
        let mut rest = active;
        while rest != 0 {
            let lane = rest.trailing_zeros();
            let i = index[lane as usize];
            let Some(&target) = targets.get(i as usize) else {
                let message = format!("branch index {i} of a table of {}", targets.len());
                return Err(trouble(Some(lane), FaultKind::Illegal(message)));
            };
            let same = (0..32)
                .filter(|&l| rest >> l & 1 != 0 && index[l] == i)
                .fold(0, |m, l| m | 1 << l);
            if same == self.w.frags[f].mask {
                // `rare` steps past the instruction.
                self.w.frags[f].pc = target.wrapping_sub(1);
                return Ok(Next::Step);
            }
            self.split(f, same, target, join);
            rest &= !same;
        }
        Ok(Next::Step)
    }

    /// The fragment is where its siblings will come. True when it goes on,
    /// with the lanes of all.
    fn arrive_at_join(&mut self, f: usize) -> bool {
        let frag = self.w.frags[f];
        let join = &mut self.w.joins[frag.join as usize];
        join.arrived |= frag.mask;
        if join.arrived != join.expect {
            self.w.frags[f].wait = Wait::Dead;
            self.w.frags[f].mask = 0;
            return false;
        }
        let done = *join;
        self.w.free_join(frag.join);
        self.w.frags[f] = Frag {
            pc: done.pc,
            mask: done.arrived,
            join: done.parent,
            join_pc: done.parent_pc,
            wait: Wait::Ready,
        };
        true
    }

    /// Lanes end; those that wait for them at a join may go on.
    fn exit(&mut self, f: usize, lanes: u32) {
        self.w.alive &= !lanes;
        let frag = self.w.frags[f];
        if frag.mask == 0 {
            self.w.frags[f].wait = Wait::Dead;
        }
        let mut at = frag.join;
        while at != NO_JOIN {
            let join = &mut self.w.joins[at as usize];
            join.expect &= !lanes;
            let done = *join;
            if done.arrived == done.expect {
                self.w.free_join(at);
                if done.arrived != 0 {
                    self.w.new_frag(Frag {
                        pc: done.pc,
                        mask: done.arrived,
                        join: done.parent,
                        join_pc: done.parent_pc,
                        wait: Wait::Ready,
                    });
                }
            }
            at = done.parent;
        }
        if self.w.alive == 0 {
            self.warp_ended();
        }
    }
}

/// Instructions that touch registers only.
#[inline(always)]
fn alu_op(op: &Op) -> bool {
    matches!(
        op,
        Op::Alu32 { .. }
            | Op::Alu16 { .. }
            | Op::AluF { .. }
            | Op::Rnd { .. }
            | Op::Rnd64 { .. }
            | Op::Approx { .. }
            | Op::Half { .. }
            | Op::Lop3 { .. }
            | Op::Bfi { .. }
            | Op::Alu64 { .. }
            | Op::Shift64 { .. }
            | Op::MulWide { .. }
            | Op::Count64 { .. }
            | Op::Bfe64 { .. }
            | Op::Bfi64 { .. }
            | Op::Pack64 { .. }
            | Op::Testp { .. }
            | Op::Setp { .. }
            | Op::Sel32 { .. }
            | Op::Sel64 { .. }
            | Op::Predicate { .. }
            | Op::Cvt { .. }
            | Op::CvtPair { .. }
            | Op::CvtPacked { .. }
    )
}
