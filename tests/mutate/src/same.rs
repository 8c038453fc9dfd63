//! Edits that change nothing by what PTX itself says.
//!
//! In: a kernel, an edit that no run has given away, the name of its kind. Out: why it could not.
//! Holds: a rule reads the text alone, never a run, and speaks only when the text settles it.

use mcc_ptx::{Imm, Inst, Mod, Op, Operand, Reg, Space, Stmt};

use crate::flow::walk;
use crate::kinds::{Code, Edit, is_copy, meets, touches_memory};
use crate::subject::Subject;

/// Why the edit leaves the kernel's meaning as it was.
pub fn by_definition(subject: &Subject, edit: &Edit, kind: &str) -> Option<&'static str> {
    let code = Code::new(subject);
    let Stmt::Inst(inst) = &code.body.stmts[edit.site] else {
        return None;
    };
    match kind {
        "descriptor-leading" => swizzled(&code, inst).then_some(
            "the leading byte offset of a swizzled K-major operand is not used (PTX ISA, wgmma, strides)",
        ),
        "drop-wgmma-fence" | "late-wgmma-fence" => registers_are_fenced(&code, edit.site).then_some(
            "between any other access to the registers of the products and this fence stands another `wgmma.fence`",
        ),
        "late-proxy-fence" => before_the_copy(&code, edit).then_some(
            "the fence still stands on every path from the writes to the copy, behind the barrier in place of before it",
        ),
        "drop-barrier" | "late-barrier" | "early-barrier" => orders_nothing(&code, edit.site).then_some(
            "no access to shared memory and no store to global memory lies between this barrier and the next one, or \
             the one before",
        ),
        "late-init" | "drop-init-fence" => (!signalled_by_copies(&code, inst))
            .then_some("no copy signals this mbarrier: `fence.mbarrier_init` is for those; threads meet at `bar.sync`"),
        "late-fence" => before_a_barrier(&code, edit).then_some(
            "the fence was moved over an access to shared memory alone, and still comes before the barrier that passes \
             it on",
        ),
        "drop-bulk-commit" | "early-bulk-commit" => joins_the_next_group(&code, edit.site).then_some(
            "the copies join the next group of the same thread, and the wait behind it is for all groups",
        ),
        "drop-warp-barrier" => (!lanes_share_memory(&code))
            .then_some("no lane reads memory that another lane has written, and votes and shuffles meet by themselves"),
        "bulk-wait-read" => ends(&code, edit.site).then_some(
            "nothing follows that could read what the copy writes; the end of the grid makes it visible",
        ),
        "relax-release" | "relax-acquire" => {
            let wait = match inst.op {
                Op::BarrierClusterArrive => code.next(edit.site, |i| i.op == Op::BarrierClusterWait)?,
                Op::BarrierClusterWait => edit.site,
                _ => return None,
            };
            ends(&code, wait).then_some("no access follows that the barrier could order; it only keeps blocks alive")
        }
        "early-cluster-arrive" => {
            let wait = code.next(edit.site, |i| i.op == Op::BarrierClusterWait)?;
            let over = code.previous(edit.site, touches_memory)?;
            let global = matches!(&code.body.stmts[over], Stmt::Inst(i) if i.space(0) == Some(Space::Global));
            (global && ends(&code, wait))
                .then_some("the barrier only keeps blocks alive, and the access moved behind it is to global memory")
        }
        "double-copy" => (inst.op == Op::CpAsync)
            .then_some("the same bytes are copied twice to the same place, and both copies are waited for"),
        _ => None,
    }
}

/// Whether, on every path that leads here, another `wgmma.fence` comes behind the last access to the registers of
/// the products that follow. Accesses of `wgmma` itself need none (PTX ISA, `wgmma.fence`).
fn registers_are_fenced(code: &Code<'_>, at: usize) -> bool {
    let mut registers: Vec<Reg> = Vec::new();
    for stmt in &code.body.stmts[at + 1..] {
        match stmt {
            Stmt::Inst(i) if i.op == Op::WgmmaMmaAsync => {
                for operand in &i.operands[..2] {
                    if let Operand::Vector(list) = operand {
                        registers.extend(list.iter().filter_map(register));
                    }
                }
            }
            Stmt::Inst(i)
                if matches!(
                    i.op,
                    Op::WgmmaFence | Op::WgmmaWaitGroup | Op::Bra | Op::Ret
                ) =>
            {
                break;
            }
            _ => {}
        }
    }
    let accesses =
        |i: &Inst| i.op != Op::WgmmaMmaAsync && i.operands.iter().any(|o| uses(o, &registers));
    let found = walk(code.body, at, true, |i| i.op == Op::WgmmaFence, accesses);
    !registers.is_empty() && !found.wanted && !found.edge
}

fn register(operand: &Operand) -> Option<Reg> {
    match operand {
        Operand::Reg(r) => Some(*r),
        _ => None,
    }
}

fn uses(operand: &Operand, registers: &[Reg]) -> bool {
    match operand {
        Operand::Reg(r) => registers.contains(r),
        Operand::Vector(list) => list.iter().any(|o| uses(o, registers)),
        Operand::Pair(a, b) => uses(a, registers) || uses(b, registers),
        _ => false,
    }
}

/// Whether a fence that was moved behind a barrier still comes before every copy and product.
fn before_the_copy(code: &Code<'_>, edit: &Edit) -> bool {
    let Some(to) = edit.replaced.iter().map(|(at, _)| *at).max() else {
        return false;
    };
    let over = match &code.body.stmts[to] {
        Stmt::Inst(inst) => matches!(inst.op, Op::Bar | Op::Barrier),
        _ => false,
    };
    over && code.body.stmts[edit.site..to]
        .iter()
        .all(|s| !matches!(s, Stmt::Inst(i) if is_copy(i)))
}

/// Whether a fence that was moved over an access to shared memory still comes before the next barrier on all paths.
fn before_a_barrier(code: &Code<'_>, edit: &Edit) -> bool {
    let Some(to) = edit.replaced.iter().map(|(at, _)| *at).max() else {
        return false;
    };
    let Stmt::Inst(over) = &code.body.stmts[to] else {
        return false;
    };
    let barrier = |i: &Inst| matches!(i.op, Op::Bar | Op::Barrier) && i.has(Mod::Sync);
    let found = walk(code.body, to, false, barrier, |i| {
        touches_memory(i) || meets(i)
    });
    over.space(0).is_some_and(Space::is_shared_cta) && found == Default::default()
}

/// Whether another commit follows in the straight line, and then a wait for all groups.
fn joins_the_next_group(code: &Code<'_>, at: usize) -> bool {
    let commit = code.next(at, |i| i.op == Op::CpAsyncBulkCommitGroup);
    let wait = commit.and_then(|commit| code.next(commit, |i| i.op == Op::CpAsyncBulkWaitGroup));
    let all = |wait: usize| matches!(&code.body.stmts[wait], Stmt::Inst(i) if i.operands[0] == Operand::Imm(Imm::Int(0)));
    // No wait in between, to which the number of groups would matter.
    let first = code.next(at, |i| i.op == Op::CpAsyncBulkWaitGroup);
    wait.is_some_and(|wait| all(wait) && first == Some(wait))
}

/// Whether on one side of a block's barrier nothing that it could order comes before the next such barrier.
fn orders_nothing(code: &Code<'_>, at: usize) -> bool {
    let whole = |i: &Inst| {
        matches!(i.op, Op::Bar | Op::Barrier) && i.has(Mod::Sync) && i.operands.len() == 1
    };
    let read_only = |i: &Inst| i.op == Op::Ld && i.space(0) == Some(Space::Global);
    // What a thread stores as the last thing that it does, no thread of the block waits for.
    let global_store = |i: &Inst| i.op == Op::St && i.space(0) == Some(Space::Global);
    let at_the_end = |n: usize| {
        !walk(
            code.body,
            n,
            false,
            |_| false,
            |i| touches_memory(i) || meets(i),
        )
        .wanted
    };
    let last: Vec<&Inst> = code
        .insts()
        .filter(|(n, i)| global_store(i) && at_the_end(*n))
        .map(|(_, i)| i)
        .collect();
    let other = |i: &Inst| {
        let counts = (touches_memory(i) && !read_only(i)) || meets(i) || i.op == Op::MbarrierInit;
        counts && !whole(i) && !last.iter().any(|l| std::ptr::eq(*l, i))
    };
    let quiet = |backwards: bool| !walk(code.body, at, backwards, whole, other).wanted;
    // Global memory that a thread has written may be what another one reads.
    let stores = code
        .insts()
        .any(|(n, i)| n < at && i.op == Op::St && i.space(0) == Some(Space::Global));
    !stores && (quiet(false) || quiet(true))
}

/// Whether a copy names an mbarrier at the same constant distance from its base; yes where that is not known.
fn signalled_by_copies(code: &Code<'_>, init: &Inst) -> bool {
    let distance = |operand: Option<&Operand>| {
        let Some(Operand::Mem(address)) = operand else {
            return None;
        };
        let mcc_ptx::Base::Reg(reg) = address.base else {
            return None;
        };
        let writes =
            |i: &Inst| i.operands.first() == Some(&Operand::Reg(reg)) && crate::kinds::writes(i);
        let mut writers = code.insts().filter(|(_, i)| writes(i));
        let (_, only) = writers.next()?;
        if writers.next().is_some() {
            return None;
        }
        match (only.op, only.operands.as_slice()) {
            (Op::Add, [_, _, Operand::Imm(Imm::Int(n))]) => Some((None, n + address.offset)),
            (Op::Mov, [_, Operand::Sym(symbol, n)]) => Some((Some(*symbol), n + address.offset)),
            _ => None,
        }
    };
    let copies = || code.insts().filter(|(_, i)| i.has(Mod::MbarrierCompleteTx));
    if copies().next().is_none() {
        return false;
    }
    let Some(own) = distance(init.operands.first()) else {
        return true;
    };
    let mut signalled =
        copies().map(|(_, i)| distance(i.operands.iter().rfind(|o| matches!(o, Operand::Mem(_)))));
    signalled.any(|place| place.is_none_or(|place| place == own))
}

/// Whether all of the kernel's descriptors name a swizzle: the constants with bits 62 and 63 are never both clear.
fn swizzled(code: &Code<'_>, inst: &Inst) -> bool {
    let transposed = inst
        .operands
        .iter()
        .skip(6)
        .any(|o| *o == Operand::Imm(Imm::Int(1)));
    let constants = code
        .insts()
        .filter(|(_, i)| i.op == Op::Or && i.ty(0).is_some_and(|t| t.bits() == 64));
    let mut any = false;
    for (_, or) in constants {
        if let Some(Operand::Imm(Imm::Int(n))) = or.operands.get(2) {
            // Large constants alone are descriptors.
            if *n as u64 >> 32 != 0 {
                any = true;
                if *n as u64 >> 62 == 0 {
                    return false;
                }
            }
        }
    }
    any && !transposed
}

/// Whether the kernel ends behind this place without another access or signal.
fn ends(code: &Code<'_>, at: usize) -> bool {
    for stmt in &code.body.stmts[at + 1..] {
        match stmt {
            Stmt::Inst(i) if matches!(i.op, Op::Ret | Op::Exit) && i.guard.is_none() => {
                return true;
            }
            Stmt::Inst(i) if touches_memory(i) || meets(i) || is_copy(i) || i.op == Op::Bra => {
                return false;
            }
            _ => {}
        }
    }
    false
}

/// Whether threads both store to and load from shared memory, or load global memory that they may have written.
fn lanes_share_memory(code: &Code<'_>) -> bool {
    let shared = |i: &Inst| {
        i.mods
            .iter()
            .any(|m| matches!(m, Mod::Space(s) if s.is_shared_cta()))
    };
    let uses = |op: Op| code.insts().any(|(_, i)| i.op == op && shared(i));
    let generic = code
        .insts()
        .any(|(_, i)| matches!(i.op, Op::Ld | Op::St) && i.space(0).is_none());
    generic || (uses(Op::St) && (uses(Op::Ld) || uses(Op::Atom) || uses(Op::Ldmatrix)))
}
