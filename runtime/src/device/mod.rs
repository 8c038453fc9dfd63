//! What runs kernels: memory, modules, tensor maps, launches.
//!
//! In: addresses, bytes, PTX. Out: bytes. `sim` is the one maker of devices in this build.
//! Holds: a device does nothing on its own; launches run in the order in which they were made, and what they
//! wrote may be read after [`Device::synchronize`].

mod sim;

use std::str::FromStr;
use std::time::Duration;

use mcc_bundle::DType;

pub use sim::SimDevice;

use crate::error::DeviceError;

/// One device with its memory and one stream of launches.
pub trait Device {
    /// Name, SMs, architecture.
    fn props(&self) -> &DeviceProps;

    /// Reserves `bytes` bytes at a multiple of 256; `what` says for what, in errors.
    ///
    /// # Errors
    /// When there is not that much memory left.
    fn alloc(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError>;

    /// Gives memory back.
    ///
    /// # Errors
    /// When `address` did not come from [`Self::alloc`].
    fn free(&mut self, address: u64) -> Result<(), DeviceError>;

    /// Copies to the device.
    ///
    /// # Errors
    /// When the range is not allocated.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from the device.
    ///
    /// # Errors
    /// When the range is not allocated.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Sets `len` bytes.
    ///
    /// # Errors
    /// When the range is not allocated.
    fn fill(&mut self, address: u64, byte: u8, len: u64) -> Result<(), DeviceError>;

    /// Makes a kernel ready to run.
    ///
    /// # Errors
    /// When the code does not load.
    fn load_module(&mut self, image: &ModuleImage<'_>) -> Result<FunctionId, DeviceError>;

    /// Offset and size of each parameter that a loaded kernel takes.
    ///
    /// # Errors
    /// When `function` is not of this device.
    fn param_layout(&self, function: FunctionId) -> Result<Vec<ParamSlot>, DeviceError>;

    /// Encodes a tensor map (the CUDA driver's `cuTensorMapEncodeTiled`).
    ///
    /// # Errors
    /// When the hardware has no such tensor map.
    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<[u8; 128], DeviceError>;

    /// Runs a kernel after all earlier ones.
    ///
    /// # Errors
    /// When the launch is refused, or the kernel fails.
    fn launch(
        &mut self,
        function: FunctionId,
        dims: &LaunchDims,
        params: &[u8],
    ) -> Result<LaunchReport, DeviceError>;

    /// Waits for all launches.
    ///
    /// # Errors
    /// When one of them failed.
    fn synchronize(&mut self) -> Result<(), DeviceError>;
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceProps {
    /// For people.
    pub name: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Architecture that it runs, e.g. `sm_90a`.
    pub arch: String,
}

/// A kernel's code.
#[derive(Clone, Copy, Debug)]
pub struct ModuleImage<'a> {
    /// Name of the entry in the code.
    pub kernel: &'a str,
    /// PTX text.
    pub ptx: &'a str,
    /// Machine code, where the bundle has it.
    pub cubin: Option<&'a [u8]>,
}

/// A kernel that a device has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionId(pub usize);

/// Place of a parameter in a kernel's parameter space, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamSlot {
    /// From the start.
    pub offset: usize,
    /// Of the parameter.
    pub size: usize,
}

/// A tiled tensor in device memory; axis 0 is the innermost, its elements are neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMapSpec {
    /// Element type.
    pub dtype: DType,
    /// Of the first element.
    pub address: u64,
    /// Elements along each axis.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next, of axes 1 and up.
    pub strides: Vec<u64>,
    /// Elements of a box along each axis.
    pub box_dims: Vec<u32>,
    /// Span of the swizzle in bytes; 0 for none.
    pub swizzle: u32,
}

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchDims {
    /// Blocks, x y z.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: u32,
    /// Blocks a cluster, x y z.
    pub cluster: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub smem_bytes: u32,
}

/// What a device says about a launch that it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaunchReport {
    /// Time on the device, where launching and running are not the same time.
    pub time: Option<Duration>,
    /// Warp instructions executed, where the device counts them.
    pub instructions: Option<u64>,
}

/// Kinds of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The simulated Hopper GPU.
    Sim,
    /// An NVIDIA GPU.
    Cuda,
}

impl FromStr for DeviceKind {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "sim" => Ok(Self::Sim),
            "cuda" => Ok(Self::Cuda),
            other => Err(DeviceError::Unknown {
                asked: other.to_owned(),
            }),
        }
    }
}

/// How a simulated device is made.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// SMs that it says it has; a bundle's target names them.
    pub sms: u32,
    /// Bytes of device memory.
    pub global_bytes: u64,
    /// Host threads that run blocks; 0 for all cores.
    pub threads: usize,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            sms: 132,
            global_bytes: 80 << 30,
            threads: 0,
        }
    }
}

/// Makes a device.
///
/// # Errors
/// When this build has no such device.
pub fn open_device(
    kind: DeviceKind,
    options: &DeviceOptions,
) -> Result<Box<dyn Device>, DeviceError> {
    match kind {
        DeviceKind::Sim => Ok(Box::new(SimDevice::new(options))),
        DeviceKind::Cuda => Err(DeviceError::NotInThisBuild {
            asked: "cuda".to_owned(),
        }),
    }
}
