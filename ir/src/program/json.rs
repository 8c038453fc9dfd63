//! The text form of a [`Program`]: JSON, for people and for `mcc build` from a program.
//!
//! In and out: a program. Holds: `from_json(to_json(p)) = p`, and equal programs have equal bytes, because
//! nothing in a program is unordered. A document without the version of this file is refused, so that a field
//! that changed its meaning is never read with the old one.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Program;

/// Changes whenever an old document would be read wrongly.
const VERSION: u32 = 1;

/// Why a text is no program, or a program is not sound.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// The text is not JSON, or not a program's.
    #[error("this is not a program: {source}")]
    Json {
        /// Line, column and what was expected.
        #[from]
        source: serde_json::Error,
    },
    /// Written by another version of the compiler.
    #[error(
        "the program has format version {found}, this compiler reads {VERSION}: emit it again with this compiler"
    )]
    Version {
        /// What the document says.
        found: u32,
    },
    /// A rule of `Program::verify` is broken.
    #[error("{at}: {why}")]
    Invalid {
        /// Entry, step and operand, or the buffer, dim, parameter or kernel.
        at: String,
        /// The rule and what the program has instead.
        why: String,
    },
}

impl ProgramError {
    /// The same error, one place further out.
    pub(super) fn inside(self, place: &str) -> Self {
        match self {
            Self::Invalid { at, why } if at.is_empty() => Self::Invalid {
                at: place.to_owned(),
                why,
            },
            Self::Invalid { at, why } => Self::Invalid {
                at: format!("{place}, {at}"),
                why,
            },
            other => other,
        }
    }
}

/// The version alone, so that a document of another one is told apart from a broken one.
#[derive(Deserialize)]
struct Header {
    mcc_program: u32,
}

#[derive(Serialize)]
struct Write<'a> {
    mcc_program: u32,
    program: &'a Program,
}

#[derive(Deserialize)]
struct Read {
    program: Program,
}

impl Program {
    /// The program as indented JSON with a final newline.
    ///
    /// # Errors
    /// When the program holds a float that JSON has no number for.
    pub fn to_json(&self) -> Result<String, ProgramError> {
        let mut text = serde_json::to_string_pretty(&Write {
            mcc_program: VERSION,
            program: self,
        })?;
        text.push('\n');
        Ok(text)
    }

    /// Reads and verifies a program.
    ///
    /// # Errors
    /// When the text is not a program of this version, or the program breaks a rule of [`Program::verify`].
    pub fn from_json(text: &str) -> Result<Self, ProgramError> {
        let header: Header = serde_json::from_str(text)?;
        if header.mcc_program != VERSION {
            return Err(ProgramError::Version {
                found: header.mcc_program,
            });
        }
        let Read { program } = serde_json::from_str(text)?;
        program.verify()?;
        Ok(program)
    }
}
