//! The printer of the canonical `.mir` text: one spelling for each module, which parses back to an equal one.
//!
//! Values are numbered in topological order, attributes stand in the order of the op table, floats print as the
//! shortest decimal that reads back to the same bits.

use std::collections::HashMap;
use std::fmt::{self, Display, Write};

use crate::attr::AttrValue;
use crate::graph::{Graph, ValueId};
use crate::marks::{Freedom, Marks};
use crate::module::{Module, ParamSource};
use crate::op::Op;
use crate::types::Dim;

impl Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mir 1\nmodel ")?;
        write_string(f, &self.name)?;
        f.write_char('\n')?;
        if self.allow != Freedom::EXACT {
            writeln!(f, "allow {}", self.allow)?;
        }
        if let Some(mesh) = self.mesh {
            writeln!(f, "mesh {mesh}")?;
        }
        for dim in &self.dims {
            f.write_str("dim ")?;
            write_name(f, &dim.name)?;
            writeln!(f, ": {}..={}", dim.min, dim.max)?;
        }
        for param in &self.params {
            f.write_str("param @")?;
            write_name(f, &param.name)?;
            writeln!(f, ": {} = {}", param.ty, param.source)?;
        }
        for state in &self.states {
            f.write_str("state @")?;
            write_name(f, &state.name)?;
            writeln!(f, ": {}", state.ty)?;
        }
        for entry in &self.entries {
            write!(f, "\n{entry}")?;
        }
        Ok(())
    }
}

impl Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("entry @")?;
        write_name(f, &self.name)?;
        f.write_char('(')?;
        for (i, (name, value)) in self.inputs().enumerate() {
            f.write_str(separator(i))?;
            write_name(f, name)?;
            write!(f, ": {}", self.ty(value))?;
        }
        f.write_char(')')?;
        if let Some(allow) = self.allow {
            write!(f, " allow {allow}")?;
        }
        f.write_str(" {\n")?;
        let mut names = ValueNames {
            graph: self,
            numbers: HashMap::new(),
        };
        for id in self.topo() {
            let node = self.node(id);
            if node.op.is_leaf() {
                continue;
            }
            f.write_str("  ")?;
            for (i, value) in self.results(id).enumerate() {
                let number = names.numbers.len();
                names.numbers.insert(value, number);
                write!(f, "{}%{number}", separator(i))?;
            }
            write!(f, " = {}", node.op.mnemonic())?;
            for (i, operand) in self.operands(id).into_iter().enumerate() {
                f.write_str(if i == 0 { " " } else { ", " })?;
                names.write(f, operand)?;
            }
            write_attrs(f, &node.op)?;
            for (i, ty) in node.results.iter().enumerate() {
                write!(f, "{}{ty}", if i == 0 { " : " } else { ", " })?;
            }
            write_marks(f, &node.marks)?;
            f.write_char('\n')?;
        }
        for (name, value) in &self.updates {
            f.write_str("  update @")?;
            write_name(f, name)?;
            f.write_str(" = ")?;
            names.write(f, *value)?;
            f.write_char('\n')?;
        }
        f.write_str("  return")?;
        for (i, (name, value)) in self.outputs.iter().enumerate() {
            f.write_str(if i == 0 { " " } else { ", " })?;
            write_name(f, name)?;
            f.write_str(" = ")?;
            names.write(f, *value)?;
        }
        f.write_str("\n}\n")
    }
}

/// How values are written: leaves by name, results of ops by number.
struct ValueNames<'a> {
    graph: &'a Graph,
    numbers: HashMap<ValueId, usize>,
}

impl ValueNames<'_> {
    fn write(&self, f: &mut fmt::Formatter<'_>, value: ValueId) -> fmt::Result {
        match self.numbers.get(&value) {
            Some(number) => write!(f, "%{number}"),
            None => write!(f, "{}", self.graph.def(value)),
        }
    }
}

impl Display for ParamSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, name: &str, sources: &[Self]| {
            write!(f, "{name}(")?;
            for (i, source) in sources.iter().enumerate() {
                write!(f, "{}{source}", separator(i))?;
            }
            f.write_char(')')
        };
        match self {
            Self::Tensor(name) => {
                f.write_str("tensor(")?;
                write_string(f, name)?;
                f.write_char(')')
            }
            Self::Concat(sources) => list(f, "concat", sources),
            Self::Stack(sources) => list(f, "stack", sources),
            Self::Experts {
                layer,
                slots,
                parts,
            } => {
                write!(f, "experts(layer = {layer}, slots = {slots}")?;
                for part in parts {
                    write!(f, ", {part}")?;
                }
                f.write_char(')')
            }
            Self::Dequant(src) => write!(f, "dequant({src})"),
            Self::Transpose(src) => write!(f, "transpose({src})"),
            Self::HeadRows {
                src,
                heads,
                start,
                len,
            } => {
                write!(
                    f,
                    "head_rows({src}, heads = {heads}, start = {start}, len = {len})"
                )
            }
            Self::RopeTable {
                dim,
                theta,
                positions,
                yarn,
            } => {
                write!(
                    f,
                    "rope_table(dim = {dim}, theta = {theta:?}, positions = {positions}"
                )?;
                if let Some(y) = yarn {
                    write!(
                        f,
                        ", yarn(factor = {:?}, original = {:?}",
                        y.factor, y.original
                    )?;
                    write!(
                        f,
                        ", beta_fast = {:?}, beta_slow = {:?}",
                        y.beta_fast, y.beta_slow
                    )?;
                    write!(
                        f,
                        ", mscale = {:?}, mscale_all_dim = {:?})",
                        y.mscale, y.mscale_all_dim
                    )?;
                }
                f.write_char(')')
            }
        }
    }
}

fn separator(i: usize) -> &'static str {
    if i == 0 { "" } else { ", " }
}

/// A name as it stands in text: bare where the lexer would read it as one word, else a quoted string.
pub(crate) fn write_name(f: &mut impl Write, name: &str) -> fmt::Result {
    let bare = !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty();
    if bare && crate::parse::word_len(name) == name.len() {
        f.write_str(name)
    } else {
        write_string(f, name)
    }
}

/// A quoted string; control characters are escaped.
fn write_string(f: &mut impl Write, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

/// `[T, 256]`
pub(crate) fn write_shape(f: &mut impl Write, shape: &[Dim]) -> fmt::Result {
    f.write_char('[')?;
    for (i, dim) in shape.iter().enumerate() {
        write!(f, "{}{dim}", separator(i))?;
    }
    f.write_char(']')
}

/// ` allow(round) keep never("fuse-add-norm")`, or nothing.
fn write_marks(f: &mut impl Write, marks: &Marks) -> fmt::Result {
    if let Some(allow) = marks.allow {
        write!(f, " allow({allow})")?;
    }
    if marks.keep {
        f.write_str(" keep")?;
    }
    for (i, rule) in marks.never.iter().enumerate() {
        f.write_str(if i == 0 { " never(" } else { ", " })?;
        write_string(f, rule)?;
    }
    f.write_str(if marks.never.is_empty() { "" } else { ")" })
}

/// ` {eps = 1e-6, axis = 0}`, or nothing for an op without attributes.
pub(crate) fn write_attrs(f: &mut impl Write, op: &Op) -> fmt::Result {
    let attrs = op.attrs();
    let decls = op.row().map_or(&[][..], |row| row.attrs);
    for (i, ((name, value), decl)) in attrs.iter().zip(decls).enumerate() {
        write!(f, "{}{name} = ", if i == 0 { " {" } else { ", " })?;
        match (decl.word, value) {
            (Some((word, stands_for)), AttrValue::Int(n)) if *n == stands_for => {
                f.write_str(word)?;
            }
            _ => write!(f, "{value}")?,
        }
    }
    f.write_str(if attrs.is_empty() { "" } else { "}" })
}
