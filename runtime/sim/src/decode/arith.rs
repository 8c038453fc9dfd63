//! Arithmetic, comparison, selection, moves and conversions.

use mcc_ptx::{Inst, Mod, Op as PtxOp, Operand, Type};

use super::operands::Frame;
use super::{Decoded, Decoder, invalid, unsupported};
use crate::isa::{
    A32, A64, BoolOp, Cmp, CmpType, Count64, Cvt, HalfOp, Op, P_TEMP, P_TRASH, PSrc, R, RndOp, Row,
    Shift,
};
use crate::numerics::approx::Approx;
use crate::numerics::convert::Rounding;

fn rounding(inst: &Inst) -> Option<Rounding> {
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

fn wide(t: Type) -> bool {
    t.bits() == 64
}

impl<'a> Decoder<'a> {
    pub(super) fn arith(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        if inst.has(Mod::Cc) || matches!(inst.op, PtxOp::Addc | PtxOp::Subc | PtxOp::Madc) {
            return unsupported("arithmetic with a carry");
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
    fn src32(&mut self, frame: &Frame<'a>, inst: &Inst, n: usize, ty: Type) -> Decoded<R> {
        match inst.operands.get(n) {
            Some(o) => self.s32(frame, o, ty),
            None => Ok(self.c32(0)),
        }
    }

    fn src64(&mut self, frame: &Frame<'a>, inst: &Inst, n: usize, ty: Type) -> Decoded<R> {
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
            return unsupported("packed 16-bit integers");
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
            PtxOp::Min | PtxOp::Max if inst.has(Mod::Relu) => return unsupported("integer .relu"),
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

    fn alu64(&mut self, frame: &Frame<'a>, inst: &Inst, f: A64, ty: Type) -> Decoded<()> {
        let a = self.src64(frame, inst, 1, ty)?;
        let b = self.src64(frame, inst, 2, ty)?;
        let c = self.src64(frame, inst, 3, ty)?;
        let d = self.d64(frame, &inst.operands[0])?;
        self.push(Op::Alu64 { f, d, a, b, c });
        Ok(())
    }

    fn f64(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        if rounding(inst).is_some_and(|r| r != Rounding::NearestEven) {
            return unsupported("directed rounding of f64");
        }
        let f = match inst.op {
            PtxOp::Add => A64::DAdd,
            PtxOp::Sub => A64::DSub,
            PtxOp::Mul => A64::DMul,
            PtxOp::Fma | PtxOp::Mad => A64::DFma,
            PtxOp::Div => A64::DDiv,
            PtxOp::Sqrt => A64::DSqrt,
            PtxOp::Rcp => A64::DRcp,
            PtxOp::Rsqrt => A64::DRsqrt,
            PtxOp::Min => A64::DMin,
            PtxOp::Max => A64::DMax,
            PtxOp::Neg => A64::DNeg,
            PtxOp::Abs => A64::DAbs,
            PtxOp::Copysign => A64::DCopysign,
            PtxOp::Testp => return self.testp(frame, inst, Type::F64),
            _ => return unsupported("this instruction on f64"),
        };
        self.alu64(frame, inst, f, Type::F64)
    }

    fn testp(&mut self, frame: &Frame<'a>, inst: &Inst, ty: Type) -> Decoded<()> {
        let tests = [
            Mod::Finite,
            Mod::Infinite,
            Mod::Number,
            Mod::Notanumber,
            Mod::Normal,
            Mod::Subnormal,
        ];
        let finite = tests.iter().position(|m| inst.has(*m)).unwrap_or(0) as u8;
        let a = self.source(frame, &inst.operands[1], ty)?;
        let d = self.dp(frame, &inst.operands[0])?;
        self.push(Op::Testp { finite, d, a });
        Ok(())
    }

    fn f32(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let (ftz, sat) = (inst.has(Mod::Ftz), inst.has(Mod::Sat));
        let approx = inst.has(Mod::Approx);
        let fast = match inst.op {
            PtxOp::Sin => Some(Approx::Sin),
            PtxOp::Cos => Some(Approx::Cos),
            PtxOp::Lg2 => Some(Approx::Lg2),
            PtxOp::Ex2 => Some(Approx::Ex2),
            PtxOp::Tanh => Some(Approx::Tanh),
            PtxOp::Rsqrt => Some(Approx::Rsqrt),
            PtxOp::Rcp if approx => Some(Approx::Rcp),
            PtxOp::Sqrt if approx => Some(Approx::Sqrt),
            _ => None,
        };
        let a = if inst.operands.len() > 1 {
            self.src32(frame, inst, 1, Type::F32)?
        } else {
            self.c32(0)
        };
        if let Some(f) = fast {
            let d = self.d32(frame, &inst.operands[0])?;
            self.push(Op::Approx { f, ftz, d, a });
            return Ok(());
        }
        if inst.op == PtxOp::Testp {
            return self.testp(frame, inst, Type::F32);
        }
        if inst.has(Mod::Xorsign) {
            return unsupported(".xorsign.abs");
        }
        let nan = inst.has(Mod::Nan);
        let (f, directed) = match inst.op {
            PtxOp::Add => (A32::FAdd, Some(RndOp::Add)),
            PtxOp::Sub => (A32::FSub, Some(RndOp::Sub)),
            PtxOp::Mul => (A32::FMul, Some(RndOp::Mul)),
            PtxOp::Fma | PtxOp::Mad => (A32::FFma, Some(RndOp::Fma)),
            // div.approx and div.full: the correctly rounded quotient is
            // inside their bounds.
            PtxOp::Div => (A32::FDiv, Some(RndOp::Div)),
            PtxOp::Rcp => (A32::FRcp, Some(RndOp::Rcp)),
            PtxOp::Sqrt => (A32::FSqrt, Some(RndOp::Sqrt)),
            PtxOp::Min => (if nan { A32::FMinNan } else { A32::FMin }, None),
            PtxOp::Max => (if nan { A32::FMaxNan } else { A32::FMax }, None),
            PtxOp::Neg => (A32::FNeg, None),
            PtxOp::Abs => (A32::FAbs, None),
            PtxOp::Copysign => (A32::Copysign, None),
            _ => return unsupported("this instruction on f32"),
        };
        let (b, c) = (
            self.src32(frame, inst, 2, Type::F32)?,
            self.src32(frame, inst, 3, Type::F32)?,
        );
        let d = self.d32(frame, &inst.operands[0])?;
        let mode = rounding(inst).unwrap_or(Rounding::NearestEven);
        self.push(match directed {
            Some(f) if mode != Rounding::NearestEven => Op::Rnd {
                f,
                mode,
                ftz,
                sat,
                d,
                a,
                b,
                c,
            },
            _ if ftz || sat => Op::AluF {
                f,
                ftz,
                sat,
                d,
                a,
                b,
                c,
            },
            _ => Op::Alu32 { f, d, a, b, c },
        });
        Ok(())
    }

    fn half(&mut self, frame: &mut Frame<'a>, inst: &'a Inst, ty: Type) -> Decoded<()> {
        if inst.has(Mod::Xorsign) || inst.has(Mod::Oob) {
            return unsupported("this modifier on half precision");
        }
        let nan = inst.has(Mod::Nan);
        let f = match inst.op {
            PtxOp::Add => HalfOp::Add,
            PtxOp::Sub => HalfOp::Sub,
            PtxOp::Mul => HalfOp::Mul,
            PtxOp::Fma => HalfOp::Fma,
            PtxOp::Min if nan => HalfOp::MinNan,
            PtxOp::Min => HalfOp::Min,
            PtxOp::Max if nan => HalfOp::MaxNan,
            PtxOp::Max => HalfOp::Max,
            PtxOp::Neg => HalfOp::Neg,
            PtxOp::Abs => HalfOp::Abs,
            PtxOp::Ex2 => HalfOp::Ex2,
            PtxOp::Tanh => HalfOp::Tanh,
            _ => return unsupported("this instruction on half precision"),
        };
        let pair = matches!(ty, Type::F16x2 | Type::Bf16x2);
        let bf16 = matches!(ty, Type::Bf16 | Type::Bf16x2);
        let (a, b) = (
            self.src32(frame, inst, 1, ty)?,
            self.src32(frame, inst, 2, ty)?,
        );
        let c = self.src32(frame, inst, 3, ty)?;
        let d = self.d32(frame, &inst.operands[0])?;
        let (ftz, sat, relu) = (inst.has(Mod::Ftz), inst.has(Mod::Sat), inst.has(Mod::Relu));
        self.push(Op::Half {
            f,
            bf16,
            pair,
            ftz,
            sat,
            relu,
            d,
            a,
            b,
            c,
        });
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

    fn mov(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let Some(ty) = inst.ty(0) else {
            return invalid("it names no type");
        };
        let (d, a) = (&inst.operands[0], &inst.operands[1]);
        if ty.bits() == 128 {
            return unsupported("a 128-bit move");
        }
        match (d, a) {
            (Operand::Vector(parts), _) => return self.unpack(frame, ty, parts, a),
            (_, Operand::Vector(parts)) => return self.pack(frame, ty, d, parts),
            _ => {}
        }
        if ty == Type::Pred {
            let d = self.dp(frame, d)?;
            let a = self.sp(frame, a)?;
            self.push(Op::Predicate {
                f: BoolOp::And,
                d,
                a,
                b: PSrc::TRUE,
            });
            return Ok(());
        }
        // A special register goes straight to its destination.
        if let Operand::Special(s) = a {
            let op = match self.dest(frame, d)? {
                Row::R32(d) => Op::Special32 { d, s: *s },
                Row::R64(d) => Op::Special64 { d, s: *s },
            };
            self.push(op);
            return Ok(());
        }
        if wide(ty) {
            let (d, a) = (self.d64(frame, d)?, self.s64(frame, a, ty)?);
            self.push(Op::Alu64 {
                f: A64::Mov,
                d,
                a,
                b: a,
                c: a,
            });
        } else {
            let (d, a) = (self.d32(frame, d)?, self.s32(frame, a, ty)?);
            self.push(Op::Alu32 {
                f: A32::Mov,
                d,
                a,
                b: a,
                c: a,
            });
        }
        Ok(())
    }

    /// `mov.b32 d, {lo, hi}` and `mov.b64 d, {a, b}` or `{a, b, c, d}`.
    fn pack(
        &mut self,
        frame: &mut Frame<'a>,
        ty: Type,
        d: &Operand,
        parts: &[Operand],
    ) -> Decoded<()> {
        let part = if parts.len() as u32 * 16 == ty.bits() {
            Type::B16
        } else {
            Type::B32
        };
        let rows = parts
            .iter()
            .map(|o| self.s32(frame, o, part))
            .collect::<Decoded<Vec<R>>>()?;
        match (ty.bits(), &rows[..]) {
            (32, &[lo, hi]) => {
                let d = self.d32(frame, d)?;
                self.push(Op::Alu32 {
                    f: A32::Pack16,
                    d,
                    a: lo,
                    b: hi,
                    c: lo,
                });
            }
            (64, &[lo, hi]) => {
                let d = self.d64(frame, d)?;
                self.push(Op::Pack64 { d, lo, hi });
            }
            (64, &[a, b, c, e]) => {
                let (lo, hi, d) = (self.temp32(), self.temp32(), self.d64(frame, d)?);
                self.push(Op::Alu32 {
                    f: A32::Pack16,
                    d: lo,
                    a,
                    b,
                    c: a,
                });
                self.push(Op::Alu32 {
                    f: A32::Pack16,
                    d: hi,
                    a: c,
                    b: e,
                    c,
                });
                self.push(Op::Pack64 { d, lo, hi });
            }
            _ => return unsupported("packing these widths"),
        }
        Ok(())
    }

    fn unpack(
        &mut self,
        frame: &mut Frame<'a>,
        ty: Type,
        parts: &[Operand],
        a: &Operand,
    ) -> Decoded<()> {
        // Results may share registers with the source: take a copy first.
        match (ty.bits(), parts) {
            (32, [lo, hi]) => {
                let a = self.s32(frame, a, ty)?;
                self.halves(frame, a, lo, hi)
            }
            (64, [lo, hi]) => {
                let (a, lo, hi) = (
                    self.s64(frame, a, ty)?,
                    self.d32(frame, lo)?,
                    self.d32(frame, hi)?,
                );
                self.push(Op::Count64 {
                    f: Count64::Low,
                    d: lo,
                    a,
                });
                self.push(Op::Count64 {
                    f: Count64::High,
                    d: hi,
                    a,
                });
                Ok(())
            }
            (64, [p0, p1, p2, p3]) => {
                let (a, lo, hi) = (self.s64(frame, a, ty)?, self.temp32(), self.temp32());
                self.push(Op::Count64 {
                    f: Count64::Low,
                    d: lo,
                    a,
                });
                self.push(Op::Count64 {
                    f: Count64::High,
                    d: hi,
                    a,
                });
                self.halves(frame, lo, p0, p1)?;
                self.halves(frame, hi, p2, p3)
            }
            _ => unsupported("unpacking these widths"),
        }
    }

    fn halves(&mut self, frame: &Frame<'a>, a: R, lo: &Operand, hi: &Operand) -> Decoded<()> {
        let (lo, hi) = (self.d32(frame, lo)?, self.d32(frame, hi)?);
        self.push(Op::Alu32 {
            f: A32::Low16,
            d: lo,
            a,
            b: a,
            c: a,
        });
        self.push(Op::Alu32 {
            f: A32::High16,
            d: hi,
            a,
            b: a,
            c: a,
        });
        Ok(())
    }

    fn selp(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let ty = inst.ty(0).unwrap_or(Type::B32);
        let p = self.sp(frame, &inst.operands[3])?;
        if wide(ty) {
            let (a, b) = (
                self.src64(frame, inst, 1, ty)?,
                self.src64(frame, inst, 2, ty)?,
            );
            let d = self.d64(frame, &inst.operands[0])?;
            self.push(Op::Sel64 { d, a, b, p });
        } else {
            let (a, b) = (
                self.src32(frame, inst, 1, ty)?,
                self.src32(frame, inst, 2, ty)?,
            );
            let d = self.d32(frame, &inst.operands[0])?;
            self.push(Op::Sel32 { d, a, b, p });
        }
        Ok(())
    }

    fn setp(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let set = inst.op == PtxOp::Set;
        let Some(ty) = inst.ty(usize::from(set)) else {
            return invalid("it names no type");
        };
        let Some(cmp) = inst.mods.iter().find_map(|m| comparison(*m)) else {
            return invalid("it names no comparison");
        };
        let kind = match ty {
            Type::F32 => CmpType::F32,
            Type::F64 => CmpType::F64,
            Type::F16 => CmpType::F16,
            Type::Bf16 => CmpType::Bf16,
            Type::S16 => CmpType::S16,
            Type::S32 => CmpType::S32,
            Type::S64 => CmpType::S64,
            t if wide(t) => CmpType::U64,
            t if t.is_float() => return unsupported("packed comparisons"),
            _ => CmpType::U32,
        };
        let (a, b) = if wide(ty) {
            (
                self.src64(frame, inst, 1, ty)?,
                self.src64(frame, inst, 2, ty)?,
            )
        } else {
            (
                self.src32(frame, inst, 1, ty)?,
                self.src32(frame, inst, 2, ty)?,
            )
        };
        let logic = inst.mods.iter().find_map(|m| {
            Some(match m {
                Mod::And => BoolOp::And,
                Mod::Or => BoolOp::Or,
                Mod::Xor => BoolOp::Xor,
                _ => return None,
            })
        });
        let join = match (logic, inst.operands.get(3)) {
            (Some(op), Some(c)) => Some((op, self.sp(frame, c)?)),
            _ => None,
        };
        let ftz = inst.has(Mod::Ftz);
        if set {
            self.push(Op::Setp {
                ty: kind,
                cmp,
                ftz,
                join,
                d: P_TEMP,
                q: P_TRASH,
                a,
                b,
            });
            let float = inst.ty(0) == Some(Type::F32);
            let (one, zero) = (
                self.c32(if float { 0x3f80_0000 } else { u32::MAX }),
                self.c32(0),
            );
            let d = self.d32(frame, &inst.operands[0])?;
            self.push(Op::Sel32 {
                d,
                a: one,
                b: zero,
                p: PSrc {
                    p: P_TEMP,
                    negated: false,
                },
            });
            return Ok(());
        }
        let (d, q) = match &inst.operands[0] {
            Operand::Pair(d, q) => (self.dp(frame, d)?, self.dp(frame, q)?),
            d => (self.dp(frame, d)?, P_TRASH),
        };
        self.push(Op::Setp {
            ty: kind,
            cmp,
            ftz,
            join,
            d,
            q,
            a,
            b,
        });
        Ok(())
    }

    fn cvt(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let (Some(to), Some(from)) = (inst.ty(0), inst.ty(1)) else {
            return invalid("it names no types");
        };
        let integral = [Mod::Rni, Mod::Rzi, Mod::Rmi, Mod::Rpi]
            .iter()
            .any(|m| inst.has(*m));
        let cvt = Cvt {
            to,
            from,
            rounding: rounding(inst),
            integral: integral && to.is_float(),
            ftz: inst.has(Mod::Ftz),
            sat: inst.has(Mod::Sat),
            satfinite: inst.has(Mod::Satfinite),
            relu: inst.has(Mod::Relu),
        };
        let packed =
            |t: Type| matches!(t, Type::F16x2 | Type::Bf16x2 | Type::E4m3x2 | Type::E5m2x2);
        if packed(to) && packed(from) {
            let (a, d) = (
                self.src32(frame, inst, 1, Type::B32)?,
                self.d32(frame, &inst.operands[0])?,
            );
            self.push(Op::CvtPacked { cvt, d, a });
            return Ok(());
        }
        if packed(to) {
            let (hi, lo) = (
                self.src32(frame, inst, 1, from)?,
                self.src32(frame, inst, 2, from)?,
            );
            let d = self.d32(frame, &inst.operands[0])?;
            self.push(Op::CvtPair { cvt, d, hi, lo });
            return Ok(());
        }
        let a = self.source(frame, &inst.operands[1], from)?;
        let d = self.dest(frame, &inst.operands[0])?;
        self.push(Op::Cvt { cvt, d, a });
        if let (Operand::Reg(r), Row::R32(d), true) = (&inst.operands[0], d, to == Type::S8)
            && frame.ty(*r).is_some_and(|t| t.bits() == 16)
        {
            self.cut16(d);
        }
        Ok(())
    }
}

fn comparison(m: Mod) -> Option<Cmp> {
    Some(match m {
        Mod::Eq => Cmp::Eq,
        Mod::Ne => Cmp::Ne,
        // `lo`, `ls`, `hi`, `hs` are the unsigned names of the same.
        Mod::Lt | Mod::Lo => Cmp::Lt,
        Mod::Le | Mod::Ls => Cmp::Le,
        Mod::Gt | Mod::Hi => Cmp::Gt,
        Mod::Ge | Mod::Hs => Cmp::Ge,
        Mod::Equ => Cmp::Equ,
        Mod::Neu => Cmp::Neu,
        Mod::Ltu => Cmp::Ltu,
        Mod::Leu => Cmp::Leu,
        Mod::Gtu => Cmp::Gtu,
        Mod::Geu => Cmp::Geu,
        Mod::Num => Cmp::Num,
        Mod::IsNan => Cmp::Nan,
        _ => return None,
    })
}
