//! PTX: one instruction table, syntax tree, parser and printer.
//!
//! ```text
//!   text ──parse──▶ Module ──print──▶ text        parse(print(m)) == m
//!                     ▲
//!              table (rows.rs): mnemonic, modifiers, operands, least PTX and SM
//! ```
//!
//! Whoever writes PTX has it checked by [`parse`]; whoever runs PTX walks the
//! [`Module`], in which every register, label and symbol is an id. All that is
//! known of an instruction's form comes from its row in the table.

pub mod ast;
mod error;
mod inst;
mod kinds;
mod lexer;
mod mods;
mod parse;
mod print;
mod sreg;
mod table;

pub use ast::{
    Body, Directive, Function, FunctionKind, Init, Item, ItemId, Linkage, Module, Param, PtrAttr,
    RegDecl, Stmt, Variable, Version,
};
pub use error::{ParseError, ParseErrorKind};
pub use inst::{
    Address, Base, Guard, Imm, Inst, LabelId, LocalId, OpcodeText, Operand, Reg, Symbol,
};
pub use kinds::{Scope, Space, Type};
pub use mods::{Mod, Shape};
pub use parse::parse;
pub use print::InstText;
pub use sreg::{SpecialReg, SpecialText};
pub use table::{Alt, Form, Kind, Op, Slot};
