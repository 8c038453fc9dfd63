//! `mcc gemm`: tools that show how good the generated GEMMs are; one file a subcommand.

mod compile_time;
mod predict;
mod promotion;
mod statics;
mod tune;
mod waste;

use crate::error::Error;

/// Flags of `mcc gemm`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(clap::Subcommand, Debug)]
enum Tool {
    /// Error of FP8 products against K and promotion interval, through the simulated tensor core.
    Promotion(promotion::Args),
    /// Registers, spills, shared memory and instructions per K block of every configuration, against a bar.
    Static(statics::Args),
    /// Milliseconds to PTX and to a cubin, by stage, beside Triton on the same machine.
    CompileTime(compile_time::Args),
    /// Predicted times of the benchmark's products, beside published and measured ones.
    Predict(predict::Args),
    /// Rows that grouped products compute in vain, beside groups padded to 128 rows.
    Waste(waste::Args),
    /// Writes a bundle of candidates to measure on a GPU, and the tuning database from what was measured.
    Tune(Box<tune::Args>),
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    match &args.tool {
        Tool::Promotion(args) => promotion::run(args),
        Tool::Static(args) => statics::run(args),
        Tool::CompileTime(args) => compile_time::run(args),
        Tool::Predict(args) => predict::run(args),
        Tool::Waste(args) => waste::run(args),
        Tool::Tune(args) => tune::run(args),
    }
}
