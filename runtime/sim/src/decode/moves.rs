//! Moves, selection, comparison and conversion (PTX ISA 9.7.6, 9.7.9).

use mcc_ptx::{Inst, Mod, Op as PtxOp, Operand, Type};

use super::arith::{rounding, wide};
use super::operands::Frame;
use super::{Decoded, Decoder, invalid, unsupported};
use crate::isa::{A32, A64, BoolOp, Cmp, CmpType, Count64, Cvt, Op, P_TEMP, P_TRASH, PSrc, R, Row};

impl<'a> Decoder<'a> {
    pub(super) fn mov(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
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

    pub(super) fn selp(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
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

    pub(super) fn setp(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
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

    pub(super) fn cvt(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
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
        // 16-bit registers keep the upper half clear.
        if let (Operand::Reg(r), Row::R32(d), Type::S8 | Type::S16) = (&inst.operands[0], d, to)
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
