//! Function headers: returns, parameters, performance directives.

use std::collections::HashMap;

use super::{Parser, Result};
use crate::ast::{Directive, Function, FunctionKind, Item, ItemId, Linkage, Param, PtrAttr};
use crate::error::ParseErrorKind;
use crate::inst::Symbol;
use crate::kinds::Space;
use crate::lexer::{Tok, Token};

impl<'a> Parser<'a> {
    /// What follows `.entry` or `.func`.
    pub(super) fn function(&mut self, linkage: Linkage, kind: FunctionKind) -> Result<()> {
        let returns = if self.at_punct(b'(') {
            self.params()?
        } else {
            Vec::new()
        };
        let (name, token) = self.declared_name()?;
        let params = if self.at_punct(b'(') {
            self.params()?
        } else {
            Vec::new()
        };
        let mut directives = Vec::new();
        while self.peek().tok == Tok::Directive {
            directives.push(self.performance_directive()?);
        }
        let mut symbols = HashMap::new();
        let formals = returns
            .iter()
            .enumerate()
            .map(|(n, p)| (p, Symbol::Return(n as u32)));
        let formals = formals.chain(
            params
                .iter()
                .enumerate()
                .map(|(n, p)| (p, Symbol::Param(n as u32))),
        );
        for ((_, name, token), symbol) in formals {
            if *name != "_" && symbols.insert(*name, symbol).is_some() {
                return Err(self.error(*token, ParseErrorKind::Duplicate((*name).to_owned())));
            }
        }
        let bare = |list: Vec<(Param, &'a str, Token)>| list.into_iter().map(|p| p.0).collect();
        let mut function = Function {
            linkage,
            kind,
            name: name.to_owned(),
            returns: bare(returns),
            params: bare(params),
            directives,
            body: None,
        };
        if self.eat(b';') {
            return self.declare(name, token, Item::Function(function));
        }
        if !self.at_punct(b'{') {
            return Err(self.expected("`{` or `;`"));
        }
        // The name is known inside the body: a function may call itself.
        let id = ItemId(self.items.len() as u32);
        let first = *self.names.entry(name).or_insert(id);
        function.body = Some(self.body(symbols)?);
        if first == id {
            self.names.remove(name);
        }
        self.declare(name, token, Item::Function(function))
    }

    /// `(.param .b64 a, .param .align 64 .b8 tm[128])`.
    pub(super) fn params(&mut self) -> Result<Vec<(Param, &'a str, Token)>> {
        self.punct(b'(')?;
        let mut list = Vec::new();
        while !self.eat(b')') {
            list.push(self.param()?);
            if !self.at_punct(b')') {
                self.punct(b',')?;
            }
        }
        Ok(list)
    }

    fn param(&mut self) -> Result<(Param, &'a str, Token)> {
        self.directive("param")?;
        let mut align = if self.eat_directive("align") {
            Some(self.alignment()?)
        } else {
            None
        };
        let ty = self.ty()?;
        let mut ptr = None;
        if self.eat_directive("ptr") {
            let token = self.peek();
            let space =
                Space::from_name(self.name_of(token)).filter(|_| token.tok == Tok::Directive);
            self.at += usize::from(space.is_some());
            let align = if self.eat_directive("align") {
                Some(self.alignment()?)
            } else {
                None
            };
            ptr = Some(PtrAttr { space, align });
        } else if align.is_none() && self.eat_directive("align") {
            align = Some(self.alignment()?);
        }
        let (name, token) = self.declared_name()?;
        let mut array = None;
        if self.eat(b'[') {
            array = Some(if self.at_punct(b']') { 0 } else { self.u64()? });
            self.punct(b']')?;
        }
        Ok((
            Param {
                name: name.to_owned(),
                ty,
                align,
                array,
                ptr,
            },
            name,
            token,
        ))
    }

    fn performance_directive(&mut self) -> Result<Directive> {
        let token = self.peek();
        self.at += 1;
        Ok(match self.name_of(token) {
            "maxntid" => Directive::MaxNtid(self.extents()?),
            "reqntid" => Directive::ReqNtid(self.extents()?),
            "minnctapersm" => Directive::MinNctaPerSm(self.u32()?),
            "maxnctapersm" => Directive::MaxNctaPerSm(self.u32()?),
            "maxnreg" => Directive::MaxNreg(self.u32()?),
            "reqnctapercluster" => Directive::ReqNctaPerCluster(self.extents()?),
            "maxclusterrank" => Directive::MaxClusterRank(self.u32()?),
            "explicitcluster" => Directive::ExplicitCluster,
            "noreturn" => Directive::NoReturn,
            "pragma" => {
                let text = self.string()?;
                self.punct(b';')?;
                Directive::Pragma(text)
            }
            name => {
                return Err(self.error(token, ParseErrorKind::Directive(name.to_owned())));
            }
        })
    }
}
