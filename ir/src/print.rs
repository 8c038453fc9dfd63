//! The printer of the canonical `.mir` text.

use std::fmt::{self, Write};

use crate::op::Op;
use crate::types::Dim;

/// Whether a name can stand in text without quotes.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}

/// A name as it stands in text: bare, or a quoted string.
pub(crate) fn write_name(f: &mut impl Write, name: &str) -> fmt::Result {
    if is_plain_name(name) {
        f.write_str(name)
    } else {
        write_string(f, name)
    }
}

/// A quoted string with `\"`, `\\`, `\n`, `\t` and `\u{..}` for other control characters.
pub(crate) fn write_string(f: &mut impl Write, text: &str) -> fmt::Result {
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
        write!(f, "{}{dim}", if i == 0 { "" } else { ", " })?;
    }
    f.write_char(']')
}

/// ` {eps = 1e-6, axis = 0}`, or nothing for an op without attributes.
pub(crate) fn write_attrs(f: &mut impl Write, op: &Op) -> fmt::Result {
    let attrs = op.attrs();
    for (i, (name, value)) in attrs.iter().enumerate() {
        write!(f, "{}{name} = {value}", if i == 0 { " {" } else { ", " })?;
    }
    f.write_str(if attrs.is_empty() { "" } else { "}" })
}
