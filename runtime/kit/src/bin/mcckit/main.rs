//! `mcckit`: the program of the GPU kit. `run` does everything; the other commands are its steps, one process each.
//!
//! In: the folder of a kit, which is this program's own unless `--kit` names another. Out: JSON on standard output
//! from each step, a folder of results from `run`. Exit codes of a step: 0 right, 1 wrong, 2 this machine lacks the
//! device, 3 not all of it was done.

mod model;
mod pack;
mod run;
mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mcc_kit::contents::KitError;
use mcc_kit::expected::ExpectedError;
use mcc_kit::vectors::VectorError;
use mcc_runtime::{DeviceError, RuntimeError};

/// Checks a GPU host and measures it: conformance, tensor-core vectors, benchmarks beside their peers.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes of `run`: 0 all passed; 1 something failed; 3 nothing failed but steps were skipped, each \
                  named with its reason.\nOf every other command: 0 right; 1 wrong; 2 no such device; 3 not all was done."
)]
struct Cli {
    /// Folder of the kit [default: where this program is]
    #[arg(long, global = true)]
    kit: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Does everything in under 8 minutes, continuing past failures; writes results.json, results.md and plots
    Run(run::Args),
    /// Makes the page and the plots of a folder of results again
    Report(run::ReportArgs),
    /// Prints what machine this is
    Facts,
    /// Checks that the kit's files are those that were packed
    Files,
    /// Checks that there is a device that runs the kit's kernels
    Device(model::DeviceArgs),
    /// Generates text with the kit's checkpoint and compares it with what the simulated device gave
    Text(steps::TextArgs),
    /// Compares tensor-core products and conversions with the simulator's arithmetic
    Vectors(steps::VectorsArgs),
    /// Repeats prefill and decode: every result must be the same
    Repeat(steps::RepeatArgs),
    /// Runs a short generation under NVIDIA's compute-sanitizer
    Sanitize(steps::SanitizeArgs),
    /// Completes the folder of a kit: what the simulated device makes of prompts, and the list of files
    Pack(pack::Args),
}

/// What ends a command badly.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Kit(#[from] KitError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// What was checked is wrong; the details are on standard output.
    #[error("{0}")]
    Wrong(String),
    /// This machine lacks what is needed.
    #[error("{0}")]
    Environment(String),
    /// Not all of it was done.
    #[error("{0}")]
    Partial(String),
}

impl From<ExpectedError> for Failure {
    fn from(err: ExpectedError) -> Self {
        match err {
            ExpectedError::Runtime(err) => err.into(),
            ExpectedError::Kit(err) => err.into(),
        }
    }
}

impl From<VectorError> for Failure {
    fn from(err: VectorError) -> Self {
        if err.source.is_environment() {
            Self::Environment(err.to_string())
        } else {
            Self::Wrong(err.to_string())
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(err: DeviceError) -> Self {
        RuntimeError::from(err).into()
    }
}

impl Failure {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Environment(_) => 2,
            Self::Runtime(err) if err.is_environment() => 2,
            Self::Partial(_) => 3,
            _ => 1,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8, Failure> {
    let kit = match cli.kit {
        Some(kit) => kit,
        None => own_folder()?,
    };
    match cli.command {
        Command::Run(args) => return run::run(&kit, &args),
        Command::Report(args) => run::report(&args)?,
        Command::Facts => steps::facts()?,
        Command::Files => steps::files(&kit)?,
        Command::Device(args) => model::device(&kit, &args)?,
        Command::Text(args) => steps::text(&kit, &args)?,
        Command::Vectors(args) => steps::vectors(&args)?,
        Command::Repeat(args) => steps::repeat(&kit, &args)?,
        Command::Sanitize(args) => steps::sanitize(&kit, &args)?,
        Command::Pack(args) => pack::pack(&kit, &args)?,
    }
    Ok(0)
}

fn own_folder() -> Result<PathBuf, Failure> {
    let unknown = Failure::io(Path::new("/proc/self/exe"));
    let program = std::env::current_exe().map_err(unknown)?;
    Ok(program.parent().unwrap_or(Path::new(".")).to_owned())
}

/// Prints a step's result.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(std::io::Error::other);
    let text = text.map_err(Failure::io(Path::new("standard output")))?;
    println!("{text}");
    Ok(())
}
