//! `mccrt place`: where redundant experts lie, by the load that was counted.

use mcc_place::cli::PlaceFlags;

use crate::{Failure, print_line};

/// Flags of `mccrt place`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    flags: PlaceFlags,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    print_line(args.flags.run()?.trim_end());
    Ok(())
}
