//! Function bodies: statements, scopes and the names in them.
//!
//! A scope owns its registers, variables and labels. Registers and variables
//! are declared before use, so a lookup goes from the innermost scope outwards.
//! A branch may go forward: label references are collected and bound when
//! their scope closes, or handed to the scope around it.

use std::collections::HashMap;

use super::{Parser, Result};
use crate::ast::{Body, Linkage, RegDecl, Stmt};
use crate::error::ParseErrorKind;
use crate::inst::{Guard, Inst, LabelId, LocalId, Operand, Reg, Symbol};
use crate::kinds::{Space, Type};
use crate::lexer::{Tok, Token};
use crate::table::{Kind, Op};

/// A bound on the registers of one function, far above what any kernel has, so
/// that a typing error such as `%r<99999999>` does not exhaust a consumer.
const MAX_REGS: u32 = 1 << 22;

#[derive(Default)]
struct Scope<'a> {
    /// Declarations of single names, and of ranges by their prefix.
    names: HashMap<&'a str, u32>,
    ranges: HashMap<&'a str, u32>,
    vars: HashMap<&'a str, LocalId>,
    labels: HashMap<&'a str, LabelId>,
    /// Label references in this scope that are not bound yet.
    pending: Vec<usize>,
    open: Option<Token>,
}

struct LabelRef<'a> {
    name: &'a str,
    token: Token,
    target: LabelId,
}

pub(super) struct BodyParser<'p, 'a> {
    pub p: &'p mut Parser<'a>,
    body: Body,
    scopes: Vec<Scope<'a>>,
    refs: Vec<LabelRef<'a>>,
    formals: HashMap<&'a str, Symbol>,
}

impl<'a> Parser<'a> {
    /// A function body with its braces.
    pub(super) fn body(&mut self, formals: HashMap<&'a str, Symbol>) -> Result<Body> {
        let open = self.peek();
        self.punct(b'{')?;
        let outer = Scope {
            open: Some(open),
            ..Scope::default()
        };
        let mut parser = BodyParser {
            p: self,
            body: Body::default(),
            scopes: vec![outer],
            refs: Vec::new(),
            formals,
        };
        while !parser.scopes.is_empty() {
            parser.statement()?;
        }
        parser.bind_labels();
        Ok(parser.body)
    }
}

impl<'a> BodyParser<'_, 'a> {
    fn statement(&mut self) -> Result<()> {
        let token = self.p.peek();
        match token.tok {
            Tok::End => {
                let open = self.scopes.last().and_then(|s| s.open).unwrap_or(token);
                Err(self.p.error(open, ParseErrorKind::Unterminated("scope")))
            }
            Tok::Punct(b'{') => {
                self.p.at += 1;
                self.scopes.push(Scope {
                    open: Some(token),
                    ..Scope::default()
                });
                self.body.stmts.push(Stmt::Open);
                Ok(())
            }
            Tok::Punct(b'}') => {
                self.p.at += 1;
                self.close()
            }
            // An empty statement.
            Tok::Punct(b';') => {
                self.p.at += 1;
                Ok(())
            }
            Tok::Punct(b'@') => {
                self.p.at += 1;
                let guard = self.guard()?;
                self.instruction(Some(guard), token)
            }
            Tok::Directive => self.directive(token),
            Tok::Word => {
                let next = self.p.tokens.get(self.p.at + 1).map(|t| t.tok);
                if next == Some(Tok::Punct(b':')) {
                    return self.label();
                }
                self.instruction(None, token)
            }
            _ => Err(self.p.expected("a statement")),
        }
    }

    /// Leaves a scope: binds the labels it defines, hands on the others.
    fn close(&mut self) -> Result<()> {
        let Some(scope) = self.scopes.pop() else {
            return Ok(());
        };
        for at in scope.pending {
            let reference = &mut self.refs[at];
            if let Some(label) = scope.labels.get(reference.name) {
                reference.target = *label;
            } else if let Some(outer) = self.scopes.last_mut() {
                outer.pending.push(at);
            } else {
                let kind = ParseErrorKind::UndefinedLabel(reference.name.to_owned());
                return Err(self.p.error(reference.token, kind));
            }
        }
        if !self.scopes.is_empty() {
            self.body.stmts.push(Stmt::Close);
        }
        Ok(())
    }

    /// Replaces the numbers of references by the labels they were bound to.
    fn bind_labels(&mut self) {
        let refs = &self.refs;
        let bind = |label: &mut LabelId| *label = refs[label.index()].target;
        for stmt in &mut self.body.stmts {
            match stmt {
                Stmt::Inst(inst) => {
                    for operand in &mut inst.operands {
                        if let Operand::Label(label) = operand {
                            bind(label);
                        }
                    }
                }
                Stmt::BranchTargets { targets, .. } => targets.iter_mut().for_each(bind),
                _ => {}
            }
        }
    }

    /// A reference to a label, by its number until `bind_labels`.
    pub(super) fn label_ref(&mut self, name: &'a str, token: Token) -> LabelId {
        let at = self.refs.len();
        self.refs.push(LabelRef {
            name,
            token,
            target: LabelId(0),
        });
        if let Some(scope) = self.scopes.last_mut() {
            scope.pending.push(at);
        }
        LabelId(at as u32)
    }

    fn label(&mut self) -> Result<()> {
        let (name, token) = self.p.declared_name()?;
        self.p.punct(b':')?;
        let label = LabelId(self.body.labels.len() as u32);
        self.body.labels.push(name.to_owned());
        if let Some(scope) = self.scopes.last_mut()
            && scope.labels.insert(name, label).is_some()
        {
            return Err(self
                .p
                .error(token, ParseErrorKind::Duplicate(name.to_owned())));
        }
        if self.p.eat_directive("branchtargets") {
            let mut targets = Vec::new();
            loop {
                let token = self.p.peek();
                let name = self.p.word()?;
                targets.push(self.label_ref(name, token));
                if !self.p.eat(b',') {
                    break;
                }
            }
            self.p.punct(b';')?;
            self.body.stmts.push(Stmt::BranchTargets { label, targets });
        } else if self.p.eat_directive("callprototype") {
            let bare = |list: Vec<(_, _, _)>| list.into_iter().map(|p| p.0).collect();
            let returns = if self.p.at_punct(b'(') {
                bare(self.p.params()?)
            } else {
                Vec::new()
            };
            self.p.word()?;
            let params = if self.p.at_punct(b'(') {
                bare(self.p.params()?)
            } else {
                Vec::new()
            };
            let noreturn = self.p.eat_directive("noreturn");
            self.p.punct(b';')?;
            self.body.stmts.push(Stmt::CallPrototype {
                label,
                returns,
                params,
                noreturn,
            });
        } else {
            self.body.stmts.push(Stmt::Label(label));
        }
        Ok(())
    }

    fn directive(&mut self, token: Token) -> Result<()> {
        self.p.at += 1;
        match self.p.name_of(token) {
            "reg" => self.regs(),
            "loc" | "file" => {
                self.p.skip_line(token);
                Ok(())
            }
            "pragma" => {
                let text = self.p.string()?;
                self.p.punct(b';')?;
                self.body.stmts.push(Stmt::Pragma(text));
                Ok(())
            }
            name => {
                let space = match Space::from_name(name) {
                    Some(space) if !matches!(space, Space::ParamEntry | Space::ParamFunc) => space,
                    _ => {
                        let kind = ParseErrorKind::Directive(name.to_owned());
                        return Err(self.p.error(token, kind));
                    }
                };
                for (variable, name, token) in self.p.variables(Linkage::Internal, space)? {
                    let id = LocalId(self.body.vars.len() as u32);
                    self.body.vars.push(variable);
                    self.body.stmts.push(Stmt::Var(id));
                    if let Some(scope) = self.scopes.last_mut()
                        && scope.vars.insert(name, id).is_some()
                    {
                        return Err(self
                            .p
                            .error(token, ParseErrorKind::Duplicate(name.to_owned())));
                    }
                }
                Ok(())
            }
        }
    }

    /// `.b32 %a, %r<10>;` after `.reg`.
    fn regs(&mut self) -> Result<()> {
        let ty = self.p.ty()?;
        loop {
            let (name, token) = self.p.declared_name()?;
            let mut range = None;
            if self.p.eat(b'<') {
                range = Some(self.p.u32()?);
                self.p.punct(b'>')?;
            }
            let first = Reg(self.body.reg_count());
            if range.unwrap_or(1) > MAX_REGS - first.0 {
                return Err(self
                    .p
                    .error(token, ParseErrorKind::TooManyRegisters(MAX_REGS)));
            }
            let decl = self.body.regs.len() as u32;
            self.body.regs.push(RegDecl {
                ty,
                name: name.to_owned(),
                range,
                first,
            });
            self.body.stmts.push(Stmt::Reg(decl));
            if let Some(scope) = self.scopes.last_mut() {
                let names = if range.is_some() {
                    &mut scope.ranges
                } else {
                    &mut scope.names
                };
                if names.insert(name, decl).is_some() {
                    return Err(self
                        .p
                        .error(token, ParseErrorKind::Duplicate(name.to_owned())));
                }
            }
            if !self.p.eat(b',') {
                break;
            }
        }
        self.p.punct(b';')
    }

    pub(super) fn find_reg(&self, name: &str) -> Option<Reg> {
        self.scopes.iter().rev().find_map(|scope| {
            if let Some(decl) = scope.names.get(name) {
                return Some(self.body.regs[*decl as usize].first);
            }
            // `%r12` may belong to `%r<20>` or, less likely, to `%r1<5>`.
            let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
            (name.len() - digits..name.len()).find_map(|split| {
                let (prefix, number) = name.split_at(split);
                let decl = &self.body.regs[*scope.ranges.get(prefix)? as usize];
                let canonical = number == "0" || !number.starts_with('0');
                let n: u32 = number.parse().ok()?;
                (canonical && n < decl.count()).then(|| Reg(decl.first.0 + n))
            })
        })
    }

    pub(super) fn find_symbol(&self, name: &str) -> Option<Symbol> {
        let local = self.scopes.iter().rev().find_map(|s| s.vars.get(name));
        local
            .map(|id| Symbol::Local(*id))
            .or_else(|| self.formals.get(name).copied())
            .or_else(|| self.p.names.get(name).map(|id| Symbol::Item(*id)))
    }

    fn guard(&mut self) -> Result<Guard> {
        let negated = self.p.eat(b'!');
        let token = self.p.peek();
        let name = self.p.word()?;
        let Some(reg) = self.find_reg(name) else {
            return Err(self
                .p
                .error(token, ParseErrorKind::Undeclared(name.to_owned())));
        };
        if self.body.reg_type(reg) != Some(Type::Pred) {
            return Err(self
                .p
                .error(token, ParseErrorKind::GuardType(name.to_owned())));
        }
        Ok(Guard { reg, negated })
    }

    fn instruction(&mut self, guard: Option<Guard>, first: Token) -> Result<()> {
        let token = self.p.peek();
        let opcode = self.p.opcode()?;
        let (operands, starts) = if opcode.op == Op::Call {
            (self.call_operands()?, Vec::new())
        } else {
            self.operands(opcode.op)?
        };
        self.p.punct(b';')?;
        self.p.check_operands(&opcode, token, &operands, &starts)?;
        let mods = opcode.mods.clone();
        let inst = Inst {
            guard,
            op: opcode.op,
            mods,
            operands,
            line: first.line,
        };
        self.body.stmts.push(Stmt::Inst(inst));
        Ok(())
    }

    fn operands(&mut self, op: Op) -> Result<(Vec<Operand>, Vec<Token>)> {
        let (mut operands, mut starts) = (Vec::new(), Vec::new());
        if self.p.at_punct(b';') {
            return Ok((operands, starts));
        }
        loop {
            let form = &op.forms()[0].operands;
            let label = form
                .get(operands.len())
                .is_some_and(|(k, _)| *k == Kind::Label);
            starts.push(self.p.peek());
            operands.push(self.operand(label)?);
            if !self.p.eat(b',') {
                return Ok((operands, starts));
            }
        }
    }

    /// PTX ISA 9.7.12.5: `(returns), callee, (arguments), prototype`, of which
    /// only the callee must be there.
    fn call_operands(&mut self) -> Result<Vec<Operand>> {
        let returns = if self.p.at_punct(b'(') {
            let list = self.list(b'(', b')')?;
            self.p.punct(b',')?;
            list
        } else {
            Vec::new()
        };
        let callee = self.operand(false)?;
        let mut args = Vec::new();
        let mut prototype = None;
        if self.p.eat(b',') {
            let named = !self.p.at_punct(b'(');
            if !named {
                args = self.list(b'(', b')')?;
            }
            if named || self.p.eat(b',') {
                let token = self.p.peek();
                let name = self.p.word()?;
                prototype = Some(Operand::Label(self.label_ref(name, token)));
            }
        }
        let mut operands = vec![Operand::Args(returns), callee, Operand::Args(args)];
        operands.extend(prototype);
        Ok(operands)
    }
}
