//! What a thread computes: operands, conditions, constants, types, rounding, control flow.

use mcc_ptx::{Imm, Inst, Mod, Op, Operand, SpecialReg, Stmt, Type};

use super::values as kind;
use super::{
    Change, Code, Edit, Kind, displaced, drops, instead, instead_as, int, negated, plain, swapped,
    touches_memory, with_operand, writes,
};

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        kind(
            "swap-operands",
            "the two operands of a subtraction, division, shift or comparison exchanged",
            |c| {
                let ordered = |i: &Inst| {
                    matches!(
                        i.op,
                        Op::Sub | Op::Div | Op::Rem | Op::Shl | Op::Shr | Op::Setp
                    )
                };
                let sites = c
                    .insts()
                    .filter(|(_, i)| ordered(i) && i.operands.len() > 2);
                sites
                    .filter(|(_, i)| i.operands[1] != i.operands[2])
                    .filter(|(_, i)| !(i.op == Op::Setp && (i.has(Mod::Eq) || i.has(Mod::Ne))))
                    .map(|(at, i)| {
                        let mut inst = i.clone();
                        inst.operands.swap(1, 2);
                        instead(at, inst)
                    })
                    .collect()
            },
        ),
        kind(
            "next-condition",
            "a comparison that takes or leaves equality: < for <=, = for !=",
            |c| {
                conditions(
                    c,
                    &[
                        (Mod::Lt, Mod::Le),
                        (Mod::Gt, Mod::Ge),
                        (Mod::Eq, Mod::Ne),
                        (Mod::Ltu, Mod::Leu),
                        (Mod::Gtu, Mod::Geu),
                    ],
                )
            },
        ),
        kind(
            "other-condition",
            "a comparison the other way round: < for >",
            |c| {
                conditions(
                    c,
                    &[
                        (Mod::Lt, Mod::Gt),
                        (Mod::Le, Mod::Ge),
                        (Mod::Ltu, Mod::Gtu),
                        (Mod::Leu, Mod::Geu),
                    ],
                )
            },
        ),
        kind("next-constant", "a constant one more or less", |c| {
            let mut out = Vec::new();
            for (at, inst) in c
                .insts()
                .filter(|(_, i)| arithmetic(i) || i.op == Op::Setp || i.op == Op::Selp)
            {
                for (n, operand) in inst.operands.iter().enumerate().skip(1) {
                    if let Operand::Imm(Imm::Int(k)) = operand {
                        for by in [1, -1] {
                            let new = with_operand(inst, n, int(k.wrapping_add(by)));
                            out.push(instead_as(at, new, format!("{by:+}")));
                        }
                    }
                }
            }
            out
        }),
        kind(
            "wrong-stage",
            "a constant distance in shared memory, 1 KiB or more, half or double",
            |c| {
                let mut out = Vec::new();
                let steps = |i: &Inst| {
                    matches!(i.op, Op::Add | Op::Mul | Op::Mad)
                        && i.ty(0).is_some_and(|t| !t.is_float())
                };
                for (at, inst) in c.insts().filter(|(_, i)| steps(i)) {
                    for (n, operand) in inst.operands.iter().enumerate().skip(1) {
                        if let Operand::Imm(Imm::Int(k @ 1024..=262_144)) = operand {
                            for (k, note) in [(k / 2, "half"), (k * 2, "double")] {
                                out.push(instead_as(at, with_operand(inst, n, int(k)), note));
                            }
                        }
                    }
                }
                out
            },
        ),
        kind(
            "wrong-float",
            "a floating-point constant with another sign, or twice as large",
            |c| {
                let mut out = Vec::new();
                for (at, inst) in c.insts() {
                    for (n, operand) in inst.operands.iter().enumerate() {
                        if let Operand::Imm(Imm::F32(bits)) = operand {
                            for bits in [bits ^ 1 << 31, bits.wrapping_add(1 << 23)] {
                                let note = format!("0f{bits:08x}");
                                out.push(instead_as(
                                    at,
                                    with_operand(inst, n, Operand::Imm(Imm::F32(bits))),
                                    note,
                                ));
                            }
                        }
                    }
                }
                out
            },
        ),
        kind(
            "next-element",
            "an access one element further or before",
            |c| {
                let access = |i: &Inst| matches!(i.op, Op::Ld | Op::St | Op::Atom | Op::Red);
                let mut out = Vec::new();
                for (at, inst) in c.insts().filter(|(_, i)| access(i) && touches_memory(i)) {
                    let step = inst.ty(0).map_or(4, Type::bytes) as i64 * inst.vector_len() as i64;
                    for by in [step, -step] {
                        out.extend(
                            displaced(inst, 0, by)
                                .map(|i| instead_as(at, i, format!("{by:+} bytes"))),
                        );
                    }
                }
                out
            },
        ),
        kind("negate-guard", "a guard turned round", |c| {
            c.insts()
                .filter_map(|(at, i)| {
                    let guard = Some(negated(i.guard?));
                    Some(instead(at, Inst { guard, ..i.clone() }))
                })
                .collect()
        }),
        kind("drop-guard", "a guard left out", |c| {
            c.insts()
                .filter(|(_, i)| i.guard.is_some())
                .map(|(at, i)| {
                    instead(
                        at,
                        Inst {
                            guard: None,
                            ..i.clone()
                        },
                    )
                })
                .collect()
        }),
        kind("drop-branch", "a conditional branch left out", |c| {
            drops(c, |i| i.op == Op::Bra && i.guard.is_some())
        }),
        kind("drop-store", "a store left out", |c| {
            drops(c, |i| i.op == Op::St)
        }),
        kind("narrow-type", "an access of half the width", |c| {
            let mut out = Vec::new();
            for (at, inst) in c.insts().filter(|(_, i)| matches!(i.op, Op::Ld | Op::St)) {
                for (from, to) in [
                    (Type::B64, Type::B32),
                    (Type::B32, Type::B16),
                    (Type::B16, Type::B8),
                ] {
                    let whole = inst.operands.iter().any(|o| matches!(o, Operand::Imm(_)));
                    if inst.has(Mod::Ty(from)) && !whole {
                        out.push(instead(at, swapped(inst, Mod::Ty(from), Mod::Ty(to))));
                    }
                }
            }
            out
        }),
        kind(
            "swap-signedness",
            "signed for unsigned and the other way round",
            |c| {
                let wide = |i: &Inst| {
                    matches!(
                        i.op,
                        Op::Shr | Op::Min | Op::Max | Op::Div | Op::Rem | Op::Setp | Op::Cvt
                    ) || (matches!(i.op, Op::Mul | Op::Mad) && (i.has(Mod::Wide) || i.has(Mod::Hi)))
                };
                let pairs = [
                    (Type::S32, Type::U32),
                    (Type::U32, Type::S32),
                    (Type::S64, Type::U64),
                ];
                types(c, wide, &pairs)
            },
        ),
        kind(
            "swap-add-sub",
            "addition for subtraction and the other way round",
            |c| other_ops(c, &[(Op::Add, Op::Sub), (Op::Sub, Op::Add)], |_| true),
        ),
        kind(
            "swap-mul-add",
            "addition for a floating-point product",
            |c| {
                other_ops(c, &[(Op::Mul, Op::Add)], |i| {
                    i.ty(0).is_some_and(Type::is_float)
                })
            },
        ),
        kind(
            "swap-min-max",
            "minimum for maximum and the other way round",
            |c| other_ops(c, &[(Op::Min, Op::Max), (Op::Max, Op::Min)], |_| true),
        ),
        kind("swap-logic", "and, or and xor exchanged", |c| {
            other_ops(
                c,
                &[(Op::And, Op::Or), (Op::Or, Op::And), (Op::Xor, Op::Or)],
                |_| true,
            )
        }),
        kind("swap-shift", "a shift the other way", |c| {
            c.insts()
                .filter(|(_, i)| matches!(i.op, Op::Shl | Op::Shr))
                .filter_map(|(at, i)| {
                    let to = if i.op == Op::Shl { Op::Shr } else { Op::Shl };
                    let bits = if i.ty(0)?.bits() == 64 {
                        Type::B64
                    } else {
                        Type::B32
                    };
                    let mut inst = Inst {
                        op: to,
                        ..i.clone()
                    };
                    inst.mods = vec![Mod::Ty(bits)];
                    (i.ty(0)?.bits() >= 32).then(|| instead(at, inst))
                })
                .collect()
        }),
        kind(
            "drop-addend",
            "a fused multiply-add without its addend",
            |c| {
                c.insts()
                    .filter(|(_, i)| matches!(i.op, Op::Fma | Op::Mad) && i.operands.len() == 4)
                    .filter_map(|(at, i)| {
                        let zero = match i.ty(0)? {
                            Type::F32 => Operand::Imm(Imm::F32(0)),
                            t if t.is_float() => return None,
                            _ => int(0),
                        };
                        (i.operands[3] != zero).then(|| instead(at, with_operand(i, 3, zero)))
                    })
                    .collect()
            },
        ),
        kind("wrong-rounding", "another rounding mode", |c| {
            let mut out = Vec::new();
            for (at, inst) in c.insts() {
                for (from, to) in [
                    (Mod::Rn, Mod::Rz),
                    (Mod::Rz, Mod::Rp),
                    (Mod::Rni, Mod::Rzi),
                    (Mod::Rzi, Mod::Rni),
                ] {
                    let new = swapped(inst, from, to);
                    if inst.has(from) && new.form().is_some() {
                        out.push(instead(at, new));
                    }
                }
            }
            out
        }),
        kind(
            "wrong-function",
            "another approximate function, or a sign lost",
            |c| {
                other_ops(
                    c,
                    &[
                        (Op::Ex2, Op::Lg2),
                        (Op::Lg2, Op::Ex2),
                        (Op::Rsqrt, Op::Sqrt),
                        (Op::Sqrt, Op::Rcp),
                        (Op::Rcp, Op::Sqrt),
                        (Op::Abs, Op::Neg),
                        (Op::Neg, Op::Abs),
                        (Op::Sin, Op::Cos),
                        (Op::Cos, Op::Sin),
                    ],
                    |_| true,
                )
            },
        ),
        kind(
            "swap-selection",
            "the two values of a selection exchanged",
            |c| {
                c.of(Op::Selp)
                    .filter(|(_, i)| i.operands[1] != i.operands[2])
                    .map(|(at, i)| {
                        let mut inst = i.clone();
                        inst.operands.swap(1, 2);
                        instead(at, inst)
                    })
                    .collect()
            },
        ),
        kind("wrong-lane", "a shuffle from another lane", |c| {
            c.of(Op::Shfl)
                .filter_map(|(at, i)| {
                    let lane = super::known(c, &i.operands[2])?;
                    let to = if lane == 1 { 2 } else { lane / 2 };
                    Some(instead_as(
                        at,
                        with_operand(i, 2, int(to)),
                        format!("{lane} to {to}"),
                    ))
                })
                .collect()
        }),
        kind("wrong-shuffle", "another way of shuffling", |c| {
            let mut out = Vec::new();
            for (at, inst) in c.of(Op::Shfl) {
                for (from, to) in [
                    (Mod::Bfly, Mod::Down),
                    (Mod::Up, Mod::Bfly),
                    (Mod::Down, Mod::Bfly),
                    (Mod::Idx, Mod::Bfly),
                ] {
                    if inst.has(from) {
                        out.push(instead(at, swapped(inst, from, to)));
                    }
                }
            }
            out
        }),
        kind(
            "wrong-vote",
            "any for all, the votes of the other side",
            |c| {
                let mut out = Vec::new();
                for (at, inst) in c.of(Op::Vote) {
                    for (from, to) in [(Mod::All, Mod::Any), (Mod::Any, Mod::All)] {
                        if inst.has(from) {
                            out.push(instead(at, swapped(inst, from, to)));
                        }
                    }
                    if inst.has(Mod::Ballot) {
                        let turned = match &inst.operands[1] {
                            Operand::Reg(p) => Operand::Not(*p),
                            Operand::Not(p) => Operand::Reg(*p),
                            _ => continue,
                        };
                        out.push(instead(at, with_operand(inst, 1, turned)));
                    }
                }
                out
            },
        ),
        kind(
            "wrong-special",
            "another special register: .y for .x, %ctaid for %tid",
            |c| {
                let mut out = Vec::new();
                for (at, inst) in c.insts().filter(|(_, i)| i.op == Op::Mov) {
                    if let Operand::Special(register) = &inst.operands[1] {
                        let to = other_special(*register);
                        out.extend(
                            to.map(|to| instead(at, with_operand(inst, 1, Operand::Special(to)))),
                        );
                    }
                }
                out
            },
        ),
        kind(
            "wrong-parameter",
            "another parameter of the same size",
            |c| {
                let mut params: Vec<(usize, &Inst)> = c
                    .of(Op::Ld)
                    .filter(|(_, i)| {
                        i.mods
                            .iter()
                            .any(|m| matches!(m, Mod::Space(s) if s.is_param()))
                    })
                    .collect();
                params.dedup_by(|a, b| a.1.operands[1] == b.1.operands[1]);
                let mut out = Vec::new();
                for &(at, inst) in &params {
                    let size = inst.ty(0).map(Type::bits);
                    let other = params.iter().find(|(_, o)| {
                        o.ty(0).map(Type::bits) == size && o.operands[1] != inst.operands[1]
                    });
                    out.extend(
                        other.map(|(_, o)| {
                            instead(at, with_operand(inst, 1, o.operands[1].clone()))
                        }),
                    );
                }
                out
            },
        ),
        kind(
            "stale-register",
            "an instruction left out that updates a register in place",
            |c| {
                drops(c, |i| {
                    writes(i) && arithmetic(i) && i.operands[1..].contains(&i.operands[0])
                })
            },
        ),
        kind(
            "drop-saturation",
            "`.sat`, `.satfinite` or `.ftz` left out",
            |c| {
                let mut out = Vec::new();
                for (at, inst) in c.insts() {
                    for word in [Mod::Sat, Mod::Satfinite, Mod::Ftz] {
                        let mut new = inst.clone();
                        new.mods.retain(|m| *m != word);
                        if inst.has(word) && new.form().is_some() {
                            out.push(instead(at, new));
                        }
                    }
                }
                out
            },
        ),
        kind("skip-loop", "a loop that is left after one turn", |c| {
            let place = |label| {
                c.body
                    .stmts
                    .iter()
                    .position(|s| matches!(s, Stmt::Label(l) if *l == label))
            };
            let sites = c.of(Op::Bra);
            sites
                .filter(|(at, i)| {
                    let Some(Operand::Label(label)) = i.operands.first() else {
                        return false;
                    };
                    i.guard.is_some() && place(*label).is_some_and(|to| to < *at)
                })
                .map(|(at, i)| {
                    // Never taken: the predicate of a comparison that is always false.
                    let fresh = c.fresh(0);
                    let no = plain(
                        Op::Setp,
                        &[Mod::Ne, Mod::Ty(Type::B32)],
                        vec![Operand::Reg(fresh), int(0), int(0)],
                    );
                    let guard = Some(mcc_ptx::Guard {
                        reg: fresh,
                        negated: false,
                    });
                    let mut edit = Edit::at(at);
                    edit.fresh.push(Type::Pred);
                    let branch = Inst { guard, ..i.clone() };
                    Change::Text(edit.with(at, vec![Stmt::Inst(no), Stmt::Inst(branch)]))
                })
                .collect()
        }),
    ]
}

fn arithmetic(inst: &Inst) -> bool {
    matches!(
        inst.op,
        Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Mad
            | Op::Div
            | Op::Rem
            | Op::Shl
            | Op::Shr
            | Op::And
            | Op::Or
            | Op::Xor
            | Op::Min
            | Op::Max
            | Op::Bfe
            | Op::Bfi
            | Op::Mov
            | Op::Fma
            | Op::Shf
            | Op::Popc
    )
}

fn conditions(c: &Code<'_>, pairs: &[(Mod, Mod)]) -> Vec<Change> {
    let mut out = Vec::new();
    for (at, inst) in c.of(Op::Setp) {
        for &(a, b) in pairs {
            for (from, to) in [(a, b), (b, a)] {
                if inst.has(from) {
                    out.push(instead_as(
                        at,
                        swapped(inst, from, to),
                        format!(".{from} to .{to}"),
                    ));
                }
            }
        }
    }
    out
}

fn types(c: &Code<'_>, which: fn(&Inst) -> bool, pairs: &[(Type, Type)]) -> Vec<Change> {
    let mut out = Vec::new();
    for (at, inst) in c.insts().filter(|(_, i)| which(i)) {
        for &(from, to) in pairs {
            // Of a conversion, what it converts.
            let place = inst.mods.iter().rposition(|m| *m == Mod::Ty(from));
            if let Some(place) = place {
                let mut new = inst.clone();
                new.mods[place] = Mod::Ty(to);
                if new.form().is_some() {
                    out.push(instead(at, new));
                }
            }
        }
    }
    out
}

fn other_ops(c: &Code<'_>, pairs: &[(Op, Op)], which: fn(&Inst) -> bool) -> Vec<Change> {
    let mut out = Vec::new();
    for (at, inst) in c.insts().filter(|(_, i)| which(i)) {
        for &(from, to) in pairs {
            if inst.op == from {
                let mut new = Inst {
                    op: to,
                    ..inst.clone()
                };
                if new.form().is_none() && to == Op::Rcp {
                    continue;
                }
                if from == Op::Mul {
                    new.mods.retain(|m| !matches!(m, Mod::Lo | Mod::Hi));
                }
                if new.form().is_some() {
                    out.push(instead(at, new));
                }
            }
        }
    }
    out
}

/// A register that is easily mistaken for this one.
fn other_special(register: SpecialReg) -> Option<SpecialReg> {
    Some(match register {
        SpecialReg::TidX => SpecialReg::CtaidX,
        SpecialReg::CtaidX => SpecialReg::CtaidY,
        SpecialReg::CtaidY => SpecialReg::CtaidX,
        SpecialReg::NctaidX => SpecialReg::NtidX,
        SpecialReg::NtidX => SpecialReg::NctaidX,
        SpecialReg::LaneId => SpecialReg::TidX,
        _ => return None,
    })
}
