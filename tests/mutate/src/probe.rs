//! Questions about the original, asked in PTX.
//!
//! In: a kernel and a place in it. Out: kernels that answer by a trap or by a byte in memory whether the place is
//! reached, and whether an edit there ever computes anything else than the original does.
//! Holds: a probe changes nothing else that the kernel computes.

use mcc_ptx::{Address, Base, Guard, Inst, Mod, Op, Operand, Reg, Space, Stmt, Type};
use mcc_sim::{Completion, SimError};

use crate::kinds::{Code, Edit, edited, plain, writes};
use crate::subject::{Case, Setting, Subject};

/// Which statements a launch executes.
///
/// # Errors
/// What the simulator reports of the kernel.
pub fn reached(subject: &Subject, case: &Case) -> Result<Vec<bool>, SimError> {
    let count = subject.body().stmts.len();
    // Stores before `griddepcontrol.wait` are no fault of an ordinary launch.
    let mut case = case.clone();
    case.config.programmatic = false;
    let setting = Setting {
        completion: Completion::Early,
        check: false,
        limit: None,
        map: None,
    };
    let mut marks = 0;
    let (_, gpu) = case.run_with(&subject.kernel, &setting, |gpu| {
        marks = gpu.alloc(count as u64, 256)?;
        let mut edit = Edit::default();
        for (at, inst) in Code::new(subject).insts() {
            let mark = plain(
                Op::St,
                &[Mod::Space(Space::Global), Mod::Ty(Type::U8)],
                vec![
                    Operand::Mem(Address {
                        base: Base::Abs,
                        offset: marks as i64 + at as i64,
                    }),
                    Operand::Imm(mcc_ptx::Imm::Int(1)),
                ],
            );
            let mark = Inst {
                guard: inst.guard,
                ..mark
            };
            edit.replaced
                .push((at, vec![Stmt::Inst(mark), Stmt::Inst(inst.clone())]));
        }
        Ok(edited(subject, &edit))
    })?;
    let mut bytes = vec![0; count];
    gpu.read(marks, &mut bytes)?;
    Ok(bytes.into_iter().map(|b| b != 0).collect())
}

/// A kernel that traps where the edit would give a register another value, or do what the original does not. `None`
/// when that cannot be asked in a register.
#[must_use]
pub fn infection(subject: &Subject, edit: &Edit) -> Option<String> {
    let code = Code::new(subject);
    let [(at, new)] = edit.replaced.as_slice() else {
        return None;
    };
    let Stmt::Inst(old) = &code.body.stmts[*at] else {
        return None;
    };
    if matches!(
        old.op,
        Op::WgmmaMmaAsync | Op::Mma | Op::Elect | Op::Setmaxnreg
    ) || waits(old)
    {
        return None;
    }
    let mut out = Edit {
        fresh: edit.fresh.clone(),
        ..Edit::default()
    };
    let next = |out: &Edit, n: usize| Reg(code.body.reg_count() + (out.fresh.len() + n) as u32);
    let trap = |guard: Option<Guard>| {
        Stmt::Inst(Inst {
            guard,
            ..plain(Op::Trap, &[], Vec::new())
        })
    };
    let mut stmts = Vec::new();
    match new.split_last() {
        // Left out: what matters is whether it did anything.
        None if writes(old) => {
            let results = results(old)?;
            let mut tests = Vec::new();
            for &result in &results {
                let ty = bits(code.body.reg_type(result)?);
                let (kept, differs) = (next(&out, 0), next(&out, 1));
                out.fresh.extend([ty, Type::Pred]);
                stmts.push(Stmt::Inst(plain(
                    Op::Mov,
                    &[Mod::Ty(ty)],
                    vec![Operand::Reg(kept), Operand::Reg(result)],
                )));
                tests.push(compare(ty, differs, kept, result));
                tests.push(trap(Some(Guard {
                    reg: differs,
                    negated: false,
                })));
            }
            stmts.push(Stmt::Inst(old.clone()));
            stmts.extend(tests);
        }
        None => {
            stmts.push(trap(old.guard));
            stmts.push(Stmt::Inst(old.clone()));
        }
        Some((Stmt::Inst(last), before)) => {
            let strip = |inst: &Inst| Inst {
                guard: None,
                ..inst.clone()
            };
            if last.guard != old.guard {
                // Only the guard changed, or nothing is known.
                if strip(last) != strip(old) || !before.is_empty() {
                    return None;
                }
                let was = old.guard?;
                match last.guard {
                    None => stmts.push(trap(Some(Guard {
                        negated: !was.negated,
                        ..was
                    }))),
                    Some(_) => return None,
                }
                stmts.push(Stmt::Inst(old.clone()));
            } else {
                if !writes(old) || !writes(last) || old.operands[0] != last.operands[0] {
                    return None;
                }
                let results = results(old)?;
                let mut renamed = last.clone();
                let mut tests = Vec::new();
                for &result in &results {
                    let ty = code.body.reg_type(result)?;
                    let (other, differs) = (next(&out, 0), next(&out, 1));
                    out.fresh.extend([ty, Type::Pred]);
                    rename(&mut renamed.operands[0], result, other);
                    let kind = bits(ty);
                    // What a guarded instruction leaves alone is equal in both.
                    if old.guard.is_some() {
                        stmts.push(Stmt::Inst(plain(
                            Op::Mov,
                            &[Mod::Ty(kind)],
                            vec![Operand::Reg(other), Operand::Reg(result)],
                        )));
                    }
                    tests.push(compare(kind, differs, other, result));
                    tests.push(trap(Some(Guard {
                        reg: differs,
                        negated: false,
                    })));
                }
                stmts.extend(before.iter().cloned());
                stmts.push(Stmt::Inst(renamed));
                stmts.push(Stmt::Inst(old.clone()));
                stmts.extend(tests);
            }
        }
        Some(_) => return None,
    }
    out.replaced.push((*at, stmts));
    Some(edited(subject, &out))
}

/// A mutant that waits for another mbarrier or for none, and traps when it goes on before the phase has completed
/// that the original waits for.
#[must_use]
pub fn early(subject: &Subject, edit: &Edit) -> Option<String> {
    let code = Code::new(subject);
    let [(at, new)] = edit.replaced.as_slice() else {
        return None;
    };
    let Stmt::Inst(old) = &code.body.stmts[*at] else {
        return None;
    };
    let test = old.op == Op::MbarrierTryWait && old.has(Mod::Parity) && old.guard.is_none();
    let (Operand::Reg(done), true, true) = (&old.operands[0], test, edit.fresh.is_empty()) else {
        return None;
    };
    let ended = Reg(code.body.reg_count());
    let guard = |reg, negated| Some(Guard { reg, negated });
    let yes = plain(
        Op::Setp,
        &[Mod::Eq, Mod::Ty(Type::B32)],
        vec![
            Operand::Reg(ended),
            Operand::Imm(mcc_ptx::Imm::Int(0)),
            Operand::Imm(mcc_ptx::Imm::Int(0)),
        ],
    );
    let mut asked = old.clone();
    asked.op = Op::MbarrierTestWait;
    asked.operands.truncate(3);
    asked.operands[0] = Operand::Reg(ended);
    asked.guard = guard(*done, false);
    let trap = Inst {
        guard: guard(ended, true),
        ..plain(Op::Trap, &[], Vec::new())
    };
    let mut stmts = new.clone();
    stmts.extend([yes, asked, trap].map(Stmt::Inst));
    let mut out = Edit::default();
    out.fresh.push(Type::Pred);
    out.replaced.push((*at, stmts));
    Some(edited(subject, &out))
}

fn waits(inst: &Inst) -> bool {
    matches!(
        inst.op,
        Op::MbarrierTryWait | Op::MbarrierTestWait | Op::Atom | Op::Bar | Op::Barrier
    )
}

/// Registers that an instruction writes.
fn results(inst: &Inst) -> Option<Vec<Reg>> {
    let mut out = Vec::new();
    let mut push = |operand: &Operand| {
        if let Operand::Reg(r) = operand {
            out.push(*r);
        }
    };
    match inst.operands.first()? {
        Operand::Vector(list) => list.iter().for_each(push),
        Operand::Pair(a, b) => {
            push(a);
            push(b);
        }
        other => push(other),
    }
    (!out.is_empty()).then_some(out)
}

fn rename(operand: &mut Operand, from: Reg, to: Reg) {
    match operand {
        Operand::Reg(r) if *r == from => *r = to,
        Operand::Vector(list) => list.iter_mut().for_each(|o| rename(o, from, to)),
        Operand::Pair(a, b) => {
            rename(a, from, to);
            rename(b, from, to);
        }
        _ => {}
    }
}

/// The type that compares and copies all bits.
fn bits(ty: Type) -> Type {
    match ty.bits() {
        1 => Type::Pred,
        16 => Type::B16,
        64 => Type::B64,
        _ => Type::B32,
    }
}

fn compare(ty: Type, differs: Reg, a: Reg, b: Reg) -> Stmt {
    let (op, mods) = if ty == Type::Pred {
        (Op::Xor, vec![Mod::Ty(Type::Pred)])
    } else {
        (Op::Setp, vec![Mod::Ne, Mod::Ty(ty)])
    };
    let operands = [differs, a, b].map(Operand::Reg).to_vec();
    Stmt::Inst(plain(op, &mods, operands))
}
