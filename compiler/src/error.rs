//! Everything that can end an `mcc` command, and whose fault it is.

use std::path::PathBuf;

use mcc_bundle::BundleError;
use mcc_codegen::CodegenError;
use mcc_dsl::DslErrors;
use mcc_passes::PassError;
use mcc_passes::target::TargetError;
use mcc_runtime::{RuntimeError, WeightError};
use mcc_sim_run::InputError;

/// An error of the command line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read or written: the environment's.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// What was given is none of the things that can be built.
    #[error("{}: {why}; mcc builds a checkpoint directory (with a config.json), a .mir file, or a Rust model (a .rs file or a crate)", path.display())]
    NotASource {
        /// What was given.
        path: PathBuf,
        /// Why it is none of them.
        why: String,
    },
    /// A checkpoint whose config asks for something else than this compiler builds.
    #[error("{}: {what}", path.display())]
    Config {
        /// The config file.
        path: PathBuf,
        /// Field, value, and what is supported.
        what: String,
    },
    /// A `.mir` text with a mistake: its author's. The message has file, line, column and excerpt.
    #[error("{0}")]
    Mir(mcc_ir::ParseError),
    /// A model's author made a mistake.
    #[error(transparent)]
    Dsl(#[from] DslErrors),
    /// A Rust model that does not build or run.
    #[error("the Rust model {} did not print its graph: {why}", path.display())]
    RustModel {
        /// The file or crate.
        path: PathBuf,
        /// What cargo or the model said.
        why: String,
    },
    /// An unknown target name.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A graph that cannot be lowered, or a compiler bug.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A kernel that cannot be generated, or a compiler bug.
    #[error(transparent)]
    Codegen(#[from] CodegenError),
    /// PTX that the PTX crate does not read back: a compiler bug.
    #[error("compiler bug: the PTX of kernel {kernel} does not read back: {why}")]
    Ptx {
        /// The kernel.
        kernel: String,
        /// The parser's message.
        why: String,
    },
    /// ptxas refused a kernel, or accepted it only with a warning that costs performance.
    #[error("kernel {kernel} does not pass {}: {why}", ptxas.display())]
    Ptxas {
        /// The kernel.
        kernel: String,
        /// The assembler.
        ptxas: PathBuf,
        /// Its messages.
        why: String,
    },
    /// A tool that is not there.
    #[error("{tool} was not found: {how}")]
    MissingTool {
        /// Its name.
        tool: &'static str,
        /// Where it was looked for and how to get it.
        how: String,
    },
    /// Program and manifest differ in shape: a compiler bug.
    #[error("compiler bug: the program does not map onto the bundle's manifest: {0}")]
    Manifest(String),
    /// A bundle file that cannot be read or written; the message names it.
    #[error(transparent)]
    BundleFile(BundleError),
    /// A bundle whose content is not sound.
    #[error("{}: {source}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
    /// A tokenizer that cannot be used.
    #[error("{what}")]
    Tokenizer {
        /// Which, and why.
        what: String,
    },
    /// A step on the device failed, or the request does not fit the bundle.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A checkpoint that does not fit the model.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// `mcc doctor` found that something required is not there.
    #[error("something that is required is missing or unusable; see above")]
    Incomplete,
    /// Some entries of a benchmark failed; the report names them.
    #[error("{failed} of {all} entries could not be measured; see above")]
    Unmeasured {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
    },
    /// Statistics for `mcc place`, or numbers that go with them.
    #[error(transparent)]
    Place(#[from] mcc_place::FileError),
    /// What was handed to `mcc sim` cannot be run.
    #[error(transparent)]
    Launch(#[from] InputError),
    /// `mcc sim` ran the kernel and something was wrong; the report says what.
    #[error("the kernel does not do what it should; see above")]
    SimulatedKernel,
    /// `mcc fuzz` found models that are computed wrongly: a compiler bug.
    #[error("compiler bug: random models are computed wrongly, those of seeds {seeds}; see above")]
    Fuzz {
        /// Their seeds, with commas between.
        seeds: String,
    },
    /// Kernels fall short of what `mcc gemm static` asks for; the table says of what.
    #[error("{broken} of {all} configurations break the bar; see above")]
    Bar {
        /// How many.
        broken: usize,
        /// Of how many.
        all: usize,
    },
    /// Another compiler, to compare with, could not be run: the environment's.
    #[error("{} could not be compared with: {why}", peer.display())]
    Peer {
        /// What was to be run.
        peer: PathBuf,
        /// What it said.
        why: String,
    },
    /// An option that means nothing.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// What the command ends with: 2 when this machine lacks the device that was asked for or `mcc sim` cannot run
    /// what it was handed, 1 for all else.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Runtime(err) if err.is_environment() => 2,
            Self::Launch(_) => 2,
            _ => 1,
        }
    }

    /// Of the bundle at `path`.
    pub fn bundle(path: impl Into<PathBuf>) -> impl FnOnce(BundleError) -> Self {
        let path = path.into();
        move |source| match source {
            BundleError::Read { .. } | BundleError::Write { .. } => Self::BundleFile(source),
            source => Self::Bundle { path, source },
        }
    }

    /// An [`Error::Io`].
    pub fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
