//! The parser of `.mir` text.
//!
//! In: any text. Out: a module whose types were all inferred anew and agree with the text, or a [`ParseError`]
//! with line, column and what was expected there; never a panic. `parse(print(m)) == m`.
//!
//! ```text
//! mir 1
//! model "tiny"
//! mesh nodes = 1, gpus = 8, ep = 8, tp = 1, dp = 8
//! dim T: 1..=256
//! param @embed: bf16[1024, 256] = tensor("model.embed_tokens.weight")
//! state @cache: bf16[C, 192]
//! entry @prefill(tokens: i32[T]) {
//!   %0 = gather @embed, %tokens : bf16[T, 256]
//!   return x = %0
//! }
//! ```

mod entry;
mod lex;
mod source;

pub use lex::ParseError;
pub(crate) use lex::word_len;

use lex::{Lexer, Pos, Token};

use crate::marks::Freedom;
use crate::mesh::{AXES, Mesh};
use crate::module::Module;
use crate::types::{DType, Dim, Name, ScaleBlock, Type};

/// A module; ops get source locations in `file`.
///
/// # Errors
/// When the text is no module.
pub fn module(text: &str, file: impl Into<Name>) -> Result<Module, ParseError> {
    let mut p = Parser {
        lex: Lexer::new(text, file.into())?,
    };
    let module = p.module()?;
    p.end()?;
    Ok(module)
}

/// A type on its own: `bf16[T, 256]`.
///
/// # Errors
/// When the text is no type.
pub fn ty(text: &str) -> Result<Type, ParseError> {
    let mut p = Parser {
        lex: Lexer::new(text, Name::default())?,
    };
    let ty = p.ty()?;
    p.end()?;
    Ok(ty)
}

/// A dim on its own: `256`, `T`, `4*T`.
///
/// # Errors
/// When the text is no dim.
pub fn dim(text: &str) -> Result<Dim, ParseError> {
    let mut p = Parser {
        lex: Lexer::new(text, Name::default())?,
    };
    let dim = p.dim()?;
    p.end()?;
    Ok(dim)
}

impl std::str::FromStr for Module {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        module(text, Name::default())
    }
}

/// Recursive descent with one token of look-ahead.
struct Parser<'a> {
    lex: Lexer<'a>,
}

impl Parser<'_> {
    /// `mir 1 model ".." allow .. mesh .. dims params states entries`: `allow` and `mesh` if they are there, the last four
    /// in any order.
    fn module(&mut self) -> Result<Module, ParseError> {
        self.keyword("mir")?;
        let pos = self.lex.pos();
        let version = self.int()?;
        if version != 1 {
            return Err(self.lex.error(
                pos,
                format!("expected version 1 of the format, got {version}"),
            ));
        }
        self.keyword("model")?;
        let mut module = Module::new(self.string()?);
        if self.eat_word("allow")? {
            module.allow = self.freedom()?;
        }
        if self.eat_word("mesh")? {
            module.mesh = Some(self.mesh()?);
        }
        while *self.lex.peek() != Token::End {
            if self.eat_word("dim")? {
                let pos = self.lex.pos();
                let name = self.name()?;
                self.punct(":")?;
                let min = self.int()?;
                self.punct("..=")?;
                let max = self.int()?;
                self.at(pos, module.add_dim(name, min, max))?;
            } else if self.eat_word("param")? {
                let pos = self.lex.pos();
                let name = self.at_name()?;
                self.punct(":")?;
                let ty = self.ty()?;
                self.punct("=")?;
                let source = self.source(0)?;
                self.at(pos, module.add_param(name, ty, source))?;
            } else if self.eat_word("state")? {
                let pos = self.lex.pos();
                let name = self.at_name()?;
                self.punct(":")?;
                let ty = self.ty()?;
                self.at(pos, module.add_state(name, ty))?;
            } else if self.eat_word("entry")? {
                let pos = self.lex.pos();
                let graph = self.entry(&module)?;
                self.at(pos, module.add_entry(graph))?;
            } else {
                return Err(self.lex.expected("`dim`, `param`, `state` or `entry`"));
            }
        }
        Ok(module)
    }

    /// `exact`, or what is allowed: `reassociate, round`
    fn freedom(&mut self) -> Result<Freedom, ParseError> {
        let mut freedom = Freedom::EXACT;
        loop {
            let word = match self.lex.peek() {
                Token::Word(word) => Freedom::of_word(word),
                _ => None,
            };
            let word =
                word.ok_or_else(|| self.lex.expected("`exact`, `reassociate` or `round`"))?;
            self.lex.advance()?;
            freedom = freedom.or(word);
            if !self.eat(",")? {
                return Ok(freedom);
            }
        }
    }

    /// `nodes = 4, gpus = 8, ep = 32, tp = 1, dp = 32`
    fn mesh(&mut self) -> Result<Mesh, ParseError> {
        let start = self.lex.pos();
        let mut axes = [0; AXES.len()];
        for (i, (name, axis)) in AXES.iter().zip(&mut axes).enumerate() {
            if i > 0 {
                self.punct(",")?;
            }
            self.keyword(name)?;
            self.punct("=")?;
            let pos = self.lex.pos();
            let n = self.int()?;
            *axis = self.at(
                pos,
                u32::try_from(n).map_err(|_| format!("`{name}` has at most 32 bits, got {n}")),
            )?;
        }
        self.at(start, Mesh::new(axes))
    }

    /// `e4m3[T, 256]/f32[1x128]`
    fn ty(&mut self) -> Result<Type, ParseError> {
        let dtype = self.dtype()?;
        let shape = self.shape()?;
        let scale = if self.eat("/")? {
            Some(self.scale_block()?)
        } else {
            None
        };
        Ok(Type {
            dtype,
            shape,
            scale,
        })
    }

    fn dtype(&mut self) -> Result<DType, ParseError> {
        if let Token::Word(word) = self.lex.peek()
            && let Some(dtype) = DType::from_keyword(word)
        {
            self.lex.advance()?;
            return Ok(dtype);
        }
        Err(self.lex.expected("an element type (f32, bf16, e4m3, i32)"))
    }

    fn shape(&mut self) -> Result<Vec<Dim>, ParseError> {
        self.punct("[")?;
        self.list("]", Self::dim)
    }

    fn dim(&mut self) -> Result<Dim, ParseError> {
        if !matches!(self.lex.peek(), Token::Int(_)) {
            if matches!(self.lex.peek(), Token::Word(_) | Token::Str(_)) {
                return Ok(Dim::sym(self.name()?));
            }
            return Err(self.lex.expected("a dim such as `256`, `T` or `4*T`"));
        }
        let pos = self.lex.pos();
        let factor = self.int()?;
        if !self.eat("*")? {
            return Ok(Dim::Const(factor));
        }
        let name = self.name()?;
        if factor < 2 {
            // One spelling for each dim: `T`, not `1*T`.
            return Err(self.lex.error(
                pos,
                format!("expected a factor of at least 2 before `*{name}`"),
            ));
        }
        Ok(Dim::Sym { factor, name })
    }

    /// `f32[1x128]`; the lexer sees `1` and `x128`.
    fn scale_block(&mut self) -> Result<ScaleBlock, ParseError> {
        self.keyword("f32")?;
        self.punct("[")?;
        let pos = self.lex.pos();
        let rows = self.int()?;
        let cols = match self.lex.peek() {
            Token::Word(word) => word.strip_prefix('x').and_then(|n| n.parse().ok()),
            _ => None,
        };
        let block = cols
            .zip(u32::try_from(rows).ok())
            .map(|(cols, rows)| ScaleBlock { rows, cols });
        let Some(block) = block else {
            return Err(self
                .lex
                .error(pos, "expected a scale block such as `1x128`"));
        };
        self.lex.advance()?;
        self.punct("]")?;
        Ok(block)
    }

    /// Items up to the closing punctuation, with commas between.
    fn list<T>(
        &mut self,
        close: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        let mut items = Vec::new();
        if self.eat(close)? {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.eat(close)? {
                return Ok(items);
            }
            if !self.eat(",")? {
                return Err(self.lex.expected(format!("`,` or `{close}`")));
            }
        }
    }

    /// `@name`
    fn at_name(&mut self) -> Result<Name, ParseError> {
        self.punct("@")?;
        self.name()
    }

    /// A bare or quoted name.
    fn name(&mut self) -> Result<Name, ParseError> {
        match self.lex.peek() {
            Token::Word(_) | Token::Str(_) => {}
            _ => return Err(self.lex.expected("a name")),
        }
        match self.lex.advance()? {
            Token::Word(s) | Token::Str(s) => Ok(s.into()),
            _ => unreachable!("peeked above"),
        }
    }

    fn string(&mut self) -> Result<String, ParseError> {
        let Token::Str(text) = self.lex.peek() else {
            return Err(self.lex.expected("a quoted string"));
        };
        let text = text.clone();
        self.lex.advance()?;
        Ok(text)
    }

    fn int(&mut self) -> Result<u64, ParseError> {
        let Token::Int(n) = *self.lex.peek() else {
            return Err(self.lex.expected("an integer"));
        };
        self.lex.advance()?;
        Ok(n)
    }

    /// A number as f32 or f64, rounded from its decimal once; finite.
    fn float<F: std::str::FromStr + Into<f64> + Copy>(&mut self) -> Result<F, ParseError> {
        let text = match self.lex.peek() {
            Token::Float(text) => text.clone(),
            Token::Int(n) => n.to_string(),
            _ => return Err(self.lex.expected("a number")),
        };
        match text.parse::<F>() {
            Ok(x) if x.into().is_finite() => {
                self.lex.advance()?;
                Ok(x)
            }
            _ => Err(self.lex.expected("a finite number")),
        }
    }

    fn keyword(&mut self, word: &str) -> Result<(), ParseError> {
        if self.eat_word(word)? {
            Ok(())
        } else {
            Err(self.lex.expected(format!("`{word}`")))
        }
    }

    fn punct(&mut self, punct: &'static str) -> Result<(), ParseError> {
        if self.eat(punct)? {
            Ok(())
        } else {
            Err(self.lex.expected(format!("`{punct}`")))
        }
    }

    fn eat(&mut self, punct: &'static str) -> Result<bool, ParseError> {
        let found = *self.lex.peek() == Token::Punct(punct);
        if found {
            self.lex.advance()?;
        }
        Ok(found)
    }

    fn eat_word(&mut self, word: &str) -> Result<bool, ParseError> {
        let found = matches!(self.lex.peek(), Token::Word(w) if w == word);
        if found {
            self.lex.advance()?;
        }
        Ok(found)
    }

    fn end(&mut self) -> Result<(), ParseError> {
        if *self.lex.peek() == Token::End {
            Ok(())
        } else {
            Err(self.lex.expected("the end of the text"))
        }
    }

    /// Points an error of the graph or module at a place in the text.
    fn at<T, E: std::fmt::Display>(&self, pos: Pos, result: Result<T, E>) -> Result<T, ParseError> {
        result.map_err(|e| self.lex.error(pos, e.to_string()))
    }
}
