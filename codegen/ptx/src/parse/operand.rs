//! Operands (PTX ISA 6).

use super::Result;
use super::body::BodyParser;
use super::variable::signed;
use crate::error::ParseErrorKind;
use crate::inst::{Address, Base, Imm, Operand};
use crate::lexer::{Number, Tok, Token};
use crate::sreg::SpecialReg;

impl<'a> BodyParser<'_, 'a> {
    /// One operand. `label` says that a bare name here is a label.
    pub(super) fn operand(&mut self, label: bool) -> Result<Operand> {
        let token = self.p.peek();
        match token.tok {
            Tok::Punct(b'[') => self.address_operand(),
            Tok::Punct(b'{') => Ok(Operand::Vector(self.list(b'{', b'}')?)),
            Tok::Punct(b'!') => {
                self.p.at += 1;
                let token = self.p.peek();
                let name = self.p.word()?;
                match self.find_reg(name) {
                    Some(reg) => Ok(Operand::Not(reg)),
                    None => Err(self
                        .p
                        .error(token, ParseErrorKind::Undeclared(name.to_owned()))),
                }
            }
            Tok::Word if label => {
                let name = self.p.word()?;
                Ok(Operand::Label(self.label_ref(name, token)))
            }
            _ => {
                let first = self.simple()?;
                if self.p.eat(b'|') {
                    let second = self.simple()?;
                    return Ok(Operand::Pair(Box::new(first), Box::new(second)));
                }
                Ok(first)
            }
        }
    }

    /// A comma-separated list of simple operands between two brackets.
    pub(super) fn list(&mut self, open: u8, close: u8) -> Result<Vec<Operand>> {
        self.p.punct(open)?;
        let mut list = Vec::new();
        while !self.p.eat(close) {
            list.push(self.simple()?);
            if !self.p.at_punct(close) {
                self.p.punct(b',')?;
            }
        }
        Ok(list)
    }

    /// A register, constant, special register, symbol or `_`.
    fn simple(&mut self) -> Result<Operand> {
        let token = self.p.peek();
        match token.tok {
            Tok::Word => {
                self.p.at += 1;
                self.named(self.p.text(token), token)
            }
            Tok::Number | Tok::Punct(b'-' | b'+') => {
                let negative = self.p.eat(b'-');
                if !negative {
                    self.p.eat(b'+');
                }
                Ok(Operand::Imm(match signed(self.p.number()?, negative) {
                    Number::Int(v) => Imm::Int(v as i64),
                    Number::F32(v) => Imm::F32(v),
                    Number::F64(v) => Imm::F64(v),
                }))
            }
            _ => Err(self.p.expected("an operand")),
        }
    }

    fn named(&mut self, name: &'a str, token: Token) -> Result<Operand> {
        if name == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(reg) = self.find_reg(name) {
            return Ok(Operand::Reg(reg));
        }
        if let Some(special) = SpecialReg::parse(name) {
            return Ok(Operand::Special(special));
        }
        match self.find_symbol(name) {
            Some(symbol) => Ok(Operand::Sym(symbol, self.p.offset()?)),
            None => Err(self
                .p
                .error(token, ParseErrorKind::Undeclared(name.to_owned()))),
        }
    }

    /// `[base+offset]` or `[base+offset, {coordinates}]`.
    fn address_operand(&mut self) -> Result<Operand> {
        self.p.punct(b'[')?;
        let token = self.p.peek();
        let base = if token.tok == Tok::Word {
            self.p.at += 1;
            let name = self.p.text(token);
            match (self.find_reg(name), self.find_symbol(name)) {
                (Some(reg), _) => Base::Reg(reg),
                (None, Some(symbol)) => Base::Sym(symbol),
                (None, None) => {
                    return Err(self
                        .p
                        .error(token, ParseErrorKind::Undeclared(name.to_owned())));
                }
            }
        } else {
            Base::Abs
        };
        let offset = if base == Base::Abs {
            let negative = self.p.eat(b'-');
            let value = self.p.u64()? as i64;
            if negative {
                value.wrapping_neg()
            } else {
                value
            }
        } else {
            self.p.offset()?
        };
        let address = Address { base, offset };
        let operand = if self.p.eat(b',') {
            Operand::Tensor {
                map: address,
                coords: self.list(b'{', b'}')?,
            }
        } else {
            Operand::Mem(address)
        };
        self.p.punct(b']')?;
        Ok(operand)
    }
}
