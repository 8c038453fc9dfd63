//! Attributes of ops: typed in [`crate::op::Op`], and in this uniform form for the printer, the parser and the docs.

use std::fmt;

use thiserror::Error;

use crate::types::{DType, Dim, F32, Name};

/// What an attribute may be; decides how its text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttrKind {
    /// An unsigned integer.
    Int,
    /// An f32; prints as the shortest decimal that reads back to the same bits.
    Float,
    /// `true` or `false`.
    Bool,
    /// An element type.
    DType,
    /// A shape in brackets.
    Shape,
}

impl fmt::Display for AttrKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int => "integer",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::DType => "element type",
            Self::Shape => "shape",
        })
    }
}

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AttrValue {
    /// An unsigned integer.
    Int(u64),
    /// An f32.
    Float(F32),
    /// A flag.
    Bool(bool),
    /// An element type.
    DType(DType),
    /// A shape.
    Shape(Vec<Dim>),
}

impl fmt::Display for AttrValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::DType(d) => write!(f, "{d}"),
            Self::Shape(dims) => crate::print::write_shape(f, dims),
        }
    }
}

/// A Rust type that attributes of ops may have.
pub trait Attr: Sized {
    /// The kind that its text has.
    const KIND: AttrKind;
    /// To the uniform form.
    fn to_value(&self) -> AttrValue;
    /// From the uniform form; `None` when of another kind or out of range.
    fn from_value(value: &AttrValue) -> Option<Self>;
}

macro_rules! integer_attr {
    ($($ty:ty),*) => {$(
        impl Attr for $ty {
            const KIND: AttrKind = AttrKind::Int;
            fn to_value(&self) -> AttrValue {
                AttrValue::Int(*self as u64)
            }
            fn from_value(value: &AttrValue) -> Option<Self> {
                match value {
                    AttrValue::Int(n) => Self::try_from(*n).ok(),
                    _ => None,
                }
            }
        }
    )*};
}

integer_attr!(u32, u64, usize);

macro_rules! plain_attr {
    ($($ty:ty => $kind:ident),*) => {$(
        impl Attr for $ty {
            const KIND: AttrKind = AttrKind::$kind;
            fn to_value(&self) -> AttrValue {
                AttrValue::$kind(self.clone())
            }
            fn from_value(value: &AttrValue) -> Option<Self> {
                match value {
                    AttrValue::$kind(x) => Some(x.clone()),
                    _ => None,
                }
            }
        }
    )*};
}

plain_attr!(F32 => Float, bool => Bool, DType => DType, Vec<Dim> => Shape);

/// An attribute list that does not fit its op.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AttrError {
    /// One is missing.
    #[error("`{op}` needs the attribute `{attr}` ({kind})")]
    Missing {
        /// The op.
        op: &'static str,
        /// The attribute.
        attr: &'static str,
        /// Its kind.
        kind: AttrKind,
    },
    /// Of the wrong kind, or too large for its field.
    #[error("attribute `{attr}` of `{op}` cannot be {got}; expected {kind}")]
    Value {
        /// The op.
        op: &'static str,
        /// The attribute.
        attr: &'static str,
        /// What was given.
        got: AttrValue,
        /// Its kind.
        kind: AttrKind,
    },
    /// The op has no such attribute, or it is given twice.
    #[error("`{op}` has no further attribute `{attr}`")]
    Unknown {
        /// The op.
        op: &'static str,
        /// The attribute.
        attr: Name,
    },
}

/// Attributes by name, taken one by one while an op is built.
pub(crate) struct AttrReader<'a> {
    pub(crate) op: &'static str,
    pub(crate) attrs: &'a mut Vec<(Name, AttrValue)>,
}

impl AttrReader<'_> {
    pub(crate) fn take<A: Attr>(&mut self, attr: &'static str) -> Result<A, AttrError> {
        let Some(at) = self.attrs.iter().position(|(name, _)| name == attr) else {
            return Err(AttrError::Missing {
                op: self.op,
                attr,
                kind: A::KIND,
            });
        };
        let (_, got) = self.attrs.remove(at);
        A::from_value(&got).ok_or(AttrError::Value {
            op: self.op,
            attr,
            got,
            kind: A::KIND,
        })
    }
}
