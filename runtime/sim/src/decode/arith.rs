//! Integer arithmetic and logic (PTX ISA 9.7.1, 9.7.8), and the choice of the
//! decoder for everything else that only touches registers.

use mcc_ptx::{Inst, Mod, Op as PtxOp, Operand, Type};

use super::operands::Frame;
use super::{Decoded, Decoder, unsupported};
use crate::isa::{A32, A64, BoolOp, Count64, Op, PSrc, R, Shift};
use crate::numerics::convert::Rounding;

pub(super) fn rounding(inst: &Inst) -> Option<Rounding> {
    inst.mods.iter().find_map(|m| {
        Some(match m {
            Mod::Rn | Mod::Rni => Rounding::NearestEven,
            Mod::Rz | Mod::Rzi => Rounding::Zero,
            Mod::Rm | Mod::Rmi => Rounding::Down,
            Mod::Rp | Mod::Rpi => Rounding::Up,
            Mod::Rna => Rounding::NearestAway,
            _ => return None,
        })
    })
}

pub(super) fn wide(t: Type) -> bool {
    t.bits() == 64
}

impl<'a> Decoder<'a> {
    pub(super) fn arith(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        if inst.has(Mod::Cc) || matches!(inst.op, PtxOp::Addc | PtxOp::Subc | PtxOp::Madc) {
            return self.carry(frame, inst);
        }
        match inst.op {
            PtxOp::Mov => self.mov(frame, inst),
            PtxOp::Cvt => self.cvt(frame, inst),
            PtxOp::Setp | PtxOp::Set => self.setp(frame, inst),
            PtxOp::Selp => self.selp(frame, inst),
            _ => {
                let Some(ty) = inst.ty(0) else {
                    return unsupported("this instruction");
                };
                if ty == Type::Pred {
                    return self.predicate_logic(frame, inst);
                }
                if matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2) {
                    return self.half(frame, inst, ty);
                }
                match ty {
                    Type::F32 => self.f32(frame, inst),
                    Type::F64 => self.f64(frame, inst),
                    t if wide(t) => self.int64(frame, inst, t),
                    t => self.int32(frame, inst, t),
                }
            }
        }
    }

    /// The n-th source as a 32-bit row; zero when there is none.
    pub(super) fn src32(
        &mut self,
        frame: &Frame<'a>,
        inst: &Inst,
        n: usize,
        ty: Type,
    ) -> Decoded<R> {
        match inst.operands.get(n) {
            Some(o) => self.s32(frame, o, ty),
            None => Ok(self.c32(0)),
        }
    }

    pub(super) fn src64(
        &mut self,
        frame: &Frame<'a>,
        inst: &Inst,
        n: usize,
        ty: Type,
    ) -> Decoded<R> {
        match inst.operands.get(n) {
            Some(o) => self.s64(frame, o, ty),
            None => Ok(self.c64(0)),
        }
    }

    fn int32(&mut self, frame: &mut Frame<'a>, inst: &'a Inst, ty: Type) -> Decoded<()> {
        let s = ty.is_signed();
        let by = |signed: A32, unsigned: A32| if s { signed } else { unsigned };
        let hi = inst.has(Mod::Hi);
        if matches!(ty, Type::U16x2 | Type::S16x2) {
            return self.packed16(frame, inst, s);
        }
        let f = match inst.op {
            PtxOp::Mul | PtxOp::Mad if inst.has(Mod::Wide) => {
                return self.mul_wide(frame, inst, ty);
            }
            PtxOp::Add if inst.has(Mod::Sat) => A32::AddSat,
            PtxOp::Sub if inst.has(Mod::Sat) => A32::SubSat,
            PtxOp::Add => A32::Add,
            PtxOp::Sub => A32::Sub,
            PtxOp::Mul if hi && ty.bits() == 16 => A32::MulHi16,
            PtxOp::Mul if hi => by(A32::MulHiS, A32::MulHiU),
            PtxOp::Mul => A32::MulLo,
            PtxOp::Mad if hi && (inst.has(Mod::Sat) || ty.bits() == 16) => {
                return unsupported("this form of mad.hi");
            }
            PtxOp::Mad if hi => by(A32::MadHiS, A32::MadHiU),
            PtxOp::Mad => A32::MadLo,
            PtxOp::Div => by(A32::DivS, A32::DivU),
            PtxOp::Rem => by(A32::RemS, A32::RemU),
            PtxOp::Min if inst.has(Mod::Relu) => A32::MinRelu,
            PtxOp::Max if inst.has(Mod::Relu) => A32::MaxRelu,
            PtxOp::Min => by(A32::MinS, A32::MinU),
            PtxOp::Max => by(A32::MaxS, A32::MaxU),
            PtxOp::Abs => A32::AbsS,
            PtxOp::Neg => A32::Neg,
            PtxOp::Sad => by(A32::Sad, A32::SadU),
            PtxOp::And => A32::And,
            PtxOp::Or => A32::Or,
            PtxOp::Xor => A32::Xor,
            PtxOp::Not => A32::Not,
            PtxOp::Cnot => A32::Cnot,
            PtxOp::Shl => A32::Shl,
            PtxOp::Shr => by(A32::ShrS, A32::ShrU),
            PtxOp::Popc => A32::Popc,
            PtxOp::Clz => A32::Clz,
            PtxOp::Brev => A32::Brev,
            PtxOp::Bfind if inst.has(Mod::Shiftamt) => by(A32::BfindShiftS, A32::BfindShiftU),
            PtxOp::Bfind => by(A32::BfindS, A32::BfindU),
            PtxOp::Bfe => by(A32::BfeS, A32::BfeU),
            PtxOp::Bmsk if inst.has(Mod::Clamp) => A32::Bmsk,
            PtxOp::Prmt => {
                let modes = [Mod::F4e, Mod::B4e, Mod::Rc8, Mod::Ecl, Mod::Ecr, Mod::Rc16];
                if modes.iter().any(|m| inst.has(*m)) {
                    return unsupported("this mode of prmt");
                }
                A32::Prmt
            }
            PtxOp::Shf => match (inst.has(Mod::L), inst.has(Mod::Wrap)) {
                (true, true) => A32::ShfLWrap,
                (true, false) => A32::ShfLClamp,
                (false, true) => A32::ShfRWrap,
                (false, false) => A32::ShfRClamp,
            },
            PtxOp::Slct if inst.ty(1) == Some(Type::S32) => A32::Slct,
            PtxOp::Dp4a if inst.ty(1) == Some(ty) => by(A32::Dp4aSS, A32::Dp4aUU),
            PtxOp::Lop3 => return self.lop3(frame, inst),
            PtxOp::Bfi => {
                let o = &inst.operands;
                let (a, b) = (self.s32(frame, &o[1], ty)?, self.s32(frame, &o[2], ty)?);
                let (pos, len) = (
                    self.s32(frame, &o[3], Type::U32)?,
                    self.s32(frame, &o[4], Type::U32)?,
                );
                let d = self.d32(frame, &o[0])?;
                self.push(Op::Bfi { d, a, b, pos, len });
                return Ok(());
            }
            _ => return unsupported("this instruction"),
        };
        // popc, clz and bfind of 64 bits come through `int64`.
        let shift = matches!(inst.op, PtxOp::Shl | PtxOp::Shr);
        let second = if shift || matches!(inst.op, PtxOp::Bfe) {
            Type::U32
        } else {
            ty
        };
        let a = self.src32(frame, inst, 1, ty)?;
        let b = self.src32(frame, inst, 2, second)?;
        let c = self.src32(
            frame,
            inst,
            3,
            if inst.op == PtxOp::Bfe { Type::U32 } else { ty },
        )?;
        let d = self.d32(frame, &inst.operands[0])?;
        self.push(if ty.bits() == 16 {
            Op::Alu16 {
                f,
                signed: s,
                d,
                a,
                b,
                c,
            }
        } else {
            Op::Alu32 { f, d, a, b, c }
        });
        Ok(())
    }

    /// `.u16x2` and `.s16x2`: two operations on 16 bits.
    fn packed16(&mut self, frame: &mut Frame<'a>, inst: &'a Inst, signed: bool) -> Decoded<()> {
        let f = match (inst.op, signed) {
            (PtxOp::Add, _) => A32::Add,
            (PtxOp::Min, true) => A32::MinS,
            (PtxOp::Min, false) => A32::MinU,
            (PtxOp::Max, true) => A32::MaxS,
            (PtxOp::Max, false) => A32::MaxU,
            _ => return unsupported("this instruction on packed 16-bit integers"),
        };
        let a = self.src32(frame, inst, 1, Type::B32)?;
        let b = self.src32(frame, inst, 2, Type::B32)?;
        let out = self.d32(frame, &inst.operands[0])?;
        let c = self.c32(0);
        let mut halves = [0; 2];
        for (half, part) in halves.iter_mut().zip([A32::Low16, A32::High16]) {
            let (x, y, d) = (self.temp32(), self.temp32(), self.temp32());
            for (d, a) in [(x, a), (y, b)] {
                self.push(Op::Alu32 {
                    f: part,
                    d,
                    a,
                    b: c,
                    c,
                });
            }
            let mut push = |f, a, b| {
                self.push(Op::Alu16 {
                    f,
                    signed,
                    d,
                    a,
                    b,
                    c,
                });
            };
            push(f, x, y);
            if inst.has(Mod::Relu) {
                push(A32::MaxS, d, c);
            }
            *half = d;
        }
        self.push(Op::Alu32 {
            f: A32::Pack16,
            d: out,
            a: halves[0],
            b: halves[1],
            c,
        });
        Ok(())
    }

    fn lop3(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        if matches!(inst.operands[0], Operand::Pair(..)) {
            return unsupported("lop3 with a predicate");
        }
        let lut = self.imm(inst, 4)? as u8;
        let a = self.src32(frame, inst, 1, Type::B32)?;
        let b = self.src32(frame, inst, 2, Type::B32)?;
        let c = self.src32(frame, inst, 3, Type::B32)?;
        let d = self.d32(frame, &inst.operands[0])?;
        self.push(Op::Lop3 { lut, d, a, b, c });
        Ok(())
    }

    fn mul_wide(&mut self, frame: &mut Frame<'a>, inst: &'a Inst, ty: Type) -> Decoded<()> {
        let signed = ty.is_signed();
        let (a, b) = (
            self.src32(frame, inst, 1, ty)?,
            self.src32(frame, inst, 2, ty)?,
        );
        if ty.bits() == 16 {
            // 32-bit result: extend both and multiply.
            let c = self.src32(frame, inst, 3, Type::B32)?;
            let d = self.d32(frame, &inst.operands[0])?;
            let (mut x, mut y) = (a, b);
            if signed {
                (x, y) = (self.extend16(a), self.extend16(b));
            }
            self.push(Op::Alu32 {
                f: A32::MadLo,
                d,
                a: x,
                b: y,
                c,
            });
            return Ok(());
        }
        let c = self.src64(frame, inst, 3, Type::B64)?;
        let d = self.d64(frame, &inst.operands[0])?;
        self.push(Op::MulWide { signed, d, a, b, c });
        Ok(())
    }

    fn extend16(&mut self, a: R) -> R {
        let (d, zero, bits) = (self.temp32(), self.c32(0), self.c32(16));
        self.push(Op::Alu32 {
            f: A32::BfeS,
            d,
            a,
            b: zero,
            c: bits,
        });
        d
    }

    fn int64(&mut self, frame: &mut Frame<'a>, inst: &'a Inst, ty: Type) -> Decoded<()> {
        let s = ty.is_signed();
        let by = |signed: A64, unsigned: A64| if s { signed } else { unsigned };
        let hi = inst.has(Mod::Hi);
        let f = match inst.op {
            PtxOp::Add => A64::Add,
            PtxOp::Sub => A64::Sub,
            PtxOp::Mul if hi => by(A64::MulHiS, A64::MulHiU),
            PtxOp::Mul => A64::MulLo,
            PtxOp::Mad if !hi => A64::MadLo,
            PtxOp::Div => by(A64::DivS, A64::DivU),
            PtxOp::Rem => by(A64::RemS, A64::RemU),
            PtxOp::Min => by(A64::MinS, A64::MinU),
            PtxOp::Max => by(A64::MaxS, A64::MaxU),
            PtxOp::Abs => A64::AbsS,
            PtxOp::Neg => A64::Neg,
            PtxOp::And => A64::And,
            PtxOp::Or => A64::Or,
            PtxOp::Xor => A64::Xor,
            PtxOp::Not => A64::Not,
            PtxOp::Cnot => A64::Cnot,
            PtxOp::Brev => A64::Brev,
            PtxOp::Shl | PtxOp::Shr => {
                let a = self.src64(frame, inst, 1, ty)?;
                let b = self.src32(frame, inst, 2, Type::U32)?;
                let d = self.d64(frame, &inst.operands[0])?;
                let f = match (inst.op, s) {
                    (PtxOp::Shl, _) => Shift::Left,
                    (_, true) => Shift::RightS,
                    _ => Shift::RightU,
                };
                self.push(Op::Shift64 { f, d, a, b });
                return Ok(());
            }
            PtxOp::Popc | PtxOp::Clz | PtxOp::Bfind => {
                let shift = inst.has(Mod::Shiftamt);
                let f = match (inst.op, s, shift) {
                    (PtxOp::Popc, ..) => Count64::Popc,
                    (PtxOp::Clz, ..) => Count64::Clz,
                    (_, false, false) => Count64::BfindU,
                    (_, true, false) => Count64::BfindS,
                    (_, false, true) => Count64::BfindShiftU,
                    (_, true, true) => Count64::BfindShiftS,
                };
                let a = self.src64(frame, inst, 1, ty)?;
                let d = self.d32(frame, &inst.operands[0])?;
                self.push(Op::Count64 { f, d, a });
                return Ok(());
            }
            PtxOp::Bfe => {
                let a = self.src64(frame, inst, 1, ty)?;
                let (b, c) = (
                    self.src32(frame, inst, 2, Type::U32)?,
                    self.src32(frame, inst, 3, Type::U32)?,
                );
                let d = self.d64(frame, &inst.operands[0])?;
                self.push(Op::Bfe64 {
                    signed: s,
                    d,
                    a,
                    b,
                    c,
                });
                return Ok(());
            }
            PtxOp::Bfi => {
                let (a, b) = (
                    self.src64(frame, inst, 1, ty)?,
                    self.src64(frame, inst, 2, ty)?,
                );
                let (pos, len) = (
                    self.src32(frame, inst, 3, Type::U32)?,
                    self.src32(frame, inst, 4, Type::U32)?,
                );
                let d = self.d64(frame, &inst.operands[0])?;
                self.push(Op::Bfi64 { d, a, b, pos, len });
                return Ok(());
            }
            _ => return unsupported("this instruction on 64 bits"),
        };
        self.alu64(frame, inst, f, ty)
    }

    pub(super) fn alu64(
        &mut self,
        frame: &Frame<'a>,
        inst: &Inst,
        f: A64,
        ty: Type,
    ) -> Decoded<()> {
        let a = self.src64(frame, inst, 1, ty)?;
        let b = self.src64(frame, inst, 2, ty)?;
        let c = self.src64(frame, inst, 3, ty)?;
        let d = self.d64(frame, &inst.operands[0])?;
        self.push(Op::Alu64 { f, d, a, b, c });
        Ok(())
    }

    fn predicate_logic(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let d = self.dp(frame, &inst.operands[0])?;
        let a = self.sp(frame, &inst.operands[1])?;
        let op = match inst.op {
            PtxOp::Not => Op::Predicate {
                f: BoolOp::And,
                d,
                a: PSrc {
                    negated: !a.negated,
                    ..a
                },
                b: PSrc::TRUE,
            },
            PtxOp::And | PtxOp::Or | PtxOp::Xor => {
                let f = match inst.op {
                    PtxOp::And => BoolOp::And,
                    PtxOp::Or => BoolOp::Or,
                    _ => BoolOp::Xor,
                };
                Op::Predicate {
                    f,
                    d,
                    a,
                    b: self.sp(frame, &inst.operands[2])?,
                }
            }
            _ => return unsupported("this instruction on predicates"),
        };
        self.push(op);
        Ok(())
    }
}
