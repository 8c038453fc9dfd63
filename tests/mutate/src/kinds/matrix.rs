//! What the tensor core is told: matrix descriptors, operands, signs, whether to add.
//!
//! PTX ISA 9.7.15 "asynchronous warpgroup-level matrix instructions", matrix descriptor format: start address in
//! bits 0 to 13, leading byte offset in 16 to 29, stride byte offset in 32 to 45, base offset in 49 to 51, swizzle
//! in 62 and 63; all addresses in units of 16 bytes.

use mcc_ptx::{Inst, Mod, Op, Operand, Stmt, Type};

use super::engines as kind;
use super::{
    Change, Code, Edit, Kind, drops, instead, instead_as, int, plain, swapped, with_operand,
};

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        kind(
            "drop-mma",
            "a `wgmma.mma_async` or `mma.sync` left out",
            |c| drops(c, is_mma),
        ),
        kind(
            "descriptor-swizzle",
            "another swizzle in a matrix descriptor",
            |c| descriptors(c, &[(1 << 62, "")]),
        ),
        kind(
            "descriptor-stride",
            "another stride byte offset in a matrix descriptor",
            |c| descriptors(c, &[(1 << 32, "one unit"), (1 << 38, "half or double")]),
        ),
        kind(
            "descriptor-leading",
            "another leading byte offset in a matrix descriptor",
            |c| descriptors(c, &[(1 << 16, "one unit")]),
        ),
        kind(
            "descriptor-start",
            "a matrix descriptor that begins 32 or 1024 bytes further",
            |c| descriptors(c, &[(2, "32 bytes"), (64, "1024 bytes")]),
        ),
        kind(
            "swap-descriptors",
            "the descriptors of A and B exchanged",
            |c| {
                wgmma(c)
                    .filter(|(_, i)| matches!(i.operands[1], Operand::Reg(_)))
                    .map(|(at, i)| {
                        let mut inst = i.clone();
                        inst.operands.swap(1, 2);
                        instead(at, inst)
                    })
                    .collect()
            },
        ),
        kind(
            "same-step",
            "a product that takes the previous one's slice of A",
            |c| {
                let mut last: Option<&Operand> = None;
                let mut out = Vec::new();
                for (at, inst) in wgmma(c) {
                    let a = &inst.operands[1];
                    if let Some(before) =
                        last.filter(|before| *before != a && matches!(before, Operand::Reg(_)))
                    {
                        out.push(instead(at, with_operand(inst, 1, before.clone())));
                    }
                    last = Some(a);
                }
                out
            },
        ),
        kind(
            "flip-scale-d",
            "a product that adds where it should begin, or begins where it should add",
            |c| {
                wgmma(c)
                    .filter_map(|(at, i)| {
                        let Operand::Reg(p) = i.operands[3] else {
                            return None;
                        };
                        let fresh = Operand::Reg(c.fresh(0));
                        let not = plain(
                            Op::Not,
                            &[Mod::Ty(Type::Pred)],
                            vec![fresh.clone(), Operand::Reg(p)],
                        );
                        let mut edit = Edit::at(at);
                        edit.fresh.push(Type::Pred);
                        let new = with_operand(i, 3, fresh);
                        Some(Change::Text(
                            edit.with(at, vec![Stmt::Inst(not), Stmt::Inst(new)]),
                        ))
                    })
                    .collect()
            },
        ),
        kind("negate-factor", "a factor of a product negated", |c| {
            let mut out = Vec::new();
            for (at, inst) in wgmma(c) {
                for n in [4, 5] {
                    if inst.operands.get(n) == Some(&int(1)) {
                        let note = if n == 4 { "A" } else { "B" };
                        out.push(instead_as(at, with_operand(inst, n, int(-1)), note));
                    }
                }
            }
            out
        }),
        kind(
            "transpose-factor",
            "a factor of a product taken transposed",
            |c| {
                let mut out = Vec::new();
                for (at, inst) in wgmma(c) {
                    for n in 6..inst.operands.len() {
                        let flag = super::known(c, &inst.operands[n]).unwrap_or(0);
                        out.push(instead(at, with_operand(inst, n, int(1 - flag))));
                    }
                }
                out
            },
        ),
        kind("wrong-factor-type", "E5M2 for E4M3, FP16 for BF16", |c| {
            let mut out = Vec::new();
            for (at, inst) in c.insts().filter(|(_, i)| is_mma(i)) {
                for (from, to) in [(Type::E4m3, Type::E5m2), (Type::Bf16, Type::F16)] {
                    if inst.has(Mod::Ty(from)) {
                        out.push(instead(at, swapped(inst, Mod::Ty(from), Mod::Ty(to))));
                    }
                }
            }
            out
        }),
        kind(
            "swap-accumulators",
            "two accumulators of a product exchanged",
            |c| {
                wgmma(c)
                    .filter_map(|(at, i)| {
                        let mut inst = i.clone();
                        let Operand::Vector(list) = &mut inst.operands[0] else {
                            return None;
                        };
                        (list.len() > 1).then(|| list.swap(0, 1));
                        Some(instead(at, inst))
                    })
                    .collect()
            },
        ),
    ]
}

fn is_mma(inst: &Inst) -> bool {
    matches!(inst.op, Op::WgmmaMmaAsync | Op::Mma)
}

fn wgmma<'a>(c: &Code<'a>) -> impl Iterator<Item = (usize, &'a Inst)> + use<'a> {
    c.of(Op::WgmmaMmaAsync)
}

/// Both descriptors of every product, with bits turned.
fn descriptors(c: &Code<'_>, bits: &[(i64, &str)]) -> Vec<Change> {
    let mut out = Vec::new();
    for (at, inst) in wgmma(c) {
        for (n, name) in [(1, "A"), (2, "B")] {
            if !matches!(inst.operands[n], Operand::Reg(_)) {
                continue;
            }
            for &(bits, note) in bits {
                let fresh = Operand::Reg(c.fresh(0));
                let xor = plain(
                    Op::Xor,
                    &[Mod::Ty(Type::B64)],
                    vec![fresh.clone(), inst.operands[n].clone(), int(bits)],
                );
                let mut edit = Edit::at(at).note(format!("{name} {note}").trim_end());
                edit.fresh.push(Type::B64);
                let new = with_operand(inst, n, fresh);
                out.push(Change::Text(
                    edit.with(at, vec![Stmt::Inst(xor), Stmt::Inst(new)]),
                ));
            }
        }
    }
    out
}
