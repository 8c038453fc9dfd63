//! Arguments against parameters: the bytes that a launch takes.
//!
//! In: the arguments of a launch, the kernel's parameters as the PTX declares
//! them, and where the buffers lie. Out: the parameter bytes. Every argument
//! has the size and the kind of its parameter, or the error says both.

use mcc_ptx::{Param, Type};
use mcc_sim::{Gpu, TensorMap};

use crate::dtype::DType;
use crate::error::InputError;
use crate::file::{Arg, ArgKind, Launch, TensorMapSpec};

/// A buffer on the device.
#[derive(Debug, Clone)]
pub struct Placed {
    pub name: String,
    pub address: u64,
    pub size: u64,
}

/// What packing needs to know and what it finds out.
pub struct Packer<'a> {
    pub gpu: &'a Gpu,
    pub buffers: &'a [Placed],
    /// What is legal and looks like a mistake.
    pub notes: Vec<String>,
}

impl Packer<'_> {
    pub fn pack(
        &mut self,
        launch: &Launch,
        kernel: &str,
        params: &[Param],
        layout: &[(usize, usize)],
    ) -> Result<Vec<u8>, InputError> {
        if launch.args.len() != params.len() || layout.len() != params.len() {
            let list: Vec<String> = params.iter().map(declared).collect();
            return Err(InputError::field(
                format!("{}.args", launch.at),
                format!(
                    "{} arguments, but kernel `{kernel}` takes {}: {}",
                    launch.args.len(),
                    params.len(),
                    if list.is_empty() {
                        "none".into()
                    } else {
                        list.join(", ")
                    }
                ),
            ));
        }
        let mut out = vec![0; layout.last().map_or(0, |(at, size)| at + size)];
        for ((arg, param), &(at, size)) in launch.args.iter().zip(params).zip(layout) {
            let bytes = self.argument(arg, param)?;
            if bytes.len() != size {
                return Err(InputError::field(
                    &arg.at,
                    format!(
                        "{} bytes for the parameter `{}`, which has {size}",
                        bytes.len(),
                        declared(param)
                    ),
                ));
            }
            out[at..at + size].copy_from_slice(&bytes);
        }
        Ok(out)
    }

    /// An argument of a kernel.
    fn argument(&mut self, arg: &Arg, param: &Param) -> Result<Vec<u8>, InputError> {
        let error = |m: String| InputError::field(&arg.at, m);
        match &arg.kind {
            ArgKind::Plain(number) => {
                let dtype = param.array.is_none().then(|| DType::of_parameter(param.ty));
                let Some(dtype) = dtype.flatten() else {
                    return Err(error(format!(
                        "a number for the parameter `{}`; say of which type: {{\"u32\": {number}}}",
                        declared(param)
                    )));
                };
                let bits = dtype.encode(*number);
                let bits =
                    bits.map_err(|m| error(format!("parameter `{}`: {m}", declared(param))))?;
                Ok(bits.to_le_bytes()[..dtype.bytes()].to_vec())
            }
            ArgKind::Scalar(dtype, _) if !fits(*dtype, param) => Err(error(format!(
                "{dtype} for the parameter `{}`; if its bits are meant, write them as b{}",
                declared(param),
                8 * dtype.bytes()
            ))),
            // A kernel takes a map by value or by its address.
            ArgKind::TensorMap(map) if param.bytes() == 8 => {
                let bytes = self.tensor_map(arg, map)?;
                let at = self.gpu.alloc(128, 128)?;
                self.gpu.write(at, &bytes)?;
                Ok(at.to_le_bytes().to_vec())
            }
            _ => Ok(self.value(arg)?.0),
        }
    }

    /// Bytes and alignment of an argument that needs no parameter to be known.
    fn value(&mut self, arg: &Arg) -> Result<(Vec<u8>, usize), InputError> {
        match &arg.kind {
            ArgKind::Plain(number) => Err(InputError::field(
                &arg.at,
                format!("a member of a structure needs its type: {{\"u32\": {number}}}"),
            )),
            ArgKind::Scalar(dtype, number) => {
                let bits = dtype
                    .encode(*number)
                    .map_err(|m| InputError::field(&arg.at, m))?;
                let size = dtype.bytes();
                Ok((bits.to_le_bytes()[..size].to_vec(), size))
            }
            ArgKind::Pointer { buffer, offset } => {
                let address = self.address(arg, buffer, *offset)?;
                Ok((address.to_le_bytes().to_vec(), 8))
            }
            ArgKind::TensorMap(map) => Ok((self.tensor_map(arg, map)?.to_vec(), 64)),
            ArgKind::Bytes(bytes) => Ok((bytes.clone(), 1)),
            ArgKind::Struct(members) => {
                let (mut out, mut align) = (Vec::new(), 1);
                for member in members {
                    let (bytes, a) = self.value(member)?;
                    out.resize(out.len().next_multiple_of(a), 0);
                    out.extend_from_slice(&bytes);
                    align = align.max(a);
                }
                out.resize(out.len().next_multiple_of(align), 0);
                Ok((out, align))
            }
        }
    }

    fn placed(&self, arg: &Arg, name: &str) -> Result<&Placed, InputError> {
        let mut all = self.buffers.iter();
        all.find(|b| b.name == name)
            .ok_or_else(|| InputError::field(&arg.at, format!("there is no buffer `{name}`")))
    }

    fn address(&self, arg: &Arg, name: &str, offset: u64) -> Result<u64, InputError> {
        let buffer = self.placed(arg, name)?;
        if offset > buffer.size {
            return Err(InputError::field(
                format!("{}.offset", arg.at),
                format!(
                    "byte {offset} of buffer `{name}`, which has {} bytes",
                    buffer.size
                ),
            ));
        }
        Ok(buffer.address + offset)
    }

    fn tensor_map(&mut self, arg: &Arg, map: &TensorMapSpec) -> Result<[u8; 128], InputError> {
        let at = format!("{}.tensor_map", arg.at);
        let rank = map.dims.len();
        let packed = || {
            let mut stride = map.elem.bytes();
            map.dims[..rank.saturating_sub(1)]
                .iter()
                .map(|&d| {
                    stride = stride.saturating_mul(d);
                    stride
                })
                .collect()
        };
        let encoded = TensorMap {
            elem: map.elem,
            global_address: self.address(arg, &map.buffer, map.offset)?,
            dims: map.dims.clone(),
            strides: map.strides.clone().unwrap_or_else(packed),
            box_dims: map.box_dims.clone(),
            elem_strides: map.elem_strides.clone().unwrap_or_else(|| vec![1; rank]),
            swizzle: map.swizzle,
            oob_nan: map.oob_nan,
        };
        let bytes = encoded
            .encode()
            .map_err(|e| InputError::field(&at, e.to_string()))?;
        let strides = std::iter::once(map.elem.bytes()).chain(encoded.strides.iter().copied());
        let extent = map
            .dims
            .iter()
            .zip(strides)
            .fold(map.elem.bytes(), |n, (d, s)| {
                n.saturating_add((d - 1).saturating_mul(s))
            });
        let there = self.placed(arg, &map.buffer)?.size - map.offset;
        if extent > there {
            self.notes.push(format!(
                "`{at}` describes {extent} bytes, but buffer `{}` has {there} from there on",
                map.buffer
            ));
        }
        Ok(bytes)
    }
}

/// Whether a scalar is of the parameter's kind: integers of either sign go
/// for each other, bits for everything. Sizes are compared elsewhere.
fn fits(dtype: DType, param: &Param) -> bool {
    let untyped = param.array.is_some()
        || matches!(
            param.ty,
            Type::B8 | Type::B16 | Type::B32 | Type::B64 | Type::B128
        );
    untyped || dtype.is_bits() || dtype.is_float() == param.ty.is_float()
}

/// A parameter as the PTX declares it.
fn declared(p: &Param) -> String {
    match p.array {
        Some(n) => format!(".{} {}[{n}]", p.ty, p.name),
        None => format!(".{} {}", p.ty, p.name),
    }
}
