//! Variables and their initialisers (PTX ISA 5.4).

use super::{Parser, Result};
use crate::ast::{Init, Linkage, Variable};
use crate::error::ParseErrorKind;
use crate::kinds::Space;
use crate::lexer::{Number, Tok, Token};

/// Nesting of initialiser lists; PTX arrays have few dimensions.
const MAX_DEPTH: usize = 16;

impl<'a> Parser<'a> {
    /// What follows the state space, up to and with the semicolon:
    /// `.align 16 .b8 a[64], b[2] = {1, 2};`
    pub(super) fn variables(
        &mut self,
        linkage: Linkage,
        space: Space,
    ) -> Result<Vec<(Variable, &'a str, Token)>> {
        let (mut align, mut lanes, mut managed) = (None, 1, false);
        let ty = loop {
            if self.eat_directive("align") {
                align = Some(self.alignment()?);
            } else if self.eat_directive("v2") {
                lanes = 2;
            } else if self.eat_directive("v4") {
                lanes = 4;
            } else if self.eat_directive("attribute") {
                self.punct(b'(')?;
                self.directive("managed")?;
                self.punct(b')')?;
                managed = true;
            } else {
                break self.ty()?;
            }
        };
        let mut list = Vec::new();
        loop {
            let (name, token) = self.declared_name()?;
            let dims = self.dims()?;
            let init = if self.eat(b'=') {
                Some(self.init(0)?)
            } else {
                None
            };
            let owned = name.to_owned();
            let variable = Variable {
                linkage,
                space,
                align,
                lanes,
                ty,
                name: owned,
                dims,
                init,
                managed,
            };
            list.push((variable, name, token));
            if !self.eat(b',') {
                break;
            }
        }
        self.punct(b';')?;
        Ok(list)
    }

    pub(super) fn alignment(&mut self) -> Result<u32> {
        let token = self.peek();
        let align = self.u32()?;
        if align.is_power_of_two() {
            Ok(align)
        } else {
            Err(self.error(token, ParseErrorKind::Number(self.text(token).to_owned())))
        }
    }

    /// `[]`, `[4][4]` or nothing. Only the first extent may be absent.
    fn dims(&mut self) -> Result<Vec<Option<u64>>> {
        let mut dims = Vec::new();
        while self.eat(b'[') {
            if dims.is_empty() && self.eat(b']') {
                dims.push(None);
                continue;
            }
            dims.push(Some(self.u64()?));
            self.punct(b']')?;
        }
        Ok(dims)
    }

    fn init(&mut self, depth: usize) -> Result<Init> {
        let token = self.peek();
        if self.eat(b'{') {
            if depth == MAX_DEPTH {
                return Err(self.error(token, ParseErrorKind::TooDeep(MAX_DEPTH)));
            }
            let mut list = Vec::new();
            while !self.eat(b'}') {
                list.push(self.init(depth + 1)?);
                if !self.at_punct(b'}') {
                    self.punct(b',')?;
                }
            }
            return Ok(Init::List(list));
        }
        if token.tok == Tok::Word {
            let name = self.word()?;
            if name == "generic" && self.eat(b'(') {
                let init = self.init_address(true, None)?;
                return Ok(init);
            }
            self.at -= 1;
            return self.init_address_bare();
        }
        let negative = self.eat(b'-');
        match self.number()? {
            Number::Int(mask) if !negative && self.eat(b'(') => {
                self.init_address(false, Some(mask))
            }
            value => Ok(match signed(value, negative) {
                Number::Int(v) => Init::Int(v as i64),
                Number::F32(v) => Init::F32(v),
                Number::F64(v) => Init::F64(v),
            }),
        }
    }

    /// `sym+4` without parentheses.
    fn init_address_bare(&mut self) -> Result<Init> {
        let item = self.item_name()?;
        let offset = self.offset()?;
        Ok(Init::Addr {
            item,
            offset,
            generic: false,
            mask: None,
        })
    }

    /// The rest of `generic(sym)+4` or `0xFF00(sym+4)`, after the parenthesis.
    fn init_address(&mut self, generic: bool, mask: Option<u64>) -> Result<Init> {
        // LLVM nests the two: 0xFF00(generic(sym)+4).
        if !generic && self.text(self.peek()) == "generic" {
            self.at += 1;
            self.punct(b'(')?;
            let Init::Addr { item, offset, .. } = self.init_address(true, None)? else {
                return Err(self.expected("an address"));
            };
            self.punct(b')')?;
            return Ok(Init::Addr {
                item,
                offset,
                generic: true,
                mask,
            });
        }
        let item = self.item_name()?;
        let inner = self.offset()?;
        self.punct(b')')?;
        let outer = self.offset()?;
        Ok(Init::Addr {
            item,
            offset: inner.wrapping_add(outer),
            generic,
            mask,
        })
    }

    fn item_name(&mut self) -> Result<crate::ast::ItemId> {
        let token = self.peek();
        let name = self.word()?;
        let undeclared = || self.error(token, ParseErrorKind::Undeclared(name.to_owned()));
        self.names.get(name).copied().ok_or_else(undeclared)
    }

    /// `+4`, `-4`, `+-4` or nothing.
    pub(super) fn offset(&mut self) -> Result<i64> {
        let plus = self.eat(b'+');
        let minus = self.eat(b'-');
        if !plus && !minus {
            return Ok(0);
        }
        let value = self.u64()? as i64;
        Ok(if minus { value.wrapping_neg() } else { value })
    }
}

/// Applies a minus sign to a constant.
pub(super) fn signed(value: Number, negative: bool) -> Number {
    match value {
        _ if !negative => value,
        Number::Int(v) => Number::Int(v.wrapping_neg()),
        Number::F32(v) => Number::F32(v ^ 1 << 31),
        Number::F64(v) => Number::F64(v ^ 1 << 63),
    }
}
