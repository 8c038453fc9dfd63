//! `cargo xtask`: the project's chores, in Rust.
//!
//! In: a subcommand. Out: its effect, and an exit code that a script can use:
//! 0 all well; 1 a step failed; 2 wrong command line; 3 the machine lacks
//! something, which the message names together with the way to install it.
//!
//! xtask uses no other crate of the workspace and links no LLVM, so that it
//! builds on a machine that has nothing but Rust and a C linker.

mod bench;
mod bless;
mod demo;
mod error;
mod foreign;
mod gpu_kit;
mod mutate;
mod ptxas_report;
mod setup;
mod shell;
mod size;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, test and demo of mcc.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    after_help = "Exit codes: 0 all well, 1 a step failed, 2 wrong command line, \
                  3 the machine lacks something."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what a build of mcc needs and this machine lacks
    Setup(setup::Args),
    /// Set up, build mcc, compile the example checkpoint and generate text on the simulated device
    Demo(demo::Args),
    /// Set up, then run every check: format, clippy, tests, docs
    Test(test::Args),
    /// Measure how fast a part is, beside its aims
    Bench(bench::Args),
    /// Run the tests and accept every snapshot that changed (read the diff before you commit it)
    Bless(bless::Args),
    /// Compile again the simulator's test kernels that nvcc and Triton make
    Foreign(foreign::Args),
    /// Make the folder that proves and measures a GPU host
    GpuKit(gpu_kit::Args),
    /// Plant bugs into kernels and count those that the simulated device reports
    Mutate(mutate::Args),
    /// Assemble PTX files for sm_90a and show registers, spills, barriers and messages
    PtxasReport(ptxas_report::Args),
    /// Build the runtime's binary as it is shipped, and hold its size and start-up time to their limits
    Size(size::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Test(args) => test::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Bless(args) => bless::main(&args),
        Command::Foreign(args) => foreign::main(&args),
        Command::GpuKit(args) => gpu_kit::main(&args),
        Command::Mutate(args) => mutate::main(&args),
        Command::PtxasReport(args) => ptxas_report::main(&args),
        Command::Size(args) => size::main(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            error.exit_code()
        }
    }
}
