//! Checks a manifest, so that whoever runs it may index without looking.
//!
//! In: any manifest that parses, a hostile one too. Out: nothing, or the first contradiction.
//! Holds: every check is made at the upper bounds of the named dims; extents, addresses and launch
//! expressions' bounds only grow with them, so what fits there fits everywhere.

use std::collections::BTreeSet;

use crate::error::ManifestError;
use crate::manifest::{
    Buffer, BufferId, BufferKind, Entry, Kernel, LaunchSpec, Manifest, MapAxes, Param, Port,
    SCHEMA_VERSION, View,
};
use crate::types::{DType, Dim, DimValues, ParamSource, Type, is_identifier, product};

/// Buffers start and end at multiples of this, which suits every vector access and tensor map.
const BUFFER_ALIGN: u64 = 256;
/// Axes that a tensor map can have (PTX ISA "Tensor Dimension, size and format").
const MAX_TENSOR_MAP_RANK: usize = 5;
/// Elements along one axis of a tensor map's box.
const MAX_BOX: u32 = 256;
/// Depth that a weight recipe may have; the importers' have four levels.
const MAX_SOURCE_DEPTH: usize = 16;
/// SMs assumed for overflow checks: more than any device has.
const MANY_SMS: u64 = 1 << 16;

type Check = Result<(), ManifestError>;

fn ensure(holds: bool, place: &str, what: impl FnOnce() -> String) -> Check {
    if holds {
        Ok(())
    } else {
        Err(ManifestError::new(place, what()))
    }
}

impl Manifest {
    /// Checks every index, size and expression.
    ///
    /// # Errors
    /// The first contradiction, with the place where it stands.
    pub fn validate(&self) -> Result<(), ManifestError> {
        ensure(self.schema == SCHEMA_VERSION, "schema", || {
            format!("version {}, expected {SCHEMA_VERSION}", self.schema)
        })?;
        let max = self.check_dims()?;
        let checker = Checker {
            manifest: self,
            max,
        };
        checker.mesh()?;
        checker.buffers()?;
        checker.params()?;
        checker.kernels()?;
        checker.entries()
    }

    /// Checks the named dims and returns their upper bounds.
    fn check_dims(&self) -> Result<DimValues, ManifestError> {
        let mut max = DimValues::new();
        for (i, dim) in self.dims.iter().enumerate() {
            let place = format!("dims[{i}]");
            ensure(is_identifier(&dim.name), &place, || {
                format!("`{}` is not a name", dim.name)
            })?;
            ensure(dim.min <= dim.max, &place, || {
                format!("bounds {}..={} are empty", dim.min, dim.max)
            })?;
            ensure(dim.max <= u64::from(u32::MAX), &place, || {
                format!("bound {} does not fit 32 bits", dim.max)
            })?;
            let fresh = max.insert(dim.name.clone(), dim.max).is_none();
            ensure(fresh, &place, || {
                format!("`{}` is declared twice", dim.name)
            })?;
        }
        Ok(max)
    }
}

struct Checker<'a> {
    manifest: &'a Manifest,
    /// Upper bounds of the named dims.
    max: DimValues,
}

impl Checker<'_> {
    fn buffers(&self) -> Check {
        let mut total = self.manifest.arena_bytes;
        for (i, buffer) in self.manifest.buffers.iter().enumerate() {
            let place = format!("buffers[{i}]");
            ensure(
                buffer.bytes > 0 && buffer.bytes.is_multiple_of(BUFFER_ALIGN),
                &place,
                || {
                    format!(
                        "{} bytes are not a positive multiple of {BUFFER_ALIGN}",
                        buffer.bytes
                    )
                },
            )?;
            if let BufferKind::Temp { offset } = buffer.kind {
                ensure(offset.is_multiple_of(BUFFER_ALIGN), &place, || {
                    format!("arena offset {offset} is not a multiple of {BUFFER_ALIGN}")
                })?;
                let end = offset.checked_add(buffer.bytes);
                ensure(
                    end.is_some_and(|end| end <= self.manifest.arena_bytes),
                    &place,
                    || {
                        format!(
                            "{} bytes at offset {offset} end behind the arena of {} bytes",
                            buffer.bytes, self.manifest.arena_bytes
                        )
                    },
                )?;
            } else {
                if let BufferKind::World { ranks } = buffer.kind {
                    let holds = ranks > 0 && 16 + 8 * u64::from(ranks) <= buffer.bytes;
                    ensure(holds, &place, || {
                        format!("{} bytes do not hold {ranks} ranks", buffer.bytes)
                    })?;
                }
                total = total.checked_add(buffer.bytes).ok_or_else(|| {
                    ManifestError::new(&place, "the sizes of all buffers together overflow")
                })?;
            }
        }
        let exchange = |b: &&Buffer| b.kind == BufferKind::Exchange;
        let exchanges = self.manifest.buffers.iter().filter(exchange).count();
        ensure(exchanges <= 1, "buffers", || {
            format!("{exchanges} are of kind exchange, one can be")
        })
    }

    /// There are ranks, and experts are spread over as many as kernels expect.
    fn mesh(&self) -> Check {
        let Some(mesh) = self.manifest.mesh else {
            return Ok(());
        };
        let ranks = mesh.nodes.checked_mul(mesh.gpus).unwrap_or(0);
        ensure(
            ranks > 0 && mesh.ep > 0 && ranks.is_multiple_of(mesh.ep),
            "mesh",
            || format!("{ranks} ranks do not divide into groups of {}", mesh.ep),
        )?;
        for (i, buffer) in self.manifest.buffers.iter().enumerate() {
            if let BufferKind::World { ranks } = buffer.kind {
                ensure(ranks == mesh.ep, &format!("buffers[{i}]"), || {
                    format!("is for {ranks} ranks, and experts are on {}", mesh.ep)
                })?;
            }
        }
        Ok(())
    }

    fn buffer(&self, id: BufferId, place: &str) -> Result<&Buffer, ManifestError> {
        self.manifest.buffer(id).ok_or_else(|| {
            ManifestError::new(
                place,
                format!(
                    "buffer {} of {} does not exist",
                    id.0,
                    self.manifest.buffers.len()
                ),
            )
        })
    }

    fn params(&self) -> Check {
        let mut names = BTreeSet::new();
        let mut filled = BTreeSet::new();
        for (i, param) in self.manifest.params.iter().enumerate() {
            let place = format!("params[{i}] `{}`", param.name);
            ensure(names.insert(&param.name), &place, || {
                "a second parameter of this name".to_owned()
            })?;
            ensure(
                param
                    .ty
                    .shape
                    .iter()
                    .all(|dim| matches!(dim, Dim::Const(_))),
                &place,
                || format!("{} depends on a named dim", param.ty),
            )?;
            ensure(
                (param.ty.dtype == DType::E4m3) == param.ty.scale.is_some(),
                &place,
                || format!("{}: E4M3 values have scales and others have none", param.ty),
            )?;
            let data = param.ty.bytes(&self.max);
            self.weight_buffer(param.data, data, &place, &mut filled)?;
            ensure(
                param.scales.is_some() == param.ty.scale.is_some(),
                &place,
                || {
                    format!(
                        "{} does not go with {}",
                        param.ty,
                        if param.scales.is_some() {
                            "scales"
                        } else {
                            "no scales"
                        }
                    )
                },
            )?;
            if let Some(scales) = param.scales {
                let bytes = param
                    .ty
                    .scale_extents(&self.max)
                    .and_then(|extents| product(&extents)?.checked_mul(4));
                self.weight_buffer(scales, bytes, &place, &mut filled)?;
            }
            check_source(&param.source, &place, 0)?;
        }
        for (i, buffer) in self.manifest.buffers.iter().enumerate() {
            let unfilled = buffer.kind == BufferKind::Weight && !filled.contains(&i);
            ensure(
                !unfilled,
                &format!("buffers[{i}] `{}`", buffer.name),
                || "a weight that no parameter fills".to_owned(),
            )?;
        }
        Ok(())
    }

    /// A buffer that exactly one parameter fills with `bytes` bytes.
    fn weight_buffer(
        &self,
        id: BufferId,
        bytes: Option<u64>,
        place: &str,
        filled: &mut BTreeSet<usize>,
    ) -> Check {
        let buffer = self.buffer(id, place)?;
        ensure(buffer.kind == BufferKind::Weight, place, || {
            format!("buffer {} is not a weight", id.0)
        })?;
        ensure(
            bytes.is_some_and(|bytes| bytes > 0 && bytes <= buffer.bytes),
            place,
            || format!("buffer {} of {} bytes cannot hold it", id.0, buffer.bytes),
        )?;
        ensure(filled.insert(id.0 as usize), place, || {
            format!("buffer {} is filled twice", id.0)
        })
    }

    fn kernels(&self) -> Check {
        let mut names = BTreeSet::new();
        for (i, kernel) in self.manifest.kernels.iter().enumerate() {
            let place = format!("kernels[{i}] `{}`", kernel.name);
            ensure(is_identifier(&kernel.name), &place, || {
                "not a name of a kernel".to_owned()
            })?;
            ensure(names.insert(&kernel.name), &place, || {
                "a second kernel of this name".to_owned()
            })?;
            check_launch(kernel, &place)?;
        }
        Ok(())
    }

    fn entries(&self) -> Check {
        let mut names = BTreeSet::new();
        for entry in &self.manifest.entries {
            let place = format!("entries[{}]", entry.name);
            ensure(names.insert(&entry.name), &place, || {
                "a second entry of this name".to_owned()
            })?;
            self.ports(entry, &entry.inputs, BufferKind::Input, "inputs")?;
            self.ports(entry, &entry.outputs, BufferKind::Output, "outputs")?;
            for (i, step) in entry.steps.iter().enumerate() {
                let place = format!("{place}.steps[{i}] `{}`", step.label);
                let kernel = self.manifest.kernel(step.kernel).ok_or_else(|| {
                    ManifestError::new(&place, format!("kernel {} does not exist", step.kernel.0))
                })?;
                ensure(step.operands.len() == kernel.operands.len(), &place, || {
                    format!(
                        "{} operands, kernel `{}` has {}",
                        step.operands.len(),
                        kernel.name,
                        kernel.operands.len()
                    )
                })?;
                let mut extents = Vec::with_capacity(step.operands.len());
                for (j, view) in step.operands.iter().enumerate() {
                    extents.push(self.view(kernel, j, view, &format!("{place}.operands[{j}]"))?);
                }
                check_exprs(&kernel.launch, &extents, &place)?;
                check_step_params(kernel, &step.operands, &place)?;
            }
        }
        Ok(())
    }

    fn ports(&self, entry: &Entry, ports: &[Port], kind: BufferKind, list: &str) -> Check {
        let mut names = BTreeSet::new();
        for port in ports {
            let place = format!("entries[{}].{list}[{}]", entry.name, port.name);
            ensure(names.insert(&port.name), &place, || {
                "a second port of this name".to_owned()
            })?;
            let buffer = self.buffer(port.buffer, &place)?;
            ensure(buffer.kind == kind, &place, || {
                format!("its buffer is {:?}, expected {kind:?}", buffer.kind)
            })?;
            ensure(port.ty.scale.is_none(), &place, || {
                format!("{} is block-scaled", port.ty)
            })?;
            let bytes = self.type_bytes(&port.ty, &place)?;
            ensure(bytes <= buffer.bytes, &place, || {
                format!(
                    "{} takes up to {bytes} bytes, its buffer has {}",
                    port.ty, buffer.bytes
                )
            })?;
        }
        Ok(())
    }

    fn type_bytes(&self, ty: &Type, place: &str) -> Result<u64, ManifestError> {
        for dim in &ty.shape {
            self.extent(dim, place)?;
        }
        ty.bytes(&self.max)
            .ok_or_else(|| ManifestError::new(place, format!("the size of {ty} overflows")))
    }

    /// Upper bound of a dim.
    fn extent(&self, dim: &Dim, place: &str) -> Result<u64, ManifestError> {
        dim.resolve(&self.max)
            .filter(|&n| n <= u64::from(u32::MAX))
            .ok_or_else(|| {
                ManifestError::new(
                    place,
                    format!("`{dim}` is not declared, or does not fit 32 bits"),
                )
            })
    }

    /// Checks a view and returns its extents at the upper bounds.
    fn view(
        &self,
        kernel: &Kernel,
        operand: usize,
        view: &View,
        place: &str,
    ) -> Result<Vec<u64>, ManifestError> {
        let decl = &kernel.operands[operand];
        ensure(
            view.dtype == decl.dtype && view.shape.len() == decl.rank,
            place,
            || {
                format!(
                    "{} of rank {}, `{}` of kernel `{}` is {} of rank {}",
                    view.dtype,
                    view.shape.len(),
                    decl.name,
                    kernel.name,
                    decl.dtype,
                    decl.rank
                )
            },
        )?;
        ensure(view.strides.len() == view.shape.len(), place, || {
            format!(
                "{} strides for {} axes",
                view.strides.len(),
                view.shape.len()
            )
        })?;
        let buffer = self.buffer(view.buffer, place)?;
        let writable = !matches!(
            buffer.kind,
            BufferKind::Weight | BufferKind::Input | BufferKind::World { .. }
        );
        ensure(!decl.written || writable, place, || {
            format!("writes to `{}`, which is {:?}", buffer.name, buffer.kind)
        })?;
        let size = view.dtype.bytes();
        ensure(view.offset.is_multiple_of(size), place, || {
            format!(
                "byte offset {} is not a multiple of the element size {size}",
                view.offset
            )
        })?;
        let extents = view
            .shape
            .iter()
            .map(|dim| self.extent(dim, place))
            .collect::<Result<Vec<_>, _>>()?;
        ensure(
            view_end(view, &extents).is_some_and(|end| end <= buffer.bytes),
            place,
            || {
                format!(
                    "reaches behind the {} bytes of `{}`",
                    buffer.bytes, buffer.name
                )
            },
        )?;
        Ok(extents)
    }
}

/// First byte of the buffer behind the view; `None` when that overflows.
fn view_end(view: &View, extents: &[u64]) -> Option<u64> {
    if extents.contains(&0) {
        return Some(view.offset);
    }
    let mut last = 0_u64;
    for (extent, stride) in extents.iter().zip(&view.strides) {
        last = last.checked_add((extent - 1).checked_mul(*stride)?)?;
    }
    last.checked_add(1)?
        .checked_mul(view.dtype.bytes())?
        .checked_add(view.offset)
}

fn check_source(source: &ParamSource, place: &str, depth: usize) -> Check {
    ensure(depth <= MAX_SOURCE_DEPTH, place, || {
        format!("its recipe is more than {MAX_SOURCE_DEPTH} levels deep")
    })?;
    match source {
        ParamSource::Tensor(name) => ensure(!name.is_empty(), place, || {
            "a tensor without a name".to_owned()
        }),
        ParamSource::Concat(parts) | ParamSource::Stack(parts) => {
            ensure(!parts.is_empty(), place, || {
                "a recipe of no tensors".to_owned()
            })?;
            parts
                .iter()
                .try_for_each(|part| check_source(part, place, depth + 1))
        }
        ParamSource::Experts { slots, parts, .. } => {
            ensure(*slots > 0 && !parts.is_empty(), place, || {
                "a share of no experts".to_owned()
            })?;
            parts
                .iter()
                .try_for_each(|part| check_source(part, place, depth + 1))
        }
        ParamSource::Dequant(src) | ParamSource::Transpose(src) => {
            check_source(src, place, depth + 1)
        }
        ParamSource::HeadRows {
            src,
            heads,
            start,
            len,
        } => {
            ensure(
                *heads > 0 && *len > 0 && start.checked_add(*len).is_some(),
                place,
                || "a choice of no rows, or of too many".to_owned(),
            )?;
            check_source(src, place, depth + 1)
        }
        ParamSource::RopeTable {
            dim,
            theta,
            positions,
            yarn,
        } => {
            let sound = *dim >= 2
                && dim.is_multiple_of(2)
                && dim
                    .checked_mul(*positions)
                    .is_some_and(|n| n > 0 && n <= 1 << 40)
                && *theta > 1.0
                && theta.is_finite();
            ensure(sound, place, || {
                "a rotary table of impossible size or base".to_owned()
            })?;
            let yarn_sound = yarn.is_none_or(|y| {
                [y.factor, y.original, y.beta_fast, y.beta_slow]
                    .iter()
                    .all(|v| *v > 0.0 && v.is_finite())
                    && [y.mscale, y.mscale_all_dim]
                        .iter()
                        .all(|v| *v >= 0.0 && v.is_finite())
            });
            ensure(yarn_sound, place, || {
                "YaRN fields must be finite, and positive but for the mscales".to_owned()
            })
        }
    }
}

/// What can be checked of a launch without a step.
fn check_launch(kernel: &Kernel, place: &str) -> Check {
    let launch = &kernel.launch;
    ensure((1..=1024).contains(&launch.block), place, || {
        format!("a block of {} threads", launch.block)
    })?;
    let cluster = launch
        .cluster
        .iter()
        .try_fold(1_u32, |acc, &n| acc.checked_mul(n));
    ensure(
        cluster.is_some_and(|n| (1..=16).contains(&n)),
        place,
        || format!("a cluster of shape {:?}", launch.cluster),
    )?;
    for (i, param) in launch.params.iter().enumerate() {
        let place = format!("{place}.params[{i}]");
        let operand = kernel.operands.get(param.operand()).ok_or_else(|| {
            ManifestError::new(
                &place,
                format!(
                    "operand {} of {} does not exist",
                    param.operand(),
                    kernel.operands.len()
                ),
            )
        })?;
        match param {
            Param::Pointer { .. } => {}
            Param::Extent { axis, .. } | Param::Stride { axis, .. } => {
                ensure(*axis < operand.rank, &place, || {
                    format!("`{}` has no axis {axis}", operand.name)
                })?;
            }
            Param::TensorMap {
                box_dims,
                swizzle,
                axes,
                ..
            } => {
                let (least, extra) = match axes {
                    MapAxes::Rows => (1, 0),
                    MapAxes::Columns => (2, 0),
                    MapAxes::Ragged => (2, 1),
                };
                ensure(
                    (least..=MAX_TENSOR_MAP_RANK - extra).contains(&operand.rank),
                    &place,
                    || {
                        format!(
                            "a tensor map over the {} axes of `{}`",
                            operand.rank, operand.name
                        )
                    },
                )?;
                ensure(box_dims.len() == operand.rank, &place, || {
                    format!(
                        "a box of {} axes over `{}` of {}",
                        box_dims.len(),
                        operand.name,
                        operand.rank
                    )
                })?;
                ensure(
                    box_dims.iter().all(|n| (1..=MAX_BOX).contains(n)),
                    &place,
                    || format!("a box of {box_dims:?}: extents must be 1 to {MAX_BOX}"),
                )?;
                ensure(matches!(swizzle, 0 | 32 | 64 | 128), &place, || {
                    format!("a swizzle of {swizzle} bytes")
                })?;
                let inner = u64::from(box_dims[0]) * operand.dtype.bytes();
                ensure(
                    *swizzle == 0 || inner <= u64::from(*swizzle),
                    &place,
                    || format!("inner box extent of {inner} bytes under a swizzle of {swizzle}"),
                )?;
            }
        }
    }
    Ok(())
}

/// Whether grid and work have values for all extents up to these.
fn check_exprs(launch: &LaunchSpec, extents: &[Vec<u64>], place: &str) -> Check {
    let extent = |operand: usize, axis: usize| extents.get(operand)?.get(axis).copied();
    let [x, y, z] = &launch.grid;
    let named = [
        ("grid x", x),
        ("grid y", y),
        ("grid z", z),
        ("work flops", &launch.work.flops),
        ("work bytes", &launch.work.bytes),
    ];
    for (name, expr) in named {
        expr.upper_bound(&extent, MANY_SMS)
            .map_err(|err| ManifestError::new(place, format!("{name}: {err}")))?;
    }
    Ok(())
}

/// What of a kernel's parameters depends on the step's views.
fn check_step_params(kernel: &Kernel, operands: &[View], place: &str) -> Check {
    for param in &kernel.launch.params {
        let view = &operands[param.operand()];
        match param {
            Param::Pointer { .. } | Param::Extent { .. } => {}
            Param::Stride { axis, .. } => {
                ensure(view.strides[*axis] <= u64::from(u32::MAX), place, || {
                    format!("stride {} does not fit 32 bits", view.strides[*axis])
                })?
            }
            // The innermost axis of a tensor map has no stride: its elements are neighbours.
            Param::TensorMap { operand, axes, .. } => {
                let behind = if *axes == MapAxes::Columns { 2 } else { 1 };
                let Some(inner) = view.strides.len().checked_sub(behind) else {
                    continue;
                };
                let contiguous =
                    view.strides[inner] == 1 || matches!(view.shape[inner], Dim::Const(1));
                ensure(contiguous, place, || {
                    format!(
                        "a tensor map over `{}`, whose last axis is strided",
                        kernel.operands[*operand].name
                    )
                })?;
            }
        }
    }
    Ok(())
}
