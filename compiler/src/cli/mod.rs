//! The command line: one file a command, flags beside what they do.

mod bench;
mod build;
mod compile;
mod doctor;
mod eval;
mod explain;
mod fuzz;
mod gemm;
mod inspect;
mod model;
mod place;
mod run;
mod sim;

use clap::{Parser, Subcommand};

use crate::error::Error;

/// Compiles mixture-of-experts transformers to Hopper kernels and runs them.
#[derive(Parser, Debug)]
#[command(name = "mcc", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Compiles a checkpoint, a .mir graph or a Rust model into a bundle.
    Build(build::Args),
    /// Continues a prompt.
    Run(run::Args),
    /// Measures how well a model predicts a text.
    Eval(eval::Args),
    /// Shows why the compiler chooses a model's graph, or a kernel's tiles, as it does.
    Explain(explain::Args),
    /// Shows what is in a bundle.
    Inspect(inspect::Args),
    /// Times every launch of a bundle on a GPU, or predicts the times where there is none.
    Bench(bench::Args),
    /// Tells what this machine has, what it lacks, what that costs and how to get it.
    Doctor(doctor::Args),
    /// Runs a kernel of a PTX file on the simulated device, as a launch file says.
    Sim(sim::Args),
    /// Places redundant experts on GPUs by the load that was counted (EPLB).
    Place(place::Args),
    /// Compiles random models and runs them on the simulated device, against the evaluator.
    Fuzz(fuzz::Args),
    /// Shows how good the generated matrix products are.
    Gemm(gemm::Args),
}

/// Runs a command.
///
/// # Errors
/// For the user to read; whatever was being written is not there.
pub fn run(cli: Cli) -> Result<(), Error> {
    match cli.command {
        Command::Build(args) => build::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Place(args) => place::run(&args),
        Command::Gemm(args) => gemm::run(&args),
    }
}

/// Prints a line to standard output; a reader that went away is no error.
fn print_line(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
