//! `mcc sim`: one kernel of any compiler on the simulated device.

use mcc_sim_run::cli::SimFlags;

use super::print_line;
use crate::error::Error;

/// Flags of `mcc sim`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 fine; 1 a finding, a result that depends on the schedule, or one that is not as \
                  expected; 2 the PTX or the launch file has a mistake, or cannot be read."
)]
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
