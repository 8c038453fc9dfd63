//! Edits that change nothing by what PTX itself says.
//!
//! In: a kernel, an edit that no run has given away, the name of its kind. Out: why it could not.
//! Holds: a rule reads the text alone, never a run, and speaks only when the text settles it.

use mcc_ptx::{Inst, Mod, Op, Space, Stmt};

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

/// Whether all of the kernel's descriptors name a swizzle: the constants with bits 62 and 63 are never both clear.
fn swizzled(code: &Code<'_>, inst: &Inst) -> bool {
    let transposed = inst
        .operands
        .iter()
        .skip(6)
        .any(|o| *o == mcc_ptx::Operand::Imm(mcc_ptx::Imm::Int(1)));
    let constants = code
        .insts()
        .filter(|(_, i)| i.op == Op::Or && i.ty(0).is_some_and(|t| t.bits() == 64));
    let mut any = false;
    for (_, or) in constants {
        if let Some(mcc_ptx::Operand::Imm(mcc_ptx::Imm::Int(n))) = or.operands.get(2) {
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
