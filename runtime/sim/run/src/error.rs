//! What is wrong with what was handed in.
//!
//! An [`InputError`] is the author's of the launch file or of the PTX, or the
//! machine's (a file that cannot be read). What a kernel does wrong while it
//! runs is no error of this crate: it is in the report.

use std::path::PathBuf;

use mcc_sim::SimError;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum InputError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// Text that is no JSON; the message has line and column.
    #[error("the launch file is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A mistake in the launch file.
    #[error("the launch file, at `{at}`: {message}")]
    Field {
        /// Where, as a JSON path: `launch[0].args[2].tensor_map.box`.
        at: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// PTX that cannot be read, or asks for what the simulator lacks.
    #[error(transparent)]
    Sim(#[from] SimError),
}

impl InputError {
    pub(crate) fn field(at: impl Into<String>, message: impl Into<String>) -> InputError {
        InputError::Field {
            at: at.into(),
            message: message.into(),
        }
    }
}
