//! Control flow: branches, calls (inlined), returns.

use mcc_ptx::{Imm, Inst, LabelId, Op as PtxOp, Operand, Symbol};

use super::operands::{Call, Fixup, Frame};
use super::{Decoded, Decoder, Refusal, invalid, unsupported};
use crate::error::SimError;
use crate::exec::state::NO_JOIN;
use crate::isa::{Op, PSrc};

/// Deeper than any call tree that compilers leave in a kernel.
const MAX_DEPTH: usize = 64;
/// Calls that are inlined into one kernel, and its instructions then: far above
/// what any kernel has.
const MAX_CALLS: u32 = 1 << 14;
const MAX_CODE: usize = 1 << 22;

impl<'a> Decoder<'a> {
    pub(super) fn control(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        match inst.op {
            PtxOp::Bra => {
                let label = label(inst, 0)?;
                self.branch(frame, Some(label));
                Ok(())
            }
            PtxOp::BrxIdx => {
                let index = self.s32(frame, &inst.operands[0], mcc_ptx::Type::U32)?;
                let table = label(inst, 1)?;
                let Some(targets) = frame.body.branch_targets(table) else {
                    return invalid("its branch table is not there");
                };
                for (entry, t) in targets.iter().enumerate() {
                    frame.fixups.push(Fixup {
                        at: self.here(),
                        entry,
                        label: Some(t.index()),
                    });
                }
                self.push(Op::BrxIdx {
                    index,
                    targets: vec![0; targets.len()],
                    join: NO_JOIN,
                });
                Ok(())
            }
            PtxOp::Ret if frame.call.is_some() => {
                self.branch(frame, None);
                Ok(())
            }
            PtxOp::Ret | PtxOp::Exit => {
                self.push(Op::Exit);
                Ok(())
            }
            PtxOp::Call => self.call(frame, inst),
            _ => {
                self.push(Op::Trap);
                Ok(())
            }
        }
    }

    fn branch(&mut self, frame: &mut Frame<'a>, label: Option<LabelId>) {
        frame.fixups.push(Fixup {
            at: self.here(),
            entry: 0,
            label: label.map(LabelId::index),
        });
        self.push(Op::Bra {
            target: 0,
            join: NO_JOIN,
        });
    }

    /// Copies the callee's body to the call. Parameters and results live in
    /// the caller's `.param` variables, which are local memory.
    fn call(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let (Some(Operand::Args(returns)), Some(Operand::Args(args))) =
            (inst.operands.first(), inst.operands.get(2))
        else {
            return invalid("a call without lists");
        };
        let Some(Operand::Sym(Symbol::Item(id), 0)) = inst.operands.get(1) else {
            return unsupported("an indirect call");
        };
        let callee = self.module.callee(*id);
        let name = self.module.item(*id).map_or("?", |i| i.name());
        if callee.is_none() && name == "__assertfail" {
            self.push(Op::Trap);
            return Ok(());
        }
        let nvshmem = callee.is_none() && name.starts_with("nvshmem");
        if callee.is_none() && !nvshmem {
            return unsupported(format!("the external function `{name}`"));
        }
        if self.calls.contains(id) {
            return unsupported("a recursive call");
        }
        if self.calls.len() >= MAX_DEPTH {
            return unsupported(format!("calls nested {MAX_DEPTH} deep"));
        }
        // Functions that call each other twice grow as powers of two.
        if self.inlined >= MAX_CALLS || self.kernel.code.len() > MAX_CODE {
            return unsupported("a kernel of so many instructions with all calls inlined");
        }
        self.inlined += 1;
        let mut place = |list: &[Operand]| -> Decoded<Vec<u32>> {
            list.iter()
                .map(|o| match o {
                    Operand::Sym(
                        s @ (Symbol::Local(_) | Symbol::Param(_) | Symbol::Return(_)),
                        _,
                    ) => self.symbol(frame, *s).map(|(_, at)| at as u32),
                    Operand::Imm(Imm::Int(_)) => unsupported("a constant argument"),
                    _ => unsupported("an argument that is not a .param variable"),
                })
                .collect()
        };
        let (params, returns) = (place(args)?, place(returns)?);
        let Some(callee) = callee else {
            let declared = self.module.functions().find(|f| f.name == name);
            return self.nvshmem(name, declared, params);
        };
        let call = Call { params, returns };
        // A guarded call is a branch around it.
        let skip = (self.guard != PSrc::TRUE).then(|| {
            let at = self.here();
            self.guard.negated = !self.guard.negated;
            self.push(Op::Bra {
                target: 0,
                join: NO_JOIN,
            });
            self.guard = PSrc::TRUE;
            at
        });
        self.calls.push(*id);
        let line = self.line;
        let done = self.function(callee, Some(call));
        self.line = line;
        self.calls.pop();
        done.map_err(|e| match e {
            SimError::Unsupported {
                what, text, line, ..
            } => Refusal::Unsupported(format!(
                "{what} (`{text}` in line {line} of `{}`)",
                callee.name
            )),
            other => Refusal::Invalid(format!("in `{}`: {other}", callee.name)),
        })?;
        if let Some(at) = skip {
            let here = self.here();
            if let Op::Bra { target, .. } = &mut self.kernel.code[at as usize].op {
                *target = here;
            }
        }
        Ok(())
    }
}

fn label(inst: &Inst, n: usize) -> Decoded<LabelId> {
    match inst.operands.get(n) {
        Some(Operand::Label(l)) => Ok(*l),
        _ => invalid("a label is needed"),
    }
}
