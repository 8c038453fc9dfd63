//! Where threads meet: barriers, mbarriers and their phases, clusters, atomics, the choice of one thread.
//!
//! PTX ISA 9.7.13 "parallel synchronisation and communication".

use mcc_ptx::{Inst, Mod, Op, Operand, Stmt, Type};

use super::order as kind;
use super::{
    Change, Code, Edit, Kind, ahead, behind, displaced, drops, instead, instead_as, int, is_arrive,
    is_copy, is_wait, known, plain, touches_memory, with_operand,
};

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        kind("drop-barrier", "`bar.sync` left out", |c| {
            drops(c, is_barrier)
        }),
        kind("late-barrier", "`bar.sync` behind the next access", |c| {
            moved(c, is_meeting, |i| ordered(c, i), true)
        }),
        kind(
            "early-barrier",
            "`bar.sync` or `.arrive` before the last access",
            |c| moved(c, is_barrier, |i| ordered(c, i), false),
        ),
        kind(
            "wrong-barrier",
            "another barrier's number, for every second warp where all threads meet",
            |c| {
                c.insts()
                    .filter(|(_, i)| is_barrier(i))
                    .filter_map(|(at, i)| other_barrier(c, at, i))
                    .collect()
            },
        ),
        kind(
            "wrong-barrier-threads",
            "one warp more or less at a barrier",
            |c| {
                let sites = c
                    .insts()
                    .filter(|(_, i)| is_barrier(i) && i.operands.len() > 1);
                let sites = sites.filter_map(|(at, i)| Some((at, i, known(c, &i.operands[1])?)));
                sites
                    .flat_map(|(at, i, n)| {
                        [n - 32, n + 32].map(|m| {
                            instead_as(at, with_operand(i, 1, int(m)), format!("{n} to {m}"))
                        })
                    })
                    .collect()
            },
        ),
        kind("drop-warp-barrier", "`bar.warp.sync` left out", |c| {
            drops(c, |i| i.op == Op::BarWarpSync)
        }),
        kind("drop-arrive", "an arrive at an mbarrier left out", |c| {
            drops(c, is_arrive)
        }),
        kind(
            "double-arrive",
            "an arrive at an mbarrier made twice",
            |c| {
                let sites = c.insts().filter(|(_, i)| is_arrive(i));
                sites
                    .map(|(at, i)| {
                        let twice = vec![Stmt::Inst(i.clone()), Stmt::Inst(i.clone())];
                        Change::Text(Edit::at(at).with(at, twice))
                    })
                    .collect()
            },
        ),
        kind(
            "early-arrive",
            "an arrive before the access that it follows",
            |c| moved(c, is_arrive, |i| touches_memory(i) && !is_copy(i), false),
        ),
        kind(
            "plain-arrive",
            "`arrive.expect_tx` that expects nothing",
            |c| {
                c.of(Op::MbarrierArrive)
                    .filter(|(_, i)| i.has(Mod::ExpectTx))
                    .map(|(at, i)| {
                        let mut inst = i.clone();
                        inst.mods.retain(|m| *m != Mod::ExpectTx);
                        inst.operands.truncate(2);
                        instead(at, inst)
                    })
                    .collect()
            },
        ),
        kind("drop-expect-tx", "`mbarrier.expect_tx` left out", |c| {
            drops(c, |i| i.op == Op::MbarrierExpectTx)
        }),
        kind(
            "wrong-expect-tx",
            "other bytes expected: 16 more, 16 fewer, half, double",
            |c| {
                let expects = |i: &Inst| {
                    i.op == Op::MbarrierExpectTx || (is_arrive(i) && i.has(Mod::ExpectTx))
                };
                let sites = c.insts().filter(|(_, i)| expects(i));
                let mut out = Vec::new();
                for (at, inst) in sites {
                    let n = inst.operands.len() - 1;
                    let changes: [(&str, Op, i64); 4] = [
                        ("+16", Op::Add, 16),
                        ("-16", Op::Add, -16),
                        ("half", Op::Shr, 1),
                        ("double", Op::Shl, 1),
                    ];
                    for (note, op, by) in changes {
                        let ty = match op {
                            Op::Add => Type::S32,
                            Op::Shr => Type::U32,
                            _ => Type::B32,
                        };
                        out.push(
                            computed(c, at, inst, n, op, ty, by)
                                .map(|e| Change::Text(e.note(note))),
                        );
                    }
                }
                out.into_iter().flatten().collect()
            },
        ),
        kind(
            "drop-wait",
            "a wait for an mbarrier that goes on at once",
            |c| {
                let sites = c.insts().filter(|(_, i)| is_wait(i));
                sites
                    .map(|(at, i)| {
                        let yes = plain(
                            Op::Setp,
                            &[Mod::Eq, Mod::Ty(Type::B32)],
                            vec![i.operands[0].clone(), int(0), int(0)],
                        );
                        instead(
                            at,
                            Inst {
                                guard: i.guard,
                                ..yes
                            },
                        )
                    })
                    .collect()
            },
        ),
        kind("flip-parity", "a wait for the other phase", |c| {
            let sites = c.insts().filter(|(_, i)| is_wait(i) && i.has(Mod::Parity));
            sites
                .filter_map(|(at, i)| {
                    computed(c, at, i, 2, Op::Xor, Type::B32, 1).map(Change::Text)
                })
                .collect()
        }),
        kind("stuck-parity", "a phase bit that is not turned", |c| {
            drops(c, |i| {
                i.op == Op::Xor && i.operands[0] == i.operands[1] && i.operands[2] == int(1)
            })
        }),
        kind("wrong-wait", "a wait for the neighbouring mbarrier", |c| {
            neighbour(c, is_wait)
        }),
        kind(
            "wrong-arrive",
            "an arrive at the neighbouring mbarrier",
            |c| neighbour(c, is_arrive),
        ),
        kind("drop-init", "`mbarrier.init` left out", |c| {
            drops(c, |i| i.op == Op::MbarrierInit)
        }),
        kind(
            "wrong-init",
            "`mbarrier.init` with one arrival more or less",
            |c| {
                let mut out = Vec::new();
                for (at, inst) in c.of(Op::MbarrierInit) {
                    for (note, by) in [("+1", 1), ("-1", -1)] {
                        out.extend(
                            computed(c, at, inst, 1, Op::Add, Type::S32, by)
                                .map(|e| Change::Text(e.note(note))),
                        );
                    }
                }
                out
            },
        ),
        kind(
            "late-init",
            "`mbarrier.init` behind the barrier that makes it known",
            |c| {
                moved(
                    c,
                    |i| i.op == Op::MbarrierInit,
                    |i| is_barrier(i) || i.op == Op::FenceMbarrierInit,
                    true,
                )
            },
        ),
        kind(
            "init-again",
            "an mbarrier made anew while it is in use",
            |c| {
                let sites = c
                    .insts()
                    .filter(|(_, i)| is_arrive(i) && !i.has(Mod::Noinc));
                sites
                    .filter_map(|(at, i)| {
                        let m = super::memory_operand(i, 0)?;
                        let remote = i.mods.contains(&Mod::Space(mcc_ptx::Space::SharedCluster));
                        let init = plain(
                            Op::MbarrierInit,
                            &[Mod::Space(mcc_ptx::Space::SharedCta), Mod::Ty(Type::B64)],
                            vec![i.operands[m].clone(), int(1)],
                        );
                        let init = Inst {
                            guard: i.guard,
                            ..init
                        };
                        let both = vec![Stmt::Inst(init), Stmt::Inst(i.clone())];
                        (!remote).then(|| Change::Text(Edit::at(at).with(at, both)))
                    })
                    .collect()
            },
        ),
        kind(
            "drop-cluster-arrive",
            "`barrier.cluster.arrive` and its wait left out",
            |c| {
                c.of(Op::BarrierClusterArrive)
                    .filter_map(|(at, _)| {
                        let wait = c.next(at, |i| i.op == Op::BarrierClusterWait)?;
                        Some(Change::Text(
                            Edit::at(at).with(at, Vec::new()).with(wait, Vec::new()),
                        ))
                    })
                    .collect()
            },
        ),
        kind(
            "drop-cluster-wait",
            "`barrier.cluster.wait` left out",
            |c| drops(c, |i| i.op == Op::BarrierClusterWait),
        ),
        kind(
            "late-cluster-wait",
            "`barrier.cluster.wait` behind the next access",
            |c| moved(c, |i| i.op == Op::BarrierClusterWait, touches_memory, true),
        ),
        kind(
            "early-cluster-arrive",
            "`barrier.cluster.arrive` before the last access",
            |c| {
                moved(
                    c,
                    |i| i.op == Op::BarrierClusterArrive,
                    touches_memory,
                    false,
                )
            },
        ),
        kind(
            "plain-atomic",
            "an atomic operation made of a load and a store",
            plain_atomics,
        ),
        kind(
            "elect-all",
            "what one thread of a warp is to do, done by all",
            |c| {
                c.of(Op::Elect)
                    .filter_map(|(at, i)| {
                        let Operand::Pair(_, p) = &i.operands[0] else {
                            return None;
                        };
                        let yes = plain(
                            Op::Setp,
                            &[Mod::Eq, Mod::Ty(Type::B32)],
                            vec![(**p).clone(), int(0), int(0)],
                        );
                        Some(instead(at, yes))
                    })
                    .collect()
            },
        ),
        kind(
            "swap-setmaxnreg",
            "`setmaxnreg.inc` for `.dec` and the other way round",
            |c| {
                c.of(Op::Setmaxnreg)
                    .map(|(at, i)| {
                        let mut inst = i.clone();
                        for m in &mut inst.mods {
                            *m = match *m {
                                Mod::Inc => Mod::Dec,
                                Mod::Dec => Mod::Inc,
                                other => other,
                            };
                        }
                        instead(at, inst)
                    })
                    .collect()
            },
        ),
        kind(
            "shuffle-mask",
            "a warp operation whose mask lacks a lane",
            |c| {
                let warp = |i: &Inst| {
                    matches!(
                        i.op,
                        Op::Shfl | Op::Vote | Op::BarWarpSync | Op::Redux | Op::Match
                    )
                };
                let sites = c.insts().filter(|(_, i)| warp(i));
                sites
                    .filter_map(|(at, i)| {
                        let n = i.operands.len() - 1;
                        let mask = known(c, &i.operands[n])?;
                        let less = i64::from(mask as u32 & 0x7fff_ffff);
                        (less != mask).then(|| instead(at, with_operand(i, n, int(less))))
                    })
                    .collect()
            },
        ),
    ]
}

/// A barrier at which threads wait: an arrive that comes later than it could orders no less.
fn is_meeting(inst: &Inst) -> bool {
    is_barrier(inst) && !inst.has(Mod::Arrive)
}

/// What a barrier may be there to order: not loads of global memory, and not stores to it where no thread loads any.
fn ordered(c: &Code<'_>, inst: &Inst) -> bool {
    let global = |i: &Inst| i.space(0) == Some(mcc_ptx::Space::Global);
    let loads = || c.of(Op::Ld).any(|(_, i)| global(i));
    touches_memory(inst) && !(global(inst) && (inst.op == Op::Ld || !loads()))
}

fn is_barrier(inst: &Inst) -> bool {
    matches!(inst.op, Op::Bar | Op::Barrier)
}

/// The next number; where all threads meet, any number would do for all of them, so half of them take it.
fn other_barrier(c: &Code<'_>, at: usize, inst: &Inst) -> Option<Change> {
    let id = known(c, &inst.operands[0])?;
    // Where some only arrive, the others of the pair do not take the new number along.
    if inst.operands.len() > 1 && c.insts().any(|(_, i)| is_barrier(i) && i.has(Mod::Arrive)) {
        let to = (id + 1) % 16;
        return Some(instead_as(
            at,
            with_operand(inst, 0, int(to)),
            format!("{id} to {to}"),
        ));
    }
    // In a block of one warp all still meet.
    if c.subject
        .cases
        .first()
        .is_none_or(|case| case.config.block[0] <= 32)
    {
        return None;
    }
    let fresh = Operand::Reg(c.fresh(0));
    let tid = Operand::Special(mcc_ptx::SpecialReg::TidX);
    let step = |op, ty, by| {
        plain(
            op,
            &[Mod::Ty(ty)],
            vec![fresh.clone(), fresh.clone(), int(by)],
        )
    };
    let stmts = [
        plain(Op::Mov, &[Mod::Ty(Type::U32)], vec![fresh.clone(), tid]),
        step(Op::Shr, Type::U32, 5),
        step(Op::And, Type::B32, 1),
        step(Op::Add, Type::S32, id),
        with_operand(inst, 0, fresh.clone()),
    ];
    let mut edit = Edit::at(at).with(at, stmts.into_iter().map(Stmt::Inst).collect());
    edit.fresh.push(Type::B32);
    Some(Change::Text(edit))
}

fn moved(
    c: &Code<'_>,
    which: impl Fn(&Inst) -> bool,
    what: impl Fn(&Inst) -> bool,
    later: bool,
) -> Vec<Change> {
    let sites = c.insts().filter(|(_, i)| which(i));
    sites
        .filter_map(|(at, _)| {
            Some(if later {
                behind(c, at, c.next(at, &what)?)
            } else {
                ahead(c, at, c.previous(at, &what)?)
            })
        })
        .collect()
}

/// The instruction with an operand that is computed from what it was.
fn computed(
    c: &Code<'_>,
    at: usize,
    inst: &Inst,
    operand: usize,
    op: Op,
    ty: Type,
    by: i64,
) -> Option<Edit> {
    let was = inst.operands.get(operand)?.clone();
    let fresh = Operand::Reg(c.fresh(0));
    // A constant goes through a register: not every instruction takes both as operands.
    let copy = plain(Op::Mov, &[Mod::Ty(Type::B32)], vec![fresh.clone(), was]);
    let change = plain(
        op,
        &[Mod::Ty(ty)],
        vec![fresh.clone(), fresh.clone(), int(by)],
    );
    let mut edit = Edit::at(at).with(
        at,
        vec![
            Stmt::Inst(copy),
            Stmt::Inst(change),
            Stmt::Inst(with_operand(inst, operand, fresh)),
        ],
    );
    edit.fresh.push(Type::B32);
    Some(edit)
}

/// The mbarrier eight bytes on, or before where the address says so.
fn neighbour(c: &Code<'_>, which: impl Fn(&Inst) -> bool) -> Vec<Change> {
    let sites = c.insts().filter(|(_, i)| which(i));
    sites
        .filter_map(|(at, i)| Some(instead(at, displaced(i, 0, 8)?)))
        .collect()
}

/// `atom.add` and `red.add` in steps that others can come between.
fn plain_atomics(c: &Code<'_>) -> Vec<Change> {
    let mut out = Vec::new();
    for (at, inst) in c
        .insts()
        .filter(|(_, i)| matches!(i.op, Op::Atom | Op::Red))
    {
        let (Some(ty), Some(space)) = (inst.ty(0), inst.space(0)) else {
            continue;
        };
        let op = match inst.mods.iter().find_map(|m| match m {
            Mod::Add => Some(Op::Add),
            Mod::Or => Some(Op::Or),
            Mod::And => Some(Op::And),
            Mod::Max => Some(Op::Max),
            Mod::Min => Some(Op::Min),
            _ => None,
        }) {
            Some(op) if inst.vector_len() == 1 => op,
            _ => continue,
        };
        let Some(m) = super::memory_operand(inst, 0) else {
            continue;
        };
        let (address, value) = (inst.operands[m].clone(), inst.operands[m + 1].clone());
        let (old, new) = (Operand::Reg(c.fresh(0)), Operand::Reg(c.fresh(1)));
        let bits = if ty.bits() == 64 {
            Type::B64
        } else {
            Type::B32
        };
        let mut steps = vec![
            plain(
                Op::Ld,
                &[Mod::Space(space), Mod::Ty(bits)],
                vec![old.clone(), address.clone()],
            ),
            plain(op, &[Mod::Ty(ty)], vec![new.clone(), old.clone(), value]),
            plain(
                Op::St,
                &[Mod::Space(space), Mod::Ty(bits)],
                vec![address, new],
            ),
        ];
        if inst.op == Op::Atom && inst.operands[0] != Operand::Sink {
            steps.push(plain(
                Op::Mov,
                &[Mod::Ty(bits)],
                vec![inst.operands[0].clone(), old],
            ));
        }
        let steps = steps.into_iter().map(|step| {
            Stmt::Inst(Inst {
                guard: inst.guard,
                ..step
            })
        });
        let mut edit = Edit::at(at).with(at, steps.collect());
        edit.fresh = vec![bits, bits];
        out.push(Change::Text(edit));
    }
    out
}
