//! `mcc place`: where redundant experts lie, by the load that was counted.

use mcc_place::cli::PlaceFlags;

use super::print_line;
use crate::error::Error;

/// Flags of `mcc place`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    flags: PlaceFlags,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    print_line(args.flags.run()?.trim_end());
    Ok(())
}
