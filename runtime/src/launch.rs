//! One step of an entry: views and expressions become a grid, parameters and tensor maps.
//!
//! In: a validated step, the addresses of its buffers, values of the named dims. Out: a launch.
//! Holds: parameters lie where the kernel's own declaration has them, which [`check_params`] compares once
//! when a model is loaded; a tensor map is encoded again only when an extent of its view has changed.

use mcc_bundle::{BufferKind, Dim, DimValues, Entry, Kernel, Manifest, MapAxes, Param, Step, View};

use crate::device::{Device, LaunchDims, ParamSlot, TensorMapSpec};
use crate::error::{DeviceError, RuntimeError};

/// Most blocks along x, y and z (CUDA programming guide, compute capabilities).
const MAX_GRID: [u64; 3] = [(1 << 31) - 1, 65535, 65535];

/// A step whose addresses are known, with its last launch.
pub(crate) struct PreparedStep {
    /// Of each operand's view.
    addresses: Vec<u64>,
    /// Named dims that its launch depends on.
    depends: Vec<String>,
    /// Their values at the last launch; `None` before the first, and after one that failed.
    values: Option<Vec<u64>>,
    /// For each parameter, the tensor map of the last launch.
    maps: Vec<Option<CachedMap>>,
    /// The last launch; `None` when its grid was empty, or before the first.
    last: Option<(LaunchDims, Vec<u8>)>,
}

struct CachedMap {
    extents: Vec<u64>,
    encoded: [u8; 128],
}

/// Compares the manifest's parameters with those that the loaded kernel declares.
pub(crate) fn check_params(kernel: &Kernel, declared: &[ParamSlot]) -> Result<(), RuntimeError> {
    let (offsets, _) = kernel.launch.param_offsets();
    let expected: Vec<ParamSlot> = offsets
        .into_iter()
        .zip(&kernel.launch.params)
        .map(|(offset, param)| ParamSlot {
            offset,
            size: param.size_align().0,
        })
        .collect();
    if expected == declared {
        return Ok(());
    }
    let list = |slots: &[ParamSlot]| {
        let slots: Vec<String> = slots
            .iter()
            .map(|slot| format!("{} bytes at {}", slot.size, slot.offset))
            .collect();
        if slots.is_empty() {
            "no parameters".to_owned()
        } else {
            slots.join(", ")
        }
    };
    Err(RuntimeError::ParamLayout {
        kernel: kernel.name.clone(),
        expected: list(&expected),
        found: list(declared),
    })
}

impl PreparedStep {
    /// `base` is the address of each buffer, `arena` that of the temporaries' memory.
    pub fn new(manifest: &Manifest, step: &Step, base: &[u64], arena: u64) -> Self {
        let address = |view: &View| {
            let index = view.buffer.0 as usize;
            let start = match manifest.buffers[index].kind {
                BufferKind::Temp { offset } => arena + offset,
                _ => base[index],
            };
            start + view.offset
        };
        let params = manifest.kernels[step.kernel.0 as usize].launch.params.len();
        let mut depends: Vec<String> = step
            .operands
            .iter()
            .flat_map(|view| &view.shape)
            .filter_map(|dim| match dim {
                Dim::Sym { name, .. } => Some(name.clone()),
                Dim::Const(_) => None,
            })
            .collect();
        depends.sort_unstable();
        depends.dedup();
        Self {
            addresses: step.operands.iter().map(address).collect(),
            depends,
            values: None,
            maps: (0..params).map(|_| None).collect(),
            last: None,
        }
    }

    /// Makes the launch for these dims, of which [`Self::launch`] tells. Nothing is made again that these dims
    /// leave as it is.
    pub fn prepare(
        &mut self,
        manifest: &Manifest,
        step: &Step,
        dims: &DimValues,
        device: &dyn Device,
    ) -> Result<(), LaunchError> {
        let unknown = || LaunchError::Bad("an extent has no value".to_owned());
        let value = |name: &String| dims.get(name).copied().ok_or_else(unknown);
        if let Some(values) = &self.values {
            let mut same = true;
            for (name, last) in self.depends.iter().zip(values) {
                same &= value(name)? == *last;
            }
            if same {
                return Ok(());
            }
        }
        self.values = None;
        let kernel = &manifest.kernels[step.kernel.0 as usize];
        let extents = step
            .operands
            .iter()
            .map(|view| {
                view.shape
                    .iter()
                    .map(|dim| dim.resolve(dims))
                    .collect::<Option<Vec<u64>>>()
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(unknown)?;
        let grid = grid(kernel, &extents, device.props().sms)?;
        self.last = if grid.contains(&0) {
            None
        } else {
            let dims = LaunchDims {
                grid,
                block: kernel.launch.block,
                cluster: kernel.launch.cluster,
                smem_bytes: kernel.launch.smem_bytes,
                programmatic: kernel.launch.programmatic,
            };
            Some((dims, self.pack(kernel, step, &extents, device)?))
        };
        self.values = Some(self.depends.iter().map(value).collect::<Result<_, _>>()?);
        Ok(())
    }

    /// Device address of each operand's view.
    pub fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// Shape and parameters of the prepared launch; `None` when its grid is empty.
    pub fn launch(&self) -> Option<(LaunchDims, &[u8])> {
        self.last
            .as_ref()
            .map(|(dims, params)| (*dims, params.as_slice()))
    }

    /// The kernel's parameter space.
    fn pack(
        &mut self,
        kernel: &Kernel,
        step: &Step,
        extents: &[Vec<u64>],
        device: &dyn Device,
    ) -> Result<Vec<u8>, LaunchError> {
        let (offsets, bytes) = kernel.launch.param_offsets();
        let mut space = vec![0; bytes];
        for (i, (param, offset)) in kernel.launch.params.iter().zip(offsets).enumerate() {
            let operand = param.operand();
            let mut put = |bytes: &[u8]| space[offset..offset + bytes.len()].copy_from_slice(bytes);
            match param {
                Param::Pointer { .. } => put(&self.addresses[operand].to_le_bytes()),
                Param::Extent { axis, .. } => put(&word(extents[operand][*axis])?.to_le_bytes()),
                Param::Stride { axis, .. } => {
                    put(&word(step.operands[operand].strides[*axis])?.to_le_bytes())
                }
                Param::TensorMap {
                    box_dims,
                    swizzle,
                    axes,
                    ..
                } => {
                    let slot = &mut self.maps[i];
                    let changed = slot
                        .as_ref()
                        .is_none_or(|cached| cached.extents != extents[operand]);
                    if changed {
                        let spec = tensor_map(
                            &step.operands[operand],
                            self.addresses[operand],
                            &extents[operand],
                            box_dims,
                            *swizzle,
                            *axes,
                        )?;
                        let encoded = device.encode_tensor_map(&spec)?;
                        *slot = Some(CachedMap {
                            extents: extents[operand].clone(),
                            encoded,
                        });
                    }
                    if let Some(cached) = slot {
                        put(&cached.encoded);
                    }
                }
            }
        }
        Ok(space)
    }
}

/// Why a step did not run.
pub(crate) enum LaunchError {
    /// The program is wrong.
    Bad(String),
    /// The device refused or failed.
    Device(DeviceError),
}

impl LaunchError {
    /// Says which step it was.
    pub fn of(self, manifest: &Manifest, entry: &Entry, step: &Step) -> RuntimeError {
        match self {
            Self::Bad(what) => RuntimeError::BadStep {
                step: step.label.clone(),
                kernel: manifest.kernels[step.kernel.0 as usize].name.clone(),
                what,
            },
            Self::Device(source) => RuntimeError::Step {
                entry: entry.name.clone(),
                step: step.label.clone(),
                source,
            },
        }
    }
}

impl From<DeviceError> for LaunchError {
    fn from(err: DeviceError) -> Self {
        Self::Device(err)
    }
}

/// Kernels take extents and strides as signed 32-bit numbers.
fn word(value: u64) -> Result<u32, LaunchError> {
    i32::try_from(value)
        .map(i32::cast_unsigned)
        .map_err(|_| LaunchError::Bad(format!("parameter {value} does not fit 31 bits")))
}

fn grid(kernel: &Kernel, extents: &[Vec<u64>], sms: u32) -> Result<[u32; 3], LaunchError> {
    let extent = |operand: usize, axis: usize| extents.get(operand)?.get(axis).copied();
    let mut grid = [0; 3];
    for ((blocks, expr), max) in grid.iter_mut().zip(&kernel.launch.grid).zip(MAX_GRID) {
        let value = expr
            .eval(&extent, u64::from(sms))
            .map_err(|err| LaunchError::Bad(format!("grid: {err}")))?;
        *blocks = u32::try_from(value)
            .ok()
            .filter(|_| value <= max)
            .ok_or_else(|| {
                LaunchError::Bad(format!(
                    "a grid of {value} blocks along one axis, at most {max} can be"
                ))
            })?;
    }
    Ok(grid)
}

/// The tensor map over a view.
fn tensor_map(
    view: &View,
    address: u64,
    extents: &[u64],
    box_dims: &[u32],
    swizzle: u32,
    axes: MapAxes,
) -> Result<TensorMapSpec, LaunchError> {
    let size = view.dtype.bytes();
    let bad = |what: &str| LaunchError::Bad(format!("a tensor map {what}"));
    let strides = view
        .strides
        .iter()
        .map(|stride| stride.checked_mul(size))
        .collect::<Option<Vec<u64>>>()
        .ok_or_else(|| bad("with a stride that overflows"))?;
    let mut map: Vec<(u64, u64)> = extents.iter().copied().zip(strides).rev().collect();
    let mut box_dims = box_dims.to_vec();
    let mut first = address;
    match axes {
        MapAxes::Rows => {}
        MapAxes::Columns if map.len() >= 2 => map.swap(0, 1),
        MapAxes::Ragged if map.len() >= 2 && box_dims.len() >= 2 => {
            let rows = u64::from(box_dims[1]);
            let (extent, stride) = map[1];
            // Of the rows before the view nothing is touched: the box begins at least `R` rows further.
            first = rows
                .checked_mul(stride)
                .and_then(|bytes| address.checked_sub(bytes))
                .ok_or_else(|| bad("that would begin before address 0"))?;
            map[1] = (rows, stride);
            map.insert(2, (extent.saturating_add(rows), stride));
            box_dims.insert(2, 1);
        }
        MapAxes::Columns | MapAxes::Ragged => return Err(bad("of two axes over a view of one")),
    }
    Ok(TensorMapSpec {
        dtype: view.dtype,
        address: first,
        dims: map.iter().map(|(extent, _)| *extent).collect(),
        strides: map.iter().skip(1).map(|(_, stride)| *stride).collect(),
        box_dims,
        swizzle,
    })
}
