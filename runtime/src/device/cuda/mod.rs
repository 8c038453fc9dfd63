//! An NVIDIA GPU behind [`Device`], by the CUDA driver API.
//!
//! In and out: as the trait says. Holds: every call's answer is looked at and becomes a typed error; what a failed
//! call had made is given back; an error after which the driver's context is of no use poisons the device, which
//! then refuses and names that error; unsafe code stays in this folder, behind functions that are safe to call.
//!
//! From the bottom up:
//!
//! - [`symbols`]: the driver's functions, looked up at run time. [`failure`]: what their answers mean.
//! - [`context`], [`handles`]: what is made on the GPU, with owners that release it. [`info`]: which GPUs there are.
//! - [`memory`], [`transfer`], [`streams`], [`timing`]: memory, copies, order and clocks. [`wait`]: waits that end.
//! - [`image`], [`module`], [`status`], [`tensor_map`], [`launch`], [`sequence`]: kernels and their launches.
//! - [`nvtx`]: ranges for profilers.

mod context;
mod failure;
mod handles;
mod image;
mod info;
mod launch;
mod memory;
mod module;
mod nvtx;
mod sequence;
mod status;
mod streams;
mod symbols;
mod tensor_map;
mod timing;
mod transfer;
mod wait;

use core::ffi::c_void;
use std::rc::Rc;
use std::time::Duration;

use super::{
    Device, DeviceMemory, DeviceOptions, DeviceProps, DeviceTime, EventId, FunctionId,
    FunctionInfo, Launch, LaunchReport, ModuleImage, ParamSlot, PlanBuffer, SequenceError,
    SequenceKey, StreamId, TensorMapSpec,
};
use crate::error::DeviceError;

pub use info::{CudaProbe, GpuInfo, probe_cuda};

/// A GPU with the kernels that it has loaded. Fields are dropped in their order, the context last.
pub struct CudaDevice {
    sequences: sequence::Sequences,
    timing: timing::Timing,
    events: streams::Events,
    staging: transfer::Staging,
    /// The main one first.
    streams: Vec<streams::Stream>,
    functions: Vec<module::Function>,
    regions: memory::Regions,
    status: status::StatusWords,
    nvtx: nvtx::Nvtx,
    /// Pointers to a launch's parameters; used again.
    arguments: Vec<*mut c_void>,
    /// Whether sequences may become graphs.
    graphs: bool,
    timeout: Duration,
    info: GpuInfo,
    props: DeviceProps,
    context: Rc<context::Context>,
}

impl CudaDevice {
    /// Opens a GPU.
    ///
    /// # Errors
    /// When there is no driver or no such GPU, the driver is too old, or it refuses.
    pub fn open(ordinal: u32, options: &DeviceOptions) -> Result<Self, DeviceError> {
        let (api, driver) = info::start()?;
        let found = info::count(api)?;
        if ordinal >= found {
            return Err(DeviceError::NoOrdinal {
                asked: ordinal,
                found,
            });
        }
        let open = || {
            let info = GpuInfo::of(api, ordinal)?;
            let context = context::Context::retain(api, info::device(api, ordinal)?)?;
            Ok(Self {
                sequences: sequence::Sequences::default(),
                timing: timing::Timing::default(),
                events: streams::Events::default(),
                staging: transfer::Staging::new(&context)?,
                streams: vec![streams::Stream::new(&context, 0)?],
                functions: Vec::new(),
                regions: memory::Regions::default(),
                status: status::StatusWords::new(&context)?,
                nvtx: nvtx::Nvtx::find(),
                arguments: Vec::new(),
                graphs: true,
                timeout: options.timeout,
                props: DeviceProps {
                    name: info.name.clone(),
                    sms: info.sms,
                    arch: info.arch.clone(),
                    l2_bytes: info.l2_bytes,
                    driver,
                    asynchronous: true,
                },
                info,
                context,
            })
        };
        open().map_err(|failure: failure::Failure| failure.error(api))
    }

    /// What the driver says about this GPU.
    #[must_use]
    pub const fn info(&self) -> &GpuInfo {
        &self.info
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // Nothing is released under work that uses it. A lost context runs nothing any more; work that does not
        // end makes `drain` give up the device as it is.
        if self.context.enter().is_ok() && self.drain().is_err() && !self.context.is_lost() {
            let _ = self.drain();
        }
    }
}

impl Device for CudaDevice {
    fn props(&self) -> &DeviceProps {
        &self.props
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        self.context.enter()?;
        self.device_memory()
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        self.context.enter()?;
        self.allocate(bytes, what)
    }

    fn alloc_plan(&mut self, buffers: &[PlanBuffer<'_>]) -> Result<Vec<u64>, DeviceError> {
        self.context.enter()?;
        self.allocate_plan(buffers)
    }

    fn free(&mut self, address: u64) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.release(address)
    }

    fn reserve(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        self.context.enter()?;
        self.reserve_addresses(bytes, what)
    }

    fn commit(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.commit_memory(address, bytes)
    }

    fn committed(&self, address: u64) -> Result<u64, DeviceError> {
        self.context.enter()?;
        self.committed_memory(address)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.upload(&[(address, bytes)])
    }

    fn write_many(&mut self, pieces: &[(u64, &[u8])]) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.upload(pieces)
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.download(address, bytes)
    }

    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.copy_inside(from, to, len)
    }

    fn fill(&mut self, address: u64, byte: u8, len: u64) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.regions.check(address, len)?;
        if len == 0 {
            return Ok(());
        }
        self.join_uploads()?;
        self.set_bytes(address, byte, len)
    }

    fn load_module(&mut self, image: &ModuleImage<'_>) -> Result<FunctionId, DeviceError> {
        self.context.enter()?;
        self.load(image)
    }

    fn param_layout(&self, function: FunctionId) -> Result<Vec<ParamSlot>, DeviceError> {
        self.context.enter()?;
        Ok(self.function(function)?.slots().to_vec())
    }

    fn function_info(&self, function: FunctionId) -> Option<FunctionInfo> {
        let known = self.functions.get(function.0);
        known.map(|function| function.info().clone())
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<[u8; 128], DeviceError> {
        self.context.enter()?;
        self.tensor_map(spec)
    }

    fn launch(
        &mut self,
        stream: StreamId,
        launch: &Launch<'_>,
    ) -> Result<LaunchReport, DeviceError> {
        self.context.enter()?;
        self.launch_one(stream, launch)?;
        Ok(LaunchReport::default())
    }

    fn launch_sequence(
        &mut self,
        key: SequenceKey,
        launches: &[Launch<'_>],
    ) -> Result<Vec<LaunchReport>, SequenceError> {
        self.context.enter().map_err(|source| SequenceError {
            index: None,
            source,
        })?;
        self.run_sequence(key, launches)
    }

    fn set_graphs(&mut self, on: bool) {
        self.graphs = on;
    }

    fn set_timing(&mut self, on: bool) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.switch_timing(on);
        Ok(())
    }

    fn take_timings(&mut self) -> Result<Vec<DeviceTime>, DeviceError> {
        self.context.enter()?;
        self.timings()
    }

    fn create_stream(&mut self, priority: i32) -> Result<StreamId, DeviceError> {
        self.context.enter()?;
        self.new_stream(priority)
    }

    fn record_event(&mut self, stream: StreamId) -> Result<EventId, DeviceError> {
        self.context.enter()?;
        self.new_event(stream)
    }

    fn wait_event(&mut self, stream: StreamId, event: EventId) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.hold_stream(stream, event)
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.context.enter()?;
        self.drain()?;
        self.forget_events();
        Ok(())
    }

    fn push_range(&mut self, name: &str) {
        self.nvtx.push(name);
    }

    fn pop_range(&mut self) {
        self.nvtx.pop();
    }
}
