//! `mcc gemm`: tools that show how good the generated GEMMs are; one file a subcommand.

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
    /// Registers, spills, shared memory and instructions per K block of every configuration, against a bar.
    Static(statics::Args),
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    match &args.tool {
        Tool::Static(args) => statics::run(args),
    }
}
