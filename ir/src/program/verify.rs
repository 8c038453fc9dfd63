//! What makes a [`Program`] sound, checked without knowing how it was made.
//!
//! In: a program, made by `mcc-passes` or read from JSON that a person edited. Out: the first rule that it
//! breaks, with its place. Holds afterwards, for every value of the dims within their bounds:
//!
//! - every view lies inside its buffer and has the extents and strides that its kernel takes;
//! - every launch reads only bytes that an earlier launch of the same entry, the host or the loader wrote and
//!   that no launch in between wrote over, so that sharing the arena cannot change a result;
//! - operands that are views of the `Exchange` or the `World` buffer are those that the kernel takes as such, and no two
//!   kinds of exchange have bytes in common;
//! - codegen and the runtime need not check any of this again.

use std::collections::{BTreeMap, BTreeSet};

use super::{Buffer, BufferId, BufferKind, Entry, Port, Program, ProgramError, Step, View};
use crate::kernel::{ExchangeRange, Extent, Layout, OperandSpec};
use crate::types::{DType, Dim, Type};

/// Buffers start and end at multiples of this: the alignment of a device allocation, more than TMA's 128.
pub const BUFFER_ALIGN: u64 = 256;

/// What TMA and 16-byte loads need of addresses and strides.
const VECTOR_BYTES: u64 = 16;

impl Program {
    /// Checks every rule of the module doc.
    ///
    /// # Errors
    /// The first broken rule and where.
    pub fn verify(&self) -> Result<(), ProgramError> {
        self.verify_dims()?;
        self.verify_buffers()?;
        self.verify_params()?;
        self.verify_kernels()?;
        unique("entries", self.entries.iter().map(|e| e.name.as_str()))?;
        for entry in &self.entries {
            let at = format!("entry `{}`", entry.name);
            self.verify_ports(entry, &at)?;
            for (index, step) in entry.steps.iter().enumerate() {
                self.verify_step(step)
                    .map_err(|e| e.inside(&step_at(&at, index, step)))?;
            }
            self.verify_order(entry, &at)?;
        }
        self.verify_ranges()
    }

    /// Largest extent of a dim; `None` for an undeclared name or on overflow.
    #[must_use]
    pub fn max_extent(&self, dim: &Dim) -> Option<u64> {
        dim.resolve(|name| self.dims.iter().find(|d| d.name == name).map(|d| d.max))
    }

    fn verify_dims(&self) -> Result<(), ProgramError> {
        unique("dims", self.dims.iter().map(|d| d.name.as_str()))?;
        for dim in &self.dims {
            if dim.min > dim.max || dim.max == 0 {
                return invalid(format!("dim `{}`", dim.name), "its range is empty");
            }
        }
        Ok(())
    }

    fn verify_buffers(&self) -> Result<(), ProgramError> {
        for (index, buffer) in self.buffers.iter().enumerate() {
            let at = || format!("buffer {index} (`{}`)", buffer.name);
            if buffer.bytes == 0 || !buffer.bytes.is_multiple_of(BUFFER_ALIGN) {
                return invalid(
                    at(),
                    format!("its size {} is no multiple of {BUFFER_ALIGN}", buffer.bytes),
                );
            }
            if let BufferKind::Temp { offset } = buffer.kind {
                if !offset.is_multiple_of(BUFFER_ALIGN) {
                    return invalid(
                        at(),
                        format!("its offset {offset} is no multiple of {BUFFER_ALIGN}"),
                    );
                }
                if offset
                    .checked_add(buffer.bytes)
                    .is_none_or(|end| end > self.arena_bytes)
                {
                    return invalid(
                        at(),
                        format!("it ends outside the arena of {} bytes", self.arena_bytes),
                    );
                }
            }
            if let BufferKind::World { ranks } = buffer.kind {
                let table = 16 + 8 * u64::from(ranks);
                if ranks == 0 || table > buffer.bytes {
                    return invalid(
                        at(),
                        format!("{} bytes do not hold {ranks} ranks", buffer.bytes),
                    );
                }
            }
        }
        let exchange = |b: &&Buffer| b.kind == BufferKind::Exchange;
        if self.buffers.iter().filter(exchange).count() > 1 {
            return invalid("buffers".to_owned(), "two are of kind exchange".to_owned());
        }
        Ok(())
    }

    fn verify_params(&self) -> Result<(), ProgramError> {
        unique("params", self.params.iter().map(|p| p.name.as_str()))?;
        let mut holders = BTreeSet::new();
        for param in &self.params {
            let at = || format!("param `{}`", param.name);
            let scale_shape = param.ty.scale_shape();
            if scale_shape.is_some() != param.scales.is_some() {
                return invalid(
                    at(),
                    format!(
                        "it has the type {} and the wrong number of buffers",
                        param.ty
                    ),
                );
            }
            let parts = [
                (Some(param.data), Some((param.ty.dtype, &param.ty.shape))),
                (
                    param.scales,
                    scale_shape.as_ref().map(|shape| (DType::F32, shape)),
                ),
            ];
            for (id, contents) in parts {
                let (Some(id), Some((dtype, shape))) = (id, contents) else {
                    continue;
                };
                let buffer = self.buffer(id).map_err(|e| e.inside(&at()))?;
                if buffer.kind != BufferKind::Weight {
                    return invalid(
                        at(),
                        format!("buffer `{}` is not of kind weight", buffer.name),
                    );
                }
                if !holders.insert(id) {
                    return invalid(
                        at(),
                        format!("buffer `{}` holds another parameter too", buffer.name),
                    );
                }
                let bytes = self.dense_bytes(dtype, shape);
                if bytes.is_none_or(|b| b > buffer.bytes) {
                    return invalid(
                        at(),
                        format!("buffer `{}` is too small for {}", buffer.name, param.ty),
                    );
                }
            }
        }
        Ok(())
    }

    fn verify_kernels(&self) -> Result<(), ProgramError> {
        unique("kernels", self.kernels.iter().map(|k| k.name.as_str()))?;
        for kernel in &self.kernels {
            // PTX ISA, "Identifiers": a letter, then letters, digits, `_` and `$`; we use no `$`.
            let mut chars = kernel.name.chars();
            let head = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
            if !head || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return invalid(
                    format!("kernel `{}`", kernel.name),
                    "its name is no PTX identifier",
                );
            }
        }
        Ok(())
    }

    fn verify_ports(&self, entry: &Entry, at: &str) -> Result<(), ProgramError> {
        let check = |ports: &[Port], kind: BufferKind, what: &str| {
            unique(
                &format!("{at}, {what}s"),
                ports.iter().map(|p| p.name.as_str()),
            )?;
            for port in ports {
                let at = format!("{at}, {what} `{}`", port.name);
                let buffer = self.buffer(port.buffer).map_err(|e| e.inside(&at))?;
                if buffer.kind != kind {
                    return invalid(
                        at,
                        format!("buffer `{}` is not of kind {what}", buffer.name),
                    );
                }
                if port.ty.scale.is_some() {
                    return invalid(at, "a block-scaled value has two buffers, a port only one");
                }
                if self.type_bytes(&port.ty).is_none_or(|b| b > buffer.bytes) {
                    return invalid(
                        at,
                        format!("buffer `{}` is too small for {}", buffer.name, port.ty),
                    );
                }
            }
            Ok(())
        };
        check(&entry.inputs, BufferKind::Input, "input")?;
        check(&entry.outputs, BufferKind::Output, "output")
    }

    fn verify_step(&self, step: &Step) -> Result<(), ProgramError> {
        let Some(kernel) = self.kernels.get(step.kernel.0 as usize) else {
            return invalid("", format!("kernel {} does not exist", step.kernel.0));
        };
        let specs = kernel.config.operand_specs();
        if specs.len() != step.operands.len() {
            return invalid(
                "",
                format!(
                    "`{}` takes {} operands, not {}",
                    kernel.name,
                    specs.len(),
                    step.operands.len()
                ),
            );
        }
        for (spec, view) in specs.iter().zip(&step.operands) {
            let at = || format!("operand `{}`", spec.decl.name);
            self.verify_view(view).map_err(|e| e.inside(&at()))?;
            spec.check_view(view)
                .map_err(|why| ProgramError::Invalid { at: at(), why })?;
            let buffer = self.buffer(view.buffer)?;
            let fixed = matches!(
                buffer.kind,
                BufferKind::Weight | BufferKind::Input | BufferKind::World { .. }
            );
            if spec.decl.written && fixed {
                return invalid(
                    at(),
                    format!(
                        "it is written, and `{}` is a weight, an input or the world",
                        buffer.name
                    ),
                );
            }
            let (exchange, world) = (
                buffer.kind == BufferKind::Exchange,
                matches!(buffer.kind, BufferKind::World { .. }),
            );
            let takes = |name| spec.decl.name == name;
            if exchange != takes("exchange") || world != takes("world") {
                return invalid(
                    at(),
                    format!("`{}` is of another kind than it takes", buffer.name),
                );
            }
        }
        check_extents(&specs, &step.operands).map_err(|(operand, why)| ProgramError::Invalid {
            at: format!("operand `{operand}`"),
            why,
        })?;
        // Kernels read and write in no particular order: nothing written may also be another operand.
        for (i, (spec, written)) in specs.iter().zip(&step.operands).enumerate() {
            let aliased = step
                .operands
                .iter()
                .enumerate()
                .any(|(j, v)| j != i && self.share_bytes(v.buffer, written.buffer));
            if spec.decl.written && aliased {
                return invalid(
                    format!("operand `{}`", spec.decl.name),
                    "it is written, and another operand has bytes of the same buffer",
                );
            }
        }
        Ok(())
    }

    fn verify_view(&self, view: &View) -> Result<(), ProgramError> {
        let buffer = self.buffer(view.buffer)?;
        if view.shape.len() != view.strides.len() {
            return invalid("", "its view has another number of strides than of axes");
        }
        let Some(end) = self.view_end(view) else {
            return invalid(
                "",
                "its view has an undeclared dim or does not fit in 64 bits",
            );
        };
        if end > buffer.bytes {
            return invalid(
                "",
                format!(
                    "its view ends at byte {end} of `{}`, which has {}",
                    buffer.name, buffer.bytes
                ),
            );
        }
        Ok(())
    }

    /// Walks the launches in order and follows who wrote last to each byte of the arena and of the outputs.
    fn verify_order(&self, entry: &Entry, at: &str) -> Result<(), ProgramError> {
        // Buffers whose contents are intact, temporaries and outputs alike.
        let mut intact: BTreeSet<BufferId> = BTreeSet::new();
        for (index, step) in entry.steps.iter().enumerate() {
            let specs = self.kernels[step.kernel.0 as usize].config.operand_specs();
            for (spec, view) in specs
                .iter()
                .zip(&step.operands)
                .filter(|(spec, _)| !spec.decl.written)
            {
                let buffer = self.buffer(view.buffer)?;
                let made_here = matches!(buffer.kind, BufferKind::Temp { .. } | BufferKind::Output);
                if made_here && !intact.contains(&view.buffer) {
                    let at = format!("{}, operand `{}`", step_at(at, index, step), spec.decl.name);
                    return invalid(
                        at,
                        format!("no earlier step left a value in `{}`", buffer.name),
                    );
                }
            }
            for (_, view) in specs
                .iter()
                .zip(&step.operands)
                .filter(|(spec, _)| spec.decl.written)
            {
                intact
                    .retain(|&other| other == view.buffer || !self.share_bytes(other, view.buffer));
                intact.insert(view.buffer);
            }
        }
        for port in &entry.outputs {
            if !intact.contains(&port.buffer) {
                return invalid(format!("{at}, output `{}`", port.name), "no step writes it");
            }
        }
        Ok(())
    }

    /// Launches of one exchange share a range of the `Exchange` buffer, those of different ones have nothing in common.
    fn verify_ranges(&self) -> Result<(), ProgramError> {
        let mut ranges: Vec<(ExchangeRange, u64)> = Vec::new();
        for entry in &self.entries {
            for (index, step) in entry.steps.iter().enumerate() {
                let config = &self.kernels[step.kernel.0 as usize].config;
                let Some(range) = config.exchange() else {
                    continue;
                };
                let exchange = |view: &&View| {
                    let buffer = self.buffers.get(view.buffer.0 as usize);
                    buffer.is_some_and(|buffer| buffer.kind == BufferKind::Exchange)
                };
                let Some(view) = step.operands.iter().find(exchange) else {
                    continue;
                };
                let apart = |(other, offset): &(ExchangeRange, u64)| {
                    if *other == range {
                        return *offset == view.offset;
                    }
                    view.offset >= offset.saturating_add(other.bytes())
                        || *offset >= view.offset.saturating_add(range.bytes())
                };
                if !ranges.iter().all(apart) {
                    let at = format!("entry `{}`", entry.name);
                    return invalid(
                        step_at(&at, index, step),
                        "its range of the exchange is another one's too, or another launch of it has another range",
                    );
                }
                if !ranges.iter().any(|(other, _)| *other == range) {
                    ranges.push((range, view.offset));
                }
            }
        }
        Ok(())
    }

    fn buffer(&self, id: BufferId) -> Result<&Buffer, ProgramError> {
        self.buffers
            .get(id.0 as usize)
            .ok_or_else(|| ProgramError::Invalid {
                at: String::new(),
                why: format!("buffer {} does not exist", id.0),
            })
    }

    /// Whether two buffers are one, or temporaries that overlap in the arena.
    fn share_bytes(&self, a: BufferId, b: BufferId) -> bool {
        if a == b {
            return true;
        }
        match (
            self.buffers.get(a.0 as usize),
            self.buffers.get(b.0 as usize),
        ) {
            (
                Some(Buffer {
                    kind: BufferKind::Temp { offset: a },
                    bytes: a_bytes,
                    ..
                }),
                Some(Buffer {
                    kind: BufferKind::Temp { offset: b },
                    bytes: b_bytes,
                    ..
                }),
            ) => *a < b.saturating_add(*b_bytes) && *b < a.saturating_add(*a_bytes),
            _ => false,
        }
    }

    fn type_bytes(&self, ty: &Type) -> Option<u64> {
        self.dense_bytes(ty.dtype, &ty.shape)
    }

    fn dense_bytes(&self, dtype: DType, shape: &[Dim]) -> Option<u64> {
        shape.iter().try_fold(dtype.bytes(), |bytes, dim| {
            bytes.checked_mul(self.max_extent(dim)?)
        })
    }

    /// First byte of the buffer after the view, at the dims' upper bounds.
    fn view_end(&self, view: &View) -> Option<u64> {
        let mut last = 0_u64;
        for (dim, stride) in view.shape.iter().zip(&view.strides) {
            let extent = self.max_extent(dim)?;
            last = last.checked_add(extent.checked_sub(1)?.checked_mul(*stride)?)?;
        }
        last.checked_add(1)?
            .checked_mul(view.dtype.bytes())?
            .checked_add(view.offset)
    }
}

impl OperandSpec {
    /// Whether a kernel can take this view as this operand: element type, rank, constant extents, strides.
    ///
    /// # Errors
    /// What the kernel needs and what the view has.
    pub fn check_view(&self, view: &View) -> Result<(), String> {
        if view.dtype != self.decl.dtype {
            return Err(format!(
                "the kernel takes {}, not {}",
                self.decl.dtype, view.dtype
            ));
        }
        if view.shape.len() != self.decl.rank {
            return Err(format!(
                "the kernel takes {} axes, not {}",
                self.decl.rank,
                view.shape.len()
            ));
        }
        for (axis, (extent, dim)) in self.extents.iter().zip(&view.shape).enumerate() {
            if let Extent::Fixed(n) = extent
                && *dim != Dim::Const(*n)
            {
                return Err(format!("the kernel takes {n} along axis {axis}, not {dim}"));
            }
        }
        if self.layout.takes(view) {
            Ok(())
        } else {
            Err(format!(
                "the kernel takes {}, not byte offset {} and strides {:?}",
                self.layout, view.offset, view.strides
            ))
        }
    }
}

impl Layout {
    /// Whether the offset and the strides of a view are of this layout. Strides of axes of extent 1 never count.
    #[must_use]
    pub fn takes(self, view: &View) -> bool {
        let bytes = view.dtype.bytes();
        let mut axes = view
            .shape
            .iter()
            .zip(&view.strides)
            .rev()
            .map(|(dim, stride)| (dim, *stride, *dim == Dim::Const(1)));
        let vector = |stride: u64| {
            stride
                .checked_mul(bytes)
                .is_some_and(|b| b.is_multiple_of(VECTOR_BYTES))
        };
        if !view.offset.is_multiple_of(VECTOR_BYTES) {
            return false;
        }
        match self {
            Self::Rows => {
                axes.next()
                    .is_none_or(|(_, stride, single)| stride == 1 || single)
                    && axes.all(|(_, stride, single)| vector(stride) || single)
            }
            Self::Dense => {
                let mut next = Some(1_u64);
                let outermost = view.shape.len();
                axes.enumerate().all(|(i, (dim, stride, single))| {
                    let fits = single || next == Some(stride);
                    // A named extent has no constant stride around it.
                    if i + 1 < outermost {
                        next = next
                            .zip(dim.as_const())
                            .and_then(|(n, extent)| n.checked_mul(extent));
                    }
                    fits
                })
            }
            Self::Scales => {
                axes.next()
                    .is_none_or(|(_, stride, single)| vector(stride) || single)
                    && axes
                        .next()
                        .is_none_or(|(_, stride, single)| stride == 1 || single)
                    && axes.all(|(_, stride, single)| vector(stride) || single)
            }
        }
    }
}

/// Whether open extents with one symbol are one dim in all operands; else the operand's name and why not.
fn check_extents(specs: &[OperandSpec], views: &[View]) -> Result<(), (&'static str, String)> {
    let mut bound: BTreeMap<&str, &Dim> = BTreeMap::new();
    let axes = || {
        specs.iter().zip(views).flat_map(|(spec, view)| {
            spec.extents
                .iter()
                .zip(&view.shape)
                .map(|(extent, dim)| (spec.decl.name, *extent, dim))
        })
    };
    for (name, extent, dim) in axes() {
        if let Extent::Free(symbol) = extent {
            let first = *bound.entry(symbol).or_insert(dim);
            if first != dim {
                return Err((
                    name,
                    format!("its {symbol} is {dim}, that of an earlier operand {first}"),
                ));
            }
        }
    }
    for (name, extent, dim) in axes() {
        if let Extent::Times(factor, symbol) = extent
            && let Some(first) = bound.get(symbol)
            && first.times(factor).as_ref() != Some(dim)
        {
            return Err((
                name,
                format!("its extent is {dim}, not {factor} times {symbol} = {first}"),
            ));
        }
    }
    Ok(())
}

fn step_at(entry: &str, index: usize, step: &Step) -> String {
    format!("{entry}, step {index} (`{}`)", step.label)
}

fn invalid<T>(at: impl Into<String>, why: impl Into<String>) -> Result<T, ProgramError> {
    Err(ProgramError::Invalid {
        at: at.into(),
        why: why.into(),
    })
}

fn unique<'a>(at: &str, names: impl Iterator<Item = &'a str>) -> Result<(), ProgramError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return invalid(at, format!("`{name}` appears twice"));
        }
    }
    Ok(())
}
