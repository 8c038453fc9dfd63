//! One instruction: predicate, opcode, modifiers, operands, source line.
//!
//! Registers, labels and symbols are resolved ids: two registers of one name
//! in two scopes have two ids. Equality ignores the line, because a printed
//! module has other lines than its source.

use std::fmt;

use crate::ast::ItemId;
use crate::kinds::{Scope, Space, Type};
use crate::mods::{Mod, Shape};
use crate::sreg::SpecialReg;
use crate::table::Op;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl $name {
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
pub(crate) use id;

id! {
    /// A register of one function; ids are dense, in order of declaration.
    Reg
}
id! {
    /// A label of one function; ids are dense, in order of definition.
    LabelId
}
id! {
    /// A variable declared inside a function body; an index into `Body::vars`.
    LocalId
}

/// What a name that is neither register nor label stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Symbol {
    /// A module-scope variable or function.
    Item(ItemId),
    /// An index into `Function::params`.
    Param(u32),
    /// An index into `Function::returns`.
    Return(u32),
    Local(LocalId),
}

/// A constant operand, as written. Floating-point constants are their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Imm {
    /// Decimal or hexadecimal. A value of 2^63 or more is stored as the i64 of
    /// the same 64 bits, as PTX ISA 4.5.1 has it.
    Int(i64),
    /// `0fXXXXXXXX`.
    F32(u32),
    /// `0dXXXXXXXXXXXXXXXX`, or a decimal floating-point literal.
    F64(u64),
}

/// The base of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Base {
    Reg(Reg),
    Sym(Symbol),
    /// `[imm]`: an absolute address.
    Abs,
}

/// `[base + offset]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    pub base: Base,
    pub offset: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operand {
    Reg(Reg),
    Imm(Imm),
    Special(SpecialReg),
    /// The address of a variable, as a value: `sym` or `sym+4`.
    Sym(Symbol, i64),
    /// `[base+offset]`.
    Mem(Address),
    /// `[map, {c0, c1}]`.
    Tensor {
        map: Address,
        coords: Vec<Operand>,
    },
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `d|p`: a result and a predicate.
    Pair(Box<Operand>, Box<Operand>),
    /// `!p` where an operand may be negated.
    Not(Reg),
    /// `_`.
    Sink,
    /// A branch target, a `.branchtargets` table or a `.callprototype`.
    Label(LabelId),
    /// `(a, b)`: the returns or the arguments of a call.
    Args(Vec<Operand>),
}

/// `@p` or `@!p`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guard {
    pub reg: Reg,
    pub negated: bool,
}

#[derive(Debug, Clone)]
pub struct Inst {
    pub guard: Option<Guard>,
    pub op: Op,
    /// In the order of the table row, which is the order of the text.
    pub mods: Vec<Mod>,
    /// `call` always has three or four: returns, callee, arguments, prototype.
    pub operands: Vec<Operand>,
    /// 1-based line of the source; 0 when the instruction was not parsed.
    pub line: u32,
}

impl PartialEq for Inst {
    fn eq(&self, other: &Inst) -> bool {
        self.guard == other.guard
            && self.op == other.op
            && self.mods == other.mods
            && self.operands == other.operands
    }
}

impl Eq for Inst {}

impl Inst {
    pub fn has(&self, m: Mod) -> bool {
        self.mods.contains(&m)
    }

    /// The n-th type among the modifiers, from 0: `cvt.rn.f16.f32` has two.
    pub fn ty(&self, n: usize) -> Option<Type> {
        self.mods.iter().filter_map(|m| m.ty()).nth(n)
    }

    /// The n-th state space among the modifiers, from 0.
    pub fn space(&self, n: usize) -> Option<Space> {
        let space = |m: &Mod| {
            if let Mod::Space(s) = m {
                Some(*s)
            } else {
                None
            }
        };
        self.mods.iter().filter_map(space).nth(n)
    }

    pub fn scope(&self) -> Option<Scope> {
        self.mods.iter().find_map(|m| {
            if let Mod::Scope(s) = m {
                Some(*s)
            } else {
                None
            }
        })
    }

    pub fn shape(&self) -> Option<Shape> {
        self.mods.iter().find_map(|m| {
            if let Mod::Shape(s) = m {
                Some(*s)
            } else {
                None
            }
        })
    }

    /// 1, 2, 4 or 8, from `.v2`, `.v4` and `.v8`.
    pub fn vector_len(&self) -> usize {
        self.mods
            .iter()
            .find_map(|m| match m {
                Mod::V2 => Some(2),
                Mod::V4 => Some(4),
                Mod::V8 => Some(8),
                _ => None,
            })
            .unwrap_or(1)
    }
}

/// The opcode with its modifiers, as in the text: `ld.global.v4.b32`.
pub struct OpcodeText<'a>(pub &'a Inst);

impl fmt::Display for OpcodeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.op.mnemonic())?;
        for m in &self.0.mods {
            write!(f, ".{m}")?;
        }
        Ok(())
    }
}
