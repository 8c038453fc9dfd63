//! Floating-point arithmetic: `f32`, `f64` and half precision (PTX ISA 9.7.3,
//! 9.7.4).

use mcc_ptx::{Inst, Mod, Op as PtxOp, Type};

use super::arith::rounding;
use super::operands::Frame;
use super::{Decoded, Decoder, unsupported};
use crate::isa::{A32, A64, HalfOp, Op, RndOp};
use crate::numerics::approx::Approx;
use crate::numerics::convert::Rounding;

impl<'a> Decoder<'a> {
    pub(super) fn f64(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let gross = inst.has(Mod::Approx) && inst.has(Mod::Ftz);
        let directed = match inst.op {
            PtxOp::Add => Some(RndOp::Add),
            PtxOp::Sub => Some(RndOp::Sub),
            PtxOp::Mul => Some(RndOp::Mul),
            PtxOp::Fma | PtxOp::Mad => Some(RndOp::Fma),
            PtxOp::Div => Some(RndOp::Div),
            PtxOp::Sqrt => Some(RndOp::Sqrt),
            PtxOp::Rcp => Some(RndOp::Rcp),
            _ => None,
        };
        let mode = rounding(inst).unwrap_or(Rounding::NearestEven);
        if let (Some(f), true) = (directed, mode != Rounding::NearestEven) {
            let (a, b, c) = (
                self.src64(frame, inst, 1, Type::F64)?,
                self.src64(frame, inst, 2, Type::F64)?,
                self.src64(frame, inst, 3, Type::F64)?,
            );
            let d = self.d64(frame, &inst.operands[0])?;
            self.push(Op::Rnd64 {
                f,
                mode,
                d,
                a,
                b,
                c,
            });
            return Ok(());
        }
        let f = match inst.op {
            PtxOp::Rcp if gross => A64::DRcpGross,
            PtxOp::Rsqrt if gross => A64::DRsqrtGross,
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

    pub(super) fn f32(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
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
            // div.full: the correctly rounded quotient is inside its bound.
            PtxOp::Div if approx => (A32::FDiv, Some(RndOp::DivApprox)),
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
            Some(f) if mode != Rounding::NearestEven || f == RndOp::DivApprox => Op::Rnd {
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

    pub(super) fn half(&mut self, frame: &mut Frame<'a>, inst: &'a Inst, ty: Type) -> Decoded<()> {
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
}
