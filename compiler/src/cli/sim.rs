//! `mcc sim`: one kernel of any compiler on the simulated device.

use mcc_sim_run::cli::{EXIT_CODES, SimFlags};

use super::print_line;
use crate::error::Error;

/// Flags of `mcc sim`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    flags: SimFlags,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let answer = args.flags.run()?;
    print_line(answer.text.trim_end());
    if answer.passed {
        Ok(())
    } else {
        Err(Error::SimulatedKernel)
    }
}
