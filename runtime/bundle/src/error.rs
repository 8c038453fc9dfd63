//! What can be wrong with a bundle, and whose fault it is.

use std::path::PathBuf;

use thiserror::Error;

/// A bundle that could not be read or written.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The file could not be read.
    #[error("cannot read the bundle {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file could not be written; nothing was left behind.
    #[error("cannot write the bundle {}: {source} (nothing was written)", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Some other kind of file.
    #[error("this is not an mcc bundle: it does not start with `MCCB`; `mcc build` makes bundles")]
    NotABundle,
    /// Made by another version of mcc.
    #[error(
        "the bundle has {what} version {found}, this mcc reads version {needed}; build the bundle again with this mcc"
    )]
    WrongVersion {
        /// `format` or `schema`.
        what: &'static str,
        /// In the file.
        found: u32,
        /// Of this reader.
        needed: u32,
    },
    /// The file ends too early.
    #[error("the bundle is truncated: {found} bytes of {needed}; copy or build it again")]
    Truncated {
        /// Bytes that there should be.
        needed: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// There are bytes after the end.
    #[error(
        "the bundle is followed by {extra} bytes that do not belong to it; copy or build it again"
    )]
    TrailingBytes {
        /// How many.
        extra: u64,
    },
    /// The header or the section table does not agree with itself or with its hash.
    #[error("the bundle's header is corrupt: {what}; copy or build it again")]
    CorruptHeader {
        /// What was found.
        what: String,
    },
    /// The bytes of a section are not those that were written.
    #[error("section `{section}` of the bundle is corrupt: {what}; copy or build it again")]
    CorruptSection {
        /// Which one.
        section: String,
        /// What was found.
        what: String,
    },
    /// A section that has to be there is not.
    #[error("the bundle has no section `{section}`; build it again")]
    MissingSection {
        /// Which one.
        section: String,
    },
    /// The manifest is not of this shape.
    #[error("the bundle's manifest does not parse: {0}; build the bundle again with this mcc")]
    ManifestSyntax(serde_json::Error),
    /// The manifest contradicts itself.
    #[error("the bundle's manifest is wrong: {0}")]
    Manifest(#[from] ManifestError),
    /// Compressing or serialising failed.
    #[error("cannot encode the bundle: {0}")]
    Encode(String),
}

/// A manifest that contradicts itself: a fault of the program that made it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}: {what}")]
pub struct ManifestError {
    /// Where, e.g. `entries[prefill].steps[3].operands[1]`.
    pub place: String,
    /// What was expected and what is there.
    pub what: String,
}

impl ManifestError {
    pub(crate) fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
        }
    }
}
