//! Operands: registers to rows, constants to constant rows, symbols to
//! addresses.

use mcc_ptx::{Address, Base, Body, Imm, Inst as PtxInst, Item, Operand, Reg, Symbol, Type};

use super::slots::Slot;
use super::{Decoded, Decoder, invalid, is_global, unsupported};
use crate::isa::{Addr, Inst, Op, P, P_TRASH, PSrc, R, Row, Space, TRASH};

/// Where an inlined function finds its parameters and results in local memory.
#[derive(Debug, Clone, Default)]
pub struct Call {
    pub params: Vec<u32>,
    pub returns: Vec<u32>,
}

/// One function, or one inlined copy of it.
pub struct Frame<'a> {
    pub body: &'a Body,
    slots: Vec<Slot>,
    pub call: Option<Call>,
    /// Offsets of the body's variables in their windows.
    pub vars: Vec<u32>,
    pub labels: Vec<Option<u32>>,
    /// Branches whose target, or n-th target, is a label or the return.
    pub fixups: Vec<Fixup>,
}

#[derive(Debug, Clone, Copy)]
pub struct Fixup {
    pub at: u32,
    pub entry: usize,
    /// `None` jumps behind the inlined function.
    pub label: Option<usize>,
}

impl<'a> Frame<'a> {
    pub fn new(body: &'a Body, slots: Vec<Slot>, call: Option<Call>) -> Frame<'a> {
        let labels = vec![None; body.labels.len()];
        Frame {
            body,
            slots,
            call,
            vars: Vec::new(),
            labels,
            fixups: Vec::new(),
        }
    }

    /// Writes the targets of all branches, `end` being the return.
    pub fn patch(&self, end: u32, code: &mut [Inst]) {
        for fix in &self.fixups {
            let to = fix
                .label
                .map_or(Some(end), |l| self.labels[l])
                .unwrap_or(end);
            match &mut code[fix.at as usize].op {
                Op::Bra { target, .. } => *target = to,
                Op::BrxIdx { targets, .. } => targets[fix.entry] = to,
                _ => {}
            }
        }
    }

    fn slot(&self, r: Reg) -> Slot {
        self.slots.get(r.index()).copied().unwrap_or(Slot::None)
    }

    /// The row of a register of up to 32 bits.
    pub fn row32(&self, r: Reg) -> Option<R> {
        match self.slot(r) {
            Slot::R32(row) => Some(row),
            _ => None,
        }
    }

    fn name(&self, r: Reg) -> String {
        self.body.reg_name(r).unwrap_or_default()
    }

    pub fn ty(&self, r: Reg) -> Option<Type> {
        self.body.reg_type(r)
    }

    pub fn pred(&self, r: Reg) -> Decoded<P> {
        match self.slot(r) {
            Slot::P(p) => Ok(p),
            _ => invalid(format!("{} is not a predicate", self.name(r))),
        }
    }

    /// A row of either width.
    pub fn row(&self, r: Reg) -> Decoded<Row> {
        match self.slot(r) {
            Slot::R32(r) => Ok(Row::R32(r)),
            Slot::R64(r) => Ok(Row::R64(r)),
            Slot::P(_) => invalid(format!("{} is a predicate", self.name(r))),
            Slot::None => unsupported(format!("{}, a register of 128 bits,", self.name(r))),
        }
    }
}

impl<'a> Decoder<'a> {
    pub(super) fn c32(&mut self, v: u32) -> R {
        self.kernel.constant32(&mut self.consts32, v)
    }

    pub(super) fn c64(&mut self, v: u64) -> R {
        self.kernel.constant64(&mut self.consts64, v)
    }

    /// A constant as the bits of a type.
    fn imm_bits(&self, imm: Imm, ty: Type) -> u64 {
        use crate::numerics::convert::{BF16, F16, Rounding, encode};
        match (imm, ty) {
            (Imm::Int(v), Type::F32) => u64::from((v as f32).to_bits()),
            (Imm::Int(v), Type::F64) => (v as f64).to_bits(),
            (Imm::Int(v), _) => v as u64,
            (Imm::F32(b), Type::F64) => f64::from(f32::from_bits(b)).to_bits(),
            (Imm::F32(b), _) => u64::from(b),
            (Imm::F64(b), Type::F32) => u64::from((f64::from_bits(b) as f32).to_bits()),
            (Imm::F64(b), Type::F16) => {
                encode(f64::from_bits(b), F16, Rounding::NearestEven, false).into()
            }
            (Imm::F64(b), Type::Bf16) => {
                encode(f64::from_bits(b), BF16, Rounding::NearestEven, false).into()
            }
            (Imm::F64(b), _) => b,
        }
    }

    /// A source of at most 32 bits. `ty` says how constants are meant.
    pub(super) fn s32(&mut self, frame: &Frame<'a>, o: &Operand, ty: Type) -> Decoded<R> {
        match o {
            Operand::Reg(r) => match frame.row(*r)? {
                Row::R32(r) => Ok(r),
                Row::R64(a) => {
                    // A wide register where a narrow one is read: its low half.
                    let d = self.temp32();
                    self.push(Op::Count64 {
                        f: crate::isa::Count64::Low,
                        d,
                        a,
                    });
                    Ok(d)
                }
            },
            Operand::Imm(imm) => {
                let mask = if ty.bits() < 32 {
                    (1u64 << ty.bits()) - 1
                } else {
                    u64::from(u32::MAX)
                };
                let v = self.imm_bits(*imm, ty) & mask;
                Ok(self.c32(v as u32))
            }
            Operand::Special(s) => {
                let d = self.temp32();
                self.push(Op::Special32 { d, s: *s });
                Ok(d)
            }
            Operand::Sym(s, off) => {
                let (_, at) = self.symbol(frame, *s)?;
                Ok(self.c32(at.wrapping_add(*off as u64) as u32))
            }
            _ => invalid("an operand of another kind is needed"),
        }
    }

    /// A source of 64 bits.
    pub(super) fn s64(&mut self, frame: &Frame<'a>, o: &Operand, ty: Type) -> Decoded<R> {
        match o {
            Operand::Reg(r) => match frame.row(*r)? {
                Row::R64(r) => Ok(r),
                Row::R32(lo) => {
                    let (d, hi) = (self.temp64(), self.c32(0));
                    self.push(Op::Pack64 { d, lo, hi });
                    Ok(d)
                }
            },
            Operand::Imm(imm) => {
                let v = self.imm_bits(*imm, ty);
                Ok(self.c64(v))
            }
            Operand::Special(s) => {
                let d = self.temp64();
                self.push(Op::Special64 { d, s: *s });
                Ok(d)
            }
            Operand::Sym(s, off) => {
                let (_, at) = self.symbol(frame, *s)?;
                Ok(self.c64(at.wrapping_add(*off as u64)))
            }
            _ => invalid("an operand of another kind is needed"),
        }
    }

    /// A source whose row width follows the type.
    pub(super) fn source(&mut self, frame: &Frame<'a>, o: &Operand, ty: Type) -> Decoded<Row> {
        // A register keeps its own width: `st.b32` of a 64-bit one is legal.
        if let Operand::Reg(r) = o {
            return frame.row(*r);
        }
        Ok(if ty.bits() == 64 {
            Row::R64(self.s64(frame, o, ty)?)
        } else {
            Row::R32(self.s32(frame, o, ty)?)
        })
    }

    pub(super) fn temp32(&mut self) -> R {
        self.files.r32 += 1;
        (self.files.r32 - 1) as R
    }

    pub(super) fn temp64(&mut self) -> R {
        self.files.r64 += 1;
        (self.files.r64 - 1) as R
    }

    pub(super) fn d32(&mut self, frame: &Frame<'a>, o: &Operand) -> Decoded<R> {
        match o {
            Operand::Sink => Ok(TRASH),
            Operand::Reg(r) => match frame.row(*r)? {
                Row::R32(r) => Ok(r),
                Row::R64(_) => invalid(format!("{} is wider than the result", frame.name(*r))),
            },
            _ => invalid("the result must be a register"),
        }
    }

    pub(super) fn d64(&mut self, frame: &Frame<'a>, o: &Operand) -> Decoded<R> {
        match o {
            Operand::Sink => Ok(TRASH),
            Operand::Reg(r) => match frame.row(*r)? {
                Row::R64(r) => Ok(r),
                Row::R32(_) => invalid(format!("{} is narrower than the result", frame.name(*r))),
            },
            _ => invalid("the result must be a register"),
        }
    }

    /// A destination of either width.
    pub(super) fn dest(&mut self, frame: &Frame<'a>, o: &Operand) -> Decoded<Row> {
        match o {
            Operand::Sink => Ok(Row::R32(TRASH)),
            Operand::Reg(r) => frame.row(*r),
            _ => invalid("the result must be a register"),
        }
    }

    pub(super) fn dp(&mut self, frame: &Frame<'a>, o: &Operand) -> Decoded<P> {
        match o {
            Operand::Sink => Ok(P_TRASH),
            Operand::Reg(r) => frame.pred(*r),
            _ => invalid("the result must be a predicate"),
        }
    }

    pub(super) fn sp(&mut self, frame: &Frame<'a>, o: &Operand) -> Decoded<PSrc> {
        match o {
            Operand::Reg(r) => Ok(PSrc {
                p: frame.pred(*r)?,
                negated: false,
            }),
            Operand::Not(r) => Ok(PSrc {
                p: frame.pred(*r)?,
                negated: true,
            }),
            Operand::Imm(Imm::Int(v)) => Ok(PSrc {
                negated: *v == 0,
                ..PSrc::TRUE
            }),
            _ => invalid("a predicate is needed"),
        }
    }

    pub(super) fn imm(&self, inst: &PtxInst, n: usize) -> Decoded<i64> {
        match inst.operands.get(n) {
            Some(Operand::Imm(Imm::Int(v))) => Ok(*v),
            _ => invalid("a constant is needed"),
        }
    }

    /// State space and address of a symbol.
    pub(super) fn symbol(&mut self, frame: &Frame<'a>, s: Symbol) -> Decoded<(Space, u64)> {
        match s {
            Symbol::Item(id) => match self.module.item(id) {
                Some(Item::Variable(v)) if v.space.is_shared_cta() => {
                    match self.shared.get(&v.name) {
                        Some(&at) => Ok((Space::Shared, at.into())),
                        None => invalid(format!("`{}` has no place in shared memory", v.name)),
                    }
                }
                Some(Item::Variable(v)) if is_global(v.space) => match self.addresses.get(&id) {
                    Some(&at) => Ok((Space::Global, at)),
                    None => invalid(format!("`{}` is declared but not defined", v.name)),
                },
                _ => unsupported("the address of a function"),
            },
            Symbol::Param(i) => match &frame.call {
                Some(c) => Ok((
                    Space::Local,
                    c.params.get(i as usize).copied().unwrap_or(0).into(),
                )),
                None => Ok((Space::Param, self.kernel.params[i as usize].offset.into())),
            },
            Symbol::Return(i) => {
                let at = frame.call.as_ref().and_then(|c| c.returns.get(i as usize));
                Ok((Space::Local, at.copied().unwrap_or(0).into()))
            }
            Symbol::Local(id) => {
                let v = &frame.body.vars[id.index()];
                let at = u64::from(frame.vars[id.index()]);
                Ok((
                    if v.space.is_shared_cta() {
                        Space::Shared
                    } else {
                        Space::Local
                    },
                    at,
                ))
            }
        }
    }

    /// An address in a state space; a symbol brings its own.
    pub(super) fn address(
        &mut self,
        frame: &Frame<'a>,
        a: &Address,
        space: Space,
    ) -> Decoded<(Space, Addr)> {
        match a.base {
            Base::Reg(r) => Ok((
                space,
                Addr {
                    base: frame.row(r)?,
                    offset: a.offset,
                },
            )),
            Base::Abs => {
                let base = Row::R64(self.c64(a.offset as u64));
                Ok((space, Addr { base, offset: 0 }))
            }
            Base::Sym(s) => {
                let (own, at) = self.symbol(frame, s)?;
                let base = Row::R64(self.c64(at.wrapping_add(a.offset as u64)));
                // `ld.param` of an inlined function reads local memory.
                Ok((own, Addr { base, offset: 0 }))
            }
        }
    }

    pub(super) fn mem(
        &mut self,
        frame: &Frame<'a>,
        inst: &PtxInst,
        n: usize,
        space: Space,
    ) -> Decoded<(Space, Addr)> {
        match inst.operands.get(n) {
            Some(Operand::Mem(a)) => self.address(frame, a, space),
            _ => invalid("an address is needed"),
        }
    }
}
