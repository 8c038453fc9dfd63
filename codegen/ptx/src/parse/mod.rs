//! The parser: tokens to [`Module`].
//!
//! This file has the cursor and the module level; `function.rs` reads function
//! headers, `body.rs` bodies and scopes, `opcode.rs` and `operand.rs` one
//! instruction. What comes out is resolved: no name is left to look up, and
//! every instruction fits a form of the table.

mod body;
mod function;
mod opcode;
mod operand;
mod variable;

use std::collections::HashMap;
use std::rc::Rc;

use crate::ast::{Item, ItemId, Linkage, Module, Version};
use crate::error::{ParseError, ParseErrorKind};
use crate::kinds::{Space, Type};
use crate::lexer::{Number, Tok, Token, error_at, lex, number};
use opcode::Opcode;

/// Parses a module and checks every instruction against the table.
pub fn parse(source: &str) -> Result<Module, ParseError> {
    let tokens = lex(source)?;
    let mut parser = Parser {
        source,
        tokens,
        at: 0,
        items: Vec::new(),
        names: HashMap::new(),
        opcodes: HashMap::new(),
    };
    parser.module()
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

pub(crate) struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Token>,
    at: usize,
    items: Vec<Item>,
    /// The first item of each name: a definition after its declaration keeps
    /// the id of the declaration.
    names: HashMap<&'a str, ItemId>,
    /// Opcode texts already looked up; a kernel has few distinct ones.
    opcodes: HashMap<&'a str, Rc<Opcode>>,
}

impl<'a> Parser<'a> {
    fn module(&mut self) -> Result<Module> {
        self.directive("version")?;
        let version = self.version()?;
        self.directive("target")?;
        let mut target = vec![self.word()?.to_owned()];
        while self.eat(b',') {
            target.push(self.word()?.to_owned());
        }
        // PTX ISA 11.1.3: 32 when the directive is absent.
        let address_size = if self.eat_directive("address_size") {
            self.u32()?
        } else {
            32
        };
        while self.peek().tok != Tok::End {
            self.item()?;
        }
        Ok(Module {
            version,
            target,
            address_size,
            items: std::mem::take(&mut self.items),
        })
    }

    fn version(&mut self) -> Result<Version> {
        let token = self.peek();
        let bad = || self.error(token, ParseErrorKind::Number(self.text(token).to_owned()));
        let (major, minor) = self.text(token).split_once('.').ok_or_else(bad)?;
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
            return Err(bad());
        };
        self.at += 1;
        Ok(Version { major, minor })
    }

    /// One declaration or definition at module scope.
    fn item(&mut self) -> Result<()> {
        let mut linkage = Linkage::Internal;
        loop {
            let token = self.peek();
            if token.tok != Tok::Directive {
                return Err(self.expected("a directive"));
            }
            self.at += 1;
            match self.name_of(token) {
                "visible" => linkage = Linkage::Visible,
                "extern" => linkage = Linkage::Extern,
                "weak" => linkage = Linkage::Weak,
                "common" => linkage = Linkage::Common,
                "entry" => return self.function(linkage, crate::ast::FunctionKind::Entry),
                "func" => return self.function(linkage, crate::ast::FunctionKind::Func),
                "file" | "loc" => {
                    self.skip_line(token);
                    return Ok(());
                }
                "section" => return self.skip_section(),
                name => {
                    let space = match Space::from_name(name) {
                        Some(s @ (Space::Const | Space::Global | Space::Shared | Space::Local)) => {
                            s
                        }
                        _ => {
                            let kind = ParseErrorKind::Directive(name.to_owned());
                            return Err(self.error(token, kind));
                        }
                    };
                    for (variable, name, token) in self.variables(linkage, space)? {
                        self.declare(name, token, Item::Variable(variable))?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Adds an item under its name. A function or an extern variable may be
    /// declared before it is defined.
    fn declare(&mut self, name: &'a str, token: Token, item: Item) -> Result<()> {
        let id = ItemId(self.items.len() as u32);
        if let Some(old) = self.names.get(name) {
            let again = match (&self.items[old.index()], &item) {
                (Item::Function(a), Item::Function(b)) => a.body.is_none() || b.body.is_none(),
                (Item::Variable(a), Item::Variable(b)) => {
                    a.linkage == Linkage::Extern || b.linkage == Linkage::Extern
                }
                _ => false,
            };
            if !again {
                return Err(self.error(token, ParseErrorKind::Duplicate(name.to_owned())));
            }
        } else {
            self.names.insert(name, id);
        }
        self.items.push(item);
        Ok(())
    }

    // ---- The cursor. ----

    fn peek(&self) -> Token {
        // The last token is `End` and is never stepped over.
        self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn text(&self, token: Token) -> &'a str {
        &self.source[token.start as usize..token.end as usize]
    }

    /// A directive's name without its dot.
    fn name_of(&self, token: Token) -> &'a str {
        self.text(token).trim_start_matches('.')
    }

    fn error(&self, token: Token, kind: ParseErrorKind) -> ParseError {
        error_at(self.source, token.start as usize, kind)
    }

    fn expected(&self, what: &str) -> ParseError {
        let token = self.peek();
        let found = match token.tok {
            Tok::End => "the end of the text".to_owned(),
            _ => format!("`{}`", self.text(token)),
        };
        self.error(
            token,
            ParseErrorKind::Expected {
                expected: what.to_owned(),
                found,
            },
        )
    }

    fn at_punct(&self, punct: u8) -> bool {
        self.peek().tok == Tok::Punct(punct)
    }

    fn eat(&mut self, punct: u8) -> bool {
        let here = self.at_punct(punct);
        self.at += usize::from(here);
        here
    }

    fn punct(&mut self, punct: u8) -> Result<()> {
        if self.eat(punct) {
            Ok(())
        } else {
            Err(self.expected(&format!("`{}`", punct as char)))
        }
    }

    fn eat_directive(&mut self, name: &str) -> bool {
        let token = self.peek();
        let here = token.tok == Tok::Directive && self.name_of(token) == name;
        self.at += usize::from(here);
        here
    }

    fn directive(&mut self, name: &str) -> Result<()> {
        if self.eat_directive(name) {
            Ok(())
        } else {
            Err(self.expected(&format!("`.{name}`")))
        }
    }

    fn word(&mut self) -> Result<&'a str> {
        let token = self.peek();
        if token.tok != Tok::Word {
            return Err(self.expected("a name"));
        }
        self.at += 1;
        Ok(self.text(token))
    }

    /// A name that is being declared: not an opcode's dotted word.
    fn declared_name(&mut self) -> Result<(&'a str, Token)> {
        let token = self.peek();
        if token.tok != Tok::Word || self.text(token).contains('.') {
            return Err(self.expected("a name"));
        }
        self.at += 1;
        Ok((self.text(token), token))
    }

    fn number(&mut self) -> Result<Number> {
        let token = self.peek();
        if token.tok != Tok::Number {
            return Err(self.expected("a number"));
        }
        let text = self.text(token);
        let value = number(text)
            .ok_or_else(|| self.error(token, ParseErrorKind::Number(text.to_owned())))?;
        self.at += 1;
        Ok(value)
    }

    fn u64(&mut self) -> Result<u64> {
        let token = self.peek();
        match self.number()? {
            Number::Int(v) => Ok(v),
            _ => Err(self.error(token, ParseErrorKind::Number(self.text(token).to_owned()))),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        let token = self.peek();
        u32::try_from(self.u64()?)
            .map_err(|_| self.error(token, ParseErrorKind::Number(self.text(token).to_owned())))
    }

    /// One to three extents, as in `.maxntid 128, 1, 1`.
    fn extents(&mut self) -> Result<Vec<u32>> {
        let mut list = vec![self.u32()?];
        while list.len() < 3 && self.eat(b',') {
            list.push(self.u32()?);
        }
        Ok(list)
    }

    fn string(&mut self) -> Result<String> {
        let token = self.peek();
        if token.tok != Tok::Str {
            return Err(self.expected("a string"));
        }
        self.at += 1;
        Ok(self.text(token).trim_matches('"').to_owned())
    }

    fn ty(&mut self) -> Result<Type> {
        let token = self.peek();
        if token.tok != Tok::Directive {
            return Err(self.expected("a type"));
        }
        let name = self.name_of(token);
        let ty = Type::from_name(name)
            .ok_or_else(|| self.error(token, ParseErrorKind::UnknownType(name.to_owned())))?;
        self.at += 1;
        Ok(ty)
    }

    /// Skips the rest of a line: `.loc` and `.file` end without a semicolon.
    fn skip_line(&mut self, first: Token) {
        while self.peek().tok != Tok::End && self.peek().line == first.line {
            self.at += 1;
        }
    }

    /// Skips `.section name { ... }`: debug information says nothing about
    /// what a kernel computes.
    fn skip_section(&mut self) -> Result<()> {
        let first = self.peek();
        while !self.at_punct(b'{') {
            if self.peek().tok == Tok::End {
                return Err(self.error(first, ParseErrorKind::Unterminated("section")));
            }
            self.at += 1;
        }
        while !self.eat(b'}') {
            if self.peek().tok == Tok::End {
                return Err(self.error(first, ParseErrorKind::Unterminated("section")));
            }
            self.at += 1;
        }
        Ok(())
    }
}
