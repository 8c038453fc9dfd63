//! What can go wrong while a bundle runs: the environment's fault, the checkpoint's, the caller's or the compiler's.

use std::path::PathBuf;

use mcc_bundle::{BundleError, ManifestError};
use thiserror::Error;

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
    /// A step before the weights were there.
    #[error("the weights are not loaded yet")]
    NoWeights,
    /// A text too short to evaluate.
    #[error("the text has {tokens} tokens, an evaluation needs at least 2")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
    },
}

/// A device that is not there, or that refused.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// Not compiled in.
    #[error(
        "this build of mcc has only the simulated device; `{asked}` is not available, use `--device sim`"
    )]
    NotInThisBuild {
        /// Asked for.
        asked: String,
    },
    /// No such device.
    #[error("there is no device `{asked}`; known are `sim` and `cuda`")]
    Unknown {
        /// Asked for.
        asked: String,
    },
    /// Device memory is exhausted.
    #[error("the device has no {bytes} bytes left for {what}: {message}")]
    OutOfMemory {
        /// Asked for.
        bytes: u64,
        /// What they were for.
        what: String,
        /// What the device said.
        message: String,
    },
    /// The module has no such kernel.
    #[error("the module of kernel `{kernel}` has no entry of that name")]
    NoKernel {
        /// Which one.
        kernel: String,
    },
    /// A tensor map that the hardware does not have.
    #[error("tensor map: {0}")]
    TensorMap(String),
    /// What the simulated device said.
    #[error(transparent)]
    Sim(Box<mcc_sim::SimError>),
}

impl From<mcc_sim::SimError> for DeviceError {
    fn from(err: mcc_sim::SimError) -> Self {
        // Faults carry much detail; a result should stay small.
        Self::Sim(Box::new(err))
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
