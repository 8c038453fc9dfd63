//! `mccrt`: runs bundles on hosts that have no compiler. Speaks token ids; `mcc` speaks text.
//!
//! In: a command line. Out: its answer on standard output, everything else on standard error, and an exit code:
//! 0 fine, 1 what was asked for failed, 2 there is no such device or this machine lacks what it needs.
//!
//! ```text
//! args      what commands share: bundle, weights, device, statistics, traces
//! run eval serve check bench inspect doctor sim place one file a command
//! ```

mod args;
mod bench;
mod check;
mod doctor;
mod eval;
mod inspect;
mod place;
mod ranks;
mod run;
mod serve;
mod sim;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mcc_bundle::BundleError;
use mcc_runtime::{DeviceError, RuntimeError, ServeError};

/// Runs mcc bundles.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 fine, 1 what was asked for failed, 2 no such device, or this machine lacks what it \
                  needs."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continues a prompt of token ids and prints the ids that follow.
    Run(run::Args),
    /// Prints the mean negative log-likelihood of token ids, in nats.
    Eval(eval::Args),
    /// Answers requests, one a line of standard input, while the weights stay loaded.
    Serve(serve::Args),
    /// Compares a device with another one, step by step.
    Check(check::Args),
    /// Times every launch of a bundle on a GPU, or predicts the times where there is none.
    Bench(bench::Args),
    /// Prints what a bundle contains.
    Inspect(inspect::Args),
    /// Tells what this machine can run bundles on, and what it lacks for it.
    Doctor(doctor::Args),
    /// Runs a kernel of a PTX file on the simulated device, as a launch file says.
    Sim(sim::Args),
    /// Places redundant experts on GPUs by the load that was counted (EPLB).
    Place(place::Args),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: `{word}` is not a token id", path.display())]
    BadTokens { path: PathBuf, word: String },
    #[error("standard input and output: {0}")]
    Pipe(#[from] std::io::Error),
    #[error("{failed} of {all} entries could not be measured; see above")]
    Unmeasured { failed: usize, all: usize },
    #[error("something that is required is missing or unusable; see above")]
    Incomplete,
    #[error("the devices do not agree")]
    Disagree,
    /// What was handed to `sim` cannot be run.
    #[error(transparent)]
    Launch(#[from] mcc_sim_run::InputError),
    #[error("the kernel does not do what it should; see above")]
    Kernel,
    /// Flags that mean nothing together.
    #[error("{0}")]
    Usage(String),
    /// A launcher's variables.
    #[error(transparent)]
    Rank(#[from] mcc_ranks::LaunchError),
    /// Ranks that do not find each other, or do not fit.
    #[error(transparent)]
    Meet(#[from] mcc_ranks::MeetError),
    /// Statistics, or numbers that go with them.
    #[error(transparent)]
    Place(#[from] mcc_place::FileError),
}

impl Failure {
    const fn code(&self) -> u8 {
        match self {
            Self::Runtime(err) if err.is_environment() => 2,
            Self::Launch(_) | Self::Rank(_) | Self::Meet(_) => 2,
            _ => 1,
        }
    }
}

impl From<BundleError> for Failure {
    fn from(err: BundleError) -> Self {
        Self::Runtime(err.into())
    }
}

impl From<DeviceError> for Failure {
    fn from(err: DeviceError) -> Self {
        Self::Runtime(err.into())
    }
}

impl From<ServeError> for Failure {
    fn from(err: ServeError) -> Self {
        match err {
            ServeError::Runtime(err) => Self::Runtime(err),
            ServeError::Io(err) => Self::Pipe(err),
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => {
            // A closed pipe is no reason to fail differently. Code 2 is the machine's, not the command line's.
            let _ = err.print();
            return ExitCode::from(u8::from(err.use_stderr()));
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Place(args) => place::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

/// Prints a line to standard output; a reader that went away is no error.
fn print_line(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
