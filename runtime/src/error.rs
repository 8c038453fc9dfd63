//! What can go wrong while a bundle runs: the environment's fault, the checkpoint's, the caller's or the compiler's.

use std::path::PathBuf;
use std::sync::Arc;

use mcc_bundle::{BundleError, ManifestError};
use thiserror::Error;

use crate::device::Status;

/// Anything that the runtime reports.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The manifest of a bundle that was put together in memory.
    #[error("the bundle's manifest is wrong: {0}")]
    Manifest(#[from] ManifestError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The checkpoint.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The device is not what the kernels were compiled for.
    #[error(
        "the bundle was compiled for {needed}, the device {device} runs {found}; build it for this device"
    )]
    WrongTarget {
        /// Architecture of the bundle.
        needed: String,
        /// The device's name.
        device: String,
        /// Architecture of the device.
        found: String,
    },
    /// The compiled kernel takes other parameters than the manifest says: a fault of the compiler.
    #[error(
        "kernel `{kernel}` takes {found}, its manifest says {expected}; this is a bug of the compiler"
    )]
    ParamLayout {
        /// Which one.
        kernel: String,
        /// Of the manifest.
        expected: String,
        /// Of the module.
        found: String,
    },
    /// The model does not fit the device.
    #[error("the model needs {needed} bytes of device memory, {free} of {total} are free; {plan}")]
    DoesNotFit {
        /// Before the first step: weights, ports and temporaries.
        needed: u64,
        /// Free on the device.
        free: u64,
        /// Of the device.
        total: u64,
        /// What needs how much.
        plan: String,
    },
    /// A bundle for groups of ranks, on a number of ranks that makes no whole groups.
    #[error(
        "the bundle spreads its experts over groups of {group} ranks, and {ranks} run together: start a multiple of {group}"
    )]
    WrongRanks {
        /// Ranks of a group.
        group: u32,
        /// Ranks that run together.
        ranks: usize,
    },
    /// Ranks that do not divide into nodes.
    #[error("{ranks} ranks on {nodes} nodes: each node has the same number of them, at least one")]
    BadRanks {
        /// Ranks.
        ranks: u32,
        /// Nodes.
        nodes: u32,
    },
    /// Ranks that failed. The others have ended well, or would have.
    #[error("{}", list(.0))]
    Ranks(Vec<RankError>),
    /// A bundle that says where other ranks are, and has nothing that they could reach.
    #[error(
        "the bundle's program has a buffer of kind world and none of kind exchange; this is a bug of the compiler"
    )]
    NoExchange,
    /// A launch that no device could do: a fault of the compiler.
    #[error("step `{step}` with kernel `{kernel}`: {what}; this is a bug of the compiler")]
    BadStep {
        /// Label of the step.
        step: String,
        /// Name of the kernel.
        kernel: String,
        /// What is wrong with it.
        what: String,
    },
    /// The device refused or failed a launch.
    #[error("step `{step}` of `{entry}`: {source}")]
    Step {
        /// Name of the entry.
        entry: String,
        /// Label of the step.
        step: String,
        /// What the device said.
        source: DeviceError,
    },
    /// No entry of this name.
    #[error("the bundle has no entry `{name}`; it has {known}")]
    NoEntry {
        /// Asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The bundle is not a text model with the entries that a session drives.
    #[error("the bundle `{model}` cannot generate text: {what}")]
    NotATextModel {
        /// The model's name.
        model: String,
        /// What is missing.
        what: String,
    },
    /// A named dim without a value, or outside of its bounds.
    #[error("dim `{name}` is {found}, the bundle allows {min} to {max}")]
    DimOutOfRange {
        /// Which one.
        name: String,
        /// `missing`, or the value.
        found: String,
        /// Lower bound.
        min: u64,
        /// Upper bound.
        max: u64,
    },
    /// An input of the wrong size, missing, or one too many.
    #[error("input `{name}` of `{entry}`: {what}")]
    BadInput {
        /// Name of the entry.
        entry: String,
        /// Name of the input.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// More tokens than the model was compiled for.
    #[error(
        "{needed} tokens do not fit the context of {context} tokens that this bundle was built for"
    )]
    ContextExceeded {
        /// Tokens so far and new ones.
        needed: u64,
        /// Upper bound of the context.
        context: u64,
    },
    /// A chunk of a prompt larger than the model was compiled for.
    #[error("a chunk of {chunk} tokens was asked for, this bundle takes 1 to {max} at a time")]
    ChunkTooLarge {
        /// Asked for.
        chunk: usize,
        /// Upper bound.
        max: u64,
    },
    /// A prompt or text of no tokens.
    #[error("there are no tokens to process: the prompt is empty")]
    EmptyPrompt,
    /// A token that the vocabulary does not have.
    #[error(
        "token {token} at position {position} is not in the vocabulary of {vocab}; is this the model's tokenizer?"
    )]
    TokenOutOfRange {
        /// The token.
        token: i32,
        /// Where it stands.
        position: u64,
        /// Size of the vocabulary.
        vocab: u64,
    },
    /// Sampling parameters that mean nothing.
    #[error("{name} is {value}, it must be {allowed}")]
    BadSampling {
        /// `temperature`, `top_p`.
        name: &'static str,
        /// The value.
        value: f32,
        /// What it may be.
        allowed: &'static str,
    },
    /// The file of a time line.
    #[error("cannot write {}: {source}", path.display())]
    TraceFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A step before the weights were there.
    #[error("the weights are not loaded yet")]
    NoWeights,
    /// A benchmark of nothing.
    #[error("there is nothing to measure: {0}")]
    NothingToMeasure(&'static str),
    /// A text too short to evaluate.
    #[error("the text has {tokens} tokens, an evaluation needs at least 2")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
    },
}

impl RuntimeError {
    /// Whether the fault is this machine's: there is no such device, or not one that can run the bundle. Commands
    /// end with code 2 then, and with 1 for everything else.
    #[must_use]
    pub const fn is_environment(&self) -> bool {
        match self {
            Self::Device(err) => err.is_environment(),
            Self::WrongTarget { .. } => true,
            _ => false,
        }
    }

    /// Whether a kernel gave up because another rank did not come.
    #[must_use]
    pub const fn misses_a_rank(&self) -> bool {
        match self {
            Self::Device(DeviceError::GaveUp { status, .. })
            | Self::Step {
                source: DeviceError::GaveUp { status, .. },
                ..
            } => status.site.peer().is_some(),
            _ => false,
        }
    }
}

/// Why one of several ranks failed.
#[derive(Debug, Error)]
#[error("rank {rank}: {source}")]
pub struct RankError {
    /// Which one.
    pub rank: usize,
    /// Why.
    pub source: RuntimeError,
}

/// One a line: first those that failed by themselves, then those that only missed another one.
fn list(errors: &[RankError]) -> String {
    let (missed, first): (Vec<_>, Vec<_>) = errors.iter().partition(|e| e.source.misses_a_rank());
    let lines: Vec<String> = first
        .into_iter()
        .chain(missed)
        .map(ToString::to_string)
        .collect();
    lines.join("\n")
}

/// A device that is not there, or that refused. Small enough to be part of a result everywhere.
#[derive(Clone, Debug, Error)]
pub enum DeviceError {
    /// Checks of what a GPU does not tell.
    #[error(
        "--check is for the simulated device: on a GPU nothing tells races; leave it out, or use `--device sim`"
    )]
    ChecksOnGpu,
    /// No such kind of device.
    #[error("there is no device `{asked}`; known are `sim`, `cuda` and `cuda:N`")]
    Unknown {
        /// Asked for.
        asked: String,
    },
    /// Several ranks of one process on GPUs.
    #[error(
        "several ranks in one process are simulated ones: use `--device sim`, or leave `--ranks` out"
    )]
    RanksOnGpu,
    /// No NVIDIA driver on this machine.
    #[error(
        "no NVIDIA driver was found (libcuda.so.1 is not on this machine): install the driver, or use `--device sim`"
    )]
    NoDriver,
    /// The driver lacks what the runtime needs.
    #[error(
        "the NVIDIA driver is too old: it supports CUDA {found}, at least {needed} is needed ({why}); update the driver"
    )]
    DriverTooOld {
        /// CUDA version of the driver, e.g. `12.2`.
        found: String,
        /// CUDA version that is needed.
        needed: String,
        /// What needs it.
        why: Box<str>,
    },
    /// A driver, but no GPU.
    #[error(
        "the NVIDIA driver reports no GPU; is one installed, and visible (CUDA_VISIBLE_DEVICES)?"
    )]
    NoGpu,
    /// Fewer GPUs than asked for.
    #[error("there is no GPU {asked}: this machine has {found}, counted from 0")]
    NoOrdinal {
        /// Asked for.
        asked: u32,
        /// How many there are.
        found: u32,
    },
    /// Device memory is exhausted.
    #[error(
        "{bytes} bytes for {what} do not fit: {free} of the device's {total} bytes are free ({message})"
    )]
    OutOfMemory {
        /// Asked for.
        bytes: u64,
        /// What they were for.
        what: String,
        /// Free at that time.
        free: u64,
        /// Of the device.
        total: u64,
        /// What the device said.
        message: Box<str>,
    },
    /// The module has no such kernel.
    #[error("the module of kernel `{kernel}` has no entry of that name")]
    NoKernel {
        /// Which one.
        kernel: String,
    },
    /// The device's driver does not take a kernel's code.
    #[error("kernel `{kernel}` does not load: {message}")]
    Module {
        /// Which one.
        kernel: String,
        /// What the driver said of the cubin and of the PTX.
        message: String,
    },
    /// A tensor map that the hardware does not have.
    #[error("tensor map: {0}")]
    TensorMap(String),
    /// A stream or event of another device, or one that is gone.
    #[error("the device has no {what} {number}")]
    NoHandle {
        /// `stream`, `event`.
        what: &'static str,
        /// Its number.
        number: usize,
    },
    /// Memory that is not an allocation's.
    #[error("{len} bytes at {address:#x} are not allocated on the device")]
    BadAddress {
        /// Where.
        address: u64,
        /// How many.
        len: u64,
    },
    /// A launch that the driver refused, or a kernel that failed.
    #[error("{what}: {message}")]
    Launch {
        /// Kernel, label, grid, block, cluster, shared memory and parameters, for people.
        what: String,
        /// What the driver said, and what the kernel said of itself.
        message: String,
    },
    /// Work that did not end in time.
    #[error(
        "the GPU has not finished within {seconds} s; in flight: {what}{status}; the device cannot be used any more"
    )]
    Timeout {
        /// The limit.
        seconds: u64,
        /// Launches in flight.
        what: String,
        /// What waiting kernels said; empty, or begins with `; `.
        status: String,
    },
    /// Another call of the driver failed.
    #[error("{call} failed: {name} ({code}), {message}")]
    Driver {
        /// Name of the driver's function.
        call: &'static str,
        /// Number of the error.
        code: u32,
        /// Name of the error.
        name: String,
        /// What the driver says about it, and what to do.
        message: String,
    },
    /// A kernel that gave up waiting, on one of several ranks.
    #[error("rank {rank} gave up in `{label}`: {status}")]
    GaveUp {
        /// The rank that it ran on.
        rank: u32,
        /// What the launch was for.
        label: String,
        /// What the kernel said.
        status: Status,
    },
    /// Ranks that ask for different symmetric memory: they do not run the same program.
    #[error(
        "rank {rank} asks for {bytes} bytes on every rank for {what}, another one asked for {others}: do all run the same bundle?"
    )]
    Symmetric {
        /// The rank that asks.
        rank: u32,
        /// What for.
        what: String,
        /// How much.
        bytes: u64,
        /// How much another one asked for.
        others: u64,
    },
    /// An earlier failure has destroyed the device's context.
    #[error("the device is lost since an earlier failure ({by}); start the process again")]
    Lost {
        /// The failure.
        by: String,
    },
    /// What the simulated device said.
    #[error(transparent)]
    Sim(Arc<mcc_sim::SimError>),
}

impl DeviceError {
    /// Whether the fault is this machine's: there is no such device, or not one that can be used.
    #[must_use]
    pub const fn is_environment(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. }
                | Self::ChecksOnGpu
                | Self::RanksOnGpu
                | Self::NoDriver
                | Self::DriverTooOld { .. }
                | Self::NoGpu
                | Self::NoOrdinal { .. }
        )
    }
}

impl From<mcc_sim::SimError> for DeviceError {
    fn from(err: mcc_sim::SimError) -> Self {
        // Faults carry much detail; a result should stay small.
        Self::Sim(Arc::new(err))
    }
}

/// A checkpoint that does not hold what the bundle asks for.
#[derive(Debug, Error)]
pub enum WeightError {
    /// No such directory.
    #[error("there is no checkpoint directory {}", dir.display())]
    NoDirectory {
        /// Asked for.
        dir: PathBuf,
    },
    /// A directory without weights.
    #[error("{} has neither model.safetensors nor model.safetensors.index.json", dir.display())]
    NoCheckpoint {
        /// Searched.
        dir: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The index is not one.
    #[error("{}: {what}", path.display())]
    BadIndex {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Not a safetensors file, or a damaged one.
    #[error("{} is damaged: {what}; download or copy it again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor that is not there.
    #[error(
        "the checkpoint has no tensor `{name}`, which `{param}` needs (searched {searched}{closest})"
    )]
    MissingTensor {
        /// Asked for.
        name: String,
        /// Parameter of the bundle.
        param: String,
        /// Which files.
        searched: String,
        /// `; closest: ...`, or nothing.
        closest: String,
    },
    /// FP8 codes without their scales.
    #[error("tensor `{name}` of {} is FP8, and its scales `{name}_scale_inv` are missing", file.display())]
    MissingScales {
        /// The codes.
        name: String,
        /// Their file.
        file: PathBuf,
    },
    /// A tensor of another shape.
    #[error("`{what}` of {}: expected shape {expected}, found {found}", file.display())]
    WrongShape {
        /// The tensor or parameter.
        what: String,
        /// The file, or the checkpoint.
        file: PathBuf,
        /// By the bundle.
        expected: String,
        /// In the checkpoint.
        found: String,
    },
    /// A tensor of another element type.
    #[error("`{what}` of {}: expected {expected}, found {found}", file.display())]
    WrongDtype {
        /// The tensor or parameter.
        what: String,
        /// The file, or the checkpoint.
        file: PathBuf,
        /// By the bundle.
        expected: String,
        /// In the checkpoint.
        found: String,
    },
    /// A recipe that does not fit the tensors that it names.
    #[error("the recipe of `{param}` does not fit the checkpoint: {what}")]
    Recipe {
        /// Parameter of the bundle.
        param: String,
        /// What does not fit.
        what: String,
    },
    /// Writing to the device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
