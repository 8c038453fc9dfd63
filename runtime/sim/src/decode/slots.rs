//! Which row of the register file each PTX register gets.
//!
//! In: a function body. Out: a slot for every register. PTX from a compiler
//! has thousands of virtual registers; rows of registers that are not live at
//! the same time are shared, so that a warp's file stays in the first-level
//! cache. Live ranges are intervals of the instruction order, found by the
//! usual backward iteration over basic blocks and assigned by linear scan
//! (Poletto and Sarkar, 1999).
//!
//! Operands of `wgmma` keep a row of their own: the hardware reads and writes
//! them until the group is waited for, which the order of instructions does not
//! show. A register written under a guard stays live across the write.

use std::collections::HashSet;

use mcc_ptx::{Body, Inst, Mod, Op, Operand, Reg, Stmt, Type};

use crate::isa::{P, P_FIRST, R};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    R32(R),
    R64(R),
    P(P),
    /// Wider than 64 bits: using it is an error.
    None,
}

/// First free rows of each kind, moved past what is assigned.
#[derive(Debug, Clone, Copy)]
pub struct Files {
    pub r32: u32,
    pub r64: u32,
    pub preds: u32,
}

impl Default for Files {
    fn default() -> Files {
        // Row 0 takes what nobody reads.
        Files {
            r32: 1,
            r64: 1,
            preds: u32::from(P_FIRST),
        }
    }
}

/// Calls `f(register, written)` for every register of an instruction.
pub(super) fn visit(inst: &Inst, f: &mut impl FnMut(Reg, bool)) {
    if let Some(g) = inst.guard {
        f(g.reg, false);
    }
    let reduces = inst.has(Mod::Red);
    let no_result = match inst.op {
        Op::Bar | Op::Barrier => !reduces,
        Op::BarWarpSync | Op::Nanosleep | Op::Stackrestore | Op::BrxIdx => true,
        _ => false,
    };
    for (i, operand) in inst.operands.iter().enumerate() {
        // Addresses are read wherever they stand.
        let written = i == 0
            && !no_result
            && matches!(
                operand,
                Operand::Reg(_) | Operand::Vector(_) | Operand::Pair(..) | Operand::Args(_)
            );
        registers(operand, &mut |r| f(r, written));
    }
}

pub(super) fn registers(operand: &Operand, f: &mut impl FnMut(Reg)) {
    use mcc_ptx::{Address, Base};
    let mut address = |a: &Address| {
        if let Base::Reg(r) = a.base {
            f(r);
        }
    };
    match operand {
        Operand::Reg(r) | Operand::Not(r) => f(*r),
        Operand::Mem(a) => address(a),
        Operand::Tensor { map, coords } => {
            address(map);
            coords.iter().for_each(|c| registers(c, f));
        }
        Operand::Vector(list) | Operand::Args(list) => list.iter().for_each(|o| registers(o, f)),
        Operand::Pair(a, b) => {
            registers(a, f);
            registers(b, f);
        }
        _ => {}
    }
}

/// Accumulators and fragments of A of a body's `wgmma` instructions.
pub fn of_wgmma(body: &Body) -> HashSet<Reg> {
    let mut set = HashSet::new();
    for inst in body.insts().filter(|i| i.op == Op::WgmmaMmaAsync) {
        for o in inst.operands.iter().take(2) {
            registers(o, &mut |r| {
                set.insert(r);
            });
        }
    }
    set
}

#[derive(Default)]
struct Block {
    first: usize,
    last: usize,
    next: Vec<usize>,
    reads: Vec<u64>,
    writes: Vec<u64>,
    live_in: Vec<u64>,
    live_out: Vec<u64>,
}

/// Assigns the registers of a body, taking rows from `files` on.
///
/// The second result tells whether some path may read a register before any
/// write.
pub fn assign(body: &Body, files: &mut Files) -> (Vec<Slot>, bool) {
    let count = body.reg_count() as usize;
    let insts: Vec<&Inst> = body.insts().collect();
    let (ranges, reads_unwritten) = live_ranges(body, &insts, count);
    // Registers by the start of their range.
    let mut order: Vec<usize> = (0..count).filter(|&r| ranges[r].0 <= ranges[r].1).collect();
    order.sort_by_key(|&r| ranges[r].0);
    let mut slots = vec![Slot::None; count];
    let mut pools = [
        Pool::new(files.r32),
        Pool::new(files.r64),
        Pool::new(files.preds),
    ];
    let kind = |r: usize| match body.reg_type(Reg(r as u32)) {
        Some(Type::Pred) => Some(2),
        Some(t) if t.bits() <= 32 => Some(0),
        Some(t) if t.bits() == 64 => Some(1),
        _ => None,
    };
    for r in order {
        let Some(k) = kind(r) else { continue };
        let row = pools[k].take(ranges[r].0, ranges[r].1) as u16;
        slots[r] = [Slot::R32(row), Slot::R64(row), Slot::P(row)][k];
    }
    files.r32 = pools[0].next;
    files.r64 = pools[1].next;
    files.preds = pools[2].next;
    (slots, reads_unwritten)
}

struct Pool {
    next: u32,
    /// (end of the range, row) of rows in use.
    used: Vec<(usize, u32)>,
    free: Vec<u32>,
}

impl Pool {
    fn new(next: u32) -> Pool {
        Pool {
            next,
            used: Vec::new(),
            free: Vec::new(),
        }
    }

    fn take(&mut self, start: usize, end: usize) -> u32 {
        let free = &mut self.free;
        // A range that ends where this one starts still overlaps: one
        // instruction may become several, which read after they write.
        self.used.retain(|&(e, row)| {
            let keep = e >= start;
            if !keep {
                free.push(row);
            }
            keep
        });
        let row = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        self.used.push((end, row));
        row
    }
}

/// First and last position of every register; (1, 0) for unused ones.
fn live_ranges(body: &Body, insts: &[&Inst], count: usize) -> (Vec<(usize, usize)>, bool) {
    let mut ranges = vec![(usize::MAX, 0); count];
    let mut touch = |r: usize, at: usize| {
        let (a, b) = &mut ranges[r];
        *a = (*a).min(at);
        *b = (*b).max(at);
    };
    let mut blocks = blocks(body, insts, count.div_ceil(64));
    solve(&mut blocks);
    let reads_unwritten = blocks
        .first()
        .is_some_and(|b| bits(&b.live_in).next().is_some());
    for b in &blocks {
        for r in bits(&b.live_in) {
            touch(r, b.first);
        }
        for r in bits(&b.live_out) {
            touch(r, b.last);
        }
    }
    for (at, inst) in insts.iter().enumerate() {
        visit(inst, &mut |r, _| touch(r.index(), at));
        if inst.op == Op::WgmmaMmaAsync {
            let list = inst.operands.iter().take(2);
            list.for_each(|o| {
                registers(o, &mut |r| {
                    touch(r.index(), 0);
                    touch(r.index(), insts.len());
                })
            });
        }
    }
    let ranges = ranges
        .into_iter()
        .map(|r| if r.0 == usize::MAX { (1, 0) } else { r })
        .collect();
    (ranges, reads_unwritten)
}

fn blocks(body: &Body, insts: &[&Inst], words: usize) -> Vec<Block> {
    // The instruction that each label stands before.
    let mut label_at = vec![insts.len(); body.labels.len()];
    let mut at = 0;
    for s in &body.stmts {
        match s {
            Stmt::Label(l) => label_at[l.index()] = at,
            Stmt::Inst(_) => at += 1,
            _ => {}
        }
    }
    let targets = |inst: &Inst| -> Vec<usize> {
        let Some(Operand::Label(l)) = inst
            .operands
            .iter()
            .find(|o| matches!(o, Operand::Label(_)))
        else {
            return vec![];
        };
        match (inst.op, body.branch_targets(*l)) {
            (Op::BrxIdx, Some(table)) => table.iter().map(|t| label_at[t.index()]).collect(),
            (Op::Bra, _) => vec![label_at[l.index()]],
            _ => vec![],
        }
    };
    let jumps = |i: &Inst| matches!(i.op, Op::Bra | Op::BrxIdx | Op::Ret | Op::Exit | Op::Trap);
    let mut leader = vec![false; insts.len() + 1];
    leader[0] = true;
    for (i, inst) in insts.iter().enumerate() {
        if jumps(inst) {
            leader[i + 1] = true;
            targets(inst).into_iter().for_each(|t| leader[t] = true);
        }
    }
    let starts: Vec<usize> = (0..insts.len()).filter(|&i| leader[i]).collect();
    let index = |pc: usize| starts.binary_search(&pc).ok();
    let mut out = Vec::with_capacity(starts.len());
    for (b, &first) in starts.iter().enumerate() {
        let last = starts.get(b + 1).copied().unwrap_or(insts.len()) - 1;
        let end = insts[last];
        let mut next: Vec<usize> = targets(end).into_iter().filter_map(index).collect();
        if !jumps(end) || end.guard.is_some() {
            next.extend(index(last + 1));
        }
        let mut block = Block {
            first,
            last,
            next,
            reads: vec![0; words],
            writes: vec![0; words],
            live_in: vec![0; words],
            live_out: vec![0; words],
        };
        for inst in &insts[first..=last] {
            visit(inst, &mut |r, written| {
                let (w, bit) = (r.index() / 64, 1u64 << (r.index() % 64));
                // A guarded write keeps the old value in some lanes.
                if (!written || inst.guard.is_some()) && block.writes[w] & bit == 0 {
                    block.reads[w] |= bit;
                }
            });
            visit(inst, &mut |r, written| {
                if written && inst.guard.is_none() {
                    block.writes[r.index() / 64] |= 1 << (r.index() % 64);
                }
            });
        }
        out.push(block);
    }
    out
}

fn solve(blocks: &mut [Block]) {
    loop {
        let mut changed = false;
        for b in (0..blocks.len()).rev() {
            for n in 0..blocks[b].next.len() {
                let s = blocks[b].next[n];
                for w in 0..blocks[b].live_out.len() {
                    let add = blocks[s].live_in[w];
                    blocks[b].live_out[w] |= add;
                }
            }
            let block = &mut blocks[b];
            for w in 0..block.live_in.len() {
                let new = block.reads[w] | (block.live_out[w] & !block.writes[w]);
                changed |= new != block.live_in[w];
                block.live_in[w] = new;
            }
        }
        if !changed {
            return;
        }
    }
}

fn bits(set: &[u64]) -> impl Iterator<Item = usize> + '_ {
    set.iter().enumerate().flat_map(|(w, &word)| {
        (0..64)
            .filter(move |b| word >> b & 1 != 0)
            .map(move |b| 64 * w + b)
    })
}
