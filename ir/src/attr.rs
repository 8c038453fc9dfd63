//! Attributes of ops: typed in [`crate::op::Op`], and in this uniform form for the printer, the parser and the docs.

use std::fmt;

use crate::types::{DType, Dim, F32};

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
