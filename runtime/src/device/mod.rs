//! What runs kernels: memory, modules, tensor maps, streams, launches.
//!
//! In: addresses, bytes, code. Out: bytes. [`open_device`] makes devices: [`SimDevice`], and an NVIDIA GPU where a
//! driver is installed.
//! Holds: work on one stream happens in the order in which it was given; what a launch or a copy wrote may be
//! read by the host after [`Device::synchronize`] or [`Device::read`]; a device whose context is lost refuses
//! every later call and says why it was lost.

mod cluster;
mod cuda;
mod sim;
mod status;

use std::str::FromStr;
use std::time::Duration;

use mcc_bundle::{Bundle, DType};

pub use cluster::{RankPlace, SimCluster};
pub use cuda::{CudaDevice, CudaProbe, GpuInfo, probe_cuda};
pub use sim::{LaunchObserver, SimDevice};
pub use status::{Status, WaitSite};

use crate::error::{DeviceError, RuntimeError};

/// One device with its memory and streams.
///
/// Ordering: [`Self::write`], [`Self::fill`], [`Self::copy`], [`Self::launch`] and [`Self::launch_sequence`] on
/// [`StreamId::MAIN`] take effect in the order of the calls; the caller's bytes may be reused when the call
/// returns. Other streams are ordered by events only.
pub trait Device {
    /// Name, SMs, architecture.
    fn props(&self) -> &DeviceProps;

    /// Bytes that can be allocated now, and bytes of the device.
    ///
    /// # Errors
    /// When the device is lost.
    fn memory(&self) -> Result<DeviceMemory, DeviceError>;

    /// Reserves `bytes` bytes at a multiple of 256; `what` says for what, in errors. The content is undefined.
    ///
    /// # Errors
    /// When there is not that much memory left.
    fn alloc(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError>;

    /// Reserves the buffers of one plan, which live and die together: the address of each, at multiples of 256.
    /// A device may take them from one arena; freeing the first frees all.
    ///
    /// # Errors
    /// When there is not that much memory left; then nothing is reserved.
    fn alloc_plan(&mut self, buffers: &[PlanBuffer<'_>]) -> Result<Vec<u64>, DeviceError>;

    /// Gives memory of [`Self::alloc`], [`Self::reserve`], or all of an [`Self::alloc_plan`] (by the address of its
    /// first buffer) back.
    ///
    /// # Errors
    /// When `address` did not come from there.
    fn free(&mut self, address: u64) -> Result<(), DeviceError>;

    /// Reserves addresses for up to `bytes` bytes, of which [`Self::commit`] makes memory: a cache that grows.
    ///
    /// # Errors
    /// When the address space is exhausted.
    fn reserve(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError>;

    /// Makes at least the first `bytes` bytes of a reservation usable. What is new is zero; what was committed
    /// before keeps its content. Does nothing when they are there already.
    ///
    /// # Errors
    /// When there is not that much memory left; what was committed before stays.
    fn commit(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError>;

    /// Bytes of a reservation that are backed by memory now.
    ///
    /// # Errors
    /// When `address` did not come from [`Self::reserve`].
    fn committed(&self, address: u64) -> Result<u64, DeviceError>;

    /// Zeroed memory that every rank has that runs together with this device, as much of it on each: all of them ask in
    /// the same order. A device without others has it alone.
    ///
    /// # Errors
    /// When one of them has not that much memory left, or another one asked for more or for less.
    fn alloc_symmetric(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        let address = self.alloc(bytes, what)?;
        self.fill(address, 0, bytes)?;
        Ok(address)
    }

    /// How many ranks run together with this one, itself included.
    fn ranks(&self) -> u32 {
        1
    }

    /// Which of them it is, from 0.
    fn rank(&self) -> u32 {
        0
    }

    /// Which rank the device is, and where memory of [`Self::alloc_symmetric`] is mapped.
    ///
    /// # Errors
    /// When `address` did not come from there.
    fn place_in_world(&self, address: u64) -> Result<RankPlace, DeviceError> {
        Ok(RankPlace {
            rank: 0,
            peers: vec![address],
        })
    }

    /// Copies to the device.
    ///
    /// # Errors
    /// When the range is not allocated.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies several small pieces to the device, as one transfer where it can: the inputs of a step.
    ///
    /// # Errors
    /// As [`Self::write`].
    fn write_many(&mut self, pieces: &[(u64, &[u8])]) -> Result<(), DeviceError> {
        pieces
            .iter()
            .try_for_each(|&(address, bytes)| self.write(address, bytes))
    }

    /// Copies from the device, after everything that was given to the main stream.
    ///
    /// # Errors
    /// When the range is not allocated, or earlier work failed.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies inside the device; the ranges do not overlap.
    ///
    /// # Errors
    /// When a range is not allocated.
    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<(), DeviceError>;

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

    /// What is known about a loaded kernel's code; `None` where there is none but its PTX.
    fn function_info(&self, function: FunctionId) -> Option<FunctionInfo> {
        let _ = function;
        None
    }

    /// Encodes a tensor map (the CUDA driver's `cuTensorMapEncodeTiled`).
    ///
    /// # Errors
    /// When the hardware has no such tensor map.
    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<[u8; 128], DeviceError>;

    /// Runs a kernel on a stream, after what was given to that stream before.
    ///
    /// # Errors
    /// When the launch is refused, or the kernel fails; a device that does not wait reports a kernel's failure later.
    fn launch(
        &mut self,
        stream: StreamId,
        launch: &Launch<'_>,
    ) -> Result<LaunchReport, DeviceError>;

    /// Runs kernels in order on the main stream. `key` names the sequence: a device may keep it (as a CUDA graph)
    /// and later only pass on what has changed since.
    ///
    /// # Errors
    /// As [`Self::launch`], with the index of the launch where it is known.
    fn launch_sequence(
        &mut self,
        key: SequenceKey,
        launches: &[Launch<'_>],
    ) -> Result<Vec<LaunchReport>, SequenceError> {
        let _ = key;
        launches
            .iter()
            .enumerate()
            .map(|(index, launch)| {
                self.launch(StreamId::MAIN, launch)
                    .map_err(|source| SequenceError {
                        index: Some(index),
                        source,
                    })
            })
            .collect()
    }

    /// Whether sequences may be kept as graphs; on at the start.
    fn set_graphs(&mut self, on: bool) {
        let _ = on;
    }

    /// Whether each launch is timed on the device; off at the start. Timed launches are not made as graphs.
    ///
    /// # Errors
    /// When the device is lost.
    fn set_timing(&mut self, on: bool) -> Result<(), DeviceError>;

    /// Device times of the launches since the last call, in the order of the calls, after waiting for them. Empty
    /// where the device has no clock or [`Self::set_timing`] is off.
    ///
    /// # Errors
    /// When one of them failed.
    fn take_timings(&mut self) -> Result<Vec<DeviceTime>, DeviceError>;

    /// Makes another stream. 0 is the usual priority, lower numbers are more urgent, as in CUDA; the range is cut
    /// to what the device has.
    ///
    /// # Errors
    /// When the device refuses.
    fn create_stream(&mut self, priority: i32) -> Result<StreamId, DeviceError>;

    /// Marks what was given to `stream` so far.
    ///
    /// # Errors
    /// When `stream` is not of this device.
    fn record_event(&mut self, stream: StreamId) -> Result<EventId, DeviceError>;

    /// Makes later work of `stream` wait for what `event` marks. An event is waited for once or more, in any stream.
    ///
    /// # Errors
    /// When `stream` or `event` is not of this device.
    fn wait_event(&mut self, stream: StreamId, event: EventId) -> Result<(), DeviceError>;

    /// Waits for everything that was given to any stream; events recorded so far are forgotten.
    ///
    /// # Errors
    /// When any of it failed, or did not end within [`DeviceOptions::timeout`].
    fn synchronize(&mut self) -> Result<(), DeviceError>;

    /// Opens a named range for profilers (NVTX); ranges nest. Costs nothing where no profiler listens.
    fn push_range(&mut self, name: &str) {
        let _ = name;
    }

    /// Closes the innermost range.
    fn pop_range(&mut self) {}
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeviceProps {
    /// For people.
    pub name: String,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Architecture that it runs, e.g. `sm_90a`.
    pub arch: String,
    /// Second-level cache, bytes; 0 where there is none.
    pub l2_bytes: u64,
    /// Version of the driver as CUDA writes it, e.g. `13.0`; empty where there is none.
    pub driver: String,
    /// Whether launches take effect later than the call.
    pub asynchronous: bool,
}

/// Device memory, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeviceMemory {
    /// Not taken by anyone.
    pub free: u64,
    /// Of the device.
    pub total: u64,
}

/// One buffer of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanBuffer<'a> {
    /// Its name, in errors.
    pub what: &'a str,
    /// Its size.
    pub bytes: u64,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionId(pub usize);

/// What a device knows about a kernel's machine code.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FunctionInfo {
    /// Where it came from.
    pub code: CodeSource,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of local memory a thread: what was spilled, and arrays.
    pub local_bytes: u32,
    /// Bytes of shared memory a block, without the dynamic ones.
    pub static_shared_bytes: u32,
    /// Most threads that a block may have.
    pub max_threads: u32,
}

/// Where machine code came from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeSource {
    /// The bundle.
    Cubin,
    /// The driver's compiler.
    Ptx {
        /// Why not the bundle.
        why: String,
    },
}

/// A stream of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub usize);

impl StreamId {
    /// The one that every device has.
    pub const MAIN: Self = Self(0);
}

/// A mark in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId(pub usize);

/// Name of a sequence of launches. Equal keys have the same kernels in the same order; grids and parameters may
/// differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceKey(pub u64);

/// Why a sequence did not run.
#[derive(Debug)]
pub struct SequenceError {
    /// Which launch, where it is known.
    pub index: Option<usize>,
    /// What the device said.
    pub source: DeviceError,
}

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

/// One launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// What runs.
    pub function: FunctionId,
    /// Its shape.
    pub dims: LaunchDims,
    /// The parameter space, laid out as [`Device::param_layout`] says.
    pub params: &'a [u8],
    /// What the launch is for, in errors and profiles.
    pub label: &'a str,
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
    /// Whether it may begin before its predecessor in the stream has ended, because the kernel waits by itself
    /// (programmatic dependent launch, PTX ISA `griddepcontrol`).
    pub programmatic: bool,
}

/// What a device says about a launch at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaunchReport {
    /// Warp instructions executed, where the device counts them.
    pub instructions: Option<u64>,
    /// Multiply-accumulates of the tensor cores, where the device counts them.
    pub tensor_macs: Option<u64>,
    /// Bytes moved by bulk and tensor copies, where the device counts them.
    pub bulk_bytes: Option<u64>,
}

/// When a launch ran, on the device's clock; the simulated device's is the host's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceTime {
    /// From the first timed launch since [`Device::set_timing`].
    pub start: Duration,
    /// How long it ran.
    pub duration: Duration,
}

/// Kinds of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The simulated Hopper GPU.
    Sim,
    /// An NVIDIA GPU, by its ordinal.
    Cuda(u32),
}

impl FromStr for DeviceKind {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "sim" => Ok(Self::Sim),
            "cuda" => Ok(Self::Cuda(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(|ordinal| ordinal.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| DeviceError::Unknown {
                    asked: other.to_owned(),
                }),
        }
    }
}

/// How a device is made.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// SMs that a simulated device says it has; a bundle's target names them.
    pub sms: u32,
    /// Bytes of a simulated device's memory.
    pub global_bytes: u64,
    /// Host threads that run a simulated device's blocks; 0 for all cores.
    pub threads: usize,
    /// Whether a simulated device looks for races, missing fences and uses of what nothing has written.
    pub check: bool,
    /// How long [`Device::synchronize`] and [`Device::read`] wait for a GPU before they call it hung.
    pub timeout: Duration,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            sms: 132,
            global_bytes: 80 << 30,
            threads: 0,
            check: false,
            timeout: Duration::from_secs(120),
        }
    }
}

impl DeviceOptions {
    /// The usual ones for a bundle: a simulated device has the SMs that the bundle was planned for.
    #[must_use]
    pub fn for_bundle(bundle: &Bundle) -> Self {
        Self {
            sms: bundle.manifest.target.sms,
            ..Self::default()
        }
    }
}

/// Makes the devices of `ranks` ranks on `nodes` nodes; `None` for a single one, which [`open_device`] makes.
///
/// # Errors
/// When the ranks do not divide into nodes, or are to be GPUs.
pub fn open_ranks(
    kind: DeviceKind,
    (ranks, nodes): (u32, u32),
    options: &DeviceOptions,
) -> Result<Option<SimCluster>, RuntimeError> {
    if nodes == 0 || ranks == 0 || !ranks.is_multiple_of(nodes) {
        return Err(RuntimeError::BadRanks { ranks, nodes });
    }
    match kind {
        _ if ranks == 1 => Ok(None),
        DeviceKind::Sim => Ok(Some(SimCluster::new(nodes, ranks / nodes, options))),
        DeviceKind::Cuda(_) => Err(DeviceError::RanksOnGpu.into()),
    }
}

/// Makes a device.
///
/// # Errors
/// When there is no such device on this machine.
pub fn open_device(
    kind: DeviceKind,
    options: &DeviceOptions,
) -> Result<Box<dyn Device>, DeviceError> {
    match kind {
        DeviceKind::Cuda(_) if options.check => Err(DeviceError::ChecksOnGpu),
        DeviceKind::Sim => Ok(Box::new(SimDevice::new(options))),
        DeviceKind::Cuda(ordinal) => Ok(Box::new(CudaDevice::open(ordinal, options)?)),
    }
}
