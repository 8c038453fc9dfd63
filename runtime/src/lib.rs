//! Loads a bundle and runs it on a device.
//!
//! In: a bundle (`mcc-bundle`), a checkpoint directory, tokens. Out: logits and tokens.
//! Holds afterwards: nothing of the checkpoint stays in host memory; device memory is what the manifest
//! plans; every error says whose fault it is.
//!
//! ```text
//! bundle ──► Model::load ──► Model::load_weights ──► Model::session ──► prefill, decode ──► generate, evaluate
//!            model.rs        weights/                session.rs                             text.rs
//!               └── launch.rs: views and expressions become grids, parameters and tensor maps
//!                      └── device/: `trait Device` and its makers
//! ```

pub mod bench;
mod check;
mod device;
pub mod doctor;
mod error;
mod launch;
mod model;
mod ranks;
mod sampling;
mod serve;
mod session;
mod stats;
mod synthetic;
mod text;
mod trace;
mod turns;
mod weights;

pub use check::{
    Agreement, CaseReport, CheckOptions, CheckReport, DeviceReport, Element, Failure,
    FirstMismatch, KernelReport, RepeatReport, TokensReport, WeightsReport, cases, check,
};
pub use device::{
    CodeSource, CudaDevice, CudaProbe, Device, DeviceKind, DeviceMemory, DeviceOptions,
    DeviceProps, DeviceTime, EventId, FunctionId, FunctionInfo, GpuInfo, Launch, LaunchDims,
    LaunchObserver, LaunchReport, ModuleImage, ParamSlot, PlanBuffer, RankPlace, SequenceError,
    SequenceKey, SimCluster, SimDevice, Status, StreamId, TensorMapSpec, WaitSite, open_device,
    open_ranks, probe_cuda,
};
pub use error::{DeviceError, RankError, RuntimeError, WeightError};
pub use model::{MemoryPlan, Model};
pub use ranks::{RankResult, RanksReport, evaluate_on_ranks, generate_on_ranks, on_ranks};
pub use sampling::{Sampling, SplitMix64};
pub use serve::{ServeError, ServeOptions, Served, serve};
pub use session::{LogitRows, Session, StepOutput};
pub use stats::{KernelStats, PhaseStats, SAMPLES, Stats, StatsReport};
pub use synthetic::inputs as synthetic_inputs;
pub use text::{
    EvalReport, GenerateOptions, Generation, StopReason, eval_windows, evaluate, generate,
    token_nll,
};
pub use trace::Trace;
pub use weights::{Checkpoint, LoadProgress, Share, e4m3_to_f32, rope_table};
