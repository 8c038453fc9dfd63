//! Types of graph values: element type, shape of constant or named dims, and block scales.
//!
//! A quantised value is one value: its codes and its scales travel together, so that moving rows of it is
//! one op. Text: `bf16[T, 256]`, `e4m3[4*T, 256]/f32[1x128]`. Holds everywhere: `e4m3` values and only
//! those have scales ([`Type::check`]).

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An interned-by-sharing name: of a dim, parameter, state, input, output or source file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The text of the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Name {
    fn default() -> Self {
        Self("".into())
    }
}

impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(s: &str) -> Self {
        Self(s.into())
    }
}

impl From<String> for Name {
    fn from(s: String) -> Self {
        Self(s.into())
    }
}

impl From<&String> for Name {
    fn from(s: &String) -> Self {
        Self(s.as_str().into())
    }
}

impl From<&Name> for Name {
    fn from(s: &Name) -> Self {
        s.clone()
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
    }
}

/// Element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// bfloat16.
    BF16,
    /// FP8 with 4 exponent and 3 mantissa bits, no infinities; always block-scaled.
    E4M3,
    /// 32-bit signed integer.
    I32,
}

impl DType {
    /// Every element type.
    pub const ALL: [Self; 4] = [Self::F32, Self::BF16, Self::E4M3, Self::I32];

    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::BF16 => 2,
            Self::E4M3 => 1,
        }
    }

    /// The keyword of the text form.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::E4M3 => "e4m3",
            Self::I32 => "i32",
        }
    }

    /// The element type of that keyword.
    #[must_use]
    pub fn from_keyword(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.keyword() == word)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

/// Extent of an axis: a constant, or a multiple of a named dim that is open until run time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// `256`
    Const(u64),
    /// `T`, `4*T`
    Sym {
        /// At least 1.
        factor: u64,
        /// A dim declared on the module.
        name: Name,
    },
}

impl Dim {
    /// The named dim itself.
    pub fn sym(name: impl Into<Name>) -> Self {
        Self::Sym {
            factor: 1,
            name: name.into(),
        }
    }

    /// The constant, if it is one.
    #[must_use]
    pub fn as_const(&self) -> Option<u64> {
        match self {
            Self::Const(n) => Some(*n),
            Self::Sym { .. } => None,
        }
    }

    /// `k` times this extent, `None` on overflow.
    #[must_use]
    pub fn times(&self, k: u64) -> Option<Self> {
        match self {
            Self::Const(n) => n.checked_mul(k).map(Self::Const),
            Self::Sym { factor, name } => factor.checked_mul(k).map(|factor| Self::Sym {
                factor,
                name: name.clone(),
            }),
        }
    }

    /// The sum, when it is one dim again: constants, or multiples of one name.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Const(a), Self::Const(b)) => a.checked_add(*b).map(Self::Const),
            (
                Self::Sym { factor: a, name },
                Self::Sym {
                    factor: b,
                    name: other,
                },
            ) if name == other => a.checked_add(*b).map(|factor| Self::Sym {
                factor,
                name: name.clone(),
            }),
            _ => None,
        }
    }

    /// The extent for given values of the named dims; `None` when `lookup` knows no value or on overflow.
    pub fn resolve(&self, lookup: impl FnOnce(&str) -> Option<u64>) -> Option<u64> {
        match self {
            Self::Const(n) => Some(*n),
            Self::Sym { factor, name } => lookup(name)?.checked_mul(*factor),
        }
    }

    /// Whether every possible extent is a multiple of `n`.
    #[must_use]
    pub fn is_multiple_of(&self, n: u64) -> bool {
        match self {
            Self::Const(k) | Self::Sym { factor: k, .. } => k.is_multiple_of(n),
        }
    }
}

impl From<u64> for Dim {
    fn from(n: u64) -> Self {
        Self::Const(n)
    }
}

impl From<&str> for Dim {
    /// The named dim itself; use the parser for `4*T`.
    fn from(name: &str) -> Self {
        Self::sym(name)
    }
}

impl From<&Dim> for Dim {
    fn from(d: &Dim) -> Self {
        d.clone()
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Const(n) => write!(f, "{n}"),
            Self::Sym { factor: 1, name } => crate::print::write_name(f, name),
            Self::Sym { factor, name } => {
                write!(f, "{factor}*")?;
                crate::print::write_name(f, name)
            }
        }
    }
}

/// JSON: a number, or the text form as a string.
impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Const(n) => s.serialize_u64(*n),
            Self::Sym { .. } => s.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(d)? {
            Form::Number(n) => Ok(Self::Const(n)),
            Form::Text(s) => crate::parse::dim(&s).map_err(D::Error::custom),
        }
    }
}

/// One f32 scale for each `rows x cols` block of the last two axes; blocks at the edges may be partial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScaleBlock {
    /// Extent of a block along the last axis but one.
    pub rows: u32,
    /// Extent of a block along the last axis.
    pub cols: u32,
}

impl ScaleBlock {
    /// Activations: one scale for 128 channels of a row (`docs/model.md`, "E4M3 block quantisation").
    pub const ACTIVATION: Self = Self { rows: 1, cols: 128 };
    /// Weights: one scale for a 128x128 block.
    pub const WEIGHT: Self = Self {
        rows: 128,
        cols: 128,
    };
}

impl fmt::Display for ScaleBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

/// Type of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Type {
    /// Element type; of the codes, when block-scaled.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<Dim>,
    /// Blocks that share a scale; on `e4m3` values and only those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleBlock>,
}

impl Type {
    /// An unscaled type.
    pub fn new<D: Into<Dim>>(dtype: DType, shape: impl IntoIterator<Item = D>) -> Self {
        Self {
            dtype,
            shape: shape.into_iter().map(Into::into).collect(),
            scale: None,
        }
    }

    /// A block-scaled `e4m3` type.
    pub fn scaled<D: Into<Dim>>(shape: impl IntoIterator<Item = D>, scale: ScaleBlock) -> Self {
        Self {
            scale: Some(scale),
            ..Self::new(DType::E4M3, shape)
        }
    }

    /// Number of axes.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Extent of the innermost axis.
    #[must_use]
    pub fn last(&self) -> Option<&Dim> {
        self.shape.last()
    }

    /// The same element type and scales over another shape.
    #[must_use]
    pub fn with_shape(&self, shape: Vec<Dim>) -> Self {
        Self {
            shape,
            ..self.clone()
        }
    }

    /// Shape of the f32 scales of a block-scaled type: `[.., ceil(N/rows), ceil(K/cols)]`. `None` for an unscaled
    /// type, and where a block is no divisor of a named axis.
    #[must_use]
    pub fn scale_shape(&self) -> Option<Vec<Dim>> {
        let block = self.scale?;
        let mut shape = self.shape.clone();
        let rank = shape.len();
        for (axis, size) in [
            (rank.checked_sub(2), block.rows),
            (rank.checked_sub(1), block.cols),
        ] {
            let (Some(axis), true) = (axis, size != 1) else {
                continue;
            };
            let size = u64::from(size).max(1);
            shape[axis] = match &shape[axis] {
                Dim::Const(extent) => Dim::Const(extent.div_ceil(size)),
                Dim::Sym { factor, name } if factor.is_multiple_of(size) => Dim::Sym {
                    factor: factor / size,
                    name: name.clone(),
                },
                Dim::Sym { .. } => return None,
            };
        }
        Some(shape)
    }

    /// What is wrong with this type by itself, if anything: scales on the wrong element type, empty blocks or
    /// axes, more elements than fit in 63 bits.
    ///
    /// # Errors
    /// A sentence fragment that says what a type must be.
    pub fn check(&self) -> Result<(), String> {
        if self.shape.contains(&Dim::Const(0)) {
            return Err("an axis needs at least one element".into());
        }
        self.check_at_run_time()
    }

    /// As [`Type::check`] of a value at run time, whose axes may be empty: a named dim may be 0 then.
    ///
    /// # Errors
    /// As [`Type::check`].
    pub fn check_at_run_time(&self) -> Result<(), String> {
        match (self.dtype, self.scale) {
            (DType::E4M3, None) => {
                return Err("an e4m3 type needs block scales, e.g. `/f32[1x128]`".into());
            }
            (DType::E4M3, Some(block)) => {
                if block.rows == 0 || block.cols == 0 {
                    return Err("a scale block needs at least one row and one column".into());
                }
                if self.rank() < 1 + usize::from(block.rows > 1) {
                    return Err(format!("a {block} scale block needs more axes"));
                }
            }
            (_, Some(_)) => {
                return Err(format!(
                    "{} is never block-scaled, only e4m3 is",
                    self.dtype
                ));
            }
            (_, None) => {}
        }
        if self.shape.is_empty() {
            return Err("a type needs at least one axis".into());
        }
        let mut product: u64 = self.dtype.bytes();
        for dim in &self.shape {
            match dim {
                Dim::Const(0) => {}
                Dim::Sym { factor: 0, name } => return Err(format!("0*{name} is no extent")),
                Dim::Const(n) | Dim::Sym { factor: n, .. } => {
                    product = product
                        .checked_mul(*n)
                        .filter(|p| *p <= i64::MAX as u64)
                        .ok_or_else(|| "a value of more than 2^63 bytes".to_owned())?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dtype)?;
        crate::print::write_shape(f, &self.shape)?;
        if let Some(block) = self.scale {
            write!(f, "/f32[{block}]")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Type {
    type Err = crate::parse::ParseError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        crate::parse::ty(s)
    }
}

/// An `f32` attribute with the equality and hash of its bits, so that ops can be keys. Prints as the
/// shortest decimal that parses back to the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct F32(u32);

impl F32 {
    /// Wraps the value.
    #[must_use]
    pub const fn new(value: f32) -> Self {
        Self(value.to_bits())
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl From<f32> for F32 {
    fn from(value: f32) -> Self {
        Self::new(value)
    }
}

impl From<F32> for f32 {
    fn from(value: F32) -> Self {
        value.get()
    }
}

impl PartialOrd for F32 {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for F32 {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.get().total_cmp(&other.get())
    }
}

impl fmt::Display for F32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Debug, because Display spells 1e-30 with thirty zeros.
        write!(f, "{:?}", self.get())
    }
}

impl fmt::Debug for F32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for F32 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f32(self.get())
    }
}

impl<'de> Deserialize<'de> for F32 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        f32::deserialize(d).map(Self::new)
    }
}
