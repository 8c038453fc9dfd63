//! The parser of `.mir` text.

use thiserror::Error;

use crate::types::{DType, Dim, ScaleBlock, Type};

/// Text that is not `.mir`; the author's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ParseError {
    /// What is wrong.
    pub message: String,
}

fn err<T>(message: String) -> Result<T, ParseError> {
    Err(ParseError { message })
}

/// A dim on its own: `256`, `T`, `4*T`.
///
/// # Errors
/// When the text is no dim.
pub fn dim(text: &str) -> Result<Dim, ParseError> {
    let text = text.trim();
    if let Ok(n) = text.parse() {
        return Ok(Dim::Const(n));
    }
    let (factor, name) = text.split_once('*').unwrap_or(("1", text));
    match factor.trim().parse() {
        Ok(factor) if crate::print::is_plain_name(name.trim()) => Ok(Dim::Sym {
            factor,
            name: name.trim().into(),
        }),
        _ => err(format!("`{text}` is no dim")),
    }
}

/// A type on its own: `bf16[T, 256]`.
///
/// # Errors
/// When the text is no type.
pub fn ty(text: &str) -> Result<Type, ParseError> {
    let bad = || ParseError {
        message: format!("`{text}` is no type"),
    };
    let (main, scale) = match text.split_once('/') {
        Some((main, scale)) => (main, Some(scale)),
        None => (text, None),
    };
    let (dtype, shape) = main.split_once('[').ok_or_else(bad)?;
    let shape = shape.trim_end().strip_suffix(']').ok_or_else(bad)?;
    let shape = shape.split(',').map(dim).collect::<Result<Vec<_>, _>>()?;
    let scale = match scale {
        None => None,
        Some(s) => {
            let s = s
                .strip_prefix("f32[")
                .and_then(|s| s.strip_suffix(']'))
                .ok_or_else(bad)?;
            let (rows, cols) = s.split_once('x').ok_or_else(bad)?;
            Some(ScaleBlock {
                rows: rows.parse().map_err(|_| bad())?,
                cols: cols.parse().map_err(|_| bad())?,
            })
        }
    };
    Ok(Type {
        dtype: DType::from_keyword(dtype.trim()).ok_or_else(bad)?,
        shape,
        scale,
    })
}
