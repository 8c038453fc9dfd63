//! Buffers of a launch file: element type, shape, and where their bytes come
//! from.

use crate::dtype::{DType, Num};
use crate::error::InputError;
use crate::fill::{Fill, seed_of};
use crate::json::{Fields, Json, Node};

#[derive(Debug, Clone, PartialEq)]
pub struct Buffer {
    pub name: String,
    pub at: String,
    /// `None` takes that of a safetensors file, or bytes for a raw file.
    pub dtype: Option<DType>,
    /// Elements of each dimension, outermost first; `None` takes all that the
    /// source has.
    pub shape: Option<Vec<u64>>,
    pub contents: Contents,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Contents {
    /// The buffer holds nothing until a kernel writes it.
    Nothing,
    /// Bytes of a file, from `offset` on.
    File {
        path: String,
        offset: u64,
    },
    Safetensors {
        path: String,
        tensor: String,
    },
    Values(Vec<Num>),
    Fill {
        fill: Fill,
        seed: u64,
    },
}

const BUFFER: &[&str] = &[
    "dtype",
    "shape",
    "bytes",
    "file",
    "offset",
    "safetensors",
    "tensor",
    "values",
    "fill",
    "seed",
];

/// What an entry of `expect` may have.
pub const EXPECTED: &[&str] = &[
    "buffer",
    "at_byte",
    "abs",
    "rel",
    "dtype",
    "shape",
    "file",
    "offset",
    "safetensors",
    "tensor",
    "values",
    "fill",
    "seed",
];

impl Buffer {
    pub fn read(name: &str, node: Node<'_>) -> Result<Buffer, InputError> {
        Buffer::of(name, &node.fields(BUFFER)?)
    }

    /// The expected contents of the buffer that is named in `f`.
    pub fn read_expected(f: &Fields<'_>) -> Result<Buffer, InputError> {
        Buffer::of(f.need("buffer")?.string()?, f)
    }

    fn of(name: &str, f: &Fields<'_>) -> Result<Buffer, InputError> {
        let mut dtype = match f.get("dtype") {
            Some(n) => Some(DType::from_name(n.string()?).map_err(|m| n.error(m))?),
            None => None,
        };
        let mut shape = match f.get("shape") {
            Some(n) => Some(shape(&n)?),
            None => None,
        };
        if let Some(n) = f.get("bytes") {
            if dtype.is_some() || shape.is_some() {
                return Err(n.error("either `bytes`, or `dtype` and `shape`"));
            }
            (dtype, shape) = (Some(DType::B8), Some(vec![n.bytes()?]));
        }
        let sources = f.present(&["file", "safetensors", "values", "fill"]);
        if sources.len() > 1 {
            return Err(f.node.error(format!(
                "the contents have {} sources ({}); one is possible",
                sources.len(),
                sources.join(", ")
            )));
        }
        for (of, field) in [
            ("file", "offset"),
            ("safetensors", "tensor"),
            ("fill", "seed"),
        ] {
            if let (Some(n), false) = (f.get(field), sources.contains(&of)) {
                return Err(n.error(format!("`{field}` goes with `{of}`, which is not here")));
            }
        }
        let contents = match sources.first() {
            Some(&"file") => Contents::File {
                path: f.need("file")?.string()?.to_owned(),
                offset: f.get("offset").map_or(Ok(0), |n| n.bytes())?,
            },
            Some(&"safetensors") => Contents::Safetensors {
                path: f.need("safetensors")?.string()?.to_owned(),
                tensor: f.need("tensor")?.string()?.to_owned(),
            },
            Some(&"values") => {
                let node = f.need("values")?;
                let values = match node.json {
                    Json::List(_) => node.numbers()?,
                    _ => vec![node.number()?],
                };
                Contents::Values(values)
            }
            Some(_) => Contents::Fill {
                fill: fill(&f.need("fill")?)?,
                seed: match f.get("seed") {
                    Some(n) => n.within(0, u64::MAX)?,
                    None => seed_of(name),
                },
            },
            None => Contents::Nothing,
        };
        Ok(Buffer {
            name: name.to_owned(),
            at: f.node.at.clone(),
            dtype,
            shape,
            contents,
        })
    }
}

/// Extents, whose product is a number of elements that can be.
fn shape(node: &Node<'_>) -> Result<Vec<u64>, InputError> {
    let extents: Vec<u64> = match node.json {
        Json::List(_) => {
            let list = node.list()?;
            list.iter()
                .map(|n| n.within(0, u64::MAX))
                .collect::<Result<_, _>>()?
        }
        _ => vec![node.within(0, u64::MAX)?],
    };
    let product = extents.iter().try_fold(1u64, |p, &e| p.checked_mul(e));
    match product {
        Some(n) if n <= 1 << 48 => Ok(extents),
        _ => Err(node.error("more than 2^48 elements")),
    }
}

/// `"zeros"`, `"normal"`, `{"uniform": {"low": 0, "high": 1}}`, ….
fn fill(node: &Node<'_>) -> Result<Fill, InputError> {
    let known = "zeros, constant, ramp, uniform, normal and integers";
    let standard = |name: &str| match name {
        "zeros" => Some(Fill::Constant(Num::Int(0))),
        "ramp" => Some(Fill::Ramp {
            start: 0.0,
            step: 1.0,
        }),
        "uniform" => Some(Fill::Uniform {
            low: 0.0,
            high: 1.0,
        }),
        "normal" => Some(Fill::Normal {
            mean: 0.0,
            std: 1.0,
        }),
        _ => None,
    };
    if let Json::String(name) = node.json {
        return standard(name).ok_or_else(|| match name.as_str() {
            "constant" => node.error("a constant needs its value: {\"constant\": 1}"),
            "integers" => {
                node.error("integers need bounds: {\"integers\": {\"low\": 0, \"high\": 9}}")
            }
            _ => node.error(format!(
                "`{name}` is no way to fill a buffer; there are {known}"
            )),
        });
    }
    let f = node
        .clone()
        .fields(&["constant", "ramp", "uniform", "normal", "integers"])?;
    let names = f.present(&["constant", "ramp", "uniform", "normal", "integers"]);
    let [name] = names[..] else {
        return Err(node.error(format!(
            "{} ways to fill one buffer; one of {known} is possible",
            names.len()
        )));
    };
    let inner = f.need(name)?;
    let pair = |first: &'static str, second: &'static str, fields: &'static [&'static str]| {
        let g = inner.clone().fields(fields)?;
        let or = |name, default| g.get(name).map_or(Ok(default), |n: Node<'_>| n.real());
        Ok::<(f64, f64), InputError>((or(first, 0.0)?, or(second, 1.0)?))
    };
    Ok(match name {
        "constant" => Fill::Constant(inner.number()?),
        "ramp" => {
            let (start, step) = pair("start", "step", &["start", "step"])?;
            Fill::Ramp { start, step }
        }
        "uniform" => {
            let (low, high) = pair("low", "high", &["low", "high"])?;
            if low > high {
                return Err(inner.error(format!("`low` {low} is above `high` {high}")));
            }
            Fill::Uniform { low, high }
        }
        "normal" => {
            let (mean, std) = pair("mean", "std", &["mean", "std"])?;
            Fill::Normal { mean, std }
        }
        _ => {
            let g = inner.clone().fields(&["low", "high"])?;
            let (low, high) = (g.need("low")?.integer()?, g.need("high")?.integer()?);
            let range = i128::from(i64::MIN)..=i128::from(u64::MAX);
            if low > high
                || !range.contains(&low)
                || !range.contains(&high)
                || high - low > u64::MAX.into()
            {
                return Err(
                    inner.error(format!("there are no 64-bit integers from {low} to {high}"))
                );
            }
            Fill::Integers { low, high }
        }
    })
}
