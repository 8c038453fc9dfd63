//! Entries: inputs, op statements, updates and the closing `return`.

use std::collections::HashMap;

use super::lex::{Pos, Token};
use super::{ParseError, Parser};
use crate::attr::{AttrKind, AttrValue};
use crate::graph::{Graph, SourceLoc, ValueId};
use crate::infer::names;
use crate::marks::Marks;
use crate::module::Module;
use crate::op::OpRow;
use crate::types::{F32, Name, Type};

/// Values of the entry so far, by the way that they are written.
#[derive(Default)]
struct Scope {
    /// `%tokens`
    inputs: HashMap<Name, ValueId>,
    /// `%0`
    numbered: HashMap<u64, ValueId>,
}

impl Parser<'_> {
    /// `@prefill(tokens: i32[T], ..) { .. }`
    pub(super) fn entry(&mut self, module: &Module) -> Result<Graph, ParseError> {
        let mut graph = Graph::new(self.at_name()?);
        let mut scope = Scope::default();
        self.punct("(")?;
        self.list(")", |p| {
            let pos = p.lex.pos();
            let name = p.name()?;
            p.punct(":")?;
            let ty = p.ty()?;
            let value = p.at(pos, graph.input(name.clone(), ty))?;
            scope.inputs.insert(name, value);
            Ok(())
        })?;
        if self.eat_word("allow")? {
            graph.allow = Some(self.freedom()?);
        }
        self.punct("{")?;
        loop {
            if *self.lex.peek() == Token::Punct("%") {
                self.statement(module, &mut graph, &mut scope)?;
            } else if self.eat_word("update")? {
                self.punct("@")?;
                let pos = self.lex.pos();
                let name = self.name()?;
                if module.state(&name).is_none() {
                    return Err(self
                        .lex
                        .error(pos, format!("`@{name}` is no state of the module")));
                }
                self.punct("=")?;
                let value = self.value(module, &mut graph, &scope)?;
                graph.update(name, value);
            } else if self.eat_word("return")? {
                self.outputs(module, &mut graph, &scope)?;
                return Ok(graph);
            } else {
                return Err(self
                    .lex
                    .expected("a value such as `%0`, `update` or `return`"));
            }
        }
    }

    /// `logits = %90, next = %91 }`
    fn outputs(
        &mut self,
        module: &Module,
        graph: &mut Graph,
        scope: &Scope,
    ) -> Result<(), ParseError> {
        if self.eat("}")? {
            return Ok(());
        }
        loop {
            let name = self.name()?;
            self.punct("=")?;
            let value = self.value(module, graph, scope)?;
            graph.output(name, value);
            if self.eat("}")? {
                return Ok(());
            }
            if !self.eat(",")? {
                return Err(self.lex.expected("`,` or `}`"));
            }
        }
    }

    /// `%1, %2 = route %0, @bias {top_k = 4, ..} : i32[T, 4], f32[T, 4]`
    fn statement(
        &mut self,
        module: &Module,
        graph: &mut Graph,
        scope: &mut Scope,
    ) -> Result<(), ParseError> {
        let mut numbers: Vec<(u64, Pos)> = Vec::new();
        loop {
            self.punct("%")?;
            let pos = self.lex.pos();
            let number = self.int()?;
            if scope.numbered.contains_key(&number) || numbers.iter().any(|(n, _)| *n == number) {
                return Err(self.lex.error(pos, format!("`%{number}` is defined twice")));
            }
            numbers.push((number, pos));
            if !self.eat(",")? {
                break;
            }
        }
        self.punct("=")?;
        let pos = self.lex.pos();
        let row = match self.lex.peek() {
            Token::Word(word) => OpRow::find(word),
            _ => None,
        };
        let row = row.ok_or_else(|| self.lex.expected("an op of the table (docs/ops.md)"))?;
        self.lex.advance()?;
        let mut operands = Vec::new();
        if matches!(self.lex.peek(), Token::Punct("%" | "@")) {
            operands.push(self.value(module, graph, scope)?);
            while self.eat(",")? {
                operands.push(self.value(module, graph, scope)?);
            }
        }
        let attrs = if self.eat("{")? {
            self.list("}", |p| p.attr(row))?
        } else {
            Vec::new()
        };
        let op = self.at(pos, row.build(attrs))?;
        self.punct(":")?;
        let types_pos = self.lex.pos();
        let mut types = vec![self.ty()?];
        while self.eat(",")? {
            types.push(self.ty()?);
        }
        let marks = self.marks()?;
        let (line, column) = self.lex.line_column(pos);
        let loc = SourceLoc {
            file: self.lex.file().clone(),
            line,
            column,
        };
        let results = self.at(pos, graph.add(op, &operands, Some(loc)))?;
        let inferred: Vec<Type> = results.iter().map(|v| graph.ty(*v).clone()).collect();
        if inferred != types {
            let message = format!(
                "expected the type of the result, {}, got {}",
                join(&inferred),
                join(&types)
            );
            return Err(self.lex.error(types_pos, message));
        }
        if results.len() != numbers.len() {
            let message = format!(
                "`{}` has {} results ({})",
                row.mnemonic,
                results.len(),
                names(row.results)
            );
            return Err(self.lex.error(numbers[0].1, message));
        }
        if let Some(value) = results.first() {
            graph.mark(value.node, marks);
        }
        scope
            .numbered
            .extend(numbers.into_iter().map(|(n, _)| n).zip(results));
        Ok(())
    }

    /// `allow(reassociate) keep never("fuse-add-norm", ..)`, each at most once, in any order
    fn marks(&mut self) -> Result<Marks, ParseError> {
        let mut marks = Marks::default();
        loop {
            if marks.allow.is_none() && self.eat_word("allow")? {
                self.punct("(")?;
                marks.allow = Some(self.freedom()?);
                self.punct(")")?;
            } else if !marks.keep && self.eat_word("keep")? {
                marks.keep = true;
            } else if marks.never.is_empty() && self.eat_word("never")? {
                self.punct("(")?;
                let pos = self.lex.pos();
                let rules = self.list(")", Self::string)?;
                if rules.is_empty() || rules.iter().any(String::is_empty) {
                    return Err(self.lex.error(pos, "expected names of rules in quotes"));
                }
                rules.into_iter().for_each(|rule| marks.never(rule));
            } else {
                return Ok(marks);
            }
        }
    }

    /// `eps = 1e-6`, read as the kind that the op's row gives it.
    fn attr(&mut self, row: &OpRow) -> Result<(Name, AttrValue), ParseError> {
        let pos = self.lex.pos();
        let name = self.name()?;
        let Some(decl) = row.attrs.iter().find(|a| *a.name == *name) else {
            let known: Vec<_> = row.attrs.iter().map(|a| a.name).collect();
            let message = format!(
                "`{}` has no attribute `{name}`; it has: {}",
                row.mnemonic,
                known.join(", ")
            );
            return Err(self.lex.error(pos, message));
        };
        self.punct("=")?;
        let value = match decl.kind {
            AttrKind::Int
                if let Some((word, value)) = decl.word
                    && self.eat_word(word)? =>
            {
                AttrValue::Int(value)
            }
            AttrKind::Int => AttrValue::Int(self.int()?),
            AttrKind::Float => AttrValue::Float(F32::new(self.float()?)),
            AttrKind::Bool if self.eat_word("true")? => AttrValue::Bool(true),
            AttrKind::Bool if self.eat_word("false")? => AttrValue::Bool(false),
            AttrKind::Bool => return Err(self.lex.expected("`true` or `false`")),
            AttrKind::DType => AttrValue::DType(self.dtype()?),
            AttrKind::Shape => AttrValue::Shape(self.shape()?),
        };
        Ok((name, value))
    }

    /// `%0`, `%tokens`, `@embed`
    fn value(
        &mut self,
        module: &Module,
        graph: &mut Graph,
        scope: &Scope,
    ) -> Result<ValueId, ParseError> {
        let pos = self.lex.pos();
        if self.eat("@")? {
            let name = self.name()?;
            return match (module.param(&name), module.state(&name)) {
                (Some(param), _) => Ok(graph.param(param)),
                (None, Some(state)) => Ok(graph.state(state)),
                (None, None) => Err(self.lex.error(
                    pos,
                    format!("`@{name}` is no parameter or state of the module"),
                )),
            };
        }
        if !self.eat("%")? {
            return Err(self
                .lex
                .expected("a value such as `%0`, `%tokens` or `@embed`"));
        }
        if let Token::Int(number) = *self.lex.peek() {
            self.lex.advance()?;
            return scope.numbered.get(&number).copied().ok_or_else(|| {
                self.lex
                    .error(pos, format!("`%{number}` is not defined above"))
            });
        }
        let name = self.name()?;
        scope.inputs.get(&name).copied().ok_or_else(|| {
            self.lex
                .error(pos, format!("`%{name}` is no input of the entry"))
        })
    }
}

fn join(types: &[Type]) -> String {
    types
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
