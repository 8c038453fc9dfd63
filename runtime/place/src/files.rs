//! Statistics and placements as JSON files.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::placement::{PlaceError, Placement, Statistics};

/// A file that cannot be read, written or used.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file system.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// Of which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// No JSON of this kind.
    #[error("{}: {source}", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// What the reader says.
        source: serde_json::Error,
    },
    /// What it says does not hold.
    #[error("{}: {source}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What.
        source: PlaceError,
    },
    /// Numbers on the command line.
    #[error(transparent)]
    Place(#[from] PlaceError),
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Io {
        verb: "read",
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| FileError::Json {
        path: path.to_owned(),
        source,
    })
}

fn content(path: &Path) -> impl Fn(PlaceError) -> FileError {
    move |source| FileError::Content {
        path: path.to_owned(),
        source,
    }
}

impl Statistics {
    /// Reads a file, whose counts are then one for each expert of each layer.
    ///
    /// # Errors
    /// A file that cannot be read, or that is something else.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let statistics: Self = read(path)?;
        statistics.experts().map_err(content(path))?;
        Ok(statistics)
    }
}

impl Placement {
    /// Reads a file, and checks what it says.
    ///
    /// # Errors
    /// A file that cannot be read, or that is no placement.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let placement: Self = read(path)?;
        placement.check().map_err(content(path))?;
        Ok(placement)
    }

    /// The file's text: equal placements give equal bytes.
    ///
    /// # Errors
    /// Never: all of it has a JSON form.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}
