//! Recipes of parameters: `stack(concat(tensor("a"), tensor("b")), ..)`.

use super::lex::Token;
use super::{ParseError, Parser};
use crate::module::{ParamSource, Yarn};

/// Recipes nest a few levels deep; a text that nests further is refused before it exhausts the stack.
const MAX_DEPTH: usize = 32;

impl Parser<'_> {
    pub(super) fn source(&mut self, depth: usize) -> Result<ParamSource, ParseError> {
        if depth > MAX_DEPTH {
            return Err(self
                .lex
                .expected(format!("a recipe nested at most {MAX_DEPTH} deep")));
        }
        let Token::Word(word) = self.lex.peek() else {
            return Err(self.lex.expected("a recipe such as `tensor(\"name\")`"));
        };
        let word = word.clone();
        let pos = self.lex.pos();
        self.lex.advance()?;
        self.punct("(")?;
        Ok(match word.as_str() {
            "tensor" => {
                let name = self.string()?;
                self.punct(")")?;
                ParamSource::Tensor(name)
            }
            "concat" => ParamSource::Concat(self.list(")", |p| p.source(depth + 1))?),
            "stack" => ParamSource::Stack(self.list(")", |p| p.source(depth + 1))?),
            "experts" => {
                let layer = self.int_field("layer")?;
                let slots = self.next_int_field("slots")?;
                self.punct(",")?;
                let parts = self.list(")", |p| p.source(depth + 1))?;
                ParamSource::Experts {
                    layer,
                    slots,
                    parts,
                }
            }
            "dequant" => ParamSource::Dequant(self.only_source(depth)?),
            "transpose" => ParamSource::Transpose(self.only_source(depth)?),
            "head_rows" => {
                let src = Box::new(self.source(depth + 1)?);
                let heads = self.next_int_field("heads")?;
                let start = self.next_int_field("start")?;
                let len = self.next_int_field("len")?;
                self.punct(")")?;
                ParamSource::HeadRows {
                    src,
                    heads,
                    start,
                    len,
                }
            }
            "rope_table" => {
                let dim = self.int_field("dim")?;
                let theta = self.next_float_field("theta")?;
                let positions = self.next_int_field("positions")?;
                let yarn = if self.eat(",")? {
                    Some(self.yarn()?)
                } else {
                    None
                };
                self.punct(")")?;
                ParamSource::RopeTable {
                    dim,
                    theta,
                    positions,
                    yarn,
                }
            }
            other => {
                let known =
                    "tensor, concat, stack, experts, dequant, transpose, head_rows, rope_table";
                return Err(self
                    .lex
                    .error(pos, format!("expected a recipe ({known}), got `{other}`")));
            }
        })
    }

    fn only_source(&mut self, depth: usize) -> Result<Box<ParamSource>, ParseError> {
        let source = self.source(depth + 1)?;
        self.punct(")")?;
        Ok(Box::new(source))
    }

    /// `yarn(factor = 4.0, ..)`
    fn yarn(&mut self) -> Result<Yarn, ParseError> {
        self.keyword("yarn")?;
        self.punct("(")?;
        self.keyword("factor")?;
        self.punct("=")?;
        let factor = self.float()?;
        let yarn = Yarn {
            factor,
            original: self.next_float_field("original")?,
            beta_fast: self.next_float_field("beta_fast")?,
            beta_slow: self.next_float_field("beta_slow")?,
            mscale: self.next_float_field("mscale")?,
            mscale_all_dim: self.next_float_field("mscale_all_dim")?,
        };
        self.punct(")")?;
        Ok(yarn)
    }

    fn int_field(&mut self, name: &str) -> Result<u64, ParseError> {
        self.keyword(name)?;
        self.punct("=")?;
        self.int()
    }

    fn next_int_field(&mut self, name: &str) -> Result<u64, ParseError> {
        self.punct(",")?;
        self.int_field(name)
    }

    fn next_float_field(&mut self, name: &str) -> Result<f64, ParseError> {
        self.punct(",")?;
        self.keyword(name)?;
        self.punct("=")?;
        self.float()
    }
}
