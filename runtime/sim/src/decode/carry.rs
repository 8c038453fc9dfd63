//! Extended-precision integer arithmetic (PTX ISA, the section of that name).

use mcc_ptx::{Inst, Mod, Op as PtxOp, Type};

use super::arith::wide;
use super::operands::Frame;
use super::{Decoded, Decoder, unsupported};
use crate::isa::{Carry, CarryOp, Op};

impl<'a> Decoder<'a> {
    pub(super) fn carry(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let f = match inst.op {
            PtxOp::Add | PtxOp::Addc => CarryOp::Add,
            PtxOp::Sub | PtxOp::Subc => CarryOp::Sub,
            PtxOp::Mad | PtxOp::Madc if inst.has(Mod::Hi) => CarryOp::MadHi,
            PtxOp::Mad | PtxOp::Madc => CarryOp::MadLo,
            _ => return unsupported("a carry of this instruction"),
        };
        let ty = inst.ty(0).unwrap_or(Type::U32);
        let (d, a, b, c) = if wide(ty) {
            (
                self.d64(frame, &inst.operands[0])?,
                self.src64(frame, inst, 1, ty)?,
                self.src64(frame, inst, 2, ty)?,
                self.src64(frame, inst, 3, ty)?,
            )
        } else {
            (
                self.d32(frame, &inst.operands[0])?,
                self.src32(frame, inst, 1, ty)?,
                self.src32(frame, inst, 2, ty)?,
                self.src32(frame, inst, 3, ty)?,
            )
        };
        self.push(Op::Carry(Box::new(Carry {
            f,
            wide: wide(ty),
            signed: ty.is_signed(),
            takes: matches!(inst.op, PtxOp::Addc | PtxOp::Subc | PtxOp::Madc),
            gives: inst.has(Mod::Cc),
            d,
            a,
            b,
            c,
        })));
        Ok(())
    }
}
