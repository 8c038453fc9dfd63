//! Loads, stores, atomics, address conversions and asynchronous copies.

use mcc_ptx::{Inst, Mod, Op as PtxOp, Operand, Space as PtxSpace, Type};

use super::operands::Frame;
use super::{Decoded, Decoder, invalid, unsupported};
use crate::isa::{
    A32, Addr, Atom, AtomOp, Bulk, BulkKind, CpAsync, Ld, Op, PSrc, R, Row, Scope, Space, St,
};

pub(super) fn space_of(s: Option<PtxSpace>) -> Space {
    match s {
        None => Space::Generic,
        Some(PtxSpace::Global | PtxSpace::Const) => Space::Global,
        Some(PtxSpace::Local) => Space::Local,
        Some(s) if s.is_param() => Space::Param,
        Some(_) => Space::Shared,
    }
}

pub(super) fn list(o: &Operand) -> &[Operand] {
    if let Operand::Vector(v) = o {
        v
    } else {
        std::slice::from_ref(o)
    }
}

pub(super) fn atom_op(inst: &Inst) -> Decoded<AtomOp> {
    let found = inst.mods.iter().find_map(|m| {
        Some(match m {
            Mod::Add => AtomOp::Add,
            Mod::Min => AtomOp::Min,
            Mod::Max => AtomOp::Max,
            Mod::And => AtomOp::And,
            Mod::Or => AtomOp::Or,
            Mod::Xor => AtomOp::Xor,
            Mod::Exch => AtomOp::Exch,
            Mod::Cas => AtomOp::Cas,
            Mod::Inc => AtomOp::Inc,
            Mod::Dec => AtomOp::Dec,
            _ => return None,
        })
    });
    found.map_or_else(|| invalid("it names no operation"), Ok)
}

impl<'a> Decoder<'a> {
    pub(super) fn memory(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let op = match inst.op {
            PtxOp::Ld | PtxOp::Ldu => return self.load(frame, inst),
            PtxOp::St => self.store(frame, inst)?,
            PtxOp::Atom | PtxOp::Red => self.atomic(frame, inst)?,
            PtxOp::Cvta => {
                let ty = inst.ty(0).unwrap_or(Type::U64);
                let a = self.source(frame, &inst.operands[1], ty)?;
                let d = self.dest(frame, &inst.operands[0])?;
                Op::Cvta {
                    space: space_of(inst.space(0)),
                    to: inst.has(Mod::To),
                    d,
                    a,
                }
            }
            PtxOp::Isspacep => {
                let a = self.source(frame, &inst.operands[1], Type::U64)?;
                Op::Isspacep {
                    space: space_of(inst.space(0)),
                    d: self.dp(frame, &inst.operands[0])?,
                    a,
                }
            }
            PtxOp::Mapa => {
                let ty = inst.ty(0).unwrap_or(Type::U32);
                let a = self.source(frame, &inst.operands[1], ty)?;
                let rank = self.s32(frame, &inst.operands[2], Type::U32)?;
                Op::Mapa {
                    generic: inst.space(0).is_none(),
                    d: self.dest(frame, &inst.operands[0])?,
                    a,
                    rank,
                }
            }
            PtxOp::Getctarank => {
                let ty = inst.ty(0).unwrap_or(Type::U32);
                let a = self.source(frame, &inst.operands[1], ty)?;
                Op::Getctarank {
                    generic: inst.space(0).is_none(),
                    d: self.d32(frame, &inst.operands[0])?,
                    a,
                }
            }
            PtxOp::Prefetch if inst.has(Mod::TensormapMod) => {
                let (space, addr) = self.mem(frame, inst, 0, space_of(inst.space(0)))?;
                Op::TensormapCheck { addr, space }
            }
            PtxOp::TensormapReplace => self.map_replace(frame, inst)?,
            PtxOp::TensormapCpFenceproxy => {
                let (_, to) = self.mem(frame, inst, 0, Space::Global)?;
                let (_, from) = self.mem(frame, inst, 1, Space::Shared)?;
                if self.imm(inst, 2)? != 128 {
                    return invalid("a tensor map has 128 bytes");
                }
                Op::MapCopy { to, from }
            }
            // Hints change nothing that a program can see.
            PtxOp::Createpolicy | PtxOp::CreatepolicyCvt => {
                let (d, zero) = (self.d64(frame, &inst.operands[0])?, self.c64(0));
                Op::Alu64 {
                    f: crate::isa::A64::Mov,
                    d,
                    a: zero,
                    b: zero,
                    c: zero,
                }
            }
            PtxOp::Prefetch
            | PtxOp::Prefetchu
            | PtxOp::Applypriority
            | PtxOp::CpAsyncBulkPrefetch
            | PtxOp::CpAsyncBulkPrefetchTensor => Op::Nop,
            PtxOp::Discard => return unsupported("discarding memory"),
            PtxOp::CpAsync => self.cp_async(frame, inst)?,
            PtxOp::CpAsyncBulk | PtxOp::CpReduceAsyncBulk => self.bulk(frame, inst)?,
            _ => self.bulk_tensor(frame, inst)?,
        };
        self.push(op);
        Ok(())
    }

    fn load(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<()> {
        let Some(ty) = inst.ty(0) else {
            return invalid("it names no type");
        };
        if ty.bits() > 64 {
            return unsupported("a 128-bit element");
        }
        let (space, addr) = self.mem(frame, inst, 1, space_of(inst.space(0)))?;
        let mut dst = Vec::new();
        let mut cut = Vec::new();
        for o in list(&inst.operands[0]) {
            let row = self.dest(frame, o)?;
            dst.push(row);
            // An s8 in a 16-bit register: registers of 16 bits keep their
            // upper half clear.
            if let (Operand::Reg(r), Row::R32(row), true) = (o, row, ty.is_signed())
                && frame.ty(*r).is_some_and(|t| t.bits() == 16)
            {
                cut.push(row);
            }
        }
        let size = ty.bytes() as u8;
        self.push(Op::Ld(Box::new(Ld {
            space,
            size,
            signed: ty.is_signed(),
            addr,
            dst,
            order: super::sync::order(inst, None),
        })));
        for d in cut {
            self.cut16(d);
        }
        Ok(())
    }

    pub(super) fn cut16(&mut self, d: R) {
        let zero = self.c32(0);
        self.push(Op::Alu32 {
            f: A32::Low16,
            d,
            a: d,
            b: zero,
            c: zero,
        });
    }

    fn store(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<Op> {
        let Some(ty) = inst.ty(0) else {
            return invalid("it names no type");
        };
        if ty.bits() > 64 {
            return unsupported("a 128-bit element");
        }
        let (space, addr) = self.mem(frame, inst, 0, space_of(inst.space(0)))?;
        let src = list(&inst.operands[1])
            .iter()
            .map(|o| self.source(frame, o, ty))
            .collect::<Decoded<Vec<Row>>>()?;
        Ok(Op::St(Box::new(St {
            space,
            size: ty.bytes() as u8,
            addr,
            src,
            order: super::sync::order(inst, None),
        })))
    }

    fn atomic(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<Op> {
        let Some(ty) = inst.ty(0) else {
            return invalid("it names no type");
        };
        if ty.bits() > 64 {
            return unsupported("a 128-bit atomic");
        }
        let op = atom_op(inst)?;
        let returns = inst.op == PtxOp::Atom;
        let first = usize::from(returns);
        let (space, addr) = self.mem(frame, inst, first, space_of(inst.space(0)))?;
        let b = list(&inst.operands[first + 1])
            .iter()
            .map(|o| self.source(frame, o, ty))
            .collect::<Decoded<Vec<Row>>>()?;
        let c = match op {
            AtomOp::Cas => Some(self.source(frame, &inst.operands[first + 2], ty)?),
            _ => None,
        };
        let dst = if returns {
            let rows = list(&inst.operands[0]).iter().map(|o| self.dest(frame, o));
            Some(rows.collect::<Decoded<Vec<Row>>>()?)
        } else {
            None
        };
        Ok(Op::Atom(Box::new(Atom {
            op,
            ty,
            space,
            addr,
            dst,
            b,
            c,
            // PTX ISA, "atom" and "red": relaxed at the scope of the device
            // when they name nothing else.
            order: super::sync::order(inst, Some(Scope::Gpu)),
        })))
    }

    fn cp_async(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<Op> {
        let (_, dst) = self.mem(frame, inst, 0, Space::Shared)?;
        let (_, src) = self.mem(frame, inst, 1, Space::Global)?;
        let bytes = self.imm(inst, 2)?;
        let legal = if inst.has(Mod::Cg) {
            bytes == 16
        } else {
            matches!(bytes, 4 | 8 | 16)
        };
        if !legal {
            return invalid(format!("cp.async of {bytes} bytes"));
        }
        let mut src_bytes = None;
        let mut ignore: Option<PSrc> = None;
        let hint = usize::from(inst.has(Mod::L2CacheHint));
        let rest = inst
            .operands
            .get(3..inst.operands.len() - hint)
            .unwrap_or(&[]);
        if let Some(o) = rest.first() {
            match o {
                Operand::Reg(r) if frame.ty(*r) == Some(Type::Pred) => {
                    ignore = Some(self.sp(frame, o)?)
                }
                _ => src_bytes = Some(self.s32(frame, o, Type::U32)?),
            }
        }
        Ok(Op::CpAsync(Box::new(CpAsync {
            dst,
            src,
            bytes: bytes as u8,
            src_bytes,
            ignore,
        })))
    }

    fn bulk(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<Op> {
        let reduce = if inst.op == PtxOp::CpReduceAsyncBulk {
            let Some(ty) = inst.ty(0) else {
                return invalid("it names no type");
            };
            // Bits of a width take the unsigned operation.
            let ty = match ty {
                Type::B32 => Type::U32,
                Type::B64 => Type::U64,
                t => t,
            };
            Some((atom_op(inst)?, ty))
        } else {
            None
        };
        let bytes = self.s32(frame, &inst.operands[2], Type::U32)?;
        let to_global = inst.space(0) == Some(PtxSpace::Global);
        if to_global {
            let (_, dst) = self.mem(frame, inst, 0, Space::Global)?;
            let (_, shared) = self.mem(frame, inst, 1, Space::Shared)?;
            let kind = BulkKind::Store { dst, bytes, reduce };
            return Ok(Op::Bulk(Box::new(Bulk {
                kind,
                shared,
                mbar: None,
                multicast: None,
            })));
        }
        if reduce.is_some() {
            return unsupported("a bulk reduction to shared memory");
        }
        let (_, shared) = self.mem(frame, inst, 0, Space::Shared)?;
        let src_space = space_of(inst.space(1));
        let (_, src) = self.mem(frame, inst, 1, src_space)?;
        let (_, mbar) = self.mem(frame, inst, 3, Space::Shared)?;
        let multicast = self.multicast(frame, inst, 4)?;
        let kind = BulkKind::Load {
            src,
            src_space,
            bytes,
        };
        Ok(Op::Bulk(Box::new(Bulk {
            kind,
            shared,
            mbar: Some(mbar),
            multicast,
        })))
    }

    fn multicast(&mut self, frame: &Frame<'a>, inst: &Inst, n: usize) -> Decoded<Option<R>> {
        match inst.operands.get(n) {
            Some(o) if inst.has(Mod::MulticastCluster) => {
                Ok(Some(self.s32(frame, o, Type::U16)?))
            }
            _ => Ok(None),
        }
    }

    fn bulk_tensor(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Decoded<Op> {
        if inst.has(Mod::Im2col) || inst.has(Mod::Im2colNoOffs) {
            return unsupported("im2col mode");
        }
        let load = inst.space(0) != Some(PtxSpace::Global);
        let tensor = usize::from(load);
        let Some(Operand::Tensor { map, coords }) = inst.operands.get(tensor) else {
            return invalid("a tensor operand is needed");
        };
        let (space, map) = self.address(frame, map, Space::Generic)?;
        let map = self.generic(space, map);
        let coords = coords
            .iter()
            .map(|c| self.s32(frame, c, Type::S32))
            .collect::<Decoded<Vec<R>>>()?;
        let (_, shared) = self.mem(frame, inst, 1 - tensor, Space::Shared)?;
        let (kind, mbar, multicast) = if load {
            let (_, mbar) = self.mem(frame, inst, 2, Space::Shared)?;
            let multicast = self.multicast(frame, inst, 3)?;
            (BulkKind::LoadTensor { map, coords }, Some(mbar), multicast)
        } else {
            let reduce = match inst.op {
                PtxOp::CpReduceAsyncBulkTensor => Some(atom_op(inst)?),
                _ => None,
            };
            (
                BulkKind::StoreTensor {
                    map,
                    coords,
                    reduce,
                },
                None,
                None,
            )
        };
        Ok(Op::Bulk(Box::new(Bulk {
            kind,
            shared,
            mbar,
            multicast,
        })))
    }

    /// A symbol's address in its own space as a generic one.
    fn generic(&mut self, space: Space, a: Addr) -> Addr {
        match space {
            Space::Param => Addr {
                offset: a.offset.wrapping_add(crate::memory::PARAM_BASE as i64),
                ..a
            },
            _ => a,
        }
    }
}
