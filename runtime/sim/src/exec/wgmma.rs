//! `wgmma` (PTX ISA 9.7.15): the asynchronous matrix product of a warpgroup.
//!
//! In: four warps at one `wgmma.mma_async`. Out: their accumulators, at once or
//! when they wait for the group, as [`Completion`] says; until then the
//! registers hold a NaN pattern.
//!
//! Accumulator fragment (9.7.15.5.1), register r of lane l of warp w:
//!
//! ```text
//!   row = 16 w + l / 4 + 8 (r / 2 % 2)      col = 8 (r / 4) + 2 (l % 4) + r % 2
//! ```
//!
//! FP16 accumulators lie two to a register, the even column in the lower half:
//! register r holds what registers 2 r and 2 r + 1 hold above.
//!
//! A in registers: register i holds 4 bytes of K from byte 4 (l % 4) + 16 (i / 2)
//! of row 16 w + l / 4 + 8 (i % 2).
//!
//! Shared-memory descriptors (9.7.15.5.1.2): with W the swizzle's span in bytes,
//! a row of 32 bytes of K lies at
//!
//! ```text
//!   K-major, swizzled:   start + (row / 8) SBO + (row % 8) W + byte
//!   K-major, plain:      start + (row / 8) SBO + (row % 8) 16 + (byte / 16) LBO + byte % 16
//! ```
//!
//! and for MN-major 16-bit operands the 16-byte unit u (8 elements along M or
//! N) of k at
//!
//! ```text
//!   swizzled:            start + (u % (W/16)) 16 + (u / (W/16)) LBO + (k % 8) W + (k / 8) SBO
//!   plain:               start + u SBO + (k % 8) 16 + (k / 8) LBO
//! ```
//!
//! The swizzle is then applied to the address so found, which is what makes
//! stepping the start address along K inside the span right.

use super::Next;
use super::alu::Consts;
use super::state::{Core, Cta, Env, Group, Wait, Warp};
use crate::error::{Exec, FaultKind, illegal, trouble};
use crate::isa::{Kernel, MatrixA, Op, Row32, Wgmma};
use crate::launch::Completion;
use crate::memory::SHARED_START;
use crate::numerics::wgmma::{Tile, mma, mma_half, truncate};
use crate::tensor_map::Swizzle;

/// What registers hold while a `wgmma` that writes them is in flight.
const POISON: u32 = 0x7fc0_dead;
/// The same where a register holds two FP16 numbers.
const POISON_HALF: u32 = 0x7eab_7eab;

/// Buffers that every `wgmma` reuses.
#[derive(Debug, Default)]
pub struct Scratch {
    a_codes: Vec<u8>,
    b_codes: Vec<u8>,
    a: Tile,
    b: Tile,
    c: Vec<f32>,
    half: Vec<u16>,
}

#[derive(Debug, Clone)]
pub struct PendingMma {
    /// First warp of the warpgroup, in the group's list.
    pub base: usize,
    pub pc: u32,
    pub desc_a: u64,
    pub desc_b: u64,
    pub scale_d: bool,
    /// Ordinal of the wgmma-group.
    pub group: u32,
    /// The time of its issue, for the trace.
    issued: u64,
    /// Accumulators before they were poisoned, `[warp][register]`.
    saved: Vec<Row32>,
}

impl Core<'_> {
    pub(crate) fn wgmma_op(
        &mut self,
        f: usize,
        op: &Op,
        active: u32,
        _consts: Consts<'_>,
    ) -> Exec<Next> {
        self.converged(active, "of the warp")?;
        let first = self.w.index / 4 * 4;
        if (first + 4) * 32 > self.env.threads() {
            return Err(illegal(
                "wgmma needs four whole warps, from a multiple of four on",
            ));
        }
        match op {
            // Goes on when all four warps are here: see `Group::warpgroup`.
            Op::Wgmma(_) => {
                self.w.frags[f].wait = Wait::Warpgroup;
                Ok(Next::Suspend)
            }
            Op::WgmmaCommit => {
                self.w.wgmma_groups += 1;
                Ok(Next::Step)
            }
            Op::WgmmaFence => {
                self.check_wgmma_fence();
                Ok(Next::Step)
            }
            Op::WgmmaWait { .. } if !self.flight.mmas.is_empty() || self.check.is_some() => {
                self.w.frags[f].wait = Wait::WgmmaGroups;
                Ok(Next::Suspend)
            }
            _ => Ok(Next::Step),
        }
    }
}

/// The fragment of a warp that is converged at a warpgroup instruction.
fn at_warpgroup(w: &Warp, wait: Wait) -> Option<usize> {
    w.frags.iter().position(|f| f.wait == wait)
}

impl Group {
    /// If all four warps of a warpgroup wait at `wgmma.mma_async`, issues it.
    /// The fault's warp is the first of them.
    pub fn warpgroup(&mut self, env: &Env<'_>, warp: usize) -> Exec<bool> {
        let (kernel, completion) = (env.kernel, env.completion);
        let base = warp - self.warps[warp].index as usize % 4;
        let mut pcs = [0u32; 4];
        for (i, pc) in pcs.iter_mut().enumerate() {
            let Some(w) = self.warps.get(base + i) else {
                return Ok(false);
            };
            let Some(f) = at_warpgroup(w, Wait::Warpgroup) else {
                return Ok(false);
            };
            *pc = w.frags[f].pc;
        }
        if pcs.iter().any(|&pc| pc != pcs[0]) {
            return Err(trouble(
                None,
                FaultKind::Illegal(format!(
                    "the warps of a warpgroup wait at different wgmma instructions: PTX lines {:?}",
                    pcs.map(|pc| kernel.lines[pc as usize])
                )),
            ));
        }
        let Op::Wgmma(inst) = &kernel.code[pcs[0] as usize].op else {
            return Err(illegal("a warpgroup waits where no wgmma is"));
        };
        let mut pending = self.pending(kernel, inst, base, pcs[0])?;
        if self.check.is_some() {
            let mut units = |f: &mut dyn FnMut(u32)| operand_units(inst, &pending, f);
            let (group, adds) = (pending.group, pending.scale_d);
            self.check_wgmma(env, inst, base, pcs[0], group, adds, &mut units)?;
        }
        pending.issued = self.trace_warpgroup(base, kernel.lines[pcs[0] as usize]);
        let now = match completion {
            Completion::Early => true,
            Completion::Late => false,
            Completion::Random(_) => self.flight.next_random() & 1 == 0,
        };
        if now {
            // Accumulators are updated in the order of issue.
            self.complete_mmas(kernel, base, u32::MAX)?;
            self.perform_mma(kernel, &pending)?;
        } else {
            self.poison(kernel, inst, &mut pending);
            self.flight.mmas.push_back(pending);
        }
        for w in &mut self.warps[base..base + 4] {
            if let Some(f) = at_warpgroup(w, Wait::Warpgroup) {
                w.frags[f].wait = Wait::Ready;
                w.frags[f].pc += 1;
            }
        }
        Ok(true)
    }

    fn pending(&self, kernel: &Kernel, inst: &Wgmma, base: usize, pc: u32) -> Exec<PendingMma> {
        let consts = Consts {
            c32: &kernel.consts32,
            c64: &kernel.consts64,
        };
        let uniform = |value: &dyn Fn(&Warp) -> [u64; 32], what: &str| -> Exec<u64> {
            let first = value(&self.warps[base])[0];
            for w in &self.warps[base..base + 4] {
                if value(w).iter().any(|&v| v != first) {
                    return Err(illegal(format!(
                        "the {what} differs between threads of the warpgroup"
                    )));
                }
            }
            Ok(first)
        };
        let desc_b = uniform(&|w| *w.regs.get64(consts, inst.b), "descriptor of B")?;
        let desc_a = match inst.a {
            MatrixA::Descriptor(r) => uniform(&|w| *w.regs.get64(consts, r), "descriptor of A")?,
            MatrixA::Registers(_) => 0,
        };
        let scale = uniform(
            &|w| [u64::from(w.regs.pred(inst.scale_d)); 32],
            "scale-d predicate",
        )?;
        if scale != 0 && scale as u32 != u32::MAX {
            return Err(illegal("the scale-d predicate differs between lanes"));
        }
        let group = self.warps[base].wgmma_groups;
        Ok(PendingMma {
            base,
            pc,
            desc_a,
            desc_b,
            scale_d: scale != 0,
            group,
            issued: 0,
            saved: Vec::new(),
        })
    }

    /// Hides the accumulators until the product is performed. A product of the
    /// same registers that is in flight has hidden them already.
    fn poison(&mut self, kernel: &Kernel, inst: &Wgmma, pending: &mut PendingMma) {
        let hidden = self.flight.mmas.iter().any(|m| {
            let other = &kernel.code[m.pc as usize].op;
            m.base == pending.base && matches!(other, Op::Wgmma(o) if o.d == inst.d)
        });
        if hidden {
            return;
        }
        let poison = if inst.half_acc { POISON_HALF } else { POISON };
        for w in &mut self.warps[pending.base..pending.base + 4] {
            for &d in &inst.d {
                let row = &mut w.regs.r32[usize::from(d)];
                pending.saved.push(std::mem::replace(row, [poison; 32]));
            }
        }
    }

    /// Lets warps go on that wait for their wgmma-groups.
    pub fn drain_mmas(&mut self, kernel: &Kernel, warp: usize) -> Exec<bool> {
        let w = &self.warps[warp];
        let Some(f) = at_warpgroup(w, Wait::WgmmaGroups) else {
            return Ok(false);
        };
        let Op::WgmmaWait { pending } = kernel.code[w.frags[f].pc as usize].op else {
            return Ok(false);
        };
        let upto = w.wgmma_groups.saturating_sub(pending);
        let base = warp - w.index as usize % 4;
        self.complete_mmas(kernel, base, upto)?;
        self.check_wgmma_wait(warp, upto);
        let w = &mut self.warps[warp];
        w.frags[f].wait = Wait::Ready;
        w.frags[f].pc += 1;
        Ok(true)
    }

    /// Performs the products of a warpgroup in groups below `upto`.
    fn complete_mmas(&mut self, kernel: &Kernel, base: usize, upto: u32) -> Exec<()> {
        while let Some(i) = self
            .flight
            .mmas
            .iter()
            .position(|m| m.base == base && m.group < upto)
        {
            if let Some(m) = self.flight.mmas.remove(i) {
                self.perform_mma(kernel, &m)?;
            }
        }
        Ok(())
    }

    fn perform_mma(&mut self, kernel: &Kernel, m: &PendingMma) -> Exec<()> {
        let Op::Wgmma(inst) = &kernel.code[m.pc as usize].op else {
            return Err(illegal("a pending wgmma without its instruction"));
        };
        self.trace_wgmma(m.base, kernel.lines[m.pc as usize], m.issued);
        let mut saved = m.saved.iter();
        if !m.saved.is_empty() {
            for w in &mut self.warps[m.base..m.base + 4] {
                for (&d, row) in inst.d.iter().zip(&mut saved) {
                    w.regs.r32[usize::from(d)] = *row;
                }
            }
        }
        self.product(kernel, inst, m).map_err(|mut t| {
            t.pc = Some(m.pc);
            t
        })
    }

    fn product(&mut self, kernel: &Kernel, inst: &Wgmma, m: &PendingMma) -> Exec<()> {
        let n = usize::from(inst.n);
        let s = &mut self.scratch;
        let warps = &mut self.warps[m.base..m.base + 4];
        let cta = &self.ctas[warps[0].cta];
        s.a_codes.resize(64 * 32, 0);
        s.b_codes.resize(n * 32, 0);
        match &inst.a {
            MatrixA::Descriptor(_) => gather(cta, m.desc_a, inst.trans_a, &mut s.a_codes)?,
            MatrixA::Registers(list) => {
                let consts = Consts {
                    c32: &kernel.consts32,
                    c64: &kernel.consts64,
                };
                for (w, warp) in warps.iter().enumerate() {
                    for (i, &r) in list.iter().enumerate() {
                        let row = warp.regs.get32(consts, r);
                        for (l, v) in row.iter().enumerate() {
                            let at =
                                (16 * w + l / 4 + 8 * (i % 2)) * 32 + 4 * (l % 4) + 16 * (i / 2);
                            s.a_codes[at..at + 4].copy_from_slice(&v.to_le_bytes());
                        }
                    }
                }
            }
        }
        gather(cta, m.desc_b, inst.trans_b, &mut s.b_codes)?;
        s.a.load(inst.a_type, &s.a_codes, 64, inst.negate_a);
        s.b.load(inst.b_type, &s.b_codes, n, inst.negate_b);
        self.stats.wgmma += 1;
        self.stats.wgmma_macs += (64 * n * inst.a_type.k()) as u64;
        if inst.half_acc {
            half_product(s, warps, inst, m.scale_d);
            return Ok(());
        }
        s.c.resize(64 * n, 0.0);
        // Groups of eight rows of zeros need no product: a decode step has one
        // row of 64. Their accumulators are only truncated.
        let zero = |w: usize, half: usize| {
            let first = 16 * w + 8 * half;
            !s.b.any_special() && s.a.all_zero(first, first + 8)
        };
        let precision = inst.a_type.precision();
        let mut skip = 0u64;
        for (w, warp) in warps.iter_mut().enumerate() {
            let skipped = [zero(w, 0), zero(w, 1)];
            skip |= (u64::from(skipped[0]) * 0xff) << (16 * w)
                | (u64::from(skipped[1]) * 0xff00) << (16 * w);
            for (r, &d) in inst.d.iter().enumerate() {
                let row = &mut warp.regs.r32[usize::from(d)];
                if !m.scale_d {
                    *row = [0; 32];
                }
                if skipped[r / 2 % 2] {
                    *row = row.map(|v| truncate(v, precision));
                } else {
                    let at = place(n, w, r);
                    for (q, quad) in row.chunks_exact(4).enumerate() {
                        for (l, &v) in quad.iter().enumerate() {
                            s.c[at + q * n + 2 * l] = f32::from_bits(v);
                        }
                    }
                }
            }
        }
        mma(precision, &s.a, &mut s.b, &mut s.c, skip);
        for (w, warp) in warps.iter_mut().enumerate() {
            for (r, &d) in inst.d.iter().enumerate() {
                let at = place(n, w, r);
                if skip >> (at / n) & 1 != 0 {
                    continue;
                }
                let row = &mut warp.regs.r32[usize::from(d)];
                for (q, quad) in row.chunks_exact_mut(4).enumerate() {
                    for (l, v) in quad.iter_mut().enumerate() {
                        *v = s.c[at + q * n + 2 * l].to_bits();
                    }
                }
            }
        }
        Ok(())
    }
}

/// The product of the loaded operands into FP16 accumulators.
fn half_product(s: &mut Scratch, warps: &mut [Warp], inst: &Wgmma, scale_d: bool) {
    let n = usize::from(inst.n);
    s.half.resize(64 * n, 0);
    for (w, warp) in warps.iter().enumerate() {
        for (r, &d) in inst.d.iter().enumerate() {
            for (l, &v) in warp.regs.r32[usize::from(d)].iter().enumerate() {
                let at = place(n, w, 2 * r) + l / 4 * n + 2 * (l % 4);
                let v = if scale_d { v } else { 0 };
                (s.half[at], s.half[at + 1]) = (v as u16, (v >> 16) as u16);
            }
        }
    }
    mma_half(inst.a_type.precision(), &s.a, &s.b, &mut s.half);
    for (w, warp) in warps.iter_mut().enumerate() {
        for (r, &d) in inst.d.iter().enumerate() {
            for (l, v) in warp.regs.r32[usize::from(d)].iter_mut().enumerate() {
                let at = place(n, w, 2 * r) + l / 4 * n + 2 * (l % 4);
                *v = u32::from(s.half[at]) | u32::from(s.half[at + 1]) << 16;
            }
        }
    }
}

/// Index in the row-major accumulator tile of register r of lane 0 of warp w;
/// lane l lies l / 4 rows and 2 (l % 4) columns further.
#[inline(always)]
fn place(n: usize, w: usize, r: usize) -> usize {
    (16 * w + 8 * (r / 2 % 2)) * n + 8 * (r / 4) + r % 2
}

struct Descriptor {
    word: u64,
    start: u32,
    leading: u32,
    stride: u32,
    swizzle: Swizzle,
}

impl Descriptor {
    fn parse(word: u64) -> Exec<Descriptor> {
        let field = |at: u32| ((word >> at & 0x3fff) << 4) as u32;
        let swizzle = match word >> 62 {
            0 => Swizzle::None,
            1 => Swizzle::B128,
            2 => Swizzle::B64,
            _ => Swizzle::B32,
        };
        let d = Descriptor {
            word,
            start: field(0),
            leading: field(16),
            stride: field(32),
            swizzle,
        };
        if word >> 49 & 7 != 0 {
            return Err(d.fault(
                "a base offset other than 0 is not supported: align the tile to its swizzle atom",
            ));
        }
        Ok(d)
    }

    fn fault(&self, message: impl Into<String>) -> Box<crate::error::Trouble> {
        trouble(
            None,
            FaultKind::Descriptor {
                descriptor: self.word,
                message: message.into(),
            },
        )
    }

    /// The 16 bytes at an address before swizzling.
    #[inline(always)]
    fn unit<'a>(&self, shared: &'a [u8], address: u32) -> Exec<&'a [u8]> {
        let at = self.swizzle.apply(address) as usize;
        if at < SHARED_START as usize {
            return Err(self.fault(format!(
                "it reaches shared address {at:#x}, below the block's memory"
            )));
        }
        shared.get(at..at + 16).ok_or_else(|| {
            self.fault(format!(
                "it reaches shared address {at:#x}; the block has {:#x} bytes",
                shared.len()
            ))
        })
    }
}

/// The shared-memory units of 16 bytes that a product reads, for the checkers.
fn operand_units(inst: &Wgmma, m: &PendingMma, f: &mut dyn FnMut(u32)) {
    let mut operand = |word: u64, mn_major: bool, rows: u32| {
        // A descriptor that cannot be read faults in the product.
        let Ok(d) = Descriptor::parse(word) else {
            return;
        };
        let span = d.swizzle.span() as u32;
        let plain = d.swizzle == Swizzle::None;
        let mut unit = |offset: u32| f(d.swizzle.apply(d.start.wrapping_add(offset)));
        if !mn_major {
            for row in 0..rows {
                let at = row / 8 * d.stride + row % 8 * span;
                unit(at);
                unit(at.wrapping_add(if plain { d.leading } else { 16 }));
            }
            return;
        }
        let units = span / 16;
        for u in 0..rows / 8 {
            for k in 0..16u32 {
                unit(if plain {
                    u * d.stride + k % 8 * 16 + k / 8 * d.leading
                } else {
                    u % units * 16 + u / units * d.leading + k % 8 * span + k / 8 * d.stride
                });
            }
        }
    };
    if matches!(inst.a, MatrixA::Descriptor(_)) {
        operand(m.desc_a, inst.trans_a, 64);
    }
    operand(m.desc_b, inst.trans_b, inst.n.into());
}

/// Collects the operand as `[rows][32 bytes of K]`.
fn gather(cta: &Cta, word: u64, mn_major: bool, out: &mut [u8]) -> Exec<()> {
    let d = Descriptor::parse(word)?;
    let shared = cta.shared_bytes();
    let span = d.swizzle.span() as u32;
    let plain = d.swizzle == Swizzle::None;
    if !mn_major {
        for (row, bytes) in out.chunks_exact_mut(32).enumerate() {
            let row = row as u32;
            let start = d
                .start
                .wrapping_add(row / 8 * d.stride)
                .wrapping_add(row % 8 * span);
            let second = start.wrapping_add(if plain { d.leading } else { 16 });
            bytes[..16].copy_from_slice(d.unit(shared, start)?);
            bytes[16..].copy_from_slice(d.unit(shared, second)?);
        }
        return Ok(());
    }
    // Eight elements along M or N at one k; 16-bit elements, so 16 of K.
    let units = span / 16;
    for u in 0..(out.len() / 32 / 8) as u32 {
        for k in 0..16u32 {
            let offset = if plain {
                u * d.stride + k % 8 * 16 + k / 8 * d.leading
            } else {
                u % units * 16 + u / units * d.leading + k % 8 * span + k / 8 * d.stride
            };
            let bytes = d.unit(shared, d.start.wrapping_add(offset))?;
            for (e, x) in bytes.chunks_exact(2).enumerate() {
                let at = (8 * u as usize + e) * 32 + 2 * k as usize;
                out[at..at + 2].copy_from_slice(x);
            }
        }
    }
    Ok(())
}
