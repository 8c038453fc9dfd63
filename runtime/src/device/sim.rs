//! The simulated Hopper device of `mcc-sim` behind [`Device`].
//!
//! In and out: as the trait says. Holds: a launch has run when it returns, on whatever stream it was given, so
//! there is nothing to wait for; that is one of the orders that streams and events allow. A rank of a cluster hands its
//! launches in, and they have run when those of all other ranks have.

use std::collections::BTreeMap;
use std::time::Instant;

use mcc_bundle::DType;
use mcc_sim::{Gpu, GpuConfig, LaunchConfig, LaunchStats, Module, Swizzle, TensorElem, TensorMap};

use super::cluster::{Answer, OwnedLaunch, Rank, SeatError};
use super::status::{self, Status};
use super::{
    Device, DeviceMemory, DeviceOptions, DeviceProps, DeviceTime, EventId, FunctionId, Launch,
    LaunchReport, ModuleImage, ParamSlot, PlanBuffer, RankPlace, SequenceError, SequenceKey,
    StreamId, TensorMapSpec,
};
use crate::error::DeviceError;

/// Alignment of allocations: suits every vector access and tensor map.
const ALIGN: u64 = 256;

/// Bytes that a copy moves at a time.
const COPY_BYTES: usize = 1 << 20;

/// A simulated GPU with the kernels that it has loaded.
pub struct SimDevice {
    seat: Seat,
    props: DeviceProps,
    functions: Vec<Function>,
    /// Made so far, the main one among them.
    streams: usize,
    /// Recorded since the last synchronisation, and before it.
    events: std::ops::Range<usize>,
    timing: Option<Timing>,
    /// Buffers of each plan, by the address of the first.
    plans: BTreeMap<u64, Vec<u64>>,
    observer: Option<LaunchObserver>,
}

/// Whose the GPU is.
enum Seat {
    Alone(Box<Gpu>),
    Rank(Rank),
    /// A rank whose kernel has failed, and why.
    Lost(Rank, String),
}

struct Function {
    module: Module,
    kernel: String,
    /// Where the kernel says that it gives up, on a rank.
    status: Option<u64>,
}

/// Is shown each launch before it runs, with the memory that the kernel finds.
pub type LaunchObserver = Box<dyn FnMut(&Gpu, &Launch<'_>)>;

/// Host times of launches.
struct Timing {
    start: Instant,
    launches: Vec<DeviceTime>,
}

impl SimDevice {
    /// Makes a device; asynchronous work takes effect at its issue, which is the fastest.
    #[must_use]
    pub fn new(options: &DeviceOptions) -> Self {
        Self::with_config(GpuConfig {
            sms: options.sms,
            global_bytes: options.global_bytes,
            threads: options.threads,
            check: options.check,
            ..GpuConfig::default()
        })
    }

    /// Makes a device of which tests choose every property.
    #[must_use]
    pub fn with_config(config: GpuConfig) -> Self {
        Self::on(Seat::Alone(Box::new(Gpu::new(config))))
    }

    /// The device of a rank.
    pub(super) fn of_rank(rank: Rank) -> Self {
        Self::on(Seat::Rank(rank))
    }

    fn on(seat: Seat) -> Self {
        let config = seat.gpu().config();
        let props = DeviceProps {
            name: config.name.clone(),
            sms: config.sms,
            arch: "sm_90a".to_owned(),
            l2_bytes: 0,
            driver: String::new(),
            asynchronous: false,
        };
        Self {
            seat,
            props,
            functions: Vec::new(),
            streams: 1,
            events: 0..0,
            timing: None,
            plans: BTreeMap::new(),
            observer: None,
        }
    }

    /// Shows every later launch to `observer`, for those who record launches to run them again.
    pub fn observe(&mut self, observer: LaunchObserver) {
        self.observer = Some(observer);
    }

    fn check_stream(&self, stream: StreamId) -> Result<(), DeviceError> {
        if stream.0 < self.streams {
            return Ok(());
        }
        Err(DeviceError::NoHandle {
            what: "stream",
            number: stream.0,
        })
    }

    fn out_of_memory(&self, bytes: u64, what: &str, err: &mcc_sim::SimError) -> DeviceError {
        let (used, total) = self.gpu().memory_used();
        DeviceError::OutOfMemory {
            bytes,
            what: what.to_owned(),
            free: total.saturating_sub(used),
            total,
            message: err.to_string().into(),
        }
    }

    fn gpu(&self) -> &Gpu {
        self.seat.gpu()
    }

    fn function(&self, function: FunctionId) -> Result<&Function, DeviceError> {
        self.functions
            .get(function.0)
            .ok_or_else(|| DeviceError::NoKernel {
                kernel: format!("number {}", function.0),
            })
    }
}

impl SimDevice {
    /// Gives a kernel that can give up a place to say so.
    fn connect_status(&self, module: &Module) -> Result<Option<u64>, DeviceError> {
        let Some((variable, 8)) = module.global(status::VARIABLE) else {
            return Ok(None);
        };
        let bytes = (status::WORDS * size_of::<u64>()) as u64;
        let words = self.gpu().alloc(bytes, ALIGN)?;
        self.gpu().fill(words, 0, bytes)?;
        self.gpu().write(variable, &words.to_le_bytes())?;
        Ok(Some(words))
    }

    /// What the kernel of a launch said before it trapped.
    fn status(&self, launch: &Launch<'_>) -> Option<Status> {
        let words = self.function(launch.function).ok()?.status?;
        let mut bytes = [0; status::WORDS * size_of::<u64>()];
        self.gpu().read(words, &mut bytes).ok()?;
        let (words, _) = bytes.as_chunks::<8>();
        Status::decode([u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])])
    }

    /// Runs launches of a rank together with those of the others.
    fn run_together(
        &mut self,
        launches: &[Launch<'_>],
    ) -> Result<Vec<LaunchReport>, SequenceError> {
        let failed = |index, source| SequenceError { index, source };
        let rank = match &self.seat {
            Seat::Rank(rank) => rank,
            Seat::Lost(_, by) => {
                return Err(failed(None, DeviceError::Lost { by: by.clone() }));
            }
            Seat::Alone(_) => return Ok(Vec::new()),
        };
        let owned = launches.iter().map(|launch| {
            let function = self.function(launch.function)?;
            Ok(OwnedLaunch {
                module: function.module.clone(),
                kernel: function.kernel.clone(),
                config: config(launch),
                params: launch.params.to_vec(),
            })
        });
        let owned: Vec<OwnedLaunch> = owned
            .collect::<Result<_, DeviceError>>()
            .map_err(|source| failed(None, source))?;
        let start = Instant::now();
        match rank.run(owned) {
            Ok(answer) => {
                self.keep_times(start, &answer);
                Ok(answer.launches.into_iter().map(report).collect())
            }
            Err(SeatError::Refused(error)) => Err(failed(None, error.into())),
            Err(SeatError::Failed(error)) => {
                let launch = launches.get(error.launch);
                let said = launch.and_then(|launch| Some((launch, self.status(launch)?)));
                let source = match said {
                    Some((launch, status)) => DeviceError::GaveUp {
                        rank: rank.number(),
                        label: launch.label.to_owned(),
                        status,
                    },
                    None => error.source.into(),
                };
                self.lose(&source);
                Err(failed(launch.map(|_| error.launch), source))
            }
        }
    }

    /// The kernel of a rank has failed: the rank takes no part any more.
    fn lose(&mut self, by: &DeviceError) {
        // A device that stands alone goes on.
        let nobody = Seat::Alone(Box::new(Gpu::new(GpuConfig::default())));
        self.seat = match std::mem::replace(&mut self.seat, nobody) {
            Seat::Rank(rank) => {
                rank.leave();
                Seat::Lost(rank, by.to_string())
            }
            seat => seat,
        };
    }

    /// The ranks' turn took a time, of which each launch has a part as its instructions are one of all.
    fn keep_times(&mut self, start: Instant, answer: &Answer) {
        let Some(timing) = &mut self.timing else {
            return;
        };
        let mut at = start.duration_since(timing.start);
        for launch in &answer.launches {
            let part = launch.warp_instructions as f64 / answer.instructions.max(1) as f64;
            let duration = answer.wall.mul_f64(part);
            timing.launches.push(DeviceTime {
                start: at,
                duration,
            });
            at += duration;
        }
    }
}

impl Seat {
    fn gpu(&self) -> &Gpu {
        match self {
            Self::Alone(gpu) => gpu,
            Self::Rank(rank) | Self::Lost(rank, _) => rank.gpu(),
        }
    }
}

fn config(launch: &Launch<'_>) -> LaunchConfig {
    LaunchConfig {
        grid: launch.dims.grid,
        block: [launch.dims.block, 1, 1],
        cluster: launch.dims.cluster,
        dynamic_smem: launch.dims.smem_bytes,
        programmatic: launch.dims.programmatic,
    }
}

fn report(stats: LaunchStats) -> LaunchReport {
    LaunchReport {
        instructions: Some(stats.warp_instructions),
        tensor_macs: Some(stats.wgmma_macs),
        bulk_bytes: Some(stats.bulk_bytes),
    }
}

impl Device for SimDevice {
    fn props(&self) -> &DeviceProps {
        &self.props
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        let (used, total) = self.gpu().memory_used();
        Ok(DeviceMemory {
            free: total.saturating_sub(used),
            total,
        })
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        self.gpu()
            .alloc(bytes, ALIGN)
            .map_err(|err| self.out_of_memory(bytes, what, &err))
    }

    /// Separate allocations, so that an access beyond one of them is found.
    fn alloc_plan(&mut self, buffers: &[PlanBuffer<'_>]) -> Result<Vec<u64>, DeviceError> {
        let mut addresses = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            match self.alloc(buffer.bytes, buffer.what) {
                Ok(address) => addresses.push(address),
                Err(err) => {
                    for address in addresses {
                        self.gpu().free(address)?;
                    }
                    return Err(err);
                }
            }
        }
        if let Some(&first) = addresses.first() {
            self.plans.insert(first, addresses.clone());
        }
        Ok(addresses)
    }

    fn free(&mut self, address: u64) -> Result<(), DeviceError> {
        let addresses = self.plans.remove(&address).unwrap_or(vec![address]);
        Ok(addresses
            .into_iter()
            .try_for_each(|address| self.gpu().free(address))?)
    }

    fn reserve(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        self.gpu()
            .alloc_growing(bytes)
            .map_err(|err| self.out_of_memory(bytes, what, &err))
    }

    fn commit(&mut self, address: u64, bytes: u64) -> Result<(), DeviceError> {
        self.gpu()
            .grow(address, bytes)
            .map_err(|err| self.out_of_memory(bytes, "a cache that grows", &err))
    }

    fn committed(&self, address: u64) -> Result<u64, DeviceError> {
        Ok(self.gpu().size_of(address)?)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        Ok(self.gpu().write(address, bytes)?)
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        Ok(self.gpu().read(address, bytes)?)
    }

    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<(), DeviceError> {
        // A range that is not allocated is refused before the host reserves as much.
        let mut piece = vec![0; COPY_BYTES.min(usize::try_from(len).unwrap_or(usize::MAX))];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(piece.len() as u64);
            let piece = &mut piece[..n as usize];
            self.gpu().read(from + done, piece)?;
            self.gpu().write(to + done, piece)?;
            done += n;
        }
        Ok(())
    }

    fn fill(&mut self, address: u64, byte: u8, len: u64) -> Result<(), DeviceError> {
        Ok(self.gpu().fill(address, byte, len)?)
    }

    fn load_module(&mut self, image: &ModuleImage<'_>) -> Result<FunctionId, DeviceError> {
        let module = self.gpu().load_module(image.ptx)?;
        let status = match self.seat {
            Seat::Alone(_) => None,
            _ => self.connect_status(&module)?,
        };
        self.functions.push(Function {
            module,
            kernel: image.kernel.to_owned(),
            status,
        });
        Ok(FunctionId(self.functions.len() - 1))
    }

    fn param_layout(&self, function: FunctionId) -> Result<Vec<ParamSlot>, DeviceError> {
        let function = self.function(function)?;
        let layout = function.module.param_layout(&function.kernel)?;
        Ok(layout
            .into_iter()
            .map(|(offset, size)| ParamSlot { offset, size })
            .collect())
    }

    fn encode_tensor_map(&self, spec: &TensorMapSpec) -> Result<[u8; 128], DeviceError> {
        let elem = match spec.dtype {
            DType::F32 => TensorElem::F32,
            DType::Bf16 => TensorElem::Bf16,
            // TMA moves FP8 as bytes.
            DType::E4m3 => TensorElem::U8,
            DType::I32 => TensorElem::S32,
        };
        let swizzle = match spec.swizzle {
            0 => Swizzle::None,
            32 => Swizzle::B32,
            64 => Swizzle::B64,
            128 => Swizzle::B128,
            other => {
                return Err(DeviceError::TensorMap(format!(
                    "there is no swizzle of {other} bytes"
                )));
            }
        };
        let map = TensorMap {
            elem,
            global_address: spec.address,
            dims: spec.dims.clone(),
            strides: spec.strides.clone(),
            box_dims: spec.box_dims.clone(),
            elem_strides: vec![1; spec.dims.len()],
            swizzle,
            oob_nan: false,
        };
        Ok(map.encode()?)
    }

    fn launch(
        &mut self,
        stream: StreamId,
        launch: &Launch<'_>,
    ) -> Result<LaunchReport, DeviceError> {
        self.check_stream(stream)?;
        let Seat::Alone(gpu) = &self.seat else {
            let ran = self.run_together(std::slice::from_ref(launch));
            let reports = ran.map_err(|err| err.source)?;
            return Ok(reports.first().copied().unwrap_or_default());
        };
        if let Some(observer) = &mut self.observer {
            observer(gpu, launch);
        }
        let Function { module, kernel, .. } = self.function(launch.function)?;
        let start = Instant::now();
        let stats = gpu.launch(module, kernel, &config(launch), launch.params)?;
        if let Some(timing) = &mut self.timing {
            timing.launches.push(DeviceTime {
                start: start.duration_since(timing.start),
                duration: start.elapsed(),
            });
        }
        Ok(report(stats))
    }

    fn launch_sequence(
        &mut self,
        key: SequenceKey,
        launches: &[Launch<'_>],
    ) -> Result<Vec<LaunchReport>, SequenceError> {
        let _ = key;
        if !matches!(self.seat, Seat::Alone(_)) {
            return self.run_together(launches);
        }
        let mut reports = Vec::with_capacity(launches.len());
        for (index, one) in launches.iter().enumerate() {
            let ran = self.launch(StreamId::MAIN, one);
            reports.push(ran.map_err(|source| SequenceError {
                index: Some(index),
                source,
            })?);
        }
        Ok(reports)
    }

    fn alloc_symmetric(&mut self, bytes: u64, what: &str) -> Result<u64, DeviceError> {
        match &mut self.seat {
            Seat::Rank(rank) | Seat::Lost(rank, _) => rank.alloc_symmetric(bytes, what),
            Seat::Alone(_) => {
                let address = self.alloc(bytes, what)?;
                self.fill(address, 0, bytes)?;
                Ok(address)
            }
        }
    }

    fn ranks(&self) -> u32 {
        match &self.seat {
            Seat::Rank(rank) | Seat::Lost(rank, _) => rank.ranks(),
            Seat::Alone(_) => 1,
        }
    }

    fn rank(&self) -> u32 {
        match &self.seat {
            Seat::Rank(rank) | Seat::Lost(rank, _) => rank.number(),
            Seat::Alone(_) => 0,
        }
    }

    fn place_in_world(&self, address: u64) -> Result<RankPlace, DeviceError> {
        match &self.seat {
            Seat::Rank(rank) | Seat::Lost(rank, _) => rank.place(address),
            Seat::Alone(_) => Ok(RankPlace {
                rank: 0,
                peers: vec![address],
            }),
        }
    }

    fn set_timing(&mut self, on: bool) -> Result<(), DeviceError> {
        self.timing = on.then(|| Timing {
            start: Instant::now(),
            launches: Vec::new(),
        });
        Ok(())
    }

    fn take_timings(&mut self) -> Result<Vec<DeviceTime>, DeviceError> {
        let launches = self.timing.as_mut().map(|timing| &mut timing.launches);
        Ok(launches.map(std::mem::take).unwrap_or_default())
    }

    fn create_stream(&mut self, _priority: i32) -> Result<StreamId, DeviceError> {
        self.streams += 1;
        Ok(StreamId(self.streams - 1))
    }

    fn record_event(&mut self, stream: StreamId) -> Result<EventId, DeviceError> {
        self.check_stream(stream)?;
        self.events.end += 1;
        Ok(EventId(self.events.end - 1))
    }

    fn wait_event(&mut self, stream: StreamId, event: EventId) -> Result<(), DeviceError> {
        self.check_stream(stream)?;
        if self.events.contains(&event.0) {
            return Ok(());
        }
        Err(DeviceError::NoHandle {
            what: "event",
            number: event.0,
        })
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.events.start = self.events.end;
        Ok(())
    }
}
