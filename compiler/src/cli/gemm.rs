//! `mcc gemm`: tools that show how good the generated GEMMs are; one file a subcommand.

mod promotion;
mod statics;

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
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    match &args.tool {
        Tool::Promotion(args) => promotion::run(args),
        Tool::Static(args) => statics::run(args),
    }
}
