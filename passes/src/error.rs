//! What can go wrong between graph and program, and whose fault it is.

use std::fmt;

use mcc_ir::program::ProgramError;
use mcc_ir::{Graph, Mesh, NodeId, SourceLoc, ValueId};
use thiserror::Error;

/// An error of a pass.
#[derive(Debug, Error)]
pub enum PassError {
    /// The graph is sound, but this compiler has no code for it.
    #[error(transparent)]
    Unsupported(Box<Unsupported>),
    /// The author or the options forbid a rewrite rule that there is not.
    #[error(
        "{place}there is no rewrite rule `{name}`; did you mean `{nearest}`? docs/rules.md lists all"
    )]
    UnknownRule {
        /// Source line with a colon, or nothing.
        place: String,
        /// The name.
        name: String,
        /// The rule whose name is nearest to it.
        nearest: &'static str,
    },
    /// A buffer or an offset at the dims' upper bounds does not fit in 64 bits.
    #[error(
        "{what} does not fit in 64 bits at the upper bounds of the named dims; lower the bounds"
    )]
    TooLarge {
        /// The value or buffer.
        what: String,
    },
    /// A mesh that does not fit the model.
    #[error("the mesh {mesh} does not fit the model: {why}; {how}")]
    Mesh {
        /// The module's mesh.
        mesh: Mesh,
        /// What stands in the way, with numbers.
        why: String,
        /// The way out.
        how: String,
    },
    /// Something was asked for by a name that nothing has.
    #[error("no {what} `{name}`; there are {}", known.join(", "))]
    Unknown {
        /// `rule`, `entry`, `layer`.
        what: &'static str,
        /// The name.
        name: String,
        /// Names that there are.
        known: Vec<String>,
    },
    /// A pass made something that its own check refuses: a bug of the compiler.
    #[error("compiler bug in {pass}: {what}; please report it with the graph that you compiled")]
    Internal {
        /// The pass.
        pass: &'static str,
        /// What it did.
        what: String,
    },
    /// The assembled program breaks a rule: a bug of the compiler.
    #[error(
        "compiler bug: the lowered program is not sound: {source}; please report it with the graph that you compiled"
    )]
    Program {
        /// The broken rule.
        #[from]
        source: ProgramError,
    },
}

impl PassError {
    /// [`PassError::Unsupported`] at `node`, because of `value`.
    pub(crate) fn unsupported(
        graph: &Graph,
        node: NodeId,
        value: ValueId,
        why: impl Into<String>,
        supported: impl Into<String>,
    ) -> Self {
        Self::Unsupported(Box::new(Unsupported {
            loc: graph.node(node).loc.clone(),
            entry: graph.name.to_string(),
            op: graph.op(node).to_string(),
            value: describe(graph, value),
            why: why.into(),
            supported: supported.into(),
        }))
    }
}

/// A value with its type, in words.
pub(crate) fn describe(graph: &Graph, value: ValueId) -> String {
    let ty = graph.ty(value);
    let op = graph.op(value.node);
    if op.is_leaf() {
        return format!("`{op}`: {ty}");
    }
    match op.row().and_then(|row| row.results.get(value.result)) {
        Some(result) => format!("`{result}` of `{}`: {ty}", op.mnemonic()),
        None => format!("result of `{}`: {ty}", op.mnemonic()),
    }
}

/// An op that no kernel computes as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Where its author wrote it, if known.
    pub loc: Option<SourceLoc>,
    /// The entry.
    pub entry: String,
    /// The op in text form.
    pub op: String,
    /// The value at fault: an operand or a result, with its type.
    pub value: String,
    /// What stands in the way.
    pub why: String,
    /// What to write in its place.
    pub supported: String,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(loc) = &self.loc {
            write!(f, "{loc}: ")?;
        }
        write!(
            f,
            "unsupported: `{}` in entry `{}`, value {}: {}",
            self.op, self.entry, self.value, self.why
        )?;
        if !self.supported.is_empty() {
            write!(f, "; {}", self.supported)?;
        }
        Ok(())
    }
}

impl std::error::Error for Unsupported {}
