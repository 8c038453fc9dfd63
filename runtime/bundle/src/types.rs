//! Element types, dims, tensor types and weight recipes, as the manifest spells them.
//!
//! In: JSON of the manifest. Out: sizes in bytes for given values of the named dims.
//! Holds: no arithmetic here wraps; a size that does not fit is `None` and ends in an error of the caller.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// Upper half of binary32.
    Bf16,
    /// FP8 with 4 exponent and 3 mantissa bits, no infinity (OCP E4M3).
    E4m3,
    /// 32-bit two's complement.
    I32,
}

impl DType {
    /// Size of one element.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::Bf16 => 2,
            Self::E4m3 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::E4m3 => "e4m3",
            Self::I32 => "i32",
        })
    }
}

/// Values of the named dims for one step.
pub type DimValues = BTreeMap<String, u64>;

/// An extent: a constant, or a multiple of a named dim.
///
/// In JSON it is a number (`256`) or a string (`"T"`, `"4*T"`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known when the bundle was made.
    Const(u64),
    /// `factor * name`.
    Sym {
        /// At least 1.
        factor: u64,
        /// A dim that the manifest declares.
        name: String,
    },
}

impl Dim {
    /// The extent under `values`; `None` when the name is missing or the product does not fit.
    #[must_use]
    pub fn resolve(&self, values: &DimValues) -> Option<u64> {
        match self {
            Self::Const(n) => Some(*n),
            Self::Sym { factor, name } => values.get(name)?.checked_mul(*factor),
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Const(n) => write!(f, "{n}"),
            Self::Sym { factor: 1, name } => f.write_str(name),
            Self::Sym { factor, name } => write!(f, "{factor}*{name}"),
        }
    }
}

impl FromStr for Dim {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (factor, name) = match text.split_once('*') {
            Some((factor, name)) => (
                factor
                    .parse()
                    .map_err(|_| format!("`{text}`: the factor of a dim must be an integer"))?,
                name,
            ),
            None => (1, text),
        };
        if !is_identifier(name) {
            return Err(format!(
                "`{text}` is not a dim: expected a number, a name, or `factor*name`"
            ));
        }
        Ok(Self::Sym {
            factor,
            name: name.to_owned(),
        })
    }
}

/// Letters, digits and underscores, not starting with a digit.
pub(crate) fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Const(n) => serializer.serialize_u64(*n),
            Self::Sym { .. } => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Dim;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a dim: a number, \"T\" or \"4*T\"")
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Dim, E> {
                Ok(Dim::Const(n))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Dim, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A named dim with its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DimDecl {
    /// `T`, `C`, `R`.
    pub name: String,
    /// Smallest value a step may have.
    pub min: u64,
    /// Largest value a step may have; buffers are sized for it.
    pub max: u64,
}

/// Rows and columns that share one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScaleBlock {
    /// Along the last but one axis.
    pub rows: u32,
    /// Along the last axis.
    pub cols: u32,
}

/// Type of a value; a block-scaled value is codes and FP32 scales together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Type {
    /// Element type (of the codes).
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<Dim>,
    /// Set for block-scaled values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleBlock>,
}

impl Type {
    /// The extents under `values`.
    #[must_use]
    pub fn extents(&self, values: &DimValues) -> Option<Vec<u64>> {
        self.shape.iter().map(|dim| dim.resolve(values)).collect()
    }

    /// Bytes of the (contiguous) elements under `values`, without scales.
    #[must_use]
    pub fn bytes(&self, values: &DimValues) -> Option<u64> {
        product(&self.extents(values)?)?.checked_mul(self.dtype.bytes())
    }

    /// Extents of the scales `[.., ceil(N / rows), ceil(K / cols)]`; `None` when there are none.
    #[must_use]
    pub fn scale_extents(&self, values: &DimValues) -> Option<Vec<u64>> {
        let block = self.scale?;
        let mut extents = self.extents(values)?;
        let [.., n, k] = extents.as_mut_slice() else {
            return None;
        };
        if block.rows == 0 || block.cols == 0 {
            return None;
        }
        *n = n.div_ceil(u64::from(block.rows));
        *k = k.div_ceil(u64::from(block.cols));
        Some(extents)
    }
}

/// Product of extents; `None` when it does not fit.
pub(crate) fn product(extents: &[u64]) -> Option<u64> {
    extents.iter().try_fold(1_u64, |acc, &n| acc.checked_mul(n))
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, dim) in self.shape.iter().enumerate() {
            write!(f, "{}{dim}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")?;
        if let Some(block) = self.scale {
            write!(f, "/f32[{}x{}]", block.rows, block.cols)?;
        }
        Ok(())
    }
}

/// How a parameter is made of a checkpoint's tensors, evaluated by the runtime while it loads weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamSource {
    /// The tensor as stored; FP8 codes come with the scales `<name>_scale_inv`.
    Tensor(String),
    /// One under the other, along axis 0.
    Concat(Vec<ParamSource>),
    /// Under a new outermost axis.
    Stack(Vec<ParamSource>),
    /// Under a new outermost axis, the experts that a rank holds: rank `r` the physical ones `r * slots..(r + 1) * slots`.
    /// Which part a physical expert is says the placement; without one physical expert `p` is part `p` modulo their
    /// number.
    Experts {
        /// Which of the model's layers with experts this is, from 0.
        layer: u64,
        /// Experts of a rank.
        slots: u64,
        /// All logical experts.
        parts: Vec<ParamSource>,
    },
    /// FP8 to BF16: code times scale in FP32, rounded once.
    Dequant(Box<ParamSource>),
    /// `[heads * P, K]` as `[heads, P, K]`, of each head the rows `start .. start + len`.
    HeadRows {
        /// A matrix.
        src: Box<ParamSource>,
        /// Heads it is made of.
        heads: u64,
        /// First row of each head.
        start: u64,
        /// Rows of each head.
        len: u64,
    },
    /// The last two axes swapped.
    Transpose(Box<ParamSource>),
    /// Cosines and sines of rotary positions, `f32[positions, dim / 2, 2]`.
    RopeTable {
        /// Rotated channels.
        dim: u64,
        /// Base of the frequencies.
        theta: f64,
        /// Rows.
        positions: u64,
        /// Context extension, when the model has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        yarn: Option<Yarn>,
    },
}

/// YaRN context extension.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Yarn {
    /// By how much positions are stretched.
    pub factor: f64,
    /// Context length before the extension.
    pub original: f64,
    /// Rotations over the original context above which a frequency stays as it is.
    pub beta_fast: f64,
    /// Rotations below which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// Numerator of the cosine and sine multiplier.
    pub mscale: f64,
    /// Denominator of the cosine and sine multiplier.
    pub mscale_all_dim: f64,
}
