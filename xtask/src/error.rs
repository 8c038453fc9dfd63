//! The two ways in which a chore ends badly, and their exit codes.

use std::fmt;
use std::process::ExitCode;

#[derive(Debug)]
pub enum Error {
    /// The machine lacks something. The text names it and how to get it.
    Environment(String),
    /// A step ran and failed. Its own output stands above.
    Step(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Step(_) => ExitCode::from(1),
            Error::Environment(_) => ExitCode::from(3),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Environment(text) | Error::Step(text) => f.write_str(text),
        }
    }
}
