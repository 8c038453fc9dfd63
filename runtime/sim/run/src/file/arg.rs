//! Arguments of a launch, as the file has them.

use mcc_sim::{Swizzle, TensorElem};

use crate::dtype::{DType, Num};
use crate::error::InputError;
use crate::json::{Fields, Json, Node};

#[derive(Debug, Clone, PartialEq)]
pub struct Arg {
    pub at: String,
    pub kind: ArgKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ArgKind {
    /// A number of the parameter's own type.
    Plain(Num),
    Scalar(DType, Num),
    /// The address of a byte of a buffer.
    Pointer {
        buffer: String,
        offset: u64,
    },
    TensorMap(Box<TensorMapSpec>),
    /// A structure by value, as its bytes.
    Bytes(Vec<u8>),
    /// A structure by value, whose members are laid out as C does.
    Struct(Vec<Arg>),
}

/// What `cuTensorMapEncodeTiled` takes. Dimension 0 is the innermost.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorMapSpec {
    pub buffer: String,
    pub offset: u64,
    pub elem: TensorElem,
    pub dims: Vec<u64>,
    /// Bytes, of dimensions 1 and up; packed otherwise.
    pub strides: Option<Vec<u64>>,
    pub box_dims: Vec<u32>,
    pub elem_strides: Option<Vec<u32>>,
    pub swizzle: Swizzle,
    pub oob_nan: bool,
}

impl Arg {
    pub fn read(node: Node<'_>) -> Result<Arg, InputError> {
        let at = node.at.clone();
        let kind = match node.json {
            Json::Number(n) => ArgKind::Plain(*n),
            Json::String(s) => ArgKind::Pointer {
                buffer: s.clone(),
                offset: 0,
            },
            Json::Object(_) => object(node)?,
            _ => {
                return Err(node.error(
                    "an argument is a number, the name of a buffer, or an object such as \
                     {\"u32\": 7}, {\"buffer\": \"x\"}, {\"tensor_map\": {...}}, {\"bytes\": \"00ff\"} \
                     or {\"struct\": [...]}",
                ));
            }
        };
        Ok(Arg { at, kind })
    }

    /// The buffers that it names, and where it does.
    pub fn buffers<'a>(&'a self, out: &mut Vec<(String, &'a str)>) {
        match &self.kind {
            ArgKind::Pointer { buffer, .. } => out.push((self.at.clone(), buffer)),
            ArgKind::TensorMap(map) => {
                out.push((format!("{}.tensor_map.buffer", self.at), &map.buffer));
            }
            ArgKind::Struct(members) => members.iter().for_each(|m| m.buffers(out)),
            ArgKind::Plain(_) | ArgKind::Scalar(..) | ArgKind::Bytes(_) => {}
        }
    }
}

const KINDS: &[&str] = &[
    "buffer",
    "offset",
    "tensor_map",
    "bytes",
    "struct",
    "u8",
    "u16",
    "u32",
    "u64",
    "s8",
    "s16",
    "s32",
    "s64",
    "b8",
    "b16",
    "b32",
    "b64",
    "f16",
    "bf16",
    "f32",
    "f64",
    "tf32",
    "e4m3",
    "e5m2",
];

fn object(node: Node<'_>) -> Result<ArgKind, InputError> {
    let f = node.fields(KINDS)?;
    let named: Vec<&str> = f
        .present(KINDS)
        .into_iter()
        .filter(|k| *k != "offset")
        .collect();
    let [name] = named[..] else {
        return Err(f.node.error(format!(
            "an argument is one thing, and this is {}",
            if named.is_empty() {
                "nothing".into()
            } else {
                named.join(" and ")
            }
        )));
    };
    if let (Some(n), false) = (f.get("offset"), name == "buffer") {
        return Err(n.error("`offset` goes with `buffer`, which is not here"));
    }
    let value = f.need(name)?;
    Ok(match name {
        "buffer" => ArgKind::Pointer {
            buffer: value.string()?.to_owned(),
            offset: offset(&f)?,
        },
        "tensor_map" => ArgKind::TensorMap(Box::new(tensor_map(value)?)),
        "bytes" => ArgKind::Bytes(hex(&value)?),
        "struct" => {
            let members = value.list()?;
            ArgKind::Struct(
                members
                    .into_iter()
                    .map(Arg::read)
                    .collect::<Result<_, _>>()?,
            )
        }
        dtype => {
            let dtype = DType::from_name(dtype).map_err(|m| f.node.error(m))?;
            let number = value.number()?;
            dtype.encode(number).map_err(|m| value.error(m))?;
            ArgKind::Scalar(dtype, number)
        }
    })
}

fn offset(f: &Fields<'_>) -> Result<u64, InputError> {
    f.get("offset").map_or(Ok(0), |n| n.bytes())
}

/// Bytes as hexadecimal digits, in the order of memory; blanks may part them.
fn hex(node: &Node<'_>) -> Result<Vec<u8>, InputError> {
    let digits: Vec<u32> = node
        .string()?
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| {
            c.to_digit(16)
                .ok_or_else(|| node.error(format!("`{c}` is no hexadecimal digit")))
        })
        .collect::<Result<_, _>>()?;
    if !digits.len().is_multiple_of(2) {
        return Err(node.error("half a byte too much: two hexadecimal digits make one"));
    }
    Ok(digits
        .chunks_exact(2)
        .map(|d| (d[0] * 16 + d[1]) as u8)
        .collect())
}

/// Spellings of the driver's `CUtensorMapDataType`.
const ELEMS: [(&str, TensorElem); 13] = [
    ("u8", TensorElem::U8),
    ("u16", TensorElem::U16),
    ("u32", TensorElem::U32),
    ("s32", TensorElem::S32),
    ("u64", TensorElem::U64),
    ("s64", TensorElem::S64),
    ("f16", TensorElem::F16),
    ("f32", TensorElem::F32),
    ("f64", TensorElem::F64),
    ("bf16", TensorElem::Bf16),
    ("f32_ftz", TensorElem::F32Ftz),
    ("tf32", TensorElem::Tf32),
    ("tf32_ftz", TensorElem::Tf32Ftz),
];

const SWIZZLES: [(&str, Swizzle); 4] = [
    ("none", Swizzle::None),
    ("32B", Swizzle::B32),
    ("64B", Swizzle::B64),
    ("128B", Swizzle::B128),
];

/// One of a list of words.
fn word<T: Copy>(node: &Node<'_>, what: &str, words: &[(&str, T)]) -> Result<T, InputError> {
    let text = node.string()?;
    let found = words.iter().find(|(name, _)| *name == text);
    found.map(|&(_, v)| v).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(n, _)| *n).collect();
        node.error(format!(
            "`{text}` is no {what}; there is {}",
            known.join(", ")
        ))
    })
}

fn tensor_map(node: Node<'_>) -> Result<TensorMapSpec, InputError> {
    let f = node.fields(&[
        "buffer",
        "offset",
        "type",
        "dims",
        "strides",
        "box",
        "element_strides",
        "swizzle",
        "interleave",
        "l2_promotion",
        "oob_fill",
    ])?;
    let wide = |n: Node<'_>| -> Result<Vec<u64>, InputError> {
        n.list()?.iter().map(|n| n.within(0, u64::MAX)).collect()
    };
    let narrow = |n: Node<'_>| -> Result<Vec<u32>, InputError> {
        n.list()?.iter().map(|n| n.u32(0)).collect()
    };
    if let Some(n) = f.get("interleave") {
        let known = [("none", true), ("16B", false), ("32B", false)];
        if !word(&n, "interleave layout", &known)? {
            return Err(n.error("the simulator has no interleaved tensor maps, only `none`"));
        }
    }
    if let Some(n) = f.get("l2_promotion") {
        // Moves data sooner, not elsewhere.
        let known = [("none", ()), ("64B", ()), ("128B", ()), ("256B", ())];
        word(&n, "L2 promotion", &known)?;
    }
    let e = f.need("type")?;
    let elem = match e.string()? {
        "e4m3" | "e5m2" => Err(e.error("tensor maps take FP8 as `u8`")),
        _ => word(&e, "element type of a tensor map", &ELEMS),
    }?;
    Ok(TensorMapSpec {
        buffer: f.need("buffer")?.string()?.to_owned(),
        offset: offset(&f)?,
        elem,
        dims: wide(f.need("dims")?)?,
        strides: f.get("strides").map(wide).transpose()?,
        box_dims: narrow(f.need("box")?)?,
        elem_strides: f.get("element_strides").map(narrow).transpose()?,
        swizzle: f
            .get("swizzle")
            .map_or(Ok(Swizzle::None), |n| word(&n, "swizzle", &SWIZZLES))?,
        oob_nan: f.get("oob_fill").map_or(Ok(false), |n| {
            word(
                &n,
                "fill of elements out of bounds",
                &[("zeros", false), ("nan", true)],
            )
        })?,
    })
}
