//! What can go wrong in an evaluation, and whose fault it is.

use thiserror::Error;

use super::tensor::TensorError;
use crate::numerics::NumericsError;
use crate::op::TypeError;
use crate::types::Name;

/// A refused evaluation. Nothing is written to the states when one is returned.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum EvalError {
    /// The module has no such entry.
    #[error("the module has no entry `{0}`")]
    UnknownEntry(Name),
    /// The caller left out something that the entry reads.
    #[error("no value was given for {kind} `{name}`")]
    Missing {
        /// `input`, `parameter`, `state` or `dim`.
        kind: &'static str,
        /// Its name.
        name: Name,
    },
    /// The caller gave something that the entry does not have.
    #[error("the entry has no {kind} `{name}`")]
    Unknown {
        /// `input` or `dim`.
        kind: &'static str,
        /// Its name.
        name: Name,
    },
    /// A value given by the caller does not have the declared type.
    #[error("{kind} `{name}`: expected {expected}, got {got}")]
    WrongType {
        /// `input`, `parameter` or `state`.
        kind: &'static str,
        /// Its name.
        name: Name,
        /// The declared type.
        expected: String,
        /// The type that came.
        got: String,
    },
    /// A named dim outside of its bounds, or with two extents at once.
    #[error("dim `{name}` is {got}, expected {expected}")]
    Dim {
        /// The dim.
        name: Name,
        /// The extent that came.
        got: u64,
        /// Bounds, or the other extent.
        expected: String,
    },
    /// Operands that the op's typing rule refuses.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// Scale blocks that a data movement would cut through.
    #[error("`{op}` cuts through the scale blocks of {got}")]
    Layout {
        /// The op's name.
        op: &'static str,
        /// The operands' types.
        got: String,
    },
    /// Operands that the evaluator cannot give a meaning to.
    #[error("`{op}`: {why}")]
    Operands {
        /// The op's name.
        op: String,
        /// What the rule expects.
        why: String,
    },
    /// An index, position or offset in the data that points outside of what it indexes.
    #[error("`{op}`: {what} {value} is outside of 0..{limit}")]
    Range {
        /// The op's name.
        op: &'static str,
        /// `index`, `position`, `expert`, `slot` or `offset`.
        what: &'static str,
        /// The value found.
        value: i64,
        /// First value that is too large.
        limit: usize,
    },
    /// A number format routine refused its arguments.
    #[error("`{op}`: {source}")]
    Numerics {
        /// The op's name.
        op: &'static str,
        /// What it refused.
        source: NumericsError,
    },
    /// One of several ranks.
    #[error("rank {rank}: {source}")]
    Rank {
        /// Its number in the expert group.
        rank: usize,
        /// What went wrong there.
        source: Box<EvalError>,
    },
    /// A result whose data does not fit its shape: a mistake in the evaluator itself.
    #[error("evaluator: {0}")]
    Internal(#[from] TensorError),
}

impl EvalError {
    pub(super) fn on_rank(self, rank: usize) -> EvalError {
        EvalError::Rank {
            rank,
            source: Box::new(self),
        }
    }

    pub(super) fn operands(op: &str, why: impl Into<String>) -> EvalError {
        EvalError::Operands {
            op: op.to_owned(),
            why: why.into(),
        }
    }
}

/// Turns data into indices below `limit`.
pub(super) fn indices(
    op: &'static str,
    what: &'static str,
    data: &[i32],
    limit: usize,
) -> Result<Vec<usize>, EvalError> {
    data.iter()
        .map(|&v| {
            usize::try_from(v)
                .ok()
                .filter(|i| *i < limit)
                .ok_or(EvalError::Range {
                    op,
                    what,
                    value: i64::from(v),
                    limit,
                })
        })
        .collect()
}
