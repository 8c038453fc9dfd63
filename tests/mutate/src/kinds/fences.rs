//! Fences, groups and waits for asynchronous work: left out, loosened, or in the wrong place.
//!
//! PTX ISA 9.7.13 "membar / fence", 9.7.9.25 "asynchronous copy completion", 9.7.15 "wgmma".

use mcc_ptx::{Inst, Mod, Op, Space, Stmt};

use super::order as kind;
use super::{
    Change, Code, Edit, Kind, NARROWER, ahead, behind, drops, instead, instead_as, int, is_arrive,
    is_copy, swapped, touches_memory, with_operand,
};

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        kind("drop-proxy-fence", "`fence.proxy.async` left out", |c| {
            drops(c, is_proxy_fence)
        }),
        kind(
            "early-proxy-fence",
            "`fence.proxy.async` before the write that it is for",
            |c| moved_ahead(c, is_proxy_fence, touches_memory),
        ),
        kind(
            "late-proxy-fence",
            "`fence.proxy.async` behind what it is to come before",
            |c| {
                moved_behind(c, is_proxy_fence, |i| {
                    is_copy(i) || meets(i) || i.op == Op::WgmmaFence
                })
            },
        ),
        kind(
            "wrong-proxy-fence",
            "`fence.proxy.async` of the wrong state space",
            |c| {
                c.insts()
                    .filter(|(_, i)| is_proxy_fence(i))
                    .map(|(at, i)| {
                        let mut inst = i.clone();
                        let shared = i.space(0) == Some(Space::Global);
                        inst.mods.retain(|m| !matches!(m, Mod::Space(_)));
                        inst.mods.push(Mod::Space(if shared {
                            Space::SharedCta
                        } else {
                            Space::Global
                        }));
                        instead(at, inst)
                    })
                    .collect()
            },
        ),
        kind("drop-wgmma-fence", "`wgmma.fence` left out", |c| {
            drops(c, |i| i.op == Op::WgmmaFence)
        }),
        kind(
            "late-wgmma-fence",
            "`wgmma.fence` behind the first `wgmma.mma_async`",
            |c| moved_behind(c, |i| i.op == Op::WgmmaFence, |i| i.op == Op::WgmmaMmaAsync),
        ),
        kind("drop-wgmma-commit", "`wgmma.commit_group` left out", |c| {
            drops(c, |i| i.op == Op::WgmmaCommitGroup)
        }),
        kind(
            "late-wgmma-commit",
            "`wgmma.commit_group` behind its wait",
            |c| {
                moved_behind(
                    c,
                    |i| i.op == Op::WgmmaCommitGroup,
                    |i| i.op == Op::WgmmaWaitGroup,
                )
            },
        ),
        kind(
            "early-wgmma-commit",
            "`wgmma.commit_group` before the last `wgmma.mma_async`",
            |c| {
                moved_ahead(
                    c,
                    |i| i.op == Op::WgmmaCommitGroup,
                    |i| i.op == Op::WgmmaMmaAsync,
                )
            },
        ),
        kind("drop-wgmma-wait", "`wgmma.wait_group` left out", |c| {
            drops(c, |i| i.op == Op::WgmmaWaitGroup)
        }),
        kind(
            "loosen-wgmma-wait",
            "`wgmma.wait_group N` with N + 1",
            |c| loosened(c, Op::WgmmaWaitGroup),
        ),
        kind(
            "late-wgmma-wait",
            "`wgmma.wait_group` behind the arrive that frees the stage",
            late_wgmma_wait,
        ),
        kind(
            "drop-bulk-commit",
            "`cp.async.bulk.commit_group` left out",
            |c| drops(c, |i| i.op == Op::CpAsyncBulkCommitGroup),
        ),
        kind(
            "early-bulk-commit",
            "`cp.async.bulk.commit_group` before the last copy",
            |c| moved_ahead(c, |i| i.op == Op::CpAsyncBulkCommitGroup, is_copy),
        ),
        kind(
            "drop-bulk-wait",
            "`cp.async.bulk.wait_group` left out",
            |c| drops(c, |i| i.op == Op::CpAsyncBulkWaitGroup),
        ),
        kind(
            "loosen-bulk-wait",
            "`cp.async.bulk.wait_group N` with N + 1",
            |c| loosened(c, Op::CpAsyncBulkWaitGroup),
        ),
        kind(
            "bulk-wait-read",
            "`cp.async.bulk.wait_group` that waits for the reads alone",
            |c| {
                c.of(Op::CpAsyncBulkWaitGroup)
                    .filter(|(_, i)| !i.has(Mod::Read))
                    .map(|(at, i)| {
                        let mut inst = i.clone();
                        inst.mods.push(Mod::Read);
                        instead(at, inst)
                    })
                    .collect()
            },
        ),
        kind(
            "late-bulk-wait",
            "`cp.async.bulk.wait_group` behind the next access",
            |c| {
                moved_behind(
                    c,
                    |i| i.op == Op::CpAsyncBulkWaitGroup,
                    |i| touches_memory(i) || meets(i),
                )
            },
        ),
        kind(
            "drop-copy-commit",
            "`cp.async.commit_group` left out",
            |c| drops(c, |i| i.op == Op::CpAsyncCommitGroup),
        ),
        kind(
            "drop-copy-wait",
            "`cp.async.wait_group` or `wait_all` left out",
            |c| {
                drops(c, |i| {
                    matches!(i.op, Op::CpAsyncWaitGroup | Op::CpAsyncWaitAll)
                })
            },
        ),
        kind(
            "loosen-copy-wait",
            "`cp.async.wait_group N` with N + 1",
            |c| loosened(c, Op::CpAsyncWaitGroup),
        ),
        kind(
            "late-copy-wait",
            "`cp.async.wait_group` behind the next barrier or access",
            |c| {
                let wait = |i: &Inst| matches!(i.op, Op::CpAsyncWaitGroup | Op::CpAsyncWaitAll);
                moved_behind(c, wait, |i| touches_memory(i) || meets(i))
            },
        ),
        kind("drop-init-fence", "`fence.mbarrier_init` left out", |c| {
            drops(c, |i| i.op == Op::FenceMbarrierInit)
        }),
        kind("drop-fence", "`fence` or `membar` left out", |c| {
            drops(c, |i| matches!(i.op, Op::Fence | Op::Membar))
        }),
        kind(
            "early-fence",
            "`fence` or `membar` before the access that it is to follow",
            |c| {
                moved_ahead(
                    c,
                    |i| matches!(i.op, Op::Fence | Op::Membar),
                    touches_memory,
                )
            },
        ),
        kind(
            "late-fence",
            "`fence` or `membar` behind the access that it is to come before",
            |c| {
                moved_behind(
                    c,
                    |i| matches!(i.op, Op::Fence | Op::Membar),
                    touches_memory,
                )
            },
        ),
        kind(
            "narrow-scope",
            "a scope made narrower: `.sys` to `.gpu`, `.gpu` or `.cluster` to `.cta`",
            |c| {
                let mut out = Vec::new();
                for (at, inst) in c.insts() {
                    for (from, to) in NARROWER {
                        if inst.has(Mod::Scope(from)) && inst.op != Op::FenceMbarrierInit {
                            let note = format!(".{from} to .{to}");
                            out.push(instead_as(
                                at,
                                swapped(inst, Mod::Scope(from), Mod::Scope(to)),
                                note,
                            ));
                        }
                    }
                }
                out
            },
        ),
        kind("relax-acquire", "`.acquire` to `.relaxed`", |c| {
            weaker(c, Mod::Acquire, &[Mod::Acquire])
        }),
        kind("relax-release", "`.release` to `.relaxed`", |c| {
            weaker(c, Mod::Release, &[Mod::Release])
        }),
        kind(
            "relax-acq-rel",
            "`.acq_rel` to one of its halves, or to `.relaxed`",
            |c| {
                let mut out = Vec::new();
                for (at, inst) in c
                    .insts()
                    .filter(|(_, i)| i.has(Mod::AcqRel) && i.op != Op::Fence)
                {
                    for to in [Mod::Relaxed, Mod::Acquire, Mod::Release] {
                        out.push(instead_as(
                            at,
                            swapped(inst, Mod::AcqRel, to),
                            format!("to .{to}"),
                        ));
                    }
                }
                out
            },
        ),
        kind("drop-grid-wait", "`griddepcontrol.wait` left out", |c| {
            drops(c, |i| i.op == Op::Griddepcontrol && i.has(Mod::Wait))
        }),
        kind(
            "late-grid-wait",
            "`griddepcontrol.wait` behind the first access to global memory",
            |c| {
                let wait = |i: &Inst| i.op == Op::Griddepcontrol && i.has(Mod::Wait);
                let global = |i: &Inst| touches_memory(i) && i.space(0) == Some(Space::Global);
                moved_behind(c, wait, global)
            },
        ),
    ]
}

fn is_proxy_fence(inst: &Inst) -> bool {
    inst.op == Op::FenceProxy && inst.has(Mod::Async)
}

/// Whether threads meet or signal here.
pub(crate) fn meets(inst: &Inst) -> bool {
    matches!(
        inst.op,
        Op::Bar | Op::Barrier | Op::BarWarpSync | Op::BarrierClusterArrive | Op::BarrierClusterWait
    ) || is_arrive(inst)
}

fn moved_behind(
    c: &Code<'_>,
    which: impl Fn(&Inst) -> bool,
    what: impl Fn(&Inst) -> bool,
) -> Vec<Change> {
    let sites = c.insts().filter(|(_, i)| which(i));
    sites
        .filter_map(|(at, _)| Some(behind(c, at, c.next(at, &what)?)))
        .collect()
}

fn moved_ahead(
    c: &Code<'_>,
    which: impl Fn(&Inst) -> bool,
    what: impl Fn(&Inst) -> bool,
) -> Vec<Change> {
    let sites = c.insts().filter(|(_, i)| which(i));
    sites
        .filter_map(|(at, _)| Some(ahead(c, at, c.previous(at, &what)?)))
        .collect()
}

/// One more group may be in flight.
fn loosened(c: &Code<'_>, op: Op) -> Vec<Change> {
    let sites = c.of(op);
    sites
        .filter_map(|(at, inst)| {
            let n = super::known(c, &inst.operands[0])?;
            Some(instead_as(
                at,
                with_operand(inst, 0, int(n + 1)),
                format!("{n} to {}", n + 1),
            ))
        })
        .collect()
}

/// The arrive stands in a branch of one lane: the wait goes to where the lanes are together again.
fn late_wgmma_wait(c: &Code<'_>) -> Vec<Change> {
    let stmts = &c.body.stmts;
    let find = |from: usize, wanted: &dyn Fn(&Stmt) -> bool| {
        (from..stmts.len()).find(|&n| wanted(&stmts[n]))
    };
    let is = |stmt: &Stmt, wanted: fn(&Inst) -> bool| matches!(stmt, Stmt::Inst(i) if wanted(i));
    c.of(Op::WgmmaWaitGroup)
        .filter_map(|(at, _)| {
            let arrive = find(at + 1, &|s| is(s, is_arrive))?;
            // Another wait in between is what the arrive is ordered by.
            if (at + 1..arrive).any(|n| is(&stmts[n], |i| i.op == Op::WgmmaWaitGroup)) {
                return None;
            }
            let join = find(arrive + 1, &|s| matches!(s, Stmt::Label(_)))?;
            let edit = Edit::at(at).with(at, Vec::new());
            Some(Change::Text(
                edit.with(join, vec![stmts[join].clone(), stmts[at].clone()]),
            ))
        })
        .collect()
}

/// `.relaxed` in place of a semantics, where the instruction has that form.
fn weaker(c: &Code<'_>, from: Mod, which: &[Mod]) -> Vec<Change> {
    let sites = c.insts().filter(|(_, i)| which.iter().any(|m| i.has(*m)));
    sites
        .filter_map(|(at, inst)| {
            // A fence of one side has no weaker form: without it is another kind.
            if matches!(inst.op, Op::Fence | Op::FenceProxy | Op::FenceMbarrierInit) {
                return None;
            }
            if inst.op == Op::BarrierClusterWait {
                return None;
            }
            let inst = swapped(inst, from, Mod::Relaxed);
            inst.form().map(|_| instead(at, inst))
        })
        .collect()
}
