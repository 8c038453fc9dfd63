//! `mma.sync` (PTX ISA "Warp-level matrix instructions"): which arithmetic it
//! asks for, and the registers of its four fragments.
//!
//! Its shapes, types and register counts are checked here, so that the executor
//! only has to follow them.

use mcc_ptx::{Inst, Mod, Operand, Type};

use super::memory::list;
use super::operands::Frame;
use super::{Decoded, Decoder, invalid, unsupported};
use crate::isa::{Mma, MmaKind, Op, R};
use crate::numerics::wgmma::Element;

impl<'a> Decoder<'a> {
    pub(super) fn mma(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<Op> {
        let (Some(shape), Some(d_type), Some(a_type), Some(b_type)) =
            (inst.shape(), inst.ty(0), inst.ty(1), inst.ty(2))
        else {
            return invalid("it names no shape or types");
        };
        let Some(k) = shape.k else {
            return invalid("its shape has no K");
        };
        let half = d_type == Type::F16;
        let kind = match (a_type, b_type) {
            (Type::F16, Type::F16) => MmaKind::Float {
                element: Element::F16,
                half,
            },
            (Type::Bf16, Type::Bf16) => MmaKind::Float {
                element: Element::Bf16,
                half,
            },
            (Type::Tf32, Type::Tf32) => MmaKind::Float {
                element: Element::Tf32,
                half,
            },
            (Type::E4m3 | Type::E5m2, Type::E4m3 | Type::E5m2) => MmaKind::Fp8 {
                a_e5m2: a_type == Type::E5m2,
                b_e5m2: b_type == Type::E5m2,
                half,
            },
            (Type::S8 | Type::U8, Type::S8 | Type::U8) => MmaKind::Integer {
                a_signed: a_type == Type::S8,
                b_signed: b_type == Type::S8,
                saturate: inst.has(Mod::Satfinite),
            },
            (Type::F64, Type::F64) => MmaKind::Double,
            _ => return unsupported(format!("mma.sync of {a_type:?} and {b_type:?}")),
        };
        let double = kind == MmaKind::Double;
        let o = &inst.operands;
        let d = list(&o[0])
            .iter()
            .map(|x| {
                if double {
                    self.d64(frame, x)
                } else {
                    self.d32(frame, x)
                }
            })
            .collect::<Decoded<Vec<R>>>()?;
        let mut source = |n: usize, ty: Type| -> Decoded<Vec<R>> {
            // A constant in a fragment is the bits of a whole register.
            let one = |d: &mut Self, x: &Operand| match ty {
                Type::F64 => d.s64(frame, x, ty),
                Type::F32 => d.s32(frame, x, ty),
                _ => d.s32(frame, x, Type::B32),
            };
            list(&o[n]).iter().map(|x| one(self, x)).collect()
        };
        let mma = Mma {
            k: k as u8,
            kind,
            a: source(1, a_type)?,
            b: source(2, b_type)?,
            c: source(3, d_type)?,
            d,
        };
        // A fragment is spread over 32 lanes in whole registers.
        let registers = |elements: u16, ty: Type| {
            let width = if double { 64 } else { 32 };
            usize::from(elements) * ty.bits() as usize / 32 / width
        };
        let counts = [
            ("D", mma.d.len(), registers(shape.m * shape.n, d_type)),
            ("A", mma.a.len(), registers(shape.m * k, a_type)),
            ("B", mma.b.len(), registers(shape.n * k, b_type)),
            ("C", mma.c.len(), registers(shape.m * shape.n, d_type)),
        ];
        for (name, found, wanted) in counts {
            if found != wanted {
                return invalid(format!("{found} registers of {name} instead of {wanted}"));
            }
        }
        Ok(Op::Mma(Box::new(mma)))
    }
}
