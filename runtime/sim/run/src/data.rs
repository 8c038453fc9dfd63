//! The bytes of buffers: read from files, or made.
//!
//! In: a [`Buffer`] of the launch file, the folder that its paths start from,
//! and a budget of bytes. Out: [`Data`]. The budget is checked before memory is
//! taken, and only what is a plain file is opened.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::Deserialize;

use crate::dtype::DType;
use crate::error::InputError;
use crate::file::{Buffer, Contents};

/// The longest header of a safetensors file that its own library takes.
const MOST_HEADER: u64 = 100 << 20;

/// A buffer's type, shape and first contents.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub size: u64,
    /// `None` until a kernel writes it.
    pub bytes: Option<Vec<u8>>,
}

/// Bytes that may still be taken.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    limit: u64,
    left: u64,
}

impl Budget {
    pub const fn new(limit: u64) -> Budget {
        Budget { limit, left: limit }
    }

    fn take(&mut self, bytes: u64, at: &str) -> Result<(), InputError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(InputError::field(
                at,
                format!(
                    "{bytes} bytes where {} of {} are left; --memory-limit and `device.memory` raise the limit",
                    self.left, self.limit
                ),
            )),
        }
    }
}

/// The contents of a buffer. An expectation that says nothing of its type and
/// shape has those of its buffer, from a byte of it on.
pub fn load(
    buffer: &Buffer,
    dir: &Path,
    like: Option<(&Data, u64)>,
    budget: &mut Budget,
) -> Result<Data, InputError> {
    let at = |field: &str| format!("{}.{field}", buffer.at);
    let mut dtype = buffer.dtype.or(like.map(|(l, _)| l.dtype));
    let mut shape = buffer.shape.clone();
    if let (None, Some((like, from)), Some(t)) = (&shape, like, dtype) {
        let rest = like.size.saturating_sub(from) / t.bytes() as u64;
        shape = Some(match (from, like.dtype == t) {
            (0, true) => like.shape.clone(),
            _ => vec![rest],
        });
    }
    let mut source = None;
    match &buffer.contents {
        Contents::Safetensors { path, tensor } => {
            let found = Tensor::find(&dir.join(path), tensor)
                .map_err(|e| e.at(at("safetensors"), at("tensor")))?;
            if dtype.is_some_and(|d| !same_bits(d, found.dtype)) {
                return Err(InputError::field(
                    at("dtype"),
                    format!("tensor `{tensor}` of {path} holds {}", found.dtype),
                ));
            }
            if buffer.shape.as_ref().is_some_and(|s| *s != found.shape) {
                return Err(InputError::field(
                    at("shape"),
                    format!(
                        "tensor `{tensor}` of {path} has the shape {:?}",
                        found.shape
                    ),
                ));
            }
            dtype.get_or_insert(found.dtype);
            shape = Some(found.shape);
            source = Some((dir.join(path), found.offset, found.bytes));
        }
        Contents::File { path, offset } => {
            let path = dir.join(path);
            let length = plain_file(&path)
                .map_err(|e| e.at(at("file"), String::new()))?
                .1;
            let there = length.checked_sub(*offset).ok_or_else(|| {
                InputError::field(at("offset"), format!("the file has {length} bytes"))
            })?;
            let t = *dtype.get_or_insert(DType::B8);
            let shape = shape.get_or_insert_with(|| vec![there / t.bytes() as u64]);
            let size = size_of(t, shape, &buffer.at)?;
            if there < size {
                return Err(InputError::field(
                    at("file"),
                    format!(
                        "{} has {there} bytes from byte {offset} on; {t} {shape:?} needs {size}",
                        path.display()
                    ),
                ));
            }
            source = Some((path, *offset, size));
        }
        Contents::Values(_) if dtype.is_none() => {
            return Err(InputError::field(at("values"), "`values` need a `dtype`"));
        }
        Contents::Values(values) => {
            shape.get_or_insert_with(|| vec![values.len() as u64]);
        }
        Contents::Nothing | Contents::Fill { .. } => {}
    }
    let (Some(dtype), Some(shape)) = (dtype, shape) else {
        return Err(InputError::field(
            &buffer.at,
            "nothing says how large it is; add `dtype` and `shape`, or `bytes`",
        ));
    };
    let size = size_of(dtype, &shape, &buffer.at)?;
    if size == 0 {
        return Err(InputError::field(&buffer.at, "a buffer without bytes"));
    }
    budget.take(size, &buffer.at)?;
    let count = (size / dtype.bytes() as u64) as usize;
    let bytes = match &buffer.contents {
        Contents::Nothing => None,
        Contents::Values(values) => {
            if values.len() != count {
                return Err(InputError::field(
                    at("values"),
                    format!("{} values; {dtype} {shape:?} needs {count}", values.len()),
                ));
            }
            let mut out = Vec::with_capacity(size as usize);
            for (i, v) in values.iter().enumerate() {
                let bits = dtype.encode(*v);
                let bits =
                    bits.map_err(|m| InputError::field(format!("{}[{i}]", at("values")), m))?;
                out.extend_from_slice(&bits.to_le_bytes()[..dtype.bytes()]);
            }
            Some(out)
        }
        Contents::Fill { fill, seed } => Some(
            fill.bytes(dtype, *seed, count)
                .map_err(|m| InputError::field(at("fill"), m))?,
        ),
        Contents::File { .. } | Contents::Safetensors { .. } => match source {
            Some((path, offset, len)) => Some(read_part(&path, offset, len)?),
            None => None,
        },
    };
    Ok(Data {
        dtype,
        shape,
        size,
        bytes,
    })
}

fn size_of(dtype: DType, shape: &[u64], at: &str) -> Result<u64, InputError> {
    shape
        .iter()
        .try_fold(dtype.bytes() as u64, |n, &e| n.checked_mul(e))
        .ok_or_else(|| InputError::field(at, "more bytes than 64 bits can count"))
}

/// Whether a tensor of `found` may be read as `wanted`.
fn same_bits(wanted: DType, found: DType) -> bool {
    wanted == found
        || (wanted.bytes() == found.bytes() && wanted.is_bits())
        || (wanted == DType::Tf32 && found == DType::F32)
}

/// Why a file gives no bytes: the machine's fault or the author's.
enum Trouble {
    Io(InputError),
    File(String),
    Tensor(String),
}

impl Trouble {
    fn io(path: &Path, source: std::io::Error) -> Trouble {
        Trouble::Io(io(path, source))
    }

    fn at(self, file: String, tensor: String) -> InputError {
        match self {
            Trouble::Io(e) => e,
            Trouble::File(m) => InputError::field(file, m),
            Trouble::Tensor(m) => InputError::field(tensor, m),
        }
    }
}

fn io(path: &Path, source: std::io::Error) -> InputError {
    InputError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    }
}

/// Opens a plain file; a pipe or a device could keep us waiting for ever.
fn plain_file(path: &Path) -> Result<(PathBuf, u64), Trouble> {
    let meta = std::fs::metadata(path).map_err(|e| Trouble::io(path, e))?;
    if !meta.is_file() {
        return Err(Trouble::File(format!(
            "{} is no plain file",
            path.display()
        )));
    }
    Ok((path.to_owned(), meta.len()))
}

fn read_part(path: &Path, offset: u64, len: u64) -> Result<Vec<u8>, InputError> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        // The caller knows that the file has as many bytes.
        let mut out = vec![0; len as usize];
        file.read_exact(&mut out)?;
        Ok(out)
    };
    read().map_err(|e| io(path, e))
}

/// Where a tensor lies in a safetensors file.
struct Tensor {
    dtype: DType,
    shape: Vec<u64>,
    offset: u64,
    bytes: u64,
}

/// A header's entry.
#[derive(Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Tensor {
    /// Reads the header alone: checkpoints have gigabytes.
    fn find(path: &Path, name: &str) -> Result<Tensor, Trouble> {
        let (path, length) = plain_file(path)?;
        let bad =
            |why: &str| Trouble::File(format!("{} is no safetensors file: {why}", path.display()));
        if length < 8 {
            return Err(bad("it is too short"));
        }
        let head = read_part(&path, 0, 8).map_err(Trouble::Io)?;
        let n = DType::U64.element(&head, 0);
        if n > MOST_HEADER || n > length - 8 {
            return Err(bad("its header is longer than it is"));
        }
        let header = read_part(&path, 8, n).map_err(Trouble::Io)?;
        let entries: std::collections::BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|e| bad(&e.to_string()))?;
        let Some(entry) = entries.get(name).filter(|_| name != "__metadata__") else {
            let mut known: Vec<&str> = entries.keys().map(String::as_str).collect();
            known.retain(|k| *k != "__metadata__");
            let more = known.len().saturating_sub(10);
            known.truncate(10);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            return Err(Trouble::Tensor(format!(
                "{} has no tensor `{name}`; it has {}{more}",
                path.display(),
                known.join(", ")
            )));
        };
        let entry = Entry::deserialize(entry).map_err(|e| bad(&e.to_string()))?;
        let dtype = of_safetensors(entry.dtype).ok_or_else(|| {
            Trouble::Tensor(format!(
                "elements of type {:?} are not supported",
                entry.dtype
            ))
        })?;
        let (from, to) = entry.data_offsets;
        let size = entry
            .shape
            .iter()
            .try_fold(dtype.bytes() as u64, |n, &e| n.checked_mul(e));
        if to < from || size != Some(to - from) || to > length - 8 - n {
            return Err(bad(&format!("the place of tensor `{name}` is impossible")));
        }
        Ok(Tensor {
            dtype,
            shape: entry.shape,
            offset: 8 + n + from,
            bytes: to - from,
        })
    }
}

fn of_safetensors(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::BOOL | Dtype::U8 => DType::U8,
        Dtype::I8 => DType::S8,
        Dtype::U16 => DType::U16,
        Dtype::I16 => DType::S16,
        Dtype::U32 => DType::U32,
        Dtype::I32 => DType::S32,
        Dtype::U64 => DType::U64,
        Dtype::I64 => DType::S64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F8_E4M3 => DType::E4m3,
        Dtype::F8_E5M2 => DType::E5m2,
        _ => return None,
    })
}

/// The type under which a safetensors file keeps such elements.
pub const fn to_safetensors(dtype: DType) -> Dtype {
    match dtype {
        DType::U8 | DType::B8 => Dtype::U8,
        DType::S8 => Dtype::I8,
        DType::U16 | DType::B16 => Dtype::U16,
        DType::S16 => Dtype::I16,
        DType::U32 | DType::B32 => Dtype::U32,
        DType::S32 => Dtype::I32,
        DType::U64 | DType::B64 => Dtype::U64,
        DType::S64 => Dtype::I64,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::F32 | DType::Tf32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::E4m3 => Dtype::F8_E4M3,
        DType::E5m2 => Dtype::F8_E5M2,
    }
}
