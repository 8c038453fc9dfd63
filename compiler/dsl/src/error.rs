//! Mistakes of a model author, told with the author's own source line.

use std::fmt;
use std::panic::Location;
use std::path::Path;

use mcc_ir::{ModuleError, Name, SourceLoc, TypeError, VerifyError};
use thiserror::Error;

use crate::models::deepseek_v3::ConfigError;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Mistake {
    /// Operands or attributes that an op does not take.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// A declaration that cannot stand: a name used twice, an empty range, a malformed type.
    #[error(transparent)]
    Declaration(#[from] ModuleError),
    /// A shape that names a dim which the model does not have.
    #[error("no dim `{name}` is declared; declared: {declared}")]
    UnknownDim {
        /// The name used.
        name: Name,
        /// The names there are.
        declared: String,
    },
    /// A tensor of one entry used in another, or after its entry was finished.
    #[error(
        "`{op}` mixes tensors of different entries; recompute the value in this entry or pass it as a state"
    )]
    ForeignTensor {
        /// The op's name.
        op: &'static str,
    },
    /// A parameter or state of one model used in another.
    #[error("`{name}` belongs to another model")]
    ForeignParam {
        /// Its name.
        name: Name,
    },
    /// A range whose end lies before its start.
    #[error("`slice`: the range {start}..{end} is empty")]
    EmptyRange {
        /// First index.
        start: u64,
        /// Index behind the last.
        end: u64,
    },
    /// An architecture that the model cannot be built for.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A rule of whole modules, found by the verifier.
    #[error("{}", .0.message)]
    Rule(VerifyError),
}

/// A mistake and where it was made. Displays with the source line when the file can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct DslError {
    /// File, line and column of the call, when it is known.
    pub at: Option<SourceLoc>,
    /// What is wrong.
    pub mistake: Mistake,
}

/// All mistakes of a model, in the order in which they were made; at least one.
#[derive(Debug, Clone, PartialEq, Error)]
pub struct DslErrors(pub Vec<DslError>);

/// The place of a call in the terms of the IR.
pub(crate) fn source_loc(at: &Location<'_>) -> SourceLoc {
    SourceLoc {
        file: at.file().into(),
        line: at.line(),
        column: at.column(),
    }
}

impl fmt::Display for DslError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.mistake)?;
        let Some(at) = &self.at else { return Ok(()) };
        write!(f, "\n  --> {at}")?;
        let Some(line) = source_line(at) else {
            return Ok(());
        };
        let number = at.line.to_string();
        let gutter = " ".repeat(number.len());
        let indent = " ".repeat(at.column.saturating_sub(1) as usize);
        write!(f, "\n{gutter} |\n{number} | {line}\n{gutter} | {indent}^")
    }
}

/// The line itself. The compiler records paths relative to the workspace, which may be a parent of
/// the current folder.
fn source_line(at: &SourceLoc) -> Option<String> {
    let here = std::env::current_dir().ok()?;
    let candidates = here
        .ancestors()
        .map(|folder| folder.join(Path::new(at.file.as_str())));
    let text = candidates
        .into_iter()
        .find_map(|path| std::fs::read_to_string(path).ok())?;
    // Tabs would put the caret under the wrong column.
    text.lines()
        .nth(at.line.checked_sub(1)? as usize)
        .map(|line| line.replace('\t', " "))
}

impl fmt::Display for DslErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for DslError {}
